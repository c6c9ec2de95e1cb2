//! What components render, measured against what upstream's installer left on a real cluster with all of them enabled.
//! Differences are told in docs/parity-components.md, each with its reason; one that is not told, or told but not
//! there, fails.
//!
//! The reference is written by `cargo run -p release --example parity -- COMPONENT… --keep FILE`, without wording and
//! without secrets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/compare.rs"]
mod compare;

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectKey};
use release::{Inputs, Releases, render, secret};
use serde_json::Value;

/// Upstream could not upgrade DevOps on that cluster; its objects, and Argo CD's, are those of a run in which its
/// certificate was helped along, beside what else the cluster has.
const REFERENCES: [&[u8]; 4] = [
    include_bytes!("fixtures/devops-v3.3.1.ndjson.zst"),
    include_bytes!("fixtures/logging-v3.3.1.ndjson.zst"),
    include_bytes!("fixtures/monitoring-v3.3.1.ndjson.zst"),
    include_bytes!("fixtures/platform-v3.3.1.ndjson.zst"),
];

/// What a cluster has of one object.
struct Known {
    live: Value,
    declared: Value,
    in_helm_release: bool,
}

/// What a cluster has of one component.
#[derive(Default)]
struct Reference {
    spec: Value,
    cluster: Value,
    existing: Value,
    objects: BTreeMap<ObjectKey, Known>,
}

fn references() -> BTreeMap<String, Reference> {
    let mut references: BTreeMap<String, Reference> = BTreeMap::new();
    for packed in REFERENCES {
        let text = String::from_utf8(zstd::decode_all(packed).unwrap()).unwrap();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let reference = references
                .entry(line["component"].as_str().unwrap().to_owned())
                .or_default();
            if let Some(live) = line.get("live") {
                let key = Object::try_from(live.clone()).unwrap().key();
                let known = Known {
                    live: live.clone(),
                    declared: line["declared"].clone(),
                    in_helm_release: line["helm"] == true,
                };
                reference.objects.insert(key, known);
            } else {
                reference.spec = line["spec"].clone();
                reference.cluster = line["cluster"].clone();
                reference.existing = line["existing"].clone();
            }
        }
    }
    references
}

/// Secrets are compared by their keys, since that is all the reference has of them.
#[allow(clippy::unnecessary_wraps, reason = "the shape that resolve asks for")]
fn lookup(reference: &secret::Reference) -> Option<Vec<u8>> {
    Some(match reference {
        secret::Reference::Secret { key, .. } => key.clone().into_bytes(),
        secret::Reference::Setting { path } => path.clone().into_bytes(),
    })
}

fn differences(name: &str, reference: &Reference) -> BTreeSet<(String, String)> {
    let releases = Releases::embedded().unwrap();
    let release = releases.get(&"v3.3.1".parse().unwrap()).unwrap();
    let component = release.component(name).unwrap();
    let inputs = Inputs {
        settings: release.read_settings(component, &reference.spec).unwrap(),
        cluster: serde_json::from_value(reference.cluster.clone()).unwrap(),
        existing: reference.existing.as_object().unwrap().clone(),
    };
    let mut found = BTreeSet::new();
    let mut rendered = BTreeSet::new();
    for manifest in render(release, component, &inputs).unwrap() {
        let key = manifest.object.key();
        rendered.insert(key.clone());
        let ours = secret::resolve(manifest.object.as_value(), &lookup).unwrap();
        let ours = compare::without_wording(ours);
        let Some(known) = reference.objects.get(&key) else {
            found.insert((key.to_string(), "the whole object".to_owned()));
            continue;
        };
        if manifest.in_helm_release != known.in_helm_release {
            found.insert((key.to_string(), "Helm's record".to_owned()));
        }
        let more = compare::differences(&ours, &known.live);
        let less = compare::lost(&known.declared, &known.live, &ours);
        found.extend(more.into_iter().chain(less).map(|d| (key.to_string(), d.path)));
    }
    for key in reference.objects.keys().filter(|key| !rendered.contains(key)) {
        found.insert((key.to_string(), "not rendered".to_owned()));
    }
    found
}

/// The first two columns of the first table of docs/parity-components.md.
fn told() -> BTreeSet<(String, String)> {
    include_str!("../../../docs/parity-components.md")
        .lines()
        .skip_while(|line| !line.starts_with("| object |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.split(" | ").map(|cell| cell.trim_matches(['|', ' ', '`']));
            (cells.next().unwrap().to_owned(), cells.next().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn components_equal_what_upstream_left_but_for_what_is_told() {
    let found: BTreeSet<(String, String)> = references()
        .iter()
        .flat_map(|(name, reference)| differences(name, reference))
        .collect();
    let told = told();
    let untold: Vec<_> = found.difference(&told).collect();
    let idle: Vec<_> = told.difference(&found).collect();
    assert_eq!((untold, idle), (Vec::new(), Vec::new()));
}

#[test]
fn a_difference_is_seen() {
    let mut references = references();
    let reference = references.get_mut("monitoring").unwrap();
    let before = differences("monitoring", reference);
    let key = ObjectKey::namespaced(
        "monitoring.coreos.com",
        "Prometheus",
        "kubesphere-monitoring-system",
        "k8s",
    );
    let known = reference.objects.get_mut(&key).unwrap();
    known.live["spec"]["replicas"] = 9.into();
    known.live["spec"]["paused"] = true.into();
    known.declared["spec"]["paused"] = true.into();
    known.in_helm_release = true;
    let after = differences("monitoring", reference);
    let new: Vec<&str> = after.difference(&before).map(|(_, path)| path.as_str()).collect();
    assert_eq!(new, ["Helm's record", "spec.paused", "spec.replicas"]);
}
