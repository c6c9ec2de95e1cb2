//! Whether objects are as they should be: pure predicates over what was read.

use object::Object;
use serde_json::Value;

use crate::preflight::{
    count,
    selector::{labels_of, selects},
};

/// How far an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Complete,
    /// Not yet; the text says what is awaited.
    Progressing(String),
    /// It will not get there by waiting; the text says why.
    Failed(String),
}

impl Health {
    pub fn is_complete(&self) -> bool {
        *self == Self::Complete
    }

    /// What is the matter, unless it is complete.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Complete => None,
            Self::Progressing(message) | Self::Failed(message) => Some(message),
        }
    }
}

fn progressing(message: impl Into<String>) -> Health {
    Health::Progressing(message.into())
}

fn number(object: &Object, pointer: &str) -> i64 {
    object.get(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// A workload without `spec.replicas` has one.
pub fn replicas(workload: &Object) -> i64 {
    workload
        .get("/spec/replicas")
        .and_then(Value::as_i64)
        .unwrap_or(1)
}

/// A condition of an object: whether it is true, its reason, its message.
pub fn condition<'a>(object: &'a Object, name: &str) -> Option<(bool, &'a str, &'a str)> {
    let condition = object
        .get("/status/conditions")?
        .as_array()?
        .iter()
        .find(|c| c.get("type").and_then(Value::as_str) == Some(name))?;
    let text = |field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default();
    Some((text("status") == "True", text("reason"), text("message")))
}

fn is_observed(object: &Object) -> bool {
    number(object, "/status/observedGeneration") >= number(object, "/metadata/generation")
}

/// How far a workload's rollout is, by the rules of `kubectl rollout status`. Kinds that do not roll out are
/// complete; a Job is complete when it succeeded.
pub fn rollout(object: &Object) -> Health {
    match (object.group(), object.kind()) {
        ("apps", "Deployment") => deployment(object),
        ("apps", "StatefulSet") => stateful_set(object),
        ("apps", "DaemonSet") => daemon_set(object),
        ("batch", "Job") => job(object),
        _ => Health::Complete,
    }
}

fn deployment(object: &Object) -> Health {
    if !is_observed(object) {
        return progressing("its controller has not seen the change yet");
    }
    if let Some((_, "ProgressDeadlineExceeded", message)) = condition(object, "Progressing") {
        return Health::Failed(format!("it exceeded its progress deadline: {message}"));
    }
    let wanted = replicas(object);
    let updated = number(object, "/status/updatedReplicas");
    let existing = number(object, "/status/replicas");
    let available = number(object, "/status/availableReplicas");
    let state = if updated < wanted {
        format!("{updated} of {wanted} replicas are updated")
    } else if existing > updated {
        let old = usize::try_from(existing - updated).unwrap_or_default();
        format!("{} still there", count(old, "old replica"))
    } else if available < updated {
        format!("{available} of {updated} updated replicas are available")
    } else {
        return Health::Complete;
    };
    if object.get("/spec/paused").and_then(Value::as_bool) == Some(true) {
        return Health::Failed(format!("{state}, and its rollout is paused"));
    }
    // A quota or a webhook that refuses its pods.
    match condition(object, "ReplicaFailure") {
        Some((true, _, message)) => progressing(format!("{state}: {message}")),
        _ => progressing(state),
    }
}

/// Whether a workload leaves its pods as they are until somebody deletes them.
pub fn updates_on_delete(object: &Object) -> bool {
    object.get_str("/spec/updateStrategy/type") == Some("OnDelete")
}

/// How many pods such a workload still runs as they were before its last change.
pub fn pods_left_behind(object: &Object) -> i64 {
    if !updates_on_delete(object) {
        return 0;
    }
    let (all, updated) = match object.kind() {
        "StatefulSet" => ("/status/replicas", "/status/updatedReplicas"),
        "DaemonSet" => ("/status/desiredNumberScheduled", "/status/updatedNumberScheduled"),
        _ => return 0,
    };
    (number(object, all) - number(object, updated)).max(0)
}

fn stateful_set(object: &Object) -> Health {
    if !is_observed(object) {
        return progressing("its controller has not seen the change yet");
    }
    let wanted = replicas(object);
    let ready = number(object, "/status/readyReplicas");
    if ready < wanted {
        return progressing(format!("{ready} of {wanted} replicas are ready"));
    }
    if updates_on_delete(object) {
        return Health::Complete;
    }
    let updated = number(object, "/status/updatedReplicas");
    let partition = number(object, "/spec/updateStrategy/rollingUpdate/partition");
    if partition > 0 {
        let wanted = (wanted - partition).max(0);
        return if updated < wanted {
            progressing(format!(
                "{updated} of {wanted} replicas above the partition are updated"
            ))
        } else {
            Health::Complete
        };
    }
    if object.get_str("/status/updateRevision") == object.get_str("/status/currentRevision") {
        Health::Complete
    } else {
        progressing(format!("{updated} of {wanted} replicas are updated"))
    }
}

fn daemon_set(object: &Object) -> Health {
    if !is_observed(object) {
        return progressing("its controller has not seen the change yet");
    }
    let wanted = number(object, "/status/desiredNumberScheduled");
    let updated = number(object, "/status/updatedNumberScheduled");
    let available = number(object, "/status/numberAvailable");
    if !updates_on_delete(object) && updated < wanted {
        progressing(format!("{updated} of {wanted} pods are updated"))
    } else if available < wanted {
        progressing(format!("{available} of {wanted} pods are available"))
    } else {
        Health::Complete
    }
}

fn job(object: &Object) -> Health {
    match (condition(object, "Complete"), condition(object, "Failed")) {
        (Some((true, ..)), _) => Health::Complete,
        (_, Some((true, reason, message))) => Health::Failed(format!("the job failed: {reason}: {message}")),
        _ => progressing(format!("{} pods are active", number(object, "/status/active"))),
    }
}

/// Whether a CustomResourceDefinition is established, so that its resource is served.
pub fn crd_established(object: &Object) -> Health {
    if let Some((true, _, message)) = condition(object, "Terminating") {
        return Health::Failed(format!("it is being deleted: {message}"));
    }
    if let Some((false, reason, message)) = condition(object, "NamesAccepted") {
        return Health::Failed(format!("its names are not accepted: {reason}: {message}"));
    }
    match condition(object, "Established") {
        Some((true, ..)) => Health::Complete,
        _ => progressing("it is not established yet"),
    }
}

/// Whether an object that was deleted is gone; the one that is given is still there.
pub fn gone(object: &Object) -> Health {
    let finalizers: Vec<&str> = object
        .get("/metadata/finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    progressing(match finalizers.as_slice() {
        [] => "it is being deleted".to_owned(),
        names => format!("it is being deleted and waits for finalizer {}", names.join(", ")),
    })
}

