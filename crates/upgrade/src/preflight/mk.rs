//! Builders for tests.

use object::{Object, ObjectKey};
use release::{KubernetesSupport, UpgradeFrom, Version};
use serde_json::{Value, json};

use super::{Context, StorageClass, Write};
use crate::{Finding, Install, ServedResource, Snapshot, reasons};

/// An object; `name` may have a namespace in front: `kubesphere-system/ks-apiserver`.
pub(crate) fn mk(api_version: &str, kind: &str, name: &str, fields: Value) -> Object {
    let mut value = fields;
    value["apiVersion"] = json!(api_version);
    value["kind"] = json!(kind);
    let (namespace, name) = name
        .split_once('/')
        .map_or((None, name), |(ns, name)| (Some(ns), name));
    value["metadata"]["name"] = json!(name);
    if let Some(namespace) = namespace {
        value["metadata"]["namespace"] = json!(namespace);
    }
    Object::try_from(value).unwrap()
}

pub(crate) fn mk_add(snapshot: &mut Snapshot, object: Object) {
    snapshot.objects.insert(object.key(), object);
}

/// Sets the value at a JSON pointer of an object, the last part of which may be new.
pub(crate) fn mk_edit(snapshot: &mut Snapshot, key: &ObjectKey, pointer: &str, value: Value) {
    let object = snapshot.objects.get_mut(key).unwrap();
    let mut whole: Value = object.clone().into();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match whole.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        other => other[name] = value,
    }
    *object = Object::try_from(whole).unwrap();
}

/// A cluster with KubeSphere v3.2.1 in which nothing is the matter.
pub(crate) fn mk_sound() -> Snapshot {
    mk_sound_at("v3.2.1")
}

/// The same with another version in its status.
pub(crate) fn mk_sound_at(version: &str) -> Snapshot {
    let deployment = |name: &str| {
        mk(
            "apps/v1",
            "Deployment",
            &format!("kubesphere-system/{name}"),
            json!({
                "metadata": {"generation": 1},
                "spec": {
                    "replicas": 1,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {"labels": {"app": name}},
                        "spec": {"containers": [{"name": name, "image": format!("kubesphere/{name}:{version}")}]},
                    },
                },
                "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
            }),
        )
    };
    let namespace = |name: &str| {
        mk(
            "v1",
            "Namespace",
            name,
            json!({"metadata": {"labels": {"kubesphere.io/namespace": name}}, "status": {"phase": "Active"}}),
        )
    };
    let users_webhook = json!({"webhooks": [{
        "name": "users.iam.kubesphere.io",
        "failurePolicy": "Fail",
        "clientConfig": {"service": {"namespace": "kubesphere-system", "name": "ks-controller-manager", "port": 443}},
        "rules": [{"apiGroups": ["iam.kubesphere.io"], "apiVersions": ["v1alpha2"], "resources": ["users"],
                   "operations": ["CREATE", "UPDATE"], "scope": "*"}],
    }]});
    let mut snapshot = Snapshot::from_objects(
        "v1.20.2",
        [
            namespace("kube-system"),
            namespace("kubesphere-system"),
            deployment("ks-apiserver"),
            deployment("ks-controller-manager"),
            mk(
                "installer.kubesphere.io/v1alpha1",
                "ClusterConfiguration",
                "kubesphere-system/ks-installer",
                json!({"spec": {}, "status": {"core": {"version": version}}}),
            ),
            mk(
                "storage.k8s.io/v1",
                "StorageClass",
                "local",
                json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
            ),
            mk("iam.kubesphere.io/v1alpha2", "User", "admin", json!({})),
            mk(
                "v1",
                "Node",
                "node1",
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            ),
            mk(
                "v1",
                "Service",
                "kubesphere-system/ks-controller-manager",
                json!({"spec": {"ports": [{"port": 443}], "selector": {"app": "ks-controller-manager"}}}),
            ),
            mk(
                "v1",
                "Endpoints",
                "kubesphere-system/ks-controller-manager",
                json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]}),
            ),
            mk(
                "admissionregistration.k8s.io/v1",
                "ValidatingWebhookConfiguration",
                "users.iam.kubesphere.io",
                users_webhook,
            ),
        ],
    );
    snapshot.served = [
        ("", "v1", "ConfigMap", "configmaps"),
        ("", "v1", "Namespace", "namespaces"),
        (
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        ),
        (
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
        ),
        ("apps", "v1", "Deployment", "deployments"),
        ("apps", "v1", "ControllerRevision", "controllerrevisions"),
        ("iam.kubesphere.io", "v1alpha2", "GlobalRole", "globalroles"),
        ("iam.kubesphere.io", "v1alpha2", "User", "users"),
        ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    ]
    .into_iter()
    .map(|(group, version, kind, resource)| ServedResource {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        resource: resource.into(),
        namespaced: !matches!(kind, "Namespace" | "User" | "GlobalRole"),
    })
    .collect();
    snapshot
}

