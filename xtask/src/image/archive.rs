//! An OCI image layout in one tar archive, as `ctr images import`, `podman load`, `docker load` and skopeo take it.
//!
//! The same contents give the same bytes: entries are sorted, belong to root, and have the date that is given.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::str::FromStr as _;

use anyhow::Context as _;
use flate2::{Compression, GzBuilder};
use oci_spec::image::{
    ANNOTATION_REF_NAME, Arch, ConfigBuilder, Descriptor, DescriptorBuilder, HistoryBuilder,
    ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder, MediaType, OciLayoutBuilder, Os,
    PlatformBuilder, RootFsBuilder, SCHEMA_VERSION, Sha256Digest,
};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Whom the program runs as: nobody, by number, so that a cluster can tell that it is not root.
pub const USER: &str = "65532:65532";
pub const ENTRYPOINT: &[&str] = &["/ks-installer"];
pub const COMMAND: &[&str] = &["operator"];
pub const LABELS: &[(&str, &str)] = &[
    (
        "org.opencontainers.image.description",
        "Upgrades KubeSphere on a Kubernetes cluster that somebody else set up",
    ),
    ("org.opencontainers.image.licenses", "Apache-2.0"),
    ("org.opencontainers.image.title", "ks-installer"),
];

/// What containerd and podman call an image by.
const ANNOTATION_NAME: &str = "io.containerd.image.name";

/// Something in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the root, without a slash at its beginning or end.
    pub path: String,
    pub mode: u32,
    pub node: Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Folder,
    File(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    pub bytes: Vec<u8>,
    /// The manifest's: what the image is pulled by, `sha256:…`.
    pub digest: String,
}

/// Makes the archive of an image that is called `name` (`kubesphere/ks-installer:v3.3.1`), in one layer. `date` is in
/// seconds since 1970.
///
/// # Errors
/// The date or the name is none.
pub fn write(contents: &[Entry], name: &str, date: u64) -> anyhow::Result<Archive> {
    let mut blobs = Blobs::default();
    let layer = tar(contents, date).context("packing the layer")?;
    let (diff, compressed) = (sha256(&layer), gzip(&layer).context("compressing the layer")?);
    let layer = blobs.add(MediaType::ImageLayerGzip, compressed)?;
    let config = blobs.add_json(MediaType::ImageConfig, &config(&diff, date)?)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config.clone())
        .layers(vec![layer.clone()])
        .build()?;
    let manifest = blobs.add_json(MediaType::ImageManifest, &manifest)?;
    let digest = manifest.digest().to_string();

    let (_, tag) = name
        .rsplit_once(':')
        .with_context(|| format!("{name} has no tag"))?;
    let platform = PlatformBuilder::default()
        .architecture(Arch::Amd64)
        .os(Os::Linux)
        .build()?;
    let named = DescriptorBuilder::default()
        .media_type(MediaType::ImageManifest)
        .digest(manifest.digest().clone())
        .size(manifest.size())
        .platform(platform)
        .annotations([
            (ANNOTATION_NAME.to_owned(), format!("docker.io/{name}")),
            (ANNOTATION_REF_NAME.to_owned(), tag.to_owned()),
        ])
        .build()?;
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![named])
        .build()?;
    let layout = OciLayoutBuilder::default()
        .image_layout_version("1.0.0".to_owned())
        .build()?;
    // Docker before its version 25 knows no other list of what is in the archive.
    let docker = json!([{
        "Config": blob_path(&config), "RepoTags": [name], "Layers": [blob_path(&layer)],
    }]);

    let file = |path: &str, content| Entry {
        path: path.to_owned(),
        mode: 0o644,
        node: Node::File(content),
    };
    let folder = |path: &str| Entry {
        path: path.to_owned(),
        mode: 0o755,
        node: Node::Folder,
    };
    let mut entries = vec![
        folder("blobs"),
        folder("blobs/sha256"),
        file("index.json", to_json(&index)?),
        file("manifest.json", to_json(&docker)?),
        file("oci-layout", to_json(&layout)?),
    ];
    entries.extend(blobs.0.into_iter().map(|(path, content)| file(&path, content)));
    Ok(Archive {
        bytes: tar(&entries, date).context("packing the archive")?,
        digest,
    })
}

