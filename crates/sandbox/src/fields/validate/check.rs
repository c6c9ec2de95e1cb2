//! Validation against a structural schema, with the server's messages.

use std::collections::{BTreeSet, HashMap};
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::Regex;
use serde_json::{Map, Number, Value};

use super::{Cause, format, is_resource};

const INVALID: &str = "FieldValueInvalid";
const REQUIRED: &str = "FieldValueRequired";
const NOT_SUPPORTED: &str = "FieldValueNotSupported";
const DUPLICATE: &str = "FieldValueDuplicate";

/// Patterns stand in schemas and are used for every object again.
static PATTERNS: LazyLock<Mutex<HashMap<String, Option<Regex>>>> = LazyLock::new(Mutex::default);

/// Validates an object and returns every reason against it.
pub fn check(schema: &Value, object: &Value) -> Vec<Cause> {
    let mut outcome = Outcome::default();
    check_value(schema, object, "", &mut outcome);
    let mut causes = outcome.causes;
    check_resources(schema, object, "", false, &mut causes);
    check_lists(schema, object, "", &mut causes);
    let mut seen: Vec<Cause> = Vec::new();
    for cause in causes {
        if !seen.contains(&cause) {
            seen.push(cause);
        }
    }
    seen
}

/// What a schema says against a value, and how many of its checks took place: among alternatives, the one with most
/// checks is taken to be the one that was meant.
#[derive(Default)]
struct Outcome {
    causes: Vec<Cause>,
    checks: usize,
}

impl Outcome {
    fn merge(&mut self, other: Outcome) {
        self.causes.extend(other.causes);
        self.checks += other.checks;
    }

    fn invalid(&mut self, path: &str, shown: &Value, detail: &str) {
        self.causes.push(Cause {
            field: field_name(path),
            reason: INVALID,
            message: format!("Invalid value: {}: {detail}", show(shown)),
        });
    }

    /// A failure that the server reports without its place.
    fn misfit(&mut self, detail: String) {
        self.causes.push(Cause {
            field: "<nil>".to_owned(),
            reason: INVALID,
            message: format!("Invalid value: \"\": {detail}"),
        });
    }
}

fn field_name(path: &str) -> String {
    let path = path.strip_prefix('.').unwrap_or(path);
    if path.is_empty() {
        "<nil>".to_owned()
    } else {
        path.to_owned()
    }
}

/// A value as Go's `%q`, `%v` or `%#v` shows it in a message.
fn show(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(b.0));
            let fields: Vec<_> = sorted
                .into_iter()
                .map(|(key, value)| format!("{key:?}:{}", show(value)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", fields.join(", "))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(show).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Number(number) => show_number(number),
        scalar => scalar.to_string(),
    }
}

/// A number as Go's `%v` shows it: large and small floats in scientific notation.
fn show_number(number: &Number) -> String {
    if number.is_i64() || number.is_u64() {
        return number.to_string();
    }
    let value = number.as_f64().unwrap_or_default();
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent
            .strip_prefix('-')
            .map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    value.to_string()
}

