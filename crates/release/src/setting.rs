//! [`Setting`]: what a component reads from the ClusterConfiguration.

use object::diff::names_a_secret;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::secret::Reference;

/// What a setting's value must be. Values are taken leniently, as the old templates took them: `"30880"` is an
/// integer, `"true"` a boolean, `9200` a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SettingType {
    Boolean,
    Integer,
    String,
    List,
    Map,
}

impl SettingType {
    fn describe(self) -> &'static str {
        match self {
            Self::Boolean => "true or false",
            Self::Integer => "a whole number, 0 or more",
            Self::String => "a text",
            Self::List => "a list",
            Self::Map => "a map",
        }
    }

    fn take(self, value: &Value) -> Option<Value> {
        match (self, value) {
            (Self::Boolean, Value::Bool(_))
            | (Self::String, Value::String(_))
            | (Self::List, Value::Array(_))
            | (Self::Map, Value::Object(_)) => Some(value.clone()),
            // Counts, days, ports: none of them is negative.
            (Self::Integer, Value::Number(n)) if n.is_u64() => Some(value.clone()),
            (Self::Integer, Value::String(text)) => text.trim().parse::<u64>().ok().map(Value::from),
            (Self::Boolean, Value::String(text)) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" => Some(true.into()),
                "false" | "no" => Some(false.into()),
                _ => None,
            },
            (Self::String, Value::Number(n)) => Some(n.to_string().into()),
            (Self::String, Value::Bool(b)) => Some(b.to_string().into()),
            _ => None,
        }
    }
}

/// One setting of a release or component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Setting {
    /// Paths inside the ClusterConfiguration's spec, e.g. `common.core.console.port`. The first that holds a value
    /// counts.
    #[serde(deserialize_with = "one_or_many")]
    pub from: Vec<String>,
    #[serde(rename = "type")]
    pub kind: SettingType,
    /// The value where the ClusterConfiguration has none; null where there is no default.
    #[serde(default)]
    pub default: Value,
    /// A map's missing leaves are taken from the default, leaf by leaf.
    #[serde(default)]
    pub fill: bool,
    /// An empty text counts as a value. Otherwise it is the same as no value.
    #[serde(default)]
    pub empty: bool,
    /// Rendered manifests hold a reference in place of the value ([`Reference::Setting`]); of a map or list, in place
    /// of the texts inside whose names say that they are secret.
    #[serde(default)]
    pub secret: bool,
    /// What it does, in a sentence.
    #[serde(default)]
    pub about: String,
}

/// Why a ClusterConfiguration cannot be read. Never holds the value, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.{path} is not {expected}")]
pub struct SettingError {
    pub path: String,
    pub expected: &'static str,
}

impl Setting {
    /// The setting's value in the spec of a ClusterConfiguration.
    pub fn read(&self, spec: &Value) -> Result<Value, SettingError> {
        for path in &self.from {
            let Some(found) = at(spec, path).filter(|v| !v.is_null()) else {
                continue;
            };
            if found.as_str() == Some("") && !self.empty {
                continue;
            }
            let Some(mut value) = self.kind.take(found) else {
                return Err(SettingError {
                    path: path.clone(),
                    expected: self.kind.describe(),
                });
            };
            if self.secret {
                refer(&mut value, path, true);
            }
            if self.fill {
                fill(&mut value, &self.default);
            }
            return Ok(value);
        }
        Ok(self.default.clone())
    }
}

/// The value at a dotted path; a list's item by its index.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        value => value.get(name),
    })
}

/// Puts references in place of secret texts. A name with a dot cannot stand in a path, so what it names stays.
fn refer(value: &mut Value, path: &str, is_secret: bool) {
    match value {
        Value::String(text) if is_secret && !text.is_empty() => {
            *text = Reference::setting(path).to_string();
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                refer(item, &format!("{path}.{index}"), false);
            }
        }
        Value::Object(map) => {
            for (name, item) in map.iter_mut().filter(|(name, _)| !name.contains(['.', '}'])) {
                refer(item, &format!("{path}.{name}"), names_a_secret(name));
            }
        }
        _ => {}
    }
}

