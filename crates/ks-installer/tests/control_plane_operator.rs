//! The operator on a real API server: a process with the token and the rights of the ServiceAccount that the manifest makes,
//! which the real kubectl applies. Run with `KS_CONTROL_PLANE=1` after `cargo xtask control-plane build`.
#![expect(clippy::unwrap_used, reason = "a test that finds nothing fails")]

use std::path::Path;
use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use object::{Object, ObjectKey};
use serde_json::{Value, json};
use tokio::process::Child;
use xtask::control_plane::{ControlPlane, Options};

use common::{Caller, dump, kubeconfig_of, scale};
use kubectl::{ACCOUNT, Kubectl, deployed, forbidden};

#[path = "control_plane/common.rs"]
#[allow(dead_code, reason = "shared with the other tests on the control plane")]
mod common;
#[path = "control_plane/kubectl.rs"]
#[allow(dead_code, reason = "shared with the other tests on the control plane")]
mod kubectl;

const NAMESPACE: &str = "kubesphere-system";
const SETTLES: Duration = Duration::from_mins(2);
const OPERATOR: &[&str] = &[
    "operator",
    "--metrics-address",
    "127.0.0.1:0",
    "--wait-controllers",
    "0",
];

/// A cluster to which the manifest was applied.
struct Operated {
    control_plane: ControlPlane,
    client: kube::Client,
    cluster: cluster::Cluster,
    kubectl: Kubectl,
    /// The cluster's administrator.
    admin: Caller,
    /// The installer's ServiceAccount, by its own token.
    account: Caller,
}

impl Operated {
    async fn start_or_skip(test: &str, objects: Vec<Value>) -> Option<Self> {
        let is_fresh = objects.is_empty();
        let options = Options {
            objects,
            audit: true,
            ..Options::default()
        };
        let mut control_plane = ControlPlane::start_or_skip(test, options).await?;
        let program = xtask::helm::ensure_kubectl_or_skip(test)?;
        let client = control_plane.client().await.unwrap();
        let kubectl = Kubectl::new(program, &control_plane);
        if is_fresh {
            kubectl.say(&["create", "namespace", NAMESPACE]).await;
        } else {
            scale(&client, "ks-installer", 1).await;
        }
        control_plane.wait_until_settled(SETTLES).await.unwrap();
        let manifest = deployed("kubesphere-installer.yaml");
        kubectl.say(&["apply", "-f", &manifest, "--force"]).await;
        let cluster = cluster::Cluster::new(client.clone());
        let admin = Caller::new(&kubeconfig_of(&control_plane).to_string());
        let account = Caller::new(&with_token(&control_plane, &kubectl).await.to_string());
        Some(Self {
            control_plane,
            client,
            cluster,
            kubectl,
            admin,
            account,
        })
    }

