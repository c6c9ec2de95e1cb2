//! What the tests share: inputs, and a look into what is rendered.

#![allow(dead_code, reason = "every test file uses a part of it")]

use object::{Object, ObjectKey};
use release::{Cluster, Inputs, Manifest, Release, Releases, render, secret};
use serde_json::{Map, Value, json};

pub(crate) const COMPONENT: &str = "ks-core";

pub(crate) fn release(version: &str) -> Release {
    let version = version.parse().unwrap();
    Releases::embedded().unwrap().get(&version).unwrap().clone()
}

/// Three nodes with Docker, one of them master, on Kubernetes 1.20.
pub(crate) fn three_nodes() -> Cluster {
    Cluster {
        kubernetes_version: "v1.20.2".into(),
        nodes: 3,
        masters: 1,
        container_runtime: "docker".into(),
        ..Cluster::default()
    }
}

/// The same with an admin.
pub(crate) fn inputs(release: &Release, spec: &Value) -> Inputs {
    let component = release.component(COMPONENT).unwrap();
    Inputs {
        settings: release.read_settings(component, spec).unwrap(),
        cluster: three_nodes(),
        existing: existing(json!({"adminUser": true})),
    }
}

pub(crate) fn existing(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

pub(crate) fn manifests(release: &Release, inputs: &Inputs) -> Vec<Manifest> {
    render(release, release.component(COMPONENT).unwrap(), inputs).unwrap()
}

/// Stands for every secret: the key of a Secret, the path of a setting.
#[allow(clippy::unnecessary_wraps, reason = "the shape that resolve asks for")]
pub(crate) fn lookup(reference: &secret::Reference) -> Option<Vec<u8>> {
    Some(match reference {
        secret::Reference::Secret { name, key, .. } if name == "kubesphere-secret" && key == "secret" => {
            b"0123456789abcdefghijklmnopqrstuv".to_vec()
        }
        // As every MinIO up to v3.3.1 has them.
        secret::Reference::Secret { name, key, .. } if name == "minio" => {
            format!("openpitrixminio{key}").into_bytes()
        }
        secret::Reference::Secret { key, .. } => key.clone().into_bytes(),
        secret::Reference::Setting { path } => path.clone().into_bytes(),
    })
}

/// The object with all secrets put in, and with the documents of a ConfigMap read.
pub(crate) fn opened(object: &Object) -> Value {
    let mut value = secret::resolve(object.as_value(), &lookup).unwrap();
    if object.kind() == "ConfigMap" {
        for text in value["data"].as_object_mut().unwrap().values_mut() {
            *text = object::parse_documents(text.as_str().unwrap()).unwrap().into();
        }
    }
    value
}

pub(crate) fn find<'a>(manifests: &'a [Manifest], key: &ObjectKey) -> Option<&'a Manifest> {
    manifests.iter().find(|manifest| manifest.object.key() == *key)
}

/// The document that kubesphere-config holds.
pub(crate) fn kubesphere_config(manifests: &[Manifest]) -> Value {
    let key = ObjectKey::namespaced("", "ConfigMap", "kubesphere-system", "kubesphere-config");
    opened(&find(manifests, &key).unwrap().object)["data"]["kubesphere.yaml"][0].clone()
}
