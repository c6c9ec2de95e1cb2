//! The way back: from what is there, and a backup from before the upgrade, to a plan like any other.
//!
//! ```text
//!   Backup ─▶ decide() ─▶ what the upgrade set, field by field ─┐
//!   Backup ─▶ what was there before ────────────────────────────┼─▶ revert ─▶ steps in stages
//!   Snapshot ─▶ what is there now ──────────────────────────────┘        └─▶ conflicts
//! ```
//!
//! The upgrade is decided once more on the backup, with the options of then: so it is known to the field what it set.
//! What it set and nobody changed since is put back; what somebody changed since stays and is said. What is back
//! already is no step, so that a rollback that was cut is simply run again.

mod definitions;
mod expect;
mod revert;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use access::{AGGREGATION, Grants, IAM_GROUP, Impact, RBAC_GROUP, Rule};
use object::{Object, ObjectKey};
use release::Releases;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use self::expect::Set;
use crate::{
    Action, Decision, Finding, Options, Plan, Snapshot, Stage, Step, cluster_configuration_key,
    decide::{self, merge_patch, patch_changes, step},
    installer_key,
    plan::{self, Body, Condition, FORMAT},
    preflight, reasons,
    settings::{merge_patch_between, status_on_its_way},
};

const ADMISSION: &str = "admissionregistration.k8s.io";

/// A backup, read and verified.
#[derive(Clone, Debug)]
pub struct Backup {
    /// What was there before the upgrade. What the API server served then is not needed.
    pub snapshot: Snapshot,
    /// The plan of the upgrade that it was made for.
    pub plan: Option<Plan>,
    /// UID of namespace kube-system.
    pub cluster: String,
    /// Version of the installer that made it.
    pub tool: String,
}

/// The stages of the way back, in order.
///
/// The version goes first: from then on the ClusterConfiguration does not claim the new release while parts of it are
/// gone, and an upgrade run instead of the rollback starts from the old release's roles. New webhooks go while the
/// workloads that answer them still run, old ones come back when theirs do. What grants permissions comes before the
/// bindings, what takes them away after, so that nobody lacks what they have both before and after. The old
/// installer starts last of all: it acts on the ClusterConfiguration.
const ORDER: [(&str, &str); 14] = [
    ("version", "Version"),
    ("new-webhooks", "New webhooks"),
    ("grants", "Permissions that come back"),
    ("bindings", "Role bindings"),
    ("core", "Core configuration"),
    ("workloads", "Core workloads"),
    ("webhooks", "Webhooks"),
    ("definitions", "Custom resource definitions"),
    ("secrets", "Secrets"),
    ("revocations", "Permissions that go"),
    ("removal", "What the upgrade created"),
    ("records", "Helm's records"),
    ("configuration", "Configuration"),
    ("old-installer", "Old installer"),
];

/// Decides how to get back to a backup, from what is there alone. The plan is there whenever one could be made; with
/// a blocker it must not be run.
pub fn decide_rollback(backup: &Backup, live: &Snapshot, releases: &Releases) -> Decision {
    let from = preflight::installed(live).version().map(str::to_owned);
    let to = preflight::installed(&backup.snapshot)
        .version()
        .unwrap_or_default()
        .to_owned();
    let mut rollback = Rollback {
        before: &backup.snapshot,
        live,
        later: live.clone(),
        stages: Vec::new(),
        findings: Vec::new(),
        unchanged: 0,
    };
    let plan = rollback.plan(backup, releases, &to);
    let mut findings = rollback.findings;
    preflight::sort(&mut findings);
    Decision {
        from,
        to,
        plan: plan.map(|plan| Plan {
            findings: findings.clone(),
            ..plan
        }),
        findings,
        drift: Vec::new(),
        outline: Box::default(),
        targets: release::Target::default(),
    }
}

struct Rollback<'a> {
    before: &'a Snapshot,
    live: &'a Snapshot,
    /// The objects as they will be when definitions go back: what is stored must be valid under them then.
    later: Snapshot,
    stages: Vec<Stage>,
    findings: Vec<Finding>,
    unchanged: usize,
}