    fn replica(&self, log: &str) -> Child {
        self.account.start_to(OPERATOR, log)
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.account.path(name)).unwrap()
    }

    async fn configuration(&self) -> Object {
        let key = upgrade::cluster_configuration_key();
        self.cluster.get(&key).await.unwrap().unwrap()
    }

    async fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let now = self
                .configuration()
                .await
                .get("/status")
                .cloned()
                .unwrap_or_default();
            if is_so(&now) {
                return now;
            }
            assert!(
                begin.elapsed() < SETTLES,
                "never {what}: {now:#}\n{}",
                self.log("operator.log")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn annotate(&self, annotation: &str) {
        let arguments = ["annotate", "--overwrite", "cc", "ks-installer", "-n", NAMESPACE];
        let annotation = format!("installer.kubesphere.io/{annotation}");
        self.kubectl.say(&[&arguments[..], &[&annotation]].concat()).await;
    }

    /// Objects of the platform that the operator wrote: not its own books.
    fn writes(&self) -> Vec<String> {
        let books = ["leases", "events", "clusterconfigurations"];
        let events = self.control_plane.writes();
        let text = |event: &Value, pointer: &str| {
            event
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        events
            .iter()
            .filter(|event| text(event, "/user/username") == ACCOUNT)
            .filter(|event| text(event, "/objectRef/apiGroup") != "authorization.k8s.io")
            .map(|event| {
                let (resource, name) = (text(event, "/objectRef/resource"), text(event, "/objectRef/name"));
                (text(event, "/verb"), resource, name)
            })
            .filter(|(_, resource, name)| {
                !books.contains(&resource.as_str()) && !name.starts_with("ks-installer")
            })
            .map(|(verb, resource, name)| format!("{verb} {resource} {name}"))
            .collect()
    }

    /// Asks it to end, and gives what it said. No request of it was refused.
    async fn end(&self, mut child: Child, log: &str) -> String {
        let pid = child.id().unwrap().to_string();
        let mut kill = tokio::process::Command::new("kill");
        assert!(kill.args(["-TERM", &pid]).status().await.unwrap().success());
        assert!(child.wait().await.unwrap().success(), "{}", self.log(log));
        let refused = forbidden(&self.control_plane, ACCOUNT);
        assert_eq!(refused, 0, "requests were answered 403: {}", self.log(log));
        self.log(log)
    }
}

/// The kubeconfig of the ServiceAccount, with the token that Kubernetes made for it.
async fn with_token(control_plane: &ControlPlane, kubectl: &Kubectl) -> Value {
    let begin = Instant::now();
    let secrets = loop {
        let account = kubectl
            .get(&["serviceaccount", "ks-installer", "-n", NAMESPACE])
            .await;
        if let Some(secrets) = account["secrets"].as_array().cloned() {
            break secrets;
        }
        assert!(begin.elapsed() < SETTLES, "no token is made");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut token = Value::Null;
    for secret in secrets {
        let name = secret["name"].as_str().unwrap();
        // The dump has an account of the same name with a token of another cluster.
        let (found, text) = kubectl
            .run(&["get", "secret", name, "-n", NAMESPACE, "-o", "json"])
            .await;
        if found {
            let secret: Value = serde_json::from_str(&text).unwrap();
            token = secret["data"]["token"].clone();
        }
    }
    let token = STANDARD.decode(token.as_str().unwrap()).unwrap();
    let mut kubeconfig = kubeconfig_of(control_plane);
    kubeconfig["users"][0]["user"] = json!({"token": String::from_utf8(token).unwrap()});
    kubeconfig
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let conditions = status["conditions"].as_array().unwrap();
    conditions.iter().find(|c| c["type"] == kind).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_is_upgraded_by_the_operator() {
    let Some(operated) = Operated::start_or_skip("the operator", dump()).await else {
        return;
    };
    let kubectl = &operated.kubectl;
    let replica = operated.replica("operator.log");
    // As operators wait for it.
    let wait = [
        "wait",
        "--for=condition=Available",
        "cc/ks-installer",
        "-n",
        NAMESPACE,
    ];
    let waited = kubectl.say(&[&wait[..], &["--timeout=120s"]].concat()).await;
    assert!(waited.contains("condition met"), "{waited}");
    let status = operated
        .wait("at rest", |status| status["phase"] == "Running")
        .await;
    assert_eq!(status["core"]["version"], "v3.3.1");
    for (kind, expect) in [
        ("Preflight", "True"),
        ("BackedUp", "True"),
        ("Progressing", "False"),
        ("Available", "True"),
        ("Degraded", "False"),
        ("Drifted", "False"),
    ] {
        assert_eq!(condition(&status, kind)["status"], expect, "{kind}: {status:#}");
    }
    let table = kubectl.say(&["get", "cc", "-n", NAMESPACE]).await;
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..4], ["ks-installer", "v3.3.1", "Running", "done"]);
    let described = kubectl
        .say(&["describe", "cc", "ks-installer", "-n", NAMESPACE])
        .await;
    for words in [
        "Upgrading",
        "Upgraded",
        "KubeSphere is at v3.3.1 and verified",
        "Available",
    ] {
        assert!(described.contains(words), "{words:?} is not in:\n{described}");
    }
    let explained = kubectl.say(&["explain", "clusterconfiguration"]).await;
    assert!(
        explained.contains("ClusterConfiguration") && explained.contains("spec"),
        "{explained}"
    );

    // It looks once more, since it changed itself what it watches. Then an unchanged platform costs nothing but the Lease.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = operated.control_plane.writes().len();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let since = operated.control_plane.writes().split_off(before);
    let ours: Vec<&Value> = since
        .iter()
        .filter(|event| event["user"]["username"] == ACCOUNT && event["objectRef"]["resource"] != "leases")
        .collect();
    assert_eq!(ours, [&Value::Null; 0]);

    // Drift is told, and put back where that is asked for.
    scale(&operated.client, "ks-console", 2).await;
    let drifted = operated
        .wait("drifted", |status| {
            condition(status, "Drifted")["status"] == "True"
        })
        .await;
    let message = condition(&drifted, "Drifted")["message"].as_str().unwrap();
    assert!(message.contains("ks-console"), "{message}");
    operated.annotate("drift=overwrite").await;
    operated
        .wait("put back", |status| {
            condition(status, "Drifted")["status"] == "False"
        })
        .await;
    let console = kubectl.get(&["deployment/ks-console", "-n", NAMESPACE]).await;
    assert_eq!(console["spec"]["replicas"], 1);
    operated.annotate("drift-").await;

    // Back, by a command: the operator must not go forward by itself; forward again by its hand.
    let status = operated
        .admin
        .run(&["rollback", "--yes", "--to", &upgrade_backup(&operated).await])
        .await
        .expect(0);
    assert!(status.stderr.contains("waits for approval"), "{status:?}");
    let status = operated
        .wait("a plan", |status| status["phase"] == "AwaitingApproval")
        .await;
    assert_eq!(status["core"]["version"], "v3.2.1");
    let outcome = operated
        .admin
        .run(&["upgrade", "--yes", "-o", "json"])
        .await
        .expect(0);
    assert_eq!(outcome.json()["by"], "operator", "{outcome:?}");

    let said = operated.end(replica, "operator.log").await;
    for words in [
        "task core status is successful",
        "Welcome to KubeSphere!",
        "Account: admin",
    ] {
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
    let lease = kubectl
        .get(&["lease/ks-installer-operator", "-n", NAMESPACE])
        .await;
    assert_eq!(lease["spec"]["holderIdentity"], Value::Null, "{lease}");
}

/// Where the backup of the upgrade is; that of what was put back later is another one.
async fn upgrade_backup(operated: &Operated) -> String {
    let list = [
        "backup",
        "list",
        "--from",
        "secret://kubesphere-system/",
        "-o",
        "json",
    ];
    let found = operated.admin.run(&list).await.expect(0).json();
    let backups = found["backups"].as_array().unwrap();
    let upgrade = backups.iter().find(|backup| backup["meta"]["from"] == "v3.2.1");
    upgrade.unwrap()["location"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_operator_waits_for_approval_and_another_takes_over() {
    let Some(operated) = Operated::start_or_skip("approval", dump()).await else {
        return;
    };
    operated.annotate("approval=manual").await;
    let mut first = operated.replica("operator.log");
    let status = operated
        .wait("a plan", |status| status["phase"] == "AwaitingApproval")
        .await;
    let digest = status["plan"]["digest"].as_str().unwrap();
    let none = Vec::<String>::new();
    assert_eq!(
        operated.writes(),
        none,
        "nothing is written before it is approved"
    );
    let plan = ObjectKey::namespaced("", "ConfigMap", NAMESPACE, "ks-installer-plan");
    assert!(operated.cluster.get(&plan).await.unwrap().is_some());

    // A second replica does nothing, and takes over when the first is killed in the middle.
    let second = operated.replica("second.log");
    operated.annotate(&format!("approved-plan={digest}")).await;
    while operated.writes().len() < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.kill().await.unwrap();
    let killed = Instant::now();
    let version = operated.configuration().await;
    assert_eq!(version.get_str("/status/core/version"), Some("v3.2.1"));
    // As if it had been on another machine, where nobody sees that the process is gone.
    for name in ["ks-installer", "ks-installer-operator"] {
        let key = ObjectKey::namespaced("coordination.k8s.io", "Lease", NAMESPACE, name);
        let patch = json!({"metadata": {"annotations": {"installer.kubesphere.io/process": null}}});
        operated.cluster.merge_patch(&key, &patch).await.unwrap();
    }
    let leads = "this replica leads";
    while !operated.log("second.log").contains(leads) {
        assert!(killed.elapsed() < Duration::from_mins(1), "it does not take over");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The claim counts for 15 s since it was written last, and is looked at every 2 s.
    let taken = killed.elapsed();
    let status = operated.wait("done", |status| status["phase"] == "Running").await;
    assert_eq!(status["core"]["version"], "v3.3.1");
    eprintln!("took over after {taken:.1?}, done after {:.1?}", killed.elapsed());
    operated.end(second, "second.log").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_without_kubesphere_gets_it_from_the_manifests() {
    let Some(operated) = Operated::start_or_skip("installing by manifests", Vec::new()).await else {
        return;
    };
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/none",
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    operated.cluster.create(&class).await.unwrap();
    let replica = operated.replica("operator.log");
    let settings = deployed("cluster-configuration.yaml");
    assert!(Path::new(&settings).exists());
    operated.kubectl.say(&["apply", "-f", &settings]).await;
    let status = operated
        .wait("at rest", |status| status["phase"] == "Running")
        .await;
    assert_eq!(status["core"]["version"], "v3.3.1");
    assert_eq!(condition(&status, "Available")["status"], "True", "{status:#}");
    let said = operated.end(replica, "operator.log").await;
    // The password is named by where it is, and never printed.
    assert!(
        said.contains("kubectl -n kubesphere-system get secret kubesphere-secret"),
        "{said}"
    );
    let secret = operated
        .kubectl
        .get(&["secret/kubesphere-secret", "-n", NAMESPACE])
        .await;
    for value in secret["data"].as_object().unwrap().values() {
        let raw = STANDARD.decode(value.as_str().unwrap()).unwrap();
        assert!(!said.contains(std::str::from_utf8(&raw).unwrap()));
    }
    operated.admin.upgrade_writes_nothing().await;
}
