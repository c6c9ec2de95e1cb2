//! Which settings there are (`known.txt`), and how a spec measures up to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use object::diff;
use serde_json::{Map, Value};

use super::{cluster_configuration, reasons};
use crate::Finding;

static KNOWN: LazyLock<Known> = LazyLock::new(|| read(include_str!("known.txt")));

struct Known {
    tree: Node,
    /// Endings of top-level keys, with what their values are.
    endings: Vec<(&'static str, Kind)>,
    /// All paths that have an effect and the maps on the way to them, for suggestions.
    paths: BTreeSet<String>,
}

#[derive(Default)]
struct Node {
    leaf: Option<Kind>,
    children: BTreeMap<&'static str, Node>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Boolean,
    Integer,
    Text,
    Quantity,
    List,
    Texts,
    Map,
    Legacy,
    Ignored(&'static str),
    /// One of these, separated by `|`.
    Choice(&'static str),
}

fn read(table: &'static str) -> Known {
    let mut known = Known {
        tree: Node::default(),
        endings: Vec::new(),
        paths: BTreeSet::new(),
    };
    for line in table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (path, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        let (kind, explanation) = rest.split_once(' ').unwrap_or((rest, ""));
        let rows: &[(&'static str, Kind)] = match kind {
            "resources" => &[("requests", Kind::Map), ("limits", Kind::Map)],
            "scheduling" => &[
                ("nodeSelector", Kind::Map),
                ("tolerations", Kind::List),
                ("affinity", Kind::Map),
                ("nodeAffinity", Kind::Map),
            ],
            "boolean" => &[("", Kind::Boolean)],
            "integer" => &[("", Kind::Integer)],
            "text" | "secret" => &[("", Kind::Text)],
            "quantity" => &[("", Kind::Quantity)],
            "list" => &[("", Kind::List)],
            "texts" => &[("", Kind::Texts)],
            "map" => &[("", Kind::Map)],
            "legacy" => &[("", Kind::Legacy)],
            "ignored" => &[("", Kind::Ignored(explanation))],
            choice => &[("", Kind::Choice(choice))],
        };
        if let Some(ending) = path.strip_prefix('*') {
            known.endings.extend(rows.iter().map(|(_, kind)| (ending, *kind)));
            continue;
        }
        for (below, kind) in rows {
            let names = path.split('.').chain((!below.is_empty()).then_some(*below));
            let node = names.fold(&mut known.tree, |node, name| {
                node.children.entry(name).or_default()
            });
            node.leaf = Some(*kind);
            if !matches!(kind, Kind::Legacy | Kind::Ignored(_)) {
                let full = if below.is_empty() {
                    path.to_owned()
                } else {
                    format!("{path}.{below}")
                };
                known
                    .paths
                    .extend(full.match_indices('.').map(|(end, _)| full[..end].to_owned()));
                known.paths.insert(full);
            }
        }
    }
    known
}

impl Kind {
    fn expected(self) -> String {
        match self {
            Self::Boolean => "true or false".into(),
            Self::Integer => "a whole number, 0 or more".into(),
            Self::Text => "a text".into(),
            Self::Quantity => "a quantity such as 20Gi".into(),
            Self::List => "a list".into(),
            Self::Texts => "a list of texts".into(),
            Self::Map => "a map".into(),
            Self::Choice(choice) => format!("one of {}", choice.split('|').collect::<Vec<_>>().join(", ")),
            Self::Legacy | Self::Ignored(_) => "anything".into(),
        }
    }

    /// The value as what it should be, taken as leniently as the templates of the original installer took it:
    /// `"30880"` is a number, `"True"` a boolean, `9200` a text.
    fn take(self, value: &Value) -> Option<Value> {
        match (self, value) {
            (Self::Boolean, Value::String(text)) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => Some(true.into()),
                "false" | "no" | "off" => Some(false.into()),
                _ => None,
            },
            (Self::Integer, Value::String(text)) => text.trim().parse::<u64>().ok().map(Value::from),
            (Self::Text | Self::Quantity, Value::Number(number)) => Some(number.to_string().into()),
            (Self::Text, Value::Bool(boolean)) => Some(boolean.to_string().into()),
            (Self::Quantity, Value::String(text)) => {
                (text.is_empty() || object::quantity::is_quantity(text)).then(|| value.clone())
            }
            (Self::Texts, Value::Array(items)) => items
                .iter()
                .map(|item| Self::Text.take(item))
                .collect::<Option<Vec<_>>>()
                .map(Value::Array),
            (Self::Choice(choice), Value::String(text)) => {
                (text.is_empty() || choice.split('|').any(|c| c == text)).then(|| value.clone())
            }
            (Self::Boolean, Value::Bool(_))
            | (Self::Text, Value::String(_))
            | (Self::List, Value::Array(_))
            | (Self::Map, Value::Object(_))
            | (Self::Legacy | Self::Ignored(_), _) => Some(value.clone()),
            (Self::Integer, Value::Number(number)) if number.is_u64() => Some(value.clone()),
            _ => None,
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// What is seen on a walk through a spec.
trait Visit {
    fn unknown(&mut self, _path: &str, _value: &Value) {}
    fn ignored(&mut self, _path: &str, _explanation: &'static str) {}
    fn invalid(&mut self, _path: &str, _kind: Kind, _value: &Value) {}
}

/// Walks through a spec, and returns it with every known setting as what it should be; nulls and what is invalid
/// left out.
fn walk(path: &str, node: &Node, value: &Value, visit: &mut dyn Visit) -> Option<Value> {
    if value.is_null() {
        return None;
    }
    if let Some(kind) = node.leaf {
        if let Kind::Ignored(explanation) = kind {
            visit.ignored(path, explanation);
        }
        let taken = kind.take(value);
        if taken.is_none() {
            visit.invalid(path, kind, value);
        }
        return taken;
    }
    let Some(map) = value.as_object() else {
        visit.invalid(path, Kind::Map, value);
        return None;
    };
    let mut out = Map::new();
    for (name, value) in map {
        let path = diff::join(path, name);
        let taken = if let Some(child) = node.children.get(name.as_str()) {
            walk(&path, child, value, visit)
        } else if let Some(kind) = ending(&path) {
            walk(
                &path,
                &Node {
                    leaf: Some(kind),
                    ..Node::default()
                },
                value,
                visit,
            )
        } else {
            visit.unknown(&path, value);
            Some(value.clone())
        };
        if let Some(taken) = taken {
            out.insert(name.clone(), taken);
        }
    }
    Some(Value::Object(out))
}

fn ending(path: &str) -> Option<Kind> {
    let found = KNOWN
        .endings
        .iter()
        .find(|(ending, _)| path.ends_with(ending) && path.len() > ending.len());
    found
        .filter(|_| !path.contains(['.', '[']))
        .map(|(_, kind)| *kind)
}

/// The spec with every known setting as the type that it should have, or every setting that cannot be read so.
pub(super) fn typed(spec: &Value) -> Result<Value, Vec<Finding>> {
    #[derive(Default)]
    struct Invalid(Vec<Finding>);
    impl Visit for Invalid {
        fn invalid(&mut self, path: &str, kind: Kind, value: &Value) {
            let path = if path.is_empty() {
                "spec".to_owned()
            } else {
                shortened(path)
            };
            let (expected, found) = (kind.expected(), kind_of(value));
            let message = match kind {
                Kind::Quantity | Kind::Choice(_) if value.is_string() => format!("{path} is not {expected}"),
                _ => format!("{path} is {found}, not {expected}"),
            };
            self.0.push(
                Finding::blocker(reasons::INVALID_SETTING, message)
                    .on(cluster_configuration())
                    .hint(format!("correct {path} in the ClusterConfiguration")),
            );
        }
    }
    let mut invalid = Invalid::default();
    let spec = walk("", &KNOWN.tree, spec, &mut invalid).unwrap_or_else(|| Value::Object(Map::new()));
    if invalid.0.is_empty() {
        Ok(spec)
    } else {
        Err(invalid.0)
    }
}

/// How many unknown settings are told one by one.
const SHOWN: usize = 20;

/// Nobody's settings have names this long.
fn shortened(path: &str) -> String {
    const LONGEST: usize = 120;
    if path.chars().count() <= LONGEST {
        return path.to_owned();
    }
    path.chars().take(LONGEST).chain(['…']).collect()
}

/// Settings that have no effect, and settings that nobody knows.
pub(super) fn notes(spec: &Value) -> Vec<Finding> {
    #[derive(Default)]
    struct Notes {
        ignored: BTreeMap<&'static str, Vec<String>>,
        unknown: Vec<Finding>,
        /// Unknown ones beyond those.
        more: usize,
    }
    impl Visit for Notes {
        fn ignored(&mut self, path: &str, explanation: &'static str) {
            self.ignored.entry(explanation).or_default().push(path.to_owned());
        }

        fn unknown(&mut self, path: &str, value: &Value) {
            if self.unknown.len() == SHOWN {
                self.more += 1;
                return;
            }
            // What somebody wants installed must not be passed over in silence.
            let is_component = !path.contains('.')
                && Kind::Boolean.take(super::path::get(value, "enabled").unwrap_or(&Value::Null))
                    == Some(true.into());
            let path = shortened(path);
            let finding = if is_component {
                let message = format!("{path}.enabled is true, and {path} is no component of KubeSphere");
                Finding::blocker(reasons::UNKNOWN_COMPONENT, message)
            } else {
                let message = format!("{path} is no setting of KubeSphere: it stays, and has no effect");
                Finding::warning(reasons::UNKNOWN_SETTING, message)
            };
            let finding = finding.on(cluster_configuration());
            let path = path.as_str();
            self.unknown.push(match nearest(path) {
                Some(known) => finding.hint(format!("did you mean {known}?")),
                None if is_component => finding.hint(format!(
                    "remove {path} from the ClusterConfiguration, or set its enabled to false"
                )),
                None => finding,
            });
        }
    }
    let mut notes = Notes::default();
    walk("", &KNOWN.tree, spec, &mut notes);
    if notes.more > 0 {
        let message = format!("{} more are no settings of KubeSphere", notes.more);
        let finding = Finding::warning(reasons::UNKNOWN_SETTING, message);
        notes.unknown.push(finding.on(cluster_configuration()));
    }
    let ignored = notes.ignored.into_iter().map(|(explanation, paths)| {
        let verb = if paths.len() == 1 { "has" } else { "have" };
        let message = format!("{} {verb} no effect: {explanation}", paths.join(", "));
        Finding::info(reasons::IGNORED_SETTING, message).on(cluster_configuration())
    });
    notes.unknown.into_iter().chain(ignored).collect()
}

/// The known path that an unknown one was probably meant to be: the same one further down, or one that differs in a
/// few letters.
fn nearest(path: &str) -> Option<&'static str> {
    let misplaced = |known: &&String| known.strip_suffix(path).is_some_and(|above| above.ends_with('.'));
    if let Some(known) = KNOWN.paths.iter().find(misplaced) {
        return Some(known);
    }
    let last = path.rsplit('.').next().unwrap_or(path);
    let tolerated = (last.len() / 3).clamp(1, 3);
    let lower = path.to_ascii_lowercase();
    let close = KNOWN
        .paths
        .iter()
        .filter(|known| known.len().abs_diff(path.len()) <= tolerated);
    close
        .map(|known| {
            (
                strsim::osa_distance(&lower, &known.to_ascii_lowercase()),
                known.as_str(),
            )
        })
        .min()
        .filter(|(distance, _)| *distance <= tolerated)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_is_sound() {
        fn check(path: &str, node: &Node) {
            assert_eq!(
                node.leaf.is_some(),
                node.children.is_empty(),
                "{path} must be a value or a map"
            );
            for (name, child) in &node.children {
                check(&format!("{path}.{name}"), child);
            }
            let choice = match node.leaf {
                Some(Kind::Choice(choice)) => choice.contains('|'),
                Some(Kind::Ignored(explanation)) => explanation.contains(' '),
                _ => true,
            };
            assert!(choice, "{path}: unknown kind, or no explanation");
        }
        check("", &KNOWN.tree);
        assert!(KNOWN.paths.len() > 150);
    }

    /// A setting that a component reads and the table lacks would be reported as unknown.
    #[test]
    fn the_table_has_all_that_releases_read() {
        let releases = release::Releases::embedded().unwrap();
        let mut missing = Vec::new();
        for release in releases.iter() {
            let settings = release
                .components
                .iter()
                .flat_map(|component| component.settings.values());
            for path in settings
                .chain(release.settings.values())
                .flat_map(|setting| &setting.from)
            {
                let end = path
                    .split('.')
                    .try_fold(&KNOWN.tree, |node, name| match node.leaf {
                        Some(_) => Some(node),
                        None => node.children.get(name),
                    });
                if end.is_none() {
                    missing.push(format!("{}: {path}", release.version));
                }
            }
        }
        assert_eq!(missing, Vec::<String>::new());
    }

    #[track_caller]
    fn check_nearest(path: &str, expect: Option<&str>) {
        assert_eq!(nearest(path), expect, "{path}");
    }

    #[test]
    fn an_unknown_setting_is_compared_with_the_known_ones() {
        check_nearest("common.redis.volumSize", Some("common.redis.volumeSize"));
        check_nearest("common.redis.enableHa", Some("common.redis.enableHA"));
        check_nearest("Alerting", Some("alerting"));
        check_nearest("redis.volumeSize", Some("common.redis.volumeSize"));
        check_nearest("localRegistry", Some("local_registry"));
        check_nearest("acme", None);
    }

    #[test]
    fn values_are_taken_leniently() {
        let check = |spec: Value, expect: Value| assert_eq!(typed(&spec), Ok(expect));
        check(
            json!({"etcd": {"port": "2379", "monitoring": "True"}}),
            json!({"etcd": {"port": 2379, "monitoring": true}}),
        );
        check(
            json!({"common": {"es": {"externalElasticsearchPort": 9200, "master": null}, "redis": {"volumeSize": 5}}}),
            json!({"common": {"es": {"externalElasticsearchPort": "9200"}, "redis": {"volumeSize": "5"}}}),
        );
        check(
            json!({"ks_apiserver_tag": 3, "acme": {"x": [null]}}),
            json!({"ks_apiserver_tag": "3", "acme": {"x": [null]}}),
        );
        check(
            json!({"multicluster": {"clusterRole": ""}}),
            json!({"multicluster": {"clusterRole": ""}}),
        );
        check(Value::Null, json!({}));
    }

    #[test]
    fn every_setting_of_a_wrong_type_is_named() {
        let spec = json!({
            "alerting": true,
            "common": {"redis": {"volumeSize": "20GB"}, "es": {"logMaxAge": "week", "data": {"replicas": -1}}},
            "authentication": {"jwtSecret": ["hunter2"]},
            "edgeruntime": {"kubeedge": {"cloudCore": {"cloudHub": {"advertiseAddress": [{}]}}}},
            "multicluster": {"clusterRole": "boss"},
            "devops": {"jenkinsJavaOpts_Xmx": 5},
        });
        let messages: Vec<_> = typed(&spec)
            .unwrap_err()
            .into_iter()
            .map(|finding| finding.message)
            .collect();
        assert_eq!(
            messages,
            [
                "alerting is a boolean, not a map",
                "common.redis.volumeSize is not a quantity such as 20Gi",
                "common.es.logMaxAge is a text, not a whole number, 0 or more",
                "common.es.data.replicas is a number, not a whole number, 0 or more",
                "authentication.jwtSecret is a list, not a text",
                "edgeruntime.kubeedge.cloudCore.cloudHub.advertiseAddress is a list, not a list of texts",
                "multicluster.clusterRole is not one of host, member, none",
            ]
        );
        assert_eq!(
            typed(&json!([])).unwrap_err()[0].message,
            "spec is a list, not a map"
        );
    }
}
