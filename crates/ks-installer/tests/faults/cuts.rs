//! The upgrade, stopped at every write and run again.

use std::time::Instant;

use cluster::Cluster;
use engine::RunOutcome;
use sandbox::{
    Sandbox,
    faults::{Fault, Faults, Moment, Rule},
};

use crate::{
    common::{FIRST, RUN, block_on, check_nothing_to_do, faulty, for_all, journal, steady, try_upgrade},
    support::{self, Write, state::State},
};

/// What was cut, for people.
fn cut_at(writes: usize) -> String {
    match writes.checked_sub(1) {
        None => "cut before the first write".to_owned(),
        Some(last) => format!("cut after write {writes} ({:?})", RUN.writes[last]),
    }
}

/// Runs again on what a cut left, and looks at what comes of it.
async fn resume(sandbox: &Sandbox, cluster: &Cluster, at: &str) {
    let before = journal(sandbox);
    if let Err(unfinished) = try_upgrade(cluster, &steady(), "second").await {
        panic!("{at}: {unfinished:?}");
    }
    check_nothing_to_do(sandbox, at).await;
    RUN.check_outcome(sandbox, at);
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
    let started = Instant::now();
    let states: Vec<usize> = (0..=RUN.writes.len()).collect();
    for_all(&states, |writes| {
        let sandbox = RUN.at(writes).fork();
        block_on(async { resume(&sandbox, &support::client(&sandbox), &cut_at(writes)).await });
    });
    eprintln!(
        "{} cuts (before every write, and after it took effect): {} states, each run to its end in {:?}",
        2 * RUN.writes.len(),
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
                resume(&sandbox, &cluster, &at).await;
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
    assert!(RUN.kept.holders() > 50, "{}", RUN.kept.holders());
    for (n, write) in RUN.writes.iter().enumerate() {
        RUN.kept.check(
            &State::of(&write.after),
            &format!("after write {} ({write:?})", n + 1),
        );
    }
}

/// The version is the last word: it says that all is done.
#[test]
fn the_version_is_written_last() {
    let is_bookkeeping = |write: &Write| {
        ["/leases", "/ks-installer-journal"]
            .iter()
            .any(|part| write.path.contains(part))
    };
    let last = RUN
        .writes
        .iter()
        .rposition(|write| !is_bookkeeping(write))
        .unwrap();
    assert!(
        last + 4 > RUN.writes.len(),
        "the journal's end and the Lease follow"
    );
    for (n, write) in RUN.writes.iter().enumerate() {
        let now = State::of(&write.after);
        let version = &now.get(&upgrade::cluster_configuration_key())["status"]["core"]["version"];
        assert_eq!(
            version == "v3.3.1",
            n >= last,
            "after write {} ({write:?})",
            n + 1
        );
    }
}
