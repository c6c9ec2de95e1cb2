//! What a release ships: role templates, built-in roles and bindings, RoleBases.

use std::collections::BTreeMap;

use object::{Object, ObjectKey};
use serde::Deserialize;

use crate::{AGGREGATION, Grants, Level, Policy, Rule, TEMPLATE, rule::parse_rules};

/// The labels of a RoleBase that choose the namespaces in which the controllers make its role.
const SCOPE_PROJECT: &str = "scope.kubesphere.io/namespace";
const SCOPE_DEVOPS: &str = "scope.kubesphere.io/devops";
const MODULE: &str = "iam.kubesphere.io/module";
const ALIAS: &str = "kubesphere.io/alias-name";

/// A release's access.yaml as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessFile {
    /// The release (`v3.2.1`) of whose objects this file says only what differs. See [`AccessFile::into_catalog`].
    #[serde(default)]
    pub base: Option<String>,
    /// Objects of the base that this release does not have.
    #[serde(default)]
    pub without: Vec<Without>,
    #[serde(default)]
    pub policy: Policy,
    /// In the order in which they are applied.
    pub objects: Vec<Object>,
}

/// Names an object of the base.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Without {
    kind: String,
    name: String,
}

/// Why an access.yaml is no catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the base {0} is not given")]
    NoBase(String),
    #[error("there is no {kind} {name} in the base")]
    NotInBase { kind: String, name: String },
    #[error("{0} is there twice")]
    Twice(ObjectKey),
    #[error("the rules of {object} are unreadable")]
    ReadRules {
        object: ObjectKey,
        #[source]
        source: serde_json::Error,
    },
    #[error("{0} holds no role")]
    NoRole(ObjectKey),
    #[error("the policy names {0}, which is not in the catalog")]
    PolicyNames(String),
}

impl AccessFile {
    /// The release's catalog and policy. `base` is the catalog of [`AccessFile::base`], where there is one.
    ///
    /// # Errors
    /// The base is missing, or the file contradicts itself or its base.
    pub fn into_catalog(self, base: Option<&Catalog>) -> Result<(Catalog, Policy), CatalogError> {
        let mut objects = match (self.base, base) {
            (None, _) => Vec::new(),
            (Some(name), None) => return Err(CatalogError::NoBase(name)),
            (Some(_), Some(base)) => base.objects.clone(),
        };
        for Without { kind, name } in self.without {
            let before = objects.len();
            objects.retain(|object| !(object.kind() == kind && object.name() == name));
            if objects.len() == before {
                return Err(CatalogError::NotInBase { kind, name });
            }
        }
        let mut places: BTreeMap<ObjectKey, (usize, bool)> = objects
            .iter()
            .enumerate()
            .map(|(place, object)| (object.key(), (place, false)))
            .collect();
        for object in self.objects {
            match places.get_mut(&object.key()) {
                Some((_, true)) => return Err(CatalogError::Twice(object.key())),
                Some((place, seen)) => {
                    *seen = true;
                    objects[*place] = object;
                }
                None => {
                    places.insert(object.key(), (objects.len(), true));
                    objects.push(object);
                }
            }
        }
        let catalog = Catalog::new(objects)?;
        catalog.check(&self.policy)?;
        Ok((catalog, self.policy))
    }
}

/// A role of a release, template or built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// As custom roles name it. A built-in workspace role is called `{workspace}-admin` here.
    pub name: String,
    /// What the console calls it, `Users Management`.
    pub alias: Option<String>,
    /// The console's group that it stands in, `Access Control`.
    pub module: Option<String>,
    pub rules: Vec<Rule>,
    /// What the rules allow.
    pub grants: Grants,
    /// The templates that a built-in role is put together from.
    pub aggregates: Vec<String>,
    /// Whether it carries the template label; else it is a built-in role.
    pub is_template: bool,
}

impl Template {
    /// `Access Control: Users Management`; where the release gives no words, the name.
    pub fn words(&self) -> String {
        match (&self.module, &self.alias) {
            (Some(module), Some(alias)) => format!("{module}: {alias}"),
            (None, Some(alias)) => alias.clone(),
            _ => self.name.clone(),
        }
    }
}

