//! What is given to users, in one folder: binary, image, manifests, list of images, bill of materials, checksums.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use cargo_metadata::MetadataCommand;

use crate::image::archive::sha256;
use crate::image::build::{TARGET, cargo, output};
use crate::image::{self, Image};
use crate::sbom;

/// What is taken as it stands in the sources.
const MANIFESTS: &[&str] = &[
    "deploy/kubesphere-installer.yaml",
    "deploy/cluster-configuration.yaml",
];

const CHECKSUMS: &str = "SHA256SUMS";

/// By name.
type Files = BTreeMap<String, Vec<u8>>;

/// Makes the release in `folder`, by default below the folder that cargo builds in. Gives the folder.
///
/// # Errors
/// Something cannot be built, read or written.
pub fn run(root: &Path, folder: Option<PathBuf>, report: &dyn Fn(&str)) -> anyhow::Result<PathBuf> {
    let image = image::run(root, &image::Options::default(), report)?;
    let folder =
        folder.unwrap_or_else(|| image::target(root).join(format!("release-{}", env!("CARGO_PKG_VERSION"))));
    let files = with_checksums(collect(root, image)?);
    write(&files, &folder)?;
    for (name, content) in &files {
        report(&format!("{:>10} {name}", content.len()));
    }
    Ok(folder)
}

fn collect(root: &Path, image: Image) -> anyhow::Result<Files> {
    let program = fs::read(&image.binary.path).context("reading the binary")?;
    let metadata = MetadataCommand::new()
        .cargo_path(cargo())
        .current_dir(root)
        .other_options(["--locked", "--filter-platform", TARGET].map(str::to_owned))
        .exec()
        .context("reading cargo's metadata")?;
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("reading Cargo.lock")?;
    let subject = sbom::Subject {
        package: "ks-installer",
        sha256: &sha256(&program),
        crates: &image.binary.crates,
        data: &[image::CERTIFICATES_CRATE],
    };
    let bill = sbom::bill(&metadata, &lock, &subject)?;
    let images = output(
        Command::new(cargo())
            .args([
                "run",
                "--quiet",
                "--locked",
                "--package",
                "release",
                "--example",
                "images",
            ])
            .current_dir(root),
    )?;
    let mut files = Files::from([
        ("images.txt".to_owned(), images_file(&images, &image::name(root)?)),
        ("ks-installer-linux-amd64".to_owned(), program),
        (image::ARCHIVE.to_owned(), image.archive.bytes),
        ("sbom.cdx.json".to_owned(), bill),
    ]);
    for path in MANIFESTS {
        let content = fs::read(root.join(path)).with_context(|| format!("reading {path}"))?;
        let name = path.rsplit('/').next().unwrap_or(path);
        files.insert(name.to_owned(), content);
    }
    Ok(files)
}

/// The release's images and the installer's own, one a line, sorted, each once.
fn images_file(images: &str, own: &str) -> Vec<u8> {
    let mut images: Vec<&str> = images.lines().chain([own]).collect();
    images.sort_unstable();
    images.dedup();
    let mut text = images.join("\n");
    text.push('\n');
    text.into_bytes()
}

/// The files, and the list of their checksums as `sha256sum --check` reads it.
fn with_checksums(mut files: Files) -> Files {
    let mut list = String::new();
    for (name, content) in &files {
        list.push_str(&format!("{}  {name}\n", sha256(content)));
    }
    files.insert(CHECKSUMS.to_owned(), list.into_bytes());
    files
}

/// Writes the files; only the program may be run.
fn write(files: &Files, folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, content) in files {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        let mode = if content.starts_with(b"\x7fELF") {
            0o755
        } else {
            0o644
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_files() -> Files {
        [("b", "second"), ("a", "\x7fELF")]
            .map(|(name, content)| (name.to_owned(), content.into()))
            .into()
    }

    #[test]
    fn checksums_are_what_sha256sum_checks() {
        let folder = tempfile::tempdir().unwrap();
        let files = with_checksums(mk_files());
        write(&files, folder.path()).unwrap();
        assert_eq!(files.len(), 3);
        let check = || {
            Command::new("sha256sum")
                .args(["--check", "--strict", "--status", CHECKSUMS])
                .current_dir(folder.path())
                .status()
                .unwrap()
                .success()
        };
        assert!(check());
        fs::write(folder.path().join("b"), "Second").unwrap();
        assert!(!check());
    }

    #[test]
    fn only_the_program_can_be_run() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        write(&mk_files(), folder.path()).unwrap();
        let mode = |name: &str| {
            let permissions = fs::metadata(folder.path().join(name)).unwrap().permissions();
            permissions.mode() & 0o777
        };
        assert_eq!((mode("a"), mode("b")), (0o755, 0o644));
    }

    #[test]
    fn the_list_of_images_has_our_own() {
        assert_eq!(images_file("b:1\na:2\n", "aa:3"), b"a:2\naa:3\nb:1\n");
        assert_eq!(images_file("b:1\na:2\n", "a:2"), b"a:2\nb:1\n");
    }
}
