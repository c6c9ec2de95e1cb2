//! On a platform that is at the release, with nothing but its core.

use release::Releases;
use serde_json::{Value, json};

use super::*;
use crate::{
    cluster_configuration_key,
    preflight::mk::{mk, mk_add, mk_sound_at},
};

pub(super) fn releases() -> Releases {
    Releases::embedded().unwrap()
}

/// At the newest release, with these settings and this status.
pub(super) fn mk_at(spec: Value, status: Value) -> Snapshot {
    let releases = releases();
    let version = releases.latest().unwrap().version.to_string();
    let mut snapshot = mk_sound_at(&version);
    let key = cluster_configuration_key();
    let mut whole = json!({"core": {"status": "enabled", "version": version}});
    for (name, value) in status.as_object().unwrap() {
        whole[name] = value.clone();
    }
    mk_add(
        &mut snapshot,
        mk(
            "installer.kubesphere.io/v1alpha1",
            "ClusterConfiguration",
            "kubesphere-system/ks-installer",
            json!({"metadata": {"resourceVersion": "7"}, "spec": spec, "status": whole}),
        ),
    );
    assert!(snapshot.get(&key).is_some());
    snapshot
}

pub(super) fn info_of(snapshot: &Snapshot, name: &str) -> ComponentInfo {
    let all = components(snapshot, &releases(), &Options::default()).unwrap();
    all.into_iter().find(|component| component.name == name).unwrap()
}

#[test]
fn what_is_off_is_shown_as_if_it_were_on() {
    let snapshot = mk_at(json!({}), json!({}));
    let logging = info_of(&snapshot, "logging");
    assert_eq!(
        (logging.state, logging.asked_for, logging.version.as_deref()),
        (State::Disabled, false, None)
    );
    for brought in ["elasticsearch", "elasticsearch-curator", "fluent-operator"] {
        assert!(
            logging.brings.iter().any(|name| name == brought),
            "{:?}",
            logging.brings
        );
    }
    assert!(logging.whole.objects > logging.objects.len() && logging.whole.requests.memory_bytes > 1 << 30);
    // One of the two comes in the place of the other.
    let replicated = info_of(&snapshot, "redis-ha");
    assert!(
        replicated.brings.is_empty() && replicated.reason.is_some(),
        "{replicated:#?}"
    );
    let elasticsearch = info_of(&snapshot, "elasticsearch");
    assert_eq!(
        elasticsearch.drawn_in_by,
        ["auditing", "events", "logging", "servicemesh"]
    );
    assert!(elasticsearch.switch.is_none() && !elasticsearch.objects.is_empty());
    assert!(elasticsearch.requests.memory_bytes > 0 && !elasticsearch.images.is_empty());
}

#[test]
fn the_state_is_what_settings_status_and_workloads_say() {
    let check = |spec: Value, status: Value, expect: State| {
        let found = info_of(&mk_at(spec, status), "metrics-server");
        assert_eq!(found.state, expect, "{found:#?}");
        assert_eq!(
            found.reason.is_some(),
            !matches!(expect, State::Disabled | State::Enabled)
        );
        found
    };
    let on = json!({"metrics_server": {"enabled": true}});
    let enabled = json!({"metricsServer": {"status": "enabled"}});
    let marked = json!({"metricsServer": {"status": "enabled", "version": "v3.3.1"}});
    check(json!({}), json!({}), State::Disabled);
    check(json!({}), enabled.clone(), State::RunsThoughOff);
    check(json!({}), marked.clone(), State::Leaving);
    let begun = json!({"metricsServer": {"status": "installing", "version": "v3.3.1"}});
    check(json!({}), begun.clone(), State::Leaving);
    check(on.clone(), json!({}), State::Pending);
    let installing = check(on.clone(), begun, State::Installing);
    assert!(installing.reason.unwrap().contains("does not exist"));
    let broken = check(on.clone(), marked, State::Unhealthy);
    assert!(broken.reason.unwrap().contains("does not exist"));

    // With its workload, it runs.
    let mut snapshot = mk_at(on, enabled);
    for key in broken.objects.iter().filter(|key| key.kind == "Deployment") {
        let name = format!("{}/{}", key.namespace.as_deref().unwrap_or_default(), key.name);
        let status = json!({"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, "readyReplicas": 1});
        mk_add(
            &mut snapshot,
            mk(
                "apps/v1",
                "Deployment",
                &name,
                json!({"spec": {"replicas": 1}, "status": status}),
            ),
        );
    }
    let runs = info_of(&snapshot, "metrics-server");
    assert_eq!(
        (runs.state, runs.version.as_deref()),
        (State::Enabled, Some("v3.3.1")),
        "{runs:#?}"
    );
}

#[test]
fn requests_are_those_of_all_pods_and_room_is_what_is_left() {
    let resources = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}});
    let manifest = |api: &str, kind: &str, spec: Value| release::Manifest {
        object: mk(api, kind, "n/a", json!({ "spec": spec })),
        source: String::new(),
        phase: release::Phase::Workloads,
        in_helm_release: false,
    };
    let template =
        json!({"spec": {"containers": [resources("100m"), {"resources": {"limits": {"cpu": 1}}}]}});
    let manifests = [
        manifest(
            "apps/v1",
            "Deployment",
            json!({"replicas": 2, "template": template}),
        ),
        manifest("apps/v1", "DaemonSet", json!({"template": template})),
        manifest("batch/v1", "Job", json!({"template": template})),
        manifest(
            "monitoring.coreos.com/v1",
            "Prometheus",
            json!({"replicas": 2, "resources": {"requests": {"cpu": "50m"}}}),
        ),
    ];
    let all = requests::of_all(&manifests, 3);
    let expect = Amount {
        cpu_millicores: 5 * 1100 + 100,
        memory_bytes: 5 << 30,
    };
    assert_eq!(all, expect);

    let mut snapshot = Snapshot::default();
    let node = |name: &str, spec: Value| {
        mk(
            "v1",
            "Node",
            name,
            json!({"spec": spec, "status": {"allocatable": {"cpu": "2", "memory": "4Gi"}}}),
        )
    };
    mk_add(&mut snapshot, node("a", json!({})));
    mk_add(&mut snapshot, node("b", json!({"unschedulable": true})));
    let pod = |name: &str, node: &str, phase: &str| {
        mk(
            "v1",
            "Pod",
            name,
            json!({
                "spec": {"nodeName": node, "containers": [resources("500m")]}, "status": {"phase": phase},
            }),
        )
    };
    for pod in [
        pod("n/runs", "a", "Running"),
        pod("n/ended", "a", "Succeeded"),
        pod("n/elsewhere", "b", "Running"),
    ] {
        mk_add(&mut snapshot, pod);
    }
    let room = room(&snapshot);
    assert_eq!(room.nodes, 1);
    assert_eq!(
        room.free,
        Amount {
            cpu_millicores: 1500,
            memory_bytes: 3 << 30
        }
    );
    assert!(!all.fits_in(&room.free));
}

