//! What a request is about, as far as faults care.

use bytes::Bytes;
use http::{Method, request::Parts};
use serde_json::Value;

use crate::api::request::{Query, Target, decode};
use crate::json::name;
use crate::kinds::qualified;

/// What a request does. The words are Kubernetes'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    /// Discovery, versions, reviews: what is about no object.
    Other,
}

/// A request, counted and told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The position among all requests, from 1.
    pub number: u64,
    /// The position among the writes, from 1; `None` for what writes nothing.
    pub write: Option<u64>,
    pub verb: Verb,
    /// `deployments.apps`, `pods`; empty for what is about no object.
    pub resource: String,
    /// Empty for what is in no namespace.
    pub namespace: String,
    /// Empty for lists.
    pub name: String,
    /// `status`, `scale`; empty for the object itself.
    pub subresource: String,
}

impl Call {
    /// Tells a request apart. The positions are for the caller to fill in; a write has position 0.
    pub(crate) fn of(parts: &Parts, body: &Bytes) -> Call {
        let path: Vec<String> = parts
            .uri
            .path()
            .split('/')
            .filter(|part| !part.is_empty())
            .map(decode)
            .collect();
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let target = match words.as_slice() {
            ["api", "v1", _, ..] => Target::parse("", "v1", &path[2..]),
            ["apis", group, version, _, ..] => Target::parse(group, version, &path[3..]),
            _ => None,
        };
        let is_review = |target: &Target| target.plural.ends_with("reviews");
        let Some(target) = target.filter(|target| !is_review(target)) else {
            return Call {
                number: 0,
                write: None,
                verb: Verb::Other,
                resource: String::new(),
                namespace: String::new(),
                name: String::new(),
                subresource: String::new(),
            };
        };
        let verb = match parts.method {
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ if target.watch || query.flag("watch") => Verb::Watch,
            _ if target.name.is_empty() => Verb::List,
            _ => Verb::Get,
        };
        let is_write = !matches!(verb, Verb::Get | Verb::List | Verb::Watch);
        let mut named = target.name;
        if named.is_empty() && verb == Verb::Create {
            // The path of a creation does not say what is created.
            if let Ok(object) = serde_json::from_slice::<Value>(body) {
                name(&object).clone_into(&mut named);
            }
        }
        Call {
            number: 0,
            write: (is_write && query.get("dryRun").is_none_or(str::is_empty)).then_some(0),
            verb,
            resource: qualified(&target.plural, &target.group),
            namespace: target.namespace,
            name: named,
            subresource: target.subresource,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, uri: &str, body: &'static str, expect: (Verb, bool, &str, &str, &str)) {
        let (parts, ()) = http::Request::builder()
            .method(method)
            .uri(uri)
            .body(())
            .expect("a request")
            .into_parts();
        let call = Call::of(&parts, &Bytes::from_static(body.as_bytes()));
        let got = (
            call.verb,
            call.write.is_some(),
            call.resource.as_str(),
            call.namespace.as_str(),
            call.name.as_str(),
        );
        assert_eq!(got, expect, "{uri}");
    }

    #[test]
    fn requests_are_told_apart() {
        use Verb::{Create, Delete, Get, List, Other, Patch, Watch};
        let one = "/apis/apps/v1/namespaces/n/deployments/d";
        check(Method::GET, one, "", (Get, false, "deployments.apps", "n", "d"));
        check(
            Method::PATCH,
            &format!("{one}?fieldManager=me"),
            "",
            (Patch, true, "deployments.apps", "n", "d"),
        );
        check(
            Method::PATCH,
            &format!("{one}?dryRun=All"),
            "",
            (Patch, false, "deployments.apps", "n", "d"),
        );
        check(
            Method::DELETE,
            one,
            "",
            (Delete, true, "deployments.apps", "n", "d"),
        );
        check(
            Method::POST,
            "/api/v1/namespaces/n/secrets",
            r#"{"metadata":{"name":"s"}}"#,
            (Create, true, "secrets", "n", "s"),
        );
        check(
            Method::GET,
            "/api/v1/pods?limit=5",
            "",
            (List, false, "pods", "", ""),
        );
        check(
            Method::GET,
            "/api/v1/pods?watch=1",
            "",
            (Watch, false, "pods", "", ""),
        );
        check(Method::GET, "/apis/apps/v1", "", (Other, false, "", "", ""));
        check(
            Method::POST,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "{}",
            (Other, false, "", "", ""),
        );
    }
}
