//! The compact type file of the sandbox (`crates/sandbox/data/types-1.20.json`), made from a Kubernetes source tree.
//!
//! The published swagger knows types, list and map markers and patch keys. It does not know what the Go types decide:
//! whether an absent field is written as zero (`status: {}`, `creationTimestamp: null`), and which key of a list item
//! has a default. Those come from the struct tags of `types.go`.
//!
//! ```text
//! {"kinds": {"apps/v1/Deployment": "io.k8s.api.apps.v1.Deployment"},
//!  "types": {"io.k8s.api.apps.v1.Deployment": {"f": {FIELD: {…}, …}}}}
//!
//! s  scalar: string integer number boolean byte int-or-string time micro-time quantity
//! r  reference to another type     l  list of …     m  map of …     a  anything
//! f  fields in the order of the Go struct          mt atomic map or struct
//! lt list type, lk its keys        ps patch strategy, pk patch merge key
//! z  written even when empty (no omitempty)        v  a value, not a pointer        d  default
//! rq fields that must be there
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const CORE: &str = "io.k8s.api.core.v1";

/// One field of a Go struct, as its JSON form sees it.
#[derive(Debug, Clone, PartialEq)]
struct GoField {
    json: String,
    omit_empty: bool,
    pointer: bool,
    default: Option<Value>,
    /// The type's name, where the fields of that struct stand in place of this field.
    inline: Option<String>,
}

/// The structs of one Go package by name.
type GoPackage = BTreeMap<String, Vec<GoField>>;

/// The Go sources of the packages whose types the API serves, by the prefix of their definitions' names
/// (`io.k8s.api.core.v1`), from an unpacked Kubernetes source tree.
pub fn go_sources(tree: &Path) -> Result<BTreeMap<String, String>> {
    let staging = tree.join("staging/src/k8s.io");
    let mut packages: BTreeMap<String, std::path::PathBuf> = BTreeMap::new();
    for group in fs::read_dir(staging.join("api")).context("reading the API packages")? {
        let group = group?;
        if !group.file_type()?.is_dir() {
            continue;
        }
        for version in fs::read_dir(group.path())? {
            let version = version?;
            let name = format!(
                "io.k8s.api.{}.{}",
                group.file_name().to_string_lossy(),
                version.file_name().to_string_lossy()
            );
            packages.insert(name, version.path());
        }
    }
    packages.insert(META.into(), staging.join("apimachinery/pkg/apis/meta/v1"));
    for version in ["v1", "v1beta1"] {
        packages.insert(
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}"),
            staging
                .join("apiextensions-apiserver/pkg/apis/apiextensions")
                .join(version),
        );
        packages.insert(
            format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}"),
            staging
                .join("kube-aggregator/pkg/apis/apiregistration")
                .join(version),
        );
    }
    let mut sources = BTreeMap::new();
    for (name, folder) in packages {
        let mut text = String::new();
        for file in ["types.go", "types_jsonschema.go"] {
            if let Ok(source) = fs::read_to_string(folder.join(file)) {
                text.push_str(&source);
            }
        }
        if !text.is_empty() {
            sources.insert(name, text);
        }
    }
    Ok(sources)
}

/// Makes the compact type file from the swagger document and the Go sources of the same tree.
pub fn compact_schema(swagger: &Value, sources: &BTreeMap<String, String>) -> Value {
    let packages: BTreeMap<&str, GoPackage> = sources
        .iter()
        .map(|(name, source)| (name.as_str(), go_structs(source)))
        .collect();
    let empty = Map::new();
    let definitions = swagger["definitions"].as_object().unwrap_or(&empty);

    let mut kinds = BTreeMap::new();
    let mut pending = BTreeSet::new();
    for (name, definition) in definitions {
        let has_metadata = definition["properties"]["metadata"]["$ref"]
            .as_str()
            .is_some_and(|reference| reference.ends_with(".ObjectMeta"));
        if !has_metadata {
            continue;
        }
        for kind in definition["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let text = |key: &str| kind[key].as_str().unwrap_or_default().to_owned();
            let (group, version, kind) = (text("group"), text("version"), text("kind"));
            let api_version = if group.is_empty() {
                version
            } else {
                format!("{group}/{version}")
            };
            kinds.insert(format!("{api_version}/{kind}"), name.clone());
            pending.insert(name.clone());
        }
    }

    let mut types = BTreeMap::new();
    while let Some(name) = pending.pop_first() {
        let Some(definition) = definitions.get(&name) else {
            continue;
        };
        let compact = compact_definition(&name, definition, definitions, &packages);
        collect_references(&compact, &mut |reference| {
            if !types.contains_key(reference) && reference != name {
                pending.insert(reference.to_owned());
            }
        });
        types.insert(name, compact);
    }
    json!({"kinds": kinds, "types": types})
}

