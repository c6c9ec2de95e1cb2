//! The three-way comparison of an upgrade: what the old release set, what is there now, what the new release
//! sets. It tells what the upgrade changes, and what people or controllers changed by hand since.
//!
//! Source of the idea: Helm 3's three-way strategic merge, and kubectl's declarative management ("Merge key").

use std::borrow::Cow;

use serde_json::{Map, Value};

pub use crate::drift::{Drift, DriftPolicy};
use crate::{
    Object, diff,
    drift::{self, Rule, Verdict},
    quantity,
};
use diff::Change;

/// The outcome of [`three_way`].
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// What to send in a server-side apply: the new release's fields, with drift that is kept put in. Null where nothing changes.
    pub applied: Value,
    /// What the apply changes; empty when the object already equals the result.
    pub changes: Vec<Change>,
    pub drift: Vec<Drift>,
}

/// Compares `old` (what the old release set, when that is known), `live` and `new` (what the new release sets). The rule
/// says what becomes of drift; a [`DriftPolicy`] is one.
pub fn three_way(old: Option<&Value>, live: &Object, new: &Object, rule: impl Into<Rule>) -> Merged {
    let mut new = Cow::Borrowed(new.as_value());
    if live.kind() == "CustomResourceDefinition" {
        keep_descriptions(live.as_value(), new.to_mut());
    }
    let builtin = !live.group().contains('.') || live.group().ends_with(".k8s.io");
    let mut context = Context {
        rule: rule.into(),
        builtin,
        copies: false,
        changes: Vec::new(),
        drift: Vec::new(),
    };
    context.map("", old, live.as_value(), &new);
    let mut merged = Merged {
        applied: Value::Null,
        changes: std::mem::take(&mut context.changes),
        drift: std::mem::take(&mut context.drift),
    };
    // Mostly nothing changes, and then nobody needs the copy.
    if !merged.changes.is_empty() {
        context.copies = true;
        merged.applied = context.map("", old, live.as_value(), &new);
    }
    merged
}

/// Descriptions in a live CRD's schemas that the new one lacks are kept: they are what `kubectl explain` shows,
/// and nothing depends on them.
fn keep_descriptions(live: &Value, new: &mut Value) {
    match (live, new) {
        (Value::Object(live), Value::Object(new)) => {
            for (name, value) in new.iter_mut() {
                if let Some(live) = live.get(name) {
                    keep_descriptions(live, value);
                }
            }
            // A property may itself be called "description": then it is a schema, not a text.
            let is_schema = new.contains_key("type")
                || new.contains_key("properties")
                || new.contains_key("x-kubernetes-int-or-string")
                || new.contains_key("x-kubernetes-preserve-unknown-fields");
            if let Some(text @ Value::String(_)) = live.get("description")
                && is_schema
                && !new.contains_key("description")
            {
                new.insert("description".into(), text.clone());
            }
        }
        (Value::Array(live), Value::Array(new)) => {
            for (index, value) in new.iter_mut().enumerate() {
                let same = match value.get("name") {
                    Some(name) => live.iter().find(|l| l.get("name") == Some(name)),
                    None => live.get(index),
                };
                if let Some(same) = same {
                    keep_descriptions(same, value);
                }
            }
        }
        _ => {}
    }
}

/// The fields by which the items of a list are told apart (strategic merge keys of the built-in types), or `None`
/// for a list that is one value.
pub fn list_keys(field: &str, item: &Value) -> Option<&'static [&'static str]> {
    // A PodSecurityPolicy's volumes are names.
    if !item.is_object() {
        return None;
    }
    Some(match field {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" | "secrets" | "webhooks" => {
            &["name"]
        }
        "volumeMounts" => &["mountPath"],
        "ports" if item.get("containerPort").is_some() => &["containerPort", "protocol"],
        "ports" => &["port", "protocol"],
        "hostAliases" => &["ip"],
        _ => return None,
    })
}

/// Whether two items of a list are the same item by these keys.
pub fn same_item(keys: &[&str], a: &Value, b: &Value) -> bool {
    let key = |item: &Value, name: &str| match (item.get(name), name) {
        (None, "protocol") => Value::from("TCP"),
        (value, _) => value.cloned().unwrap_or(Value::Null),
    };
    keys.iter().all(|name| key(a, name) == key(b, name))
}

