//! Writing an archive, in one go.

use std::{
    borrow::Borrow,
    collections::BTreeSet,
    fs::File,
    io::{self, BufWriter, Seek as _, Write},
    path::Path,
};

use jiff::Timestamp;
use object::Object;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    ArchiveError, Contents, Entry, FORMAT, Head, INDEX, Index, META, Meta, NOT_INCLUDED, PLAN, SEAL, hex,
    member, read::read_from,
};
use crate::{
    encryption::{Encryption, Keys},
    file::{self, Existing},
};

const LEVEL: i32 = 3;

/// Writes a backup and reads it back before it gets its name. Objects are taken one at a time; none is kept.
///
/// What is encrypted for the holders of keys cannot be decrypted here: of such an archive it is checked that every byte
/// that was written can be read again.
///
/// # Errors
/// Nothing is left behind at `path` when something fails. An existing file is not touched.
pub fn write<O: Borrow<Object>>(
    path: &Path,
    objects: impl IntoIterator<Item = O>,
    plan: &Value,
    meta: Meta,
    encryption: &Encryption,
) -> Result<Contents, ArchiveError> {
    let name = path.display().to_string();
    if path.exists() {
        return Err(ArchiveError::Exists { name });
    }
    let written = file::write(path, Existing::Refuse, |file| -> Result<_, Failed> {
        Ok(write_file(&name, file, objects, plan, meta, encryption)?)
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

/// Writes a backup to a file that has no name yet, and reads it back.
pub(crate) fn write_file<O: Borrow<Object>>(
    name: &str,
    file: &mut File,
    objects: impl IntoIterator<Item = O>,
    plan: &Value,
    meta: Meta,
    encryption: &Encryption,
) -> Result<Contents, ArchiveError> {
    let (contents, digest) =
        encrypt(file, objects, plan, meta, encryption).map_err(|failed| match failed {
            Failed::Io(source) => ArchiveError::Io {
                verb: "write",
                name: name.to_owned(),
                source,
            },
            Failed::Archive(error) => error,
        })?;
    let io = |source| ArchiveError::Io {
        verb: "read",
        name: name.to_owned(),
        source,
    };
    if file::digest(file).map_err(io)? != digest {
        return Err(ArchiveError::Altered {
            name: name.to_owned(),
        });
    }
    if let Some(keys) = encryption.own_keys() {
        let read = read_back(name, file, &keys)?;
        if read != contents {
            return Err(ArchiveError::Altered {
                name: name.to_owned(),
            });
        }
    }
    Ok(contents)
}

fn read_back(name: &str, file: &mut File, keys: &Keys) -> Result<Contents, ArchiveError> {
    let again = file.try_clone().and_then(|mut again| {
        again.rewind()?;
        Ok(again)
    });
    let again = again.map_err(|source| ArchiveError::Io {
        verb: "read",
        name: name.to_owned(),
        source,
    })?;
    read_from(name, again, keys, |_| ())
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

impl From<serde_json::Error> for Failed {
    fn from(error: serde_json::Error) -> Self {
        Self::Io(error.into())
    }
}

impl From<ArchiveError> for Failed {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

/// Takes the digest of what goes through.
struct Digesting<W> {
    out: W,
    digest: Sha256,
}

impl<W: Write> Digesting<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            digest: Sha256::new(),
        }
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Returns what was written, and the digest of the file.
fn encrypt<O: Borrow<Object>>(
    file: &mut File,
    objects: impl IntoIterator<Item = O>,
    plan: &Value,
    meta: Meta,
    encryption: &Encryption,
) -> Result<(Contents, [u8; 32]), Failed> {
    let mut out = Digesting::new(BufWriter::with_capacity(1 << 16, file));
    let contents = match encryption.encryptor()? {
        None => write_sealed(&mut out, objects, plan, meta)?,
        Some(encryptor) => {
            let mut encrypted = encryptor.wrap_output(&mut out)?;
            let contents = write_sealed(&mut encrypted, objects, plan, meta)?;
            encrypted.finish()?;
            contents
        }
    };
    out.flush()?;
    Ok((contents, out.digest.finalize().into()))
}

fn write_sealed<O: Borrow<Object>>(
    out: impl Write,
    objects: impl IntoIterator<Item = O>,
    plan: &Value,
    meta: Meta,
) -> Result<Contents, Failed> {
    let mut sealing = Digesting::new(out);
    let contents = write_members(&mut sealing, objects, plan, meta)?;
    let Digesting { mut out, digest } = sealing;
    out.write_all(&SEAL)?;
    out.write_all(&digest.finalize())?;
    out.flush()?;
    Ok(contents)
}

fn write_members<O: Borrow<Object>>(
    out: impl Write,
    objects: impl IntoIterator<Item = O>,
    plan: &Value,
    meta: Meta,
) -> Result<Contents, Failed> {
    let created = meta.created;
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    let mut tar = tar::Builder::new(encoder);
    let head = Head {
        format: FORMAT,
        meta: meta.clone(),
    };
    append(&mut tar, META, &serde_json::to_vec_pretty(&head)?, created)?;
    // So that whoever reads the beginning of the file can tell what it is.
    tar.get_mut().flush()?;
    let plan_text = serde_json::to_vec_pretty(plan)?;
    append(&mut tar, PLAN, &plan_text, created)?;

    let mut seen = BTreeSet::new();
    let mut buffer = Vec::new();
    let mut entries = Vec::new();
    for object in objects {
        let object = object.borrow();
        let key = object.key();
        let path = member(&key);
        // A digest is shorter than a path.
        if !seen.insert(<[u8; 32]>::from(Sha256::digest(&path))) {
            return Err(ArchiveError::Twice(key).into());
        }
        buffer.clear();
        serde_json::to_writer(&mut buffer, object.as_value())?;
        append(&mut tar, &path, &buffer, created)?;
        entries.push(Entry {
            path,
            sha256: hex(&Sha256::digest(&buffer)),
        });
    }
    drop(seen);
    let index = Index {
        format: FORMAT,
        meta,
        count: entries.len(),
        not_included: NOT_INCLUDED.map(str::to_owned).to_vec(),
        plan: hex(&Sha256::digest(&plan_text)),
        objects: entries,
    };
    append(&mut tar, INDEX, &serde_json::to_vec(&index)?, created)?;
    tar.into_inner()?.finish()?.flush()?;
    Ok(Contents {
        index,
        plan: plan.clone(),
    })
}

pub(super) fn append(
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
