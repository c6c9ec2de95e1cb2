//! The scale subresource.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Endpoint;
use crate::api::mutate::{check_version, relabel};
use crate::json::{child, list, name, namespace, number_at, object, text, text_at, uid};
use crate::status::{Result, Status};
use crate::transaction::Transaction;
use crate::write::{self, Ownership, Writer, normalise};

/// The Scale of an object.
pub(super) fn scale_of(endpoint: &Endpoint, object: &Value) -> Value {
    let paths = scale_paths(endpoint);
    let at = |path: &str| number_at(object, &pointer(path)).unwrap_or(0);
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": name(object),
            "namespace": namespace(object),
            "uid": uid(object),
            "resourceVersion": text_at(object, "/metadata/resourceVersion"),
            "creationTimestamp": text_at(object, "/metadata/creationTimestamp"),
        },
        "spec": { "replicas": at(&paths.0) },
        "status": { "replicas": at(&paths.1) },
    });
    if at(&paths.0) == 0 {
        child(&mut scale, "spec").shift_remove("replicas");
    }
    let selector = if endpoint.resource.is_custom() {
        paths
            .2
            .map(|path| text_at(object, &pointer(&path)).to_owned())
            .unwrap_or_default()
    } else {
        selector_text(object.pointer("/spec/selector"))
    };
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// Refuses the scale of a custom resource that does not say how many it wants.
pub(super) fn check(endpoint: &Endpoint, object: &Value) -> Result<()> {
    let path = scale_paths(endpoint).0;
    if !endpoint.resource.is_custom() || object.pointer(&pointer(&path)).is_some() {
        return Ok(());
    }
    Err(Status::internal(format!(
        "the spec replicas field {path:?} does not exist"
    )))
}

fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return String::new();
    };
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let sorted: std::collections::BTreeMap<_, _> = labels.as_object().into_iter().flatten().collect();
    let mut all: Vec<_> = sorted
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for one in list(selector, "matchExpressions") {
        let key = text(one, "key");
        let values: Vec<_> = list(one, "values").iter().filter_map(Value::as_str).collect();
        all.push(match text(one, "operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    all.join(",")
}

fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

fn scale_paths(endpoint: &Endpoint) -> (String, String, Option<String>) {
    let custom = endpoint
        .resource
        .version_spec(endpoint.version())
        .and_then(|version| version.pointer("/subresources/scale"));
    match custom {
        Some(scale) => (
            text(scale, "specReplicasPath").to_owned(),
            text(scale, "statusReplicasPath").to_owned(),
            Some(text(scale, "labelSelectorPath").to_owned()).filter(|path| !path.is_empty()),
        ),
        None => (".spec.replicas".to_owned(), ".status.replicas".to_owned(), None),
    }
}

pub(super) fn set_scale(
    transaction: &mut Transaction,
    endpoint: &Endpoint,
    live: &Arc<Value>,
    scale: &Value,
    writer: Writer,
) -> Result<Arc<Value>> {
    let resource = &endpoint.resource;
    check_version(resource, live, scale, false)?;
    let replicas = number_at(scale, "/spec/replicas").unwrap_or(0);
    if replicas < 0 {
        let causes = [crate::status::invalid(
            "spec.replicas",
            &replicas.into(),
            "must be greater than or equal to 0",
        )];
        return Err(Status::invalid("autoscaling", "Scale", name(live), &causes));
    }
    let mut new = relabel(endpoint, live);
    let path = scale_paths(endpoint).0;
    let mut place = &mut new;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        place = object(place).entry(part).or_insert(Value::Null);
    }
    *place = replicas.into();
    normalise(resource, endpoint.version(), &mut new);
    // Before 1.22, a scale is written past the owners of fields.
    let ownership = if resource.is_custom() || transaction.builtins.minor >= 22 {
        Ownership::Scale
    } else {
        Ownership::Given
    };
    write::update(transaction, endpoint.main(), live, new, ownership, writer)
}
