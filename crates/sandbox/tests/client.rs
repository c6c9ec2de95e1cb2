//! The sandbox as a `kube::Client` sees it, in process.

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

fn client(sandbox: &Sandbox) -> Client {
    Client::new(sandbox.service(), "default")
}

fn mk_sandbox() -> (Sandbox, Client) {
    let sandbox = Sandbox::new(Config::default());
    let client = client(&sandbox);
    (sandbox, client)
}

fn mk_map(name: &str, data: &Value) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name }, "data": data })).expect("a ConfigMap")
}

fn dynamic(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

fn mk_definition(plural: &str, kind: &str, scope: &str, status: bool) -> Value {
    let subresources = if status {
        json!({ "status": {} })
    } else {
        json!({})
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.example.com") },
        "spec": {
            "group": "example.com",
            "names": { "plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List") },
            "scope": scope,
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": subresources,
                "schema": { "openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                }},
            }],
        },
    })
}

async fn define(client: &Client, definition: &Value) -> DynamicObject {
    let resource = dynamic(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    );
    let definitions: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let definition: DynamicObject = serde_json::from_value(definition.clone()).expect("a definition");
    definitions
        .create(&PostParams::default(), &definition)
        .await
        .expect("created");
    definitions
        .get(&definition.metadata.name.expect("a name"))
        .await
        .expect("there")
}

fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String, String) {
    match result.expect_err("a refusal") {
        kube::Error::Api(status) => (status.code, status.reason.clone(), status.message.clone()),
        other => panic!("not an answer of the API: {other}"),
    }
}

#[tokio::test]
async fn objects_are_created_read_listed_and_deleted() {
    let (sandbox, client) = mk_sandbox();
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let created = maps
        .create(&PostParams::default(), &mk_map("one", &json!({ "a": "1" })))
        .await
        .expect("created");
    assert!(created.metadata.uid.is_some());
    assert!(created.metadata.creation_timestamp.is_some());
    let (code, reason, message) = refusal(
        maps.create(&PostParams::default(), &mk_map("one", &json!({})))
            .await,
    );
    assert_eq!(
        (code, reason.as_str(), message.as_str()),
        (409, "AlreadyExists", "configmaps \"one\" already exists")
    );
    let names: Vec<_> = maps
        .list(&ListParams::default())
        .await
        .expect("listed")
        .into_iter()
        .filter_map(|map| map.metadata.name)
        .collect();
    assert_eq!(names, ["kube-root-ca.crt", "one"]);
    maps.delete("one", &DeleteParams::default())
        .await
        .expect("deleted");
    let (code, reason, message) = refusal(maps.get("one").await);
    assert_eq!(
        (code, reason.as_str(), message.as_str()),
        (404, "NotFound", "configmaps \"one\" not found")
    );
    let counts = sandbox.requests();
    assert_eq!(
        (counts.creates, counts.deletes, counts.writes(), counts.reads),
        (2, 1, 3, 2)
    );
}

#[tokio::test]
async fn a_stale_update_is_a_conflict_and_an_equal_one_no_write() {
    let (_sandbox, client) = mk_sandbox();
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let first = maps
        .create(&PostParams::default(), &mk_map("one", &json!({ "a": "1" })))
        .await
        .expect("created");
    let same = maps
        .replace("one", &PostParams::default(), &first)
        .await
        .expect("replaced");
    assert_eq!(same.metadata.resource_version, first.metadata.resource_version);
    let mut second = first.clone();
    second
        .data
        .get_or_insert_default()
        .insert("a".to_owned(), "2".to_owned());
    let second = maps
        .replace("one", &PostParams::default(), &second)
        .await
        .expect("replaced");
    assert_ne!(second.metadata.resource_version, first.metadata.resource_version);
    let (code, reason, message) = refusal(maps.replace("one", &PostParams::default(), &first).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
}

#[tokio::test]
async fn patches_merge_and_apply() {
    let (_sandbox, client) = mk_sandbox();
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let applied = maps
        .patch(
            "one",
            &PatchParams::apply("tester"),
            &Patch::Apply(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "one" }, "data": { "a": "1" } })),
        )
        .await
        .expect("applied");
    let entries = applied.metadata.managed_fields.expect("managed fields");
    assert_eq!(entries[0].manager.as_deref(), Some("tester"));
    assert_eq!(entries[0].operation.as_deref(), Some("Apply"));
    let merged = maps
        .patch(
            "one",
            &PatchParams::default(),
            &Patch::Merge(json!({ "data": { "b": "2", "a": null } })),
        )
        .await
        .expect("merged");
    let data = merged.data.expect("data");
    assert_eq!(
        data.into_iter().collect::<Vec<_>>(),
        [("b".to_owned(), "2".to_owned())]
    );
    let (code, _, message) = refusal(
        maps.patch(
            "one",
            &PatchParams::default(),
            &Patch::Merge(json!({ "metadata": { "resourceVersion": "1" } })),
        )
        .await,
    );
    assert_eq!(code, 409, "{message}");
    let dry = maps
        .patch(
            "one",
            &PatchParams::default().dry_run(),
            &Patch::Merge(json!({ "data": { "c": "3" } })),
        )
        .await
        .expect("tried");
    assert!(dry.data.expect("data").contains_key("c"));
    assert!(
        !maps
            .get("one")
            .await
            .expect("there")
            .data
            .expect("data")
            .contains_key("c")
    );
}

