//! A component that is switched off: what goes, in which order, and what stays.
//!
//! ```text
//!   people's custom resources ─▶ custom resources ─▶ webhooks ─▶ workloads ─▶ the rest ─▶ definitions, namespaces ─▶ status
//!   (with --delete-data alone)   (their controllers              (not what holds data)  (only where nothing else
//!                                 still clear finalizers)                                is in them)
//! ```
//!
//! Only what this installer had installed goes: what the status marks with a version. What another component has too stays.
//! People's custom resources go before the core is told that the component is off: some have their controllers there.

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectKey};
use release::{Component, Phase, helm};

use super::{Decider, components::Rendered};
use crate::{Finding, plan::Condition, preflight::some_of, reasons, settings};

/// The stage in which custom resources go that are people's.
pub(super) const REMOVE_CUSTOM_DATA: &str = "remove-custom-data";

/// A component on its way out.
#[derive(Default)]
struct Leaving {
    /// What goes with it, and when.
    objects: BTreeMap<ObjectKey, Phase>,
    /// What holds data.
    data: BTreeSet<ObjectKey>,
}

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

    /// Plans the removal of the components that the settings do not ask for.
    pub(super) fn remove(&mut self, disabled: &[Rendered<'_>], enabled: &[Rendered<'_>]) {
        let snapshot = self.snapshot;
        let mut all: Vec<(&Rendered<'_>, Leaving)> = disabled
            .iter()
            .map(|rendered| (rendered, self.split(rendered, enabled)))
            .collect();
        let mut going: BTreeSet<ObjectKey> = all
            .iter()
            .flat_map(|(_, leaving)| leaving.objects.keys().cloned())
            .collect();
        for (rendered, leaving) in &mut all {
            let is_data = |key: &&ObjectKey| {
                rendered.data.iter().any(|data| data.is(key))
                    && !going.contains(*key)
                    && !is_made_by_kubernetes(snapshot.get(key))
            };
            leaving
                .data
                .extend(snapshot.objects.keys().filter(is_data).cloned());
        }
        let data: BTreeSet<ObjectKey> = all
            .iter()
            .flat_map(|(_, leaving)| leaving.data.iter().cloned())
            .collect();
        let (taken, left): (BTreeSet<ObjectKey>, BTreeSet<ObjectKey>) = data
            .into_iter()
            .partition(|key| self.options.delete_data && !is_of(key, enabled));
        going.extend(taken.iter().cloned());
        let mut seen = BTreeSet::new();
        for (rendered, leaving) in &all {
            let component = rendered.component;
            for key in &leaving.data {
                if seen.insert(key) {
                    self.take_data(component, key, taken.contains(key));
                }
            }
            for (key, phase) in &leaving.objects {
                self.take(component, key, *phase, &going, &left);
            }
            if !self.options.delete_data {
                self.tell_what_stays(component, &leaving.data);
            }
            self.note_status(component, false);
        }
    }

    /// What of a component goes, and what of it stays since it holds data.
    fn split(&self, rendered: &Rendered<'_>, enabled: &[Rendered<'_>]) -> Leaving {
        let stays = |key: &ObjectKey| {
            // Of a whole kind the component's own objects go; what people made of it is not among these.
            let data = &mut rendered.data.iter();
            data.any(|data| data.name.is_some() && data.is(key))
                || key.is("", "PersistentVolumeClaim")
                || rendered.secrets.iter().any(|secret| secret.key() == *key)
        };
        let mut leaving = Leaving::default();
        for (key, phase) in self.objects_of(rendered, enabled) {
            if stays(&key) {
                leaving.data.insert(key);
            } else {
                leaving.objects.insert(key, phase);
            }
        }
        leaving
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
        for secret in &rendered.secrets {
            objects.entry(secret.key()).or_insert(Phase::Secrets);
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

    /// Plans to delete an object that holds data, where `is_asked_for`. Custom resources go first: once their controllers
    /// are gone, nobody clears their finalizers any more. That holds for what somebody else is deleting, too.
    fn take_data(&mut self, component: &Component, key: &ObjectKey, is_asked_for: bool) {
        let Some(live) = self.snapshot.get(key) else {
            return;
        };
        let is_custom = self.is_defined(key);
        let stage = if is_custom {
            REMOVE_CUSTOM_DATA
        } else {
            "remove-data"
        };
        let stage = format!("{}/{stage}", component.name);
        if is_asked_for {
            self.delete(&stage, live, "its data, as asked for");
        }
        if is_custom && (is_asked_for || live.is_being_deleted()) {
            self.wait(&stage, key.clone(), Condition::Gone);
        }
    }

    /// Whether the kind of an object is a definition's, which says more than its group: Kubernetes' own sub-projects have some.
    fn is_defined(&self, key: &ObjectKey) -> bool {
        let mut definitions = self
            .snapshot
            .of_kind("apiextensions.k8s.io", "CustomResourceDefinition");
        definitions.any(|definition| {
            definition.get_str("/spec/group") == Some(&key.group)
                && definition.get_str("/spec/names/kind") == Some(&key.kind)
        })
    }

    /// Plans to delete an object. `going` is what goes with all components, `left` the data that stays.
    fn take(
        &mut self,
        component: &Component,
        key: &ObjectKey,
        phase: Phase,
        going: &BTreeSet<ObjectKey>,
        left: &BTreeSet<ObjectKey>,
    ) {
        let Some(live) = self.snapshot.get(key) else {
            return;
        };
        let stage = match phase {
            Phase::CustomResources => "remove-resources",
            Phase::Webhooks => "remove-webhooks",
            Phase::Workloads => "remove-workloads",
            Phase::CustomResourceDefinitions if self.is_in_use(live, going) => return,
            Phase::CustomResourceDefinitions => "remove-definitions",
            Phase::Namespaces
                if left
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
        if self.is_there(component) && component.switch.is_some() {
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
        let stays = |key: &&ObjectKey| {
            self.snapshot
                .get(key)
                .is_some_and(|live| !live.is_being_deleted())
        };
        let names: Vec<String> = data.iter().filter(stays).map(ToString::to_string).collect();
        if names.is_empty() {
            return;
        }
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
