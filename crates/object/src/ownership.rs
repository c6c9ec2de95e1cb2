//! Field ownership (`metadata.managedFields`, FieldsV1). Source: KEP-555 (server-side apply).
//!
//! Before a server-side apply, the fields that the old tools set on behalf of the old release are handed over to
//! our field manager. Only so does a field that the new release no longer sets really disappear. What the old
//! release did not set (defaults, what people added through the same tools) stays with whom it belongs to.

use serde_json::{Map, Value};

use crate::Object;

/// Returns `metadata.managedFields` after the hand-over, or `None` when there is nothing to hand over.
///
/// `old` is what the old release set, `new` what will be applied. `from` names the old tools' managers (only their
/// `Update` entries count), `to` is the manager that applies from now on. What that one itself has patched counts as an
/// old tool's: a rollback puts fields of the old release back by patches.
pub fn hand_over(live: &Object, old: &Value, new: &Value, from: &[String], to: &str) -> Option<Value> {
    let entries = live.get("/metadata/managedFields")?.as_array()?;
    let mut handed = Map::new();
    let mut kept = Vec::new();
    let mut api_version = live.api_version().to_owned();
    for entry in entries {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let is_old = text("operation") == "Update"
            && (text("manager") == to || from.iter().any(|manager| manager == text("manager")))
            && text("subresource").is_empty();
        let fields = entry.get("fieldsV1").and_then(Value::as_object);
        let (true, Some(fields)) = (is_old, fields) else {
            kept.push(entry.clone());
            continue;
        };
        let (ours, rest) = split(fields, old, new);
        if ours.is_empty() {
            kept.push(entry.clone());
            continue;
        }
        text("apiVersion").clone_into(&mut api_version);
        union(&mut handed, &ours);
        if !rest.is_empty() {
            let mut entry = entry.clone();
            entry["fieldsV1"] = Value::Object(rest);
            kept.push(entry);
        }
    }
    if handed.is_empty() {
        return None;
    }
    let is_ours = |entry: &Value| {
        entry.get("manager").and_then(Value::as_str) == Some(to)
            && entry.get("operation").and_then(Value::as_str) == Some("Apply")
    };
    if let Some(entry) = kept.iter_mut().find(|e| is_ours(e)) {
        if let Some(fields) = entry.get_mut("fieldsV1").and_then(Value::as_object_mut) {
            union(fields, &handed);
        }
    } else {
        let time = entries
            .iter()
            .filter_map(|e| e.get("time")?.as_str())
            .max()
            .map(str::to_owned);
        let mut entry = Map::new();
        entry.insert("manager".into(), to.into());
        entry.insert("operation".into(), "Apply".into());
        entry.insert("apiVersion".into(), api_version.into());
        if let Some(time) = time {
            entry.insert("time".into(), time.into());
        }
        entry.insert("fieldsType".into(), "FieldsV1".into());
        entry.insert("fieldsV1".into(), Value::Object(handed));
        kept.insert(0, Value::Object(entry));
    }
    Some(Value::Array(kept))
}

/// What a manager applied last, told from its `Apply` entry: the fields that it owns, with their live values. Fields of `new`
/// that somebody else owns meanwhile are among it with the value of `new`: whoever took them changed them by hand. `None` where
/// the manager never applied the object.
pub fn applied(live: &Object, new: &Value, manager: &str) -> Option<Value> {
    let entries = live.get("/metadata/managedFields")?.as_array()?;
    let (mut fields, mut patched) = (Map::new(), Map::new());
    for entry in entries {
        let is = |name: &str, value: &str| entry.get(name).and_then(Value::as_str) == Some(value);
        if is("manager", manager)
            && let Some(owned) = entry.get("fieldsV1").and_then(Value::as_object)
        {
            let owns = if is("operation", "Apply") {
                &mut fields
            } else {
                &mut patched
            };
            union(owns, owned);
        }
    }
    if fields.is_empty() {
        return None;
    }
    let mut value = restrict(live.as_value(), &fields);
    complete(
        &mut value,
        live.as_value(),
        &restrict(live.as_value(), &patched),
        new,
    );
    Some(value)
}

