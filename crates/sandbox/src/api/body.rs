//! Reading the body of a request into an object of the kind that its path names.

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine as _};
use serde_json::Value;

use crate::api::request::Request;
use crate::api::{Endpoint, protobuf};
use crate::fields::{check_types, unknown};
use crate::json::{child, name, namespace, object, text, version_of};
use crate::kinds::Resource;
use crate::status::{Result, Status};
use crate::write::normalise;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The body of a request, in any encoding that the server reads.
pub(super) fn read(request: &Request) -> Result<Value> {
    let body = &request.body;
    match request.content_type() {
        YAML | "application/apply-patch+yaml" => {
            // JSON is YAML, and faster to read as what it is.
            if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
                return read_json(request);
            }
            let text = std::str::from_utf8(body)
                .map_err(|_| Status::bad_request("error decoding YAML: yaml: invalid leading UTF-8 octet"))?;
            serde_saphyr::from_str(text)
                .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))
        }
        PROTOBUF => protobuf::decode(body).map_err(Status::bad_request),
        "" | JSON => read_json(request),
        other if other.starts_with("application/") && other.ends_with("+json") => read_json(request),
        _ => Err(Status::media_type(&[JSON, YAML, PROTOBUF])),
    }
}

fn read_json(request: &Request) -> Result<Value> {
    serde_json::from_slice(&request.body).map_err(|error| {
        let why = if error.is_eof() {
            "unexpected end of JSON input".to_owned()
        } else {
            error.to_string()
        };
        Status::bad_request(format!(
            "couldn't get version/kind; json parse error: {why} ({})",
            summary(&request.body)
        ))
    })
}

/// The beginning of a body as the server quotes it.
fn summary(body: &[u8]) -> String {
    use std::fmt::Write as _;
    const LENGTH: usize = 30;
    let dots = if body.len() > LENGTH { " ..." } else { "" };
    let start = &body[..body.len().min(LENGTH)];
    if body.is_empty() {
        "<empty>".to_owned()
    } else if body.starts_with(b"{") {
        format!("{}{dots}", String::from_utf8_lossy(start))
    } else {
        let mut hex = String::new();
        for byte in start {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        format!("{hex}{dots}")
    }
}

/// The object in a body that creates (or replaces, with the name that the path has).
pub(super) fn read_object(request: &Request, endpoint: &Endpoint, replacing: bool) -> Result<Value> {
    let resource = &endpoint.resource;
    let unrecognised = |status: Status| {
        if status.code != 400 {
            return status;
        }
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {}",
            resource.kind, status.message
        ))
    };
    let mut body = read(request).map_err(unrecognised)?;
    if !body.is_object() {
        let why = format!("{} ({})", no_object(&body), summary(&request.body));
        return Err(unrecognised(Status::bad_request(why)));
    }
    check_kind(endpoint, &body)?;
    let target = &endpoint.target;
    let body_namespace = namespace(&body);
    if resource.namespaced && !body_namespace.is_empty() && body_namespace != target.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let body_name = name(&body);
    if replacing && body_name != target.name {
        return Err(Status::bad_request(if body_name.is_empty() {
            format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                target.name
            )
        } else {
            format!(
                "the name of the object ({body_name}) does not match the name on the URL ({})",
                target.name
            )
        }));
    }
    place(endpoint, &mut body);
    check_fields(resource, endpoint.version(), &body)
        .and_then(|()| check_strictly(request, endpoint, &body))
        .map_err(|why| {
            Status::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: {why}",
                resource.kind,
                endpoint.version(),
                resource.kind
            ))
        })?;
    normalise(resource, endpoint.version(), &mut body);
    Ok(body)
}

/// The check of fields that the client asked for, if it did: `Strict` refuses fields that the kind does not have or that are
/// given twice, `Warn` answers with warnings of them. Kubernetes offers it from 1.25 on; servers before do not look at the query.
pub(super) fn check_strictly(
    request: &Request,
    endpoint: &Endpoint,
    object: &Value,
) -> std::result::Result<(), String> {
    let asked = request.query.get("fieldValidation").unwrap_or_default();
    if !matches!(asked, "Strict" | "Warn") {
        return Ok(());
    }
    let (resource, version) = (&endpoint.resource, endpoint.version());
    let unknown = if !resource.is_custom() {
        unknown::of_builtin(object, &resource.schema(version))
    } else if let Some(schema) = resource.open_api(version)
        && !resource.preserves_unknown_fields()
    {
        unknown::of_custom(object, schema)
    } else {
        Vec::new()
    };
    let twice = unknown::twice(&request.body);
    let complaints: Vec<_> = twice
        .iter()
        .map(|path| format!("duplicate field {path:?}"))
        .chain(unknown.iter().map(|path| format!("unknown field {path:?}")))
        .collect();
    if asked == "Strict" && !complaints.is_empty() {
        return Err(format!("strict decoding error: {}", complaints.join(", ")));
    }
    request.warnings.borrow_mut().extend(complaints);
    Ok(())
}

