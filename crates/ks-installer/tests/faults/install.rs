//! The installation, stopped at every write and run again.

use std::sync::{Arc, LazyLock};

use cluster::Cluster;
use engine::{Claimant, Clock, Lease, NewRun, Recorder, RunKind, RunOutcome, journal_key};
use object::{Object, ObjectKey};
use release::helm::Record;
use sandbox::{
    Sandbox,
    faults::{Fault, Faults, Moment, Rule},
};
use serde_json::Value;
use upgrade::{Action, Install, Options, install as from_nothing};

use crate::{
    common::{block_on, faulty, for_all, journal, steady},
    support::{self, Write, state::State},
};

/// Secrets that are given do not differ from run to run.
const SETTINGS: [&str; 3] = [
    // The platform alone: of components the cuts of an upgrade tell.
    "common.monitoring.type=external",
    "authentication.jwtSecret=0123456789abcdefghijklmnopqrstuv",
    "authentication.adminPassword=Initial88",
];

fn mk_configuration() -> Object {
    let mut configuration = from_nothing::read_configuration(from_nothing::DEFAULT_CONFIGURATION).unwrap();
    for setting in SETTINGS {
        from_nothing::set(&mut configuration, setting).unwrap();
    }
    configuration
}

fn options(install: Install) -> Options {
    Options {
        install,
        ..Options::default()
    }
}

/// Installs as the command does, or, without a configuration, as the operator does: which is given one.
async fn try_install(
    cluster: &Cluster,
    clock: &Clock,
    id: &str,
    configuration: Option<&Object>,
) -> Result<(), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let install = configuration.map_or(Install::WhereAbsent, |_| Install::Only);
    let session = support::session(cluster, options(install));
    if let Some(configuration) = configuration {
        let prepared = engine::prepare_installation(&session, configuration)
            .await
            .map_err(|e| words(&e))?;
        let blockers: Vec<_> = prepared.blockers().collect();
        if !blockers.is_empty() {
            return Err(format!("{blockers:#?}"));
        }
        session
            .lay_foundation(&prepared, configuration, &|_| {})
            .await
            .map_err(|e| words(&e))?;
    }
    let prepared = engine::prepare(&session).await.map_err(|e| words(&e))?;
    let blockers: Vec<_> = prepared.blockers().collect();
    if !blockers.is_empty() {
        return Err(format!("{blockers:#?}"));
    }
    let plan = prepared.decision.plan.clone().unwrap();
    if plan.is_empty() {
        return Ok(());
    }
    assert!(
        // What is left of the components, once the version is written, is an upgrade's.
        plan.is_installation() || plan.from == plan.to || install == Install::WhereAbsent,
        "{}",
        plan.from
    );
    let lease = Lease::acquire(cluster, clock, Claimant::run(id), |_| ())
        .await
        .map_err(|e| words(&e))?;
    let run = NewRun {
        id: id.to_owned(),
        kind: RunKind::Install,
        tool: "test".to_owned(),
        from: plan.from,
        to: plan.to,
        backup: None,
    };
    let (recorder, _) = Recorder::begin(cluster, clock, run)
        .await
        .map_err(|e| words(&e))?;
    let work = session.execute_recorded(prepared, Some(&recorder), &|_| {});
    let done = lease.hold(Box::pin(work)).await.map_err(|e| words(&e))?;
    let noted = done.as_ref().map(|_| ()).map_err(ToString::to_string);
    let _ = recorder.finish(noted).await;
    lease.release().await;
    let report = done.map_err(|e| words(&e))?;
    if report.is_verified() {
        Ok(())
    } else {
        Err(format!("{:#?}", report.findings))
    }
}

/// The undisturbed installation, and every write of it with the cluster right after.
struct Run {
    start: Sandbox,
    writes: Vec<Write>,
    after: State,
}

static RUN: LazyLock<Run> = LazyLock::new(|| {
    let start = support::bare().fork_with_clock(steady());
    let sandbox = start.fork();
    let writes = block_on(async {
        let (cluster, writes) = support::watched(&sandbox, None);
        try_install(&cluster, &steady(), "first", Some(&mk_configuration()))
            .await
            .unwrap();
        writes.all()
    });
    Run {
        start,
        writes,
        after: State::of(&sandbox),
    }
});

