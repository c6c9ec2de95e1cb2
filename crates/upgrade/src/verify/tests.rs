//! Outcomes of an upgrade, sound and spoilt.

use ::access::{AGGREGATION, AccessFile, MigrateOptions, TEMPLATE, WORKSPACE};
use object::Object;
use serde_json::{Value, json};

use super::*;
use crate::preflight::mk::{mk, mk_add, mk_edit, mk_sound_at};

const IAM: &str = "iam.kubesphere.io/v1alpha2";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

fn rule(resource: &str) -> Value {
    json!({"apiGroups": ["iam.kubesphere.io"], "resources": [resource], "verbs": ["*"]})
}

/// A release with the GlobalRole templates `manage-users` (revoked), `view-users` and a WorkspaceRole built in.
fn mk_catalog() -> (Catalog, Policy) {
    let template = |name: &str, rules: Value| {
        json!({"apiVersion": IAM, "kind": "GlobalRole",
               "metadata": {"name": name, "labels": {TEMPLATE: "true"}}, "rules": rules})
    };
    let file: AccessFile = serde_json::from_value(json!({
        "policy": {
            "removedRoles": [{"kind": "GlobalRole", "name": "users-manager", "aliases": ["user-manager"],
                              "replacement": "platform-regular"}],
            "revokedTemplates": {"platform": ["manage-users"]},
            "builtIn": {"platform": ["platform-regular"], "workspace": ["{workspace}-viewer"]},
        },
        "objects": [
            {"apiVersion": IAM, "kind": "GlobalRole", "metadata": {"name": "platform-regular"}, "rules": []},
            template("manage-users", json!([rule("users"), rule("shared")])),
            template("view-users", json!([rule("shared"), rule("views")])),
            {"apiVersion": IAM, "kind": "RoleBase", "metadata": {"name": "viewer"},
             "role": {"apiVersion": IAM, "kind": "WorkspaceRole", "metadata": {"name": "viewer"}, "rules": [rule("views")]}},
        ],
    }))
    .unwrap();
    file.into_catalog(None).unwrap()
}

fn mk_role(templates: &[&str], rules: Value) -> Object {
    mk(
        IAM,
        "GlobalRole",
        "desk",
        json!({
            "metadata": {"uid": "1", "labels": {"team": "hr"}, "finalizers": ["example.org/hold"],
                         "annotations": {AGGREGATION: json!(templates).to_string(), "note": "n"}},
            "rules": rules,
        }),
    )
}

fn mk_binding(name: &str, role: &str, user: &str) -> Object {
    mk(
        IAM,
        "GlobalRoleBinding",
        name,
        json!({"roleRef": {"kind": "GlobalRole", "name": role}, "subjects": [{"kind": "User", "name": user}]}),
    )
}

/// Before and after of an upgrade in which all went well.
fn mk_upgraded() -> (Snapshot, Snapshot) {
    let mut before = mk_sound_at("v3.2.1");
    let mut after = mk_sound_at("v3.3.1");
    let regular = || mk(IAM, "GlobalRole", "platform-regular", json!({}));
    let manager = mk(IAM, "GlobalRole", "users-manager", json!({}));
    for object in [
        manager,
        regular(),
        mk_role(
            &["manage-users", "view-users"],
            json!([rule("users"), rule("shared"), rule("views"), rule("badges")]),
        ),
        mk_binding("alice", "users-manager", "alice"),
        mk_binding("bob", "user-manager", "bob"),
        mk_binding("carol", "platform-regular", "carol"),
        mk_binding("frank", "desk", "frank"),
        mk(IAM, "User", "alice", json!({"metadata": {"uid": "a"}})),
    ] {
        mk_add(&mut before, object);
    }
    for object in [
        regular(),
        mk_role(
            &["view-users"],
            json!([rule("shared"), rule("views"), rule("badges")]),
        ),
        mk_binding("alice", "platform-regular", "alice"),
        mk_binding("bob", "platform-regular", "bob"),
        mk_binding("carol", "platform-regular", "carol"),
        mk_binding("frank", "desk", "frank"),
        mk(IAM, "User", "alice", json!({"metadata": {"uid": "a"}})),
    ] {
        mk_add(&mut after, object);
    }
    (before, after)
}

