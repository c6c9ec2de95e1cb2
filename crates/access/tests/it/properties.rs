//! What holds on every cluster, however its roles and bindings were made.

use std::collections::{BTreeMap, BTreeSet};

use access::{
    AGGREGATION, Catalog, Grant, Grants, Level, MigrateOptions, Migration, PermissionChange, Question,
    Request, RequestScope, Rule, Scope, SubjectImpact, migrate,
};
use object::{Object, ObjectKey};
use proptest::{prelude::*, sample::subsequence};
use serde_json::{Value, json};

use crate::{
    common::{RELEASES, apply_catalog, carry_out, mk, upgrade, upgrade_from},
    oracle::oracle,
};

/// Rules that people write: their own, shares of what templates give, both in one, and all-powerful ones.
fn own_rules() -> Vec<Rule> {
    let rules = json!([
        {"apiGroups": ["custom.example.org"], "resources": ["badges"], "verbs": ["*"]},
        {"apiGroups": ["iam.kubesphere.io"], "resources": ["users"], "verbs": ["create"]},
        {"apiGroups": ["*"], "resources": ["users", "badges"], "verbs": ["*"]},
        {"apiGroups": ["*"], "resources": ["workspacemembers", "things", "roles"], "verbs": ["get", "delete"]},
        {"apiGroups": ["*"], "resources": ["members", "members/log"], "resourceNames": ["a"], "verbs": ["*"]},
        {"nonResourceURLs": ["/metrics*"], "verbs": ["get"]},
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get"]},
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    ]);
    serde_json::from_value(rules).unwrap()
}

const PLACES: [(Level, &str); 5] = [
    (Level::Platform, "GlobalRole"),
    (Level::Workspace, "WorkspaceRole"),
    (Level::Cluster, "ClusterRole"),
    (Level::Project, "Role"),
    (Level::DevopsProject, "Role"),
];

fn names(level: Level) -> Vec<String> {
    let names = RELEASES
        .v3_2_1
        .templates(level)
        .map(|template| template.name.clone());
    let mut names: Vec<String> = names.collect();
    names.push("role-template-view-nothing".to_owned());
    names
}

/// A role of a level: which templates it names, which of the resulting rules it lacks, what it has besides.
fn any_role(level: Level, kind: &'static str, name: &'static str) -> impl Strategy<Value = Object> {
    (
        subsequence(names(level), 0..6).prop_shuffle(),
        prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(0..12_usize, 1..4)],
        subsequence(own_rules(), 0..3),
        0..3_u8,
        0..12_u8,
    )
        .prop_map(move |(templates, lacking, own, release, oddity)| {
            let catalogs = [&RELEASES.v3_2_1, &RELEASES.v3_2_1, &RELEASES.v3_3_1];
            let catalog: &Catalog = catalogs[usize::from(release)];
            let given = templates.iter().filter_map(|name| catalog.template(level, name));
            let mut rules: Vec<Rule> = given.flat_map(|template| template.rules.clone()).collect();
            for index in lacking {
                if index < rules.len() {
                    rules.remove(index);
                }
            }
            rules.extend(own);
            let annotations = match oddity {
                0 => json!({}),
                1 => json!({AGGREGATION: format!("[{}]", templates.join(","))}),
                _ => {
                    json!({AGGREGATION: Value::from(templates).to_string(), "kubesphere.io/creator": "admin"})
                }
            };
            let (group, namespace) = match level {
                Level::Platform | Level::Workspace => ("iam.kubesphere.io/v1alpha2", None),
                Level::Cluster => ("rbac.authorization.k8s.io/v1", None),
                Level::Project => ("rbac.authorization.k8s.io/v1", Some("proj1")),
                Level::DevopsProject => ("rbac.authorization.k8s.io/v1", Some("dev1")),
            };
            let mut role = json!({
                "apiVersion": group, "kind": kind,
                "metadata": {"name": name, "annotations": annotations, "labels": {"team": "x"}},
                "rules": rules,
            });
            if let Some(namespace) = namespace {
                role["metadata"]["namespace"] = namespace.into();
            }
            if level == Level::Workspace {
                role["metadata"]["labels"]["kubesphere.io/workspace"] = "ws1".into();
            }
            mk(role)
        })
}

