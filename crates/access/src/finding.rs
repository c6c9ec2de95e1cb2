//! What a person should know about the roles of a cluster, or has to decide.

use object::ObjectKey;
use serde::{Deserialize, Serialize};

/// Stable names of findings. Never renamed.
pub mod reason {
    /// A custom role names a template that no release and no object of the cluster has.
    pub const UNKNOWN_TEMPLATE: &str = "UnknownTemplate";
    /// A custom role's list of templates is not a JSON list of strings.
    pub const UNREADABLE_AGGREGATION: &str = "UnreadableAggregation";
    /// A role's rules cannot be read.
    pub const UNREADABLE_RULES: &str = "UnreadableRules";
    /// A custom role does not hold all rules of its templates, so none are added.
    pub const TRIMMED_BY_HAND: &str = "TrimmedByHand";
    /// A role grants a revoked permission by rules of its own.
    pub const GRANTS_REVOKED_PERMISSION: &str = "GrantsRevokedPermission";
    /// A role of somebody's own has the name of a role that the new release brings.
    pub const BUILT_IN_NAME_TAKEN: &str = "BuiltInNameTaken";
    /// A binding refers to a role that does not exist.
    pub const DANGLING_BINDING: &str = "DanglingBinding";
    /// A template that the new release no longer has is kept, because something refers to it.
    pub const TEMPLATE_STILL_REFERRED_TO: &str = "TemplateStillReferredTo";
}

/// One thing to know, or to decide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessFinding {
    pub object: ObjectKey,
    /// One of [`reason`].
    pub reason: String,
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The migration leaves something as it is that only a person can put right.
    pub needs_decision: bool,
}
