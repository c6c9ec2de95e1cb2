//! The recorded cluster, and the program, run against it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::control_plane::{ControlPlane, read_dump};

/// Who the program is on the real control plane: its audit log tells this user's requests from the test's.
pub(crate) const CALLER: &str = "upgrader";

/// KubeSphere 3.2.1 with tenants, as upstream's installer left it on a real cluster.
pub(crate) fn dump() -> Vec<Value> {
    fixture("kubesphere-3.2.1-tenants.ndjson.zst")
}

/// The same cluster, after upstream's installer brought it to 3.3.1.
pub(crate) fn dump_by_upstream() -> Vec<Value> {
    fixture("kubesphere-3.3.1-by-upstream.ndjson.zst")
}

fn fixture(name: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    read_dump(&folder.join(name)).unwrap()
}

/// KubeSphere's own controllers do not run here: nobody brings the new roles into workspaces.
pub(crate) const UPGRADE: &[&str] = &["upgrade", "--yes", "--wait-controllers", "0", "-o", "json"];

/// What the program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails the test, with all that was said, unless the program ended so.
    pub(crate) fn expect(self, code: i32) -> Self {
        let (stdout, stderr) = (&self.stdout, &self.stderr);
        assert_eq!(self.code, Some(code), "\nstdout: {stdout}\nstderr: {stderr}");
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Fails the test unless there is one error that says `what` and a hint.
    pub(crate) fn expect_one_error(&self, what: &str) {
        let errors = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .count();
        assert_eq!(errors, 1, "{}", self.stderr);
        assert!(self.stderr.contains(what), "{what:?} is not in: {}", self.stderr);
        assert!(self.stderr.contains("\nhint: "), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// A kubeconfig, and a folder in which the program runs and leaves its files.
pub(crate) struct Caller {
    folder: TempDir,
}

impl Caller {
    /// `kubeconfig` is YAML or JSON.
    pub(crate) fn new(kubeconfig: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
        Self { folder }
    }

    /// One who acts as `user`, in `groups`, on a real control plane.
    pub(crate) fn acting_as(control_plane: &ControlPlane, user: &str, groups: &[&str]) -> Self {
        let mut kubeconfig = kubeconfig_of(control_plane);
        let auth = &mut kubeconfig["users"][0]["user"];
        auth["as"] = user.into();
        auth["as-groups"] = json!(groups);
        Self::new(&kubeconfig.to_string())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ks-installer"));
        command
            .args(arguments)
            .arg("--kubeconfig")
            .arg(self.path("kubeconfig"))
            .current_dir(self.folder.path())
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts the program. It does not outlive the test.
    pub(crate) fn start(&self, arguments: &[&str]) -> tokio::process::Child {
        self.command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs the program. The test's runtime goes on meanwhile: it may be what serves the API.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        let output = self.start(arguments).wait_with_output().await.unwrap();
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs the program and kills it (SIGKILL) so many seconds later. Gives whether it was still running.
    pub(crate) async fn run_and_kill(&self, arguments: &[&str], seconds: f64) -> bool {
        let mut child = self.start(arguments);
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        let runs = child.try_wait().unwrap().is_none();
        child.kill().await.unwrap();
        runs
    }

    pub(crate) async fn upgrade_writes_nothing(&self) {
        assert_eq!(self.upgrade().await["written"], 0);
    }

    /// Upgrades without asking; gives the JSON document of an upgrade that worked and was verified.
    pub(crate) async fn upgrade(&self) -> Value {
        let outcome = self.run(UPGRADE).await.expect(0).json();
        assert_eq!(
            (&outcome["upgraded"], &outcome["verified"]),
            (&json!(true), &json!(true)),
            "{outcome:#}"
        );
        outcome
    }
}

/// The kubeconfig of a control plane's administrator.
pub(crate) fn kubeconfig_of(control_plane: &ControlPlane) -> Value {
    serde_json::from_slice(&std::fs::read(control_plane.kubeconfig()).unwrap()).unwrap()
}

/// The certificate authority (PEM) of a control plane.
pub(crate) fn authority(control_plane: &ControlPlane) -> String {
    let kubeconfig = kubeconfig_of(control_plane);
    let data = kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"]
        .as_str()
        .unwrap();
    String::from_utf8(BASE64.decode(data).unwrap()).unwrap()
}

/// The writes of `user` by the audit log, each with its verb and object; dry runs and access reviews, which change
/// nothing, are left out.
pub(crate) fn writes_of(control_plane: &ControlPlane, user: &str) -> Vec<String> {
    let writes = control_plane.writes();
    writes
        .iter()
        .filter(|event| is_write_of(event, user))
        .map(name_of_write)
        .collect()
}

pub(crate) fn is_write_of(event: &Value, user: &str) -> bool {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    text("/impersonatedUser/username") == user
        && !text("/requestURI").contains("dryRun=")
        && text("/objectRef/apiGroup") != "authorization.k8s.io"
}

/// `patch deployments kubesphere-system/ks-apiserver`
pub(crate) fn name_of_write(event: &Value) -> String {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name) = (text("/objectRef/namespace"), text("/objectRef/name"));
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!(
        "{} {} {namespace}{slash}{name}",
        text("/verb"),
        text("/objectRef/resource")
    )
}

/// Group, kind, namespace and name of an object.
pub(crate) type Key = (String, String, String, String);

/// Every object that can be listed, as the API server shows it.
pub(crate) async fn state(client: &Client) -> BTreeMap<Key, Value> {
    let mut resources = BTreeMap::new();
    let mut add = |list: k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList| {
        let (group, version) = list
            .group_version
            .split_once('/')
            .unwrap_or(("", &list.group_version));
        for resource in list.resources {
            if resource.name.contains('/') || !resource.verbs.iter().any(|verb| verb == "list") {
                continue;
            }
            // The preferred version comes first, and stays.
            let kind = (group.to_owned(), resource.kind.clone());
            resources.entry(kind).or_insert_with(|| ApiResource {
                group: group.to_owned(),
                version: version.to_owned(),
                api_version: list.group_version.clone(),
                kind: resource.kind,
                plural: resource.name,
            });
        }
    };
    add(client.list_core_api_resources("v1").await.unwrap());
    for group in client.list_api_groups().await.unwrap().groups {
        let preferred = group.preferred_version.map(|version| version.group_version);
        let others = group.versions.into_iter().map(|version| version.group_version);
        for version in preferred.into_iter().chain(others) {
            add(client.list_api_group_resources(&version).await.unwrap());
        }
    }
    let mut objects = BTreeMap::new();
    for ((group, kind), resource) in resources {
        let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
        for item in api.list(&ListParams::default()).await.unwrap() {
            let object = serde_json::to_value(item).unwrap();
            let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
            let key = (group.clone(), kind.clone(), text("namespace"), text("name"));
            objects.insert(key, object);
        }
    }
    objects
}

pub(crate) fn deployments(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<k8s_openapi::api::apps::v1::Deployment>(&());
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// Scales a Deployment of kubesphere-system, as somebody at a keyboard would.
pub(crate) async fn scale(client: &Client, name: &str, replicas: u32) {
    let patch = json!({"spec": {"replicas": replicas}});
    deployments(client, "kubesphere-system")
        .patch(name, &PatchParams::apply("kubectl-scale"), &Patch::Merge(patch))
        .await
        .unwrap();
}