/// Kinds and names of roles.
type RoleNames = &'static [(&'static str, &'static str)];

/// Where bindings are, and what they refer to.
const BOUND: [(&str, Option<&str>, RoleNames); 5] = [
    (
        "GlobalRoleBinding",
        None,
        &[
            ("GlobalRole", "users-manager"),
            ("GlobalRole", "workspaces-manager"),
            ("GlobalRole", "workspace-manager"),
            ("GlobalRole", "platform-regular"),
            // Only the new release has it.
            ("GlobalRole", "platform-self-provisioner"),
            ("GlobalRole", "a"),
            ("GlobalRole", "b-admin"),
            ("GlobalRole", "missing"),
        ],
    ),
    (
        "WorkspaceRoleBinding",
        None,
        &[
            ("WorkspaceRole", "ws1-admin"),
            ("WorkspaceRole", "ws1-self-provisioner"),
            ("WorkspaceRole", "a"),
            ("WorkspaceRole", "b-admin"),
            ("WorkspaceRole", "missing"),
        ],
    ),
    (
        "ClusterRoleBinding",
        None,
        &[
            ("ClusterRole", "cluster-viewer"),
            ("ClusterRole", "a"),
            ("ClusterRole", "b-admin"),
            ("ClusterRole", "missing"),
        ],
    ),
    ("RoleBinding", Some("proj1"), IN_NAMESPACES),
    ("RoleBinding", Some("dev1"), IN_NAMESPACES),
];

const IN_NAMESPACES: RoleNames = &[
    ("Role", "admin"),
    ("Role", "operator"),
    ("Role", "a"),
    ("Role", "b-admin"),
    ("Role", "missing"),
    // Only the new release has it, and only for DevOps projects.
    ("Role", "role-template-view-gitrepositories"),
    ("ClusterRole", "a"),
    ("ClusterRole", "b-admin"),
];

/// A binding in one of the places of [`BOUND`].
fn any_binding(place: usize, name: String) -> impl Strategy<Value = Object> {
    let (kind, namespace, roles) = BOUND[place];
    let subjects = vec![
        ("User", "u1"),
        ("User", "u2"),
        ("User", "u3"),
        ("Group", "g"),
        ("Group", "system:authenticated"),
    ];
    // That everyone has something is rare.
    let subjects = subsequence(subjects, 0..5).prop_shuffle();
    (subjects, proptest::sample::select(roles.to_vec()), 0..8_u8).prop_map(
        move |(mut subjects, (role_kind, role), oddity)| {
            if oddity > 1 {
                subjects.retain(|(_, name)| *name != "system:authenticated");
            }
            let group = match kind {
                "GlobalRoleBinding" | "WorkspaceRoleBinding" => "iam.kubesphere.io/v1alpha2",
                _ => "rbac.authorization.k8s.io/v1",
            };
            let subjects: Vec<Value> = subjects
                .into_iter()
                .map(|(kind, name)| json!({"apiGroup": group, "kind": kind, "name": name}))
                .collect();
            let mut metadata = json!({"name": name});
            if let Some(namespace) = namespace {
                metadata["namespace"] = namespace.into();
            }
            // Without the label it counts nowhere.
            if kind == "WorkspaceRoleBinding" && oddity != 0 {
                metadata["labels"] = json!({"kubesphere.io/workspace": "ws1"});
            }
            mk(json!({
                "apiVersion": group, "kind": kind, "metadata": metadata,
                "roleRef": {"apiGroup": group, "kind": role_kind, "name": role},
                "subjects": subjects,
            }))
        },
    )
}

