//! How a Deployment's pods are replaced, so that the old ones serve until the new ones do.
//!
//! The release's replicas may not share a node, and its strategy is therefore to take an old pod away before there is a new
//! one. With one replica nobody serves meanwhile, and an image that cannot be pulled takes the service down for good. Where a
//! further node can take the pod, there is no need for that.

use std::borrow::Cow;

use object::{Object, ObjectKey, merge};
use serde_json::{Value, json};

use super::Decider;
use crate::{Finding, health, preflight, reasons};

pub(super) const STRATEGY: &str = "/spec/strategy/rollingUpdate";

/// A Deployment to apply, and what counts as set by the old release.
pub(super) struct Rollout<'a> {
    pub new: Object,
    pub old: Option<Cow<'a, Value>>,
    /// What people should know of it.
    pub finding: Option<Finding>,
}

fn number(strategy: Option<&Value>, name: &str) -> Option<i64> {
    match strategy?.get(name)? {
        Value::String(percent) => percent.strip_suffix('%')?.parse().ok(),
        number => number.as_i64(),
    }
}

/// Whether a strategy takes a pod away before there is a new one, as the release has it, with what the API server makes of it.
fn is_the_releases(strategy: Option<&Value>) -> bool {
    let unavailable = strategy.and_then(|strategy| strategy.get("maxUnavailable"));
    number(strategy, "maxSurge") == Some(0) && unavailable.is_none_or(|value| value == "25%")
}

fn is_ours(strategy: Option<&Value>) -> bool {
    number(strategy, "maxSurge") == Some(1) && number(strategy, "maxUnavailable") == Some(0)
}

/// Has it the strategy that leaves the old pods serving.
fn set_ours(value: &mut Value) {
    value["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
}

/// The same with the strategy that leaves the old pods serving.
pub(super) fn with_ours(object: &Object) -> Object {
    let mut value = object.as_value().clone();
    set_ours(&mut value);
    Object::try_from(value).unwrap_or_else(|_| object.clone())
}

impl Decider<'_> {
    /// Decides how the pods of what is to be applied are replaced, where they are. A strategy that somebody chose stays what
    /// it is to the three-way merge; one of ours stays until a rollout has no room for it.
    pub(super) fn rollout<'v>(&self, old: Option<&'v Value>, new: &Object) -> Rollout<'v> {
        let decided = |new: &Object, old: Option<Cow<'v, Value>>| Rollout {
            new: new.clone(),
            old,
            finding: None,
        };
        let mut old = old.map(Cow::Borrowed);
        let key = new.key();
        let template = new.get("/spec/template/spec").filter(|_| {
            key.is("apps", "Deployment") && is_the_releases(new.get(STRATEGY)) && new.get(STRATEGY).is_some()
        });
        let (Some(template), Some(live)) = (template, self.snapshot.get(&key)) else {
            return decided(new, old);
        };
        let was_ours = is_ours(live.get(STRATEGY));
        if !preflight::keeps_apart(template) || !(was_ours || is_the_releases(live.get(STRATEGY))) {
            return decided(new, old);
        }
        let surging = with_ours(new);
        if was_ours && let Some(old) = &mut old {
            set_ours(old.to_mut());
        }
        let merged = merge::three_way(old.as_deref(), live, &surging, self.drift_rule(&key));
        let rolls_out = merged.changes.iter().any(|c| c.path.starts_with("spec.template"));
        if !rolls_out {
            return decided(if was_ours { &surging } else { new }, old);
        }
        let applied = Object::try_from(merged.applied).unwrap_or(surging.clone());
        let replicas = health::replicas(&applied);
        let template = applied.get("/spec/template/spec").unwrap_or(&Value::Null);
        let places = preflight::places(self.snapshot, template);
        if i64::try_from(places).unwrap_or(i64::MAX) > replicas {
            return decided(&surging, old);
        }
        Rollout {
            finding: (replicas == 1).then(|| pause(key, places)),
            ..decided(new, old)
        }
    }
}

