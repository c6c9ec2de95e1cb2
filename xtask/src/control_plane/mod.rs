//! A real Kubernetes 1.20.2 control plane on loopback, for tests.
//!
//! ```text
//!  build ──▶ programs in the cache        dump ──▶ restore ──▶ etcd ◀── kube-apiserver ◀── kube-controller-manager
//!                                                                          │  ▲  ▲            kube-scheduler
//!  certificates: an authority per instance                                 │  │  └── nodes: plays the kubelets
//!  process: starts and surely ends the four programs             egress ◀──┘  └───── a test's client
//! ```
//!
//! An instance has its own folder, ports and authority: several may run at once. What would need a real network is
//! played by this library in a thread of its own: the kubelets ([`nodes`]) and whatever the API server reaches
//! through Services ([`egress`]: admission webhooks, conversion webhooks, aggregated APIs).

mod build;
mod certificates;
mod egress;
mod nodes;
mod pods;
mod process;
mod restore;
mod volumes;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

pub use build::{KUBERNETES_VERSION, Programs, cached, ensure, swagger_path};
pub use process::{Instance, instances, sweep};

use certificates::{Authority, Pair};
use process::Processes;

/// Set to 1 to have the tests that need a control plane run.
pub const SWITCH: &str = "KS_CONTROL_PLANE";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine cannot have a control plane; tests skip then.
    #[error("no control plane here: {0}")]
    Unavailable(String),
    #[error("{step} failed:\n{output}")]
    Build { step: String, output: String },
    #[error("{program} ended early ({status}):\n{output}")]
    Ended {
        program: String,
        status: String,
        output: String,
    },
    #[error("waited {} s for {what} in vain{detail}", waited.as_secs())]
    Timeout {
        what: String,
        waited: Duration,
        detail: String,
    },
    #[error("cannot restore the dump: {0}")]
    Restore(String),
    #[error("cannot use {path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("no free port on loopback")]
    Port(#[source] std::io::Error),
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("a request failed")]
    Request(#[from] kube::Error),
    #[error("the kubeconfig is not usable")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
}

impl Error {
    fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the reason is the machine, not a defect.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// What an instance is to be like.
#[derive(Debug, Clone)]
pub struct Options {
    /// A dump, one object each, put into etcd as it is (see `restore` for the few exceptions). Empty for an empty cluster.
    pub objects: Vec<Value>,
    /// How many nodes to make if the dump has none.
    pub nodes: usize,
    /// Whether the controller manager, the scheduler and the fake nodes run. Without them nothing moves:
    /// good for tests of single requests, and started sooner.
    pub controllers: bool,
    /// Whether admission webhooks, conversion webhooks and aggregated APIs behind Services are answered, whenever
    /// the Service has ready endpoints as it must in a real cluster. Otherwise connections to them are refused.
    pub answer_webhooks: bool,
    /// How long a Pod takes from being scheduled to being ready, and a Job's Pod from running to its end.
    pub pod_delay: Duration,
    /// Images that cannot be pulled: a Pod whose image contains one of these never starts.
    pub unpullable_images: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            objects: Vec::new(),
            nodes: 3,
            controllers: true,
            answer_webhooks: true,
            pod_delay: Duration::from_millis(200),
            unpullable_images: Vec::new(),
        }
    }
}

/// A running control plane. Dropping it ends all of its processes and removes its data.
pub struct ControlPlane {
    // Fields are dropped in this order: what talks to the processes, the processes, their folder.
    _nodes: Option<nodes::Nodes>,
    egress: egress::Egress,
    processes: Processes,
    folder: tempfile::TempDir,
    server: String,
    kubeconfig: Value,
    controllers: bool,
}

