//! The operator on a real API server, as a process with the rights of the ServiceAccount that the manifest makes.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing fails")]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use object::{Object, ObjectKey};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use xtask::control_plane::{ControlPlane, Options, read_dump};

const ACCOUNT: &str = "system:serviceaccount:kubesphere-system:ks-installer";

struct Operated {
    control_plane: ControlPlane,
    cluster: cluster::Cluster,
    folder: TempDir,
}

/// A running operator.
struct Replica {
    child: Child,
}

impl Operated {
    async fn start_or_skip(test: &str) -> Option<Self> {
        let dump =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kubesphere-3.2.1-tenants.ndjson.zst");
        let options = Options {
            objects: read_dump(&dump).unwrap(),
            audit: true,
            ..Options::default()
        };
        let mut control_plane = ControlPlane::start_or_skip(test, options).await?;
        control_plane
            .wait_until_settled(Duration::from_mins(2))
            .await
            .unwrap();
        let cluster = cluster::Cluster::new(control_plane.client().await.unwrap());
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = std::fs::read(control_plane.kubeconfig()).unwrap();
        let mut kubeconfig: Value = serde_json::from_slice(&kubeconfig).unwrap();
        let auth = &mut kubeconfig["users"][0]["user"];
        auth["as"] = ACCOUNT.into();
        auth["as-groups"] = json!([
            "system:serviceaccounts",
            "system:serviceaccounts:kubesphere-system",
            "system:authenticated"
        ]);
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let this = Self {
            control_plane,
            cluster,
            folder,
        };
        this.apply_the_manifest().await;
        Some(this)
    }

    /// Everything of the manifest but the Deployment: the operator is a process of the test's.
    async fn apply_the_manifest(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubesphere-installer.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        for document in release::yaml_documents(&text).unwrap() {
            if document["kind"] != "Deployment" {
                self.cluster.apply(&document, true).await.unwrap();
            }
        }
    }

    fn replica(&self) -> Replica {
        let child = Command::new(env!("CARGO_BIN_EXE_ks-installer"))
            .args([
                "operator",
                "--metrics-address",
                "127.0.0.1:0",
                "--wait-controllers",
                "0",
            ])
            .arg("--kubeconfig")
            .arg(self.folder.path().join("kubeconfig"))
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Replica { child }
    }

    async fn configuration(&self) -> Object {
        let key = upgrade::cluster_configuration_key();
        self.cluster.get(&key).await.unwrap().unwrap()
    }

    /// Waits until a condition has this status, and gives the ClusterConfiguration's status.
    async fn wait_for(&self, kind: &str, status: &str, limit: Duration) -> Value {
        let begin = Instant::now();
        loop {
            let now = self
                .configuration()
                .await
                .get("/status")
                .cloned()
                .unwrap_or_default();
            let conditions = now["conditions"].as_array().cloned().unwrap_or_default();
            if conditions
                .iter()
                .any(|c| c["type"] == kind && c["status"] == status)
            {
                return now;
            }
            assert!(begin.elapsed() < limit, "no {kind}={status}: {now:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn annotate(&self, name: &str, value: &str) {
        let patch = json!({"metadata": {"annotations": {name: value}}});
        let key = upgrade::cluster_configuration_key();
        self.cluster.merge_patch(&key, &patch).await.unwrap();
    }

    /// Objects of the platform that the operator wrote, but for what it says about itself.
    fn writes(&self) -> Vec<String> {
        let own = ["leases", "events", "clusterconfigurations"];
        let of_its_own = |name: &str| name.starts_with("ks-installer");
        self.control_plane
            .writes()
            .iter()
            .filter(|event| event.pointer("/impersonatedUser/username") == Some(&ACCOUNT.into()))
            .filter_map(|event| {
                let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                let (resource, name) = (text("/objectRef/resource"), text("/objectRef/name"));
                let is_review = text("/objectRef/apiGroup") == "authorization.k8s.io";
                (!is_review && !own.contains(&resource) && !of_its_own(name))
                    .then(|| format!("{} {resource} {name}", text("/verb")))
            })
            .collect()
    }
}

impl Replica {
    /// Asks it to end, and gives what it said.
    async fn end(mut self) -> String {
        let pid = self.child.id().unwrap().to_string();
        let killed = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        assert!(killed.success());
        let mut out = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .await
            .unwrap();
        assert!(self.child.wait().await.unwrap().success(), "{out}");
        out
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_is_upgraded_by_the_operator() {
    let Some(operated) = Operated::start_or_skip("the operator").await else {
        return;
    };
    let replica = operated.replica();
    let status = operated
        .wait_for("Available", "True", Duration::from_mins(2))
        .await;
    assert_eq!(status["core"]["version"], "v3.3.1");
    assert_eq!(status["phase"], "Running");
    let holds = |kind: &str| {
        let conditions = status["conditions"].as_array().unwrap();
        conditions.iter().find(|c| c["type"] == kind).unwrap()["status"].clone()
    };
    for (kind, expect) in [
        ("Preflight", "True"),
        ("BackedUp", "True"),
        ("Progressing", "False"),
        ("Degraded", "False"),
    ] {
        assert_eq!(holds(kind), expect, "{kind}");
    }
    // An unchanged, healthy platform costs no write.
    let writes = operated.control_plane.writes().len();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let renewals: Vec<Value> = operated.control_plane.writes().split_off(writes);
    let ours = renewals.iter().filter(|event| {
        event.pointer("/impersonatedUser/username") == Some(&ACCOUNT.into())
            && event.pointer("/objectRef/resource") != Some(&"leases".into())
    });
    assert_eq!(ours.count(), 0);
    let said = replica.end().await;
    for words in [
        "task core status is successful",
        "Welcome to KubeSphere!",
        "Account: admin",
    ] {
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_operator_waits_for_approval_and_another_takes_over() {
    let Some(operated) = Operated::start_or_skip("approval").await else {
        return;
    };
    operated
        .annotate("installer.kubesphere.io/approval", "manual")
        .await;
    let mut first = operated.replica();
    let begin = Instant::now();
    let digest = loop {
        let status = operated
            .configuration()
            .await
            .get("/status")
            .cloned()
            .unwrap_or_default();
        if status["phase"] == "AwaitingApproval" {
            break status["plan"]["digest"].as_str().unwrap().to_owned();
        }
        assert!(begin.elapsed() < Duration::from_mins(1), "{status:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(
        operated.writes(),
        [""; 0],
        "nothing is written before it is approved"
    );
    let plan = ObjectKey::namespaced("", "ConfigMap", "kubesphere-system", "ks-installer-plan");
    assert!(operated.cluster.get(&plan).await.unwrap().is_some());

    // A second replica does nothing, and takes over when the first is killed in the middle.
    let second = operated.replica();
    operated
        .annotate("installer.kubesphere.io/approved-plan", &digest)
        .await;
    while operated.writes().len() < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.child.kill().await.unwrap();
    let killed = Instant::now();
    let status = operated
        .wait_for("Available", "True", Duration::from_mins(1))
        .await;
    assert_eq!(status["core"]["version"], "v3.3.1");
    assert!(killed.elapsed() < Duration::from_mins(1));
    second.end().await;
}
