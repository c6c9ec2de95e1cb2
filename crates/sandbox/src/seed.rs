//! The first state of a cluster: a new one, or one made of stored objects.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::Config;
use crate::controllers::{self, definitions};
use crate::json::{group_of, name, namespace, text, text_at, version_of};
use crate::kinds::{Builtins, Resource};
use crate::store::{Key, State, Stored, owners};
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

/// What has to be known of an object to store it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Head {
    api_version: String,
    kind: String,
    metadata: HeadMetadata,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct HeadMetadata {
    name: String,
    namespace: String,
    resource_version: String,
    owner_references: Vec<HeadOwner>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct HeadOwner {
    uid: String,
}

impl Head {
    fn of(object: &Value) -> Head {
        Head {
            api_version: text(object, "apiVersion").to_owned(),
            kind: text(object, "kind").to_owned(),
            metadata: HeadMetadata {
                name: name(object).to_owned(),
                namespace: namespace(object).to_owned(),
                resource_version: text_at(object, "/metadata/resourceVersion").to_owned(),
                owner_references: owners(Some(object))
                    .iter()
                    .map(|uid| HeadOwner { uid: uid.to_string() })
                    .collect(),
            },
        }
    }

    fn full_name(&self) -> String {
        let HeadMetadata { name, namespace, .. } = &self.metadata;
        if namespace.is_empty() {
            name.clone()
        } else {
            format!("{namespace}/{name}")
        }
    }
}

/// A stored object as JSON, of which only the head has been read: a large copy is loaded fast and stays small so.
#[derive(Debug, Clone)]
pub struct Text {
    head: Head,
    json: Box<[u8]>,
}

impl Text {
    /// An object from its JSON.
    ///
    /// # Errors
    ///
    /// When it is no JSON. What makes no object is found when a cluster is made of it.
    pub fn parse(json: &[u8]) -> serde_json::Result<Text> {
        let head = match serde_json::from_slice(json) {
            Ok(head) => head,
            // Nulls, and what else stands where a text is to be.
            Err(_) => Head::of(&serde_json::from_slice(json)?),
        };
        Ok(Text {
            head,
            json: json.into(),
        })
    }

    /// The kind that it says it is of.
    pub fn kind(&self) -> &str {
        &self.head.kind
    }

    /// The JSON.
    pub fn json(&self) -> &[u8] {
        &self.json
    }
}

/// What a cluster is made of.
pub(crate) trait Seed {
    fn take(self) -> (Head, Stored);
}

impl Seed for Text {
    fn take(self) -> (Head, Stored) {
        (self.head, Stored::text(self.json))
    }
}

impl Seed for Value {
    fn take(self) -> (Head, Stored) {
        let head = Head::of(&self);
        (head, Arc::new(self).into())
    }
}

/// The state of stored objects, definitions first.
pub(crate) fn load<S: Seed>(
    config: &Config,
    builtins: &Builtins,
    objects: impl IntoIterator<Item = S>,
) -> Result<State, LoadError> {
    let mut state = State::new(config.seed);
    let mut highest = 0;
    let mut rest = Vec::new();
    let definitions = builtins.find("apiextensions.k8s.io", "customresourcedefinitions");
    for (index, object) in objects.into_iter().enumerate() {
        let (head, object) = object.take();
        for (what, found) in [
            ("apiVersion", &*head.api_version),
            ("kind", &*head.kind),
            ("metadata.name", head.metadata.name.as_str()),
        ] {
            if found.is_empty() {
                return Err(LoadError::NoObject { index, what });
            }
        }
        if let Ok(version) = head.metadata.resource_version.parse::<u64>() {
            highest = highest.max(version);
        }
        match definitions {
            Some(resource) if head.kind == resource.kind && head.api_version == "apiextensions.k8s.io/v1" => {
                let definition = Arc::clone(object.value());
                add(&mut state, resource, head, object)?;
                if definitions::is_established(&definition)
                    && let Some(custom) = Resource::from_definition(&definition)
                {
                    state.set_custom(name(&definition), Some(Arc::new(custom)));
                }
            }
            _ => rest.push((head, object)),
        }
    }
    for (head, object) in rest {
        let (api_version, kind) = (&*head.api_version, &*head.kind);
        let resource = state
            .resource_of_kind(builtins, group_of(api_version), kind)
            .filter(|resource| {
                let version = version_of(api_version);
                resource.version(version).is_some() || resource.storage_version == version
            })
            .ok_or_else(|| LoadError::UnknownKind {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                name: head.full_name(),
            })?;
        if resource.namespaced == head.metadata.namespace.is_empty() {
            return Err(LoadError::Namespace {
                kind: kind.to_owned(),
                name: head.full_name(),
            });
        }
        add(&mut state, &resource, head, object)?;
    }
    state.begin(highest.max(1));
    Ok(state)
}

fn add(state: &mut State, resource: &Resource, head: Head, object: Stored) -> Result<(), LoadError> {
    let key = Key::new(resource, &head.metadata.namespace, &head.metadata.name);
    if state.has(&key) {
        return Err(LoadError::Twice {
            kind: resource.kind.clone(),
            name: head.full_name(),
        });
    }
    let owners = head.metadata.owner_references.iter();
    let owners = owners.map(|owner| owner.uid.as_str().into()).collect();
    state.seed(&key, object, owners);
    Ok(())
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
