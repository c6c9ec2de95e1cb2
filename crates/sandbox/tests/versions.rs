//! What differs between the versions of Kubernetes that a sandbox can play: owners, fields, defaults.

use kube::Client;
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

fn config(minor: u32) -> Config {
    Config {
        kubernetes_version: format!("v1.{minor}.0"),
        ..Config::default()
    }
}

fn play(minor: u32) -> Client {
    Client::new(Sandbox::new(config(minor)).service(), "default")
}

/// A new cluster of a version with some objects more.
fn copy(minor: u32, objects: impl IntoIterator<Item = Value>) -> Client {
    let new = Sandbox::new(config(minor));
    let all: Vec<_> = new
        .objects()
        .iter()
        .map(|object| Value::clone(object))
        .chain(objects)
        .collect();
    let loaded = Sandbox::from_objects(config(minor), all).expect("loaded");
    Client::new(loaded.service(), "default")
}

async fn send(client: &Client, method: &str, path: &str, kind: &str, body: Value) -> Result<Value, String> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(body.to_string().into_bytes())
        .expect("a request");
    match client.request::<Value>(request).await {
        Ok(answer) => Ok(answer),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(other) => panic!("not an answer of the API: {other}"),
    }
}

async fn create(client: &Client, path: &str, body: Value) -> Value {
    let path = format!("{path}?fieldValidation=Strict&fieldManager=test");
    send(client, "POST", &path, JSON, body).await.expect("created")
}

async fn get(client: &Client, path: &str) -> Value {
    send(client, "GET", path, JSON, Value::Null).await.expect("found")
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "selector": { "matchLabels": { "app": name } }, "template": {
            "metadata": { "labels": { "app": name } },
            "spec": { "containers": [{ "name": "c", "image": "c:1" }] },
        } },
    })
}

/// Manager, operation and subresource of every entry.
fn owners(object: &Value) -> Vec<(String, String, String)> {
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let entries = object["metadata"]["managedFields"].as_array();
    entries
        .into_iter()
        .flatten()
        .map(|entry| {
            (
                text(entry, "manager"),
                text(entry, "operation"),
                text(entry, "subresource"),
            )
        })
        .collect()
}

fn owner(manager: &str, operation: &str, subresource: &str) -> (String, String, String) {
    (manager.into(), operation.into(), subresource.into())
}

#[tokio::test]
async fn one_manager_owns_through_a_subresource_and_without() {
    let entry = |subresource: &str, fields: Value| {
        let mut entry = json!({
            "manager": "op", "operation": "Update", "apiVersion": "apps/v1", "time": "2024-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": fields,
        });
        if !subresource.is_empty() {
            entry["subresource"] = subresource.into();
        }
        entry
    };
    for minor in [20, 22] {
        let mut stored = deployment("a");
        let metadata = &mut stored["metadata"];
        metadata["namespace"] = "default".into();
        metadata["uid"] = "5e0d1b3c-0000-4000-8000-000000000000".into();
        metadata["managedFields"] = json!([
            entry("", json!({ "f:spec": { "f:replicas": {} } })),
            entry("status", json!({ "f:status": { "f:observedGeneration": {} } })),
        ]);
        stored["spec"]["replicas"] = 1.into();
        stored["status"] = json!({ "observedGeneration": 1 });
        let client = copy(minor, [stored]);
        let path = format!("{DEPLOYMENTS}/a");
        let labelled = json!({ "metadata": { "labels": { "x": "y" } } });
        let patched = send(
            &client,
            "PATCH",
            &format!("{path}?fieldManager=label"),
            MERGE,
            labelled,
        )
        .await
        .expect("patched");
        let owners = owners(&patched);
        assert!(
            owners.contains(&owner("op", "Update", "")) && owners.contains(&owner("op", "Update", "status")),
            "1.{minor}: {owners:?}"
        );
        let apply = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "spec": { "replicas": 3 } });
        let refused = send(
            &client,
            "PATCH",
            &format!("{path}?fieldManager=kubectl"),
            APPLY,
            apply,
        )
        .await
        .expect_err("a conflict");
        assert_eq!(
            refused,
            r#"Apply failed with 1 conflict: conflict with "op" using apps/v1: .spec.replicas"#
        );
    }
}

