//! Backups of the tenants' cluster: what is in them, and that it comes back.

use std::{collections::BTreeSet, sync::Arc};

use cluster::{
    Scope,
    archive::Meta,
    encryption::{Encryption, Keys},
    restore::{self, Action, RestoreError, Selection},
    store::{self, Backup, Location},
};
use object::{Object, ObjectKey};
use sandbox::Sandbox;
use serde_json::{Value, json};

use crate::support::{
    self,
    state::{State, iam},
};

async fn mk_backup(sandbox: &Sandbox) -> Backup {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::File(folder.path().join("b.tar.zst"));
    let snapshot = support::client(sandbox)
        .snapshot(&Scope::upgrade())
        .await
        .unwrap();
    let meta = Meta {
        tool: "test".to_owned(),
        created: jiff::Timestamp::UNIX_EPOCH,
        cluster: snapshot.cluster_id().unwrap().to_owned(),
        kubernetes: snapshot.kubernetes.clone(),
        from: "v3.2.1".to_owned(),
        to: String::new(),
    };
    let objects = snapshot.objects.values().map(AsRef::<Object>::as_ref);
    store::save(None, &location, objects, &json!(null), meta, &Encryption::None)
        .await
        .unwrap();
    store::open(None, &location, &Keys::default()).await.unwrap()
}

fn is_platform(group: &str) -> bool {
    group == "app.k8s.io" || group.ends_with("kubesphere.io")
}

#[tokio::test]
async fn whatever_an_upgrade_touches_is_in_the_backup() {
    let sandbox = support::tenants();
    let saved = mk_backup(&sandbox).await.objects().unwrap();
    let state = State::of(&sandbox);
    let same = |key: &ObjectKey| saved.get(key).map(|object| object.as_value()) == state.find(key);

    let prepared = support::prepare(&sandbox).await;
    let steps: Vec<_> = prepared.decision.plan.as_ref().unwrap().steps().collect();
    assert!(steps.len() > 50, "{}", steps.len());
    for step in steps {
        assert!(same(&step.object), "{}", step.object);
    }
    let mut seen = BTreeSet::new();
    for (key, value) in &state.0 {
        let is_helm = value["type"] == "helm.sh/release.v1";
        let is_access = key.group == support::state::RBAC;
        if is_access || is_platform(&key.group) || is_helm || key.kind == "CustomResourceDefinition" {
            assert!(same(key), "{key}");
            seen.insert(key.kind.as_str());
        }
    }
    for kind in [
        "ClusterConfiguration",
        "GlobalRole",
        "RoleBinding",
        "Secret",
        "User",
        "Workspace",
    ] {
        assert!(seen.contains(kind), "{kind}");
    }
}

/// What is the cluster's own and outlives a platform that is gone.
fn outlives(key: &ObjectKey) -> bool {
    let name = key.name.as_str();
    match key.kind.as_str() {
        "Node" | "APIService" => true,
        "Namespace" => name == "default" || name.starts_with("kube-"),
        _ => false,
    }
}

/// As restored objects are compared: without what only the old ones had.
fn comparable(value: &Value) -> Value {
    let object = Object::try_from(value.clone()).unwrap();
    let mut value = object.declared();
    if is_platform(object.group()) {
        value["status"] = object.get("/status").cloned().unwrap_or_default();
    }
    if object.kind() == "ServiceAccount" {
        value.as_object_mut().unwrap().remove("secrets");
    }
    let metadata = value["metadata"].as_object_mut().unwrap();
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove("deployment.kubernetes.io/revision");
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    if let Some(owners) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) {
        for owner in owners {
            owner["uid"] = "".into();
        }
    }
    value
}

fn compare(before: &State, after: &State, keys: &BTreeSet<ObjectKey>) {
    let part = |state: &State| {
        let kept = state.0.iter().filter(|(key, _)| keys.contains(*key));
        State(
            kept.map(|(key, value)| (key.clone(), Arc::new(comparable(value))))
                .collect(),
        )
    };
    let differences = part(before).differences(&part(after));
    assert_eq!(differences, Vec::<String>::new());
}

/// What a restore brings back of a backup.
fn restorable(saved: &Backup) -> BTreeSet<ObjectKey> {
    let objects = saved.objects().unwrap();
    let is_left = |object: &Object| {
        matches!(object.kind(), "Node" | "Pod" | "Endpoints" | "Job" | "APIService")
            || object.get_str("/type") == Some("kubernetes.io/service-account-token")
            || object
                .annotation("control-plane.alpha.kubernetes.io/leader")
                .is_some()
    };
    objects
        .iter()
        .filter(|(_, object)| !is_left(object))
        .map(|(key, _)| key.clone())
        .collect()
}

