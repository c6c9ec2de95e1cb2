//! The state of a cluster, as far as an upgrade is concerned, at one moment.

use std::collections::BTreeMap;

use object::{Object, ObjectKey};
use serde::{Deserialize, Serialize};

/// A resource that the API server serves (from discovery).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServedResource {
    /// Empty for the core group.
    pub group: String,
    /// Without the group, e.g. `v1`.
    pub version: String,
    pub kind: String,
    /// Plural, as in URLs.
    pub resource: String,
    pub namespaced: bool,
}

/// A resource that could not be read. What depends on it is not known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unreadable {
    /// `globalroles.iam.kubesphere.io`
    pub resource: String,
    /// The API server's words.
    pub message: String,
}

/// Something that the caller must be allowed to do (a SelfSubjectAccessReview's resource attributes).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Permission {
    pub verb: String,
    pub group: String,
    /// Plural; `deployments/scale` for a subresource.
    pub resource: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Where it is needed for one object only, and may be held for that one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Read state. Made by the `cluster` crate from a live API, or in tests from objects.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// `gitVersion` of the API server, e.g. `v1.20.2`.
    pub kubernetes: String,
    /// Every object that was read. Secrets are among them: a snapshot is never printed.
    pub objects: BTreeMap<ObjectKey, Object>,
    /// What the API server serves; all versions of every group.
    pub served: Vec<ServedResource>,
    pub unreadable: Vec<Unreadable>,
}

impl Snapshot {
    /// A snapshot of the given objects. Of two with the same key the later counts.
    pub fn from_objects(kubernetes: &str, objects: impl IntoIterator<Item = Object>) -> Self {
        Self {
            kubernetes: kubernetes.to_owned(),
            objects: objects.into_iter().map(|o| (o.key(), o)).collect(),
            ..Self::default()
        }
    }

    pub fn get(&self, key: &ObjectKey) -> Option<&Object> {
        self.objects.get(key)
    }

    /// The objects that a component looks at: one, or all that a name with a `*` means ([`release::is_named`]), in one namespace or
    /// in any.
    pub fn find(&self, wanted: &ObjectKey) -> Vec<&Object> {
        if !wanted.name.contains('*') {
            return self.get(wanted).into_iter().collect();
        }
        let is_meant = |key: &ObjectKey| {
            (wanted.namespace.is_none() || key.namespace == wanted.namespace)
                && release::is_named(&wanted.name, &key.name)
        };
        self.objects
            .range(ObjectKey::cluster(&wanted.group, &wanted.kind, "")..)
            .take_while(|(key, _)| key.is(&wanted.group, &wanted.kind))
            .filter(|(key, _)| is_meant(key))
            .map(|(_, object)| object)
            .collect()
    }

    /// All objects of a kind, in order of namespace and name.
    pub fn of_kind<'a>(&'a self, group: &'a str, kind: &'a str) -> impl Iterator<Item = &'a Object> {
        self.objects
            .range(ObjectKey::cluster(group, kind, "")..)
            .take_while(move |(key, _)| key.is(group, kind))
            .map(|(_, o)| o)
    }

    /// Whether the API server serves a kind, in any version.
    pub fn serves(&self, group: &str, kind: &str) -> bool {
        self.served.iter().any(|r| r.group == group && r.kind == kind)
    }

    /// What identifies the cluster: the UID of namespace kube-system, which outlives everything in it.
    pub fn cluster_id(&self) -> Option<&str> {
        self.get(&ObjectKey::cluster("", "Namespace", "kube-system"))?
            .uid()
    }
}
