//! Answers of a real Kubernetes 1.20.2, recorded, against the field core.
//!
//! `tests/fixtures/fields/recorded.json` holds sequences of requests and what kube-apiserver answered to each. Every
//! step starts from the object that the server had, so that one difference does not hide the next. Times are replaced
//! by the number of the step, in seconds.

#![allow(
    clippy::unwrap_used,
    reason = "a recording that lacks something fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};

use sandbox::fields::{Schema, defaults, managed, patch, validate};
use serde_json::{Value, json};

/// Fields that the server sets after the point where the field core ends: allocation, admission, controllers.
const SET_BY_OTHERS: &[&str] = &[
    ".metadata.annotations.deprecated.daemonset.template.generation",
    // A job that takes its labels from its pods shares them: what is added to one shows in the other.
    ".metadata.labels.controller-uid",
    ".metadata.labels.job-name",
    ".metadata.finalizers",
    ".metadata.namespace",
    ".spec.clusterIP",
    ".spec.clusterIPs",
    ".spec.externalTrafficPolicy",
    ".spec.ports[].nodePort",
    ".spec.nodeName",
    ".spec.preemptionPolicy",
    ".spec.priority",
    ".spec.selector",
    ".spec.template.metadata.labels",
    ".spec.tolerations",
];

#[derive(Debug)]
struct Refusal {
    code: u64,
    message: Option<String>,
    causes: Option<BTreeSet<String>>,
}

fn refuse(code: u64, message: impl Into<String>) -> Refusal {
    Refusal {
        code,
        message: Some(message.into()),
        causes: None,
    }
}

struct Kind {
    schema: Schema,
    open_api: Option<Value>,
}

impl Kind {
    fn finish(&self, object: &mut Value) {
        match &self.open_api {
            None => defaults::apply_defaults(object, 20),
            Some(open_api) => {
                validate::prune(open_api, object);
                validate::default(open_api, object);
            }
        }
    }

    fn check(&self, object: &Value) -> Result<(), Refusal> {
        let Some(open_api) = &self.open_api else {
            return Ok(());
        };
        let causes = validate::check(open_api, object);
        if causes.is_empty() {
            return Ok(());
        }
        let causes = causes
            .into_iter()
            .map(|c| format!("{} {} {}", c.field, c.reason, c.message))
            .collect();
        Err(Refusal {
            code: 422,
            message: None,
            causes: Some(causes),
        })
    }
}

fn refuse_patch(error: patch::PatchError) -> Refusal {
    match error {
        patch::PatchError::BadRequest(message) => refuse(400, message),
        patch::PatchError::Unprocessable(_) => Refusal {
            code: 422,
            message: None,
            causes: None,
        },
        patch::PatchError::TooLarge(message) => refuse(413, message),
        patch::PatchError::Internal(message) => refuse(500, message),
    }
}

fn refuse_apply(error: managed::ApplyError) -> Refusal {
    let code = match &error {
        managed::ApplyError::Conflicts(_) => 409,
        managed::ApplyError::BadRequest(_) => 400,
        managed::ApplyError::Invalid(_) => 500,
    };
    refuse(code, error.to_string())
}

fn replay(kind: &Kind, live: Option<&Value>, step: &Value, time: &str) -> Result<Value, Refusal> {
    let body = &step["body"];
    let manager = step["manager"].as_str().unwrap();
    let update = |mut new: Value| {
        kind.finish(&mut new);
        managed::update(live, &mut new, manager, time, &kind.schema);
        kind.check(&new)?;
        Ok(new)
    };
    let shown = live.unwrap_or(&Value::Null);
    match step["op"].as_str().unwrap() {
        "create" | "put" => update(body.clone()),
        "json" => update(patch::json(shown, body).map_err(refuse_patch)?),
        "merge" => update(patch::merge(shown, body)),
        "strategic" => update(patch::strategic(shown, body, &kind.schema).map_err(refuse_patch)?),
        "status" => {
            let mut new = patch::merge(shown, body);
            kind.finish(&mut new);
            managed::update_subresource(shown, &mut new, manager, "", time, &kind.schema);
            // Only the status is written; who owns what follows from all that was asked for.
            let mut written = shown.clone();
            written["status"] = new["status"].take();
            written["metadata"]["managedFields"] = new["metadata"]["managedFields"].take();
            Ok(written)
        }
        "apply" => {
            let force = step["force"] == true;
            let mut new =
                managed::apply(live, body, manager, "", force, time, &kind.schema).map_err(refuse_apply)?;
            if let Some(open_api) = &kind.open_api {
                validate::prune(open_api, &mut new);
                validate::fill_defaults(open_api, &mut new);
            }
            kind.check(&new)?;
            Ok(new)
        }
        other => panic!("unknown operation {other}"),
    }
}

/// Without what each server makes up on its own.
fn comparable(object: &Value) -> Value {
    let mut object = object.clone();
    let metadata = object["metadata"].as_object_mut().unwrap();
    for key in [
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "selfLink",
    ] {
        metadata.shift_remove(key);
    }
    object.as_object_mut().unwrap().shift_remove("status");
    object
}

fn differences(ours: &Value, theirs: &Value, path: &str, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
            for key in keys {
                let path = format!("{path}.{key}");
                match (ours.get(key), theirs.get(key)) {
                    (Some(ours), Some(theirs)) => differences(ours, theirs, &path, found),
                    (None, Some(theirs)) if !SET_BY_OTHERS.contains(&path.as_str()) => {
                        found.push(format!("{path}: ours has none, theirs {theirs}"));
                    }
                    (Some(ours), None) => found.push(format!("{path}: ours {ours}, theirs has none")),
                    _ => {}
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (ours, theirs) in ours.iter().zip(theirs) {
                differences(ours, theirs, &format!("{path}[]"), found);
            }
        }
        _ if ours == theirs || SET_BY_OTHERS.contains(&path) => {}
        _ => found.push(format!("{path}: ours {ours}, theirs {theirs}")),
    }
}

