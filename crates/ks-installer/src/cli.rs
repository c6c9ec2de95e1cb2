//! The command line.

pub(crate) mod access;
pub(crate) mod backup;
pub(crate) mod components;
pub(crate) mod install;
pub(crate) mod rollback;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use cluster::store::Location;
use object::drift::DriftPolicy;

use self::{
    access::AccessArgs,
    backup::{BackupArgs, EncryptArgs},
    components::{ComponentsArgs, DisableArgs, EnableArgs, ImagesArgs},
    install::InstallArgs,
    rollback::RollbackArgs,
};

/// Upgrades KubeSphere, or installs it, on a Kubernetes cluster that somebody else set up.
///
/// It previews, rehearses on a copy, backs up, says who loses which permission, and goes on where it was cut.
#[derive(Debug, Parser)]
#[command(
    name = "ks-installer",
    version,
    propagate_version = true,
    after_help = "Exit status: 0 done; 1 the cluster or the upgrade says no (blockers, failed verification); \
                  2 the command could not run."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Kubeconfig file; by default $KUBECONFIG, then ~/.kube/config, then the pod's service account
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig; by default the current one
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,
    /// What is printed on standard output
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Output"
    )]
    pub output: Format,
    /// Log more to standard error (-vv: every request)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    #[value(alias = "table")]
    Text,
    /// One JSON document
    Json,
    /// A table for spreadsheets (access impact)
    Csv,
    /// A page for a browser (access impact)
    Html,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show an upgrade from beginning to end in the built-in sandbox; needs no cluster
    Demo(DemoArgs),
    /// Check whether the cluster can be upgraded; only reads
    Preflight(DecideArgs),
    /// Show what an upgrade would change, and who would lose which permission; only reads
    Plan(PlanArgs),
    /// Show who may do what, and whose permissions an upgrade changes; only reads
    Access(AccessArgs),
    /// Carry the same upgrade out on a copy of the cluster in the sandbox; the cluster is only read
    Rehearse(RehearseArgs),
    /// Serve a copy of a cluster, or an empty one, as a Kubernetes API on loopback until interrupted
    Sandbox(SandboxArgs),
    /// Install KubeSphere on a cluster that has none, and verify
    Install(InstallArgs),
    /// Back up, upgrade and verify
    Upgrade(UpgradeArgs),
    /// Go back to what was there before an upgrade; keeps what people changed since
    Rollback(RollbackArgs),
    /// Show KubeSphere's version, its health and what an upgrade would find; only reads
    Status(StatusArgs),
    /// List the components of the release: which run, what the others would bring and take; only reads
    Components(ComponentsArgs),
    /// Enable components in the ClusterConfiguration, back up, install them and verify
    Enable(EnableArgs),
    /// Disable components in the ClusterConfiguration, back up and remove them; their data stays
    Disable(DisableArgs),
    /// Print the images that the release runs, one a line; only reads
    Images(ImagesArgs),
    /// Save all that an upgrade may touch to an archive; list, verify and restore such archives
    Backup(BackupArgs),
    /// Run in the cluster: upgrade as the ClusterConfiguration says, and report in its status
    Operator(OperatorArgs),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

impl Command {
    /// Whether it is the one that prints tables.
    pub(crate) fn is_impact(&self) -> bool {
        match self {
            Self::Access(args) => matches!(args.command, access::AccessCommand::Impact(_)),
            _ => false,
        }
    }
}

/// How the operator runs.
#[derive(Clone, Debug, Args)]
pub(crate) struct OperatorArgs {
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub metrics_address: SocketAddr,
    /// What the log on standard output is for
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Longest wait for one rollout, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub wait: u64,
    /// Longest wait for KubeSphere's controllers to bring new built-in roles into workspaces and projects, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    pub wait_controllers: u64,
}

/// Whom a log is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON document a line
    Json,
}

/// What is decided, and how.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DecideArgs {
    /// Release to upgrade to; by default the newest that this installer has
    #[arg(long, value_name = "VERSION")]
    pub to: Option<String>,
    /// What becomes of fields that were changed by hand; by default images, commands and arguments of containers are
    /// put back, and everything else stays. What the release changes it sets in any case, but for replicas and resources
    #[arg(long, value_enum)]
    pub drift: Option<DriftArg>,
    /// Go on on a Kubernetes version that the release does not support
    #[arg(long)]
    pub allow_unsupported_kubernetes: bool,
    /// Only take revoked permissions out of custom roles; do not bring their other templates' rules up to date
    #[arg(long)]
    pub no_refresh_templates: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DriftArg {
    /// They stay as they are
    Keep,
    /// The release's values are put back
    Overwrite,
    /// Each is asked about, on a terminal (plan and upgrade)
    Ask,
}

