//! What the controllers of a cluster make of a write: run after it, in the same transaction, until nothing changes.

pub(crate) mod accounts;
pub(crate) mod budgets;
pub(crate) mod definitions;
mod deployments;
mod endpoints;
mod events;
mod failing;
mod garbage;
mod kubelet;
mod namespaces;
pub(crate) mod pods;
mod registration;
mod roles;
mod scheduler;
mod sets;
pub(crate) mod time;
mod volumes;
mod workloads;

use std::sync::Arc;

use serde_json::Value;

use crate::fields::managed;
use crate::json::{is_deleting, list_at, text};
use crate::kinds::Resource;
use crate::status::Result;
use crate::store::{Change, Key};
use crate::transaction::Transaction;
use crate::write::{self, Ownership, Place, Writer};

/// More rounds for each object than any chain of reactions needs; a bound, so that two controllers that disagree cannot
/// hang a request.
const ROUNDS: usize = 20;

/// Lets every controller see every change, their own included.
pub(crate) fn settle(transaction: &mut Transaction) {
    let objects: usize = transaction
        .state
        .collections()
        .map(|(_, collection)| collection.len())
        .sum();
    for _ in 0..ROUNDS * (objects + 100) {
        // Changes first: however many of its pods have changed, a workload is looked at once.
        let (key, outcome) = if let Some((key, change)) = transaction.unseen.pop_front() {
            let outcome = react(transaction, &key, &change);
            (key, outcome)
        } else if let Some(key) = transaction.next_marked() {
            let outcome = reconcile(transaction, &key);
            (key, outcome)
        } else {
            return;
        };
        if let Err(status) = outcome {
            // A controller would log this and try again later; the next change is its next chance.
            tracing::debug!(store = %key.store, path = %key.path, error = %status.message, "controller failed");
        }
    }
    tracing::warn!("controllers did not settle");
}

fn react(transaction: &mut Transaction, key: &Key, change: &Change) -> Result<()> {
    match &*key.store {
        "serviceaccounts" => {
            accounts::reconcile(transaction, key, change.old.as_deref())?;
            if change.old.is_none() {
                sets::retry_with_account(transaction, key)?;
            }
        }
        "secrets" | "configmaps" => {
            if change.old.is_none() && &*key.store == "secrets" {
                accounts::reconcile_secret(transaction, key)?;
            }
            if keys_of(change.new.as_deref()) != keys_of(change.old.as_deref()) {
                pods::retry(transaction, key.namespace(), |pod| {
                    kubelet::names(pod, &key.store, key.name())
                })?;
            }
        }
        "persistentvolumeclaims" => {
            // Before the pods that come with it are looked at, so that they need not wait.
            volumes::reconcile_claim(transaction, key)?;
            pods::retry(transaction, key.namespace(), |pod| volumes::uses(pod, key.name()))?;
        }
        "storageclasses.storage.k8s.io" => volumes::retry_claims(transaction)?,
        "pods" => {
            pods::run(transaction, key)?;
            let (old, new) = (change.old.as_deref(), change.new.as_deref());
            endpoints::follow_pod(transaction, old, new)?;
            if let Some(pod) = new.or(old) {
                volumes::follow_pod(transaction, pod)?;
                budgets::follow_pod(transaction, pod)?;
                mark_owner(transaction, pod);
            }
            if scheduler::gives_room(old, new) {
                pods::retry_pending(transaction)?;
            }
        }
        "endpoints" => registration::follow_service(transaction, key),
        "clusterroles.rbac.authorization.k8s.io" => roles::aggregate(transaction, change)?,
        "nodes" => {
            // What comes in with the beat of a node's heart does not matter here.
            let shape = |node: &Option<Arc<Value>>| {
                node.as_ref().map(|node| {
                    (
                        node.get("spec").cloned(),
                        node.pointer("/metadata/labels").cloned(),
                        node.pointer("/status/allocatable").cloned(),
                        workloads::is_ready(node),
                    )
                })
            };
            if shape(&change.old) != shape(&change.new) {
                sets::cover_nodes(transaction)?;
                pods::retry_pending(transaction)?;
            }
        }
        // Those that have them: Deployments, CronJobs.
        "replicasets.apps" | "jobs.batch" => {
            if let Some(set) = change.new.as_ref().or(change.old.as_ref()) {
                mark_owner(transaction, set);
            }
            transaction.mark(key.clone());
        }
        // Whether a kind is served is not put off.
        DEFINITIONS => definitions::reconcile(transaction, key)?,
        _ => transaction.mark(key.clone()),
    }
    if let (None, Some(old)) = (&change.new, &change.old) {
        if &*key.store == "persistentvolumeclaims" {
            volumes::after_claim(transaction, old)?;
        }
        namespaces::after_removal(transaction, key)?;
        if let Some(definition) = transaction.state.find(DEFINITIONS, "", &key.store)
            && is_deleting(definition)
        {
            let definitions = transaction.builtin("apiextensions.k8s.io", "customresourcedefinitions")?;
            transaction.mark(Key::new(&definitions, "", &key.store));
        }
    }
    garbage::after_change(transaction, key, change)
}

