//! For who writes components: renders them for a cluster that is kept in a file, and says how the objects differ from
//! those of the cluster, in both directions.
//!
//!     cargo run -q -p release --example parity -- monitoring grafana --details
//!
//! `live`: what is rendered, and the live object lacks or contradicts. `lost`: what was declared of the live object
//! (by `kubectl apply`, or in Helm's record), and is not rendered. Release data is read from the folder, so nothing
//! has to be compiled again.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]
#![allow(clippy::print_stderr, reason = "a program for the terminal")]
#![allow(clippy::disallowed_methods, reason = "it reads files that its arguments name")]

#[path = "../tests/common/compare.rs"]
mod compare;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use compare::{Difference, differences, lost, plain, plain_definition, without_passwords, without_wording};
use object::{Object, ObjectKey};
use release::{Cluster, Component, Files, Inputs, Release, Releases, helm, render, secret};
use serde_json::{Map, Value, json};

type Error = Box<dyn std::error::Error>;

const USAGE: &str =
    "usage: parity COMPONENT... [--state FILE] [--release VERSION] [--namespace NAME]... [--details] [--keep FILE]
  COMPONENT    name of a folder in the release's components; need not be in release.yaml yet
  --state      objects of a cluster, one a line, zstd (default: the reference with all components)
  --namespace  also names objects of this namespace that somebody declared and none of the components renders
  --details    with both values of every difference
  --keep       write the cluster's side, without wording and secrets, to a file that a test can read";

#[derive(Default)]
struct Options {
    components: Vec<String>,
    state: String,
    release: String,
    namespaces: Vec<String>,
    details: bool,
    keep: Option<String>,
}

fn options() -> Option<Options> {
    let mut options = Options {
        state: "../shared/reference/kubesphere-3.3.1-all-by-upstream.ndjson.zst".into(),
        release: "v3.3.1".into(),
        ..Options::default()
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--state" => options.state = words.next()?,
            "--release" => options.release = words.next()?,
            "--namespace" => options.namespaces.push(words.next()?),
            "--details" => options.details = true,
            "--keep" => options.keep = Some(words.next()?),
            _ if word.starts_with('-') => return None,
            _ => options.components.push(word),
        }
    }
    (!options.components.is_empty()).then_some(options)
}

/// A cluster as a file has it.
struct State {
    objects: BTreeMap<ObjectKey, Object>,
}

impl State {
    fn read(path: &str) -> Result<Self, Error> {
        let packed = fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        let text = String::from_utf8(zstd::decode_all(packed.as_slice())?)?;
        let mut objects = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let object = Object::try_from(serde_json::from_str::<Value>(line)?)?;
            objects.insert(object.key(), object);
        }
        Ok(Self { objects })
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Object> {
        self.objects.values().filter(move |object| object.kind() == kind)
    }

    fn spec(&self) -> Value {
        self.of_kind("ClusterConfiguration")
            .next()
            .and_then(|object| object.get("/spec"))
            .cloned()
            .unwrap_or_default()
    }

    fn cluster(&self) -> Cluster {
        let nodes: Vec<&Object> = self.of_kind("Node").collect();
        let is_master = |node: &&&Object| {
            ["master", "control-plane"]
                .iter()
                .any(|role| node.label(&format!("node-role.kubernetes.io/{role}")).is_some())
        };
        Cluster {
            kubernetes_version: nodes
                .first()
                .and_then(|node| node.get_str("/status/nodeInfo/kubeletVersion"))
                .unwrap_or("v1.20.2")
                .to_owned(),
            nodes: nodes.len(),
            masters: nodes.iter().filter(is_master).count(),
            container_runtime: nodes
                .first()
                .and_then(|node| node.get_str("/status/nodeInfo/containerRuntimeVersion"))
                .and_then(|version| version.split(':').next())
                .map(|name| name.replace("cri-o", "crio"))
                .unwrap_or_default(),
            namespaces: self
                .of_kind("Namespace")
                .map(|namespace| {
                    let labels = namespace.get("/metadata/labels").cloned().unwrap_or_default();
                    (
                        namespace.name().to_owned(),
                        serde_json::from_value(labels).unwrap_or_default(),
                    )
                })
                .collect(),
        }
    }

