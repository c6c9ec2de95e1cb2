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

/// Holds a definition until the objects of its kind are gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

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

/// Accepts the names that a definition asks for, as far as no other one has them, and establishes it.
fn accept(transaction: &mut Transaction, definition: &Arc<Value>) -> Result<Arc<Value>> {
    let wanted = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let accepted = definition
        .pointer("/status/acceptedNames")
        .cloned()
        .unwrap_or_default();
    if accepted == wanted && is_established(definition) {
        return Ok(Arc::clone(definition));
    }
    let now = transaction.now.clone();
    let mut next = Value::clone(definition);
    if definition.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
        let message = "spec.preserveUnknownFields: Invalid value: true: must be false";
        set_condition(
            &mut next,
            "NonStructuralSchema",
            "True",
            "Violations",
            message,
            &now,
        );
    }
    let (names, refusal) = negotiate(transaction, definition, &wanted, &accepted);
    child(&mut next, "status").insert("acceptedNames".into(), names);
    if let Some((reason, message)) = refusal {
        set_condition(&mut next, "NamesAccepted", "False", reason, &message, &now);
        if !is_established(definition) {
            let message = "not all names are accepted";
            set_condition(&mut next, "Established", "False", "NotAccepted", message, &now);
        }
    } else {
        set_condition(
            &mut next,
            "NamesAccepted",
            "True",
            "NoConflicts",
            "no conflicts found",
            &now,
        );
        if !is_established(&next) {
            let message = "the initial names have been accepted";
            set_condition(
                &mut next,
                "Established",
                "True",
                "InitialNamesAccepted",
                message,
                &now,
            );
        }
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

/// The names that a definition gets: each one that is free, and why the last of the others is not.
fn negotiate(
    transaction: &Transaction,
    definition: &Value,
    wanted: &Value,
    accepted: &Value,
) -> (Value, Option<(&'static str, String)>) {
    let group = text_at(definition, "/spec/group");
    let others: Vec<_> = transaction
        .state
        .custom()
        .filter(|other| other.group == group && *other.store != *name(definition))
        .cloned()
        .collect();
    let resource_taken = |wanted: &str| {
        others.iter().any(|other| {
            other.plural == wanted
                || other.singular == wanted
                || other.short_names.iter().any(|one| one == wanted)
        })
    };
    let kind_taken = |wanted: &str| {
        others
            .iter()
            .any(|other| other.kind == wanted || other.list_kind == wanted)
    };
    let in_use = |name: &str| format!("{name:?} is already in use");
    let mut names = json!({});
    let mut refusal = None;
    let mut choose = |key: &str, reason: &'static str, taken: &dyn Fn(&str) -> bool| {
        let (want, have) = (text(wanted, key), text(accepted, key));
        let chosen = if want != have && taken(want) {
            refusal = Some((reason, in_use(want)));
            have
        } else {
            want
        };
        if !chosen.is_empty() || matches!(key, "plural" | "kind") {
            names[key] = chosen.into();
        }
    };
    choose("plural", "PluralConflict", &resource_taken);
    choose("singular", "SingularConflict", &resource_taken);
    choose("kind", "KindConflict", &kind_taken);
    choose("listKind", "ListKindConflict", &kind_taken);
    let short: Vec<_> = list(wanted, "shortNames")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let taken: Vec<_> = short
        .iter()
        .filter(|name| !list(accepted, "shortNames").iter().any(|one| one == **name) && resource_taken(name))
        .map(|name| in_use(name))
        .collect();
    if !taken.is_empty() && refusal.is_none() {
        let all = if let [one] = taken.as_slice() {
            one.clone()
        } else {
            format!("[{}]", taken.join(", "))
        };
        refusal = Some(("ShortNamesConflict", all));
    }
    let source = if taken.is_empty() { wanted } else { accepted };
    for (key, source) in [("shortNames", source), ("categories", wanted)] {
        if let Some(value) = source.get(key) {
            names[key] = value.clone();
        }
    }
    (names, refusal)
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
    let definitions = transaction.builtin("apiextensions.k8s.io", "customresourcedefinitions")?;
    let mut next = Value::clone(definition);
    if transaction
        .state
        .collection(&store)
        .is_some_and(|collection| collection.len() > 0)
    {
        let (reason, message) = (
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        );
        set_condition(
            &mut next,
            "Terminating",
            "True",
            reason,
            message,
            &transaction.now,
        );
        write_status(transaction, &definitions, definition, next, Writer::API_SERVER);
        return Ok(());
    }
    if let Some(finalizers) = child(&mut next, "metadata")
        .get_mut("finalizers")
        .and_then(Value::as_array_mut)
    {
        finalizers.retain(|one| one != FINALIZER);
    }
    write_status(transaction, &definitions, definition, next, Writer::API_SERVER);
    Ok(())
}
