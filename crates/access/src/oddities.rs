//! What is odd about a cluster's roles and bindings: there twice, on member clusters, in a ring, or with verbs that
//! nobody knows.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    AccessFinding, Rule,
    finding::{
        Going, cyclic_templates, on_member_clusters, twice, unknown_verbs, unreadable_federated_aggregation,
    },
    hash::FastMap,
    records::{FederatedRecord, key},
    role::Releases,
    state::{Role, RoleId, State},
};

/// What Kubernetes and KubeSphere ask for where a request is about a resource.
const VERBS: [&str; 16] = [
    "*",
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "use",
    "bind",
    "escalate",
    "impersonate",
    "approve",
    "sign",
    "proxy",
];

/// And where it is about a path. KubeSphere's own roles write `GET` too.
const URL_VERBS: [&str; 11] = [
    "*", "get", "head", "post", "put", "patch", "delete", "connect", "options", "trace", "GET",
];

pub(crate) fn find_oddities(state: &State<'_>, releases: Releases<'_>, findings: &mut Vec<AccessFinding>) {
    let records = state.records;
    let roles_and_bindings = state.twice.iter().copied();
    let others = records.twice.iter();
    for (kind, namespace, name) in
        roles_and_bindings.chain(others.map(|(kind, namespace, name)| (*kind, &**namespace, &**name)))
    {
        findings.push(twice(key(kind, namespace, name)));
    }
    let federated = records.federated.iter();
    findings.extend(federated.filter_map(|record| check_federated(state, releases, record)));
    find_rings(state, findings);
    find_unknown_verbs(state, releases, findings);
}

/// An object that KubeFed carries to member clusters. The migration changes this cluster's own objects alone.
fn check_federated(
    state: &State<'_>,
    releases: Releases<'_>,
    record: &FederatedRecord,
) -> Option<AccessFinding> {
    let id = RoleId {
        kind: record.carried(),
        namespace: &record.namespace,
        name: &record.name,
    };
    match id.kind {
        // They grant nothing by themselves.
        "User" | "Group" => None,
        "GroupBinding" => {
            let is_here = state.records.group_bindings.contains(&record.name);
            (!is_here).then(|| on_member_clusters(record, false, &Going::default()))
        }
        "GlobalRole" | "WorkspaceRole" | "ClusterRole" | "Role" => {
            check_federated_role(state, releases, record, id)
        }
        _ => check_federated_binding(state, releases, record, id),
    }
}

fn check_federated_role(
    state: &State<'_>,
    releases: Releases<'_>,
    record: &FederatedRecord,
    id: RoleId<'_>,
) -> Option<AccessFinding> {
    let policy = releases.policy;
    let level = state.level(id);
    let is_here = state.role(id).is_some();
    let workspace = record.workspace.as_deref();
    if is_here && (record.is_template || policy.is_built_in(level, id.name, workspace)) {
        // Each cluster's own release brings it.
        return None;
    }
    let Ok(list) = serde_json::from_str::<Vec<String>>(record.aggregation.as_deref().unwrap_or("[]")) else {
        return Some(unreadable_federated_aggregation(record));
    };
    let removed = policy.removed_templates.get(&level);
    let mut going = Going::default();
    for name in list {
        if policy.is_revoked(level, &name) {
            going.revoked.push(name);
        } else if let Some(new) = policy.renamed(level, &name) {
            going.renamed.push(format!("{name} (now {new})"));
        } else if removed.is_some_and(|names| names.contains(&name)) {
            going.removed.push(name);
        }
    }
    Some(on_member_clusters(record, is_here, &going))
}

fn check_federated_binding(
    state: &State<'_>,
    releases: Releases<'_>,
    record: &FederatedRecord,
    id: RoleId<'_>,
) -> Option<AccessFinding> {
    let wanted = (id.kind, id.namespace, id.name);
    let is_here = state
        .bindings
        .binary_search_by(|binding| {
            let record = binding.record;
            (record.kind, &*record.namespace, &*record.name).cmp(&wanted)
        })
        .is_ok();
    let role_kind = id.kind.strip_suffix("Binding").unwrap_or(id.kind);
    let name = record.role.as_deref().unwrap_or_default();
    // Under an alias there is no role. Where there is one, it is somebody's own.
    let is_a_role = || {
        let mut federated = state.records.federated.iter();
        let own = RoleId {
            kind: role_kind,
            namespace: "",
            name,
        };
        state.role(own).is_some()
            || federated.any(|other| other.carried() == role_kind && &*other.name == name)
    };
    let removed = releases.policy.removed_role_of(role_kind, name);
    let removed = removed.filter(|role| role.name == name || !is_a_role());
    let going = Going {
        replacement: removed.map(|role| role.replacement.clone()),
        ..Going::default()
    };
    (!is_here || removed.is_some()).then(|| on_member_clusters(record, is_here, &going))
}

