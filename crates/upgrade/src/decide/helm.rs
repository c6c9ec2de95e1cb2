//! Helm's records: what the old release set and owned, and the revision that says what the release is from now on.
//!
//! ```text
//!   records ─▶ current revision ─▶ what the old release set: base of the three-way comparison, and what it owned
//!      │
//!      └─▶ does the newest revision describe the new release?  yes ─▶ nothing to write
//!              no ─▶ a further revision, deployed ─▶ the ones before it: superseded, or failed where Helm was killed
//! ```
//!
//! The further revision is written before the earlier ones are changed, and each on its own: a run that is cut in
//! between leaves two deployed revisions, of which Helm takes the later, and the next run changes the earlier.

use std::collections::BTreeMap;

use object::{Object, ObjectKey};
use release::{Component, HelmRelease, Manifest, helm};
use serde_json::{Value, json};

use super::{Decider, step::step};
use crate::{
    Action, Finding,
    plan::{self, Body},
    reasons,
};

/// What is known of a release from its records.
#[derive(Default)]
pub(super) struct History {
    /// Oldest first; `None` when they cannot be read, so that none must be written.
    records: Option<Vec<helm::Record>>,
    /// The objects of the newest revision, where that is deployed.
    newest: Option<Vec<Object>>,
    /// The objects of the current revision, as its manifest has them.
    pub objects: BTreeMap<ObjectKey, Object>,
}

impl History {
    /// What the release is made of from now on, where `manifests` are the component's. `stays` says of an object of the old
    /// release that it remains in the cluster, though the new one does not have it.
    pub(super) fn owned(&self, manifests: &[Manifest], stays: impl Fn(&Object) -> bool) -> Vec<Object> {
        if self.records.is_none() {
            return Vec::new();
        }
        let manifests = manifests.iter().filter(|manifest| manifest.in_helm_release);
        let mut owned: Vec<Object> = manifests
            .map(|manifest| helm::unmarked(&manifest.object))
            .collect();
        owned.extend(helm::carried(&self.objects, &owned, stays));
        owned
    }

    /// Whether the newest revision says just that, with references to secrets put in place by `resolve`.
    pub(super) fn says(&self, owned: &[Object], resolve: impl Fn(&Object) -> Object) -> bool {
        self.newest.as_ref().is_some_and(|newest| {
            let objects = helm::with_recorded_secrets(newest, owned);
            let objects: Vec<Object> = objects.iter().map(resolve).collect();
            helm::describes(newest, &objects)
        })
    }
}

