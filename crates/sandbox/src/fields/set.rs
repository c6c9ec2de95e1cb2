//! Sets of field paths, as `fieldsV1` of `metadata.managedFields` writes them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};
use thiserror::Error;

/// A text that is no field path set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SetError {
    /// The set is no JSON object.
    #[error("a field set must be an object")]
    NotAnObject,
    /// A key is none of `f:`, `k:`, `v:`, `i:` and `.`.
    #[error("cannot read path element {0:?}")]
    Element(String),
}

/// One step of a path.
///
/// The order is the one in which the server writes a set: field names, then keys, then values, then indexes.
#[derive(Debug, Clone)]
pub enum Element {
    /// A field of a struct or map: `f:spec`.
    Field(String),
    /// An item of an associative list by its key fields, sorted by name: `k:{"name":"app"}`.
    Key(Vec<(String, Value)>),
    /// An item of a set by its value: `v:"kubernetes.io/pvc-protection"`.
    Value(Value),
    /// An item of an atomic list by its position: `i:0`.
    Index(i64),
}

impl Element {
    fn rank(&self) -> u8 {
        match self {
            Element::Field(_) => 0,
            Element::Key(_) => 1,
            Element::Value(_) => 2,
            Element::Index(_) => 3,
        }
    }

    fn parse(text: &str) -> Result<Option<Element>, SetError> {
        let error = || SetError::Element(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(error)?;
        Ok(Some(match kind {
            "f" => Element::Field(rest.to_owned()),
            "v" => Element::Value(serde_json::from_str(rest).map_err(|_| error())?),
            "k" => {
                let fields: Map<String, Value> = serde_json::from_str(rest).map_err(|_| error())?;
                let mut fields: Vec<_> = fields.into_iter().collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                Element::Key(fields)
            }
            "i" => Element::Index(rest.parse().map_err(|_| error())?),
            _ if kind.len() != 1 => return Err(error()),
            // A later version may know more kinds; what is not understood is dropped.
            _ => return Ok(None),
        }))
    }

    fn serialise(&self) -> String {
        match self {
            Element::Field(name) => format!("f:{name}"),
            Element::Value(value) => format!("v:{}", go_json(value)),
            Element::Index(index) => format!("i:{index}"),
            Element::Key(fields) => {
                let mut out = String::from("k:{");
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push(':');
                    out.push_str(&go_json(value));
                }
                out.push('}');
                out
            }
        }
    }
}

