//! The control plane itself, tried out: run with `KS_CONTROL_PLANE=1` after `cargo xtask control-plane build`.
#![expect(clippy::unwrap_used, reason = "a test helper fails the test")]

use std::time::Duration;

use base64::Engine as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options, read_dump};

/// Waits for `met`, which gives what it saw if it is not yet what is wanted.
async fn wait_for(what: &str, mut met: impl AsyncFnMut() -> Result<(), String>) {
    let mut seen = String::new();
    for _ in 0..300 {
        match met().await {
            Ok(()) => return,
            Err(so_far) => seen = so_far,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what} did not come about: {seen}");
}

async fn create<K>(api: &Api<K>, object: Value) -> kube::Result<K>
where
    K: serde::Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap())
        .await
}

fn fixture(name: &str) -> Vec<Value> {
    read_dump(
        &std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name),
    )
    .unwrap()
}

fn users() -> ApiResource {
    ApiResource {
        group: "example.org".into(),
        version: "v1".into(),
        api_version: "example.org/v1".into(),
        kind: "Account".into(),
        plural: "accounts".into(),
    }
}

fn definition() -> Value {
    let string = json!({"type": "string"});
    json!({
        "metadata": {"name": "accounts.example.org"},
        "spec": {
            "group": "example.org", "scope": "Cluster",
            "names": {"kind": "Account", "plural": "accounts", "singular": "account", "listKind": "AccountList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"email": string}},
                },
            }}}],
        },
    })
}

/// The recipe's own check: what the two libraries that the build replaces break otherwise.
#[tokio::test]
async fn control_plane_serves_custom_resources_with_empty_strings() {
    let options = Options {
        controllers: false,
        ..Options::default()
    };
    let Some(started) = ControlPlane::start_or_skip("custom resources", options).await else {
        return;
    };
    let client = started.client().await.unwrap();
    assert_eq!(client.apiserver_version().await.unwrap().git_version, "v1.20.2");

    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    create(&definitions, definition()).await.unwrap();
    let accounts = Api::<DynamicObject>::all_with(client, &users());
    let account = json!({
        "apiVersion": "example.org/v1", "kind": "Account", "metadata": {"name": "a"}, "spec": {"email": ""},
    });
    wait_for("an account with an empty string", async || {
        create(&accounts, account.clone())
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .await;
    let listed = accounts.list(&ListParams::default()).await.unwrap();
    assert_eq!(listed.items[0].data["spec"]["email"], "");

    let number = json!({
        "apiVersion": "example.org/v1", "kind": "Account", "metadata": {"name": "b"}, "spec": {"email": 1},
    });
    assert!(
        create(&accounts, number).await.is_err(),
        "the schema is still enforced"
    );
}

fn deployment(image: &str) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [{"name": "web", "image": image}],
                    "volumes": [{"name": "config", "configMap": {"name": "web"}}],
                },
            },
        },
    })
}

async fn ready_replicas(deployments: &Api<Deployment>, image: &str) -> Result<(), String> {
    let status = deployments
        .get_status("web")
        .await
        .map_err(|error| error.to_string())?
        .status
        .unwrap_or_default();
    let pods = Api::<Pod>::namespaced(deployments.clone().into_client(), "default");
    let pods = pods
        .list(&ListParams::default().labels("app=web"))
        .await
        .map_err(|error| error.to_string())?;
    let with_image = |pod: &&Pod| {
        pod.metadata.deletion_timestamp.is_none()
            && pod
                .spec
                .as_ref()
                .is_some_and(|spec| spec.containers[0].image.as_deref() == Some(image))
    };
    let count = pods.iter().filter(with_image).count();
    let found = format!("{count} pods with {image}, ready: {:?}", status.ready_replicas);
    (count == 3 && pods.items.len() == 3 && status.ready_replicas == Some(3))
        .then_some(())
        .ok_or(found)
}

