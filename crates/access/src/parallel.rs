//! Work on long lists that is shared among the processors. What comes out does not depend on how many there are.

use std::{
    panic,
    sync::{Mutex, PoisonError},
    thread,
};

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Hands each item to whichever processor is free.
fn hand_out<T: Send>(items: impl ExactSizeIterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    let others = processors().min(items.len()).saturating_sub(1);
    let items = Mutex::new(items);
    let take = || {
        loop {
            // Only taken for as long as it takes to get the next.
            let item = items.lock().unwrap_or_else(PoisonError::into_inner).next();
            match item {
                Some(item) => work(item),
                None => return,
            }
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (0..others).map(|_| scope.spawn(take)).collect();
        take();
        for other in others {
            if let Err(panic) = other.join() {
                panic::resume_unwind(panic);
            }
        }
    });
}

/// Does something with each item of a list, and gives what came out in the list's order.
pub(crate) fn map<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let mut done: Vec<Option<R>> = all.iter().map(|_| None).collect();
    // Small shares, so that no processor waits long for another.
    let share = all.len().div_ceil(processors() * 8).max(16);
    hand_out(
        all.chunks(share).zip(done.chunks_mut(share)),
        |(items, places)| {
            for (item, place) in items.iter().zip(places) {
                *place = Some(work(item));
            }
        },
    );
    // Stays where it is in memory.
    done.into_iter().flatten().collect()
}

/// Sorts by a key; equal ones keep their order.
pub(crate) fn sort_by_key<T: Send, K: Ord>(all: &mut [T], key: impl Fn(&T) -> K + Sync) {
    let share = all.len().div_ceil(processors()).max(4096);
    hand_out(all.chunks_mut(share), |share| share.sort_by_key(&key));
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
