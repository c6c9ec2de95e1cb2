//! One run at a time, and what the cluster remembers of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use cluster::Cluster;
use engine::{
    BackupEntry, Claimant, Clock, Journal, Lease, LeaseError, NewRun, Recorder, Report, RunKind, RunOutcome,
    SessionError, journal_key,
};
use jiff::Timestamp;
use serde_json::json;
use upgrade::Options;

use crate::support::{
    self,
    state::{State, configuration, system},
};

/// A clock that is moved by hand.
fn mk_clock() -> (Clock, Arc<AtomicI64>) {
    let seconds = Arc::new(AtomicI64::new(1_700_000_000));
    let read = Arc::clone(&seconds);
    let clock: Clock = Arc::new(move || {
        Timestamp::from_second(read.load(Ordering::Relaxed)).expect("a time of this century")
    });
    (clock, seconds)
}

fn mk_run(id: &str) -> NewRun {
    NewRun {
        id: id.into(),
        kind: RunKind::Upgrade,
        tool: "test".into(),
        from: "v3.2.1".into(),
        to: "v3.3.1".into(),
        backup: Some(BackupEntry {
            location: format!("/backups/{id}"),
            sha256: None,
        }),
    }
}

async fn run(cluster: &Cluster, clock: &Clock, id: &str) -> Result<Report, SessionError> {
    let session = support::session(cluster, Options::default());
    let prepared = engine::prepare(&session).await.unwrap();
    let (recorder, _) = Recorder::begin(cluster, clock, mk_run(id)).await.unwrap();
    let report = session.execute_recorded(prepared, Some(&recorder), &|_| {}).await;
    let noted = report.as_ref().map(|_| ()).map_err(ToString::to_string);
    recorder.finish(noted).await.unwrap();
    report
}

/// A claim of another run, as that one's machine has it.
fn mk_claim(renewed: &str, process: &str) -> serde_json::Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "ks-installer", "namespace": "kubesphere-system",
            "annotations": {"installer.kubesphere.io/process": process}},
        "spec": {"holderIdentity": "other", "leaseDurationSeconds": 15, "acquireTime": renewed, "renewTime": renewed}})
}

