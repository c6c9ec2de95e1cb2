//! From a kubeconfig, or from inside a pod, to a client.

use std::{fmt, io, path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use serde_json::Value;

use crate::{Cluster, ErrorClass, Failure, expiry};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer. A server under load may think for long about a list.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// Which cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Instead of `$KUBECONFIG` and `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Instead of the current context.
    pub context: Option<String>,
}

/// What people call the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName {
    /// The kubeconfig's context; `in-cluster` for the service account of a pod.
    pub context: String,
    /// URL of the API server.
    pub server: String,
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.context, self.server)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no kubeconfig was found")]
    NoKubeconfig,
    #[error("cannot read kubeconfig {path}: {message}")]
    ReadKubeconfig { path: String, message: String },
    #[error("kubeconfig has no current context")]
    NoContext { available: Vec<String> },
    #[error("kubeconfig has no context \"{context}\"")]
    UnknownContext { context: String, available: Vec<String> },
    #[error("kubeconfig: {message}")]
    InvalidKubeconfig { message: String },
    #[error("cannot reach the API server of {cluster}: {failure}")]
    Unreachable { cluster: ClusterName, failure: Failure },
    #[error("the API server of {cluster} does not accept the credentials: {reason}")]
    Credentials { cluster: ClusterName, reason: String },
    #[error("what answers at {cluster} is no Kubernetes API server: {failure}")]
    NotKubernetes { cluster: ClusterName, failure: Failure },
}

impl ConnectError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoKubeconfig => {
                "name one with --kubeconfig or $KUBECONFIG, or put it at ~/.kube/config".to_owned()
            }
            Self::ReadKubeconfig { .. } => "check the file given by --kubeconfig or $KUBECONFIG".to_owned(),
            Self::NoContext { available } | Self::UnknownContext { available, .. } => match available
                .as_slice()
            {
                [] => "the kubeconfig holds no contexts at all: check --kubeconfig or $KUBECONFIG".to_owned(),
                available => format!("choose one with --context: {}", available.join(", ")),
            },
            Self::InvalidKubeconfig { .. } => return None,
            Self::Unreachable { failure, .. } if failure.class == ErrorClass::Other => return failure.hint(),
            Self::Unreachable { .. } => {
                "check that the cluster is up and that this machine reaches it (VPN, firewall, proxy)"
                    .to_owned()
            }
            Self::Credentials { .. } => {
                "log in again, or choose another --kubeconfig or --context".to_owned()
            }
            Self::NotKubernetes { .. } => "check the server of the kubeconfig's cluster".to_owned(),
        })
    }
}

/// Finds the cluster, and makes sure that it answers and knows the caller.
///
/// # Errors
/// Says in plain words what is missing or wrong, and never shows credentials.
pub async fn connect(options: &ConnectOptions) -> Result<(kube::Client, ClusterName), ConnectError> {
    let Some(kubeconfig) = read_kubeconfig(options)? else {
        let config = Config::incluster().map_err(|_| ConnectError::NoKubeconfig)?;
        let name = ClusterName {
            context: "in-cluster".to_owned(),
            server: server_of(&config),
        };
        return open(config, name).await;
    };
    let available: Vec<String> = kubeconfig.contexts.iter().map(|c| c.name.clone()).collect();
    let context = options
        .context
        .clone()
        .or_else(|| kubeconfig.current_context.clone())
        .filter(|c| !c.is_empty());
    let Some(context) = context else {
        return Err(ConnectError::NoContext { available });
    };
    if !available.contains(&context) {
        return Err(ConnectError::UnknownContext { context, available });
    }
    let wanted = KubeConfigOptions {
        context: Some(context.clone()),
        ..KubeConfigOptions::default()
    };
    let proxy = proxy_in_kubeconfig(&kubeconfig, &context);
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &wanted)
        .await
        .map_err(|error| ConnectError::InvalidKubeconfig {
            message: kubeconfig_words(&error),
        })?;
    if !proxy
        && config
            .cluster_url
            .host()
            .is_some_and(|host| is_exempt(host, &no_proxy()))
    {
        // The environment's proxy is for others.
        config.proxy_url = None;
    }
    let name = ClusterName {
        context,
        server: server_of(&config),
    };
    open(config, name).await
}

