//! `components`, `images`, `enable` and `disable`.

use std::path::PathBuf;

use clap::Args;
use cluster::store::Location;

use super::{DriftArg, backup::EncryptArgs, kubernetes_version};

#[derive(Debug, Args)]
pub(crate) struct ComponentsArgs {
    /// Show these in full; all in short where none is named
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Those of the components that the settings enable; the default
    #[arg(long, conflicts_with = "all")]
    pub enabled: bool,
    /// Those of all components, with all that can be switched on. Without a cluster, with the default settings
    #[arg(long)]
    pub all: bool,
    /// ClusterConfiguration to go by, whatever is in the cluster, which is not read then; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Kubernetes version that images must suit, where no cluster is read; by default the newest that the release supports
    #[arg(long, value_name = "VERSION", value_parser = kubernetes_version)]
    pub kubernetes: Option<String>,
    /// Ask the registries, without logging in, which platforms each image is for. It fails where an image is not there
    #[arg(long)]
    pub platforms: bool,
    /// Registry that is asked over HTTP instead of HTTPS, such as registry.local:5000. May be repeated
    #[arg(long, value_name = "HOST", requires = "platforms")]
    pub plain_http: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EnableArgs {
    /// Components to enable, as ks-installer components lists them
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Set one setting besides: a path below spec, and a value in YAML, such as common.es.logMaxAge=3. May be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DisableArgs {
    /// Components to disable
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Delete their data, too, for good: volumes, and what people made of their kinds. Without it that stays, and is found
    /// again when they are enabled
    #[arg(long)]
    pub delete_data: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// How the change is carried out.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Only show what would be done, and what stands in the way
    #[arg(long)]
    pub dry_run: bool,
    /// Show every field that changes
    #[arg(long)]
    pub details: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// What becomes of fields that were changed by hand; by default they stay
    #[arg(long, value_enum)]
    pub drift: Option<DriftArg>,
    /// Go on on a Kubernetes version that the release does not support
    #[arg(long)]
    pub allow_unsupported_kubernetes: bool,
    /// Where to keep the backup: a path, secret://kubesphere-system/ID, s3://bucket/path, …; by default a new file in
    /// the current directory
    #[arg(long, value_name = "LOCATION")]
    pub backup: Option<Location>,
    /// Longest wait for one rollout, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub wait: u64,
    /// Longest wait for KubeSphere's controllers to bring built-in roles into workspaces and projects, in seconds; after
    /// that it is a warning
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub wait_controllers: u64,
    #[command(flatten)]
    pub encrypt: EncryptArgs,
}
