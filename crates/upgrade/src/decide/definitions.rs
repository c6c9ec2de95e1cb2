//! CustomResourceDefinitions that are there already: others may use them, and objects are stored in their versions.
//!
//! One of others is theirs where it knows fields or versions that the release's does not: the API server would take such fields
//! from everybody's objects. It stays where it serves what the component uses.

use std::collections::BTreeSet;

use object::{Object, diff, ownership};
use release::Release;
use serde_json::Value;

use super::MANAGER;

/// The definition to apply to the one that is there.
pub(super) struct Fitted {
    pub object: Object,
    /// Where the one that is there stays: what of it the release's does not know, as paths below a version.
    pub knows_more: Vec<String>,
    /// Fields that the component's own objects have and that the one that stays does not know.
    pub misses: BTreeSet<String>,
}

/// The definition to apply to the one that is there. `own` are the objects of the kind that the release makes.
///
/// A definition of others that knows more stays. Otherwise it is `new`, with the versions of the live one in which objects are
/// stored and which it lacks: without them such objects could not be read any more. Source: "Upgrade existing objects to a new
/// stored version" in Kubernetes' documentation of CustomResourceDefinition versions.
pub(super) fn fit(live: &Object, new: &Object, release: &Release, own: &[Object]) -> Fitted {
    let knows_more = if is_of_others(live, new) {
        knows_more(live, new, release.dropped(new.name()))
    } else {
        Vec::new()
    };
    let needed = needed(new, own);
    let serves = |name: &&str| versions(live).any(|has| is_named(has, name) && is_true(has, "served"));
    if !knows_more.is_empty() && needed.iter().all(serves) {
        return Fitted {
            object: keeping(live, new),
            knows_more,
            misses: misses(live, own),
        };
    }
    Fitted {
        object: with_stored(live, new),
        knows_more: Vec::new(),
        misses: BTreeSet::new(),
    }
}

/// Whether somebody else may have made a definition that is there.
fn is_of_others(live: &Object, new: &Object) -> bool {
    let same_names = [
        "/spec/group",
        "/spec/scope",
        "/spec/names/kind",
        "/spec/names/plural",
    ]
    .iter()
    .all(|pointer| live.get(pointer) == new.get(pointer));
    let is_own_group = new.get_str("/spec/group").is_some_and(release::is_own_group);
    same_names && !is_own_group && !ownership::is_sole(live, &["f:spec", "f:versions"], MANAGER)
}

/// The versions in which the component uses the kind: those of its objects, else the one in which objects are stored.
fn needed<'a>(new: &'a Object, own: &'a [Object]) -> BTreeSet<&'a str> {
    let used = own.iter().map(Object::api_version);
    let used = used.map(|api| api.split_once('/').map_or(api, |(_, version)| version));
    let used: BTreeSet<&str> = used
        .filter(|name| versions(new).any(|has| is_named(has, name)))
        .collect();
    if !used.is_empty() {
        return used;
    }
    versions(new)
        .filter(|version| is_true(version, "storage"))
        .filter_map(|version| version.get("name")?.as_str())
        .collect()
}

/// What a definition knows and another does not, but for what is `dropped`: versions, and fields of those that both have.
fn knows_more(live: &Object, new: &Object, dropped: &[String]) -> Vec<String> {
    let mut more = Vec::new();
    for has in versions(live) {
        let Some(name) = has.get("name").and_then(Value::as_str) else {
            continue;
        };
        match versions(new).find(|version| is_named(version, name)) {
            Some(version) => extra("", schema(has), schema(version), &mut more),
            None if is_true(has, "served") => more.push(format!("version {name}")),
            None => {}
        }
    }
    more.retain(|path| !dropped.contains(path));
    more.sort();
    more.dedup();
    more
}

/// Fields of objects that the versions of a definition in which they are do not know.
fn misses(live: &Object, own: &[Object]) -> BTreeSet<String> {
    let mut missed = BTreeSet::new();
    if live.get("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
        return missed;
    }
    for object in own {
        let version = object.api_version().rsplit('/').next().unwrap_or_default();
        if let Some(has) = versions(live).find(|has| is_named(has, version)) {
            unknown("", object.as_value(), schema(has), &mut missed);
        }
    }
    missed
}

/// What is there, as the release would apply it.
fn keeping(live: &Object, new: &Object) -> Object {
    let mut stays = new.as_value().clone();
    stays["spec"] = live.get("/spec").cloned().unwrap_or_default();
    if let Some(annotations) = live.get("/metadata/annotations") {
        stays["metadata"]["annotations"] = annotations.clone();
    }
    Object::try_from(stays).unwrap_or_else(|_| new.clone())
}

