//! Where backups are kept.
//!
//! ```text
//!   objects ─▶ archive ─▶ save ─▶ file · Secrets · object storage ─▶ open ─▶ Backup, verified
//! ```
//!
//! Whatever the store, what is kept is one [archive](crate::archive), which proves by itself that it is whole. What is
//! kept elsewhere than in a file goes through a file without a name, so that memory stays bounded.

mod file;
mod location;
mod objects;
mod secrets;

use std::{borrow::Borrow, collections::BTreeMap, fs::File, io};

use jiff::Timestamp;
use object::{Object, ObjectKey};
use serde::Serialize;
use serde_json::Value;
use upgrade::Unreadable;

pub use self::{
    location::{Location, LocationError, NAMESPACE},
    secrets::{CHUNK, LABEL},
};
use crate::{
    Cluster, ReadError, Scope, WriteError,
    archive::{self, ArchiveError, Contents, Meta, Writer},
    encryption::{Encryption, Keys},
};

/// Why a backup cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    ReadCluster(#[from] ReadError),
    #[error(transparent)]
    WriteCluster(Box<WriteError>),
    #[error("cannot {verb} {name}: {problem}")]
    Storage {
        verb: &'static str,
        name: String,
        problem: String,
    },
    #[error("there is no backup at {0}")]
    NotFound(Location),
    #[error("{0} holds backups, and is none itself")]
    Place(Location),
    #[error("{0} is in the cluster, and no cluster is connected")]
    NoCluster(Location),
    #[error("{name} is damaged: {problem}")]
    Damaged { name: String, problem: String },
    #[error("{name} would take {size} MiB, which is too much for Secrets")]
    TooLarge { name: String, size: u64 },
}

impl From<WriteError> for StoreError {
    fn from(error: WriteError) -> Self {
        Self::WriteCluster(Box::new(error))
    }
}

impl StoreError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Archive(error) => return error.hint(),
            Self::ReadCluster(error) => return error.hint(),
            Self::WriteCluster(error) => return error.hint(),
            Self::Storage { .. } => {
                "credentials and endpoint are taken from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT (without TLS: AWS_ALLOW_HTTP=true), …"
            }
            Self::NotFound(_) | Self::Place(_) => {
                "see which there are with: ks-installer backup list --from LOCATION"
            }
            Self::NoCluster(_) => return None,
            Self::Damaged { .. } => "use another copy of this backup, or another backup",
            Self::TooLarge { .. } => "keep it in a file or in object storage",
        };
        Some(hint.to_owned())
    }
}

/// A backup that was verified, every byte of it.
#[derive(Debug)]
pub struct Backup {
    pub contents: Contents,
    name: String,
    file: File,
    keys: Keys,
}

impl Backup {
    /// Reads the objects, in the order in which they stand in the archive. Only one is in memory at a time.
    ///
    /// # Errors
    /// The archive has changed since it was opened.
    pub fn visit(&self, visit: impl FnMut(Object)) -> Result<(), ArchiveError> {
        archive::read_file(&self.name, &self.file, &self.keys, visit).map(drop)
    }

    /// All objects.
    ///
    /// # Errors
    /// The archive has changed since it was opened.
    pub fn objects(&self) -> Result<BTreeMap<ObjectKey, Object>, ArchiveError> {
        let mut objects = BTreeMap::new();
        self.visit(|object| {
            objects.insert(object.key(), object);
        })?;
        Ok(objects)
    }
}

/// One backup in a place. Nothing of it is proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    #[serde(serialize_with = "as_text")]
    pub location: Location,
    /// In bytes.
    pub size: u64,
    pub modified: Option<Timestamp>,
    pub is_encrypted: bool,
    /// What it says that it is; `None` when it is encrypted, or of another format.
    pub meta: Option<Meta>,
    /// It was never finished, or a part of it is gone.
    pub is_incomplete: bool,
}

fn as_text<S: serde::Serializer>(location: &Location, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(location)
}

/// How much of a backup's beginning tells what it is.
const BEGINNING: usize = 16 << 10;

/// Whether a file of that name may be a backup.
fn is_named_so(name: &str) -> bool {
    name.ends_with(".tar.zst") || name.ends_with(".tar.zst.age")
}

fn describe(
    location: Location,
    size: u64,
    modified: Option<Timestamp>,
    beginning: &[u8],
    is_incomplete: bool,
) -> Listed {
    Listed {
        location,
        size,
        modified,
        is_encrypted: crate::encryption::is_encrypted(beginning),
        meta: archive::peek(beginning),
        is_incomplete,
    }
}

fn need<'a>(cluster: Option<&'a Cluster>, location: &Location) -> Result<&'a Cluster, StoreError> {
    cluster.ok_or_else(|| StoreError::NoCluster(location.clone()))
}

fn refuse_place(location: &Location) -> Result<(), StoreError> {
    if location.is_place() {
        return Err(StoreError::Place(location.clone()));
    }
    Ok(())
}

fn storage(verb: &'static str, location: &Location, problem: impl ToString) -> StoreError {
    StoreError::Storage {
        verb,
        name: location.to_string(),
        problem: problem.to_string(),
    }
}

/// A file without a name, which is gone when it is closed. Its mode is 0600.
fn nameless(location: &Location) -> Result<File, StoreError> {
    tempfile::tempfile().map_err(|source| io_error("keep a copy of", location, source))
}

fn io_error(verb: &'static str, location: &Location, source: io::Error) -> StoreError {
    ArchiveError::Io {
        verb,
        name: location.to_string(),
        source,
    }
    .into()
}

