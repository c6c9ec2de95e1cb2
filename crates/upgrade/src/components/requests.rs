//! What pods ask for, and what the nodes have left of it.

use object::{Object, quantity::thousandths};
use release::{Manifest, Phase};
use serde::Serialize;
use serde_json::Value;

use crate::Snapshot;

/// CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    pub cpu_millicores: i64,
    pub memory_bytes: i64,
}

/// What the nodes have that take pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Room {
    pub nodes: usize,
    /// What they let pods have.
    pub allocatable: Amount,
    /// What pods have asked for already.
    pub requested: Amount,
    /// What is left; the scheduler needs it on one node, for each pod.
    pub free: Amount,
}

impl Amount {
    fn read(values: Option<&Value>) -> Self {
        let of = |name: &str| values.and_then(|values| values.get(name)).map_or(0, thousandths);
        Self {
            cpu_millicores: narrow(of("cpu")),
            memory_bytes: narrow(of("memory") / 1000),
        }
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_millicores: self.cpu_millicores + other.cpu_millicores,
            memory_bytes: self.memory_bytes + other.memory_bytes,
        }
    }

    #[must_use]
    fn minus(self, other: Self) -> Self {
        self.plus(other.times(-1))
    }

    #[must_use]
    fn times(self, factor: i64) -> Self {
        Self {
            cpu_millicores: self.cpu_millicores * factor,
            memory_bytes: self.memory_bytes * factor,
        }
    }

    #[must_use]
    fn largest(self, other: Self) -> Self {
        Self {
            cpu_millicores: self.cpu_millicores.max(other.cpu_millicores),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }

    /// Whether there is so much of both.
    pub fn fits_in(&self, room: &Self) -> bool {
        self.cpu_millicores <= room.cpu_millicores && self.memory_bytes <= room.memory_bytes
    }
}

fn narrow(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What a pod asks for: all its containers together, or the greediest of those that run before them. A limit without a request
/// is one.
pub(crate) fn of_pod(spec: &Value) -> Amount {
    let containers = |name: &str| spec.get(name).and_then(Value::as_array).into_iter().flatten();
    let of = |container: &Value| {
        let resources = container.get("resources");
        let read = |name: &str| Amount::read(resources.and_then(|resources| resources.get(name)));
        let (requests, limits) = (read("requests"), read("limits"));
        let has = |name: &str| {
            resources
                .and_then(|r| r.get("requests"))
                .is_some_and(|r| r.get(name).is_some())
        };
        Amount {
            cpu_millicores: if has("cpu") {
                requests.cpu_millicores
            } else {
                limits.cpu_millicores
            },
            memory_bytes: if has("memory") {
                requests.memory_bytes
            } else {
                limits.memory_bytes
            },
        }
    };
    let all = containers("containers")
        .map(of)
        .fold(Amount::default(), Amount::plus);
    let overhead = Amount::read(spec.get("overhead"));
    containers("initContainers")
        .map(of)
        .fold(all, Amount::largest)
        .plus(overhead)
}

/// What each pod of an object asks for, and the spec that says where it may run; `None` for what makes no pods. A custom
/// resource's own spec says both.
pub(crate) fn of_each(object: &Object) -> Option<(Amount, &Value)> {
    if release::is_custom(object.group()) {
        let requests = object.get("/spec/resources/requests")?;
        return Some((Amount::read(Some(requests)), object.get("/spec")?));
    }
    let spec = object.get("/spec/template/spec")?;
    Some((of_pod(spec), spec))
}

/// What an object's pods ask for. Jobs end, and so do not count. Where a custom resource says what the pods are to ask for
/// that are made of it, that is taken.
fn of_object(object: &Object, nodes: usize) -> Amount {
    let replicas = || object.get("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let template = |pointer: &str| object.get(pointer).map(of_pod).unwrap_or_default();
    match (object.group(), object.kind()) {
        ("apps", "DaemonSet") => {
            template("/spec/template/spec").times(i64::try_from(nodes).unwrap_or(i64::MAX))
        }
        ("apps", "Deployment" | "StatefulSet" | "ReplicaSet") => {
            template("/spec/template/spec").times(replicas())
        }
        ("", "Pod") => template("/spec"),
        (group, _) if release::is_custom(group) => {
            Amount::read(object.get("/spec/resources/requests")).times(replicas())
        }
        _ => Amount::default(),
    }
}

pub(super) fn of_all(manifests: &[Manifest], nodes: usize) -> Amount {
    manifests
        .iter()
        .filter(|manifest| manifest.phase != Phase::CustomResourceDefinitions)
        .map(|manifest| of_object(&manifest.object, nodes))
        .fold(Amount::default(), Amount::plus)
}

/// What a node lets pods have; `None` where it does not say.
pub(crate) fn allocatable(node: &Object) -> Option<Amount> {
    let says = |pointer: &str| node.get(pointer).map(|values| Amount::read(Some(values)));
    says("/status/allocatable").or_else(|| says("/status/capacity"))
}

/// What the nodes have left that take pods, as far as the snapshot has the pods.
pub fn room(snapshot: &Snapshot) -> Room {
    let takes_pods = |node: &&Object| node.get("/spec/unschedulable").and_then(Value::as_bool) != Some(true);
    let nodes: Vec<&Object> = snapshot.of_kind("", "Node").filter(takes_pods).collect();
    let is_on_one = |pod: &&Object| {
        let node = pod.get_str("/spec/nodeName");
        let ended = ["Succeeded", "Failed"].contains(&pod.get_str("/status/phase").unwrap_or_default());
        !ended && node.is_some_and(|name| nodes.iter().any(|node| node.name() == name))
    };
    let allocatable = nodes
        .iter()
        .filter_map(|node| allocatable(node))
        .fold(Amount::default(), Amount::plus);
    let requested = snapshot
        .of_kind("", "Pod")
        .filter(is_on_one)
        .filter_map(|pod| pod.get("/spec"))
        .map(of_pod)
        .fold(Amount::default(), Amount::plus);
    Room {
        nodes: nodes.len(),
        allocatable,
        requested,
        free: allocatable.minus(requested),
    }
}
