//! The components of the release, the ClusterConfiguration, and the installer that was there before.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use object::{Object, ObjectKey};
use release::{Component, Manifest, Phase, helm, secret::Reference};
use serde_json::{Value, json};

use super::{
    Decider, installer_key, rollout,
    step::{self, step},
};
use crate::{
    Action, Finding, Install, Snapshot,
    health::{self, Health},
    plan::Condition,
    reasons,
    settings::{self, Redis, Settings},
};

/// What the components of the release are made of.
#[derive(Default)]
pub(super) struct Components {
    pub manifests: Vec<Manifest>,
    /// What must be seen well.
    pub targets: release::Target,
    /// The workloads among it, by component.
    pub workloads: BTreeMap<String, Vec<ObjectKey>>,
}

/// ks-apiserver does not start when it is told of a redis that is not there, and redis is not a part of the core.
pub(super) fn check_redis(snapshot: &Snapshot, settings: &Settings, install: Install) -> Option<Finding> {
    let hint = match install {
        Install::No => {
            "let the present release install redis first, or set enableHA and common.redis.enabled to false"
        }
        Install::WhereAbsent | Install::Only => {
            "set enableHA and common.redis.enabled to false (ks-installer install --set enableHA=false), or bring a redis with the Service redis in namespace kubesphere-system first"
        }
    };
    let service = ObjectKey::namespaced("", "Service", "kubesphere-system", "redis");
    (settings.redis != Redis::None && snapshot.get(&service).is_none()).then(|| {
        Finding::blocker(
            reasons::REDIS_MISSING,
            "the settings ask for redis (common.redis.enabled, or high availability), and there is none: ks-apiserver would not start",
        )
        .on(service)
        .hint(hint)
    })
}

