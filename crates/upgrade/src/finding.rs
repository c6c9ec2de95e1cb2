//! What a check found.

use object::ObjectKey;
use serde::{Deserialize, Serialize};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is written until this is resolved.
    Blocker,
    /// The upgrade goes on; somebody should look.
    Warning,
    /// Worth knowing.
    Info,
}

/// One thing that a check found. Equal findings are the same finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    pub severity: Severity,
    /// Stable, PascalCase; scripts may rely on it. The reasons stand in [`crate::reasons`].
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectKey>,
    /// What is the matter, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    pub fn new(severity: Severity, reason: &str, message: impl Into<String>) -> Self {
        Self {
            severity,
            reason: reason.into(),
            object: None,
            message: message.into(),
            hint: None,
        }
    }

    pub fn blocker(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Blocker, reason, message)
    }

    pub fn warning(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, reason, message)
    }

    pub fn info(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Info, reason, message)
    }

    pub fn on(mut self, object: ObjectKey) -> Self {
        self.object = Some(object);
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
