//! What differs between two values, path by path.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ObjectKey;

/// One difference. A missing side is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// `spec.template.spec.containers[name=ks-apiserver].image`
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// What is shown in place of a value that must stay secret.
pub const REDACTED: &str = "(secret)";

/// Key names whose values are secret wherever they stand.
const SECRET_WORDS: [&str; 6] = [
    "password",
    "secret",
    "token",
    "privatekey",
    "accesskey",
    "credential",
];

/// Whether what stands at the path is secret, by its last name; for the value of an environment variable, by the
/// variable's.
pub fn names_a_secret(path: &str) -> bool {
    let variable = path
        .strip_suffix("].value")
        .and_then(|head| head.rsplit_once("[name="))
        .map(|(_, name)| name);
    let last = variable
        .or(path.rsplit('.').next())
        .unwrap_or(path)
        .to_ascii_lowercase();
    // secretName, imagePullSecrets and the like name a Secret, they do not hold one.
    !last.starts_with("secretname")
        && !last.contains("secrets")
        && !last.contains("tokenmaxage")
        && SECRET_WORDS.iter().any(|word| last.contains(word))
}

impl Change {
    pub fn new(path: &str, from: Option<&Value>, to: Option<&Value>) -> Self {
        Self {
            path: path.to_owned(),
            from: from.cloned(),
            to: to.cloned(),
        }
    }

    /// The change with secret values left out, fit for plans, logs and reports.
    pub fn redacted(mut self, key: &ObjectKey) -> Self {
        let whole = key.is_secret() && (self.path.starts_with("data") || self.path.starts_with("stringData"));
        let hide = whole || names_a_secret(&self.path);
        for value in [&mut self.from, &mut self.to].into_iter().flatten() {
            if hide {
                *value = REDACTED.into();
            } else if self.path.ends_with("caBundle") && value.is_string() {
                // No secret, but of no use to who reads it.
                *value = "(certificate)".into();
            } else {
                redact_within(value);
            }
        }
        self
    }
}

fn redact_within(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let is_variable = map
                .get("name")
                .and_then(Value::as_str)
                .is_some_and(names_a_secret);
            if let Some(value) = map.get_mut("value").filter(|_| is_variable) {
                *value = REDACTED.into();
            }
            for (name, value) in map {
                if names_a_secret(name) && !value.is_object() && !value.is_array() {
                    *value = REDACTED.into();
                } else {
                    redact_within(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact_within),
        Value::String(text) if text.contains('\n') => *text = without_secrets(text),
        _ => {}
    }
}

/// A configuration file in a text, without what its lines say of secrets.
fn without_secrets(text: &str) -> String {
    let redacted = |line: &str| match line.split_once([':', '=']) {
        Some((name, value)) if names_a_secret(name.trim()) && !value.trim().is_empty() => {
            let separator = &line[name.len()..=name.len()];
            format!("{name}{separator} {REDACTED}")
        }
        _ => line.to_owned(),
    };
    text.split('\n').map(redacted).collect::<Vec<_>>().join("\n")
}

/// Appends a map key to a path; a key that holds dots or slashes stands in brackets.
pub fn join(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && !name.contains(['.', '/', ' ']);
    match (path.is_empty(), plain) {
        (true, true) => name.to_owned(),
        (false, true) => format!("{path}.{name}"),
        (_, false) => format!("{path}[{name}]"),
    }
}

/// All differences between two values. Lists are compared as wholes when their lengths differ, by position
/// otherwise; texts that hold a YAML or JSON document are compared as documents.
pub fn changes(from: &Value, to: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    walk("", Some(from), Some(to), &mut found);
    found
}

fn walk(path: &str, from: Option<&Value>, to: Option<&Value>, found: &mut Vec<Change>) {
    match (from, to) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for (name, value) in a {
                walk(&join(path, name), Some(value), b.get(name), found);
            }
            for (name, value) in b {
                if !a.contains_key(name) {
                    walk(&join(path, name), None, Some(value), found);
                }
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{index}]"), Some(a), Some(b), found);
            }
        }
        (Some(Value::String(a)), Some(Value::String(b))) if a != b => match (document(a), document(b)) {
            (Some(x), Some(y)) => walk(path, Some(&x), Some(&y), found),
            _ => found.push(Change::new(path, from, to)),
        },
        (from, to) if from != to => found.push(Change::new(path, from, to)),
        _ => {}
    }
}

/// The documents that a text holds, when it is a map (or several documents) in YAML or JSON.
pub fn document(text: &str) -> Option<Value> {
    if !text.contains('\n') && !text.starts_with(['{', '[']) {
        return None;
    }
    let mut documents = crate::parse_documents(text).ok()?;
    if documents.iter().any(|d| !d.is_object() && !d.is_array()) {
        return None;
    }
    match documents.len() {
        0 => None,
        1 => documents.pop(),
        _ => Some(Value::Array(documents)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(from: &Value, to: &Value) -> Vec<String> {
        changes(from, to).into_iter().map(|c| c.path).collect()
    }

    #[test]
    fn embedded_documents_are_compared_as_documents() {
        let config = |text: &str| json!({"data":{"kubesphere.yaml": text}});
        assert_eq!(
            paths(&config("a: 1\nb: {c: True}\n"), &config("b:\n  c: false\na: 1\n")),
            ["data[kubesphere.yaml].b.c"]
        );
        assert!(paths(&config("a: 1\nb: 2\n"), &config("{\"b\":2,\"a\":1}")).is_empty());
    }

    #[test]
    fn a_file_in_a_text_is_shown_without_its_secrets() {
        let text = "host: a\n  jwtSecret: \"abc\"\npassword=x\nsecretRef:\n  name: b\n";
        let key = ObjectKey::namespaced("", "ConfigMap", "n", "c");
        let change = Change::new("data.file", None, Some(&text.into())).redacted(&key);
        let expect = "host: a\n  jwtSecret: (secret)\npassword= (secret)\nsecretRef:\n  name: b\n";
        assert_eq!(change.to, Some(expect.into()));
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = ObjectKey::namespaced("", "Secret", "n", "s");
        let other = ObjectKey::namespaced("", "ConfigMap", "n", "c");
        let hidden = |key: &ObjectKey, path: &str, value: Value| {
            let change = Change::new(path, None, Some(&value)).redacted(key);
            !change.to.unwrap().to_string().contains("hunter2")
        };
        assert!(hidden(&secret, "data.ca", json!("hunter2")));
        assert!(hidden(
            &other,
            "data[kubesphere.yaml].authentication.jwtSecret",
            json!("hunter2")
        ));
        assert!(hidden(
            &other,
            "data[kubesphere.yaml].ldap",
            json!({"managerPassword": "hunter2"})
        ));
        let container = "spec.template.spec.containers[name=a]";
        let variable = format!("{container}.env[name=REDIS_PASSWORD].value");
        assert!(hidden(&other, &variable, json!("hunter2")));
        let variables = json!([{"name": "REDIS_PASSWORD", "value": "hunter2"}]);
        assert!(hidden(&other, &format!("{container}.env"), variables));
        assert!(!hidden(
            &other,
            "spec.template.spec.volumes[name=x].secret.secretName",
            json!("hunter2")
        ));
    }
}
