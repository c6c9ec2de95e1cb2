//! Backups of the tenants' cluster: what is in them, and that it comes back.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cluster::{
    Cluster, Scope,
    archive::Meta,
    encryption::{Encryption, Keys},
    restore::{self, Action, RestoreError, Selection},
    store::{self, Backup, Location, StoreError},
};
use object::{Object, ObjectKey};
use sandbox::Sandbox;
use serde_json::{Value, json};
use upgrade::Snapshot;

use crate::support::{
    self,
    state::{State, iam, system},
};

fn mk_meta(snapshot: &Snapshot) -> Meta {
    Meta {
        tool: "test".to_owned(),
        created: jiff::Timestamp::UNIX_EPOCH,
        cluster: snapshot.cluster_id().unwrap().to_owned(),
        kubernetes: snapshot.kubernetes.clone(),
        from: "v3.2.1".to_owned(),
        to: String::new(),
    }
}

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
    let objects = snapshot.objects.values();
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
    let same = |key: &ObjectKey| saved.get(key).map(Object::as_value) == state.find(key);

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
        annotations.remove("deprecated.daemonset.template.generation");
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

const THINGS: &str = "example.kubesphere.io";

fn thing(name: &str) -> ObjectKey {
    ObjectKey::namespaced(THINGS, "Thing", "kubesphere-system", name)
}

