//! Strategic merge patch: merge keys, directives and the order of list items.

use serde_json::{Map, Value};

use super::super::schema::{Field, MapType, Schema, Source, TypeId, Types};
use super::super::typed::go_plain;
use super::PatchError;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";

type Fields = Map<String, Value>;

pub(super) fn apply(live: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    if schema.source != Source::Builtin {
        return Err(PatchError::BadRequest(
            "strategic merge patch format is not supported".into(),
        ));
    }
    let (Some(live), Some(patch)) = (live.as_object(), patch.as_object()) else {
        return Err(PatchError::BadRequest(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            super::json::kind(patch)
        )));
    };
    let merged = merge_map(&schema.types, Some(schema.root), live.clone(), patch.clone())?;
    Ok(Value::Object(merged))
}

/// What a list or map field of a type merges by.
struct Meta<'a> {
    /// The type of the field, or of the items of a list field.
    kind: Option<TypeId>,
    merge: bool,
    merge_key: &'a str,
}

fn map_type(types: &Types, kind: Option<TypeId>) -> Option<&MapType> {
    types.get(kind?).map.as_ref()
}

fn meta<'a>(types: &'a Types, kind: Option<TypeId>, key: &str) -> Meta<'a> {
    let map = map_type(types, kind);
    let field: Option<&Field> = map.and_then(|map| map.field(key));
    Meta {
        kind: field
            .map(|field| field.kind)
            .or_else(|| map.and_then(|map| map.element)),
        merge: field.is_some_and(|field| field.patch_merge),
        merge_key: field
            .and_then(|field| field.merge_key.as_deref())
            .unwrap_or_default(),
    }
}

fn item_kind(types: &Types, list: Option<TypeId>) -> Option<TypeId> {
    types.get(list?).list.as_ref().map(|list| list.element)
}

fn bad(what: &str) -> PatchError {
    PatchError::BadRequest(format!("invalid patch format of {what}"))
}

fn no_merge_key(item: &Value, key: &str) -> PatchError {
    PatchError::Internal(format!(
        "map: {} does not contain declared merge key: {key}",
        go_plain(item)
    ))
}

fn unknown_directive(patch: &Fields) -> PatchError {
    let directive = patch.get(DIRECTIVE).map(go_plain).unwrap_or_default();
    let patch = go_plain(&Value::Object(patch.clone()));
    PatchError::Internal(format!("unknown patch type: {directive} in map: {patch}"))
}

/// A list was expected where the patch or the object has something else.
fn no_list(found: &Value) -> PatchError {
    let found = match found {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    };
    PatchError::Internal(format!("expected a []interface {{}}, but received a {found}"))
}

