//! As much of S3 as keeping files needs: whole objects, uploads in parts, lists; over HTTP, for who knows the key.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, runtime::Runtime};

pub(crate) const ACCESS_KEY: &str = "TESTACCESSKEY";
pub(crate) const SECRET_KEY: &str = "test-secret-access-key-of-nobody";
/// S3 takes no smaller parts, but for the last.
const LEAST_PART: usize = 5 << 20;

#[derive(Default)]
struct State {
    /// By `/bucket/key`.
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, BTreeMap<usize, Bytes>>,
    /// Uploads that were put together.
    completed: usize,
    refused: usize,
}

/// The service. It ends when dropped.
pub(crate) struct Storage {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _runtime: Runtime,
}

impl Storage {
    pub(crate) fn serve() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                let service = service_fn(move |request| answer(state.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            address,
            state,
            _runtime: runtime,
        }
    }

    /// What the environment of a program that uses it says.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT", format!("http://{}", self.address).as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("NO_PROXY", "127.0.0.1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(crate) fn completed(&self) -> usize {
        self.state.lock().unwrap().completed
    }

    pub(crate) fn refused(&self) -> usize {
        self.state.lock().unwrap().refused
    }

    /// Edits an object in place.
    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock().unwrap();
        let mut bytes = state.objects[name].to_vec();
        edit(&mut bytes);
        state.objects.insert(name.to_owned(), bytes.into());
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let authorization = head.headers.get(header::AUTHORIZATION);
    let authorization = authorization
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut state = state.lock().unwrap();
    if !authorization.starts_with(&format!("AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/")) {
        state.refused += 1;
        return Ok(refuse(StatusCode::FORBIDDEN, "InvalidAccessKeyId"));
    }
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let range = head
        .headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    let path = head.uri.path().to_owned();
    Ok(match (&head.method, query.get("uploadId")) {
        (&Method::GET, None) if query.contains_key("list-type") => list(&state, &path, &query),
        (&Method::GET | &Method::HEAD, None) => match state.objects.get(&path) {
            Some(object) => get(object, range),
            None => refuse(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        (&Method::POST, None) if query.contains_key("uploads") => {
            let id = format!("upload-{}", state.uploads.len());
            state.uploads.insert(id.clone(), BTreeMap::new());
            let (bucket, key) = split(&path);
            xml(format!(
                "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ))
        }
        (&Method::POST, None) if query.contains_key("delete") => {
            let text = String::from_utf8(body.to_vec()).unwrap();
            let keys = text
                .split("<Key>")
                .skip(1)
                .filter_map(|rest| rest.split("</Key>").next());
            for key in keys {
                state
                    .objects
                    .remove(&format!("{}/{key}", path.trim_end_matches('/')));
            }
            xml("<DeleteResult><Deleted><Key>gone</Key></Deleted></DeleteResult>".to_owned())
        }
        (&Method::PUT, Some(id)) => {
            let number = query["partNumber"].parse().unwrap();
            let tag = format!("\"part-{number}\"");
            state.uploads.get_mut(id).unwrap().insert(number, body);
            Response::builder()
                .header(header::ETAG, tag)
                .body(Full::default())
                .unwrap()
        }
        (&Method::POST, Some(id)) => complete(&mut state, id, &path),
        (&Method::DELETE, Some(id)) => {
            state.uploads.remove(id);
            Response::builder()
                .status(StatusCode::NO_CONTENT)
                .body(Full::default())
                .unwrap()
        }
        _ => refuse(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
    })
}

fn complete(state: &mut State, id: &str, path: &str) -> Response<Full<Bytes>> {
    let Some(parts) = state.uploads.remove(id) else {
        return refuse(StatusCode::NOT_FOUND, "NoSuchUpload");
    };
    let last = parts.len();
    if parts
        .iter()
        .any(|(number, part)| *number < last && part.len() < LEAST_PART)
    {
        return refuse(StatusCode::BAD_REQUEST, "EntityTooSmall");
    }
    let whole: Vec<u8> = parts.into_values().flatten().collect();
    state.objects.insert(path.to_owned(), whole.into());
    state.completed += 1;
    let (bucket, key) = split(path);
    xml(format!(
        "<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>"
    ))
}

fn list(state: &State, path: &str, query: &BTreeMap<String, String>) -> Response<Full<Bytes>> {
    let bucket = format!("{}/", path.trim_end_matches('/'));
    let prefix = query.get("prefix").map(String::as_str).unwrap_or_default();
    let keys = state.objects.iter().filter_map(|(name, object)| {
        let key = name.strip_prefix(&bucket).filter(|key| key.starts_with(prefix))?;
        Some(format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"whole\"</ETag><Size>{}</Size></Contents>",
            object.len()
        ))
    });
    xml(format!(
        "<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>",
        keys.collect::<String>()
    ))
}

/// `range`: `bytes=0-99`
fn get(object: &Bytes, range: Option<&str>) -> Response<Full<Bytes>> {
    let response = Response::builder()
        .header(header::ETAG, "\"whole\"")
        .header(header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT");
    let bounds = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let response = match bounds {
        None => response.body(object.clone()),
        Some((from, to)) => {
            let from: usize = from.parse().unwrap();
            let to = to
                .parse::<usize>()
                .map_or(object.len(), |to| object.len().min(to + 1));
            response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(
                    header::CONTENT_RANGE,
                    format!("bytes {from}-{}/{}", to - 1, object.len()),
                )
                .body(object.slice(from..to))
        }
    };
    response.unwrap().map(Full::new)
}

fn split(path: &str) -> (&str, &str) {
    path.trim_start_matches('/').split_once('/').unwrap()
}

fn xml(text: String) -> Response<Full<Bytes>> {
    Response::builder()
        .header(header::CONTENT_TYPE, "application/xml")
        .body(Full::from(text))
        .unwrap()
}

fn refuse(status: StatusCode, code: &str) -> Response<Full<Bytes>> {
    let mut response = xml(format!(
        "<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    ));
    *response.status_mut() = status;
    response
}
