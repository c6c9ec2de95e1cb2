//! Two runs at once.

use std::time::Duration;

use engine::{LeaseError, RunOutcome};
use sandbox::faults::{Fault, Faults, Pick, Rule};

use crate::{
    common::{RUN, Unfinished, block_on, check_nothing_to_do, faulty, journal, ticking, try_upgrade},
    support::{self, state::State},
};

/// As slow as this the first run takes longer than the second one watches it.
const LATENCY: Duration = Duration::from_millis(700);

#[test]
fn the_second_of_two_runs_is_refused_and_writes_nothing() {
    let sandbox = RUN.start.fork();
    let slow = || Faults::scripted([Rule::every(Pick::default(), Fault::Delay(LATENCY))]);
    let (first, second) = (slow(), slow());
    block_on(async {
        let (one, other) = tokio::join!(
            async { try_upgrade(&faulty(&sandbox, &first), &ticking(), "one").await },
            async {
                // Both have decided when one of them takes the claim.
                tokio::time::sleep(Duration::from_millis(1)).await;
                try_upgrade(&faulty(&sandbox, &second), &ticking(), "other").await
            }
        );
        one.unwrap();
        let Err(Unfinished::Claim(LeaseError::Held { holder, .. })) = other else {
            panic!("{other:?}");
        };
        assert_eq!(holder, "one");
        assert_eq!(
            second.tally().writes,
            1,
            "its one write was the try to take the claim"
        );
        RUN.check_outcome(&sandbox, "beside another run");
        check_nothing_to_do(&sandbox, "beside another run").await;
        // The one that was refused left no trace.
        let runs = journal(&sandbox).runs;
        let runs: Vec<_> = runs.iter().map(|run| (run.id.as_str(), run.outcome)).collect();
        assert_eq!(runs, [("one", RunOutcome::Done)]);
    });
}

/// The first run hangs where no sign of life comes through, and a second one takes over: the first one writes nothing more when
/// it wakes up.
#[test]
fn a_run_that_was_given_up_for_dead_stops_when_it_wakes() {
    const WRITE: u64 = 60;
    let sandbox = RUN.start.fork();
    // All of its requests hang from then on, its signs of life among them.
    let asleep = Duration::from_mins(1);
    let every = Pick {
        writes: true,
        ..Pick::default()
    };
    let faults = Faults::scripted([Rule::some(every, WRITE, u64::MAX, Fault::Delay(asleep))]);
    block_on(async {
        let first = async { try_upgrade(&faulty(&sandbox, &faults), &ticking(), "one").await };
        let second = async {
            while faults.tally().writes < WRITE {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            try_upgrade(&support::client(&sandbox), &ticking(), "other").await
        };
        let (one, other) = tokio::join!(first, second);
        other.unwrap();
        assert!(one.is_err(), "{one:?}");
        RUN.kept.check(&State::of(&sandbox), "after both");
        check_nothing_to_do(&sandbox, "after both").await;
    });
    RUN.check_outcome(&sandbox, "after both");
}
