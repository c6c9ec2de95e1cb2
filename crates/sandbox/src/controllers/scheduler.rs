//! The scheduler: which node takes a pod, or what keeps it from each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::controllers::volumes;
use crate::controllers::workloads::{is_finished, is_ready};
use crate::fields::quantity_in_billionths;
use crate::json::{list, list_at, name, text, text_at};
use crate::selector::Labels;
use crate::store::Collection;
use crate::transaction::Transaction;

/// Which nodes are to run a daemon. The DaemonSet controller tolerates the taints that nodes get by themselves.
pub(crate) fn nodes_for_daemon(transaction: &Transaction, spec: &Value) -> Vec<Arc<Value>> {
    nodes(transaction)
        .filter(|node| {
            selects(spec, node)
                && list_at(node, "/spec/taints").iter().all(|taint| {
                    text(taint, "key").starts_with("node.kubernetes.io/") || tolerates(spec, taint)
                })
        })
        .cloned()
        .collect()
}

fn nodes<'a>(transaction: &'a Transaction) -> impl Iterator<Item = &'a Arc<Value>> {
    let nodes = transaction.state.collection("nodes");
    nodes.into_iter().flat_map(Collection::iter).map(|(_, node)| node)
}

fn pods<'a>(transaction: &'a Transaction) -> impl Iterator<Item = &'a Arc<Value>> {
    let pods = transaction.state.collection("pods");
    pods.into_iter().flat_map(Collection::iter).map(|(_, pod)| pod)
}

/// The node with the fewest pods among those that fit; the first of them by name. Otherwise the scheduler's complaint.
pub(crate) fn choose(transaction: &Transaction, pod: &Value) -> Result<Arc<Value>, String> {
    let total = nodes(transaction).count();
    if total == 0 {
        return Err("no nodes available to schedule pods".to_owned());
    }
    if let Some(why) = volumes::obstacle(transaction, pod) {
        return Err(complaint(total, &BTreeMap::from([(why, total)])));
    }
    let wanted = wanted(pod);
    let mut loads: BTreeMap<&str, Load> = BTreeMap::new();
    for other in pods(transaction) {
        let load = loads.entry(text_at(other, "/spec/nodeName")).or_default();
        load.pods += 1;
        if !is_finished(other) {
            for (resource, _) in &wanted {
                *load.requested.entry(*resource).or_default() += requested(other, resource);
            }
        }
    }
    let mut reasons = BTreeMap::new();
    let mut fitting = Vec::new();
    let none = Load::default();
    for node in nodes(transaction) {
        let load = loads.get(name(node)).unwrap_or(&none);
        let against = obstacles(pod, node, &wanted, load);
        if against.is_empty() {
            fitting.push((load.pods, node));
        }
        for reason in against {
            *reasons.entry(reason).or_insert(0) += 1;
        }
    }
    let best = fitting.into_iter().min_by_key(|(pods, _)| *pods);
    best.map(|(_, node)| Arc::clone(node))
        .ok_or_else(|| complaint(total, &reasons))
}

/// What is on a node already.
#[derive(Default)]
struct Load<'a> {
    pods: usize,
    requested: BTreeMap<&'a str, i128>,
}

fn complaint(total: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut reasons: Vec<_> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    reasons.sort();
    format!("0/{total} nodes are available: {}.", reasons.join(", "))
}

