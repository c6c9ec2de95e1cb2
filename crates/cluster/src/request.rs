//! One HTTP request to the API server, and what became of it.

use std::{fmt::Write as _, time::Duration};

use http::{Method, Request, header};
use kube::client::Body;
use object::Object;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{ErrorClass, Failure};

/// How long one request may take in all. A page of a list is at most some megabytes.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) const JSON: &str = "application/json";
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
/// JSON is YAML.
pub(crate) const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// What is sent along, and how it is to be read.
#[derive(Clone, Copy)]
pub(crate) struct Content<'a> {
    pub kind: &'static str,
    pub value: &'a Value,
}

/// Sends a request and returns the body of a successful answer. `secret`: see [`Failure::from_answer`].
pub(crate) async fn send(
    client: &kube::Client,
    method: Method,
    uri: &str,
    content: Option<Content<'_>>,
    secret: bool,
) -> Result<Vec<u8>, Failure> {
    let mut request = Request::builder()
        .method(method.clone())
        .uri(uri)
        .header(header::ACCEPT, JSON);
    let mut body = Vec::new();
    if let Some(content) = content {
        request = request.header(header::CONTENT_TYPE, content.kind);
        body = serde_json::to_vec(content.value)
            .map_err(|_| Failure::new(ErrorClass::Other, "the request cannot be written as JSON"))?;
    }
    let request = request.body(Body::from(body)).map_err(|error| {
        Failure::new(
            ErrorClass::Other,
            format!("no request can be made of it: {error}"),
        )
    })?;
    let exchange = async {
        let response = client
            .send(request)
            .await
            .map_err(|error| Failure::from_transport(&error))?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|v| v.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = response
            .into_body()
            .collect_bytes()
            .await
            .map_err(|error| Failure::from_transport(&error))?;
        if status.is_success() {
            Ok(body.into())
        } else {
            Err(Failure::from_answer(status, retry_after, &body, secret))
        }
    };
    let result = tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::new(
                ErrorClass::Unavailable,
                format!("no answer within {} s", PATIENCE.as_secs()),
            ))
        });
    if let Err(failure) = &result {
        tracing::debug!(%method, path = uri.split('?').next(), class = ?failure.class, "request failed");
    }
    result
}

pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(
            ErrorClass::Other,
            format!(
                "the answer is not what a Kubernetes API answers (line {}, column {})",
                error.line(),
                error.column()
            ),
        )
    })
}

pub(crate) fn parse_object(body: &[u8]) -> Result<Object, Failure> {
    Object::try_from(parse::<Value>(body)?)
        .map_err(|error| Failure::new(ErrorClass::Other, format!("the answer is no object: {error}")))
}

/// Escapes what must not stand as it is in one segment of a path or in a query value.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                escaped.push(byte.into());
            }
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_has_a_meaning_in_urls() {
        let check = |text: &str, expect: &str| assert_eq!(escape(text), expect);
        check("system:kube-controller-manager", "system:kube-controller-manager");
        check("app=a,tier in (x)", "app%3Da%2Ctier%20in%20%28x%29");
        check("a/../b?c#d%e", "a%2F..%2Fb%3Fc%23d%25e");
        check("ü", "%C3%BC");
    }

    #[test]
    fn an_answer_that_is_no_json_is_not_repeated() {
        let failure = parse::<Value>(b"{\"password\": hunter2").unwrap_err();
        assert!(!failure.message.contains("hunter2"), "{}", failure.message);
    }
}
