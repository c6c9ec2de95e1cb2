//! Every setting of ks-core v3.3.1, where it ends up and as what.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use object::ObjectKey;
use release::{Inputs, Manifest, declared_images, images_of};
use serde_json::{Value, json};

fn deployment(name: &str) -> ObjectKey {
    ObjectKey::namespaced("apps", "Deployment", "kubesphere-system", name)
}

const PROGRAMS: [&str; 3] = ["ks-apiserver", "ks-controller-manager", "ks-console"];

fn render_with(spec: Value, change: impl FnOnce(&mut Inputs)) -> Vec<Manifest> {
    let release = common::release("v3.3.1");
    let mut inputs = common::inputs(&release, &spec);
    change(&mut inputs);
    common::manifests(&release, &inputs)
}

fn render(spec: Value) -> Vec<Manifest> {
    render_with(spec, |_| {})
}

/// Checks values of kubesphere-config by JSON pointer; null: absent.
#[track_caller]
fn check(spec: Value, expect: Value) {
    check_before(spec, Value::Null, expect);
}

#[track_caller]
fn check_before(spec: Value, before: Value, expect: Value) {
    let manifests = render_with(spec, |inputs| {
        inputs.existing.insert("kubesphereConfig".into(), before);
    });
    let config = common::kubesphere_config(&manifests);
    for (pointer, value) in expect.as_object().unwrap() {
        assert_eq!(
            config.pointer(pointer).unwrap_or(&Value::Null),
            value,
            "{pointer}"
        );
    }
}

fn get<'a>(manifests: &'a [Manifest], key: &ObjectKey, pointer: &str) -> Option<&'a Value> {
    common::find(manifests, key).unwrap().object.get(pointer)
}

#[test]
fn with_no_settings_at_all() {
    let config = common::kubesphere_config(&render(json!({})));
    assert_eq!(
        config,
        json!({
            "authentication": {
                "authenticateRateLimiterMaxTries": 10,
                "authenticateRateLimiterDuration": "10m0s",
                "loginHistoryRetentionPeriod": "168h",
                "maximumClockSkew": "10s",
                "multipleLogin": true,
                "kubectlImage": "kubesphere/kubectl:v1.20.0",
                "jwtSecret": "0123456789abcdefghijklmnopqrstuv",
                "oauthOptions": {
                    "clients": [{"name": "kubesphere", "secret": "kubesphere", "redirectURIs": ["*"]}],
                },
            },
            "multicluster": {"clusterRole": "none"},
            "monitoring": {
                "endpoint": "http://prometheus-operated.kubesphere-monitoring-system.svc:9090",
                "enableGPUMonitoring": false,
            },
            "notification": {"endpoint": "http://notification-manager-svc.kubesphere-monitoring-system.svc:19093"},
            "terminal": {"image": "alpine:3.14", "timeout": 600},
            "gateway": {
                "watchesPath": "/var/helm-charts/watches.yaml",
                "repository": "kubesphere/nginx-ingress-controller",
                "tag": "v1.1.0",
                "namespace": "kubesphere-controls-system",
            },
        })
    );
}

#[test]
fn authentication() {
    check(
        json!({"authentication": {
            "authenticateRateLimiterMaxTries": "7",
            "authenticationRateLimiterDuration": "30m",
            "loginHistoryRetentionPeriod": "24h",
            "maximumClockSkew": "1s",
            "oauthOptions": {
                "accessTokenMaxAge": "2h",
                "identityProviders": [{"name": "ldap", "provider": {"bindPassword": "p: \"x"}}],
                "clients": [{"name": "other"}],
            },
        }, "common": {"core": {"console": {"enableMultiLogin": false}}}}),
        json!({
            "/authentication/authenticateRateLimiterMaxTries": 7,
            "/authentication/authenticateRateLimiterDuration": "30m",
            "/authentication/loginHistoryRetentionPeriod": "24h",
            "/authentication/maximumClockSkew": "1s",
            "/authentication/multipleLogin": false,
            "/authentication/oauthOptions/accessTokenMaxAge": "2h",
            "/authentication/oauthOptions/identityProviders/0/provider/bindPassword":
                "authentication.oauthOptions.identityProviders.0.provider.bindPassword",
            "/authentication/oauthOptions/clients/0/name": "other",
            "/authentication/oauthOptions/clients/1/name": "kubesphere",
        }),
    );
    check(
        json!({"authentication": {"oauthOptions": {"clients": [{"name": "kubesphere"}]}}}),
        json!({"/authentication/oauthOptions/clients": [{"name": "kubesphere"}]}),
    );
    check_before(
        json!({}),
        json!({"authentication": {"loginHistoryMaximumEntries": 50}, "metering": {"retentionDay": "7d"}, "other": 1}),
        json!({"/authentication/loginHistoryMaximumEntries": 50, "/metering/retentionDay": "7d", "/other": null}),
    );
}

