//! [`Authorizer`]: ks-apiserver's decisions, and Kubernetes' own.
//!
//! KubeSphere asks, in this order: bindings on the platform, where a request of global scope ends; of the workspace
//! that the request names, or that its namespace or DevOps project belongs to; of the namespace; of the cluster. The
//! first rule that allows wins, and nothing denies. Kubernetes asks the cluster's bindings and the namespace's.
//!
//! All names are numbered, and bindings are found by subject and place, so that a question costs a few look-ups however
//! large the cluster is.

mod holders;

use std::borrow::Cow;

pub use self::holders::{Held, Holder};
use crate::{
    Answer, Question, Records, RequestScope, Rule,
    hash::FastMap,
    rego::{Interpreter, Policy},
    state::{Binding, Place, RoleId, State, SubjectId},
};

/// Before the namespace and the name of a service account in its user name.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Whoever is in it may do everything, in Kubernetes' own eyes.
const MASTERS: &str = "system:masters";

/// A name that nobody mentions.
const NOBODY: u32 = u32::MAX;

/// A list of a rule in which `*` stands for everything.
#[derive(Debug)]
enum Choice {
    All,
    Of(Vec<u32>),
}

impl Choice {
    fn has(&self, name: u32) -> bool {
        match self {
            Choice::All => true,
            Choice::Of(names) => names.contains(&name),
        }
    }
}

/// A rule with its names numbered.
#[derive(Debug)]
struct NumberedRule {
    verbs: Choice,
    api_groups: Choice,
    /// `pods`, `pods/log`
    resources: Choice,
    /// `log` of `*/log`
    subresources: Vec<u32>,
    /// Empty: all.
    resource_names: Vec<u32>,
    has_urls: bool,
}

/// Numbers for the names in rules.
#[derive(Debug, Default)]
struct Numbering(FastMap<Box<str>, u32>);

impl Numbering {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        let number = u32::try_from(self.0.len()).unwrap_or(NOBODY - 1);
        self.0.insert(name.into(), number);
        number
    }

    fn find(&self, name: &str) -> u32 {
        self.0.get(name).copied().unwrap_or(NOBODY)
    }

    fn choice(&mut self, names: &[String]) -> Choice {
        if names.iter().any(|name| name == "*") {
            Choice::All
        } else {
            Choice::Of(names.iter().map(|name| self.number(name)).collect())
        }
    }

    fn rule(&mut self, rule: &Rule) -> NumberedRule {
        let subresources = rule.resources.iter().filter_map(|r| r.strip_prefix("*/"));
        let subresources: Vec<&str> = subresources.filter(|sub| !sub.is_empty()).collect();
        NumberedRule {
            verbs: self.choice(&rule.verbs),
            api_groups: self.choice(&rule.api_groups),
            resources: self.choice(&rule.resources),
            subresources: subresources.into_iter().map(|sub| self.number(sub)).collect(),
            resource_names: rule.resource_names.iter().map(|name| self.number(name)).collect(),
            has_urls: !rule.non_resource_urls.is_empty(),
        }
    }
}

/// The names of a question, numbered.
struct NumberedQuestion {
    verb: u32,
    api_group: u32,
    resource: u32,
    subresource: u32,
    name: u32,
}

/// Rules that can be read, and the policy beside them.
#[derive(Debug)]
struct Granting {
    rules: usize,
    policy: Option<usize>,
}

/// A DevOps project, as far as it is known.
#[derive(Debug, Default)]
struct DevopsProject<'a> {
    namespace: Option<&'a str>,
    workspace: Option<&'a str>,
}

/// Answers questions about one cluster.
#[derive(Debug)]
pub struct Authorizer<'a> {
    state: State<'a>,
    numbering: Numbering,
    /// By place in the records' rule sets; `None`: unreadable.
    rules: Vec<Option<Vec<NumberedRule>>>,
    policies: Vec<Policy>,
    /// What each binding gives; `None`: its role does not exist.
    granting: Vec<Option<Granting>>,
    users: FastMap<Box<str>, u32>,
    groups: FastMap<Box<str>, u32>,
    /// The groups that GroupBindings put a user into, by the number of the user.
    member_of: FastMap<&'a str, Vec<&'a str>>,
    places: FastMap<Place<'a>, u32>,
    /// Bindings by subject and place, ascending.
    held: FastMap<u64, Vec<u32>>,
    devops: FastMap<&'a str, DevopsProject<'a>>,
    interpreter: Option<Interpreter>,
}

