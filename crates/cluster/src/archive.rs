//! A backup: objects in one file that proves that it is whole.
//!
//! ```text
//!   zstd( tar( index.json · plan.json · objects/GROUP/KIND/NAMESPACE/NAME.json … ) ) · seal
//! ```
//!
//! The index stands first: what it is a backup of, what is not in it, and the SHA-256 of everything that follows. The
//! seal is a zstd frame that other tools skip (`tar --zstd -tf` works); it holds the SHA-256 of all bytes before it, so
//! that no byte of the file can change unnoticed, the index included. A file is checked against its seal before a
//! single object of it is used.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek as _, Write},
    path::Path,
};

use jiff::Timestamp;
use object::{Object, ObjectKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::file::{self, Existing};

/// The version of the form. A file of another one is refused.
pub const FORMAT: u32 = 1;

const INDEX: &str = "index.json";
const PLAN: &str = "plan.json";
const LEVEL: i32 = 3;
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
    /// KubeSphere's version that the upgrade behind it leads to.
    pub to: String,
}

/// The first member of the archive.
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
    /// In the order in which they follow.
    pub objects: Vec<Entry>,
}

/// One object of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub path: String,
    /// Hex.
    pub sha256: String,
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
    #[error("{name} was altered after it was written: its contents do not match its seal")]
    Altered { name: String },
    #[error("{name} has format {format}; this version reads format {FORMAT}")]
    Format { name: String, format: u32 },
    #[error("{name} is damaged: {problem}")]
    Damaged { name: String, problem: String },
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
            }
            .to_owned(),
        )
    }
}

/// What an archive says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    pub index: Index,
    pub plan: Value,
}

/// Writes a backup and reads it back. Objects are serialised one at a time, twice: for the index, and for
/// the archive.
///
/// # Errors
/// Nothing is left behind at `path` when something fails. An existing file is not touched.
pub fn write<'a, I>(path: &Path, objects: I, plan: &Value, meta: Meta) -> Result<Contents, ArchiveError>
where
    I: IntoIterator<Item = &'a Object>,
    I::IntoIter: Clone,
{
    let name = path.display().to_string();
    let objects = objects.into_iter();
    if path.exists() {
        return Err(ArchiveError::Exists { name });
    }
    let written = file::write(path, Existing::Refuse, |file| -> Result<Contents, Failed> {
        write_sealed(&mut *file, objects, plan, meta)?;
        // Before it gets its name: a file of that name is a verified backup.
        file.rewind()?;
        Ok(read_from(&name, file, |_| ())?)
    });
    written.map_err(|failed| match failed {
        Failed::Io(error) if error.kind() == io::ErrorKind::AlreadyExists => ArchiveError::Exists { name },
        Failed::Io(source) => ArchiveError::Io {
            verb: "write",
            name,
            source,
        },
        Failed::Archive(error) => error,
    })
}

/// Checks every byte of a backup.
///
/// # Errors
/// What is wrong with it.
pub fn verify(path: &Path) -> Result<Contents, ArchiveError> {
    read(path, |_| ())
}

