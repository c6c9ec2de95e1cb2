//! What settings depend on in a cluster.

use std::collections::BTreeMap;

use object::{Object, ObjectKey};

use crate::Snapshot;

/// Kubernetes version, nodes and namespaces: what high availability and manifests depend on.
pub type ClusterFacts = release::Cluster;

/// Reads the [`ClusterFacts`].
///
/// A master is a node with the role `master` or `control-plane`. The original installer looked for `master` alone,
/// so it took a cluster without that role (kubeadm from 1.24 on, and others before) for one without any master.
pub fn cluster_facts(snapshot: &Snapshot) -> ClusterFacts {
    let labels = |object: &Object| -> BTreeMap<String, String> {
        let labels = object
            .get("/metadata/labels")
            .and_then(|labels| labels.as_object());
        let text =
            |(name, value): (&String, &serde_json::Value)| Some((name.clone(), value.as_str()?.to_owned()));
        labels.into_iter().flatten().filter_map(text).collect()
    };
    let is_master = |node: &Object| {
        let labels = labels(node);
        labels.contains_key("node-role.kubernetes.io/master")
            || labels.contains_key("node-role.kubernetes.io/control-plane")
            || labels
                .get("kubernetes.io/role")
                .is_some_and(|role| role == "master")
    };
    ClusterFacts {
        kubernetes_version: snapshot.kubernetes.clone(),
        nodes: snapshot.of_kind("", "Node").count(),
        masters: snapshot
            .of_kind("", "Node")
            .filter(|node| is_master(node))
            .count(),
        container_runtime: container_runtime(snapshot),
        namespaces: snapshot
            .of_kind("", "Namespace")
            .map(|namespace| (namespace.name().to_owned(), labels(namespace)))
            .collect(),
    }
}

/// What most nodes run containers with. The original installer asked the first node alone.
fn container_runtime(snapshot: &Snapshot) -> String {
    let mut nodes: BTreeMap<String, usize> = BTreeMap::new();
    for node in snapshot.of_kind("", "Node") {
        let version = node.get_str("/status/nodeInfo/containerRuntimeVersion");
        if let Some((name, _)) = version.and_then(|version| version.split_once("://")) {
            *nodes.entry(name.replace("cri-o", "crio")).or_default() += 1;
        }
    }
    let most = nodes.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(name, _)| name).unwrap_or_default()
}

/// Whether redis and openldap run in the cluster, whatever the ClusterConfiguration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveFacts {
    pub redis: bool,
    pub openldap: bool,
}

impl LiveFacts {
    pub fn read(snapshot: &Snapshot) -> Self {
        let has = |kind: &str, name: &str| {
            snapshot
                .get(&ObjectKey::namespaced("apps", kind, "kubesphere-system", name))
                .is_some()
        };
        Self {
            redis: has("Deployment", "redis") || has("StatefulSet", "redis-ha-server"),
            openldap: has("StatefulSet", "openldap"),
        }
    }
}
