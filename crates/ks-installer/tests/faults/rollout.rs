//! Rollouts that never become ready.

use object::ObjectKey;
use sandbox::{Sandbox, faults::Trouble};
use serde_json::{Value, json};
use upgrade::reasons;

use crate::{
    common::{RUN, Unfinished, WAIT, block_on, check_nothing_to_do, steady, try_upgrade},
    support::{
        self,
        state::{State, system},
    },
};

const CORE: [&str; 3] = ["ks-apiserver", "ks-console", "ks-controller-manager"];

/// How many pods of the release's own Deployments are available, and how many addresses its services have.
fn serving(sandbox: &Sandbox) -> (i64, usize) {
    let state = State::of(sandbox);
    let mut counts = (0, 0);
    for name in CORE {
        let deployment = state.get(&system("apps", "Deployment", name));
        counts.0 += deployment["status"]["availableReplicas"].as_i64().unwrap_or(0);
        let endpoints = state.get(&system("", "Endpoints", name));
        let subsets = endpoints["subsets"].as_array();
        counts.1 += subsets
            .into_iter()
            .flatten()
            .filter_map(|subset| subset["addresses"].as_array().map(Vec::len))
            .sum::<usize>();
    }
    counts
}

fn version(sandbox: &Sandbox) -> Value {
    let state = State::of(sandbox);
    state.get(&upgrade::cluster_configuration_key())["status"]["core"]["version"].clone()
}

/// Upgrades while something does not work, and returns what it stopped with, in words and as a hint.
fn stop(sandbox: &Sandbox) -> (ObjectKey, String, String) {
    let ended = block_on(async {
        let started = tokio::time::Instant::now();
        let ended = try_upgrade(&support::client(sandbox), &steady(), "upgrade").await;
        assert!(started.elapsed() < WAIT * 3, "it waits no longer than told");
        ended
    });
    let Err(Unfinished::Execute(engine::SessionError::Run(error))) = ended else {
        panic!("{ended:?}");
    };
    let object = match &error {
        engine::RunError::WaitForCondition { object, .. }
        | engine::RunError::ConditionFailed { object, .. } => object.clone(),
        _ => panic!("{error:?}"),
    };
    (object, error.to_string(), error.hint().unwrap_or_default())
}

/// The images of the new release cannot be pulled, and then they can.
fn check_without_images(sandbox: &Sandbox, pods: i64, left: i64) {
    let serves = |pods: i64| (pods, usize::try_from(pods).unwrap());
    assert_eq!(serving(sandbox), serves(pods));
    sandbox.afflict(Trouble::UnpullableImage {
        image: "*:v3.3.1".into(),
    });
    let (object, message, hint) = stop(sandbox);
    assert_eq!(object.kind, "Deployment");
    assert!(message.contains(&object.to_string()), "{message}");
    assert!(message.contains(&format!("pod {}-", object.name)), "{message}");
    assert!(message.contains("cannot be pulled"), "{message}");
    assert!(hint.contains("kubectl describe"), "{hint}");
    assert_eq!(serving(sandbox), serves(left));
    assert_eq!(version(sandbox), "v3.2.1");
    RUN.kept
        .check(&State::of(sandbox), "with images that cannot be pulled");

    // The registry is repaired.
    sandbox.heal();
    block_on(async {
        try_upgrade(&support::client(sandbox), &steady(), "upgrade")
            .await
            .unwrap();
        check_nothing_to_do(sandbox, "after the repair").await;
    });
    assert_eq!(serving(sandbox), serves(pods));
    assert_eq!(version(sandbox), "v3.3.1");
}

/// Writes the same to all three of the release's own.
fn patch_core(sandbox: &Sandbox, patch: &Value) {
    block_on(async {
        for name in CORE {
            let key = system("apps", "Deployment", name);
            support::client(sandbox).merge_patch(&key, patch).await.unwrap();
        }
    });
}

fn pauses(sandbox: &Sandbox) -> usize {
    let prepared = block_on(support::prepare(sandbox));
    let findings = prepared.findings().iter();
    findings.filter(|f| f.reason == reasons::SERVICE_PAUSES).count()
}

