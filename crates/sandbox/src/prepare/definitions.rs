//! Validation of CustomResourceDefinitions.
//!
//! The server looks at a definition in its internal form, and so do the paths in its messages: what all versions have alike
//! stands there once for all of them.

use serde_json::{Map, Value};

use super::names::{not_old_label, not_subdomain};
use crate::fields::validate::{self, Cause};
use crate::golang;
use crate::json::{list, list_at, text, text_at};
use crate::kinds::Resource;
use crate::status::{cause, invalid, required, unsupported};

const APPROVAL: &str = "api-approved.kubernetes.io";

/// Checks a definition by itself.
pub(super) fn check(resource: &Resource, new: &Value, causes: &mut Vec<Cause>) {
    let is_strict = text(new, "apiVersion").ends_with("/v1");
    if is_strict {
        check_versioned(new, is_strict, causes);
    } else {
        // The old version may say once what each version is to say.
        let mut converted = new.clone();
        crate::convert::to_stored(resource, &mut converted);
        check_versioned(&converted, is_strict, causes);
    }
}

fn check_versioned(new: &Value, is_strict: bool, causes: &mut Vec<Cause>) {
    let (plural, group) = (text_at(new, "/spec/names/plural"), text_at(new, "/spec/group"));
    let name = crate::json::name(new);
    // Once it exists, only its group being fixed is checked.
    let is_new = new.pointer("/metadata/resourceVersion").is_none();
    if is_new && name != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(invalid("metadata.name", &name.into(), why));
    }
    check_group(group, causes);
    match text_at(new, "/spec/scope") {
        "" => causes.push(required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        other => causes.push(unsupported("spec.scope", other, &["Cluster", "Namespaced"])),
    }
    let versions = list_at(new, "/spec/versions");
    let keeps_all = new.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true));
    let has_defaults = versions
        .iter()
        .any(|version| contains_default(schema_of(version)));
    for (index, version) in versions.iter().enumerate() {
        if !schema_of(version).is_object() && (is_strict || !keeps_all) {
            let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
            causes.push(required(&field, "schemas are required"));
        }
    }
    if keeps_all && has_defaults && is_strict {
        causes.push(invalid(
            "spec.preserveUnknownFields",
            &true.into(),
            "must be false in order to use defaults in the schema",
        ));
    }
    let shared_schema = is_shared(versions, "schema");
    let rules = Rules {
        is_structural: !keeps_all,
        knows_types: is_strict,
    };
    for (index, version) in versions.iter().enumerate() {
        let name = text(version, "name");
        let why = not_old_label(name);
        if !why.is_empty() {
            let field = format!("spec.versions[{index}].name");
            causes.push(invalid(&field, &name.into(), &why.join(",")));
        }
        if !shared_schema {
            let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
            check_schema(schema_of(version), &field, rules, causes);
        }
    }
    check_versions(new, causes);
    check_names(new.pointer("/spec/names").unwrap_or(&Value::Null), causes);
    if let Some(version) = versions.first().filter(|_| shared_schema) {
        check_schema(
            schema_of(version),
            "spec.validation.openAPIV3Schema",
            rules,
            causes,
        );
    }
    check_stored(new, causes);
    if is_new && is_strict {
        check_approval(new, group, causes);
        if keeps_all {
            causes.push(invalid(
                "spec.preserveUnknownFields",
                &true.into(),
                "cannot set to true, set x-preserve-unknown-fields to true in spec.versions[*].schema instead",
            ));
        }
    }
}

fn check_group(group: &str, causes: &mut Vec<Cause>) {
    let why = not_subdomain(group);
    if group.is_empty() {
        causes.push(required("spec.group", ""));
    } else if !why.is_empty() {
        causes.push(invalid("spec.group", &group.into(), &why.join(",")));
    } else if !group.contains('.') {
        let why = "should be a domain with at least one dot";
        causes.push(invalid("spec.group", &group.into(), why));
    }
}

