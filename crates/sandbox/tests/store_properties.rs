//! What holds for the cluster after any sequence of writes.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use sandbox::conformance::Send as _;
use sandbox::{Config, Sandbox, Text};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A write to one of a few ConfigMaps.
#[derive(Debug, Clone)]
enum Write {
    Create(u8, u8),
    Merge(u8, u8),
    Apply(u8, u8, bool),
    Label(u8, bool),
    Finalizer(u8, bool),
    Delete(u8),
}

fn write() -> impl Strategy<Value = Write> {
    let (name, value) = (0..4_u8, 0..3_u8);
    prop_oneof![
        (name.clone(), value.clone()).prop_map(|(name, value)| Write::Create(name, value)),
        (name.clone(), value.clone()).prop_map(|(name, value)| Write::Merge(name, value)),
        (name.clone(), value, any::<bool>()).prop_map(|(name, value, one)| Write::Apply(name, value, one)),
        (name.clone(), any::<bool>()).prop_map(|(name, on)| Write::Label(name, on)),
        (name.clone(), any::<bool>()).prop_map(|(name, on)| Write::Finalizer(name, on)),
        name.prop_map(Write::Delete),
    ]
}

async fn send(sandbox: &Sandbox, method: &str, path: &str, media: &str, body: &Value) -> (u16, Bytes) {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .body(Bytes::from(body.to_string()))
        .expect("a request");
    let raw = sandbox.service().send(request).await.expect("an answer");
    (raw.code, raw.body)
}

async fn carry_out(sandbox: &Sandbox, write: &Write) {
    const MERGE: &str = "application/merge-patch+json";
    let map = |name: u8, value: u8| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("m{name}") },
            "data": { format!("k{value}"): "v", "same": value.to_string() },
        })
    };
    let (method, name, query, media, body) = match write {
        Write::Create(name, value) => ("POST", None, "", "application/json", map(*name, *value)),
        Write::Merge(name, value) => (
            "PATCH",
            Some(name),
            "",
            MERGE,
            json!({ "data": { "same": value.to_string() } }),
        ),
        Write::Apply(name, value, one) => {
            let query = if *one {
                "?fieldManager=one&force=true"
            } else {
                "?fieldManager=two&force=true"
            };
            (
                "PATCH",
                Some(name),
                query,
                "application/apply-patch+yaml",
                map(*name, *value),
            )
        }
        Write::Label(name, on) => {
            let value = if *on { json!("on") } else { Value::Null };
            (
                "PATCH",
                Some(name),
                "",
                MERGE,
                json!({ "metadata": { "labels": { "x": value } } }),
            )
        }
        Write::Finalizer(name, on) => {
            let value = if *on {
                json!(["example.com/x"])
            } else {
                Value::Null
            };
            (
                "PATCH",
                Some(name),
                "",
                MERGE,
                json!({ "metadata": { "finalizers": value } }),
            )
        }
        Write::Delete(name) => ("DELETE", Some(name), "", "application/json", json!({})),
    };
    let path = match name {
        Some(name) => format!("{MAPS}/m{name}{query}"),
        None => MAPS.to_owned(),
    };
    let (code, body) = send(sandbox, method, &path, media, &body).await;
    // Whether it fits is left to chance; that it is understood is not.
    assert!(
        matches!(code, 200 | 201 | 404 | 409 | 422),
        "{write:?}: {code} {body:?}"
    );
}

async fn list(sandbox: &Sandbox, selector: &str) -> (String, BTreeMap<String, Value>) {
    let path = format!("{MAPS}?labelSelector={selector}");
    let (_, body) = send(sandbox, "GET", &path, "", &json!({})).await;
    let list: Value = serde_json::from_slice(&body).expect("JSON");
    let items = list["items"].as_array().expect("items");
    let by_name = items
        .iter()
        .map(|item| (item["metadata"]["name"].to_string(), metadata_and_data(item)))
        .collect();
    let version = list["metadata"]["resourceVersion"].as_str().expect("a version");
    (version.to_owned(), by_name)
}

/// Items of lists do not say their kind, events do.
fn metadata_and_data(object: &Value) -> Value {
    json!([object["metadata"], object["data"]])
}

/// What a client knows that has listed, and then watched from there.
async fn replay(
    sandbox: &Sandbox,
    selector: &str,
    (version, mut known): (String, BTreeMap<String, Value>),
) -> BTreeMap<String, Value> {
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={version}&labelSelector={selector}");
    let (_, body) = send(sandbox, "GET", &path, "", &json!({})).await;
    for event in serde_json::Deserializer::from_slice(&body).into_iter::<Value>() {
        let event = event.expect("an event");
        let object = &event["object"];
        let name = object["metadata"]["name"].to_string();
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => known.insert(name, metadata_and_data(object)),
            Some("DELETED") => known.remove(&name),
            other => panic!("an event of type {other:?}"),
        };
    }
    known
}

fn objects(sandbox: &Sandbox) -> Vec<Value> {
    sandbox
        .objects()
        .iter()
        .map(|object| Value::clone(object))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_watch_tells_what_a_list_shows(
        before in prop::collection::vec(write(), 0..8),
        after in prop::collection::vec(write(), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let sandbox = Sandbox::new(Config::default());
            for write in &before {
                carry_out(&sandbox, write).await;
            }
            let (all, chosen) = (list(&sandbox, "").await, list(&sandbox, "x=on").await);
            for write in &after {
                carry_out(&sandbox, write).await;
            }
            prop_assert_eq!(replay(&sandbox, "", all).await, list(&sandbox, "").await.1);
            prop_assert_eq!(replay(&sandbox, "x=on", chosen).await, list(&sandbox, "x=on").await.1);
            Ok(())
        })?;
    }

    #[test]
    fn a_cluster_is_what_it_saves(writes in prop::collection::vec(write(), 0..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let sandbox = Sandbox::new(Config::default());
            for write in &writes {
                carry_out(&sandbox, write).await;
            }
            let saved = objects(&sandbox);
            let loaded = Sandbox::from_objects(Config::default(), saved.clone()).expect("loaded");
            prop_assert_eq!(&objects(&loaded), &saved);
            let texts = saved.iter().map(|object| Text::parse(object.to_string().as_bytes()).expect("JSON"));
            let read = Sandbox::from_texts(Config::default(), texts).expect("loaded from texts");
            prop_assert_eq!(read.count(), saved.len());
            let mut written = Vec::new();
            read.write_to(&mut written).expect("written");
            let lines: Vec<Value> = written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).expect("JSON")).collect();
            prop_assert_eq!(&lines, &saved);
            prop_assert_eq!(list(&read, "").await.1, list(&sandbox, "").await.1);
            prop_assert_eq!(&objects(&read), &saved);
            // It also goes on as the other does.
            prop_assert_eq!(list(&loaded, "").await.1, list(&sandbox, "").await.1);
            Ok(())
        })?;
    }
}
