//! Tenants of a real v3.2.1 cluster, and what the upgrade to v3.3.1 does to each of them. The expectations were
//! worked out by hand.

use crate::common::{
    RELEASES, apply_catalog, carry_out, find, tenants, tenants_by_upstream, upgrade, upgrade_from,
};
use access::{AGGREGATION, IAM_GROUP, Migration, RBAC_GROUP, Rule, Scope, reason};
use object::{Object, ObjectKey};
use serde_json::json;

struct Upgraded {
    before: Vec<Object>,
    migration: Migration,
    after: Vec<Object>,
}

fn upgraded() -> Upgraded {
    let before = tenants();
    let migration = upgrade(&before);
    let after = carry_out(&before, &migration, |_| true);
    Upgraded {
        before,
        migration,
        after,
    }
}

fn global(name: &str) -> ObjectKey {
    ObjectKey::cluster(IAM_GROUP, "GlobalRole", name)
}

fn workspace(name: &str) -> ObjectKey {
    ObjectKey::cluster(IAM_GROUP, "WorkspaceRole", name)
}

fn project(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::namespaced(RBAC_GROUP, "Role", namespace, name)
}

fn rules(object: &Object) -> Vec<Rule> {
    serde_json::from_value(object.get("/rules").cloned().unwrap_or_default()).unwrap()
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Rule {
    serde_json::from_value(json!({"apiGroups": [group], "resources": resources, "verbs": verbs})).unwrap()
}

impl Upgraded {
    #[track_caller]
    fn role(&self, key: &ObjectKey) -> &Object {
        find(&self.after, key).unwrap_or_else(|| panic!("{key} is gone"))
    }

    /// The role's list is `templates`, its rules hold all of `with` and none of `without`, and nothing else of it
    /// has changed.
    #[track_caller]
    fn check(&self, key: &ObjectKey, templates: &[&str], with: &[Rule], without: &[Rule]) {
        let after = self.role(key);
        let names: Vec<String> = serde_json::from_str(after.annotation(AGGREGATION).unwrap()).unwrap();
        let expect: Vec<String> = templates.iter().map(|t| format!("role-template-{t}")).collect();
        assert_eq!(names, expect, "{key}");
        let has = rules(after);
        for rule in with {
            assert!(has.contains(rule), "{key} lacks {rule:?}");
        }
        for rule in without {
            assert!(!has.contains(rule), "{key} still has {rule:?}");
        }
        let mut rest = find(&self.before, key).unwrap().clone();
        rest.as_map_mut()["metadata"]["annotations"][AGGREGATION] =
            after.annotation(AGGREGATION).unwrap().into();
        rest.as_map_mut()["rules"] = after.get("/rules").unwrap().clone();
        assert_eq!(rest.as_value(), after.as_value(), "{key}");
    }

    #[track_caller]
    fn check_unchanged(&self, key: &ObjectKey) {
        assert_eq!(
            find(&self.before, key).unwrap().as_value(),
            self.role(key).as_value(),
            "{key}"
        );
    }

    #[track_caller]
    fn check_finding(&self, key: &ObjectKey, reason: &str, needs_decision: bool) {
        let findings = &self.migration.findings;
        let found = findings.iter().find(|f| f.object == *key && f.reason == reason);
        let found = found.unwrap_or_else(|| panic!("no finding {reason} about {key}"));
        assert_eq!(found.needs_decision, needs_decision, "{key}");
    }

    /// The role that a user's binding refers to; but for that the binding is as before.
    #[track_caller]
    fn check_rebound(&self, binding: &str, role: &str) {
        let key = ObjectKey::cluster(IAM_GROUP, "GlobalRoleBinding", binding);
        let mut expect = find(&self.before, &key).unwrap().clone();
        expect.as_map_mut()["roleRef"]["name"] = role.into();
        assert_eq!(expect.as_value(), self.role(&key).as_value());
    }
}

#[test]
fn alice_and_adam_become_platform_regular() {
    let upgraded = upgraded();
    upgraded.check_rebound("alice-users-manager", "platform-regular");
    upgraded.check_rebound("adam-users-manager", "platform-regular");
    let key = ObjectKey::cluster(IAM_GROUP, "GlobalRoleBinding", "adam-users-manager");
    assert_eq!(upgraded.role(&key).label("team"), Some("sec"));
}

#[test]
fn bob_becomes_platform_regular() {
    upgraded().check_rebound("bob-workspaces-manager", "platform-regular");
}

#[test]
fn others_keep_their_platform_role() {
    let upgraded = upgraded();
    for (user, role) in [
        ("carol", "platform-regular"),
        ("dave", "platform-regular"),
        ("grace", "platform-regular"),
        ("erin", "platform-auditor"),
        ("frank", "hr-desk"),
    ] {
        upgraded.check_rebound(&format!("{user}-{role}"), role);
    }
    assert_eq!(upgraded.migration.binding_changes.len(), 3);
}

#[test]
fn users_manager_and_workspaces_manager_are_gone() {
    let upgraded = upgraded();
    for name in ["users-manager", "workspaces-manager"] {
        assert!(find(&upgraded.after, &global(name)).is_none());
        let refers = |object: &&Object| object.get_str("/roleRef/name") == Some(name);
        assert!(upgraded.after.iter().find(refers).is_none());
    }
}

#[test]
fn hr_desk_loses_manage_users_and_keeps_its_own_rule() {
    let upgraded = upgraded();
    let key = global("hr-desk");
    upgraded.check(
        &key,
        &["view-basic", "view-users", "view-roles"],
        &[
            rule("custom.example.org", &["badges"], &["*"]),
            rule("*", &["users", "users/loginrecords"], &["get", "list", "watch"]),
        ],
        &[rule(
            "*",
            &["users", "users/password", "users/loginrecords"],
            &["*"],
        )],
    );
    let role = upgraded.role(&key);
    assert_eq!(
        (role.label("team"), role.annotation("kubesphere.io/alias-name")),
        (Some("hr"), Some("HR desk alias"))
    );
}

#[test]
fn roles_only_stays_empty() {
    let upgraded = upgraded();
    upgraded.check(&global("roles-only"), &[], &[], &[]);
    assert_eq!(rules(upgraded.role(&global("roles-only"))), []);
}

#[test]
fn ghost_template_keeps_the_unknown_name() {
    let upgraded = upgraded();
    let key = global("ghost-template");
    upgraded.check(&key, &["view-nothing", "view-basic"], &[], &[]);
    assert_eq!(rules(upgraded.role(&key)), []);
    upgraded.check_finding(&key, reason::UNKNOWN_TEMPLATE, false);
}

#[test]
fn bad_json_is_left_to_a_person() {
    let upgraded = upgraded();
    upgraded.check_unchanged(&global("bad-json"));
    upgraded.check_finding(&global("bad-json"), reason::UNREADABLE_AGGREGATION, true);
    let finding = upgraded.migration.findings.iter().find(|f| f.needs_decision);
    assert_eq!(
        finding.unwrap().hint.as_deref(),
        Some(
            "kubectl annotate --overwrite globalroles.iam.kubesphere.io bad-json \
             'iam.kubesphere.io/aggregation-roles=[]'"
        )
    );
}

#[test]
fn platform_auditor_follows_its_templates() {
    let upgraded = upgraded();
    let view = RELEASES
        .v3_3_1
        .template(access::Level::Platform, "role-template-view-workspaces");
    upgraded.check(
        &global("platform-auditor"),
        &["view-basic", "view-users", "view-workspaces"],
        &view.unwrap().rules,
        &[],
    );
}

#[test]
fn ws1_member_manager_loses_manage_members() {
    let upgraded = upgraded();
    let key = workspace("ws1-member-manager");
    upgraded.check(
        &key,
        &["view-basic", "view-members"],
        &[rule("*", &["workspacemembers"], &["get", "list", "watch"])],
        &[
            rule("*", &["workspacemembers"], &["*"]),
            rule("*", &["workspaceroles"], &["list", "get", "watch"]),
        ],
    );
    assert_eq!(upgraded.role(&key).label("cost-center"), Some("42"));
}

#[test]
fn ws1_billing_admin_is_no_built_in_role() {
    upgraded().check(
        &workspace("ws1-billing-admin"),
        &["view-basic", "view-members"],
        &[rule("*", &["workspacemembers"], &["get", "list", "watch"])],
        &[rule("*", &["workspacemembers"], &["*"])],
    );
}

#[test]
fn ws1_night_viewer_is_no_built_in_role() {
    upgraded().check(
        &workspace("ws1-night-viewer"),
        &["view-basic"],
        &[rule("*", &["workspaces"], &["get"])],
        &[rule(
            "*",
            &["groups", "groupbindings", "rolebindings", "workspacerolebindings"],
            &["*"],
        )],
    );
}

#[test]
fn ws1_hand_edited_keeps_its_own_rule() {
    upgraded().check(
        &workspace("ws1-hand-edited"),
        &["view-basic"],
        &[rule("custom.example.org", &["things"], &["get", "list"])],
        &[rule("*", &["workspaceroles"], &["*"])],
    );
}

#[test]
fn ws2_groups_may_only_look() {
    let upgraded = upgraded();
    upgraded.check(&workspace("ws2-groups"), &["view-groups"], &[], &[]);
    let verbs: Vec<_> = rules(upgraded.role(&workspace("ws2-groups")));
    assert!(verbs.iter().all(|rule| rule.verbs == ["get", "list", "watch"]));
}

#[test]
fn ws2_only_deprecated_stays_empty() {
    let upgraded = upgraded();
    let key = workspace("ws2-only-deprecated");
    upgraded.check(&key, &[], &[], &[]);
    assert_eq!(rules(upgraded.role(&key)), []);
}

#[test]
fn ws2_plain_keeps_its_list() {
    upgraded().check(
        &workspace("ws2-plain"),
        &["view-basic", "view-projects"],
        &[rule("*", &["workspaces"], &["get"])],
        &[],
    );
}

#[test]
fn deployer_keeps_all_but_manage_members() {
    let upgraded = upgraded();
    let key = project("proj1", "deployer");
    upgraded.check(
        &key,
        &["view-basic", "view-app-workloads", "manage-app-workloads"],
        &[
            rule("custom.example.org", &["rollouts"], &["*"]),
            rule("*", &["secrets"], &["list"]),
        ],
        &[rule("*", &["members", "rolebindings"], &["*"])],
    );
    assert_eq!(upgraded.role(&key).label("team"), Some("ops"));
}

#[test]
fn release_admin_loses_manage_roles() {
    upgraded().check(
        &project("proj1", "release-admin"),
        &["view-basic"],
        &[],
        &[rule("*", &["roles"], &["*"])],
    );
}

#[test]
fn plain_is_unchanged() {
    upgraded().check_unchanged(&project("proj2", "plain"));
}

#[test]
fn cluster_ops_follows_the_new_names() {
    let upgraded = upgraded();
    let key = ObjectKey::cluster(RBAC_GROUP, "ClusterRole", "cluster-ops");
    upgraded.check(
        &key,
        &["view-nodes", "view-components", "manage-network-resources"],
        &[],
        &[],
    );
    assert_eq!(rules(upgraded.role(&key)), [rule("", &["nodes"], &["get"])]);
    upgraded.check_finding(&key, reason::TRIMMED_BY_HAND, false);
}

#[test]
fn dropped_cluster_templates_are_gone() {
    let upgraded = upgraded();
    for name in [
        "manage-app-workloads",
        "manage-components",
        "manage-network-policies",
        "view-app-workloads",
        "view-network-policies",
    ] {
        let key = ObjectKey::cluster(RBAC_GROUP, "ClusterRole", &format!("role-template-{name}"));
        assert!(find(&upgraded.before, &key).is_some() && find(&upgraded.after, &key).is_none());
    }
}

#[test]
fn everything_else_is_unchanged() {
    let upgraded = upgraded();
    let touched: Vec<&ObjectKey> = upgraded
        .migration
        .role_changes
        .iter()
        .map(|change| &change.key)
        .chain(
            upgraded
                .migration
                .binding_changes
                .iter()
                .map(|change| &change.key),
        )
        .chain(&upgraded.migration.removed)
        .collect();
    assert_eq!(touched.len(), 14 + 3 + 7);
    for object in &upgraded.before {
        if !touched.contains(&&object.key()) {
            upgraded.check_unchanged(&object.key());
        }
    }
    assert_eq!(upgraded.after.len(), upgraded.before.len() - 7);
    assert_eq!(upgraded.migration.findings.len(), 3);
}

/// Who loses something: user, scope, and the words of what is lost. erin, at platform level, only gains.
#[test]
fn impact_names_who_loses_what() {
    let impact = upgraded().migration.impact;
    let lines: Vec<String> = impact
        .subjects
        .iter()
        .map(|subject| {
            let words = |changes: &[access::PermissionChange]| {
                let words = changes
                    .iter()
                    .map(|c| c.permission.as_deref().unwrap_or("other rules"));
                words.collect::<Vec<_>>().join("; ")
            };
            let reasons: Vec<_> = subject.reasons.iter().map(ToString::to_string).collect();
            format!(
                "{} {}, {}: -[{}] +[{}] because {}",
                subject.kind,
                subject.name,
                subject.scope,
                words(&subject.lost),
                words(&subject.gained),
                reasons.join("; ")
            )
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
    let exact: Vec<String> = impact
        .subjects
        .iter()
        .filter(|s| s.name == "frank" || s.scope == Scope::Workspace("ws1".into()))
        .flat_map(|s| {
            s.lost
                .iter()
                .flat_map(|c| &c.grants)
                .map(move |g| format!("{}: {g}", s.name))
        })
        .collect();
    insta::assert_snapshot!(exact.join("\n"));
    let everyone: Vec<_> = impact.everyone.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(everyone, ["system:authenticated"]);
    assert!(impact.everyone[0].lost.is_empty());
}

#[test]
fn what_the_original_upgrade_left_undone_is_repaired() {
    let before = tenants_by_upstream();
    let migration = upgrade_from(&RELEASES.v3_3_1, &before);
    let changed: Vec<_> = migration
        .role_changes
        .iter()
        .map(|c| c.key.name.as_str())
        .collect();
    assert_eq!(changed, ["cluster-ops", "ws1-billing-admin", "ws1-night-viewer"]);
    assert_eq!((migration.binding_changes.len(), migration.removed.len()), (0, 5));
    assert_eq!(
        migration
            .impact
            .subjects
            .iter()
            .map(|s| s.name.as_str())
            .collect::<Vec<_>>(),
        ["grace"]
    );
    let after = carry_out(&before, &migration, |_| true);
    assert!(upgrade_from(&RELEASES.v3_3_1, &after).is_done());
}

#[test]
fn a_second_migration_finds_nothing() {
    let mut state = upgraded().after;
    for from in [&RELEASES.v3_2_1, &RELEASES.v3_3_1] {
        let again = upgrade_from(from, &state);
        assert!(again.is_done(), "{again:?}");
        assert_eq!(again.impact.subjects, []);
    }
    apply_catalog(&mut state, &RELEASES.v3_3_1);
    let again = upgrade(&state);
    assert!(
        again.is_done() && again.impact == access::Impact::default(),
        "{again:?}"
    );
}

#[test]
fn the_order_of_objects_does_not_matter() {
    let mut state = tenants();
    let expect = upgrade(&state);
    state.reverse();
    assert_eq!(upgrade(&state), expect);
}

/// A saved plan holds it.
#[test]
fn a_migration_survives_json() {
    let migration = upgraded().migration;
    let text = serde_json::to_string(&migration).unwrap();
    assert_eq!(serde_json::from_str::<Migration>(&text).unwrap(), migration);
}
