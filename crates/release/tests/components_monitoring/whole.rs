//! What holds for all of these components, whatever is set.

use release::{Manifest, images_of, lint};
use serde_json::{Value, json};

use super::{COMPONENTS, RELEASE, all, check, containers, find, inputs, rendered};

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
