//! From the releases to what must be allowed.

use std::collections::{BTreeMap, BTreeSet};

use ::access::{IAM_GROUP, Level, RBAC_GROUP};
use object::{Object, ObjectKey};
use release::{Component, Files, Manifest, Phase, Release, Releases, catalog_versions, load_catalog};
use serde_json::{Map, Value, json};

use super::{Reads, Reason, Rights, RightsError, Subject, Why};
use crate::{cluster_configuration_key, decide::installer_key, plan, settings};

/// Read, then write. Server-side apply creates what is not there.
const READ: [&str; 2] = ["get", "list"];
const APPLY: [&str; 3] = ["get", "patch", "create"];

/// Minor versions of Kubernetes 1 that releases tell apart.
const KUBERNETES: std::ops::RangeInclusive<u32> = 19..=24;

/// API groups of optional components that no embedded manifest and no role mentions.
const OPTIONAL_GROUPS: [&str; 2] = ["auditing.kubesphere.io", "kubeedge.kubesphere.io"];

struct Collector {
    rights: Rights,
    /// Plural names of custom resources.
    plurals: BTreeMap<(String, String), String>,
}

pub(super) fn collect(
    releases: &Releases,
    files: &Files,
    reads: &Reads,
    is_platform_group: &dyn Fn(&str) -> bool,
) -> Result<Rights, RightsError> {
    let release = releases.latest().ok_or(RightsError::NoRelease)?;
    let manifests = rendered(release)?;
    let mut collector = Collector {
        rights: Rights::default(),
        plurals: plurals(manifests.values()),
    };
    collector.release(release, &manifests);
    let earlier = releases
        .iter()
        .filter(|earlier| earlier.version < release.version);
    for earlier in earlier {
        for key in rendered(earlier)?
            .into_keys()
            .filter(|key| !manifests.contains_key(key))
        {
            collector.object(&key, &["delete"], Reason::Dropped);
        }
    }
    collector.access(release, files)?;
    collector.reads(reads);
    let mut groups: BTreeSet<String> = mentioned_groups(files)?;
    groups.extend(OPTIONAL_GROUPS.map(str::to_owned));
    groups.extend(collector.plurals.keys().map(|(group, _)| group.clone()));
    groups.insert(cluster_configuration_key().group);
    for group in groups.iter().filter(|group| is_platform_group(group)) {
        collector.add(None, group, "*", &READ, Reason::ReadGroup, None);
    }
    collector.books();
    Ok(collector.finish())
}

/// Every object that a release may render: for any Kubernetes, with all components and with none, from nothing.
fn rendered(release: &Release) -> Result<BTreeMap<ObjectKey, Manifest>, RightsError> {
    let failed = |findings| RightsError::ReadSettings {
        release: release.version.to_string(),
        findings,
    };
    let mut found = BTreeMap::new();
    for minor in KUBERNETES {
        let facts = settings::ClusterFacts {
            kubernetes_version: format!("v1.{minor}.0"),
            nodes: 3,
            masters: 3,
            ..settings::ClusterFacts::default()
        };
        for spec in [json!({}), everything(release)] {
            let settings = settings::Settings::parse(&spec, &facts).map_err(failed)?;
            for component in &release.components {
                let inputs = settings.inputs(release, component, |_| None).map_err(failed)?;
                let manifests = release::render(release, component, &inputs)?;
                found.extend(
                    manifests
                        .into_iter()
                        .map(|manifest| (manifest.object.key(), manifest)),
                );
            }
        }
    }
    Ok(found)
}

/// A spec in which all that can be switched on is, on the host of a federation.
fn everything(release: &Release) -> Value {
    let mut spec = json!({"multicluster": {"clusterRole": "host"}});
    let components = release
        .components
        .iter()
        .flat_map(|component| &component.settings);
    for (_, setting) in components.filter(|(_, setting)| setting.kind == release::SettingType::Boolean) {
        for path in &setting.from {
            let mut place = &mut spec;
            for name in path.split('.') {
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                place = &mut place[name];
            }
            *place = true.into();
        }
    }
    spec
}

fn plurals<'a>(manifests: impl Iterator<Item = &'a Manifest>) -> BTreeMap<(String, String), String> {
    manifests
        .filter(|manifest| manifest.phase == Phase::CustomResourceDefinitions)
        .filter_map(|manifest| {
            let text = |pointer: &str| manifest.object.get_str(pointer).map(str::to_owned);
            let kind = (text("/spec/group")?, text("/spec/names/kind")?);
            Some((kind, text("/spec/names/plural")?))
        })
        .collect()
}

