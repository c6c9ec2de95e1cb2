//! Writing: create, replace, patch, delete, over the API.

use std::sync::Arc;

use http::Response;
use serde_json::{Value, json};

use crate::api::query::{Selection, find, one};
use crate::api::request::Request;
use crate::api::respond::{self, Body};
use crate::api::{Endpoint, read_body};
use crate::fields::{managed, patch as patches};
use crate::json::{child, list_at, name, namespace, number_at, object, text, text_at, uid};
use crate::kinds::Resource;
use crate::status::{Result, Status, cause, forbidden, required};
use crate::store::Key;
use crate::transaction::Transaction;
use crate::write::{self, Deleted, Deletion, Ownership, Propagation, Writer, normalise};
use crate::{Shared, Verb};

/// Runs a write in a transaction of its own; a dry run is thrown away.
fn commit<T>(
    shared: &Arc<Shared>,
    request: &Request,
    verb: Verb,
    write: impl FnOnce(&mut Transaction) -> Result<T>,
) -> Result<T> {
    let dry_run = match request.query.all("dryRun").collect::<Vec<_>>().as_slice() {
        [] | [""] => false,
        values if values.iter().all(|value| *value == "All") => true,
        _ => {
            let causes = [crate::status::unsupported(
                "dryRun",
                request.query.get("dryRun").unwrap_or_default(),
                &["All"],
            )];
            let kind = match verb {
                Verb::Create => "CreateOptions",
                Verb::Update => "UpdateOptions",
                Verb::Patch | Verb::Apply => "PatchOptions",
                Verb::Delete => "DeleteOptions",
            };
            return Err(Status::invalid("meta.k8s.io", kind, "", &causes));
        }
    };
    shared.write(verb, dry_run, write)
}

/// Checks that a body is an object of the kind and place that the path names, and fills in what it leaves out.
fn expect_object(endpoint: &Endpoint, body: &mut Value, creating: bool) -> Result<()> {
    if !body.is_object() {
        return Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct",
            if body.is_array() { "array" } else { "value" }
        )));
    }
    let wanted = endpoint.api_version();
    let resource = &endpoint.resource;
    let (given, kind) = (text(body, "apiVersion").to_owned(), text(body, "kind").to_owned());
    if resource.is_custom() && kind.is_empty() {
        return Err(Status::bad_request(format!(
            "Object 'Kind' is missing in '{body}'"
        )));
    }
    if (!given.is_empty() && given != wanted) || (!kind.is_empty() && kind != resource.kind) {
        return Err(Status::bad_request(if kind.is_empty() || kind == resource.kind {
            format!(
                "the API version in the data ({given}) does not match the expected API version ({wanted})"
            )
        } else {
            format!(
                "{kind} in version \"{}\" cannot be handled as a {}: no kind \"{kind}\" is registered for version \
                 \"{given}\"",
                crate::json::version_of(&given),
                resource.kind
            )
        }));
    }
    let target = &endpoint.target;
    let body_namespace = namespace(body).to_owned();
    if resource.namespaced && !body_namespace.is_empty() && body_namespace != target.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let body_name = name(body);
    if !creating && !target.name.is_empty() && body_name != target.name {
        return Err(Status::bad_request(if body_name.is_empty() {
            "name must be provided".to_owned()
        } else {
            format!(
                "the name of the object ({body_name}) does not match the name on the URL ({})",
                target.name
            )
        }));
    }
    place(endpoint, body);
    Ok(())
}

fn place(endpoint: &Endpoint, body: &mut Value) {
    let resource = &endpoint.resource;
    object(body).insert("apiVersion".into(), endpoint.api_version().into());
    object(body).insert("kind".into(), resource.kind.as_str().into());
    let metadata = child(body, "metadata");
    if resource.namespaced {
        metadata.insert("namespace".into(), endpoint.target.namespace.as_str().into());
    } else {
        metadata.shift_remove("namespace");
    }
}

