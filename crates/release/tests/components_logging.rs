//! Logging, events, auditing, the service mesh, Gatekeeper and the data services, over what people set.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use object::ObjectKey;
use release::{Cluster, Inputs, Manifest, Phase, Release, Releases, images_of, lint, render};
use serde_json::{Map, Value, json};

const COMPONENTS: [&str; 16] = [
    "snapshot-controller",
    "redis",
    "redis-ha",
    "openldap",
    "minio",
    "elasticsearch",
    "elasticsearch-curator",
    "fluent-operator",
    "logging",
    "logsidecar-injector",
    "events",
    "auditing",
    "jaeger",
    "kiali",
    "servicemesh",
    "gatekeeper",
];

/// A cluster, and what people set in it.
struct Case {
    spec: Value,
    cluster: Cluster,
    /// What components observe, by name.
    existing: Value,
}

fn mk(spec: Value) -> Case {
    Case {
        spec,
        cluster: Cluster {
            kubernetes_version: "v1.20.2".into(),
            nodes: 3,
            masters: 1,
            container_runtime: "docker".into(),
            ..Cluster::default()
        },
        existing: json!({}),
    }
}

impl Case {
    fn on(mut self, change: impl FnOnce(&mut Cluster)) -> Self {
        change(&mut self.cluster);
        self
    }

    fn with(mut self, existing: Value) -> Self {
        self.existing = existing;
        self
    }

    fn inputs(&self, release: &Release, name: &str) -> Inputs {
        let component = release.component(name).unwrap();
        let observed = |(name, _): (&String, _)| Some((name.clone(), self.existing.get(name)?.clone()));
        // An observation of whether there is something is false where there is nothing.
        let mut existing: Map<String, Value> = component
            .existing
            .iter()
            .map(|(name, observation)| {
                let nothing = if observation.pointer.is_none() {
                    json!(false)
                } else {
                    Value::Null
                };
                (name.clone(), nothing)
            })
            .collect();
        existing.extend(component.existing.iter().filter_map(observed));
        Inputs {
            settings: release.read_settings(component, &self.spec).unwrap(),
            cluster: self.cluster.clone(),
            existing,
        }
    }

    fn is_enabled(&self, name: &str) -> bool {
        let release = release();
        let component = release.component(name).unwrap();
        component
            .is_enabled(release, &self.inputs(release, name))
            .unwrap()
    }

    fn manifests(&self, name: &str) -> Vec<Manifest> {
        let release = release();
        let component = release.component(name).unwrap();
        render(release, component, &self.inputs(release, name))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The objects as `Kind/name`.
    fn objects(&self, name: &str) -> BTreeMap<String, Value> {
        let key = |object: &object::Object| format!("{}/{}", object.kind(), object.name());
        self.manifests(name)
            .into_iter()
            .map(|manifest| (key(&manifest.object), manifest.object.into_value()))
            .collect()
    }

    /// The Secrets to be made, with their keys.
    fn secrets(&self, name: &str) -> Vec<(String, Vec<String>)> {
        let release = release();
        let component = release.component(name).unwrap();
        let secrets = component
            .generated_secrets(release, &self.inputs(release, name))
            .unwrap();
        secrets
            .into_iter()
            .map(|secret| {
                let keys = secret.keys.into_iter().map(|key| key.name);
                let pair = secret.certificate.into_iter();
                let pair = pair.flat_map(|c| [c.authority_key, c.certificate_key, c.private_key]);
                (secret.name, keys.chain(pair).collect())
            })
            .collect()
    }
}

fn release() -> &'static Release {
    static RELEASE: LazyLock<Release> =
        LazyLock::new(|| Releases::embedded().unwrap().latest().unwrap().clone());
    &RELEASE
}

