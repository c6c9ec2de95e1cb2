//! Objects under a schema: check, set of fields, comparison, merge, removal.
//!
//! The behaviour is that of structured-merge-diff v4, which kube-apiserver 1.20 uses. A value of `null` is present: it
//! differs from an absent one, and it counts as an empty list or map.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::schema::{ListType, MapType, Scalar, Schema, Type, TypeId, Types};
use super::set::{Element, Path, Set};

/// What differs between two objects. No path is in more than one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) removed: Set,
    pub(super) modified: Set,
    pub(super) added: Set,
}

impl Comparison {
    pub(super) fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }
}

/// Which of a type's shapes a value has; a type with several shapes takes the map's where the value does not say.
#[derive(Clone, Copy)]
enum Atom<'a> {
    Map(&'a MapType),
    Scalar(Scalar),
    List(&'a ListType),
}

fn atom<'a>(kind: &'a Type, value: Option<&Value>) -> Atom<'a> {
    match value {
        Some(Value::Number(_) | Value::String(_) | Value::Bool(_)) => {
            if let Some(scalar) = kind.scalar {
                return Atom::Scalar(scalar);
            }
        }
        Some(Value::Array(_)) => {
            if let Some(list) = &kind.list {
                return Atom::List(list);
            }
        }
        _ => {}
    }
    if let Some(map) = &kind.map {
        return Atom::Map(map);
    }
    if let Some(scalar) = kind.scalar {
        return Atom::Scalar(scalar);
    }
    match &kind.list {
        Some(list) => Atom::List(list),
        None => Atom::Scalar(Scalar::Untyped),
    }
}

/// The value that decides a shape: an absent or null side follows the other.
fn deciding<'a>(value: Option<&'a Value>, other: Option<&'a Value>) -> Option<&'a Value> {
    match value {
        None | Some(Value::Null) => other,
        some => some,
    }
}

fn same_shape(a: Atom<'_>, b: Atom<'_>) -> bool {
    matches!(
        (a, b),
        (Atom::Map(_), Atom::Map(_)) | (Atom::Scalar(_), Atom::Scalar(_)) | (Atom::List(_), Atom::List(_))
    )
}

fn as_map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

fn as_list(value: Option<&Value>) -> Option<&Vec<Value>> {
    value.and_then(Value::as_array)
}

/// The identity of a list item, or why it has none.
pub(super) fn list_element(
    types: &Types,
    list: &ListType,
    index: usize,
    item: &Value,
) -> Result<Element, String> {
    if !list.associative {
        return Ok(Element::Index(i64::try_from(index).unwrap_or(i64::MAX)));
    }
    if list.keys.is_empty() {
        return match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
            scalar => Ok(Element::Value(scalar.clone())),
        };
    }
    let fields = match item {
        Value::Object(fields) => fields,
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let mut keys = Vec::with_capacity(list.keys.len());
    for key in &list.keys {
        let default = || {
            let map = types.get(list.element).map.as_ref()?;
            map.field(key)?.default.clone()
        };
        match fields.get(key).cloned().or_else(default) {
            Some(value) => keys.push((key.clone(), value)),
            None => {
                return Err(format!(
                    "associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
                ));
            }
        }
    }
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Element::Key(keys))
}

/// Checks an object against the schema as merging does before it starts; the error is the server's text.
pub(super) fn validate(schema: &Schema, value: &Value) -> Result<(), String> {
    let mut errors = Vec::new();
    validate_value(&schema.types, schema.root, value, "", &mut errors);
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(format!("errors:\n  {}", errors.join("\n  "))),
    }
}

fn problem(path: &str, message: &str) -> String {
    if path.is_empty() {
        message.to_owned()
    } else {
        format!("{path}: {message}")
    }
}