#[tokio::test]
async fn control_plane_rolls_workloads_out_on_fake_nodes() {
    let options = Options {
        unpullable_images: vec!["unreachable.example/".into()],
        ..Options::default()
    };
    let Some(mut started) = ControlPlane::start_or_skip("workloads", options).await else {
        return;
    };
    let client = started.client().await.unwrap();
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await
        .unwrap();
    assert_eq!(nodes.items.len(), 3);

    // A Deployment waits for what it mounts, runs, and is replaced.
    let deployments = Api::<Deployment>::namespaced(client.clone(), "default");
    create(&deployments, deployment("web:1")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = deployments
        .get_status("web")
        .await
        .unwrap()
        .status
        .unwrap_or_default();
    assert_eq!(
        status.ready_replicas.unwrap_or(0),
        0,
        "its ConfigMap is not there yet"
    );
    let config = Api::<ConfigMap>::namespaced(client.clone(), "default");
    create(&config, json!({"metadata": {"name": "web"}}))
        .await
        .unwrap();
    wait_for("the rollout", async || {
        ready_replicas(&deployments, "web:1").await
    })
    .await;
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:2"}]}}}});
    deployments
        .patch("web", &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .unwrap();
    wait_for("the second rollout", async || {
        ready_replicas(&deployments, "web:2").await
    })
    .await;
    started.wait_until_settled(Duration::from_secs(30)).await.unwrap();

    // An image that cannot be pulled leaves the old Pods in place and says why.
    let image = "unreachable.example/web:3";
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}});
    deployments
        .patch("web", &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .unwrap();
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    wait_for("a pod that cannot start", async || {
        let pods = pods
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        let text = serde_json::to_string(&pods.items).unwrap();
        if text.contains("ImagePullBackOff") {
            Ok(())
        } else {
            Err("nothing waits for an image".into())
        }
    })
    .await;
    let error = started
        .wait_until_settled(Duration::from_secs(1))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("Deployment default/web"), "{error}");

    // A Job's Pod ends, and a claim gets its volume.
    let jobs = Api::<Job>::namespaced(client.clone(), "default");
    let job = json!({"metadata": {"name": "once"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "once", "image": "once:1"}],
    }}}});
    create(&jobs, job).await.unwrap();
    wait_for("the end of the job", async || {
        let status = jobs.get_status("once").await.unwrap().status.unwrap_or_default();
        (status.succeeded == Some(1))
            .then_some(())
            .ok_or_else(|| format!("{status:?}"))
    })
    .await;
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), "default");
    let claim = json!({
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "3Gi"}}},
    });
    create(&claims, claim).await.unwrap();
    wait_for("the claim to be bound", async || {
        let phase = claims
            .get_status("data")
            .await
            .unwrap()
            .status
            .and_then(|status| status.phase);
        (phase.as_deref() == Some("Bound"))
            .then_some(())
            .ok_or_else(|| format!("{phase:?}"))
    })
    .await;

    claims.delete("data", &DeleteParams::default()).await.unwrap();
    let volumes = Api::<PersistentVolume>::all(client.clone());
    wait_for("the end of the volume", async || {
        let left = volumes.list(&ListParams::default()).await.unwrap().items;
        left.is_empty().then_some(()).ok_or_else(|| format!("{left:?}"))
    })
    .await;
}

#[tokio::test]
async fn control_plane_restores_objects_as_they_were() {
    let objects = fixture("restored.ndjson");
    let recorded = |kind: &str, name: &str| {
        let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        objects.iter().find(is_it).unwrap().clone()
    };
    let options = Options {
        objects: objects.clone(),
        ..Options::default()
    };
    let Some(mut started) = ControlPlane::start_or_skip("restoring", options).await else {
        return;
    };
    started.wait_until_settled(Duration::from_secs(30)).await.unwrap();
    let client = started.client().await.unwrap();

    check_identity::<ConfigMap>(&client, &recorded("ConfigMap", "settings")).await;
    check_identity::<Deployment>(&client, &recorded("Deployment", "web")).await;
    let accounts = Api::<DynamicObject>::all_with(client.clone(), &users());
    let account = serde_json::to_value(accounts.get("ada").await.unwrap()).unwrap();
    assert_eq!(
        account["metadata"]["uid"],
        recorded("Account", "ada")["metadata"]["uid"]
    );
    assert_eq!(account["spec"], recorded("Account", "ada")["spec"]);

    // Nodes are adopted, not added to; a Service's address is taken, and known to be.
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await
        .unwrap();
    assert_eq!(
        nodes.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
        ["worker1"]
    );
    let services = Api::<Service>::namespaced(client.clone(), "shop");
    let second = json!({
        "metadata": {"name": "second"}, "spec": {"clusterIP": "127.96.7.7", "ports": [{"port": 80}]},
    });
    wait_for(
        "the address to be refused a second time",
        async || match create(&services, second.clone()).await {
            Err(error) if error.to_string().contains("already allocated") => Ok(()),
            other => {
                let _ = services.delete("second", &DeleteParams::default()).await;
                Err(format!("{other:?}"))
            }
        },
    )
    .await;

    // The recorded token Secret has a working token now, and the ServiceAccount still the one reference.
    let secrets = Api::<Secret>::namespaced(client.clone(), "shop");
    wait_for("a token", async || {
        let data = secrets
            .get("web-token-abcde")
            .await
            .unwrap()
            .data
            .unwrap_or_default();
        data.get("token")
            .map(drop)
            .ok_or_else(|| format!("{:?}", data.keys()))
    })
    .await;
    let accounts = Api::<ServiceAccount>::namespaced(client, "shop");
    assert_eq!(accounts.get("web").await.unwrap().secrets.unwrap().len(), 1);
}

