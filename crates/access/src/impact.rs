//! Who loses and gains which permission.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    rc::Rc,
};

use serde::{Deserialize, Serialize};

use crate::{
    BindingAction, BindingChange, Grant, Grants, Level, Renamed, RoleChange,
    role::Releases,
    rule::parse_rules,
    state::{Aggregation, Place, Role, RoleId, State, SubjectId},
};

/// Where a permission counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind", content = "name")]
pub enum Scope {
    Platform,
    Workspace(String),
    Cluster,
    /// The project's namespace.
    Project(String),
    /// The DevOps project's namespace.
    DevopsProject(String),
}

impl fmt::Display for Scope {
    /// `platform`, `workspace ws1`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Platform => f.write_str("platform"),
            Scope::Cluster => f.write_str("cluster"),
            Scope::Workspace(name) => write!(f, "workspace {name}"),
            Scope::Project(name) => write!(f, "project {name}"),
            Scope::DevopsProject(name) => write!(f, "DevOps project {name}"),
        }
    }
}

/// Why somebody's permissions change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "why")]
pub enum WhyChanged {
    RemovedRole { role: String, replacement: String },
    RevokedTemplates { role: String, templates: Vec<String> },
    RenamedTemplates { role: String, templates: Vec<Renamed> },
    ExtendedTemplates { role: String, templates: Vec<String> },
    ChangedBuiltInRole { role: String },
}

impl fmt::Display for WhyChanged {
    /// `role users-manager is removed, platform-regular takes its place`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyChanged::RemovedRole { role, replacement } => {
                write!(f, "role {role} is removed, {replacement} takes its place")
            }
            WhyChanged::RevokedTemplates { role, templates } => {
                write!(f, "role {role} loses {}", templates.join(", "))
            }
            WhyChanged::RenamedTemplates { role, templates } => {
                let names: Vec<_> = templates
                    .iter()
                    .map(|t| format!("{} becomes {}", t.from, t.to))
                    .collect();
                write!(f, "in role {role} {}", names.join(", "))
            }
            WhyChanged::ExtendedTemplates { role, templates } => {
                write!(f, "in role {role} the release extends {}", templates.join(", "))
            }
            WhyChanged::ChangedBuiltInRole { role } => write!(f, "the release changes role {role}"),
        }
    }
}

/// A permission that is lost or gained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionChange {
    /// In the words of the template, `Access Control: Users Management`. `None`: rules that no template gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Exactly what is lost or gained.
    pub grants: Vec<Grant>,
}

/// What changes for one user or group in one scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubjectImpact {
    /// `User`, `Group` or `ServiceAccount`
    pub kind: String,
    /// A service account's is `namespace/name`.
    pub name: String,
    /// The users in a group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    pub scope: Scope,
    pub lost: Vec<PermissionChange>,
    pub gained: Vec<PermissionChange>,
    pub reasons: Vec<WhyChanged>,
}

/// Whose effective permissions change, and what everyone who is logged in gains or loses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Impact {
    /// Sorted by scope, kind and name; only subjects for whom something changes.
    pub subjects: Vec<SubjectImpact>,
    /// What changes for groups that Kubernetes itself puts people into (`system:authenticated`), said once.
    pub everyone: Vec<SubjectImpact>,
}

/// Groups whose members Kubernetes decides: everyone who is logged in, everyone who is not.
fn is_everyone(subject: &SubjectId<'_>) -> bool {
    subject.kind == "Group" && subject.name.starts_with("system:")
}

/// Everyone who is logged in.
const AUTHENTICATED: &str = "system:authenticated";

/// One side of the comparison: what a role allows, and the templates that it is made of.
#[derive(Clone, Debug, Default)]
struct Side {
    grants: Rc<Grants>,
    level: Option<Level>,
    templates: Vec<String>,
}

/// A role before and after.
#[derive(Clone, Debug, Default)]
struct Delta {
    before: Side,
    after: Side,
    is_changed: bool,
    reasons: Vec<WhyChanged>,
}

