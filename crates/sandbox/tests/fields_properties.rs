//! What holds for every object, patch and manager.

use proptest::prelude::*;
use sandbox::fields::{Schema, Set, check_types, defaults, field_set, managed, patch, validate};
use serde_json::{Map, Value, json};

const TIME: &str = "2020-01-01T00:00:00Z";

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "size": {"type": "integer"},
                    "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                    "list": {"type": "array", "items": {"type": "string"}},
                    "map": {"type": "object", "additionalProperties": {"type": "string"}},
                    "parts": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name"],
                        "items": {
                            "type": "object",
                            "properties": {"name": {"type": "string"}, "count": {"type": "integer"}}
                        }
                    }
                }
            }
        }
    })
}

/// The spec of an object that fits [`schema`]; items are there once.
fn arb_spec() -> impl Strategy<Value = Value> {
    let word = || prop::sample::select(vec!["a", "b", "c", "d"]);
    let size = prop::option::of(0..3);
    let set = prop::option::of(prop::collection::btree_set(word(), 1..4));
    let list = prop::option::of(prop::collection::vec(word(), 0..3));
    let map = prop::option::of(prop::collection::btree_map(word(), word(), 1..4));
    let parts = prop::option::of(prop::collection::btree_map(word(), prop::option::of(0..3), 1..4));
    (size, set, list, map, parts).prop_map(|(size, set, list, map, parts)| {
        let mut spec = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                spec.insert(key.to_owned(), value);
            }
        };
        put("size", size.map(Value::from));
        put("set", set.map(|set| json!(set)));
        put("list", list.map(|list| json!(list)));
        put("map", map.map(|map| json!(map)));
        let item = |(name, count): (&str, Option<i32>)| match count {
            Some(count) => json!({"name": name, "count": count}),
            None => json!({"name": name}),
        };
        put("parts", parts.map(|parts| parts.into_iter().map(item).collect()));
        // An object that sets nothing has no owner at all, on the real server too.
        if spec.is_empty() {
            spec.insert("size".into(), 1.into());
        }
        Value::Object(spec)
    })
}

fn thing(spec: &Value) -> Value {
    json!({"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": spec})
}

