//! What holds for all of these components, whatever is set.

use std::collections::BTreeMap;

use object::ObjectKey;
use release::{images_of, lint};
use serde_json::{Value, json};

use super::{COMPONENTS, Case, at, check, everything_and, matrix, mk, release};

#[test]
fn nothing_is_declared_in_vain() {
    let ours = |problem: &String| {
        COMPONENTS
            .iter()
            .any(|name| problem.starts_with(&format!("{name}:")))
    };
    let problems: Vec<String> = lint(release()).into_iter().filter(ours).collect();
    assert_eq!(problems, [""; 0]);
}

#[test]
fn what_a_component_needs_comes_before_it() {
    let release = release();
    let place = |name: &str| {
        release
            .components
            .iter()
            .position(|component| component.name == name)
    };
    for name in COMPONENTS {
        for needed in &release.component(name).unwrap().needs {
            assert!(
                place(needed).unwrap() < place(name).unwrap(),
                "{name} needs {needed}"
            );
        }
    }
    // It reads their Secrets.
    for name in ["redis", "redis-ha", "openldap", "minio"] {
        assert!(place(name) < place("ks-core"), "{name}");
    }
}

#[test]
fn whatever_is_set_the_objects_hold_together() {
    for (index, case) in matrix().iter().enumerate() {
        let mut owners: BTreeMap<ObjectKey, &str> = BTreeMap::new();
        for name in COMPONENTS {
            let manifests = case.manifests(name);
            assert!(manifests.is_sorted_by_key(|manifest| manifest.phase));
            if !case.is_enabled(name) {
                continue;
            }
            for manifest in &manifests {
                let text = manifest.object.as_value().to_string();
                let key = manifest.object.key();
                // Passwords are references, also in documents; nothing has one of the passwords that once were everywhere.
                for secret in ["hunter2", "openpitrixminio", "P@88w0rd", "\"value\":\"admin\""] {
                    assert!(!text.contains(secret), "{index}: {key} holds {secret}");
                }
                if key.kind != "CustomResourceDefinition" {
                    assert!(
                        !text.contains("\"Always\"") && !text.contains(": Always"),
                        "{index}: {key}"
                    );
                }
                if key.kind == "Secret" && manifest.object.get("/data").is_some() {
                    for value in manifest
                        .object
                        .get("/data")
                        .unwrap()
                        .as_object()
                        .unwrap()
                        .values()
                    {
                        assert!(
                            release::secret::is_secret(value.as_str().unwrap()),
                            "{index}: {key}"
                        );
                    }
                }
                if key.kind == "ConfigMap" {
                    let data = manifest.object.get("/data").unwrap().as_object().unwrap();
                    assert!(data.values().all(Value::is_string), "{index}: {key}");
                }
                if let Some(other) = owners.insert(key.clone(), name) {
                    panic!("{index}: {key} is of {other} and {name}");
                }
            }
        }
    }
}