fn everything() -> Value {
    json!({
        "persistence": {"storageClass": ""},
        "common": {"redis": {"enabled": true}, "openldap": {"enabled": true}},
        "logging": {"enabled": true}, "events": {"enabled": true}, "auditing": {"enabled": true},
        "servicemesh": {"enabled": true}, "gatekeeper": {"enabled": true}, "devops": {"enabled": true},
        "openpitrix": {"store": {"enabled": true}},
    })
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn everything_and(more: Value) -> Value {
    let mut spec = everything();
    merge(&mut spec, more);
    spec
}

/// Settings and clusters that all components are rendered for.
fn matrix() -> Vec<Case> {
    let everywhere = json!({
        "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "x", "operator": "Exists"}]}]}}},
    });
    let external = json!({"common": {"es": {
        "externalElasticsearchHost": "es.example", "externalElasticsearchPort": "9243",
        "externalElasticsearchProtocol": "https",
        "basicAuth": {"enabled": true, "username": "elastic", "password": "hunter2"}}}});
    vec![
        mk(json!({})),
        mk(everything()),
        mk(everything_and(
            json!({"enableHA": true, "common": {"redis": {"enableHA": true}}}),
        )),
        mk(everything_and(external)),
        mk(everything_and(
            json!({"common": {"s3": {"endpoint": "https://s3", "accessKeyID": "hunter2",
            "secretAccessKey": "hunter2"}}}),
        )),
        mk(everything_and(json!({"local_registry": "registry.example:5000"}))),
        mk(everything_and(json!({"zone": "cn"}))),
        mk(everything_and(
            json!({"local_registry": "registry.example:5000", "namespace_override": "mirror"}),
        )),
        mk(everything_and(everywhere)),
        mk(everything_and(json!({"persistence": {"storageClass": "fast"}}))),
        mk(everything_and(json!({
            "common": {"es": {"master": {"resources": {"limits": {"memory": "3Gi"}}}, "logMaxAge": 3}},
            "logging": {"logsidecar": {"enabled": false}}, "events": {"ruler": {"enabled": false}},
            "auditing": {"webhook": {"resources": {"limits": {"memory": "1Gi"}}}},
            "servicemesh": {"istio": {"components": {"ingressGateways": [{"name": "g", "enabled": true}]}},
                "jaeger": {"resources": {"limits": {"memory": "1Gi"}}}}}))),
        mk(everything()).on(|cluster| cluster.kubernetes_version = "v1.19.16".into()),
        mk(everything()).on(|cluster| cluster.kubernetes_version = "v1.21.5-eks-bc4871b".into()),
        mk(everything()).on(|cluster| {
            cluster.kubernetes_version = "v1.22.17+k3s1".into();
            cluster.container_runtime = "containerd".into();
        }),
        mk(everything()).on(|cluster| {
            cluster.kubernetes_version = "v1.23.4".into();
            cluster.container_runtime = "crio".into();
        }),
        mk(everything()).on(|cluster| {
            cluster.nodes = 1;
            cluster.container_runtime = String::new();
        }),
        mk(everything()).on(|cluster| {
            cluster.nodes = 12;
            cluster.masters = 3;
        }),
    ]
}

/// What a value holds at a pointer.
#[track_caller]
fn at<'a>(objects: &'a BTreeMap<String, Value>, object: &str, pointer: &str) -> &'a Value {
    objects[object].pointer(pointer).unwrap_or(&Value::Null)
}

#[track_caller]
fn check(case: &Case, component: &str, expect: &[(&str, &str, Value)]) {
    let objects = case.objects(component);
    for (object, pointer, value) in expect {
        assert_eq!(at(&objects, object, pointer), value, "{object} {pointer}");
    }
}

#[test]
fn nothing_is_declared_in_vain() {
    let ours = |problem: &String| {
        COMPONENTS
            .iter()
            .any(|name| problem.starts_with(&format!("{name}:")))
    };
    let problems: Vec<String> = lint(release()).into_iter().filter(ours).collect();
    assert_eq!(problems, [""; 0]);
}

#[test]
fn what_a_component_needs_comes_before_it() {
    let release = release();
    let place = |name: &str| {
        release
            .components
            .iter()
            .position(|component| component.name == name)
    };
    for name in COMPONENTS {
        for needed in &release.component(name).unwrap().needs {
            assert!(
                place(needed).unwrap() < place(name).unwrap(),
                "{name} needs {needed}"
            );
        }
    }
    // It reads their Secrets.
    for name in ["redis", "redis-ha", "openldap", "minio"] {
        assert!(place(name) < place("ks-core"), "{name}");
    }
}

#[test]
fn whatever_is_set_the_objects_hold_together() {
    for (index, case) in matrix().iter().enumerate() {
        let mut owners: BTreeMap<ObjectKey, &str> = BTreeMap::new();
        for name in COMPONENTS {
            let manifests = case.manifests(name);
            assert!(manifests.is_sorted_by_key(|manifest| manifest.phase));
            if !case.is_enabled(name) {
                continue;
            }
            for manifest in &manifests {
                let text = manifest.object.as_value().to_string();
                let key = manifest.object.key();
                // Passwords are references, also in documents; nothing has one of the passwords that once were everywhere.
                for secret in ["hunter2", "openpitrixminio", "P@88w0rd", "\"value\":\"admin\""] {
                    assert!(!text.contains(secret), "{index}: {key} holds {secret}");
                }
                if key.kind != "CustomResourceDefinition" {
                    assert!(
                        !text.contains("\"Always\"") && !text.contains(": Always"),
                        "{index}: {key}"
                    );
                }
                if key.kind == "Secret" && manifest.object.get("/data").is_some() {
                    for value in manifest
                        .object
                        .get("/data")
                        .unwrap()
                        .as_object()
                        .unwrap()
                        .values()
                    {
                        assert!(
                            release::secret::is_secret(value.as_str().unwrap()),
                            "{index}: {key}"
                        );
                    }
                }
                if key.kind == "ConfigMap" {
                    let data = manifest.object.get("/data").unwrap().as_object().unwrap();
                    assert!(data.values().all(Value::is_string), "{index}: {key}");
                }
                if let Some(other) = owners.insert(key.clone(), name) {
                    panic!("{index}: {key} is of {other} and {name}");
                }
            }
        }
    }
}

