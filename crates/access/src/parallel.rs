//! Work on long lists that is shared among the processors. What comes out does not depend on how many there are.

use std::{
    panic,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// Does something with each share of a list, and gives what came out in the list's order. The work is told the place of
/// the share's first item. Shares are small, so that no processor waits long for another; but not below `least` items.
pub(crate) fn in_shares<T: Sync, R: Send>(
    all: &[T],
    least: usize,
    work: impl Fn(usize, &[T]) -> R + Sync,
) -> Vec<R> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let size = all.len().div_ceil(processors * 8).max(least).max(1);
    let shares: Vec<&[T]> = all.chunks(size).collect();
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(share) = shares.get(number) else {
                return done;
            };
            done.push((number, work(number * size, share)));
        }
    };
    thread::scope(|scope| {
        let others = processors.min(shares.len());
        let others: Vec<_> = (1..others).map(|_| scope.spawn(take)).collect();
        let mut done = take();
        for other in others {
            match other.join() {
                Ok(others) => done.extend(others),
                Err(panic) => panic::resume_unwind(panic),
            }
        }
        done.sort_unstable_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, outcome)| outcome).collect()
    })
}

/// The same for each item.
pub(crate) fn map<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let shares = in_shares(all, 16, |_, share| share.iter().map(&work).collect::<Vec<_>>());
    shares.into_iter().flatten().collect()
}

/// Sorts by a key; equal ones keep their order.
pub(crate) fn sort_by_key<T: Send, K: Ord>(all: &mut [T], key: impl Fn(&T) -> K + Sync) {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let size = all.len().div_ceil(processors).max(4096);
    if all.len() > size {
        thread::scope(|scope| {
            for share in all.chunks_mut(size) {
                scope.spawn(|| share.sort_by_key(&key));
            }
        });
    }
    // Finds the sorted shares, and only merges them.
    all.sort_by_key(key);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept() {
        let numbers: Vec<usize> = (0..100_000).collect();
        let squares = map(&numbers, |number| number * number);
        assert!(
            squares
                .iter()
                .enumerate()
                .all(|(place, square)| *square == place * place)
        );
        let firsts = in_shares(&numbers, 1, |first, share| (first, share[0]));
        assert!(firsts.iter().all(|(first, number)| first == number));
        assert!(map(&numbers[..0], |number| *number).is_empty());
    }

    #[test]
    fn equal_ones_keep_their_order() {
        let mut pairs: Vec<(usize, usize)> = (0..50_000).map(|place| (place * 7919 % 13, place)).collect();
        let mut expect = pairs.clone();
        expect.sort_by_key(|(key, _)| *key);
        sort_by_key(&mut pairs, |(key, _)| *key);
        assert_eq!(pairs, expect);
    }
}