#[tokio::test]
async fn owners_name_the_subresource_from_1_22_on() {
    for minor in [20, 21, 22, 25] {
        let client = play(minor);
        let named = |subresource| if minor >= 22 { subresource } else { "" };
        create(&client, DEPLOYMENTS, deployment("a")).await;
        let path = format!("{DEPLOYMENTS}/a");
        let status = json!({ "status": { "conditions": [{ "type": "Odd", "status": "True" }] } });
        let query = "status?fieldManager=op";
        send(&client, "PATCH", &format!("{path}/{query}"), MERGE, status)
            .await
            .expect("patched");
        let scale = json!({ "spec": { "replicas": 2 } });
        let query = "scale?fieldManager=op";
        send(&client, "PATCH", &format!("{path}/{query}"), MERGE, scale)
            .await
            .expect("scaled");
        let found = owners(&get(&client, &path).await);
        assert!(
            found.contains(&owner("op", "Update", named("status"))),
            "1.{minor}: {found:?}"
        );
        assert_eq!(
            found.contains(&owner("op", "Update", "scale")),
            minor >= 22,
            "1.{minor}: {found:?}"
        );
        assert!(
            found.contains(&owner("kube-controller-manager", "Update", named("status"))),
            "1.{minor}: {found:?}"
        );
        let apply = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "spec": { "replicas": 3 } });
        if minor >= 22 {
            let query = "fieldManager=other";
            let refused = send(&client, "PATCH", &format!("{path}?{query}"), APPLY, apply)
                .await
                .expect_err("a conflict");
            assert!(
                refused.contains(r#"conflict with "op" with subresource "scale" using apps/v1"#),
                "{refused}"
            );
        }
    }
}

/// What a version adds to a kind: the object without it, where it goes, and what.
fn additions() -> Vec<(u32, &'static str, Value, &'static str, Value)> {
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
    const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";
    let service = json!({ "metadata": { "name": "a" }, "spec": { "ports": [{ "port": 80 }] } });
    let pods = json!({ "metadata": { "labels": { "app": "a" } }, "spec": { "restartPolicy": "Never",
        "containers": [{ "name": "c", "image": "c:1", "livenessProbe": { "exec": { "command": ["true"] } } }] } });
    let job = json!({ "metadata": { "name": "a" }, "spec": { "template": pods } });
    let mut set = deployment("a");
    set["kind"] = "StatefulSet".into();
    set["spec"]["serviceName"] = "a".into();
    let cron_job = json!({ "metadata": { "name": "a" }, "spec": { "schedule": "0 0 1 1 *", "jobTemplate": {
        "spec": { "template": pods } } } });
    let policy = json!({ "metadata": { "name": "a" }, "spec": { "podSelector": {}, "ingress": [{ "ports": [{ "port": 80 }] }] } });
    let mut probed = deployment("a");
    probed["spec"]["template"]["spec"]["containers"][0]["livenessProbe"] =
        json!({ "exec": { "command": ["true"] } });
    let mut spread = deployment("a");
    spread["spec"]["template"]["spec"]["topologySpreadConstraints"] =
        json!([{ "maxSkew": 1, "topologyKey": "x", "whenUnsatisfiable": "DoNotSchedule" }]);
    vec![
        (
            21,
            SERVICES,
            service.clone(),
            "/spec/internalTrafficPolicy",
            "Local".into(),
        ),
        (21, SERVICES, service, "/spec/loadBalancerClass", "a/b".into()),
        (
            21,
            "/apis/batch/v1/namespaces/default/jobs",
            job.clone(),
            "/spec/suspend",
            true.into(),
        ),
        (
            21,
            "/apis/batch/v1/namespaces/default/jobs",
            job,
            "/spec/completionMode",
            "NonIndexed".into(),
        ),
        (22, SETS, set, "/spec/minReadySeconds", 5.into()),
        (24, CRON_JOBS, cron_job, "/spec/timeZone", "Etc/UTC".into()),
        (
            21,
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            policy,
            "/spec/ingress/0/ports/0/endPort",
            90.into(),
        ),
        (
            21,
            DEPLOYMENTS,
            probed.clone(),
            "/spec/template/spec/containers/0/livenessProbe/terminationGracePeriodSeconds",
            7.into(),
        ),
        (
            23,
            DEPLOYMENTS,
            probed,
            "/spec/template/spec/os",
            json!({ "name": "linux" }),
        ),
        (
            24,
            DEPLOYMENTS,
            spread,
            "/spec/template/spec/topologySpreadConstraints/0/minDomains",
            2.into(),
        ),
    ]
}

