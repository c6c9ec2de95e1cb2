//! What the Kubernetes API server does to the fields of an object, as pure functions over [`serde_json::Value`].
//!
//! ```text
//! types-1.20.json ─▶ Schema ─┬─▶ Set        which fields an object sets (FieldsV1)
//! CRD's openAPIV3Schema ─▶───┘   managed    who owns them: create, update, patch, server-side apply
//!                                patch      JSON patch, merge patch, strategic merge patch
//! apiVersion and kind ─────────▶ defaults   what the server fills in and rewrites on write
//! openAPIV3Schema ─────────────▶ validate   pruning, defaulting and validation of custom resources
//! ```
//!
//! Nothing here reads a clock, a file or a store: the time of a write is an argument.

pub mod defaults;
pub mod managed;
pub mod patch;
mod schema;
pub mod validate;

pub use schema::Schema;
