//! Deleting over the API: one object or a collection.

use std::sync::Arc;

use http::Response;
use serde_json::{Value, json};

use crate::Shared;
use crate::Verb;
use crate::api::query::{Selection, find, one};
use crate::api::request::Request;
use crate::api::respond::{self, Body};
use crate::api::{Endpoint, body};
use crate::json::{child, list_at, name, number_at, text, text_at, uid};
use crate::kinds::Resource;
use crate::status::{Result, Status, cause};
use crate::store::Key;
use crate::write::{self, Deleted, Deletion, Propagation, Writer};

fn deletion(request: &Request) -> Result<Deletion> {
    let body = if request.body.is_empty() {
        json!({})
    } else {
        // What is no options at all is a fault of the server's to it, and not shown.
        body::read(request).map_err(|status| {
            let why = status.message.split(" (").next().unwrap_or_default().to_owned();
            if status.code == 400 {
                Status::new(500, "", why)
            } else {
                status
            }
        })?
    };
    let given = text(&body, "kind");
    if !given.is_empty() && given != "DeleteOptions" {
        let why = format!(
            "no kind {given:?} is registered for version {:?} in scheme \
             \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\"",
            text(&body, "apiVersion")
        );
        return Err(Status::new(500, "", why));
    }
    let dry_runs: Vec<String> = match body.get("dryRun").and_then(Value::as_array) {
        Some(values) => values
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        None => request
            .query
            .all("dryRun")
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
            .collect(),
    };
    if dry_runs.iter().any(|value| value != "All") {
        let shown: Vec<_> = dry_runs.iter().map(|value| format!("{value:?}")).collect();
        let causes = [cause(
            "FieldValueNotSupported",
            "dryRun",
            format!(
                "Unsupported value: []string{{{}}}: supported values: \"All\"",
                shown.join(", ")
            ),
        )];
        return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &causes));
    }
    let text = |key: &str| -> Option<String> {
        body.get(key)
            .and_then(Value::as_str)
            .or_else(|| request.query.get(key))
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    };
    let orphan = body
        .get("orphanDependents")
        .and_then(Value::as_bool)
        .or_else(|| request.query.get("orphanDependents").map(|value| value == "true"));
    if let (Some(policy), Some(_)) = (text("propagationPolicy"), orphan) {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        let causes = [crate::status::invalid("propagationPolicy", &policy.into(), why)];
        return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &causes));
    }
    let propagation = match (text("propagationPolicy").as_deref(), orphan) {
        (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), _) => Some(Propagation::Foreground),
        (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
        (None, None) => None,
        (Some(other), _) => {
            let causes = [crate::status::unsupported(
                "propagationPolicy",
                other,
                &["Foreground", "Background", "Orphan", "nil"],
            )];
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &causes));
        }
    };
    Ok(Deletion {
        propagation,
        uid: body
            .pointer("/preconditions/uid")
            .and_then(Value::as_str)
            .map(str::to_owned),
        resource_version: body
            .pointer("/preconditions/resourceVersion")
            .and_then(Value::as_str)
            .map(str::to_owned),
    })
}

/// A dry run of a deletion stands in the body as well.
fn with_body_dry_run(request: &Request) -> Result<bool> {
    if request.body.is_empty() {
        return Ok(false);
    }
    Ok(list_at(&body::read(request)?, "/dryRun")
        .iter()
        .any(|value| value == "All"))
}

