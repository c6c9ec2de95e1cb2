//! The comparison of before and after.
//!
//! What changes for somebody in a place depends only on which kinds of roles they hold there, in wider places and
//! through groups. So each such combination is compared once, however many people it is true of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use rayon::prelude::*;

use super::{
    Changes, DirectChange, Impact, Kept, PermissionChange, SubjectImpact, WhyChanged,
    held::{Held, PlaceNumber, SubjectNumber},
};
use crate::{
    BindingAction, BindingChange, Canonical, Grants, Level, RoleChange, Template,
    hash::FastMap,
    role::Releases,
    state::{Aggregation, Binding, Place, Role, State},
};

/// Groups whose members Kubernetes decides: everyone who is logged in, everyone who is not.
fn is_everyone(kind: &str, name: &str) -> bool {
    kind == "Group" && name.starts_with("system:")
}

/// One side of the comparison: what a role allows, and the templates that it is made of.
#[derive(Clone, Debug, Default)]
struct Side {
    grants: Arc<Grants>,
    level: Option<Level>,
    templates: Vec<String>,
}

/// A place in [`Assessment::sides`].
type SideId = usize;

/// What a binding gives: before, and after, where it is still there.
type Given = (SideId, Option<SideId>);

/// A role before and after.
#[derive(Clone, Copy, Debug)]
struct Delta {
    before: SideId,
    after: SideId,
    is_changed: bool,
}

/// What makes two roles change alike: their shape, where they exist, and what the release makes of them.
type Likeness = (Level, Option<usize>, bool, Option<(bool, usize)>);

/// A place in [`Assessment::forms`].
type FormId = usize;

/// What is lost or gained by the bindings of a place, less what of it is given otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Part {
    /// A place in [`Assessment::owned`].
    own: usize,
    is_gained: bool,
    otherwise: Vec<FormId>,
}

/// A place in [`Assessment::parts`].
type PartId = usize;

/// What somebody holds, as far as it decides what changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holding {
    lost: PartId,
    gained: PartId,
    /// The same in the eyes of Kubernetes itself, where this place counts there.
    direct: Option<(PartId, PartId)>,
}

/// What the bindings of one place give somebody, and what of it is lost and gained as far as they go.
#[derive(Clone, Debug)]
struct Owned {
    given: Vec<Given>,
    lost: FormId,
    gained: FormId,
    kept: OnceLock<Kept>,
}

pub(crate) struct Assessment<'s, 'a, 'r> {
    state: &'s State<'a>,
    releases: Releases<'r>,
    changes: &'s BTreeMap<usize, RoleChange>,
    bindings: &'s BTreeMap<usize, BindingChange>,
    held: Held<'a>,
    sides: Vec<Side>,
    alike: FastMap<Likeness, Delta>,
    /// By the place of the role, of those that are bound.
    deltas: Vec<Option<Delta>>,
    replacements: FastMap<(Level, &'s str), SideId>,
    /// What each binding gives.
    given: Vec<Given>,
    owned: Vec<Owned>,
    owned_places: FastMap<Vec<Given>, usize>,
    /// Sets that are lost or gained, each once.
    forms: Vec<Grants>,
    form_places: FastMap<Canonical, FormId>,
    /// The same by how they were come upon, which is quicker to see.
    written_forms: FastMap<Grants, FormId>,
    /// What a side has in common with a form.
    common: FastMap<(FormId, SideId), Option<FormId>>,
    parts: Vec<Part>,
    part_places: FastMap<Part, PartId>,
}

