//! Plays the network behind Services, as far as the API server reaches into it: admission webhooks, conversion webhooks
//! and aggregated APIs.
//!
//! The API server is told to dial Services through a proxy (an egress selector, on a Unix socket). This proxy answers
//! itself: it presents the certificate that the Service's own Secret holds, so that the API server's check against the
//! `caBundle` is a real one, allows every admission, converts by changing the version, and serves empty API groups.
//! No port below 1024 is bound and no address taken, so instances do not get into each other's way.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Endpoints, Secret, Service};
use kube::api::ListParams;
use kube::{Api, Client, Config, ResourceExt as _};
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{Acceptor, ParsedCertificate};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_rustls::LazyConfigAcceptor;

use super::Error;
use super::certificates::Authority;
use super::nodes::Background;
use super::restore::Entries;

pub(crate) struct Egress {
    answer: Arc<AtomicBool>,
    _background: Background,
}

impl Egress {
    /// Listens on `socket`. With `need_endpoints`, a Service without a ready endpoint is not answered for.
    /// `authority` signs for Services that have no certificate of their own.
    pub(crate) fn start(
        socket: &Path,
        config: Config,
        authority: Arc<Authority>,
        answer: bool,
        need_endpoints: bool,
    ) -> Result<Self, Error> {
        let answer = Arc::new(AtomicBool::new(answer));
        let listener = std::os::unix::net::UnixListener::bind(socket)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|source| Error::file(socket, source))?;
        let shared = Arc::clone(&answer);
        let background = Background::start("egress", async move || {
            let Ok(client) = super::client_of(config) else {
                return;
            };
            let Ok(listener) = UnixListener::from_std(listener) else {
                return;
            };
            let proxy = Arc::new(Proxy {
                client,
                authority,
                answer: shared,
                need_endpoints,
            });
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let proxy = Arc::clone(&proxy);
                tokio::spawn(async move {
                    if let Err(error) = proxy.serve(stream).await {
                        tracing::debug!(%error, "a connection to a service ended");
                    }
                });
            }
        })?;
        Ok(Self {
            answer,
            _background: background,
        })
    }

    pub(crate) fn answers(&self) -> bool {
        self.answer.load(Ordering::Relaxed)
    }

    pub(crate) fn answer(&self, answer: bool) {
        self.answer.store(answer, Ordering::Relaxed);
    }
}

struct Proxy {
    client: Client,
    authority: Arc<Authority>,
    answer: Arc<AtomicBool>,
    need_endpoints: bool,
}

