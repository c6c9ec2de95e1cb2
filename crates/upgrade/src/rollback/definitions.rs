//! Whether a CustomResourceDefinition can be as it was: every object that is stored must still be valid under it,
//! and lose nothing.

use object::{Object, ObjectKey, diff};
use regex::Regex;
use serde_json::{Map, Value};

use crate::Snapshot;

/// Whether the objects of a CustomResourceDefinition are all in the snapshot.
pub(super) fn instances<'a>(definition: &'a Value, snapshot: &'a Snapshot) -> Option<Vec<&'a Object>> {
    let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str);
    let (group, kind, plural) = (
        text("/spec/group")?,
        text("/spec/names/kind")?,
        text("/spec/names/plural")?,
    );
    // Those are read wherever their objects are.
    let is_read = release::is_own_group(group)
        || crate::written()
            .kinds
            .contains(&(group.to_owned(), kind.to_owned()));
    let resource = format!("{plural}.{group}");
    let is_unreadable = snapshot.unreadable.iter().any(|u| u.resource == resource);
    (is_read && !is_unreadable).then(|| snapshot.of_kind(group, kind).collect())
}

/// Why the definition cannot become what it was `before`; `None` when it can.
pub(super) fn obstacle(live: &Object, before: &Value, snapshot: &Snapshot) -> Option<String> {
    let versions = |definition: &Value| {
        let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
        versions.cloned().unwrap_or_default()
    };
    let name = |version: &Value| {
        let name = version.get("name").and_then(Value::as_str);
        name.unwrap_or_default().to_owned()
    };
    let old = versions(before);
    let stored = live.get("/status/storedVersions").and_then(Value::as_array);
    for stored in stored.into_iter().flatten().filter_map(Value::as_str) {
        if !old.iter().any(|version| name(version) == stored) {
            return Some(format!(
                "objects are stored in version {stored}, which it did not have"
            ));
        }
    }
    let new = versions(live.as_value());
    let differing: Vec<_> = old
        .iter()
        .filter_map(|version| {
            let schema = |version: &Value| version.pointer("/schema/openAPIV3Schema").cloned();
            let now = new.iter().find(|other| name(other) == name(version));
            let (old, now) = (schema(version)?, now.and_then(schema).unwrap_or_default());
            (old != now).then(|| (name(version), old, now))
        })
        .collect();
    if differing.is_empty() {
        return None;
    }
    let Some(instances) = instances(live.as_value(), snapshot) else {
        return Some("it is not known which objects of it there are".to_owned());
    };
    for object in instances {
        // An object is read in one version; its others are the same fields where nothing converts them.
        for (_, old, now) in &differing {
            if let Some(problem) = problem("", old, now, object.as_value()) {
                return Some(format!(
                    "{} would no longer be valid: {problem}",
                    short(&object.key())
                ));
            }
        }
    }
    None
}

fn short(key: &ObjectKey) -> String {
    key.to_string()
}

/// What of a value, valid under the schema `now`, does not fit the `old` one.
fn problem(path: &str, old: &Value, now: &Value, value: &Value) -> Option<String> {
    if old == now {
        return None;
    }
    let empty = Map::new();
    let schema = old.as_object().unwrap_or(&empty);
    let at = if path.is_empty() { "it" } else { path };
    for name in ["allOf", "anyOf", "oneOf", "not"] {
        if schema.contains_key(name) && schema.get(name) != now.get(name) {
            return Some(format!("{at} has conditions that are not understood"));
        }
    }
    if value.is_null() {
        return None;
    }
    if !has_type(schema, value) {
        return Some(format!("{at} is of another type"));
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        return Some(format!("{at} has a value that was not allowed"));
    }
    match value {
        Value::Object(fields) => object_problem(path, schema, now, fields),
        Value::Array(items) => {
            if out_of_bounds(schema, "minItems", "maxItems", items.len()) {
                return Some(format!("{at} has too few or too many items"));
            }
            let (old, now) = (schema.get("items")?, now.get("items").unwrap_or(&Value::Null));
            items
                .iter()
                .enumerate()
                .find_map(|(index, item)| problem(&format!("{path}[{index}]"), old, now, item))
        }
        Value::String(text) => {
            if out_of_bounds(schema, "minLength", "maxLength", text.chars().count()) {
                return Some(format!("{at} is too short or too long"));
            }
            let pattern = schema.get("pattern").and_then(Value::as_str)?;
            let fits = Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text));
            (!fits).then(|| format!("{at} does not match the pattern {pattern}"))
        }
        Value::Number(number) => {
            let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
            let number = number.as_f64()?;
            let outside = limit("minimum").is_some_and(|min| number < min)
                || limit("maximum").is_some_and(|max| number > max);
            outside.then(|| format!("{at} is out of range"))
        }
        _ => None,
    }
}

