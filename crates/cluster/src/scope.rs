//! Which objects of a cluster are read.

use std::collections::BTreeSet;

use object::Object;

use crate::discovery::Resource;

/// What to read: some kinds wherever they are, others only in the platform's own namespaces, the rest not at all.
/// A cluster's users may have a hundred thousand pods and secrets that are none of our business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    everywhere: BTreeSet<(String, String)>,
    platform: BTreeSet<(String, String)>,
    /// Namespaces of components, which are the platform's own like those that its names tell.
    namespaces: BTreeSet<String>,
    is_copy: bool,
}

/// The workspace of namespaces that belong to the platform.
const WORKSPACE: (&str, &str) = ("kubesphere.io/workspace", "system-workspace");

/// How far a kind is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Everywhere,
    PlatformNamespaces,
    Nowhere,
}

/// Read wherever they are.
const EVERYWHERE: &[(&str, &[&str])] = &[
    ("", &["Namespace", "Node"]),
    (
        "admissionregistration.k8s.io",
        &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"],
    ),
    ("apiextensions.k8s.io", &["CustomResourceDefinition"]),
    ("apiregistration.k8s.io", &["APIService"]),
    (
        "rbac.authorization.k8s.io",
        &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    ),
    ("storage.k8s.io", &["StorageClass"]),
];

/// Read in the platform's own namespaces.
const PLATFORM: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "ConfigMap",
            "Endpoints",
            "PersistentVolumeClaim",
            "Pod",
            "Secret",
            "Service",
            "ServiceAccount",
        ],
    ),
    ("apps", &["DaemonSet", "Deployment", "StatefulSet"]),
    ("batch", &["Job"]),
];

/// What a copy needs besides, cluster-wide.
const COPY: &[(&str, &[&str])] = &[
    ("", &["PersistentVolume"]),
    ("networking.k8s.io", &["IngressClass"]),
    ("node.k8s.io", &["RuntimeClass"]),
    ("policy", &["PodSecurityPolicy"]),
    ("scheduling.k8s.io", &["PriorityClass"]),
    ("snapshot.storage.k8s.io", &["VolumeSnapshotClass"]),
    ("storage.k8s.io", &["CSIDriver"]),
];

/// Not part of a copy: what passes by itself, and second views of what is read elsewhere.
const NEVER: &[(&str, &str)] = &[
    ("", "Event"),
    ("coordination.k8s.io", "Lease"),
    ("events.k8s.io", "Event"),
    ("extensions", "Ingress"),
    ("metrics.k8s.io", "PodMetrics"),
];

/// Used where the cluster's namespaces cannot be listed.
pub(crate) const KNOWN_NAMESPACES: &[&str] = &[
    "kube-system",
    "kubesphere-controls-system",
    "kubesphere-monitoring-system",
    "kubesphere-system",
];

impl Scope {
    /// What an upgrade is decided on: all that any release's components may write, too.
    pub fn upgrade() -> Self {
        let written = upgrade::written();
        let scope = Self {
            everywhere: pairs(EVERYWHERE),
            platform: pairs(PLATFORM),
            namespaces: written.namespaces.clone(),
            is_copy: false,
        };
        scope.with_kinds(
            written
                .kinds
                .iter()
                .map(|(group, kind)| (group.as_str(), kind.as_str())),
        )
    }

    /// What a rehearsal needs to be true: besides, everything else in the platform's own namespaces.
    pub fn copy() -> Self {
        let mut scope = Self::upgrade();
        scope.everywhere.extend(pairs(COPY));
        scope.is_copy = true;
        scope
    }

    /// Adds kinds in the platform's namespaces, or cluster-wide when they are cluster-scoped or custom: those of a
    /// release's manifests.
    pub fn with_kinds<'a>(mut self, kinds: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        for (group, kind) in kinds {
            let reach = if upgrade::is_custom(group) {
                &mut self.everywhere
            } else {
                &mut self.platform
            };
            reach.insert((group.to_owned(), kind.to_owned()));
        }
        self
    }

    /// API group and kind of what is read wherever it is, besides all of the platform's groups ([`is_platform_group`]).
    pub fn everywhere(&self) -> impl Iterator<Item = (&str, &str)> {
        self.everywhere
            .iter()
            .map(|(group, kind)| (group.as_str(), kind.as_str()))
    }

    /// API group and kind of what is read in the platform's own namespaces.
    pub fn in_platform(&self) -> impl Iterator<Item = (&str, &str)> {
        self.platform
            .iter()
            .map(|(group, kind)| (group.as_str(), kind.as_str()))
    }

    /// Whether a namespace is one whose objects of all kinds in scope are read. A copy also has those of
    /// optional components and Kubernetes' own.
    pub(crate) fn has_namespace(&self, namespace: &Object) -> bool {
        let name = namespace.name();
        let is_platform =
            name == "kube-system" || name.starts_with("kubesphere-") || self.namespaces.contains(name);
        is_platform
            || self.is_copy
                && (namespace.label(WORKSPACE.0) == Some(WORKSPACE.1)
                    || matches!(name, "default" | "kube-node-lease" | "kube-public"))
    }

    pub(crate) fn reach(&self, resource: &Resource) -> Reach {
        let served = &resource.served;
        let is_in =
            |set: &BTreeSet<(String, String)>| set.contains(&(served.group.clone(), served.kind.clone()));
        if !resource.is_listable || passes(served) {
            Reach::Nowhere
        } else if is_in(&self.everywhere) || is_platform_group(&served.group) {
            Reach::Everywhere
        } else if is_in(&self.platform) {
            if served.namespaced {
                Reach::PlatformNamespaces
            } else {
                Reach::Everywhere
            }
        } else if self.is_copy && served.namespaced {
            Reach::PlatformNamespaces
        } else {
            Reach::Nowhere
        }
    }

    /// Whether an object of a kind is within reach. `namespaced` is the kind's scope.
    #[cfg(test)]
    fn check(&self, group: &str, kind: &str, namespaced: bool) -> Reach {
        self.reach(&Resource {
            is_listable: true,
            served: upgrade::ServedResource {
                group: group.into(),
                version: "v1".into(),
                kind: kind.into(),
                resource: format!("{}s", kind.to_lowercase()),
                namespaced,
            },
        })
    }
}