fn merge_map(
    types: &Types,
    kind: Option<TypeId>,
    mut original: Fields,
    mut patch: Fields,
) -> Result<Fields, PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.shift_remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(unknown_directive(&patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    order_elements(types, kind, &mut original, &mut patch)?;

    for (key, value) in patch {
        let (key, is_deletion) = match key.strip_prefix(DELETE_FROM_LIST) {
            Some(rest) => {
                let name = rest.strip_prefix('/').ok_or_else(|| bad("primitive list"))?;
                (name.to_owned(), true)
            }
            None => (key, false),
        };
        if value.is_null() {
            original.shift_remove(&key);
            continue;
        }
        let Some(old) = original.get_mut(&key) else {
            original.insert(key, value);
            continue;
        };
        let meta = meta(types, kind, &key);
        *old = match (old.take(), value) {
            (Value::Object(old), Value::Object(new)) => Value::Object(merge_map(types, meta.kind, old, new)?),
            (Value::Array(old), Value::Array(new)) if meta.merge => {
                let kind = item_kind(types, meta.kind);
                Value::Array(merge_list(types, kind, old, new, meta.merge_key, is_deletion)?)
            }
            (_, value) => value,
        };
    }
    Ok(original)
}

/// `$retainKeys` empties the original of everything it does not name.
fn retain_keys(original: &mut Fields, patch: &mut Fields) -> Result<(), PatchError> {
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let keys = keys.as_array().ok_or_else(|| bad("retainKeys"))?;
    let retained = |key: &str| keys.iter().any(|retained| retained == key);
    for (key, value) in patch.iter() {
        let is_directive = key.starts_with(DELETE_FROM_LIST) || key.starts_with(ELEMENT_ORDER);
        if !value.is_null() && !is_directive && !retained(key) {
            return Err(bad("retainKeys"));
        }
    }
    original.retain(|key, _| retained(key));
    Ok(())
}

/// `$setElementOrder/LIST`: merges the list at once and puts its items into that order.
fn order_elements(
    types: &Types,
    kind: Option<TypeId>,
    original: &mut Fields,
    patch: &mut Fields,
) -> Result<(), PatchError> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|key| key.starts_with(ELEMENT_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let Some(order) = patch.shift_remove(&directive) else {
            continue;
        };
        let Value::Array(order) = order else {
            return Err(no_list(&order));
        };
        let key = directive
            .strip_prefix(ELEMENT_ORDER)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(|| bad("setElementOrder list"))?;
        let meta = meta(types, kind, key);
        let element = item_kind(types, meta.kind);
        let list = |value: Option<&Value>| match value {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items.clone())),
            Some(other) => Err(no_list(other)),
        };
        let old = list(original.get(key))?;
        let new = list(patch.get(key))?;
        check_order(new.as_deref().unwrap_or_default(), &order, meta.merge_key)?;
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (Some(old), None) => old,
            (Some(old), Some(new)) if meta.merge => {
                merge_list(types, element, old, new, meta.merge_key, false)?
            }
            (_, Some(new)) => new,
            (None, None) => continue,
        };
        original.insert(
            key.to_owned(),
            Value::Array(arrange(merged, &order, &server_order, meta.merge_key)?),
        );
        patch.shift_remove(key);
    }
    Ok(())
}

/// Items of the patch stand in the order that the directive gives; those to delete do not count.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let kept: Vec<&Value> = patch
        .iter()
        .filter(|item| merge_key.is_empty() || item.get(DIRECTIVE).is_none())
        .collect();
    let mut next = 0;
    for expected in order {
        let Some(item) = kept.get(next) else { break };
        if is_same(item, expected, merge_key)? {
            next += 1;
        }
    }
    if next < kept.len() {
        let (patch, order) = (Value::from(patch.to_vec()), Value::from(order.to_vec()));
        return Err(PatchError::Internal(format!(
            "The order in patch list:\n{patch}\n doesn't match {ELEMENT_ORDER} list:\n{order}\n"
        )));
    }
    Ok(())
}

fn is_same(left: &Value, right: &Value, merge_key: &str) -> Result<bool, PatchError> {
    if merge_key.is_empty() {
        return Ok(left == right);
    }
    let left_key = left.get(merge_key).ok_or_else(|| no_merge_key(left, merge_key))?;
    let right_key = right
        .get(merge_key)
        .ok_or_else(|| no_merge_key(right, merge_key))?;
    Ok(left_key == right_key)
}

fn merge_list(
    types: &Types,
    kind: Option<TypeId>,
    original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
    is_deletion: bool,
) -> Result<Vec<Value>, PatchError> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let are_maps = check_elements(original.iter().chain(&patch))?;
    if !are_maps {
        if is_deletion {
            return Ok(original
                .into_iter()
                .filter(|item| !patch.contains(item))
                .collect());
        }
        let mut merged = original.clone();
        merged.extend(patch.iter().cloned());
        deduplicate(&mut merged);
        return arrange(merged, &patch, &original, "");
    }
    if merge_key.is_empty() {
        return Err(PatchError::Internal(
            "cannot merge lists without merge key for struct".into(),
        ));
    }
    let (original, patch) = special_elements(original, patch, merge_key)?;
    let mut merged = original.clone();
    for item in &patch {
        let wanted = item.get(merge_key).ok_or_else(|| no_merge_key(item, merge_key))?;
        match merged.iter_mut().find(|old| old.get(merge_key) == Some(wanted)) {
            Some(old) => {
                if let (Value::Object(old_fields), Value::Object(fields)) = (old.take(), item) {
                    *old = Value::Object(merge_map(types, kind, old_fields, fields.clone())?);
                }
            }
            None => merged.push(item.clone()),
        }
    }
    arrange(merged, &patch, &original, merge_key)
}

