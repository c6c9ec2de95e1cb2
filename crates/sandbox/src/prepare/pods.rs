//! Validation of pods and of the templates they are made from.

use std::collections::BTreeSet;

use serde_json::Value;

use super::names::{self, not_label, not_port_name, not_subdomain, not_variable, refuse};
use super::rules::{PROTOCOLS, check_choice, check_port, duplicate};
use crate::fields::quantity_in_billionths as amount_of;
use crate::fields::validate::Cause;
use crate::json::{list, number_at, text, text_at};
use crate::status::{cause, forbidden, invalid, required, unsupported};

/// A template of pods, at its path.
pub(super) fn check_template(template: &Value, path: &str, causes: &mut Vec<Cause>) {
    names::check_labels(
        &format!("{path}.labels"),
        template.pointer("/metadata/labels"),
        causes,
    );
    let annotations = template.pointer("/metadata/annotations");
    names::check_annotations(&format!("{path}.annotations"), annotations, causes);
    let nothing = Value::Null;
    check_spec(
        template.get("spec").unwrap_or(&nothing),
        &format!("{path}.spec"),
        causes,
    );
}

/// The spec of a pod, at its path.
pub(super) fn check_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let volumes = check_volumes(list(spec, "volumes"), &format!("{path}.volumes"), causes);
    let containers = list(spec, "containers");
    check_containers(containers, &volumes, &format!("{path}.containers"), causes);
    check_init_containers(spec, &volumes, &format!("{path}.initContainers"), causes);
    check_choice(
        spec,
        "restartPolicy",
        path,
        &["Always", "OnFailure", "Never"],
        causes,
    );
    check_choice(
        spec,
        "dnsPolicy",
        path,
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        causes,
    );
    names::check_labels(&format!("{path}.nodeSelector"), spec.get("nodeSelector"), causes);
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            causes.push(required(&format!("{path}.imagePullSecrets[{index}].name"), ""));
        }
    }
    for key in ["serviceAccountName", "nodeName"] {
        let name = text(spec, key);
        if !name.is_empty() {
            refuse(&format!("{path}.{key}"), name, not_subdomain(name), causes);
        }
    }
    if let Some(seconds) = number_at(spec, "/activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let field = format!("{path}.activeDeadlineSeconds");
        causes.push(invalid(
            &field,
            &seconds.into(),
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    for key in ["hostname", "subdomain"] {
        let name = text(spec, key);
        if !name.is_empty() {
            refuse(&format!("{path}.{key}"), name, not_label(name), causes);
        }
    }
    let class = text(spec, "priorityClassName");
    if !class.is_empty() {
        refuse(
            &format!("{path}.priorityClassName"),
            class,
            not_subdomain(class),
            causes,
        );
    }
}

/// The names of the volumes that are sound.
fn check_volumes<'a>(volumes: &'a [Value], path: &str, causes: &mut Vec<Cause>) -> BTreeSet<&'a str> {
    let mut known = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let before = causes.len();
        let (name, field) = (text(volume, "name"), format!("{path}[{index}].name"));
        if name.is_empty() {
            causes.push(required(&field, ""));
        } else {
            refuse(&field, name, not_label(name), causes);
        }
        if known.contains(name) {
            causes.push(duplicate(&field, name));
        }
        if causes.len() == before {
            known.insert(name);
        }
    }
    known
}

fn check_init_containers(spec: &Value, volumes: &BTreeSet<&str>, path: &str, causes: &mut Vec<Cause>) {
    let containers = list(spec, "initContainers");
    if containers.is_empty() {
        return;
    }
    check_containers(containers, volumes, path, causes);
    let mut others: BTreeSet<&str> = list(spec, "containers")
        .iter()
        .map(|container| text(container, "name"))
        .collect();
    for (index, container) in containers.iter().enumerate() {
        let name = text(container, "name");
        if !others.insert(name) {
            causes.push(duplicate(&format!("{path}[{index}].name"), name));
        }
    }
}

fn check_containers(containers: &[Value], volumes: &BTreeSet<&str>, path: &str, causes: &mut Vec<Cause>) {
    if containers.is_empty() {
        causes.push(required(path, ""));
    }
    let mut known = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (name, field) = (text(container, "name"), format!("{path}.name"));
        if name.is_empty() {
            causes.push(required(&field, ""));
        } else {
            refuse(&field, name, not_label(name), causes);
        }
        if !known.insert(name) {
            causes.push(duplicate(&field, name));
        }
        check_container(container, volumes, &path, causes);
    }
}

