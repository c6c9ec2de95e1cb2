//! Tables: objects as `kubectl get` prints them.

mod builtin;
mod cells;
mod format;

use serde_json::{Value, json};

use crate::api::Endpoint;
use crate::api::query::table_version;
use crate::api::request::Request;
use crate::json::{list, name, text, text_at};
use format::Moment;

/// The table of some objects.
pub(crate) fn of<'a>(
    endpoint: &Endpoint,
    objects: impl Iterator<Item = &'a Value>,
    now: jiff::Timestamp,
    request: &Request,
    metadata: &Value,
    with_columns: bool,
) -> Value {
    let include = request.query.get("includeObject").unwrap_or("Metadata");
    let printer = Printer::of(endpoint);
    let now = Moment(now);
    let api_version = endpoint.api_version();
    let table_version = table_version(request);
    let rows: Vec<_> = objects
        .map(|object| {
            let mut row = json!({ "cells": printer.cells(object, now) });
            if endpoint.resource.is("", "Pod") {
                match text_at(object, "/status/phase") {
                    "Succeeded" => {
                        row["conditions"] = completed("Succeeded", "The pod has completed successfully.");
                    }
                    "Failed" => row["conditions"] = completed("Failed", "The pod failed."),
                    _ => {}
                }
            }
            match include {
                "None" => row["object"] = Value::Null,
                "Object" => {
                    row["object"] = object.clone();
                    row["object"]["apiVersion"] = api_version.as_str().into();
                }
                _ => {
                    row["object"] = super::partial(object);
                    row["object"]["apiVersion"] = table_version.into();
                }
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": table_version,
        "metadata": metadata,
        "columnDefinitions": if with_columns { printer.columns() } else { json!([]) },
        "rows": rows,
    })
}

fn completed(reason: &str, message: &str) -> Value {
    json!([{ "type": "Completed", "status": "True", "reason": reason, "message": message }])
}

/// How a kind is printed.
enum Printer<'a> {
    Builtin(&'static builtin::Kind),
    /// The columns of a custom resource's version.
    Custom(&'a [Value]),
    /// A custom resource that names no columns.
    Aged,
    /// Every other kind: its name and when it was made.
    Plain,
}

impl Printer<'_> {
    fn of(endpoint: &Endpoint) -> Printer<'_> {
        let resource = &endpoint.resource;
        if resource.is_custom() {
            let columns = resource
                .version_spec(endpoint.version())
                .map(|version| list(version, "additionalPrinterColumns"))
                .unwrap_or_default();
            return if columns.is_empty() {
                Printer::Aged
            } else {
                Printer::Custom(columns)
            };
        }
        builtin::find(&resource.group, &resource.kind).map_or(Printer::Plain, Printer::Builtin)
    }

    fn columns(&self) -> Value {
        let name = column("Name", "string", "name", 0);
        match self {
            Printer::Builtin(kind) => kind.columns(),
            Printer::Custom(columns) => {
                let mut all = vec![name];
                all.extend(columns.iter().map(|custom| {
                    let path = text(custom, "jsonPath");
                    let mut entry = column(
                        text(custom, "name"),
                        text(custom, "type"),
                        text(custom, "format"),
                        custom.get("priority").and_then(Value::as_i64).unwrap_or(0),
                    );
                    entry["description"] = match text(custom, "description") {
                        "" => {
                            format!("Custom resource definition column (in JSONPath format): {path}").into()
                        }
                        given => given.into(),
                    };
                    entry
                }));
                all.into()
            }
            Printer::Aged => json!([name, column("Age", "date", "", 0)]),
            Printer::Plain => json!([name, column("Created At", "date", "", 0)]),
        }
    }

    fn cells(&self, object: &Value, now: Moment) -> Vec<Value> {
        let created = text_at(object, "/metadata/creationTimestamp");
        match self {
            Printer::Builtin(kind) => kind.cells(object, now),
            Printer::Custom(columns) => {
                let mut cells = vec![name(object).into()];
                cells.extend(columns.iter().map(|custom| custom_cell(custom, object, now)));
                cells
            }
            Printer::Aged => vec![name(object).into(), now.since(created).into()],
            Printer::Plain => vec![name(object).into(), created.into()],
        }
    }
}

fn column(name: &str, kind: &str, format: &str, priority: i64) -> Value {
    json!({ "name": name, "type": kind, "format": format, "description": "", "priority": priority })
}

fn custom_cell(column: &Value, object: &Value, now: Moment) -> Value {
    let Some(value) = format::path(object, text(column, "jsonPath")) else {
        return Value::Null;
    };
    match text(column, "type") {
        "string" => match value {
            Value::String(text) => text.as_str().into(),
            Value::Null => Value::Null,
            other => other.to_string().into(),
        },
        "integer" => value
            .as_i64()
            .or_else(|| {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the server cuts fractions off as well"
                )]
                value.as_f64().map(|number| number as i64)
            })
            .map_or(Value::Null, Value::from),
        "number" => value.as_f64().map_or(Value::Null, Value::from),
        "boolean" => value.as_bool().map_or(Value::Null, Value::from),
        "date" => value.as_str().map_or(Value::Null, |time| now.since(time).into()),
        _ => Value::Null,
    }
}
