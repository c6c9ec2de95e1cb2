//! The next revision of a release: what it holds, whether one is needed at all, and what becomes of those before it.

use std::collections::{BTreeMap, BTreeSet};

use object::merge::{DriftPolicy, three_way};
use object::{Object, ObjectKey};
use serde_json::{Map, Value, json};

use super::{RESOURCE_POLICY, Record};
use crate::{HelmRelease, secret};

/// What Helm itself puts on every object of a release, whether or not the chart says so.
const MARKS: [(&str, &str); 3] = [
    ("labels", "app.kubernetes.io/managed-by"),
    ("annotations", "meta.helm.sh/release-name"),
    ("annotations", "meta.helm.sh/release-namespace"),
];

/// The largest record that an API server takes: the data of a Secret must not be larger than 1 MiB.
pub const MAX_RECORD: usize = 1 << 20;

/// The revision that a further one builds on, and that tells what is in the cluster: the latest that was deployed; where
/// none is, the newest that failed or was superseded. Helm chooses the same. It would refuse to go on where it was killed
/// while it uninstalled the release; what is left of that is what this revision tells, too.
pub fn current(records: &[Record]) -> Option<&Record> {
    super::latest_deployed(records).or_else(|| {
        let newest = records.iter().max_by_key(|record| record.revision())?;
        matches!(newest.status(), "failed" | "superseded" | "uninstalling").then_some(newest)
    })
}

/// Objects of the release that it no longer renders, and that stay in the cluster by the word of `stays`. They remain
/// in the records, with the annotation that has Helm keep them when the release goes.
///
/// Without them `helm rollback` to a revision that has them would fail: it finds them in the cluster, and not in the
/// revision that it leaves.
pub fn carried(
    previous: &BTreeMap<ObjectKey, Object>,
    rendered: &[Object],
    stays: impl Fn(&Object) -> bool,
) -> Vec<Object> {
    let rendered: BTreeSet<ObjectKey> = rendered.iter().map(Object::key).collect();
    previous
        .iter()
        .filter(|(key, object)| !rendered.contains(key) && stays(object))
        .map(|(_, object)| keeping(object))
        .collect()
}

/// The object as a chart renders it: without what Helm puts on every object.
pub fn unmarked(object: &Object) -> Object {
    let mut object = object.clone();
    if let Some(metadata) = object
        .as_map_mut()
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
    {
        for (map, name) in MARKS {
            if let Some(names) = metadata.get_mut(map).and_then(Value::as_object_mut) {
                names.remove(name);
                if names.is_empty() {
                    metadata.remove(map);
                }
            }
        }
    }
    object
}

/// The object without what means the same unsaid: Helm's marks, and the defaults of ports and Services.
fn bare(object: &Object) -> Object {
    fn forget_protocols(value: &mut Value) {
        match value {
            Value::Object(map) => {
                let is_port = map.contains_key("port") || map.contains_key("containerPort");
                if is_port && map.get("protocol").is_some_and(|protocol| protocol == "TCP") {
                    map.remove("protocol");
                }
                map.values_mut().for_each(forget_protocols);
            }
            Value::Array(items) => items.iter_mut().for_each(forget_protocols),
            _ => {}
        }
    }
    let mut object = unmarked(object);
    let is_service = object.key().is("", "Service");
    if let Some(spec) = object.as_map_mut().get_mut("spec") {
        forget_protocols(spec);
        if let Some(map) = spec.as_object_mut().filter(|_| is_service)
            && map.get("type").is_some_and(|kind| kind == "ClusterIP")
        {
            map.remove("type");
        }
    }
    object
}

/// Whether a record whose manifest has the objects `recorded` already describes these objects: the same ones, and each says
/// the same. How a quantity or a document inside a text is written makes no difference, nor what Helm puts on every object,
/// nor whether a default is said.
pub fn describes(recorded: &[Object], objects: &[Object]) -> bool {
    let recorded: BTreeMap<ObjectKey, Object> = recorded
        .iter()
        .map(|object| (object.key(), bare(object)))
        .collect();
    let says_no_more = |a: &Object, b: &Object| three_way(None, a, b, DriftPolicy::Keep).changes.is_empty();
    recorded.len() == objects.len()
        && objects.iter().all(|object| {
            let object = bare(object);
            recorded
                .get(&object.key())
                .is_some_and(|there| says_no_more(there, &object) && says_no_more(&object, there))
        })
}

