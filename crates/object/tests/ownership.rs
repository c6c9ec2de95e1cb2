//! What the hand-over of fields must keep, whatever objects and owners there are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ownership::hand_over};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const OURS: &str = "ks-installer";
const OLD: [&str; 2] = ["helm", "kubectl-client-side-apply"];
const OTHERS: [&str; 2] = ["kubectl-edit", "kube-controller-manager"];

/// A value of maps and texts, and of a list whose items have names.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(json!(1)), Just(json!("x")), Just(json!([1, 2]))];
    leaf.prop_recursive(3, 20, 4, |inner| {
        let name = prop_oneof![Just("a"), Just("b"), Just("c")];
        let map = prop::collection::btree_map(name.clone(), inner.clone(), 1..4);
        let items = prop::collection::btree_map(name, inner, 1..3);
        prop_oneof![
            map.prop_map(|map| json!(map)),
            items.prop_map(|items| {
                items
                    .into_iter()
                    .map(|(name, value)| json!({"name": name, "v": value}))
                    .collect()
            }),
        ]
    })
}

fn spec() -> impl Strategy<Value = Value> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("d")];
    prop::collection::btree_map(name, value(), 0..4).prop_map(|map| json!({ "spec": map }))
}

/// Every leaf of a value, as FieldsV1 names it.
fn fields_of(value: &Value) -> Map<String, Value> {
    let mut fields = Map::new();
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                fields.insert(format!("f:{name}"), fields_of(value).into());
            }
        }
        Value::Array(items) if items.iter().all(|item| item.get("name").is_some()) => {
            for item in items {
                let mut below = fields_of(item);
                below.insert(".".into(), json!({}));
                let key = json!({"name": item["name"]});
                fields.insert(format!("k:{key}"), below.into());
            }
        }
        _ => {}
    }
    fields
}

/// The paths that a field set owns. That a map or an item is there (a field without any below it, or "." beside some)
/// is the path of the map or item.
fn leaves(fields: &Value) -> BTreeSet<String> {
    fn walk(path: &str, fields: &Value, found: &mut BTreeSet<String>) {
        let map = fields.as_object().unwrap();
        if map.is_empty() {
            found.insert(path.to_owned());
        }
        for (name, below) in map {
            if name == "." {
                found.insert(path.to_owned());
                continue;
            }
            walk(&format!("{path}/{name}"), below, found);
        }
    }
    let mut found = BTreeSet::new();
    if fields.as_object().is_some_and(|map| !map.is_empty()) {
        walk("", fields, &mut found);
    }
    found
}

/// Who owns what, by manager and operation.
fn owners(managed: &Value) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut owners: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for entry in managed.as_array().unwrap() {
        let text = |name: &str| entry[name].as_str().unwrap().to_owned();
        owners
            .entry((text("manager"), text("operation")))
            .or_default()
            .extend(leaves(&entry["fieldsV1"]));
    }
    owners
}

#[derive(Debug)]
struct Case {
    live: Object,
    old: Value,
    new: Value,
}

fn case() -> impl Strategy<Value = Case> {
    let owned = prop::collection::vec(spec(), 4);
    (owned, prop::option::of(spec()), spec(), spec()).prop_map(|(owned, applied, old, new)| {
        let mut entries: Vec<Value> = OLD
            .iter()
            .chain(&OTHERS)
            .zip(&owned)
            .map(|(manager, owned)| json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "time": "2022-01-01T00:00:00Z", "fieldsV1": fields_of(owned)}))
            .collect();
        if let Some(applied) = applied {
            entries.push(json!({"manager": OURS, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": fields_of(&applied)}));
        }
        let live = json!({"apiVersion": "v1", "kind": "A", "metadata": {"name": "a", "managedFields": entries}});
        Case { live: Object::try_from(live).unwrap(), old, new }
    })
}

fn after(case: &Case) -> Value {
    let from = OLD.map(str::to_owned);
    hand_over(&case.live, &case.old, &case.new, &from, OURS)
        .unwrap_or_else(|| case.live.get("/metadata/managedFields").unwrap().clone())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing is lost: whatever had an owner has one. Nothing is invented: what we get, an old tool had.
    #[test]
    fn fields_are_moved_not_made(case in case()) {
        let before = owners(case.live.get("/metadata/managedFields").unwrap());
        let after = owners(&after(&case));
        let all = |owners: &BTreeMap<_, BTreeSet<String>>| owners.values().flatten().cloned().collect::<BTreeSet<_>>();
        let now = all(&after);
        // That a map or an item is there belongs to whoever has a part of it.
        let is_held = |path: &String| now.iter().any(|held| held == path || held.starts_with(&format!("{path}/")));
        let lost: Vec<_> = all(&before).into_iter().filter(|path| !is_held(path)).collect();
        prop_assert!(lost.is_empty(), "lost: {lost:?}");
        let made: Vec<_> = all(&after).difference(&all(&before)).cloned().collect();
        prop_assert!(made.is_empty(), "made: {made:?}");
    }

    /// Whoever is not an old tool keeps exactly what they had.
    #[test]
    fn nothing_of_others_changes_hands(case in case()) {
        let before = owners(case.live.get("/metadata/managedFields").unwrap());
        let after = owners(&after(&case));
        for manager in OTHERS {
            let key = (manager.to_owned(), "Update".to_owned());
            prop_assert_eq!(before.get(&key), after.get(&key));
        }
    }

    /// What moves to us is what the old release set, or stands in a list's item that goes with it. What the old release
    /// set is no longer an old tool's.
    #[test]
    fn what_the_old_release_set_moves_and_nothing_else(case in case()) {
        let before = owners(case.live.get("/metadata/managedFields").unwrap());
        let after = owners(&after(&case));
        let of = |owners: &BTreeMap<(String, String), BTreeSet<String>>, manager: &str, operation: &str| {
            owners.get(&(manager.to_owned(), operation.to_owned())).cloned().unwrap_or_default()
        };
        let released = leaves(&fields_of(&case.old).into());
        let is_released = |path: &str| {
            released.iter().any(|r| r == path || r.starts_with(&format!("{path}/")) || path.starts_with(&format!("{r}/")))
        };
        let ours_before = of(&before, OURS, "Apply");
        for path in of(&after, OURS, "Apply").difference(&ours_before) {
            let in_item = path.contains("/k:");
            prop_assert!(is_released(path) || in_item, "{path} was not the old release's");
        }
        for manager in OLD {
            let left = of(&after, manager, "Update");
            for path in &left {
                // An item or map of which something else stays with the old tool stays there, too.
                let is_kept = left.iter().any(|other| other.starts_with(&format!("{path}/")));
                prop_assert!(is_kept || !released.contains(path), "{path} is still {manager}'s");
            }
        }
    }

    /// Handing over twice is handing over once.
    #[test]
    fn a_second_hand_over_changes_nothing(case in case()) {
        let once = after(&case);
        let mut live = case.live.clone();
        live.as_map_mut()["metadata"]["managedFields"] = once.clone();
        let twice = after(&Case { live, ..case });
        prop_assert_eq!(owners(&once), owners(&twice));
    }
}
