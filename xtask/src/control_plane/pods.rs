//! What a kubelet would do with a Pod, decided from the Pod alone.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// From scheduled to ready, and from running to the end of what runs to an end.
    pub(crate) delay: Duration,
    /// A Pod whose image contains one of these never starts.
    pub(crate) unpullable_images: Vec<String>,
}

/// What is to be done with a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// It has no node yet, has ended, or runs for good.
    Nothing,
    /// Its containers have stopped: remove the object for good.
    Remove,
    /// Start it, once its volumes are there.
    Start,
    /// Say that this image cannot be pulled.
    FailToPull { image: String },
    /// It has done what it was made for.
    Finish,
}

pub(crate) fn decide(pod: &Pod, settings: &Settings) -> Step {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.node_name.is_some()) else {
        return Step::Nothing;
    };
    if pod.metadata.deletion_timestamp.is_some() {
        return Step::Remove;
    }
    let status = pod.status.as_ref();
    match status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
    {
        "Pending" => {
            let images = spec.init_containers.iter().flatten().chain(&spec.containers);
            let unpullable = images
                .filter_map(|container| container.image.as_ref())
                .find(|image| {
                    settings
                        .unpullable_images
                        .iter()
                        .any(|part| image.contains(part.as_str()))
                });
            match unpullable {
                // Its containers have a status already: it was said before.
                Some(_) if status.is_some_and(|status| status.container_statuses.is_some()) => Step::Nothing,
                Some(image) => Step::FailToPull { image: image.clone() },
                None => Step::Start,
            }
        }
        "Running"
            if spec
                .restart_policy
                .as_deref()
                .is_some_and(|policy| policy != "Always") =>
        {
            Step::Finish
        }
        _ => Step::Nothing,
    }
}

/// What a Pod mounts or reads at its start, and without which a kubelet would not start it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    ConfigMap(String),
    Secret(String),
}

/// The ConfigMaps and Secrets that the Pod cannot do without, sorted and each once.
pub(crate) fn required_sources(pod: &Pod) -> Vec<Source> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut sources = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        if let Some(of) = &volume.config_map
            && of.optional != Some(true)
        {
            sources.push(Source::ConfigMap(of.name.clone()));
        }
        if let Some(of) = &volume.secret
            && of.optional != Some(true)
        {
            sources.extend(of.secret_name.clone().map(Source::Secret));
        }
    }
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for from in container.env_from.iter().flatten() {
            if let Some(of) = &from.config_map_ref
                && of.optional != Some(true)
            {
                sources.push(Source::ConfigMap(of.name.clone()));
            }
            if let Some(of) = &from.secret_ref
                && of.optional != Some(true)
            {
                sources.push(Source::Secret(of.name.clone()));
            }
        }
        for value in container
            .env
            .iter()
            .flatten()
            .filter_map(|variable| variable.value_from.as_ref())
        {
            if let Some(of) = &value.config_map_key_ref
                && of.optional != Some(true)
            {
                sources.push(Source::ConfigMap(of.name.clone()));
            }
            if let Some(of) = &value.secret_key_ref
                && of.optional != Some(true)
            {
                sources.push(Source::Secret(of.name.clone()));
            }
        }
    }
    sources.sort();
    sources.dedup();
    sources
}

/// The status of a Pod that runs, as a patch. `now` is RFC 3339.
pub(crate) fn running(pod: &Pod, now: &str, address: &str) -> Value {
    let mut status = status(pod, now, "Running", &|name, image| {
        let mut status = container(name, image, json!({"running": {"startedAt": now}}));
        status["ready"] = true.into();
        status["started"] = true.into();
        status
    });
    status["podIP"] = address.into();
    status["podIPs"] = json!([{"ip": address}]);
    status["conditions"] = conditions(
        now,
        &[("Initialized", ""), ("Ready", ""), ("ContainersReady", "")],
    );
    json!({"status": status})
}

/// The status of a Pod that has done its work, as a patch.
pub(crate) fn succeeded(pod: &Pod, now: &str) -> Value {
    let done = "PodCompleted";
    let mut status = status(pod, now, "Succeeded", &|name, image| {
        container(name, image, completed(now))
    });
    status["conditions"] = conditions(
        now,
        &[("Initialized", done), ("Ready", done), ("ContainersReady", done)],
    );
    json!({"status": status})
}

/// The status of a Pod that waits for an image it will never get, as a patch.
pub(crate) fn image_pull_failed(pod: &Pod, now: &str, missing: &str) -> Value {
    let unready = "ContainersNotReady";
    let mut status = status(pod, now, "Pending", &|name, image| {
        let waiting = if image == missing {
            json!({"reason": "ImagePullBackOff", "message": format!("Back-off pulling image {image:?}")})
        } else {
            json!({"reason": "ContainerCreating"})
        };
        container(name, image, json!({"waiting": waiting}))
    });
    status["initContainerStatuses"] = Value::Null;
    status["conditions"] = conditions(
        now,
        &[
            ("Initialized", ""),
            ("Ready", unready),
            ("ContainersReady", unready),
        ],
    );
    json!({"status": status})
}

