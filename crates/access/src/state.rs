//! The roles and bindings of a cluster, indexed. Everything is borrowed from its records.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

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
    /// Its place in [`State::shapes`].
    pub(crate) shape: usize,
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
    pub(crate) record: &'a BindingRecord,
    /// The place of the role in [`State::roles`], where it exists.
    pub(crate) found: Option<usize>,
}

impl<'a> Binding<'a> {
    pub(crate) fn subjects(&self) -> impl Iterator<Item = SubjectId<'a>> {
        self.record.subjects.iter().map(|subject| SubjectId {
            kind: &subject.kind,
            namespace: &subject.namespace,
            name: &subject.name,
        })
    }
}

/// Indexed objects, in an order that does not depend on the one in which they came.
#[derive(Debug)]
pub(crate) struct State<'a> {
    pub(crate) records: &'a Records,
    /// By their names.
    pub(crate) roles: Vec<Role<'a>>,
    /// Of the roles with the same level, annotation and rules, the place of the first: most roles of a cluster are
    /// alike, and what follows from these is found once.
    pub(crate) shapes: Vec<usize>,
    /// By their names.
    pub(crate) bindings: Vec<Binding<'a>>,
    /// WorkspaceRoleBindings that name no workspace. They count nowhere.
    pub(crate) placeless: Vec<&'a BindingRecord>,
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
            roles: Vec::new(),
            shapes: Vec::new(),
            bindings: Vec::new(),
            placeless: Vec::new(),
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
        state.add_roles();
        state.add_bindings();
        state
    }

    fn add_roles(&mut self) {
        let records = self.records;
        let mut roles: Vec<_> = records
            .roles
            .iter()
            .map(|record| (role_id(record), record))
            .collect();
        // Stable, so that of two with the same name the later is the last.
        roles.par_sort_by_key(|(id, _)| *id);
        let mut shapes: FastMap<(Level, Option<usize>, usize), usize> = FastMap::default();
        let mut texts = TextNumbers::default();
        for (place, (id, record)) in roles.iter().copied().enumerate() {
            if roles.get(place + 1).is_some_and(|(next, _)| *next == id) {
                self.twice.insert((id.kind, id.namespace, id.name));
                continue;
            }
            // Namespaces are known by now; they tell the level of a Role.
            let level = self.level(id);
            let annotation = record.aggregation.as_deref().map(|text| texts.number(text));
            let likeness = (level, annotation, record.rules);
            let shape = *shapes.entry(likeness).or_insert_with(|| {
                self.shapes.push(self.roles.len());
                self.shapes.len() - 1
            });
            self.roles.push(Role {
                id,
                level,
                workspace: record.workspace.as_deref(),
                record,
                set: &records.rule_sets[record.rules],
                shape,
            });
        }
    }

    fn add_bindings(&mut self) {
        let places = self.roles.iter().enumerate();
        let places: FastMap<RoleId<'_>, usize> = places.map(|(place, role)| (role.id, place)).collect();
        let mut records: Vec<_> = self.records.bindings.iter().collect();
        let name = |record: &&'a BindingRecord| (record.kind, &*record.namespace, &*record.name);
        records.par_sort_by_key(name);
        self.bindings.reserve(records.len());
        for (index, record) in records.iter().copied().enumerate() {
            if records
                .get(index + 1)
                .is_some_and(|next| name(next) == name(&record))
            {
                self.twice.insert(name(&record));
                continue;
            }
            let Some(mut binding) = binding(record) else {
                self.placeless.push(record);
                continue;
            };
            binding.found = places.get(&binding.role).copied();
            self.bindings.push(binding);
        }
    }

    pub(crate) fn role(&self, id: RoleId<'_>) -> Option<&Role<'a>> {
        let place = self.roles.binary_search_by_key(&id, |role| role.id).ok()?;
        Some(&self.roles[place])
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

    pub(crate) fn namespace_level(&self, namespace: &str) -> Level {
        match self.namespaces.get(namespace) {
            Some(record) if record.devops.is_some() => Level::DevopsProject,
            _ => Level::Project,
        }
    }

    /// Whether a namespace belongs to a workspace or a DevOps project.
    pub(crate) fn is_kubespheres(&self, namespace: &str) -> bool {
        self.namespaces
            .get(namespace)
            .is_some_and(|record| record.workspace.is_some() || record.devops.is_some())
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

/// `None`: it counts nowhere.
fn binding(record: &BindingRecord) -> Option<Binding<'_>> {
    let namespace = &*record.namespace;
    let workspace = record.workspace.as_deref().filter(|name| !name.is_empty());
    let (own_kind, place) = match record.kind {
        "GlobalRoleBinding" => ("GlobalRole", Place::Platform),
        "WorkspaceRoleBinding" => ("WorkspaceRole", Place::Workspace(workspace?)),
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
    Some(Binding {
        place,
        role,
        record,
        found: None,
    })
}

fn role_id(record: &RoleRecord) -> RoleId<'_> {
    RoleId {
        kind: record.kind,
        namespace: &record.namespace,
        name: &record.name,
    }
}

/// Numbers texts. One that was seen at the same place in memory is not read again: annotations are long.
#[derive(Default)]
struct TextNumbers<'a> {
    addresses: FastMap<usize, usize>,
    texts: FastMap<&'a str, usize>,
}

impl<'a> TextNumbers<'a> {
    fn number(&mut self, text: &'a str) -> usize {
        *self.addresses.entry(text.as_ptr().addr()).or_insert_with(|| {
            let next = self.texts.len();
            *self.texts.entry(text).or_insert(next)
        })
    }
}
