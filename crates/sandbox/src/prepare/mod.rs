//! What the server does to single kinds on the way into the store: allocation, fields that clients may not set,
//! validation of what clients may not change.

mod check;
mod definitions;
pub(crate) mod names;
mod network;
mod pods;
mod rules;
mod schedule;
pub(crate) mod services;
mod webhooks;
mod workloads;

pub(crate) use check::{check, check_status, check_update};
use serde_json::{Value, json};

use crate::controllers;
use crate::fields::defaults;
use crate::json::{child, is_deleting, list_at, object, text};
use crate::kinds::Resource;
use crate::status::Result;
use crate::transaction::Transaction;
use crate::write::Place;

/// Prepares an object that is about to be created.
pub(crate) fn create(
    transaction: &mut Transaction,
    resource: &Resource,
    version: &str,
    new: &mut Value,
) -> Result<()> {
    if resource.is_custom() {
        if resource.has_status(version) {
            object(new).shift_remove("status");
        }
        return Ok(());
    }
    if let Some(status) = initial_status(resource) {
        object(new).insert("status".into(), status);
    }
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Pod") => controllers::pods::admit(transaction, resource, new)?,
        ("", "Service") => services::create(transaction, new)?,
        ("", "PersistentVolumeClaim") => {
            protect(new, "kubernetes.io/pvc-protection");
            if new.pointer("/spec/storageClassName").is_none()
                && let Some(class) = default_storage_class(transaction)
            {
                child(new, "spec").insert("storageClassName".into(), class.into());
            }
        }
        ("", "PersistentVolume") => protect(new, "kubernetes.io/pv-protection"),
        ("apps", "DaemonSet") => template_generation(new, 1),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            let stored: Vec<_> = list_at(new, "/spec/versions")
                .iter()
                .find(|version| version.get("storage") == Some(&Value::Bool(true)))
                .map(|version| text(version, "name").to_owned())
                .into_iter()
                .collect();
            object(new).insert(
                "status".into(),
                json!({
                    "acceptedNames": { "kind": "", "plural": "" },
                    "conditions": null,
                    "storedVersions": stored,
                }),
            );
        }
        _ => {}
    }
    defaults::on_create(new, resource.minor);
    if resource.is("batch", "Job") && new.pointer("/metadata/labels").is_none() {
        // A Job without labels of its own shows those of its template.
        if let Some(labels) = new.pointer("/spec/template/metadata/labels").cloned() {
            child(new, "metadata").insert("labels".into(), labels);
        }
    }
    Ok(())
}

/// The status with which an object of a kind starts, whatever the client sent.
fn initial_status(resource: &Resource) -> Option<Value> {
    Some(match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => json!({ "phase": "Active" }),
        ("", "Pod" | "PersistentVolume" | "PersistentVolumeClaim") => json!({ "phase": "Pending" }),
        ("", "Service") | ("networking.k8s.io" | "extensions", "Ingress") => json!({ "loadBalancer": {} }),
        ("", "ReplicationController") | ("apps", "ReplicaSet" | "StatefulSet") => json!({ "replicas": 0 }),
        ("", "ResourceQuota")
        | ("apps", "Deployment")
        | ("batch", "Job" | "CronJob")
        | ("certificates.k8s.io" | "apiregistration.k8s.io", _) => json!({}),
        ("apps", "DaemonSet") => json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
        }),
        ("autoscaling", _) => json!({ "currentReplicas": 0, "desiredReplicas": 0, "conditions": null }),
        ("policy", "PodDisruptionBudget") => json!({
            "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
        }),
        _ => return None,
    })
}

fn protect(new: &mut Value, finalizer: &str) {
    let finalizers = child(new, "metadata")
        .entry("finalizers")
        .or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|one| one == finalizer)
    {
        finalizers.push(finalizer.into());
    }
}

fn default_storage_class(transaction: &Transaction) -> Option<String> {
    let classes = transaction.state.collection("storageclasses.storage.k8s.io")?;
    classes
        .iter()
        .find(|(_, class)| {
            [
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ]
            .iter()
            .any(|annotation| {
                class
                    .pointer("/metadata/annotations")
                    .is_some_and(|all| text(all, annotation) == "true")
            })
        })
        .map(|(_, class)| crate::json::name(class).to_owned())
}

fn template_generation(new: &mut Value, generation: i64) {
    let annotations = child(new, "metadata")
        .entry("annotations")
        .or_insert_with(|| json!({}));
    object(annotations).insert(
        "deprecated.daemonset.template.generation".into(),
        generation.to_string().into(),
    );
}