fn config(diff: &str, date: u64) -> anyhow::Result<oci_spec::image::ImageConfiguration> {
    let created = jiff::Timestamp::from_second(date.try_into().context("the date is too far away")?)
        .context("the date is too far away")?
        .to_string();
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let labels: HashMap<_, _> = LABELS
        .iter()
        .map(|&(name, text)| (name.to_owned(), text.to_owned()))
        .collect();
    let config = ConfigBuilder::default()
        .user(USER)
        .entrypoint(owned(ENTRYPOINT))
        .cmd(owned(COMMAND))
        .working_dir("/")
        .labels(labels)
        .build()?;
    let history = HistoryBuilder::default()
        .created(created.clone())
        .created_by("cargo xtask image")
        .build()?;
    let root = RootFsBuilder::default()
        .typ("layers")
        .diff_ids(vec![format!("sha256:{diff}")])
        .build()?;
    Ok(ImageConfigurationBuilder::default()
        .created(created)
        .architecture(Arch::Amd64)
        .os(Os::Linux)
        .config(config)
        .rootfs(root)
        .history(vec![history])
        .build()?)
}

/// By path in the archive.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    fn add(&mut self, media_type: MediaType, content: Vec<u8>) -> anyhow::Result<Descriptor> {
        let digest = Sha256Digest::from_str(&sha256(&content))?;
        let descriptor = Descriptor::new(media_type, content.len() as u64, digest);
        self.0.insert(blob_path(&descriptor), content);
        Ok(descriptor)
    }

    fn add_json(&mut self, media_type: MediaType, value: &impl Serialize) -> anyhow::Result<Descriptor> {
        self.add(media_type, to_json(value)?)
    }
}

fn blob_path(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digest().digest())
}

