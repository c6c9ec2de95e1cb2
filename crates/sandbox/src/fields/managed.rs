//! Who owns which field: `metadata.managedFields`.

use serde_json::Value;
use thiserror::Error;

use super::Schema;

/// A field that another manager owns with a different value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The owner as the server names it: `"helm" using v1`, with subresource and time left out.
    pub manager: String,
    /// The path of the field, as the server writes it: `.spec.replicas`.
    pub field: String,
}

/// Why a configuration was not applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// Fields that others own with another value; answered as 409 with a cause each.
    #[error("{}", conflicts_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration does not fit the schema; answered as 500 or 422 with this text.
    #[error("{0}")]
    Invalid(String),
}

fn conflicts_message(conflicts: &[Conflict]) -> String {
    format!("Apply failed with {} conflicts", conflicts.len())
}

/// Records in `new` what `manager` changed by a create, update or patch of `old`.
pub fn update(old: Option<&Value>, new: &mut Value, manager: &str, time: &str, schema: &Schema) {
    let _ = (old, new, manager, time, schema);
}

/// Applies a configuration server-side and returns the new object.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    time: &str,
    schema: &Schema,
) -> Result<Value, ApplyError> {
    let _ = (manager, force, time, schema);
    let mut result = live.cloned().unwrap_or_else(|| applied.clone());
    json_patch::merge(&mut result, applied);
    Ok(result)
}
