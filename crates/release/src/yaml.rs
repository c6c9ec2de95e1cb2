//! Writing a document as YAML that YAML 1.1 and 1.2 readers, among them Go's yaml.v2 and js-yaml, read alike.

use serde_json::Value;

/// Words and first letters aside, what a plain scalar may hold. Everything else is quoted: being plain is a comfort
/// for who reads it, being read alike everywhere is not.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_./:=-".contains(c))
        && !text.ends_with(':')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        // A JSON string is a YAML double-quoted scalar.
        other => other.to_string(),
    }
}

fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn write(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (name, value)) in map.iter().enumerate() {
                if index > 0 {
                    out.push_str(&pad);
                }
                out.push_str(&scalar(&Value::String(name.clone())));
                out.push(':');
                if is_nested(value) {
                    out.push('\n');
                    let deeper = if value.is_array() { indent } else { indent + 2 };
                    out.push_str(&" ".repeat(deeper));
                    write(value, deeper, out);
                } else {
                    out.push(' ');
                    out.push_str(&scalar(value));
                    out.push('\n');
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(&pad);
                }
                out.push_str("- ");
                write(value, indent + 2, out);
            }
        }
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

/// One document.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_written_in_blocks() {
        let value = json!({
            "a": {"b": [1, "x", {"c": true, "d": []}, ["e"]], "f": {}},
            "/public": "server/public",
            "g": "10m0s",
            "h": "yes",
        });
        let text = "a:\n  b:\n  - 1\n  - x\n  - c: true\n    d: []\n  - - e\n  f: {}\n/public: server/public\ng: \"10m0s\"\nh: \"yes\"\n";
        assert_eq!(to_yaml(&value), text);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let odd = [
            "",
            " ",
            "~",
            "null",
            "No",
            "on",
            "1",
            "1.5",
            "0x1f",
            "1e3",
            "12:30:45",
            "2001-01-01",
            ".inf",
            "a: b",
            "a #b",
            "- a",
            "${secret:n/s/k}",
            "*",
            "&a",
            "!t",
            "a\nb\n",
            "\"",
            "'",
            "{{ x }}",
            "é",
            "http://h:1/",
            "a:",
            "=",
        ];
        for text in odd {
            let value = json!({ text: [text, {text: text}] });
            assert_eq!(
                object::parse_documents(&to_yaml(&value)).unwrap(),
                [value],
                "{text:?}"
            );
        }
    }
}
