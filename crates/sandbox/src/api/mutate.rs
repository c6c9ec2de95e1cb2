//! Writing: create, replace, patch, delete, over the API.

use std::sync::Arc;

use http::Response;
use serde_json::{Value, json};

use crate::access::{self, Attributes, User};
use crate::api::Endpoint;
use crate::api::body::{self, place};
use crate::api::options;
use crate::api::query::{find, one};
use crate::api::request::Request;
use crate::api::respond::{self, Body};
use crate::api::scale::{scale_of, set_scale};
use crate::fields::{BASE, Schema, check_types, managed, patch as patches};
use crate::golang::{self, POINTER, quote};
use crate::json::{child, is_deleting, name, namespace, number_at, object, text, text_at, uid};
use crate::kinds::Resource;
use crate::prepare::services;
use crate::status::{Result, Status, cause};
use crate::store::Key;
use crate::transaction::Transaction;
use crate::write::{self, Deletion, Ownership, Writer, normalise};
use crate::{Shared, Verb, convert};

/// Runs a write in a transaction of its own; a dry run is thrown away.
fn commit<T>(
    shared: &Arc<Shared>,
    request: &Request,
    verb: Verb,
    write: impl FnOnce(&mut Transaction) -> Result<T>,
) -> Result<T> {
    let dry_run = options::check(request, verb)?;
    shared.write(verb, dry_run, write)
}

pub(crate) fn create(shared: &Arc<Shared>, request: &Request, endpoint: &Endpoint) -> Result<Response<Body>> {
    if endpoint.resource.definition.as_deref().is_some_and(is_deleting) {
        return Err(Status::definition_terminating(&endpoint.resource));
    }
    // Of custom resources, the name in the path is not looked at.
    let is_collection = endpoint.target.name.is_empty()
        || (endpoint.resource.is_custom() && endpoint.target.subresource.is_empty());
    if !is_collection {
        return create_under(shared, request, endpoint);
    }
    options::check(request, Verb::Create)?;
    let body = body::read_object(request, endpoint, false)?;
    convert::check(&shared.state(), &endpoint.resource, endpoint.version())?;
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
                crate::controllers::budgets::spend(transaction, &live)?;
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
            fill_token_request(&mut body, request, &shared.config.later(0));
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

/// What the server adds to a request for a token before it answers it. What has a default belongs to who asks; for whom the
/// token is good, to nobody.
fn fill_token_request(body: &mut Value, request: &Request, now: &str) {
    let spec = child(body, "spec");
    spec.entry("expirationSeconds").or_insert_with(|| 3600.into());
    child(body, "metadata").insert("creationTimestamp".into(), Value::Null);
    let schema =
        Schema::builtin("authentication.k8s.io/v1", "TokenRequest", BASE).unwrap_or_else(Schema::deduced);
    managed::update(None, body, &request.manager(), now, &schema);
    let spec = child(body, "spec");
    if spec.get("audiences").is_none_or(Value::is_null) {
        spec.insert(
            "audiences".into(),
            json!(["https://kubernetes.default.svc.cluster.local"]),
        );
    }
    spec.entry("boundObjectRef").or_insert(Value::Null);
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
    options::check(request, Verb::Update)?;
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
        check_uid(resource, &live, &body)?;
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

/// Who replaces an object of one UID does not mean another.
fn check_uid(resource: &Resource, live: &Value, new: &Value) -> Result<()> {
    let (given, current) = (uid(new), uid(live));
    if given.is_empty() || given == current {
        return Ok(());
    }
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}/{}, ResourceVersion: 0, AdditionalErrorMsg: \
         Precondition failed: UID in precondition: {given}, UID in object meta: {current}",
        resource.plural,
        Key::of(resource, live).path
    );
    Err(Status::conflict(resource, name(live), &why))
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
    if content_type.is_empty() && !resource.is_custom() {
        return Err(Status::plain(406, "NotAcceptable", "Not Acceptable"));
    }
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
    options::check(request, if applying { Verb::Apply } else { Verb::Patch })?;
    let body = match body::read(request) {
        Ok(body) => body,
        Err(status) if status.code == 400 => return Err(unreadable_patch(content_type, status)),
        Err(status) => return Err(status),
    };
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
            "application/merge-patch+json" => match &body {
                Value::Object(_) | Value::Array(_) => Ok(patches::merge(&shown, &body)),
                _ => Err(patches::PatchError::Internal("Invalid JSON Patch".to_owned())),
            },
            _ => patches::strategic(&shown, &body, &resource.schema(endpoint.version())),
        }
        .map_err(refuse_patch)?;
        if scale {
            return set_scale(transaction, endpoint, &live, &new, writer);
        }
        let refuse = |new: &Value, why: &str| {
            let shown = format!(
                "Invalid value: {}: {why}",
                quote(&patched_text(resource, new, &body))
            );
            Status::invalid("", "", "", &[cause("FieldValueInvalid", "patch", shown)])
        };
        if !new.is_object() {
            return Err(refuse(&new, &body::no_object(&new)));
        }
        if let Some(why) = body::other_kind(endpoint, &new)? {
            return Err(refuse(&new, &why));
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
        body::check_fields(resource, endpoint.version(), &new).map_err(|why| {
            if content_type == "application/strategic-merge-patch+json"
                && let Some(kind) = misfit(&body, resource, endpoint.version())
            {
                let shown = format!("Invalid value: {}: {kind}", quote(&golang::plain(&body)));
                return Status::invalid("", "", "", &[cause("FieldValueInvalid", "patch", shown)]);
            }
            refuse(&new, &why)
        })?;
        body::check_strictly(request, endpoint, &new).map_err(|why| refuse(&new, &why))?;
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

/// A body that is no patch at all, in the words of what reads that kind of patch.
fn unreadable_patch(content_type: &str, status: Status) -> Status {
    let is_cut_off = status.message.contains("unexpected end of JSON input");
    match content_type {
        "application/merge-patch+json" => Status::new(500, "", "Invalid JSON Patch"),
        "application/json-patch+json" if is_cut_off => Status::bad_request("unexpected end of JSON input"),
        "application/strategic-merge-patch+json" if is_cut_off => Status::bad_request("unexpected EOF"),
        _ => status,
    }
}

/// A patched object as the server quotes it: without who owns what, in the order of its type; the maps that the patch went
/// through have lost that order.
fn patched_text(resource: &Resource, patched: &Value, patch: &Value) -> String {
    let mut shown = patched.clone();
    if let Some(metadata) = shown.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
        let mut ordered = serde_json::Map::new();
        for key in METADATA_ORDER {
            if let Some(entry) = metadata.shift_remove_entry(*key) {
                ordered.insert(entry.0, entry.1);
            }
        }
        ordered.append(metadata);
        *metadata = ordered;
    }
    if resource.is_custom() {
        sort(&mut shown, None);
    } else {
        sort(&mut shown, Some(patch));
    }
    shown.to_string()
}