/// `None` when there is none and a pod's service account is to be used.
fn read_kubeconfig(options: &ConnectOptions) -> Result<Option<Kubeconfig>, ConnectError> {
    let read = match &options.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    match read {
        Ok(kubeconfig) if kubeconfig.contexts.is_empty() && options.kubeconfig.is_none() && is_in_pod() => {
            Ok(None)
        }
        Ok(kubeconfig) => Ok(Some(kubeconfig)),
        Err(KubeconfigError::ReadConfig(error, path)) => {
            let is_default =
                options.kubeconfig.is_none() && std::env::var_os("KUBECONFIG").is_none_or(|v| v.is_empty());
            match error.kind() {
                io::ErrorKind::NotFound if is_default && is_in_pod() => Ok(None),
                io::ErrorKind::NotFound if is_default => Err(ConnectError::NoKubeconfig),
                _ => Err(ConnectError::ReadKubeconfig {
                    path: path.display().to_string(),
                    message: error.to_string(),
                }),
            }
        }
        Err(KubeconfigError::FindPath) if is_in_pod() => Ok(None),
        Err(KubeconfigError::FindPath) => Err(ConnectError::NoKubeconfig),
        Err(error) => {
            let path = options.kubeconfig.as_ref().map(|p| p.display().to_string());
            let path = path
                .or_else(|| std::env::var("KUBECONFIG").ok())
                .unwrap_or_else(|| "~/.kube/config".to_owned());
            Err(ConnectError::ReadKubeconfig {
                path,
                message: kubeconfig_words(&error),
            })
        }
    }
}

fn is_in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// A parser's words show the place where it stopped, which may be a token: only the line is told.
fn kubeconfig_words(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(parse) => match parse.location() {
            Some(location) => format!(
                "it is not a kubeconfig (line {}, column {})",
                location.line(),
                location.column()
            ),
            None => "it is not a kubeconfig".to_owned(),
        },
        other => other.to_string(),
    }
}

fn server_of(config: &Config) -> String {
    config.cluster_url.to_string().trim_end_matches('/').to_owned()
}

/// Says what TLS is done with, for libraries that leave it to the program. Another one may have been chosen already.
pub fn choose_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

async fn open(mut config: Config, name: ClusterName) -> Result<(kube::Client, ClusterName), ConnectError> {
    choose_tls();
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    // Whoever makes a request knows whether and how often it may be made again.
    config.default_retry = false;
    let credentials = serde_json::to_value(&config.auth_info).unwrap_or_default();
    let refused = |failure: &Failure| ConnectError::Credentials {
        cluster: name.clone(),
        reason: why_refused(&credentials, Timestamp::now()).unwrap_or_else(|| failure.message.clone()),
    };
    let client = match kube::Client::try_from(config) {
        Ok(client) => client,
        Err(error @ kube::Error::Auth(_)) => return Err(refused(&Failure::from_transport(&error))),
        Err(error) => {
            return Err(ConnectError::InvalidKubeconfig {
                message: error.to_string(),
            });
        }
    };
    let Err(error) = Cluster::new(client.clone()).version().await else {
        return Ok((client, name));
    };
    let failure = error.failure;
    Err(match failure.class {
        ErrorClass::Unauthorized => refused(&failure),
        // A caller without any permission, not even this one.
        ErrorClass::Forbidden => return Ok((client, name)),
        _ if failure.status.is_none()
            && failure.class == ErrorClass::Other
            && !failure.message.contains("certificate") =>
        {
            ConnectError::NotKubernetes {
                cluster: name,
                failure,
            }
        }
        ErrorClass::NotServed | ErrorClass::NotFound | ErrorClass::Unknown => ConnectError::NotKubernetes {
            cluster: name,
            failure,
        },
        _ => ConnectError::Unreachable {
            cluster: name,
            failure,
        },
    })
}

/// Says that a token or a client certificate has expired. `credentials` is a kubeconfig's user.
fn why_refused(credentials: &Value, now: Timestamp) -> Option<String> {
    let text = |name: &str| credentials.get(name).and_then(Value::as_str);
    let read = |name: &str| std::fs::read(text(name)?).ok();
    let token = text("token")
        .map(str::to_owned)
        .or_else(|| String::from_utf8(read("tokenFile")?).ok());
    if let Some(expired) = token.as_deref().and_then(expiry::of_token).filter(|t| *t < now) {
        return Some(format!("its token expired at {expired}"));
    }
    let certificate = text("client-certificate-data")
        .and_then(|data| STANDARD.decode(data).ok())
        .or_else(|| read("client-certificate"));
    let expired = certificate
        .as_deref()
        .and_then(expiry::of_certificate)
        .filter(|t| *t < now)?;
    Some(format!("its client certificate expired at {expired}"))
}

fn proxy_in_kubeconfig(kubeconfig: &Kubeconfig, context: &str) -> bool {
    let cluster = kubeconfig
        .contexts
        .iter()
        .find(|c| c.name == context)
        .and_then(|c| Some(&c.context.as_ref()?.cluster));
    let cluster = cluster.and_then(|name| {
        kubeconfig
            .clusters
            .iter()
            .find(|c| c.name == *name)?
            .cluster
            .as_ref()
    });
    cluster
        .and_then(|c| c.proxy_url.as_ref())
        .is_some_and(|p| !p.is_empty())
}

