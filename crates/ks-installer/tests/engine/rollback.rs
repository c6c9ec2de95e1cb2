//! The way back: what it comes to, what it keeps, and what is there in between.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use cluster::Cluster;
use engine::{Prepared, Report, Rollback};
use object::ObjectKey;
use sandbox::Sandbox;
use serde_json::{Value, json};
use upgrade::{Backup, Finding, Options};

use crate::support::{
    self, Write,
    state::{State, configuration, iam, system},
};

/// The tenants' cluster with a running old installer, a backup of it, and the cluster after its upgrade.
struct Upgraded {
    before: Sandbox,
    backup: Backup,
    after: Sandbox,
}

/// In a thread of its own, since the tests that need it first may run in a runtime already.
fn apart<T: Send, F: Future<Output = T>>(work: impl FnOnce() -> F + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| support::block_on(work())).join().unwrap())
}

static UPGRADED: LazyLock<Upgraded> = LazyLock::new(|| {
    apart(async || {
        let before = support::tenants();
        let key = upgrade::installer_key();
        let start = json!({"spec": {"replicas": 1}});
        support::client(&before).merge_patch(&key, &start).await.unwrap();
        let prepared = support::prepare(&before).await;
        let after = before.fork();
        support::upgrade(&after).await;
        Upgraded {
            backup: mk_backup(&prepared),
            before,
            after,
        }
    })
});

/// As it comes out of an archive: with a plan that has no bodies.
fn mk_backup(prepared: &Prepared) -> Backup {
    let plan = serde_json::to_value(prepared.decision.plan.as_ref().unwrap()).unwrap();
    Backup {
        snapshot: upgrade::Snapshot {
            kubernetes: prepared.snapshot.kubernetes.clone(),
            objects: prepared.snapshot.objects.clone(),
            ..upgrade::Snapshot::default()
        },
        plan: Some(serde_json::from_value(plan).unwrap()),
        cluster: prepared.snapshot.cluster_id().unwrap().to_owned(),
        tool: "test".into(),
    }
}

fn mk_rollback<'a>(cluster: &'a Cluster, backup: &'a Backup) -> Rollback<'a> {
    let session = support::session(cluster, Options::default());
    Rollback {
        cluster,
        releases: session.releases,
        backup,
        run: session.run,
    }
}

async fn prepare(cluster: &Cluster, backup: &Backup) -> Prepared {
    engine::prepare_rollback(&mk_rollback(cluster, backup))
        .await
        .unwrap()
}

async fn roll_back(cluster: &Cluster, backup: &Backup) -> Report {
    let rollback = mk_rollback(cluster, backup);
    let prepared = engine::prepare_rollback(&rollback).await.unwrap();
    assert_eq!(prepared.blockers().collect::<Vec<_>>(), Vec::<&Finding>::new());
    let report = rollback.execute(prepared, None, &|_| {}).await.unwrap();
    assert!(report.is_verified(), "{:#?}", report.findings);
    report
}

/// The state without what a way there and back cannot leave alone: managedFields, generations, revisions, and the UIDs
/// of what was made again.
fn outcome(before: &State, state: &State) -> State {
    let mut outcome = state.comparable();
    for (key, value) in &mut outcome.0 {
        let value = Arc::make_mut(value);
        let same_uid = before
            .find(key)
            .is_some_and(|old| old["metadata"]["uid"] == value["metadata"]["uid"]);
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("managedFields");
            metadata.remove("generation");
            if !same_uid {
                metadata.remove("uid");
            }
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove("deployment.kubernetes.io/revision");
            }
        }
        if ["apps", "batch"].contains(&key.group.as_str()) {
            value.as_object_mut().unwrap().remove("status");
        }
    }
    outcome
}

