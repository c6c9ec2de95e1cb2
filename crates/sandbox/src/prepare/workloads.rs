//! Validation of what makes pods, and of what scales and guards them.

use serde_json::Value;

use super::names::{check_selector, refuse};
use super::pods::{self, check_keeps_running, check_template};
use super::rules::{check_choice, check_not_negative};
use super::schedule;
use crate::fields::validate::Cause;
use crate::golang;
use crate::json::{list, number_at, text, text_at};
use crate::kinds::Resource;
use crate::selector::Labels;
use crate::status::{cause, forbidden, invalid, required};

const NOTHING: &Value = &Value::Null;

fn at<'a>(value: &'a Value, key: &str) -> &'a Value {
    value.get(key).unwrap_or(NOTHING)
}

/// Checks an object of a kind that makes pods.
pub(super) fn check(resource: &Resource, new: &Value, causes: &mut Vec<Cause>) {
    let spec = at(new, "spec");
    let template = at(spec, "template");
    match resource.kind.as_str() {
        "Deployment" => check_deployment(spec, causes),
        "ReplicaSet" => {
            check_not_negative(spec, "replicas", "spec", causes);
            check_not_negative(spec, "minReadySeconds", "spec", causes);
            check_selected(spec, "deployment", causes);
            check_template(template, "spec.template", causes);
            check_keeps_running(template, "spec.template", "ReplicaSet", causes);
        }
        "DaemonSet" => check_daemon_set(spec, causes),
        "StatefulSet" => check_stateful_set(spec, causes),
        "Job" => check_job(spec, "spec", causes),
        _ => {}
    }
}

/// The selector must be there, select something, and select the pods of the template.
fn check_selected(spec: &Value, kind: &str, causes: &mut Vec<Cause>) {
    let selector = spec.get("selector").filter(|selector| !selector.is_null());
    match selector {
        None => causes.push(required("spec.selector", "")),
        Some(selector) => {
            check_selector("spec.selector", Some(selector), causes);
            check_not_empty(selector, kind, causes);
        }
    }
    if selector.is_none_or(|selector| !is_empty(selector)) {
        check_match(spec, causes);
    }
}

fn is_empty(selector: &Value) -> bool {
    let labels = at(selector, "matchLabels").as_object();
    labels.is_none_or(serde_json::Map::is_empty) && list(selector, "matchExpressions").is_empty()
}

fn check_not_empty(selector: &Value, kind: &str, causes: &mut Vec<Cause>) {
    if is_empty(selector) {
        let shown = golang::selector(selector);
        let message = format!("Invalid value: {shown}: empty selector is invalid for {kind}");
        causes.push(cause("FieldValueInvalid", "spec.selector", message));
    }
}

fn check_match(spec: &Value, causes: &mut Vec<Cause>) {
    let labels = spec.pointer("/template/metadata/labels");
    let matches = Labels::of(spec.get("selector")).is_some_and(|selector| selector.matches_labels(labels));
    if !matches {
        let shown = golang::map_of_strings(labels);
        causes.push(cause(
            "FieldValueInvalid",
            "spec.template.metadata.labels",
            format!("Invalid value: {shown}: `selector` does not match template `labels`"),
        ));
    }
}

fn check_deployment(spec: &Value, causes: &mut Vec<Cause>) {
    check_not_negative(spec, "replicas", "spec", causes);
    check_selected(spec, "deployment", causes);
    let template = at(spec, "template");
    check_template(template, "spec.template", causes);
    check_keeps_running(template, "spec.template", "ReplicaSet", causes);
    check_strategy(at(spec, "strategy"), causes);
    check_not_negative(spec, "minReadySeconds", "spec", causes);
    check_not_negative(spec, "revisionHistoryLimit", "spec", causes);
    check_not_negative(spec, "progressDeadlineSeconds", "spec", causes);
    let ready = number_at(spec, "/minReadySeconds").unwrap_or(0);
    if let Some(deadline) = number_at(spec, "/progressDeadlineSeconds").filter(|one| *one <= ready) {
        causes.push(invalid(
            "spec.progressDeadlineSeconds",
            &deadline.into(),
            "must be greater than minReadySeconds",
        ));
    }
}

fn check_strategy(strategy: &Value, causes: &mut Vec<Cause>) {
    let rolling = strategy.get("rollingUpdate").filter(|rolling| !rolling.is_null());
    match (text(strategy, "type"), rolling) {
        ("Recreate", Some(_)) => causes.push(forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        )),
        ("RollingUpdate", Some(rolling)) => check_rolling(rolling, "spec.strategy.rollingUpdate", causes),
        // Without a type there is its default.
        ("" | "Recreate" | "RollingUpdate", _) => {}
        (other, _) => {
            let shown = format!(
                "apps.DeploymentStrategy{{Type:{}, RollingUpdate:{}}}",
                golang::quote(other),
                golang::pointer("apps.RollingUpdateDeployment", rolling)
            );
            causes.push(unsupported_struct(
                "spec.strategy",
                &shown,
                &["Recreate", "RollingUpdate"],
            ));
        }
    }
}

