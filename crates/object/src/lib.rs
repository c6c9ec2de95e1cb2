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
    parse_documents_as(text)
}

/// The same, as far as somebody wants to know what the documents say.
///
/// # Errors
/// The text is not YAML, or a document is another one; the message has line and column.
pub fn parse_documents_as<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    if is_json(text)
        && let Ok(documents) = serde_json::Deserializer::from_str(text).into_iter().collect()
    {
        return Ok(documents);
    }
    serde_saphyr::from_multiple::<Option<T>>(text)
        .map(|documents| documents.into_iter().flatten().collect())
        .map_err(|error| error.to_string())
}

/// Reads the one document of a YAML or JSON text.
///
/// # Errors
/// It is another one; the message has line and column.
pub fn parse_document<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    if is_json(text)
        && let Ok(document) = serde_json::from_str(text)
    {
        return Ok(document);
    }
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// JSON is YAML, too, and read ten times as fast as such. What begins so and is YAML all the same is read as that.
fn is_json(text: &str) -> bool {
    text.starts_with(['{', '['])
}

/// Whether a text is a Jinja template of more than itself.
pub fn has_jinja(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}
