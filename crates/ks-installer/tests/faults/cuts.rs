//! The upgrade, stopped at every write and run again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use cluster::Cluster;
use engine::RunOutcome;
use sandbox::{
    Sandbox,
    faults::{Fault, Faults, Moment, Rule},
};
use upgrade::Action;

use crate::{
    common::{
        FIRST, RUN, Run, WHOLE, block_on, check_nothing_to_do, faulty, for_all, journal, steady, try_upgrade,
    },
    support::{self, Write, state::State},
};

/// What was cut, for people.
fn cut_at(run: &Run, writes: usize) -> String {
    match writes.checked_sub(1) {
        None => "cut before the first write".to_owned(),
        Some(last) => format!("cut after write {writes} ({:?})", run.writes[last]),
    }
}

/// Runs again on what a cut left, and looks at what comes of it.
async fn resume(run: &Run, sandbox: &Sandbox, cluster: &Cluster, at: &str) {
    let before = journal(sandbox);
    if let Err(unfinished) = try_upgrade(cluster, &steady(), "second").await {
        panic!("{at}: {unfinished:?}");
    }
    check_nothing_to_do(sandbox, at).await;
    run.check_outcome(sandbox, at);
    let after = journal(sandbox);
    let last = after.last().expect("a run is noted down");
    if last.id == FIRST {
        // All was done, only the end was not noted down any more.
        assert_eq!(after, before, "{at}");
        return;
    }
    assert_eq!(
        (last.id.as_str(), last.outcome),
        ("second", RunOutcome::Done),
        "{at}"
    );
    let first = before.last().map(|run| run.id.clone());
    assert_eq!(last.continues, first, "{at}");
    let backup = format!("/backups/{}", first.as_deref().unwrap_or("second"));
    assert_eq!(
        after.backup().unwrap().location,
        backup,
        "{at}: the way back leads to before the first"
    );
}

/// A process that ends before the n-th write leaves the same cluster as one that ends after the write before it, and a process
/// that is no more writes nothing: so all cuts together leave these states, one after each write. The Lease of the one that was
/// cut and its journal are among them.
#[test]
fn wherever_it_is_cut_the_next_run_comes_to_the_same() {
    let states: Vec<usize> = (0..=RUN.writes.len()).collect();
    go_on_from(&RUN, &states);
}

/// The same where everything is upgraded: in the stages that all share, and in those of the components, which come when the
/// core is upgraded already and run side by side.
#[test]
fn wherever_a_component_is_cut_the_next_run_comes_to_the_same() {
    /// Writes of one stage are more of the same.
    const STEP: usize = 4;
    /// The core's own cuts are those of the test above.
    const CORE_STEP: usize = 16;
    let (core, last) = (WHOLE.core(), WHOLE.writes.len());
    assert!(last - core > 100, "{core} of {last}");
    let mut states: Vec<usize> = (0..core).step_by(CORE_STEP).collect();
    states.extend((core..=last).filter(|n| n % STEP == 0 || last - n < STEP));
    go_on_from(&WHOLE, &states);
}

/// Who approved a plan does not have to approve it again for what its own run has done already.
#[test]
fn a_saved_plan_permits_the_rest_wherever_its_run_is_cut() {
    for run in [&*RUN, &*WHOLE] {
        let plan = |sandbox: &Sandbox| block_on(support::prepare(sandbox)).decision.plan.unwrap();
        let saved = serde_json::to_value(plan(&run.start)).unwrap();
        let saved: upgrade::Plan = serde_json::from_value(saved).unwrap();
        // Of the components' own writes, a part.
        let core = run.core();
        let states = (0..=run.writes.len()).filter(|n| *n <= core || n % 4 == 0);
        for_all(&states.collect::<Vec<_>>(), |writes| {
            let differences = saved
                .check_permits(&plan(run.at(writes)))
                .err()
                .unwrap_or_default();
            assert!(
                differences.is_empty(),
                "{}: {differences:#?}",
                cut_at(run, writes)
            );
        });
    }
}

fn go_on_from(run: &Run, states: &[usize]) {
    let started = Instant::now();
    for_all(states, |writes| {
        let sandbox = run.at(writes).fork();
        block_on(async { resume(run, &sandbox, &support::client(&sandbox), &cut_at(run, writes)).await });
    });
    eprintln!(
        "{} writes, a cut before each and after it took effect: {} states, each run to its end in {:?}",
        run.writes.len(),
        states.len(),
        started.elapsed()
    );
}

