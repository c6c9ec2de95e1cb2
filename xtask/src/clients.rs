//! What the clients of `tests/clients` run with: Kubernetes' own Python package, and client-go.
//!
//! kubectl and helm are in [`crate::helm`].

use std::fs;
use std::path::{Path, PathBuf};

use crate::control_plane::{Error, cache_folder, cached_client_go};
use crate::helm::{run, skip};
use crate::image::archive::sha256;

/// The packages and their versions, as pip reads them.
const REQUIREMENTS: &str = include_str!("../tests/clients/requirements.txt");

/// A folder for `PYTHONPATH` with Kubernetes' package, which is fetched if it is not there yet.
///
/// # Errors
/// [`Error::Unavailable`] if there is no python3 with pip here, or the packages cannot be had, with the reason.
pub fn ensure_python() -> Result<PathBuf, Error> {
    let file = |path: &Path, source| Error::File {
        path: path.to_owned(),
        source,
    };
    let cache = cache_folder()?.join("python-clients");
    fs::create_dir_all(&cache).map_err(|source| file(&cache, source))?;
    // Some of the packages are made for one version of Python on one kind of machine.
    let describe = "import sys, sysconfig; print(sys.implementation.cache_tag, sysconfig.get_platform())";
    let python = run(&cache, "python3", &["-c", describe])?;
    let path = cache.join(folder_name(&python));
    if path.is_dir() {
        return Ok(path);
    }
    let scratch = tempfile::tempdir_in(&cache).map_err(|source| file(&cache, source))?;
    let folder = scratch.path();
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(|source| file(&requirements, source))?;
    let install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
        "--no-deps",
        "--no-compile",
        // Nothing is built from source: that would run what a package brings.
        "--only-binary=:all:",
        "--target",
        "packages",
        "-r",
        "requirements.txt",
    ];
    run(folder, "python3", &install)?;
    // Whole or not at all, whoever else is at it.
    match fs::rename(folder.join("packages"), &path) {
        Err(source) if !path.is_dir() => Err(file(&path, source)),
        _ => Ok(path),
    }
}

fn folder_name(python: &str) -> String {
    sha256(format!("{python}\n{REQUIREMENTS}").as_bytes())[..16].to_owned()
}

/// The folder with Kubernetes' Python package for a test, or why the test is skipped, said on stderr.
pub fn ensure_python_or_skip(test: &str) -> Option<PathBuf> {
    or_skip(test, "Kubernetes package of Python", ensure_python())
}

/// The program with client-go for a test, or why the test is skipped, said on stderr. A test does not build it: that takes
/// Go, the source of Kubernetes and minutes.
pub fn client_go_or_skip(test: &str) -> Option<PathBuf> {
    or_skip(test, "program with client-go", cached_client_go())
}

fn or_skip(test: &str, what: &str, found: Result<PathBuf, Error>) -> Option<PathBuf> {
    found.inspect_err(|error| skip(test, what, error)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_python_has_another_folder() {
        let name = folder_name("cpython-311 linux-x86_64");
        assert_eq!(name.len(), 16);
        assert_ne!(name, folder_name("cpython-312 linux-x86_64"));
    }

    #[test]
    fn every_package_has_one_version() {
        for line in REQUIREMENTS.lines().filter(|line| !line.starts_with('#')) {
            assert_eq!(line.matches("==").count(), 1, "{line}");
        }
    }
}
