//! Rights as rules of Kubernetes' roles.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Reason, Rights};

/// One rule of a Role or ClusterRole, with why it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    /// Empty for any name.
    pub names: Vec<String>,
    pub verbs: Vec<String>,
    pub reasons: BTreeSet<Reason>,
}

/// Verbs in the order in which people write them.
const VERBS: [&str; 9] = [
    "get", "list", "watch", "create", "update", "patch", "delete", "bind", "escalate",
];

pub(super) fn sorted<'a>(verbs: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut verbs: Vec<String> = verbs.cloned().collect();
    verbs.sort_by_key(|verb| VERBS.iter().position(|known| known == verb));
    verbs
}

impl Rights {
    /// The rules for one namespace, or for the whole cluster. Resources of a group with the same verbs for the same reasons
    /// share one, and so do groups in which everything is alike.
    pub fn rules(&self, namespace: Option<&str>) -> Vec<Rule> {
        // What is allowed of single objects of a resource is one rule with their names.
        let mut by_resource: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (subject, verbs) in self.iter().filter(|(s, _)| s.namespace.as_deref() == namespace) {
            let reasons: BTreeSet<Reason> = verbs.values().flatten().map(|why| why.reason).collect();
            let (group, resource) = (subject.group.clone(), subject.resource.clone());
            let key = (
                group,
                resource,
                subject.names.is_empty(),
                sorted(verbs.keys()),
                reasons,
            );
            by_resource
                .entry(key)
                .or_default()
                .extend(subject.names.iter().cloned());
        }
        let mut by_group: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for ((group, resource, _, verbs, reasons), names) in by_resource {
            let names: Vec<String> = names.into_iter().collect();
            by_group
                .entry((group, names, verbs, reasons))
                .or_default()
                .push(resource);
        }
        let mut rules: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for ((group, names, verbs, reasons), resources) in by_group {
            rules
                .entry((reasons, resources, names, verbs))
                .or_default()
                .push(group);
        }
        rules
            .into_iter()
            .map(|((reasons, resources, names, verbs), groups)| Rule {
                groups,
                resources,
                names,
                verbs,
                reasons,
            })
            .collect()
    }
}

impl Rule {
    /// As it stands in a role.
    pub fn to_value(&self) -> Value {
        let mut rule = json!({
            "apiGroups": self.groups,
            "resources": self.resources,
            "verbs": self.verbs,
        });
        if !self.names.is_empty() {
            rule["resourceNames"] = json!(self.names);
        }
        rule
    }
}
