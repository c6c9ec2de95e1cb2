//! What is broken, odd or huge becomes a finding: no crash, and no guess.

use access::{
    AGGREGATION, Answer, Authorizer, DEPENDENCIES, LineKind, Loader, Question, Records, RequestScope, reason,
};
use object::Object;
use serde_json::{Value, json};

use crate::common::{mk, upgrade};

const IAM: &str = "iam.kubesphere.io/v1alpha2";

fn role(name: &str, list: &Value, rules: Value) -> Value {
    json!({"apiVersion": IAM, "kind": "GlobalRole",
        "metadata": {"name": name, "annotations": {AGGREGATION: list}}, "rules": rules})
}

fn binding(name: &str, role: &str, user: &str) -> Value {
    json!({"apiVersion": IAM, "kind": "GlobalRoleBinding", "metadata": {"name": name},
        "roleRef": {"kind": "GlobalRole", "name": role}, "subjects": [{"kind": "User", "name": user}]})
}

fn reasons(state: &[Value]) -> Vec<String> {
    let objects: Vec<Object> = state.iter().cloned().map(mk).collect();
    let migration = upgrade(&objects);
    let mut reasons: Vec<String> = migration
        .findings
        .into_iter()
        .map(|finding| finding.reason)
        .collect();
    reasons.dedup();
    reasons
}

fn answer(state: &[Value], verb: &str, user: &str) -> Answer {
    let objects: Vec<Object> = state.iter().cloned().map(mk).collect();
    let records: Records = objects.iter().collect();
    let question = Question {
        user: user.into(),
        verb: verb.into(),
        api_group: "iam.kubesphere.io".into(),
        resource: "users".into(),
        scope: RequestScope::Global,
        ..Question::default()
    };
    Authorizer::new(&records).check(&question)
}

#[test]
fn broken_annotations_are_left_to_a_person() {
    for list in [
        "[",
        "{}",
        "[1]",
        "\"x\"",
        "[\"role-template-manage-users\",]",
        "null",
    ] {
        let state = [role("r", &list.into(), json!([]))];
        assert_eq!(reasons(&state), [reason::UNREADABLE_AGGREGATION], "{list}");
    }
    // No text at all is no annotation.
    assert_eq!(reasons(&[role("r", &json!(["a"]), json!([]))]), [""; 0]);
}

#[test]
fn rules_that_cannot_be_read_grant_nothing_that_is_known() {
    for rules in [
        json!("x"),
        json!([1]),
        json!([{"verbs": "get"}]),
        json!({"verbs": []}),
    ] {
        let state = [role("r", &"[]".into(), rules.clone()), binding("b", "r", "u")];
        assert_eq!(reasons(&state), [reason::UNREADABLE_RULES], "{rules}");
        assert_eq!(answer(&state, "get", "u").allowed, None, "{rules}");
        assert_eq!(answer(&state, "get", "other").allowed, Some(false), "{rules}");
    }
}

#[test]
fn roles_and_templates_that_name_each_other_end() {
    let template = |name: &str, other: &str| {
        json!({"apiVersion": IAM, "kind": "GlobalRole", "metadata": {"name": name,
            "labels": {"iam.kubesphere.io/role-template": "true"},
            "annotations": {AGGREGATION: json!([other]).to_string(),
                DEPENDENCIES: json!([other]).to_string()}},
            "rules": []})
    };
    let state = [
        template("one", "other"),
        template("other", "one"),
        role("r", &json!(["one", "r"]).to_string().into(), json!([])),
    ];
    // The role names itself, which is no template.
    assert_eq!(
        reasons(&state),
        [reason::CYCLIC_TEMPLATES, reason::UNKNOWN_TEMPLATE]
    );
}

#[test]
fn every_ring_of_templates_is_told_once() {
    let template = |kind: &str, name: &str, takes: &[&str]| {
        mk(json!({"apiVersion": IAM, "kind": kind, "metadata": {"name": name,
            "labels": {"iam.kubesphere.io/role-template": "true"},
            "annotations": {DEPENDENCIES: json!(takes).to_string()}}, "rules": []}))
    };
    let state = [
        template("GlobalRole", "c", &["a"]),
        template("GlobalRole", "a", &["b", "leaf"]),
        template("GlobalRole", "b", &["c", "missing", "b"]),
        template("GlobalRole", "before", &["a"]),
        template("GlobalRole", "leaf", &[]),
        // Of another kind, so nothing leads back.
        template("WorkspaceRole", "leaf", &["a"]),
    ];
    let findings = upgrade(&state).findings;
    let told: Vec<_> = findings
        .iter()
        .map(|f| (&*f.object.name, &*f.reason, f.needs_decision))
        .collect();
    let expect = reason::CYCLIC_TEMPLATES;
    assert_eq!(told, [("a", expect, false), ("b", expect, false)]);
    assert!(findings[0].message.ends_with("a → b → c → a"), "{findings:?}");
    assert!(findings[1].message.ends_with("b → b"), "{findings:?}");
}

