//! Restoring a dump: objects go into etcd as they are, before the API server starts, so that UIDs, creation times
//! and managed fields survive. The API server stores protobuf but reads JSON just as well.
//!
//! What is put back, and what is not:
//!
//! - Workloads, ReplicaSets, ControllerRevisions and Pods are: a restored cluster is ready at once, with the
//!   revisions its rollouts would be rolled back to. The fake nodes adopt the dump's Nodes, and their Pods with them.
//! - Service-account token Secrets are, less the token: no key of ours signed it. The controller manager puts a
//!   new token and the new authority into the Secret, which keeps its name, and the ServiceAccount its reference.
//! - Endpoints of Services that select Pods, and EndpointSlices, are not: they are derived, and the
//!   controllers make them anew. Endpoints that somebody wrote by hand are.
//! - Events and Leases are not: they are about a moment that has passed. A stale Lease would have a node taken for dead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kube::Client;
use serde_json::{Value, json};

use super::Error;

/// Kubernetes' own kinds: API group, kind, and where below `/registry` its objects are kept.
///
/// Most are kept under their resource name, whatever the group; nodes, services, endpoints and ingresses under a
/// name from the project's early days; what apiextensions and the aggregator serve under group and resource.
const BUILT_IN: &[(&str, &str, &str, Scope)] = &[
    ("", "ConfigMap", "configmaps", Scope::Namespaced),
    ("", "Endpoints", "services/endpoints", Scope::Namespaced),
    ("", "LimitRange", "limitranges", Scope::Namespaced),
    ("", "Namespace", "namespaces", Scope::Cluster),
    ("", "Node", "minions", Scope::Cluster),
    ("", "PersistentVolume", "persistentvolumes", Scope::Cluster),
    (
        "",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        Scope::Namespaced,
    ),
    ("", "Pod", "pods", Scope::Namespaced),
    ("", "PodTemplate", "podtemplates", Scope::Namespaced),
    ("", "ReplicationController", "controllers", Scope::Namespaced),
    ("", "ResourceQuota", "resourcequotas", Scope::Namespaced),
    ("", "Secret", "secrets", Scope::Namespaced),
    ("", "Service", "services/specs", Scope::Namespaced),
    ("", "ServiceAccount", "serviceaccounts", Scope::Namespaced),
    (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        Scope::Cluster,
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        Scope::Cluster,
    ),
    (
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "apiextensions.k8s.io/customresourcedefinitions",
        Scope::Cluster,
    ),
    (
        "apiregistration.k8s.io",
        "APIService",
        "apiregistration.k8s.io/apiservices",
        Scope::Cluster,
    ),
    (
        "apps",
        "ControllerRevision",
        "controllerrevisions",
        Scope::Namespaced,
    ),
    ("apps", "DaemonSet", "daemonsets", Scope::Namespaced),
    ("apps", "Deployment", "deployments", Scope::Namespaced),
    ("apps", "ReplicaSet", "replicasets", Scope::Namespaced),
    ("apps", "StatefulSet", "statefulsets", Scope::Namespaced),
    (
        "autoscaling",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        Scope::Namespaced,
    ),
    ("batch", "CronJob", "cronjobs", Scope::Namespaced),
    ("batch", "Job", "jobs", Scope::Namespaced),
    (
        "certificates.k8s.io",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        Scope::Cluster,
    ),
    ("extensions", "Ingress", "ingress", Scope::Namespaced),
    (
        "flowcontrol.apiserver.k8s.io",
        "FlowSchema",
        "flowschemas",
        Scope::Cluster,
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "PriorityLevelConfiguration",
        "prioritylevelconfigurations",
        Scope::Cluster,
    ),
    ("networking.k8s.io", "Ingress", "ingress", Scope::Namespaced),
    (
        "networking.k8s.io",
        "IngressClass",
        "ingressclasses",
        Scope::Cluster,
    ),
    (
        "networking.k8s.io",
        "NetworkPolicy",
        "networkpolicies",
        Scope::Namespaced,
    ),
    ("node.k8s.io", "RuntimeClass", "runtimeclasses", Scope::Cluster),
    (
        "policy",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        Scope::Namespaced,
    ),
    ("policy", "PodSecurityPolicy", "podsecuritypolicy", Scope::Cluster),
    (
        "rbac.authorization.k8s.io",
        "ClusterRole",
        "clusterroles",
        Scope::Cluster,
    ),
    (
        "rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        "clusterrolebindings",
        Scope::Cluster,
    ),
    ("rbac.authorization.k8s.io", "Role", "roles", Scope::Namespaced),
    (
        "rbac.authorization.k8s.io",
        "RoleBinding",
        "rolebindings",
        Scope::Namespaced,
    ),
    (
        "scheduling.k8s.io",
        "PriorityClass",
        "priorityclasses",
        Scope::Cluster,
    ),
    ("storage.k8s.io", "CSIDriver", "csidrivers", Scope::Cluster),
    ("storage.k8s.io", "CSINode", "csinodes", Scope::Cluster),
    ("storage.k8s.io", "StorageClass", "storageclasses", Scope::Cluster),
    (
        "storage.k8s.io",
        "VolumeAttachment",
        "volumeattachments",
        Scope::Cluster,
    ),
];

