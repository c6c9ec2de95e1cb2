//! What kubectl asks before it sends a manifest: which kinds the server describes.
//!
//! Kubernetes 1.20 serves `/openapi/v2` and knows no `/openapi/v3`. The document here describes no kind, which tells kubectl
//! that it has nothing to check a manifest against: the server checks by itself.

use bytes::Bytes;
use http::Response;
use serde_json::json;

use crate::Shared;
use crate::api::request::Request;
use crate::api::respond::{self, Body};

pub(crate) fn answer(shared: &Shared, request: &Request, rest: &[&str]) -> Response<Body> {
    match rest {
        ["v2"] if request.header("accept").contains("proto-openapi") => respond::respond(
            200,
            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
            Bytes::from(protobuf(&shared.config.kubernetes_version)),
        ),
        ["v2"] => respond::json(
            200,
            &json!({
                "swagger": "2.0",
                "info": { "title": "Kubernetes", "version": shared.config.kubernetes_version },
                "paths": {},
                "definitions": {},
            }),
        ),
        _ => respond::text(404, "404 page not found\n"),
    }
}

/// The document as a protobuf message: `swagger` is field 1; `info`, with `title` 1 and `version` 2, is field 2;
/// `paths` is field 8.
fn protobuf(version: &str) -> Vec<u8> {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        // Lengths here are far below 128, so that one byte holds them.
        let length = u8::try_from(content.len().min(127)).unwrap_or(127);
        let mut bytes = vec![number << 3 | 2, length];
        bytes.extend_from_slice(&content[..usize::from(length)]);
        bytes
    }
    let info = [field(1, b"Kubernetes"), field(2, version.as_bytes())].concat();
    [field(1, b"2.0"), field(2, &info), field(8, b"")].concat()
}
