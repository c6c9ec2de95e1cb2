//! What becomes of one custom role.

use std::{collections::BTreeMap, sync::Arc};

use object::ObjectKey;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Catalog, Grants, Level, MigrateOptions, Policy, Rule, RuleList, Template, Text,
    state::{Aggregation, Binding, Role, State},
};

/// A template that goes by a new name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Renamed {
    pub from: String,
    pub to: String,
}

/// What changes in one custom role: its list of templates, its rules, or both. Everything else of it stays. Texts and
/// lists are shared by all roles that change alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleChange {
    pub key: ObjectKey,
    /// The new text of the annotation [`crate::AGGREGATION`], a compact JSON list. `None`: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotation: Option<Text>,
    /// All rules that the role has afterwards. `None`: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<RuleList>,
    /// Revoked templates that leave the list.
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    pub removed_templates: Arc<[String]>,
    /// Templates that stay in the list under a new name.
    #[serde(default, skip_serializing_if = "<[Renamed]>::is_empty")]
    pub renamed_templates: Arc<[Renamed]>,
    /// Templates that stay, and bring permissions that the role did not have.
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    pub extended_templates: Arc<[String]>,
}

/// The releases and the policy that roles are judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Releases<'a> {
    pub(crate) from: &'a Catalog,
    pub(crate) to: &'a Catalog,
    pub(crate) policy: &'a Policy,
    pub(crate) options: MigrateOptions,
}

impl<'a> Releases<'a> {
    /// A template of the old release; one that only the new release has counts as it is there.
    pub(crate) fn old_template(&self, level: Level, name: &str) -> Option<&'a Template> {
        let old = self.from.template(level, name);
        old.or_else(|| self.to.template(level, name))
    }

    pub(crate) fn new_template(&self, level: Level, name: &str) -> Option<&'a Template> {
        self.to.template(level, name)
    }

    pub(crate) fn knows(&self, level: Level, name: &str) -> bool {
        self.from.template(level, name).is_some() || self.to.template(level, name).is_some()
    }

    /// The role that the release brings where a binding refers to one that does not exist. Those of workspaces and
    /// namespaces are made by KubeSphere's controllers, which leave namespaces of others alone.
    pub(crate) fn brought(&self, state: &State<'_>, binding: &Binding<'_>) -> Option<&'a Template> {
        let role = binding.role;
        if binding.found.is_some() || (role.kind == "Role" && !state.is_kubespheres(role.namespace)) {
            return None;
        }
        let workspace = binding.record.workspace.as_deref();
        self.to.role(state.level(role), role.name, workspace)
    }

    /// What revoked templates of a level give, and no template that is still offered. One that gives all that a
    /// revoked one does (the settings of a project, say) gives it by the way, and does not count as an offer.
    pub(crate) fn blocked(&self, level: Level) -> Grants {
        let templates = self.from.templates(level).chain(self.to.templates(level));
        let (revoked, offered): (Vec<_>, Vec<_>) =
            templates.partition(|template| self.policy.is_revoked(level, &template.name));
        let gives_all_of = |template: &&Template| {
            let mut revoked = revoked.iter().filter(|revoked| !revoked.grants.is_empty());
            revoked.any(|revoked| template.grants.covers(&revoked.grants))
        };
        let offered: Grants = offered
            .into_iter()
            .filter(|template| !gives_all_of(template))
            .map(|template| &template.grants)
            .collect();
        let revoked: Grants = revoked.iter().map(|template| &template.grants).collect();
        revoked.difference(&offered)
    }
}

/// What becomes of a role with a given list and given rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// The list afterwards.
    pub(crate) templates: Vec<String>,
    pub(crate) removed: Arc<[String]>,
    pub(crate) renamed: Arc<[Renamed]>,
    pub(crate) extended: Arc<[String]>,
    /// `None`: they stay.
    pub(crate) rules: Option<RuleList>,
    /// The role lacks some of what its kept templates gave in the old release, and would get in the new one.
    pub(crate) is_trimmed: bool,
    /// What its kept templates give in either release.
    pub(crate) kept: Grants,
    /// It has rules, and none of its templates has any.
    pub(crate) has_only_own_rules: bool,
    /// The text of the list afterwards, where it changes.
    pub(crate) annotation: Option<Text>,
    /// The list or the rules change.
    pub(crate) is_changed: bool,
    /// Templates of the list afterwards that no release has.
    pub(crate) unknown: Vec<String>,
    /// Templates of the list afterwards that are deleted when nothing refers to them any more.
    pub(crate) leaving: Vec<String>,
    /// What rules of its own grant afterwards, though the new release takes it out of custom roles.
    pub(crate) own_revoked: Option<String>,
}

/// What is to be said about a role by its annotation and rules.
#[derive(Clone, Debug)]
pub(crate) enum Judgement<'a> {
    /// No annotation, and what its rules grant that is revoked.
    Bare(Option<String>),
    Unreadable(&'a str),
    Custom(Outcome),
}

/// The same of each of the [`State::shapes`]: most custom roles of a cluster are alike.
pub(crate) fn judge_shapes<'a>(state: &State<'a>, releases: Releases<'_>) -> Vec<Judgement<'a>> {
    let blocked: BTreeMap<Level, Grants> = Level::ALL.map(|level| (level, releases.blocked(level))).into();
    let shapes = state.shapes.par_iter().map(|place| {
        let role = &state.roles[*place];
        judge(releases, &blocked[&role.level], role)
    });
    shapes.collect()
}

