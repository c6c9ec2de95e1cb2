//! Events: what the scheduler, the kubelets and the controllers tell of what does not work.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::controllers::create;
use crate::json::{name, namespace, number_at, text, text_at, uid};
use crate::status::Result;
use crate::transaction::Transaction;
use crate::write::Writer;

/// What sort of thing is told, and by whom.
pub(crate) struct Sort {
    pub reason: &'static str,
    severity: &'static str,
    component: &'static str,
}

const fn warning(reason: &'static str, component: &'static str) -> Sort {
    Sort {
        reason,
        severity: "Warning",
        component,
    }
}

pub(crate) const FAILED: Sort = warning("Failed", "kubelet");
pub(crate) const BACK_OFF: Sort = warning("BackOff", "kubelet");
pub(crate) const FAILED_MOUNT: Sort = warning("FailedMount", "kubelet");
pub(crate) const FAILED_SCHEDULING: Sort = warning("FailedScheduling", "default-scheduler");
pub(crate) const EXTERNAL_PROVISIONING: Sort = Sort {
    reason: "ExternalProvisioning",
    severity: "Normal",
    component: "persistentvolume-controller",
};

/// What was told of an object before.
fn find(transaction: &Transaction, about: &Value, sort: &Sort, message: &str) -> Option<Arc<Value>> {
    let events = transaction.state.collection("events")?;
    events
        .range(namespace(about), None)
        .map(|(_, event)| event)
        .find(|event| {
            text_at(event, "/involvedObject/uid") == uid(about)
                && text(event, "reason") == sort.reason
                && text(event, "message") == message
        })
        .cloned()
}

/// Tells something about an object that goes on; it is not counted how long.
pub(crate) fn tell_once(
    transaction: &mut Transaction,
    about: &Value,
    sort: &Sort,
    message: &str,
) -> Result<()> {
    match find(transaction, about, sort, message) {
        Some(_) => Ok(()),
        None => tell(transaction, about, sort, message),
    }
}

/// Tells something about an object. What was told before is counted.
pub(crate) fn tell(transaction: &mut Transaction, about: &Value, sort: &Sort, message: &str) -> Result<()> {
    let kind = transaction.builtin("", "events")?;
    let now = transaction.now.clone();
    if let Some(known) = find(transaction, about, sort, message) {
        let mut next = Value::clone(&known);
        next["count"] = (number_at(&known, "/count").unwrap_or(1) + 1).into();
        next["lastTimestamp"] = now.into();
        transaction.put(&kind, next);
        return Ok(());
    }
    let event_name = format!("{}.{:016x}", name(about), transaction.state.draw());
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": event_name, "namespace": namespace(about) },
        "involvedObject": {
            "apiVersion": text(about, "apiVersion"),
            "kind": text(about, "kind"),
            "namespace": namespace(about),
            "name": name(about),
            "uid": uid(about),
            "resourceVersion": text_at(about, "/metadata/resourceVersion"),
        },
        "reason": sort.reason,
        "message": message,
        "source": { "component": sort.component },
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "type": sort.severity,
        "eventTime": null,
        "reportingComponent": "",
        "reportingInstance": "",
    });
    let writer = Writer {
        manager: sort.component,
        admission: false,
        user: None,
    };
    create(transaction, &kind, event, writer)?;
    Ok(())
}
