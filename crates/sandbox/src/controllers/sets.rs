//! StatefulSets, DaemonSets and Jobs.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::controllers::workloads::{
    self, Rounded, amount, children, count, count_ready, create_pod, delete_pod, is_finished, is_ready,
    mk_pod, observe, revise, set_counts, set_label, template,
};
use crate::controllers::{create, scheduler, write_status};
use crate::json::{child, is_deleting, list_at, name, namespace, number_at, object, text, text_at};
use crate::status::Result;
use crate::store::Key;
use crate::transaction::Transaction;
use crate::write::Writer;

const REVISION_HASH: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";

fn label<'a>(object: &'a Value, key: &str) -> &'a str {
    object
        .pointer("/metadata/labels")
        .map_or("", |labels| text(labels, key))
}

pub(crate) fn reconcile_stateful(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(set) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if is_deleting(&set) {
        return Ok(());
    }
    let revision = revise(transaction, &set)?;
    let wanted = number_at(&set, "/spec/replicas").unwrap_or(1);
    let rolling = text_at(&set, "/spec/updateStrategy/type") != "OnDelete";
    let partition = number_at(&set, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
    let ordinal_of = |pod: &Value| {
        let last = name(pod).rsplit('-').next();
        last.and_then(|text| text.parse::<i64>().ok()).unwrap_or(i64::MAX)
    };
    let mut pods = workloads::pods(transaction, &set)?;
    pods.sort_by_key(|pod| std::cmp::Reverse(ordinal_of(pod)));
    let mut held = false;
    for pod in pods {
        let ordinal = ordinal_of(&pod);
        let outdated = label(&pod, REVISION_HASH) != revision.current && rolling && ordinal >= partition;
        if ordinal >= wanted {
            delete_pod(transaction, &pod)?;
        } else if !held && outdated {
            // One after the other, from the last one on: the next one when this one is ready again.
            delete_pod(transaction, &pod)?;
            held = true;
        }
        held |= !is_ready(&pod);
    }
    let pod_kind = transaction.builtin("", "pods")?;
    for ordinal in 0..wanted {
        let pod_name = format!("{}-{ordinal}", name(&set));
        if transaction
            .state
            .get(&Key::new(&pod_kind, namespace(&set), &pod_name))
            .is_none()
        {
            let pod = stateful_pod(transaction, &set, &pod_name, &revision.current)?;
            create_pod(transaction, pod)?;
        }
    }
    let pods = workloads::pods(transaction, &set)?;
    let updated: Vec<_> = pods
        .iter()
        .filter(|pod| label(pod, REVISION_HASH) == revision.current)
        .cloned()
        .collect();
    let Some(live) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    let mut next = Value::clone(&live);
    observe(&mut next);
    let done = updated.len() == pods.len() && count_ready(&pods) == wanted;
    let status = child(&mut next, "status");
    status.insert("updateRevision".into(), revision.current.as_str().into());
    if done || !status.contains_key("currentRevision") {
        status.insert("currentRevision".into(), revision.current.as_str().into());
    }
    let current = status
        .get("currentRevision")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let at_current = pods
        .iter()
        .filter(|pod| label(pod, REVISION_HASH) == current)
        .count();
    set_counts(
        &mut next,
        &[
            ("replicas", count(pods.len()), true),
            ("readyReplicas", count_ready(&pods), false),
            ("currentReplicas", count(at_current), false),
            ("updatedReplicas", count(updated.len()), false),
            ("collisionCount", 0, true),
        ],
    );
    let kind = transaction.builtin("apps", "statefulsets")?;
    write_status(transaction, &kind, &live, next, Writer::CONTROLLER);
    Ok(())
}

fn stateful_pod(transaction: &mut Transaction, set: &Value, pod_name: &str, revision: &str) -> Result<Value> {
    let mut pod = mk_pod(set, &template(set));
    set_label(&mut pod, REVISION_HASH, revision);
    set_label(&mut pod, POD_NAME, pod_name);
    child(&mut pod, "metadata").insert("name".into(), pod_name.into());
    let mut volumes = list_at(&pod, "/spec/volumes").to_vec();
    for claim in list_at(set, "/spec/volumeClaimTemplates") {
        let volume = name(claim);
        let claim_name = format!("{volume}-{pod_name}");
        volumes.retain(|known| text(known, "name") != volume);
        volumes.push(json!({ "name": volume, "persistentVolumeClaim": { "claimName": claim_name } }));
        claim_volume(transaction, set, claim, &claim_name)?;
    }
    let spec = child(&mut pod, "spec");
    spec.insert("hostname".into(), pod_name.into());
    if let Some(service) = set.pointer("/spec/serviceName").filter(|service| *service != "") {
        spec.insert("subdomain".into(), service.clone());
    }
    if !volumes.is_empty() {
        spec.insert("volumes".into(), volumes.into());
    }
    Ok(pod)
}

fn claim_volume(
    transaction: &mut Transaction,
    set: &Value,
    template: &Value,
    claim_name: &str,
) -> Result<()> {
    let kind = transaction.builtin("", "persistentvolumeclaims")?;
    if transaction
        .state
        .get(&Key::new(&kind, namespace(set), claim_name))
        .is_some()
    {
        return Ok(());
    }
    let mut metadata = json!({ "name": claim_name, "namespace": namespace(set) });
    if let Some(annotations) = template.pointer("/metadata/annotations") {
        metadata["annotations"] = annotations.clone();
    }
    let mut labels = template.pointer("/metadata/labels").cloned().unwrap_or(json!({}));
    if let Some(Value::Object(selector)) = set.pointer("/spec/selector/matchLabels") {
        object(&mut labels).extend(selector.clone());
    }
    metadata["labels"] = labels;
    let claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": template.get("spec").cloned().unwrap_or_default(),
    });
    create(transaction, &kind, claim, Writer::CONTROLLER)?;
    Ok(())
}

