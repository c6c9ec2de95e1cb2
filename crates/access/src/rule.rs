//! [`Rule`]: Kubernetes' PolicyRule.

use std::{ops::Deref, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::Request;

/// One rule of a role, as Kubernetes (`rbac.authorization.k8s.io/v1`, PolicyRule) and KubeSphere write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Empty: every name.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(
        rename = "nonResourceURLs",
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub non_resource_urls: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub verbs: Vec<String>,
}

/// A role's rules. Cheap to clone: many roles of a cluster have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleList(Arc<[Rule]>);

impl Deref for RuleList {
    type Target = [Rule];

    fn deref(&self) -> &[Rule] {
        &self.0
    }
}

impl From<Vec<Rule>> for RuleList {
    fn from(rules: Vec<Rule>) -> Self {
        Self(rules.into())
    }
}

/// `null` counts as an empty list: the API server gives it for lists that were written so.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

/// The rules in a role's `rules` field; absent and `null` are none.
///
/// # Errors
/// It is not a list of rules.
pub(crate) fn parse_rules(rules: Option<&Value>) -> Result<Vec<Rule>, serde_json::Error> {
    match rules {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(rules) => Vec::<Rule>::deserialize(rules),
    }
}

impl Rule {
    /// Whether the rule allows a request, matched as Kubernetes does.
    pub fn allows(&self, request: &Request<'_>) -> bool {
        let has = |list: &[String], name: &str| list.iter().any(|item| item == "*" || item == name);
        match *request {
            Request::Resource {
                verb,
                api_group,
                resource,
                subresource,
                name,
            } => {
                let matches = |pattern: &String| {
                    if pattern == "*" {
                        return true;
                    }
                    if subresource.is_empty() {
                        return pattern == resource;
                    }
                    pattern
                        .split_once('/')
                        .is_some_and(|(r, sub)| (r == "*" || r == resource) && sub == subresource)
                };
                has(&self.verbs, verb)
                    && has(&self.api_groups, api_group)
                    && self.resources.iter().any(matches)
                    && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == name))
            }
            Request::Url { verb, path } => has(&self.verbs, verb) && self.allows_url(path),
        }
    }

    /// Whether one of the URLs stands for a path.
    pub(crate) fn allows_url(&self, path: &str) -> bool {
        self.non_resource_urls
            .iter()
            .any(|url| url == path || (url.ends_with('*') && path.starts_with(url.trim_end_matches('*'))))
    }
}
