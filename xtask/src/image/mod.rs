//! The installer's image: a static binary, and an OCI archive around it that takes no container engine.
//!
//! ```text
//!   sources ─▶ build ─▶ Binary (static, without a path of this machine)
//!                          │ with certificates and an empty /tmp
//!                          ▼
//!                      contents ─▶ archive::write ─▶ Archive { bytes, digest } ─▶ FILE
//!                          └─▶ target/image/root, which the Dockerfile copies
//! ```
//!
//! The same sources give the same digest, wherever they lie and whenever they are built; the compilers must be the same.

pub mod archive;
pub mod build;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use archive::{Archive, Entry, Node};
use build::Binary;

/// What `cargo xtask image` is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the archive goes; by default [`ARCHIVE`] in the folder of images.
    pub output: Option<PathBuf>,
    /// Build once more from a copy of the sources, and compare.
    pub verify: bool,
}

/// The archive's name below the build's own target folder.
pub const ARCHIVE: &str = "ks-installer.oci.tar";

/// More than this, in bytes, and the image is refused.
pub const LIMIT: u64 = 25_000_000;

/// Where the program finds the certificates that it trusts, as on Debian.
pub const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// The crate that they come from.
pub const CERTIFICATES_CRATE: &str = "webpki-root-certs";

/// What is run in the cluster, and so names the image.
const DEPLOYMENT: &str = "deploy/kubesphere-installer.yaml";

/// An image that was made.
#[derive(Debug)]
pub struct Image {
    pub binary: Binary,
    pub archive: Archive,
    /// Where the archive was written.
    pub path: PathBuf,
}

/// Builds the binary, checks it, and writes the archive.
///
/// # Errors
/// The machine lacks something to build with, the binary is not what it should be, the image is too large, or, where that
/// is asked for, a second build differs.
pub fn run(root: &Path, options: &Options, report: &dyn Fn(&str)) -> anyhow::Result<Image> {
    let root = &fs::canonicalize(root).context("finding the sources")?;
    let folder = target(root).join("image");
    build::prepare(report)?;
    let (binary, archive) = make(root, &folder)?;
    let path = options.output.clone().unwrap_or_else(|| folder.join(ARCHIVE));
    fs::write(&path, &archive.bytes).with_context(|| format!("cannot write {}", path.display()))?;
    let size = archive.bytes.len() as u64;
    report(&format!(
        "{} {} ({:.1} MB; the binary is static, {:.1} MB)",
        name(root)?,
        archive.digest,
        megabytes(size),
        megabytes(binary.size)
    ));
    report(&format!("wrote {}", path.display()));
    check_size(size)?;
    if options.verify {
        report("building once more, from a copy of the sources");
        verify(root, &archive)?;
        report("the second build has the same digest");
    }
    Ok(Image {
        binary,
        archive,
        path,
    })
}

/// Binary and archive of the sources in `root`; what the image holds is left in `folder`/root for the Dockerfile.
fn make(root: &Path, folder: &Path) -> anyhow::Result<(Binary, Archive)> {
    let binary = build::build(root, folder)?;
    let program = fs::read(&binary.path).context("reading the binary")?;
    let contents = contents(program);
    archive::lay_out(&contents, &folder.join("root")).context("laying out what the image holds")?;
    let archive = archive::write(&contents, &name(root)?, source_date()?)?;
    Ok((binary, archive))
}

/// What the image holds.
fn contents(program: Vec<u8>) -> Vec<Entry> {
    let folder = |path: &str, mode| Entry {
        path: path.into(),
        mode,
        node: Node::Folder,
    };
    let file = |path: &str, mode, content| Entry {
        path: path.into(),
        mode,
        node: Node::File(content),
    };
    vec![
        folder("etc", 0o755),
        folder("etc/ssl", 0o755),
        folder("etc/ssl/certs", 0o755),
        file(CERTIFICATES, 0o644, certificates().into_bytes()),
        file("ks-installer", 0o755, program),
        folder("tmp", 0o1777),
    ]
}

