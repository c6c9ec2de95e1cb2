//! From nothing: the ClusterConfiguration that somebody gives, and what must be there before anything can be decided.
//!
//! ```text
//!   deploy/cluster-configuration.yaml, or a file ─▶ read ─▶ set ─▶ ClusterConfiguration
//!                                                                      │
//!   Snapshot ─▶ what of it is missing: namespace, definition, settings ┤
//!                                                                      ▼
//!                            decide, as if they were there ─▶ Decision, whose plan makes them first
//! ```

use std::collections::BTreeMap;

use object::{Object, ObjectKey, diff};
use release::Releases;
use serde_json::{Map, Value, json};

use crate::{
    Decision, Options, Snapshot, cluster_configuration_key,
    decide::decide_upon,
    permissions, preflight,
    settings::{LiveFacts, convert},
};

/// Every setting with its default, as users apply it.
pub const DEFAULT_CONFIGURATION: &str = include_str!("../../../deploy/cluster-configuration.yaml");

/// Why what was given is no ClusterConfiguration. Holds no values: they may be secrets.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("it is neither YAML nor JSON")]
    Parse,
    #[error("it holds {0} objects; one is wanted, {expected}", expected = cluster_configuration_key())]
    NotOne(usize),
    #[error("it holds {0}; wanted is {expected}", expected = cluster_configuration_key())]
    NotTheOne(String),
    #[error("it is no object of Kubernetes: {0}")]
    NoObject(object::ObjectError),
    #[error("{0:?} is not of the form path=value")]
    NoAssignment(String),
    #[error("{path} cannot be set, since {parent} is no map")]
    NoMap { path: String, parent: String },
}

/// Reads the one ClusterConfiguration that is in a text. What belongs to the cluster that it may come from (status, UID, …)
/// is left out.
///
/// # Errors
/// See [`ConfigurationError`].
pub fn read_configuration(text: &str) -> Result<Object, ConfigurationError> {
    let mut documents = object::parse_documents(text).map_err(|_| ConfigurationError::Parse)?;
    if documents.len() != 1 {
        return Err(ConfigurationError::NotOne(documents.len()));
    }
    let document = documents.remove(0);
    let mut object = Object::try_from(document).map_err(ConfigurationError::NoObject)?;
    let expected = cluster_configuration_key();
    let is_one = object.key().is(&expected.group, &expected.kind);
    let map = object.as_map_mut();
    map.remove("status");
    if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
        if is_one && !metadata.contains_key("namespace") {
            metadata.insert("namespace".into(), expected.namespace.clone().into());
        }
        metadata.retain(|name, _| ["name", "namespace", "labels", "annotations"].contains(&name.as_str()));
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(object::LAST_APPLIED);
        }
    }
    if object.key() != expected {
        return Err(ConfigurationError::NotTheOne(object.key().to_string()));
    }
    Ok(object)
}

/// Sets one setting, written `common.redis.enabled=true`: a path below spec, and a value in YAML. `\.` is a dot that
/// belongs to a name, and null takes the setting out.
///
/// # Errors
/// It is not of that form, or leads through something that is no map.
pub fn set(configuration: &mut Object, assignment: &str) -> Result<(), ConfigurationError> {
    let none =
        || ConfigurationError::NoAssignment(assignment.split('=').next().unwrap_or_default().to_owned());
    let (path, text) = assignment.split_once('=').ok_or_else(none)?;
    let names = names(path).ok_or_else(none)?;
    // What is no YAML is a text all the same.
    let value = match object::parse_documents(text) {
        Ok(mut documents) if documents.len() == 1 => documents.remove(0),
        Ok(_) if ["null", "~"].contains(&text.trim()) => Value::Null,
        _ => text.into(),
    };
    let (last, parents) = names.split_last().ok_or_else(none)?;
    let mut place = configuration
        .as_map_mut()
        .entry("spec")
        .or_insert_with(|| json!({}));
    let mut parent = "spec".to_owned();
    let is_no_map = |parent: &str| ConfigurationError::NoMap {
        path: path.to_owned(),
        parent: parent.to_owned(),
    };
    for name in parents {
        let map = map_at(place).ok_or_else(|| is_no_map(&parent))?;
        place = map.entry(name.clone()).or_insert(Value::Null);
        parent = format!("{parent}.{name}");
    }
    let map = map_at(place).ok_or_else(|| is_no_map(&parent))?;
    if value.is_null() {
        map.remove(last);
    } else {
        map.insert(last.clone(), value);
    }
    Ok(())
}

