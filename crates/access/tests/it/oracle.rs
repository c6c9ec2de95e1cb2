//! ks-apiserver's decisions, held against a plain evaluator that shares no code with the crate: it goes through all
//! bindings of the JSON for each question, as the facts about the release describe it.

use std::collections::BTreeSet;

use access::{Authorizer, Holder, Loader, Question, Records, RequestScope};
use object::Object;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::common::mk;

/// Worlds and questions depend on their seed alone.
struct Random(StdRng);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    fn one<'t>(&mut self, items: &[&'t str]) -> &'t str {
        items[self.below(items.len())]
    }

    fn some<'t>(&mut self, items: &[&'t str], most: usize) -> Vec<&'t str> {
        (0..self.below(most + 1)).map(|_| self.one(items)).collect()
    }
}

const USERS: &[&str] = &[
    "anna",
    "bert",
    "jürgen",
    "用户",
    "system:serviceaccount:n1:robot",
    "system:anonymous",
    "system:serviceaccount:n2:robot",
    "",
];
const GROUPS: &[&str] = &[
    "team",
    "ops",
    "system:authenticated",
    "system:unauthenticated",
    "system:serviceaccounts",
    "system:serviceaccounts:n1",
];
const VERBS: &[&str] = &["get", "list", "create", "delete", "*"];
const API_GROUPS: &[&str] = &["", "iam.kubesphere.io", "tenant.kubesphere.io", "apps"];
const RESOURCES: &[&str] = &["users", "pods", "roles"];
const SUBRESOURCES: &[&str] = &["", "", "log", "status"];
const NAMES: &[&str] = &["", "a", "anna"];
const PATHS: &[&str] = &["/api", "/api/v1", "/healthz", "/metrics/x"];
const WORKSPACES: &[&str] = &["w1", "w2"];
const NAMESPACES: &[&str] = &["n1", "n2", "d1", "free"];
const ROLES: &[&str] = &["r1", "r2", "r3", "missing"];

/// Policies, and what each means: 0 none.
const POLICIES: [&str; 5] = [
    "",
    "package authz\ndefault allow = false\nallow = true {\n  input.Verb == \"get\"\n  input.User.Name == input.Name\n}\n",
    "package authz\ndefault allow = false\nallow = true {\n  input.APIGroup == \"tenant.kubesphere.io\"\n  \
     input.KubernetesRequest == false\n}\n",
    "package authz\ndefault allow = false\nallow {\n  startswith(input.Resource, \"po\")\n  input.Verb == \"list\"\n}\n",
    "package authz\ndefault allow = false\nallow {\n  input.User.Groups[_] == \"team\"\n}\n",
];

fn policy(number: usize, question: &Question<'_>, groups: &BTreeSet<String>) -> Option<bool> {
    let user = if question.user.is_empty() {
        "system:anonymous"
    } else {
        &question.user
    };
    match number {
        1 => Some(question.verb == "get" && user == question.name),
        2 if question.api_group == "tenant.kubesphere.io" => None,
        3 => Some(question.resource.starts_with("po") && question.verb == "list"),
        4 => Some(groups.contains("team")),
        _ => Some(false),
    }
}

fn any_rule(random: &mut Random) -> Value {
    if random.below(6) == 0 {
        let urls = random.some(&["/api", "/api*", "/metrics/*", "*", "/healthz", "/api**"], 2);
        return json!({"nonResourceURLs": urls, "verbs": random.some(VERBS, 2)});
    }
    let mut groups = random.some(API_GROUPS, 2);
    if random.below(3) == 0 {
        groups.push("*");
    }
    let patterns = [
        "users",
        "pods",
        "roles",
        "pods/log",
        "*/status",
        "users/status",
        "*/log",
        "pods/",
        "*/",
    ];
    let mut resources = random.some(&patterns, 3);
    if random.below(8) == 0 {
        resources.push("*");
    }
    let names = if random.below(3) == 0 {
        random.some(&["a", "anna"], 2)
    } else {
        Vec::new()
    };
    json!({"apiGroups": groups, "resources": resources, "resourceNames": names, "verbs": random.some(VERBS, 3)})
}

