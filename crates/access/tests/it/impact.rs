//! What the impact tells of single people and workspaces, one situation each.

use access::{
    Deviation, MigrateOptions, Migration, Records, SubjectImpact, WhyChanged, deviations, reason,
};
use object::Object;
use serde_json::{Value, json};

use crate::{
    cases::{IAM, mk_binding},
    common::{RELEASES, apply_catalog, carry_out, mk, upgrade},
};

fn mk_user(name: &str) -> Object {
    mk(json!({"apiVersion": IAM, "kind": "User", "metadata": {"name": name}}))
}

/// The names of the objects of which a reason is told.
fn told<'m>(migration: &'m Migration, reason: &str) -> Vec<&'m str> {
    let findings = migration.findings.iter().filter(|finding| finding.reason == reason);
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
    assert_eq!(told(&migration, reason::NO_PLATFORM_ROLE), ["dangling", "unbound"]);
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
    state.push(mk(json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "proj", "labels": {"kubesphere.io/workspace": "ws"}}})));
    let migration = upgrade(&state);
    assert_eq!(about(&migration, "u").len(), 2);
    assert_eq!(proof(&state, &migration), []);
}

fn mk_role_binding(name: &str, namespace: &str, kind: &str, role: &str, user: &str) -> Object {
    let subjects: Value = json!([{"kind": "User", "name": user}]);
    mk(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"kind": kind, "name": role}, "subjects": subjects}))
}
