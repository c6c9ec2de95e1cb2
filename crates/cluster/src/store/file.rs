//! Backups in a folder.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use jiff::Timestamp;

use super::{BEGINNING, Listed, Location, describe, is_named_so};

pub(super) fn list(folder: &Path) -> io::Result<Vec<Listed>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !is_named_so(&entry.file_name().to_string_lossy()) || !entry.path().is_file() {
            continue;
        }
        let metadata = entry.metadata()?;
        let mut beginning = Vec::new();
        File::open(entry.path())?
            .take(BEGINNING as u64)
            .read_to_end(&mut beginning)?;
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| Timestamp::try_from(time).ok());
        found.push(describe(
            Location::File(entry.path()),
            metadata.len(),
            modified,
            &beginning,
            false,
        ));
    }
    Ok(found)
}
