//! Pods: what admission adds to them, and the scheduler and kubelets that run them.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::controllers::workloads::{controller_of, is_finished};
use crate::controllers::{events, failing, kubelet, scheduler, volumes, write_status};
use crate::faults::Affliction;
use crate::fields::managed;
use crate::json::{child, is_deleting, list, list_at, name, namespace, object, text, text_at};
use crate::kinds::Resource;
use crate::status::{Result, Status};
use crate::store::{Collection, Key};
use crate::transaction::Transaction;
use crate::write::Writer;

/// What admission does to a pod that is created: its ServiceAccount, priority and tolerations.
pub(crate) fn admit(transaction: &mut Transaction, resource: &Resource, pod: &mut Value) -> Result<()> {
    // A generated name is not drawn yet when admission speaks.
    let pod_name = match text_at(pod, "/metadata/generateName") {
        "" => name(pod).to_owned(),
        base => base.to_owned(),
    };
    let pod_namespace = namespace(pod).to_owned();
    let spec = child(pod, "spec");
    let account = match spec
        .get("serviceAccountName")
        .and_then(Value::as_str)
        .unwrap_or_default()
    {
        "" => "default".to_owned(),
        given => given.to_owned(),
    };
    spec.insert("serviceAccountName".into(), account.as_str().into());
    spec.insert("serviceAccount".into(), account.as_str().into());
    let Some(found) = transaction
        .state
        .find("serviceaccounts", &pod_namespace, &account)
        .cloned()
    else {
        let why = format!(
            "error looking up service account {pod_namespace}/{account}: serviceaccount \"{account}\" not found"
        );
        return Err(Status::forbidden(resource, &pod_name, &why));
    };
    mount_token(transaction, &found, pod);
    if !prioritise(transaction, pod) {
        let class = text_at(pod, "/spec/priorityClassName");
        let why = format!("no PriorityClass with name {class} was found");
        return Err(Status::forbidden(resource, &pod_name, &why));
    }
    let spec = child(pod, "spec");
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if let Some(tolerations) = tolerations.as_array_mut() {
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let tolerated = tolerations.iter().any(|one| {
                let (of, effect) = (text(one, "key"), text(one, "effect"));
                (of == key || of.is_empty()) && (effect == "NoExecute" || effect.is_empty())
            });
            if !tolerated {
                tolerations.push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
                }));
            }
        }
    }
    let class = quality(pod);
    child(pod, "status").insert("qosClass".into(), class.into());
    Ok(())
}

