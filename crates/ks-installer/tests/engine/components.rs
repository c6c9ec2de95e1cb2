//! Every component that can be switched: enabled, upgraded, disabled, enabled again.

use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use object::ObjectKey;
use release::{Component, Release, Releases};
use sandbox::{Sandbox, faults::Trouble};
use serde_json::{Value, json};
use upgrade::{Options, Severity};

use crate::support::{
    self,
    state::{State, configuration},
};

static RELEASES: LazyLock<Releases> = LazyLock::new(|| Releases::embedded().unwrap());

pub(crate) fn release() -> &'static Release {
    RELEASES.latest().unwrap()
}

/// Sets what switches a component, as people do it with kubectl.
pub(crate) fn switch(sandbox: &Sandbox, component: &Component, is_on: bool) {
    let switch = component.switch.as_ref().unwrap();
    let value = if is_on { &switch.on } else { &switch.off };
    // What some need besides to be asked for.
    let others: &[&str] = match component.name.as_str() {
        "redis-ha" => &["common.redis.enableHA"],
        "logsidecar-injector" => &["logging.enabled"],
        _ => &[],
    };
    for path in switch
        .paths
        .iter()
        .map(String::as_str)
        .chain(others.iter().copied())
    {
        let spec = path
            .rsplit('.')
            .fold(value.clone(), |value, name| json!({ (name): value }));
        support::edit(sandbox, &configuration(), &json!({ "spec": spec }));
    }
}

