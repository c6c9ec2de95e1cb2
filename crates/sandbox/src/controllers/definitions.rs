//! CustomResourceDefinitions: names are accepted, the kind is served, its APIService comes and goes.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::controllers::write_status;
use crate::json::{child, is_deleting, list, list_at, name, object, text, text_at};
use crate::kinds::Resource;
use crate::status::Result;
use crate::store::{Collection, Key};
use crate::transaction::Transaction;
use crate::write::{self, Deletion, Place, Writer};

const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Brings everything that follows from a definition up to date.
pub(crate) fn reconcile(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(definition) = transaction.state.get(key).cloned() else {
        let group = key
            .name()
            .split_once('.')
            .map_or("", |(_, group)| group)
            .to_owned();
        transaction.state.set_custom(key.name(), None);
        return register_services(transaction, &group);
    };
    let definition = accept(transaction, &definition)?;
    let resource = is_established(&definition)
        .then(|| Resource::from_definition(&definition))
        .flatten();
    transaction.state.set_custom(key.name(), resource.map(Arc::new));
    register_services(transaction, text_at(&definition, "/spec/group"))?;
    if is_deleting(&definition) {
        clean_up(transaction, &definition)?;
    }
    Ok(())
}

pub(crate) fn is_established(definition: &Value) -> bool {
    list_at(definition, "/status/conditions")
        .iter()
        .any(|condition| text(condition, "type") == "Established" && text(condition, "status") == "True")
}

/// Accepts the names that a definition asks for when no other one has them, and establishes it.
fn accept(transaction: &mut Transaction, definition: &Arc<Value>) -> Result<Arc<Value>> {
    let stored = stored_versions(definition);
    let names = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let accepted = definition.pointer("/status/acceptedNames");
    if accepted == Some(&names)
        && is_established(definition)
        && definition.pointer("/status/storedVersions") == Some(&stored)
    {
        return Ok(Arc::clone(definition));
    }
    let now = transaction.now.clone();
    let mut next = Value::clone(definition);
    child(&mut next, "status").insert("storedVersions".into(), stored);
    if accepted != Some(&names) {
        if let Some((reason, taken)) = name_in_use(transaction, definition) {
            let message = format!("{taken:?} is already in use");
            set_condition(&mut next, "NamesAccepted", "False", reason, &message, &now);
            if !is_established(definition) {
                let message = "not all names are accepted";
                set_condition(&mut next, "Established", "False", "NotAccepted", message, &now);
            }
        } else {
            child(&mut next, "status").insert("acceptedNames".into(), names);
            set_condition(
                &mut next,
                "NamesAccepted",
                "True",
                "NoConflicts",
                "no conflicts found",
                &now,
            );
        }
    }
    let accepted = list_at(&next, "/status/conditions")
        .iter()
        .any(|condition| text(condition, "type") == "NamesAccepted" && text(condition, "status") == "True");
    if accepted && !is_established(&next) {
        set_condition(
            &mut next,
            "Established",
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted",
            &now,
        );
    }
    let resource = transaction.builtin("apiextensions.k8s.io", "customresourcedefinitions")?;
    Ok(write_status(
        transaction,
        &resource,
        definition,
        next,
        Writer::API_SERVER,
    ))
}

/// The stored versions: those that were, and the one that is stored now.
fn stored_versions(definition: &Value) -> Value {
    let mut stored: Vec<Value> = list_at(definition, "/status/storedVersions").to_vec();
    for version in list_at(definition, "/spec/versions") {
        if version.get("storage") == Some(&Value::Bool(true))
            && let Some(name) = version.get("name")
            && !stored.contains(name)
        {
            stored.push(name.clone());
        }
    }
    Value::Array(stored)
}

fn name_in_use(transaction: &Transaction, definition: &Value) -> Option<(&'static str, String)> {
    let group = text_at(definition, "/spec/group");
    let names = definition.pointer("/spec/names")?;
    let others: Vec<_> = transaction
        .state
        .custom()
        .filter(|other| other.group == group && *other.store != *name(definition))
        .cloned()
        .collect();
    let resources = |wanted: &str| {
        others.iter().any(|other| {
            other.plural == wanted
                || other.singular == wanted
                || other.short_names.iter().any(|one| one == wanted)
        })
    };
    let kinds = |wanted: &str| {
        others
            .iter()
            .any(|other| other.kind == wanted || other.list_kind == wanted)
    };
    for (key, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        if resources(text(names, key)) {
            return Some((reason, text(names, key).to_owned()));
        }
    }
    for short in list(names, "shortNames").iter().filter_map(Value::as_str) {
        if resources(short) {
            return Some(("ShortNamesConflict", short.to_owned()));
        }
    }
    for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        if kinds(text(names, key)) {
            return Some((reason, text(names, key).to_owned()));
        }
    }
    None
}

