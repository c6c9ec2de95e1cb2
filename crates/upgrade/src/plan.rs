//! A plan: what an upgrade will do, as a value.

use std::collections::BTreeMap;

use access::IAM_GROUP;
use object::{Object, ObjectKey, diff::Change, merge::Drift};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::decide::merge_patch;
use crate::{Finding, Options, Permission, Snapshot};

const RBAC: &str = "rbac.authorization.k8s.io";

/// The version of the saved form. A file of another format is refused.
pub const FORMAT: u32 = 1;

/// Where a plan leads from that installs KubeSphere.
pub const NOTHING: &str = "nothing";

/// What an upgrade will do. It can be printed, saved, compared and approved; it holds no secrets.
///
/// What is written is decided again from the cluster when a saved plan is run, and must come out the same
/// ([`Plan::check_permits`]). So a plan needs no object bodies, and cannot be used on a cluster that has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub format: u32,
    /// UID of namespace kube-system.
    pub cluster: String,
    /// KubeSphere's version now; [`NOTHING`] where there is none.
    pub from: String,
    /// KubeSphere's version afterwards.
    pub to: String,
    pub kubernetes: String,
    /// What the caller wanted: with them the same decision can be made again from a backup.
    #[serde(default)]
    pub options: Options,
    /// In the order in which they are carried out. A stage without steps is left out.
    pub stages: Vec<Stage>,
    /// Objects of the release that already are as they should be.
    pub unchanged: usize,
    pub findings: Vec<Finding>,
    pub impact: access::Impact,
}

/// Steps that do not depend on each other and are carried out side by side. Waits come after all others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Stable, kebab-case: `custom-roles`.
    pub name: String,
    /// For people: `Custom roles`.
    pub title: String,
    /// The component whose stage it is; stages of one component are carried out one after another, those of different ones
    /// side by side. Absent: a stage of the platform, which has to be done before what comes after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Components whose stages have to be done before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    pub steps: Vec<Step>,
}

/// One thing to do to one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    pub object: ObjectKey,
    pub action: Action,
    /// Digest of the declared part of the object that this was decided on; `None` when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What changes, with secrets left out. Empty for a new object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// What people or controllers changed by hand, and whether it stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<Drift>,
    /// Why, where it does not go without saying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How an object is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Action {
    /// Server-side apply, after the fields that the old tools set have been handed over.
    Apply {
        /// Digest of what is applied.
        digest: String,
        /// What is applied. Kept in memory only: it may hold secrets.
        #[serde(skip)]
        body: Body,
        /// What the old release set, for the hand-over; null when that is nothing. Kept in memory only.
        #[serde(skip)]
        previous: Body,
    },
    /// A JSON merge patch, guarded by the resource version that was read.
    Patch {
        digest: String,
        #[serde(skip)]
        body: Body,
    },
    /// A Secret whose values are made when acting, and only where they are missing.
    Generate {
        /// What to make; see [`release::GeneratedSecret`].
        secret: release::GeneratedSecret,
    },
    /// A revision in Helm's records: a new one, or what becomes of an earlier one.
    Record {
        /// What Helm calls it from then on: `deployed`, `superseded`, `failed`.
        status: String,
        /// Digest of what is recorded, but for times and secrets.
        digest: String,
        /// `release`: the record; for a new one also `objects`, which make its manifest once their secrets are put in
        /// place. Kept in memory only.
        #[serde(skip)]
        body: Body,
    },
    Delete {
        uid: String,
    },
    /// Sets `spec.replicas`.
    Scale {
        replicas: i64,
    },
    /// Waits until a condition holds.
    Wait {
        condition: Condition,
    },
}

/// What is sent. Never shown, never saved, and not part of a comparison: its digest is.
#[derive(Clone, Default)]
pub struct Body(pub Value);

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body(..)")
    }
}

impl PartialEq for Body {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What a wait waits for. The deadline is the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// A CustomResourceDefinition is Established.
    Established,
    /// A workload's rollout is complete.
    RolledOut,
    /// A workload is scaled to 0 and its pods are gone.
    Stopped,
    /// A new CRD's resource is served.
    Served,
    /// An object that was deleted is gone.
    Gone,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Established => "established",
            Self::RolledOut => "rolled out",
            Self::Stopped => "stopped",
            Self::Served => "served",
            Self::Gone => "gone",
        })
    }
}

