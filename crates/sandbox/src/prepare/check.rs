//! Validation of built-in kinds: the mistakes that people make, in the words of the server.

use serde_json::Value;

use super::{definitions, network, services, webhooks, workloads};
use crate::fields::quantity_in_billionths;
use crate::fields::validate::Cause;
use crate::golang;
use crate::json::{list, list_at, namespace, number_at, object, text, text_at};
use crate::kinds::Resource;
use crate::status::{cause, forbidden, invalid, required, unsupported};

/// Checks an object of a built-in kind by itself.
pub(crate) fn check(resource: &Resource, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") | ("batch", "Job") => {
            workloads::check(resource, new, &mut causes);
        }
        ("", "Pod") => workloads::check_pod(new, &mut causes),
        ("batch", "CronJob") => workloads::check_cron_job(new, &mut causes),
        ("autoscaling", _) => workloads::check_autoscaler(new, &mut causes),
        ("policy", "PodDisruptionBudget") => workloads::check_budget(new, &mut causes),
        ("networking.k8s.io" | "extensions", "Ingress") => network::check_ingress(new, &mut causes),
        ("networking.k8s.io", "NetworkPolicy") => network::check_policy(new, &mut causes),
        ("", "Endpoints") => network::check_endpoints(new, &mut causes),
        ("admissionregistration.k8s.io", _) => webhooks::check(resource, new, &mut causes),
        ("", "Event") => check_event(new, &mut causes),
        ("scheduling.k8s.io", "PriorityClass") => check_priority(new, &mut causes),
        ("storage.k8s.io", "StorageClass") => check_storage_class(new, &mut causes),
        ("apiregistration.k8s.io", "APIService") => check_api_service(new, &mut causes),
        ("", "ConfigMap" | "Secret") => causes.extend(super::names::check_data(resource, new)),
        ("", "Service") => services::check(new, &mut causes),
        ("", "PersistentVolumeClaim") => {
            if list_at(new, "/spec/accessModes").is_empty() {
                causes.push(required("spec.accessModes", "at least 1 access mode is required"));
            }
            let modes = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce"];
            for mode in list_at(new, "/spec/accessModes").iter().filter_map(Value::as_str) {
                if !modes.contains(&mode) {
                    causes.push(unsupported("spec.accessModes", mode, &modes));
                }
            }
            if new.pointer("/spec/resources/requests/storage").is_none() {
                causes.push(required("spec.resources[storage]", ""));
            }
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            definitions::check(resource, new, &mut causes);
        }
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => check_rules(resource, new, &mut causes),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            check_reference(resource, new, &mut causes);
            for (index, subject) in list(new, "subjects").iter().enumerate() {
                if text(subject, "name").is_empty() {
                    causes.push(required(&format!("subjects[{index}].name"), ""));
                }
                let kind = text(subject, "kind");
                if !matches!(kind, "ServiceAccount" | "User" | "Group") {
                    let supported = ["ServiceAccount", "User", "Group"];
                    causes.push(unsupported(&format!("subjects[{index}].kind"), kind, &supported));
                }
                // In a RoleBinding it is the binding's own.
                if kind == "ServiceAccount" && !resource.namespaced && text(subject, "namespace").is_empty() {
                    causes.push(required(&format!("subjects[{index}].namespace"), ""));
                }
            }
        }
        _ => {}
    }
    causes
}

/// An event stands in the namespace of what it is about; what has none has its events in `default`.
fn check_event(new: &Value, causes: &mut Vec<Cause>) {
    let (own, about) = (namespace(new), text_at(new, "/involvedObject/namespace"));
    let agrees = own == about || (about.is_empty() && own == "default");
    // The newer form has other fields, and rules of its own.
    if !agrees && text(new, "apiVersion") == "v1" {
        causes.push(invalid(
            "involvedObject.namespace",
            &about.into(),
            "does not match event.namespace",
        ));
    }
}

fn check_priority(new: &Value, causes: &mut Vec<Cause>) {
    const SYSTEM: [(&str, i64); 2] = [
        ("system-node-critical", 2_000_001_000),
        ("system-cluster-critical", 2_000_000_000),
    ];
    const HIGHEST: i64 = 1_000_000_000;
    let (name, value) = (crate::json::name(new), number_at(new, "/value").unwrap_or(0));
    if name.starts_with("system-") {
        let why = match SYSTEM.iter().find(|(known, _)| *known == name) {
            None => format!("{name} is not a known system priority class"),
            Some((_, wanted)) if *wanted != value => {
                format!("value of {name} PriorityClass must be {wanted}")
            }
            Some(_) if new.get("globalDefault") == Some(&Value::Bool(true)) => {
                format!("globalDefault of {name} PriorityClass must be false")
            }
            Some(_) => return,
        };
        causes.push(forbidden(
            "metadata.name",
            &format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
            ),
        ));
    } else if value > HIGHEST {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        causes.push(forbidden("value", &why));
    }
}