#[test]
fn of_two_with_one_name_the_later_counts_and_both_are_told() {
    let grants = |verb: &str| json!([{"apiGroups": ["*"], "resources": ["users"], "verbs": [verb]}]);
    let state = [
        role("r", &"[]".into(), grants("get")),
        role("r", &"[]".into(), grants("list")),
        binding("b", "missing", "u"),
        binding("b", "r", "u"),
    ];
    assert!(reasons(&state).contains(&reason::SAME_NAME_TWICE.to_owned()));
    assert_eq!(answer(&state, "get", "u").allowed, Some(false));
    assert_eq!(answer(&state, "list", "u").allowed, Some(true));
}

#[test]
fn verbs_that_nobody_knows_are_names_like_others() {
    let rules = json!([{"apiGroups": ["*"], "resources": ["users"], "verbs": ["frobnicate", ""]}]);
    let state = [role("r", &"[]".into(), rules), binding("b", "r", "u")];
    assert_eq!(answer(&state, "frobnicate", "u").allowed, Some(true));
    assert_eq!(answer(&state, "get", "u").allowed, Some(false));
    let objects: Vec<Object> = state.iter().cloned().map(mk).collect();
    let findings = upgrade(&objects).findings;
    // The resource is one whose permissions are revoked.
    assert_eq!(
        reasons(&state),
        [reason::GRANTS_REVOKED_PERMISSION, reason::UNKNOWN_VERB]
    );
    assert!(!findings[1].needs_decision && findings[1].message.ends_with("\"\", \"frobnicate\""));
    // What Kubernetes asks for, and methods where it is about a path, are known.
    let known = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "deletecollection", "bind", "impersonate", "*"]},
        {"nonResourceURLs": ["/x"], "verbs": ["post", "GET", "head"]}]);
    assert_eq!(
        reasons(&[role("r", &"[\"role-template-view-basic\"]".into(), known)])
            .iter()
            .filter(|told| **told == reason::UNKNOWN_VERB)
            .count(),
        0
    );
    let post = json!([{"apiGroups": ["x"], "resources": ["x"], "verbs": ["post"]}]);
    assert_eq!(reasons(&[role("r", &"[]".into(), post)]), [reason::UNKNOWN_VERB]);
}

#[test]
fn names_may_be_of_any_script() {
    let rules = json!([{"apiGroups": ["*"], "resources": ["users"], "verbs": ["получить"]}]);
    let state = [
        role("角色", &"[]".into(), rules),
        binding("связь", "角色", "Jürgen 🦀"),
    ];
    let answer = answer(&state, "получить", "Jürgen 🦀");
    assert_eq!(answer.allowed, Some(true));
    assert_eq!(answer.reason, "GlobalRoleBinding связь → GlobalRole 角色, rule 0");
}

#[test]
fn a_role_of_ten_megabytes_is_read_and_judged() {
    let resources: Vec<String> = (0..200_000)
        .map(|number| format!("things-of-a-large-role-{number:020}"))
        .collect();
    let list = json!(["role-template-view-basic", "role-template-manage-users"]).to_string();
    let rules = json!([{"apiGroups": ["*"], "resources": resources, "verbs": ["get"]},
        {"apiGroups": ["*"], "resources": ["users"], "verbs": ["get"]}]);
    let large = role("r", &list.into(), rules);
    let text = large.to_string();
    assert!(text.len() > 9_000_000);
    let state = [large, binding("b", "r", "u")];
    assert_eq!(answer(&state, "get", "u").allowed, Some(true));
    let objects: Vec<Object> = state.iter().cloned().map(mk).collect();
    let migration = upgrade(&objects);
    assert_eq!(migration.role_changes.len(), 1);
    let mut loader = Loader::default();
    assert_eq!(loader.add_json(&text).unwrap(), LineKind::Object);
    assert_eq!(loader.finish().counts()[1], 1);
}

