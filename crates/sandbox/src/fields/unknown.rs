//! Fields that a kind does not have, and fields that are given twice: what a client that asks for the check of fields is told.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::schema::{Schema, Source, TypeId, Types};
use super::validate;

/// All that metadata has.
pub(crate) const METADATA: &[&str] = &[
    "annotations",
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The paths of the fields of a built-in object that its kind does not have: `spec.template.spec.containers[0].imag`.
pub(crate) fn of_builtin(object: &Value, schema: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    if schema.source == Source::Builtin {
        walk(&schema.types, schema.root, object, "", &mut found);
    }
    found
}

fn walk(types: &Types, kind: TypeId, value: &Value, path: &str, found: &mut Vec<String>) {
    let shape = types.get(kind);
    if shape.scalar.is_some() && shape.map.is_some() {
        return;
    }
    match (value, &shape.map, &shape.list) {
        (Value::Object(fields), Some(map), _) => {
            for (name, value) in fields {
                let path = below(path, name);
                match map.kind(name) {
                    Some(kind) => walk(types, kind, value, &path, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(items), _, Some(list)) => {
            for (index, item) in items.iter().enumerate() {
                walk(types, list.element, item, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// The same for a custom resource and the schema of its definition.
pub(crate) fn of_custom(object: &Value, schema: &Value) -> Vec<String> {
    let metadata = object["metadata"].as_object();
    let mut found: Vec<String> = metadata
        .into_iter()
        .flat_map(|fields| fields.keys())
        .filter(|key| !METADATA.contains(&key.as_str()))
        .map(|key| format!("metadata.{key}"))
        .collect();
    let mut pruned = object.clone();
    validate::prune(schema, &mut pruned);
    missing(object, &pruned, "", &mut found);
    found
}

/// What is in one value and not in the other.
fn missing(value: &Value, pruned: &Value, path: &str, found: &mut Vec<String>) {
    match (value, pruned) {
        (Value::Object(fields), Value::Object(kept)) => {
            for (name, value) in fields {
                let path = below(path, name);
                match kept.get(name) {
                    Some(kept) => missing(value, kept, &path, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(items), Value::Array(kept)) => {
            for (index, (item, kept)) in items.iter().zip(kept).enumerate() {
                missing(item, kept, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The paths of the fields that a JSON text gives twice; none where it is no JSON.
pub(crate) fn twice(json: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let seed = Duplicates {
        path: "",
        found: &mut found,
    };
    let mut reader = serde_json::Deserializer::from_slice(json);
    match seed.deserialize(&mut reader) {
        Ok(()) => found,
        Err(_) => Vec::new(),
    }
}

/// Reads a value for the names of its fields only.
struct Duplicates<'a> {
    path: &'a str,
    found: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Duplicates<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Duplicates<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        loop {
            let path = format!("{}[{index}]", self.path);
            let seed = Duplicates {
                path: &path,
                found: self.found,
            };
            if items.next_element_seed(seed)?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = below(self.path, &name);
            if !seen.insert(name) {
                self.found.push(path.clone());
            }
            let seed = Duplicates {
                path: &path,
                found: self.found,
            };
            fields.next_value_seed(seed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_a_kind_does_not_have() {
        let schema = Schema::builtin("apps/v1", "Deployment", 20).expect("built in");
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "a", "lable": {} },
            "spec": { "replica": 1, "template": { "metadata": { "labels": { "any": "x" } },
                "spec": { "containers": [{ "name": "a" }, { "name": "b", "imag": "c" }] } } },
        });
        assert_eq!(
            of_builtin(&object, &schema),
            [
                "metadata.lable",
                "spec.replica",
                "spec.template.spec.containers[1].imag"
            ]
        );
        let schema = json!({ "type": "object", "properties": { "spec": { "type": "object",
            "properties": { "mail": { "type": "string" } } } } });
        let object = json!({ "metadata": { "name": "a", "x": 1 }, "spec": { "mail": "a", "male": "b" } });
        assert_eq!(of_custom(&object, &schema), ["metadata.x", "spec.male"]);
    }

    #[test]
    fn fields_that_are_given_twice() {
        let json = br#"{"a": {"b": 1, "c": [{"d": 1, "d": 2}], "b": null}, "e": "x", "a": 1.5}"#;
        assert_eq!(twice(json), ["a.c[0].d", "a.b", "a"]);
        assert!(twice(b"{").is_empty());
    }
}
