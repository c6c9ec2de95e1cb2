//! A backup: objects in one file that proves that it is whole.
//!
//! ```text
//!   zstd( tar( backup.json · plan.json · objects/GROUP/KIND/NAMESPACE/NAME.json … · index.json ) ) · seal
//! ```
//!
//! The first member says what it is a backup of; the index at the end holds the SHA-256 of every member, so that an
//! archive is written in one go and nothing but the index is kept in memory. The seal is a zstd frame that other tools
//! skip (`tar --zstd -tf` works); it holds the SHA-256 of all bytes before it, so that no byte of the file can change
//! unnoticed. A file is checked against its seal before a single object of it is used. An encrypted archive is all of
//! this, encrypted by [age](https://age-encryption.org).

mod read;
mod write;

use std::{fmt::Write as _, io};

use jiff::Timestamp;
use object::ObjectKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    read::{peek, read, verify},
    write::write,
};
pub(crate) use self::{
    read::{read_file, verify_file},
    write::{Writer, begin_file, end_file},
};

/// The version of the form. A file of another one is refused.
pub const FORMAT: u32 = 2;

/// What a backup of objects cannot hold.
pub const NOT_INCLUDED: [&str; 2] = [
    "contents of persistent volumes",
    "databases (OpenLDAP, Redis, MySQL, etcd), registries and object stores",
];

const META: &str = "backup.json";
const PLAN: &str = "plan.json";
const INDEX: &str = "index.json";
/// A skippable frame (RFC 8878, 3.1.2) of 32 bytes.
const SEAL: [u8; 8] = [0x5e, 0x2a, 0x4d, 0x18, 32, 0, 0, 0];
const SEAL_LENGTH: u64 = 40;

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Version of the installer that made it.
    pub tool: String,
    pub created: Timestamp,
    /// UID of namespace kube-system.
    pub cluster: String,
    pub kubernetes: String,
    /// KubeSphere's version when it was made.
    pub from: String,
    /// KubeSphere's version that the upgrade behind it leads to; empty when there is none behind it.
    pub to: String,
}

/// The first member of the archive.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    format: u32,
    #[serde(flatten)]
    meta: Meta,
}

/// The last member of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub format: u32,
    #[serde(flatten)]
    pub meta: Meta,
    pub count: usize,
    /// What a backup of objects cannot hold.
    pub not_included: Vec<String>,
    /// SHA-256 of plan.json, hex.
    pub plan: String,
    /// In the order in which they stand in the archive.
    pub objects: Vec<Entry>,
}

/// One object of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub path: String,
    /// Hex.
    pub sha256: String,
}

impl Entry {
    /// `Deployment.apps`, `Secret`
    pub fn kind(&self) -> String {
        let mut parts = self.path.split('/').skip(1);
        match (parts.next(), parts.next()) {
            (Some("core"), Some(kind)) => kind.to_owned(),
            (Some(group), Some(kind)) => format!("{kind}.{group}"),
            _ => self.path.clone(),
        }
    }
}

/// What an archive says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    pub index: Index,
    pub plan: Value,
}

/// Why an archive cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot {verb} {name}: {source}")]
    Io {
        verb: &'static str,
        name: String,
        source: io::Error,
    },
    #[error("{name} exists already")]
    Exists { name: String },
    #[error("{name} is no backup, or is cut off: its seal is missing")]
    NoSeal { name: String },
    #[error("{name} was altered or cut off after it was written: its contents do not match its seal")]
    Altered { name: String },
    #[error("{name} has format {format}; this version reads format {FORMAT}")]
    Format { name: String, format: u32 },
    #[error("{name} is damaged: {problem}")]
    Damaged { name: String, problem: String },
    #[error("{name} is encrypted{}, and no key was given", if *.passphrase { " with a passphrase" } else { "" })]
    Locked { name: String, passphrase: bool },
    #[error("{name} is encrypted for somebody else: none of the given keys opens it")]
    OtherKey { name: String },
    #[error("{0} would be in the backup twice")]
    Twice(ObjectKey),
}

impl ArchiveError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                    "make room, or choose another place"
                }
                Self::Io { .. } | Self::Twice(_) => return None,
                Self::Exists { .. } => "choose another name; a backup is never overwritten",
                Self::NoSeal { .. } | Self::Altered { .. } | Self::Damaged { .. } => {
                    "use another copy of this backup, or another backup"
                }
                Self::Format { .. } => "use the version of ks-installer that made it",
                Self::Locked { passphrase: true, .. } => "give the passphrase with --passphrase-file FILE",
                Self::Locked {
                    passphrase: false, ..
                } => "give the key of one of its recipients with --identity FILE",
                Self::OtherKey { .. } => "ask whoever made it for whom it is encrypted",
            }
            .to_owned(),
        )
    }
}

/// Where an object stands in an archive.
pub fn member(key: &ObjectKey) -> String {
    let group = if key.group.is_empty() { "core" } else { &key.group };
    let namespace = key.namespace.as_deref().unwrap_or("_cluster");
    let mut path = "objects".to_owned();
    for part in [group, &key.kind, namespace] {
        path.push('/');
        escape(part, &mut path);
    }
    path.push('/');
    escape(&key.name, &mut path);
    path.push_str(".json");
    path
}

/// Escapes what file names cannot hold everywhere.
fn escape(text: &str, path: &mut String) {
    let hidden = text.starts_with('.');
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'.' if hidden && index == 0 => path.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => path.push(byte.into()),
            _ => {
                let _ = write!(path, "%{byte:02X}");
            }
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests;
