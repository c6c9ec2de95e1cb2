//! The JSON merge patches (RFC 7386) that bring a ClusterConfiguration up to date in place. Each is a patch of the
//! whole object, and they touch different parts of it, so they can be sent one by one or merged.

use serde_json::{Value, json};

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