pub(crate) fn create(shared: &Arc<Shared>, request: &Request, endpoint: &Endpoint) -> Result<Response<Body>> {
    if !endpoint.target.name.is_empty() {
        return create_under(shared, request, endpoint);
    }
    let mut body = read_body(request)?;
    expect_object(endpoint, &mut body, true)?;
    normalise(&endpoint.resource, endpoint.version(), &mut body);
    let manager = request.manager();
    let created = commit(shared, request, Verb::Create, |transaction| {
        let writer = Writer {
            manager: &manager,
            admission: true,
        };
        write::create(transaction, endpoint.place(), body, Ownership::Update, writer)
    })?;
    one(shared, 201, request, endpoint, &created)
}

/// A POST to a subresource: evictions, bindings, tokens.
fn create_under(shared: &Arc<Shared>, request: &Request, endpoint: &Endpoint) -> Result<Response<Body>> {
    match (
        endpoint.resource.kind.as_str(),
        endpoint.target.subresource.as_str(),
    ) {
        ("Pod", "eviction") => {
            commit(shared, request, Verb::Delete, |transaction| {
                let live = find(endpoint, &transaction.state)?;
                let writer = Writer {
                    manager: "",
                    admission: true,
                };
                write::delete(
                    transaction,
                    endpoint.main(),
                    &live,
                    &Deletion::background(),
                    writer,
                )
            })?;
            Ok(respond::json(
                201,
                &json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
                }),
            ))
        }
        ("ServiceAccount", "token") => {
            let account = find(endpoint, &shared.state())?;
            let mut body = read_body(request)?;
            let seconds = number_at(&body, "/spec/expirationSeconds").unwrap_or(3600);
            object(&mut body).insert(
                "status".into(),
                json!({
                    "token": format!("sandbox.{}.{}.{}", namespace(&account), name(&account), uid(&account)),
                    "expirationTimestamp": shared.config.later(seconds),
                }),
            );
            Ok(respond::json(201, &body))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

pub(crate) fn replace(
    shared: &Arc<Shared>,
    request: &Request,
    endpoint: &Endpoint,
) -> Result<Response<Body>> {
    let mut body = read_body(request)?;
    let manager = request.manager();
    let writer = Writer {
        manager: &manager,
        admission: true,
    };
    if endpoint.target.subresource == "scale" {
        let scaled = commit(shared, request, Verb::Update, |transaction| {
            let live = find(endpoint, &transaction.state)?;
            set_scale(transaction, endpoint, &live, &body, writer)
        })?;
        return Ok(respond::json(200, &scale_of(endpoint, &scaled)));
    }
    expect_object(endpoint, &mut body, false)?;
    normalise(&endpoint.resource, endpoint.version(), &mut body);
    let (created, updated) = commit(shared, request, Verb::Update, |transaction| {
        let resource = &endpoint.resource;
        let live = match find(endpoint, &transaction.state) {
            Ok(live) => live,
            Err(_) if may_create_by_put(resource) && endpoint.target.subresource.is_empty() => {
                return Ok((
                    true,
                    write::create(transaction, endpoint.place(), body, Ownership::Update, writer)?,
                ));
            }
            Err(status) => return Err(status),
        };
        check_version(resource, &live, &body, true)?;
        let updated = write::update(
            transaction,
            endpoint.place(),
            &live,
            body,
            Ownership::Update,
            writer,
        )?;
        Ok((false, updated))
    })?;
    one(
        shared,
        if created { 201 } else { 200 },
        request,
        endpoint,
        &updated,
    )
}

/// Kinds that a PUT creates where there is none.
fn may_create_by_put(resource: &Resource) -> bool {
    match resource.group.as_str() {
        "" => matches!(
            resource.kind.as_str(),
            "Endpoints" | "Event" | "LimitRange" | "Service"
        ),
        "rbac.authorization.k8s.io" | "coordination.k8s.io" | "node.k8s.io" | "events.k8s.io" => true,
        _ => false,
    }
}

/// Kinds that are not replaced without saying which version is meant.
fn needs_version(resource: &Resource) -> bool {
    resource.is_custom()
        || matches!(
            resource.kind.as_str(),
            "PodDisruptionBudget"
                | "RuntimeClass"
                | "CSIDriver"
                | "CSINode"
                | "VolumeAttachment"
                | "Lease"
                | "MutatingWebhookConfiguration"
                | "ValidatingWebhookConfiguration"
                | "CustomResourceDefinition"
                | "APIService"
        )
}

/// Optimistic locking: a resource version that is given must be the live one.
fn check_version(resource: &Resource, live: &Value, new: &Value, replacing: bool) -> Result<()> {
    let given = text_at(new, "/metadata/resourceVersion");
    if given.is_empty() {
        if replacing && needs_version(resource) {
            let causes = [cause(
                "FieldValueInvalid",
                "metadata.resourceVersion",
                "Invalid value: 0x0: must be specified for an update",
            )];
            return Err(Status::invalid_object(resource, name(live), &causes));
        }
        return Ok(());
    }
    if given == text_at(live, "/metadata/resourceVersion") {
        Ok(())
    } else {
        Err(Status::modified(resource, name(live)))
    }
}

pub(crate) fn patch(shared: &Arc<Shared>, request: &Request, endpoint: &Endpoint) -> Result<Response<Body>> {
    const ACCEPTED: &[&str] = &[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ];
    let resource = &endpoint.resource;
    let content_type = request.content_type();
    let known = ACCEPTED.contains(&content_type)
        && !(resource.is_custom() && content_type == "application/strategic-merge-patch+json");
    if !known {
        let accepted: Vec<_> = ACCEPTED
            .iter()
            .filter(|one| !(resource.is_custom() && one.contains("strategic")))
            .copied()
            .collect();
        return Err(Status::media_type(&accepted));
    }
    let applying = content_type == "application/apply-patch+yaml";
    check_patch_options(request, applying)?;
    let body = read_body(request)?;
    let manager = request.manager();
    let writer = Writer {
        manager: &manager,
        admission: true,
    };
    if applying {
        return apply(shared, request, endpoint, body, writer);
    }
    let scale = endpoint.target.subresource == "scale";
    let patched = commit(shared, request, Verb::Patch, |transaction| {
        let live = find(endpoint, &transaction.state)?;
        let shown = if scale {
            scale_of(endpoint, &live)
        } else {
            relabel(endpoint, &live)
        };
        let mut new = match content_type {
            "application/json-patch+json" => patches::json(&shown, &body),
            "application/merge-patch+json" => Ok(patches::merge(&shown, &body)),
            _ => patches::strategic(&shown, &body, &resource.schema(endpoint.version())),
        }
        .map_err(|error| refuse_patch(resource, name(&live), error))?;
        if scale {
            return set_scale(transaction, endpoint, &live, &new, writer);
        }
        if name(&new) != name(&live) {
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                name(&new),
                name(&live)
            )));
        }
        if resource.namespaced && namespace(&new) != namespace(&live) {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        place(endpoint, &mut new);
        check_version(resource, &live, &new, false)?;
        normalise(resource, endpoint.version(), &mut new);
        write::update(
            transaction,
            endpoint.place(),
            &live,
            new,
            Ownership::Update,
            writer,
        )
    })?;
    if scale {
        return Ok(respond::json(200, &scale_of(endpoint, &patched)));
    }
    one(shared, 200, request, endpoint, &patched)
}