#[tokio::test]
async fn fields_come_with_their_version() {
    for (since, path, mut object, field, value) in additions() {
        let (parent, name) = field.rsplit_once('/').expect("a path");
        object.pointer_mut(parent).expect("a parent")[name] = value.clone();
        let strict = format!("{path}?fieldValidation=Strict");
        for minor in since - 1..=25 {
            let answer = send(&play(minor), "POST", &strict, JSON, object.clone()).await;
            if minor < since {
                let refused = answer.expect_err("refused");
                assert!(
                    refused.contains(&format!("{name}\\\"")) || refused.contains(&format!("{name}\"")),
                    "{refused}"
                );
            } else {
                let created = answer.expect("created");
                assert_eq!(created.pointer(field), Some(&value), "{field} in 1.{minor}");
            }
        }
    }
    for (minor, there) in [(20, false), (21, true)] {
        let described = get(&play(minor), "/openapi/v2").await;
        let fields = &described["definitions"]["io.k8s.api.core.v1.ServiceSpec"]["properties"];
        assert_eq!(fields.get("internalTrafficPolicy").is_some(), there);
    }
}

#[tokio::test]
async fn a_label_on_a_copy_changes_nothing_else() {
    let first = Sandbox::new(config(22));
    let client = Client::new(first.service(), "default");
    let mut probed = deployment("a");
    probed["spec"]["template"]["spec"]["containers"][0]["livenessProbe"] =
        json!({ "exec": { "command": ["true"] }, "terminationGracePeriodSeconds": 7 });
    create(&client, DEPLOYMENTS, probed).await;
    let all: Vec<_> = first
        .objects()
        .iter()
        .map(|object| Value::clone(object))
        .collect();
    let copied = Sandbox::from_objects(config(22), all).expect("loaded");
    let client = Client::new(copied.service(), "default");
    let path = format!("{DEPLOYMENTS}/a");
    let before = get(&client, &path).await;
    let label = json!({ "metadata": { "labels": { "x": "y" } } });
    send(&client, "PATCH", &path, MERGE, label)
        .await
        .expect("patched");
    let after = get(&client, &path).await;
    assert_eq!(after["spec"], before["spec"]);
    let sets = get(&client, "/apis/apps/v1/namespaces/default/replicasets").await;
    assert_eq!(sets["items"].as_array().map(Vec::len), Some(1));
    for owner in owners(&before) {
        assert!(owners(&after).contains(&owner), "{owner:?}");
    }
}

#[tokio::test]
async fn a_field_of_a_later_version_costs_no_owners() {
    let mut stored = deployment("a");
    let entry = json!({ "manager": "op", "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
        "fieldsV1": { "f:spec": { "f:replicas": {}, "f:newest": { "f:part": {} } } } });
    stored["metadata"]["namespace"] = "default".into();
    stored["metadata"]["uid"] = "5e0d1b3c-0000-4000-8000-000000000000".into();
    stored["metadata"]["managedFields"] = json!([entry]);
    stored["spec"]["newest"] = json!({ "part": 1 });
    stored["spec"]["replicas"] = 1.into();
    let client = copy(22, [stored]);
    let path = format!("{DEPLOYMENTS}/a");
    let label = json!({ "metadata": { "labels": { "x": "y" } } });
    let patched = send(&client, "PATCH", &path, MERGE, label)
        .await
        .expect("patched");
    let kept = patched["metadata"]["managedFields"].as_array().expect("owners");
    assert!(kept.contains(&entry), "{kept:?}");
}

