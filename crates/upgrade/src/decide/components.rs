//! The components of the release: which of them the settings ask for, and what has to be done for each.
//!
//! ```text
//!   settings ─▶ enabled? ─▶ checks ─▶ manifests ─┐
//!                  │no                           ├─▶ steps of the shared stages: namespaces, definitions, secrets
//!                  ▼                             └─▶ steps of its own stages, its lane
//!               removal, where this installer had installed it
//! ```
//!
//! The core's stages are the plan's own. What the core needs (redis, openldap) has its lane before them, everything else after
//! them: the platform is done before its components are begun, and none of these stops another.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use object::{Object, ObjectKey};
use rayon::prelude::*;
use release::{Component, Data, GeneratedSecret, Gone, Inputs, Manifest, Phase, secret::Reference};
use serde_json::{Map, Value, json};

use super::{
    Decider,
    helm::History,
    judge::{self, Judged},
    step::{merge_patch, step},
};
use crate::{
    Action, Finding,
    health::{self, Health},
    plan::Condition,
    reasons,
    settings::{self, Settings},
};

/// Who this installer is in managedFields.
pub const MANAGER: &str = "ks-installer";

/// What the enabled components are made of.
#[derive(Default)]
pub(super) struct Components {
    pub manifests: Vec<Manifest>,
    /// What must be seen well.
    pub targets: release::Target,
    /// The workloads among it that should run before the upgrade: all of the core, and what is there of the others.
    pub present: Vec<ObjectKey>,
    /// The workloads among it, by component.
    pub workloads: BTreeMap<String, Vec<ObjectKey>>,
    /// Whether all that the settings ask for is among it.
    pub is_whole: bool,
    /// What fails a check, and so is not among it.
    pub left_out: BTreeSet<String>,
}

/// A component, rendered for this cluster.
pub(super) struct Rendered<'a> {
    pub component: &'a Component,
    pub manifests: Vec<Manifest>,
    pub secrets: Vec<GeneratedSecret>,
    pub gone: Vec<&'a Gone>,
    /// What goes with it when it is switched off.
    pub leaves: Vec<&'a Gone>,
    /// What holds its data.
    pub data: Vec<&'a Data>,
}

impl<'a> Decider<'a> {
    /// Plans all components of the release; returns what the enabled ones are.
    pub(super) fn components(&mut self, settings: &Settings) -> Components {
        let release = self.release;
        let mut all = Components {
            is_whole: true,
            ..Components::default()
        };
        let mut enabled = Vec::new();
        let mut disabled = Vec::new();
        let mut histories = Vec::new();
        let this = &*self;
        let read = release.components.par_iter();
        let read: Vec<_> = read.map(|component| this.read(component, settings)).collect();
        for (component, (asked, findings)) in release.components.iter().zip(read) {
            self.findings.extend(findings);
            match asked {
                Some(Asked::Yes(rendered, history)) => {
                    enabled.push(rendered);
                    histories.push(history);
                }
                Some(Asked::No(rendered)) => disabled.push(rendered),
                Some(Asked::LeftOut) => {
                    all.left_out.insert(component.name.clone());
                }
                None => all.is_whole = false,
            }
        }
        leave_to_components(release, &mut enabled);
        self.mark(&enabled);
        // First of all: what is made anew is not what manifests refer to now.
        for rendered in &enabled {
            for secret in &rendered.secrets {
                self.generate(secret, settings.spec());
            }
        }
        let this = &*self;
        let kinds = judge::kinds(&enabled);
        let judged: Vec<_> = enabled
            .par_iter()
            .zip(&histories)
            .map(|(rendered, history)| this.judge(rendered, history, settings.spec(), &kinds))
            .collect();
        for ((rendered, history), judged) in enabled.iter().zip(&histories).zip(judged) {
            self.component(rendered, history, judged, settings.spec());
            let targets = rendered.component.targets(&rendered.manifests);
            let name = &rendered.component.name;
            all.workloads.insert(name.clone(), targets.workloads.clone());
            let is_core = release.is_core(name);
            let there = targets
                .workloads
                .iter()
                .filter(|key| is_core || self.snapshot.get(key).is_some());
            all.present.extend(there.cloned());
            all.targets.workloads.extend(targets.workloads);
            all.targets
                .custom_resource_definitions
                .extend(targets.custom_resource_definitions);
            all.targets.webhook_services.extend(targets.webhook_services);
        }
        // Two ways to have the same thing share what the status says of it.
        let paths: BTreeSet<_> = enabled
            .iter()
            .filter_map(|other| other.component.status_path())
            .collect();
        disabled.retain(|rendered| {
            rendered
                .component
                .status_path()
                .is_some_and(|path| !paths.contains(path))
        });
        disabled.retain(|rendered| self.goes(rendered, &enabled));
        self.remove(&disabled, &enabled);
        all.manifests = enabled
            .into_iter()
            .flat_map(|rendered| rendered.manifests)
            .collect();
        all
    }

