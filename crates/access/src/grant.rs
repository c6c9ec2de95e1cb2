//! [`Grant`]: a product of sets of requests, and its algebra.

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Names, Rule};

/// A question that a rule answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Resource {
        verb: &'a str,
        api_group: &'a str,
        resource: &'a str,
        /// Empty: the resource itself.
        subresource: &'a str,
        /// Empty: the request names none.
        name: &'a str,
    },
    Url {
        verb: &'a str,
        path: &'a str,
    },
}

/// One product of sets: these verbs on these resources, or on these paths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Grant {
    Resources(ResourceGrant),
    Urls(UrlGrant),
}

/// Every one of `verbs` on every one of the resources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceGrant {
    pub verbs: Names,
    pub api_groups: Names,
    /// Without subresource, `pods`.
    pub resources: Names,
    /// `log`; the empty text is the resource itself.
    pub subresources: Names,
    pub resource_names: Names,
}

/// Every one of `verbs` on every path under `url` but those under `except`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UrlGrant {
    pub verbs: Names,
    pub url: UrlPattern,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub except: BTreeSet<UrlPattern>,
}

/// The paths that a non-resource URL in a rule stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum UrlPattern {
    Exact(String),
    Prefix(String),
}

impl From<String> for UrlPattern {
    fn from(url: String) -> Self {
        if url.ends_with('*') {
            UrlPattern::Prefix(url.trim_end_matches('*').to_owned())
        } else {
            UrlPattern::Exact(url)
        }
    }
}

impl From<UrlPattern> for String {
    fn from(url: UrlPattern) -> Self {
        url.to_string()
    }
}

impl fmt::Display for UrlPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UrlPattern::Exact(path) => f.write_str(path),
            UrlPattern::Prefix(path) => write!(f, "{path}*"),
        }
    }
}

impl UrlPattern {
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (UrlPattern::Prefix(prefix), UrlPattern::Exact(path) | UrlPattern::Prefix(path)) => {
                path.starts_with(prefix.as_str())
            }
            (UrlPattern::Exact(a), UrlPattern::Exact(b)) => a == b,
            (UrlPattern::Exact(_), UrlPattern::Prefix(_)) => false,
        }
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        match self {
            UrlPattern::Exact(exact) => exact == path,
            UrlPattern::Prefix(prefix) => path.starts_with(prefix.as_str()),
        }
    }
}

impl ResourceGrant {
    /// The sets, in an order in which differences read well.
    pub(crate) fn sets(&self) -> [&Names; 5] {
        [
            &self.subresources,
            &self.resources,
            &self.api_groups,
            &self.resource_names,
            &self.verbs,
        ]
    }

    pub(crate) fn from_sets(
        [subresources, resources, api_groups, resource_names, verbs]: [Names; 5],
    ) -> Self {
        Self {
            verbs,
            api_groups,
            resources,
            subresources,
            resource_names,
        }
    }

    fn is_empty(&self) -> bool {
        self.sets().into_iter().any(Names::is_empty)
    }

    fn is_disjoint(&self, other: &Self) -> bool {
        let (a, b) = (self.sets(), other.sets());
        let any = |is_disjoint: fn(&Names, &Names) -> bool| (0..a.len()).any(|i| is_disjoint(a[i], b[i]));
        any(Names::looks_disjoint) || any(Names::is_disjoint)
    }

    fn intersection(&self, other: &Self) -> Option<Self> {
        if self.is_disjoint(other) {
            return None;
        }
        let (a, b) = (self.sets(), other.sets());
        Some(Self::from_sets(std::array::from_fn(|i| a[i].intersection(b[i]))))
    }