impl ControlPlane {
    /// Starts a control plane and waits until the API server is ready (and, with controllers, the nodes).
    /// For restored workloads to be ready as well, see [`ControlPlane::wait_until_settled`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Kubernetes is not built on this machine.
    pub async fn start(options: Options) -> Result<Self, Error> {
        sweep();
        let programs = cached()?;
        let entries = restore::entries(options.objects)?;
        let has_nodes = entries.keys().any(|key| key.starts_with("/registry/minions/"));
        let has_storage_class = entries
            .keys()
            .any(|key| key.starts_with("/registry/storageclasses/"));

        let folder = process::new_folder()?;
        let files = Files {
            folder: folder.path(),
        };
        let [etcd_port, peer_port, secure_port] = process::free_ports()?;
        let server = format!("https://127.0.0.1:{secure_port}");
        let authority = Authority::generate("kubernetes")?;
        let kubeconfig = kubeconfig(
            &server,
            &authority.pem(),
            &authority.client("admin", Some("system:masters"))?,
        );
        let kubeconfig_path = files.write("kubeconfig", &kubeconfig.to_string())?;

        let mut processes = Processes::new(folder.path());
        processes.start(
            "etcd",
            &programs.etcd,
            &etcd_arguments(folder.path(), etcd_port, peer_port),
        )?;
        let etcd = etcd_client(etcd_port)?;
        restore::wait_for_etcd(&etcd, || processes.check()).await?;
        restore::put(&etcd, &entries).await?;
        drop((etcd, entries));

        let client_config = config_of(&kubeconfig).await?;
        let egress = egress::Egress::start(
            &folder.path().join("egress.sock"),
            client_config.clone(),
            authority.server(&["localhost"])?,
            options.answer_webhooks,
            options.controllers,
        )?;
        let arguments = api_server_arguments(&files, &authority, etcd_port, secure_port)?;
        processes.start("kube-apiserver", &programs.kube_apiserver, &arguments)?;
        let client = client_of(client_config.clone())?;
        poll("the API server to be ready", Duration::from_mins(2), async || {
            processes.check()?;
            let request = http::Request::get("/readyz")
                .body(Vec::new())
                .expect("the address is a constant");
            Ok(client.request_text(request).await.is_ok_and(|text| text == "ok"))
        })
        .await?;

        let mut nodes = None;
        if options.controllers {
            let arguments = controller_manager_arguments(&files, &kubeconfig_path);
            processes.start(
                "kube-controller-manager",
                &programs.kube_controller_manager,
                &arguments,
            )?;
            let arguments = scheduler_arguments(&kubeconfig_path);
            processes.start("kube-scheduler", &programs.kube_scheduler, &arguments)?;
            nodes = Some(nodes::Nodes::start(
                client_config,
                nodes::Settings {
                    make_nodes: if has_nodes { 0 } else { options.nodes },
                    make_storage_class: !has_storage_class,
                    pods: pods::Settings {
                        delay: options.pod_delay,
                        unpullable_images: options.unpullable_images,
                    },
                },
            )?);
            nodes::wait_until_ready(&client, || processes.check()).await?;
        }
        processes.publish(false, &server, &kubeconfig_path)?;
        Ok(Self {
            _nodes: nodes,
            egress,
            processes,
            folder,
            server,
            kubeconfig,
            controllers: options.controllers,
        })
    }

