//! The types that merging follows: those of Kubernetes 1.19 to 1.25, those of a CRD, and the deduced one.
//!
//! A type says what a value may be: a scalar, a list, a map, or (for the untyped ones) any of them, and how lists and
//! maps merge. Types live in a table and name each other by index, because they refer to themselves
//! (`JSONSchemaProps`); the table of the built-in types is made once, the table of a CRD with its schema.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock};

use serde_json::Value;

use super::crd;
use crate::kinds::Minor;

/// The compact form of Kubernetes 1.20's types; `cargo run -p xtask --example types` makes it.
const TYPES: &str = include_str!("../../data/types-1.20.json");
/// What other versions have otherwise, written by hand: a list of changes, each for versions `from` a minor on or `below`
/// one. `kinds` and `types` join those of 1.20, as do `fields` of its types; a field that is null is gone.
const CHANGES: &str = include_str!("../../data/types-later.json");

/// The minor of the types that the changes start from.
pub(crate) const BASE: Minor = 20;
/// The minors that have types of their own; others have those of the nearest.
const OLDEST: Minor = 19;
const NEWEST: Minor = 25;
const VERSIONS: usize = (NEWEST - OLDEST + 1) as usize;

/// One of something for every minor that has types of its own.
type PerMinor<T> = [OnceLock<T>; VERSIONS];

fn of_minor<T>(all: &'static PerMinor<T>, minor: Minor, make: fn(Minor) -> T) -> &'static T {
    let minor = minor.clamp(OLDEST, NEWEST);
    all[(minor - OLDEST) as usize].get_or_init(|| make(minor))
}

/// The type file of a minor version, for those who describe the types to others; `xtask/src/openapi.rs` says what it means.
pub(crate) fn type_file(minor: Minor) -> &'static Value {
    static FILES: PerMinor<Value> = [const { OnceLock::new() }; VERSIONS];
    of_minor(&FILES, minor, read_types)
}

fn read_types(minor: Minor) -> Value {
    let mut file: Value = serde_json::from_str(TYPES).expect("the embedded type file is JSON");
    let changes: Vec<Value> = serde_json::from_str(CHANGES).expect("the embedded changes of types are JSON");
    for change in changes {
        let bound = |key: &str| change[key].as_u64();
        let applies = bound("from").is_none_or(|from| u64::from(minor) >= from)
            && bound("below").is_none_or(|below| u64::from(minor) < below);
        if !applies {
            continue;
        }
        for part in ["kinds", "types"] {
            for (name, added) in change[part].as_object().into_iter().flatten() {
                file[part][name] = added.clone();
            }
        }
        for (name, fields) in change["fields"].as_object().into_iter().flatten() {
            let Some(known) = file["types"][name]["f"].as_object_mut() else {
                continue;
            };
            for (field, added) in fields.as_object().into_iter().flatten() {
                if added.is_null() {
                    known.shift_remove(field);
                } else {
                    known.insert(field.clone(), added.clone());
                }
            }
        }
    }
    file
}

/// An index into a table of types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TypeId(pub(super) u32);

/// Anything, replaced as a whole.
pub(super) const UNTYPED: TypeId = TypeId(0);
/// Anything: lists are replaced as a whole, maps merge field by field.
pub(super) const DEDUCED: TypeId = TypeId(1);

/// What a scalar must be to pass the merge's own check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Numeric,
    Text,
    Boolean,
    Untyped,
}

/// How the server rewrites a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Integer,
    Number,
    Boolean,
    IntOrString,
    Time,
    Quantity,
    /// JSON that the server keeps as it is.
    Opaque,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListType {
    pub(super) element: TypeId,
    /// Items have an identity: their keys, or without keys their value.
    pub(super) associative: bool,
    pub(super) keys: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: TypeId,
    /// The value that a list item without this key field is taken to have.
    pub(super) default: Option<Value>,
    /// Written even when empty.
    pub(super) always: bool,
    /// A Go value, not a pointer: its zero is the same as its absence.
    pub(super) value: bool,
    /// `merge` among the patch strategies.
    pub(super) patch_merge: bool,
    /// The field by which a strategic merge patch pairs list items.
    pub(super) merge_key: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct MapType {
    /// Declared fields in the order in which the server writes them.
    pub(super) fields: Vec<Field>,
    pub(super) index: HashMap<String, usize>,
    /// The type of the other fields; none are allowed without it.
    pub(super) element: Option<TypeId>,
    pub(super) atomic: bool,
}

impl MapType {
    pub(super) fn of(element: TypeId) -> MapType {
        MapType {
            element: Some(element),
            ..MapType::default()
        }
    }

    pub(super) fn add(&mut self, field: Field) {
        if let Some(&at) = self.index.get(&field.name) {
            self.fields[at] = field;
        } else {
            self.index.insert(field.name.clone(), self.fields.len());
            self.fields.push(field);
        }
    }

    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.index.get(name).map(|&at| &self.fields[at])
    }

    /// The type of a field, declared or not.
    pub(super) fn kind(&self, name: &str) -> Option<TypeId> {
        self.field(name).map(|field| field.kind).or(self.element)
    }
}

