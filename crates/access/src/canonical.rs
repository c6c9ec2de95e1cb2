//! [`Canonical`]: the one form of a set of requests.
//!
//! Two lists of grants can say the same in many ways. The canonical form is a decision diagram over the parts of a
//! request in a fixed order. Of each part it knows the names that grants mention, and all others as one. Names after
//! which the same follows stand together, and nothing follows nothing; so the form depends on the set alone, and equal
//! sets have equal forms. Written out it is a list of grants that have nothing in common, in a fixed order.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Grant, Grants, Names, UrlPattern,
    grant::{ResourceGrant, UrlGrant},
};

/// A set of requests in its one form: equal sets are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Canonical(Vec<Grant>);

impl Canonical {
    /// Disjoint grants, sorted.
    pub fn grants(&self) -> &[Grant] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&Canonical> for Grants {
    fn from(canonical: &Canonical) -> Self {
        canonical.0.iter().cloned().collect()
    }
}

impl Grants {
    /// The set in its one form.
    pub fn canonical(&self) -> Canonical {
        let (mut resources, mut urls) = (Vec::new(), Vec::new());
        for grant in self.iter() {
            match grant {
                Grant::Resources(grant) => resources.push(grant),
                Grant::Urls(grant) => urls.push(grant),
            }
        }
        let mut all: Vec<Grant> = products(&resources).map(Grant::Resources).collect();
        all.extend(paths_by_verbs(&urls).into_iter().map(Grant::Urls));
        all.sort();
        Canonical(all)
    }
}

/// What can follow in a diagram: products of the sets that are left, sorted.
type Rest = Rc<Vec<Vec<Names>>>;

/// Groups the names that sets mention, and all others, by what follows each. `at` gives what follows for the members of
/// a choice of sets; nothing is left out.
fn by_what_follows<T: Ord + Clone>(
    sets: &[(usize, &Names)],
    mut at: impl FnMut(Vec<usize>) -> Option<T>,
) -> BTreeMap<T, Names> {
    let mentioned: BTreeSet<&Arc<str>> = sets.iter().flat_map(|(_, names)| names.mentioned()).collect();
    let chosen = |name: Option<&str>| -> Vec<usize> {
        let holds = |names: &Names| match name {
            Some(name) => names.contains(name),
            // A name that nobody mentions is in what leaves out others.
            None => names.finite().is_none(),
        };
        let chosen = sets.iter().filter(|(_, names)| holds(names));
        chosen.map(|(index, _)| *index).collect()
    };
    let others = at(chosen(None));
    let mut groups: BTreeMap<T, Vec<&Arc<str>>> = BTreeMap::new();
    let mut not_others: Vec<&Arc<str>> = Vec::new();
    for name in mentioned {
        let follows = at(chosen(Some(name)));
        if follows == others {
            continue;
        }
        not_others.push(name);
        if let Some(follows) = follows {
            groups.entry(follows).or_default().push(name);
        }
    }
    let mut result: BTreeMap<T, Names> = groups
        .into_iter()
        .map(|(follows, names)| (follows, Names::of(names)))
        .collect();
    if let Some(others) = others {
        result.insert(others, Names::all_but(not_others));
    }
    result
}

fn products(grants: &[&ResourceGrant]) -> impl Iterator<Item = ResourceGrant> {
    let sets: Vec<[&Names; 5]> = grants.iter().map(|grant| grant.sets()).collect();
    let mut known = HashMap::new();
    let all = diagram(&sets, 0, (0..grants.len()).collect(), &mut known);
    let all = all.map(|all| all.to_vec()).unwrap_or_default();
    all.into_iter().filter_map(|mut product| {
        // Each set was put behind those that follow it.
        product.reverse();
        Some(ResourceGrant::from_sets(product.try_into().ok()?))
    })
}

/// What is allowed from a part of the request on, if any of the chosen grants holds; `None`: nothing.
fn diagram(
    sets: &[[&Names; 5]],
    part: usize,
    chosen: Vec<usize>,
    known: &mut HashMap<(usize, Vec<usize>), Option<Rest>>,
) -> Option<Rest> {
    if chosen.is_empty() {
        return None;
    }
    if part == 5 {
        return Some(Rc::new(vec![Vec::new()]));
    }
    let key = (part, chosen);
    if let Some(rest) = known.get(&key) {
        return rest.clone();
    }
    let here: Vec<(usize, &Names)> = key.1.iter().map(|index| (*index, sets[*index][part])).collect();
    let groups = by_what_follows(&here, |chosen| diagram(sets, part + 1, chosen, known));
    let mut all: Vec<Vec<Names>> = Vec::new();
    for (follows, names) in groups {
        for product in follows.iter() {
            let mut product = product.clone();
            product.push(names.clone());
            all.push(product);
        }
    }
    all.sort();
    let rest = (!all.is_empty()).then(|| Rc::new(all));
    known.insert(key, rest.clone());
    rest
}

/// Where a set of paths begins or ends: at a prefix or an exact path, with what holds from there on.
type Turns = BTreeMap<UrlPattern, bool>;

fn paths_by_verbs(grants: &[&UrlGrant]) -> Vec<UrlGrant> {
    let sets: Vec<(usize, &Names)> = grants.iter().map(|grant| &grant.verbs).enumerate().collect();
    let groups = by_what_follows(&sets, |chosen| {
        let turns = turns(&chosen.into_iter().map(|index| grants[index]).collect::<Vec<_>>());
        (!turns.is_empty()).then_some(turns)
    });
    let mut all = Vec::new();
    for (turns, verbs) in groups {
        for (url, holds) in &turns {
            if *holds {
                all.push(UrlGrant {
                    verbs: verbs.clone(),
                    url: url.clone(),
                    except: turns
                        .iter()
                        .filter(|(inner, holds)| !**holds && around(&turns, inner) == Some(url))
                        .map(|(inner, _)| inner.clone())
                        .collect(),
                });
            }
        }
    }
    all
}

/// The nearest turn around another one.
fn around<'t>(turns: &'t Turns, inner: &UrlPattern) -> Option<&'t UrlPattern> {
    let length = |pattern: &UrlPattern| match pattern {
        UrlPattern::Exact(path) | UrlPattern::Prefix(path) => path.len(),
    };
    turns
        .keys()
        .filter(|outer| *outer != inner && outer.covers(inner))
        .max_by_key(|outer| length(outer))
}