/// Lets the controller of one object look at it.
fn reconcile(transaction: &mut Transaction, key: &Key) -> Result<()> {
    match &*key.store {
        DEFINITIONS => definitions::reconcile(transaction, key),
        "namespaces" => namespaces::reconcile(transaction, key),
        "services" => {
            registration::follow_service(transaction, key);
            endpoints::reconcile(transaction, key)
        }
        "deployments.apps" => deployments::reconcile(transaction, key),
        "replicasets.apps" => deployments::reconcile_set(transaction, key),
        "statefulsets.apps" => sets::reconcile_stateful(transaction, key),
        "daemonsets.apps" => sets::reconcile_daemon(transaction, key),
        "jobs.batch" => sets::reconcile_job(transaction, key),
        "cronjobs.batch" => time::tidy(transaction, key),
        "poddisruptionbudgets.policy" => budgets::reconcile(transaction, key),
        "persistentvolumes" => volumes::reconcile_volume(transaction, key),
        "apiservices.apiregistration.k8s.io" => registration::reconcile(transaction, key),
        _ => Ok(()),
    }
}

/// The keys of a ConfigMap or Secret; none where there is none.
fn keys_of(object: Option<&Value>) -> Option<Vec<&str>> {
    let data = ["data", "binaryData"].map(|field| object?.get(field)?.as_object());
    let keys = data.into_iter().flatten().flat_map(serde_json::Map::keys);
    object.map(|_| keys.map(String::as_str).collect())
}

fn mark_owner(transaction: &mut Transaction, object: &Value) {
    if let Some(owner) = workloads::owner_key(transaction, object) {
        transaction.mark(owner);
    }
}

/// Lets all controllers look at what may or may not work from now on.
pub(crate) fn look_again(transaction: &mut Transaction) -> Result<()> {
    let keys = |transaction: &Transaction, plural: &str| -> Result<Vec<Key>> {
        let kind = transaction.builtin("", plural)?;
        let objects = transaction.state.objects_of(&kind);
        Ok(objects.iter().map(|(_, object)| Key::of(&kind, object)).collect())
    };
    for key in keys(transaction, "persistentvolumeclaims")? {
        volumes::reconcile_claim(transaction, &key)?;
    }
    for key in keys(transaction, "pods")? {
        pods::run(transaction, &key)?;
    }
    for key in keys(transaction, "services")? {
        endpoints::reconcile_dead(transaction, &key)?;
    }
    Ok(())
}

const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Writes a new status (and metadata) as a controller does, with its entry in `managedFields`.
pub(crate) fn write_status(
    transaction: &mut Transaction,
    resource: &Arc<Resource>,
    live: &Arc<Value>,
    mut next: Value,
    writer: Writer,
) -> Arc<Value> {
    if next == **live {
        return Arc::clone(live);
    }
    managed::update_with_status(
        live,
        &mut next,
        writer.manager,
        transaction.recorded("status"),
        &transaction.now,
        &resource.schema(&resource.storage_version),
    );
    let held = !list_at(&next, "/metadata/finalizers").is_empty()
        || (text(&next, "kind") == "Namespace" && !list_at(&next, "/spec/finalizers").is_empty());
    if is_deleting(&next) && !held {
        transaction.remove(&Key::of(resource, live));
        return Arc::new(next);
    }
    transaction.put(resource, next)
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
    write::create(
        transaction,
        Place::stored(resource),
        object,
        Ownership::Update,
        writer,
    )
}