/// What some components want of the cluster before they are enabled.
fn prepare(sandbox: &Sandbox) {
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ippools.crd.projectcalico.org"},
        "spec": {"group": "crd.projectcalico.org", "scope": "Cluster",
            "names": {"kind": "IPPool", "plural": "ippools", "singular": "ippool", "listKind": "IPPoolList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    support::block_on(async { support::client(sandbox).create(&definition).await }).unwrap();
    let spec = json!({"spec": {"etcd": {"endpointIps": "10.0.0.1"}}});
    support::edit(sandbox, &configuration(), &spec);
    support::block_on(support::upgrade(sandbox));
}

pub(crate) static PREPARED: LazyLock<Sandbox> = LazyLock::new(|| {
    let sandbox = support::upgraded();
    std::thread::scope(|scope| scope.spawn(|| prepare(&sandbox)).join().unwrap());
    sandbox
});

/// Whether an object may stay when a component goes.
pub(crate) fn is_left(key: &ObjectKey, object: &Value, state: &State) -> bool {
    // Kubernetes' own, in namespaces in which something stays.
    let is_kubernetes_own = object["type"] == "kubernetes.io/service-account-token"
        || ["kube-root-ca.crt", "default"].contains(&key.name.as_str());
    // Another revision of what is there always.
    let is_record = key.name.starts_with("sh.helm.release.v1.ks-core.");
    let group = match key.kind.as_str() {
        "CustomResourceDefinition" | "APIService" => object["spec"]["group"].as_str(),
        _ => None,
    };
    // A definition of which there is data.
    let is_in_use = group.is_some_and(|group| {
        let kind = &object["spec"]["names"]["kind"];
        state
            .0
            .keys()
            .any(|key| key.group == group && (kind.is_null() || *kind == key.kind))
    });
    is_kubernetes_own
        || is_record
        || is_in_use
        || release()
            .components
            .iter()
            .any(|component| is_data(component, key, object))
}

fn is_data(component: &Component, key: &ObjectKey, object: &Value) -> bool {
    let declared = component
        .data
        .iter()
        .any(|data| data.name.is_some() && data.is(key));
    let generated = release()
        .components
        .iter()
        .flat_map(|component| &component.secrets)
        .any(|secret| secret.key() == *key);
    let is_volume = ["PersistentVolumeClaim", "PersistentVolume"].contains(&key.kind.as_str());
    // A namespace in which something stays.
    let is_place = key.kind == "Namespace" && object["metadata"]["deletionTimestamp"].is_null();
    declared || generated || is_volume || is_place
}

/// Whether a key is that of a Helm record of which there was an earlier one: an edit that all follow makes a revision of each.
fn is_further_record(key: &ObjectKey, before: &State) -> bool {
    let release = |key: &ObjectKey| {
        let name = key.name.strip_prefix("sh.helm.release.v1.")?;
        Some((key.namespace.clone(), name.rsplit_once(".v")?.0.to_owned()))
    };
    release(key).is_some_and(|of| before.0.keys().any(|key| release(key).as_ref() == Some(&of)))
}

/// On where the tests begin.
const ON_ALREADY: [&str; 2] = ["monitoring", "notification-manager"];

/// The images of an object's containers.
fn images(object: &Value) -> Vec<&str> {
    ["containers", "initContainers"]
        .iter()
        .filter_map(|list| object["spec"]["template"]["spec"][list].as_array())
        .flatten()
        .filter_map(|container| container["image"].as_str())
        .collect()
}

/// A setting that every component follows is edited, and taken back.
fn check_edit(sandbox: &Sandbox, before: &State, enabled: &State) {
    const REGISTRY: &str = "registry.example:5000/";
    let set = |registry: &str| {
        let edit = json!({"spec": {"local_registry": registry.trim_end_matches('/')}});
        support::edit(sandbox, &configuration(), &edit);
        support::block_on(async {
            support::upgrade(sandbox).await;
            support::check_nothing_to_do(sandbox).await;
        });
        State::of(sandbox).comparable()
    };
    let made = || enabled.0.iter().filter(|(key, _)| before.find(key).is_none());
    let edited = set(REGISTRY);
    for (key, object) in made().filter(|(_, object)| !images(object).is_empty()) {
        // Jobs are made anew, by another name.
        let Some(now) = edited.find(key) else { continue };
        let all = images(now);
        assert!(
            all.iter().all(|image| image.starts_with(REGISTRY)),
            "{key}: {all:?}"
        );
        assert_ne!(images(object), all, "{key}");
    }
    let back = set("");
    let other: Vec<&ObjectKey> = made()
        .filter(|(key, object)| back.find(key).is_some_and(|now| images(now) != images(object)))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(other, Vec::<&ObjectKey>::new());
}

fn check_cycle(component: &Component) {
    let name = &component.name;
    let sandbox = PREPARED.fork();
    if ON_ALREADY.contains(&name.as_str()) {
        switch(&sandbox, component, false);
        support::block_on(support::upgrade(&sandbox));
    }
    let before = State::of(&sandbox).comparable();

    switch(&sandbox, component, true);
    let plan = support::block_on(support::prepare(&sandbox))
        .decision
        .plan
        .unwrap();
    assert!(
        plan.stages
            .iter()
            .any(|stage| stage.component.as_ref() == Some(name)),
        "{name} has no stages"
    );
    support::block_on(async {
        support::upgrade(&sandbox).await;
        support::check_nothing_to_do(&sandbox).await;
    });
    let enabled = State::of(&sandbox).comparable();

    check_edit(&sandbox, &before, &enabled);

    switch(&sandbox, component, false);
    support::block_on(async {
        support::upgrade(&sandbox).await;
        support::check_nothing_to_do(&sandbox).await;
    });
    let disabled = State::of(&sandbox).comparable();
    let made: Vec<&ObjectKey> = enabled
        .0
        .keys()
        .filter(|key| before.find(key).is_none())
        .collect();
    assert!(
        !made.is_empty() || ["networkpolicy", "ippool"].contains(&name.as_str()),
        "{name} makes nothing"
    );
    let mut left: Vec<String> = Vec::new();
    for (key, object) in disabled.0.iter().filter(|(key, _)| before.find(key).is_none()) {
        if !is_left(key, object, &disabled) && !is_further_record(key, &before) {
            left.push(key.to_string());
        }
    }
    assert_eq!(left, Vec::<String>::new(), "{name} leaves");
    // Data that it brings itself.
    let is_named = |key: &&ObjectKey| {
        component
            .data
            .iter()
            .any(|data| data.name.is_some() && data.is(key))
    };
    let lost: Vec<_> = enabled
        .0
        .keys()
        .filter(is_named)
        .filter(|key| disabled.find(key).is_none())
        .collect();
    assert_eq!(lost, Vec::<&ObjectKey>::new(), "{name} loses data");
    let gone: Vec<_> = before
        .0
        .keys()
        .filter(|key| disabled.find(key).is_none())
        .collect();
    assert_eq!(gone, Vec::<&ObjectKey>::new(), "{name} takes along");

    switch(&sandbox, component, true);
    support::block_on(async {
        support::upgrade(&sandbox).await;
        support::check_nothing_to_do(&sandbox).await;
    });
    let again = State::of(&sandbox).comparable();
    let is_token = |key: &ObjectKey| key.is_secret() && key.name.contains("-token-");
    let is_record = |key: &ObjectKey| key.name.starts_with("sh.helm.release.v1.");
    let missing: Vec<_> = enabled
        .0
        .keys()
        .filter(|key| again.find(key).is_none() && !is_token(key) && !is_record(key))
        .collect();
    assert_eq!(missing, Vec::<&ObjectKey>::new(), "{name} enabled again");
}

#[test]
fn every_component_can_be_enabled_disabled_and_enabled_again() {
    let components: Vec<&Component> = release()
        .components
        .iter()
        .filter(|component| component.switch.is_some())
        .collect();
    assert!(components.len() >= 17, "{}", components.len());
    LazyLock::force(&PREPARED);
    let next = AtomicUsize::new(0);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            while let Some(component) = components.get(next.fetch_add(1, Ordering::Relaxed)) {
                if std::panic::catch_unwind(|| check_cycle(component)).is_err() {
                    failed.push(component.name.clone());
                }
            }
            failed
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(failed, Vec::<String>::new());
}

#[test]
fn what_another_component_needs_stays_and_says_so() {
    let sandbox = PREPARED.fork();
    let find = |name: &str| release().component(name).unwrap();
    switch(&sandbox, find("alerting"), true);
    support::block_on(support::upgrade(&sandbox));
    switch(&sandbox, find("monitoring"), false);
    let prepared = support::block_on(support::prepare(&sandbox));
    let in_use: Vec<_> = prepared
        .findings()
        .iter()
        .filter(|finding| finding.reason == upgrade::reasons::COMPONENT_IN_USE)
        .collect();
    assert_eq!(in_use.len(), 1, "{:#?}", prepared.findings());
    assert!(in_use[0].message.contains("alerting"), "{}", in_use[0].message);
    let plan = prepared.decision.plan.unwrap();
    let stages = plan
        .stages
        .iter()
        .filter(|stage| stage.component.as_deref() == Some("monitoring"));
    assert_eq!(stages.count(), 0);
}

/// Controllers clear finalizers of custom resources, webhooks judge writes until their servers are gone.
#[test]
fn a_component_goes_in_the_order_in_which_its_parts_need_each_other() {
    let sandbox = PREPARED.fork();
    let component = release().component("multicluster").unwrap();
    switch(&sandbox, component, true);
    support::block_on(support::upgrade(&sandbox));
    switch(&sandbox, component, false);
    let plan = support::block_on(support::prepare(&sandbox))
        .decision
        .plan
        .unwrap();
    let stages: Vec<&str> = plan
        .stages
        .iter()
        .filter(|stage| stage.component.as_deref() == Some("multicluster"))
        .map(|stage| stage.name.split_once('/').unwrap().1)
        .collect();
    let place = |kind: &str| {
        let is_of = |stage: &&upgrade::Stage| {
            stage.component.as_deref() == Some("multicluster")
                && stage.steps.iter().any(|step| step.object.kind == kind)
        };
        let name = &plan
            .stages
            .iter()
            .find(is_of)
            .unwrap_or_else(|| panic!("{kind}: {stages:?}"))
            .name;
        stages.iter().position(|stage| name.ends_with(stage)).unwrap()
    };
    let order = [
        "FederatedTypeConfig",
        "ValidatingWebhookConfiguration",
        "Deployment",
        "ClusterRole",
        "CustomResourceDefinition",
        "ClusterConfiguration",
    ];
    for pair in order.windows(2) {
        assert!(place(pair[0]) < place(pair[1]), "{pair:?}: {stages:?}");
    }
}

#[test]
fn a_failing_component_stops_no_other() {
    let sandbox = PREPARED.fork();
    for name in ["topology", "gatekeeper"] {
        switch(&sandbox, release().component(name).unwrap(), true);
    }
    // Gatekeeper's workloads never become ready: its image cannot be pulled.
    let patch = json!({"spec": {"gatekeeper_tag": "missing"}});
    support::edit(&sandbox, &configuration(), &patch);
    sandbox.afflict(Trouble::UnpullableImage {
        image: "openpolicyagent/gatekeeper:missing".into(),
    });
    let error = support::block_on(async {
        let cluster = support::client(&sandbox);
        let mut session = support::session(&cluster, Options::default());
        session.run.wait = std::time::Duration::from_millis(500);
        let prepared = engine::prepare(&session).await.unwrap();
        assert!(
            prepared
                .findings()
                .iter()
                .all(|f| f.severity != Severity::Blocker)
        );
        session.execute(prepared, &|_| {}).await.unwrap_err()
    });
    let text = error.to_string();
    assert!(
        text.contains("component gatekeeper: ") && text.contains("openpolicyagent/gatekeeper:missing"),
        "{text}"
    );
    let state = State::of(&sandbox);
    let status = &state.get(&configuration())["status"];
    assert_eq!(status["network"]["topology"]["status"], "enabled");
    assert_ne!(status["gatekeeper"]["status"], "enabled");

    // Mended, it goes on from there.
    support::edit(
        &sandbox,
        &configuration(),
        &json!({"spec": {"gatekeeper_tag": null}}),
    );
    support::block_on(support::upgrade(&sandbox));
    let state = State::of(&sandbox);
    assert_eq!(
        state.get(&configuration())["status"]["gatekeeper"]["status"],
        "enabled"
    );
}

#[test]
fn what_an_earlier_installer_left_running_goes_only_when_asked_for() {
    let sandbox = PREPARED.fork();
    let topology = release().component("topology").unwrap();
    switch(&sandbox, topology, true);
    support::block_on(support::upgrade(&sandbox));
    switch(&sandbox, topology, false);
    // As the original installer leaves it: no version.
    support::edit(
        &sandbox,
        &configuration(),
        &json!({"status": {"network": {"topology": {"version": null}}}}),
    );
    let prepared = support::block_on(support::prepare(&sandbox));
    let plan = prepared.decision.plan.as_ref().unwrap();
    assert!(
        plan.steps()
            .all(|step| !matches!(step.action, upgrade::Action::Delete { .. }))
    );
    let runs = prepared
        .findings()
        .iter()
        .find(|f| f.reason == upgrade::reasons::COMPONENT_STILL_RUNS)
        .unwrap();
    assert!(
        runs.hint
            .as_ref()
            .unwrap()
            .contains("ks-installer disable topology")
    );
}

#[test]
fn a_setting_that_is_taken_back_is_taken_back_in_the_cluster() {
    let sandbox = PREPARED.fork();
    let key = ObjectKey::namespaced(
        "monitoring.coreos.com",
        "Prometheus",
        "kubesphere-monitoring-system",
        "k8s",
    );
    let tolerations = |sandbox: &Sandbox| State::of(sandbox).get(&key)["spec"]["tolerations"].clone();
    let before = tolerations(&sandbox);
    let set = json!([{"key": "monitoring", "operator": "Exists"}]);
    support::edit(
        &sandbox,
        &configuration(),
        &json!({"spec": {"monitoring": {"tolerations": set}}}),
    );
    support::block_on(support::upgrade(&sandbox));
    assert_eq!(tolerations(&sandbox), set);
    support::edit(
        &sandbox,
        &configuration(),
        &json!({"spec": {"monitoring": {"tolerations": null}}}),
    );
    support::block_on(support::upgrade(&sandbox));
    assert_eq!(tolerations(&sandbox), before);
}

#[test]
fn every_component_is_accepted_by_every_supported_kubernetes() {
    for kubernetes in ["v1.19.16", "v1.21.14", "v1.22.17", "v1.23.17"] {
        let sandbox = support::bare_of(kubernetes, true);
        let refused =
            support::block_on(async { crate::matrix::dry_run(&support::client(&sandbox), kubernetes).await });
        assert_eq!(refused, Vec::<String>::new(), "{kubernetes}");
    }
}

#[test]
fn nodes_with_gpus_are_marked_for_the_exporter() {
    let sandbox = PREPARED.fork();
    let node = |name: &str, gpus: &str| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110", "nvidia.com/gpu": gpus},
                "conditions": [{"type": "Ready", "status": "True"}]}})
    };
    for node in [node("with", "2"), node("without", "0")] {
        support::block_on(async { support::client(&sandbox).create(&node).await }).unwrap();
    }
    let component = release().component("gpu-monitoring").unwrap();
    switch(&sandbox, component, true);
    support::block_on(support::upgrade(&sandbox));
    let label = |name: &str| {
        let state = State::of(&sandbox);
        state.0[&ObjectKey::cluster("", "Node", name)]["metadata"]["labels"]["nvidia.com/gpu.present"].clone()
    };
    assert_eq!(label("with"), "true");
    assert_eq!(label("without"), Value::Null);
    let again = support::block_on(support::prepare(&sandbox))
        .decision
        .plan
        .unwrap();
    assert_eq!(again.writes(), 0, "{:?}", again.steps().collect::<Vec<_>>());
}

