//! What the settings come to: high availability, redis, components, secrets.

use object::Object;
use serde_json::{Value, json};
use upgrade::{
    Severity, Snapshot,
    settings::{
        AdminPassword, ClusterFacts, ClusterRole, LiveFacts, NOW, Redis, Secret, Settings, StorageClass,
        cluster_facts, label_patch, reasons, status_patch,
    },
};

fn cluster(masters: usize) -> ClusterFacts {
    ClusterFacts {
        nodes: masters + 2,
        masters,
        ..ClusterFacts::default()
    }
}

#[track_caller]
fn parse(spec: Value, masters: usize) -> Settings {
    Settings::parse(&spec, &cluster(masters)).expect("valid settings")
}

#[test]
fn replicas_follow_the_masters_and_enable_ha() {
    #[track_caller]
    fn check(masters: usize, enable_ha: Value, enabled: bool, replicas: usize, redis: Redis) {
        let settings = parse(json!({"enableHA": enable_ha}), masters);
        assert_eq!(
            (
                settings.high_availability.enabled,
                settings.high_availability.replicas,
                settings.redis
            ),
            (enabled, replicas, redis)
        );
    }
    check(0, Value::Null, false, 1, Redis::None);
    check(1, Value::Null, false, 1, Redis::None);
    check(2, Value::Null, true, 2, Redis::Single);
    check(3, Value::Null, true, 3, Redis::Single);
    check(0, json!(true), true, 3, Redis::Single);
    check(1, json!("true"), true, 3, Redis::Single);
    check(2, json!(true), true, 2, Redis::Single);
    check(1, json!(false), false, 1, Redis::None);
    check(3, json!(false), false, 3, Redis::None);
}

#[test]
fn replicas_without_redis_are_warned_of() {
    #[track_caller]
    fn check(spec: Value, expect: &[&str]) {
        let found: Vec<_> = parse(spec, 3)
            .check(true)
            .into_iter()
            .map(|finding| finding.reason)
            .collect();
        assert_eq!(found, expect);
    }
    check(json!({"enableHA": false}), &[reasons::REPLICAS_WITHOUT_REDIS]);
    check(
        json!({"enableHA": false, "common": {"redis": {"enabled": true}}}),
        &[],
    );
    check(json!({}), &[]);
}

#[test]
fn redis_has_two_flavours() {
    let redis = |spec: Value| parse(json!({"common": {"redis": spec}}), 1).redis;
    assert_eq!(redis(json!({"enabled": false, "enableHA": true})), Redis::None);
    assert_eq!(redis(json!({"enabled": true})), Redis::Single);
    assert_eq!(
        redis(json!({"enabled": true, "enableHA": true})),
        Redis::HighlyAvailable
    );
}

#[test]
fn openldap_is_needed_by_devops() {
    assert!(!parse(json!({}), 1).openldap);
    assert!(parse(json!({"common": {"openldap": {"enabled": true}}}), 1).openldap);
    assert!(parse(json!({"devops": {"enabled": true}}), 1).openldap);
}

#[test]
fn components_that_are_asked_for() {
    #[track_caller]
    fn check(spec: Value, expect: &[&str]) {
        assert_eq!(parse(spec, 1).components.into_iter().collect::<Vec<_>>(), expect);
    }
    check(json!({}), &["monitoring"]);
    check(
        json!({
            "alerting": {"enabled": true}, "devops": {"enabled": "True"}, "logging": {"enabled": false}, "events": {},
            "metrics_server": {"enabled": true}, "acme": {"enabled": true}, "gitlab": {"enabled": true},
            "multicluster": {"clusterRole": "host"}, "openpitrix": {"enabled": true, "store": {"enabled": false}},
            "network": {"topology": {"type": "weave-scope"}, "networkpolicy": {"enabled": true}},
            "edgeruntime": {"enabled": true, "kubeedge": {"enabled": false}},
        }),
        &[
            "alerting",
            "devops",
            "metrics_server",
            "monitoring",
            "multicluster",
            "network",
        ],
    );
    check(
        json!({
            "multicluster": {"clusterRole": "member"}, "openpitrix": {"store": {"enabled": true}},
            "network": {"topology": {"type": "none"}}, "edgeruntime": {"enabled": true, "kubeedge": {"enabled": true}},
        }),
        &["edgeruntime", "monitoring", "openpitrix"],
    );
}

#[test]
fn absent_empty_and_named_storage_classes_differ() {
    let class = |persistence: Value| parse(json!({ "persistence": persistence }), 1).storage_class;
    assert_eq!(class(json!({})), StorageClass::Unchecked);
    assert_eq!(class(json!({"storageClass": null})), StorageClass::Unchecked);
    assert_eq!(class(json!({"storageClass": ""})), StorageClass::Default);
    assert_eq!(
        class(json!({"storageClass": "fast"})),
        StorageClass::Named("fast".into())
    );
}

#[test]
fn the_role_in_a_federation() {
    let role = |role: &str| parse(json!({"multicluster": {"clusterRole": role}}), 1).multicluster;
    assert_eq!([role(""), role("none"), role("host"), role("member")], {
        use ClusterRole::{Host, Member, None};
        [None, None, Host, Member]
    });
}

