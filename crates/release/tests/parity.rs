//! What is rendered, measured against what upstream's own installers left on a real cluster. Differences are told in
//! docs/parity.md, each with its reason; one that is not told, or told but not there, fails.
//!
//! The reference holds the objects of Helm's record, the same objects live, the CRDs, kubesphere-config and the
//! namespaces, in what was declared of them; texts that are documents are kept as documents, secrets as their keys.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectKey, quantity};
use release::{Manifest, helm};
use serde_json::Value;

struct Reference {
    live: BTreeMap<ObjectKey, Value>,
    helm: BTreeMap<ObjectKey, Value>,
    /// Specs of the ClusterConfiguration, before and after.
    specs: Vec<Value>,
    /// With every component enabled: spec, kubesphere-config before, and after.
    configs: Vec<[Value; 3]>,
}

const V3_3_1: (&str, &[u8]) = ("v3.3.1", include_bytes!("fixtures/ks-core-v3.3.1.ndjson.zst"));
const V3_2_1: (&str, &[u8]) = ("v3.2.1", include_bytes!("fixtures/ks-core-v3.2.1.ndjson.zst"));

fn reference(packed: &[u8]) -> Reference {
    let text = String::from_utf8(zstd::decode_all(packed).unwrap()).unwrap();
    let mut reference = Reference {
        live: BTreeMap::new(),
        helm: BTreeMap::new(),
        specs: Vec::new(),
        configs: Vec::new(),
    };
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let value = line["object"].clone();
        let key = || Object::try_from(value.clone()).unwrap().key();
        match line["in"].as_str() {
            Some("live") => drop(reference.live.insert(key(), value)),
            Some("helm") => drop(reference.helm.insert(key(), value)),
            Some("spec") => reference.specs.push(value),
            _ => reference
                .configs
                .push([line["spec"].clone(), line["before"].clone(), value]),
        }
    }
    reference
}

fn rendered(version: &str, reference: &Reference, spec: &Value, before: &Value) -> Vec<Manifest> {
    let release = common::release(version);
    let mut inputs = common::inputs(&release, spec);
    inputs.existing.insert("kubesphereConfig".into(), before.clone());
    let openldap = serde_json::json!([{"name": "LDAP_ADMIN_PASSWORD", "value": "admin"}]);
    inputs.existing.insert("openldapEnvironment".into(), openldap);
    for (key, value) in reference.live.iter().filter(|(key, _)| key.kind == "Namespace") {
        let labels = serde_json::from_value(value["metadata"]["labels"].clone()).unwrap();
        inputs.cluster.namespaces.insert(key.name.clone(), labels);
    }
    common::manifests(&release, &inputs)
}