fn verified(before: Option<&Snapshot>, after: &Snapshot) -> Vec<Finding> {
    let (catalog, policy) = mk_catalog();
    let deployment = |name: &str| ObjectKey::namespaced("apps", "Deployment", "kubesphere-system", name);
    let findings = verify(
        after,
        &Context {
            target: &"v3.3.1".parse().unwrap(),
            workloads: &[deployment("ks-apiserver")],
            definitions: &[],
            webhook_services: &[ObjectKey::namespaced(
                "",
                "Service",
                "kubesphere-system",
                "ks-controller-manager",
            )],
            catalog: &catalog,
            policy: &policy,
            migration: MigrateOptions::default(),
            before: before.map(|before| (before, &catalog)),
        },
    );
    for finding in &findings {
        let reason = reasons::find(&finding.reason).expect("a known reason");
        assert!(reason.severities.contains(&finding.severity), "{finding:?}");
    }
    findings
}

/// What is found when the outcome is spoilt.
#[track_caller]
fn check(spoil: impl FnOnce(&mut Snapshot, &mut Snapshot), expect: &[&str]) {
    let (mut before, mut after) = mk_upgraded();
    spoil(&mut before, &mut after);
    let found = verified(Some(&before), &after);
    let reasons: Vec<&str> = found.iter().map(|f| f.reason.as_str()).collect();
    assert_eq!(reasons, expect, "{found:#?}");
}

fn key(kind: &str, name: &str) -> ObjectKey {
    ObjectKey::cluster("iam.kubesphere.io", kind, name)
}

#[test]
fn what_went_well_has_no_findings() {
    check(|_, _| {}, &[]);
    let (_, after) = mk_upgraded();
    assert_eq!(verified(None, &after), []);
}

#[test]
fn the_platform_must_run_and_say_its_version() {
    let apiserver = ObjectKey::namespaced("apps", "Deployment", "kubesphere-system", "ks-apiserver");
    check(
        |_, after| {
            mk_edit(
                after,
                &cluster_configuration(),
                "/status/core/version",
                json!("v3.2.1"),
            );
        },
        &[reasons::VERSION_NOT_REACHED],
    );
    check(
        |_, after| mk_edit(after, &apiserver, "/status/updatedReplicas", json!(0)),
        &[reasons::ROLLOUT_INCOMPLETE],
    );
    check(
        |_, after| {
            after.objects.remove(&apiserver);
        },
        &[reasons::COMPONENT_MISSING],
    );
    check(
        |_, after| {
            let endpoints =
                ObjectKey::namespaced("", "Endpoints", "kubesphere-system", "ks-controller-manager");
            mk_edit(after, &endpoints, "/subsets", json!([]));
        },
        &[reasons::WEBHOOK_WITHOUT_ENDPOINT],
    );
}

#[test]
fn definitions_must_be_established() {
    let (catalog, policy) = mk_catalog();
    let (_, mut after) = mk_upgraded();
    let definition = ObjectKey::cluster(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "a.example.org",
    );
    let found = |after: &Snapshot| {
        let context = Context {
            target: &"v3.3.1".parse().unwrap(),
            workloads: &[],
            definitions: std::slice::from_ref(&definition),
            webhook_services: &[],
            catalog: &catalog,
            policy: &policy,
            migration: MigrateOptions::default(),
            before: None,
        };
        verify(after, &context)
            .into_iter()
            .map(|f| f.reason)
            .collect::<Vec<_>>()
    };
    assert_eq!(found(&after), [reasons::DEFINITION_NOT_ESTABLISHED]);
    let established = json!({"status": {"conditions": [{"type": "Established", "status": "True"}]}});
    mk_add(
        &mut after,
        mk(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "a.example.org",
            established,
        ),
    );
    assert_eq!(found(&after), [""; 0]);
}

#[test]
fn no_binding_may_refer_to_a_role_that_went() {
    check(
        |_, after| mk_add(after, mk_binding("alice", "users-manager", "alice")),
        &[reasons::BINDING_LOST, reasons::BINDING_WITHOUT_ROLE],
    );
    check(
        |_, after| mk_add(after, mk_binding("bob", "user-manager", "bob")),
        &[reasons::BINDING_LOST, reasons::BINDING_WITHOUT_ROLE],
    );
    let dangling = || mk_binding("zoe", "never-was", "zoe");
    check(
        |before, after| {
            mk_add(before, dangling());
            mk_add(after, dangling());
        },
        &[],
    );
    check(
        |_, after| mk_add(after, dangling()),
        &[reasons::BINDING_WITHOUT_ROLE],
    );
    let (_, mut after) = mk_upgraded();
    mk_add(&mut after, dangling());
    assert_eq!(
        verified(None, &after)[0].reason,
        ::access::reason::DANGLING_BINDING
    );
    check(
        |_, after| {
            mk_add(
                after,
                mk(
                    RBAC,
                    "RoleBinding",
                    "kube-system/b",
                    json!({"roleRef": {"kind": "ClusterRole", "name": "none"}}),
                ),
            );
        },
        &[reasons::BINDING_WITHOUT_ROLE],
    );
}

