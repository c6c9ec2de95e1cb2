//! How rendered objects are compared with those of a real cluster: by what they say, not by how they say it.

#![allow(dead_code, reason = "every user has a part of it")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object::diff::{self, join};
use object::{merge, quantity};
use serde_json::Value;

pub(crate) struct Difference {
    pub path: String,
    /// What one side says.
    pub here: Value,
    /// What the other says there.
    pub there: Value,
}

/// Empty, or made of what is empty.
pub(crate) fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().all(says_nothing),
        Value::String(text) => text.is_empty(),
        value => merge::is_absent(Some(value)),
    }
}

/// An expression of Prometheus without white space and comments, which mean nothing.
fn expression_of(text: &str) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect()
}

/// Texts that mean the same.
fn same_text(path: &str, a: &str, b: &str) -> bool {
    path.rsplit('.').next() == Some("expr") && expression_of(a) == expression_of(b)
}

/// What `here` says and `there` lacks or contradicts.
fn missing(path: &str, here: &Value, there: &Value, found: &mut Vec<Difference>) {
    let differ = |path: &str, here: &Value, there: &Value, found: &mut Vec<Difference>| {
        found.push(Difference {
            path: path.to_owned(),
            here: here.clone(),
            there: there.clone(),
        });
    };
    match (here, there) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, value) in a {
                missing(
                    &join(path, name),
                    value,
                    b.get(name).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let field = path.rsplit('.').next().unwrap_or_default();
            // Lists of documents may have such names, and items without them.
            let is_named = |keys: &&[&str]| a.iter().chain(b).all(|item| item.get(keys[0]).is_some());
            let keys = a.first().and_then(|item| merge::list_keys(field, item));
            match keys.filter(is_named) {
                Some(keys) => {
                    for item in a {
                        let other = b.iter().find(|other| merge::same_item(keys, item, other));
                        let name = item.get(keys[0]).cloned().unwrap_or_default();
                        let path = format!("{path}[{}]", name.as_str().unwrap_or(&name.to_string()));
                        missing(&path, item, other.unwrap_or(&Value::Null), found);
                    }
                    for item in b
                        .iter()
                        .filter(|b| !a.iter().any(|a| merge::same_item(keys, a, b)))
                    {
                        differ(&format!("{path}[+]"), &Value::Null, item, found);
                    }
                }
                None if a.len() == b.len() => {
                    for (index, (a, b)) in a.iter().zip(b).enumerate() {
                        missing(&format!("{path}[{index}]"), a, b, found);
                    }
                }
                None => differ(path, here, there, found),
            }
        }
        (a, b) if a == b || quantity::equal(a, b) => {}
        (a, b) if says_nothing(a) && says_nothing(b) => {}
        (Value::String(a), Value::String(b)) if same_text(path, a, b) => {}
        (Value::String(a), Value::String(b)) => match (diff::document(a), diff::document(b)) {
            (Some(x), Some(y)) => {
                missing(path, &x, &y, found);
                // A document is compared as a whole: what the other has besides is a difference, too.
                let mut back = Vec::new();
                missing(path, &y, &x, &mut back);
                for d in back {
                    if !found.iter().any(|f| f.path == d.path) {
                        found.push(Difference {
                            path: d.path,
                            here: d.there,
                            there: d.here,
                        });
                    }
                }
            }
            _ => differ(path, here, there, found),
        },
        _ => differ(path, here, there, found),
    }
}

/// What `here` says and `there` lacks or contradicts, anywhere.
pub(crate) fn differences(here: &Value, there: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    missing("", here, there, &mut found);
    found
}

/// Without what tools write about objects, rather than into them.
pub(crate) fn plain(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    if let Some(annotations) = value
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(object::LAST_APPLIED);
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("creationTimestamp");
    }
    value
}

/// CRDs are kept without.
pub(crate) fn without_descriptions(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("description").is_some_and(Value::is_string) {
                map.remove("description");
            }
            map.values_mut().for_each(without_descriptions);
        }
        Value::Array(items) => items.iter_mut().for_each(without_descriptions),
        _ => {}
    }
}

/// What was declared of a CRD, without descriptions and without the server's default.
pub(crate) fn plain_definition(mut value: Value) -> Value {
    without_descriptions(&mut value);
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut)
        && spec.get("conversion").and_then(|c| c.get("strategy")) == Some(&"None".into())
    {
        spec.remove("conversion");
    }
    value
}

