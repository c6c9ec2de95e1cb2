//! What the tests of faults share: the cluster, a run of its upgrade with all states in between, and the comparison.

use std::{
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use cluster::Cluster;
use engine::{
    BackupEntry, Claimant, Clock, Journal, JournalError, Lease, LeaseError, NewRun, Prepared, Recorder,
    Report, RunKind, SessionError, journal_key,
};
use jiff::Timestamp;
use sandbox::{
    Sandbox,
    faults::{Faults, Faulty},
};
use serde_json::Value;
use tower::Layer as _;
use upgrade::{Action, Options};

use crate::{
    kept::Kept,
    support::{self, Write, state::State},
};

/// A cluster before its upgrade, and every write of it with the cluster right after.
pub(crate) struct Run {
    pub start: Sandbox,
    pub before: State,
    pub writes: Vec<Write>,
    pub after: State,
    /// What everybody keeps.
    pub kept: Kept,
}

/// A clock that stands still.
pub(crate) fn steady() -> Clock {
    Arc::new(|| Timestamp::from_second(1_767_225_600).unwrap())
}

/// A clock that goes on by a second whenever it is looked at.
pub(crate) fn ticking() -> Clock {
    let now = AtomicI64::new(1_767_225_600);
    Arc::new(move || Timestamp::from_second(now.fetch_add(1, Ordering::Relaxed)).unwrap())
}

/// The id of the run that nothing disturbed.
pub(crate) const FIRST: &str = "first";

/// The tenants' cluster with a monitoring of its own: the core is upgraded, and hardly anything else. It is what nearly all
/// faults are tried on, since an upgrade of all components has four times as many writes.
pub(crate) static RUN: LazyLock<Run> = LazyLock::new(|| {
    Run::of(&support::tenants_but(|objects| {
        let configuration = support::find_mut(objects, "ClusterConfiguration", "ks-installer");
        configuration["spec"]["common"]["monitoring"]["type"] = "external".into();
    }))
});

/// The tenants' cluster, in which everything that the settings enable is upgraded.
pub(crate) static WHOLE: LazyLock<Run> = LazyLock::new(|| Run::of(&support::tenants()));

fn run_of(sandbox: &Sandbox) -> Run {
    block_on(async {
        let start = sandbox.fork_with_clock(steady());
        // The old installer runs: one more stage that can be cut.
        let replicas = serde_json::json!({"spec": {"replicas": 1}});
        support::client(&start)
            .merge_patch(&upgrade::installer_key(), &replicas)
            .await
            .unwrap();
        let before = State::of(&start);
        let sandbox = start.fork();
        let (cluster, writes) = support::watched(&sandbox, None);
        try_upgrade(&cluster, &steady(), FIRST).await.unwrap();
        let after = State::of(&sandbox);
        Run {
            start,
            writes: writes.all(),
            kept: Kept::between(&before, &after),
            before,
            after,
        }
    })
}

impl Run {
    fn of(sandbox: &Sandbox) -> Self {
        // In a thread of its own, since a test that needs it first may run in a runtime already.
        std::thread::scope(|scope| {
            let run = scope.spawn(|| run_of(sandbox)).join();
            run.expect("the undisturbed run comes to its end")
        })
    }

    /// How many writes it takes until the core's version is in the status: what follows is of the components.
    pub(crate) fn core(&self) -> usize {
        let is_upgraded = |write: &Write| {
            let state = State::of(&write.after);
            state.get(&upgrade::cluster_configuration_key())["status"]["core"]["version"] == "v3.3.1"
        };
        self.writes.partition_point(|write| !is_upgraded(write)) + 1
    }

    /// The cluster after so many writes.
    pub(crate) fn at(&self, writes: usize) -> &Sandbox {
        writes
            .checked_sub(1)
            .map_or(&self.start, |last| &self.writes[last].after)
    }

    /// What is lost where a run ends in this state instead of the one that the undisturbed run comes to.
    pub(crate) fn check_outcome(&self, sandbox: &Sandbox, at: &str) {
        let got = State::of(sandbox);
        let differences = self.outcome(&self.after).differences(&self.outcome(&got));
        assert!(differences.is_empty(), "{at}: {differences:#?}");
        self.kept.check(&got, at);
    }

    /// What runs that came to the same have in common. UIDs count where the object was there before.
    fn outcome(&self, after: &State) -> State {
        let mut outcome = after.comparable();
        for (key, value) in &mut outcome.0 {
            let value = Arc::make_mut(value);
            let metadata = value["metadata"].as_object_mut().unwrap();
            if self.before.find(key).is_none() {
                metadata.remove("uid");
            }
            // The API server sorts them by their times.
            if let Some(fields) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) {
                fields.sort_by_key(ToString::to_string);
            }
        }
        // Every run writes its own line there.
        outcome.0.remove(&journal_key());
        outcome
    }
}