fn child(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn check_value(schema: &Value, value: &Value, path: &str, outcome: &mut Outcome) {
    let Some(schema) = schema.as_object() else { return };
    check_type(schema, value, path, outcome);
    if value.is_null() {
        check_enum(schema, value, path, outcome);
        return;
    }
    check_alternatives(schema, value, path, outcome);
    match value {
        Value::String(text) => check_string(schema, text, path, outcome),
        Value::Number(number) => check_number(schema, number, path, outcome),
        Value::Array(items) => check_array(schema, items, path, outcome),
        Value::Object(fields) => check_object(schema, fields, path, outcome),
        _ => {}
    }
    check_enum(schema, value, path, outcome);
    outcome.checks += 1;
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check_type(schema: &Map<String, Value>, value: &Value, path: &str, outcome: &mut Outcome) {
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
    let types: &[&str] = if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        &["integer", "string"]
    } else if text("type").is_empty() {
        return;
    } else {
        &[text("type")]
    };
    let found = type_name(value);
    let is_whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let fits = match value {
        Value::Null => schema.get("nullable") == Some(&Value::Bool(true)),
        _ => {
            types.contains(&found)
                || (found == "number" && is_whole && types.contains(&"integer"))
                || (found == "integer" && types.contains(&"number"))
        }
    };
    if fits {
        outcome.checks += 1;
        return;
    }
    let expected = types.join(",");
    let name = path.strip_prefix('.').unwrap_or(path);
    outcome.invalid(
        path,
        &found.into(),
        &format!("{name} in body must be of type {expected}: {found:?}"),
    );
}

fn check_enum(schema: &Map<String, Value>, value: &Value, path: &str, outcome: &mut Outcome) {
    let Some(allowed) = schema
        .get("enum")
        .and_then(Value::as_array)
        .filter(|allowed| !allowed.is_empty())
    else {
        return;
    };
    let same = |one: &Value| one == value || (one.is_number() && one.as_f64() == value.as_f64());
    if !value.is_null() && allowed.iter().any(same) {
        return;
    }
    let supported: Vec<String> = allowed
        .iter()
        .map(|one| {
            one.as_str()
                .map_or_else(|| format!("{:?}", one.to_string()), |text| format!("{text:?}"))
        })
        .collect();
    outcome.causes.push(Cause {
        field: field_name(path),
        reason: NOT_SUPPORTED,
        message: format!(
            "Unsupported value: {}: supported values: {}",
            show(value),
            supported.join(", ")
        ),
    });
}

fn count(schema: &Map<String, Value>, key: &str) -> Option<usize> {
    schema
        .get(key)
        .and_then(Value::as_u64)
        .and_then(|number| usize::try_from(number).ok())
}

fn check_string(schema: &Map<String, Value>, text: &str, path: &str, outcome: &mut Outcome) {
    let value = Value::from(text);
    let length = text.chars().count();
    if let Some(most) = count(schema, "maxLength").filter(|most| length > *most) {
        outcome.invalid(
            path,
            &value,
            &format!("{path} in body should be at most {most} chars long"),
        );
    } else if let Some(least) = count(schema, "minLength").filter(|least| length < *least) {
        outcome.invalid(
            path,
            &value,
            &format!("{path} in body should be at least {least} chars long"),
        );
    } else if let Some(pattern) = schema
        .get("pattern")
        .and_then(Value::as_str)
        .filter(|p| !p.is_empty())
        && !is_match(pattern, text)
    {
        outcome.invalid(path, &value, &format!("{path} in body should match '{pattern}'"));
    }
    if let Some(format) = schema.get("format").and_then(Value::as_str)
        && !format::matches(format, text)
    {
        outcome.invalid(
            path,
            &value,
            &format!("{path} in body must be of type {format}: {text:?}"),
        );
    }
}

fn is_match(pattern: &str, text: &str) -> bool {
    let mut patterns = PATTERNS.lock().unwrap_or_else(PoisonError::into_inner);
    let compiled = patterns
        .entry(pattern.to_owned())
        .or_insert_with(|| Regex::new(pattern).ok());
    // A pattern that cannot be read matches nothing.
    compiled.as_ref().is_some_and(|regex| regex.is_match(text))
}

fn check_number(schema: &Map<String, Value>, number: &Number, path: &str, outcome: &mut Outcome) {
    let value = Value::Number(number.clone());
    let float = number.as_f64().unwrap_or_default();
    let limit = |key: &str| schema.get(key).and_then(Value::as_number).cloned();
    let exclusive = |key: &str| schema.get(key) == Some(&Value::Bool(true));
    let shown = |bound: &Number| match bound.as_f64() {
        // A whole bound of a whole number is shown as one.
        Some(bound) if !number.is_f64() && bound.fract() == 0.0 => format!("{bound:.0}"),
        _ => show_number(bound),
    };
    if let Some(factor) = limit("multipleOf") {
        let quotient = float / factor.as_f64().unwrap_or(1.0);
        if (quotient - quotient.round()).abs() > f64::EPSILON {
            let detail = format!("{path} in body should be a multiple of {}", shown(&factor));
            outcome.invalid(path, &value, &detail);
        }
    }
    if let Some(least) = limit("minimum") {
        let bound = least.as_f64().unwrap_or_default();
        let (fails, words) = if exclusive("exclusiveMinimum") {
            (float <= bound, "greater than")
        } else {
            (float < bound, "greater than or equal to")
        };
        if fails {
            outcome.invalid(
                path,
                &value,
                &format!("{path} in body should be {words} {}", shown(&least)),
            );
        }
    }
    if let Some(most) = limit("maximum") {
        let bound = most.as_f64().unwrap_or_default();
        let (fails, words) = if exclusive("exclusiveMaximum") {
            (float >= bound, "less than")
        } else {
            (float > bound, "less than or equal to")
        };
        if fails {
            outcome.invalid(
                path,
                &value,
                &format!("{path} in body should be {words} {}", shown(&most)),
            );
        }
    }
    outcome.checks += 1;
}

fn check_array(schema: &Map<String, Value>, items: &[Value], path: &str, outcome: &mut Outcome) {
    if let Some(element) = schema.get("items") {
        // The server gives the place of the list, not of the item.
        for item in items {
            check_value(element, item, path, outcome);
        }
    }
    let size = Value::from(items.len());
    if let Some(least) = count(schema, "minItems").filter(|least| items.len() < *least) {
        outcome.invalid(
            path,
            &size,
            &format!("{path} in body should have at least {least} items"),
        );
    }
    if let Some(most) = count(schema, "maxItems").filter(|most| items.len() > *most) {
        outcome.invalid(
            path,
            &size,
            &format!("{path} in body should have at most {most} items"),
        );
    }
    let repeats = || {
        items
            .iter()
            .enumerate()
            .any(|(index, item)| items[..index].contains(item))
    };
    if schema.get("uniqueItems") == Some(&Value::Bool(true)) && repeats() {
        outcome.invalid(
            path,
            &"".into(),
            &format!("{path} in body shouldn't contain duplicates"),
        );
    }
    outcome.checks += 1;
}

fn check_object(schema: &Map<String, Value>, fields: &Map<String, Value>, path: &str, outcome: &mut Outcome) {
    if let Some(least) = count(schema, "minProperties").filter(|least| fields.len() < *least) {
        let detail = format!("{path} in body should have at least {least} properties");
        outcome.invalid(path, &least.into(), &detail);
        return;
    }
    if let Some(most) = count(schema, "maxProperties").filter(|most| fields.len() > *most) {
        let detail = format!("{path} in body should have at most {most} properties");
        outcome.invalid(path, &most.into(), &detail);
        return;
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties");
    for (key, value) in fields {
        if let Some(property) = properties.and_then(|properties| properties.get(key)) {
            check_value(property, value, &child(path, key), outcome);
        } else if let Some(element @ Value::Object(_)) = others {
            check_value(element, value, &format!("{path}.{key}"), outcome);
        } else if others == Some(&Value::Bool(false)) {
            outcome.invalid(
                path,
                &key.as_str().into(),
                &format!("{path}.{key} in body is a forbidden property"),
            );
        }
    }
    for key in schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(key) {
            outcome.causes.push(Cause {
                field: field_name(&format!("{path}.{key}")),
                reason: REQUIRED,
                message: "Required value".to_owned(),
            });
        }
    }
    outcome.checks += 1;
}

fn check_alternatives(schema: &Map<String, Value>, value: &Value, path: &str, outcome: &mut Outcome) {
    let schemas = |key: &str| {
        schema
            .get(key)
            .and_then(Value::as_array)
            .filter(|schemas| !schemas.is_empty())
    };
    let run = |schema: &Value| {
        let mut result = Outcome::default();
        check_value(schema, value, path, &mut result);
        result
    };
    if let Some(schemas) = schemas("anyOf") {
        let mut best: Option<Outcome> = None;
        let mut passed = false;
        for schema in schemas {
            let result = run(schema);
            if result.causes.is_empty() {
                outcome.checks += result.checks;
                passed = true;
                break;
            }
            if best.as_ref().is_none_or(|best| result.checks > best.checks) {
                best = Some(result);
            }
        }
        if !passed {
            outcome.misfit(format!("{path:?} must validate at least one schema (anyOf)"));
            outcome.merge(best.unwrap_or_default());
        }
    }
    if let Some(schemas) = schemas("oneOf") {
        let mut best: Option<Outcome> = None;
        let mut passed = 0;
        let mut first_checks = 0;
        for schema in schemas {
            let result = run(schema);
            if result.causes.is_empty() {
                passed += 1;
                best = None;
                if passed == 1 {
                    first_checks = result.checks;
                }
            } else if passed == 0 && best.as_ref().is_none_or(|best| result.checks > best.checks) {
                best = Some(result);
            }
        }
        if passed == 1 {
            outcome.checks += first_checks;
        } else {
            let found = match passed {
                0 => "Found none valid".to_owned(),
                several => format!("Found {several} valid alternatives"),
            };
            outcome.misfit(format!(
                "{path:?} must validate one and only one schema (oneOf). {found}"
            ));
            outcome.merge(best.unwrap_or_default());
        }
    }
    if let Some(schemas) = schemas("allOf") {
        let mut passed = 0;
        for schema in schemas {
            let result = run(schema);
            passed += usize::from(result.causes.is_empty());
            outcome.merge(result);
        }
        if passed != schemas.len() {
            let none = if passed == 0 { ". None validated" } else { "" };
            outcome.misfit(format!("{path:?} must validate all the schemas (allOf){none}"));
        }
    }
    if let Some(schema @ Value::Object(_)) = schema.get("not")
        && run(schema).causes.is_empty()
    {
        outcome.misfit(format!("{path:?} must not validate the schema (not)"));
    }
    outcome.checks += 1;
}

/// Embedded resources have a version and a kind.
fn check_resources(schema: &Value, value: &Value, path: &str, embedded: bool, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(fields) => {
            if embedded && is_resource(schema) {
                for key in ["apiVersion", "kind"] {
                    let (reason, message) = match fields.get(key) {
                        None => (REQUIRED, "Required value: must not be empty".to_owned()),
                        Some(Value::String(text)) if text.is_empty() => {
                            (INVALID, "Invalid value: \"\": must not be empty".to_owned())
                        }
                        Some(Value::String(_)) => continue,
                        Some(other) => (
                            INVALID,
                            format!("Invalid value: {}: must be a string", show(other)),
                        ),
                    };
                    causes.push(Cause {
                        field: child(path, key),
                        reason,
                        message,
                    });
                }
            }
            for (key, value) in fields {
                if let Some(property) = schema["properties"].get(key) {
                    check_resources(property, value, &child(path, key), true, causes);
                } else if schema["additionalProperties"].is_object() {
                    let path = format!("{path}[{key}]");
                    check_resources(&schema["additionalProperties"], value, &path, true, causes);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check_resources(&schema["items"], item, &format!("{path}[{index}]"), true, causes);
            }
        }
        _ => {}
    }
}

/// Items of sets and of lists with keys are there once.
fn check_lists(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if let Some(property) = schema["properties"].get(key) {
                    check_lists(property, value, &child(path, key), causes);
                } else if schema["additionalProperties"].is_object() {
                    check_lists(
                        &schema["additionalProperties"],
                        value,
                        &format!("{path}[{key}]"),
                        causes,
                    );
                }
            }
        }
        Value::Array(items) => {
            match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => repeated(items, path, causes),
                Some("map") => {
                    let wrong = items.iter().position(|item| !item.is_object() && !item.is_null());
                    if let Some(index) = wrong {
                        let shown = show(&items[index]);
                        causes.push(Cause {
                            field: format!("{path}[{index}]"),
                            reason: INVALID,
                            message: format!(
                                "Invalid value: {shown}: must be an object for an array of list-type map"
                            ),
                        });
                    } else {
                        let names = schema["x-kubernetes-list-map-keys"].as_array();
                        let keys: Vec<Value> = items
                            .iter()
                            .map(|item| {
                                names
                                    .into_iter()
                                    .flatten()
                                    .filter_map(|name| {
                                        let name = name.as_str()?;
                                        Some((name.to_owned(), item.get(name)?.clone()))
                                    })
                                    .collect::<Map<_, _>>()
                                    .into()
                            })
                            .collect();
                        repeated(&keys, path, causes);
                    }
                }
                _ => {}
            }
            for (index, item) in items.iter().enumerate() {
                check_lists(&schema["items"], item, &format!("{path}[{index}]"), causes);
            }
        }
        _ => {}
    }
}

/// Reports the second appearance of an item, not the further ones.
fn repeated(items: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    let mut reported = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let text = item.to_string();
        if !seen.insert(text.clone()) && reported.insert(text) {
            causes.push(Cause {
                field: format!("{path}[{index}]"),
                reason: DUPLICATE,
                message: format!("Duplicate value: {}", show(item)),
            });
        }
    }
}
