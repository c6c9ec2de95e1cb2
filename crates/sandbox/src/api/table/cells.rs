//! What stands in the cells of built-in kinds.

use serde_json::{Value, json};

use super::format::{Moment, between, duration, labels, selector, some};
use crate::json::{is_deleting, list, list_at, name, number_at, text, text_at};

pub(super) fn n(object: &Value) -> Value {
    name(object).into()
}

pub(super) fn age(object: &Value, now: Moment) -> Value {
    now.since(text_at(object, "/metadata/creationTimestamp")).into()
}

pub(super) fn int(object: &Value, pointer: &str) -> i64 {
    number_at(object, pointer).unwrap_or(0)
}

pub(super) fn size(map: Option<&Value>) -> usize {
    map.and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

pub(super) fn or_none(text: &str) -> Value {
    if text.is_empty() {
        "<none>".into()
    } else {
        text.into()
    }
}

/// The names and images of a workload's containers.
pub(super) fn containers(workload: &Value) -> [Value; 2] {
    containers_at(workload, "/spec/template/spec/containers")
}

pub(super) fn containers_at(workload: &Value, pointer: &str) -> [Value; 2] {
    ["name", "image"].map(|field| {
        let all: Vec<_> = list_at(workload, pointer)
            .iter()
            .map(|container| text(container, field))
            .collect();
        all.join(",").into()
    })
}

pub(super) fn pod(pod: &Value, now: Moment) -> Vec<Value> {
    let total = list_at(pod, "/spec/containers").len();
    let (reason, ready, restarts) = pod_status(pod);
    let gates = list_at(pod, "/spec/readinessGates");
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let open = gates
            .iter()
            .filter(|gate| {
                list_at(pod, "/status/conditions").iter().any(|condition| {
                    text(condition, "type") == text(gate, "conditionType")
                        && text(condition, "status") == "True"
                })
            })
            .count();
        format!("{open}/{}", gates.len())
    };
    vec![
        n(pod),
        format!("{ready}/{total}").into(),
        reason.into(),
        restarts.into(),
        age(pod, now),
        or_none(text_at(pod, "/status/podIP")),
        or_none(text_at(pod, "/spec/nodeName")),
        or_none(text_at(pod, "/status/nominatedNodeName")),
        gates.into(),
    ]
}