/// Whether the fields that the server itself knows have their types; the error says which one has not.
pub(super) fn check_fields(
    resource: &Resource,
    version: &str,
    body: &Value,
) -> std::result::Result<(), String> {
    if resource.is_custom() {
        // Of a custom resource, the metadata alone has types of the server's.
        let metadata = body.get("metadata").cloned().unwrap_or_default();
        return match crate::fields::Schema::builtin("v1", "ConfigMap", resource.minor) {
            Some(schema) => check_types(&serde_json::json!({ "metadata": metadata }), &schema),
            None => Ok(()),
        };
    }
    check_types(body, &resource.schema(version))?;
    let fields: &[&str] = match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Secret") => &["data"],
        ("", "ConfigMap") => &["binaryData"],
        _ => &[],
    };
    for field in fields {
        for value in body
            .get(*field)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(_, value)| value)
        {
            let text = value.as_str().unwrap_or_default();
            if let Err(error) = STANDARD.decode(text) {
                let at = match error {
                    DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
                    _ => text.len(),
                };
                let mut name = (*field).to_owned();
                name[..1].make_ascii_uppercase();
                return Err(format!(
                    "v1.{}.{name}: decode base64: illegal base64 data at input byte {at}",
                    resource.kind
                ));
            }
        }
    }
    Ok(())
}

/// Why something that is no JSON object has no kind.
pub(super) fn no_object(body: &Value) -> String {
    const TARGET: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    let what = if body.is_array() { "array" } else { "value" };
    format!(
        "couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go value of type {TARGET}"
    )
}

/// Why an object that a patch has made is of no kind that its path can hold, if so.
pub(super) fn other_kind(endpoint: &Endpoint, new: &Value) -> Result<Option<String>> {
    let resource = &endpoint.resource;
    let (given, kind) = (text(new, "apiVersion"), text(new, "kind"));
    if resource.is_custom() {
        return if kind == resource.kind {
            Ok(None)
        } else {
            Err(other_custom_kind(resource, kind, name(new)))
        };
    }
    let wanted = endpoint.api_version();
    Ok(
        if (given == wanted && kind == resource.kind) || given.is_empty() || kind.is_empty() {
            None
        } else if crate::fields::Schema::builtin(given, kind, resource.minor).is_none() {
            Some(unregistered(given, kind))
        } else if kind == resource.kind {
            None
        } else {
            Some(unconvertible(resource, given, kind))
        },
    )
}

fn unregistered(given: &str, kind: &str) -> String {
    format!(
        "no kind {kind:?} is registered for version {given:?} in scheme \
         \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\""
    )
}

fn unconvertible(resource: &Resource, given: &str, kind: &str) -> String {
    let package = match resource.group.split('.').next().unwrap_or_default() {
        "" => "core",
        group => group,
    };
    let version = version_of(given);
    format!(
        "converting ({version}.{kind}) to ({package}.{}): unknown conversion",
        resource.kind
    )
}

fn other_custom_kind(resource: &Resource, kind: &str, name: &str) -> Status {
    let why = format!("must be {}", resource.kind);
    let causes = [crate::status::invalid("kind", &kind.into(), &why)];
    Status::invalid(&resource.group, kind, name, &causes)
}

/// Refuses an object of another kind or version than the path names.
fn check_kind(endpoint: &Endpoint, body: &Value) -> Result<()> {
    let resource = &endpoint.resource;
    let wanted = endpoint.api_version();
    let (given, kind) = (text(body, "apiVersion"), text(body, "kind"));
    if resource.is_custom() && kind.is_empty() {
        return Err(Status::bad_request(format!(
            "Object 'Kind' is missing in '{body}'"
        )));
    }
    let same_kind = kind.is_empty() || kind == resource.kind;
    let same_version = given.is_empty() || given == wanted;
    if same_kind && same_version {
        return Ok(());
    }
    if resource.is_custom() {
        if same_kind {
            return Err(Status::bad_request(format!(
                "the API version in the data ({given}) does not match the expected API version ({wanted})"
            )));
        }
        return Err(other_custom_kind(resource, kind, name(body)));
    }
    let (given, kind) = (
        if given.is_empty() { wanted.as_str() } else { given },
        if kind.is_empty() {
            resource.kind.as_str()
        } else {
            kind
        },
    );
    let refuse = |why: String| {
        Status::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: {why}",
            version_of(given),
            resource.kind
        ))
    };
    if crate::fields::Schema::builtin(given, kind, resource.minor).is_none() {
        return Err(refuse(unregistered(given, kind)));
    }
    if kind == resource.kind {
        return Err(Status::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({wanted})"
        )));
    }
    Err(refuse(unconvertible(resource, given, kind)))
}

/// Writes kind, version and namespace of the path into an object.
pub(super) fn place(endpoint: &Endpoint, body: &mut Value) {
    let resource = &endpoint.resource;
    object(body).insert("apiVersion".into(), endpoint.api_version().into());
    object(body).insert("kind".into(), resource.kind.as_str().into());
    let metadata = child(body, "metadata");
    if resource.namespaced {
        metadata.insert("namespace".into(), endpoint.target.namespace.as_str().into());
    } else {
        metadata.shift_remove("namespace");
    }
}