/// What KubeSphere's controllers make of a release's RoleBases in workspace ws1, project proj1 and DevOps project dev1.
fn by_controllers(state: &mut Vec<Object>, catalog: &Catalog) {
    let mut made = Vec::new();
    for base in catalog.objects().filter(|object| object.kind() == "RoleBase") {
        let role = base.get("/role").unwrap();
        let name = role["metadata"]["name"].as_str().unwrap();
        if role["kind"] == "WorkspaceRole" {
            let mut role = role.clone();
            role["metadata"]["name"] = format!("ws1-{name}").into();
            role["metadata"]["labels"]["kubesphere.io/workspace"] = "ws1".into();
            made.push(mk(role));
        }
        for (label, namespace) in [
            ("scope.kubesphere.io/namespace", "proj1"),
            ("scope.kubesphere.io/devops", "dev1"),
        ] {
            if role["kind"] == "Role" && base.label(label).is_some() {
                let mut role = role.clone();
                role["metadata"]["namespace"] = namespace.into();
                made.push(mk(role));
            }
        }
    }
    for role in made {
        match state.iter_mut().find(|object| object.key() == role.key()) {
            Some(object) => *object = role,
            None => state.push(role),
        }
    }
}

/// A cluster as v3.2.1 left it, with two roles of each level and some bindings.
fn any_state() -> impl Strategy<Value = Vec<Object>> {
    let roles: Vec<_> = PLACES
        .into_iter()
        .flat_map(|(level, kind)| {
            [
                any_role(level, kind, "a").boxed(),
                any_role(level, kind, "b-admin").boxed(),
            ]
        })
        .collect();
    // Most things happen on the platform.
    let bindings: Vec<_> = [0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 4, 4]
        .into_iter()
        .enumerate()
        .map(|(i, place)| any_binding(place, format!("binding-{i}")))
        .collect();
    let alias_is_a_role = any_role(Level::Platform, "GlobalRole", "workspace-manager");
    (roles, bindings, prop::option::weighted(0.2, alias_is_a_role)).prop_map(|(roles, bindings, alias)| {
        let mut state = vec![
            mk(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "proj1",
                "labels": {"kubesphere.io/workspace": "ws1"}}}),
            ),
            mk(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "dev1",
                "labels": {"kubesphere.io/workspace": "ws1", "kubesphere.io/devopsproject": "dev1"}}}),
            ),
            mk(
                json!({"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "GroupBinding",
                "metadata": {"name": "g-u3"}, "groupRef": {"name": "g"}, "users": ["u3"]}),
            ),
        ];
        state.extend(RELEASES.v3_2_1.objects().cloned());
        by_controllers(&mut state, &RELEASES.v3_2_1);
        state.extend(roles);
        state.extend(bindings);
        state.extend(alias);
        state
    })
}

fn by_key(state: Vec<Object>) -> BTreeMap<ObjectKey, Object> {
    state.into_iter().map(|object| (object.key(), object)).collect()
}

fn rules(object: &Object) -> Vec<Rule> {
    serde_json::from_value(object.get("/rules").cloned().unwrap_or_default()).unwrap()
}

fn all(state: &[Object], migration: &Migration) -> Vec<Object> {
    carry_out(state, migration, |_| true)
}

/// A custom role with a readable list.
struct Custom {
    level: Level,
    list: Vec<String>,
    before: Vec<Rule>,
    after: Vec<Rule>,
}

fn custom_roles(before: &[Object], after: &[Object]) -> Vec<Custom> {
    let after = by_key(after.to_vec());
    let mut found = Vec::new();
    for object in before {
        let Some(place) = PLACES.iter().position(|(_, kind)| *kind == object.kind()) else {
            continue;
        };
        let level = match object.namespace() {
            Some("dev1") => Level::DevopsProject,
            _ => PLACES[place].0,
        };
        let list = object
            .annotation(AGGREGATION)
            .and_then(|text| serde_json::from_str(text).ok());
        if let (Some(list), true) = (list, object.label("team").is_some()) {
            found.push(Custom {
                level,
                list,
                before: rules(object),
                after: rules(&after[&object.key()]),
            });
        }
    }
    found
}

