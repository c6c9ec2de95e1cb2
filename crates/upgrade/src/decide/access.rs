//! Role templates, built-in roles, and what becomes of users' roles and bindings.

use std::collections::BTreeMap;

use ::access::{BindingAction, Catalog, Policy, TEMPLATE};
use object::{Object, ObjectKey};
use release::{Version, load_catalog, nearest_catalog_version};
use serde_json::json;

use super::{Decider, step::step};
use crate::{Action, Finding, Severity, reasons};

impl Decider<'_> {
    /// Plans the access objects, and notes who loses and gains what.
    pub(super) fn access(&mut self, installed: Option<&str>) {
        let Some((catalog, policy)) = self.catalog(&self.release.version.clone()) else {
            return;
        };
        let from = installed.and_then(|version| self.catalog_before(version));
        // What the old release set is known from its catalog, not from what somebody applied last: a label that people
        // gave a template is theirs.
        let released: BTreeMap<ObjectKey, &Object> = from
            .iter()
            .flat_map(Catalog::objects)
            .map(|object| (object.key(), object))
            .collect();
        for object in catalog.objects() {
            let old = released.get(&object.key()).map(|object| object.as_value());
            self.apply("role-templates", old, object, object);
            self.released_roles
                .push((object.key(), object.label(TEMPLATE).is_some()));
        }
        let Some(from) = from else {
            return;
        };
        let options = self.options.migration();
        let snapshot = self.snapshot;
        let state = snapshot.objects.values();
        let migration = ::access::migrate(state, &from, &catalog, &policy, options);

        for change in &migration.binding_changes {
            let Some(live) = snapshot.get(&change.key) else {
                continue;
            };
            match &change.action {
                BindingAction::Rebind { to } => {
                    let patch = json!({"roleRef": {"name": to}});
                    self.patch(
                        "bindings",
                        live,
                        patch,
                        Some(format!("role {} is removed", change.from)),
                    );
                }
                BindingAction::DeleteRedundant { replacement } => {
                    let uid = live.uid().unwrap_or_default().to_owned();
                    let mut step = step(change.key.clone(), Action::Delete { uid }, Some(live));
                    step.note = Some(format!(
                        "role {} is removed, and its user has {replacement} through another binding",
                        change.from
                    ));
                    self.push("bindings", step);
                }
            }
        }
        for change in &migration.role_changes {
            let Some(live) = snapshot.get(&change.key) else {
                continue;
            };
            let mut patch = json!({});
            if let Some(annotation) = &change.annotation {
                patch["metadata"]["annotations"][::access::AGGREGATION] = (**annotation).into();
            }
            if let Some(rules) = &change.rules {
                patch["rules"] = json!(rules);
            }
            let mut notes = Vec::new();
            if !change.removed_templates.is_empty() {
                notes.push(format!("revoked: {}", change.removed_templates.join(", ")));
            }
            for renamed in change.renamed_templates.iter() {
                notes.push(format!("{} is now {}", renamed.from, renamed.to));
            }
            if !change.extended_templates.is_empty() {
                notes.push(format!(
                    "extended by the release: {}",
                    change.extended_templates.join(", ")
                ));
            }
            let note = (!notes.is_empty()).then(|| notes.join("; "));
            self.patch("custom-roles", live, patch, note);
        }
        for key in &migration.removed {
            let Some(live) = snapshot.get(key) else { continue };
            let uid = live.uid().unwrap_or_default().to_owned();
            let mut step = step(key.clone(), Action::Delete { uid }, Some(live));
            step.note = Some("the release no longer has it, and nothing refers to it".into());
            self.push("removed-roles", step);
        }
        self.findings
            .extend(migration.findings.into_iter().map(|finding| {
                let severity = if finding.needs_decision {
                    Severity::Warning
                } else {
                    Severity::Info
                };
                Finding {
                    severity,
                    reason: finding.reason,
                    object: Some(finding.object),
                    message: finding.message,
                    hint: finding.hint,
                }
            }));
        self.impact = migration.impact;
    }

    /// The catalog of the version that the cluster comes from, or of the nearest older one.
    pub(super) fn catalog_before(&mut self, installed: &str) -> Option<Catalog> {
        let installed: Version = installed.parse().ok()?;
        let nearest = nearest_catalog_version(&self.files, &installed)?;
        if nearest != installed.core() {
            self.findings.push(Finding::warning(
                reasons::NO_CATALOG_FOR_VERSION,
                format!(
                    "the permissions that {installed} shipped are not known; those of {nearest} are taken"
                ),
            ));
        }
        self.catalog(&nearest).map(|(catalog, _)| catalog)
    }

    pub(super) fn catalog(&mut self, version: &Version) -> Option<(Catalog, Policy)> {
        match load_catalog(&self.files, version) {
            Ok(found) => Some(found),
            Err(error) => {
                self.findings
                    .push(Finding::blocker(reasons::CATALOG_UNREADABLE, error.to_string()));
                None
            }
        }
    }
}
