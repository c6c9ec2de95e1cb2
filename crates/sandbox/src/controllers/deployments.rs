//! Deployments and ReplicaSets.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::controllers::workloads::{
    self, Rounded, amount, children, count, count_ready, create_pod, delete, delete_pod, hash, is_ready,
    mk_pod, observe, owner_reference, set_counts, set_label, template,
};
use crate::controllers::{create, write_status};
use crate::json::{child, is_deleting, list_at, name, namespace, number_at, object, text, text_at};
use crate::kinds::Resource;
use crate::status::Result;
use crate::store::Key;
use crate::transaction::Transaction;
use crate::write::Writer;

const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
/// Annotations of a Deployment that its ReplicaSets do not get.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
];

pub(crate) fn reconcile(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(deployment) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if is_deleting(&deployment) {
        return Ok(());
    }
    let kind = transaction.builtin("apps", "replicasets")?;
    let mut sets = children(transaction, &deployment, &kind);
    sets.retain(|set| !is_deleting(set));
    sets.sort_by_key(|set| revision_of(set));
    let position = sets.iter().position(|set| has_template(set, &deployment));
    let paused = deployment.pointer("/spec/paused") == Some(&Value::Bool(true));
    let current = match position {
        Some(position) => Some(sets.remove(position)),
        None if paused => None,
        None => Some(add_set(transaction, &deployment, &kind, &sets)?),
    };
    let Some(current) = current else {
        return report(transaction, key, None);
    };
    let current = annotate(transaction, &deployment, &kind, &current, &sets);
    let wanted = replicas(&deployment);
    if text_at(&deployment, "/spec/strategy/type") == "Recreate" {
        scale_down(transaction, &kind, &sets);
        scale(transaction, &kind, &current, wanted);
    } else {
        roll(transaction, &deployment, &kind, &current, &sets);
    }
    forget_old(transaction, &deployment, &kind, &sets)?;
    report(transaction, key, Some(name(&current)))
}

fn replicas(workload: &Value) -> i64 {
    number_at(workload, "/spec/replicas").unwrap_or(1)
}

fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    object
        .pointer("/metadata/annotations")
        .map_or("", |all| text(all, key))
}

fn revision_of(set: &Value) -> i64 {
    annotation(set, REVISION).parse().unwrap_or(0)
}

/// Whether a ReplicaSet has the template of its Deployment, but for the hash that its pods are labelled with.
fn has_template(set: &Value, deployment: &Value) -> bool {
    let (Some(own), Some(wanted)) = (
        set.pointer("/spec/template"),
        deployment.pointer("/spec/template"),
    ) else {
        return false;
    };
    let without = |value: Option<&Value>, but: &str| -> Vec<(String, Value)> {
        let mut fields: Vec<_> = value
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter(|(key, _)| *key != but)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
    };
    // The spec is most of it, and compared where it is.
    own.get("spec") == wanted.get("spec")
        && without(own.get("metadata"), "labels") == without(wanted.get("metadata"), "labels")
        && without(own.pointer("/metadata/labels"), HASH) == without(wanted.pointer("/metadata/labels"), HASH)
}

fn copied_annotations(deployment: &Value) -> Value {
    let mut copied = deployment
        .pointer("/metadata/annotations")
        .cloned()
        .unwrap_or(json!({}));
    for key in NOT_COPIED {
        object(&mut copied).shift_remove(*key);
    }
    copied
}

/// A bound of a rolling update: a quarter unless the Deployment says something else.
fn rolling(deployment: &Value, bound: &str, wanted: i64, rounded: Rounded) -> i64 {
    let given = deployment.pointer(&format!("/spec/strategy/rollingUpdate/{bound}"));
    amount(given.unwrap_or(&json!("25%")), wanted, rounded)
}

/// How many pods a rolling update may have at most.
fn maximum(deployment: &Value) -> i64 {
    let wanted = replicas(deployment);
    if text_at(deployment, "/spec/strategy/type") == "Recreate" || wanted == 0 {
        return wanted;
    }
    let surge = rolling(deployment, "maxSurge", wanted, Rounded::Up);
    wanted.saturating_add(surge)
}