#[tokio::test]
async fn what_was_wiped_comes_back() {
    let sandbox = support::tenants();
    let before = State::of(&sandbox);
    let backup = mk_backup(&sandbox).await;
    let saved = backup.objects().unwrap();
    let custom: BTreeSet<(String, String)> = saved
        .values()
        .filter(|object| object.kind() == "CustomResourceDefinition")
        .map(|object| {
            let text = |pointer: &str| object.get_str(pointer).unwrap().to_owned();
            (text("/spec/group"), text("/spec/names/kind"))
        })
        .collect();
    let remaining = before.0.iter().filter(|(key, _)| {
        let is_wiped = saved.contains_key(*key) || custom.contains(&(key.group.clone(), key.kind.clone()));
        outlives(key) || !is_wiped
    });
    let wiped = support::mk_cluster(remaining.map(|(_, value)| Value::clone(value)).collect());
    let cluster = support::client(&wiped);

    let plan = restore::plan(&cluster, &backup, &Selection::default(), false)
        .await
        .unwrap();
    assert_eq!(wiped.requests().writes(), 0, "deciding only reads");
    assert!(plan.steps.iter().all(|step| step.action == Action::Create));
    let summary = restore::run(&cluster, &plan, &|_| {}).await.unwrap();
    assert_eq!(summary.failed, []);
    assert!(summary.created > 300, "{}", summary.created);
    compare(&before, &State::of(&wiped), &restorable(&backup));
    let again = restore::plan(&cluster, &backup, &Selection::default(), false)
        .await
        .unwrap();
    assert_eq!(
        again
            .steps
            .iter()
            .map(|s| (&s.object, &s.changes))
            .collect::<Vec<_>>(),
        []
    );
}

#[tokio::test]
async fn what_an_upgrade_changed_is_brought_back_in_place() {
    let sandbox = support::tenants();
    let before = State::of(&sandbox);
    let backup = mk_backup(&sandbox).await;
    let upgraded = support::upgraded();
    let cluster = support::client(&upgraded);
    let plan = restore::plan(&cluster, &backup, &Selection::default(), false)
        .await
        .unwrap();
    let shown = serde_json::to_string(&plan).unwrap();
    assert!(!shown.contains(support::JWT_SECRET), "secrets are not shown");
    let summary = restore::run(&cluster, &plan, &|_| {}).await.unwrap();
    assert_eq!(summary.failed, []);
    let after = State::of(&upgraded);
    compare(&before, &after, &restorable(&backup));
    let uid = |state: &State, key: &ObjectKey| state.get(key)["metadata"]["uid"].clone();
    let key = support::state::configuration();
    assert_eq!(uid(&before, &key), uid(&after, &key), "in place");
    for (key, _) in State::of(&support::upgraded()).of_kind("GlobalRole") {
        assert!(after.find(key).is_some(), "{key}: nothing is deleted");
    }
}

#[tokio::test]
async fn a_part_can_be_restored() {
    let sandbox = support::tenants();
    let backup = mk_backup(&sandbox).await;
    let cluster = support::client(&sandbox);
    let key = iam("GlobalRole", "platform-regular");
    let role = cluster.get(&key).await.unwrap().unwrap();
    cluster.delete(&key, role.uid().unwrap()).await.unwrap();
    let other = iam("GlobalRole", "platform-admin");
    cluster
        .merge_patch(&other, &json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .unwrap();
    let selection = Selection {
        kinds: vec!["globalrole".to_owned()],
        names: vec![key.name.clone()],
        ..Selection::default()
    };
    let plan = restore::plan(&cluster, &backup, &selection, false).await.unwrap();
    let summary = restore::run(&cluster, &plan, &|_| {}).await.unwrap();
    assert_eq!(
        (summary.created, summary.changed, summary.failed.len()),
        (1, 0, 0)
    );
    let there = cluster.get(&other).await.unwrap().unwrap();
    assert_eq!(there.label("a"), Some("b"), "what was not asked for stays");
}

#[tokio::test]
async fn a_backup_of_another_cluster_is_refused_before_any_write() {
    let backup = mk_backup(&support::tenants()).await;
    let other = support::tenants_but(|objects| {
        support::find_mut(objects, "Namespace", "kube-system")["metadata"]["uid"] = "other".into();
        objects.retain(|object| object["metadata"]["name"] != "platform-regular");
    });
    let cluster = support::client(&other);
    let error = restore::plan(&cluster, &backup, &Selection::default(), false)
        .await
        .unwrap_err();
    assert!(matches!(error, RestoreError::OtherCluster { .. }), "{error}");
    let plan = restore::plan(&cluster, &backup, &Selection::default(), true)
        .await
        .unwrap();
    assert!(!plan.steps.is_empty());
    assert_eq!(other.requests().writes(), 0);
}

/// What somebody writes between the diff and the restore is not undone unseen.
#[tokio::test]
async fn a_change_meanwhile_is_kept() {
    let sandbox = support::tenants();
    let backup = mk_backup(&sandbox).await;
    let cluster = support::client(&sandbox);
    let key = iam("GlobalRole", "platform-regular");
    let label = |value: &str| json!({"metadata": {"labels": {"a": value}}});
    cluster.merge_patch(&key, &label("1")).await.unwrap();
    let plan = restore::plan(&cluster, &backup, &Selection::default(), false)
        .await
        .unwrap();
    cluster.merge_patch(&key, &label("2")).await.unwrap();
    let summary = restore::run(&cluster, &plan, &|_| {}).await.unwrap();
    let failed: Vec<_> = summary.failed.iter().map(|failed| &failed.object).collect();
    assert_eq!(failed, [&key]);
    assert_eq!(cluster.get(&key).await.unwrap().unwrap().label("a"), Some("2"));
}
