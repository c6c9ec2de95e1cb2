//! [`Release`] and [`Releases`]: the data of one release, and of all.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::component::{ComponentFile, Template};
use crate::image::Mirror;
use crate::setting::{Setting, SettingError, read_all};
use crate::{Component, Files, Image, Version, VersionRange};

/// Release data that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file}: {message}")]
pub struct LoadError {
    pub file: String,
    pub message: String,
}

/// From which versions a release upgrades.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpgradeFrom {
    pub range: VersionRange,
    /// What to do about an older version.
    pub older: String,
}

/// Which Kubernetes versions a release runs on.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesSupport {
    pub supported: VersionRange,
    #[serde(default)]
    pub experimental: Option<VersionRange>,
}

/// How a release stands to a Kubernetes version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Supported,
    Experimental,
    Unsupported,
}

/// How a release can be reached from a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpgradePath {
    /// It can.
    Supported,
    /// That is the release itself: a repeated run.
    Same,
    /// Not directly; the text says what to do first.
    TooOld(String),
    /// The version is newer than the release.
    Newer,
}

/// `release.yaml`
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ReleaseFile {
    version: Version,
    upgrade_from: UpgradeFrom,
    kubernetes: KubernetesSupport,
    #[serde(default)]
    field_managers: Vec<String>,
    #[serde(default)]
    dropped_fields: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    settings: BTreeMap<String, Setting>,
    #[serde(default)]
    mirrors: BTreeMap<String, Mirror>,
    #[serde(default)]
    images: BTreeMap<String, Image>,
    #[serde(default)]
    core: Option<String>,
    components: Vec<String>,
}

/// One release of KubeSphere.
#[derive(Clone, Debug)]
pub struct Release {
    pub version: Version,
    pub upgrade_from: UpgradeFrom,
    pub kubernetes: KubernetesSupport,
    /// Field managers of the tools that earlier releases were installed with: what they own of the release's objects
    /// is handed over to the installer.
    pub field_managers: Vec<String>,
    /// By the name of a definition of others, what earlier releases had in it and this one has not.
    pub dropped_fields: BTreeMap<String, Vec<String>>,
    /// Settings all components share: the registry's and the like.
    pub settings: BTreeMap<String, Setting>,
    pub mirrors: BTreeMap<String, Mirror>,
    /// By the name under which templates ask for them.
    pub images: BTreeMap<String, Image>,
    /// The component that is the platform itself; where none is named, all are.
    pub core: Option<String>,
    /// In the order in which they are upgraded.
    pub components: Vec<Component>,
}

/// All releases known.
#[derive(Clone, Debug)]
pub struct Releases(BTreeMap<Version, Release>);

impl Releases {
    /// The releases that are compiled in. A test loads them, so that a binary that passed it cannot fail here.
    pub fn embedded() -> Result<Self, LoadError> {
        Self::load(&Files::embedded())
    }

    /// Every folder that has a `release.yaml`.
    pub fn load(files: &Files) -> Result<Self, LoadError> {
        let mut releases = BTreeMap::new();
        for path in files.paths() {
            if let Some(folder) = path.strip_suffix("/release.yaml") {
                let release = Release::load(files, folder)?;
                releases.insert(release.version.clone(), release);
            }
        }
        Ok(Self(releases))
    }

    pub fn get(&self, version: &Version) -> Option<&Release> {
        self.0.get(version)
    }

    pub fn latest(&self) -> Option<&Release> {
        self.0.values().next_back()
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Release> {
        self.0.values()
    }
}

fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, LoadError> {
    object::parse_document(text).map_err(|message| LoadError {
        file: file.to_owned(),
        message,
    })
}

impl Release {
    /// What earlier releases had in a definition of others and this one has not.
    pub fn dropped(&self, definition: &str) -> &[String] {
        self.dropped_fields.get(definition).map_or(&[], Vec::as_slice)
    }

