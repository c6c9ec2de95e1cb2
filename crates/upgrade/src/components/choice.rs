//! Components are enabled and disabled where the choice is kept: in the ClusterConfiguration. Its edit is worked out here, and
//! what speaks against it; nothing is written.

use std::collections::BTreeSet;

use object::Object;
use release::{Component, Release, Releases, Version};
use serde_json::{Map, Value, json};

use super::survey::{Survey, status_path};
use crate::{
    Finding, Options, Snapshot, cluster_configuration_key,
    install::{self, DEFAULT_CONFIGURATION},
    preflight, reasons, settings,
};

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
    let live = at_release(snapshot, release).map_err(|finding| vec![finding])?;
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
    let sorted = install::sorted(old_spec);
    let new_spec = if sorted.to_string() == old_spec.to_string() {
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
    for path in marked.iter().filter_map(|component| status_path(component)) {
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
fn at_release<'a>(snapshot: &'a Snapshot, release: &Release) -> Result<&'a Object, Finding> {
    let installed = preflight::installed(snapshot);
    let Some(version) = installed.version() else {
        return Err(
            Finding::blocker(reasons::NOT_INSTALLED, "there is no KubeSphere on this cluster")
                .hint("install it first: ks-installer install, which takes settings with --set"),
        );
    };
    if version.parse::<Version>().ok().as_ref() != Some(&release.version) {
        return Err(Finding::blocker(
            reasons::NOT_AT_RELEASE,
            format!(
                "KubeSphere is at {version}, and components are those of {}",
                release.version
            ),
        )
        .hint("upgrade first: ks-installer upgrade"));
    }
    snapshot.get(&cluster_configuration_key()).ok_or_else(|| {
        Finding::blocker(reasons::NOT_INSTALLED, "there is no ClusterConfiguration to edit")
            .on(cluster_configuration_key())
            .hint("make one first: kubectl apply -f deploy/cluster-configuration.yaml")
    })
}

fn without_switch(before: &Survey<'_>, component: &Component, choice: Choice) -> Option<Finding> {
    if component.switch.is_some() {
        return None;
    }
    let name = &component.name;
    let users = before.drawn_in_by(component);
    let finding = if users.is_empty() {
        Finding::blocker(
            reasons::COMPONENT_HAS_NO_SWITCH,
            format!("component {name} is part of every KubeSphere and cannot be switched"),
        )
    } else {
        let verb = match choice {
            Choice::Enable => "enable one of those",
            Choice::Disable => "it goes with the last of them",
        };
        Finding::blocker(
            reasons::COMPONENT_HAS_NO_SWITCH,
            format!(
                "component {name} has no switch of its own: {} draw it in",
                users.join(", ")
            ),
        )
        .hint(verb)
    };
    Some(finding.on(cluster_configuration_key()))
}

fn against_enabling(before: &Survey<'_>, after: &Survey<'_>, components: &[&Component]) -> Vec<Finding> {
    let release = after.release;
    let mut against = Vec::new();
    for component in components {
        let name = &component.name;
        let missing = missing_needs(after, component);
        if !missing.is_empty() {
            let all: Vec<&str> = missing
                .iter()
                .map(String::as_str)
                .chain([name.as_str()])
                .collect();
            against.push(
                Finding::blocker(
                    reasons::COMPONENT_NEEDS_ANOTHER,
                    format!(
                        "component {name} needs {}, which is switched off",
                        missing.join(" and ")
                    ),
                )
                .on(cluster_configuration_key())
                .hint(format!(
                    "enable them together: ks-installer enable {}",
                    all.join(" ")
                )),
            );
        } else if !after.enabled.contains(name) {
            let paths = component
                .switch
                .as_ref()
                .map(|switch| switch.paths.join(", "))
                .unwrap_or_default();
            let (message, hint) = match in_its_place(after, component) {
                Some(other) => (
                    format!("component {name} stays off: with these settings, {other} comes in its place"),
                    format!(
                        "ks-installer enable {other}; or see what decides: ks-installer components {name}"
                    ),
                ),
                None => (
                    format!("component {name} stays off with {paths} set: another setting forbids it"),
                    format!("look at it with ks-installer components {name}; set what it takes with --set"),
                ),
            };
            against.push(
                Finding::blocker(reasons::COMPONENT_NOT_ASKED_FOR, message)
                    .on(cluster_configuration_key())
                    .hint(hint),
            );
        }
    }
    let named: BTreeSet<&str> = components
        .iter()
        .map(|component| component.name.as_str())
        .collect();
    for component in &release.components {
        let is_new = after.enabled.contains(&component.name) && !before.enabled.contains(&component.name);
        if !is_new && !named.contains(component.name.as_str()) {
            continue;
        }
        for check in after.failed_checks(component).unwrap_or_default() {
            if !check.warning {
                against.push(
                    Finding::blocker(
                        &check.reason,
                        format!(
                            "component {} cannot be installed: {}",
                            component.name, check.message
                        ),
                    )
                    .on(cluster_configuration_key())
                    .hint(check.hint.clone()),
                );
            }
        }
    }
    against
}

