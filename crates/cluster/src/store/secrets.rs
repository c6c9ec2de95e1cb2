//! Backups as Secrets of the cluster itself.
//!
//! A Secret holds at most 1 MiB, so an archive is cut into chunks, `ks-installer-backup-ID-1`, `-2`, …; the Secret
//! `ks-installer-backup-ID-0` is their index: how many there are, and the SHA-256 of each. It is written last, so that
//! what was cut off while it was written is no backup. The Secrets have no owner: nothing that is deleted takes them
//! along.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, Write as _},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use object::{Object, ObjectKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{BEGINNING, Listed, Location, StoreError, describe, io_error};
use crate::{
    Cluster, ErrorClass, WriteError,
    archive::{ArchiveError, hex},
    retry::{self, Policy},
};

/// The label whose value is a backup's ID, on each of its Secrets.
pub const LABEL: &str = "ks-installer.kubesphere.io/backup";

/// Bytes a chunk: base64 and the request around it stay below what a Secret and etcd take.
pub const CHUNK: usize = 768 << 10;

/// More would be a burden for etcd.
const LARGEST: u64 = 128 << 20;

const INDEX: &str = "index.json";
const CONTENT: &str = "content";

#[derive(Debug, Deserialize, Serialize)]
struct Index {
    size: u64,
    /// Of the chunks in order; SHA-256, hex.
    chunks: Vec<String>,
}

fn key(namespace: &str, id: &str, number: usize) -> ObjectKey {
    ObjectKey::namespaced(
        "",
        "Secret",
        namespace,
        &format!("ks-installer-backup-{id}-{number}"),
    )
}

fn body(key: &ObjectKey, id: &str, field: &str, content: &[u8]) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "ks-installer.kubesphere.io/backup",
        "immutable": true,
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            "labels": {LABEL: id, "app.kubernetes.io/managed-by": "ks-installer"},
        },
        "data": {field: STANDARD.encode(content)},
    })
}

fn content(secret: &Object, field: &str) -> Option<Vec<u8>> {
    STANDARD.decode(secret.get("/data")?.get(field)?.as_str()?).ok()
}

pub(super) async fn put(
    cluster: &Cluster,
    location: &Location,
    namespace: &str,
    id: &str,
    file: &mut File,
) -> Result<(), StoreError> {
    let io = |source| io_error("read", location, source);
    let size = file.metadata().map_err(io)?.len();
    if size > LARGEST {
        return Err(StoreError::TooLarge {
            name: location.to_string(),
            size: size >> 20,
        });
    }
    // Also one that was never finished is not mixed with another.
    if !cluster
        .list("", "Secret", Some(namespace), Some(&selector(id)))
        .await?
        .is_empty()
    {
        return Err(ArchiveError::Exists {
            name: location.to_string(),
        }
        .into());
    }
    let written = put_all(cluster, location, namespace, id, file, size).await;
    if written.is_err() {
        // What is there of it is no backup, and is in the way of another try.
        if let Err(error) = remove(cluster, namespace, id).await {
            tracing::warn!(%error, "cannot clean up after a backup that failed");
        }
    }
    written
}

async fn put_all(
    cluster: &Cluster,
    location: &Location,
    namespace: &str,
    id: &str,
    file: &mut File,
    size: u64,
) -> Result<(), StoreError> {
    let io = |source| io_error("read", location, source);
    file.rewind().map_err(io)?;
    let mut index = Index {
        size,
        chunks: Vec::new(),
    };
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        file.take(CHUNK as u64).read_to_end(&mut chunk).map_err(io)?;
        if chunk.is_empty() {
            break;
        }
        index.chunks.push(hex(&Sha256::digest(&chunk)));
        let key = key(namespace, id, index.chunks.len());
        create(cluster, &key, id, CONTENT, &chunk).await?;
    }
    let text = serde_json::to_vec(&index).map_err(|error| io(error.into()))?;
    create(cluster, &key(namespace, id, 0), id, INDEX, &text).await?;
    // Read back, as every backup is.
    let mut digest = Sha256::new();
    fetch(cluster, location, namespace, id, |chunk| {
        digest.update(chunk);
        Ok(())
    })
    .await?;
    let whole: [u8; 32] = digest.finalize().into();
    if crate::file::digest(file).map_err(io)? != whole {
        return Err(ArchiveError::Altered {
            name: location.to_string(),
        }
        .into());
    }
    Ok(())
}

