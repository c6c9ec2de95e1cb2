//! The monitoring family of v3.3.1: where its settings end up, and what stays as it is in the cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::LazyLock;

use object::{Object, ObjectKey};
use release::{Cluster, Inputs, Manifest, Release, Releases, images_of, lint, render};
use serde_json::{Map, Value, json};

const COMPONENTS: [&str; 9] = [
    "alerting",
    "etcd-monitoring",
    "gpu-monitoring",
    "grafana",
    "istio-monitoring",
    "metrics-server",
    "monitoring",
    "monitoring-dashboards",
    "notification-manager",
];
const NAMESPACE: &str = "kubesphere-monitoring-system";

static RELEASE: LazyLock<Release> = LazyLock::new(|| {
    let version = "v3.3.1".parse().unwrap();
    Releases::embedded().unwrap().get(&version).unwrap().clone()
});

fn inputs(release: &Release, component: &str, spec: &Value) -> Inputs {
    let component = release.component(component).unwrap();
    Inputs {
        settings: release.read_settings(component, spec).unwrap(),
        cluster: Cluster {
            kubernetes_version: "v1.20.2".into(),
            nodes: 3,
            masters: 1,
            container_runtime: "docker".into(),
            ..Cluster::default()
        },
        existing: Map::new(),
    }
}

fn render_with(component: &str, spec: Value, change: impl FnOnce(&mut Inputs)) -> Vec<Manifest> {
    let release = &*RELEASE;
    let mut inputs = inputs(release, component, &spec);
    change(&mut inputs);
    render(release, release.component(component).unwrap(), &inputs).unwrap()
}

fn rendered(component: &str, spec: Value) -> Vec<Manifest> {
    render_with(component, spec, |_| {})
}

fn all(spec: &Value, change: impl Fn(&mut Inputs)) -> Vec<Manifest> {
    COMPONENTS
        .iter()
        .flat_map(|name| render_with(name, spec.clone(), &change))
        .collect()
}

/// `Deployment/grafana`, wherever it is.
#[track_caller]
fn find<'a>(manifests: &'a [Manifest], name: &str) -> &'a Object {
    let (kind, name) = name.split_once('/').unwrap();
    let mut found = manifests
        .iter()
        .map(|manifest| &manifest.object)
        .filter(|object| object.kind() == kind && object.name() == name);
    let object = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    assert!(found.next().is_none(), "more than one {kind} {name}");
    object
}

/// Checks values of an object by JSON pointer; null: absent.
#[track_caller]
fn check(manifests: &[Manifest], name: &str, expect: Value) {
    let object = find(manifests, name);
    for (pointer, value) in expect.as_object().unwrap() {
        assert_eq!(
            object.get(pointer).unwrap_or(&Value::Null),
            value,
            "{name} {pointer}"
        );
    }
}

fn containers(manifests: &[Manifest]) -> Vec<Value> {
    manifests
        .iter()
        .filter_map(|manifest| manifest.object.get("/spec/template/spec/containers"))
        .flat_map(|list| list.as_array().unwrap().clone())
        .collect()
}

/// Every text in a value.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(map) => map.values().for_each(|item| texts(item, found)),
        _ => {}
    }
}

