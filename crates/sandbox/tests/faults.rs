//! Faults on demand, seen by a client.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use sandbox::faults::{Fault, Faults, Faulty, Moment, Pick, Refusal, Rule, Trouble, Verb};
use sandbox::{Config, Sandbox, Service};
use serde_json::{Value, json};
use tower::{Layer as _, ServiceExt as _};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Client(Faulty<Service>);

impl Client {
    async fn send(&self, method: Method, uri: &str, body: Value) -> Option<(StatusCode, Value)> {
        let kind = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", kind)
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let answer = self.0.clone().oneshot(request).await.ok()?;
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn create(&self, uri: &str, body: Value) -> Option<u16> {
        Some(self.send(Method::POST, uri, body).await?.0.as_u16())
    }

    async fn get(&self, uri: &str) -> Option<Value> {
        Some(self.send(Method::GET, uri, Value::Null).await?.1)
    }
}

fn mk_client(sandbox: &Sandbox, rules: impl IntoIterator<Item = Rule>) -> (Client, Faults) {
    let faults = Faults::scripted(rules);
    (Client(faults.layer(sandbox.service())), faults)
}

fn map(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "a": "1" } })
}

fn has(sandbox: &Sandbox, name: &str) -> bool {
    sandbox
        .objects()
        .iter()
        .any(|object| object["metadata"]["name"] == name)
}

#[tokio::test]
async fn a_dropped_request_has_no_effect_and_a_lost_answer_does_not_undo_it() {
    let sandbox = Sandbox::new(Config::default());
    let (client, faults) = mk_client(
        &sandbox,
        [Rule::write(1, Fault::Drop), Rule::write(2, Fault::LoseAnswer)],
    );
    assert_eq!(client.create(MAPS, map("a")).await, None);
    assert!(!has(&sandbox, "a"));
    assert_eq!(client.create(MAPS, map("b")).await, None);
    assert!(has(&sandbox, "b"));
    assert_eq!(client.create(MAPS, map("a")).await, Some(201));
    let tally = faults.tally();
    assert_eq!((tally.requests, tally.writes, tally.fired.len()), (3, 3, 2));
    assert_eq!(tally.fired[1].call.name, "b");
}

#[tokio::test]
async fn refusals_are_those_of_a_real_server() {
    let sandbox = Sandbox::new(Config::default());
    let of_a = |fault| {
        let pick = Pick {
            resource: Some("configmaps".into()),
            name: Some("a".into()),
            ..Pick::default()
        };
        Rule::first(pick, fault)
    };
    let refusals = [
        (
            Refusal::TooManyRequests { retry_after: 2 },
            429,
            "TooManyRequests",
        ),
        (Refusal::Internal, 500, ""),
        (Refusal::Unavailable, 503, "ServiceUnavailable"),
        (Refusal::Conflict, 409, "Conflict"),
    ];
    for (refusal, code, reason) in refusals {
        let (client, _) = mk_client(&sandbox, [of_a(Fault::Refuse(refusal))]);
        let (status, body) = client.send(Method::POST, MAPS, map("a")).await.unwrap();
        assert_eq!(
            (status.as_u16(), &body["kind"], &body["code"]),
            (code, &json!("Status"), &json!(code))
        );
        assert_eq!(body["reason"].as_str().unwrap_or_default(), reason);
        assert!(client.create(MAPS, map("other")).await.is_some());
    }
    assert!(!has(&sandbox, "a"));
}

#[tokio::test(start_paused = true)]
async fn delays_take_virtual_time() {
    let sandbox = Sandbox::new(Config::default());
    let late = Fault::Delay(Duration::from_secs(30));
    let (client, _) = mk_client(
        &sandbox,
        [
            Rule::request(1, late),
            Rule::request(2, Fault::DelayAnswer(Duration::from_secs(40))),
        ],
    );
    let started = tokio::time::Instant::now();
    assert_eq!(client.create(MAPS, map("a")).await, Some(201));
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(client.create(MAPS, map("b")).await, Some(201));
    assert_eq!(started.elapsed().as_secs(), 70);
}