impl Rollback<'_> {
    fn plan(&mut self, backup: &Backup, releases: &Releases, to: &str) -> Option<Plan> {
        let cluster = self.live.cluster_id().unwrap_or_default();
        if backup.cluster != cluster || backup.snapshot.cluster_id() != Some(cluster) {
            self.findings.push(
                Finding::blocker(
                    reasons::BACKUP_OF_ANOTHER_CLUSTER,
                    "the backup is of another cluster: the UID of its namespace kube-system is another one",
                )
                .hint("choose a backup of this cluster, or another kubeconfig context"),
            );
            return None;
        }
        if backup.plan.as_ref().is_some_and(Plan::is_installation) {
            self.findings.push(
                Finding::blocker(
                    reasons::BACKUP_UNUSABLE,
                    "the backup was made before KubeSphere was installed: there is no earlier KubeSphere to go back to",
                )
                .hint("single objects are put back by: ks-installer backup restore"),
            );
            return None;
        }
        let upgrade = self.upgrade(backup, releases)?;
        let sets = expect::expect(&upgrade, self.before, self.live);
        let mut created = Vec::new();
        // Definitions come last: whether they can go back depends on what becomes of their objects.
        let is_definition = |key: &ObjectKey| key.kind == "CustomResourceDefinition";
        let (definitions, others): (Vec<_>, Vec<_>) = sets.iter().partition(|(key, _)| is_definition(key));
        for (key, set) in others.into_iter().chain(definitions) {
            match (self.before.get(key), set, self.live.get(key)) {
                (Some(before), Set::To(set), Some(live)) => self.put_back(before, set, live),
                (Some(_), Set::To(_), None) => self.findings.push(
                    Finding::warning(
                        reasons::ROLLBACK_CONFLICT,
                        "it was deleted since the upgrade and is not made again",
                    )
                    .on(key.clone())
                    .hint("put it back with: ks-installer backup restore"),
                ),
                (Some(before), Set::Deleted, live) => self.make_again(before, live),
                (None, Set::To(set), Some(live)) => {
                    self.later.objects.remove(key);
                    created.push((set, live));
                }
                (before, Set::Recorded, Some(live)) => self.unrecord(before, live),
                (_, Set::Generated, Some(_)) => self.findings.push(kept(key, "it holds secrets")),
                _ => {}
            }
        }
        let after = self.afterwards(&created);
        for (set, live) in created {
            self.remove(set, live, &after);
        }
        self.await_workloads(&sets);
        let impact = self.impact(&upgrade);
        self.order();
        Some(Plan {
            format: FORMAT,
            cluster: cluster.to_owned(),
            from: upgrade.to.clone(),
            to: to.to_owned(),
            kubernetes: self.live.kubernetes.clone(),
            options: upgrade.options.clone(),
            stages: std::mem::take(&mut self.stages),
            unchanged: self.unchanged,
            findings: Vec::new(),
            impact,
        })
    }

    /// The upgrade that followed the backup, decided once more.
    fn upgrade(&mut self, backup: &Backup, releases: &Releases) -> Option<Plan> {
        let options = match &backup.plan {
            Some(plan) => Options {
                target: Some(plan.to.clone()),
                ..plan.options.clone()
            },
            None => Options::default(),
        };
        let snapshot = Snapshot {
            served: self.live.served.clone(),
            ..backup.snapshot.clone()
        };
        let decision = decide::decide(&snapshot, releases, &options);
        let Some(plan) = decision.plan else {
            self.findings.push(
                Finding::blocker(
                    reasons::BACKUP_UNUSABLE,
                    "what the upgrade did cannot be told from this backup: there is no plan of it",
                )
                .hint("choose a backup that an upgrade made, or restore objects with: ks-installer backup restore"),
            );
            return None;
        };
        let differences = match &backup.plan {
            Some(saved) => saved.check_permits(&plan).err().unwrap_or_default(),
            None => Vec::new(),
        };
        if !differences.is_empty() {
            let names: Vec<_> = differences
                .iter()
                .map(|d| {
                    d.object
                        .as_ref()
                        .map_or_else(|| d.message.clone(), ToString::to_string)
                })
                .collect();
            self.findings.push(
                Finding::warning(
                    reasons::ROLLBACK_INEXACT,
                    format!(
                        "ks-installer {} planned the upgrade otherwise than this version would, so what it set there is not known exactly: {}",
                        backup.tool,
                        preflight::some_of(&names)
                    ),
                )
                .hint("roll back with the version that upgraded; what is not known to be the upgrade's stays as it is"),
            );
        }
        Some(plan)
    }

    fn put_back(&mut self, before: &Object, set: &Value, live: &Object) {
        let key = live.key();
        let mut set = set.clone();
        if let (true, Some(status), Some(now)) = (
            key == cluster_configuration_key(),
            set.get("status"),
            live.get("/status"),
        ) {
            set["status"] = status_on_its_way(status, now);
        }
        let reverted = revert::revert(&key.group, &set, before.as_value(), live.as_value());
        for conflict in reverted.conflicts {
            let conflict = conflict.redacted(&key);
            self.findings.push(
                Finding::warning(
                    reasons::ROLLBACK_CONFLICT,
                    format!(
                        "{} was changed since the upgrade and stays as it is",
                        conflict.path
                    ),
                )
                .on(key.clone())
                .hint("look at it with: kubectl get -o yaml; what it was is in the backup"),
            );
        }
        if let Ok(object) = Object::try_from(reverted.value.clone()) {
            self.later.objects.insert(key.clone(), object);
        }
        let Some(patch) = merge_patch_between(live.as_value(), &reverted.value) else {
            self.unchanged += 1;
            return;
        };
        if key.kind == "CustomResourceDefinition"
            && let Some(why) = definitions::obstacle(live, &reverted.value, &self.later)
        {
            self.findings.push(
                Finding::warning(
                    reasons::DEFINITION_STAYS,
                    format!("it stays as the upgrade left it: {why}"),
                )
                .on(key),
            );
            return;
        }
        if key == cluster_configuration_key() {
            let (spec, rest) = split(patch);
            self.patch(
                "version",
                live,
                live,
                rest,
                Some("first: what claims the new release".into()),
            );
            let mut between = live.as_value().clone();
            merge_patch(&mut between, &json!({"metadata": reverted.value.get("metadata")}));
            let between = Object::try_from(between).unwrap_or_else(|_| live.clone());
            self.patch("configuration", live, &between, spec, None);
            return;
        }
        if is_role(&key) {
            self.put_role_back(live, &reverted.value, patch);
            return;
        }
        let note = (key == installer_key()).then(|| {
            "last of all; when it starts it installs its release again, as after any restart".into()
        });
        self.patch(stage_of(&key), live, live, patch, note);
    }

    /// A role that gains and loses grants both first, so that nobody lacks in between what they have before and after
    /// through another role.
    fn put_role_back(&mut self, live: &Object, value: &Value, patch: Value) {
        let (now, then) = (live.get("/rules"), value.get("rules"));
        let (Some(has), Some(gets)) = (grants(now), grants(then)) else {
            self.patch("revocations", live, live, patch, None);
            return;
        };
        if gets.covers(&has) {
            self.patch("grants", live, live, patch, None);
        } else if has.covers(&gets) || !self.is_bound(&live.key()) {
            self.patch("revocations", live, live, patch, None);
        } else {
            let mut both = now.and_then(Value::as_array).cloned().unwrap_or_default();
            for rule in then.and_then(Value::as_array).into_iter().flatten() {
                if !both.contains(rule) {
                    both.push(rule.clone());
                }
            }
            let union = json!({"rules": both});
            let mut between = live.as_value().clone();
            merge_patch(&mut between, &union);
            let between = Object::try_from(between).unwrap_or_else(|_| live.clone());
            let note = "for a moment what it grants now and what it granted before".to_owned();
            self.patch("grants", live, live, union, Some(note));
            self.patch("revocations", live, &between, patch, None);
        }
    }

    /// Whether a binding gives the role to somebody, now or before.
    fn is_bound(&self, role: &ObjectKey) -> bool {
        let bindings = |snapshot: &Snapshot| {
            snapshot
                .objects
                .values()
                .any(|object| is_binding(&object.key()) && binds(object, role))
        };
        bindings(self.live) || bindings(self.before)
    }

    fn make_again(&mut self, before: &Object, live: Option<&Object>) {
        let key = before.key();
        let Some(live) = live else {
            let body = self.declared(before);
            let action = Action::Apply {
                digest: plan::digest_value(&body),
                body: Body(body),
                previous: Body::default(),
            };
            let mut step = step(key.clone(), action, None);
            step.note = Some("made again, with a new UID".into());
            let stage = if is_role(&key) { "grants" } else { stage_of(&key) };
            self.push(stage, step);
            return;
        };
        let is_back = live.uid() == before.uid() || self.declared(live) == self.declared(before);
        if is_back || revert::covers(&key.group, &self.declared(before), &self.declared(live)) {
            self.unchanged += 1;
        } else {
            self.findings.push(
                Finding::warning(
                    reasons::ROLLBACK_CONFLICT,
                    "the upgrade removed it, somebody made another one since, and that stays",
                )
                .on(key),
            );
        }
    }

    /// What is sent to make an object again. Owners that are no more are left out: it would be removed with them.
    fn declared(&self, object: &Object) -> Value {
        let mut value = object.declared();
        let alive: BTreeSet<&str> = self.live.objects.values().filter_map(|o| o.uid()).collect();
        let known: BTreeSet<&str> = self.before.objects.values().filter_map(|o| o.uid()).collect();
        if let Some(metadata) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            if let Some(owners) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) {
                owners.retain(|owner| {
                    let uid = owner.get("uid").and_then(Value::as_str).unwrap_or_default();
                    alive.contains(uid) || !known.contains(uid)
                });
            }
            metadata.retain(|name, value| {
                name != "ownerReferences" || value.as_array().is_some_and(|owners| !owners.is_empty())
            });
        }
        value
    }

    /// Takes a revision out of Helm's records, or puts an earlier one back, unless Helm went on from there.
    fn unrecord(&mut self, before: Option<&Object>, live: &Object) {
        let key = live.key();
        let revision = |object: &Object| object.label("version").and_then(|v| v.parse::<u64>().ok());
        let written: Option<u64> = before.is_none().then(|| revision(live)).flatten();
        let is_overtaken = self.live.of_kind("", "Secret").any(|other| {
            is_helm_record(other)
                && other.label("name") == live.label("name")
                && other.namespace() == live.namespace()
                && self.before.get(&other.key()).is_none()
                && written.is_some_and(|written| revision(other) > Some(written))
        });
        if is_overtaken {
            let message = "helm has recorded a later revision since, so its records stay";
            self.findings
                .push(Finding::warning(reasons::ROLLBACK_CONFLICT, message).on(key));
            return;
        }
        let Some(before) = before else {
            let uid = live.uid().unwrap_or_default().to_owned();
            let mut step = step(key, Action::Delete { uid }, Some(live));
            step.note = Some("the upgrade's revision".into());
            self.push("records", step);
            return;
        };
        let part = |pointer: &str| before.get(pointer).cloned().unwrap_or(Value::Null);
        let mut then = live.as_value().clone();
        then["data"] = part("/data");
        then["metadata"]["labels"] = part("/metadata/labels");
        match merge_patch_between(live.as_value(), &then) {
            Some(patch) => self.patch("records", live, live, patch, None),
            None => self.unchanged += 1,
        }
    }

    fn remove(&mut self, set: &Value, live: &Object, after: &BTreeMap<ObjectKey, Object>) {
        let key = live.key();
        let is_edited = !revert::covers(&key.group, set, live.as_value());
        let is_webhook = key.group == ADMISSION;
        if let Some(why) = self.must_stay(live, after) {
            self.findings.push(kept(&key, &why));
            return;
        }
        if is_edited && !is_webhook {
            self.findings.push(
                Finding::warning(
                    reasons::ROLLBACK_CONFLICT,
                    "the upgrade created it, somebody changed it since, and it stays",
                )
                .on(key.clone())
                .hint("delete it when it is no longer needed"),
            );
            return;
        }
        let uid = live.uid().unwrap_or_default().to_owned();
        let mut step = step(key.clone(), Action::Delete { uid }, Some(live));
        step.note = Some(if is_edited {
            "the upgrade created it; nobody will answer it any more, though somebody changed it since".into()
        } else {
            "the upgrade created it".into()
        });
        self.push(if is_webhook { "new-webhooks" } else { "removal" }, step);
    }

    /// Why an object that the upgrade created is not removed.
    fn must_stay(&self, live: &Object, after: &BTreeMap<ObjectKey, Object>) -> Option<String> {
        let key = live.key();
        if key.is("iam.kubesphere.io", "User")
            || key.is("", "Namespace")
            || key.is("", "PersistentVolumeClaim")
            || key.is_secret()
        {
            return Some("it may hold what is not in the backup".into());
        }
        if key.kind == "CustomResourceDefinition" {
            return match definitions::instances(live.as_value(), self.live) {
                None => Some("it is not known which objects of it there are".into()),
                Some(objects) if objects.is_empty() => None,
                Some(objects) => Some(format!(
                    "there are objects of it: {}",
                    preflight::some_of(&objects.iter().map(|o| o.name().to_owned()).collect::<Vec<_>>())
                )),
            };
        }
        if is_role(&key) {
            let user = after.values().find(|object| uses(object, &key))?;
            return Some(format!("{} needs it", user.key()));
        }
        None
    }

    /// Roles and bindings as they will be, without what may be removed.
    fn afterwards(&self, created: &[(&Value, &Object)]) -> BTreeMap<ObjectKey, Object> {
        let mut after: BTreeMap<ObjectKey, Object> = self
            .live
            .objects
            .iter()
            .filter(|(key, _)| is_role(key) || is_binding(key))
            .map(|(key, object)| (key.clone(), Object::clone(object)))
            .collect();
        for (_, object) in created {
            after.remove(&object.key());
        }
        for step in self.stages.iter().flat_map(|stage| &stage.steps) {
            match (&step.action, after.get(&step.object)) {
                (Action::Patch { body, .. }, Some(object)) => {
                    let mut value = object.as_value().clone();
                    merge_patch(&mut value, &body.0);
                    if let Ok(object) = Object::try_from(value) {
                        after.insert(step.object.clone(), object);
                    }
                }
                (Action::Apply { body, .. }, _) => {
                    if let Ok(object) = Object::try_from(body.0.clone())
                        && (is_role(&step.object) || is_binding(&step.object))
                    {
                        after.insert(step.object.clone(), object);
                    }
                }
                _ => {}
            }
        }
        after
    }

    /// Waits for the workloads that the upgrade set, when anything of theirs is put back.
    fn await_workloads(&mut self, sets: &BTreeMap<ObjectKey, Set>) {
        let any = self
            .stages
            .iter()
            .any(|stage| ["core", "workloads"].contains(&stage.name.as_str()));
        let workloads = sets
            .keys()
            .filter(|key| key.group == "apps" && **key != installer_key());
        for key in workloads.filter(|key| any && self.live.get(key).is_some()) {
            let condition = Condition::RolledOut;
            self.push("workloads", step(key.clone(), Action::Wait { condition }, None));
        }
    }

    /// Who gets back what the upgrade took, and loses what it gave.
    fn impact(&self, upgrade: &Plan) -> Impact {
        let touches_access = |stage: &Stage| {
            stage
                .steps
                .iter()
                .any(|step| is_role(&step.object) || is_binding(&step.object))
        };
        if !self.stages.iter().any(touches_access) {
            return Impact::default();
        }
        let mut impact = upgrade.impact.clone();
        for subject in impact.subjects.iter_mut().chain(&mut impact.everyone) {
            std::mem::swap(&mut subject.lost, &mut subject.gained);
            // They tell why the upgrade did it.
            subject.reasons.clear();
        }
        impact
    }

    /// Plans a merge patch of `live`; `between` is the object as it will be by then.
    fn patch(&mut self, stage: &str, live: &Object, between: &Object, patch: Value, note: Option<String>) {
        if patch.as_object().is_none_or(Map::is_empty) {
            return;
        }
        let key = live.key();
        let changes = patch_changes(between.as_value(), &patch);
        let action = Action::Patch {
            digest: plan::digest_value(&patch),
            body: Body(patch),
        };
        let mut step = step(key.clone(), action, Some(between));
        step.changes = changes.into_iter().map(|change| change.redacted(&key)).collect();
        step.note = note;
        self.push(stage, step);
    }

    fn push(&mut self, stage: &str, step: Step) {
        plan::push(&mut self.stages, &ORDER, stage, step);
    }

    fn order(&mut self) {
        self.stages
            .sort_by_key(|stage| ORDER.iter().position(|(name, _)| *name == stage.name));
    }
}

