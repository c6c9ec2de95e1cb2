//! Namespaces: what a new one gets, and how one goes away.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::controllers::{create, write_status};
use crate::json::{child, is_deleting, list_at, object};
use crate::status::Result;
use crate::store::Key;
use crate::transaction::Transaction;
use crate::write::{self, Deletion, Place, Writer};

pub(crate) fn reconcile(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(namespace) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if is_deleting(&namespace) {
        clear(transaction, &namespace)
    } else {
        furnish(transaction, key.name())
    }
}

/// The default ServiceAccount and the cluster's CA.
fn furnish(transaction: &mut Transaction, namespace: &str) -> Result<()> {
    if transaction.builtins.minor >= 20
        && transaction
            .state
            .find("configmaps", namespace, "kube-root-ca.crt")
            .is_none()
    {
        let resource = transaction.builtin("", "configmaps")?;
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": "kube-root-ca.crt", "namespace": namespace },
            "data": { "ca.crt": crate::authority::certificate() },
        });
        create(transaction, &resource, map, Writer::CONTROLLER)?;
    }
    if transaction
        .state
        .find("serviceaccounts", namespace, "default")
        .is_none()
    {
        let resource = transaction.builtin("", "serviceaccounts")?;
        let account = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": "default", "namespace": namespace },
        });
        create(transaction, &resource, account, Writer::CONTROLLER)?;
    }
    Ok(())
}

/// Deletes what is in a namespace, and the namespace with the last of it.
fn clear(transaction: &mut Transaction, namespace: &Arc<Value>) -> Result<()> {
    let name = crate::json::name(namespace).to_owned();
    for (key, content) in contents(transaction, &name) {
        if is_deleting(&content) {
            continue;
        }
        let resource = transaction.resource_of(&key)?;
        write::delete(
            transaction,
            Place::stored(&resource),
            &content,
            &Deletion::background(),
            Writer::CONTROLLER,
        )?;
    }
    let resource = transaction.builtin("", "namespaces")?;
    let Some(live) = transaction.state.find("namespaces", "", &name).cloned() else {
        return Ok(());
    };
    let left = contents(transaction, &name);
    let mut next = Value::clone(&live);
    if left.is_empty() {
        if let Some(finalizers) = child(&mut next, "spec")
            .get_mut("finalizers")
            .and_then(Value::as_array_mut)
        {
            finalizers.retain(|finalizer| finalizer != "kubernetes");
        }
        if list_at(&next, "/spec/finalizers").is_empty() {
            object(&mut next).insert("spec".into(), json!({}));
        }
    } else {
        report(&mut next, &left, &transaction.now);
    }
    write_status(transaction, &resource, &live, next, Writer::CONTROLLER);
    Ok(())
}

/// Says in the namespace's conditions what is left and what holds it.
fn report(namespace: &mut Value, left: &[(Key, Arc<Value>)], now: &str) {
    let mut kinds = std::collections::BTreeMap::new();
    let mut finalizers = std::collections::BTreeMap::new();
    for (key, content) in left {
        // The server writes the core group as an empty one: `pods.`.
        let dot = if key.store.contains('.') { "" } else { "." };
        *kinds.entry(format!("{}{dot}", key.store)).or_insert(0) += 1;
        for finalizer in list_at(content, "/metadata/finalizers")
            .iter()
            .filter_map(Value::as_str)
        {
            *finalizers.entry(finalizer.to_owned()).or_insert(0) += 1;
        }
    }
    let join = |counts: &std::collections::BTreeMap<String, i32>, what: &str| {
        let all: Vec<_> = counts
            .iter()
            .map(|(name, count)| format!("{name} {what} {count} resource instances"))
            .collect();
        all.join(", ")
    };
    let good = [
        (
            "NamespaceDeletionDiscoveryFailure",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
    ];
    for (kind, reason, message) in good {
        super::definitions::set_condition(namespace, kind, "False", reason, message, now);
    }
    super::definitions::set_condition(
        namespace,
        "NamespaceContentRemaining",
        "True",
        "SomeResourcesRemain",
        &format!("Some resources are remaining: {}", join(&kinds, "has")),
        now,
    );
    super::definitions::set_condition(
        namespace,
        "NamespaceFinalizersRemaining",
        "True",
        "SomeFinalizersRemain",
        &format!(
            "Some content in the namespace has finalizers remaining: {}",
            join(&finalizers, "in")
        ),
        now,
    );
}

fn contents(transaction: &Transaction, namespace: &str) -> Vec<(Key, Arc<Value>)> {
    transaction
        .state
        .collections()
        .flat_map(|(store, collection)| {
            collection
                .range(namespace, None)
                .map(|(path, object)| {
                    (
                        Key {
                            store: Arc::clone(store),
                            path: Arc::clone(path),
                        },
                        Arc::clone(object),
                    )
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A namespace that goes away may be empty now.
pub(crate) fn after_removal(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let namespace = key.namespace();
    if !namespace.is_empty()
        && let Some(found) = transaction.state.find("namespaces", "", namespace)
        && is_deleting(found)
    {
        let kind = transaction.builtin("", "namespaces")?;
        transaction.mark(Key::new(&kind, "", namespace));
    }
    Ok(())
}
