//! The components of a release as people see them: what each is, whether it runs, and what switching it would mean.
//!
//! ```text
//!   Snapshot, Releases ─▶ Survey ─┬─▶ components() ─▶ ComponentInfo, ComponentInfo, …   (a list to look at)
//!                                 ├─▶ images()     ─▶ ImageUse, …                       (what is pulled)
//!                                 └─▶ choose()     ─▶ Edit | findings                   (enable, disable)
//! ```
//!
//! Whether a component is enabled is nowhere but in the ClusterConfiguration. What a decision would do about it stands in
//! `decide/components.rs`; here nothing is planned.

mod choice;
#[cfg(test)]
mod choice_tests;
mod effects;
mod images;
mod names;
mod objections;
mod requests;
mod survey;
#[cfg(test)]
mod tests;

use object::ObjectKey;
use release::{Check, Data, Switch};
use serde::Serialize;

pub(crate) use self::requests::{allocatable, of_each};
use self::survey::Survey;
pub use self::{
    choice::{Choice, Edit, choose},
    images::{ImageUse, images, images_of_all},
    names::{UnknownComponent, find},
    requests::{Amount, Room, room},
};
use crate::{Finding, Options, Snapshot, health};

/// How a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It runs.
    Enabled,
    /// The settings ask for it, and it is not there yet.
    Pending,
    /// Its installation was begun, and is under way or has failed.
    Installing,
    /// It is there, and not all of it runs.
    Unhealthy,
    /// The settings ask for it, and a check keeps it out.
    LeftOut,
    /// The settings do not ask for it, and it has not gone yet.
    Leaving,
    /// The settings do not ask for it, and an earlier installer, which removes nothing, left it running.
    RunsThoughOff,
    Disabled,
}

/// One component of the target release, in this cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentInfo {
    pub name: String,
    pub about: String,
    pub state: State,
    /// Why, where the state is no good one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether the settings ask for it.
    pub asked_for: bool,
    /// The version that is there, as far as that is noted down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The version that the release has.
    pub release: String,
    /// Where it is switched; none where it is there always, or others draw it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<Switch>,
    /// What draws it in, where it has no switch of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drawn_in_by: Vec<String>,
    /// What must be in place before it.
    pub needs: Vec<String>,
    /// Which components that are enabled need it: it cannot be disabled before them.
    pub needed_by: Vec<String>,
    /// What enabling it brings along.
    pub brings: Vec<String>,
    /// Together with what it brings along: what enabling it installs.
    pub whole: Footprint,
    /// What enabling it does to what is there already, in words; empty for what is asked for.
    pub effects: Vec<String>,
    /// What speaks against it, or is worth knowing.
    pub failed_checks: Vec<Check>,
    /// What it consists of.
    pub objects: Vec<ObjectKey>,
    pub images: Vec<String>,
    /// What its pods ask for, all of them.
    pub requests: Amount,
    /// What holds data, and stays where it is disabled.
    pub data: Vec<Data>,
    /// Of that, what is there.
    pub data_there: Vec<ObjectKey>,
}

/// What is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Footprint {
    pub objects: usize,
    pub images: Vec<String>,
    pub requests: Amount,
}

impl Footprint {
    fn of(manifests: &[release::Manifest], nodes: usize) -> Self {
        Self {
            objects: manifests.len(),
            images: release::images_of(manifests),
            requests: requests::of_all(manifests, nodes),
        }
    }
}

/// The components of the target release, in the order in which they are installed. A snapshot with the pods of all namespaces
/// also tells, by [`room`], what the nodes have left.
///
/// # Errors
/// The release is not known, or the settings cannot be read.
pub fn components(
    snapshot: &Snapshot,
    releases: &release::Releases,
    options: &Options,
) -> Result<Vec<ComponentInfo>, Vec<Finding>> {
    let release = crate::target(releases, options).map_err(|finding| vec![*finding])?;
    let survey = Survey::of_cluster(snapshot, release)?;
    Ok(release
        .components
        .iter()
        .map(|component| info(&survey, component))
        .collect())
}