    /// Everything about a component that depends on no other one; `None` where it cannot be told.
    fn read(&self, component: &'a Component, settings: &Settings) -> (Option<Asked<'a>>, Vec<Finding>) {
        let mut findings = Vec::new();
        let inputs = match settings.inputs(self.release, component, |key| self.snapshot.find(key)) {
            Ok(inputs) => inputs,
            Err(findings) => return (None, findings),
        };
        let asked = match self.render(component, &inputs, &mut findings) {
            Ok(asked) => Some(asked),
            Err(error) => {
                findings.push(
                    Finding::blocker(reasons::MANIFEST_DOES_NOT_RENDER, error.to_string())
                        .hint("check the settings that it names; if they are right, this is a fault of the installer: please report it"),
                );
                None
            }
        };
        (asked, findings)
    }

    fn render(
        &self,
        component: &'a Component,
        inputs: &Inputs,
        findings: &mut Vec<Finding>,
    ) -> Result<Asked<'a>, release::RenderError> {
        let release = self.release;
        let is_asked_for = component.is_enabled(release, inputs)?;
        if !is_asked_for && !self.was_installed(component) {
            self.tell_whose_place_it_is(component, inputs, findings)?;
            return Ok(Asked::No(Rendered {
                component,
                manifests: Vec::new(),
                secrets: Vec::new(),
                gone: Vec::new(),
                leaves: Vec::new(),
                data: Vec::new(),
            }));
        }
        if is_asked_for && self.is_kept_out(component, inputs, findings)? {
            return Ok(Asked::LeftOut);
        }
        let rendered = Rendered {
            component,
            manifests: release::render(release, component, inputs)?,
            secrets: component.generated_secrets(release, inputs)?,
            gone: component.gone(release, inputs)?,
            leaves: component.leaves(release, inputs)?,
            data: component.data(release, inputs)?,
        };
        if !is_asked_for {
            return Ok(Asked::No(rendered));
        }
        let (history, unreadable) = self.history(component);
        findings.extend(unreadable);
        Ok(Asked::Yes(rendered, history))
    }

    /// What the ClusterConfiguration's status says of a component.
    pub(super) fn status_of(&self, component: &Component) -> Option<&'a Value> {
        let configuration = self.snapshot.get(&settings::cluster_configuration())?;
        let path = component.status_path()?;
        path.split('.')
            .try_fold(configuration.get("/status")?, |value, name| value.get(name))
    }

    /// Whether this installer has installed a component or has begun to, whatever became of it since.
    pub(super) fn was_installed(&self, component: &Component) -> bool {
        self.status_of(component).is_some_and(settings::is_marked)
    }

    /// Whether a component was there before, by whomever.
    pub(super) fn is_there(&self, component: &Component) -> bool {
        self.status_of(component).is_some_and(settings::is_enabled)
    }

    /// Plans to mark what is newly installed, before anything of it is there: an installation that fails is known by its mark
    /// as something to go on with, or to take back.
    fn mark(&mut self, enabled: &[Rendered<'_>]) {
        let Some(configuration) = self.snapshot.get(&settings::cluster_configuration()) else {
            return;
        };
        let version = self.release.version.to_string();
        let mut names = Vec::new();
        let mut patch = json!({});
        for rendered in enabled {
            let component = rendered.component;
            let Some(path) = component.status_path() else {
                continue;
            };
            let live = self.status_of(component);
            // Of some that are there an earlier installer noted nothing down.
            let is_new = live.is_some_and(settings::is_disabled) || !self.has_begun(rendered);
            let begun = settings::component_begun(live, &version);
            let Some(begun) = begun.filter(|_| is_new) else {
                continue;
            };
            merge_patch(&mut patch, &json!({ "status": at(path, begun) }));
            names.push(component.name.as_str());
        }
        if !names.is_empty() {
            let note = format!(
                "so that it is known whose {} is, whatever becomes of it",
                names.join(", ")
            );
            self.patch("begun", configuration, patch, Some(note));
        }
    }

    /// Whether something of a component is there: one of its workloads, or, where it has none, any object.
    fn has_begun(&self, rendered: &Rendered<'_>) -> bool {
        let workloads = rendered.component.targets(&rendered.manifests).workloads;
        let is_there = |key: &ObjectKey| self.snapshot.get(key).is_some();
        if workloads.is_empty() {
            let mut manifests = rendered.manifests.iter();
            return manifests.any(|manifest| is_there(&manifest.object.key()));
        }
        workloads.iter().any(is_there)
    }

    /// The stage in which an object of a component is applied.
    pub(super) fn stage(&self, component: &Component, phase: Phase) -> String {
        let stage = match phase {
            Phase::Namespaces => return "namespaces".into(),
            Phase::CustomResourceDefinitions => return "definitions".into(),
            Phase::Rbac | Phase::Secrets | Phase::ConfigMaps | Phase::Services => "core",
            Phase::Workloads => "workloads",
            Phase::CustomResources => "resources",
            Phase::Webhooks => "webhooks",
        };
        self.lane(component, stage)
    }

    /// A stage of the core, or the one like it of a component.
    pub(super) fn lane(&self, component: &Component, stage: &str) -> String {
        if !self.release.is_core(&component.name) {
            return format!("{}/{stage}", component.name);
        }
        match stage {
            "resources" => "workloads".into(),
            "present-webhooks" | "removal" | "removal-definitions" => "webhooks".into(),
            stage => stage.into(),
        }
    }

    fn component(&mut self, rendered: &Rendered<'_>, history: &History, judged: Judged, spec: &Value) {
        let Rendered {
            component,
            manifests,
            gone,
            ..
        } = rendered;
        let mut workloads = false;
        for (manifest, (stage, compared)) in manifests.iter().zip(judged.objects) {
            let planned = self.settle(&stage, compared);
            workloads |= planned && matches!(manifest.phase, Phase::Workloads | Phase::ConfigMaps);
            if planned && manifest.phase == Phase::CustomResourceDefinitions {
                self.wait(&stage, manifest.object.key(), Condition::Established);
            }
        }
        self.relabel(component, manifests);
        let stage = self.lane(component, "workloads");
        let made = &component.health.made;
        for key in component
            .targets(manifests)
            .workloads
            .into_iter()
            .chain(made.iter().cloned())
        {
            // A run that stopped at a rollout left it behind. The version must not be written before it is complete.
            let live = self.snapshot.get(&key);
            let is_made = made.contains(&key);
            if is_made && live.is_none() {
                continue;
            }
            if workloads || live.is_some_and(|live| health::rollout(live) != Health::Complete) {
                let stage = if is_made {
                    self.lane(component, "resources")
                } else {
                    stage.clone()
                };
                self.wait(&stage, key, Condition::RolledOut);
            }
        }
        let snapshot = self.snapshot;
        let keys: BTreeSet<ObjectKey> = manifests.iter().map(|m| m.object.key()).collect();
        let dropped: Vec<&ObjectKey> = history
            .objects
            .iter()
            .filter(|(_, released)| !self.stays(rendered, released))
            .map(|(key, _)| key)
            .collect();
        let listed = snapshot
            .objects
            .keys()
            .filter(|key| gone.iter().any(|gone| gone.is(key)));
        let dropped: BTreeSet<&ObjectKey> = dropped
            .into_iter()
            .chain(listed)
            .filter(|key| !keys.contains(key))
            .collect();
        for key in dropped {
            let Some(live) = snapshot.get(key) else { continue };
            let is_listed = gone.iter().find(|gone| gone.is(key));
            let stage = match key.kind.as_str() {
                "CustomResourceDefinition" => self.lane(component, "removal-definitions"),
                _ => self.lane(component, "removal"),
            };
            self.delete(&stage, live, "the release no longer has it");
            if let Some(gone) = is_listed.filter(|_| release::is_custom(&key.group)) {
                self.take_finalizers(component, live, &gone.finalizers);
                self.wait(&stage, key.clone(), Condition::Gone);
            }
        }
        self.record(component, history, &judged.owned, judged.is_recorded, spec);
        self.replace_records(component);
        self.note_status(component, true);
    }

    fn generate(&mut self, secret: &GeneratedSecret, spec: &Value) {
        let key = secret.key();
        let live = self.snapshot.get(&key);
        let keys = secret.keys_to_write(live, spec, self.options.now);
        for name in keys.iter().filter(|_| live.is_some()) {
            let reference = Reference::secret(&secret.namespace, &secret.name, name);
            self.to_be_made.insert(reference);
        }
        let is_planned = self.stages.iter().any(|stage| {
            let mut steps = stage.steps.iter();
            stage.name == "secrets" && steps.any(|step| step.object == key)
        });
        // Two components may share one.
        if keys.is_empty() || is_planned {
            return;
        }
        let mut step = step(
            key,
            Action::Generate {
                secret: secret.clone(),
            },
            live,
        );
        step.note = Some(format!("{} made and kept from then on", keys.join(", ")));
        self.push("secrets", step);
    }

    /// Changes labels of what people made where the component looks for others.
    fn relabel(&mut self, component: &Component, manifests: &[Manifest]) {
        let snapshot = self.snapshot;
        for rule in &component.relabel {
            let has = |object: &Object, labels: &BTreeMap<String, String>| {
                labels
                    .iter()
                    .all(|(name, value)| object.label(name) == Some(value))
            };
            let is_meant = |live: &Object| {
                let is_there = |pointer: &String| live.get(pointer).is_some_and(is_something);
                has(live, &rule.from) && !has(live, &rule.to) && rule.has.as_ref().is_none_or(is_there)
            };
            for live in snapshot.of_kind(&rule.group, &rule.kind) {
                if !is_meant(live) || manifests.iter().any(|m| m.object.key() == live.key()) {
                    continue;
                }
                let mut labels = Map::new();
                for name in rule.from.keys() {
                    labels.insert(name.clone(), Value::Null);
                }
                for (name, value) in &rule.to {
                    labels.insert(name.clone(), value.clone().into());
                }
                let stage = self.lane(component, "resources");
                let note = "it gets the labels that the component looks for".to_owned();
                self.patch(&stage, live, json!({"metadata": {"labels": labels}}), Some(note));
            }
        }
    }

    pub(super) fn delete(&mut self, stage: &str, live: &Object, note: &str) {
        let uid = live.uid().unwrap_or_default().to_owned();
        let mut step = step(live.key(), Action::Delete { uid }, Some(live));
        step.note = Some(note.to_owned());
        self.push(stage, step);
    }

    /// Plans to take finalizers off whose controller goes.
    fn take_finalizers(&mut self, component: &Component, live: &Object, gone: &[String]) {
        let finalizers = live.get("/metadata/finalizers").and_then(Value::as_array);
        let left: Vec<&Value> = finalizers
            .into_iter()
            .flatten()
            .filter(|finalizer| !gone.iter().any(|gone| finalizer.as_str() == Some(gone)))
            .collect();
        if finalizers.is_some_and(|finalizers| finalizers.len() > left.len()) {
            let patch = json!({"metadata": {"finalizers": left}});
            let stage = self.lane(component, "resources");
            self.patch(
                &stage,
                live,
                patch,
                Some("whoever would do it goes as well".into()),
            );
        }
    }

    /// Plans what the status is to say of a component. It is written after everything else of it.
    pub(super) fn note_status(&mut self, component: &Component, is_enabled: bool) {
        let Some(path) = component.status_path() else {
            return;
        };
        let version = self.release.version.to_string();
        let live = self.status_of(component);
        let Some(status) = settings::component_status(live, is_enabled, &version) else {
            return;
        };
        let status = at(path, status);
        let stage = self.lane(component, "status");
        let says = if is_enabled { "enabled" } else { "disabled" };
        self.statuses.push(Status {
            stage,
            is_before_core: is_enabled && self.is_before_core(&component.name),
            patch: json!({ "status": status }),
            note: format!("{} is {says}", component.name),
        });
    }

    /// Plans the notes in the status: those that are written before the version is, or those after it. Each is decided on the
    /// ClusterConfiguration as it is by then.
    pub(super) fn plan_statuses(&mut self, configuration: &Object, before_core: bool) {
        let (now, later) = std::mem::take(&mut self.statuses)
            .into_iter()
            .partition(|status| status.is_before_core == before_core);
        self.statuses = later;
        let now: Vec<Status> = now;
        for status in now {
            self.patch(&status.stage, configuration, status.patch, Some(status.note));
        }
    }

    /// Whether a component comes before the core, which needs it.
    pub(super) fn is_before_core(&self, name: &str) -> bool {
        let core = self.release.core.as_deref().unwrap_or_default();
        self.release.before(core).contains(name)
    }

    /// The object with all references to secrets put in place that can be; others stay for who writes it.
    pub(super) fn resolve(&self, object: &Object, spec: &Value) -> Object {
        if release::secret::references(object.as_value()).is_empty() {
            return object.clone();
        }
        let lookup = |reference: &Reference| match reference {
            Reference::Secret {
                namespace, name, key, ..
            } => {
                if self.to_be_made.contains(&Reference::secret(namespace, name, key)) {
                    return None;
                }
                let secret = self
                    .snapshot
                    .get(&ObjectKey::namespaced("", "Secret", namespace, name))?;
                STANDARD.decode(secret.get("/data")?.get(key)?.as_str()?).ok()
            }
            Reference::Setting { path } => {
                Some(release::secret::setting_text(spec, path)?.as_bytes().to_vec())
            }
        };
        release::secret::resolve(object.as_value(), &lookup)
            .ok()
            .and_then(|value| Object::try_from(value).ok())
            .unwrap_or_else(|| object.clone())
    }
}

