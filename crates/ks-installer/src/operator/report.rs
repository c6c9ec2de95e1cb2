//! What the ClusterConfiguration's status says of a reconciliation: for people, for `kubectl wait`, for machines.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// How long a message may be, in characters: what is in a ClusterConfiguration may be of any length.
const LONGEST: usize = 1000;

/// Where a reconciliation stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A plan waits for somebody's approval.
    AwaitingApproval,
    /// Something must be resolved first; nothing was written.
    Blocked,
    Upgrading,
    /// A run stopped, and is tried again.
    Retrying,
    Running,
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AwaitingApproval => "AwaitingApproval",
            Self::Blocked => "Blocked",
            Self::Upgrading => "Upgrading",
            Self::Retrying => "Retrying",
            Self::Running => "Running",
        }
    }
}

/// Whether something holds, and why. `reason` is for machines and stays the same from version to version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub kind: &'static str,
    /// `None`: not known.
    pub holds: Option<bool>,
    pub reason: String,
    pub message: String,
}

impl Condition {
    pub(super) fn new(
        kind: &'static str,
        holds: impl Into<Option<bool>>,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            holds: holds.into(),
            reason: reason.into(),
            message: message.into(),
        }
    }

    fn status(&self) -> &'static str {
        match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// What is published of one moment of a reconciliation.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub phase: Phase,
    /// `7/12 Core workloads`
    pub progress: String,
    /// SHA-256 of the spec that this speaks of. Without a status subresource status writes count up the generation, so
    /// that `observedGeneration` would say nothing.
    pub spec: String,
    pub conditions: Vec<Condition>,
    /// Further keys: the plan, its stages, the components. What is not given stays as it is; null goes.
    pub details: Map<String, Value>,
}

impl Report {
    pub(super) fn with(mut self, name: &str, value: Value) -> Self {
        self.details.insert(name.to_owned(), value);
        self
    }
}

/// The JSON merge patch (RFC 7386) that brings a live status there; `None` when it says so already. Everything else in it
/// (the components' keys above all) stays. A condition keeps the time of its last transition while its status stays.
pub(super) fn patch(live: &Value, report: &Report, now: Timestamp) -> Option<Value> {
    let before = live.get("conditions").and_then(Value::as_array);
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut conditions: Vec<Value> = Vec::new();
    let named = |kind: &str| {
        before
            .into_iter()
            .flatten()
            .find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))
    };
    for condition in &report.conditions {
        let status = condition.status();
        let message: String = condition.message.chars().take(LONGEST).collect();
        let old =
            named(condition.kind).filter(|old| old.get("status").and_then(Value::as_str) == Some(status));
        let since = old.and_then(|old| old.get("lastTransitionTime")).cloned();
        conditions.push(json!({
            "type": condition.kind, "status": status, "reason": condition.reason, "message": message,
            "lastTransitionTime": since.unwrap_or_else(|| time.clone().into()),
        }));
    }
    // What is not spoken of now (that there is a backup) stays as it was.
    for old in before.into_iter().flatten() {
        let kind = old.get("type").and_then(Value::as_str).unwrap_or_default();
        if !report.conditions.iter().any(|condition| condition.kind == kind) {
            conditions.push(old.clone());
        }
    }
    conditions.sort_by_key(|condition| condition["type"].to_string());
    let always = [
        ("phase", report.phase.name().into()),
        ("progress", report.progress.clone().into()),
        ("specSHA256", report.spec.clone().into()),
        ("conditions", conditions.into()),
    ];
    let always = always.map(|(name, value): (_, Value)| (name.to_owned(), value));
    let changed: Map<String, Value> = always
        .into_iter()
        .chain(report.details.clone())
        .filter(|(name, value)| live.get(name).unwrap_or(&Value::Null) != value)
        .map(|(name, value)| match live.get(&name) {
            Some(old) if value.is_object() => (name, replacing(old, value)),
            _ => (name, value),
        })
        .collect();
    (!changed.is_empty()).then(|| json!({"status": changed}))
}

/// A merge patch keeps the keys that it does not name: those that are to go are named.
fn replacing(old: &Value, mut new: Value) -> Value {
    if let (Some(old), Some(new)) = (old.as_object(), new.as_object_mut()) {
        for name in old.keys() {
            if !new.contains_key(name) {
                new.insert(name.clone(), Value::Null);
            }
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk(phase: Phase, available: bool) -> Report {
        Report {
            phase,
            progress: "12/12".into(),
            spec: "abc".into(),
            conditions: vec![Condition::new("Available", available, "Verified", "all runs")],
            details: Map::new(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn merged(live: &Value, patch: Option<Value>) -> Value {
        let mut live = json!({"status": live});
        if let Some(patch) = patch {
            merge(&mut live, &patch);
        }
        live["status"].take()
    }

    fn merge(value: &mut Value, patch: &Value) {
        match patch.as_object() {
            Some(patch) => {
                if !value.is_object() {
                    *value = json!({});
                }
                for (name, patch) in patch {
                    if patch.is_null() {
                        value.as_object_mut().unwrap().remove(name);
                    } else {
                        merge(&mut value[name], patch);
                    }
                }
            }
            None => *value = patch.clone(),
        }
    }

    #[test]
    fn what_is_said_already_is_not_written_again() {
        let live = json!({"core": {"status": "enabled"}});
        let first = merged(&live, patch(&live, &mk(Phase::Running, true), at(0)));
        assert_eq!(first["core"]["status"], "enabled");
        assert_eq!(first["phase"], "Running");
        assert_eq!(
            first["conditions"][0]["lastTransitionTime"],
            "1970-01-01T00:00:00Z"
        );
        assert_eq!(patch(&first, &mk(Phase::Running, true), at(60)), None);

        // Only a change of the status moves the time of the transition.
        let mut other = mk(Phase::Running, true);
        other.conditions[0].message = "all runs still".into();
        let second = merged(&first, patch(&first, &other, at(60)));
        assert_eq!(second["conditions"][0]["message"], "all runs still");
        assert_eq!(
            second["conditions"][0]["lastTransitionTime"],
            "1970-01-01T00:00:00Z"
        );
        let third = merged(&second, patch(&second, &mk(Phase::Retrying, false), at(60)));
        assert_eq!(
            third["conditions"][0]["lastTransitionTime"],
            "1970-01-01T00:01:00Z"
        );
    }

    #[test]
    fn conditions_that_are_not_spoken_of_stay_and_a_plan_is_replaced_whole() {
        let live = json!({
            "conditions": [{"type": "BackedUp", "status": "True"}],
            "plan": {"digest": "old", "note": "old"},
        });
        let mut report = mk(Phase::Upgrading, true);
        report = report.with("plan", json!({"digest": "new"}));
        let after = merged(&live, patch(&live, &report, at(0)));
        let kinds: Vec<_> = after["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| &c["type"])
            .collect();
        assert_eq!(kinds, ["Available", "BackedUp"]);
        assert_eq!(after["plan"], json!({"digest": "new"}));
        let silent = merged(&after, patch(&after, &mk(Phase::Running, true), at(0)));
        assert_eq!(
            silent["plan"],
            json!({"digest": "new"}),
            "what is not spoken of stays"
        );
        let gone = report.with("plan", Value::Null);
        assert_eq!(merged(&after, patch(&after, &gone, at(0))).get("plan"), None);
    }
}
