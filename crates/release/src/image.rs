//! Images: which ones a release uses, and where they are pulled from.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Cluster, Component, Inputs, Manifest, Release, RenderError, Support, Version, render};

/// One image of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Without tag, with its registry when that is not Docker Hub: `kubesphere/ks-apiserver`, `redis`,
    /// `quay.io/argoproj/argocd`.
    pub repository: String,
    /// Absent: the release's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Tags by Kubernetes version, where the image must suit the cluster: the entry with the highest version that is
    /// not above the cluster's counts, `tag` where there is none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tag_by_kubernetes: BTreeMap<Version, String>,
    /// The ClusterConfiguration's top-level keys `VARIABLE_repo` and `VARIABLE_tag` replace repository and tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
}

/// What the ClusterConfiguration says about one image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageOverride {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl Image {
    pub(crate) fn read_override(&self, spec: &Value) -> Option<ImageOverride> {
        let variable = self.variable.as_ref()?;
        let text = |suffix: &str| {
            spec.get(format!("{variable}_{suffix}"))
                .and_then(|value| match value {
                    Value::String(text) => Some(text.clone()),
                    Value::Number(number) => Some(number.to_string()),
                    _ => None,
                })
                .filter(|text| !text.is_empty())
        };
        let found = ImageOverride {
            repository: text("repo"),
            tag: text("tag"),
        };
        (found != ImageOverride::default()).then_some(found)
    }
}

/// A mirror that a zone of the world pulls from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    pub registry: String,
    /// The namespace all images have there.
    pub namespace: String,
}

/// Where images are pulled from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// Host, with port and path if need be; none: every image from its own registry.
    pub host: Option<String>,
    /// In place of every image's own namespace.
    pub namespace: Option<String>,
}

impl Registry {
    /// The registry that the settings `zone`, `localRegistry` and `namespaceOverride` choose. A zone wins over a
    /// local registry; a local registry that is a zone's mirror means that zone.
    pub(crate) fn choose(mirrors: &BTreeMap<String, Mirror>, settings: &Map<String, Value>) -> Self {
        let text = |name: &str| {
            settings
                .get(name)
                .and_then(Value::as_str)
                .map(|text| text.trim_end_matches('/'))
                .filter(|text| !text.is_empty())
        };
        let local = text("localRegistry");
        let namespace = text("namespaceOverride").map(str::to_owned);
        let mirror = text("zone")
            .and_then(|zone| mirrors.get(zone))
            .or_else(|| mirrors.values().find(|m| Some(m.registry.as_str()) == local));
        match mirror {
            Some(mirror) => Self {
                host: Some(mirror.registry.clone()),
                namespace: namespace.or_else(|| Some(mirror.namespace.clone())),
            },
            None => Self {
                host: local.map(str::to_owned),
                namespace,
            },
        }
    }

    /// A repository as this registry names it.
    ///
    /// An image of Docker Hub's library has no namespace; a private registry keeps it under `library`. Without a
    /// private registry such an image stays as it is, whatever the namespace.
    pub fn repository(&self, repository: &str) -> String {
        let (own_host, path) = match repository.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), path),
            _ => (None, repository),
        };
        let (namespace, name) = match path.rsplit_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, path),
        };
        let host = self.host.as_deref().or(own_host);
        let namespace = match (namespace, &self.host) {
            (None, None) => None,
            (None, Some(_)) => Some(self.namespace.as_deref().unwrap_or("library")),
            (Some(own), _) => Some(self.namespace.as_deref().unwrap_or(own)),
        };
        [host, namespace, Some(name)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("/")
    }
}

impl Release {
    /// Repository and tag of an image of this release, under the settings and for the cluster given.
    pub(crate) fn resolve_image(&self, name: &str, inputs: &Inputs) -> Option<(String, String)> {
        let image = self.images.get(name)?;
        let settings = &inputs.settings;
        let user: ImageOverride = settings
            .get("imageOverrides")
            .and_then(|all| all.get(name))
            .and_then(|one| serde_json::from_value(one.clone()).ok())
            .unwrap_or_default();
        let by_cluster = || {
            let cluster = inputs.cluster.kubernetes_version.parse::<Version>().ok()?.core();
            let (_, tag) = image.tag_by_kubernetes.range(..=cluster).next_back()?;
            Some(tag.clone())
        };
        let own_version = || {
            let dev = settings.get("devTag").and_then(Value::as_str);
            dev.filter(|tag| !tag.is_empty())
                .map_or_else(|| self.version.to_string(), str::to_owned)
        };
        let tag = user
            .tag
            .or_else(by_cluster)
            .or_else(|| image.tag.clone())
            .unwrap_or_else(own_version);
        let repository = user
            .repository
            .unwrap_or_else(|| Registry::choose(&self.mirrors, settings).repository(&image.repository));
        Some((repository, tag))
    }
}

