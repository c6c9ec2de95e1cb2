//! What each command does on a cluster that can be upgraded.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::Value;

use crate::{
    installer::{Installer, Served, serve},
    support::{self, state::State},
};

fn tenants() -> Served {
    serve(support::tenants())
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn reading_commands_write_nothing() {
    let served = tenants();
    for command in [
        &["preflight"][..],
        &["plan"],
        &["plan", "--details"],
        &["plan", "--save", "plan.json", "-vv"],
        &["status"],
        &["backup"],
        &["rehearse"],
        &["rehearse", "--details", "-vv"],
    ] {
        let ended = served.check_reads(command, 0);
        assert!(
            !ended.out.contains('\u{1b}'),
            "{command:?} colours what nobody sees"
        );
        let mut json = command.to_vec();
        json.extend(["-o", "json"]);
        assert!(served.check_reads(&json, 0).json().is_object(), "{command:?}");
    }
    let plan = std::fs::read_to_string(served.installer.path("plan.json")).unwrap();
    served.installer.check_no_secret("the saved plan", &plan);
}

#[test]
fn without_a_terminal_an_upgrade_needs_to_be_told_yes() {
    let served = tenants();
    let ended = served.check_reads(&["upgrade"], 2);
    assert!(ended.err.contains("--yes"), "{}", ended.err);
    served.check_reads(&["upgrade", "-o", "json"], 2);
}

/// A run that went on with another one goes back to before the first of them, not to the half upgraded cluster that it found.
#[test]
fn a_failed_run_that_went_on_with_another_goes_back_to_before_both() {
    let served = tenants();
    served.sandbox.afflict(sandbox::faults::Trouble::UnpullableImage {
        image: "*ks-apiserver:v3.3.1".into(),
    });
    let before = State::of(&served.sandbox);
    let upgrade = |backup: &'static str| {
        [
            "upgrade",
            "--yes",
            "--wait",
            "1",
            "--wait-controllers",
            "0",
            "-o",
            "json",
            "--backup",
            backup,
        ]
    };
    let first = served.run(&upgrade("first.tar.zst"));
    assert_eq!(first.code, 2, "{first:?}");
    assert!(first.err.contains("ks-installer rollback --to ") && first.err.contains("first.tar.zst"));
    let second = served.run(&upgrade("second.tar.zst"));
    assert_eq!(second.code, 2, "{second:?}");
    assert!(second.err.contains("first.tar.zst"), "{}", second.err);
    let status = served.run(&["status", "-o", "json"]).json();
    assert_eq!(status["version"], "v3.2.1", "the rollout is not complete");
    let third = served.run(&[&upgrade("third.tar.zst")[..], &["--rollback-on-failure"]].concat());
    assert_eq!(third.code, 1, "{third:?}");
    assert_eq!(third.json()["rolledBack"], true);
    let after = State::of(&served.sandbox);
    let roles = |state: &State| -> Vec<_> {
        let roles = state.0.iter().filter(|(key, _)| key.kind.ends_with("Role"));
        roles
            .map(|(key, role)| (key.clone(), role["rules"].clone()))
            .collect()
    };
    assert_eq!(roles(&after), roles(&before));
}