#[tokio::test]
async fn a_stopped_client_does_nothing_any_more() {
    for (moment, is_there) in [(Moment::Before, false), (Moment::AfterEffect, true)] {
        let sandbox = Sandbox::new(Config::default());
        let (client, faults) = mk_client(&sandbox, [Rule::write(2, Fault::Stop(moment))]);
        assert_eq!(client.create(MAPS, map("a")).await, Some(201));
        assert!(!faults.is_stopped());
        assert_eq!(client.create(MAPS, map("b")).await, None);
        assert_eq!(has(&sandbox, "b"), is_there);
        assert_eq!(client.create(MAPS, map("c")).await, None);
        assert_eq!(client.get(MAPS).await, None);
        assert!(faults.is_stopped() && !has(&sandbox, "c"));
    }
}

#[tokio::test]
async fn a_watch_is_cut() {
    let sandbox = Sandbox::new(Config::default());
    let watch = Pick {
        verb: Some(Verb::Watch),
        ..Pick::default()
    };
    let (client, _) = mk_client(&sandbox, [Rule::first(watch, Fault::CutWatch { pieces: 1 })]);
    // Without the cut this would go on for ever.
    let seen = client.get(&format!("{MAPS}?watch=1")).await;
    assert!(seen.is_some());
}

fn deployment(image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": {
            "replicas": 4, "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "main", "image": image }] },
            },
        },
    })
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn status(client: &Client) -> Vec<i64> {
    let deployment = client.get(&format!("{DEPLOYMENTS}/web")).await.unwrap();
    ["replicas", "updatedReplicas", "availableReplicas"]
        .map(|field| deployment["status"][field].as_i64().unwrap_or(0))
        .to_vec()
}

async fn roll_to(client: &Client, image: &str) {
    let spec = deployment(image)["spec"].clone();
    let uri = format!("{DEPLOYMENTS}/web");
    let answer = client.send(Method::PATCH, &uri, json!({ "spec": spec })).await;
    assert_eq!(answer.unwrap().0, StatusCode::OK);
}

/// The reasons for which containers wait, and those that events name.
async fn reasons(client: &Client) -> (Vec<String>, Vec<String>) {
    let pods = client.get(PODS).await.unwrap();
    let mut waiting: Vec<String> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|pod| {
            let reason = pod.pointer("/status/containerStatuses/0/state/waiting/reason")?;
            Some(reason.as_str()?.to_owned())
        })
        .collect();
    waiting.dedup();
    let events = client.get("/api/v1/namespaces/default/events").await.unwrap();
    let mut told: Vec<String> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["reason"].as_str().unwrap().to_owned())
        .collect();
    told.sort();
    told.dedup();
    (waiting, told)
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_leaves_the_old_pods_serving() {
    let sandbox = Sandbox::new(Config::default());
    let (client, _) = mk_client(&sandbox, []);
    client.create(DEPLOYMENTS, deployment("web:1")).await;
    assert_eq!(status(&client).await, [4, 4, 4]);
    sandbox.afflict(Trouble::UnpullableImage { image: "*:2".into() });
    assert_eq!(status(&client).await, [4, 4, 4], "what runs goes on");
    roll_to(&client, "web:2").await;
    // A quarter more may be there, a quarter may be missing.
    assert_eq!(status(&client).await, [5, 2, 3]);
    let (waiting, told) = reasons(&client).await;
    assert_eq!(waiting, ["ImagePullBackOff"]);
    assert_eq!(told, ["BackOff", "Failed"]);
    let forked = sandbox.fork();
    sandbox.heal();
    assert_eq!(status(&client).await, [4, 4, 4]);
    assert_eq!(reasons(&client).await.0, Vec::<String>::new());
    let (elsewhere, _) = mk_client(&forked, []);
    assert_eq!(
        status(&elsewhere).await,
        [5, 2, 3],
        "a fork has troubles of its own"
    );
}

