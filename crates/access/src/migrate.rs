//! The migration: what has to change so that a cluster's roles and bindings are those of the new release.

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectKey};
use serde::{Deserialize, Serialize};

use crate::{
    AccessFinding, Catalog, Grants, Impact, Level, Policy, Records, RemovedRole, RoleChange, Suggestion,
    finding::{
        check_name_taken, dangling, grants_revoked, keeps_policy, loses_policy, still_referred_to, trimmed,
        unknown_template, unreadable_aggregation, unreadable_rules, without_workspace,
    },
    hash::FastSet,
    impact,
    oddities::find_oddities,
    policy::is_kubernetes_own,
    role::{Judgement, Outcome, Releases, judge_shapes, own_revoked},
    state::{Binding, Place, Role, RoleId, State, SubjectId},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrateOptions {
    /// Whether custom roles get what their templates gained in the new release. Otherwise they only lose what is
    /// revoked.
    pub refresh_templates: bool,
}

impl Default for MigrateOptions {
    fn default() -> Self {
        Self {
            refresh_templates: true,
        }
    }
}

/// What becomes of a binding to a removed role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "action")]
pub enum BindingAction {
    /// `roleRef.name` changes; name, UID, labels and annotations of the binding stay.
    Rebind { to: String },
    /// Its subjects all have the replacement through another binding: it is deleted.
    DeleteRedundant { replacement: String },
}

/// What changes in one binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindingChange {
    pub key: ObjectKey,
    /// The removed role that it refers to.
    pub from: String,
    #[serde(flatten)]
    pub action: BindingAction,
}

/// Everything that [`migrate`] finds to do. Empty lists: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Migration {
    /// To do first, each by itself, under optimistic locking.
    pub role_changes: Vec<RoleChange>,
    pub binding_changes: Vec<BindingChange>,
    /// To delete after all changes: removed roles, and templates to which nothing refers any more.
    pub removed: Vec<ObjectKey>,
    pub findings: Vec<AccessFinding>,
    pub impact: Impact,
    /// Bindings that would give back what people lose, within the new release's model. For a person to look at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub suggestions: Vec<Suggestion>,
}

impl Migration {
    /// Whether there is nothing to write. Findings may remain.
    pub fn is_done(&self) -> bool {
        self.role_changes.is_empty() && self.binding_changes.is_empty() && self.removed.is_empty()
    }
}

/// What has to change, given the cluster's GlobalRoles, WorkspaceRoles, ClusterRoles, Roles, their bindings,
/// Namespaces and GroupBindings (other kinds are ignored, any order). `from` is the release that the cluster comes
/// from, `to` the new one, `policy` the new one's.
///
/// The answer depends on the state alone: asked again in the middle of a migration, it says what is left.
pub fn migrate<'a>(
    state: impl IntoIterator<Item = &'a Object>,
    from: &Catalog,
    to: &Catalog,
    policy: &Policy,
    options: MigrateOptions,
) -> Migration {
    migrate_records(&state.into_iter().collect(), from, to, policy, options)
}

/// The same, of records.
pub fn migrate_records(
    records: &Records,
    from: &Catalog,
    to: &Catalog,
    policy: &Policy,
    options: MigrateOptions,
) -> Migration {
    let state = State::new(records);
    let releases = Releases {
        from,
        to,
        policy,
        options,
    };
    let (held, (roles, bindings)) = rayon::join(
        || impact::Held::new(&state),
        || (judge_roles(&state, releases), judge_bindings(&state, releases)),
    );
    let (assessed, assessment) = impact::assess(&state, held, releases, &roles.changes, &bindings);
    let mut migration = Migration::default();
    let findings = roles.findings;
    let (suggestions, ()) = rayon::join(
        || impact::suggest(&state, releases, &assessed),
        || {
            migration
                .findings
                .extend(impact::find_left_without(&state, &assessment));
            migration.findings.extend(findings);
            remove(&state, policy, &roles.references, &mut migration);
            find_dangling(&state, releases, &bindings, &mut migration.findings);
            find_oddities(&state, releases, &mut migration.findings);
            find_policies(&state, policy, &mut migration.findings);
        },
    );
    migration.suggestions = suggestions;
    migration.impact = assessed;
    migration.role_changes = roles.changes.into_values().collect();
    migration.binding_changes = bindings.into_values().collect();
    migration.findings.sort();
    migration
}

/// The outcome of [`judge_roles`].
#[derive(Default)]
pub(crate) struct Judged<'a> {
    /// By the places of the roles in [`State::roles`].
    pub(crate) changes: BTreeMap<usize, RoleChange>,
    findings: Vec<AccessFinding>,
    references: References<'a>,
}

/// Which templates roles name after the migration.
#[derive(Default)]
struct References<'a> {
    /// Role kind, namespace, template, and the first role that names it.
    names: BTreeMap<(&'a str, &'a str, String), RoleId<'a>>,
    /// Lists that could not be read, which may name anything.
    texts: Vec<(RoleId<'a>, &'a str)>,
}

