//! What an upgrade set: its plan, played on the objects that it was decided on.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use object::{Object, ObjectKey, merge};
use release::{
    GeneratedSecret,
    secret::{Reference, resolve, setting_text},
};
use serde_json::{Map, Value, json};

use crate::{Action, Plan, Snapshot, cluster_configuration_key, decide::merge_patch};

/// What the upgrade did to an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Set {
    /// Its declared part came to this. Of a new object: what was sent.
    To(Value),
    Deleted,
    /// Secrets were made where they were missing. They stay.
    Generated,
    /// Helm's record of a revision.
    Recorded,
}

/// What the plan set of each object that it writes. `live` has the secrets that were made meanwhile.
pub(super) fn expect(plan: &Plan, before: &Snapshot, live: &Snapshot) -> BTreeMap<ObjectKey, Set> {
    let mut all = BTreeMap::new();
    for step in plan.steps() {
        let key = &step.object;
        let current = match all.get(key) {
            Some(Set::To(value)) => Some(Value::clone(value)),
            // Made, and then applied with what was made: it stays.
            Some(Set::Generated) => continue,
            Some(_) => None,
            None => before.get(key).map(|object| object.as_value().clone()),
        };
        let set = match &step.action {
            Action::Apply { body, previous, .. } => {
                let body = with_secrets(&body.0, live);
                Set::To(match current {
                    Some(current) => applied(key, &current, &body, &previous.0),
                    None => body,
                })
            }
            Action::Patch { body, .. } => Set::To(patched(current, &body.0)),
            Action::Scale { replicas } => Set::To(patched(current, &json!({"spec": {"replicas": replicas}}))),
            Action::Generate { secret } => match current {
                Some(current) => Set::To(regenerated(current, secret, live.get(key))),
                None => Set::Generated,
            },
            Action::Record { .. } => Set::Recorded,
            Action::Delete { .. } => Set::Deleted,
            Action::Wait { .. } => continue,
        };
        all.insert(key.clone(), set);
    }
    all
}

/// A Secret of which keys were made anew. Keys that were missing are no part of it and stay, but for those of a pair: parts of
/// two pairs do not fit.
fn regenerated(mut current: Value, secret: &GeneratedSecret, live: Option<&Object>) -> Value {
    let made = |name: &str| live.and_then(|live| live.get("/data")?.get(name)).cloned();
    let pair: Vec<&String> = secret
        .certificate
        .iter()
        .flat_map(|pair| [&pair.authority_key, &pair.certificate_key, &pair.private_key])
        .collect();
    let Some(data) = current.pointer_mut("/data").and_then(Value::as_object_mut) else {
        return current;
    };
    let is_new_pair = pair.iter().any(|name| data.get(*name) != made(name).as_ref());
    for name in secret
        .keys
        .iter()
        .map(|key| &key.name)
        .chain(pair.iter().copied())
    {
        let is_of_pair = is_new_pair && pair.contains(&name);
        if let Some(value) = made(name).filter(|_| is_of_pair || data.contains_key(name)) {
            data.insert(name.clone(), value);
        }
    }
    current
}

fn patched(current: Option<Value>, patch: &Value) -> Value {
    let mut value = current.unwrap_or_default();
    merge_patch(&mut value, patch);
    value
}

/// The body with the references to secrets put in place; those that are not there stay, and match nothing.
fn with_secrets(body: &Value, live: &Snapshot) -> Value {
    let lookup = |reference: &Reference| match reference {
        Reference::Secret {
            namespace, name, key, ..
        } => {
            let secret = live.get(&ObjectKey::namespaced("", "Secret", namespace, name))?;
            STANDARD.decode(secret.get("/data")?.get(key)?.as_str()?).ok()
        }
        Reference::Setting { path } => {
            let spec = live.get(&cluster_configuration_key())?.get("/spec")?;
            Some(setting_text(spec, path)?.as_bytes().to_vec())
        }
    };
    resolve(body, &lookup).unwrap_or_else(|_| body.clone())
}