#[test]
fn the_release_data_is_clean() {
    let problems: Vec<String> = lint(&RELEASE)
        .into_iter()
        .filter(|problem| {
            COMPONENTS
                .iter()
                .any(|name| problem.starts_with(&format!("{name}:")))
        })
        .collect();
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn what_is_enabled_follows_the_switches() {
    let release = &*RELEASE;
    let enabled = |spec: Value| -> Vec<&str> {
        COMPONENTS
            .into_iter()
            .filter(|name| {
                let component = release.component(name).unwrap();
                component
                    .is_enabled(release, &inputs(release, name, &spec))
                    .unwrap()
            })
            .collect()
    };
    assert_eq!(
        enabled(json!({})),
        ["monitoring", "monitoring-dashboards", "notification-manager"]
    );
    let everything = json!({
        "alerting": {"enabled": true},
        "etcd": {"monitoring": true, "endpointIps": "10.0.0.1"},
        "metrics_server": {"enabled": true},
        "servicemesh": {"enabled": true},
        "monitoring": {"gpu": {"nvidia_dcgm_exporter": {"enabled": true}}, "grafana": {"enabled": true}},
    });
    assert_eq!(enabled(everything.clone()), COMPONENTS);
    let mut external = everything;
    external["common"] = json!({"monitoring": {"type": "external"}});
    assert_eq!(
        enabled(external),
        [
            "alerting",
            "gpu-monitoring",
            "istio-monitoring",
            "metrics-server",
            "monitoring-dashboards"
        ]
    );
}

#[test]
fn as_upstream_has_it_by_default() {
    let manifests = rendered("monitoring", json!({}));
    check(
        &manifests,
        "Prometheus/k8s",
        json!({
            "/spec/image": "prom/prometheus:v2.34.0",
            "/spec/replicas": 2,
            "/spec/retention": "7d",
            "/spec/resources": {"limits": {"cpu": "4", "memory": "16Gi"}, "requests": {"cpu": "200m", "memory": "400Mi"}},
            "/spec/storage/volumeClaimTemplate/spec": {"resources": {"requests": {"storage": "20Gi"}}},
            "/spec/nodeSelector": {"kubernetes.io/os": "linux"},
            "/spec/tolerations/0/key": "dedicated",
            "/spec/additionalScrapeConfigs": null,
            "/spec/secrets": null,
        }),
    );
    check(
        &manifests,
        "Alertmanager/main",
        json!({"/spec/replicas": 3, "/spec/tolerations": [], "/spec/resources/limits/memory": "200Mi"}),
    );
    check(
        &manifests,
        "DaemonSet/node-exporter",
        json!({
            "/spec/template/spec/containers/0/args/0": "--web.listen-address=127.0.0.1:9100",
            "/spec/template/spec/tolerations": [{"operator": "Exists"}],
        }),
    );
    check(
        &rendered("notification-manager", json!({})),
        "NotificationManager/notification-manager",
        json!({"/spec/replicas": 2, "/spec/nodeSelector": {}, "/metadata/namespace": null}),
    );
    check(
        &rendered("alerting", json!({})),
        "ThanosRuler/kubesphere",
        json!({
            "/spec/replicas": 2,
            "/spec/queryEndpoints": ["http://prometheus-operated.kubesphere-monitoring-system.svc:9090"],
        }),
    );
}

#[test]
fn replicas_follow_the_number_of_nodes_unless_they_are_set() {
    let replicas = |nodes: usize, spec: Value| -> [Value; 4] {
        let manifests = all(&spec, |inputs| inputs.cluster.nodes = nodes);
        [
            "Prometheus/k8s",
            "Alertmanager/main",
            "ThanosRuler/kubesphere",
            "NotificationManager/notification-manager",
        ]
        .map(|name| find(&manifests, name).get("/spec/replicas").unwrap().clone())
    };
    assert_eq!(replicas(1, json!({})), [1, 1, 1, 1]);
    assert_eq!(replicas(2, json!({})), [1, 1, 1, 1]);
    assert_eq!(replicas(5, json!({})), [2, 3, 2, 2]);
    let set = json!({
        "monitoring": {"prometheus": {"replicas": 3}, "alertmanager": {"replicas": "5"}},
        "alerting": {"thanosruler": {"replicas": 4}},
    });
    assert_eq!(replicas(1, set), [3, 5, 4, 1]);
    let older = json!({"monitoring": {"prometheusReplicas": 1, "alertmanagerReplicas": 1}});
    assert_eq!(replicas(5, older), [1, 1, 2, 2]);
}

#[test]
fn api_versions_are_the_newest_that_the_cluster_serves() {
    for (kubernetes, expect) in [
        ("v1.19.16", "policy/v1beta1"),
        ("v1.20.2", "policy/v1beta1"),
        ("v1.21.0", "policy/v1"),
        ("v1.22.10+k3s1", "policy/v1"),
        ("v1.23.4-eks-1", "policy/v1"),
    ] {
        let manifests = all(&json!({}), |inputs| {
            inputs.cluster.kubernetes_version = kubernetes.into();
        });
        for name in ["prometheus-k8s", "alertmanager-main", "thanos-ruler-kubesphere"] {
            let budget = find(&manifests, &format!("PodDisruptionBudget/{name}"));
            assert_eq!(budget.api_version(), expect, "{name} on {kubernetes}");
        }
    }
}

#[test]
fn every_image_follows_the_registry() {
    let spec = json!({"local_registry": "registry.example:5000"});
    let manifests = all(&spec, |_| {});
    let images = images_of(&manifests);
    assert_eq!(
        images,
        [
            "registry.example:5000/grafana/grafana:8.3.3",
            "registry.example:5000/kubesphere/kube-rbac-proxy:v0.11.0",
            "registry.example:5000/kubesphere/kube-rbac-proxy:v0.8.0",
            "registry.example:5000/kubesphere/kube-state-metrics:v2.5.0",
            "registry.example:5000/kubesphere/metrics-server:v0.4.2",
            "registry.example:5000/kubesphere/notification-manager-operator:v1.4.0",
            "registry.example:5000/kubesphere/notification-manager:v1.4.0",
            "registry.example:5000/kubesphere/notification-tenant-sidecar:v3.2.0",
            "registry.example:5000/kubesphere/prometheus-config-reloader:v0.55.1",
            "registry.example:5000/kubesphere/prometheus-operator:v0.55.1",
            "registry.example:5000/nvidia/k8s/dcgm-exporter:2.1.8-2.4.0-rc.3-ubuntu18.04",
            "registry.example:5000/prom/alertmanager:v0.23.0",
            "registry.example:5000/prom/node-exporter:v1.3.1",
            "registry.example:5000/prom/prometheus:v2.34.0",
            "registry.example:5000/thanosio/thanos:v0.25.2",
        ]
    );
    // The operator is told in an argument what it puts beside Prometheus.
    check(
        &manifests,
        "Deployment/prometheus-operator",
        json!({"/spec/template/spec/containers/0/args/1":
            "--prometheus-config-reloader=registry.example:5000/kubesphere/prometheus-config-reloader:v0.55.1"}),
    );
    for spec in [
        json!({"zone": "cn"}),
        json!({"local_registry": "r.example", "namespace_override": "kubesphereio"}),
    ] {
        let manifests = all(&spec, |_| {});
        for image in images_of(&manifests) {
            assert!(image.contains("/kubesphereio/"), "{image}");
        }
    }
    let manifests = rendered(
        "monitoring",
        json!({"prometheus_repo": "mine/prometheus", "prometheus_tag": "v2.34.0-mine"}),
    );
    check(
        &manifests,
        "Prometheus/k8s",
        json!({"/spec/image": "mine/prometheus:v2.34.0-mine"}),
    );
}

#[test]
fn nothing_is_always_pulled() {
    for container in containers(&all(&json!({}), |_| {})) {
        assert_eq!(
            container["imagePullPolicy"], "IfNotPresent",
            "{}",
            container["name"]
        );
    }
}

#[test]
fn resources_are_taken_half_by_half_and_leaf_by_leaf() {
    let proxy = |manifests: &[Manifest], pointer: &str| -> Vec<Value> {
        containers(manifests)
            .iter()
            .filter(|container| container["name"].as_str().unwrap().starts_with("kube-rbac-proxy"))
            .map(|container| container.pointer(pointer).unwrap().clone())
            .collect()
    };
    let manifests = rendered(
        "monitoring",
        json!({"monitoring": {
            "prometheus": {"resources": {"limits": {"memory": "32Gi"}}, "requests": {"cpu": "1"},
                "operator": {"resources": {"requests": {"memory": "50Mi"}}}},
            "kube_rbac_proxy": {"resources": {"limits": {"memory": "64Mi"}}},
            "alertmanager": {"limits": {"cpu": "300m"}},
        }}),
    );
    check(
        &manifests,
        "Prometheus/k8s",
        json!({"/spec/resources": {
            "limits": {"memory": "32Gi", "cpu": "4"}, "requests": {"cpu": "1", "memory": "400Mi"}}}),
    );
    check(
        &manifests,
        "Deployment/prometheus-operator",
        json!({"/spec/template/spec/containers/0/resources": {
            "limits": {"cpu": "200m", "memory": "200Mi"}, "requests": {"memory": "50Mi", "cpu": "100m"}}}),
    );
    check(
        &manifests,
        "Alertmanager/main",
        json!({"/spec/resources/limits": {"cpu": "300m", "memory": "200Mi"}}),
    );
    // All four of them: upstream overlooks one.
    assert_eq!(
        proxy(&manifests, "/resources/limits/memory"),
        ["64Mi", "64Mi", "64Mi", "64Mi"]
    );
    let spec = json!({"monitoring": {"notification_manager": {
        "resources": {"limits": {"memory": "1Gi"}},
        "operator": {"resources": {"limits": {"memory": "70Mi"}}},
        "proxy": {"resources": {"limits": {"memory": "80Mi"}}},
    }}});
    let manifests = rendered("notification-manager", spec);
    check(
        &manifests,
        "NotificationManager/notification-manager",
        json!({"/spec/resources/limits": {"memory": "1Gi", "cpu": "500m"}}),
    );
    check(
        &manifests,
        "Deployment/notification-manager-operator",
        json!({
            "/spec/template/spec/containers/0/resources/limits/memory": "80Mi",
            "/spec/template/spec/containers/1/resources/limits/memory": "70Mi",
        }),
    );
}

#[test]
fn scheduling_falls_back_to_the_whole_installation() {
    let toleration = json!([{"key": "infra", "operator": "Exists"}]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "infra", "operator": "Exists"}]}]}}});
    let top = json!({"nodeSelector": {"pool": "a"}, "tolerations": toleration, "affinity": affinity});
    let mut own = top.clone();
    own["monitoring"] = json!({"nodeSelector": {"pool": "b"}});
    for (spec, pool) in [(top, "a"), (own, "b")] {
        let manifests = all(&spec, |_| {});
        for name in [
            "Prometheus/k8s",
            "Alertmanager/main",
            "ThanosRuler/kubesphere",
            "NotificationManager/notification-manager",
        ] {
            check(
                &manifests,
                name,
                json!({"/spec/nodeSelector": {"pool": pool}, "/spec/tolerations": toleration, "/spec/affinity": affinity}),
            );
        }
        for name in [
            "prometheus-operator",
            "kube-state-metrics",
            "notification-manager-operator",
            "grafana",
        ] {
            check(
                &manifests,
                &format!("Deployment/{name}"),
                json!({
                    "/spec/template/spec/nodeSelector": {"pool": pool},
                    "/spec/template/spec/tolerations": toleration,
                    "/spec/template/spec/affinity": affinity,
                }),
            );
        }
        // Every node is measured, whatever the others want.
        check(
            &manifests,
            "DaemonSet/node-exporter",
            json!({"/spec/template/spec/nodeSelector": {"kubernetes.io/os": "linux"}}),
        );
    }
    let manifests = rendered(
        "metrics-server",
        json!({"metrics_server": {"nodeSelector": {"pool": "c"}}}),
    );
    check(
        &manifests,
        "Deployment/metrics-server",
        json!({"/spec/template/spec/nodeSelector": {"pool": "c"}}),
    );
}