/// Whether a workload is scaled to 0 and none of its pods is left.
pub fn stopped<'a>(workload: &Object, pods: impl IntoIterator<Item = &'a Object>) -> Health {
    if replicas(workload) != 0 {
        return Health::Failed(format!("it is to have {} replicas", replicas(workload)));
    }
    if !is_observed(workload) {
        return progressing("its controller has not seen the change yet");
    }
    let known = usize::try_from(number(workload, "/status/replicas")).unwrap_or_default();
    match pods_of(workload, pods).len().max(known) {
        0 => Health::Complete,
        left => progressing(format!("{} still there", count(left, "pod"))),
    }
}

/// The pods that a workload's selector selects, those that ran to their end left out.
pub fn pods_of<'a>(workload: &Object, pods: impl IntoIterator<Item = &'a Object>) -> Vec<&'a Object> {
    let Some(selector) = workload.get("/spec/selector") else {
        return Vec::new();
    };
    pods.into_iter()
        .filter(|pod| pod.namespace() == workload.namespace())
        .filter(|pod| !matches!(pod.get_str("/status/phase"), Some("Succeeded")))
        .filter(|pod| selects(Some(selector), &labels_of(pod)))
        .collect()
}

/// What is the matter with a workload's pods, in words; empty when nothing is.
pub fn trouble_of<'a>(workload: &Object, pods: impl IntoIterator<Item = &'a Object>) -> Vec<String> {
    pods_of(workload, pods)
        .into_iter()
        .filter_map(|pod| Some(format!("pod {}: {}", pod.name(), pod_trouble(pod)?)))
        .collect()
}

