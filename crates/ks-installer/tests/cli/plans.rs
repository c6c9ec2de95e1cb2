//! Saved plans: what was approved is what runs, or nothing does.

use serde_json::{Value, json};

use crate::{
    installer::{Served, serve},
    support,
};

fn saved(served: &Served) -> Value {
    served.check_reads(&["plan", "--save", "plan.json"], 0);
    let text = std::fs::read_to_string(served.installer.path("plan.json")).unwrap();
    served.installer.check_no_secret("the saved plan", &text);
    serde_json::from_str(&text).unwrap()
}

const RUN: [&str; 6] = [
    "upgrade",
    "--yes",
    "--plan",
    "plan.json",
    "--wait-controllers",
    "0",
];

#[test]
fn a_saved_plan_runs_and_runs_again() {
    let served = serve(support::tenants());
    let plan = saved(&served);
    assert_eq!(plan["to"], "v3.3.1");
    let ended = served.run(&RUN);
    assert_eq!(ended.code, 0, "{ended:?}");
    served.check_reads(&RUN, 0);
}

#[test]
fn a_saved_plan_goes_on_where_its_run_was_killed() {
    for after in [2, 50] {
        let served = serve(support::tenants());
        saved(&served);
        let mut process = served.spawn(&RUN);
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
        let ended = served.run(&RUN);
        assert_eq!(ended.code, 0, "{ended:?}");
    }
}

#[test]
fn a_plan_of_another_cluster_is_refused() {
    let served = serve(support::tenants());
    saved(&served);
    let other = serve(support::tenants_but(|objects| {
        let namespace = support::find_mut(objects, "Namespace", "kube-system");
        namespace["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000".into();
    }));
    let plan = served.installer.path("plan.json").display().to_string();
    let ended = other.check_reads(&["upgrade", "--yes", "--plan", &plan], 1);
    assert!(ended.out.contains("another cluster"), "{}", ended.out);
    let report = other
        .check_reads(&["upgrade", "--yes", "--plan", &plan, "-o", "json"], 1)
        .json();
    assert_eq!(report["upgraded"], false);
}

#[test]
fn a_plan_is_refused_when_an_object_was_edited_since_and_it_is_named() {
    let served = serve(support::tenants());
    saved(&served);
    let key = support::state::iam("WorkspaceRole", "ws1-member-manager");
    let edit = json!({"metadata": {"labels": {"team": "other"}}});
    support::edit(&served.sandbox, &key, &edit);
    let ended = served.check_reads(&RUN, 1);
    assert!(
        ended
            .out
            .contains("WorkspaceRole ws1-member-manager: changed since"),
        "{}",
        ended.out
    );
    assert_eq!(ended.out.matches("changed since").count(), 1, "{}", ended.out);
    let mut json = RUN.to_vec();
    json.extend(["-o", "json"]);
    let report = served.check_reads(&json, 1).json();
    assert!(
        report["details"].to_string().contains("ws1-member-manager"),
        "{report}"
    );
}

#[test]
fn a_plan_is_refused_when_a_setting_was_changed_since() {
    let served = serve(support::tenants());
    saved(&served);
    let edit = json!({"spec": {"common": {"core": {"console": {"port": 30999}}}}});
    support::edit(&served.sandbox, &support::state::configuration(), &edit);
    let ended = served.check_reads(&RUN, 1);
    assert!(ended.out.contains("ClusterConfiguration"), "{}", ended.out);
}

#[test]
fn a_change_elsewhere_does_not_matter() {
    let served = serve(support::tenants());
    saved(&served);
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine", "namespace": "proj1"}});
    support::block_on(async { support::client(&served.sandbox).create(&map).await }).unwrap();
    let ended = served.run(&RUN);
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn a_file_that_is_no_plan_is_refused() {
    let served = serve(support::tenants());
    let mut plan = saved(&served);
    let text = plan.to_string();
    let write = |contents: &str| served.installer.write("plan.json", contents);
    let check = |contents: Option<&str>, words: &str| {
        contents.map(write);
        let ended = served.check_reads(&RUN, 2);
        assert!(
            ended.err.contains("plan.json") && ended.err.contains(words),
            "{}",
            ended.err
        );
    };
    check(Some(&text[..text.len() / 2]), "not a saved plan");
    check(Some("not a plan"), "not a saved plan");
    check(Some(""), "not a saved plan");
    check(Some("[]"), "not a saved plan");
    check(Some("{}"), "not a saved plan");
    check(Some(r#"{"format": 1}"#), "not a saved plan");
    plan["format"] = 99.into();
    check(Some(&plan.to_string()), "another version");
    std::fs::remove_file(served.installer.path("plan.json")).unwrap();
    check(None, "cannot read");
}

/// Somebody who edits a plan by hand gets nothing else written: what runs is decided anew.
#[test]
fn a_plan_with_steps_taken_out_is_refused() {
    let served = serve(support::tenants());
    let mut plan = saved(&served);
    let stages = plan["stages"].as_array_mut().unwrap();
    stages.retain(|stage| stage["name"] != "custom-roles");
    served.installer.write("plan.json", plan.to_string());
    let ended = served.check_reads(&RUN, 1);
    assert!(
        ended.out.contains("WorkspaceRole ws1-member-manager"),
        "{}",
        ended.out
    );
}
