//! Structural schemas of custom resources: pruning, defaulting, validation, as apiextensions-apiserver 1.20 does them.
//!
//! All work on the CRD's `openAPIV3Schema` as it stands. What a client sends, and what a patch makes of an object, goes
//! through [`prune`], [`default`] and [`check`]; what server-side apply makes of it, through [`prune`],
//! [`fill_defaults`] and [`check`].

mod check;
mod format;

use serde_json::{Map, Value};

pub use check::check;

/// One reason why an object is refused, as it stands in `details.causes` of the server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The path of the field: `spec.replicas`; `<nil>` for the whole object.
    pub field: String,
    /// The reason: `FieldValueInvalid`, `FieldValueRequired`, `FieldValueNotSupported`, `FieldValueDuplicate`.
    pub reason: &'static str,
    /// The message: `Required value`.
    pub message: String,
}

/// Fields that every resource has, whatever its schema says.
fn is_meta_field(key: &str) -> bool {
    matches!(key, "apiVersion" | "kind" | "metadata")
}

fn preserves(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

fn is_resource(schema: &Value) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

/// What a field's schema says about it: its own, or the one of all other fields. `Some(Null)` allows anything below
/// and knows nothing about it.
fn property<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    if let Some(property) = schema["properties"].get(key) {
        return Some(property);
    }
    match &schema["additionalProperties"] {
        Value::Null => None,
        Value::Bool(_) => Some(&Value::Null),
        element => Some(element),
    }
}

/// Removes the fields that the schema does not know. `apiVersion`, `kind` and `metadata` stay.
pub fn prune(schema: &Value, object: &mut Value) {
    prune_value(schema, object, true);
}

fn prune_value(schema: &Value, value: &mut Value, resource: bool) {
    let resource = resource || is_resource(schema);
    let keep_unknown = preserves(schema);
    match value {
        Value::Object(fields) => fields.retain(|key, value| {
            if resource && is_meta_field(key) {
                return true;
            }
            match property(schema, key) {
                Some(property) => {
                    prune_value(property, value, false);
                    true
                }
                None => keep_unknown,
            }
        }),
        Value::Array(items) => {
            let element = &schema["items"];
            for item in items {
                // Below a list that preserves unknown fields, its items' own schema decides what is known.
                if keep_unknown {
                    prune_preserved(element, item);
                } else {
                    prune_value(element, item, false);
                }
            }
        }
        _ => {}
    }
}

/// Prunes only what has a schema of its own, below a node that preserves unknown fields.
fn prune_preserved(schema: &Value, value: &mut Value) {
    let resource = is_resource(schema);
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if !(resource && is_meta_field(key))
                    && let Some(property) = property(schema, key)
                {
                    prune_value(property, value, false);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                prune_preserved(&schema["items"], item);
            }
        }
        _ => {}
    }
}

fn is_nullable(schema: &Value) -> bool {
    schema["nullable"] == true
}

/// Fills in the defaults of the schema; a null where the schema allows none gives way to the default or goes.
pub fn default(schema: &Value, object: &mut Value) {
    drop_nulls(schema, object);
    fill_defaults(schema, object);
}

/// Fills in the defaults of the schema and leaves nulls without a default alone, as the server does after an apply:
/// a list or map that an apply has emptied is null, and is refused as such where the schema says so.
pub fn fill_defaults(schema: &Value, object: &mut Value) {
    default_value(schema, object);
}

fn drop_nulls(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| {
                !value.is_null()
                    || property(schema, key)
                        .filter(|property| property.is_object())
                        .is_none_or(|property| {
                            is_nullable(property)
                                || property.get("default").is_some_and(|default| !default.is_null())
                        })
            });
            for (key, value) in fields {
                if let Some(property) = property(schema, key) {
                    drop_nulls(property, value);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                drop_nulls(&schema["items"], item);
            }
        }
        _ => {}
    }
}

fn default_value(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let empty = Map::new();
            for (key, property) in schema["properties"].as_object().unwrap_or(&empty) {
                let Some(default) = property.get("default").filter(|default| !default.is_null()) else {
                    continue;
                };
                if fields
                    .get(key)
                    .is_none_or(|value| value.is_null() && !is_nullable(property))
                {
                    fields.insert(key.clone(), default.clone());
                }
            }
            for (key, value) in fields {
                let Some(property) = property(schema, key) else {
                    continue;
                };
                if schema["properties"].get(key).is_none() {
                    default_null(property, value);
                }
                default_value(property, value);
            }
        }
        Value::Array(items) => {
            let element = &schema["items"];
            for item in items {
                default_null(element, item);
                default_value(element, item);
            }
        }
        _ => {}
    }
}

fn default_null(schema: &Value, value: &mut Value) {
    if value.is_null()
        && schema.is_object()
        && !is_nullable(schema)
        && let Some(default) = schema.get("default")
    {
        *value = default.clone();
    }
}