/// The text of the type file: one type a line, so that a change shows as one.
pub fn render(compact: &Value) -> String {
    let mut out = String::from("{\"kinds\":{");
    let section = |name: &str, out: &mut String| {
        for (index, (key, value)) in compact[name].as_object().into_iter().flatten().enumerate() {
            out.push_str(if index == 0 { "\n" } else { ",\n" });
            out.push_str(&Value::from(key.as_str()).to_string());
            out.push(':');
            out.push_str(&value.to_string());
        }
    };
    section("kinds", &mut out);
    out.push_str("\n},\"types\":{");
    section("types", &mut out);
    out.push_str("\n}}\n");
    out
}

fn compact_definition(
    name: &str,
    definition: &Value,
    definitions: &Map<String, Value>,
    packages: &BTreeMap<&str, GoPackage>,
) -> Value {
    let Some(properties) = definition["properties"].as_object() else {
        return compact_type(definition, definitions);
    };
    let (package, short) = name.rsplit_once('.').unwrap_or(("", name));
    let mut order = Vec::new();
    flatten(package, short, packages, &mut order);
    let mut fields = Map::new();
    for go in &order {
        if let Some(property) = properties.get(&go.json) {
            fields.insert(go.json.clone(), compact_field(property, Some(go), definitions));
        }
    }
    for (key, property) in properties {
        if !fields.contains_key(key) {
            fields.insert(key.clone(), compact_field(property, None, definitions));
        }
    }
    let mut compact = Map::new();
    compact.insert("f".into(), fields.into());
    if let Some(required) = definition.get("required") {
        compact.insert("rq".into(), required.clone());
    }
    if definition["x-kubernetes-map-type"] == "atomic" {
        compact.insert("mt".into(), "atomic".into());
    }
    compact.into()
}

fn compact_field(property: &Value, go: Option<&GoField>, definitions: &Map<String, Value>) -> Value {
    let mut compact = compact_type(property, definitions);
    let Some(fields) = compact.as_object_mut() else {
        return compact;
    };
    for (from, to) in [
        ("x-kubernetes-list-type", "lt"),
        ("x-kubernetes-list-map-keys", "lk"),
        ("x-kubernetes-map-type", "mt"),
        ("x-kubernetes-patch-strategy", "ps"),
        ("x-kubernetes-patch-merge-key", "pk"),
    ] {
        if let Some(value) = property.get(from) {
            fields.insert(to.into(), value.clone());
        }
    }
    if let Some(go) = go {
        if !go.omit_empty {
            fields.insert("z".into(), true.into());
        }
        if !go.pointer {
            fields.insert("v".into(), true.into());
        }
        let zero = || match fields.get("s").and_then(Value::as_str) {
            _ if go.omit_empty || go.pointer => None,
            Some("string") => Some(json!("")),
            Some("integer" | "number") => Some(json!(0)),
            Some("boolean") => Some(json!(false)),
            _ => None,
        };
        if let Some(default) = go.default.clone().or_else(zero) {
            fields.insert("d".into(), default);
        }
    }
    compact
}

fn compact_type(schema: &Value, definitions: &Map<String, Value>) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.trim_start_matches("#/definitions/");
        let short = name.rsplit('.').next().unwrap_or(name);
        let scalar = match short {
            "Quantity" => Some("quantity"),
            "Time" => Some("time"),
            "MicroTime" => Some("micro-time"),
            "IntOrString" => Some("int-or-string"),
            _ => None,
        };
        if let Some(scalar) = scalar {
            return json!({"s": scalar});
        }
        // Types that write their own JSON and are opaque to merging.
        let opaque = name.ends_with(".runtime.RawExtension")
            || definitions
                .get(name)
                .is_some_and(|d| d.get("type").is_none() && d.get("properties").is_none());
        if opaque {
            return json!({"a": short});
        }
        return json!({"r": name});
    }
    match schema["type"].as_str() {
        Some("array") => json!({"l": compact_type(&schema["items"], definitions)}),
        Some("object") => {
            let element = &schema["additionalProperties"];
            if element.is_object() {
                json!({"m": compact_type(element, definitions)})
            } else {
                json!({"m": {"a": "any"}})
            }
        }
        Some("string") if schema["format"] == "byte" => json!({"s": "byte"}),
        Some(scalar) => json!({"s": scalar}),
        None => json!({"a": "any"}),
    }
}

