//! Garbage collection: what happens to the objects that an object owns when it goes away.

use serde_json::{Value, json};

use crate::controllers::write_status;
use crate::json::{child, group_of, is_deleting, list_at, namespace, text, uid};
use crate::status::Result;
use crate::store::{Change, Key};
use crate::transaction::Transaction;
use crate::write::{self, Deletion, Place, Propagation, Writer};

pub(crate) fn after_change(transaction: &mut Transaction, key: &Key, change: &Change) -> Result<()> {
    match (&change.old, &change.new) {
        (Some(old), None) => {
            collect(transaction, uid(old))?;
            // Owners that wait for their dependents may go on.
            for owner in list_at(old, "/metadata/ownerReferences") {
                if let Some(owner_key) = owner_key(transaction, owner, namespace(old)) {
                    advance(transaction, &owner_key)?;
                }
            }
            Ok(())
        }
        (old, Some(new)) => {
            if is_deleting(new) {
                return advance(transaction, key);
            }
            let owners = new.pointer("/metadata/ownerReferences");
            if owners.is_some()
                && old
                    .as_ref()
                    .and_then(|old| old.pointer("/metadata/ownerReferences"))
                    != owners
            {
                return reconsider(transaction, key);
            }
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

/// Looks again at every object that names an owner which is gone.
fn collect(transaction: &mut Transaction, owner: &str) -> Result<()> {
    for key in transaction.state.dependents(owner) {
        reconsider(transaction, &key)?;
    }
    Ok(())
}

/// Deletes an object none of whose owners exists; drops the references to owners that do not, where others do.
fn reconsider(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(object) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    let owners = list_at(&object, "/metadata/ownerReferences");
    if owners.is_empty() || is_deleting(&object) {
        return Ok(());
    }
    let (present, absent): (Vec<_>, Vec<_>) = owners
        .iter()
        .partition(|owner| exists(transaction, owner, namespace(&object)));
    if absent.is_empty() {
        return Ok(());
    }
    let resource = transaction.resource_of(key)?;
    if present.is_empty() {
        write::delete(
            transaction,
            Place::stored(&resource),
            &object,
            &Deletion {
                propagation: None,
                ..Deletion::background()
            },
            Writer::CONTROLLER,
        )?;
        return Ok(());
    }
    let present: Vec<Value> = present.into_iter().cloned().collect();
    let mut next = Value::clone(&object);
    child(&mut next, "metadata").insert("ownerReferences".into(), json!(present));
    write_status(transaction, &resource, &object, next, Writer::CONTROLLER);
    Ok(())
}

fn owner_key(transaction: &Transaction, owner: &Value, namespace: &str) -> Option<Key> {
    let group = group_of(text(owner, "apiVersion"));
    let resource = transaction
        .state
        .resource_of_kind(transaction.builtins, group, text(owner, "kind"))?;
    let namespace = if resource.namespaced { namespace } else { "" };
    Some(Key::new(&resource, namespace, text(owner, "name")))
}

fn exists(transaction: &Transaction, owner: &Value, namespace: &str) -> bool {
    let group = group_of(text(owner, "apiVersion"));
    if transaction
        .state
        .resource_of_kind(transaction.builtins, group, text(owner, "kind"))
        .is_none()
    {
        // The collector leaves alone what refers to a kind that it does not know.
        return true;
    }
    owner_key(transaction, owner, namespace)
        .and_then(|key| transaction.state.get(&key))
        .is_some_and(|found| uid(found) == text(owner, "uid"))
}

/// Moves an object on that is deleted in the foreground, or whose dependents are to be orphaned.
fn advance(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(object) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if !is_deleting(&object) {
        return Ok(());
    }
    let held = |finalizer: &str| {
        list_at(&object, "/metadata/finalizers")
            .iter()
            .any(|held| held == finalizer)
    };
    let dependents = transaction.state.dependents(uid(&object));
    if held("orphan") {
        for key in dependents {
            let Some(dependent) = transaction.state.get(&key).cloned() else {
                continue;
            };
            let resource = transaction.resource_of(&key)?;
            let owners: Vec<_> = list_at(&dependent, "/metadata/ownerReferences")
                .iter()
                .filter(|owner| text(owner, "uid") != uid(&object))
                .cloned()
                .collect();
            let mut next = Value::clone(&dependent);
            let metadata = child(&mut next, "metadata");
            if owners.is_empty() {
                metadata.shift_remove("ownerReferences");
            } else {
                metadata.insert("ownerReferences".into(), json!(owners));
            }
            write_status(transaction, &resource, &dependent, next, Writer::CONTROLLER);
        }
        return release(transaction, key, "orphan");
    }
    if held("foregroundDeletion") {
        for key in dependents {
            let Some(dependent) = transaction.state.get(&key).cloned() else {
                continue;
            };
            if is_deleting(&dependent) {
                continue;
            }
            let resource = transaction.resource_of(&key)?;
            let options = Deletion {
                propagation: Some(Propagation::Foreground),
                ..Deletion::default()
            };
            write::delete(
                transaction,
                Place::stored(&resource),
                &dependent,
                &options,
                Writer::CONTROLLER,
            )?;
        }
        let blocked = transaction.state.dependents(uid(&object)).iter().any(|key| {
            transaction.state.get(key).is_some_and(|dependent| {
                list_at(dependent, "/metadata/ownerReferences")
                    .iter()
                    .any(|owner| {
                        text(owner, "uid") == uid(&object)
                            && owner.get("blockOwnerDeletion") == Some(&Value::Bool(true))
                    })
            })
        });
        if !blocked {
            return release(transaction, key, "foregroundDeletion");
        }
    }
    Ok(())
}

fn release(transaction: &mut Transaction, key: &Key, finalizer: &str) -> Result<()> {
    let Some(object) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    let resource = transaction.resource_of(key)?;
    let mut next = Value::clone(&object);
    let metadata = child(&mut next, "metadata");
    let left: Vec<_> = metadata
        .get("finalizers")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter(|one| *one != finalizer).cloned().collect())
        .unwrap_or_default();
    if left.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), Value::Array(left));
    }
    write_status(transaction, &resource, &object, next, Writer::CONTROLLER);
    Ok(())
}
