//! Reading an archive, and proving that it is whole.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use object::Object;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    ArchiveError, Contents, Entry, FORMAT, Head, INDEX, Index, META, Meta, PLAN, SEAL, SEAL_LENGTH, hex,
    member,
};
use crate::encryption::{Keys, Locked, ReadSeek};

/// Checks every byte of a backup.
///
/// # Errors
/// What is wrong with it.
pub fn verify(path: &Path, keys: &Keys) -> Result<Contents, ArchiveError> {
    read(path, keys, |_| ())
}

/// Reads a backup. `visit` gets the objects in order, none of them before the file was checked against its seal.
/// That each is what the index says is only known at the end: nothing may be done with them before.
///
/// # Errors
/// What is wrong with it.
pub fn read(path: &Path, keys: &Keys, visit: impl FnMut(Object)) -> Result<Contents, ArchiveError> {
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => read_from(&name, file, keys, visit),
        Err(source) => Err(ArchiveError::Io {
            verb: "read",
            name,
            source,
        }),
    }
}

pub(crate) fn verify_file(name: &str, file: &File, keys: &Keys) -> Result<Contents, ArchiveError> {
    read_file(name, file, keys, |_| ())
}

/// Reads a backup from the beginning of an open file.
pub(crate) fn read_file(
    name: &str,
    file: &File,
    keys: &Keys,
    visit: impl FnMut(Object),
) -> Result<Contents, ArchiveError> {
    let again = file.try_clone().and_then(|mut file| {
        file.rewind()?;
        Ok(file)
    });
    let again = again.map_err(|source| ArchiveError::Io {
        verb: "read",
        name: name.to_owned(),
        source,
    })?;
    read_from(name, again, keys, visit)
}

/// What the beginning of an archive says that it is; `None` when it is encrypted or says nothing. None of it is
/// proven. Some kilobytes are enough.
pub fn peek(beginning: &[u8]) -> Option<Meta> {
    let decoder = zstd::Decoder::new(beginning).ok()?;
    let mut tar = tar::Archive::new(decoder);
    let mut first = tar.entries().ok()?.next()?.ok()?;
    if first.path_bytes().as_ref() != META.as_bytes() {
        return None;
    }
    let mut text = Vec::new();
    first.read_to_end(&mut text).ok()?;
    let head: Head = serde_json::from_slice(&text).ok()?;
    (head.format == FORMAT).then_some(head.meta)
}

pub(super) fn read_from(
    name: &str,
    file: impl Read + Seek + 'static,
    keys: &Keys,
    mut visit: impl FnMut(Object),
) -> Result<Contents, ArchiveError> {
    let io = |source| failed(name, source);
    let damaged = |problem: String| ArchiveError::Damaged {
        name: name.to_owned(),
        problem,
    };
    let mut file = keys.open(file).map_err(|locked| match locked {
        Locked::NoKey { passphrase } => ArchiveError::Locked {
            name: name.to_owned(),
            passphrase,
        },
        Locked::OtherKey => ArchiveError::OtherKey {
            name: name.to_owned(),
        },
        Locked::Altered => ArchiveError::Altered {
            name: name.to_owned(),
        },
        Locked::Io(error) => failed(name, error),
    })?;
    let length = check_seal(name, file.as_mut())?;

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

    match next(&mut contents)?.as_deref() {
        Some(META) => {}
        // Where format 1 had its index.
        Some(INDEX) => {
            return Err(ArchiveError::Format {
                name: name.to_owned(),
                format: 1,
            });
        }
        _ => return Err(damaged("it does not say what it is".into())),
    }
    let head = parse_head(&contents).map_err(|problem| match problem {
        Some(format) => ArchiveError::Format {
            name: name.to_owned(),
            format,
        },
        None => damaged("what it says about itself cannot be read".into()),
    })?;
    if next(&mut contents)?.as_deref() != Some(PLAN) {
        return Err(damaged("its plan is missing".into()));
    }
    let plan_digest = hex(&Sha256::digest(&contents));
    let plan: Value =
        serde_json::from_slice(&contents).map_err(|_| damaged("its plan cannot be read".into()))?;

    let mut entries = Vec::new();
    loop {
        let Some(path) = next(&mut contents)? else {
            return Err(damaged("its index is missing".into()));
        };
        if path == INDEX {
            break;
        }
        let object = serde_json::from_slice::<Value>(&contents)
            .ok()
            .and_then(|value| Object::try_from(value).ok());
        match object {
            Some(object) if member(&object.key()) == path => visit(object),
            _ => return Err(damaged(format!("{path} is not the object that it is called"))),
        }
        entries.push(Entry {
            sha256: hex(&Sha256::digest(&contents)),
            path,
        });
    }
    let index: Index =
        serde_json::from_slice(&contents).map_err(|_| damaged("its index cannot be read".into()))?;
    if let Some(path) = next(&mut contents)? {
        return Err(damaged(format!("{path} stands behind its index")));
    }
    if index.format != head.format || index.meta != head.meta {
        return Err(damaged("its index is that of another backup".into()));
    }
    if index.plan != plan_digest {
        return Err(damaged("its plan is not the one of the index".into()));
    }
    if index.count != index.objects.len() {
        return Err(damaged("its index does not count its objects right".into()));
    }
    check_entries(&index.objects, &entries).map_err(damaged)?;
    Ok(Contents { index, plan })
}

