//! Which images are pulled.

use std::collections::{BTreeMap, BTreeSet};

use release::Component;
use serde::Serialize;

use super::survey::Survey;
use crate::{Finding, Options, Snapshot, install, settings};

/// An image, and what of the release runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageUse {
    pub image: String,
    pub components: BTreeSet<String>,
}

/// The images of all components that the settings ask for and that no check keeps out, sorted.
///
/// # Errors
/// The release is not known, the settings cannot be read, or a component cannot be rendered.
pub fn images(
    snapshot: &Snapshot,
    releases: &release::Releases,
    options: &Options,
) -> Result<Vec<ImageUse>, Vec<Finding>> {
    let release = crate::target(releases, options).map_err(|finding| vec![*finding])?;
    let survey = Survey::of_cluster(snapshot, release)?;
    let is_left_out = |component: &Component| {
        let failed = survey.failed_checks(component).unwrap_or_default();
        failed.iter().any(|check| !check.warning)
    };
    collect(&survey, |component| {
        survey.enabled.contains(&component.name) && !is_left_out(component)
    })
}

/// The images of all components with all that can be switched on, sorted.
///
/// # Errors
/// As for [`images`].
pub fn images_of_all(
    snapshot: &Snapshot,
    releases: &release::Releases,
    options: &Options,
) -> Result<Vec<ImageUse>, Vec<Finding>> {
    let release = crate::target(releases, options).map_err(|finding| vec![*finding])?;
    let survey = Survey::of_cluster(snapshot, release)?;
    let mut spec = survey.settings.spec().clone();
    for switch in release
        .components
        .iter()
        .filter_map(|component| component.switch.as_ref())
    {
        for path in &switch.paths {
            install::put(&mut spec, path, switch.on.clone());
        }
    }
    let all = Survey::of(snapshot, release, &spec)?;
    collect(&all, |_| true)
}

fn collect(
    survey: &Survey<'_>,
    is_wanted: impl Fn(&Component) -> bool,
) -> Result<Vec<ImageUse>, Vec<Finding>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut findings = Vec::new();
    for component in survey
        .release
        .components
        .iter()
        .filter(|component| is_wanted(component))
    {
        match survey.render(component) {
            Ok(manifests) => {
                for image in release::images_of(&manifests) {
                    found.entry(image).or_default().insert(component.name.clone());
                }
            }
            Err(finding) => findings.push(finding.on(settings::cluster_configuration())),
        }
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    let found = found.into_iter();
    Ok(found
        .map(|(image, components)| ImageUse { image, components })
        .collect())
}