/// The certificates that Mozilla trusts, in PEM: object storage is reached with TLS, and an image from scratch has none.
fn certificates() -> String {
    let mut text = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        for at in (0..encoded.len()).step_by(64) {
            text.push_str(&encoded[at..encoded.len().min(at + 64)]);
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// Repository and tag, as the deployment has them.
///
/// # Errors
/// The manifest names no image, or more than one.
pub fn name(root: &Path) -> anyhow::Result<String> {
    let manifest =
        fs::read_to_string(root.join(DEPLOYMENT)).with_context(|| format!("reading {DEPLOYMENT}"))?;
    name_in(&manifest)
}

fn name_in(manifest: &str) -> anyhow::Result<String> {
    let mut names = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("image: "));
    let name = names
        .next()
        .with_context(|| format!("{DEPLOYMENT} names no image"))?;
    ensure!(names.next().is_none(), "{DEPLOYMENT} names more than one image");
    Ok(name.to_owned())
}

/// Seconds since 1970 that stand for when the sources were written.
fn source_date() -> anyhow::Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH is not a number of seconds: {text}")),
        Err(_) => Ok(0),
    }
}

/// The folder that cargo builds in.
pub fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn check_size(bytes: u64) -> anyhow::Result<()> {
    ensure!(
        bytes <= LIMIT,
        "the image has {bytes} bytes, more than the {LIMIT} that it may have"
    );
    Ok(())
}

fn verify(root: &Path, first: &Archive) -> anyhow::Result<()> {
    let elsewhere = tempfile::tempdir().context("making a folder for the second build")?;
    let elsewhere = fs::canonicalize(elsewhere.path()).context("finding the folder of the second build")?;
    let copy = elsewhere.join("copy/of/the/sources");
    copy_sources(root, &copy, &[target(root), root.join(".git")]).context("copying the sources")?;
    let (_, second) = make(&copy, &elsewhere.join("built"))?;
    ensure!(
        first.digest == second.digest,
        "a second build differs: the first has {}, the second {}",
        first.digest,
        second.digest
    );
    Ok(())
}

fn copy_sources(from: &Path, to: &Path, without: &[PathBuf]) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let path = entry.path();
        if without.contains(&path) {
            continue;
        }
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_sources(&path, &copy, without)?;
        } else {
            fs::copy(&path, &copy)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deployment_names_the_image() {
        let manifest =
            "spec:\n  containers:\n  - name: a\n    image: some/where:v1\n    imagePullPolicy: Always\n";
        assert_eq!(name_in(manifest).unwrap(), "some/where:v1");
        assert!(name_in("spec: {}").is_err());
        assert!(name_in(&manifest.repeat(2)).is_err());
        let real = name(&crate::generate::workspace()).unwrap();
        assert!(real.starts_with("kubesphere/ks-installer:v"), "{real}");
    }

    #[test]
    fn an_image_that_is_too_large_is_refused() {
        assert!(check_size(LIMIT).is_ok());
        assert!(
            check_size(LIMIT + 1)
                .unwrap_err()
                .to_string()
                .contains("25000001")
        );
    }

    #[test]
    fn the_certificates_can_be_read() {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;

        let text = certificates();
        let read: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(read, webpki_root_certs::TLS_SERVER_ROOT_CERTS);
        let mut roots = rustls::RootCertStore::empty();
        assert_eq!(roots.add_parsable_certificates(read.clone()), (read.len(), 0));
    }

    #[test]
    fn a_copy_of_the_sources_has_neither_history_nor_what_was_built() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for path in [".git", "target/deep", "crates/target", "crates/a/src"] {
            fs::create_dir_all(root.join(path)).unwrap();
            fs::write(root.join(path).join("file"), path).unwrap();
        }
        let copy = tempfile::tempdir().unwrap();
        let copy = copy.path().join("copy");
        copy_sources(root, &copy, &[root.join("target"), root.join(".git")]).unwrap();
        assert_eq!(
            fs::read_to_string(copy.join("crates/a/src/file")).unwrap(),
            "crates/a/src"
        );
        assert!(copy.join("crates/target/file").exists());
        assert!(!copy.join("target").exists() && !copy.join(".git").exists());
    }

    /// Where there is a container engine, the Dockerfile makes the same.
    #[test]
    fn the_dockerfile_says_what_the_archive_says() {
        let text = fs::read_to_string(crate::generate::workspace().join("Dockerfile")).unwrap();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .collect();
        let mut expect = vec![
            "FROM scratch".to_owned(),
            "COPY target/image/root/ /".to_owned(),
            format!("USER {}", archive::USER),
            format!("ENTRYPOINT {:?}", archive::ENTRYPOINT),
            format!("CMD {:?}", archive::COMMAND),
        ];
        expect.extend(
            archive::LABELS
                .iter()
                .map(|(name, text)| format!("LABEL {name}={text:?}")),
        );
        assert_eq!(lines, expect);
    }
}
