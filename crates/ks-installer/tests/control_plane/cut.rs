//! The upgrade on a real API server, cut short: killed, without new pods, without the API server. Whatever happens,
//! running it again finishes it, and rolling back returns to where it was.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::Client;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sandbox::{Config, Sandbox, ServeOptions};
use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options};

use crate::common::{CALLER, Caller, Key, UPGRADE, authority, dump, scale, state, writes_of};
use crate::compare::differences;

const SETTLES: Duration = Duration::from_mins(2);
const ROLLBACK: &[&str] = &["rollback", "--yes", "-o", "json"];

/// A real cluster of v3.2.1 with a running old installer, and what was there at the start.
struct Real {
    control_plane: ControlPlane,
    client: Client,
    caller: Caller,
    start: BTreeMap<Key, Value>,
}

impl Real {
    async fn start_or_skip(test: &str, options: Options) -> Option<Self> {
        let options = Options {
            objects: dump(),
            ..options
        };
        let mut control_plane = ControlPlane::start_or_skip(test, options).await?;
        control_plane.wait_until_settled(SETTLES).await.unwrap();
        let client = control_plane.client().await.unwrap();
        scale(&client, "ks-installer", 1).await;
        control_plane.wait_until_settled(SETTLES).await.unwrap();
        let start = state(&client).await;
        Some(Self {
            caller: Caller::acting_as(&control_plane, CALLER, &["system:masters"]),
            client,
            control_plane,
            start,
        })
    }

    async fn now(&mut self) -> BTreeMap<Key, Value> {
        self.control_plane.wait_until_settled(SETTLES).await.unwrap();
        state(&self.client).await
    }

    /// What the cluster remembers of the last run, for people who look into a failed test.
    async fn where_it_stopped(&self) -> String {
        let status = self.caller.run(&["status", "-o", "json"]).await.json();
        let run = &status["lastRun"];
        let stage = run["stages"].as_array().and_then(|stages| stages.last());
        format!(
            "{} in stage {}",
            run["kind"],
            stage.map_or(&Value::Null, |stage| &stage["name"])
        )
    }

    async fn check_is_as_at_the_start(&mut self, at: &str) {
        let now = outcome(self.now().await);
        let differences = differences(outcome(self.start.clone()), now, "");
        assert!(
            differences.is_empty(),
            "{at}: what was (in truth) is not what is:\n{differences}"
        );
    }
}

/// What different ways to the same have in common. Which fields belong to whom, how often an object was written, and the
/// revisions and times in Helm's records depend on the way; the journal and the claim tell of it.
fn outcome(state: BTreeMap<Key, Value>) -> BTreeMap<Key, Value> {
    let is_of_the_way = |(_, kind, namespace, name): &Key| {
        namespace == "kubesphere-system"
            && (kind == "ConfigMap" && name == "ks-installer-journal"
                || kind == "Secret" && name.starts_with("sh.helm.release.v1.ks-core."))
    };
    let mut outcome: BTreeMap<Key, Value> = state;
    outcome.retain(|key, _| !is_of_the_way(key));
    for object in outcome.values_mut() {
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("managedFields");
        metadata.remove("generation");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("deployment.kubernetes.io/revision");
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
        if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
            status.remove("observedGeneration");
        }
    }
    outcome
}

/// The end of the same upgrade in the sandbox, where nothing cut it.
async fn expected() -> BTreeMap<Key, Value> {
    let sandbox = Sandbox::from_objects(Config::default(), dump()).unwrap();
    let server = sandbox.serve(ServeOptions::default()).await.unwrap();
    let client = Client::new(sandbox.service(), "default");
    scale(&client, "ks-installer", 1).await;
    Caller::new(&server.kubeconfig()).upgrade().await;
    outcome(state(&client).await)
}

