//! Two clusters' states, compared but for what no two clusters have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use object::Object;
use release::helm::Record;
use serde_json::Value;

use crate::common::Key;

/// Derived objects, and those about a moment: each cluster has its own.
const LEFT_OUT: &[(&str, &str)] = &[
    ("", "ComponentStatus"),
    ("", "Endpoints"),
    ("", "Event"),
    ("", "Pod"),
    ("apps", "ControllerRevision"),
    ("apps", "ReplicaSet"),
    ("coordination.k8s.io", "Lease"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("events.k8s.io", "Event"),
];

/// Those who write as a cluster goes along: what they own is theirs.
const CONTROLLERS: &[&str] = &[
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-apiserver",
];

fn is_left_out((group, kind, _, name): &Key, object: &Value) -> bool {
    LEFT_OUT.contains(&(group.as_str(), kind.as_str()))
        || (kind == "Secret" && object["type"] == "kubernetes.io/service-account-token")
        // The API server's own authorities, in every namespace and in its own ConfigMap.
        || (kind == "ConfigMap" && ["kube-root-ca.crt", "extension-apiserver-authentication"].contains(&name.as_str()))
}

/// The object without what differs between any two clusters.
fn comparable((group, kind, _, name): &Key, mut object: Value) -> Value {
    if (kind.as_str(), name.as_str()) == ("ConfigMap", "ks-installer-journal") {
        // It names the run, its backup and its times.
        object.as_object_mut().unwrap().remove("data");
    }
    if kind == "Secret" && name.starts_with("sh.helm.release.v1.") {
        unpack_record(&mut object);
    }
    let metadata = object["metadata"].as_object_mut().unwrap();
    for name in ["uid", "resourceVersion", "creationTimestamp"] {
        metadata.remove(name);
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        // It moves like a generation.
        annotations.remove("deprecated.daemonset.template.generation");
    }
    if let Some(managers) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) {
        managers.retain(|entry| !CONTROLLERS.contains(&entry["manager"].as_str().unwrap_or_default()));
        for entry in managers.iter_mut() {
            entry.as_object_mut().unwrap().remove("time");
        }
        // They are sorted by time.
        managers.sort_by_key(ToString::to_string);
    }
    if (group.as_str(), kind.as_str()) == ("", "Node") {
        // A kubelet's report and what controllers note down on it; the one that plays kubelet reports less.
        for name in ["annotations", "managedFields"] {
            metadata.remove(name);
        }
        object.as_object_mut().unwrap().remove("status");
    }
    if group == "policy" {
        // No disruption controller runs in the sandbox.
        object.as_object_mut().unwrap().remove("status");
    }
    if group == "apps" {
        // Their names are hashes.
        if let Some(status) = object.pointer_mut("/status").and_then(Value::as_object_mut) {
            status.remove("currentRevision");
            status.remove("updateRevision");
        }
        let conditions = object.pointer_mut("/status/conditions");
        if let Some(conditions) = conditions.and_then(Value::as_array_mut) {
            for condition in conditions.iter_mut() {
                // It names a ReplicaSet, whose name is a hash.
                condition.as_object_mut().unwrap().remove("message");
            }
            // They are in the order of their last changes.
            conditions.sort_by_key(|condition| condition["type"].to_string());
        }
    }
    forget_times(&mut object);
    object
}

/// What a record of Helm's says, without its times.
fn unpack_record(secret: &mut Value) {
    // The items of a list do not say what they are.
    secret["apiVersion"] = "v1".into();
    secret["kind"] = "Secret".into();
    let record = Record::decode(&Object::try_from(secret.clone()).unwrap()).unwrap();
    let mut record = record.as_value().clone();
    for name in ["first_deployed", "last_deployed"] {
        record["info"].as_object_mut().unwrap().remove(name);
    }
    secret["data"]["release"] = record;
    secret["metadata"]["labels"]
        .as_object_mut()
        .unwrap()
        .remove("modifiedAt");
}

/// Times of day stay as empty texts: that there is one is compared.
fn forget_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if value.is_string() && (name.ends_with("Time") || name.ends_with("Timestamp")) {
                    *value = "".into();
                } else {
                    forget_times(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(forget_times),
        _ => {}
    }
}

/// The key pair that is made for Notification Manager's webhook, with what stands in its place: each cluster has its own. The one
/// of the release before, which everybody knows, has no authority beside it.
fn made_pair(state: &BTreeMap<Key, Value>) -> Vec<(String, String)> {
    let text = str::to_owned;
    let key = (
        text(""),
        text("Secret"),
        text("kubesphere-monitoring-system"),
        text("notification-manager-webhook-server-cert"),
    );
    let data = state.get(&key).and_then(|secret| secret["data"].as_object());
    let data = data.filter(|data| data.contains_key("ca.crt"));
    data.into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((value.as_str()?.to_owned(), format!("made: {name}"))))
        .collect()
}

fn name_made(value: &mut Value, made: &[(String, String)]) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|value| name_made(value, made)),
        Value::Array(items) => items.iter_mut().for_each(|item| name_made(item, made)),
        Value::String(text) => {
            for (value, name) in made {
                if text.contains(value) {
                    *text = text.replace(value, name);
                }
            }
        }
        _ => {}
    }
}

/// What differs, for people; empty if nothing does. `authority` (PEM) is the one that the restored control plane put in
/// place of recorded `caBundle`s whose private keys the dump does not have: those, and only those, are passed over.
pub(crate) fn differences(
    real: BTreeMap<Key, Value>,
    sandbox: BTreeMap<Key, Value>,
    authority: &str,
) -> String {
    let comparable = |state: BTreeMap<Key, Value>| -> BTreeMap<Key, Value> {
        let made = made_pair(&state);
        let kept = state
            .into_iter()
            .filter(|(key, object)| !is_left_out(key, object));
        kept.map(|(key, object)| {
            let mut object = comparable(&key, object);
            name_made(&mut object, &made);
            (key, object)
        })
        .collect()
    };
    let (real, sandbox) = (comparable(real), comparable(sandbox));
    let authority = Value::from(BASE64.encode(authority));
    let mut out = String::new();
    for key in real.keys().chain(sandbox.keys()).collect::<BTreeSet<_>>() {
        let mut found = Vec::new();
        match (real.get(key), sandbox.get(key)) {
            (Some(real), Some(sandbox)) => walk("", Some(real), Some(sandbox), &authority, &mut found),
            (Some(_), None) => found.push("is not in the sandbox".to_owned()),
            _ => found.push("is only in the sandbox".to_owned()),
        }
        if !found.is_empty() {
            let (group, kind, namespace, name) = key;
            let _ = writeln!(out, "{kind}.{group} {namespace}/{name}\n  {}", found.join("\n  "));
        }
    }
    out
}

fn walk(
    path: &str,
    real: Option<&Value>,
    sandbox: Option<&Value>,
    authority: &Value,
    found: &mut Vec<String>,
) {
    match (real, sandbox) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for name in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                walk(
                    &format!("{path}.{name}"),
                    a.get(name),
                    b.get(name),
                    authority,
                    found,
                );
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{index}]"), Some(a), Some(b), authority, found);
            }
        }
        (real, sandbox) if real == sandbox => {}
        (Some(real), Some(_)) if path.ends_with(".caBundle") && real == authority => {}
        (real, sandbox) => {
            found.push(format!(
                "{path}: {} in truth, {} in the sandbox",
                side(real),
                side(sandbox)
            ));
        }
    }
}

fn side(value: Option<&Value>) -> String {
    let text = value.map_or("nothing".to_owned(), ToString::to_string);
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
