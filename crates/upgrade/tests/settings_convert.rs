//! Every shape of a ClusterConfiguration since 3.0 is brought into that of 3.3 without a loss.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use upgrade::settings::{LiveFacts, convert, reasons, spec_patch};

fn converted(spec: &Value) -> Value {
    convert(spec, &json!({}), &LiveFacts::default()).spec
}

/// `spec` becomes `expect`: in one go, once more without a change, and by the patch on the live object.
#[track_caller]
fn check_with(spec: &Value, status: &Value, live: LiveFacts, expect: &Value) {
    let result = convert(spec, status, &live).spec;
    assert_eq!(&result, expect);
    check_invariants(spec, status, live);
}

#[track_caller]
fn check(spec: Value, expect: Value) {
    check_with(&spec, &json!({}), LiveFacts::default(), &expect);
}

#[track_caller]
fn check_invariants(spec: &Value, status: &Value, live: LiveFacts) {
    let result = convert(spec, status, &live).spec;
    let again = convert(&result, status, &live).spec;
    assert_eq!(
        result.to_string(),
        again.to_string(),
        "converting twice differs from converting once"
    );
    let mut object = json!({ "metadata": {"uid": "u"}, "spec": spec, "status": status });
    let patch = spec_patch(spec, &result);
    assert_eq!(patch.is_none(), *spec == result);
    merge(&mut object, &patch.unwrap_or(json!({})));
    assert_eq!(
        object,
        json!({ "metadata": {"uid": "u"}, "spec": result, "status": status })
    );
}