/// The order in which the server writes metadata.
const METADATA_ORDER: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "clusterName",
];

/// Sorts the keys of the maps that a patch goes through; of all maps without one.
fn sort(value: &mut Value, patch: Option<&Value>) {
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    fields.sort_keys();
    for (key, value) in fields {
        match patch {
            None => sort(value, None),
            Some(patch) => {
                if let Some(patch @ Value::Object(_)) = patch.get(key) {
                    sort(value, Some(patch));
                }
            }
        }
    }
}

/// What the first field that does not have its type was to be, as what fills Go's types from maps names it.
fn misfit(patch: &Value, resource: &Resource, version: &str) -> Option<&'static str> {
    let why = check_types(patch, &resource.schema(version)).err()?;
    let (_, expected) = why.rsplit_once(" must be ")?;
    Some(match expected {
        "true or false" => "unrecognized type: bool",
        "a string" => "unrecognized type: string",
        "an integer" => "unrecognized type: int32",
        _ => return None,
    })
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
    if !body.is_object() {
        let why = format!(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of \
             type map[string]interface {{}}",
            patches::kind(&body)
        );
        return Err(Status::bad_request(why));
    }
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
            format!(
                "failed to merge config: expected objects of the same type, but got {{{POINTER} {{<nil> <nil> <nil>}}}} \
                 and {{{POINTER} {{<nil> <nil> <nil>}}}}"
            ),
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
    body::check_strictly(request, endpoint, &body).map_err(Status::bad_request)?;
    convert::check(&shared.state(), resource, endpoint.version())?;
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
            transaction.recorded(&target.subresource),
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
                    Ownership::Given,
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
                    write::create(transaction, endpoint.place(), new, Ownership::Given, writer)?,
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
