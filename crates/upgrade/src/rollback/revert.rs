//! Takes back what an upgrade set in an object, and nothing else.

use object::{
    diff::{self, Change},
    merge::{is_absent, list_keys, same, same_item},
};
use serde_json::{Map, Value};

use crate::settings::NOW;

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reverted {
    /// The object as it should be.
    pub value: Value,
    /// Fields that the upgrade set and that somebody has set to something else since. They stay.
    pub conflicts: Vec<Change>,
}

/// Puts back in `live` what was `before` the upgrade, wherever the upgrade `set` something else.
///
/// A field that nobody changed since then is put back; one that is back already stays; one that somebody changed
/// stays and is a conflict. What the upgrade left alone is not looked at.
pub(super) fn revert(group: &str, set: &Value, before: &Value, live: &Value) -> Reverted {
    let mut context = Context {
        builtin: is_builtin(group),
        conflicts: Vec::new(),
    };
    let value = context.field("", Some(set), Some(before), Some(live));
    Reverted {
        value: value.unwrap_or_else(|| live.clone()),
        conflicts: context.conflicts,
    }
}

/// Whether `live` has all that was `set`. What it has besides is the server's defaults, or somebody's addition.
pub(super) fn covers(group: &str, set: &Value, live: &Value) -> bool {
    covers_at("", is_builtin(group), set, live)
}