/// Mounts the account's token into every container that mounts nothing there.
fn mount_token(transaction: &mut Transaction, account: &Value, pod: &mut Value) {
    const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let wanted = pod
        .pointer("/spec/automountServiceAccountToken")
        .or_else(|| account.get("automountServiceAccountToken"))
        .is_none_or(|wanted| *wanted == Value::Bool(true));
    if !wanted {
        return;
    }
    let volume = if transaction.builtins.minor >= 21 {
        json!({
            "name": format!("kube-api-access-{}", transaction.state.draw_suffix()),
            "projected": { "defaultMode": 420, "sources": [
                { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{
                    "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ] },
        })
    } else {
        let Some(secret) = list(account, "secrets")
            .iter()
            .map(|secret| text(secret, "name"))
            .find(|secret| {
                transaction
                    .state
                    .find("secrets", namespace(account), secret)
                    .is_some_and(|found| text(found, "type") == "kubernetes.io/service-account-token")
            })
        else {
            return;
        };
        json!({ "name": secret, "secret": { "secretName": secret, "defaultMode": 420 } })
    };
    let volume_name = text(&volume, "name").to_owned();
    let spec = child(pod, "spec");
    let mut mounted = false;
    for key in ["containers", "initContainers"] {
        for container in spec
            .get_mut(key)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if list(container, "volumeMounts")
                .iter()
                .any(|mount| text(mount, "mountPath") == PLACE)
            {
                continue;
            }
            mounted = true;
            let mounts = object(container)
                .entry("volumeMounts")
                .or_insert_with(|| json!([]));
            if let Some(mounts) = mounts.as_array_mut() {
                mounts.push(json!({ "name": volume_name, "readOnly": true, "mountPath": PLACE }));
            }
        }
    }
    if mounted && let Some(volumes) = spec.entry("volumes").or_insert_with(|| json!([])).as_array_mut() {
        volumes.push(volume);
    }
}

/// Gives a pod the priority of its class, and says whether there is that class.
fn prioritise(transaction: &Transaction, pod: &mut Value) -> bool {
    let class = text_at(pod, "/spec/priorityClassName").to_owned();
    let value = match class.as_str() {
        "" => 0,
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        other => match transaction
            .state
            .find("priorityclasses.scheduling.k8s.io", "", other)
        {
            Some(class) => crate::json::number_at(class, "/value").unwrap_or(0),
            None => return false,
        },
    };
    let spec = child(pod, "spec");
    spec.insert("priority".into(), value.into());
    spec.entry("preemptionPolicy")
        .or_insert_with(|| "PreemptLowerPriority".into());
    true
}

/// The class of service that follows from requests and limits.
fn quality(pod: &Value) -> &'static str {
    let containers: Vec<_> = list_at(pod, "/spec/containers")
        .iter()
        .chain(list_at(pod, "/spec/initContainers"))
        .collect();
    let at = |container: &Value, kind: &str, what: &str| {
        container.pointer(&format!("/resources/{kind}/{what}")).cloned()
    };
    let any = containers.iter().any(|container| {
        ["requests", "limits"].iter().any(|kind| {
            ["cpu", "memory"]
                .iter()
                .any(|what| at(container, kind, what).is_some())
        })
    });
    let all = containers.iter().all(|container| {
        ["cpu", "memory"].iter().all(|what| {
            let limit = at(container, "limits", what);
            limit.is_some() && at(container, "requests", what).is_none_or(|request| Some(request) == limit)
        })
    });
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Schedules and runs a pod that waits. One that cannot run comes to the state that tells why.
pub(crate) fn run(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(pod) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if is_deleting(&pod) || is_finished(&pod) {
        return Ok(());
    }
    let scheduler = text_at(&pod, "/spec/schedulerName");
    if text_at(&pod, "/spec/nodeName").is_empty() && !matches!(scheduler, "" | "default-scheduler") {
        // Somebody else's scheduler is to find a node, and there is none.
        return Ok(());
    }
    let affliction = transaction
        .state
        .troubles
        .of_pod(namespace(&pod), name(&pod), &pod);
    if text_at(&pod, "/status/phase") == "Running"
        && matches!(affliction, Some(Affliction::Crash(_))) == failing::is_crashing(&pod)
    {
        return Ok(());
    }
    let kind = transaction.builtin("", "pods")?;
    let node = match text_at(&pod, "/spec/nodeName") {
        "" => match scheduler::choose(transaction, &pod) {
            Ok(node) => node,
            Err(why) => return leave_pending(transaction, &kind, &pod, &why),
        },
        given => match transaction.state.find("nodes", "", given) {
            Some(node) => Arc::clone(node),
            // There is no kubelet that would run it.
            None => return Ok(()),
        },
    };
    volumes::provide(transaction, &pod)?;
    let mut bound = Value::clone(&pod);
    child(&mut bound, "spec").insert("nodeName".into(), name(&node).into());
    let mut next = bound.clone();
    let starts = transaction.config.pod_start();
    let is_early = !has_started(&pod, starts, (transaction.config.clock)());
    // A pod that ran once has all that it needs.
    let runs = text_at(&pod, "/status/phase") == "Running";
    if is_early || (!runs && kubelet::cannot_mount(transaction, &pod)?) {
        if is_starting(&pod) {
            return Ok(());
        }
        prepare(transaction, &mut next);
        transaction.put(&kind, next);
        return Ok(());
    }
    start(transaction, &node, &mut next);
    if let Some(affliction) = affliction {
        failing::afflict(transaction, &affliction, &pod, &mut next)?;
    } else if !runs {
        kubelet::check_environment(transaction, &pod, &mut next)?;
    }
    if next == *pod {
        return Ok(());
    }
    let schema = kind.schema(&kind.storage_version);
    managed::update_subresource(
        &bound,
        &mut next,
        Writer::KUBELET.manager,
        transaction.recorded("status"),
        &transaction.now,
        &schema,
    );
    transaction.put(&kind, next);
    Ok(())
}

/// Whether the containers of a pod are being made.
pub(crate) fn is_starting(pod: &Value) -> bool {
    text_at(pod, "/status/phase") == "Pending" && !text_at(pod, "/status/startTime").is_empty()
}

/// Whether a pod has had the time that starting takes.
pub(crate) fn has_started(pod: &Value, starts: SignedDuration, now: Timestamp) -> bool {
    let begun = text_at(pod, "/status/startTime").parse::<Timestamp>().ok();
    starts.is_zero()
        || begun
            .and_then(|begun| begun.checked_add(starts).ok())
            .is_some_and(|ready| ready <= now)
}

/// The status of a pod that has a node, and whose containers are being made.
fn prepare(transaction: &Transaction, pod: &mut Value) {
    let now = &transaction.now;
    let condition = |kind: &str, is_true: bool| {
        let mut condition = json!({
            "type": kind, "status": if is_true { "True" } else { "False" },
            "lastProbeTime": null, "lastTransitionTime": now,
        });
        if !is_true {
            let names: Vec<_> = list_at(pod, "/spec/containers")
                .iter()
                .map(|container| text(container, "name"))
                .collect();
            condition["reason"] = "ContainersNotReady".into();
            condition["message"] = format!("containers with unready status: [{}]", names.join(" ")).into();
        }
        condition
    };
    let conditions = json!([
        condition("Initialized", true),
        condition("Ready", false),
        condition("ContainersReady", false),
        condition("PodScheduled", true),
    ]);
    let waiting: Vec<_> = list_at(pod, "/spec/containers")
        .iter()
        .map(|container| {
            json!({
                "name": text(container, "name"), "state": { "waiting": { "reason": "ContainerCreating" } },
                "lastState": {}, "ready": false, "restartCount": 0, "image": text(container, "image"), "imageID": "",
                "started": false,
            })
        })
        .collect();
    let now = now.clone();
    let status = child(pod, "status");
    status.insert("phase".into(), "Pending".into());
    status.insert("conditions".into(), conditions);
    status.insert("startTime".into(), now.into());
    status.insert("containerStatuses".into(), waiting.into());
}

/// Puts a pod on a node, as a scheduler asks for it.
pub(crate) fn bind(
    transaction: &mut Transaction,
    kind: &Arc<Resource>,
    pod: &Arc<Value>,
    node: &str,
) -> Result<()> {
    let taken = text_at(pod, "/spec/nodeName");
    if !taken.is_empty() {
        let why = format!("pod {} is already assigned to node {taken:?}", name(pod));
        let mut status = Status::conflict(kind, name(pod), &why);
        status.message = status.message.replacen("pods ", "pods/binding ", 1);
        if let Some(kind) = status.details.get_mut("kind") {
            *kind = "pods/binding".into();
        }
        return Err(status);
    }
    let mut next = Value::clone(pod);
    child(&mut next, "spec").insert("nodeName".into(), node.into());
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": transaction.now,
    });
    child(&mut next, "status").insert("conditions".into(), json!([condition]));
    transaction.put(kind, next);
    Ok(())
}

fn leave_pending(
    transaction: &mut Transaction,
    kind: &Arc<Resource>,
    pod: &Arc<Value>,
    why: &str,
) -> Result<()> {
    let mut next = Value::clone(pod);
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
        "lastProbeTime": null, "lastTransitionTime": transaction.now,
    });
    let known = list_at(pod, "/status/conditions")
        .iter()
        .any(|known| text(known, "type") == "PodScheduled" && text(known, "message") == why);
    if known {
        return Ok(());
    }
    events::tell(transaction, pod, &events::FAILED_SCHEDULING, why)?;
    child(&mut next, "status").insert("conditions".into(), json!([condition]));
    let scheduler = Writer {
        manager: "kube-scheduler",
        admission: false,
        user: None,
    };
    write_status(transaction, kind, pod, next, scheduler);
    Ok(())
}

