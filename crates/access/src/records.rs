//! What of a cluster's objects access depends on, in a compact form: a large cluster has a million of them.
//!
//! Rule lists are kept once each, whoever has them: most custom roles of a cluster are alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use object::{Object, ObjectKey};
use serde_json::Value;

use crate::{
    AGGREGATION, DEVOPS_PROJECT, IAM_GROUP, RBAC_GROUP, REGO, RuleList, TEMPLATE, USER_REF, WORKSPACE,
    hash::{FastMap, FastSet},
    rule::parse_rules,
};

/// KubeFed's copies of objects, for member clusters.
pub(crate) const FEDERATED_GROUP: &str = "types.kubefed.io";
const TENANT_GROUP: &str = "tenant.kubesphere.io";
pub(crate) const INSTALLER_GROUP: &str = "installer.kubesphere.io";
const DEVOPS_GROUP: &str = "devops.kubesphere.io";

/// A name; equal ones of one [`Records`] share their text.
pub type Text = Arc<str>;

/// The rules of a role as they were read.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleSet {
    pub(crate) rules: RuleList,
    /// Why they cannot be read.
    pub(crate) error: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct RoleRecord {
    /// `GlobalRole`, `WorkspaceRole`, `ClusterRole`, `Role`
    pub(crate) kind: &'static str,
    /// Empty for all kinds but Role.
    pub(crate) namespace: Text,
    pub(crate) name: Text,
    pub(crate) workspace: Option<Text>,
    pub(crate) is_template: bool,
    /// The annotation, where it says something.
    pub(crate) aggregation: Option<Text>,
    /// A Rego policy that can allow more than the rules do.
    pub(crate) rego: Option<Text>,
    /// Place in [`Records::rule_sets`].
    pub(crate) rules: usize,
    pub(crate) is_being_deleted: bool,
    /// Where it was read, to tell the later of two.
    pub(crate) position: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct SubjectRecord {
    pub(crate) kind: Text,
    /// Empty for all but service accounts.
    pub(crate) namespace: Text,
    pub(crate) name: Text,
}

#[derive(Clone, Debug)]
pub(crate) struct BindingRecord {
    /// `GlobalRoleBinding`, `WorkspaceRoleBinding`, `ClusterRoleBinding`, `RoleBinding`
    pub(crate) kind: &'static str,
    /// Empty for all kinds but RoleBinding.
    pub(crate) namespace: Text,
    pub(crate) name: Text,
    pub(crate) workspace: Option<Text>,
    pub(crate) user: Option<Text>,
    pub(crate) role_kind: Text,
    pub(crate) role: Text,
    pub(crate) subjects: Vec<SubjectRecord>,
    pub(crate) is_being_deleted: bool,
    pub(crate) position: usize,
}

fn group_of(kind: &str) -> &'static str {
    match kind {
        "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding" => RBAC_GROUP,
        _ => IAM_GROUP,
    }
}

pub(crate) fn key(kind: &str, namespace: &str, name: &str) -> ObjectKey {
    match namespace {
        "" => ObjectKey::cluster(group_of(kind), kind, name),
        _ => ObjectKey::namespaced(group_of(kind), kind, namespace, name),
    }
}

impl RoleRecord {
    pub(crate) fn key(&self) -> ObjectKey {
        key(self.kind, &self.namespace, &self.name)
    }
}

impl BindingRecord {
    pub(crate) fn key(&self) -> ObjectKey {
        key(self.kind, &self.namespace, &self.name)
    }

    pub(crate) fn is_iam(&self) -> bool {
        group_of(self.kind) == IAM_GROUP
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct NamespaceRecord {
    pub(crate) workspace: Option<Text>,
    pub(crate) devops: Option<Text>,
}

/// An object that KubeFed carries to member clusters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FederatedRecord {
    /// Without `Federated`: `GlobalRole`
    pub(crate) kind: Text,
    pub(crate) namespace: Text,
    pub(crate) name: Text,
    /// Where it is placed; empty: by a selector.
    pub(crate) clusters: Vec<Text>,
    /// The list of templates of a role.
    pub(crate) aggregation: Option<Text>,
    /// Of a binding: the role that it refers to.
    pub(crate) role: Option<Text>,
}

/// The access objects of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pub(crate) roles: Vec<RoleRecord>,
    pub(crate) bindings: Vec<BindingRecord>,
    pub(crate) rule_sets: Vec<RuleSet>,
    pub(crate) namespaces: BTreeMap<Text, NamespaceRecord>,
    /// DevOps projects, and the workspaces that they belong to.
    pub(crate) devops: BTreeMap<Text, Option<Text>>,
    /// The users in each group.
    pub(crate) members: BTreeMap<Text, BTreeSet<Text>>,
    pub(crate) users: BTreeSet<Text>,
    /// Workspaces, and who manages each.
    pub(crate) workspaces: BTreeMap<Text, Option<Text>>,
    pub(crate) federated: Vec<FederatedRecord>,
    /// KubeSphere's, as its ClusterConfiguration says it.
    pub(crate) version: Option<Text>,
}