    /// The part outside `other`, given that there is one in common: for each set what `other` lacks in it, with
    /// the sets before it narrowed to what both have.
    fn difference(&self, other: &Self) -> Vec<Self> {
        let mut left = self.sets().map(Names::clone);
        let mut rest = Vec::new();
        for (i, theirs) in other.sets().into_iter().enumerate() {
            let outside = left[i].difference(theirs);
            if outside.is_empty() {
                continue;
            }
            left[i] = left[i].intersection(theirs);
            let mut piece = left.clone();
            piece[i] = outside;
            rest.push(Self::from_sets(piece));
        }
        rest
    }

    fn merged(&self, other: &Self) -> Option<Self> {
        let (a, b) = (self.sets(), other.sets());
        let mut different = (0..a.len()).filter(|i| a[*i] != b[*i]);
        different
            .nth(1)
            .is_none()
            .then(|| Self::from_sets(std::array::from_fn(|i| a[i].union(b[i]))))
    }

    fn to_rule(&self) -> Option<Rule> {
        let resources = match (&self.resources, &self.subresources) {
            (all, sub) if all.is_all() && sub.is_all() => vec!["*".to_owned()],
            (all, subs) if all.is_all() && !subs.contains("") => {
                subs.finite()?.iter().map(|sub| format!("*/{sub}")).collect()
            }
            (resources, subs) => product(resources.finite()?, subs.finite()?),
        };
        let resource_names = if self.resource_names.is_all() {
            Vec::new()
        } else {
            self.resource_names.written()?
        };
        Some(Rule {
            api_groups: self.api_groups.written()?,
            resources,
            resource_names,
            non_resource_urls: Vec::new(),
            verbs: self.verbs.written()?,
        })
    }
}

/// `users, users/password`
fn product(resources: &[Arc<str>], subresources: &[Arc<str>]) -> Vec<String> {
    let mut names = Vec::new();
    for resource in resources {
        for sub in subresources {
            names.push(if sub.is_empty() {
                resource.to_string()
            } else {
                format!("{resource}/{sub}")
            });
        }
    }
    names
}

impl fmt::Display for ResourceGrant {
    /// `all verbs but get, list on users, users/password in all groups`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on ", self.verbs.describe("verbs", "''"))?;
        let resources = self.resources.describe("resources", "''");
        let subs = &self.subresources;
        if subs.is_all() {
            f.write_str(&resources)?;
        } else if let (Some(resources), Some(subs)) = (self.resources.finite(), subs.finite()) {
            f.write_str(&product(resources, subs).join(", "))?;
        } else if subs.is_only("") {
            write!(f, "{resources} without subresource")?;
        } else if subs.is_all_but_only("") {
            write!(f, "all subresources of {resources}")?;
        } else {
            write!(f, "{} of {resources}", subs.describe("subresources", "itself"))?;
        }
        write!(f, " in {}", self.api_groups.describe("groups", "core"))?;
        let names = &self.resource_names;
        match names.finite() {
            _ if names.is_all() => Ok(()),
            Some(_) => write!(f, ", named {}", names.join("''")),
            None => write!(f, ", not named {}", names.join("''")),
        }
    }
}

impl UrlGrant {
    /// A prefix is never used up by finitely many longer ones.
    fn is_empty(&self) -> bool {
        self.verbs.is_empty() || self.except.iter().any(|except| except.covers(&self.url))
    }

    fn intersection(&self, other: &Self) -> Option<Self> {
        let url = if self.url.covers(&other.url) {
            &other.url
        } else if other.url.covers(&self.url) {
            &self.url
        } else {
            return None;
        };
        let except = self.except.union(&other.except);
        let both = Self {
            verbs: self.verbs.intersection(&other.verbs),
            url: url.clone(),
            except: except
                .filter(|e| url.covers(e) || e.covers(url))
                .cloned()
                .collect(),
        };
        (!both.is_empty()).then_some(both)
    }

