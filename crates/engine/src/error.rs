//! Why a run stopped.

use object::ObjectKey;
use upgrade::plan::Condition;

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
        condition: Condition,
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
    /// The platform is in place; of its components these are not.
    #[error("{}", describe(.failed, .left_out))]
    Components {
        failed: Vec<crate::Failure>,
        /// Each with the component that it needs and that is not done.
        left_out: Vec<(String, String)>,
    },
    #[error("the run was interrupted")]
    Interrupted,
}

fn describe(failed: &[crate::Failure], left_out: &[(String, String)]) -> String {
    let failed: Vec<_> = failed
        .iter()
        .map(|failure| format!("component {}: {}", failure.component, failure.why))
        .collect();
    let left_out: Vec<_> = left_out
        .iter()
        .map(|(component, need)| format!("component {component} waits for {need}"))
        .collect();
    let all: Vec<_> = failed.into_iter().chain(left_out).collect();
    format!(
        "KubeSphere itself is in place, but not all of its components: {}",
        all.join("; ")
    )
}

/// An object as kubectl takes it. Of custom resources others may have kinds of the same name.
fn as_argument(object: &ObjectKey) -> String {
    let group = if object.group.contains('.') {
        format!(".{}", object.group)
    } else {
        String::new()
    };
    let namespace = object.namespace.as_ref().map(|name| format!(" -n {name}"));
    format!(
        "{}{group}{} {}",
        object.kind.to_lowercase(),
        namespace.unwrap_or_default(),
        object.name
    )
}

impl RunError {
    /// Whether something did not come about that was waited for: somebody has to see to it.
    pub fn is_unmet_wait(&self) -> bool {
        matches!(self, Self::WaitForCondition { .. } | Self::ConditionFailed { .. })
    }

    /// Whether a rollout did not come to its end: waiting longer or going back are the ways on.
    pub fn is_failed_rollout(&self) -> bool {
        let is_deletion =
            matches!(self, Self::WaitForCondition { condition, .. } if *condition == Condition::Gone);
        self.is_unmet_wait() && !is_deletion
    }

    /// What to do about it, where there is more to say than "run it again".
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::WriteObject(error) => error.hint(),
            Self::ReadObject(error) => error.hint(),
            Self::WaitForCondition {
                object,
                condition: Condition::Gone,
                ..
            } => Some(format!(
                "see that the controller runs which has to clear its finalizers, then run it again: it goes on from here. \
                 Where none ever will, take them off, which leaves behind what they stand for: kubectl patch {} --type=merge \
                 -p '{{\"metadata\":{{\"finalizers\":null}}}}'",
                as_argument(object)
            )),
            Self::WaitForCondition { object, .. } | Self::ConditionFailed { object, .. } => Some(format!(
                "look at it with: kubectl describe {}; then run it again, it goes on from here",
                as_argument(object)
            )),
            Self::Journal(error) => error.hint(),
            Self::Components { failed, .. } => Some(
                failed
                    .iter()
                    .find_map(|failure| failure.why.hint())
                    .unwrap_or_else(|| "run it again: what is done stays done".to_owned()),
            ),
            Self::ResolveSecret { .. } => Some("run it again: a missing secret is made anew".to_owned()),
            _ => None,
        }
    }
}