impl<'a> FromIterator<&'a Object> for Records {
    fn from_iter<I: IntoIterator<Item = &'a Object>>(objects: I) -> Self {
        let mut loader = Loader::default();
        for object in objects {
            loader.add(object);
        }
        loader.finish()
    }
}

impl Records {
    /// The version of KubeSphere that the cluster says it has.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// How many users, roles, bindings and different rule lists there are.
    pub fn counts(&self) -> [usize; 4] {
        [
            self.users.len(),
            self.roles.len(),
            self.bindings.len(),
            self.rule_sets.len(),
        ]
    }
}

/// Puts [`Records`] together, one object after the other, in any order. Of two objects with the same name the later
/// counts.
#[derive(Debug, Default)]
pub struct Loader {
    records: Records,
    texts: FastSet<Text>,
    /// Rule lists by how they are written.
    rule_texts: FastMap<Box<str>, usize>,
    /// Of the object that comes next.
    position: usize,
}

/// What is read of an object, wherever from.
#[derive(Default)]
pub(crate) struct Parts<'p> {
    pub(crate) group: &'p str,
    pub(crate) kind: &'p str,
    pub(crate) namespace: &'p str,
    pub(crate) name: &'p str,
    pub(crate) is_being_deleted: bool,
    pub(crate) workspace: Option<&'p str>,
    pub(crate) devops: Option<&'p str>,
    pub(crate) user: Option<&'p str>,
    pub(crate) template: Option<&'p str>,
    pub(crate) aggregation: Option<&'p str>,
    pub(crate) rego: Option<&'p str>,
    /// JSON.
    pub(crate) rules: Option<&'p str>,
    pub(crate) role_kind: &'p str,
    pub(crate) role: &'p str,
    /// Kind, namespace, name.
    pub(crate) subjects: Vec<[&'p str; 3]>,
    pub(crate) users: Vec<&'p str>,
    pub(crate) group_ref: Option<&'p str>,
    pub(crate) manager: Option<&'p str>,
    pub(crate) clusters: Vec<&'p str>,
    pub(crate) version: Option<&'p str>,
}