/// With keys in order: some of these types keep maps that have none.
fn to_json(value: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    let mut value: Value = serde_json::to_value(value)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn tar(entries: &[Entry], date: u64) -> io::Result<Vec<u8>> {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(entry.mode);
        header.set_mtime(date);
        header.set_uid(0);
        header.set_gid(0);
        match &entry.node {
            Node::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                archive.append_data(&mut header, format!("{}/", entry.path), io::empty())?;
            }
            Node::File(content) => {
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, &entry.path, content.as_slice())?;
            }
        }
    }
    archive.into_inner()
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Writes the contents as files, in place of what is there.
///
/// # Errors
/// Files cannot be written.
pub fn lay_out(contents: &[Entry], folder: &Path) -> io::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    for entry in contents {
        let path = folder.join(&entry.path);
        match &entry.node {
            Node::Folder => fs::create_dir(&path)?,
            Node::File(content) => fs::write(&path, content)?,
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest, OciLayout};

    use super::*;

    const NAME: &str = "kubesphere/ks-installer:v3.3.1";

    fn mk_contents(program: &str) -> Vec<Entry> {
        vec![
            Entry {
                path: "tmp".into(),
                mode: 0o1777,
                node: Node::Folder,
            },
            Entry {
                path: "ks-installer".into(),
                mode: 0o755,
                node: Node::File(program.into()),
            },
        ]
    }

    fn mk_archive(program: &str) -> Archive {
        write(&mk_contents(program), NAME, 0).unwrap()
    }

    #[derive(Debug, PartialEq)]
    struct Unpacked {
        path: String,
        mode: u32,
        owner: (u64, u64),
        date: u64,
        content: Vec<u8>,
    }

    fn unpack(bytes: &[u8]) -> Vec<Unpacked> {
        tar::Archive::new(bytes)
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                let header = entry.header();
                Unpacked {
                    path: String::from_utf8(entry.path_bytes().into_owned()).unwrap(),
                    mode: header.mode().unwrap(),
                    owner: (header.uid().unwrap(), header.gid().unwrap()),
                    date: header.mtime().unwrap(),
                    content,
                }
            })
            .collect()
    }

    fn file(archive: &Archive, path: &str) -> Vec<u8> {
        unpack(&archive.bytes)
            .into_iter()
            .find(|entry| entry.path == path)
            .unwrap_or_else(|| panic!("no {path}"))
            .content
    }

    /// What a descriptor is of: as long as it says, and with its digest.
    fn follow(archive: &Archive, descriptor: &Descriptor) -> Vec<u8> {
        let content = file(archive, &blob_path(descriptor));
        assert_eq!(content.len() as u64, descriptor.size());
        assert_eq!(sha256(&content), descriptor.digest().digest());
        content
    }

    fn manifest(archive: &Archive) -> ImageManifest {
        let index = ImageIndex::from_reader(file(archive, "index.json").as_slice()).unwrap();
        let [named] = index.manifests().as_slice() else {
            panic!("one manifest")
        };
        assert_eq!(named.digest().to_string(), archive.digest);
        ImageManifest::from_reader(follow(archive, named).as_slice()).unwrap()
    }

    #[test]
    fn the_same_contents_give_the_same_bytes_in_any_order() {
        let archive = mk_archive("program");
        let mut contents = mk_contents("program");
        contents.reverse();
        // Maps have another order every time, now and then the same.
        for _ in 0..20 {
            assert_eq!(write(&contents, NAME, 0).unwrap(), archive);
        }
    }

    #[test]
    fn other_contents_modes_and_dates_give_another_digest() {
        let digest = mk_archive("program").digest;
        assert_ne!(mk_archive("Program").digest, digest);
        assert_ne!(write(&mk_contents("program"), NAME, 1).unwrap().digest, digest);
        let mut contents = mk_contents("program");
        contents[1].mode = 0o555;
        assert_ne!(write(&contents, NAME, 0).unwrap().digest, digest);
        // The name is in the index, not in the image.
        assert_eq!(write(&mk_contents("program"), "a/b:c", 0).unwrap().digest, digest);
    }

    #[test]
    fn the_layout_leads_from_index_to_layer() {
        let archive = mk_archive("program");
        let layout = OciLayout::from_reader(file(&archive, "oci-layout").as_slice()).unwrap();
        assert_eq!(layout.image_layout_version(), "1.0.0");
        let manifest = manifest(&archive);
        let config = follow(&archive, manifest.config());
        let config = ImageConfiguration::from_reader(config.as_slice()).unwrap();
        let [layer] = manifest.layers().as_slice() else {
            panic!("one layer")
        };
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(follow(&archive, layer).as_slice())
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(
            config.rootfs().diff_ids(),
            &[format!("sha256:{}", sha256(&unpacked))]
        );
        let entry = |path: &str, mode, content: &str| Unpacked {
            path: path.into(),
            mode,
            owner: (0, 0),
            date: 0,
            content: content.into(),
        };
        assert_eq!(
            unpack(&unpacked),
            [entry("ks-installer", 0o755, "program"), entry("tmp/", 0o1777, "")]
        );
    }

    #[test]
    fn the_config_runs_the_operator_as_nobody() {
        let archive = write(&mk_contents("program"), NAME, 1_000_000_000).unwrap();
        let config: Value = serde_json::from_slice(&follow(&archive, manifest(&archive).config())).unwrap();
        assert_eq!(config["created"], "2001-09-09T01:46:40Z");
        assert_eq!(
            (&config["architecture"], &config["os"]),
            (&json!("amd64"), &json!("linux"))
        );
        let run = &config["config"];
        assert_eq!(run["User"], "65532:65532");
        assert_eq!(run["Entrypoint"], json!(["/ks-installer"]));
        assert_eq!(run["Cmd"], json!(["operator"]));
        assert_eq!(run["Labels"]["org.opencontainers.image.licenses"], "Apache-2.0");
    }

    #[test]
    fn every_tool_finds_the_name() {
        let archive = mk_archive("program");
        let index: Value = serde_json::from_slice(&file(&archive, "index.json")).unwrap();
        assert_eq!(
            index["manifests"][0]["annotations"],
            json!({
                "io.containerd.image.name": "docker.io/kubesphere/ks-installer:v3.3.1",
                "org.opencontainers.image.ref.name": "v3.3.1",
            })
        );
        let docker: Value = serde_json::from_slice(&file(&archive, "manifest.json")).unwrap();
        assert_eq!(docker[0]["RepoTags"], json!([NAME]));
        let manifest = manifest(&archive);
        assert_eq!(docker[0]["Config"], blob_path(manifest.config()));
        assert_eq!(docker[0]["Layers"], json!([blob_path(&manifest.layers()[0])]));
        assert!(write(&[], "kubesphere/ks-installer", 0).is_err());
    }

    #[test]
    fn what_is_laid_out_has_the_modes_of_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("root");
        for program in ["old", "program"] {
            lay_out(&mk_contents(program), &folder).unwrap();
        }
        let mode = |path: &str| fs::metadata(folder.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("tmp"), mode("ks-installer")), (0o1777, 0o755));
        assert_eq!(
            fs::read_to_string(folder.join("ks-installer")).unwrap(),
            "program"
        );
    }
}
