//! API versions, CustomResourceDefinitions, annotations near their limit.

use std::collections::{BTreeMap, BTreeSet};

use object::{LAST_APPLIED, Object, ObjectKey};
use serde_json::Value;

use super::{Context, kubectl, some_of};
use crate::{Finding, Severity, Snapshot, reasons};

pub(super) const CRD_GROUP: &str = "apiextensions.k8s.io";
pub(super) const CRD_KIND: &str = "CustomResourceDefinition";

pub(super) fn check(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = check_served(snapshot, context);
    findings.extend(check_definitions(snapshot, context));
    findings.extend(check_annotations(snapshot, context));
    findings.extend(check_api_services(snapshot, context));
    findings
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The versions of a CRD, each with whether it is served.
fn versions(definition: &Object) -> BTreeMap<&str, bool> {
    definition
        .get("/spec/versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|v| {
            (
                text(v, "/name"),
                v.get("served").and_then(Value::as_bool).unwrap_or_default(),
            )
        })
        .collect()
}

/// Every kind that the release writes must be served, or brought by one of its own CRDs.
fn check_served(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    // Every API server serves something: nothing at all means that it was not asked.
    if snapshot.served.is_empty() {
        return Vec::new();
    }
    let mut available: BTreeSet<(&str, &str, &str)> = snapshot
        .served
        .iter()
        .map(|r| (r.group.as_str(), r.version.as_str(), r.kind.as_str()))
        .collect();
    for definition in context
        .rendered
        .iter()
        .filter(|o| o.key().is(CRD_GROUP, CRD_KIND))
    {
        let group = definition.get_str("/spec/group").unwrap_or_default();
        let kind = definition.get_str("/spec/names/kind").unwrap_or_default();
        for (version, served) in versions(definition) {
            if served {
                available.insert((group, version, kind));
            }
        }
    }
    let mut missing: BTreeMap<(&str, &str), Vec<ObjectKey>> = BTreeMap::new();
    for object in context.rendered {
        if !available.contains(&(object.group(), object.version(), object.kind())) {
            missing
                .entry((object.api_version(), object.kind()))
                .or_default()
                .push(object.key());
        }
    }
    missing
        .into_iter()
        .map(|((api_version, kind), objects)| {
            let other: BTreeSet<&str> = snapshot
                .served
                .iter()
                .filter(|r| r.group == objects[0].group && r.kind == kind)
                .map(|r| r.version.as_str())
                .collect();
            let other = if other.is_empty() {
                "no version of it is".to_owned()
            } else {
                format!("served are: {}", other.into_iter().collect::<Vec<_>>().join(", "))
            };
            Finding::blocker(
                reasons::API_NOT_SERVED,
                format!(
                    "the release needs {kind} of {api_version} ({}), which this API server does not serve; {other}",
                    some_of(&objects)
                ),
            )
            .hint("use a Kubernetes version that the release supports, or install the CRD that brings the kind")
        })
        .collect()
}

