//! Which request meets which fault.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::faults::call::{Call, Verb};
use crate::faults::layer::{Faulty, Fired, Tally};

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks before the request is carried out.
    Drop,
    /// The request is carried out, but the connection breaks before the answer is there.
    LoseAnswer,
    /// The request arrives late.
    Delay(Duration),
    /// The request is carried out at once, and the answer comes late.
    DelayAnswer(Duration),
    /// The API server refuses.
    Refuse(Refusal),
    /// The watch ends after so many pieces of its answer.
    CutWatch { pieces: usize },
    /// The client ends here, as a process that is killed: this request and all later ones come to nothing.
    Stop(Moment),
}

/// When a client that is stopped at a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The request is not carried out any more.
    Before,
    /// The request is carried out, its answer is not heard.
    AfterEffect,
}

/// How the API server refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 429 with a `Retry-After` in seconds.
    TooManyRequests { retry_after: u32 },
    /// 500, as when etcd changes its leader.
    Internal,
    /// 503, as while the API server shuts down.
    Unavailable,
    /// 409, as when somebody else has written the object meanwhile.
    Conflict,
}

/// Requests by what they are about. What is `None` does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pick {
    pub verb: Option<Verb>,
    /// `deployments.apps`, `pods`
    pub resource: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    /// Only writes.
    pub writes: bool,
}

impl Pick {
    fn matches(&self, call: &Call) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        self.verb.is_none_or(|verb| verb == call.verb)
            && same(&self.resource, &call.resource)
            && same(&self.namespace, &call.namespace)
            && same(&self.name, &call.name)
            && (!self.writes || call.write.is_some())
    }
}

#[derive(Debug, Clone)]
enum On {
    Request(u64),
    Write(u64),
    Matching { pick: Pick, skip: u64, times: u64 },
}

/// One fault, and the request that it hits.
#[derive(Debug, Clone)]
pub struct Rule {
    on: On,
    fault: Fault,
}

impl Rule {
    /// Hits the n-th request of all, from 1.
    pub fn request(number: u64, fault: Fault) -> Rule {
        let on = On::Request(number);
        Rule { on, fault }
    }

    /// Hits the n-th write, from 1. Dry runs and reviews are none.
    pub fn write(number: u64, fault: Fault) -> Rule {
        let on = On::Write(number);
        Rule { on, fault }
    }

    /// Hits the first request of this sort.
    pub fn first(pick: Pick, fault: Fault) -> Rule {
        Rule::some(pick, 0, 1, fault)
    }

    /// Hits every request of this sort.
    pub fn every(pick: Pick, fault: Fault) -> Rule {
        Rule::some(pick, 0, u64::MAX, fault)
    }

    /// Hits some requests of this sort: so many after the first so many.
    pub fn some(pick: Pick, skip: u64, times: u64, fault: Fault) -> Rule {
        let on = On::Matching { pick, skip, times };
        Rule { on, fault }
    }

    /// Whether it hits a request; counts those of its sort.
    fn hits(&mut self, call: &Call) -> bool {
        match &mut self.on {
            On::Request(number) => *number == call.number,
            On::Write(number) => call.write == Some(*number),
            On::Matching { pick, skip, times } => {
                if !pick.matches(call) {
                    return false;
                }
                if *skip > 0 {
                    *skip -= 1;
                    return false;
                }
                if *times == 0 {
                    return false;
                }
                *times -= 1;
                true
            }
        }
    }
}

/// How many of a thousand requests meet which fault, by the dice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mix {
    pub drop: u32,
    /// Writes only.
    pub lose_answer: u32,
    pub delay: u32,
    pub delay_answer: u32,
    pub too_many_requests: u32,
    pub internal: u32,
    pub unavailable: u32,
    /// Updates, patches and deletions only.
    pub conflict: u32,
    /// Watches only.
    pub cut_watch: u32,
    /// Writes only: the client ends there, before or after the effect.
    pub stop: u32,
    /// The longest delay.
    pub longest: Duration,
    /// The longest `Retry-After`, in seconds.
    pub retry_after: u32,
}

impl Mix {
    /// The fault that a request meets; the same for the same seed and position.
    fn draw(&self, seed: u64, call: &Call) -> Option<Fault> {
        let mut dice = Dice(seed ^ call.number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let is_write = call.write.is_some();
        let on_object = matches!(call.verb, Verb::Update | Verb::Patch | Verb::Delete);
        let mut left = dice.below(1000);
        let mut hit = |rate: u32, applies: bool| {
            if !applies {
                return false;
            }
            let hit = left < u64::from(rate);
            left = left.saturating_sub(u64::from(rate));
            // What is left after a hit no longer matters.
            hit
        };
        let hits = [
            hit(self.drop, true),
            hit(self.lose_answer, is_write),
            hit(self.delay, true),
            hit(self.delay_answer, true),
            hit(self.too_many_requests, true),
            hit(self.internal, true),
            hit(self.unavailable, true),
            hit(self.conflict, is_write && on_object),
            hit(self.cut_watch, call.verb == Verb::Watch),
            hit(self.stop, is_write),
        ];
        let first = hits.iter().position(|hit| *hit)?;
        let milliseconds = u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX);
        let mut delay = || Duration::from_millis(dice.below(milliseconds.saturating_add(1)));
        Some(match first {
            0 => Fault::Drop,
            1 => Fault::LoseAnswer,
            2 => Fault::Delay(delay()),
            3 => Fault::DelayAnswer(delay()),
            4 => Fault::Refuse(Refusal::TooManyRequests {
                retry_after: 1 + u32::try_from(dice.below(self.retry_after.max(1).into()))
                    .unwrap_or_default(),
            }),
            5 => Fault::Refuse(Refusal::Internal),
            6 => Fault::Refuse(Refusal::Unavailable),
            7 => Fault::Refuse(Refusal::Conflict),
            8 => Fault::CutWatch {
                pieces: usize::try_from(dice.below(4)).unwrap_or_default(),
            },
            _ if dice.below(2) == 0 => Fault::Stop(Moment::Before),
            _ => Fault::Stop(Moment::AfterEffect),
        })
    }
}

