//! How values stand in cells: ages, paths into objects, selectors.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::json::{list, text};

/// The time at which a table is printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment(pub jiff::Timestamp);

impl Moment {
    /// How long ago a time was.
    pub(super) fn since(self, time: &str) -> String {
        if time.is_empty() {
            return "<unknown>".to_owned();
        }
        match time.parse::<jiff::Timestamp>() {
            Ok(time) => duration(self.0.as_second() - time.as_second()),
            Err(_) => "<invalid>".to_owned(),
        }
    }
}

/// The seconds between two times.
pub(super) fn between(from: &str, to: &str) -> Option<i64> {
    Some(to.parse::<jiff::Timestamp>().ok()?.as_second() - from.parse::<jiff::Timestamp>().ok()?.as_second())
}

/// A length of time in two digits of precision or so: `45s`, `5m30s`, `3h`, `2d4h`, `400d`.
pub(super) fn duration(seconds: i64) -> String {
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{small_unit}")
        }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// The first value that a simple JSONPath names: fields, `\.` in names, `[0]`, `[*]`, `['name']`, `[?(@.a=="b")]`.
pub(super) fn path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut found = object;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let end = tail.find(']')?;
            let (inside, tail) = (&tail[..end], &tail[end + 1..]);
            found = if let Some(filter) = inside.strip_prefix("?(@.").and_then(|one| one.strip_suffix(')')) {
                let (field, wanted) = filter.split_once("==")?;
                let wanted = wanted.trim().trim_matches(['"', '\'']);
                found
                    .as_array()?
                    .iter()
                    .find(|item| text(item, field.trim()) == wanted)?
            } else if inside == "*" {
                found.as_array()?.first()?
            } else if let Ok(index) = inside.parse::<usize>() {
                found.get(index)?
            } else {
                found.get(inside.trim_matches(['"', '\'']))?
            };
            rest = tail;
            continue;
        }
        let tail = rest.strip_prefix('.').unwrap_or(rest);
        let mut name = String::new();
        let mut characters = tail.char_indices();
        let mut end = tail.len();
        while let Some((index, character)) = characters.next() {
            match character {
                '\\' => {
                    if let Some((_, escaped)) = characters.next() {
                        name.push(escaped);
                    }
                }
                '.' | '[' => {
                    end = index;
                    break;
                }
                other => name.push(other),
            }
        }
        if !name.is_empty() {
            found = found.get(&name)?;
        } else if end == 0 && !tail.starts_with('[') {
            return None;
        }
        rest = &tail[end..];
    }
    Some(found)
}

/// Labels as `a=b,c=d`.
pub(super) fn labels(map: Option<&Value>) -> String {
    let sorted: BTreeMap<_, _> = map.and_then(Value::as_object).into_iter().flatten().collect();
    if sorted.is_empty() {
        return "<none>".to_owned();
    }
    let all: Vec<_> = sorted
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    all.join(",")
}

/// A LabelSelector as text.
pub(super) fn selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return "<none>".to_owned();
    };
    let mut parts: Vec<(String, String)> = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            (
                key.clone(),
                format!("{key}={}", value.as_str().unwrap_or_default()),
            )
        })
        .collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        let values: Vec<_> = list(expression, "values")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let values = values.join(",");
        let shown = match text(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        parts.push((key.to_owned(), shown));
    }
    parts.sort();
    if parts.is_empty() {
        return "<none>".to_owned();
    }
    parts
        .into_iter()
        .map(|(_, shown)| shown)
        .collect::<Vec<_>>()
        .join(",")
}

/// At most `most` items, and how many more there are.
pub(super) fn some(items: &[String], most: usize, none: &str) -> String {
    if items.is_empty() {
        return none.to_owned();
    }
    let shown = items[..items.len().min(most)].join(",");
    if items.len() > most {
        format!("{shown} + {} more...", items.len() - most)
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations() {
        for (seconds, expect) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (3600, "60m"),
            (4 * 3600 + 600, "4h10m"),
            (30 * 3600, "30h"),
            (50 * 3600, "2d2h"),
            (400 * 86400, "400d"),
            (800 * 86400, "2y70d"),
            (4000 * 86400, "10y"),
        ] {
            assert_eq!(duration(seconds), expect, "{seconds}");
        }
    }

    fn check(path: &str, expect: Option<Value>) {
        let object = json!({
            "spec": { "email": "a@b" },
            "metadata": { "labels": { "a.b/c": "x" } },
            "status": { "conditions": [{ "type": "A", "status": "1" }, { "type": "Ready", "status": "2" }] },
        });
        assert_eq!(super::path(&object, path), expect.as_ref(), "{path}");
    }

    #[test]
    fn paths() {
        check(".spec.email", Some(json!("a@b")));
        check(".spec.missing", None);
        check(".metadata.labels.a\\.b/c", Some(json!("x")));
        check(".metadata.labels['a.b/c']", Some(json!("x")));
        check(".status.conditions[1].type", Some(json!("Ready")));
        check(
            ".status.conditions[?(@.type==\"Ready\")].status",
            Some(json!("2")),
        );
        check(".status.conditions[?(@.type==\"No\")].status", None);
        check(".status.conditions[", None);
        check("..", None);
    }

    #[test]
    fn selectors() {
        assert_eq!(selector(None), "<none>");
        assert_eq!(
            selector(Some(&json!({
                "matchLabels": { "b": "1", "a": "2" },
                "matchExpressions": [{ "key": "c", "operator": "In", "values": ["x", "y"] }],
            }))),
            "a=2,b=1,c in (x,y)"
        );
    }
}
