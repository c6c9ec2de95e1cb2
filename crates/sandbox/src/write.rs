//! Creating, updating and deleting: what the API server does around the bare write.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::access::{self, User};
use crate::admission;
use crate::fields::{defaults, managed, validate};
use crate::golang;
use crate::json::{self as read, child, is_deleting, list_at, name, namespace, object, text, text_at};
use crate::kinds::{Generation, Resource};
use crate::prepare;
use crate::status::{Result, Status, cause, forbidden, invalid, required};
use crate::store::Key;
use crate::transaction::Transaction;

/// On whose behalf a write is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// Whether admission (webhooks, namespaces that go away) has a say: it has none over the controllers' clean-up.
    pub admission: bool,
    /// Who asks for it, where that is a user: nobody may grant more than they have.
    pub user: Option<&'a User>,
}

impl Writer<'static> {
    pub(crate) const CONTROLLER: Writer<'static> = Writer {
        manager: "kube-controller-manager",
        admission: false,
        user: None,
    };
    pub(crate) const API_SERVER: Writer<'static> = Writer {
        manager: "kube-apiserver",
        admission: false,
        user: None,
    };
    pub(crate) const KUBELET: Writer<'static> = Writer {
        manager: "kubelet",
        admission: false,
        user: None,
    };
}

/// What a write is addressed to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub resource: &'a Arc<Resource>,
    /// The version that the request speaks.
    pub version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
}

impl<'a> Place<'a> {
    /// The objects of a kind in their stored version.
    pub(crate) fn stored(resource: &'a Arc<Resource>) -> Place<'a> {
        Place {
            resource,
            version: &resource.storage_version,
            subresource: "",
        }
    }
}

/// How `metadata.managedFields` of a new state comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// What differs from the live object belongs to the writer.
    Update,
    /// The same, for a change of the object that was asked for as its `scale`.
    Scale,
    /// What the new state says of it holds: server-side apply has worked it out, or it stays as it was.
    Given,
}

/// Brings a decoded body into the form that the server works on: metadata without empty fields, pruned and with defaults.
pub(crate) fn normalise(resource: &Resource, version: &str, body: &mut Value) {
    bring_into_form(resource, version, body, validate::default);
}

/// The same for what server-side apply has made: the nulls that it leaves where it has emptied a list or map stay.
pub(crate) fn normalise_applied(resource: &Resource, version: &str, body: &mut Value) {
    bring_into_form(resource, version, body, validate::fill_defaults);
}

fn bring_into_form(
    resource: &Resource,
    version: &str,
    body: &mut Value,
    fill_defaults: fn(&Value, &mut Value),
) {
    let metadata = child(body, "metadata");
    if resource.is_custom() {
        metadata.retain(|key, _| crate::fields::unknown::METADATA.contains(&key.as_str()));
    }
    metadata.retain(|key, value| {
        // Empty managed fields are a request to forget them.
        if key == "managedFields" {
            return !value.is_null();
        }
        !value.is_null() && key != "selfLink" && (key == "name" || !is_empty(value))
    });
    if resource.is_custom() {
        if let Some(schema) = resource.open_api(version) {
            let kept: Vec<_> = ["apiVersion", "kind", "metadata"]
                .into_iter()
                .filter_map(|key| object(body).swap_remove_entry(key))
                .collect();
            if !resource.preserves_unknown_fields() {
                validate::prune(schema, body);
            }
            fill_defaults(schema, body);
            object(body).extend(kept);
        }
    } else {
        defaults::apply_defaults(body, resource.minor);
    }
}

