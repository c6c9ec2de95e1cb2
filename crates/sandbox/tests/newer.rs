//! What newer clients ask for, and older ones in other forms than JSON.

use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

use common::{Answer, send};

mod common;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn get(sandbox: &Sandbox, path: &str, accept: &str) -> Answer {
    let answer = send(sandbox, "GET", path, accept, Value::Null).await;
    assert_eq!(answer.code, 200, "{path}: {:?}", answer.body);
    answer
}

/// The numbers of the fields of a protobuf message all of which have a length.
fn field_numbers(mut message: &[u8]) -> Vec<u64> {
    fn number(message: &mut &[u8]) -> u64 {
        let mut read = 0;
        for place in 0.. {
            let (first, rest) = message.split_first().expect("a whole number");
            *message = rest;
            read |= u64::from(first & 0x7f) << (7 * place);
            if first & 0x80 == 0 {
                break;
            }
        }
        read
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        found.push(number(&mut message) >> 3);
        let length = usize::try_from(number(&mut message)).expect("a length");
        message = &message[length..];
    }
    found
}

async fn define(sandbox: &Sandbox) {
    let schema = json!({ "type": "object", "properties": { "spec": { "type": "object", "required": ["mail"],
        "properties": { "mail": { "type": "string" } } } } });
    let definition = json!({
        "metadata": { "name": "users.example.com" },
        "spec": { "group": "example.com", "scope": "Cluster",
            "names": { "plural": "users", "singular": "user", "kind": "User", "listKind": "UserList" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }] },
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(send(sandbox, "POST", path, "*/*", definition).await.code, 201);
}

#[tokio::test]
async fn all_kinds_are_told_in_one_answer_to_those_who_ask() {
    let sandbox = Sandbox::new(Config::default());
    define(&sandbox).await;
    for form in ["v2", "v2beta1"] {
        let accept = format!(
            "application/json;g=apidiscovery.k8s.io;v={form};as=APIGroupDiscoveryList,application/json"
        );
        let answer = get(&sandbox, "/apis", &accept).await;
        let kind = answer.headers["content-type"].to_str().expect("text");
        assert!(
            kind.contains("as=APIGroupDiscoveryList") && kind.contains(form),
            "{kind}"
        );
        let all = answer.json();
        assert_eq!(all["apiVersion"], format!("apidiscovery.k8s.io/{form}"));
        let find = |group: &str, plural: &str| {
            let groups = all["items"].as_array().expect("groups");
            let group = groups
                .iter()
                .find(|known| known["metadata"]["name"] == group)
                .expect("the group");
            let kinds = group["versions"][0]["resources"].as_array().expect("kinds");
            kinds
                .iter()
                .find(|kind| kind["resource"] == plural)
                .expect("the kind")
                .clone()
        };
        let deployments = find("apps", "deployments");
        assert_eq!(
            deployments["responseKind"],
            json!({ "group": "apps", "version": "v1", "kind": "Deployment" })
        );
        assert_eq!(deployments["scope"], "Namespaced");
        let subresources = deployments["subresources"].as_array().expect("subresources");
        let scale = subresources
            .iter()
            .find(|one| one["subresource"] == "scale")
            .expect("scale");
        assert_eq!(scale["responseKind"]["group"], "autoscaling");
        assert_eq!(find("example.com", "users")["singularResource"], "user");
    }
    let plain = get(&sandbox, "/apis", "application/json").await.json();
    assert_eq!(plain["kind"], "APIGroupList");
    let table = "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json";
    assert_eq!(get(&sandbox, "/apis", table).await.json()["kind"], "APIGroupList");
}

#[tokio::test]
async fn kinds_are_described_in_both_versions_of_openapi() {
    let sandbox = Sandbox::new(Config::default());
    let before = get(&sandbox, "/openapi/v3", "*/*").await.json();
    assert!(before["paths"].get("apis/example.com/v1").is_none());
    define(&sandbox).await;
    let after = get(&sandbox, "/openapi/v3", "*/*").await.json();
    let address = |index: &Value, name: &str| {
        index["paths"][name]["serverRelativeURL"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(address(&before, "apis/apps/v1"), address(&after, "apis/apps/v1"));
    let users = address(&after, "apis/example.com/v1").expect("an address");
    let document = get(&sandbox, &users, "application/json").await.json();
    let user = &document["components"]["schemas"]["com.example.v1.User"];
    assert_eq!(user["properties"]["spec"]["required"], json!(["mail"]));
    assert_eq!(
        user["properties"]["metadata"]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    let parameters = &document["paths"]["/apis/example.com/v1/users/{name}"]["patch"]["parameters"];
    assert!(parameters.to_string().contains("fieldValidation"), "{parameters}");

    let document = get(&sandbox, "/openapi/v2", "application/json").await.json();
    let containers = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    let protobuf = get(
        &sandbox,
        "/openapi/v2",
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    )
    .await;
    // swagger, info, paths and definitions of gnostic's Document.
    assert_eq!(field_numbers(&protobuf.body), [1, 2, 8, 9]);
    assert!(
        protobuf
            .body
            .windows(19)
            .any(|part| part == b"com.example.v1.User")
    );
}

#[tokio::test]
async fn fields_are_checked_for_those_who_ask() {
    let sandbox = Sandbox::new(Config::default());
    let map = |name: &str| json!({ "metadata": { "name": name }, "dat": { "a": "b" } });
    let create = async |query: &str, name: &str| {
        send(&sandbox, "POST", &format!("{MAPS}{query}"), "*/*", map(name)).await
    };
    assert_eq!(create("", "a").await.code, 201);
    assert_eq!(create("?fieldValidation=Ignore", "b").await.code, 201);
    let refused = create("?fieldValidation=Strict", "c").await;
    assert_eq!(refused.code, 400);
    let message = refused.json()["message"].to_string();
    assert!(
        message.contains(r#"strict decoding error: unknown field \"dat\""#),
        "{message}"
    );
    let warned = create("?fieldValidation=Warn", "d").await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers["warning"], r#"299 - "unknown field \"dat\"""#);
    assert_eq!(create("?fieldValidation=Sometimes", "e").await.code, 422);
    // Also of custom resources.
    define(&sandbox).await;
    let user = json!({ "apiVersion": "example.com/v1", "kind": "User", "metadata": { "name": "a" }, "spec": { "mail": "x", "male": "y" } });
    let path = "/apis/example.com/v1/users?fieldValidation=Strict";
    let refused = send(&sandbox, "POST", path, "*/*", user).await;
    assert_eq!(refused.code, 400, "{:?}", refused.body);
    assert!(refused.json()["message"].to_string().contains("spec.male"));
}

#[tokio::test]
async fn answers_come_in_yaml_to_those_who_want_it() {
    let sandbox = Sandbox::new(Config::default());
    let found = get(&sandbox, "/api/v1/namespaces/default", "application/yaml").await;
    assert_eq!(found.headers["content-type"], "application/yaml");
    let text = String::from_utf8(found.body.to_vec()).expect("text");
    assert!(
        text.starts_with("apiVersion: v1\nkind: Namespace\nmetadata:\n"),
        "{text}"
    );
    let refused = send(
        &sandbox,
        "GET",
        "/api/v1/namespaces/none",
        "application/yaml",
        Value::Null,
    )
    .await;
    assert_eq!(refused.code, 404);
    assert!(String::from_utf8_lossy(&refused.body).contains("reason: NotFound"));
}
