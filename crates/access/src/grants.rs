//! What rules allow, as exact sets.
//!
//! A rule allows a set of requests: so many verbs, times so many API groups, times resources, subresources and
//! names. Each of these is a finite set of names or everything but a finite set ([`Names`]), so a difference of two
//! rules is again a union of such products, and nothing depends on which resources a cluster has today.
//!
//! How rules match is Kubernetes' (`pkg/apis/rbac/v1/evaluation_helpers.go`), which KubeSphere follows: `res` does
//! not cover `res/sub`, `*` covers everything, `*/sub` that subresource of everything; no resource names means all.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::Rule;

/// A finite set of names, or everything but a finite set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "NamesText", into = "NamesText")]
pub enum Names {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
}

/// `["get","list"]`, `["*"]`, `{"allBut":["get"]}`
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NamesText {
    List(BTreeSet<String>),
    But {
        #[serde(rename = "allBut")]
        all_but: BTreeSet<String>,
    },
}

impl From<NamesText> for Names {
    fn from(text: NamesText) -> Self {
        match text {
            NamesText::List(names) => Self::pattern(&names),
            NamesText::But { all_but } => Names::NotIn(all_but),
        }
    }
}

impl From<Names> for NamesText {
    fn from(names: Names) -> Self {
        match names {
            Names::In(names) => NamesText::List(names),
            Names::NotIn(names) if names.is_empty() => NamesText::List(BTreeSet::from(["*".to_owned()])),
            Names::NotIn(all_but) => NamesText::But { all_but },
        }
    }
}

impl Names {
    pub const ALL: Names = Names::NotIn(BTreeSet::new());

    pub fn of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Names::In(names.into_iter().map(Into::into).collect())
    }

    /// A list of a rule in which `*` stands for everything.
    fn pattern<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        let names: BTreeSet<String> = names.into_iter().cloned().collect();
        if names.contains("*") {
            Self::ALL
        } else {
            Names::In(names)
        }
    }

    pub fn is_all(&self) -> bool {
        matches!(self, Names::NotIn(names) if names.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Names::In(names) if names.is_empty())
    }

    pub fn contains(&self, name: &str) -> bool {
        match self {
            Names::In(names) => names.contains(name),
            Names::NotIn(names) => !names.contains(name),
        }
    }

    fn complement(&self) -> Self {
        match self {
            Names::In(names) => Names::NotIn(names.clone()),
            Names::NotIn(names) => Names::In(names.clone()),
        }
    }

    pub fn intersection(&self, other: &Self) -> Self {
        match (self, other) {
            (Names::In(a), Names::In(b)) => Names::In(a.intersection(b).cloned().collect()),
            (Names::In(a), Names::NotIn(b)) | (Names::NotIn(b), Names::In(a)) => {
                Names::In(a.difference(b).cloned().collect())
            }
            (Names::NotIn(a), Names::NotIn(b)) => Names::NotIn(a.union(b).cloned().collect()),
        }
    }

    pub fn difference(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    pub fn union(&self, other: &Self) -> Self {
        self.complement().intersection(&other.complement()).complement()
    }

    fn is_disjoint(&self, other: &Self) -> bool {
        match (self, other) {
            (Names::In(a), Names::In(b)) => a.is_disjoint(b),
            (Names::In(a), Names::NotIn(b)) | (Names::NotIn(b), Names::In(a)) => a.is_subset(b),
            (Names::NotIn(_), Names::NotIn(_)) => false,
        }
    }

    /// The set as a rule writes it: `["*"]` or the names; `None` for everything but some.
    fn written(&self) -> Option<Vec<String>> {
        match self {
            Names::In(names) => Some(names.iter().cloned().collect()),
            Names::NotIn(names) if names.is_empty() => Some(vec!["*".to_owned()]),
            Names::NotIn(_) => None,
        }
    }

    /// `all verbs`, `all verbs but get`, `get, list`
    fn describe(&self, what: &str) -> String {
        let list = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match self {
            Names::In(names) => list(names),
            Names::NotIn(names) if names.is_empty() => format!("all {what}"),
            Names::NotIn(names) => format!("all {what} but {}", list(names)),
        }
    }
}

/// The paths that a non-resource URL in a rule stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UrlPattern {
    Exact(String),
    Prefix(String),
}