/// A kind with objects that own each other, one of them with a finalizer.
async fn mk_things(cluster: &Cluster) {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{THINGS}")},
        "spec": {"group": THINGS, "scope": "Namespaced",
            "names": {"kind": "Thing", "listKind": "ThingList", "plural": "things", "singular": "thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    });
    cluster.create(&definition).await.unwrap();
    let api_version = format!("{THINGS}/v1");
    let namespace = "kubesphere-system";
    let owner = json!({"apiVersion": api_version, "kind": "Thing", "spec": {"a": 1}, "status": {"phase": "Ready"},
        "metadata": {"name": "owner", "namespace": namespace, "finalizers": ["example.org/keep"]}});
    let owner = cluster.create(&owner).await.unwrap();
    let references = json!([{"apiVersion": api_version, "kind": "Thing", "name": "owner", "uid": owner.uid(),
        "controller": true, "blockOwnerDeletion": true}]);
    for (api_version, kind) in [
        (api_version.as_str(), "Thing"),
        ("v1", "ConfigMap"),
        ("v1", "Secret"),
    ] {
        let owned = json!({"apiVersion": api_version, "kind": kind,
            "metadata": {"name": "owned", "namespace": namespace, "ownerReferences": references}});
        cluster.create(&owned).await.unwrap();
    }
}

async fn delete(cluster: &Cluster, key: &ObjectKey) {
    let there = cluster.get(key).await.unwrap().unwrap();
    cluster.delete(key, there.uid().unwrap()).await.unwrap();
}

/// What owned what does so again, though the UIDs are others; definitions come before their objects.
#[tokio::test]
async fn owners_definitions_and_finalizers_come_back() {
    let sandbox = support::tenants();
    let cluster = support::client(&sandbox);
    mk_things(&cluster).await;
    let before = State::of(&sandbox);
    let backup = mk_backup(&sandbox).await;
    let definition = ObjectKey::cluster(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        &format!("things.{THINGS}"),
    );
    let owned = [
        thing("owned"),
        system("", "ConfigMap", "owned"),
        system("", "Secret", "owned"),
    ];
    let all: BTreeSet<_> = owned
        .iter()
        .cloned()
        .chain([thing("owner"), definition.clone()])
        .collect();

    cluster
        .merge_patch(&thing("owner"), &json!({"metadata": {"finalizers": null}}))
        .await
        .unwrap();
    delete(&cluster, &thing("owner")).await;
    delete(&cluster, &definition).await;
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while State::of(&sandbox).0.keys().any(|key| all.contains(key)) {
        assert!(
            std::time::Instant::now() < until,
            "the cluster takes along what was owned"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let (watched, writes) = support::watched(&sandbox, None);
    // What is asked for brings its definition along.
    let selection = Selection {
        names: vec!["owner".to_owned(), "owned".to_owned()],
        ..Selection::default()
    };
    let plan = restore::plan(&watched, &backup, &selection, false).await.unwrap();
    assert_eq!(plan.left, []);
    let summary = restore::run(&watched, &plan, &|_| {}).await.unwrap();
    assert_eq!((summary.created, summary.failed), (5, vec![]));
    let first = writes.all().first().map(|write| write.path.clone()).unwrap();
    assert!(first.ends_with("/customresourcedefinitions"), "{first}");

    let after = State::of(&sandbox);
    compare(&before, &after, &all);
    let uid = |state: &State| state.get(&thing("owner"))["metadata"]["uid"].clone();
    assert_ne!(uid(&before), uid(&after));
    for key in &owned {
        let references = &after.get(key)["metadata"]["ownerReferences"];
        assert_eq!(references[0]["uid"], uid(&after), "{key}");
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        State::of(&sandbox)
            .0
            .keys()
            .filter(|key| all.contains(*key))
            .count(),
        5,
        "the cluster takes none of them for an orphan"
    );
}

/// A save that is cut off anywhere leaves nothing that is taken for a backup, and what it leaves can be deleted.
#[tokio::test]
async fn a_save_that_is_cut_off_is_no_backup() {
    let sandbox = support::tenants();
    let snapshot = support::client(&sandbox)
        .snapshot(&Scope::upgrade())
        .await
        .unwrap();
    let objects: Vec<&Object> = snapshot.objects.values().collect();
    let place: Location = "secret://kubesphere-system".parse().unwrap();
    let location: Location = "secret://kubesphere-system/b".parse().unwrap();
    let save = async |cluster: &Cluster| {
        store::save(
            Some(cluster),
            &location,
            objects.iter().copied(),
            &json!(null),
            mk_meta(&snapshot),
            &Encryption::None,
        )
        .await
    };
    let (cluster, writes) = support::watched(&sandbox.fork(), None);
    save(&cluster).await.unwrap();
    let needed = writes.all().len();
    assert!(needed >= 2, "{needed}");
    for cut in 0..needed {
        let sandbox = sandbox.fork();
        let (cluster, writes) = support::watched(&sandbox, Some(cut));
        let saving = async {
            tokio::select! {
                saved = save(&cluster) => panic!("it was not cut off: {saved:?}"),
                () = async { while writes.all().len() < cut { tokio::task::yield_now().await } } => {}
            }
            // Whatever it still does on its own.
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        saving.await;
        let cluster = support::client(&sandbox);
        let listed = store::list(Some(&cluster), &place).await.unwrap();
        assert_eq!(listed.len(), usize::from(cut > 0), "{cut}");
        assert!(listed.iter().all(|listed| listed.is_incomplete), "{listed:?}");
        let error = store::open(Some(&cluster), &location, &Keys::default())
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::NotFound(_)), "{error}");
        if cut > 0 {
            let error = save(&cluster).await.unwrap_err();
            assert!(error.to_string().contains("exists already"), "{error}");
            store::delete(Some(&cluster), &location).await.unwrap();
        }
        save(&cluster).await.unwrap();
        store::open(Some(&cluster), &location, &Keys::default())
            .await
            .unwrap();
    }
}

/// What goes straight into an archive is what a snapshot holds.
#[tokio::test]
async fn a_streamed_backup_holds_what_a_snapshot_does() {
    let sandbox = support::tenants();
    let cluster = support::client(&sandbox);
    let snapshot = cluster.snapshot(&Scope::upgrade()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let location = Location::File(folder.path().join("b.tar.zst"));
    let (_, unreadable) = store::save_scope(
        &cluster,
        &location,
        &Scope::upgrade(),
        mk_meta(&snapshot),
        &Encryption::None,
    )
    .await
    .unwrap();
    assert_eq!(unreadable, snapshot.unreadable);
    let backup = store::open(None, &location, &Keys::default()).await.unwrap();
    assert_eq!(backup.objects().unwrap(), snapshot.objects);
}
