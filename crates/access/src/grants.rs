//! What rules allow, as exact sets.
//!
//! A rule allows a set of requests: so many verbs, times so many API groups, times resources, subresources and
//! names. Each of these is a finite set of names or everything but a finite set ([`crate::Names`]), so the difference of
//! two rules is again a union of such products, and nothing depends on which resources a cluster has today.
//!
//! How rules match is Kubernetes' (`pkg/apis/rbac/v1/evaluation_helpers.go`), which KubeSphere follows: `res` does
//! not cover `res/sub`, `*` covers everything, `*/sub` that subresource of everything; no resource names means all.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Grant, Names, Request, Rule,
    grant::{ResourceGrant, UrlGrant},
};

/// A union of grants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// What rules allow together.
    pub fn of<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        let mut grants = Self::default();
        for rule in rules {
            grants.add_rule(rule);
        }
        grants
    }

    fn add_rule(&mut self, rule: &Rule) {
        let verbs = Names::pattern(&rule.verbs);
        for url in &rule.non_resource_urls {
            self.push(Grant::Urls(UrlGrant {
                verbs: verbs.clone(),
                url: url.clone().into(),
                except: BTreeSet::new(),
            }));
        }
        let api_groups = Names::pattern(&rule.api_groups);
        let resource_names = if rule.resource_names.is_empty() {
            Names::all()
        } else {
            Names::of(&rule.resource_names)
        };
        let mut push = |resources: Names, subresources: Names| {
            self.push(Grant::Resources(ResourceGrant {
                verbs: verbs.clone(),
                api_groups: api_groups.clone(),
                resources,
                subresources,
                resource_names: resource_names.clone(),
            }));
        };
        if rule.resources.iter().any(|resource| resource == "*") {
            push(Names::all(), Names::all());
            return;
        }
        // One grant for each set of resources with the same subresource. A trailing slash matches no request.
        let mut by_subresource: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for resource in rule.resources.iter().filter(|r| !r.ends_with('/')) {
            let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
            by_subresource.entry(sub).or_default().insert(resource);
        }
        for (sub, resources) in by_subresource {
            let resources = if resources.contains("*") {
                Names::all()
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

    /// Each grant as a set of its own.
    pub(crate) fn each(&self) -> impl Iterator<Item = Self> {
        self.0.iter().map(|grant| Self(vec![grant.clone()]))
    }

    pub fn allows(&self, request: &Request<'_>) -> bool {
        self.0.iter().any(|grant| grant.allows(request))
    }

    pub fn union(&self, other: &Self) -> Self {
        [self, other].into_iter().collect()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for grant in &other.0 {
            self.push(grant.clone());
        }
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
            let Some(first) = rest.iter().position(|a| !a.is_disjoint(b)) else {
                continue;
            };
            for a in rest.split_off(first) {
                if a.is_disjoint(b) {
                    rest.push(a);
                } else {
                    rest.extend(a.difference(b));
                }
            }
        }
        Self(rest)
    }

    pub fn is_disjoint(&self, other: &Self) -> bool {
        let meets = |a: &Grant| other.0.iter().any(|b| !a.is_disjoint(b));
        !self.0.iter().any(meets)
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
        // Pieces that lie within another one say nothing.
        let mut i = 0;
        while i < grants.len() {
            let within = |(j, other): (usize, &Grant)| j != i && grants[i].difference(other).is_empty();
            if grants.iter().enumerate().any(within) {
                grants.remove(i);
            } else {
                i += 1;
            }
        }
        let mut i = 0;
        while i < grants.len() {
            let found = (i + 1..grants.len()).find_map(|j| Some((j, grants[i].merged(&grants[j])?)));
            match found {
                Some((j, merged)) => {
                    grants.remove(j);
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

impl FromIterator<Grant> for Grants {
    fn from_iter<I: IntoIterator<Item = Grant>>(all: I) -> Self {
        let mut grants = Self::default();
        for grant in all {
            grants.push(grant);
        }
        grants
    }
}

impl<'a> FromIterator<&'a Grants> for Grants {
    /// The union of all.
    fn from_iter<I: IntoIterator<Item = &'a Grants>>(all: I) -> Self {
        let mut grants = Self::default();
        for other in all {
            grants.add(other);
        }
        grants
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::subsequence};

    use super::*;

    const VERBS: [&str; 3] = ["get", "create", "*"];
    const GROUPS: [&str; 3] = ["", "iam", "*"];
    const RESOURCES: [&str; 6] = [
        "users",
        "roles",
        "users/password",
        "*/status",
        "roles/status",
        "*",
    ];
    const NAMES: [&str; 2] = ["a", "b"];
    const URLS: [&str; 5] = ["/api", "/api*", "/api/v1", "/apis/*", "*"];

    fn rule(groups: &[&str], resources: &[&str], names: &[&str], urls: &[&str], verbs: &[&str]) -> Rule {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Rule {
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            non_resource_urls: list(urls),
            verbs: list(verbs),
        }
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        (
            subsequence(GROUPS.to_vec(), 0..=3),
            subsequence(RESOURCES.to_vec(), 0..=4),
            subsequence(NAMES.to_vec(), 0..=2),
            subsequence(URLS.to_vec(), 0..=2),
            subsequence(VERBS.to_vec(), 0..=2),
        )
            .prop_map(|(groups, resources, names, urls, verbs)| {
                rule(&groups, &resources, &names, &urls, &verbs)
            })
    }

    fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
        prop::collection::vec(any_rule(), 0..4)
    }

    /// Every request that the rules above can tell apart, and some that none of them names.
    fn universe() -> Vec<Request<'static>> {
        let mut requests = Vec::new();
        for verb in ["get", "create", "other"] {
            for path in ["/api", "/api/v1", "/apis", "/apis/x", "/apix", "/other"] {
                requests.push(Request::Url { verb, path });
            }
            for api_group in ["", "iam", "other"] {
                for resource in ["users", "roles", "other"] {
                    for subresource in ["", "password", "status", "other"] {
                        for name in ["", "a", "b", "other"] {
                            requests.push(Request::Resource {
                                verb,
                                api_group,
                                resource,
                                subresource,
                                name,
                            });
                        }
                    }
                }
            }
        }
        requests
    }

    fn allowed(rules: &[Rule], request: &Request<'_>) -> bool {
        rules.iter().any(|rule| rule.allows(request))
    }

    proptest! {
        #[test]
        fn sets_agree_with_point_checks(a in any_rules(), b in any_rules()) {
            let (ga, gb) = (Grants::of(&a), Grants::of(&b));
            let (minus, both, either) = (ga.difference(&gb), ga.intersection(&gb), ga.union(&gb));
            let mut covered = true;
            let mut met = false;
            for request in universe() {
                let (in_a, in_b) = (allowed(&a, &request), allowed(&b, &request));
                prop_assert_eq!(ga.allows(&request), in_a, "{:?}", request);
                prop_assert_eq!(minus.allows(&request), in_a && !in_b, "{:?}", request);
                prop_assert_eq!(both.allows(&request), in_a && in_b, "{:?}", request);
                prop_assert_eq!(either.allows(&request), in_a || in_b, "{:?}", request);
                covered &= in_a || !in_b;
                met |= in_a && in_b;
            }
            prop_assert_eq!(ga.covers(&gb), covered);
            prop_assert_eq!(ga.is_disjoint(&gb), !met);
            prop_assert!(minus.union(&both).equals(&ga));
        }

        #[test]
        fn simpler_and_written_forms_mean_the_same(a in any_rules(), b in any_rules()) {
            let rest = Grants::of(&a).difference(&Grants::of(&b));
            let simple = Grants(rest.simplified());
            prop_assert!(simple.equals(&rest));
            if let Some(rules) = rest.to_rules() {
                prop_assert!(Grants::of(&rules).equals(&rest));
            }
            // Plain rules can always be written again.
            prop_assert!(Grants::of(&a).simplified().iter().all(|grant| grant.to_rule().is_some()));
        }

        #[test]
        fn grants_survive_json(a in any_rules(), b in any_rules()) {
            let grants = Grants::of(&a).difference(&Grants::of(&b)).simplified();
            let text = serde_json::to_string(&grants).unwrap();
            prop_assert_eq!(serde_json::from_str::<Vec<Grant>>(&text).unwrap(), grants);
        }
    }

    #[test]
    fn matching_is_that_of_kubernetes() {
        let check = |resources: &[&str], resource, subresource, expect| {
            let rules = [rule(&["*"], resources, &[], &[], &["get"])];
            let request = Request::Resource {
                verb: "get",
                api_group: "g",
                resource,
                subresource,
                name: "",
            };
            assert_eq!(
                (rules[0].allows(&request), Grants::of(&rules).allows(&request)),
                (expect, expect),
                "{resources:?} {resource}/{subresource}"
            );
        };
        check(&["pods"], "pods", "", true);
        check(&["pods"], "pods", "log", false);
        check(&["pods/log"], "pods", "log", true);
        check(&["pods/log"], "pods", "", false);
        check(&["*/log"], "pods", "log", true);
        check(&["*/log"], "pods", "", false);
        check(&["pods/*"], "pods", "log", false);
        check(&["*"], "pods", "log", true);
        check(&["*/"], "pods", "", false);
        check(&["pods/"], "pods", "", false);
    }

    #[test]
    fn what_is_left_reads_well() {
        let check = |a: Rule, b: Rule, expect: &[&str]| {
            let rest = Grants::of([&a]).difference(&Grants::of([&b])).simplified();
            assert_eq!(rest.iter().map(ToString::to_string).collect::<Vec<_>>(), expect);
        };
        check(
            rule(&["*"], &["users", "users/password"], &[], &[], &["*"]),
            rule(&["*"], &["users", "users/password"], &[], &[], &["get", "list"]),
            &["all verbs but get, list on users, users/password in all groups"],
        );
        check(
            rule(&["*"], &["*"], &[], &["/api*"], &["get"]),
            rule(&[""], &["pods"], &["a"], &["/apis*"], &["get"]),
            &[
                "get on pods in core, not named a",
                "get on all subresources of all resources in all groups",
                "get on all resources but pods without subresource in all groups",
                "get on pods in all groups but core",
                "get on path /api* but /apis*",
            ],
        );
    }
}
