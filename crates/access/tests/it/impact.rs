//! What the impact tells of single people and workspaces, one situation each.

use access::{
    Deviation, Impact, MigrateOptions, Migration, Records, SubjectImpact, WhyChanged, deviations, reason,
};
use object::Object;
use serde_json::{Value, json};

use crate::{
    cases::{IAM, mk_binding, mk_role, rule},
    common::{RELEASES, apply_catalog, carry_out, mk, upgrade},
};

/// What manages the members of a workspace.
fn members(verbs: &[&str]) -> Value {
    json!([rule(&["workspacemembers"], verbs)])
}

fn mk_workspace(name: &str, manager: &str) -> Object {
    mk(
        json!({"apiVersion": "tenant.kubesphere.io/v1alpha2", "kind": "WorkspaceTemplate",
        "metadata": {"name": name}, "spec": {"template": {"spec": {"manager": manager}}}}),
    )
}

fn mk_workspace_binding(name: &str, role: &str, workspace: Option<&str>, user: &str) -> Object {
    let labels = match workspace {
        Some(name) => json!({"kubesphere.io/workspace": name}),
        None => json!({}),
    };
    mk(json!({"apiVersion": IAM, "kind": "WorkspaceRoleBinding",
        "metadata": {"name": name, "labels": labels},
        "roleRef": {"kind": "WorkspaceRole", "name": role}, "subjects": [{"kind": "User", "name": user}]}))
}

fn mk_user(name: &str) -> Object {
    mk(json!({"apiVersion": IAM, "kind": "User", "metadata": {"name": name}}))
}

/// The names of the objects of which a reason is told.
fn told<'m>(migration: &'m Migration, reason: &str) -> Vec<&'m str> {
    let findings = migration
        .findings
        .iter()
        .filter(|finding| finding.reason == reason);
    findings.map(|finding| finding.object.name.as_str()).collect()
}

fn about<'m>(migration: &'m Migration, name: &str) -> Vec<&'m SubjectImpact> {
    let subjects = migration.impact.subjects.iter();
    subjects.filter(|subject| subject.name == name).collect()
}

/// What verification says of a state after the migration and the release's own objects, but for what KubeSphere's
/// controllers make.
fn proof(before: &[Object], migration: &Migration) -> Vec<Deviation> {
    let mut after = carry_out(before, migration, |_| true);
    apply_catalog(&mut after, &RELEASES.v3_3_1);
    let records = |state: &[Object]| state.iter().collect::<Records>();
    deviations(
        &records(before),
        &records(&after),
        &RELEASES.v3_2_1,
        &RELEASES.v3_3_1,
        &RELEASES.policy,
        MigrateOptions::default(),
    )
}

#[test]
fn a_binding_to_nothing_is_no_platform_role() {
    let state = [
        mk_user("dangling"),
        mk_user("unbound"),
        mk_user("rebound"),
        mk_user("waiting"),
        mk_binding("a", "gone", &["dangling"]),
        // What the release puts in its place is a role.
        mk_binding("b", "users-manager", &["rebound"]),
        // The release brings it.
        mk_binding("c", "platform-self-provisioner", &["waiting"]),
    ];
    let migration = upgrade(&state);
    assert_eq!(
        told(&migration, reason::NO_PLATFORM_ROLE),
        ["dangling", "unbound"]
    );
    assert_eq!(told(&migration, reason::DANGLING_BINDING), ["a"]);
}

#[test]
fn a_role_that_the_release_brings_to_a_binding_is_a_gain() {
    let mut state: Vec<Object> = RELEASES.v3_2_1.objects().cloned().collect();
    state.extend([
        mk_binding("a", "platform-regular", &["u"]),
        mk_binding("b", "platform-self-provisioner", &["u"]),
        // KubeSphere makes no roles in namespaces that are not its own.
        mk_role_binding("c", "proj", "Role", "operator", "u"),
    ]);
    let migration = upgrade(&state);
    let [entry] = about(&migration, "u")[..] else {
        panic!("{:?}", migration.impact);
    };
    assert!(entry.lost.is_empty() && !entry.gained.is_empty(), "{entry:?}");
    let role = "platform-self-provisioner".to_owned();
    assert_eq!(entry.reasons, [WhyChanged::BroughtRole { role }]);
    assert_eq!(proof(&state, &migration), []);
    // In a project the controllers bring it.
    state.push(mk_project());
    let migration = upgrade(&state);
    assert_eq!(about(&migration, "u").len(), 2);
    assert_eq!(proof(&state, &migration), []);
}