fn any_world(random: &mut Random) -> Vec<Value> {
    let mut world = Vec::new();
    for namespace in NAMESPACES {
        let mut labels = json!({});
        if *namespace != "free" {
            labels["kubesphere.io/workspace"] = random.one(WORKSPACES).into();
        }
        if *namespace == "d1" {
            labels["kubesphere.io/devopsproject"] = "project".into();
        }
        world.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}));
    }
    for group in ["team", "ops"] {
        world.push(
            json!({"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "GroupBinding",
            "metadata": {"name": group}, "groupRef": {"name": group}, "users": random.some(&USERS[..6], 2)}),
        );
    }
    let (iam, rbac) = ("iam.kubesphere.io/v1alpha2", "rbac.authorization.k8s.io/v1");
    let kinds = [
        (iam, "GlobalRole"),
        (iam, "WorkspaceRole"),
        (rbac, "ClusterRole"),
        (rbac, "Role"),
    ];
    for (version, kind) in kinds {
        let places: &[&str] = if kind == "Role" { NAMESPACES } else { &[""] };
        for namespace in places {
            for name in &ROLES[..3] {
                let mut metadata = json!({"name": name});
                if kind == "Role" {
                    metadata["namespace"] = (*namespace).into();
                }
                if random.below(4) == 0 {
                    let policy = POLICIES[random.below(POLICIES.len())];
                    metadata["annotations"] = json!({"iam.kubesphere.io/rego-override": policy});
                }
                let mut rules: Vec<Value> = (0..random.below(4)).map(|_| any_rule(random)).collect();
                if random.below(12) == 0 {
                    rules = vec![json!({"verbs": "get"})];
                }
                world
                    .push(json!({"apiVersion": version, "kind": kind, "metadata": metadata, "rules": rules}));
            }
        }
    }
    for number in 0..8 + random.below(10) {
        let (version, kind) = kinds[random.below(4)];
        let mut metadata = json!({"name": format!("b{number}")});
        if kind == "Role" {
            metadata["namespace"] = random.one(NAMESPACES).into();
        }
        if kind == "WorkspaceRole" {
            metadata["labels"] = json!({"kubesphere.io/workspace": random.one(WORKSPACES)});
        }
        let role_kind = if kind == "Role" && random.below(2) == 0 {
            "ClusterRole"
        } else {
            kind
        };
        let subjects = (0..=random.below(2)).map(|_| match random.below(5) {
            0 | 1 => json!({"kind": "User", "name": random.one(&USERS[..6])}),
            2 | 3 => json!({"kind": "Group", "name": random.one(GROUPS)}),
            _ if random.below(2) == 0 => json!({"kind": "ServiceAccount", "name": "robot"}),
            _ => json!({"kind": "ServiceAccount", "name": "robot", "namespace": "n1"}),
        });
        let subjects: Vec<Value> = subjects.collect();
        world.push(
            json!({"apiVersion": version, "kind": format!("{kind}Binding"), "metadata": metadata,
            "roleRef": {"kind": role_kind, "name": random.one(ROLES)}, "subjects": subjects}),
        );
    }
    world
}

