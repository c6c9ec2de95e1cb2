//! Components are enabled and disabled where the choice is kept: in the ClusterConfiguration. Its edit is worked out here, and
//! what speaks against it; nothing is written.

use std::collections::BTreeSet;

use object::Object;
use release::{Component, Release, Releases, Version};
use serde_json::{Map, Value, json};

use super::{
    objections::{against_disabling, against_enabling, against_overwriting, without_switch},
    survey::Survey,
};
use crate::{Finding, Options, Snapshot, cluster_configuration_key, install, preflight, reasons, settings};

/// What is to become of components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Enable,
    Disable,
}

/// An edit of the ClusterConfiguration.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// The components that were named, in the release's order.
    pub components: Vec<String>,
    /// The ClusterConfiguration as it is to be.
    pub configuration: Object,
    /// A merge patch that makes it so, and only of what was read; `None` where it is so already.
    pub patch: Option<Value>,
    /// Components that an earlier installer left behind, and that are marked as installed so that they go.
    pub marked: Vec<String>,
}

/// The edit that enables or disables these components, which are of the target release. `assignments` are settings besides
/// (see [`install::set`]).
///
/// # Errors
/// All that speaks against it.
pub fn choose(
    snapshot: &Snapshot,
    releases: &Releases,
    options: &Options,
    choice: Choice,
    named: &BTreeSet<String>,
    assignments: &[String],
) -> Result<Edit, Vec<Finding>> {
    let release = crate::target(releases, options).map_err(|finding| vec![*finding])?;
    let live = at_release(snapshot, release)?;
    let components: Vec<&Component> = release
        .components
        .iter()
        .filter(|component| named.contains(&component.name))
        .collect();
    let before = Survey::of_cluster(snapshot, release)?;
    let switchless: Vec<Finding> = components
        .iter()
        .filter_map(|component| without_switch(&before, component, choice))
        .collect();
    if !switchless.is_empty() {
        return Err(switchless);
    }
    let overwritten = against_overwriting(&before, &components, choice, assignments);
    if !overwritten.is_empty() {
        return Err(overwritten);
    }

    let mut configuration = live.clone();
    let spec = configuration
        .as_map_mut()
        .entry("spec")
        .or_insert_with(|| json!({}));
    for component in &components {
        let is_on = before.enabled.contains(&component.name);
        for (path, switch) in component
            .switch
            .iter()
            .flat_map(|switch| switch.paths.iter().map(move |path| (path, switch)))
        {
            // What is so already is not said once more.
            let is_set_on =
                || path.split('.').try_fold(&*spec, |value, name| value.get(name)) == Some(&switch.on);
            match choice {
                Choice::Enable if !is_on => install::put(spec, path, switch.on.clone()),
                Choice::Disable if is_on || is_set_on() => install::put(spec, path, switch.off.clone()),
                _ => {}
            }
        }
    }
    for assignment in assignments {
        install::set(&mut configuration, assignment).map_err(|error| {
            vec![
                Finding::blocker(settings::reasons::INVALID_SETTING, error.to_string())
                    .on(cluster_configuration_key()),
            ]
        })?;
    }
    let empty = json!({});
    let old_spec = live.get("/spec").unwrap_or(&empty);
    let new_spec = configuration.get("/spec").unwrap_or(&empty);
    // As the API server gives it back, with keys in order, where that does so: documents are made of settings.
    let new_spec = if is_sorted(old_spec) {
        install::sorted(new_spec)
    } else {
        new_spec.clone()
    };
    let after = Survey::of(snapshot, release, &new_spec)?;
    let against = match choice {
        Choice::Enable => against_enabling(&before, &after, &components),
        Choice::Disable => against_disabling(&after, &components),
    };
    if !against.is_empty() {
        return Err(against);
    }

    let marked = match choice {
        Choice::Enable => Vec::new(),
        Choice::Disable => left_behind(&before, &after, &components),
    };
    let mut patch = settings::spec_patch(old_spec, &new_spec).unwrap_or_else(|| json!({}));
    let mut status = live.get("/status").cloned().unwrap_or_else(|| json!({}));
    let mut marks = json!({});
    let version = release.version.to_string();
    for path in marked.iter().filter_map(|component| component.status_path()) {
        let mark = json!({"status": "enabled", "version": version});
        let fold = path
            .rsplit('.')
            .fold(mark, |value, name| json!({ (name): value }));
        merge(&mut status, &fold);
        merge(&mut marks, &fold);
    }
    if !marked.is_empty() {
        patch["status"] = marks;
    }
    let map = configuration.as_map_mut();
    map.insert("spec".into(), new_spec);
    if !marked.is_empty() {
        map.insert("status".into(), status);
    }
    let is_change = patch.as_object().is_some_and(|patch| !patch.is_empty());
    if let Some(version) = live.get_str("/metadata/resourceVersion") {
        patch["metadata"] = json!({"resourceVersion": version});
    }
    Ok(Edit {
        components: components
            .iter()
            .map(|component| component.name.clone())
            .collect(),
        configuration,
        patch: is_change.then_some(patch),
        marked: marked.iter().map(|component| component.name.clone()).collect(),
    })
}

