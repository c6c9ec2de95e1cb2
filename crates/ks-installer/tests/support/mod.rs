//! What the tests share: clusters in the sandbox, the upgrade in process, a look at every write, and states to compare.

#![allow(dead_code, reason = "every test uses a part of it")]

pub(crate) mod state;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use cluster::Cluster;
use engine::{Prepared, Report, RunOptions, Session};
use http::{Method, Request};
use kube::client::Body;
use release::Releases;
use sandbox::{Config, Sandbox};
use serde_json::Value;
use tower::{Service as _, service_fn};
use upgrade::Options;

pub(crate) const KUBERNETES: &str = "v1.20.2";

/// The dump's jwt secret: it must show nowhere.
pub(crate) const JWT_SECRET: &str = "0123456789abcdefghijklmnopqrstuv";

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

pub(crate) fn tenants_file() -> PathBuf {
    fixture("kubesphere-3.2.1-tenants.ndjson.zst")
}

pub(crate) fn read(path: &Path) -> Vec<Value> {
    let objects = cluster::dump::read(path).expect("a fixture is readable");
    objects.into_iter().map(object::Object::into_value).collect()
}

/// A cluster with these objects.
pub(crate) fn mk_cluster(objects: Vec<Value>) -> Sandbox {
    mk_cluster_of(KUBERNETES, objects)
}

pub(crate) fn mk_cluster_of(kubernetes: &str, objects: Vec<Value>) -> Sandbox {
    let config = Config {
        kubernetes_version: kubernetes.to_owned(),
        ..Config::default()
    };
    Sandbox::from_objects(config, objects).expect("the objects make a cluster")
}

static TENANTS: LazyLock<Sandbox> = LazyLock::new(|| mk_cluster(read(&tenants_file())));

/// KubeSphere 3.2.1 with the tenants, as upstream's installer left it on a real cluster.
pub(crate) fn tenants() -> Sandbox {
    TENANTS.fork()
}

/// A cluster without KubeSphere: what Kubernetes itself has, and a default StorageClass.
pub(crate) fn bare() -> Sandbox {
    bare_of(KUBERNETES, true)
}

/// The same in another version, or without a default StorageClass.
pub(crate) fn bare_of(kubernetes: &str, has_default_class: bool) -> Sandbox {
    let sandbox = Sandbox::new(Config {
        kubernetes_version: kubernetes.to_owned(),
        ..Config::default()
    });
    let default = has_default_class.to_string();
    let class = serde_json::json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/none",
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": default}},
    });
    std::thread::scope(|scope| {
        let made = scope.spawn(|| block_on(async { client(&sandbox).create(&class).await.is_ok() }));
        assert!(made.join().expect("nobody panics"), "the class is accepted");
    });
    sandbox
}

/// The tenants' cluster, with an edit of its objects before it starts.
pub(crate) fn tenants_but(edit: impl FnOnce(&mut Vec<Value>)) -> Sandbox {
    let mut objects = read(&tenants_file());
    edit(&mut objects);
    mk_cluster(objects)
}

static UPGRADED: LazyLock<Sandbox> = LazyLock::new(|| {
    let sandbox = tenants();
    std::thread::scope(|scope| {
        scope
            .spawn(|| block_on(upgrade(&sandbox)))
            .join()
            .expect("the upgrade does not panic");
    });
    sandbox
});

/// The tenants' cluster after our upgrade.
pub(crate) fn upgraded() -> Sandbox {
    UPGRADED.fork()
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

static RELEASES: LazyLock<Releases> =
    LazyLock::new(|| Releases::embedded().expect("the releases are readable"));

pub(crate) fn session(cluster: &Cluster, options: Options) -> Session<'_> {
    let old_managers = upgrade::target(&RELEASES, &options)
        .map(|release| release.field_managers.clone())
        .unwrap_or_default();
    Session {
        cluster,
        releases: &RELEASES,
        options,
        run: RunOptions {
            concurrency: 8,
            wait: Duration::from_secs(20),
            controllers: Duration::ZERO,
            old_managers,
            now: "2026-01-01T00:00:00UTC".to_owned(),
            started: "2026-01-01T00:00:00Z".parse().expect("a time"),
            stop: engine::Stop::default(),
        },
    }
}

pub(crate) fn client(sandbox: &Sandbox) -> Cluster {
    Cluster::new(kube::Client::new(sandbox.service(), "default"))
}

pub(crate) async fn prepare(sandbox: &Sandbox) -> Prepared {
    let cluster = client(sandbox);
    engine::prepare(&session(&cluster, Options::default()))
        .await
        .expect("the cluster can be read")
}

/// Upgrades and verifies; a blocker, an error or a failed verification fails the test.
pub(crate) async fn upgrade(sandbox: &Sandbox) -> Report {
    upgrade_with(&client(sandbox), Options::default()).await
}

pub(crate) async fn upgrade_with(cluster: &Cluster, options: Options) -> Report {
    let session = session(cluster, options);
    let prepared = engine::prepare(&session).await.expect("the cluster can be read");
    assert_eq!(
        prepared.blockers().collect::<Vec<_>>(),
        Vec::<&upgrade::Finding>::new()
    );
    let report = session
        .execute(prepared, &|_| {})
        .await
        .expect("the upgrade can be carried out");
    assert!(report.is_verified(), "{:#?}", report.findings);
    report
}

