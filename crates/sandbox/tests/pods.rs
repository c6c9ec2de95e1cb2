//! Pods that do not run, and why: what schedulers and kubelets say of claims, room, taints, ConfigMaps and logs.

mod common;

use sandbox::faults::Trouble;
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const NODES: &str = "/api/v1/nodes";

struct World(Sandbox);

impl World {
    fn new(nodes: &[&str]) -> World {
        World(Sandbox::new(Config {
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            ..Config::default()
        }))
    }

    async fn create(&self, path: &str, object: Value) {
        let answer = common::send(&self.0, "POST", path, "application/json", object).await;
        assert_eq!(answer.code, 201, "{path}: {}", answer.json());
    }

    async fn get(&self, path: &str) -> Value {
        let answer = common::send(&self.0, "GET", path, "application/json", Value::Null).await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.json());
        answer.json()
    }

    /// The code and the message of a refusal, or the text.
    async fn text(&self, path: &str) -> (u16, String) {
        let answer = common::send(&self.0, "GET", path, "*/*", Value::Null).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.headers["content-type"] != "application/json" {
            return (answer.code, text);
        }
        let status = answer.json();
        (
            answer.code,
            status["message"].as_str().unwrap_or_default().to_owned(),
        )
    }

    async fn put(&self, path: &str, object: Value) {
        let answer = common::send(&self.0, "PUT", path, "application/json", object).await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.json());
    }

    async fn delete(&self, path: &str) {
        let answer = common::send(&self.0, "DELETE", path, "application/json", Value::Null).await;
        assert_eq!(answer.code, 200, "{path}");
    }

    /// The phase of a pod, and why it is not scheduled or its first container waits.
    async fn state(&self, name: &str) -> (String, String) {
        let pod = self.get(&format!("{PODS}/{name}")).await;
        let unscheduled = pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "PodScheduled" && condition["status"] == "False")
            .map(|condition| condition["message"].clone());
        let waiting = pod
            .pointer("/status/containerStatuses/0/state/waiting/reason")
            .cloned();
        let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(pod["status"]["phase"].clone()),
            unscheduled.or(waiting).map(text).unwrap_or_default(),
        )
    }

    async fn check(&self, name: &str, phase: &str, why: &str) {
        let found = self.state(name).await;
        assert_eq!((found.0.as_str(), found.1.as_str()), (phase, why), "{name}");
    }

    /// What has been told, and how often.
    async fn told(&self, reason: &str) -> Vec<(String, i64)> {
        let events = self.get("/api/v1/namespaces/default/events").await;
        let events = events["items"].as_array().expect("events");
        events
            .iter()
            .filter(|event| event["reason"] == reason)
            .map(|event| {
                let message = event["message"].as_str().unwrap_or_default();
                (message.to_owned(), event["count"].as_i64().unwrap_or(0))
            })
            .collect()
    }
}

fn mk_pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "metadata": { "name": name },
        "spec": { "containers": [{ "name": "main", "image": "web:1" }] },
    });
    for (key, value) in spec.as_object().expect("a spec") {
        match key.as_str() {
            "container" => {
                let container = pod["spec"]["containers"][0].as_object_mut().expect("a container");
                container.extend(value.as_object().expect("fields").clone());
            }
            _ => pod["spec"][key] = value.clone(),
        }
    }
    pod
}

fn mk_user(name: &str, claim: &str) -> Value {
    let volumes = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }]);
    mk_pod(name, json!({ "volumes": volumes }))
}

fn mk_claim(name: &str, class: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": {
        "storageClassName": class, "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": "1Gi" } },
    } })
}

fn mk_request(name: &str, cpu: &str, memory: &str) -> Value {
    let requests = json!({ "requests": { "cpu": cpu, "memory": memory } });
    mk_pod(name, json!({ "container": { "resources": requests } }))
}

#[tokio::test]
async fn pods_wait_for_their_claims() {
    let world = World::new(&["a", "b"]);
    world.create(PODS, mk_user("lost", "missing")).await;
    let why = "0/2 nodes are available: 2 persistentvolumeclaim \"missing\" not found.";
    world.check("lost", "Pending", why).await;
    assert_eq!(world.told("FailedScheduling").await, [(why.to_owned(), 1)]);
    // No class serves the claim yet.
    world.create(CLAIMS, mk_claim("missing", "local")).await;
    let unbound = "0/2 nodes are available: 2 pod has unbound immediate PersistentVolumeClaims.";
    world.check("lost", "Pending", unbound).await;
    world
        .create(
            CLASSES,
            json!({ "metadata": { "name": "local" }, "provisioner": "example.com/local" }),
        )
        .await;
    world.check("lost", "Running", "").await;

    // A class that waits for a pod binds when there is one, and one that can run.
    let class = json!({
        "metadata": { "name": "late" }, "provisioner": "example.com/local", "volumeBindingMode": "WaitForFirstConsumer",
    });
    world.create(CLASSES, class).await;
    world.create(CLAIMS, mk_claim("late", "late")).await;
    let phase = async || world.get(&format!("{CLAIMS}/late")).await["status"]["phase"].clone();
    let mut elsewhere = mk_user("elsewhere", "late");
    elsewhere["spec"]["nodeSelector"] = json!({ "there": "none" });
    world.create(PODS, elsewhere).await;
    assert_eq!(phase().await, "Pending");
    world.create(PODS, mk_user("late", "late")).await;
    assert_eq!(phase().await, "Bound");
    world.check("late", "Running", "").await;
    assert!(world.told("FailedMount").await.is_empty());
}