fn validate_value(types: &Types, kind: TypeId, value: &Value, path: &str, errors: &mut Vec<String>) {
    match atom(types.get(kind), Some(value)) {
        Atom::Scalar(scalar) => {
            let expected = match (scalar, value) {
                (_, Value::Null)
                | (Scalar::Untyped, _)
                | (Scalar::Numeric, Value::Number(_))
                | (Scalar::Text, Value::String(_))
                | (Scalar::Boolean, Value::Bool(_)) => return,
                (Scalar::Numeric, other) => {
                    format!("expected numeric (int or float), got {}", go_kind(other))
                }
                (Scalar::Text, other) => format!("expected string, got {}", go_literal(other)),
                (Scalar::Boolean, other) => format!("expected boolean, got {}", go_value(other)),
            };
            errors.push(problem(path, &expected));
        }
        Atom::List(list) => match value {
            Value::Null => {}
            Value::Array(items) => {
                let mut seen = BTreeSet::new();
                for (index, item) in items.iter().enumerate() {
                    let element = match list_element(types, list, index, item) {
                        Ok(element) => element,
                        Err(error) => {
                            errors.push(problem(path, &format!("element {index}: {error}")));
                            return;
                        }
                    };
                    let path = format!("{path}{element}");
                    if list.associative {
                        let text = element.to_string();
                        if !seen.insert(element) {
                            let parent = path.strip_suffix(text.as_str()).unwrap_or_default();
                            errors.push(problem(parent, &format!("duplicate entries for key {text}")));
                        }
                    }
                    validate_value(types, list.element, item, &path, errors);
                }
            }
            other => errors.push(problem(path, &format!("expected list, got {}", go_value(other)))),
        },
        Atom::Map(map) => match value {
            Value::Null => {}
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = format!("{path}.{name}");
                    let Some(kind) = map.kind(name) else {
                        errors.push(problem(&path, "field not declared in schema"));
                        return;
                    };
                    validate_value(types, kind, value, &path, errors);
                }
            }
            other => errors.push(problem(path, &format!("expected map, got {}", go_value(other)))),
        },
    }
}

/// `%T` of a value as the server holds it while merging.
fn go_kind(_: &Value) -> &'static str {
    "*value.valueUnstructured"
}

/// `%#v` of a value as the server holds it while merging.
fn go_literal(value: &Value) -> String {
    let inner = match value {
        Value::String(text) => format!("{text:?}"),
        Value::Object(_) => format!("map[string]interface {{}}{value}"),
        Value::Array(_) => format!("[]interface {{}}{value}"),
        other => other.to_string(),
    };
    format!("&value.valueUnstructured{{Value:{inner}}}")
}

/// `%v` of a value as the server holds it while merging.
fn go_value(value: &Value) -> String {
    format!("&{{{}}}", go_plain(value))
}

/// `%v` of a decoded JSON value in Go.
pub(super) fn go_plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_plain).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.cmp(b.0));
            let fields: Vec<_> = fields
                .into_iter()
                .map(|(key, value)| format!("{key}:{}", go_plain(value)))
                .collect();
            format!("map[{}]", fields.join(" "))
        }
        Value::Null => "<nil>".into(),
        other => other.to_string(),
    }
}

/// The paths that an object sets: leaves, list items, and the items of maps.
pub(super) fn field_set(schema: &Schema, value: &Value) -> Set {
    set_of(&schema.types, schema.root, value).1
}

/// Whether the value is a leaf, and the paths below it.
fn set_of(types: &Types, kind: TypeId, value: &Value) -> (bool, Set) {
    let mut set = Set::default();
    match atom(types.get(kind), Some(value)) {
        Atom::Scalar(_) => return (true, set),
        Atom::List(list) => {
            if !list.associative {
                return (true, set);
            }
            for (index, item) in as_list(Some(value)).into_iter().flatten().enumerate() {
                if let Ok(element) = list_element(types, list, index, item) {
                    let (_, children) = set_of(types, list.element, item);
                    set.attach(element, true, children);
                }
            }
        }
        Atom::Map(map) => {
            if map.atomic {
                return (true, set);
            }
            for (name, value) in as_map(Some(value)).into_iter().flatten() {
                let Some(kind) = map.kind(name) else { continue };
                let (leaf, children) = set_of(types, kind, value);
                let member = leaf || map.field(name).is_none();
                set.attach(Element::Field(name.clone()), member, children);
            }
        }
    }
    (false, set)
}