#[test]
fn images_follow_the_registry() {
    let all = |spec: Value, runtime: &str| -> Vec<String> {
        let case = mk(everything_and(spec)).on(|cluster| cluster.container_runtime = runtime.into());
        let names = COMPONENTS.into_iter();
        images_of(&names.flat_map(|name| case.manifests(name)).collect::<Vec<_>>())
    };
    let plain = all(json!({}), "docker");
    assert_eq!(plain.len(), 32, "{plain:#?}");
    for image in &plain {
        assert!(
            image.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest"),
            "{image}"
        );
    }
    let local = all(json!({"local_registry": "registry.example:5000"}), "docker");
    let expect: Vec<String> = plain
        .iter()
        .map(|image| {
            let library = if image.contains('/') { "" } else { "library/" };
            format!("registry.example:5000/{library}{image}")
        })
        .collect();
    let sorted = |mut images: Vec<String>| {
        images.sort();
        images
    };
    assert_eq!(local, sorted(expect));
    let name = |image: &String| image.rsplit('/').next().unwrap().to_owned();
    let mirror = "registry.cn-beijing.aliyuncs.com/kubesphereio/";
    let expect = plain
        .iter()
        .map(|image| format!("{mirror}{}", name(image)))
        .collect();
    assert_eq!(all(json!({"zone": "cn"}), "docker"), sorted(expect));

    // Documents and arguments follow, too, and so does an image that is set by itself.
    let spec =
        everything_and(json!({"local_registry": "r", "kiali_tag": "v2", "istio_proxyv2_repo": "mine/proxy"}));
    let case = mk(spec);
    let objects = case.objects("logsidecar-injector");
    let sidecar = at(
        &objects,
        "ConfigMap/logsidecar-injector-configmap",
        "/data/sidecar.yaml",
    );
    assert!(
        sidecar
            .as_str()
            .unwrap()
            .contains("image: r/elastic/filebeat:6.7.0"),
        "{sidecar}"
    );
    let operator = "Deployment/ks-events-operator";
    let argument = "/spec/template/spec/containers/0/args/0";
    let reloader = json!("--config-reloader-image=r/jimmidyson/configmap-reload:v0.5.0");
    check(&case, "events", &[(operator, argument, reloader)]);
    check(
        &case,
        "kiali",
        &[
            (
                "Kiali/kiali",
                "/spec/deployment/image_name",
                json!("r/kubesphere/kiali"),
            ),
            ("Kiali/kiali", "/spec/deployment/image_version", json!("v2")),
        ],
    );
    let objects = case.objects("servicemesh");
    let images = at(&objects, "ConfigMap/istio-configuration", "/data/images.yaml");
    let images = object::parse_documents(images.as_str().unwrap())
        .unwrap()
        .remove(0);
    assert_eq!(
        images["spec"],
        json!({"hub": "r/istio", "tag": "1.11.1", "values": {
            "pilot": {"image": "r/istio/pilot:1.11.1"},
            "global": {"proxy": {"image": "mine/proxy:1.11.1"}, "proxy_init": {"image": "mine/proxy:1.11.1"}}}})
    );
}

#[test]
fn settings_ask_for_components() {
    let enabled = |case: &Case| -> Vec<&str> {
        COMPONENTS
            .into_iter()
            .filter(|name| case.is_enabled(name))
            .collect()
    };
    assert_eq!(enabled(&mk(json!({}))), ["snapshot-controller"]);
    assert_eq!(
        enabled(&mk(json!({"logging": {"enabled": "true"}}))),
        [
            "snapshot-controller",
            "elasticsearch",
            "elasticsearch-curator",
            "fluent-operator",
            "logging",
            "logsidecar-injector"
        ]
    );
    assert_eq!(
        enabled(&mk(json!({"servicemesh": {"enabled": true}}))),
        [
            "snapshot-controller",
            "elasticsearch",
            "elasticsearch-curator",
            "jaeger",
            "kiali",
            "servicemesh"
        ]
    );
    let external = json!({"externalElasticsearchUrl": "es", "externalElasticsearchPort": 9200});
    assert_eq!(
        enabled(&mk(
            json!({"events": {"enabled": true}, "common": {"es": external}})
        )),
        [
            "snapshot-controller",
            "elasticsearch-curator",
            "fluent-operator",
            "events"
        ]
    );
    assert_eq!(
        enabled(&mk(json!({"devops": {"enabled": true}}))),
        ["snapshot-controller", "openldap", "minio"]
    );
    assert_eq!(
        enabled(&mk(
            json!({"openpitrix": {"store": {"enabled": true}}, "common": {"s3": {"endpoint": "e"}}})
        )),
        ["snapshot-controller"]
    );
    let snapshots = mk(json!({})).with(json!({"foreign": true}));
    assert!(
        !snapshots.is_enabled("snapshot-controller"),
        "somebody else's controller does the work"
    );
}

