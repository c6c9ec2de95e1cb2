//! What the upgrade leaves in Helm's records, in the eyes of the real helm, on a real Kubernetes API server: run with
//! `KS_CONTROL_PLANE=1` after `cargo xtask control-plane build`. And the hand-over of fields, by the real managedFields.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client};
use release::helm::{Record, is_namespaced, to_manifest};
use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options, read_dump};

const NAMESPACE: &str = "kubesphere-system";

/// Programs run against one cluster.
struct Caller {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    helm: PathBuf,
}

impl Caller {
    async fn run(&self, program: &Path, arguments: &[&str]) -> Output {
        let output = tokio::process::Command::new(program)
            .args(arguments)
            .current_dir(self.folder.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.folder.path())
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::null())
            .output();
        output.await.unwrap()
    }

    /// What helm says; it must not fail.
    async fn helm(&self, arguments: &[&str]) -> String {
        let output = self.run(&self.helm, arguments).await;
        let (said, complained) = (&output.stdout, &output.stderr);
        assert!(
            output.status.success(),
            "helm {arguments:?}: {}{}",
            String::from_utf8_lossy(said),
            String::from_utf8_lossy(complained)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    async fn helm_json(&self, arguments: &[&str]) -> Value {
        let text = self.helm(&[arguments, &["-o", "json"]].concat()).await;
        serde_json::from_str(&text).unwrap()
    }

    /// Upgrades without asking, and gives how many objects were written.
    async fn upgrade(&self) -> u64 {
        let program = Path::new(env!("CARGO_BIN_EXE_ks-installer"));
        let arguments = ["upgrade", "--yes", "--wait-controllers", "0", "-o", "json"];
        let output = self.run(program, &arguments).await;
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let outcome: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(outcome["verified"], true, "{outcome:#}");
        outcome["written"].as_u64().unwrap()
    }

    /// `1 superseded`, `2 deployed`, …
    async fn history(&self) -> Vec<String> {
        let history = self.helm_json(&["history", "ks-core", "-n", NAMESPACE]).await;
        let of = |entry: &Value| format!("{} {}", entry["revision"], entry["status"].as_str().unwrap());
        history.as_array().unwrap().iter().map(of).collect()
    }
}

fn find_mut<'a>(objects: &'a mut [Value], kind: &str, name: &str) -> &'a mut Value {
    let found = objects
        .iter_mut()
        .find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.unwrap()
}

/// The tenants' cluster, whose old release set an environment variable and an annotation that no release has now; and
/// whose users added to the same object.
fn dump() -> Vec<Value> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kubesphere-3.2.1-tenants.ndjson.zst");
    let mut objects = read_dump(&path).unwrap();
    let secret = find_mut(&mut objects, "Secret", "sh.helm.release.v1.ks-core.v1");
    let record = Record::decode(&object::Object::try_from(secret.clone()).unwrap()).unwrap();
    let mut released = record.manifest_objects(&is_namespaced).unwrap();
    let apiserver = released
        .iter_mut()
        .find(|o| o.kind() == "Deployment" && o.name() == "ks-apiserver");
    let map = apiserver.unwrap().as_map_mut();
    map["metadata"]["annotations"]["old.example.org/by"] = "helm".into();
    map["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "OLD", "value": "1"}]);
    let mut raw = record.as_value().clone();
    raw["manifest"] = to_manifest(&released).into();
    let changed = Record::from_value(raw).unwrap().encode(0).unwrap();
    secret["data"] = changed.get("/data").unwrap().clone();

    let live = find_mut(&mut objects, "Deployment", "ks-apiserver");
    let metadata = &mut live["metadata"];
    metadata["annotations"]["old.example.org/by"] = "helm".into();
    metadata["annotations"]["theirs"] = "kept".into();
    metadata["labels"]["team"] = "kept".into();
    let fields = metadata["managedFields"].as_array_mut().unwrap();
    let helm = fields
        .iter_mut()
        .find(|entry| entry["manager"] == "helm")
        .unwrap();
    let container = r#"k:{"name":"ks-apiserver"}"#;
    let item =
        |name: &str| json!({format!("k:{}", json!({"name": name})): {".": {}, "f:name": {}, "f:value": {}}});
    let helm = &mut helm["fieldsV1"];
    helm["f:metadata"]["f:annotations"]["f:old.example.org/by"] = json!({});
    let mut env = item("OLD");
    env["."] = json!({});
    helm["f:spec"]["f:template"]["f:spec"]["f:containers"][container]["f:env"] = env;
    fields.push(
        json!({"manager": "kubectl-edit", "operation": "Update", "apiVersion": "apps/v1",
        "fieldsType": "FieldsV1", "time": "2022-01-01T00:00:00Z", "fieldsV1": {
        "f:metadata": {"f:annotations": {"f:theirs": {}}, "f:labels": {"f:team": {}}},
        "f:spec": {"f:template": {"f:spec": {"f:containers": {container: {"f:env": item("THEIRS")}}}}}}}),
    );
    live["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "OLD", "value": "1"}, {"name": "THEIRS", "value": "kept"}]);
    objects
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.into(),
        version: version.into(),
        api_version: if group.is_empty() {
            version.into()
        } else {
            format!("{group}/{version}")
        },
        kind: kind.into(),
        plural: plural.into(),
    }
}

