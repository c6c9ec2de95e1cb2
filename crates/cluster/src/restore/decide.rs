//! What is to be written to bring objects back. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use object::{Object, ObjectKey, diff};
use serde_json::{Map, Value};

use super::{Action, Left, Objects, Restore, Selection, Step, Write};
use crate::{FIELD_MANAGER, store::is_part};

const EXTENSIONS: &str = "apiextensions.k8s.io";
const DEFINITION: &str = "CustomResourceDefinition";
const RBAC: &str = "rbac.authorization.k8s.io";
const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const SERVICE_ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that controllers count with.
const VOLATILE: [&str; 1] = ["deployment.kubernetes.io/revision"];
/// Groups whose status is written by controllers alone.
const BUILT_IN: [&str; 4] = ["", "apps", "batch", "policy"];

/// The stage in which CustomResourceDefinitions come; what follows waits for them.
pub(super) const DEFINITIONS: u8 = 0;

/// Compares objects of a backup that was made `at` some time with what is there.
pub fn decide(backup: &Objects, live: &Objects, selection: &Selection, at: Timestamp) -> Restore {
    let mut restore = Restore::default();
    let mut wanted = Vec::new();
    let needed = needed(backup, live, selection);
    let is_asked_for = |key: &ObjectKey| selection.holds(key) || needed.contains(key);
    for (key, object) in backup.iter().filter(|(key, _)| is_asked_for(key)) {
        match reason_to_leave(object, live.get(key), live) {
            Some(Reason::Silent) => {}
            Some(Reason::Said(reason)) => restore.left.push(Left {
                object: key.clone(),
                reason,
            }),
            None => wanted.push((key, object)),
        }
    }
    let created: BTreeSet<&ObjectKey> = wanted
        .iter()
        .map(|(key, _)| *key)
        .filter(|key| !live.contains_key(*key))
        .collect();
    for (key, object) in wanted {
        match step(key, object, backup, live, &created) {
            Some(mut step) => {
                if !selection.holds(key) {
                    step.notes.push("what was asked for needs it".to_owned());
                }
                if let Some(there) = live.get(key) {
                    step.conflicts = changed_since(there, at, has_plain_status(there, backup, live));
                }
                restore.steps.push(step);
            }
            None => restore.unchanged += 1,
        }
    }
    restore
        .steps
        .sort_by(|a, b| (a.write.stage, &a.object).cmp(&(b.write.stage, &b.object)));
    restore
}

/// Namespaces and CustomResourceDefinitions that are gone, and without which what was selected cannot be created.
fn needed(backup: &Objects, live: &Objects, selection: &Selection) -> BTreeSet<ObjectKey> {
    let gone = backup
        .iter()
        .filter(|(key, _)| selection.holds(key) && !live.contains_key(*key));
    let needs = gone.flat_map(|(key, object)| {
        let namespace = key
            .namespace
            .as_deref()
            .map(|name| ObjectKey::cluster("", "Namespace", name));
        let definition = definition_of(object, backup).map(Object::key);
        namespace.into_iter().chain(definition)
    });
    needs
        .filter(|key| backup.contains_key(key) && !live.contains_key(key))
        .collect()
}

/// Who wrote an object after a backup was made, but for us and for what controllers count; in words.
fn changed_since(there: &Object, at: Timestamp, with_status: bool) -> Vec<String> {
    let entries = there.get("/metadata/managedFields").and_then(Value::as_array);
    // Its times are whole seconds.
    let at = at.as_second();
    entries
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let text = |name: &str| entry.get(name).and_then(Value::as_str);
            let (manager, time) = (text("manager")?, text("time")?);
            let is_later = time.parse::<Timestamp>().is_ok_and(|time| time.as_second() >= at);
            let counts = is_later
                && manager != FIELD_MANAGER
                && entry
                    .get("fieldsV1")
                    .is_some_and(|fields| tells(fields, with_status));
            counts.then(|| format!("{manager} changed it at {time}, after the backup was made"))
        })
        .collect()
}

