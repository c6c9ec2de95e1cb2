//! Endpoints and EndpointSlices: which pods stand behind a Service.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::controllers::workloads::{is_finished, is_ready, owner_reference};
use crate::controllers::{create, write_status};
use crate::json::{child, is_deleting, list, list_at, name, namespace, object, text, text_at};
use crate::selector::Labels;
use crate::status::Result;
use crate::store::Key;
use crate::transaction::Transaction;
use crate::write::Writer;

/// A set of ports, in a form that can be compared and sorted.
type Ports = Vec<(String, i64, String)>;

/// Brings the endpoints of a Service up to date.
pub(crate) fn reconcile(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(service) = transaction.state.get(key).cloned() else {
        // The Endpoints of a Service go with it; slices are collected as its dependents.
        if let Some(endpoints) = transaction
            .state
            .find("endpoints", key.namespace(), key.name())
            .cloned()
        {
            let kind = transaction.builtin("", "endpoints")?;
            transaction.remove(&Key::of(&kind, &endpoints));
        }
        return Ok(());
    };
    let Some(selector) = Labels::of_map(service.pointer("/spec/selector")) else {
        return Ok(());
    };
    if is_deleting(&service) || text_at(&service, "/spec/type") == "ExternalName" {
        return Ok(());
    }
    let pods: Vec<_> = transaction
        .state
        .collection("pods")
        .into_iter()
        .flat_map(|pods| pods.range(namespace(&service), None))
        .filter(|(_, pod)| {
            selector.matches(pod)
                && !text_at(pod, "/status/podIP").is_empty()
                && !is_deleting(pod)
                && !is_finished(pod)
        })
        .map(|(_, pod)| Arc::clone(pod))
        .collect();
    let answers = !transaction
        .state
        .troubles
        .is_dead(namespace(&service), name(&service));
    let pods = if answers { pods } else { Vec::new() };
    write_endpoints(transaction, &service, &pods)?;
    write_slice(transaction, &service, &pods)
}

/// Takes the endpoints of a Service away behind which nobody answers any more, and gives them back to one that does again.
pub(crate) fn reconcile_dead(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let endpoints = transaction.state.find("endpoints", key.namespace(), key.name());
    let is_empty = endpoints.is_none_or(|endpoints| list(endpoints, "subsets").is_empty());
    if is_empty != transaction.state.troubles.is_dead(key.namespace(), key.name()) {
        reconcile(transaction, key)?;
    }
    Ok(())
}

/// The ports of a Service as a pod has them; `None` for one that names a port which the pod does not have.
fn ports_on(service: &Value, pod: &Value) -> Ports {
    list_at(service, "/spec/ports")
        .iter()
        .filter_map(|port| {
            let protocol = match text(port, "protocol") {
                "" => "TCP",
                given => given,
            };
            let number = match port.get("targetPort").unwrap_or(&Value::Null) {
                Value::Number(number) if number.as_i64() != Some(0) => number.as_i64()?,
                Value::String(wanted) => list_at(pod, "/spec/containers")
                    .iter()
                    .flat_map(|container| list(container, "ports"))
                    .find(|port| text(port, "name") == wanted)
                    .and_then(|port| crate::json::number_at(port, "/containerPort"))?,
                _ => crate::json::number_at(port, "/port")?,
            };
            Some((text(port, "name").to_owned(), number, protocol.to_owned()))
        })
        .collect()
}

fn address(pod: &Value) -> Value {
    let mut address = json!({ "ip": text_at(pod, "/status/podIP") });
    if !text_at(pod, "/spec/hostname").is_empty() && !text_at(pod, "/spec/subdomain").is_empty() {
        address["hostname"] = text_at(pod, "/spec/hostname").into();
    }
    address["nodeName"] = text_at(pod, "/spec/nodeName").into();
    address["targetRef"] = reference(pod);
    address
}

fn reference(pod: &Value) -> Value {
    json!({
        "kind": "Pod",
        "namespace": namespace(pod),
        "name": name(pod),
        "uid": crate::json::uid(pod),
        "resourceVersion": text_at(pod, "/metadata/resourceVersion"),
    })
}

fn is_headless(service: &Value) -> bool {
    text_at(service, "/spec/clusterIP") == "None"
}

fn labels_of(service: &Value) -> Value {
    let mut labels = service.pointer("/metadata/labels").cloned().unwrap_or(json!({}));
    if is_headless(service) {
        object(&mut labels).insert("service.kubernetes.io/headless".into(), "".into());
    }
    labels
}