/// Whether it is written down who owns which fields. The aggregator, an API server of its own, does not.
fn keeps_owners(resource: &Resource) -> bool {
    resource.group != "apiregistration.k8s.io"
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Creates an object. `new` carries the request's `apiVersion` and has been [normalised](normalise).
pub(crate) fn create(
    transaction: &mut Transaction,
    place: Place,
    mut new: Value,
    ownership: Ownership,
    writer: Writer,
) -> Result<Arc<Value>> {
    let Place {
        resource, version, ..
    } = place;
    let namespace = namespace(&new).to_owned();
    if !text_at(&new, "/metadata/resourceVersion").is_empty() {
        return Err(Status::new(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ));
    }
    if resource.namespaced && writer.admission {
        admission::check_namespace(transaction, resource, &namespace, name(&new))?;
    }
    if let Some(user) = writer.user {
        access::check_escalation(&transaction.state, user, resource, &new, None)?;
    }
    if ownership == Ownership::Update && keeps_owners(resource) {
        managed::update(
            None,
            &mut new,
            writer.manager,
            &transaction.now,
            &resource.schema(version),
        );
    }
    if name(&new).is_empty() {
        let base: String = text_at(&new, "/metadata/generateName").chars().take(58).collect();
        if !base.is_empty() {
            let suffix = transaction.state.draw_suffix();
            child(&mut new, "metadata").insert("name".into(), format!("{base}{suffix}").into());
        }
    }
    let uid = transaction.state.draw_uid();
    let metadata = child(&mut new, "metadata");
    for gone in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.swap_remove(gone);
    }
    metadata.insert("creationTimestamp".into(), transaction.now.as_str().into());
    metadata.insert("uid".into(), uid.into());
    if resource.generation != Generation::None {
        metadata.insert("generation".into(), 1.into());
    }
    prepare::create(transaction, resource, version, &mut new)?;
    let mut causes = check_metadata(resource, &new);
    causes.extend(prepare::check(resource, &new));
    causes.extend(check_schema(resource, version, &new));
    if !causes.is_empty() {
        return Err(Status::invalid_object(resource, name(&new), &causes));
    }
    if writer.admission {
        admission::check_webhooks(transaction, place, "CREATE", Some(&new), None)?;
    }
    if transaction.state.get(&Key::of(resource, &new)).is_some() {
        return Err(Status::already_exists(resource, name(&new)));
    }
    to_stored_version(resource, version, &mut new);
    Ok(transaction.put(resource, new))
}

/// Replaces an object, or one of its subresources. `new` carries the request's `apiVersion` and has been
/// [normalised](normalise). A state equal to the live one is not written.
pub(crate) fn update(
    transaction: &mut Transaction,
    place: Place,
    live: &Arc<Value>,
    mut new: Value,
    ownership: Ownership,
    writer: Writer,
) -> Result<Arc<Value>> {
    let Place {
        resource,
        version,
        subresource,
    } = place;
    let name = name(live).to_owned();
    let request_version = resource.api_version(version);
    let relabelled;
    let old: &Value = if text(live, "apiVersion") == request_version {
        live
    } else {
        let mut copy = crate::convert::from_stored(resource, version, live);
        object(&mut copy).insert("apiVersion".into(), request_version.as_str().into());
        relabelled = copy;
        &relabelled
    };
    let mut causes = fixed_metadata(old, &new);
    // What the client may not touch, and what a status update does not touch, is as it was.
    keep_metadata(old, &mut new);
    match ownership {
        Ownership::Given => {}
        Ownership::Update | Ownership::Scale if !keeps_owners(resource) => {}
        Ownership::Update if subresource.is_empty() => {
            managed::update(
                Some(old),
                &mut new,
                writer.manager,
                &transaction.now,
                &resource.schema(version),
            );
        }
        Ownership::Update | Ownership::Scale => {
            let through = if ownership == Ownership::Scale {
                "scale"
            } else {
                subresource
            };
            managed::update_subresource(
                old,
                &mut new,
                writer.manager,
                transaction.recorded(through),
                &transaction.now,
                &resource.schema(version),
            );
        }
    }
    prepare::update(transaction, place, old, &mut new)?;
    let generation = next_generation(resource, version, old, &new);
    if let Some(generation) = generation {
        child(&mut new, "metadata").insert("generation".into(), generation.into());
    }
    if let Some(user) = writer.user
        && !changes_only_links(old, &new)
    {
        access::check_escalation(&transaction.state, user, resource, &new, Some(old))?;
    }
    causes.extend(check_metadata(resource, &new));
    if is_deleting(old) {
        let added: Vec<_> = list_at(&new, "/metadata/finalizers")
            .iter()
            .filter(|finalizer| !list_at(old, "/metadata/finalizers").contains(finalizer))
            .filter_map(Value::as_str)
            .map(|finalizer| format!("{finalizer:?}"))
            .collect();
        if !added.is_empty() {
            let cause = forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
            // The server checks this in two places and says so twice.
            causes.extend([cause.clone(), cause]);
        }
    }
    if subresource.is_empty() {
        causes.extend(prepare::check(resource, &new));
        causes.extend(prepare::check_update(resource, old, &new));
    }
    if subresource == "status" {
        causes.extend(prepare::check_status(resource, &new));
    }
    causes.extend(check_schema(resource, version, &new));
    if !causes.is_empty() {
        return Err(Status::invalid_object(resource, &name, &causes));
    }
    if writer.admission {
        admission::check_webhooks(transaction, place, "UPDATE", Some(&new), Some(old))?;
    }
    if is_deleting(&new) && list_at(&new, "/metadata/finalizers").is_empty() && !awaits_more(&new) {
        transaction.remove(&Key::of(resource, live));
        return Ok(Arc::new(new));
    }
    if new == *old {
        return Ok(Arc::clone(live));
    }
    to_stored_version(resource, version, &mut new);
    Ok(transaction.put(resource, new))
}

