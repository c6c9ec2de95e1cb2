//! The corpus as it is written down: files of named cases, each a list of requests.
//!
//! A step is `METHOD path`, or a map of that to its body and options:
//!
//! ```yaml
//! a name:
//! - POST cm: { metadata: { name: a }, data: { k: v } }
//! - { PATCH cm/a: { data: { k: w } }, type: apply, as: { user: ann, groups: [dev] } }
//! - { GET deploy/a: , until: { status: { readyReplicas: 1 } }, pick: [/status/replicas] }
//! ```
//!
//! The first word of a path may be short for a kind (see `short.tsv`) in the namespace of the case; a body then needs neither
//! `apiVersion` nor `kind`, nor a name where the path has one. `$use: NAME` in a map stands for the template of that name.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Error, files, read};

/// All cases.
#[derive(Debug, Clone)]
pub struct Corpus {
    /// By name: `file/name`.
    pub cases: Vec<Case>,
}

/// A sequence of requests.
#[derive(Debug, Clone)]
pub struct Case {
    /// The file without its ending, a slash, and the name that stands there.
    pub name: String,
    /// Whether it looks at more than its namespace, and goes before all others for that.
    pub alone: bool,
    pub(super) steps: Vec<Step>,
}

/// A request, and what is looked at in its answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Step {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    /// Ask again until the answer has this code, or this in its body.
    pub(super) until: Option<Value>,
    /// Look at these parts of the body alone.
    pub(super) pick: Vec<String>,
    /// Look at all but these parts of the body.
    pub(super) hide: Vec<String>,
}

impl Case {
    /// The namespace of the case: it follows from the name, so that it stays when others come and go.
    pub(super) fn namespace(&self) -> String {
        // FNV-1a, spelt in letters.
        let mut hash = self.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut name = String::from("case-");
        for _ in 0..8 {
            let letter = u8::try_from(hash % 26).unwrap_or_default();
            name.push(char::from(b'a' + letter));
            hash /= 26;
        }
        name
    }
}

impl Corpus {
    /// Reads the corpus in a folder.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or a case is not understood.
    pub fn read(folder: &Path) -> Result<Corpus, Error> {
        let templates = parse(&folder.join("templates.yaml"))?;
        let mut cases = Vec::new();
        for path in files(&folder.join("cases"), "yaml")? {
            let file = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            for (name, content) in parse(&path)? {
                let name = format!("{file}/{name}");
                let case =
                    read_case(&name, &content, &templates).map_err(|why| Error::Case { case: name, why })?;
                cases.push(case);
            }
        }
        Ok(Corpus { cases })
    }
}

fn parse(path: &Path) -> Result<Map<String, Value>, Error> {
    // `y` and `on` are words here, as in the YAML that clients send.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(&read(path)?, options).map_err(|error| Error::Syntax {
        path: path.to_owned(),
        why: error.to_string(),
    })
}

fn read_case(name: &str, content: &Value, templates: &Map<String, Value>) -> Result<Case, String> {
    let (alone, steps) = match content {
        Value::Object(map) => (map.get("alone") == Some(&json!(true)), map.get("steps")),
        other => (false, Some(other)),
    };
    let steps = steps.and_then(Value::as_array).ok_or("no list of steps")?;
    Ok(Case {
        name: name.to_owned(),
        alone,
        steps: steps
            .iter()
            .map(|step| read_step(step, templates))
            .collect::<Result<_, _>>()?,
    })
}