/// What a value of a type may be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Type {
    pub(super) scalar: Option<Scalar>,
    pub(super) list: Option<ListType>,
    pub(super) map: Option<MapType>,
    pub(super) format: Format,
}

impl Type {
    pub(super) fn scalar(scalar: Scalar, format: Format) -> Type {
        Type {
            scalar: Some(scalar),
            list: None,
            map: None,
            format,
        }
    }

    pub(super) fn list(list: ListType) -> Type {
        Type {
            scalar: None,
            list: Some(list),
            map: None,
            format: Format::Opaque,
        }
    }

    pub(super) fn map(map: MapType) -> Type {
        Type {
            scalar: None,
            list: None,
            map: Some(map),
            format: Format::Opaque,
        }
    }

    fn any(map_element: TypeId, atomic: bool) -> Type {
        Type {
            scalar: Some(Scalar::Untyped),
            list: Some(ListType {
                element: UNTYPED,
                associative: false,
                keys: Vec::new(),
            }),
            map: Some(MapType {
                atomic,
                ..MapType::of(map_element)
            }),
            format: Format::Opaque,
        }
    }
}

/// A table of types; the first two entries are [`UNTYPED`] and [`DEDUCED`].
#[derive(Debug, Clone)]
pub(super) struct Types(Vec<Type>);

impl Types {
    pub(super) fn new() -> Types {
        Types(vec![Type::any(UNTYPED, true), Type::any(DEDUCED, false)])
    }

    pub(super) fn add(&mut self, kind: Type) -> TypeId {
        self.0.push(kind);
        TypeId(u32::try_from(self.0.len() - 1).expect("a schema has fewer than 2^32 types"))
    }

    pub(super) fn get(&self, id: TypeId) -> &Type {
        &self.0[id.0 as usize]
    }

    fn set(&mut self, id: TypeId, kind: Type) {
        self.0[id.0 as usize] = kind;
    }
}

/// Where a schema comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Builtin,
    Crd,
    Deduced,
}

/// How the fields of a type merge. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Schema {
    pub(super) types: Arc<Types>,
    pub(super) root: TypeId,
    pub(super) source: Source,
    /// The version of Kubernetes whose type it is.
    pub(super) minor: Minor,
}

impl Schema {
    /// The schema of a kind that Kubernetes 1.`minor` serves itself; `None` for any other.
    pub fn builtin(api_version: &str, kind: &str, minor: u32) -> Option<Schema> {
        let builtin = Builtin::of(minor);
        let root = *builtin.kinds.get(&format!("{api_version}/{kind}"))?;
        Some(Schema {
            types: Arc::clone(&builtin.types),
            root,
            source: Source::Builtin,
            minor,
        })
    }

    fn crd(types: Types, root: TypeId) -> Schema {
        Schema {
            types: Arc::new(types),
            root,
            source: Source::Crd,
            minor: BASE,
        }
    }

    /// The schema of a custom resource from its CRD's `openAPIV3Schema`. `Value::Null` stands for a version without a
    /// schema.
    pub fn from_crd(open_api: &Value) -> Schema {
        Schema::from_crd_preserving(open_api, false)
    }

    /// Like [`Schema::from_crd`], for a CRD whose `spec.preserveUnknownFields` is true (it was made as `v1beta1`).
    pub fn from_crd_preserving(open_api: &Value, preserve_unknown_fields: bool) -> Schema {
        match crd::types(open_api, preserve_unknown_fields) {
            Some((types, root)) => Schema::crd(types, root),
            None => Schema::deduced(),
        }
    }

    /// The schema of one version of a custom resource, from the `spec` of its CustomResourceDefinition.
    ///
    /// A version that the server cannot publish costs all versions their types.
    pub fn from_definition(spec: &Value, version: &str) -> Schema {
        let preserve = spec["preserveUnknownFields"] == true;
        let versions = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
        let mut found = None;
        for entry in versions {
            let Some((types, root)) = crd::types(&entry["schema"]["openAPIV3Schema"], preserve) else {
                return Schema::deduced();
            };
            if entry["name"] == version {
                found = Some(Schema::crd(types, root));
            }
        }
        found.unwrap_or_else(Schema::deduced)
    }

    /// The schema of an object about which nothing is known: lists are atomic, maps are granular.
    pub fn deduced() -> Schema {
        static TYPES: LazyLock<Arc<Types>> = LazyLock::new(|| Arc::new(Types::new()));
        Schema {
            types: Arc::clone(&TYPES),
            root: DEDUCED,
            source: Source::Deduced,
            minor: BASE,
        }
    }

    /// Whether this is a type of Kubernetes itself.
    pub fn is_builtin(&self) -> bool {
        self.source == Source::Builtin
    }
}