pub(crate) fn reconcile_daemon(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(set) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if is_deleting(&set) {
        return Ok(());
    }
    let revision = revise(transaction, &set)?;
    let template = template(&set);
    let nodes = scheduler::nodes_for_daemon(transaction, template.get("spec").unwrap_or(&Value::Null));
    let rolling = text_at(&set, "/spec/updateStrategy/type") != "OnDelete";
    let mut covered = std::collections::BTreeSet::new();
    let mut pods = workloads::pods(transaction, &set)?;
    let is_outdated = |pod: &Value| label(pod, REVISION_HASH) != revision.hash && rolling;
    // New pods that are not ready use up what may be missing; old ones that are not ready miss anyway.
    let mut room = max_unavailable(&set, nodes.len())
        - count(
            pods.iter()
                .filter(|pod| !is_outdated(pod) && !is_ready(pod))
                .count(),
        );
    pods.sort_by_key(|pod| is_ready(pod));
    for pod in pods {
        let node = node_of(&pod).to_owned();
        let outdated = is_outdated(&pod) && (room > 0 || !is_ready(&pod));
        room -= i64::from(outdated);
        if outdated || !nodes.iter().any(|fitting| name(fitting) == node) || !covered.insert(node) {
            delete_pod(transaction, &pod)?;
        }
    }
    let mut present: std::collections::BTreeSet<String> = workloads::pods(transaction, &set)?
        .iter()
        .map(|pod| node_of(pod).to_owned())
        .collect();
    let generation = set
        .pointer("/metadata/annotations")
        .map_or("", |all| text(all, "deprecated.daemonset.template.generation"))
        .to_owned();
    for node in &nodes {
        if present.insert(name(node).to_owned()) {
            let pod = daemon_pod(&set, &template, name(node), &revision.hash, &generation);
            create_pod(transaction, pod)?;
        }
    }
    let pods = workloads::pods(transaction, &set)?;
    let updated = pods
        .iter()
        .filter(|pod| label(pod, REVISION_HASH) == revision.hash)
        .count();
    let ready = count_ready(&pods);
    let desired = count(nodes.len());
    let Some(live) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    let mut next = Value::clone(&live);
    observe(&mut next);
    set_counts(
        &mut next,
        &[
            ("currentNumberScheduled", count(pods.len()), true),
            ("numberMisscheduled", 0, true),
            ("desiredNumberScheduled", desired, true),
            ("numberReady", ready, true),
            ("updatedNumberScheduled", count(updated), false),
            ("numberAvailable", ready, false),
            ("numberUnavailable", (desired - ready).max(0), false),
        ],
    );
    let kind = transaction.builtin("apps", "daemonsets")?;
    write_status(transaction, &kind, &live, next, Writer::CONTROLLER);
    Ok(())
}

/// How many nodes an update of daemons may leave without one.
fn max_unavailable(set: &Value, nodes: usize) -> i64 {
    set.pointer("/spec/updateStrategy/rollingUpdate/maxUnavailable")
        .map_or(1, |most| amount(most, count(nodes), Rounded::Up))
        .max(1)
}

/// The node that a daemon's pod runs on, or is meant for.
fn node_of(pod: &Value) -> &str {
    let assigned = text_at(pod, "/spec/nodeName");
    if assigned.is_empty() {
        text_at(
            pod,
            "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0",
        )
    } else {
        assigned
    }
}