#[tokio::test]
async fn a_watch_replays_and_follows() {
    let (_sandbox, client) = mk_sandbox();
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let version = maps
        .list(&ListParams::default())
        .await
        .expect("listed")
        .metadata
        .resource_version
        .expect("a version");
    maps.create(&PostParams::default(), &mk_map("one", &json!({})))
        .await
        .expect("created");
    let params = WatchParams::default().fields("metadata.name=one").timeout(10);
    let mut events = maps.watch(&params, &version).await.expect("watching").boxed();
    let Some(WatchEvent::Added(added)) = events.try_next().await.expect("an event") else {
        panic!("not added")
    };
    assert_eq!(added.metadata.name.as_deref(), Some("one"));
    maps.patch(
        "one",
        &PatchParams::default(),
        &Patch::Merge(json!({ "data": { "x": "y" } })),
    )
    .await
    .expect("patched");
    maps.create(&PostParams::default(), &mk_map("two", &json!({})))
        .await
        .expect("created");
    maps.delete("one", &DeleteParams::default())
        .await
        .expect("deleted");
    assert!(matches!(
        events.try_next().await.expect("an event"),
        Some(WatchEvent::Modified(_))
    ));
    assert!(matches!(
        events.try_next().await.expect("an event"),
        Some(WatchEvent::Deleted(_))
    ));
}

#[tokio::test]
async fn namespaces_must_exist_are_furnished_and_take_their_contents_along() {
    let (_sandbox, client) = mk_sandbox();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "new");
    let (code, _, message) = refusal(
        maps.create(&PostParams::default(), &mk_map("one", &json!({})))
            .await,
    );
    assert_eq!((code, message.as_str()), (404, "namespaces \"new\" not found"));
    let namespaces: Api<Namespace> = Api::all(client);
    let new: Namespace =
        serde_json::from_value(json!({ "metadata": { "name": "new" } })).expect("a namespace");
    let new = namespaces
        .create(&PostParams::default(), &new)
        .await
        .expect("created");
    assert_eq!(new.status.expect("status").phase.as_deref(), Some("Active"));
    maps.get("kube-root-ca.crt").await.expect("furnished");
    let mut held = mk_map("held", &json!({}));
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    maps.create(&PostParams::default(), &held).await.expect("created");
    namespaces
        .delete("new", &DeleteParams::default())
        .await
        .expect("deleted");
    let dying = namespaces
        .get("new")
        .await
        .expect("held by its content")
        .status
        .expect("status");
    assert_eq!(dying.phase.as_deref(), Some("Terminating"));
    let (code, _, message) = refusal(
        maps.create(&PostParams::default(), &mk_map("late", &json!({})))
            .await,
    );
    assert_eq!(code, 403);
    assert!(
        message.ends_with("unable to create new content in namespace new because it is being terminated")
    );
    maps.patch(
        "held",
        &PatchParams::default(),
        &Patch::Merge(json!({ "metadata": { "finalizers": null } })),
    )
    .await
    .expect("released");
    assert_eq!(refusal(namespaces.get("new").await).0, 404);
}

