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
    AGGREGATION, DEPENDENCIES, DEVOPS_PROJECT, IAM_GROUP, RBAC_GROUP, REGO, RuleList, TEMPLATE, USER_REF,
    WORKSPACE,
    hash::{FastMap, FastSet},
    rule::parse_rules,
};

/// KubeFed's copies of objects, for member clusters.
pub const FEDERATED_GROUP: &str = "types.kubefed.io";
/// The kinds of [`FEDERATED_GROUP`] on which access depends.
pub const FEDERATED_KINDS: [&str; 11] = [
    "FederatedUser",
    "FederatedGroup",
    "FederatedGroupBinding",
    "FederatedGlobalRole",
    "FederatedWorkspaceRole",
    "FederatedClusterRole",
    "FederatedRole",
    "FederatedGlobalRoleBinding",
    "FederatedWorkspaceRoleBinding",
    "FederatedClusterRoleBinding",
    "FederatedRoleBinding",
];
const TENANT_GROUP: &str = "tenant.kubesphere.io";
pub(crate) const INSTALLER_GROUP: &str = "installer.kubesphere.io";
const DEVOPS_GROUP: &str = "devops.kubesphere.io";

/// A name; equal ones of one [`Records`] share their text.
pub type Text = Arc<str>;

/// Where an object was read among all: the line in the upper half, its place in the line's list in the lower.
pub(crate) type Position = u64;

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
    /// Of a template: the annotation that names the templates it takes.
    pub(crate) dependencies: Option<Text>,
    /// Place in [`Records::rule_sets`].
    pub(crate) rules: usize,
    pub(crate) is_being_deleted: bool,
    /// Where it was read, to tell the later of two.
    pub(crate) position: Position,
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
    pub(crate) position: Position,
}

fn group_of(kind: &str) -> &'static str {
    match kind {
        "Namespace" => "",
        "Workspace" | "WorkspaceTemplate" => TENANT_GROUP,
        "DevOpsProject" => DEVOPS_GROUP,
        "ClusterConfiguration" => INSTALLER_GROUP,
        kind if kind.starts_with("Federated") => FEDERATED_GROUP,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FederatedRecord {
    /// One of [`FEDERATED_KINDS`].
    pub(crate) kind: &'static str,
    pub(crate) namespace: Text,
    pub(crate) name: Text,
    pub(crate) workspace: Option<Text>,
    /// Where it is placed; empty: by a selector.
    pub(crate) clusters: Vec<Text>,
    pub(crate) is_template: bool,
    /// The list of templates of a role.
    pub(crate) aggregation: Option<Text>,
    /// Of a binding: the role that it refers to.
    pub(crate) role: Option<Text>,
    /// Of a GroupBinding: who is in the group.
    pub(crate) users: Vec<Text>,
}

impl FederatedRecord {
    /// What it carries: `GlobalRole`
    pub(crate) fn carried(&self) -> &'static str {
        self.kind.strip_prefix("Federated").unwrap_or(self.kind)
    }

    pub(crate) fn key(&self) -> ObjectKey {
        key(self.kind, &self.namespace, &self.name)
    }

    /// Whether it says that there is a user of that name.
    pub(crate) fn brings(&self, user: &str) -> bool {
        match self.carried() {
            "User" => &*self.name == user,
            "GroupBinding" => self.users.iter().any(|member| &**member == user),
            _ => false,
        }
    }
}