    /// A secret's bytes; a placeholder where the state has none.
    fn secret(&self, spec: &Value, reference: &secret::Reference) -> Vec<u8> {
        let found = match reference {
            secret::Reference::Secret {
                namespace, name, key, ..
            } => self
                .objects
                .get(&ObjectKey::namespaced("", "Secret", namespace, name))
                .and_then(|secret| secret.get("/data")?.get(key)?.as_str())
                .and_then(|text| STANDARD.decode(text).ok()),
            secret::Reference::Setting { path } => {
                secret::setting_text(spec, path).map(|text| text.as_bytes().to_vec())
            }
        };
        found.unwrap_or_else(|| format!("(not in the state: {reference})").into_bytes())
    }

    /// What the latest revision of the component's Helm release declares.
    fn helm(&self, component: &Component) -> Result<BTreeMap<ObjectKey, Object>, Error> {
        let Some(release) = &component.helm else {
            return Ok(BTreeMap::new());
        };
        let records = helm::history(self.of_kind("Secret"), &release.name, &release.namespace)?;
        let Some(record) = helm::latest_deployed(&records).or(records.last()) else {
            println!(
                "{}: no Helm release {} in {}",
                component.name, release.name, release.namespace
            );
            return Ok(BTreeMap::new());
        };
        let chart = |name: &str| {
            record
                .chart()
                .pointer(&format!("/metadata/{name}"))
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        for (what, ours, theirs) in [
            ("name", &release.chart.name, chart("name")),
            ("version", &release.chart.version, chart("version")),
            ("appVersion", &release.chart.app_version, chart("appVersion")),
        ] {
            if *ours != theirs {
                println!(
                    "{}: chart {what} is {ours}, Helm recorded {theirs}",
                    component.name
                );
            }
        }
        Ok(record
            .manifest_objects(&helm::is_namespaced)?
            .into_iter()
            .map(|object| (object.key(), object))
            .collect())
    }
}

/// The release as its folder has it now, with the components given added where `release.yaml` does not name them.
fn load(version: &str, components: &[String]) -> Result<Release, Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../releases");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root)?.to_string_lossy().replace('\\', "/");
            // Components that others are writing are none of ours: they may be half done.
            let foreign = name
                .strip_prefix(&format!("{version}/components/"))
                .is_some_and(|rest| !components.iter().any(|c| rest.starts_with(&format!("{c}/"))));
            if foreign {
                continue;
            }
            let mut text = fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
            if name == format!("{version}/release.yaml") {
                text = name_components(&text, components);
            } else if name.ends_with("/release.yaml") {
                continue;
            }
            files.push((name, text));
        }
    }
    let files: Files = files.into_iter().collect();
    let release = Releases::load(&files)?;
    Ok(release
        .get(&version.parse()?)
        .ok_or("there is no such release")?
        .clone())
}

/// `release.yaml` with these components only.
fn name_components(text: &str, components: &[String]) -> String {
    let head = text.split("\ncomponents:").next().unwrap_or_default();
    let list: Vec<String> = components.iter().map(|name| format!("- {name}\n")).collect();
    format!("{head}\ncomponents:\n{}", list.concat())
}

