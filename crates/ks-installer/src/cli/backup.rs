//! `backup` and its subcommands.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use cluster::store::Location;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    pub command: Option<BackupCommand>,
    #[command(flatten)]
    pub create: CreateArgs,
}

/// A location is a path, `secret://kubesphere-system/ID` (Secrets in the cluster) or a URL of object storage:
/// `s3://bucket/prefix/name.tar.zst`, also `gs://` and `az://`, with credentials and endpoint from the environment.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Save all that an upgrade may touch (the same as `backup` alone); the cluster is only read
    Create(CreateArgs),
    /// List the backups in a folder, in the cluster's Secrets, or in object storage
    List(ListArgs),
    /// Show what a backup is of and how many objects of which kind are in it, never their contents
    Show(OpenArgs),
    /// Check every byte of a backup
    Verify(OpenArgs),
    /// Bring objects back as they were: shows what differs and what others changed since, asks, and never deletes anything
    Restore(RestoreArgs),
    /// Delete a backup; asks first
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Where to keep it: a path, secret://kubesphere-system/ID, s3://bucket/path, …; a folder, a namespace or a prefix
    /// that ends with a slash gets a new name in it. By default a new file in the current directory
    #[arg(long, alias = "file", value_name = "LOCATION")]
    pub to: Option<Location>,
    #[command(flatten)]
    pub encrypt: EncryptArgs,
}

/// For whom a backup is encrypted.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct EncryptArgs {
    /// Encrypt the backup for the holder of this age key (age1…); can be given several times
    #[arg(long, value_name = "KEY", conflicts_with_all = ["passphrase", "passphrase_file"])]
    pub recipient: Vec<String>,
    /// Encrypt the backup with a passphrase, which is asked for
    #[arg(long, conflicts_with = "passphrase_file")]
    pub passphrase: bool,
    /// Encrypt the backup with the passphrase on the first line of this file
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl EncryptArgs {
    pub(crate) fn is_asked_for(&self) -> bool {
        self.passphrase || self.passphrase_file.is_some() || !self.recipient.is_empty()
    }
}

/// What an encrypted backup is opened with.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct KeyArgs {
    /// File with age identities (AGE-SECRET-KEY-1…); can be given several times
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    /// File with the passphrase on its first line; without it the passphrase is asked for
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Where to look: a folder, secret://kubesphere-system, s3://bucket/prefix/, …
    #[arg(long, value_name = "LOCATION", default_value = ".")]
    pub from: Location,
}

#[derive(Debug, Args)]
pub(crate) struct OpenArgs {
    /// The backup: a path, secret://kubesphere-system/ID, s3://bucket/path, …
    pub location: Location,
    #[command(flatten)]
    pub keys: KeyArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub open: OpenArgs,
    /// Only objects of this kind (Role, or Role.rbac.authorization.k8s.io); can be given several times
    #[arg(long, value_name = "KIND")]
    pub kind: Vec<String>,
    /// Only objects in this namespace (which comes along when it is gone); can be given several times
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Vec<String>,
    /// Only objects of this name; can be given several times
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// Only show what would be written
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Restore a backup of another cluster
    #[arg(long)]
    pub other_cluster: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The backup: a path, secret://kubesphere-system/ID, s3://bucket/path, …
    pub location: Location,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}