#[test]
fn kubectl_follows_the_cluster() {
    for (cluster, tag) in [
        ("v1.19.16", "v1.19.1"),
        ("v1.20.2+k3s1", "v1.20.0"),
        ("v1.21.5-eks-bc4871b", "v1.21.0"),
        ("v1.23.4", "v1.22.0"),
        ("v1.15.0", "v1.0.0"),
    ] {
        let manifests = render_with(json!({}), |inputs| {
            inputs.cluster.kubernetes_version = cluster.into();
        });
        let image = common::kubesphere_config(&manifests)["authentication"]["kubectlImage"].clone();
        assert_eq!(image, json!(format!("kubesphere/kubectl:{tag}")), "{cluster}");
    }
}

#[test]
fn roles_among_clusters() {
    check(
        json!({"multicluster": {"clusterRole": "host", "proxyPublishAddress": "http://1.2.3.4:8080",
            "hostClusterName": "h", "clusterControllerResyncPeriod": "60s"}}),
        json!({"/multicluster": {"clusterRole": "host", "enable": true, "agentImage": "kubesphere/tower:v0.2.0",
            "proxyPublishService": "tower.kubesphere-system.svc", "proxyPublishAddress": "http://1.2.3.4:8080",
            "clusterControllerResyncPeriod": "60s", "hostClusterName": "h"},
            "/authentication/oauthOptions/accessTokenMaxAge": null}),
    );
    let member = json!({"multicluster": {"clusterRole": "member", "proxyPublishAddress": "ignored"},
        "authentication": {"oauthOptions": {"accessTokenMaxAge": "2h"}}});
    check(
        member.clone(),
        json!({"/multicluster": {"clusterRole": "member", "enable": false},
            "/authentication/oauthOptions/accessTokenMaxAge": 0}),
    );
    check_before(
        member,
        json!({"multicluster": {"clusterName": "m1"}}),
        json!({"/multicluster/clusterName": "m1"}),
    );
}

#[test]
fn storage_ldap_and_devops() {
    check(
        json!({"common": {"openldap": {"enabled": true}}}),
        json!({"/ldap": {"host": "openldap.kubesphere-system.svc:389", "managerDN": "cn=admin,dc=kubesphere,dc=io",
            "managerPassword": "adminPassword", "userSearchBase": "ou=Users,dc=kubesphere,dc=io",
            "groupSearchBase": "ou=Groups,dc=kubesphere,dc=io"}, "/s3": null, "/devops": null}),
    );
    let s3 = |bucket: &str| {
        json!({"endpoint": "http://minio.kubesphere-system.svc:9000", "region": "us-east-1", "disableSSL": true,
            "forcePathStyle": true, "accessKeyID": "openpitrixminioaccesskey",
            "secretAccessKey": "openpitrixminiosecretkey", "bucket": bucket})
    };
    check(
        json!({"devops": {"enabled": true}}),
        json!({"/ldap/managerPassword": "adminPassword", "/s3": s3("s2i-binaries"), "/openpitrix": null, "/sonarQube": null,
            "/devops": {"host": "http://devops-jenkins.kubesphere-devops-system.svc/", "username": "admin",
                "password": "token", "maxConnections": 100,
                "endpoint": "http://devops-apiserver.kubesphere-devops-system:9090"}}),
    );
    check(
        json!({"openpitrix": {"store": {"enabled": true}}}),
        json!({"/openpitrix": {"s3": s3("app-store")}, "/s3": null}),
    );
    // Secrets of the ClusterConfiguration are references until the object is written.
    check(
        json!({"openpitrix": {"store": {"enabled": true}}, "common": {"s3": {"endpoint": "https://s3", "region": "eu",
            "disableSSL": "False", "forcePathStyle": false, "accessKeyID": "a", "secretAccessKey": "b",
            "openpitrixBucket": "c"}}}),
        json!({"/openpitrix/s3": {"endpoint": "https://s3", "region": "eu", "disableSSL": false,
            "forcePathStyle": false, "accessKeyID": "common.s3.accessKeyID",
            "secretAccessKey": "common.s3.secretAccessKey", "bucket": "c"}}),
    );
    let sonar = json!({"sonarQube": {"host": "http://old", "token": "t"}});
    check_before(
        json!({"devops": {"enabled": true}}),
        sonar.clone(),
        json!({"/sonarQube": sonar["sonarQube"]}),
    );
    check_before(json!({}), sonar.clone(), json!({"/sonarQube": null}));
    check_before(
        json!({"devops": {"enabled": true, "sonarqube": {"externalSonarUrl": "http://new", "externalSonarToken": "x"}}}),
        sonar,
        json!({"/sonarQube": {"host": "http://new", "token": "devops.sonarqube.externalSonarToken"}}),
    );
}

