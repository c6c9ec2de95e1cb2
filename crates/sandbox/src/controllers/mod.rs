//! What the controllers of a cluster make of a write: run after it, in the same transaction, until nothing changes.

pub(crate) mod definitions;
mod garbage;
mod namespaces;

use std::sync::Arc;

use serde_json::Value;

use crate::fields::managed;
use crate::json::{list_at, text};
use crate::kinds::Resource;
use crate::status::Result;
use crate::store::{Change, Key};
use crate::transaction::Transaction;
use crate::write::{self, Ownership, Writer};

/// More rounds than any chain of reactions needs; a bound, so that two controllers that disagree cannot hang a request.
const ROUNDS: usize = 100_000;

/// Lets every controller see every change, their own included.
pub(crate) fn settle(transaction: &mut Transaction) {
    for _ in 0..ROUNDS {
        let Some((key, change)) = transaction.unseen.pop_front() else {
            return;
        };
        if let Err(status) = react(transaction, &key, &change) {
            // A controller would log this and try again later; the next change is its next chance.
            tracing::debug!(store = %key.store, path = %key.path, error = %status.message, "controller failed");
        }
    }
    tracing::warn!("controllers did not settle");
}

fn react(transaction: &mut Transaction, key: &Key, change: &Change) -> Result<()> {
    match &*key.store {
        "customresourcedefinitions.apiextensions.k8s.io" => definitions::reconcile(transaction, key)?,
        "namespaces" => namespaces::reconcile(transaction, key)?,
        _ => {}
    }
    if change.new.is_none() {
        namespaces::after_removal(transaction, key)?;
        if let Some(definition) = transaction.state.find(DEFINITIONS, "", &key.store).cloned() {
            definitions::clean_up(transaction, &definition)?;
        }
    }
    garbage::after_change(transaction, key, change)
}

const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Writes a new status (and metadata) as a controller does, with its entry in `managedFields`.
pub(crate) fn write_status(
    transaction: &mut Transaction,
    resource: &Arc<Resource>,
    live: &Arc<Value>,
    mut next: Value,
    writer: Writer,
) -> Result<Arc<Value>> {
    if next == **live {
        return Ok(Arc::clone(live));
    }
    managed::update(
        Some(live),
        &mut next,
        writer.manager,
        &transaction.now,
        &resource.schema(&resource.storage_version),
    );
    if crate::json::is_deleting(&next)
        && list_at(&next, "/metadata/finalizers").is_empty()
        && !(text(&next, "kind") == "Namespace" && !list_at(&next, "/spec/finalizers").is_empty())
    {
        transaction.remove(&Key::of(resource, live));
        return Ok(Arc::new(next));
    }
    Ok(transaction.put(resource, next))
}

/// Creates an object as a controller does.
pub(crate) fn create(
    transaction: &mut Transaction,
    resource: &Arc<Resource>,
    mut object: Value,
    writer: Writer,
) -> Result<Arc<Value>> {
    let version = resource.storage_version.clone();
    write::normalise(resource, &version, &mut object);
    write::create(transaction, resource, &version, object, Ownership::Update, writer)
}