impl Decider<'_> {
    /// Reads the records of the component's Helm release; a finding where they cannot be read.
    pub(super) fn history(&self, component: &Component) -> (History, Option<Finding>) {
        let Some(release) = &component.helm else {
            return (History::default(), None);
        };
        if self.snapshot.unreadable.iter().any(|u| u.resource == "secrets") {
            return (History::default(), None);
        }
        let secrets = self.snapshot.of_kind("", "Secret");
        let objects_of = |record: &helm::Record| record.manifest_objects(&helm::is_namespaced);
        let read = helm::history(secrets, &release.name, &release.namespace).and_then(|records| {
            let current = helm::current(&records);
            let objects = current.map(objects_of).transpose()?.unwrap_or_default();
            let newest = records.last().filter(|newest| newest.status() == "deployed");
            let newest = newest.and_then(|newest| {
                let is_current = current.is_some_and(|current| current.revision() == newest.revision());
                if is_current {
                    Some(objects.clone())
                } else {
                    objects_of(newest).ok()
                }
            });
            Ok((records, newest, objects))
        });
        match read {
            Ok((records, newest, objects)) => {
                let replaced = release.replaces.iter().flat_map(|name| {
                    let records = self.records_of(name, &release.namespace);
                    let current = helm::current(&records);
                    current
                        .and_then(|record| objects_of(record).ok())
                        .unwrap_or_default()
                });
                let history = History {
                    records: Some(records),
                    newest,
                    objects: replaced.chain(objects).map(|o| (o.key(), o)).collect(),
                };
                (history, None)
            }
            Err(error) => {
                let finding = Finding::warning(
                    reasons::HELM_RECORD_UNREADABLE,
                    format!(
                        "the record of Helm release {} cannot be read: {error}",
                        release.name
                    ),
                )
                .hint(
                    "fields that the old release set and the new one does not may stay behind, and no further revision is recorded",
                );
                (History::default(), Some(finding))
            }
        }
    }

    /// Plans what Helm's records are to say of a component whose release is made of `owned` from now on.
    pub(super) fn record(
        &mut self,
        component: &Component,
        history: &History,
        owned: &[Object],
        is_recorded: bool,
        spec: &Value,
    ) {
        let (Some(release), Some(records)) = (&component.helm, &history.records) else {
            return;
        };
        let newest = records.last().filter(|_| is_recorded);
        let deployed = newest
            .map(helm::Record::revision)
            .or_else(|| self.further_revision(component, release, records, owned, spec));
        let Some(deployed) = deployed else { return };
        for record in records.iter().filter(|record| record.revision() < deployed) {
            self.overtake(component, record, deployed);
        }
    }

    /// Plans a revision after all others; `None` when there can be none.
    fn further_revision(
        &mut self,
        component: &Component,
        release: &HelmRelease,
        records: &[helm::Record],
        owned: &[Object],
        spec: &Value,
    ) -> Option<u64> {
        let resolved: Vec<Object> = owned.iter().map(|object| self.resolve(object, spec)).collect();
        let description = if records.is_empty() {
            "Install complete".to_owned()
        } else {
            format!("Upgrade to {} complete", self.release.version)
        };
        let record = helm::successor(records, release, owned, &description);
        let key = ObjectKey::namespaced("", "Secret", record.namespace(), &record.secret_name());
        let whole = record.completed(&helm::to_manifest(&resolved), "2000-01-01T00:00:00.000000000Z");
        if whole.size().is_ok_and(|size| size > helm::MAX_RECORD) {
            self.findings.push(
                Finding::warning(
                    reasons::HELM_RECORD_TOO_LARGE,
                    "the record would be larger than the 1 MiB that a Secret can hold, so it is not written",
                )
                .hint("helm goes on showing the revision before: do not roll back or upgrade this release with helm")
                .on(key),
            );
            return None;
        }
        let body = json!({"release": record.as_value(), "objects": owned});
        let action = Action::Record {
            status: record.status().to_owned(),
            digest: plan::digest_value(&body),
            body: Body(body),
        };
        let revision = record.revision();
        let mut step = step(key, action, None);
        step.note = Some(format!("revision {revision} of Helm release {}", release.name));
        let stage = self.lane(component, "helm-record");
        self.push(&stage, step);
        Some(revision)
    }

    /// Plans what becomes of a revision that is no longer the latest.
    fn overtake(&mut self, component: &Component, record: &helm::Record, by: u64) {
        let Some((status, description)) = helm::overtaken(record, by) else {
            return;
        };
        let key = ObjectKey::namespaced("", "Secret", record.namespace(), &record.secret_name());
        let live = self.snapshot.get(&key);
        let body = json!({"release": record.with_status(status, &description).as_value()});
        let action = Action::Record {
            status: status.to_owned(),
            digest: plan::digest_value(&body),
            body: Body(body),
        };
        let mut step = step(key, action, live);
        step.note = Some(format!("{}, now {status}", record.status()));
        let stage = self.lane(component, "helm-history");
        self.push(&stage, step);
    }

    /// Plans that records of releases go in whose place another one is: their objects are that one's now.
    pub(super) fn replace_records(&mut self, component: &Component) {
        let Some(release) = &component.helm else { return };
        for name in &release.replaces {
            for record in self.records_of(name, &release.namespace) {
                let key = ObjectKey::namespaced("", "Secret", record.namespace(), &record.secret_name());
                if let Some(live) = self.snapshot.get(&key) {
                    let stage = self.lane(component, "helm-history");
                    self.delete(
                        &stage,
                        live,
                        &format!("Helm release {} is in its place", release.name),
                    );
                }
            }
        }
    }

    fn records_of(&self, name: &str, namespace: &str) -> Vec<helm::Record> {
        helm::history(self.snapshot.of_kind("", "Secret"), name, namespace).unwrap_or_default()
    }
}