fn fill(value: &mut Value, default: &Value) {
    let (Some(map), Some(defaults)) = (value.as_object_mut(), default.as_object()) else {
        return;
    };
    for (name, default) in defaults {
        match map.get_mut(name).filter(|v| !v.is_null()) {
            Some(value) => fill(value, default),
            None => {
                map.insert(name.clone(), default.clone());
            }
        }
    }
}

/// Values of all the settings given, by name; all problems, not only the first.
pub(crate) fn read_all<'a>(
    settings: impl Iterator<Item = (&'a String, &'a Setting)>,
    spec: &Value,
) -> Result<Map<String, Value>, Vec<SettingError>> {
    let mut values = Map::new();
    let mut problems = Vec::new();
    for (name, setting) in settings {
        match setting.read(spec) {
            Ok(value) => {
                values.insert(name.clone(), value);
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(values)
    } else {
        Err(problems)
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(path) => vec![path],
        OneOrMany::Many(paths) => paths,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(setting: Value, spec: Value, expect: Result<Value, &str>) {
        let setting: Setting = serde_json::from_value(setting).unwrap();
        assert_eq!(
            setting.read(&spec).map_err(|e| e.to_string()),
            expect.map_err(str::to_owned)
        );
    }

    #[test]
    fn the_first_path_that_holds_a_value_counts() {
        let setting = json!({"from":["a.b","c"],"type":"string","default":"d"});
        check(setting.clone(), json!({"a":{"b":"x"},"c":"y"}), Ok(json!("x")));
        check(setting.clone(), json!({"a":{"b":""},"c":"y"}), Ok(json!("y")));
        check(setting.clone(), json!({"a":{"b":null}}), Ok(json!("d")));
        check(setting, json!({"a":7}), Ok(json!("d")));
    }

    #[test]
    fn values_are_taken_as_the_old_templates_took_them() {
        let of = |kind: &str| json!({"from":"a","type":kind});
        check(of("integer"), json!({"a":"30880"}), Ok(json!(30880)));
        check(of("boolean"), json!({"a":"True"}), Ok(json!(true)));
        check(of("string"), json!({"a":9200}), Ok(json!("9200")));
        check(
            of("integer"),
            json!({"a":"many"}),
            Err("spec.a is not a whole number, 0 or more"),
        );
        check(of("integer"), json!({"a":0}), Ok(json!(0)));
        for negative in [json!(-1), json!("-1")] {
            check(
                of("integer"),
                json!({ "a": negative }),
                Err("spec.a is not a whole number, 0 or more"),
            );
        }
        check(of("list"), json!({"a":{}}), Err("spec.a is not a list"));
    }

    #[test]
    fn a_map_is_filled_leaf_by_leaf() {
        check(
            json!({"from":"r","type":"map","fill":true,"default":{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"20m"}}}),
            json!({"r":{"limits":{"memory":"2Gi"}}}),
            Ok(json!({"limits":{"memory":"2Gi","cpu":"1"},"requests":{"cpu":"20m"}})),
        );
    }

    #[test]
    fn a_secret_is_read_as_a_reference() {
        let setting = json!({"from":"a.password","type":"string","secret":true,"empty":true});
        check(
            setting.clone(),
            json!({"a":{"password":"hunter2"}}),
            Ok(json!("${setting:a.password}")),
        );
        check(setting.clone(), json!({"a":{"password":""}}), Ok(json!("")));
        check(setting, json!({}), Ok(Value::Null));
        check(
            json!({"from":"o","type":"map","secret":true}),
            json!({"o":{"accessTokenMaxAge":"2h","list":[{"name":"a","clientSecret":"hunter2","a.secret":"b"}]}}),
            Ok(json!({"accessTokenMaxAge":"2h",
                "list":[{"name":"a","clientSecret":"${setting:o.list.0.clientSecret}","a.secret":"b"}]})),
        );
    }
}
