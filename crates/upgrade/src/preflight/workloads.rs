//! Whether what is to be upgraded runs now, and whether the nodes can take what will run.

use object::Object;
use serde_json::Value;

use super::{
    Context, count, kubectl,
    selector::{labels_of, meets},
    some_of,
};
use crate::{
    Finding, Severity, Snapshot,
    components::{Amount, allocatable, of_each},
    health, reasons,
};

/// An unwell component is no blocker: an upgrade that was cut leaves such ones, and running it again mends them.
pub(super) fn check_health(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for key in context.workloads {
        let Some(workload) = snapshot.get(key) else {
            findings.push(
                Finding::warning(
                    reasons::COMPONENT_MISSING,
                    "it should run, but does not exist; it will be created",
                )
                .on(key.clone()),
            );
            continue;
        };
        let pods = || snapshot.of_kind("", "Pod");
        let trouble = health::trouble_of(workload, pods());
        let rollout = health::rollout(workload);
        let scaled_down = health::replicas(workload) == 0;
        if rollout.is_complete() && trouble.is_empty() && !scaled_down {
            continue;
        }
        let mut reasons = Vec::new();
        if scaled_down {
            reasons.push("it is scaled to 0".to_owned());
        }
        reasons.extend(rollout.message().map(str::to_owned));
        reasons.extend(trouble);
        findings.push(
            Finding::warning(
                reasons::COMPONENT_UNHEALTHY,
                format!("it does not run well now: {}", some_of(&reasons)),
            )
            .on(key.clone())
            .hint(format!("look with: {}", kubectl("describe", key))),
        );
    }
    findings
}

/// How many nodes can take a pod of this template: ready, schedulable, fit by selector, required affinity and taints.
pub(crate) fn places(snapshot: &Snapshot, template: &Value) -> usize {
    let nodes = snapshot.of_kind("", "Node");
    nodes
        .filter(|node| is_ready(node) && fits(template, node))
        .count()
}

/// Replicas that must not share a node need as many nodes.
pub(super) fn check_nodes(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let nodes: Vec<&Object> = snapshot.of_kind("", "Node").collect();
    if nodes.is_empty() {
        return Vec::new();
    }
    let ready: Vec<&Object> = nodes.iter().copied().filter(|node| is_ready(node)).collect();
    let mut findings = Vec::new();
    for node in nodes.iter().filter(|node| !is_ready(node)) {
        let why = if node.get("/spec/unschedulable") == Some(&Value::Bool(true)) {
            "it is cordoned: no pod is scheduled to it"
        } else {
            "it is not ready"
        };
        findings.push(Finding::info(reasons::NODE_NOT_READY, why).on(node.key()));
    }
    for workload in context.rendered {
        let wanted = health::replicas(workload);
        let Some(template) = workload.get("/spec/template/spec") else {
            continue;
        };
        if !matches!(workload.kind(), "Deployment" | "StatefulSet") || wanted == 0 {
            continue;
        }
        let fitting = ready.iter().filter(|node| fits(template, node)).count();
        let places = i64::try_from(fitting).unwrap_or(i64::MAX);
        if places == 0 || (keeps_apart(template) && places < wanted) {
            let stay = if places == 0 { wanted } else { wanted - places };
            let stay = usize::try_from(stay).unwrap_or_default();
            let severity = if places == 0 {
                "its rollout cannot finish"
            } else {
                "they would stay Pending"
            };
            findings.push(
                Finding::new(
                    Severity::Warning,
                    reasons::NOT_ENOUGH_NODES,
                    format!(
                        "{} of {wanted} find no node, since {} ready, schedulable and fit it: {severity}",
                        count(stay, "replica"),
                        match fitting {
                            0 => "no nodes are".to_owned(),
                            1 => "only 1 node is".to_owned(),
                            n => format!("only {n} nodes are"),
                        },
                    ),
                )
                .on(workload.key())
                .hint("look with: kubectl get nodes; uncordon a node, or remove the taint that keeps the pods away"),
            );
        }
    }
    findings
}

/// A pod that asks for more than any node has is never scheduled. What other pods have taken is not counted: they come and go.
pub(super) fn check_sizes(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let ready: Vec<&Object> = snapshot
        .of_kind("", "Node")
        .filter(|node| is_ready(node))
        .collect();
    let mut findings = Vec::new();
    for object in context.rendered {
        let Some((wanted, spec)) = of_each(object) else {
            continue;
        };
        let places: Option<Vec<Amount>> = ready
            .iter()
            .filter(|node| fits(spec, node))
            .map(|node| allocatable(node))
            .collect();
        // That no node takes it at all is said elsewhere, and one that does not tell its size may do.
        let Some(places) = places.filter(|places| !places.is_empty()) else {
            continue;
        };
        if places.iter().any(|place| wanted.fits_in(place)) {
            continue;
        }
        let largest = places
            .iter()
            .max_by_key(|place| (place.memory_bytes, place.cpu_millicores));
        findings.push(
            Finding::warning(
                reasons::NODES_TOO_SMALL,
                format!(
                    "a pod of it asks for {}, and no node that may take it has as much: the largest has {}",
                    in_words(&wanted),
                    largest.map(in_words).unwrap_or_default(),
                ),
            )
            .on(object.key())
            .hint("add a node that is large enough, or let it ask for less where it has a setting for that"),
        );
    }
    findings
}