#[tokio::test]
async fn definitions_serve_their_kind_until_they_go() {
    let (_sandbox, client) = mk_sandbox();
    let definition = define(&client, &mk_definition("widgets", "Widget", "Cluster", true)).await;
    let conditions = definition.data["status"]["conditions"]
        .as_array()
        .expect("conditions")
        .clone();
    assert_eq!(conditions[0]["type"], "NamesAccepted");
    assert_eq!(conditions[1]["type"], "Established");
    assert_eq!(definition.data["status"]["storedVersions"], json!(["v1"]));
    let services = dynamic("apiregistration.k8s.io", "v1", "APIService", "apiservices");
    let services: Api<DynamicObject> = Api::all_with(client.clone(), &services);
    let service = services.get("v1.example.com").await.expect("registered");
    assert_eq!(
        service.metadata.labels.expect("labels")["kube-aggregator.kubernetes.io/automanaged"],
        "true"
    );

    let widgets: Api<DynamicObject> =
        Api::all_with(client.clone(), &dynamic("example.com", "v1", "Widget", "widgets"));
    let widget = json!({
        "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "w" },
        "spec": { "size": 1 }, "status": { "ignored": true },
    });
    let widget: DynamicObject = serde_json::from_value(widget).expect("a widget");
    let created = widgets
        .create(&PostParams::default(), &widget)
        .await
        .expect("created");
    assert_eq!(created.metadata.generation, Some(1));
    assert_eq!(created.data.get("status"), None);
    let status = widgets
        .patch_status(
            "w",
            &PatchParams::default(),
            &Patch::Merge(json!({ "status": { "ok": true }, "spec": { "size": 9 } })),
        )
        .await
        .expect("patched");
    assert_eq!(
        (status.metadata.generation, &status.data["spec"]["size"]),
        (Some(1), &json!(1))
    );
    let sized = widgets
        .patch(
            "w",
            &PatchParams::default(),
            &Patch::Merge(json!({ "spec": { "size": 2 } })),
        )
        .await
        .expect("patched");
    assert_eq!(
        (sized.metadata.generation, &sized.data["status"]["ok"]),
        (Some(2), &json!(true))
    );
    let (code, _, message) = refusal(widgets.get("x").await);
    assert_eq!(
        (code, message.as_str()),
        (404, "widgets.example.com \"x\" not found")
    );

    let definitions = dynamic(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    );
    let definitions: Api<DynamicObject> = Api::all_with(client, &definitions);
    definitions
        .delete("widgets.example.com", &DeleteParams::default())
        .await
        .expect("deleted");
    assert_eq!(refusal(definitions.get("widgets.example.com").await).0, 404);
    assert_eq!(refusal(services.get("v1.example.com").await).0, 404);
    assert_eq!(
        widgets
            .get("w")
            .await
            .map(|_| ())
            .map_err(|error| error.to_string().is_empty()),
        Err(false)
    );
}

#[tokio::test]
async fn owned_objects_follow_their_owner() {
    let (_sandbox, client) = mk_sandbox();
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let mk_owned = |name: &str, owner: &ConfigMap| {
        let mut map = mk_map(name, &json!({}));
        map.metadata.owner_references = Some(vec![
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "blockOwnerDeletion": true,
                "name": owner.metadata.name, "uid": owner.metadata.uid,
            }))
            .expect("a reference"),
        ]);
        map
    };
    for (params, left) in [
        (DeleteParams::background(), 0),
        (DeleteParams::foreground(), 0),
        (DeleteParams::orphan(), 2),
    ] {
        let owner = maps
            .create(&PostParams::default(), &mk_map("owner", &json!({})))
            .await
            .expect("created");
        let child = maps
            .create(&PostParams::default(), &mk_owned("child", &owner))
            .await
            .expect("created");
        maps.create(&PostParams::default(), &mk_owned("grandchild", &child))
            .await
            .expect("created");
        maps.delete("owner", &params).await.expect("deleted");
        let names: Vec<_> = maps
            .list(&ListParams::default())
            .await
            .expect("listed")
            .into_iter()
            .filter_map(|map| map.metadata.name)
            .filter(|name| name != "kube-root-ca.crt")
            .collect();
        assert_eq!(names.len(), left, "{params:?}: {names:?}");
    }
    assert_eq!(
        maps.get("child")
            .await
            .expect("orphaned")
            .metadata
            .owner_references,
        None
    );
}

#[tokio::test]
async fn a_fork_shares_the_past_but_not_the_future() {
    let (sandbox, client) = mk_sandbox();
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    maps.create(&PostParams::default(), &mk_map("before", &json!({})))
        .await
        .expect("created");
    let fork = sandbox.fork();
    let other: Api<ConfigMap> = Api::default_namespaced(Client::new(fork.service(), "default"));
    maps.create(&PostParams::default(), &mk_map("here", &json!({})))
        .await
        .expect("created");
    other
        .delete("before", &DeleteParams::default())
        .await
        .expect("deleted");
    assert_eq!(refusal(other.get("here").await).0, 404);
    maps.get("before").await.expect("still here");
    assert_eq!(fork.requests().creates, 0);
}

#[tokio::test]
async fn lists_come_in_pages_of_one_moment() {
    let (_sandbox, client) = mk_sandbox();
    let maps: Api<ConfigMap> = Api::namespaced(client, "kube-public");
    for index in 0..5 {
        maps.create(&PostParams::default(), &mk_map(&format!("m{index}"), &json!({})))
            .await
            .expect("created");
    }
    let first = maps.list(&ListParams::default().limit(2)).await.expect("listed");
    assert_eq!(
        (first.items.len(), first.metadata.remaining_item_count),
        (2, Some(4))
    );
    maps.delete("m4", &DeleteParams::default())
        .await
        .expect("deleted");
    let token = first.metadata.continue_.expect("more");
    let rest = maps
        .list(&ListParams::default().continue_token(&token))
        .await
        .expect("listed");
    assert_eq!(rest.items.len(), 4, "the page shows the moment of the first one");
}
