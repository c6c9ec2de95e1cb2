//! The upgrade, stopped at every write and run again.

use std::time::Instant;

use sandbox::faults::{Fault, Faults, Moment, Rule};
use upgrade::Options;

use crate::{
    common::{self, RUN, block_on, check_nothing_to_do, faulty, for_all, try_upgrade},
    support::{self, state::State},
};

/// A process that ends before the n-th write leaves the same cluster as one that ends after the write before it, and a process
/// that is no more writes nothing: so all cuts together leave these states, one after each write.
#[test]
fn wherever_it_is_cut_the_next_run_comes_to_the_same() {
    let started = Instant::now();
    let states: Vec<usize> = (0..=RUN.writes.len()).collect();
    for_all(&states, |writes| {
        let at = match writes.checked_sub(1) {
            None => "cut before the first write".to_owned(),
            Some(last) => format!("cut after write {writes} ({:?})", RUN.writes[last]),
        };
        let sandbox = RUN.at(writes).fork();
        block_on(async {
            if let Err(unfinished) = try_upgrade(&support::client(&sandbox)).await {
                panic!("{at}: {unfinished:?}");
            }
            check_nothing_to_do(&sandbox, &at).await;
        });
        RUN.check_outcome(&sandbox, &at);
    });
    eprintln!(
        "{} cuts (before every write, and after it took effect): {} states, each run to its end in {:?}",
        2 * RUN.writes.len(),
        states.len(),
        started.elapsed()
    );
}

/// What the states of the test above rest on: a client that is stopped ends with a reason, and leaves just what it had written.
#[test]
fn a_run_that_is_stopped_leaves_what_it_had_written() {
    const STEP: usize = 9;
    let prepared = block_on(support::prepare(&RUN.start));
    let writes: Vec<usize> = (1..=RUN.writes.len()).step_by(STEP).collect();
    for_all(&writes, |write| {
        for (moment, written) in [(Moment::Before, write - 1), (Moment::AfterEffect, write)] {
            let sandbox = RUN.start.fork();
            let faults = Faults::scripted([Rule::write(write as u64, Fault::Stop(moment))]);
            let ended = block_on(async {
                let cluster = faulty(&sandbox, &faults);
                let session = support::session(&cluster, Options::default());
                session.execute(common::copy(&prepared), &|_| {}).await
            });
            let at = format!("stopped at write {write}, {moment:?}");
            assert!(faults.is_stopped(), "{at}");
            assert!(!ended.expect_err(&at).to_string().is_empty(), "{at}");
            let expect = State::of(RUN.at(written)).comparable();
            let differences = expect.differences(&State::of(&sandbox).comparable());
            assert!(differences.is_empty(), "{at}: {differences:#?}");
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
    for (n, write) in RUN.writes.iter().enumerate() {
        let now = State::of(&write.after);
        let version = &now.get(&upgrade::cluster_configuration_key())["status"]["core"]["version"];
        let is_last = n + 1 == RUN.writes.len();
        assert_eq!(version == "v3.3.1", is_last, "after write {} ({write:?})", n + 1);
    }
}
