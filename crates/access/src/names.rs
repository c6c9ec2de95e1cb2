//! [`Names`]: a set of names that may be everything but some.

use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Serialize};

use crate::hash::FastHasher;

type List = Arc<[Arc<str>]>;

static NOTHING: LazyLock<List> = LazyLock::new(|| Arc::from([]));

/// A finite set of names, or everything but a finite set. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "NamesText", into = "NamesText")]
pub struct Names {
    is_all_but: bool,
    /// A bit for each name of the list, which others may have too. Most sets that differ differ here, and are told
    /// apart without a look at the names.
    bits: u64,
    /// Sorted, each once.
    list: List,
}

impl PartialOrd for Names {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Names {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.is_all_but, &self.list).cmp(&(other.is_all_but, &other.list))
    }
}

impl Hash for Names {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The names themselves would tell few more apart.
        (self.is_all_but, self.bits, self.list.len()).hash(state);
    }
}

/// One of 64 bits.
fn bit(name: &str) -> u64 {
    let mut hasher = FastHasher::default();
    hasher.write(name.as_bytes());
    1 << (hasher.finish() >> 58)
}

fn bits(list: &[Arc<str>]) -> u64 {
    list.iter().fold(0, |bits, name| bits | bit(name))
}

/// `["get","list"]`, `["*"]`, `{"allBut":["get"]}`
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NamesText {
    List(Vec<String>),
    But {
        #[serde(rename = "allBut")]
        all_but: Vec<String>,
    },
}

impl From<NamesText> for Names {
    fn from(text: NamesText) -> Self {
        match text {
            NamesText::List(names) => Self::pattern(&names),
            NamesText::But { all_but } => Self::all_but(&all_but),
        }
    }
}

impl From<Names> for NamesText {
    fn from(names: Names) -> Self {
        let list = names.list.iter().map(ToString::to_string).collect();
        match names.written() {
            Some(list) => NamesText::List(list),
            None => NamesText::But { all_but: list },
        }
    }
}

/// Goes through two sorted lists, and keeps what `is_kept(in_a, in_b)` says.
fn merge(a: &List, b: &List, is_kept: impl Fn(bool, bool) -> bool) -> List {
    if Arc::ptr_eq(a, b) {
        return if is_kept(true, true) {
            Arc::clone(a)
        } else {
            Arc::clone(&NOTHING)
        };
    }
    let mut kept: Vec<&Arc<str>> = Vec::new();
    let (mut kept_of_a, mut kept_of_b) = (0, 0);
    let (mut left, mut right) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(next), Some(other)) => next.cmp(other),
        };
        let in_a = (order != Ordering::Greater).then(|| left.next()).flatten();
        let in_b = (order != Ordering::Less).then(|| right.next()).flatten();
        if is_kept(in_a.is_some(), in_b.is_some()) {
            kept_of_a += usize::from(in_a.is_some());
            kept_of_b += usize::from(in_b.is_some());
            kept.extend(in_a.or(in_b));
        }
    }
    // A result that equals one of the lists shares it.
    for (list, kept_of_it) in [(a, kept_of_a), (b, kept_of_b)] {
        if kept.len() == list.len() && kept.len() == kept_of_it {
            return Arc::clone(list);
        }
    }
    kept.into_iter().cloned().collect()
}

impl Names {
    pub fn all() -> Self {
        Self {
            is_all_but: true,
            bits: 0,
            list: Arc::clone(&NOTHING),
        }
    }

    fn none() -> Self {
        Self::all().complement()
    }

