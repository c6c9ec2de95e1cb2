//! deploy/cluster-configuration.yaml: what users apply where there is no KubeSphere yet.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use object::{Object, ObjectKey};
use release::Releases;
use serde_json::{Value, json};
use upgrade::{
    Finding, Severity,
    settings::{self, ClusterFacts, LiveFacts, Settings},
};

const FILE: &str = include_str!("../../../deploy/cluster-configuration.yaml");

fn facts() -> ClusterFacts {
    ClusterFacts {
        kubernetes_version: "v1.20.2".into(),
        nodes: 1,
        masters: 1,
        ..ClusterFacts::default()
    }
}

fn mk_configuration(text: &str) -> Object {
    let mut documents = object::parse_documents(text).unwrap();
    assert_eq!(documents.len(), 1);
    Object::try_from(documents.remove(0)).unwrap()
}

/// An object, with the document that a ConfigMap may hold read.
fn opened(object: Object) -> Value {
    let mut value = object.into_value();
    for text in value["data"]
        .as_object_mut()
        .into_iter()
        .flat_map(|data| data.values_mut())
    {
        if let Some(document) = text.as_str().and_then(|text| object::parse_documents(text).ok()) {
            *text = document.into();
        }
    }
    value
}

/// The file with all settings that need not be there taken up: `#name: value` without a space after the `#`.
fn with_all(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let start = line.trim_start();
        match start.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                format!("{}{setting}", &line[..line.len() - start.len()])
            }
            _ => line.to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What is wrong with a spec, and its settings.
fn read(spec: &Value) -> (Vec<Finding>, Settings) {
    let conversion = settings::convert(spec, &json!({}), &LiveFacts::default());
    let settings = Settings::parse(&conversion.spec, &facts()).unwrap();
    let mut findings = conversion.notes;
    findings.extend(settings.check(false));
    findings.retain(|finding| finding.severity != Severity::Info);
    assert_eq!(conversion.spec, *spec, "every setting stands where it is read");
    (findings, settings)
}

#[test]
fn every_setting_in_it_is_known_and_says_what_no_setting_says() {
    let configuration = mk_configuration(FILE);
    assert_eq!(configuration.key(), upgrade::cluster_configuration_key());
    let releases = Releases::embedded().unwrap();
    let release = releases.latest().unwrap();
    assert_eq!(
        configuration.label("version"),
        Some(release.version.to_string().as_str())
    );

    let (findings, settings) = read(configuration.get("/spec").unwrap());
    assert_eq!(findings, []);
    let (_, empty) = read(&json!({}));
    let mut differences = Vec::new();
    for component in &release.components {
        let render = |settings: &Settings| -> BTreeMap<ObjectKey, Value> {
            let inputs = settings.inputs(release, component, |_| None).unwrap();
            let manifests = release::render(release, component, &inputs).unwrap();
            manifests
                .into_iter()
                .map(|manifest| (manifest.object.key(), opened(manifest.object)))
                .collect()
        };
        let (with, without) = (render(&settings), render(&empty));
        assert_eq!(
            with.keys().collect::<Vec<_>>(),
            without.keys().collect::<Vec<_>>(),
            "{}",
            component.name
        );
        for (key, object) in &with {
            let changes = object::diff::changes(&without[key], object);
            differences.extend(
                changes
                    .into_iter()
                    .map(|change| format!("{key}: {}", change.path)),
            );
        }
    }
    // The kinds of GPU that the console offers have no default but the one in the file; and a pool of the type none is none.
    assert_eq!(
        differences,
        [
            "ConfigMap kubesphere-system/kubesphere-config: data[kubesphere.yaml][0].network",
            "ConfigMap kubesphere-system/kubesphere-config: data[kubesphere.yaml][0].gpu",
            // The file says localhost, which a check refuses as soon as etcd is to be monitored.
            "Endpoints kube-system/etcd: subsets[0].addresses",
        ]
    );
    assert_eq!(
        (&settings.admin_password, &settings.jwt_secret),
        (&empty.admin_password, &empty.jwt_secret)
    );
    assert_eq!(settings.components, empty.components);
}

#[test]
fn what_need_not_be_there_is_known_too() {
    let configuration = mk_configuration(&with_all(FILE));
    let spec = configuration.get("/spec").unwrap();
    assert_eq!(spec.pointer("/common/s3/region"), Some(&json!("us-east-1")));
    assert_eq!(spec.pointer("/enableHA"), Some(&json!(false)));
    let (findings, _) = read(spec);
    assert_eq!(findings, []);
}

#[test]
fn there_is_no_secret_in_it() {
    let configuration = mk_configuration(&with_all(FILE));
    for path in [
        "authentication/jwtSecret",
        "authentication/adminPassword",
        "common/es/basicAuth/password",
        "common/s3/secretAccessKey",
        "devops/sonarqube/externalSonarToken",
    ] {
        assert_eq!(
            configuration.get_str(&format!("/spec/{path}")),
            Some(""),
            "{path}"
        );
    }
}
