//! What may refuse a write besides validation: namespaces that are not there, webhooks that are down.

use serde_json::Value;

use crate::json::{list, list_at, text, text_at};
use crate::kinds::Resource;
use crate::selector::Labels;
use crate::status::{Result, Status};
use crate::store::State;
use crate::transaction::Transaction;
use crate::write::Place;

/// Refuses to create in a namespace that does not exist or goes away.
pub(crate) fn check_namespace(
    transaction: &Transaction,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<()> {
    let Some(found) = transaction.state.find("namespaces", "", namespace) else {
        return Err(Status::not_found_as("namespaces", "", namespace));
    };
    if text_at(found, "/status/phase") == "Terminating" {
        return Err(Status::terminating(resource, name, namespace));
    }
    Ok(())
}

/// Refuses to delete the namespaces that every cluster has.
pub(crate) fn check_deletion(resource: &Resource, name: &str) -> Result<()> {
    if resource.is("", "Namespace") && matches!(name, "default" | "kube-system" | "kube-public") {
        return Err(Status::forbidden(
            resource,
            name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}

/// Refuses a write that a webhook with `failurePolicy: Fail` would see when nobody answers for that webhook.
///
/// Webhooks are never called: one whose service has a ready endpoint is taken to agree.
pub(crate) fn check_webhooks(
    transaction: &Transaction,
    place: Place,
    operation: &str,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<()> {
    let resource = place.resource;
    // The server keeps its own doors open: what configures admission is never subject to webhooks.
    if resource.group == "admissionregistration.k8s.io" {
        return Ok(());
    }
    for store in [
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
    ] {
        let Some(collection) = transaction.state.collection(store) else {
            continue;
        };
        for (_, configuration) in collection.iter() {
            for webhook in list(configuration, "webhooks") {
                if text(webhook, "failurePolicy") == "Ignore"
                    || !list(webhook, "rules")
                        .iter()
                        .any(|rule| rule_matches(rule, webhook, place, operation))
                    || !namespace_matches(transaction, webhook, resource, new.or(old))
                    || !object_matches(webhook, new, old)
                {
                    continue;
                }
                if let Some(why) = unreachable(transaction, webhook) {
                    return Err(Status::internal(format!(
                        "failed calling webhook \"{}\": {why}",
                        text(webhook, "name")
                    )));
                }
            }
        }
    }
    Ok(())
}

fn rule_matches(rule: &Value, webhook: &Value, place: Place, operation: &str) -> bool {
    let Place {
        resource,
        version,
        subresource,
    } = place;
    let has = |key: &str, wanted: &str| list(rule, key).iter().any(|one| one == "*" || one == wanted);
    let scope_fits = match text(rule, "scope") {
        "Namespaced" => resource.namespaced,
        "Cluster" => !resource.namespaced,
        _ => true,
    };
    let equivalent = text(webhook, "matchPolicy") != "Exact";
    let version_fits = has("apiVersions", version)
        || (equivalent
            && resource
                .versions
                .iter()
                .any(|other| has("apiVersions", &other.name)));
    let full = if subresource.is_empty() {
        resource.plural.clone()
    } else {
        format!("{}/{subresource}", resource.plural)
    };
    let resource_fits = list(rule, "resources")
        .iter()
        .filter_map(Value::as_str)
        .any(|pattern| match pattern.split_once('/') {
            None => subresource.is_empty() && (pattern == "*" || pattern == full),
            Some(("*", "*")) => true,
            Some((left, right)) => {
                (left == "*" || left == resource.plural) && (right == "*" || right == subresource) && {
                    right == "*" || !subresource.is_empty()
                }
            }
        });
    scope_fits
        && has("operations", operation)
        && has("apiGroups", &resource.group)
        && version_fits
        && resource_fits
}

fn namespace_matches(
    transaction: &Transaction,
    webhook: &Value,
    resource: &Resource,
    object: Option<&Value>,
) -> bool {
    let Some(selector) = Labels::of(webhook.get("namespaceSelector")).filter(|selector| !selector.is_empty())
    else {
        return true;
    };
    if resource.is("", "Namespace") {
        return object.is_some_and(|object| selector.matches(object));
    }
    if !resource.namespaced {
        return true;
    }
    let namespace = object.map(crate::json::namespace).unwrap_or_default();
    transaction
        .state
        .find("namespaces", "", namespace)
        .is_some_and(|namespace| selector.matches(namespace))
}

fn object_matches(webhook: &Value, new: Option<&Value>, old: Option<&Value>) -> bool {
    let Some(selector) = Labels::of(webhook.get("objectSelector")).filter(|selector| !selector.is_empty())
    else {
        return true;
    };
    new.into_iter().chain(old).any(|object| selector.matches(object))
}

/// Why a webhook cannot be reached, if it cannot.
fn unreachable(transaction: &Transaction, webhook: &Value) -> Option<String> {
    let service = webhook
        .pointer("/clientConfig/service")
        .filter(|service| !service.is_null())?;
    let timeout = crate::json::number_at(webhook, "/timeoutSeconds").unwrap_or(10);
    let (namespace, name) = (text(service, "namespace"), text(service, "name"));
    let found = transaction.state.find("services", namespace, name);
    if found.is_some_and(|found| text_at(found, "/spec/type") == "ExternalName") {
        return None;
    }
    let ready = found.is_some_and(|found| has_port(found, service))
        && transaction
            .state
            .find("endpoints", namespace, name)
            .is_some_and(|endpoints| {
                list(endpoints, "subsets")
                    .iter()
                    .any(|subset| !list(subset, "addresses").is_empty())
            });
    (!ready).then(|| no_answer(&transaction.state, webhook, timeout))
}

fn port_of(service: &Value) -> i64 {
    crate::json::number_at(service, "/port").unwrap_or(443)
}

fn has_port(found: &Value, service: &Value) -> bool {
    list_at(found, "/spec/ports")
        .iter()
        .any(|port| crate::json::number_at(port, "/port") == Some(port_of(service)))
}

/// That a webhook's service does not answer, in the words of the server's HTTP client.
pub(crate) fn no_answer(state: &State, webhook: &Value, timeout: i64) -> String {
    let service = webhook.pointer("/clientConfig/service").unwrap_or(&Value::Null);
    let (namespace, name, port) = (
        text(service, "namespace"),
        text(service, "name"),
        port_of(service),
    );
    let path = text(service, "path");
    let slash = if path.is_empty() || path.starts_with('/') {
        ""
    } else {
        "/"
    };
    let call = format!("Post \"https://{name}.{namespace}.svc:{port}{slash}{path}?timeout={timeout}s\"");
    match state.find("services", namespace, name) {
        None => format!("{call}: service \"{name}\" not found"),
        Some(found) if !has_port(found, service) => {
            format!("{call}: no service port {port} found for service \"{name}\"")
        }
        Some(found) => {
            let address = text_at(found, "/spec/clusterIP");
            format!("{call}: dial tcp {address}:{port}: connect: connection refused")
        }
    }
}