fn in_words(amount: &Amount) -> String {
    format!(
        "{}m CPU and {} MiB",
        amount.cpu_millicores,
        amount.memory_bytes >> 20
    )
}

fn is_ready(node: &Object) -> bool {
    node.get("/spec/unschedulable") != Some(&Value::Bool(true))
        && health::condition(node, "Ready").is_some_and(|(ready, ..)| ready)
}

/// Whether pods of this template refuse to share a node with each other.
pub(crate) fn keeps_apart(template: &Value) -> bool {
    template
        .pointer("/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|term| term.get("topologyKey").and_then(Value::as_str) == Some("kubernetes.io/hostname"))
}

/// Whether a pod may go to a node, by selector, required affinity and taints. Resources are not counted.
fn fits(template: &Value, node: &Object) -> bool {
    let labels = labels_of(node);
    let array = |value: &Value, pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let selected = template
        .get("nodeSelector")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .all(|(name, value)| labels.get(name).map(String::as_str) == value.as_str());
    let terms = array(
        template,
        "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
    );
    let attracted = terms.is_empty()
        || terms.iter().any(|term| {
            array(term, "/matchExpressions")
                .iter()
                .all(|expression| meets(expression, &labels))
        });
    let tolerations = array(template, "/tolerations");
    let tolerated = array(node.as_value(), "/spec/taints")
        .iter()
        .filter(|taint| taint.get("effect").and_then(Value::as_str) != Some("PreferNoSchedule"))
        .all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)));
    selected && attracted && tolerated
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    fn text<'a>(value: &'a Value, name: &str) -> &'a str {
        value.get(name).and_then(Value::as_str).unwrap_or_default()
    }
    let effect = text(toleration, "effect");
    let key = text(toleration, "key");
    let exists = text(toleration, "operator") == "Exists";
    (effect.is_empty() || effect == text(taint, "effect"))
        && ((key.is_empty() && exists) || key == text(taint, "key"))
        && (exists || text(toleration, "value") == text(taint, "value"))
}

#[cfg(test)]
mod tests {
    use object::ObjectKey;
    use serde_json::json;

    use super::{super::mk::*, *};

    fn apiserver() -> ObjectKey {
        ObjectKey::namespaced("apps", "Deployment", "kubesphere-system", "ks-apiserver")
    }

