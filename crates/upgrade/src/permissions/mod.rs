//! What the installer in the cluster must be allowed to do. Nobody writes it down by hand: it follows from what the
//! releases hold, from what is read, and from the books that a run keeps.
//!
//! ```text
//!   releases: manifests, role templates, policy ─┐
//!   kinds in scope of an upgrade ────────────────┼─▶ Rights ─▶ rules ─▶ deploy/kubesphere-installer.yaml
//!   lease, journal, backup, events ──────────────┘        └──▶ docs/permissions.md
//! ```

mod collect;
mod deploy;
mod document;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use release::{Files, LoadError, Releases, RenderError};

use crate::{Finding, Permission};

pub(crate) use deploy::definition;
pub use deploy::{definition_key, manifest};
pub use document::document;
pub use rules::Rule;

/// What is read besides the release's objects.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// API group and kind, wherever objects are.
    pub everywhere: Vec<(String, String)>,
    /// API group and kind, in the platform's own namespaces.
    pub platform: Vec<(String, String)>,
}

/// Whose rights: one place and one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The namespace; `None` for the whole cluster.
    pub namespace: Option<String>,
    pub group: String,
    /// Plural, `*` for all of the group.
    pub resource: String,
    /// Only objects of these names; all where it is empty.
    pub names: BTreeSet<String>,
}

/// What may be done there, each verb with why.
pub type Verbs = BTreeMap<String, BTreeSet<Why>>;

/// Why something must be allowed, and for which objects, where these are known by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Why {
    pub reason: Reason,
    /// `ks-apiserver`
    pub object: Option<String>,
}

/// Why something must be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Release,
    Templates,
    Namespaces,
    Drift,
    Dropped,
    SwitchedOff,
    Relabel,
    UserRoles,
    UserBindings,
    RemovedRoles,
    Escalate,
    Bind,
    OldInstaller,
    Generated,
    HelmRecord,
    Read,
    ReadPlatform,
    ReadGroup,
    Rollout,
    Configuration,
    Lease,
    Journal,
    Backup,
    Events,
}

impl Reason {
    /// In words, for who audits it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Release => "The release's objects are applied",
            Self::Templates => "The release's role templates and built-in roles are applied",
            Self::Namespaces => "Every namespace gets its name as a label, by which network policies choose",
            Self::Drift => "The release's objects are watched, so that nobody changes them unnoticed",
            Self::Dropped => "Objects of an earlier release that this one no longer has are deleted",
            Self::SwitchedOff => "Objects of a component that is switched off are deleted, but for its data",
            Self::Relabel => {
                "Objects of others get the labels that the release looks for: people's rules, nodes with GPUs"
            }
            Self::UserRoles => "Custom roles, whatever their name and place, lose what the release revokes",
            Self::UserBindings => "Bindings to roles that the release removes get their replacement",
            Self::RemovedRoles => "Roles that the release removes are deleted when nothing refers to them",
            Self::Escalate => {
                "Nobody may write a role without holding all that it grants; custom roles may grant anything, the release's grant wildcards"
            }
            Self::Bind => "Nobody may bind a role without holding all that it grants; the release binds it",
            Self::OldInstaller => "An installer that was there before is stopped",
            Self::Generated => "Secrets are made where they are missing",
            Self::HelmRecord => "Helm's record gets a further revision",
            Self::Read => "Decided on, backed up",
            Self::ReadPlatform => {
                "Decided on, backed up, in the platform's namespaces only; no rule can say how names begin"
            }
            Self::ReadGroup => {
                "Decided on, backed up; a wildcard, since the group's kinds depend on release and components"
            }
            Self::Rollout => "The reason why a rollout does not end is read",
            Self::Configuration => "Settings are followed, converted in place, and the status is written",
            Self::Lease => "One run at a time, one leader among the replicas",
            Self::Journal => "Every run is journaled",
            Self::Backup => "Backups are kept as Secrets, and old ones removed",
            Self::Events => "Events tell what happens to the ClusterConfiguration",
        }
    }
}

/// Everything that the installer in the cluster must be allowed to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    needs: BTreeMap<Subject, Verbs>,
    /// Roles of the release, each with the first rule of it that is a wildcard.
    pub wildcards: BTreeMap<String, String>,
}

/// Why the rights cannot be computed: a fault of the release.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    #[error("there is no release")]
    NoRelease,
    #[error("{release}: {}", .findings.first().map_or("its settings cannot be read", |f| f.message.as_str()))]
    ReadSettings { release: String, findings: Vec<Finding> },
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error(transparent)]
    LoadCatalog(#[from] LoadError),
}

/// The rights that it takes to bring a cluster to the newest release, from any earlier one or from nothing, whatever the
/// settings. `is_platform_group` says of which API groups everything is read.
///
/// # Errors
/// The release does not render, or its catalog does not load.
pub fn rights(
    releases: &Releases,
    files: &Files,
    reads: &Reads,
    is_platform_group: impl Fn(&str) -> bool,
) -> Result<Rights, RightsError> {
    collect::collect(releases, files, reads, &is_platform_group)
}

impl Rights {
    /// In order of place, group and resource.
    pub fn iter(&self) -> impl Iterator<Item = (&Subject, &Verbs)> {
        self.needs.iter()
    }

    /// The namespaces in which rights are held that do not count elsewhere.
    pub fn namespaces(&self) -> BTreeSet<&str> {
        self.needs
            .keys()
            .filter_map(|subject| subject.namespace.as_deref())
            .collect()
    }

    /// Whether something is allowed.
    pub fn allows(&self, permission: &Permission) -> bool {
        self.needs.iter().any(|(subject, verbs)| {
            let names = &subject.names;
            (subject.namespace.is_none() || subject.namespace == permission.namespace)
                && subject.group == permission.group
                && (subject.resource == "*" || subject.resource == permission.resource)
                && (names.is_empty() || permission.name.as_ref().is_some_and(|name| names.contains(name)))
                && verbs.contains_key(&permission.verb)
        })
    }
}

#[cfg(test)]
mod tests;
