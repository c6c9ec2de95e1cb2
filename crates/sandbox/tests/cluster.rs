//! A cluster as a whole: made of stored objects, served over HTTPS, refusing what a real one refuses.

use std::collections::BTreeMap;

use base64::Engine as _;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use proptest::prelude::*;
use sandbox::{Config, LoadError, Sandbox, ServeOptions};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

mod common;

fn mk_client(sandbox: &Sandbox) -> Client {
    Client::new(sandbox.service(), "default")
}

fn mk<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String) {
    match result.expect_err("a refusal") {
        kube::Error::Api(status) => (status.code, status.message.clone()),
        other => panic!("not an answer of the API: {other}"),
    }
}

/// The objects of a cluster with a custom resource and a Deployment that has been rolled out.
async fn mk_objects() -> Vec<Value> {
    let sandbox = Sandbox::new(Config::default());
    let client = mk_client(&sandbox);
    let definitions = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        "customresourcedefinitions",
    );
    let definitions: Api<DynamicObject> = Api::all_with(client.clone(), &definitions);
    let definition = mk(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "users.example.com" },
        "spec": {
            "group": "example.com", "scope": "Cluster",
            "names": { "plural": "users", "singular": "user", "kind": "User", "listKind": "UserList" },
            "versions": [
                { "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": { "spec": { "type": "object", "required": ["email"], "properties": {
                        "email": { "type": "string" }, "lang": { "type": "string", "default": "en" },
                    } } },
                } } },
                { "name": "v1beta1", "served": true, "storage": false, "schema": { "openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                } } },
            ],
        },
    }));
    definitions
        .create(&PostParams::default(), &definition)
        .await
        .expect("created");
    let users: Api<DynamicObject> = Api::all_with(client.clone(), &users("v1"));
    users
        .create(&PostParams::default(), &mk_user("ann", json!({ "email": "a@b" })))
        .await
        .expect("created");
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let deployment = mk(json!({
        "metadata": { "name": "hooks" },
        "spec": {
            "selector": { "matchLabels": { "app": "hooks" } },
            "template": {
                "metadata": { "labels": { "app": "hooks" } },
                "spec": { "containers": [{ "name": "hooks", "image": "hooks:1" }] },
            },
        },
    }));
    deployments
        .create(&PostParams::default(), &deployment)
        .await
        .expect("created");
    let services: Api<Service> = Api::default_namespaced(client);
    let service = mk(json!({
        "metadata": { "name": "hooks" },
        "spec": { "clusterIP": "10.96.7.7", "selector": { "app": "hooks" }, "ports": [{ "port": 443 }] },
    }));
    services
        .create(&PostParams::default(), &service)
        .await
        .expect("created");
    sandbox
        .objects()
        .iter()
        .map(|object| Value::clone(object))
        .collect()
}

fn users(version: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.com", version, "User"), "users")
}

fn mk_user(name: &str, spec: Value) -> DynamicObject {
    mk(json!({ "apiVersion": "example.com/v1", "kind": "User", "metadata": { "name": name }, "spec": spec }))
}

fn by_name(objects: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    objects
        .into_iter()
        .map(|object| {
            let key = format!(
                "{} {} {}",
                object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]
            );
            (key, object)
        })
        .collect()
}

#[tokio::test]
async fn stored_objects_come_back_as_they_were() {
    let objects = mk_objects().await;
    // Any order will do: definitions are looked for first.
    let mut shuffled = objects.clone();
    shuffled.reverse();
    let sandbox = Sandbox::from_objects(Config::default(), shuffled).expect("loaded");
    let loaded = sandbox
        .objects()
        .iter()
        .map(|object| Value::clone(object))
        .collect::<Vec<_>>();
    assert_eq!(by_name(loaded), by_name(objects.clone()));

    let highest = objects
        .iter()
        .filter_map(|object| {
            object["metadata"]["resourceVersion"]
                .as_str()?
                .parse::<u64>()
                .ok()
        })
        .max()
        .expect("versions");
    let client = mk_client(&sandbox);
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let before = pods.list(&ListParams::default()).await.expect("listed");
    assert_eq!(before.metadata.resource_version, Some(highest.to_string()));
    // A change that does not concern its pods leaves them: what was there before has been adopted.
    let deployments: Api<Deployment> = Api::default_namespaced(client);
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    let patched = deployments
        .patch("hooks", &PatchParams::default(), &Patch::Merge(label))
        .await
        .expect("patched");
    assert_eq!(patched.metadata.resource_version, Some((highest + 1).to_string()));
    let after = pods.list(&ListParams::default()).await.expect("listed");
    assert_eq!(after.items, before.items);
}