/// SIGKILL at 20 random moments of upgrades, and some more of rollbacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_upgrade_that_is_killed_goes_on_and_goes_back() {
    const KILLS: usize = 20;
    const IN_A_ROW: usize = 5;
    let Some(mut real) = Real::start_or_skip("upgrades that are killed", Options::default()).await else {
        return;
    };
    let expected = expected().await;
    let seed = std::env::var("KS_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("KS_SEED={seed} kills at about the same moments again");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut kills, mut round) = (0, 0);
    while kills < KILLS {
        round += 1;
        let at = format!("round {round}, KS_SEED={seed}");
        for _ in 0..IN_A_ROW {
            let seconds = random.random_range(0.0..2.5);
            if real.caller.run_and_kill(UPGRADE, seconds).await {
                kills += 1;
                let place = real.where_it_stopped().await;
                eprintln!("round {round}: killed after {seconds:.2} s, {place}");
            }
        }
        real.caller.upgrade().await;
        let now = outcome(real.now().await);
        let found = differences(now, expected.clone(), &authority(&real.control_plane));
        assert!(found.is_empty(), "{at}: it did not come to the same:\n{found}");
        real.caller.upgrade_writes_nothing().await;

        real.caller
            .run_and_kill(ROLLBACK, random.random_range(0.0..2.5))
            .await;
        let back = real.caller.run(ROLLBACK).await.expect(0).json();
        assert_eq!(back["rolledBack"], true, "{at}: {back:#}");
        real.check_is_as_at_the_start(&at).await;
        assert!(round < KILLS, "{at}: only {kills} kills hit a run");
    }
}

/// The new ks-apiserver cannot be pulled: the run stops and names the pod and the reason, and the way back works, whether
/// somebody asks for it afterwards or it was asked for beforehand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_rollout_that_never_becomes_ready_is_taken_back() {
    let options = Options {
        unpullable_images: vec!["ks-apiserver:v3.3.1".to_owned()],
        ..Options::default()
    };
    let Some(mut real) = Real::start_or_skip("a rollout that never becomes ready", options).await else {
        return;
    };
    let short = |arguments: &[&'static str]| [arguments, &["--wait", "10"]].concat();
    let stopped = real.caller.run(&short(UPGRADE)).await.expect(2);
    stopped.expect_one_error("Deployment kubesphere-system/ks-apiserver");
    for words in [
        "pod ks-apiserver-",
        "cannot be pulled",
        "ks-installer rollback --to ",
    ] {
        assert!(
            stopped.stderr.contains(words),
            "{words:?} is not in: {}",
            stopped.stderr
        );
    }
    let status = real.caller.run(&["status", "-o", "json"]).await.json();
    assert_eq!(status["version"], "v3.2.1", "{status:#}");
    assert_eq!(status["lastRun"]["outcome"], "failed", "{status:#}");

    let back = real.caller.run(ROLLBACK).await.expect(0).json();
    assert_eq!(back["rolledBack"], true, "{back:#}");
    real.check_is_as_at_the_start("asked for afterwards").await;

    let arguments = [&short(UPGRADE)[..], &["--rollback-on-failure"]].concat();
    let taken_back = real.caller.run(&arguments).await.expect(1).json();
    assert_eq!(
        (&taken_back["upgraded"], &taken_back["rolledBack"]),
        (&json!(false), &json!(true)),
        "{taken_back:#}"
    );
    real.check_is_as_at_the_start("asked for beforehand").await;
}

/// The API server is away for some seconds in the middle of the writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_upgrade_outlives_a_restart_of_the_api_server() {
    const WRITES: usize = 40;
    let options = Options {
        audit: true,
        ..Options::default()
    };
    let Some(mut real) = Real::start_or_skip("a restart of the API server", options).await else {
        return;
    };
    let child = real.caller.start(UPGRADE);
    while writes_of(&real.control_plane, CALLER).len() < WRITES {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (restarted, ran) = tokio::join!(
        real.control_plane.restart_api_server(Duration::from_secs(2)),
        child.wait_with_output()
    );
    restarted.unwrap();
    let ran = ran.unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert_eq!(ran.status.code(), Some(0), "\nstdout: {stdout}\nstderr: {stderr}");
    let now = outcome(real.now().await);
    let found = differences(now, expected().await, &authority(&real.control_plane));
    assert!(found.is_empty(), "it did not come to the same:\n{found}");
    real.caller.upgrade_writes_nothing().await;
}