/// Whether fields are among those that a restore compares.
fn tells(fields: &Value, with_status: bool) -> bool {
    let Some(map) = fields.as_object() else {
        return false;
    };
    map.iter().any(|(name, below)| match name.as_str() {
        "f:status" => with_status,
        "f:metadata" => below.as_object().is_some_and(|metadata| {
            metadata.iter().any(|(name, below)| match name.as_str() {
                "f:annotations" => below.as_object().is_some_and(|annotations| {
                    let mut names = annotations.keys().filter_map(|name| name.strip_prefix("f:"));
                    names.any(|name| !VOLATILE.contains(&name))
                }),
                "." => false,
                _ => true,
            })
        }),
        _ => true,
    })
}

enum Reason {
    /// Nobody expects it to come back.
    Silent,
    Said(String),
}

/// Why an object is not for us to bring back.
fn reason_to_leave(object: &Object, there: Option<&Object>, live: &Objects) -> Option<Reason> {
    let said = |text: &str| Some(Reason::Said(text.to_owned()));
    match (object.group(), object.kind()) {
        ("", "Node" | "Pod" | "Event") | ("apps", "ReplicaSet" | "ControllerRevision") => {
            return Some(Reason::Silent);
        }
        ("", "Endpoints") | ("discovery.k8s.io", _) => return Some(Reason::Silent),
        ("apiregistration.k8s.io", "APIService")
            if object
                .label("kube-aggregator.kubernetes.io/automanaged")
                .is_some() =>
        {
            return Some(Reason::Silent);
        }
        ("batch", "Job") if there.is_none() => return said("a Job that is created again would run again"),
        _ if is_part(object) => return Some(Reason::Silent),
        ("", "Secret") if object.get_str("/type") == Some("kubernetes.io/service-account-token") => {
            let account = object.annotation(SERVICE_ACCOUNT_NAME).unwrap_or_default();
            let account = ObjectKey::namespaced("", "ServiceAccount", object.namespace()?, account);
            let uid = live.get(&account).and_then(|account| account.uid());
            if uid.is_none() || uid != object.annotation(SERVICE_ACCOUNT_UID) {
                return said(
                    "a token ends with its ServiceAccount; the cluster makes a new one for a new one",
                );
            }
        }
        _ => {}
    }
    if object.annotation(LEADER).is_some() {
        return Some(Reason::Silent);
    }
    if object.is_being_deleted() {
        return said("it was being deleted when the backup was made");
    }
    let there = there?;
    if there.is_being_deleted() {
        return said("it is being deleted; restore it once it is gone");
    }
    if there.api_version() != object.api_version() {
        return Some(Reason::Said(format!(
            "the cluster no longer serves {}",
            object.api_version()
        )));
    }
    None
}

fn step(
    key: &ObjectKey,
    object: &Object,
    backup: &Objects,
    live: &Objects,
    created: &BTreeSet<&ObjectKey>,
) -> Option<Step> {
    let there = live.get(key);
    let is_plain = has_plain_status(object, backup, live);
    let mut notes = Vec::new();
    let mut body = comparable(object, is_plain);
    if let Some(there) = there.filter(|_| key.is("", "ServiceAccount")) {
        keep_tokens(&mut body, there);
    }
    let mut owners = Vec::new();
    let mut shown = body.clone();
    resolve_owners(
        object,
        &mut body,
        &mut shown,
        &mut owners,
        &mut notes,
        live,
        created,
    );
    let status = (!is_plain && is_custom(object))
        .then(|| object.get("/status").cloned())
        .flatten()
        .filter(|status| status.as_object().is_none_or(|map| !map.is_empty()));

    let Some(there) = there else {
        prepare_creation(object, &mut body, &mut notes);
        return Some(Step {
            object: key.clone(),
            action: Action::Create,
            changes: Vec::new(),
            conflicts: Vec::new(),
            notes,
            write: Write {
                stage: stage(key),
                body,
                status,
                live: None,
                owners,
            },
        });
    };
    let mut changes = diff::changes(&comparable(there, is_plain), &shown);
    let status = status.filter(|status| there.get("/status") != Some(status));
    if let Some(status) = &status {
        let change = |now: &Value| {
            let wrap = |status: &Value| serde_json::json!({ "status": status });
            diff::changes(&wrap(now), &wrap(status))
        };
        changes.extend(change(there.get("/status").unwrap_or(&Value::Null)));
    }
    if changes.is_empty() {
        return None;
    }
    Some(Step {
        object: key.clone(),
        action: Action::Change,
        changes: changes.into_iter().map(|change| change.redacted(key)).collect(),
        conflicts: Vec::new(),
        notes,
        write: Write {
            stage: stage(key),
            body,
            status,
            live: Some(there.clone()),
            owners,
        },
    })
}