/// Whether a field says nothing: absent, null, or an empty list.
pub fn is_absent(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        _ => false,
    }
}

/// Whether a field says no more than its absence: nothing, or what the API server fills in where a list is one value.
fn is_default(path: &str, name: &str, value: &Value) -> bool {
    // The scope of a webhook's rule.
    is_absent(Some(value)) || (name == "scope" && value == "*" && path.ends_with("rules"))
}

/// Whether two values mean the same to the API server and to who reads them: quantities by value, embedded
/// documents by content, an empty list like no list.
pub fn same(path: &str, a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let covers = |x: &Map<String, Value>, y: &Map<String, Value>| {
                x.iter().all(|(name, value)| match y.get(name) {
                    Some(other) => same(&diff::join(path, name), value, other),
                    None => is_default(path, name, value),
                })
            };
            covers(x, y)
                && y.iter()
                    .all(|(name, value)| x.contains_key(name) || is_default(path, name, value))
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(path, a, b))
        }
        (Value::String(x), Value::String(y)) if x == y => true,
        (Value::String(x), Value::String(y)) if path.starts_with("data") => {
            matches!((diff::document(x), diff::document(y)), (Some(x), Some(y)) if x == y)
        }
        _ if a == b => true,
        _ if path.contains("resources.") || path.contains(".capacity") => quantity::equal(a, b),
        _ => is_absent(Some(a)) && is_absent(Some(b)),
    }
}

/// `spec.template.spec.containers[name=ks-apiserver]`
fn item_path(path: &str, keys: &[&str], item: &Value) -> String {
    let value = item.get(keys[0]).cloned().unwrap_or_default();
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("{path}[{}={value}]", keys[0])
}

/// `live` with what is applied put in, and what the old release set and nobody sets any more taken out.
fn overlay(live: &Value, old: Option<&Value>, applied: &Value) -> Value {
    let (Some(live), Some(applied)) = (live.as_object(), applied.as_object()) else {
        return applied.clone();
    };
    let old_value = |name: &str| old.and_then(|o| o.get(name));
    let mut merged = Map::new();
    for (name, value) in live {
        match applied.get(name) {
            Some(applied) => merged.insert(name.clone(), overlay(value, old_value(name), applied)),
            None if old_value(name).is_none() => merged.insert(name.clone(), value.clone()),
            None => None,
        };
    }
    for (name, value) in applied {
        if !merged.contains_key(name) {
            merged.insert(name.clone(), value.clone());
        }
    }
    Value::Object(merged)
}

struct Context {
    rule: Rule,
    builtin: bool,
    /// Whether what is to be applied is put together, or only told what changes.
    copies: bool,
    changes: Vec<Change>,
    drift: Vec<Drift>,
}

impl Context {
    /// A value that is to be applied.
    fn copy(&self, value: &Value) -> Value {
        if self.copies { value.clone() } else { Value::Null }
    }

    fn put(&self, applied: &mut Map<String, Value>, name: &str, value: Value) {
        if self.copies {
            applied.insert(name.to_owned(), value);
        }
    }

    fn map(&mut self, path: &str, old: Option<&Value>, live: &Value, new: &Value) -> Value {
        let (Some(live), Some(new)) = (live.as_object(), new.as_object()) else {
            return self.leaf(path, old, Some(live), new);
        };
        let old = old.and_then(Value::as_object);
        let mut applied = Map::new();
        for (name, value) in new {
            if path.is_empty() && (name == "apiVersion" || name == "kind") {
                self.put(&mut applied, name, self.copy(value));
                continue;
            }
            if value.is_null() {
                continue;
            }
            let path = diff::join(path, name);
            let old = old.and_then(|o| o.get(name));
            let out = match live.get(name) {
                Some(live) if value.is_object() => self.map(&path, old, live, value),
                Some(live) if value.is_array() => self.list(&path, name, old, live, value),
                live => self.leaf(&path, old, live, value),
            };
            self.put(&mut applied, name, out);
        }
        for (name, value) in old.into_iter().flatten() {
            let outside = path.is_empty() && (name == "apiVersion" || name == "kind" || name == "status");
            if outside || new.get(name).is_some_and(|v| !v.is_null()) || is_absent(Some(value)) {
                continue;
            }
            if let Some(live) = live.get(name).filter(|l| !l.is_null()) {
                let path = diff::join(path, name);
                if let Some(kept) = self.dropped(&path, name, value, live) {
                    self.put(&mut applied, name, kept);
                }
            }
        }
        Value::Object(applied)
    }