/// Whether a kind's objects pass by themselves, or are seen elsewhere.
pub(crate) fn passes(served: &upgrade::ServedResource) -> bool {
    NEVER.contains(&(served.group.as_str(), served.kind.as_str()))
}

/// Groups whose every object belongs to the platform or to its tenants.
pub fn is_platform_group(group: &str) -> bool {
    group == "app.k8s.io" || upgrade::is_own_group(group)
}

fn pairs(kinds: &[(&str, &[&str])]) -> BTreeSet<(String, String)> {
    kinds
        .iter()
        .flat_map(|(group, kinds)| kinds.iter().map(|kind| ((*group).to_owned(), (*kind).to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reaches_what_matters() {
        use Reach::{Everywhere, Nowhere, PlatformNamespaces};
        let check = |group, kind, namespaced, upgrade, copy| {
            assert_eq!(
                Scope::upgrade().check(group, kind, namespaced),
                upgrade,
                "upgrade: {kind}"
            );
            assert_eq!(Scope::copy().check(group, kind, namespaced), copy, "copy: {kind}");
        };
        check("rbac.authorization.k8s.io", "Role", true, Everywhere, Everywhere);
        check("iam.kubesphere.io", "GlobalRole", false, Everywhere, Everywhere);
        check("devops.kubesphere.io", "Pipeline", true, Everywhere, Everywhere);
        check("app.k8s.io", "Application", true, Everywhere, Everywhere);
        check("notkubesphere.io", "Thing", true, Nowhere, PlatformNamespaces);
        check("", "Secret", true, PlatformNamespaces, PlatformNamespaces);
        check("apps", "ReplicaSet", true, Nowhere, PlatformNamespaces);
        check("scheduling.k8s.io", "PriorityClass", false, Nowhere, Everywhere);
        // Of a component's manifests.
        check(
            "monitoring.coreos.com",
            "ServiceMonitor",
            true,
            Everywhere,
            Everywhere,
        );
        check("cert-manager.io", "ClusterIssuer", false, Nowhere, Nowhere);
        check("", "Event", true, Nowhere, Nowhere);
    }

    #[test]
    fn namespaces_of_users_are_left_out() {
        let check = |name: &str, workspace: &str, upgrade, copy| {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubesphere.io/workspace": workspace}}});
            let namespace = Object::try_from(namespace).unwrap();
            assert_eq!(
                Scope::upgrade().has_namespace(&namespace),
                upgrade,
                "upgrade: {name}"
            );
            assert_eq!(Scope::copy().has_namespace(&namespace), copy, "copy: {name}");
        };
        check("kubesphere-system", "system-workspace", true, true);
        check("kubesphere-system", "", true, true);
        check("kube-system", "system-workspace", true, true);
        // A component's, since a release's manifests are there.
        check("istio-system", "system-workspace", true, true);
        check("istio-system", "", true, true);
        check("cert-manager", "system-workspace", false, true);
        check("cert-manager", "", false, false);
        check("default", "", false, true);
        check("proj1", "demo", false, false);
    }

    #[test]
    fn kinds_of_a_release_can_be_added() {
        let scope = Scope::upgrade().with_kinds([
            ("example.com", "Widget"),
            ("apps", "ReplicaSet"),
            ("policy", "PodSecurityPolicy"),
        ]);
        // Controllers of custom kinds look everywhere, and so must who changes their definitions.
        assert_eq!(scope.check("example.com", "Widget", true), Reach::Everywhere);
        assert_eq!(scope.check("apps", "ReplicaSet", true), Reach::PlatformNamespaces);
        assert_eq!(
            scope.check("policy", "PodSecurityPolicy", false),
            Reach::Everywhere
        );
    }
}