/// Whether the containers of a pod end by themselves: those of Jobs, and of pods that nobody would start again.
fn ends(pod: &Value) -> bool {
    match controller_of(pod) {
        Some(owner) => text(owner, "kind") == "Job",
        None => matches!(text_at(pod, "/spec/restartPolicy"), "Never" | "OnFailure"),
    }
}

/// The status of a pod that runs, or has run where it ends.
fn start(transaction: &mut Transaction, node: &Value, pod: &mut Value) {
    let now = transaction.now.clone();
    let runs_to_completion = ends(pod);
    let host = list_at(node, "/status/addresses")
        .iter()
        .find(|address| text(address, "type") == "InternalIP")
        .map_or("127.0.0.1", |address| text(address, "address"))
        .to_owned();
    let known = text_at(pod, "/status/podIP");
    let address = if !known.is_empty() {
        known.to_owned()
    } else if pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        host.clone()
    } else {
        free_address(transaction, node)
    };
    let (ready, reason) = if runs_to_completion {
        ("False", Some("PodCompleted"))
    } else {
        ("True", None)
    };
    let condition = |kind: &str, status: &str, reason: Option<&str>| {
        let mut condition =
            json!({ "type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": now });
        if let Some(reason) = reason {
            condition["reason"] = reason.into();
        }
        condition
    };
    let containers = |key: &str, done: bool| -> Vec<Value> {
        list_at(pod, &format!("/spec/{key}"))
            .iter()
            .map(|container| {
                let image = text(container, "image");
                let state = if done {
                    json!({ "terminated": {
                        "exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now,
                        "containerID": "containerd://sandbox",
                    } })
                } else {
                    json!({ "running": { "startedAt": now } })
                };
                json!({
                    "name": text(container, "name"),
                    "state": state,
                    "lastState": {},
                    "ready": !done || key == "initContainers",
                    "restartCount": 0,
                    "image": image,
                    "imageID": format!("{image}@sandbox"),
                    "containerID": "containerd://sandbox",
                    "started": !done,
                })
            })
            .collect()
    };
    let mains = containers("containers", runs_to_completion);
    let inits = containers("initContainers", true);
    let status = child(pod, "status");
    status.insert(
        "phase".into(),
        if runs_to_completion {
            "Succeeded"
        } else {
            "Running"
        }
        .into(),
    );
    status.insert(
        "conditions".into(),
        json!([
            condition("Initialized", "True", reason),
            condition("Ready", ready, reason),
            condition("ContainersReady", ready, reason),
            condition("PodScheduled", "True", None),
        ]),
    );
    status.insert("hostIP".into(), host.into());
    status.insert("podIP".into(), address.as_str().into());
    status.insert("podIPs".into(), json!([{ "ip": address }]));
    status.insert("startTime".into(), now.as_str().into());
    status.insert("containerStatuses".into(), mains.into());
    if !inits.is_empty() {
        status.insert("initContainerStatuses".into(), inits.into());
    }
}

