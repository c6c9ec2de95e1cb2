//! What the simulated controllers make of workloads.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Endpoints, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use sandbox::{Config, Sandbox};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn mk_client() -> Client {
    let config = Config {
        nodes: vec!["a".to_owned(), "b".to_owned()],
        ..Config::default()
    };
    Client::new(Sandbox::new(config).service(), "default")
}

fn mk<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn mk_template(image: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "web", "image": image, "ports": [{ "name": "http", "containerPort": 8080 }] }] },
    })
}

fn mk_deployment(image: &str, replicas: i32) -> Deployment {
    mk(json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": mk_template(image),
        },
    }))
}

fn mk_service(ports: Value) -> Service {
    mk(json!({ "metadata": { "name": "web" }, "spec": { "selector": { "app": "web" }, "ports": ports } }))
}

async fn ready_pods(client: &Client) -> Vec<Pod> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pods = pods
        .list(&ListParams::default().labels("app=web"))
        .await
        .expect("listed")
        .items;
    for pod in &pods {
        assert_eq!(
            pod.status.as_ref().and_then(|status| status.phase.as_deref()),
            Some("Running")
        );
    }
    pods
}

#[tokio::test]
async fn a_deployment_rolls_out_scales_and_goes() {
    let client = mk_client();
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments
        .create(&PostParams::default(), &mk_deployment("web:1", 2))
        .await
        .expect("created");
    let status = deployments
        .get("web")
        .await
        .expect("there")
        .status
        .expect("a status");
    assert_eq!(
        (
            status.observed_generation,
            status.ready_replicas,
            status.updated_replicas,
            status.available_replicas
        ),
        (Some(1), Some(2), Some(2), Some(2))
    );
    let conditions: Vec<_> = status
        .conditions
        .expect("conditions")
        .into_iter()
        .map(|condition| {
            (
                condition.type_,
                condition.status,
                condition.reason.unwrap_or_default(),
            )
        })
        .collect();
    let expected = [
        ("Available", "True", "MinimumReplicasAvailable"),
        ("Progressing", "True", "NewReplicaSetAvailable"),
    ]
    .map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
    assert_eq!(conditions, expected);
    let before = ready_pods(&client).await;
    assert_eq!(before.len(), 2);
    assert_ne!(
        before[0].spec.as_ref().unwrap().node_name,
        before[1].spec.as_ref().unwrap().node_name
    );

    let image = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "web", "image": "web:2" }] } } } });
    deployments
        .patch("web", &PatchParams::default(), &Patch::Strategic(image))
        .await
        .expect("patched");
    let rolled = deployments.get("web").await.expect("there");
    assert_eq!(
        rolled.metadata.annotations.expect("annotations")["deployment.kubernetes.io/revision"],
        "2"
    );
    let after = ready_pods(&client).await;
    assert_eq!(after.len(), 2);
    assert!(
        after
            .iter()
            .all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("web:2"))
    );
    let sets: Api<ReplicaSet> = Api::default_namespaced(client.clone());
    let mut counts: Vec<_> = sets
        .list(&ListParams::default())
        .await
        .expect("listed")
        .into_iter()
        .map(|set| (set.spec.unwrap().replicas, set.status.unwrap().replicas))
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [(Some(0), 0), (Some(2), 2)]);

    let none = json!({ "spec": { "replicas": 0 } });
    deployments
        .patch("web", &PatchParams::default(), &Patch::Merge(none))
        .await
        .expect("scaled");
    assert!(ready_pods(&client).await.is_empty());
    let status = deployments
        .get("web")
        .await
        .expect("there")
        .status
        .expect("a status");
    assert_eq!((status.replicas, status.observed_generation), (None, Some(3)));
    deployments
        .delete("web", &DeleteParams::background())
        .await
        .expect("deleted");
    assert!(
        sets.list(&ListParams::default())
            .await
            .expect("listed")
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn services_get_addresses_and_find_their_pods() {
    let client = mk_client();
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let ports = json!([{ "port": 80, "targetPort": "http" }]);
    let service = services
        .create(&PostParams::default(), &mk_service(ports))
        .await
        .expect("created");
    let address = service.spec.expect("a spec").cluster_ip.expect("an address");
    assert!(address.starts_with("10.96."), "{address}");
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments
        .create(&PostParams::default(), &mk_deployment("web:1", 2))
        .await
        .expect("created");
    let endpoints: Api<Endpoints> = Api::default_namespaced(client.clone());
    let subsets = endpoints
        .get("web")
        .await
        .expect("made")
        .subsets
        .expect("subsets");
    assert_eq!(subsets[0].addresses.as_ref().map(Vec::len), Some(2));
    assert_eq!(subsets[0].ports.as_ref().map(|ports| ports[0].port), Some(8080));
    // An update that does not know of the address keeps it.
    let open = json!({ "spec": { "type": "NodePort" } });
    let open = services
        .patch("web", &PatchParams::default(), &Patch::Merge(open))
        .await
        .expect("patched");
    let spec = open.spec.expect("a spec");
    assert_eq!(spec.cluster_ip, Some(address));
    assert!(
        spec.ports.expect("ports")[0]
            .node_port
            .is_some_and(|port| (30_000..32_768).contains(&port))
    );
    services
        .delete("web", &DeleteParams::default())
        .await
        .expect("deleted");
    assert!(endpoints.get_opt("web").await.expect("answered").is_none());
}

#[tokio::test]
async fn stateful_sets_claim_volumes_and_update_in_place() {
    let client = mk_client();
    let classes: Api<k8s_openapi::api::storage::v1::StorageClass> = Api::all(client.clone());
    let class = mk(json!({
        "metadata": { "name": "local", "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": "example.com/local", "volumeBindingMode": "WaitForFirstConsumer",
    }));
    classes
        .create(&PostParams::default(), &class)
        .await
        .expect("created");
    let sets: Api<StatefulSet> = Api::default_namespaced(client.clone());
    let set = mk(json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 2, "serviceName": "web",
            "selector": { "matchLabels": { "app": "web" } },
            "template": mk_template("web:1"),
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
            }],
        },
    }));
    sets.create(&PostParams::default(), &set).await.expect("created");
    let names: Vec<_> = ready_pods(&client)
        .await
        .into_iter()
        .filter_map(|pod| pod.metadata.name)
        .collect();
    assert_eq!(names, ["web-0", "web-1"]);
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let claim = claims.get("data-web-1").await.expect("claimed");
    assert_eq!(claim.status.expect("a status").phase.as_deref(), Some("Bound"));
    let image = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "web", "image": "web:2" }] } } } });
    sets.patch("web", &PatchParams::default(), &Patch::Strategic(image))
        .await
        .expect("patched");
    let status = sets.get("web").await.expect("there").status.expect("a status");
    assert_eq!(
        (status.updated_replicas, status.ready_replicas),
        (Some(2), Some(2))
    );
    assert_eq!(status.current_revision, status.update_revision);
    // A claim that a pod uses is not deleted before the pod.
    claims
        .delete("data-web-0", &DeleteParams::default())
        .await
        .expect("marked");
    assert!(
        claims
            .get("data-web-0")
            .await
            .expect("held")
            .metadata
            .deletion_timestamp
            .is_some()
    );
    sets.delete("web", &DeleteParams::foreground())
        .await
        .expect("deleted");
    assert!(claims.get_opt("data-web-0").await.expect("answered").is_none());
    assert!(claims.get_opt("data-web-1").await.expect("answered").is_some());
}