#[test]
fn volumes_and_retention_stay_as_they_are() {
    let spec = json!({
        "persistence": {"storageClass": "slow"},
        "monitoring": {"storageClass": "fast", "prometheus": {"volumeSize": "50Gi"}},
    });
    let volume = "/spec/storage/volumeClaimTemplate/spec";
    check(
        &rendered("monitoring", spec.clone()),
        "Prometheus/k8s",
        json!({volume: {"resources": {"requests": {"storage": "50Gi"}}, "storageClassName": "fast"}}),
    );
    check(
        &rendered(
            "monitoring",
            json!({"persistence": {"storageClass": "slow"}, "monitoring": {"storageClass": "", "prometheusVolumeSize": "30Gi"}}),
        ),
        "Prometheus/k8s",
        json!({volume: {"resources": {"requests": {"storage": "30Gi"}}, "storageClassName": "slow"}}),
    );
    let manifests = render_with("monitoring", spec.clone(), |inputs| {
        inputs.existing.insert(
            "volume".into(),
            json!({"resources": {"requests": {"storage": "100Gi"}}, "storageClassName": "local"}),
        );
        inputs.existing.insert(
            "prometheus".into(),
            json!({"retention": "30d", "storage": {"volumeClaimTemplate": {"spec": {"resources": {"requests": {"storage": "20Gi"}}}}}}),
        );
    });
    check(
        &manifests,
        "Prometheus/k8s",
        json!({"/spec/retention": "30d", volume: {"resources": {"requests": {"storage": "100Gi"}}}}),
    );
    let claim = |existing: Value| {
        let manifests = render_with("grafana", spec.clone(), |inputs| {
            inputs.existing.insert("volume".into(), existing);
        });
        find(&manifests, "PersistentVolumeClaim/grafana-storage")
            .get("/spec")
            .unwrap()
            .clone()
    };
    assert_eq!(
        claim(Value::Null),
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "50Mi"}}, "storageClassName": "fast"})
    );
    assert_eq!(
        claim(json!({"resources": {"requests": {"storage": "2Gi"}}, "storageClassName": "local"})),
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, "storageClassName": "local"})
    );
}

