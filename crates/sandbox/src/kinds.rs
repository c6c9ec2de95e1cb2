//! Which kinds are served: the built-in ones from a table, custom ones from their definitions.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::fields::{BASE, Schema};
use crate::json::{list, text};

/// The minor version of a Kubernetes 1.x.
pub(crate) type Minor = u32;

/// One kind as the API serves it, in all its versions.
#[derive(Debug)]
pub(crate) struct Resource {
    /// The API group; empty for the core group.
    pub group: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub namespaced: bool,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    /// Served versions, the preferred one first.
    pub versions: Vec<Version>,
    /// The version in which objects are stored.
    pub storage_version: String,
    /// Subresources of a built-in kind; `status@v1` is one of that version only.
    subresources: Vec<String>,
    pub generation: Generation,
    /// The name of the collection that holds the objects: `deployments.apps`.
    pub store: Arc<str>,
    /// The definition, for a custom resource.
    pub definition: Option<Arc<Value>>,
    /// The version of Kubernetes that a built-in kind is one of.
    pub minor: Minor,
}

#[derive(Debug)]
pub(crate) struct Version {
    pub name: String,
    /// The position in the definition's `spec.versions`, for a custom resource.
    index: usize,
    pub has_status: bool,
    pub has_scale: bool,
    schema: OnceLock<Schema>,
}

/// What counts as a new generation of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Generation {
    /// The kind has no generation.
    None,
    /// It is 1 for good.
    First,
    /// A change of one of these fields (dotted paths).
    Fields(Vec<String>),
    /// A change of anything but metadata (and status where that is a subresource): custom resources.
    Content,
}

impl Resource {
    /// The one kind that is stored nowhere and is read all the same.
    pub(crate) fn component_status() -> Resource {
        Resource {
            group: String::new(),
            plural: "componentstatuses".to_owned(),
            singular: String::new(),
            kind: "ComponentStatus".to_owned(),
            list_kind: "ComponentStatusList".to_owned(),
            namespaced: false,
            short_names: vec!["cs".to_owned()],
            categories: Vec::new(),
            versions: Vec::new(),
            storage_version: "v1".to_owned(),
            subresources: Vec::new(),
            generation: Generation::None,
            store: "componentstatuses".into(),
            definition: None,
            minor: BASE,
        }
    }

    pub(crate) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }

    /// `deployments.apps`, or `pods` in the core group: the name that errors carry.
    pub(crate) fn qualified(&self) -> String {
        qualified(&self.plural, &self.group)
    }

    pub(crate) fn is_custom(&self) -> bool {
        self.definition.is_some()
    }

    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }

    pub(crate) fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    /// The subresources of a version.
    pub(crate) fn subresources(&self, version: &str) -> Vec<&str> {
        if self.is_custom() {
            let (scale, status) = (self.has_scale(version), self.has_status(version));
            return [("status", status), ("scale", scale)]
                .iter()
                .filter(|(_, has)| *has)
                .map(|(name, _)| *name)
                .collect();
        }
        self.subresources
            .iter()
            .filter_map(|subresource| match subresource.split_once('@') {
                Some((name, only)) => (only == version).then_some(name),
                None => Some(subresource.as_str()),
            })
            .collect()
    }

    pub(crate) fn has_status(&self, version: &str) -> bool {
        self.version(version).is_some_and(|version| version.has_status)
    }

    pub(crate) fn has_scale(&self, version: &str) -> bool {
        self.version(version).is_some_and(|version| version.has_scale)
    }

    /// The `openAPIV3Schema` of a custom resource.
    pub(crate) fn open_api(&self, version: &str) -> Option<&Value> {
        self.version_spec(version)?.pointer("/schema/openAPIV3Schema")
    }

    /// The entry of the definition's `spec.versions`.
    pub(crate) fn version_spec(&self, version: &str) -> Option<&Value> {
        let definition = self.definition.as_deref()?;
        definition
            .get("spec")?
            .get("versions")?
            .get(self.version(version)?.index)
    }

    /// Whether unknown fields of a custom resource are kept as they are.
    pub(crate) fn preserves_unknown_fields(&self) -> bool {
        self.definition
            .as_deref()
            .and_then(|definition| definition.pointer("/spec/preserveUnknownFields"))
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }

    /// How fields merge in this version. Made on first use.
    pub(crate) fn schema(&self, version: &str) -> Schema {
        let Some(served) = self.version(version) else {
            return Schema::deduced();
        };
        served
            .schema
            .get_or_init(|| {
                if self.is_custom() {
                    let definition = self.definition.as_deref().unwrap_or(&Value::Null);
                    Schema::from_definition(&definition["spec"], version)
                } else {
                    Schema::builtin(&self.api_version(version), &self.kind, self.minor)
                        .unwrap_or_else(Schema::deduced)
                }
            })
            .clone()
    }

    /// The kind as a definition declares it; `None` while its names are not accepted.
    pub(crate) fn from_definition(definition: &Arc<Value>) -> Option<Resource> {
        let spec = definition.get("spec")?;
        let names = definition
            .pointer("/status/acceptedNames")
            .filter(|names| !text(names, "plural").is_empty())?;
        let group = text(spec, "group").to_owned();
        let plural = text(names, "plural").to_owned();
        let mut storage_version = String::new();
        let mut versions = Vec::new();
        for (index, version) in list(spec, "versions").iter().enumerate() {
            let name = text(version, "name").to_owned();
            if version.get("storage").and_then(Value::as_bool).unwrap_or(false) {
                storage_version.clone_from(&name);
            }
            if version.get("served").and_then(Value::as_bool).unwrap_or(false) {
                versions.push(Version {
                    name,
                    index,
                    has_status: version.pointer("/subresources/status").is_some(),
                    has_scale: version.pointer("/subresources/scale").is_some(),
                    schema: OnceLock::new(),
                });
            }
        }
        versions.sort_by(|a, b| compare_versions(&b.name, &a.name));
        let strings = |key: &str| {
            list(names, key)
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        Some(Resource {
            store: qualified(&plural, &group).into(),
            singular: text(names, "singular").to_owned(),
            kind: text(names, "kind").to_owned(),
            list_kind: text(names, "listKind").to_owned(),
            namespaced: text(spec, "scope") == "Namespaced",
            short_names: strings("shortNames"),
            categories: strings("categories"),
            versions,
            storage_version,
            subresources: Vec::new(),
            generation: Generation::Content,
            definition: Some(Arc::clone(definition)),
            minor: BASE,
            group,
            plural,
        })
    }
}

