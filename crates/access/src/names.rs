//! [`Names`]: a set of names that may be everything but some.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A finite set of names, or everything but a finite set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "NamesText", into = "NamesText")]
pub enum Names {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
}

/// `["get","list"]`, `["*"]`, `{"allBut":["get"]}`
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NamesText {
    List(BTreeSet<String>),
    But {
        #[serde(rename = "allBut")]
        all_but: BTreeSet<String>,
    },
}

impl From<NamesText> for Names {
    fn from(text: NamesText) -> Self {
        match text {
            NamesText::List(names) => Self::pattern(&names),
            NamesText::But { all_but } => Names::NotIn(all_but),
        }
    }
}

impl From<Names> for NamesText {
    fn from(names: Names) -> Self {
        match names {
            Names::In(names) => NamesText::List(names),
            Names::NotIn(names) if names.is_empty() => NamesText::List(BTreeSet::from(["*".to_owned()])),
            Names::NotIn(all_but) => NamesText::But { all_but },
        }
    }
}

impl Names {
    pub const ALL: Names = Names::NotIn(BTreeSet::new());

    pub fn of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Names::In(names.into_iter().map(Into::into).collect())
    }

    /// A list of a rule in which `*` stands for everything.
    pub(crate) fn pattern<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        let names: BTreeSet<String> = names.into_iter().cloned().collect();
        if names.contains("*") {
            Self::ALL
        } else {
            Names::In(names)
        }
    }

    pub fn is_all(&self) -> bool {
        matches!(self, Names::NotIn(names) if names.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Names::In(names) if names.is_empty())
    }

    pub fn contains(&self, name: &str) -> bool {
        match self {
            Names::In(names) => names.contains(name),
            Names::NotIn(names) => !names.contains(name),
        }
    }

    /// Whether it is the set of this one name.
    pub(crate) fn is_only(&self, name: &str) -> bool {
        matches!(self, Names::In(names) if names.len() == 1 && names.contains(name))
    }

    fn complement(&self) -> Self {
        match self {
            Names::In(names) => Names::NotIn(names.clone()),
            Names::NotIn(names) => Names::In(names.clone()),
        }
    }

    pub fn intersection(&self, other: &Self) -> Self {
        match (self, other) {
            (Names::In(a), Names::In(b)) => Names::In(a.intersection(b).cloned().collect()),
            (Names::In(a), Names::NotIn(b)) | (Names::NotIn(b), Names::In(a)) => {
                Names::In(a.difference(b).cloned().collect())
            }
            (Names::NotIn(a), Names::NotIn(b)) => Names::NotIn(a.union(b).cloned().collect()),
        }
    }

    pub fn difference(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    pub fn union(&self, other: &Self) -> Self {
        self.complement().intersection(&other.complement()).complement()
    }

    pub fn is_disjoint(&self, other: &Self) -> bool {
        match (self, other) {
            (Names::In(a), Names::In(b)) => a.is_disjoint(b),
            (Names::In(a), Names::NotIn(b)) | (Names::NotIn(b), Names::In(a)) => a.is_subset(b),
            (Names::NotIn(_), Names::NotIn(_)) => false,
        }
    }

    /// The set as a rule writes it: `["*"]` or the names; `None` for everything but some.
    pub(crate) fn written(&self) -> Option<Vec<String>> {
        match self {
            Names::In(names) => Some(names.iter().cloned().collect()),
            Names::NotIn(names) if names.is_empty() => Some(vec!["*".to_owned()]),
            Names::NotIn(_) => None,
        }
    }

    /// `all verbs`, `all verbs but get`, `get, list`; `empty` stands for the empty name.
    pub(crate) fn describe(&self, what: &str, empty: &str) -> String {
        let list = |names: &BTreeSet<String>| {
            let names = names.iter().map(String::as_str);
            let names: Vec<_> = names
                .map(|name| if name.is_empty() { empty } else { name })
                .collect();
            names.join(", ")
        };
        match self {
            Names::In(names) => list(names),
            Names::NotIn(names) if names.is_empty() => format!("all {what}"),
            Names::NotIn(names) => format!("all {what} but {}", list(names)),
        }
    }
}