impl UrlPattern {
    fn parse(url: &str) -> Self {
        match url.strip_suffix('*') {
            Some(prefix) => UrlPattern::Prefix(prefix.to_owned()),
            None => UrlPattern::Exact(url.to_owned()),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (UrlPattern::Prefix(prefix), UrlPattern::Exact(path) | UrlPattern::Prefix(path)) => {
                path.starts_with(prefix.as_str())
            }
            (UrlPattern::Exact(a), UrlPattern::Exact(b)) => a == b,
            (UrlPattern::Exact(_), UrlPattern::Prefix(_)) => false,
        }
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

/// One product of sets: every verb in `verbs` on every resource in …
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Grant {
    #[serde(rename_all = "camelCase")]
    Resources {
        verbs: Names,
        api_groups: Names,
        /// Without subresource, `pods`.
        resources: Names,
        /// `log`; the empty text is the resource itself.
        subresources: Names,
        resource_names: Names,
    },
    Url {
        verbs: Names,
        url: UrlPattern,
        /// Paths under `url` that do not belong to it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<UrlPattern>,
    },
}

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

impl Grant {
    fn is_empty(&self) -> bool {
        match self {
            Grant::Resources {
                verbs,
                api_groups,
                resources,
                subresources,
                resource_names,
            } => [verbs, api_groups, resources, subresources, resource_names]
                .into_iter()
                .any(Names::is_empty),
            // A prefix is never used up by finitely many longer ones.
            Grant::Url { verbs, url, except } => verbs.is_empty() || except.iter().any(|e| e.covers(url)),
        }
    }

    fn allows(&self, request: &Request<'_>) -> bool {
        match (self, request) {
            (
                Grant::Resources {
                    verbs,
                    api_groups,
                    resources,
                    subresources,
                    resource_names,
                },
                Request::Resource {
                    verb,
                    api_group,
                    resource,
                    subresource,
                    name,
                },
            ) => {
                verbs.contains(verb)
                    && api_groups.contains(api_group)
                    && resources.contains(resource)
                    && subresources.contains(subresource)
                    && resource_names.contains(name)
            }
            (Grant::Url { verbs, url, except }, Request::Url { verb, path }) => {
                let path = UrlPattern::Exact((*path).to_owned());
                verbs.contains(verb) && url.covers(&path) && !except.iter().any(|e| e.covers(&path))
            }
            _ => false,
        }
    }

    /// The sets of a resource grant, in an order in which differences read well.
    fn sets(&self) -> Option<[&Names; 5]> {
        match self {
            Grant::Resources {
                verbs,
                api_groups,
                resources,
                subresources,
                resource_names,
            } => Some([subresources, resources, api_groups, resource_names, verbs]),
            Grant::Url { .. } => None,
        }
    }

    fn from_sets([subresources, resources, api_groups, resource_names, verbs]: [Names; 5]) -> Self {
        Grant::Resources {
            verbs,
            api_groups,
            resources,
            subresources,
            resource_names,
        }
    }

    fn intersection(&self, other: &Self) -> Option<Self> {
        let both = if let (
            Grant::Url { verbs, url, except },
            Grant::Url {
                verbs: other_verbs,
                url: other_url,
                except: other_except,
            },
        ) = (self, other)
        {
            let url = if url.covers(other_url) {
                other_url
            } else if other_url.covers(url) {
                url
            } else {
                return None;
            };
            let except: BTreeSet<_> = except
                .iter()
                .chain(other_except)
                .filter(|e| url.covers(e) || e.covers(url))
                .cloned()
                .collect();
            Grant::Url {
                verbs: verbs.intersection(other_verbs),
                url: url.clone(),
                except: except.into_iter().collect(),
            }
        } else {
            let (a, b) = (self.sets()?, other.sets()?);
            if a.iter().zip(b).any(|(a, b)| a.is_disjoint(b)) {
                return None;
            }
            Self::from_sets(std::array::from_fn(|i| a[i].intersection(b[i])))
        };
        (!both.is_empty()).then_some(both)
    }

    /// What is in `self` and not in `other`, as disjoint grants.
    fn difference(&self, other: &Self) -> Vec<Self> {
        let Some(both) = self.intersection(other) else {
            return vec![self.clone()];
        };
        let mut rest = Vec::new();
        if let (
            Grant::Url { verbs, url, except },
            Grant::Url {
                verbs: other_verbs,
                url: other_url,
                except: other_except,
            },
        ) = (self, other)
        {
            rest.push(Grant::Url {
                verbs: verbs.difference(other_verbs),
                url: url.clone(),
                except: except.clone(),
            });
            let verbs = verbs.intersection(other_verbs);
            if !other_url.covers(url) {
                let mut except = except.clone();
                except.push(other_url.clone());
                except.sort();
                rest.push(Grant::Url {
                    verbs: verbs.clone(),
                    url: url.clone(),
                    except,
                });
            }
            // What the other one leaves out stays.
            for (i, hole) in other_except.iter().enumerate() {
                if other_except[..i].iter().any(|e| e.covers(hole)) {
                    continue;
                }
                let hole = Grant::Url {
                    verbs: verbs.clone(),
                    url: hole.clone(),
                    except: Vec::new(),
                };
                rest.extend(self.intersection(&hole));
            }
        } else {
            let (Some(mut left), Some(b), Some(common)) = (
                self.sets().map(|sets| sets.map(Names::clone)),
                other.sets(),
                both.sets(),
            ) else {
                return vec![self.clone()];
            };
            for i in 0..left.len() {
                let mut piece = left.clone();
                piece[i] = left[i].difference(b[i]);
                rest.push(Self::from_sets(piece));
                left[i] = common[i].clone();
            }
        }
        rest.retain(|grant| !grant.is_empty());
        rest
    }

    /// The two as one, where they differ in one set only.
    fn merged(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (
                Grant::Url { verbs, url, except },
                Grant::Url {
                    verbs: other_verbs,
                    url: other_url,
                    except: other_except,
                },
            ) if url == other_url && except == other_except => Some(Grant::Url {
                verbs: verbs.union(other_verbs),
                url: url.clone(),
                except: except.clone(),
            }),
            _ => {
                let (a, b) = (self.sets()?, other.sets()?);
                let different = (0..a.len()).filter(|i| a[*i] != b[*i]).count();
                (different <= 1).then(|| Self::from_sets(std::array::from_fn(|i| a[i].union(b[i]))))
            }
        }
    }

    /// The grant as a rule; `None` where rules cannot say it, since they know no exceptions.
    fn to_rule(&self) -> Option<Rule> {
        match self {
            Grant::Resources {
                verbs,
                api_groups,
                resources,
                subresources,
                resource_names,
            } => {
                let resources = match (resources, subresources) {
                    (all, sub) if all.is_all() && sub.is_all() => vec!["*".to_owned()],
                    (all, Names::In(subs)) if all.is_all() && !subs.contains("") => {
                        subs.iter().map(|sub| format!("*/{sub}")).collect()
                    }
                    (Names::In(resources), Names::In(subs)) => product(resources, subs),
                    _ => return None,
                };
                let resource_names = if resource_names.is_all() {
                    Vec::new()
                } else {
                    resource_names.written()?
                };
                Some(Rule {
                    api_groups: api_groups.written()?,
                    resources,
                    resource_names,
                    non_resource_urls: Vec::new(),
                    verbs: verbs.written()?,
                })
            }
            Grant::Url { verbs, url, except } => {
                if !except.is_empty() {
                    return None;
                }
                Some(Rule {
                    non_resource_urls: vec![url.to_string()],
                    verbs: verbs.written()?,
                    ..Rule::default()
                })
            }
        }
    }
}

fn product(resources: &BTreeSet<String>, subresources: &BTreeSet<String>) -> Vec<String> {
    let mut names = Vec::new();
    for resource in resources {
        for sub in subresources {
            names.push(if sub.is_empty() {
                resource.clone()
            } else {
                format!("{resource}/{sub}")
            });
        }
    }
    names
}

impl fmt::Display for Grant {
    /// `all verbs but get, list on users, users/password in all groups`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grant::Resources {
                verbs,
                api_groups,
                resources,
                subresources,
                resource_names,
            } => {
                write!(f, "{} on ", verbs.describe("verbs"))?;
                match (resources, subresources) {
                    (resources, sub) if sub.is_all() => f.write_str(&resources.describe("resources"))?,
                    (Names::In(resources), Names::In(subs)) => {
                        f.write_str(&product(resources, subs).join(", "))?;
                    }
                    (resources, Names::In(subs)) if subs.len() == 1 && subs.contains("") => {
                        write!(f, "{} themselves", resources.describe("resources"))?;
                    }
                    (resources, Names::NotIn(subs)) if subs.len() == 1 && subs.contains("") => {
                        write!(f, "all subresources of {}", resources.describe("resources"))?;
                    }
                    (resources, subs) => write!(
                        f,
                        "{} of {}",
                        subs.describe("subresources"),
                        resources.describe("resources")
                    )?,
                }
                match api_groups {
                    Names::In(groups) if groups.len() == 1 && groups.contains("") => {
                        f.write_str(" in core")?;
                    }
                    groups => write!(f, " in {}", groups.describe("groups"))?,
                }
                if !resource_names.is_all() {
                    write!(f, ", named {}", resource_names.describe("names"))?;
                }
                Ok(())
            }
            Grant::Url { verbs, url, except } => {
                write!(f, "{} on path {url}", verbs.describe("verbs"))?;
                for (i, path) in except.iter().enumerate() {
                    write!(f, "{}{path}", if i == 0 { " but " } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

/// A union of grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// What rules allow together.
    pub fn of<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        let mut grants = Self::default();
        for rule in rules {
            grants.add(rule);
        }
        grants
    }

    fn add(&mut self, rule: &Rule) {
        let verbs = Names::pattern(&rule.verbs);
        for url in &rule.non_resource_urls {
            self.push(Grant::Url {
                verbs: verbs.clone(),
                url: UrlPattern::parse(url),
                except: Vec::new(),
            });
        }
        let api_groups = Names::pattern(&rule.api_groups);
        let resource_names = if rule.resource_names.is_empty() {
            Names::ALL
        } else {
            Names::of(rule.resource_names.iter().cloned())
        };
        let mut push = |resources: Names, subresources: Names| {
            self.push(Grant::Resources {
                verbs: verbs.clone(),
                api_groups: api_groups.clone(),
                resources,
                subresources,
                resource_names: resource_names.clone(),
            });
        };
        if rule.resources.iter().any(|resource| resource == "*") {
            push(Names::ALL, Names::ALL);
            return;
        }
        // One grant for each set of resources with the same subresource.
        let mut by_sub: std::collections::BTreeMap<&str, BTreeSet<&str>> = std::collections::BTreeMap::new();
        // A trailing slash matches no request.
        for resource in rule.resources.iter().filter(|r| !r.ends_with('/')) {
            let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
            by_sub.entry(sub).or_default().insert(resource);
        }
        for (sub, resources) in by_sub {
            let resources = if resources.contains("*") && !sub.is_empty() {
                Names::ALL
            } else {
                Names::of(resources)
            };
            push(resources, Names::of([sub]));
        }
    }

    fn push(&mut self, grant: Grant) {
        if !grant.is_empty() && !self.0.contains(&grant) {
            self.0.push(grant);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.0.iter()
    }

    pub fn allows(&self, request: &Request<'_>) -> bool {
        self.0.iter().any(|grant| grant.allows(request))
    }

    pub fn union(&self, other: &Self) -> Self {
        let mut grants = self.clone();
        for grant in &other.0 {
            grants.push(grant.clone());
        }
        grants
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let mut grants = Self::default();
        for a in &self.0 {
            for both in other.0.iter().filter_map(|b| a.intersection(b)) {
                grants.push(both);
            }
        }
        grants
    }

    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = self.0.clone();
        for b in &other.0 {
            if rest.is_empty() {
                break;
            }
            if rest.iter().any(|a| a.intersection(b).is_some()) {
                rest = rest.iter().flat_map(|a| a.difference(b)).collect();
            }
        }
        let mut grants = Self::default();
        for grant in rest {
            grants.push(grant);
        }
        grants
    }

    pub fn is_disjoint(&self, other: &Self) -> bool {
        !self
            .0
            .iter()
            .any(|a| other.0.iter().any(|b| a.intersection(b).is_some()))
    }

    /// Whether everything that `other` allows is allowed.
    pub fn covers(&self, other: &Self) -> bool {
        other.difference(self).is_empty()
    }

    /// Whether both allow the same, however it is written.
    pub fn equals(&self, other: &Self) -> bool {
        self.covers(other) && other.covers(self)
    }

    /// The same set in fewer pieces, sorted: how it is shown.
    pub fn simplified(&self) -> Vec<Grant> {
        let mut grants = self.0.clone();
        let mut i = 0;
        while i < grants.len() {
            let found = (i + 1..grants.len()).find_map(|j| Some((j, grants[i].merged(&grants[j])?)));
            match found {
                Some((j, merged)) => {
                    grants.swap_remove(j);
                    grants[i] = merged;
                    i = 0;
                }
                None => i += 1,
            }
        }
        grants.sort();
        grants
    }

    /// The set as rules; `None` where rules cannot say it, since they know no exceptions.
    pub fn to_rules(&self) -> Option<Vec<Rule>> {
        self.simplified().iter().map(Grant::to_rule).collect()
    }
}
