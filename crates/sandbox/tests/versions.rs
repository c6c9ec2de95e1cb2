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
