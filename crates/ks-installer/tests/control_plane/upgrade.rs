//! The whole upgrade, on both: what it does to the real cluster is what it does in the sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::Client;
use sandbox::{Config, Sandbox, ServeOptions};
use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options};

use crate::common::{
    CALLER, Caller, Key, authority, dump, dump_by_upstream, is_write_of, name_of_write, scale, state,
    writes_of,
};
use crate::compare::differences;

const SETTLES: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_ends_as_the_sandbox_does() {
    let Some(after) = upgraded_twice("v3.2.1", dump()).await else {
        return;
    };
    tenants_are_as_the_policy_wants(&after);
}

/// What an upgrade by the original left undone is mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_is_repaired_as_the_sandbox_is() {
    let Some(after) = upgraded_twice("v3.3.1", dump_by_upstream()).await else {
        return;
    };
    let billing = &after[&key("iam.kubesphere.io", "WorkspaceRole", "", "ws1-billing-admin")];
    assert!(!templates(billing).contains("role-template-manage-members"));
}

/// Upgrades the same cluster from `version` on a real API server and in the sandbox, compares what they end with, and
/// does so again: that writes nothing. Gives the real end state.
async fn upgraded_twice(version: &str, objects: Vec<Value>) -> Option<BTreeMap<Key, Value>> {
    let options = Options {
        objects: objects.clone(),
        audit: true,
        ..Options::default()
    };
    let mut real = ControlPlane::start_or_skip("the upgrade", options).await?;
    real.wait_until_settled(SETTLES).await.unwrap();
    let client = real.client().await.unwrap();
    let caller = Caller::acting_as(&real, CALLER, &["system:masters"]);

    let sandbox = Sandbox::from_objects(Config::default(), objects).unwrap();
    let server = sandbox.serve(ServeOptions::default()).await.unwrap();
    let sandbox_client = Client::new(sandbox.service(), "default");
    let sandbox_caller = Caller::new(&server.kubeconfig());

    // The dumps were taken with the old installer scaled down; a cluster in use has it running.
    scale(&client, "ks-installer", 1).await;
    scale(&sandbox_client, "ks-installer", 1).await;
    real.wait_until_settled(SETTLES).await.unwrap();
    assert_eq!(pods_of_old_installer(&state(&client).await), 1);

    only_reads(&real, &caller, version).await;

    let outcome = caller.upgrade().await;
    let in_sandbox = sandbox_caller.upgrade().await;
    assert_eq!(outcome["written"], in_sandbox["written"]);
    assert_eq!(outcome["findings"], in_sandbox["findings"]);
    stopped_the_old_installer_first(&real);

    real.wait_until_settled(SETTLES).await.unwrap();
    let after = state(&client).await;
    assert_eq!(pods_of_old_installer(&after), 0);
    let installer = &after[&key("apps", "Deployment", "kubesphere-system", "ks-installer")];
    assert_eq!(installer["spec"]["replicas"], 0);
    let differences = differences(after.clone(), state(&sandbox_client).await, &authority(&real));
    assert!(
        differences.is_empty(),
        "the sandbox differs from a real API server:\n{differences}"
    );

    // Again: everything is as it should be, so nothing is written.
    let writes = writes_of(&real, CALLER).len();
    let writes_in_sandbox = sandbox.requests().writes();
    assert_eq!(caller.upgrade().await["written"], 0);
    assert_eq!(sandbox_caller.upgrade().await["written"], 0);
    assert_eq!(writes_of(&real, CALLER)[writes..], [""; 0]);
    assert_eq!(sandbox.requests().writes(), writes_in_sandbox);
    Some(after)
}

fn key(group: &str, kind: &str, namespace: &str, name: &str) -> Key {
    (group.into(), kind.into(), namespace.into(), name.into())
}

fn pods_of_old_installer(state: &BTreeMap<Key, Value>) -> usize {
    let is_one = |(_, kind, namespace, name): &&Key| {
        kind == "Pod" && namespace == "kubesphere-system" && name.starts_with("ks-installer-")
    };
    state.keys().filter(is_one).count()
}

