//! The API over HTTPS, for those who have the token.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;

use crate::api::respond::{self, Body};
use crate::authority;
use crate::service::Service;
use crate::status::Status;

/// How often a sandbox that is served is told that time has passed.
const TICK: Duration = Duration::from_millis(250);

/// Where and how to serve.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The address to listen on: loopback and a free port unless told otherwise.
    pub address: SocketAddr,
}

impl Default for ServeOptions {
    fn default() -> ServeOptions {
        ServeOptions {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        }
    }
}

impl ServeOptions {
    /// Listens on this address.
    pub fn at(address: SocketAddr) -> ServeOptions {
        ServeOptions { address }
    }
}

/// A running server. Dropping it stops it at once.
pub struct Server {
    /// The address that it listens on.
    pub address: SocketAddr,
    token: Arc<str>,
    stop: tokio::sync::watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Server {
    pub(crate) async fn start(service: Service, options: ServeOptions) -> io::Result<Server> {
        let listener = TcpListener::bind(options.address).await?;
        let address = listener.local_addr()?;
        let names = vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
            address.ip().to_string(),
        ];
        let vouched = authority::vouch(names)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(vouched.key));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![vouched.certificate], key)
            .map_err(io::Error::other)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let token: Arc<str> = uuid::Uuid::new_v4().simple().to_string().into();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(accept(
            listener,
            TlsAcceptor::from(Arc::new(tls)),
            Guarded {
                service,
                token: Arc::clone(&token),
            },
            stopped,
        ));
        Ok(Server {
            address,
            token,
            stop,
            task,
        })
    }

    /// The base of all URLs: `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        let ip = self.address.ip();
        let ip = if ip.is_unspecified() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            ip
        };
        format!("https://{}", SocketAddr::new(ip, self.address.port()))
    }

    /// A kubeconfig with the certificate of the authority and the token: whoever has it may do everything here.
    pub fn kubeconfig(&self) -> String {
        let authority = base64::engine::general_purpose::STANDARD.encode(authority::certificate());
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: sandbox\n  \
               cluster:\n    \
                 server: {}\n    \
                 certificate-authority-data: {authority}\n\
             users:\n\
             - name: sandbox\n  \
               user:\n    \
                 token: {}\n\
             contexts:\n\
             - name: sandbox\n  \
               context:\n    \
                 cluster: sandbox\n    \
                 user: sandbox\n\
             current-context: sandbox\n",
            self.url(),
            self.token,
        )
    }

    /// Stops listening and ends all connections, watches included.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.task).await {
            tracing::warn!(%error, "the server did not end well");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    service: Guarded,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) {
    // Dropping the set ends the connections.
    let mut connections = JoinSet::new();
    let mut clock = tokio::time::interval(TICK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = clock.tick() => service.service.tick(),
            _ = stopped.wait_for(|stopped| *stopped) => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        continue;
                    }
                };
                let (tls, service) = (tls.clone(), service.clone());
                connections.spawn(async move {
                    // Small answers go out at once.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "nodelay");
                    }
                    let stream = match tls.accept(stream).await {
                        Ok(stream) => stream,
                        Err(error) => {
                            tracing::debug!(%error, "a TLS handshake failed");
                            return;
                        }
                    };
                    let served = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                        .await;
                    if let Err(error) = served {
                        tracing::debug!(%error, "a connection ended");
                    }
                });
            }
        }
    }
}

/// Lets only those in who have the administrator's token, or one of a ServiceAccount.
#[derive(Clone)]
struct Guarded {
    service: Service,
    token: Arc<str>,
}

impl tower::Service<http::Request<hyper::body::Incoming>> for Guarded {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = <Service as tower::Service<http::Request<hyper::body::Incoming>>>::Future;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), std::convert::Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        let given = request
            .headers()
            .get(http::header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        if is_same(given.as_bytes(), self.token.as_bytes()) {
            return self.service.call(request);
        }
        if let Some(account) = self.service.authenticate(given) {
            return self.service.for_user(account).call(request);
        }
        Box::pin(async { Ok(respond::status(&Status::unauthorized())) })
    }
}

/// Compares in a time that does not tell how much of it was right.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    given.len() == token.len()
        && given
            .iter()
            .zip(token)
            .fold(0, |differs, (a, b)| differs | (a ^ b))
            == 0
}
