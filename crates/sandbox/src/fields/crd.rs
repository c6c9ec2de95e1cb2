//! From the structural schema of a CRD to the types that merging follows.
//!
//! The API server publishes the structural schema as OpenAPI and derives the merge types from that, by way of a model
//! that knows less than the schema: `x-kubernetes-preserve-unknown-fields` counts where properties stand beside it, an
//! object without properties is a map whose values are replaced as a whole, and a node without a type is opaque.

use serde_json::{Map, Value};

use super::schema::{
    DEDUCED, Field, Format, ListType, MapType, Scalar, Type, TypeId, Types, UNTYPED, import,
};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The types of a custom resource and the root among them; `None` where the server merges without types.
/// `preserve` is the CRD's `spec.preserveUnknownFields`.
pub(super) fn types(schema: &Value, preserve: bool) -> Option<(Types, TypeId)> {
    let mut types = Types::new();
    let metadata = import(&mut types, OBJECT_META);
    if schema.is_null() {
        let element = if preserve { DEDUCED } else { UNTYPED };
        let root = types.add(Type::map(MapType::of(element)));
        return Some((types, root));
    }
    if has_int_or_string(schema) {
        return None;
    }
    let mut builder = Builder { types, metadata };
    let root = builder.kind(schema, preserve, true)?;
    Some((builder.types, root))
}

/// The server writes `anyOf` into the published schema of such a node, cannot read its own document back, and goes on
/// without types for the whole definition.
fn has_int_or_string(schema: &Value) -> bool {
    schema["x-kubernetes-int-or-string"] == true
        || schema["properties"]
            .as_object()
            .is_some_and(|properties| properties.values().any(has_int_or_string))
        || (schema["items"].is_object() && has_int_or_string(&schema["items"]))
        || (schema["additionalProperties"].is_object() && has_int_or_string(&schema["additionalProperties"]))
}

struct Builder {
    types: Types,
    metadata: TypeId,
}

impl Builder {
    fn convert(&mut self, schema: &Value, preserve: bool) -> Option<TypeId> {
        let has_properties = schema["properties"]
            .as_object()
            .is_some_and(|properties| !properties.is_empty());
        if has_properties || schema["x-kubernetes-embedded-resource"] == true {
            return self.kind(schema, preserve, schema["x-kubernetes-embedded-resource"] == true);
        }
        let anything = if preserve { DEDUCED } else { UNTYPED };
        let kind = match schema["type"].as_str().unwrap_or_default() {
            "object" => {
                let element = match &schema["additionalProperties"] {
                    element @ Value::Object(_) => self.convert(element, preserve)?,
                    _ => anything,
                };
                Type::map(MapType {
                    atomic: is_atomic(schema),
                    ..MapType::of(element)
                })
            }
            "array" => {
                let items = &schema["items"];
                if !items.is_object() {
                    // The server gives up on the whole schema here.
                    return None;
                }
                let element = self.convert(items, preserve)?;
                let keys: Vec<String> = schema["x-kubernetes-list-map-keys"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|key| key.as_str().map(str::to_owned))
                    .collect();
                match schema["x-kubernetes-list-type"].as_str() {
                    Some("set") => Type::list(ListType {
                        element,
                        associative: true,
                        keys: Vec::new(),
                    }),
                    Some("map") if !keys.is_empty() => Type::list(ListType {
                        element,
                        associative: true,
                        keys,
                    }),
                    _ => Type::list(ListType {
                        element,
                        associative: false,
                        keys: Vec::new(),
                    }),
                }
            }
            "string" => Type::scalar(Scalar::Text, Format::Text),
            "integer" => Type::scalar(Scalar::Numeric, Format::Integer),
            "number" => Type::scalar(Scalar::Numeric, Format::Number),
            "boolean" => Type::scalar(Scalar::Boolean, Format::Boolean),
            _ => return Some(anything),
        };
        Some(self.types.add(kind))
    }

    fn kind(&mut self, schema: &Value, preserve: bool, resource: bool) -> Option<TypeId> {
        let preserve = preserve || schema["x-kubernetes-preserve-unknown-fields"] == true;
        let mut map = MapType {
            atomic: is_atomic(schema),
            ..MapType::default()
        };
        let empty = Map::new();
        for (name, property) in schema["properties"].as_object().unwrap_or(&empty) {
            let kind = self.convert(property, preserve)?;
            map.add(field(name, kind, property.get("default").cloned()));
        }
        if resource {
            let text = self.types.add(Type::scalar(Scalar::Text, Format::Text));
            map.add(field("apiVersion", text, None));
            map.add(field("kind", text, None));
            map.add(field("metadata", self.metadata, None));
        }
        map.element = preserve.then_some(DEDUCED);
        Some(self.types.add(Type::map(map)))
    }
}

fn is_atomic(schema: &Value) -> bool {
    schema["x-kubernetes-map-type"] == "atomic"
}

fn field(name: &str, kind: TypeId, default: Option<Value>) -> Field {
    Field {
        name: name.to_owned(),
        kind,
        default,
        always: false,
        value: false,
        patch_merge: false,
        merge_key: None,
    }
}