fn any_question(random: &mut Random) -> Question<'static> {
    let scopes = [
        RequestScope::Global,
        RequestScope::Cluster,
        RequestScope::Workspace,
        RequestScope::Namespace,
        RequestScope::DevOps,
    ];
    let scope = scopes[random.below(5)];
    let is_url = random.below(8) == 0;
    let mut question = Question {
        user: random.one(USERS).into(),
        groups: random
            .some(&["team", "guests"], 1)
            .into_iter()
            .map(Into::into)
            .collect(),
        verb: random.one(&VERBS[..4]).into(),
        api_group: random.one(API_GROUPS).into(),
        resource: random.one(RESOURCES).into(),
        subresource: random.one(SUBRESOURCES).into(),
        name: random.one(NAMES).into(),
        scope,
        ..Question::default()
    };
    if is_url {
        question.path = random.one(PATHS).into();
        for field in [
            &mut question.resource,
            &mut question.subresource,
            &mut question.api_group,
        ] {
            *field = "".into();
        }
    }
    match scope {
        RequestScope::Workspace => question.workspace = random.one(WORKSPACES).into(),
        RequestScope::Namespace => {
            question.namespace = random.one(NAMESPACES).into();
            question.workspace = random.one(&["", "w1"]).into();
        }
        RequestScope::DevOps => question.devops = random.one(&["project", "n2"]).into(),
        _ => {}
    }
    question
}

