//! Components on a real Kubernetes API server: all enabled, nothing to do, all disabled, all enabled again; the upgrade of a
//! cluster with everything enabled; and what every component renders under many settings, taken by the server's dry-run. Run with
//! `KS_CONTROL_PLANE=1` after `cargo xtask control-plane build`.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing fails")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use cluster::Cluster;
use object::ObjectKey;
use release::Releases;
use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options, read_dump};

use common::{CALLER, Caller, Key, UPGRADE, dump, state, writes_of};

#[path = "control_plane/common.rs"]
#[allow(dead_code, reason = "shared with the other tests on the control plane")]
mod common;
#[path = "components/matrix.rs"]
mod matrix;

const SETTLES: Duration = Duration::from_mins(2);

/// Everything that can be enabled on this cluster beside what is on already.
const ALL: [&str; 16] = [
    "alerting",
    "auditing",
    "devops",
    "edgeruntime",
    "etcd-monitoring",
    "events",
    "gatekeeper",
    "gpu-monitoring",
    "grafana",
    "logging",
    "metrics-server",
    "multicluster",
    "networkpolicy",
    "openpitrix",
    "redis",
    "servicemesh",
];

fn arguments<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec![command];
    all.extend(ALL);
    all.push("topology");
    all.extend(["--yes", "--wait-controllers", "0", "-o", "json"]);
    all.extend(more);
    all
}

