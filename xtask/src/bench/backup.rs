//! A backup of a large cluster: time, size of the archive, memory.
//!
//! The cluster is a sandbox in a process of its own, so that its memory does not count: the tenants' objects, and a hundred
//! thousand more of the kinds that a backup is of.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::{Bench, Row, build, number_at, row};
use crate::control_plane;

/// Objects besides the tenants'.
const OBJECTS: u32 = 100_000;

pub(super) fn measure(bench: &Bench<'_>, root: &Path) -> anyhow::Result<Row> {
    let server = build(root, &["-p", "sandbox", "--example", "serve"])?.join("examples/serve");
    (bench.report)(&format!("a cluster of {OBJECTS} objects"));
    let cluster = bench.folder.join("cluster.ndjson");
    write_cluster(&cluster, &bench.options.dump, (0..OBJECTS).map(mk_object))?;
    let kubeconfig = bench.folder.join("kubeconfig");
    let _served = Served::start(&server, &cluster, &kubeconfig)?;
    let place = bench.folder.join("backups");
    fs::create_dir_all(&place).context("making a folder for the backups")?;
    let (place, kubeconfig) = (place.to_string_lossy(), kubeconfig.to_string_lossy());
    let arguments = [
        "backup",
        "--to",
        &place,
        "-o",
        "json",
        "--kubeconfig",
        &kubeconfig,
    ];
    let samples = bench.repeat("backup of a large cluster", &arguments)?;
    let last = samples.last().context("at least one run is needed")?;
    let objects = number_at(last, "objects")?;
    if objects < f64::from(OBJECTS) {
        bail!("only {objects} objects are in the backup");
    }
    let document: Value = serde_json::from_str(&last.stdout).context("reading what the program printed")?;
    let archive = document["backup"].as_str().context("there is no backup")?;
    let size = fs::metadata(archive)
        .with_context(|| format!("looking at {archive}"))?
        .len();
    row(
        format!(
            "`backup` of {objects} objects, read back; the archive has {} MB",
            size / 1_000_000
        ),
        &samples,
        "< 200 MB",
    )
}

/// A sandbox that is served by a process of its own, until this is dropped.
pub(super) struct Served {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Served {
    pub(super) fn start(program: &Path, cluster: &Path, kubeconfig: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .arg(cluster)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the sandbox")?;
        let out = child.stdout.take().context("the sandbox has no output")?;
        let mut served = Self {
            child,
            lines: BufReader::new(out).lines(),
        };
        let mut text = String::new();
        while let Some(line) = served.lines.next() {
            let line = line.context("reading the sandbox's kubeconfig")?;
            text.push_str(&line);
            text.push('\n');
            if line.starts_with("current-context:") {
                fs::write(kubeconfig, text).context("writing the sandbox's kubeconfig")?;
                return Ok(served);
            }
        }
        bail!("the sandbox ended before it served")
    }

    /// How many requests there were so far.
    pub(super) fn requests(&mut self) -> anyhow::Result<u64> {
        let asked = self.child.stdin.as_mut().context("the sandbox has no input")?;
        writeln!(asked).context("asking the sandbox")?;
        // What is left of the kubeconfig comes first.
        for line in &mut self.lines {
            if let Ok(number) = line.context("reading the sandbox's answer")?.trim().parse() {
                return Ok(number);
            }
        }
        bail!("the sandbox ended")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The dump, and more.
pub(super) fn write_cluster(
    path: &Path,
    dump: &Path,
    more: impl Iterator<Item = Value>,
) -> anyhow::Result<()> {
    let objects = control_plane::read_dump(dump)?;
    let writing = || format!("writing {}", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(writing)?);
    for object in objects.into_iter().chain(more) {
        writeln!(out, "{object}").with_context(writing)?;
    }
    out.flush().with_context(writing)
}

/// A custom role like those of a busy cluster.
pub(super) fn mk_role(number: u32) -> Value {
    // Every third object is one.
    mk_object(number * 6 + 2 * (number % 2))
}

/// An object like those of a busy cluster: of some kilobytes, with managedFields, no two alike.
fn mk_object(number: u32) -> Value {
    const KINDS: [(&str, &str); 6] = [
        ("rbac.authorization.k8s.io/v1", "Role"),
        ("rbac.authorization.k8s.io/v1", "RoleBinding"),
        ("iam.kubesphere.io/v1alpha2", "WorkspaceRole"),
        ("iam.kubesphere.io/v1alpha2", "User"),
        ("v1", "ConfigMap"),
        ("v1", "Secret"),
    ];
    let (api_version, kind) = KINDS[number as usize % KINDS.len()];
    let mut object = json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": format!("object-{number}"),
            "uid": format!("{}-{number:08}", noise(number, 0, 4)),
            "resourceVersion": (number + 1_000_000).to_string(),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": format!("app-{}", number % 100), "kubesphere.io/workspace": format!("w-{}", number % 40)},
            "managedFields": [{"manager": "controller-manager", "operation": "Update", "apiVersion": api_version,
                "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}, "f:kubesphere.io/workspace": {}}}}}],
        },
    });
    let metadata = &mut object["metadata"];
    match kind {
        "Role" | "RoleBinding" => metadata["namespace"] = format!("project-{}", number / 60).into(),
        "ConfigMap" | "Secret" => metadata["namespace"] = "kubesphere-system".into(),
        _ => {}
    }
    match kind {
        "Role" | "WorkspaceRole" => {
            let rule = |index: u32| json!({"apiGroups": ["apps", format!("{}.example.org", noise(number, index, 2))], "resources": ["*"], "verbs": ["get", "list"]});
            object["rules"] = (0..12).map(rule).collect();
        }
        "RoleBinding" => {
            object["roleRef"] =
                json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "admin"});
            object["subjects"] = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": noise(number, 0, 4)}]);
        }
        "User" => {
            object["spec"] =
                json!({"email": format!("{number}@example.org"), "password": noise(number, 0, 8)});
        }
        _ => {
            // Valid base64 as well.
            let field = |index: u32| (format!("key-{index}"), Value::from(noise(number, index, 40)));
            object["data"] = (0..6).map(field).collect::<serde_json::Map<_, _>>().into();
        }
    }
    object
}

/// Digits that do not compress away, eight of them a word.
fn noise(number: u32, salt: u32, words: u32) -> String {
    let mut state = u64::from(number) << 32 | u64::from(salt) << 16 | 1;
    let mut text = String::new();
    for _ in 0..words {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{:08x}", state >> 32));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_objects_are_alike() {
        let objects: BTreeSet<String> = (0..600).map(|number| mk_object(number).to_string()).collect();
        assert_eq!(objects.len(), 600);
        let sizes: usize = objects.iter().map(String::len).sum();
        assert!(sizes / 600 > 1000, "{}", sizes / 600);
    }
}