/// How many of the pods a rolling update may leave missing.
fn max_unavailable(deployment: &Value) -> i64 {
    if text_at(deployment, "/spec/strategy/type") == "Recreate" {
        return 0;
    }
    let wanted = replicas(deployment);
    let unavailable = rolling(deployment, "maxUnavailable", wanted, Rounded::Down);
    // Where rounding leaves no room at all, the controller makes some.
    if maximum(deployment) == wanted {
        unavailable.max(1)
    } else {
        unavailable
    }
}

fn add_set(
    transaction: &mut Transaction,
    deployment: &Value,
    kind: &Arc<Resource>,
    old: &[Arc<Value>],
) -> Result<Arc<Value>> {
    let mut template = template(deployment);
    let hash = hash(&template);
    set_label(&mut template, HASH, &hash);
    let mut selector = deployment.pointer("/spec/selector").cloned().unwrap_or_default();
    child(&mut selector, "matchLabels").insert(HASH.into(), hash.as_str().into());
    let revision = old.iter().map(|set| revision_of(set)).max().unwrap_or(0) + 1;
    let mut annotations = copied_annotations(deployment);
    let map = object(&mut annotations);
    map.insert(DESIRED.into(), replicas(deployment).to_string().into());
    map.insert(MAXIMUM.into(), maximum(deployment).to_string().into());
    map.insert(REVISION.into(), revision.to_string().into());
    let mut spec = json!({
        "replicas": if old.is_empty() { replicas(deployment) } else { 0 },
        "selector": selector,
        "template": template,
    });
    if let Some(seconds) = deployment.pointer("/spec/minReadySeconds") {
        spec["minReadySeconds"] = seconds.clone();
    }
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", name(deployment)),
            "namespace": namespace(deployment),
            "labels": spec["template"]["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": spec,
    });
    create(transaction, kind, set, Writer::CONTROLLER)
}

/// Keeps the annotations of the current ReplicaSet in step with its Deployment, and the revision on top.
fn annotate(
    transaction: &mut Transaction,
    deployment: &Value,
    kind: &Arc<Resource>,
    current: &Arc<Value>,
    old: &[Arc<Value>],
) -> Arc<Value> {
    let mut next = Value::clone(current);
    let highest = old.iter().map(|set| revision_of(set)).max().unwrap_or(0);
    let revision = revision_of(current).max(highest + 1);
    let annotations = child(&mut next, "metadata")
        .entry("annotations")
        .or_insert_with(|| json!({}));
    let annotations = object(annotations);
    if let Value::Object(copied) = copied_annotations(deployment) {
        annotations.extend(copied);
    }
    annotations.insert(REVISION.into(), revision.to_string().into());
    annotations.insert(DESIRED.into(), replicas(deployment).to_string().into());
    annotations.insert(MAXIMUM.into(), maximum(deployment).to_string().into());
    write_status(transaction, kind, current, next, Writer::CONTROLLER)
}

/// One step of a rolling update: as many new pods as may be there at once, and as few old ones as may be missing. The change
/// of a pod calls for the next step, so pods that never become ready leave the old ones serving.
fn roll(
    transaction: &mut Transaction,
    deployment: &Value,
    kind: &Arc<Resource>,
    current: &Arc<Value>,
    old: &[Arc<Value>],
) {
    let wanted = replicas(deployment);
    let specified = |transaction: &Transaction, set: &Arc<Value>| {
        let live = transaction.state.get(&Key::of(kind, set));
        live.map_or(0, |live| replicas(live))
    };
    let reported = |transaction: &Transaction, set: &Arc<Value>| {
        let live = transaction.state.get(&Key::of(kind, set));
        live.and_then(|live| number_at(live, "/status/availableReplicas"))
            .unwrap_or(0)
    };
    let sum = |transaction: &Transaction| -> i64 { old.iter().map(|set| specified(transaction, set)).sum() };
    let have = specified(transaction, current);
    let room = (maximum(deployment) - have - sum(transaction)).max(0);
    scale(transaction, kind, current, wanted.min(have + room));
    // Of the old ones those that serve nobody go first.
    let minimum = wanted - max_unavailable(deployment);
    let have = specified(transaction, current);
    let missing = have - reported(transaction, current).min(have);
    let mut spare = (have + sum(transaction) - minimum - missing).max(0);
    for set in old {
        let replicas = specified(transaction, set);
        let idle = (replicas - reported(transaction, set)).clamp(0, spare);
        spare -= idle;
        scale(transaction, kind, set, replicas - idle);
    }
    let available: i64 = old
        .iter()
        .map(|set| reported(transaction, set).min(specified(transaction, set)))
        .sum();
    let mut spare = (available + reported(transaction, current).min(have) - minimum).max(0);
    for set in old {
        let replicas = specified(transaction, set);
        let gone = replicas.min(spare);
        spare -= gone;
        scale(transaction, kind, set, replicas - gone);
    }
}

