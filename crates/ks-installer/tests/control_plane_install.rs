//! An installation from nothing on a real Kubernetes API server, and the same in the sandbox. Run with
//! `KS_CONTROL_PLANE=1` after `cargo xtask control-plane build`.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing fails")]

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::Cluster;
use kube::Client;
use object::Object;
use release::helm::{Record, is_namespaced, to_manifest};
use sandbox::{Config, Sandbox, ServeOptions};
use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options};

use common::{CALLER, Caller, Key, authority, state, writes_of};
use compare::differences;

#[path = "control_plane/common.rs"]
#[allow(dead_code, reason = "shared with the other tests on the control plane")]
mod common;
#[path = "control_plane/compare.rs"]
mod compare;

const SETTLES: Duration = Duration::from_mins(2);

/// What is drawn at random is given, so that two installations can be compared; but for certificates.
const INSTALL: &[&str] = &[
    "install",
    "--yes",
    "--wait-controllers",
    "0",
    "--set",
    "authentication.jwtSecret=0123456789abcdefghijklmnopqrstuv",
    "--set",
    "authentication.adminPassword=Initial88",
    "-o",
    "json",
];

/// A default StorageClass, which the control plane has to begin with.
async fn prepare(client: &Client) {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/none",
        "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    });
    Cluster::new(client.clone()).create(&class).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_gets_from_nothing_what_the_sandbox_gets() {
    let options = Options {
        audit: true,
        nodes: 1,
        ..Options::default()
    };
    let Some(mut real) = ControlPlane::start_or_skip("the installation", options).await else {
        return;
    };
    let client = real.client().await.unwrap();
    real.wait_until_settled(SETTLES).await.unwrap();
    let caller = Caller::acting_as(&real, CALLER, &["system:masters"]);

    let sandbox = Sandbox::new(Config::default());
    let server = sandbox.serve(ServeOptions::default()).await.unwrap();
    let sandbox_client = Client::new(sandbox.service(), "default");
    prepare(&sandbox_client).await;
    let sandbox_caller = Caller::new(&server.kubeconfig());
    let before = (state(&client).await, state(&sandbox_client).await);

    // Looking writes nothing.
    let shown = caller
        .run(&["install", "--dry-run", "-o", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(shown["plan"]["from"], "nothing");
    let blocked = caller.run(&["preflight", "-o", "json"]).await.expect(1).json();
    assert_eq!(blocked["findings"][0]["reason"], "NotInstalled");
    assert_eq!(writes_of(&real, CALLER), [""; 0]);

    let outcome = caller.run(INSTALL).await.expect(0).json();
    let in_sandbox = sandbox_caller.run(INSTALL).await.expect(0).json();
    for outcome in [&outcome, &in_sandbox] {
        assert_eq!(
            (&outcome["installed"], &outcome["verified"]),
            (&json!(true), &json!(true)),
            "{outcome:#}"
        );
    }
    assert_eq!(outcome["written"], in_sandbox["written"]);
    assert_eq!(outcome["findings"], in_sandbox["findings"]);
    real.wait_until_settled(SETTLES).await.unwrap();

    // Again: nothing is written.
    let writes = writes_of(&real, CALLER).len();
    assert_eq!(caller.run(INSTALL).await.expect(0).json()["written"], 0);
    caller.upgrade_writes_nothing().await;
    assert_eq!(writes_of(&real, CALLER)[writes..], [""; 0]);
    let back = caller.run(&["rollback", "--yes"]).await.expect(1);
    assert!(back.stderr.contains("nothing to go back to"), "{back:?}");

    let after = state(&client).await;
    let differences = differences(
        made_since(&before.0, after),
        made_since(&before.1, state(&sandbox_client).await),
        &authority(&real),
    );
    assert!(
        differences.is_empty(),
        "the sandbox differs from a real API server:\n{differences}"
    );
}

/// An installation that is killed again and again, with generated secrets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_installation_goes_on_after_kills() {
    let options = Options {
        nodes: 1,
        ..Options::default()
    };
    let Some(mut real) = ControlPlane::start_or_skip("a killed installation", options).await else {
        return;
    };
    real.wait_until_settled(SETTLES).await.unwrap();
    let caller = Caller::acting_as(&real, CALLER, &["system:masters"]);
    let install = ["install", "--yes", "--wait-controllers", "0", "-o", "json"];
    for seconds in [0.8, 1.2, 1.6, 2.4, 3.2] {
        caller.run_and_kill(&install, seconds).await;
    }
    let outcome = caller.run(&install).await.expect(0).json();
    assert_eq!(outcome["verified"], true, "{outcome:#}");
    assert_eq!(caller.run(&install).await.expect(0).json()["written"], 0);
    caller.upgrade_writes_nothing().await;
}

/// What is new or changed: nodes and whatever else a cluster has to begin with are not compared.
fn made_since(before: &BTreeMap<Key, Value>, after: BTreeMap<Key, Value>) -> BTreeMap<Key, Value> {
    let is_of_cluster = |(group, kind, _, name): &Key| {
        // The journal names its owner by UID, and nothing but its data matters.
        name == "ks-installer-journal"
            || [
                "Node",
                "CSINode",
                "APIService",
                "PriorityLevelConfiguration",
                "FlowSchema",
            ]
            .contains(&kind.as_str())
            || group == "flowcontrol.apiserver.k8s.io"
    };
    after
        .into_iter()
        .filter(|(key, object)| !is_of_cluster(key) && before.get(key) != Some(object))
        .map(|(key, mut object)| {
            forget_what_is_drawn(&key, &mut object);
            (key, object)
        })
        .collect()
}

fn forget_what_is_drawn((_, kind, _, name): &Key, object: &mut Value) {
    if kind == "Secret" && name.starts_with("sh.helm.release.v1.") {
        object["apiVersion"] = "v1".into();
        object["kind"] = "Secret".into();
        let record = Record::decode(&Object::try_from(object.clone()).unwrap()).unwrap();
        let objects = record.manifest_objects(&is_namespaced).unwrap();
        let objects: Vec<Object> = objects
            .into_iter()
            .map(|object| {
                let mut value = object.into_value();
                forget(&mut value);
                Object::try_from(value).unwrap()
            })
            .collect();
        let record = record.completed(&to_manifest(&objects), "2000-01-01T00:00:00Z");
        object["data"] = record.encode(0).unwrap().into_value()["data"].take();
        return;
    }
    if name == "cluster-admin" {
        // Kubernetes' own marks, which the sandbox's role does not have.
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("labels");
        let annotations = metadata["annotations"].as_object_mut().unwrap();
        annotations.remove("rbac.authorization.kubernetes.io/autoupdate");
    }
    if kind == "CustomResourceDefinition" {
        // The sandbox judges nobody's approval of groups under k8s.io.
        if let Some(conditions) = object
            .pointer_mut("/status/conditions")
            .and_then(Value::as_array_mut)
        {
            conditions.retain(|condition| condition["type"] != "KubernetesAPIApprovalPolicyConformant");
        }
    }
    if kind == "ServiceAccount" {
        // Names of tokens.
        object.as_object_mut().unwrap().remove("secrets");
    }
    forget(object);
}

/// Certificates, and addresses of Services.
fn forget(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for name in [
                "caBundle",
                "ca.crt",
                "tls.crt",
                "tls.key",
                "clusterIP",
                "clusterIPs",
            ] {
                map.remove(name);
            }
            map.values_mut().for_each(forget);
        }
        Value::Array(items) => items.iter_mut().for_each(forget),
        _ => {}
    }
}