/// All access objects of one release.
#[derive(Clone, Debug)]
pub struct Catalog {
    objects: Vec<Object>,
    roles: BTreeMap<Level, BTreeMap<String, Template>>,
}

impl Catalog {
    fn new(objects: Vec<Object>) -> Result<Self, CatalogError> {
        let mut catalog = Self {
            objects: Vec::new(),
            roles: BTreeMap::new(),
        };
        for object in &objects {
            match object.kind() {
                "GlobalRole" => catalog.insert(Level::Platform, object, object.name())?,
                "WorkspaceRole" => catalog.insert(Level::Workspace, object, object.name())?,
                "ClusterRole" => catalog.insert(Level::Cluster, object, object.name())?,
                "RoleBase" => catalog.insert_base(object)?,
                _ => {}
            }
        }
        catalog.objects = objects;
        Ok(catalog)
    }

    fn insert(&mut self, level: Level, role: &Object, name: &str) -> Result<(), CatalogError> {
        let rules = parse_rules(role.get("/rules")).map_err(|source| CatalogError::ReadRules {
            object: role.key(),
            source,
        })?;
        let template = Template {
            name: name.to_owned(),
            alias: role.annotation(ALIAS).map(str::to_owned),
            module: role.annotation(MODULE).map(str::to_owned),
            grants: Grants::of(&rules),
            rules,
            aggregates: role
                .annotation(AGGREGATION)
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default(),
            is_template: role.label(TEMPLATE).is_some_and(|label| !label.is_empty()),
        };
        let before = self
            .roles
            .entry(level)
            .or_default()
            .insert(name.to_owned(), template);
        match before {
            Some(_) => Err(CatalogError::Twice(role.key())),
            None => Ok(()),
        }
    }

    fn insert_base(&mut self, base: &Object) -> Result<(), CatalogError> {
        let no_role = || CatalogError::NoRole(base.key());
        let role = base.get("/role").cloned().ok_or_else(no_role)?;
        let role = Object::try_from(role).map_err(|_| no_role())?;
        match role.kind() {
            "GlobalRole" => self.insert(Level::Platform, &role, role.name()),
            "ClusterRole" => self.insert(Level::Cluster, &role, role.name()),
            "WorkspaceRole" => {
                self.insert(Level::Workspace, &role, &format!("{{workspace}}-{}", role.name()))
            }
            "Role" => {
                for (label, level) in [
                    (SCOPE_PROJECT, Level::Project),
                    (SCOPE_DEVOPS, Level::DevopsProject),
                ] {
                    if base.label(label).is_some() {
                        self.insert(level, &role, role.name())?;
                    }
                }
                Ok(())
            }
            _ => Err(no_role()),
        }
    }

    /// Roles that the policy sends people to have to exist.
    fn check(&self, policy: &Policy) -> Result<(), CatalogError> {
        for role in &policy.removed_roles {
            if self.role(Level::Platform, &role.replacement, None).is_none() {
                return Err(CatalogError::PolicyNames(role.replacement.clone()));
            }
        }
        for (level, renamed) in &policy.renamed_templates {
            for name in renamed.values() {
                if self.template(*level, name).is_none() {
                    return Err(CatalogError::PolicyNames(name.clone()));
                }
            }
        }
        Ok(())
    }

    /// All objects, in the order in which they are applied.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter()
    }

    /// All role templates of a level.
    pub fn templates(&self, level: Level) -> impl Iterator<Item = &Template> {
        let roles = self.roles.get(&level).into_iter().flat_map(BTreeMap::values);
        roles.filter(|role| role.is_template)
    }

    /// A role template by its name.
    pub fn template(&self, level: Level, name: &str) -> Option<&Template> {
        self.roles
            .get(&level)?
            .get(name)
            .filter(|template| template.is_template)
    }

    /// A role of the release, template or built in, by the name it has in a cluster. `workspace` is the one that a
    /// WorkspaceRole belongs to.
    pub fn role(&self, level: Level, name: &str, workspace: Option<&str>) -> Option<&Template> {
        let roles = self.roles.get(&level)?;
        roles.get(name).or_else(|| {
            let rest = name.strip_prefix(workspace?)?;
            roles.get(&format!("{{workspace}}{rest}"))
        })
    }
}
