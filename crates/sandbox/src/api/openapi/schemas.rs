//! Types as OpenAPI describes them: the built-in ones from the type file, custom ones from their definitions.

use serde_json::{Map, Value, json};

use crate::fields::type_file;
use crate::kinds::{Minor, Resource};

/// Which OpenAPI is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        let place = match self {
            Dialect::V2 => "definitions",
            Dialect::V3 => "components/schemas",
        };
        json!({ "$ref": format!("#/{place}/{name}") })
    }
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Scalars that have a name of their own: how the type file calls them, the name, type and format.
const NAMED: &[(&str, &str, &str)] = &[
    ("quantity", "io.k8s.apimachinery.pkg.api.resource.Quantity", ""),
    ("time", "io.k8s.apimachinery.pkg.apis.meta.v1.Time", "date-time"),
    (
        "micro-time",
        "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
        "date-time",
    ),
    (
        "int-or-string",
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        "int-or-string",
    ),
];

/// How the type file writes what OpenAPI calls so.
const EXTENSIONS: &[(&str, &str)] = &[
    ("lk", "x-kubernetes-list-map-keys"),
    ("lt", "x-kubernetes-list-type"),
    ("mt", "x-kubernetes-map-type"),
    ("pk", "x-kubernetes-patch-merge-key"),
    ("ps", "x-kubernetes-patch-strategy"),
];

/// Adds a version of a kind, and what it refers to.
pub(super) fn add(
    definitions: &mut Map<String, Value>,
    resource: &Resource,
    version: &str,
    dialect: Dialect,
) {
    let api_version = resource.api_version(version);
    let kind = json!({ "group": resource.group, "kind": resource.kind, "version": version });
    let name = if resource.is_custom() {
        let mut schema = match resource.open_api(version) {
            Some(schema) if !resource.preserves_unknown_fields() => published(schema, dialect),
            _ => json!({ "type": "object" }),
        };
        let has_fields = schema.get("properties").is_some();
        if has_fields {
            schema["properties"]["apiVersion"] = json!({ "type": "string" });
            schema["properties"]["kind"] = json!({ "type": "string" });
            schema["properties"]["metadata"] = dialect.reference(OBJECT_META);
            add_builtin(definitions, OBJECT_META, resource.minor, dialect);
        }
        let group: Vec<_> = resource.group.split('.').rev().collect();
        let name = format!("{}.{version}.{}", group.join("."), resource.kind);
        definitions.insert(name.clone(), schema);
        name
    } else {
        let named = type_file(resource.minor)["kinds"][format!("{api_version}/{}", resource.kind)].as_str();
        // Kinds that came after the type file.
        let Some(name) = named else { return };
        add_builtin(definitions, name, resource.minor, dialect);
        name.to_owned()
    };
    // One type may be that of several kinds.
    let kinds = &mut definitions[&name]["x-kubernetes-group-version-kind"];
    match kinds {
        Value::Array(kinds) if kinds.contains(&kind) => {}
        Value::Array(kinds) => kinds.push(kind),
        none => *none = json!([kind]),
    }
}

fn add_builtin(definitions: &mut Map<String, Value>, name: &str, minor: Minor, dialect: Dialect) {
    if definitions.contains_key(name) {
        return;
    }
    if let Some((_, _, format)) = NAMED.iter().find(|(_, named, _)| *named == name) {
        let mut schema = json!({ "type": "string" });
        if !format.is_empty() {
            schema["format"] = (*format).into();
        }
        definitions.insert(name.to_owned(), schema);
        return;
    }
    // There before what it refers to: types refer to each other in circles.
    definitions.insert(name.to_owned(), Value::Null);
    let mut referred = Vec::new();
    let schema = described(&type_file(minor)["types"][name], dialect, &mut referred);
    definitions.insert(name.to_owned(), schema);
    for name in referred {
        add_builtin(definitions, name, minor, dialect);
    }
}

/// An entry of the type file as a schema.
fn described(entry: &'static Value, dialect: Dialect, referred: &mut Vec<&'static str>) -> Value {
    let named = |kind: &str| NAMED.iter().find(|(known, ..)| *known == kind);
    let mut schema = if let Some(name) = entry["r"].as_str() {
        referred.push(name);
        dialect.reference(name)
    } else if let Some((_, name, _)) = entry["s"].as_str().and_then(named) {
        referred.push(name);
        dialect.reference(name)
    } else if let Some(scalar) = entry["s"].as_str() {
        match scalar {
            "byte" => json!({ "type": "string", "format": "byte" }),
            scalar => json!({ "type": scalar }),
        }
    } else if entry.get("l").is_some() {
        json!({ "type": "array", "items": described(&entry["l"], dialect, referred) })
    } else if entry.get("m").is_some() {
        match &entry["m"] {
            anything if anything.get("a").is_some() => json!({ "type": "object" }),
            element => {
                json!({ "type": "object", "additionalProperties": described(element, dialect, referred) })
            }
        }
    } else if let Some(fields) = entry["f"].as_object() {
        let properties: Map<String, Value> = fields
            .iter()
            .map(|(name, field)| (name.clone(), described(field, dialect, referred)))
            .collect();
        let mut schema = json!({ "type": "object", "properties": properties });
        if let Some(required) = entry.get("rq") {
            schema["required"] = required.clone();
        }
        schema
    } else {
        // Any value: opaque to everybody but its owner.
        json!({})
    };
    for (short, long) in EXTENSIONS {
        if let Some(value) = entry.get(*short) {
            schema[*long] = value.clone();
        }
    }
    schema
}

/// What is published of a structural schema. Version 2 cannot tell all of it: what may be null, or of several types, is said
/// to be anything there, lest clients refuse what the server takes.
fn published(schema: &Value, dialect: Dialect) -> Value {
    let mut out = Map::new();
    let Some(fields) = schema.as_object() else {
        return json!({});
    };
    for (key, value) in fields {
        if key.starts_with("x-kubernetes-") && key != "x-kubernetes-validations" {
            out.insert(key.clone(), value.clone());
        }
    }
    let is = |key: &str| schema[key] == true;
    let loose =
        is("x-kubernetes-preserve-unknown-fields") || is("x-kubernetes-int-or-string") || is("nullable");
    if dialect == Dialect::V2 && loose {
        return out.into();
    }
    const PLAIN: &[&str] = &[
        "type", "format", "required", "enum", "default", "nullable", "pattern",
    ];
    for key in PLAIN {
        let only_new = matches!(*key, "nullable" | "default");
        if let Some(value) = fields.get(*key)
            && !(dialect == Dialect::V2 && only_new)
        {
            out.insert((*key).to_owned(), value.clone());
        }
    }
    if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
        let properties: Map<String, Value> = properties
            .iter()
            .map(|(name, property)| (name.clone(), published(property, dialect)))
            .collect();
        out.insert("properties".into(), properties.into());
    }
    if let Some(items) = fields.get("items") {
        out.insert("items".into(), published(items, dialect));
    }
    match fields.get("additionalProperties") {
        Some(allowed @ Value::Bool(_)) => {
            out.insert("additionalProperties".into(), allowed.clone());
        }
        Some(element) => {
            out.insert("additionalProperties".into(), published(element, dialect));
        }
        None => {}
    }
    out.into()
}