#[tokio::test]
async fn objects_that_make_no_cluster_are_named() {
    let check = |objects: Vec<Value>, expect: &str| {
        let error = Sandbox::from_objects(Config::default(), objects).expect_err("refused");
        assert_eq!(error.to_string(), expect);
    };
    let map =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m", "namespace": "n" } });
    check(vec![map.clone(), map.clone()], "ConfigMap n/m is there twice");
    check(
        vec![map, json!({ "kind": "Pod" })],
        "object 1 is no Kubernetes object: apiVersion is missing",
    );
    check(
        vec![json!({ "apiVersion": "x.io/v1", "kind": "Thing", "metadata": { "name": "t" } })],
        "Thing t: no kind Thing in x.io/v1 is served",
    );
    let lost = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" } });
    assert!(matches!(
        Sandbox::from_objects(Config::default(), [lost]),
        Err(LoadError::Namespace { .. })
    ));
}

#[tokio::test]
async fn custom_resources_are_checked_pruned_and_served_in_every_version() {
    let sandbox = Sandbox::from_objects(Config::default(), mk_objects().await).expect("loaded");
    let client = mk_client(&sandbox);
    let stable: Api<DynamicObject> = Api::all_with(client.clone(), &users("v1"));
    let beta: Api<DynamicObject> = Api::all_with(client, &users("v1beta1"));
    let bob = mk_user("bob", json!({ "email": "b@b", "unknown": 1 }));
    let bob = stable
        .create(&PostParams::default(), &bob)
        .await
        .expect("created");
    assert_eq!(bob.data["spec"], json!({ "email": "b@b", "lang": "en" }));
    let (code, message) = refusal(
        stable
            .create(&PostParams::default(), &mk_user("eve", json!({})))
            .await,
    );
    assert_eq!(
        (code, message.as_str()),
        (
            422,
            "User.example.com \"eve\" is invalid: spec.email: Required value"
        )
    );
    let seen = beta.get("bob").await.expect("there");
    assert_eq!(seen.types.expect("types").api_version, "example.com/v1beta1");
    let stored = sandbox.objects();
    let stored = stored
        .iter()
        .find(|object| object["metadata"]["name"] == "bob")
        .expect("stored");
    assert_eq!(stored["apiVersion"], "example.com/v1");
    let (code, message) = refusal(
        stable
            .replace("bob", &PostParams::default(), &mk_user("bob", json!({})))
            .await,
    );
    assert_eq!(code, 422);
    assert!(
        message.contains("metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"),
        "{message}"
    );
}

#[tokio::test]
async fn a_webhook_that_nobody_answers_for_refuses_what_it_matches() {
    let sandbox = Sandbox::from_objects(Config::default(), mk_objects().await).expect("loaded");
    let client = mk_client(&sandbox);
    let webhooks = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingWebhookConfiguration",
        ),
        "validatingwebhookconfigurations",
    );
    let webhooks: Api<DynamicObject> = Api::all_with(client.clone(), &webhooks);
    let webhook: DynamicObject = mk(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "users" },
        "webhooks": [{
            "name": "users.example.com", "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 30,
            "admissionReviewVersions": ["v1"],
            "clientConfig": { "service": { "name": "hooks", "namespace": "default", "path": "/validate" } },
            "rules": [{
                "apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["users"],
            }],
        }],
    }));
    webhooks
        .create(&PostParams::default(), &webhook)
        .await
        .expect("created");
    let users: Api<DynamicObject> = Api::all_with(client.clone(), &users("v1"));
    users
        .create(&PostParams::default(), &mk_user("one", json!({ "email": "x" })))
        .await
        .expect("answered for");

    let deployments: Api<Deployment> = Api::default_namespaced(client);
    let none = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
    deployments
        .patch("hooks", &PatchParams::default(), &none)
        .await
        .expect("scaled");
    let (code, message) = refusal(
        users
            .create(&PostParams::default(), &mk_user("two", json!({ "email": "x" })))
            .await,
    );
    assert_eq!(
        (code, message.as_str()),
        (
            500,
            "Internal error occurred: failed calling webhook \"users.example.com\": Post \
             \"https://hooks.default.svc:443/validate?timeout=30s\": dial tcp 10.96.7.7:443: connect: connection refused"
        )
    );
    // What it does not match goes through.
    let label = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    users
        .patch("one", &PatchParams::default(), &label)
        .await
        .expect("an update is not its business");
    let mut ignored = webhooks.get("users").await.expect("there");
    ignored.data["webhooks"][0]["failurePolicy"] = "Ignore".into();
    webhooks
        .replace("users", &PostParams::default(), &ignored)
        .await
        .expect("replaced");
    users
        .create(&PostParams::default(), &mk_user("two", json!({ "email": "x" })))
        .await
        .expect("ignored");
}