/// The access objects of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Two may have the same name: of these the later counts.
    pub(crate) roles: Vec<RoleRecord>,
    pub(crate) bindings: Vec<BindingRecord>,
    pub(crate) rule_sets: Vec<RuleSet>,
    pub(crate) namespaces: BTreeMap<Text, NamespaceRecord>,
    /// DevOps projects, and the workspaces that they belong to.
    pub(crate) devops: BTreeMap<Text, Option<Text>>,
    /// The names of GroupBindings.
    pub(crate) group_bindings: BTreeSet<Text>,
    /// The users in each group.
    pub(crate) members: BTreeMap<Text, BTreeSet<Text>>,
    pub(crate) users: BTreeSet<Text>,
    /// Workspaces, and who manages each.
    pub(crate) workspaces: BTreeMap<Text, Option<Text>>,
    /// By kind, namespace and name.
    pub(crate) federated: Vec<FederatedRecord>,
    /// KubeSphere's, as its ClusterConfiguration says it.
    pub(crate) version: Option<Text>,
    /// Objects that were read twice, but for roles and bindings: kind, namespace, name.
    pub(crate) twice: BTreeSet<(&'static str, Text, Text)>,
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

/// What was read under a name.
#[derive(Debug)]
struct Named<T> {
    namespace: Text,
    name: Text,
    position: Position,
    what: T,
}

/// Everything that was read of a kind.
#[derive(Debug)]
struct Read<T>(Vec<Named<T>>);

impl<T> Default for Read<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Read<T> {
    /// What counts, by name. Names that are there twice are put into `twice`.
    fn settle(
        mut self,
        kind: &'static str,
        twice: &mut BTreeSet<(&'static str, Text, Text)>,
    ) -> impl Iterator<Item = (Text, T)> {
        fn key<T>(named: &Named<T>) -> (&str, &str) {
            (&named.namespace, &named.name)
        }
        self.0
            .sort_by(|a, b| (key(a), a.position).cmp(&(key(b), b.position)));
        // Of equal ones the later is kept: the latest comes last.
        self.0.dedup_by(|next, kept| {
            let is_twice = key(next) == key(kept);
            if is_twice {
                twice.insert((kind, Text::clone(&kept.namespace), Text::clone(&kept.name)));
                std::mem::swap(next, kept);
            }
            is_twice
        });
        self.0.into_iter().map(|named| (named.name, named.what))
    }
}

/// What was read of the kinds that are looked up by name, before it is settled which of two counts.
#[derive(Debug, Default)]
struct Unsettled {
    namespaces: Read<NamespaceRecord>,
    devops: Read<Option<Text>>,
    users: Read<()>,
    /// The group, and who is in it.
    group_bindings: Read<(Option<Text>, Vec<Text>)>,
    /// Who manages each.
    workspaces: Read<Option<Text>>,
    workspace_templates: Read<Option<Text>>,
    /// The version that each says.
    configurations: Read<Option<Text>>,
    /// In the order of [`FEDERATED_KINDS`].
    federated: [Read<FederatedRecord>; FEDERATED_KINDS.len()],
}

/// Puts [`Records`] together, one object after the other, in any order. Of two objects with the same name the later
/// counts.
#[derive(Debug, Default)]
pub struct Loader {
    records: Records,
    unsettled: Unsettled,
    texts: FastSet<Text>,
    /// Rule lists by how they are written.
    rule_texts: FastMap<Box<str>, usize>,
    /// Of the object that was read last.
    position: Position,
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
    pub(crate) dependencies: Option<&'p str>,
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
        FEDERATED_GROUP => FEDERATED_KINDS.contains(&kind),
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
        let (subjects, users) = (items(at("/subjects")), items(at("/users")));
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
            dependencies: meta("annotations", DEPENDENCIES),
            rules: rules.as_deref(),
            role_kind: text(at("/roleRef/kind")),
            role: text(at("/roleRef/name")),
            subjects: subjects
                .iter()
                .map(|subject| ["kind", "namespace", "name"].map(|field| text(subject.get(field))))
                .collect(),
            users: users.iter().filter_map(Value::as_str).collect(),
            group_ref: at("/groupRef/name").and_then(Value::as_str),
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

    /// Says in which line of a dump the objects are that come next, for loaders that read shares of it.
    pub fn at(&mut self, line: usize) {
        self.position = (line as Position) << 32;
    }

    fn named<T>(&mut self, parts: &Parts<'_>, what: T) -> Named<T> {
        Named {
            namespace: self.text(parts.namespace),
            name: self.text(parts.name),
            position: self.position,
            what,
        }
    }

    pub(crate) fn take(&mut self, parts: Parts<'_>) {
        self.position += 1;
        match (parts.group, parts.kind) {
            ("", _) => {
                let record = NamespaceRecord {
                    workspace: self.some(parts.workspace),
                    devops: self.some(parts.devops),
                };
                let named = self.named(&parts, record);
                self.unsettled.namespaces.0.push(named);
            }
            (IAM_GROUP, "User") => {
                let named = self.named(&parts, ());
                self.unsettled.users.0.push(named);
            }
            (IAM_GROUP, "GroupBinding") => {
                let group = self.some(parts.group_ref);
                let users = self.texts(&parts.users);
                let named = self.named(&parts, (group, users));
                self.unsettled.group_bindings.0.push(named);
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
                let named = self.named(&parts, version);
                self.unsettled.configurations.0.push(named);
            }
            (TENANT_GROUP, kind) => {
                let manager = self.some(parts.manager.filter(|manager| !manager.is_empty()));
                let named = self.named(&parts, manager);
                let read = match kind {
                    "Workspace" => &mut self.unsettled.workspaces,
                    _ => &mut self.unsettled.workspace_templates,
                };
                read.0.push(named);
            }
            (DEVOPS_GROUP, _) => {
                let workspace = self.some(parts.workspace);
                let named = self.named(&parts, workspace);
                self.unsettled.devops.0.push(named);
            }
            (FEDERATED_GROUP, kind) => self.federated(kind, &parts),
            _ => {}
        }
    }

    fn texts(&mut self, texts: &[&str]) -> Vec<Text> {
        texts.iter().map(|text| self.text(text)).collect()
    }

    fn federated(&mut self, kind: &str, parts: &Parts<'_>) {
        let Some(place) = FEDERATED_KINDS.iter().position(|known| *known == kind) else {
            return;
        };
        let record = FederatedRecord {
            kind: FEDERATED_KINDS[place],
            namespace: self.text(parts.namespace),
            name: self.text(parts.name),
            workspace: self.some(parts.workspace),
            clusters: self.texts(&parts.clusters),
            is_template: parts.template.is_some_and(|label| !label.is_empty()),
            aggregation: self.some(parts.aggregation.filter(|text| !text.trim().is_empty())),
            role: self.some(Some(parts.role).filter(|role| !role.is_empty())),
            users: self.texts(&parts.users),
        };
        let named = self.named(parts, record);
        self.unsettled.federated[place].0.push(named);
    }

    fn role(&mut self, kind: &'static str, parts: &Parts<'_>) {
        let is_template = parts.template.is_some_and(|label| !label.is_empty());
        let record = RoleRecord {
            kind,
            namespace: self.text(if kind == "Role" { parts.namespace } else { "" }),
            name: self.text(parts.name),
            workspace: self.some(parts.workspace),
            is_template,
            aggregation: self.some(parts.aggregation.filter(|text| !text.trim().is_empty())),
            rego: self.some(parts.rego.filter(|text| !text.is_empty())),
            dependencies: self.some(parts.dependencies.filter(|_| is_template)),
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

    /// Takes over what another loader has read. Which of two objects is the later, the lines say that both were given.
    pub fn absorb(&mut self, other: Self) {
        if self.position == 0 {
            // Nothing was read yet.
            *self = other;
            return;
        }
        let Self {
            mut records,
            mut unsettled,
            rule_texts,
            texts: _,
            position,
        } = other;
        self.position = self.position.max(position);
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
        let own = &mut self.unsettled;
        own.namespaces.0.append(&mut unsettled.namespaces.0);
        own.devops.0.append(&mut unsettled.devops.0);
        own.users.0.append(&mut unsettled.users.0);
        own.group_bindings.0.append(&mut unsettled.group_bindings.0);
        own.workspaces.0.append(&mut unsettled.workspaces.0);
        own.workspace_templates
            .0
            .append(&mut unsettled.workspace_templates.0);
        own.configurations.0.append(&mut unsettled.configurations.0);
        for (own, other) in own.federated.iter_mut().zip(&mut unsettled.federated) {
            own.0.append(&mut other.0);
        }
    }

    pub fn finish(self) -> Records {
        let Self {
            mut records,
            unsettled: read,
            ..
        } = self;
        records.roles.sort_by_key(|role| role.position);
        records.bindings.sort_by_key(|binding| binding.position);
        let twice = &mut records.twice;
        records.namespaces = read.namespaces.settle("Namespace", twice).collect();
        records.devops = read.devops.settle("DevOpsProject", twice).collect();
        let users = read.users.settle("User", twice);
        records.users = users.map(|(name, ())| name).collect();
        for (name, (group, users)) in read.group_bindings.settle("GroupBinding", twice) {
            records.group_bindings.insert(name);
            if let Some(group) = group {
                records.members.entry(group).or_default().extend(users);
            }
        }
        // A workspace's manager is who the workspace itself says, and its template where that says nothing.
        records.workspaces = read
            .workspace_templates
            .settle("WorkspaceTemplate", twice)
            .collect();
        for (name, manager) in read.workspaces.settle("Workspace", twice) {
            let known = records.workspaces.entry(name).or_default();
            *known = manager.or(known.take());
        }
        let configurations = read.configurations;
        let saying = configurations.0.iter().filter(|read| read.what.is_some());
        let latest = saying.max_by_key(|read| read.position);
        records.version = latest.and_then(|read| read.what.clone());
        configurations
            .settle("ClusterConfiguration", twice)
            .for_each(drop);
        for (kind, read) in FEDERATED_KINDS.into_iter().zip(read.federated) {
            let settled = read.settle(kind, twice).map(|(_, record)| record);
            records.federated.extend(settled);
        }
        records
    }
}
