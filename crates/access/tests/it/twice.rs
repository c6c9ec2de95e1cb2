//! Two objects with one name: the later counts, whoever read which of them when, and a finding says so.

use access::{Authorizer, Loader, MigrateOptions, Question, Records, RequestScope, migrate_records, reason};
use serde_json::{Value, json};

use crate::common::RELEASES;

const IAM: &str = "iam.kubesphere.io/v1alpha2";

fn object(api_version: &str, kind: &str, name: &str, more: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    for (field, value) in more.as_object().unwrap() {
        object[field] = value.clone();
    }
    object
}

fn labelled(api_version: &str, kind: &str, name: &str, label: &str, value: &str) -> Value {
    let metadata = json!({"name": name, "labels": {label: value}});
    object(api_version, kind, name, json!({"metadata": metadata}))
}

fn workspace_binding(name: &str, workspace: &str, subject: (&str, &str)) -> Value {
    let mut binding = labelled(
        IAM,
        "WorkspaceRoleBinding",
        name,
        "kubesphere.io/workspace",
        workspace,
    );
    binding["roleRef"] = json!({"kind": "WorkspaceRole", "name": "r"});
    binding["subjects"] = json!([{"kind": subject.0, "name": subject.1}]);
    binding
}

/// Lines of a dump in which everything is there twice, and differs.
fn lines() -> Vec<Value> {
    let group = |users: &[&str]| {
        object(
            IAM,
            "GroupBinding",
            "team-b",
            json!({"groupRef": {"name": "team"}, "users": users}),
        )
    };
    let managed = |kind: &str, manager: &str| {
        let spec = match kind {
            "Workspace" => json!({"manager": manager}),
            _ => json!({"template": {"spec": {"manager": manager}}}),
        };
        object("tenant.kubesphere.io/v1alpha1", kind, "w1", json!({"spec": spec}))
    };
    let configuration = |version: &str| {
        let mut configuration = object(
            "installer.kubesphere.io/v1alpha1",
            "ClusterConfiguration",
            "ks-installer",
            json!({"status": {"core": {"version": version}}}),
        );
        configuration["metadata"]["namespace"] = "kubesphere-system".into();
        configuration
    };
    let project = |workspace: &str| {
        labelled(
            "devops.kubesphere.io/v1alpha3",
            "DevOpsProject",
            "d",
            "kubesphere.io/workspace",
            workspace,
        )
    };
    let namespace = |workspace: &str| labelled("v1", "Namespace", "p", "kubesphere.io/workspace", workspace);
    let rules = json!([{"apiGroups": ["*"], "resources": ["pods"], "verbs": ["get"]}]);
    let role = labelled(IAM, "WorkspaceRole", "r", "kubesphere.io/workspace", "w1");
    let mut able = role.clone();
    able["rules"] = rules;
    let user = || object(IAM, "User", "u", json!({}));
    let federated = || object("types.kubefed.io/v1beta1", "FederatedUser", "u", json!({}));
    vec![
        namespace("w1"),
        group(&["first"]),
        managed("Workspace", "first"),
        managed("WorkspaceTemplate", "first"),
        configuration("v3.2.0"),
        project("w1"),
        role,
        workspace_binding("b", "w1", ("User", "nobody")),
        user(),
        federated(),
        // A list is one line, and all of it before the lines after it.
        json!({"apiVersion": "v1", "kind": "List", "items": [
            namespace("w3"), namespace("w4"), namespace("w5"), namespace("w6")]}),
        namespace("w2"),
        group(&["second"]),
        managed("Workspace", "second"),
        managed("WorkspaceTemplate", "second"),
        configuration("v3.2.1"),
        project("w2"),
        able,
        workspace_binding("b", "w2", ("Group", "team")),
        user(),
        federated(),
    ]
}

fn check(records: &Records) {
    assert_eq!(records.version(), Some("v3.2.1"));
    assert_eq!(records.counts()[0], 1);
    let authorizer = Authorizer::new(records);
    let asks = |user: &'static str, scope| Question {
        user: user.into(),
        verb: "get".into(),
        resource: "pods".into(),
        namespace: if scope == RequestScope::Namespace { "p" } else { "" }.into(),
        devops: if scope == RequestScope::DevOps { "d" } else { "" }.into(),
        scope,
        ..Question::default()
    };
    for scope in [RequestScope::Namespace, RequestScope::DevOps] {
        for (user, expect) in [("first", false), ("second", true), ("nobody", false)] {
            let answer = authorizer.check(&asks(user, scope));
            assert_eq!(answer.allowed, Some(expect), "{user} {scope:?}: {answer:?}");
        }
    }
    let migration = migrate_records(
        records,
        &RELEASES.v3_2_1,
        &RELEASES.v3_3_1,
        &RELEASES.policy,
        MigrateOptions::default(),
    );
    let twice = migration.findings.iter().filter(|finding| {
        assert!(finding.needs_decision || finding.reason != reason::SAME_NAME_TWICE);
        finding.reason == reason::SAME_NAME_TWICE
    });
    let twice: Vec<_> = twice.map(|finding| finding.object.to_string()).collect();
    let expect = [
        "Namespace p",
        "DevOpsProject d",
        "GroupBinding team-b",
        "User u",
        "WorkspaceRole r",
        "WorkspaceRoleBinding b",
        "ClusterConfiguration kubesphere-system/ks-installer",
        "Workspace w1",
        "WorkspaceTemplate w1",
        "FederatedUser u",
    ];
    assert_eq!(twice, expect);
}

/// Each loader reads the lines that are given to it, as threads do that take pieces in turn.
fn load(lines: &[(usize, Value)]) -> Loader {
    let mut loader = Loader::default();
    for (number, line) in lines {
        loader.at(*number);
        loader.add_json(&line.to_string()).unwrap();
    }
    loader
}

#[test]
fn the_later_counts_whoever_read_it() {
    let lines: Vec<(usize, Value)> = lines()
        .into_iter()
        .enumerate()
        .map(|(n, line)| (n + 1, line))
        .collect();
    check(&load(&lines).finish());
    // Shares of any kind, absorbed either way.
    for size in [1, 2, 3, 5, 11] {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for (turn, share) in lines.chunks(size).enumerate() {
            let shares = if turn % 2 == 0 { &mut one } else { &mut other };
            shares.extend(share.to_vec());
        }
        for (first, second) in [(&one, &other), (&other, &one)] {
            let mut whole = Loader::default();
            whole.absorb(load(first));
            whole.absorb(load(second));
            check(&whole.finish());
        }
    }
}

#[test]
fn what_is_there_once_is_not_told() {
    let lines: Vec<(usize, Value)> = lines()
        .into_iter()
        .enumerate()
        .skip(11)
        .map(|(n, line)| (n + 1, line))
        .collect();
    let records = load(&lines).finish();
    let migration = migrate_records(
        &records,
        &RELEASES.v3_2_1,
        &RELEASES.v3_3_1,
        &RELEASES.policy,
        MigrateOptions::default(),
    );
    let told = migration.findings.iter().map(|finding| finding.reason.as_str());
    assert!(!told.collect::<Vec<_>>().contains(&reason::SAME_NAME_TWICE));
}