pub(crate) fn delete(shared: &Arc<Shared>, request: &Request, endpoint: &Endpoint) -> Result<Response<Body>> {
    let options = deletion(request)?;
    let dry_run = with_body_dry_run(request)? || request.query.get("dryRun") == Some("All");
    let resource = &endpoint.resource;
    let deleted = shared.write(Verb::Delete, dry_run, |transaction| {
        let live = find(endpoint, &transaction.state)?;
        let writer = Writer {
            manager: "",
            admission: true,
            user: Some(&request.user),
        };
        write::delete(transaction, endpoint.main(), &live, &options, writer)
    })?;
    match deleted {
        Deleted::Marked(object) => one(shared, 200, request, endpoint, &object),
        Deleted::Gone(object) if resource.is("", "Pod") => {
            // A pod that runs is shown as it is given time to stop, though here it takes none.
            let mut object = Value::clone(&object);
            let runs = !text_at(&object, "/spec/nodeName").is_empty();
            let grace = if runs {
                number_at(&object, "/spec/terminationGracePeriodSeconds").unwrap_or(30)
            } else {
                0
            };
            let metadata = child(&mut object, "metadata");
            metadata.insert("deletionTimestamp".into(), shared.config.later(grace).into());
            metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
            one(shared, 200, request, endpoint, &object)
        }
        Deleted::Gone(object) if returns_deleted(resource) => one(shared, 200, request, endpoint, &object),
        Deleted::Gone(object) => Ok(respond::json(200, &success(endpoint, &object))),
    }
}

fn success(endpoint: &Endpoint, gone: &Value) -> Value {
    let resource = &endpoint.resource;
    let mut details = json!({ "name": name(gone) });
    if !resource.group.is_empty() {
        details["group"] = resource.group.as_str().into();
    }
    details["kind"] = resource.plural.as_str().into();
    details["uid"] = uid(gone).into();
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
}

/// Kinds whose deletion is answered with the object instead of a Status.
fn returns_deleted(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.kind.as_str()),
        (
            "",
            "Namespace"
                | "PersistentVolume"
                | "PersistentVolumeClaim"
                | "Pod"
                | "PodTemplate"
                | "ResourceQuota"
                | "ServiceAccount"
        ) | ("policy", "PodSecurityPolicy")
            | ("storage.k8s.io", _)
    )
}

pub(crate) fn delete_collection(
    shared: &Arc<Shared>,
    request: &Request,
    endpoint: &Endpoint,
) -> Result<Response<Body>> {
    let resource = &endpoint.resource;
    if resource.group.is_empty() && matches!(resource.kind.as_str(), "Namespace" | "Service") {
        return Err(Status::method_not_allowed());
    }
    let options = deletion(request)?;
    let dry_run = with_body_dry_run(request)? || request.query.get("dryRun") == Some("All");
    let selection = Selection::of(request, endpoint)?;
    let (revision, deleted) = shared.write(Verb::Delete, dry_run, |transaction| {
        let chosen: Vec<_> = transaction
            .state
            .objects_of(resource)
            .range(&endpoint.target.namespace, None)
            .filter(|(_, object)| selection.matches(object))
            .map(|(_, object)| Arc::clone(object))
            .collect();
        for object in &chosen {
            // An earlier deletion may have taken this one along.
            let Some(live) = transaction.state.get(&Key::of(resource, object)).cloned() else {
                continue;
            };
            let writer = Writer {
                manager: "",
                admission: true,
                user: Some(&request.user),
            };
            write::delete(transaction, endpoint.main(), &live, &options, writer)?;
        }
        Ok((transaction.state.revision, chosen))
    })?;
    Ok(respond::json(
        200,
        &json!({
            "kind": resource.list_kind,
            "apiVersion": endpoint.api_version(),
            "metadata": list_metadata(resource, revision),
            "items": deleted.iter().map(|object| item(resource, object)).collect::<Vec<_>>(),
        }),
    ))
}

/// An object in a list: those of built-in kinds do not say what they are.
fn item(resource: &Resource, object: &Value) -> Value {
    let mut object = object.clone();
    if !resource.is_custom()
        && let Some(map) = object.as_object_mut()
    {
        map.shift_remove("kind");
        map.shift_remove("apiVersion");
    }
    object
}

fn list_metadata(resource: &Resource, revision: u64) -> Value {
    if resource.is_custom() {
        json!({ "resourceVersion": revision.to_string(), "continue": "" })
    } else {
        json!({ "resourceVersion": revision.to_string() })
    }
}
