//! Kubernetes objects as data. Pure: no client, no clock, no files.
//!
//! ```text
//!   Object ── key() ──▶ ObjectKey            what it is called
//!     │
//!     ├─ diff::changes(from, to)              what differs, path by path, secrets left out
//!     ├─ merge::three_way(old, live, new)     what an upgrade changes, and what people changed by hand
//!     │    └─ drift::Rule                     what becomes of that
//!     └─ ownership::hand_over(live, old, …)   managedFields, with the old tools' fields given to us
//! ```

pub mod diff;
pub mod drift;
pub mod merge;
mod object;
pub mod ownership;
pub mod quantity;

pub use object::{LAST_APPLIED, Object, ObjectError, ObjectKey};

/// Reads every document of a YAML or JSON text. Empty documents are left out.
///
/// # Errors
/// The text is not YAML; the message has line and column.
pub fn parse_documents(text: &str) -> Result<Vec<serde_json::Value>, String> {
    serde_saphyr::from_multiple::<serde_json::Value>(text)
        .map(|documents| documents.into_iter().filter(|d| !d.is_null()).collect())
        .map_err(|error| error.to_string())
}
