//! Fields that the API does not let be changed: what is there stays, so that nothing has to be deleted and made again.
//!
//! | kind | field | what becomes of it |
//! |---|---|---|
//! | Deployment, StatefulSet, DaemonSet | `spec.selector` | stays; new pods carry its labels besides their own |
//! | StatefulSet | `volumeClaimTemplates`, `serviceName`, `podManagementPolicy` | stay, and so do the volumes |
//! | Job | `spec` | stays: a Job that is to do something else has another name |
//! | PersistentVolumeClaim | `spec` | stays; only a larger request is passed on |
//! | Service | `spec.clusterIP` | stays |
//! | Secret | `type` | stays |
//! | RoleBinding, ClusterRoleBinding | `roleRef` | never differs in a release |
//!
//! Source: validation of updates in Kubernetes' API, e.g. <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#label-selector-updates>.

use object::{Object, quantity};
use serde_json::{Value, json};

/// An object as it can be applied to the one that is there.
pub(super) struct Fitted {
    pub object: Object,
    /// Fields that would be something else in a new object, where people should know.
    pub kept: Vec<String>,
}

/// `new`, as far as the API lets `live` become it.
pub(super) fn fit(live: &Object, new: &Object) -> Fitted {
    let mut object = new.clone();
    let mut kept = Vec::new();
    let mut keep = |object: &mut Object, pointer: &str, tell: bool| {
        let (Some(had), Some(wants)) = (live.get(pointer), object.get(pointer)) else {
            return;
        };
        if had != wants
            && let Some(wants) = object.get_mut(pointer)
        {
            *wants = had.clone();
            if tell {
                kept.push(pointer.trim_start_matches('/').replace('/', "."));
            }
        }
    };
    match (live.group(), live.kind()) {
        ("apps", "Deployment" | "DaemonSet") => keep_selector(&mut object, live),
        ("apps", "StatefulSet") => {
            keep_selector(&mut object, live);
            keep(&mut object, "/spec/serviceName", true);
            keep(&mut object, "/spec/podManagementPolicy", true);
            let tell = !same_claims(live, new);
            keep(&mut object, "/spec/volumeClaimTemplates", tell);
        }
        ("batch", "Job") => {
            for field in ["template", "selector", "completions", "completionMode"] {
                keep(&mut object, &format!("/spec/{field}"), false);
            }
        }
        ("", "PersistentVolumeClaim") => {
            let pointer = "/spec/resources/requests/storage";
            let wanted = new.get(pointer).cloned();
            keep(&mut object, "/spec", false);
            if let (Some(wanted), Some(has)) = (wanted, live.get(pointer))
                && quantity::is_less(has, &wanted)
                && let Some(request) = object.get_mut(pointer)
            {
                *request = wanted;
            }
        }
        ("", "Service") => {
            // Only a headless Service says it; the addresses of others are the cluster's.
            keep(&mut object, "/spec/clusterIP", false);
        }
        ("", "Secret") => {
            // Also where the release leaves it to the default.
            if let Some(kind) = live.get("/type").filter(|kind| object.get("/type") != Some(kind)) {
                object.as_map_mut().insert("type".into(), kind.clone());
            }
        }
        _ => {}
    }
    Fitted { object, kept }
}

/// Keeps the selector, and gives the pods the labels that it looks for. Where a pod would have to have two values of one
/// label, the selector's counts: otherwise the workload could not find its pods.
fn keep_selector(object: &mut Object, live: &Object) {
    let Some(selector) = live.get("/spec/selector") else {
        return;
    };
    if object.get("/spec/selector") == Some(selector) {
        return;
    }
    let Some(value) = object.get_mut("") else { return };
    value["spec"]["selector"] = selector.clone();
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    for (name, wanted) in labels.into_iter().flatten() {
        value["spec"]["template"]["metadata"]["labels"][name] = wanted.clone();
    }
}

/// Whether claims ask for the same, what the API server adds left out.
fn same_claims(live: &Object, new: &Object) -> bool {
    let claims = |object: &Object| -> Vec<Value> {
        let claims = object.get("/spec/volumeClaimTemplates").and_then(Value::as_array);
        let claims = claims.into_iter().flatten().map(|claim| {
            let part = |pointer: &str| claim.pointer(pointer).cloned().unwrap_or_default();
            json!([
                part("/metadata/name"),
                part("/spec/accessModes"),
                part("/spec/storageClassName"),
                part("/spec/resources/requests/storage"),
            ])
        });
        claims.collect()
    };
    claims(live) == claims(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk(api: &str, kind: &str, mut rest: Value) -> Object {
        rest["apiVersion"] = api.into();
        rest["kind"] = kind.into();
        rest["metadata"]["name"] = "a".into();
        Object::try_from(rest).unwrap()
    }

    #[test]
    fn a_selector_stays_and_pods_carry_its_labels() {
        let mk = |selector: Value, labels: Value| {
            let spec =
                json!({"selector": {"matchLabels": selector}, "template": {"metadata": {"labels": labels}}});
            mk("apps/v1", "Deployment", json!({ "spec": spec }))
        };
        let check = |live: Value, selector: Value, labels: Value, expect: Value| {
            let fitted = fit(&mk(live.clone(), json!({})), &mk(selector, labels)).object;
            assert_eq!(fitted.get("/spec/selector/matchLabels"), Some(&live));
            assert_eq!(fitted.get("/spec/template/metadata/labels"), Some(&expect));
        };
        check(
            json!({"app": "a"}),
            json!({"app": "a", "part": "p"}),
            json!({"app": "a", "part": "p", "version": "2"}),
            json!({"app": "a", "part": "p", "version": "2"}),
        );
        check(
            json!({"app": "a", "version": "1"}),
            json!({"name": "a"}),
            json!({"name": "a", "version": "2"}),
            json!({"name": "a", "version": "1", "app": "a"}),
        );
    }

    #[test]
    fn volumes_are_never_asked_for_anew() {
        let mk_set = |size: &str, extra: Value| {
            let mut claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}}}});
            claim
                .as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            mk(
                "apps/v1",
                "StatefulSet",
                json!({"spec": {"volumeClaimTemplates": [claim], "serviceName": "s"}}),
            )
        };
        let live = mk_set("20Gi", json!({"status": {"phase": "Pending"}}));
        let check = |size: &str, expect: &[&str]| {
            let fitted = fit(&live, &mk_set(size, json!({})));
            assert_eq!(fitted.kept, expect);
            assert_eq!(
                fitted.object.get("/spec/volumeClaimTemplates"),
                live.get("/spec/volumeClaimTemplates")
            );
        };
        check("20Gi", &[]);
        check("30Gi", &["spec.volumeClaimTemplates"]);
    }

    #[test]
    fn a_claim_only_grows() {
        let mk = |size: &str, class: &str| {
            let spec = json!({"storageClassName": class, "resources": {"requests": {"storage": size}}});
            mk("v1", "PersistentVolumeClaim", json!({ "spec": spec }))
        };
        let check = |size: &str, expect: &str| {
            let fitted = fit(&mk("20Gi", "fast"), &mk(size, "slow")).object;
            assert_eq!(fitted.get_str("/spec/resources/requests/storage"), Some(expect));
            assert_eq!(fitted.get_str("/spec/storageClassName"), Some("fast"));
        };
        check("10Gi", "20Gi");
        check("40Gi", "40Gi");
    }
}