#[test]
fn text_that_is_no_object_is_told_from_json_that_is_cut() {
    let mut loader = Loader::default();
    for text in [
        "1",
        "[]",
        "{}",
        r#"{"kind":"A"}"#,
        r#"{"apiVersion":"v1","kind":"A","metadata":{}}"#,
        "null",
    ] {
        assert_eq!(loader.add_json(text).unwrap(), LineKind::Other, "{text}");
    }
    for text in ["{", r#"{"kind":"#, "nonsense"] {
        assert!(loader.add_json(text).is_err(), "{text}");
    }
    // Fields of odd types count as absent, in an object and in a List.
    let odd = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": IAM, "kind": "GlobalRoleBinding", "metadata": {"name": "b", "labels": [1]},
            "subjects": [1, {"kind": 2}], "roleRef": "x"}]});
    assert_eq!(loader.add_json(&odd.to_string()).unwrap(), LineKind::Object);
    assert_eq!(loader.finish().counts()[2], 1);
}

#[test]
fn who_is_left_without_a_role_or_a_manager_is_told() {
    let rules = json!([{"apiGroups": ["*"], "resources": ["workspacemembers"], "verbs": ["*"]}]);
    let state = [
        json!({"apiVersion": IAM, "kind": "User", "metadata": {"name": "lost"}}),
        json!({"apiVersion": "tenant.kubesphere.io/v1alpha1", "kind": "Workspace", "metadata": {"name": "w"}}),
        json!({"apiVersion": IAM, "kind": "WorkspaceRole", "metadata": {"name": "w-boss",
            "labels": {"kubesphere.io/workspace": "w"},
            "annotations": {AGGREGATION: "[\"role-template-manage-members\"]"}}, "rules": rules}),
        json!({"apiVersion": IAM, "kind": "WorkspaceRoleBinding", "metadata": {"name": "b",
            "labels": {"kubesphere.io/workspace": "w"}}, "roleRef": {"kind": "WorkspaceRole", "name": "w-boss"},
            "subjects": [{"kind": "User", "name": "boss"}]}),
    ];
    let reasons = reasons(&state);
    assert!(
        reasons.contains(&reason::NO_PLATFORM_ROLE.to_owned()),
        "{reasons:?}"
    );
    assert!(
        reasons.contains(&reason::NO_MEMBER_MANAGER.to_owned()),
        "{reasons:?}"
    );
    let objects: Vec<Object> = state.iter().cloned().map(mk).collect();
    let suggestions = upgrade(&objects).suggestions;
    let suggested: Vec<_> = suggestions
        .iter()
        .map(|s| (s.name.as_str(), s.workspace.as_deref(), s.role.as_deref()))
        .collect();
    assert_eq!(suggested, [("boss", Some("w"), Some("w-admin"))]);
}

/// A policy goes on allowing what the rules of its role no longer do, and one of a removed role goes with it.
#[test]
fn a_policy_that_somebody_is_bound_to_is_told() {
    let policy = "package authz\ndefault allow = false\nallow { input.Resource == \"users\" }";
    let with_policy = |name: &str| {
        let mut role = role(name, &json!([]).to_string().into(), json!([]));
        role["metadata"]["annotations"]["iam.kubesphere.io/rego-override"] = policy.into();
        role
    };
    let told = |state: &[Value]| reasons(state).contains(&reason::REGO_POLICY.to_owned());
    for name in ["mine", "users-manager"] {
        assert!(told(&[with_policy(name), binding("b", name, "u")]), "{name}");
    }
    // Built in, or bound to nobody.
    assert!(!told(&[
        with_policy("authenticated"),
        binding("b", "authenticated", "u")
    ]));
    assert!(!told(&[with_policy("mine")]));
}

/// What somebody writes into a rule is read on an operator's screen.
#[test]
fn a_finding_holds_no_control_characters() {
    let rules = json!([{"apiGroups": ["iam.kubesphere.io"], "resources": ["users"], "verbs": ["\u{1b}[2J\nx", "create"]}]);
    let objects = [mk(role("r", &"[]".into(), rules)), mk(binding("b", "r", "u"))];
    for finding in upgrade(&objects).findings {
        assert!(
            !finding.message.contains(char::is_control),
            "{:?}",
            finding.message
        );
    }
}
