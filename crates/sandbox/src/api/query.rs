//! Reading: get and list.

use std::sync::Arc;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine as _, alphabet};
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use crate::api::request::Request;
use crate::api::respond::{self, Body};
use crate::api::{Endpoint, table};
use crate::golang;
use crate::json::{Sent, TypeMeta, child, text};
use crate::selector::{Fields, Labels};
use crate::status::{Result, Status, forbidden, unsupported};
use crate::store::{Key, State};
use crate::{Shared, convert};

/// In which form objects are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    Table,
    Metadata,
}

impl Form {
    /// The first form in the `Accept` header that can be served.
    pub(crate) fn of(request: &Request, custom: bool) -> Result<Form> {
        let accept = request.header("accept");
        if accept.is_empty() {
            return Ok(Form::Object);
        }
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            // What is wanted in YAML is translated at last, from JSON.
            if !matches!(
                media,
                "application/json" | "application/yaml" | "application/*" | "*/*"
            ) {
                continue;
            }
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let kind = parameters
                .iter()
                .find(|(key, _)| *key == "as")
                .map(|(_, value)| *value);
            match kind {
                None => return Ok(Form::Object),
                Some("Table") => {
                    check_include(request)?;
                    return Ok(Form::Table);
                }
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok(Form::Metadata),
                Some(_) => {}
            }
        }
        // The table of a kind is made where other media types are not known yet.
        if custom || accept.contains("as=") {
            return Err(Status::new(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json, application/yaml, \
                 application/vnd.kubernetes.protobuf",
            ));
        }
        Err(Status::plain(406, "NotAcceptable", "Not Acceptable"))
    }
}

/// The API version of the table that the `Accept` header asks for.
pub(crate) fn table_version(request: &Request) -> &'static str {
    let table = request
        .header("accept")
        .split(',')
        .find(|range| range.contains("as=Table"));
    if table.is_some_and(|range| range.contains("v=v1beta1")) {
        "meta.k8s.io/v1beta1"
    } else {
        "meta.k8s.io/v1"
    }
}

/// What of each object a table is to have along.
fn check_include(request: &Request) -> Result<()> {
    match request.query.get("includeObject").unwrap_or_default() {
        "" | "None" | "Metadata" | "Object" => Ok(()),
        other => Err(Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', \
             'None', or empty",
            golang::quote(other)
        ))),
    }
}

pub(crate) fn find(endpoint: &Endpoint, state: &State) -> Result<Arc<Value>> {
    let target = &endpoint.target;
    state
        .get(&Key::new(&endpoint.resource, &target.namespace, &target.name))
        .cloned()
        .ok_or_else(|| Status::not_found(&endpoint.resource, &target.name))
        .and_then(|found| {
            convert::check(state, &endpoint.resource, endpoint.version())?;
            Ok(found)
        })
}

/// The resource version that a read asks for.
fn revision(request: &Request) -> Result<Option<u64>> {
    match request
        .query
        .get("resourceVersion")
        .filter(|value| !value.is_empty())
    {
        None => Ok(None),
        Some(value) => value.parse().map(Some).map_err(|_| {
            let why = format!("strconv.ParseUint: parsing {value:?}: invalid syntax");
            Status::new(
                500,
                "",
                format!("resourceVersion: Invalid value: {value:?}: {why}"),
            )
        }),
    }
}

/// How many objects a list is to have at most.
fn limit(request: &Request) -> Result<Option<u64>> {
    match request.query.get("limit").filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => match value.parse::<i64>() {
            Ok(limit) => Ok(u64::try_from(limit).ok().filter(|limit| *limit > 0)),
            Err(_) => Err(Status::bad_request(format!(
                "strconv.ParseInt: parsing {value:?}: invalid syntax"
            ))),
        },
    }
}

/// How long a list may take: nothing here takes long, but what is no number is refused.
fn check_timeout(request: &Request) -> Result<()> {
    match request.query.get("timeoutSeconds") {
        Some(value) if !value.is_empty() && value.parse::<i64>().is_err() => Err(Status::bad_request(
            format!("strconv.ParseInt: parsing {value:?}: invalid syntax"),
        )),
        _ => Ok(()),
    }
}

/// Refuses combinations of the options of a list that say nothing.
fn check_match(request: &Request) -> Result<()> {
    let text = |key: &str| request.query.get(key).unwrap_or_default();
    let (wanted, version) = (text("resourceVersionMatch"), text("resourceVersion"));
    if wanted.is_empty() {
        return Ok(());
    }
    let why = if !text("continue").is_empty() {
        "resourceVersionMatch is forbidden when continue is provided"
    } else if version.is_empty() {
        "resourceVersionMatch is forbidden unless resourceVersion is provided"
    } else if wanted == "Exact" && version == "0" {
        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""
    } else if matches!(wanted, "Exact" | "NotOlderThan") {
        return Ok(());
    } else {
        let causes = [unsupported(
            "resourceVersionMatch",
            wanted,
            &["Exact", "NotOlderThan", ""],
        )];
        return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &causes));
    };
    let causes = [forbidden("resourceVersionMatch", why)];
    Err(Status::invalid("meta.k8s.io", "ListOptions", "", &causes))
}

