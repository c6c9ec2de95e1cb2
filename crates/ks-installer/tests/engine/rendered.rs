//! What every setting of the matrix changes in what is applied, kept for who reviews it: `cargo insta review`.

use std::{collections::BTreeMap, fmt::Write as _};

use object::{ObjectKey, diff};
use release::{Manifest, Releases};
use serde_json::{Value, json};

use crate::matrix;

type Rendered = BTreeMap<ObjectKey, Manifest>;

fn rendered(runtime: &str, settings: &Value) -> Rendered {
    let releases = Releases::embedded().unwrap();
    let manifests = matrix::rendered(releases.latest().unwrap(), "v1.21.0", runtime, settings);
    manifests
        .into_iter()
        .map(|manifest| (manifest.object.key(), manifest))
        .collect()
}

/// Names of Jobs change with what they do.
fn without_digest(key: &ObjectKey) -> ObjectKey {
    let mut key = key.clone();
    if let Some((name, digest)) = key.name.rsplit_once('-')
        && digest.len() == 10
        && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        key.name = format!("{name}-(digest)");
    }
    key
}

fn differences(before: &Rendered, after: &Rendered) -> String {
    let by_name = |rendered: &Rendered| -> Rendered {
        rendered
            .iter()
            .map(|(key, manifest)| (without_digest(key), manifest.clone()))
            .collect()
    };
    let (before, after) = (by_name(before), by_name(after));
    let mut out = String::new();
    for key in before.keys().filter(|key| !after.contains_key(key)) {
        let _ = writeln!(out, "- {key}");
    }
    for (key, manifest) in &after {
        let Some(was) = before.get(key) else {
            let _ = writeln!(out, "+ {key}");
            continue;
        };
        let changes: Vec<_> = diff::changes(was.object.as_value(), manifest.object.as_value())
            .into_iter()
            .filter(|change| change.path != "metadata.name")
            .collect();
        if !changes.is_empty() {
            let _ = writeln!(out, "~ {key}");
        }
        for change in changes {
            let side = |value: Option<&Value>| value.map_or("absent".to_owned(), short);
            let _ = writeln!(
                out,
                "    {}: {} -> {}",
                change.path,
                side(change.from.as_ref()),
                side(change.to.as_ref())
            );
        }
    }
    out
}

/// Documents in texts are long: what changes in them is in the tests of their components.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

#[test]
fn defaults() {
    let lines: Vec<String> = rendered("containerd", &json!({}))
        .into_values()
        .map(|manifest| {
            let key = without_digest(&manifest.object.key());
            format!("{key} {}", release::images_of([&manifest]).join(" "))
                .trim_end()
                .to_owned()
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn settings() {
    let before = rendered("containerd", &json!({}));
    for (about, settings) in matrix::settings() {
        if about == "defaults" {
            continue;
        }
        let after = rendered("containerd", &settings);
        insta::assert_snapshot!(about.replace(' ', "_"), differences(&before, &after));
    }
    let docker = rendered("docker", &json!({}));
    insta::assert_snapshot!("docker", differences(&before, &docker));
}
