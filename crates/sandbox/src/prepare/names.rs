//! Names inside objects: labels, annotations, owners, selectors, keys of ConfigMaps and Secrets, in the words of the server.

use serde_json::Value;

use crate::fields::validate::Cause;
use crate::golang;
use crate::json::{list, list_at, text};
use crate::kinds::Resource;
use crate::status::{cause, forbidden, invalid, required};

const PART: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                    character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                         must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                         and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation \
                         is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const OLD_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                         character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
                         validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const VARIABLE: &str = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', \
                        and must not start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex \
                        used for validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')";
const LABEL: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                     start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
                     for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
                   'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn is_word(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.bytes().all(inner) && outer(text.bytes().next()) && outer(text.bytes().next_back())
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn too_long(most: usize) -> String {
    format!("must be no more than {most} characters")
}

/// The reasons that hold, in order.
fn reasons<const N: usize>(reasons: [(bool, String); N]) -> Vec<String> {
    reasons
        .into_iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, why)| why)
        .collect()
}

/// Why a text is no label of a domain name by RFC 1123.
pub(super) fn not_label(text: &str) -> Vec<String> {
    reasons([
        (text.len() > 63, too_long(63)),
        (!is_label(text), DNS_LABEL.to_owned()),
    ])
}

/// Why a text is no label of a domain name by RFC 1035, which begins with a letter.
pub(super) fn not_old_label(text: &str) -> Vec<String> {
    let fits = is_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase());
    reasons([(text.len() > 63, too_long(63)), (!fits, OLD_LABEL.to_owned())])
}

/// Why a text is no domain name.
pub(super) fn not_subdomain(text: &str) -> Vec<String> {
    reasons([
        (text.len() > 253, too_long(253)),
        (!is_subdomain(text), SUBDOMAIN.to_owned()),
    ])
}

/// Why a text is no name of a port.
pub(super) fn not_port_name(text: &str) -> Vec<String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    reasons([
        (text.len() > 15, too_long(15)),
        (
            text.is_empty() || !text.chars().all(is_allowed),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        ),
        (
            !text.contains(|c: char| c.is_ascii_lowercase()),
            "must contain at least one letter or number (a-z, 0-9)".to_owned(),
        ),
        (
            text.contains("--"),
            "must not contain consecutive hyphens".to_owned(),
        ),
        (
            text.starts_with('-') || text.ends_with('-'),
            "must not begin or end with a hyphen".to_owned(),
        ),
    ])
}

/// Why a text is no name of an environment variable.
pub(super) fn not_variable(text: &str) -> Vec<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let fits =
        !text.is_empty() && text.chars().all(is_allowed) && !text.starts_with(|c: char| c.is_ascii_digit());
    let mut why = reasons([(!fits, VARIABLE.to_owned())]);
    match text {
        "." | ".." => why.push(format!("must not be '{text}'")),
        _ if text.starts_with("..") => why.push("must not start with '..'".to_owned()),
        _ => {}
    }
    why
}

/// Why a text is no name of an object of this kind.
pub(crate) fn not_name(resource: &Resource, name: &str) -> Vec<String> {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("rbac.authorization.k8s.io", _) if matches!(name, "." | "..") => {
            vec![format!("may not be '{name}'")]
        }
        ("rbac.authorization.k8s.io", _) => {
            reasons(['/', '%'].map(|c| (name.contains(c), format!("may not contain '{c}'"))))
        }
        ("apiregistration.k8s.io", _) => Vec::new(),
        ("", "Namespace") => not_label(name),
        ("", "Service") => not_old_label(name),
        _ => not_subdomain(name),
    }
}

/// Adds what speaks against a text.
pub(crate) fn refuse(field: &str, text: &str, why: Vec<String>, causes: &mut Vec<Cause>) {
    causes.extend(why.iter().map(|why| invalid(field, &text.into(), why)));
}