/// Prepares the next state of an object: what a status update leaves alone, and what an update leaves to status.
pub(crate) fn update(
    transaction: &mut Transaction,
    place: Place,
    old: &Value,
    new: &mut Value,
) -> Result<()> {
    let Place {
        resource,
        version,
        subresource,
    } = place;
    if subresource == "status" {
        // Everything but status (and, for built-in kinds, annotations, which controllers use) is as it was.
        let status = new.get("status").cloned();
        let managed = new.pointer("/metadata/managedFields").cloned();
        let annotations = new.pointer("/metadata/annotations").cloned();
        let finalizers = new.pointer("/metadata/finalizers").cloned();
        *new = old.clone();
        match status {
            Some(status) => {
                object(new).insert("status".into(), status);
            }
            None => {
                object(new).shift_remove("status");
            }
        }
        let metadata = child(new, "metadata");
        let mut set = |key: &str, value: Option<Value>| match value {
            Some(value) => {
                metadata.insert(key.into(), value);
            }
            None => {
                metadata.shift_remove(key);
            }
        };
        set("managedFields", managed);
        if !resource.is_custom() {
            set("annotations", annotations);
            set("finalizers", finalizers);
        }
        return Ok(());
    }
    if resource.has_status(version) {
        match old.get("status") {
            Some(status) => {
                object(new).insert("status".into(), status.clone());
            }
            None => {
                object(new).shift_remove("status");
            }
        }
    }
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") if subresource != "finalize" => {
            // Only the finalize subresource changes these.
            if let Some(finalizers) = old.pointer("/spec/finalizers") {
                child(new, "spec").insert("finalizers".into(), finalizers.clone());
            }
        }
        ("", "Service") => services::update(transaction, old, new)?,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => store_version(new),
        ("batch", "Job") => {
            for pointer in ["selector", "manualSelector"] {
                if let Some(value) = old.pointer(&format!("/spec/{pointer}"))
                    && new.pointer(&format!("/spec/{pointer}")).is_none()
                {
                    child(new, "spec").insert(pointer.into(), value.clone());
                }
            }
        }
        ("apps", "DaemonSet") => {
            let annotation = old
                .pointer("/metadata/annotations")
                .map(|all| text(all, "deprecated.daemonset.template.generation"))
                .and_then(|text| text.parse::<i64>().ok())
                .unwrap_or(1);
            let changed = old.pointer("/spec/template") != new.pointer("/spec/template");
            template_generation(new, annotation + i64::from(changed));
        }
        ("", "PersistentVolumeClaim") => {
            // A client that applies its manifest again does not unbind the claim.
            for key in ["volumeName", "storageClassName", "volumeMode"] {
                if let Some(value) = old.pointer(&format!("/spec/{key}"))
                    && new.pointer(&format!("/spec/{key}")).is_none()
                {
                    child(new, "spec").insert(key.into(), value.clone());
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// A version that is stored from now on joins those that ever were.
fn store_version(definition: &mut Value) {
    let stored: Vec<Value> = list_at(definition, "/spec/versions")
        .iter()
        .filter(|version| version.get("storage") == Some(&Value::Bool(true)))
        .filter_map(|version| version.get("name").cloned())
        .collect();
    let versions = child(definition, "status")
        .entry("storedVersions")
        .or_insert_with(|| json!([]));
    if let Value::Array(versions) = versions {
        for version in stored {
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
    }
}

/// Whether something besides `metadata.finalizers` holds an object; may add the finalizers that the server adds.
pub(crate) fn holds_deletion(resource: &Resource, live: &Value, finalizers: &mut Vec<String>) -> bool {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => !list_at(live, "/spec/finalizers").is_empty(),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            // The objects of its kind go first, whether there are any or not.
            let finalizer = controllers::definitions::FINALIZER;
            if !is_deleting(live) && !finalizers.iter().any(|one| one == finalizer) {
                finalizers.push(finalizer.to_owned());
            }
            false
        }
        _ => false,
    }
}

/// What else shows that an object is being deleted.
pub(crate) fn mark_deleted(resource: &Resource, marked: &mut Value, now: &str) {
    if resource.is("", "Namespace") {
        child(marked, "status").insert("phase".into(), "Terminating".into());
        // Namespaces have no grace period.
        child(marked, "metadata").shift_remove("deletionGracePeriodSeconds");
    } else if resource.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        // Deleting a definition is an affair of its own, without a grace period.
        child(marked, "metadata").shift_remove("deletionGracePeriodSeconds");
        controllers::definitions::set_condition(
            marked,
            "Terminating",
            "True",
            "InstanceDeletionPending",
            "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
            now,
        );
    }
}
