//! Objects and namespaces on their way out: what is written into them is lost, or refused.

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectKey};
use serde_json::Value;

use super::{Context, Operation, Write, count, kubectl, some_of};
use crate::{Finding, Snapshot, reasons};

pub(super) fn check(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = check_objects(snapshot, context);
    findings.extend(check_namespaces(snapshot, context));
    findings
}

/// The release's own objects have to stay; of all others (roles, bindings) it is their owner who deletes them.
fn check_objects(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let dying = |key: &ObjectKey| snapshot.get(key).filter(|o| o.is_being_deleted());
    let mut findings = Vec::new();
    for object in context.rendered {
        let key = object.key();
        if key.is("", "Namespace") {
            continue;
        }
        if let Some(live) = dying(&key) {
            findings.push(
                Finding::blocker(
                    reasons::BEING_DELETED,
                    format!(
                        "it belongs to the release and is being deleted, waiting for {}",
                        finalizers(live)
                    ),
                )
                .hint(finalizer_hint(&key))
                .on(key),
            );
        }
    }
    let rendered: BTreeSet<ObjectKey> = context.rendered.iter().map(|o| o.key()).collect();
    for write in context.writes.iter().filter(|w| w.operation != Operation::Delete) {
        let key = &write.object;
        if rendered.contains(key) || key.is("", "Namespace") {
            continue;
        }
        if let Some(live) = dying(key) {
            findings.push(
                Finding::warning(
                    reasons::BEING_DELETED,
                    format!(
                        "it is to be changed, but is being deleted, waiting for {}",
                        finalizers(live)
                    ),
                )
                .hint(finalizer_hint(key))
                .on(key.clone()),
            );
        }
    }
    findings
}

fn check_namespaces(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut by_namespace: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
    for write in context.writes {
        if let Some(namespace) = &write.object.namespace {
            by_namespace.entry(namespace).or_default().push(write);
        }
    }
    let rendered: Vec<&str> = context.rendered.iter().filter_map(|o| o.namespace()).collect();
    snapshot
        .of_kind("", "Namespace")
        .filter(|namespace| {
            namespace.is_being_deleted() || namespace.get_str("/status/phase") == Some("Terminating")
        })
        .filter_map(|namespace| {
            let name = namespace.name();
            let writes = by_namespace.get(name).map_or(&[][..], Vec::as_slice);
            let creates = writes.iter().any(|w| w.operation == Operation::Create);
            let needed = rendered.contains(&name);
            if writes.is_empty() && !needed {
                return None;
            }
            let waits = format!(
                "namespace {name} is being deleted, waiting for {}",
                finalizers(namespace)
            );
            let finding = if needed || creates {
                Finding::blocker(
                    reasons::NAMESPACE_TERMINATING,
                    format!("{waits}; nothing new can be made in it, and the release needs it"),
                )
            } else {
                Finding::warning(
                    reasons::NAMESPACE_TERMINATING,
                    format!(
                        "{waits}; {} in it may come too late",
                        count(writes.len(), "change")
                    ),
                )
            };
            Some(finding.on(namespace.key()).hint(format!(
                "what is left in it: {}; {}",
                what_is_left(namespace),
                finalizer_hint(&namespace.key())
            )))
        })
        .collect()
}

/// What a deletion waits for. A namespace has finalizers in its spec too.
fn finalizers(object: &Object) -> String {
    let names: Vec<&str> = ["/metadata/finalizers", "/spec/finalizers"]
        .into_iter()
        .filter_map(|pointer| object.get(pointer)?.as_array())
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if names.is_empty() {
        "its contents to go".to_owned()
    } else {
        format!(
            "{} {}",
            if names.len() == 1 {
                "finalizer"
            } else {
                "finalizers"
            },
            some_of(&names)
        )
    }
}

fn what_is_left(namespace: &Object) -> String {
    let messages: Vec<&str> = namespace
        .get("/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|c| c.get("status").and_then(Value::as_str) == Some("True"))
        .filter_map(|c| c.get("message")?.as_str())
        .collect();
    if messages.is_empty() {
        "not known".to_owned()
    } else {
        some_of(&messages)
    }
}

fn finalizer_hint(key: &ObjectKey) -> String {
    format!(
        "let whoever set the finalizer finish, then run this again; look with: {} -o yaml",
        kubectl("get", key)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::mk::*, *};
    use crate::Severity;

    fn dying(mut object: Object) -> Object {
        object.as_map_mut()["metadata"]["deletionTimestamp"] = json!("2022-11-22T00:00:00Z");
        object.as_map_mut()["metadata"]["finalizers"] = json!(["example.org/hold"]);
        object
    }

    #[test]
    fn objects_being_deleted_are_named_with_their_finalizers() {
        let check = |live: Object, rendered: bool, operation: Operation, expect: Option<Severity>| {
            let mut snapshot = mk_sound();
            mk_add(&mut snapshot, live.clone());
            let found = mk_checked(&snapshot, |context| {
                if rendered {
                    context.rendered = vec![live.clone()];
                }
                context.writes = vec![Write::of_object(&live, operation)];
            });
            assert_eq!(found.first().map(|f| f.severity), expect);
            assert!(
                found
                    .iter()
                    .all(|f| f.message.contains("finalizer example.org/hold")),
                "{found:?}"
            );
        };
        let role = || mk("iam.kubesphere.io/v1alpha2", "GlobalRole", "hr", json!({}));
        check(role(), false, Operation::Update, None);
        check(dying(role()), false, Operation::Update, Some(Severity::Warning));
        check(dying(role()), false, Operation::Delete, None);
        check(dying(role()), true, Operation::Update, Some(Severity::Blocker));
    }

    #[test]
    fn terminating_namespaces_block_where_something_is_to_be_made() {
        let check = |write: Option<Operation>, rendered: bool, expect: Option<Severity>| {
            let mut snapshot = mk_sound();
            let mut namespace = dying(mk("v1", "Namespace", "going", json!({})));
            namespace
                .as_map_mut()
                .insert("spec".into(), json!({"finalizers": ["kubernetes"]}));
            namespace.as_map_mut().insert(
                "status".into(),
                json!({"phase": "Terminating", "conditions": [{"type": "NamespaceContentRemaining", "status": "True",
                    "message": "Some resources are remaining: things.example.org has 1 resource instances"}]}),
            );
            mk_add(&mut snapshot, namespace);
            let role = mk("rbac.authorization.k8s.io/v1", "Role", "going/a", json!({}));
            let found = mk_checked(&snapshot, |context| {
                context.writes = write
                    .map(|operation| Write::of_object(&role, operation))
                    .into_iter()
                    .collect();
                if rendered {
                    context.rendered = vec![role.clone()];
                }
            });
            assert_eq!(found.first().map(|f| f.severity), expect);
            for finding in &found {
                assert!(
                    finding
                        .message
                        .contains("finalizers example.org/hold, kubernetes"),
                    "{finding:?}"
                );
                assert!(
                    finding
                        .hint
                        .as_deref()
                        .unwrap()
                        .contains("things.example.org has 1"),
                    "{finding:?}"
                );
            }
        };
        check(None, false, None);
        check(Some(Operation::Update), false, Some(Severity::Warning));
        check(Some(Operation::Create), false, Some(Severity::Blocker));
        check(None, true, Some(Severity::Blocker));
    }
}
