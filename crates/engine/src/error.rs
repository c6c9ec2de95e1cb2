//! Why a run stopped.

use object::ObjectKey;

/// Why a run stopped. What was done until then stays; running the upgrade again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    WriteObject(#[from] cluster::WriteError),
    #[error(transparent)]
    ReadObject(#[from] cluster::ReadError),
    #[error("{object} is not {condition} after {seconds} s: {progress}")]
    WaitForCondition {
        object: ObjectKey,
        condition: upgrade::plan::Condition,
        seconds: u64,
        progress: String,
    },
    #[error("{object}: {progress}")]
    ConditionFailed { object: ObjectKey, progress: String },
    #[error("{object} needs {reference}, which is not there")]
    ResolveSecret { object: ObjectKey, reference: String },
    #[error("cannot make {object}: {message}")]
    GenerateSecret { object: ObjectKey, message: String },
    #[error("cannot make {object}")]
    RecordRelease {
        object: ObjectKey,
        source: release::helm::HelmError,
    },
    #[error(transparent)]
    Journal(#[from] crate::JournalError),
    #[error("the run was interrupted")]
    Interrupted,
}

impl RunError {
    /// Whether a rollout did not come to its end: waiting longer or going back are the ways on.
    pub fn is_failed_rollout(&self) -> bool {
        matches!(self, Self::WaitForCondition { .. } | Self::ConditionFailed { .. })
    }

    /// What to do about it, where there is more to say than "run it again".
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::WriteObject(error) => error.hint(),
            Self::ReadObject(error) => error.hint(),
            Self::WaitForCondition { object, .. } | Self::ConditionFailed { object, .. } => {
                let namespace = object
                    .namespace
                    .as_ref()
                    .map(|n| format!(" -n {n}"))
                    .unwrap_or_default();
                Some(format!(
                    "look at it with: kubectl describe {}{namespace} {}; then run it again, it goes on from here",
                    object.kind.to_lowercase(),
                    object.name
                ))
            }
            Self::Journal(error) => error.hint(),
            Self::ResolveSecret { .. } => Some("run it again: a missing secret is made anew".to_owned()),
            _ => None,
        }
    }
}
