//! The REST API: from a request to an answer.

mod body;
mod delete;
pub(crate) mod discovery;
mod health;
mod logs;
mod mutate;
mod openapi;
mod options;
mod protobuf;
mod query;
pub(crate) mod request;
pub(crate) mod respond;
mod reviews;
mod scale;
mod table;
mod warnings;
mod watch;

use std::sync::Arc;

use http::{Method, Response};
use serde_json::{Value, json};

use crate::Shared;
use crate::access::{self, Attributes, User};
use crate::kinds::Resource;
use crate::status::{Result, Status};
use crate::store::State;
use crate::write::Place;
use request::{Request, Target, decode};
use respond::Body;

/// A resource that a request names, found.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub resource: Arc<Resource>,
    pub target: Target,
}

impl Endpoint {
    pub(crate) fn version(&self) -> &str {
        &self.target.version
    }

    /// What a write to the path is addressed to.
    pub(crate) fn place(&self) -> Place<'_> {
        Place {
            resource: &self.resource,
            version: &self.target.version,
            subresource: &self.target.subresource,
        }
    }

    /// The object itself, whatever subresource the path names.
    pub(crate) fn main(&self) -> Place<'_> {
        Place {
            subresource: "",
            ..self.place()
        }
    }

    pub(crate) fn api_version(&self) -> String {
        self.resource.api_version(&self.target.version)
    }
}

/// Answers a request.
pub(crate) fn handle(shared: &Arc<Shared>, request: &Request) -> Response<Body> {
    let mut response = route(shared, request).unwrap_or_else(|status| respond::status(&status));
    let first = request
        .header("accept")
        .split([',', ';'])
        .next()
        .unwrap_or_default();
    if first.trim() == "application/yaml" {
        response = respond::to_yaml(response);
    }
    tracing::debug!(method = %request.method, path = %request.path, code = response.status().as_u16(), "request");
    response
}

fn route(shared: &Arc<Shared>, request: &Request) -> Result<Response<Body>> {
    let parts: Vec<String> = request
        .path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(decode)
        .collect();
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    let reading = matches!(request.method, Method::GET | Method::HEAD);
    if !request.user.is_admin() {
        access::check(&shared.state(), &request.user, &attributes(request, &parts))?;
    }
    match words.as_slice() {
        [] if reading => Ok(respond::json(200, &discovery::paths(shared))),
        ["version"] if reading => Ok(respond::json(200, &shared.version())),
        [endpoint @ ("healthz" | "livez" | "readyz"), check @ ..] if reading => {
            let answer = health::check(request, endpoint, &check.join("/"));
            Ok(answer.unwrap_or_else(|| respond::json(404, &discovery::paths(shared))))
        }
        ["openapi", rest @ ..] if reading => Ok(openapi::answer(shared, request, rest)),
        ["api"] if reading => Ok(discovery::legacy(shared, request)),
        ["apis"] if reading => Ok(discovery::groups(shared, request)),
        ["apis", group] if reading => Ok(discovery::group(shared, group)),
        ["api", "v1"] if reading => discovery::resources(shared, "", "v1"),
        // Below a group that is built in, an unknown version is an unknown resource.
        ["api", _] if reading => Err(Status::no_such_resource()),
        ["apis", group, version] if reading => discovery::resources(shared, group, version),
        ["api", "v1", ..] => resource(shared, request, "", "v1", &parts[2..]),
        ["apis", group, version, _, ..] => resource(shared, request, group, version, &parts[3..]),
        // The server's last word on an unknown path is the list of those it knows.
        _ => Ok(respond::json(404, &discovery::paths(shared))),
    }
}

/// What a request is about, to those who authorise it.
fn attributes(request: &Request, parts: &[String]) -> Attributes {
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    let target = match words.as_slice() {
        ["api", version, _, ..] => Target::parse("", version, &parts[2..]),
        ["apis", group, version, _, ..] => Target::parse(group, version, &parts[3..]),
        _ => None,
    };
    let Some(target) = target else {
        return Attributes {
            verb: request.method.as_str().to_lowercase(),
            path: request.path.clone(),
            ..Attributes::default()
        };
    };
    let mut name = target.name;
    if name.is_empty() {
        // A list of one name is about that one.
        let selector = request.query.get("fieldSelector").unwrap_or_default();
        let chosen = selector
            .split(',')
            .find_map(|one| one.strip_prefix("metadata.name="));
        chosen
            .unwrap_or_default()
            .trim_start_matches('=')
            .clone_into(&mut name);
    }
    let named = !name.is_empty() && request.query.get("fieldSelector").is_none();
    let verb = match &request.method {
        &Method::GET | &Method::HEAD if target.watch || request.query.flag("watch") => "watch",
        &Method::GET | &Method::HEAD if named => "get",
        &Method::GET | &Method::HEAD => "list",
        &Method::POST => "create",
        &Method::PUT => "update",
        &Method::PATCH => "patch",
        &Method::DELETE if named => "delete",
        &Method::DELETE => "deletecollection",
        _ => "",
    };
    let namespace = if target.plural == "namespaces" && target.namespace.is_empty() {
        name.clone()
    } else {
        target.namespace
    };
    Attributes {
        verb: verb.to_owned(),
        group: target.group,
        subresource: target
            .subresource
            .split('/')
            .next()
            .unwrap_or_default()
            .to_owned(),
        resource: target.plural,
        namespace,
        name,
        path: String::new(),
    }
}

