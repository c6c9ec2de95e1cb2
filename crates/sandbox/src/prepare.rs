//! What the server does to single kinds on the way into the store: allocation, fields that clients may not set,
//! validation of what clients may not change.

use serde_json::{Value, json};

use crate::Config;
use crate::controllers::pods;
use crate::fields::{defaults, validate::Cause};
use crate::json::{child, list, list_at, number_at, object, text, text_at};
use crate::kinds::Resource;
use crate::selector::Labels;
use crate::status::{Result, Status, cause, forbidden, invalid, required};
use crate::transaction::Transaction;
use crate::write::Place;

/// Prepares an object that is about to be created.
pub(crate) fn create(
    transaction: &mut Transaction,
    resource: &Resource,
    version: &str,
    new: &mut Value,
) -> Result<()> {
    if resource.is_custom() {
        if resource.has_status(version) {
            object(new).shift_remove("status");
        }
        return Ok(());
    }
    if let Some(status) = initial_status(resource) {
        object(new).insert("status".into(), status);
    }
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Pod") => pods::admit(transaction, resource, new)?,
        ("", "Service") => allocate_service(transaction, new, None)?,
        ("", "PersistentVolumeClaim") => {
            protect(new, "kubernetes.io/pvc-protection");
            if new.pointer("/spec/storageClassName").is_none()
                && let Some(class) = default_storage_class(transaction)
            {
                child(new, "spec").insert("storageClassName".into(), class.into());
            }
        }
        ("", "PersistentVolume") => protect(new, "kubernetes.io/pv-protection"),
        ("apps", "DaemonSet") => template_generation(new, 1),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            let stored: Vec<_> = list_at(new, "/spec/versions")
                .iter()
                .filter(|version| version.get("storage") == Some(&Value::Bool(true)))
                .map(|version| text(version, "name").to_owned())
                .collect();
            object(new).insert(
                "status".into(),
                json!({
                    "acceptedNames": { "kind": "", "plural": "" },
                    "conditions": [],
                    "storedVersions": stored,
                }),
            );
        }
        _ => {}
    }
    defaults::on_create(new);
    Ok(())
}

/// The status with which an object of a kind starts, whatever the client sent.
fn initial_status(resource: &Resource) -> Option<Value> {
    Some(match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => json!({ "phase": "Active" }),
        ("", "Pod" | "PersistentVolume" | "PersistentVolumeClaim") => json!({ "phase": "Pending" }),
        ("", "Service") | ("networking.k8s.io" | "extensions", "Ingress") => json!({ "loadBalancer": {} }),
        ("", "ReplicationController") | ("apps", "ReplicaSet" | "StatefulSet") => json!({ "replicas": 0 }),
        ("", "ResourceQuota")
        | ("apps", "Deployment")
        | ("batch", "Job" | "CronJob")
        | ("certificates.k8s.io" | "apiregistration.k8s.io", _) => json!({}),
        ("apps", "DaemonSet") => json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
        }),
        ("autoscaling", _) => json!({ "currentReplicas": 0, "desiredReplicas": 0, "conditions": null }),
        ("policy", "PodDisruptionBudget") => json!({
            "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
        }),
        _ => return None,
    })
}

fn protect(new: &mut Value, finalizer: &str) {
    let finalizers = child(new, "metadata")
        .entry("finalizers")
        .or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|one| one == finalizer)
    {
        finalizers.push(finalizer.into());
    }
}

fn default_storage_class(transaction: &Transaction) -> Option<String> {
    let classes = transaction.state.collection("storageclasses.storage.k8s.io")?;
    classes
        .iter()
        .find(|(_, class)| {
            [
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ]
            .iter()
            .any(|annotation| {
                class
                    .pointer("/metadata/annotations")
                    .is_some_and(|all| text(all, annotation) == "true")
            })
        })
        .map(|(_, class)| crate::json::name(class).to_owned())
}

fn template_generation(new: &mut Value, generation: i64) {
    let annotations = child(new, "metadata")
        .entry("annotations")
        .or_insert_with(|| json!({}));
    object(annotations).insert(
        "deprecated.daemonset.template.generation".into(),
        generation.to_string().into(),
    );
}

