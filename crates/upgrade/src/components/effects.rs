//! What enabling a component does to what is there already.

use std::collections::BTreeSet;

use object::{Object, ObjectKey, ownership};
use release::{Component, Manifest, Phase};
use serde_json::Value;

use super::survey::Survey;
use crate::decide::MANAGER;

/// In words, for who decides: what makes place, what is taken over, what changes of the core, what the API server asks from then
/// on, and which ports of the nodes are taken. `with` is the survey with it enabled, `manifests` what comes then, `unaccounted`
/// what of it is there.
pub(super) fn effects(
    before: &Survey<'_>,
    with: &Survey<'_>,
    manifests: &[Manifest],
    unaccounted: &[ObjectKey],
) -> Vec<String> {
    let mut effects = Vec::new();
    let gone: Vec<&str> = before
        .enabled
        .difference(&with.enabled)
        .map(String::as_str)
        .collect();
    if !gone.is_empty() {
        effects.push(format!("takes the place of {}", gone.join(", ")));
    }
    if !unaccounted.is_empty() {
        let names: Vec<String> = unaccounted.iter().map(ToString::to_string).collect();
        effects.push(format!(
            "takes over what is there already, though nothing says that KubeSphere made it: {}",
            names.join(", ")
        ));
    }
    effects.extend(core(before, with));
    effects.extend(manifests.iter().flat_map(webhooks));
    effects.extend(ports(before, manifests));
    effects
}

/// Objects of a component that are there though no status speaks of it, and that neither this installer nor the component's Helm
/// release wrote: they may be somebody else's. Namespaces get labels only, and definitions stay where they serve as much.
pub(super) fn unaccounted(
    before: &Survey<'_>,
    component: &Component,
    manifests: &[Manifest],
) -> Vec<ObjectKey> {
    if before.is_noted(component) {
        return Vec::new();
    }
    let may_be_others = |manifest: &&Manifest| {
        let live = before.snapshot.get(&manifest.object.key());
        !matches!(
            manifest.phase,
            Phase::Namespaces | Phase::CustomResourceDefinitions
        ) && live.is_some_and(|live| !is_accounted_for(live, manifest))
    };
    manifests
        .iter()
        .filter(may_be_others)
        .map(|manifest| manifest.object.key())
        .collect()
}

fn is_accounted_for(live: &Object, manifest: &Manifest) -> bool {
    let release = |object: &Object| {
        let name = object.get_str("/metadata/annotations/meta.helm.sh~1release-name");
        name.map(str::to_owned)
    };
    ownership::has_written(live, MANAGER)
        || manifest.in_helm_release && release(live) == release(&manifest.object)
}

/// Objects of the core that change.
fn core(before: &Survey<'_>, with: &Survey<'_>) -> Vec<String> {
    let release = before.release;
    let mut effects = Vec::new();
    for component in release.components.iter().filter(|c| release.is_core(&c.name)) {
        // Most components change nothing of it, and rendering it takes longest of all.
        if matches!((before.inputs(component), with.inputs(component)), (Ok(old), Ok(new)) if old == new) {
            continue;
        }
        let (Ok(old), Ok(new)) = (before.render(component), with.render(component)) else {
            continue;
        };
        for manifest in &new {
            let key = manifest.object.key();
            let was = old.iter().find(|old| old.object.key() == key);
            if was.is_none_or(|was| was.object == manifest.object) {
                continue;
            }
            let readers: Vec<&str> = new
                .iter()
                .filter(|m| mounts(m, &key.kind, &key.name))
                .map(|m| m.object.name())
                .collect();
            effects.push(match readers.as_slice() {
                [] => format!("changes {key}"),
                readers => format!("changes {key}, which {} read", readers.join(", ")),
            });
        }
    }
    effects
}

/// Whether the pods of a workload have a ConfigMap as a volume.
fn mounts(manifest: &Manifest, kind: &str, name: &str) -> bool {
    let volumes = manifest
        .object
        .get("/spec/template/spec/volumes")
        .and_then(Value::as_array);
    kind == "ConfigMap"
        && volumes
            .into_iter()
            .flatten()
            .any(|volume| volume.pointer("/configMap/name").and_then(Value::as_str) == Some(name))
}

/// Writes that are refused where a webhook does not answer.
fn webhooks(manifest: &Manifest) -> Vec<String> {
    let object = &manifest.object;
    if object.group() != "admissionregistration.k8s.io" {
        return Vec::new();
    }
    let webhooks = object.get("/webhooks").and_then(Value::as_array);
    let mut effects = Vec::new();
    for webhook in webhooks.into_iter().flatten() {
        if webhook.get("failurePolicy").and_then(Value::as_str) == Some("Ignore") {
            continue;
        }
        let rules = webhook.get("rules").and_then(Value::as_array);
        let words = |name: &str| -> BTreeSet<&str> {
            let lists = rules
                .into_iter()
                .flatten()
                .filter_map(|rule| rule.get(name)?.as_array());
            lists.flatten().filter_map(Value::as_str).collect()
        };
        let list = |words: BTreeSet<&str>| words.into_iter().collect::<Vec<_>>().join(", ");
        effects.push(format!(
            "while webhook {} does not answer, the API server refuses {} of {}",
            webhook.get("name").and_then(Value::as_str).unwrap_or_default(),
            list(words("operations")),
            list(words("resources")),
        ));
    }
    effects
}

/// Ports of the nodes that Services take, and who has them.
fn ports(before: &Survey<'_>, manifests: &[Manifest]) -> Vec<String> {
    let of = |service: &Object| -> BTreeSet<i64> {
        let ports = service.get("/spec/ports").and_then(Value::as_array);
        let ports = ports.into_iter().flatten();
        ports.filter_map(|port| port.get("nodePort")?.as_i64()).collect()
    };
    let mut effects = Vec::new();
    for service in manifests
        .iter()
        .map(|m| &m.object)
        .filter(|o| o.key().is("", "Service"))
    {
        let key = service.key();
        for port in of(service) {
            let others = before.snapshot.of_kind("", "Service");
            let taken = others
                .filter(|other| other.key() != key)
                .find(|other| of(other).contains(&port));
            effects.push(match taken {
                None => format!("opens port {port} on every node, for {key}"),
                Some(other) => format!(
                    "needs port {port} of the nodes for {key}, and {} has it",
                    other.key()
                ),
            });
        }
    }
    effects
}
