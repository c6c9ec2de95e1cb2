//! Field by field: what is put back, and what stays.

use serde_json::{Value, json};

use super::revert::{covers, revert};

#[track_caller]
fn check(group: &str, set: Value, before: Value, live: Value, expect: Value, conflicts: &[&str]) {
    let reverted = revert(group, &set, &before, &live);
    assert_eq!(reverted.value, expect);
    let paths: Vec<_> = reverted.conflicts.iter().map(|c| c.path.as_str()).collect();
    assert_eq!(paths, conflicts);
    // What a rollback came to, it leaves alone.
    let again = revert(group, &set, &before, &reverted.value);
    assert_eq!(again.value, expect);
}

#[test]
fn what_the_upgrade_set_goes_back_and_what_people_changed_stays() {
    // Changed, added and dropped by the upgrade; added by somebody since.
    check(
        "iam.kubesphere.io",
        json!({"a": 2, "new": {"x": 1}, "same": 1}),
        json!({"a": 1, "dropped": [1], "same": 1}),
        json!({"a": 2, "new": {"x": 1}, "same": 7, "mine": true}),
        json!({"a": 1, "dropped": [1], "same": 7, "mine": true}),
        &[],
    );
    // Changed by the upgrade, and by somebody since.
    check(
        "iam.kubesphere.io",
        json!({"a": 2, "b": 2}),
        json!({"a": 1, "b": 1}),
        json!({"a": 3, "b": 2}),
        json!({"a": 3, "b": 1}),
        &["a"],
    );
    // The upgrade was cut: not everything was set.
    check(
        "iam.kubesphere.io",
        json!({"a": 2, "b": 2}),
        json!({"a": 1, "b": 1}),
        json!({"a": 2, "b": 1}),
        json!({"a": 1, "b": 1}),
        &[],
    );
    // What the upgrade brought without anything in it.
    check(
        "installer.kubesphere.io",
        json!({"spec": {"a": {"list": []}}}),
        json!({"spec": {}}),
        json!({"spec": {"a": {"list": []}}}),
        json!({"spec": {}}),
        &[],
    );
    // A time that only the run knew.
    check(
        "",
        json!({"status": {"core": {"enabledTime": crate::settings::NOW}}}),
        json!({"status": {"core": {"enabledTime": "then"}}}),
        json!({"status": {"core": {"enabledTime": "now"}}}),
        json!({"status": {"core": {"enabledTime": "then"}}}),
        &[],
    );
}

#[test]
fn items_of_lists_go_back_one_by_one() {
    let spec =
        |env: Value| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "env": env}]}}}});
    check(
        "apps",
        spec(json!([{"name": "A", "value": "2"}, {"name": "NEW"}])),
        spec(json!([{"name": "A", "value": "1"}, {"name": "OLD"}])),
        spec(json!([{"name": "MINE"}, {"name": "A", "value": "2"}, {"name": "NEW"}])),
        spec(json!([{"name": "A", "value": "1"}, {"name": "OLD"}, {"name": "MINE"}])),
        &[],
    );
    // What the server filled in goes with what the upgrade added.
    let volume = |more: Value| {
        let mut volumes = vec![json!({"name": "old"})];
        volumes.extend(more.as_array().unwrap().clone());
        json!({"spec": {"template": {"spec": {"volumes": volumes}}}})
    };
    check(
        "apps",
        volume(json!([{"name": "new", "hostPath": {"path": "/x"}}])),
        volume(json!([])),
        volume(json!([{"name": "new", "hostPath": {"path": "/x", "type": ""}}])),
        volume(json!([])),
        &[],
    );
}

#[test]
fn documents_go_back_key_by_key_and_to_the_letter() {
    let config = |text: &str| json!({"data": {"kubesphere.yaml": text}});
    check(
        "",
        config("a: 2\nb: 1\n"),
        config("# kept\na: 1\nb: 1\n"),
        config("a: 2\nb: 1\n"),
        config("# kept\na: 1\nb: 1\n"),
        &[],
    );
    let reverted = revert(
        "",
        &config("a: 2\nb: 1\n"),
        &config("a: 1\nb: 1\n"),
        &config("a: 2\nb: 5\n"),
    );
    let text = reverted.value["data"]["kubesphere.yaml"].as_str().unwrap();
    assert_eq!(object::diff::document(text), Some(json!({"a": 1, "b": 5})));
}

#[test]
fn rules_of_before_and_after_together_are_on_their_way() {
    let rules =
        |names: &[&str]| json!({"rules": names.iter().map(|n| json!({"verbs": [n]})).collect::<Vec<_>>()});
    check(
        "iam.kubesphere.io",
        rules(&["b"]),
        rules(&["a"]),
        rules(&["b", "a"]),
        rules(&["a"]),
        &[],
    );
    check(
        "iam.kubesphere.io",
        rules(&["b"]),
        rules(&["a"]),
        rules(&["b", "mine"]),
        rules(&["b", "mine"]),
        &["rules"],
    );
}

#[test]
fn an_object_covers_what_was_sent_whatever_the_server_added() {
    let check = |set: Value, live: Value, expect: bool| assert_eq!(covers("apps", &set, &live), expect);
    check(
        json!({"spec": {"a": 1}}),
        json!({"spec": {"a": 1, "b": 2}, "status": {}}),
        true,
    );
    check(json!({"spec": {"a": 1}}), json!({"spec": {"a": 2}}), false);
    check(json!({"spec": {"a": []}}), json!({"spec": {}}), true);
}