#[tokio::test(start_paused = true)]
async fn a_second_run_is_refused_while_the_first_gives_signs_of_life() {
    let sandbox = support::tenants();
    let cluster = support::client(&sandbox);
    let (clock, seconds) = mk_clock();
    let first = Lease::acquire(&cluster, &clock, Claimant::run("first"), |_| ())
        .await
        .unwrap();
    seconds.fetch_add(12, Ordering::Relaxed);
    let told = Mutex::new(Vec::new());
    let second = Lease::acquire(&cluster, &clock, Claimant::run("second"), |held| {
        told.lock().unwrap().push(held.to_string());
    });
    let work = async {
        let refused = second.await.err().unwrap();
        assert!(matches!(&refused, LeaseError::Held { holder, .. } if holder == "first"));
        assert!(refused.hint().unwrap().contains("ks-installer status"));
    };
    Box::pin(first.hold(work)).await.unwrap();
    assert_eq!(
        told.into_inner().unwrap(),
        ["another run is under way: first began 12 s ago and gave its last sign of life 12 s ago"]
    );

    // It ended.
    first.release().await;
    let third = Lease::acquire(&cluster, &clock, Claimant::run("third"), |held| panic!("{held}"))
        .await
        .unwrap();
    third.release().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_without_a_sign_of_life_is_followed_whatever_its_clock_says() {
    let sandbox = support::tenants();
    let cluster = support::client(&sandbox);
    let (clock, _) = mk_clock();
    // Its clock is ahead by a year.
    cluster
        .create(&mk_claim("2024-11-14T22:13:20.000000Z", ""))
        .await
        .unwrap();
    let started = tokio::time::Instant::now();
    let lease = Lease::acquire(&cluster, &clock, Claimant::run("next"), |_| ())
        .await
        .unwrap();
    let waited = started.elapsed();
    assert!((15..20).contains(&waited.as_secs()), "{waited:?}");
    // One that gives back what it no longer has takes it from nobody.
    let taken = json!({"spec": {"holderIdentity": "thief"}});
    let key = system("coordination.k8s.io", "Lease", "ks-installer");
    cluster.merge_patch(&key, &taken).await.unwrap();
    lease.release().await;
    let holder = &cluster.get(&key).await.unwrap().unwrap();
    assert_eq!(holder.get_str("/spec/holderIdentity"), Some("thief"));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_known_to_be_dead_is_not_waited_for() {
    let sandbox = support::tenants();
    let cluster = support::client(&sandbox);
    let (clock, _) = mk_clock();
    // Silent since an hour.
    cluster
        .create(&mk_claim("2023-11-14T21:13:20.000000Z", ""))
        .await
        .unwrap();
    let started = tokio::time::Instant::now();
    let lease = Lease::acquire(&cluster, &clock, Claimant::run("next"), |held| panic!("{held}"))
        .await
        .unwrap();
    assert_eq!(started.elapsed().as_secs(), 0);
    lease.release().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_renewed_while_the_work_goes_on_and_ends_it_when_it_is_lost() {
    let sandbox = support::tenants();
    let cluster = support::client(&sandbox);
    let (clock, _) = mk_clock();
    let lease = Lease::acquire(&cluster, &clock, Claimant::run("first"), |_| ())
        .await
        .unwrap();
    let before = sandbox.requests().writes();
    lease
        .hold(tokio::time::sleep(Duration::from_mins(1)))
        .await
        .unwrap();
    assert_eq!(sandbox.requests().writes() - before, 11);
    // Silent for too long: somebody else goes on, and the first one stops at its next sign of life.
    let _second = Lease::acquire(&cluster, &clock, Claimant::run("second"), |_| ())
        .await
        .unwrap();
    let lost = lease.hold(std::future::pending::<()>()).await.unwrap_err();
    assert!(matches!(lost, LeaseError::Lost { holder } if holder == "second"));
}

#[tokio::test]
async fn a_run_that_was_cut_is_known_and_gone_on_with() {
    let sandbox = support::tenants();
    let (clock, _) = mk_clock();
    let (cut, writes) = support::watched(&sandbox, Some(60));
    let ended = support::cut_after(60, &writes, run(&cut, &clock, "first")).await;
    assert!(ended.is_none(), "the run was cut");
    assert_eq!(writes.all().len(), 60);

    let cluster = support::client(&sandbox);
    let journal = Journal::read(&cluster).await.unwrap();
    let first = journal.unfinished().unwrap().clone();
    assert_eq!(first.outcome, RunOutcome::Running);
    let stage = first.stopped_in().expect("a stage was begun").to_owned();
    assert!(!stage.is_empty());
    assert!(first.stages.iter().rev().skip(1).all(|stage| stage.done));

    run(&cluster, &clock, "second").await.unwrap();
    let journal = Journal::read(&cluster).await.unwrap();
    let last = journal.last().unwrap();
    assert_eq!(last.continues.as_deref(), Some("first"));
    assert_eq!(last.outcome, RunOutcome::Done);
    assert!(last.stages.iter().all(|stage| stage.done) && last.stopped_in().is_none());
    // Before the first of the two nothing was upgraded yet.
    assert_eq!(journal.backup().unwrap().location, "/backups/first");

    // The journal goes with the ClusterConfiguration, and holds no secret.
    let state = State::of(&sandbox);
    let journal = state.get(&journal_key());
    let owner = &journal["metadata"]["ownerReferences"][0];
    assert_eq!(owner["uid"], state.get(&configuration())["metadata"]["uid"]);
    assert!(!journal.to_string().contains(support::JWT_SECRET));
    // It is not the upgrade's own work.
    support::check_nothing_to_do(&sandbox).await;
    assert!(
        state
            .find(&system("coordination.k8s.io", "Lease", "ks-installer"))
            .is_none()
    );
}

#[tokio::test]
async fn a_run_that_was_cut_after_its_last_write_is_closed() {
    let sandbox = support::tenants();
    let cluster = support::client(&sandbox);
    let (clock, _) = mk_clock();
    Recorder::begin(&cluster, &clock, mk_run("first")).await.unwrap();
    let outcome = async || Journal::read(&cluster).await.unwrap().last().unwrap().outcome;
    // Of another kind: not ours to close.
    Recorder::close(&cluster, &clock, RunKind::Rollback)
        .await
        .unwrap();
    assert_eq!(outcome().await, RunOutcome::Running);
    Recorder::close(&cluster, &clock, RunKind::Upgrade).await.unwrap();
    assert_eq!(outcome().await, RunOutcome::Done);
    let writes = sandbox.requests().writes();
    Recorder::close(&cluster, &clock, RunKind::Upgrade).await.unwrap();
    assert_eq!(sandbox.requests().writes(), writes);
}

/// Intent comes before the act: whatever was written, the journal knew the stage.
#[tokio::test]
async fn a_stage_is_noted_down_before_its_first_write() {
    let sandbox = support::tenants();
    let (clock, _) = mk_clock();
    let (cluster, writes) = support::watched(&sandbox, None);
    run(&cluster, &clock, "only").await.unwrap();
    let writes = writes.all();
    assert!(writes[0].path.contains("configmaps"), "{:?}", writes[0]);
    let mut notes = 0;
    for write in &writes {
        let is_note = write.path.contains("ks-installer-journal") || write.path.ends_with("/configmaps");
        notes += usize::from(is_note);
        let state = State::of(&write.after);
        let journal = object::Object::try_from(state.get(&journal_key()).clone()).unwrap();
        let journal = Journal::of(Some(&journal));
        assert_eq!(journal.last().unwrap().id, "only", "after {write:?}");
        if write.path.contains("deployments") {
            // Components have one entry together: they run side by side.
            let stage = if write.path.contains("/kubesphere-system/") {
                "workloads"
            } else {
                "components"
            };
            assert_eq!(
                journal.last().unwrap().stopped_in(),
                Some(stage),
                "after {write:?}"
            );
        }
    }
    assert!(notes < 20, "one note per stage, not per step: {notes}");
}