    pub fn of<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        let mut list: Vec<Arc<str>> = names.into_iter().map(|name| name.as_ref().into()).collect();
        list.sort();
        list.dedup();
        Self {
            is_all_but: false,
            bits: bits(&list),
            list: list.into(),
        }
    }

    pub fn all_but<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        Self {
            is_all_but: true,
            ..Self::of(names)
        }
    }

    /// A list of a rule in which `*` stands for everything.
    pub(crate) fn pattern(names: &[String]) -> Self {
        if names.iter().any(|name| name == "*") {
            Self::all()
        } else {
            Self::of(names)
        }
    }

    pub fn is_all(&self) -> bool {
        self.is_all_but && self.list.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        !self.is_all_but && self.list.is_empty()
    }

    fn lists(&self, name: &str) -> bool {
        self.bits & bit(name) != 0 && self.list.binary_search_by(|item| (**item).cmp(name)).is_ok()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.lists(name) != self.is_all_but
    }

    /// The names that it lists, or leaves out.
    pub(crate) fn mentioned(&self) -> &[Arc<str>] {
        &self.list
    }

    /// The names of a finite set.
    pub(crate) fn finite(&self) -> Option<&[Arc<str>]> {
        (!self.is_all_but).then_some(&self.list)
    }

    /// Whether it is the set of this one name.
    pub(crate) fn is_only(&self, name: &str) -> bool {
        !self.is_all_but && self.is_about(name)
    }

    /// Whether it is everything but this one name.
    pub(crate) fn is_all_but_only(&self, name: &str) -> bool {
        self.is_all_but && self.is_about(name)
    }

    fn is_about(&self, name: &str) -> bool {
        self.list.len() == 1 && &*self.list[0] == name
    }

    fn complement(&self) -> Self {
        Self {
            is_all_but: !self.is_all_but,
            list: Arc::clone(&self.list),
            ..*self
        }
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let (a, b) = (self.is_all_but, other.is_all_but);
        if self.bits & other.bits == 0 && !(a && b) {
            // The lists have nothing in common.
            return match (a, b) {
                (true, _) => other.clone(),
                (_, true) => self.clone(),
                (false, false) => Self::none(),
            };
        }
        let is_all_but = a && b;
        // A name is in a set that lists it, or in one that leaves out others.
        let list = merge(&self.list, &other.list, |in_a, in_b| {
            ((in_a != a) && (in_b != b)) != is_all_but
        });
        let known = [self, other]
            .into_iter()
            .find(|set| Arc::ptr_eq(&set.list, &list));
        Self {
            is_all_but,
            bits: known.map_or_else(|| bits(&list), |set| set.bits),
            list,
        }
    }

    pub fn difference(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    pub fn union(&self, other: &Self) -> Self {
        self.complement().intersection(&other.complement()).complement()
    }

    /// Whether a glance is enough to see that two sets have nothing in common.
    pub(crate) fn looks_disjoint(&self, other: &Self) -> bool {
        !self.is_all_but && !other.is_all_but && self.bits & other.bits == 0
    }

    pub fn is_disjoint(&self, other: &Self) -> bool {
        match (self.is_all_but, other.is_all_but) {
            (true, true) => false,
            (false, true) => self.bits & !other.bits == 0 && self.list.iter().all(|name| other.lists(name)),
            (true, false) => other.is_disjoint(self),
            (false, false) if self.list.len() > other.list.len() => other.is_disjoint(self),
            (false, false) => self.bits & other.bits == 0 || !self.list.iter().any(|name| other.lists(name)),
        }
    }

    /// The set as a rule writes it: `["*"]` or the names; `None` for everything but some.
    pub(crate) fn written(&self) -> Option<Vec<String>> {
        if self.is_all() {
            return Some(vec!["*".to_owned()]);
        }
        self.finite()
            .map(|names| names.iter().map(ToString::to_string).collect())
    }

    /// `a, b`; `empty` stands for the empty name.
    pub(crate) fn join(&self, empty: &str) -> String {
        let names = self
            .list
            .iter()
            .map(|name| if name.is_empty() { empty } else { name });
        names.collect::<Vec<_>>().join(", ")
    }

    /// `all verbs`, `all verbs but get`, `get, list`; `empty` stands for the empty name.
    pub(crate) fn describe(&self, what: &str, empty: &str) -> String {
        match (self.is_all_but, self.list.is_empty()) {
            (false, _) => self.join(empty),
            (true, true) => format!("all {what}"),
            (true, false) => format!("all {what} but {}", self.join(empty)),
        }
    }
}
