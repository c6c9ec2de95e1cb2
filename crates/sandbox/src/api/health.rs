//! How the control plane is: always well, but told in the words of one that could fail.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Method, Response};
use serde_json::{Value, json};

use crate::Shared;
use crate::api::query::{self, Form};
use crate::api::request::{Request, Target};
use crate::api::respond::{self, Body};
use crate::api::{Endpoint, warnings};
use crate::kinds::Resource;
use crate::status::{Result, Status};

/// What a server checks, in its order.
const CHECKS: &[&str] = &[
    "ping",
    "log",
    "etcd",
    "informer-sync",
    "poststarthook/start-kube-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/bootstrap-controller",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/aggregator-reload-proxy-client-cert",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-status-available-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "shutdown",
];

/// Answers `/healthz`, `/livez` or `/readyz`, or one check of it; `None` when there is no such check.
pub(crate) fn check(request: &Request, endpoint: &str, check: &str) -> Option<Response<Body>> {
    // Whether caches are filled and nobody shuts down is asked of readiness only.
    let mut known = CHECKS
        .iter()
        .filter(|known| endpoint == "readyz" || !matches!(**known, "informer-sync" | "shutdown"));
    if !check.is_empty() {
        return known
            .any(|known| *known == check)
            .then(|| respond::text(200, "ok"));
    }
    if request.query.get("verbose").is_none() {
        return Some(respond::text(200, "ok"));
    }
    let mut excluded: Vec<_> = request.query.all("exclude").collect();
    let mut told = String::new();
    for known in known {
        let length = excluded.len();
        excluded.retain(|one| one != known);
        let how = if excluded.len() < length { " excluded:" } else { "" };
        let _ = writeln!(told, "[+]{known}{how} ok");
    }
    if !excluded.is_empty() {
        let quoted: Vec<_> = excluded.iter().map(|one| format!("{one:?}")).collect();
        let _ = writeln!(
            told,
            "warn: some health checks cannot be excluded: no matches for {}",
            quoted.join(",")
        );
    }
    let _ = writeln!(told, "{endpoint} check passed");
    Some(respond::text(200, told))
}

/// Answers for the parts of the control plane: a sandbox has none that could fail.
pub(crate) fn components(shared: &Shared, request: &Request, target: &Target) -> Result<Response<Body>> {
    if request.method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    let component = |name: &str, message: &str| {
        Arc::new(json!({
            "kind": "ComponentStatus",
            "apiVersion": "v1",
            "metadata": { "name": name, "creationTimestamp": null },
            "conditions": [{ "type": "Healthy", "status": "True", "message": message }],
        }))
    };
    let all: [Arc<Value>; 3] = [
        component("scheduler", "ok"),
        component("controller-manager", "ok"),
        component("etcd-0", "{\"health\":\"true\"}"),
    ];
    let endpoint = Endpoint {
        resource: Arc::new(Resource::component_status()),
        target: target.clone(),
    };
    let mut response = if target.name.is_empty() {
        let form = Form::of(request, false)?;
        let all: Vec<_> = all.iter().collect();
        query::many(shared, request, &endpoint, form, &all, &json!({}))?
    } else {
        let found = all.iter().find(|one| crate::json::name(one) == target.name);
        let found = found.ok_or_else(|| Status::not_found_as("componentstatus", "", &target.name))?;
        query::one(shared, 200, request, &endpoint, found)?
    };
    if let Some(warning) = warnings::header("v1 ComponentStatus is deprecated in v1.19+") {
        response.headers_mut().insert("warning", warning);
    }
    Ok(response)
}
