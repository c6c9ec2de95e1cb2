//! deploy/kubesphere-installer.yaml

use std::fmt::Write as _;

use object::ObjectKey;
use release::{Release, to_yaml};
use serde_json::{Value, json};

use super::Rights;
use crate::{
    cluster_configuration_key,
    decide::{OPERATOR_LABEL, installer_key},
};

/// Who the container runs as. Any number but 0 would do.
const USER: u32 = 65532;

const HEAD: &str = "\
# The installer in the cluster. Made by `cargo xtask generate`; do not edit.
#
#   kubectl apply -f kubesphere-installer.yaml --force
#
# --force, since Kubernetes lets nobody change the selector of the Deployment that earlier releases brought: it is replaced.
# What each of its rights is needed for: docs/permissions.md
";

/// The objects that users apply, as YAML documents in the order in which they are to be made.
pub fn manifest(release: &Release, rights: &Rights) -> String {
    let mut text = HEAD.to_owned();
    let mut document = |value: &Value| {
        text.push_str("---\n");
        text.push_str(&to_yaml(value));
    };
    document(&definition());
    for namespace in namespaces(rights) {
        document(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
    }
    let (system, name) = names();
    document(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": system},
    }));
    role(&mut text, rights, None);
    for namespace in rights.namespaces() {
        role(&mut text, rights, Some(namespace));
    }
    for value in [service(), deployment(release)] {
        text.push_str("---\n");
        text.push_str(&to_yaml(&value));
    }
    text
}

/// The installer's namespace and name.
fn names() -> (String, String) {
    let key = installer_key();
    (key.namespace.unwrap_or_default(), key.name)
}

/// A role can only be made in a namespace that is there. Kubernetes' own are.
fn namespaces(rights: &Rights) -> impl Iterator<Item = &str> {
    rights
        .namespaces()
        .into_iter()
        .filter(|namespace| !["default", "kube-node-lease", "kube-public", "kube-system"].contains(namespace))
}

/// The CustomResourceDefinition of ClusterConfigurations.
pub fn definition_key() -> ObjectKey {
    let group = cluster_configuration_key().group;
    let name = format!("clusterconfigurations.{group}");
    ObjectKey::cluster("apiextensions.k8s.io", "CustomResourceDefinition", &name)
}

/// The definition as it always was, but for the columns. No status subresource: published procedures patch the status as
/// a plain field.
pub(crate) fn definition() -> Value {
    let group = cluster_configuration_key().group;
    let free = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": definition_key().name},
        "spec": {
            "group": group,
            "names": {
                "kind": "ClusterConfiguration", "listKind": "ClusterConfigurationList",
                "plural": "clusterconfigurations", "singular": "clusterconfiguration", "shortNames": ["cc"],
            },
            "scope": "Namespaced",
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "additionalPrinterColumns": [
                    column("Version", "string", ".status.core.version"),
                    column("Phase", "string", ".status.phase"),
                    column("Progress", "string", ".status.progress"),
                    column("Age", "date", ".metadata.creationTimestamp"),
                ],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": free, "status": free}}},
            }],
        },
    })
}

/// A role and its binding, every rule with why it is there.
fn role(text: &mut String, rights: &Rights, namespace: Option<&str>) {
    const VERSION: &str = "rbac.authorization.k8s.io/v1";
    let (system, name) = names();
    let kind = if namespace.is_some() {
        "Role"
    } else {
        "ClusterRole"
    };
    let metadata = match namespace {
        Some(namespace) => json!({"name": name, "namespace": namespace}),
        None => json!({"name": name}),
    };
    text.push_str("---\n");
    text.push_str(&to_yaml(
        &json!({"apiVersion": VERSION, "kind": kind, "metadata": metadata}),
    ));
    text.push_str("rules:\n");
    for rule in rights.rules(namespace) {
        for reason in &rule.reasons {
            let _ = writeln!(text, "# {}.", reason.text());
        }
        text.push_str(&to_yaml(&json!([rule.to_value()])));
    }
    text.push_str("---\n");
    text.push_str(&to_yaml(&json!({
        "apiVersion": VERSION, "kind": format!("{kind}Binding"), "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": system}],
    })));
}

fn service() -> Value {
    let (system, name) = names();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": format!("{name}-metrics"), "namespace": system,
            "labels": {"app": name, OPERATOR_LABEL.0: OPERATOR_LABEL.1},
        },
        "spec": {
            "selector": {"app": name, OPERATOR_LABEL.0: OPERATOR_LABEL.1},
            "ports": [{"name": "metrics", "port": 8080, "targetPort": "metrics"}],
        },
    })
}

fn deployment(release: &Release) -> Value {
    let (system, name) = names();
    let labels = json!({"app": name, OPERATOR_LABEL.0: OPERATOR_LABEL.1});
    let probe = |path: &str, every: u32| json!({"httpGet": {"path": path, "port": "metrics"}, "periodSeconds": every});
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": system, "labels": labels},
        "spec": {
            "replicas": 1,
            // What the pods of this and of later releases have in common; a selector can never be changed.
            "selector": {"matchLabels": {"app": name}},
            // A Lease says which of them works, so the new one may come before the old one goes.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": name,
                    "terminationGracePeriodSeconds": 60,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [{
                        "name": "installer",
                        "image": format!("kubesphere/{name}:{}", release.version),
                        "imagePullPolicy": "IfNotPresent",
                        "args": ["operator"],
                        "env": [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")],
                        "ports": [{"name": "metrics", "containerPort": 8080}],
                        "livenessProbe": probe("/healthz", 10),
                        "readinessProbe": probe("/readyz", 5),
                        // It idles with little. For a run it has the cluster in memory: of 50,000 roles that is 2.7 GB for a moment,
                        // and who is killed for it each time would never get done.
                        "resources": {
                            "requests": {"cpu": "20m", "memory": "64Mi"},
                            "limits": {"cpu": "1", "memory": "4Gi"},
                        },
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "privileged": false,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
                    }],
                    // A backup is put together here before it is kept; it holds secrets, which no disk is to see.
                    "volumes": [{"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}}],
                },
            },
        },
    })
}
