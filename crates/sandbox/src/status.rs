//! The API server's answers to requests that it refuses.

use serde_json::{Map, Value, json};

use crate::fields::validate::Cause;
use crate::golang::quote;
use crate::kinds::{Resource, qualified};

/// A `Status` of kind Failure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Status {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Value,
}

pub(crate) type Result<T, E = Status> = std::result::Result<T, E>;

/// One reason against one field, in the words of the server's field errors.
pub(crate) fn cause(reason: &'static str, field: &str, message: impl Into<String>) -> Cause {
    Cause {
        reason,
        field: field.to_owned(),
        message: message.into(),
    }
}

pub(crate) fn required(field: &str, detail: &str) -> Cause {
    let message = if detail.is_empty() {
        "Required value".to_owned()
    } else {
        format!("Required value: {detail}")
    };
    cause("FieldValueRequired", field, message)
}

pub(crate) fn invalid(field: &str, value: &Value, detail: &str) -> Cause {
    cause(
        "FieldValueInvalid",
        field,
        format!("Invalid value: {}: {detail}", shown(value)),
    )
}

pub(crate) fn forbidden(field: &str, detail: &str) -> Cause {
    cause("FieldValueForbidden", field, format!("Forbidden: {detail}"))
}

pub(crate) fn unsupported(field: &str, value: &str, supported: &[&str]) -> Cause {
    let supported: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
    cause(
        "FieldValueNotSupported",
        field,
        format!(
            "Unsupported value: {value:?}: supported values: {}",
            supported.join(", ")
        ),
    )
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

impl Status {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    pub(crate) fn with_details(mut self, details: Value) -> Status {
        self.details = details;
        self
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Status {
        Status::not_found_as(&resource.plural, &resource.group, name)
    }

    pub(crate) fn not_found_as(plural: &str, group: &str, name: &str) -> Status {
        Status::new(
            404,
            "NotFound",
            format!("{} \"{name}\" not found", qualified(plural, group)),
        )
        .with_details(details(name, group, plural))
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Status {
        Status::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", resource.qualified()),
        )
        .with_details(details(name, &resource.group, &resource.plural))
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Status {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            resource.qualified()
        );
        Status::new(409, "Conflict", message).with_details(details(name, &resource.group, &resource.plural))
    }

    /// A conflict over the preconditions of a deletion, which the server words by the kind.
    pub(crate) fn precondition(resource: &Resource, name: &str, why: &str) -> Status {
        let kind = qualified(&resource.kind, &resource.group);
        let message = format!("Operation cannot be fulfilled on {kind} \"{name}\": {why}");
        Status::new(409, "Conflict", message).with_details(details(name, &resource.group, &resource.kind))
    }

    pub(crate) fn modified(resource: &Resource, name: &str) -> Status {
        Status::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> Status {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", resource.qualified())
        } else {
            format!("{} \"{name}\" is forbidden: {why}", resource.qualified())
        };
        Status::new(403, "Forbidden", message).with_details(details(name, &resource.group, &resource.plural))
    }

    pub(crate) fn forbidden_as(plural: &str, group: &str, name: &str, why: &str) -> Status {
        let mut what = qualified(plural, group);
        if !name.is_empty() {
            what.push_str(&format!(" {name:?}"));
        }
        Status::new(403, "Forbidden", format!("{what} is forbidden: {why}"))
            .with_details(details(name, group, plural))
    }

    pub(crate) fn terminating(resource: &Resource, name: &str, namespace: &str) -> Status {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = Status::forbidden(resource, name, &why);
        status.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
        status
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Status {
        let message = message.to_string();
        Status::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
        .with_details(json!({ "causes": [{ "message": message }] }))
    }

    pub(crate) fn method_not_allowed() -> Status {
        Status::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with_details(json!({}))
    }

    pub(crate) fn definition_terminating(resource: &Resource) -> Status {
        let message = "create not allowed while custom resource definition is terminating";
        Status::new(405, "MethodNotAllowed", message).with_details(details(
            "",
            &resource.group,
            &resource.plural,
        ))
    }

    pub(crate) fn no_such_resource() -> Status {
        Status::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        .with_details(json!({}))
    }

    /// An answer of the HTTP layer, before any resource has a say.
    pub(crate) fn plain(code: u16, reason: &'static str, message: &str) -> Status {
        Status::new(code, reason, format!("{code}: {message}")).with_details(json!({}))
    }

    pub(crate) fn unauthorized() -> Status {
        Status::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn media_type(accepted: &[&str]) -> Status {
        Status::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }

    pub(crate) fn future_version(wanted: u64, current: u64) -> Status {
        let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
        Status::new(504, "Timeout", message).with_details(json!({
            "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
            "retryAfterSeconds": 1,
        }))
    }

    pub(crate) fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message)
    }

    pub(crate) fn invalid(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Status {
        let each: Vec<_> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect();
        let text = match each.as_slice() {
            [one] => one.clone(),
            many => {
                // The server names each distinct complaint once.
                let mut seen = Vec::new();
                for one in many {
                    if !seen.contains(one) {
                        seen.push(one.clone());
                    }
                }
                if let [one] = seen.as_slice() {
                    one.clone()
                } else {
                    format!("[{}]", seen.join(", "))
                }
            }
        };
        let mut details = details(name, group, kind);
        details["causes"] = causes
            .iter()
            .map(|cause| json!({ "reason": cause.reason, "message": cause.message, "field": cause.field }))
            .collect();
        Status::new(
            422,
            "Invalid",
            format!("{} \"{name}\" is invalid: {text}", qualified(kind, group)),
        )
        .with_details(details)
    }

    pub(crate) fn invalid_object(resource: &Resource, name: &str, causes: &[Cause]) -> Status {
        // To the server these two are of the group that they came from.
        let group = match resource.kind.as_str() {
            "Ingress" | "NetworkPolicy" if resource.group == "networking.k8s.io" => "extensions",
            _ => &resource.group,
        };
        Status::invalid(group, &resource.kind, name, causes)
    }

    pub(crate) fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("kind".into(), "Status".into());
        body.insert("apiVersion".into(), "v1".into());
        body.insert("metadata".into(), json!({}));
        body.insert("status".into(), "Failure".into());
        body.insert("message".into(), self.message.as_str().into());
        if !self.reason.is_empty() {
            body.insert("reason".into(), self.reason.into());
        }
        if !self.details.is_null() {
            body.insert("details".into(), self.details.clone());
        }
        body.insert("code".into(), self.code.into());
        Value::Object(body)
    }
}

fn details(name: &str, group: &str, kind: &str) -> Value {
    let mut details = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details.insert(key.into(), value.into());
        }
    }
    Value::Object(details)
}