/// The user that a subject names; `None`: it is a group, or names nobody.
fn user_of<'s>(subject: &SubjectId<'s>) -> Option<Cow<'s, str>> {
    match subject.kind {
        "User" => Some(subject.name.into()),
        "ServiceAccount" if !subject.namespace.is_empty() => {
            Some(format!("{SERVICE_ACCOUNT}{}:{}", subject.namespace, subject.name).into())
        }
        _ => None,
    }
}

/// The namespace of a service account, by its user name.
fn service_account_namespace(user: &str) -> Option<&str> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some(namespace)
}

fn pair(subject: u32, place: u32) -> u64 {
    u64::from(subject) << 32 | u64::from(place)
}

/// What a binding says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Rule(usize),
    Policy,
    Nothing,
    /// Its rules cannot be read.
    Unreadable,
    /// Its policy does not say, or asks for what the question does not.
    Open,
}

impl<'a> Authorizer<'a> {
    pub fn new(records: &'a Records) -> Self {
        let state = State::new(records);
        let mut numbering = Numbering::default();
        let rules = records.rule_sets.iter().map(|set| match set.error {
            Some(_) => None,
            None => Some(set.rules.iter().map(|rule| numbering.rule(rule)).collect()),
        });
        let rules = rules.collect();
        let mut policies = Vec::new();
        let mut known_policies: FastMap<&str, usize> = FastMap::default();
        let mut granting = Vec::with_capacity(state.bindings.len());
        let (mut users, mut groups): (FastMap<Box<str>, u32>, FastMap<Box<str>, u32>) = Default::default();
        let mut places: FastMap<Place<'_>, u32> = FastMap::default();
        let mut held: FastMap<u64, Vec<u32>> = FastMap::default();
        let mut subjects = 0;
        for (index, binding) in state.bindings.iter().enumerate() {
            let role = binding.found.map(|place| state.roles[place].record);
            granting.push(role.map(|role| Granting {
                rules: role.rules,
                policy: role.rego.as_ref().map(|text| {
                    *known_policies.entry(text).or_insert_with(|| {
                        policies.push(Policy::new(text));
                        policies.len() - 1
                    })
                }),
            }));
            let next = u32::try_from(places.len()).unwrap_or(NOBODY);
            let place = *places.entry(binding.place).or_insert(next);
            let index = u32::try_from(index).unwrap_or(NOBODY);
            for subject in binding.subjects() {
                let (name, names) = match (user_of(&subject), subject.kind) {
                    (Some(user), _) => (user, &mut users),
                    (None, "Group") => (subject.name.into(), &mut groups),
                    _ => continue,
                };
                let number = *names.entry(name.into()).or_insert_with(|| {
                    subjects += 1;
                    subjects
                });
                let list = held.entry(pair(number, place)).or_default();
                if list.last() != Some(&index) {
                    list.push(index);
                }
            }
        }
        let mut member_of: FastMap<&str, Vec<&str>> = FastMap::default();
        for (group, members) in &state.members {
            for user in members {
                member_of.entry(user).or_default().push(group);
            }
        }
        let mut devops: FastMap<&str, DevopsProject<'_>> = FastMap::default();
        for (name, workspace) in &records.devops {
            devops.entry(name).or_default().workspace = workspace.as_deref();
        }
        for (name, record) in &records.namespaces {
            if let Some(project) = record.devops.as_deref() {
                devops.entry(project).or_default().namespace = Some(name);
            }
        }
        Self {
            state,
            numbering,
            rules,
            policies,
            granting,
            users,
            groups,
            member_of,
            places,
            held,
            devops,
            interpreter: None,
        }
    }

    /// What evaluates Rego policies that do more than compare; without, what depends on them cannot be decided.
    pub fn with_interpreter(mut self, interpreter: Interpreter) -> Self {
        self.interpreter = Some(interpreter);
        self
    }

    fn policy_allows(&self, policy: usize, question: &Question<'_>, groups: &[Cow<'_, str>]) -> Option<bool> {
        let policy = &self.policies[policy];
        // Only programs look at groups.
        let groups: Vec<&str> = if policy.is_program() {
            groups.iter().map(|group| &**group).collect()
        } else {
            Vec::new()
        };
        policy.allows(question, &groups, self.interpreter)
    }
}