/// Kinds that are left out, see above.
const LEFT_OUT: &[(&str, &str)] = &[
    ("", "Event"),
    ("events.k8s.io", "Event"),
    ("coordination.k8s.io", "Lease"),
    ("discovery.k8s.io", "EndpointSlice"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Cluster,
    Namespaced,
}

/// What etcd is to hold: key to object.
pub(crate) type Entries = BTreeMap<String, Value>;

/// Decides under which keys the objects go, and how they are changed for it.
///
/// # Errors
/// An object without a kind or a name, or of a kind that is neither Kubernetes' own nor defined in the dump.
pub(crate) fn entries(objects: Vec<Value>) -> Result<Entries, Error> {
    let custom: BTreeMap<(String, String), (String, Scope)> =
        objects.iter().filter_map(defined_kind).collect();
    let selecting = services_that_select(&objects);
    let mut entries = Entries::new();
    for mut object in objects {
        let (group, kind) = group_and_kind(&object);
        if LEFT_OUT.contains(&(group.as_str(), kind.as_str())) {
            continue;
        }
        let (namespace, name) = namespace_and_name(&object);
        if kind == "Endpoints" && group.is_empty() && selecting.contains(&(namespace.clone(), name.clone())) {
            continue;
        }
        let built_in = BUILT_IN
            .iter()
            .find(|(of, known, ..)| *of == group && *known == kind);
        let (prefix, scope) = match built_in {
            Some((_, _, prefix, scope)) => ((*prefix).to_owned(), *scope),
            None => custom
                .get(&(group.clone(), kind.clone()))
                .cloned()
                .ok_or_else(|| {
                    Error::Restore(format!(
                        "{kind} of {group:?} is neither built in nor defined in the dump"
                    ))
                })?,
        };
        let key = match scope {
            Scope::Cluster => format!("/registry/{prefix}/{name}"),
            Scope::Namespaced => format!("/registry/{prefix}/{namespace}/{name}"),
        };
        if name.is_empty() || (scope == Scope::Namespaced && namespace.is_empty()) {
            return Err(Error::Restore(format!(
                "a {kind} has no name or no namespace: {key}"
            )));
        }
        clean(&mut object, &kind);
        entries.insert(key, object);
    }
    Ok(entries)
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn group_and_kind(object: &Value) -> (String, String) {
    let version = text(object, "/apiVersion");
    (
        version.rsplit_once('/').map_or("", |(group, _)| group).to_owned(),
        text(object, "/kind").to_owned(),
    )
}

fn namespace_and_name(object: &Value) -> (String, String) {
    (
        text(object, "/metadata/namespace").to_owned(),
        text(object, "/metadata/name").to_owned(),
    )
}

/// Group and kind, prefix and scope, of what a CustomResourceDefinition defines.
fn defined_kind(definition: &Value) -> Option<((String, String), (String, Scope))> {
    if text(definition, "/kind") != "CustomResourceDefinition" {
        return None;
    }
    let group = text(definition, "/spec/group");
    let prefix = format!("{group}/{}", text(definition, "/spec/names/plural"));
    let scope = if text(definition, "/spec/scope") == "Cluster" {
        Scope::Cluster
    } else {
        Scope::Namespaced
    };
    Some((
        (group.to_owned(), text(definition, "/spec/names/kind").to_owned()),
        (prefix, scope),
    ))
}

/// Services whose Endpoints are derived: those with a selector, and the API server's own.
fn services_that_select(objects: &[Value]) -> BTreeSet<(String, String)> {
    objects
        .iter()
        .filter(|object| text(object, "/kind") == "Service" && text(object, "/apiVersion") == "v1")
        .filter(|object| {
            object
                .pointer("/spec/selector")
                .is_some_and(|selector| !selector.is_null())
        })
        .map(namespace_and_name)
        .chain([("default".to_owned(), "kubernetes".to_owned())])
        .collect()
}

/// Takes out what etcd must not hold: fields that the API server derives from the key's revision and refuses to
/// find stored, and tokens that nobody would honour.
fn clean(object: &mut Value, kind: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
        metadata.remove("selfLink");
    }
    if kind == "Secret"
        && text(object, "/type") == "kubernetes.io/service-account-token"
        && let Some(data) = object.get_mut("data").and_then(Value::as_object_mut)
    {
        data.remove("token");
    }
}

/// Puts the entries into etcd through its HTTP gateway. `etcd` is a client whose server is etcd.
pub(crate) async fn put(etcd: &Client, entries: &Entries) -> Result<(), Error> {
    // Batches stay below both of the limits that etcd is started with.
    const BATCH_BYTES: usize = 4 << 20;
    const BATCH_OPERATIONS: usize = 500;
    let mut batch = Vec::new();
    let mut size = 0;
    for (key, object) in entries {
        let value = object.to_string();
        if !batch.is_empty() && (batch.len() == BATCH_OPERATIONS || size + value.len() > BATCH_BYTES) {
            transact(etcd, std::mem::take(&mut batch)).await?;
            size = 0;
        }
        size += value.len();
        batch.push(json!({"requestPut": {"key": BASE64.encode(key), "value": BASE64.encode(value)}}));
    }
    if batch.is_empty() {
        Ok(())
    } else {
        transact(etcd, batch).await
    }
}

async fn transact(etcd: &Client, operations: Vec<Value>) -> Result<(), Error> {
    let body = serde_json::to_vec(&json!({ "success": operations })).expect("JSON values serialise");
    let request = http::Request::post("/v3/kv/txn")
        .body(body)
        .expect("the address is a constant");
    let response: Value = etcd.request(request).await?;
    if response["succeeded"] == true {
        Ok(())
    } else {
        Err(Error::Restore(format!(
            "etcd refused: {}",
            text(&response, "/error")
        )))
    }
}

/// Waits until etcd takes requests.
pub(crate) async fn wait_for_etcd(
    etcd: &Client,
    mut alive: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    super::poll("etcd to be healthy", Duration::from_secs(30), async || {
        alive()?;
        let request = http::Request::get("/health")
            .body(Vec::new())
            .expect("the address is a constant");
        Ok(etcd
            .request_text(request)
            .await
            .is_ok_and(|text| text.contains("true")))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Value {
        let mut object =
            json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "uid": "u"}});
        if let Some(namespace) = namespace {
            object["metadata"]["namespace"] = namespace.into();
        }
        object
    }

    fn mk_definition(scope: &str) -> Value {
        let mut definition = mk(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            None,
            "users.iam.kubesphere.io",
        );
        definition["spec"] = json!({"group": "iam.kubesphere.io", "scope": scope, "names": {"kind": "User", "plural": "users"}});
        definition
    }

    fn check(objects: &[Value], expect: &[&str]) {
        let keys: Vec<String> = entries(objects.to_vec()).unwrap().into_keys().collect();
        assert_eq!(keys, expect);
    }

    #[test]
    fn keys_follow_the_api_server() {
        check(&[mk("v1", "Node", None, "n")], &["/registry/minions/n"]);
        check(
            &[mk("v1", "Service", Some("a"), "s")],
            &["/registry/services/specs/a/s"],
        );
        check(
            &[mk("apps/v1", "Deployment", Some("a"), "d")],
            &["/registry/deployments/a/d"],
        );
        check(
            &[mk("networking.k8s.io/v1", "Ingress", Some("a"), "i")],
            &["/registry/ingress/a/i"],
        );
        let definition = "/registry/apiextensions.k8s.io/customresourcedefinitions/users.iam.kubesphere.io";
        check(
            &[
                mk("iam.kubesphere.io/v1alpha2", "User", None, "u"),
                mk_definition("Cluster"),
            ],
            &[definition, "/registry/iam.kubesphere.io/users/u"],
        );
        check(
            &[
                mk_definition("Namespaced"),
                mk("iam.kubesphere.io/v1alpha2", "User", Some("a"), "u"),
            ],
            &[definition, "/registry/iam.kubesphere.io/users/a/u"],
        );
    }

    #[test]
    fn derived_objects_are_left_out_and_handwritten_endpoints_are_kept() {
        let mut selecting = mk("v1", "Service", Some("a"), "with");
        selecting["spec"] = json!({"selector": {"app": "x"}});
        check(
            &[
                selecting,
                mk("v1", "Service", Some("a"), "without"),
                mk("v1", "Endpoints", Some("a"), "with"),
                mk("v1", "Endpoints", Some("a"), "without"),
                mk("v1", "Endpoints", Some("default"), "kubernetes"),
                mk("discovery.k8s.io/v1beta1", "EndpointSlice", Some("a"), "with-x"),
                mk("coordination.k8s.io/v1", "Lease", Some("kube-node-lease"), "n"),
                mk("v1", "Event", Some("a"), "e"),
            ],
            &[
                "/registry/services/endpoints/a/without",
                "/registry/services/specs/a/with",
                "/registry/services/specs/a/without",
            ],
        );
    }

    #[test]
    fn identity_survives_and_what_the_server_derives_does_not() {
        let mut object = mk("v1", "ConfigMap", Some("a"), "c");
        object["metadata"]["resourceVersion"] = "12".into();
        object["metadata"]["selfLink"] = "/api/v1/x".into();
        object["metadata"]["managedFields"] = json!([{"manager": "helm"}]);
        let stored = entries(vec![object]).unwrap().into_values().next().unwrap();
        assert_eq!(
            stored["metadata"],
            json!({"name": "c", "uid": "u", "namespace": "a", "managedFields": [{"manager": "helm"}]})
        );
    }

    #[test]
    fn a_service_account_token_is_dropped_and_other_secrets_are_not_touched() {
        for (kind, expect) in [
            ("kubernetes.io/service-account-token", json!({"ca.crt": "Yw=="})),
            ("Opaque", json!({"ca.crt": "Yw==", "token": "dA=="})),
        ] {
            let mut secret = mk("v1", "Secret", Some("a"), "s");
            secret["type"] = kind.into();
            secret["data"] = json!({"ca.crt": "Yw==", "token": "dA=="});
            assert_eq!(
                entries(vec![secret]).unwrap().into_values().next().unwrap()["data"],
                expect,
                "{kind}"
            );
        }
    }

    #[test]
    fn what_has_no_place_is_refused() {
        for object in [
            mk("example.org/v1", "Unknown", None, "x"),
            mk("v1", "ConfigMap", None, "without-namespace"),
            mk("v1", "ConfigMap", Some("a"), ""),
        ] {
            assert!(entries(vec![object.clone()]).is_err(), "{object}");
        }
    }
}