#[test]
fn what_people_added_to_prometheus_stays() {
    let scrape = |existing: Value, secret: Value| {
        let manifests = render_with("monitoring", json!({}), |inputs| {
            inputs
                .existing
                .insert("prometheus".into(), json!({"additionalScrapeConfigs": existing}));
            inputs.existing.insert("additionalScrapeConfigs".into(), secret);
        });
        find(&manifests, "Prometheus/k8s")
            .get("/spec/additionalScrapeConfigs")
            .cloned()
            .unwrap_or_default()
    };
    let own = json!({"name": "mine", "key": "scrape.yaml"});
    let theirs = json!({"name": "additional-scrape-configs", "key": "prometheus-additional.yaml"});
    assert_eq!(scrape(own.clone(), Value::Null), own);
    // Only what the release before shipped, unchanged, goes away; its text is not repeated here.
    assert_eq!(scrape(theirs.clone(), json!("Y2hhbmdlZA==")), theirs);

    let secrets = |existing: Value, spec: Value, has_secret: bool| {
        let manifests = render_with("monitoring", spec, |inputs| {
            inputs
                .existing
                .insert("prometheus".into(), json!({"secrets": existing}));
            inputs.existing.insert("etcdSecret".into(), has_secret.into());
        });
        find(&manifests, "Prometheus/k8s")
            .get("/spec/secrets")
            .cloned()
            .unwrap_or_default()
    };
    let on = json!({"etcd": {"monitoring": true}});
    assert_eq!(
        secrets(Value::Null, on.clone(), true),
        json!(["kube-etcd-client-certs"])
    );
    // Without the Secret no pod of Prometheus could start.
    assert_eq!(secrets(Value::Null, on.clone(), false), Value::Null);
    assert_eq!(
        secrets(json!(["kube-etcd-client-certs", "mine"]), on, true),
        json!(["mine", "kube-etcd-client-certs"])
    );
    assert_eq!(
        secrets(json!(["kube-etcd-client-certs", "mine"]), json!({}), true),
        json!(["mine"])
    );
}