    /// A field that the new release no longer sets: goes, unless somebody made it something else meanwhile.
    fn dropped(&mut self, path: &str, field: &str, old: &Value, live: &Value) -> Option<Value> {
        if path == "metadata.creationTimestamp" {
            return None;
        }
        if let (Some(old), Some(live)) = (old.as_object(), live.as_object()) {
            let mut kept = Map::new();
            for (name, value) in old {
                if let Some(live) = live.get(name)
                    && let Some(value) = self.dropped(&diff::join(path, name), name, value, live)
                {
                    kept.insert(name.clone(), value);
                }
            }
            return (!kept.is_empty()).then_some(Value::Object(kept));
        }
        if let (Some(old), Some(live)) = (old.as_array(), live.as_array())
            && let Some(keys) = self.keys_of(field, old)
        {
            // Only its items were the release's; what others added to the list is theirs.
            self.dropped_items(path, keys, old.iter(), live);
            return None;
        }
        let drifted = !same(path, old, live);
        let kept = drifted && self.rule.verdict(path) == Verdict::Keep;
        if drifted {
            self.drift.push(Drift {
                path: path.to_owned(),
                released: Some(old.clone()),
                live: Some(live.clone()),
                new: None,
                kept,
                open: true,
            });
        }
        if kept {
            return Some(self.copy(live));
        }
        self.changes.push(Change::new(path, Some(live), None));
        None
    }

    fn list(&mut self, path: &str, field: &str, old: Option<&Value>, live: &Value, new: &Value) -> Value {
        let (Some(live_items), Some(items)) = (live.as_array(), new.as_array()) else {
            return self.leaf(path, old, Some(live), new);
        };
        let Some(keys) = self.keys_of(field, items) else {
            return self.leaf(path, old, Some(live), new);
        };
        let no_items = Vec::new();
        let old_items = old.and_then(Value::as_array).unwrap_or(&no_items);
        let label = |item: &Value| item_path(path, keys, item);
        let mut applied = Vec::new();
        for item in items {
            let old = old_items.iter().find(|o| same_item(keys, o, item));
            let out = match live_items.iter().find(|l| same_item(keys, l, item)) {
                Some(live) => self.map(&label(item), old, live, item),
                None => self.leaf(&label(item), old, None, item),
            };
            applied.push(out);
        }
        let gone = old_items
            .iter()
            .filter(|o| !items.iter().any(|i| same_item(keys, i, o)));
        self.dropped_items(path, keys, gone, live_items);
        Value::Array(applied)
    }

