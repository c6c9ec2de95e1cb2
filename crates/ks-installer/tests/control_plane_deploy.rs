//! `kubectl apply -f deploy/kubesphere-installer.yaml --force`, by the real kubectl, on a real Kubernetes API server; and an
//! upgrade with the rights that are given there and no others. Run with `KS_CONTROL_PLANE=1` after
//! `cargo xtask control-plane build`.
#![expect(clippy::unwrap_used, reason = "a test that finds nothing fails")]

use std::time::Duration;

use serde_json::json;
use xtask::control_plane::{ControlPlane, Options};

use common::{Caller, dump, scale};
use kubectl::{ACCOUNT, GROUPS, Kubectl, deployed, forbidden};

#[path = "control_plane/common.rs"]
#[allow(dead_code, reason = "shared with the other tests on the control plane")]
mod common;
#[path = "control_plane/kubectl.rs"]
#[allow(dead_code, reason = "shared with the other tests on the control plane")]
mod kubectl;

const SETTLES: Duration = Duration::from_mins(2);
const NAMESPACE: &str = "kubesphere-system";
/// The documented way to its logs.
const SELECTOR: &str = "app in (ks-install, ks-installer)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_takes_the_manifest_and_its_rights_are_enough() {
    let options = Options {
        objects: dump(),
        audit: true,
        ..Options::default()
    };
    let Some(mut real) = ControlPlane::start_or_skip("what is deployed", options).await else {
        return;
    };
    let Some(program) = xtask::helm::ensure_kubectl_or_skip("what is deployed") else {
        return;
    };
    let client = real.client().await.unwrap();
    let kubectl = Kubectl::new(program, &real);
    scale(&client, "ks-installer", 1).await;
    real.wait_until_settled(SETTLES).await.unwrap();

    replaces_the_old_installer(&mut real, &kubectl).await;
    has_least_rights(&kubectl).await;
    upgrades_with_them(&mut real, &kubectl).await;
}

/// The procedure of the guide, word for word.
async fn replaces_the_old_installer(real: &mut ControlPlane, kubectl: &Kubectl) {
    let deployment = ["deployment/ks-installer", "-n", NAMESPACE];
    let configuration = ["cc/ks-installer", "-n", NAMESPACE];
    let (old, settings) = (kubectl.get(&deployment).await, kubectl.get(&configuration).await);
    assert_eq!(
        old["spec"]["selector"]["matchLabels"],
        json!({"app": "ks-install"})
    );

    let manifest = deployed("kubesphere-installer.yaml");
    let apply = ["apply", "-f", &manifest, "--force"];
    let said = kubectl.say(&apply).await;
    let documents = object::parse_documents(&std::fs::read_to_string(&manifest).unwrap()).unwrap();
    assert_eq!(said.lines().count(), documents.len(), "{said}");
    real.wait_until_settled(SETTLES).await.unwrap();

    let new = kubectl.get(&deployment).await;
    assert_ne!(new["metadata"]["uid"], old["metadata"]["uid"]);
    assert_eq!(
        new["spec"]["template"]["spec"]["containers"][0]["image"],
        "kubesphere/ks-installer:v3.3.1"
    );
    assert_eq!(new["status"]["readyReplicas"], 1);
    let pods = kubectl.get(&["pods", "-n", NAMESPACE, "-l", SELECTOR]).await;
    let pods = pods["items"].as_array().unwrap();
    assert_eq!(pods.len(), 1, "the pod of the old installer is gone");
    let labels = &pods[0]["metadata"]["labels"];
    assert_eq!(
        (&labels["app"], &labels["installer.kubesphere.io/operator"]),
        (&json!("ks-installer"), &json!("true"))
    );
    // Its settings and what was done so far are as they were.
    let after = kubectl.get(&configuration).await;
    for part in ["spec", "status"] {
        assert_eq!(after[part], settings[part]);
    }
    assert_eq!(after["metadata"]["uid"], settings["metadata"]["uid"]);

    let table = kubectl.say(&["get", "cc", "-n", NAMESPACE]).await;
    let columns: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "VERSION", "PHASE", "PROGRESS", "AGE"]);
    assert!(table.contains("ks-installer"), "{table}");

    // Again: nothing changes.
    let said = kubectl.say(&apply).await;
    assert!(said.lines().all(|line| line.ends_with(" unchanged")), "{said}");

    // The settings for a cluster without KubeSphere are taken, too.
    let settings = deployed("cluster-configuration.yaml");
    kubectl.say(&["apply", "-f", &settings, "--dry-run=server"]).await;
}

/// The rights that earlier releases gave are gone with the apply; what is left is what is documented.
async fn has_least_rights(kubectl: &Kubectl) {
    for may in [
        &["patch", "deployments", "-n", NAMESPACE][..],
        &["create", "secrets", "-n", NAMESPACE],
        &["patch", "roles", "-n", "proj1"],
        &["bind", "clusterroles/cluster-admin"],
    ] {
        assert!(kubectl.may(may).await, "{may:?}");
    }
    for may_not in [
        &["patch", "deployments", "-n", "proj1"][..],
        &["create", "secrets", "-n", "proj1"],
        &["create", "pods", "-n", NAMESPACE],
        &["delete", "namespaces"],
        &["delete", "users.iam.kubesphere.io"],
        &["delete", "customresourcedefinitions"],
        &["update", "nodes"],
        &["delete", "nodes"],
        &["bind", "clusterroles/view"],
        &["*", "*"],
    ] {
        assert!(!kubectl.may(may_not).await, "{may_not:?}");
    }
}

async fn upgrades_with_them(real: &mut ControlPlane, kubectl: &Kubectl) {
    let caller = Caller::acting_as(real, ACCOUNT, GROUPS);
    let (worked, _) = kubectl.run(&["get", "nodes", "--as", "nobody"]).await;
    assert!(!worked && forbidden(real, "nobody") > 0, "the measure measures");
    let upgrade = [
        "upgrade",
        "--yes",
        "--wait-controllers",
        "0",
        "--backup",
        "secret://kubesphere-system/",
        "-o",
        "json",
    ];
    let plan = caller.run(&["plan", "-o", "json"]).await.expect(0).json();
    let outcome = caller.run(&upgrade).await.expect(0).json();
    assert_eq!(
        (&outcome["upgraded"], &outcome["verified"]),
        (&json!(true), &json!(true)),
        "{outcome:#}"
    );
    for findings in [&plan["plan"]["findings"], &plan["findings"], &outcome["findings"]] {
        for finding in findings.as_array().into_iter().flatten() {
            let reason = finding["reason"].as_str().unwrap_or_default();
            assert!(
                !["PermissionMissing", "UnreadableResource"].contains(&reason),
                "{finding:#}"
            );
        }
    }
    let backups = caller
        .run(&["backup", "list", "--from", "secret://kubesphere-system/"])
        .await
        .expect(0);
    assert!(
        backups.stdout.contains("secret://kubesphere-system/"),
        "{backups:?}"
    );
    assert_eq!(forbidden(real, ACCOUNT), 0, "requests were answered 403");

    // What runs in the cluster is not stopped by itself.
    let deployment = kubectl.get(&["deployment/ks-installer", "-n", NAMESPACE]).await;
    assert_eq!(deployment["spec"]["replicas"], 1);
    real.wait_until_settled(SETTLES).await.unwrap();
    caller.upgrade_writes_nothing().await;
    assert_eq!(forbidden(real, ACCOUNT), 0, "requests were answered 403");
    let table = kubectl.say(&["get", "cc", "-n", NAMESPACE]).await;
    assert!(table.contains("v3.3.1"), "{table}");
}