#[test]
fn pods_that_nobody_replaces_are_told_before_and_afterwards() {
    let sandbox = PREPARED.fork();
    switch(&sandbox, release().component("logging").unwrap(), true);
    support::block_on(support::upgrade(&sandbox));
    let edit = json!({"spec": {"common": {"es": {"data": {"resources": {"requests": {"memory": "1Gi"}}}}}}});
    support::edit(&sandbox, &configuration(), &edit);
    let told = |findings: &[upgrade::Finding]| -> Vec<String> {
        let mut told = findings
            .iter()
            .filter(|finding| finding.reason == "PodsKeepOldTemplate");
        told.by_ref()
            .filter_map(|finding| Some(finding.object.as_ref()?.name.clone()))
            .collect()
    };
    let planned = support::block_on(support::prepare(&sandbox));
    assert_eq!(told(&planned.decision.findings), ["elasticsearch-logging-data"]);
    support::block_on(support::upgrade(&sandbox));
    let now = support::block_on(support::prepare(&sandbox));
    assert!(now.decision.plan.as_ref().unwrap().is_empty());
    let options = Options::default();
    let verified = upgrade::verify_in_place(&now.snapshot, &RELEASES, &options, &now.decision);
    assert_eq!(told(&verified), ["elasticsearch-logging-data"]);
    // Deciding once is as good as twice.
    assert_eq!(
        verified,
        upgrade::verify_upgrade(None, &now.snapshot, &RELEASES, &options)
    );
    // What somebody changes since shows in both.
    let key = ObjectKey::namespaced("apps", "Deployment", "kubesphere-system", "ks-console");
    support::edit(
        &sandbox,
        &key,
        &json!({"spec": {"template": {"spec": {"containers": [{"name": "ks-console", "image": "other"}]}}}}),
    );
    let drifted = support::block_on(support::prepare(&sandbox));
    let verified = upgrade::verify_in_place(&drifted.snapshot, &RELEASES, &options, &drifted.decision);
    assert!(
        verified.iter().any(|finding| finding.reason == "NotConverged"),
        "{verified:#?}"
    );
    assert_eq!(
        verified,
        upgrade::verify_upgrade(None, &drifted.snapshot, &RELEASES, &options)
    );
}
