//! `install`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Release to install; by default the newest that this installer has
    #[arg(long, value_name = "VERSION")]
    pub to: Option<String>,
    /// ClusterConfiguration with the settings; `-` is standard input. By default that of
    /// deploy/cluster-configuration.yaml, which is built in; one that is in the cluster already counts
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one setting: a path below spec, and a value in YAML, such as common.redis.enabled=true. May be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Only show what would be installed, and what stands in the way
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Go on on a Kubernetes version that the release does not support
    #[arg(long)]
    pub allow_unsupported_kubernetes: bool,
    /// Longest wait for one rollout, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub wait: u64,
    /// Longest wait for KubeSphere's controllers to bring the built-in roles into workspaces and projects, in seconds;
    /// after that it is a warning
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub wait_controllers: u64,
}
