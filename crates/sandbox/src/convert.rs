//! Kinds whose versions differ in more than their name: how one becomes the other.
//!
//! Everything else that Kubernetes serves in several versions has the same fields in all of them, as far as they are
//! used here; custom resources have none but their schema.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::admission;
use crate::json::{child, number_at, object, text, text_at, version_of};
use crate::kinds::Resource;
use crate::status::{Result, Status};
use crate::store::State;

/// Refuses to show or take a custom resource in another version than the stored one where a webhook would convert: none is
/// called here, so that it is as if none answered.
pub(crate) fn check(state: &State, resource: &Resource, version: &str) -> Result<()> {
    let Some(definition) = resource.definition.as_deref() else {
        return Ok(());
    };
    let conversion = definition.pointer("/spec/conversion").unwrap_or(&Value::Null);
    if version == resource.storage_version || text(conversion, "strategy") != "Webhook" {
        return Ok(());
    }
    let webhook = conversion.get("webhook").unwrap_or(&Value::Null);
    let address = text_at(webhook, "/clientConfig/url");
    let why = match address {
        "" => admission::no_answer(state, webhook, 30),
        address => format!("Post \"{address}?timeout=30s\": connect: connection refused"),
    };
    let stored = resource.api_version(&resource.storage_version);
    let message = format!(
        "conversion webhook for {stored}, Kind={} failed: {why}",
        resource.kind
    );
    Err(Status::new(500, "", message))
}

/// Whether objects of a kind have to be converted between this version and the stored one.
pub(crate) fn differs(resource: &Resource, version: &str) -> bool {
    match resource.kind.as_str() {
        _ if resource.is_custom() => false,
        "Ingress" | "CustomResourceDefinition" => version == "v1beta1",
        "HorizontalPodAutoscaler" => true,
        _ => false,
    }
}

/// Whether custom resources may have been stored in another form than this version's schema has now: what it does not know
/// is left out when they are read, and what it gives a value is filled in.
fn may_be_out_of_form(resource: &Resource, version: &str) -> bool {
    let Some(definition) = resource.definition.as_deref() else {
        return false;
    };
    version != resource.storage_version || number_at(definition, "/metadata/generation").unwrap_or(1) > 1
}

/// The object as the version shows it; shared where nothing differs.
pub(crate) fn shown<'a>(resource: &Resource, version: &str, object: &'a Value) -> Cow<'a, Value> {
    if differs(resource, version) || may_be_out_of_form(resource, version) {
        Cow::Owned(from_stored(resource, version, object))
    } else {
        Cow::Borrowed(object)
    }
}

/// The object as the version shows it.
pub(crate) fn from_stored(resource: &Resource, version: &str, object: &Value) -> Value {
    let mut object = object.clone();
    if may_be_out_of_form(resource, version) {
        crate::write::normalise(resource, version, &mut object);
        return object;
    }
    if resource.kind == "HorizontalPodAutoscaler" && differs(resource, version) {
        show_utilization(version, &mut object);
        return object;
    }
    if !differs(resource, version) || version_of(text(&object, "apiVersion")) != "v1" {
        return object;
    }
    if resource.kind == "CustomResourceDefinition" {
        definition_to_beta(&mut object);
    } else {
        each_backend(&mut object, "defaultBackend", "backend", |backend| {
            let service = backend.shift_remove("service").unwrap_or_default();
            if let Some(name) = service.get("name") {
                backend.insert("serviceName".into(), name.clone());
            }
            let port = service.get("port");
            if let Some(port) = port.and_then(|port| port.get("number").or_else(|| port.get("name"))) {
                backend.insert("servicePort".into(), port.clone());
            }
        });
    }
    object
}

/// The object as it is stored, from the version that a client speaks.
pub(crate) fn to_stored(resource: &Resource, object: &mut Value) {
    // An autoscaler is kept in the form in which it came.
    if resource.kind == "HorizontalPodAutoscaler"
        || !differs(resource, version_of(text(object, "apiVersion")))
    {
        return;
    }
    if resource.kind == "CustomResourceDefinition" {
        definition_from_beta(object);
        return;
    }
    each_backend(object, "backend", "defaultBackend", |backend| {
        let port = match backend.shift_remove("servicePort") {
            Some(Value::String(name)) => json!({ "name": name }),
            Some(number) => json!({ "number": number }),
            None => Value::Null,
        };
        if let Some(name) = backend.shift_remove("serviceName") {
            let mut service = json!({ "name": name });
            if !port.is_null() {
                service["port"] = port;
            }
            backend.insert("service".into(), service);
        }
    });
}

