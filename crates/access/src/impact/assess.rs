//! The comparison of before and after.
//!
//! What changes for somebody in a place depends only on which kinds of roles they hold there, in wider places and
//! through groups. So each such combination is compared once, however many people it is true of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    thread,
};

use super::{Changes, DirectChange, Impact, Kept, PermissionChange, SubjectImpact, WhyChanged};
use crate::{
    BindingAction, BindingChange, Canonical, Grants, Level, RoleChange, Template,
    hash::FastMap,
    role::Releases,
    state::{Aggregation, Place, Role, RoleId, State, SubjectId},
};

/// Groups whose members Kubernetes decides: everyone who is logged in, everyone who is not.
fn is_everyone(subject: &SubjectId<'_>) -> bool {
    subject.kind == "Group" && subject.name.starts_with("system:")
}

/// Everyone who is logged in.
const AUTHENTICATED: &str = "system:authenticated";

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

/// What makes two roles change alike: level, annotation, rules, whether they change, and what the release makes of them.
type Likeness<'a> = (Level, Option<&'a str>, Option<usize>, bool, Option<(bool, usize)>);

/// A place in [`Assessment::forms`].
type FormId = usize;

/// What of that which is lost and gained here is given otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Otherwise {
    lost: Vec<FormId>,
    gained: Vec<FormId>,
}

/// What somebody holds, as far as it decides what changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Holding {
    /// By the bindings of this place; a place in [`Assessment::owned`].
    own: usize,
    /// By wider places, and by what everyone has.
    other: Otherwise,
    /// In the eyes of Kubernetes itself: whether this place counts there, and what of the other does.
    direct: Option<Otherwise>,
}

/// What the bindings of one place give somebody, and what of it is lost and gained as far as they go.
#[derive(Clone, Debug)]
struct Owned {
    given: Vec<Given>,
    lost: FormId,
    gained: FormId,
    kept: OnceLock<Kept>,
}

/// What changes for whoever has a [`Holding`].
#[derive(Clone, Debug, Default)]
struct Difference {
    lost: Changes,
    gained: Changes,
    kubectl: DirectChange,
    kept: Kept,
}

pub(crate) struct Assessment<'s, 'a, 'r> {
    state: &'s State<'a>,
    releases: Releases<'r>,
    changes: &'s BTreeMap<RoleId<'a>, RoleChange>,
    bindings: &'s BTreeMap<usize, BindingChange>,
    /// Bindings by subject and place.
    held: FastMap<(SubjectId<'a>, Place<'a>), Vec<usize>>,
    /// Bindings of everyone who is logged in, by place.
    everyones: BTreeMap<Place<'a>, Vec<usize>>,
    /// The groups of each user.
    groups: FastMap<&'a str, Vec<&'a str>>,
    sides: Vec<Side>,
    alike: FastMap<Likeness<'a>, Delta>,
    deltas: FastMap<RoleId<'a>, Delta>,
    replacements: FastMap<(Level, &'s str), SideId>,
    /// What each binding gives.
    given: Vec<Given>,
    owned: Vec<Owned>,
    owned_places: FastMap<Vec<Given>, usize>,
    /// Sets that are lost or gained, each once.
    forms: Vec<Grants>,
    form_places: FastMap<Canonical, FormId>,
    /// What a side has in common with a form.
    common: FastMap<(FormId, SideId), Option<FormId>>,
}

/// What the changes mean to users and groups. A loss counts where nothing else gives the subject the same: another
/// binding of the same place or a wider one, a group, or what everyone has.
pub(crate) fn assess<'s, 'a, 'r>(
    state: &'s State<'a>,
    releases: Releases<'r>,
    changes: &'s BTreeMap<RoleId<'a>, RoleChange>,
    bindings: &'s BTreeMap<usize, BindingChange>,
) -> (Impact, Assessment<'s, 'a, 'r>) {
    let mut held: FastMap<(SubjectId<'a>, Place<'a>), Vec<usize>> = FastMap::default();
    for (index, binding) in state.bindings.iter().enumerate() {
        for subject in &binding.subjects {
            held.entry((*subject, binding.place)).or_default().push(index);
        }
    }
    let everyone = SubjectId::group(AUTHENTICATED);
    let mut everyones: BTreeMap<Place<'a>, Vec<usize>> = BTreeMap::new();
    for (index, binding) in state.bindings.iter().enumerate() {
        if binding.subjects.contains(&everyone) {
            everyones.entry(binding.place).or_default().push(index);
        }
    }
    let mut groups: FastMap<&str, Vec<&str>> = FastMap::default();
    for (group, users) in &state.members {
        for user in users {
            groups.entry(user).or_default().push(group);
        }
    }
    let mut assessment = Assessment {
        state,
        releases,
        changes,
        bindings,
        held,
        everyones,
        groups,
        sides: Vec::new(),
        alike: FastMap::default(),
        deltas: FastMap::default(),
        replacements: FastMap::default(),
        given: Vec::new(),
        owned: Vec::new(),
        owned_places: FastMap::default(),
        forms: Vec::new(),
        form_places: FastMap::default(),
        common: FastMap::default(),
    };
    let affected = assessment.affected();
    let mut places: FastMap<Holding, usize> = FastMap::default();
    let mut holdings: Vec<Holding> = Vec::new();
    let mut found = Vec::with_capacity(affected.len());
    for (place, subject) in affected {
        let Some(holding) = assessment.holding(place, subject) else {
            continue;
        };
        let number = *places.entry(holding).or_insert_with_key(|holding| {
            holdings.push(holding.clone());
            holdings.len() - 1
        });
        found.push((place, subject, number));
    }
    let differences = assessment.compare_all(&holdings);
    let mut impact = Impact::default();
    for (place, subject, number) in found {
        let Some(difference) = &differences[number] else {
            continue;
        };
        let entry = assessment.entry(place, subject, difference);
        if is_everyone(&subject) {
            impact.everyone.push(entry);
        } else {
            impact.subjects.push(entry);
        }
    }
    (impact, assessment)
}

