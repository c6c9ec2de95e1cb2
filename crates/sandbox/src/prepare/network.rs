//! Validation of ingresses, network policies and endpoints.

use std::net::IpAddr;

use serde_json::Value;

use super::names::{check_selector, not_label, not_port_name, not_subdomain, refuse};
use super::rules::{PROTOCOLS, check_choice, check_port};
use crate::fields::validate::Cause;
use crate::json::{list, list_at, number_at, text};
use crate::status::{invalid, required, unsupported};

/// Checks an ingress in either of its forms: that of `networking.k8s.io/v1`, and that of the beta versions.
pub(super) fn check_ingress(new: &Value, causes: &mut Vec<Cause>) {
    let is_beta = text(new, "apiVersion").contains("beta");
    let spec = new.get("spec").unwrap_or(&Value::Null);
    let default = if is_beta { "backend" } else { "defaultBackend" };
    let (rules, backend) = (list(spec, "rules"), spec.get(default));
    if rules.is_empty() && backend.is_none() {
        let message = format!(
            "Invalid value: []networking.IngressRule(nil): either `{default}` or `rules` must be specified"
        );
        causes.push(crate::status::cause("FieldValueInvalid", "spec", message));
    }
    if let Some(backend) = backend {
        check_backend(backend, is_beta, &format!("spec.{default}"), causes);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        let is_wildcard = check_host(text(rule, "host"), &format!("{path}.host"), causes);
        // What stands under a wildcard was not looked at for long, and still is not in the beta versions.
        if let Some(http) = rule.get("http").filter(|_| !(is_beta && is_wildcard)) {
            let path = format!("{path}.http.paths");
            if list(http, "paths").is_empty() {
                causes.push(required(&path, ""));
            }
            for (index, one) in list(http, "paths").iter().enumerate() {
                check_path(one, is_beta, &format!("{path}[{index}]"), causes);
            }
        }
    }
    let class = text(spec, "ingressClassName");
    if !class.is_empty() {
        refuse("spec.ingressClassName", class, not_subdomain(class), causes);
    }
}

