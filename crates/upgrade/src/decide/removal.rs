//! A component that is switched off: what goes, in which order, and what stays.
//!
//! ```text
//!   custom resources ─▶ webhooks ─▶ workloads ─▶ the rest ─▶ definitions, namespaces ─▶ status
//!   (their controllers                            (not what holds data)  (only where nothing else is in them)
//!    still clear finalizers)
//! ```
//!
//! Only what this installer had installed goes: what the status marks with a version. What another component has too stays.

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectKey};
use release::{Component, Phase, helm};
use serde_json::Value;

use super::{Decider, components::Rendered};
use crate::{Finding, plan::Condition, preflight::some_of, reasons, settings};

impl Decider<'_> {
    /// Whether a component goes: it was installed, and nothing that stays needs it.
    pub(super) fn goes(&mut self, rendered: &Rendered<'_>, enabled: &[Rendered<'_>]) -> bool {
        let component = rendered.component;
        if !self.was_installed(component) {
            self.tell_what_runs(component);
            return false;
        }
        let users: Vec<&str> = enabled
            .iter()
            .filter(|other| component.switch.is_some() && other.component.needs.contains(&component.name))
            .filter(|other| !self.release.is_core(&other.component.name))
            .map(|other| other.component.name.as_str())
            .collect();
        if !users.is_empty() {
            self.findings.push(
                Finding::warning(
                    reasons::COMPONENT_IN_USE,
                    format!(
                        "component {} is switched off, but stays: {} needs it",
                        component.name,
                        some_of(&users)
                    ),
                )
                .on(settings::cluster_configuration())
                .hint(format!(
                    "switch off {} first, or {} on again",
                    users.join(", "),
                    component.name
                )),
            );
        }
        users.is_empty()
    }

    /// Plans the removal of a component that the settings do not ask for.
    /// `going` is what goes with all of these components.
    pub(super) fn remove(
        &mut self,
        rendered: &Rendered<'_>,
        enabled: &[Rendered<'_>],
        going: &BTreeSet<ObjectKey>,
    ) {
        let component = rendered.component;
        let (stay, go) = self.split(rendered, enabled);
        let mut data: BTreeSet<ObjectKey> = stay.into_iter().map(|(key, _)| key).collect();
        data.extend(
            self.snapshot
                .objects
                .values()
                .map(Object::key)
                .filter(|key| rendered.data.iter().any(|data| data.is(key)))
                .filter(|key| !going.contains(key) && !is_made_by_kubernetes(self.snapshot.get(key))),
        );
        for (key, phase) in &go {
            self.take(component, key, *phase, going, &data);
        }
        if self.options.delete_data {
            for key in &data {
                if is_of(key, enabled) {
                    continue;
                }
                let snapshot = self.snapshot;
                if let Some(live) = snapshot.get(key) {
                    self.delete(
                        &format!("{}/remove-data", component.name),
                        live,
                        "its data, as asked for",
                    );
                }
            }
        } else {
            self.tell_what_stays(component, &data);
        }
        self.note_status(component, false);
    }

    /// What of a component stays when it goes, since it holds data, and what goes.
    #[expect(clippy::type_complexity, reason = "two lists of the same")]
    pub(super) fn split(
        &self,
        rendered: &Rendered<'_>,
        enabled: &[Rendered<'_>],
    ) -> (Vec<(ObjectKey, Phase)>, Vec<(ObjectKey, Phase)>) {
        let stays = |key: &ObjectKey| {
            // Of a whole kind the component's own objects go; what people made of it is not among these.
            let data = &mut rendered.data.iter();
            data.any(|data| data.name.is_some() && data.is(key))
                || key.is("", "PersistentVolumeClaim")
                || rendered.secrets.iter().any(|secret| secret.key() == *key)
        };
        self.objects_of(rendered, enabled)
            .into_iter()
            .partition(|(key, _)| stays(key))
    }

    /// What is there of the component and of no other that is enabled.
    fn objects_of(&self, rendered: &Rendered<'_>, enabled: &[Rendered<'_>]) -> BTreeMap<ObjectKey, Phase> {
        let component = rendered.component;
        let mut objects: BTreeMap<ObjectKey, Phase> = BTreeMap::new();
        for manifest in &rendered.manifests {
            let phase = match manifest.phase {
                // Early ones too: they have controllers that clear their finalizers.
                Phase::Services if release::is_custom(manifest.object.group()) => Phase::CustomResources,
                phase => phase,
            };
            objects.insert(manifest.object.key(), phase);
        }
        if let Some(helm) = &component.helm {
            let secrets = self.snapshot.of_kind("", "Secret");
            for record in helm::history(secrets, &helm.name, &helm.namespace).unwrap_or_default() {
                let objects_of = record.manifest_objects(&helm::is_namespaced).unwrap_or_default();
                for object in objects_of {
                    let phase = Phase::of_kind(object.group(), object.kind());
                    objects.entry(object.key()).or_insert(phase);
                }
                let key = ObjectKey::namespaced("", "Secret", record.namespace(), &record.secret_name());
                objects.insert(key, Phase::Services);
            }
        }
        let listed = |key: &&ObjectKey| {
            let leaves = rendered.leaves.iter().copied();
            component.gone.iter().chain(leaves).any(|gone| gone.is(key))
        };
        for key in self.snapshot.objects.keys().filter(listed) {
            objects
                .entry(key.clone())
                .or_insert_with(|| Phase::of_kind(&key.group, &key.kind));
        }
        objects.retain(|key, _| self.snapshot.get(key).is_some() && !is_of(key, enabled));
        objects
    }

    fn take(
        &mut self,
        component: &Component,
        key: &ObjectKey,
        phase: Phase,
        gone: &BTreeSet<ObjectKey>,
        data: &BTreeSet<ObjectKey>,
    ) {
        let Some(live) = self.snapshot.get(key) else {
            return;
        };
        let stage = match phase {
            Phase::CustomResources => "remove-resources",
            Phase::Webhooks => "remove-webhooks",
            Phase::Workloads => "remove-workloads",
            Phase::CustomResourceDefinitions if self.is_in_use(live, gone) => return,
            Phase::CustomResourceDefinitions => "remove-definitions",
            Phase::Namespaces
                if data
                    .iter()
                    .any(|data| data.namespace.as_deref() == Some(&key.name)) =>
            {
                return;
            }
            Phase::Namespaces => "remove-namespaces",
            Phase::Rbac | Phase::Secrets | Phase::ConfigMaps | Phase::Services => "remove-rest",
        };
        let stage = format!("{}/{stage}", component.name);
        self.delete(&stage, live, "the component is switched off");
        if phase == Phase::CustomResources || phase == Phase::Workloads {
            self.wait(&stage, key.clone(), Condition::Gone);
        }
    }

    /// Whether objects of a definition stay.
    fn is_in_use(&self, definition: &Object, gone: &BTreeSet<ObjectKey>) -> bool {
        let text = |pointer: &str| definition.get_str(pointer).unwrap_or_default();
        let (group, kind) = (text("/spec/group"), text("/spec/names/kind"));
        let resource = format!("{}.{group}", text("/spec/names/plural"));
        self.snapshot
            .unreadable
            .iter()
            .any(|unreadable| unreadable.resource == resource)
            || self
                .snapshot
                .of_kind(group, kind)
                .any(|object| !gone.contains(&object.key()))
    }

    /// An earlier installer removed nothing: what it left behind runs on until somebody asks for its removal.
    fn tell_what_runs(&mut self, component: &Component) {
        let runs = self
            .status_of(component)
            .and_then(|status| status.get("status"))
            .and_then(Value::as_str)
            == Some("enabled");
        if runs && component.switch.is_some() {
            self.findings.push(
                Finding::info(
                    reasons::COMPONENT_STILL_RUNS,
                    format!(
                        "component {} is switched off, but what an earlier installer made of it still runs",
                        component.name
                    ),
                )
                .on(settings::cluster_configuration())
                .hint(format!("remove it with: ks-installer disable {}", component.name)),
            );
        }
    }

    fn tell_what_stays(&mut self, component: &Component, data: &BTreeSet<ObjectKey>) {
        if data.is_empty() {
            return;
        }
        let names: Vec<String> = data.iter().map(ToString::to_string).collect();
        self.findings.push(
            Finding::info(
                reasons::DATA_STAYS,
                format!(
                    "of component {} these stay, so that enabling it again finds them: {}",
                    component.name,
                    names.join(", ")
                ),
            )
            .hint("remove them, too, with --delete-data"),
        );
    }
}

/// Tokens and records, which are nobody's data.
fn is_made_by_kubernetes(object: Option<&Object>) -> bool {
    object
        .and_then(|object| object.get_str("/type"))
        .is_some_and(|kind| kind == "kubernetes.io/service-account-token" || kind.starts_with("helm.sh/"))
}

/// Whether one of these components has an object.
fn is_of(key: &ObjectKey, components: &[Rendered<'_>]) -> bool {
    components.iter().any(|other| {
        other
            .manifests
            .iter()
            .any(|manifest| manifest.object.key() == *key)
            || other.secrets.iter().any(|secret| secret.key() == *key)
    })
}