/// API groups that any release's roles grant something in.
fn mentioned_groups(files: &Files) -> Result<BTreeSet<String>, RightsError> {
    let mut groups = BTreeSet::new();
    for version in catalog_versions(files) {
        let (catalog, _) = load_catalog(files, &version)?;
        for rule in catalog.objects().flat_map(rules_of) {
            let named = rule.get("apiGroups").and_then(Value::as_array);
            groups.extend(
                named
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(str::to_owned),
            );
        }
    }
    Ok(groups)
}

/// The rules of a role, and of the role inside a RoleBase.
fn rules_of(object: &Object) -> impl Iterator<Item = &Value> {
    ["/rules", "/role/rules"]
        .into_iter()
        .filter_map(|pointer| object.get(pointer)?.as_array())
        .flatten()
}

/// A wildcard in a rule: `*.*: *`
fn wildcard(rule: &Value) -> Option<String> {
    let part = |name: &str| {
        let items = rule.get(name).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).collect::<Vec<_>>()
    };
    let (groups, resources, verbs) = (part("apiGroups"), part("resources"), part("verbs"));
    [&groups, &resources, &verbs]
        .iter()
        .any(|part| part.contains(&"*"))
        .then(|| {
            let join = |part: &[&str]| {
                let shown: Vec<_> = part
                    .iter()
                    .map(|item| if item.is_empty() { "core" } else { item })
                    .collect();
                shown.join(", ")
            };
            format!("{} on {} of {}", join(&verbs), join(&resources), join(&groups))
        })
}

fn is_rbac_role(key: &ObjectKey) -> bool {
    key.group == RBAC_GROUP && ["Role", "ClusterRole"].contains(&key.kind.as_str())
}

impl Collector {
    fn add(
        &mut self,
        namespace: Option<&str>,
        group: &str,
        resource: &str,
        verbs: &[&str],
        reason: Reason,
        object: Option<&str>,
    ) {
        let subject = Subject {
            namespace: namespace.map(str::to_owned),
            group: group.to_owned(),
            resource: resource.to_owned(),
            names: BTreeSet::new(),
        };
        self.allow(subject, verbs, reason, object);
    }

    fn allow(&mut self, subject: Subject, verbs: &[&str], reason: Reason, object: Option<&str>) {
        let held = self.rights.needs.entry(subject).or_default();
        for verb in verbs {
            held.entry((*verb).to_owned()).or_default().insert(Why {
                reason,
                object: object.map(str::to_owned),
            });
        }
    }

    fn object(&mut self, key: &ObjectKey, verbs: &[&str], reason: Reason) {
        let resource = self.resource(&key.group, &key.kind);
        let object = Some(key.name.as_str());
        self.add(
            key.namespace.as_deref(),
            &key.group,
            &resource,
            verbs,
            reason,
            object,
        );
    }

    /// Objects of the release are watched, so that nobody changes them unnoticed.
    fn watch(&mut self, key: &ObjectKey) {
        let resource = self.resource(&key.group, &key.kind);
        let verbs = ["get", "list", "watch"];
        self.add(
            key.namespace.as_deref(),
            &key.group,
            &resource,
            &verbs,
            Reason::Drift,
            None,
        );
    }

    fn resource(&self, group: &str, kind: &str) -> String {
        if let Some(plural) = self.plurals.get(&(group.to_owned(), kind.to_owned())) {
            return plural.clone();
        }
        let kind = kind.to_lowercase();
        if kind == "endpoints" {
            kind
        } else if kind.ends_with('s') {
            format!("{kind}es")
        } else if let Some(start) = kind.strip_suffix('y') {
            format!("{start}ies")
        } else {
            format!("{kind}s")
        }
    }

