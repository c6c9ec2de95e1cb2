//! An embedded Kubernetes API in memory, as a tower service and over HTTP.
//!
//! ```text
//! kube::Client ──▶ Service ─┐
//! kubectl ──TLS──▶ Server ──┴▶ api ─▶ write ─▶ Transaction ─▶ State (persistent maps of Arc<Value>)
//!                              │       │                        ▲
//!                              │       └─ fields (schemas, managedFields, patches, defaults)
//!                              └─ watch ◀─ changes   controllers ┘ (namespaces, GC, CRDs, workloads: after each write)
//! ```
//!
//! It depends on nothing of this project, and serves whoever needs a Kubernetes API without a cluster: in process, by a client that
//! sends its requests to a [`Service`], or on a port, with a kubeconfig for any client.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sandbox::{Config, Sandbox, ServeOptions};
//!
//! let sandbox = Sandbox::new(Config::default());
//! let client = kube::Client::new(sandbox.service(), "default");
//! let namespaces = kube::Api::<k8s_openapi::api::core::v1::Namespace>::all(client);
//! assert_eq!(namespaces.list(&Default::default()).await?.items.len(), 4);
//!
//! let server = sandbox.serve(ServeOptions::default()).await?;
//! std::fs::write("kubeconfig", server.kubeconfig())?;
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Sandbox`] is a handle to one cluster. Objects are immutable and shared: a list copies none, and a
//! [fork](Sandbox::fork) takes no time and has its own future. A write runs in a transaction in which the controllers react
//! until nothing changes any more; a dry run is a transaction that is dropped.
//!
//! What is to go wrong, on the way to the API or in the cluster, is told by [`faults`].
//!
//! Requests in process are the administrator's. Over HTTPS they are those of the token's owner, or of whom that one acts as, and
//! are authorised by the stored roles.
//!
//! What is due by the clock (pods that take a while to start, schedules of CronJobs) happens when the sandbox is told that time has
//! passed: [`Sandbox::tick`].
//!
//! What is absent: webhooks are never called (one that nobody answers for refuses the writes it matches, one that converts is as if
//! it were down), nothing runs in pods, protobuf is not written. The README says all of it.

mod access;
mod admission;
mod api;
mod authority;
pub mod conformance;
mod controllers;
mod convert;
pub mod faults;
pub mod fields;
mod golang;
mod json;
mod kinds;
mod prepare;
mod seed;
mod selector;
mod server;
mod service;
mod status;
mod store;
mod transaction;
mod write;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};

use kinds::Builtins;
use status::Result;
use store::State;
use transaction::Transaction;

pub use api::respond::Body;
pub use seed::{LoadError, Text};
pub use server::{ServeOptions, Server};
pub use service::Service;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// What kind of cluster a sandbox plays.
#[derive(Clone)]
pub struct Config {
    /// The Kubernetes version that is played: `v1.20.2`. Served groups and versions follow it;
    /// [`Config::check_version`] says which ones are known.
    pub kubernetes_version: String,
    /// The clock; the system's unless told otherwise. Times in objects are in whole seconds.
    pub clock: Clock,
    /// Names, UIDs and addresses that a cluster draws at random follow from this and from the history.
    pub seed: u64,
    /// The nodes of a new cluster; workloads run on the nodes that the objects have.
    pub nodes: Vec<String>,
    /// How long a new pod takes until its containers run; at once, in the very write, by default. What is due happens when the
    /// sandbox is told that [time has passed](Sandbox::tick); one that is served is told four times a second.
    pub pod_start: Duration,
    /// The first two numbers of the network of Services, where no `kubernetes` Service says otherwise.
    pub service_network: (u8, u8),
}

impl Default for Config {
    fn default() -> Config {
        Config {
            kubernetes_version: "v1.20.2".to_owned(),
            clock: Arc::new(jiff::Timestamp::now),
            seed: 0,
            nodes: vec!["node1".to_owned()],
            pod_start: Duration::ZERO,
            service_network: (10, 96),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("kubernetes_version", &self.kubernetes_version)
            .field("seed", &self.seed)
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

impl Config {
    pub(crate) fn now(&self) -> String {
        format_time((self.clock)())
    }

    pub(crate) fn pod_start(&self) -> jiff::SignedDuration {
        jiff::SignedDuration::try_from(self.pod_start).unwrap_or(jiff::SignedDuration::MAX)
    }

    /// A time some seconds from now.
    pub(crate) fn later(&self, seconds: i64) -> String {
        let now = (self.clock)();
        format_time(
            now.checked_add(jiff::SignedDuration::from_secs(seconds))
                .unwrap_or(now),
        )
    }

    /// The minor version: 20 for `v1.20.2`.
    pub(crate) fn minor(&self) -> kinds::Minor {
        self.kubernetes_version
            .trim_start_matches('v')
            .split('.')
            .nth(1)
            .and_then(|minor| {
                minor
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect::<String>()
                    .parse()
                    .ok()
            })
            .unwrap_or(20)
    }

    /// Says whether a Kubernetes version can be played.
    ///
    /// # Errors
    ///
    /// Names the versions that can be played.
    pub fn check_version(version: &str) -> std::result::Result<(), VersionError> {
        let (major, rest) = version
            .trim_start_matches('v')
            .split_once('.')
            .unwrap_or_default();
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let is_known = minor.parse().is_ok_and(|minor| MINOR_VERSIONS.contains(&minor));
        if major == "1" && is_known {
            Ok(())
        } else {
            Err(VersionError(version.to_owned()))
        }
    }
}

/// The minor versions of Kubernetes 1 whose kinds are known.
const MINOR_VERSIONS: std::ops::RangeInclusive<kinds::Minor> = 19..=25;

/// Why a Kubernetes version cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} cannot be played: the sandbox knows Kubernetes 1.{first} to 1.{last}", first = MINOR_VERSIONS.start(), last = MINOR_VERSIONS.end())]
pub struct VersionError(String);

fn format_time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The kinds of writes that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Create,
    Update,
    Patch,
    Apply,
    Delete,
}

/// How many requests a sandbox has answered. Dry runs count as reads; refused writes count as writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that change nothing: get, list, watch, discovery, reviews, dry runs.
    pub reads: u64,
    /// Objects asked to be created by POST.
    pub creates: u64,
    /// PUTs.
    pub updates: u64,
    /// Patches other than server-side apply.
    pub patches: u64,
    /// Server-side applies.
    pub applies: u64,
    /// Deletions of objects and of collections.
    pub deletes: u64,
}

impl Counts {
    /// All writes together.
    pub fn writes(&self) -> u64 {
        self.creates + self.updates + self.patches + self.applies + self.deletes
    }
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    creates: AtomicU64,
    updates: AtomicU64,
    patches: AtomicU64,
    applies: AtomicU64,
    deletes: AtomicU64,
}

/// What all handles to a cluster share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) builtins: Arc<Builtins>,
    state: RwLock<State>,
    /// Tells watches that the state has moved on.
    news: tokio::sync::watch::Sender<u64>,
    counters: Counters,
    /// Tokens that accounts asked for, and whose they are. They end with the process.
    tokens: Mutex<HashMap<String, access::User>>,
}

impl Shared {
    fn new(config: Config, builtins: Arc<Builtins>, state: State) -> Shared {
        let (news, _) = tokio::sync::watch::channel(state.revision);
        Shared {
            config,
            builtins,
            state: RwLock::new(state),
            news,
            counters: Counters::default(),
            tokens: Mutex::default(),
        }
    }

    /// A new token for an account.
    pub(crate) fn issue_token(&self, account: access::User) -> String {
        let token = format!("sandbox.{}", uuid::Uuid::new_v4().simple());
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(token.clone(), account);
        token
    }

    /// Whose token this is: one that was asked for, or one that a Secret of an account holds.
    pub(crate) fn authenticate(&self, token: &str) -> Option<access::User> {
        if token.is_empty() {
            return None;
        }
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = tokens.get(token) {
            return Some(account.clone());
        }
        drop(tokens);
        controllers::accounts::owner(&self.state(), token)
    }

    /// The state as it is now.
    pub(crate) fn state(&self) -> State {
        // A panic while writing leaves the old state in place: a transaction works on a copy.
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Runs a write and lets the controllers react. Nothing of it stays when it fails or is a dry run.
    pub(crate) fn write<T>(
        &self,
        verb: Verb,
        dry_run: bool,
        write: impl FnOnce(&mut Transaction) -> Result<T>,
    ) -> Result<T> {
        if !dry_run {
            let counter = match verb {
                Verb::Create => &self.counters.creates,
                Verb::Update => &self.counters.updates,
                Verb::Patch => &self.counters.patches,
                Verb::Apply => &self.counters.applies,
                Verb::Delete => &self.counters.deletes,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut transaction = Transaction::new(state.clone(), &self.config, &self.builtins);
        transaction.dry_run = dry_run;
        let written = write(&mut transaction)?;
        if !dry_run {
            controllers::settle(&mut transaction);
            let moved = transaction.state.revision != state.revision;
            *state = transaction.state;
            let revision = state.revision;
            drop(state);
            if moved {
                self.news.send_replace(revision);
            }
        }
        Ok(written)
    }

    /// Changes the world behind the API and lets the controllers react; counts as no request.
    pub(crate) fn simulate(&self, change: impl FnOnce(&mut Transaction) -> Result<()>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut transaction = Transaction::new(state.clone(), &self.config, &self.builtins);
        if let Err(status) = change(&mut transaction) {
            tracing::debug!(error = %status.message, "controller failed");
        }
        controllers::settle(&mut transaction);
        *state = transaction.state;
        let revision = state.revision;
        drop(state);
        self.news
            .send_if_modified(|known| std::mem::replace(known, revision) != revision);
    }

    /// Lets happen what is due by the clock.
    pub(crate) fn tick(&self) {
        let now = (self.config.clock)();
        if controllers::time::is_due(&self.state(), self.config.pod_start(), now) {
            self.simulate(|transaction| controllers::time::pass(transaction, now));
        }
    }

    pub(crate) fn count_request(&self) {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// The answer to `/version`.
    pub(crate) fn version(&self) -> Value {
        json!({
            "major": "1",
            "minor": self.builtins.minor.to_string(),
            "gitVersion": self.config.kubernetes_version,
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "",
            "platform": "linux/amd64",
        })
    }
}

/// A handle to an embedded Kubernetes cluster. Clones are handles to the same one.
#[derive(Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sandbox")
            .field("config", &self.shared.config)
            .field("revision", &self.shared.state().revision)
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// A new cluster: the namespaces `default`, `kube-system`, `kube-public` and `kube-node-lease`, the built-in APIServices,
    /// the `kubernetes` Service, and the nodes of the configuration.
    pub fn new(config: Config) -> Sandbox {
        let builtins = Arc::new(Builtins::new(config.minor()));
        let state = seed::empty(&config, &builtins);
        Sandbox {
            shared: Arc::new(Shared::new(config, builtins, state)),
        }
    }

    /// A cluster with exactly these objects, as they were stored: UIDs, resource versions, managedFields and status stay.
    /// Nothing reacts to them until they change. The next resource version is above all of theirs.
    ///
    /// # Errors
    ///
    /// Names the first object that is none: without kind or name, of a kind that is not served, or there twice.
    pub fn from_objects(
        config: Config,
        objects: impl IntoIterator<Item = Value>,
    ) -> std::result::Result<Sandbox, LoadError> {
        Sandbox::load(config, objects)
    }

    /// The same with objects as JSON, which are read when they are looked at: for large copies.
    ///
    /// # Errors
    ///
    /// See [`Sandbox::from_objects`].
    pub fn from_texts(
        config: Config,
        objects: impl IntoIterator<Item = Text>,
    ) -> std::result::Result<Sandbox, LoadError> {
        Sandbox::load(config, objects)
    }

    fn load<S: seed::Seed>(
        config: Config,
        objects: impl IntoIterator<Item = S>,
    ) -> std::result::Result<Sandbox, LoadError> {
        let builtins = Arc::new(Builtins::new(config.minor()));
        let state = seed::load(&config, &builtins, objects)?;
        Ok(Sandbox {
            shared: Arc::new(Shared::new(config, builtins, state)),
        })
    }

    /// Every object, ordered by kind, namespace and name. The objects are shared, not copied.
    pub fn objects(&self) -> Vec<Arc<Value>> {
        let state = self.shared.state();
        state
            .collections()
            .flat_map(|(_, collection)| {
                collection
                    .iter()
                    .map(|(_, object)| Arc::clone(object))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        let state = self.shared.state();
        state.collections().map(|(_, collection)| collection.len()).sum()
    }

    /// Writes every object, one in JSON a line, in the order of [`Sandbox::objects`]. What nobody has looked at is written as it was
    /// read.
    ///
    /// # Errors
    ///
    /// When the writer has one.
    pub fn write_to(&self, out: &mut dyn io::Write) -> io::Result<()> {
        for (_, collection) in self.shared.state().collections() {
            collection.write_to(out)?;
        }
        Ok(())
    }

    /// A second cluster with the same past and a future of its own. Takes no time, whatever the size.
    pub fn fork(&self) -> Sandbox {
        let shared = Shared::new(
            self.shared.config.clone(),
            Arc::clone(&self.shared.builtins),
            self.shared.state(),
        );
        Sandbox {
            shared: Arc::new(shared),
        }
    }

    /// The same with another clock.
    pub fn fork_with_clock(&self, clock: Clock) -> Sandbox {
        let mut config = self.shared.config.clone();
        config.clock = clock;
        let shared = Shared::new(config, Arc::clone(&self.shared.builtins), self.shared.state());
        Sandbox {
            shared: Arc::new(shared),
        }
    }

    /// Lets happen what is due by the clock of the configuration: pods that have had the [time](Config::pod_start) to start run, and
    /// CronJobs make their Jobs. Nothing of that happens otherwise, but while the sandbox is served.
    pub fn tick(&self) {
        self.shared.tick();
    }

    /// The API as a tower service, fit for `kube::Client::new(sandbox.service(), "default")`. Requests are the
    /// administrator's.
    pub fn service(&self) -> Service {
        Service::new(Arc::clone(&self.shared))
    }

    /// How many requests have been answered by now.
    pub fn requests(&self) -> Counts {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counts = Counts {
            reads: 0,
            creates: get(&counters.creates),
            updates: get(&counters.updates),
            patches: get(&counters.patches),
            applies: get(&counters.applies),
            deletes: get(&counters.deletes),
        };
        counts.reads = get(&counters.requests).saturating_sub(counts.writes());
        counts
    }

    /// Serves the API over HTTPS to those who have the token, until [shut down](Server::shutdown).
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on or no certificate can be made.
    pub async fn serve(&self, options: ServeOptions) -> io::Result<Server> {
        Server::start(self.service(), options).await
    }
}