/// How a plan made now differs from the saved one, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub object: Option<ObjectKey>,
    pub message: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.object {
            Some(object) => write!(f, "{object}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Puts a step at the end of its stage, which is begun where it is not there yet. `order` names the stages and their titles.
pub(crate) fn push(stages: &mut Vec<Stage>, order: &[(&str, &str)], stage: &str, step: Step) {
    if let Some(found) = stages.iter_mut().find(|s| s.name == stage) {
        found.steps.push(step);
        return;
    }
    let title = order
        .iter()
        .find(|(name, _)| *name == stage)
        .map_or(stage, |(_, title)| *title);
    stages.push(Stage {
        name: stage.into(),
        title: title.into(),
        component: None,
        after: Vec::new(),
        steps: vec![step],
    });
}

impl Plan {
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }

    /// Every step, and what it is known by in every plan that has it.
    fn named_steps(&self) -> impl Iterator<Item = ((&str, &ObjectKey, &'static str), &Step)> {
        self.stages.iter().flat_map(|stage| {
            let steps = stage.steps.iter();
            steps.map(|step| ((stage.name.as_str(), &step.object, step.action.name()), step))
        })
    }

    /// How many writes the plan makes. Waits write nothing.
    pub fn writes(&self) -> usize {
        self.steps()
            .filter(|s| !matches!(s.action, Action::Wait { .. }))
            .count()
    }

    pub fn is_empty(&self) -> bool {
        self.writes() == 0
    }

    /// Whether it brings KubeSphere to a cluster that has none: then there is nothing to go back to.
    pub fn is_installation(&self) -> bool {
        self.from == NOTHING
    }

    /// Checks that running `fresh`, decided just now, is what this saved plan announced: every step of it stands
    /// in the saved plan, decided on the same state. Steps that are done already are no longer in `fresh`.
    pub fn check_permits(&self, fresh: &Plan) -> Result<(), Vec<Difference>> {
        let mut differences = Vec::new();
        let mut differ = |object: Option<ObjectKey>, message: String| {
            differences.push(Difference { object, message });
        };
        if self.cluster != fresh.cluster {
            differ(None, "the plan was made for another cluster".into());
        }
        if self.to != fresh.to {
            differ(
                None,
                format!("the plan leads to {}, not to {}", self.to, fresh.to),
            );
        }
        if self.kubernetes != fresh.kubernetes {
            differ(
                None,
                format!(
                    "Kubernetes was {} and is {} now",
                    self.kubernetes, fresh.kubernetes
                ),
            );
        }
        // An object may be written in more than one stage.
        let saved: BTreeMap<_, _> = self.named_steps().collect();
        for (name, step) in fresh.named_steps() {
            match saved.get(&name) {
                None => differ(
                    Some(step.object.clone()),
                    format!(
                        "the plan does not have the step \"{}\", which is needed now",
                        step.action.name()
                    ),
                ),
                Some(old) if old.before != step.before => {
                    differ(
                        Some(step.object.clone()),
                        "changed since the plan was made".into(),
                    );
                }
                Some(old) if old.action != step.action => {
                    differ(
                        Some(step.object.clone()),
                        "what is to be written differs from the plan".into(),
                    );
                }
                Some(_) => {}
            }
        }
        if differences.is_empty() {
            Ok(())
        } else {
            Err(differences)
        }
    }

    /// What the caller must be allowed to do to carry the plan out.
    pub fn permissions(&self, snapshot: &Snapshot) -> Vec<Permission> {
        let mut found = std::collections::BTreeSet::new();
        let to_come = self.resources_to_come();
        for step in self.steps() {
            let key = &step.object;
            let resource = snapshot
                .served
                .iter()
                .find(|r| r.group == key.group && r.kind == key.kind)
                .map(|r| r.resource.as_str())
                .or_else(|| to_come.get(&(key.group.as_str(), key.kind.as_str())).copied())
                .map_or_else(|| format!("{}s", key.kind.to_lowercase()), str::to_owned);
            // Kubernetes lets nobody hand out what they do not hold, unless they may do just that.
            let grants = match (key.group.as_str(), key.kind.as_str(), &step.action) {
                (RBAC, "Role" | "ClusterRole", Action::Apply { .. } | Action::Patch { .. }) => {
                    Some("escalate")
                }
                (RBAC, "RoleBinding" | "ClusterRoleBinding", Action::Apply { .. }) => Some("bind"),
                _ => None,
            };
            let verbs = step
                .action
                .verbs(&step.object, step.before.is_some())
                .iter()
                .copied();
            for verb in verbs.chain(grants) {
                let (resource, name) = match (verb, &step.action) {
                    ("bind", Action::Apply { body, .. }) => bound_role(&body.0),
                    // Who may delete may do so with single objects only.
                    ("delete", _) => (resource.clone(), Some(key.name.clone())),
                    _ => (resource.clone(), None),
                };
                found.insert(Permission {
                    verb: verb.to_owned(),
                    group: key.group.clone(),
                    resource,
                    namespace: key.namespace.clone(),
                    name,
                });
            }
        }
        found.into_iter().collect()
    }

    /// The plurals of the kinds that the plan itself brings, by group and kind: before that nobody serves them.
    fn resources_to_come(&self) -> BTreeMap<(&str, &str), &str> {
        let definitions = self.steps().filter_map(|step| match &step.action {
            Action::Apply { body, .. } if step.object.kind == "CustomResourceDefinition" => Some(&body.0),
            _ => None,
        });
        definitions
            .filter_map(|definition| {
                let text = |pointer: &str| definition.pointer(pointer)?.as_str();
                Some((
                    (text("/spec/group")?, text("/spec/names/kind")?),
                    text("/spec/names/plural")?,
                ))
            })
            .collect()
    }
}

/// The resource and the name of the role that a binding binds.
fn bound_role(binding: &Value) -> (String, Option<String>) {
    let text = |pointer: &str| binding.pointer(pointer).and_then(Value::as_str);
    let kind = text("/roleRef/kind").unwrap_or("ClusterRole");
    let name = text("/roleRef/name").map(str::to_owned);
    (format!("{}s", kind.to_lowercase()), name)
}

impl Action {
    /// `apply`, `patch`, …
    pub fn name(&self) -> &'static str {
        match self {
            Self::Apply { .. } => "apply",
            Self::Patch { .. } => "patch",
            Self::Generate { .. } => "generate",
            Self::Record { .. } => "record",
            Self::Delete { .. } => "delete",
            Self::Scale { .. } => "scale",
            Self::Wait { .. } => "wait",
        }
    }

    fn verbs(&self, key: &ObjectKey, exists: bool) -> &'static [&'static str] {
        match self {
            Self::Patch { .. } if is_replaced(key) => &["get", "update"],
            Self::Apply { .. } | Self::Record { .. } if exists => &["get", "patch"],
            Self::Apply { .. } => &["get", "patch", "create"],
            Self::Patch { .. } | Self::Scale { .. } => &["get", "patch"],
            Self::Generate { .. } => &["get", "create", "patch"],
            Self::Record { .. } => &["get", "create"],
            Self::Delete { .. } => &["get", "delete"],
            Self::Wait { .. } => &["get", "list"],
        }
    }
}

