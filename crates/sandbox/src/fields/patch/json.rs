//! JSON patch with the leniences and the messages of the library that the server uses.

use serde_json::{Map, Value};

use super::PatchError;

/// How many operations the server takes in one patch.
const MAX_OPERATIONS: usize = 10_000;

const MISSING: &str = "missing value";
const TEST_FAILED: &str = "test failed";

pub(super) fn apply(live: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::BadRequest(format!(
            "json: cannot unmarshal {} into Go value of type jsonpatch.Patch",
            kind(patch)
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut document = live.clone();
    for operation in operations {
        let Some(operation) = operation.as_object() else {
            return Err(PatchError::BadRequest(format!(
                "json: cannot unmarshal {} into Go value of type jsonpatch.Operation",
                kind(operation)
            )));
        };
        step(&mut document, operation).map_err(PatchError::Unprocessable)?;
    }
    Ok(document)
}

/// What a value is, as Go's decoder of JSON names it.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn step(document: &mut Value, operation: &Map<String, Value>) -> Result<(), String> {
    let name = operation.get("op").and_then(Value::as_str).unwrap_or("unknown");
    let path = || {
        operation
            .get("path")
            .and_then(Value::as_str)
            .ok_or_else(|| format!("{name} operation failed to decode path: {MISSING}"))
    };
    let from = || {
        operation.get("from").and_then(Value::as_str).ok_or_else(|| {
            format!("{name} operation failed to decode from: operation, missing from field: {MISSING}")
        })
    };
    let value = || operation.get("value").cloned().unwrap_or_default();
    match name {
        "add" => {
            let path = path()?;
            let (target, key) = find(document, path)
                .ok_or_else(|| no_path("add operation does not apply: doc is missing path", path))?;
            add(target, &key, value()).map_err(|error| format!("error in add for path: '{path}': {error}"))
        }
        "remove" => {
            let path = path()?;
            let (target, key) = find(document, path)
                .ok_or_else(|| no_path("remove operation does not apply: doc is missing path", path))?;
            remove(target, &key)
                .map(drop)
                .map_err(|error| format!("error in remove for path: '{path}': {error}"))
        }
        "replace" => {
            let path = path()?;
            let (target, key) = find(document, path).ok_or_else(|| {
                format!("replace operation does not apply: doc is missing path: {path}: {MISSING}")
            })?;
            if get(target, &key).is_err() {
                return Err(format!(
                    "replace operation does not apply: doc is missing key: {path}: {MISSING}"
                ));
            }
            set(target, &key, value()).map_err(|error| format!("error in remove for path: '{path}': {error}"))
        }
        "move" => {
            let from = from()?;
            let (source, key) = find(document, from).ok_or_else(|| {
                format!("move operation does not apply: doc is missing from path: {from}: {MISSING}")
            })?;
            get(source, &key).map_err(|error| format!("error in move for path: '{key}': {error}"))?;
            let moved =
                remove(source, &key).map_err(|error| format!("error in move for path: '{key}': {error}"))?;
            let path = path()?;
            let (target, key) = find(document, path).ok_or_else(|| {
                format!("move operation does not apply: doc is missing destination path: {path}: {MISSING}")
            })?;
            add(target, &key, moved).map_err(|error| format!("error in move for path: '{path}': {error}"))
        }
        "copy" => {
            let from = from()?;
            let (source, key) = find(document, from).ok_or_else(|| {
                format!("copy operation does not apply: doc is missing from path: {from}: {MISSING}")
            })?;
            let copied = get(source, &key)
                .map_err(|error| format!("error in copy for from: '{from}': {error}"))?
                .cloned()
                .unwrap_or_default();
            let path = path()?;
            let (target, key) = find(document, path).ok_or_else(|| {
                format!("copy operation does not apply: doc is missing destination path: {path}: {MISSING}")
            })?;
            add(target, &key, copied)
                .map_err(|error| format!("error while adding value during copy: {error}"))
        }
        "test" => {
            let path = path()?;
            let (target, key) = find(document, path).ok_or_else(|| {
                format!("test operation does not apply: is missing path: {path}: {MISSING}")
            })?;
            let found =
                get(target, &key).map_err(|error| format!("error in test for path: '{path}': {error}"))?;
            if found.unwrap_or(&Value::Null) == &value() {
                Ok(())
            } else {
                Err(format!("testing value {path} failed: {TEST_FAILED}"))
            }
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

fn no_path(what: &str, path: &str) -> String {
    format!("{what}: \"{path}\": {MISSING}")
}

/// The container of the value that a pointer names, and the last step of the pointer.
fn find<'a>(document: &'a mut Value, pointer: &str) -> Option<(&'a mut Value, String)> {
    let mut steps: Vec<String> = pointer
        .split('/')
        .skip(1)
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
        .collect();
    let last = steps.pop()?;
    let mut current = document;
    for step in steps {
        current = match current {
            Value::Object(fields) => fields.get_mut(&step)?,
            Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    matches!(current, Value::Object(_) | Value::Array(_)).then_some((current, last))
}

fn parse_index(key: &str) -> Result<i64, String> {
    key.parse()
        .map_err(|_| format!("strconv.Atoi: parsing \"{key}\": invalid syntax"))
}

fn bad_index(index: i64) -> String {
    format!("Unable to access invalid index: {index}: invalid index referenced")
}

fn position(index: i64, length: usize) -> Result<usize, String> {
    let signed = if index < 0 {
        index + i64::try_from(length).unwrap_or(i64::MAX)
    } else {
        index
    };
    usize::try_from(signed)
        .ok()
        .filter(|at| *at < length)
        .ok_or_else(|| bad_index(index))
}

fn get<'a>(target: &'a Value, key: &str) -> Result<Option<&'a Value>, String> {
    match target {
        Value::Object(fields) => Ok(fields.get(key)),
        Value::Array(items) => {
            let index = parse_index(key)?;
            usize::try_from(index)
                .ok()
                .and_then(|at| items.get(at))
                .map(Some)
                .ok_or_else(|| bad_index(index))
        }
        _ => Ok(None),
    }
}

fn set(target: &mut Value, key: &str, value: Value) -> Result<(), String> {
    match target {
        Value::Object(fields) => {
            fields.insert(key.to_owned(), value);
        }
        Value::Array(items) => {
            let at = position(parse_index(key)?, items.len())?;
            items[at] = value;
        }
        _ => {}
    }
    Ok(())
}

fn add(target: &mut Value, key: &str, value: Value) -> Result<(), String> {
    match target {
        Value::Object(fields) => {
            fields.insert(key.to_owned(), value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let index = parse_index(key)
                .map_err(|error| format!("value was not a proper array index: '{key}': {error}"))?;
            let at = position(index, items.len() + 1)?;
            items.insert(at, value);
        }
        _ => {}
    }
    Ok(())
}

fn remove(target: &mut Value, key: &str) -> Result<Value, String> {
    match target {
        Value::Object(fields) => fields
            .shift_remove(key)
            .ok_or_else(|| format!("Unable to remove nonexistent key: {key}: {MISSING}")),
        Value::Array(items) => {
            let at = position(parse_index(key)?, items.len())?;
            Ok(items.remove(at))
        }
        _ => Ok(Value::Null),
    }
}
