//! [`Question`] and [`Answer`]: may somebody do this?

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The scope of a request, as ks-apiserver takes it from its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestScope {
    #[default]
    Global,
    Cluster,
    Workspace,
    Namespace,
    DevOps,
}

impl RequestScope {
    /// As Rego policies see it: `Global`
    pub(crate) fn word(self) -> &'static str {
        match self {
            RequestScope::Global => "Global",
            RequestScope::Cluster => "Cluster",
            RequestScope::Workspace => "Workspace",
            RequestScope::Namespace => "Namespace",
            RequestScope::DevOps => "DevOps",
        }
    }
}

/// May `user` do this? Absent texts are empty. Unknown fields are an error: a misspelt one would change the question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question<'q> {
    #[serde(borrow)]
    pub user: Cow<'q, str>,
    /// Besides those that GroupBindings put the user into, and those that Kubernetes puts everybody or every service
    /// account into.
    #[serde(borrow, default)]
    pub groups: Vec<Cow<'q, str>>,
    #[serde(borrow)]
    pub verb: Cow<'q, str>,
    #[serde(borrow, default)]
    pub api_group: Cow<'q, str>,
    #[serde(borrow, default)]
    pub resource: Cow<'q, str>,
    #[serde(borrow, default)]
    pub subresource: Cow<'q, str>,
    #[serde(borrow, default)]
    pub name: Cow<'q, str>,
    pub scope: RequestScope,
    #[serde(borrow, default)]
    pub workspace: Cow<'q, str>,
    #[serde(borrow, default)]
    pub namespace: Cow<'q, str>,
    #[serde(borrow, default)]
    pub devops: Cow<'q, str>,
    /// Not empty: a request that is about no resource.
    #[serde(borrow, default)]
    pub path: Cow<'q, str>,
    /// Whether it goes to Kubernetes' API (`/api`, `/apis`) rather than KubeSphere's own (`/kapis`). Only Rego policies
    /// ask; not said, what depends on it cannot be decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_request: Option<bool>,
}

const ANONYMOUS: &str = "system:anonymous";

impl Question<'_> {
    /// Who asks; nobody in particular is `system:anonymous`.
    pub(crate) fn user_name(&self) -> &str {
        match &*self.user {
            "" => ANONYMOUS,
            user => user,
        }
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.user_name() == ANONYMOUS || self.groups.iter().any(|group| group == "system:unauthenticated")
    }
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// `None`: it cannot be decided.
    pub allowed: Option<bool>,
    /// `GlobalRoleBinding u-platform-admin → GlobalRole platform-admin, rule 0`
    pub reason: Cow<'static, str>,
}

impl Answer {
    pub fn undecided(why: &str) -> Self {
        Self {
            allowed: None,
            reason: format!("cannot be decided: {why}").into(),
        }
    }
}