    #[test]
    fn unwell_components_are_named_with_their_pods_trouble() {
        let mut snapshot = mk_sound();
        mk_edit(&mut snapshot, &apiserver(), "/status/availableReplicas", json!(0));
        mk_add(
            &mut snapshot,
            mk(
                "v1",
                "Pod",
                "kubesphere-system/ks-apiserver-2",
                json!({
                    "metadata": {"labels": {"app": "ks-apiserver"}},
                    "status": {"phase": "Pending", "containerStatuses": [
                        {"name": "c", "image": "r/i:v1", "state": {"waiting": {"reason": "ErrImagePull"}}}]},
                }),
            ),
        );
        let found = mk_checked(&snapshot, |_| {});
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].reason, reasons::COMPONENT_UNHEALTHY);
        assert_eq!(
            found[0].severity,
            Severity::Warning,
            "a run again mends what a cut run left"
        );
        assert_eq!(
            found[0].message,
            "it does not run well now: 0 of 1 updated replicas are available, pod ks-apiserver-2: image r/i:v1 of \
             container c cannot be pulled"
        );
    }

    #[test]
    fn missing_and_stopped_components_are_named() {
        let mut snapshot = mk_sound();
        mk_edit(&mut snapshot, &apiserver(), "/spec/replicas", json!(0));
        assert_eq!(mk_reasons(&snapshot, |_| {}), [reasons::COMPONENT_UNHEALTHY]);
        snapshot.objects.remove(&apiserver());
        assert_eq!(mk_reasons(&snapshot, |_| {}), [reasons::COMPONENT_MISSING]);
    }

    #[test]
    fn a_pod_that_is_larger_than_every_node_is_named() {
        let small = json!({"cpu": "1", "memory": "1Gi"});
        let large = json!({"cpu": "4", "memory": "8Gi"});
        let node = |spec: Value, allocatable: Option<&Value>| {
            let mut node =
                json!({"spec": spec, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            if let Some(allocatable) = allocatable {
                node["status"]["allocatable"] = allocatable.clone();
            }
            node
        };
        let requests = |memory: &str| json!({"requests": {"cpu": "100m", "memory": memory}});
        let pods = |memory: &str| {
            let template = json!({"spec": {"containers": [{"name": "c", "resources": requests(memory)}]}});
            mk(
                "apps/v1",
                "Deployment",
                "n/a",
                json!({"spec": {"replicas": 1, "template": template}}),
            )
        };
        let custom = |memory: &str| {
            let spec = json!({"replicas": 1, "resources": requests(memory)});
            mk(
                "monitoring.coreos.com/v1",
                "Prometheus",
                "n/a",
                json!({ "spec": spec }),
            )
        };
        let check = |object: Object, nodes: &[Value], expect: bool| {
            let mut snapshot = mk_sound();
            snapshot.objects.retain(|key, _| key.kind != "Node");
            for (i, node) in nodes.iter().enumerate() {
                mk_add(&mut snapshot, mk("v1", "Node", &format!("node{i}"), node.clone()));
            }
            let found = mk_checked(&snapshot, |context| context.rendered = vec![object.clone()]);
            let found: Vec<_> = found
                .iter()
                .filter(|finding| finding.reason == reasons::NODES_TOO_SMALL)
                .collect();
            assert_eq!(!found.is_empty(), expect, "{found:?}");
            for finding in found {
                assert_eq!(
                    finding.message,
                    "a pod of it asks for 100m CPU and 4096 MiB, and no node that may take it has as much: the largest has \
                     1000m CPU and 1024 MiB"
                );
            }
        };
        let open = || json!({});
        let tainted = json!({"taints": [{"key": "a", "effect": "NoSchedule"}]});
        check(pods("4Gi"), &[node(open(), Some(&small))], true);
        check(custom("4Gi"), &[node(open(), Some(&small))], true);
        check(pods("512Mi"), &[node(open(), Some(&small))], false);
        let both = [node(open(), Some(&small)), node(open(), Some(&large))];
        check(pods("4Gi"), &both, false);
        // The large one takes no pods of it.
        check(
            pods("4Gi"),
            &[node(open(), Some(&small)), node(tainted, Some(&large))],
            true,
        );
        let cordoned = json!({"unschedulable": true});
        check(
            pods("4Gi"),
            &[node(open(), Some(&small)), node(cordoned, Some(&large))],
            true,
        );
        // Nobody knows how large it is.
        check(pods("4Gi"), &[node(open(), None)], false);
    }

    #[test]
    fn replicas_that_keep_apart_need_a_node_each() {
        let deployment = |replicas: i64, extra: Value| {
            let mut template = json!({"affinity": {"podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname"}]}}});
            template
                .as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            mk(
                "apps/v1",
                "Deployment",
                "n/a",
                json!({"spec": {"replicas": replicas, "template": {"spec": template}}}),
            )
        };
        let check = |workload: Object, nodes: &[Value], expect: bool| {
            let mut snapshot = mk_sound();
            snapshot.objects.retain(|key, _| key.kind != "Node");
            for (i, node) in nodes.iter().enumerate() {
                mk_add(&mut snapshot, mk("v1", "Node", &format!("node{i}"), node.clone()));
            }
            let found = mk_reasons(&snapshot, |context| context.rendered = vec![workload.clone()]);
            assert_eq!(
                found.contains(&reasons::NOT_ENOUGH_NODES.to_owned()),
                expect,
                "{found:?}"
            );
        };
        let node = |labels: Value, taint: Option<&str>, ready: &str| {
            json!({
                "metadata": {"labels": labels},
                "spec": {"taints": taint.map(|key| json!([{"key": key, "effect": "NoSchedule"}])).unwrap_or(json!([]))},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let plain = || node(json!({"disk": "ssd"}), None, "True");
        let tainted = || node(json!({}), Some("node-role.kubernetes.io/master"), "True");
        check(deployment(2, json!({})), &[plain(), plain()], false);
        check(deployment(3, json!({})), &[plain(), plain()], true);
        check(
            deployment(2, json!({})),
            &[plain(), node(json!({}), None, "False")],
            true,
        );
        check(deployment(2, json!({})), &[plain(), tainted()], true);
        let tolerating =
            json!({"tolerations": [{"key": "node-role.kubernetes.io/master", "effect": "NoSchedule"}]});
        check(deployment(2, tolerating), &[plain(), tainted()], false);
        check(
            deployment(2, json!({"tolerations": [{"operator": "Exists"}]})),
            &[plain(), tainted()],
            false,
        );
        check(
            deployment(1, json!({"nodeSelector": {"disk": "hdd"}})),
            &[plain()],
            true,
        );
        check(
            deployment(1, json!({"nodeSelector": {"disk": "ssd"}})),
            &[plain()],
            false,
        );
        let required = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]}]}}}});
        check(deployment(1, required), &[plain()], true);
        let cordoned = json!({"spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        check(deployment(1, json!({})), &[cordoned], true);
    }
}