/// An address of the node's network that no pod has.
fn free_address(transaction: &Transaction, node: &Value) -> String {
    let network = text_at(node, "/spec/podCIDR");
    let base = network.rsplit_once('.').map_or("10.233.64", |(base, _)| base);
    let taken: std::collections::BTreeSet<&str> = transaction
        .state
        .collection("pods")
        .into_iter()
        .flat_map(Collection::iter)
        .map(|(_, pod)| text_at(pod, "/status/podIP"))
        .collect();
    // A /24 for each node; a node that is full begins to use the second last number as well.
    (0..64 * 254)
        .map(|index: u32| {
            let (block, last) = (index / 254, index % 254 + 1);
            if block == 0 {
                format!("{base}.{last}")
            } else {
                format!("10.{}.{}.{last}", 234 + block / 256, block % 256)
            }
        })
        .find(|address| !taken.contains(address.as_str()))
        .unwrap_or_else(|| format!("{base}.254"))
}

/// Pods that found no node try again when there is more room.
pub(crate) fn retry_pending(transaction: &mut Transaction) -> Result<()> {
    retry(transaction, "", |pod| text_at(pod, "/spec/nodeName").is_empty())
}

/// Lets those pods try again that wait: of a namespace, or all of them where it is empty.
pub(crate) fn retry(
    transaction: &mut Transaction,
    namespace: &str,
    concerns: impl Fn(&Value) -> bool,
) -> Result<()> {
    let kind = transaction.builtin("", "pods")?;
    let pending: Vec<_> = transaction
        .state
        .objects_of(&kind)
        .range(namespace, None)
        .filter(|(_, pod)| matches!(text_at(pod, "/status/phase"), "" | "Pending") && concerns(pod))
        .map(|(_, pod)| Key::of(&kind, pod))
        .collect();
    for key in pending {
        run(transaction, &key)?;
    }
    Ok(())
}