/// Prepares the next state of an object: what a status update leaves alone, and what an update leaves to status.
pub(crate) fn update(
    transaction: &mut Transaction,
    place: Place,
    old: &Value,
    new: &mut Value,
) -> Result<()> {
    let Place {
        resource,
        version,
        subresource,
    } = place;
    if subresource == "status" {
        // Everything but status (and, for built-in kinds, annotations, which controllers use) is as it was.
        let status = new.get("status").cloned();
        let managed = new.pointer("/metadata/managedFields").cloned();
        let annotations = new.pointer("/metadata/annotations").cloned();
        let finalizers = new.pointer("/metadata/finalizers").cloned();
        *new = old.clone();
        match status {
            Some(status) => {
                object(new).insert("status".into(), status);
            }
            None => {
                object(new).shift_remove("status");
            }
        }
        let metadata = child(new, "metadata");
        let mut set = |key: &str, value: Option<Value>| match value {
            Some(value) => {
                metadata.insert(key.into(), value);
            }
            None => {
                metadata.shift_remove(key);
            }
        };
        set("managedFields", managed);
        if !resource.is_custom() {
            set("annotations", annotations);
            set("finalizers", finalizers);
        }
        return Ok(());
    }
    if resource.has_status(version) {
        match old.get("status") {
            Some(status) => {
                object(new).insert("status".into(), status.clone());
            }
            None => {
                object(new).shift_remove("status");
            }
        }
    }
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") if subresource != "finalize" => {
            // Only the finalize subresource changes these.
            if let Some(finalizers) = old.pointer("/spec/finalizers") {
                child(new, "spec").insert("finalizers".into(), finalizers.clone());
            }
        }
        ("", "Service") => allocate_service(transaction, new, Some(old))?,
        ("batch", "Job") => {
            for pointer in ["selector", "manualSelector"] {
                if let Some(value) = old.pointer(&format!("/spec/{pointer}"))
                    && new.pointer(&format!("/spec/{pointer}")).is_none()
                {
                    child(new, "spec").insert(pointer.into(), value.clone());
                }
            }
        }
        ("apps", "DaemonSet") => {
            let annotation = old
                .pointer("/metadata/annotations")
                .map(|all| text(all, "deprecated.daemonset.template.generation"))
                .and_then(|text| text.parse::<i64>().ok())
                .unwrap_or(1);
            let changed = old.pointer("/spec/template") != new.pointer("/spec/template");
            template_generation(new, annotation + i64::from(changed));
        }
        ("", "PersistentVolumeClaim") => {
            // A client that applies its manifest again does not unbind the claim.
            for key in ["volumeName", "storageClassName", "volumeMode"] {
                if let Some(value) = old.pointer(&format!("/spec/{key}"))
                    && new.pointer(&format!("/spec/{key}")).is_none()
                {
                    child(new, "spec").insert(key.into(), value.clone());
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether something besides `metadata.finalizers` holds an object; may add the finalizers that the server adds.
pub(crate) fn holds_deletion(
    transaction: &Transaction,
    resource: &Resource,
    live: &Value,
    finalizers: &mut Vec<String>,
) -> bool {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => !list_at(live, "/spec/finalizers").is_empty(),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            let has_instances = transaction
                .state
                .collection(crate::json::name(live))
                .is_some_and(|collection| collection.len() > 0);
            let finalizer = "customresourcecleanup.apiextensions.k8s.io";
            if has_instances && !finalizers.iter().any(|one| one == finalizer) {
                finalizers.push(finalizer.to_owned());
            }
            false
        }
        _ => false,
    }
}

/// What else shows that an object is being deleted.
pub(crate) fn mark_deleted(resource: &Resource, marked: &mut Value, now: &str) {
    if resource.is("", "Namespace") {
        child(marked, "status").insert("phase".into(), "Terminating".into());
        // Namespaces have no grace period.
        child(marked, "metadata").shift_remove("deletionGracePeriodSeconds");
    } else if resource.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        crate::controllers::definitions::set_condition(
            marked,
            "Terminating",
            "True",
            "InstanceDeletionPending",
            "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
            now,
        );
    }
}

// --- services -------------------------------------------------------------------------------------------------

fn allocate_service(transaction: &mut Transaction, new: &mut Value, old: Option<&Value>) -> Result<()> {
    let kind = text_at(new, "/spec/type").to_owned();
    let spec = child(new, "spec");
    if kind == "ExternalName" {
        spec.shift_remove("clusterIP");
        spec.shift_remove("clusterIPs");
        return Ok(());
    }
    // Clients that do not know about allocated fields leave them out: they stay.
    if let Some(old) = old.filter(|old| text_at(old, "/spec/type") != "ExternalName") {
        if spec
            .get("clusterIP")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty()
            && let Some(address) = old.pointer("/spec/clusterIP")
        {
            spec.insert("clusterIP".into(), address.clone());
        }
        if let Some(port) = old.pointer("/spec/healthCheckNodePort") {
            spec.entry("healthCheckNodePort").or_insert_with(|| port.clone());
        }
    }
    let address = match spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default() {
        "" => {
            let address = free_address(transaction)?;
            spec.insert("clusterIP".into(), address.as_str().into());
            address
        }
        given => given.to_owned(),
    };
    spec.insert("clusterIPs".into(), json!([address]));
    if kind == "NodePort" || kind == "LoadBalancer" {
        let old_ports = old
            .map(|old| list_at(old, "/spec/ports").to_vec())
            .unwrap_or_default();
        let mut taken = node_ports(transaction);
        if let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) {
            for port in ports {
                if number_at(port, "/nodePort").unwrap_or(0) != 0 {
                    continue;
                }
                let before = old_ports
                    .iter()
                    .find(|old| {
                        old.get("port") == port.get("port") && text(old, "protocol") == text(port, "protocol")
                    })
                    .and_then(|old| number_at(old, "/nodePort"))
                    .filter(|port| *port != 0);
                let chosen = match before {
                    Some(before) => before,
                    None => free_port(transaction, &taken)?,
                };
                taken.push(chosen);
                object(port).insert("nodePort".into(), chosen.into());
            }
        }
    }
    Ok(())
}