fn texts(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn rule_allows(rule: &Value, q: &Question<'_>) -> bool {
    let verbs = texts(&rule["verbs"]);
    if !verbs.contains(&"*") && !verbs.contains(&&*q.verb) {
        return false;
    }
    if !q.path.is_empty() {
        return texts(&rule["nonResourceURLs"]).iter().any(|url| {
            *url == "*"
                || *url == q.path
                || (url.ends_with('*') && q.path.starts_with(url.trim_end_matches('*')))
        });
    }
    let groups = texts(&rule["apiGroups"]);
    if !groups.contains(&"*") && !groups.contains(&&*q.api_group) {
        return false;
    }
    let names = texts(&rule["resourceNames"]);
    if !names.is_empty() && !names.contains(&&*q.name) {
        return false;
    }
    let combined = if q.subresource.is_empty() {
        q.resource.to_string()
    } else {
        format!("{}/{}", q.resource, q.subresource)
    };
    texts(&rule["resources"]).iter().any(|resource| {
        *resource == "*"
            || *resource == combined
            || (!q.subresource.is_empty() && *resource == format!("*/{}", q.subresource))
    })
}

fn applies(subject: &Value, user: &str, groups: &BTreeSet<String>, namespace: &str) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str() {
        Some("User") => name == user,
        Some("Group") => groups.contains(name),
        Some("ServiceAccount") => {
            let namespace = subject["namespace"].as_str().unwrap_or(namespace);
            !namespace.is_empty() && user == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

fn name_of<'q>(q: &'q Question<'_>) -> &'q str {
    if q.user.is_empty() {
        "system:anonymous"
    } else {
        &q.user
    }
}

fn groups_of(world: &[Value], q: &Question<'_>) -> BTreeSet<String> {
    let user = name_of(q);
    let mut groups: BTreeSet<String> = q.groups.iter().map(ToString::to_string).collect();
    for binding in world.iter().filter(|o| o["kind"] == "GroupBinding") {
        if texts(&binding["users"]).contains(&user) {
            groups.insert(binding["groupRef"]["name"].as_str().unwrap().to_owned());
        }
    }
    if let ["system", "serviceaccount", namespace, _] = user.split(':').collect::<Vec<_>>()[..] {
        groups.insert("system:serviceaccounts".to_owned());
        groups.insert(format!("system:serviceaccounts:{namespace}"));
    }
    let everybody = if user == "system:anonymous" {
        "system:unauthenticated"
    } else {
        "system:authenticated"
    };
    groups.insert(everybody.to_owned());
    groups
}

/// `None`: it cannot be decided.
pub(crate) fn oracle(world: &[Value], q: &Question<'_>, is_kubernetes: bool) -> Option<bool> {
    let user = name_of(q);
    let groups = groups_of(world, q);
    let namespaces = || world.iter().filter(|o| o["kind"] == "Namespace");
    let namespace = match q.scope {
        RequestScope::Namespace => Some(q.namespace.to_string()),
        RequestScope::DevOps => Some(
            namespaces()
                .find(|n| n["metadata"]["labels"]["kubesphere.io/devopsproject"] == *q.devops)
                .map_or(q.devops.to_string(), |n| {
                    n["metadata"]["name"].as_str().unwrap().to_owned()
                }),
        ),
        _ => None,
    };
    let mut workspace = q.workspace.to_string();
    if let Some(namespace) = &namespace
        && let Some(object) = namespaces().find(|n| n["metadata"]["name"] == **namespace)
        && let Some(owner) = object["metadata"]["labels"]["kubesphere.io/workspace"].as_str()
    {
        owner.clone_into(&mut workspace);
    }
    let mut result = Some(false);
    for binding in world {
        let here = &binding["metadata"];
        let own_namespace = here["namespace"].as_str().unwrap_or_default();
        let is_asked = match binding["kind"].as_str().unwrap() {
            "GlobalRoleBinding" => !is_kubernetes,
            "WorkspaceRoleBinding" => {
                let scopes = [
                    RequestScope::Workspace,
                    RequestScope::Namespace,
                    RequestScope::DevOps,
                ];
                !is_kubernetes
                    && scopes.contains(&q.scope)
                    && !workspace.is_empty()
                    && here["labels"]["kubesphere.io/workspace"] == *workspace
            }
            "ClusterRoleBinding" => is_kubernetes || q.scope != RequestScope::Global,
            "RoleBinding" => namespace.as_deref() == Some(own_namespace),
            _ => false,
        };
        let subjects = binding["subjects"].as_array();
        let is_bound = || {
            subjects
                .unwrap()
                .iter()
                .any(|s| applies(s, user, &groups, own_namespace))
        };
        if !is_asked || !is_bound() {
            continue;
        }
        let reference = &binding["roleRef"];
        let role = world.iter().find(|o| {
            o["kind"] == reference["kind"]
                && o["metadata"]["name"] == reference["name"]
                && (reference["kind"] != "Role" || o["metadata"]["namespace"] == *own_namespace)
        });
        let Some(role) = role else { continue };
        if !is_kubernetes {
            let text = role["metadata"]["annotations"]["iam.kubesphere.io/rego-override"].as_str();
            let number = POLICIES
                .iter()
                .position(|policy| Some(*policy) == text)
                .unwrap_or_default();
            match policy(number, q, &groups) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => result = None,
            }
        }
        let rules: Vec<&Value> = role["rules"].as_array().into_iter().flatten().collect();
        if rules.iter().any(|rule| rule["verbs"].is_string()) {
            result = None;
        } else if rules.iter().any(|rule| rule_allows(rule, q)) {
            return Some(true);
        }
    }
    result
}

/// The policies that take an interpreter, by hand.
fn interpreter(policy: &str, input: &str) -> Option<bool> {
    let input: Value = serde_json::from_str(input).ok()?;
    if policy == POLICIES[4] {
        return Some(texts(&input["User"]["Groups"]).contains(&"team"));
    }
    assert_eq!(policy, POLICIES[3]);
    Some(input["Resource"].as_str()?.starts_with("po") && input["Verb"] == "list")
}

#[test]
fn a_million_answers_are_those_of_a_plain_evaluator() {
    let (worlds, questions) = (1000, 1000);
    let mut counts = [0_usize; 3];
    for seed in 0..worlds {
        let mut random = Random(StdRng::seed_from_u64(seed));
        let world = any_world(&mut random);
        let objects: Vec<Object> = world.iter().cloned().map(mk).collect();
        let mut records: Records = objects.iter().collect();
        if seed % 2 == 0 {
            // The other way in, straight from text.
            let mut loader = Loader::default();
            for object in &world {
                loader.add_json(&object.to_string()).unwrap();
            }
            records = loader.finish();
        }
        let authorizer = Authorizer::new(&records).with_interpreter(interpreter);
        for _ in 0..questions {
            let question = any_question(&mut random);
            let expect = oracle(&world, &question, false);
            let answer = authorizer.check(&question);
            assert_eq!(
                answer.allowed, expect,
                "seed {seed}: {question:?}: {answer:?}\n{world:#?}"
            );
            counts[match expect {
                None => 0,
                Some(false) => 1,
                Some(true) => 2,
            }] += 1;
            if random.below(4) == 0 {
                let expect = oracle(&world, &question, true);
                let answer = authorizer.check_kubernetes(&question);
                assert_eq!(answer.allowed, expect, "seed {seed}: {question:?}: {answer:?}");
            }
        }
    }
    // All kinds of answers are asked for.
    assert!(counts.iter().all(|count| *count > 10_000), "{counts:?}");
}

/// Whether somebody who can do something is, or has among its members, who asks.
fn includes(holder: &Holder, user: &str, groups: &BTreeSet<String>) -> bool {
    match holder.kind.as_str() {
        "Group" => groups.contains(&holder.name),
        "ServiceAccount" => user == format!("system:serviceaccount:{}", holder.name.replace('/', ":")),
        _ => holder.name == user,
    }
}

#[test]
fn who_can_and_show_say_what_check_says() {
    let mut counts = [0_usize; 3];
    for seed in 0..400 {
        let mut random = Random(StdRng::seed_from_u64(seed));
        let world = any_world(&mut random);
        let objects: Vec<Object> = world.iter().cloned().map(mk).collect();
        let records: Records = objects.iter().collect();
        let authorizer = Authorizer::new(&records).with_interpreter(interpreter);
        let questions: Vec<_> = (0..20).map(|_| any_question(&mut random)).collect();
        for user in USERS {
            let asked = |question: &Question<'static>| Question {
                user: (*user).into(),
                groups: Vec::new(),
                ..question.clone()
            };
            let somebody = asked(&Question::default());
            let (name, groups) = (name_of(&somebody), groups_of(&world, &somebody));
            let shown = authorizer.show(user);
            let shown: BTreeSet<&str> = shown.iter().map(|held| held.binding.as_str()).collect();
            let bound = world.iter().filter_map(|binding| {
                let own = binding["metadata"]["namespace"].as_str().unwrap_or_default();
                let mut subjects = binding["subjects"].as_array()?.iter();
                subjects
                    .any(|subject| applies(subject, name, &groups, own))
                    .then(|| {
                        let place = if own.is_empty() {
                            String::new()
                        } else {
                            format!("{own}/")
                        };
                        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                        format!(
                            "{} {place}{}",
                            text(&binding["kind"]),
                            text(&binding["metadata"]["name"])
                        )
                    })
            });
            let bound: BTreeSet<String> = bound.collect();
            assert_eq!(
                shown,
                bound.iter().map(String::as_str).collect(),
                "seed {seed}: {user}\n{world:#?}"
            );
            for question in &questions {
                let question = asked(question);
                let answer = authorizer.check(&question);
                let about = format!("seed {seed}: {question:?}: {answer:?}");
                let holders = authorizer.who_can(&question);
                let own: Vec<_> = holders.iter().filter(|h| includes(h, name, &groups)).collect();
                if own.iter().any(|holder| !holder.is_open) {
                    assert_eq!(answer.allowed, Some(true), "{about}");
                }
                // What depends on which member of a group asks is open.
                if own.iter().any(|holder| holder.kind != "Group") {
                    assert_ne!(answer.allowed, Some(false), "{about}");
                }
                if answer.allowed != Some(false) {
                    assert!(!own.is_empty(), "{about}\n{world:#?}");
                }
                if answer.allowed == Some(true) {
                    let (binding, _) = answer.reason.split_once(" → ").unwrap();
                    assert!(shown.contains(binding), "{about}");
                }
                counts[match answer.allowed {
                    None => 0,
                    Some(false) => 1,
                    Some(true) => 2,
                }] += 1;
            }
        }
    }
    assert!(counts.iter().all(|count| *count > 1000), "{counts:?}");
}