    /// The keys of a list's items, where it is a list of items that are told apart.
    fn keys_of(&self, field: &str, items: &[Value]) -> Option<&'static [&'static str]> {
        items
            .first()
            .filter(|_| self.builtin)
            .and_then(|item| list_keys(field, item))
    }

    /// Items that the new release no longer has go, as far as they are there.
    fn dropped_items<'a>(
        &mut self,
        path: &str,
        keys: &[&str],
        old: impl Iterator<Item = &'a Value>,
        live: &[Value],
    ) {
        for old in old {
            if let Some(live) = live.iter().find(|l| same_item(keys, l, old)) {
                self.changes
                    .push(Change::new(&item_path(path, keys, old), Some(live), None));
            }
        }
    }

    /// A document inside a text (a configuration file in a ConfigMap) that somebody edited is merged key by key
    /// like an object, so that neither the edit nor the release's changes are lost.
    fn edited_document(&mut self, path: &str, old: &Value, live: &Value, new: &Value) -> Option<Value> {
        if !path.starts_with("data") {
            return None;
        }
        let read = |value: &Value| diff::document(value.as_str()?).filter(Value::is_object);
        let (old, live_document, new) = (read(old)?, read(live)?, read(new)?);
        if old == live_document {
            return None;
        }
        let builtin = std::mem::replace(&mut self.builtin, false);
        let copies = std::mem::replace(&mut self.copies, true);
        let before = self.changes.len();
        let applied = self.map(path, Some(&old), &live_document, &new);
        (self.builtin, self.copies) = (builtin, copies);
        if self.changes.len() == before {
            return Some(self.copy(live));
        }
        let merged = overlay(&live_document, Some(&old), &applied);
        serde_saphyr::to_string(&merged).ok().map(Value::String)
    }

    fn leaf(&mut self, path: &str, old: Option<&Value>, live: Option<&Value>, new: &Value) -> Value {
        let live = live.filter(|l| !l.is_null());
        match live {
            None if is_absent(Some(new)) => return self.copy(new),
            Some(live) if same(path, live, new) => return self.copy(live),
            _ => {}
        }
        let Some(old) = old.filter(|o| !o.is_null()) else {
            self.changes.push(Change::new(path, live, Some(new)));
            return self.copy(new);
        };
        if let Some(merged) = live.and_then(|live| self.edited_document(path, old, live, new)) {
            return merged;
        }
        let drifted = live.is_none_or(|live| !same(path, old, live));
        // What the release itself changes is the release's, but for sizes; so is what somebody took out, since nothing is
        // there to keep.
        let open = drifted && live.is_some() && (same(path, old, new) || drift::is_size(path));
        let kept = open && self.rule.verdict(path) == Verdict::Keep;
        if drifted {
            self.drift.push(Drift {
                path: path.to_owned(),
                released: Some(old.clone()),
                live: live.cloned(),
                new: Some(new.clone()),
                kept,
                open,
            });
        }
        match live {
            Some(live) if kept => self.copy(live),
            _ => {
                self.changes.push(Change::new(path, live, Some(new)));
                self.copy(new)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(spec: Value) -> Object {
        Object::try_from(
            json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":spec}),
        )
        .unwrap()
    }

    #[track_caller]
    fn check(old: Option<Value>, live: Value, new: Value, changes: &[&str], drift: &[(&str, bool)]) -> Value {
        let old = old.map(|spec| deployment(spec).into_value());
        let merged = three_way(
            old.as_ref(),
            &deployment(live),
            &deployment(new),
            DriftPolicy::Keep,
        );
        assert_eq!(
            merged.changes.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(),
            changes
        );
        assert_eq!(
            merged
                .drift
                .iter()
                .map(|d| (d.path.as_str(), d.kept))
                .collect::<Vec<_>>(),
            drift
        );
        merged.applied["spec"].clone()
    }

    #[test]
    fn what_equals_the_result_changes_nothing() {
        check(
            None,
            json!({"replicas":1,"strategy":{"type":"RollingUpdate"},"template":{"spec":{"containers":[
                {"name":"a","image":"i","resources":{"limits":{"cpu":"1","memory":"1Gi"}},"imagePullPolicy":"Always"}]}}}),
            json!({"replicas":1,"template":{"spec":{"tolerations":[],"containers":[
                {"name":"a","image":"i","env":null,"resources":{"limits":{"cpu":1,"memory":"1024Mi"}}}]}}}),
            &[],
            &[],
        );
    }

    #[test]
    fn a_dropped_field_goes_and_a_hand_made_change_stays() {
        let applied = check(
            Some(json!({"replicas":1,"paused":false,"minReadySeconds":3,"empty":{}})),
            json!({"replicas":5,"paused":false,"minReadySeconds":9,"other":1,"empty":{"theirs":1}}),
            json!({"replicas":1}),
            &["spec.paused"],
            &[("spec.replicas", true), ("spec.minReadySeconds", true)],
        );
        assert_eq!(applied, json!({"replicas":5,"minReadySeconds":9}));
    }

    #[test]
    fn items_of_a_dropped_list_go_and_others_items_stay() {
        let container = |env: Value| json!({"template":{"spec":{"containers":[{"name":"a","env":env}]}}});
        let applied = check(
            Some(container(json!([{"name":"OLD","value":"1"}]))),
            container(json!([{"name":"OLD","value":"1"},{"name":"THEIRS","value":"2"}])),
            json!({"template":{"spec":{"containers":[{"name":"a"}]}}}),
            &["spec.template.spec.containers[name=a].env[name=OLD]"],
            &[],
        );
        assert_eq!(applied["template"]["spec"]["containers"], json!([{"name":"a"}]));
    }

    #[test]
    fn what_the_release_changes_wins_and_is_told() {
        let applied = check(
            Some(json!({"template":{"spec":{"containers":[{"name":"a","image":"i:1"}]}}})),
            json!({"template":{"spec":{"containers":[{"name":"s","image":"sidecar"},{"name":"a","image":"mine"}]}}}),
            json!({"template":{"spec":{"containers":[{"name":"a","image":"i:2"}]}}}),
            &["spec.template.spec.containers[name=a].image"],
            &[("spec.template.spec.containers[name=a].image", false)],
        );
        assert_eq!(
            applied["template"]["spec"]["containers"],
            json!([{"name":"a","image":"i:2"}])
        );
    }

    #[test]
    fn sizes_stay_though_the_release_changes_them() {
        let of = |replicas: u64, cpu: &str| json!({"replicas":replicas,"template":{"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":cpu}}}]}}});
        let cpu = "spec.template.spec.containers[name=a].resources.limits.cpu";
        let kept = [("spec.replicas", true), (cpu, true)];
        check(Some(of(1, "1")), of(5, "4"), of(2, "2"), &[], &kept);
        let mut new = of(2, "2");
        new["paused"] = true.into();
        let applied = check(Some(of(1, "1")), of(5, "4"), new, &["spec.paused"], &kept);
        let mut expect = of(5, "4");
        expect["paused"] = true.into();
        assert_eq!(applied, expect);
        let applied = check(
            Some(of(1, "1")),
            of(1, "1"),
            of(2, "2"),
            &["spec.replicas", cpu],
            &[],
        );
        assert_eq!(applied, of(2, "2"));
    }

    #[test]
    fn an_edited_document_keeps_the_edit_and_gets_the_change() {
        let config = |text: &str| {
            Object::try_from(
                json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"c.yaml":text}}),
            )
            .unwrap()
        };
        let old = config("a: 1\nb: {x: 1}\ngone: 1\nlevel: info\n").into_value();
        let live = config("a: 1\nb: {x: 1, mine: 2}\ngone: 1\nlevel: debug\n");
        let new = config("a: 2\nb: {x: 1}\nlevel: info\n");
        let merged = three_way(Some(&old), &live, &new, DriftPolicy::Keep);
        let text = merged
            .applied
            .pointer("/data/c.yaml")
            .and_then(Value::as_str)
            .unwrap();
        assert_eq!(
            diff::document(text),
            Some(json!({"a":2,"b":{"x":1,"mine":2},"level":"debug"}))
        );
        let paths: Vec<_> = merged.changes.iter().map(|c| c.path.as_str()).collect();
        assert_eq!(paths, ["data[c.yaml].a", "data[c.yaml].gone"]);
        assert_eq!(merged.drift[0].path, "data[c.yaml].level");
    }

    #[test]
    fn descriptions_of_a_live_crd_are_kept() {
        let crd = |schema: Value| {
            Object::try_from(json!({"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
                "metadata":{"name":"a.b.c"},"spec":{"versions":[{"name":"v1","schema":{"openAPIV3Schema":schema}}]}}))
            .unwrap()
        };
        let live = crd(json!({"type":"object","description":"Words.","properties":{
            "description":{"type":"string","description":"More words."}}}));
        let new = crd(json!({"type":"object","properties":{"description":{"type":"string"}}}));
        let merged = three_way(None, &live, &new, DriftPolicy::Keep);
        assert_eq!(merged.changes, []);
        let grown =
            crd(json!({"type":"object","properties":{"description":{"type":"string","maxLength":3}}}));
        let merged = three_way(None, &live, &grown, DriftPolicy::Keep);
        assert_eq!(merged.changes.len(), 1);
        assert_eq!(
            merged
                .applied
                .pointer("/spec/versions/0/schema/openAPIV3Schema/description"),
            Some(&json!("Words."))
        );
    }
}
