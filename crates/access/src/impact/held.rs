//! Who holds which bindings where.
//!
//! Subjects and places are numbered in their own order, so that a large cluster's can be sorted and looked up quickly.

use std::hash::Hash;

use crate::{
    hash::FastMap,
    state::{Place, State, SubjectId},
};

/// A place in [`Held::subjects`].
pub(super) type SubjectNumber = usize;
/// A place in [`Held::places`].
pub(super) type PlaceNumber = usize;

/// Everyone who is logged in.
const AUTHENTICATED: &str = "system:authenticated";

pub(crate) struct Held<'a> {
    /// Sorted: all that bindings and groups name.
    pub(super) subjects: Vec<SubjectId<'a>>,
    /// Sorted: all that have bindings.
    pub(super) places: Vec<Place<'a>>,
    /// For each place: the platform, the cluster and the workspace around it, where they have bindings.
    pub(super) wider: Vec<[Option<PlaceNumber>; 3]>,
    /// The subject that everyone who is logged in is.
    pub(super) everyone: Option<SubjectNumber>,
    /// For each user, the groups.
    groups: FastMap<SubjectNumber, Vec<SubjectNumber>>,
    /// For each group, the users.
    members: FastMap<SubjectNumber, Vec<SubjectNumber>>,
    /// Where each subject's part of the list begins, and where the last one's ends.
    starts: Vec<usize>,
    /// Places and bindings, by subject.
    list: Vec<(PlaceNumber, usize)>,
}

/// Numbers things, first as they come.
struct Numbering<T>(FastMap<T, usize>);

impl<T: Copy + Ord + Hash> Numbering<T> {
    fn number(&mut self, thing: T) -> usize {
        let next = self.0.len();
        *self.0.entry(thing).or_insert(next)
    }

    /// The things in their own order; and for each number the one that it becomes.
    fn sort(&mut self) -> (Vec<T>, Vec<usize>) {
        let mut sorted: Vec<(T, usize)> = self.0.drain().collect();
        sorted.sort_unstable();
        let mut becomes = vec![0; sorted.len()];
        for (place, (thing, number)) in sorted.iter().enumerate() {
            becomes[*number] = place;
            self.0.insert(*thing, place);
        }
        (sorted.into_iter().map(|(thing, _)| thing).collect(), becomes)
    }
}

impl<'a> Held<'a> {
    pub(crate) fn new(state: &State<'a>) -> Self {
        let mut subjects = Numbering(FastMap::default());
        let mut places = Numbering(FastMap::default());
        let mut all: Vec<(SubjectNumber, PlaceNumber, usize)> = Vec::with_capacity(state.bindings.len());
        for (index, binding) in state.bindings.iter().enumerate() {
            let place = places.number(binding.place);
            all.extend(
                binding
                    .subjects()
                    .map(|subject| (subjects.number(subject), place, index)),
            );
        }
        let mut memberships = Vec::new();
        for (group, users) in &state.members {
            let group = subjects.number(SubjectId::group(group));
            memberships.extend(
                users
                    .iter()
                    .map(|user| (group, subjects.number(SubjectId::user(user)))),
            );
        }
        let (subject_list, subject_becomes) = subjects.sort();
        let (place_list, place_becomes) = places.sort();
        for (subject, place, _) in &mut all {
            *subject = subject_becomes[*subject];
            *place = place_becomes[*place];
        }
        all.sort_unstable();
        // Where somebody holds nothing, nothing lies between two starts.
        let mut starts = Vec::with_capacity(subject_list.len() + 1);
        for (at, (subject, ..)) in all.iter().enumerate() {
            starts.resize(subject + 1, at);
        }
        starts.resize(subject_list.len() + 1, all.len());
        let mut groups: FastMap<SubjectNumber, Vec<SubjectNumber>> = FastMap::default();
        let mut members: FastMap<SubjectNumber, Vec<SubjectNumber>> = FastMap::default();
        for (group, user) in memberships {
            let (group, user) = (subject_becomes[group], subject_becomes[user]);
            groups.entry(user).or_default().push(group);
            members.entry(group).or_default().push(user);
        }
        let wider = place_list.iter().map(|place| {
            let mut numbers = [None; 3];
            for (number, wider) in numbers.iter_mut().zip(state.wider(*place)) {
                *number = places.0.get(&wider).copied();
            }
            numbers
        });
        Self {
            wider: wider.collect(),
            everyone: subjects.0.get(&SubjectId::group(AUTHENTICATED)).copied(),
            subjects: subject_list,
            places: place_list,
            groups,
            members,
            starts,
            list: all
                .into_iter()
                .map(|(_, place, binding)| (place, binding))
                .collect(),
        }
    }

    /// Every place, subject and binding.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PlaceNumber, SubjectNumber, usize)> {
        let parts = self.starts.windows(2).enumerate();
        parts.flat_map(|(subject, part)| {
            let held = self.list[part[0]..part[1]].iter();
            held.map(move |(place, binding)| (*place, subject, *binding))
        })
    }

    /// The bindings of a subject in a place, ascending.
    pub(super) fn through(&self, subject: SubjectNumber, place: PlaceNumber) -> impl Iterator<Item = usize> {
        let all = &self.list[self.starts[subject]..self.starts[subject + 1]];
        let first = all.partition_point(|(other, _)| *other < place);
        let there = all[first..].iter().take_while(move |(other, _)| *other == place);
        there.map(|(_, binding)| *binding)
    }

    /// The subject, and the groups that it is in.
    pub(super) fn as_whom(&self, subject: SubjectNumber) -> impl Iterator<Item = SubjectNumber> {
        let groups = self.groups.get(&subject).into_iter().flatten();
        [subject].into_iter().chain(groups.copied())
    }

    /// The users in a group; none for others.
    pub(super) fn members(&self, subject: SubjectNumber) -> &[SubjectNumber] {
        self.members.get(&subject).map_or(&[], Vec::as_slice)
    }
}
