//! Reading and changing a JSON value by dotted path. A null counts as absent, as it does in a JSON merge patch.

use serde_json::{Map, Value};

/// The value at a path; `None` where there is none, or null.
pub(super) fn get<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(value, |value, name| value.get(name))
        .filter(|value| !value.is_null())
}

/// Takes the value at a path out. The order of what stays does not change.
pub(super) fn take(value: &mut Value, path: &str) -> Option<Value> {
    let (parent, name) = match path.rsplit_once('.') {
        Some((parent, name)) => (get_mut(value, parent)?, name),
        None => (value, path),
    };
    parent.as_object_mut()?.shift_remove(name)
}

/// The place of the value at a path; `None` where there is none.
pub(super) fn get_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.').try_fold(value, |value, name| value.get_mut(name))
}

/// Whether a value can be put at a path: everything on the way is a map, or absent.
pub(super) fn can_put(value: &Value, path: &str) -> bool {
    let mut value = value;
    for name in path.split('.') {
        match value {
            Value::Null => return true,
            Value::Object(map) => value = map.get(name).unwrap_or(&Value::Null),
            _ => return false,
        }
    }
    true
}

/// Puts `source` at a path, below what is set there already. Returns what did not find a place: the parts of
/// `source` that are set to something else there. Maps are merged; everything else is one value.
///
/// Call it only where [`can_put`] says so; elsewhere nothing is put.
pub(super) fn put_below(value: &mut Value, path: &str, source: Value) -> Option<Value> {
    let mut place = value;
    for name in path.split('.') {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        match place {
            Value::Object(map) => place = map.entry(name).or_insert(Value::Null),
            _ => return Some(source),
        }
    }
    fill(place, source)
}

fn is_unset(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

fn fill(target: &mut Value, source: Value) -> Option<Value> {
    match (target, source) {
        (Value::Object(target), Value::Object(source)) => {
            let mut left = Map::new();
            for (name, value) in source {
                if let Some(rest) = fill(target.entry(name.clone()).or_insert(Value::Null), value) {
                    left.insert(name, rest);
                }
            }
            target.retain(|_, value| !value.is_null());
            (!left.is_empty()).then_some(Value::Object(left))
        }
        (target, source) if is_unset(target) && (!is_unset(&source) || target.is_null()) => {
            *target = without_nulls(source);
            None
        }
        (target, source) if is_unset(&source) || *target == source => None,
        (_, source) => Some(source),
    }
}

/// A merge patch cannot set a null, and a null says nothing.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        other => other,
    }
}

/// The JSON merge patch (RFC 7386) that makes `new` of `old`; `None` when they are equal. Maps are compared key by
/// key; a key that `new` lacks is patched with null.
pub(crate) fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Some(from), Some(to)) = (old.as_object(), new.as_object()) else {
        return (old != new).then(|| new.clone());
    };
    let removed = from
        .keys()
        .filter(|name| !to.contains_key(*name))
        .map(|name| (name.clone(), Value::Null));
    let changed = to.iter().filter_map(|(name, value)| {
        let patch = match from.get(name) {
            Some(old) => merge_patch(old, value)?,
            None => value.clone(),
        };
        Some((name.clone(), patch))
    });
    let patch: Map<_, _> = removed.chain(changed).collect();
    (!patch.is_empty()).then_some(Value::Object(patch))
}
