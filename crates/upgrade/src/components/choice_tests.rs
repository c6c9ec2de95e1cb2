//! Enabling and disabling.

use std::collections::BTreeSet;

use serde_json::json;

use super::{
    tests::{info_of, mk_at, releases},
    *,
};
use crate::{cluster_configuration_key, preflight::mk::mk_edit, reasons};

fn choose_of(
    snapshot: &Snapshot,
    choice: Choice,
    names: &[&str],
    sets: &[&str],
) -> Result<Edit, Vec<Finding>> {
    let releases = releases();
    let release = releases.latest().unwrap();
    let names: BTreeSet<String> = names
        .iter()
        .map(|name| find(release, name).unwrap().name.clone())
        .collect();
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    choose(snapshot, &releases, &Options::default(), choice, &names, &sets)
}

#[track_caller]
fn check_refused(snapshot: &Snapshot, choice: Choice, names: &[&str], reason: &str, words: &str) {
    let findings = choose_of(snapshot, choice, names, &[]).unwrap_err();
    let finding = findings.iter().find(|finding| finding.reason == reason);
    let finding = finding.unwrap_or_else(|| panic!("{reason} is not among {findings:#?}"));
    let text = format!(
        "{} {}",
        finding.message,
        finding.hint.as_deref().unwrap_or_default()
    );
    assert!(text.contains(words), "{text}");
}

#[test]
fn enabling_sets_its_switch_and_what_is_assigned() {
    let snapshot = mk_at(
        json!({"metrics_server": {"enabled": false, "other": 1}}),
        json!({}),
    );
    let edit = choose_of(
        &snapshot,
        Choice::Enable,
        &["metrics_server"],
        &["metrics_server.resources={}"],
    )
    .unwrap();
    assert_eq!(edit.components, ["metrics-server"]);
    assert_eq!(
        edit.patch.unwrap(),
        json!({"metadata": {"resourceVersion": "7"}, "spec": {"metrics_server": {"enabled": true, "resources": {}}}})
    );
    assert_eq!(
        edit.configuration.get("/spec/metrics_server/other"),
        Some(&json!(1))
    );
    // Once more, there is nothing to say.
    let mut edited = snapshot.clone();
    edited
        .objects
        .insert(cluster_configuration_key(), edit.configuration);
    assert_eq!(
        choose_of(&edited, Choice::Enable, &["metrics-server"], &[])
            .unwrap()
            .patch,
        None
    );
}

#[test]
fn what_speaks_against_it_is_named() {
    let bare = mk_at(json!({"common": {"monitoring": {"type": "external"}}}), json!({}));
    use Choice::{Disable, Enable};
    check_refused(
        &bare,
        Enable,
        &["alerting"],
        reasons::COMPONENT_NEEDS_ANOTHER,
        "enable monitoring alerting",
    );
    check_refused(
        &bare,
        Enable,
        &["logsidecar-injector"],
        reasons::COMPONENT_NEEDS_ANOTHER,
        "enable logging logsidecar-injector",
    );
    check_refused(
        &bare,
        Enable,
        &["minio"],
        reasons::COMPONENT_HAS_NO_SWITCH,
        "devops, openpitrix draw it in",
    );
    check_refused(
        &bare,
        Enable,
        &["redis-ha"],
        reasons::COMPONENT_NOT_ASKED_FOR,
        "redis comes in its place",
    );
    check_refused(
        &bare,
        Enable,
        &["ks-core"],
        reasons::COMPONENT_HAS_NO_SWITCH,
        "part of every",
    );
    assert!(choose_of(&bare, Enable, &["alerting", "monitoring"], &[]).is_ok());

    let used = mk_at(json!({"alerting": {"enabled": true}}), json!({}));
    check_refused(
        &used,
        Disable,
        &["monitoring"],
        reasons::COMPONENT_IN_USE,
        "disable alerting monitoring",
    );
    // Monitoring is there unless somebody else's is used; alerts are sent without other clusters.
    assert!(choose_of(&used, Enable, &["notification-manager"], &[]).is_ok());

    let mut old = mk_at(json!({}), json!({}));
    mk_edit(
        &mut old,
        &cluster_configuration_key(),
        "/status/core/version",
        json!("v3.2.1"),
    );
    check_refused(
        &old,
        Enable,
        &["logging"],
        reasons::NOT_AT_RELEASE,
        "upgrade first",
    );
}

