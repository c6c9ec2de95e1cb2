//! What time brings: pods that take a while to start, schedules, budgets that fill up.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

use common::send;

#[allow(dead_code, reason = "shared with tests that look at headers")]
mod common;

/// A sandbox and the hand that moves its clock.
struct World {
    sandbox: Sandbox,
    seconds: Arc<AtomicI64>,
}

impl World {
    fn new(pod_start: Duration) -> World {
        // A quarter past midnight.
        let seconds = Arc::new(AtomicI64::new(1_700_006_400 + 900));
        let hand = Arc::clone(&seconds);
        let config = Config {
            clock: Arc::new(move || {
                jiff::Timestamp::from_second(hand.load(Ordering::Relaxed)).expect("a time")
            }),
            pod_start,
            ..Config::default()
        };
        World {
            sandbox: Sandbox::new(config),
            seconds,
        }
    }

    fn pass(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
        self.sandbox.tick();
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let answer = send(&self.sandbox, method, path, "*/*", body).await;
        (answer.code, answer.json())
    }

    async fn get(&self, path: &str) -> Value {
        let (code, body) = self.send("GET", path, Value::Null).await;
        assert_eq!(code, 200, "{body}");
        body
    }

    async fn create(&self, path: &str, object: Value) {
        let (code, body) = self.send("POST", path, object).await;
        assert_eq!(code, 201, "{body}");
    }
}

fn pods() -> Value {
    json!({ "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "web", "image": "web:1" }] } })
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

async fn deploy(world: &World) {
    let spec = json!({ "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": pods() });
    world
        .create(
            DEPLOYMENTS,
            json!({ "metadata": { "name": "web" }, "spec": spec }),
        )
        .await;
}

#[tokio::test]
async fn pods_take_their_time_to_start() {
    let world = World::new(Duration::from_secs(5));
    deploy(&world).await;
    let listed = world.get("/api/v1/namespaces/default/pods").await;
    for pod in listed["items"].as_array().expect("pods") {
        assert_eq!(pod["status"]["phase"], "Pending");
        let state = &pod["status"]["containerStatuses"][0]["state"];
        assert_eq!(state["waiting"]["reason"], "ContainerCreating");
    }
    world.pass(4);
    let status = world.get(&format!("{DEPLOYMENTS}/web")).await["status"].take();
    assert_eq!(status["unavailableReplicas"], 2, "{status}");
    world.pass(1);
    let status = world.get(&format!("{DEPLOYMENTS}/web")).await["status"].take();
    assert_eq!(status["availableReplicas"], 2, "{status}");
}

#[tokio::test]
async fn schedules_make_jobs() {
    let world = World::new(Duration::from_secs(30));
    let schedule = json!({
        "metadata": { "name": "clean" },
        "spec": { "schedule": "*/10 * * * *", "concurrencyPolicy": "Forbid", "successfulJobsHistoryLimit": 2,
            "jobTemplate": { "metadata": { "labels": { "kept": "yes" } }, "spec": { "template": { "spec": {
                "restartPolicy": "Never", "containers": [{ "name": "clean", "image": "clean:1" }] } } } } },
    });
    let path = "/apis/batch/v1beta1/namespaces/default/cronjobs";
    world.create(path, schedule).await;
    world.pass(299);
    assert_eq!(world.get(JOBS).await["items"], json!([]));
    world.pass(1);
    let jobs = world.get(JOBS).await["items"].take();
    assert_eq!(jobs[0]["metadata"]["labels"]["kept"], "yes", "{jobs}");
    let status = world.get(&format!("{path}/clean")).await["status"].take();
    assert_eq!(status["lastScheduleTime"], "2023-11-15T00:20:00Z", "{status}");
    assert_eq!(
        status["active"][0]["name"], jobs[0]["metadata"]["name"],
        "{status}"
    );
    // It ends when its pod has had its time; then it runs no more.
    world.pass(30);
    let status = world.get(&format!("{path}/clean")).await["status"].take();
    assert_eq!(status.get("active"), None, "{status}");
    for _ in 0..3 {
        world.pass(600);
        world.pass(60);
    }
    let kept = world.get(JOBS).await["items"].as_array().map(Vec::len);
    assert_eq!(kept, Some(2));
    // What is suspended waits.
    let (code, _) = world
        .send("PUT", &format!("{path}/clean"), {
            let mut schedule = world.get(&format!("{path}/clean")).await;
            schedule["spec"]["suspend"] = true.into();
            schedule
        })
        .await;
    assert_eq!(code, 200);
    let before = world.get(&format!("{path}/clean")).await["status"].take();
    world.pass(3600);
    let after = world.get(&format!("{path}/clean")).await["status"].take();
    assert_eq!(before, after);
}

#[tokio::test]
async fn no_more_pods_are_evicted_than_a_budget_allows() {
    let world = World::new(Duration::ZERO);
    let budgets = "/apis/policy/v1beta1/namespaces/default/poddisruptionbudgets";
    let spec = json!({ "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } });
    world
        .create(budgets, json!({ "metadata": { "name": "web" }, "spec": spec }))
        .await;
    deploy(&world).await;
    let status = world.get(&format!("{budgets}/web")).await["status"].take();
    for (field, expect) in [
        ("currentHealthy", 2),
        ("desiredHealthy", 1),
        ("disruptionsAllowed", 1),
        ("expectedPods", 2),
        ("observedGeneration", 1),
    ] {
        assert_eq!(status[field], expect, "{field}: {status}");
    }
    let (code, _) = world
        .send(
            "PATCH",
            &format!("{DEPLOYMENTS}/web/scale"),
            json!({ "spec": { "replicas": 1 } }),
        )
        .await;
    assert_eq!(code, 415, "a patch says of what kind it is");
    let mut scale = world.get(&format!("{DEPLOYMENTS}/web/scale")).await;
    scale["spec"]["replicas"] = 1.into();
    let (code, _) = world
        .send("PUT", &format!("{DEPLOYMENTS}/web/scale"), scale)
        .await;
    assert_eq!(code, 200);
    let pods = world.get("/api/v1/namespaces/default/pods").await;
    let name = pods["items"][0]["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let eviction =
        json!({ "apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": { "name": name } });
    let path = format!("/api/v1/namespaces/default/pods/{name}/eviction");
    let (code, body) = world.send("POST", &path, eviction).await;
    assert_eq!(code, 429, "{body}");
    assert_eq!(
        body["details"]["causes"][0]["message"],
        "The disruption budget web needs 1 healthy pods and has 1 currently"
    );
}