/// Sets a condition of `status.conditions`; the time changes with the status only.
pub(crate) fn set_condition(
    object: &mut Value,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: &str,
) {
    let conditions = child(object, "status")
        .entry("conditions")
        .or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    let before = conditions
        .iter_mut()
        .find(|condition| text(condition, "type") == kind);
    let time = match &before {
        Some(before) if text(before, "status") == status => text(before, "lastTransitionTime").to_owned(),
        _ => now.to_owned(),
    };
    let condition = json!({
        "lastTransitionTime": time,
        "message": message,
        "reason": reason,
        "status": status,
        "type": kind,
    });
    match before {
        Some(before) => *before = condition,
        None => conditions.push(condition),
    }
}

/// One APIService for each served version of a group, as the aggregator keeps them.
fn register_services(transaction: &mut Transaction, group: &str) -> Result<()> {
    let services = transaction.builtin("apiregistration.k8s.io", "apiservices")?;
    let mut wanted: Vec<String> = transaction
        .state
        .custom()
        .filter(|resource| resource.group == group)
        .flat_map(|resource| {
            resource
                .versions
                .iter()
                .map(|version| version.name.clone())
                .collect::<Vec<_>>()
        })
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    for version in &wanted {
        if transaction
            .state
            .find(&services.store, "", &format!("{version}.{group}"))
            .is_none()
        {
            add_service(transaction, &services, group, version, 1000, 100, "true");
        }
    }
    let gone: Vec<_> = transaction
        .state
        .collection(&services.store)
        .into_iter()
        .flat_map(Collection::iter)
        .filter(|(_, service)| {
            text_at(service, "/spec/group") == group
                && text_at(
                    service,
                    "/metadata/labels/kube-aggregator.kubernetes.io~1automanaged",
                ) == "true"
                && !wanted
                    .iter()
                    .any(|version| version == text_at(service, "/spec/version"))
        })
        .map(|(_, service)| Key::of(&services, service))
        .collect();
    for key in gone {
        transaction.remove(&key);
    }
    Ok(())
}

/// Adds the APIService of a group and version that this server itself serves.
pub(crate) fn add_service(
    transaction: &mut Transaction,
    services: &Resource,
    group: &str,
    version: &str,
    group_priority: u32,
    version_priority: u32,
    managed: &str,
) {
    let now = transaction.now.clone();
    let uid = transaction.state.draw_uid();
    let mut spec = json!({
        "groupPriorityMinimum": group_priority, "version": version, "versionPriority": version_priority,
    });
    if !group.is_empty() {
        object(&mut spec).insert("group".into(), group.into());
    }
    transaction.put(
        services,
        json!({
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {
                "creationTimestamp": now,
                "labels": { "kube-aggregator.kubernetes.io/automanaged": managed },
                "name": format!("{version}.{group}"),
                "uid": uid,
            },
            "spec": spec,
            "status": { "conditions": [{
                "lastTransitionTime": now,
                "message": "Local APIServices are always available",
                "reason": "Local",
                "status": "True",
                "type": "Available",
            }] },
        }),
    );
}

/// Deletes the objects of a kind whose definition goes away, and lets the definition go with the last of them.
pub(crate) fn clean_up(transaction: &mut Transaction, definition: &Arc<Value>) -> Result<()> {
    if !list_at(definition, "/metadata/finalizers")
        .iter()
        .any(|one| one == FINALIZER)
    {
        return Ok(());
    }
    let store = name(definition).to_owned();
    let instances: Vec<_> = transaction
        .state
        .collection(&store)
        .map(|collection| collection.iter().map(|(_, object)| Arc::clone(object)).collect())
        .unwrap_or_default();
    if let Some(resource) = Resource::from_definition(definition).map(Arc::new) {
        for instance in instances.iter().filter(|instance| !is_deleting(instance)) {
            write::delete(
                transaction,
                Place::stored(&resource),
                instance,
                &Deletion::background(),
                Writer::API_SERVER,
            )?;
        }
    }
    if transaction
        .state
        .collection(&store)
        .is_some_and(|collection| collection.len() > 0)
    {
        return Ok(());
    }
    let definitions = transaction.builtin("apiextensions.k8s.io", "customresourcedefinitions")?;
    let mut next = Value::clone(definition);
    if let Some(finalizers) = child(&mut next, "metadata")
        .get_mut("finalizers")
        .and_then(Value::as_array_mut)
    {
        finalizers.retain(|one| one != FINALIZER);
    }
    write_status(transaction, &definitions, definition, next, Writer::API_SERVER);
    Ok(())
}