/// Why a text is no qualified name, each reason by itself.
pub(crate) fn not_qualified(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split('/').collect::<Vec<_>>().as_slice() {
        [name] => (None, *name),
        [prefix, name] => (Some(*prefix), *name),
        _ => {
            return vec![format!(
                "a qualified name {PART} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    let mut why = Vec::new();
    match prefix {
        Some("") => why.push("prefix part must be non-empty".to_owned()),
        Some(prefix) if !is_subdomain(prefix) => why.push(format!("prefix part {SUBDOMAIN}")),
        _ => {}
    }
    if name.is_empty() {
        why.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        why.push("name part must be no more than 63 characters".to_owned());
    }
    if !is_word(name) {
        why.push(format!("name part {PART}"));
    }
    why
}

/// What is wrong with the labels and annotations of an object.
pub(crate) fn check_metadata(new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    check_labels("metadata.labels", new.pointer("/metadata/labels"), &mut causes);
    check_annotations(
        "metadata.annotations",
        new.pointer("/metadata/annotations"),
        &mut causes,
    );
    check_owners(new, &mut causes);
    causes
}

/// What is wrong with a map of labels.
pub(super) fn check_labels(field: &str, labels: Option<&Value>, causes: &mut Vec<Cause>) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        refuse(field, key, not_qualified(key), causes);
        let value = value.as_str().unwrap_or_default();
        refuse(field, value, not_label_value(value), causes);
    }
}

/// Why a text is no value of a label.
pub(crate) fn not_label_value(value: &str) -> Vec<String> {
    reasons([
        (value.len() > 63, too_long(63)),
        (!value.is_empty() && !is_word(value), LABEL.to_owned()),
    ])
}

/// What is wrong with a map of annotations.
pub(super) fn check_annotations(field: &str, annotations: Option<&Value>, causes: &mut Vec<Cause>) {
    for (key, _) in annotations.and_then(Value::as_object).into_iter().flatten() {
        refuse(field, key, not_qualified(&key.to_lowercase()), causes);
    }
}

/// What is wrong with a selector of labels.
pub(super) fn check_selector(field: &str, selector: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(selector) = selector.filter(|selector| !selector.is_null()) else {
        return;
    };
    check_labels(
        &format!("{field}.matchLabels"),
        selector.get("matchLabels"),
        causes,
    );
    for (index, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let path = format!("{field}.matchExpressions[{index}]");
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => causes.push(required(
                &format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => causes.push(forbidden(
                &format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.push(invalid(
                &format!("{path}.operator"),
                &other.into(),
                "not a valid selector operator",
            )),
        }
        let key = text(expression, "key");
        refuse(&format!("{path}.key"), key, not_qualified(key), causes);
    }
}

/// What is wrong with the owners of an object.
fn check_owners(new: &Value, causes: &mut Vec<Cause>) {
    const FIELD: &str = "metadata.ownerReferences";
    let owners = list_at(new, "/metadata/ownerReferences");
    let mut controller = "";
    for owner in owners {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, key).is_empty() {
                let what = if key == "apiVersion" { "version" } else { key };
                let why = format!("{what} must not be empty");
                causes.push(invalid(&format!("{FIELD}.{key}"), &"".into(), &why));
            }
        }
        // Events are too many and too short-lived to own anything.
        if text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Event" {
            let shown = go_owner(owner);
            let why = format!("Invalid value: {shown}: /v1, Kind=Event is disallowed from being an owner");
            causes.push(cause("FieldValueInvalid", FIELD, why));
        }
        if owner.get("controller") != Some(&Value::Bool(true)) {
            continue;
        }
        if controller.is_empty() {
            controller = text(owner, "name");
        } else {
            let shown: Vec<_> = owners.iter().map(go_owner).collect();
            let why = format!(
                "Invalid value: []v1.OwnerReference{{{}}}: Only one reference can have Controller set to true. Found \
                 \"true\" in references for {controller} and {}",
                shown.join(", "),
                text(owner, "name")
            );
            causes.push(cause("FieldValueInvalid", FIELD, why));
        }
    }
}

fn go_owner(owner: &Value) -> String {
    let part = |key: &str| golang::quote(text(owner, key));
    let flag = |key: &str| golang::pointer("bool", owner.get(key));
    format!(
        "v1.OwnerReference{{APIVersion:{}, Kind:{}, Name:{}, UID:{}, Controller:{}, BlockOwnerDeletion:{}}}",
        part("apiVersion"),
        part("kind"),
        part("name"),
        part("uid"),
        flag("controller"),
        flag("blockOwnerDeletion")
    )
}

/// What is wrong with the data of a ConfigMap or Secret.
pub(super) fn check_data(resource: &Resource, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let keys = |field: &str| -> Vec<&String> {
        let map = new.get(field).and_then(Value::as_object);
        map.into_iter().flatten().map(|(key, _)| key).collect()
    };
    let is_key = |key: &str| {
        !key.is_empty()
            && key.len() <= 253
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    for field in ["data", "binaryData"] {
        for key in keys(field) {
            let path = format!("{field}[{key}]");
            if !is_key(key) {
                causes.push(invalid(&path, &key.as_str().into(), KEY));
            }
            if field == "data" && resource.kind == "ConfigMap" && keys("binaryData").contains(&key) {
                causes.push(invalid(
                    &path,
                    &key.as_str().into(),
                    "duplicate of key present in binaryData",
                ));
            }
        }
    }
    if resource.kind == "Secret" {
        let has = |key: &str| new.pointer("/data").is_some_and(|data| data.get(key).is_some());
        match text(new, "type") {
            "kubernetes.io/tls" => {
                for key in ["tls.crt", "tls.key"].into_iter().filter(|key| !has(key)) {
                    causes.push(required(&format!("data[{key}]"), ""));
                }
            }
            "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
                // The server forgets to fill its own template in.
                causes.push(required("data[%s][username]", ""));
                causes.push(required("data[%s][password]", ""));
            }
            "kubernetes.io/dockerconfigjson" => causes.extend(check_docker(new)),
            _ => {}
        }
    }
    causes
}

fn check_docker(new: &Value) -> Option<Cause> {
    use base64::Engine as _;
    let field = "data[.dockerconfigjson]";
    let Some(data) = new.pointer("/data/.dockerconfigjson").and_then(Value::as_str) else {
        return Some(required(field, ""));
    };
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(data)
        .unwrap_or_default();
    let first = decoded
        .iter()
        .find(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(*byte));
    let why = match (serde_json::from_slice::<Value>(&decoded), first) {
        (Ok(_), _) => return None,
        (Err(error), _) if error.is_eof() => "unexpected end of JSON input".to_owned(),
        (Err(_), Some(first)) if !matches!(first, '{' | '[' | '"') => {
            format!("invalid character '{first}' looking for beginning of value")
        }
        (Err(error), _) => error.to_string(),
    };
    let shown = format!("Invalid value: \"<secret contents redacted>\": {why}");
    Some(cause("FieldValueInvalid", field, shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Builtins;

    #[test]
    fn names_are_refused_for_every_reason() {
        let builtins = Builtins::new(20);
        let check = |kind: &str, name: &str, expect: &[&str]| {
            let resource = builtins.find_kind("", kind).expect("a kind");
            let why = not_name(resource, name);
            let begins: Vec<_> = why
                .iter()
                .map(|why| why.split(" must consist").next().unwrap_or_default())
                .collect();
            assert_eq!(begins, expect, "{kind} {name}");
        };
        let long = "a".repeat(64);
        let most = "must be no more than 63 characters";
        check("ConfigMap", &long, &[]);
        check(
            "ConfigMap",
            &format!("{}é", "a".repeat(62)),
            &["a lowercase RFC 1123 subdomain"],
        );
        check(
            "ConfigMap",
            &format!("{}_X", "a".repeat(63)),
            &["a lowercase RFC 1123 subdomain"],
        );
        check(
            "ConfigMap",
            &format!("{}é", "a".repeat(252)),
            &[
                "must be no more than 253 characters",
                "a lowercase RFC 1123 subdomain",
            ],
        );
        check("Namespace", &long, &[most]);
        check(
            "Namespace",
            &format!("{long}."),
            &[most, "a lowercase RFC 1123 label"],
        );
        check("Service", &long, &[most]);
        check("Service", &format!("0{long}"), &[most, "a DNS-1035 label"]);
    }
}