/// What the changes mean to users and groups. A loss counts where nothing else gives the subject the same: another
/// binding of the same place or a wider one, a group, or what everyone has.
pub(crate) fn assess<'s, 'a, 'r>(
    state: &'s State<'a>,
    held: Held<'a>,
    releases: Releases<'r>,
    changes: &'s BTreeMap<usize, RoleChange>,
    bindings: &'s BTreeMap<usize, BindingChange>,
) -> (Impact, Assessment<'s, 'a, 'r>) {
    let mut assessment = Assessment {
        state,
        releases,
        changes,
        bindings,
        held,
        sides: Vec::new(),
        alike: FastMap::default(),
        deltas: vec![None; state.roles.len()],
        replacements: FastMap::default(),
        given: Vec::with_capacity(state.bindings.len()),
        owned: Vec::new(),
        owned_places: FastMap::default(),
        forms: Vec::new(),
        form_places: FastMap::default(),
        written_forms: FastMap::default(),
        common: FastMap::default(),
        parts: Vec::new(),
        part_places: FastMap::default(),
    };
    let affected = assessment.affected();
    let holdings = affected.into_iter().filter_map(|(place, subject)| {
        let holding = assessment.holding(place, subject)?;
        Some((place, subject, holding))
    });
    let holdings: Vec<_> = holdings.collect();
    let comparison = Comparison {
        sides: &assessment.sides,
        owned: &assessment.owned,
        forms: &assessment.forms,
        releases,
    };
    let parts = assessment
        .parts
        .par_iter()
        .map(|part| comparison.changes(part))
        .collect::<Vec<_>>();
    let subjects = holdings.par_iter().filter_map(|(place, subject, holding)| {
        let lost = &parts[holding.lost];
        let gained = &parts[holding.gained];
        let kubectl = holding.direct.map(|(lost, gained)| DirectChange {
            lost: parts[lost].clone(),
            gained: parts[gained].clone(),
        });
        let kubectl = kubectl.unwrap_or_default();
        if lost.is_empty() && gained.is_empty() && kubectl.is_none() {
            return None;
        }
        let own = assessment.parts[holding.lost].own;
        let entry = SubjectImpact {
            lost: lost.clone(),
            gained: gained.clone(),
            kubectl,
            kept: comparison.kept(own),
            ..assessment.entry(*place, *subject)
        };
        Some(entry)
    });
    let mut impact = Impact {
        subjects: subjects.collect(),
        everyone: Vec::new(),
    };
    let everyones = |entry: &mut SubjectImpact| is_everyone(&entry.kind, &entry.name);
    impact.everyone = impact.subjects.extract_if(.., everyones).collect();
    (impact, assessment)
}

impl<'s, 'a, 'r> Assessment<'s, 'a, 'r> {
    /// What every binding gives, and who is affected where.
    fn affected(&mut self) -> Vec<(PlaceNumber, SubjectNumber)> {
        let state = self.state;
        let mut is_affected = vec![false; state.bindings.len()];
        for (index, binding) in state.bindings.iter().enumerate() {
            let delta = self.delta(binding);
            let change = self.bindings.get(&index);
            let after = match change.map(|change| &change.action) {
                None => Some(delta.after),
                Some(BindingAction::Rebind { to }) => Some(self.replacement(binding, to)),
                Some(BindingAction::DeleteRedundant { .. }) => None,
            };
            // Of rules that cannot be read nobody can tell what is lost or gained.
            let is_unknown = binding
                .found
                .is_some_and(|place| state.roles[place].set.error.is_some());
            let before = after.filter(|_| is_unknown).unwrap_or(delta.before);
            self.given.push((before, after));
            is_affected[index] = change.is_some() || delta.is_changed;
        }
        let mut affected = Vec::new();
        for (place, subject, index) in self.held.iter() {
            if is_affected[index] {
                affected.push((place, subject));
                affected.extend(self.held.members(subject).iter().map(|user| (place, *user)));
            }
        }
        affected.sort_unstable();
        affected.dedup();
        affected
    }

    fn delta(&mut self, binding: &Binding<'a>) -> Delta {
        let Some(place) = binding.found else {
            let brought = self.releases.brought(self.state, binding);
            return self.delta_of(self.state.level(binding.role), None, None, brought);
        };
        if let Some(delta) = self.deltas[place] {
            return delta;
        }
        let role = &self.state.roles[place];
        let (change, released) = (self.changes.get(&place), self.released(role));
        let delta = self.delta_of(role.level, Some(role), change, released);
        self.deltas[place] = Some(delta);
        delta
    }

    fn delta_of(
        &mut self,
        level: Level,
        role: Option<&Role<'a>>,
        change: Option<&RoleChange>,
        released: Option<&Template>,
    ) -> Delta {
        let likeness = (
            level,
            role.map(|role| role.shape),
            change.is_some(),
            released.map(|template| (template.is_template, std::ptr::from_ref(template).addr())),
        );
        if let Some(delta) = self.alike.get(&likeness) {
            return *delta;
        }
        let delta = self.compare(level, role, change, released);
        self.alike.insert(likeness, delta);
        delta
    }

    fn side(&mut self, side: Side) -> SideId {
        self.sides.push(side);
        self.sides.len() - 1
    }

