//! The static binary.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use cargo_metadata::{Message, PackageId};
use elf::ElfBytes;
use elf::abi::{DT_NEEDED, PT_INTERP};
use elf::endian::AnyEndian;

use crate::control_plane::{find_program, is_root};

/// What is built for.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

const PACKAGE: &str = "ks-installer";

/// Some crates compile C, and the headers of the usual C library do not fit musl.
const C_COMPILER: &str = "musl-gcc";
const C_COMPILER_PACKAGE: &str = "musl-tools";

/// The profile in the workspace's Cargo.toml.
const PROFILE: &str = "image";

/// The variables that name the compiler of C for the target, and its options.
const CC: &str = "CC_x86_64_unknown_linux_musl";
const CFLAGS: &str = "CFLAGS_x86_64_unknown_linux_musl";

#[derive(Debug)]
pub struct Binary {
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// The crates that were compiled for the target: neither build scripts nor macros.
    pub crates: BTreeSet<PackageId>,
}

/// Sees to it that there is Rust's library and a compiler of C for the target.
///
/// # Errors
/// One is missing and cannot be installed.
pub fn prepare(report: &dyn Fn(&str)) -> anyhow::Result<()> {
    let library = sysroot()?.join("lib/rustlib").join(TARGET).join("lib");
    if !library.exists() {
        report(&format!("adding Rust's library for {TARGET}"));
        let status = Command::new("rustup")
            .args(["target", "add", TARGET])
            .status()
            .with_context(|| format!("there is no Rust library for {TARGET}, and no rustup to add it"))?;
        ensure!(status.success(), "rustup cannot add {TARGET}: {status}");
    }
    if std::env::var_os(CC).is_some() || find_program(C_COMPILER).is_some() {
        return Ok(());
    }
    let missing = format!("there is no {C_COMPILER}, which crates with C in them take");
    if !is_root() || find_program("apt-get").is_none() {
        bail!("{missing}: install {C_COMPILER_PACKAGE}, or name another compiler in {CC}");
    }
    report(&format!("installing {C_COMPILER_PACKAGE}"));
    let install = [
        "install",
        "-y",
        "-q",
        "--no-install-recommends",
        C_COMPILER_PACKAGE,
    ];
    for arguments in [["update", "-q"].as_slice(), &install] {
        let status = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // What it says is no data.
            .stdout(Stdio::null())
            .status()
            .context("running apt-get")?;
        ensure!(
            status.success(),
            "{missing}: apt-get {} failed",
            arguments.join(" ")
        );
    }
    Ok(())
}

/// Builds the sources in `root`, in the folder `target`, and checks what came of it.
///
/// # Errors
/// The sources cannot be built, or the binary is not static or has a path of this machine in it.
pub fn build(root: &Path, target: &Path) -> anyhow::Result<Binary> {
    let places = places(root, target)?;
    let binary = compile(root, target, &places)?;
    let program = fs::read(&binary.path).context("reading the binary")?;
    check_static(&program)?;
    check_paths(&program, places.iter().map(|place| place.path.as_path()))?;
    Ok(binary)
}

/// A folder of this machine, and what stands for it in the binary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    name: String,
}

/// The folders that compilers would write down. Those inside others come after them, since the last that fits counts.
fn places(root: &Path, target: &Path) -> anyhow::Result<Vec<Place>> {
    let version = output(Command::new(rustc()).arg("-vV"))?;
    let commit = version
        .lines()
        .find_map(|line| line.strip_prefix("commit-hash: "))
        .unwrap_or("unknown");
    let place = |path: PathBuf, name: &str| Place {
        path,
        name: name.to_owned(),
    };
    // Not absolute: no folder of any machine is called so.
    Ok(in_order(vec![
        place(root.to_owned(), "ks-installer"),
        place(target.to_owned(), "target"),
        place(cargo_home()?, "cargo"),
        // Where Rust's own sources are installed, its library's paths would lead there instead.
        place(
            sysroot()?.join("lib/rustlib/src/rust"),
            &format!("/rustc/{commit}"),
        ),
    ]))
}

fn in_order(mut places: Vec<Place>) -> Vec<Place> {
    places.sort_by_key(|place| (place.path.as_os_str().len(), place.path.clone()));
    places
}