/// Whatever looks at a cluster, a backup and a rehearsal on a copy included, writes nothing to it.
async fn only_reads(real: &ControlPlane, caller: &Caller, version: &str) {
    let ready = caller.run(&["preflight", "-o", "json"]).await.expect(0).json();
    assert_eq!(ready["ready"], true);
    let plan = caller.run(&["plan", "-o", "json"]).await.expect(0).json();
    assert_eq!(
        (&plan["plan"]["from"], &plan["plan"]["to"]),
        (&json!(version), &json!("v3.3.1"))
    );
    let status = caller.run(&["status", "-o", "json"]).await.expect(0).json();
    assert_eq!(status["version"], version);
    caller.run(&["backup", "--to", "backup.tar.zst"]).await.expect(0);
    let rehearsed = caller.run(&["rehearse", "-o", "json"]).await.expect(0).json();
    assert_eq!(rehearsed["verified"], true, "{rehearsed:#}");
    assert_eq!(writes_of(real, CALLER), [""; 0]);
}

/// The claim to be the one run, and the journal.
fn is_bookkeeping(event: &Value) -> bool {
    let name = name_of_write(event);
    name.contains(" leases ") || name.contains("kubesphere-system/ks-installer-journal")
}

/// By the audit log: the first write beside claim and journal stops the old installer, and the second one comes after its last pod has gone.
fn stopped_the_old_installer_first(real: &ControlPlane) {
    let events = real.writes();
    let mut ours = events
        .iter()
        .enumerate()
        .filter(|(_, event)| is_write_of(event, CALLER) && !is_bookkeeping(event));
    let (_, first) = ours.next().unwrap();
    assert_eq!(
        name_of_write(first),
        "patch deployments kubesphere-system/ks-installer"
    );
    let (second, _) = ours.next().unwrap();
    let gone = events
        .iter()
        .rposition(|event| name_of_write(event).starts_with("delete pods kubesphere-system/ks-installer-"))
        .unwrap();
    assert!(
        gone < second,
        "write {second} came before the old installer's pod went, {gone}"
    );
}

/// The role templates that a role is made of.
fn templates(object: &Value) -> BTreeSet<String> {
    let list = object["metadata"]["annotations"]["iam.kubesphere.io/aggregation-roles"]
        .as_str()
        .unwrap();
    serde_json::from_str(list).unwrap()
}

/// Some of what the access migration must have come to, as the tenants' administrators would look for it.
fn tenants_are_as_the_policy_wants(state: &BTreeMap<Key, Value>) {
    const IAM: &str = "iam.kubesphere.io";
    let names = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|name| format!("role-template-{name}")).collect()
    };
    let has_rule_of = |object: &Value, group: &str| {
        let rules = object["rules"].as_array().unwrap();
        rules
            .iter()
            .any(|rule| rule["apiGroups"].as_array().unwrap().iter().any(|of| of == group))
    };

    // Users of the removed roles keep a platform role of their own, under the binding's old name.
    for user in ["alice", "adam", "bob"] {
        let bindings: Vec<_> = state
            .iter()
            .filter(|((_, kind, ..), object)| {
                kind == "GlobalRoleBinding" && object["subjects"][0]["name"] == user
            })
            .collect();
        let [(_, binding)] = bindings[..] else {
            panic!("{user} has {} bindings", bindings.len())
        };
        assert_eq!(binding["roleRef"]["name"], "platform-regular", "{user}");
        if user == "adam" {
            assert_eq!(binding["metadata"]["labels"]["team"], "sec");
        }
    }
    for removed in ["users-manager", "workspaces-manager"] {
        assert!(
            !state.contains_key(&key(IAM, "GlobalRole", "", removed)),
            "{removed} is still there"
        );
    }

    let desk = &state[&key(IAM, "GlobalRole", "", "hr-desk")];
    assert_eq!(
        templates(desk),
        names(&["view-basic", "view-users", "view-roles"])
    );
    assert!(
        has_rule_of(desk, "custom.example.org"),
        "the rule that was added by hand"
    );
    let emptied = &state[&key(IAM, "GlobalRole", "", "roles-only")];
    assert_eq!(templates(emptied), names(&[]));
    let ghost = &state[&key(IAM, "GlobalRole", "", "ghost-template")];
    assert_eq!(templates(ghost), names(&["view-nothing", "view-basic"]));
    let billing = &state[&key(IAM, "WorkspaceRole", "", "ws1-billing-admin")];
    assert_eq!(templates(billing), names(&["view-basic", "view-members"]));
    let deployer = &state[&key("rbac.authorization.k8s.io", "Role", "proj1", "deployer")];
    assert!(!templates(deployer).contains("role-template-manage-members"));
    assert!(
        has_rule_of(deployer, "custom.example.org"),
        "the rule that was added by hand"
    );
}
