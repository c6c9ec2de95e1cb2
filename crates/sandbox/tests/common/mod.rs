//! Requests as bytes, for what no client library shows.

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use sandbox::Sandbox;
use serde_json::Value;
use tower::Service as _;

/// An answer as it came.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// Sends a request with a body in JSON; `accept` is what is wanted in answer.
pub(crate) async fn send(sandbox: &Sandbox, method: &str, path: &str, accept: &str, body: Value) -> Answer {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("accept", accept)
        .body(Full::new(Bytes::from(body.to_string())))
        .expect("a request");
    let response = sandbox.service().call(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    Answer {
        code: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.expect("a body").to_bytes(),
    }
}