impl Decider<'_> {
    /// A running old installer would put the old release back on the next edit of the ClusterConfiguration.
    pub(super) fn stop_old_installer(&mut self) {
        let key = installer_key();
        let Some(live) = self.snapshot.get(&key).filter(|live| !super::is_operator(live)) else {
            return;
        };
        if live.get("/spec/replicas").and_then(Value::as_i64).unwrap_or(1) > 0 {
            let mut step = step(key.clone(), Action::Scale { replicas: 0 }, Some(live));
            step.note =
                Some("it would put the old release back on the next edit of the ClusterConfiguration".into());
            self.push("old-installer", step);
            self.wait("old-installer", key, Condition::Stopped);
        }
    }

    /// Brings the ClusterConfiguration into the present shape, in place.
    pub(super) fn convert_configuration(&mut self, live: &Object, spec: &Value) {
        let old = live.get("/spec").cloned().unwrap_or_default();
        if let Some(patch) = settings::spec_patch(&old, spec) {
            self.patch(
                "configuration",
                live,
                patch,
                Some("its settings move to where this release reads them".into()),
            );
        }
    }

    /// Notes in the ClusterConfiguration that the release is in place. The version is written last of all.
    pub(super) fn complete(&mut self, live: &Object) {
        let version = self.release.version.to_string();
        let null = Value::Null;
        let mut patch = json!({});
        if let Some(status) = settings::status_patch(live.get("/status").unwrap_or(&null), &version) {
            step::merge_patch(&mut patch, &status);
        }
        if let Some(labels) = settings::label_patch(live.get("/metadata/labels").unwrap_or(&null), &version) {
            step::merge_patch(&mut patch, &labels);
        }
        if patch != json!({}) {
            self.patch("completion", live, patch, None);
        }
    }

    /// Plans all components of the release; returns what they are.
    pub(super) fn components(&mut self, settings: &Settings) -> Components {
        let release = self.release;
        let snapshot = self.snapshot;
        let mut all = Components::default();
        for component in &release.components {
            let inputs = match settings.inputs(release, component, |key| snapshot.get(key)) {
                Ok(inputs) => inputs,
                Err(findings) => {
                    self.findings.extend(findings);
                    continue;
                }
            };
            let rendered = release::render(release, component, &inputs)
                .and_then(|manifests| Ok((manifests, component.generated_secrets(release, &inputs)?)));
            match rendered {
                Ok((manifests, secrets)) => {
                    self.component(component, &manifests, &secrets, settings.spec());
                    let targets = component.targets(&manifests);
                    all.workloads
                        .insert(component.name.clone(), targets.workloads.clone());
                    all.targets.workloads.extend(targets.workloads);
                    all.targets.custom_resource_definitions.extend(targets.custom_resource_definitions);
                    all.targets.webhook_services.extend(targets.webhook_services);
                    all.manifests.extend(manifests);
                }
                Err(error) => self.findings.push(
                    Finding::blocker(reasons::MANIFEST_DOES_NOT_RENDER, error.to_string())
                        .hint("check the settings that it names; if they are right, this is a fault of the installer: please report it"),
                ),
            }
        }
        all
    }

    fn component(
        &mut self,
        component: &Component,
        manifests: &[Manifest],
        secrets: &[release::GeneratedSecret],
        spec: &Value,
    ) {
        for secret in secrets {
            let key = secret.key();
            let live = self.snapshot.get(&key);
            let keys = secret.keys_to_write(live, spec);
            if !keys.is_empty() {
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
        }
        let history = self.history(component);
        let old = &history.objects;
        let mut workloads = false;
        let mut recorded = manifests.to_vec();
        for (manifest, recorded) in manifests.iter().zip(&mut recorded) {
            let new = self.resolve(&manifest.object, spec);
            let key = new.key();
            let stage = match manifest.phase {
                Phase::Namespaces => "namespaces",
                Phase::CustomResourceDefinitions => "definitions",
                Phase::Rbac | Phase::Secrets | Phase::ConfigMaps | Phase::Services => "core",
                Phase::Workloads | Phase::CustomResources => "workloads",
                Phase::Webhooks => "webhooks",
            };
            let live = self.snapshot.get(&key).filter(|_| !step::is_shared(&key));
            // Whoever applied it last may have added labels and annotations of their own.
            let last_applied = live.and_then(Object::last_applied).map(|mut applied| {
                if let Some(map) = applied.as_object_mut() {
                    map.remove("metadata");
                }
                applied
            });
            let released = old.get(&key).map(Object::as_value);
            let rollout = self.rollout(released.or(last_applied.as_ref()), &new);
            if rollout.new.get(rollout::STRATEGY) != new.get(rollout::STRATEGY) {
                // Helm takes back what its record has. What it has not would stay, and be no strategy with what it has.
                recorded.object = rollout::with_ours(&recorded.object);
            }
            let planned = self.apply(stage, rollout.old.as_ref(), &rollout.new, &manifest.object);
            workloads |= planned && matches!(manifest.phase, Phase::Workloads | Phase::ConfigMaps);
            if planned && manifest.phase == Phase::CustomResourceDefinitions {
                self.wait(stage, key, Condition::Established);
            }
        }
        for key in component.targets(manifests).workloads {
            // A run that stopped at a rollout left it behind. The version must not be written before it is complete.
            let live = self.snapshot.get(&key);
            if workloads || live.is_some_and(|live| health::rollout(live) != Health::Complete) {
                self.wait("workloads", key, Condition::RolledOut);
            }
        }
        let snapshot = self.snapshot;
        let stays = |released: &Object| {
            let key = released.key();
            snapshot.get(&key).is_some_and(|live| {
                helm::is_kept(live)
                    || helm::is_kept(released)
                    || is_precious(&key)
                    || secrets.iter().any(|secret| secret.key() == key)
            })
        };
        for (key, released) in old {
            let Some(live) = snapshot.get(key) else {
                continue;
            };
            if !stays(released) && !manifests.iter().any(|m| m.object.key() == *key) {
                let uid = live.uid().unwrap_or_default().to_owned();
                let mut step = step(key.clone(), Action::Delete { uid }, Some(live));
                step.note = Some("the release no longer has it".into());
                self.push("webhooks", step);
            }
        }
        // What the release renders outside of Helm's release stays as well.
        let remains =
            |released: &Object| stays(released) || manifests.iter().any(|m| m.object.key() == released.key());
        self.record(component, &history, &recorded, spec, remains);
    }

    /// The object with all references to secrets put in place that can be; others stay for who writes it.
    pub(super) fn resolve(&self, object: &Object, spec: &Value) -> Object {
        let lookup = |reference: &Reference| match reference {
            Reference::Secret {
                namespace, name, key, ..
            } => {
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

/// Objects whose loss would lose data or lock people out, whatever a record says.
fn is_precious(key: &ObjectKey) -> bool {
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