fn info(survey: &Survey<'_>, component: &release::Component) -> ComponentInfo {
    let release = survey.release;
    let name = &component.name;
    let asked_for = survey.enabled.contains(name);
    let drawn_in_by = survey.drawn_in_by(component);
    // What is not asked for is shown as if it were: by its own switch, or by the first that draws it in.
    let switched = (!asked_for)
        .then(|| {
            component
                .switch
                .as_ref()
                .map_or_else(|| drawn_in_by.first().map(String::as_str), |_| Some(name))
        })
        .flatten()
        .and_then(|by| survey.with(by).ok());
    let shown = switched.as_ref().unwrap_or(survey);
    let brings = if component.switch.is_some() && switched.is_some() {
        // Another of the same switch comes in its place, not along with it.
        let is_other = |other: &&String| {
            let paths =
                |component: &release::Component| component.switch.as_ref().map(|switch| switch.paths.clone());
            let other = release.component(other).filter(|other| other.name != *name);
            other.is_some_and(|other| shown.enabled.contains(name) || paths(other) != paths(component))
        };
        let new = shown.enabled.difference(&survey.enabled);
        new.filter(is_other).cloned().collect()
    } else {
        Vec::new()
    };
    let rendered = shown.render(component);
    let nodes = survey.settings.cluster().nodes;
    let (manifests, trouble) = match rendered {
        Ok(manifests) => (manifests, None),
        Err(findings) => (
            Vec::new(),
            findings.into_iter().next().map(|finding| finding.message),
        ),
    };
    let failed_checks: Vec<Check> = shown.failed_checks(component).unwrap_or_default();
    let (state, reason) = match trouble {
        Some(trouble) if asked_for => (State::Unhealthy, Some(trouble)),
        trouble => {
            let (state, reason) = state(survey, component, &manifests, &failed_checks);
            (state, reason.or(trouble))
        }
    };
    let is_not_chosen =
        state == State::Disabled && component.switch.is_some() && !shown.enabled.contains(name);
    let reason = reason.or_else(|| {
        is_not_chosen
            .then(|| "its switch alone does not enable it: another setting decides as well".to_owned())
    });
    let mut all = manifests.clone();
    let mut unaccounted = effects::unaccounted(survey, component, &manifests);
    for other in brings
        .iter()
        .filter_map(|other: &String| release.component(other))
    {
        let manifests = shown.render(other).unwrap_or_default();
        unaccounted.extend(effects::unaccounted(survey, other, &manifests));
        all.extend(manifests);
    }
    if failed_checks.iter().any(|check| !check.warning) {
        unaccounted.clear();
    }
    let data = shown.data(component);
    let is_there = !matches!(state, State::Disabled | State::Pending | State::LeftOut);
    let needed_by = release.components.iter().filter(|other| {
        // What is there always need not be told to be needed.
        let can_go = component.enabled.is_some();
        can_go
            && other.needs.contains(name)
            && !release.is_core(&other.name)
            && survey.enabled.contains(&other.name)
    });
    ComponentInfo {
        name: name.clone(),
        about: component.about.clone(),
        state,
        reason,
        asked_for,
        version: is_there.then(|| survey.version(component)).flatten(),
        release: release.version.to_string(),
        switch: component.switch.clone(),
        drawn_in_by,
        needs: component.needs.clone(),
        needed_by: needed_by.map(|other| other.name.clone()).collect(),
        brings,
        effects: switched
            .as_ref()
            .map(|with| effects::effects(survey, with, &all, &unaccounted))
            .unwrap_or_default(),
        whole: Footprint::of(&all, nodes),
        failed_checks,
        objects: manifests.iter().map(|manifest| manifest.object.key()).collect(),
        images: release::images_of(&manifests),
        requests: requests::of_all(&manifests, nodes),
        data_there: data_there(survey.snapshot, &data),
        data: data.into_iter().cloned().collect(),
    }
}

fn state(
    survey: &Survey<'_>,
    component: &release::Component,
    manifests: &[release::Manifest],
    failed_checks: &[Check],
) -> (State, Option<String>) {
    if !survey.enabled.contains(&component.name) {
        // Nobody has to ask for it, so a check keeps it out.
        let in_its_place = failed_checks.iter().find(|check| check.always && !check.warning);
        if let Some(check) = in_its_place.filter(|_| component.switch.is_none()) {
            return (State::LeftOut, Some(format!("{}; {}", check.message, check.hint)));
        }
        return match (survey.is_noted(component), survey.mark(component)) {
            (_, Some(_)) => (
                State::Leaving,
                Some("it is switched off, and has not gone yet; ks-installer upgrade removes it".to_owned()),
            ),
            (true, None) => (
                State::RunsThoughOff,
                Some(format!(
                    "an earlier installer left it running; ks-installer disable {} removes it",
                    component.name
                )),
            ),
            (false, None) => (State::Disabled, None),
        };
    }
    if let Some(check) = failed_checks.iter().find(|check| !check.warning) {
        return (State::LeftOut, Some(format!("{}; {}", check.message, check.hint)));
    }
    let targets = component.targets(manifests);
    let is_there = |key: &ObjectKey| survey.snapshot.get(key).is_some();
    let begun = if targets.workloads.is_empty() {
        manifests.iter().any(|manifest| is_there(&manifest.object.key()))
    } else {
        targets.workloads.iter().any(is_there)
    };
    let is_marked = survey.mark(component).is_some();
    if !begun && !survey.is_noted(component) && !is_marked {
        let reason = "the settings ask for it; ks-installer upgrade installs it".to_owned();
        return (State::Pending, Some(reason));
    }
    let troubles: Vec<String> = targets
        .workloads
        .iter()
        .filter_map(|key| match survey.snapshot.get(key) {
            None => Some(format!("{key} does not exist")),
            Some(live) => {
                let message = health::rollout(live).message()?.to_owned();
                let pods = survey.snapshot.of_kind("", "Pod");
                let of_pods = health::trouble_of(live, pods);
                Some(match of_pods.first() {
                    Some(pod) => format!("{key}: {message}; {pod}"),
                    None => format!("{key}: {message}"),
                })
            }
        })
        .collect();
    if is_marked && !survey.is_noted(component) {
        let next = format!(
            "its installation is under way or has failed; ks-installer upgrade goes on with it, ks-installer disable {} takes it back",
            component.name
        );
        let words: Vec<String> = std::iter::once(next).chain(troubles).collect();
        (State::Installing, Some(words.join("; ")))
    } else if troubles.is_empty() {
        (State::Enabled, None)
    } else {
        (State::Unhealthy, Some(troubles.join("; ")))
    }
}

/// What of a component's data is in the cluster.
fn data_there(snapshot: &Snapshot, data: &[&Data]) -> Vec<ObjectKey> {
    if data.is_empty() {
        return Vec::new();
    }
    let is_token = |key: &ObjectKey| {
        let kind = snapshot.get(key).and_then(|object| object.get_str("/type"));
        kind.is_some_and(|kind| kind == "kubernetes.io/service-account-token" || kind.starts_with("helm.sh/"))
    };
    let is_data = |key: &&ObjectKey| data.iter().any(|data| data.is(key));
    let keys = snapshot.objects.keys().filter(is_data);
    keys.filter(|key| !is_token(key)).cloned().collect()
}
