//! The JSON merge patches (RFC 7386) that bring a ClusterConfiguration up to date in place. Each is a patch of the
//! whole object, and they touch different parts of it, so they can be sent one by one or merged.

use serde_json::{Map, Value, json};

use super::path;

/// Stands in a patch for the moment at which it is sent. Who sends it puts the local time there, as
/// `YYYY-MM-DDTHH:MM:SS` directly followed by the abbreviation of the zone: `2022-10-28T09:00:00UTC`.
pub const NOW: &str = "${now}";

/// The patch `{spec: …}` that makes `new` of the spec `old`; a removed key is null. `None` when they are equal.
pub fn spec_patch(old: &Value, new: &Value) -> Option<Value> {
    path::merge_patch(old, new).map(|patch| json!({ "spec": patch }))
}

/// The patch `{status: {core: …}}` by which other tools see that KubeSphere is at `version` (`v3.3.1`). `None` when
/// it says so already. All other status keys stay.
pub fn status_patch(status: &Value, version: &str) -> Option<Value> {
    let is = |name: &str, value: &str| path::get(status, name).and_then(Value::as_str) == Some(value);
    let done = is("core.status", "enabled") && is("core.version", version);
    (!done).then(
        || json!({ "status": { "core": { "status": "enabled", "enabledTime": NOW, "version": version } } }),
    )
}

/// The patch `{metadata: {labels: {version}}}`; `None` when `labels` (the object's `metadata.labels`) has it already.
pub fn label_patch(labels: &Value, version: &str) -> Option<Value> {
    let done = labels.get("version").and_then(Value::as_str) == Some(version);
    (!done).then(|| json!({ "metadata": { "labels": { "version": version } } }))
}

/// The JSON merge patch that has the status of a component, `live`, say that it is enabled at `version`, or disabled. `None`
/// when it says so already. The version marks what this installer looks after: what is marked goes when it is switched off.
pub fn component_status(live: Option<&Value>, is_enabled: bool, version: &str) -> Option<Value> {
    let is =
        |name: &str, value: &str| live.and_then(|live| live.get(name)).and_then(Value::as_str) == Some(value);
    if !is_enabled {
        let done = is("status", "disabled") && live.is_some_and(|live| live.get("version").is_none());
        return (!done).then(|| json!({ "status": "disabled", "enabledTime": null, "version": null }));
    }
    if !is("status", "enabled") {
        return Some(json!({ "status": "enabled", "enabledTime": NOW, "version": version }));
    }
    (!is("version", version)).then(|| json!({ "version": version }))
}

/// What the status says of a component whose installation was begun and is not done.
const INSTALLING: &str = "installing";

/// The JSON merge patch that has the status of a component, `live`, say that its installation begins. `None` when it says
/// so already, or that it is enabled.
pub fn component_begun(live: Option<&Value>, version: &str) -> Option<Value> {
    let is_known = live.is_some_and(|live| is_enabled(live) || is_marked(live));
    (!is_known).then(|| json!({ "status": INSTALLING, "version": version }))
}

/// Whether the status of a component says that somebody has installed it.
pub fn is_enabled(live: &Value) -> bool {
    live.get("status").and_then(Value::as_str) == Some("enabled")
}

/// Whether it says that this installer has removed it.
pub fn is_disabled(live: &Value) -> bool {
    live.get("status").and_then(Value::as_str) == Some("disabled")
}

/// Whether it says that this installer has installed it, or has begun to.
pub fn is_marked(live: &Value) -> bool {
    live.get("version").is_some() && (is_enabled(live) || is_begun(live))
}

fn is_begun(live: &Value) -> bool {
    live.get("status").and_then(Value::as_str) == Some(INSTALLING)
}

/// A status that a run was to bring about, as far as it came: where a component is still being installed in `live`, that.
pub fn status_on_its_way(status: &Value, live: &Value) -> Value {
    let Some(map) = status.as_object() else {
        return status.clone();
    };
    let mut out: Map<String, Value> = map
        .iter()
        .map(|(name, value)| {
            (
                name.clone(),
                live.get(name)
                    .map_or_else(|| value.clone(), |live| status_on_its_way(value, live)),
            )
        })
        .collect();
    if is_enabled(status) && is_begun(live) {
        out.insert("status".into(), INSTALLING.into());
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_marked_from_its_beginning_to_its_end() {
        let check = |live: Value, begun: bool, marked: bool| {
            assert_eq!(component_begun(Some(&live), "v2").is_some(), begun, "{live}");
            assert_eq!(is_marked(&live), marked, "{live}");
        };
        assert!(component_begun(None, "v2").is_some());
        check(json!({"status": "failed"}), true, false);
        check(json!({"status": "disabled"}), true, false);
        check(json!({"status": "enabled"}), false, false);
        check(json!({"status": "enabled", "version": "v1"}), false, true);
        let begun = component_begun(None, "v1").unwrap();
        check(begun.clone(), false, true);
        assert_eq!(
            component_status(Some(&begun), true, "v1").unwrap()["status"],
            "enabled"
        );
        assert_eq!(
            component_status(Some(&begun), false, "v1").unwrap(),
            json!({"status": "disabled", "enabledTime": null, "version": null})
        );
    }

    #[test]
    fn a_run_that_stopped_has_brought_the_status_half_way() {
        let enabled = json!({"status": "enabled", "version": "v1"});
        let set = json!({"a": enabled, "b": {"c": enabled}, "d": enabled});
        let live = json!({"a": enabled, "b": {"c": {"status": "installing", "version": "v1"}}, "d": {"status": "mine"}});
        let mut expect = set.clone();
        expect["b"]["c"]["status"] = "installing".into();
        assert_eq!(status_on_its_way(&set, &live), expect);
    }
}