/// What a pod is doing in one word, how many containers are ready, and how often any was restarted.
pub(super) fn pod_status(pod: &Value) -> (String, usize, i64) {
    let phase = text_at(pod, "/status/phase");
    let mut reason = match text_at(pod, "/status/reason") {
        "" => phase.to_owned(),
        given => given.to_owned(),
    };
    let ended = |container: &Value| -> Option<String> {
        let ended = container.pointer("/state/terminated")?;
        Some(
            match (text(ended, "reason"), number_at(ended, "/signal").unwrap_or(0)) {
                ("", 0) => format!("ExitCode:{}", int(ended, "/exitCode")),
                ("", signal) => format!("Signal:{signal}"),
                (given, _) => given.to_owned(),
            },
        )
    };
    let (mut ready, mut restarts, mut initializing) = (0, 0, false);
    let inits = list_at(pod, "/status/initContainerStatuses");
    for (index, container) in inits.iter().enumerate() {
        restarts += int(container, "/restartCount");
        let waiting = text_at(container, "/state/waiting/reason");
        let state = match ended(container) {
            Some(_) if int(container, "/state/terminated/exitCode") == 0 => continue,
            Some(ended) => ended,
            None if !waiting.is_empty() && waiting != "PodInitializing" => waiting.to_owned(),
            None => format!("{index}/{}", list_at(pod, "/spec/initContainers").len()),
        };
        reason = format!("Init:{state}");
        initializing = true;
        break;
    }
    if !initializing {
        restarts = 0;
        let mut running = false;
        for container in list_at(pod, "/status/containerStatuses").iter().rev() {
            restarts += int(container, "/restartCount");
            let waiting = text_at(container, "/state/waiting/reason");
            if !waiting.is_empty() {
                waiting.clone_into(&mut reason);
            } else if let Some(ended) = ended(container) {
                reason = ended;
            } else if container.get("ready") == Some(&Value::Bool(true))
                && container.pointer("/state/running").is_some()
            {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            let is_ready = list_at(pod, "/status/conditions")
                .iter()
                .any(|condition| text(condition, "type") == "Ready" && text(condition, "status") == "True");
            if is_ready { "Running" } else { "NotReady" }.clone_into(&mut reason);
        }
    }
    if is_deleting(pod) {
        let lost = text_at(pod, "/status/reason") == "NodeLost";
        if lost { "Unknown" } else { "Terminating" }.clone_into(&mut reason);
    }
    (reason, ready, restarts)
}

pub(super) fn service(service: &Value, now: Moment) -> Vec<Value> {
    let ports: Vec<_> = list_at(service, "/spec/ports")
        .iter()
        .map(|port| match int(port, "/nodePort") {
            0 => format!("{}/{}", int(port, "/port"), text(port, "protocol")),
            node => format!("{}:{node}/{}", int(port, "/port"), text(port, "protocol")),
        })
        .collect();
    let kind = text_at(service, "/spec/type");
    let external: Vec<_> = list_at(service, "/spec/externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let shown = match kind {
        "ExternalName" => text_at(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let mut all = balancer(service);
            all.extend(external);
            if all.is_empty() {
                "<pending>".to_owned()
            } else {
                all.join(",")
            }
        }
        _ if external.is_empty() => "<none>".to_owned(),
        _ => external.join(","),
    };
    vec![
        n(service),
        kind.into(),
        or_none(text_at(service, "/spec/clusterIP")),
        shown.into(),
        or_none(&ports.join(",")),
        age(service, now),
        labels(service.pointer("/spec/selector")).into(),
    ]
}

/// The addresses that a load balancer has given.
pub(super) fn balancer(object: &Value) -> Vec<String> {
    let mut all: Vec<_> = list_at(object, "/status/loadBalancer/ingress")
        .iter()
        .map(|ingress| match text(ingress, "ip") {
            "" => text(ingress, "hostname").to_owned(),
            ip => ip.to_owned(),
        })
        .filter(|address| !address.is_empty())
        .collect();
    all.sort();
    all
}

pub(super) fn node(node: &Value, now: Moment) -> Vec<Value> {
    let ready = list_at(node, "/status/conditions")
        .iter()
        .find(|one| text(one, "type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<_> = node
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) if !role.is_empty() => Some(role.to_owned()),
                _ if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
                _ => None,
            },
        )
        .collect();
    roles.sort();
    roles.dedup();
    let address = |kind: &str| {
        let found = list_at(node, "/status/addresses")
            .iter()
            .find(|address| text(address, "type") == kind);
        or_none(found.map_or("", |address| text(address, "address")))
    };
    let info = |field: &str| match text_at(node, &format!("/status/nodeInfo/{field}")) {
        "" => Value::from("<unknown>"),
        given => given.into(),
    };
    vec![
        n(node),
        status.into(),
        or_none(&roles.join(",")),
        age(node, now),
        text_at(node, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub(super) fn endpoints(endpoints: &Value, now: Moment) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(endpoints, "subsets") {
        let addresses: Vec<_> = list(subset, "addresses")
            .iter()
            .map(|address| text(address, "ip").to_owned())
            .collect();
        if list(subset, "ports").is_empty() {
            all.extend(addresses);
            continue;
        }
        for port in list(subset, "ports") {
            all.extend(
                addresses
                    .iter()
                    .map(|address| format!("{address}:{}", int(port, "/port"))),
            );
        }
    }
    // Endpoints without an address are not the same as no endpoints at all.
    let none = if list(endpoints, "subsets").is_empty() {
        "<none>"
    } else {
        ""
    };
    vec![n(endpoints), some(&all, 3, none).into(), age(endpoints, now)]
}

pub(super) fn endpoint_slice(slice: &Value, now: Moment) -> Vec<Value> {
    let ports: Vec<_> = list(slice, "ports")
        .iter()
        .map(|port| {
            number_at(port, "/port").map_or_else(|| text(port, "name").to_owned(), |port| port.to_string())
        })
        .collect();
    let addresses: Vec<_> = list(slice, "endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    vec![
        n(slice),
        text(slice, "addressType").into(),
        some(&ports, 3, "<unset>").into(),
        some(&addresses, 3, "<unset>").into(),
        age(slice, now),
    ]
}

pub(super) fn event(event: &Value, now: Moment) -> Vec<Value> {
    let at = |keys: &[&str]| {
        let found = keys
            .iter()
            .map(|key| text_at(event, key))
            .find(|time| !time.is_empty());
        now.since(found.unwrap_or_default())
    };
    let first = at(&["/firstTimestamp", "/eventTime"]);
    let last = at(&[
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/firstTimestamp",
        "/eventTime",
    ]);
    let count = match number_at(event, "/series/count") {
        Some(series) => series + 1,
        None => int(event, "/count").max(1),
    };
    let kind = text_at(event, "/involvedObject/kind").to_lowercase();
    let target = match text_at(event, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source: Vec<_> = ["/source/component", "/source/host"]
        .iter()
        .map(|pointer| text_at(event, pointer))
        .filter(|part| !part.is_empty())
        .collect();
    vec![
        last.into(),
        text(event, "type").into(),
        text(event, "reason").into(),
        target.into(),
        text_at(event, "/involvedObject/fieldPath").into(),
        source.join(", ").into(),
        text(event, "message").trim().into(),
        first.into(),
        count.into(),
        n(event),
    ]
}

/// Access modes in short: `RWO,ROX`.
pub(super) fn modes(modes: &[Value]) -> String {
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .iter()
    .filter(|(long, _)| modes.iter().any(|mode| mode == long))
    .map(|(_, short)| *short)
    .collect::<Vec<_>>()
    .join(",")
}

pub(super) fn volume_mode(object: &Value) -> Value {
    match text_at(object, "/spec/volumeMode") {
        "" => "<unset>".into(),
        given => given.into(),
    }
}

pub(super) fn phase(object: &Value) -> Value {
    if is_deleting(object) {
        "Terminating".into()
    } else {
        text_at(object, "/status/phase").into()
    }
}

pub(super) fn claim(claim: &Value, now: Moment) -> Vec<Value> {
    let bound = !text_at(claim, "/spec/volumeName").is_empty();
    let (capacity, access) = if bound {
        (
            text_at(claim, "/status/capacity/storage").to_owned(),
            modes(list_at(claim, "/status/accessModes")),
        )
    } else {
        Default::default()
    };
    vec![
        n(claim),
        phase(claim),
        text_at(claim, "/spec/volumeName").into(),
        capacity.into(),
        access.into(),
        text_at(claim, "/spec/storageClassName").into(),
        age(claim, now),
        volume_mode(claim),
    ]
}

pub(super) fn volume(volume: &Value, now: Moment) -> Vec<Value> {
    let claim = match text_at(volume, "/spec/claimRef/name") {
        "" => String::new(),
        name => format!("{}/{name}", text_at(volume, "/spec/claimRef/namespace")),
    };
    vec![
        n(volume),
        text_at(volume, "/spec/capacity/storage").into(),
        modes(list_at(volume, "/spec/accessModes")).into(),
        text_at(volume, "/spec/persistentVolumeReclaimPolicy").into(),
        phase(volume),
        claim.into(),
        text_at(volume, "/spec/storageClassName").into(),
        text_at(volume, "/status/reason").into(),
        age(volume, now),
        volume_mode(volume),
    ]
}

pub(super) fn replicas(set: &Value, now: Moment) -> Vec<Value> {
    let mut cells = vec![
        n(set),
        int(set, "/spec/replicas").into(),
        int(set, "/status/replicas").into(),
        int(set, "/status/readyReplicas").into(),
        age(set, now),
    ];
    cells.extend(containers(set));
    let shown = if text(set, "kind") == "ReplicationController" {
        labels(set.pointer("/spec/selector"))
    } else {
        selector(set.pointer("/spec/selector"))
    };
    cells.push(shown.into());
    cells
}

pub(super) fn quota(quota: &Value, now: Moment) -> Vec<Value> {
    let hard: std::collections::BTreeMap<_, _> = quota
        .pointer("/status/hard")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .collect();
    let used = quota.pointer("/status/used");
    let join = |limits: bool| -> Value {
        hard.iter()
            .filter(|(key, _)| key.starts_with("limits") == limits)
            .map(|(key, hard)| {
                let used = used.map_or("0", |used| text(used, key));
                format!("{key}: {used}/{}", hard.as_str().unwrap_or_default())
            })
            .collect::<Vec<_>>()
            .join(", ")
            .into()
    };
    vec![n(quota), age(quota, now), join(false), join(true)]
}

pub(super) fn job(job: &Value, now: Moment) -> Vec<Value> {
    let succeeded = int(job, "/status/succeeded");
    let completions = match number_at(job, "/spec/completions") {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match int(job, "/spec/parallelism") {
            parallelism if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let (start, end) = (
        text_at(job, "/status/startTime"),
        text_at(job, "/status/completionTime"),
    );
    let took = match (start, end) {
        ("", _) => String::new(),
        (start, "") => now.since(start),
        (start, end) => between(start, end).map(duration).unwrap_or_default(),
    };
    let mut cells = vec![n(job), completions.into(), took.into(), age(job, now)];
    cells.extend(containers(job));
    cells.push(selector(job.pointer("/spec/selector")).into());
    cells
}

pub(super) fn cron_job(job: &Value, now: Moment) -> Vec<Value> {
    let last = match text_at(job, "/status/lastScheduleTime") {
        "" => "<none>".to_owned(),
        time => now.since(time),
    };
    let suspend = match job.pointer("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let mut cells = vec![
        n(job),
        text_at(job, "/spec/schedule").into(),
        suspend.into(),
        list_at(job, "/status/active").len().into(),
        last.into(),
        age(job, now),
    ];
    cells.extend(containers_at(
        job,
        "/spec/jobTemplate/spec/template/spec/containers",
    ));
    cells.push(selector(job.pointer("/spec/jobTemplate/spec/selector")).into());
    cells
}

pub(super) fn ingress(ingress: &Value, now: Moment) -> Vec<Value> {
    let hosts: Vec<_> = list_at(ingress, "/spec/rules")
        .iter()
        .map(|rule| text(rule, "host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let ports = if list_at(ingress, "/spec/tls").is_empty() {
        "80"
    } else {
        "80, 443"
    };
    vec![
        n(ingress),
        or_none(text_at(ingress, "/spec/ingressClassName")),
        some(&hosts, 3, "*").into(),
        balancer(ingress).join(",").into(),
        ports.into(),
        age(ingress, now),
    ]
}

pub(super) fn binding(binding: &Value, now: Moment) -> Vec<Value> {
    let role = format!(
        "{}/{}",
        text_at(binding, "/roleRef/kind"),
        text_at(binding, "/roleRef/name")
    );
    let subjects = |kind: &str| -> Value {
        list(binding, "subjects")
            .iter()
            .filter(|subject| text(subject, "kind") == kind)
            .map(|subject| match (kind, text(subject, "namespace")) {
                ("ServiceAccount", namespace) if !namespace.is_empty() => {
                    format!("{namespace}/{}", text(subject, "name"))
                }
                _ => text(subject, "name").to_owned(),
            })
            .collect::<Vec<_>>()
            .join(", ")
            .into()
    };
    vec![
        n(binding),
        role.into(),
        age(binding, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

pub(super) fn storage_class(class: &Value, now: Moment) -> Vec<Value> {
    let annotations = class.pointer("/metadata/annotations");
    let default = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|key| annotations.is_some_and(|all| text(all, key) == "true"));
    let shown = if default {
        format!("{} (default)", name(class))
    } else {
        name(class).to_owned()
    };
    let or = |field: &str, fallback: &str| -> Value {
        match text(class, field) {
            "" => fallback.into(),
            given => given.into(),
        }
    };
    let expansion = class.get("allowVolumeExpansion") == Some(&Value::Bool(true));
    vec![
        shown.into(),
        text(class, "provisioner").into(),
        or("reclaimPolicy", "Delete"),
        or("volumeBindingMode", "Immediate"),
        expansion.into(),
        age(class, now),
    ]
}

pub(super) fn api_service(service: &Value, now: Moment) -> Vec<Value> {
    let backend = match service.pointer("/spec/service") {
        Some(backend) if !backend.is_null() => {
            format!("{}/{}", text(backend, "namespace"), text(backend, "name"))
        }
        _ => "Local".to_owned(),
    };
    let available = list_at(service, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "type") == "Available");
    let status = available.map_or("Unknown".to_owned(), |condition| {
        match (text(condition, "status"), text(condition, "reason")) {
            ("True", _) => "True".to_owned(),
            (status, "") => status.to_owned(),
            (status, reason) => format!("{status} ({reason})"),
        }
    });
    vec![n(service), backend.into(), status.into(), age(service, now)]
}

pub(super) fn autoscaler(autoscaler: &Value, now: Moment) -> Vec<Value> {
    let target = autoscaler
        .pointer("/spec/scaleTargetRef")
        .cloned()
        .unwrap_or(json!({}));
    let least =
        number_at(autoscaler, "/spec/minReplicas").map_or("<unset>".to_owned(), |least| least.to_string());
    let targets = number_at(autoscaler, "/spec/targetCPUUtilizationPercentage")
        .map_or("<unknown>".to_owned(), |percent| format!("<unknown>/{percent}%"));
    vec![
        n(autoscaler),
        format!("{}/{}", text(&target, "kind"), text(&target, "name")).into(),
        targets.into(),
        least.into(),
        int(autoscaler, "/spec/maxReplicas").into(),
        int(autoscaler, "/status/currentReplicas").into(),
        age(autoscaler, now),
    ]
}
