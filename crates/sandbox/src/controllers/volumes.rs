//! Claims get a volume where a StorageClass says how; both go when nobody needs them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::controllers::{create, events, write_status};
use crate::json::{child, is_deleting, list_at, name, namespace, object, text, text_at, uid};
use crate::status::Result;
use crate::store::Key;
use crate::transaction::Transaction;
use crate::write::{self, Deletion, Place, Writer};

pub(crate) fn reconcile_claim(transaction: &mut Transaction, key: &Key) -> Result<()> {
    serve_claim(transaction, key, Consumer::Unknown)
}

/// Whether somebody is known to need a claim now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consumer {
    Known,
    Unknown,
}

fn serve_claim(transaction: &mut Transaction, key: &Key, consumer: Consumer) -> Result<()> {
    let Some(claim) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if is_deleting(&claim) {
        if users(transaction, &claim) == 0 {
            let kind = transaction.builtin("", "persistentvolumeclaims")?;
            release(transaction, &kind, &claim, "kubernetes.io/pvc-protection");
        }
        return Ok(());
    }
    if is_bound(&claim) {
        return Ok(());
    }
    if transaction
        .state
        .troubles
        .is_unbound(namespace(&claim), name(&claim))
    {
        let message = "waiting for a volume to be created, either by external provisioner or manually created by system \
                       administrator";
        return events::tell(transaction, &claim, &events::EXTERNAL_PROVISIONING, message);
    }
    let class_name = text_at(&claim, "/spec/storageClassName").to_owned();
    let wanted = text_at(&claim, "/spec/volumeName").to_owned();
    let volume = if !wanted.is_empty() {
        transaction.state.find("persistentvolumes", "", &wanted).cloned()
    } else if let Some(volume) = free_volume(transaction, &claim) {
        Some(volume)
    } else {
        let Some(class) = transaction
            .state
            .find("storageclasses.storage.k8s.io", "", &class_name)
            .cloned()
        else {
            return Ok(());
        };
        if waits_for_consumer(&class) && consumer == Consumer::Unknown && users(transaction, &claim) == 0 {
            return Ok(());
        }
        Some(provision(transaction, &claim, &class)?)
    };
    match volume {
        Some(volume) => bind(transaction, &claim, &volume),
        None => Ok(()),
    }
}

/// How many pods use a claim. One that has no node yet uses nothing.
fn users(transaction: &Transaction, claim: &Value) -> usize {
    transaction
        .state
        .collection("pods")
        .into_iter()
        .flat_map(|pods| pods.range(namespace(claim), None))
        .filter(|(_, pod)| !text_at(pod, "/spec/nodeName").is_empty() && uses(pod, name(claim)))
        .count()
}

/// Whether a pod uses a claim of its namespace.
pub(crate) fn uses(pod: &Value, claim: &str) -> bool {
    claims_of(pod).any(|(_, used)| used == claim)
}

fn is_bound(claim: &Value) -> bool {
    // Copies may lack the status; the scheduler looks at the annotation.
    let completed = claim
        .pointer("/metadata/annotations")
        .is_some_and(|all| all.get("pv.kubernetes.io/bind-completed").is_some());
    text_at(claim, "/status/phase") == "Bound"
        || (completed && !text_at(claim, "/spec/volumeName").is_empty())
}

fn waits_for_consumer(class: &Value) -> bool {
    text(class, "volumeBindingMode") == "WaitForFirstConsumer"
}

/// What is wrong with the claims of a pod, in the words of the scheduler. Those that are bound when a pod comes hold nobody
/// up.
pub(crate) fn obstacle(transaction: &Transaction, pod: &Value) -> Option<String> {
    let state = &transaction.state;
    let mut waits = false;
    for (_, used) in claims_of(pod) {
        let Some(claim) = state.find("persistentvolumeclaims", namespace(pod), used) else {
            return Some(format!("persistentvolumeclaim {used:?} not found"));
        };
        if is_deleting(claim) {
            return Some(format!("persistentvolumeclaim {used:?} is being deleted"));
        }
        let class = text_at(claim, "/spec/storageClassName");
        let class = state.find("storageclasses.storage.k8s.io", "", class);
        let comes = text_at(claim, "/spec/volumeName").is_empty()
            && class.is_some_and(|class| waits_for_consumer(class))
            && !state.troubles.is_unbound(namespace(pod), used);
        waits |= !is_bound(claim) && !comes;
    }
    waits.then(|| "pod has unbound immediate PersistentVolumeClaims".to_owned())
}