/// A custom resource keeps what the stored version knows of it, whichever version was sent.
fn to_stored_version(resource: &Resource, version: &str, new: &mut Value) {
    if resource.is_custom() && version != resource.storage_version {
        normalise(resource, &resource.storage_version, new);
    }
}

/// Whether something besides finalizers holds an object that is being deleted: a namespace's `spec.finalizers`.
fn awaits_more(value: &Value) -> bool {
    text(value, "kind") == "Namespace"
        && text(value, "apiVersion") == "v1"
        && !list_at(value, "/spec/finalizers").is_empty()
}

/// Whether an update touches owners and finalizers alone, as the garbage collector's do.
fn changes_only_links(old: &Value, new: &Value) -> bool {
    let rest = |value: &Value| {
        let mut value = value.clone();
        for key in ["ownerReferences", "finalizers", "managedFields"] {
            child(&mut value, "metadata").shift_remove(key);
        }
        value
    };
    rest(old) == rest(new)
}

/// What an update says of metadata that never changes.
fn fixed_metadata(old: &Value, new: &Value) -> Vec<validate::Cause> {
    let mut causes = Vec::new();
    for key in ["uid", "deletionTimestamp"] {
        let pointer = format!("/metadata/{key}");
        let (before, after) = (text_at(old, &pointer), text_at(new, &pointer));
        // An object that is being deleted goes on to be, whatever is said.
        let is_kept = after.is_empty() || before == after || (key != "uid" && !before.is_empty());
        if is_kept {
            continue;
        }
        let shown = if key == "uid" {
            golang::quote(after)
        } else {
            golang::time(after)
        };
        let message = format!("Invalid value: {shown}: field is immutable");
        let cause = cause("FieldValueInvalid", &format!("metadata.{key}"), message);
        // The server checks this in two places and says so twice.
        causes.extend([cause.clone(), cause]);
    }
    causes
}

fn keep_metadata(old: &Value, new: &mut Value) {
    let metadata = child(new, "metadata");
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "generateName",
    ] {
        match old.get("metadata").and_then(|metadata| metadata.get(key)) {
            Some(value) => {
                metadata.insert(key.into(), value.clone());
            }
            None => {
                metadata.shift_remove(key);
            }
        }
    }
    metadata.shift_remove("selfLink");
}

fn next_generation(resource: &Resource, version: &str, old: &Value, new: &Value) -> Option<i64> {
    let counted = read::number_at(old, "/metadata/generation").unwrap_or(0);
    let changed = match &resource.generation {
        Generation::None => return None,
        Generation::First => false,
        Generation::Fields(fields) => fields.iter().any(|field| {
            let pointer = format!("/{}", field.replace('.', "/"));
            old.pointer(&pointer) != new.pointer(&pointer)
        }),
        Generation::Content => {
            let apart = |key: &str| {
                matches!(key, "metadata" | "apiVersion" | "kind")
                    || (key == "status" && resource.has_status(version))
            };
            content(old, apart) != content(new, apart)
        }
    };
    changed.then_some(counted + 1)
}

