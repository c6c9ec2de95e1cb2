//! Runs with faults by the dice.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use engine::Clock;
use jiff::Timestamp;
use sandbox::{
    Sandbox,
    faults::{Faults, Fired, Mix},
};

use crate::{
    common::{
        RUN, Run, Unfinished, WHOLE, block_on, check_nothing_to_do, faulty, for_all, setting, try_upgrade,
    },
    support::{self, state::State},
};

/// How many runs there are where `KS_FAULT_RUNS` says nothing.
const RUNS: u64 = 30;
/// How often a run is begun anew before things are let go well.
const PATIENCE: u64 = 5;

/// One request in ten meets a fault, and one write in two hundred is the last.
const MIX: Mix = Mix {
    drop: 10,
    lose_answer: 15,
    delay: 20,
    delay_answer: 20,
    too_many_requests: 10,
    internal: 10,
    unavailable: 10,
    conflict: 20,
    cut_watch: 100,
    stop: 5,
    longest: Duration::from_secs(8),
    retry_after: 3,
};

/// A clock that now and then jumps, by up to a day, back and forth.
fn jumping(seed: u64) -> Clock {
    let (now, calls) = (AtomicI64::new(1_767_225_600), AtomicU64::new(seed));
    Arc::new(move || {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        let mixed = call.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        if mixed.is_multiple_of(20) {
            let jump = i64::try_from(mixed / 20 % 172_800).unwrap() - 86_400;
            now.fetch_add(jump, Ordering::Relaxed);
        }
        Timestamp::from_second(now.fetch_add(1, Ordering::Relaxed)).unwrap()
    })
}

/// How a seed came to its end.
#[derive(Debug, Default, PartialEq)]
struct Course {
    faults: Vec<Fired>,
    /// Why runs did not come to their end.
    stops: Vec<String>,
}

/// The reason that a run gave for ending early. A panic, or a message that says nothing, fails the test.
fn reason(unfinished: &Unfinished) -> String {
    let reason = match unfinished {
        Unfinished::Prepare(error) => error.to_string(),
        Unfinished::Claim(error) => error.to_string(),
        Unfinished::Journal(error) => error.to_string(),
        Unfinished::Execute(error) => error.to_string(),
        Unfinished::Blocked(findings) => format!("blocked: {}: {}", findings[0].reason, findings[0].message),
        Unfinished::Unverified(findings) => {
            format!("not verified: {}: {}", findings[0].reason, findings[0].message)
        }
    };
    assert!(reason.len() > 10, "{unfinished:?}");
    reason
}

/// One seed: a cluster, and runs on it until one comes to its end.
async fn run(undisturbed: &Run, seed: u64, sandbox: &Sandbox, clock: &Clock) -> Course {
    let mut course = Course::default();
    for attempt in 0..PATIENCE {
        let faults = Faults::seeded(seed.wrapping_mul(1000).wrapping_add(attempt), MIX.clone());
        let id = format!("run-{attempt}");
        let ended = try_upgrade(&faulty(sandbox, &faults), clock, &id).await;
        course.faults.extend(faults.tally().fired);
        undisturbed
            .kept
            .check(&State::of(sandbox), &format!("after attempt {attempt}"));
        match ended {
            Ok(()) => return course,
            Err(unfinished) => course.stops.push(reason(&unfinished)),
        }
    }
    // Every one of them stopped with a reason. It goes on from there when nothing goes wrong any more.
    if let Err(unfinished) = try_upgrade(&support::client(sandbox), clock, "run-last").await {
        panic!("{unfinished:?}");
    }
    course
}

/// Plays a seed to its end and looks at what came of it.
fn play(undisturbed: &Run, seed: u64) -> Course {
    let clock = jumping(seed);
    let sandbox = undisturbed.start.fork_with_clock(Arc::clone(&clock));
    block_on(async {
        let course = run(undisturbed, seed, &sandbox, &clock).await;
        undisturbed.check_outcome(&sandbox, &format!("seed {seed}, stopped by {:?}", course.stops));
        check_nothing_to_do(&sandbox, &format!("seed {seed}")).await;
        course
    })
}

/// A failure that does not come back cannot be mended.
#[test]
fn a_seed_is_played_the_same_again() {
    for seed in [0, 29] {
        assert_eq!(play(&RUN, seed), play(&RUN, seed), "seed {seed}");
    }
}

/// Every run converges after at most a few more runs, to what the undisturbed run comes to.
#[test]
fn whatever_goes_wrong_it_comes_to_the_same_in_the_end() {
    play_all(&RUN, setting("KS_FAULT_RUNS").unwrap_or(RUNS));
}

/// The same with all components. Each takes as long as many of the others, so these are fewer.
#[test]
fn whatever_goes_wrong_with_components_it_comes_to_the_same_in_the_end() {
    play_all(&WHOLE, setting("KS_FAULT_RUNS").unwrap_or(RUNS) / 50);
}

fn play_all(undisturbed: &Run, runs: u64) {
    let started = Instant::now();
    let seeds: Vec<usize> = match setting("KS_SEED") {
        Some(seed) => vec![usize::try_from(seed).unwrap()],
        None => (0..usize::try_from(runs).unwrap()).collect(),
    };
    let courses = Mutex::new(Vec::new());
    let failed = Mutex::new(Vec::new());
    for_all(&seeds, |seed| {
        let run = AssertUnwindSafe(|| play(undisturbed, seed as u64));
        match catch_unwind(run) {
            Ok(course) => courses.lock().unwrap().push(course),
            Err(_) => failed.lock().unwrap().push(seed),
        }
    });
    let (courses, failed) = (courses.into_inner().unwrap(), failed.into_inner().unwrap());
    let faults: usize = courses.iter().map(|course| course.faults.len()).sum();
    let stops: Vec<&String> = courses.iter().flat_map(|course| &course.stops).collect();
    eprintln!(
        "{} seeds, {faults} faults, {} runs stopped with a reason, in {:?}",
        seeds.len(),
        stops.len(),
        started.elapsed()
    );
    if setting("KS_SEED").is_some() {
        eprintln!("{courses:#?}");
    }
    assert!(
        failed.is_empty(),
        "seeds {failed:?} failed, see above; replay one: KS_SEED={} cargo test -p ks-installer --test faults random",
        failed[0]
    );
}
