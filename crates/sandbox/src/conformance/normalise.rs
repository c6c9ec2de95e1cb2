//! Making answers comparable: what every cluster draws for itself gets the name of its place in the case.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

use super::case::Step;

/// Does an expression that is a constant compile? A test says so.
fn expression(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

static UID: LazyLock<Option<Regex>> =
    LazyLock::new(|| expression("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"));
static TIME: LazyLock<Option<Regex>> =
    LazyLock::new(|| expression(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"));
static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| expression(r"\b\d{1,3}(\.\d{1,3}){3}\b"));
static TOKEN: LazyLock<Option<Regex>> =
    LazyLock::new(|| expression("-token-[bcdfghjklmnpqrstvwxz2456789]{5}\\b"));
static DIGITS: LazyLock<Option<Regex>> = LazyLock::new(|| expression(r"\b\d+\b"));
/// Where something stands in the memory of a server that is written in Go.
static POINTER: LazyLock<Option<Regex>> = LazyLock::new(|| expression(r"\b0xc[0-9a-f]{9}\b"));
static CASE: LazyLock<Option<Regex>> = LazyLock::new(|| expression("case-[a-z]{8}"));

fn replace(text: &str, what: &LazyLock<Option<Regex>>, with: impl FnMut(&Captures) -> String) -> String {
    match &**what {
        Some(what) => what.replace_all(text, with).into_owned(),
        None => text.to_owned(),
    }
}

/// Names in the order in which things are first seen.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, usize>);

impl Seen {
    fn name(&mut self, what: &str, value: &str) -> String {
        let next = self.0.len() + 1;
        let number = self.0.entry(value.to_owned()).or_insert(next);
        format!("{what}-{number}")
    }
}

#[derive(Debug, Default)]
struct Names {
    uids: Seen,
    addresses: Seen,
    ports: Seen,
    /// Resource versions of objects, in order: their rank is their name.
    versions: BTreeMap<u64, usize>,
    /// Names with a random part, and what stands for each; the longest first.
    random: Vec<(String, String)>,
}

pub(super) fn normalise(answers: &mut [Value], steps: &[Step]) {
    for (answer, step) in answers.iter_mut().zip(steps) {
        reduce(answer, step);
        sort_complaints(answer);
        sort_drawn(answer);
    }
    let mut names = Names::default();
    let mut versions = BTreeSet::new();
    let mut random = Vec::new();
    for answer in &*answers {
        collect(answer, &mut versions, &mut random);
    }
    names.versions = versions.into_iter().zip(1..).collect();
    for (number, (name, stem)) in (1..).zip(random) {
        names.random.push((name, format!("{stem}~{number}")));
    }
    names
        .random
        .sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    for answer in answers {
        *answer = rename(answer, "", &mut names);
    }
}

/// The rules of a review come in the order of bindings in the server's cache, the conflicts of an apply in that of the managers in
/// a Go map: the server draws both.
fn sort_drawn(answer: &mut Value) {
    if let Some(Value::Array(causes)) = answer.pointer_mut("/body/details/causes")
        && causes
            .iter()
            .all(|cause| cause["reason"] == "FieldManagerConflict")
    {
        causes.sort_by_cached_key(|cause| ["message", "field"].map(|field| cause[field].to_string()));
    }
    for place in ["/body/status/resourceRules", "/body/status/nonResourceRules"] {
        if let Some(Value::Array(rules)) = answer.pointer_mut(place) {
            let key = |rule: &Value, field: &str| rule.get(field).map(Value::to_string);
            rules.sort_by_cached_key(|rule| {
                ["apiGroups", "resources", "nonResourceURLs", "verbs"].map(|field| key(rule, field))
            });
        }
    }
}

/// Leaves of a body what the step looks at.
fn reduce(answer: &mut Value, step: &Step) {
    let Some(body) = answer.get_mut("body") else {
        return;
    };
    if !step.pick.is_empty() {
        let picked: Map<String, Value> = step
            .pick
            .iter()
            .map(|pointer| {
                let found = body.pointer(pointer).cloned().unwrap_or_default();
                (pointer.clone(), found)
            })
            .collect();
        *body = Value::Object(picked);
    }
    for pointer in &step.hide {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
        match body.pointer_mut(parent) {
            Some(Value::Object(map)) => {
                map.shift_remove(key);
            }
            Some(Value::Array(items)) => {
                for item in items {
                    if let Some(map) = item.as_object_mut() {
                        map.shift_remove(key);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The server goes through the properties of a custom resource in the order of a Go map, which is another each time, and so
/// come the complaints about them.
fn sort_complaints(answer: &mut Value) {
    let text = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let Some(body) = answer.get_mut("body") else {
        return;
    };
    let group = body
        .pointer("/details/group")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !group.contains('.') || group.ends_with(".k8s.io") {
        return;
    }
    let Some(Value::Array(causes)) = body.pointer_mut("/details/causes") else {
        return;
    };
    let listed = |causes: &[Value]| {
        let all: Vec<_> = causes
            .iter()
            .map(|cause| format!("{}: {}", text(cause, "field"), text(cause, "message")))
            .collect();
        all.join(", ")
    };
    let before = listed(causes);
    causes.sort_by_key(|cause| (text(cause, "field"), text(cause, "message")));
    let after = listed(causes);
    if let Some(message) = body.get_mut("message") {
        *message = message
            .as_str()
            .unwrap_or_default()
            .replace(&before, &after)
            .into();
    }
}

/// What is picked has a pointer for a key.
fn last(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or_default()
}

fn is_list(map: &Map<String, Value>) -> bool {
    map.get("items").is_some_and(Value::is_array)
        || map.contains_key("columnDefinitions")
        || map
            .get("kind")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.ends_with("List"))
}

fn collect(value: &Value, versions: &mut BTreeSet<u64>, random: &mut Vec<(String, String)>) {
    let mut note = |name: &str, stem: &str| {
        if !name.is_empty() && !random.iter().any(|(known, _)| known == name) {
            random.push((name.to_owned(), stem.to_owned()));
        }
    };
    match value {
        Value::Object(map) => {
            let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
            let (name, stem) = (text("name"), text("generateName"));
            if !stem.is_empty() && name.len() > stem.len() && name.starts_with(stem) {
                note(name, stem);
            }
            for label in ["pod-template-hash", "controller-revision-hash"] {
                note(text(label), "hash");
            }
            for (key, value) in map {
                if key == "metadata" && is_list(map) {
                    continue;
                }
                if last(key) == "resourceVersion"
                    && let Some(version) = value.as_str().and_then(|text| text.parse().ok())
                    && version > 0
                {
                    versions.insert(version);
                }
                collect(value, versions, random);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, versions, random)),
        _ => {}
    }
}

fn rename(value: &Value, key: &str, names: &mut Names) -> Value {
    match value {
        Value::Object(map) => Value::Object(rename_map(map, names)),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(|item| rename(item, "", names)).collect();
            if key == "managedFields" {
                // Their order depends on where a second ends.
                items.sort_by_key(Value::to_string);
            }
            Value::Array(items)
        }
        Value::String(text) => rename_text(text, key, names).into(),
        Value::Number(number) if key == "nodePort" => names.ports.name("port", &number.to_string()).into(),
        other => other.clone(),
    }
}

fn rename_map(map: &Map<String, Value>, names: &mut Names) -> Map<String, Value> {
    let ages: Vec<usize> = map
        .get("columnDefinitions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, column)| {
            column.get("name").and_then(Value::as_str).is_some_and(|name| {
                matches!(
                    name,
                    "Age" | "Last Seen" | "First Seen" | "Duration" | "Last Schedule" | "Last Timestamp"
                )
            })
        })
        .map(|(index, _)| index)
        .collect();
    let mut keys: Vec<&String> = map.keys().collect();
    // Sorted, so that what is recorded changes only where an answer does.
    keys.sort();
    let mut renamed = Map::new();
    for key in keys {
        let Some(value) = map.get(key) else { continue };
        let new = match (last(key), value) {
            ("metadata", Value::Object(metadata)) if is_list(map) => {
                let mut metadata = metadata.clone();
                for (key, value) in &mut metadata {
                    let text = value.as_str().unwrap_or_default();
                    if key == "resourceVersion" && !text.is_empty() {
                        *value = "of the list".into();
                    }
                }
                rename(&Value::Object(metadata), "", names)
            }
            ("rows", Value::Array(rows)) => {
                let mut rows = rows.clone();
                for row in &mut rows {
                    let cells = row.get_mut("cells").and_then(Value::as_array_mut);
                    for (index, cell) in cells.into_iter().flatten().enumerate() {
                        if ages.contains(&index) && cell.as_str().is_some_and(|cell| !cell.starts_with('<')) {
                            *cell = "AGE".into();
                        }
                    }
                }
                rename(&Value::Array(rows), key, names)
            }
            // What explains a column is for readers: the sandbox has no descriptions anywhere.
            ("columnDefinitions", Value::Array(columns)) => {
                let mut columns = columns.clone();
                for column in columns.iter_mut().filter_map(Value::as_object_mut) {
                    column.shift_remove("description");
                }
                Value::Array(columns)
            }
            ("continue", Value::String(text)) if !text.is_empty() => "of the list".into(),
            ("ca.crt" | "caBundle" | "token", Value::String(text)) if text.len() > 20 => "DRAWN".into(),
            _ => rename(value, last(key), names),
        };
        let key = rename_text(key, "", names);
        renamed.insert(key, new);
    }
    renamed
}

fn rename_text(text: &str, key: &str, names: &mut Names) -> String {
    if key == "resourceVersion"
        && let Some(rank) = text.parse().ok().and_then(|version| names.versions.get(&version))
    {
        return format!("version-{rank}");
    }
    let mut text = replace(text, &CASE, |_| "$NS".to_owned());
    for (name, stands) in &names.random {
        if text.contains(name.as_str()) {
            text = text.replace(name.as_str(), stands);
        }
    }
    text = replace(&text, &TIME, |_| "TIME".to_owned());
    text = replace(&text, &UID, |found| names.uids.name("uid", &found[0]));
    text = replace(&text, &POINTER, |_| "0xADDRESS".to_owned());
    text = replace(&text, &TOKEN, |_| "-token-DRAWN".to_owned());
    if text.to_lowercase().contains("resourceversion") || text.contains("resource version") {
        text = replace(&text, &DIGITS, |found| {
            let rank = found[0]
                .parse()
                .ok()
                .and_then(|version| names.versions.get(&version));
            rank.map_or_else(|| found[0].to_owned(), |rank| format!("version-{rank}"))
        });
    }
    replace(&text, &ADDRESS, |found| match &found[0] {
        fixed if fixed == "0.0.0.0" || fixed.ends_with(".0") => fixed.to_owned(),
        drawn => names.addresses.name("address", drawn),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn complaints_about_a_custom_resource_are_sorted() {
        let answer = |fields: [&str; 2]| {
            json!({ "body": {
                "details": { "group": "example.com", "causes": fields.map(|field| json!({ "field": field, "message": "no" })) },
                "message": format!("it is invalid: [{}: no, {}: no]", fields[0], fields[1]),
            } })
        };
        let mut answers = [answer(["b", "a"])];
        normalise(&mut answers, &[Step::default()]);
        assert_eq!(answers, [answer(["a", "b"])]);
    }

    #[test]
    fn what_a_cluster_draws_gets_the_name_of_its_place() {
        let mut answers = [
            json!({ "code": 201, "body": { "metadata": {
                "name": "a-x7k2p", "generateName": "a-", "namespace": "case-abcdefgh", "resourceVersion": "70",
                "uid": "11111111-2222-3333-4444-555555555555", "creationTimestamp": "2021-01-01T00:00:00Z",
            } } }),
            json!({ "code": 200, "body": { "kind": "ConfigMapList", "metadata": { "resourceVersion": "99" }, "items": [
                { "metadata": { "name": "a-x7k2p", "resourceVersion": "80" } },
                { "metadata": { "name": "b", "resourceVersion": "70" } },
            ] } }),
            json!({ "code": 409, "body": { "message": "resourceVersion 70 of a-x7k2p", "nodePort": 30001 } }),
        ];
        normalise(&mut answers, &[Step::default(), Step::default(), Step::default()]);
        assert_eq!(
            answers[0]["body"]["metadata"],
            json!({
                "name": "a-~1", "generateName": "a-", "namespace": "$NS", "resourceVersion": "version-1",
                "uid": "uid-1", "creationTimestamp": "TIME",
            })
        );
        assert_eq!(answers[1]["body"]["metadata"]["resourceVersion"], "of the list");
        assert_eq!(
            answers[1]["body"]["items"][0]["metadata"]["resourceVersion"],
            "version-2"
        );
        assert_eq!(answers[2]["body"]["message"], "resourceVersion version-1 of a-~1");
        assert_eq!(answers[2]["body"]["nodePort"], "port-1");
    }
}