/// What is compared: what was declared, without what controllers count, and the status where it is a plain field.
pub(super) fn comparable(object: &Object, with_status: bool) -> Value {
    let mut value = object.declared();
    if with_status && let Some(status) = object.get("/status") {
        value["status"] = status.clone();
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("deletionTimestamp");
        metadata.remove("deletionGracePeriodSeconds");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|name, _| !VOLATILE.contains(&name.as_str()));
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    value
}

fn is_custom(object: &Object) -> bool {
    let group = object.group();
    !BUILT_IN.contains(&group) && !group.ends_with(".k8s.io")
}

/// Whether the status is written like any other field: its definition makes no resource of its own of it.
pub(super) fn has_plain_status(object: &Object, backup: &Objects, live: &Objects) -> bool {
    if !is_custom(object) && object.group() != "app.k8s.io" {
        return false;
    }
    let Some(definition) = definition_of(object, live).or_else(|| definition_of(object, backup)) else {
        return false;
    };
    let versions = definition.get("/spec/versions").and_then(Value::as_array);
    let of_version = versions
        .into_iter()
        .flatten()
        .find(|v| v.get("name").and_then(Value::as_str) == Some(object.version()));
    of_version.is_some_and(|v| v.pointer("/subresources/status").is_none())
        && definition.get("/spec/subresources/status").is_none()
}

/// The CustomResourceDefinition of an object's kind.
fn definition_of<'a>(object: &Object, objects: &'a Objects) -> Option<&'a Object> {
    let from = ObjectKey::cluster(EXTENSIONS, DEFINITION, "");
    let definitions = objects
        .range(from..)
        .take_while(|(key, _)| key.is(EXTENSIONS, DEFINITION))
        .map(|(_, definition)| definition);
    definitions.into_iter().find(|definition| {
        definition.get_str("/spec/group") == Some(object.group())
            && definition.get_str("/spec/names/kind") == Some(object.kind())
    })
}

/// References to owners hold UIDs, which are others once an owner was created again.
fn resolve_owners(
    object: &Object,
    body: &mut Value,
    shown: &mut Value,
    later: &mut Vec<Value>,
    notes: &mut Vec<String>,
    live: &Objects,
    created: &BTreeSet<&ObjectKey>,
) {
    let Some(references) = object.get("/metadata/ownerReferences").and_then(Value::as_array) else {
        return;
    };
    let (mut now, mut shown_now) = (Vec::new(), Vec::new());
    for reference in references {
        let keys = owner_keys(object, reference);
        let mut reference = reference.clone();
        if let Some(uid) = keys.iter().find_map(|key| live.get(key)?.uid()) {
            reference["uid"] = uid.into();
            now.push(reference.clone());
            shown_now.push(reference);
        } else if keys.iter().any(|key| created.contains(key)) {
            reference["uid"] = "(new)".into();
            shown_now.push(reference.clone());
            later.push(reference);
        } else if let Some(key) = keys.last() {
            notes.push(format!("its owner {key} is gone, so it comes back without one"));
        }
    }
    for (value, references) in [(body, now), (shown, shown_now)] {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            if references.is_empty() {
                metadata.remove("ownerReferences");
            } else {
                metadata.insert("ownerReferences".into(), references.into());
            }
        }
    }
}

