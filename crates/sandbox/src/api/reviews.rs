//! Reviews: questions that are posted and answered, and stored nowhere.

use std::sync::Arc;

use http::{Method, Response};
use serde_json::{Value, json};

use crate::Shared;
use crate::access::{self, Attributes, User};
use crate::api::discovery::REVIEWS;
use crate::api::request::{Request, Target};
use crate::api::respond::{self, Body};
use crate::fields::managed;
use crate::fields::validate::Cause;
use crate::json::{list_at, object, text_at};
use crate::status::{Result, Status, cause, invalid};
use crate::store::State;

/// Answers a review; `None` when the path names none.
pub(crate) fn answer(
    shared: &Arc<Shared>,
    request: &Request,
    target: &Target,
) -> Result<Option<Response<Body>>> {
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
    let state = shared.state();
    let user = &request.user;
    let status = match *kind {
        "SelfSubjectRulesReview" => match text_at(&review, "/spec/namespace") {
            "" => return Err(Status::bad_request("no namespace on request")),
            namespace => access::rules(&state, user, namespace),
        },
        "TokenReview" => token(shared, text_at(&review, "/spec/token")),
        own => {
            let causes = check(&review, own, target);
            if !causes.is_empty() {
                return Err(Status::invalid(group, "", "", &causes));
            }
            let subject = if own == "SelfSubjectAccessReview" {
                user.clone()
            } else {
                subject(&review)
            };
            decide(&state, &subject, &Attributes::of_review(&review))
        }
    };
    let map = object(&mut review);
    map.insert("kind".into(), (*kind).into());
    map.insert("apiVersion".into(), format!("{group}/{version}").into());
    map.insert("status".into(), status);
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    object(metadata).insert("creationTimestamp".into(), Value::Null);
    if *kind == "SelfSubjectRulesReview" {
        map.insert("spec".into(), json!({}));
    } else if let Some(schema) =
        crate::fields::Schema::builtin(&format!("{group}/{version}"), kind, crate::fields::BASE)
    {
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

/// What is wrong with a review of access.
fn check(review: &Value, kind: &str, target: &Target) -> Vec<Cause> {
    let given = |key: &str| {
        review
            .pointer(&format!("/spec/{key}"))
            .is_some_and(|value| !value.is_null())
    };
    let mut causes = Vec::new();
    if given("resourceAttributes") && given("nonResourceAttributes") {
        let other = |key: &str| text_at(review, &format!("/spec/nonResourceAttributes/{key}")).to_owned();
        let why = format!(
            "Invalid value: authorization.NonResourceAttributes{{Path:{:?}, Verb:{:?}}}: cannot be specified in combination \
             with resourceAttributes",
            other("path"),
            other("verb")
        );
        causes.push(cause("FieldValueInvalid", "spec.nonResourceAttributes", why));
    }
    if !given("resourceAttributes") && !given("nonResourceAttributes") {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        causes.push(invalid("spec.resourceAttributes", &"null".into(), why));
    }
    if kind != "SelfSubjectAccessReview"
        && text_at(review, "/spec/user").is_empty()
        && list_at(review, "/spec/groups").is_empty()
    {
        let why = "at least one of user or group must be specified";
        causes.push(invalid("spec.user", &"".into(), why));
    }
    let namespace = text_at(review, "/spec/resourceAttributes/namespace");
    if kind == "LocalSubjectAccessReview" && namespace != target.namespace {
        let why = "must match metadata.namespace";
        causes.push(invalid(
            "spec.resourceAttributes.namespace",
            &namespace.into(),
            why,
        ));
    }
    causes
}

fn decide(state: &State, user: &User, wanted: &Attributes) -> Value {
    match access::decide(state, user, wanted) {
        Some(reason) if reason.is_empty() => json!({ "allowed": true }),
        Some(reason) => json!({ "allowed": true, "reason": reason }),
        None => json!({ "allowed": false }),
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
    let Some(user) = shared.authenticate(token) else {
        return json!({ "user": {}, "error": "invalid bearer token" });
    };
    let mut shown = json!({ "username": user.name, "groups": user.groups });
    let account = user.name.strip_prefix("system:serviceaccount:");
    if let Some((namespace, name)) = account.and_then(|account| account.split_once(':'))
        && let Some(found) = shared.state().find("serviceaccounts", namespace, name)
    {
        object(&mut shown).insert("uid".into(), crate::json::uid(found).into());
    }
    json!({ "authenticated": true, "user": shown })
}
