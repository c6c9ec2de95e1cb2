//! The protobuf encoding of built-in objects, which Go clients send: read into JSON, never written.
//!
//! A body is the four bytes `k8s\0` and a `runtime.Unknown` message: the object's `apiVersion` and `kind`, and the message
//! of that kind. Which messages there are, and their fields, stands in a table.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::json::{group_of, version_of};

#[derive(Debug, Clone, Copy)]
enum Type {
    Text,
    Bytes,
    Bool,
    Integer,
    Double,
    Message(&'static str),
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    kind: Type,
    repeated: bool,
    map: bool,
    inline: bool,
}

type Message = HashMap<u64, Field>;

static MESSAGES: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    include_str!("protobuf.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split(' ').filter(|word| !word.is_empty());
            Some((words.next()?, words.filter_map(field).collect()))
        })
        .collect()
});

/// Reads `11%labels:s` or `2^volumeSource>core.v1.VolumeSource`.
fn field(word: &'static str) -> Option<(u64, Field)> {
    let digits = word.find(|c: char| !c.is_ascii_digit())?;
    let number = word[..digits].parse().ok()?;
    let rest = &word[digits..];
    let name_start = rest.find(|c: char| !matches!(c, '*' | '%' | '^'))?;
    let (flags, rest) = rest.split_at(name_start);
    let (name, kind) = if let Some((name, message)) = rest.split_once('>') {
        (name, Type::Message(message))
    } else {
        let (name, kind) = rest.split_once(':')?;
        let kind = match kind {
            "y" => Type::Bytes,
            "b" => Type::Bool,
            "i" => Type::Integer,
            "d" => Type::Double,
            _ => Type::Text,
        };
        (name, kind)
    };
    let field = Field {
        name,
        kind,
        repeated: flags.contains('*'),
        map: flags.contains('%'),
        inline: flags.contains('^'),
    };
    Some((number, field))
}

/// Reads a body; the error says what is wrong with it.
pub(super) fn decode(body: &[u8]) -> Result<Value, String> {
    let body = body
        .strip_prefix(b"k8s\0")
        .ok_or("provided data does not appear to be a protobuf message")?;
    let unknown = message("runtime.Unknown", body, 0)?;
    let text = |key: &str| unknown.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion").to_owned(), text("kind").to_owned());
    let raw = STANDARD.decode(text("raw")).map_err(|error| error.to_string())?;
    let name = message_name(&api_version, &kind);
    let mut object = message(&name, &raw, 0)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

/// The message of a kind: `rbac.v1.Role` for `Role` in `rbac.authorization.k8s.io/v1`.
fn message_name(api_version: &str, kind: &str) -> String {
    // Every group has its options for deletion; they are all the same.
    if kind == "DeleteOptions" {
        return "meta.v1.DeleteOptions".to_owned();
    }
    let group = match group_of(api_version).split('.').next().unwrap_or_default() {
        "" => "core",
        group => group,
    };
    format!("{group}.{}.{kind}", version_of(api_version))
}

/// Deeper than any object goes.
const DEPTH: usize = 64;

fn message(name: &str, mut bytes: &[u8], depth: usize) -> Result<Map<String, Value>, String> {
    let fields = MESSAGES
        .get(name)
        .ok_or_else(|| format!("no message {name} is known"))?;
    if depth > DEPTH {
        return Err("the message is too deep".to_owned());
    }
    let mut object = Map::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let wire = read(&mut bytes, key & 7)?;
        let Some(field) = fields.get(&(key >> 3)) else {
            continue;
        };
        if field.map {
            let (key, value) = entry(field, wire, depth)?;
            let map = object.entry(field.name).or_insert_with(|| json!({}));
            crate::json::object(map).insert(key, value);
            continue;
        }
        let value = value(field.kind, wire, depth)?;
        if field.inline {
            if let Value::Object(inner) = value {
                object.extend(inner);
            }
        } else if field.repeated {
            let list = object.entry(field.name).or_insert_with(|| json!([]));
            if let Value::Array(list) = list {
                list.push(value);
            }
        } else {
            object.insert(field.name.into(), value);
        }
    }
    Ok(object)
}

/// A value as it stands on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&first, rest) = bytes.split_first().ok_or("unexpected EOF")?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("integer overflow".to_owned())
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], String> {
    let length = usize::try_from(length).map_err(|_| "unexpected EOF")?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or("unexpected EOF")?;
    *bytes = rest;
    Ok(taken)
}

fn read<'a>(bytes: &mut &'a [u8], wire: u64) -> Result<Wire<'a>, String> {
    let little = |taken: &[u8]| {
        taken
            .iter()
            .rev()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    Ok(match wire {
        0 => Wire::Number(varint(bytes)?),
        1 => Wire::Number(little(take(bytes, 8)?)),
        2 => {
            let length = varint(bytes)?;
            Wire::Bytes(take(bytes, length)?)
        }
        5 => Wire::Number(little(take(bytes, 4)?)),
        other => return Err(format!("illegal wireType {other}")),
    })
}