#[test]
fn network() {
    check(json!({"network": {}}), json!({"/network": null}));
    check(
        json!({"network": {"networkpolicy": {"enabled": true}, "ippool": {"type": "calico"},
            "topology": {"type": "weave-scope"}}}),
        json!({"/network": {"enableNetworkPolicy": true, "ippoolType": "calico",
            "weaveScopeHost": "weave-scope-app.weave"}}),
    );
    check(
        json!({"network": {"networkpolicy": {"enabled": false}, "ippool": {"type": "none"}, "topology": {"type": "none"}}}),
        json!({"/network": {"ippoolType": "none"}}),
    );
    check(
        json!({"networkpolicy": {"enabled": true}}),
        json!({"/network": {"enableNetworkPolicy": true}}),
    );
}

#[test]
fn elasticsearch() {
    let bundled = "http://elasticsearch-logging-data.kubesphere-logging-system.svc:9200";
    let all = json!({"enabled": true});
    let spec = json!({"logging": all, "events": all, "auditing": all});
    check(
        spec.clone(),
        json!({"/logging": {"host": bundled, "indexPrefix": "ks-logstash-log"},
            "/events": {"host": bundled, "indexPrefix": "ks-logstash-events"},
            "/auditing": {"enable": true, "host": bundled, "indexPrefix": "ks-logstash-auditing",
                "webhookURL": "https://kube-auditing-webhook-svc.kubesphere-logging-system.svc:6443/audit/webhook/event"}}),
    );
    let mut external = spec.clone();
    external["common"] = json!({"es": {"externalElasticsearchUrl": "es", "externalElasticsearchHost": "",
        "externalElasticsearchPort": 9200, "externalElasticsearchProtocol": "https", "elkPrefix": "p",
        "basicAuth": {"enabled": true, "username": "u", "password": "hunter2"}}});
    let auth = |index: &str| {
        json!({"host": "https://es:9200", "basicAuth": true, "username": "u",
            "password": "common.es.basicAuth.password", "indexPrefix": index})
    };
    check(
        external.clone(),
        json!({"/logging": auth("ks-p-log"), "/events": auth("ks-p-events")}),
    );
    external["common"]["es"]["externalElasticsearchPort"] = json!("");
    check_before(
        external,
        json!({"logging": {"indexPrefix": "a"}, "events": {"indexPrefix": "b"}, "auditing": {"indexPrefix": "c"}}),
        json!({"/logging/host": bundled, "/logging/indexPrefix": "a", "/events/indexPrefix": "b",
            "/auditing/indexPrefix": "c", "/auditing/basicAuth": true}),
    );
}

