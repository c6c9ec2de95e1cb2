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
            Bytes::from(protobuf(shared)),
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
/// `paths` is field 8. The paths say of which kinds a patch may be a dry run: `kubectl diff` looks for that.
fn protobuf(shared: &Shared) -> Vec<u8> {
    let version = shared.config.kubernetes_version.as_bytes();
    let info = [field(1, b"Kubernetes"), field(2, version)].concat();
    let mut paths = Vec::new();
    for resource in &shared.builtins.resources {
        for version in &resource.versions {
            let (group, kind, version) = (&resource.group, &resource.kind, &version.name);
            let path = if group.is_empty() {
                format!("/api/{version}/{}/{{name}}", resource.plural)
            } else {
                format!("/apis/{group}/{version}/{}/{{name}}", resource.plural)
            };
            let item = field(8, &patch(group, version, kind));
            paths.extend(field(2, &[field(1, path.as_bytes()), field(2, &item)].concat()));
        }
    }
    [field(1, b"2.0"), field(2, &info), field(8, &paths)].concat()
}

/// An operation with the parameter `dryRun` (field 8), for a kind (the extension in field 13).
fn patch(group: &str, version: &str, kind: &str) -> Vec<u8> {
    let query = [field(2, b"query"), field(4, b"dryRun")].concat();
    // A parameter, of no body, in the query.
    let parameter = field(8, &field(1, &field(2, &field(3, &query))));
    let kind = format!("group: {group:?}\nkind: {kind}\nversion: {version}\n");
    let extension = [
        field(1, b"x-kubernetes-group-version-kind"),
        field(2, &field(2, kind.as_bytes())),
    ]
    .concat();
    [parameter, field(13, &extension)].concat()
}

/// A field that has a length: its number and kind, the length in groups of seven bits, the content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 0x7f {
        bytes.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap_or_default());
    bytes.extend_from_slice(content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_in_groups_of_seven_bits() {
        assert_eq!(field(1, b"ab"), [10, 2, b'a', b'b']);
        assert_eq!(field(2, &[0; 300])[..3], [18, 0xac, 2]);
    }
}