pub(crate) fn qualified(plural: &str, group: &str) -> String {
    if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    }
}

/// Orders versions as Kubernetes ranks them: `v2 > v1 > v1beta2 > v1beta1 > v1alpha1 > anything else by name`.
pub(crate) fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    fn rank(version: &str) -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        match &rest[digits..] {
            "" => Some((2, major, 0)),
            other => {
                let (stability, minor) = if let Some(minor) = other.strip_prefix("beta") {
                    (1, minor)
                } else {
                    (0, other.strip_prefix("alpha")?)
                };
                Some((stability, major, minor.parse().ok()?))
            }
        }
    }
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => std::cmp::Ordering::Greater,
        (None, Some(_)) => std::cmp::Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// A built-in API group with the versions it is served in.
#[derive(Debug)]
pub(crate) struct Group {
    pub name: String,
    pub priority: u32,
    /// Version and its priority, the preferred one first.
    pub versions: Vec<(String, u32)>,
}

/// What a Kubernetes of one version serves without any custom resource.
#[derive(Debug)]
pub(crate) struct Builtins {
    pub minor: Minor,
    pub resources: Vec<Arc<Resource>>,
    pub groups: Vec<Group>,
    by_plural: BTreeMap<(String, String), Arc<Resource>>,
}

impl Builtins {
    pub(crate) fn new(minor: Minor) -> Builtins {
        let resources: Vec<_> = rows(include_str!("kinds.tsv"))
            .filter_map(|row| builtin(&row, minor))
            .map(Arc::new)
            .collect();
        let groups = rows(include_str!("groups.tsv"))
            .filter_map(|row| group(&row, minor))
            .collect();
        let by_plural = resources
            .iter()
            .map(|resource| {
                (
                    (resource.group.clone(), resource.plural.clone()),
                    Arc::clone(resource),
                )
            })
            .collect();
        Builtins {
            minor,
            resources,
            groups,
            by_plural,
        }
    }

    pub(crate) fn find(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_plural.get(&(group.to_owned(), plural.to_owned()))
    }

    pub(crate) fn find_kind(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|resource| resource.is(group, kind))
    }

    pub(crate) fn has_group(&self, group: &str) -> bool {
        self.groups.iter().any(|known| known.name == group)
    }
}

fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.split_whitespace().collect())
}

/// Splits `v1beta1>=20<25` and says whether the version is served by a minor version.
fn served(spec: &str, minor: Minor) -> Option<&str> {
    let end = spec.find(['<', '>']).unwrap_or(spec.len());
    let (name, mut conditions) = spec.split_at(end);
    while !conditions.is_empty() {
        let (from, rest) = match conditions.strip_prefix(">=") {
            Some(rest) => (true, rest),
            None => (false, &conditions[1..]),
        };
        let end = rest.find(['<', '>']).unwrap_or(rest.len());
        let bound: Minor = rest[..end].parse().ok()?;
        if from != (minor >= bound) {
            return None;
        }
        conditions = &rest[end..];
    }
    Some(name)
}