/// Puts a value at a dotted path, through whatever is there.
pub(crate) fn put(spec: &mut Value, path: &str, value: Value) {
    let mut place = spec;
    for name in path.split('.') {
        if !place.is_object() {
            *place = json!({});
        }
        let Some(map) = place.as_object_mut() else { return };
        place = map.entry(name).or_insert(Value::Null);
    }
    *place = value;
}

/// The map at a place; nothing there becomes an empty one.
fn map_at(place: &mut Value) -> Option<&mut Map<String, Value>> {
    if place.is_null() {
        *place = json!({});
    }
    place.as_object_mut()
}

/// The names of a path; `None` where one is empty.
fn names(path: &str) -> Option<Vec<String>> {
    let mut names = vec![String::new()];
    let mut letters = path.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '.' => names.push(String::new()),
            '\\' => names.last_mut()?.push(letters.next()?),
            letter => names.last_mut()?.push(letter),
        }
    }
    names.iter().all(|name| !name.is_empty()).then_some(names)
}

/// What a given ClusterConfiguration says otherwise than the one in the cluster: paths only, since values may be secrets.
/// Empty where both lead to the same.
pub fn mismatches(given: &Object, snapshot: &Snapshot) -> Vec<String> {
    let Some(live) = snapshot.get(&cluster_configuration_key()) else {
        return Vec::new();
    };
    let empty = json!({});
    let status = live.get("/status").unwrap_or(&empty);
    let facts = LiveFacts::read(snapshot);
    let shape = |object: &Object| convert(object.get("/spec").unwrap_or(&empty), status, &facts).spec;
    let mut paths: Vec<String> = diff::changes(&shape(live), &shape(given))
        .into_iter()
        .map(|change| format!("spec.{}", change.path))
        .collect();
    for (name, value) in given
        .get("/metadata/annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if live.annotation(name) != value.as_str() {
            paths.push(format!("metadata.annotations[{name}]"));
        }
    }
    paths
}

/// What must be there before an installation can go on, in the order in which it is made: the namespace, the definition of
/// ClusterConfigurations, and the ClusterConfiguration. Only what is missing.
pub fn foundation(snapshot: &Snapshot, configuration: &Object) -> Vec<Object> {
    let namespace = cluster_configuration_key().namespace.unwrap_or_default();
    let made = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        permissions::definition(),
        sorted(configuration.as_value()),
    ];
    made.into_iter()
        .filter_map(|value| Object::try_from(value).ok())
        .filter(|object| snapshot.get(&object.key()).is_none())
        .collect()
}

/// With the keys of all maps in order, as the API server gives them back: documents are made of settings, and what is shown
/// must be what is written.
pub(crate) fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map
                .iter()
                .map(|(name, value)| (name.clone(), sorted(value)))
                .collect();
            Value::Object(sorted.into_iter().collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// Decides on an installation with this ClusterConfiguration. What of its foundation is missing is taken as if it were there,
/// so that whatever stands in the way shows before anything is written; the plan makes it first. Where there is a
/// ClusterConfiguration already that one counts, and where a KubeSphere runs without one none is made.
pub fn decide_installation(
    snapshot: &Snapshot,
    configuration: &Object,
    releases: &Releases,
    options: &Options,
) -> Decision {
    let runs = preflight::installed(snapshot) != preflight::Installed::No;
    let missing = if runs {
        Vec::new()
    } else {
        foundation(snapshot, configuration)
    };
    let mut founded = snapshot.clone();
    for object in &missing {
        founded.objects.insert(object.key(), object.clone());
    }
    decide_upon(&founded, &missing, releases, options)
}

/// Where the first password of User admin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstPassword {
    /// It was made at random, and kept in this key of a Secret.
    Made { secret: ObjectKey, key: &'static str },
    /// The ClusterConfiguration gives it.
    Given,
}

/// Where the first password of User admin is, as long as it is the one that counts: the account was not used yet.
pub fn first_password(snapshot: &Snapshot) -> Option<FirstPassword> {
    const KEY: &str = "initAdminPassword";
    let admin = snapshot.get(&ObjectKey::cluster("iam.kubesphere.io", "User", "admin"))?;
    let secret = ObjectKey::namespaced("", "Secret", "kubesphere-system", "kubesphere-secret");
    let is_new = admin.annotation("iam.kubesphere.io/uninitialized") == Some("true");
    let has_one = snapshot.get(&secret)?.get("/data")?.get(KEY).is_some();
    let is_given = snapshot
        .get(&cluster_configuration_key())
        .and_then(|configuration| configuration.get_str("/spec/authentication/adminPassword"))
        .is_some_and(|password| !password.is_empty());
    match (is_new && has_one, is_given) {
        (false, _) => None,
        (true, true) => Some(FirstPassword::Given),
        (true, false) => Some(FirstPassword::Made { secret, key: KEY }),
    }
}
