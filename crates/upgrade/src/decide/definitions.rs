//! CustomResourceDefinitions that are there already: others may use them, and objects are stored in their versions.

use object::Object;
use serde_json::Value;

/// The definition to apply to the one that is there.
///
/// A definition that serves all versions of `new`, each with a schema that knows more, is somebody's newer one: it stays as it
/// is. Otherwise `new`, with the versions of the live one in which objects are stored and which it lacks: without them such
/// objects could not be read any more. Source: "Upgrade existing objects to a new stored version" in Kubernetes' documentation
/// of CustomResourceDefinition versions.
pub(super) fn fit(live: &Object, new: &Object) -> Object {
    let is_fuller = |live: &Object| {
        versions(new).all(|wanted| {
            versions(live).any(|has| {
                has.get("name") == wanted.get("name")
                    && is_true(has, "served")
                    && covers(schema(has), schema(wanted))
            })
        }) && versions(live).map(|v| size(schema(v))).sum::<usize>()
            > versions(new).map(|v| size(schema(v))).sum::<usize>()
    };
    let same_names = [
        "/spec/group",
        "/spec/scope",
        "/spec/names/kind",
        "/spec/names/plural",
    ]
    .iter()
    .all(|pointer| live.get(pointer) == new.get(pointer));
    let is_own = new.get_str("/spec/group").is_some_and(release::is_own_group);
    if same_names && !is_own && is_fuller(live) {
        let mut stays = new.as_value().clone();
        stays["spec"] = live.get("/spec").cloned().unwrap_or_default();
        if let Some(labels) = live.get("/metadata/annotations") {
            stays["metadata"]["annotations"] = labels.clone();
        }
        return Object::try_from(stays).unwrap_or_else(|_| new.clone());
    }
    let stored = live.get("/status/storedVersions").and_then(Value::as_array);
    let missing: Vec<Value> = stored
        .into_iter()
        .flatten()
        .filter(|stored| versions(new).all(|version| version.get("name") != Some(stored)))
        .filter_map(|stored| versions(live).find(|version| version.get("name") == Some(stored)))
        .map(|version| {
            let mut version = version.clone();
            version["storage"] = false.into();
            version
        })
        .collect();
    if missing.is_empty() {
        return new.clone();
    }
    let mut value = new.as_value().clone();
    if let Some(versions) = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
        versions.extend(missing);
    }
    Object::try_from(value).unwrap_or_else(|_| new.clone())
}

fn versions(definition: &Object) -> impl Iterator<Item = &Value> {
    definition
        .get("/spec/versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn schema(version: &Value) -> &Value {
    version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null)
}

fn is_true(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool) == Some(true)
}

/// Whether all properties of a schema are properties of another, with the same types. Descriptions, limits and enumerations do
/// not count: they say what is allowed, not what is known.
fn covers(fuller: &Value, schema: &Value) -> bool {
    if is_true(fuller, "x-kubernetes-preserve-unknown-fields") && schema.get("properties").is_none() {
        return true;
    }
    let same_type = schema.get("type").is_none() || schema.get("type") == fuller.get("type");
    let properties = schema.get("properties").and_then(Value::as_object);
    let knows = properties.into_iter().flatten().all(|(name, property)| {
        fuller
            .get("properties")
            .and_then(|properties| properties.get(name))
            .is_some_and(|known| covers(known, property))
            || is_true(fuller, "x-kubernetes-preserve-unknown-fields")
    });
    let below = ["items", "additionalProperties"]
        .iter()
        .all(|field| match schema.get(field) {
            Some(below @ Value::Object(_)) => fuller.get(field).is_some_and(|known| covers(known, below)),
            _ => true,
        });
    let open = !is_true(schema, "x-kubernetes-preserve-unknown-fields")
        || is_true(fuller, "x-kubernetes-preserve-unknown-fields")
        || fuller.get("properties").is_some();
    same_type && knows && below && open
}

/// How many properties a schema knows.
fn size(schema: &Value) -> usize {
    let properties = schema.get("properties").and_then(Value::as_object);
    let below = ["items", "additionalProperties"]
        .iter()
        .filter_map(|field| schema.get(field));
    properties
        .into_iter()
        .flatten()
        .map(|(_, property)| 1 + size(property))
        .sum::<usize>()
        + below.map(size).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk(group: &str, versions: Value, stored: Value) -> Object {
        Object::try_from(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("things.{group}")},
            "spec": {"group": group, "scope": "Namespaced", "names": {"kind": "Thing", "plural": "things"}, "versions": versions},
            "status": {"storedVersions": stored}}))
        .unwrap()
    }

    fn version(name: &str, properties: Value) -> Value {
        json!({"name": name, "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    }

    #[test]
    fn a_fuller_definition_of_others_stays() {
        let small = || version("v1", json!({"a": {"type": "string"}}));
        let large = || {
            version(
                "v1",
                json!({"a": {"type": "string"}, "b": {"type": "object", "properties": {"c": {}}}}),
            )
        };
        let other = || version("v1", json!({"a": {"type": "integer"}, "b": {}, "d": {}}));
        let check = |group: &str, live: Value, new: Value, stays: bool| {
            let live = mk(group, json!([live]), json!(["v1"]));
            let fitted = fit(&live, &mk(group, json!([new]), Value::Null));
            assert_eq!(fitted.get("/spec/versions") == live.get("/spec/versions"), stays);
        };
        check("example.org", large(), small(), true);
        check("example.org", small(), large(), false);
        check("example.org", other(), small(), false);
        check("iam.kubesphere.io", large(), small(), false);
    }

    #[test]
    fn versions_in_which_objects_are_stored_stay() {
        let live = mk(
            "example.org",
            json!([version("v1alpha1", json!({})), version("v1beta1", json!({}))]),
            json!(["v1alpha1"]),
        );
        let new = mk(
            "example.org",
            json!([version("v1", json!({"a": {}}))]),
            Value::Null,
        );
        let fitted = fit(&live, &new);
        let names: Vec<_> = versions(&fitted)
            .map(|v| (v["name"].clone(), v["storage"].clone()))
            .collect();
        assert_eq!(
            names,
            [(json!("v1"), json!(true)), (json!("v1alpha1"), json!(false))]
        );
    }
}
