//! What is to become of each object of a component. Nothing here changes the plan, so that components are looked at side by
//! side.

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectKey, ownership};
use release::{Manifest, Phase, helm};
use serde_json::Value;

use super::{
    Decider, MANAGER,
    components::{Rendered, is_precious},
    definitions,
    helm::History,
    immutable, rollout,
    step::{self, Compared},
};
use crate::{Finding, preflight, reasons};

/// What came of looking at a component.
pub(super) struct Judged {
    /// For each of its manifests, the stage in which it is applied, and what that takes.
    pub objects: Vec<(String, Compared)>,
    /// What its Helm release is made of from now on.
    pub owned: Vec<Object>,
    /// Whether the newest revision says just that.
    pub is_recorded: bool,
}

impl Decider<'_> {
    pub(super) fn judge(
        &self,
        rendered: &Rendered<'_>,
        history: &History,
        spec: &Value,
        kinds: &Kinds,
    ) -> Judged {
        let mut recorded: Vec<Manifest> = Vec::new();
        let mut objects = Vec::new();
        for manifest in &rendered.manifests {
            let new = self.resolve(&manifest.object, spec);
            let key = new.key();
            let live = self.snapshot.get(&key).filter(|_| !step::is_shared(&key));
            let released = history.objects.get(&key).map(Object::as_value);
            let mut findings = Vec::new();
            let (new, shown) = self.fit(&new, &manifest.object, kinds, &mut findings);
            // Neither Helm nor kubectl: what this installer itself applied before. Whoever applied it last may have added labels
            // and annotations of their own.
            let before = live.filter(|_| released.is_none()).and_then(|live| {
                let applied = live.last_applied();
                applied
                    .or_else(|| ownership::applied(live, new.as_value(), MANAGER))
                    .map(without_metadata)
            });
            let rollout = self.rollout(released.or(before.as_ref()), &new);
            findings.extend(rollout.finding);
            let mut records = manifest.clone();
            if rollout.new.get(rollout::STRATEGY) != new.get(rollout::STRATEGY) {
                // Helm takes back what its record has. What it has not would stay, and be no strategy with what it has.
                records.object = rollout::with_ours(&records.object);
            }
            recorded.push(records);
            let stage = match manifest.phase {
                // It judges what comes next already: with what its server answers with from now on.
                Phase::Webhooks if live.is_some() => self.lane(rendered.component, "present-webhooks"),
                phase => self.stage(rendered.component, phase),
            };
            let mut compared = self.compare(rollout.old.as_deref(), &rollout.new, &shown);
            findings.append(&mut compared.findings);
            objects.push((stage, Compared { findings, ..compared }));
        }
        let keys: BTreeSet<ObjectKey> = rendered.manifests.iter().map(|m| m.object.key()).collect();
        // What the release renders outside of Helm's release stays as well.
        let remains = |released: &Object| keys.contains(&released.key()) || self.stays(rendered, released);
        let owned = history.owned(&recorded, remains);
        let is_recorded = history.says(&owned, |object| self.resolve(object, spec));
        Judged {
            objects,
            owned,
            is_recorded,
        }
    }

    /// Whether an object of the old release remains in the cluster even where the new one has no such object.
    pub(super) fn stays(&self, rendered: &Rendered<'_>, released: &Object) -> bool {
        let key = released.key();
        self.snapshot.get(&key).is_some_and(|live| {
            helm::is_kept(live)
                || helm::is_kept(released)
                || is_precious(&key)
                || rendered.secrets.iter().any(|secret| secret.key() == key)
        })
    }

    /// What is to be applied, as far as the API lets the object that is there become it; and the same as it is shown.
    fn fit(
        &self,
        new: &Object,
        shown: &Object,
        kinds: &Kinds,
        findings: &mut Vec<Finding>,
    ) -> (Object, Object) {
        let Some(live) = self.snapshot.get(&new.key()) else {
            return (new.clone(), shown.clone());
        };
        if new.kind() == "CustomResourceDefinition" {
            let text = |pointer: &str| new.get_str(pointer).unwrap_or_default().to_owned();
            let own = kinds.get(&(text("/spec/group"), text("/spec/names/kind")));
            let own = own.map_or(&[][..], Vec::as_slice);
            let fitted = definitions::fit(live, new, self.release, own);
            findings.extend(kept(live, &fitted));
            if shown == new {
                return (fitted.object.clone(), fitted.object);
            }
            // A conversion webhook's authority may be a secret that is made by then.
            let shown = definitions::fit(live, shown, self.release, own);
            return (fitted.object, shown.object);
        }
        let fitted = immutable::fit(live, new);
        for path in &fitted.kept {
            findings.push(
                Finding::info(
                    reasons::IMMUTABLE_KEPT,
                    format!("{path} stays as it is: Kubernetes does not let it be changed"),
                )
                .on(new.key()),
            );
        }
        if fitted.object == *new {
            return (new.clone(), shown.clone());
        }
        (fitted.object, immutable::fit(live, shown).object)
    }
}

/// The objects of custom kinds that the release makes, by group and kind.
pub(super) type Kinds = BTreeMap<(String, String), Vec<Object>>;

/// What the enabled components make of custom kinds.
pub(super) fn kinds(enabled: &[Rendered<'_>]) -> Kinds {
    let mut kinds = Kinds::new();
    for manifest in enabled.iter().flat_map(|rendered| &rendered.manifests) {
        let object = &manifest.object;
        if release::is_custom(object.group()) || object.group().ends_with(".k8s.io") {
            let kind = (object.group().to_owned(), object.kind().to_owned());
            kinds.entry(kind).or_default().push(object.clone());
        }
    }
    kinds
}

/// That a definition of others stays as it is.
fn kept(live: &Object, fitted: &definitions::Fitted) -> Option<Finding> {
    let more: Vec<&str> = fitted.knows_more.iter().map(String::as_str).collect();
    if more.is_empty() {
        return None;
    }
    let words = format!(
        "it knows more than the release's ({}) and stays as it is: objects would lose that",
        preflight::some_of(&more)
    );
    let misses: Vec<&str> = fitted.misses.iter().map(String::as_str).collect();
    let finding = if misses.is_empty() {
        Finding::info(reasons::DEFINITION_KEPT, words).hint(
            "whoever made it keeps it up to date; nothing is to be done while the component works with it",
        )
    } else {
        let words = format!(
            "{words}; but it does not know what the component sets ({}), which the API server drops",
            preflight::some_of(&misses)
        );
        Finding::warning(reasons::DEFINITION_KEPT, words)
            .hint("have whoever made it bring it to a version that knows both")
    };
    Some(finding.on(live.key()))
}

/// What somebody applied, without labels and annotations.
fn without_metadata(mut applied: Value) -> Value {
    if let Some(map) = applied.as_object_mut() {
        map.remove("metadata");
    }
    applied
}