struct Builtin {
    types: Arc<Types>,
    kinds: HashMap<String, TypeId>,
    names: HashMap<String, TypeId>,
}

impl Builtin {
    fn of(minor: Minor) -> &'static Builtin {
        static ALL: PerMinor<Builtin> = [const { OnceLock::new() }; VERSIONS];
        of_minor(&ALL, minor, Builtin::read)
    }

    fn read(minor: Minor) -> Builtin {
        let file = read_types(minor);
        let mut types = Types::new();
        let mut names = HashMap::new();
        let empty = serde_json::Map::new();
        let definitions = file["types"].as_object().unwrap_or(&empty);
        // Every name has its place before the first is filled in: types refer to each other in circles.
        for name in definitions.keys() {
            names.insert(name.clone(), types.add(Type::any(UNTYPED, true)));
        }
        for (name, definition) in definitions {
            let kind = build(&mut types, &names, definition);
            types.set(names[name], kind);
        }
        let kinds = file["kinds"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(kind, name)| Some((kind.clone(), *names.get(name.as_str()?)?)))
            .collect();
        Builtin {
            types: Arc::new(types),
            kinds,
            names,
        }
    }
}

/// Copies a built-in type, and all that it refers to, into another table.
pub(super) fn import(types: &mut Types, name: &str) -> TypeId {
    let builtin = Builtin::of(BASE);
    let Some(&id) = builtin.names.get(name) else {
        return UNTYPED;
    };
    copy(types, &builtin.types, id, &mut HashMap::new())
}

fn copy(types: &mut Types, from: &Types, id: TypeId, done: &mut HashMap<TypeId, TypeId>) -> TypeId {
    if id == UNTYPED || id == DEDUCED {
        return id;
    }
    if let Some(&copied) = done.get(&id) {
        return copied;
    }
    let mut kind = from.get(id).clone();
    let target = types.add(kind.clone());
    done.insert(id, target);
    if let Some(list) = &mut kind.list {
        list.element = copy(types, from, list.element, done);
    }
    if let Some(map) = &mut kind.map {
        map.element = map.element.map(|element| copy(types, from, element, done));
        for field in &mut map.fields {
            field.kind = copy(types, from, field.kind, done);
        }
    }
    types.set(target, kind);
    target
}

/// The type that an entry of the type file describes; inline types get a place of their own.
fn build(types: &mut Types, names: &HashMap<String, TypeId>, entry: &Value) -> Type {
    let atomic = entry["mt"] == "atomic";
    if let Some(fields) = entry["f"].as_object() {
        let mut map = MapType {
            atomic,
            ..MapType::default()
        };
        for (name, field) in fields {
            map.add(build_field(types, names, name, field));
        }
        return Type::map(map);
    }
    if let Some(scalar) = entry["s"].as_str() {
        let (scalar, format) = match scalar {
            "integer" => (Scalar::Numeric, Format::Integer),
            "number" => (Scalar::Numeric, Format::Number),
            "boolean" => (Scalar::Boolean, Format::Boolean),
            "int-or-string" => (Scalar::Untyped, Format::IntOrString),
            "time" | "micro-time" => (Scalar::Untyped, Format::Time),
            "quantity" => (Scalar::Text, Format::Quantity),
            _ => (Scalar::Text, Format::Text),
        };
        return Type::scalar(scalar, format);
    }
    if !entry["l"].is_null() {
        let element = place(types, names, &entry["l"]);
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        let (mut associative, mut keys) = (false, Vec::new());
        match (text("lt"), text("ps")) {
            ("set", _) => associative = true,
            ("map", _) => {
                associative = true;
                keys = entry["lk"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect();
            }
            ("", "merge" | "merge,retainKeys") => {
                associative = true;
                keys.extend(entry["pk"].as_str().map(str::to_owned));
            }
            _ => {}
        }
        return Type::list(ListType {
            element,
            associative,
            keys,
        });
    }
    if !entry["m"].is_null() {
        let element = place(types, names, &entry["m"]);
        return Type::map(MapType {
            atomic,
            ..MapType::of(element)
        });
    }
    Type::any(UNTYPED, true)
}

fn build_field(types: &mut Types, names: &HashMap<String, TypeId>, name: &str, entry: &Value) -> Field {
    let strategy = entry["ps"].as_str().unwrap_or_default();
    Field {
        name: name.to_owned(),
        kind: place(types, names, entry),
        default: entry.get("d").cloned(),
        always: entry["z"] == true,
        value: entry["v"] == true,
        patch_merge: strategy.split(',').any(|word| word == "merge"),
        merge_key: entry["pk"].as_str().map(str::to_owned),
    }
}

fn place(types: &mut Types, names: &HashMap<String, TypeId>, entry: &Value) -> TypeId {
    if let Some(name) = entry["r"].as_str() {
        return names.get(name).copied().unwrap_or(UNTYPED);
    }
    if entry.get("a").is_some() {
        return UNTYPED;
    }
    let kind = build(types, names, entry);
    types.add(kind)
}