/// Refusals that the core has no part in: validation of built-in kinds, immutable fields, optimistic locking.
fn is_other_layer(step: &Value, custom: bool) -> bool {
    let message = step["answer"]["message"].as_str().unwrap_or_default();
    message.contains("the object has been modified")
        || (step["code"] == 422 && !custom && message.contains(" is invalid: "))
}

fn compare(ours: &Result<Value, Refusal>, step: &Value) -> Vec<String> {
    let theirs = &step["answer"];
    let code = step["code"].as_u64().unwrap();
    let mut found = Vec::new();
    match ours {
        Ok(object) if code < 300 => differences(&comparable(object), &comparable(theirs), "", &mut found),
        Ok(_) => found.push(format!("ours is accepted, theirs {code}: {}", theirs["message"])),
        Err(refusal) if code < 300 => found.push(format!("ours {refusal:?}, theirs is accepted")),
        Err(refusal) => {
            if refusal.code != code {
                found.push(format!("ours {refusal:?}, theirs {code}: {}", theirs["message"]));
            }
            if let Some(message) = &refusal.message
                && theirs["message"] != message.as_str()
            {
                found.push(format!("ours says {message:?}, theirs {}", theirs["message"]));
            }
            if let Some(causes) = &refusal.causes {
                let theirs: BTreeSet<String> = theirs["details"]["causes"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|c| {
                        let text = |key: &str| c[key].as_str().unwrap_or_default();
                        format!("{} {} {}", text("field"), text("reason"), text("message"))
                    })
                    .collect();
                for cause in causes.difference(&theirs) {
                    found.push(format!("only ours: {cause}"));
                }
                for cause in theirs.difference(causes) {
                    found.push(format!("only theirs: {cause}"));
                }
            }
        }
    }
    found
}

#[test]
fn the_core_answers_as_kubernetes_1_20_does() {
    let recorded: Value = serde_json::from_str(include_str!("fixtures/fields/recorded.json")).unwrap();
    let mut report: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut steps = 0;
    for case in recorded["cases"].as_array().unwrap() {
        let kind = match case["kind"].as_str().unwrap() {
            "BetaDefinition" => "CustomResourceDefinition",
            kind => kind,
        };
        let open_api = recorded["schemas"].get(kind).cloned();
        let mut live: Option<Value> = None;
        for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            if step["op"] == "get" {
                live = Some(step["answer"].clone());
                continue;
            }
            if is_other_layer(step, open_api.is_some()) {
                continue;
            }
            let schema = if let Some(open_api) = &open_api {
                Schema::from_crd(open_api)
            } else {
                let of = [
                    live.as_ref().map(|live| &live["apiVersion"]),
                    Some(&step["body"]["apiVersion"]),
                ];
                let version = of.into_iter().flatten().find_map(Value::as_str).unwrap();
                Schema::builtin(version, kind, 20).unwrap()
            };
            if !step["live"].is_null() {
                live = Some(step["live"].clone());
            }
            let kind = Kind {
                schema,
                open_api: open_api.clone(),
            };
            let mut ours = replay(
                &kind,
                live.as_ref(),
                step,
                &format!("2020-01-01T00:00:{index:02}Z"),
            );
            if let Ok(object) = &mut ours
                && live.is_none()
            {
                for key in ["uid", "name"] {
                    object["metadata"][key] = step["answer"]["metadata"][key].clone();
                }
                defaults::on_create(object, 20);
            }
            let found = compare(&ours, step);
            steps += 1;
            if !found.is_empty() {
                let name = format!("{} / {}, step {index} {}", case["kind"], case["name"], step["op"]);
                report.insert(name, found);
            }
            if step["code"].as_u64().unwrap() < 300 {
                live = Some(step["answer"].clone());
            }
        }
    }
    assert!(steps > 200, "the recording holds {steps} steps");
    let text: Vec<String> = report
        .iter()
        .map(|(name, found)| format!("{name}\n    {}", found.join("\n    ")))
        .collect();
    assert!(
        report.is_empty(),
        "{} of {steps} steps differ\n{}",
        report.len(),
        text.join("\n")
    );
}

/// The recorded objects are in the server's form already.
#[test]
fn what_the_server_wrote_does_not_change() {
    let recorded: Value = serde_json::from_str(include_str!("fixtures/fields/recorded.json")).unwrap();
    let mut seen = 0;
    for case in recorded["cases"].as_array().unwrap() {
        if recorded["schemas"].get(case["kind"].as_str().unwrap()).is_some() {
            continue;
        }
        for step in case["steps"].as_array().unwrap() {
            if step["code"].as_u64().unwrap() < 300 {
                let mut object = step["answer"].clone();
                defaults::apply_defaults(&mut object, 20);
                assert_eq!(object.to_string(), step["answer"].to_string(), "{}", case["name"]);
                seen += 1;
            }
        }
    }
    assert!(seen > 100);
    let mut unknown = json!({"apiVersion": "example.org/v1", "kind": "Thing", "spec": {"a": null}});
    defaults::apply_defaults(&mut unknown, 20);
    assert_eq!(
        unknown,
        json!({"apiVersion": "example.org/v1", "kind": "Thing", "spec": {"a": null}})
    );
}