    fn compare(
        &mut self,
        level: Level,
        role: Option<&Role<'a>>,
        change: Option<&RoleChange>,
        released: Option<&Template>,
    ) -> Delta {
        let rules = role.map(Role::rules).unwrap_or_default();
        let templates = match role.map(Role::aggregation) {
            Some(Aggregation::Templates(templates)) => templates,
            _ => Vec::new(),
        };
        let before = Side {
            grants: Arc::new(Grants::of(rules)),
            level: Some(level),
            templates,
        };
        let mut after = before.clone();
        let mut is_changed = false;
        if let Some(change) = change {
            if let Some(text) = &change.annotation {
                after.templates = serde_json::from_str(text).unwrap_or_default();
            }
            if let Some(rules) = &change.rules {
                after.grants = Arc::new(Grants::of(rules.iter()));
                is_changed = true;
            }
        } else if let Some(released) = released {
            if !released.is_template {
                after.templates.clone_from(&released.aggregates);
            }
            if released.rules != rules && !released.grants.equals(&before.grants) {
                after.grants = Arc::new(released.grants.clone());
                is_changed = true;
            }
        }
        let before = self.side(before);
        let after = self.side(after);
        Delta {
            before,
            after,
            is_changed,
        }
    }

    /// The new release's text of a role that is the release's own: a template, or built in.
    fn released(&self, role: &Role<'a>) -> Option<&'r Template> {
        let Releases { to, policy, .. } = self.releases;
        let (level, name, workspace) = (role.level, role.id.name, role.workspace);
        // Kubernetes' own cluster-admin and the like keep their rules.
        let is_ours = role.is_template() || policy.is_built_in(level, name, workspace);
        is_ours.then(|| to.role(level, name, workspace))?
    }

    fn replacement(&mut self, binding: &Binding<'a>, name: &'s str) -> SideId {
        let level = self.state.level(binding.role);
        if let Some(side) = self.replacements.get(&(level, name)) {
            return *side;
        }
        let released = self.releases.to.role(level, name, None);
        let side = self.side(Side {
            grants: Arc::new(released.map(|role| role.grants.clone()).unwrap_or_default()),
            level: Some(level),
            templates: released.map(|role| role.aggregates.clone()).unwrap_or_default(),
        });
        self.replacements.insert((level, name), side);
        side
    }

    fn form(&mut self, grants: Grants) -> FormId {
        if let Some(place) = self.written_forms.get(&grants) {
            return *place;
        }
        let next = self.forms.len();
        let place = *self.form_places.entry(grants.canonical()).or_insert(next);
        if place == next {
            self.forms.push(grants.clone());
        }
        self.written_forms.insert(grants, place);
        place
    }

    fn own(&mut self, given: Vec<Given>) -> usize {
        if let Some(place) = self.owned_places.get(&given) {
            return *place;
        }
        let side = |is_after| all(&chosen(&self.sides, &given, is_after));
        let (has, gets) = (side(false), side(true));
        let (lost, gained) = (has.difference(&gets), gets.difference(&has));
        let (lost, gained) = (self.form(lost), self.form(gained));
        self.owned_places.insert(given.clone(), self.owned.len());
        self.owned.push(Owned {
            given,
            lost,
            gained,
            kept: OnceLock::new(),
        });
        self.owned.len() - 1
    }

    fn common(&mut self, form: FormId, side: SideId) -> Option<FormId> {
        if let Some(known) = self.common.get(&(form, side)) {
            return *known;
        }
        let common = self.forms[form].intersection(&self.sides[side].grants);
        let common = (!common.is_empty()).then(|| self.form(common));
        self.common.insert((form, side), common);
        common
    }

    /// `None`: nothing changes.
    fn holding(&mut self, place: PlaceNumber, subject: SubjectNumber) -> Option<Holding> {
        let held = &self.held;
        let mut own: Vec<Given> = held
            .as_whom(subject)
            .flat_map(|subject| held.through(subject, place))
            .map(|index| self.given[index])
            .collect();
        own.sort_unstable();
        own.dedup();
        let own = self.own(own);
        let (lost, gained) = (self.owned[own].lost, self.owned[own].gained);
        if self.forms[lost].is_empty() && self.forms[gained].is_empty() {
            return None;
        }
        let held = &self.held;
        let wider = held.wider[place].into_iter().flatten();
        let mut other = Vec::new();
        for subject in held.as_whom(subject) {
            for place in wider.clone() {
                let is_direct = held.places[place] == Place::Cluster;
                let through = held.through(subject, place);
                other.extend(through.map(|index| (self.given[index], is_direct)));
            }
        }
        let is_direct =
            |place: PlaceNumber| matches!(held.places[place], Place::Cluster | Place::Namespace(_));
        if let Some(everyone) = held.everyone
            && !is_everyone(held.subjects[subject].kind, held.subjects[subject].name)
        {
            for place in wider.chain([place]) {
                let through = held.through(everyone, place);
                other.extend(through.map(|index| (self.given[index], is_direct(place))));
            }
        }
        let is_direct = is_direct(place);
        // What of it is given otherwise, and what Kubernetes itself sees of that.
        let (mut losts, mut gaineds) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for ((before, after), is_direct) in other {
            let still = after.and_then(|after| self.common(lost, after));
            let already = self.common(gained, before);
            for list in losts.iter_mut().take(1 + usize::from(is_direct)) {
                list.extend(still);
            }
            for list in gaineds.iter_mut().take(1 + usize::from(is_direct)) {
                list.extend(already);
            }
        }
        let [lost, direct_lost] = losts.map(|list| self.part(own, false, list));
        let [gained, direct_gained] = gaineds.map(|list| self.part(own, true, list));
        Some(Holding {
            lost,
            gained,
            direct: is_direct.then_some((direct_lost, direct_gained)),
        })
    }

    fn part(&mut self, own: usize, is_gained: bool, mut otherwise: Vec<FormId>) -> PartId {
        otherwise.sort_unstable();
        otherwise.dedup();
        let part = Part {
            own,
            is_gained,
            otherwise,
        };
        *self.part_places.entry(part).or_insert_with_key(|part| {
            self.parts.push(part.clone());
            self.parts.len() - 1
        })
    }

    /// Whom it is about, where, and why. What changes is left open.
    fn entry(&self, place: PlaceNumber, number: SubjectNumber) -> SubjectImpact {
        let held = &self.held;
        let (mut reasons, mut through) = (Vec::new(), Vec::new());
        for whom in held.as_whom(number) {
            let before = reasons.len();
            for index in held.through(whom, place) {
                self.add_reasons(index, &mut reasons);
            }
            if whom != number && reasons.len() > before {
                through.push(held.subjects[whom].name.to_owned());
            }
        }
        reasons.sort();
        reasons.dedup();
        // There are few of them, and many who have them.
        reasons.shrink_to_fit();
        let subject = held.subjects[number];
        let members = held.members(number).iter();
        SubjectImpact {
            kind: subject.kind.to_owned(),
            name: match subject.namespace {
                "" => subject.name.to_owned(),
                namespace => format!("{namespace}/{}", subject.name),
            },
            members: members.map(|user| held.subjects[*user].name.to_owned()).collect(),
            scope: self.state.scope(held.places[place]),
            through,
            lost: Changes::default(),
            gained: Changes::default(),
            kubectl: DirectChange::default(),
            kept: Kept::default(),
            reasons,
        }
    }

    fn add_reasons(&self, index: usize, reasons: &mut Vec<WhyChanged>) {
        let binding = &self.state.bindings[index];
        if let Some(change) = self.bindings.get(&index) {
            let (BindingAction::Rebind { to: replacement } | BindingAction::DeleteRedundant { replacement }) =
                &change.action;
            reasons.push(WhyChanged::RemovedRole {
                role: change.from.clone(),
                replacement: replacement.clone(),
            });
            return;
        }
        let Some(place) = binding.found else {
            if self.gives_role(index) {
                reasons.push(WhyChanged::BroughtRole {
                    role: binding.role.name.to_owned(),
                });
            }
            return;
        };
        if !self.deltas[place].is_some_and(|delta| delta.is_changed) {
            return;
        }
        let role = binding.role.name.to_owned();
        let Some(change) = self.changes.get(&place) else {
            reasons.push(WhyChanged::ChangedBuiltInRole { role });
            return;
        };
        if !change.removed_templates.is_empty() {
            reasons.push(WhyChanged::RevokedTemplates {
                role: role.clone(),
                templates: change.removed_templates.clone(),
            });
        }
        if !change.renamed_templates.is_empty() {
            reasons.push(WhyChanged::RenamedTemplates {
                role: role.clone(),
                templates: change.renamed_templates.clone(),
            });
        }
        if !change.extended_templates.is_empty() {
            reasons.push(WhyChanged::ExtendedTemplates {
                role,
                templates: change.extended_templates.clone(),
            });
        }
    }

    pub(super) fn sides(&self) -> impl Iterator<Item = &Grants> {
        self.sides.iter().map(|side| &*side.grants)
    }

    /// Whether it is the release that changes the role of a binding, and KubeSphere's controllers that carry it to
    /// workspaces and projects.
    pub(super) fn is_built_in_change(&self, index: usize) -> bool {
        let binding = &self.state.bindings[index];
        let is_carried = matches!(binding.role.kind, "WorkspaceRole" | "Role");
        let is_changed = binding
            .found
            .is_some_and(|place| self.changes.contains_key(&place));
        is_carried && !self.bindings.contains_key(&index) && !is_changed
    }

    /// Whether a binding refers to a role that exists after the upgrade.
    pub(super) fn gives_role(&self, index: usize) -> bool {
        let binding = &self.state.bindings[index];
        match self.bindings.get(&index).map(|change| &change.action) {
            // The replacement comes with the release.
            Some(BindingAction::Rebind { .. }) => true,
            Some(BindingAction::DeleteRedundant { .. }) => false,
            None => binding.found.is_some() || self.releases.brought(self.state, binding).is_some(),
        }
    }

    pub(super) fn given(&self, index: usize) -> Given {
        self.given[index]
    }
}

/// What is needed to compare; shared between threads.
struct Comparison<'c> {
    sides: &'c [Side],
    owned: &'c [Owned],
    forms: &'c [Grants],
    releases: Releases<'c>,
}

