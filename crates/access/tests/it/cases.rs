//! Single roles and bindings, one situation each.

use access::{AGGREGATION, BindingAction, Migration, Rule, reason};
use object::Object;
use serde_json::{Value, json};

use crate::common::{carry_out, mk, upgrade};

pub(crate) const IAM: &str = "iam.kubesphere.io/v1alpha2";

pub(crate) fn mk_role(kind: &str, name: &str, list: Option<&str>, rules: Value) -> Object {
    let mut metadata = json!({"name": name, "labels": {"kubesphere.io/workspace": "ws"}, "annotations": {}});
    if let Some(list) = list {
        metadata["annotations"][AGGREGATION] = list.into();
    }
    let api_version = match kind {
        "Role" | "ClusterRole" => "rbac.authorization.k8s.io/v1",
        _ => IAM,
    };
    if kind == "Role" {
        metadata["namespace"] = "proj".into();
    }
    mk(json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "rules": rules}))
}

pub(crate) fn mk_binding(name: &str, role: &str, users: &[&str]) -> Object {
    let subjects: Vec<Value> = users
        .iter()
        .map(|name| json!({"kind": "User", "name": name}))
        .collect();
    mk(
        json!({"apiVersion": IAM, "kind": "GlobalRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": IAM, "kind": "GlobalRole", "name": role}, "subjects": subjects}),
    )
}

pub(crate) fn rule(resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": ["*"], "resources": resources, "verbs": verbs})
}

const USERS: [&str; 3] = ["users", "users/password", "users/loginrecords"];
const VIEW: [&str; 3] = ["get", "list", "watch"];

/// The rules of a GlobalRole with these templates after the upgrade; `None` where they stay.
#[track_caller]
fn check_rules(templates: &[&str], before: &[Value], expect: Option<&[Value]>) -> Migration {
    let list: Vec<String> = templates
        .iter()
        .map(|name| format!("role-template-{name}"))
        .collect();
    let list = Value::from(list).to_string();
    let state = [mk_role(
        "GlobalRole",
        "custom",
        Some(&list),
        Value::from(before.to_vec()),
    )];
    let migration = upgrade(&state);
    let rules = migration
        .role_changes
        .first()
        .and_then(|change| change.rules.as_deref().map(<[Rule]>::to_vec));
    let expect: Option<Vec<Rule>> =
        expect.map(|rules| serde_json::from_value(Value::from(rules.to_vec())).unwrap());
    assert_eq!(rules, expect);
    migration
}

pub(crate) fn reasons(migration: &Migration) -> Vec<(&str, bool)> {
    let findings = migration.findings.iter();
    findings.map(|f| (f.reason.as_str(), f.needs_decision)).collect()
}

#[test]
fn what_a_kept_template_explains_stays() {
    // Nobody changed it: looking at users stays, changing them goes.
    let view = rule(&["users", "users/loginrecords"], &VIEW);
    let migration = check_rules(
        &["view-users", "manage-users"],
        &[view.clone(), rule(&USERS, &["*"])],
        Some(std::slice::from_ref(&view)),
    );
    assert_eq!(reasons(&migration), []);
    // The same in one rule of somebody's own.
    check_rules(
        &["view-users", "manage-users"],
        &[rule(&USERS, &["*"])],
        Some(&[view]),
    );
}

#[test]
fn a_trimmed_role_only_loses() {
    // Watching users was taken away by hand: it does not come back.
    let trimmed = rule(&["users", "users/loginrecords"], &["get", "list"]);
    let migration = check_rules(
        &["view-users", "manage-roles"],
        &[trimmed.clone(), rule(&["globalroles"], &["*"])],
        Some(std::slice::from_ref(&trimmed)),
    );
    assert_eq!(reasons(&migration), [(reason::TRIMMED_BY_HAND, false)]);
    assert!(migration.role_changes[0].extended_templates.is_empty());
}

#[test]
fn a_rule_of_ones_own_keeps_its_own_part() {
    check_rules(
        &["manage-users"],
        &[rule(&["users", "badges"], &["*"])],
        Some(&[rule(&["badges"], &["*"])]),
    );
}

#[test]
fn a_rule_wider_than_any_exception_stays_and_is_told() {
    let migration = check_rules(&["manage-users"], &[rule(&["*"], &["*"])], None);
    assert_eq!(migration.role_changes[0].annotation.as_deref(), Some("[]"));
    assert_eq!(reasons(&migration), [(reason::GRANTS_REVOKED_PERMISSION, true)]);
}

