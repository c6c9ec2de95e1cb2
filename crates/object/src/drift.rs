//! Drift: fields that somebody changed since the old release set them, and what becomes of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What becomes of a field that was changed by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The change stays.
    Keep,
    /// The release's value is put back.
    Overwrite,
}

/// What becomes of fields that somebody changed since the old release set them, where the new release sets them to the
/// same value as the old, or no longer sets them. What the new release itself changes wins, but for [sizes](is_size).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftPolicy {
    /// By the kind of field, see [`default_verdict`].
    #[default]
    ByField,
    /// All changes stay.
    Keep,
    /// The release's values are put back.
    Overwrite,
}

/// The policy, and what was decided for single fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub policy: DriftPolicy,
    /// By path.
    pub answers: BTreeMap<String, Verdict>,
}

impl From<DriftPolicy> for Rule {
    fn from(policy: DriftPolicy) -> Self {
        Self {
            policy,
            answers: BTreeMap::new(),
        }
    }
}

impl Rule {
    /// What becomes of the field at a path.
    pub fn verdict(&self, path: &str) -> Verdict {
        if let Some(answer) = self.answers.get(path) {
            return *answer;
        }
        match self.policy {
            DriftPolicy::ByField => default_verdict(path),
            DriftPolicy::Keep => Verdict::Keep,
            DriftPolicy::Overwrite => Verdict::Overwrite,
        }
    }
}

/// What becomes of a field, by its last name; the first line that fits counts. What makes a program another one is the
/// release's; how much of it there is, and all else, is whose cluster it is.
const TABLE: &[(Place, Verdict)] = &[
    (Place::OfContainer("image"), Verdict::Overwrite),
    (Place::OfContainer("command"), Verdict::Overwrite),
    (Place::OfContainer("args"), Verdict::Overwrite),
    (REPLICAS, Verdict::Keep),
    (RESOURCES, Verdict::Keep),
];

const REPLICAS: Place = Place::Within("replicas");
const RESOURCES: Place = Place::Within("resources");

/// Whether a field says how much of something there is: an autoscaler or whose cluster it is knows better than the next
/// release does.
pub fn is_size(path: &str) -> bool {
    path.starts_with("spec.") && (REPLICAS.has(path) || RESOURCES.has(path))
}

/// Where a field stands.
#[derive(Clone, Copy)]
enum Place {
    /// A field of this name in a container, or in one that runs before.
    OfContainer(&'static str),
    /// A field of this name, or below one.
    Within(&'static str),
}

impl Place {
    fn has(self, path: &str) -> bool {
        match self {
            Self::OfContainer(name) => path
                .rsplit_once("].")
                .is_some_and(|(container, last)| last == name && container.contains("ontainers[name=")),
            Self::Within(name) => path.split('.').any(|part| part.split('[').next() == Some(name)),
        }
    }
}

/// What becomes of the field at a path when nothing else is asked for: images, commands and arguments of containers are
/// put back, everything else stays.
pub fn default_verdict(path: &str) -> Verdict {
    TABLE
        .iter()
        .find(|(place, _)| place.has(path))
        .map_or(Verdict::Keep, |(_, verdict)| *verdict)
}

/// A field whose live value is neither the old release's nor the new one's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    pub path: String,
    /// What the old release set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Value>,
    /// What is there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Value>,
    /// What the new release sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
    /// Whether the live value stays.
    pub kept: bool,
    /// Whether that is for the policy to say. Otherwise the new release changes the field, or it was removed.
    #[serde(default)]
    pub open: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_a_program_another_one_is_put_back_and_the_rest_stays() {
        let check = |path: &str, expect: Verdict| assert_eq!(default_verdict(path), expect, "{path}");
        let container = "spec.template.spec.containers[name=ks-apiserver]";
        check("spec.replicas", Verdict::Keep);
        check(&format!("{container}.resources.limits.cpu"), Verdict::Keep);
        check(&format!("{container}.image"), Verdict::Overwrite);
        check(&format!("{container}.command"), Verdict::Overwrite);
        check(&format!("{container}.args"), Verdict::Overwrite);
        check(
            "spec.template.spec.initContainers[name=wait].image",
            Verdict::Overwrite,
        );
        check(&format!("{container}.env[name=A].value"), Verdict::Keep);
        check("spec.template.spec.nodeSelector", Verdict::Keep);
        check("data[kubesphere.yaml].terminal.image", Verdict::Keep);
        check("data.image", Verdict::Keep);
    }

    #[test]
    fn sizes_are_replicas_and_resources() {
        let check = |path: &str, expect: bool| assert_eq!(is_size(path), expect, "{path}");
        check("spec.replicas", true);
        check("spec.template.spec.containers[name=a].resources.limits.cpu", true);
        check("spec.template.spec.containers[name=a].image", false);
        check("data[kubesphere.yaml].resources", false);
        check("rules[0].resources", false);
    }

    #[test]
    fn an_answer_goes_before_the_policy() {
        let check = |policy: DriftPolicy, path: &str, expect: Verdict| {
            let rule = Rule {
                policy,
                answers: BTreeMap::from([("spec.replicas".to_owned(), Verdict::Overwrite)]),
            };
            assert_eq!(rule.verdict(path), expect, "{policy:?} {path}");
        };
        check(DriftPolicy::Keep, "spec.replicas", Verdict::Overwrite);
        check(DriftPolicy::Keep, "spec.paused", Verdict::Keep);
        check(DriftPolicy::ByField, "spec.paused", Verdict::Keep);
        check(DriftPolicy::Overwrite, "spec.paused", Verdict::Overwrite);
    }
}
