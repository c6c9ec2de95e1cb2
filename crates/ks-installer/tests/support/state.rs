//! The state of a cluster as a value to look into and to compare.

use std::{collections::BTreeMap, sync::Arc};

use object::{Object, ObjectKey};
use sandbox::Sandbox;
use serde_json::{Map, Value};

/// Every object of a cluster, shared with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State(pub BTreeMap<ObjectKey, Arc<Value>>);

/// What controllers make on their own, with names or contents that differ from run to run.
const MADE_BY_CONTROLLERS: [&str; 8] = [
    "ControllerRevision",
    "Endpoints",
    "EndpointSlice",
    "Event",
    "Lease",
    "Node",
    "Pod",
    "ReplicaSet",
];

pub(crate) const IAM: &str = "iam.kubesphere.io";
pub(crate) const RBAC: &str = "rbac.authorization.k8s.io";

pub(crate) fn system(group: &str, kind: &str, name: &str) -> ObjectKey {
    ObjectKey::namespaced(group, kind, "kubesphere-system", name)
}

pub(crate) fn iam(kind: &str, name: &str) -> ObjectKey {
    ObjectKey::cluster(IAM, kind, name)
}

pub(crate) fn role(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::namespaced(RBAC, "Role", namespace, name)
}

/// The key pair of Notification Manager's webhook, which the first upgrade makes anew.
pub(crate) fn notification_pair() -> ObjectKey {
    ObjectKey::namespaced(
        "",
        "Secret",
        "kubesphere-monitoring-system",
        "notification-manager-webhook-server-cert",
    )
}

pub(crate) fn configuration() -> ObjectKey {
    upgrade::cluster_configuration_key()
}

fn key(value: &Value) -> ObjectKey {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let api = text("/apiVersion").expect("an apiVersion");
    ObjectKey {
        group: api.split_once('/').map_or("", |(group, _)| group).to_owned(),
        kind: text("/kind").expect("a kind").to_owned(),
        namespace: text("/metadata/namespace").map(str::to_owned),
        name: text("/metadata/name").expect("a name").to_owned(),
    }
}

impl State {
    pub(crate) fn of(sandbox: &Sandbox) -> Self {
        Self(
            sandbox
                .objects()
                .into_iter()
                .map(|value| (key(&value), value))
                .collect(),
        )
    }

    pub(crate) fn of_objects(objects: impl IntoIterator<Item = Value>) -> Self {
        Self(
            objects
                .into_iter()
                .map(|value| (key(&value), Arc::new(value)))
                .collect(),
        )
    }

    pub(crate) fn find(&self, key: &ObjectKey) -> Option<&Value> {
        self.0.get(key).map(AsRef::as_ref)
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> &Value {
        self.find(key).unwrap_or_else(|| panic!("there is no {key}"))
    }

    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a ObjectKey, &'a Value)> {
        let of_kind = self.0.iter().filter(move |(key, _)| key.kind == kind);
        of_kind.map(|(key, value)| (key, value.as_ref()))
    }

    /// Without what differs between two runs that did the same: times, resource versions, what controllers make, and the
    /// values of the one key pair that an upgrade makes anew.
    pub(crate) fn comparable(&self) -> Self {
        let made = self.made_pair();
        let kept = self
            .0
            .iter()
            .filter(|(key, _)| !MADE_BY_CONTROLLERS.contains(&key.kind.as_str()));
        Self(
            kept.map(|(key, value)| {
                let value = comparable(value);
                let value = if made.is_empty() {
                    value
                } else {
                    without_made(key, value, &made)
                };
                (key.clone(), Arc::new(value))
            })
            .collect(),
        )
    }

    /// The values of the key pair of Notification Manager's webhook, and what to say in their place. The release before has one
    /// that everybody knows, without its authority beside it: that one is compared as it is.
    fn made_pair(&self) -> Vec<(String, String)> {
        let data = self.find(&notification_pair()).map(|secret| &secret["data"]);
        let data = data.filter(|data| data.get("ca.crt").is_some());
        data.and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((value.as_str()?.to_owned(), format!("made: {name}"))))
            .collect()
    }

    /// Only what was declared of the objects.
    pub(crate) fn declared(&self) -> Self {
        let declared = |value: &Value| {
            let object = Object::try_from(value.clone()).expect("an object");
            Arc::new(object.declared())
        };
        Self(
            self.0
                .iter()
                .map(|(key, value)| (key.clone(), declared(value)))
                .collect(),
        )
    }

    /// How two states differ, in words; empty when they do not.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut words = Vec::new();
        for (key, value) in &self.0 {
            match other.0.get(key) {
                None => words.push(format!("{key}: gone")),
                Some(there) => {
                    let changes = object::diff::changes(value, there);
                    let say = |change: &object::diff::Change| {
                        format!("{key}: {}: {:?} -> {:?}", change.path, change.from, change.to)
                    };
                    words.extend(changes.iter().map(say));
                }
            }
        }
        words.extend(
            other
                .0
                .keys()
                .filter(|key| !self.0.contains_key(*key))
                .map(|key| format!("{key}: new")),
        );
        words
    }

    /// The objects that differ between two states, or are in one only.
    pub(crate) fn changed<'a>(&'a self, other: &'a Self) -> std::collections::BTreeSet<&'a ObjectKey> {
        let keys = self.0.keys().chain(other.0.keys());
        keys.filter(|key| self.0.get(*key) != other.0.get(*key)).collect()
    }
}

/// The object with a made pair's values named rather than told: in its Secret, in webhooks and definitions that hold its
/// authority, and in Helm's record of them. Other objects are left alone.
fn without_made(key: &ObjectKey, mut value: Value, made: &[(String, String)]) -> Value {
    // Who owns its fields depends on where a run was cut.
    if *key == notification_pair()
        && let Some(metadata) = value["metadata"].as_object_mut()
    {
        metadata.remove("managedFields");
    }
    let is_record = key.is_secret() && key.name.starts_with("sh.helm.release.v1.notification-manager.");
    let holds_it = match key.kind.as_str() {
        "Secret" => is_record || *key == notification_pair(),
        "ValidatingWebhookConfiguration" => key.name == "notification-manager-validating-webhook",
        "CustomResourceDefinition" => key.name.ends_with(".notification.kubesphere.io"),
        _ => false,
    };
    if !holds_it {
        return value;
    }
    if is_record {
        let secret = Object::try_from(value.clone()).expect("an object");
        let record = release::helm::Record::decode(&secret).expect("a record");
        value["data"]["release"] = record.as_value().to_string().into();
    }
    named(&value, made)
}

fn named(value: &Value, made: &[(String, String)]) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| (name.clone(), named(value, made)))
            .collect(),
        Value::Array(items) => items.iter().map(|item| named(item, made)).collect(),
        Value::String(text) => {
            let named = made
                .iter()
                .fold(text.clone(), |text, (from, to)| text.replace(from.as_str(), to));
            Value::String(named)
        }
        other => other.clone(),
    }
}

fn comparable(value: &Value) -> Value {
    const TIMES: [&str; 9] = [
        "time",
        "resourceVersion",
        "creationTimestamp",
        "lastTransitionTime",
        "lastUpdateTime",
        "lastProbeTime",
        "lastHeartbeatTime",
        "observedGeneration",
        // It moves like a generation.
        "deprecated.daemonset.template.generation",
    ];
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(name, _)| !TIMES.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), comparable(value)))
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => items.iter().map(comparable).collect(),
        other => other.clone(),
    }
}
