//! What the Kubernetes API server does to the fields of an object, as pure functions over [`serde_json::Value`].
//!
//! ```text
//! types-*.json ────▶ Schema ─┬─▶ Set        which fields an object sets (FieldsV1)
//! CRD's openAPIV3Schema ─▶───┤   managed    who owns them: create, update, patch, server-side apply
//!                            ├─▶ patch      JSON patch, merge patch, strategic merge patch
//!                            └─▶ shape      the form of a built-in object: its Go type written as JSON
//! apiVersion and kind ─────────▶ defaults   what the server fills in and rewrites on write
//! openAPIV3Schema ─────────────▶ validate   pruning, defaulting and validation of custom resources
//! ```
//!
//! Nothing here reads a clock, a file or a store: the time of a write is an argument.

mod convert;
mod crd;
pub mod defaults;
mod entries;
pub mod managed;
pub mod patch;
mod quantity;
mod schema;
mod set;
mod shape;
mod typed;
pub(crate) mod unknown;
pub mod validate;

pub use schema::Schema;
pub(crate) use schema::{BASE, type_file};
pub use set::{Element, Path, Set, SetError, display_path};
pub use shape::{check_types, shape};

/// The fields that an object sets under a schema, as an apply of it would own them.
pub fn field_set(schema: &Schema, object: &serde_json::Value) -> Set {
    typed::field_set(schema, object)
}

/// A quantity (`100m`, `1Gi`) in billionths, to compare it with another.
pub(crate) fn quantity_in_billionths(value: &serde_json::Value) -> i128 {
    quantity::nano(value)
}