#[test]
fn images_follow_the_registry() {
    let all = |spec: Value, runtime: &str| -> Vec<String> {
        let case = mk(everything_and(spec)).on(|cluster| cluster.container_runtime = runtime.into());
        let names = COMPONENTS.into_iter();
        images_of(&names.flat_map(|name| case.manifests(name)).collect::<Vec<_>>())
    };
    let plain = all(json!({}), "docker");
    assert_eq!(plain.len(), 32, "{plain:#?}");
    for image in &plain {
        assert!(
            image.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest"),
            "{image}"
        );
    }
    let local = all(json!({"local_registry": "registry.example:5000"}), "docker");
    let expect: Vec<String> = plain
        .iter()
        .map(|image| {
            let library = if image.contains('/') { "" } else { "library/" };
            format!("registry.example:5000/{library}{image}")
        })
        .collect();
    let sorted = |mut images: Vec<String>| {
        images.sort();
        images
    };
    assert_eq!(local, sorted(expect));
    let name = |image: &String| image.rsplit('/').next().unwrap().to_owned();
    let mirror = "registry.cn-beijing.aliyuncs.com/kubesphereio/";
    let expect = plain
        .iter()
        .map(|image| format!("{mirror}{}", name(image)))
        .collect();
    assert_eq!(all(json!({"zone": "cn"}), "docker"), sorted(expect));

    // Documents and arguments follow, too, and so does an image that is set by itself.
    let spec =
        everything_and(json!({"local_registry": "r", "kiali_tag": "v2", "istio_proxyv2_repo": "mine/proxy"}));
    let case = mk(spec);
    let objects = case.objects("logsidecar-injector");
    let sidecar = at(
        &objects,
        "ConfigMap/logsidecar-injector-configmap",
        "/data/sidecar.yaml",
    );
    assert!(
        sidecar
            .as_str()
            .unwrap()
            .contains("image: r/elastic/filebeat:6.7.0"),
        "{sidecar}"
    );
    let operator = "Deployment/ks-events-operator";
    let argument = "/spec/template/spec/containers/0/args/0";
    let reloader = json!("--config-reloader-image=r/jimmidyson/configmap-reload:v0.5.0");
    check(&case, "events", &[(operator, argument, reloader)]);
    check(
        &case,
        "kiali",
        &[
            (
                "Kiali/kiali",
                "/spec/deployment/image_name",
                json!("r/kubesphere/kiali"),
            ),
            ("Kiali/kiali", "/spec/deployment/image_version", json!("v2")),
        ],
    );
    let objects = case.objects("servicemesh");
    let images = at(&objects, "ConfigMap/istio-configuration", "/data/images.yaml");
    let images = object::parse_documents(images.as_str().unwrap())
        .unwrap()
        .remove(0);
    assert_eq!(
        images["spec"],
        json!({"hub": "r/istio", "tag": "1.11.1", "values": {
            "pilot": {"image": "r/istio/pilot:1.11.1"},
            "global": {"proxy": {"image": "mine/proxy:1.11.1"}, "proxy_init": {"image": "mine/proxy:1.11.1"}}}})
    );
}

#[test]
fn settings_ask_for_components() {
    let enabled = |case: &Case| -> Vec<&str> {
        COMPONENTS
            .into_iter()
            .filter(|name| case.is_enabled(name))
            .collect()
    };
    assert_eq!(enabled(&mk(json!({}))), ["snapshot-controller"]);
    assert_eq!(
        enabled(&mk(json!({"logging": {"enabled": "true"}}))),
        [
            "snapshot-controller",
            "elasticsearch",
            "elasticsearch-curator",
            "fluent-operator",
            "logging",
            "logsidecar-injector"
        ]
    );
    assert_eq!(
        enabled(&mk(json!({"servicemesh": {"enabled": true}}))),
        [
            "snapshot-controller",
            "elasticsearch",
            "elasticsearch-curator",
            "jaeger",
            "kiali",
            "servicemesh"
        ]
    );
    let external = json!({"externalElasticsearchUrl": "es", "externalElasticsearchPort": 9200});
    assert_eq!(
        enabled(&mk(
            json!({"events": {"enabled": true}, "common": {"es": external}})
        )),
        [
            "snapshot-controller",
            "elasticsearch-curator",
            "fluent-operator",
            "events"
        ]
    );
    assert_eq!(
        enabled(&mk(json!({"devops": {"enabled": true}}))),
        ["snapshot-controller", "openldap", "minio"]
    );
    assert_eq!(
        enabled(&mk(
            json!({"openpitrix": {"store": {"enabled": true}}, "common": {"s3": {"endpoint": "e"}}})
        )),
        ["snapshot-controller"]
    );
    for foreign in [
        json!({"deployment": true}),
        json!({"statefulSet": true}),
        json!({"statefulSet": true, "release": "somebodys"}),
    ] {
        let case = mk(json!({})).with(foreign);
        assert!(
            !case.is_enabled("snapshot-controller"),
            "somebody else's controller does the work"
        );
    }
    let ours = json!({"statefulSet": true, "release": "snapshot-controller"});
    assert!(mk(json!({})).with(ours).is_enabled("snapshot-controller"));
}