fn check_storage_class(new: &Value, causes: &mut Vec<Cause>) {
    if text(new, "provisioner").is_empty() {
        causes.push(required("provisioner", ""));
    }
    for (field, supported) in [
        ("reclaimPolicy", ["Delete", "Retain"]),
        ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"]),
    ] {
        let given = text(new, field);
        if !given.is_empty() && !supported.contains(&given) {
            causes.push(unsupported(field, given, &supported));
        }
    }
}

fn check_api_service(new: &Value, causes: &mut Vec<Cause>) {
    let (group, version) = (text_at(new, "/spec/group"), text_at(new, "/spec/version"));
    let (name, wanted) = (crate::json::name(new), format!("{version}.{group}"));
    if name != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        causes.push(invalid("metadata.name", &name.into(), &why));
    }
    if group.is_empty() && version != "v1" {
        causes.push(required(
            "spec.group",
            "only v1 may have an empty group and it better be legacy kube",
        ));
    }
    for (key, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let given = number_at(new, &format!("/spec/{key}")).unwrap_or(0);
        if !(1..=most).contains(&given) {
            let why = format!("must be positive and less than {most}");
            causes.push(invalid(&format!("spec.{key}"), &given.into(), &why));
        }
    }
    let is_trusting = new.pointer("/spec/insecureSkipTLSVerify") == Some(&Value::Bool(true));
    let has_bundle = !text_at(new, "/spec/caBundle").is_empty();
    let service = new.pointer("/spec/service").filter(|service| !service.is_null());
    let Some(service) = service else {
        if is_trusting {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            causes.push(invalid("spec.insecureSkipTLSVerify", &true.into(), why));
        }
        return;
    };
    for key in ["namespace", "name"] {
        if text(service, key).is_empty() {
            causes.push(required(&format!("spec.service.{key}"), ""));
        }
    }
    if is_trusting && has_bundle {
        let why = "may not be true if caBundle is present";
        causes.push(invalid("spec.insecureSkipTLSVerify", &true.into(), why));
    }
}

fn check_reference(resource: &Resource, new: &Value, causes: &mut Vec<Cause>) {
    let (group, kind) = (text_at(new, "/roleRef/apiGroup"), text_at(new, "/roleRef/kind"));
    if !matches!(group, "" | "rbac.authorization.k8s.io") {
        causes.push(unsupported(
            "roleRef.apiGroup",
            group,
            &["rbac.authorization.k8s.io"],
        ));
    }
    let supported: &[&str] = if resource.namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    if !supported.contains(&kind) {
        causes.push(unsupported("roleRef.kind", kind, supported));
    }
    if text_at(new, "/roleRef/name").is_empty() {
        causes.push(required("roleRef.name", ""));
    }
}