impl Proxy {
    async fn serve(&self, mut stream: UnixStream) -> anyhow::Result<()> {
        let target = read_target(&mut stream).await?;
        if !self.is_answered(&target).await? {
            stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await?;
            return Ok(());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        let handshake = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let name = handshake
            .client_hello()
            .server_name()
            .unwrap_or_default()
            .to_owned();
        let config = self.tls_for(&name).await?;
        let stream = handshake.into_stream(Arc::new(config)).await?;
        let service = hyper::service::service_fn(async |request| {
            Ok::<_, std::convert::Infallible>(respond(request).await)
        });
        // A connection for each request, so that each is decided upon.
        let mut server = hyper::server::conn::http1::Builder::new();
        server.keep_alive(false);
        server.serve_connection(TokioIo::new(stream), service).await?;
        Ok(())
    }

    /// Whether the Service of this cluster address (`host:port`) would answer in a real cluster.
    async fn is_answered(&self, target: &str) -> Result<bool, kube::Error> {
        if !self.answer.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if !self.need_endpoints {
            return Ok(true);
        }
        let address = target.rsplit_once(':').map_or(target, |(host, _)| host);
        let services = Api::<Service>::all(self.client.clone())
            .list(&ListParams::default().match_any())
            .await?;
        let has_address = |service: &Service| {
            service
                .spec
                .as_ref()
                .and_then(|spec| spec.cluster_ip.as_deref())
                .is_some_and(|of| of == address)
        };
        let Some(service) = services.into_iter().find(has_address) else {
            return Ok(false);
        };
        let endpoints =
            Api::<Endpoints>::namespaced(self.client.clone(), &service.namespace().unwrap_or_default());
        let endpoints = endpoints.get_opt(&service.name_any()).await?;
        let subsets = endpoints
            .and_then(|endpoints| endpoints.subsets)
            .unwrap_or_default();
        Ok(subsets.iter().any(|subset| {
            subset
                .addresses
                .as_ref()
                .is_some_and(|addresses| !addresses.is_empty())
        }))
    }

    /// The TLS side of `NAME.NAMESPACE.svc`: its certificate is looked for among the Secrets of its namespace.
    async fn tls_for(&self, name: &str) -> anyhow::Result<rustls::ServerConfig> {
        let namespace = name.split('.').nth(1).unwrap_or_default();
        let mut found = None;
        if !namespace.is_empty() {
            let secrets = Api::<Secret>::namespaced(self.client.clone(), namespace);
            let secrets = secrets.list(&ListParams::default().match_any()).await?;
            found = secrets
                .iter()
                .flat_map(pairs)
                .find_map(|(certificate, key)| tls(&certificate, &key, Some(name)));
        }
        if found.is_none() {
            let made = self
                .authority
                .server(&[if name.is_empty() { "localhost" } else { name }])?;
            found = tls(made.certificate.as_bytes(), made.key.as_bytes(), None);
        }
        found.with_context(|| format!("no certificate for {name}"))
    }
}

/// Has the API server trust this authority (PEM) for those Services of the dump that it holds no usable private key of:
/// in webhook configurations, conversion webhooks and aggregated APIs.
pub(crate) fn trust(entries: &mut Entries, authority: &str) {
    let served = served_names(entries);
    let ca = BASE64.encode(authority);
    for object in entries.values_mut() {
        let mut configs: Vec<&mut Value> = match object["kind"].as_str() {
            Some("MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
                let webhooks = object["webhooks"].as_array_mut().into_iter().flatten();
                webhooks
                    .filter_map(|webhook| webhook.get_mut("clientConfig"))
                    .collect()
            }
            Some("CustomResourceDefinition") => object
                .pointer_mut("/spec/conversion/webhook/clientConfig")
                .into_iter()
                .collect(),
            Some("APIService") => object.get_mut("spec").into_iter().collect(),
            _ => continue,
        };
        for config in &mut configs {
            let service = &config["service"];
            let (Some(name), Some(namespace)) = (service["name"].as_str(), service["namespace"].as_str())
            else {
                continue;
            };
            if config.get("caBundle").is_some() && !served.contains(&format!("{name}.{namespace}.svc")) {
                config["caBundle"] = ca.clone().into();
            }
        }
    }
}

/// The Services, as `NAME.NAMESPACE.svc`, for which a Secret beside them holds a certificate and its private key.
fn served_names(entries: &Entries) -> BTreeSet<String> {
    let of_kind = |kind: &'static str| entries.values().filter(move |object| object["kind"] == kind);
    let secrets: Vec<Secret> = of_kind("Secret")
        .filter_map(|object| serde_json::from_value(object.clone()).ok())
        .collect();
    let mut served = BTreeSet::new();
    for service in of_kind("Service") {
        let metadata = &service["metadata"];
        let (Some(name), Some(namespace)) = (metadata["name"].as_str(), metadata["namespace"].as_str())
        else {
            continue;
        };
        let host = format!("{name}.{namespace}.svc");
        let beside = secrets
            .iter()
            .filter(|secret| secret.metadata.namespace.as_deref() == Some(namespace));
        let mut pairs = beside.flat_map(pairs);
        if pairs.any(|(certificate, key)| tls(&certificate, &key, Some(&host)).is_some()) {
            served.insert(host);
        }
    }
    served
}

/// Reads `CONNECT host:port HTTP/1.1` and the headers that follow; returns `host:port`.
async fn read_target(stream: &mut UnixStream) -> anyhow::Result<String> {
    let mut head = Vec::new();
    // The client waits for our answer: nothing that belongs to what follows can be read here.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 8192 {
            bail!("the request is too long");
        }
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_buf(&mut head)).await??;
        if read == 0 {
            bail!("the connection was closed early");
        }
    }
    target(&String::from_utf8_lossy(&head)).context("not a CONNECT request")
}

fn target(head: &str) -> Option<String> {
    let mut words = head.lines().next()?.split(' ');
    (words.next()? == "CONNECT")
        .then(|| words.next().map(str::to_owned))
        .flatten()
}

/// The certificates in a Secret, each with its key: `tls.crt` goes with `tls.key`, and so on.
fn pairs(secret: &Secret) -> Vec<(Vec<u8>, Vec<u8>)> {
    let data = secret.data.iter().flatten();
    data.filter_map(|(name, certificate)| {
        let key = secret
            .data
            .as_ref()?
            .get(&format!("{}.key", name.strip_suffix(".crt")?))?;
        Some((certificate.0.clone(), key.0.clone()))
    })
    .collect()
}

/// A server's TLS with this pair; `None` if it is no pair (a dump's private keys may be placeholders), or not one for `name`.
fn tls(certificate: &[u8], key: &[u8], name: Option<&str>) -> Option<rustls::ServerConfig> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .ok()?;
    if let Some(name) = name {
        let parsed = ParsedCertificate::try_from(chain.first()?).ok()?;
        verify_server_name(&parsed, &ServerName::try_from(name).ok()?).ok()?;
    }
    let key = PrivateKeyDer::from_pem_slice(key).ok()?;
    super::install_crypto();
    rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .ok()
}