/// Any JSON, with the words that patches and objects are made of more often than others.
fn arb_json() -> impl Strategy<Value = Value> {
    let words = vec![
        "apiVersion",
        "kind",
        "metadata",
        "labels",
        "managedFields",
        "spec",
        "template",
        "containers",
        "name",
        "ports",
        "containerPort",
        "protocol",
        "env",
        "$patch",
        "delete",
        "replace",
        "merge",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "finalizers",
        "resources",
        "limits",
        "cpu",
        "volumes",
        "strategy",
        "fieldsV1",
        "f:spec",
        "k:{\"name\":1}",
        "FieldsV1",
        "op",
        "path",
        "value",
        "/spec/template/spec/containers/0",
        "add",
        "remove",
        "data",
        "type",
        "properties",
        "items",
    ];
    let word = prop::sample::select(words);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..5).prop_map(|fields| fields
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

fn apply(live: Option<&Value>, spec: &Value, manager: &str, schema: &Schema) -> Value {
    managed::apply(live, &thing(spec), manager, "", true, TIME, schema)
        .expect("a forced apply of a fitting object")
}

proptest! {
    #[test]
    fn a_set_survives_its_own_text(spec in arb_spec()) {
        let set = field_set(&Schema::from_crd(&schema()), &thing(&spec));
        prop_assert_eq!(Set::parse(&set.to_fields()).expect("its own text"), set);
    }

    #[test]
    fn sets_behave_as_sets(a in arb_spec(), b in arb_spec()) {
        let schema = Schema::from_crd(&schema());
        let (a, b) = (field_set(&schema, &thing(&a)), field_set(&schema, &thing(&b)));
        let union = a.union(&b);
        prop_assert_eq!(&union, &b.union(&a));
        prop_assert_eq!(union.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert!(a.difference(&union).is_empty());
        prop_assert_eq!(union.intersection(&a), a);
    }

    #[test]
    fn an_apply_is_idempotent(first in arb_spec(), second in arb_spec(), other in arb_spec()) {
        let schema = Schema::from_crd(&schema());
        let live = apply(None, &other, "other", &schema);
        let live = apply(Some(&live), &first, "one", &schema);
        let once = apply(Some(&live), &second, "one", &schema);
        let twice = apply(Some(&once), &second, "one", &schema);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn an_object_of_one_manager_is_what_it_applied_last(first in arb_spec(), second in arb_spec()) {
        let schema = Schema::from_crd(&schema());
        let live = apply(None, &first, "one", &schema);
        let live = apply(Some(&live), &second, "one", &schema);
        // What it emptied remains as null where the server leaves one.
        let mut live = live["spec"].clone();
        if let Some(fields) = live.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        let sorted = |mut value: Value| {
            for list in ["set", "parts"] {
                if let Some(items) = value.get_mut(list).and_then(Value::as_array_mut) {
                    items.sort_by_key(Value::to_string);
                }
            }
            value
        };
        prop_assert_eq!(sorted(live), sorted(second));
    }

    #[test]
    fn two_managers_of_different_fields_commute(a in arb_spec(), size in 0..3) {
        let schema = Schema::from_crd(&schema());
        // The other's field is out; what sets nothing besides sets a list, as nobody owns an object that sets nothing.
        let mut a = a;
        if let Some(fields) = a.as_object_mut() {
            fields.shift_remove("size");
            if fields.is_empty() {
                fields.insert("list".into(), json!(["a"]));
            }
        }
        let b = json!({"size": size});
        let one = apply(Some(&apply(None, &a, "one", &schema)), &b, "two", &schema);
        let two = apply(Some(&apply(None, &b, "two", &schema)), &a, "one", &schema);
        prop_assert_eq!(one, two);
    }

    #[test]
    fn whoever_changed_a_field_owns_it(a in arb_spec(), b in arb_spec()) {
        let schema = Schema::from_crd(&schema());
        let mut old = thing(&a);
        managed::update(None, &mut old, "one", TIME, &schema);
        let mut new = thing(&b);
        managed::update(Some(&old), &mut new, "two", TIME, &schema);
        let empty = Vec::new();
        let mut owned = Set::default();
        for entry in new["metadata"]["managedFields"].as_array().unwrap_or(&empty) {
            let set = Set::parse(&entry["fieldsV1"]).expect("a set");
            prop_assert!(set.intersection(&owned).is_empty(), "an update shares nothing");
            owned.extend(&set);
        }
        let leaves = field_set(&schema, &thing(&b)).leaves();
        let server = ["apiVersion", "kind", "metadata"];
        for path in leaves.difference(&owned).paths() {
            let text = sandbox::fields::display_path(&path);
            prop_assert!(server.iter().any(|name| text.starts_with(&format!(".{name}"))), "nobody owns {text}");
        }
    }

    #[test]
    fn a_merge_patch_and_its_inverse_cancel(a in arb_spec(), b in arb_spec()) {
        fn diff(from: &Value, to: &Value) -> Value {
            let (Some(from), Some(to)) = (from.as_object(), to.as_object()) else { return to.clone() };
            let mut patch = Map::new();
            for (key, value) in to {
                match from.get(key) {
                    Some(old) if old == value => {}
                    Some(old) => { patch.insert(key.clone(), diff(old, value)); }
                    None => { patch.insert(key.clone(), value.clone()); }
                }
            }
            for key in from.keys().filter(|key| !to.contains_key(*key)) {
                patch.insert(key.clone(), Value::Null);
            }
            Value::Object(patch)
        }
        let there = patch::merge(&a, &diff(&a, &b));
        prop_assert_eq!(&there, &b);
        prop_assert_eq!(patch::merge(&there, &diff(&b, &a)), a);
    }

    #[test]
    fn nothing_that_a_client_sends_panics(a in arb_json(), b in arb_json(), c in arb_json()) {
        for kind in ["Deployment", "Service", "Pod", "Job", "Secret", "CustomResourceDefinition", "RoleBinding"] {
            let api_version = match kind {
                "Deployment" => "apps/v1",
                "Job" => "batch/v1",
                "RoleBinding" => "rbac.authorization.k8s.io/v1",
                "CustomResourceDefinition" => "apiextensions.k8s.io/v1",
                _ => "v1",
            };
            let schema = Schema::builtin(api_version, kind, 20).expect("a kind of Kubernetes");
            let mk = |value: &Value| {
                json!({
                    "apiVersion": api_version, "kind": kind,
                    "metadata": {"labels": value.clone(), "managedFields": value.clone()},
                    "spec": value.clone(), "data": value.clone(), "stringData": value.clone(), "subjects": value.clone(),
                })
            };
            let mut live = mk(&a);
            let fits = check_types(&live, &schema).is_ok();
            defaults::apply_defaults(&mut live, 20);
            if fits {
                let once = live.clone();
                defaults::apply_defaults(&mut live, 20);
                prop_assert_eq!(&once, &live, "defaults are idempotent");
            }
            let mut new = patch::strategic(&live, &mk(&b), &schema).unwrap_or_else(|_| mk(&b));
            managed::update(Some(&live), &mut new, "x", TIME, &schema);
            let _ = managed::apply(Some(&live), &mk(&c), "y", "", true, TIME, &schema);
            let _ = managed::apply(Some(&live), &c, "y", "", true, TIME, &schema);
            managed::update(Some(&live), &mut c.clone(), "z", TIME, &schema);
            let _ = patch::strategic(&live, &b, &schema);
            let _ = patch::json(&live, &b);
            let _ = patch::merge(&live, &b);
            defaults::on_create(&mut new, 20);
        }
        let schema = Schema::from_crd(&a);
        let (mut object, mut other) = (thing(&b), thing(&c));
        managed::update(None, &mut object, "x", TIME, &schema);
        managed::update(Some(&object), &mut other, "y", TIME, &schema);
        let _ = managed::apply(Some(&object), &thing(&c), "y", "", true, TIME, &schema);
        validate::prune(&a, &mut object);
        validate::default(&a, &mut object);
        validate::check(&a, &object);
        let _ = Set::parse(&a);
        let mut arbitrary = a.clone();
        defaults::apply_defaults(&mut arbitrary, 20);
        defaults::on_create(&mut arbitrary, 20);
    }
}
