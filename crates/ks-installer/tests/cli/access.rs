//! `access`: who loses which permission, and who may do what.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    installer::{Installer, serve},
    support,
};

const TENANTS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/kubesphere-3.2.1-tenants.ndjson.zst"
);

/// The permissions that each loses, by user and scope, as `platform` or `workspace ws1`.
fn lost(impact: &Value) -> BTreeMap<(String, String), Vec<String>> {
    let mut lost = BTreeMap::new();
    for subject in impact["subjects"].as_array().unwrap() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let scope = &subject["scope"];
        let scope = format!("{} {}", text(&scope["kind"]), text(&scope["name"]));
        let permissions: Vec<String> = subject["lost"]
            .as_array()
            .unwrap()
            .iter()
            .map(|change| text(&change["permission"]))
            .collect();
        assert_eq!(subject["kind"], "User");
        assert!(
            !permissions.is_empty() || !subject["gained"].as_array().unwrap().is_empty(),
            "{subject}"
        );
        if !permissions.is_empty() {
            lost.insert((text(&subject["name"]), scope.trim().to_owned()), permissions);
        }
    }
    lost
}

/// As the project's facts about these tenants have it, worked out by hand.
fn check_losses(impact: &Value) {
    let lost = lost(impact);
    let expect = [
        ("adam", "platform", "Access Control: Users Management"),
        ("alice", "platform", "Access Control: Users Management"),
        ("bob", "platform", "Access Control: Workspaces Management"),
        (
            "erin",
            "project proj1",
            "Access Control: Project Members Management",
        ),
        (
            "erin",
            "workspace ws1",
            "Access Control: Workspace Members Management",
        ),
        ("frank", "platform", "Access Control: Users Management"),
        (
            "grace",
            "workspace ws1",
            "Access Control: Workspace Members Management",
        ),
    ];
    let who: BTreeSet<(&str, &str)> = lost
        .keys()
        .map(|(name, scope)| (name.as_str(), scope.as_str()))
        .collect();
    assert_eq!(
        who,
        expect.iter().map(|(name, scope, _)| (*name, *scope)).collect()
    );
    for (name, scope, permission) in expect {
        let permissions = &lost[&(name.to_owned(), scope.to_owned())];
        assert!(
            permissions.iter().any(|held| held == permission),
            "{name}: {permissions:?}"
        );
    }
    assert_eq!(impact["summary"]["usersLosing"], 6);
    let everyone = &impact["everyone"][0];
    assert_eq!(
        (&everyone["kind"], &everyone["name"]),
        (&json!("Group"), &json!("system:authenticated"))
    );
}

/// A question that lacks who and where.
const GET_PODS: &[&str] = &["access", "check", "--verb", "get", "--resource", "pods"];

#[test]
fn impact_names_exactly_who_loses_what() {
    let installer = Installer::new();
    let arguments = ["access", "impact", "--from", TENANTS];
    let with = |more: &[&str]| installer.run(&[&arguments[..], more].concat());
    let told = with(&["-o", "json"]);
    assert_eq!(told.code, 0, "{told:?}");
    check_losses(&told.json());
    let undecided = &told.json()["decisions"];
    assert!(
        undecided
            .as_array()
            .unwrap()
            .iter()
            .any(|decision| decision["reason"] == "UnreadableAggregation"),
        "{undecided}"
    );
    let table = with(&[]);
    for words in [
        "6 users affected",
        "User grace, workspace ws1:",
        "because role ws1-billing-admin loses role-template-manage-members",
        "Everyone in system:authenticated gains",
    ] {
        assert!(table.out.contains(words), "{words}: {}", table.out);
    }
    let csv = with(&["-o", "csv"]);
    let mut lines = csv.out.lines();
    assert_eq!(
        lines.next(),
        Some("kind,name,scope,change,permission,rules,reasons")
    );
    assert!(
        lines.any(|line| line.starts_with("\"User\",\"erin\",\"workspace ws1\",\"lost\"")),
        "{}",
        csv.out
    );
    let html = with(&["-o", "html"]);
    assert!(
        html.out.starts_with("<!doctype html>") && html.out.trim_end().ends_with("</html>"),
        "{}",
        html.out
    );
    installer.check_error(&["status", "-o", "csv"], &["csv"]);
}

#[test]
fn suggestions_are_bindings_to_look_at() {
    let installer = Installer::new();
    let told = installer.run(&["access", "impact", "--from", TENANTS, "--suggest"]);
    assert_eq!(told.code, 0, "{told:?}");
    let bindings = object::parse_documents(&told.out).unwrap();
    let given: Vec<(&str, &str)> = bindings
        .iter()
        .map(|binding| {
            let text = |pointer: &str| binding.pointer(pointer).and_then(Value::as_str).unwrap();
            (text("/subjects/0/name"), text("/roleRef/name"))
        })
        .collect();
    assert!(given.contains(&("bob", "platform-self-provisioner")), "{given:?}");
    assert!(given.contains(&("grace", "ws1-admin")), "{given:?}");
    assert!(told.out.contains("# User alice: managed users"), "{}", told.out);
}