struct Assessment<'s, 'a, 'r> {
    state: &'s State<'a>,
    releases: Releases<'r>,
    changes: &'s BTreeMap<RoleId<'a>, RoleChange>,
    bindings: &'s BTreeMap<usize, BindingChange>,
    /// Bindings by subject and place.
    held: HashMap<(SubjectId<'a>, Place<'a>), Vec<usize>>,
    /// The groups of each user.
    groups: HashMap<&'a str, Vec<&'a str>>,
    deltas: HashMap<RoleId<'a>, Rc<Delta>>,
}

/// What the changes mean to users and groups. A loss counts where nothing else gives the subject the same: another
/// binding of the same place or a wider one, a group, or what everyone has.
pub(crate) fn assess<'a>(
    state: &State<'a>,
    releases: Releases<'_>,
    changes: &BTreeMap<RoleId<'a>, RoleChange>,
    bindings: &BTreeMap<usize, BindingChange>,
) -> Impact {
    let mut held: HashMap<(SubjectId<'a>, Place<'a>), Vec<usize>> = HashMap::new();
    for (index, binding) in state.bindings.iter().enumerate() {
        for subject in &binding.subjects {
            held.entry((*subject, binding.place)).or_default().push(index);
        }
    }
    let mut groups: HashMap<&str, Vec<&str>> = HashMap::new();
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
        groups,
        deltas: HashMap::new(),
    };
    let mut affected = BTreeSet::new();
    for (index, binding) in state.bindings.iter().enumerate() {
        if bindings.contains_key(&index) || assessment.delta(binding.role).is_changed {
            affected.extend(binding.subjects.iter().map(|subject| (binding.place, *subject)));
        }
    }
    let mut impact = Impact::default();
    for (place, subject) in affected {
        if let Some(entry) = assessment.subject(place, subject) {
            if is_everyone(&subject) {
                impact.everyone.push(entry);
            } else {
                impact.subjects.push(entry);
            }
        }
    }
    impact
}

impl<'a> Assessment<'_, 'a, '_> {
    fn delta(&mut self, id: RoleId<'a>) -> Rc<Delta> {
        if let Some(delta) = self.deltas.get(&id) {
            return Rc::clone(delta);
        }
        let delta = Rc::new(self.compare(id));
        self.deltas.insert(id, Rc::clone(&delta));
        delta
    }

    fn compare(&self, id: RoleId<'a>) -> Delta {
        let role = self.state.roles.get(&id);
        let level = self.state.level(id);
        let rules = role.and_then(|role| parse_rules(role.object.get("/rules")).ok());
        let rules = rules.unwrap_or_default();
        let templates = match role.map(Role::aggregation) {
            Some(Aggregation::Templates(templates)) => templates,
            _ => Vec::new(),
        };
        let before = Side {
            grants: Rc::new(Grants::of(&rules)),
            level: Some(level),
            templates,
        };
        let mut delta = Delta {
            after: before.clone(),
            before,
            is_changed: false,
            reasons: Vec::new(),
        };
        let name = id.name.to_owned();
        if let Some(change) = self.changes.get(&id) {
            if let Some(text) = &change.annotation {
                delta.after.templates = serde_json::from_str(text).unwrap_or_default();
            }
            let Some(rules) = &change.rules else {
                return delta;
            };
            delta.after.grants = Rc::new(Grants::of(rules));
            delta.is_changed = true;
            delta.reasons = reasons(name, change);
        } else if let Some(released) = self.released(id, role) {
            if !released.is_template {
                delta.after.templates.clone_from(&released.aggregates);
            }
            if released.rules != rules && !released.grants.equals(&delta.before.grants) {
                delta.after.grants = Rc::new(released.grants.clone());
                delta.is_changed = true;
                delta.reasons = vec![WhyChanged::ChangedBuiltInRole { role: name }];
            }
        }
        delta
    }

    /// The new release's text of a role that is there and is the release's own: a template, or built in.
    fn released(&self, id: RoleId<'a>, role: Option<&Role<'a>>) -> Option<&crate::Template> {
        let role = role?;
        let is_built_in = self
            .releases
            .policy
            .is_built_in(role.level, id.name, role.workspace);
        // Kubernetes' own cluster-admin and the like keep their rules.
        let is_ours = is_built_in || role.is_template();
        self.releases
            .to
            .role(role.level, id.name, role.workspace)
            .filter(|_| is_ours)
    }

