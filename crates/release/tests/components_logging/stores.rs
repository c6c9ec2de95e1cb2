//! Where data is kept: Redis, OpenLDAP, MinIO, Elasticsearch, or one of somebody else's.

use serde_json::{Value, json};

use super::{Case, at, check, everything, everything_and, mk};

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