#[tokio::test]
async fn some_fields_are_for_good() {
    let sandbox = Sandbox::new(Config::default());
    let client = mk_client(&sandbox);
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let mk_binding = |role: &str| -> ClusterRoleBinding {
        mk(json!({
            "metadata": { "name": "b" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        }))
    };
    bindings
        .create(&PostParams::default(), &mk_binding("one"))
        .await
        .expect("created");
    let (code, message) = refusal(
        bindings
            .replace("b", &PostParams::default(), &mk_binding("two"))
            .await,
    );
    assert_eq!(
        (code, message.as_str()),
        (
            422,
            "ClusterRoleBinding.rbac.authorization.k8s.io \"b\" is invalid: roleRef: Invalid value: \
             rbac.RoleRef{APIGroup:\"rbac.authorization.k8s.io\", Kind:\"ClusterRole\", Name:\"two\"}: cannot change \
             roleRef"
        )
    );
    // A PUT creates a role that is not there, as the real server does.
    let roles: Api<ClusterRole> = Api::all(client);
    let role = mk(json!({ "metadata": { "name": "system:x" }, "rules": [] }));
    roles
        .replace("system:x", &PostParams::default(), &role)
        .await
        .expect("created");
    let params = DeleteParams {
        preconditions: Some(kube::api::Preconditions {
            uid: Some("other".to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    assert_eq!(refusal(roles.delete("system:x", &params).await).0, 409);
}

#[tokio::test]
async fn the_server_speaks_tls_to_those_who_have_the_token() {
    let sandbox = Sandbox::new(Config::default());
    let server = sandbox.serve(ServeOptions::default()).await.expect("served");
    assert!(server.address.ip().is_loopback());
    let connect = async |text: &str| {
        let kubeconfig = Kubeconfig::from_yaml(text).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .expect("a configuration");
        Client::try_from(config).expect("a client")
    };
    let client = connect(&server.kubeconfig()).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(
        &PostParams::default(),
        &mk(json!({ "metadata": { "name": "m" } })),
    )
    .await
    .expect("created");
    assert_eq!(
        client.apiserver_version().await.expect("a version").git_version,
        "v1.20.2"
    );
    let review: SelfSubjectAccessReview = mk(json!({ "spec": { "resourceAttributes": { "verb": "*" } } }));
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let review = reviews
        .create(&PostParams::default(), &review)
        .await
        .expect("reviewed");
    assert!(review.status.expect("a status").allowed);

    let kubeconfig = server.kubeconfig();
    // What pods find is what vouches for the server.
    let authority = maps.get("kube-root-ca.crt").await.expect("furnished");
    let authority = authority.data.expect("data")["ca.crt"].clone();
    let encoded = base64::engine::general_purpose::STANDARD.encode(&authority);
    assert!(kubeconfig.contains(&format!("certificate-authority-data: {encoded}\n")));
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let secrets = secrets.list(&ListParams::default()).await.expect("listed");
    let token_secret = secrets.items[0].data.as_ref().expect("data");
    assert_eq!(token_secret["ca.crt"].0, authority.as_bytes());
    let token = kubeconfig
        .lines()
        .find_map(|line| line.trim().strip_prefix("token: "))
        .expect("a token");
    let stranger = connect(&kubeconfig.replace(token, "wrong")).await;
    let (code, message) = refusal(stranger.apiserver_version().await);
    assert_eq!((code, message.as_str()), (401, "Unauthorized"));
    assert!(!format!("{server:?}").contains(token), "a token is not for logs");

    // A watch ends with the server.
    let mut events = maps
        .watch(&WatchParams::default(), "0")
        .await
        .expect("watching")
        .boxed();
    assert!(matches!(events.next().await, Some(Ok(WatchEvent::Added(_)))));
    server.shutdown().await;
    while let Some(Ok(_)) = events.next().await {}
}

/// What a client might do to ten ConfigMaps.
#[derive(Debug, Clone)]
enum Act {
    Create(u8),
    Patch(u8, u8),
    Apply(u8, u8),
    Delete(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let name = 0..6_u8;
    let act = prop_oneof![
        name.clone().prop_map(Act::Create),
        (name.clone(), 0..4_u8).prop_map(|(name, value)| Act::Patch(name, value)),
        (name.clone(), 0..4_u8).prop_map(|(name, value)| Act::Apply(name, value)),
        name.prop_map(Act::Delete),
    ];
    proptest::collection::vec(act, 0..30)
}

async fn play(maps: &Api<ConfigMap>, acts: &[Act]) {
    for act in acts {
        // Refusals are part of the game: what is not there is not patched.
        let _ = match act {
            Act::Create(name) => {
                let map = mk(json!({ "metadata": { "name": format!("m{name}") } }));
                maps.create(&PostParams::default(), &map).await.map(|_| ())
            }
            Act::Patch(name, value) => {
                let patch = Patch::Merge(json!({ "data": { "value": value.to_string() } }));
                maps.patch(&format!("m{name}"), &PatchParams::default(), &patch)
                    .await
                    .map(|_| ())
            }
            Act::Apply(name, value) => {
                let patch = Patch::Apply(json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("m{name}") },
                    "data": { "value": value.to_string() },
                }));
                maps.patch(&format!("m{name}"), &PatchParams::apply("me").force(), &patch)
                    .await
                    .map(|_| ())
            }
            Act::Delete(name) => maps
                .delete(&format!("m{name}"), &DeleteParams::default())
                .await
                .map(|_| ()),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_watch_tells_all_that_a_list_shows(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let sandbox = Sandbox::new(Config::default());
            let maps: Api<ConfigMap> = Api::namespaced(mk_client(&sandbox), "kube-public");
            let start = maps.list(&ListParams::default()).await.expect("listed");
            play(&maps, &acts).await;
            // The last event marks the end of what there is to see.
            maps.create(&PostParams::default(), &mk(json!({ "metadata": { "name": "zzz" } }))).await.expect("created");
            let name = |map: &ConfigMap| map.metadata.name.clone().unwrap_or_default();
            let mut seen: BTreeMap<_, _> = start.items.iter().map(|map| (name(map), map.clone())).collect();
            let version = start.metadata.resource_version.expect("a version");
            let mut events = maps.watch(&WatchParams::default(), &version).await.expect("watching").boxed();
            while let Some(event) = events.try_next().await.expect("an event") {
                match event {
                    WatchEvent::Added(map) => assert!(seen.insert(name(&map), map).is_none()),
                    WatchEvent::Modified(map) => assert!(seen.insert(name(&map), map).is_some()),
                    WatchEvent::Deleted(map) => assert!(seen.remove(&name(&map)).is_some()),
                    other => panic!("unexpected: {other:?}"),
                }
                if seen.contains_key("zzz") {
                    break;
                }
            }
            let now = maps.list(&ListParams::default()).await.expect("listed").items;
            assert_eq!(seen.into_values().collect::<Vec<_>>(), now);
        });
    }

    #[test]
    fn a_state_equals_its_save_and_load(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let sandbox = Sandbox::new(Config::default());
            play(&Api::namespaced(mk_client(&sandbox), "kube-public"), &acts).await;
            let saved = sandbox.objects();
            let loaded = Sandbox::from_objects(Config::default(), saved.iter().map(|object| Value::clone(object)))
                .expect("loaded");
            assert_eq!(loaded.objects(), saved);
            // Whoever goes on from here draws other UIDs than before.
            let maps: Api<ConfigMap> = Api::namespaced(mk_client(&loaded), "kube-public");
            let new = maps.create(&PostParams::default(), &mk(json!({ "metadata": { "name": "new" } }))).await.expect("created");
            assert!(saved.iter().all(|object| object["metadata"]["uid"].as_str() != new.metadata.uid.as_deref()));
        });
    }
}

#[tokio::test]
async fn aggregated_roles_follow_their_parts() {
    let sandbox = Sandbox::new(Config::default());
    let roles: Api<ClusterRole> = Api::all(mk_client(&sandbox));
    let rule = |resource: &str| json!({ "apiGroups": [""], "resources": [resource], "verbs": ["get"] });
    let whole = mk(json!({
        "metadata": { "name": "whole" },
        "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "part": "yes" } }] },
        "rules": null,
    }));
    roles
        .create(&PostParams::default(), &whole)
        .await
        .expect("created");
    let mk_part = |name: &str, resources: &[&str]| -> ClusterRole {
        mk(json!({
            "metadata": { "name": name, "labels": { "part": "yes" } },
            "rules": resources.iter().map(|resource| rule(resource)).collect::<Vec<_>>(),
        }))
    };
    roles
        .create(&PostParams::default(), &mk_part("b", &["pods", "nodes"]))
        .await
        .expect("created");
    roles
        .create(&PostParams::default(), &mk_part("a", &["nodes", "events"]))
        .await
        .expect("created");
    let resources = async || -> Vec<String> {
        let rules = roles.get("whole").await.expect("there").rules.unwrap_or_default();
        rules
            .into_iter()
            .flat_map(|rule| rule.resources.unwrap_or_default())
            .collect()
    };
    assert_eq!(resources().await, ["nodes", "events", "pods"]);
    roles
        .delete("a", &DeleteParams::default())
        .await
        .expect("deleted");
    assert_eq!(resources().await, ["pods", "nodes"]);
}

#[tokio::test]
async fn health_is_told_check_by_check() {
    let sandbox = Sandbox::new(Config::default());
    let get = async |path: &str| {
        let answer = common::send(&sandbox, "GET", path, "*/*", Value::Null).await;
        (answer.code, String::from_utf8_lossy(&answer.body).into_owned())
    };
    let is_ok = (200, "ok".to_owned());
    for path in [
        "/readyz",
        "/livez/etcd",
        "/readyz/poststarthook/rbac/bootstrap-roles",
        "/readyz/shutdown",
    ] {
        assert_eq!(get(path).await, is_ok, "{path}");
    }
    for path in ["/readyz/nothing", "/livez/shutdown", "/healthz/poststarthook"] {
        assert_eq!(get(path).await.0, 404, "{path}");
    }
    for endpoint in ["readyz", "livez", "healthz"] {
        let (_, told) = get(&format!("/{endpoint}?verbose")).await;
        assert!(told.starts_with("[+]ping ok\n[+]log ok\n[+]etcd ok\n"), "{told}");
        assert!(
            told.ends_with(&format!("ok\n{endpoint} check passed\n")),
            "{told}"
        );
    }
    let (_, told) = get("/livez?verbose&exclude=etcd&exclude=x").await;
    assert!(told.contains("[+]etcd excluded: ok\n"), "{told}");
    assert!(
        told.contains("cannot be excluded: no matches for \"x\"\n"),
        "{told}"
    );
}

#[tokio::test]
async fn component_statuses_come_as_a_table() {
    const PATH: &str = "/api/v1/componentstatuses";
    let sandbox = Sandbox::new(Config::default());
    let as_table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let answer = common::send(&sandbox, "GET", PATH, as_table, Value::Null).await;
    assert_eq!(
        answer.headers["warning"],
        "299 - \"v1 ComponentStatus is deprecated in v1.19+\""
    );
    let table = answer.json();
    let columns: Vec<_> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .map(|column| &column["name"])
        .collect();
    assert_eq!(columns, ["Name", "Status", "Message", "Error"]);
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["scheduler", "Healthy", "ok", ""])
    );
    let list = common::send(&sandbox, "GET", PATH, "application/json", Value::Null)
        .await
        .json();
    assert_eq!(list["kind"], "ComponentStatusList");
    assert_eq!(list["items"][0].get("kind"), None);
    let one = common::send(&sandbox, "GET", &format!("{PATH}/etcd-0"), "*/*", Value::Null)
        .await
        .json();
    assert_eq!(one["kind"], "ComponentStatus");
    let none = common::send(&sandbox, "GET", &format!("{PATH}/none"), "*/*", Value::Null).await;
    assert_eq!(none.code, 404);
}

#[test]
fn versions_that_cannot_be_played_are_refused() {
    for version in ["v1.19.0", "1.25", "v1.21.5-eks-1"] {
        assert_eq!(Config::check_version(version), Ok(()), "{version}");
    }
    for version in ["v1.18.20", "v1.26.0", "v2.20.0", "1", ""] {
        let refused = Config::check_version(version).expect_err("a refusal").to_string();
        assert!(refused.ends_with("1.19 to 1.25"), "{refused}");
    }
}