#[test]
fn of_two_kinds_of_redis_the_one_that_is_there_stays() {
    let kinds = |case: &Case| ["redis", "redis-ha"].map(|name| case.is_enabled(name));
    let redis = |more: Value| mk(json!({"common": {"redis": more}}));
    let there = |name: &str| json!({name: true});
    assert_eq!(
        kinds(&redis(json!({"enabled": false, "enableHA": true}))),
        [false, false]
    );
    assert_eq!(kinds(&redis(json!({"enabled": true}))), [true, false]);
    assert_eq!(
        kinds(&redis(json!({"enabled": true, "enableHA": true}))),
        [false, true]
    );
    let masters = mk(json!({})).on(|cluster| cluster.masters = 3);
    assert_eq!(kinds(&masters), [true, false]);
    assert_eq!(kinds(&masters.with(there("servers"))), [false, true]);
    assert_eq!(
        kinds(&redis(json!({"enabled": true, "enableHA": true})).with(there("single"))),
        [true, false]
    );

    let case = redis(json!({"enabled": true, "enableHA": true}));
    check(
        &case,
        "redis-ha",
        &[
            ("StatefulSet/redis-ha-server", "/spec/replicas", json!(3)),
            ("Deployment/redis-ha-haproxy", "/spec/replicas", json!(3)),
            (
                "Deployment/redis-ha-haproxy",
                "/spec/template/spec/tolerations/3/tolerationSeconds",
                json!(60),
            ),
            ("Service/redis", "/spec/selector/app", json!("redis-ha-haproxy")),
        ],
    );
    let objects = case.objects("redis-ha");
    let proxies = at(&objects, "ConfigMap/redis-ha-configmap", "/data/haproxy.cfg")
        .as_str()
        .unwrap();
    for server in 0..3 {
        let line = format!(
            "  use-server R{server} if {{ srv_is_up(R{server}) }} {{ nbsrv(says_{server}_is_master) ge 2 }}\n"
        );
        assert!(proxies.contains(&line), "{proxies}");
    }
    assert_eq!(
        case.secrets("redis-ha"),
        [("redis-secret".into(), vec!["auth".into()])]
    );
}

#[test]
fn volumes_keep_what_they_have() {
    let storage = "/spec/resources/requests/storage";
    let class = "/spec/storageClassName";
    let fast = json!({"persistence": {"storageClass": "fast"}, "common": {"minio": {"volumeSize": "50Gi"}}});
    let minio = |existing: Value, size: &str, storage_class: Value| {
        check(
            &mk(everything_and(fast.clone())).with(existing),
            "minio",
            &[
                ("PersistentVolumeClaim/minio", storage, json!(size)),
                ("PersistentVolumeClaim/minio", class, storage_class),
            ],
        );
    };
    minio(json!({}), "50Gi", json!("fast"));
    let volume = json!({"resources": {"requests": {"storage": "33Gi"}}, "storageClassName": "slow"});
    minio(json!({ "volume": volume }), "33Gi", json!("slow"));

    let template = "/spec/volumeClaimTemplates/0";
    let data = "StatefulSet/elasticsearch-logging-data";
    let elasticsearch = |existing: Value, size: &str, storage_class: Value| {
        let spec = everything_and(json!({"persistence": {"storageClass": "fast"}}));
        check(
            &mk(spec).with(existing),
            "elasticsearch",
            &[
                (data, &format!("{template}{storage}"), json!(size)),
                (data, &format!("{template}{class}"), storage_class),
            ],
        );
    };
    elasticsearch(json!({}), "20Gi", json!("fast"));
    // A claim of an earlier installation takes the new StatefulSet's name.
    elasticsearch(json!({"dataVolumeSize": "25Gi"}), "25Gi", json!("fast"));
    // What a StatefulSet has cannot be changed, whatever became of its volumes since.
    let claim = json!({"resources": {"requests": {"storage": "30Gi"}}});
    elasticsearch(
        json!({"dataClaim": claim, "dataVolumeSize": "99Gi"}),
        "30Gi",
        Value::Null,
    );
}

#[test]
fn elasticsearch_grows_with_the_cluster() {
    let data = "StatefulSet/elasticsearch-logging-data";
    let masters = "StatefulSet/elasticsearch-logging-discovery";
    for (nodes, expect_masters, expect_data) in [(1, 1, 1), (2, 1, 2), (4, 1, 2), (5, 3, 3), (50, 3, 3)] {
        let case = mk(everything()).on(|cluster| cluster.nodes = nodes);
        check(
            &case,
            "elasticsearch",
            &[
                (masters, "/spec/replicas", json!(expect_masters)),
                (data, "/spec/replicas", json!(expect_data)),
            ],
        );
        let objects = case.objects("elasticsearch");
        let text = at(
            &objects,
            "ConfigMap/elasticsearch-logging",
            "/data/elasticsearch.yml",
        );
        let configuration = object::parse_documents(text.as_str().unwrap()).unwrap().remove(0);
        let quorum = expect_masters / 2 + 1;
        assert_eq!(configuration["discovery"]["zen"]["minimum_master_nodes"], quorum);
        assert_eq!(configuration["gateway.expected_data_nodes"], expect_data);
        assert_eq!(configuration["node.name"], "${HOSTNAME}");
    }
    // Each of the two has its own resources; what is not set stays the default.
    let resources = "/spec/template/spec/containers/0/resources";
    check(
        &mk(everything_and(
            json!({"common": {"es": {"master": {"resources": {"limits": {"memory": "3Gi"}}, "replicas": 5}}}}),
        )),
        "elasticsearch",
        &[
            (masters, "/spec/replicas", json!(5)),
            (
                masters,
                resources,
                json!({"limits": {"cpu": "2", "memory": "3Gi"}, "requests": {"cpu": "25m", "memory": "512Mi"}}),
            ),
            (
                data,
                resources,
                json!({"limits": {"cpu": "4", "memory": "2Gi"}, "requests": {"cpu": "25m", "memory": "1536Mi"}}),
            ),
        ],
    );
}