#[test]
fn who_gets_which_alert_is_written_once() {
    use base64::Engine as _;
    let config = |existing: Value| {
        let spec = json!({"common": {"notification": {"endpoint": "http://elsewhere:19093"}}});
        let manifests = render_with("monitoring", spec, |inputs| {
            inputs.existing.insert("alertmanagerConfig".into(), existing);
        });
        find(&manifests, "Secret/alertmanager-main")
            .get_str("/data/alertmanager.yaml")
            .unwrap()
            .to_owned()
    };
    let first = base64::engine::general_purpose::STANDARD
        .decode(config(Value::Null))
        .unwrap();
    let documents = object::parse_documents(std::str::from_utf8(&first).unwrap()).unwrap();
    let receivers = documents[0]["receivers"].as_array().unwrap();
    assert_eq!(receivers.len(), 5);
    assert_eq!(
        receivers[2]["webhook_configs"][0]["url"],
        "http://elsewhere:19093/api/v2/alerts"
    );
    assert_eq!(
        config(json!("YTogMQo=")),
        "${secret:kubesphere-monitoring-system/alertmanager-main/alertmanager.yaml|base64}"
    );
}

#[test]
fn etcd_is_asked_where_and_how_the_settings_say() {
    let etcd = json!({"etcd": {"monitoring": true, "endpointIps": "10.0.0.1, 10.0.0.2,", "port": "12379"}});
    let manifests = rendered("etcd-monitoring", etcd);
    check(
        &manifests,
        "Endpoints/etcd",
        json!({
            "/metadata/namespace": "kube-system",
            "/subsets": [{
                "addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
                "ports": [{"name": "metrics", "port": 12379, "protocol": "TCP"}],
            }],
        }),
    );
    check(
        &manifests,
        "ServiceMonitor/etcd",
        json!({"/spec/endpoints/0/scheme": "https", "/metadata/namespace": NAMESPACE}),
    );
    let plain = json!({"etcd": {"monitoring": true, "endpointIps": "10.0.0.1", "tlsEnable": false}});
    check(
        &rendered("etcd-monitoring", plain),
        "ServiceMonitor/etcd",
        json!({"/spec/endpoints/0": {"interval": "1m", "port": "metrics"}}),
    );
}

