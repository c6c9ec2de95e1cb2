//! The first state of a cluster: a new one, or one made of stored objects.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::Config;
use crate::controllers::{self, definitions};
use crate::json::{group_of, name, namespace, text, text_at, version_of};
use crate::kinds::{Builtins, Resource};
use crate::store::{Key, State};
use crate::transaction::Transaction;
use crate::write::Writer;

/// Why objects do not make a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Not a Kubernetes object.
    #[error("object {index} is no Kubernetes object: {what} is missing")]
    NoObject {
        /// The position among the objects, from 0.
        index: usize,
        /// What an object must have: `apiVersion`, `kind` or `metadata.name`.
        what: &'static str,
    },
    /// A kind that neither this Kubernetes version nor any definition among the objects serves.
    #[error("{kind} {name}: no kind {kind} in {api_version} is served")]
    UnknownKind {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
        /// Its namespace and name.
        name: String,
    },
    /// Two objects of one kind and name.
    #[error("{kind} {name} is there twice")]
    Twice {
        /// Its `kind`.
        kind: String,
        /// Its namespace and name.
        name: String,
    },
    /// A namespaced object without a namespace, or the other way round.
    #[error("{kind} {name}: the namespace does not fit the kind")]
    Namespace {
        /// Its `kind`.
        kind: String,
        /// Its namespace and name.
        name: String,
    },
}

fn full_name(object: &Value) -> String {
    let namespace = namespace(object);
    if namespace.is_empty() {
        name(object).to_owned()
    } else {
        format!("{namespace}/{}", name(object))
    }
}

/// The state of stored objects, definitions first.
pub(crate) fn load(
    config: &Config,
    builtins: &Builtins,
    objects: impl IntoIterator<Item = Value>,
) -> Result<State, LoadError> {
    let mut state = State::new(config.seed);
    let mut highest = 0;
    let mut rest = Vec::new();
    let definitions = builtins.find("apiextensions.k8s.io", "customresourcedefinitions");
    for (index, object) in objects.into_iter().enumerate() {
        for (what, found) in [
            ("apiVersion", text(&object, "apiVersion")),
            ("kind", text(&object, "kind")),
            ("metadata.name", name(&object)),
        ] {
            if found.is_empty() {
                return Err(LoadError::NoObject { index, what });
            }
        }
        if let Ok(version) = text_at(&object, "/metadata/resourceVersion").parse::<u64>() {
            highest = highest.max(version);
        }
        match definitions {
            Some(resource)
                if text(&object, "kind") == resource.kind
                    && text(&object, "apiVersion") == "apiextensions.k8s.io/v1" =>
            {
                let definition = add(&mut state, resource, object)?;
                if definitions::is_established(&definition)
                    && let Some(custom) = Resource::from_definition(&definition)
                {
                    state.set_custom(name(&definition), Some(Arc::new(custom)));
                }
            }
            _ => rest.push(object),
        }
    }
    for object in rest {
        let (api_version, kind) = (text(&object, "apiVersion"), text(&object, "kind"));
        let resource = state
            .resource_of_kind(builtins, group_of(api_version), kind)
            .filter(|resource| {
                let version = version_of(api_version);
                resource.version(version).is_some() || resource.storage_version == version
            })
            .ok_or_else(|| LoadError::UnknownKind {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                name: full_name(&object),
            })?;
        if resource.namespaced == namespace(&object).is_empty() {
            return Err(LoadError::Namespace {
                kind: kind.to_owned(),
                name: full_name(&object),
            });
        }
        add(&mut state, &resource, object)?;
    }
    state.begin(highest.max(1));
    Ok(state)
}

fn add(state: &mut State, resource: &Resource, object: Value) -> Result<Arc<Value>, LoadError> {
    let key = Key::of(resource, &object);
    if state.get(&key).is_some() {
        return Err(LoadError::Twice {
            kind: resource.kind.clone(),
            name: full_name(&object),
        });
    }
    let object = Arc::new(object);
    state.seed(&key, Arc::clone(&object));
    Ok(object)
}

/// The state of a new cluster.
pub(crate) fn empty(config: &Config, builtins: &Builtins) -> State {
    let mut transaction = Transaction::new(State::new(config.seed), config, builtins);
    if let Some(services) = builtins.find("apiregistration.k8s.io", "apiservices") {
        for group in builtins
            .groups
            .iter()
            .filter(|group| group.name != "apiregistration.k8s.io")
        {
            for (version, priority) in &group.versions {
                definitions::add_service(
                    &mut transaction,
                    services,
                    &group.name,
                    version,
                    group.priority,
                    *priority,
                    "onstart",
                );
            }
        }
    }
    let mut first: Vec<Value> = ["kube-system", "kube-public", "kube-node-lease", "default"]
        .iter()
        .map(|name| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))
        .collect();
    let (a, b) = config.service_network;
    first.push(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": { "component": "apiserver", "provider": "kubernetes" },
        },
        "spec": {
            "clusterIP": format!("{a}.{b}.0.1"),
            "ipFamilyPolicy": "SingleStack",
            "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443 }],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
    }));
    first.push(json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": [{
            "addresses": [{ "ip": "192.0.2.1" }],
            "ports": [{ "name": "https", "port": 6443, "protocol": "TCP" }],
        }],
    }));
    first.push(json!({
        "apiVersion": "discovery.k8s.io/v1beta1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": ["192.0.2.1"], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": 6443, "protocol": "TCP" }],
    }));
    // The roles that people bind; those of the control plane's own parts are left out.
    first.extend(
        include_str!("../data/roles-1.20.jsonl")
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok()),
    );
    for (index, node) in config.nodes.iter().enumerate() {
        first.push(new_node(config, node, index));
    }
    for object in first {
        let (group, kind) = (
            group_of(text(&object, "apiVersion")).to_owned(),
            text(&object, "kind").to_owned(),
        );
        let Some(resource) = builtins.find_kind(&group, &kind).cloned() else {
            continue;
        };
        if let Err(status) = controllers::create(&mut transaction, &resource, object, Writer::API_SERVER) {
            tracing::error!(%kind, error = %status.message, "a first object was refused");
        }
    }
    controllers::settle(&mut transaction);
    transaction.state
}

fn new_node(config: &Config, name: &str, index: usize) -> Value {
    let now = config.now();
    let resources = json!({ "cpu": "16", "ephemeral-storage": "500Gi", "memory": "64Gi", "pods": "250" });
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "beta.kubernetes.io/arch": "amd64",
                "beta.kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
            },
        },
        "spec": { "podCIDR": format!("10.233.{}.0/24", 64 + index), "podCIDRs": [format!("10.233.{}.0/24", 64 + index)] },
        "status": {
            "addresses": [
                { "address": format!("192.168.0.{}", 11 + index), "type": "InternalIP" },
                { "address": name, "type": "Hostname" },
            ],
            "allocatable": resources,
            "capacity": resources,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": 10250 } },
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": name,
                "containerRuntimeVersion": "containerd://1.6.0",
                "kernelVersion": "5.10.0",
                "kubeProxyVersion": config.kubernetes_version,
                "kubeletVersion": config.kubernetes_version,
                "machineID": name,
                "operatingSystem": "linux",
                "osImage": "sandbox",
                "systemUUID": name,
            },
        },
    })
}