/// What installations that came to the same have in common: no UIDs, addresses, certificates, nor what only tells of runs.
fn outcome(state: &State) -> State {
    fn forget(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for name in [
                    "uid",
                    "caBundle",
                    "clusterIP",
                    "clusterIPs",
                    "ca.crt",
                    "tls.crt",
                    "tls.key",
                ] {
                    map.remove(name);
                }
                map.values_mut().for_each(forget);
            }
            Value::Array(items) => items.iter_mut().for_each(forget),
            _ => {}
        }
    }
    let mut outcome = state.comparable();
    outcome.0.remove(&journal_key());
    // The names of tokens are drawn at random.
    outcome
        .0
        .retain(|_, value| value["type"] != "kubernetes.io/service-account-token");
    for (key, value) in &mut outcome.0 {
        let value = Arc::make_mut(value);
        if key.kind == "ServiceAccount" {
            value.as_object_mut().unwrap().remove("secrets");
        }
        let metadata = value["metadata"].as_object_mut().unwrap();
        // The API server sorts them by their times.
        if let Some(fields) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) {
            fields.retain(|entry| entry["manager"] != "kube-controller-manager");
            fields.sort_by_key(ToString::to_string);
        }
        if key.name.starts_with("sh.helm.release.v1.") {
            let record = Record::decode(&Object::try_from(value.clone()).unwrap()).unwrap();
            let objects = record.manifest_objects(&release::helm::is_namespaced).unwrap();
            value["data"]["release"] = objects.into_iter().map(Object::into_value).collect();
        }
        forget(value);
    }
    outcome
}

#[track_caller]
fn check_same(sandbox: &Sandbox, at: &str) {
    let differences = outcome(&RUN.after).differences(&outcome(&State::of(sandbox)));
    assert!(differences.is_empty(), "{at}: {differences:#?}");
}

fn cut_at(writes: usize) -> String {
    match writes.checked_sub(1) {
        None => "cut before the first write".to_owned(),
        Some(last) => format!("cut after write {writes} ({:?})", RUN.writes[last]),
    }
}

fn at(writes: usize) -> &'static Sandbox {
    writes
        .checked_sub(1)
        .map_or(&RUN.start, |last| &RUN.writes[last].after)
}

/// A plan made now, by an installation, an operator or an upgrade, holds no write.
async fn check_nothing_to_do(sandbox: &Sandbox, at: &str) {
    for install in [Install::No, Install::WhereAbsent, Install::Only] {
        let cluster = support::client(sandbox);
        let session = support::session(&cluster, options(install));
        let prepared = engine::prepare(&session).await.unwrap();
        assert_eq!(prepared.decision.from.as_deref(), Some("v3.3.1"), "{at}");
        let plan = prepared.decision.plan.as_ref().unwrap();
        let writes = plan
            .steps()
            .filter(|step| !matches!(step.action, Action::Wait { .. }));
        assert_eq!(writes.collect::<Vec<_>>(), Vec::<&upgrade::Step>::new(), "{at}");
    }
}

#[test]
fn wherever_an_installation_is_cut_the_next_one_comes_to_the_same() {
    // The middle is more of the same.
    const STEP: usize = 4;
    const EDGE: usize = 12;
    let last = RUN.writes.len();
    assert!(last > 150, "{last}");
    let states: Vec<usize> = (0..=last)
        .filter(|n| *n <= EDGE || last - n <= EDGE || n % STEP == 0)
        .collect();
    for_all(&states, |writes| {
        let sandbox = at(writes).fork();
        let cut = cut_at(writes);
        block_on(async {
            let cluster = support::client(&sandbox);
            if let Err(error) = try_install(&cluster, &steady(), "second", Some(&mk_configuration())).await {
                panic!("{cut}: {error}");
            }
            check_nothing_to_do(&sandbox, &cut).await;
        });
        check_same(&sandbox, &cut);
        let journal = journal(&sandbox);
        let last = journal.last().unwrap();
        assert!(last.id == "first" || last.outcome == RunOutcome::Done, "{cut}");
        assert_eq!((last.kind, journal.backup()), (RunKind::Install, None), "{cut}");
    });
}

/// What a laptop began, the operator brings to its end, too.
#[test]
fn wherever_it_is_cut_the_operator_goes_on() {
    const STEP: usize = 7;
    let is_founded =
        |write: &Write| write.path.contains("clusterconfigurations") && write.path.contains("namespaces");
    let founded = RUN.writes.iter().position(is_founded).unwrap() + 1;
    let last = RUN.writes.len();
    let states: Vec<usize> = (founded..=last).step_by(STEP).chain(last - 8..=last).collect();
    for_all(&states, |writes| {
        let sandbox = at(writes).fork();
        let cut = cut_at(writes);
        block_on(async {
            let cluster = support::client(&sandbox);
            if let Err(error) = try_install(&cluster, &steady(), "second", None).await {
                panic!("{cut}: {error}");
            }
            check_nothing_to_do(&sandbox, &cut).await;
        });
        check_same(&sandbox, &cut);
    });
}

