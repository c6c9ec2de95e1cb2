//! Logging, events, auditing, the service mesh, Gatekeeper and the data services, over what people set.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod programs;
mod stores;
mod whole;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use release::{Cluster, Inputs, Manifest, Release, Releases, render};
use serde_json::{Map, Value, json};

const COMPONENTS: [&str; 16] = [
    "snapshot-controller",
    "redis",
    "redis-ha",
    "openldap",
    "minio",
    "elasticsearch",
    "elasticsearch-curator",
    "fluent-operator",
    "logging",
    "logsidecar-injector",
    "events",
    "auditing",
    "jaeger",
    "kiali",
    "servicemesh",
    "gatekeeper",
];

/// A cluster, and what people set in it.
struct Case {
    spec: Value,
    cluster: Cluster,
    /// What components observe, by name.
    existing: Value,
}

fn mk(spec: Value) -> Case {
    Case {
        spec,
        cluster: common::three_nodes(),
        existing: json!({}),
    }
}

impl Case {
    fn on(mut self, change: impl FnOnce(&mut Cluster)) -> Self {
        change(&mut self.cluster);
        self
    }

    fn with(mut self, existing: Value) -> Self {
        self.existing = existing;
        self
    }

    fn inputs(&self, release: &Release, name: &str) -> Inputs {
        let component = release.component(name).unwrap();
        let observed = |(name, _): (&String, _)| Some((name.clone(), self.existing.get(name)?.clone()));
        // An observation of whether there is something is false where there is nothing.
        let mut existing: Map<String, Value> = component
            .existing
            .iter()
            .map(|(name, observation)| {
                let nothing = if observation.pointer.is_none() {
                    json!(false)
                } else {
                    Value::Null
                };
                (name.clone(), nothing)
            })
            .collect();
        existing.extend(component.existing.iter().filter_map(observed));
        Inputs {
            settings: release.read_settings(component, &self.spec).unwrap(),
            cluster: self.cluster.clone(),
            existing,
        }
    }

    fn is_enabled(&self, name: &str) -> bool {
        let release = release();
        let component = release.component(name).unwrap();
        component
            .is_enabled(release, &self.inputs(release, name))
            .unwrap()
    }

    fn manifests(&self, name: &str) -> Vec<Manifest> {
        let release = release();
        let component = release.component(name).unwrap();
        render(release, component, &self.inputs(release, name))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The objects as `Kind/name`.
    fn objects(&self, name: &str) -> BTreeMap<String, Value> {
        let key = |object: &object::Object| format!("{}/{}", object.kind(), object.name());
        self.manifests(name)
            .into_iter()
            .map(|manifest| (key(&manifest.object), manifest.object.into_value()))
            .collect()
    }

    /// The Secrets to be made, with their keys.
    fn secrets(&self, name: &str) -> Vec<(String, Vec<String>)> {
        let release = release();
        let component = release.component(name).unwrap();
        let secrets = component
            .generated_secrets(release, &self.inputs(release, name))
            .unwrap();
        secrets
            .into_iter()
            .map(|secret| {
                let keys = secret.keys.into_iter().map(|key| key.name);
                let pair = secret.certificate.into_iter();
                let pair = pair.flat_map(|c| [c.authority_key, c.certificate_key, c.private_key]);
                (secret.name, keys.chain(pair).collect())
            })
            .collect()
    }
}

fn release() -> &'static Release {
    static RELEASE: LazyLock<Release> =
        LazyLock::new(|| Releases::embedded().unwrap().latest().unwrap().clone());
    &RELEASE
}

fn everything() -> Value {
    json!({
        "persistence": {"storageClass": ""},
        "common": {"redis": {"enabled": true}, "openldap": {"enabled": true}},
        "logging": {"enabled": true}, "events": {"enabled": true}, "auditing": {"enabled": true},
        "servicemesh": {"enabled": true}, "gatekeeper": {"enabled": true}, "devops": {"enabled": true},
        "openpitrix": {"store": {"enabled": true}},
    })
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn everything_and(more: Value) -> Value {
    let mut spec = everything();
    merge(&mut spec, more);
    spec
}

/// Settings and clusters that all components are rendered for.
fn matrix() -> Vec<Case> {
    let everywhere = json!({
        "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "x", "operator": "Exists"}]}]}}},
    });
    let external = json!({"common": {"es": {
        "externalElasticsearchHost": "es.example", "externalElasticsearchPort": "9243",
        "externalElasticsearchProtocol": "https",
        "basicAuth": {"enabled": true, "username": "elastic", "password": "hunter2"}}}});
    vec![
        mk(json!({})),
        mk(everything()),
        mk(everything_and(
            json!({"enableHA": true, "common": {"redis": {"enableHA": true}}}),
        )),
        mk(everything_and(external)),
        mk(everything_and(
            json!({"common": {"s3": {"endpoint": "https://s3", "accessKeyID": "hunter2",
            "secretAccessKey": "hunter2"}}}),
        )),
        mk(everything_and(json!({"local_registry": "registry.example:5000"}))),
        mk(everything_and(json!({"zone": "cn"}))),
        mk(everything_and(
            json!({"local_registry": "registry.example:5000", "namespace_override": "mirror"}),
        )),
        mk(everything_and(everywhere)),
        mk(everything_and(json!({"persistence": {"storageClass": "fast"}}))),
        mk(everything_and(json!({
            "common": {"es": {"master": {"resources": {"limits": {"memory": "3Gi"}}}, "logMaxAge": 3}},
            "logging": {"logsidecar": {"enabled": false}}, "events": {"ruler": {"enabled": false}},
            "auditing": {"webhook": {"resources": {"limits": {"memory": "1Gi"}}}},
            "servicemesh": {"istio": {"components": {"ingressGateways": [{"name": "g", "enabled": true}]}},
                "jaeger": {"resources": {"limits": {"memory": "1Gi"}}}}}))),
        mk(everything()).on(|cluster| cluster.kubernetes_version = "v1.19.16".into()),
        mk(everything()).on(|cluster| cluster.kubernetes_version = "v1.21.5-eks-bc4871b".into()),
        mk(everything()).on(|cluster| {
            cluster.kubernetes_version = "v1.22.17+k3s1".into();
            cluster.container_runtime = "containerd".into();
        }),
        mk(everything()).on(|cluster| {
            cluster.kubernetes_version = "v1.23.4".into();
            cluster.container_runtime = "crio".into();
        }),
        mk(everything()).on(|cluster| {
            cluster.nodes = 1;
            cluster.container_runtime = String::new();
        }),
        mk(everything()).on(|cluster| {
            cluster.nodes = 12;
            cluster.masters = 3;
        }),
    ]
}

/// What a value holds at a pointer.
#[track_caller]
fn at<'a>(objects: &'a BTreeMap<String, Value>, object: &str, pointer: &str) -> &'a Value {
    objects[object].pointer(pointer).unwrap_or(&Value::Null)
}

#[track_caller]
fn check(case: &Case, component: &str, expect: &[(&str, &str, Value)]) {
    let objects = case.objects(component);
    for (object, pointer, value) in expect {
        assert_eq!(at(&objects, object, pointer), value, "{object} {pointer}");
    }
}