#[test]
fn checks_tell_what_is_missing() {
    let release = &*RELEASE;
    let failed = |component: &str, spec: Value, existing: Value| -> Vec<String> {
        let mut inputs = inputs(release, component, &spec);
        inputs.existing = existing.as_object().unwrap().clone();
        let component = release.component(component).unwrap();
        component
            .failed_checks(release, &inputs)
            .unwrap()
            .iter()
            .map(|check| check.reason.clone())
            .collect()
    };
    let none: [&str; 0] = [];
    let etcd = json!({"etcd": {"monitoring": true, "endpointIps": "10.0.0.1"}});
    assert_eq!(failed("monitoring", json!({}), json!({})), none);
    assert_eq!(
        failed("etcd-monitoring", etcd.clone(), json!({"secret": false})),
        ["EtcdSecretMissing"]
    );
    assert_eq!(failed("etcd-monitoring", etcd, json!({"secret": true})), none);
    let nowhere = json!({"etcd": {"monitoring": true, "endpointIps": "localhost", "tlsEnable": false}});
    assert_eq!(
        failed("etcd-monitoring", nowhere, json!({})),
        ["EtcdAddressesMissing"]
    );
    let api = |namespace: &str| json!({"api": {"name": "metrics-server", "namespace": namespace}});
    assert_eq!(failed("metrics-server", json!({}), json!({})), none);
    assert_eq!(failed("metrics-server", json!({}), api("kube-system")), none);
    assert_eq!(
        failed("metrics-server", json!({}), api("monitoring")),
        ["MetricsServedByOthers"]
    );
}