/// What keeps a pod from a node. As the scheduler does, the first filter that refuses has the word.
fn obstacles(pod: &Value, node: &Value, wanted: &[(&str, i128)], load: &Load) -> Vec<String> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let untolerated = |taint: &Value| {
        (!tolerates(spec, taint)).then(|| {
            format!(
                "node(s) had taint {{{}: {}}}, that the pod didn't tolerate",
                text(taint, "key"),
                text(taint, "value")
            )
        })
    };
    let cordon = json!({ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" });
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) && !tolerates(spec, &cordon) {
        return vec!["node(s) were unschedulable".to_owned()];
    }
    if let Some(why) = list_at(node, "/spec/taints").iter().find_map(untolerated) {
        return vec![why];
    }
    if !is_ready(node) {
        // Whatever a pod tolerates, there is no kubelet to run it.
        let why = "node(s) had taint {node.kubernetes.io/not-ready: }, that the pod didn't tolerate";
        return vec![why.to_owned()];
    }
    if !selects(spec, node) {
        return vec!["node(s) didn't match Pod's node affinity".to_owned()];
    }
    let Some(allocatable) = node.pointer("/status/allocatable").and_then(Value::as_object) else {
        return Vec::new();
    };
    if allocatable.is_empty() {
        return Vec::new();
    }
    wanted
        .iter()
        .filter(|(resource, amount)| {
            let there = allocatable.get(*resource).map_or(0, quantity_in_billionths);
            let taken = load.requested.get(resource).copied().unwrap_or(0);
            *amount > there.saturating_sub(taken)
        })
        .map(|(resource, _)| format!("Insufficient {resource}"))
        .collect()
}

/// What a pod requests, in billionths.
fn wanted(pod: &Value) -> Vec<(&str, i128)> {
    let names: BTreeSet<&str> = ["/spec/containers", "/spec/initContainers"]
        .into_iter()
        .flat_map(|key| list_at(pod, key))
        .map(|container| container.pointer("/resources/requests"))
        .chain([pod.pointer("/spec/overhead")])
        .flatten()
        .filter_map(Value::as_object)
        .flat_map(|requests| requests.keys().map(String::as_str))
        .collect();
    names
        .into_iter()
        .map(|resource| (resource, requested(pod, resource)))
        .filter(|(_, amount)| *amount > 0)
        .collect()
}

/// How much of a resource a pod requests: all its containers together, or the one before them that requests most.
fn requested(pod: &Value, resource: &str) -> i128 {
    let amount = |requests: Option<&Value>| {
        requests
            .and_then(|requests| requests.get(resource))
            .map_or(0, quantity_in_billionths)
    };
    let of = |key: &str| {
        list_at(pod, key)
            .iter()
            .map(|container| amount(container.pointer("/resources/requests")))
    };
    let together = of("/spec/containers").fold(0, i128::saturating_add);
    let before = of("/spec/initContainers").max().unwrap_or(0);
    together
        .max(before)
        .saturating_add(amount(pod.pointer("/spec/overhead")))
}

/// Whether a change of a pod leaves room on its node.
pub(crate) fn gives_room(old: Option<&Value>, new: Option<&Value>) -> bool {
    let takes = |pod: &Value| !text_at(pod, "/spec/nodeName").is_empty() && !is_finished(pod);
    old.is_some_and(|old| takes(old) && !wanted(old).is_empty()) && !new.is_some_and(takes)
}

fn selects(spec: &Value, node: &Value) -> bool {
    let labels = node.pointer("/metadata/labels");
    let wanted = Labels::of_map(spec.get("nodeSelector")).is_none_or(|wanted| wanted.matches_labels(labels));
    let affinity = spec.pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution");
    let terms = affinity
        .map(|affinity| list(affinity, "nodeSelectorTerms"))
        .unwrap_or_default();
    wanted
        && (terms.is_empty()
            || terms.iter().any(|term| {
                let by_name = list(term, "matchFields").iter().all(|field| {
                    let listed = list(field, "values").iter().any(|value| value == name(node));
                    listed == (text(field, "operator") == "In")
                });
                by_name && Labels::of(Some(term)).is_none_or(|term| term.matches_labels(labels))
            }))
}

fn tolerates(spec: &Value, taint: &Value) -> bool {
    let effect = text(taint, "effect");
    if effect == "PreferNoSchedule" {
        return true;
    }
    list(spec, "tolerations").iter().any(|toleration| {
        let (key, its_effect) = (text(toleration, "key"), text(toleration, "effect"));
        let key_fits =
            key == text(taint, "key") || (key.is_empty() && text(toleration, "operator") == "Exists");
        let value_fits =
            text(toleration, "operator") == "Exists" || text(toleration, "value") == text(taint, "value");
        key_fits && value_fits && (its_effect.is_empty() || its_effect == effect)
    })
}
