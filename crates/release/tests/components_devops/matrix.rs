//! What must hold of every component, whatever the settings are.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use object::{Object, ObjectKey, diff};
use release::{Manifest, Phase, images_of, lint, secret};
use serde_json::{Value, json};

use crate::situation::{RELEASE, Situation, check, fresh, made, rendered, with};
use crate::{COMPONENTS, common};

/// Everything that may be set, in turn; the names are for messages.
fn situations() -> Vec<(&'static str, Situation)> {
    let enabled = json!({
        "devops": {"enabled": true},
        "openpitrix": {"store": {"enabled": true}},
        "network": {"topology": {"type": "weave-scope"}, "networkpolicy": {"enabled": true}, "ippool": {"type": "calico"}},
        "edgeruntime": {"enabled": true, "kubeedge": {"enabled": true}},
        "multicluster": {"clusterRole": "host"},
    });
    let and = |more: Value| {
        let mut spec = enabled.clone();
        for (name, value) in more.as_object().unwrap() {
            spec[name] = value.clone();
        }
        spec
    };
    let on = |version: &str| {
        let mut situation = fresh(enabled.clone());
        situation.cluster.kubernetes_version = version.into();
        situation
    };
    let mut containerd = fresh(enabled.clone());
    containerd.cluster.container_runtime = "containerd".into();
    let mut single = fresh(enabled.clone());
    single.cluster.nodes = 1;
    let mut many = fresh(and(json!({"enableHA": true})));
    many.cluster.masters = 3;
    many.cluster.nodes = 6;
    vec![
        ("nothing set", fresh(json!({}))),
        ("all enabled", fresh(enabled.clone())),
        ("one node", single),
        ("high availability", many),
        ("containerd", containerd),
        ("1.19", on("v1.19.16")),
        ("1.21", on("v1.21.5")),
        ("1.22", on("v1.22.17-eks-48e63af")),
        ("1.23", on("v1.23.10")),
        (
            "private registry",
            fresh(and(json!({"local_registry": "registry.example:5000"}))),
        ),
        ("zone", fresh(and(json!({"zone": "cn"})))),
        (
            "placed",
            fresh(and(json!({
                "nodeSelector": {"pool": "platform"},
                "tolerations": [{"key": "platform", "operator": "Exists"}],
            }))),
        ),
        (
            "member",
            fresh(and(json!({"multicluster": {"clusterRole": "member"}}))),
        ),
        (
            "external stores",
            fresh(and(json!({
                "common": {"s3": {"endpoint": "https://s3.example", "accessKeyID": "a", "secretAccessKey": "b"},
                    "monitoring": {"type": "external"}},
                "persistence": {"storageClass": "fast"},
            }))),
        ),
        (
            "mail and SonarQube",
            fresh(and(json!({
                "devops": {"enabled": true, "sonarqube": {"externalSonarUrl": "http://sonar", "externalSonarToken": "t0k3n"}},
                "EMAIL_SMTP_HOST": "mail.corp", "EMAIL_FROM_PASS": "hunter2",
            }))),
        ),
        (
            "what 3.2 leaves",
            with(
                enabled,
                json!({
                    "jenkinsEnvironment": [{"name": "EMAIL_FROM_PASS", "value": "P@ssw0rd"},
                        {"name": "EMAIL_SMTP_HOST", "value": "mail.example.com"}],
                    "claim": {"resources": {"requests": {"storage": "40Gi"}}, "storageClassName": "slow"},
                    "config": {"devops": {"password": "119d76305a05e7a2a65d096f71feb77921"}},
                    "builtinRepository": true,
                }),
            ),
        ),
    ]
}

/// A situation's name, a component's name, the situation, the manifests.
type Rendered = (&'static str, &'static str, Situation, Vec<Manifest>);

/// Every component in every situation.
static RENDERED: LazyLock<Vec<Rendered>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for (name, situation) in situations() {
        for component in COMPONENTS {
            all.push((
                name,
                component,
                situation.clone(),
                rendered(component, &situation),
            ));
        }
    }
    all
});

fn for_all(mut look: impl FnMut(&str, &str, &Situation, &[Manifest])) {
    for (name, component, situation, manifests) in &*RENDERED {
        look(name, component, situation, manifests);
    }
}

/// Calls `look` with the path and text of every text in the value, those of documents inside of texts included.
fn texts(value: &Value, path: &str, look: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => {
            look(path, text);
            if let Some(document) = diff::document(text) {
                texts(&document, path, look);
            }
        }
        Value::Array(items) => {
            for item in items {
                let path = item
                    .get("name")
                    .and_then(Value::as_str)
                    .map_or_else(|| format!("{path}[]"), |name| format!("{path}[name={name}]"));
                texts(item, &path, look);
            }
        }
        Value::Object(map) => {
            for (name, item) in map {
                texts(item, &diff::join(path, name), look);
            }
        }
        _ => {}
    }
}