#[test]
fn other_components() {
    check(
        json!({"servicemesh": {"enabled": true}, "alerting": {"enabled": true},
            "common": {"monitoring": {"endpoint": "http://p", "GPUMonitoring": {"enabled": true}},
                "gpu": {"kinds": [{"resourceName": "a", "resourceType": "GPU"}]},
                "notification": {"endpoint": "http://n"}},
            "edgeruntime": {"enabled": true, "kubeedge": {"enabled": true}},
            "terminal": {"image": "own:1", "timeout": 0}, "gateway": {"namespace": "g"}}),
        json!({
            "/servicemesh": {"istioPilotHost": "http://istiod.istio-system.svc:8080/version",
                "jaegerQueryHost": "http://jaeger-query.istio-system.svc:16686",
                "servicemeshPrometheusHost": "http://prometheus-k8s.kubesphere-monitoring-system.svc:9090",
                "kialiQueryHost": "http://kiali.istio-system:20001"},
            "/alerting": {"prometheusEndpoint": "http://p",
                "thanosRulerEndpoint": "http://thanos-ruler-operated.kubesphere-monitoring-system.svc:10902",
                "thanosRuleResourceLabels": "thanos-ruler=kubesphere,role=alert-rules"},
            "/monitoring": {"endpoint": "http://p", "enableGPUMonitoring": true},
            "/gpu/kinds": [{"resourceName": "a", "resourceType": "GPU"}],
            "/notification/endpoint": "http://n",
            "/edgeruntime/endpoint": "http://edgeservice.kubeedge.svc/api/",
            "/kubeedge": null,
            "/terminal": {"image": "own:1", "timeout": 0},
            "/gateway/namespace": "g",
        }),
    );
    check(
        json!({"common": {"monitoring": {"endpoint": ""}}}),
        json!({"/monitoring/endpoint":
        "http://prometheus-operated.kubesphere-monitoring-system.svc:9090"}),
    );
    check(
        json!({"edgeruntime": {"enabled": true, "kubeedge": {"enabled": false}}}),
        json!({"/edgeruntime": null}),
    );
}

#[test]
fn high_availability() {
    #[track_caller]
    fn check(enable: Value, masters: usize, redis_enabled: bool, replicas: u64, redis: bool) {
        let spec = json!({"enableHA": enable, "common": {"redis": {"enabled": redis_enabled}}});
        let manifests = render_with(spec, |inputs| inputs.cluster.masters = masters);
        for name in PROGRAMS {
            assert_eq!(
                get(&manifests, &deployment(name), "/spec/replicas"),
                Some(&replicas.into()),
                "{name}"
            );
        }
        for name in &PROGRAMS[..2] {
            let env = get(
                &manifests,
                &deployment(name),
                "/spec/template/spec/containers/0/env",
            );
            let expect = json!([{"name": "KUBESPHERE_REDIS_PASSWORD",
                "valueFrom": {"secretKeyRef": {"name": "redis-secret", "key": "auth"}}}]);
            assert_eq!(env, redis.then_some(&expect), "{name}");
        }
        let section = json!({"host": "redis.kubesphere-system.svc", "port": 6379,
            "password": "KUBESPHERE_REDIS_PASSWORD", "db": 0});
        assert_eq!(
            common::kubesphere_config(&manifests).get("redis"),
            redis.then_some(&section)
        );
    }
    check(Value::Null, 0, false, 1, false);
    check(Value::Null, 1, false, 1, false);
    check(Value::Null, 1, true, 1, true);
    check(Value::Null, 3, false, 3, true);
    check(json!(true), 1, false, 3, true);
    check(json!(true), 2, false, 2, true);
    check(json!(false), 3, false, 3, false);
}

#[test]
fn where_and_how_large_the_programs_are() {
    let spec = json!({
        "nodeSelector": {"all": "x"},
        "tolerations": [{"operator": "Exists"}],
        "ks_image_pull_policy": "Always",
        "common": {"core": {
            "apiserver": {"resources": {"limits": {"memory": "2Gi", "ephemeral-storage": "1Gi"}}},
            "controllerManager": {"resources": {"requests": {"cpu": "1"}}},
            "nodeAffinity": {"own": []},
            "console": {"type": "ClusterIP", "port": 30000,
                "extraVolumes": [{"name": "v", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "v", "mountPath": "/v"}]},
        }},
    });
    let manifests = render(spec);
    for name in PROGRAMS {
        let pod = get(&manifests, &deployment(name), "/spec/template/spec").unwrap();
        assert_eq!(pod["nodeSelector"], json!({"all": "x"}));
        assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
        assert_eq!(pod["affinity"]["nodeAffinity"], json!({"own": []}));
        assert_eq!(pod["containers"][0]["imagePullPolicy"], json!("Always"));
    }
    let resources = "/spec/template/spec/containers/0/resources";
    assert_eq!(
        get(&manifests, &deployment("ks-apiserver"), resources),
        Some(
            &json!({"limits": {"memory": "2Gi", "ephemeral-storage": "1Gi", "cpu": "1"},
            "requests": {"cpu": "20m", "memory": "100Mi"}})
        )
    );
    assert_eq!(
        get(&manifests, &deployment("ks-controller-manager"), resources),
        Some(
            &json!({"limits": {"cpu": "1", "memory": "1000Mi"}, "requests": {"cpu": "1", "memory": "50Mi"}})
        )
    );
    let console = deployment("ks-console");
    assert_eq!(
        get(&manifests, &console, "/spec/template/spec/volumes/3"),
        Some(&json!({"name": "v", "emptyDir": {}}))
    );
    assert_eq!(
        get(
            &manifests,
            &console,
            "/spec/template/spec/containers/0/volumeMounts/3"
        ),
        Some(&json!({"name": "v", "mountPath": "/v"}))
    );
    let service = ObjectKey::namespaced("", "Service", "kubesphere-system", "ks-console");
    assert_eq!(get(&manifests, &service, "/spec/type"), Some(&json!("ClusterIP")));
    assert_eq!(get(&manifests, &service, "/spec/ports/0/nodePort"), None);
    let manifests =
        render(json!({"common": {"core": {"console": {"port": "30001"}, "nodeSelector": {"a": "b"}}}}));
    assert_eq!(
        get(&manifests, &service, "/spec/ports/0/nodePort"),
        Some(&json!(30001))
    );
    assert_eq!(
        get(&manifests, &console, "/spec/template/spec/nodeSelector"),
        Some(&json!({"a": "b"}))
    );
}

