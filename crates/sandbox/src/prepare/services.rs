//! Services: addresses and ports that the server hands out, and fields that depend on the type.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::names::{check_labels, not_label, not_port_name, not_subdomain, refuse};
use super::network::{check_address as check_address_form, check_ordinary};
use super::rules::{check_choice, duplicate};
use crate::Config;
use crate::fields::validate::Cause;
use crate::json::{child, list_at, number_at, object, text, text_at};
use crate::status::{Result, Status, cause, invalid, required};
use crate::transaction::Transaction;

/// Gives a new Service its address and ports.
pub(super) fn create(transaction: &mut Transaction, new: &mut Value) -> Result<()> {
    drop_families(transaction, new);
    if text_at(new, "/spec/type") == "ExternalName" {
        return Ok(());
    }
    let address = match text_at(new, "/spec/clusterIP") {
        // A dry run takes nothing out of the network, and shows nothing.
        "" if transaction.dry_run => return assign_node_ports(transaction, new),
        "" => free_address(transaction)?,
        "None" => "None".to_owned(),
        // What is no address is refused later, with all else that is wrong.
        given if given.parse::<std::net::IpAddr>().is_err() => given.to_owned(),
        given => take_address(transaction, new, given)?,
    };
    set_address(transaction, new, &address);
    assign_node_ports(transaction, new)
}

/// A Service has a list of its addresses from 1.20 on.
fn has_list(transaction: &Transaction) -> bool {
    transaction.builtins.minor >= 20
}

fn set_address(transaction: &Transaction, new: &mut Value, address: &str) {
    let spec = child(new, "spec");
    spec.insert("clusterIP".into(), address.into());
    if has_list(transaction) {
        spec.insert("clusterIPs".into(), json!([address]));
    }
}

/// Works out what an update means for the fields that belong to the type, and hands out what is missing.
pub(super) fn update(transaction: &mut Transaction, old: &Value, new: &mut Value) -> Result<()> {
    drop_families(transaction, new);
    if has_list(transaction) {
        follow_address(old, new);
    }
    let (before, after) = (
        text_at(old, "/spec/type").to_owned(),
        text_at(new, "/spec/type").to_owned(),
    );
    let same = |pointer: &str, new: &Value| old.pointer(pointer) == new.pointer(pointer);
    let spec_of = |new: &mut Value, field: &str| {
        child(new, "spec").shift_remove(field);
    };
    if before != "ExternalName" && after == "ExternalName" && same("/spec/clusterIP", new) {
        spec_of(new, "clusterIP");
        spec_of(new, "clusterIPs");
    }
    if has_node_ports(&before) && !has_node_ports(&after) {
        if same("/spec/ports", new)
            && let Some(ports) = child(new, "spec").get_mut("ports").and_then(Value::as_array_mut)
        {
            for port in ports {
                object(port).shift_remove("nodePort");
            }
        }
        if same("/spec/externalTrafficPolicy", new) {
            spec_of(new, "externalTrafficPolicy");
        }
        if same("/spec/healthCheckNodePort", new) {
            spec_of(new, "healthCheckNodePort");
        }
    }
    if before == "LoadBalancer" && after != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(&format!("/spec/{field}"), new) {
                spec_of(new, field);
            }
        }
    }
    if before == "ExternalName" && after != "ExternalName" && text_at(new, "/spec/clusterIP").is_empty() {
        let address = free_address(transaction)?;
        set_address(transaction, new, &address);
    }
    assign_node_ports(transaction, new)
}

