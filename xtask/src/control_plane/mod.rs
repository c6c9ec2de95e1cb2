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

mod arguments;
mod build;
mod certificates;
mod egress;
mod nodes;
mod pods;
mod process;
mod restore;
mod settle;
mod volumes;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

pub use build::{
    KUBERNETES_VERSION, Programs, cache_folder, cached, cached_client_go, client_go, ensure, swagger_path,
};
pub use process::{Instance, instances, sweep};

use arguments::Files;
pub(crate) use build::{find_program, is_root};
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

/// The name under which the API server's audit log is kept beside the programs' logs.
const AUDIT: &str = "audit";

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
    ///
    /// Where the dump lacks the private key of such a Service (recorded Secrets have placeholders), the `caBundle`s that
    /// name the Service are replaced by the instance's own authority, and nothing else is.
    pub answer_webhooks: bool,
    /// How long a Pod takes from being scheduled to being ready, and a Job's Pod from running to its end.
    pub pod_delay: Duration,
    /// Images that cannot be pulled: a Pod whose image contains one of these never starts.
    pub unpullable_images: Vec<String>,
    /// Whether the API server notes down every request that writes, see [`ControlPlane::writes`].
    pub audit: bool,
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
            audit: false,
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
    api_server: (PathBuf, Vec<String>),
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
        let mut entries = restore::entries(options.objects)?;
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
        // Not the name that is in the server's certificate: OpenSSL takes a certificate for signed by itself when its issuer
        // has its own name, and then a client in Python refuses it.
        let authority = Arc::new(Authority::generate("kubernetes-authority")?);
        if options.answer_webhooks {
            egress::trust(&mut entries, &authority.pem());
        }
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
            &arguments::etcd(folder.path(), etcd_port, peer_port),
        )?;
        let etcd = etcd_client(etcd_port)?;
        restore::wait_for_etcd(&etcd, || processes.check()).await?;
        restore::put(&etcd, &entries).await?;
        drop((etcd, entries));

        let client_config = config_of(&kubeconfig).await?;
        let egress = egress::Egress::start(
            &folder.path().join("egress.sock"),
            client_config.clone(),
            Arc::clone(&authority),
            options.answer_webhooks,
            options.controllers,
        )?;
        let mut arguments = arguments::api_server(&files, &authority, etcd_port, secure_port)?;
        if options.audit {
            arguments.extend(arguments::audit(&files, &processes.log(AUDIT))?);
        }
        processes.start("kube-apiserver", &programs.kube_apiserver, &arguments)?;
        let client = client_of(client_config.clone())?;
        wait_until_ready(&client, &mut processes).await?;

        let mut nodes = None;
        if options.controllers {
            let arguments = arguments::controller_manager(&files, &kubeconfig_path);
            processes.start(
                "kube-controller-manager",
                &programs.kube_controller_manager,
                &arguments,
            )?;
            let arguments = arguments::scheduler(&kubeconfig_path);
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
            api_server: (programs.kube_apiserver, arguments),
        })
    }

    /// Kills the API server, and starts it again after a while. Everything else goes on meanwhile, as in a cluster whose
    /// only API server is replaced.
    ///
    /// # Errors
    /// It does not come back.
    pub async fn restart_api_server(&mut self, away: Duration) -> Result<(), Error> {
        const NAME: &str = "kube-apiserver";
        self.processes.kill(NAME);
        tokio::time::sleep(away).await;
        let (program, arguments) = &self.api_server;
        self.processes.start(NAME, program, arguments)?;
        self.processes.publish(false, &self.server, &self.kubeconfig())?;
        let client = self.client().await?;
        wait_until_ready(&client, &mut self.processes).await
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
        // Past libtest's capture: a skipped test must not look like one that ran. In one piece, since others write too.
        let line = format!("skipping {test}: {reason}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
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

    /// Every answered request that may write, in the order of their ends: events of `audit.k8s.io/v1` with the user (and
    /// the impersonated one), the verb, the address and the object. Dry runs and access reviews are among them.
    /// Empty unless [`Options::audit`] was set.
    pub fn writes(&self) -> Vec<Value> {
        const VERBS: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
        let mut requests = self.requests();
        requests.retain(|event| event["verb"].as_str().is_some_and(|verb| VERBS.contains(&verb)));
        requests
    }

    /// Every answered request, in the same form.
    pub fn requests(&self) -> Vec<Value> {
        let log = self.log(AUDIT);
        // The last line may be half written.
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Marks the instance as one that outlives commands, and that `control-plane down` ends.
    pub fn publish_standing(&self) -> Result<Instance, Error> {
        self.processes.publish(true, &self.server, &self.kubeconfig())
    }

    /// Waits until every Deployment, StatefulSet and DaemonSet is rolled out and ready, and the controllers have made what
    /// a restored cluster lacks at first: endpoints of Services, tokens of service accounts, answers of aggregated APIs.
    ///
    /// # Errors
    /// [`Error::Timeout`], which names what is not settled.
    pub async fn wait_until_settled(&mut self, limit: Duration) -> Result<(), Error> {
        if !self.controllers {
            return Ok(());
        }
        let client = self.client().await?;
        let begin = Instant::now();
        loop {
            self.processes.check()?;
            let unsettled = settle::unsettled(&client, self.egress.answers()).await?;
            if unsettled.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > limit {
                return Err(Error::Timeout {
                    what: "the cluster to settle".into(),
                    waited: limit,
                    detail: format!("; not ready: {}", unsettled.join(", ")),
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn wait_until_ready(client: &Client, processes: &mut Processes) -> Result<(), Error> {
    poll("the API server to be ready", Duration::from_mins(2), async || {
        processes.check()?;
        let request = http::Request::get("/readyz")
            .body(Vec::new())
            .expect("the address is a constant");
        Ok(client.request_text(request).await.is_ok_and(|text| text == "ok"))
    })
    .await
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