async fn respond(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let answer = if parts.method == Method::POST {
        serde_json::from_slice(&body)
            .ok()
            .and_then(|review| review_answer(&review))
    } else {
        group_version_answer(parts.uri.path())
    };
    let (status, answer) = match answer {
        Some(answer) => (StatusCode::OK, answer),
        None => (
            StatusCode::NOT_FOUND,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

/// Allows what is reviewed; converts by changing nothing but the version.
fn review_answer(review: &Value) -> Option<Value> {
    let request = review.get("request")?;
    let response = match review["kind"].as_str()? {
        "AdmissionReview" => json!({"uid": request["uid"], "allowed": true}),
        "ConversionReview" => {
            let mut objects = request["objects"].as_array()?.clone();
            for object in &mut objects {
                object["apiVersion"] = request["desiredAPIVersion"].clone();
            }
            json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects})
        }
        _ => return None,
    };
    Some(json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response}))
}

/// The discovery document of an aggregated API without resources; other paths are not served.
fn group_version_answer(path: &str) -> Option<Value> {
    let (group, version) = path.strip_prefix("/apis/")?.split_once('/')?;
    (!version.contains('/')).then(|| {
        json!({
            "kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": format!("{group}/{version}"), "resources": [],
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_where_to_connect_to() {
        assert_eq!(
            target("CONNECT 127.96.1.2:443 HTTP/1.1\r\nHost: x\r\n\r\n").as_deref(),
            Some("127.96.1.2:443")
        );
        assert_eq!(target("GET / HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn allows_admissions_in_the_version_asked_for() {
        for version in ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"] {
            let review = json!({"kind": "AdmissionReview", "apiVersion": version, "request": {"uid": "1"}});
            assert_eq!(
                review_answer(&review).unwrap(),
                json!({"kind": "AdmissionReview", "apiVersion": version, "response": {"uid": "1", "allowed": true}})
            );
        }
    }

    #[test]
    fn converts_the_version_and_nothing_else() {
        let review = json!({
            "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "request": {"uid": "1", "desiredAPIVersion": "g/v2", "objects": [{"apiVersion": "g/v1", "spec": 1}]},
        });
        let answer = review_answer(&review).unwrap();
        assert_eq!(
            answer["response"]["convertedObjects"],
            json!([{"apiVersion": "g/v2", "spec": 1}])
        );
    }

    #[test]
    fn serves_discovery_of_a_group_only() {
        assert_eq!(
            group_version_answer("/apis/metrics.k8s.io/v1beta1").unwrap()["groupVersion"],
            "metrics.k8s.io/v1beta1"
        );
        assert_eq!(group_version_answer("/apis/metrics.k8s.io/v1beta1/nodes"), None);
        assert_eq!(group_version_answer("/healthz"), None);
    }

    #[test]
    fn presents_a_pair_only_for_the_names_in_it() {
        super::super::install_crypto();
        let pair = Authority::generate("ca").unwrap().server(&["a.b.svc"]).unwrap();
        let check = |key: &[u8], name| tls(pair.certificate.as_bytes(), key, name).is_some();
        assert!(check(pair.key.as_bytes(), Some("a.b.svc")));
        assert!(!check(pair.key.as_bytes(), Some("other.b.svc")));
        assert!(!check(b"redacted", Some("a.b.svc")));
        assert!(check(pair.key.as_bytes(), None));
    }

    #[test]
    fn trusts_its_own_authority_only_where_the_private_key_is_lost() {
        let pair = Authority::generate("ca")
            .unwrap()
            .server(&["kept.b.svc", "lost.b.svc"])
            .unwrap();
        let secret = |name: &str, key: &str| {
            json!({
                "kind": "Secret", "apiVersion": "v1", "metadata": {"name": name, "namespace": "b"},
                "data": {"tls.crt": BASE64.encode(&pair.certificate), "tls.key": BASE64.encode(key)},
            })
        };
        let service = |name: &str| json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name, "namespace": "b"}});
        let config = |name: &str| json!({"service": {"name": name, "namespace": "b"}, "caBundle": "b2xk"});
        let check = |key: &str, expect: &str| {
            let definition = json!({"kind": "CustomResourceDefinition", "spec": {"conversion": {"webhook": {"clientConfig": config("kept")}}}});
            let webhooks = json!({
                "kind": "ValidatingWebhookConfiguration",
                "webhooks": [{"clientConfig": config("kept")}, {"clientConfig": {"url": "https://x", "caBundle": "b2xk"}}],
            });
            let objects = [secret("s", key), service("kept"), definition, webhooks];
            let mut entries: Entries = objects.map(|object| (object["kind"].to_string(), object)).into();
            trust(&mut entries, "new");
            let webhooks = &entries["\"ValidatingWebhookConfiguration\""]["webhooks"];
            let definition = &entries["\"CustomResourceDefinition\""];
            assert_eq!(webhooks[0]["clientConfig"]["caBundle"], expect);
            assert_eq!(webhooks[1]["clientConfig"]["caBundle"], "b2xk");
            assert_eq!(
                definition["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"],
                expect
            );
        };
        check(&pair.key, "b2xk");
        check("redacted", "bmV3");
    }
}