fn turns(grants: &[&UrlGrant]) -> Turns {
    // What holds for almost all paths with a prefix.
    let beyond = |prefix: &str| {
        let covers = |pattern: &UrlPattern| match pattern {
            UrlPattern::Prefix(outer) => prefix.starts_with(outer.as_str()),
            UrlPattern::Exact(_) => false,
        };
        grants
            .iter()
            .any(|grant| covers(&grant.url) && !grant.except.iter().any(covers))
    };
    let at = |path: &str| {
        grants
            .iter()
            .any(|grant| grant.url.matches(path) && !grant.except.iter().any(|except| except.matches(path)))
    };
    let mut turns = Turns::new();
    for pattern in grants
        .iter()
        .flat_map(|grant| grant.except.iter().chain([&grant.url]))
    {
        let turn = match pattern {
            UrlPattern::Prefix(prefix) => {
                let mut shorter = prefix.chars();
                let before = shorter.next_back().is_some() && beyond(shorter.as_str());
                Some(beyond(prefix)).filter(|holds| *holds != before)
            }
            UrlPattern::Exact(path) => Some(at(path)).filter(|holds| *holds != beyond(path)),
        };
        if let Some(holds) = turn {
            turns.insert(pattern.clone(), holds);
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::subsequence};

    use super::*;
    use crate::Rule;

    fn any_rule() -> impl Strategy<Value = Rule> {
        let list = |items: &'static [&'static str]| {
            let strategy = subsequence(items.to_vec(), 0..=items.len());
            strategy.prop_map(|items| items.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        (
            list(&["", "iam", "*"]),
            list(&["users", "roles", "users/password", "*/status", "*"]),
            list(&["a", "b"]),
            list(&["/api", "/api*", "/api/v1", "/api/v*", "*"]),
            list(&["get", "create", "*"]),
        )
            .prop_map(
                |(api_groups, resources, resource_names, non_resource_urls, verbs)| Rule {
                    api_groups,
                    resources,
                    resource_names,
                    non_resource_urls,
                    verbs,
                },
            )
    }

    fn any_grants() -> impl Strategy<Value = Grants> {
        let rules = || prop::collection::vec(any_rule(), 0..4);
        (rules(), rules()).prop_map(|(a, b)| Grants::of(&a).difference(&Grants::of(&b)))
    }

    proptest! {
        #[test]
        fn equal_sets_have_one_form(a in any_grants(), b in any_grants()) {
            let form = a.canonical();
            prop_assert!(Grants::from(&form).equals(&a));
            // The form of the form, and of the set put together otherwise.
            prop_assert_eq!(&Grants::from(&form).canonical(), &form);
            let pieces = a.difference(&b).union(&a.intersection(&b));
            prop_assert_eq!(&pieces.canonical(), &form);
            let simple: Grants = pieces.simplified().into_iter().rev().collect();
            prop_assert_eq!(&simple.canonical(), &form);
            prop_assert_eq!(form == b.canonical(), a.equals(&b));
        }

        #[test]
        fn its_grants_have_nothing_in_common(a in any_grants()) {
            let form = a.canonical();
            for (i, one) in form.grants().iter().enumerate() {
                for other in &form.grants()[..i] {
                    prop_assert!(one.is_disjoint(other), "{} and {}", one, other);
                }
            }
        }
    }

    #[test]
    fn the_same_in_other_words_is_the_same() {
        let rule = |resources: &[&str], verbs: &[&str]| Rule {
            api_groups: vec!["*".into()],
            resources: resources.iter().map(|r| (*r).to_owned()).collect(),
            verbs: verbs.iter().map(|v| (*v).to_owned()).collect(),
            ..Rule::default()
        };
        let check = |a: &[Rule], b: &[Rule]| assert_eq!(Grants::of(a).canonical(), Grants::of(b).canonical());
        check(
            &[rule(&["a", "b"], &["get"])],
            &[rule(&["b"], &["get"]), rule(&["a"], &["get"])],
        );
        check(
            &[rule(&["*"], &["*"]), rule(&["a"], &["get"])],
            &[rule(&["*"], &["*"])],
        );
        check(
            &[rule(&["a"], &["get", "list"]), rule(&["b"], &["list"])],
            &[rule(&["a"], &["get"]), rule(&["a", "b"], &["list"])],
        );
    }
}
