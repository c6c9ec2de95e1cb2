//! Which kinds and namespaces a release's components are made of, told from their files without rendering them.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::{Phase, Releases};

/// Where the components' objects are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// API group and kind, whatever the version.
    pub kinds: BTreeSet<(String, String)>,
    pub namespaces: BTreeSet<String>,
}

impl Releases {
    /// What any component of any release may write.
    pub fn written(&self) -> Written {
        let mut written = Written::default();
        for component in self.iter().flat_map(|release| &release.components) {
            written.namespaces.insert(component.namespace.clone());
            written
                .namespaces
                .extend(component.helm.iter().map(|helm| helm.namespace.clone()));
            let gone = component.gone.iter().chain(&component.leaves);
            let gone = gone.map(|gone| (&gone.group, &gone.kind));
            let data = component.data.iter().map(|data| (&data.group, &data.kind));
            let made = component.health.made.iter().map(|key| (&key.group, &key.kind));
            for (group, kind) in gone.chain(data).chain(made) {
                written.kinds.insert((group.clone(), kind.clone()));
            }
            for (path, template) in &component.templates {
                if path.starts_with("documents/") {
                    continue;
                }
                if template.is_fixed {
                    let heads = object::parse_documents_as::<Head>(&template.text);
                    let heads = heads.unwrap_or_default().into_iter();
                    written.kinds.extend(heads.flat_map(Head::kinds));
                } else {
                    written.kinds.extend(kinds(&template.text));
                }
            }
        }
        written
    }
}

/// Whether an API group is KubeSphere's own.
pub fn is_own_group(group: &str) -> bool {
    group == "kubesphere.io" || group.ends_with(".kubesphere.io")
}

/// Whether a kind is neither Kubernetes' own nor of its sub-projects' APIs.
pub fn is_custom(group: &str) -> bool {
    Phase::of_kind(group, "") == Phase::CustomResources
}

/// What a manifest says of kinds. Those that definitions define are among them: whether a definition is in use, their objects tell.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
    #[serde(default)]
    spec: Defined,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Defined {
    group: Option<String>,
    names: Option<Names>,
}

#[derive(Deserialize)]
struct Names {
    kind: Option<String>,
}

impl Head {
    fn kinds(self) -> impl Iterator<Item = (String, String)> {
        let group = self.api_version.split_once('/').map_or("", |(group, _)| group);
        let own = (group.to_owned(), self.kind);
        let defined = self.spec.group.zip(self.spec.names.and_then(|names| names.kind));
        std::iter::once(own).chain(defined)
    }
}

/// Group and kind of each manifest in a template: what its top-level lines say. An expression in place of an API version is
/// told by the first text in it. The kinds that definitions define are among them.
fn kinds(template: &str) -> impl Iterator<Item = (String, String)> {
    let mut group = None;
    template.lines().filter_map(move |line| {
        if let Some(defined) = line.strip_prefix("  group:") {
            group = Some(defined.trim().to_owned());
            return None;
        }
        if let Some(defined) = line.strip_prefix("    kind:") {
            let (group, kind) = (group.as_ref()?, defined.trim());
            return (group.contains('.') && kind.chars().all(char::is_alphanumeric))
                .then(|| (group.clone(), kind.to_owned()));
        }
        if let Some(version) = line.strip_prefix("apiVersion:") {
            let version = version.trim();
            let version = version.split('"').nth(1).unwrap_or(version);
            group = Some(version.split_once('/').map_or("", |(group, _)| group).to_owned());
            return None;
        }
        let kind = line.strip_prefix("kind:")?.trim();
        // Webhooks' kinds that a loop names are those that follow it by name.
        kind.chars()
            .all(char::is_alphanumeric)
            .then(|| Some((group.clone()?, kind.to_owned())))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_without_rendering() {
        let template = "# apiVersion: v0\napiVersion: v1\nkind: Service\nspec:\n  kind: No\n---\n\
            apiVersion: {{ \"policy/v1\" if x else \"policy/v1beta1\" }}\nkind: PodDisruptionBudget\n---\n\
            apiVersion: a.b/v1\nkind: {{ kind }}\n";
        let found: Vec<_> = kinds(template).collect();
        let expect = [("", "Service"), ("policy", "PodDisruptionBudget")];
        assert_eq!(found, expect.map(|(g, k)| (g.to_owned(), k.to_owned())));
    }

    #[test]
    fn whatever_is_rendered_is_known() {
        let releases = Releases::embedded().unwrap();
        let written = releases.written();
        let kind = |group: &str, kind: &str| (group.to_owned(), kind.to_owned());
        for (group, name) in [
            ("policy", "PodDisruptionBudget"),
            ("batch", "CronJob"),
            ("monitoring.coreos.com", "Prometheus"),
            ("core.kubefed.io", "FederatedTypeConfig"),
            // What only a definition names.
            ("types.kubefed.io", "FederatedNotificationReceiver"),
        ] {
            assert!(written.kinds.contains(&kind(group, name)), "{group} {name}");
        }
        assert!(written.namespaces.contains("istio-system"));
    }
}