/// With virtual time: what waits costs nothing.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

/// A client whose requests go wrong as told.
pub(crate) fn faulty(sandbox: &Sandbox, faults: &Faults) -> Cluster {
    let service: Faulty<_> = faults.layer(sandbox.service());
    Cluster::new(kube::Client::new(service, "default"))
}

/// Why an upgrade did not come to its end, in words.
#[derive(Debug)]
pub(crate) enum Unfinished {
    Prepare(cluster::ReadError),
    Blocked(Vec<upgrade::Finding>),
    /// Another run is under way, or this one could not say that it is.
    Claim(LeaseError),
    Journal(JournalError),
    Execute(SessionError),
    Unverified(Vec<upgrade::Finding>),
}

/// Upgrades as the command does: as the only run, with every stage in the journal.
pub(crate) fn try_upgrade<'a>(
    cluster: &'a Cluster,
    clock: &'a Clock,
    id: &'a str,
) -> Pin<Box<dyn Future<Output = Result<(), Unfinished>> + 'a>> {
    Box::pin(upgrade(cluster, clock, id))
}

async fn upgrade(cluster: &Cluster, clock: &Clock, id: &str) -> Result<(), Unfinished> {
    let session = support::session(cluster, Options::default());
    let prepared = engine::prepare(&session).await.map_err(Unfinished::Prepare)?;
    if prepared.blockers().next().is_some() {
        return Err(Unfinished::Blocked(prepared.blockers().cloned().collect()));
    }
    if prepared
        .decision
        .plan
        .as_ref()
        .is_some_and(upgrade::Plan::is_empty)
    {
        return Ok(());
    }
    let lease = Lease::acquire(cluster, clock, Claimant::run(id), |_| ())
        .await
        .map_err(Unfinished::Claim)?;
    let report = Box::pin(carry_out(&session, prepared, &lease, clock, id)).await;
    lease.release().await;
    let report = report?;
    if report.is_verified() {
        Ok(())
    } else {
        Err(Unfinished::Unverified(report.findings))
    }
}

async fn carry_out(
    session: &engine::Session<'_>,
    prepared: Prepared,
    lease: &Lease,
    clock: &Clock,
    id: &str,
) -> Result<Report, Unfinished> {
    let run = NewRun {
        id: id.to_owned(),
        kind: RunKind::Upgrade,
        tool: "test".to_owned(),
        from: prepared.decision.from.clone().unwrap_or_default(),
        to: prepared.decision.to.clone(),
        backup: Some(BackupEntry {
            location: format!("/backups/{id}"),
            sha256: None,
        }),
    };
    let (recorder, _) = Recorder::begin(session.cluster, clock, run)
        .await
        .map_err(Unfinished::Journal)?;
    let result = lease
        .hold(Box::pin(session.execute_recorded(
            prepared,
            Some(&recorder),
            &|_| {},
        )))
        .await
        .map_err(Unfinished::Claim)?;
    let noted = result.as_ref().map(|_| ()).map_err(ToString::to_string);
    // That the end is not noted down changes nothing.
    let _ = recorder.finish(noted).await;
    result.map_err(Unfinished::Execute)
}

pub(crate) fn journal(sandbox: &Sandbox) -> Journal {
    let state = State::of(sandbox);
    let found = state.find(&journal_key()).cloned();
    Journal::of(
        found
            .and_then(|value| object::Object::try_from(value).ok())
            .as_ref(),
    )
}

/// A plan made now holds no write.
pub(crate) async fn check_nothing_to_do(sandbox: &Sandbox, at: &str) {
    let prepared = support::prepare(sandbox).await;
    let plan = prepared.decision.plan.as_ref().expect("a plan is made");
    let writes: Vec<_> = plan
        .steps()
        .filter(|step| !matches!(step.action, Action::Wait { .. }))
        .map(|step| format!("{} {}", step.action.name(), step.object))
        .collect();
    assert!(writes.is_empty(), "{at}: a further run would write {writes:?}");
}

/// Does all of them, as many at once as there are processors. Says which one failed.
pub(crate) fn for_all(numbers: &[usize], work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let work = || {
            while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(*number);
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            // The message of its panic was printed already.
            assert!(thread.join().is_ok(), "see above");
        }
    });
}

/// A number from the environment.
pub(crate) fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// How long a wait of these runs may take, in virtual time.
pub(crate) const WAIT: Duration = Duration::from_secs(20);