/// Reads a backup. `visit` gets the objects in order, none of them before the file was checked against its seal.
///
/// # Errors
/// What is wrong with it.
pub fn read(path: &Path, visit: impl FnMut(Object)) -> Result<Contents, ArchiveError> {
    let name = path.display().to_string();
    match File::open(path) {
        Ok(mut file) => read_from(&name, &mut file, visit),
        Err(source) => Err(ArchiveError::Io {
            verb: "read",
            name,
            source,
        }),
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

/// What goes wrong while writing.
enum Failed {
    Io(io::Error),
    Archive(ArchiveError),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ArchiveError> for Failed {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

/// Takes the digest of what goes through.
struct Sealing<W> {
    out: W,
    digest: Sha256,
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_sealed<'a>(
    out: impl Write,
    objects: impl Iterator<Item = &'a Object> + Clone,
    plan: &Value,
    meta: Meta,
) -> Result<(), Failed> {
    let mut sealing = Sealing {
        out: BufWriter::new(out),
        digest: Sha256::new(),
    };
    write_to(&mut sealing, objects, plan, meta)?;
    let Sealing { mut out, digest } = sealing;
    out.write_all(&SEAL)?;
    out.write_all(&digest.finalize())?;
    Ok(out.flush()?)
}

fn write_to<'a>(
    out: impl Write,
    objects: impl Iterator<Item = &'a Object> + Clone,
    plan: &Value,
    meta: Meta,
) -> Result<(), Failed> {
    let plan = serde_json::to_vec_pretty(plan).map_err(io::Error::from)?;
    let mut seen = std::collections::BTreeSet::new();
    let mut buffer = Vec::new();
    let mut entries = Vec::new();
    for object in objects.clone() {
        let key = object.key();
        let path = member(&key);
        serialise(object, &mut buffer)?;
        if !seen.insert(path.clone()) {
            return Err(ArchiveError::Twice(key).into());
        }
        entries.push(Entry {
            path,
            sha256: hex(&Sha256::digest(&buffer)),
        });
    }
    drop(seen);
    let created = meta.created;
    let index = Index {
        format: FORMAT,
        meta,
        count: entries.len(),
        not_included: vec![
            "contents of persistent volumes".to_owned(),
            "databases (OpenLDAP, Redis, MySQL, etcd), registries and object stores".to_owned(),
        ],
        plan: hex(&Sha256::digest(&plan)),
        objects: entries,
    };
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    let mut tar = tar::Builder::new(encoder);
    append(
        &mut tar,
        INDEX,
        &serde_json::to_vec(&index).map_err(io::Error::from)?,
        created,
    )?;
    append(&mut tar, PLAN, &plan, created)?;
    for (object, entry) in objects.zip(&index.objects) {
        serialise(object, &mut buffer)?;
        append(&mut tar, &entry.path, &buffer, created)?;
    }
    tar.into_inner()?.finish()?.flush()?;
    Ok(())
}

fn serialise(object: &Object, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    serde_json::to_writer(buffer, object.as_value()).map_err(io::Error::from)
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    path: &str,
    contents: &[u8],
    created: Timestamp,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(contents.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(created.as_second()).unwrap_or_default());
    tar.append_data(&mut header, path, contents)
}

fn read_from(name: &str, file: &mut File, mut visit: impl FnMut(Object)) -> Result<Contents, ArchiveError> {
    let io = |source| ArchiveError::Io {
        verb: "read",
        name: name.to_owned(),
        source,
    };
    let damaged = |problem: String| ArchiveError::Damaged {
        name: name.to_owned(),
        problem,
    };
    let length = check_seal(name, file)?;

    file.rewind().map_err(io)?;
    let decoder = zstd::Decoder::new(BufReader::new(file).take(length)).map_err(io)?;
    let mut tar = tar::Archive::new(decoder);
    // The seal holds, so whatever is found below was written so: by another version, or by somebody else.
    let unreadable = |error: io::Error| damaged(format!("its contents cannot be read: {error}"));
    let mut members = tar.entries().map_err(unreadable)?;
    let mut contents = Vec::new();
    let mut next = |contents: &mut Vec<u8>| -> Result<Option<String>, ArchiveError> {
        let Some(member) = members.next() else {
            return Ok(None);
        };
        let mut member = member.map_err(unreadable)?;
        contents.clear();
        member.read_to_end(contents).map_err(unreadable)?;
        Ok(Some(String::from_utf8_lossy(&member.path_bytes()).into_owned()))
    };

    if next(&mut contents)?.as_deref() != Some(INDEX) {
        return Err(damaged("its index is missing".into()));
    }
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    match serde_json::from_slice::<Format>(&contents) {
        Ok(Format { format: FORMAT }) => {}
        Ok(Format { format }) => {
            return Err(ArchiveError::Format {
                name: name.to_owned(),
                format,
            });
        }
        Err(_) => return Err(damaged("its index cannot be read".into())),
    }
    let index: Index =
        serde_json::from_slice(&contents).map_err(|_| damaged("its index cannot be read".into()))?;
    if next(&mut contents)?.as_deref() != Some(PLAN) || hex(&Sha256::digest(&contents)) != index.plan {
        return Err(damaged("its plan is not the one of the index".into()));
    }
    let plan = serde_json::from_slice(&contents).map_err(|_| damaged("its plan cannot be read".into()))?;
    if index.count != index.objects.len() {
        return Err(damaged("its index does not count its objects right".into()));
    }
    for entry in &index.objects {
        match next(&mut contents)? {
            Some(path) if path == entry.path => {}
            Some(path) => {
                return Err(damaged(format!(
                    "{path} stands where the index has {}",
                    entry.path
                )));
            }
            None => return Err(damaged(format!("{} is missing", entry.path))),
        }
        if hex(&Sha256::digest(&contents)) != entry.sha256 {
            return Err(damaged(format!("{} is not what the index says", entry.path)));
        }
        let object = serde_json::from_slice::<Value>(&contents)
            .ok()
            .and_then(|value| Object::try_from(value).ok());
        match object {
            Some(object) if member(&object.key()) == entry.path => visit(object),
            _ => {
                return Err(damaged(format!(
                    "{} is not the object that it is called",
                    entry.path
                )));
            }
        }
    }
    if let Some(path) = next(&mut contents)? {
        return Err(damaged(format!("{path} does not stand in the index")));
    }
    Ok(Contents { index, plan })
}

/// Checks all bytes before the seal; returns how many there are.
fn check_seal(name: &str, file: &mut File) -> Result<u64, ArchiveError> {
    let io = |source| ArchiveError::Io {
        verb: "read",
        name: name.to_owned(),
        source,
    };
    let no_seal = || ArchiveError::NoSeal {
        name: name.to_owned(),
    };
    let length = file
        .metadata()
        .map_err(io)?
        .len()
        .checked_sub(SEAL_LENGTH)
        .ok_or_else(no_seal)?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut digest = Sha256::new();
    let mut left = length;
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        reader.read_exact(&mut buffer[..want]).map_err(io)?;
        digest.update(&buffer[..want]);
        left -= want as u64;
    }
    let mut seal = Vec::new();
    reader.read_to_end(&mut seal).map_err(io)?;
    match seal.strip_prefix(&SEAL) {
        Some(sealed) if sealed == digest.finalize().as_slice() => Ok(length),
        Some(_) => Err(ArchiveError::Altered {
            name: name.to_owned(),
        }),
        None => Err(no_seal()),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_object(kind: &str, namespace: Option<&str>, name: &str) -> Object {
        let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "data": {"p": "aHVudGVyMg=="}});
        if let Some(namespace) = namespace {
            object["metadata"]["namespace"] = namespace.into();
        }
        Object::try_from(object).unwrap()
    }

    fn mk_meta() -> Meta {
        Meta {
            tool: "0.1.0".into(),
            created: Timestamp::from_second(1_700_000_000).unwrap(),
            cluster: "c-1".into(),
            kubernetes: "v1.20.2".into(),
            from: "v3.2.1".into(),
            to: "v3.3.1".into(),
        }
    }

    fn mk_objects() -> Vec<Object> {
        vec![
            mk_object("Secret", Some("kubesphere-system"), "a"),
            mk_object("ClusterRole", None, "system:node"),
            mk_object("ConfigMap", Some("n"), &"long.".repeat(40)),
        ]
    }

    fn mk_archive(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("backup.tar.zst");
        write(&path, &mk_objects(), &json!({"stages": []}), mk_meta()).unwrap();
        path
    }

    #[test]
    fn what_is_written_is_read_again_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = mk_archive(folder.path());
        let mut objects = Vec::new();
        let contents = read(&path, |object| objects.push(object)).unwrap();
        assert_eq!(objects, mk_objects());
        assert_eq!(contents.plan, json!({"stages": []}));
        assert_eq!((contents.index.meta, contents.index.count), (mk_meta(), 3));
        assert!(contents.index.not_included[0].contains("volumes"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary files stay"
        );
    }

    #[test]
    fn members_have_plain_names() {
        let check = |key: ObjectKey, expect: &str| assert_eq!(member(&key), expect);
        check(
            ObjectKey::namespaced("apps", "Deployment", "n", "a"),
            "objects/apps/Deployment/n/a.json",
        );
        check(
            ObjectKey::cluster("", "Node", "a.b"),
            "objects/core/Node/_cluster/a.b.json",
        );
        check(
            ObjectKey::cluster("g.io", "Role", "system:a/../b%"),
            "objects/g.io/Role/_cluster/system%3Aa%2F..%2Fb%25.json",
        );
        check(
            ObjectKey::cluster("", "A", ".."),
            "objects/core/A/_cluster/%2E..json",
        );
    }

    #[test]
    fn other_tools_can_list_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = mk_archive(folder.path());
        let all = zstd::decode_all(File::open(path).unwrap()).unwrap();
        let mut tar = tar::Archive::new(all.as_slice());
        let paths: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(
            paths[..3],
            [
                "index.json",
                "plan.json",
                "objects/core/Secret/kubesphere-system/a.json"
            ]
        );
    }

    #[test]
    fn a_backup_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = mk_archive(folder.path());
        let before = std::fs::read(&path).unwrap();
        let error = write(&path, &mk_objects()[..1], &json!({}), mk_meta()).unwrap_err();
        assert!(matches!(error, ArchiveError::Exists { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_failed_backup_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let twice = [
            mk_object("Secret", Some("n"), "a"),
            mk_object("Secret", Some("n"), "a"),
        ];
        let error = write(&folder.path().join("b"), &twice, &json!({}), mk_meta()).unwrap_err();
        assert_eq!(error.to_string(), "Secret n/a would be in the backup twice");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let error = write(Path::new("/nonexistent/folder/b"), &twice, &json!({}), mk_meta()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot write /nonexistent/folder/b"),
            "{error}"
        );
    }

    #[test]
    fn no_byte_changes_unnoticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = mk_archive(folder.path());
        let whole = std::fs::read(&path).unwrap();
        let other = folder.path().join("altered");
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1 << (at % 8);
            std::fs::write(&other, &altered).unwrap();
            let mut seen = 0;
            assert!(read(&other, |_| seen += 1).is_err(), "byte {at}");
            assert_eq!(seen, 0, "no object of an altered archive is used");
        }
        for length in 0..whole.len() {
            std::fs::write(&other, &whole[..length]).unwrap();
            assert!(verify(&other).is_err(), "cut at {length}");
        }
        std::fs::write(&other, [whole.as_slice(), b"x"].concat()).unwrap();
        assert!(verify(&other).is_err(), "something added");
        std::fs::write(&other, b"hunter2").unwrap();
        assert!(matches!(verify(&other), Err(ArchiveError::NoSeal { .. })));
    }

    /// Seals anything, as somebody who knows the form could.
    fn mk_sealed(path: &Path, members: &[(&str, Vec<u8>)]) {
        let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        for (name, contents) in members {
            append(&mut tar, name, contents, mk_meta().created).unwrap();
        }
        let mut bytes = tar.into_inner().unwrap().finish().unwrap();
        let digest = Sha256::digest(&bytes);
        bytes.extend(SEAL);
        bytes.extend(digest);
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn contents_must_be_what_the_index_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made-up");
        let object = serde_json::to_vec(&mk_object("Secret", Some("n"), "a")).unwrap();
        let entry = |path: &str| Entry {
            path: path.into(),
            sha256: hex(&Sha256::digest(&object)),
        };
        let index = |format: u32, objects: Vec<Entry>| {
            serde_json::to_vec(&Index {
                format,
                meta: mk_meta(),
                count: objects.len(),
                not_included: vec![],
                plan: hex(&Sha256::digest(b"{}")),
                objects,
            })
            .unwrap()
        };
        let at = "objects/core/Secret/n/a.json";
        let plan = || (PLAN, b"{}".to_vec());
        let check = |members: &[(&str, Vec<u8>)], expect: &str| {
            mk_sealed(&path, members);
            let told = verify(&path).map_err(|e| e.to_string()).err().unwrap_or_default();
            assert!(told.contains(expect), "{told}");
            if expect.is_empty() {
                assert_eq!(told, "");
            }
        };
        check(
            &[(INDEX, index(1, vec![entry(at)])), plan(), (at, object.clone())],
            "",
        );
        check(&[plan()], "its index is missing");
        check(&[(INDEX, index(2, vec![])), plan()], "has format 2");
        check(
            &[(INDEX, index(1, vec![])), (PLAN, b"[]".to_vec())],
            "its plan is not the one",
        );
        check(&[(INDEX, index(1, vec![entry(at)])), plan()], "a.json is missing");
        check(
            &[(INDEX, index(1, vec![])), plan(), (at, object.clone())],
            "does not stand in the index",
        );
        check(
            &[(INDEX, index(1, vec![entry(at)])), plan(), (at, b"{}".to_vec())],
            "is not what the index says",
        );
        let wrong = "objects/core/Secret/n/b.json";
        check(
            &[
                (INDEX, index(1, vec![entry(wrong)])),
                plan(),
                (wrong, object.clone()),
            ],
            "is not the object that it is called",
        );
    }
}