/// What was declared, and what is rendered lacks or contradicts. What the API server made something else of, and what
/// says nothing, is no loss.
pub(crate) fn lost(declared: &Value, live: &Value, ours: &Value) -> Vec<Difference> {
    let unlike_live: Vec<String> = differences(declared, live).into_iter().map(|d| d.path).collect();
    differences(declared, ours)
        .into_iter()
        .filter(|d| !says_nothing(&d.here) || !says_nothing(&d.there))
        .filter(|d| !unlike_live.contains(&d.path))
        .collect()
}

/// The object without what is wording or secret, so that it can be kept and compared: annotations of alerts and
/// comments in their expressions, descriptions of templates, texts of ConfigMaps that are no documents, values of
/// Secrets, authorities of webhooks.
pub(crate) fn without_wording(mut object: Value) -> Value {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    if kind == "PrometheusRule" {
        remove_wording_of_rules(&mut object["spec"]);
    }
    if kind == "Rule" {
        remove_wording_of_our_rules(&mut object["spec"]);
    }
    if kind == "ClusterTemplate" || kind == "S2iBuilderTemplate" {
        remove_wording_of_templates(&mut object);
    }
    if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
        for (key, value) in data {
            match kind.as_str() {
                "Secret" => *value = STANDARD.encode(key).into(),
                "ConfigMap" => match value.as_str().and_then(diff::document) {
                    Some(mut document) => {
                        let mut changed = without_passwords("", &mut document);
                        changed |= without_descriptions_of_actions(&mut document);
                        if changed {
                            *value = document.to_string().into();
                        }
                    }
                    None => *value = "(text)".into(),
                },
                _ => {}
            }
        }
    }
    if let Some(texts) = object.get_mut("stringData").and_then(Value::as_object_mut) {
        texts.values_mut().for_each(|value| *value = "(secret)".into());
    }
    without_authorities(&mut object);
    object
}

/// Puts a mark in place of every secret of a document; whether there was one.
pub(crate) fn without_passwords(path: &str, value: &mut Value) -> bool {
    match value {
        Value::Object(map) => {
            let mut found = false;
            for (name, value) in map {
                found |= without_passwords(&join(path, name), value);
            }
            found
        }
        Value::Array(items) => {
            let mut found = false;
            for item in items {
                found |= without_passwords(path, item);
            }
            found
        }
        Value::String(text) if !text.is_empty() && diff::names_a_secret(path) => {
            *text = "(secret)".into();
            true
        }
        _ => false,
    }
}

/// What templates of pipelines and builds tell people, and the texts of pipelines.
fn remove_wording_of_templates(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| !(value.is_string() && name.to_lowercase().contains("description")));
            if let Some(Value::String(pipeline)) = map.get_mut("template") {
                *pipeline = "(text)".into();
            }
            map.values_mut().for_each(remove_wording_of_templates);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_wording_of_templates),
        _ => {}
    }
}

/// Rules of events and auditing.
fn remove_wording_of_our_rules(value: &mut Value) {
    let rules = value.get_mut("rules").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten().filter_map(Value::as_object_mut) {
        rule.retain(|name, _| !["annotations", "desc", "output"].contains(&name.as_str()));
    }
}

/// Of Elasticsearch's curator; whether there was one.
fn without_descriptions_of_actions(value: &mut Value) -> bool {
    let actions = value.get_mut("actions").and_then(Value::as_object_mut);
    let mut found = false;
    for action in actions.into_iter().flat_map(|actions| actions.values_mut()) {
        found |= action
            .as_object_mut()
            .is_some_and(|action| action.remove("description").is_some());
    }
    found
}

fn remove_wording_of_rules(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.contains_key("alert") {
                map.remove("annotations");
            }
            if let Some(Value::String(expression)) = map.get_mut("expr") {
                *expression = expression_of(expression);
            }
            map.values_mut().for_each(remove_wording_of_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_wording_of_rules),
        _ => {}
    }
}

fn without_authorities(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(authority) = map.get_mut("caBundle").filter(|authority| authority.is_string()) {
                *authority = "(authority)".into();
            }
            map.values_mut().for_each(without_authorities);
        }
        Value::Array(items) => items.iter_mut().for_each(without_authorities),
        _ => {}
    }
}
