//! What the settings ask for, in this cluster or in one that is only thought of.

use std::collections::BTreeSet;

use release::{Check, Component, Data, Inputs, Manifest, Release, RenderError};
use serde_json::Value;

use crate::{
    Finding, Snapshot, cluster_configuration_key, install, reasons,
    settings::{self, LiveFacts, Settings},
};

pub(super) struct Survey<'a> {
    pub release: &'a Release,
    pub snapshot: &'a Snapshot,
    pub settings: Settings,
    /// The components that the settings ask for, whether or not a check keeps them out.
    pub enabled: BTreeSet<String>,
}

impl<'a> Survey<'a> {
    /// With the settings of the ClusterConfiguration that is in the snapshot.
    pub(super) fn of_cluster(snapshot: &'a Snapshot, release: &'a Release) -> Result<Self, Vec<Finding>> {
        let configuration = snapshot.get(&cluster_configuration_key());
        let empty = Value::Object(serde_json::Map::new());
        let spec = configuration.and_then(|c| c.get("/spec")).unwrap_or(&empty);
        Self::of(snapshot, release, spec)
    }

    /// With these settings, of any age.
    pub(super) fn of(
        snapshot: &'a Snapshot,
        release: &'a Release,
        spec: &Value,
    ) -> Result<Self, Vec<Finding>> {
        let configuration = snapshot.get(&cluster_configuration_key());
        let empty = Value::Object(serde_json::Map::new());
        let status = configuration.and_then(|c| c.get("/status")).unwrap_or(&empty);
        let conversion = settings::convert(spec, status, &LiveFacts::read(snapshot));
        let settings = Settings::parse(&conversion.spec, &settings::cluster_facts(snapshot))?;
        let mut survey = Self {
            release,
            snapshot,
            settings,
            enabled: BTreeSet::new(),
        };
        for component in &release.components {
            let inputs = survey.inputs(component)?;
            if component
                .is_enabled(release, &inputs)
                .map_err(|error| vec![unrendered(&error)])?
            {
                survey.enabled.insert(component.name.clone());
            }
        }
        Ok(survey)
    }

    /// The same with one more component switched on.
    pub(super) fn with(&self, name: &str) -> Result<Self, Vec<Finding>> {
        let mut spec = self.settings.spec().clone();
        if let Some(switch) = self
            .release
            .component(name)
            .and_then(|component| component.switch.as_ref())
        {
            for path in &switch.paths {
                install::put(&mut spec, path, switch.on.clone());
            }
        }
        Self::of(self.snapshot, self.release, &spec)
    }

    pub(super) fn inputs(&self, component: &Component) -> Result<Inputs, Vec<Finding>> {
        self.settings
            .inputs(self.release, component, |key| self.snapshot.find(key))
    }

    pub(super) fn render(&self, component: &Component) -> Result<Vec<Manifest>, Vec<Finding>> {
        let inputs = self.inputs(component)?;
        release::render(self.release, component, &inputs).map_err(|error| vec![unrendered(&error)])
    }

    /// The checks that fail, without those that count only before a first installation where there was one.
    pub(super) fn failed_checks(&self, component: &Component) -> Result<Vec<Check>, Vec<Finding>> {
        let inputs = self.inputs(component)?;
        let failed = component
            .failed_checks(self.release, &inputs)
            .map_err(|error| vec![unrendered(&error)])?;
        let was_there = self.is_noted(component) || self.mark(component).is_some();
        let counts = |check: &&&Check| !(check.first && was_there);
        Ok(failed
            .iter()
            .filter(counts)
            .map(|check| (*check).clone())
            .collect())
    }

    /// What holds its data; what cannot be told counts as its own.
    pub(super) fn data<'c>(&self, component: &'c Component) -> Vec<&'c Data> {
        let inputs = self.inputs(component).ok();
        let data = inputs.and_then(|inputs| component.data(self.release, &inputs).ok());
        data.unwrap_or_else(|| component.data.iter().collect())
    }

    /// What draws a component in that has no switch: those with one that need it, through others without one if need be.
    pub(super) fn drawn_in_by(&self, component: &Component) -> Vec<String> {
        let mut found = BTreeSet::new();
        if component.switch.is_some() || component.enabled.is_none() {
            return Vec::new();
        }
        let mut open = vec![component.name.as_str()];
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            for user in &self.release.components {
                if !user.needs.iter().any(|need| need == name) || self.release.is_core(&user.name) {
                    continue;
                }
                if user.switch.is_some() {
                    found.insert(user.name.clone());
                } else if seen.insert(user.name.as_str()) {
                    open.push(&user.name);
                }
            }
        }
        found.into_iter().collect()
    }

    fn status(&self, component: &Component) -> Option<&'a Value> {
        let path = component.status_path()?;
        // Two ways to have the same thing share what the status says of it.
        let is_anothers = !self.enabled.contains(&component.name)
            && self
                .release
                .components
                .iter()
                .any(|other| self.enabled.contains(&other.name) && other.status_path() == Some(path));
        if is_anothers {
            return None;
        }
        let status = self.snapshot.get(&cluster_configuration_key())?.get("/status")?;
        path.split('.').try_fold(status, |value, name| value.get(name))
    }

    /// Whether the status says that somebody installed it.
    pub(super) fn is_noted(&self, component: &Component) -> bool {
        self.status(component).is_some_and(settings::is_enabled)
    }

    /// The version with which this installer marks what it installed, or has begun to.
    pub(super) fn mark(&self, component: &Component) -> Option<&'a str> {
        let status = self.status(component);
        status
            .filter(|status| settings::is_marked(status))?
            .get("version")?
            .as_str()
    }

    /// The version of what is there: its mark; an earlier installer brought all components with the core.
    pub(super) fn version(&self, component: &Component) -> Option<String> {
        let core = || {
            let configuration = self.snapshot.get(&cluster_configuration_key())?;
            configuration.get_str("/status/core/version").map(str::to_owned)
        };
        self.mark(component).map(str::to_owned).or_else(core)
    }
}

fn unrendered(error: &RenderError) -> Finding {
    Finding::blocker(reasons::MANIFEST_DOES_NOT_RENDER, error.to_string()).hint(
        "check the settings that it names; if they are right, this is a fault of the installer: please report it",
    )
}