#[test]
fn another_prometheus_is_asked_for_alerts() {
    let spec =
        json!({"common": {"monitoring": {"type": "external", "endpoint": "http://prometheus.example:9090"}}});
    check(
        &rendered("alerting", spec),
        "ThanosRuler/kubesphere",
        json!({"/spec/queryEndpoints": ["http://prometheus.example:9090"]}),
    );
}

#[test]
fn ports_of_node_exporter_move_together() {
    let manifests = rendered(
        "monitoring",
        json!({"monitoring": {"node_exporter": {"port": 9796}}}),
    );
    let pod = "/spec/template/spec/containers";
    check(
        &manifests,
        "DaemonSet/node-exporter",
        json!({
            format!("{pod}/0/args/0"): "--web.listen-address=127.0.0.1:9796",
            format!("{pod}/1/args/1"): "--secure-listen-address=[$(IP)]:9796",
            format!("{pod}/1/args/3"): "--upstream=http://127.0.0.1:9796/",
            format!("{pod}/1/ports/0/hostPort"): 9796,
            format!("{pod}/1/ports/0/containerPort"): 9796,
        }),
    );
    check(
        &manifests,
        "Service/node-exporter",
        json!({"/spec/ports/0/port": 9100, "/spec/ports/0/targetPort": "https"}),
    );
}

#[test]
fn only_a_host_spreads_the_secrets_of_receivers() {
    let has = |role: &str| {
        rendered(
            "notification-manager",
            json!({"multicluster": {"clusterRole": role}}),
        )
        .iter()
        .find(|manifest| manifest.object.kind() == "FederatedNamespace")
        .map(|manifest| manifest.in_helm_release)
    };
    assert_eq!(has("none"), None);
    assert_eq!(has("member"), None);
    assert_eq!(has("host"), Some(false));
}

#[test]
fn the_webhook_of_notification_manager_has_a_key_pair_of_its_own() {
    let authority =
        "${secret:kubesphere-monitoring-system/notification-manager-webhook-server-cert/ca.crt|base64}";
    let manifests = rendered("notification-manager", json!({}));
    for (name, pointer) in [
        (
            "ValidatingWebhookConfiguration/notification-manager-validating-webhook",
            "/webhooks/1/clientConfig/caBundle",
        ),
        (
            "CustomResourceDefinition/configs.notification.kubesphere.io",
            "/spec/conversion/webhook/clientConfig/caBundle",
        ),
        (
            "CustomResourceDefinition/receivers.notification.kubesphere.io",
            "/spec/conversion/webhook/clientConfig/caBundle",
        ),
    ] {
        check(&manifests, name, json!({pointer: authority}));
    }
    let release = &*RELEASE;
    let component = release.component("notification-manager").unwrap();
    let secrets = component
        .generated_secrets(release, &inputs(release, "notification-manager", &json!({})))
        .unwrap();
    // Upstream's pair, which lies in its sources, has no authority beside it.
    let upstream = Object::try_from(json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "notification-manager-webhook-server-cert", "namespace": NAMESPACE},
        "data": {"tls.crt": "eA==", "tls.key": "eA=="}}))
    .unwrap();
    assert_eq!(
        secrets[0].keys_to_write(Some(&upstream), &json!({}), None).len(),
        3
    );
}