    fn release(&mut self, release: &Release, manifests: &BTreeMap<ObjectKey, Manifest>) {
        for (key, manifest) in manifests {
            if manifest.phase == Phase::Namespaces {
                self.object(key, &APPLY, Reason::Release);
                self.watch(key);
                self.add(None, "", "namespaces", &APPLY[..2], Reason::Namespaces, None);
                continue;
            }
            self.object(key, &APPLY, Reason::Release);
            self.watch(key);
            self.grants(&manifest.object);
            if let (Phase::Workloads, Some(namespace)) = (manifest.phase, &key.namespace) {
                self.add(
                    Some(namespace),
                    "",
                    "events",
                    &["list"],
                    Reason::Rollout,
                    Some(&key.name),
                );
                self.add(
                    Some(namespace),
                    "",
                    "pods",
                    &["list"],
                    Reason::Rollout,
                    Some(&key.name),
                );
            }
        }
        for component in &release.components {
            self.secrets(component);
            self.leftovers(component);
        }
        let of_components = manifests.iter().filter(|(_, manifest)| {
            let mut components = release.components.iter();
            components.any(|component| {
                component.enabled.is_some()
                    && manifest
                        .source
                        .contains(&format!("/components/{}/", component.name))
            })
        });
        for (key, _) in of_components {
            let stays = ["PersistentVolumeClaim", "User"].contains(&key.kind.as_str());
            if !stays {
                self.object_by_name(key, &["delete"], Reason::SwitchedOff);
            }
        }
    }

    /// What a component has no more, what it leaves when it goes, and whose labels it changes.
    fn leftovers(&mut self, component: &Component) {
        let listed = component.gone.iter().map(|gone| (gone, Reason::Dropped));
        let leaves = component.leaves.iter().map(|gone| (gone, Reason::SwitchedOff));
        for (gone, reason) in listed.chain(leaves) {
            let key = ObjectKey {
                group: gone.group.clone(),
                kind: gone.kind.clone(),
                namespace: gone.namespace.clone(),
                name: gone.name.clone(),
            };
            let verbs = &["delete"];
            if !gone.finalizers.is_empty() {
                self.object(&key, &["get", "patch"], reason);
            }
            if gone.name.contains('*') {
                self.object(&key, verbs, reason);
            } else {
                self.object_by_name(&key, verbs, reason);
            }
        }
        for rule in &component.relabel {
            let resource = self.resource(&rule.group, &rule.kind);
            self.add(
                None,
                &rule.group,
                &resource,
                &["get", "patch"],
                Reason::Relabel,
                None,
            );
        }
        if let Some(helm) = &component.helm
            && (component.enabled.is_some() || !helm.replaces.is_empty())
        {
            let namespace = Some(helm.namespace.as_str());
            self.add(
                namespace,
                "",
                "secrets",
                &["delete"],
                Reason::SwitchedOff,
                Some(&helm.name),
            );
        }
    }

    fn object_by_name(&mut self, key: &ObjectKey, verbs: &[&str], reason: Reason) {
        let subject = Subject {
            namespace: key.namespace.clone(),
            group: key.group.clone(),
            resource: self.resource(&key.group, &key.kind),
            names: BTreeSet::from([key.name.clone()]),
        };
        self.allow(subject, verbs, reason, Some(&key.name));
    }

    fn secrets(&mut self, component: &Component) {
        for secret in &component.secrets {
            let (namespace, name) = (Some(secret.namespace.as_str()), Some(secret.name.as_str()));
            self.add(namespace, "", "secrets", &APPLY, Reason::Generated, name);
        }
        if let Some(helm) = &component.helm {
            let namespace = Some(helm.namespace.as_str());
            self.add(
                namespace,
                "",
                "secrets",
                &APPLY,
                Reason::HelmRecord,
                Some(&helm.name),
            );
        }
    }

    /// What Kubernetes wants besides the write itself of who writes roles and bindings.
    fn grants(&mut self, object: &Object) {
        let key = object.key();
        if is_rbac_role(&key) {
            self.object(&key, &["escalate"], Reason::Escalate);
            if let Some(rule) = rules_of(object).find_map(wildcard) {
                let name = format!("{} {}", key.kind, key.name);
                self.rights.wildcards.insert(name, rule);
            }
        }
        if key.group == RBAC_GROUP
            && key.kind.ends_with("Binding")
            && let (Some(kind), Some(name)) =
                (object.get_str("/roleRef/kind"), object.get_str("/roleRef/name"))
        {
            let resource = self.resource(RBAC_GROUP, kind);
            // A binding in a namespace may be to a role of the cluster: there it is asked for in the namespace.
            let base = Subject {
                namespace: key.namespace.clone(),
                group: RBAC_GROUP.to_owned(),
                resource,
                names: BTreeSet::from([name.to_owned()]),
            };
            self.allow(base, &["bind"], Reason::Bind, Some(&key.name));
        }
    }