#[test]
fn all_of_it_goes_to_an_external_elasticsearch() {
    let es = json!({"externalElasticsearchHost": "es.example", "externalElasticsearchPort": "9243",
        "externalElasticsearchProtocol": "https",
        "basicAuth": {"enabled": true, "username": "elastic", "password": "hunter2"}, "elkPrefix": "mine",
        "logMaxAge": 3, "auditingMaxAge": "30"});
    let case = mk(everything_and(json!({"common": {"es": es}})));
    for (component, output, index) in [
        ("logging", "Output/es", "ks-mine-log"),
        ("events", "Output/es-events", "ks-mine-events"),
        ("auditing", "Output/es-auditing", "ks-mine-auditing"),
    ] {
        let password =
            json!({"valueFrom": {"secretKeyRef": {"name": "elasticsearch-credentials", "key": "password"}}});
        check(
            &case,
            component,
            &[
                (output, "/spec/es/host", json!("es.example")),
                (output, "/spec/es/port", json!(9243)),
                (output, "/spec/es/tls", json!({"verify": false})),
                (output, "/spec/es/httpPassword", password),
                (output, "/spec/es/logstashPrefix", json!(index)),
            ],
        );
    }
    let es = "/spec/storage/options/es";
    check(
        &case,
        "jaeger",
        &[
            (
                "Jaeger/jaeger",
                "/spec/storage/secretName",
                json!("jaeger-secret"),
            ),
            (
                "Jaeger/jaeger",
                &format!("{es}/server-urls"),
                json!("https://es.example:9243"),
            ),
            ("Jaeger/jaeger", &format!("{es}/index-prefix"), json!("mine")),
        ],
    );
    assert_eq!(
        case.secrets("jaeger"),
        [(
            "jaeger-secret".into(),
            vec!["ES_USERNAME".into(), "ES_PASSWORD".into()]
        )]
    );
    let objects = case.objects("elasticsearch-curator");
    let config = "ConfigMap/elasticsearch-logging-curator-elasticsearch-curator-config";
    assert_eq!(
        at(&objects, config, "/data/config.yml"),
        "client:\n  hosts: [\"es.example\"]\n  port: 9243\n  use_ssl: true\n  ssl_no_validate: true\n  http_auth: ${ELASTICSEARCH_LOGIN}\n"
    );
    let actions = at(&objects, config, "/data/action_file.yml").as_str().unwrap();
    let actions = object::parse_documents(actions).unwrap().remove(0);
    let family = |number: &str| {
        let filters = &actions["actions"][number]["filters"];
        (filters[0]["value"].clone(), filters[1]["unit_count"].clone())
    };
    assert_eq!(family("1"), (json!("ks-mine-log"), json!(3)));
    assert_eq!(family("2"), (json!("ks-mine-events"), json!(3)));
    assert_eq!(family("3"), (json!("ks-mine-auditing"), json!(30)));
    assert_eq!(family("4"), (json!("^mine-[0-9.]+$"), json!(3)));
    // Without a name or a password there is no login.
    let half = mk(everything_and(
        json!({"common": {"es": {"basicAuth": {"enabled": true, "username": "elastic"}}}}),
    ));
    assert_eq!(
        at(&half.objects("logging"), "Output/es", "/spec/es/httpUser"),
        &Value::Null
    );
    assert_eq!(half.secrets("fluent-operator"), []);
}

