//! What the tests of faults share: the cluster, a run of its upgrade with all states in between, and the comparison.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cluster::Cluster;
use engine::{Prepared, SessionError};
use jiff::Timestamp;
use sandbox::{
    Clock, Sandbox,
    faults::{Faults, Faulty},
};
use tower::Layer as _;
use upgrade::{Action, Options};

use crate::{
    kept::Kept,
    support::{self, Write, state::State},
};

/// The tenants' cluster before its upgrade, and every write of it with the cluster right after.
pub(crate) struct Run {
    pub start: Sandbox,
    pub before: State,
    pub writes: Vec<Write>,
    pub after: State,
    /// What everybody keeps.
    pub kept: Kept,
}

pub(crate) static RUN: LazyLock<Run> = LazyLock::new(|| {
    block_on(async {
        let clock: Clock = Arc::new(|| Timestamp::from_second(1_767_225_600).unwrap());
        let start = support::tenants().fork_with_clock(clock);
        // The old installer runs: one more stage that can be cut.
        let replicas = serde_json::json!({"spec": {"replicas": 1}});
        support::client(&start)
            .merge_patch(&upgrade::installer_key(), &replicas)
            .await
            .unwrap();
        let before = State::of(&start);
        let sandbox = start.fork();
        let (cluster, writes) = support::watched(&sandbox, None);
        support::upgrade_with(&cluster, Options::default()).await;
        let after = State::of(&sandbox);
        Run {
            start,
            writes: writes.all(),
            kept: Kept::between(&before, &after),
            before,
            after,
        }
    })
});

impl Run {
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
            // A run that is cut between handing fields over and applying them takes other ways to the same.
            metadata.remove("generation");
        }
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

pub(crate) fn copy(prepared: &Prepared) -> Prepared {
    Prepared {
        snapshot: prepared.snapshot.clone(),
        decision: prepared.decision.clone(),
    }
}

/// Why an upgrade did not come to its end, in words.
#[derive(Debug)]
pub(crate) enum Unfinished {
    Prepare(cluster::ReadError),
    Blocked(Vec<upgrade::Finding>),
    Execute(SessionError),
    Unverified(Vec<upgrade::Finding>),
}

/// Upgrades as the command does.
pub(crate) async fn try_upgrade(cluster: &Cluster) -> Result<(), Unfinished> {
    let session = support::session(cluster, Options::default());
    let prepared = engine::prepare(&session).await.map_err(Unfinished::Prepare)?;
    if prepared.blockers().next().is_some() {
        return Err(Unfinished::Blocked(prepared.blockers().cloned().collect()));
    }
    let report = session
        .execute(prepared, &|_| {})
        .await
        .map_err(Unfinished::Execute)?;
    if report.is_verified() {
        Ok(())
    } else {
        Err(Unfinished::Unverified(report.findings))
    }
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
