//! Writing: create, replace, patch, delete, over the API.

use std::sync::Arc;

use http::Response;
use serde_json::{Value, json};

use crate::access::{self, Attributes, User};
use crate::api::Endpoint;
use crate::api::body::{self, place};
use crate::api::query::{Selection, find, one};
use crate::api::request::Request;
use crate::api::respond::{self, Body};
use crate::api::scale::{scale_of, set_scale};
use crate::fields::{managed, patch as patches};
use crate::json::{child, is_deleting, list_at, name, namespace, number_at, object, text, text_at, uid};
use crate::kinds::Resource;
use crate::prepare::services;
use crate::status::{Result, Status, cause, forbidden, required};
use crate::store::Key;
use crate::transaction::Transaction;
use crate::write::{self, Deleted, Deletion, Ownership, Propagation, Writer, normalise};
use crate::{Shared, Verb, convert};

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
            let given: Vec<_> = request
                .query
                .all("dryRun")
                .map(|value| format!("{value:?}"))
                .collect();
            let causes = [cause(
                "FieldValueNotSupported",
                "dryRun",
                format!(
                    "Unsupported value: []string{{{}}}: supported values: \"All\"",
                    given.join(", ")
                ),
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

pub(crate) fn create(shared: &Arc<Shared>, request: &Request, endpoint: &Endpoint) -> Result<Response<Body>> {
    if endpoint.resource.definition.as_deref().is_some_and(is_deleting) {
        return Err(Status::definition_terminating(&endpoint.resource));
    }
    if !endpoint.target.name.is_empty() {
        return create_under(shared, request, endpoint);
    }
    body::check_validation_query(request, "CreateOptions")?;
    let body = body::read_object(request, endpoint, false)?;
    let manager = request.manager();
    let created = commit(shared, request, Verb::Create, |transaction| {
        let writer = Writer {
            manager: &manager,
            admission: true,
            user: Some(&request.user),
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
                    user: Some(&request.user),
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
            let mut body = body::read(request)?;
            let seconds = number_at(&body, "/spec/expirationSeconds").unwrap_or(3600);
            let token = shared.issue_token(User::account(namespace(&account), name(&account)));
            object(&mut body).insert(
                "status".into(),
                json!({
                    "token": token,
                    "expirationTimestamp": shared.config.later(seconds),
                }),
            );
            Ok(respond::json(201, &body))
        }
        ("Pod", "binding") => {
            let body = body::read(request)?;
            commit(shared, request, Verb::Create, |transaction| {
                let live = find(endpoint, &transaction.state)?;
                crate::controllers::pods::bind(
                    transaction,
                    &endpoint.resource,
                    &live,
                    text_at(&body, "/target/name"),
                )
            })?;
            Ok(respond::json(
                201,
                &json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
                }),
            ))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

pub(crate) fn replace(
    shared: &Arc<Shared>,
    request: &Request,
    endpoint: &Endpoint,
) -> Result<Response<Body>> {
    let manager = request.manager();
    let writer = Writer {
        manager: &manager,
        admission: true,
        user: Some(&request.user),
    };
    if endpoint.target.subresource == "scale" {
        let scale = body::read(request)?;
        let scaled = commit(shared, request, Verb::Update, |transaction| {
            let live = find(endpoint, &transaction.state)?;
            set_scale(transaction, endpoint, &live, &scale, writer)
        })?;
        return Ok(respond::json(200, &scale_of(endpoint, &scaled)));
    }
    body::check_validation_query(request, "UpdateOptions")?;
    let body = body::read_object(request, endpoint, true)?;
    let (created, updated) = commit(shared, request, Verb::Update, |transaction| {
        let resource = &endpoint.resource;
        let live = match find(endpoint, &transaction.state) {
            Ok(live) => live,
            Err(_) if may_create_by_put(resource) && endpoint.target.subresource.is_empty() => {
                check_creation(transaction, endpoint, request)?;
                let mut body = body;
                child(&mut body, "metadata").shift_remove("resourceVersion");
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

/// Creating by a request that is none to create takes the right to create as well.
fn check_creation(transaction: &Transaction, endpoint: &Endpoint, request: &Request) -> Result<()> {
    let (resource, target) = (&endpoint.resource, &endpoint.target);
    let wanted = Attributes {
        verb: "create".to_owned(),
        group: target.group.clone(),
        resource: target.plural.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        ..Attributes::default()
    };
    match access::decide(&transaction.state, &request.user, &wanted) {
        Some(_) => Ok(()),
        None => Err(Status::forbidden(resource, &target.name, "")),
    }
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
pub(super) fn check_version(resource: &Resource, live: &Value, new: &Value, replacing: bool) -> Result<()> {
    let given = text_at(new, "/metadata/resourceVersion");
    if given.is_empty() {
        if replacing && resource.is("", "Service") {
            // Services are checked before the server fills in the version, and twice.
            let missing = cause(
                "FieldValueInvalid",
                "metadata.resourceVersion",
                "Invalid value: \"\": must be specified for an update",
            );
            let mut causes = vec![missing.clone(), missing];
            causes.extend(services::check_address(live, new));
            return Err(Status::invalid_object(resource, name(live), &causes));
        }
        if replacing && needs_version(resource) {
            let causes = [cause(
                "FieldValueInvalid",
                "metadata.resourceVersion",
                "Invalid value: 0x0: must be specified for an update",
            )];
            // Of all refusals, this one names the resource instead of the kind.
            return Err(Status::invalid(
                &resource.group,
                &resource.plural,
                name(live),
                &causes,
            ));
        }
        return Ok(());
    }
    if given.parse::<u64>().is_err() {
        let message = format!("strconv.ParseUint: parsing {given:?}: invalid syntax");
        return Err(Status::new(500, "", message));
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
    if !known && !resource.is_custom() {
        return Err(Status::plain(
            415,
            "UnsupportedMediaType",
            "Unsupported Media Type",
        ));
    }
    if !known {
        let accepted: Vec<_> = ACCEPTED
            .iter()
            .filter(|one| !one.contains("strategic"))
            .copied()
            .collect();
        return Err(Status::media_type(&accepted));
    }
    let applying = content_type == "application/apply-patch+yaml";
    check_patch_options(request, applying)?;
    body::check_validation_query(request, "PatchOptions")?;
    let body = body::read(request)?;
    let manager = request.manager();
    let writer = Writer {
        manager: &manager,
        admission: true,
        user: Some(&request.user),
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
        .map_err(refuse_patch)?;
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
            return Err(Status::bad_request(format!(
                "the namespace of the object ({}) does not match the namespace on the request ({})",
                namespace(&new),
                namespace(&live)
            )));
        }
        place(endpoint, &mut new);
        body::check_built_in(resource, endpoint.version(), &new)
            .and_then(|()| body::check_fields(request, endpoint, &new))
            .map_err(|why| {
                let shown = format!("Invalid value: {:?}: {why}", new.to_string());
                Status::invalid("", "", "", &[cause("FieldValueInvalid", "patch", shown)])
            })?;
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

fn refuse_patch(error: patches::PatchError) -> Status {
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
            status.details = json!({});
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
pub(super) fn relabel(endpoint: &Endpoint, live: &Value) -> Value {
    let mut copy = convert::from_stored(&endpoint.resource, endpoint.version(), live);
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
    let (given, wanted) = (text(&body, "apiVersion"), endpoint.api_version());
    if given != wanted {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {given}, expected: {wanted}"
        )));
    }
    // The aggregator is an API server of its own, without server-side apply: in 1.20 it breaks the connection off.
    if resource.group == "apiregistration.k8s.io" {
        return Err(Status::internal("FieldManager must be installed to run apply"));
    }
    if text(&body, "kind") != resource.kind {
        return Err(Status::new(
            500,
            "",
            "failed to merge config: expected objects of the same type",
        ));
    }
    if !matches!(name(&body), found if found.is_empty() || found == target.name) {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            name(&body),
            target.name
        )));
    }
    if resource.namespaced
        && !matches!(namespace(&body), found if found.is_empty() || found == target.namespace)
    {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({}) does not match the namespace on the request ({})",
            namespace(&body),
            target.namespace
        )));
    }
    child(&mut body, "metadata").insert("name".into(), target.name.as_str().into());
    place(endpoint, &mut body);
    body::check_fields(request, endpoint, &body).map_err(Status::bad_request)?;
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
                check_creation(transaction, endpoint, request)?;
                let given = text_at(&body, "/metadata/uid");
                if !given.is_empty() {
                    let why = format!(
                        "uid mismatch: the provided object specified uid {given}, and no existing object was found"
                    );
                    return Err(Status::conflict(resource, &target.name, &why));
                }
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

fn deletion(request: &Request) -> Result<Deletion> {
    let body = if request.body.is_empty() {
        json!({})
    } else {
        body::read(request)?
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
