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

/// A file under a temporary name, which is removed again unless it gets its own. Its mode is 0600.
pub(crate) struct Pending(tempfile::NamedTempFile);

impl Pending {
    /// Begins a file that will be at `path`.
    pub(crate) fn begin(path: &Path) -> io::Result<Self> {
        let file = tempfile::Builder::new()
            .prefix(".ks-installer-")
            .tempfile_in(folder(path))?;
        Ok(Self(file))
    }

    pub(crate) fn as_file_mut(&mut self) -> &mut File {
        self.0.as_file_mut()
    }

    /// Gives it its name once it is whole and on the disk.
    pub(crate) fn end(mut self, path: &Path, existing: Existing) -> io::Result<()> {
        self.0.as_file_mut().flush()?;
        self.0.as_file().sync_all()?;
        match existing {
            Existing::Replace => self.0.persist(path),
            Existing::Refuse => self.0.persist_noclobber(path),
        }
        .map_err(|error| error.error)?;
        // The name is on the disk once its folder is. Not every file system can do this, and the file itself is safe.
        if let Ok(folder) = File::open(folder(path)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Writes a file that only its owner may read, in place of one of that name.
///
/// # Errors
/// The folder is not there or not writable, or the disk is full. What was there before stays then.
pub fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = Pending::begin(path)?;
    file.as_file_mut().write_all(contents)?;
    file.end(path, Existing::Replace)
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