#[test]
fn the_release_has_no_loose_ends() {
    let ours = |problem: &String| {
        COMPONENTS
            .iter()
            .any(|name| problem.starts_with(&format!("{name}:")))
    };
    let problems: Vec<String> = lint(&RELEASE).into_iter().filter(ours).collect();
    assert_eq!(problems, [""; 0]);
    let order: Vec<&str> = RELEASE
        .components
        .iter()
        .map(|component| component.name.as_str())
        .collect();
    let place = |name: &str| order.iter().position(|other| *other == name);
    for name in COMPONENTS {
        let component = RELEASE.component(name).unwrap();
        assert!(!component.about.is_empty(), "{name}");
        for need in &component.needs {
            assert!(
                place(need).is_none_or(|need| Some(need) < place(name)),
                "{name} comes before {need}"
            );
        }
    }
}

#[test]
fn an_object_is_declared_by_one_component_only() {
    let mut declared: BTreeMap<(String, ObjectKey), String> = BTreeMap::new();
    for_all(|name, component, _, manifests| {
        for manifest in manifests {
            let key = (name.to_owned(), manifest.object.key());
            let other = declared.insert(key, component.to_owned());
            assert_eq!(other, None, "{name}: {component}: {}", manifest.object.key());
        }
    });
}

#[test]
fn every_image_follows_the_registry_and_none_is_pulled_always() {
    for_all(|name, component, situation, manifests| {
        let registry = match name {
            "private registry" => "registry.example:5000/",
            "zone" => "registry.cn-beijing.aliyuncs.com/kubesphereio/",
            _ => "",
        };
        for image in images_of(manifests) {
            assert!(image.starts_with(registry), "{name}: {component}: {image}");
        }
        let definition = Phase::CustomResourceDefinitions;
        for manifest in manifests.iter().filter(|manifest| manifest.phase != definition) {
            texts(manifest.object.as_value(), "", &mut |path, text| {
                assert!(text != "Always" || path.ends_with("restartPolicy"), "{path}");
            });
            let Some(pod) = pod(&manifest.object) else {
                continue;
            };
            for container in containers(pod) {
                assert_eq!(container["imagePullPolicy"], "IfNotPresent", "{container}");
            }
        }
        assert!(situation.spec.is_object());
    });
}

/// The pod that a workload makes.
fn pod(object: &Object) -> Option<&Value> {
    if !matches!(object.group(), "apps" | "batch") {
        return None;
    }
    let pod = object.get("/spec/template/spec");
    pod.or_else(|| object.get("/spec/jobTemplate/spec/template/spec"))
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"]
        .into_iter()
        .filter_map(|kind| pod[kind].as_array())
        .flatten()
}

#[test]
fn images_are_found_wherever_they_stand() {
    let devops = images_of(&rendered(
        "devops",
        &fresh(json!({"dev_tag": "nightly", "s2irun_tag": "mine"})),
    ));
    for image in [
        "kubesphere/devops-apiserver:nightly",
        "kubesphere/s2irun:mine",
        "jenkins/inbound-agent:4.10-2",
        "kubesphere/builder-go:v3.2.2-1.18",
        "kubesphere/java-11-runtime:v3.2.0",
        "golang:1.17",
    ] {
        assert!(devops.iter().any(|found| found == image), "{image} in {devops:?}");
    }
    let argocd = images_of(&rendered(
        "argocd",
        &fresh(json!({"local_registry": "r", "argocd_dex_tag": "v3"})),
    ));
    let expect = [
        "r/argoproj/argocd-applicationset:v0.4.1",
        "r/argoproj/argocd:v2.3.3",
        "r/dexidp/dex:v3",
        "r/library/redis:6.2.6-alpine",
    ];
    assert_eq!(argocd, expect);
}

#[test]
fn no_secret_is_written_down() {
    const KNOWN: [&str; 6] = [
        "P@ssw0rd",
        "P@88w0rd",
        "119d76305a05e7a2a65d096f71feb77921",
        "openpitrixminioaccesskey",
        "openpitrixminiosecretkey",
        "hunter2",
    ];
    for_all(|name, component, _, manifests| {
        for manifest in manifests {
            let object = &manifest.object;
            if object.kind() == "CustomResourceDefinition" {
                continue;
            }
            texts(object.as_value(), "", &mut |path, text| {
                for known in KNOWN.into_iter().chain(["t0k3n", "PRIVATE KEY"]) {
                    assert!(!text.contains(known), "{name}: {component}: {path}");
                }
                let is_value =
                    path.ends_with("assword") || path.ends_with("Secret") || path.ends_with("AccessKey");
                if object.kind() == "ConfigMap" && is_value {
                    let refers = text.starts_with("${") && text.ends_with('}');
                    assert!(refers, "{name}: {component}: {path}: {text}");
                }
            });
            if object.kind() == "Secret" {
                let data = object
                    .get("/data")
                    .and_then(Value::as_object)
                    .cloned()
                    .unwrap_or_default();
                for (key, value) in data.iter().filter(|(key, _)| *key != "jenkins-admin-user") {
                    assert!(
                        secret::is_secret(value.as_str().unwrap()),
                        "{name}: {component}: {key}"
                    );
                }
            }
        }
    });
}

