//! The roles and bindings of a cluster, indexed. Everything is borrowed from its objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use object::Object;
use serde_json::Value;

use crate::{AGGREGATION, DEVOPS_PROJECT, IAM_GROUP, Level, RBAC_GROUP, Scope, TEMPLATE, WORKSPACE};

/// Names one role. The namespace is empty for all kinds but Role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RoleId<'a> {
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// A user, group or service account. The namespace is empty for all but service accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SubjectId<'a> {
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> SubjectId<'a> {
    pub(crate) fn group(name: &'a str) -> Self {
        Self {
            kind: "Group",
            namespace: "",
            name,
        }
    }

    pub(crate) fn is_person(&self) -> bool {
        self.kind != "ServiceAccount" && !self.name.starts_with("system:")
    }
}

/// Where a binding counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place<'a> {
    Platform,
    Workspace(&'a str),
    Cluster,
    Namespace(&'a str),
}

/// What a role's aggregation annotation says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aggregation<'a> {
    None,
    Templates(Vec<String>),
    Unreadable(&'a str),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Role<'a> {
    pub(crate) id: RoleId<'a>,
    pub(crate) level: Level,
    pub(crate) workspace: Option<&'a str>,
    pub(crate) object: &'a Object,
}

impl<'a> Role<'a> {
    pub(crate) fn is_template(&self) -> bool {
        self.object.label(TEMPLATE).is_some_and(|label| !label.is_empty())
    }

    pub(crate) fn aggregation(&self) -> Aggregation<'a> {
        match self.object.annotation(AGGREGATION) {
            None => Aggregation::None,
            Some(text) if text.trim().is_empty() => Aggregation::None,
            Some(text) => match serde_json::from_str(text) {
                Ok(templates) => Aggregation::Templates(templates),
                Err(_) => Aggregation::Unreadable(text),
            },
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Binding<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) role: RoleId<'a>,
    pub(crate) subjects: Vec<SubjectId<'a>>,
    pub(crate) object: &'a Object,
}

/// Indexed objects, in an order that does not depend on the one in which they came.
#[derive(Debug, Default)]
pub(crate) struct State<'a> {
    pub(crate) roles: BTreeMap<RoleId<'a>, Role<'a>>,
    pub(crate) bindings: Vec<Binding<'a>>,
    pub(crate) namespaces: HashMap<&'a str, &'a Object>,
    /// The users in each group.
    pub(crate) members: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> State<'a> {
    pub(crate) fn new(objects: impl IntoIterator<Item = &'a Object>) -> Self {
        let mut state = Self::default();
        let mut roles = Vec::new();
        let mut bindings = Vec::new();
        for object in objects {
            match (object.group(), object.kind()) {
                ("", "Namespace") => {
                    state.namespaces.insert(object.name(), object);
                }
                (IAM_GROUP, "GlobalRole" | "WorkspaceRole") | (RBAC_GROUP, "ClusterRole" | "Role") => {
                    roles.push(object);
                }
                (IAM_GROUP, "GlobalRoleBinding" | "WorkspaceRoleBinding")
                | (RBAC_GROUP, "ClusterRoleBinding" | "RoleBinding") => bindings.push(object),
                (IAM_GROUP, "GroupBinding") => state.add_members(object),
                _ => {}
            }
        }
        // Namespaces are known by now; they tell the level of a Role.
        for object in roles {
            let id = RoleId {
                kind: object.kind(),
                namespace: object.namespace().unwrap_or_default(),
                name: object.name(),
            };
            let role = Role {
                id,
                level: state.level(id),
                workspace: object.label(WORKSPACE),
                object,
            };
            state.roles.insert(id, role);
        }
        state.bindings = bindings.into_iter().map(binding).collect();
        state.bindings.sort_by_key(|binding| {
            let object = binding.object;
            (object.kind(), object.namespace(), object.name())
        });
        state
    }

    fn add_members(&mut self, binding: &'a Object) {
        let Some(group) = binding.get_str("/groupRef/name") else {
            return;
        };
        let users = binding.get("/users").and_then(Value::as_array);
        self.members
            .entry(group)
            .or_default()
            .extend(users.into_iter().flatten().filter_map(Value::as_str));
    }

    /// The level that a role is of; for one in a namespace that is decided by the namespace.
    pub(crate) fn level(&self, id: RoleId<'_>) -> Level {
        match id.kind {
            "GlobalRole" => Level::Platform,
            "WorkspaceRole" => Level::Workspace,
            "ClusterRole" => Level::Cluster,
            _ => self.namespace_level(id.namespace),
        }
    }

    fn namespace_level(&self, namespace: &str) -> Level {
        match self.namespaces.get(namespace) {
            Some(object) if object.label(DEVOPS_PROJECT).is_some() => Level::DevopsProject,
            _ => Level::Project,
        }
    }

    pub(crate) fn scope(&self, place: Place<'_>) -> Scope {
        match place {
            Place::Platform => Scope::Platform,
            Place::Cluster => Scope::Cluster,
            Place::Workspace(name) => Scope::Workspace(name.to_owned()),
            Place::Namespace(name) => match self.namespace_level(name) {
                Level::DevopsProject => Scope::DevopsProject(name.to_owned()),
                _ => Scope::Project(name.to_owned()),
            },
        }
    }

    /// The places whose bindings count in this one too.
    pub(crate) fn wider(&self, place: Place<'a>) -> Vec<Place<'a>> {
        match place {
            Place::Platform => Vec::new(),
            Place::Cluster => vec![Place::Platform],
            Place::Workspace(_) => vec![Place::Platform, Place::Cluster],
            Place::Namespace(name) => {
                let workspace = self.namespaces.get(name).and_then(|n| n.label(WORKSPACE));
                let workspace = workspace.map(Place::Workspace);
                [Place::Platform, Place::Cluster]
                    .into_iter()
                    .chain(workspace)
                    .collect()
            }
        }
    }
}

fn binding(object: &Object) -> Binding<'_> {
    let (own_kind, place) = match object.kind() {
        "GlobalRoleBinding" => ("GlobalRole", Place::Platform),
        "WorkspaceRoleBinding" => (
            "WorkspaceRole",
            Place::Workspace(object.label(WORKSPACE).unwrap_or_default()),
        ),
        "ClusterRoleBinding" => ("ClusterRole", Place::Cluster),
        _ => ("Role", Place::Namespace(object.namespace().unwrap_or_default())),
    };
    let kind = match (own_kind, object.get_str("/roleRef/kind")) {
        ("Role", Some("ClusterRole")) => "ClusterRole",
        _ => own_kind,
    };
    let role = RoleId {
        kind,
        namespace: if kind == "Role" {
            object.namespace().unwrap_or_default()
        } else {
            ""
        },
        name: object.get_str("/roleRef/name").unwrap_or_default(),
    };
    let subjects = object.get("/subjects").and_then(Value::as_array);
    let subjects = subjects.into_iter().flatten().map(|subject| {
        let kind = text(subject, "kind");
        SubjectId {
            kind,
            namespace: if kind == "ServiceAccount" {
                text(subject, "namespace")
            } else {
                ""
            },
            name: text(subject, "name"),
        }
    });
    Binding {
        place,
        role,
        subjects: subjects.collect(),
        object,
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