fn no_proxy() -> String {
    ["NO_PROXY", "no_proxy"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_default()
}

/// Whether a host is reached without the environment's proxy: this machine, or one that `NO_PROXY` names (host,
/// domain, or address; blocks of addresses as a prefix of whole octets).
fn is_exempt(host: &str, no_proxy: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback()) {
        return true;
    }
    no_proxy
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            let entry = entry.split_once(':').map_or(entry, |(name, _)| name);
            if entry == "*" || entry == host {
                return true;
            }
            if let Some((network, bits)) = entry.split_once('/') {
                return is_in_network(host, network, bits).unwrap_or_default();
            }
            host.strip_suffix(entry.trim_start_matches("*.").trim_start_matches('.'))
                .is_some_and(|rest| rest.ends_with('.'))
        })
}

fn is_in_network(host: &str, network: &str, bits: &str) -> Option<bool> {
    let host = u32::from(host.parse::<std::net::Ipv4Addr>().ok()?);
    let network = u32::from(network.parse::<std::net::Ipv4Addr>().ok()?);
    let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32)?;
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or_default();
    Some(host & mask == network & mask)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn mk_kubeconfig(server: &str, user: Value) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "one",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [
                {"name": "one", "context": {"cluster": "c", "user": "u"}},
                {"name": "two", "context": {"cluster": "gone", "user": "u"}},
            ],
        });
        std::fs::write(file.path(), config.to_string()).unwrap();
        file
    }

    /// A server that gives the same answer to everything.
    async fn mk_server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        format!("http://{address}")
    }

    async fn check(options: ConnectOptions, expect: &str) {
        let error = connect(&options)
            .await
            .err()
            .expect("no connection is to be made");
        let told = format!("{error}; {}", error.hint().unwrap_or_default());
        assert!(told.contains(expect), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }

    fn mk_options(file: &tempfile::NamedTempFile, context: Option<&str>) -> ConnectOptions {
        ConnectOptions {
            kubeconfig: Some(file.path().to_owned()),
            context: context.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn says_what_is_wrong_with_the_kubeconfig() {
        let file = mk_kubeconfig("http://127.0.0.1:1", json!({"token": "hunter2"}));
        check(
            mk_options(&file, Some("three")),
            "no context \"three\"; choose one with --context: one, two",
        )
        .await;
        check(mk_options(&file, Some("two")), "gone").await;
        let absent = ConnectOptions {
            kubeconfig: Some("/nonexistent/config".into()),
            context: None,
        };
        check(absent, "cannot read kubeconfig /nonexistent/config").await;
        std::fs::write(file.path(), "clusters: [\n  token: hunter2").unwrap();
        check(mk_options(&file, None), "it is not a kubeconfig (line").await;
        std::fs::write(file.path(), "apiVersion: v1\nkind: Config\n").unwrap();
        check(mk_options(&file, None), "no contexts at all").await;
    }

    #[tokio::test]
    async fn says_that_nobody_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let file = mk_kubeconfig(&format!("http://{address}"), json!({}));
        check(
            mk_options(&file, None),
            &format!("cannot reach the API server of one (http://{address}): Connection refused"),
        )
        .await;
    }

    #[tokio::test]
    async fn says_that_credentials_are_not_accepted_and_why() {
        let server =
            mk_server("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        let file = mk_kubeconfig(&server, json!({"token": "hunter2"}));
        check(mk_options(&file, None), "does not accept the credentials").await;
        // {"exp":1700000000}
        let file = mk_kubeconfig(&server, json!({"token": "e30.eyJleHAiOjE3MDAwMDAwMDB9.hunter2"}));
        check(
            mk_options(&file, None),
            "its token expired at 2023-11-14T22:13:20Z",
        )
        .await;
    }

    #[tokio::test]
    async fn says_that_it_is_no_api_server() {
        let server =
            mk_server("HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nhunter2").await;
        let file = mk_kubeconfig(&server, json!({}));
        check(mk_options(&file, None), "is no Kubernetes API server").await;
    }

    #[tokio::test]
    async fn connects() {
        let server = mk_server(
            "HTTP/1.1 200 OK\r\ncontent-length: 24\r\nconnection: close\r\n\r\n{\"gitVersion\":\"v1.20.2\"}",
        )
        .await;
        let file = mk_kubeconfig(&server, json!({}));
        let (_, name) = connect(&mk_options(&file, None)).await.unwrap();
        assert_eq!(
            name,
            ClusterName {
                context: "one".into(),
                server
            }
        );
    }

    #[test]
    fn the_proxy_of_the_environment_is_not_for_everybody() {
        let check =
            |host, no_proxy, expect| assert_eq!(is_exempt(host, no_proxy), expect, "{host} {no_proxy}");
        check("127.0.0.1", "", true);
        check("[::1]", "", true);
        check("10.1.2.3", "", false);
        check("10.1.2.3", "localhost, 10.0.0.0/8", true);
        check("11.1.2.3", "10.0.0.0/8", false);
        check("api.example.org", ".example.org", true);
        check("api.example.org", "example.org", true);
        check("apiexample.org", "example.org", false);
        check("anything", "*", true);
    }
}
