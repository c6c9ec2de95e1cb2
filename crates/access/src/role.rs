//! What becomes of one custom role.

use object::ObjectKey;
use serde::{Deserialize, Serialize};

use crate::Rule;

/// A template that goes by a new name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Renamed {
    pub from: String,
    pub to: String,
}

/// What changes in one custom role: its list of templates, its rules, or both. Everything else of it stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleChange {
    pub key: ObjectKey,
    /// The new text of the annotation [`crate::AGGREGATION`], a compact JSON list. `None`: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotation: Option<String>,
    /// All rules that the role has afterwards. `None`: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<Rule>>,
    /// Revoked templates that leave the list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed_templates: Vec<String>,
    /// Templates that stay in the list under a new name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renamed_templates: Vec<Renamed>,
    /// Templates that stay, and allow more in the new release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extended_templates: Vec<String>,
}