fn services(transaction: &Transaction) -> Vec<std::sync::Arc<Value>> {
    transaction
        .state
        .collection("services")
        .map(|services| {
            services
                .iter()
                .map(|(_, service)| std::sync::Arc::clone(service))
                .collect()
        })
        .unwrap_or_default()
}

fn free_address(transaction: &mut Transaction) -> Result<String> {
    let taken: std::collections::BTreeSet<String> = services(transaction)
        .iter()
        .map(|service| text_at(service, "/spec/clusterIP").to_owned())
        .collect();
    let (a, b) = service_network(transaction.config, &taken);
    for _ in 0..10_000 {
        let drawn = transaction.state.draw();
        let address = format!("{a}.{b}.{}.{}", drawn % 256, 1 + (drawn >> 8) % 254);
        if !taken.contains(&address) && !address.ends_with(".0.1") {
            return Ok(address);
        }
    }
    Err(Status::internal("failed to allocate a serviceIP: range is full"))
}

/// The first two numbers of the service network: that of the `kubernetes` Service where there is one.
fn service_network(config: &Config, taken: &std::collections::BTreeSet<String>) -> (u8, u8) {
    taken
        .iter()
        .find(|address| address.ends_with(".0.1"))
        .and_then(|address| {
            let mut parts = address.split('.');
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        })
        .unwrap_or(config.service_network)
}

fn node_ports(transaction: &Transaction) -> Vec<i64> {
    services(transaction)
        .iter()
        .flat_map(|service| list_at(service, "/spec/ports").to_vec())
        .filter_map(|port| number_at(&port, "/nodePort"))
        .collect()
}

fn free_port(transaction: &mut Transaction, taken: &[i64]) -> Result<i64> {
    for _ in 0..10_000 {
        let port = 30_000 + i64::try_from(transaction.state.draw() % 2768).unwrap_or_default();
        if !taken.contains(&port) {
            return Ok(port);
        }
    }
    Err(Status::internal("failed to allocate a nodePort: range is full"))
}

// --- validation -----------------------------------------------------------------------------------------------

/// Checks an object of a built-in kind by itself: the mistakes that people make.
pub(crate) fn check(resource: &Resource, version: &str, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let _ = version;
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") => {
            let selector = new.pointer("/spec/selector");
            let empty = selector
                .and_then(Value::as_object)
                .is_none_or(serde_json::Map::is_empty);
            if empty {
                causes.push(required("spec.selector", ""));
            } else if let Some(labels) = Labels::of(selector)
                && !labels.matches_labels(new.pointer("/spec/template/metadata/labels"))
            {
                let labels = new
                    .pointer("/spec/template/metadata/labels")
                    .cloned()
                    .unwrap_or(json!({}));
                causes.push(cause(
                    "FieldValueInvalid",
                    "spec.template.metadata.labels",
                    format!(
                        "Invalid value: map[string]string{}: `selector` does not match template `labels`",
                        go_map(&labels)
                    ),
                ));
            }
            check_pod(
                new.pointer("/spec/template/spec"),
                "spec.template.spec",
                &mut causes,
            );
        }
        ("", "Pod") => check_pod(new.get("spec"), "spec", &mut causes),
        ("batch", "Job") => check_pod(
            new.pointer("/spec/template/spec"),
            "spec.template.spec",
            &mut causes,
        ),
        ("", "Service")
            if list_at(new, "/spec/ports").is_empty()
                && text_at(new, "/spec/type") != "ExternalName"
                && text_at(new, "/spec/clusterIP") != "None" =>
        {
            causes.push(required("spec.ports", ""));
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding")
            if text_at(new, "/roleRef/name").is_empty() =>
        {
            causes.push(required("roleRef.name", ""));
        }
        _ => {}
    }
    causes
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
        ("", "Service") => {
            let (before, after) = (text_at(old, "/spec/clusterIP"), text_at(new, "/spec/clusterIP"));
            let both_have_one = text_at(old, "/spec/type") != "ExternalName"
                && text_at(new, "/spec/type") != "ExternalName"
                && !before.is_empty();
            if both_have_one && before != after {
                causes.push(cause(
                    "FieldValueInvalid",
                    "spec.clusterIPs[0]",
                    format!("Invalid value: []string{{{after:?}}}: may not change once set"),
                ));
            }
        }
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
            causes.push(forbidden("value", "may not be changed in an update."));
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