fn read_step(step: &Value, templates: &Map<String, Value>) -> Result<Step, String> {
    let map = match step {
        Value::String(request) => Map::from_iter([(request.clone(), Value::Null)]),
        Value::Object(map) => map.clone(),
        other => return Err(format!("not a step: {other}")),
    };
    let mut read = Step::default();
    let mut body = Value::Null;
    let (mut bare, mut content_type) = (false, None);
    for (key, value) in &map {
        let text = || {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("{key} is no text"))
        };
        let texts = || -> Result<Vec<String>, String> {
            serde_json::from_value(value.clone()).map_err(|error| format!("{key}: {error}"))
        };
        match key.as_str() {
            "until" => read.until = Some(fill(value, templates)?),
            "pick" => read.pick = texts()?,
            "hide" => read.hide = texts()?,
            "bare" => bare = true,
            "raw" => read.body = text()?,
            "type" => content_type = Some(media_type(&text()?)),
            "accept" => read.headers.push(("accept".into(), accept(&text()?))),
            "agent" => read.headers.push(("user-agent".into(), text()?)),
            "as" => {
                let user = value.get("user").and_then(Value::as_str).unwrap_or_default();
                read.headers.push(("impersonate-user".into(), user.into()));
                for group in value
                    .get("groups")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    let group = group.as_str().unwrap_or_default();
                    read.headers.push(("impersonate-group".into(), group.into()));
                }
            }
            request => {
                let (method, path) = request
                    .split_once(' ')
                    .ok_or_else(|| format!("not a request: {request}"))?;
                method.clone_into(&mut read.method);
                path.clone_into(&mut read.path);
                body = fill(value, templates)?;
            }
        }
    }
    if read.method.is_empty() {
        return Err(format!("no request in {step}"));
    }
    let short = Short::of(&read.path);
    if let Some(short) = &short {
        read.path.clone_from(&short.path);
    }
    let content_type = content_type.unwrap_or_else(|| {
        let default = match (read.method.as_str(), body.is_array()) {
            ("PATCH", true) => "json",
            ("PATCH", false) => "merge",
            _ => "plain",
        };
        media_type(default)
    });
    if !body.is_null() {
        let whole = matches!(read.method.as_str(), "POST" | "PUT") || content_type.contains("apply");
        if let (Some(short), true, false) = (&short, whole, bare) {
            short.complete(&mut body, &read.method);
        }
        read.body = body.to_string();
    }
    if !read.body.is_empty() {
        read.headers.push(("content-type".into(), content_type));
    }
    if !read.headers.iter().any(|(name, _)| name == "user-agent") {
        read.headers
            .push(("user-agent".into(), "conformance/1 (test)".into()));
    }
    if !read.headers.iter().any(|(name, _)| name == "accept") {
        read.headers.push(("accept".into(), "application/json".into()));
    }
    Ok(read)
}

fn media_type(short: &str) -> String {
    match short {
        "plain" => "application/json",
        "json" => "application/json-patch+json",
        "merge" => "application/merge-patch+json",
        "strategic" => "application/strategic-merge-patch+json",
        "apply" => "application/apply-patch+yaml",
        other => other,
    }
    .to_owned()
}

fn accept(short: &str) -> String {
    match short {
        "table" => "application/json;as=Table;v=v1;g=meta.k8s.io",
        "metadata" => "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        "metadata list" => "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        other => other,
    }
    .to_owned()
}

/// Puts templates in the place of their names; what else stands in such a map is merged over them.
fn fill(value: &Value, templates: &Map<String, Value>) -> Result<Value, String> {
    match value {
        Value::Object(map) => {
            let mut filled = Map::new();
            for (key, value) in map.iter().filter(|(key, _)| *key != "$use") {
                filled.insert(key.clone(), fill(value, templates)?);
            }
            let Some(name) = map.get("$use").and_then(Value::as_str) else {
                return Ok(Value::Object(filled));
            };
            let template = templates
                .get(name)
                .ok_or_else(|| format!("there is no template {name}"))?;
            let mut whole = fill(template, templates)?;
            merge(&mut whole, Value::Object(filled));
            Ok(whole)
        }
        Value::Array(items) => items.iter().map(|item| fill(item, templates)).collect(),
        other => Ok(other.clone()),
    }
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// A kind that has a short name, in a path.
#[derive(Debug)]
struct Short {
    api_version: String,
    kind: String,
    name: String,
    path: String,
}

impl Short {
    fn of(path: &str) -> Option<Short> {
        if path.starts_with('/') {
            return None;
        }
        let end = path.find(['/', '?']).unwrap_or(path.len());
        let (word, rest) = path.split_at(end);
        let line = include_str!("short.tsv").lines().find_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            match columns.as_slice() {
                [short, api_version, plural, kind, scope] if *short == word => {
                    Some((*api_version, *plural, *kind, *scope))
                }
                _ => None,
            }
        });
        let (api_version, plural, kind, scope) = line?;
        let root = if api_version.contains('/') { "apis" } else { "api" };
        let namespace = if scope == "n" { "/namespaces/$NS" } else { "" };
        let name = rest.strip_prefix('/').unwrap_or_default();
        let name = &name[..name.find(['/', '?']).unwrap_or(name.len())];
        Some(Short {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            path: format!("/{root}/{api_version}{namespace}/{plural}{rest}"),
        })
    }

    /// Adds what the path says already.
    fn complete(&self, body: &mut Value, method: &str) {
        let Some(map) = body.as_object_mut() else { return };
        map.entry("apiVersion")
            .or_insert_with(|| self.api_version.as_str().into());
        map.entry("kind").or_insert_with(|| self.kind.as_str().into());
        if method != "POST" && !self.name.is_empty() {
            let metadata = map.entry("metadata").or_insert_with(|| json!({}));
            if let Some(metadata) = metadata.as_object_mut() {
                metadata
                    .entry("name")
                    .or_insert_with(|| self.name.as_str().into());
            }
        }
    }
}
