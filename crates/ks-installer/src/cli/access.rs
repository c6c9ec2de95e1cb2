//! Arguments of `access`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct AccessArgs {
    #[command(subcommand)]
    pub command: AccessCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// Show who would lose and gain which permission by an upgrade, and what needs a decision
    Impact(ImpactArgs),
    /// Say whether somebody may do something, and why
    Check(CheckArgs),
    /// List users and groups who may do something, and through which binding and role
    WhoCan(WhoCanArgs),
    /// Show everything that a user holds, by scope, with the role that gives it
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Read the cluster's objects from a file (one JSON object a line, also compressed with zstd, or a List from `kubectl
    /// get -o json`) instead of from the cluster; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ImpactArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Release to upgrade to; by default the newest that this installer has
    #[arg(long, value_name = "VERSION")]
    pub to: Option<String>,
    /// Version that the cluster has, where its objects do not say
    #[arg(long, value_name = "VERSION")]
    pub installed: Option<String>,
    /// Only take revoked permissions out of custom roles; do not bring their other templates' rules up to date
    #[arg(long)]
    pub no_refresh_templates: bool,
    /// Print the YAML of bindings that would give back workspace and user management to those who lose it, for somebody to
    /// look at; nothing is applied
    #[arg(long)]
    pub suggest: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Answer questions from standard input, one JSON object a line, each with one JSON object on a line, in the same order
    #[arg(long, conflicts_with_all = ["user", "group", "verb", "resource", "path", "name", "kubernetes_request"])]
    pub batch: bool,
    /// Who asks; a service account is system:serviceaccount:NAMESPACE:NAME
    #[arg(long = "as", value_name = "USER", required_unless_present = "batch")]
    pub user: Option<String>,
    /// A group that the user is in, besides those of the cluster's GroupBindings
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    #[arg(long, value_name = "VERB", required_unless_present = "batch")]
    pub verb: Option<String>,
    /// RESOURCE, RESOURCE/SUBRESOURCE, RESOURCE.GROUP or RESOURCE/SUBRESOURCE.GROUP
    #[arg(long, value_name = "RESOURCE", required_unless_present_any = ["batch", "path"])]
    pub resource: Option<String>,
    /// A request that is about no resource, such as /healthz
    #[arg(long, value_name = "PATH", conflicts_with = "resource")]
    pub path: Option<String>,
    /// Name of the object
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Whether the request goes to Kubernetes' API (/api, /apis) or to KubeSphere's own (/kapis); Rego policies may ask
    #[arg(long, value_name = "BOOL")]
    pub kubernetes_request: Option<bool>,
    #[command(flatten)]
    pub scope: ScopeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WhoCanArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[arg(value_name = "VERB")]
    pub verb: String,
    /// RESOURCE, RESOURCE/SUBRESOURCE, RESOURCE.GROUP or RESOURCE/SUBRESOURCE.GROUP
    #[arg(value_name = "RESOURCE")]
    pub resource: String,
    /// Name of the object
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub scope: ScopeArgs,
}

/// Where; by default on the platform as a whole.
#[derive(Debug, Default, Args)]
pub(crate) struct ScopeArgs {
    /// In a workspace
    #[arg(long, value_name = "WORKSPACE", help_heading = "Scope", group = "place")]
    pub workspace: Option<String>,
    /// In a namespace, which a project is
    #[arg(long, value_name = "NAMESPACE", help_heading = "Scope", group = "place")]
    pub namespace: Option<String>,
    /// In a DevOps project
    #[arg(long, value_name = "PROJECT", help_heading = "Scope", group = "place")]
    pub devops: Option<String>,
    /// On the cluster
    #[arg(long, help_heading = "Scope", group = "place")]
    pub cluster: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[arg(value_name = "USER")]
    pub user: String,
}