fn deployments() -> ApiResource {
    resource("apps", "v1", "Deployment", "deployments")
}

async fn get(client: &Client, resource: &ApiResource, name: &str) -> Option<Value> {
    let api = match resource.kind.as_str() {
        "Deployment" | "ConfigMap" => Api::namespaced_with(client.clone(), NAMESPACE, resource),
        _ => Api::<DynamicObject>::all_with(client.clone(), resource),
    };
    let found = api.get_opt(name).await.unwrap();
    found.map(|object| serde_json::to_value(object).unwrap())
}

async fn image(client: &Client) -> String {
    let deployment = get(client, &deployments(), "ks-apiserver").await.unwrap();
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    image.as_str().unwrap().to_owned()
}

/// What is declared of the objects that a revision has, but for generated Secrets, which helm puts back to what they were.
async fn declared(client: &Client, revision: &str) -> BTreeMap<String, Value> {
    let cluster = cluster::Cluster::new(client.clone());
    let name = format!("sh.helm.release.v1.ks-core.v{revision}");
    let secret = object::ObjectKey::namespaced("", "Secret", NAMESPACE, &name);
    let secret = cluster.get(&secret).await.unwrap().unwrap();
    let objects = Record::decode(&secret)
        .unwrap()
        .manifest_objects(&is_namespaced)
        .unwrap();
    let mut all = BTreeMap::new();
    for key in objects
        .iter()
        .map(object::Object::key)
        .filter(|key| !key.is_secret())
    {
        let Some(live) = cluster.get(&key).await.unwrap() else {
            continue;
        };
        let mut declared = live.declared();
        if let Some(annotations) = declared["metadata"]
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.remove("deployment.kubernetes.io/revision");
        }
        // The restored control plane put its own authority in place of those whose keys the dump does not have; what helm
        // writes are the recorded ones again.
        for webhook in declared["webhooks"].as_array_mut().into_iter().flatten() {
            webhook["clientConfig"]
                .as_object_mut()
                .unwrap()
                .remove("caBundle");
        }
        all.insert(key.to_string(), declared);
    }
    all
}

async fn uids(client: &Client, resource: &ApiResource) -> Vec<String> {
    let api = Api::<DynamicObject>::all_with(client.clone(), resource);
    let all = api.list(&ListParams::default()).await.unwrap();
    let mut uids: Vec<String> = all.into_iter().filter_map(|o| o.metadata.uid).collect();
    uids.sort();
    uids
}