#[test]
fn upgrade_backs_up_upgrades_and_verifies() {
    let served = tenants();
    let ended = served.run(&[
        "upgrade",
        "--yes",
        "--backup",
        "before.tar.zst",
        "--wait-controllers",
        "0",
        "-o",
        "json",
    ]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let report = ended.json();
    assert_eq!(report["verified"], true);
    assert_eq!(report["to"], "v3.3.1");
    assert!(report["written"].as_u64().unwrap() > 60);

    let backup = served.installer.path("before.tar.zst");
    assert_eq!(mode(&backup), 0o600);
    let contents = cluster::archive::verify(&backup, &cluster::encryption::Keys::default()).unwrap();
    assert_eq!(contents.index.meta.from, "v3.2.1");
    assert_eq!(contents.plan["to"], "v3.3.1");
    served
        .installer
        .check_no_secret("the plan in the backup", &contents.plan.to_string());
    // What was changed or deleted is in it as it was.
    let mut saved = BTreeSet::new();
    let before = State::of(&support::tenants());
    cluster::archive::read(&backup, &cluster::encryption::Keys::default(), |object| {
        assert_eq!(
            Some(object.as_value()),
            before.find(&object.key()),
            "{}",
            object.key()
        );
        saved.insert(object.key());
    })
    .unwrap();
    let (before, after) = (before.comparable(), State::of(&served.sandbox).comparable());
    for key in before.changed(&after) {
        let is_ours = before.find(key).is_some() && key.group != "apiregistration.k8s.io";
        assert!(
            !is_ours || saved.contains(key),
            "{key} was changed and is not in the backup"
        );
    }

    let again = served.check_reads(&["upgrade", "--yes"], 0);
    assert!(again.out.contains("nothing to do"), "{}", again.out);
    let again = served.check_reads(&["upgrade", "--yes", "-o", "json"], 0).json();
    assert_eq!(again["written"], 0);
    assert_eq!(
        served.check_reads(&["status", "-o", "json"], 0).json()["pendingWrites"],
        0
    );
}

#[test]
fn what_the_binary_does_over_https_is_what_the_engine_does_in_process() {
    let served = tenants();
    let ended = served.run(&["upgrade", "--yes", "--wait-controllers", "0", "-vv"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let expect = State::of(&support::upgraded());
    let got = State::of(&served.sandbox);
    check_same(&expect, &got);
}

/// What tells of the run itself: its journal.
fn is_journal(key: &object::ObjectKey) -> bool {
    key.kind == "ConfigMap" && key.name == "ks-installer-journal"
}

/// Helm's records hold the time of the upgrade.
fn is_helm_record(key: &object::ObjectKey) -> bool {
    key.kind == "Secret" && key.name.starts_with("sh.helm.release.v1.")
}

/// Equal but for what is drawn anew, UIDs of new objects, and times.
#[track_caller]
fn check_same(expect: &State, got: &State) {
    let before = State::of(&support::tenants());
    let outcome = |state: &State| {
        let mut state = state.comparable();
        state.0.retain(|key, _| !is_journal(key));
        for (key, value) in &mut state.0 {
            if is_helm_record(key) {
                let value = std::sync::Arc::make_mut(value);
                value["data"]["release"] = Value::Null;
                value["metadata"]["labels"]["modifiedAt"] = Value::Null;
            }
            if before.find(key).is_none() {
                let value = std::sync::Arc::make_mut(value);
                value["metadata"].as_object_mut().unwrap().remove("uid");
            }
            if key.kind == "ClusterConfiguration" {
                let value = std::sync::Arc::make_mut(value);
                let status = value["status"].as_object_mut().unwrap();
                for component in status.values_mut().filter_map(Value::as_object_mut) {
                    component.remove("enabledTime");
                }
            }
        }
        state
    };
    let differences = outcome(expect).differences(&outcome(got));
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn a_process_that_is_killed_is_finished_by_the_next() {
    for after in [5, 60] {
        let served = tenants();
        let mut process = served.spawn(&["upgrade", "--yes"]);
        while served.writes() < after {
            assert_eq!(
                process.try_wait().unwrap(),
                None,
                "it ended before it could be killed"
            );
            std::thread::yield_now();
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let version = &State::of(&served.sandbox).get(&upgrade::cluster_configuration_key())["status"]["core"]
            ["version"]
            .clone();
        assert_eq!(version, "v3.2.1", "it was killed midway");
        let ended = served.run(&["upgrade", "--yes", "--wait-controllers", "0"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        check_same(&State::of(&support::upgraded()), &State::of(&served.sandbox));
    }
}

#[test]
fn a_backup_is_private_and_never_overwritten() {
    let served = tenants();
    let report = served
        .check_reads(&["backup", "--file", "b.tar.zst", "-o", "json"], 0)
        .json();
    let path = served.installer.path("b.tar.zst");
    assert_eq!(mode(&path), 0o600);
    let contents = cluster::archive::verify(&path, &cluster::encryption::Keys::default()).unwrap();
    assert_eq!(report["objects"], contents.index.count);
    let bytes = std::fs::read(&path).unwrap();
    let ended = served.check_reads(&["backup", "--file", "b.tar.zst"], 2);
    assert!(ended.err.contains("b.tar.zst"), "{}", ended.err);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn no_backup_no_upgrade() {
    let served = tenants();
    let before = State::of(&served.sandbox);
    let ended = served.run(&["upgrade", "--yes", "--backup", "no/such/folder/b.tar.zst"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.err.contains("nothing was written"), "{}", ended.err);
    let mut after = State::of(&served.sandbox);
    // The claim that the run took and gave back.
    after
        .0
        .retain(|key, _| key.kind != "Lease" || before.find(key).is_some());
    assert_eq!(before.differences(&after), Vec::<String>::new());
}

#[test]
fn a_rehearsed_state_can_be_rehearsed_again_and_needs_nothing() {
    let installer = Installer::new();
    let from = support::tenants_file().display().to_string();
    for name in ["after.ndjson", "after.ndjson.zst"] {
        let ended = installer.run(&["rehearse", "--from", &from, "--save", name, "-o", "json"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        let report = ended.json();
        assert_eq!(
            (&report["rehearsed"], &report["verified"]),
            (&true.into(), &true.into())
        );
        let saved = installer.path(name);
        assert_eq!(mode(&saved), 0o600, "{name} holds secrets");
        let again = installer.run(&["rehearse", "--from", name, "-o", "json"]);
        assert_eq!(again.code, 0, "{again:?}");
        let again = again.json();
        assert_eq!(again["written"], 0, "{}", again["plan"]["stages"]);
        assert_eq!(again["plan"]["from"], "v3.3.1");
    }
    let read = |name: &str| support::read(&installer.path(name));
    assert_eq!(read("after.ndjson").len(), read("after.ndjson.zst").len());
}

#[test]
fn a_live_rehearsal_says_what_the_upgrade_then_does() {
    let served = tenants();
    let rehearsed = served
        .check_reads(&["rehearse", "--save", "after.ndjson", "-o", "json"], 0)
        .json();
    let upgraded = served
        .run(&["upgrade", "--yes", "--wait-controllers", "0", "-o", "json"])
        .json();
    assert_eq!(rehearsed["written"], upgraded["written"]);
    let copy = State::of_objects(support::read(&served.installer.path("after.ndjson")));
    // A copy has what an upgrade may touch; of that it comes to the same.
    let (copy, live) = (
        copy.comparable().declared(),
        State::of(&served.sandbox).comparable().declared(),
    );
    let is_written = |key: &object::ObjectKey| {
        let has_times = key.kind == "ClusterConfiguration" || key.kind == "APIService" || is_helm_record(key);
        !has_times && !is_journal(key)
    };
    let before = State::of(&support::tenants()).comparable().declared();
    let differences: Vec<_> = live
        .changed(&before)
        .into_iter()
        .filter(|key| is_written(key) && copy.find(key) != live.find(key))
        .collect();
    assert_eq!(differences, Vec::<&object::ObjectKey>::new());
}

#[test]
fn a_list_of_kubectl_can_be_rehearsed() {
    let installer = Installer::new();
    let items = support::read(&support::tenants_file());
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items});
    let path = installer.write("list.json", list.to_string());
    let ended = installer.run(&["rehearse", "--from", &path, "-o", "json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.json()["written"].as_u64().unwrap() > 60);
}

#[test]
fn the_demo_needs_nothing_and_leaves_backup_and_plan() {
    let installer = Installer::new();
    let ended = installer.run(&["demo", "-o", "json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let report = ended.json();
    assert_eq!(report["verified"], true);
    let backup = Path::new(report["backup"].as_str().unwrap());
    assert!(
        backup.starts_with(installer.folder.path()),
        "{}",
        backup.display()
    );
    cluster::archive::verify(backup, &cluster::encryption::Keys::default()).unwrap();
    let plan = std::fs::read_to_string(report["plan"].as_str().unwrap()).unwrap();
    let plan: upgrade::Plan = serde_json::from_str(&plan).unwrap();
    assert_eq!((plan.from.as_str(), plan.to.as_str()), ("v3.2.1", "v3.3.1"));
    let losing = plan
        .impact
        .subjects
        .iter()
        .filter(|subject| !subject.lost.is_empty());
    assert!(losing.count() >= 3);
}

#[test]
fn completions_are_for_every_command() {
    let installer = Installer::new();
    for shell in ["bash", "zsh", "fish"] {
        let ended = installer.run(&["completions", shell]);
        assert_eq!(ended.code, 0);
        for command in ["preflight", "rehearse", "upgrade"] {
            assert!(ended.out.contains(command), "{shell} does not know {command}");
        }
    }
}

#[test]
fn a_cluster_with_all_components_can_be_rehearsed_and_shows_no_secret() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).unwrap();
    let path = root.join("shared/clusters/kubesphere-3.2.1-all.ndjson.zst");
    if !path.exists() {
        eprintln!("skipped: there is no dump of a cluster with all components");
        return;
    }
    let installer = Installer::discreet(&support::mk_cluster(support::read(&path)));
    let from = path.display().to_string();
    let ended = installer.run(&["rehearse", "--from", &from, "--details", "-vv"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let report = installer
        .run(&["rehearse", "--from", &from, "-o", "json", "-vv"])
        .json();
    assert_eq!(report["verified"], true);
    let served = serve(support::mk_cluster(support::read(&path)));
    served.check_reads(&["plan", "--details", "--save", "plan.json", "-vv"], 0);
    let plan = std::fs::read_to_string(served.installer.path("plan.json")).unwrap();
    served.installer.check_no_secret("the saved plan", &plan);
}

#[test]
fn secrets_that_somebody_changed_by_hand_do_not_show_either() {
    let served = serve(support::tenants_but(|objects| {
        let map = support::find_mut(objects, "ConfigMap", "kubesphere-config");
        let text = map["data"]["kubesphere.yaml"].as_str().unwrap();
        let text = format!(
            "{}ldap:\n  managerPassword: by-hand-managers-password\nmine:\n  tokens:\n  - token: by-hand-token-in-a-list\n",
            text.replace(support::JWT_SECRET, "by-hand-jwt-secret-of-32-letters")
        );
        map["data"]["kubesphere.yaml"] = text.into();
        let annotations = &mut map["metadata"]["annotations"];
        annotations["example.org/note"] = "kept".into();
        let configuration = support::find_mut(objects, "ClusterConfiguration", "ks-installer");
        configuration["spec"]["common"]["es"]["basicAuth"] =
            serde_json::json!({"enabled": true, "username": "elastic", "password": "by-hand-es-password"});
        configuration["spec"]["authentication"]["adminPassword"] = "By-hand-admin-passw0rd".into();
        let deployment = support::find_mut(objects, "Deployment", "ks-apiserver");
        deployment["spec"]["template"]["spec"]["containers"][0]["env"] =
            serde_json::json!([{"name": "MY_PASSWORD", "value": "by-hand-variable-value"}]);
    }));
    for command in [
        &["plan", "--details", "--save", "plan.json", "-vv"][..],
        &["plan", "-o", "json", "-vv"],
        &["rehearse", "--details", "-vv"],
        &["rehearse", "-o", "json", "-vv"],
        &["status", "-o", "json", "-vv"],
    ] {
        let ended = served.check_reads(command, 0);
        assert!(
            !ended.out.contains("y-hand-"),
            "{command:?}: {}",
            around(&ended.out)
        );
        assert!(
            !ended.err.contains("y-hand-"),
            "{command:?}: {}",
            around(&ended.err)
        );
    }
    let plan = std::fs::read_to_string(served.installer.path("plan.json")).unwrap();
    assert!(!plan.contains("y-hand-"), "{}", around(&plan));
}

fn around(text: &str) -> String {
    let at = text.find("y-hand-").unwrap_or_default();
    text.chars().skip(at.saturating_sub(300)).take(400).collect()
}
