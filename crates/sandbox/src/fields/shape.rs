//! The form in which the server keeps a built-in object: its Go type written as JSON.
//!
//! Decoding into a Go struct and writing it again drops what the struct does not know and what is empty, fills in the
//! zero of what is always written, rewrites quantities, and puts fields into the order of the struct.

use serde_json::{Map, Value};

use super::quantity;
use super::schema::{Field, Format, MapType, Schema, Source, TypeId, Types};

/// Brings a built-in object into the server's form. Objects of other schemas are left as they are.
pub fn shape(object: &mut Value, schema: &Schema) {
    if schema.source != Source::Builtin || !object.is_object() {
        return;
    }
    // An empty list here is no absent one: it is how a client asks for the managed fields to be forgotten.
    let reset = object["metadata"]
        .get("managedFields")
        .is_some_and(|fields| fields == &Value::Array(Vec::new()));
    *object = shape_value(&schema.types, schema.root, object.take());
    if reset && let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.insert("managedFields".into(), Value::Array(Vec::new()));
    }
}

/// Whether every value of a built-in object has the type of its field; the server answers 400 where one has not.
/// The error names the first such field and what it must be.
pub fn check_types(object: &Value, schema: &Schema) -> Result<(), String> {
    if schema.source != Source::Builtin {
        return Ok(());
    }
    check_value(&schema.types, schema.root, object, "")
}

fn check_value(types: &Types, kind: TypeId, value: &Value, path: &str) -> Result<(), String> {
    let shape = types.get(kind);
    if value.is_null() || (shape.scalar.is_some() && shape.map.is_some()) {
        return Ok(());
    }
    let expected = if let Some(map) = &shape.map {
        if let Value::Object(fields) = value {
            for (name, value) in fields {
                if let Some(kind) = map.kind(name) {
                    check_value(types, kind, value, &format!("{path}.{name}"))?;
                }
            }
            return Ok(());
        }
        "an object"
    } else if let Some(list) = &shape.list {
        if let Value::Array(items) = value {
            for (index, item) in items.iter().enumerate() {
                check_value(types, list.element, item, &format!("{path}[{index}]"))?;
            }
            return Ok(());
        }
        "a list"
    } else {
        let (fits, expected) = match shape.format {
            Format::Text | Format::Time => (value.is_string(), "a string"),
            Format::Integer => (value.is_i64() || value.is_u64(), "an integer"),
            Format::Number => (value.is_number(), "a number"),
            Format::Boolean => (value.is_boolean(), "true or false"),
            Format::IntOrString => (value.is_i64() || value.is_string(), "an integer or a string"),
            Format::Quantity => (quantity::is_quantity(value), "a quantity"),
            Format::Opaque => (true, ""),
        };
        if fits {
            return Ok(());
        }
        expected
    };
    Err(format!("{path} must be {expected}"))
}

/// What becomes of a built-in object in the store: its encoding does not tell an empty list or map from none.
///
/// Definitions of resources and of API services are stored as JSON, which does.
pub(super) fn store(object: &mut Value, schema: &Schema) {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let as_json = api_version.starts_with("apiextensions.k8s.io/")
        || api_version.starts_with("apiregistration.k8s.io/");
    if schema.source == Source::Builtin && !as_json {
        forget_empty(&schema.types, schema.root, object);
    }
}

fn forget_empty(types: &Types, kind: TypeId, value: &mut Value) {
    let kind = types.get(kind);
    match value {
        Value::Object(fields) => {
            let Some(map) = kind.map.as_ref().filter(|_| kind.scalar.is_none()) else {
                return;
            };
            for (name, value) in fields {
                let Some(kind) = map.kind(name) else { continue };
                let is_empty = match &*value {
                    Value::Array(items) => items.is_empty(),
                    Value::Object(fields) => fields.is_empty() && !is_struct(types, kind),
                    _ => false,
                };
                if is_empty && types.get(kind).scalar.is_none() {
                    *value = Value::Null;
                } else {
                    forget_empty(types, kind, value);
                }
            }
        }
        Value::Array(items) => {
            let Some(list) = kind.list.as_ref().filter(|_| kind.scalar.is_none()) else {
                return;
            };
            for item in items {
                forget_empty(types, list.element, item);
            }
        }
        _ => {}
    }
}