#[test]
fn an_older_spelling_of_the_same_rules_is_not_rewritten() {
    let migration = check_rules(
        &["view-users"],
        &[
            rule(&["users/loginrecords"], &["watch", "list", "get"]),
            rule(&["users"], &["get", "list", "watch", "get"]),
        ],
        None,
    );
    assert!(migration.is_done());
}

#[test]
fn bare_rules_are_told_not_touched() {
    let check = |kind, rules: Value, expect: bool| {
        let state = [mk_role(kind, "by-kubectl", None, rules)];
        let migration = upgrade(&state);
        assert!(migration.is_done());
        assert_eq!(!migration.findings.is_empty(), expect, "{:?}", migration.findings);
    };
    check("GlobalRole", json!([rule(&["users"], &["create"])]), true);
    check("GlobalRole", json!([rule(&["users"], &["get"])]), false);
    check(
        "WorkspaceRole",
        json!([rule(&["workspacemembers"], &["delete"])]),
        true,
    );
    check("WorkspaceRole", json!(null), false);
    check("ClusterRole", json!([rule(&["*"], &["*"])]), false);
    // No person is bound to it.
    check("Role", json!([rule(&["rolebindings"], &["*"])]), false);
    let bound = [
        mk_role(
            "Role",
            "by-kubectl",
            None,
            json!([rule(&["rolebindings"], &["*"])]),
        ),
        mk(
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "b", "namespace": "proj"},
            "roleRef": {"kind": "Role", "name": "by-kubectl"},
            "subjects": [{"kind": "User", "name": "u"}]}),
        ),
    ];
    assert_eq!(
        reasons(&upgrade(&bound)),
        [(reason::GRANTS_REVOKED_PERMISSION, true)]
    );
}

#[test]
fn what_cannot_be_read_is_left_to_a_person() {
    let check = |list: &str, hint: &str| {
        let state = [mk_role("WorkspaceRole", "r", Some(list), json!([]))];
        let migration = upgrade(&state);
        assert!(migration.is_done());
        assert_eq!(reasons(&migration), [(reason::UNREADABLE_AGGREGATION, true)]);
        assert_eq!(
            migration.findings[0].hint.as_deref(),
            Some(
                format!(
                    "kubectl annotate --overwrite workspaceroles.iam.kubesphere.io r '{AGGREGATION}={hint}'"
                )
                .as_str()
            )
        );
    };
    check("nonsense", "[]");
    check(
        "[role-template-view-basic, 'role-template-manage-members']",
        r#"["role-template-view-basic"]"#,
    );
    check(
        r#"{"a":"role-template-view-roles"}"#,
        r#"["role-template-view-roles"]"#,
    );
    let state = [mk_role("GlobalRole", "r", Some("[]"), json!("rules"))];
    assert_eq!(reasons(&upgrade(&state)), [(reason::UNREADABLE_RULES, true)]);
}

/// Bindings by name, role and users; what becomes of each: the new role, `-` where it is deleted.
#[track_caller]
fn check_bindings(bindings: &[(&str, &str, &[&str])], more: &[Object], expect: &[(&str, &str)]) {
    let mut state: Vec<Object> = bindings
        .iter()
        .map(|(name, role, users)| mk_binding(name, role, users))
        .collect();
    state.extend(more.iter().cloned());
    let migration = upgrade(&state);
    let found: Vec<(&str, &str)> = migration
        .binding_changes
        .iter()
        .map(|change| match &change.action {
            BindingAction::Rebind { to } => (change.key.name.as_str(), to.as_str()),
            BindingAction::DeleteRedundant { .. } => (change.key.name.as_str(), "-"),
        })
        .collect();
    assert_eq!(found, expect);
    assert!(upgrade(&carry_out(&state, &migration, |_| true)).is_done());
}

#[test]
fn a_binding_is_deleted_only_where_it_is_redundant() {
    check_bindings(
        &[
            ("a", "users-manager", &["u"]),
            ("b", "workspaces-manager", &["u"]),
        ],
        &[],
        &[("a", "platform-regular"), ("b", "-")],
    );
    check_bindings(
        &[("a", "users-manager", &["u"]), ("b", "platform-regular", &["u"])],
        &[],
        &[("a", "-")],
    );
    check_bindings(
        &[
            ("a", "users-manager", &["u", "v"]),
            ("b", "platform-regular", &["u"]),
        ],
        &[],
        &[("a", "platform-regular")],
    );
    // Another role does not make it redundant, and a binding without subjects is nobody's business.
    check_bindings(
        &[
            ("a", "users-manager", &["u"]),
            ("b", "platform-admin", &["u"]),
            ("c", "users-manager", &[]),
        ],
        &[],
        &[("a", "platform-regular"), ("c", "platform-regular")],
    );
}