/// The objects with what a record whose manifest has the objects `recorded` has of secrets: a text that is nothing but a
/// reference to a Secret is put in as it was recorded, where it was. What is generated belongs to the cluster, not to the
/// release; that it was made anew since says nothing about the release.
pub fn with_recorded_secrets(recorded: &[Object], objects: &[Object]) -> Vec<Object> {
    fn fill(value: &mut Value, recorded: &Value) {
        match value {
            Value::String(text) if secret::is_secret(text) && recorded.is_string() => {
                recorded.as_str().unwrap_or_default().clone_into(text);
            }
            Value::Object(map) => {
                for (name, value) in map {
                    if let Some(recorded) = recorded.get(name) {
                        fill(value, recorded);
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    if let Some(recorded) = recorded.get(index) {
                        fill(item, recorded);
                    }
                }
            }
            _ => {}
        }
    }
    let recorded: BTreeMap<ObjectKey, &Object> = recorded.iter().map(|there| (there.key(), there)).collect();
    let filled = objects.iter().map(|object| {
        let mut filled = object.clone();
        let refers = !secret::references(object.as_value()).is_empty();
        if let Some(there) = recorded.get(&object.key()).filter(|_| refers) {
            for (name, value) in filled.as_map_mut() {
                if let Some(there) = there.as_value().get(name) {
                    fill(value, there);
                }
            }
        }
        filled
    });
    filled.collect()
}

/// The revision after all of `records`, for a release of which `objects` are what it owns from now on. It lacks its
/// manifest and its times: see [`Record::completed`].
///
/// It builds on the [`current`] revision: values stay, but for the tags of images that `objects` run under another tag
/// now. The chart's templates and hooks do not: they are those of the old chart, and would be run.
pub fn successor(records: &[Record], helm: &HelmRelease, objects: &[Object], description: &str) -> Record {
    let revision = records.iter().map(Record::revision).max().unwrap_or_default() + 1;
    let previous = current(records).or(records.last());
    let of_previous = |pointer: &str| previous.and_then(|record| record.raw.pointer(pointer)).cloned();
    let mut metadata = of_previous("/chart/metadata")
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({"apiVersion": "v2", "type": "application"}));
    metadata["name"] = helm.chart.name.as_str().into();
    metadata["version"] = helm.chart.version.as_str().into();
    metadata["appVersion"] = helm.chart.app_version.as_str().into();
    let mut config = of_previous("/config")
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({}));
    retag(&mut config, &image_tags(objects));
    let mut info = Map::new();
    if let Some(first) = of_previous("/info/first_deployed") {
        info.insert("first_deployed".into(), first);
    }
    info.insert("deleted".into(), "".into());
    info.insert("description".into(), description.into());
    info.insert("status".into(), "deployed".into());
    Record {
        raw: json!({
            "name": helm.name,
            "info": info,
            "chart": {
                "metadata": metadata,
                "lock": of_previous("/chart/lock"),
                "templates": [],
                "values": of_previous("/chart/values").filter(Value::is_object).unwrap_or_else(|| json!({})),
                "schema": of_previous("/chart/schema"),
                "files": [],
            },
            "config": config,
            "manifest": "",
            "version": revision,
            "namespace": helm.namespace,
        }),
    }
}

/// What becomes of a revision once a later one is deployed: its status and its description. `None`: nothing, as with
/// one that failed or was superseded before.
pub fn overtaken(record: &Record, by: u64) -> Option<(&'static str, String)> {
    if record.status() == "deployed" {
        let description = record.text("/info/description").to_owned();
        return Some(("superseded", description));
    }
    (record.is_pending() || record.status() == "uninstalling").then(|| {
        let words = format!(
            "Helm was killed while this was {}; revision {by} came after it",
            record.status()
        );
        ("failed", words)
    })
}