/// What the states of the test above rest on: a client that is stopped ends with a reason, and leaves just what it had written.
/// The run after it goes through no state in which somebody lacks what they keep.
#[test]
fn a_run_that_is_stopped_leaves_what_it_had_written() {
    const STEP: usize = 9;
    let writes: Vec<usize> = (1..=RUN.writes.len()).step_by(STEP).collect();
    for_all(&writes, |write| {
        for (moment, written) in [(Moment::Before, write - 1), (Moment::AfterEffect, write)] {
            let sandbox = RUN.start.fork();
            let faults = Faults::scripted([Rule::write(write as u64, Fault::Stop(moment))]);
            let ended = block_on(async { try_upgrade(&faulty(&sandbox, &faults), &steady(), FIRST).await });
            let at = format!("stopped at write {write}, {moment:?}");
            assert!(faults.is_stopped(), "{at}");
            if write < RUN.writes.len() - 1 {
                assert!(!format!("{:?}", ended.expect_err(&at)).is_empty(), "{at}");
            }
            let expect = State::of(RUN.at(written)).comparable();
            let differences = expect.differences(&State::of(&sandbox).comparable());
            assert!(differences.is_empty(), "{at}: {differences:#?}");

            let writes = block_on(async {
                let (cluster, writes) = support::watched(&sandbox, None);
                resume(&RUN, &sandbox, &cluster, &at).await;
                writes.all()
            });
            for write in writes {
                RUN.kept
                    .check(&State::of(&write.after), &format!("{at}, then after {write:?}"));
            }
        }
    });
}

#[test]
fn after_every_write_everybody_has_what_they_keep() {
    for run in [&*RUN, &*WHOLE] {
        assert!(run.kept.holders() > 50, "{}", run.kept.holders());
        for (n, write) in run.writes.iter().enumerate() {
            run.kept.check(
                &State::of(&write.after),
                &format!("after write {} ({write:?})", n + 1),
            );
        }
    }
}

/// A version is the last word on what it speaks of: it says that all of it is done.
#[test]
fn a_version_is_written_last() {
    let is_bookkeeping = |write: &Write| {
        ["/leases", "/ks-installer-journal"]
            .iter()
            .any(|part| write.path.contains(part))
    };
    for run in [&*RUN, &*WHOLE] {
        let plan = block_on(support::prepare(&run.start)).decision.plan.unwrap();
        let mut lanes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for stage in &plan.stages {
            let lane = stage.name.split_once('/').map_or("", |(component, _)| component);
            let written = stage
                .steps
                .iter()
                .filter(|step| !matches!(step.action, Action::Wait { .. }));
            let names = written.map(|step| step.object.name.as_str());
            lanes.entry(lane).or_default().extend(names);
        }
        // The Lease's last words and the journal's follow.
        let written = run
            .writes
            .iter()
            .rposition(|write| !is_bookkeeping(write))
            .unwrap();
        assert!(
            written + 4 > run.writes.len(),
            "{written} of {}",
            run.writes.len()
        );
        let said = |write: &Write, pointer: &str| {
            let state = State::of(&write.after);
            let status = &state.get(&upgrade::cluster_configuration_key())["status"];
            status.pointer(pointer).is_some_and(|version| version == "v3.3.1")
        };
        let core = run.core() - 1;
        for (n, write) in run.writes.iter().enumerate() {
            assert_eq!(
                said(write, "/core/version"),
                n >= core,
                "after write {} ({write:?})",
                n + 1
            );
        }
        // After it, only the components' own.
        let others: BTreeSet<&str> = lanes
            .iter()
            .filter(|(lane, _)| !lane.is_empty())
            .flat_map(|(_, names)| names.iter().copied())
            .collect();
        for write in run.writes[core + 1..]
            .iter()
            .filter(|write| !is_bookkeeping(write))
        {
            let name = write.path.rsplit('/').next().unwrap();
            assert!(
                write.method == http::Method::POST || others.contains(name),
                "{write:?} comes after the core's version"
            );
        }
        for (lane, names) in lanes.iter().filter(|(lane, _)| !lane.is_empty()) {
            let Some(at) = run
                .writes
                .iter()
                .position(|write| said(write, &format!("/{lane}/version")))
            else {
                continue;
            };
            let only_its: BTreeSet<&str> = names
                .iter()
                .copied()
                .filter(|name| {
                    lanes
                        .iter()
                        .all(|(other, names)| other == lane || !names.contains(name))
                })
                .collect();
            for write in run.writes[at + 1..].iter().filter(|write| !is_bookkeeping(write)) {
                let name = write.path.rsplit('/').next().unwrap();
                assert!(
                    !only_its.contains(name),
                    "{write:?} comes after the version of {lane}"
                );
            }
        }
    }
}