/// Another component of the same switch that the settings ask for.
fn in_its_place<'a>(survey: &Survey<'a>, component: &Component) -> Option<&'a str> {
    let of_switch = |other: &&Component| {
        let paths = |component: &Component| component.switch.as_ref().map(|switch| switch.paths.clone());
        paths(other) == paths(component) && survey.enabled.contains(&other.name)
    };
    survey
        .release
        .components
        .iter()
        .find(of_switch)
        .map(|other| other.name.as_str())
}

/// What a component needs, and is off though it has a switch. What is off by default beside it is not missed: that is needed
/// before it only where it is there at all.
fn missing_needs(after: &Survey<'_>, component: &Component) -> Vec<String> {
    let release = after.release;
    let mut missing = BTreeSet::new();
    let mut open = vec![component];
    let mut seen = BTreeSet::new();
    while let Some(user) = open.pop() {
        for need in user.needs.iter().filter_map(|need| release.component(need)) {
            if release.is_core(&need.name) || after.enabled.contains(&need.name) || !seen.insert(&need.name) {
                continue;
            }
            if need.switch.is_some() {
                missing.insert(need.name.clone());
            }
            open.push(need);
        }
    }
    if missing.is_empty() {
        return Vec::new();
    }
    let by_default = install::read_configuration(DEFAULT_CONFIGURATION)
        .ok()
        .and_then(|configuration| Survey::of(after.snapshot, release, configuration.get("/spec")?).ok());
    if let Some(by_default) = by_default.filter(|default| default.enabled.contains(&component.name)) {
        missing.retain(|need| by_default.enabled.contains(need));
    }
    // In the release's order, since that is how they are enabled.
    let order = release.components.iter().map(|component| component.name.clone());
    order.filter(|name| missing.contains(name)).collect()
}

fn against_disabling(after: &Survey<'_>, components: &[&Component]) -> Vec<Finding> {
    let release = after.release;
    let mut against = Vec::new();
    for component in components {
        let name = &component.name;
        let users: Vec<&str> = release
            .components
            .iter()
            .filter(|user| after.enabled.contains(&user.name) && !release.is_core(&user.name))
            .filter(|user| user.needs.contains(name))
            .map(|user| user.name.as_str())
            .collect();
        if !users.is_empty() {
            let (verb, whom) = if users.len() == 1 {
                ("needs", "it")
            } else {
                ("need", "them")
            };
            against.push(
                Finding::blocker(
                    reasons::COMPONENT_IN_USE,
                    format!("component {name} is in use: {} {verb} it", users.join(", ")),
                )
                .on(cluster_configuration_key())
                .hint(format!(
                    "disable {whom}, too: ks-installer disable {} {name}",
                    users.join(" ")
                )),
            );
        } else if after.enabled.contains(name) {
            against.push(
                Finding::blocker(
                    reasons::COMPONENT_IN_USE,
                    format!("component {name} stays with its switch off: another setting asks for it"),
                )
                .on(cluster_configuration_key())
                .hint(format!("look at its settings: ks-installer components {name}")),
            );
        }
    }
    against
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