    /// Starts a control plane for a test, or says on stderr why the test is skipped: tests with a real control
    /// plane run only where [`SWITCH`] is 1, so that a plain `cargo test` needs no network, root or minutes.
    ///
    /// # Panics
    /// If it cannot be started for a reason other than the machine.
    pub async fn start_or_skip(test: &str, options: Options) -> Option<Self> {
        let reason = if std::env::var(SWITCH).is_ok_and(|value| value == "1") {
            match Self::start(options).await {
                Ok(started) => return Some(started),
                Err(Error::Unavailable(reason)) => reason,
                Err(error) => panic!("the control plane does not start: {error}{}", sources(&error)),
            }
        } else {
            format!("{SWITCH} is not 1")
        };
        // Past libtest's capture: a skipped test must not look like one that ran.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("skipping {test}: {reason}\n"),
        );
        None
    }

    /// The API server's address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A kubeconfig (as JSON, which is YAML) of a cluster administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// A client with every right. Each call makes a new one, for a client's connections live and die with the runtime
    /// that made it.
    pub async fn client(&self) -> Result<Client, Error> {
        client_of(config_of(&self.kubeconfig).await?)
    }

    /// A client that acts as `user`, in `groups` (and in `system:authenticated`), by impersonation: RBAC
    /// decides as for the user itself.
    pub async fn user_client(&self, user: &str, groups: &[&str]) -> Result<Client, Error> {
        let mut config = config_of(&self.kubeconfig).await?;
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups = Some(groups.iter().map(|&group| group.to_owned()).collect());
        client_of(config)
    }

    /// A client that acts as a service account.
    pub async fn service_account_client(&self, namespace: &str, name: &str) -> Result<Client, Error> {
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        self.user_client(&format!("system:serviceaccount:{namespace}:{name}"), &groups)
            .await
    }

    /// Turns the answering of webhooks and aggregated APIs on or off.
    pub fn answer_webhooks(&self, answer: bool) {
        self.egress.answer(answer);
    }

    /// The log of `etcd`, `kube-apiserver`, `kube-controller-manager` or `kube-scheduler`.
    pub fn log(&self, program: &str) -> String {
        fs::read_to_string(self.processes.log(program)).unwrap_or_default()
    }

    /// Marks the instance as one that outlives commands, and that `control-plane down` ends.
    pub fn publish_standing(&self) -> Result<Instance, Error> {
        self.processes.publish(true, &self.server, &self.kubeconfig())
    }

    /// Waits until every Deployment, StatefulSet and DaemonSet is rolled out and ready.
    ///
    /// # Errors
    /// [`Error::Timeout`], which names those that are not.
    pub async fn wait_until_settled(&mut self, limit: Duration) -> Result<(), Error> {
        if !self.controllers {
            return Ok(());
        }
        let client = self.client().await?;
        let begin = Instant::now();
        loop {
            self.processes.check()?;
            let unready = unready_workloads(&client).await?;
            if unready.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > limit {
                return Err(Error::Timeout {
                    what: "all workloads to be ready".into(),
                    waited: limit,
                    detail: format!("; not ready: {}", unready.join(", ")),
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The workloads that are not rolled out, as `Kind namespace/name`.
async fn unready_workloads(client: &Client) -> Result<Vec<String>, Error> {
    let mut unready = Vec::new();
    let mut note = |kind: &str, metadata: kube::core::ObjectMeta, ready: bool| {
        if !ready {
            let namespace = metadata.namespace.unwrap_or_default();
            unready.push(format!(
                "{kind} {namespace}/{}",
                metadata.name.unwrap_or_default()
            ));
        }
    };
    for object in Api::<Deployment>::all(client.clone())
        .list(&ListParams::default())
        .await?
    {
        let wanted = object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = object.status.unwrap_or_default();
        let ready = status.observed_generation >= object.metadata.generation
            && status.updated_replicas.unwrap_or(0) == wanted
            && status.replicas.unwrap_or(0) == wanted
            && status.available_replicas.unwrap_or(0) == wanted;
        note("Deployment", object.metadata, ready);
    }
    for object in Api::<StatefulSet>::all(client.clone())
        .list(&ListParams::default())
        .await?
    {
        let wanted = object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = object.status.unwrap_or_default();
        let ready = status.observed_generation >= object.metadata.generation
            && status.ready_replicas.unwrap_or(0) == wanted
            && status.current_revision == status.update_revision;
        note("StatefulSet", object.metadata, ready);
    }
    for object in Api::<DaemonSet>::all(client.clone())
        .list(&ListParams::default())
        .await?
    {
        let status = object.status.unwrap_or_default();
        let ready = status.observed_generation >= object.metadata.generation
            && status.number_ready == status.desired_number_scheduled
            && status.updated_number_scheduled.unwrap_or(0) == status.desired_number_scheduled;
        note("DaemonSet", object.metadata, ready);
    }
    Ok(unready)
}

/// Reads a dump: a file with one object a line, or a `List`, or a single object; also compressed with zstd (`.zst`).
///
/// # Errors
/// An unreadable file, or text that is not JSON.
pub fn read_dump(path: &Path) -> Result<Vec<Value>, Error> {
    let bytes = fs::read(path).map_err(|source| Error::file(path, source))?;
    let bytes = if path.extension().is_some_and(|extension| extension == "zst") {
        zstd::decode_all(&*bytes).map_err(|source| Error::file(path, source))?
    } else {
        bytes
    };
    let mut objects = Vec::new();
    for value in serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>() {
        let mut value = value.map_err(|error| Error::file(path, error.into()))?;
        let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        match value.get_mut("items") {
            Some(Value::Array(items)) if is_list => objects.append(items),
            _ => objects.push(value),
        }
    }
    Ok(objects)
}

/// Files of one instance, by absolute path.
struct Files<'a> {
    folder: &'a Path,
}

impl Files<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|source| Error::file(&path, source))?;
        Ok(path)
    }

    fn write_pair(&self, name: &str, pair: &Pair) -> Result<(PathBuf, PathBuf), Error> {
        Ok((
            self.write(&format!("{name}.crt"), &pair.certificate)?,
            self.write(&format!("{name}.key"), &pair.key)?,
        ))
    }
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

fn etcd_arguments(folder: &Path, port: u16, peer_port: u16) -> Vec<String> {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    vec![
        flag("data-dir", folder.join("etcd").display()),
        flag("listen-client-urls", &client),
        flag("advertise-client-urls", &client),
        flag("listen-peer-urls", &peer),
        flag("initial-advertise-peer-urls", &peer),
        flag("initial-cluster", format!("default={peer}")),
        // A restore is few large transactions.
        flag("max-txn-ops", 10_000),
        flag("max-request-bytes", 32 << 20),
        flag("logger", "zap"),
        flag("log-level", "warn"),
    ]
}

fn api_server_arguments(
    files: &Files<'_>,
    authority: &Authority,
    etcd_port: u16,
    secure_port: u16,
) -> Result<Vec<String>, Error> {
    let ca = files.write("ca.crt", &authority.pem())?;
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
        "127.0.0.1",
        "127.96.0.1",
    ];
    let (certificate, key) = files.write_pair("apiserver", &authority.server(&names)?)?;
    let front_proxy = Authority::generate("front-proxy")?;
    let front_proxy_ca = files.write("front-proxy-ca.crt", &front_proxy.pem())?;
    let (proxy_certificate, proxy_key) = files.write_pair(
        "front-proxy-client",
        &front_proxy.client("front-proxy-client", None)?,
    )?;
    let (private, public) = certificates::service_account_key()?;
    let private = files.write("service-account.key", &private)?;
    let public = files.write("service-account.pub", &public)?;
    let egress = json!({
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [{
            "name": "cluster",
            "connection": {
                "proxyProtocol": "HTTPConnect",
                "transport": {"uds": {"udsName": files.path("egress.sock")}},
            },
        }],
    });
    let egress = files.write("egress.json", &egress.to_string())?;
    Ok(vec![
        flag("etcd-servers", format!("http://127.0.0.1:{etcd_port}")),
        flag("bind-address", "127.0.0.1"),
        flag("secure-port", secure_port),
        // Published in the Endpoints of default/kubernetes, where loopback is not allowed. Nobody dials it.
        flag("advertise-address", "192.0.2.1"),
        flag("tls-cert-file", certificate.display()),
        flag("tls-private-key-file", key.display()),
        flag("client-ca-file", ca.display()),
        flag("requestheader-client-ca-file", front_proxy_ca.display()),
        flag("requestheader-allowed-names", "front-proxy-client"),
        flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        flag("requestheader-group-headers", "X-Remote-Group"),
        flag("requestheader-username-headers", "X-Remote-User"),
        flag("proxy-client-cert-file", proxy_certificate.display()),
        flag("proxy-client-key-file", proxy_key.display()),
        flag(
            "service-account-issuer",
            "https://kubernetes.default.svc.cluster.local",
        ),
        flag("service-account-signing-key-file", private.display()),
        flag("service-account-key-file", public.display()),
        flag("authorization-mode", "Node,RBAC"),
        flag("allow-privileged", true),
        // The range that the recorded clusters' Services have their addresses from.
        flag("service-cluster-ip-range", "127.96.0.0/16"),
        flag("egress-selector-config-file", egress.display()),
        // The certificates' folder is otherwise in /var/run, and shared.
        flag("cert-dir", files.folder.display()),
        flag("profiling", false),
    ])
}

fn controller_manager_arguments(files: &Files<'_>, kubeconfig: &Path) -> Vec<String> {
    vec![
        flag("kubeconfig", kubeconfig.display()),
        flag(
            "service-account-private-key-file",
            files.path("service-account.key").display(),
        ),
        flag("root-ca-file", files.path("ca.crt").display()),
        flag("leader-elect", false),
        flag("port", 0),
        flag("secure-port", 0),
        // A test waits for every request; the defaults are meant to spare a busy server.
        flag("kube-api-qps", 500),
        flag("kube-api-burst", 500),
        flag("concurrent-serviceaccount-token-syncs", 20),
        flag("profiling", false),
    ]
}

fn scheduler_arguments(kubeconfig: &Path) -> Vec<String> {
    vec![
        flag("kubeconfig", kubeconfig.display()),
        flag("leader-elect", false),
        flag("port", 0),
        flag("secure-port", 0),
        flag("kube-api-qps", 500),
        flag("kube-api-burst", 500),
        flag("profiling", false),
    ]
}

fn kubeconfig(server: &str, ca: &str, user: &Pair) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "test",
            "cluster": {"server": server, "certificate-authority-data": BASE64.encode(ca)},
        }],
        "users": [{
            "name": "admin",
            "user": {
                "client-certificate-data": BASE64.encode(&user.certificate),
                "client-key-data": BASE64.encode(&user.key),
            },
        }],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    })
}