/// The UIDs that a rollback may change: of what the upgrade had removed.
fn without_uids_of(state: &State, keys: &[ObjectKey]) -> State {
    let mut state = state.clone();
    for key in keys {
        if let Some(value) = state.0.get_mut(key) {
            Arc::make_mut(value)["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("uid");
        }
    }
    state
}

#[track_caller]
fn check_back(before: &State, got: &State, at: &str) {
    let removed: Vec<ObjectKey> = {
        let after = State::of(&UPGRADED.after);
        before
            .0
            .keys()
            .filter(|key| after.find(key).is_none())
            .cloned()
            .collect()
    };
    let expect = without_uids_of(&outcome(before, before), &removed);
    let got = without_uids_of(&outcome(before, got), &removed);
    let differences = expect.differences(&got);
    assert!(differences.is_empty(), "{at}: {differences:#?}");
}

#[tokio::test]
async fn an_upgrade_and_the_way_back_leave_everything_as_it_was() {
    let Upgraded {
        before,
        backup,
        after,
    } = &*UPGRADED;
    let sandbox = after.fork();
    let cluster = support::client(&sandbox);
    let report = roll_back(&cluster, backup).await;
    assert!(report.written > 50, "{}", report.written);
    let conflicts: Vec<_> = report
        .findings
        .iter()
        .filter(|f| f.reason == "RollbackConflict")
        .collect();
    assert!(conflicts.is_empty(), "{conflicts:#?}");
    check_back(&State::of(before), &State::of(&sandbox), "the way back");

    // Once more: nothing is left to do.
    let again = prepare(&cluster, backup).await;
    assert_eq!(again.decision.plan.unwrap().writes(), 0);
}

#[tokio::test]
async fn after_the_way_back_the_upgrade_comes_to_the_same_again() {
    let Upgraded { backup, after, .. } = &*UPGRADED;
    let sandbox = after.fork();
    let cluster = support::client(&sandbox);
    roll_back(&cluster, backup).await;
    support::upgrade(&sandbox).await;
    let (first, second) = (State::of(after), State::of(&sandbox));
    let made_again: Vec<ObjectKey> = first
        .0
        .iter()
        .filter(|(key, value)| {
            second
                .find(key)
                .is_some_and(|other| other["metadata"]["uid"] != value["metadata"]["uid"])
        })
        .map(|(key, _)| key.clone())
        .collect();
    let normal = |state: &State| {
        let state = without_uids_of(&outcome(&first, state), &made_again);
        // Helm's records tell of times.
        let is_record = |key: &ObjectKey| key.name.starts_with("sh.helm.release.");
        State(state.0.into_iter().filter(|(key, _)| !is_record(key)).collect())
    };
    let differences = normal(&first).differences(&normal(&second));
    assert!(differences.is_empty(), "{differences:#?}");
    support::check_nothing_to_do(&sandbox).await;
}

#[tokio::test]
async fn what_people_changed_since_the_upgrade_stays_and_is_said() {
    let Upgraded { backup, after, .. } = &*UPGRADED;
    let sandbox = after.fork();
    let cluster = support::client(&sandbox);
    // A user made meanwhile, a role that uses a template of the new release, an edited role, image and setting.
    let user = json!({"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "User",
        "metadata": {"name": "newcomer"}, "spec": {"email": "newcomer@example.com"}});
    cluster.create(&user).await.unwrap();
    let role = json!({"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRole",
        "metadata": {"name": "new-role", "annotations": {
            "iam.kubesphere.io/aggregation-roles": "[\"role-template-create-workspaces\"]"}},
        "rules": [{"apiGroups": ["*"], "resources": ["workspaces"], "verbs": ["create"]}]});
    cluster.create(&role).await.unwrap();
    let image =
        json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "mine:1"}]);
    let deployment = system("apps", "Deployment", "ks-console");
    cluster.json_patch(&deployment, &image).await.unwrap();
    let note = json!({"metadata": {"annotations": {"note": "mine"}}});
    cluster
        .merge_patch(&system("apps", "Deployment", "ks-apiserver"), &note)
        .await
        .unwrap();
    let rules = json!({"rules": [{"apiGroups": [""], "resources": ["mine"], "verbs": ["get"]}]});
    cluster
        .merge_patch(&iam("GlobalRole", "hr-desk"), &rules)
        .await
        .unwrap();
    cluster.create(&mk_accessor()).await.unwrap();

    let report = roll_back(&cluster, backup).await;

    let state = State::of(&sandbox);
    state.get(&iam("User", "newcomer"));
    state.get(&iam("GlobalRole", "new-role"));
    state.get(&iam("GlobalRole", "role-template-create-workspaces"));
    assert_eq!(
        state.get(&deployment)["spec"]["template"]["spec"]["containers"][0]["image"],
        "mine:1"
    );
    assert_eq!(
        state.get(&system("apps", "Deployment", "ks-apiserver"))["metadata"]["annotations"]["note"],
        "mine"
    );
    assert_eq!(
        state.get(&iam("GlobalRole", "hr-desk"))["rules"][0]["resources"][0],
        "mine"
    );
    let said = |reason: &str| -> Vec<String> {
        let findings = report.findings.iter().filter(|f| f.reason == reason);
        findings
            .map(|f| f.object.as_ref().map(ToString::to_string).unwrap_or_default())
            .collect()
    };
    assert_eq!(
        said("RollbackConflict"),
        ["Deployment kubesphere-system/ks-console", "GlobalRole hr-desk"]
    );
    let kept = said("RollbackKept");
    assert!(kept.contains(&"GlobalRole role-template-create-workspaces".to_owned()));
    let definition = "CustomResourceDefinition accessors.storage.kubesphere.io".to_owned();
    assert!(kept.contains(&definition), "{kept:?}");
}

