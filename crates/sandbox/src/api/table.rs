//! Tables: objects as `kubectl get` prints them.

use serde_json::{Value, json};

use crate::api::Endpoint;
use crate::api::request::Request;
use crate::json::name;

/// The table of some objects.
pub(crate) fn of<'a>(
    endpoint: &Endpoint,
    objects: impl Iterator<Item = &'a Value>,
    request: &Request,
    metadata: &Value,
    with_columns: bool,
) -> Value {
    let _ = endpoint;
    let include = request.query.get("includeObject").unwrap_or("Metadata");
    let rows: Vec<_> = objects
        .map(|object| {
            let mut row = json!({
                "cells": [name(object), crate::json::text_at(object, "/metadata/creationTimestamp")],
            });
            match include {
                "None" => {}
                "Object" => row["object"] = object.clone(),
                _ => row["object"] = super::partial(object),
            }
            row
        })
        .collect();
    let columns = if with_columns {
        json!([
            { "name": "Name", "type": "string", "format": "name", "description": "", "priority": 0 },
            { "name": "Created At", "type": "date", "format": "", "description": "", "priority": 0 },
        ])
    } else {
        json!([])
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}