async fn config_of(kubeconfig: &Value) -> Result<Config, Error> {
    let kubeconfig: Kubeconfig =
        serde_json::from_value(kubeconfig.clone()).expect("our own kubeconfig has a kubeconfig's shape");
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // An environment's proxy has no business on loopback.
    config.proxy_url = None;
    Ok(config)
}

fn client_of(config: Config) -> Result<Client, Error> {
    install_crypto();
    Ok(Client::try_from(config)?)
}

/// rustls wants one provider chosen for the process. A second choice is refused, and the first one stands.
fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Etcd's gateway speaks plain HTTP and JSON, which is all that this client needs to know.
fn etcd_client(port: u16) -> Result<Client, Error> {
    let server = format!("http://127.0.0.1:{port}")
        .parse()
        .expect("a port makes an address");
    client_of(Config::new(server))
}

/// Asks again every 50 ms until the answer is yes, an error, or too late.
async fn poll(
    what: &str,
    limit: Duration,
    mut met: impl AsyncFnMut() -> Result<bool, Error>,
) -> Result<(), Error> {
    let begin = Instant::now();
    while !met().await? {
        if begin.elapsed() > limit {
            return Err(Error::Timeout {
                what: what.into(),
                waited: limit,
                detail: String::new(),
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The causes of an error, each after a colon.
pub fn sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes
        .flat_map(|cause| [": ".to_owned(), cause.to_string()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dumps_of_every_shape() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            let names: Vec<_> = read_dump(&path)
                .unwrap()
                .iter()
                .map(|object| object["name"].clone())
                .collect();
            assert_eq!(names, ["a", "b"], "{name}");
        };
        let lines = b"{\"name\":\"a\"}\n{\"name\":\"b\"}\n";
        check("lines.ndjson", lines);
        check(
            "list.json",
            br#"{"kind": "List", "items": [{"name": "a"}, {"name": "b"}]}"#,
        );
        check("lines.ndjson.zst", &zstd::encode_all(&lines[..], 1).unwrap());
    }

    #[test]
    fn an_object_with_items_is_not_a_list() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object.json");
        fs::write(&path, br#"{"kind": "Menu", "items": [1]}"#).unwrap();
        assert_eq!(read_dump(&path).unwrap(), [json!({"kind": "Menu", "items": [1]})]);
    }

    #[test]
    fn keeps_the_end_of_a_log() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }
}