/// An object of a kind that only the new release has.
fn mk_accessor() -> Value {
    json!({"apiVersion": "storage.kubesphere.io/v1alpha1", "kind": "Accessor", "metadata": {"name": "mine"},
        "spec": {"storageClassName": "local"}})
}

#[tokio::test]
async fn an_object_made_after_the_plan_of_the_way_back_is_not_lost_with_its_definition() {
    let Upgraded { backup, after, .. } = &*UPGRADED;
    let sandbox = after.fork();
    let cluster = support::client(&sandbox);
    let rollback = mk_rollback(&cluster, backup);
    let prepared = engine::prepare_rollback(&rollback).await.unwrap();
    cluster.create(&mk_accessor()).await.unwrap();
    let report = rollback.execute(prepared, None, &|_| {}).await.unwrap();
    let definition = ObjectKey::cluster(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "accessors.storage.kubesphere.io",
    );
    let kept = report.findings.iter().filter(|f| f.reason == "RollbackKept");
    assert!(
        kept.filter_map(|f| f.object.as_ref())
            .any(|key| *key == definition)
    );
    let state = State::of(&sandbox);
    state.get(&definition);
    state.get(&ObjectKey::cluster("storage.kubesphere.io", "Accessor", "mine"));
}

/// Every write of the way back, with the cluster right after it.
static WAY_BACK: LazyLock<Vec<Write>> = LazyLock::new(|| {
    let sandbox = UPGRADED.after.fork();
    apart(async || {
        let (cluster, writes) = support::watched(&sandbox, None);
        roll_back(&cluster, &UPGRADED.backup).await;
        writes.all()
    })
});

/// A process that ends before a write leaves the same cluster as one that ends after the write before it.
#[test]
fn a_way_back_that_was_cut_comes_to_the_same_when_it_is_run_again() {
    let before = State::of(&UPGRADED.before);
    let writes = &*WAY_BACK;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(write) = writes.get(n) else { return };
                let again = write.after.fork();
                support::block_on(async { roll_back(&support::client(&again), &UPGRADED.backup).await });
                let at = format!("cut after {} ({write:?})", n + 1);
                check_back(&before, &State::of(&again), &at);
            }
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[tokio::test]
async fn an_upgrade_that_was_cut_can_be_taken_back() {
    let Upgraded { before, backup, .. } = &*UPGRADED;
    let sandbox = before.fork();
    let (cluster, writes) = support::watched(&sandbox, None);
    support::upgrade_with(&cluster, Options::default()).await;
    let writes = writes.all();
    for write in writes.iter().step_by(13) {
        let cut = write.after.fork();
        roll_back(&support::client(&cut), backup).await;
        check_back(
            &State::of(before),
            &State::of(&cut),
            &format!("cut after {write:?}"),
        );
    }
}

fn is_role(key: &ObjectKey) -> bool {
    ["GlobalRole", "WorkspaceRole", "Role", "ClusterRole"].contains(&key.kind.as_str())
}

