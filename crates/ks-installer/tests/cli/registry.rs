//! A registry that only tells of images, never of layers: as much of the OCI distribution specification as
//! `images --platforms` needs.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, runtime::Runtime};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What is in the registry under a name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// For AMD64 and two kinds of ARM, with what its builder attached.
    ForMany,
    /// For `linux/arm64`, without an index.
    ForOne,
    Nothing,
    /// For those who log in.
    Locked,
}

/// The registry. It ends when dropped.
pub(crate) struct Registry {
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl Registry {
    /// `kept` says what there is of a repository, such as `kubesphere/ks-apiserver`.
    pub(crate) fn serve(kept: fn(&str) -> Kept) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let blobs = Arc::new(blobs());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let blobs = blobs.clone();
                let service = service_fn(move |request| {
                    let answer = answer(&blobs, kept, &request);
                    async { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            address,
            _runtime: runtime,
        }
    }
}

fn digest(body: &[u8]) -> String {
    Sha256::digest(body)
        .iter()
        .fold("sha256:".to_owned(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// The one configuration that there is, by its digest.
fn blobs() -> BTreeMap<String, Bytes> {
    let config = json!({"architecture": "arm64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": []}, "history": []});
    let body = config.to_string();
    [(digest(body.as_bytes()), body.into())].into()
}

fn index() -> Value {
    let platform = |os: &str, architecture: &str, variant: Option<&str>| {
        let mut platform = json!({"os": os, "architecture": architecture});
        if let Some(variant) = variant {
            platform["variant"] = variant.into();
        }
        json!({"mediaType": IMAGE, "size": 7, "digest": digest(architecture.as_bytes()), "platform": platform})
    };
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        platform("linux", "amd64", None),
        platform("linux", "arm64", Some("v8")),
        platform("unknown", "unknown", None),
    ]})
}

fn answer(
    blobs: &BTreeMap<String, Bytes>,
    kept: fn(&str) -> Kept,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let answer = |status: StatusCode, kind: &str, body: Bytes| {
        Response::builder()
            .status(status)
            .header("content-type", kind)
            .header("docker-content-digest", digest(&body))
            .body(Full::new(body))
            .unwrap()
    };
    let refusal = |status, code: &str| {
        let body = json!({"errors": [{"code": code, "message": "no", "detail": {}}]});
        answer(status, "application/json", body.to_string().into())
    };
    let path = request.uri().path().trim_start_matches("/v2/");
    if let Some((_, name)) = path.split_once("/blobs/") {
        return match blobs.get(name) {
            Some(body) => answer(StatusCode::OK, "application/octet-stream", body.clone()),
            None => refusal(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        };
    }
    let Some((repository, _)) = path.split_once("/manifests/") else {
        return answer(StatusCode::OK, "application/json", Bytes::from_static(b"{}"));
    };
    match kept(repository) {
        Kept::ForMany => answer(StatusCode::OK, INDEX, index().to_string().into()),
        Kept::ForOne => {
            let (digest, config) = blobs.first_key_value().unwrap();
            let manifest = json!({"schemaVersion": 2, "mediaType": IMAGE, "layers": [],
                "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest, "size": config.len()}});
            answer(StatusCode::OK, IMAGE, manifest.to_string().into())
        }
        Kept::Nothing => refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        Kept::Locked => refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
    }
}
