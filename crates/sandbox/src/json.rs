//! Reading and writing JSON objects by path, tolerant of what is missing.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// The string at a key, or the empty one.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The string at a JSON pointer, or the empty one.
pub(crate) fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The array at a key, or an empty one.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The array at a JSON pointer, or an empty one.
pub(crate) fn list_at<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The integer at a JSON pointer.
pub(crate) fn number_at(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// The object under a key, made where it is missing or no object.
pub(crate) fn child<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let map = object(value);
    let entry = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
    object(entry)
}

/// The value as an object, made one where it is not.
pub(crate) fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("the value has just been made an object"),
    }
}

pub(crate) fn name(value: &Value) -> &str {
    text_at(value, "/metadata/name")
}

pub(crate) fn namespace(value: &Value) -> &str {
    text_at(value, "/metadata/namespace")
}

pub(crate) fn uid(value: &Value) -> &str {
    text_at(value, "/metadata/uid")
}

pub(crate) fn is_deleting(value: &Value) -> bool {
    value
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|time| !time.is_null())
}

/// The group of an `apiVersion`: empty for `v1`.
pub(crate) fn group_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// The version of an `apiVersion`.
pub(crate) fn version_of(api_version: &str) -> &str {
    api_version
        .rsplit_once('/')
        .map_or(api_version, |(_, version)| version)
}

/// How an object's `apiVersion` and `kind` are written out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TypeMeta<'a> {
    /// Both, with this `apiVersion`.
    Version(&'a str),
    /// Neither: the items of a list of a built-in kind.
    Absent,
}

/// An object as it is sent: the stored one, shared, with another `apiVersion`. Nothing is copied.
pub(crate) struct Sent<'a> {
    pub object: &'a Value,
    pub types: TypeMeta<'a>,
}

impl Serialize for Sent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value::Object(fields) = self.object else {
            return self.object.serialize(serializer);
        };
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in fields {
            match (key.as_str(), self.types) {
                ("apiVersion" | "kind", TypeMeta::Absent) => {}
                ("apiVersion", TypeMeta::Version(version)) => map.serialize_entry(key, version)?,
                _ => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    }
}