#[test]
fn on_the_way_back_nobody_lacks_what_they_have_before_and_after() {
    let (first, writes) = (State::of(&UPGRADED.after), &*WAY_BACK);
    let last = State::of(&writes.last().unwrap().after);
    let rules =
        |state: &State, key: &ObjectKey| state.get(key)["rules"].as_array().cloned().unwrap_or_default();
    let mut kept: BTreeMap<&ObjectKey, Vec<Value>> = BTreeMap::new();
    for key in first
        .0
        .keys()
        .filter(|key| is_role(key) && last.find(key).is_some())
    {
        let then = rules(&last, key);
        let both = rules(&first, key).into_iter().filter(|rule| then.contains(rule));
        kept.insert(key, both.collect());
    }
    assert!(kept.len() > 100, "{}", kept.len());
    for write in writes {
        let now = State::of(&write.after);
        for (key, expect) in &kept {
            let has = rules(&now, key);
            assert!(
                expect.iter().all(|rule| has.contains(rule)),
                "{key} after {write:?}"
            );
        }
        for (key, binding) in now.of_kind("GlobalRoleBinding") {
            let name = binding["roleRef"]["name"].as_str().unwrap();
            assert!(
                now.find(&iam("GlobalRole", name)).is_some(),
                "{key} after {write:?}"
            );
        }
    }
}

/// The version never claims the new release while parts of it are gone, and the old installer starts last.
#[test]
fn the_version_goes_first_and_the_old_installer_comes_last() {
    let writes = &*WAY_BACK;
    for (index, write) in writes.iter().enumerate() {
        let now = State::of(&write.after);
        let version = &now.get(&configuration())["status"]["core"]["version"];
        assert_eq!(version, "v3.2.1", "after {write:?}");
        let replicas = &now.get(&upgrade::installer_key())["spec"]["replicas"];
        let is_last = index + 1 == writes.len();
        assert_eq!(replicas, i64::from(is_last), "after {write:?}");
    }
}

#[tokio::test]
async fn a_backup_of_another_cluster_is_refused() {
    let Upgraded { backup, after, .. } = &*UPGRADED;
    let other = Backup {
        cluster: "another".into(),
        ..backup.clone()
    };
    let sandbox = after.fork();
    let cluster = support::client(&sandbox);
    let prepared = prepare(&cluster, &other).await;
    let reasons: Vec<_> = prepared.blockers().map(|f| f.reason.as_str()).collect();
    assert_eq!(reasons, ["BackupOfAnotherCluster"]);
    assert!(prepared.decision.plan.is_none());
}

/// Plans can be shown and saved: they hold no secrets.
#[tokio::test]
async fn a_plan_of_the_way_back_holds_no_secret_and_permits_itself() {
    let Upgraded { backup, after, .. } = &*UPGRADED;
    let cluster = support::client(after);
    let plan = prepare(&cluster, backup).await.decision.plan.unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert!(!text.contains(support::JWT_SECRET));
    let saved: upgrade::Plan = serde_json::from_str(&text).unwrap();
    assert_eq!(saved.check_permits(&plan), Ok(()));
    assert_eq!((plan.from.as_str(), plan.to.as_str()), ("v3.3.1", "v3.2.1"));
    // What the upgrade took, the way back gives.
    let alice = plan.impact.subjects.iter().find(|s| s.name == "alice").unwrap();
    assert!(alice.lost.is_empty() && !alice.gained.is_empty());
}

#[test]
fn a_component_whose_installation_failed_is_no_more_than_before() {
    let before = crate::components::PREPARED.fork();
    let sandbox = before.fork();
    crate::components::switch(
        &sandbox,
        crate::components::release().component("gatekeeper").unwrap(),
        true,
    );
    let backup = mk_backup(&support::block_on(support::prepare(&sandbox)));
    crate::removal::failed(&sandbox);
    let prepared = support::block_on(async { prepare(&support::client(&sandbox), &backup).await });
    let conflicts = prepared
        .findings()
        .iter()
        .filter(|finding| finding.reason == upgrade::reasons::ROLLBACK_CONFLICT);
    assert_eq!(conflicts.collect::<Vec<_>>(), Vec::<&Finding>::new());
    support::block_on(async { roll_back(&support::client(&sandbox), &backup).await });
    let state = State::of(&sandbox);
    assert_eq!(state.get(&configuration())["status"]["gatekeeper"], Value::Null);
    let deployments = state.of_kind("Deployment");
    let left: Vec<_> = deployments
        .filter(|(key, _)| key.namespace.as_deref() == Some("gatekeeper-system"))
        .collect();
    assert_eq!(left, Vec::new());
}