fn released(catalog: &Catalog, level: Level, templates: &[&String]) -> Grants {
    let given = templates.iter().filter_map(|name| catalog.template(level, name));
    Grants::of(given.flat_map(|template| &template.rules))
}

fn subjects(binding: &Object) -> Vec<&str> {
    let subjects = binding.get("/subjects").and_then(Value::as_array);
    let names = subjects
        .into_iter()
        .flatten()
        .filter_map(|subject| subject["name"].as_str());
    names.collect()
}

fn global_bindings(state: &[Object]) -> impl Iterator<Item = (&Object, &str)> {
    let bindings = state.iter().filter(|object| object.kind() == "GlobalRoleBinding");
    bindings.map(|binding| (binding, binding.get_str("/roleRef/name").unwrap()))
}

/// Questions in one scope that tell the templates and the rules above apart.
fn questions(scope: &Scope) -> Vec<Question<'static>> {
    let mut about = Question::default();
    match scope {
        Scope::Platform => about.scope = RequestScope::Global,
        Scope::Cluster => about.scope = RequestScope::Cluster,
        Scope::Workspace(name) => {
            about.scope = RequestScope::Workspace;
            about.workspace = name.clone().into();
        }
        Scope::Project(name) => {
            about.scope = RequestScope::Namespace;
            about.namespace = name.clone().into();
        }
        Scope::DevopsProject(name) => {
            about.scope = RequestScope::DevOps;
            about.devops = name.clone().into();
        }
    }
    let resources = [
        ("users", ""),
        ("users", "password"),
        ("globalroles", ""),
        ("workspaces", ""),
        ("workspacetemplates", ""),
        ("workspacemembers", ""),
        ("workspaceroles", ""),
        ("members", ""),
        ("roles", ""),
        ("rolebindings", ""),
        ("devopsprojects", ""),
        ("namespaces", ""),
        ("deployments", ""),
        ("secrets", ""),
        ("badges", ""),
        ("clusters", ""),
        ("clustertemplates", ""),
        ("gitrepositories", ""),
    ];
    let mut questions = Vec::new();
    for verb in ["get", "create", "patch"] {
        about.verb = verb.into();
        for api_group in [
            "iam.kubesphere.io",
            "tenant.kubesphere.io",
            "custom.example.org",
            "gitops.kubesphere.io",
            "devops.kubesphere.io",
            "",
        ] {
            questions.extend(resources.map(|(resource, subresource)| Question {
                api_group: api_group.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                name: "a".into(),
                ..about.clone()
            }));
        }
        questions.push(Question {
            path: "/metrics/x".into(),
            ..about.clone()
        });
    }
    questions
}

fn request<'q>(question: &'q Question<'_>) -> Request<'q> {
    match &*question.path {
        "" => Request::Resource {
            verb: &question.verb,
            api_group: &question.api_group,
            resource: &question.resource,
            subresource: &question.subresource,
            name: &question.name,
        },
        path => Request::Url {
            verb: &question.verb,
            path,
        },
    }
}

/// What decides a user's access: the bindings that name the user, a group of it or everyone, and their roles.
fn world(state: &[Object], user: &str) -> Vec<Value> {
    let is_about = |object: &&Object| {
        let names = subjects(object);
        names.contains(&user) || names.contains(&"g") || names.contains(&"system:authenticated")
    };
    let bindings: Vec<&Object> = state
        .iter()
        .filter(|object| object.kind().ends_with("Binding"))
        .filter(|object| object.kind() == "GroupBinding" || is_about(object))
        .collect();
    let roles: BTreeSet<&str> = bindings
        .iter()
        .filter_map(|b| b.get_str("/roleRef/name"))
        .collect();
    let is_bound = |object: &&Object| {
        object.kind() == "Namespace" || (object.kind().ends_with("Role") && roles.contains(object.name()))
    };
    let others = state.iter().filter(is_bound);
    let all = others.chain(bindings.iter().copied());
    all.map(|object| object.as_value().clone()).collect()
}