fn daemon_pod(set: &Value, template: &Value, node: &str, hash: &str, generation: &str) -> Value {
    let mut pod = mk_pod(set, template);
    set_label(&mut pod, REVISION_HASH, hash);
    if !generation.is_empty() {
        set_label(&mut pod, "pod-template-generation", generation);
    }
    let mut tolerations = list_at(&pod, "/spec/tolerations").to_vec();
    let mut add = |key: &str, effect: &str| {
        let toleration = json!({ "key": key, "operator": "Exists", "effect": effect });
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    };
    add("node.kubernetes.io/not-ready", "NoExecute");
    add("node.kubernetes.io/unreachable", "NoExecute");
    add("node.kubernetes.io/disk-pressure", "NoSchedule");
    add("node.kubernetes.io/memory-pressure", "NoSchedule");
    add("node.kubernetes.io/pid-pressure", "NoSchedule");
    add("node.kubernetes.io/unschedulable", "NoSchedule");
    if pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        add("node.kubernetes.io/network-unavailable", "NoSchedule");
    }
    let term = json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [node] }] }]);
    let spec = child(&mut pod, "spec");
    spec.insert("tolerations".into(), tolerations.into());
    let affinity = spec.entry("affinity").or_insert_with(|| json!({}));
    let by_node = child(affinity, "nodeAffinity");
    by_node.insert(
        "requiredDuringSchedulingIgnoredDuringExecution".into(),
        json!({ "nodeSelectorTerms": term }),
    );
    pod
}

/// `Complete` or `Failed`, once a Job is.
pub(crate) fn job_outcome(job: &Value) -> Option<&str> {
    list_at(job, "/status/conditions")
        .iter()
        .find(|condition| {
            matches!(text(condition, "type"), "Complete" | "Failed") && text(condition, "status") == "True"
        })
        .map(|condition| text(condition, "type"))
}

/// Runs a Job: its pods succeed.
pub(crate) fn reconcile_job(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(job) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if is_deleting(&job) || job_outcome(&job).is_some() {
        return Ok(());
    }
    let kind = transaction.builtin("batch", "jobs")?;
    let pod_kind = transaction.builtin("", "pods")?;
    let parallelism = number_at(&job, "/spec/parallelism").unwrap_or(1);
    let completions = number_at(&job, "/spec/completions").unwrap_or(parallelism.min(1));
    let pods = children(transaction, &job, &pod_kind);
    let succeeded = |pods: &[Arc<Value>]| {
        count(
            pods.iter()
                .filter(|pod| text_at(pod, "/status/phase") == "Succeeded")
                .count(),
        )
    };
    let active = count(
        pods.iter()
            .filter(|pod| !is_finished(pod) && !is_deleting(pod))
            .count(),
    );
    let missing = (completions - succeeded(&pods) - active)
        .min(parallelism - active)
        .max(0);
    if job.pointer("/spec/suspend") != Some(&Value::Bool(true)) {
        for _ in 0..missing {
            create_pod(transaction, mk_pod(&job, &template(&job)))?;
        }
    }
    let pods = children(transaction, &job, &pod_kind);
    let done = succeeded(&pods);
    let active = count(
        pods.iter()
            .filter(|pod| !is_finished(pod) && !is_deleting(pod))
            .count(),
    );
    let Some(live) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    let mut next = Value::clone(&live);
    let now = transaction.now.clone();
    let status = child(&mut next, "status");
    status.entry("startTime").or_insert_with(|| now.as_str().into());
    if done >= completions {
        status
            .entry("completionTime")
            .or_insert_with(|| now.as_str().into());
        status.insert(
            "conditions".into(),
            json!([{
                "type": "Complete", "status": "True", "lastProbeTime": now, "lastTransitionTime": now,
            }]),
        );
    }
    set_counts(
        &mut next,
        &[("active", active, false), ("succeeded", done, false)],
    );
    write_status(transaction, &kind, &live, next, Writer::CONTROLLER);
    Ok(())
}

/// What a ServiceAccount that has just been made lets start: pods that were refused without it.
pub(crate) fn retry_with_account(transaction: &mut Transaction, account: &Key) -> Result<()> {
    for (group, plural) in [
        ("apps", "replicasets"),
        ("apps", "statefulsets"),
        ("apps", "daemonsets"),
        ("batch", "jobs"),
    ] {
        let kind = transaction.builtin(group, plural)?;
        let waiting: Vec<_> = transaction
            .state
            .objects_of(&kind)
            .range(account.namespace(), None)
            .filter(|(_, workload)| {
                let used = text_at(workload, "/spec/template/spec/serviceAccountName");
                used == account.name() || (used.is_empty() && account.name() == "default")
            })
            .map(|(_, workload)| Key::of(&kind, workload))
            .collect();
        for key in waiting {
            transaction.mark(key);
        }
    }
    Ok(())
}

/// Daemons follow the nodes.
pub(crate) fn cover_nodes(transaction: &mut Transaction) -> Result<()> {
    let kind = transaction.builtin("apps", "daemonsets")?;
    let all: Vec<_> = transaction
        .state
        .objects_of(&kind)
        .iter()
        .map(|(_, set)| Key::of(&kind, set))
        .collect();
    for key in all {
        transaction.mark(key);
    }
    Ok(())
}