#[tokio::test]
async fn a_copy_goes_on_without_what_it_lacks() {
    let world = World::new(&["a"]);
    let mut claim = mk_claim("kept", "gone");
    claim["apiVersion"] = "v1".into();
    claim["kind"] = "PersistentVolumeClaim".into();
    claim["metadata"]["namespace"] = "default".into();
    claim["status"] = json!({ "phase": "Bound" });
    let mut marked = claim.clone();
    marked["metadata"]["name"] = "marked".into();
    marked["metadata"]["annotations"] = json!({ "pv.kubernetes.io/bind-completed": "yes" });
    marked["spec"]["volumeName"] = "pv".into();
    marked.as_object_mut().expect("a claim").remove("status");
    world.create(PODS, mk_pod("running", json!({}))).await;
    let mut objects: Vec<Value> = world
        .0
        .objects()
        .iter()
        .map(|object| Value::clone(object))
        .collect();
    let lost = json!({ "name": "data", "persistentVolumeClaim": { "claimName": "nowhere" } });
    for object in &mut objects {
        if object["kind"] == "Pod" {
            let volumes = object["spec"]["volumes"].as_array_mut().expect("volumes");
            volumes.push(lost.clone());
        }
    }
    objects.extend([claim, marked]);
    let copy = World(Sandbox::from_objects(Config::default(), objects).expect("a cluster"));
    for claim in ["kept", "marked"] {
        copy.create(PODS, mk_user(claim, claim)).await;
        copy.check(claim, "Running", "").await;
    }
    let phase = copy.get(&format!("{CLAIMS}/kept")).await["status"]["phase"].clone();
    assert_eq!(phase, "Bound");
    // A pod that runs is left alone, whatever happens around it.
    let mut pod = copy.get(&format!("{PODS}/running")).await;
    pod["metadata"]["labels"] = json!({ "touched": "yes" });
    copy.put(&format!("{PODS}/running"), pod).await;
    copy.check("running", "Running", "").await;
}

#[tokio::test]
async fn pods_that_nobody_starts_again_end() {
    let world = World::new(&["a"]);
    for (policy, phase) in [
        ("Never", "Succeeded"),
        ("OnFailure", "Succeeded"),
        ("Always", "Running"),
    ] {
        let name = policy.to_lowercase();
        world
            .create(PODS, mk_pod(&name, json!({ "restartPolicy": policy })))
            .await;
        world.check(&name, phase, "").await;
    }
    let pod = world.get(&format!("{PODS}/never")).await;
    let exit_code = pod.pointer("/status/containerStatuses/0/state/terminated/exitCode");
    assert_eq!(exit_code, Some(&json!(0)));
}