/// What an owner may be called: it is in the same namespace, or in none.
pub(super) fn owner_keys(object: &Object, reference: &Value) -> Vec<ObjectKey> {
    let text = |name: &str| reference.get(name).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    let inside = object
        .namespace()
        .map(|namespace| ObjectKey::namespaced(group, text("kind"), namespace, text("name")));
    inside
        .into_iter()
        .chain([ObjectKey::cluster(group, text("kind"), text("name"))])
        .collect()
}

/// A ServiceAccount's tokens are the cluster's to name: those that are there stay.
fn keep_tokens(body: &mut Value, there: &Object) {
    let prefix = format!("{}-token-", there.name());
    let is_token = |secret: &&Value| {
        let name = secret.get("name").and_then(Value::as_str).unwrap_or_default();
        name.starts_with(&prefix)
    };
    let list = |value: Option<&Value>| -> Vec<Value> {
        let secrets = value.and_then(Value::as_array);
        secrets.cloned().unwrap_or_default()
    };
    let now = list(there.get("/secrets"));
    let mut secrets: Vec<Value> = list(body.get("secrets"));
    secrets.retain(|secret| !is_token(&secret));
    if now.iter().filter(|secret| !is_token(secret)).eq(&secrets) {
        secrets = now;
    } else {
        secrets.extend(now.iter().filter(is_token).cloned());
    }
    if let Some(map) = body.as_object_mut() {
        if secrets.is_empty() {
            map.remove("secrets");
        } else {
            map.insert("secrets".into(), secrets.into());
        }
    }
}

/// Takes out of a new object what only made sense for the old one.
fn prepare_creation(object: &Object, body: &mut Value, notes: &mut Vec<String>) {
    let remove = |value: &mut Value, pointer: &str, name: &str| {
        value
            .pointer_mut(pointer)
            .and_then(Value::as_object_mut)
            .and_then(|map: &mut Map<String, Value>| map.remove(name))
    };
    match (object.group(), object.kind()) {
        ("", "ServiceAccount") => {
            let prefix = format!("{}-token-", object.name());
            if let Some(secrets) = body.get_mut("secrets").and_then(Value::as_array_mut) {
                secrets.retain(|secret| {
                    let name = secret.get("name").and_then(Value::as_str).unwrap_or_default();
                    !name.starts_with(&prefix)
                });
                if secrets.is_empty() {
                    remove(body, "", "secrets");
                }
            }
        }
        ("", "PersistentVolumeClaim") => {
            if remove(body, "/spec", "volumeName").is_some() {
                notes.push("it gets a new, empty volume: volumes are not in a backup".to_owned());
            }
            for name in [
                "pv.kubernetes.io/bind-completed",
                "pv.kubernetes.io/bound-by-controller",
                "volume.kubernetes.io/selected-node",
            ] {
                remove(body, "/metadata/annotations", name);
            }
        }
        _ => {}
    }
}