/// Whether a manager owns anything of an object.
pub fn has_written(live: &Object, manager: &str) -> bool {
    let entries = live.get("/metadata/managedFields").and_then(Value::as_array);
    let mut entries = entries.into_iter().flatten();
    entries.any(|entry| entry.get("manager").and_then(Value::as_str) == Some(manager))
}

/// Whether nobody but a manager owns a field, and that by an apply. `path` is as in managedFields: `f:spec`, `f:replicas`.
pub fn is_sole(live: &Object, path: &[&str], manager: &str) -> bool {
    let entries = live.get("/metadata/managedFields").and_then(Value::as_array);
    let mut owners = entries.into_iter().flatten().filter(|entry| {
        let fields = entry.get("fieldsV1");
        fields.is_some_and(|fields| {
            path.iter()
                .try_fold(fields, |fields, name| fields.get(*name))
                .is_some()
        })
    });
    let is_it = |entry: &Value| {
        entry.get("manager").and_then(Value::as_str) == Some(manager)
            && entry.get("operation").and_then(Value::as_str) == Some("Apply")
    };
    owners.next().is_some_and(is_it) && owners.all(is_it)
}

/// The part of a value that a field set names.
fn restrict(value: &Value, fields: &Map<String, Value>) -> Value {
    match value {
        Value::Object(map) => {
            let named = fields.iter().filter_map(|(element, below)| {
                let name = element.strip_prefix("f:")?;
                Some((name.to_owned(), restrict_below(map.get(name)?, below)))
            });
            Value::Object(named.collect())
        }
        Value::Array(items) => {
            let named = fields.iter().filter_map(|(element, below)| {
                let item = find(value, element).filter(|_| element != ".")?;
                let mut kept = restrict_below(&item, below);
                // What tells the items apart belongs to each.
                if let Some(keys) = element.strip_prefix("k:")
                    && let Ok(Value::Object(keys)) = serde_json::from_str(keys)
                    && let Some(kept) = kept.as_object_mut()
                {
                    kept.extend(keys);
                }
                Some((items.iter().position(|other| *other == item), kept))
            });
            let mut named: Vec<_> = named.collect();
            named.sort_by_key(|(place, _)| *place);
            named.into_iter().map(|(_, item)| item).collect()
        }
        value => value.clone(),
    }
}

fn restrict_below(value: &Value, below: &Value) -> Value {
    match below.as_object() {
        Some(below) if below.keys().any(|element| element != ".") => restrict(value, below),
        // A field without any below it is owned as a whole, and so is what is empty.
        Some(below) if below.is_empty() => value.clone(),
        _ if value.is_object() => Value::Object(Map::new()),
        _ if value.is_array() => Value::Array(Vec::new()),
        _ => value.clone(),
    }
}

/// Adds fields of `new` that are there and that the manager did not apply: as they are where it patched them (a rollback puts
/// fields back so), as `new` has them where somebody else took them.
fn complete(value: &mut Value, live: &Value, patched: &Value, new: &Value) {
    let (Some(value), Some(live), Some(new)) = (value.as_object_mut(), live.as_object(), new.as_object())
    else {
        return;
    };
    for (name, wanted) in new {
        let Some(has) = live.get(name) else { continue };
        if let Some(below) = value.get_mut(name) {
            complete(below, has, patched.get(name).unwrap_or(&Value::Null), wanted);
        } else {
            let before = patched.get(name).unwrap_or(wanted);
            value.insert(name.clone(), before.clone());
        }
    }
}