fn scale(transaction: &mut Transaction, kind: &Arc<Resource>, set: &Arc<Value>, wanted: i64) {
    let key = Key::of(kind, set);
    let Some(live) = transaction.state.get(&key).cloned() else {
        return;
    };
    if replicas(&live) == wanted {
        return;
    }
    let mut next = Value::clone(&live);
    child(&mut next, "spec").insert("replicas".into(), wanted.into());
    let generation = number_at(&live, "/metadata/generation").unwrap_or(0) + 1;
    child(&mut next, "metadata").insert("generation".into(), generation.into());
    write_status(transaction, kind, &live, next, Writer::CONTROLLER);
}

fn scale_down(transaction: &mut Transaction, kind: &Arc<Resource>, sets: &[Arc<Value>]) {
    for set in sets {
        scale(transaction, kind, set, 0);
    }
}

/// Deletes the oldest ReplicaSets without pods beyond the limit.
fn forget_old(
    transaction: &mut Transaction,
    deployment: &Value,
    kind: &Arc<Resource>,
    old: &[Arc<Value>],
) -> Result<()> {
    let limit = number_at(deployment, "/spec/revisionHistoryLimit").unwrap_or(10);
    let surplus = usize::try_from((count(old.len()) - limit).max(0)).unwrap_or(0);
    for set in old.iter().take(surplus) {
        if let Some(live) = transaction.state.get(&Key::of(kind, set)).cloned()
            && number_at(&live, "/status/replicas").unwrap_or(0) == 0
            && replicas(&live) == 0
        {
            delete(transaction, kind, &live)?;
        }
    }
    Ok(())
}

fn report(transaction: &mut Transaction, key: &Key, current: Option<&str>) -> Result<()> {
    let Some(deployment) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    let kind = transaction.builtin("apps", "replicasets")?;
    let sets = children(transaction, &deployment, &kind);
    let sum = |field: &str, only: Option<&str>| -> i64 {
        sets.iter()
            .filter(|set| only.is_none_or(|only| name(set) == only))
            .filter_map(|set| number_at(set, &format!("/status/{field}")))
            .sum()
    };
    let wanted = replicas(&deployment);
    let total = sum("replicas", None);
    let available = sum("availableReplicas", None);
    let updated = current.map_or(0, |current| sum("replicas", Some(current)));
    let mut next = Value::clone(&deployment);
    if let Some(set) = current.and_then(|current| sets.iter().find(|set| name(set) == current)) {
        let revision = annotation(set, REVISION).to_owned();
        let annotations = child(&mut next, "metadata")
            .entry("annotations")
            .or_insert_with(|| json!({}));
        object(annotations).insert(REVISION.into(), revision.into());
    }
    observe(&mut next);
    set_counts(
        &mut next,
        &[
            ("replicas", total, false),
            ("updatedReplicas", updated, false),
            ("readyReplicas", sum("readyReplicas", None), false),
            ("availableReplicas", available, false),
            (
                "unavailableReplicas",
                (total.max(wanted) - available).max(0),
                false,
            ),
        ],
    );
    let now = transaction.now.clone();
    let paused = deployment.pointer("/spec/paused") == Some(&Value::Bool(true));
    let was_paused = list_at(&deployment, "/status/conditions")
        .iter()
        .any(|condition| text(condition, "reason") == "DeploymentPaused");
    if paused {
        let (reason, message) = ("DeploymentPaused", "Deployment is paused");
        set_condition(&mut next, "Progressing", "Unknown", reason, message, &now);
    } else if was_paused {
        let (reason, message) = ("DeploymentResumed", "Deployment is resumed");
        set_condition(&mut next, "Progressing", "Unknown", reason, message, &now);
    }
    if available >= wanted - max_unavailable(&deployment) {
        set_condition(
            &mut next,
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
            &now,
        );
    } else {
        set_condition(
            &mut next,
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
            &now,
        );
    }
    if let Some(current) = current.filter(|_| !paused) {
        let complete = updated == wanted && total == wanted && available == wanted;
        let (reason, message) = if complete {
            (
                "NewReplicaSetAvailable",
                format!("ReplicaSet \"{current}\" has successfully progressed."),
            )
        } else {
            (
                "ReplicaSetUpdated",
                format!("ReplicaSet \"{current}\" is progressing."),
            )
        };
        set_condition(&mut next, "Progressing", "True", reason, &message, &now);
    }
    let kind = transaction.builtin("apps", "deployments")?;
    write_status(transaction, &kind, &deployment, next, Writer::CONTROLLER);
    Ok(())
}

