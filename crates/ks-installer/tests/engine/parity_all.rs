//! The cluster with every component after our upgrade, object by object against the same cluster after upstream's own.
//! Whatever differs is told in docs/parity.md with its reason; what is told and does not differ fails, too.
//!
//! With KS_PARITY=write (`cargo xtask parity`) the numbers in docs/parity.md are written anew.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use object::ObjectKey;
use serde_json::Value;

use crate::{
    all::{everything, material},
    parity::{Told, check_told, differences, told},
    support::{self, state::State},
};

const TITLE: &str = "## With every component";
const BEGIN: &str = "<!-- numbers: begin -->";
const END: &str = "<!-- numbers: end -->";

/// What upstream's own upgrade of the same cluster left; DevOps and Argo CD from a run in which its certificate was helped along.
fn upstream() -> Option<State> {
    let read = |name: &str| Some(State::of_objects(support::read(&material(name)?)));
    let mut state = read("reference/kubesphere-3.3.1-all-by-upstream.ndjson.zst")?;
    let devops = read("reference/kubesphere-3.3.1-devops-by-upstream.ndjson.zst")?;
    let is_devops = |key: &ObjectKey| {
        const NAMESPACES: [&str; 3] = ["argocd", "kubesphere-devops-system", "kubesphere-devops-worker"];
        const GROUPS: [&str; 3] = ["devops.kubesphere.io", "gitops.kubesphere.io", "argoproj.io"];
        key.namespace
            .as_deref()
            .is_some_and(|namespace| NAMESPACES.contains(&namespace))
            || GROUPS.contains(&key.group.as_str())
            || ["devops", "argo", "gitops", "s2i"]
                .iter()
                .any(|part| key.name.contains(part))
    };
    state.0.retain(|key, _| !is_devops(key));
    state
        .0
        .extend(devops.0.into_iter().filter(|(key, _)| is_devops(key)));
    Some(state)
}

/// Whether an object is the release's or its components', and not what Kubernetes or Helm make of it.
fn is_compared(key: &ObjectKey, object: &Value) -> bool {
    let kind = object["type"].as_str().unwrap_or_default();
    let is_made = kind == "kubernetes.io/service-account-token" || kind == "helm.sh/release.v1";
    !is_made && key.name != "kube-root-ca.crt"
}

/// Without what the cluster itself gives an object, and without texts for people.
fn normalised(key: &ObjectKey, object: &Value) -> Value {
    let mut object = object.clone();
    match key.kind.as_str() {
        "CustomResourceDefinition" => without_descriptions(&mut object),
        "Service" => {
            for name in ["clusterIP", "clusterIPs"] {
                if object["spec"][name] != "None" && object["spec"][name][0] != "None" {
                    object["spec"].as_object_mut().unwrap().remove(name);
                }
            }
        }
        "ServiceAccount" => drop(object.as_object_mut().unwrap().remove("secrets")),
        "PrometheusRule" => without_layout(&mut object["spec"]),
        _ => {}
    }
    object
}

fn without_descriptions(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("description").is_some_and(Value::is_string) {
                map.remove("description");
            }
            map.values_mut().for_each(without_descriptions);
        }
        Value::Array(items) => items.iter_mut().for_each(without_descriptions),
        _ => {}
    }
}

/// Expressions without white space and comments, alerts without the texts that are shown to people.
fn without_layout(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("annotations");
            if let Some(Value::String(text)) = map.get_mut("expr") {
                let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
                let letters = lines.flat_map(str::chars);
                *text = letters.filter(|letter| !letter.is_whitespace()).collect();
            }
            map.values_mut().for_each(without_layout);
        }
        Value::Array(items) => items.iter_mut().for_each(without_layout),
        _ => {}
    }
}

fn prepared(state: &State) -> State {
    let compared = state.0.iter().filter(|(key, object)| is_compared(key, object));
    State(
        compared
            .map(|(key, object)| (key.clone(), normalised(key, object).into()))
            .collect(),
    )
}

fn leaves(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.values().map(leaves).sum(),
        Value::Array(items) => items.iter().map(leaves).sum(),
        _ => 1,
    }
}

fn numbers(ours: &State, theirs: &State, found: &BTreeSet<(String, String)>, told: &[Told]) -> String {
    let both = theirs.0.keys().filter(|key| ours.find(key).is_some()).count();
    let differing: BTreeSet<&String> = found.iter().map(|(object, _)| object).collect();
    let whole = found
        .iter()
        .filter(|(_, field)| field == "the whole object")
        .count();
    let fields: usize = theirs.0.values().map(|object| leaves(object)).sum();
    let mut text = String::new();
    let _ = writeln!(text, "| measured | |\n|---|---|");
    let rows = [
        ("objects that upstream's upgrade leaves", theirs.0.len()),
        ("of them present after ours", both),
        ("objects that only ours has", ours.0.len() - both),
        (
            "objects that are equal in every field",
            both - differing
                .iter()
                .filter(|name| {
                    theirs.0.keys().any(|key| key.to_string() == ***name)
                        && ours.0.keys().any(|key| key.to_string() == ***name)
                })
                .count(),
        ),
        ("fields compared", fields),
        ("fields that differ", found.len() - whole),
        ("of all differences, told below with their reason", found.len()),
        ("reasons", told.len()),
    ];
    for (what, number) in rows {
        let _ = writeln!(text, "| {what} | {number} |");
    }
    text
}

#[test]
fn with_every_component_the_end_state_is_upstreams_but_for_what_is_told() {
    let (Some(sandbox), Some(theirs)) = (everything(), upstream()) else {
        return;
    };
    support::block_on(support::upgrade(&sandbox));
    let state = |state: State| prepared(&state.comparable().declared());
    let (ours, theirs) = (state(State::of(&sandbox)), state(theirs));
    let found = differences(&ours, &theirs);
    let told = told(TITLE);
    check_told(&found, &told);

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/parity.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let fresh = format!(
        "{before}{BEGIN}\n{}{END}{after}",
        numbers(&ours, &theirs, &found, &told)
    );
    if std::env::var("KS_PARITY").is_ok_and(|what| what == "write") {
        std::fs::write(&path, fresh).unwrap();
    } else {
        assert!(
            page == fresh,
            "the numbers in docs/parity.md are not fresh: run cargo xtask parity"
        );
    }
}
