//! Steps, made from an object as it is and as it should be.

use object::{Object, ObjectKey, diff, drift::Rule, merge};
use serde_json::{Value, json};

use super::{Decider, DriftOf, ORDER};
use crate::{
    Action, Finding, Step, health,
    plan::{self, Body, Condition},
    reasons, verify,
};

/// What came of comparing an object of the release with the one that is there.
#[derive(Default)]
pub(super) struct Compared {
    pub step: Option<Step>,
    pub findings: Vec<Finding>,
    pub drift: Vec<DriftOf>,
}

impl Decider<'_> {
    pub(super) fn push(&mut self, stage: &str, step: Step) {
        plan::push(&mut self.stages, &ORDER, stage, step);
    }

    /// Plans to apply `new`, see [`Self::compare`]. Returns whether there is a step.
    pub(super) fn apply(&mut self, stage: &str, old: Option<&Value>, new: &Object, shown: &Object) -> bool {
        let compared = self.compare(old, new, shown);
        self.settle(stage, compared)
    }

    /// Puts into the plan what came of a comparison. Returns whether there is a step.
    pub(super) fn settle(&mut self, stage: &str, compared: Compared) -> bool {
        self.findings.extend(compared.findings);
        self.drift.extend(compared.drift);
        let Some(step) = compared.step else {
            self.unchanged += 1;
            return false;
        };
        self.push(stage, step);
        true
    }

    /// What it takes to apply `new`: nothing where the live object already equals the result. `old` is what the old release
    /// set. `shown` is `new` with references in place of secrets, for what is shown.
    pub(super) fn compare(&self, old: Option<&Value>, new: &Object, shown: &Object) -> Compared {
        let mut compared = Compared::default();
        let key = new.key();
        let Some(live) = self.snapshot.get(&key) else {
            let action = Action::Apply {
                digest: plan::digest_value(shown.as_value()),
                body: Body(new.as_value().clone()),
                previous: Body::default(),
            };
            compared.step = Some(step(key, action, None));
            return compared;
        };
        let mut merged = merge::three_way(old, live, new, self.drift_rule(&key));
        for drift in &mut merged.drift {
            let shown =
                diff::Change::new(&drift.path, drift.released.as_ref(), drift.live.as_ref()).redacted(&key);
            (drift.released, drift.live) = (shown.from, shown.to);
            drift.new = diff::Change::new(&drift.path, None, drift.new.as_ref())
                .redacted(&key)
                .to;
            let path = &drift.path;
            let changed = format!(
                "{path} was changed by hand from {} to {}",
                side(drift.released.as_ref()),
                side(drift.live.as_ref())
            );
            let finding = match (drift.kept, drift.open) {
                (true, _) => Finding::info(reasons::DRIFT_KEPT, format!("{changed} and stays as it is"))
                .hint("upgrade with --drift overwrite to put the release's values back, or with --drift ask"),
                (false, true) => Finding::warning(
                    reasons::DRIFT_OVERWRITTEN,
                    format!("{changed} and gets the release's value back"),
                )
                .hint("upgrade with --drift keep to let such fields stay as they are, or with --drift ask"),
                (false, false) => Finding::warning(
                    reasons::DRIFT_OVERWRITTEN,
                    format!("{changed}; the release sets it to {}", side(drift.new.as_ref())),
                ),
            };
            compared.findings.push(finding.on(key.clone()));
            compared.drift.push(DriftOf {
                object: key.clone(),
                drift: drift.clone(),
            });
        }
        if merged.changes.is_empty() {
            return compared;
        }
        // Of what holds secrets, what is known by the references to them: some are made while the plan is carried out.
        let digest = if new == shown {
            plan::digest_value(&merged.applied)
        } else {
            plan::digest_value(&merge::three_way(old, live, shown, self.drift_rule(&key)).applied)
        };
        let mut previous = old.cloned();
        if live.annotation(object::LAST_APPLIED).is_some() && !is_shared(&key) {
            // What client-side apply noted down is no longer true once somebody else applies.
            let previous = previous.get_or_insert_with(|| json!({}));
            if previous.is_object() {
                previous["metadata"]["annotations"][object::LAST_APPLIED] = "".into();
            }
        }
        let action = Action::Apply {
            digest,
            body: Body(merged.applied),
            previous: Body(previous.unwrap_or_default()),
        };
        let is_of_pods = |change: &diff::Change| change.path.starts_with("spec.template");
        if health::updates_on_delete(live) && merged.changes.iter().any(is_of_pods) {
            compared.findings.push(verify::pods_keep_old_template(
                live,
                "its pods do not change with it",
            ));
        }
        let mut step = step(key.clone(), action, Some(live));
        step.changes = merged
            .changes
            .into_iter()
            .map(|change| change.redacted(&key))
            .collect();
        step.drift = merged.drift;
        compared.step = Some(step);
        compared
    }

    /// The policy for an object's drift, with what was answered about its fields.
    pub(super) fn drift_rule(&self, key: &ObjectKey) -> Rule {
        let answers = self.options.drift_answers.iter();
        Rule {
            policy: self.options.drift,
            answers: answers
                .filter(|answer| answer.object == *key)
                .map(|answer| (answer.path.clone(), answer.verdict))
                .collect(),
        }
    }

    /// Plans a merge patch of a live object, as it will be after what is planned for it already.
    pub(super) fn patch(&mut self, stage: &str, live: &Object, patch: Value, note: Option<String>) {
        let key = live.key();
        let live = &self.patched(live);
        let changes = patch_changes(live.as_value(), &patch);
        let action = Action::Patch {
            digest: plan::digest_value(&patch),
            body: Body(patch),
        };
        let mut step = step(key.clone(), action, Some(live));
        step.changes = changes.into_iter().map(|change| change.redacted(&key)).collect();
        step.note = note;
        self.push(stage, step);
    }

    /// The object after the patches that are planned for it. A run that was cut between two patches of an object
    /// finds it so, and its saved plan still fits.
    fn patched(&self, live: &Object) -> Object {
        let key = live.key();
        let mut value = live.as_value().clone();
        for step in self.stages.iter().flat_map(|stage| &stage.steps) {
            if let Action::Patch { body, .. } = &step.action
                && step.object == key
            {
                merge_patch(&mut value, &body.0);
            }
        }
        Object::try_from(value).unwrap_or_else(|_| live.clone())
    }

    pub(super) fn wait(&mut self, stage: &str, key: ObjectKey, condition: Condition) {
        self.push(stage, step(key, Action::Wait { condition }, None));
    }
}

/// A value in a sentence; long ones are cut.
fn side(value: Option<&Value>) -> String {
    const LONGEST: usize = 60;
    let Some(value) = value else {
        return "nothing".to_owned();
    };
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Whether others set fields of it in their own right, by whatever tool: then nothing that was applied before is the
/// release's to take away. The release only puts labels on namespaces.
pub(super) fn is_shared(key: &ObjectKey) -> bool {
    key.is("", "Namespace")
}

pub(crate) fn step(object: ObjectKey, action: Action, live: Option<&Object>) -> Step {
    Step {
        object,
        action,
        before: live.map(plan::digest),
        changes: Vec::new(),
        drift: Vec::new(),
        note: None,
    }
}

/// What a JSON merge patch (RFC 7386) changes in a value.
pub(crate) fn patch_changes(live: &Value, patch: &Value) -> Vec<diff::Change> {
    let mut after = live.clone();
    merge_patch(&mut after, patch);
    diff::changes(live, &after)
}

/// Changes a value by a JSON merge patch (RFC 7386).
pub fn merge_patch(value: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    let Some(map) = value.as_object_mut() else { return };
    for (name, change) in patch {
        if change.is_null() {
            map.remove(name);
        } else {
            merge_patch(map.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}