/// Whether an object is changed by sending the whole of it, as it was read and with the change in it, instead of the change alone.
/// Of custom roles there may be thousands, and an API server replaces a half more of them in the same time than it patches. Either
/// way the resource version says that nobody changed them since.
pub fn is_replaced(key: &ObjectKey) -> bool {
    key.group == IAM_GROUP && key.kind.ends_with("Role")
}

/// Digest (SHA-256, hex) of the declared part of an object: without status, managedFields, resourceVersion, uid,
/// timestamps and what controllers note in annotations.
pub fn digest(object: &Object) -> String {
    let mut declared = object.declared();
    if let Some(annotations) = declared
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove("deployment.kubernetes.io/revision");
        annotations.remove("deprecated.daemonset.template.generation");
    }
    digest_value(&declared)
}

/// Digest (SHA-256, hex) of a value; the order of map keys does not matter.
pub fn digest_value(value: &Value) -> String {
    use sha2::{Digest as _, Sha256};
    use std::fmt::Write as _;
    let mut text = String::new();
    write_canonical(value, &mut text);
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            out.push('{');
            let sorted: BTreeMap<_, _> = map.iter().collect();
            for (name, value) in sorted {
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mk_step(name: &str, before: &str, action: Action) -> Step {
        Step {
            object: ObjectKey::cluster("", "Thing", name),
            action,
            before: Some(before.into()),
            changes: Vec::new(),
            drift: Vec::new(),
            note: None,
        }
    }

    fn mk_patch(name: &str, before: &str, body: Value) -> Step {
        let digest = digest_value(&body);
        let body = Body(body);
        mk_step(name, before, Action::Patch { digest, body })
    }

    #[test]
    fn custom_roles_are_updated_and_all_else_is_patched() {
        let patch = mk_patch("a", "0", json!({})).action;
        let check = |group: &str, kind: &str, expect: &str| {
            let key = ObjectKey::cluster(group, kind, "a");
            assert_eq!(patch.verbs(&key, true), ["get", expect], "{key}");
        };
        check(IAM_GROUP, "WorkspaceRole", "update");
        check(IAM_GROUP, "GlobalRole", "update");
        check(IAM_GROUP, "GlobalRoleBinding", "patch");
        check(RBAC, "ClusterRole", "patch");
    }

    fn mk_stage(name: &str, steps: Vec<Step>) -> Stage {
        Stage {
            name: name.into(),
            title: name.into(),
            component: None,
            after: Vec::new(),
            steps,
        }
    }

    /// One object is patched in two stages, another applied.
    fn mk_plan() -> Plan {
        let apply = Action::Apply {
            digest: "d".into(),
            body: Body(json!({"a": 1})),
            previous: Body(json!({"a": 0})),
        };
        Plan {
            format: FORMAT,
            cluster: "c".into(),
            from: "v1.0.0".into(),
            to: "v2.0.0".into(),
            kubernetes: "v1.20.2".into(),
            options: Options::default(),
            stages: vec![
                mk_stage("first", vec![mk_patch("both", "1", json!({"x": 1}))]),
                mk_stage("middle", vec![mk_step("applied", "1", apply)]),
                mk_stage("last", vec![mk_patch("both", "2", json!({"y": 1}))]),
            ],
            unchanged: 0,
            findings: Vec::new(),
            impact: access::Impact::default(),
        }
    }

    #[test]
    fn a_saved_plan_permits_what_it_announced_and_nothing_else() {
        let text = serde_json::to_string(&mk_plan()).unwrap();
        let saved: Plan = serde_json::from_str(&text).unwrap();
        let check = |edit: fn(&mut Plan), expect: &[&str]| {
            let mut fresh = mk_plan();
            edit(&mut fresh);
            let differences = saved.check_permits(&fresh).err().unwrap_or_default();
            let words: Vec<_> = differences.iter().map(|d| d.message.as_str()).collect();
            assert_eq!(words, expect);
        };
        check(|_| {}, &[]);
        // What is done already is not asked for again.
        check(|fresh| drop(fresh.stages.remove(0)), &[]);
        check(|fresh| fresh.stages.clear(), &[]);
        check(
            |fresh| fresh.stages[2].steps[0].before = Some("3".into()),
            &["changed since the plan was made"],
        );
        check(
            |fresh| fresh.stages[0].steps[0] = mk_patch("both", "1", json!({"x": 2})),
            &["what is to be written differs from the plan"],
        );
        check(
            |fresh| fresh.stages[1].steps.push(mk_patch("other", "1", json!({}))),
            &["the plan does not have the step \"patch\", which is needed now"],
        );
        check(
            |fresh| fresh.cluster = "other".into(),
            &["the plan was made for another cluster"],
        );
    }

    #[test]
    fn a_plan_is_the_same_after_it_was_saved_and_holds_no_body() {
        let text = serde_json::to_string(&mk_plan()).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), mk_plan());
        assert!(!text.contains("\"a\""), "{text}");
    }
}