#[test]
fn service_account_tokens_from_1_24_on() {
    for (version, wanted) in [("v1.23.17", false), ("v1.24.7-eks-fb459a0", true)] {
        let manifests = render_with(json!({}), |inputs| {
            inputs.cluster.kubernetes_version = version.into();
        });
        let token = ObjectKey::namespaced("", "Secret", "kubesphere-system", "kubesphere-sa-token");
        let account = ObjectKey::namespaced("", "ServiceAccount", "kubesphere-system", "kubesphere");
        assert_eq!(common::find(&manifests, &token).is_some(), wanted);
        let secrets = get(&manifests, &account, "/secrets");
        assert_eq!(
            secrets,
            wanted.then_some(&json!([{"name": "kubesphere-sa-token"}]))
        );
    }
}

#[test]
fn admin_is_made_once_with_a_password_nobody_knows() {
    let admin = ObjectKey::cluster("iam.kubesphere.io", "User", "admin");
    let release = common::release("v3.3.1");
    let mut inputs = common::inputs(&release, &json!({}));
    let secret_keys = |inputs: &Inputs| -> Vec<String> {
        let secrets = release
            .component(common::COMPONENT)
            .unwrap()
            .generated_secrets(&release, inputs)
            .unwrap();
        let keys = secrets.into_iter().flat_map(|secret| secret.keys);
        keys.map(|key| key.name).collect()
    };
    assert!(common::find(&common::manifests(&release, &inputs), &admin).is_none());
    assert_eq!(secret_keys(&inputs), ["secret", "token"]);
    inputs.existing.clear();
    let manifests = common::manifests(&release, &inputs);
    assert_eq!(
        get(&manifests, &admin, "/spec/password"),
        Some(&json!(
            "${secret:kubesphere-system/kubesphere-secret/initAdminPassword}"
        ))
    );
    assert_eq!(secret_keys(&inputs), ["secret", "token", "initAdminPassword"]);
}

#[test]
fn namespaces_are_labelled_and_others_left_alone() {
    let spec = json!({"devops": {"enabled": true}, "servicemesh": {"enabled": true}, "multicluster": {"clusterRole": "host"}});
    let manifests = render_with(spec, |inputs| {
        let labels = |pairs: Value| serde_json::from_value(pairs).unwrap();
        inputs.cluster.namespaces = [
            ("default", json!({"kubesphere.io/workspace": "mine"})),
            ("kube-system", json!({})),
            ("labelled", json!({"kubesphere.io/namespace": "labelled"})),
            ("bare", json!({"a": "b"})),
        ]
        .map(|(name, pairs)| (name.to_owned(), labels(pairs)))
        .into();
    });
    let found: Vec<(&str, Option<&str>)> = manifests
        .iter()
        .filter(|manifest| manifest.object.kind() == "Namespace")
        .map(|manifest| {
            assert_eq!(
                manifest.object.label("kubesphere.io/namespace"),
                Some(manifest.object.name())
            );
            (
                manifest.object.name(),
                manifest.object.label("kubesphere.io/workspace"),
            )
        })
        .collect();
    let system = Some("system-workspace");
    assert_eq!(
        found,
        [
            ("kubesphere-system", system),
            ("kubesphere-controls-system", system),
            ("kubesphere-monitoring-system", system),
            ("kubesphere-monitoring-federated", system),
            ("kubesphere-logging-system", system),
            ("kubesphere-devops-system", system),
            ("istio-system", system),
            ("kube-federation-system", system),
            ("bare", None),
            ("default", Some("mine")),
            ("kube-system", system),
        ]
    );
}