/// Templates that take each other, once for every ring.
fn find_rings(state: &State<'_>, findings: &mut Vec<AccessFinding>) {
    let mut lists: FastMap<&str, Vec<String>> = FastMap::default();
    let templates = || {
        let roles = state.roles.iter().enumerate();
        roles.filter_map(|(place, role)| Some((place, role, role.record.dependencies.as_deref()?)))
    };
    for (_, _, text) in templates() {
        lists
            .entry(text)
            .or_insert_with(|| serde_json::from_str(text).unwrap_or_default());
    }
    // By the places of the roles. Templates take those of their own kind and namespace.
    let mut takes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, role, text) in templates() {
        let found = lists[text].iter().filter_map(|name| {
            let id = RoleId { name, ..role.id };
            state.roles.binary_search_by_key(&id, |role| role.id).ok()
        });
        takes.insert(place, found.collect());
    }
    for ring in rings(&takes) {
        let ring: Vec<&Role<'_>> = ring.into_iter().map(|place| &state.roles[place]).collect();
        findings.push(cyclic_templates(&ring));
    }
}

/// At least one ring of each part of a graph in which everything leads to everything, each from its least node.
fn rings(leads_to: &BTreeMap<usize, Vec<usize>>) -> BTreeSet<Vec<usize>> {
    let mut rings = BTreeSet::new();
    let mut done: BTreeSet<usize> = BTreeSet::new();
    for start in leads_to.keys() {
        // The way from the start, and how many of its nodes' edges were followed.
        let mut way: Vec<(usize, usize)> = Vec::new();
        if done.insert(*start) {
            way.push((*start, 0));
        }
        while let Some((node, followed)) = way.last_mut() {
            let next = leads_to.get(node).and_then(|next| next.get(*followed));
            let Some(next) = next.copied() else {
                way.pop();
                continue;
            };
            *followed += 1;
            if let Some(begin) = way.iter().position(|(node, _)| *node == next) {
                let mut ring: Vec<usize> = way[begin..].iter().map(|(node, _)| *node).collect();
                let least = ring.iter().enumerate().min_by_key(|(_, node)| **node);
                let least = least.map_or(0, |(at, _)| at);
                ring.rotate_left(least);
                rings.insert(ring);
            } else if done.insert(next) {
                way.push((next, 0));
            }
        }
    }
    rings
}

/// Custom roles, and roles of KubeSphere's kinds that somebody made: add-ons of Kubernetes have verbs of their own.
fn find_unknown_verbs(state: &State<'_>, releases: Releases<'_>, findings: &mut Vec<AccessFinding>) {
    let policy = releases.policy;
    // By rule list: most roles of a cluster are alike.
    let mut known: FastMap<usize, Vec<&str>> = FastMap::default();
    for role in &state.roles {
        let is_kubespheres = matches!(role.id.kind, "GlobalRole" | "WorkspaceRole");
        if role.is_template()
            || !(is_kubespheres || role.record.aggregation.is_some())
            || policy.is_built_in(role.level, role.id.name, role.workspace)
        {
            continue;
        }
        let verbs = known
            .entry(role.record.rules)
            .or_insert_with(|| unknown_verbs_of(role.rules()));
        if !verbs.is_empty() {
            findings.push(unknown_verbs(role, verbs));
        }
    }
}

fn unknown_verbs_of(rules: &[Rule]) -> Vec<&str> {
    let mut unknown = BTreeSet::new();
    for rule in rules {
        let is_known = |verb: &str| {
            VERBS.contains(&verb) || (!rule.non_resource_urls.is_empty() && URL_VERBS.contains(&verb))
        };
        let verbs = rule.verbs.iter().map(String::as_str);
        unknown.extend(verbs.filter(|verb| !is_known(verb)));
    }
    unknown.into_iter().collect()
}