impl Comparison<'_> {
    fn sides(&self, given: &[Given], is_after: bool) -> Vec<&Side> {
        chosen(self.sides, given, is_after)
    }

    fn changes(&self, part: &Part) -> Changes {
        let own = &self.owned[part.own];
        let mut rest = self.forms[if part.is_gained { own.gained } else { own.lost }].clone();
        for other in &part.otherwise {
            rest = rest.difference(&self.forms[*other]);
        }
        let side = self.sides(&own.given, part.is_gained);
        let other = self.sides(&own.given, !part.is_gained);
        self.in_words(&rest, &side, &other, part.is_gained).into()
    }

    fn kept(&self, own: usize) -> Kept {
        let own = &self.owned[own];
        let kept = own.kept.get_or_init(|| {
            let (before, after) = (self.sides(&own.given, false), self.sides(&own.given, true));
            Kept(self.words_for_kept(&after, &all(&before)).into())
        });
        kept.clone()
    }

    /// What is given before and after, in words.
    fn words_for_kept(&self, after: &[&Side], has: &Grants) -> Vec<String> {
        let mut words = Vec::new();
        let mut rest = all(after).intersection(has);
        for (level, name) in named(after) {
            let Some(template) = self.releases.new_template(level, name) else {
                continue;
            };
            if template.grants.is_disjoint(&rest) {
                continue;
            }
            rest = rest.difference(&template.grants);
            let template = template.words();
            if !words.contains(&template) {
                words.push(template);
            }
        }
        words.extend(rest.simplified().iter().map(ToString::to_string));
        words
    }

    /// What is lost or gained, by the templates of `side` that give it; first those that `other` does not have. Two
    /// templates that give the same both name it.
    fn in_words(
        &self,
        changed: &Grants,
        side: &[&Side],
        other: &[&Side],
        is_new: bool,
    ) -> Vec<PermissionChange> {
        let mut rest = changed.clone();
        let others = named(other);
        let (mut templates, kept): (Vec<_>, Vec<_>) = named(side)
            .into_iter()
            .partition(|template| !others.contains(template));
        templates.extend(kept);
        let mut seen = BTreeSet::new();
        let mut words: Vec<PermissionChange> = Vec::new();
        for (level, name) in templates {
            if rest.is_empty() || !seen.insert((level, name)) {
                continue;
            }
            let template = if is_new {
                self.releases.new_template(level, name)
            } else {
                self.releases.old_template(level, name)
            };
            let Some(template) = template.filter(|template| !template.grants.is_disjoint(&rest)) else {
                continue;
            };
            let given = &template.grants;
            rest = rest.difference(given);
            words.push(PermissionChange {
                permission: Some(template.words()),
                template: Some(name.to_owned()),
                grants: given.intersection(changed).simplified(),
            });
        }
        if !rest.is_empty() {
            words.push(PermissionChange {
                permission: None,
                template: None,
                grants: rest.simplified(),
            });
        }
        words
    }
}

/// The sides of what is given, before or after.
fn chosen<'s>(sides: &'s [Side], given: &[Given], is_after: bool) -> Vec<&'s Side> {
    let chosen = given
        .iter()
        .filter_map(|(before, after)| if is_after { *after } else { Some(*before) });
    let chosen: BTreeSet<SideId> = chosen.collect();
    chosen.into_iter().map(|side| &sides[side]).collect()
}

fn all(sides: &[&Side]) -> Grants {
    sides.iter().map(|side| &*side.grants).collect()
}

/// The templates of a side, as often as they are named.
fn named<'t>(sides: &[&'t Side]) -> Vec<(Level, &'t str)> {
    let named = sides.iter().flat_map(|side| {
        let names = side.templates.iter().map(String::as_str);
        side.level
            .into_iter()
            .flat_map(move |level| names.clone().map(move |name| (level, name)))
    });
    named.collect()
}