fn builtin(row: &[&str], minor: Minor) -> Option<Resource> {
    let &[
        group,
        versions,
        plural,
        kind,
        scope,
        short,
        categories,
        subresources,
        generation,
        store,
    ] = row
    else {
        return None;
    };
    let words = |field: &str| -> Vec<String> {
        if field == "-" {
            Vec::new()
        } else {
            field.split(',').map(str::to_owned).collect()
        }
    };
    let group = if group == "core" { "" } else { group };
    let subresources = words(subresources);
    let versions: Vec<_> = versions
        .split(',')
        .filter_map(|spec| served(spec, minor))
        .map(|name| Version {
            name: name.to_owned(),
            index: 0,
            has_status: subresources
                .iter()
                .any(|one| one == "status" || *one == format!("status@{name}")),
            has_scale: subresources.iter().any(|subresource| subresource == "scale"),
            schema: OnceLock::new(),
        })
        .collect();
    Some(Resource {
        group: group.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        namespaced: scope == "n",
        short_names: words(short),
        categories: words(categories),
        storage_version: versions.first()?.name.clone(),
        versions,
        subresources,
        generation: match generation {
            "-" => Generation::None,
            "first" => Generation::First,
            fields => Generation::Fields(words(fields)),
        },
        store: if store == "-" {
            qualified(plural, group).into()
        } else {
            store.into()
        },
        definition: None,
        minor,
    })
}

fn group(row: &[&str], minor: Minor) -> Option<Group> {
    let [name, priority, versions @ ..] = row else {
        return None;
    };
    let mut versions: Vec<_> = versions
        .iter()
        .filter_map(|spec| {
            let (version, priority) = spec.rsplit_once('=')?;
            Some((served(version, minor)?.to_owned(), priority.parse().ok()?))
        })
        .collect();
    versions.sort_by_key(|(_, priority): &(String, u32)| std::cmp::Reverse(*priority));
    if versions.is_empty() {
        return None;
    }
    Some(Group {
        name: if *name == "core" {
            String::new()
        } else {
            (*name).to_owned()
        },
        priority: priority.parse().ok()?,
        versions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(group: &str, plural: &str, minor: Minor, versions: &[&str]) {
        let builtins = Builtins::new(minor);
        let served: Vec<_> = builtins
            .find(group, plural)
            .map(|resource| {
                resource
                    .versions
                    .iter()
                    .map(|version| version.name.as_str())
                    .collect()
            })
            .unwrap_or_default();
        assert_eq!(served, versions, "{plural}.{group} in 1.{minor}");
    }

    #[test]
    fn versions_follow_the_kubernetes_version() {
        check("networking.k8s.io", "ingresses", 20, &["v1", "v1beta1"]);
        check("networking.k8s.io", "ingresses", 22, &["v1"]);
        check("extensions", "ingresses", 22, &[]);
        check("batch", "cronjobs", 20, &["v1beta1"]);
        check("batch", "cronjobs", 21, &["v1", "v1beta1"]);
        check("flowcontrol.apiserver.k8s.io", "flowschemas", 19, &[]);
        check("flowcontrol.apiserver.k8s.io", "flowschemas", 20, &["v1beta1"]);
    }

    #[test]
    fn every_line_of_the_tables_is_read() {
        let kinds = rows(include_str!("kinds.tsv")).count();
        let read = (19..=23)
            .flat_map(|minor| Builtins::new(minor).resources)
            .map(|resource| (resource.group.clone(), resource.plural.clone()))
            .collect::<std::collections::BTreeSet<_>>();
        assert_eq!(read.len(), kinds);
        let builtins = Builtins::new(20);
        for resource in &builtins.resources {
            let group = builtins
                .groups
                .iter()
                .find(|group| group.name == resource.group)
                .expect("group");
            for version in &resource.versions {
                assert!(
                    group.versions.iter().any(|(name, _)| *name == version.name),
                    "{resource:?}"
                );
            }
        }
    }

    #[test]
    fn every_version_of_a_kind_has_a_type() {
        for minor in 19..=25 {
            for resource in &Builtins::new(minor).resources {
                for version in &resource.versions {
                    let api_version = resource.api_version(&version.name);
                    assert!(
                        resource.schema(&version.name).is_builtin(),
                        "{api_version} {} in 1.{minor}",
                        resource.kind
                    );
                }
            }
        }
        assert!(Schema::builtin("batch/v1", "CronJob", 20).is_none());
    }

    #[test]
    fn versions_rank() {
        let mut versions = vec![
            "v1alpha1",
            "foo",
            "v1",
            "v1beta2",
            "v2",
            "v1beta1",
            "v10beta3",
            "v11alpha2",
            "bar",
        ];
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(
            versions,
            [
                "v2",
                "v1",
                "v10beta3",
                "v1beta2",
                "v1beta1",
                "v11alpha2",
                "v1alpha1",
                "bar",
                "foo"
            ]
        );
    }
}