/// splitmix64
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        let mut mixed = 0;
        // Twice, so that neighbouring seeds share nothing.
        for _ in 0..2 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
        }
        mixed % bound.max(1)
    }
}

#[derive(Debug)]
struct Script {
    rules: Vec<Rule>,
    dice: Option<(u64, Mix)>,
    tally: Tally,
    stopped: bool,
}

/// A tower layer that makes requests go wrong. Clones share the script and the counts.
#[derive(Debug, Clone)]
pub struct Faults(Arc<Mutex<Script>>);

impl Faults {
    /// Nothing goes wrong; requests are counted.
    pub fn none() -> Faults {
        Faults::scripted([])
    }

    /// Where several rules hit the same request, the first one counts.
    pub fn scripted(rules: impl IntoIterator<Item = Rule>) -> Faults {
        Faults::new(rules.into_iter().collect(), None)
    }

    /// Faults by the dice; the same for the same seed and the same order of requests.
    pub fn seeded(seed: u64, mix: Mix) -> Faults {
        Faults::new(Vec::new(), Some((seed, mix)))
    }

    fn new(rules: Vec<Rule>, dice: Option<(u64, Mix)>) -> Faults {
        Faults(Arc::new(Mutex::new(Script {
            rules,
            dice,
            tally: Tally::default(),
            stopped: false,
        })))
    }

    /// How many requests came, and what went wrong with them.
    pub fn tally(&self) -> Tally {
        self.script().tally.clone()
    }

    /// Whether the client was stopped.
    pub fn is_stopped(&self) -> bool {
        self.script().stopped
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request and says what becomes of it.
    pub(crate) fn meet(&self, call: &mut Call) -> Option<Fault> {
        let mut script = self.script();
        if script.stopped {
            return Some(Fault::Stop(Moment::Before));
        }
        script.tally.requests += 1;
        call.number = script.tally.requests;
        if call.write.is_some() {
            script.tally.writes += 1;
            call.write = Some(script.tally.writes);
        }
        // Every rule sees every request, since some of them count.
        let mut hit = None;
        for rule in &mut script.rules {
            if rule.hits(call) && hit.is_none() {
                hit = Some(rule.fault.clone());
            }
        }
        let drawn = || script.dice.as_ref().and_then(|(seed, mix)| mix.draw(*seed, call));
        let fault = hit.or_else(drawn)?;
        script.stopped = matches!(fault, Fault::Stop(_));
        script.tally.fired.push(Fired {
            call: call.clone(),
            fault: fault.clone(),
        });
        Some(fault)
    }
}

impl<S> tower::Layer<S> for Faults {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty::new(inner, self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_call(number: u64, verb: Verb) -> Call {
        Call {
            number,
            write: matches!(verb, Verb::Create | Verb::Update | Verb::Patch | Verb::Delete).then_some(0),
            verb,
            resource: "pods".into(),
            namespace: "n".into(),
            name: "p".into(),
            subresource: String::new(),
        }
    }

    #[test]
    fn the_dice_fall_as_often_as_they_should_and_the_same_again() {
        let mix = Mix {
            drop: 50,
            conflict: 100,
            stop: 1,
            longest: Duration::from_secs(1),
            ..Mix::default()
        };
        let draws = |verb| -> Vec<_> { (1..=20_000).map(|n| mix.draw(7, &mk_call(n, verb))).collect() };
        let patches = draws(Verb::Patch);
        assert_eq!(patches, draws(Verb::Patch));
        let share = |draws: &[Option<Fault>], fault: &Fault| {
            draws.iter().filter(|drawn| drawn.as_ref() == Some(fault)).count()
        };
        let conflict = Fault::Refuse(Refusal::Conflict);
        assert!((800..1200).contains(&share(&patches, &Fault::Drop)));
        assert!((1800..2200).contains(&share(&patches, &conflict)));
        assert!(
            (1..60).contains(
                &patches
                    .iter()
                    .flatten()
                    .filter(|f| matches!(f, Fault::Stop(_)))
                    .count()
            )
        );
        let reads = draws(Verb::Get);
        assert!((800..1200).contains(&share(&reads, &Fault::Drop)));
        assert!(reads.iter().flatten().all(|fault| *fault == Fault::Drop));
    }

    #[test]
    fn rules_count_the_requests_of_their_sort() {
        let writes = Pick {
            writes: true,
            ..Pick::default()
        };
        let faults = Faults::scripted([
            Rule::request(1, Fault::Drop),
            Rule::write(2, Fault::LoseAnswer),
            Rule::some(writes, 2, 1, Fault::Refuse(Refusal::Internal)),
        ]);
        let meet = |verb| faults.meet(&mut mk_call(0, verb));
        assert_eq!(meet(Verb::Get), Some(Fault::Drop));
        assert_eq!(meet(Verb::Patch), None);
        assert_eq!(meet(Verb::Get), None);
        assert_eq!(meet(Verb::Create), Some(Fault::LoseAnswer));
        assert_eq!(meet(Verb::Delete), Some(Fault::Refuse(Refusal::Internal)));
        assert_eq!(meet(Verb::Delete), None);
        let tally = faults.tally();
        assert_eq!((tally.requests, tally.writes, tally.fired.len()), (6, 4, 3));
    }
}