pub(crate) fn judge_roles<'a>(state: &State<'a>, releases: Releases<'_>) -> Judged<'a> {
    let judgements = judge_shapes(state, releases);
    // Which roles people are bound to in namespaces, and the level of these.
    let bound_to_people: FastSet<(usize, Level)> = state
        .bindings
        .iter()
        .filter(|binding| binding.subjects().any(|subject| subject.is_person()))
        .filter_map(|binding| match binding.place {
            Place::Namespace(namespace) => Some((binding.found?, state.namespace_level(namespace))),
            _ => None,
        })
        .collect();
    let mut blocked: BTreeMap<Level, Grants> = BTreeMap::new();
    let mut judged = Judged::default();
    for (place, role) in state.roles.iter().enumerate() {
        let policy = releases.policy;
        let is_removed = policy.removed_role(role.id.kind, role.id.name).is_some();
        let is_built_in = policy.is_built_in(role.level, role.id.name, role.workspace);
        if let Some(error) = &role.set.error {
            let is_released = || {
                releases
                    .to
                    .role(role.level, role.id.name, role.workspace)
                    .is_some()
            };
            let is_replaced = is_removed || ((role.is_template() || is_built_in) && is_released());
            judged.findings.push(unreadable_rules(role, error, is_replaced));
            continue;
        }
        if role.is_template() || is_removed {
            continue;
        }
        if is_built_in {
            judged.findings.extend(check_name_taken(role, releases));
            continue;
        }
        match &judgements[role.shape] {
            Judgement::Unreadable(text) => {
                judged.findings.push(unreadable_aggregation(role, text, releases));
                judged.references.texts.push((role.id, *text));
            }
            Judgement::Bare(revoked) => {
                // Kubernetes and its add-ons keep Roles of their own, which no person is bound to.
                let is_bound = |level: Level| bound_to_people.contains(&(place, level));
                let mut what = revoked
                    .clone()
                    .filter(|_| role.id.kind != "Role" || is_bound(role.level));
                // In a namespace a ClusterRole gives what a Role there would.
                if role.id.kind == "ClusterRole" && !is_kubernetes_own(role.id.name) {
                    for level in Level::ALL.into_iter().filter(|level| is_bound(*level)) {
                        let blocked = blocked.entry(level).or_insert_with(|| releases.blocked(level));
                        what = what.or_else(|| own_revoked(blocked, role.rules(), &Grants::default()));
                    }
                }
                judged
                    .findings
                    .extend(what.map(|what| grants_revoked(role, &what)));
            }
            Judgement::Custom(outcome) => {
                for name in &outcome.leaving {
                    let key = (role.id.kind, role.id.namespace, name.clone());
                    judged.references.names.entry(key).or_insert(role.id);
                }
                for name in &outcome.unknown {
                    let own = RoleId { name, ..role.id };
                    if !state.role(own).is_some_and(Role::is_template) {
                        judged.findings.push(unknown_template(role, name));
                    }
                }
                judged.findings.extend(trimmed(role, outcome));
                if let Some(what) = &outcome.own_revoked {
                    judged.findings.push(grants_revoked(role, what));
                }
                if outcome.is_changed {
                    judged.changes.insert(place, change(role, outcome));
                }
            }
        }
    }
    judged
}

fn change(role: &Role<'_>, outcome: &Outcome) -> RoleChange {
    RoleChange {
        key: role.record.key(),
        annotation: outcome.annotation.clone(),
        rules: outcome.rules.clone(),
        removed_templates: outcome.removed.clone(),
        renamed_templates: outcome.renamed.clone(),
        extended_templates: outcome.extended.clone(),
    }
}