/// What is the matter with a pod, in words. A pod that is merely starting is in no trouble.
///
/// Termination messages are left out: programs write their last log lines there, secrets included.
pub fn pod_trouble(pod: &Object) -> Option<String> {
    if pod.is_being_deleted() {
        return None;
    }
    if pod.get_str("/status/phase") == Some("Failed") {
        let reason = pod.get_str("/status/reason").unwrap_or("no reason given");
        return Some(match pod.get_str("/status/message") {
            Some(message) => format!("it failed: {reason}: {message}"),
            None => format!("it failed: {reason}"),
        });
    }
    if let Some((false, _, message)) = condition(pod, "PodScheduled") {
        return Some(format!("it cannot be scheduled: {message}"));
    }
    ["/status/initContainerStatuses", "/status/containerStatuses"]
        .into_iter()
        .filter_map(|pointer| pod.get(pointer)?.as_array())
        .flatten()
        .find_map(container_trouble)
}

fn container_trouble(status: &Value) -> Option<String> {
    let text = |pointer: &str| {
        status
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let name = text("/name");
    let ended = |state: &str| {
        let state = status.pointer(state)?;
        let code = state.get("exitCode").and_then(Value::as_i64)?;
        Some(
            match state.get("reason").and_then(Value::as_str).unwrap_or_default() {
                "" => format!("exit code {code}"),
                reason => format!("exit code {code}, {reason}"),
            },
        )
    };
    match text("/state/waiting/reason") {
        "" => {}
        "PodInitializing" | "ContainerCreating" => return None,
        "CrashLoopBackOff" => {
            let restarts = status
                .get("restartCount")
                .and_then(Value::as_i64)
                .unwrap_or_default();
            let last = ended("/lastState/terminated").unwrap_or_else(|| "exit code unknown".into());
            return Some(format!(
                "container {name} keeps crashing ({restarts} restarts, last {last})"
            ));
        }
        "ImagePullBackOff"
        | "ErrImagePull"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "RegistryUnavailable" => {
            let image = text("/image");
            return Some(match text("/state/waiting/message") {
                "" => format!("image {image} of container {name} cannot be pulled"),
                message => format!("image {image} of container {name} cannot be pulled: {message}"),
            });
        }
        reason => {
            return Some(match text("/state/waiting/message") {
                "" => format!("container {name} waits: {reason}"),
                message => format!("container {name} waits: {reason}: {message}"),
            });
        }
    }
    let code = status
        .pointer("/state/terminated/exitCode")
        .and_then(Value::as_i64)
        .unwrap_or_default();
    (code != 0).then(|| {
        format!(
            "container {name} ended with {}",
            ended("/state/terminated").unwrap_or_else(|| code.to_string())
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_object(value: Value) -> Object {
        Object::try_from(value).unwrap()
    }

    fn mk_workload(kind: &str, spec: Value, status: Value) -> Object {
        mk_object(json!({
            "apiVersion": "apps/v1", "kind": kind,
            "metadata": {"name": "a", "namespace": "n", "generation": 2},
            "spec": spec, "status": status,
        }))
    }

    fn mk_pod(status: Value) -> Object {
        mk_object(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a-1", "namespace": "n", "labels": {"app": "a"}}, "status": status,
        }))
    }

    #[test]
    fn rollouts_follow_kubectl() {
        let check = |kind: &str, spec: Value, status: Value, expect: Result<(), &str>| {
            let health = rollout(&mk_workload(kind, spec, status));
            assert_eq!(health.message().map_or(Ok(()), Err), expect);
        };
        let done =
            json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        check("Deployment", json!({"replicas": 2}), done.clone(), Ok(()));
        check(
            "Deployment",
            json!({"replicas": 3}),
            done,
            Err("2 of 3 replicas are updated"),
        );
        check(
            "Deployment",
            json!({}),
            json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}),
            Err("its controller has not seen the change yet"),
        );
        check(
            "Deployment",
            json!({}),
            json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 1}),
            Err("1 old replica still there"),
        );
        check(
            "Deployment",
            json!({}),
            json!({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1}),
            Err("0 of 1 updated replicas are available"),
        );
        check(
            "Deployment",
            json!({}),
            json!({"observedGeneration": 2, "conditions": [
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}]}),
            Err("0 of 1 replicas are updated: exceeded quota"),
        );
        check(
            "Deployment",
            json!({"replicas": 0}),
            json!({"observedGeneration": 2}),
            Ok(()),
        );
        let set = |current: &str, updated: i64, ready: i64| {
            json!({"observedGeneration": 2, "readyReplicas": ready, "updatedReplicas": updated,
                   "currentRevision": current, "updateRevision": "r2"})
        };
        check("StatefulSet", json!({"replicas": 2}), set("r2", 2, 2), Ok(()));
        check(
            "StatefulSet",
            json!({"replicas": 2}),
            set("r2", 2, 1),
            Err("1 of 2 replicas are ready"),
        );
        check(
            "StatefulSet",
            json!({"replicas": 2}),
            set("r1", 1, 2),
            Err("1 of 2 replicas are updated"),
        );
        let partition = json!({"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 2}}});
        check("StatefulSet", partition.clone(), set("r1", 1, 3), Ok(()));
        check(
            "StatefulSet",
            partition,
            set("r1", 0, 3),
            Err("0 of 1 replicas above the partition are updated"),
        );
        let daemons = |updated: i64, available: i64| json!({"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": updated, "numberAvailable": available});
        check("DaemonSet", json!({}), daemons(3, 3), Ok(()));
        check(
            "DaemonSet",
            json!({}),
            daemons(2, 3),
            Err("2 of 3 pods are updated"),
        );
        check(
            "DaemonSet",
            json!({"updateStrategy": {"type": "OnDelete"}}),
            daemons(0, 3),
            Ok(()),
        );
        check(
            "DaemonSet",
            json!({}),
            daemons(3, 1),
            Err("1 of 3 pods are available"),
        );
    }

    #[test]
    fn a_rollout_that_waiting_does_not_mend_has_failed() {
        let check = |spec: Value, status: Value, expect: bool| {
            let health = rollout(&mk_workload("Deployment", spec, status));
            assert_eq!(matches!(health, Health::Failed(_)), expect, "{health:?}");
        };
        let stuck = json!({"observedGeneration": 2, "conditions": [
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}]});
        check(json!({}), stuck, true);
        check(json!({"paused": true}), json!({"observedGeneration": 2}), true);
        check(json!({}), json!({"observedGeneration": 2}), false);
        let job = |condition: &str| {
            rollout(&mk_object(json!({
                "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"},
                "status": {"conditions": [{"type": condition, "status": "True"}]},
            })))
        };
        assert_eq!(job("Complete"), Health::Complete);
        assert!(matches!(job("Failed"), Health::Failed(_)));
        assert!(matches!(job("Suspended"), Health::Progressing(_)));
    }

    #[test]
    fn crds_are_judged_by_their_conditions() {
        let check = |conditions: Value, expect: fn(&Health) -> bool| {
            let health = crd_established(&mk_object(json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": "users.iam.kubesphere.io"}, "status": {"conditions": conditions},
            })));
            assert!(expect(&health), "{health:?}");
        };
        check(
            json!([{"type": "Established", "status": "True"}]),
            Health::is_complete,
        );
        check(json!([]), |h| matches!(h, Health::Progressing(_)));
        check(
            json!([{"type": "NamesAccepted", "status": "False", "reason": "ListKindConflict", "message": "taken"}]),
            |h| *h == Health::Failed("its names are not accepted: ListKindConflict: taken".into()),
        );
        check(
            json!([{"type": "Established", "status": "True"}, {"type": "Terminating", "status": "True"}]),
            |h| matches!(h, Health::Failed(_)),
        );
    }

    #[test]
    fn a_workload_is_stopped_when_its_pods_are_gone() {
        let selector = json!({"matchLabels": {"app": "a"}});
        let workload = mk_workload(
            "Deployment",
            json!({"replicas": 0, "selector": selector}),
            json!({"observedGeneration": 2}),
        );
        let pod = mk_pod(json!({"phase": "Running"}));
        assert_eq!(
            stopped(&workload, [&pod]),
            Health::Progressing("1 pod still there".into())
        );
        assert_eq!(
            stopped(&workload, [&mk_pod(json!({"phase": "Succeeded"}))]),
            Health::Complete
        );
        assert_eq!(stopped(&workload, []), Health::Complete);
        let running = mk_workload(
            "Deployment",
            json!({"selector": selector}),
            json!({"observedGeneration": 2}),
        );
        assert!(matches!(stopped(&running, []), Health::Failed(_)));
    }

    #[test]
    fn trouble_with_pods_is_said_in_words() {
        let check = |status: Value, expect: Option<&str>| {
            assert_eq!(pod_trouble(&mk_pod(status)).as_deref(), expect);
        };
        let waiting = |reason: &str, message: &str| {
            json!({"phase": "Pending", "containerStatuses": [{"name": "c", "image": "r/i:v1", "restartCount": 7,
                "state": {"waiting": {"reason": reason, "message": message}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "token=hunter2"}}}]})
        };
        check(
            json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"running": {}}}]}),
            None,
        );
        check(waiting("ContainerCreating", ""), None);
        check(
            waiting("CrashLoopBackOff", "back-off 5m0s"),
            Some("container c keeps crashing (7 restarts, last exit code 137, OOMKilled)"),
        );
        check(
            waiting("ImagePullBackOff", "not found"),
            Some("image r/i:v1 of container c cannot be pulled: not found"),
        );
        check(
            waiting("CreateContainerConfigError", "secret \"x\" not found"),
            Some("container c waits: CreateContainerConfigError: secret \"x\" not found"),
        );
        check(
            json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]}),
            Some("it cannot be scheduled: 0/3 nodes are available"),
        );
        check(
            json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}),
            Some("it failed: Evicted: low on memory"),
        );
        check(
            json!({"phase": "Running", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
            Some("container i ended with exit code 1, Error"),
        );
    }

    #[test]
    fn pods_that_nobody_replaces_are_counted() {
        let check = |kind: &str, strategy: &str, status: Value, expect: i64| {
            let object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "w", "namespace": "n"},
                "spec": {"updateStrategy": {"type": strategy}}, "status": status});
            assert_eq!(pods_left_behind(&Object::try_from(object).unwrap()), expect);
        };
        let set = json!({"replicas": 3, "updatedReplicas": 1});
        check("StatefulSet", "OnDelete", set.clone(), 2);
        check("StatefulSet", "RollingUpdate", set, 0);
        check("StatefulSet", "OnDelete", json!({"replicas": 3}), 3);
        let daemons = json!({"desiredNumberScheduled": 2, "updatedNumberScheduled": 2});
        check("DaemonSet", "OnDelete", daemons, 0);
    }
}