/// What a server-side apply of `body` makes of an object whose fields of `previous` were handed over before.
fn applied(key: &ObjectKey, current: &Value, body: &Value, previous: &Value) -> Value {
    let builtin = !key.group.contains('.') || key.group.ends_with(".k8s.io");
    let previous = (!previous.is_null()).then_some(previous);
    map(builtin, Some(current), previous, Some(body)).unwrap_or_default()
}

/// The field after the apply; `None` when it is gone.
fn map(
    builtin: bool,
    current: Option<&Value>,
    previous: Option<&Value>,
    body: Option<&Value>,
) -> Option<Value> {
    match (current, previous, body) {
        (Some(Value::Object(current)), previous, Some(Value::Object(body))) => {
            let mut out = Map::new();
            for (name, value) in current {
                let previous = previous.and_then(|p| p.get(name));
                if let Some(kept) = field(builtin, name, Some(value), previous, body.get(name)) {
                    out.insert(name.clone(), kept);
                }
            }
            for (name, value) in body.iter().filter(|(name, _)| !current.contains_key(*name)) {
                out.insert(name.clone(), value.clone());
            }
            Some(Value::Object(out))
        }
        // What the old release set and the new one does not goes; what it did not set stays.
        (Some(Value::Object(current)), Some(Value::Object(previous)), None) => {
            let mut out = Map::new();
            for (name, value) in current {
                if let Some(kept) = field(builtin, name, Some(value), previous.get(name), None) {
                    out.insert(name.clone(), kept);
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        (Some(_), Some(previous), None) if !merge::is_absent(Some(previous)) => None,
        (Some(current), _, None) => Some(current.clone()),
        (_, _, Some(body)) => Some(body.clone()),
        (None, _, None) => None,
    }
}

fn field(
    builtin: bool,
    name: &str,
    current: Option<&Value>,
    previous: Option<&Value>,
    body: Option<&Value>,
) -> Option<Value> {
    let (Some(Value::Array(items)), Some(Value::Array(wanted))) = (current, body) else {
        return map(builtin, current, previous, body);
    };
    let keys = wanted
        .iter()
        .chain(items)
        .find_map(|item| merge::list_keys(name, item))
        .filter(|_| builtin);
    let Some(keys) = keys else {
        return body.cloned();
    };
    let none = Vec::new();
    let previous = previous.and_then(Value::as_array).unwrap_or(&none);
    let find = |list: &[Value], item: &Value| {
        list.iter()
            .find(|other| merge::same_item(keys, other, item))
            .cloned()
    };
    let mut out: Vec<Value> = items
        .iter()
        .filter_map(|item| {
            let (previous, wanted) = (find(previous, item), find(wanted, item));
            match (&previous, &wanted) {
                (Some(_), None) => None,
                _ => map(builtin, Some(item), previous.as_ref(), wanted.as_ref()),
            }
        })
        .collect();
    let new = wanted.iter().filter(|item| find(items, item).is_none());
    out.extend(new.cloned());
    Some(Value::Array(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apply_sets_keeps_and_drops_as_the_server_does() {
        let check = |current: Value, previous: Value, body: Value, expect: Value| {
            let key = ObjectKey::namespaced("apps", "Deployment", "n", "d");
            assert_eq!(applied(&key, &current, &body, &previous), expect);
        };
        // Set, left alone, dropped; a list is merged by its keys.
        check(
            json!({"spec": {"image": "1", "paused": false, "old": "x", "env": [{"name": "A", "value": "1"}, {"name": "B"}, {"name": "C"}]}}),
            json!({"spec": {"image": "1", "old": "x", "env": [{"name": "A", "value": "1"}, {"name": "B"}]}}),
            json!({"spec": {"image": "2", "env": [{"name": "A", "value": "2"}, {"name": "D"}]}}),
            json!({"spec": {"image": "2", "paused": false, "env": [{"name": "A", "value": "2"}, {"name": "C"}, {"name": "D"}]}}),
        );
        // Nothing is known of what the old release set.
        check(
            json!({"metadata": {"labels": {"a": "1"}}}),
            Value::Null,
            json!({"metadata": {"labels": {"b": "2"}}}),
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        );
    }
}