fn write_endpoints(transaction: &mut Transaction, service: &Value, pods: &[Arc<Value>]) -> Result<()> {
    let kind = transaction.builtin("", "endpoints")?;
    let everyone = service.pointer("/spec/publishNotReadyAddresses") == Some(&Value::Bool(true));
    let mut groups: BTreeMap<Ports, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for pod in pods {
        let ports = ports_on(service, pod);
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        let group = groups.entry(ports).or_default();
        if everyone || is_ready(pod) {
            &mut group.0
        } else {
            &mut group.1
        }
        .push(address(pod));
    }
    let subsets: Vec<Value> = groups
        .into_iter()
        .map(|(ports, (mut ready, mut waiting))| {
            let mut subset = json!({});
            for (key, addresses) in [("addresses", &mut ready), ("notReadyAddresses", &mut waiting)] {
                if !addresses.is_empty() {
                    addresses.sort_by(|a, b| text(a, "ip").cmp(text(b, "ip")));
                    subset[key] = std::mem::take(addresses).into();
                }
            }
            let ports: Vec<_> = ports
                .into_iter()
                .map(|(name, port, protocol)| {
                    let mut entry = json!({ "port": port, "protocol": protocol });
                    if !name.is_empty() {
                        entry["name"] = name.into();
                    }
                    entry
                })
                .collect();
            if !ports.is_empty() {
                subset["ports"] = ports.into();
            }
            subset
        })
        .collect();
    let labels = labels_of(service);
    let now = transaction.now.clone();
    let found = transaction
        .state
        .find("endpoints", namespace(service), name(service))
        .cloned();
    if let Some(live) = found {
        let before = live.get("subsets").cloned().unwrap_or(json!([]));
        if before == Value::Array(subsets.clone())
            && live.pointer("/metadata/labels").cloned().unwrap_or(json!({})) == labels
        {
            return Ok(());
        }
        let mut next = Value::clone(&live);
        if subsets.is_empty() {
            object(&mut next).shift_remove("subsets");
        } else {
            object(&mut next).insert("subsets".into(), subsets.into());
        }
        let metadata = child(&mut next, "metadata");
        if labels.as_object().is_some_and(serde_json::Map::is_empty) {
            metadata.shift_remove("labels");
        } else {
            metadata.insert("labels".into(), labels);
        }
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        object(annotations).insert(
            "endpoints.kubernetes.io/last-change-trigger-time".into(),
            now.into(),
        );
        write_status(transaction, &kind, &live, next, Writer::CONTROLLER);
    } else {
        let mut endpoints = json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": name(service),
                "namespace": namespace(service),
                "labels": labels,
                "annotations": { "endpoints.kubernetes.io/last-change-trigger-time": now },
            },
        });
        if !subsets.is_empty() {
            endpoints["subsets"] = subsets.into();
        }
        create(transaction, &kind, endpoints, Writer::CONTROLLER)?;
    }
    Ok(())
}

fn write_slice(transaction: &mut Transaction, service: &Value, pods: &[Arc<Value>]) -> Result<()> {
    const MANAGED: &str = "endpointslice.kubernetes.io/managed-by";
    const SERVICE: &str = "kubernetes.io/service-name";
    let kind = transaction.builtin("discovery.k8s.io", "endpointslices")?;
    let everyone = service.pointer("/spec/publishNotReadyAddresses") == Some(&Value::Bool(true));
    let stable = kind.storage_version == "v1";
    let mut ports: Vec<Value> = Vec::new();
    let mut endpoints: Vec<Value> = Vec::new();
    for pod in pods {
        if ports.is_empty() {
            ports = ports_on(service, pod)
                .into_iter()
                .map(|(name, port, protocol)| json!({ "name": name, "port": port, "protocol": protocol }))
                .collect();
        }
        let mut endpoint = json!({
            "addresses": [text_at(pod, "/status/podIP")],
            "conditions": { "ready": everyone || is_ready(pod) },
            "targetRef": reference(pod),
        });
        let node = text_at(pod, "/spec/nodeName");
        if stable {
            endpoint["nodeName"] = node.into();
        } else {
            endpoint["topology"] = json!({ "kubernetes.io/hostname": node });
        }
        endpoints.push(endpoint);
    }
    let mut labels = labels_of(service);
    let map = object(&mut labels);
    map.insert(MANAGED.into(), "endpointslice-controller.k8s.io".into());
    map.insert(SERVICE.into(), name(service).into());
    let none = |items: Vec<Value>| {
        if items.is_empty() {
            Value::Null
        } else {
            Value::Array(items)
        }
    };
    let (endpoints, ports) = (none(endpoints), none(ports));
    let existing = transaction
        .state
        .objects_of(&kind)
        .range(namespace(service), None)
        .map(|(_, slice)| slice)
        .find(|slice| {
            let labels = slice.pointer("/metadata/labels");
            labels.is_some_and(|labels| {
                text(labels, SERVICE) == name(service)
                    && text(labels, MANAGED) == "endpointslice-controller.k8s.io"
            })
        })
        .cloned();
    if let Some(live) = existing {
        let mut next = Value::clone(&live);
        object(&mut next).insert("endpoints".into(), endpoints);
        object(&mut next).insert("ports".into(), ports);
        child(&mut next, "metadata").insert("labels".into(), labels);
        if next == *live {
            return Ok(());
        }
        let generation = crate::json::number_at(&live, "/metadata/generation").unwrap_or(0) + 1;
        child(&mut next, "metadata").insert("generation".into(), generation.into());
        write_status(transaction, &kind, &live, next, Writer::CONTROLLER);
        return Ok(());
    }
    let slice = json!({
        "apiVersion": kind.api_version(&kind.storage_version),
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", name(service)),
            "namespace": namespace(service),
            "labels": labels,
            "ownerReferences": [owner_reference(service)],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    });
    create(transaction, &kind, slice, Writer::CONTROLLER)?;
    Ok(())
}

/// The Services of a namespace that select a pod, before or after a change of it.
pub(crate) fn follow_pod(
    transaction: &mut Transaction,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<()> {
    let Some(pod) = new.or(old) else { return Ok(()) };
    let kind = transaction.builtin("", "services")?;
    let services: Vec<_> = transaction
        .state
        .objects_of(&kind)
        .range(namespace(pod), None)
        .filter(|(_, service)| {
            Labels::of_map(service.pointer("/spec/selector"))
                .is_some_and(|selector| old.into_iter().chain(new).any(|pod| selector.matches(pod)))
        })
        .map(|(_, service)| Key::of(&kind, service))
        .collect();
    for key in services {
        transaction.mark(key);
    }
    Ok(())
}