#[tokio::test]
async fn the_scheduler_counts_requests_and_says_what_is_against_each_node() {
    let world = World::new(&["a", "b"]);
    world.create(PODS, mk_request("huge", "17", "65Gi")).await;
    let why = "0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient memory.";
    world.check("huge", "Pending", why).await;
    // Three of 8 cores fill one node of 16 and half of the other.
    for name in ["one", "two", "three"] {
        world.create(PODS, mk_request(name, "8", "1Gi")).await;
        world.check(name, "Running", "").await;
    }
    world.create(PODS, mk_request("late", "16", "1Gi")).await;
    world
        .check("late", "Pending", "0/2 nodes are available: 2 Insufficient cpu.")
        .await;
    let node = world.get(&format!("{PODS}/two")).await["spec"]["nodeName"].clone();
    world.delete(&format!("{PODS}/two")).await;
    world.check("late", "Running", "").await;
    assert_eq!(world.get(&format!("{PODS}/late")).await["spec"]["nodeName"], node);

    let world = World::new(&["a", "b", "c", "d"]);
    let change = async |name: &str, change: Value| {
        let mut node = world.get(&format!("{NODES}/{name}")).await;
        let spec = node["spec"].as_object_mut().expect("a spec");
        spec.extend(change.as_object().expect("fields").clone());
        world.put(&format!("{NODES}/{name}"), node).await;
    };
    change(
        "a",
        json!({ "taints": [{ "key": "mine", "value": "yes", "effect": "NoSchedule" }] }),
    )
    .await;
    change("b", json!({ "unschedulable": true })).await;
    let mut node = world.get(&format!("{NODES}/d")).await;
    node["metadata"]["labels"]["disk"] = "ssd".into();
    world.put(&format!("{NODES}/d"), node).await;
    let mut pod = mk_request("none", "20", "1Gi");
    pod["spec"]["nodeSelector"] = json!({ "disk": "ssd" });
    world.create(PODS, pod).await;
    let why = "0/4 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity, 1 node(s) had \
               taint {mine: yes}, that the pod didn't tolerate, 1 node(s) were unschedulable.";
    world.check("none", "Pending", why).await;
    // A node that says nothing of its size takes everything.
    let node = json!({
        "metadata": { "name": "e", "labels": { "disk": "ssd" } },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    world.create(NODES, node).await;
    world.check("none", "Running", "").await;
}

#[tokio::test]
async fn kubelets_miss_config_maps_and_secrets() {
    let world = World::new(&["a"]);
    let volumes = json!([
        { "name": "x", "configMap": { "name": "missing" } },
        { "name": "y", "secret": { "secretName": "none", "optional": true } },
        { "name": "z", "projected": { "sources": [
            { "serviceAccountToken": { "path": "token" } },
            { "configMap": { "name": "kube-root-ca.crt" } },
            { "downwardAPI": { "items": [{ "path": "n", "fieldRef": { "fieldPath": "metadata.name" } }] } },
        ] } },
    ]);
    world
        .create(PODS, mk_pod("mounts", json!({ "volumes": volumes })))
        .await;
    world.check("mounts", "Pending", "ContainerCreating").await;
    let why = "MountVolume.SetUp failed for volume \"x\" : configmap \"missing\" not found";
    assert_eq!(world.told("FailedMount").await, [(why.to_owned(), 1)]);
    let env = json!({
        "envFrom": [{ "secretRef": { "name": "gone" } }, { "configMapRef": { "name": "none", "optional": true } }],
        "env": [
            { "name": "A", "valueFrom": { "configMapKeyRef": { "name": "missing", "key": "a" } } },
            { "name": "B", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
        ],
    });
    world
        .create(PODS, mk_pod("env", json!({ "container": env })))
        .await;
    world.check("env", "Pending", "CreateContainerConfigError").await;
    let message = async || {
        let pod = world.get(&format!("{PODS}/env")).await;
        pod.pointer("/status/containerStatuses/0/state/waiting/message")
            .cloned()
    };
    assert_eq!(message().await, Some("secret \"gone\" not found".into()));
    let secret = json!({ "metadata": { "name": "gone" } });
    world.create("/api/v1/namespaces/default/secrets", secret).await;
    assert_eq!(message().await, Some("configmap \"missing\" not found".into()));
    let maps = "/api/v1/namespaces/default/configmaps";
    world
        .create(maps, json!({ "metadata": { "name": "missing" } }))
        .await;
    world.check("mounts", "Running", "").await;
    assert_eq!(
        message().await,
        Some("couldn't find key a in ConfigMap default/missing".into())
    );
    let map = json!({ "metadata": { "name": "missing" }, "data": { "a": "b" } });
    world.put(&format!("{maps}/missing"), map).await;
    world.check("env", "Running", "").await;
    let told = world.told("Failed").await;
    assert!(
        told.contains(&("Error: secret \"gone\" not found".to_owned(), 1)),
        "{told:?}"
    );
}

#[tokio::test]
async fn logs_are_those_of_containers_that_have_started() {
    let world = World::new(&["a"]);
    world.0.afflict(Trouble::UnpullableImage {
        image: "bad:*".into(),
    });
    let containers = json!([{ "name": "bad", "image": "bad:1" }, { "name": "good", "image": "web:1" }]);
    world
        .create(PODS, mk_pod("p", json!({ "containers": containers })))
        .await;
    let check = async |query: &str, code: u16, expect: &str| {
        let answer = world.text(&format!("{PODS}/p/log{query}")).await;
        assert_eq!((answer.0, answer.1.as_str()), (code, expect), "{query}");
    };
    check(
        "?container=bad",
        400,
        "container \"bad\" in pod \"p\" is waiting to start: trying and failing to pull image",
    )
    .await;
    check("?container=good", 200, "").await;
    check("?container=none", 400, "container none is not valid for pod p").await;
    check(
        "",
        400,
        "a container name must be specified for pod p, choose one of: [bad good]",
    )
    .await;
    check(
        "?container=good&previous=true",
        400,
        "previous terminated container \"good\" in pod \"p\" not found",
    )
    .await;
    world.0.heal();
    world.0.afflict(Trouble::CrashingPod {
        pod: "default/p".into(),
        exit_code: 1,
    });
    check("?container=good", 200, "").await;
    check("?container=good&previous=true", 200, "").await;
}