    fn difference(&self, other: &Self) -> Vec<Self> {
        let verbs = self.verbs.intersection(&other.verbs);
        let mut rest = vec![Self {
            verbs: self.verbs.difference(&other.verbs),
            ..self.clone()
        }];
        let mut outside = Self {
            verbs: verbs.clone(),
            ..self.clone()
        };
        outside.except.insert(other.url.clone());
        rest.push(outside);
        // What the other one leaves out stays.
        for hole in &other.except {
            rest.extend(self.intersection(&Self {
                verbs: verbs.clone(),
                url: hole.clone(),
                except: BTreeSet::new(),
            }));
        }
        rest.retain(|grant| !grant.is_empty());
        rest
    }

    fn merged(&self, other: &Self) -> Option<Self> {
        (self.url == other.url && self.except == other.except).then(|| Self {
            verbs: self.verbs.union(&other.verbs),
            ..self.clone()
        })
    }

    fn to_rule(&self) -> Option<Rule> {
        if !self.except.is_empty() {
            return None;
        }
        Some(Rule {
            non_resource_urls: vec![self.url.to_string()],
            verbs: self.verbs.written()?,
            ..Rule::default()
        })
    }
}

impl fmt::Display for UrlGrant {
    /// `get on path /api* but /apis`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on path {}", self.verbs.describe("verbs", "''"), self.url)?;
        for (i, path) in self.except.iter().enumerate() {
            write!(f, "{}{path}", if i == 0 { " but " } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grant::Resources(grant) => grant.fmt(f),
            Grant::Urls(grant) => grant.fmt(f),
        }
    }
}

impl Grant {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Grant::Resources(grant) => grant.is_empty(),
            Grant::Urls(grant) => grant.is_empty(),
        }
    }

    pub fn allows(&self, request: &Request<'_>) -> bool {
        match (self, *request) {
            (
                Grant::Resources(grant),
                Request::Resource {
                    verb,
                    api_group,
                    resource,
                    subresource,
                    name,
                },
            ) => {
                grant.verbs.contains(verb)
                    && grant.api_groups.contains(api_group)
                    && grant.resources.contains(resource)
                    && grant.subresources.contains(subresource)
                    && grant.resource_names.contains(name)
            }
            (Grant::Urls(grant), Request::Url { verb, path }) => {
                grant.verbs.contains(verb)
                    && grant.url.matches(path)
                    && !grant.except.iter().any(|except| except.matches(path))
            }
            _ => false,
        }
    }

    pub(crate) fn intersection(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Grant::Resources(a), Grant::Resources(b)) => a.intersection(b).map(Grant::Resources),
            (Grant::Urls(a), Grant::Urls(b)) => a.intersection(b).map(Grant::Urls),
            _ => None,
        }
    }

    pub(crate) fn is_disjoint(&self, other: &Self) -> bool {
        match (self, other) {
            (Grant::Resources(a), Grant::Resources(b)) => a.is_disjoint(b),
            (Grant::Urls(a), Grant::Urls(b)) => a.intersection(b).is_none(),
            _ => true,
        }
    }

    /// What is in `self` and not in `other`, in pieces.
    pub(crate) fn difference(&self, other: &Self) -> Vec<Self> {
        match (self, other) {
            _ if self.is_disjoint(other) => vec![self.clone()],
            (Grant::Resources(a), Grant::Resources(b)) => {
                a.difference(b).into_iter().map(Grant::Resources).collect()
            }
            (Grant::Urls(a), Grant::Urls(b)) => a.difference(b).into_iter().map(Grant::Urls).collect(),
            _ => vec![self.clone()],
        }
    }

    /// The two as one, where they differ in one set at most.
    pub(crate) fn merged(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Grant::Resources(a), Grant::Resources(b)) => a.merged(b).map(Grant::Resources),
            (Grant::Urls(a), Grant::Urls(b)) => a.merged(b).map(Grant::Urls),
            _ => None,
        }
    }

    /// The grant as a rule; `None` where rules cannot say it, since they know no exceptions.
    pub fn to_rule(&self) -> Option<Rule> {
        match self {
            Grant::Resources(grant) => grant.to_rule(),
            Grant::Urls(grant) => grant.to_rule(),
        }
    }
}