#[test]
fn logs_are_read_as_the_container_runtime_writes_them() {
    let command = "/spec/template/spec/initContainers/0/command/2";
    let operator = "Deployment/fluentbit-operator";
    for (runtime, input, parser, key, folder, objects) in [
        (
            "docker",
            "docker",
            "docker",
            "log",
            "$(docker info -f {{.DockerRootDir}})",
            6,
        ),
        ("containerd", "containerd", "cri", "message", "/var/log", 8),
        ("crio", "crio", "cri", "message", "/var/log", 8),
        ("", "containerd", "cri", "message", "/var/log", 8),
    ] {
        let case = mk(everything()).on(|cluster| cluster.container_runtime = runtime.into());
        let input = format!("Input/{input}");
        let unit = json!([format!("_SYSTEMD_UNIT={}.service", &input["Input/".len()..])]);
        check(
            &case,
            "logging",
            &[
                ("Input/tail", "/spec/tail/parser", json!(parser)),
                (&input, "/spec/systemd/systemdFilter", unit),
            ],
        );
        assert_eq!(case.objects("logging").len(), objects, "{runtime}");
        for component in ["events", "auditing"] {
            let filter = format!("Filter/filter-{component}");
            check(
                &case,
                component,
                &[(&filter, "/spec/filters/0/parser/keyName", json!(key))],
            );
        }
        let text = format!("set -ex; echo CONTAINER_ROOT_DIR={folder} > /fluentbit-operator/fluent-bit.env");
        check(&case, "fluent-operator", &[(operator, command, json!(text))]);
    }
    let case = mk(everything_and(
        json!({"common": {"containersLogMountedPath": "/data/docker"}}),
    ));
    let text = "set -ex; echo CONTAINER_ROOT_DIR=/data/docker > /fluentbit-operator/fluent-bit.env";
    let volumes = json!([{"name": "env", "emptyDir": {}}]);
    check(
        &case,
        "fluent-operator",
        &[
            (operator, command, json!(text)),
            (operator, "/spec/template/spec/volumes", volumes),
        ],
    );
}

#[test]
fn api_versions_are_the_newest_that_the_cluster_serves() {
    let curator = "CronJob/elasticsearch-logging-curator-elasticsearch-curator";
    let budget = "PodDisruptionBudget/gatekeeper-controller-manager";
    for (kubernetes, batch, policy) in [
        ("v1.19.16", "batch/v1beta1", "policy/v1beta1"),
        ("v1.20.2", "batch/v1beta1", "policy/v1beta1"),
        ("v1.21.0", "batch/v1", "policy/v1"),
        ("v1.22.17-eks-48e63af", "batch/v1", "policy/v1"),
        ("v1.23.4", "batch/v1", "policy/v1"),
    ] {
        let case = mk(everything()).on(|cluster| cluster.kubernetes_version = kubernetes.into());
        check(
            &case,
            "elasticsearch-curator",
            &[(curator, "/apiVersion", json!(batch))],
        );
        check(
            &case,
            "gatekeeper",
            &[
                (budget, "/apiVersion", json!(policy)),
                (
                    "PodSecurityPolicy/gatekeeper-admin",
                    "/apiVersion",
                    json!("policy/v1beta1"),
                ),
            ],
        );
    }
    let case = mk(everything()).on(|cluster| cluster.kubernetes_version = "v1.25.0".into());
    assert!(
        !case
            .objects("gatekeeper")
            .contains_key("PodSecurityPolicy/gatekeeper-admin")
    );
}

#[test]
fn pods_run_where_they_are_told_to() {
    let pod = "/spec/template/spec";
    let spec = everything_and(json!({
        "nodeSelector": {"all": "of-them"}, "tolerations": [{"key": "all", "operator": "Exists"}],
        "common": {"redis": {"nodeSelector": {"only": "redis"}}},
        "events": {"tolerations": []},
    }));
    let case = mk(spec);
    let workloads = ["Deployment", "StatefulSet", "CronJob", "Job"];
    for component in COMPONENTS
        .into_iter()
        .filter(|name| *name != "snapshot-controller")
    {
        for (name, object) in case.objects(component) {
            if !workloads.contains(&name.split('/').next().unwrap()) {
                continue;
            }
            let pod = object
                .pointer(pod)
                .or_else(|| object.pointer("/spec/jobTemplate/spec/template/spec"));
            let pod = pod.unwrap();
            let selector = if component.starts_with("redis") {
                json!({"only": "redis"})
            } else {
                json!({"all": "of-them"})
            };
            assert_eq!(pod["nodeSelector"], selector, "{name}");
            let tolerations = if component == "events" {
                Value::Null
            } else {
                json!([{"key": "all", "operator": "Exists"}])
            };
            assert_eq!(pod["tolerations"], tolerations, "{name}");
        }
    }
    check(
        &case,
        "auditing",
        &[(
            "Webhook/kube-auditing-webhook",
            "/spec/nodeSelector",
            json!({"all": "of-them"}),
        )],
    );
}

#[test]
fn resources_are_filled_up_and_each_has_its_own() {
    let resources = "/spec/template/spec/containers/0/resources";
    let spec = everything_and(json!({
        "events": {"operator": {"resources": {"limits": {"memory": "1Gi"}}}},
        "auditing": {"webhook": {"resources": {"requests": {"memory": "1Gi"}}}},
        "gatekeeper": {"audit": {"resources": {"requests": {"cpu": "1"}}}},
        "servicemesh": {"jaeger_operator": {"resources": {"requests": {"memory": "1Gi"}}}},
    }));
    let filled = |limits: [&str; 2], requests: [&str; 2]| json!({"limits": {"cpu": limits[0], "memory": limits[1]}, "requests": {"cpu": requests[0], "memory": requests[1]}});
    for (component, object, pointer, expect) in [
        (
            "events",
            "Deployment/ks-events-operator",
            resources,
            filled(["200m", "1Gi"], ["20m", "20Mi"]),
        ),
        (
            "auditing",
            "Webhook/kube-auditing-webhook",
            "/spec/resources",
            filled(["200m", "500Mi"], ["20m", "1Gi"]),
        ),
        (
            "gatekeeper",
            "Deployment/gatekeeper-audit",
            resources,
            filled(["1", "512Mi"], ["1", "256Mi"]),
        ),
        (
            "gatekeeper",
            "Deployment/gatekeeper-controller-manager",
            resources,
            filled(["1", "512Mi"], ["100m", "256Mi"]),
        ),
        (
            "jaeger",
            "Deployment/jaeger-operator",
            resources,
            filled(["100m", "128Mi"], ["20m", "1Gi"]),
        ),
    ] {
        check(&mk(spec.clone()), component, &[(object, pointer, expect)]);
    }
}