/// What keeps a kubelet from mounting the claims of a pod: the volume, and why.
pub(crate) fn unmountable(transaction: &Transaction, pod: &Value) -> Option<(String, String)> {
    claims_of(pod).find_map(|(volume, used)| {
        let why = match transaction
            .state
            .find("persistentvolumeclaims", namespace(pod), used)
        {
            None => format!("failed to fetch PVC from API server: persistentvolumeclaims {used:?} not found"),
            Some(claim) if !is_bound(claim) => "PVC is not bound".to_owned(),
            Some(_) => return None,
        };
        let why = format!("error processing PVC {}/{used}: {why}", namespace(pod));
        Some((volume.to_owned(), why))
    })
}

/// Binds what waited for a pod, which has a node now.
pub(crate) fn provide(transaction: &mut Transaction, pod: &Value) -> Result<()> {
    follow(transaction, pod, Consumer::Known)
}

/// The volumes of a pod that are claims: their names, and those of the claims.
fn claims_of(pod: &Value) -> impl Iterator<Item = (&str, &str)> {
    list_at(pod, "/spec/volumes")
        .iter()
        .map(|volume| {
            (
                text(volume, "name"),
                text_at(volume, "/persistentVolumeClaim/claimName"),
            )
        })
        .filter(|(_, claim)| !claim.is_empty())
}

/// A volume of the same class that is there for the taking.
fn free_volume(transaction: &Transaction, claim: &Value) -> Option<Arc<Value>> {
    let volumes = transaction.state.collection("persistentvolumes")?;
    volumes
        .iter()
        .map(|(_, volume)| volume)
        .find(|volume| {
            let reserved = text_at(volume, "/spec/claimRef/name") == name(claim)
                && text_at(volume, "/spec/claimRef/namespace") == namespace(claim)
                && matches!(text_at(volume, "/spec/claimRef/uid"), owner if owner.is_empty() || owner == uid(claim));
            let available = text_at(volume, "/status/phase") == "Available"
                && volume.pointer("/spec/claimRef").is_none()
                && text_at(volume, "/spec/storageClassName") == text_at(claim, "/spec/storageClassName");
            reserved || available
        })
        .cloned()
}

fn provision(transaction: &mut Transaction, claim: &Value, class: &Value) -> Result<Arc<Value>> {
    let kind = transaction.builtin("", "persistentvolumes")?;
    let volume_name = format!("pvc-{}", uid(claim));
    let provisioner = text(class, "provisioner");
    let policy = match text(class, "reclaimPolicy") {
        "" => "Delete",
        given => given,
    };
    let volume = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name,
            "annotations": { "pv.kubernetes.io/provisioned-by": provisioner },
        },
        "spec": {
            "accessModes": claim.pointer("/spec/accessModes").cloned().unwrap_or_default(),
            "capacity": { "storage": text_at(claim, "/spec/resources/requests/storage") },
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": namespace(claim),
                "name": name(claim),
                "uid": uid(claim),
            },
            "hostPath": { "path": format!("/sandbox/{}", uid(claim)), "type": "" },
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": name(class),
            "volumeMode": "Filesystem",
        },
    });
    create(transaction, &kind, volume, Writer::CONTROLLER)
}

fn bind(transaction: &mut Transaction, claim: &Arc<Value>, volume: &Arc<Value>) -> Result<()> {
    let volumes = transaction.builtin("", "persistentvolumes")?;
    let claims = transaction.builtin("", "persistentvolumeclaims")?;
    let mut next = Value::clone(volume);
    let spec = child(&mut next, "spec");
    spec.entry("claimRef").or_insert_with(|| {
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": namespace(claim),
            "name": name(claim),
            "uid": uid(claim),
        })
    });
    child(&mut next, "status").insert("phase".into(), "Bound".into());
    write_status(transaction, &volumes, volume, next, Writer::CONTROLLER);
    let mut next = Value::clone(claim);
    child(&mut next, "spec").insert("volumeName".into(), name(volume).into());
    let annotations = child(&mut next, "metadata")
        .entry("annotations")
        .or_insert_with(|| json!({}));
    let annotations = object(annotations);
    annotations.insert("pv.kubernetes.io/bind-completed".into(), "yes".into());
    annotations.insert("pv.kubernetes.io/bound-by-controller".into(), "yes".into());
    let provisioner = volume
        .pointer("/metadata/annotations")
        .map_or("", |all| text(all, "pv.kubernetes.io/provisioned-by"));
    if !provisioner.is_empty() {
        annotations.insert(
            "volume.beta.kubernetes.io/storage-provisioner".into(),
            provisioner.into(),
        );
    }
    let status = child(&mut next, "status");
    status.insert("phase".into(), "Bound".into());
    status.insert(
        "accessModes".into(),
        volume.pointer("/spec/accessModes").cloned().unwrap_or_default(),
    );
    status.insert(
        "capacity".into(),
        volume.pointer("/spec/capacity").cloned().unwrap_or_default(),
    );
    write_status(transaction, &claims, claim, next, Writer::CONTROLLER);
    Ok(())
}