fn check_names(names: &Value, causes: &mut Vec<Cause>) {
    let keys = ["plural", "singular", "kind", "listKind"];
    for key in keys {
        if text(names, key).is_empty() {
            causes.push(required(&format!("spec.names.{key}"), ""));
        }
    }
    for key in keys {
        let (name, field) = (text(names, key), format!("spec.names.{key}"));
        let mixed = matches!(key, "kind" | "listKind");
        let why = not_old_label(&if mixed {
            name.to_lowercase()
        } else {
            name.to_owned()
        });
        if name.is_empty() || why.is_empty() {
            continue;
        }
        let hint = if mixed {
            "may have mixed case, but should otherwise match: "
        } else {
            ""
        };
        causes.push(invalid(&field, &name.into(), &format!("{hint}{}", why.join(","))));
    }
    for key in ["shortNames", "categories"] {
        for (index, name) in list(names, key).iter().enumerate() {
            let why = not_old_label(name.as_str().unwrap_or_default());
            if !why.is_empty() {
                let field = format!("spec.names.{key}[{index}]");
                causes.push(invalid(&field, name, &why.join(",")));
            }
        }
    }
    let (kind, list_kind) = (text(names, "kind"), text(names, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        let why = "kind and listKind may not be the same";
        causes.push(invalid("spec.names.listKind", &list_kind.into(), why));
    }
}

fn check_versions(new: &Value, causes: &mut Vec<Cause>) {
    let versions = list_at(new, "/spec/versions");
    let mut refuse = |why: &str| {
        let shown = if new.pointer("/spec/versions").is_some() {
            let shown: Vec<_> = versions
                .iter()
                .map(|version| go_version(versions, version))
                .collect();
            format!("{{{}}}", shown.join(", "))
        } else {
            "(nil)".to_owned()
        };
        let message = format!("Invalid value: []apiextensions.CustomResourceDefinitionVersion{shown}: {why}");
        causes.push(cause("FieldValueInvalid", "spec.versions", message));
    };
    let mut names: Vec<_> = versions.iter().map(|version| text(version, "name")).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() != versions.len() {
        refuse("must contain unique version names");
    }
    if versions.iter().filter(|version| is_stored(version)).count() != 1 {
        refuse("must have exactly one version marked as storage version");
    }
}

fn is_stored(version: &Value) -> bool {
    version.get("storage") == Some(&Value::Bool(true))
}

fn check_stored(new: &Value, causes: &mut Vec<Cause>) {
    const FIELD: &str = "status.storedVersions";
    let stored = list_at(new, "/status/storedVersions");
    let versions = list_at(new, "/spec/versions");
    if stored.is_empty() {
        causes.push(cause(
            "FieldValueInvalid",
            FIELD,
            "Invalid value: []string(nil): must have at least one stored version",
        ));
    }
    for version in versions.iter().filter(|version| is_stored(version)) {
        let name = text(version, "name");
        if !stored.iter().any(|one| one == name) {
            let shown = go_version(versions, version);
            let message = format!("Invalid value: {shown}: must have the storage version {name}");
            causes.push(cause("FieldValueInvalid", FIELD, message));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| text(version, "name") == name) {
            let field = format!("{FIELD}[{index}]");
            causes.push(invalid(&field, name, "must appear in spec.versions"));
        }
    }
}

/// Groups of Kubernetes itself are extended by review only, or knowingly without.
fn check_approval(new: &Value, group: &str, causes: &mut Vec<Cause>) {
    let is_protected = ["k8s.io", "kubernetes.io"].iter().any(|domain| {
        group
            .strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    if !is_protected {
        return;
    }
    let field = format!("metadata.annotations[{APPROVAL}]");
    let given = new
        .pointer("/metadata/annotations")
        .map(|annotations| text(annotations, APPROVAL))
        .unwrap_or_default();
    if given.is_empty() {
        causes.push(required(
            &field,
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see \
             https://github.com/kubernetes/enhancements/pull/1111",
        ));
    } else if !given.starts_with("unapproved") && !given.contains("://") {
        let why = format!(
            "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason \
             starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111: value is {given:?}"
        );
        causes.push(invalid(&field, &given.into(), &why));
    }
}

/// Whether all versions have a field alike, so that the internal form has it once.
fn is_shared(versions: &[Value], key: &str) -> bool {
    versions
        .first()
        .is_some_and(|first| versions.iter().all(|version| version.get(key) == first.get(key)))
}

/// A version as Go prints its internal form.
fn go_version(versions: &[Value], version: &Value) -> String {
    let own = |key: &str| version.get(key).filter(|_| !is_shared(versions, key));
    let flag = |key: &str| version.get(key) == Some(&Value::Bool(true));
    let columns: Vec<_> = own("additionalPrinterColumns")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|column| {
            let part = |key: &str| golang::quote(text(column, key));
            format!(
                "apiextensions.CustomResourceColumnDefinition{{Name:{}, Type:{}, Format:{}, Description:{}, \
                 Priority:{}, JSONPath:{}}}",
                part("name"),
                part("type"),
                part("format"),
                part("description"),
                column.get("priority").and_then(Value::as_i64).unwrap_or(0),
                part("jsonPath")
            )
        })
        .collect();
    let columns = if columns.is_empty() {
        "(nil)".to_owned()
    } else {
        format!("{{{}}}", columns.join(", "))
    };
    format!(
        "apiextensions.CustomResourceDefinitionVersion{{Name:{}, Served:{}, Storage:{}, Deprecated:{}, \
         DeprecationWarning:{}, Schema:{}, Subresources:{}, \
         AdditionalPrinterColumns:[]apiextensions.CustomResourceColumnDefinition{columns}}}",
        golang::quote(text(version, "name")),
        flag("served"),
        flag("storage"),
        flag("deprecated"),
        golang::pointer("string", version.get("deprecationWarning")),
        golang::pointer("apiextensions.CustomResourceValidation", own("schema")),
        golang::pointer("apiextensions.CustomResourceSubresources", own("subresources"))
    )
}

fn schema_of(version: &Value) -> &Value {
    version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null)
}

/// The schemas that stand in a schema for parts of an object, each with what follows in its path.
fn parts(schema: &Value) -> Vec<(Level, String, &Value)> {
    let mut parts = Vec::new();
    if let Some(items @ Value::Object(_)) = schema.get("items") {
        parts.push((Level::Item, ".items".to_owned(), items));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        parts.push((Level::Field, format!(".properties[{name}]"), property));
    }
    if let Some(others @ Value::Object(_)) = schema.get("additionalProperties") {
        parts.push((Level::Field, ".additionalProperties".to_owned(), others));
    }
    parts
}

fn contains_default(schema: &Value) -> bool {
    schema.get("default").is_some()
        || parts(schema)
            .into_iter()
            .any(|(_, _, part)| contains_default(part))
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    /// Where unknown fields are pruned, the schema has to say what is known.
    is_structural: bool,
    /// The old version takes types that there are not.
    knows_types: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

fn check_schema(schema: &Value, path: &str, rules: Rules, causes: &mut Vec<Cause>) {
    let Some(fields) = schema.as_object() else { return };
    if is_set(fields, "nullable") {
        let why = "nullable cannot be true at the root";
        causes.push(crate::status::forbidden(&format!("{path}.nullable"), why));
    }
    let before = causes.len();
    check_types(schema, path, rules, causes);
    if rules.is_structural {
        check_structure(schema, Level::Root, path, causes);
    }
    // Only a schema that is sound can judge its defaults.
    if causes.len() == before {
        check_defaults(schema, path, causes);
    }
}

fn is_set(schema: &Map<String, Value>, key: &str) -> bool {
    schema.get(key) == Some(&Value::Bool(true))
}

fn check_types(schema: &Value, path: &str, rules: Rules, causes: &mut Vec<Cause>) {
    const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
    let kind = text(schema, "type");
    if rules.knows_types && !kind.is_empty() && !TYPES.contains(&kind) {
        causes.push(unsupported(&format!("{path}.type"), kind, TYPES));
    }
    if rules.is_structural && kind == "array" && schema.get("items").is_none() {
        causes.push(required(&format!("{path}.items"), "must be specified"));
    }
    for (_, step, part) in parts(schema) {
        check_types(part, &format!("{path}{step}"), rules, causes);
    }
}

/// A structural schema gives the type of everything that it names.
fn check_structure(schema: &Value, level: Level, path: &str, causes: &mut Vec<Cause>) {
    for (level, step, part) in parts(schema) {
        check_structure(part, level, &format!("{path}{step}"), causes);
    }
    let Some(fields) = schema.as_object() else { return };
    let (kind, field) = (text(schema, "type"), format!("{path}.type"));
    let is_embedded = is_set(fields, "x-kubernetes-embedded-resource");
    let is_open = is_set(fields, "x-kubernetes-int-or-string")
        || is_set(fields, "x-kubernetes-preserve-unknown-fields");
    if is_embedded && kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        causes.push(if kind.is_empty() {
            required(&field, why)
        } else {
            invalid(&field, &kind.into(), why)
        });
    } else if kind.is_empty() && !is_open {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Field => "must not be empty for specified object fields",
            Level::Item => "must not be empty for specified array items",
        };
        causes.push(required(&field, why));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        causes.push(invalid(&field, &kind.into(), "must be object at the root"));
    }
}

/// A default has to be what the schema takes.
fn check_defaults(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (_, step, part) in parts(schema) {
        check_defaults(part, &format!("{path}{step}"), causes);
    }
    let Some(default) = schema.get("default") else {
        return;
    };
    let path = format!("{path}.default");
    for mut found in validate::check(schema, default) {
        found.field = match found.field.as_str() {
            "<nil>" => path.clone(),
            inside => format!("{path}.{inside}"),
        };
        causes.push(found);
    }
}