fn judge<'a>(releases: Releases<'_>, blocked: &Grants, role: &Role<'a>) -> Judgement<'a> {
    let (level, rules) = (role.level, role.rules());
    match role.aggregation() {
        Aggregation::Unreadable(text) => Judgement::Unreadable(text),
        Aggregation::None => Judgement::Bare(own_revoked(blocked, rules, &Grants::default())),
        Aggregation::Templates(templates) => {
            let mut outcome = decide(releases, level, &templates, rules);
            outcome.annotation = (outcome.templates != templates).then(|| {
                serde_json::Value::from(outcome.templates.clone())
                    .to_string()
                    .into()
            });
            outcome.is_changed = outcome.annotation.is_some() || outcome.rules.is_some();
            outcome.unknown = outcome.templates.clone();
            outcome.unknown.retain(|name| !releases.knows(level, name));
            if let Some(removed) = releases.policy.removed_templates.get(&level) {
                outcome.leaving = outcome.templates.clone();
                outcome.leaving.retain(|name| removed.contains(name));
            }
            let after = outcome.rules.as_deref().unwrap_or(rules);
            outcome.own_revoked = own_revoked(blocked, after, &outcome.kept);
            Judgement::Custom(outcome)
        }
    }
}

/// What rules that come from no template of the role grant, and is revoked from templates.
pub(crate) fn own_revoked(blocked: &Grants, rules: &[Rule], from_templates: &Grants) -> Option<String> {
    if blocked.is_empty() {
        return None;
    }
    let granted = Grants::of(rules).intersection(blocked).difference(from_templates);
    Some(granted.iter().next()?.to_string())
}

/// Takes revoked templates out of a list and follows renames. Order is kept; a new name that is there already is
/// not added again.
fn kept_templates(policy: &Policy, level: Level, templates: &[String]) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut removed, mut renames) = (Vec::new(), Vec::new());
    for name in templates {
        if policy.is_revoked(level, name) {
            if !removed.contains(name) {
                removed.push(name.clone());
            }
        } else if let Some(to) = policy.renamed(level, name) {
            let renamed = Renamed {
                from: name.clone(),
                to: to.to_owned(),
            };
            if !renames.contains(&renamed) {
                renames.push(renamed);
            }
            if !templates.iter().chain(&outcome.templates).any(|name| name == to) {
                outcome.templates.push(to.to_owned());
            }
        } else {
            outcome.templates.push(name.clone());
        }
    }
    outcome.removed = removed.into();
    outcome.renamed = renames.into();
    outcome
}

/// The decision about one custom role. Asked again about its own outcome, with the same or with the new release as
/// `from`, it changes nothing.
fn decide(releases: Releases<'_>, level: Level, templates: &[String], rules: &[Rule]) -> Outcome {
    let mut outcome = kept_templates(releases.policy, level, templates);
    let (revoked, kept): (Vec<&String>, Vec<&String>) = templates
        .iter()
        .partition(|name| releases.policy.is_revoked(level, name));
    let old = |names: &[&String]| {
        let templates = names.iter().filter_map(|name| releases.old_template(level, name));
        templates.map(|template| &template.grants).collect::<Grants>()
    };
    let (old_revoked, old_kept) = (old(&revoked), old(&kept));
    let names = outcome.templates.iter();
    let new: Vec<&Template> = names
        .filter_map(|name| releases.new_template(level, name))
        .collect();
    let new_kept: Grants = new.iter().map(|template| &template.grants).collect();

    let has = Grants::of(rules);
    let leaves = old_revoked.difference(&old_kept).difference(&new_kept);
    let lacks_new = !has.covers(&new_kept);
    // A role that covers what its templates give in the new release has been brought there already.
    let is_whole = !lacks_new || has.covers(&old_kept);
    let refresh = releases.options.refresh_templates;
    outcome.is_trimmed = refresh && !is_whole;
    outcome.has_only_own_rules =
        !rules.is_empty() && old_revoked.is_empty() && old_kept.is_empty() && new_kept.is_empty();

    let mut after: Vec<Rule> = Vec::new();
    if refresh && is_whole {
        for rule in new.iter().flat_map(|template| &template.rules) {
            if !after.contains(rule) {
                after.push(rule.clone());
            }
        }
        let explained = old_revoked.union(&old_kept).union(&new_kept);
        for rule in rules {
            for rule in without(rule, &leaves) {
                if !after.contains(&rule) && !explained.covers(&Grants::of([&rule])) {
                    after.push(rule);
                }
            }
        }
        if lacks_new {
            let brings = new.iter().filter(|template| !has.covers(&template.grants));
            outcome.extended = brings.map(|template| template.name.clone()).collect();
        }
    } else {
        after.extend(rules.iter().flat_map(|rule| without(rule, &leaves)));
    }
    outcome.kept = [&old_kept, &new_kept].into_iter().collect();
    if after != rules && !Grants::of(&after).equals(&has) {
        outcome.rules = Some(after.into());
    }
    outcome
}

/// A rule less what is to go, grant by grant: as much as rules can say. Where they cannot say what is left, because the
/// rule is wider than any exception (`*`), that part stays: it is somebody's own.
fn without(rule: &Rule, leaves: &Grants) -> Vec<Rule> {
    let grants = Grants::of([rule]);
    if grants.is_disjoint(leaves) {
        return vec![rule.clone()];
    }
    if let Some(rules) = grants.difference(leaves).to_rules() {
        return rules;
    }
    let mut rules = vec![rule.clone()];
    for leaf in leaves.each() {
        let less = rules.iter().map(|rule| {
            let grants = Grants::of([rule]);
            if grants.is_disjoint(&leaf) {
                return vec![rule.clone()];
            }
            grants
                .difference(&leaf)
                .to_rules()
                .unwrap_or_else(|| vec![rule.clone()])
        });
        rules = less.flatten().collect();
    }
    rules
}