async fn check_identity<K>(client: &Client, recorded: &Value)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let name = recorded["metadata"]["name"].as_str().unwrap();
    let restored = Api::<K>::namespaced(client.clone(), "shop")
        .get(name)
        .await
        .unwrap();
    let metadata = serde_json::to_value(restored.meta()).unwrap();
    assert_eq!(metadata["uid"], recorded["metadata"]["uid"], "{name}");
    assert_eq!(
        metadata["creationTimestamp"], recorded["metadata"]["creationTimestamp"],
        "{name}"
    );
    let managers = |value: &Value| {
        let entries = value["managedFields"].as_array().unwrap().clone();
        // What controllers write of late is theirs; what was recorded must all be there.
        entries
            .into_iter()
            .filter(|entry| entry["manager"] == "helm")
            .collect::<Vec<_>>()
    };
    assert_eq!(managers(&metadata), managers(&recorded["metadata"]), "{name}");
}

/// A webhook for accounts behind the Service shop/web, and the Secret with the Service's certificate.
fn webhook() -> Vec<Value> {
    let authority = CertifiedIssuer::self_signed(
        {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        },
        KeyPair::generate().unwrap(),
    )
    .unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["web.shop.svc".to_owned()])
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "web-certificate", "namespace": "shop", "uid": "00000000-0000-4000-8000-000000000100"},
        "data": {"tls.crt": encode(certificate.pem()), "tls.key": encode(key.serialize_pem())},
    });
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "accounts.example.org", "uid": "00000000-0000-4000-8000-000000000101"},
        "webhooks": [{
            "name": "accounts.example.org",
            "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "matchPolicy": "Exact", "timeoutSeconds": 5, "namespaceSelector": {}, "objectSelector": {},
            "clientConfig": {
                "service": {"name": "web", "namespace": "shop", "path": "/check", "port": 443},
                "caBundle": encode(authority.pem()),
            },
            "rules": [{
                "apiGroups": ["example.org"], "apiVersions": ["*"], "resources": ["accounts"],
                "operations": ["CREATE", "UPDATE"], "scope": "*",
            }],
        }],
    });
    vec![secret, configuration]
}

#[tokio::test]
async fn control_plane_asks_webhooks_and_decides_for_users() {
    let objects = [fixture("restored.ndjson"), webhook()].concat();
    let options = Options {
        objects,
        ..Options::default()
    };
    let Some(mut started) = ControlPlane::start_or_skip("webhooks", options).await else {
        return;
    };
    started.wait_until_settled(Duration::from_secs(30)).await.unwrap();
    let client = started.client().await.unwrap();
    let accounts = Api::<DynamicObject>::all_with(client.clone(), &users());
    let label = async |value: &str| {
        let patch = json!({"metadata": {"labels": {"tried": value}}});
        accounts
            .patch("ada", &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
    };

    wait_for("an answer of the webhook", async || {
        label("1").await.map_err(|error| error.to_string())
    })
    .await;
    started.answer_webhooks(false);
    let error = label("2").await.unwrap_err().to_string();
    assert!(error.contains("failed calling webhook"), "{error}");
    started.answer_webhooks(true);
    label("3").await.unwrap();

    // Without a ready Pod behind the Service there is no answer, as in a real cluster.
    let deployments = Api::<Deployment>::namespaced(client.clone(), "shop");
    let patch = json!({"spec": {"replicas": 0}});
    deployments
        .patch("web", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let mut number = 10;
    wait_for("a refusal", async || {
        number += 1;
        label(&number.to_string())
            .await
            .err()
            .map(drop)
            .ok_or_else(|| "still answered".to_owned())
    })
    .await;

    let ada = started.user_client("ada", &["shoppers"]).await.unwrap();
    let config = |client: &Client| Api::<ConfigMap>::namespaced(client.clone(), "shop");
    config(&ada).get("settings").await.unwrap();
    let error = config(&ada)
        .delete("settings", &DeleteParams::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("forbidden"), "{error}");
    let stranger = started.user_client("ada", &[]).await.unwrap();
    config(&stranger).get("settings").await.unwrap_err();
}
