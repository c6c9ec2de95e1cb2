//! OpenAPI 2 as the protobuf message that kubectl up to 1.26 reads: `openapi.v2.Document` of gnostic, as far as used here.
//!
//! Numbers of fields are those of its `OpenAPIv2.proto`; the names stand beside them.

use serde_json::{Map, Value};

/// The document as a message.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let empty = Map::new();
    let fields = |key: &str| document[key].as_object().unwrap_or(&empty);
    let mut info = Vec::new();
    text(&mut info, 1, &document["info"]["title"]);
    text(&mut info, 2, &document["info"]["version"]);
    let mut paths = Vec::new();
    for (path, item) in fields("paths") {
        named(&mut paths, 2, path, &path_item(item));
    }
    let mut definitions = Vec::new();
    for (name, definition) in fields("definitions") {
        named(&mut definitions, 1, name, &schema(definition));
    }
    let mut out = Vec::new();
    text(&mut out, 1, &document["swagger"]);
    field(&mut out, 2, &info);
    field(&mut out, 8, &paths);
    field(&mut out, 9, &definitions);
    out
}

fn path_item(item: &Value) -> Vec<u8> {
    const OPERATIONS: &[(&str, u64)] = &[("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)];
    let mut out = Vec::new();
    for (name, number) in OPERATIONS {
        let Some(value) = item.get(*name) else { continue };
        let mut operation = Vec::new();
        for parameter in value["parameters"].as_array().into_iter().flatten() {
            let mut query = Vec::new();
            text(&mut query, 2, &parameter["in"]);
            text(&mut query, 4, &parameter["name"]);
            text(&mut query, 6, &parameter["type"]);
            // A ParametersItem that is a Parameter, that is a NonBodyParameter, that is one of the query.
            let wrapped = wrap(1, &wrap(2, &wrap(3, &query)));
            field(&mut operation, 8, &wrapped);
        }
        field(&mut operation, 9, &[]);
        extensions(&mut operation, 13, value);
        field(&mut out, *number, &operation);
    }
    out
}

fn schema(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &value["$ref"]);
    text(&mut out, 2, &value["format"]);
    text(&mut out, 13, &value["pattern"]);
    for name in value["required"].as_array().into_iter().flatten() {
        text(&mut out, 19, name);
    }
    for one in value["enum"].as_array().into_iter().flatten() {
        field(&mut out, 20, &any(one));
    }
    match &value["additionalProperties"] {
        Value::Null => {}
        Value::Bool(allowed) => field(&mut out, 21, &[2 << 3, u8::from(*allowed)]),
        element => field(&mut out, 21, &wrap(1, &schema(element))),
    }
    if value["type"].is_string() {
        let mut kind = Vec::new();
        text(&mut kind, 1, &value["type"]);
        field(&mut out, 22, &kind);
    }
    if !value["items"].is_null() {
        field(&mut out, 23, &wrap(1, &schema(&value["items"])));
    }
    if let Some(properties) = value["properties"].as_object() {
        let mut all = Vec::new();
        for (name, property) in properties {
            named(&mut all, 1, name, &schema(property));
        }
        field(&mut out, 25, &all);
    }
    extensions(&mut out, 31, value);
    out
}

/// The extensions of a message, each a NamedAny.
fn extensions(out: &mut Vec<u8>, number: u64, value: &Value) {
    for (name, value) in value.as_object().into_iter().flatten() {
        if name.starts_with("x-") {
            named(out, number, name, &any(value));
        }
    }
}

/// Any value: as YAML, of which JSON is a part.
fn any(value: &Value) -> Vec<u8> {
    wrap(2, format!("{value}\n").as_bytes())
}

/// A message of a name (field 1) and a value (field 2).
fn named(out: &mut Vec<u8>, number: u64, name: &str, value: &[u8]) {
    let mut pair = wrap(1, name.as_bytes());
    field(&mut pair, 2, value);
    field(out, number, &pair);
}

/// A field of text; none where the value is none.
fn text(out: &mut Vec<u8>, number: u64, value: &Value) {
    if let Some(text) = value.as_str() {
        field(out, number, text.as_bytes());
    }
}

/// A message of one field.
fn wrap(number: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    field(&mut out, number, content);
    out
}

/// A field that has a length: its number and kind, the length, the content.
fn field(out: &mut Vec<u8>, number: u64, content: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// A number in groups of seven bits, the lowest first.
fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_groups_of_seven_bits() {
        assert_eq!(wrap(1, b"ab"), [10, 2, b'a', b'b']);
        assert_eq!(wrap(2, &[0; 300])[..3], [18, 0xac, 2]);
        assert_eq!(wrap(19, b"")[..], [0x9a, 1, 0]);
    }
}