/// The key and value of a map's entry, which is a message with the fields 1 and 2.
fn entry(field: &Field, wire: Wire, depth: usize) -> Result<(String, Value), String> {
    let Wire::Bytes(mut bytes) = wire else {
        return Err(format!("wrong wireType for field {}", field.name));
    };
    let (mut key, mut found) = (String::new(), None);
    while !bytes.is_empty() {
        let number = varint(&mut bytes)?;
        match (number >> 3, read(&mut bytes, number & 7)?) {
            (1, Wire::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
            (2, wire) => found = Some(value(field.kind, wire, depth)?),
            _ => {}
        }
    }
    // A value that is left out is the empty one.
    let found = match found {
        Some(found) => found,
        None => value(field.kind, Wire::Bytes(&[]), depth).unwrap_or(Value::Null),
    };
    Ok((key, found))
}

fn value(kind: Type, wire: Wire, depth: usize) -> Result<Value, String> {
    Ok(match (kind, wire) {
        (Type::Text, Wire::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned().into(),
        (Type::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Type::Bool, Wire::Number(number)) => (number != 0).into(),
        // Negative numbers are sent as their two's complement.
        (Type::Integer, Wire::Number(number)) => number.cast_signed().into(),
        (Type::Double, Wire::Number(number)) => f64::from_bits(number).into(),
        (Type::Message(name), Wire::Bytes(bytes)) => special(name, bytes, depth)?,
        _ => return Err("wrong wireType".to_owned()),
    })
}

/// Messages that stand for something else in JSON.
fn special(name: &str, bytes: &[u8], depth: usize) -> Result<Value, String> {
    let inner = message(name, bytes, depth + 1)?;
    let number = |key: &str| inner.get(key).and_then(Value::as_i64).unwrap_or(0);
    Ok(match name {
        "meta.v1.Time" | "meta.v1.MicroTime" => {
            // An empty message is no time at all.
            if inner.is_empty() {
                return Ok(Value::Null);
            }
            let nanos = i32::try_from(number("nanos")).unwrap_or(0);
            let time = jiff::Timestamp::new(number("seconds"), nanos).map_err(|error| error.to_string())?;
            let format = if name == "meta.v1.Time" {
                "%Y-%m-%dT%H:%M:%SZ"
            } else {
                "%Y-%m-%dT%H:%M:%S.%6fZ"
            };
            time.strftime(format).to_string().into()
        }
        "resource.Quantity" => inner.get("string").cloned().unwrap_or_else(|| "0".into()),
        "intstr.IntOrString" => match number("type") {
            0 => number("intVal").into(),
            _ => inner.get("strVal").cloned().unwrap_or_else(|| "".into()),
        },
        "meta.v1.Duration" => format!("{}ns", number("duration")).into(),
        "runtime.RawExtension" | "meta.v1.FieldsV1" => {
            let raw = inner.get("-").and_then(Value::as_str).unwrap_or_default();
            let raw = STANDARD.decode(raw).map_err(|error| error.to_string())?;
            if raw.is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_slice(&raw).map_err(|error| error.to_string())?
        }
        // Lists that are messages of their own.
        "authorization.v1.ExtraValue"
        | "authentication.v1.ExtraValue"
        | "certificates.v1.ExtraValue"
        | "meta.v1.Verbs" => inner.get("items").cloned().unwrap_or_else(|| json!([])),
        _ => Value::Object(inner),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, u8::try_from(content.len()).expect("short")];
        bytes.extend_from_slice(content);
        bytes
    }

    fn mk_body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [b"k8s\0".to_vec(), field(1, &types), field(2, raw)].concat()
    }

    fn check(api_version: &str, kind: &str, raw: &[u8], expect: Value) {
        assert_eq!(decode(&mk_body(api_version, kind, raw)), Ok(expect));
    }

    #[test]
    fn messages_become_json() {
        let name = field(1, b"m");
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        check(
            "v1",
            "ConfigMap",
            &[field(1, &name), field(2, &entry)].concat(),
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": { "k": "v" } }),
        );
        // replicas (1) of spec (2): a number; matchLabels (1) of selector (2).
        let spec = [vec![1 << 3, 3], field(2, &field(1, &entry))].concat();
        check(
            "apps/v1",
            "Deployment",
            &field(2, &spec),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "spec": { "replicas": 3, "selector": { "matchLabels": { "k": "v" } } },
            }),
        );
        // A target port (4) by name in the ports (1) of a Service's spec (2).
        let port = [
            vec![3 << 3, 80],
            field(4, &[vec![1 << 3, 1], field(3, b"http")].concat()),
        ]
        .concat();
        check(
            "v1",
            "Service",
            &field(2, &field(1, &port)),
            json!({
                "apiVersion": "v1", "kind": "Service", "spec": { "ports": [{ "port": 80, "targetPort": "http" }] },
            }),
        );
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for body in [
            &b"{}"[..],
            b"k8s\0\x0a",
            b"k8s\0\x0a\xff",
            &mk_body("v1", "Unheard", b""),
            &mk_body("v1", "Pod", b"\x0a\x7f"),
        ] {
            assert!(decode(body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn every_message_that_a_field_names_is_there() {
        for (name, fields) in MESSAGES.iter() {
            for field in fields.values() {
                if let Type::Message(target) = field.kind {
                    assert!(MESSAGES.contains_key(target), "{name}.{}: {target}", field.name);
                }
            }
        }
    }
}
