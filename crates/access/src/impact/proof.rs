//! Whether what happened is what was announced.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::{Held, Scope, assess};
use crate::{
    Canonical, Catalog, Grant, Grants, MigrateOptions, Policy, Records,
    migrate::{judge_bindings, judge_roles},
    role::Releases,
    state::{Place, State, SubjectId},
};

/// Somebody's access by the bindings of a place differs from what the impact announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deviation {
    /// `User` or `Group`
    pub kind: String,
    pub name: String,
    pub scope: Scope,
    /// What they have, and should not.
    pub more: Vec<Grant>,
    /// What they should have, and do not.
    pub less: Vec<Grant>,
}

/// Numbers sets of requests by their one form.
#[derive(Default)]
struct Forms {
    numbers: HashMap<Canonical, usize>,
    grants: Vec<Grants>,
}

impl Forms {
    fn number(&mut self, grants: &Grants) -> usize {
        *self.numbers.entry(grants.canonical()).or_insert_with(|| {
            self.grants.push(grants.clone());
            self.grants.len() - 1
        })
    }

    fn all(&self, numbers: &BTreeSet<usize>) -> Grants {
        numbers.iter().map(|number| &self.grants[*number]).collect()
    }
}

/// Compares what people's bindings give after an upgrade with what was announced before it. Who was not bound before, or
/// is not any more, is left out: that was somebody's decision, or is a binding that is missed elsewhere. Built-in roles
/// that KubeSphere's controllers have not brought up to date yet count as announced.
pub fn deviations(
    before: &Records,
    after: &Records,
    from: &Catalog,
    to: &Catalog,
    policy: &Policy,
    options: MigrateOptions,
) -> Vec<Deviation> {
    let (before, after) = (State::new(before), State::new(after));
    let releases = Releases {
        from,
        to,
        policy,
        options,
    };
    let roles = judge_roles(&before, releases);
    let bindings = judge_bindings(&before, releases);
    let (_, assessment) = assess(&before, Held::new(&before), releases, &roles.changes, &bindings);

    let mut forms = Forms::default();
    let sides: Vec<usize> = assessment.sides().map(|grants| forms.number(grants)).collect();
    let mut rules: HashMap<usize, usize> = HashMap::new();
    let key = |binding: &crate::state::Binding<'_>| {
        let record = binding.record;
        (record.kind, record.namespace.to_string(), record.name.to_string())
    };
    // What every binding gives now.
    let now: HashMap<_, _> = after
        .bindings
        .iter()
        .filter_map(|binding| {
            let number = match binding.found.map(|place| &after.roles[place]) {
                None => forms.number(&Grants::default()),
                // What it gives nobody can tell; that is a finding of its own.
                Some(role) if role.set.error.is_some() => return None,
                Some(role) => *rules
                    .entry(role.record.rules)
                    .or_insert_with(|| forms.number(&Grants::of(role.rules()))),
            };
            Some((key(binding), (binding, number)))
        })
        .collect();

    type Sets = (BTreeSet<usize>, BTreeSet<usize>);
    let mut held: BTreeMap<(Place<'_>, SubjectId<'_>), Sets> = BTreeMap::new();
    for (index, binding) in before.bindings.iter().enumerate() {
        let (was, announced) = assessment.given(index);
        let found = now.get(&key(binding));
        let Some(announced) = announced else {
            // A redundant one is taken away; where it is still there, that shows in what it gives.
            continue;
        };
        let Some((there, number)) = found else { continue };
        let is_built_in = assessment.is_built_in_change(index);
        let expect = if is_built_in && *number == sides[was] {
            sides[was]
        } else {
            sides[announced]
        };
        for subject in binding.subjects().filter(SubjectId::is_person) {
            if there.subjects().any(|other| other == subject) {
                let sets = held.entry((binding.place, subject)).or_default();
                sets.0.insert(expect);
                sets.1.insert(*number);
            }
        }
    }
    let mut deviations = Vec::new();
    for ((place, subject), (expect, is)) in held {
        if expect == is {
            continue;
        }
        let (expect, is) = (forms.all(&expect), forms.all(&is));
        let (more, less) = (is.difference(&expect), expect.difference(&is));
        if more.is_empty() && less.is_empty() {
            continue;
        }
        deviations.push(Deviation {
            kind: subject.kind.to_owned(),
            name: subject.name.to_owned(),
            scope: before.scope(place),
            more: more.simplified(),
            less: less.simplified(),
        });
    }
    deviations
}