/// Tags by the last part of the image's name, of all images in the objects.
fn image_tags(objects: &[Object]) -> BTreeMap<String, String> {
    fn walk(value: &Value, found: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    match value.as_str() {
                        Some(image) if name == "image" => {
                            let last = image.rsplit('/').next().unwrap_or(image);
                            if let Some((name, tag)) = last.split_once(':') {
                                found.insert(name.to_owned(), tag.to_owned());
                            }
                        }
                        _ => walk(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let mut found = BTreeMap::new();
    for object in objects {
        walk(object.as_value(), &mut found);
    }
    found
}

/// Puts the tags in place of those that stand beside the images' names: `NAME_tag` beside `NAME_repo`, `tag` beside
/// `repository`.
fn retag(values: &mut Value, tags: &BTreeMap<String, String>) {
    let Some(map) = values.as_object_mut() else { return };
    let mut found = Vec::new();
    for (name, value) in map.iter() {
        let tag = match name.strip_suffix("_repo") {
            Some(image) => format!("{image}_tag"),
            None if name == "repository" => "tag".to_owned(),
            None => continue,
        };
        let last = value.as_str().and_then(|image| image.rsplit('/').next());
        if let Some(new) = last.and_then(|image| tags.get(image))
            && map.contains_key(&tag)
        {
            found.push((tag, new.clone()));
        }
    }
    for (name, tag) in found {
        map.insert(name, tag.into());
    }
    map.values_mut().for_each(|value| retag(value, tags));
}

impl Record {
    /// The record with what is known only when it is written. `now` is RFC 3339.
    pub fn completed(&self, manifest: &str, now: &str) -> Self {
        let mut raw = self.raw.clone();
        raw["manifest"] = manifest.into();
        if raw.pointer("/info/first_deployed").is_none() {
            raw["info"]["first_deployed"] = now.into();
        }
        raw["info"]["last_deployed"] = now.into();
        Self { raw }
    }

    /// This record with another status and description.
    pub fn with_status(&self, status: &str, description: &str) -> Self {
        let mut raw = self.raw.clone();
        raw["info"]["status"] = status.into();
        raw["info"]["description"] = description.into();
        Self { raw }
    }
}

/// The object with the annotation that has Helm keep it.
fn keeping(object: &Object) -> Object {
    let mut object = object.clone();
    let metadata = object.as_map_mut().entry("metadata").or_insert_with(|| json!({}));
    metadata["annotations"][RESOURCE_POLICY] = "keep".into();
    object
}

#[cfg(test)]
mod tests {
    use super::{super::is_kept, *};
    use crate::Chart;

    fn helm() -> HelmRelease {
        HelmRelease {
            name: "ks-core".into(),
            namespace: "kubesphere-system".into(),
            chart: Chart {
                name: "ks-core".into(),
                version: "0.2.0".into(),
                app_version: "v2".into(),
            },
            without: Vec::new(),
            replaces: Vec::new(),
        }
    }

    fn mk(revision: u64, status: &str, manifest: &str) -> Record {
        Record::from_value(json!({
            "name": "ks-core", "namespace": "kubesphere-system", "version": revision, "manifest": manifest,
            "info": {"status": status, "first_deployed": "a", "last_deployed": "a", "notes": "n", "description": "d"},
            "chart": {"metadata": {"name": "ks-core", "version": "0.1.0", "home": "h"}, "templates": [{"name": "t"}],
                "values": {"x": 1}, "files": [{"name": "f"}]},
            "hooks": [{"name": "h"}],
            "config": {"image": {"a_repo": "o/a", "a_tag": "v1", "b_repo": "o/b", "b_tag": "v1"}, "replicaCount": 3},
        }))
        .unwrap()
    }

    fn recorded_in(record: &Record) -> Vec<Object> {
        record.manifest_objects(&super::super::is_namespaced).unwrap()
    }

    fn object(text: &str) -> Object {
        Object::try_from(object::parse_documents(text).unwrap().remove(0)).unwrap()
    }

    #[test]
    fn the_next_revision_builds_on_the_current_one() {
        let records = [
            mk(1, "superseded", ""),
            mk(2, "deployed", ""),
            mk(3, "pending-upgrade", ""),
        ];
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: 'r:5000/o/a:v2'}]}}";
        let next = successor(&records, &helm(), &[object(pod)], "Upgrade complete");
        let next = next.completed("---\n", "2026-11-22T21:20:16Z");
        assert_eq!((next.revision(), next.status()), (4, "deployed"));
        assert_eq!(
            next.as_value()["info"],
            json!({"first_deployed": "a", "deleted": "", "description": "Upgrade complete", "status": "deployed",
                "last_deployed": "2026-11-22T21:20:16Z"})
        );
        assert_eq!(
            next.chart(),
            &json!({"metadata": {"name": "ks-core", "version": "0.2.0", "home": "h", "appVersion": "v2"}, "lock": null,
                "templates": [], "values": {"x": 1}, "schema": null, "files": []})
        );
        assert_eq!(
            next.config(),
            &json!({"image": {"a_repo": "o/a", "a_tag": "v2", "b_repo": "o/b", "b_tag": "v1"}, "replicaCount": 3})
        );
        assert_eq!(
            next.as_value().get("hooks"),
            None,
            "the old chart's hooks are not run"
        );
        let first = successor(&[], &helm(), &[], "d").completed("", "now");
        assert_eq!(
            (first.revision(), &first.as_value()["info"]["first_deployed"]),
            (1, &json!("now"))
        );
    }

    #[test]
    fn the_current_revision_is_the_one_that_helm_takes() {
        let check = |states: &[&str], expect: Option<u64>| {
            let records: Vec<_> = (1..).zip(states).map(|(n, s)| mk(n, s, "")).collect();
            assert_eq!(current(&records).map(Record::revision), expect, "{states:?}");
        };
        check(&["deployed", "failed"], Some(1));
        check(&["superseded", "failed"], Some(2));
        check(&["pending-install"], None);
        check(&["uninstalled"], None);
        check(&["superseded", "uninstalling"], Some(2));
        check(&["deployed", "deployed"], Some(2));
    }

    #[test]
    fn what_came_before_is_left_as_helm_leaves_it() {
        let check = |status: &str, expect: Option<&str>| {
            let got = overtaken(&mk(1, status, ""), 2).map(|(status, _)| status);
            assert_eq!(got, expect, "{status}");
        };
        check("deployed", Some("superseded"));
        check("pending-upgrade", Some("failed"));
        check("uninstalling", Some("failed"));
        check("superseded", None);
        check("failed", None);
        check("uninstalled", None);
    }

    #[test]
    fn a_record_describes_what_says_the_same() {
        const MANIFEST: &str = "---\n# Source: a\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  x.yaml: |\n    a: 1\n    b: 2\n";
        let check = |text: &str, expect: bool| {
            let record = mk(1, "deployed", MANIFEST);
            assert_eq!(
                describes(&recorded_in(&record), &[object(text)]),
                expect,
                "{text}"
            );
        };
        let map = |data: &str, metadata: &str| {
            format!(
                "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c, namespace: kubesphere-system{metadata}}}, data: {data}}}"
            )
        };
        check(&map(r#"{x.yaml: "b: 2\na: 1\n"}"#, ""), true);
        check(
            &map(
                r#"{x.yaml: "b: 2\na: 1\n"}"#,
                ", labels: {app.kubernetes.io/managed-by: Helm}, annotations: {meta.helm.sh/release-name: ks-core}",
            ),
            true,
        );
        check(&map(r#"{x.yaml: "b: 2\na: 2\n"}"#, ""), false);
        check(&map(r#"{x.yaml: "b: 2\na: 1\n"}"#, ", labels: {a: b}"), false);
        check(&map("{}", ""), false);
        assert!(!describes(&recorded_in(&mk(1, "deployed", MANIFEST)), &[]));
    }

    #[test]
    fn a_default_that_is_said_says_nothing() {
        const MANIFEST: &str = "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 80, targetPort: 8080}]}}\n";
        let check = |spec: &str, expect: bool| {
            let text = format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: kubesphere-system}}, spec: {spec}}}"
            );
            let record = mk(1, "deployed", MANIFEST);
            assert_eq!(
                describes(&recorded_in(&record), &[object(&text)]),
                expect,
                "{spec}"
            );
        };
        check(
            "{type: ClusterIP, ports: [{port: 80, targetPort: 8080, protocol: TCP}]}",
            true,
        );
        check("{ports: [{port: 80, targetPort: 8080, protocol: UDP}]}", false);
        check("{type: NodePort, ports: [{port: 80, targetPort: 8080}]}", false);
    }

    #[test]
    fn a_secret_that_was_made_anew_says_nothing() {
        let check = |recorded: &str, rendered: &str, expect: bool| {
            let text = |data: &str| {
                format!(
                    "{{apiVersion: v1, kind: Secret, metadata: {{name: s, namespace: kubesphere-system}}, data: {data}}}"
                )
            };
            let record = mk(1, "deployed", &text(recorded));
            let filled = with_recorded_secrets(&recorded_in(&record), &[object(&text(rendered))]);
            assert_eq!(
                describes(&recorded_in(&record), &filled),
                expect,
                "{recorded} {rendered}"
            );
        };
        let reference = "'${secret:n/s/k|base64}'";
        check("{k: old}", &format!("{{k: {reference}}}"), true);
        check("{k: old, l: x}", &format!("{{k: {reference}, l: y}}"), false);
        check("{l: x}", &format!("{{k: {reference}, l: x}}"), false);
        check("{k: old}", "{k: 'the ${secret:n/s/k}'}", false);
        check("{k: old}", "{k: '${setting:a.b}'}", false);
    }

    #[test]
    fn what_is_kept_stays_in_the_records() {
        let kept = object(
            "{apiVersion: v1, kind: A, metadata: {name: a, annotations: {helm.sh/resource-policy: keep}}}",
        );
        let plain = object("{apiVersion: v1, kind: A, metadata: {name: b}}");
        let previous: BTreeMap<_, _> = [kept.clone(), plain.clone()]
            .into_iter()
            .map(|o| (o.key(), o))
            .collect();
        let names = |rendered: &[Object], stays: fn(&Object) -> bool| {
            let carried = carried(&previous, rendered, stays);
            assert!(carried.iter().all(is_kept));
            carried.iter().map(|o| o.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[], is_kept), ["a"]);
        assert_eq!(names(&[], |_| true), ["a", "b"]);
        assert_eq!(names(std::slice::from_ref(&kept), |_| true), ["b"]);
    }
}
