//! Trying again what failed for a reason that passes.

use std::time::Duration;

use crate::{Classified, ErrorClass};

/// How often, and with which pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// In all; 1 means that nothing is tried again.
    pub tries: u32,
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// No pause of ours is longer.
    pub longest: Duration,
    /// A server that asks for a longer pause than this is not waited for.
    pub patience: Duration,
    /// Spreads the pauses of those who failed together; the same seed gives the same pauses.
    pub seed: u64,
}

impl Policy {
    /// For reads, which may be part of many: three tries within a second.
    pub const READ: Self = Self {
        tries: 3,
        first: Duration::from_millis(100),
        longest: Duration::from_millis(500),
        patience: Duration::from_secs(10),
        seed: 1,
    };

    /// For writes that an upgrade depends on: about half a minute.
    pub const WRITE: Self = Self {
        tries: 7,
        first: Duration::from_millis(250),
        longest: Duration::from_secs(10),
        patience: Duration::from_mins(1),
        seed: 1,
    };

    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The pause after the given number of failed tries; `None` when it is not worth another one.
    pub fn pause(&self, failed: u32, class: &ErrorClass) -> Option<Duration> {
        if failed >= self.tries || !class.is_transient() {
            return None;
        }
        let doubled = self
            .first
            .saturating_mul(1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX));
        let ours = doubled
            .min(self.longest)
            .mul_f64(0.5 + 0.5 * fraction(self.seed, failed));
        match class {
            ErrorClass::Throttled {
                retry_after: Some(asked),
            } if *asked > self.patience => None,
            // A little more than asked for, so that not everybody comes back at once.
            ErrorClass::Throttled {
                retry_after: Some(asked),
            } => Some(*asked + ours.min(Duration::from_secs(1))),
            _ => Some(ours),
        }
    }
}

/// Between 0 and 1 (splitmix64).
fn fraction(seed: u64, index: u32) -> f64 {
    let mut z = seed.wrapping_add(u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let high = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or_default();
    f64::from(high) / f64::from(u32::MAX)
}

/// Does `operation` until it succeeds, fails for a reason that stays, or was tried often enough; returns the last
/// result. `on_retry` hears of every failure that is followed by another try.
///
/// # Errors
/// The last error of `operation`.
pub async fn with_backoff<T, E, F>(
    policy: &Policy,
    mut operation: impl FnMut() -> F,
    mut on_retry: impl FnMut(&E, Duration),
) -> Result<T, E>
where
    E: Classified,
    F: Future<Output = Result<T, E>>,
{
    let mut failed = 0;
    loop {
        let error = match operation().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        failed += 1;
        let Some(pause) = policy.pause(failed, error.class()) else {
            return Err(error);
        };
        on_retry(&error, pause);
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;
    use crate::Failure;

    const POLICY: Policy = Policy {
        tries: 4,
        first: Duration::from_secs(1),
        longest: Duration::from_secs(3),
        patience: Duration::from_secs(30),
        seed: 7,
    };

    /// Fails as told, then succeeds; returns what came out, after how many tries, and how long it took.
    async fn run(failures: &[ErrorClass]) -> (bool, usize, Duration) {
        let tries = Cell::new(0);
        let started = Instant::now();
        let result = with_backoff(
            &POLICY,
            || {
                let failure = failures
                    .get(tries.get())
                    .map(|class| Failure::new(class.clone(), "no"));
                tries.set(tries.get() + 1);
                async move { failure.map_or(Ok(()), Err) }
            },
            |_, _| {},
        )
        .await;
        (result.is_ok(), tries.get(), started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn goes_by_the_class_of_the_error() {
        let unavailable = ErrorClass::Unavailable;
        let (ok, tries, took) = run(&[unavailable.clone(), unavailable.clone()]).await;
        assert!(ok && tries == 3);
        assert!((1.5..=3.01).contains(&took.as_secs_f64()), "{took:?}");

        let (ok, tries, _) = run(&vec![unavailable; 9]).await;
        assert!(!ok && tries == 4, "bounded");

        for class in [
            ErrorClass::Conflict,
            ErrorClass::Forbidden,
            ErrorClass::Invalid,
            ErrorClass::Unauthorized,
        ] {
            let (ok, tries, took) = run(&[class]).await;
            assert!(!ok && tries == 1 && took.is_zero());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_the_pause_that_the_server_asks_for() {
        let asked = |seconds| ErrorClass::Throttled {
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let (ok, tries, took) = run(&[asked(20)]).await;
        assert!(ok && tries == 2 && took >= Duration::from_secs(20), "{took:?}");
        let (ok, tries, took) = run(&[asked(3600)]).await;
        assert!(!ok && tries == 1 && took.is_zero(), "nobody waits an hour");
    }

    #[test]
    fn pauses_grow_are_bounded_and_differ_by_seed() {
        let policy = Policy {
            tries: 1000,
            ..POLICY
        };
        for seed in 0..200 {
            let policy = policy.with_seed(seed);
            for failed in 1..100 {
                let pause = policy.pause(failed, &ErrorClass::Unavailable).unwrap();
                assert!(pause >= policy.first / 2 && pause <= policy.longest, "{pause:?}");
            }
        }
        let first = |seed| policy.with_seed(seed).pause(1, &ErrorClass::Unavailable);
        assert_ne!(first(1), first(2));
        assert_eq!(first(1), first(1));
    }
}