fn mk_role_binding(name: &str, namespace: &str, kind: &str, role: &str, user: &str) -> Object {
    let subjects: Value = json!([{"kind": "User", "name": user}]);
    mk(
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"kind": kind, "name": role}, "subjects": subjects}),
    )
}

#[test]
fn a_workspace_managed_from_the_platform_is_left_without() {
    let released = |name: &str| {
        let mut objects = RELEASES.v3_2_1.objects();
        objects
            .find(|object| object.kind() == "GlobalRole" && object.name() == name)
            .unwrap()
            .clone()
    };
    let mut state = vec![
        released("workspaces-manager"),
        released("platform-admin"),
        mk_binding("a", "workspaces-manager", &["bob"]),
        // An administrator of the platform is nobody's manager.
        mk_binding("b", "platform-admin", &["admin"]),
        mk_workspace("w1", "admin"),
        mk_workspace("w2", "bob"),
    ];
    assert_eq!(told(&upgrade(&state), reason::NO_MEMBER_MANAGER), ["w1", "w2"]);
    // Who is bound there stays.
    let mut own = mk_role("WorkspaceRole", "own", None, members(&["*"]));
    own.as_map_mut()["metadata"]["labels"]["kubesphere.io/workspace"] = "w1".into();
    state.extend([own, mk_workspace_binding("c", "own", Some("w1"), "u")]);
    assert_eq!(told(&upgrade(&state), reason::NO_MEMBER_MANAGER), ["w2"]);
}

#[test]
fn whoever_changes_or_removes_members_manages_them() {
    let check = |verbs: &[&str], own: &[&str], expect: Option<&str>| {
        let list = r#"["role-template-manage-members"]"#;
        let state = [
            mk_role("WorkspaceRole", "trimmed", Some(list), members(verbs)),
            mk_workspace_binding("a", "trimmed", Some("ws"), "u"),
            mk_role("WorkspaceRole", "own", None, members(own)),
            mk_workspace_binding("b", "own", Some("ws"), "v"),
        ];
        let migration = upgrade(&state);
        let findings = migration.findings.iter();
        let mut findings = findings.filter(|finding| finding.reason == reason::NO_MEMBER_MANAGER);
        let message = findings.next().map(|finding| finding.message.as_str());
        let begins =
            |what| format!("after the upgrade nobody who is bound in this workspace can {what} its members");
        let expect = expect.map(begins);
        assert_eq!(
            message.and_then(|message| message.split(';').next()),
            expect.as_deref()
        );
    };
    check(&["update", "delete"], &["get"], Some("manage"));
    check(&["create"], &[], Some("manage"));
    check(&["*"], &["delete"], Some("add or change"));
    check(&["update"], &["update"], None);
    check(&["get"], &[], None);
}

#[test]
fn a_binding_without_a_workspace_counts_nowhere() {
    let list = r#"["role-template-manage-members"]"#;
    let state = [
        mk_role("WorkspaceRole", "boss", Some(list), members(&["*"])),
        mk_workspace_binding("a", "boss", None, "u"),
        mk_workspace_binding("b", "gone", Some(""), "u"),
    ];
    let migration = upgrade(&state);
    assert_eq!(migration.impact, Impact::default());
    assert_eq!(told(&migration, reason::NO_MEMBER_MANAGER), [""; 0]);
    assert_eq!(told(&migration, reason::BINDING_WITHOUT_WORKSPACE), ["a", "b"]);
    let hint = |workspace: &str, name: &str| {
        format!(
            "kubectl label --overwrite workspacerolebindings.iam.kubesphere.io {name} \
             kubesphere.io/workspace={workspace}"
        )
    };
    let hints: Vec<_> = migration
        .findings
        .iter()
        .filter_map(|finding| finding.hint.clone())
        .collect();
    assert_eq!(hints, [hint("ws", "a"), hint("WORKSPACE", "b")]);
    assert_eq!(proof(&state, &migration), []);
}