#[tokio::test]
async fn defaults_come_with_their_version() {
    let nothing = Value::Null;
    for minor in 19..=25 {
        let client = play(minor);
        let from = |first: u32, value: Value| if minor >= first { value } else { Value::Null };
        let service = async |name: &str, kind: &str| {
            let object = json!({ "metadata": { "name": name }, "spec": {
                "type": kind, "ports": [{ "port": 80 }], "externalName": if kind == "ExternalName" { "a.b" } else { "" } } });
            create(&client, "/api/v1/namespaces/default/services", object).await["spec"].take()
        };
        for kind in ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] {
            let spec = service(&kind.to_lowercase(), kind).await;
            let is_external = kind == "ExternalName";
            let expect = if is_external {
                Value::Null
            } else {
                from(22, "Cluster".into())
            };
            assert_eq!(spec["internalTrafficPolicy"], expect, "{kind} in 1.{minor}");
            let expect = if kind == "LoadBalancer" {
                from(22, true.into())
            } else {
                Value::Null
            };
            assert_eq!(
                spec["allocateLoadBalancerNodePorts"], expect,
                "{kind} in 1.{minor}"
            );
            assert_eq!(
                spec.get("clusterIPs").is_some(),
                !is_external && minor >= 20,
                "{kind} in 1.{minor}"
            );
        }
        let pods = json!({ "metadata": { "labels": { "app": "a" } },
            "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "c:1" }] } });
        let job = json!({ "metadata": { "name": "a" }, "spec": { "template": pods } });
        let job = create(&client, "/apis/batch/v1/namespaces/default/jobs", job).await;
        assert_eq!(job["spec"]["completionMode"], from(22, "NonIndexed".into()));
        assert_eq!(job["spec"]["suspend"], from(22, false.into()));
        let mut set = deployment("a");
        set["kind"] = "DaemonSet".into();
        let set = create(&client, "/apis/apps/v1/namespaces/default/daemonsets", set).await;
        assert_eq!(
            set["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"],
            from(22, 0.into())
        );
        if minor >= 21 {
            let job = json!({ "metadata": { "name": "a" }, "spec": { "schedule": "0 0 1 1 *", "jobTemplate": {
                "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "c:1" }] } } } } } });
            let job = create(&client, "/apis/batch/v1/namespaces/default/cronjobs", job).await;
            assert_eq!(job["spec"]["concurrencyPolicy"], "Allow");
            assert_eq!(job["spec"]["jobTemplate"]["spec"]["suspend"], nothing);
        }
        if minor >= 23 {
            let autoscaler = json!({ "metadata": { "name": "a" }, "spec": { "maxReplicas": 3,
                "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "a" } } });
            let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
            assert_eq!(create(&client, path, autoscaler).await["spec"]["minReplicas"], 1);
        }
    }
}

#[tokio::test]
async fn what_belongs_to_load_balancers_goes_with_the_type() {
    let client = play(22);
    let path = "/api/v1/namespaces/default/services";
    let object =
        json!({ "metadata": { "name": "a" }, "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] } });
    create(&client, path, object).await;
    let plain = json!({ "spec": { "type": "ClusterIP" } });
    let patched = send(&client, "PATCH", &format!("{path}/a"), MERGE, plain)
        .await
        .expect("patched");
    assert!(
        patched["spec"].get("allocateLoadBalancerNodePorts").is_none(),
        "{patched}"
    );
    assert_eq!(patched["spec"]["internalTrafficPolicy"], "Cluster");
}

#[tokio::test]
async fn a_service_of_1_19_has_one_address() {
    let client = play(19);
    let path = "/api/v1/namespaces/default/services";
    let object = json!({ "metadata": { "name": "a" }, "spec": { "ports": [{ "port": 80 }] } });
    let made = create(&client, path, object).await;
    let path = format!("{path}/a");
    let label = json!({ "metadata": { "labels": { "x": "y" } } });
    let patched = send(&client, "PATCH", &path, MERGE, label)
        .await
        .expect("patched");
    assert_eq!(patched["spec"], made["spec"]);
    let moved = json!({ "spec": { "clusterIP": "10.96.0.77" } });
    let refused = send(&client, "PATCH", &path, MERGE, moved)
        .await
        .expect_err("refused");
    assert!(
        refused.contains(r#"spec.clusterIP: Invalid value: "10.96.0.77": field is immutable"#),
        "{refused}"
    );
}

#[tokio::test]
async fn namespaces_have_their_name_as_a_label_from_1_21_on() {
    const LABEL: &str = "/metadata/labels/kubernetes.io~1metadata.name";
    for minor in [20, 21, 25] {
        let client = play(minor);
        let expect = |name: &str| (minor >= 21).then(|| Value::from(name));
        let found = get(&client, "/api/v1/namespaces/kube-system").await;
        assert_eq!(found.pointer(LABEL).cloned(), expect("kube-system"));
        let made = create(
            &client,
            "/api/v1/namespaces",
            json!({ "metadata": { "name": "a" } }),
        )
        .await;
        assert_eq!(made.pointer(LABEL).cloned(), expect("a"));
        for label in [json!(null), json!("other")] {
            let change =
                json!({ "metadata": { "labels": { "kubernetes.io/metadata.name": label, "x": "y" } } });
            let path = "/api/v1/namespaces/a";
            let patched = send(&client, "PATCH", path, MERGE, change)
                .await
                .expect("patched");
            if minor >= 21 {
                assert_eq!(patched.pointer(LABEL).cloned(), expect("a"));
            }
            assert_eq!(patched["metadata"]["labels"]["x"], "y");
        }
        let drawn = create(
            &client,
            "/api/v1/namespaces",
            json!({ "metadata": { "generateName": "b-" } }),
        )
        .await;
        let name = drawn["metadata"]["name"].as_str().expect("a name");
        assert_eq!(drawn.pointer(LABEL).cloned(), expect(name));
    }
}