fn check_container(container: &Value, volumes: &BTreeSet<&str>, path: &str, causes: &mut Vec<Cause>) {
    if text(container, "image").is_empty() {
        causes.push(required(&format!("{path}.image"), ""));
    }
    match text(container, "terminationMessagePolicy") {
        "" | "File" | "FallbackToLogsOnError" => {}
        other => causes.push(invalid(
            &format!("{path}.terminationMessagePolicy"),
            &other.into(),
            "must be 'File' or 'FallbackToLogsOnError'",
        )),
    }
    check_ports(list(container, "ports"), &format!("{path}.ports"), causes);
    for (index, variable) in list(container, "env").iter().enumerate() {
        let (name, field) = (text(variable, "name"), format!("{path}.env[{index}].name"));
        if name.is_empty() {
            causes.push(required(&field, ""));
        } else {
            refuse(&field, name, not_variable(name), causes);
        }
    }
    let mut places = BTreeSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let (name, place) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            causes.push(required(&format!("{path}.name"), ""));
        }
        if !volumes.contains(name) {
            let message = format!("Not found: {}", crate::golang::quote(name));
            causes.push(cause("FieldValueNotFound", &format!("{path}.name"), message));
        }
        if place.is_empty() {
            causes.push(required(&format!("{path}.mountPath"), ""));
        }
        if !places.insert(place) {
            causes.push(invalid(
                &format!("{path}.mountPath"),
                &place.into(),
                "must be unique",
            ));
        }
    }
    check_choice(
        container,
        "imagePullPolicy",
        path,
        &["Always", "IfNotPresent", "Never"],
        causes,
    );
    if let Some(resources) = container.get("resources") {
        check_resources(resources, &format!("{path}.resources"), causes);
    }
}

fn check_ports(ports: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let mut known = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (name, field) = (text(port, "name"), format!("{path}.name"));
        let why = not_port_name(name);
        if !name.is_empty() && !why.is_empty() {
            refuse(&field, name, why, causes);
        } else if !name.is_empty() && !known.insert(name) {
            causes.push(duplicate(&field, name));
        }
        match number_at(port, "/containerPort").unwrap_or(0) {
            0 => causes.push(required(&format!("{path}.containerPort"), "")),
            number => check_port(&format!("{path}.containerPort"), number, causes),
        }
        match number_at(port, "/hostPort").unwrap_or(0) {
            0 => {}
            number => check_port(&format!("{path}.hostPort"), number, causes),
        }
        check_choice(port, "protocol", &path, PROTOCOLS, causes);
    }
}

/// What a container asks for must not be more than what it may have.
fn check_resources(resources: &Value, path: &str, causes: &mut Vec<Cause>) {
    let amounts = |key: &str| {
        resources
            .get(key)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
    };
    for key in ["limits", "requests"] {
        for (name, amount) in amounts(key) {
            if amount_of(amount) < 0 {
                causes.push(invalid(
                    &format!("{path}.{key}[{name}]"),
                    amount,
                    "must be greater than or equal to 0",
                ));
            }
            let limit = resources.pointer(&format!("/limits/{}", name.replace('~', "~0").replace('/', "~1")));
            if key == "requests"
                && let Some(limit) = limit
                && amount_of(amount) > amount_of(limit)
            {
                let why = format!("must be less than or equal to {name} limit");
                causes.push(invalid(&format!("{path}.requests"), amount, &why));
            }
        }
    }
}

/// What the template of a workload that keeps its pods running may not say.
pub(super) fn check_keeps_running(template: &Value, path: &str, kind: &str, causes: &mut Vec<Cause>) {
    let policy = text_at(template, "/spec/restartPolicy");
    if !matches!(policy, "" | "Always") {
        causes.push(unsupported(
            &format!("{path}.spec.restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    if number_at(template, "/spec/activeDeadlineSeconds").is_some() {
        causes.push(forbidden(
            &format!("{path}.spec.activeDeadlineSeconds"),
            &format!("activeDeadlineSeconds in {kind} is not Supported"),
        ));
    }
}
