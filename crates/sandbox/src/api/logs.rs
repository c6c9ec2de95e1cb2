//! Logs of containers: empty, where a container has started.

use serde_json::Value;

use crate::api::request::Request;
use crate::json::{list_at, name, text, text_at};
use crate::status::{Result, Status};

/// Refuses to show what is not there, in the words of the server and of the kubelet.
pub(crate) fn check(request: &Request, pod: &Value) -> Result<()> {
    let pod_name = name(pod);
    let container = chosen(request, pod)?;
    if text_at(pod, "/spec/nodeName").is_empty() {
        // Where no kubelet can be asked, the server shows nothing.
        return Ok(());
    }
    let refuse = |why: String| Err(Status::bad_request(why));
    let status = [
        "/status/containerStatuses",
        "/status/initContainerStatuses",
        "/status/ephemeralContainerStatuses",
    ]
    .into_iter()
    .flat_map(|key| list_at(pod, key))
    .find(|status| text(status, "name") == container);
    let Some(status) = status else {
        return refuse(format!(
            "container {container:?} in pod {pod_name:?} is not available"
        ));
    };
    let ended = status.pointer("/lastState/terminated").is_some();
    if request.query.flag("previous") {
        return if ended {
            Ok(())
        } else {
            refuse(format!(
                "previous terminated container {container:?} in pod {pod_name:?} not found"
            ))
        };
    }
    match status.pointer("/state/waiting") {
        Some(waiting) if !ended => {
            let why = match text(waiting, "reason") {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                other => other,
            };
            refuse(format!(
                "container {container:?} in pod {pod_name:?} is waiting to start: {why}"
            ))
        }
        _ => Ok(()),
    }
}

/// The container that is asked for, or the only one.
fn chosen<'a>(request: &'a Request, pod: &'a Value) -> Result<&'a str> {
    let names = |key: &str| -> Vec<&'a str> {
        list_at(pod, key)
            .iter()
            .map(|container| text(container, "name"))
            .collect()
    };
    let (containers, before) = (names("/spec/containers"), names("/spec/initContainers"));
    let wanted = request.query.get("container").unwrap_or_default();
    if wanted.is_empty() {
        if let [only] = containers.as_slice() {
            return Ok(only);
        }
        let mut why = format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            name(pod),
            containers.join(" ")
        );
        if !before.is_empty() {
            why.push_str(&format!(" or one of the init containers: [{}]", before.join(" ")));
        }
        return Err(Status::bad_request(why));
    }
    let others = names("/spec/ephemeralContainers");
    if [containers, before, others].concat().contains(&wanted) {
        return Ok(wanted);
    }
    Err(Status::bad_request(format!(
        "container {wanted} is not valid for pod {}",
        name(pod)
    )))
}