/// The part of a status that all phases share. A strategic merge patch: what is already said of the Pod,
/// such as the scheduler's condition, stays.
fn status(pod: &Pod, now: &str, phase: &str, container_status: &dyn Fn(&str, &str) -> Value) -> Value {
    let spec = pod.spec.as_ref();
    let of = |containers: Option<&Vec<k8s_openapi::api::core::v1::Container>>,
              status: &dyn Fn(&str, &str) -> Value|
     -> Value {
        let containers = containers.into_iter().flatten();
        containers
            .map(|one| status(&one.name, one.image.as_deref().unwrap_or_default()))
            .collect()
    };
    let mut value = json!({
        "phase": phase,
        "containerStatuses": of(spec.map(|spec| &spec.containers), container_status),
    });
    if let Some(containers) = spec.and_then(|spec| spec.init_containers.as_ref()) {
        value["initContainerStatuses"] = of(Some(containers), &|name, image| {
            let mut status = container(name, image, completed(now));
            status["ready"] = true.into();
            status
        });
    }
    if pod
        .status
        .as_ref()
        .is_none_or(|status| status.start_time.is_none())
    {
        value["startTime"] = now.into();
    }
    value
}

fn container(name: &str, image: &str, state: Value) -> Value {
    json!({
        "name": name, "image": image, "imageID": format!("fake://{image}"), "containerID": format!("fake://{name}"),
        "ready": false, "started": false, "restartCount": 0, "state": state,
    })
}

fn completed(now: &str) -> Value {
    json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}})
}

/// Conditions by type. One with a reason is false, except that what is initialized stays so.
fn conditions(now: &str, types: &[(&str, &str)]) -> Value {
    let condition = |(kind, reason): &(&str, &str)| {
        let holds = reason.is_empty() || *kind == "Initialized";
        let mut condition = json!({
            "type": kind, "status": if holds { "True" } else { "False" },
            "lastProbeTime": null, "lastTransitionTime": now,
        });
        if !reason.is_empty() {
            condition["reason"] = (*reason).into();
        }
        condition
    };
    types.iter().map(condition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "a"},
            "spec": {
                "nodeName": "n",
                "restartPolicy": "Always",
                "initContainers": [{"name": "i", "image": "registry.example/init:1"}],
                "containers": [{"name": "c", "image": "registry.example/app:1"}],
            },
            "status": {"phase": "Pending"},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    fn check(change: impl FnOnce(&mut Value), expect: Step) {
        let settings = Settings {
            delay: Duration::ZERO,
            unpullable_images: vec!["bad.example/".into()],
        };
        assert_eq!(decide(&mk_pod(change), &settings), expect);
    }

    #[test]
    fn decides_from_phase_node_and_deletion() {
        check(|_| (), Step::Start);
        check(|pod| pod["status"] = json!({}), Step::Start);
        check(|pod| pod["spec"]["nodeName"] = Value::Null, Step::Nothing);
        check(
            |pod| pod["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into(),
            Step::Remove,
        );
        check(|pod| pod["status"]["phase"] = "Running".into(), Step::Nothing);
        check(|pod| pod["status"]["phase"] = "Succeeded".into(), Step::Nothing);
    }

    #[test]
    fn what_need_not_always_run_ends() {
        for policy in ["Never", "OnFailure"] {
            check(
                |pod| {
                    pod["status"]["phase"] = "Running".into();
                    pod["spec"]["restartPolicy"] = policy.into();
                },
                Step::Finish,
            );
        }
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_reported_once() {
        let image = "bad.example/init:1";
        let spoil = |pod: &mut Value| pod["spec"]["initContainers"][0]["image"] = image.into();
        check(spoil, Step::FailToPull { image: image.into() });
        let reported = mk_pod(spoil);
        let status = image_pull_failed(&reported, "2030-01-01T00:00:00Z", image)["status"].clone();
        check(
            |pod| {
                spoil(pod);
                pod["status"] = status;
            },
            Step::Nothing,
        );
    }

    #[test]
    fn a_start_needs_what_is_not_optional() {
        let pod = mk_pod(|pod| {
            pod["spec"]["volumes"] = json!([
                {"name": "1", "secret": {"secretName": "s"}},
                {"name": "2", "configMap": {"name": "c"}},
                {"name": "3", "configMap": {"name": "never", "optional": true}},
                {"name": "4", "emptyDir": {}},
            ]);
            pod["spec"]["containers"][0]["env"] =
                json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
            pod["spec"]["initContainers"][0]["envFrom"] = json!([{"configMapRef": {"name": "e"}}]);
        });
        let name = str::to_owned;
        assert_eq!(
            required_sources(&pod),
            [
                Source::ConfigMap(name("c")),
                Source::ConfigMap(name("e")),
                Source::Secret(name("s"))
            ]
        );
    }

    #[test]
    fn statuses_say_ready_only_while_running() {
        let now = "2030-01-01T00:00:00Z";
        let ready = |patch: &Value| {
            let conditions = patch["status"]["conditions"].as_array().unwrap();
            conditions
                .iter()
                .find(|condition| condition["type"] == "Ready")
                .unwrap()["status"]
                .clone()
        };
        let pod = mk_pod(|_| ());
        let run = running(&pod, now, "10.0.0.1");
        assert_eq!(
            (ready(&run), &run["status"]["containerStatuses"][0]["ready"]),
            ("True".into(), &true.into())
        );
        let done = succeeded(&pod, now);
        assert_eq!(
            (ready(&done), &done["status"]["containerStatuses"][0]["ready"]),
            ("False".into(), &false.into())
        );
        for patch in [run, done] {
            let with_status = mk_pod(|pod| pod["status"] = patch["status"].clone());
            assert_eq!(
                with_status.status.unwrap().init_container_statuses.unwrap().len(),
                1
            );
        }
    }
}