fn shape_value(types: &Types, kind: TypeId, value: Value) -> Value {
    let shape = types.get(kind);
    match value {
        Value::Object(fields) => match &shape.map {
            Some(map) if map.element.is_none() => Value::Object(shape_struct(types, map, fields)),
            Some(map) if shape.scalar.is_none() => {
                let Some(element) = map.element else {
                    return Value::Object(fields);
                };
                let fields = fields.into_iter().map(|(key, value)| {
                    let value = if value.is_null() {
                        zero(types, element)
                    } else {
                        value
                    };
                    (key, shape_value(types, element, value))
                });
                // Go writes maps in the order of their keys.
                let mut fields: Vec<_> = fields.collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(fields.into_iter().collect())
            }
            _ => Value::Object(fields),
        },
        Value::Array(items) => match &shape.list {
            Some(list) if shape.scalar.is_none() => items
                .into_iter()
                .map(|item| {
                    let item = if item.is_null() {
                        zero(types, list.element)
                    } else {
                        item
                    };
                    shape_value(types, list.element, item)
                })
                .collect(),
            _ => Value::Array(items),
        },
        scalar => match shape.format {
            Format::Quantity => quantity::canonical(scalar),
            _ => scalar,
        },
    }
}

fn shape_struct(types: &Types, map: &MapType, mut fields: Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::with_capacity(fields.len() + 2);
    for field in &map.fields {
        let value = fields.remove(&field.name).filter(|value| !value.is_null());
        let shaped = match value {
            Some(value) => {
                let value = shape_value(types, field.kind, value);
                if !field.always && field.value && is_empty(types, field.kind, &value) {
                    continue;
                }
                value
            }
            None => match absent(types, field) {
                Some(value) => value,
                None => continue,
            },
        };
        out.insert(field.name.clone(), shaped);
    }
    out
}

fn is_struct(types: &Types, kind: TypeId) -> bool {
    types
        .get(kind)
        .map
        .as_ref()
        .is_some_and(|map| map.element.is_none())
}

/// Whether `omitempty` leaves the value out. Structs are never empty to it.
fn is_empty(types: &Types, kind: TypeId, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => {
            types.get(kind).format != Format::IntOrString
                && number.as_f64().is_some_and(|number| number == 0.0)
        }
        Value::String(text) => {
            !matches!(types.get(kind).format, Format::IntOrString | Format::Quantity) && text.is_empty()
        }
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty() && !is_struct(types, kind),
    }
}

/// What the server writes for a field that is not set.
fn absent(types: &Types, field: &Field) -> Option<Value> {
    let kind = types.get(field.kind);
    if field.value && is_struct(types, field.kind) {
        return Some(shape_value(types, field.kind, Value::Object(Map::new())));
    }
    let is_list_or_map = kind.scalar.is_none();
    match kind.format {
        // These are structs in Go, so `omitempty` has no effect on them.
        Format::Time if field.value => Some(Value::Null),
        Format::Quantity | Format::IntOrString if field.value => Some(zero(types, field.kind)),
        Format::Opaque if field.value && !is_list_or_map => Some(Value::Null),
        _ if !field.always => None,
        _ if field.value && !is_list_or_map => Some(zero(types, field.kind)),
        _ => Some(Value::Null),
    }
}

fn zero(types: &Types, kind: TypeId) -> Value {
    if is_struct(types, kind) {
        return Value::Object(Map::new());
    }
    match types.get(kind).format {
        Format::Text => "".into(),
        Format::Quantity => "0".into(),
        Format::Integer | Format::Number | Format::IntOrString => 0.into(),
        Format::Boolean => false.into(),
        Format::Time | Format::Opaque => Value::Null,
    }
}