fn collect_references(compact: &Value, found: &mut impl FnMut(&str)) {
    match compact {
        Value::Object(fields) => {
            if let Some(Value::String(name)) = fields.get("r") {
                found(name);
            }
            for value in fields.values() {
                collect_references(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

fn flatten(package: &str, name: &str, packages: &BTreeMap<&str, GoPackage>, out: &mut Vec<GoField>) {
    let found = [package, META, CORE]
        .into_iter()
        .find_map(|package| packages.get(package)?.get(name).map(|fields| (package, fields)));
    let Some((package, fields)) = found else { return };
    for field in fields {
        match &field.inline {
            Some(inner) => flatten(package, inner, packages, out),
            None => out.push(field.clone()),
        }
    }
}

/// The structs of a Go source and the JSON tags of their fields.
fn go_structs(source: &str) -> GoPackage {
    let mut structs = GoPackage::new();
    let mut current: Option<(String, Vec<GoField>)> = None;
    let mut default = None;
    for line in source.lines() {
        let trimmed = line.trim();
        if let Some((name, fields)) = &mut current {
            if line == "}" {
                structs.insert(std::mem::take(name), std::mem::take(fields));
                current = None;
            } else if let Some(value) = trimmed.strip_prefix("// +default=") {
                default = serde_json::from_str(value).ok();
            } else if let Some(field) = go_field(trimmed, default.clone()) {
                fields.push(field);
                default = None;
            }
        } else if let Some(rest) = line.strip_prefix("type ")
            && let Some(name) = rest.strip_suffix(" struct {")
        {
            current = Some((name.to_owned(), Vec::new()));
        }
    }
    structs
}

fn go_field(line: &str, default: Option<Value>) -> Option<GoField> {
    if line.starts_with("//") {
        return None;
    }
    let (declaration, tags) = line.split_once('`')?;
    let tag = tags.split_once("json:\"")?.1.split_once('"')?.0;
    if tag == "-" {
        return None;
    }
    let mut words = declaration.split_whitespace();
    let first = words.next()?;
    let kind = words.next().unwrap_or(first);
    let mut options = tag.split(',');
    let json = options.next().unwrap_or_default();
    let options: Vec<&str> = options.collect();
    let inline = options.contains(&"inline");
    Some(GoField {
        json: if json.is_empty() {
            first.to_owned()
        } else {
            json.to_owned()
        },
        omit_empty: options.contains(&"omitempty"),
        pointer: kind.starts_with('*'),
        default,
        inline: inline.then(|| kind.rsplit('.').next().unwrap_or(kind).to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_tags_decide_what_is_written_when_empty() {
        let source = "\
package v1

type Port struct {
\t// Number of the port.
\tPort int32 `json:\"port\" protobuf:\"varint,1,opt,name=port\"`
\t// +optional
\t// +default=\"TCP\"
\tProtocol Protocol `json:\"protocol,omitempty\" protobuf:\"bytes,2,opt,name=protocol\"`
}

type Outer struct {
\tPort `json:\",inline\"`
\tReplicas *int32 `json:\"replicas,omitempty\"`
\tHidden string `json:\"-\"`
}
";
        let swagger = json!({"definitions": {
            "io.k8s.api.x.v1.Outer": {
                "type": "object",
                "properties": {
                    "metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
                    "port": {"type": "integer"},
                    "protocol": {"type": "string"},
                    "replicas": {"type": "integer"}
                },
                "x-kubernetes-group-version-kind": [{"group": "x.io", "version": "v1", "kind": "Outer"}]
            }
        }});
        let sources = BTreeMap::from([("io.k8s.api.x.v1".to_owned(), source.to_owned())]);
        let compact = compact_schema(&swagger, &sources);
        assert_eq!(
            compact["kinds"],
            json!({"x.io/v1/Outer": "io.k8s.api.x.v1.Outer"})
        );
        assert_eq!(
            compact["types"]["io.k8s.api.x.v1.Outer"]["f"],
            json!({
                "port": {"s": "integer", "z": true, "v": true, "d": 0},
                "protocol": {"s": "string", "v": true, "d": "TCP"},
                "replicas": {"s": "integer"},
                "metadata": {"r": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
            })
        );
    }
}