fn has_node_ports(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

/// Dual stack is off before 1.21, and its fields with it.
fn drop_families(transaction: &Transaction, new: &mut Value) {
    let external = text_at(new, "/spec/type") == "ExternalName";
    let spec = child(new, "spec");
    if transaction.builtins.minor < 21 {
        for field in ["ipFamilies", "ipFamilyPolicy", "topologyKeys"] {
            spec.shift_remove(field);
        }
    } else if !external {
        spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
        spec.entry("ipFamilyPolicy")
            .or_insert_with(|| "SingleStack".into());
    }
}

/// Clients that know only one of `clusterIP` and `clusterIPs` mean both.
fn follow_address(old: &Value, new: &mut Value) {
    let (before, after) = (
        text_at(old, "/spec/clusterIP"),
        text_at(new, "/spec/clusterIP").to_owned(),
    );
    let all_before = old.pointer("/spec/clusterIPs").cloned();
    let all_after = new.pointer("/spec/clusterIPs").cloned();
    let spec = child(new, "spec");
    if before == after {
        if let (Some(all), None) = (all_before, all_after) {
            spec.insert("clusterIPs".into(), all);
        }
    } else if all_before == all_after {
        if after.is_empty() {
            spec.shift_remove("clusterIPs");
        } else {
            spec.insert("clusterIPs".into(), json!([after]));
        }
    }
}

/// The address of a Service does not change while it has one.
pub(crate) fn check_address(old: &Value, new: &Value) -> Vec<Cause> {
    let needs = |service: &Value| text_at(service, "/spec/type") != "ExternalName";
    if !needs(old) || !needs(new) || text_at(old, "/spec/clusterIP").is_empty() {
        return Vec::new();
    }
    if old.pointer("/spec/clusterIPs").is_none() {
        // Of 1.19, or a copy of one.
        let address = new.pointer("/spec/clusterIP").cloned();
        return if old.pointer("/spec/clusterIP") == address.as_ref() {
            Vec::new()
        } else {
            let address = address.unwrap_or_else(|| "".into());
            vec![invalid("spec.clusterIP", &address, "field is immutable")]
        };
    }
    let after = list_at(new, "/spec/clusterIPs");
    let Some(first) = after.first() else {
        let mut causes = vec![cause(
            "FieldValueInvalid",
            "spec.clusterIPs[0]",
            "Invalid value: []string(nil): primary clusterIP can not be unset",
        )];
        if !text_at(new, "/spec/clusterIP").is_empty() {
            causes.push(required("spec.clusterIPs", ""));
        }
        return causes;
    };
    if list_at(old, "/spec/clusterIPs")
        .first()
        .is_some_and(|before| before != first)
    {
        let message = format!("Invalid value: []string{{{first}}}: may not change once set");
        return vec![cause("FieldValueInvalid", "spec.clusterIPs[0]", message)];
    }
    Vec::new()
}

/// The ports of a Service by themselves.
pub(super) fn check(new: &Value, causes: &mut Vec<Cause>) {
    let kind = text_at(new, "/spec/type");
    let ports = list_at(new, "/spec/ports");
    if ports.is_empty() && kind != "ExternalName" && text_at(new, "/spec/clusterIP") != "None" {
        causes.push(required("spec.ports", ""));
    }
    if kind == "ExternalName" && text_at(new, "/spec/externalName").is_empty() {
        causes.push(required("spec.externalName", ""));
    }
    let name = text_at(new, "/spec/externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if kind == "ExternalName" && !name.is_empty() {
        refuse("spec.externalName", name, not_subdomain(name), causes);
    }
    if matches!(kind, "LoadBalancer" | "NodePort") && text_at(new, "/spec/clusterIP") == "None" {
        let why = format!("may not be set to 'None' for {kind} services");
        causes.push(invalid("spec.clusterIPs[0]", &"None".into(), &why));
    }
    let between = |number: i64| format!("Invalid value: {number}: must be between 1 and 65535, inclusive");
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, "name");
        if name.is_empty() && ports.len() > 1 {
            causes.push(required(&format!("{path}.name"), ""));
        } else if !name.is_empty() {
            let field = format!("{path}.name");
            refuse(&field, name, not_label(name), causes);
            if !names.insert(name) {
                causes.push(duplicate(&field, name));
            }
        }
        let number = number_at(port, "/port").unwrap_or(0);
        if !(1..=65_535).contains(&number) {
            causes.push(cause(
                "FieldValueInvalid",
                &format!("{path}.port"),
                between(number),
            ));
        }
        let protocol = text(port, "protocol");
        if !matches!(protocol, "" | "SCTP" | "TCP" | "UDP") {
            let supported = ["SCTP", "TCP", "UDP"];
            causes.push(crate::status::unsupported(
                &format!("{path}.protocol"),
                protocol,
                &supported,
            ));
        }
        if let Some(target) = number_at(port, "/targetPort")
            && !(1..=65_535).contains(&target)
        {
            causes.push(cause(
                "FieldValueInvalid",
                &format!("{path}.targetPort"),
                between(target),
            ));
        }
        if let Some(target) = port.get("targetPort").and_then(Value::as_str) {
            refuse(
                &format!("{path}.targetPort"),
                target,
                not_port_name(target),
                causes,
            );
        }
    }
    check_labels("spec.selector", new.pointer("/spec/selector"), causes);
    let spec = new.get("spec").unwrap_or(&Value::Null);
    check_choice(spec, "sessionAffinity", "spec", &["ClientIP", "None"], causes);
    for (index, address) in list_at(new, "/spec/clusterIPs").iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        if address != "None" {
            check_address_form(address, &format!("spec.clusterIPs[{index}]"), causes);
        }
    }
    for (index, address) in list_at(new, "/spec/externalIPs").iter().enumerate() {
        let (address, field) = (
            address.as_str().unwrap_or_default(),
            format!("spec.externalIPs[{index}]"),
        );
        if address.parse::<std::net::IpAddr>().is_err() {
            check_address_form(address, &field, causes);
        } else {
            check_ordinary(address, &field, causes);
        }
    }
    check_choice(
        spec,
        "type",
        "spec",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        causes,
    );
    for (index, port) in ports.iter().enumerate() {
        if kind == "ClusterIP" && number_at(port, "/nodePort").unwrap_or(0) != 0 {
            causes.push(crate::status::forbidden(
                &format!("spec.ports[{index}].nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            ));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (protocol, number) = (text(port, "protocol"), number_at(port, "/port").unwrap_or(0));
        if !seen.insert((protocol, number)) {
            let shown = format!(
                "core.ServicePort{{Name:\"\", Protocol:{protocol:?}, AppProtocol:(*string)(nil), Port:{number}, \
                 TargetPort:intstr.IntOrString{{Type:0, IntVal:0, StrVal:\"\"}}, NodePort:0}}"
            );
            let message = format!("Duplicate value: {shown}");
            causes.push(cause(
                "FieldValueDuplicate",
                &format!("spec.ports[{index}]"),
                message,
            ));
        }
    }
}

fn assign_node_ports(transaction: &mut Transaction, new: &mut Value) -> Result<()> {
    if !has_node_ports(text_at(new, "/spec/type")) {
        return Ok(());
    }
    let this = text_at(new, "/metadata/uid").to_owned();
    let mut taken: Vec<i64> = services(transaction)
        .iter()
        .filter(|service| text_at(service, "/metadata/uid") != this)
        .flat_map(|service| list_at(service, "/spec/ports").to_vec())
        .filter_map(|port| number_at(&port, "/nodePort"))
        .collect();
    let mut ports = list_at(new, "/spec/ports").to_vec();
    for (index, port) in ports.iter_mut().enumerate() {
        let given = number_at(port, "/nodePort").unwrap_or(0);
        if given == 0 {
            let chosen = free_port(transaction, &taken)?;
            taken.push(chosen);
            object(port).insert("nodePort".into(), chosen.into());
            continue;
        }
        let why = if !(30_000..32_768).contains(&given) {
            "provided port is not in the valid range. The range of valid ports is 30000-32767"
        } else if taken.contains(&given) {
            "provided port is already allocated"
        } else {
            continue;
        };
        let field = format!("spec.ports[{index}].nodePort");
        let causes = [cause(
            "FieldValueInvalid",
            &field,
            format!("Invalid value: {given}: {why}"),
        )];
        return Err(Status::invalid("", "Service", crate::json::name(new), &causes));
    }
    child(new, "spec").insert("ports".into(), ports.into());
    Ok(())
}

/// Takes the address that a client wants.
fn take_address(transaction: &Transaction, new: &Value, wanted: &str) -> Result<String> {
    let taken = addresses(transaction);
    let (a, b) = network(transaction.config, &taken);
    let in_range = wanted.starts_with(&format!("{a}.{b}."));
    let why = if !in_range {
        format!("provided IP is not in the valid range. The range of valid IPs is {a}.{b}.0.0/16")
    } else if taken.contains(wanted) {
        "provided IP is already allocated".to_owned()
    } else {
        return Ok(wanted.to_owned());
    };
    let causes = [cause(
        "FieldValueInvalid",
        "spec.clusterIPs",
        format!("Invalid value: []string{{{wanted:?}}}: failed to allocated ip:{wanted} with error:{why}"),
    )];
    Err(Status::invalid("", "Service", crate::json::name(new), &causes))
}

fn addresses(transaction: &Transaction) -> BTreeSet<String> {
    services(transaction)
        .iter()
        .map(|service| text_at(service, "/spec/clusterIP").to_owned())
        .collect()
}

fn services(transaction: &Transaction) -> Vec<Arc<Value>> {
    transaction
        .state
        .collection("services")
        .map(|services| services.iter().map(|(_, service)| Arc::clone(service)).collect())
        .unwrap_or_default()
}

fn free_address(transaction: &mut Transaction) -> Result<String> {
    let taken = addresses(transaction);
    let (a, b) = network(transaction.config, &taken);
    for _ in 0..10_000 {
        let drawn = transaction.state.draw();
        let address = format!("{a}.{b}.{}.{}", drawn % 256, 1 + (drawn >> 8) % 254);
        if !taken.contains(&address) && !address.ends_with(".0.1") {
            return Ok(address);
        }
    }
    Err(Status::internal("failed to allocate a serviceIP: range is full"))
}

/// The first two numbers of the service network: that of the `kubernetes` Service where there is one.
fn network(config: &Config, taken: &BTreeSet<String>) -> (u8, u8) {
    taken
        .iter()
        .find(|address| address.ends_with(".0.1"))
        .and_then(|address| {
            let mut parts = address.split('.');
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        })
        .unwrap_or(config.service_network)
}

fn free_port(transaction: &mut Transaction, taken: &[i64]) -> Result<i64> {
    for _ in 0..10_000 {
        let port = 30_000 + i64::try_from(transaction.state.draw() % 2768).unwrap_or_default();
        if !taken.contains(&port) {
            return Ok(port);
        }
    }
    Err(Status::internal("failed to allocate a nodePort: range is full"))
}