/// All images in rendered manifests, also in the documents that ConfigMaps carry. Sorted, each once.
pub fn images_of<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Vec<String> {
    fn walk(name: &str, value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::String(text) => {
                // An argument of a container: `--config-reloader-image=…`, `--prometheus-config-reloader=…`.
                let argument = text.strip_prefix("--").and_then(|text| text.split_once('='));
                if (name == "image" || name.ends_with("Image")) && !text.is_empty() {
                    found.insert(text.clone());
                } else if let Some((_, text)) = argument
                    .filter(|(name, _)| name.ends_with("-image") || name.ends_with("-config-reloader"))
                {
                    found.insert(text.to_owned());
                } else if let Some(document) = object::diff::document(text) {
                    walk("", &document, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk("", item, found)),
            Value::Object(map) => {
                for (repository, tag) in [("repository", "tag"), ("image_name", "image_version")] {
                    if let (Some(repository), Some(tag)) = (
                        map.get(repository).and_then(Value::as_str),
                        map.get(tag).and_then(Value::as_str),
                    ) {
                        found.insert(format!("{repository}:{tag}"));
                    }
                }
                // A variable of a container, a parameter of a pipeline.
                if let (Some(name), Some(text)) = (
                    map.get("name").and_then(Value::as_str).map(str::to_lowercase),
                    map.get("value")
                        .or_else(|| map.get("default"))
                        .and_then(Value::as_str),
                ) && (name.ends_with("image") || name.ends_with("imagename"))
                    && text.contains([':', '/'])
                {
                    found.insert(text.to_owned());
                }
                for (name, item) in map {
                    walk(name, item, found);
                }
            }
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    for manifest in manifests {
        // A schema may have a property called "image": it is no image.
        if manifest.object.kind() != "CustomResourceDefinition" {
            walk("", manifest.object.as_value(), &mut found);
        }
    }
    found.into_iter().collect()
}

/// The images a release needs under the given settings, computed from what it renders.
pub fn images(release: &Release, inputs: &Inputs) -> Result<Vec<String>, RenderError> {
    let mut manifests = Vec::new();
    for component in &release.components {
        let component: &Component = component;
        manifests.extend(render(release, component, inputs)?);
    }
    Ok(images_of(&manifests))
}

/// The images that a release declares, with every tag that some Kubernetes version it runs on would choose, from their own
/// registries. Sorted, each once.
pub fn declared_images(release: &Release) -> Vec<String> {
    let mut found = BTreeSet::new();
    for minor in 0..100 {
        let Ok(version) = format!("v1.{minor}.0").parse::<Version>() else {
            continue;
        };
        if release.kubernetes_support(&version) == Support::Unsupported {
            continue;
        }
        let inputs = Inputs {
            cluster: Cluster {
                kubernetes_version: version.to_string(),
                ..Cluster::default()
            },
            ..Inputs::default()
        };
        let images = release
            .images
            .keys()
            .filter_map(|name| release.resolve_image(name, &inputs));
        found.extend(images.map(|(repository, tag)| format!("{repository}:{tag}")));
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(settings: Value, expect: [&str; 3]) {
        let mirrors = BTreeMap::from([(
            "cn".to_owned(),
            Mirror {
                registry: "mirror.example".into(),
                namespace: "all".into(),
            },
        )]);
        let settings = settings.as_object().unwrap();
        let registry = Registry::choose(&mirrors, settings);
        let found = ["kubesphere/tower", "redis", "quay.io/argoproj/argocd"].map(|r| registry.repository(r));
        assert_eq!(found, expect);
    }

    #[test]
    fn registries_are_chosen_by_the_settings() {
        check(
            json!({"localRegistry":"","zone":null}),
            ["kubesphere/tower", "redis", "quay.io/argoproj/argocd"],
        );
        check(
            json!({"localRegistry":"r.local:5000/"}),
            [
                "r.local:5000/kubesphere/tower",
                "r.local:5000/library/redis",
                "r.local:5000/argoproj/argocd",
            ],
        );
        check(
            json!({"localRegistry":"r","namespaceOverride":"n"}),
            ["r/n/tower", "r/n/redis", "r/n/argocd"],
        );
        check(
            json!({"namespaceOverride":"n"}),
            ["n/tower", "redis", "quay.io/n/argocd"],
        );
        let cn = [
            "mirror.example/all/tower",
            "mirror.example/all/redis",
            "mirror.example/all/argocd",
        ];
        check(json!({"localRegistry":"r","zone":"cn"}), cn);
        check(json!({"localRegistry":"mirror.example"}), cn);
        check(
            json!({"zone":"cn","namespaceOverride":"n"}),
            [
                "mirror.example/n/tower",
                "mirror.example/n/redis",
                "mirror.example/n/argocd",
            ],
        );
        check(
            json!({"zone":"mars"}),
            ["kubesphere/tower", "redis", "quay.io/argoproj/argocd"],
        );
    }
}