/// The ClusterConfiguration of a platform that is at the release.
fn at_release<'a>(snapshot: &'a Snapshot, release: &Release) -> Result<&'a Object, Vec<Finding>> {
    let installed = preflight::installed(snapshot);
    let Some(version) = installed.version() else {
        let finding = Finding::blocker(reasons::NOT_INSTALLED, "there is no KubeSphere on this cluster")
            .hint("install it first: ks-installer install, which takes settings with --set");
        return Err(vec![finding]);
    };
    if version.parse::<Version>().ok().as_ref() != Some(&release.version) {
        let message = format!(
            "KubeSphere is at {version}, and components are those of {}",
            release.version
        );
        let finding = Finding::blocker(reasons::NOT_AT_RELEASE, message);
        return Err(vec![finding.hint("upgrade first: ks-installer upgrade")]);
    }
    snapshot.get(&cluster_configuration_key()).ok_or_else(|| {
        let finding = Finding::blocker(reasons::NOT_INSTALLED, "there is no ClusterConfiguration to edit")
            .on(cluster_configuration_key())
            .hint("make one first: kubectl apply -f deploy/cluster-configuration.yaml");
        vec![finding]
    })
}

/// Whether the keys of all maps are in order.
fn is_sorted(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.keys().is_sorted() && map.values().all(is_sorted),
        Value::Array(items) => items.iter().all(is_sorted),
        _ => true,
    }
}

/// What an earlier installer noted as enabled without a version, and what is off after the edit: of the components that were
/// named, those that share their switch, what only they drew in, and what goes off with them.
fn left_behind<'a>(before: &Survey<'_>, after: &Survey<'a>, components: &[&Component]) -> Vec<&'a Component> {
    let release = after.release;
    let paths = |component: &Component| component.switch.as_ref().map(|switch| switch.paths.clone());
    let named: BTreeSet<&str> = components
        .iter()
        .map(|component| component.name.as_str())
        .collect();
    let drawn_in: BTreeSet<&str> = components
        .iter()
        .flat_map(|component| release.before(&component.name))
        .collect();
    let is_meant = |component: &&Component| {
        named.contains(component.name.as_str())
            || before.enabled.contains(&component.name)
            || component.switch.is_none() && drawn_in.contains(component.name.as_str())
            || component.switch.is_some() && components.iter().any(|other| paths(other) == paths(component))
    };
    let is_left = |component: &&Component| {
        !after.enabled.contains(&component.name)
            && after.is_noted(component)
            && after.mark(component).is_none()
    };
    release
        .components
        .iter()
        .filter(is_left)
        .filter(is_meant)
        .collect()
}

/// A merge patch of maps without nulls.
fn merge(value: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    if let Some(map) = value.as_object_mut() {
        for (name, patch) in patch {
            merge(map.entry(name.clone()).or_insert(Value::Null), patch);
        }
    }
}