/// What the status is to say of a component, once everything else of it is done.
pub(super) struct Status {
    stage: String,
    is_before_core: bool,
    patch: Value,
    note: String,
}

/// Whether the settings ask for a component.
enum Asked<'a> {
    Yes(Rendered<'a>, History),
    /// Not; nothing of it is rendered where it was never installed.
    No(Rendered<'a>),
    /// They do, but it cannot be installed.
    LeftOut,
}

/// The core labels every namespace; where a component has the whole of one, that says more.
fn leave_to_components(release: &release::Release, enabled: &mut [Rendered<'_>]) {
    let namespaces = |rendered: &Rendered<'_>| {
        let manifests = rendered.manifests.iter();
        let keys = manifests.map(|manifest| manifest.object.key());
        keys.filter(|key| key.is("", "Namespace")).collect::<Vec<_>>()
    };
    let is_core = |rendered: &Rendered<'_>| release.is_core(&rendered.component.name);
    let others: BTreeSet<ObjectKey> = enabled
        .iter()
        .filter(|rendered| !is_core(rendered))
        .flat_map(namespaces)
        .collect();
    for core in enabled.iter_mut().filter(|rendered| is_core(rendered)) {
        core.manifests
            .retain(|manifest| !others.contains(&manifest.object.key()));
    }
}

/// A value at a path like `network.topology`.
fn at(path: &str, value: Value) -> Value {
    path.rsplit('.')
        .fold(value, |value, name| json!({ (name): value }))
}

/// Whether a value says that there is something.
fn is_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty() && text != "0",
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) => true,
    }
}

