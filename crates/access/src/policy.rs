//! What a release does to the roles of earlier releases.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Where a role counts. Templates and built-in roles of one level mean nothing on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// GlobalRole
    Platform,
    /// WorkspaceRole
    Workspace,
    /// ClusterRole
    Cluster,
    /// Role in a project's namespace
    Project,
    /// Role in a DevOps project's namespace
    DevopsProject,
}

impl Level {
    pub const ALL: [Level; 5] = [
        Level::Platform,
        Level::Workspace,
        Level::Cluster,
        Level::Project,
        Level::DevopsProject,
    ];
}

/// A built-in role that the release no longer has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemovedRole {
    /// `GlobalRole`
    pub kind: String,
    pub name: String,
    /// Other spellings that bindings use, though no role is called so. Where one is, it is somebody's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The role of the same kind that bindings to it get.
    pub replacement: String,
}

/// What becomes of the roles and bindings of earlier releases. From `policy:` in a release's access.yaml.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    pub removed_roles: Vec<RemovedRole>,
    /// Templates that are taken out of custom roles.
    pub revoked_templates: BTreeMap<Level, BTreeSet<String>>,
    /// Templates that go by a new name, old to new.
    pub renamed_templates: BTreeMap<Level, BTreeMap<String, String>>,
    /// Templates that are deleted when nothing refers to them any more.
    pub removed_templates: BTreeMap<Level, BTreeSet<String>>,
    /// Exact names of built-in roles; `{workspace}` stands for the workspace that the role is in.
    pub built_in: BTreeMap<Level, BTreeSet<String>>,
}

/// The roles for people that Kubernetes itself brings to every cluster.
const KUBERNETES_OWN: [&str; 4] = ["admin", "cluster-admin", "edit", "view"];

/// Whether Kubernetes itself brings a ClusterRole.
pub(crate) fn is_kubernetes_own(name: &str) -> bool {
    name.starts_with("system:") || KUBERNETES_OWN.contains(&name)
}

impl Policy {
    /// The entry of a role that the release no longer has.
    pub fn removed_role(&self, kind: &str, name: &str) -> Option<&RemovedRole> {
        self.removed_roles
            .iter()
            .find(|role| role.kind == kind && role.name == name)
    }

    /// The same, by the name or an alias.
    pub(crate) fn removed_role_of(&self, kind: &str, name: &str) -> Option<&RemovedRole> {
        self.removed_role(kind, name).or_else(|| {
            self.removed_roles
                .iter()
                .find(|role| role.kind == kind && role.aliases.iter().any(|alias| alias == name))
        })
    }

    pub fn is_revoked(&self, level: Level, template: &str) -> bool {
        self.revoked_templates
            .get(&level)
            .is_some_and(|names| names.contains(template))
    }

    /// The new name of a template that goes by another.
    pub fn renamed(&self, level: Level, template: &str) -> Option<&str> {
        Some(self.renamed_templates.get(&level)?.get(template)?.as_str())
    }

    /// Whether a role of that name is one of the built-in ones of its own scope. Names that merely look alike
    /// (`team-admin` in workspace `ws`) are somebody's own.
    pub fn is_built_in(&self, level: Level, name: &str, workspace: Option<&str>) -> bool {
        let Some(names) = self.built_in.get(&level) else {
            return false;
        };
        names.contains(name)
            || workspace.is_some_and(|workspace| {
                name.strip_prefix(workspace)
                    .is_some_and(|rest| names.contains(&format!("{{workspace}}{rest}")))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_names_are_exact() {
        let policy = Policy {
            built_in: BTreeMap::from([
                (Level::Workspace, BTreeSet::from(["{workspace}-admin".to_owned()])),
                (Level::Project, BTreeSet::from(["admin".to_owned()])),
            ]),
            ..Policy::default()
        };
        let check = |level, name: &str, workspace, expect: bool| {
            assert_eq!(policy.is_built_in(level, name, workspace), expect, "{name}");
        };
        check(Level::Workspace, "ws1-admin", Some("ws1"), true);
        check(Level::Workspace, "ws1-billing-admin", Some("ws1"), false);
        check(Level::Workspace, "ws1-admin", Some("ws2"), false);
        check(Level::Workspace, "ws1-admin", Some("ws"), false);
        check(Level::Workspace, "ws1-admin", None, false);
        check(Level::Project, "admin", Some("ws1"), true);
        check(Level::Project, "release-admin", Some("ws1"), false);
        check(Level::Platform, "admin", None, false);
    }
}
