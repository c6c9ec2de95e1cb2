//! APIServices that a Service in the cluster answers for: whether it is there.

use serde_json::Value;

use crate::controllers::definitions::set_condition;
use crate::controllers::write_status;
use crate::json::{is_deleting, list, text, text_at};
use crate::status::Result;
use crate::store::Key;
use crate::transaction::Transaction;
use crate::write::Writer;

const STORE: &str = "apiservices.apiregistration.k8s.io";

pub(crate) fn reconcile(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(registered) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if is_deleting(&registered) {
        return Ok(());
    }
    let (namespace, name) = (
        text_at(&registered, "/spec/service/namespace"),
        text_at(&registered, "/spec/service/name"),
    );
    let (status, reason, message) = if name.is_empty() {
        (
            "True",
            "Local",
            "Local APIServices are always available".to_owned(),
        )
    } else if transaction.state.find("services", namespace, name).is_none() {
        (
            "False",
            "ServiceNotFound",
            format!("service/{name} in {namespace:?} is not present"),
        )
    } else {
        match transaction.state.find("endpoints", namespace, name) {
            None => (
                "False",
                "EndpointsNotFound",
                format!("cannot find endpoints for service/{name} in {namespace:?}"),
            ),
            Some(endpoints)
                if list(endpoints, "subsets")
                    .iter()
                    .all(|subset| list(subset, "addresses").is_empty()) =>
            {
                (
                    "False",
                    "MissingEndpoints",
                    format!(
                        "endpoints for service/{name} in {namespace:?} have no addresses with port name \"\""
                    ),
                )
            }
            // What stands behind it is never called.
            Some(_) => ("True", "Passed", "all checks passed".to_owned()),
        }
    };
    let mut next = Value::clone(&registered);
    set_condition(&mut next, "Available", status, reason, &message, &transaction.now);
    let kind = transaction.builtin("apiregistration.k8s.io", "apiservices")?;
    write_status(transaction, &kind, &registered, next, Writer::API_SERVER);
    Ok(())
}

/// The APIServices that a Service answers for follow it and its endpoints.
pub(crate) fn follow_service(transaction: &mut Transaction, service: &Key) {
    let behind: Vec<_> = transaction
        .state
        .collection(STORE)
        .into_iter()
        .flat_map(crate::store::Collection::iter)
        .filter(|(_, registered)| {
            registered.pointer("/spec/service").is_some_and(|backend| {
                text(backend, "name") == service.name() && text(backend, "namespace") == service.namespace()
            })
        })
        .map(|(path, _)| Key {
            store: STORE.into(),
            path: path.clone(),
        })
        .collect();
    for key in behind {
        transaction.mark(key);
    }
}
