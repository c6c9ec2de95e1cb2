//! Label and field selectors, as they stand in a query and in objects.

mod parse;

use serde_json::Value;

use crate::json::{list, text};
use crate::kinds::Resource;
use crate::status::{Result, Status};

/// A conjunction of requirements on labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl Labels {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub(crate) fn parse(selector: &str) -> Result<Labels> {
        parse::parse(selector).map(Labels).map_err(Status::bad_request)
    }

    /// A `LabelSelector`: an empty one selects everything, a missing one nothing.
    pub(crate) fn of(selector: Option<&Value>) -> Option<Labels> {
        let selector = selector.filter(|selector| !selector.is_null())?;
        let mut requirements = equal(selector.get("matchLabels"));
        for expression in list(selector, "matchExpressions") {
            let values = list(expression, "values")
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            let test = match text(expression, "operator") {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                _ => return None,
            };
            requirements.push(Requirement {
                key: text(expression, "key").to_owned(),
                test,
            });
        }
        Some(Labels(requirements))
    }

    /// A plain map of labels, as in a Service: a missing or empty one selects nothing.
    pub(crate) fn of_map(map: Option<&Value>) -> Option<Labels> {
        let requirements = equal(map);
        (!requirements.is_empty()).then_some(Labels(requirements))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.is_empty() || self.matches_labels(object.pointer("/metadata/labels"))
    }

    pub(crate) fn matches_labels(&self, labels: Option<&Value>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels
                .and_then(|labels| labels.get(&requirement.key))
                .and_then(Value::as_str);
            match (&requirement.test, value) {
                (Test::Exists, value) => value.is_some(),
                (Test::Absent, value) => value.is_none(),
                (Test::In(values), Some(value)) => values.iter().any(|one| one == value),
                (Test::NotIn(values), Some(value)) => values.iter().all(|one| one != value),
                (Test::NotIn(_), None) => true,
                (Test::Greater(bound), Some(value)) => value.parse::<i64>().is_ok_and(|value| value > *bound),
                (Test::Less(bound), Some(value)) => value.parse::<i64>().is_ok_and(|value| value < *bound),
                (Test::In(_) | Test::Greater(_) | Test::Less(_), None) => false,
            }
        })
    }
}

fn equal(map: Option<&Value>) -> Vec<Requirement> {
    map.and_then(Value::as_object)
        .map(|map| {
            map.iter()
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    test: Test::In(vec![value.as_str().unwrap_or_default().to_owned()]),
                })
                .collect()
        })
        .unwrap_or_default()
}

/// A conjunction of requirements on fields: pointer, wanted value, whether it must be equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields(Vec<(String, String, bool)>);

impl Fields {
    /// Reads `metadata.name=x,status.phase!=Running`; refuses fields that the server does not index for the kind.
    pub(crate) fn parse(selector: &str, resource: &Resource, version: &str) -> Result<Fields> {
        let mut requirements = Vec::new();
        for part in selector.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, value, true)
            } else {
                return Err(Status::bad_request(format!(
                    "invalid selector: '{selector}'; can't understand '{part}'"
                )));
            };
            if !is_selectable(resource, field) {
                let by_kind = resource.is_custom() || !own_fields(resource).is_empty();
                return Err(Status::bad_request(if by_kind {
                    format!("field label not supported: {field}")
                } else {
                    format!(
                        "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )
                }));
            }
            let _ = version;
            requirements.push((format!("/{}", field.replace('.', "/")), value.to_owned(), equal));
        }
        Ok(Fields(requirements))
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(pointer, wanted, equal)| {
            let is = match object.pointer(pointer) {
                Some(Value::String(value)) => value == wanted,
                Some(Value::Bool(value)) => value.to_string() == *wanted,
                Some(Value::Number(value)) => value.to_string() == *wanted,
                _ if pointer == "/status/successful" => {
                    // A number in the selector's name only.
                    object
                        .pointer("/status/succeeded")
                        .and_then(Value::as_i64)
                        .unwrap_or(0)
                        .to_string()
                        == *wanted
                }
                _ => wanted.is_empty() || (pointer.starts_with("/spec/unschedulable") && wanted == "false"),
            };
            is == *equal
        })
    }
}

fn is_selectable(resource: &Resource, field: &str) -> bool {
    if field == "metadata.name"
        || (field == "metadata.namespace" && (resource.namespaced || !resource.is_custom()))
    {
        return true;
    }
    own_fields(resource).contains(&field)
}

/// The fields that a kind has selected by, besides name and namespace.
fn own_fields(resource: &Resource) -> &'static [&'static str] {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "secrets") => &["type"],
        ("", "namespaces") => &["status.phase"],
        ("", "nodes") => &["spec.unschedulable"],
        ("apps", "replicasets") | ("", "replicationcontrollers") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        ("certificates.k8s.io", "certificatesigningrequests") => &["spec.signerName"],
        ("" | "events.k8s.io", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(selector: &str, expect: Option<bool>) {
        let object = json!({ "metadata": { "labels": { "app": "web", "tier": "front", "n": "5" } } });
        let matched = Labels::parse(selector).ok().map(|labels| labels.matches(&object));
        assert_eq!(matched, expect, "{selector}");
    }

    #[test]
    fn label_selectors() {
        check("", Some(true));
        check("app=web,tier==front", Some(true));
        check("app!=web", Some(false));
        check("missing!=x", Some(true));
        check("app in (web, api),tier notin (back)", Some(true));
        check("missing in (a)", Some(false));
        check("app,!missing", Some(true));
        check("!app", Some(false));
        check("n>4,n<6", Some(true));
        check("n>5", Some(false));
        check("a b", None);
        check("=x", None);
        check("app in (),app", Some(false));
        check("tier in (back,front,)", Some(true));
        check("app=,tier", Some(false));
        check("app=web,", None);
        check("app=web tier=front", None);
        check("!!app", None);
        check("a in (b", None);
    }

    #[test]
    fn selectors_in_objects() {
        let labels = json!({ "app": "web" });
        let matches = |selector: Value| Labels::of(Some(&selector)).map(|s| s.matches_labels(Some(&labels)));
        assert_eq!(matches(json!({})), Some(true));
        assert_eq!(matches(json!({ "matchLabels": { "app": "api" } })), Some(false));
        assert_eq!(
            matches(json!({ "matchExpressions": [{ "key": "app", "operator": "DoesNotExist" }] })),
            Some(false)
        );
        assert_eq!(Labels::of(None), None);
        assert_eq!(Labels::of_map(Some(&json!({}))), None);
    }
}
