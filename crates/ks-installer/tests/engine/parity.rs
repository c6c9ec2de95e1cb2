//! The tenants' cluster after our upgrade, object by object against the same cluster after upstream's own. Whatever
//! differs is told in docs/parity.md with its reason; what is told and does not differ fails, too.

use std::collections::BTreeSet;

use object::{ObjectKey, diff};
use serde_json::{Map, Value};

use crate::support::{self, state::State};

const TITLE: &str = "## A whole upgrade";

/// A line of the table: which objects, which field of them. `*` stands for any text.
pub(crate) struct Told {
    pub object: String,
    pub field: String,
}

/// The lines of the table in a section of the page.
pub(crate) fn told(title: &str) -> Vec<Told> {
    let page = include_str!("../../../../docs/parity.md");
    let (_, section) = page.split_once(title).expect("the page has the section");
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with("| object |"))
        .skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line
                .split('|')
                .map(|cell| cell.trim().trim_matches('`').to_owned());
            cells.next();
            let told = Told {
                object: cells.next().unwrap(),
                field: cells.next().unwrap(),
            };
            let why = cells.nth(2).unwrap();
            assert!(!why.is_empty(), "{line} gives no reason");
            told
        })
        .collect()
}

pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))
        }),
    }
}

/// Nothing, an empty list and an empty map say the same; what client-side apply noted down says nothing new.
fn without_empty(value: &Value) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(map) => {
            let kept = map
                .iter()
                .filter(|(name, _)| *name != object::LAST_APPLIED)
                .map(|(name, value)| (name.clone(), without_empty(value)));
            Value::Object(kept.filter(|(_, value)| !is_empty(value)).collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}

/// An expression of Prometheus without white space and comments, which mean nothing.
fn expression(value: Option<&Value>) -> String {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.flat_map(str::split_whitespace).collect()
}

fn is_same_expression(key: &ObjectKey, change: &diff::Change) -> bool {
    key.kind == "PrometheusRule"
        && change.path.rsplit('.').next() == Some("expr")
        && expression(change.from.as_ref()) == expression(change.to.as_ref())
}

/// Object and path of everything that differs.
pub(crate) fn differences(ours: &State, theirs: &State) -> BTreeSet<(String, String)> {
    let is_compared = |key: &&ObjectKey| {
        !["APIService", "FlowSchema", "PriorityLevelConfiguration"].contains(&key.kind.as_str())
    };
    let mut found = BTreeSet::new();
    for key in ours.changed(theirs).iter().filter(|key| is_compared(key)) {
        match (ours.find(key), theirs.find(key)) {
            (Some(here), Some(there)) => {
                let changes = diff::changes(&without_empty(here), &without_empty(there));
                let changes = changes
                    .into_iter()
                    .filter(|change| !is_same_expression(key, change));
                found.extend(changes.map(|change| (key.to_string(), change.path)));
            }
            _ => drop(found.insert((key.to_string(), "the whole object".to_owned()))),
        }
    }
    found
}

fn end_states() -> (State, State) {
    let theirs = support::read(&support::fixture("kubesphere-3.3.1-by-upstream.ndjson.zst"));
    let state = |state: State| state.comparable().declared();
    (
        state(State::of(&support::upgraded())),
        state(State::of_objects(theirs)),
    )
}

/// Whatever differs is told, and whatever is told differs.
#[track_caller]
pub(crate) fn check_told(differences: &BTreeSet<(String, String)>, told: &[Told]) {
    let is = |told: &Told, (object, field): &(String, String)| {
        matches(&told.object, object) && matches(&told.field, field)
    };
    let untold: Vec<_> = differences
        .iter()
        .filter(|found| !told.iter().any(|told| is(told, found)))
        .collect();
    assert!(untold.is_empty(), "not told in docs/parity.md: {untold:#?}");
    let stale: Vec<_> = told
        .iter()
        .filter(|told| !differences.iter().any(|found| is(told, found)))
        .map(|told| (&told.object, &told.field))
        .collect();
    assert!(stale.is_empty(), "told in docs/parity.md, but not so: {stale:#?}");
}

#[test]
fn the_end_state_is_upstreams_but_for_what_is_told() {
    let (ours, theirs) = end_states();
    let told = told(TITLE);
    let differences = differences(&ours, &theirs);
    check_told(&differences, &told);
}

#[test]
fn a_difference_is_seen() {
    let (mut ours, theirs) = end_states();
    let before = differences(&ours, &theirs);
    let key = support::state::system("apps", "Deployment", "ks-console");
    let deployment = std::sync::Arc::make_mut(ours.0.get_mut(&key).unwrap());
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
    let after = differences(&ours, &theirs);
    let new: Vec<_> = after.difference(&before).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    assert!(new[0].1.ends_with("imagePullPolicy"), "{new:?}");
}
