//! Who can do something, and what somebody holds.

use serde::Serialize;

use super::{Authorizer, Verdict, user_of};
use crate::{
    Grants, Question, Scope,
    state::{Role, SubjectId},
};

/// Somebody who can do what was asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Holder {
    /// `User`, `Group`, `ServiceAccount`
    pub kind: String,
    pub name: String,
    /// The users in a group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// `GlobalRoleBinding admin`
    pub binding: String,
    /// `GlobalRole platform-admin`
    pub role: String,
    /// The place of the rule in the role; `None`: its Rego policy.
    pub rule: Option<usize>,
    /// It depends on what was not said, or cannot be read.
    pub is_open: bool,
}

/// What somebody holds by one binding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Held {
    pub scope: Scope,
    pub role: String,
    pub binding: String,
    /// The group through which it is held.
    pub group: Option<String>,
    /// The role does not exist, or its rules cannot be read.
    pub is_unknown: bool,
    /// The role carries a Rego policy, which can allow more.
    pub has_policy: bool,
    /// What it allows, in words.
    pub allows: Vec<String>,
}

fn name_of(subject: &SubjectId<'_>) -> String {
    match subject.namespace {
        "" => subject.name.to_owned(),
        namespace => format!("{namespace}/{}", subject.name),
    }
}

impl Authorizer<'_> {
    /// Who can do what a question asks; who asks does not matter.
    pub fn who_can(&self, question: &Question<'_>) -> Vec<Holder> {
        let numbered = self.number(question);
        let places = self.places_of(question);
        let mut holders = Vec::new();
        for (index, binding) in self.state.bindings.iter().enumerate() {
            if !places.contains(&Some(binding.place)) {
                continue;
            }
            let Some(granting) = &self.granting[index] else {
                continue;
            };
            let by_rule = self.verdict(granting.rules, None, question, &numbered, &[]);
            for subject in binding.subjects() {
                let user = user_of(&subject);
                if user.is_none() && subject.kind != "Group" {
                    continue;
                }
                let verdict = match (by_rule, granting.policy, user) {
                    (Verdict::Rule(_), ..) | (_, None, _) => by_rule,
                    // It may look at who of the group asks.
                    (_, Some(_), None) => Verdict::Open,
                    (_, Some(_), Some(user)) => {
                        let asked = Question {
                            user,
                            groups: Vec::new(),
                            ..question.clone()
                        };
                        let groups = self.groups_of(&asked);
                        self.verdict(granting.rules, granting.policy, &asked, &numbered, &groups)
                    }
                };
                let rule = match verdict {
                    Verdict::Nothing => continue,
                    Verdict::Rule(rule) => Some(rule),
                    _ => None,
                };
                let members = self.state.members.get(subject.name).into_iter().flatten();
                holders.push(Holder {
                    kind: subject.kind.to_owned(),
                    name: name_of(&subject),
                    members: members
                        .filter(|_| subject.kind == "Group")
                        .map(|member| (*member).to_owned())
                        .collect(),
                    binding: self.binding_name(index),
                    role: self.role_name(index),
                    rule,
                    is_open: matches!(verdict, Verdict::Open | Verdict::Unreadable),
                });
            }
        }
        holders.sort();
        holders
    }

    /// Everything that a user holds, by scope. A service account is named as Kubernetes does:
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub fn show(&self, user: &str) -> Vec<Held> {
        let asked = Question {
            user: user.into(),
            ..Question::default()
        };
        let groups = self.groups_of(&asked);
        let mut held = Vec::new();
        for (index, binding) in self.state.bindings.iter().enumerate() {
            let as_whom = binding.subjects().find_map(|subject| match user_of(&subject) {
                Some(user) => (user == asked.user_name()).then_some(None),
                None => (subject.kind == "Group" && groups.iter().any(|group| group == subject.name))
                    .then_some(Some(subject.name)),
            });
            let Some(group) = as_whom else { continue };
            let role = binding.found.map(|place| &self.state.roles[place]);
            let is_unknown = role.is_none_or(|role| role.set.error.is_some());
            let rules = role.map(Role::rules).unwrap_or_default();
            held.push(Held {
                scope: self.state.scope(binding.place),
                role: self.role_name(index),
                binding: self.binding_name(index),
                group: group.map(str::to_owned),
                is_unknown,
                has_policy: role.is_some_and(|role| role.record.rego.is_some()),
                allows: Grants::of(rules)
                    .simplified()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            });
        }
        held.sort();
        held
    }

    /// What a question names and the cluster does not have, as `no workspace ws9`. A no about it is easily taken for one about
    /// what was meant. Users that only bindings name, and Kubernetes' own, are known.
    pub fn unknown_names(&self, question: &Question<'_>) -> Vec<String> {
        let records = self.state.records;
        let (user, workspace) = (&*question.user, &*question.workspace);
        let (namespace, devops) = (&*question.namespace, &*question.devops);
        let mut federated = records.federated.iter();
        let knows_user = user.starts_with("system:")
            || records.users.contains(user)
            || self.users.contains_key(user)
            || self.member_of.contains_key(user)
            || federated.any(|record| record.brings(user));
        let names = [
            ("user", user, knows_user),
            ("workspace", workspace, records.workspaces.contains_key(workspace)),
            ("namespace", namespace, records.namespaces.contains_key(namespace)),
            ("DevOps project", devops, self.devops.contains_key(devops)),
        ];
        let unknown = names
            .into_iter()
            .filter(|(_, name, known)| !name.is_empty() && !known);
        unknown
            .map(|(what, name, _)| format!("no {what} {name}"))
            .collect()
    }
}