#[test]
fn images() {
    let host = json!({"multicluster": {"clusterRole": "host"}});
    assert_eq!(
        images_of(&render(host)),
        [
            "alpine:3.14",
            "kubesphere/examples-bookinfo-details-v1:1.16.2",
            "kubesphere/examples-bookinfo-productpage-v1:1.16.2",
            "kubesphere/examples-bookinfo-ratings-v1:1.16.3",
            "kubesphere/examples-bookinfo-reviews-v1:1.16.2",
            "kubesphere/ks-apiserver:v3.3.1",
            "kubesphere/ks-console:v3.3.1",
            "kubesphere/ks-controller-manager:v3.3.1",
            "kubesphere/kubectl:v1.20.0",
            "kubesphere/nginx-ingress-controller:v1.1.0",
            "kubesphere/tower:v0.2.0",
            "mirrorgooglecontainers/defaultbackend-amd64:1.4",
        ]
    );
    let overrides =
        json!({"dev_tag": "nightly", "ks_console_tag": "own", "ks_apiserver_repo": "elsewhere/api"});
    let images = images_of(&render(overrides));
    for image in [
        "elsewhere/api:nightly",
        "kubesphere/ks-console:own",
        "kubesphere/ks-controller-manager:nightly",
    ] {
        assert!(images.iter().any(|i| i == image), "{image}: {images:?}");
    }
}

/// For a registry that is filled before anybody knows the cluster.
#[test]
fn declared_images_hold_what_any_cluster_needs() {
    let release = common::release("v3.3.1");
    let declared = declared_images(&release);
    assert!(declared.is_sorted());
    let host = json!({"multicluster": {"clusterRole": "host"}});
    for minor in 19..=23 {
        let mut inputs = common::inputs(&release, &host);
        inputs.cluster.kubernetes_version = format!("v1.{minor}.4");
        for image in images_of(&common::manifests(&release, &inputs)) {
            assert!(declared.contains(&image), "{image} on 1.{minor}");
        }
    }
    let kubectl: Vec<_> = declared
        .iter()
        .filter_map(|image| image.strip_prefix("kubesphere/kubectl:"))
        .collect();
    assert_eq!(kubectl, ["v1.19.1", "v1.20.0", "v1.21.0", "v1.22.0"]);
}

/// Wherever an image is named, in objects and in the documents inside them, it follows the registry.
#[test]
fn every_image_follows_a_private_registry() {
    let spec = |registry: &str| json!({"local_registry": registry, "multicluster": {"clusterRole": "host"}});
    let own = images_of(&render(spec("")));
    let manifests = render(spec("r.local:5000"));
    let moved = images_of(&manifests);
    assert_eq!(own.len(), moved.len());
    for image in &own {
        let with_namespace = if image.contains('/') {
            image.clone()
        } else {
            format!("library/{image}")
        };
        assert!(
            moved.contains(&format!("r.local:5000/{with_namespace}")),
            "{image}"
        );
    }
    for manifest in &manifests {
        let text = manifest.object.as_value().to_string();
        for image in &own {
            let (repository, _) = image.split_once(':').unwrap();
            for (at, _) in text
                .match_indices(repository)
                .filter(|_| repository.contains('/'))
            {
                assert!(
                    text[..at].ends_with("r.local:5000/"),
                    "{image} in {:?}",
                    manifest.object
                );
            }
        }
    }
}

#[test]
fn no_plan_holds_a_secret() {
    let spec = json!({
        "authentication": {"jwtSecret": "hunter2", "adminPassword": "hunter2",
            "oauthOptions": {"clients": [{"name": "own", "secret": "hunter2"}]}},
        "logging": {"enabled": true}, "openpitrix": {"store": {"enabled": true}},
        "devops": {"enabled": true, "sonarqube": {"externalSonarUrl": "u", "externalSonarToken": "hunter2"}},
        "common": {"es": {"basicAuth": {"enabled": true, "username": "u", "password": "hunter2"}},
            "s3": {"accessKeyID": "hunter2", "secretAccessKey": "hunter2"}},
    });
    let manifests = render_with(spec, |inputs| inputs.existing.clear());
    assert!(!serde_json::to_string(&manifests).unwrap().contains("hunter2"));
}
