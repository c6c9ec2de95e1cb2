//! What the server warns of: versions that end.

use http::HeaderValue;

use crate::api::Endpoint;
use crate::json::text;
use crate::kinds::Minor;

/// Groups whose v1beta1 is no more from 1.22 on.
const ENDING: &[&str] = &[
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "extensions",
    "networking.k8s.io",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// A warning as a header; none where the text cannot stand in one.
pub(crate) fn header(message: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("299 - {message:?}")).ok()
}

/// The warning that goes with every answer about a version of a kind, if it is one that ends.
pub(crate) fn of(endpoint: &Endpoint, minor: Minor) -> Option<HeaderValue> {
    let resource = &endpoint.resource;
    let version = endpoint.version();
    let message = if let Some(spec) = resource.version_spec(version) {
        if spec.get("deprecated").and_then(serde_json::Value::as_bool) != Some(true) {
            return None;
        }
        match text(spec, "deprecationWarning") {
            "" => {
                let mut message = format!("{} {} is deprecated", endpoint.api_version(), resource.kind);
                // The newest version that does not end itself.
                let next = resource.versions.iter().find(|other| {
                    let ends = resource
                        .version_spec(&other.name)
                        .and_then(|spec| spec.get("deprecated"));
                    ends.and_then(serde_json::Value::as_bool) != Some(true)
                });
                if let Some(next) = next {
                    message.push_str(&format!(
                        "; use {}/{} {}",
                        resource.group, next.name, resource.kind
                    ));
                }
                message
            }
            given => given.to_owned(),
        }
    } else {
        // Versions that 1.22 has no more; servers before 1.19 do not warn.
        if version != "v1beta1" || !ENDING.contains(&resource.group.as_str()) || minor < 19 {
            return None;
        }
        let since = match (resource.group.as_str(), resource.kind.as_str()) {
            ("extensions" | "scheduling.k8s.io", _) => 14,
            ("apiextensions.k8s.io" | "admissionregistration.k8s.io", _) => 16,
            ("rbac.authorization.k8s.io", _) | (_, "CSINode") => 17,
            _ => 19,
        };
        let group = match resource.group.as_str() {
            "extensions" => "networking.k8s.io",
            group => group,
        };
        // The server itself names a list here.
        let list = if resource.kind == "IngressClass" {
            "List"
        } else {
            ""
        };
        format!(
            "{} {kind} is deprecated in v1.{since}+, unavailable in v1.22+; use {group}/v1 {kind}{list}",
            endpoint.api_version(),
            kind = resource.kind,
        )
    };
    header(&message)
}
