//! The options of a write, which stand in the query.

use crate::Verb;
use crate::api::request::Request;
use crate::fields::validate::Cause;
use crate::golang;
use crate::status::{Result, Status, cause, forbidden, invalid, required};

/// Checks the options of a write, and says whether it is a dry run.
pub(super) fn check(request: &Request, verb: Verb) -> Result<bool> {
    let mut causes = Vec::new();
    let manager = request.query.get("fieldManager").unwrap_or_default();
    match verb {
        Verb::Apply if manager.is_empty() => {
            causes.push(required("fieldManager", "is required for apply patch"));
        }
        Verb::Patch if request.query.get("force").is_some() => {
            causes.push(forbidden("force", "may not be specified for non-apply patch"));
        }
        _ => {}
    }
    check_manager(manager, &mut causes);
    let dry_runs: Vec<_> = request.query.all("dryRun").collect();
    let is_dry_run = !dry_runs.is_empty() && dry_runs.iter().all(|value| *value == "All");
    if !is_dry_run && !matches!(dry_runs.as_slice(), [] | [""]) {
        let given: Vec<_> = dry_runs.iter().map(|value| golang::quote(value)).collect();
        let message = format!(
            "Unsupported value: []string{{{}}}: supported values: \"All\"",
            given.join(", ")
        );
        causes.push(cause("FieldValueNotSupported", "dryRun", message));
    }
    if let Some(asked) = request.query.get("fieldValidation")
        && !matches!(asked, "" | "Ignore" | "Warn" | "Strict")
    {
        let message = format!(
            "Unsupported value: {}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
            golang::quote(asked)
        );
        causes.push(cause("FieldValueNotSupported", "fieldValidation", message));
    }
    if causes.is_empty() {
        return Ok(is_dry_run);
    }
    let kind = match verb {
        Verb::Create => "CreateOptions",
        Verb::Update => "UpdateOptions",
        Verb::Patch | Verb::Apply => "PatchOptions",
        Verb::Delete => "DeleteOptions",
    };
    Err(Status::invalid("meta.k8s.io", kind, "", &causes))
}

/// The name of a field manager is short and can be printed.
fn check_manager(manager: &str, causes: &mut Vec<Cause>) {
    const FIELD: &str = "fieldManager";
    const MOST: usize = 128;
    if manager.len() > MOST {
        let message = format!("Too long: must have at most {MOST} characters");
        causes.push(cause("FieldValueTooLong", FIELD, message));
    }
    for (place, character) in manager.char_indices() {
        if !golang::is_printed(character) {
            let why = format!(
                "invalid character U+{:04X} (at position {place})",
                u32::from(character)
            );
            causes.push(invalid(FIELD, &manager.into(), &why));
        }
    }
}
