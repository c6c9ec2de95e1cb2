//! Files that hold secrets: readable by their owner alone, and whole or not there at all.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

/// Whether a file of that name may be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    Replace,
    Refuse,
}

/// Writes a file under a temporary name, and gives it its name once it is whole and on the disk. Its mode is 0600.
pub(crate) fn write<T, E: From<io::Error>>(
    path: &Path,
    existing: Existing,
    fill: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Made with 0600, and removed again when anything below fails.
    let mut file = tempfile::Builder::new()
        .prefix(".ks-installer-")
        .tempfile_in(folder)?;
    let value = fill(file.as_file_mut())?;
    file.as_file_mut().flush()?;
    file.as_file().sync_all()?;
    match existing {
        Existing::Replace => file.persist(path),
        Existing::Refuse => file.persist_noclobber(path),
    }
    .map_err(|error| error.error)?;
    // The name is on the disk once its folder is. Not every file system can do this, and the file itself is safe.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(value)
}
/// Writes a file that only its owner may read, in place of one of that name.
///
/// # Errors
/// The folder is not there or not writable, or the disk is full. What was there before stays then.
pub fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    write(path, Existing::Replace, |file| file.write_all(contents))
}

/// The SHA-256 of a file's contents, read from its beginning.
pub(crate) fn digest(file: &mut File) -> io::Result<[u8; 32]> {
    file.rewind()?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finalize().into()),
            read => digest.update(&buffer[..read]),
        }
    }
}
