//! What a component is rendered for, and looks at what comes out.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use object::Object;
use release::{Cluster, Inputs, Manifest, Release, render};
use serde_json::{Map, Value, json};

use crate::common;

pub(crate) static RELEASE: LazyLock<Release> = LazyLock::new(|| common::release("v3.3.1"));

/// What a component is rendered for.
#[derive(Clone)]
pub(crate) struct Situation {
    pub(crate) spec: Value,
    pub(crate) existing: Value,
    pub(crate) cluster: Cluster,
}

/// Three nodes with Docker on Kubernetes 1.20, and nothing of KubeSphere on them.
pub(crate) fn fresh(spec: Value) -> Situation {
    Situation {
        spec,
        existing: json!({}),
        cluster: common::three_nodes(),
    }
}

/// The same where there is something already.
pub(crate) fn with(spec: Value, existing: Value) -> Situation {
    Situation {
        existing,
        ..fresh(spec)
    }
}

pub(crate) fn inputs(component: &str, situation: &Situation) -> Inputs {
    let component = RELEASE.component(component).unwrap();
    Inputs {
        settings: RELEASE.read_settings(component, &situation.spec).unwrap(),
        cluster: situation.cluster.clone(),
        existing: situation.existing.as_object().unwrap().clone(),
    }
}

pub(crate) fn rendered(component: &str, situation: &Situation) -> Vec<Manifest> {
    let inputs = inputs(component, situation);
    render(&RELEASE, RELEASE.component(component).unwrap(), &inputs)
        .unwrap_or_else(|e| panic!("{component}: {e}"))
}

pub(crate) fn is_enabled(component: &str, situation: &Situation) -> bool {
    let inputs = inputs(component, situation);
    RELEASE
        .component(component)
        .unwrap()
        .is_enabled(&RELEASE, &inputs)
        .unwrap()
}

pub(crate) fn failed_checks(component: &str, situation: &Situation) -> Vec<String> {
    let inputs = inputs(component, situation);
    let failed = RELEASE
        .component(component)
        .unwrap()
        .failed_checks(&RELEASE, &inputs);
    failed
        .unwrap()
        .into_iter()
        .map(|check| check.reason.clone())
        .collect()
}

/// Names of the keys that are made, by Secret; those of a certificate as `certificate`.
pub(crate) fn made(component: &str, situation: &Situation) -> BTreeMap<String, Vec<String>> {
    let inputs = inputs(component, situation);
    let secrets = RELEASE
        .component(component)
        .unwrap()
        .generated_secrets(&RELEASE, &inputs);
    secrets
        .unwrap()
        .into_iter()
        .map(|secret| {
            let mut keys: Vec<String> = secret.keys.into_iter().map(|key| key.name).collect();
            keys.extend(secret.certificate.map(|_| "certificate".to_owned()));
            (secret.name, keys)
        })
        .collect()
}

pub(crate) fn find<'a>(manifests: &'a [Manifest], kind: &str, name: &str) -> Option<&'a Object> {
    manifests
        .iter()
        .map(|manifest| &manifest.object)
        .find(|object| object.kind() == kind && object.name() == name)
}

/// Checks values of one object by JSON pointer; null: absent.
#[track_caller]
pub(crate) fn check(component: &str, situation: &Situation, kind: &str, name: &str, expect: Value) {
    let manifests = rendered(component, situation);
    let object = find(&manifests, kind, name).unwrap_or_else(|| panic!("no {kind} {name}"));
    for (pointer, value) in expect.as_object().unwrap() {
        assert_eq!(
            object.get(pointer).unwrap_or(&Value::Null),
            value,
            "{kind} {name} {pointer}"
        );
    }
}

/// The document under a key of a ConfigMap, with references as they are.
pub(crate) fn document(component: &str, situation: &Situation, name: &str, key: &str) -> Value {
    let manifests = rendered(component, situation);
    let config = find(&manifests, "ConfigMap", name).unwrap();
    let text = config.get("/data").unwrap()[key].as_str().unwrap();
    object::parse_documents(text).unwrap().remove(0)
}

/// The variables of the container at the place given in a workload.
pub(crate) fn environment(component: &str, situation: &Situation, name: &str) -> Map<String, Value> {
    let manifests = rendered(component, situation);
    let workload = find(&manifests, "Deployment", name).unwrap();
    let variables = workload.get("/spec/template/spec/containers/0/env").unwrap();
    variables
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| {
            let value = variable
                .get("value")
                .or_else(|| variable.pointer("/valueFrom/secretKeyRef/key"));
            (
                variable["name"].as_str().unwrap().to_owned(),
                value.cloned().unwrap_or_default(),
            )
        })
        .collect()
}