/// Sets a condition of a Deployment: one that changes moves to the end, as the controller's does.
fn set_condition(next: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: &str) {
    let conditions = child(next, "status")
        .entry("conditions")
        .or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    let before = conditions
        .iter()
        .find(|condition| text(condition, "type") == kind)
        .cloned();
    if let Some(before) = &before
        && text(before, "status") == status
        && text(before, "reason") == reason
        && text(before, "message") == message
    {
        return;
    }
    let transition = before
        .filter(|before| text(before, "status") == status)
        .map_or_else(
            || now.to_owned(),
            |before| text(&before, "lastTransitionTime").to_owned(),
        );
    conditions.retain(|condition| text(condition, "type") != kind);
    conditions.push(json!({
        "type": kind,
        "status": status,
        "lastUpdateTime": now,
        "lastTransitionTime": transition,
        "reason": reason,
        "message": message,
    }));
}

/// Makes a ReplicaSet have the pods that it wants.
pub(crate) fn reconcile_set(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(set) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if is_deleting(&set) {
        return Ok(());
    }
    let mut pods = workloads::pods(transaction, &set)?;
    let wanted = replicas(&set);
    let mut failure = Ok(());
    for _ in count(pods.len())..wanted {
        failure = create_pod(transaction, mk_pod(&set, &template(&set))).map(|_| ());
        if failure.is_err() {
            break;
        }
    }
    // The ones that are not ready go first, then the newest.
    pods.sort_by_key(|pod| {
        (
            is_ready(pod),
            std::cmp::Reverse(text_at(pod, "/metadata/creationTimestamp").to_owned()),
        )
    });
    let surplus = usize::try_from((count(pods.len()) - wanted).max(0)).unwrap_or(0);
    for pod in pods.iter().take(surplus) {
        delete_pod(transaction, pod)?;
    }
    let pods = workloads::pods(transaction, &set)?;
    let Some(live) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    let mut next = Value::clone(&live);
    let labels = live
        .pointer("/spec/template/metadata/labels")
        .cloned()
        .unwrap_or_default();
    let labelled = pods
        .iter()
        .filter(|pod| {
            labels.as_object().is_some_and(|labels| {
                labels.iter().all(|(key, value)| {
                    pod.pointer("/metadata/labels").and_then(|all| all.get(key)) == Some(value)
                })
            })
        })
        .count();
    let ready = count_ready(&pods);
    observe(&mut next);
    set_counts(
        &mut next,
        &[
            ("replicas", count(pods.len()), true),
            ("fullyLabeledReplicas", count(labelled), false),
            ("readyReplicas", ready, false),
            ("availableReplicas", ready, false),
        ],
    );
    let status = child(&mut next, "status");
    match &failure {
        Err(refused) => {
            let before = list_at(&live, "/status/conditions")
                .iter()
                .find(|condition| text(condition, "type") == "ReplicaFailure")
                .map(|condition| text(condition, "lastTransitionTime").to_owned());
            status.insert(
                "conditions".into(),
                json!([{
                    "type": "ReplicaFailure",
                    "status": "True",
                    "lastTransitionTime": before.unwrap_or_else(|| transaction.now.clone()),
                    "reason": "FailedCreate",
                    "message": refused.message,
                }]),
            );
        }
        Ok(()) => {
            status.shift_remove("conditions");
        }
    }
    let kind = transaction.builtin("apps", "replicasets")?;
    write_status(transaction, &kind, &live, next, Writer::CONTROLLER);
    Ok(())
}
