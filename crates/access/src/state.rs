//! The roles and bindings of a cluster, indexed. Everything is borrowed from its records.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Level, Rule, Scope,
    hash::FastMap,
    records::{BindingRecord, NamespaceRecord, Records, RoleRecord, RuleSet},
};

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

    pub(crate) fn user(name: &'a str) -> Self {
        Self {
            kind: "User",
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
    pub(crate) record: &'a RoleRecord,
    /// Equal ones are at the same place.
    pub(crate) set: &'a RuleSet,
}

impl<'a> Role<'a> {
    pub(crate) fn is_template(&self) -> bool {
        self.record.is_template
    }

    /// Unreadable rules grant nothing that anybody could tell.
    pub(crate) fn rules(&self) -> &'a [Rule] {
        &self.set.rules
    }

    pub(crate) fn aggregation(&self) -> Aggregation<'a> {
        match self.record.aggregation.as_deref() {
            None => Aggregation::None,
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
    pub(crate) record: &'a BindingRecord,
    /// The role, where it exists.
    pub(crate) found: Option<Role<'a>>,
}

/// Indexed objects, in an order that does not depend on the one in which they came.
#[derive(Debug)]
pub(crate) struct State<'a> {
    pub(crate) records: &'a Records,
    pub(crate) roles: BTreeMap<RoleId<'a>, Role<'a>>,
    pub(crate) bindings: Vec<Binding<'a>>,
    pub(crate) namespaces: FastMap<&'a str, &'a NamespaceRecord>,
    /// The users in each group.
    pub(crate) members: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// Objects that are there twice. Of each the later counts.
    pub(crate) twice: BTreeSet<(&'a str, &'a str, &'a str)>,
}

impl<'a> State<'a> {
    pub(crate) fn new(records: &'a Records) -> Self {
        let mut state = Self {
            records,
            roles: BTreeMap::new(),
            bindings: Vec::new(),
            namespaces: records
                .namespaces
                .iter()
                .map(|(name, record)| (&**name, record))
                .collect(),
            members: records
                .members
                .iter()
                .map(|(group, users)| (&**group, users.iter().map(|user| &**user).collect()))
                .collect(),
            twice: BTreeSet::new(),
        };
        let roles = records.roles.iter().map(|record| {
            let id = RoleId {
                kind: record.kind,
                namespace: &record.namespace,
                name: &record.name,
            };
            let role = Role {
                id,
                // Namespaces are known by now; they tell the level of a Role.
                level: state.level(id),
                workspace: record.workspace.as_deref(),
                record,
                set: &records.rule_sets[record.rules],
            };
            (id, role)
        });
        let mut roles: Vec<_> = roles.collect();
        // Stable, so that of two with the same name the later is the last.
        roles.sort_by_key(|(id, _)| *id);
        for pair in roles.windows(2) {
            if pair[0].0 == pair[1].0 {
                let id = pair[0].0;
                state.twice.insert((id.kind, id.namespace, id.name));
            }
        }
        let index: FastMap<RoleId<'_>, Role<'_>> = roles.iter().copied().collect();
        state.roles = roles.into_iter().collect();
        let mut bindings: Vec<_> = records.bindings.iter().collect();
        let name = |record: &&'a BindingRecord| (record.kind, &*record.namespace, &*record.name);
        bindings.sort_by_key(name);
        for record in bindings {
            if let Some(last) = state.bindings.last()
                && name(&last.record) == name(&record)
            {
                state.twice.insert(name(&record));
                state.bindings.pop();
            }
            let mut binding = binding(record);
            binding.found = index.get(&binding.role).copied();
            state.bindings.push(binding);
        }
        state
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
            Some(record) if record.devops.is_some() => Level::DevopsProject,
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
                let workspace = self.namespaces.get(name).and_then(|n| n.workspace.as_deref());
                let workspace = workspace.map(Place::Workspace);
                [Place::Platform, Place::Cluster]
                    .into_iter()
                    .chain(workspace)
                    .collect()
            }
        }
    }
}

fn binding(record: &BindingRecord) -> Binding<'_> {
    let namespace = &*record.namespace;
    let workspace = record.workspace.as_deref().unwrap_or_default();
    let (own_kind, place) = match record.kind {
        "GlobalRoleBinding" => ("GlobalRole", Place::Platform),
        "WorkspaceRoleBinding" => ("WorkspaceRole", Place::Workspace(workspace)),
        "ClusterRoleBinding" => ("ClusterRole", Place::Cluster),
        _ => ("Role", Place::Namespace(namespace)),
    };
    let kind = match (own_kind, &*record.role_kind) {
        ("Role", "ClusterRole") => "ClusterRole",
        _ => own_kind,
    };
    let role = RoleId {
        kind,
        namespace: if kind == "Role" { namespace } else { "" },
        name: &record.role,
    };
    let subjects = record.subjects.iter().map(|subject| SubjectId {
        kind: &subject.kind,
        namespace: &subject.namespace,
        name: &subject.name,
    });
    Binding {
        place,
        role,
        subjects: subjects.collect(),
        record,
        found: None,
    }
}