impl<'s, 'a, 'r> Assessment<'s, 'a, 'r> {
    /// What every binding gives, and who is affected where.
    fn affected(&mut self) -> Vec<(Place<'a>, SubjectId<'a>)> {
        let mut affected = Vec::new();
        let state = self.state;
        for (index, binding) in state.bindings.iter().enumerate() {
            let delta = self.delta(binding.role, binding.found.as_ref());
            let change = self.bindings.get(&index);
            let after = match change.map(|change| &change.action) {
                None => Some(delta.after),
                Some(BindingAction::Rebind { to }) => Some(self.replacement(binding.role, to)),
                Some(BindingAction::DeleteRedundant { .. }) => None,
            };
            self.given.push((delta.before, after));
            if change.is_none() && !delta.is_changed {
                continue;
            }
            for subject in &binding.subjects {
                affected.push((binding.place, *subject));
                if subject.kind != "Group" {
                    continue;
                }
                let members = state.members.get(subject.name).into_iter().flatten();
                affected.extend(members.map(|name| (binding.place, SubjectId::user(name))));
            }
        }
        affected.sort_unstable();
        affected.dedup();
        affected
    }

    fn delta(&mut self, id: RoleId<'a>, role: Option<&Role<'a>>) -> Delta {
        if let Some(delta) = self.deltas.get(&id) {
            return *delta;
        }
        let level = self.state.level(id);
        let released = self.released(id, role);
        let is_changed = self.changes.contains_key(&id);
        let likeness = (
            level,
            role.and_then(|role| role.record.aggregation.as_deref()),
            role.map(|role| role.record.rules),
            is_changed,
            released.map(|template| (template.is_template, std::ptr::from_ref(template).addr())),
        );
        let delta = if let Some(delta) = self.alike.get(&likeness) {
            *delta
        } else {
            let delta = self.compare(level, role, self.changes.get(&id), released);
            self.alike.insert(likeness, delta);
            delta
        };
        self.deltas.insert(id, delta);
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

    /// The new release's text of a role that is there and is the release's own: a template, or built in.
    fn released(&self, id: RoleId<'a>, role: Option<&Role<'a>>) -> Option<&'r Template> {
        let role = role?;
        let releases = self.releases;
        let is_built_in = releases.policy.is_built_in(role.level, id.name, role.workspace);
        // Kubernetes' own cluster-admin and the like keep their rules.
        let is_ours = is_built_in || role.is_template();
        releases
            .to
            .role(role.level, id.name, role.workspace)
            .filter(|_| is_ours)
    }

