//! Rules that hold for fields of many kinds.

use serde_json::Value;

use crate::fields::validate::Cause;
use crate::json::text;
use crate::status::{cause, invalid, unsupported};

pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// A value that may be there once only.
pub(super) fn duplicate(field: &str, value: &str) -> Cause {
    let message = format!("Duplicate value: {}", crate::golang::quote(value));
    cause("FieldValueDuplicate", field, message)
}

/// A number of a port, at a key of an object.
pub(super) fn check_port(field: &str, number: i64, causes: &mut Vec<Cause>) {
    if !(1..=65_535).contains(&number) {
        causes.push(invalid(
            field,
            &number.into(),
            "must be between 1 and 65535, inclusive",
        ));
    }
}

/// A number that is given must not be below zero.
pub(super) fn check_not_negative(object: &Value, key: &str, path: &str, causes: &mut Vec<Cause>) {
    if let Some(number) = object.get(key).and_then(Value::as_i64)
        && number < 0
    {
        let field = format!("{path}.{key}");
        causes.push(invalid(
            &field,
            &number.into(),
            "must be greater than or equal to 0",
        ));
    }
}

/// A text that must be one of a few. Where it is empty it has a default, which was filled in before.
pub(super) fn check_choice(
    object: &Value,
    key: &str,
    path: &str,
    supported: &[&str],
    causes: &mut Vec<Cause>,
) {
    let given = text(object, key);
    if !given.is_empty() && !supported.contains(&given) {
        causes.push(unsupported(&format!("{path}.{key}"), given, supported));
    }
}
