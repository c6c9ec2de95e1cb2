//! Label selectors, as workloads, webhooks and services use them.

use std::collections::BTreeMap;

use object::Object;
use serde_json::Value;

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// The labels of an object.
pub(crate) fn labels_of(object: &Object) -> Labels {
    labels_at(object.as_value(), "/metadata/labels")
}

/// The labels at a JSON pointer; what is no text is left out.
pub(crate) fn labels_at(value: &Value, pointer: &str) -> Labels {
    value
        .pointer(pointer)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Whether a `LabelSelector` (`matchLabels`, `matchExpressions`) selects these labels. An empty or absent
/// selector selects everything, which is what it means in a webhook.
pub(crate) fn selects(selector: Option<&Value>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return true };
    let equal = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .all(|(name, value)| labels.get(name).map(String::as_str) == value.as_str());
    equal
        && selector
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .all(|e| meets(e, labels))
}

/// Whether a plain map of labels, as a Service has, selects these labels. An empty one selects nothing.
pub(crate) fn selects_plainly(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty()
        && selector
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value))
}

/// One requirement of `matchExpressions`; also used for node affinity, which has two operators more.
pub(crate) fn meets(expression: &Value, labels: &Labels) -> bool {
    let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
    let values: Vec<&str> = expression
        .get("values")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let actual = labels.get(text("key")).map(String::as_str);
    let compare = |test: fn(i64, i64) -> bool| {
        let number = |text: &str| text.parse::<i64>().ok();
        actual
            .and_then(number)
            .zip(values.first().copied().and_then(number))
            .is_some_and(|(actual, bound)| test(actual, bound))
    };
    match text("operator") {
        "In" => actual.is_some_and(|a| values.contains(&a)),
        "NotIn" => actual.is_none_or(|a| !values.contains(&a)),
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => compare(|actual, bound| actual > bound),
        "Lt" => compare(|actual, bound| actual < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_evaluated_as_the_api_server_does() {
        let labels = Labels::from([("app".into(), "a".into()), ("n".into(), "5".into())]);
        let check = |selector: Value, expect: bool| {
            assert_eq!(selects(Some(&selector), &labels), expect, "{selector}");
        };
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        check(json!({}), true);
        check(json!({"matchLabels": {"app": "a"}}), true);
        check(json!({"matchLabels": {"app": "b"}}), false);
        check(expression("app", "In", &["a", "b"]), true);
        check(expression("other", "In", &["a"]), false);
        check(expression("other", "NotIn", &["a"]), true);
        check(expression("app", "NotIn", &["a"]), false);
        check(expression("control-plane", "DoesNotExist", &[]), true);
        check(expression("app", "DoesNotExist", &[]), false);
        check(expression("app", "Exists", &[]), true);
        check(expression("n", "Gt", &["4"]), true);
        check(expression("n", "Lt", &["4"]), false);
        assert!(selects(None, &labels));
        assert!(
            !selects_plainly(&Labels::new(), &labels),
            "a Service without a selector selects nothing"
        );
    }
}