/// What the tests above rest on: a client that is stopped leaves just what it had written.
#[test]
fn an_installation_that_is_stopped_leaves_what_it_had_written() {
    const STEP: usize = 29;
    let writes: Vec<usize> = (1..=4).chain((5..RUN.writes.len()).step_by(STEP)).collect();
    for_all(&writes, |write| {
        for (moment, written) in [(Moment::Before, write - 1), (Moment::AfterEffect, write)] {
            let sandbox = RUN.start.fork();
            let faults = Faults::scripted([Rule::write(write as u64, Fault::Stop(moment))]);
            let at = format!("stopped at write {write}, {moment:?}");
            block_on(async {
                let cluster = faulty(&sandbox, &faults);
                try_install(&cluster, &steady(), "first", Some(&mk_configuration())).await
            })
            .expect_err(&at);
            assert!(faults.is_stopped(), "{at}");
            let expect = outcome(&State::of(self::at(written)));
            let differences = expect.differences(&outcome(&State::of(&sandbox)));
            assert!(differences.is_empty(), "{at}: {differences:#?}");
        }
    });
}

/// Writes that answer each other's questions come in this order.
#[test]
fn what_is_relied_on_is_written_first() {
    let first = |part: &str| {
        let found = RUN.writes.iter().position(|write| write.path.contains(part));
        found.unwrap_or_else(|| panic!("no write of {part}"))
    };
    let last = |part: &str| {
        RUN.writes
            .iter()
            .rposition(|write| write.path.contains(part))
            .unwrap()
    };
    let order = [
        (first("/api/v1/namespaces"), first("/customresourcedefinitions")),
        (
            first("/customresourcedefinitions"),
            first("/namespaces/kubesphere-system/clusterconfigurations"),
        ),
        (
            first("/namespaces/kubesphere-system/clusterconfigurations"),
            first("/leases"),
        ),
        (first("/leases"), first("ks-installer-journal")),
        (first("/secrets"), last("/customresourcedefinitions")),
        (last("/customresourcedefinitions"), first("/v1alpha2/globalroles")),
        (last("/v1alpha2/globalroles"), first("/deployments")),
        (last("/deployments"), first("webhookconfigurations")),
        // The last Secret is Helm's record.
        (last("webhookconfigurations"), last("/secrets")),
        (last("/secrets"), last("/clusterconfigurations/ks-installer")),
    ];
    for (n, (before, after)) in order.into_iter().enumerate() {
        assert!(
            before < after,
            "{n}: {:?} before {:?}",
            RUN.writes[before],
            RUN.writes[after]
        );
    }
    let mut was_done = false;
    for (n, write) in RUN.writes.iter().enumerate() {
        let now = State::of(&write.after);
        let done = now
            .find(&upgrade::cluster_configuration_key())
            .is_some_and(|configuration| configuration["status"]["core"]["version"] == "v3.3.1");
        // Once it says so, it goes on saying so; what judges writes is there by then.
        assert!(done || !was_done, "after write {} ({write:?})", n + 1);
        assert!(
            !done || n > last("webhookconfigurations"),
            "after write {} ({write:?})",
            n + 1
        );
        was_done = done;
    }
}

#[test]
fn what_was_made_is_what_was_planned() {
    let prepared = block_on(async {
        let cluster = support::client(&RUN.start);
        let session = support::session(&cluster, options(Install::Only));
        engine::prepare_installation(&session, &mk_configuration())
            .await
            .unwrap()
    });
    let plan = prepared.decision.plan.unwrap();
    let planned: std::collections::BTreeSet<ObjectKey> =
        plan.steps().map(|step| step.object.clone()).collect();
    let before = State::of(&RUN.start);
    let made = RUN.after.0.keys().filter(|key| before.find(key).is_none());
    let unplanned: Vec<String> = made
        .filter(|key| !planned.contains(key))
        .filter(|key| {
            ![
                "Lease",
                "Pod",
                "ReplicaSet",
                "Endpoints",
                "EndpointSlice",
                "Event",
                "APIService",
                "ControllerRevision",
            ]
            .contains(&key.kind.as_str())
        })
        .filter(|key| **key != journal_key())
        // What Kubernetes makes in every new namespace.
        .filter(|key| {
            !["default", "kube-root-ca.crt"].contains(&key.name.as_str()) && !key.name.contains("-token-")
        })
        .map(ToString::to_string)
        .collect();
    assert_eq!(unplanned, [""; 0]);
}