/// Whether an object is part of a backup that is kept as Secrets. Such are not backed up again.
pub(crate) fn is_part(object: &Object) -> bool {
    object.kind() == "Secret" && object.group().is_empty() && object.label(LABEL).is_some()
}

/// Writes a backup and reads it back. `location` must not be a [place](Location::is_place); `cluster` is only needed
/// for Secrets.
///
/// # Errors
/// What is there already is not touched, and nothing unfinished is taken for a backup later.
pub async fn save<O: Borrow<Object>>(
    cluster: Option<&Cluster>,
    location: &Location,
    objects: impl IntoIterator<Item = O>,
    plan: &Value,
    meta: Meta,
    encryption: &Encryption,
) -> Result<Contents, StoreError> {
    let fill = async |writer: &mut Writer<'_>| {
        for object in objects {
            let object = object.borrow();
            if !is_part(object) {
                writer.push(object)?;
            }
        }
        Ok(())
    };
    let (contents, ()) = save_filled(cluster, location, plan, meta, encryption, fill).await?;
    Ok(contents)
}

/// Writes a backup of what is in scope, straight from the cluster: of a hundred thousand objects some pages are in memory
/// at a time. Every page is of one moment, the pages are not. Returns also what could not be read.
///
/// # Errors
/// As those of [`save`]; or the cluster cannot be read at all.
pub async fn save_scope(
    cluster: &Cluster,
    location: &Location,
    scope: &Scope,
    meta: Meta,
    encryption: &Encryption,
) -> Result<(Contents, Vec<Unreadable>), StoreError> {
    let fill = async |writer: &mut Writer<'_>| {
        let take = |object: Object| {
            // What comes again, since a list was begun anew, is there already.
            if !is_part(&object) {
                writer.push_new(&object)?;
            }
            Ok(())
        };
        cluster.visit::<StoreError>(scope, take).await
    };
    save_filled(Some(cluster), location, &Value::Null, meta, encryption, fill).await
}

async fn save_filled<T>(
    cluster: Option<&Cluster>,
    location: &Location,
    plan: &Value,
    meta: Meta,
    encryption: &Encryption,
    fill: impl AsyncFnOnce(&mut Writer<'_>) -> Result<T, StoreError>,
) -> Result<(Contents, T), StoreError> {
    refuse_place(location)?;
    let name = location.to_string();
    if let Location::File(path) = location {
        let mut file = archive::begin_file(path)?;
        let mut writer = Writer::new(&name, file.as_file_mut(), plan, meta, encryption)?;
        let filled = fill(&mut writer).await?;
        let contents = writer.finish()?;
        archive::end_file(file, path)?;
        return Ok((contents, filled));
    }
    let mut file = nameless(location)?;
    let mut writer = Writer::new(&name, &mut file, plan, meta, encryption)?;
    let filled = fill(&mut writer).await?;
    let contents = writer.finish()?;
    match location {
        Location::File(_) => {}
        Location::Secret { namespace, id } => {
            let id = id.as_deref().unwrap_or_default();
            secrets::put(need(cluster, location)?, location, namespace, id, &mut file).await?;
        }
        Location::Object(url) => objects::put(url, location, &mut file).await?,
    }
    Ok((contents, filled))
}

/// Fetches a backup and verifies it.
///
/// # Errors
/// It is not there, or is not whole, or is encrypted and none of the keys opens it.
pub async fn open(cluster: Option<&Cluster>, location: &Location, keys: &Keys) -> Result<Backup, StoreError> {
    refuse_place(location)?;
    let file = match location {
        Location::File(path) => File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::NotFound(location.clone()),
            _ => io_error("read", location, source),
        })?,
        Location::Secret { namespace, id } => {
            let id = id.as_deref().unwrap_or_default();
            let mut file = nameless(location)?;
            secrets::get(need(cluster, location)?, location, namespace, id, &mut file).await?;
            file
        }
        Location::Object(url) => {
            let mut file = nameless(location)?;
            objects::get(url, location, &mut file).await?;
            file
        }
    };
    let name = location.to_string();
    let contents = archive::verify_file(&name, &file, keys)?;
    Ok(Backup {
        contents,
        name,
        file,
        keys: keys.clone(),
    })
}

/// The backups in a place, the oldest first.
///
/// # Errors
/// The place cannot be read.
pub async fn list(cluster: Option<&Cluster>, place: &Location) -> Result<Vec<Listed>, StoreError> {
    let mut found = match place {
        Location::File(path) => file::list(path).map_err(|source| io_error("read", place, source))?,
        Location::Secret { namespace, .. } => secrets::list(need(cluster, place)?, namespace).await?,
        Location::Object(url) => objects::list(url, place).await?,
    };
    let age = |listed: &Listed| {
        (
            listed.meta.as_ref().map(|m| m.created).or(listed.modified),
            listed.location.clone(),
        )
    };
    found.sort_by_key(age);
    Ok(found)
}

/// Deletes a backup, also one that is not whole.
///
/// # Errors
/// It is not there, or cannot be deleted.
pub async fn delete(cluster: Option<&Cluster>, location: &Location) -> Result<(), StoreError> {
    refuse_place(location)?;
    match location {
        Location::File(path) => std::fs::remove_file(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::NotFound(location.clone()),
            _ => io_error("delete", location, source),
        }),
        Location::Secret { namespace, id } => {
            let id = id.as_deref().unwrap_or_default();
            secrets::delete(need(cluster, location)?, location, namespace, id).await
        }
        Location::Object(url) => objects::delete(url, location).await,
    }
}
