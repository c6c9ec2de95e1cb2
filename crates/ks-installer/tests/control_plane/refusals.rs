//! Where an upgrade cannot or must not go on, it says why and writes nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options};

use crate::common::{CALLER, Caller, UPGRADE, dump, kubeconfig_of, writes_of};

/// The old ks-controller-manager, which answers for the users webhook.
const OLD_MANAGER: &str = "ks-controller-manager:v3.2.1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_sees_no_write_of_those_who_may_not() {
    let options = Options {
        objects: dump(),
        audit: true,
        ..Options::default()
    };
    let Some(mut real) = ControlPlane::start_or_skip("callers without permissions", options).await else {
        return;
    };
    real.wait_until_settled(Duration::from_mins(2)).await.unwrap();

    // One who may see nothing does not take KubeSphere for absent, and is told what is missing.
    let stranger = Caller::acting_as(&real, "stranger", &[]);
    let found = refused(&stranger).await;
    assert!(found.contains(&"VersionUnreadable".to_owned()), "{found:?}");
    assert!(found.contains(&"UnreadableResource".to_owned()), "{found:?}");
    let backup = stranger.run(&["backup", "-o", "json"]).await.expect(1).json();
    assert!(!backup["missing"].as_array().unwrap().is_empty());
    assert_eq!(writes_of(&real, "stranger"), [""; 0]);

    // One who may see everything may look, and is told what to ask for.
    let reader = Caller::acting_as(&real, "reader", &[]);
    let_read_all(&real.client().await.unwrap(), "reader").await;
    let found = refused(&reader).await;
    assert!(
        found.iter().all(|reason| reason == "PermissionMissing"),
        "{found:?}"
    );
    reader.run(&["backup"]).await.expect(0);
    assert_eq!(writes_of(&real, "reader"), [""; 0]);

    let mut kubeconfig = kubeconfig_of(&real);
    kubeconfig["users"][0]["user"] = json!({"token": "long-expired"});
    let unknown = Caller::new(&kubeconfig.to_string());
    for command in [&["preflight"][..], &["plan"], &["rehearse"], UPGRADE] {
        let ran = unknown.run(command).await.expect(2);
        ran.expect_one_error("does not accept the credentials");
        assert!(!ran.stderr.contains("long-expired"), "{}", ran.stderr);
    }
}

/// Tries to upgrade, and gives the reasons of the blockers that forbid it, the same for all commands.
async fn refused(caller: &Caller) -> Vec<String> {
    let blockers = |document: &Value| -> Vec<String> {
        let findings = document["findings"].as_array().unwrap();
        let blockers = findings.iter().filter(|finding| finding["severity"] == "blocker");
        blockers
            .map(|finding| finding["reason"].as_str().unwrap().to_owned())
            .collect()
    };
    let upgrade = caller.run(UPGRADE).await.expect(1).json();
    assert_eq!(upgrade["upgraded"], false);
    let preflight = caller.run(&["preflight", "-o", "json"]).await.expect(1).json();
    assert_eq!(preflight["ready"], false);
    assert_eq!(blockers(&preflight), blockers(&upgrade));
    let text = caller.run(&["upgrade", "--yes"]).await.expect(1).stdout;
    assert!(text.contains("Nothing was written"), "{text}");
    blockers(&upgrade)
}

async fn let_read_all(client: &Client, user: &str) {
    let role: ClusterRole = serde_json::from_value(json!({
        "metadata": {"name": "read-all"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}],
    }))
    .unwrap();
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "read-all"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "read-all"},
        "subjects": [{"kind": "User", "name": user}],
    }))
    .unwrap();
    Api::all(client.clone())
        .create(&PostParams::default(), &role)
        .await
        .unwrap();
    Api::all(client.clone())
        .create(&PostParams::default(), &binding)
        .await
        .unwrap();
}

/// The most common dead end of upgrades by the original: the users webhook fails closed and nobody answers for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_is_upgraded_past_a_dead_users_webhook() {
    let options = Options {
        objects: dump(),
        unpullable_images: vec![OLD_MANAGER.to_owned()],
        ..Options::default()
    };
    let Some(mut real) = ControlPlane::start_or_skip("a dead webhook", options).await else {
        return;
    };
    real.wait_until_settled(Duration::from_mins(2)).await.unwrap();
    let client = real.client().await.unwrap();
    end_old_manager(&client).await;
    assert!(
        annotate_admin(&client, "before").await.is_err(),
        "the webhook refuses writes of users"
    );

    let caller = Caller::acting_as(&real, CALLER, &["system:masters"]);
    let preflight = caller.run(&["preflight", "-o", "json"]).await.expect(0).json();
    let findings = preflight["findings"].as_array().unwrap();
    let named = findings.iter().any(|finding| {
        finding["reason"] == "WebhookUnavailable"
            && finding["message"]
                .as_str()
                .unwrap()
                .contains("users.iam.kubesphere.io")
            && finding["hint"]
                .as_str()
                .unwrap()
                .contains("users.iam.kubesphere.io")
    });
    assert!(named, "{findings:#?}");

    // The new release's image can be had: the upgrade brings the webhook back to life.
    caller.upgrade().await;
    real.wait_until_settled(Duration::from_mins(2)).await.unwrap();
    annotate_admin(&client, "after").await.unwrap();
}

/// Ends the pods of ks-controller-manager, and waits until its Service has lost them.
async fn end_old_manager(client: &Client) {
    let pods = Api::<Pod>::namespaced(client.clone(), "kubesphere-system");
    let of_manager = ListParams::default().labels("app=ks-controller-manager");
    pods.delete_collection(&DeleteParams::default(), &of_manager)
        .await
        .unwrap();
    let endpoints = Api::<Endpoints>::namespaced(client.clone(), "kubesphere-system");
    for _ in 0..300 {
        let subsets = endpoints
            .get("ks-controller-manager")
            .await
            .unwrap()
            .subsets
            .unwrap_or_default();
        if subsets
            .iter()
            .all(|subset| subset.addresses.as_ref().is_none_or(Vec::is_empty))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the Service keeps its endpoints");
}

async fn annotate_admin(client: &Client, value: &str) -> kube::Result<()> {
    let users = kube::api::ApiResource {
        group: "iam.kubesphere.io".into(),
        version: "v1alpha2".into(),
        api_version: "iam.kubesphere.io/v1alpha2".into(),
        kind: "User".into(),
        plural: "users".into(),
    };
    let users = Api::<kube::api::DynamicObject>::all_with(client.clone(), &users);
    let patch = json!({"metadata": {"annotations": {"example.org/note": value}}});
    let params = kube::api::PatchParams::default();
    users
        .patch("admin", &params, &kube::api::Patch::Merge(patch))
        .await
        .map(drop)
}

/// Needs no control plane.
#[tokio::test]
async fn an_api_server_that_is_not_there_is_one_clear_error() {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "gone",
        "contexts": [{"name": "gone", "context": {"cluster": "gone", "user": "gone"}}],
        "clusters": [{"name": "gone", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "gone", "user": {"token": "secret-token"}}],
    });
    let caller = Caller::new(&kubeconfig.to_string());
    for command in [
        &["preflight"][..],
        &["plan"],
        &["status"],
        &["backup"],
        &["rehearse"],
        UPGRADE,
    ] {
        let ran = caller.run(command).await.expect(2);
        ran.expect_one_error("https://127.0.0.1:1");
        assert!(!ran.stderr.contains("secret-token"), "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
}