/// Checks the host of a rule, and says whether it is a wildcard.
fn check_host(host: &str, field: &str, causes: &mut Vec<Cause>) -> bool {
    if host.is_empty() {
        return false;
    }
    if host.parse::<IpAddr>().is_ok() {
        causes.push(invalid(
            field,
            &host.into(),
            "must be a DNS name, not an IP address",
        ));
    }
    if !host.contains('*') {
        refuse(field, host, not_subdomain(host), causes);
        return false;
    }
    let fits = host
        .strip_prefix("*.")
        .is_some_and(|rest| !rest.contains('*') && not_subdomain(rest).is_empty());
    if !fits {
        causes.push(invalid(
            field,
            &host.into(),
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. \
             '*.example.com', regex used for validation is \
             '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ));
    }
    true
}

fn check_path(path: &Value, is_beta: bool, at: &str, causes: &mut Vec<Cause>) {
    let (given, kind) = (text(path, "path"), text(path, "pathType"));
    let field = format!("{at}.path");
    let mut refuse = |why: &str| causes.push(invalid(&field, &given.into(), why));
    match kind {
        // The beta versions fill it in.
        "" if is_beta => {}
        "" => {
            let field = format!("{at}.pathType");
            causes.push(required(&field, "pathType must be specified"));
            return;
        }
        "Exact" | "Prefix" => {
            if !given.starts_with('/') {
                refuse("must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if given.contains(part) {
                    refuse(&format!("must not contain '{part}'"));
                }
            }
            for part in ["/..", "/."] {
                if given.ends_with(part) {
                    refuse(&format!("cannot end with '{part}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !given.is_empty() && !given.starts_with('/') {
                refuse("must be an absolute path");
            }
        }
        other => causes.push(unsupported(
            &format!("{at}.pathType"),
            other,
            &["Exact", "ImplementationSpecific", "Prefix"],
        )),
    }
    let backend = path.get("backend").unwrap_or(&Value::Null);
    check_backend(backend, is_beta, &format!("{at}.backend"), causes);
}

fn check_backend(backend: &Value, is_beta: bool, path: &str, causes: &mut Vec<Cause>) {
    let is_given = |value: &Value| !matches!(value, Value::Null) && *value != 0 && *value != "";
    let pick = |pointer: &str| backend.pointer(pointer).filter(|value| is_given(value));
    let (name, port_name, number, name_field, port_field) = if is_beta {
        let port = pick("/servicePort");
        (
            text(backend, "serviceName"),
            port.and_then(Value::as_str),
            port.and_then(Value::as_i64),
            "serviceName",
            ["servicePort", "servicePort"],
        )
    } else {
        (
            backend
                .pointer("/service/name")
                .and_then(Value::as_str)
                .unwrap_or_default(),
            pick("/service/port/name").and_then(Value::as_str),
            pick("/service/port/number").and_then(Value::as_i64),
            "service.name",
            ["service.port.name", "service.port.number"],
        )
    };
    let has_resource = pick("/resource").is_some();
    let has_service = if is_beta {
        !name.is_empty() || port_name.is_some() || number.is_some()
    } else {
        pick("/service").is_some()
    };
    match (has_resource, has_service) {
        (true, true) => {
            causes.push(invalid(
                path,
                &"".into(),
                "cannot set both resource and service backends",
            ));
            return;
        }
        (true, false) => return,
        (false, false) => {
            causes.push(invalid(
                path,
                &"".into(),
                "resource or service backend is required",
            ));
            return;
        }
        (false, true) => {}
    }
    let field = format!("{path}.{name_field}");
    if name.is_empty() {
        causes.push(required(&field, ""));
    } else {
        refuse(&field, name, super::names::not_old_label(name), causes);
    }
    match (port_name, number) {
        (Some(_), Some(_)) => causes.push(invalid(
            path,
            &"".into(),
            "cannot set both port name & port number",
        )),
        (Some(port), None) => refuse(
            &format!("{path}.{}", port_field[0]),
            port,
            not_port_name(port),
            causes,
        ),
        (None, Some(number)) => check_port(&format!("{path}.{}", port_field[1]), number, causes),
        (None, None) => causes.push(required(path, "port name or number is required")),
    }
}

/// Checks a network policy.
pub(super) fn check_policy(new: &Value, causes: &mut Vec<Cause>) {
    check_selector("spec.podSelector", new.pointer("/spec/podSelector"), causes);
    for (index, kind) in list_at(new, "/spec/policyTypes").iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !matches!(kind, "Ingress" | "Egress") {
            let field = format!("spec.policyTypes[{index}]");
            causes.push(unsupported(&field, kind, &["Ingress", "Egress"]));
        }
    }
}

/// Checks endpoints.
pub(super) fn check_endpoints(new: &Value, causes: &mut Vec<Cause>) {
    for (index, subset) in list(new, "subsets").iter().enumerate() {
        let path = format!("subsets[{index}]");
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            causes.push(required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for key in ["addresses", "notReadyAddresses"] {
            for (index, address) in list(subset, key).iter().enumerate() {
                check_endpoint(address, &format!("{path}.{key}[{index}]"), causes);
            }
        }
        let ports = list(subset, "ports");
        for (index, port) in ports.iter().enumerate() {
            let path = format!("{path}.ports[{index}]");
            let (name, field) = (text(port, "name"), format!("{path}.name"));
            if !name.is_empty() {
                refuse(&field, name, not_label(name), causes);
            } else if ports.len() > 1 {
                causes.push(required(&field, ""));
            }
            let number = number_at(port, "/port").unwrap_or(0);
            check_port(&format!("{path}.port"), number, causes);
            check_choice(port, "protocol", &path, PROTOCOLS, causes);
        }
    }
}

fn check_endpoint(address: &Value, path: &str, causes: &mut Vec<Cause>) {
    let (ip, field) = (text(address, "ip"), format!("{path}.ip"));
    check_address(ip, &field, causes);
    let host = text(address, "hostname");
    if !host.is_empty() {
        refuse(&format!("{path}.hostname"), host, not_label(host), causes);
    }
    let node = text(address, "nodeName");
    if !node.is_empty() {
        refuse(&format!("{path}.nodeName"), node, not_subdomain(node), causes);
    }
    check_ordinary(ip, &field, causes);
}

/// An address must be one.
pub(super) fn check_address(address: &str, field: &str, causes: &mut Vec<Cause>) {
    if address.parse::<IpAddr>().is_err() {
        causes.push(invalid(
            field,
            &address.into(),
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ));
    }
}

/// An address must be one that traffic can be sent to.
pub(super) fn check_ordinary(address: &str, field: &str, causes: &mut Vec<Cause>) {
    let mut refuse = |why: &str| causes.push(invalid(field, &address.into(), why));
    let Ok(parsed) = address.parse::<IpAddr>() else {
        refuse("must be a valid IP address");
        return;
    };
    if parsed.is_unspecified() {
        refuse(&format!("may not be unspecified ({address})"));
    }
    if parsed.is_loopback() {
        refuse("may not be in the loopback range (127.0.0.0/8)");
    }
    let (is_local, is_multicast) = match parsed {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if is_local {
        refuse("may not be in the link-local range (169.254.0.0/16)");
    }
    if is_multicast {
        refuse("may not be in the link-local multicast range (224.0.0.0/24)");
    }
}