fn has_type(schema: &Map<String, Value>, value: &Value) -> bool {
    let is = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    if is("x-kubernetes-int-or-string") {
        return value.is_string() || value.is_number();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_i64() || value.is_u64(),
        _ => true,
    }
}

fn out_of_bounds(schema: &Map<String, Value>, least: &str, most: &str, size: usize) -> bool {
    let limit = |name: &str| {
        let limit = schema.get(name).and_then(Value::as_u64);
        limit.and_then(|limit| usize::try_from(limit).ok())
    };
    limit(least).is_some_and(|least| size < least) || limit(most).is_some_and(|most| size > most)
}

fn object_problem(
    path: &str,
    schema: &Map<String, Value>,
    now: &Value,
    fields: &Map<String, Value>,
) -> Option<String> {
    let required = schema.get("required").and_then(Value::as_array);
    let missing = required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .find(|name| !fields.contains_key(*name));
    if let Some(missing) = missing {
        return Some(format!("{} is missing", diff::join(path, missing)));
    }
    let keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let declared = schema.get("properties");
    let others = schema
        .get("additionalProperties")
        .filter(|a| **a != Value::Bool(false));
    for (name, value) in fields {
        if path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
            continue;
        }
        let inner = diff::join(path, name);
        let now_of = |name: &str| now.pointer("/properties")?.get(name);
        let found = match declared.and_then(|d| d.get(name)) {
            Some(old) => problem(&inner, old, now_of(name).unwrap_or(&Value::Null), value),
            None => match others {
                Some(Value::Bool(_)) => None,
                Some(old) => problem(
                    &inner,
                    old,
                    now.get("additionalProperties").unwrap_or(&Value::Null),
                    value,
                ),
                // A schema that declares nothing says nothing about what is in there; the server prunes it all the same.
                None if keeps_unknown => None,
                None => Some(format!("{inner} would be lost")),
            },
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_definition(schema: &Value) -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "users.iam.kubesphere.io"},
            "spec": {"group": "iam.kubesphere.io", "names": {"kind": "User", "plural": "users"},
                "versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]},
            "status": {"storedVersions": ["v1"]}})
    }

    #[test]
    fn a_definition_goes_back_only_where_every_object_stays_valid_and_whole() {
        let check = |now: Value, before: Value, spec: Value, expect: Option<&str>| {
            let wrap = |spec: Value| json!({"type": "object", "properties": {"spec": spec}});
            let live = Object::try_from(mk_definition(&wrap(now))).unwrap();
            let user = json!({"apiVersion": "iam.kubesphere.io/v1", "kind": "User",
                "metadata": {"name": "u"}, "spec": spec});
            let snapshot = Snapshot::from_objects("v1.20.2", [Object::try_from(user).unwrap()]);
            let found = obstacle(&live, &mk_definition(&wrap(before)), &snapshot);
            let expect = expect.map(|words| format!("User u would no longer be valid: {words}"));
            assert_eq!(found, expect);
        };
        let text = |more: Value| {
            let mut schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
            schema["properties"]["a"]
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            schema
        };
        // Looser, and stricter in a way that matters or does not.
        check(
            text(json!({"minLength": 8})),
            text(json!({})),
            json!({"a": "x"}),
            None,
        );
        check(
            text(json!({})),
            text(json!({"minLength": 8})),
            json!({"a": "x"}),
            Some("spec.a is too short or too long"),
        );
        check(
            text(json!({})),
            text(json!({"pattern": "^[a-z]+$"})),
            json!({"a": "x"}),
            None,
        );
        check(
            text(json!({})),
            text(json!({"enum": ["y"]})),
            json!({"a": "x"}),
            Some("spec.a has a value that was not allowed"),
        );
        // A field that came with the new release.
        check(
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}),
            text(json!({})),
            json!({"a": "x", "b": "y"}),
            Some("spec.b would be lost"),
        );
        check(
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}),
            text(json!({})),
            json!({"a": "x"}),
            None,
        );
    }

    #[test]
    fn a_stored_version_stays() {
        let live = Object::try_from(mk_definition(&json!({}))).unwrap();
        let mut before = mk_definition(&json!({}));
        before["spec"]["versions"][0]["name"] = "v0".into();
        let found = obstacle(&live, &before, &Snapshot::default());
        assert_eq!(
            found.as_deref(),
            Some("objects are stored in version v1, which it did not have")
        );
    }
}
