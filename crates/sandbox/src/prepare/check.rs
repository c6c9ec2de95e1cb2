//! Validation of built-in kinds: the mistakes that people make, in the words of the server.

use serde_json::Value;

use super::services;
use crate::fields::validate::Cause;
use crate::json::{list, list_at, number_at, object, text, text_at};
use crate::kinds::Resource;
use crate::selector::Labels;
use crate::status::{cause, forbidden, invalid, required, unsupported};

/// Checks an object of a built-in kind by itself.
pub(crate) fn check(resource: &Resource, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let template = "spec.template.spec";
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") => {
            check_workload(new, &mut causes);
            check_pod(new.pointer("/spec/template/spec"), template, &mut causes);
        }
        ("", "Pod") => check_pod(new.get("spec"), "spec", &mut causes),
        ("batch", "Job") => {
            check_pod(new.pointer("/spec/template/spec"), template, &mut causes);
            if text_at(new, "/spec/template/spec/restartPolicy") == "Always" {
                causes.push(required(
                    "spec.template.spec.restartPolicy",
                    "valid values: \"OnFailure\", \"Never\"",
                ));
            }
        }
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
        ("apiextensions.k8s.io", "CustomResourceDefinition") => check_definition(new, &mut causes),
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

fn check_definition(new: &Value, causes: &mut Vec<Cause>) {
    let (plural, group) = (text_at(new, "/spec/names/plural"), text_at(new, "/spec/group"));
    let name = crate::json::name(new);
    // Once it exists, only its group being fixed is checked.
    let is_new = new.pointer("/metadata/resourceVersion").is_none();
    if is_new && name != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(invalid("metadata.name", &name.into(), why));
    }
    for (field, value) in [
        ("spec.group", group),
        ("spec.scope", text_at(new, "/spec/scope")),
        ("spec.names.plural", plural),
        ("spec.names.kind", text_at(new, "/spec/names/kind")),
    ] {
        if value.is_empty() {
            causes.push(required(field, ""));
        }
    }
    let versions = list_at(new, "/spec/versions");
    let stored = versions
        .iter()
        .filter(|one| one.get("storage") == Some(&Value::Bool(true)))
        .count();
    if stored != 1 {
        let shown = new.pointer("/spec/versions").cloned().unwrap_or_default();
        causes.push(invalid(
            "spec.versions",
            &shown,
            "must have exactly one version marked as storage version",
        ));
    }
    let keeps_all = new.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true));
    for (index, version) in versions.iter().enumerate() {
        if version.pointer("/schema/openAPIV3Schema").is_none() && !keeps_all {
            let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
            causes.push(required(&field, "schemas are required"));
        }
    }
    if list_at(new, "/status/storedVersions").is_empty() {
        causes.push(cause(
            "FieldValueInvalid",
            "status.storedVersions",
            "Invalid value: []string(nil): must have at least one stored version",
        ));
    }
}

fn check_workload(new: &Value, causes: &mut Vec<Cause>) {
    let replicas = number_at(new, "/spec/replicas").unwrap_or(0);
    if replicas < 0 {
        causes.push(invalid(
            "spec.replicas",
            &replicas.into(),
            "must be greater than or equal to 0",
        ));
    }
    let selector = new.pointer("/spec/selector");
    let empty = selector
        .and_then(Value::as_object)
        .is_none_or(serde_json::Map::is_empty);
    if empty {
        causes.push(required("spec.selector", ""));
    }
    let labels = new.pointer("/spec/template/metadata/labels");
    let matches = Labels::of(selector).is_some_and(|selector| !empty && selector.matches_labels(labels));
    if !matches {
        let shown = labels.map_or("(nil)".to_owned(), go_map);
        causes.push(cause(
            "FieldValueInvalid",
            "spec.template.metadata.labels",
            format!("Invalid value: map[string]string{shown}: `selector` does not match template `labels`"),
        ));
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

fn check_pod(spec: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    let containers = spec.map(|spec| list(spec, "containers")).unwrap_or_default();
    if containers.is_empty() {
        causes.push(required(&format!("{path}.containers"), ""));
    }
    for (index, container) in containers.iter().enumerate() {
        for key in ["name", "image"] {
            if text(container, key).is_empty() {
                causes.push(required(&format!("{path}.containers[{index}].{key}"), ""));
            }
        }
        for (mount, volume) in list(container, "volumeMounts")
            .iter()
            .map(|mount| text(mount, "name"))
            .enumerate()
        {
            let known = spec.is_some_and(|spec| {
                list(spec, "volumes")
                    .iter()
                    .any(|one| text(one, "name") == volume)
            });
            let claimed = path.contains("template"); // a StatefulSet's claims are volumes, too
            if !known && !claimed {
                causes.push(cause(
                    "FieldValueNotFound",
                    &format!("{path}.containers[{index}].volumeMounts[{mount}].name"),
                    format!("Not found: {volume:?}"),
                ));
            }
        }
    }
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
                    go_selector(new.pointer("/spec/selector").unwrap_or(&Value::Null))
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
        ("", "PersistentVolumeClaim") => {
            let fixed = |value: &Value| {
                let mut spec = value.get("spec").cloned().unwrap_or_default();
                let map = object(&mut spec);
                map.shift_remove("resources");
                map.shift_remove("volumeName");
                spec
            };
            if fixed(old) != fixed(new) {
                causes.push(forbidden(
                    "spec",
                    "spec is immutable after creation except resources.requests for bound claims",
                ));
            }
        }
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

/// A map of strings as Go prints it: `{"app":"web"}`.
fn go_map(map: &Value) -> String {
    let entries: Vec<_> = map
        .as_object()
        .map(|map| {
            let sorted: std::collections::BTreeMap<_, _> = map.iter().collect();
            sorted
                .iter()
                .map(|(key, value)| format!("{key:?}:{:?}", value.as_str().unwrap_or_default()))
                .collect()
        })
        .unwrap_or_default();
    format!("{{{}}}", entries.join(", "))
}

fn go_selector(selector: &Value) -> String {
    let labels = match selector.get("matchLabels") {
        Some(map) => format!("map[string]string{}", go_map(map)),
        None => "map[string]string(nil)".to_owned(),
    };
    let expressions: Vec<_> = list(selector, "matchExpressions")
        .iter()
        .map(|one| {
            let values: Vec<_> = list(one, "values")
                .iter()
                .filter_map(Value::as_str)
                .map(|value| format!("{value:?}"))
                .collect();
            let values = if values.is_empty() {
                "[]string(nil)".to_owned()
            } else {
                format!("[]string{{{}}}", values.join(", "))
            };
            format!(
                "v1.LabelSelectorRequirement{{Key:{:?}, Operator:{:?}, Values:{values}}}",
                text(one, "key"),
                text(one, "operator")
            )
        })
        .collect();
    let expressions = if expressions.is_empty() {
        "[]v1.LabelSelectorRequirement(nil)".to_owned()
    } else {
        format!("[]v1.LabelSelectorRequirement{{{}}}", expressions.join(", "))
    };
    format!("v1.LabelSelector{{MatchLabels:{labels}, MatchExpressions:{expressions}}}")
}