    /// Role templates and built-in roles; and roles and bindings of users.
    fn access(&mut self, release: &Release, files: &Files) -> Result<(), RightsError> {
        let (catalog, policy) = load_catalog(files, &release.version)?;
        for object in catalog.objects() {
            self.object(&object.key(), &APPLY, Reason::Templates);
            self.watch(&object.key());
            self.grants(object);
        }
        let role = |level: Level| match level {
            Level::Platform => (IAM_GROUP, "GlobalRole"),
            Level::Workspace => (IAM_GROUP, "WorkspaceRole"),
            Level::Cluster => (RBAC_GROUP, "ClusterRole"),
            Level::Project | Level::DevopsProject => (RBAC_GROUP, "Role"),
        };
        for level in Level::ALL {
            let (group, kind) = role(level);
            let resource = self.resource(group, kind);
            let changes = if plan::is_replaced(&ObjectKey::cluster(group, kind, "")) {
                "update"
            } else {
                "patch"
            };
            self.add(None, group, &resource, &["get", changes], Reason::UserRoles, None);
            if group == RBAC_GROUP {
                self.add(None, group, &resource, &["escalate"], Reason::Escalate, None);
            }
            if policy
                .removed_templates
                .get(&level)
                .is_some_and(|names| !names.is_empty())
            {
                self.add(
                    None,
                    group,
                    &resource,
                    &["get", "delete"],
                    Reason::RemovedRoles,
                    None,
                );
            }
        }
        for removed in &policy.removed_roles {
            let resource = self.resource(IAM_GROUP, &removed.kind);
            let name = Some(removed.name.as_str());
            self.add(
                None,
                IAM_GROUP,
                &resource,
                &["get", "delete"],
                Reason::RemovedRoles,
                name,
            );
            let bindings = self.resource(IAM_GROUP, &format!("{}Binding", removed.kind));
            let verbs = ["get", "patch", "delete"];
            self.add(None, IAM_GROUP, &bindings, &verbs, Reason::UserBindings, None);
        }
        Ok(())
    }

    fn reads(&mut self, reads: &Reads) {
        for (kinds, reason) in [
            (&reads.everywhere, Reason::Read),
            (&reads.platform, Reason::ReadPlatform),
        ] {
            for (group, kind) in kinds {
                let resource = self.resource(group, kind);
                self.add(None, group, &resource, &READ, reason, None);
            }
        }
    }

    /// What a run and the operator keep beside the plan.
    fn books(&mut self) {
        let configuration = cluster_configuration_key();
        let system = configuration.namespace.as_deref();
        let resource = self.resource(&configuration.group, &configuration.kind);
        let (group, name) = (configuration.group.as_str(), Some(configuration.name.as_str()));
        let verbs = ["get", "list", "watch", "patch"];
        self.add(system, group, &resource, &verbs, Reason::Configuration, name);
        let installer = installer_key();
        self.object(&installer, &["get", "patch"], Reason::OldInstaller);
        self.add(
            system,
            "coordination.k8s.io",
            "leases",
            &APPLY,
            Reason::Lease,
            None,
        );
        self.add(system, "", "configmaps", &APPLY, Reason::Journal, None);
        let verbs = ["get", "list", "create", "delete"];
        self.add(system, "", "secrets", &verbs, Reason::Backup, None);
        for group in ["", "events.k8s.io"] {
            self.add(
                system,
                group,
                "events",
                &["create", "patch"],
                Reason::Events,
                None,
            );
        }
    }

    /// The rights without what is held in the whole cluster already.
    fn finish(mut self) -> Rights {
        let everywhere: BTreeSet<(String, String, String)> = self
            .rights
            .needs
            .iter()
            .filter(|(subject, _)| subject.namespace.is_none() && subject.names.is_empty())
            .flat_map(|(subject, verbs)| {
                verbs
                    .keys()
                    .map(|verb| (subject.group.clone(), subject.resource.clone(), verb.clone()))
            })
            .collect();
        let is_held = |subject: &Subject, resource: &str, verb: &str| {
            everywhere.contains(&(subject.group.clone(), resource.to_owned(), verb.to_owned()))
        };
        for (subject, verbs) in &mut self.rights.needs {
            let is_part = subject.namespace.is_some() || !subject.names.is_empty();
            verbs.retain(|verb, _| {
                let by_group = subject.resource != "*" && is_held(subject, "*", verb);
                let by_place = is_part && is_held(subject, &subject.resource, verb);
                !by_group && !by_place
            });
        }
        self.rights.needs.retain(|_, verbs| !verbs.is_empty());
        self.rights
    }
}