fn kept(key: &ObjectKey, why: &str) -> Finding {
    Finding::info(
        reasons::ROLLBACK_KEPT,
        format!("the upgrade created it, and it stays: {why}"),
    )
    .on(key.clone())
}

/// The part of a ClusterConfiguration's patch that changes settings, and the rest.
fn split(patch: Value) -> (Value, Value) {
    let (mut spec, mut rest) = (Map::new(), Map::new());
    if let Value::Object(patch) = patch {
        for (name, value) in patch {
            if name == "spec" { &mut spec } else { &mut rest }.insert(name, value);
        }
    }
    (Value::Object(spec), Value::Object(rest))
}

fn stage_of(key: &ObjectKey) -> &'static str {
    if *key == installer_key() {
        return "old-installer";
    }
    match (key.group.as_str(), key.kind.as_str()) {
        (ADMISSION, _) => "webhooks",
        (_, "CustomResourceDefinition") => "definitions",
        // What webhooks and definitions trust is told from them: a run that was cut must still find them.
        _ if key.is_secret() => "secrets",
        ("apps" | "batch", _) => "workloads",
        _ if is_binding(key) => "bindings",
        _ => "core",
    }
}

fn is_helm_record(object: &Object) -> bool {
    object.key().is_secret() && object.get_str("/type") == Some("helm.sh/release.v1")
}