fn pause(key: ObjectKey, places: usize) -> Finding {
    let room = match places {
        0 => "no node is".to_owned(),
        1 => "only 1 node is".to_owned(),
        n => format!("only {n} nodes are"),
    };
    Finding::info(
        reasons::SERVICE_PAUSES,
        format!(
            "it pauses while its new pod starts: the old and the new one may not share a node, and {room} ready, schedulable and fit it"
        ),
    )
    .on(key)
    .hint("with one node more for it, the old pod serves until the new one does")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, Snapshot};

    fn mk(kind: &str, api: &str, name: &str, mut rest: Value) -> Object {
        rest["apiVersion"] = api.into();
        rest["kind"] = kind.into();
        rest["metadata"]["name"] = name.into();
        Object::try_from(rest).unwrap()
    }

    fn mk_deployment(image: &str, strategy: &Value) -> Object {
        let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname"}]}});
        mk(
            "Deployment",
            "apps/v1",
            "web",
            json!({"metadata": {"namespace": "n"}, "spec": {
                "replicas": 1,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": strategy},
                "template": {"spec": {"affinity": apart, "containers": [{"name": "c", "image": image}]}},
            }}),
        )
    }

    /// The strategy that is applied to this one with so many nodes, whether that writes anything, and what is found.
    fn decide(live: &Value, image: &str, nodes: usize) -> (Value, bool, Vec<String>) {
        let released = json!({"maxSurge": 0});
        let mut snapshot = Snapshot::default();
        let mut add = |object: Object| drop(snapshot.objects.insert(object.key(), object));
        add(mk_deployment("web:1", live));
        for n in 0..nodes {
            let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            add(mk("Node", "v1", &format!("n{n}"), ready));
        }
        let releases = release::Releases::embedded().unwrap();
        let options = Options::default();
        let mut decider = Decider::new(&snapshot, releases.latest().unwrap(), &options);
        let new = mk_deployment(image, &released);
        let old = mk_deployment("web:1", &released);
        let rollout = decider.rollout(Some(old.as_value()), &new);
        let writes = decider.apply("workloads", rollout.old.as_deref(), &rollout.new, &rollout.new);
        let found = rollout.finding.iter().map(|f| f.reason.clone()).collect();
        (rollout.new.get(STRATEGY).unwrap().clone(), writes, found)
    }

    #[test]
    fn the_old_pod_goes_first_only_where_there_is_no_room() {
        let released = json!({"maxSurge": 0, "maxUnavailable": "25%"});
        let ours = json!({"maxSurge": 1, "maxUnavailable": 0});
        let theirs = json!({"maxSurge": 0, "maxUnavailable": 1});
        let set = json!({"maxSurge": 0});
        let none: [String; 0] = [];
        let check = |live: &Value, image: &str, nodes: usize, expect: (&Value, bool, &[String])| {
            let (strategy, writes, found) = decide(live, image, nodes);
            let got = (&strategy, writes, found.as_slice());
            assert_eq!(got, expect, "{live} {image} {nodes}");
        };
        check(&released, "web:2", 2, (&ours, true, &none));
        let pauses = [reasons::SERVICE_PAUSES.to_string()];
        check(&released, "web:2", 1, (&set, true, &pauses));
        check(&released, "web:2", 0, (&set, true, &pauses));
        // Nothing rolls out, so nothing is written, whatever the number of nodes is by now.
        for nodes in 0..3 {
            check(&released, "web:1", nodes, (&set, false, &none));
            check(&ours, "web:1", nodes, (&ours, false, &none));
        }
        // A rollout that could not finish goes back to the release's.
        check(&ours, "web:2", 1, (&set, true, &pauses));
        check(&ours, "web:2", 2, (&ours, true, &none));
        // Somebody's own.
        check(&theirs, "web:2", 2, (&set, true, &none));
    }
}
