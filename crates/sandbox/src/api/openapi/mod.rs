//! What clients ask to know the kinds: OpenAPI 2 and 3, without descriptions.
//!
//! kubectl checks manifests against it, finds out how lists merge, whether a dry run and the check of fields are offered, and
//! explains kinds. Kubernetes serves version 3 from 1.24 on; here it is served whatever version is played, since only those ask
//! for it who understand it.

mod protobuf;
mod schemas;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Response;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::Shared;
use crate::api::request::Request;
use crate::api::respond::{self, Body};
use crate::kinds::Resource;
use crate::status::Status;
use crate::store::State;
use schemas::Dialect;

/// The document of version 2 as a protobuf message, which kubectl up to 1.26 asks for.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Queries of a patch that clients look for before they use them.
const PARAMETERS: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];

pub(crate) fn answer(shared: &Shared, request: &Request, rest: &[&str]) -> Response<Body> {
    let accept = request.header("accept");
    let state = shared.state();
    match rest {
        ["v2"] => {
            let document = version_2(shared, &state);
            // Older clients ask with an `@` that is no media type.
            if accept.contains("proto-openapi.spec.v2") {
                respond::respond(200, V2_PROTOBUF, Bytes::from(protobuf::encode(&document)))
            } else {
                respond::json(200, &document)
            }
        }
        ["v3"] => respond::json(200, &version_3_index(shared, &state)),
        ["v3", "api", version] => version_3(shared, &state, accept, "", version),
        ["v3", "apis", group, version] => version_3(shared, &state, accept, group, version),
        _ => respond::text(404, "404 page not found\n"),
    }
}

/// All kinds that are served, each with a version.
fn served<'a>(shared: &'a Shared, state: &'a State) -> impl Iterator<Item = (&'a Resource, &'a str)> {
    shared
        .builtins
        .resources
        .iter()
        .chain(state.custom())
        .flat_map(|resource| {
            let versions = resource.versions.iter();
            versions.map(move |version| (&**resource, version.name.as_str()))
        })
}

fn version_2(shared: &Shared, state: &State) -> Value {
    let mut definitions = Map::new();
    let mut paths = Map::new();
    for (resource, version) in served(shared, state) {
        schemas::add(&mut definitions, resource, version, Dialect::V2);
        if !resource.is_custom() {
            paths.extend(paths_of(resource, version, Dialect::V2));
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": shared.config.kubernetes_version },
        "paths": paths,
        "definitions": definitions,
    })
}

/// Where the documents of version 3 are, one for each group and version. The address of one changes with its content.
fn version_3_index(shared: &Shared, state: &State) -> Value {
    let mut contents: BTreeMap<String, Sha256> = BTreeMap::new();
    for (resource, version) in served(shared, state) {
        let path = if resource.group.is_empty() {
            format!("api/{version}")
        } else {
            format!("apis/{}/{version}", resource.group)
        };
        let digest = contents.entry(path).or_default();
        digest.update(&shared.config.kubernetes_version);
        digest.update(&resource.kind);
        if let Some(definition) = &resource.definition {
            digest.update(definition["metadata"]["resourceVersion"].to_string());
        }
    }
    let paths: Map<String, Value> = contents
        .into_iter()
        .map(|(path, digest)| {
            let hash = URL_SAFE_NO_PAD.encode(digest.finalize());
            let address = format!("/openapi/v3/{path}?hash={hash}");
            (path, json!({ "serverRelativeURL": address }))
        })
        .collect();
    json!({ "paths": paths })
}

fn version_3(shared: &Shared, state: &State, accept: &str, group: &str, version: &str) -> Response<Body> {
    if accept.contains("proto-openapi") && !accept.contains("json") && !accept.contains("*/*") {
        return respond::status(&Status::plain(406, "NotAcceptable", "only JSON is served here"));
    }
    let mut definitions = Map::new();
    let mut paths = Map::new();
    let wanted =
        served(shared, state).filter(|(resource, served)| resource.group == group && *served == version);
    for (resource, version) in wanted {
        schemas::add(&mut definitions, resource, version, Dialect::V3);
        paths.extend(paths_of(resource, version, Dialect::V3));
    }
    if paths.is_empty() {
        return respond::text(404, "404 page not found\n");
    }
    respond::json(
        200,
        &json!({
            "openapi": "3.0.0",
            "info": { "title": "Kubernetes", "version": shared.config.kubernetes_version },
            "paths": paths,
            "components": { "schemas": definitions },
        }),
    )
}

/// The paths of a kind: what clients look for there is which kind it is, and which queries a patch takes.
fn paths_of(resource: &Resource, version: &str, dialect: Dialect) -> Vec<(String, Value)> {
    let base = if resource.group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{}/{version}", resource.group)
    };
    let base = if resource.namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{base}/{}", resource.plural)
    };
    let kind = json!({ "group": resource.group, "kind": resource.kind, "version": version });
    let operation = |parameters: &[&str]| {
        let parameters: Vec<_> = parameters
            .iter()
            // Kubernetes tells of the check of fields in version 3 only where it has both.
            .filter(|name| dialect == Dialect::V3 || **name != "fieldValidation")
            .map(|name| {
                let kind = if *name == "force" { "boolean" } else { "string" };
                let mut parameter = json!({ "in": "query", "name": name });
                match dialect {
                    Dialect::V2 => parameter["type"] = kind.into(),
                    Dialect::V3 => parameter["schema"] = json!({ "type": kind }),
                }
                parameter
            })
            .collect();
        json!({
            "parameters": parameters,
            "responses": {},
            "x-kubernetes-group-version-kind": kind,
        })
    };
    let writing = &PARAMETERS[..3];
    vec![
        (
            base.clone(),
            json!({ "get": operation(&[]), "post": operation(writing) }),
        ),
        (
            format!("{base}/{{name}}"),
            json!({
                "get": operation(&[]),
                "put": operation(writing),
                "patch": operation(PARAMETERS),
                "delete": operation(&PARAMETERS[..1]),
            }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{Config, Sandbox};

    /// All names that a document refers to.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(name) = fields.get("$ref").and_then(Value::as_str) {
                    found.insert(name.rsplit('/').next().unwrap_or_default().to_owned());
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn nothing_is_referred_to_that_is_not_there() {
        let sandbox = Sandbox::new(Config::default());
        let state = sandbox.shared.state();
        let document = version_2(&sandbox.shared, &state);
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 200, "{}", found.len());
        for name in found {
            assert!(document["definitions"].get(&name).is_some(), "{name}");
        }
        let spec = &document["definitions"]["io.k8s.api.apps.v1.DeploymentSpec"];
        assert_eq!(spec["required"], json!(["selector", "template"]));
        assert_eq!(
            spec["properties"]["strategy"],
            json!({
                "$ref": "#/definitions/io.k8s.api.apps.v1.DeploymentStrategy",
                "x-kubernetes-patch-strategy": "retainKeys",
            })
        );
    }
}
