//! JSON patch, JSON merge patch and strategic merge patch, as kube-apiserver 1.20 applies them.
//!
//! What comes out is the patched document: defaults and the server's form follow with
//! [`apply_defaults`](super::defaults::apply_defaults) (built-in kinds), pruning and validation with
//! [`validate`](super::validate) (custom resources).

mod json;
mod strategic;

pub(crate) use json::kind;

use serde_json::{Map, Value};
use thiserror::Error;

use super::Schema;

/// Why a patch was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatchError {
    /// The patch itself cannot be read: answered as 400 `BadRequest` with this text.
    #[error("{0}")]
    BadRequest(String),
    /// The patch does not fit the object: answered as 422 `Invalid`, whose message is the server's general
    /// `the server rejected our request due to an error in our request`; this text is for the log.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch is too long: answered as 413 `RequestEntityTooLarge`.
    #[error("{0}")]
    TooLarge(String),
    /// Anything else: answered as 500 `InternalError` with this text.
    #[error("{0}")]
    Internal(String),
}

/// Applies a JSON patch (RFC 6902).
///
/// As in the server, replacing a field that is not there adds it, and an index from the end may be negative.
pub fn json(live: &Value, patch: &Value) -> Result<Value, PatchError> {
    json::apply(live, patch)
}

/// Applies a JSON merge patch (RFC 7386). Nulls in lists that are new are dropped as well.
pub fn merge(live: &Value, patch: &Value) -> Value {
    match (live, patch) {
        (Value::Object(live), Value::Object(patch)) => Value::Object(merge_fields(live, patch)),
        _ => without_nulls(patch),
    }
}

fn merge_fields(live: &Map<String, Value>, patch: &Map<String, Value>) -> Map<String, Value> {
    let mut out = live.clone();
    for (key, value) in patch {
        let merged = match (out.get(key), value) {
            (_, Value::Null) => {
                out.shift_remove(key);
                continue;
            }
            (Some(Value::Object(old)), Value::Object(new)) => Value::Object(merge_fields(old, new)),
            (Some(Value::Object(_)), value) => value.clone(),
            (_, value) => without_nulls(value),
        };
        out.insert(key.clone(), merged);
    }
    out
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_nulls(value)))
            .collect(),
        Value::Array(items) => items
            .iter()
            .filter(|item| !item.is_null())
            .map(without_nulls)
            .collect(),
        scalar => scalar.clone(),
    }
}

/// Applies a strategic merge patch under the schema of a built-in kind; other kinds do not support it.
pub fn strategic(live: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    strategic::apply(live, patch, schema)
}
