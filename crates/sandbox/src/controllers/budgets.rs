//! Disruption budgets: how many pods may go, and who asks for too many.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::controllers::workloads::{Rounded, amount, controller_of, count, is_ready, observe, owner_key};
use crate::controllers::write_status;
use crate::json::{child, is_deleting, name, namespace, number_at, text, text_at};
use crate::kinds::Resource;
use crate::selector::Labels;
use crate::status::{Result, Status};
use crate::store::Key;
use crate::transaction::Transaction;
use crate::write::Writer;

/// Lets the budgets of a pod's namespace look at what has become of it.
pub(crate) fn follow_pod(transaction: &mut Transaction, pod: &Value) -> Result<()> {
    let kind = transaction.builtin("policy", "poddisruptionbudgets")?;
    for budget in of(transaction, &kind, pod) {
        transaction.mark(Key::of(&kind, &budget));
    }
    Ok(())
}

/// The budgets that a pod counts in.
fn of(transaction: &Transaction, kind: &Resource, pod: &Value) -> Vec<Arc<Value>> {
    let Some(budgets) = transaction.state.collection(&kind.store) else {
        return Vec::new();
    };
    budgets
        .range(namespace(pod), None)
        .map(|(_, budget)| budget)
        .filter(|budget| selects(budget, pod))
        .cloned()
        .collect()
}

fn selects(budget: &Value, pod: &Value) -> bool {
    Labels::of(budget.pointer("/spec/selector"))
        .is_some_and(|selector| !selector.is_empty() && selector.matches(pod))
}

/// Counts the pods of a budget.
pub(crate) fn reconcile(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(budget) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if is_deleting(&budget) {
        return Ok(());
    }
    let kind = transaction.builtin("policy", "poddisruptionbudgets")?;
    let pods = transaction.builtin("", "pods")?;
    let selected: Vec<_> = transaction
        .state
        .objects_of(&pods)
        .range(namespace(&budget), None)
        .filter(|(_, pod)| selects(&budget, pod))
        .map(|(_, pod)| Arc::clone(pod))
        .collect();
    let healthy = count(
        selected
            .iter()
            .filter(|pod| is_ready(pod) && !is_deleting(pod))
            .count(),
    );
    let (expected, desired) = wanted(transaction, &budget, &selected);
    let allowed = if expected > 0 {
        (healthy - desired).max(0)
    } else {
        0
    };
    let mut next = Value::clone(&budget);
    observe(&mut next);
    let now = transaction.now.clone();
    let has_conditions = transaction.builtins.minor >= 21;
    let status = child(&mut next, "status");
    for (field, value) in [
        ("disruptionsAllowed", allowed),
        ("currentHealthy", healthy),
        ("desiredHealthy", desired),
        ("expectedPods", expected),
    ] {
        status.insert(field.into(), value.into());
    }
    if has_conditions {
        let (state, reason) = if allowed > 0 {
            ("True", "SufficientPods")
        } else {
            ("False", "InsufficientPods")
        };
        let old = budget
            .pointer("/status/conditions/0")
            .filter(|old| text(old, "status") == state)
            .map_or(now.as_str(), |old| text(old, "lastTransitionTime"));
        let condition = json!({
            "type": "DisruptionAllowed", "status": state, "observedGeneration": number_at(&budget, "/metadata/generation"),
            "lastTransitionTime": old, "reason": reason, "message": "",
        });
        status.insert("conditions".into(), json!([condition]));
    }
    write_status(transaction, &kind, &budget, next, Writer::CONTROLLER);
    Ok(())
}

/// How many pods there are to be, and how many of them healthy.
fn wanted(transaction: &Transaction, budget: &Value, pods: &[Arc<Value>]) -> (i64, i64) {
    let scale = || scale_of(transaction, pods);
    if let Some(most) = budget.pointer("/spec/maxUnavailable") {
        let expected = scale();
        return (expected, (expected - amount(most, expected, Rounded::Up)).max(0));
    }
    match budget.pointer("/spec/minAvailable") {
        Some(least @ Value::String(_)) => {
            let expected = scale();
            (expected, amount(least, expected, Rounded::Up))
        }
        Some(least) => (count(pods.len()), least.as_i64().unwrap_or(0)),
        None => (count(pods.len()), 0),
    }
}

/// The replicas of all that control the pods.
fn scale_of(transaction: &Transaction, pods: &[Arc<Value>]) -> i64 {
    let mut seen = std::collections::BTreeMap::new();
    for pod in pods {
        let mut owner = owner_of(transaction, pod);
        // A ReplicaSet has as many as its Deployment wants.
        if let Some(above) = owner.as_ref().and_then(|owner| owner_of(transaction, owner)) {
            owner = Some(above);
        }
        if let Some(owner) = owner {
            seen.insert(
                text_at(&owner, "/metadata/uid").to_owned(),
                number_at(&owner, "/spec/replicas").unwrap_or(1),
            );
        }
    }
    seen.values().sum()
}

fn owner_of(transaction: &Transaction, object: &Value) -> Option<Arc<Value>> {
    controller_of(object)?;
    let key = owner_key(transaction, object)?;
    transaction.state.get(&key).cloned()
}

/// Takes a pod that is to be evicted off its budget, or refuses.
pub(crate) fn spend(transaction: &mut Transaction, pod: &Value) -> Result<()> {
    if matches!(text_at(pod, "/status/phase"), "Succeeded" | "Failed" | "Pending") {
        return Ok(());
    }
    let kind = transaction.builtin("policy", "poddisruptionbudgets")?;
    let budgets = of(transaction, &kind, pod);
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(Status::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let allowed = number_at(budget, "/status/disruptionsAllowed").unwrap_or(0);
    if allowed > 0 {
        let mut next = Value::clone(budget);
        child(&mut next, "status").insert("disruptionsAllowed".into(), (allowed - 1).into());
        write_status(transaction, &kind, budget, next, Writer::API_SERVER);
        return Ok(());
    }
    let cause = format!(
        "The disruption budget {} needs {} healthy pods and has {} currently",
        name(budget),
        number_at(budget, "/status/desiredHealthy").unwrap_or(0),
        number_at(budget, "/status/currentHealthy").unwrap_or(0),
    );
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let details = json!({ "causes": [{ "reason": "DisruptionBudget", "message": cause }] });
    Err(Status::new(429, "TooManyRequests", message).with_details(details))
}