/// Splits a field set into the part that `old` sets and the rest.
fn split(fields: &Map<String, Value>, old: &Value, new: &Value) -> (Map<String, Value>, Map<String, Value>) {
    let (mut ours, mut rest) = (Map::new(), Map::new());
    for (name, below) in fields {
        let Some(inner) = find(old, name) else {
            rest.insert(name.clone(), below.clone());
            continue;
        };
        let next = find(new, name);
        if name.starts_with("k:") && next.is_none() {
            // The item goes: whoever kept its defaults would keep the item.
            ours.insert(name.clone(), below.clone());
            continue;
        }
        let below = below.as_object().filter(|b| !b.is_empty());
        match below {
            // "." is the existence of the map or item itself: it belongs to whoever keeps a part of it.
            None => {
                ours.insert(name.clone(), Value::Object(Map::new()));
            }
            Some(below) => {
                let (a, b) = split(below, &inner, &next.unwrap_or_default());
                if a.keys().any(|k| k != ".") {
                    ours.insert(name.clone(), Value::Object(a));
                }
                if b.keys().any(|k| k != ".") {
                    let mut b = b;
                    if below.contains_key(".") {
                        b.insert(".".into(), Value::Object(Map::new()));
                    }
                    rest.insert(name.clone(), Value::Object(b));
                } else if !ours.contains_key(name) {
                    ours.insert(name.clone(), Value::Object(below.clone()));
                }
            }
        }
    }
    (ours, rest)
}

/// What a FieldsV1 path element refers to in a value.
fn find(value: &Value, element: &str) -> Option<Value> {
    if element == "." {
        return Some(Value::Null);
    }
    match element.split_at_checked(2)? {
        ("f:", name) => value.get(name).filter(|v| !v.is_null()).cloned(),
        ("k:", keys) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
            // A key that the manifest leaves to its default (protocol: TCP) matches any.
            let matches = |item: &&Value| {
                keys.iter()
                    .all(|(name, want)| item.get(name).is_none_or(|have| have == want))
                    && keys.keys().any(|name| item.get(name).is_some())
            };
            value.as_array()?.iter().find(matches).cloned()
        }
        ("v:", item) => {
            let item: Value = serde_json::from_str(item).ok()?;
            value.as_array()?.contains(&item).then_some(item)
        }
        _ => None,
    }
}

