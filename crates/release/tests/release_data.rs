//! The embedded release data holds together.

use release::{Cluster, Inputs, Release, Releases, lint, render};
use serde_json::{Value, json};

fn inputs(release: &Release, spec: Value) -> Inputs {
    let component = release.component("ks-core").unwrap();
    Inputs {
        settings: release.read_settings(component, &spec).unwrap(),
        cluster: Cluster {
            kubernetes_version: "v1.20.2".into(),
            nodes: 3,
            masters: 1,
            ..Cluster::default()
        },
        existing: json!({"adminUser": true, "kubesphereConfig": null})
            .as_object()
            .unwrap()
            .clone(),
    }
}

#[test]
fn releases_have_no_loose_ends() {
    let releases = Releases::embedded().unwrap();
    for release in releases.iter() {
        assert_eq!(lint(release), [""; 0], "{}", release.version);
    }
}

#[test]
fn every_release_renders() {
    for release in Releases::embedded().unwrap().iter() {
        for component in &release.components {
            let manifests = render(release, component, &inputs(release, json!({}))).unwrap();
            assert!(manifests.is_sorted_by_key(|manifest| manifest.phase));
        }
    }
}