/// What a new CRD must not do to the old one, and CRDs whose stored objects nobody can read any more.
fn check_definitions(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let rendered: BTreeMap<&str, &Object> = context
        .rendered
        .iter()
        .filter(|o| o.key().is(CRD_GROUP, CRD_KIND))
        .map(|o| (o.name(), *o))
        .collect();
    for live in snapshot.of_kind(CRD_GROUP, CRD_KIND) {
        let key = live.key();
        let stored: Vec<&str> = live
            .get("/status/storedVersions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let now = versions(live);
        let unserved: Vec<&str> = stored
            .iter()
            .copied()
            .filter(|v| now.get(v) != Some(&true))
            .collect();
        if !unserved.is_empty() {
            findings.push(
                Finding::warning(
                    reasons::STORED_VERSION_NOT_SERVED,
                    format!(
                        "objects may be stored in {}, which is not served",
                        unserved.join(", ")
                    ),
                )
                .on(key.clone())
                .hint(migrate_hint(live)),
            );
        }
        let Some(new) = rendered.get(live.name()) else {
            continue;
        };
        let then = versions(new);
        let dropped: Vec<&str> = stored.iter().copied().filter(|v| !then.contains_key(v)).collect();
        if !dropped.is_empty() {
            findings.push(
                Finding::blocker(
                    reasons::STORED_VERSION_DROPPED,
                    format!(
                        "objects may be stored in {}, which the new definition no longer has: the API server would refuse it",
                        dropped.join(", ")
                    ),
                )
                .on(key.clone())
                .hint(migrate_hint(live)),
            );
        }
        for (pointer, field) in [
            ("/spec/scope", "spec.scope"),
            ("/spec/group", "spec.group"),
            ("/spec/names/kind", "spec.names.kind"),
        ] {
            let (before, after) = (text(live.as_value(), pointer), text(new.as_value(), pointer));
            if before != after && !before.is_empty() {
                findings.push(
                    Finding::blocker(
                        reasons::DEFINITION_INCOMPATIBLE,
                        format!("{field} is {before} and would have to become {after}, which the API server refuses"),
                    )
                    .on(key.clone())
                    .hint("the definition is somebody else's; rename one of the two"),
                );
            }
        }
        let withdrawn: Vec<&str> = now
            .iter()
            .filter(|(version, served)| **served && then.get(*version) != Some(&true))
            .map(|(version, _)| *version)
            .filter(|version| !dropped.contains(version))
            .collect();
        if !withdrawn.is_empty() {
            findings.push(
                Finding::warning(
                    reasons::VERSION_WITHDRAWN,
                    format!(
                        "{} will no longer be served: clients that still use it break",
                        withdrawn.join(", ")
                    ),
                )
                .on(key),
            );
        }
    }
    findings
}

fn migrate_hint(definition: &Object) -> String {
    format!(
        "write every object once (kubectl get {name} -A -o json | kubectl replace -f -), then take the old version \
         out of status.storedVersions of the CRD",
        name = definition.name()
    )
}

/// The API server's limit on the sum of an object's annotations, names included, in bytes.
const ANNOTATION_LIMIT: usize = 256 * 1024;

/// Client-side `kubectl apply` of a CRD that grew a little would be refused. What we write is applied server-side
/// and needs no such annotation.
fn check_annotations(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let ours: BTreeSet<ObjectKey> = context.writes.iter().map(|w| w.object.clone()).collect();
    let mut findings = Vec::new();
    for object in snapshot.objects.values() {
        let Some(annotations) = object.get("/metadata/annotations").and_then(Value::as_object) else {
            continue;
        };
        let size: usize = annotations
            .iter()
            .map(|(name, value)| name.len() + value.as_str().map_or(0, str::len))
            .sum();
        let key = object.key();
        let percent = size * 100 / ANNOTATION_LIMIT;
        let severity = match percent {
            90.. => Severity::Warning,
            75.. => Severity::Info,
            _ => continue,
        };
        let applied = object.annotation(LAST_APPLIED).map_or(0, str::len);
        let dropped = ours.contains(&key) && applied > 0;
        let consequence = if dropped {
            "this upgrade applies it server-side, which does not need the annotation"
        } else {
            "a client-side kubectl apply of a larger version will be refused"
        };
        findings.push(
            Finding::new(
                severity,
                reasons::ANNOTATIONS_NEAR_LIMIT,
                format!(
                    "its annotations take {size} of {ANNOTATION_LIMIT} bytes ({percent} %), {applied} of them for what kubectl last applied: {consequence}"
                ),
            )
            .hint(if applied > 0 {
                format!("apply it with --server-side, or drop the record: {} {LAST_APPLIED}-", kubectl("annotate", &key))
            } else {
                format!("look with: {} -o yaml", kubectl("get", &key))
            })
            .on(key),
        );
    }
    findings
}

/// An aggregated API whose server is gone. Deleting namespaces hangs on it, and listing all kinds fails.
fn check_api_services(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let groups: BTreeSet<&str> = context.rendered.iter().map(|o| o.group()).collect();
    snapshot
        .of_kind("apiregistration.k8s.io", "APIService")
        .filter_map(|service| {
            let (available, reason, message) = crate::health::condition(service, "Available")?;
            if available || service.get("/spec/service").is_none_or(Value::is_null) {
                return None;
            }
            let group = service.get_str("/spec/group").unwrap_or_default();
            let severity = if groups.contains(group) { Severity::Blocker } else { Severity::Warning };
            Some(
                Finding::new(
                    severity,
                    reasons::API_SERVICE_UNAVAILABLE,
                    format!("its API is registered but not served ({reason}: {message}); namespaces cannot be deleted meanwhile"),
                )
                .on(service.key())
                .hint(format!("bring its server back, or, if it is gone for good: {}", kubectl("delete", &service.key()))),
            )
        })
        .collect()
}

/// The CRDs, live or of the release, that define a kind.
pub(super) fn definition_of<'a>(
    snapshot: &'a Snapshot,
    rendered: &'a [&'a Object],
    group: &str,
    kind: &str,
) -> Option<&'a Object> {
    snapshot
        .of_kind(CRD_GROUP, CRD_KIND)
        .chain(rendered.iter().copied())
        .find(|o| {
            o.key().is(CRD_GROUP, CRD_KIND)
                && o.get_str("/spec/group") == Some(group)
                && o.get_str("/spec/names/kind") == Some(kind)
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::mk::*, *};

    fn mk_definition(kind: &str, versions: &[(&str, bool)], stored: &[&str]) -> Object {
        let versions: Vec<Value> = versions
            .iter()
            .map(|(name, served)| json!({"name": name, "served": served}))
            .collect();
        mk(
            "apiextensions.k8s.io/v1",
            CRD_KIND,
            &format!("{}s.example.org", kind.to_lowercase()),
            json!({
                "spec": {"group": "example.org", "scope": "Cluster", "names": {"kind": kind}, "versions": versions},
                "status": {"storedVersions": stored},
            }),
        )
    }

    #[test]
    fn every_kind_of_the_release_must_be_served_or_brought_along() {
        let check = |rendered: Vec<Object>, expect: &[&str]| {
            assert_eq!(mk_reasons(&mk_sound(), |c| c.rendered = rendered.clone()), expect);
        };
        let thing = |version: &str| mk(&format!("example.org/{version}"), "Thing", "a", json!({}));
        check(vec![mk("v1", "ConfigMap", "n/a", json!({}))], &[]);
        check(vec![thing("v1")], &[reasons::API_NOT_SERVED]);
        check(
            vec![mk("policy/v1beta1", "PodSecurityPolicy", "a", json!({}))],
            &[reasons::API_NOT_SERVED],
        );
        let definition = mk_definition("Thing", &[("v1", true), ("v1beta1", false)], &[]);
        check(vec![definition.clone(), thing("v1")], &[]);
        check(vec![definition, thing("v1beta1")], &[reasons::API_NOT_SERVED]);
    }

    #[test]
    fn a_definition_must_keep_what_objects_are_stored_in() {
        let check = |live: Object, new: Object, expect: &[&str]| {
            let mut snapshot = mk_sound();
            mk_add(&mut snapshot, live);
            assert_eq!(mk_reasons(&snapshot, |c| c.rendered = vec![new.clone()]), expect);
        };
        let v1 = || mk_definition("Thing", &[("v1", true)], &["v1"]);
        check(v1(), v1(), &[]);
        check(
            mk_definition("Thing", &[("v1", true), ("v1beta1", true)], &["v1beta1", "v1"]),
            v1(),
            &[reasons::STORED_VERSION_DROPPED],
        );
        check(
            mk_definition("Thing", &[("v1", true), ("v1beta1", true)], &["v1"]),
            v1(),
            &[reasons::VERSION_WITHDRAWN],
        );
        check(
            mk_definition("Thing", &[("v1", true), ("v1beta1", false)], &["v1beta1", "v1"]),
            mk_definition("Thing", &[("v1", true), ("v1beta1", false)], &[]),
            &[reasons::STORED_VERSION_NOT_SERVED],
        );
        let mut namespaced = v1();
        namespaced.as_map_mut()["spec"]["scope"] = json!("Namespaced");
        check(v1(), namespaced, &[reasons::DEFINITION_INCOMPATIBLE]);
    }

    #[test]
    fn annotations_near_their_limit_are_reported_before_they_hurt() {
        let check = |size: usize, expect: Option<Severity>| {
            let mut snapshot = mk_sound();
            let mut definition = mk_definition("Thing", &[("v1", true)], &["v1"]);
            definition.as_map_mut()["metadata"]["annotations"] = json!({LAST_APPLIED: "x".repeat(size)});
            mk_add(&mut snapshot, definition);
            let found = mk_checked(&snapshot, |_| {});
            assert_eq!(found.first().map(|f| f.severity), expect);
        };
        check(1000, None);
        check(200_000, Some(Severity::Info));
        check(250_000, Some(Severity::Warning));
    }

    #[test]
    fn an_aggregated_api_without_a_server_is_named() {
        let check = |group: &str, status: &str, service: Value, expect: Option<Severity>| {
            let mut snapshot = mk_sound();
            mk_add(
                &mut snapshot,
                mk(
                    "apiregistration.k8s.io/v1",
                    "APIService",
                    &format!("v1.{group}"),
                    json!({
                        "spec": {"group": group, "service": service},
                        "status": {"conditions": [{"type": "Available", "status": status, "reason": "MissingEndpoints", "message": "none"}]},
                    }),
                ),
            );
            let found = mk_checked(&snapshot, |c| {
                c.rendered = vec![mk("apps/v1", "ControllerRevision", "n/a", json!({}))];
            });
            assert_eq!(found.first().map(|f| f.severity), expect);
        };
        let service = || json!({"namespace": "n", "name": "s"});
        check("metrics.k8s.io", "True", service(), None);
        check("metrics.k8s.io", "False", Value::Null, None);
        check("metrics.k8s.io", "False", service(), Some(Severity::Warning));
        check("apps", "False", service(), Some(Severity::Blocker));
    }
}
