//! Who loses and gains which permission.

mod assess;
mod decisions;
mod held;
mod proof;
mod suggest;

use std::{collections::BTreeMap, fmt, ops::Deref, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Grant, IAM_GROUP, Renamed, Request, hash::FastSet};

pub(crate) use assess::assess;
pub(crate) use decisions::find_left_without;
pub(crate) use held::Held;
pub use proof::{Deviation, deviations};
pub use suggest::Suggestion;
pub(crate) use suggest::suggest;

/// Whoever may do this is all-powerful.
const EVERYTHING: Request<'_> = Request::Resource {
    verb: "*",
    api_group: "*",
    resource: "*",
    subresource: "",
    name: "",
};

/// A request for KubeSphere's own users, members and roles.
const fn iam_request<'q>(verb: &'q str, resource: &'q str) -> Request<'q> {
    Request::Resource {
        verb,
        api_group: IAM_GROUP,
        resource,
        subresource: "",
        name: "",
    }
}

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
    RevokedTemplates { role: String, templates: Arc<[String]> },
    RenamedTemplates { role: String, templates: Arc<[Renamed]> },
    ExtendedTemplates { role: String, templates: Arc<[String]> },
    ChangedBuiltInRole { role: String },
    BroughtRole { role: String },
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
            WhyChanged::BroughtRole { role } => {
                write!(f, "the release brings role {role}, which a binding already names")
            }
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

/// Permissions that are lost or gained. Cheap to clone: many people lose the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Changes(Arc<[PermissionChange]>);

impl Deref for Changes {
    type Target = [PermissionChange];

    fn deref(&self) -> &[PermissionChange] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Changes {
    type Item = &'a PermissionChange;
    type IntoIter = std::slice::Iter<'a, PermissionChange>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl From<Vec<PermissionChange>> for Changes {
    fn from(changes: Vec<PermissionChange>) -> Self {
        Self(changes.into())
    }
}

impl Changes {
    /// Equal for those that are one and the same in memory, so that what is made of them can be kept.
    pub fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }
}

/// What changes for somebody who goes to Kubernetes itself with a kubeconfig, where Roles and ClusterRoles alone
/// decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectChange {
    pub lost: Changes,
    pub gained: Changes,
}

impl DirectChange {
    pub fn is_none(&self) -> bool {
        self.lost.is_empty() && self.gained.is_empty()
    }
}

/// What somebody keeps, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kept(Arc<[String]>);

impl Deref for Kept {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

fn is_empty(kept: &Kept) -> bool {
    kept.is_empty()
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
    /// The groups through which a user is affected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub through: Vec<String>,
    /// By KubeSphere's authorisation.
    pub lost: Changes,
    pub gained: Changes,
    /// By Kubernetes' own, for who comes with kubectl and a kubeconfig.
    #[serde(default, skip_serializing_if = "DirectChange::is_none")]
    pub kubectl: DirectChange,
    /// What the bindings of this scope go on giving.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub kept: Kept,
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

/// How many are affected, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Users who lose something.
    pub users_losing: usize,
    /// Users for whom something changes.
    pub users_affected: usize,
    pub groups_affected: usize,
    pub service_accounts_affected: usize,
    /// Users by what happens: `RemovedRole`, `RevokedTemplates`, …
    pub users_by_reason: BTreeMap<String, usize>,
}

impl WhyChanged {
    /// `RemovedRole`
    pub fn reason(&self) -> &'static str {
        match self {
            WhyChanged::RemovedRole { .. } => "RemovedRole",
            WhyChanged::RevokedTemplates { .. } => "RevokedTemplates",
            WhyChanged::RenamedTemplates { .. } => "RenamedTemplates",
            WhyChanged::ExtendedTemplates { .. } => "ExtendedTemplates",
            WhyChanged::ChangedBuiltInRole { .. } => "ChangedBuiltInRole",
            WhyChanged::BroughtRole { .. } => "BroughtRole",
        }
    }
}

impl SubjectImpact {
    /// Whether anything is lost, through KubeSphere or with kubectl.
    pub fn loses(&self) -> bool {
        !self.lost.is_empty() || !self.kubectl.lost.is_empty()
    }
}

impl Impact {
    pub fn summary(&self) -> Summary {
        let mut affected: BTreeMap<&str, FastSet<&str>> = BTreeMap::new();
        let mut losing = FastSet::default();
        let mut reasons: BTreeMap<&str, FastSet<&str>> = BTreeMap::new();
        for subject in &self.subjects {
            affected.entry(&subject.kind).or_default().insert(&subject.name);
            if subject.kind != "User" {
                continue;
            }
            if subject.loses() {
                losing.insert(&*subject.name);
            }
            for why in &subject.reasons {
                reasons.entry(why.reason()).or_default().insert(&subject.name);
            }
        }
        let count = |kind| affected.get(kind).map_or(0, FastSet::len);
        Summary {
            users_losing: losing.len(),
            users_affected: count("User"),
            groups_affected: count("Group"),
            service_accounts_affected: count("ServiceAccount"),
            users_by_reason: reasons
                .into_iter()
                .map(|(reason, users)| (reason.to_owned(), users.len()))
                .collect(),
        }
    }
}
