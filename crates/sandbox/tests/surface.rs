//! Whatever is sent, an answer comes back, no server's error, and the cluster goes on.
//!
//! `KS_FUZZ_CASES` says how many sequences of requests are tried; CI tries many.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use proptest::prelude::*;
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};
use tower::Service as _;

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "api",
            "apis",
            "v1",
            "apps",
            "namespaces",
            "default",
            "configmaps",
            "deployments",
            "pods",
            "services",
            "status",
            "scale",
            "watch",
            "nodes",
            "customresourcedefinitions",
            "apiextensions.k8s.io",
            "serviceaccounts",
            "token",
            "secrets",
            "openapi",
            "v2",
            "v3",
            "batch",
            "cronjobs",
            "poddisruptionbudgets",
            "eviction",
            "kubernetes",
            "a",
            "%2e",
            "",
        ])
        .prop_map(str::to_owned),
        "[a-z0-9%./-]{0,6}",
    ]
}

fn path() -> impl Strategy<Value = String> {
    let query = prop::sample::select(vec![
        "",
        "?limit=1",
        "?watch=1&timeoutSeconds=1&resourceVersion=1",
        "?labelSelector=a%20in%20(b",
        "?fieldManager=x",
        "?fieldManager=x&force=true",
        "?dryRun=All",
        "?dryRun=x",
        "?continue=x",
        "?fieldSelector=a=b",
        "?resourceVersion=x",
        "?resourceVersion=5&resourceVersionMatch=Exact",
        "?fieldValidation=Strict",
        "?fieldValidation=Warn&fieldManager=x&force=true",
        "?export=true",
    ]);
    let known = prop::sample::select(vec![
        "/api/v1/namespaces/default/configmaps",
        "/api/v1/namespaces/default/configmaps/a",
        "/api/v1/namespaces/default/services/kubernetes",
        "/api/v1/namespaces/default/pods",
        "/apis/apps/v1/namespaces/default/deployments",
        "/apis/apps/v1/namespaces/default/deployments/a/scale",
        "/api/v1/namespaces/a/finalize",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        "/apis/apiextensions.k8s.io/v1beta1/customresourcedefinitions",
        "/apis/extensions/v1beta1/namespaces/default/ingresses",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "/apis/batch/v1/namespaces/default/jobs",
        "/apis/batch/v1beta1/namespaces/default/cronjobs",
        "/apis/policy/v1beta1/namespaces/default/poddisruptionbudgets/a",
        "/apis/autoscaling/v2beta2/namespaces/default/horizontalpodautoscalers",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/a",
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/a",
        "/openapi/v3/apis/apps/v1",
        "/apis",
    ])
    .prop_map(str::to_owned);
    let any = prop::collection::vec(word(), 0..7).prop_map(|words| format!("/{}", words.join("/")));
    (prop_oneof![known, any], query).prop_map(|(path, query)| format!("{path}{query}"))
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z.]{0,4}".prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "spec",
        "status",
        "labels",
        "finalizers",
        "ownerReferences",
        "data",
        "replicas",
        "selector",
        "template",
        "containers",
        "ports",
        "op",
        "path",
        "value",
        "versions",
        "names",
        "rules",
        "managedFields",
        "matchLabels",
        "clusterIP",
        "$patch",
        "uid",
        "resourceVersion",
    ]);
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..5).prop_map(|fields| fields
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

/// A name of an object: one that is fine, or one at the bounds of what is looked at.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("a".to_owned()),
        1 => (60..66_usize, "[aé_.-]{0,2}").prop_map(|(length, end)| "a".repeat(length) + &end),
        1 => (250..255_usize, "[aé]{0,1}").prop_map(|(length, end)| "a".repeat(length) + &end),
        1 => "[é☸a.-]{1,4}",
    ]
}

/// A body: something like an object of the path's kind, anything in JSON, or no JSON at all.
fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        value().prop_map(|value| value.to_string().into_bytes()),
        (name(), value(), value()).prop_map(|(name, spec, extra)| {
            json!({ "metadata": { "name": name, "labels": extra }, "spec": spec, "data": extra })
                .to_string()
                .into_bytes()
        }),
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| [b"k8s\0".to_vec(), bytes].concat()),
    ]
}

fn media() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "application/json",
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "text/plain",
    ])
}

/// What is accepted in answer.
fn accept() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "application/json",
        "*/*",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        "application/yaml",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
        "text/plain",
    ])
}

/// Whether a real server as well says of this that it was its own mistake; each of these stands in the recorded answers.
fn is_like_kubernetes(method: &str, message: &str) -> bool {
    // It says so of all options of a deletion that it cannot read.
    if method == "DELETE" && !message.starts_with("Internal error") {
        return true;
    }
    [
        "strconv.ParseUint",
        "failed to merge config: expected objects of the same type",
        "Invalid JSON Patch",
        "unknown patch type",
        "FieldManager must be installed to run apply",
        "failed to create typed patch object",
    ]
    .iter()
    .any(|known| message.contains(known))
}

fn cases() -> u32 {
    let wanted = std::env::var("KS_FUZZ_CASES").ok();
    wanted.and_then(|number| number.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn every_request_is_answered(
        requests in prop::collection::vec(
            (prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]), path(), media(), accept(), body()),
            1..30,
        )
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let sandbox = Sandbox::new(Config::default());
            let mut service = sandbox.service();
            for (method, path, media, accept, body) in requests {
                let Ok(request) = http::Request::builder()
                    .method(method)
                    .uri(path.as_str())
                    .header("content-type", media)
                    .header("accept", accept)
                    .body(Full::new(Bytes::from(body)))
                else {
                    continue;
                };
                let response = service.call(request).await.expect("an answer");
                let is_json = response.headers().get("content-type").is_some_and(|kind| kind == "application/json");
                if !is_json || path.contains("watch") {
                    continue;
                }
                let code = response.status();
                let bytes = response.into_body().collect().await.expect("a body").to_bytes();
                let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
                if code.as_u16() >= 400 && answer.get("paths").is_none() {
                    prop_assert_eq!(&answer["kind"], "Status");
                    prop_assert_eq!(&answer["code"], code.as_u16());
                    let message = answer["message"].as_str().unwrap_or_default();
                    prop_assert!(!message.is_empty());
                    prop_assert!(code.as_u16() != 500 || is_like_kubernetes(method, message), "{} {}: {}", method, path, message);
                }
            }
            // What is there is still a cluster that can be saved and loaded.
            let saved: Vec<Value> = sandbox.objects().iter().map(|object| Value::clone(object)).collect();
            prop_assert!(Sandbox::from_objects(Config::default(), saved).is_ok());
            Ok(())
        })?;
    }
}
