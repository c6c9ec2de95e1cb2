//! What the workload controllers have in common: templates, owners, pods.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::controllers::{create, write_status};
use crate::json::{child, is_deleting, list_at, name, namespace, number_at, object, text, text_at, uid};
use crate::kinds::Resource;
use crate::selector::Labels;
use crate::status::Result;
use crate::store::{Key, suffix};
use crate::transaction::Transaction;
use crate::write::{self, Deletion, Place, Writer};

/// A reference to the controller of an object.
pub(crate) fn owner_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": text(owner, "apiVersion"),
        "kind": text(owner, "kind"),
        "name": name(owner),
        "uid": uid(owner),
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// The reference to the controller, if an object has one.
pub(crate) fn controller_of(object: &Value) -> Option<&Value> {
    list_at(object, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
}

/// The objects of a kind that an owner controls, in the order of their names. Those that nobody controls and the owner's
/// selector matches are adopted.
pub(crate) fn children(
    transaction: &mut Transaction,
    owner: &Value,
    kind: &Arc<Resource>,
) -> Vec<Arc<Value>> {
    if let Some(selector) =
        Labels::of(owner.pointer("/spec/selector")).filter(|selector| !selector.is_empty())
    {
        let orphans: Vec<_> = transaction
            .state
            .objects_of(kind)
            .range(namespace(owner), None)
            .filter(|(_, object)| {
                controller_of(object).is_none() && !is_deleting(object) && selector.matches(object)
            })
            .map(|(_, object)| Arc::clone(object))
            .collect();
        for orphan in orphans {
            let mut next = Value::clone(&orphan);
            let owners = child(&mut next, "metadata")
                .entry("ownerReferences")
                .or_insert_with(|| json!([]));
            if let Some(owners) = owners.as_array_mut() {
                owners.push(owner_reference(owner));
            }
            write_status(transaction, kind, &orphan, next, Writer::CONTROLLER);
        }
    }
    transaction
        .state
        .dependents(uid(owner))
        .iter()
        .filter(|key| key.store == kind.store)
        .filter_map(|key| transaction.state.get(key))
        .filter(|object| controller_of(object).is_some_and(|found| text(found, "uid") == uid(owner)))
        .cloned()
        .collect()
}

/// The pod template of a workload.
pub(crate) fn template(workload: &Value) -> Value {
    workload.pointer("/spec/template").cloned().unwrap_or_default()
}

/// A short name for a template: the same for the same content.
pub(crate) fn hash(template: &Value) -> String {
    let mut sorted = template.clone();
    sorted.sort_all_objects();
    // FNV-1a over the canonical text.
    let hash = sorted
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    suffix(hash, 10)
}

pub(crate) fn set_label(object: &mut Value, key: &str, value: &str) {
    let labels = child(object, "metadata")
        .entry("labels")
        .or_insert_with(|| json!({}));
    self::object(labels).insert(key.to_owned(), value.into());
}

/// The pods of a workload that are not going away.
pub(crate) fn pods(transaction: &mut Transaction, owner: &Value) -> Result<Vec<Arc<Value>>> {
    let kind = transaction.builtin("", "pods")?;
    let mut pods = children(transaction, owner, &kind);
    pods.retain(|pod| !is_deleting(pod) && !is_finished(pod));
    Ok(pods)
}

pub(crate) fn is_finished(pod: &Value) -> bool {
    matches!(text_at(pod, "/status/phase"), "Succeeded" | "Failed")
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    list_at(pod, "/status/conditions")
        .iter()
        .any(|condition| text(condition, "type") == "Ready" && text(condition, "status") == "True")
}

pub(crate) fn count_ready(pods: &[Arc<Value>]) -> i64 {
    i64::try_from(pods.iter().filter(|pod| is_ready(pod)).count()).unwrap_or(i64::MAX)
}

pub(crate) fn count(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}

/// Which way a part of the whole is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounded {
    Up,
    Down,
}

/// A number as it is, or a percentage of the whole. Whatever stands in the percentage, it is no more than a number can hold.
pub(crate) fn amount(value: &Value, whole: i64, rounded: Rounded) -> i64 {
    let Some(percent) = value.as_str() else {
        return value.as_i64().unwrap_or(0);
    };
    let percent: i64 = percent.trim_end_matches('%').parse().unwrap_or(0);
    let parts = whole.saturating_mul(percent);
    match rounded {
        Rounded::Up => parts.saturating_add(99) / 100,
        Rounded::Down => parts / 100,
    }
}

/// A pod made from a template; the caller names it.
pub(crate) fn mk_pod(owner: &Value, template: &Value) -> Value {
    let mut metadata = Map::new();
    for key in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{key}")) {
            metadata.insert(key.into(), value.clone());
        }
    }
    metadata.insert("namespace".into(), namespace(owner).into());
    metadata.insert("generateName".into(), format!("{}-", name(owner)).into());
    metadata.insert("ownerReferences".into(), json!([owner_reference(owner)]));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": template.get("spec").cloned().unwrap_or_default(),
    })
}

pub(crate) fn create_pod(transaction: &mut Transaction, pod: Value) -> Result<Arc<Value>> {
    let kind = transaction.builtin("", "pods")?;
    create(transaction, &kind, pod, Writer::CONTROLLER)
}