pub(crate) fn get(
    shared: &Shared,
    request: &Request,
    endpoint: &Endpoint,
    state: &State,
) -> Result<Response<Body>> {
    revision(request)?;
    let found = match find(endpoint, state) {
        // A scale that is not there is named in full.
        Err(_) if endpoint.target.subresource == "scale" && !endpoint.resource.is_custom() => {
            let plural = format!("{}/scale", endpoint.resource.plural);
            return Err(Status::not_found_as(
                &plural,
                &endpoint.resource.group,
                &endpoint.target.name,
            ));
        }
        found => found?,
    };
    match endpoint.target.subresource.as_str() {
        "" if request.query.flag("export") && shared.builtins.minor < 21 => {
            let mut found = Value::clone(&found);
            export(&mut found, request.query.flag("exact"));
            one(shared, 200, request, endpoint, &found)
        }
        "" | "status" => one(shared, 200, request, endpoint, &found),
        "scale" => {
            super::scale::check(endpoint, &found)?;
            Ok(respond::json(200, &super::scale::scale_of(endpoint, &found)))
        }
        "log" => {
            super::logs::check(request, &found)?;
            Ok(respond::text(200, ""))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// Takes out of an object what belongs to its place in the cluster.
fn export(object: &mut Value, exactly: bool) {
    let metadata = child(object, "metadata");
    for key in ["uid", "resourceVersion", "selfLink", "deletionTimestamp"] {
        metadata.shift_remove(key);
    }
    metadata.insert("creationTimestamp".into(), Value::Null);
    if !exactly {
        metadata.shift_remove("namespace");
        if metadata.contains_key("generateName") {
            metadata.insert("name".into(), "".into());
        }
    }
}

/// Answers with one object.
pub(crate) fn one(
    shared: &Shared,
    code: u16,
    request: &Request,
    endpoint: &Endpoint,
    object: &Value,
) -> Result<Response<Body>> {
    let object = &*convert::shown(&endpoint.resource, endpoint.version(), object);
    Ok(match Form::of(request, endpoint.resource.is_custom())? {
        Form::Object => {
            let api_version = endpoint.api_version();
            respond::json(
                code,
                &Sent {
                    object,
                    types: TypeMeta::Version(&api_version),
                },
            )
        }
        Form::Metadata => respond::json(code, &super::partial(object)),
        Form::Table => respond::json(
            code,
            &table::of(
                endpoint,
                std::iter::once(object),
                (shared.config.clock)(),
                request,
                &json!({ "resourceVersion": crate::json::text_at(object, "/metadata/resourceVersion") }),
                true,
            ),
        ),
    })
}

/// What a list or watch selects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub labels: Labels,
    pub fields: Fields,
}

impl Selection {
    pub(crate) fn of(request: &Request, endpoint: &Endpoint) -> Result<Selection> {
        Ok(Selection {
            labels: Labels::parse(request.query.get("labelSelector").unwrap_or_default())?,
            fields: Fields::parse(
                request.query.get("fieldSelector").unwrap_or_default(),
                &endpoint.resource,
                endpoint.version(),
            )?,
        })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }
}

/// Go takes the bits that the last character has too many.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// Where a list in pages goes on: the revision it shows, the path it starts at.
#[derive(Debug, PartialEq, Eq)]
struct Continue {
    revision: u64,
    start: String,
}

impl Continue {
    fn encode(&self) -> String {
        let token = json!({ "v": "meta.k8s.io/v1", "rv": self.revision, "start": self.start });
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token.to_string())
    }

    /// Reads a token, or says why it is none.
    fn decode(token: &str) -> Result<Continue, String> {
        let bytes = LENIENT.decode(token).map_err(|error| {
            let at = match error {
                DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
                // A character that is left over is what is wrong.
                _ => token.len().saturating_sub(1),
            };
            format!("illegal base64 data at input byte {at}")
        })?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let version = text(&value, "v");
        if version != "meta.k8s.io/v1" {
            let shown = golang::quote(version);
            return Err(format!("server does not recognize this encoded version {shown}"));
        }
        let revision = value.get("rv").and_then(Value::as_u64).unwrap_or(0);
        if revision == 0 {
            return Err(format!(
                "incorrect encoded start resourceVersion (version {version})"
            ));
        }
        match text(&value, "start") {
            "" => Err(format!("encoded start key empty (version {version})")),
            start => Ok(Continue {
                revision,
                start: start.to_owned(),
            }),
        }
    }
}

pub(crate) fn list(
    shared: &Shared,
    request: &Request,
    endpoint: &Endpoint,
    state: &State,
) -> Result<Response<Body>> {
    let form = Form::of(request, endpoint.resource.is_custom())?;
    let selection = Selection::of(request, endpoint)?;
    check_match(request)?;
    let wanted = revision(request)?;
    let limit = limit(request)?;
    check_timeout(request)?;
    let mut collection = state.objects_of(&endpoint.resource);
    let mut revision = state.revision;
    let mut start = None;
    if let Some(token) = request.query.get("continue").filter(|token| !token.is_empty()) {
        if wanted.is_some_and(|wanted| wanted != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let go_on = Continue::decode(token).map_err(|why| {
            Status::bad_request(format!(
                "invalid continue token: continue key is not valid: {why}"
            ))
        })?;
        if go_on.revision != state.revision {
            collection = collection.at(go_on.revision).ok_or_else(|| {
                Status::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a \
                     new list without the continue parameter.",
                )
            })?;
            revision = go_on.revision;
        }
        start = Some(go_on.start);
    } else if let Some(wanted) = wanted.filter(|wanted| *wanted > state.revision) {
        return Err(Status::future_version(wanted, state.revision));
    } else if let Some(exact) = wanted.filter(|wanted| {
        *wanted != state.revision && request.query.get("resourceVersionMatch") == Some("Exact")
    }) {
        collection = collection
            .at(exact)
            .ok_or_else(|| Status::expired("The resourceVersion for the provided list is too old."))?;
        revision = exact;
    }
    let namespace = &endpoint.target.namespace;
    if collection.range(namespace, start.as_deref()).next().is_some() {
        convert::check(state, &endpoint.resource, endpoint.version())?;
    }
    // A server that lists from its cache (any resource version will do) does not page.
    let limit = limit.filter(|_| wanted != Some(0) || start.is_some());
    let mut matching = collection
        .range(namespace, start.as_deref())
        .filter(|(_, object)| selection.matches(object));
    let mut items: Vec<&Arc<Value>> = Vec::new();
    let mut next = None;
    for (path, object) in matching.by_ref() {
        if limit.is_some_and(|limit| items.len() as u64 >= limit) {
            next = Some(path.to_string());
            break;
        }
        items.push(object);
    }
    let mut metadata = json!({ "resourceVersion": revision.max(1).to_string() });
    if endpoint.resource.is_custom() && form == Form::Object {
        // Lists of custom resources say that there is no more; those of built-in kinds leave it out.
        metadata["continue"] = "".into();
    }
    if let Some(start) = next {
        metadata["continue"] = Continue { revision, start }.encode().into();
        let left = 1 + matching.count();
        if selection.labels.is_empty() && request.query.get("fieldSelector").unwrap_or_default().is_empty() {
            metadata["remainingItemCount"] = left.into();
        }
    }
    many(shared, request, endpoint, form, &items, &metadata)
}

/// Answers with a list of objects.
pub(crate) fn many(
    shared: &Shared,
    request: &Request,
    endpoint: &Endpoint,
    form: Form,
    items: &[&Arc<Value>],
    metadata: &Value,
) -> Result<Response<Body>> {
    Ok(match form {
        Form::Object => objects(endpoint, items, metadata)?,
        Form::Metadata => {
            let items: Vec<_> = items.iter().map(|object| super::partial(object)).collect();
            respond::json(
                200,
                &json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": items,
                }),
            )
        }
        Form::Table => {
            let objects = items.iter().map(|object| &***object);
            respond::json(
                200,
                &table::of(
                    endpoint,
                    objects,
                    (shared.config.clock)(),
                    request,
                    metadata,
                    true,
                ),
            )
        }
    })
}