fn compile(root: &Path, target: &Path, places: &[Place]) -> anyhow::Result<Binary> {
    let mut command = Command::new(cargo());
    command
        .args([
            "build",
            "--profile",
            PROFILE,
            "--locked",
            "--message-format",
            "json-render-diagnostics",
        ])
        .args(["--package", PACKAGE, "--target", TARGET, "--target-dir"])
        .arg(target)
        .current_dir(root)
        .stdout(Stdio::piped());
    // What somebody has set for their own builds must not change this one.
    let own = |name: &str| {
        name.starts_with("CARGO_PROFILE_") || name.starts_with("CARGO_BUILD_") && name != "CARGO_BUILD_JOBS"
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(own)) {
        command.env_remove(name);
    }
    command.env_remove("CFLAGS").env_remove("CPPFLAGS");
    for (name, value) in variables(places)? {
        command.env(name, value);
    }
    if std::env::var_os(CC).is_none() {
        command.env(CC, C_COMPILER);
    }
    let mut child = command.spawn().context("running cargo")?;
    let messages = child.stdout.take().context("reading what cargo says")?;
    let (mut program, mut crates) = (None, BTreeSet::new());
    let built = target.join(TARGET);
    for message in Message::parse_stream(std::io::BufReader::new(messages)) {
        let Message::CompilerArtifact(artifact) = message.context("reading what cargo says")? else {
            continue;
        };
        if artifact.filenames.iter().any(|file| file.starts_with(&built)) {
            crates.insert(artifact.package_id);
            program = artifact.executable.or(program);
        }
    }
    let status = child.wait().context("waiting for cargo")?;
    ensure!(status.success(), "{PACKAGE} cannot be built: {status}");
    let path = program.context("cargo names no binary")?.into_std_path_buf();
    let size = fs::metadata(&path).context("reading the binary")?.len();
    Ok(Binary { path, size, crates })
}

/// The variables that keep this machine's folders out of what is compiled.
///
/// # Errors
/// A folder whose name cannot be told to the compilers.
fn variables(places: &[Place]) -> anyhow::Result<[(&'static str, String); 2]> {
    let (mut rust, mut c) = (Vec::new(), Vec::new());
    for Place { path, name } in places {
        let path = path
            .to_str()
            .filter(|path| !path.contains(|c: char| c.is_whitespace() || c == '='))
            .with_context(|| format!("{} has a name that compilers misread", path.display()))?;
        rust.push(format!("--remap-path-prefix={path}={name}"));
        c.push(format!("-ffile-prefix-map={path}={name}"));
    }
    Ok([
        // Wins over RUSTFLAGS and all configuration.
        ("CARGO_ENCODED_RUSTFLAGS", rust.join("\x1f")),
        (CFLAGS, c.join(" ")),
    ])
}

/// # Errors
/// The binary is none for Linux, or wants a loader or libraries of the system that it runs on.
fn check_static(program: &[u8]) -> anyhow::Result<()> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(program).context("the binary cannot be read")?;
    let segments = file.segments().context("the binary has no segments")?;
    ensure!(
        segments.iter().all(|segment| segment.p_type != PT_INTERP),
        "the binary is not static: it wants a loader"
    );
    let libraries = file
        .dynamic()
        .context("the binary cannot be read")?
        .into_iter()
        .flat_map(|table| table.iter())
        .filter(|entry| entry.d_tag == DT_NEEDED)
        .count();
    ensure!(
        libraries == 0,
        "the binary is not static: it wants {libraries} shared libraries"
    );
    Ok(())
}

/// # Errors
/// A folder of this machine is named in the binary.
fn check_paths<'a>(program: &[u8], paths: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<()> {
    for path in paths {
        let text = format!("{}/", path.display());
        ensure!(
            memchr::memmem::find(program, text.as_bytes()).is_none(),
            "the binary names a folder of this machine: {}",
            path.display()
        );
    }
    Ok(())
}

pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

fn rustc() -> String {
    std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())
}

fn sysroot() -> anyhow::Result<PathBuf> {
    Ok(output(Command::new(rustc()).args(["--print", "sysroot"]))?
        .trim()
        .into())
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(folder) => Ok(folder.into()),
        None => Ok(std::env::home_dir()
            .context("there is no home folder")?
            .join(".cargo")),
    }
}

/// What a program prints.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running {name}"))?;
    ensure!(output.status.success(), "{name} failed: {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("reading what {name} printed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_place(path: &str, name: &str) -> Place {
        Place {
            path: path.into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_folder_inside_another_is_told_after_it() {
        let places = in_order(vec![
            mk_place("/home/me/target", "target"),
            mk_place("/home/me", "sources"),
            mk_place("/home/me/.cargo/home", "cargo"),
        ]);
        let [(_, rust), (_, c)] = variables(&places).unwrap();
        assert_eq!(
            rust.split('\x1f').collect::<Vec<_>>(),
            [
                "--remap-path-prefix=/home/me=sources",
                "--remap-path-prefix=/home/me/target=target",
                "--remap-path-prefix=/home/me/.cargo/home=cargo",
            ]
        );
        assert!(
            c.starts_with("-ffile-prefix-map=/home/me=sources -ffile-prefix-map=/home/me/target=target "),
            "{c}"
        );
    }

    #[test]
    fn a_folder_that_compilers_would_misread_is_refused() {
        for path in ["/my work", "/a=b"] {
            let error = variables(&[mk_place(path, "sources")]).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }

    #[test]
    fn a_binary_that_wants_a_loader_is_not_static() {
        // This test is one.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = check_static(&own).unwrap_err();
        assert!(error.to_string().contains("not static"), "{error}");
        assert!(check_static(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn a_binary_that_names_a_folder_is_refused() {
        let check = |text: &str| check_paths(text.as_bytes(), [Path::new("/home/me/here")]);
        assert!(check("cargo/registry /home/me/heretic /elsewhere").is_ok());
        let error = check("panicked at /home/me/here/src/main.rs").unwrap_err();
        assert!(error.to_string().contains("/home/me/here"), "{error}");
    }
}