#[test]
fn a_switch_that_says_something_else_is_not_overwritten() {
    use Choice::{Disable, Enable};
    let role = |value: &str| mk_at(json!({"multicluster": {"clusterRole": value}}), json!({}));
    let member = role("member");
    let reason = reasons::COMPONENT_SET_OTHERWISE;
    check_refused(
        &member,
        Enable,
        &["multicluster"],
        reason,
        "enabling it would make that host",
    );
    check_refused(
        &member,
        Disable,
        &["multicluster"],
        reason,
        "is member, and stays so",
    );
    // Unless that is meant.
    let meant = choose_of(
        &member,
        Enable,
        &["multicluster"],
        &["multicluster.clusterRole=host"],
    )
    .unwrap();
    assert_eq!(
        meant.configuration.get_str("/spec/multicluster/clusterRole"),
        Some("host")
    );
    for value in ["none", ""] {
        assert!(
            choose_of(&role(value), Enable, &["multicluster"], &[]).is_ok(),
            "{value:?}"
        );
    }
    assert!(choose_of(&role("host"), Disable, &["multicluster"], &[]).is_ok());
    // What --set says besides counts, and is named.
    for snapshot in [role("none"), role("host"), member] {
        let set = ["multicluster.clusterRole=member"];
        let findings = choose_of(&snapshot, Enable, &["multicluster"], &set).unwrap_err();
        assert_eq!(findings[0].reason, reasons::COMPONENT_NOT_ASKED_FOR);
        assert!(
            findings[0]
                .message
                .contains("multicluster.clusterRole is set to member, and it takes host"),
            "{findings:#?}"
        );
        let hint = findings[0].hint.as_deref().unwrap();
        assert!(
            hint.starts_with("leave out --set multicluster.clusterRole=member"),
            "{hint}"
        );
    }
}

#[test]
fn negative_numbers_are_refused() {
    let snapshot = mk_at(json!({}), json!({}));
    let set = ["common.es.data.replicas=-1"];
    let findings = choose_of(&snapshot, Choice::Enable, &["logging"], &set).unwrap_err();
    assert_eq!(findings[0].reason, crate::settings::reasons::INVALID_SETTING);
    assert!(
        findings[0].message.contains("common.es.data.replicas"),
        "{findings:#?}"
    );
}

#[test]
fn what_a_check_keeps_out_is_not_enabled() {
    let snapshot = mk_at(json!({}), json!({}));
    let releases = releases();
    let checked = releases.latest().unwrap().components.iter().find(|component| {
        component.switch.is_some()
            && info_of(&snapshot, &component.name)
                .failed_checks
                .iter()
                .any(|check| !check.warning)
    });
    if let Some(component) = checked {
        let check = info_of(&snapshot, &component.name)
            .failed_checks
            .into_iter()
            .find(|check| !check.warning)
            .unwrap();
        check_refused(
            &snapshot,
            Choice::Enable,
            &[&component.name],
            &check.reason,
            &check.hint,
        );
    }
}

#[test]
fn what_an_earlier_installer_left_is_marked_so_that_it_goes() {
    let enabled = json!({"status": "enabled"});
    let snapshot = mk_at(
        json!({}),
        json!({
            "logging": enabled, "fluentbit": enabled, "es": enabled, "metricsServer": enabled,
        }),
    );
    let edit = choose_of(&snapshot, Choice::Disable, &["logging"], &[]).unwrap();
    let mark = json!({"status": "enabled", "version": "v3.3.1"});
    assert_eq!(
        edit.patch.unwrap(),
        json!({"metadata": {"resourceVersion": "7"}, "status": {"es": mark, "fluentbit": mark, "logging": mark}})
    );
    assert_eq!(edit.configuration.get("/status/es"), Some(&mark));
    assert_eq!(edit.configuration.get("/status/metricsServer"), Some(&enabled));
    // What is on goes off, and what it drew in with it; what something else needs stays.
    let shared = mk_at(
        json!({"logging": {"enabled": true}, "events": {"enabled": true}}),
        json!({
            "logging": enabled, "fluentbit": enabled, "es": enabled, "events": enabled,
        }),
    );
    let edit = choose_of(&shared, Choice::Disable, &["logging"], &[]).unwrap();
    assert_eq!(edit.marked, ["logging"]);
    assert_eq!(
        edit.patch.unwrap()["spec"],
        json!({"logging": {"enabled": false}})
    );
}