/// A volume that nobody has claimed is available; one that is going away goes when it is not bound.
pub(crate) fn reconcile_volume(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(volume) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    let kind = transaction.builtin("", "persistentvolumes")?;
    let phase = text_at(&volume, "/status/phase");
    if is_deleting(&volume) {
        if phase != "Bound" {
            release(transaction, &kind, &volume, "kubernetes.io/pv-protection");
        }
        return Ok(());
    }
    if phase == "Pending" && volume.pointer("/spec/claimRef").is_none() {
        let mut next = Value::clone(&volume);
        child(&mut next, "status").insert("phase".into(), "Available".into());
        write_status(transaction, &kind, &volume, next, Writer::CONTROLLER);
        retry_claims(transaction)?;
    }
    Ok(())
}

/// Lets the claims that wait look again: there is another volume or class.
pub(crate) fn retry_claims(transaction: &mut Transaction) -> Result<()> {
    let claims = transaction.builtin("", "persistentvolumeclaims")?;
    let waiting: Vec<_> = transaction
        .state
        .objects_of(&claims)
        .iter()
        .filter(|(_, claim)| text_at(claim, "/status/phase") == "Pending")
        .map(|(_, claim)| Key::of(&claims, claim))
        .collect();
    for claim in waiting {
        reconcile_claim(transaction, &claim)?;
    }
    Ok(())
}

/// What becomes of the volume of a claim that is gone.
pub(crate) fn after_claim(transaction: &mut Transaction, claim: &Value) -> Result<()> {
    let volume_name = text_at(claim, "/spec/volumeName");
    let Some(volume) = transaction
        .state
        .find("persistentvolumes", "", volume_name)
        .cloned()
    else {
        return Ok(());
    };
    if volume_name.is_empty() || text_at(&volume, "/spec/claimRef/uid") != uid(claim) {
        return Ok(());
    }
    let kind = transaction.builtin("", "persistentvolumes")?;
    let mut next = Value::clone(&volume);
    child(&mut next, "status").insert("phase".into(), "Released".into());
    let released = write_status(transaction, &kind, &volume, next, Writer::CONTROLLER);
    if text_at(&released, "/spec/persistentVolumeReclaimPolicy") == "Delete" {
        write::delete(
            transaction,
            Place::stored(&kind),
            &released,
            &Deletion::background(),
            Writer::CONTROLLER,
        )?;
    }
    Ok(())
}

/// The claims that a pod uses: one may wait for it, or go with it.
pub(crate) fn follow_pod(transaction: &mut Transaction, pod: &Value) -> Result<()> {
    follow(transaction, pod, Consumer::Unknown)
}

fn follow(transaction: &mut Transaction, pod: &Value, consumer: Consumer) -> Result<()> {
    let used: Vec<_> = claims_of(pod).map(|(_, claim)| claim.to_owned()).collect();
    if used.is_empty() {
        return Ok(());
    }
    let kind = transaction.builtin("", "persistentvolumeclaims")?;
    for claim in used {
        serve_claim(transaction, &Key::new(&kind, namespace(pod), &claim), consumer)?;
    }
    Ok(())
}

fn release(
    transaction: &mut Transaction,
    kind: &Arc<crate::kinds::Resource>,
    held: &Arc<Value>,
    finalizer: &str,
) {
    let left: Vec<_> = list_at(held, "/metadata/finalizers")
        .iter()
        .filter(|one| *one != finalizer)
        .cloned()
        .collect();
    let mut next = Value::clone(held);
    let metadata = child(&mut next, "metadata");
    if left.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), left.into());
    }
    write_status(transaction, kind, held, next, Writer::CONTROLLER);
}