/// Waits until no namespace is on its way out: nothing can be made in one, and a busy server takes its time.
async fn wait_for_namespaces(client: &kube::Client) {
    let namespaces = kube::Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone());
    let end = std::time::Instant::now() + SETTLES;
    loop {
        let listed = namespaces.list(&kube::api::ListParams::default()).await.unwrap();
        let leaving: Vec<_> = listed
            .items
            .into_iter()
            .filter(|namespace| namespace.metadata.deletion_timestamp.is_some())
            .filter_map(|namespace| namespace.metadata.name)
            .collect();
        if leaving.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < end, "{leaving:?} do not go");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_takes_every_component_and_gives_it_back() {
    let options = Options {
        audit: true,
        objects: dump(),
        ..Options::default()
    };
    let Some(mut real) = ControlPlane::start_or_skip("components", options).await else {
        return;
    };
    let client = real.client().await.unwrap();
    real.wait_until_settled(SETTLES).await.unwrap();
    let caller = Caller::acting_as(&real, CALLER, &["system:masters"]);
    caller.run(UPGRADE).await.expect(0);
    real.wait_until_settled(SETTLES).await.unwrap();
    let before = names(&state(&client).await);

    let etcd = ["--set", "etcd.endpointIps=10.0.0.1"];
    caller.run(&arguments("enable", &etcd)).await.expect(0);
    real.wait_until_settled(SETTLES).await.unwrap();
    caller.upgrade_writes_nothing().await;
    let enabled = names(&state(&client).await);
    assert!(
        enabled.len() > before.len() + 300,
        "{} {}",
        before.len(),
        enabled.len()
    );

    const REGISTRY: &str = "registry.example:5000";
    set_registry(&client, REGISTRY).await;
    caller.run(UPGRADE).await.expect(0);
    real.wait_until_settled(SETTLES).await.unwrap();
    caller.upgrade_writes_nothing().await;
    let edited = state(&client).await;
    let mut followed = 0;
    for (key, object) in edited.iter().filter(|(key, _)| enabled.contains(&name(key))) {
        let is_workload = ["Deployment", "StatefulSet", "DaemonSet"].contains(&key.1.as_str());
        if !is_workload || before.contains(&name(key)) {
            continue;
        }
        let containers = object.pointer("/spec/template/spec/containers");
        for container in containers.and_then(Value::as_array).into_iter().flatten() {
            let image = container["image"].as_str().unwrap_or_default();
            assert!(image.starts_with(REGISTRY), "{key:?}: {image}");
            followed += 1;
        }
    }
    assert!(followed > 30, "{followed}");
    set_registry(&client, "").await;
    caller.run(UPGRADE).await.expect(0);
    real.wait_until_settled(SETTLES).await.unwrap();

    caller.run(&arguments("disable", &[])).await.expect(0);
    real.wait_until_settled(SETTLES).await.unwrap();
    caller.upgrade_writes_nothing().await;
    let disabled = state(&client).await;
    let left: Vec<String> = disabled
        .iter()
        .filter(|(key, object)| !before.contains(&name(key)) && !stays(key, object, &disabled))
        .map(|(key, _)| name(key))
        .collect();
    assert_eq!(left, Vec::<String>::new());

    let writes = writes_of(&real, CALLER).len();
    wait_for_namespaces(&client).await;
    caller.run(&arguments("enable", &[])).await.expect(0);
    real.wait_until_settled(SETTLES).await.unwrap();
    caller.upgrade_writes_nothing().await;
    assert!(writes_of(&real, CALLER).len() > writes);
    let again = names(&state(&client).await);
    const MADE: [&str; 6] = [
        "Event",
        "Pod",
        "ReplicaSet",
        "ControllerRevision",
        "EndpointSlice",
        "PersistentVolume",
    ];
    let is_made = |name: &&String| {
        let kind = |kind: &&str| name.contains(&format!("\"{kind}\""));
        MADE.iter().any(kind) || name.contains("-token-") || name.contains("sh.helm.release")
    };
    let missing: Vec<_> = enabled.difference(&again).filter(|name| !is_made(name)).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

/// Edits the setting that every component follows, as people do it with kubectl.
async fn set_registry(client: &kube::Client, registry: &str) {
    let cluster = Cluster::new(client.clone());
    let edit = json!({"spec": {"local_registry": registry}});
    cluster
        .merge_patch(&upgrade::cluster_configuration_key(), &edit)
        .await
        .unwrap();
}

fn name(key: &Key) -> String {
    format!("{key:?}")
}

fn names(state: &BTreeMap<Key, Value>) -> BTreeSet<String> {
    state.keys().map(name).collect()
}

/// Data, and what Kubernetes and Helm make of what stays.
fn stays(key: &Key, object: &Value, state: &BTreeMap<Key, Value>) -> bool {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (group, kind, namespace, name) = key;
    let key = ObjectKey {
        group: group.clone(),
        kind: kind.clone(),
        namespace: (!namespace.is_empty()).then(|| namespace.clone()),
        name: name.clone(),
    };
    let releases = Releases::embedded().unwrap();
    let components = &releases.latest().unwrap().components;
    let is_data = components.iter().any(|component| {
        component.data.iter().any(|data| data.is(&key))
            || component.secrets.iter().any(|secret| secret.key() == key)
    });
    let is_of_kubernetes = text("/type") == "kubernetes.io/service-account-token"
        || ["default", "kube-root-ca.crt"].contains(&key.name.as_str())
        // Further revisions of what is there always: the edit of the registry is one.
        || ["ks-core", "notification-manager", "snapshot-controller"]
            .iter()
            .any(|release| key.name.starts_with(&format!("sh.helm.release.v1.{release}.")))
        || [
            "Namespace",
            "PersistentVolumeClaim",
            "PersistentVolume",
            "Event",
            "Lease",
            "Pod",
            "ReplicaSet",
            "ControllerRevision",
            "Endpoints",
            "EndpointSlice",
        ]
        .contains(&kind.as_str());
    // A definition of which there are objects, and what serves it.
    let group = text("/spec/group");
    let is_in_use = ["CustomResourceDefinition", "APIService"].contains(&kind.as_str())
        && state.keys().any(|(other, ..)| other == group);
    is_data || is_of_kubernetes || is_in_use
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_upgrades_a_cluster_with_everything_enabled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).unwrap();
    let path = root.join("shared/clusters/kubesphere-3.2.1-all.ndjson.zst");
    if !path.exists() {
        eprintln!("skipped: there is no dump of a cluster with all components");
        return;
    }
    let options = Options {
        audit: true,
        objects: read_dump(&path).unwrap(),
        ..Options::default()
    };
    let Some(mut real) = ControlPlane::start_or_skip("everything enabled", options).await else {
        return;
    };
    let client = real.client().await.unwrap();
    real.wait_until_settled(SETTLES).await.unwrap();
    let before = state(&client).await;
    let caller = Caller::acting_as(&real, CALLER, &["system:masters"]);
    caller.run(UPGRADE).await.expect(0);
    real.wait_until_settled(SETTLES).await.unwrap();
    caller.upgrade_writes_nothing().await;
    let after = state(&client).await;
    // Whatever holds data, and whatever serves it, is the same object as before.
    const KINDS: [&str; 8] = [
        "PersistentVolumeClaim",
        "PersistentVolume",
        "StatefulSet",
        "Deployment",
        "DaemonSet",
        "Secret",
        "Service",
        "CustomResourceDefinition",
    ];
    for (key, object) in &before {
        let kind = object["kind"].as_str().unwrap_or_default();
        if let Some(now) = after.get(key).filter(|_| KINDS.contains(&kind)) {
            assert_eq!(
                now["metadata"]["uid"], object["metadata"]["uid"],
                "{key:?} was made anew"
            );
        }
    }
}

/// Every object of every component under every setting is accepted by the server's own dry-run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_accepts_every_component_under_many_settings() {
    let Some(mut real) = ControlPlane::start_or_skip("the matrix of settings", Options::default()).await
    else {
        return;
    };
    let client = real.client().await.unwrap();
    real.wait_until_settled(SETTLES).await.unwrap();
    let cluster = Cluster::new(client);
    let refused = matrix::dry_run(&cluster, "v1.20.2").await;
    assert_eq!(refused, Vec::<String>::new());
}