/// Writes the list out object by object: the shared objects go straight into the bytes of the answer.
fn objects(endpoint: &Endpoint, items: &[&Arc<Value>], metadata: &Value) -> Result<Response<Body>> {
    let api_version = endpoint.api_version();
    let types = if endpoint.resource.is_custom() {
        TypeMeta::Version(&api_version)
    } else {
        TypeMeta::Absent
    };
    let mut bytes = Vec::with_capacity(256 + items.len() * 1024);
    let write = |bytes: &mut Vec<u8>| -> serde_json::Result<()> {
        bytes.extend_from_slice(b"{\"kind\":");
        serde_json::to_writer(&mut *bytes, &endpoint.resource.list_kind)?;
        bytes.extend_from_slice(b",\"apiVersion\":");
        serde_json::to_writer(&mut *bytes, &api_version)?;
        bytes.extend_from_slice(b",\"metadata\":");
        serde_json::to_writer(&mut *bytes, metadata)?;
        bytes.extend_from_slice(b",\"items\":[");
        for (index, object) in items.iter().enumerate() {
            if index > 0 {
                bytes.push(b',');
            }
            let object = &*convert::shown(&endpoint.resource, endpoint.version(), object);
            serde_json::to_writer(&mut *bytes, &Sent { object, types })?;
        }
        bytes.extend_from_slice(b"]}\n");
        Ok(())
    };
    write(&mut bytes).map_err(Status::internal)?;
    Ok(respond::respond(200, "application/json", Bytes::from(bytes)))
}