/// What a context borrows from.
pub(crate) struct Mk {
    pub(crate) target: Version,
    pub(crate) upgrade_from: UpgradeFrom,
    pub(crate) kubernetes: KubernetesSupport,
    pub(crate) allow_unsupported_kubernetes: bool,
    pub(crate) storage_class: StorageClass<'static>,
    pub(crate) rendered: Vec<Object>,
    pub(crate) workloads: Vec<ObjectKey>,
    pub(crate) writes: Vec<Write>,
    pub(crate) install: Install,
    pub(crate) now: Option<i64>,
}

impl Default for Mk {
    fn default() -> Self {
        let deployment = |name: &str| ObjectKey::namespaced("apps", "Deployment", "kubesphere-system", name);
        Self {
            target: "v3.3.1".parse().unwrap(),
            upgrade_from: UpgradeFrom {
                range: ">=3.2.0, <3.3.1".parse().unwrap(),
                older: "upgrade to v3.2.1 first".into(),
            },
            kubernetes: KubernetesSupport {
                supported: ">=1.19, <1.23".parse().unwrap(),
                experimental: Some(">=1.23, <1.24".parse().unwrap()),
            },
            allow_unsupported_kubernetes: false,
            storage_class: StorageClass::Default,
            rendered: Vec::new(),
            workloads: vec![deployment("ks-apiserver"), deployment("ks-controller-manager")],
            writes: Vec::new(),
            install: Install::No,
            now: None,
        }
    }
}

/// Runs all checks in a context that `edit` changes. Every reason found must stand in the table of reasons.
pub(crate) fn mk_checked(snapshot: &Snapshot, edit: impl FnOnce(&mut Mk)) -> Vec<Finding> {
    let mut mk = Mk::default();
    edit(&mut mk);
    let rendered: Vec<&Object> = mk.rendered.iter().collect();
    let findings = super::check(
        snapshot,
        &Context {
            target: &mk.target,
            upgrade_from: &mk.upgrade_from,
            kubernetes: &mk.kubernetes,
            allow_unsupported_kubernetes: mk.allow_unsupported_kubernetes,
            storage_class: mk.storage_class,
            rendered: &rendered,
            workloads: &mk.workloads,
            writes: &mk.writes,
            install: mk.install,
            now: mk.now,
        },
    );
    for finding in &findings {
        let reason = reasons::find(&finding.reason).expect("a known reason");
        assert!(
            reason.severities.contains(&finding.severity),
            "{} is not documented as {:?}",
            finding.reason,
            finding.severity
        );
        assert!(
            !finding.message.ends_with('.'),
            "no full stop: {}",
            finding.message
        );
    }
    findings
}

/// The reasons of what [`mk_checked`] finds.
pub(crate) fn mk_reasons(snapshot: &Snapshot, edit: impl FnOnce(&mut Mk)) -> Vec<String> {
    mk_checked(snapshot, edit).into_iter().map(|f| f.reason).collect()
}