#[test]
fn an_image_that_cannot_be_pulled_stops_the_run_and_the_old_pods_go_on_serving() {
    let sandbox = RUN.start.fork();
    assert_eq!(pauses(&sandbox), 0);
    check_without_images(&sandbox, 3, 3);
    // The next rollout has less room, but there is none, so nothing is written.
    block_on(cordon(&sandbox, &["worker1", "worker2"]));
    assert_eq!(pauses(&sandbox), 0);
    block_on(check_nothing_to_do(&sandbox, "with fewer nodes"));
}

/// KubeSphere's replicas may not share a node: where there is none to spare, an old pod goes before there is a new one.
#[test]
fn without_a_node_to_spare_one_pod_is_missing_meanwhile() {
    let three = RUN.start.fork();
    patch_core(&three, &json!({"spec": {"replicas": 3}}));
    assert_eq!(pauses(&three), 0, "two of three go on");
    check_without_images(&three, 9, 6);

    let one = RUN.start.fork();
    block_on(cordon(&one, &["worker1", "worker2"]));
    assert_eq!(pauses(&one), 3);
    check_without_images(&one, 3, 0);
}

async fn cordon(sandbox: &Sandbox, nodes: &[&str]) {
    for node in nodes {
        let key = ObjectKey::cluster("", "Node", node);
        let patch = json!({"spec": {"unschedulable": true}});
        support::client(sandbox).merge_patch(&key, &patch).await.unwrap();
    }
}

#[test]
fn pods_that_crash_stop_the_run() {
    let sandbox = RUN.start.fork();
    sandbox.afflict(Trouble::CrashingPod {
        pod: "kubesphere-system/ks-apiserver-*".into(),
        exit_code: 137,
    });
    let (object, message, _) = stop(&sandbox);
    assert_eq!(
        (object.kind.as_str(), object.name.as_str()),
        ("Deployment", "ks-apiserver")
    );
    assert!(
        message.contains("keeps crashing") && message.contains("137"),
        "{message}"
    );
    assert_eq!(version(&sandbox), "v3.2.1");
    sandbox.heal();
    block_on(async {
        try_upgrade(&support::client(&sandbox), &steady(), "upgrade")
            .await
            .unwrap();
    });
    RUN.check_outcome(&sandbox, "after the repair");
}

/// Somebody mounts a volume that is never provided into a part of the platform.
#[test]
fn a_claim_that_is_never_bound_is_named() {
    let sandbox = RUN.start.fork();
    sandbox.afflict(Trouble::UnboundClaim {
        claim: "kubesphere-system/assets".into(),
    });
    let console = system("apps", "Deployment", "ks-console");
    let container =
        State::of(&sandbox).get(&console)["spec"]["template"]["spec"]["containers"][0]["name"].clone();
    block_on(async {
        let cluster = support::client(&sandbox);
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "assets", "namespace": "kubesphere-system"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        cluster.create(&claim).await.unwrap();
        let mount = json!([
            {"op": "add", "path": "/spec/template/spec/volumes/-",
             "value": {"name": "assets", "persistentVolumeClaim": {"claimName": "assets"}}},
            {"op": "add", "path": "/spec/template/spec/containers/0/volumeMounts/-",
             "value": {"name": "assets", "mountPath": "/assets"}},
        ]);
        cluster.json_patch(&console, &mount).await.unwrap();
    });
    let (object, message, _) = stop(&sandbox);
    assert_eq!(object, console, "{message}");
    assert!(
        message.contains("unbound immediate PersistentVolumeClaims"),
        "{message}"
    );
    assert_eq!(version(&sandbox), "v3.2.1");

    sandbox.heal();
    block_on(async {
        try_upgrade(&support::client(&sandbox), &steady(), "upgrade")
            .await
            .unwrap();
        check_nothing_to_do(&sandbox, "after the claim was bound").await;
    });
    let state = State::of(&sandbox);
    let spec = &state.get(&console)["spec"]["template"]["spec"];
    assert_eq!(spec["containers"][0]["name"], container);
    let volumes = spec["volumes"].as_array().unwrap();
    assert!(
        volumes.iter().any(|volume| volume["name"] == "assets"),
        "what somebody mounted stays: {volumes:?}"
    );
    assert_eq!(version(&sandbox), "v3.3.1");
}