fn check_rules(resource: &Resource, new: &Value, causes: &mut Vec<Cause>) {
    for (index, rule) in list(new, "rules").iter().enumerate() {
        let field = |name: &str| format!("rules[{index}].{name}");
        if list(rule, "verbs").is_empty() {
            causes.push(required(&field("verbs"), "verbs must contain at least one value"));
        }
        if !list(rule, "nonResourceURLs").is_empty() {
            if resource.namespaced {
                let shown: Vec<_> = list(rule, "nonResourceURLs")
                    .iter()
                    .map(Value::to_string)
                    .collect();
                let why = format!(
                    "Invalid value: []string{{{}}}: namespaced rules cannot apply to non-resource URLs",
                    shown.join(", ")
                );
                causes.push(cause("FieldValueInvalid", &field("nonResourceURLs"), why));
            }
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            causes.push(required(
                &field("apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if list(rule, "resources").is_empty() {
            causes.push(required(
                &field("resources"),
                "resource rules must supply at least one resource",
            ));
        }
    }
}

/// Checks what an update of the status alone may say.
pub(crate) fn check_status(resource: &Resource, new: &Value) -> Vec<Cause> {
    if !resource.is("", "Namespace") {
        return Vec::new();
    }
    let (wanted, when) = if crate::json::is_deleting(new) {
        ("Terminating", "not empty")
    } else {
        ("Active", "empty")
    };
    let phase = text_at(new, "/status/phase");
    if phase == wanted {
        return Vec::new();
    }
    let why = format!("may only be '{wanted}' if `deletionTimestamp` is {when}");
    vec![invalid("status.Phase", &phase.into(), &why)]
}

/// Checks what an update may not change.
pub(crate) fn check_update(resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let differs = |pointer: &str| old.pointer(pointer) != new.pointer(pointer);
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") if differs("/roleRef") => {
            let reference = new.get("roleRef").unwrap_or(&Value::Null);
            causes.push(cause(
                "FieldValueInvalid",
                "roleRef",
                format!(
                    "Invalid value: rbac.RoleRef{{APIGroup:{:?}, Kind:{:?}, Name:{:?}}}: cannot change roleRef",
                    text(reference, "apiGroup"),
                    text(reference, "kind"),
                    text(reference, "name")
                ),
            ));
        }
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") if differs("/spec/selector") => {
            causes.push(cause(
                "FieldValueInvalid",
                "spec.selector",
                format!(
                    "Invalid value: {}: field is immutable",
                    golang::selector(new.pointer("/spec/selector").unwrap_or(&Value::Null))
                ),
            ));
        }
        ("apps", "StatefulSet") => {
            let fixed = |value: &Value| {
                let mut spec = value.get("spec").cloned().unwrap_or_default();
                let map = object(&mut spec);
                for key in ["replicas", "template", "updateStrategy"] {
                    map.shift_remove(key);
                }
                spec
            };
            if fixed(old) != fixed(new) {
                causes.push(forbidden(
                    "spec",
                    "updates to statefulset spec for fields other than 'replicas', 'template', and 'updateStrategy' \
                     are forbidden",
                ));
            }
        }
        ("batch", "Job") => {
            for field in ["selector", "template", "completions"] {
                if differs(&format!("/spec/{field}")) {
                    let value = new.pointer(&format!("/spec/{field}")).unwrap_or(&Value::Null);
                    causes.push(invalid(&format!("spec.{field}"), value, "field is immutable"));
                }
            }
        }
        ("", "Service") => causes.extend(services::check_address(old, new)),
        ("", "Pod") if pod_shape(old) != pod_shape(new) => causes.push(forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`, \
             `spec.initContainers[*].image`, `spec.activeDeadlineSeconds` or `spec.tolerations` (only additions to \
             existing tolerations)",
        )),
        ("", "ConfigMap" | "Secret") => {
            if old.get("immutable") == Some(&Value::Bool(true)) {
                if new.get("immutable") != Some(&Value::Bool(true)) {
                    causes.push(forbidden(
                        "immutable",
                        "field is immutable when `immutable` is set",
                    ));
                }
                for field in ["data", "binaryData", "stringData"] {
                    if differs(&format!("/{field}")) {
                        causes.push(forbidden(field, "field is immutable when `immutable` is set"));
                    }
                }
            }
            if resource.kind == "Secret" && differs("/type") {
                causes.push(invalid(
                    "type",
                    new.get("type").unwrap_or(&Value::Null),
                    "field is immutable",
                ));
            }
        }
        ("", "PersistentVolumeClaim") => check_claim_update(old, new, &mut causes),
        ("storage.k8s.io", "StorageClass") => {
            for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
                if differs(&format!("/{field}")) {
                    let why = if field == "volumeBindingMode" {
                        "field is immutable".to_owned()
                    } else {
                        format!("updates to {field} are forbidden.")
                    };
                    causes.push(forbidden(field, &why));
                }
            }
        }
        ("scheduling.k8s.io", "PriorityClass") if differs("/value") => {
            causes.push(forbidden("Value", "may not be changed in an update."));
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            for (field, pointer) in [("spec.group", "/spec/group"), ("spec.scope", "/spec/scope")] {
                if differs(pointer) {
                    causes.push(invalid(
                        field,
                        new.pointer(pointer).unwrap_or(&Value::Null),
                        "field is immutable",
                    ));
                }
            }
        }
        _ => {}
    }
    causes
}

/// A claim that is bound may grow; apart from that, and from being bound, it stays as it is.
fn check_claim_update(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    const SIZE: &str = "/spec/resources/requests/storage";
    let is_bound = text_at(new, "/status/phase") == "Bound";
    let is_placed = !text_at(old, "/spec/volumeName").is_empty();
    let fixed = |value: &Value| {
        let mut spec = value.get("spec").cloned().unwrap_or_default();
        if !is_placed {
            object(&mut spec).shift_remove("volumeName");
        }
        let requests = spec.pointer_mut("/resources/requests");
        if is_bound && let Some(requests) = requests {
            object(requests).shift_remove("storage");
        }
        spec
    };
    if fixed(old) != fixed(new) {
        causes.push(forbidden(
            "spec",
            "spec is immutable after creation except resources.requests for bound claims",
        ));
    }
    let size = |value: &Value| value.pointer(SIZE).map_or(0, quantity_in_billionths);
    if size(new) < size(old) {
        causes.push(forbidden(
            "spec.resources.requests.storage",
            "field can not be less than previous value",
        ));
    }
}

/// The part of a pod's spec that an update leaves as it is.
fn pod_shape(pod: &Value) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    let map = object(&mut spec);
    // The scheduler sets the node.
    for key in ["activeDeadlineSeconds", "tolerations", "nodeName"] {
        map.shift_remove(key);
    }
    for key in ["containers", "initContainers"] {
        for container in map
            .get_mut(key)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            object(container).shift_remove("image");
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::defaults::apply_defaults;
    use crate::kinds::Builtins;
    use serde_json::json;

    /// The fields that are refused of an object whose defaults have been filled in.
    fn refused(group: &str, plural: &str, mut object: Value) -> Vec<String> {
        let builtins = Builtins::new(20);
        let resource = builtins.find(group, plural).expect("served");
        object["apiVersion"] = resource.api_version(&resource.storage_version).into();
        object["kind"] = resource.kind.as_str().into();
        apply_defaults(&mut object, 20);
        check(resource, &object)
            .into_iter()
            .map(|cause| cause.field)
            .collect()
    }

    fn check_pod(spec: Value, expect: &[&str]) {
        let shown = spec.to_string();
        assert_eq!(refused("", "pods", json!({ "spec": spec })), expect, "{shown}");
    }

    #[test]
    fn pods_are_looked_through() {
        let container = json!({ "name": "a", "image": "x" });
        check_pod(json!({ "containers": [container] }), &[]);
        check_pod(
            json!({ "containers": [container], "initContainers": [container] }),
            &["spec.initContainers[0].name"],
        );
        check_pod(
            json!({
                "volumes": [{ "name": "v" }],
                "containers": [{
                    "name": "a",
                    "image": "x",
                    "ports": [{ "name": "web", "containerPort": 80 }, { "name": "WEB", "containerPort": 70000 }],
                    "env": [{ "name": "A.b-C_1" }, { "name": "1" }],
                    "volumeMounts": [{ "name": "v", "mountPath": "/a" }, { "name": "v", "mountPath": "/a" }],
                    "resources": { "requests": { "memory": "1Gi", "cpu": "500m" }, "limits": { "memory": "1000Mi", "cpu": 1 } },
                }],
            }),
            &[
                "spec.containers[0].ports[1].name",
                "spec.containers[0].ports[1].name",
                "spec.containers[0].ports[1].containerPort",
                "spec.containers[0].env[1].name",
                "spec.containers[0].volumeMounts[1].mountPath",
                "spec.containers[0].resources.requests",
            ],
        );
    }

    #[test]
    fn templates_of_stateful_sets_are_not_looked_into() {
        let labels = json!({ "app": "a" });
        let object = |containers: Value| {
            json!({ "spec": {
                "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": { "containers": containers } },
            } })
        };
        let mounts =
            json!([{ "name": "a", "image": "x", "volumeMounts": [{ "name": "claim", "mountPath": "/v" }] }]);
        assert_eq!(refused("apps", "statefulsets", object(mounts.clone())), [""; 0]);
        assert_eq!(
            refused("apps", "deployments", object(mounts)),
            ["spec.template.spec.containers[0].volumeMounts[0].name"]
        );
    }

    #[test]
    fn schemas_of_definitions_say_what_everything_is() {
        let definition = |properties: Value| {
            json!({
                "metadata": { "name": "things.example.com" },
                "spec": {
                    "group": "example.com",
                    "scope": "Namespaced",
                    "names": { "plural": "things", "kind": "Thing" },
                    "versions": [{ "name": "v1", "served": true, "storage": true, "schema": {
                        "openAPIV3Schema": { "type": "object", "properties": properties },
                    } }],
                },
                "status": { "storedVersions": ["v1"] },
            })
        };
        let refused = |properties| {
            refused(
                "apiextensions.k8s.io",
                "customresourcedefinitions",
                definition(properties),
            )
        };
        let open = json!({
            "port": { "x-kubernetes-int-or-string": true, "default": 80 },
            "any": { "x-kubernetes-preserve-unknown-fields": true },
            "map": { "type": "object", "additionalProperties": { "type": "string" } },
            "either": { "type": "object", "oneOf": [{ "required": ["a"] }], "properties": { "a": { "type": "string" } } },
        });
        assert_eq!(refused(open), [""; 0]);
        let at = |path: &str| format!("spec.validation.openAPIV3Schema.properties{path}");
        assert_eq!(
            refused(json!({ "a": { "type": "array", "items": { "properties": {} } } })),
            [at("[a].items.type")]
        );
        assert_eq!(
            refused(json!({ "a": {
                "type": "object", "default": { "b": "x" }, "properties": { "b": { "type": "integer" } },
            } })),
            [at("[a].default.b")]
        );
    }
}