async fn create(
    cluster: &Cluster,
    key: &ObjectKey,
    id: &str,
    field: &str,
    content: &[u8],
) -> Result<(), StoreError> {
    let body = body(key, id, field, content);
    let write = || cluster.create(&body);
    match retry::with_backoff(&Policy::WRITE, write, |_: &WriteError, _| {}).await {
        Ok(_) => Ok(()),
        // The answer to an earlier try was lost.
        Err(error) if *error.class() == ErrorClass::AlreadyExists => {
            let there = cluster.get(key).await?;
            if there.and_then(|secret| self::content(&secret, field)).as_deref() == Some(content) {
                Ok(())
            } else {
                Err(error.into())
            }
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn get(
    cluster: &Cluster,
    location: &Location,
    namespace: &str,
    id: &str,
    file: &mut File,
) -> Result<(), StoreError> {
    fetch(cluster, location, namespace, id, |chunk| {
        file.write_all(chunk)
            .map_err(|source| io_error("keep a copy of", location, source))
    })
    .await?;
    file.flush()
        .map_err(|source| io_error("keep a copy of", location, source))
}

/// Reads the chunks in order, and checks each against the index.
async fn fetch(
    cluster: &Cluster,
    location: &Location,
    namespace: &str,
    id: &str,
    mut take: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let damaged = |problem: String| StoreError::Damaged {
        name: location.to_string(),
        problem,
    };
    let index_key = key(namespace, id, 0);
    let Some(secret) = cluster.get(&index_key).await? else {
        return Err(StoreError::NotFound(location.clone()));
    };
    let index: Index = content(&secret, INDEX)
        .and_then(|text| serde_json::from_slice(&text).ok())
        .ok_or_else(|| damaged(format!("the index in {index_key} cannot be read")))?;
    let mut size = 0;
    for (position, digest) in index.chunks.iter().enumerate() {
        let key = key(namespace, id, position + 1);
        let Some(secret) = cluster.get(&key).await? else {
            return Err(damaged(format!("{key} is missing")));
        };
        let chunk = content(&secret, CONTENT).ok_or_else(|| damaged(format!("{key} cannot be read")))?;
        if hex(&Sha256::digest(&chunk)) != *digest {
            return Err(damaged(format!("{key} is not what its index says")));
        }
        size += chunk.len() as u64;
        take(&chunk)?;
    }
    if size != index.size {
        return Err(damaged(format!(
            "it has {size} bytes, and its index says {}",
            index.size
        )));
    }
    Ok(())
}

fn selector(id: &str) -> String {
    format!("{LABEL}={id}")
}

pub(super) async fn list(cluster: &Cluster, namespace: &str) -> Result<Vec<Listed>, StoreError> {
    let mut backups = BTreeMap::<String, Vec<Object>>::new();
    for secret in cluster.list("", "Secret", Some(namespace), Some(LABEL)).await? {
        if let Some(id) = secret.label(LABEL) {
            backups.entry(id.to_owned()).or_default().push(secret);
        }
    }
    Ok(backups
        .into_iter()
        .map(|(id, secrets)| {
            let find = |number| {
                secrets
                    .iter()
                    .find(|s| s.name() == key(namespace, &id, number).name)
            };
            let index = find(0)
                .and_then(|secret| content(secret, INDEX))
                .and_then(|text| serde_json::from_slice::<Index>(&text).ok());
            let mut beginning = find(1)
                .and_then(|secret| content(secret, CONTENT))
                .unwrap_or_default();
            beginning.truncate(BEGINNING);
            let size = match &index {
                Some(index) => index.size,
                None => secrets
                    .iter()
                    .filter_map(|secret| content(secret, CONTENT))
                    .map(|chunk| chunk.len() as u64)
                    .sum(),
            };
            let is_whole = index
                .as_ref()
                .is_some_and(|index| (1..=index.chunks.len()).all(|number| find(number).is_some()));
            let modified = secrets
                .iter()
                .filter_map(|secret| {
                    secret
                        .get_str("/metadata/creationTimestamp")?
                        .parse::<Timestamp>()
                        .ok()
                })
                .max();
            let location = Location::Secret {
                namespace: namespace.to_owned(),
                id: Some(id.clone()),
            };
            describe(location, size, modified, &beginning, !is_whole)
        })
        .collect())
}

pub(super) async fn delete(
    cluster: &Cluster,
    location: &Location,
    namespace: &str,
    id: &str,
) -> Result<(), StoreError> {
    match remove(cluster, namespace, id).await? {
        0 => Err(StoreError::NotFound(location.clone())),
        _ => Ok(()),
    }
}

/// Deletes the Secrets of a backup, the index first: what is left when it is cut off is no backup.
async fn remove(cluster: &Cluster, namespace: &str, id: &str) -> Result<usize, StoreError> {
    let mut secrets = cluster
        .list("", "Secret", Some(namespace), Some(&selector(id)))
        .await?;
    let index = key(namespace, id, 0);
    secrets.sort_by_key(|secret| secret.name() != index.name);
    for secret in &secrets {
        let (key, uid) = (secret.key(), secret.uid().unwrap_or_default());
        let delete = || cluster.delete(&key, uid);
        retry::with_backoff(&Policy::WRITE, delete, |_: &WriteError, _| {}).await?;
    }
    Ok(secrets.len())
}
