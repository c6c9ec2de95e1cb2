//! ClusterRoles that are made of others.

use std::sync::Arc;

use serde_json::Value;

use crate::controllers::write_status;
use crate::json::{is_deleting, list, list_at, name, object};
use crate::selector::Labels;
use crate::status::Result;
use crate::store::Change;
use crate::transaction::Transaction;
use crate::write::Writer;

/// Brings every aggregated ClusterRole up to date after a change of one that it may be made of.
pub(crate) fn aggregate(transaction: &mut Transaction, change: &Change) -> Result<()> {
    let part = |role: &Option<Arc<Value>>| {
        role.as_ref().map(|role| {
            ["/rules", "/aggregationRule", "/metadata/labels"].map(|pointer| role.pointer(pointer).cloned())
        })
    };
    if part(&change.old) == part(&change.new) {
        return Ok(());
    }
    let kind = transaction.builtin("rbac.authorization.k8s.io", "clusterroles")?;
    let collection = transaction.state.objects_of(&kind);
    let aggregated = collection
        .iter()
        .map(|(_, role)| role)
        .filter(|role| role.pointer("/aggregationRule/clusterRoleSelectors").is_some() && !is_deleting(role));
    for role in aggregated {
        let mut rules: Vec<Value> = Vec::new();
        for selector in list_at(role, "/aggregationRule/clusterRoleSelectors") {
            let Some(selector) = Labels::of(Some(selector)) else {
                continue;
            };
            // The collection is in the order of names, which is the order of aggregation.
            for (_, other) in collection.iter().filter(|(_, other)| name(other) != name(role)) {
                if selector.matches(other) {
                    for rule in list(other, "rules") {
                        if !rules.contains(rule) {
                            rules.push(rule.clone());
                        }
                    }
                }
            }
        }
        if rules != list(role, "rules") {
            let mut next = Value::clone(role);
            object(&mut next).insert("rules".into(), rules.into());
            write_status(transaction, &kind, role, next, Writer::CONTROLLER);
        }
    }
    Ok(())
}