#[test]
fn a_manager_through_a_group_is_suggested_for_what_is_theirs() {
    let mut state: Vec<Object> = RELEASES.v3_2_1.objects().cloned().collect();
    let mut binding = mk_binding("a", "workspaces-manager", &[]);
    binding.as_map_mut()["subjects"] = json!([{"kind": "Group", "name": "g"}]);
    state.extend([
        binding,
        mk(
            json!({"apiVersion": IAM, "kind": "GroupBinding", "metadata": {"name": "x"},
            "groupRef": {"name": "g"}, "users": ["bob", "ann"]}),
        ),
        mk_workspace("w2", "bob"),
    ]);
    let migration = upgrade(&state);
    let suggested: Vec<_> = migration
        .suggestions
        .iter()
        .map(|s| (s.kind.as_str(), s.name.as_str(), s.role.as_deref()))
        .collect();
    assert_eq!(
        suggested,
        [
            ("Group", "g", Some("platform-self-provisioner")),
            ("User", "bob", Some("w2-admin"))
        ]
    );
}

#[test]
fn bindings_of_users_to_nothing_are_told_in_projects_of_workspaces() {
    let cluster = |name: &str, user: &str| {
        mk(
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": "gone"},
            "subjects": [{"kind": "User", "name": user}]}),
        )
    };
    let mut everyone = cluster("everyone", "x");
    everyone.as_map_mut()["subjects"] =
        json!([{"kind": "Group", "name": "g"}, {"kind": "ServiceAccount", "name": "s"}]);
    let state = [
        mk_project(),
        mk_role_binding("a", "proj", "Role", "gone", "u"),
        mk_role_binding("b", "proj", "ClusterRole", "gone", "u"),
        mk_role_binding("c", "proj", "Role", "gone", "system:kube-scheduler"),
        // The controllers make it.
        mk_role_binding("d", "proj", "Role", "operator", "u"),
        mk_role_binding("e", "kube-system", "Role", "gone", "u"),
        cluster("f", "u"),
        cluster("g", "system:kube-proxy"),
        everyone,
    ];
    let told = told(&upgrade(&state), reason::DANGLING_BINDING).join(" ");
    assert_eq!(told, "f a b");
}

#[test]
fn a_cluster_role_is_judged_where_it_is_bound() {
    let check = |name: &str, list: Option<&str>, is_bound: bool, expect: bool| {
        let rules = json!([rule(&["members", "rolebindings", "roles"], &["*"])]);
        let mut state = vec![mk_project(), mk_role("ClusterRole", name, list, rules)];
        if is_bound {
            state.push(mk_role_binding("a", "proj", "ClusterRole", name, "u"));
        }
        let migration = upgrade(&state);
        let told = told(&migration, reason::GRANTS_REVOKED_PERMISSION);
        assert_eq!(
            told.len(),
            usize::from(expect),
            "{name}: {:?}",
            migration.findings
        );
    };
    check("by-kubectl", None, true, true);
    check("by-kubectl", None, false, false);
    check("system:aggregate-to-admin", None, true, false);
    // Kubernetes' own, and KubeSphere's.
    check("admin", None, true, false);
    check("cluster-admin", None, true, false);
}

#[test]
fn of_rules_that_cannot_be_read_no_gain_is_told() {
    let mut boss = mk_role("WorkspaceRole", "ws-admin", None, json!("x"));
    boss.as_map_mut()["metadata"]["labels"]["kubesphere.io/workspace"] = "ws".into();
    let state = [
        boss,
        mk_workspace_binding("a", "ws-admin", Some("ws"), "u"),
        mk_role("GlobalRole", "users-manager", None, json!("x")),
        mk_binding("b", "users-manager", &["v"]),
        mk_role("GlobalRole", "platform-regular", None, json!([])),
    ];
    let migration = upgrade(&state);
    assert_eq!(migration.impact, Impact::default());
    assert_eq!(
        told(&migration, reason::UNREADABLE_RULES),
        ["users-manager", "ws-admin"]
    );
    assert_eq!(migration.binding_changes.len(), 1);
    assert_eq!(proof(&state, &migration), []);
}

fn mk_project() -> Object {
    mk(json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "proj", "labels": {"kubesphere.io/workspace": "ws"}}}))
}