/// Objects whose loss would lose data or lock people out, whatever a record says.
pub(super) fn is_precious(key: &ObjectKey) -> bool {
    ["iam.kubesphere.io", "tenant.kubesphere.io"].contains(&key.group.as_str())
        || key.is("", "Namespace")
        || key.is("", "PersistentVolumeClaim")
        || key.is("apiextensions.k8s.io", "CustomResourceDefinition")
        || key.is_secret()
        || key.name == "cluster-admin"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_holds_data_is_ever_deleted_by_record() {
        let check = |key: ObjectKey, expect: bool| assert_eq!(is_precious(&key), expect, "{key}");
        check(ObjectKey::cluster("iam.kubesphere.io", "User", "admin"), true);
        check(
            ObjectKey::cluster("iam.kubesphere.io", "GlobalRole", "mine"),
            true,
        );
        check(ObjectKey::cluster("", "Namespace", "kubesphere-system"), true);
        check(ObjectKey::namespaced("", "PersistentVolumeClaim", "n", "p"), true);
        check(ObjectKey::namespaced("", "ConfigMap", "n", "c"), false);
    }

    #[test]
    fn digests_do_not_depend_on_key_order() {
        assert_eq!(
            crate::plan::digest_value(&json!({"a":1,"b":2})),
            crate::plan::digest_value(&json!({"b":2,"a":1}))
        );
    }
}