/// Whether the items are maps; lists of lists and of mixed types are refused.
fn check_elements<'a>(items: impl Iterator<Item = &'a Value>) -> Result<bool, PatchError> {
    let mut first = None;
    for item in items {
        let rank = match item {
            Value::Array(_) => {
                return Err(PatchError::Unprocessable(
                    "lists of lists are not supported".into(),
                ));
            }
            Value::Object(_) => 0,
            Value::String(_) => 1,
            Value::Number(_) => 2,
            Value::Bool(_) => 3,
            Value::Null => 4,
        };
        if *first.get_or_insert(rank) != rank {
            return Err(PatchError::Internal(
                "list element types are not identical".into(),
            ));
        }
    }
    Ok(first == Some(0))
}

/// Carries out the items with `$patch` and returns the lists without them.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut rest = Vec::new();
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE) else {
            rest.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let key = item
                    .get(merge_key)
                    .ok_or_else(|| no_merge_key(&item, merge_key))?;
                original.retain(|old| old.get(merge_key) != Some(key));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(PatchError::Internal(
                    "merging lists cannot yet be specified in the patch".into(),
                ));
            }
            _ => {
                let empty = Map::new();
                return Err(unknown_directive(item.as_object().unwrap_or(&empty)));
            }
        }
    }
    if replace {
        Ok((rest, Vec::new()))
    } else {
        Ok((original, rest))
    }
}

/// Drops repeated scalars; the last item takes the place of a dropped one.
fn deduplicate(items: &mut Vec<Value>) {
    let mut i = 0;
    while i < items.len() {
        let mut j = i + 1;
        while j < items.len() {
            if items[i] == items[j] {
                items.swap_remove(j);
            } else {
                j += 1;
            }
        }
        i += 1;
    }
}

/// Orders a merged list: items that the order names follow it, the server's other items keep theirs, and the two are
/// interleaved as the server had them.
fn arrange(
    merged: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    merge_key: &str,
) -> Result<Vec<Value>, PatchError> {
    let key = |item: &Value| -> Result<Value, PatchError> {
        if merge_key.is_empty() {
            return Ok(item.clone());
        }
        item.get(merge_key)
            .cloned()
            .ok_or_else(|| no_merge_key(item, merge_key))
    };
    let keys = |list: &[Value]| -> Vec<Value> {
        list.iter()
            .map(|item| {
                if merge_key.is_empty() {
                    item.clone()
                } else {
                    item.get(merge_key).cloned().unwrap_or_default()
                }
            })
            .collect()
    };
    let (order, server_order) = (keys(order), keys(server_order));
    let at = |list: &[Value], key: &Value| list.iter().position(|other| other == key);

    let (mut ordered, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let key = key(&item)?;
        match at(&order, &key) {
            Some(position) => ordered.push((position, key, item)),
            None => others.push((at(&server_order, &key).unwrap_or(usize::MAX), key, item)),
        }
    }
    ordered.sort_by_key(|(position, ..)| *position);
    others.sort_by_key(|(position, ..)| *position);

    let mut out = Vec::with_capacity(ordered.len() + others.len());
    let mut ordered = ordered.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    loop {
        let server_first = match (others.peek(), ordered.peek()) {
            (None, None) => break,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((_, other, _)), Some((_, ours, _))) => {
                matches!((at(&server_order, other), at(&server_order, ours)), (Some(l), Some(r)) if l < r)
            }
        };
        out.extend(
            if server_first {
                others.next()
            } else {
                ordered.next()
            }
            .map(|(_, _, item)| item),
        );
    }
    Ok(out)
}