#[test]
fn an_alias_counts_only_where_no_role_is_called_so() {
    check_bindings(
        &[("a", "workspace-manager", &["u"])],
        &[],
        &[("a", "platform-regular")],
    );
    let own = mk_role("GlobalRole", "workspace-manager", Some("[]"), json!([]));
    check_bindings(&[("a", "workspace-manager", &["u"])], &[own], &[]);
}

#[test]
fn bindings_to_nothing_are_told() {
    let state = [
        mk_binding("a", "missing", &["u"]),
        mk_binding("b", "platform-regular", &["u"]),
    ];
    let migration = upgrade(&state);
    assert_eq!(reasons(&migration), [(reason::DANGLING_BINDING, true)]);
    assert_eq!(migration.findings[0].object.name, "a");
}

#[test]
fn a_role_under_a_name_that_becomes_built_in_is_told() {
    let taken = mk_role(
        "GlobalRole",
        "platform-self-provisioner",
        Some("[]"),
        json!([rule(&["x"], &["get"])]),
    );
    let migration = upgrade(&[taken]);
    assert!(migration.is_done());
    assert_eq!(reasons(&migration), [(reason::BUILT_IN_NAME_TAKEN, true)]);
}

#[test]
fn a_dropped_template_stays_while_something_refers_to_it() {
    let mut template = mk_role("ClusterRole", "role-template-manage-components", None, json!([]));
    template.as_map_mut()["metadata"]["labels"]["iam.kubesphere.io/role-template"] = "true".into();
    let check = |other: Object, expect: &[&str]| {
        let migration = upgrade(&[template.clone(), other]);
        let removed: Vec<_> = migration.removed.iter().map(|key| key.name.as_str()).collect();
        assert_eq!(removed, expect);
    };
    let readable = mk_role(
        "ClusterRole",
        "r",
        Some(r#"["role-template-manage-components"]"#),
        json!([]),
    );
    check(readable, &["role-template-manage-components"]);
    check(
        mk_role(
            "ClusterRole",
            "r",
            Some("[role-template-manage-components]"),
            json!([]),
        ),
        &[],
    );
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "b"}, "subjects": [],
        "roleRef": {"kind": "ClusterRole", "name": "role-template-manage-components"}});
    check(mk(binding), &[]);
}

#[test]
fn groups_are_told_with_their_members() {
    let mut binding = mk_binding("a", "users-manager", &[]);
    binding.as_map_mut()["subjects"] = json!([{"kind": "Group", "name": "g"}]);
    let state = [
        binding,
        mk_role("GlobalRole", "users-manager", None, json!([rule(&USERS, &["*"])])),
        mk(
            json!({"apiVersion": IAM, "kind": "GroupBinding", "metadata": {"name": "x"},
            "groupRef": {"name": "g"}, "users": ["v", "u"]}),
        ),
        // Grants nothing: there is no such role.
        mk_binding("b", "missing", &["u"]),
    ];
    let migration = upgrade(&state);
    let [subject, u, v] = &migration.impact.subjects[..] else {
        panic!("{:?}", migration.impact);
    };
    assert_eq!((subject.kind.as_str(), subject.name.as_str()), ("Group", "g"));
    // Each member is affected too, and nobody else.
    for (user, name) in [(u, "u"), (v, "v")] {
        assert_eq!((user.kind.as_str(), user.name.as_str()), ("User", name));
        assert_eq!(
            (&user.through[..], &user.lost),
            (&["g".to_owned()][..], &subject.lost)
        );
    }
    assert_eq!(subject.members, ["u", "v"]);
    assert_eq!(subject.lost.len(), 1);
    assert_eq!(subject.lost[0].permission, None);
}

#[test]
fn roles_of_devops_projects_follow_their_own_templates() {
    let list = r#"["role-template-view-basic","role-template-manage-members"]"#;
    let rules = json!([
        rule(&["devops", "devopsprojects"], &VIEW),
        rule(&["members", "rolebindings"], &["*"])
    ]);
    let mut state = vec![mk_role("Role", "r", Some(list), rules)];
    // Taken for a project's, the rule is not of its templates.
    assert_eq!(reasons(&upgrade(&state)), [(reason::TRIMMED_BY_HAND, false)]);
    state.push(mk(json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "proj", "labels": {"kubesphere.io/devopsproject": "proj"}}})));
    let migration = upgrade(&state);
    assert_eq!(reasons(&migration), []);
    let rules = migration.role_changes[0].rules.as_deref().unwrap();
    assert_eq!(rules[0].resources, ["devops", "devopsprojects"]);
    assert_eq!(rules.len(), 1);
}