/// RFC 7386, as an API server applies it.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let map = target.as_object_mut().expect("made a map above");
    for (name, value) in patch {
        if value.is_null() {
            map.shift_remove(name);
        } else {
            merge(map.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn notes(spec: &Value) -> Vec<(String, String)> {
    let notes = convert(spec, &json!({}), &LiveFacts::default()).notes;
    notes
        .into_iter()
        .map(|note| (note.reason, note.message))
        .collect()
}

fn fixture(text: &str) -> (Value, Value) {
    let mut object: Value = serde_json::from_str(text).expect("a fixture is JSON");
    (object["spec"].take(), object["status"].take())
}

fn v3_2_1() -> (Value, Value) {
    fixture(include_str!("fixtures/cluster-configuration-3.2.1.json"))
}

fn v3_0_0() -> (Value, Value) {
    fixture(include_str!("fixtures/cluster-configuration-3.0.0.json"))
}

#[test]
fn volumes_of_3_0() {
    check(
        json!({"common": {"redisVolumSize": "4Gi", "openldapVolumeSize": "3Gi", "minioVolumeSize": "40Gi"}}),
        json!({"common": {"redis": {"volumeSize": "4Gi"}, "openldap": {"volumeSize": "3Gi"}, "minio": {"volumeSize": "40Gi"}}}),
    );
    // Set under both names: the new one counts, and the old one is not lost.
    let spec = json!({"common": {"minio": {"volumeSize": "33Gi"}, "minioVolumeSize": "20Gi"}});
    check(spec.clone(), spec.clone());
    assert_eq!(notes(&spec)[0].0, reasons::SETTING_CONFLICT);
    check(
        json!({"common": {"minio": {"volumeSize": "33Gi"}, "minioVolumeSize": "33Gi"}}),
        json!({"common": {"minio": {"volumeSize": "33Gi"}}}),
    );
    check(
        json!({"common": {"redis": {"volumeSize": ""}, "redisVolumSize": "4Gi"}}),
        json!({"common": {"redis": {"volumeSize": "4Gi"}}}),
    );
}

#[test]
fn redis_and_openldap_keep_all_that_is_set() {
    let redis = json!({
        "enabled": true, "enableHA": true, "volumeSize": "7Gi", "nodeSelector": {"a": "b"},
        "tolerations": [{"operator": "Exists"}], "nodeAffinity": {"x": 1}, "acme": 1,
    });
    let spec = json!({"common": {"redis": redis, "openldap": {"enabled": false, "volumeSize": "9Gi"}}});
    check(spec.clone(), spec);
}

#[test]
fn redis_and_openldap_are_enabled_where_they_are_used() {
    let none = LiveFacts::default();
    let live = LiveFacts {
        redis: true,
        openldap: true,
    };
    let status = json!({"redis": {"status": "enabled"}, "openldap": {"status": "failed"}});
    let sizes = json!({"common": {"redis": {"volumeSize": "7Gi"}}});
    check_with(&sizes, &json!({}), none, &sizes);
    check_with(
        &sizes,
        &status,
        none,
        &json!({"common": {"redis": {"volumeSize": "7Gi", "enabled": true}}}),
    );
    check_with(
        &sizes,
        &json!({}),
        live,
        &json!({"common": {"redis": {"volumeSize": "7Gi", "enabled": true}, "openldap": {"enabled": true}}}),
    );
    check_with(
        &json!({"a": 1}),
        &status,
        none,
        &json!({"a": 1, "common": {"redis": {"enabled": true}}}),
    );
    // What the spec says counts.
    let off = json!({"common": {"redis": {"enabled": false}, "openldap": {"enabled": false}}});
    check_with(&off, &status, live, &off);
}

#[test]
fn elasticsearch_of_3_0_to_3_2_0() {
    check(
        json!({"common": {"es": {
            "elasticsearchMasterReplicas": 3, "elasticsearchDataReplicas": 2,
            "elasticsearchMasterVolumeSize": "6Gi", "elasticsearchDataVolumeSize": "50Gi", "data": {"volumeSize": "25Gi"},
        }}}),
        json!({"common": {"es": {
            "elasticsearchDataVolumeSize": "50Gi", "data": {"volumeSize": "25Gi", "replicas": 2},
            "master": {"replicas": 3, "volumeSize": "6Gi"},
        }}}),
    );
    let spec = json!({"common": {"es": {"logMaxAge": 7}}});
    check(spec.clone(), spec);
}

#[test]
fn external_elasticsearch_of_3_2_1() {
    let es = |es: Value| json!({"common": {"es": es}});
    check(
        es(json!({"externalElasticsearchUrl": "es.example"})),
        es(json!({"externalElasticsearchHost": "es.example"})),
    );
    check(
        es(json!({"externalElasticsearchUrl": "es.example", "externalElasticsearchHost": ""})),
        es(json!({"externalElasticsearchHost": "es.example"})),
    );
    check(
        es(json!({"externalElasticsearchUrl": "", "externalElasticsearchHost": "es.example"})),
        es(json!({"externalElasticsearchHost": "es.example"})),
    );
    check(
        es(json!({"externalElasticsearchUrl": ""})),
        es(json!({"externalElasticsearchHost": ""})),
    );
    let both =
        es(json!({"externalElasticsearchUrl": "old.example", "externalElasticsearchHost": "es.example"}));
    check(both.clone(), both);
}

#[test]
fn console_of_3_0() {
    check(
        json!({"console": {"port": 30881, "enableMultiLogin": false}}),
        json!({"common": {"core": {"console": {"port": 30881, "enableMultiLogin": false}}}}),
    );
    check(
        json!({"console": {"port": 30881, "enableMultiLogin": false}, "common": {"core": {"console": {"port": 30880, "type": "NodePort"}}}}),
        json!({"console": {"port": 30881}, "common": {"core": {"console": {"port": 30880, "type": "NodePort", "enableMultiLogin": false}}}}),
    );
}

#[test]
fn logsidecar_of_3_0() {
    check(
        json!({"logging": {"enabled": true, "logsidecarReplicas": 4, "containerruntime": "docker", "affinity": {"x": 1}}}),
        json!({"logging": {"enabled": true, "containerruntime": "docker", "affinity": {"x": 1}, "logsidecar": {"enabled": true, "replicas": 4}}}),
    );
    check(
        json!({"logging": {"logsidecarReplicas": 4}}),
        json!({"logging": {"logsidecar": {"replicas": 4}}}),
    );
    let spec = json!({"logging": {"enabled": true}});
    check(spec.clone(), spec);
}

#[test]
fn notification_of_3_0() {
    check(
        json!({"notification": {"enabled": true}, "a": 1}),
        json!({"a": 1}),
    );
    check(
        json!({"notification": {"enabled": true, "acme": 1}}),
        json!({"notification": {"acme": 1}}),
    );
    assert_eq!(
        notes(&json!({"notification": {"enabled": true}}))[0].0,
        reasons::SETTING_DROPPED
    );
}

#[test]
fn openpitrix_of_3_0() {
    check(
        json!({"openpitrix": {"enabled": true, "acme": 1}}),
        json!({"openpitrix": {"enabled": true, "acme": 1, "store": {"enabled": true}}}),
    );
    let spec = json!({"openpitrix": {"enabled": true, "store": {"enabled": false}}});
    check(spec.clone(), spec);
    check(json!({"openpitrix": {}}), json!({"openpitrix": {}}));
}

#[test]
fn networkpolicy_of_3_0() {
    check(
        json!({"networkpolicy": {"enabled": true, "nsnpOptions": {"x": 1}}, "network": {"ippool": {"type": "calico"}}}),
        json!({"network": {"ippool": {"type": "calico"}, "networkpolicy": {"enabled": true, "nsnpOptions": {"x": 1}}}}),
    );
}

#[test]
fn kubeedge_of_3_1_and_3_2() {
    let kubeedge = json!({"enabled": true, "cloudCore": {"cloudHub": {"nodeLimit": "100"}, "acme": 1}, "edgeWatcher": {"tolerations": []}});
    check(
        json!({"kubeedge": kubeedge}),
        json!({"edgeruntime": {"enabled": true, "kubeedge": kubeedge}}),
    );
    check(
        json!({"kubeedge": {"cloudCore": {"x": null, "y": 1}}}),
        json!({"edgeruntime": {"kubeedge": {"cloudCore": {"y": 1}}}}),
    );
    check(
        json!({"kubeedge": {"enabled": true, "acme": 1}, "edgeruntime": {"enabled": false, "kubeedge": {"enabled": false}}}),
        json!({"kubeedge": {"enabled": true}, "edgeruntime": {"enabled": false, "kubeedge": {"enabled": false, "acme": 1}}}),
    );
}

#[test]
fn defaults_of_later_releases_are_not_written() {
    let spec = json!({"servicemesh": {"enabled": true}, "common": {"es": {"elkPrefix": "logstash"}}});
    check(spec.clone(), spec);
}

#[test]
fn what_is_no_map_where_a_map_belongs_stays() {
    for spec in [
        json!({"common": "x", "console": {"port": 1}}),
        json!({"common": {"redis": "on", "redisVolumSize": "4Gi"}}),
        json!({"logging": [], "kubeedge": 7}),
        json!([]),
        json!(null),
        json!("x"),
    ] {
        check_invariants(
            &spec,
            &json!({"redis": {"status": "enabled"}}),
            LiveFacts {
                redis: true,
                openldap: true,
            },
        );
    }
    let spec = json!({"common": {"redis": "on", "redisVolumSize": "4Gi"}});
    check(spec.clone(), spec);
}

#[test]
fn a_cluster_of_3_2_1() {
    let (spec, status) = v3_2_1();
    let result = convert(&spec, &status, &LiveFacts::default());
    let mut expect = spec.clone();
    let kubeedge = expect.as_object_mut().unwrap().shift_remove("kubeedge").unwrap();
    expect["edgeruntime"] = json!({"enabled": false, "kubeedge": kubeedge});
    let es = expect["common"]["es"].as_object_mut().unwrap();
    es.shift_remove("externalElasticsearchUrl");
    es.insert("externalElasticsearchHost".into(), "".into());
    assert_eq!(result.spec, expect);
    assert_eq!(
        result.spec["common"]["redis"],
        json!({"enableHA": false, "enabled": false, "volumeSize": "7Gi"})
    );
    assert_eq!(
        result.spec["common"]["openldap"],
        json!({"enabled": false, "volumeSize": "9Gi"})
    );
    check_invariants(&spec, &status, LiveFacts::default());

    let messages: Vec<_> = result.notes.iter().map(|note| note.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "common.es.externalElasticsearchUrl is now common.es.externalElasticsearchHost",
            "edgeruntime.enabled is now set as kubeedge.enabled is",
            "kubeedge is now edgeruntime.kubeedge",
            "edgeruntime.kubeedge.cloudCore.nodeSelector, edgeruntime.kubeedge.cloudCore.tolerations have no effect: \
             CloudCore of KubeEdge 1.9 has no scheduling settings",
            "edgeruntime.kubeedge.cloudCore.cloudhubHttpsPort, edgeruntime.kubeedge.cloudCore.cloudhubPort, \
             edgeruntime.kubeedge.cloudCore.cloudhubQuicPort, edgeruntime.kubeedge.cloudCore.cloudstreamPort, \
             edgeruntime.kubeedge.cloudCore.tunnelPort have no effect: KubeEdge 1.9 listens on fixed ports",
            "edgeruntime.kubeedge.edgeWatcher has no effect: edgeservice took the place of edge-watcher",
            "logging.containerruntime has no effect: the container runtime is read from the nodes",
            "devops.jenkinsJavaOpts_MaxRAM, devops.jenkinsJavaOpts_Xms, devops.jenkinsJavaOpts_Xmx have no effect: \
             the top-level setting JavaOpts takes its place",
        ]
    );
}

#[test]
fn a_cluster_of_3_0_0() {
    let (spec, status) = v3_0_0();
    let result = convert(&spec, &status, &LiveFacts::default());
    check_invariants(&spec, &status, LiveFacts::default());
    let common = json!({
        "mysqlVolumeSize": "20Gi", "etcdVolumeSize": "20Gi",
        "es": {
            "logMaxAge": 14, "elkPrefix": "acme", "externalElasticsearchPort": 9200,
            "master": {"replicas": 3, "volumeSize": "6Gi"}, "data": {"replicas": 2, "volumeSize": "50Gi"},
            "externalElasticsearchHost": "es.example",
        },
        "redis": {"volumeSize": "4Gi", "enabled": true},
        "openldap": {"volumeSize": "3Gi", "enabled": true},
        "minio": {"volumeSize": "40Gi"},
        "core": {"console": {"enableMultiLogin": false, "port": 30881}},
    });
    assert_eq!(result.spec["common"], common);
    assert_eq!(
        result.spec["openpitrix"],
        json!({"enabled": true, "store": {"enabled": true}})
    );
    assert_eq!(
        result.spec["logging"]["logsidecar"],
        json!({"enabled": true, "replicas": 4})
    );
    let (before, after) = (spec.as_object().unwrap(), result.spec.as_object().unwrap());
    let kept: Vec<_> = before.keys().filter(|name| after.contains_key(*name)).collect();
    assert_eq!(
        after
            .keys()
            .filter(|name| before.contains_key(*name))
            .collect::<Vec<_>>(),
        kept,
        "keys keep their order"
    );
    let unknown: Vec<_> = result
        .notes
        .iter()
        .filter(|note| note.reason == reasons::UNKNOWN_SETTING)
        .collect();
    assert_eq!(unknown.len(), 1);
    assert_eq!(
        unknown[0].message,
        "authentication.acme is no setting of KubeSphere: it stays, and has no effect"
    );
}

#[test]
fn an_unknown_setting_is_told_with_the_nearest_known_one() {
    let spec =
        json!({"common": {"redis": {"enableHa": true}}, "acme": {"enabled": true}, "ks_console_tag": "v3"});
    let found: Vec<_> = convert(&spec, &json!({}), &LiveFacts::default())
        .notes
        .into_iter()
        .map(|note| (note.message, note.hint))
        .collect();
    assert_eq!(
        found,
        [
            (
                "common.redis.enableHa is no setting of KubeSphere: it stays, and has no effect".to_owned(),
                Some("did you mean common.redis.enableHA?".to_owned())
            ),
            (
                "acme.enabled is true, and acme is no component of KubeSphere".to_owned(),
                Some("remove acme from the ClusterConfiguration, or set its enabled to false".to_owned())
            ),
        ]
    );
}

#[test]
fn notes_hold_no_values() {
    let spec = json!({
        "authentication": {"jwtSecret": "hunter2", "adminPassword": ["hunter2"], "token": "hunter2"},
        "console": {"port": "hunter2"}, "common": {"core": {"console": {"port": "hunter3"}}},
    });
    let result = convert(&spec, &json!({}), &LiveFacts::default());
    assert!(!format!("{result:?}").contains("hunter"));
    assert_eq!(result.notes.len(), 2);
}

/// Old and new names, each with whether its value is a map.
const PLACES: &[(&str, bool)] = &[
    ("common.redisVolumSize", false),
    ("common.redis.volumeSize", false),
    ("common.redis.enabled", false),
    ("common.redis", true),
    ("common.openldapVolumeSize", false),
    ("common.openldap.nodeSelector", true),
    ("common.minioVolumeSize", false),
    ("common.minio.volumeSize", false),
    ("common.es.elasticsearchMasterReplicas", false),
    ("common.es.elasticsearchDataVolumeSize", false),
    ("common.es.master", true),
    ("common.es.data.volumeSize", false),
    ("common.es.externalElasticsearchUrl", false),
    ("common.es.externalElasticsearchHost", false),
    ("console", true),
    ("console.port", false),
    ("common.core.console.port", false),
    ("common.core.console", true),
    ("logging", true),
    ("logging.enabled", false),
    ("logging.logsidecarReplicas", false),
    ("logging.logsidecar.replicas", false),
    ("openpitrix.enabled", false),
    ("openpitrix.store", true),
    ("networkpolicy.enabled", false),
    ("networkpolicy", true),
    ("network.networkpolicy", true),
    ("network.networkpolicy.enabled", false),
    ("kubeedge", true),
    ("kubeedge.enabled", false),
    ("kubeedge.cloudCore.x", false),
    ("edgeruntime.enabled", false),
    ("edgeruntime.kubeedge.enabled", false),
    ("edgeruntime.kubeedge.cloudCore", true),
    ("acme", true),
];

/// A spec of some of the places in some order, each with a value of its own; now and then of a wrong type.
fn specs() -> impl Strategy<Value = Value> {
    let chosen = proptest::sample::subsequence(PLACES, 0..PLACES.len()).prop_shuffle();
    let values = proptest::collection::vec(0..20_u8, PLACES.len());
    (chosen, values).prop_map(|(chosen, values)| {
        let mut spec = json!({});
        for (index, ((path, is_map), shape)) in chosen.into_iter().zip(values).enumerate() {
            let token = format!("token-{index}-");
            let value = match (shape, is_map) {
                (0, _) => Value::Null,
                (1, _) => json!([token]),
                (2, true) => json!({}),
                (3, false) => json!(""),
                (4, _) | (_, false) => json!(token),
                (_, true) => json!({ "inner": token, "none": null }),
            };
            put(&mut spec, path, value);
        }
        spec
    })
}

fn put(spec: &mut Value, path: &str, value: Value) {
    let mut place = spec;
    for name in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = place
            .as_object_mut()
            .expect("made a map above")
            .entry(name)
            .or_insert(Value::Null);
    }
    if place.is_null() {
        *place = value;
    }
}

proptest! {
    #[test]
    fn conversion_is_idempotent_and_lossless(spec in specs(), redis: bool, openldap: bool) {
        let (status, live) = (json!({"redis": {"status": "enabled"}}), LiveFacts { redis, openldap });
        let result = convert(&spec, &status, &live).spec;
        prop_assert_eq!(result.to_string(), convert(&result, &status, &live).spec.to_string());
        check_patch(&spec, &result);
        let (before, after) = (spec.to_string(), result.to_string());
        for index in 0..PLACES.len() {
            let token = format!("token-{index}-");
            prop_assert!(!before.contains(&token) || after.contains(&token), "{} is lost: {} -> {}", token, before, after);
        }
    }

    #[test]
    fn a_new_shape_is_left_alone(replicas in 1..9_i64, size in "[1-9]Gi") {
        let spec = json!({"common": {"es": {"data": {"replicas": replicas, "volumeSize": size}}}, "terminal": {"timeout": replicas}});
        prop_assert_eq!(converted(&spec), spec);
    }
}

/// The patch makes the new spec of the old one, but for nulls, which no merge patch can set and which mean nothing.
fn check_patch(old: &Value, new: &Value) {
    let mut object = json!({ "spec": old });
    if let Some(patch) = spec_patch(old, new) {
        merge(&mut object, &patch);
    }
    assert_eq!(&object["spec"], new);
}
