//! Writing an archive, in one go.

use std::{
    borrow::Borrow,
    collections::BTreeSet,
    fs::File,
    io::{self, BufWriter, Seek as _, Write},
    path::Path,
};

use age::stream::StreamWriter;
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
    file::{self, Existing, Pending},
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
    let mut file = begin_file(path)?;
    let mut writer = Writer::new(&name, file.as_file_mut(), plan, meta, encryption)?;
    for object in objects {
        writer.push(object.borrow())?;
    }
    let contents = writer.finish()?;
    end_file(file, path)?;
    Ok(contents)
}

/// A file that becomes `path` at its [end](end_file), when it is whole.
pub(crate) fn begin_file(path: &Path) -> Result<Pending, ArchiveError> {
    if path.exists() {
        return Err(ArchiveError::Exists {
            name: path.display().to_string(),
        });
    }
    Pending::begin(path).map_err(|source| write_failed(path, source))
}

pub(crate) fn end_file(file: Pending, path: &Path) -> Result<(), ArchiveError> {
    file.end(path, Existing::Refuse)
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => ArchiveError::Exists {
                name: path.display().to_string(),
            },
            _ => write_failed(path, source),
        })
}

fn write_failed(path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::Io {
        verb: "write",
        name: path.display().to_string(),
        source,
    }
}

/// An archive that is being written. Of the objects only the index is kept in memory.
pub(crate) struct Writer<'f> {
    /// How the archive is called in errors.
    name: String,
    tar: tar::Builder<zstd::Encoder<'static, Digesting<Sink<'f>>>>,
    own_keys: Option<Keys>,
    /// Another handle of the same file, to read back.
    again: File,
    meta: Meta,
    plan: Value,
    plan_digest: String,
    /// Digests of the paths, which are shorter than paths.
    seen: BTreeSet<[u8; 32]>,
    entries: Vec<Entry>,
    buffer: Vec<u8>,
}

impl<'f> Writer<'f> {
    /// Begins an archive in an empty file.
    pub(crate) fn new(
        name: &str,
        file: &'f mut File,
        plan: &Value,
        meta: Meta,
        encryption: &Encryption,
    ) -> Result<Self, ArchiveError> {
        Self::begin(name, file, plan, meta, encryption).map_err(|source| ArchiveError::Io {
            verb: "write",
            name: name.to_owned(),
            source,
        })
    }

    fn begin(
        name: &str,
        file: &'f mut File,
        plan: &Value,
        meta: Meta,
        encryption: &Encryption,
    ) -> io::Result<Self> {
        let again = file.try_clone()?;
        let out = Digesting::new(BufWriter::with_capacity(1 << 16, file));
        let sink = match encryption.encryptor()? {
            None => Sink::Plain(out),
            Some(encryptor) => Sink::Encrypted(Box::new(encryptor.wrap_output(out)?)),
        };
        let mut encoder = zstd::Encoder::new(Digesting::new(sink), LEVEL)?;
        encoder.include_checksum(true)?;
        let mut tar = tar::Builder::new(encoder);
        let head = Head {
            format: FORMAT,
            meta: meta.clone(),
        };
        append(&mut tar, META, &serde_json::to_vec_pretty(&head)?, meta.created)?;
        // So that whoever reads the beginning of the file can tell what it is.
        tar.get_mut().flush()?;
        let plan_text = serde_json::to_vec_pretty(plan)?;
        append(&mut tar, PLAN, &plan_text, meta.created)?;
        Ok(Self {
            name: name.to_owned(),
            tar,
            own_keys: encryption.own_keys(),
            again,
            meta,
            plan: plan.clone(),
            plan_digest: hex(&Sha256::digest(&plan_text)),
            seen: BTreeSet::new(),
            entries: Vec::new(),
            buffer: Vec::new(),
        })
    }

    /// Adds an object that must not be in it yet.
    pub(crate) fn push(&mut self, object: &Object) -> Result<(), ArchiveError> {
        if self.push_new(object)? {
            return Ok(());
        }
        Err(ArchiveError::Twice(object.key()))
    }

    /// Adds an object, unless one of that key is in it already; tells whether it was added.
    pub(crate) fn push_new(&mut self, object: &Object) -> Result<bool, ArchiveError> {
        let path = member(&object.key());
        if !self.seen.insert(Sha256::digest(&path).into()) {
            return Ok(false);
        }
        self.buffer.clear();
        serde_json::to_writer(&mut self.buffer, object.as_value())
            .map_err(io::Error::from)
            .and_then(|()| append(&mut self.tar, &path, &self.buffer, self.meta.created))
            .map_err(|source| self.failed("write", source))?;
        self.entries.push(Entry {
            path,
            sha256: hex(&Sha256::digest(&self.buffer)),
        });
        Ok(true)
    }

    fn failed(&self, verb: &'static str, source: io::Error) -> ArchiveError {
        ArchiveError::Io {
            verb,
            name: self.name.clone(),
            source,
        }
    }

    /// Writes the index and the seal, and reads everything back.
    pub(crate) fn finish(self) -> Result<Contents, ArchiveError> {
        let Self {
            name,
            mut tar,
            own_keys,
            mut again,
            meta,
            plan,
            plan_digest,
            seen,
            entries,
            buffer,
        } = self;
        drop((seen, buffer));
        let created = meta.created;
        let index = Index {
            format: FORMAT,
            meta,
            count: entries.len(),
            not_included: NOT_INCLUDED.map(str::to_owned).to_vec(),
            plan: plan_digest,
            objects: entries,
        };
        let end = || -> io::Result<[u8; 32]> {
            append(&mut tar, INDEX, &serde_json::to_vec(&index)?, created)?;
            let Digesting { mut out, digest } = tar.into_inner()?.finish()?;
            out.write_all(&SEAL)?;
            out.write_all(&digest.finalize())?;
            out.finish()
        };
        let io = |verb| {
            let name = name.clone();
            move |source| ArchiveError::Io { verb, name, source }
        };
        let digest = end().map_err(io("write"))?;
        let contents = Contents { index, plan };
        let altered = || ArchiveError::Altered { name: name.clone() };
        if file::digest(&mut again).map_err(io("read"))? != digest {
            return Err(altered());
        }
        if let Some(keys) = own_keys {
            again.rewind().map_err(io("read"))?;
            if read_from(&name, again, &keys, |_| ())? != contents {
                return Err(altered());
            }
        }
        Ok(contents)
    }
}

/// Where the archive's bytes go; the digest is that of the file.
enum Sink<'f> {
    Plain(Out<'f>),
    Encrypted(Box<StreamWriter<Out<'f>>>),
}

type Out<'f> = Digesting<BufWriter<&'f mut File>>;

impl Sink<'_> {
    /// The digest of all that was written.
    fn finish(self) -> io::Result<[u8; 32]> {
        let mut out = match self {
            Self::Plain(out) => out,
            Self::Encrypted(writer) => writer.finish()?,
        };
        out.flush()?;
        Ok(out.digest.finalize().into())
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Encrypted(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Encrypted(writer) => writer.flush(),
        }
    }
}

/// Takes the digest of what goes through.
struct Digesting<W> {
    out: W,
    digest: Sha256,
}

impl<W> Digesting<W> {
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
