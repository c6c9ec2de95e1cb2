//! What speaks against enabling or disabling components.

use std::collections::BTreeSet;

use release::Component;
use serde_json::Value;

use super::{choice::Choice, survey::Survey};
use crate::{
    Finding, cluster_configuration_key,
    install::{self, DEFAULT_CONFIGURATION},
    reasons,
};

pub(super) fn without_switch(before: &Survey<'_>, component: &Component, choice: Choice) -> Option<Finding> {
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

pub(super) fn against_enabling(
    before: &Survey<'_>,
    after: &Survey<'_>,
    components: &[&Component],
) -> Vec<Finding> {
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
            let (message, hint) = match (set_otherwise(after, component), in_its_place(after, component)) {
                (Some((path, value, on)), _) => (
                    format!("component {name} stays off: {path} is set to {value}, and it takes {on}"),
                    format!("leave out --set {path}={value}: ks-installer enable {name} sets it to {on}"),
                ),
                (None, Some(other)) => (
                    format!("component {name} stays off: with these settings, {other} comes in its place"),
                    format!(
                        "ks-installer enable {other}; or see what decides: ks-installer components {name}"
                    ),
                ),
                (None, None) => (
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

/// Settings that switch these components and say something that is neither on nor off: what a cluster is in a federation that
/// another one leads. `assignments` may say that it is meant.
pub(super) fn against_overwriting(
    before: &Survey<'_>,
    components: &[&Component],
    choice: Choice,
    assignments: &[String],
) -> Vec<Finding> {
    let mut against = Vec::new();
    for component in components {
        let name = &component.name;
        for (path, switch) in component
            .switch
            .iter()
            .flat_map(|switch| switch.paths.iter().map(move |path| (path, switch)))
        {
            let Some(value) = before.settings.get(path) else {
                continue;
            };
            let is_assigned = assignments
                .iter()
                .any(|assignment| assignment.split('=').next() == Some(path));
            if [&switch.on, &switch.off, &Value::from("")].contains(&value) || is_assigned {
                continue;
            }
            let (value, on, off) = (plain(value), plain(&switch.on), plain(&switch.off));
            let (message, hint) = match choice {
                Choice::Enable => (
                    format!(
                        "component {name} is off, since {path} is {value}: enabling it would make that {on}"
                    ),
                    format!("if that is meant, say so: ks-installer enable {name} --set {path}={on}"),
                ),
                Choice::Disable => (
                    format!("component {name} is not on: {path} is {value}, and stays so"),
                    format!(
                        "if nothing of that is to be left, set {path} to {off} in the ClusterConfiguration"
                    ),
                ),
            };
            against.push(
                Finding::blocker(reasons::COMPONENT_SET_OTHERWISE, message)
                    .on(cluster_configuration_key())
                    .hint(hint),
            );
        }
    }
    against
}

/// A switch's value, as people write it.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What a switch is set to instead of on, where `--set` says so: `enable` itself sets it to on.
fn set_otherwise(after: &Survey<'_>, component: &Component) -> Option<(String, String, String)> {
    let switch = component.switch.as_ref()?;
    switch.paths.iter().find_map(|path| {
        let value = after.settings.get(path).filter(|value| **value != switch.on)?;
        Some((path.clone(), plain(value), plain(&switch.on)))
    })
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

pub(super) fn against_disabling(after: &Survey<'_>, components: &[&Component]) -> Vec<Finding> {
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