fn content(value: &Value, apart: impl Fn(&str) -> bool) -> Map<String, Value> {
    value
        .as_object()
        .map(|map| {
            map.iter()
                .filter(|(key, _)| !apart(key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        })
        .unwrap_or_default()
}

fn check_schema(resource: &Resource, version: &str, new: &Value) -> Vec<validate::Cause> {
    let Some(schema) = resource.open_api(version) else {
        return Vec::new();
    };
    let mut causes = validate::check(schema, new);
    causes.sort_by(|a, b| a.field.cmp(&b.field));
    causes
}

fn check_metadata(resource: &Resource, new: &Value) -> Vec<validate::Cause> {
    let mut causes = Vec::new();
    let name = name(new);
    if name.is_empty() {
        causes.push(required("metadata.name", "name or generateName is required"));
    } else {
        let why = prepare::names::not_name(resource, name);
        prepare::names::refuse("metadata.name", name, why, &mut causes);
    }
    causes.extend(prepare::names::check_metadata(new));
    // Only the built-in kinds are strict about unqualified names; custom resources carry many.
    let is_builtin = !resource.group.contains('.') || resource.group.ends_with(".k8s.io");
    for (index, finalizer) in list_at(new, "/metadata/finalizers").iter().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        if is_builtin
            && !name.contains('/')
            && !matches!(name, "orphan" | "foregroundDeletion" | "kubernetes")
        {
            causes.push(invalid(
                &format!("metadata.finalizers[{index}]"),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    causes
}

/// What becomes of the objects that an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// The options of a deletion.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deletion {
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

impl Deletion {
    pub(crate) fn background() -> Deletion {
        Deletion {
            propagation: Some(Propagation::Background),
            ..Deletion::default()
        }
    }
}

/// What a deletion did.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Value>),
    /// The object waits for its finalizers.
    Marked(Arc<Value>),
}

/// Deletes an object, or marks it when finalizers hold it.
pub(crate) fn delete(
    transaction: &mut Transaction,
    place: Place,
    live: &Arc<Value>,
    options: &Deletion,
    writer: Writer,
) -> Result<Deleted> {
    let resource = place.resource;
    let key = Key::of(resource, live);
    let name = name(live);
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != read::uid(live)) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            read::uid(live)
        );
        return Err(Status::precondition(resource, name, &why));
    }
    let current = text_at(live, "/metadata/resourceVersion");
    if let Some(wanted) = options
        .resource_version
        .as_deref()
        .filter(|wanted| *wanted != current)
    {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
             ({current}). The object might have been modified"
        );
        return Err(Status::precondition(resource, name, &why));
    }
    if writer.admission {
        admission::check_deletion(resource, name)?;
        admission::check_webhooks(transaction, place, "DELETE", None, Some(live))?;
    }
    let propagation = options
        .propagation
        .unwrap_or_else(|| default_propagation(resource, live));
    let mut finalizers: Vec<String> = list_at(live, "/metadata/finalizers")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let has_dependents = !transaction.state.dependents(read::uid(live)).is_empty();
    match propagation {
        Propagation::Foreground if has_dependents => add(&mut finalizers, "foregroundDeletion", "orphan"),
        Propagation::Orphan if has_dependents => add(&mut finalizers, "orphan", "foregroundDeletion"),
        _ => finalizers.retain(|finalizer| finalizer != "orphan" && finalizer != "foregroundDeletion"),
    }
    let holds = prepare::holds_deletion(resource, live, &mut finalizers);
    if finalizers.is_empty() && !holds {
        transaction.remove(&key);
        return Ok(Deleted::Gone(Arc::clone(live)));
    }
    let mut marked = Value::clone(live);
    let metadata = child(&mut marked, "metadata");
    if finalizers.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), json!(finalizers));
    }
    if !is_deleting(live) {
        metadata.insert("deletionTimestamp".into(), transaction.now.as_str().into());
        metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
        if let Some(generation) = read::number_at(live, "/metadata/generation")
            && !resource.is("apiextensions.k8s.io", "CustomResourceDefinition")
        {
            child(&mut marked, "metadata").insert("generation".into(), (generation + 1).into());
        }
        prepare::mark_deleted(resource, &mut marked, &transaction.now);
    }
    if marked == **live {
        return Ok(Deleted::Marked(Arc::clone(live)));
    }
    Ok(Deleted::Marked(transaction.put(resource, marked)))
}

fn add(finalizers: &mut Vec<String>, wanted: &str, other: &str) {
    finalizers.retain(|finalizer| finalizer != other);
    if !finalizers.iter().any(|finalizer| finalizer == wanted) {
        finalizers.push(wanted.to_owned());
    }
}

fn default_propagation(resource: &Resource, live: &Value) -> Propagation {
    let held = |finalizer: &str| {
        list_at(live, "/metadata/finalizers")
            .iter()
            .any(|held| held == finalizer)
    };
    if held("orphan") {
        Propagation::Orphan
    } else if held("foregroundDeletion") {
        Propagation::Foreground
    } else if resource.is("batch", "Job") || resource.is("", "ReplicationController") {
        // The old clients of these two relied on dependents staying behind.
        Propagation::Orphan
    } else {
        Propagation::Background
    }
}
