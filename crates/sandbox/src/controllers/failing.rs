//! Pods that cannot run: images that cannot be pulled, containers that crash.

use serde_json::{Value, json};

use crate::controllers::events;
use crate::faults::Affliction;
use crate::json::{child, list_at, name, namespace, text, text_at, uid};
use crate::status::Result;
use crate::transaction::Transaction;

/// How containers of the simulator are known.
const CONTAINER: &str = "containerd://sandbox";
/// As after a minute of crashing: there is no time in which it would go up.
const RESTARTS: u32 = 3;

/// Whether the simulator made the pod crash.
pub(crate) fn is_crashing(pod: &Value) -> bool {
    list_at(pod, "/status/containerStatuses").iter().any(|status| {
        text_at(status, "/state/waiting/reason") == "CrashLoopBackOff"
            && text_at(status, "/lastState/terminated/containerID") == CONTAINER
    })
}

/// Turns the status of a pod that runs into that of one which cannot, and tells so in events. `before` is the pod as it was:
/// the kubelet tries once before it waits longer and longer.
pub(crate) fn afflict(
    transaction: &mut Transaction,
    affliction: &Affliction,
    before: &Value,
    pod: &mut Value,
) -> Result<()> {
    match affliction {
        Affliction::Image(image) => {
            let reason = |status: &Value| text_at(status, "/state/waiting/reason").to_owned();
            let tried = ["/status/initContainerStatuses", "/status/containerStatuses"]
                .into_iter()
                .flat_map(|key| list_at(before, key))
                .any(|status| matches!(reason(status).as_str(), "ErrImagePull" | "ImagePullBackOff"));
            let backs_off = list_at(before, "/status/containerStatuses")
                .iter()
                .chain(list_at(before, "/status/initContainerStatuses"))
                .any(|status| reason(status) == "ImagePullBackOff");
            if backs_off {
                pod.clone_from(before);
                return Ok(());
            }
            let waiting = if tried {
                let message = format!("Back-off pulling image \"{image}\"");
                events::tell(transaction, before, &events::BACK_OFF, &message)?;
                json!({ "reason": "ImagePullBackOff", "message": message })
            } else {
                let message = format!(
                    "rpc error: code = NotFound desc = failed to pull and unpack image \"{image}\": failed to resolve \
                     reference \"{image}\": {image}: not found"
                );
                let told = format!("Failed to pull image \"{image}\": {message}");
                events::tell(transaction, before, &events::FAILED, &told)?;
                json!({ "reason": "ErrImagePull", "message": message })
            };
            let troubles = &transaction.state.troubles;
            hold_up(pod, |container| {
                troubles
                    .is_unpullable(text(container, "image"))
                    .then(|| waiting.clone())
            });
        }
        Affliction::Crash(exit_code) => {
            events::tell(
                transaction,
                before,
                &events::BACK_OFF,
                "Back-off restarting failed container",
            )?;
            crash(transaction, pod, *exit_code);
        }
    }
    Ok(())
}

/// How the containers of a pod are.
pub(crate) fn states(pod: &Value) -> Vec<&Value> {
    ["/status/initContainerStatuses", "/status/containerStatuses"]
        .into_iter()
        .flat_map(|key| list_at(pod, key))
        .filter_map(|status| status.get("state"))
        .collect()
}

/// Turns the status of a pod that runs into that of one of which some containers wait, and tells why they do. What comes
/// after the containers that are first waits as well.
pub(crate) fn hold_up(pod: &mut Value, why: impl Fn(&Value) -> Option<Value>) {
    let held_up = list_at(pod, "/spec/initContainers")
        .iter()
        .any(|container| why(container).is_some());
    let status = child(pod, "status");
    status.insert("phase".into(), "Pending".into());
    for key in ["initContainerStatuses", "containerStatuses"] {
        let statuses = status.get_mut(key).and_then(Value::as_array_mut);
        for container in statuses.into_iter().flatten() {
            let its_own = why(container).filter(|_| key == "initContainerStatuses" || !held_up);
            let state = if let Some(waiting) = its_own {
                waiting
            } else if held_up {
                json!({ "reason": "PodInitializing" })
            } else {
                continue;
            };
            *container = json!({
                "name": container["name"],
                "state": { "waiting": state },
                "lastState": {},
                "ready": false,
                "restartCount": 0,
                "image": container["image"],
                "imageID": "",
                "started": false,
            });
        }
    }
    let initialized = if held_up { "False" } else { "True" };
    set_conditions(pod, initialized);
}

fn crash(transaction: &Transaction, pod: &mut Value, exit_code: i32) {
    let (now, path) = (
        transaction.now.clone(),
        format!("{}_{}({})", name(pod), namespace(pod), uid(pod)),
    );
    let statuses = child(pod, "status")
        .get_mut("containerStatuses")
        .and_then(Value::as_array_mut);
    for container in statuses.into_iter().flatten() {
        let called = text(container, "name").to_owned();
        container["state"] = json!({ "waiting": {
            "reason": "CrashLoopBackOff",
            "message": format!("back-off 40s restarting failed container={called} pod={path}"),
        } });
        container["lastState"] = json!({ "terminated": {
            "exitCode": exit_code, "reason": if exit_code == 0 { "Completed" } else { "Error" },
            "startedAt": now, "finishedAt": now, "containerID": CONTAINER,
        } });
        container["ready"] = false.into();
        container["started"] = false.into();
        container["restartCount"] = RESTARTS.into();
    }
    let status = child(pod, "status");
    status.insert("phase".into(), "Running".into());
    set_conditions(pod, "True");
}

/// The conditions of a pod that is not ready.
fn set_conditions(pod: &mut Value, initialized: &str) {
    let names: Vec<_> = list_at(pod, "/spec/containers")
        .iter()
        .map(|container| text(container, "name"))
        .collect();
    let message = format!("containers with unready status: [{}]", names.join(" "));
    let conditions = child(pod, "status")
        .get_mut("conditions")
        .and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        match text(condition, "type") {
            "Initialized" => condition["status"] = initialized.into(),
            "Ready" | "ContainersReady" => {
                condition["status"] = "False".into();
                condition["reason"] = "ContainersNotReady".into();
                condition["message"] = message.as_str().into();
            }
            _ => {}
        }
    }
}