/// `Err(Some(format))` when it is of another format.
fn parse_head(contents: &[u8]) -> Result<Head, Option<u32>> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    match serde_json::from_slice::<Format>(contents) {
        Ok(Format { format: FORMAT }) => {}
        Ok(Format { format }) => return Err(Some(format)),
        Err(_) => return Err(None),
    }
    serde_json::from_slice(contents).map_err(|_| None)
}

/// Compares what the index says with what is there.
fn check_entries(index: &[Entry], found: &[Entry]) -> Result<(), String> {
    for (entry, found) in index.iter().zip(found) {
        if entry.path != found.path {
            return Err(format!(
                "{} stands where the index has {}",
                found.path, entry.path
            ));
        }
        if entry.sha256 != found.sha256 {
            return Err(format!("{} is not what the index says", entry.path));
        }
    }
    if let Some(entry) = index.get(found.len()) {
        return Err(format!("{} is missing", entry.path));
    }
    if let Some(found) = found.get(index.len()) {
        return Err(format!("{} does not stand in the index", found.path));
    }
    Ok(())
}

/// Decryption tells of what was altered by an error of reading.
fn failed(name: &str, source: io::Error) -> ArchiveError {
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ArchiveError::Altered {
            name: name.to_owned(),
        },
        _ => ArchiveError::Io {
            verb: "read",
            name: name.to_owned(),
            source,
        },
    }
}

/// Checks all bytes before the seal; returns how many there are.
fn check_seal(name: &str, file: &mut dyn ReadSeek) -> Result<u64, ArchiveError> {
    let io = |source| failed(name, source);
    let no_seal = || ArchiveError::NoSeal {
        name: name.to_owned(),
    };
    let length = file
        .seek(SeekFrom::End(0))
        .map_err(io)?
        .checked_sub(SEAL_LENGTH)
        .ok_or_else(no_seal)?;
    file.rewind().map_err(io)?;
    let mut digest = Sha256::new();
    let mut left = length;
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact(&mut buffer[..want]).map_err(io)?;
        digest.update(&buffer[..want]);
        left -= want as u64;
    }
    let mut seal = Vec::new();
    file.read_to_end(&mut seal).map_err(io)?;
    match seal.strip_prefix(&SEAL) {
        Some(sealed) if sealed == digest.finalize().as_slice() => Ok(length),
        Some(_) => Err(ArchiveError::Altered {
            name: name.to_owned(),
        }),
        None => Err(no_seal()),
    }
}