impl DriftArg {
    pub(crate) fn policy(self) -> DriftPolicy {
        match self {
            Self::Keep => DriftPolicy::Keep,
            Self::Overwrite => DriftPolicy::Overwrite,
            Self::Ask => DriftPolicy::ByField,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub decide: DecideArgs,
    /// Save the plan; `upgrade --plan FILE` runs exactly that
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Show every field that changes
    #[arg(long)]
    pub details: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub decide: DecideArgs,
    /// Follow the run that is under way, the operator's or that of a command elsewhere, until it ends
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    pub decide: DecideArgs,
    /// Run this saved plan, with what was chosen when it was made, and nothing else
    #[arg(long, value_name = "FILE", conflicts_with_all = ["drift", "no_refresh_templates"])]
    pub plan: Option<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Where to keep the backup: a path, secret://kubesphere-system/ID, s3://bucket/path, …; by default a new file in
    /// the current directory
    #[arg(long, value_name = "LOCATION")]
    pub backup: Option<Location>,
    /// Go back to the backup when the upgrade fails; the exit status is 1 all the same
    #[arg(long)]
    pub rollback_on_failure: bool,
    /// Longest wait for one rollout, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub wait: u64,
    /// Longest wait for KubeSphere's controllers to bring the new built-in roles into workspaces and projects, in
    /// seconds; after that it is a warning
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub wait_controllers: u64,
    #[command(flatten)]
    pub encrypt: EncryptArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RehearseArgs {
    #[command(flatten)]
    pub decide: DecideArgs,
    /// Read the copy from a file (one JSON object a line, also compressed with zstd, or a List from `kubectl get -o
    /// json`) instead of from the cluster; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Kubernetes version of the copy; by default the nodes' highest kubelet version
    #[arg(long, value_name = "VERSION", value_parser = played_version)]
    pub kubernetes_version: Option<String>,
    /// What does not work in the copy: a YAML file with lists `images`, `pods`, `claims` and `services` of patterns
    #[arg(long, value_name = "FILE")]
    pub troubles: Option<PathBuf>,
    /// Write the state after the upgrade to a file, one JSON object a line (compressed when it ends in .zst). It holds
    /// the cluster's secrets
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Show every field that changes
    #[arg(long)]
    pub details: bool,
}

/// What the served sandbox holds, and where.
#[derive(Debug, Args)]
pub(crate) struct SandboxArgs {
    /// Begin with the objects of a file (one JSON object a line, also compressed with zstd, or a List from `kubectl get -o
    /// json`); `-` is standard input. Without this and --live the cluster is empty
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    pub from: Option<PathBuf>,
    /// Begin with a copy of the cluster, which is only read
    #[arg(long)]
    pub live: bool,
    /// Kubernetes version that is played; by default the nodes' highest kubelet version, v1.20.2 for an empty cluster
    #[arg(long, value_name = "VERSION", value_parser = played_version)]
    pub kubernetes_version: Option<String>,
    /// Port on loopback; 0 for any that is free
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// Listen on this address instead of loopback: whoever gets the token may do everything in the sandbox
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub address: std::net::IpAddr,
    /// How long a new pod takes until its containers run
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    pub pod_start: u64,
    /// What does not work in the cluster: a YAML file with lists `images`, `pods`, `claims` and `services` of patterns
    #[arg(long, value_name = "FILE")]
    pub troubles: Option<PathBuf>,
    /// When interrupted, write the state to a file, one JSON object a line (compressed when it ends in .zst). It holds
    /// the cluster's secrets
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
}

/// `v1.21.5`, `1.21`, `v1.21.5-eks-1`
fn kubernetes_version(text: &str) -> Result<String, String> {
    match upgrade::preflight::LooseVersion::parse(text) {
        Some(version) => Ok(format!("{}{}", version.base, version.suffix)),
        None => Err("not a version such as v1.21.5".to_owned()),
    }
}

/// One of those that a sandbox can play.
fn played_version(text: &str) -> Result<String, String> {
    let version = kubernetes_version(text)?;
    match sandbox::Config::check_version(&version) {
        Ok(()) => Ok(version),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Afterwards keep the sandbox's API up on loopback and print a kubeconfig for kubectl
    #[arg(long)]
    pub serve: bool,
    /// Where the backup and the saved plan go; by default a folder for temporary files
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
}

impl DecideArgs {
    /// Whether what becomes of drift is to be asked for.
    pub(crate) fn asks_about_drift(&self) -> bool {
        self.drift == Some(DriftArg::Ask)
    }

    pub(crate) fn options(&self) -> upgrade::Options {
        upgrade::Options {
            delete_data: false,
            target: self.to.clone(),
            drift: self.drift.map(DriftArg::policy).unwrap_or_default(),
            drift_answers: Vec::new(),
            allow_unsupported_kubernetes: self.allow_unsupported_kubernetes,
            refresh_templates: !self.no_refresh_templates,
            install: upgrade::Install::No,
            now: Some(jiff::Timestamp::now().as_second()),
        }
    }
}