fn unsupported_struct(field: &str, shown: &str, supported: &[&str]) -> Cause {
    let supported: Vec<_> = supported.iter().map(|one| golang::quote(one)).collect();
    let message = format!(
        "Unsupported value: {shown}: supported values: {}",
        supported.join(", ")
    );
    cause("FieldValueNotSupported", field, message)
}

fn check_rolling(rolling: &Value, path: &str, causes: &mut Vec<Cause>) {
    let (unavailable, surge) = (at(rolling, "maxUnavailable"), at(rolling, "maxSurge"));
    let field = format!("{path}.maxUnavailable");
    check_share(unavailable, &field, causes);
    check_share(surge, &format!("{path}.maxSurge"), causes);
    if share(unavailable) == 0 && share(surge) == 0 {
        let shown = golang::int_or_string(unavailable);
        let message = format!("Invalid value: {shown}: may not be 0 when `maxSurge` is 0");
        causes.push(cause("FieldValueInvalid", &field, message));
    }
    check_at_most_all(unavailable, &field, causes);
}

/// The number in a number or percentage.
fn share(value: &Value) -> i64 {
    match value {
        Value::String(text) => text.strip_suffix('%').unwrap_or(text).parse().unwrap_or(0),
        number => number.as_i64().unwrap_or(0),
    }
}

fn check_share(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    let why = match value {
        Value::String(text) => {
            let is_percent = text
                .strip_suffix('%')
                .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
            if is_percent {
                return;
            }
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex \
             used for validation is '[0-9]+%')"
        }
        number if number.as_i64().is_some_and(|number| number < 0) => {
            causes.push(invalid(field, number, "must be greater than or equal to 0"));
            return;
        }
        _ => return,
    };
    let shown = golang::int_or_string(value);
    causes.push(cause(
        "FieldValueInvalid",
        field,
        format!("Invalid value: {shown}: {why}"),
    ));
}

fn check_at_most_all(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    if value.as_str().is_some_and(|text| text.ends_with('%')) && share(value) > 100 {
        let shown = golang::int_or_string(value);
        let message = format!("Invalid value: {shown}: must not be greater than 100%");
        causes.push(cause("FieldValueInvalid", field, message));
    }
}

fn check_daemon_set(spec: &Value, causes: &mut Vec<Cause>) {
    let selector = spec.get("selector").filter(|selector| !selector.is_null());
    check_selector("spec.selector", selector, causes);
    check_match(spec, causes);
    if let Some(selector) = selector {
        check_not_empty(selector, "daemonset", causes);
    }
    let template = at(spec, "template");
    check_template(template, "spec.template", causes);
    check_keeps_running(template, "spec.template", "DaemonSet", causes);
    check_not_negative(spec, "minReadySeconds", "spec", causes);
    let strategy = at(spec, "updateStrategy");
    match text(strategy, "type") {
        "" | "OnDelete" | "RollingUpdate" => {}
        other => {
            let shown = format!(
                "apps.DaemonSetUpdateStrategy{{Type:{}, RollingUpdate:{}}}",
                golang::quote(other),
                golang::pointer("apps.RollingUpdateDaemonSet", strategy.get("rollingUpdate"))
            );
            causes.push(unsupported_struct(
                "spec.updateStrategy",
                &shown,
                &["RollingUpdate", "OnDelete"],
            ));
        }
    }
    check_not_negative(spec, "revisionHistoryLimit", "spec", causes);
}

/// Pods of a StatefulSet are checked when they are made, not with their template.
fn check_stateful_set(spec: &Value, causes: &mut Vec<Cause>) {
    let management = text(spec, "podManagementPolicy");
    if !matches!(management, "" | "OrderedReady" | "Parallel") {
        causes.push(invalid(
            "spec.podManagementPolicy",
            &management.into(),
            "must be 'OrderedReady' or 'Parallel'",
        ));
    }
    let strategy = at(spec, "updateStrategy");
    let rolling = strategy.get("rollingUpdate").filter(|rolling| !rolling.is_null());
    match (text(strategy, "type"), rolling) {
        ("OnDelete", Some(_)) => causes.push(forbidden(
            "spec.updateStrategy.rollingUpdate",
            "only allowed for updateStrategy 'RollingUpdate'",
        )),
        ("RollingUpdate", Some(rolling)) => {
            check_not_negative(rolling, "partition", "spec.updateStrategy.rollingUpdate", causes);
        }
        ("" | "OnDelete" | "RollingUpdate", _) => {}
        (other, _) => {
            let shown = format!(
                "Invalid value: apps.StatefulSetUpdateStrategy{{Type:{}, RollingUpdate:{}}}: must be 'RollingUpdate' \
                 or 'OnDelete'",
                golang::quote(other),
                golang::pointer("apps.RollingUpdateStatefulSetStrategy", rolling)
            );
            causes.push(cause("FieldValueInvalid", "spec.updateStrategy", shown));
        }
    }
    check_not_negative(spec, "replicas", "spec", causes);
    check_selected(spec, "statefulset", causes);
    let template = at(spec, "template");
    super::names::check_labels(
        "spec.template.labels",
        template.pointer("/metadata/labels"),
        causes,
    );
    check_keeps_running(template, "spec.template", "StatefulSet", causes);
}