    fn load(files: &Files, folder: &str) -> Result<Self, LoadError> {
        let path = format!("{folder}/release.yaml");
        let file: ReleaseFile = parse(&path, files.get(&path).unwrap_or_default())?;
        let components = file
            .components
            .iter()
            .map(|name| load_component(files, folder, name))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            version: file.version,
            upgrade_from: file.upgrade_from,
            kubernetes: file.kubernetes,
            field_managers: file.field_managers,
            dropped_fields: file.dropped_fields,
            settings: file.settings,
            mirrors: file.mirrors,
            images: file.images,
            core: file.core,
            components,
        })
    }

    pub fn component(&self, name: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.name == name)
    }

    /// Whether a component is the platform itself.
    pub fn is_core(&self, name: &str) -> bool {
        self.core.as_deref().is_none_or(|core| core == name)
    }

    /// All components that are in place before one, those included that come before these.
    pub fn before(&self, name: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut open = vec![name];
        while let Some(component) = open.pop().and_then(|name| self.component(name)) {
            for need in component.needs.iter().chain(&component.after) {
                if found.insert(need.as_str()) {
                    open.push(need);
                }
            }
        }
        found
    }

    /// How this release can be reached from `version`.
    pub fn path_from(&self, version: &Version) -> UpgradePath {
        if *version == self.version {
            UpgradePath::Same
        } else if self.upgrade_from.range.contains(version) {
            UpgradePath::Supported
        } else if version.core() > self.version {
            UpgradePath::Newer
        } else {
            UpgradePath::TooOld(self.upgrade_from.older.clone())
        }
    }

    pub fn kubernetes_support(&self, version: &Version) -> Support {
        if self.kubernetes.supported.contains(version) {
            Support::Supported
        } else if self
            .kubernetes
            .experimental
            .as_ref()
            .is_some_and(|range| range.contains(version))
        {
            Support::Experimental
        } else {
            Support::Unsupported
        }
    }

    /// The values of a component's settings, and of those all components share, in the spec of a ClusterConfiguration:
    /// what [`crate::Inputs::settings`] wants.
    ///
    /// # Errors
    /// Every setting whose value is of the wrong type.
    pub fn read_settings(
        &self,
        component: &Component,
        spec: &Value,
    ) -> Result<Map<String, Value>, Vec<SettingError>> {
        let mut values = read_all(self.settings.iter().chain(&component.settings), spec)?;
        let overrides: Map<String, Value> = self
            .images
            .iter()
            .filter_map(|(name, image)| {
                let found = image.read_override(spec)?;
                Some((name.clone(), serde_json::to_value(found).ok()?))
            })
            .collect();
        values.insert("imageOverrides".into(), overrides.into());
        Ok(values)
    }
}

/// What a component's own file says, over what the folders it builds on say: maps are joined one level deep (settings,
/// values, …), everything else is replaced.
fn overlay(mut base: Map<String, Value>, own: Map<String, Value>) -> Map<String, Value> {
    for (name, value) in own {
        match (base.get_mut(&name), value) {
            (Some(Value::Object(base)), Value::Object(own)) => base.extend(own),
            (_, value) => {
                base.insert(name, value);
            }
        }
    }
    base
}

fn load_component(files: &Files, folder: &str, name: &str) -> Result<Component, LoadError> {
    let own = format!("{folder}/components/{name}");
    let path = format!("{own}/component.yaml");
    let text = files.get(&path).ok_or_else(|| LoadError {
        file: path.clone(),
        message: "the component has no such file".into(),
    })?;
    let mut described: Map<String, Value> = parse(&path, text)?;
    let from: Vec<String> = match described.remove("from") {
        None => Vec::new(),
        Some(Value::String(folder)) => vec![folder],
        Some(folders) => serde_json::from_value(folders).map_err(|error| LoadError {
            file: path.clone(),
            message: format!("from: {error}"),
        })?,
    };
    for folder in from.iter().rev() {
        let path = format!("{folder}/component.yaml");
        if let Some(text) = files.get(&path) {
            described = overlay(parse(&path, text)?, described);
        }
    }
    let file: ComponentFile = serde_json::from_value(described.into()).map_err(|error| LoadError {
        file: path.clone(),
        message: error.to_string(),
    })?;
    let mut templates = BTreeMap::new();
    // The own folder comes last, so that its files stand in place of others of the same name.
    for from in from.iter().chain([&own]) {
        let before = templates.len();
        for (inner, text) in files.below(from) {
            if inner != "component.yaml" {
                let template = Template::new(format!("{from}/{inner}"), text.clone());
                templates.insert(inner.to_owned(), template);
            }
        }
        if *from != own && templates.len() == before {
            return Err(LoadError {
                file: path,
                message: format!("no files in {from}"),
            });
        }
    }
    Ok(Component {
        name: name.to_owned(),
        namespace: file.namespace,
        about: file.about,
        enabled: file.enabled,
        switch: file.switch,
        needs: file.needs,
        after: file.after,
        status: file.status,
        checks: file.checks,
        data: file.data,
        gone: file.gone,
        relabel: file.relabel,
        early: file.early,
        leaves: file.leaves,
        settings: file.settings,
        existing: file.existing,
        values: file.values,
        helm: file.helm,
        health: file.health,
        rehearsal: file.rehearsal,
        secrets: file.secrets,
        templates,
    })
}