/// Kubernetes' own kinds have lists whose items are merged by key.
fn is_builtin(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

fn covers_at(path: &str, builtin: bool, set: &Value, live: &Value) -> bool {
    match (set, live) {
        (Value::String(text), Value::String(_)) if text == NOW => true,
        (Value::Object(set), Value::Object(live)) => set.iter().all(|(name, value)| match live.get(name) {
            Some(live) => covers_at(&diff::join(path, name), builtin, value, live),
            None => is_absent(Some(value)),
        }),
        (Value::Array(set), Value::Array(live)) => {
            let keys = set
                .first()
                .filter(|_| builtin)
                .and_then(|item| list_keys(last(path), item));
            match keys {
                Some(keys) => set.iter().all(|item| {
                    live.iter()
                        .find(|l| same_item(keys, l, item))
                        .is_some_and(|l| covers_at(path, builtin, item, l))
                }),
                None => {
                    set.len() == live.len()
                        && set.iter().zip(live).all(|(a, b)| covers_at(path, builtin, a, b))
                }
            }
        }
        (set, live) => same(path, set, live),
    }
}

fn last(path: &str) -> &str {
    path.rsplit(['.', ']']).next().unwrap_or(path)
}

/// Maps whose keys are anybody's: each key counts by itself. Other maps of Kubernetes' own kinds are filled with
/// defaults by the server, and make sense only as a whole.
fn is_free_form(path: &str) -> bool {
    path.is_empty()
        || matches!(
            last(path),
            "metadata"
                | "spec"
                | "status"
                | "template"
                | "labels"
                | "annotations"
                | "matchLabels"
                | "nodeSelector"
                | "selector"
                | "data"
                | "stringData"
                | "binaryData"
                | "limits"
                | "requests"
        )
}

struct Context {
    builtin: bool,
    conflicts: Vec<Change>,
}

impl Context {
    fn conflict(&mut self, path: &str, live: Option<&Value>, before: Option<&Value>) {
        self.conflicts.push(Change::new(path, live, before));
    }

    fn is_covered(&self, path: &str, set: Option<&Value>, live: Option<&Value>) -> bool {
        match (set, live) {
            (Some(set), Some(live)) => covers_at(path, self.builtin, set, live),
            (set, live) => is_absent(set) && is_absent(live),
        }
    }

    /// The field as it should be; `None` when it should not be there.
    fn field(
        &mut self,
        path: &str,
        set: Option<&Value>,
        before: Option<&Value>,
        live: Option<&Value>,
    ) -> Option<Value> {
        let equal = |a: Option<&Value>, b: Option<&Value>| match (a, b) {
            (Some(a), Some(b)) => a == b,
            (a, b) => is_absent(a) && is_absent(b),
        };
        if before.is_none() && live.is_some() && set == live {
            return None;
        }
        if equal(set, before) || equal(live, before) {
            return live.cloned();
        }
        let is_map = |value: Option<&Value>| value.is_none_or(Value::is_object);
        let is_whole = self.builtin && before.is_none() && !is_free_form(path);
        if let Some(Value::Object(live)) = live
            && is_map(set)
            && is_map(before)
            && !is_whole
        {
            return self.map(path, set, before, live);
        }
        if let (Some(Value::Array(live)), true) = (live, self.builtin)
            && let Some(keys) = keys_of(path, [set, before])
        {
            return Some(self.list(path, keys, set, before, live));
        }
        if let Some(text) = self.document(path, set, before, live) {
            return Some(text);
        }
        // A union of the rules before and after is what a rollback that was cut left behind.
        let on_its_way = path == "rules"
            && matches!((set, before, live), (Some(set), Some(before), Some(live))
                if is_union(set, before, live));
        if self.is_covered(path, set, live) || on_its_way {
            return before.cloned();
        }
        if let (Some(before), Some(live)) = (before, live)
            && same(path, before, live)
        {
            return Some(live.clone());
        }
        self.conflict(path, live, before);
        live.cloned()
    }

    fn map(
        &mut self,
        path: &str,
        set: Option<&Value>,
        before: Option<&Value>,
        live: &Map<String, Value>,
    ) -> Option<Value> {
        let at = |value: Option<&Value>, name: &str| value.and_then(|v| v.get(name)).cloned();
        let mut out = Map::new();
        for (name, value) in live {
            let (set, before) = (at(set, name), at(before, name));
            if let Some(kept) = self.field(
                &diff::join(path, name),
                set.as_ref(),
                before.as_ref(),
                Some(value),
            ) {
                out.insert(name.clone(), kept);
            }
        }
        let both = [set, before];
        let names = both.iter().flatten().filter_map(|v| v.as_object()).flatten();
        for (name, _) in names.filter(|(name, _)| !live.contains_key(*name)) {
            let (set, before) = (at(set, name), at(before, name));
            if let Some(back) = self.field(&diff::join(path, name), set.as_ref(), before.as_ref(), None) {
                out.insert(name.clone(), back);
            }
        }
        // A map that the upgrade brought goes with the last of its keys.
        (!out.is_empty() || before.is_some() || set.is_none()).then_some(Value::Object(out))
    }

    fn list(
        &mut self,
        path: &str,
        keys: &[&str],
        set: Option<&Value>,
        before: Option<&Value>,
        live: &[Value],
    ) -> Value {
        let items = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        let (set, before) = (items(set), items(before));
        let find = |items: &[Value], item: &Value| items.iter().find(|i| same_item(keys, i, item)).cloned();
        let label = |item: &Value| {
            let value = item.get(keys[0]).cloned().unwrap_or_default();
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{path}[{}={value}]", keys[0])
        };
        let mut out = Vec::new();
        // In the order of before; what came since follows.
        let mut rest: Vec<Value> = live.to_vec();
        for item in &before {
            let position = rest.iter().position(|l| same_item(keys, l, item));
            let live = position.map(|index| rest.remove(index));
            let set = find(&set, item);
            out.extend(self.field(&label(item), set.as_ref(), Some(item), live.as_ref()));
        }
        for item in rest {
            let set = find(&set, &item);
            out.extend(self.field(&label(&item), set.as_ref(), None, Some(&item)));
        }
        Value::Array(out)
    }

    /// A document inside a text (a configuration file in a ConfigMap): put back key by key.
    fn document(
        &mut self,
        path: &str,
        set: Option<&Value>,
        before: Option<&Value>,
        live: Option<&Value>,
    ) -> Option<Value> {
        if !path.starts_with("data") {
            return None;
        }
        let read = |value: Option<&Value>| diff::document(value?.as_str()?).filter(Value::is_object);
        let (set, document, current) = (read(set)?, read(before)?, read(live)?);
        let builtin = std::mem::replace(&mut self.builtin, false);
        let merged = self.field(path, Some(&set), Some(&document), Some(&current));
        self.builtin = builtin;
        let merged = merged?;
        if merged == document {
            return before.cloned();
        }
        if merged == current {
            return live.cloned();
        }
        serde_saphyr::to_string(&merged).ok().map(Value::String)
    }
}

fn keys_of(path: &str, lists: [Option<&Value>; 2]) -> Option<&'static [&'static str]> {
    let items = lists.into_iter().flatten().filter_map(Value::as_array).flatten();
    items.into_iter().find_map(|item| list_keys(last(path), item))
}

/// Whether rules are those that were set and those from before together, and no others.
fn is_union(set: &Value, before: &Value, live: &Value) -> bool {
    let (Some(set), Some(before), Some(live)) = (set.as_array(), before.as_array(), live.as_array()) else {
        return false;
    };
    set.iter().chain(before).all(|rule| live.contains(rule))
        && live
            .iter()
            .all(|rule| set.contains(rule) || before.contains(rule))
}