/// A value that fits a line.
fn short(value: &Value) -> String {
    let text = value.to_string();
    let mut cut: String = text.chars().take(200).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

fn print(key: &ObjectKey, what: &str, found: &[Difference], details: bool) {
    for difference in found {
        let Difference { path, here, there } = difference;
        println!("{key} | {what} | {path}");
        if details {
            println!("    {}\n    {}", short(here), short(there));
        }
    }
}

/// What was observed, without what is in Secrets.
fn without_secrets(component: &Component, existing: &Map<String, Value>) -> Map<String, Value> {
    let mut existing = existing.clone();
    for (name, observation) in &component.existing {
        if observation.object.is_secret()
            && let Some(value) = existing.get_mut(name).filter(|value| value.is_string())
        {
            *value = "(secret)".into();
        }
    }
    for value in existing.values_mut() {
        without_passwords("", value);
    }
    existing
}

fn keep(kept: &mut Vec<Value>, component: &str, live: &Object, declared: Option<&Value>, in_helm: bool) {
    let mut live = plain(live.declared());
    if live["kind"] == "CustomResourceDefinition" {
        live = plain_definition(live);
    }
    kept.push(json!({
        "component": component,
        "live": without_wording(live),
        "declared": declared.cloned().map(without_wording),
        "helm": in_helm,
    }));
}

fn run(options: &Options) -> Result<(), Error> {
    let state = State::read(&options.state)?;
    let release = load(&options.release, &options.components)?;
    let spec = state.spec();
    let cluster = state.cluster();
    let mut rendered: BTreeSet<ObjectKey> = BTreeSet::new();
    let mut kept: Vec<Value> = Vec::new();
    for component in &release.components {
        let settings = release
            .read_settings(component, &spec)
            .map_err(|problems| format!("{problems:?}"))?;
        let inputs = Inputs {
            settings,
            cluster: cluster.clone(),
            existing: component.observe(|key| state.objects.get(key)),
        };
        if !component.is_enabled(&release, &inputs)? {
            println!("{}: these settings do not ask for it", component.name);
        }
        for check in component.failed_checks(&release, &inputs)? {
            println!("{}: {}: {}", component.name, check.reason, check.message);
        }
        kept.push(json!({
            "component": component.name, "spec": spec, "cluster": cluster,
            "existing": without_secrets(component, &inputs.existing),
        }));
        let in_helm = state.helm(component)?;
        let manifests = render(&release, component, &inputs)?;
        let (mut same, mut differ) = (0, 0);
        for manifest in &manifests {
            let key = manifest.object.key();
            rendered.insert(key.clone());
            let lookup = |reference: &secret::Reference| Some(state.secret(&spec, reference));
            let ours = secret::resolve(manifest.object.as_value(), &lookup)
                .map_err(|reference| format!("{key}: {reference} cannot be put in"))?;
            let Some(live) = state.objects.get(&key) else {
                println!("{key} | live | the whole object");
                differ += 1;
                continue;
            };
            let found = differences(&ours, live.as_value());
            print(&key, "live", &found, options.details);
            let mut count = found.len();
            let declared = match in_helm.get(&key) {
                Some(object) => Some(object.as_value().clone()),
                None => live.last_applied(),
            };
            let is_definition = key.kind == "CustomResourceDefinition";
            // A CRD is too large for the annotation; what is live of it was declared.
            let declared = declared.or_else(|| is_definition.then(|| live.declared()));
            if let Some(declared) = declared.map(plain) {
                let declared = if is_definition {
                    plain_definition(declared)
                } else {
                    declared
                };
                keep(
                    &mut kept,
                    &component.name,
                    live,
                    Some(&declared),
                    in_helm.contains_key(&key),
                );
                let found = lost(&declared, live.as_value(), &ours);
                print(&key, "lost", &found, options.details);
                count += found.len();
            } else {
                keep(&mut kept, &component.name, live, None, false);
                println!("{key} | lost | nothing is known of what was declared");
            }
            if manifest.in_helm_release && !in_helm.is_empty() && !in_helm.contains_key(&key) {
                println!("{key} | helm | is not in Helm's record");
                count += 1;
            }
            if count == 0 {
                same += 1;
            } else {
                differ += 1;
            }
        }
        for (key, object) in in_helm.iter().filter(|(key, _)| !rendered.contains(key)) {
            keep(&mut kept, &component.name, object, Some(object.as_value()), true);
            println!("{key} | helm | is not rendered");
            differ += 1;
        }
        println!("{}: {same} objects are the same, {differ} differ", component.name);
        for name in release::images_of(&manifests) {
            if options.details {
                println!("    image {name}");
            }
        }
    }
    if let Some(path) = &options.keep {
        let lines: Vec<String> = kept.iter().map(|line| format!("{line}\n")).collect();
        fs::write(path, zstd::encode_all(lines.concat().as_bytes(), 19)?)?;
    }
    for (key, live) in &state.objects {
        let of_namespace = key
            .namespace
            .as_ref()
            .is_some_and(|namespace| options.namespaces.contains(namespace));
        let owned = live
            .get("/metadata/ownerReferences")
            .and_then(Value::as_array)
            .is_some_and(|owners| !owners.is_empty());
        let made_by_helm = live.annotation("meta.helm.sh/release-name").is_some();
        if of_namespace
            && !owned
            && !rendered.contains(key)
            && (made_by_helm || live.last_applied().is_some())
        {
            println!("{key} | declared | is not rendered");
        }
    }
    for problem in release::lint(&release) {
        println!("lint: {problem}");
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