pub(crate) fn delete(transaction: &mut Transaction, kind: &Arc<Resource>, object: &Arc<Value>) -> Result<()> {
    write::delete(
        transaction,
        Place::stored(kind),
        object,
        &Deletion::background(),
        Writer::CONTROLLER,
    )?;
    Ok(())
}

pub(crate) fn delete_pod(transaction: &mut Transaction, pod: &Arc<Value>) -> Result<()> {
    let kind = transaction.builtin("", "pods")?;
    delete(transaction, &kind, pod)
}

/// Sets the fields of a status; a zero removes the field where the server leaves zeros out.
pub(crate) fn set_counts(next: &mut Value, counts: &[(&str, i64, bool)]) {
    let status = child(next, "status");
    for (field, value, always) in counts {
        if *value == 0 && !always {
            status.shift_remove(*field);
        } else {
            status.insert((*field).into(), (*value).into());
        }
    }
}

/// The generation that a controller has seen.
pub(crate) fn observe(next: &mut Value) {
    if let Some(generation) = number_at(next, "/metadata/generation") {
        child(next, "status").insert("observedGeneration".into(), generation.into());
    }
}

/// The history of a StatefulSet or DaemonSet: finds the revision that holds its template, or adds one.
pub(crate) struct Revisions {
    /// The name of the revision with the present template.
    pub current: String,
    /// The hash in its labels.
    pub hash: String,
}

pub(crate) fn revise(transaction: &mut Transaction, workload: &Value) -> Result<Revisions> {
    let kind = transaction.builtin("apps", "controllerrevisions")?;
    let template = template(workload);
    let mut revisions = children(transaction, workload, &kind);
    revisions.sort_by_key(|revision| number_at(revision, "/revision").unwrap_or(0));
    let highest = revisions
        .last()
        .and_then(|revision| number_at(revision, "/revision"))
        .unwrap_or(0);
    let hash_of = |revision: &Value| {
        let labels = revision.pointer("/metadata/labels");
        ["controller.kubernetes.io/hash", "controller-revision-hash"]
            .iter()
            .filter_map(|key| labels.map(|labels| text(labels, key)))
            .find(|hash| !hash.is_empty())
            .unwrap_or_default()
            .to_owned()
    };
    let same = revisions.iter().find(|revision| {
        let mut kept = revision
            .pointer("/data/spec/template")
            .cloned()
            .unwrap_or_default();
        object(&mut kept).shift_remove("$patch");
        kept == template
    });
    if let Some(same) = same.cloned() {
        if number_at(&same, "/revision").unwrap_or(0) < highest {
            // Going back makes an old template the newest revision.
            let mut next = Value::clone(&same);
            object(&mut next).insert("revision".into(), (highest + 1).into());
            write_status(transaction, &kind, &same, next, Writer::CONTROLLER);
        }
        return Ok(Revisions {
            current: name(&same).to_owned(),
            hash: hash_of(&same),
        });
    }
    let hash = hash(&template);
    let mut data = template.clone();
    object(&mut data).insert("$patch".into(), "replace".into());
    let mut labels = template.pointer("/metadata/labels").cloned().unwrap_or(json!({}));
    let label = if text(workload, "kind") == "DaemonSet" {
        "controller-revision-hash"
    } else {
        "controller.kubernetes.io/hash"
    };
    object(&mut labels).insert(label.into(), hash.as_str().into());
    let mut metadata = json!({
        "name": format!("{}-{hash}", name(workload)),
        "namespace": namespace(workload),
        "labels": labels,
        "ownerReferences": [owner_reference(workload)],
    });
    if let Some(annotations) = workload.pointer("/metadata/annotations") {
        metadata["annotations"] = annotations.clone();
    }
    let revision = json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata,
        "data": { "spec": { "template": data } },
        "revision": highest + 1,
    });
    let made = create(transaction, &kind, revision, Writer::CONTROLLER)?;
    // The oldest ones that are beyond the limit go.
    let limit = number_at(workload, "/spec/revisionHistoryLimit").unwrap_or(10);
    let surplus = (count(revisions.len()) - limit).max(0);
    for old in revisions.iter().take(usize::try_from(surplus).unwrap_or(0)) {
        delete(transaction, &kind, old)?;
    }
    Ok(Revisions {
        current: name(&made).to_owned(),
        hash,
    })
}

/// Reconciles the controller of an object after a change of the object.
pub(crate) fn owner_key(transaction: &Transaction, object: &Value) -> Option<Key> {
    let owner = controller_of(object)?;
    let group = crate::json::group_of(text(owner, "apiVersion"));
    let resource = transaction.builtins.find_kind(group, text(owner, "kind"))?;
    let key = Key::new(resource, namespace(object), text(owner, "name"));
    transaction
        .state
        .get(&key)
        .filter(|found| uid(found) == text(owner, "uid"))?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_whole_are_rounded() {
        let check = |value: Value, up: i64, down: i64| {
            assert_eq!(amount(&value, 3, Rounded::Up), up, "{value}");
            assert_eq!(amount(&value, 3, Rounded::Down), down, "{value}");
        };
        check(json!(2), 2, 2);
        check(json!("25%"), 1, 0);
        check(json!("100%"), 3, 3);
        check(json!("0%"), 0, 0);
        check(json!("9223372036854775807%"), i64::MAX / 100, i64::MAX / 100);
    }
}