impl fmt::Display for Element {
    /// As in the server's messages: `.spec`, `[name="app"]`, `[="a"]`, `[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Index(index) => write!(f, "[{index}]"),
            Element::Value(value) => write!(f, "[={value}]"),
            Element::Key(fields) => {
                f.write_str("[")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{name}={value}", if index > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
        }
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Element) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Element {}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Element) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Element) -> Ordering {
        match (self, other) {
            (Element::Field(a), Element::Field(b)) => a.cmp(b),
            (Element::Key(a), Element::Key(b)) => compare_fields(a, b),
            (Element::Value(a), Element::Value(b)) => compare_values(a, b),
            (Element::Index(a), Element::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

fn compare_fields(a: &[(String, Value)], b: &[(String, Value)]) -> Ordering {
    for ((a_name, a_value), (b_name, b_value)) in a.iter().zip(b) {
        let ordering = a_name.cmp(b_name).then_with(|| compare_values(a_value, b_value));
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    a.len().cmp(&b.len())
}

/// The total order of values: numbers, strings, booleans, lists, maps, null.
fn compare_values(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or(0.0).total_cmp(&b.as_f64().unwrap_or(0.0)),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => a
            .iter()
            .zip(b)
            .map(|(a, b)| compare_values(a, b))
            .find(|ordering| *ordering != Ordering::Equal)
            .unwrap_or_else(|| a.len().cmp(&b.len())),
        (Value::Object(a), Value::Object(b)) => {
            let sorted = |map: &Map<String, Value>| {
                let mut fields: Vec<_> = map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                fields
            };
            compare_fields(&sorted(a), &sorted(b))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

/// JSON as Go's encoder writes it by default: `<`, `>` and `&` are escaped.
pub(super) fn go_json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// A path into an object.
pub type Path = Vec<Element>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    children: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

/// A set of field paths. A path may be a member without its parent being one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<Element, Node>);

impl Set {
    /// Reads `fieldsV1`.
    pub fn parse(fields: &Value) -> Result<Set, SetError> {
        let (set, _) = Set::parse_node(fields)?;
        Ok(set)
    }

    fn parse_node(fields: &Value) -> Result<(Set, bool), SetError> {
        let fields = match fields {
            Value::Object(fields) => fields,
            Value::Null => return Ok((Set::default(), true)),
            _ => return Err(SetError::NotAnObject),
        };
        let mut set = Set::default();
        let mut member = false;
        for (key, value) in fields {
            if key == "." {
                member = true;
                continue;
            }
            let Some(element) = Element::parse(key)? else {
                continue;
            };
            let (children, child_is_member) = Set::parse_node(value)?;
            let node = set.0.entry(element).or_default();
            node.member |= child_is_member;
            node.children = children;
        }
        let leaf = set.0.is_empty();
        Ok((set, member || leaf))
    }

    /// Writes `fieldsV1`, in the server's order.
    pub fn to_fields(&self) -> Value {
        let mut fields = Map::new();
        self.write_into(&mut fields);
        Value::Object(fields)
    }

    fn write_into(&self, fields: &mut Map<String, Value>) {
        for (element, node) in &self.0 {
            let mut inner = Map::new();
            if !node.children.0.is_empty() {
                if node.member {
                    inner.insert(".".into(), Value::Object(Map::new()));
                }
                node.children.write_into(&mut inner);
            }
            fields.insert(element.serialise(), Value::Object(inner));
        }
    }

    /// Adds a path; its parents are not added. The empty path stands for the whole object and is never a member.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((last, parents)) = path.split_last() else {
            return;
        };
        let mut set = self;
        for element in parents {
            set = &mut set.0.entry(element.clone()).or_default().children;
        }
        set.0.entry(last.clone()).or_default().member = true;
    }

    /// Whether the path itself is a member.
    pub fn has(&self, path: &[Element]) -> bool {
        let Some((last, parents)) = path.split_last() else {
            return false;
        };
        let mut set = self;
        for element in parents {
            match set.0.get(element) {
                Some(node) => set = &node.children,
                None => return false,
            }
        }
        set.0.get(last).is_some_and(|node| node.member)
    }

    /// Whether no path is a member.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(Node::is_empty)
    }

    /// The paths in either set.
    #[must_use]
    pub fn union(&self, other: &Set) -> Set {
        let mut result = self.clone();
        result.extend(other);
        result
    }

    /// Adds all paths of another set.
    pub fn extend(&mut self, other: &Set) {
        for (element, node) in &other.0 {
            match self.0.get_mut(element) {
                Some(own) => {
                    own.member |= node.member;
                    own.children.extend(&node.children);
                }
                None => {
                    self.0.insert(element.clone(), node.clone());
                }
            }
        }
    }

    /// The paths in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Set) -> Set {
        let mut result = Set::default();
        for (element, node) in &self.0 {
            if let Some(theirs) = other.0.get(element) {
                result.keep(
                    element,
                    Node {
                        member: node.member && theirs.member,
                        children: node.children.intersection(&theirs.children),
                    },
                );
            }
        }
        result
    }

    /// The paths in this set and not in the other. A parent in the other set does not take its children along.
    #[must_use]
    pub fn difference(&self, other: &Set) -> Set {
        let mut result = Set::default();
        for (element, node) in &self.0 {
            match other.0.get(element) {
                None => {
                    result.0.insert(element.clone(), node.clone());
                }
                Some(theirs) => result.keep(
                    element,
                    Node {
                        member: node.member && !theirs.member,
                        children: node.children.difference(&theirs.children),
                    },
                ),
            }
        }
        result
    }

    /// The paths in this set that neither are in the other nor lie below a member of it.
    #[must_use]
    pub fn recursive_difference(&self, other: &Set) -> Set {
        let mut result = Set::default();
        for (element, node) in &self.0 {
            match other.0.get(element) {
                None => {
                    result.0.insert(element.clone(), node.clone());
                }
                Some(theirs) if theirs.member => {}
                Some(theirs) => result.keep(
                    element,
                    Node {
                        member: node.member,
                        children: node.children.recursive_difference(&theirs.children),
                    },
                ),
            }
        }
        result
    }

    fn keep(&mut self, element: &Element, node: Node) {
        if !node.is_empty() {
            self.0.insert(element.clone(), node);
        }
    }

    /// All member paths: those at a level before those below, each level in order.
    pub fn paths(&self) -> Vec<Path> {
        let mut paths = Vec::new();
        self.collect_paths(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &mut Path, paths: &mut Vec<Path>) {
        for (element, node) in &self.0 {
            if node.member {
                let mut path = prefix.clone();
                path.push(element.clone());
                paths.push(path);
            }
        }
        for (element, node) in &self.0 {
            prefix.push(element.clone());
            node.children.collect_paths(prefix, paths);
            prefix.pop();
        }
    }

    /// The paths that have no member below them.
    #[must_use]
    pub fn leaves(&self) -> Set {
        let mut result = Set::default();
        for (element, node) in &self.0 {
            let children = node.children.leaves();
            let member = node.member && children.is_empty();
            result.keep(element, Node { member, children });
        }
        result
    }

    /// The steps at the top level, whether each is a member, and the paths below it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&Element, bool, &Set)> {
        self.0
            .iter()
            .map(|(element, node)| (element, node.member, &node.children))
    }

    /// Whether a step is a member, and the paths below it.
    pub(super) fn get(&self, element: &Element) -> Option<(bool, &Set)> {
        self.0.get(element).map(|node| (node.member, &node.children))
    }

    /// Adds a step with a whole set below it.
    pub(super) fn attach(&mut self, element: Element, member: bool, children: Set) {
        if member || !children.is_empty() {
            let node = self.0.entry(element).or_default();
            node.member |= member;
            if node.children.0.is_empty() {
                node.children = children;
            } else {
                node.children.extend(&children);
            }
        }
    }
}

/// A path as the server's messages write it: `.spec.template.spec.containers[name="app"].image`.
pub fn display_path(path: &[Element]) -> String {
    path.iter().map(Element::to_string).collect()
}