fn refuse_patch(resource: &Resource, name: &str, error: patches::PatchError) -> Status {
    match error {
        patches::PatchError::BadRequest(message) => Status::bad_request(message),
        patches::PatchError::TooLarge(message) => Status::new(413, "RequestEntityTooLarge", message),
        patches::PatchError::Internal(message) => Status::new(500, "", message),
        patches::PatchError::Unprocessable(why) => {
            tracing::debug!(%why, "a patch does not fit");
            let mut status = Status::new(
                422,
                "Invalid",
                "the server rejected our request due to an error in our request",
            );
            status.details = json!({ "name": name, "group": resource.group, "kind": resource.plural });
            status
        }
    }
}

fn check_patch_options(request: &Request, applying: bool) -> Result<()> {
    let mut causes = Vec::new();
    if applying {
        if request.query.get("fieldManager").unwrap_or_default().is_empty() {
            causes.push(required("fieldManager", "is required for apply patch"));
        }
    } else if request.query.get("force").is_some() {
        causes.push(forbidden("force", "may not be specified for non-apply patch"));
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &causes))
    }
}

/// The live object in the version of the request.
fn relabel(endpoint: &Endpoint, live: &Value) -> Value {
    let mut copy = live.clone();
    object(&mut copy).insert("apiVersion".into(), endpoint.api_version().into());
    copy
}

