//! An object in another API version of its kind, to see which fields a manager of that version owns.
//!
//! Almost all built-in kinds have the same fields in all their versions. CustomResourceDefinition is the one that
//! moves fields and that clusters hold in two versions: objects made as `v1beta1` are read and written as `v1`.

use serde_json::{Map, Value};

use super::schema::Schema;
use super::shape::shape;

/// The object as `api_version` shows it, in the server's form for that version.
pub(super) fn convert(object: &Value, api_version: &str, schema: &Schema) -> Value {
    let mut converted = object.clone();
    if object["apiVersion"] == "apiextensions.k8s.io/v1"
        && api_version == "apiextensions.k8s.io/v1beta1"
        && let Some(spec) = converted["spec"].as_object_mut()
    {
        definition_to_beta(spec);
    }
    converted["apiVersion"] = api_version.into();
    shape(&mut converted, schema);
    converted
}

/// What all versions have in common stands beside them in `v1beta1`.
fn definition_to_beta(spec: &mut Map<String, Value>) {
    spec.entry("preserveUnknownFields").or_insert(false.into());
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut)
        && let Some(Value::Object(mut webhook)) = conversion.shift_remove("webhook")
    {
        for (from, to) in [
            ("clientConfig", "webhookClientConfig"),
            ("conversionReviewVersions", "conversionReviewVersions"),
        ] {
            if let Some(value) = webhook.shift_remove(from) {
                conversion.insert(to.to_owned(), value);
            }
        }
    }
    let mut common = Vec::new();
    if let Some(versions) = spec.get_mut("versions").and_then(Value::as_array_mut) {
        for version in versions.iter_mut() {
            for column in version["additionalPrinterColumns"]
                .as_array_mut()
                .into_iter()
                .flatten()
            {
                if let Some(column) = column.as_object_mut()
                    && let Some(path) = column.shift_remove("jsonPath")
                {
                    column.insert("JSONPath".into(), path);
                }
            }
        }
        let Some(first) = versions.first().cloned() else {
            return;
        };
        common.push(("version", first["name"].clone()));
        for (from, to) in [
            ("schema", "validation"),
            ("subresources", "subresources"),
            ("additionalPrinterColumns", "additionalPrinterColumns"),
        ] {
            if versions.iter().any(|version| version[from] != first[from]) {
                continue;
            }
            common.push((to, first[from].clone()));
            for version in versions.iter_mut() {
                if let Some(version) = version.as_object_mut() {
                    version.shift_remove(from);
                }
            }
        }
    }
    for (key, value) in common {
        spec.insert(key.to_owned(), value);
    }
}
