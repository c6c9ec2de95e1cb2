//! Names inside objects: labels, annotations, keys of ConfigMaps and Secrets, in the words of the server.

use serde_json::Value;

use crate::fields::validate::Cause;
use crate::json::text;
use crate::kinds::Resource;
use crate::status::{cause, invalid, required};

const PART: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                    character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                         must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
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

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|label| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    })
}

/// Why a text is no qualified name, each reason by itself.
fn not_qualified(text: &str) -> Vec<String> {
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
    let entries = |key: &str| {
        new.pointer(&format!("/metadata/{key}"))
            .and_then(Value::as_object)
    };
    for (key, value) in entries("labels").into_iter().flatten() {
        for why in not_qualified(key) {
            causes.push(invalid("metadata.labels", &key.as_str().into(), &why));
        }
        let value = value.as_str().unwrap_or_default();
        if value.len() > 63 {
            causes.push(invalid(
                "metadata.labels",
                &value.into(),
                "must be no more than 63 characters",
            ));
        }
        if !value.is_empty() && !is_word(value) {
            causes.push(invalid("metadata.labels", &value.into(), LABEL));
        }
    }
    for key in entries("annotations").into_iter().flatten().map(|(key, _)| key) {
        for why in not_qualified(&key.to_lowercase()) {
            causes.push(invalid("metadata.annotations", &key.as_str().into(), &why));
        }
    }
    causes
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