/// Shows the one thing that all versions of an autoscaler scale by, how busy processors are to be, as a version says it: a
/// field of its own in v1, one of the metrics in all others.
fn show_utilization(version: &str, autoscaler: &mut Value) {
    const FIELD: &str = "targetCPUUtilizationPercentage";
    let utilization = |metric: &Value| {
        let resource = metric.get("resource").filter(|one| text(one, "name") == "cpu")?;
        number_at(resource, "/targetAverageUtilization")
            .or_else(|| number_at(resource, "/target/averageUtilization"))
    };
    let spec = child(autoscaler, "spec");
    let field = spec.shift_remove(FIELD).and_then(|value| value.as_i64());
    let mut metrics = match spec.shift_remove("metrics") {
        Some(Value::Array(metrics)) => metrics,
        _ => Vec::new(),
    };
    let metric = metrics.iter().find_map(utilization);
    if version == "v1" {
        metrics.retain(|metric| utilization(metric).is_none());
        if let Some(wanted) = field.or(metric) {
            spec.insert(FIELD.into(), wanted.into());
        }
    } else {
        if let (Some(wanted), None) = (field, metric) {
            let resource = json!({ "name": "cpu", "targetAverageUtilization": wanted });
            metrics.insert(0, json!({ "type": "Resource", "resource": resource }));
        }
        for metric in &mut metrics {
            let Some(wanted) = utilization(metric) else {
                continue;
            };
            metric["resource"] = if version == "v2beta1" {
                json!({ "name": "cpu", "targetAverageUtilization": wanted })
            } else {
                json!({ "name": "cpu", "target": { "type": "Utilization", "averageUtilization": wanted } })
            };
        }
    }
    if !metrics.is_empty() {
        spec.insert("metrics".into(), metrics.into());
    }
}

/// Changes every backend of an Ingress, and the name of the one that is the default.
fn each_backend(ingress: &mut Value, from: &str, to: &str, change: impl Fn(&mut Map<String, Value>)) {
    let spec = child(ingress, "spec");
    if let Some(mut backend) = spec.shift_remove(from) {
        change(object(&mut backend));
        spec.insert(to.into(), backend);
    }
    for rule in spec
        .get_mut("rules")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let paths = rule.pointer_mut("/http/paths").and_then(Value::as_array_mut);
        for path in paths.into_iter().flatten() {
            change(child(path, "backend"));
        }
    }
}

/// What a v1beta1 definition says once for all versions, and under which name each version says it.
const PER_VERSION: &[(&str, &str)] = &[
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
];

fn definition_from_beta(definition: &mut Value) {
    let spec = child(definition, "spec");
    let version = spec.shift_remove("version");
    let shared: Vec<_> = PER_VERSION
        .iter()
        .filter_map(|(from, to)| Some((*to, spec.shift_remove(*from)?)))
        .collect();
    let versions = spec.entry("versions").or_insert_with(|| json!([]));
    if let Value::Array(versions) = versions {
        if let (true, Some(name)) = (versions.is_empty(), version) {
            versions.push(json!({ "name": name, "served": true, "storage": true }));
        }
        for version in versions {
            let version = object(version);
            for (field, value) in &shared {
                version.entry(*field).or_insert_with(|| value.clone());
            }
            rename_paths(version, "JSONPath", "jsonPath");
        }
    }
    // The old version keeps unknown fields unless told otherwise.
    spec.entry("preserveUnknownFields").or_insert(Value::Bool(true));
    spec.entry("scope").or_insert_with(|| "Namespaced".into());
}