/// What differs between two objects, of which either may be absent.
pub(super) fn compare(schema: &Schema, left: &Value, right: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    compare_value(
        &schema.types,
        schema.root,
        Some(left),
        Some(right),
        &mut Vec::new(),
        &mut comparison,
    );
    comparison
}

fn compare_leaf(left: Option<&Value>, right: Option<&Value>, path: &Path, out: &mut Comparison) {
    match (left, right) {
        (None, _) => out.added.insert(path),
        (_, None) => out.removed.insert(path),
        (Some(left), Some(right)) => {
            if !equal(left, right) {
                out.modified.insert(path);
            }
        }
    }
}

fn compare_value(
    types: &Types,
    kind: TypeId,
    left: Option<&Value>,
    right: Option<&Value>,
    path: &mut Path,
    out: &mut Comparison,
) {
    // Most of an object does not change; what is equal on both sides adds nothing.
    if let (Some(left), Some(right)) = (left, right)
        && left == right
    {
        return;
    }
    let kind = types.get(kind);
    let left_atom = atom(kind, deciding(left, right));
    let right_atom = atom(kind, deciding(right, left));
    if !same_shape(left_atom, right_atom) {
        compare_as(types, left_atom, left, right, path, out);
    }
    let leaf = compare_as(types, right_atom, left, right, path, out);
    if !leaf {
        if left.is_none() {
            out.added.insert(path);
        } else if right.is_none() {
            out.removed.insert(path);
        }
    }
}

/// Compares two values of one shape and tells whether they were taken as a leaf.
fn compare_as(
    types: &Types,
    atom: Atom<'_>,
    left: Option<&Value>,
    right: Option<&Value>,
    path: &mut Path,
    out: &mut Comparison,
) -> bool {
    match atom {
        Atom::Scalar(_) => {
            compare_leaf(left, right, path, out);
            true
        }
        Atom::List(list) => {
            let (left_items, right_items) = (as_list(left), as_list(right));
            let empty = left_items.is_none_or(Vec::is_empty) && right_items.is_none_or(Vec::is_empty);
            if !list.associative || empty {
                compare_leaf(left, right, path, out);
                return true;
            }
            let (left_items, right_items) = (index(types, list, left_items), index(types, list, right_items));
            for (element, item) in &left_items {
                path.push(element.clone());
                compare_value(
                    types,
                    list.element,
                    Some(item),
                    right_items.get(element).copied(),
                    path,
                    out,
                );
                path.pop();
            }
            for (element, item) in &right_items {
                if !left_items.contains_key(element) {
                    path.push(element.clone());
                    compare_value(types, list.element, None, Some(item), path, out);
                    path.pop();
                }
            }
            false
        }
        Atom::Map(map) => {
            let (left_fields, right_fields) = (as_map(left), as_map(right));
            let empty = left_fields.is_none_or(Map::is_empty) && right_fields.is_none_or(Map::is_empty);
            if map.atomic || empty {
                compare_leaf(left, right, path, out);
                return true;
            }
            for (name, value) in left_fields.into_iter().flatten() {
                let other = right_fields.and_then(|fields| fields.get(name));
                if other == Some(value) {
                    continue;
                }
                if let Some(kind) = map.kind(name) {
                    path.push(Element::Field(name.clone()));
                    compare_value(types, kind, Some(value), other, path, out);
                    path.pop();
                }
            }
            for (name, value) in right_fields.into_iter().flatten() {
                if left_fields.is_some_and(|fields| fields.contains_key(name)) {
                    continue;
                }
                if let Some(kind) = map.kind(name) {
                    path.push(Element::Field(name.clone()));
                    compare_value(types, kind, None, Some(value), path, out);
                    path.pop();
                }
            }
            false
        }
    }
}