/// A write that reached the API server.
#[derive(Clone)]
pub(crate) struct Write {
    pub method: Method,
    pub path: String,
    /// The cluster right after it.
    pub after: Sandbox,
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// All writes of a client, in the order in which they were carried out.
#[derive(Clone, Default)]
pub(crate) struct Writes(Arc<Mutex<Vec<Write>>>);

impl Writes {
    pub(crate) fn all(&self) -> Vec<Write> {
        self.0.lock().expect("nobody panics while writing").clone()
    }
}

fn is_write(request: &Request<Body>) -> bool {
    let is_review = request.uri().path().contains("accessreviews");
    let is_dry = request
        .uri()
        .query()
        .is_some_and(|query| query.contains("dryRun"));
    request.method() != Method::GET && !is_review && !is_dry
}

/// A client whose writes are noted down. After `limit` writes the API server is never heard of again.
pub(crate) fn watched(sandbox: &Sandbox, limit: Option<usize>) -> (Cluster, Writes) {
    let writes = Writes::default();
    let (noted, sandbox) = (writes.clone(), sandbox.clone());
    let service = service_fn(move |request: Request<Body>| {
        let (noted, sandbox) = (noted.clone(), sandbox.clone());
        async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let is_write = is_write(&request);
            if is_write && limit.is_some_and(|limit| noted.all().len() >= limit) {
                std::future::pending::<()>().await;
            }
            let answer = sandbox.service().call(request).await;
            if is_write {
                let after = sandbox.fork();
                noted
                    .0
                    .lock()
                    .expect("nobody panics while writing")
                    .push(Write { method, path, after });
            }
            answer
        }
    });
    (Cluster::new(kube::Client::new(service, "default")), writes)
}

/// Carries something out until its client, that of `writes`, has written so often, and lets go of it. What came of it, where it
/// ended before.
pub(crate) async fn cut_after<T>(limit: usize, writes: &Writes, work: impl Future<Output = T>) -> Option<T> {
    let is_cut = async {
        while writes.all().len() < limit {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // It would write more now, if it could.
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    tokio::select! {
        ended = work => Some(ended),
        () = is_cut => None,
    }
}

/// The object of a kind and name among these.
pub(crate) fn find_mut<'a>(objects: &'a mut [Value], kind: &str, name: &str) -> &'a mut Value {
    let found = objects
        .iter_mut()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// A plan made now holds no write.
pub(crate) async fn check_nothing_to_do(sandbox: &Sandbox) {
    let prepared = prepare(sandbox).await;
    let plan = prepared.decision.plan.as_ref().expect("a plan is made");
    let writes = plan
        .steps()
        .filter(|step| !matches!(step.action, upgrade::Action::Wait { .. }));
    assert_eq!(writes.collect::<Vec<_>>(), Vec::<&upgrade::Step>::new());
}

/// Somebody's edit of a live object.
pub(crate) fn edit(sandbox: &Sandbox, key: &object::ObjectKey, patch: &Value) {
    block_on(async { client(sandbox).merge_patch(key, patch).await }).expect("the edit is accepted");
}

/// What somebody between the installer and the API server does with a write.
pub(crate) enum Meddle {
    /// Lets it pass.
    Pass,
    /// Answers in the server's place, with this status and reason.
    Answer(u16, &'static str),
    /// Edits an object first, as another user, then lets it pass.
    Edit(object::ObjectKey, Value),
    /// Deletes an object first, as another user, then lets it pass.
    Delete(object::ObjectKey),
    /// Lets it be carried out, and loses the answer.
    LoseAnswer,
}

/// A client behind somebody who meddles with its writes: told the method, the path and how often that was written.
pub(crate) fn meddled(
    sandbox: &Sandbox,
    meddle: impl Fn(&Method, &str, usize) -> Meddle + Clone + Send + 'static,
) -> Cluster {
    let sandbox = sandbox.clone();
    let seen: Arc<Mutex<std::collections::BTreeMap<String, usize>>> = Arc::default();
    let service = service_fn(move |request: Request<Body>| {
        let (sandbox, meddle, seen) = (sandbox.clone(), meddle.clone(), seen.clone());
        async move {
            if !is_write(&request) {
                return sandbox.service().call(request).await;
            }
            let path = request.uri().path().to_owned();
            let times = {
                let mut seen = seen.lock().expect("nobody panics while counting");
                let times = seen.entry(path.clone()).or_default();
                *times += 1;
                *times
            };
            match meddle(request.method(), &path, times) {
                Meddle::Pass => sandbox.service().call(request).await,
                Meddle::Answer(code, reason) => Ok(refusal(code, reason)),
                Meddle::Edit(key, patch) => {
                    let other = client(&sandbox).merge_patch(&key, &patch).await;
                    other.expect("the other's edit is accepted");
                    sandbox.service().call(request).await
                }
                Meddle::Delete(key) => {
                    let uid = state::State::of(&sandbox).get(&key)["metadata"]["uid"].clone();
                    let other = client(&sandbox).delete(&key, uid.as_str().expect("a uid")).await;
                    other.expect("the other's deletion is accepted");
                    sandbox.service().call(request).await
                }
                Meddle::LoseAnswer => {
                    sandbox.service().call(request).await?;
                    Ok(refusal(504, "Timeout"))
                }
            }
        }
    });
    Cluster::new(kube::Client::new(service, "default"))
}

fn refusal(code: u16, reason: &str) -> http::Response<sandbox::Body> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": format!("{reason}, says who meddles"),
    });
    http::Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(sandbox::Body::from(bytes::Bytes::from(status.to_string())))
        .expect("a response")
}
