//! What single parts keep and get.

use object::{Object, ObjectKey};
use serde_json::{Value, json};

use super::{NAMESPACE, RELEASE, all, check, find, inputs, render_with, rendered, texts};

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
    let at = |addresses: &str| {
        let etcd = json!({"etcd": {"monitoring": true, "endpointIps": addresses, "tlsEnable": false}});
        failed("etcd-monitoring", etcd, json!({}))
    };
    assert_eq!(at("10.0.0.1, fd00::1"), none);
    for nowhere in ["", "localhost", "a.b.c", "10.0.0.1,10.0.0.256"] {
        assert_eq!(at(nowhere), ["EtcdAddressesMissing"], "{nowhere}");
    }
}

#[test]
fn a_metrics_server_of_somebody_else_is_told_from_ours() {
    let release = &*RELEASE;
    let component = release.component("metrics-server").unwrap();
    let check = |existing: Value, is_ours: bool| {
        let mut inputs = inputs(release, "metrics-server", &json!({}));
        inputs.existing = existing.as_object().unwrap().clone();
        let failed = component.failed_checks(release, &inputs).unwrap();
        assert_eq!(failed.is_empty(), is_ours, "{existing}");
    };
    let with = |more: Value| {
        let mut existing = json!({"api": {"name": "metrics-server", "namespace": "kube-system"}, "deployment": true,
            "image": "registry.k8s.io/metrics-server/metrics-server:v0.6.1"});
        existing
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        existing
    };
    check(json!({}), true);
    check(with(json!({})), false);
    check(with(json!({"api": null})), false);
    check(with(json!({"status": "enabled"})), true);
    check(
        with(json!({"image": "r:5000/kubesphere/metrics-server:v0.4.2"})),
        true,
    );
    // A run that was cut short.
    let managers = json!([{"manager": "kubectl"}, {"manager": "ks-installer"}]);
    check(
        with(json!({"deployment": false, "image": null, "apiManagers": managers})),
        true,
    );
    check(with(json!({"deploymentManagers": managers})), true);
    check(
        with(json!({"deploymentManagers": [{"manager": "kubectl"}]})),
        false,
    );
    // Wherever else it is served from, it is somebody else's.
    let elsewhere = json!({"api": {"name": "adapter", "namespace": "monitoring"}, "status": "enabled"});
    check(elsewhere, false);
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