impl<'a> Authorizer<'a> {
    /// Whether ks-apiserver of v3.3.1 allows a request.
    pub fn check(&self, question: &Question<'_>) -> Answer {
        let groups = self.groups_of(question);
        let places = self.places_of(question);
        self.decide(question, &groups, places.into_iter().flatten(), true)
    }

    /// Whether Kubernetes allows it to somebody who comes with a kubeconfig: by Roles and ClusterRoles alone.
    pub fn check_kubernetes(&self, question: &Question<'_>) -> Answer {
        let groups = self.groups_of(question);
        if groups.iter().any(|group| group == MASTERS) {
            return Answer {
                allowed: Some(true),
                reason: "members of system:masters may do everything".into(),
            };
        }
        let places = [
            Some(Place::Cluster),
            self.namespace_of(question).map(Place::Namespace),
        ];
        self.decide(question, &groups, places.into_iter().flatten(), false)
    }

    /// All groups that somebody who asks is in.
    fn groups_of<'q>(&'q self, question: &'q Question<'_>) -> Vec<Cow<'q, str>> {
        let user = question.user_name();
        let said = question.groups.iter().map(|group| &**group);
        let bound = self.member_of.get(user).into_iter().flatten().copied();
        let mut groups: Vec<Cow<'_, str>> = said.chain(bound).map(Cow::from).collect();
        if let Some(namespace) = service_account_namespace(user) {
            groups.push(SERVICE_ACCOUNTS.into());
            groups.push(format!("{SERVICE_ACCOUNTS}:{namespace}").into());
        }
        groups.push(if question.is_anonymous() {
            UNAUTHENTICATED.into()
        } else {
            AUTHENTICATED.into()
        });
        groups
    }

    fn namespace_of<'q>(&self, question: &'q Question<'_>) -> Option<&'q str>
    where
        'a: 'q,
    {
        match question.scope {
            RequestScope::Namespace => Some(&*question.namespace),
            // Its namespace has the project's name, unless its label says otherwise.
            RequestScope::DevOps => Some(
                self.devops
                    .get(&*question.devops)
                    .and_then(|project| project.namespace)
                    .unwrap_or(&question.devops),
            ),
            _ => None,
        }
    }

    /// Where bindings are looked for, in order.
    fn places_of<'q>(&self, question: &'q Question<'_>) -> [Option<Place<'q>>; 4]
    where
        'a: 'q,
    {
        if question.scope == RequestScope::Global {
            return [Some(Place::Platform), None, None, None];
        }
        let namespace = self.namespace_of(question);
        let owner = match question.scope {
            RequestScope::DevOps => self
                .devops
                .get(&*question.devops)
                .and_then(|project| project.workspace),
            _ => None,
        };
        let owner = owner.or_else(|| self.state.namespaces.get(namespace?)?.workspace.as_deref());
        let owner = owner.filter(|workspace| !workspace.is_empty());
        let workspace = match question.scope {
            RequestScope::Cluster | RequestScope::Global => None,
            RequestScope::Workspace => Some(&*question.workspace),
            RequestScope::Namespace | RequestScope::DevOps => Some(owner.unwrap_or(&question.workspace)),
        };
        [
            Some(Place::Platform),
            workspace.filter(|name| !name.is_empty()).map(Place::Workspace),
            namespace.map(Place::Namespace),
            Some(Place::Cluster),
        ]
    }

    fn number(&self, question: &Question<'_>) -> NumberedQuestion {
        let resource = if question.subresource.is_empty() {
            self.numbering.find(&question.resource)
        } else {
            self.numbering
                .find(&format!("{}/{}", question.resource, question.subresource))
        };
        NumberedQuestion {
            verb: self.numbering.find(&question.verb),
            api_group: self.numbering.find(&question.api_group),
            resource,
            subresource: match &*question.subresource {
                "" => NOBODY,
                sub => self.numbering.find(sub),
            },
            name: self.numbering.find(&question.name),
        }
    }

    fn decide<'q>(
        &self,
        question: &Question<'_>,
        groups: &[Cow<'_, str>],
        places: impl Iterator<Item = Place<'q>>,
        with_policies: bool,
    ) -> Answer {
        let subjects = self.users.get(question.user_name()).into_iter();
        let subjects: Vec<u32> = subjects
            .chain(groups.iter().filter_map(|group| self.groups.get(&**group)))
            .copied()
            .collect();
        let numbered = self.number(question);
        let (mut open, mut programs) = (None, Vec::new());
        let mut found: Vec<u32> = Vec::new();
        for place in places {
            let Some(place) = self.places.get(&place) else {
                continue;
            };
            found.clear();
            for subject in &subjects {
                found.extend(self.held.get(&pair(*subject, *place)).into_iter().flatten());
            }
            found.sort_unstable();
            found.dedup();
            for index in found.iter().map(|index| *index as usize) {
                let Some(granting) = &self.granting[index] else {
                    continue;
                };
                let policy = granting.policy.filter(|_| with_policies);
                // A program takes long, and is only run where nothing else allows.
                let policy = policy.filter(|policy| {
                    let is_program = self.policies[*policy].is_program();
                    if is_program {
                        programs.push((index, *policy));
                    }
                    !is_program
                });
                match self.verdict(granting.rules, policy, question, &numbered, groups) {
                    Verdict::Nothing => {}
                    Verdict::Rule(rule) => return self.allowed(index, Some(rule)),
                    Verdict::Policy => return self.allowed(index, None),
                    verdict => open = open.or(Some((index, verdict))),
                }
            }
        }
        for (index, policy) in programs {
            match self.policy_allows(policy, question, groups) {
                Some(true) => return self.allowed(index, None),
                Some(false) => {}
                None => open = open.or(Some((index, Verdict::Open))),
            }
        }
        match open {
            None => Answer {
                allowed: Some(false),
                reason: "no rule allows it".into(),
            },
            Some((index, verdict)) => Answer::undecided(&format!(
                "{} {}",
                if verdict == Verdict::Unreadable {
                    "the rules cannot be read of"
                } else {
                    "it depends on what the question does not say, or takes what cannot be evaluated, in the Rego policy of"
                },
                self.role_name(index)
            )),
        }
    }

    fn verdict(
        &self,
        rules: usize,
        policy: Option<usize>,
        question: &Question<'_>,
        numbered: &NumberedQuestion,
        groups: &[Cow<'_, str>],
    ) -> Verdict {
        let by_policy = policy.map_or(Some(false), |policy| self.policy_allows(policy, question, groups));
        if by_policy == Some(true) {
            return Verdict::Policy;
        }
        let Some(numbered_rules) = &self.rules[rules] else {
            return Verdict::Unreadable;
        };
        let allows = |(place, rule): (usize, &NumberedRule)| {
            if question.path.is_empty() {
                rule.allows(numbered)
            } else {
                rule.has_urls
                    && rule.verbs.has(numbered.verb)
                    && self.state.records.rule_sets[rules].rules[place].allows_url(&question.path)
            }
        };
        let mut places = numbered_rules.iter().enumerate();
        match places.position(allows) {
            Some(place) => Verdict::Rule(place),
            None if by_policy.is_none() => Verdict::Open,
            None => Verdict::Nothing,
        }
    }

    fn role_name(&self, index: usize) -> String {
        let RoleId {
            kind,
            namespace,
            name,
        } = self.state.bindings[index].role;
        match namespace {
            "" => format!("{kind} {name}"),
            _ => format!("{kind} {namespace}/{name}"),
        }
    }

    fn binding_name(&self, index: usize) -> String {
        let Binding { record, .. } = &self.state.bindings[index];
        match &*record.namespace {
            "" => format!("{} {}", record.kind, record.name),
            namespace => format!("{} {namespace}/{}", record.kind, record.name),
        }
    }

    fn allowed(&self, index: usize, rule: Option<usize>) -> Answer {
        let (binding, role) = (self.binding_name(index), self.role_name(index));
        let reason = match rule {
            Some(rule) => format!("{binding} → {role}, rule {rule}"),
            None => format!("{binding} → {role}, its Rego policy"),
        };
        Answer {
            allowed: Some(true),
            reason: reason.into(),
        }
    }
}

impl NumberedRule {
    fn allows(&self, question: &NumberedQuestion) -> bool {
        self.verbs.has(question.verb)
            && self.api_groups.has(question.api_group)
            && (self.resources.has(question.resource)
                || (question.subresource != NOBODY && self.subresources.contains(&question.subresource)))
            && (self.resource_names.is_empty() || self.resource_names.contains(&question.name))
    }
}