/// What must outlive whatever helm does: each with its UID.
async fn lasting(client: &Client) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for (group, version, kind, plural) in [
        (
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        ),
        ("iam.kubesphere.io", "v1alpha2", "User", "users"),
        ("iam.kubesphere.io", "v1alpha2", "GlobalRole", "globalroles"),
        (
            "iam.kubesphere.io",
            "v1alpha2",
            "GlobalRoleBinding",
            "globalrolebindings",
        ),
        ("iam.kubesphere.io", "v1alpha2", "WorkspaceRole", "workspaceroles"),
    ] {
        all.push(uids(client, &resource(group, version, kind, plural)).await);
    }
    let config = resource("", "v1", "ConfigMap", "configmaps");
    let config = get(client, &config, "kubesphere-config").await.unwrap();
    all.push(vec![config["metadata"]["uid"].as_str().unwrap().to_owned()]);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_and_the_real_helm_accept_the_records() {
    let test = "Helm's records";
    let options = Options {
        objects: dump(),
        ..Options::default()
    };
    let Some(mut control_plane) = ControlPlane::start_or_skip(test, options).await else {
        return;
    };
    let Some(helm) = xtask::helm::ensure_or_skip(test) else {
        return;
    };
    control_plane
        .wait_until_settled(Duration::from_mins(2))
        .await
        .unwrap();
    let client = control_plane.client().await.unwrap();
    let caller = Caller {
        folder: tempfile::tempdir().unwrap(),
        kubeconfig: control_plane.kubeconfig(),
        helm,
    };
    assert_eq!(caller.history().await, ["1 deployed"]);

    assert!(caller.upgrade().await > 0);
    fields_are_handed_over(&client).await;
    shown_by_helm(&caller).await;
    let lasts = lasting(&client).await;
    let upgraded = declared(&client, "2").await;
    assert!(upgraded.len() > 20, "{:?}", upgraded.keys());

    // Back with helm, and forth again with ours.
    caller.helm(&["rollback", "ks-core", "1", "-n", NAMESPACE]).await;
    assert_eq!(
        caller.history().await,
        ["1 superseded", "2 superseded", "3 deployed"]
    );
    assert_eq!(image(&client).await, "kubesphere/ks-apiserver:v3.2.1");
    assert_ne!(declared(&client, "2").await, upgraded);
    assert_eq!(lasting(&client).await, lasts);
    assert!(caller.upgrade().await > 0);
    assert_eq!(image(&client).await, "kubesphere/ks-apiserver:v3.3.1");
    assert_eq!(
        caller.history().await,
        ["1 superseded", "2 superseded", "3 superseded", "4 deployed"]
    );
    assert_eq!(lasting(&client).await, lasts);
    fields_are_handed_over(&client).await;
    let again = declared(&client, "4").await;
    let differences = object::diff::changes(&json!(upgraded), &json!(again));
    assert!(
        differences.is_empty(),
        "not the same end state as before: {differences:#?}"
    );
    assert_eq!(caller.upgrade().await, 0, "a second upgrade writes nothing");

    caller.helm(&["uninstall", "ks-core", "-n", NAMESPACE]).await;
    assert_eq!(get(&client, &deployments(), "ks-apiserver").await, None);
    assert_eq!(lasting(&client).await, lasts);
    let listed = caller.helm_json(&["list", "-A"]).await;
    assert!(
        listed
            .as_array()
            .unwrap()
            .iter()
            .all(|entry| entry["name"] != "ks-core")
    );
}

async fn fields_are_handed_over(client: &Client) {
    let live = get(client, &deployments(), "ks-apiserver").await.unwrap();
    let annotations = &live["metadata"]["annotations"];
    assert_eq!(
        annotations.get("old.example.org/by"),
        None,
        "a dropped field is gone"
    );
    assert_eq!(annotations["theirs"], "kept");
    assert_eq!(live["metadata"]["labels"]["team"], "kept");
    let env = &live["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(env, &json!([{"name": "THEIRS", "value": "kept"}]));
}

async fn shown_by_helm(caller: &Caller) {
    let listed = caller.helm_json(&["list", "-A"]).await;
    let entry = listed.as_array().unwrap().iter().find(|e| e["name"] == "ks-core");
    let entry = entry.unwrap();
    assert_eq!(
        (&entry["revision"], &entry["status"], &entry["chart"]),
        (&json!("2"), &json!("deployed"), &json!("ks-core-0.1.0"))
    );
    assert_eq!(caller.history().await, ["1 superseded", "2 deployed"]);
    let of = ["ks-core", "-n", NAMESPACE];
    let status = caller.helm(&[&["status"], &of[..]].concat()).await;
    assert!(
        status.contains("STATUS: deployed") && status.contains("REVISION: 2"),
        "{status}"
    );
    let manifest = caller.helm(&[&["get", "manifest"], &of[..]].concat()).await;
    assert!(manifest.contains("kubesphere/ks-apiserver:v3.3.1"), "{manifest}");
    let values = caller.helm(&[&["get", "values"], &of[..]].concat()).await;
    assert!(values.contains("ks_apiserver_tag: v3.3.1"), "{values}");
    caller.helm(&[&["get", "all"], &of[..]].concat()).await;
}