#[test]
fn secrets_are_there_and_never_shown() {
    let spec = json!({
        "authentication": {"jwtSecret": "hunter2", "adminPassword": "hunter2"},
        "common": {"es": {"basicAuth": {"enabled": true, "password": "hunter2"}}},
    });
    let settings = parse(spec, 1);
    assert_eq!(settings.jwt_secret.as_ref().map(Secret::expose), Some("hunter2"));
    assert!(
        matches!(&settings.admin_password, AdminPassword::Given(password) if password.expose() == "hunter2")
    );
    assert!(!format!("{settings:?} {:?}", settings.check(false)).contains("hunter2"));

    let settings = parse(
        json!({"authentication": {"jwtSecret": "", "adminPassword": ""}}),
        1,
    );
    assert_eq!(
        (settings.jwt_secret, settings.admin_password),
        (None, AdminPassword::Generated)
    );
    assert_eq!(parse(json!({}), 1).admin_password, AdminPassword::Unset);
}

#[test]
fn a_weak_admin_password_blocks_where_it_would_be_used() {
    let settings = parse(json!({"authentication": {"adminPassword": "weak"}}), 1);
    let severities = [false, true].map(|has_admin| settings.check(has_admin)[0].severity);
    assert_eq!(severities, [Severity::Blocker, Severity::Warning]);
    assert!(
        parse(json!({"authentication": {"adminPassword": "P@88w0rd"}}), 1)
            .check(false)
            .is_empty()
    );
}

#[test]
fn settings_of_a_wrong_type_are_all_named() {
    let spec = json!({
        "common": {"core": {"console": {"port": "high", "type": "Ingress"}}},
        "etcd": [], "authentication": {"jwtSecret": {"x": "hunter2"}},
    });
    let findings = Settings::parse(&spec, &cluster(1)).unwrap_err();
    assert!(
        findings
            .iter()
            .all(|f| f.severity == Severity::Blocker && f.reason == reasons::INVALID_SETTING)
    );
    assert!(findings.iter().all(|f| f.hint.is_some() && f.object.is_some()));
    let messages: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "common.core.console.port is a text, not a whole number, 0 or more",
            "common.core.console.type is not one of NodePort, ClusterIP, LoadBalancer",
            "etcd is a list, not a map",
            "authentication.jwtSecret is a map, not a text",
        ]
    );
}

#[test]
fn the_status_says_the_version_once() {
    let status =
        json!({"clusterId": "c", "core": {"status": "enabled", "version": "v3.2.1", "enabledTime": "t"}});
    let core = |version: &str| json!({"status": "enabled", "enabledTime": NOW, "version": version});
    assert_eq!(
        status_patch(&status, "v3.3.1"),
        Some(json!({"status": {"core": core("v3.3.1")}}))
    );
    assert_eq!(
        status_patch(&Value::Null, "v3.3.1"),
        Some(json!({"status": {"core": core("v3.3.1")}}))
    );
    assert_eq!(status_patch(&status, "v3.2.1"), None);
    assert!(status_patch(&json!({"core": {"version": "v3.3.1"}}), "v3.3.1").is_some());

    let labels = json!({"version": "v3.2.1", "team": "platform"});
    assert_eq!(
        label_patch(&labels, "v3.3.1"),
        Some(json!({"metadata": {"labels": {"version": "v3.3.1"}}}))
    );
    assert_eq!(label_patch(&labels, "v3.2.1"), None);
    assert!(label_patch(&Value::Null, "v3.3.1").is_some());
}

fn mk(kind: &str, namespace: Option<&str>, name: &str, labels: Value) -> Object {
    let api_version = if kind.ends_with("Set") || kind == "Deployment" {
        "apps/v1"
    } else {
        "v1"
    };
    let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
    Object::try_from(json!({"apiVersion": api_version, "kind": kind, "metadata": metadata}))
        .expect("an object")
}

#[test]
fn facts_are_read_from_the_cluster() {
    let role = |role: &str| json!({ format!("node-role.kubernetes.io/{role}"): "" });
    let snapshot = Snapshot::from_objects(
        "v1.22.17",
        [
            mk("Node", None, "a", role("master")),
            mk("Node", None, "b", role("control-plane")),
            mk("Node", None, "c", role("worker")),
            mk("Node", None, "d", json!({"kubernetes.io/role": "master"})),
            mk("Namespace", None, "n", json!({"x": "y"})),
            mk(
                "StatefulSet",
                Some("kubesphere-system"),
                "redis-ha-server",
                json!({}),
            ),
        ],
    );
    let facts = cluster_facts(&snapshot);
    assert_eq!(
        (facts.nodes, facts.masters, facts.kubernetes_version.as_str()),
        (4, 3, "v1.22.17")
    );
    assert_eq!(facts.namespaces["n"]["x"], "y");
    assert_eq!(
        LiveFacts::read(&snapshot),
        LiveFacts {
            redis: true,
            openldap: false
        }
    );
}