/// What becomes of bindings to removed roles.
///
/// A binding whose subjects all have the replacement through others is redundant. Each is held against those that
/// have the replacement already and those that are still to be changed, one after the other, so the answer is the
/// same wherever an earlier run was cut.
pub(crate) fn judge_bindings<'a>(
    state: &State<'a>,
    releases: Releases<'_>,
) -> BTreeMap<usize, BindingChange> {
    let mut changes = BTreeMap::new();
    let replaced = |binding: &Binding<'a>| {
        let role = releases
            .policy
            .removed_role_of(binding.role.kind, binding.role.name)?;
        // Under an alias there is no role. Where there is one, it is somebody's own.
        (role.name == binding.role.name || binding.found.is_none()).then_some(role)
    };
    // By place and replacement: how many bindings give it to whom, and which of them are to be changed.
    let mut holders: BTreeMap<(Place<'a>, &str, &str), BTreeMap<SubjectId<'a>, usize>> = BTreeMap::new();
    let mut candidates = Vec::new();
    for (index, binding) in state.bindings.iter().enumerate() {
        if binding.record.is_being_deleted {
            continue;
        }
        let role = replaced(binding);
        let name = role.map_or(binding.role.name, |role| role.replacement.as_str());
        let is_replacement = |role: &RemovedRole| role.kind == binding.role.kind && role.replacement == name;
        if !releases.policy.removed_roles.iter().any(is_replacement) {
            continue;
        }
        let holders = holders
            .entry((binding.place, binding.role.kind, name))
            .or_default();
        for subject in binding.subjects().collect::<BTreeSet<_>>() {
            *holders.entry(subject).or_default() += 1;
        }
        candidates.extend(role.map(|role| (index, binding, role)));
    }
    for (index, binding, role) in candidates.into_iter().rev() {
        let key = (binding.place, binding.role.kind, role.replacement.as_str());
        let holders = holders.entry(key).or_default();
        let subjects: BTreeSet<_> = binding.subjects().collect();
        let is_redundant = !subjects.is_empty()
            && subjects
                .iter()
                .all(|subject| holders.get(subject).is_some_and(|n| *n > 1));
        if is_redundant {
            for subject in &subjects {
                if let Some(count) = holders.get_mut(subject) {
                    *count -= 1;
                }
            }
        }
        let replacement = role.replacement.clone();
        changes.insert(
            index,
            BindingChange {
                key: binding.record.key(),
                from: binding.role.name.to_owned(),
                action: if is_redundant {
                    BindingAction::DeleteRedundant { replacement }
                } else {
                    BindingAction::Rebind { to: replacement }
                },
            },
        );
    }
    changes
}

/// Removed roles, and templates that the new release no longer has and nothing refers to.
fn remove(state: &State<'_>, policy: &Policy, references: &References<'_>, migration: &mut Migration) {
    let is_bound = |id: RoleId<'_>| state.bindings.iter().any(|binding| binding.role == id);
    for role in state.roles.iter().filter(|role| !role.record.is_being_deleted) {
        if policy.removed_role(role.id.kind, role.id.name).is_some() {
            migration.removed.push(role.record.key());
            continue;
        }
        let is_removed = policy
            .removed_templates
            .get(&role.level)
            .is_some_and(|names| names.contains(role.id.name));
        if !is_removed || !role.is_template() {
            continue;
        }
        let key = (role.id.kind, role.id.namespace, role.id.name.to_owned());
        let unreadable = references.texts.iter().find(|(id, text)| {
            (id.kind, id.namespace) == (role.id.kind, role.id.namespace) && text.contains(role.id.name)
        });
        let referrer = match (references.names.get(&key), unreadable) {
            (Some(id), _) | (None, Some((id, _))) => Some(format!("{} {}", id.kind, id.name)),
            (None, None) if is_bound(role.id) => Some("a binding".to_owned()),
            (None, None) => None,
        };
        match referrer {
            None => migration.removed.push(role.record.key()),
            Some(referrer) => migration.findings.push(still_referred_to(role, &referrer)),
        }
    }
}

/// Bindings of KubeSphere's, or of users in its places, that refer to nothing, and whose role the new release does not
/// bring either; and those that count nowhere.
fn find_dangling(
    state: &State<'_>,
    releases: Releases<'_>,
    changes: &BTreeMap<usize, BindingChange>,
    findings: &mut Vec<AccessFinding>,
) {
    for (index, binding) in state.bindings.iter().enumerate() {
        let record = binding.record;
        let is_of_users = || {
            (record.namespace.is_empty() || state.is_kubespheres(&record.namespace))
                && binding
                    .subjects()
                    .any(|subject| subject.kind == "User" && subject.is_person())
        };
        if binding.found.is_none()
            && !changes.contains_key(&index)
            && (record.is_iam() || record.user.is_some() || is_of_users())
            && releases.brought(state, binding).is_none()
        {
            findings.push(dangling(binding));
        }
    }
    for binding in &state.placeless {
        let role = state.role(RoleId {
            kind: "WorkspaceRole",
            namespace: "",
            name: &binding.role,
        });
        findings.push(without_workspace(binding, role.and_then(|role| role.workspace)));
    }
}

/// Rego policies of people's own roles, and of those that go: what they allow is not computed. Built-in ones come with the release.
fn find_policies(state: &State<'_>, policy: &Policy, findings: &mut Vec<AccessFinding>) {
    let bound: BTreeSet<usize> = state
        .bindings
        .iter()
        .filter_map(|binding| binding.found)
        .filter(|place| state.roles[*place].record.rego.is_some())
        .collect();
    for role in bound.into_iter().map(|place| &state.roles[place]) {
        if policy.removed_role(role.id.kind, role.id.name).is_some() {
            findings.push(loses_policy(role));
        } else if !policy.is_built_in(role.level, role.id.name, role.workspace) {
            findings.push(keeps_policy(role));
        }
    }
}