/// Paths at which `there` lacks or contradicts what `here` says.
fn missing(path: &str, here: &Value, there: &Value, found: &mut BTreeSet<String>) {
    match (here, there) {
        (Value::Null, _) => {}
        (Value::Object(a), Value::Object(b)) => {
            for (name, value) in a {
                let path = object::diff::join(path, name);
                missing(&path, value, b.get(name).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                missing(&format!("{path}[{index}]"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (a, b) if path.contains("resources.") && quantity::equal(a, b) => {}
        _ => {
            found.insert(path.to_owned());
        }
    }
}

/// The first two columns of the first table of docs/parity.md.
fn told() -> BTreeSet<(String, String)> {
    let page = include_str!("../../../docs/parity.md");
    page.lines()
        .skip_while(|line| !line.starts_with("| object |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line
                .split('|')
                .map(|cell| cell.trim().trim_matches('`').to_owned());
            cells.next();
            (cells.next().unwrap(), cells.next().unwrap())
        })
        .collect()
}

/// All differences, as object and path.
fn differences(version: &str, reference: &Reference) -> BTreeSet<(String, String)> {
    let mut differences = BTreeSet::new();
    let mut compare = |key: &ObjectKey, here: &Value, there: Option<&Value>| {
        let mut found = BTreeSet::new();
        match there {
            None => drop(found.insert("the whole object".to_owned())),
            Some(there) => missing("", here, there, &mut found),
        }
        differences.extend(found.into_iter().map(|path| (key.to_string(), path)));
    };
    for spec in &reference.specs {
        let ours: BTreeMap<ObjectKey, Value> = rendered(version, reference, spec, &Value::Null)
            .iter()
            .map(|manifest| (manifest.object.key(), common::opened(&manifest.object)))
            .collect();
        for (key, value) in &ours {
            compare(key, value, reference.live.get(key));
        }
        // Nothing that the chart said is left out.
        for (key, value) in &reference.helm {
            compare(key, value, ours.get(key));
        }
        let is_whole =
            |key: &ObjectKey| key.kind == "CustomResourceDefinition" || key.name == "kubesphere-config";
        for (key, value) in reference.live.iter().filter(|(key, _)| is_whole(key)) {
            compare(key, value, ours.get(key));
        }
    }
    let config = ObjectKey::namespaced("", "ConfigMap", "kubesphere-system", "kubesphere-config");
    for [spec, before, after] in &reference.configs {
        let ours = common::kubesphere_config(&rendered(version, reference, spec, before));
        compare(&config, &ours, Some(after));
        compare(&config, after, Some(&ours));
    }
    differences
}

#[test]
fn what_is_rendered_equals_what_upstream_left_but_for_what_is_told() {
    let (version, packed) = V3_3_1;
    assert_eq!(differences(version, &reference(packed)), told());
}

#[test]
fn the_release_before_equals_what_upstream_installed() {
    let (version, packed) = V3_2_1;
    assert_eq!(differences(version, &reference(packed)), BTreeSet::new());
}

#[test]
fn a_difference_is_seen() {
    let (version, packed) = V3_3_1;
    let mut reference = reference(packed);
    reference.configs.clear();
    let key = ObjectKey::namespaced("apps", "Deployment", "kubesphere-system", "ks-apiserver");
    let live = reference.live.get_mut(&key).unwrap();
    live["spec"]["replicas"] = 2.into();
    reference.helm.get_mut(&key).unwrap()["spec"]["paused"] = true.into();
    let found = differences(version, &reference);
    let at = |path: &str| (key.to_string(), path.to_owned());
    assert_eq!(found, BTreeSet::from([at("spec.replicas"), at("spec.paused")]));
}

#[test]
fn the_helm_release_owns_the_same_objects() {
    for (version, packed) in [V3_3_1, V3_2_1] {
        let reference = reference(packed);
        let manifests = rendered(version, &reference, &reference.specs[0], &Value::Null);
        let ours: BTreeSet<ObjectKey> = manifests
            .iter()
            .filter(|manifest| manifest.in_helm_release)
            .map(|manifest| manifest.object.key())
            .collect();
        assert_eq!(ours, reference.helm.keys().cloned().collect());
        for manifest in manifests {
            let object = &manifest.object;
            let owner = object.annotation("meta.helm.sh/release-name");
            assert_eq!(owner.is_some(), manifest.in_helm_release, "{object:?}");
            let is_namespaced = helm::is_namespaced(object.group(), object.kind());
            assert_eq!(object.namespace().is_some(), is_namespaced, "{object:?}");
        }
    }
}

/// A cluster that upstream brought to the release needs no further revision: Helm's own record describes it already.
#[test]
fn what_helm_recorded_is_what_would_be_recorded() {
    for (version, packed) in [V3_3_1, V3_2_1] {
        let reference = reference(packed);
        let manifests = rendered(version, &reference, &reference.specs[0], &Value::Null);
        let of_release = |with_secrets: bool| -> Vec<Object> {
            // The reference has keys of Secrets, and webhooks' authorities, in place of their values.
            let is_secret = |object: &Object| {
                object.kind() == "Secret" || object.kind() == "ValidatingWebhookConfiguration"
            };
            manifests
                .iter()
                .filter(|manifest| manifest.in_helm_release && (with_secrets || !is_secret(&manifest.object)))
                .map(|manifest| Object::try_from(common::opened(&manifest.object)).unwrap())
                .collect()
        };
        let ours = of_release(false);
        let recorded: Vec<Object> = ours
            .iter()
            .map(|object| Object::try_from(reference.helm[&object.key()].clone()).unwrap())
            .collect();
        let recorded_as = |objects: &[Object]| {
            let record = serde_json::json!({"name": "ks-core", "namespace": "kubesphere-system", "version": 1,
                "info": {"status": "deployed"}, "manifest": helm::to_manifest(objects)});
            let record = helm::Record::from_value(record).unwrap();
            record.manifest_objects(&helm::is_namespaced).unwrap()
        };
        assert!(helm::describes(&recorded_as(&recorded), &ours), "{version}");
        assert!(!helm::describes(&recorded_as(&recorded), &of_release(true)));
        let mut other = recorded.clone();
        let deployment = other
            .iter_mut()
            .find(|object| object.kind() == "Deployment")
            .unwrap();
        deployment.as_map_mut()["spec"]["replicas"] = 2.into();
        assert!(!helm::describes(&recorded_as(&other), &ours));
    }
}
