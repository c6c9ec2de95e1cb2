//! Reviews: questions that are posted and answered, and stored nowhere.

use std::sync::Arc;

use http::{Method, Response};
use serde_json::{Value, json};

use crate::Shared;
use crate::api::discovery::REVIEWS;
use crate::api::request::{Request, Target, User};
use crate::api::respond::{self, Body};
use crate::fields::managed;
use crate::json::{list_at, object, text_at};
use crate::status::{Result, Status};

/// Answers a review; `None` when the path names none.
pub(crate) fn answer(
    shared: &Arc<Shared>,
    request: &Request,
    target: &Target,
) -> Result<Option<Response<Body>>> {
    if target.group.is_empty() && target.plural == "componentstatuses" {
        return components(request, target).map(Some);
    }
    let Some((group, _, kind, _)) = REVIEWS
        .iter()
        .find(|(group, plural, ..)| *group == target.group && *plural == target.plural)
    else {
        return Ok(None);
    };
    let version = &target.version;
    let known = shared
        .builtins
        .groups
        .iter()
        .any(|known| known.name == *group && known.versions.iter().any(|(name, _)| name == version));
    if !known {
        return Ok(Some(respond::text(404, "404 page not found\n")));
    }
    if request.method != Method::POST || !target.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let mut review = super::body::read(request)?;
    let user = request.acting();
    let status = match *kind {
        "SelfSubjectAccessReview" => decide(&user),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => decide(&subject(&review)),
        "SelfSubjectRulesReview" => rules(&user),
        _ => token(shared, text_at(&review, "/spec/token")),
    };
    let map = object(&mut review);
    map.insert("kind".into(), (*kind).into());
    map.insert("apiVersion".into(), format!("{group}/{version}").into());
    map.insert("status".into(), status);
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    object(metadata).insert("creationTimestamp".into(), Value::Null);
    if *kind == "SelfSubjectRulesReview" {
        map.insert("spec".into(), json!({}));
    } else if let Some(schema) = crate::fields::Schema::builtin(&format!("{group}/{version}"), kind) {
        let status = map.shift_remove("status");
        managed::update(
            None,
            &mut review,
            &request.manager(),
            &shared.config.now(),
            &schema,
        );
        if let Some(status) = status {
            object(&mut review).insert("status".into(), status);
        }
    }
    Ok(Some(respond::json(201, &review)))
}

/// The health of the control plane's parts: a sandbox has none that could fail.
fn components(request: &Request, target: &Target) -> Result<Response<Body>> {
    if request.method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    let component = |name: &str, message: &str| {
        json!({
            "metadata": { "name": name, "creationTimestamp": null },
            "conditions": [{ "type": "Healthy", "status": "True", "message": message }],
        })
    };
    let all = [
        component("scheduler", "ok"),
        component("controller-manager", "ok"),
        component("etcd-0", "{\"health\":\"true\"}"),
    ];
    if target.name.is_empty() {
        return Ok(respond::json(
            200,
            &json!({ "kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": all }),
        ));
    }
    let found = all.into_iter().find(|one| crate::json::name(one) == target.name);
    let mut found = found.ok_or_else(|| Status::not_found_as("componentstatus", "", &target.name))?;
    found["kind"] = "ComponentStatus".into();
    found["apiVersion"] = "v1".into();
    Ok(respond::json(200, &found))
}

/// Administrators may do everything; of others nothing is known yet.
fn decide(user: &User) -> Value {
    if user.is_admin() {
        json!({ "allowed": true })
    } else {
        json!({ "allowed": false })
    }
}

fn rules(user: &User) -> Value {
    if user.is_admin() {
        json!({
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
            "incomplete": false,
        })
    } else {
        json!({ "resourceRules": [], "nonResourceRules": [], "incomplete": true })
    }
}

fn subject(review: &Value) -> User {
    User {
        name: text_at(review, "/spec/user").to_owned(),
        groups: list_at(review, "/spec/groups")
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
    }
}

fn token(shared: &Shared, token: &str) -> Value {
    // Tokens made here spell out whose they are: `sandbox.NAMESPACE.NAME.UID`.
    let mut parts = token.split('.');
    if let (Some("sandbox"), Some(namespace), Some(name), Some(uid)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
        && shared
            .state()
            .find("serviceaccounts", namespace, name)
            .is_some_and(|account| crate::json::uid(account) == uid)
    {
        return json!({
            "authenticated": true,
            "user": {
                "username": format!("system:serviceaccount:{namespace}:{name}"),
                "uid": uid,
                "groups": [
                    "system:serviceaccounts",
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated",
                ],
            },
        });
    }
    json!({ "user": {}, "error": "invalid bearer token" })
}
