//! References to secrets. A rendered manifest, and so a plan, holds the reference; only who writes an object puts
//! the secret in its place.
//!
//! ```text
//!   ${secret:NAMESPACE/NAME/KEY}          the text of a Secret's key
//!   ${secret:NAMESPACE/NAME/KEY|base64}   the same in base64, as a Secret's `data` or a webhook's `caBundle` has it
//!   ${setting:PATH}                       a text in the spec of the ClusterConfiguration
//! ```

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    Secret {
        namespace: String,
        name: String,
        key: String,
        /// Put in as base64.
        base64: bool,
    },
    /// A dotted path in the ClusterConfiguration's spec, see [`setting_text`].
    Setting { path: String },
}

impl Reference {
    pub fn secret(namespace: &str, name: &str, key: &str) -> Self {
        Self::Secret {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            base64: false,
        }
    }

    pub fn setting(path: &str) -> Self {
        Self::Setting {
            path: path.to_owned(),
        }
    }

    fn parse(inner: &str) -> Option<Self> {
        if let Some(path) = inner.strip_prefix("setting:") {
            return Some(Self::setting(path));
        }
        let rest = inner.strip_prefix("secret:")?;
        let (rest, base64) = rest
            .strip_suffix("|base64")
            .map_or((rest, false), |rest| (rest, true));
        let mut parts = rest.splitn(3, '/');
        Some(Self::Secret {
            namespace: parts.next()?.to_owned(),
            name: parts.next()?.to_owned(),
            key: parts.next()?.to_owned(),
            base64,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret {
                namespace,
                name,
                key,
                base64,
            } => {
                let flavour = if *base64 { "|base64" } else { "" };
                write!(f, "${{secret:{namespace}/{name}/{key}{flavour}}}")
            }
            Self::Setting { path } => write!(f, "${{setting:{path}}}"),
        }
    }
}

/// The text at a dotted path in the spec of a ClusterConfiguration; the item of a list is named by its index.
pub fn setting_text<'a>(spec: &'a Value, path: &str) -> Option<&'a str> {
    crate::setting::at(spec, path)?.as_str()
}

/// The references in a text: where each starts and ends, and what it is.
fn find(text: &str) -> Vec<(usize, usize, Reference)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find("${").map(|i| from + i) {
        let Some(end) = text[start..].find('}').map(|i| start + i + 1) else {
            break;
        };
        if let Some(reference) = Reference::parse(&text[start + 2..end - 1]) {
            found.push((start, end, reference));
            from = end;
        } else {
            from = start + 2;
        }
    }
    found
}

/// Whether a text is a reference to a key of a Secret, and nothing else.
pub fn is_secret(text: &str) -> bool {
    matches!(find(text).as_slice(), [(0, end, Reference::Secret { .. })] if *end == text.len())
}

/// All references in a value, in order, each once.
pub fn references(value: &Value) -> Vec<Reference> {
    fn walk(value: &Value, found: &mut Vec<Reference>) {
        match value {
            Value::String(text) => {
                for (_, _, reference) in find(text) {
                    if !found.contains(&reference) {
                        found.push(reference);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            Value::Object(map) => map.values().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, &mut found);
    found
}

/// The value with the secrets put in. `lookup` gives a secret's bytes: a Secret key decoded from base64, a setting's
/// text.
///
/// A reference that is a whole text is replaced as it is. One inside a longer text stands between the double quotes
/// of a YAML or JSON document there (that is how the document filters write it), so what replaces it is escaped as
/// in a JSON string: no secret can break out of its place.
///
/// # Errors
/// The first reference that `lookup` does not know, or whose bytes are not text where text is needed.
pub fn resolve(value: &Value, lookup: &dyn Fn(&Reference) -> Option<Vec<u8>>) -> Result<Value, Reference> {
    Ok(match value {
        Value::String(text) => Value::String(resolve_text(text, lookup)?),
        Value::Array(items) => items
            .iter()
            .map(|item| resolve(item, lookup))
            .collect::<Result<_, _>>()?,
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(name, item)| Ok((name.clone(), resolve(item, lookup)?)))
                .collect::<Result<_, _>>()?,
        ),
        other => other.clone(),
    })
}

fn resolve_text(text: &str, lookup: &dyn Fn(&Reference) -> Option<Vec<u8>>) -> Result<String, Reference> {
    let mut out = String::new();
    let mut from = 0;
    for (start, end, reference) in find(text) {
        let Some(bytes) = lookup(&reference) else {
            return Err(reference);
        };
        let secret = match &reference {
            Reference::Secret { base64: true, .. } => STANDARD.encode(bytes),
            _ => String::from_utf8(bytes).map_err(|_| reference)?,
        };
        if start == 0 && end == text.len() {
            return Ok(secret);
        }
        let quoted = Value::String(secret).to_string();
        out.push_str(&text[from..start]);
        out.push_str(&quoted[1..quoted.len() - 1]);
        from = end;
    }
    out.push_str(&text[from..]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lookup(reference: &Reference) -> Option<Vec<u8>> {
        match reference {
            Reference::Secret { key, .. } if key == "missing" => None,
            Reference::Secret { key, .. } if key == "odd" => Some(b"a\": \n!x".to_vec()),
            Reference::Secret { .. } => Some(b"hunter2".to_vec()),
            Reference::Setting { path } => Some(path.to_uppercase().into_bytes()),
        }
    }

    #[track_caller]
    fn check(text: &str, expect: Result<&str, &str>) {
        let resolved = resolve(&json!({ "a": [text] }), &lookup);
        assert_eq!(
            resolved.map_err(|reference| reference.to_string()),
            expect.map(|text| json!({ "a": [text] })).map_err(str::to_owned)
        );
    }

    #[test]
    fn references_are_replaced_where_they_stand() {
        check("${secret:n/s/k}", Ok("hunter2"));
        check("${secret:n/s/k|base64}", Ok("aHVudGVyMg=="));
        check("${setting:a.b}", Ok("A.B"));
        check("password: \"${secret:n/s/k}\"\n", Ok("password: \"hunter2\"\n"));
        check("${secret:n/s/missing}", Err("${secret:n/s/missing}"));
        check("$(POD) ${other} ${", Ok("$(POD) ${other} ${"));
    }

    #[test]
    fn a_secret_cannot_break_out_of_a_document() {
        let resolved = resolve(&json!("password: \"${secret:n/s/odd}\"\nother: 1\n"), &lookup).unwrap();
        let document = object::parse_documents(resolved.as_str().unwrap()).unwrap();
        assert_eq!(document, [json!({"password":"a\": \n!x","other":1})]);
        assert_eq!(
            resolve(&json!("${secret:n/s/odd}"), &lookup),
            Ok(json!("a\": \n!x"))
        );
    }

    #[test]
    fn references_are_listed_once() {
        let text = "${secret:n/s/k} ${setting:p} ${secret:n/s/k}";
        assert_eq!(
            references(&json!([{ "a": text }])),
            [Reference::secret("n", "s", "k"), Reference::setting("p")]
        );
    }
}