fn is_role(key: &ObjectKey) -> bool {
    matches!(
        (key.group.as_str(), key.kind.as_str()),
        (IAM_GROUP, "GlobalRole" | "WorkspaceRole" | "RoleBase") | (RBAC_GROUP, "ClusterRole" | "Role")
    )
}

fn is_binding(key: &ObjectKey) -> bool {
    matches!(key.group.as_str(), IAM_GROUP | RBAC_GROUP) && key.kind.ends_with("RoleBinding")
}

fn binds(binding: &Object, role: &ObjectKey) -> bool {
    let in_scope = role.namespace.is_none() || role.namespace.as_deref() == binding.namespace();
    in_scope
        && binding.get_str("/roleRef/kind") == Some(&role.kind)
        && binding.get_str("/roleRef/name") == Some(&role.name)
}

/// Whether a binding, or another role that is put together from templates, needs the role.
fn uses(object: &Object, role: &ObjectKey) -> bool {
    if is_binding(&object.key()) {
        return binds(object, role);
    }
    let templates = object.annotation(AGGREGATION).unwrap_or_default();
    let templates: Vec<String> = serde_json::from_str(templates).unwrap_or_default();
    object.kind() == role.kind && object.key() != *role && templates.contains(&role.name)
}

fn grants(rules: Option<&Value>) -> Option<Grants> {
    let rules = match rules {
        None | Some(Value::Null) => Vec::new(),
        Some(rules) => Vec::<Rule>::deserialize(rules).ok()?,
    };
    Some(Grants::of(&rules))
}