    fn replacement(&mut self, role: RoleId<'a>, name: &'s str) -> SideId {
        let level = self.state.level(role);
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

    fn through(&self, subject: SubjectId<'a>, place: Place<'a>) -> impl Iterator<Item = usize> {
        self.held.get(&(subject, place)).into_iter().flatten().copied()
    }

    /// The subject, and the groups that it is in.
    fn as_whom(&self, subject: SubjectId<'a>) -> Vec<SubjectId<'a>> {
        let mut whom = vec![subject];
        if subject.kind == "User" {
            let groups = self.groups.get(subject.name).into_iter().flatten();
            whom.extend(groups.map(|group| SubjectId::group(group)));
        }
        whom
    }

    fn form(&mut self, grants: Grants) -> FormId {
        let next = self.forms.len();
        let place = *self.form_places.entry(grants.canonical()).or_insert(next);
        if place == next {
            self.forms.push(grants);
        }
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
    fn holding(&mut self, place: Place<'a>, subject: SubjectId<'a>) -> Option<Holding> {
        let whom = self.as_whom(subject);
        let mut own = Vec::new();
        for subject in &whom {
            own.extend(self.through(*subject, place).map(|index| self.given[index]));
        }
        own.sort_unstable();
        own.dedup();
        let own = self.own(own);
        let (lost, gained) = (self.owned[own].lost, self.owned[own].gained);
        if self.forms[lost].is_empty() && self.forms[gained].is_empty() {
            return None;
        }
        let wider = self.state.wider(place);
        let mut other = Vec::new();
        for subject in &whom {
            for place in &wider {
                let given = self.through(*subject, *place).map(|index| self.given[index]);
                let is_direct = *place == Place::Cluster;
                other.extend(given.map(|given| (given, is_direct)));
            }
        }
        if !is_everyone(&subject) {
            for place in wider.iter().chain([&place]) {
                let given = self.everyones.get(place).into_iter().flatten();
                let given = given.map(|index| self.given[*index]);
                let is_direct = matches!(place, Place::Cluster | Place::Namespace(_));
                other.extend(given.map(|given| (given, is_direct)));
            }
        }
        let is_direct = matches!(place, Place::Cluster | Place::Namespace(_));
        let mut both = [Otherwise::default(), Otherwise::default()];
        for ((before, after), is_direct) in other {
            let still = after.and_then(|after| self.common(lost, after));
            let already = self.common(gained, before);
            for otherwise in both.iter_mut().take(1 + usize::from(is_direct)) {
                otherwise.lost.extend(still);
                otherwise.gained.extend(already);
            }
        }
        for list in both.iter_mut().flat_map(|o| [&mut o.lost, &mut o.gained]) {
            list.sort_unstable();
            list.dedup();
        }
        let [other, direct] = both;
        Some(Holding {
            own,
            other,
            direct: is_direct.then_some(direct),
        })
    }

    /// The same for each, in parallel; `None` where nothing changes.
    fn compare_all(&self, holdings: &[Holding]) -> Vec<Option<Difference>> {
        let comparison = Comparison {
            sides: &self.sides,
            owned: &self.owned,
            forms: &self.forms,
            releases: self.releases,
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = holdings.len().div_ceil(threads.max(1)).max(64);
        let mut all = Vec::with_capacity(holdings.len());
        thread::scope(|scope| {
            let comparison = &comparison;
            let shares: Vec<_> = holdings
                .chunks(share)
                .map(|share| {
                    scope.spawn(move || {
                        share
                            .iter()
                            .map(|holding| comparison.difference(holding))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            for share in shares {
                match share.join() {
                    Ok(differences) => all.extend(differences),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        all
    }

    fn entry(&self, place: Place<'a>, subject: SubjectId<'a>, difference: &Difference) -> SubjectImpact {
        let (mut reasons, mut through) = (Vec::new(), Vec::new());
        for whom in self.as_whom(subject) {
            let before = reasons.len();
            for index in self.through(whom, place) {
                self.add_reasons(index, &mut reasons);
            }
            if whom != subject && reasons.len() > before {
                through.push(whom.name.to_owned());
            }
        }
        reasons.sort();
        reasons.dedup();
        let members = self
            .state
            .members
            .get(subject.name)
            .filter(|_| subject.kind == "Group");
        SubjectImpact {
            kind: subject.kind.to_owned(),
            name: match subject.namespace {
                "" => subject.name.to_owned(),
                namespace => format!("{namespace}/{}", subject.name),
            },
            members: members
                .into_iter()
                .flatten()
                .map(|user| (*user).to_owned())
                .collect(),
            scope: self.state.scope(place),
            through,
            lost: difference.lost.clone(),
            gained: difference.gained.clone(),
            kubectl: difference.kubectl.clone(),
            kept: difference.kept.clone(),
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
        if !self
            .deltas
            .get(&binding.role)
            .is_some_and(|delta| delta.is_changed)
        {
            return;
        }
        let role = binding.role.name.to_owned();
        let Some(change) = self.changes.get(&binding.role) else {
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
        let role = self.state.bindings[index].role;
        let is_carried = matches!(role.kind, "WorkspaceRole" | "Role");
        is_carried && !self.bindings.contains_key(&index) && !self.changes.contains_key(&role)
    }

    pub(super) fn given(&self, index: usize) -> Given {
        self.given[index]
    }
}

/// What is needed to compare holdings; shared between threads.
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

    fn difference(&self, holding: &Holding) -> Option<Difference> {
        let own = &self.owned[holding.own];
        let (before, after) = (self.sides(&own.given, false), self.sides(&own.given, true));
        let less = |form: FormId, given: &[FormId]| {
            let mut rest = self.forms[form].clone();
            for other in given {
                rest = rest.difference(&self.forms[*other]);
            }
            rest
        };
        let compared = |other: &Otherwise| DirectChange {
            lost: self
                .in_words(&less(own.lost, &other.lost), &before, &after, false)
                .into(),
            gained: self
                .in_words(&less(own.gained, &other.gained), &after, &before, true)
                .into(),
        };
        let DirectChange { lost, gained } = compared(&holding.other);
        let mut kubectl = DirectChange::default();
        if let Some(direct) = &holding.direct {
            kubectl = if *direct == holding.other {
                DirectChange {
                    lost: lost.clone(),
                    gained: gained.clone(),
                }
            } else {
                compared(direct)
            };
        }
        if lost.is_empty() && gained.is_empty() && kubectl.is_none() {
            return None;
        }
        let kept = own
            .kept
            .get_or_init(|| Kept(self.kept(&after, &all(&before)).into()));
        Some(Difference {
            lost,
            gained,
            kubectl,
            kept: kept.clone(),
        })
    }

    /// What is given before and after, in words.
    fn kept(&self, after: &[&Side], has: &Grants) -> Vec<String> {
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