fn definition_to_beta(definition: &mut Value) {
    let spec = child(definition, "spec");
    let mut first = None;
    for version in spec
        .get_mut("versions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let version = object(version);
        rename_paths(version, "jsonPath", "JSONPath");
        first = first.or_else(|| version.get("name").cloned());
    }
    if let Some(first) = first {
        spec.insert("version".into(), first);
    }
    // What all versions say alike is said once.
    for (once, each) in PER_VERSION {
        let Some(Value::Array(versions)) = spec.get_mut("versions") else {
            return;
        };
        let mut values: Vec<_> = versions
            .iter()
            .map(|version| version.get(*each).cloned())
            .collect();
        values.dedup();
        if let [Some(value)] = values.as_slice() {
            for version in versions {
                object(version).shift_remove(*each);
            }
            spec.insert((*once).into(), value.clone());
        }
    }
}

fn rename_paths(version: &mut Map<String, Value>, from: &str, to: &str) {
    let columns = version
        .get_mut("additionalPrinterColumns")
        .and_then(Value::as_array_mut);
    for column in columns.into_iter().flatten() {
        let column = object(column);
        if let Some(path) = column.shift_remove(from) {
            column.insert(to.into(), path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Builtins;

    #[test]
    fn ingresses_go_there_and_back() {
        let builtins = Builtins::new(20);
        let resource = builtins.find("networking.k8s.io", "ingresses").expect("served");
        let stored = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "spec": {
                "defaultBackend": { "service": { "name": "d", "port": { "name": "http" } } },
                "rules": [{ "http": { "paths": [
                    { "path": "/", "backend": { "service": { "name": "s", "port": { "number": 80 } } } },
                    { "path": "/r", "backend": { "resource": { "kind": "K", "name": "r" } } },
                ] } }],
            },
        });
        let mut shown = from_stored(resource, "v1beta1", &stored);
        assert_eq!(
            shown["spec"]["backend"],
            json!({ "serviceName": "d", "servicePort": "http" })
        );
        assert_eq!(
            shown["spec"]["rules"][0]["http"]["paths"][0]["backend"],
            json!({ "serviceName": "s", "servicePort": 80 })
        );
        shown["apiVersion"] = "networking.k8s.io/v1beta1".into();
        to_stored(resource, &mut shown);
        assert_eq!(shown["spec"], stored["spec"]);
    }

    #[test]
    fn every_version_of_an_autoscaler_tells_how_busy_processors_are_to_be() {
        let builtins = Builtins::new(20);
        let resource = builtins
            .find("autoscaling", "horizontalpodautoscalers")
            .expect("served");
        let old = json!({ "spec": { "maxReplicas": 3, "targetCPUUtilizationPercentage": 50 } });
        let beta = from_stored(resource, "v2beta2", &old);
        assert_eq!(
            beta["spec"],
            json!({ "maxReplicas": 3, "metrics": [{ "type": "Resource", "resource": {
                "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 },
            } }] })
        );
        assert_eq!(from_stored(resource, "v1", &beta), old);
        let older = from_stored(resource, "v2beta1", &beta);
        assert_eq!(
            older["spec"]["metrics"][0]["resource"],
            json!({ "name": "cpu", "targetAverageUtilization": 50 })
        );
        assert_eq!(from_stored(resource, "v2beta2", &older), beta);
    }

    #[test]
    fn old_definitions_say_for_every_version_what_they_say_once() {
        let builtins = Builtins::new(20);
        let resource = builtins
            .find("apiextensions.k8s.io", "customresourcedefinitions")
            .expect("served");
        let mut definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1beta1", "kind": "CustomResourceDefinition",
            "spec": {
                "version": "v1alpha1",
                "validation": { "openAPIV3Schema": { "type": "object" } },
                "additionalPrinterColumns": [{ "name": "A", "type": "string", "JSONPath": ".a" }],
            },
        });
        to_stored(resource, &mut definition);
        assert_eq!(
            definition["spec"],
            json!({
                "versions": [{
                    "name": "v1alpha1", "served": true, "storage": true,
                    "schema": { "openAPIV3Schema": { "type": "object" } },
                    "additionalPrinterColumns": [{ "name": "A", "type": "string", "jsonPath": ".a" }],
                }],
                "preserveUnknownFields": true,
                "scope": "Namespaced",
            })
        );
    }
}
