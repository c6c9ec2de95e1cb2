//! Bringing objects back from a backup.
//!
//! ```text
//!   Backup ─┐
//!   cluster ┴▶ plan ─▶ Restore { steps, left } ─▶ shown, confirmed ─▶ run ─▶ Summary
//! ```
//!
//! What is there is brought back in place, under the resource version that was looked at; what is gone is created again.
//! Nothing is ever deleted, and what is not in the backup is not touched.

mod decide;
mod run;

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use object::{Object, ObjectKey, diff::Change};
use serde::Serialize;
use serde_json::Value;

pub use self::{
    decide::decide,
    run::{Summary, run},
};
use crate::{
    Cluster, ReadError, Scope,
    archive::{ArchiveError, Meta},
    discovery::CONCURRENCY,
    store::Backup,
};

/// Which objects of a backup; an empty list stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// `Role`, or with its group `Role.rbac.authorization.k8s.io`; in any case.
    pub kinds: Vec<String>,
    pub namespaces: Vec<String>,
    pub names: Vec<String>,
}

impl Selection {
    pub fn holds(&self, key: &ObjectKey) -> bool {
        let any =
            |list: &[String], is: &dyn Fn(&str) -> bool| list.is_empty() || list.iter().any(|item| is(item));
        let full = format!("{}.{}", key.kind, key.group);
        any(&self.kinds, &|kind| {
            kind.eq_ignore_ascii_case(&key.kind) || kind.eq_ignore_ascii_case(&full)
        }) && any(&self.namespaces, &|namespace| {
            key.namespace.as_deref() == Some(namespace)
        }) && any(&self.names, &|name| key.name == name)
    }
}

/// What a restore will do, in order.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Restore {
    pub steps: Vec<Step>,
    /// What is not brought back, and why.
    pub left: Vec<Left>,
    /// Objects that are as they were.
    pub unchanged: usize,
}

/// One object that is brought back.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub object: ObjectKey,
    pub action: Action,
    /// What becomes different, with secrets left out; empty for what is created.
    pub changes: Vec<Change>,
    /// What others did to it since the backup was made, which is undone.
    pub conflicts: Vec<String>,
    /// What is not as it was.
    pub notes: Vec<String>,
    #[serde(skip)]
    write: Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Create,
    Change,
}

/// What is sent. It may be a Secret, so it is never shown.
#[derive(Clone)]
struct Write {
    stage: u8,
    body: Value,
    /// The status, where it is a resource of its own.
    status: Option<Value>,
    /// The object as it was when this was decided.
    live: Option<Object>,
    /// References to owners that are created in the same restore.
    owners: Vec<Value>,
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Write(..)")
    }
}

/// One object that is not brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    pub object: ObjectKey,
    pub reason: String,
}

/// Why nothing can be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(
        "the backup is of another cluster: its kube-system namespace has UID {backup}, and that of this cluster {here}"
    )]
    OtherCluster { backup: String, here: String },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    ReadCluster(#[from] ReadError),
    #[error("the CustomResourceDefinition {0} was written and is still not served")]
    NotServed(String),
}

impl RestoreError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OtherCluster { .. } => Some(
                "check --context; to write it to this cluster all the same, add --other-cluster".to_owned(),
            ),
            Self::Archive(error) => error.hint(),
            Self::ReadCluster(error) => error.hint(),
            Self::NotServed(_) => Some("look at its conditions, then run the command again".to_owned()),
        }
    }
}

/// Refuses what is of another cluster.
///
/// # Errors
/// The backup is of another cluster.
pub fn check_cluster(meta: &Meta, here: &str) -> Result<(), RestoreError> {
    if meta.cluster.is_empty() || meta.cluster != here {
        return Err(RestoreError::OtherCluster {
            backup: meta.cluster.clone(),
            here: here.to_owned(),
        });
    }
    Ok(())
}

/// Compares a backup with the cluster. Only reads.
///
/// # Errors
/// The backup is of another cluster and `other_cluster` does not allow that, or one of the two cannot be read.
pub async fn plan(
    cluster: &Cluster,
    backup: &Backup,
    selection: &Selection,
    other_cluster: bool,
) -> Result<Restore, RestoreError> {
    let snapshot = cluster.snapshot(&Scope::upgrade()).await?;
    if !other_cluster {
        check_cluster(
            &backup.contents.index.meta,
            snapshot.cluster_id().unwrap_or_default(),
        )?;
    }
    let objects = backup.objects()?;
    let mut live = snapshot.objects;
    // What the snapshot has not, or has in another version.
    let rest: Vec<&Object> = objects
        .values()
        .filter(|object| {
            let key = object.key();
            let there = live.get(&key);
            selection.holds(&key) && there.is_none_or(|there| there.api_version() != object.api_version())
        })
        .collect();
    let read: Vec<Option<Object>> = stream::iter(rest)
        .map(|object| async move { cluster.get_in(&object.key(), object.version()).await })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    live.extend(read.into_iter().flatten().map(|object| (object.key(), object)));
    Ok(decide(
        &objects,
        &live,
        selection,
        backup.contents.index.meta.created,
    ))
}

/// An object as a backup compares it: what was declared, and the status where it is a plain field.
type Objects = BTreeMap<ObjectKey, Object>;
