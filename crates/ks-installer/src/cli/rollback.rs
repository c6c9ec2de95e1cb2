//! `rollback`.

use std::path::PathBuf;

use clap::Args;
use cluster::store::Location;

use super::backup::KeyArgs;

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The backup to go back to: a path, secret://kubesphere-system/ID, s3://bucket/path, …; by default the one that
    /// was made before the last upgrade, by the journal in the cluster
    #[arg(long, value_name = "BACKUP")]
    pub to: Option<Location>,
    /// Run this saved plan, and nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "save")]
    pub plan: Option<PathBuf>,
    /// Only show the plan, and save it; `rollback --plan FILE` runs exactly that
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Show every field that changes
    #[arg(long)]
    pub details: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Longest wait for one rollout, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub wait: u64,
    #[command(flatten)]
    pub keys: KeyArgs,
}