fn holds(changes: &[PermissionChange], request: &Request<'_>) -> bool {
    changes
        .iter()
        .flat_map(|change| &change.grants)
        .any(|grant| grant.allows(request))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_migrated_cluster_needs_no_migration(state in any_state()) {
        let after = all(&state, &upgrade(&state));
        for from in [&RELEASES.v3_2_1, &RELEASES.v3_3_1] {
            let again = upgrade_from(from, &after);
            prop_assert!(again.is_done(), "{:?}", again);
        }
    }

    #[test]
    fn a_cut_migration_ends_the_same(
        state in any_state(),
        first in prop::collection::vec(any::<bool>(), 40),
        second in prop::collection::vec(any::<bool>(), 40),
        templates_are_new in any::<bool>(),
    ) {
        let mut expect = all(&state, &upgrade(&state));
        let mut cut = carry_out(&state, &upgrade(&state), |step| first[step]);
        if templates_are_new {
            apply_catalog(&mut expect, &RELEASES.v3_3_1);
            apply_catalog(&mut cut, &RELEASES.v3_3_1);
        }
        let cut = carry_out(&cut, &upgrade(&cut), |step| second[step]);
        let end = all(&cut, &upgrade(&cut));
        let (expect, end) = (by_key(expect), by_key(end));
        prop_assert_eq!(end.keys().collect::<Vec<_>>(), expect.keys().collect::<Vec<_>>());
        for (key, object) in &end {
            prop_assert_eq!(object.as_value(), expect[key].as_value(), "{}", key);
        }
    }

    #[test]
    fn roles_gain_what_templates_gained_and_lose_what_is_revoked(state in any_state()) {
        let policy = &RELEASES.policy;
        let after = all(&state, &upgrade(&state));
        for Custom { level, list, before, after } in custom_roles(&state, &after) {
            let (revoked, kept): (Vec<&String>, Vec<_>) =
                list.iter().partition(|name| policy.is_revoked(level, name));
            let renamed: Vec<String> =
                kept.iter().map(|name| policy.renamed(level, name).unwrap_or(name).to_owned()).collect();
            let old_kept = released(&RELEASES.v3_2_1, level, &kept);
            let new_kept = released(&RELEASES.v3_3_1, level, &renamed.iter().collect::<Vec<_>>());
            let only_revoked = released(&RELEASES.v3_2_1, level, &revoked)
                .difference(&old_kept)
                .difference(&new_kept);
            // Of a rule that is wider than any exception (`*`), what rules cannot take out stays.
            for revoked in only_revoked.iter().filter_map(Grant::to_rule) {
                let revoked = Grants::of([&revoked]);
                let is_wider = |rule: &&Rule| Grants::of([*rule]).difference(&revoked).to_rules().is_none();
                let wider = Grants::of(after.iter().filter(is_wider));
                let rest = Grants::of(&after).difference(&wider);
                prop_assert!(rest.is_disjoint(&revoked), "{:?} keeps {:?}", list, revoked);
            }
            let (before, after) = (Grants::of(&before), Grants::of(&after));
            let gained = after.difference(&before);
            prop_assert!(new_kept.difference(&old_kept).covers(&gained), "{:?} gains {:?}", list, gained);
            let lost = before.difference(&after);
            prop_assert!(only_revoked.covers(&lost), "{:?} loses {:?}", list, lost);
        }
    }

    #[test]
    fn without_refresh_no_role_gains(state in any_state()) {
        let migration = migrate(
            &state,
            &RELEASES.v3_2_1,
            &RELEASES.v3_3_1,
            &RELEASES.policy,
            MigrateOptions { refresh_templates: false },
        );
        let after = all(&state, &migration);
        for Custom { list, before, after, .. } in custom_roles(&state, &after) {
            prop_assert!(Grants::of(&before).covers(&Grants::of(&after)), "{:?}", list);
        }
    }

    #[test]
    fn everyone_bound_to_a_removed_role_gets_its_replacement(state in any_state()) {
        let has = |name: &str| state.iter().any(|o| o.kind() == "GlobalRole" && o.name() == name);
        let alias_is_a_role = has("workspace-manager");
        let is_removed = |role: &str| {
            role == "users-manager"
                || role == "workspaces-manager"
                || (role == "workspace-manager" && !alias_is_a_role)
        };
        let after = all(&state, &upgrade(&state));
        prop_assert!(global_bindings(&after).all(|(_, role)| !is_removed(role)));
        for (binding, role) in global_bindings(&state) {
            for subject in subjects(binding) {
                let expect = if is_removed(role) { "platform-regular" } else { role };
                let has = global_bindings(&after).any(|(b, r)| r == expect && subjects(b).contains(&subject));
                prop_assert!(has, "{} lost {}", subject, expect);
            }
            if !is_removed(role) {
                prop_assert!(after.iter().any(|object| object == binding), "{} changed", binding.name());
            }
        }
    }

    /// A plain evaluator is asked everything before and after, in every scope, through KubeSphere and with kubectl.
    #[test]
    fn impact_is_what_requests_would_show(state in any_state()) {
        let migration = upgrade(&state);
        let mut after = all(&state, &migration);
        apply_catalog(&mut after, &RELEASES.v3_3_1);
        by_controllers(&mut after, &RELEASES.v3_3_1);
        let impact = &migration.impact;
        let workspace = || Scope::Workspace("ws1".to_owned());
        let scopes = [
            (Scope::Platform, vec![]),
            (Scope::Cluster, vec![Scope::Platform]),
            (workspace(), vec![Scope::Platform, Scope::Cluster]),
            (Scope::Project("proj1".to_owned()), vec![Scope::Platform, Scope::Cluster, workspace()]),
            (Scope::DevopsProject("dev1".to_owned()), vec![Scope::Platform, Scope::Cluster, workspace()]),
        ];
        for user in ["u1", "u2", "u3"] {
            let (before, after) = (world(&state, user), world(&after, user));
            let own: Vec<_> = impact.subjects.iter().filter(|s| s.kind == "User" && s.name == user).collect();
            for (scope, wider) in &scopes {
                let at = |at: &SubjectImpact| at.scope == *scope;
                let around = |at: &SubjectImpact| at.scope == *scope || wider.contains(&at.scope);
                for mut question in questions(scope) {
                    question.user = user.into();
                    let request = request(&question);
                    for is_kubernetes in [false, true] {
                        if is_kubernetes && matches!(scope, Scope::Platform | Scope::Workspace(_)) {
                            continue;
                        }
                        let is_allowed = |state| oracle(state, &question, is_kubernetes).unwrap();
                        let (was, is) = (is_allowed(&before), is_allowed(&after));
                        let changes = |subject: &SubjectImpact| {
                            let SubjectImpact { lost, gained, kubectl, .. } = subject;
                            let [lost, gained] =
                                if is_kubernetes { [&kubectl.lost, &kubectl.gained] } else { [lost, gained] };
                            [holds(lost, &request), holds(gained, &request)]
                        };
                        let told = [was && !is, !was && is];
                        let about = || format!("{user} {is_kubernetes} {scope} {request:?}");
                        for subject in own.iter().filter(|subject| at(subject)) {
                            for (change, told) in changes(subject).into_iter().zip(told) {
                                prop_assert!(!change || told, "{} is told, and is not so: {:?}", about(), told);
                            }
                        }
                        let everyone = impact.everyone.iter();
                        let all: Vec<_> =
                            own.iter().copied().chain(everyone).filter(|s| around(s)).map(changes).collect();
                        for (change, told) in told.into_iter().enumerate() {
                            let is_told = all.iter().any(|changes| changes[change]);
                            prop_assert!(!told || is_told, "{} is so, and is not told: {}", about(), change);
                        }
                    }
                }
            }
        }
    }
}