#[tokio::test]
async fn daemons_cover_the_nodes_and_jobs_complete() {
    let client = mk_client();
    let sets: Api<DaemonSet> = Api::default_namespaced(client.clone());
    let set = mk(json!({
        "metadata": { "name": "web" },
        "spec": { "selector": { "matchLabels": { "app": "web" } }, "template": mk_template("web:1") },
    }));
    sets.create(&PostParams::default(), &set).await.expect("created");
    let status = sets.get("web").await.expect("there").status.expect("a status");
    assert_eq!((status.desired_number_scheduled, status.number_ready), (2, 2));
    let jobs: Api<Job> = Api::default_namespaced(client.clone());
    let job = mk(json!({
        "metadata": { "name": "once" },
        "spec": { "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "once", "image": "once:1" }],
        } } },
    }));
    jobs.create(&PostParams::default(), &job).await.expect("created");
    let status = jobs.get("once").await.expect("there").status.expect("a status");
    assert_eq!(status.succeeded, Some(1));
    assert_eq!(status.conditions.expect("conditions")[0].type_, "Complete");
}

#[tokio::test]
async fn accounts_have_tokens_and_pods_wait_for_their_account() {
    let client = mk_client();
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let mut deployment = mk_deployment("web:1", 1);
    let template = &mut deployment.spec.as_mut().unwrap().template;
    template.spec.as_mut().unwrap().service_account_name = Some("runner".to_owned());
    deployments
        .create(&PostParams::default(), &deployment)
        .await
        .expect("created");
    assert!(ready_pods(&client).await.is_empty());
    let account = mk(json!({ "metadata": { "name": "runner" } }));
    accounts
        .create(&PostParams::default(), &account)
        .await
        .expect("created");
    let pods = ready_pods(&client).await;
    assert_eq!(pods.len(), 1);
    let token = accounts
        .get("runner")
        .await
        .expect("there")
        .secrets
        .expect("secrets")[0]
        .name
        .clone()
        .expect("a name");
    let volumes = pods[0].spec.as_ref().unwrap().volumes.as_ref().expect("volumes");
    assert!(volumes.iter().any(|volume| volume.name == token));
    accounts
        .delete("runner", &DeleteParams::default())
        .await
        .expect("deleted");
    let secrets: Api<Secret> = Api::default_namespaced(client);
    assert!(secrets.get_opt(&token).await.expect("answered").is_none());
}
