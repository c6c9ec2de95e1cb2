//! Who loses and gains which permission.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Grant, Renamed};

/// Where a permission counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind", content = "name")]
pub enum Scope {
    Platform,
    Workspace(String),
    Cluster,
    /// The project's namespace.
    Project(String),
    /// The DevOps project's namespace.
    DevopsProject(String),
}

impl fmt::Display for Scope {
    /// `platform`, `workspace ws1`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Platform => f.write_str("platform"),
            Scope::Cluster => f.write_str("cluster"),
            Scope::Workspace(name) => write!(f, "workspace {name}"),
            Scope::Project(name) => write!(f, "project {name}"),
            Scope::DevopsProject(name) => write!(f, "DevOps project {name}"),
        }
    }
}

/// Why somebody's permissions change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "why")]
pub enum WhyChanged {
    RemovedRole { role: String, replacement: String },
    RevokedTemplates { role: String, templates: Vec<String> },
    RenamedTemplates { role: String, templates: Vec<Renamed> },
    ExtendedTemplates { role: String, templates: Vec<String> },
    ChangedBuiltInRole { role: String },
}

impl fmt::Display for WhyChanged {
    /// `role users-manager is removed, platform-regular takes its place`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyChanged::RemovedRole { role, replacement } => {
                write!(f, "role {role} is removed, {replacement} takes its place")
            }
            WhyChanged::RevokedTemplates { role, templates } => {
                write!(f, "role {role} loses {}", templates.join(", "))
            }
            WhyChanged::RenamedTemplates { role, templates } => {
                let names: Vec<_> = templates
                    .iter()
                    .map(|t| format!("{} becomes {}", t.from, t.to))
                    .collect();
                write!(f, "in role {role} {}", names.join(", "))
            }
            WhyChanged::ExtendedTemplates { role, templates } => {
                write!(f, "in role {role} the release extends {}", templates.join(", "))
            }
            WhyChanged::ChangedBuiltInRole { role } => write!(f, "the release changes role {role}"),
        }
    }
}

/// A permission that is lost or gained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionChange {
    /// In the words of the template, `Access Control: Users Management`. `None`: rules that no template gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Exactly what is lost or gained.
    pub grants: Vec<Grant>,
}

/// What changes for one user or group in one scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubjectImpact {
    /// `User`, `Group` or `ServiceAccount`
    pub kind: String,
    /// A service account's is `namespace/name`.
    pub name: String,
    /// The users in a group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    pub scope: Scope,
    pub lost: Vec<PermissionChange>,
    pub gained: Vec<PermissionChange>,
    pub reasons: Vec<WhyChanged>,
}

/// Whose effective permissions change, and what everyone who is logged in gains or loses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Impact {
    /// Sorted by scope, kind and name; only subjects for whom something changes.
    pub subjects: Vec<SubjectImpact>,
    /// What changes for groups that Kubernetes itself puts people into (`system:authenticated`), said once.
    pub everyone: Vec<SubjectImpact>,
}