    /// What a subject has by its bindings of one place, before and after.
    fn own(&mut self, place: Place<'a>, subject: SubjectId<'a>) -> (Vec<Side>, Vec<Side>, Vec<WhyChanged>) {
        let (mut before, mut after, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
        for index in self.held.get(&(subject, place)).cloned().unwrap_or_default() {
            let binding = &self.state.bindings[index];
            let delta = self.delta(binding.role);
            before.push(delta.before.clone());
            let Some(change) = self.bindings.get(&index) else {
                after.push(delta.after.clone());
                reasons.extend(delta.reasons.iter().cloned());
                continue;
            };
            let (BindingAction::Rebind { to: replacement } | BindingAction::DeleteRedundant { replacement }) =
                &change.action;
            reasons.push(WhyChanged::RemovedRole {
                role: change.from.clone(),
                replacement: replacement.clone(),
            });
            if matches!(change.action, BindingAction::Rebind { .. }) {
                after.push(self.replacement(binding.role, replacement));
            }
        }
        reasons.sort();
        reasons.dedup();
        (before, after, reasons)
    }

    fn replacement(&self, role: RoleId<'a>, name: &str) -> Side {
        let level = self.state.level(role);
        let released = self.releases.to.role(level, name, None);
        Side {
            grants: Rc::new(released.map(|role| role.grants.clone()).unwrap_or_default()),
            level: Some(level),
            templates: released.map(|role| role.aggregates.clone()).unwrap_or_default(),
        }
    }

    /// What else gives the subject something in this place, before and after.
    fn otherwise(&mut self, place: Place<'a>, subject: SubjectId<'a>) -> (Grants, Grants) {
        let mut through = Vec::new();
        let wider = self.state.wider(place);
        through.extend(wider.iter().map(|place| (subject, *place)));
        let mut groups = Vec::new();
        if subject.kind == "User" {
            groups.extend(self.groups.get(subject.name).into_iter().flatten().copied());
        }
        if !is_everyone(&subject) {
            groups.push(AUTHENTICATED);
        }
        for group in groups {
            let group = SubjectId::group(group);
            through.extend(wider.iter().chain([&place]).map(|place| (group, *place)));
        }
        let (mut before, mut after) = (Grants::default(), Grants::default());
        for (subject, place) in through {
            let (b, a, _) = self.own(place, subject);
            for side in &b {
                before.add(&side.grants);
            }
            for side in &a {
                after.add(&side.grants);
            }
        }
        (before, after)
    }

    fn subject(&mut self, place: Place<'a>, subject: SubjectId<'a>) -> Option<SubjectImpact> {
        let (before, after, reasons) = self.own(place, subject);
        let (other_before, other_after) = self.otherwise(place, subject);
        let all = |sides: &[Side]| sides.iter().map(|side| &*side.grants).collect::<Grants>();
        let (has, gets) = (all(&before), all(&after));
        let lost = self.in_words(&has, &gets.union(&other_after), &before, &after, false);
        let gained = self.in_words(&gets, &has.union(&other_before), &after, &before, true);
        if lost.is_empty() && gained.is_empty() {
            return None;
        }
        let members = self
            .state
            .members
            .get(subject.name)
            .filter(|_| subject.kind == "Group");
        Some(SubjectImpact {
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
            lost,
            gained,
            reasons,
        })
    }

    /// What of `grants` is not in `elsewhere`, by the templates of `side` that give it; first those that `other`
    /// does not have. Two templates that give the same both name it.
    fn in_words(
        &self,
        grants: &Grants,
        elsewhere: &Grants,
        side: &[Side],
        other: &[Side],
        is_new: bool,
    ) -> Vec<PermissionChange> {
        let mut rest = grants.difference(elsewhere);
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
                grants: given.intersection(grants).difference(elsewhere).simplified(),
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

/// The templates of a side, as often as they are named.
fn named(sides: &[Side]) -> Vec<(Level, &str)> {
    let named = sides.iter().flat_map(|side| {
        let names = side.templates.iter().map(String::as_str);
        side.level
            .into_iter()
            .flat_map(move |level| names.clone().map(move |name| (level, name)))
    });
    named.collect()
}

fn reasons(role: String, change: &RoleChange) -> Vec<WhyChanged> {
    let mut reasons = Vec::new();
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
    reasons
}