fn apply(
    shared: &Arc<Shared>,
    request: &Request,
    endpoint: &Endpoint,
    mut body: Value,
    writer: Writer,
) -> Result<Response<Body>> {
    let resource = &endpoint.resource;
    let target = &endpoint.target;
    if body
        .pointer("/metadata/managedFields")
        .is_some_and(|fields| !fields.is_null())
    {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    if name(&body).is_empty() {
        child(&mut body, "metadata").insert("name".into(), target.name.as_str().into());
    }
    expect_object(endpoint, &mut body, false)?;
    let force = request.query.flag("force");
    let (created, applied) = commit(shared, request, Verb::Apply, |transaction| {
        let live = find(endpoint, &transaction.state).ok();
        if let Some(live) = &live {
            check_version(resource, live, &body, false)?;
        }
        let shown = live.as_deref().map(|live| relabel(endpoint, live));
        let mut new = managed::apply(
            shown.as_ref(),
            &body,
            writer.manager,
            force,
            &transaction.now,
            &resource.schema(endpoint.version()),
        )
        .map_err(refuse_apply)?;
        place(endpoint, &mut new);
        write::normalise_applied(resource, endpoint.version(), &mut new);
        match live {
            Some(live) => {
                let updated = write::update(
                    transaction,
                    endpoint.place(),
                    &live,
                    new,
                    Ownership::Applied,
                    writer,
                )?;
                Ok((false, updated))
            }
            None if !target.subresource.is_empty() => Err(Status::not_found(resource, &target.name)),
            None => {
                child(&mut new, "metadata").shift_remove("resourceVersion");
                Ok((
                    true,
                    write::create(transaction, endpoint.place(), new, Ownership::Applied, writer)?,
                ))
            }
        }
    })?;
    one(
        shared,
        if created { 201 } else { 200 },
        request,
        endpoint,
        &applied,
    )
}

fn refuse_apply(error: managed::ApplyError) -> Status {
    match error {
        managed::ApplyError::Conflicts(conflicts) => {
            let causes: Vec<_> = conflicts
                .iter()
                .map(|conflict| {
                    json!({
                        "reason": "FieldManagerConflict",
                        "message": conflict.message(),
                        "field": conflict.field,
                    })
                })
                .collect();
            let message = managed::ApplyError::Conflicts(conflicts).to_string();
            let mut status = Status::new(409, "Conflict", message);
            status.details = json!({ "causes": causes });
            status
        }
        managed::ApplyError::BadRequest(message) => Status::bad_request(message),
        managed::ApplyError::Invalid(message) => Status::new(500, "", message),
    }
}

/// The Scale of an object.
pub(crate) fn scale_of(endpoint: &Endpoint, object: &Value) -> Value {
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

fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return String::new();
    };
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let sorted: std::collections::BTreeMap<_, _> = labels.as_object().into_iter().flatten().collect();
    let all: Vec<_> = sorted
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
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

fn set_scale(
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
    write::update(transaction, endpoint.main(), live, new, Ownership::Update, writer)
}

fn deletion(request: &Request) -> Result<Deletion> {
    let body = if request.body.is_empty() {
        json!({})
    } else {
        read_body(request)?
    };
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
    Ok(list_at(&read_body(request)?, "/dryRun")
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
        };
        write::delete(transaction, endpoint.main(), &live, &options, writer)
    })?;
    match deleted {
        Deleted::Marked(object) => one(shared, 200, request, endpoint, &object),
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
                | "Service"
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
            "metadata": { "resourceVersion": revision.to_string() },
            "items": deleted.iter().map(|object| Value::clone(object)).collect::<Vec<_>>(),
        }),
    ))
}