/// Whether access depends on objects of a kind.
pub(crate) fn is_relevant(group: &str, kind: &str) -> bool {
    match group {
        "" => kind == "Namespace",
        IAM_GROUP => matches!(
            kind,
            "GlobalRole"
                | "WorkspaceRole"
                | "GlobalRoleBinding"
                | "WorkspaceRoleBinding"
                | "GroupBinding"
                | "User"
        ),
        RBAC_GROUP => matches!(
            kind,
            "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding"
        ),
        TENANT_GROUP => matches!(kind, "Workspace" | "WorkspaceTemplate"),
        DEVOPS_GROUP => kind == "DevOpsProject",
        INSTALLER_GROUP => kind == "ClusterConfiguration",
        FEDERATED_GROUP => matches!(
            kind,
            "FederatedUser"
                | "FederatedGlobalRole"
                | "FederatedWorkspaceRole"
                | "FederatedClusterRole"
                | "FederatedRole"
                | "FederatedGlobalRoleBinding"
                | "FederatedWorkspaceRoleBinding"
                | "FederatedClusterRoleBinding"
                | "FederatedRoleBinding"
        ),
        _ => false,
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

impl Loader {
    fn text(&mut self, text: &str) -> Text {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Text = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }

    fn some(&mut self, text: Option<&str>) -> Option<Text> {
        text.map(|text| self.text(text))
    }

    fn rules(&mut self, json: Option<&str>) -> usize {
        let json = json.unwrap_or("null");
        if let Some(known) = self.rule_texts.get(json) {
            return *known;
        }
        let value: Result<Value, _> = serde_json::from_str(json);
        let set = match value.and_then(|value| parse_rules(Some(&value))) {
            Ok(rules) => RuleSet {
                rules: rules.into(),
                error: None,
            },
            Err(error) => RuleSet {
                rules: RuleList::default(),
                error: Some(error.to_string()),
            },
        };
        let place = self.records.rule_sets.len();
        self.records.rule_sets.push(set);
        self.rule_texts.insert(json.into(), place);
        place
    }

    /// Takes up an object; those of other kinds are passed over.
    pub fn add(&mut self, object: &Object) {
        let (group, kind) = (object.group(), object.kind());
        if !is_relevant(group, kind) {
            return;
        }
        let is_federated = group == FEDERATED_GROUP;
        // Of a federated object, what it carries.
        let at = |pointer: &str| {
            if is_federated {
                object.get(&format!("/spec/template{pointer}"))
            } else {
                object.get(pointer)
            }
        };
        let rules = at("/rules").map(Value::to_string);
        let meta = |map: &str, name: &str| {
            let carried = at(&format!("/metadata/{map}"))
                .and_then(|map| map.get(name))
                .and_then(Value::as_str);
            carried.or_else(|| match map {
                "labels" => object.label(name),
                _ => object.annotation(name),
            })
        };
        let (subjects, users) = (items(at("/subjects")), items(object.get("/users")));
        let clusters = items(object.get("/spec/placement/clusters"));
        self.take(Parts {
            group,
            kind,
            namespace: object.namespace().unwrap_or_default(),
            name: object.name(),
            is_being_deleted: object.is_being_deleted(),
            workspace: meta("labels", WORKSPACE),
            devops: meta("labels", DEVOPS_PROJECT),
            user: meta("labels", USER_REF),
            template: meta("labels", TEMPLATE),
            aggregation: meta("annotations", AGGREGATION),
            rego: meta("annotations", REGO),
            rules: rules.as_deref(),
            role_kind: text(at("/roleRef/kind")),
            role: text(at("/roleRef/name")),
            subjects: subjects
                .iter()
                .map(|subject| ["kind", "namespace", "name"].map(|field| text(subject.get(field))))
                .collect(),
            users: users.iter().filter_map(Value::as_str).collect(),
            group_ref: object.get_str("/groupRef/name"),
            manager: object
                .get_str("/spec/manager")
                .or_else(|| object.get_str("/spec/template/spec/manager")),
            clusters: clusters
                .iter()
                .filter_map(|cluster| cluster.get("name").and_then(Value::as_str))
                .collect(),
            version: object.get_str("/status/core/version"),
        });
    }

    /// Says where the object that comes next stands among all, for loaders that read shares of one dump.
    pub fn at(&mut self, position: usize) {
        self.position = position;
    }

    pub(crate) fn take(&mut self, parts: Parts<'_>) {
        self.position += 1;
        match (parts.group, parts.kind) {
            ("", _) => {
                let name = self.text(parts.name);
                let record = NamespaceRecord {
                    workspace: self.some(parts.workspace),
                    devops: self.some(parts.devops),
                };
                self.records.namespaces.insert(name, record);
            }
            (IAM_GROUP, "User") => {
                let name = self.text(parts.name);
                self.records.users.insert(name);
            }
            (IAM_GROUP, "GroupBinding") => {
                let Some(group) = parts.group_ref else { return };
                let group = self.text(group);
                let users: Vec<Text> = parts.users.iter().map(|user| self.text(user)).collect();
                self.records.members.entry(group).or_default().extend(users);
            }
            (IAM_GROUP, "GlobalRole") => self.role("GlobalRole", &parts),
            (IAM_GROUP, "WorkspaceRole") => self.role("WorkspaceRole", &parts),
            (RBAC_GROUP, "ClusterRole") => self.role("ClusterRole", &parts),
            (RBAC_GROUP, "Role") => self.role("Role", &parts),
            (IAM_GROUP, "GlobalRoleBinding") => self.binding("GlobalRoleBinding", &parts),
            (IAM_GROUP, "WorkspaceRoleBinding") => self.binding("WorkspaceRoleBinding", &parts),
            (RBAC_GROUP, "ClusterRoleBinding") => self.binding("ClusterRoleBinding", &parts),
            (RBAC_GROUP, "RoleBinding") => self.binding("RoleBinding", &parts),
            (INSTALLER_GROUP, _) => {
                let version = self.some(parts.version);
                self.records.version = version.or(self.records.version.take());
            }
            (TENANT_GROUP, _) => {
                let name = self.text(parts.name);
                let manager = self.some(parts.manager.filter(|manager| !manager.is_empty()));
                let known = self.records.workspaces.entry(name).or_default();
                *known = manager.or(known.take());
            }
            (DEVOPS_GROUP, _) => {
                let name = self.text(parts.name);
                let workspace = self.some(parts.workspace);
                self.records.devops.insert(name, workspace);
            }
            (FEDERATED_GROUP, kind) => {
                let kind = kind.strip_prefix("Federated").unwrap_or(kind);
                let record = FederatedRecord {
                    kind: self.text(kind),
                    namespace: self.text(parts.namespace),
                    name: self.text(parts.name),
                    clusters: parts.clusters.iter().map(|name| self.text(name)).collect(),
                    aggregation: self.some(parts.aggregation),
                    role: self.some(Some(parts.role).filter(|role| !role.is_empty())),
                };
                self.records.federated.push(record);
            }
            _ => {}
        }
    }

    fn role(&mut self, kind: &'static str, parts: &Parts<'_>) {
        let record = RoleRecord {
            kind,
            namespace: self.text(if kind == "Role" { parts.namespace } else { "" }),
            name: self.text(parts.name),
            workspace: self.some(parts.workspace),
            is_template: parts.template.is_some_and(|label| !label.is_empty()),
            aggregation: self.some(parts.aggregation.filter(|text| !text.trim().is_empty())),
            rego: self.some(parts.rego.filter(|text| !text.is_empty())),
            rules: self.rules(parts.rules),
            is_being_deleted: parts.is_being_deleted,
            position: self.position,
        };
        self.records.roles.push(record);
    }

    fn binding(&mut self, kind: &'static str, parts: &Parts<'_>) {
        let is_namespaced = kind == "RoleBinding";
        let subjects = parts
            .subjects
            .iter()
            .map(|[kind, namespace, name]| SubjectRecord {
                kind: self.text(kind),
                namespace: self.text(match (*kind, *namespace) {
                    // One that names no namespace is of the binding's.
                    ("ServiceAccount", "") if is_namespaced => parts.namespace,
                    ("ServiceAccount", namespace) => namespace,
                    _ => "",
                }),
                name: self.text(name),
            });
        let subjects = subjects.collect();
        let record = BindingRecord {
            kind,
            namespace: self.text(if is_namespaced { parts.namespace } else { "" }),
            name: self.text(parts.name),
            workspace: self.some(parts.workspace),
            user: self.some(parts.user),
            role_kind: self.text(parts.role_kind),
            role: self.text(parts.role),
            subjects,
            is_being_deleted: parts.is_being_deleted,
            position: self.position,
        };
        self.records.bindings.push(record);
    }

    /// Takes over what another loader has read.
    pub fn absorb(&mut self, other: Self) {
        if self.position == 0 {
            // Nothing was read yet.
            *self = other;
            return;
        }
        let Self {
            mut records,
            rule_texts,
            texts: _,
            position: _,
        } = other;
        let mut places = vec![0; records.rule_sets.len()];
        for (text, place) in rule_texts {
            if let Some(known) = self.rule_texts.get(&text) {
                places[place] = *known;
                continue;
            }
            let new = self.records.rule_sets.len();
            let set = std::mem::take(&mut records.rule_sets[place]);
            self.records.rule_sets.push(set);
            self.rule_texts.insert(text, new);
            places[place] = new;
        }
        for role in &mut records.roles {
            role.rules = places[role.rules];
        }
        let own = &mut self.records;
        own.roles.append(&mut records.roles);
        own.bindings.append(&mut records.bindings);
        own.namespaces.append(&mut records.namespaces);
        own.devops.append(&mut records.devops);
        own.users.append(&mut records.users);
        own.federated.append(&mut records.federated);
        own.version = records.version.or(own.version.take());
        for (group, mut users) in records.members {
            own.members.entry(group).or_default().append(&mut users);
        }
        for (name, manager) in records.workspaces {
            let known = own.workspaces.entry(name).or_default();
            *known = manager.or(known.take());
        }
    }

    pub fn finish(mut self) -> Records {
        self.records.roles.sort_by_key(|role| role.position);
        self.records.bindings.sort_by_key(|binding| binding.position);
        self.records
    }
}