#[test]
fn names_are_found_or_guessed() {
    let releases = releases();
    let release = releases.latest().unwrap();
    let check = |name: &str, expect: Result<&str, Option<&str>>| {
        let found = find(release, name);
        let found = found
            .as_ref()
            .map(|component| component.name.as_str())
            .map_err(|e| e.nearest.as_deref());
        assert_eq!(found, expect, "{name}");
    };
    check("metrics_server", Ok("metrics-server"));
    check("metrics-server", Ok("metrics-server"));
    check("openpitrix.store", Ok("openpitrix"));
    check("network.topology", Ok("topology"));
    check("loging", Err(Some("logging")));
    check("metric_servers", Err(Some("metrics-server")));
    check("curator", Err(Some("elasticsearch-curator")));
    check("wordpress", Err(None));
}

#[test]
fn images_are_those_that_the_settings_ask_for_or_all_that_there_can_be() {
    let options = Options::default();
    let snapshot = mk_at(
        json!({"local_registry": "registry.example", "metrics_server": {"enabled": true}}),
        json!({}),
    );
    let enabled = images(&snapshot, &releases(), &options).unwrap();
    let all = images_of_all(&snapshot, &releases(), &options).unwrap();
    assert!(enabled.len() < all.len());
    for list in [&enabled, &all] {
        assert!(list.is_sorted_by_key(|usage| &usage.image));
        assert!(
            list.iter()
                .all(|usage| usage.image.starts_with("registry.example/")),
            "{list:#?}"
        );
    }
    assert!(
        enabled
            .iter()
            .all(|usage| all.iter().any(|other| other.image == usage.image))
    );
    assert!(
        enabled
            .iter()
            .any(|usage| usage.components.contains("metrics-server"))
    );
}

#[test]
fn what_enabling_does_to_others_is_told() {
    let mut snapshot = mk_at(json!({"common": {"redis": {"enabled": true}}}), json!({}));
    let service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}});
    mk_add(
        &mut snapshot,
        mk("v1", "Service", "kubesphere-system/mine", service),
    );
    let check = |name: &str, expect: &[&str]| {
        let effects = info_of(&snapshot, name).effects;
        for expect in expect {
            assert!(
                effects.iter().any(|effect| effect.contains(expect)),
                "{expect}: {effects:#?}"
            );
        }
    };
    check("redis", &[]);
    check(
        "logging",
        &[
            "changes ConfigMap kubesphere-system/kubesphere-config, which ks-apiserver, ks-controller-manager read",
        ],
    );
    check(
        "edgeruntime",
        &[
            "needs port 30000 of the nodes",
            "and Service kubesphere-system/mine has it",
        ],
    );
    check(
        "devops",
        &["does not answer, the API server refuses CREATE, UPDATE of s2ibuilders"],
    );
    assert_eq!(info_of(&snapshot, "redis").effects, Vec::<String>::new());
}

#[test]
fn what_is_there_and_nothing_accounts_for_is_told() {
    let argo = json!({"spec": {"replicas": 1}});
    let effect = |snapshot: &Snapshot| {
        let mut effects = info_of(snapshot, "devops").effects.into_iter();
        effects.find(|effect| effect.starts_with("takes over what is there already"))
    };
    let key = info_of(&mk_at(json!({}), json!({})), "argocd")
        .objects
        .into_iter()
        .find(|key| key.kind == "Deployment")
        .unwrap();
    let name = format!("{}/{}", key.namespace.as_deref().unwrap(), key.name);
    let with = |status: Value, metadata: Value| {
        let mut snapshot = mk_at(json!({}), status);
        let mut more = argo.clone();
        more["metadata"] = metadata;
        mk_add(&mut snapshot, mk("apps/v1", "Deployment", &name, more));
        snapshot
    };
    let theirs = effect(&with(json!({}), json!({}))).unwrap();
    assert!(theirs.contains(&key.to_string()), "{theirs}");
    let written = json!({"managedFields": [{"manager": "ks-installer"}]});
    assert_eq!(effect(&with(json!({}), written)), None);
    let noted = json!({"argocd": {"status": "enabled"}});
    assert_eq!(effect(&with(noted, json!({}))), None);
    assert_eq!(effect(&mk_at(json!({}), json!({}))), None);
}