#[test]
fn a_redundant_binding_may_go_where_its_user_has_the_replacement() {
    check(
        |before, after| {
            for snapshot in [before, &mut *after] {
                mk_add(snapshot, mk_binding("alice-2", "platform-regular", "alice"));
            }
            after.objects.remove(&key("GlobalRoleBinding", "alice"));
        },
        &[],
    );
    check(
        |_, after| {
            after.objects.remove(&key("GlobalRoleBinding", "alice"));
        },
        &[reasons::BINDING_LOST],
    );
    check(
        |_, after| {
            after.objects.remove(&key("GlobalRoleBinding", "carol"));
        },
        &[reasons::BINDING_LOST],
    );
    check(
        |_, after| mk_edit(after, &key("GlobalRoleBinding", "frank"), "/subjects", json!([])),
        &[reasons::BINDING_LOST],
    );
}

#[test]
fn custom_roles_lose_what_is_revoked_and_nothing_else() {
    let desk = || key("GlobalRole", "desk");
    check(
        |_, after| {
            mk_add(
                after,
                mk_role(
                    &["manage-users", "view-users"],
                    json!([rule("users"), rule("shared"), rule("views"), rule("badges")]),
                ),
            );
        },
        &[reasons::REVOKED_TEMPLATE_HELD, reasons::ACCESS_NOT_AS_ANNOUNCED],
    );
    // Added by hand.
    check(
        |_, after| mk_edit(after, &desk(), "/rules", json!([rule("shared"), rule("views")])),
        &[reasons::PERMISSION_LOST, reasons::ACCESS_NOT_AS_ANNOUNCED],
    );
    // Given by a revoked template and by a kept one.
    check(
        |_, after| mk_edit(after, &desk(), "/rules", json!([rule("views"), rule("badges")])),
        &[reasons::PERMISSION_LOST, reasons::ACCESS_NOT_AS_ANNOUNCED],
    );
    check(
        |_, after| mk_edit(after, &desk(), "/metadata/labels", json!({})),
        &[reasons::ROLE_CHANGED],
    );
    check(
        |_, after| mk_edit(after, &desk(), "/metadata/finalizers", json!([])),
        &[reasons::ROLE_CHANGED],
    );
    check(
        |_, after| mk_edit(after, &desk(), "/metadata/uid", json!("2")),
        &[reasons::ROLE_LOST],
    );
    // Made anew from its templates, as the original does it.
    check(
        |_, after| {
            let mut anew = mk_role(&["view-users"], json!([rule("shared"), rule("views")]));
            anew.as_map_mut()["metadata"]["uid"] = json!("2");
            anew.as_map_mut()["metadata"]["labels"] = json!({});
            mk_add(after, anew);
        },
        &[
            reasons::PERMISSION_LOST,
            reasons::ROLE_CHANGED,
            reasons::ROLE_LOST,
            reasons::ACCESS_NOT_AS_ANNOUNCED,
        ],
    );
    check(
        |_, after| {
            after.objects.remove(&desk());
        },
        &[
            reasons::ROLE_LOST,
            reasons::BINDING_WITHOUT_ROLE,
            reasons::ACCESS_NOT_AS_ANNOUNCED,
        ],
    );
    check(
        |_, after| mk_add(after, mk(IAM, "GlobalRole", "users-manager", json!({}))),
        &[reasons::REMOVED_ROLE_LEFT],
    );
}

#[test]
fn users_stay() {
    check(
        |_, after| {
            after.objects.remove(&key("User", "alice"));
        },
        &[reasons::USER_LOST],
    );
    check(
        |_, after| mk_edit(after, &key("User", "alice"), "/metadata/uid", json!("b")),
        &[reasons::USER_LOST],
    );
}

#[test]
fn a_namespace_that_went_meanwhile_took_its_objects_along() {
    check(
        |before, _| {
            mk_add(before, mk("v1", "Namespace", "gone", json!({})));
            mk_add(
                before,
                mk(
                    RBAC,
                    "RoleBinding",
                    "gone/b",
                    json!({"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "u"}]}),
                ),
            );
        },
        &[],
    );
}

#[test]
fn built_in_roles_that_the_controller_has_not_brought_yet_are_a_warning() {
    let viewer = |resource: &str| {
        mk(
            IAM,
            "WorkspaceRole",
            "ws1-viewer",
            json!({"metadata": {"labels": {WORKSPACE: "ws1"}}, "rules": [rule(resource)]}),
        )
    };
    check(|_, after| mk_add(after, viewer("views")), &[]);
    check(
        |_, after| mk_add(after, viewer("other")),
        &[reasons::BUILT_IN_ROLES_BEHIND],
    );
}