#[tokio::test]
async fn a_rollout_that_works_leaves_nothing_of_the_old() {
    let sandbox = Sandbox::new(Config::default());
    let (client, _) = mk_client(&sandbox, []);
    client.create(DEPLOYMENTS, deployment("web:1")).await;
    roll_to(&client, "web:2").await;
    assert_eq!(status(&client).await, [4, 4, 4]);
    let pods = client.get(PODS).await.unwrap();
    let images: Vec<_> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| &pod["spec"]["containers"][0]["image"])
        .collect();
    assert_eq!(images, ["web:2"; 4]);
}

#[tokio::test]
async fn pods_crash_and_recover() {
    let sandbox = Sandbox::new(Config::default());
    let (client, _) = mk_client(&sandbox, []);
    client.create(DEPLOYMENTS, deployment("web:1")).await;
    sandbox.afflict(Trouble::CrashingPod {
        pod: "default/web-*".into(),
        exit_code: 2,
    });
    assert_eq!(status(&client).await, [4, 4, 0]);
    assert_eq!(reasons(&client).await.0, ["CrashLoopBackOff"]);
    let pods = client.get(PODS).await.unwrap();
    let container = &pods["items"][0]["status"]["containerStatuses"][0];
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 2);
    assert!(container["restartCount"].as_i64() > Some(0));
    sandbox.heal();
    assert_eq!(status(&client).await, [4, 4, 4]);
}

#[tokio::test]
async fn a_claim_is_never_bound_and_its_pod_waits() {
    let sandbox = Sandbox::new(Config::default());
    let (client, _) = mk_client(&sandbox, []);
    let class = json!({ "metadata": { "name": "local" }, "provisioner": "sandbox/local" });
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    assert_eq!(client.create(classes, class).await, Some(201));
    sandbox.afflict(Trouble::UnboundClaim {
        claim: "default/data".into(),
    });
    let claim = json!({ "metadata": { "name": "data" }, "spec": {
        "storageClassName": "local", "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": "1Gi" } },
    } });
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    assert_eq!(client.create(claims, claim).await, Some(201));
    let pod = json!({ "metadata": { "name": "p" }, "spec": {
        "containers": [{ "name": "main", "image": "web:1" }],
        "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }],
    } });
    assert_eq!(client.create(PODS, pod).await, Some(201));
    let phases = async || {
        let claim = client.get(&format!("{claims}/data")).await.unwrap();
        let pod = client.get(&format!("{PODS}/p")).await.unwrap();
        [claim["status"]["phase"].clone(), pod["status"]["phase"].clone()]
    };
    assert_eq!(phases().await, ["Pending", "Pending"]);
    sandbox.heal();
    assert_eq!(phases().await, ["Bound", "Running"]);
}

#[tokio::test]
async fn a_dead_service_refuses_what_its_webhook_would_see() {
    let sandbox = Sandbox::new(Config::default());
    let (client, _) = mk_client(&sandbox, []);
    client.create(DEPLOYMENTS, deployment("web:1")).await;
    let service = json!({ "metadata": { "name": "web" }, "spec": {
        "selector": { "app": "web" }, "ports": [{ "port": 443 }],
    } });
    client
        .create("/api/v1/namespaces/default/services", service)
        .await;
    let webhook = json!({ "metadata": { "name": "hook" }, "webhooks": [{
        "name": "hook.example.org", "failurePolicy": "Fail", "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "clientConfig": { "service": { "namespace": "default", "name": "web" } },
        "rules": [{ "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"] }],
    }] });
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    assert_eq!(client.create(hooks, webhook).await, Some(201));
    assert_eq!(client.create(MAPS, map("a")).await, Some(201));
    sandbox.afflict(Trouble::DeadService {
        service: "default/web".into(),
    });
    assert_eq!(client.create(MAPS, map("b")).await, Some(500));
    sandbox.heal();
    assert_eq!(client.create(MAPS, map("b")).await, Some(201));
}
