//! Definitions of others that know more than the release's.

use object::ObjectKey;
use sandbox::Sandbox;
use serde_json::{Value, json};
use upgrade::{Severity, reasons};

use crate::{
    components::{PREPARED, release, switch},
    support::{self, find_mut, state::State},
};

fn definition(name: &str) -> ObjectKey {
    ObjectKey::cluster("apiextensions.k8s.io", "CustomResourceDefinition", name)
}

/// How bad it is that a definition stays, where that is found.
fn severity(prepared: &engine::Prepared, name: &str) -> Option<Severity> {
    let is_it = |finding: &&upgrade::Finding| {
        finding.reason == reasons::DEFINITION_KEPT && finding.object == Some(definition(name))
    };
    prepared
        .findings()
        .iter()
        .find(is_it)
        .map(|finding| finding.severity)
}

const CONTENTS: &str = "volumesnapshotcontents.snapshot.storage.k8s.io";

/// With the definition of a later external-snapshotter, and an object that has what that one brought.
fn with_later_snapshots() -> (Sandbox, ObjectKey) {
    let group = "snapshot.storage.k8s.io";
    let sandbox = support::tenants_but(|objects| {
        let live = find_mut(objects, "CustomResourceDefinition", CONTENTS);
        for version in live["spec"]["versions"].as_array_mut().unwrap() {
            if version["name"] == "v1" {
                version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["sourceVolumeMode"] =
                    json!({"type": "string"});
            } else {
                version["served"] = false.into();
            }
        }
    });
    let content = json!({
        "apiVersion": format!("{group}/v1"), "kind": "VolumeSnapshotContent", "metadata": {"name": "mine"},
        "spec": {
            "deletionPolicy": "Retain", "driver": "example.org", "sourceVolumeMode": "Block",
            "source": {"snapshotHandle": "a"}, "volumeSnapshotRef": {"name": "a", "namespace": "default"},
        },
    });
    support::block_on(async { support::client(&sandbox).create(&content).await }).unwrap();
    (
        sandbox,
        ObjectKey::cluster(group, "VolumeSnapshotContent", "mine"),
    )
}

#[test]
fn a_later_definition_stays_and_so_do_the_fields_of_its_objects() {
    let (sandbox, mine) = with_later_snapshots();
    let served = |sandbox: &Sandbox| -> Vec<(Value, Value)> {
        let state = State::of(sandbox);
        let versions = state.get(&definition(CONTENTS))["spec"]["versions"]
            .as_array()
            .unwrap()
            .clone();
        versions
            .into_iter()
            .map(|version| (version["name"].clone(), version["served"].clone()))
            .collect()
    };
    let before = served(&sandbox);
    let prepared = support::block_on(support::prepare(&sandbox));
    assert_eq!(severity(&prepared, CONTENTS), Some(Severity::Info));
    support::block_on(async {
        support::upgrade(&sandbox).await;
        support::check_nothing_to_do(&sandbox).await;
    });
    assert_eq!(served(&sandbox), before);
    support::edit(&sandbox, &mine, &json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(
        State::of(&sandbox).get(&mine)["spec"]["sourceVolumeMode"],
        "Block"
    );
}

/// Argo CD's own of a later release has fields that this one has not, and lacks others.
#[test]
fn a_definition_that_knows_more_and_less_stays() {
    let sandbox = PREPARED.fork();
    let name = "applications.argoproj.io";
    let text = json!({"type": "string"});
    let sources = json!({"type": "array", "items": {"type": "object", "properties": {"repoURL": text}}});
    let spec = json!({"type": "object", "properties": {"project": text, "sources": sources}});
    let live = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name},
        "spec": {
            "group": "argoproj.io", "scope": "Namespaced",
            "names": {"kind": "Application", "plural": "applications", "singular": "application", "listKind": "ApplicationList"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}],
        },
    });
    support::block_on(async { support::client(&sandbox).create(&live).await }).unwrap();
    switch(&sandbox, release().component("devops").unwrap(), true);
    let prepared = support::block_on(support::prepare(&sandbox));
    assert_eq!(severity(&prepared, name), Some(Severity::Info));
    let plan = prepared.decision.plan.unwrap();
    let steps = plan.steps().filter(|step| step.object == definition(name));
    let changed: Vec<&String> = steps
        .flat_map(|step| &step.changes)
        .map(|change| &change.path)
        .filter(|path| path.starts_with("spec"))
        .collect();
    assert_eq!(changed, Vec::<&String>::new());
}