#[test]
fn questions_are_answered_with_the_role_that_decides() {
    let installer = Installer::new();
    let check = |arguments: &[&str], code: i32, words: &str| {
        let arguments = [&["access", "check", "--from", TENANTS][..], arguments].concat();
        let told = installer.run(&arguments);
        assert_eq!(told.code, code, "{told:?}");
        assert!(told.out.contains(words), "{words}: {told:?}");
    };
    let create = ["--verb", "create", "--resource", "users.iam.kubesphere.io"];
    check(
        &[&["--as", "alice"], &create[..]].concat(),
        0,
        "GlobalRoleBinding alice-users-manager → GlobalRole users-manager, rule 0",
    );
    check(&[&["--as", "dave"], &create[..]].concat(), 1, "no rule allows it");
    let members = [
        "--verb",
        "delete",
        "--resource",
        "workspacemembers.iam.kubesphere.io",
    ];
    check(
        &[&["--as", "grace", "--workspace", "ws1"], &members[..]].concat(),
        0,
        "WorkspaceRole ws1-billing-admin",
    );
    check(
        &[&["--as", "grace", "--workspace", "ws2"], &members[..]].concat(),
        1,
        "no rule allows it",
    );
    let who = installer.run(&[
        "access",
        "who-can",
        "create",
        "users.iam.kubesphere.io",
        "--from",
        TENANTS,
    ]);
    for name in ["adam", "admin", "alice", "frank"] {
        assert!(
            who.out
                .lines()
                .any(|line| line.starts_with(&format!("User {name} "))),
            "{}",
            who.out
        );
    }
    assert!(!who.out.contains("User bob"), "{}", who.out);
    let show = installer.run(&["access", "show", "erin", "--from", TENANTS]);
    for words in [
        "platform",
        "ws1",
        "proj1",
        "GlobalRole platform-auditor",
        "Role proj1/deployer",
    ] {
        assert!(show.out.contains(words), "{words}: {}", show.out);
    }
}

#[test]
fn questions_come_line_by_line_and_answers_in_their_order() {
    let installer = Installer::new();
    let question = |user: &str, scope: &str, workspace: &str, resource: &str| {
        json!({"user": user, "groups": [], "verb": "create", "apiGroup": "iam.kubesphere.io", "resource": resource,
            "subresource": "", "name": "", "scope": scope, "workspace": workspace, "namespace": "", "devops": "", "path": ""})
        .to_string()
    };
    let mut lines = Vec::new();
    let mut expect = Vec::new();
    let kinds = [
        (question("alice", "global", "", "users"), json!(true)),
        (question("dave", "global", "", "users"), json!(false)),
        (
            question("grace", "workspace", "ws1", "workspacemembers"),
            json!(true),
        ),
        (
            question("grace", "workspace", "ws2", "workspacemembers"),
            json!(false),
        ),
        ("{\"user\":".to_owned(), Value::Null),
    ];
    // More than what is read at once, and in no order that repeats itself: parts that change places are seen.
    let mut number = 1_usize;
    for _ in 0..25_000 {
        number = number * 48_271 % 2_147_483_647;
        let (line, allowed) = &kinds[number % kinds.len()];
        lines.push(line.clone());
        expect.push(allowed.clone());
    }
    let told = installer.run_with_input(
        &["access", "check", "--batch", "--from", TENANTS],
        &(lines.join("\n") + "\n"),
    );
    let answers: Vec<Value> = told
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["allowed"].clone())
        .collect();
    assert!(
        answers == expect,
        "{} answers: {:?}",
        answers.len(),
        &answers[..5]
    );
}

#[test]
fn the_live_cluster_tells_the_same_as_its_dump() {
    let served = serve(support::tenants());
    let told = served.run(&["access", "impact", "-o", "json"]);
    assert_eq!(told.code, 0, "{told:?}");
    check_losses(&told.json());
    let arguments = [GET_PODS, &["--as", "alice", "--cluster"]].concat();
    assert_eq!(served.run(&arguments).code, 1);
}

#[test]
fn what_is_wrong_with_the_input_is_said() {
    let installer = Installer::new();
    let user =
        "{\"kind\":\"User\",\"apiVersion\":\"iam.kubesphere.io/v1alpha2\",\"metadata\":{\"name\":\"a\"}}\n";
    // So long that it is read in several pieces, and broken in one that is not the first.
    let long = user.repeat(30_000);
    let check = |contents: &str, words: &[&str]| {
        let path = installer.write("dump.ndjson", contents);
        installer.check_error(&["access", "impact", "--from", &path], words);
    };
    check("", &["holds no objects"]);
    check(user, &["there are no roles to look at"]);
    check(
        &format!("{user}\n{{\"kind\":\n"),
        &["line 3", "ends in the middle"],
    );
    check(&format!("{long}nonsense\n{user}"), &["line 30001"]);
    check(&format!("{long}[]\n"), &["line 30001"]);
    let bad = |arguments: &[&str], words: &[&str]| {
        installer.check_error(&[&["access"], arguments, &["--from", TENANTS]].concat(), words);
    };
    bad(&["impact", "--to", "v9.9.9"], &["v9.9.9", "v3.3.1"]);
    bad(&["impact", "--installed", "banana"], &["banana is not a version"]);
    bad(&["impact", "--suggest", "-o", "json"], &["YAML"]);
    let told = |arguments: &[&str], words: &str| {
        let told = installer.run(&[GET_PODS, &["--from", TENANTS], arguments].concat());
        assert!(told.err.contains(words), "{words}: {told:?}");
    };
    told(&["--as", "alice", "--workspace", "ws9"], "no workspace ws9");
    told(&["--as", "alic", "--workspace", "ws1"], "no user alic");
    let ws1: &[&str] = &["--as", "alice", "--workspace", "ws1", "--from", TENANTS];
    let known = installer.run(&[GET_PODS, ws1].concat());
    assert_eq!(known.err, "", "{known:?}");
}