#[test]
fn everything_can_be_put_in_its_place() {
    for_all(|name, component, situation, manifests| {
        let made = made(component, situation);
        for manifest in manifests {
            // Documents in ConfigMaps are documents still.
            let value = secret::resolve(manifest.object.as_value(), &common::lookup).unwrap();
            if let Some(text) = value.pointer("/data/kubesphere.yaml").and_then(Value::as_str) {
                assert_eq!(
                    object::parse_documents(text).unwrap().len(),
                    1,
                    "{name}: {component}"
                );
            }
            // What is generated is what is referred to, or somebody else's.
            for reference in secret::references(manifest.object.as_value()) {
                let secret::Reference::Secret {
                    namespace, name: of, ..
                } = &reference
                else {
                    continue;
                };
                let is_made = made.contains_key(of);
                assert!(
                    is_made || namespace == "kubesphere-system",
                    "{name}: {component}: {reference}"
                );
            }
        }
    });
}

#[test]
fn workloads_are_placed_by_the_component_or_by_everybodys_settings() {
    let everybody = json!({"nodeSelector": {"pool": "platform"}, "tolerations": [{"key": "platform", "operator": "Exists"}]});
    let mut own = everybody.clone();
    own["devops"] = json!({"nodeSelector": {"pool": "ci"}, "tolerations": []});
    own["multicluster"] = json!({"nodeSelector": {"pool": "host"}});
    for component in COMPONENTS {
        for (spec, pool) in [
            (&everybody, "platform"),
            (
                &own,
                match component {
                    "devops" | "argocd" => "ci",
                    "multicluster" => "host",
                    _ => "platform",
                },
            ),
        ] {
            for manifest in rendered(component, &fresh(spec.clone())) {
                let object = &manifest.object;
                // These run on every node.
                let everywhere = ["weave-scope-agent", "cloud-iptables-manager"].contains(&object.name());
                if let Some(pod) = pod(object).filter(|_| !everywhere) {
                    assert_eq!(
                        pod["nodeSelector"],
                        json!({ "pool": pool }),
                        "{component}: {}",
                        object.name()
                    );
                }
            }
        }
    }
    let argocd = fresh(json!({"affinity": {"nodeAffinity": {}}}));
    check(
        "argocd",
        &argocd,
        "Deployment",
        "devops-argocd-server",
        json!({
            "/spec/template/spec/affinity": {"nodeAffinity": {}},
            "/spec/template/spec/nodeSelector": null,
        }),
    );
}

#[test]
fn api_versions_are_those_that_the_cluster_serves() {
    for (version, expect) in [
        ("v1.19.16", "batch/v1beta1"),
        ("v1.20.2", "batch/v1beta1"),
        ("v1.21.0", "batch/v1"),
        ("v1.22.17-eks-48e63af", "batch/v1"),
        ("v1.23.10", "batch/v1"),
    ] {
        let mut situation = fresh(json!({}));
        situation.cluster.kubernetes_version = version.into();
        check(
            "devops",
            &situation,
            "CronJob",
            "devops",
            json!({"/apiVersion": expect}),
        );
    }
    for_all(|name, component, situation, manifests| {
        let old_cron_jobs = ["v1.19.16", "v1.20.2"].contains(&situation.cluster.kubernetes_version.as_str());
        for manifest in manifests {
            let version = manifest.object.as_value()["apiVersion"].as_str().unwrap();
            let of_kubernetes =
                !manifest.object.group().contains('.') || manifest.object.group().ends_with(".k8s.io");
            let is_beta = version.contains("beta") && of_kubernetes;
            assert!(
                !is_beta || old_cron_jobs && version == "batch/v1beta1",
                "{name}: {component}: {version}"
            );
        }
    });
}

#[test]
fn definitions_are_such_that_a_new_cluster_takes_them() {
    fn structural(path: &str, schema: &Value) {
        let is_free = schema["x-kubernetes-int-or-string"] == true
            || schema["x-kubernetes-preserve-unknown-fields"] == true;
        assert!(schema["type"].is_string() || is_free, "{path} has no type");
        assert!(
            schema.get("description").is_none_or(Value::is_object),
            "{path} has a description"
        );
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            structural(&format!("{path}.{name}"), property);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                structural(&format!("{path}.{inner}"), &schema[inner]);
            }
        }
    }
    for component in COMPONENTS {
        for manifest in rendered(component, &fresh(json!({}))) {
            if manifest.phase != Phase::CustomResourceDefinitions {
                continue;
            }
            assert!(!manifest.in_helm_release, "{:?}", manifest.object);
            let versions = manifest.object.get("/spec/versions").unwrap().as_array().unwrap();
            let stored = versions
                .iter()
                .filter(|version| version["storage"] == true)
                .count();
            assert_eq!(stored, 1, "{:?}", manifest.object);
            for version in versions {
                structural(manifest.object.name(), &version["schema"]["openAPIV3Schema"]);
            }
        }
    }
}