fn with_stored(live: &Object, new: &Object) -> Object {
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

fn is_named(version: &Value, name: &str) -> bool {
    version.get("name").and_then(Value::as_str) == Some(name)
}

const OPEN: &str = "x-kubernetes-preserve-unknown-fields";

/// The schemas below a schema that are no properties, and how a path goes on there.
const BELOW: [(&str, &str); 2] = [("items", "[]"), ("additionalProperties", "{}")];

/// Adds the paths of fields that a schema knows and `other` does not; where it takes any, `.*`.
fn extra(path: &str, schema: &Value, other: &Value, found: &mut Vec<String>) {
    if is_true(other, OPEN) || schema == other {
        return;
    }
    if is_true(schema, OPEN) {
        found.push(diff::join(path, "*"));
    }
    for (name, property) in properties(schema) {
        let path = diff::join(path, name);
        match other.pointer("/properties").and_then(|known| known.get(name)) {
            Some(known) => extra(&path, property, known, found),
            None => found.push(path),
        }
    }
    for (field, sign) in BELOW {
        if let (Some(below), Some(other)) = (schema.get(field), other.get(field)) {
            extra(&format!("{path}{sign}"), below, other, found);
        }
    }
}

/// Adds the paths of an object's fields that a schema does not know.
fn unknown(path: &str, value: &Value, schema: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            let any = schema.get("additionalProperties");
            for (name, value) in map {
                // What every object has.
                if path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
                    continue;
                }
                let path = diff::join(path, name);
                match schema
                    .pointer("/properties")
                    .and_then(|known| known.get(name))
                    .or(any)
                {
                    Some(known) => unknown(&path, value, known, found),
                    None if is_true(schema, OPEN) => {}
                    None => drop(found.insert(path)),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if let Some(known) = schema.get("items") {
                    unknown(&format!("{path}[]"), item, known, found);
                }
            }
        }
        _ => {}
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten()
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

    fn latest() -> Release {
        let releases = release::Releases::embedded().unwrap();
        releases.latest().unwrap().clone()
    }

    #[test]
    fn a_definition_of_others_that_knows_more_stays() {
        let small = || version("v1", json!({"a": {"type": "string"}}));
        let large = || {
            version(
                "v1",
                json!({"a": {"type": "string"}, "b": {"type": "object", "properties": {"c": {}}}}),
            )
        };
        let other = || {
            version(
                "v1",
                json!({"a": {"type": "string"}, "b": {"items": {"properties": {"d": {}}}}}),
            )
        };
        let open = || version("v1", json!({"a": {"type": "string"}, "b": {OPEN: true}}));
        let release = latest();
        let check = |group: &str, live: Value, new: Value, knows_more: &[&str]| {
            let live = mk(group, live, json!(["v1"]));
            let fitted = fit(&live, &mk(group, new, Value::Null), &release, &[]);
            assert_eq!(fitted.knows_more, knows_more);
            assert_eq!(
                fitted.object.get("/spec/versions") == live.get("/spec/versions"),
                !knows_more.is_empty()
            );
        };
        check("example.org", json!([large()]), json!([small()]), &["b"]);
        check("example.org", json!([small()]), json!([large()]), &[]);
        check("example.org", json!([open()]), json!([large()]), &["b.*"]);
        check("iam.kubesphere.io", json!([large()]), json!([small()]), &[]);
        // Each has what the other lacks.
        let poorer = version(
            "v1",
            json!({"a": {}, "b": {"items": {"properties": {}}}, "e": {}}),
        );
        check("example.org", json!([other()]), json!([poorer]), &["b[].d"]);
        // A version that nobody asks for is served no more, another is new.
        let with = |version: Value, name: &str, served: bool| {
            let mut another = version.clone();
            (another["name"], another["served"], another["storage"]) =
                (name.into(), served.into(), false.into());
            json!([version, another])
        };
        check(
            "example.org",
            with(large(), "v1beta1", false),
            with(small(), "v1beta1", true),
            &["b"],
        );
        check(
            "example.org",
            with(small(), "v2", true),
            json!([small()]),
            &["version v2"],
        );
        // The version that is needed is not served.
        let mut off = large();
        off["served"] = false.into();
        check("example.org", json!([off]), json!([small()]), &[]);
    }

    #[test]
    fn what_the_components_objects_use_counts() {
        let object = |api: &str, spec: Value| {
            Object::try_from(
                json!({"apiVersion": api, "kind": "Thing", "metadata": {"name": "a"}, "spec": spec}),
            )
            .unwrap()
        };
        let schema = |spec: Value| json!({"spec": {"properties": spec}});
        let release = latest();
        let mut beta = version("v1beta1", schema(json!({"a": {}, "mine": {}})));
        beta["storage"] = false.into();
        let live = mk("example.org", json!([beta]), json!(["v1beta1"]));
        let new = mk(
            "example.org",
            json!([
                version("v1", json!({})),
                version("v1beta1", schema(json!({"a": {}, "b": {}})))
            ]),
            Value::Null,
        );
        let own = [object("example.org/v1beta1", json!({"a": 1, "b": 2}))];
        let fitted = fit(&live, &new, &release, &own);
        assert_eq!(fitted.knows_more, ["spec.mine"]);
        assert_eq!(fitted.misses.into_iter().collect::<Vec<_>>(), ["spec.b"]);
        let own = [object("example.org/v1", json!({}))];
        assert!(fit(&live, &new, &release, &own).knows_more.is_empty());
    }

    #[test]
    fn what_an_earlier_release_had_is_nobody_elses() {
        let release = latest();
        let fields = |name: &str| {
            let receivers = json!({"receivers": {"items": {"properties": {name: {}}}}});
            version("v1alpha1", json!({"spec": {"properties": receivers}}))
        };
        let mk = |versions: Value| {
            let mut definition = mk("monitoring.coreos.com", versions, json!([])).into_value();
            definition["metadata"]["name"] = "alertmanagerconfigs.monitoring.coreos.com".into();
            Object::try_from(definition).unwrap()
        };
        let new = mk(json!([fields("pagerdutyConfigs")]));
        let check = |name: &str, knows_more: &[&str]| {
            let fitted = fit(&mk(json!([fields(name)])), &new, &release, &[]);
            assert_eq!(fitted.knows_more, knows_more);
        };
        check("pagerDutyConfigs", &[]);
        check("pigeonConfigs", &["spec.receivers[].pigeonConfigs"]);
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
        let fitted = fit(&live, &new, &latest(), &[]).object;
        let names: Vec<_> = versions(&fitted)
            .map(|v| (v["name"].clone(), v["storage"].clone()))
            .collect();
        assert_eq!(
            names,
            [(json!("v1"), json!(true)), (json!("v1alpha1"), json!(false))]
        );
    }
}
