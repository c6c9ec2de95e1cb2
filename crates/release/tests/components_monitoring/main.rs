//! The monitoring family of v3.3.1: where its settings end up, and what stays as it is in the cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod parts;
mod whole;

use std::sync::LazyLock;

use object::Object;
use release::{Inputs, Manifest, Release, Releases, render};
use serde_json::{Map, Value};

const COMPONENTS: [&str; 9] = [
    "alerting",
    "etcd-monitoring",
    "gpu-monitoring",
    "grafana",
    "istio-monitoring",
    "metrics-server",
    "monitoring",
    "monitoring-dashboards",
    "notification-manager",
];
const NAMESPACE: &str = "kubesphere-monitoring-system";

static RELEASE: LazyLock<Release> = LazyLock::new(|| {
    let version = "v3.3.1".parse().unwrap();
    Releases::embedded().unwrap().get(&version).unwrap().clone()
});

fn inputs(release: &Release, component: &str, spec: &Value) -> Inputs {
    let component = release.component(component).unwrap();
    Inputs {
        settings: release.read_settings(component, spec).unwrap(),
        cluster: common::three_nodes(),
        existing: Map::new(),
    }
}

fn render_with(component: &str, spec: Value, change: impl FnOnce(&mut Inputs)) -> Vec<Manifest> {
    let release = &*RELEASE;
    let mut inputs = inputs(release, component, &spec);
    change(&mut inputs);
    render(release, release.component(component).unwrap(), &inputs).unwrap()
}

fn rendered(component: &str, spec: Value) -> Vec<Manifest> {
    render_with(component, spec, |_| {})
}

fn all(spec: &Value, change: impl Fn(&mut Inputs)) -> Vec<Manifest> {
    COMPONENTS
        .iter()
        .flat_map(|name| render_with(name, spec.clone(), &change))
        .collect()
}

/// `Deployment/grafana`, wherever it is.
#[track_caller]
fn find<'a>(manifests: &'a [Manifest], name: &str) -> &'a Object {
    let (kind, name) = name.split_once('/').unwrap();
    let mut found = manifests
        .iter()
        .map(|manifest| &manifest.object)
        .filter(|object| object.kind() == kind && object.name() == name);
    let object = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    assert!(found.next().is_none(), "more than one {kind} {name}");
    object
}

/// Checks values of an object by JSON pointer; null: absent.
#[track_caller]
fn check(manifests: &[Manifest], name: &str, expect: Value) {
    let object = find(manifests, name);
    for (pointer, value) in expect.as_object().unwrap() {
        assert_eq!(
            object.get(pointer).unwrap_or(&Value::Null),
            value,
            "{name} {pointer}"
        );
    }
}

fn containers(manifests: &[Manifest]) -> Vec<Value> {
    manifests
        .iter()
        .filter_map(|manifest| manifest.object.get("/spec/template/spec/containers"))
        .flat_map(|list| list.as_array().unwrap().clone())
        .collect()
}

/// Every text in a value.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(map) => map.values().for_each(|item| texts(item, found)),
        _ => {}
    }
}