#[test]
fn no_password_is_written_out() {
    let manifests = all(&json!({}), |_| {});
    for manifest in &manifests {
        let mut found = Vec::new();
        texts(manifest.object.as_value(), &mut found);
        for text in found {
            assert!(!text.contains("BEGIN "), "{:?}", manifest.object.key());
            assert!(!text.starts_with("LS0tLS1CRUdJTi"), "{:?}", manifest.object.key());
        }
        if manifest.object.key().is_secret() {
            let data = manifest.object.get("/data").unwrap().as_object().unwrap();
            for (key, value) in data {
                let is_configuration = [".yaml", ".ini"].iter().any(|end| key.ends_with(end));
                let is_reference = value.as_str().unwrap().starts_with("${secret:");
                assert!(
                    is_configuration || is_reference,
                    "{:?} {key}",
                    manifest.object.key()
                );
            }
        }
    }
    check(
        &manifests,
        "Deployment/grafana",
        json!({"/spec/template/spec/containers/0/env": [
            {"name": "GF_SECURITY_ADMIN_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "grafana-admin", "key": "password"}}}]}),
    );
}

#[test]
fn rules_are_whole() {
    let manifests = all(&json!({}), |_| {});
    let mut alerts = 0;
    let mut records = std::collections::BTreeSet::new();
    for manifest in manifests.iter().filter(|m| m.object.kind() == "PrometheusRule") {
        check(
            &manifests,
            &format!("PrometheusRule/{}", manifest.object.name()),
            json!({"/metadata/labels/prometheus": "k8s", "/metadata/labels/role": "alert-rules"}),
        );
        for group in manifest.object.get("/spec/groups").unwrap().as_array().unwrap() {
            for rule in group["rules"].as_array().unwrap() {
                assert!(!rule["expr"].as_str().unwrap().trim().is_empty());
                if let Some(record) = rule["record"].as_str() {
                    records.insert(record.to_owned());
                    continue;
                }
                alerts += 1;
                assert!(rule["labels"]["severity"].is_string(), "{rule}");
                for note in ["summary", "description"] {
                    let text = rule["annotations"][note].as_str().unwrap();
                    assert_eq!(text.matches("{{ ").count(), text.matches(" }}").count(), "{text}");
                    assert!(text.len() < 220 && !text.contains('\n'), "{text}");
                }
            }
        }
    }
    assert_eq!(alerts, 128);
    // Pages of the console are drawn from these.
    for record in [
        "namespace:container_cpu_usage_seconds_total:sum_rate",
        "node:node_memory_utilisation:",
        "cluster:pod_abnormal:ratio",
        "etcd:up:sum",
        "scheduler:scheduler_e2e_scheduling_duration:histogram_quantile",
    ] {
        assert!(records.contains(record), "{record}");
    }
}

#[test]
fn dashboards_of_grafana_are_mounted() {
    let manifests = rendered("grafana", json!({}));
    let pod = find(&manifests, "Deployment/grafana")
        .get("/spec/template/spec")
        .unwrap();
    let mut mounted = 0;
    for volume in pod["volumes"].as_array().unwrap() {
        let Some(name) = volume["configMap"]["name"].as_str() else {
            continue;
        };
        let data = find(&manifests, &format!("ConfigMap/{name}"))
            .get("/data")
            .unwrap();
        for (key, text) in data.as_object().unwrap() {
            let Some(uid) = key.strip_suffix(".json") else {
                continue;
            };
            let dashboard: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
            assert_eq!(dashboard["uid"], uid);
            assert!(!dashboard["panels"].as_array().unwrap().is_empty());
            let path = format!("/grafana-dashboard-definitions/0/{uid}");
            let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
            assert!(mounts.iter().any(|mount| mount["mountPath"] == *path), "{path}");
            mounted += 1;
        }
    }
    assert_eq!(mounted, 15);
}

#[test]
fn everything_is_where_it_belongs() {
    for manifest in all(&json!({"multicluster": {"clusterRole": "host"}}), |_| {}) {
        let key: ObjectKey = manifest.object.key();
        let namespaces = [
            "kube-system",
            "istio-system",
            NAMESPACE,
            "kubesphere-monitoring-federated",
        ];
        let is_there = key
            .namespace
            .as_deref()
            .is_none_or(|namespace| namespaces.contains(&namespace));
        assert!(is_there, "{key}");
        let is_cluster_wide = [
            "ClusterRole",
            "ClusterRoleBinding",
            "CustomResourceDefinition",
            "APIService",
            "ValidatingWebhookConfiguration",
            "NotificationManager",
            "ClusterDashboard",
        ]
        .contains(&key.kind.as_str());
        assert_eq!(key.namespace.is_none(), is_cluster_wide, "{key}");
    }
}