fn check_job(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    ] {
        check_not_negative(spec, key, path, causes);
    }
    let template = at(spec, "template");
    check_template(template, &format!("{path}.template"), causes);
    if text_at(template, "/spec/restartPolicy") == "Always" {
        causes.push(required(
            &format!("{path}.template.spec.restartPolicy"),
            "valid values: \"OnFailure\", \"Never\"",
        ));
    }
}

/// Checks a CronJob.
pub(super) fn check_cron_job(new: &Value, causes: &mut Vec<Cause>) {
    let spec = at(new, "spec");
    match text(spec, "schedule") {
        "" => causes.push(required("spec.schedule", "")),
        schedule => {
            if let Some(why) = schedule::refusal(schedule) {
                causes.push(invalid("spec.schedule", &schedule.into(), &why));
            }
        }
    }
    check_not_negative(spec, "startingDeadlineSeconds", "spec", causes);
    check_choice(
        spec,
        "concurrencyPolicy",
        "spec",
        &["Allow", "Forbid", "Replace"],
        causes,
    );
    check_job(
        at(at(spec, "jobTemplate"), "spec"),
        "spec.jobTemplate.spec",
        causes,
    );
    check_not_negative(spec, "successfulJobsHistoryLimit", "spec", causes);
    check_not_negative(spec, "failedJobsHistoryLimit", "spec", causes);
    // Names of its jobs are its own and eleven characters.
    let is_new = new.pointer("/metadata/resourceVersion").is_none();
    let name = crate::json::name(new);
    if is_new && name.len() > 52 {
        refuse(
            "metadata.name",
            name,
            vec!["must be no more than 52 characters".to_owned()],
            causes,
        );
    }
}

/// Checks an autoscaler.
pub(super) fn check_autoscaler(new: &Value, causes: &mut Vec<Cause>) {
    let spec = at(new, "spec");
    let least = number_at(spec, "/minReplicas");
    let most = number_at(spec, "/maxReplicas").unwrap_or(0);
    // To scale to nothing is a feature that is off.
    if let Some(least) = least.filter(|least| *least < 1) {
        causes.push(invalid(
            "spec.minReplicas",
            &least.into(),
            "must be greater than or equal to 1",
        ));
    }
    if most < 1 {
        causes.push(invalid(
            "spec.maxReplicas",
            &most.into(),
            "must be greater than 0",
        ));
    }
    if least.is_some_and(|least| most < least) {
        causes.push(invalid(
            "spec.maxReplicas",
            &most.into(),
            "must be greater than or equal to `minReplicas`",
        ));
    }
    for key in ["kind", "name"] {
        if text(at(spec, "scaleTargetRef"), key).is_empty() {
            causes.push(required(&format!("spec.scaleTargetRef.{key}"), ""));
        }
    }
}

/// Checks a disruption budget.
pub(super) fn check_budget(new: &Value, causes: &mut Vec<Cause>) {
    let spec = at(new, "spec");
    let (least, most) = (at(spec, "minAvailable"), at(spec, "maxUnavailable"));
    if !least.is_null() && !most.is_null() {
        let shown = format!(
            "Invalid value: policy.PodDisruptionBudgetSpec{{MinAvailable:{}, Selector:{}, MaxUnavailable:{}}}: \
             minAvailable and maxUnavailable cannot be both set",
            golang::pointer("intstr.IntOrString", Some(least)),
            golang::pointer("v1.LabelSelector", spec.get("selector")),
            golang::pointer("intstr.IntOrString", Some(most))
        );
        causes.push(cause("FieldValueInvalid", "spec", shown));
    }
    for (value, field) in [(least, "spec.minAvailable"), (most, "spec.maxUnavailable")] {
        check_share(value, field, causes);
        check_at_most_all(value, field, causes);
    }
    check_selector("spec.selector", spec.get("selector"), causes);
}

/// Checks a pod.
pub(super) fn check_pod(new: &Value, causes: &mut Vec<Cause>) {
    pods::check_spec(at(new, "spec"), "spec", causes);
}
