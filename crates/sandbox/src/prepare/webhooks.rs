//! Validation of webhook configurations.

use serde_json::Value;

use super::names::{check_selector, not_old_label, not_subdomain, refuse};
use super::rules::{check_choice, check_port, duplicate};
use crate::fields::validate::Cause;
use crate::json::{list, number_at, text};
use crate::kinds::Resource;
use crate::status::{cause, invalid, required, unsupported};

/// Checks a configuration of webhooks. Version v1 is stricter than what came before.
pub(super) fn check(resource: &Resource, new: &Value, causes: &mut Vec<Cause>) {
    let is_strict = text(new, "apiVersion").ends_with("/v1");
    let mut names = std::collections::BTreeSet::new();
    for (index, hook) in list(new, "webhooks").iter().enumerate() {
        let path = format!("webhooks[{index}]");
        check_hook(hook, is_strict, &path, causes);
        if resource.kind.starts_with("Mutating") {
            check_choice(hook, "reinvocationPolicy", &path, &["IfNeeded", "Never"], causes);
        }
        check_client(
            hook.get("clientConfig").unwrap_or(&Value::Null),
            &format!("{path}.clientConfig"),
            causes,
        );
        check_versions(
            list(hook, "admissionReviewVersions"),
            &format!("{path}.admissionReviewVersions"),
            causes,
        );
        let name = text(hook, "name");
        if is_strict && !name.is_empty() && !names.insert(name) {
            causes.push(duplicate(&format!("{path}.name"), name));
        }
    }
}

fn check_hook(hook: &Value, is_strict: bool, path: &str, causes: &mut Vec<Cause>) {
    check_full_name(text(hook, "name"), &format!("{path}.name"), causes);
    for (index, rule) in list(hook, "rules").iter().enumerate() {
        check_rule(rule, &format!("{path}.rules[{index}]"), causes);
    }
    check_choice(hook, "failurePolicy", path, &["Fail", "Ignore"], causes);
    check_choice(hook, "matchPolicy", path, &["Equivalent", "Exact"], causes);
    let side_effects: &[&str] = if is_strict {
        &["None", "NoneOnDryRun"]
    } else {
        &["None", "NoneOnDryRun", "Some", "Unknown"]
    };
    if is_strict && text(hook, "sideEffects").is_empty() {
        causes.push(required(
            &format!("{path}.sideEffects"),
            "must specify one of None, NoneOnDryRun",
        ));
    }
    check_choice(hook, "sideEffects", path, side_effects, causes);
    if let Some(seconds) = number_at(hook, "/timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
        causes.push(invalid(
            &format!("{path}.timeoutSeconds"),
            &seconds.into(),
            "the timeout value must be between 1 and 30 seconds",
        ));
    }
    for key in ["namespaceSelector", "objectSelector"] {
        check_selector(&format!("{path}.{key}"), hook.get(key), causes);
    }
}

fn check_full_name(name: &str, field: &str, causes: &mut Vec<Cause>) {
    let why = not_subdomain(name);
    if name.is_empty() {
        causes.push(required(field, ""));
    } else if !why.is_empty() {
        causes.push(invalid(field, &name.into(), &why.join(",")));
    } else if name.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        causes.push(invalid(field, &name.into(), why));
    }
}

fn check_rule(rule: &Value, path: &str, causes: &mut Vec<Cause>) {
    const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (key, what) in [
        ("operations", "operations"),
        ("apiGroups", "API groups"),
        ("apiVersions", "API versions"),
        ("resources", ""),
    ] {
        let (items, field) = (list(rule, key), format!("{path}.{key}"));
        if items.is_empty() {
            causes.push(required(&field, ""));
        }
        if items.len() > 1 && !what.is_empty() && items.iter().any(|item| item == "*") {
            let shown = if key == "operations" {
                crate::golang::strings(items).replace("[]string", "[]admissionregistration.OperationType")
            } else {
                crate::golang::strings(items)
            };
            let why = format!("Invalid value: {shown}: if '*' is present, must not specify other {what}");
            causes.push(cause("FieldValueInvalid", &field, why));
        }
        for (index, item) in items.iter().filter_map(Value::as_str).enumerate() {
            let field = format!("{field}[{index}]");
            if key == "operations" && !OPERATIONS.contains(&item) {
                causes.push(unsupported(&field, item, OPERATIONS));
            } else if item.is_empty() && matches!(key, "apiVersions" | "resources") {
                causes.push(required(&field, ""));
            }
        }
    }
    check_choice(rule, "scope", path, &["*", "Cluster", "Namespaced"], causes);
}

fn check_client(client: &Value, path: &str, causes: &mut Vec<Cause>) {
    let given = |key: &str| client.get(key).filter(|value| !value.is_null());
    match (given("url"), given("service")) {
        (Some(url), None) => {
            check_url(url.as_str().unwrap_or_default(), &format!("{path}.url"), causes);
        }
        (None, Some(service)) => check_service(service, &format!("{path}.service"), causes),
        _ => causes.push(required(path, "exactly one of url or service is required")),
    }
}

/// Checks where a webhook is asked: over TLS, with nothing in the address that is not sent.
fn check_url(url: &str, field: &str, causes: &mut Vec<Cause>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (url, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
    let authority = rest
        .strip_prefix("//")
        .map_or("", |rest| rest.split('/').next().unwrap_or_default());
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut refuse = |wrong: bool, shown: &str, why: &str| {
        if wrong {
            causes.push(invalid(field, &shown.into(), why));
        }
    };
    refuse(
        scheme != "https",
        scheme,
        &format!("'https' is the only allowed URL scheme{FORM}"),
    );
    refuse(host.is_empty(), "", &format!("host must be specified{FORM}"));
    refuse(
        !user.is_empty(),
        user,
        "user information is not permitted in the URL",
    );
    refuse(
        !fragment.is_empty(),
        fragment,
        "fragments are not permitted in the URL",
    );
    refuse(
        !query.is_empty(),
        query,
        "query parameters are not permitted in the URL",
    );
}

fn check_service(service: &Value, path: &str, causes: &mut Vec<Cause>) {
    for key in ["name", "namespace"] {
        if text(service, key).is_empty() {
            let why = format!("service {key} is required");
            causes.push(required(&format!("{path}.{key}"), &why));
        }
    }
    if let Some(port) = number_at(service, "/port") {
        check_port(&format!("{path}.port"), port, causes);
    }
}

fn check_versions(versions: &[Value], field: &str, causes: &mut Vec<Cause>) {
    if versions.is_empty() {
        causes.push(required(field, "must specify one of v1, v1beta1"));
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, version) in versions.iter().filter_map(Value::as_str).enumerate() {
        let field = format!("{field}[{index}]");
        if !seen.insert(version) {
            causes.push(invalid(&field, &version.into(), "duplicate version"));
        }
        refuse(&field, version, not_old_label(version), causes);
    }
    if !seen.contains("v1") && !seen.contains("v1beta1") {
        let shown = crate::golang::strings(versions);
        let why = format!("Invalid value: {shown}: must include at least one of v1, v1beta1");
        causes.push(cause("FieldValueInvalid", field, why));
    }
}
