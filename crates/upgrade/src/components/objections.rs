//! What speaks against enabling or disabling components.

use std::collections::BTreeSet;

use release::Component;

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
