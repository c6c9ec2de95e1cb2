//! What KubeFed carries to member clusters: known, named, and told where it does not go on there.

use access::{AGGREGATION, AccessFinding, Authorizer, FEDERATED_KINDS, Question, Records, reason};
use object::Object;
use serde_json::{Value, json};

use crate::common::{mk, upgrade};

fn federated(kind: &str, name: &str, clusters: &[&str], template: Value) -> Object {
    assert!(FEDERATED_KINDS.contains(&kind));
    let clusters: Vec<Value> = clusters.iter().map(|name| json!({"name": name})).collect();
    mk(
        json!({"apiVersion": "types.kubefed.io/v1beta1", "kind": kind, "metadata": {"name": name},
        "spec": {"placement": {"clusters": clusters}, "template": template}}),
    )
}

fn role(kind: &str, name: &str, list: &str) -> Object {
    let template = json!({"metadata": {"annotations": {AGGREGATION: list}}, "rules": []});
    federated(kind, name, &["east", "west"], template)
}

fn binding(name: &str, role: &str) -> Object {
    federated(
        "FederatedGlobalRoleBinding",
        name,
        &["east"],
        json!({"roleRef": {"kind": "GlobalRole", "name": role}, "subjects": [{"kind": "User", "name": "fu"}]}),
    )
}

fn own_role(name: &str) -> Object {
    mk(
        json!({"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRole",
        "metadata": {"name": name, "annotations": {AGGREGATION: "[]"}}, "rules": []}),
    )
}

#[track_caller]
fn one(objects: &[Object]) -> AccessFinding {
    let findings = upgrade(objects).findings;
    let [finding] = &findings[..] else {
        panic!("one finding is expected: {findings:?}");
    };
    finding.clone()
}

/// One finding, whether it needs a decision, and what its message and its hint hold.
#[track_caller]
fn check(objects: &[Object], reason: &str, needs_decision: bool, message: &[&str], hint: &[&str]) {
    let finding = one(objects);
    assert_eq!(
        (&*finding.reason, finding.needs_decision),
        (reason, needs_decision),
        "{finding:?}"
    );
    for words in message {
        assert!(finding.message.contains(words), "{finding:?} lacks {words}");
    }
    for words in hint {
        assert!(
            finding.hint.as_deref().is_some_and(|hint| hint.contains(words)),
            "{finding:?} lacks {words}"
        );
    }
}

#[test]
fn roles_are_named_with_their_clusters_and_what_changes() {
    let on = reason::ON_MEMBER_CLUSTERS;
    let revoked = role("FederatedGlobalRole", "far", "[\"role-template-manage-users\"]");
    let words = ["east, west only", "revokes role-template-manage-users"];
    check(
        std::slice::from_ref(&revoked),
        on,
        true,
        &words,
        &["member clusters east, west too", "kubectl edit"],
    );
    check(
        &[revoked, own_role("far")],
        on,
        true,
        &["it is here and on member clusters east, west"],
        &[],
    );
    let plain = role("FederatedGlobalRole", "far", "[\"role-template-view-users\"]");
    check(std::slice::from_ref(&plain), on, false, &["east, west only"], &[]);
    check(
        &[plain, own_role("far")],
        on,
        false,
        &["it is here and on member clusters east, west"],
        &[],
    );
    let list = "[\"role-template-manage-app-workloads\", \"role-template-manage-components\"]";
    let words = ["renames role-template-manage-app-workloads (now role-template-manage-project-resources)"];
    check(
        &[role("FederatedClusterRole", "far", list)],
        on,
        true,
        &words,
        &[],
    );
    for list in ["[", "{}", "null", "[1]"] {
        let hint = [
            "kubectl edit federatedglobalroles.types.kubefed.io far",
            "east, west",
        ];
        check(
            &[role("FederatedGlobalRole", "far", list)],
            reason::UNREADABLE_AGGREGATION,
            true,
            &["east, west"],
            &hint,
        );
    }
    // What each cluster's own release brings is not told.
    let built_in = role("FederatedGlobalRole", "platform-admin", "[]");
    let own = mk(
        json!({"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRole",
        "metadata": {"name": "platform-admin"}, "rules": []}),
    );
    let findings = upgrade(&[built_in, own]).findings;
    assert!(
        findings.iter().all(|finding| finding.reason != on),
        "{findings:?}"
    );
}

#[test]
fn bindings_to_removed_roles_need_a_decision() {
    let on = reason::ON_MEMBER_CLUSTERS;
    for name in ["users-manager", "workspaces-manager", "workspace-manager"] {
        let hint = [
            "kubectl edit federatedglobalrolebindings.types.kubefed.io b",
            "platform-regular",
            "upgrade member cluster east too",
        ];
        check(
            &[binding("b", name)],
            on,
            true,
            &[name, "member cluster east"],
            &hint,
        );
    }
    // A role of somebody's own may have the name of an alias.
    let objects = [
        binding("b", "workspace-manager"),
        role("FederatedGlobalRole", "workspace-manager", "[]"),
    ];
    assert!(
        upgrade(&objects)
            .findings
            .iter()
            .all(|finding| !finding.needs_decision)
    );
    check(
        &[binding("b", "somebodys")],
        on,
        false,
        &["it binds to somebodys on member cluster east only"],
        &[],
    );
}

#[test]
fn users_and_members_are_known() {
    let group = json!({"groupRef": {"name": "team"}, "users": ["member"]});
    let objects = [
        federated("FederatedUser", "fu", &[], json!({})),
        federated("FederatedGroup", "team", &[], json!({})),
        federated("FederatedGroupBinding", "team-b", &["east"], group),
    ];
    check(
        &objects,
        reason::ON_MEMBER_CLUSTERS,
        false,
        &["it is on member cluster east only"],
        &[],
    );
    let records: Records = objects.iter().collect();
    let authorizer = Authorizer::new(&records);
    for (user, is_known) in [("fu", true), ("member", true), ("other", false)] {
        let question = Question {
            user: user.into(),
            ..Question::default()
        };
        assert_eq!(authorizer.unknown_names(&question).is_empty(), is_known, "{user}");
    }
}
