//! Values as Go prints them: the server's messages quote what they refuse.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::json::{list, text};

/// Where Go prints the address of a value instead of the value. Addresses say nothing, so that one does for all.
pub(crate) const POINTER: &str = "0xc000000000";

/// A text as `%q` prints it.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        // Writing to a string cannot fail.
        let _ = match character {
            '"' | '\\' => write!(out, "\\{character}"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            '\u{7}' => write!(out, "\\a"),
            '\u{8}' => write!(out, "\\b"),
            '\u{b}' => write!(out, "\\v"),
            '\u{c}' => write!(out, "\\f"),
            _ if is_printed(character) => write!(out, "{character}"),
            '\0'..='\u{7f}' => write!(out, "\\x{:02x}", u32::from(character)),
            '\u{80}'..='\u{ffff}' => write!(out, "\\u{:04x}", u32::from(character)),
            _ => write!(out, "\\U{:08x}", u32::from(character)),
        };
    }
    out.push('"');
    out
}

/// Whether a character is one that shows: the only blank among them is the space.
pub(crate) fn is_printed(character: char) -> bool {
    character == ' ' || !(character.is_control() || character.is_whitespace())
}

/// A list of texts as `%#v` prints it: `[]string{"a", "b"}`.
pub(crate) fn strings(texts: &[Value]) -> String {
    if texts.is_empty() {
        return "[]string(nil)".to_owned();
    }
    let texts: Vec<_> = texts.iter().filter_map(Value::as_str).map(quote).collect();
    format!("[]string{{{}}}", texts.join(", "))
}

/// A map of texts as `%#v` prints it: `map[string]string{"app":"web"}`.
pub(crate) fn map_of_strings(map: Option<&Value>) -> String {
    let Some(map) = map.and_then(Value::as_object) else {
        return "map[string]string(nil)".to_owned();
    };
    let sorted: BTreeMap<_, _> = map.iter().collect();
    let entries: Vec<_> = sorted
        .iter()
        .map(|(key, value)| format!("{}:{}", quote(key), quote(value.as_str().unwrap_or_default())))
        .collect();
    format!("map[string]string{{{}}}", entries.join(", "))
}

/// A selector of labels as `%#v` prints it.
pub(crate) fn selector(selector: &Value) -> String {
    let expressions: Vec<_> = list(selector, "matchExpressions")
        .iter()
        .map(|one| {
            format!(
                "v1.LabelSelectorRequirement{{Key:{}, Operator:{}, Values:{}}}",
                quote(text(one, "key")),
                quote(text(one, "operator")),
                strings(list(one, "values"))
            )
        })
        .collect();
    let expressions = if expressions.is_empty() {
        "[]v1.LabelSelectorRequirement(nil)".to_owned()
    } else {
        format!("[]v1.LabelSelectorRequirement{{{}}}", expressions.join(", "))
    };
    format!(
        "v1.LabelSelector{{MatchLabels:{}, MatchExpressions:{expressions}}}",
        map_of_strings(selector.get("matchLabels"))
    )
}

/// A number or percentage as `%#v` prints it.
pub(crate) fn int_or_string(value: &Value) -> String {
    let (kind, number, text) = match value {
        Value::String(text) => (1, 0, text.as_str()),
        number => (0, number.as_i64().unwrap_or_default(), ""),
    };
    format!(
        "intstr.IntOrString{{Type:{kind}, IntVal:{number}, StrVal:{}}}",
        quote(text)
    )
}

/// A pointer in a struct as `%#v` prints it: its address where there is something.
pub(crate) fn pointer(kind: &str, value: Option<&Value>) -> String {
    match value {
        Some(value) if !value.is_null() => format!("(*{kind})({POINTER})"),
        _ => format!("(*{kind})(nil)"),
    }
}

/// A time of JSON as `%v` prints it: `2001-01-01 00:00:00 +0000 UTC`.
pub(crate) fn time(text: &str) -> String {
    text.parse::<jiff::Timestamp>().map_or_else(
        |_| text.to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
    )
}

/// JSON as `%v` prints it: `map[a:[1 2] b:x]`.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(plain).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(fields) => plain_map(fields),
        other => other.to_string(),
    }
}

fn plain_map(fields: &Map<String, Value>) -> String {
    let sorted: BTreeMap<_, _> = fields.iter().collect();
    let fields: Vec<_> = sorted
        .iter()
        .map(|(key, value)| format!("{key}:{}", plain(value)))
        .collect();
    format!("map[{}]", fields.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_quoted() {
        for (text, expect) in [
            ("a", r#""a""#),
            ("\0", r#""\x00""#),
            ("a\"b\\", r#""a\"b\\""#),
            ("\u{a0}", r#""\u00a0""#),
            ("ü\n", r#""ü\n""#),
        ] {
            assert_eq!(quote(text), expect);
        }
    }

    #[test]
    fn values_are_printed() {
        assert_eq!(
            plain(&json!({ "b": [1, "x"], "a": null })),
            "map[a:<nil> b:[1 x]]"
        );
        assert_eq!(
            int_or_string(&json!("5%")),
            r#"intstr.IntOrString{Type:1, IntVal:0, StrVal:"5%"}"#
        );
        assert_eq!(
            map_of_strings(Some(&json!({ "a": "b" }))),
            r#"map[string]string{"a":"b"}"#
        );
    }
}