#[test]
fn certificates_that_serve_webhooks_are_kept() {
    for (component, configuration, secret, keys) in [
        (
            "events",
            "ValidatingWebhookConfiguration/ks-events-admission-validate",
            "ks-events-admission",
            ["ca.crt", "tls.crt", "tls.key"],
        ),
        (
            "logsidecar-injector",
            "MutatingWebhookConfiguration/logsidecar-injector-admission-mutate",
            "logsidecar-injector-admission-certs",
            ["ca.crt", "server.crt", "server.key"],
        ),
    ] {
        let bundle = "/webhooks/0/clientConfig/caBundle";
        let reference = json!(format!(
            "${{secret:kubesphere-logging-system/{secret}/ca.crt|base64}}"
        ));
        let made = [(secret.to_owned(), keys.map(str::to_owned).to_vec())];
        let new = mk(everything());
        check(&new, component, &[(configuration, bundle, reference.clone())]);
        assert_eq!(new.secrets(component), made);
        let helm = mk(everything()).with(json!({"certificate": "QQ==", "webhookAuthority": "Qg=="}));
        check(&helm, component, &[(configuration, bundle, json!("Qg=="))]);
        assert_eq!(helm.secrets(component), []);
        assert_eq!(
            at(
                &helm.objects(component),
                &format!("Secret/{secret}"),
                "/data/ca.crt"
            ),
            &Value::Null
        );
        let ours = mk(everything())
            .with(json!({"certificate": "QQ==", "authority": "Qw==", "webhookAuthority": "Qw=="}));
        check(&ours, component, &[(configuration, bundle, reference)]);
        assert_eq!(ours.secrets(component), made);
    }
}