/// What others rely on comes first; what stands in front of writes comes last.
fn stage(key: &ObjectKey) -> u8 {
    match (key.group.as_str(), key.kind.as_str()) {
        ("", "Namespace") | ("apiextensions.k8s.io", _) => DEFINITIONS,
        ("", "ServiceAccount") | ("storage.k8s.io", _) => 1,
        ("", _) => 2,
        (RBAC, "ClusterRole" | "Role") => 3,
        (RBAC, _) => 4,
        ("apps" | "batch", _) => 6,
        ("apiregistration.k8s.io", _) => 7,
        ("admissionregistration.k8s.io", _) => 8,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk(objects: &[Value]) -> Objects {
        objects
            .iter()
            .map(|value| Object::try_from(value.clone()).unwrap())
            .map(|object| (object.key(), object))
            .collect()
    }

    fn mk_object(kind: &str, name: &str, uid: &str) -> Value {
        json!({"apiVersion": "example.org/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "n", "uid": uid, "resourceVersion": "7"}, "spec": {"a": 1}})
    }

    fn lines(restore: &Restore) -> Vec<String> {
        restore
            .steps
            .iter()
            .map(|step| format!("{:?} {}", step.action, step.object))
            .collect()
    }

    #[test]
    fn what_is_as_it_was_is_not_written() {
        let before = mk_object("A", "a", "1");
        let mut now = before.clone();
        now["metadata"]["resourceVersion"] = "9".into();
        now["metadata"]["managedFields"] = json!([{"manager": "x"}]);
        now["metadata"]["generation"] = 3.into();
        let restore = decide(
            &mk(std::slice::from_ref(&before)),
            &mk(&[now.clone()]),
            &Selection::default(),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!((restore.steps.len(), restore.unchanged), (0, 1));
        now["spec"]["a"] = 2.into();
        now["spec"]["password"] = "hunter2".into();
        let restore = decide(
            &mk(&[before]),
            &mk(&[now, mk_object("A", "new", "2")]),
            &Selection::default(),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(lines(&restore), ["Change A n/a"]);
        let paths: Vec<_> = restore.steps[0].changes.iter().map(|c| c.path.as_str()).collect();
        assert_eq!(paths, ["spec.a", "spec.password"]);
        let shown = format!("{restore:?}{}", serde_json::to_string(&restore).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn owners_are_found_again() {
        let mut owned = mk_object("B", "b", "2");
        owned["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "example.org/v1", "kind": "A", "name": "a", "uid": "1"}]);
        let owner = mk_object("A", "a", "1");
        let references = |live: &[Value], backup: &[Value]| {
            let restore = decide(
                &mk(backup),
                &mk(live),
                &Selection::default(),
                Timestamp::UNIX_EPOCH,
            );
            let step = restore
                .steps
                .iter()
                .find(|s| s.object.kind == "B")
                .unwrap()
                .clone();
            let uid = step
                .write
                .body
                .pointer("/metadata/ownerReferences/0/uid")
                .cloned();
            (uid, step.write.owners.len(), step.notes.len())
        };
        let both = [owner, owned.clone()];
        let again = mk_object("A", "a", "9");
        assert_eq!(
            references(&[again], &both),
            (Some("9".into()), 0, 0),
            "the live owner's"
        );
        assert_eq!(references(&[], &both), (None, 1, 0), "once the owner is there");
        assert_eq!(references(&[], &[owned]), (None, 0, 1), "without its owner");
    }

    #[test]
    fn what_the_cluster_makes_itself_is_left() {
        let core = |kind: &str, more: Value| {
            let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a", "namespace": "n", "uid": "1"}});
            object
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            object
        };
        let check = |object: Value, live: &[Value], steps: usize, left: usize| {
            let kind = object["kind"].clone();
            let restore = decide(
                &mk(&[object]),
                &mk(live),
                &Selection::default(),
                Timestamp::UNIX_EPOCH,
            );
            assert_eq!((restore.steps.len(), restore.left.len()), (steps, left), "{kind}");
        };
        check(core("Pod", json!({})), &[], 0, 0);
        check(core("ConfigMap", json!({})), &[], 1, 0);
        let token = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": "t", "namespace": "n", "annotations": {SERVICE_ACCOUNT_NAME: "a", SERVICE_ACCOUNT_UID: "1"}}});
        let account = |uid: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "n", "uid": uid}});
        check(token.clone(), &[], 0, 1);
        check(token.clone(), &[account("2")], 0, 1);
        check(token, &[account("1")], 1, 0);
    }

    #[test]
    fn tokens_that_are_there_stay() {
        let account = |secrets: &[&str]| {
            let secrets: Vec<_> = secrets.iter().map(|name| json!({ "name": name })).collect();
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "n"}, "secrets": secrets})
        };
        let check = |saved: &[&str], there: &[&str], expect: Option<&[&str]>| {
            let restore = decide(
                &mk(&[account(saved)]),
                &mk(&[account(there)]),
                &Selection::default(),
                Timestamp::UNIX_EPOCH,
            );
            let written = restore
                .steps
                .first()
                .map(|step| step.write.body["secrets"].clone());
            assert_eq!(written, expect.map(|secrets| account(secrets)["secrets"].clone()));
        };
        check(&["a-token-old"], &["a-token-new"], None);
        check(&["a-token-old", "mine"], &["mine", "a-token-new"], None);
        check(
            &["a-token-old", "mine"],
            &["a-token-new"],
            Some(&["mine", "a-token-new"]),
        );
        check(
            &["a-token-old"],
            &["a-token-new", "other"],
            Some(&["a-token-new"]),
        );
    }

    /// What others wrote since is only undone where that is said.
    #[test]
    fn changes_of_others_since_the_backup_are_conflicts() {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let before = mk_object("A", "a", "1");
        let check = |manager: &str, time: &str, fields: Value, expect: usize| {
            let mut now = before.clone();
            now["spec"]["a"] = 2.into();
            now["metadata"]["managedFields"] =
                json!([{"manager": manager, "time": time, "fieldsV1": fields}]);
            let restore = decide(
                &mk(std::slice::from_ref(&before)),
                &mk(&[now]),
                &Selection::default(),
                at,
            );
            assert_eq!(
                restore.steps[0].conflicts.len(),
                expect,
                "{:?}",
                restore.steps[0].conflicts
            );
        };
        let (earlier, later) = ("2025-12-31T23:59:59Z", "2026-01-01T00:00:01Z");
        let spec = json!({"f:spec": {"f:a": {}}});
        check("kubectl-edit", later, spec.clone(), 1);
        check("kubectl-edit", earlier, spec.clone(), 0);
        check(FIELD_MANAGER, later, spec, 0);
        let counted = json!({"f:status": {}, "f:metadata": {"f:annotations": {"f:deployment.kubernetes.io/revision": {}}}});
        check("kube-controller-manager", later, counted, 0);
    }

    #[test]
    fn what_the_selected_need_comes_along() {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "as.example.org"}, "spec": {"group": "example.org", "names": {"kind": "A"}}});
        let backup = mk(&[
            namespace.clone(),
            definition.clone(),
            mk_object("A", "a", "1"),
            mk_object("B", "b", "2"),
        ]);
        let selection = Selection {
            kinds: vec!["A".to_owned()],
            ..Selection::default()
        };
        let check = |live: &[Value], expect: &[&str]| {
            let restore = decide(&backup, &mk(live), &selection, Timestamp::UNIX_EPOCH);
            assert_eq!(lines(&restore), expect);
        };
        check(
            &[],
            &[
                "Create Namespace n",
                "Create CustomResourceDefinition as.example.org",
                "Create A n/a",
            ],
        );
        check(&[namespace.clone(), definition.clone()], &["Create A n/a"]);
        check(&[mk_object("A", "a", "1")], &[]);
    }

    /// Whatever others rely on is there first.
    #[test]
    fn what_others_rely_on_comes_first() {
        let order = [
            ("apiextensions.k8s.io", "CustomResourceDefinition"),
            ("", "ServiceAccount"),
            ("", "Secret"),
            (RBAC, "ClusterRole"),
            (RBAC, "RoleBinding"),
            ("iam.kubesphere.io", "User"),
            ("apps", "Deployment"),
            ("apiregistration.k8s.io", "APIService"),
            ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        ];
        let stages = order.map(|(group, kind)| stage(&ObjectKey::cluster(group, kind, "a")));
        assert!(stages.is_sorted_by(|a, b| a < b), "{stages:?}");
        assert_eq!(stage(&ObjectKey::cluster("", "Namespace", "a")), stages[0]);
    }

    #[test]
    fn a_selection_holds_what_it_names() {
        let key = ObjectKey::namespaced(RBAC, "Role", "n", "a");
        let check = |kinds: &[&str], namespaces: &[&str], names: &[&str], expect: bool| {
            let texts = |list: &[&str]| list.iter().map(|&t| t.to_owned()).collect();
            let selection = Selection {
                kinds: texts(kinds),
                namespaces: texts(namespaces),
                names: texts(names),
            };
            assert_eq!(selection.holds(&key), expect, "{selection:?}");
        };
        check(&[], &[], &[], true);
        check(&["role"], &["m", "n"], &["a"], true);
        check(&["Role.rbac.authorization.k8s.io"], &[], &[], true);
        check(&["RoleBinding"], &[], &[], false);
        check(&[], &["m"], &[], false);
        check(&[], &[], &["b"], false);
    }
}
