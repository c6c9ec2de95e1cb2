//! Whether a cluster has come to rest.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Endpoints, Secret, Service};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{ListParams, ObjectList};
use kube::{Api, Client};
use serde::de::DeserializeOwned;

use super::Error;

/// What is not ready, each as `Kind name` or `Kind namespace/name`. With `aggregated`, APIs behind Services count too.
pub(crate) async fn unsettled(client: &Client, aggregated: bool) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    found.extend(of(&list(client).await?, "Deployment", is_deployment_ready));
    found.extend(of(&list(client).await?, "StatefulSet", is_stateful_set_ready));
    found.extend(of(&list(client).await?, "DaemonSet", is_daemon_set_ready));
    found.extend(of(&list(client).await?, "Secret", has_token));
    let endpoints: ObjectList<Endpoints> = list(client).await?;
    let has_endpoints = |service: &Service| {
        let selects = service.spec.as_ref().is_some_and(|spec| spec.selector.is_some());
        let same = |of: &Endpoints| {
            of.metadata.name == service.metadata.name && of.metadata.namespace == service.metadata.namespace
        };
        !selects || endpoints.iter().any(same)
    };
    found.extend(of(&list(client).await?, "Service", has_endpoints));
    let is_served = |service: &APIService| {
        let is_local = service.spec.as_ref().is_none_or(|spec| spec.service.is_none());
        let conditions = service
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let available = |kind: &str, status: &str| kind == "Available" && status == "True";
        (!is_local && !aggregated)
            || conditions
                .into_iter()
                .any(|one| available(&one.type_, &one.status))
    };
    found.extend(of(&list(client).await?, "APIService", is_served));
    Ok(found)
}

async fn list<K>(client: &Client) -> Result<ObjectList<K>, Error>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    Ok(Api::all(client.clone()).list(&ListParams::default()).await?)
}

fn of<K: kube::Resource + Clone>(
    list: &ObjectList<K>,
    kind: &str,
    is_ready: impl Fn(&K) -> bool,
) -> Vec<String> {
    let label = |object: &K| {
        let name = object.meta().name.as_deref().unwrap_or_default();
        match object.meta().namespace.as_deref() {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        }
    };
    list.iter()
        .filter(|object| !is_ready(object))
        .map(label)
        .collect()
}

fn is_deployment_ready(object: &Deployment) -> bool {
    let wanted = object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = object.status.clone().unwrap_or_default();
    status.observed_generation >= object.metadata.generation
        && [
            status.replicas,
            status.updated_replicas,
            status.available_replicas,
        ]
        .iter()
        .all(|count| count.unwrap_or(0) == wanted)
}

fn is_stateful_set_ready(object: &StatefulSet) -> bool {
    let wanted = object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = object.status.clone().unwrap_or_default();
    let strategy = object
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref());
    // Its pods stay as they are until somebody deletes them.
    let is_on_delete = strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete"));
    status.observed_generation >= object.metadata.generation
        && status.ready_replicas.unwrap_or(0) == wanted
        && (is_on_delete || status.current_revision == status.update_revision)
}

fn is_daemon_set_ready(object: &DaemonSet) -> bool {
    let status = object.status.clone().unwrap_or_default();
    status.observed_generation >= object.metadata.generation
        && status.number_ready == status.desired_number_scheduled
        && status.updated_number_scheduled.unwrap_or(0) == status.desired_number_scheduled
}

/// Only a service account's token Secret is waited for.
fn has_token(secret: &Secret) -> bool {
    secret.type_.as_deref() != Some("kubernetes.io/service-account-token")
        || secret
            .data
            .as_ref()
            .is_some_and(|data| data.contains_key("token"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check<K: DeserializeOwned>(is_ready: impl Fn(&K) -> bool, object: Value, expect: bool) {
        assert_eq!(
            is_ready(&serde_json::from_value(object.clone()).unwrap()),
            expect,
            "{object}"
        );
    }

    #[test]
    fn a_deployment_is_ready_when_all_replicas_are_new_and_available() {
        let mk = |replicas: u32, updated: u32, available: u32, observed: u32| {
            json!({
                "metadata": {"generation": 2}, "spec": {"replicas": 2, "selector": {}, "template": {}},
                "status": {
                    "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available,
                    "observedGeneration": observed,
                },
            })
        };
        check(is_deployment_ready, mk(2, 2, 2, 2), true);
        check(is_deployment_ready, mk(3, 2, 2, 2), false);
        check(is_deployment_ready, mk(2, 1, 2, 2), false);
        check(is_deployment_ready, mk(2, 2, 1, 2), false);
        check(is_deployment_ready, mk(2, 2, 2, 1), false);
        let none = json!({"spec": {"replicas": 0, "selector": {}, "template": {}}});
        check(is_deployment_ready, none, true);
    }

    #[test]
    fn only_token_secrets_need_a_token() {
        let mk = |kind: &str, data: Value| json!({"type": kind, "data": data});
        let token = "kubernetes.io/service-account-token";
        check(has_token, mk("Opaque", json!({})), true);
        check(has_token, mk(token, json!({"ca.crt": "Yw=="})), false);
        check(has_token, mk(token, json!({"token": "dA=="})), true);
    }

    #[test]
    fn what_is_not_ready_is_named() {
        let list: ObjectList<Deployment> = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "DeploymentList", "metadata": {},
            "items": [{"metadata": {"name": "web", "namespace": "shop"}}],
        }))
        .unwrap();
        assert_eq!(
            of(&list, "Deployment", is_deployment_ready),
            ["Deployment shop/web"]
        );
    }
}