fn index<'a>(types: &Types, list: &ListType, items: Option<&'a Vec<Value>>) -> BTreeMap<Element, &'a Value> {
    let mut found = BTreeMap::new();
    for (position, item) in items.into_iter().flatten().enumerate() {
        if let Ok(element) = list_element(types, list, position, item) {
            found.entry(element).or_insert(item);
        }
    }
    found
}

/// Equality as the merge sees it: `1` equals `1.0`.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => left == right,
    }
}

/// Merges a configuration into an object: what the configuration sets wins, nothing is removed.
pub(super) fn merge(schema: &Schema, left: &Value, right: &Value) -> Value {
    merge_value(&schema.types, schema.root, Some(left), Some(right)).unwrap_or(Value::Null)
}

fn merge_value(types: &Types, kind: TypeId, left: Option<&Value>, right: Option<&Value>) -> Option<Value> {
    let keep_right = || right.or(left).cloned();
    let (Some(_), Some(_)) = (left, right) else {
        return keep_right();
    };
    let kind = types.get(kind);
    match atom(kind, deciding(right, left)) {
        Atom::Scalar(_) => keep_right(),
        Atom::List(list) => {
            let (left_items, right_items) = (as_list(left), as_list(right));
            let empty = left_items.is_none_or(Vec::is_empty) && right_items.is_none_or(Vec::is_empty);
            if !list.associative || empty {
                return keep_right();
            }
            let right_index = index(types, list, right_items);
            let left_index = index(types, list, left_items);
            let mut out = Vec::new();
            for (position, item) in left_items.into_iter().flatten().enumerate() {
                if let Ok(element) = list_element(types, list, position, item) {
                    let other = right_index.get(&element).copied();
                    out.extend(merge_value(types, list.element, Some(item), other));
                }
            }
            for (position, item) in right_items.into_iter().flatten().enumerate() {
                if let Ok(element) = list_element(types, list, position, item)
                    && !left_index.contains_key(&element)
                {
                    out.push(item.clone());
                }
            }
            (!out.is_empty()).then_some(Value::Array(out))
        }
        Atom::Map(map) => {
            let (left_fields, right_fields) = (as_map(left), as_map(right));
            let empty = left_fields.is_none_or(Map::is_empty) && right_fields.is_none_or(Map::is_empty);
            if map.atomic || empty {
                return keep_right();
            }
            let mut out = Map::new();
            for (name, value) in left_fields.into_iter().flatten() {
                let other = right_fields.and_then(|fields| fields.get(name));
                let merged = match map.kind(name) {
                    Some(kind) => merge_value(types, kind, Some(value), other),
                    None => other.or(Some(value)).cloned(),
                };
                if let Some(merged) = merged {
                    out.insert(name.clone(), merged);
                }
            }
            for (name, value) in right_fields.into_iter().flatten() {
                if !left_fields.is_some_and(|fields| fields.contains_key(name)) {
                    out.insert(name.clone(), value.clone());
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
    }
}

/// Removes list items and map fields; a list or map that becomes empty goes with them.
pub(super) fn remove(schema: &Schema, value: &Value, paths: &Set) -> Value {
    if paths.is_empty() {
        return value.clone();
    }
    remove_from(&schema.types, schema.root, value, paths).unwrap_or(Value::Null)
}

fn remove_from(types: &Types, kind: TypeId, value: &Value, paths: &Set) -> Option<Value> {
    match atom(types.get(kind), Some(value)) {
        Atom::Scalar(_) => Some(value.clone()),
        Atom::List(list) => {
            let items = as_list(Some(value)).filter(|items| list.associative && !items.is_empty())?;
            let mut out = Vec::new();
            for (position, item) in items.iter().enumerate() {
                let found = list_element(types, list, position, item).ok();
                match found.as_ref().and_then(|element| paths.get(element)) {
                    Some((true, _)) => {}
                    Some((false, below)) if !below.is_empty() => {
                        out.push(remove_from(types, list.element, item, below).unwrap_or(Value::Null));
                    }
                    _ => out.push(item.clone()),
                }
            }
            (!out.is_empty()).then_some(Value::Array(out))
        }
        Atom::Map(map) => {
            let fields = as_map(Some(value)).filter(|fields| !map.atomic && !fields.is_empty())?;
            let mut out = Map::new();
            for (name, value) in fields {
                match (paths.get(&Element::Field(name.clone())), map.kind(name)) {
                    (Some((true, _)), _) => {}
                    (Some((false, below)), Some(kind)) if !below.is_empty() => {
                        out.insert(
                            name.clone(),
                            remove_from(types, kind, value, below).unwrap_or(Value::Null),
                        );
                    }
                    _ => {
                        out.insert(name.clone(), value.clone());
                    }
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
    }
}

/// Brings a set written under an older schema in line with this one: lists and maps that have become atomic, or have
/// stopped being so, since.
pub(super) fn reconcile(schema: &Schema, set: &Set, object: &Value) -> Option<Set> {
    if schema.source == super::schema::Source::Deduced {
        return None;
    }
    let mut walker = Reconcile {
        schema,
        object,
        remove: Set::default(),
        add: Set::default(),
    };
    walker.visit(schema.root, set, false, &mut Vec::new());
    if walker.remove.is_empty() && walker.add.is_empty() {
        return None;
    }
    let mut result = set.recursive_difference(&walker.remove);
    result.extend(&walker.add);
    Some(result)
}

struct Reconcile<'a> {
    schema: &'a Schema,
    object: &'a Value,
    remove: Set,
    add: Set,
}

impl Reconcile<'_> {
    fn visit(&mut self, kind: TypeId, set: &Set, leaf: bool, path: &mut Path) {
        let schema = self.schema;
        // The stored set alone does not say which shape the value had; the map's comes first, as for any value.
        match atom(schema.types.get(kind), None) {
            Atom::Scalar(_) => {}
            Atom::List(list) => {
                if !leaf && !list.associative {
                    self.make_atomic(path);
                    return;
                }
                if leaf && list.associative {
                    self.make_granular(path);
                }
                for (element, member, below) in set.elements() {
                    path.push(element.clone());
                    self.visit(list.element, below, member && below.is_empty(), path);
                    path.pop();
                }
            }
            Atom::Map(map) => {
                if !leaf && map.atomic {
                    if !set.is_empty() {
                        self.make_atomic(path);
                    }
                    return;
                }
                if leaf && !map.atomic {
                    self.make_granular(path);
                }
                for (element, member, below) in set.elements() {
                    let name = if let Element::Field(name) = element {
                        name.as_str()
                    } else {
                        ""
                    };
                    let Some(kind) = map.kind(name) else { continue };
                    path.push(element.clone());
                    self.visit(kind, below, member && below.is_empty(), path);
                    path.pop();
                }
            }
        }
    }

    fn make_atomic(&mut self, path: &Path) {
        self.remove.insert(path);
        self.add.insert(path);
    }

    fn make_granular(&mut self, path: &Path) {
        let all = field_set(self.schema, self.object);
        let mut below = &all;
        for element in path {
            match below.get(element) {
                Some((_, children)) => below = children,
                None => return,
            }
        }
        if below.is_empty() {
            return;
        }
        let mut granular = below.clone();
        for element in path.iter().rev() {
            let mut parent = Set::default();
            parent.attach(element.clone(), false, granular);
            granular = parent;
        }
        self.add.insert(path);
        self.add.extend(&granular);
    }
}