/// Refuses to act as somebody whom the user may not act as.
pub(crate) fn check_impersonation(shared: &Shared, request: &Request, wanted: &User) -> Result<()> {
    if request.user.is_admin() {
        return Ok(());
    }
    let state = shared.state();
    let ask = |resource: &str, namespace: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        access::check(&state, &request.user, &attributes)
    };
    match wanted
        .name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
    {
        Some((namespace, name)) => ask("serviceaccounts", namespace, name)?,
        None => ask("users", "", &wanted.name)?,
    }
    for group in request.headers.get_all("impersonate-group") {
        ask("groups", "", group.to_str().unwrap_or_default())?;
    }
    Ok(())
}

fn resource(
    shared: &Arc<Shared>,
    request: &Request,
    group: &str,
    version: &str,
    rest: &[String],
) -> Result<Response<Body>> {
    let not_served = || {
        if shared.builtins.has_group(group) {
            return Err(Status::no_such_resource());
        }
        Ok(respond::text(404, "404 page not found\n"))
    };
    let Some(target) = Target::parse(group, version, rest) else {
        return not_served();
    };
    if group.is_empty() && target.plural == "componentstatuses" {
        return health::components(shared, request, &target);
    }
    if let Some(response) = reviews::answer(shared, request, &target)? {
        return Ok(response);
    }
    let state = shared.state();
    let Some(resource) = state.resource(&shared.builtins, group, &target.plural) else {
        return not_served();
    };
    if resource.version(version).is_none() || (!resource.namespaced && !target.namespace.is_empty()) {
        return not_served();
    }
    let endpoint = Endpoint { resource, target };
    let target = &endpoint.target;
    let subresource = target.subresource.split('/').next().unwrap_or_default();
    let served = subresource.is_empty() || endpoint.resource.subresources(version).contains(&subresource);
    if !served && endpoint.resource.is_custom() {
        return Err(Status::not_found(&endpoint.resource, &target.name));
    }
    if !served {
        return not_served();
    }
    // Refusals carry warnings as well.
    let mut response = serve(shared, request, &endpoint, &state, not_served)
        .unwrap_or_else(|status| respond::status(&status));
    if let Some(warning) = warnings::of(&endpoint, shared.builtins.minor) {
        response.headers_mut().insert("warning", warning);
    }
    let given = request.warnings.borrow();
    for warning in given.iter().filter_map(|message| warnings::header(message)) {
        response.headers_mut().append("warning", warning);
    }
    Ok(response)
}

/// Answers a request about a resource that is served.
fn serve(
    shared: &Arc<Shared>,
    request: &Request,
    endpoint: &Endpoint,
    state: &State,
    not_served: impl Fn() -> Result<Response<Body>>,
) -> Result<Response<Body>> {
    let target = &endpoint.target;
    let named = !target.name.is_empty();
    let needs_namespace = endpoint.resource.namespaced && target.namespace.is_empty();
    match (&request.method, named) {
        (&Method::GET | &Method::HEAD, false) if target.watch || request.query.flag("watch") => {
            watch::answer(shared, request, endpoint)
        }
        (&Method::GET | &Method::HEAD, true)
            if target.subresource.is_empty() && (target.watch || request.query.flag("watch")) =>
        {
            watch::answer(shared, request, endpoint)
        }
        (&Method::GET | &Method::HEAD, false) => query::list(shared, request, endpoint, state),
        (&Method::GET | &Method::HEAD, true) if !needs_namespace => {
            query::get(shared, request, endpoint, state)
        }
        (&Method::POST, false) if needs_namespace && endpoint.resource.is_custom() => not_served(),
        (&Method::POST, false) if needs_namespace => Err(Status::method_not_allowed()),
        (&Method::POST, _) => mutate::create(shared, request, endpoint),
        (&Method::PUT, true) if !needs_namespace => mutate::replace(shared, request, endpoint),
        (&Method::PATCH, true) if !needs_namespace => mutate::patch(shared, request, endpoint),
        (&Method::DELETE, true) if !needs_namespace && target.subresource.is_empty() => {
            delete::delete(shared, request, endpoint)
        }
        (&Method::DELETE, false) if !needs_namespace => delete::delete_collection(shared, request, endpoint),
        (&Method::PUT | &Method::PATCH, false) if endpoint.resource.is_custom() => {
            Err(Status::bad_request("name must be provided"))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// Object metadata only, as clients may ask for it.
fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}