/// Adds the fields of `more` to `fields`.
pub fn union(fields: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (name, below) in more {
        match (
            fields.get_mut(name).and_then(Value::as_object_mut),
            below.as_object(),
        ) {
            (Some(have), Some(below)) => {
                // A field without any below it is owned itself; with some below it that has to be said.
                if have.is_empty() != below.is_empty() {
                    have.insert(".".into(), Value::Object(Map::new()));
                }
                union(have, below);
            }
            _ => {
                fields.insert(name.clone(), below.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_is_ones_own_when_nobody_else_has_it() {
        let check = |managers: &[(&str, &str)], expect: bool| {
            let entries: Vec<Value> = managers
                .iter()
                .map(|(manager, operation)| {
                    json!({"manager": manager, "operation": operation, "fieldsV1": {"f:spec": {"f:a": {}}}})
                })
                .collect();
            let live = json!({"apiVersion": "a.b/v1", "kind": "Thing", "metadata": {"name": "a", "managedFields": entries}});
            let live = Object::try_from(live).unwrap();
            assert_eq!(is_sole(&live, &["f:spec", "f:a"], "me"), expect, "{managers:?}");
            assert!(!is_sole(&live, &["f:spec", "f:b"], "me"));
        };
        check(&[("me", "Apply")], true);
        check(&[("me", "Update")], false);
        check(&[("me", "Apply"), ("kubectl", "Update")], false);
        check(&[], false);
    }

    #[test]
    fn what_was_applied_is_told_from_what_is_owned() {
        let live = Object::try_from(
            json!({"apiVersion":"a.b/v1","kind":"Thing","metadata":{"name":"a","managedFields":[
            {"manager":"ks-installer","operation":"Apply","fieldsV1":{"f:spec":{
                "f:size":{}, "f:tolerations":{}, "f:map":{".":{},"f:x":{}},
                "f:ports":{"k:{\"port\":1}":{".":{},"f:port":{},"f:name":{}}}}}},
            {"manager":"kubectl-edit","operation":"Update","fieldsV1":{"f:spec":{"f:replicas":{}}}}]},
            "spec":{"size":"1","tolerations":[{"key":"a"}],"replicas":5,"map":{"x":1,"y":2},"other":true,
                "ports":[{"port":2,"name":"b"},{"port":1,"name":"a","protocol":"TCP"}]}}),
        )
        .unwrap();
        let new = json!({"apiVersion":"a.b/v1","kind":"Thing","metadata":{"name":"a"},"spec":{"size":"2","replicas":1,"missing":1}});
        assert_eq!(
            applied(&live, &new, "ks-installer"),
            Some(
                json!({"spec":{"size":"1","tolerations":[{"key":"a"}],"map":{"x":1},"replicas":1,
                "ports":[{"port":1,"name":"a"}]},
                "apiVersion":"a.b/v1","kind":"Thing","metadata":{"name":"a"}})
            )
        );
        assert_eq!(applied(&live, &new, "helm"), None);
    }

    #[test]
    fn only_what_the_old_release_set_is_handed_over() {
        let live = Object::try_from(json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a",
            "managedFields":[
                {"manager":"helm","operation":"Update","apiVersion":"apps/v1","time":"2022-01-01T00:00:00Z","fieldsType":"FieldsV1",
                 "fieldsV1":{"f:spec":{"f:replicas":{},"f:paused":{},"f:template":{"f:spec":{"f:containers":{
                    "k:{\"name\":\"a\"}":{".":{},"f:image":{},"f:terminationMessagePath":{}}}}}}}},
                {"manager":"kubectl-edit","operation":"Update","apiVersion":"apps/v1","fieldsV1":{"f:spec":{"f:replicas":{}}}}]}}))
        .unwrap();
        let old =
            json!({"spec":{"replicas":1,"template":{"spec":{"containers":[{"name":"a","image":"i"}]}}}});
        let fields = hand_over(&live, &old, &old, &["helm".into()], "ks-installer").unwrap();
        let entry = |manager: &str| {
            fields
                .as_array()
                .unwrap()
                .iter()
                .find(|e| e["manager"] == manager)
                .unwrap()["fieldsV1"]
                .clone()
        };
        assert_eq!(
            entry("ks-installer"),
            json!({"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":{
                "k:{\"name\":\"a\"}":{".":{},"f:image":{}}}}}}})
        );
        assert_eq!(
            entry("helm"),
            json!({"f:spec":{"f:paused":{},"f:template":{"f:spec":{"f:containers":{
                "k:{\"name\":\"a\"}":{".":{},"f:terminationMessagePath":{}}}}}}})
        );
        assert_eq!(entry("kubectl-edit"), json!({"f:spec":{"f:replicas":{}}}));
    }

    #[test]
    fn an_item_that_goes_is_handed_over_whole() {
        let live = Object::try_from(json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"a","managedFields":[
            {"manager":"helm","operation":"Update","apiVersion":"v1","fieldsV1":{"f:spec":{"f:ports":{
                "k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{},"f:protocol":{},"f:targetPort":{}}}}}}]}}))
        .unwrap();
        let old = json!({"spec":{"ports":[{"port":80,"targetPort":8080}]}});
        let new = json!({"spec":{"ports":[{"port":81,"targetPort":8080}]}});
        let fields = hand_over(&live, &old, &new, &["helm".into()], "ks-installer").unwrap();
        assert_eq!(
            fields.as_array().unwrap().len(),
            1,
            "helm keeps nothing: {fields}"
        );
    }

    #[test]
    fn what_a_rollback_put_back_can_be_dropped_again() {
        let live = Object::try_from(json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","managedFields":[
            {"manager":"ks-installer","operation":"Update","apiVersion":"v1","fieldsV1":{"f:data":{"f:x":{}}}}]}}))
        .unwrap();
        let fields = hand_over(&live, &json!({"data":{"x":"1"}}), &json!({}), &[], "ks-installer").unwrap();
        assert_eq!(fields.as_array().unwrap().len(), 1, "{fields}");
        assert_eq!(fields[0]["operation"], "Apply");
    }

    #[test]
    fn nothing_to_hand_over_is_none() {
        let live = Object::try_from(json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a",
            "managedFields":[{"manager":"kubectl-edit","operation":"Update","fieldsV1":{"f:data":{"f:x":{}}}}]}}))
        .unwrap();
        let old = json!({"data":{"x":"1"}});
        assert_eq!(
            hand_over(&live, &old, &old, &["helm".into()], "ks-installer"),
            None
        );
    }
}