#[test]
fn passwords_that_are_in_use_are_kept() {
    let environment = "/spec/template/spec/containers/0/env";
    let find = |case: &Case, name: &str| {
        let objects = case.objects("openldap");
        let variables = at(&objects, "StatefulSet/openldap", environment)
            .as_array()
            .unwrap();
        variables
            .iter()
            .find(|variable| variable["name"] == name)
            .cloned()
    };
    let new = mk(everything());
    let reference = json!({"name": "LDAP_ADMIN_PASSWORD",
        "valueFrom": {"secretKeyRef": {"name": "openldap-secret", "key": "adminPassword"}}});
    assert_eq!(find(&new, "LDAP_ADMIN_PASSWORD"), Some(reference.clone()));
    let keys = vec!["configPassword".into(), "adminPassword".into()];
    assert_eq!(new.secrets("openldap"), [("openldap-secret".into(), keys)]);
    let written = json!({"name": "LDAP_ADMIN_PASSWORD", "value": "old"});
    let pod = json!({"name": "MY_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
    let old = mk(everything()).with(json!({"environment": [pod, written]}));
    assert_eq!(find(&old, "LDAP_ADMIN_PASSWORD"), Some(written));
    assert_eq!(old.secrets("openldap"), []);
    let ours = mk(everything()).with(json!({"environment": [pod, reference]}));
    assert_eq!(find(&ours, "LDAP_ADMIN_PASSWORD"), Some(reference));

    assert_eq!(find(&new, "LDAP_REPLICATION").unwrap()["value"], "false");
    assert_eq!(find(&new, "LDAP_REPLICATION_HOSTS"), None);
    let masters = mk(everything()).on(|cluster| cluster.masters = 3);
    assert_eq!(find(&masters, "LDAP_REPLICATION").unwrap()["value"], "true");
    check(
        &masters,
        "openldap",
        &[("StatefulSet/openldap", "/spec/replicas", json!(2))],
    );
}

#[test]
fn events_operator_is_changed_in_place() {
    let selector = json!({"app": "ks-events-operator", "helm.sh/chart": "kube-events-0.3.0"});
    let operator = "Deployment/ks-events-operator";
    let case = mk(everything()).with(json!({ "selector": selector }));
    check(
        &case,
        "events",
        &[
            (operator, "/spec/selector/matchLabels", selector.clone()),
            (operator, "/spec/template/metadata/labels", selector.clone()),
            (
                operator,
                "/metadata/labels/helm.sh~1chart",
                json!("kube-events-0.4.0"),
            ),
            ("Service/ks-events-admission", "/spec/selector", selector),
        ],
    );
}

#[test]
fn rules_about_events_are_made_once() {
    let name = "Rule/ks-events-cluster-rules-default";
    assert!(
        !mk(everything())
            .with(json!({"rules": true}))
            .objects("events")
            .contains_key(name)
    );
    let objects = mk(everything()).objects("events");
    let rules = at(&objects, name, "/spec/rules").as_array().unwrap();
    assert_eq!(rules.len(), 96);
    let find = |name: &str| rules.iter().find(|rule| rule["name"] == name).unwrap();
    assert_eq!(
        find("ContainerBackoff")["condition"],
        r#"type="Warning" and involvedObject.kind="Pod" and reason="BackOff" and involvedObject.fieldPath != "" and count>3"#
    );
    assert_eq!(
        find("PodCreated"),
        &json!({"name": "PodCreated", "type": "notification", "enable": true,
            "condition": r#"type="Normal" and involvedObject.kind in ("Pod","ReplicaSet","DaemonSet","StatefulSet","Job") and reason="SuccessfulCreate""#})
    );
    let failed = find("HPASelectorError");
    assert!(
        failed["condition"]
            .as_str()
            .unwrap()
            .ends_with(r#"and reason in ("SelectorRequired","InvalidSelector")"#)
    );
    assert_eq!(
        (&failed["type"], &failed["labels"]["severity"]),
        (&json!("alert"), &json!("warning"))
    );
    let names: std::collections::BTreeSet<&str> =
        rules.iter().map(|rule| rule["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), rules.len());
    // Without the ruler nobody is there to be told.
    let case = mk(everything_and(json!({"events": {"ruler": {"enabled": false}}})));
    assert!(!case.objects("events").contains_key("Ruler/ks-events-ruler"));
    check(
        &case,
        "events",
        &[(
            "Exporter/ks-events-exporter",
            "/spec/sinks",
            json!({"stdout": {}}),
        )],
    );
}

#[test]
fn istio_is_installed_adopted_and_followed() {
    let job = |case: &Case| {
        let objects = case.objects("servicemesh");
        objects.keys().find(|name| name.starts_with("Job/")).cloned()
    };
    let data = |case: &Case| {
        at(
            &case.objects("servicemesh"),
            "ConfigMap/istio-configuration",
            "/data",
        )
        .clone()
    };
    let changed = || {
        mk(everything_and(
            json!({"servicemesh": {"istio": {"components": {"cni": {"enabled": true}}}}}),
        ))
    };

    let new = mk(everything());
    let first = job(&new).unwrap();
    // Once installed, the same Job is asked for, which is there.
    let installed = |case: Case| case.with(json!({"istiod": true, "configuration": data(&new)}));
    assert_eq!(job(&installed(mk(everything()))), Some(first.clone()));
    let second = job(&installed(changed())).unwrap();
    assert_ne!(first, second, "a changed configuration asks for another Job");

    let adopted = mk(everything()).with(json!({"istiod": true}));
    assert_eq!(job(&adopted), None);
    let later = |case: Case| case.with(json!({"istiod": true, "configuration": data(&adopted)}));
    assert_eq!(job(&later(mk(everything()))), None);
    assert_eq!(data(&later(mk(everything()))), data(&adopted), "nothing to write");
    assert_eq!(job(&later(changed())), Some(second));
    assert_eq!(job(&mk(everything()).with(json!({"foreign": true}))), None);

    let text = data(&changed())["istio.yaml"].clone();
    let istio = object::parse_documents(text.as_str().unwrap()).unwrap().remove(0);
    assert_eq!(istio["spec"]["components"]["cni"]["enabled"], true);
    assert_eq!(
        istio["spec"]["components"]["pilot"]["enabled"], true,
        "maps are merged"
    );
    let user = json!({"hub": "mine", "components": {"ingressGateways": [{"name": "g"}]}});
    let own = data(&mk(everything_and(json!({"servicemesh": {"istio": user}}))));
    assert_eq!(
        own["images.yaml"].as_str().unwrap().matches("image").count(),
        0,
        "{own}"
    );
    let istio = object::parse_documents(own["istio.yaml"].as_str().unwrap())
        .unwrap()
        .remove(0);
    assert_eq!(
        istio["spec"]["components"]["ingressGateways"],
        json!([{"name": "g"}]),
        "lists are replaced"
    );
}

#[test]
fn gatekeeper_does_not_judge_itself() {
    let case = mk(everything());
    let label = "/metadata/labels/admission.gatekeeper.sh~1ignore";
    check(
        &case,
        "gatekeeper",
        &[("Namespace/gatekeeper-system", label, json!("no-self-managing"))],
    );
    // Its own programs write the authority; who declared it would take it away.
    for manifest in case.manifests("gatekeeper") {
        if manifest.phase == Phase::Webhooks {
            for webhook in manifest.object.get("/webhooks").unwrap().as_array().unwrap() {
                assert_eq!(webhook.pointer("/clientConfig/caBundle"), None);
            }
        }
    }
}
