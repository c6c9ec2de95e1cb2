//! Whether an upgrade came out as it should. A blocker here means that it did not.

mod access;
#[cfg(test)]
mod tests;

use ::access::{Catalog, MigrateOptions, Policy};
use object::{Object, ObjectKey};
use release::Version;

use crate::{
    Finding, Snapshot, health,
    preflight::{
        Backend, LooseVersion, kubectl, some_of, sort,
        webhooks::{Webhook, webhooks},
    },
    reasons,
    settings::cluster_configuration,
};

/// What should be there now, and what was there before.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The version that should be reached.
    pub target: &'a Version,
    /// Workloads that must have rolled out.
    pub workloads: &'a [ObjectKey],
    /// CustomResourceDefinitions that must be established.
    pub definitions: &'a [ObjectKey],
    /// Services behind the release's webhooks.
    pub webhook_services: &'a [ObjectKey],
    /// The new release's roles.
    pub catalog: &'a Catalog,
    pub policy: &'a Policy,
    /// How custom roles were to be migrated.
    pub migration: MigrateOptions,
    /// The state before, with the roles of the release that it was at. Without it nothing is compared.
    pub before: Option<(&'a Snapshot, &'a Catalog)>,
}

/// Runs every check. Sorted: blockers first, then by object.
pub fn verify(after: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(check_version(after, context));
    findings.extend(check_workloads(after, context));
    findings.extend(check_pods_left_behind(after, context));
    findings.extend(check_definitions(after, context));
    findings.extend(check_webhooks(after, context));
    findings.extend(access::check_bindings(after, context));
    findings.extend(access::check_roles(after, context));
    if let Some((before, catalog)) = context.before {
        findings.extend(access::check_users_kept(before, after));
        findings.extend(access::check_roles_kept(before, catalog, after, context));
        findings.extend(access::check_bindings_kept(before, after, context.policy));
        findings.extend(access::check_access_as_announced(before, catalog, after, context));
    }
    sort(&mut findings);
    findings
}

fn check_version(after: &Snapshot, context: &Context<'_>) -> Option<Finding> {
    let key = cluster_configuration();
    let target = context.target;
    let written = after
        .get(&key)
        .and_then(|c| c.get_str("/status/core/version"))
        .unwrap_or_default();
    let reached = LooseVersion::parse(written).is_some_and(|v| v.base == *target && !v.is_pre_release());
    (!reached).then(|| {
        let says = if written.is_empty() {
            "no version".to_owned()
        } else {
            written.to_owned()
        };
        Finding::blocker(
            reasons::VERSION_NOT_REACHED,
            format!("its status says {says} and should say {target}: the upgrade did not get to its end"),
        )
        .on(key)
        .hint("run it again: it goes on where it stopped")
    })
}

fn check_workloads(after: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    context
        .workloads
        .iter()
        .filter_map(|key| {
            let Some(workload) = after.get(key) else {
                return Some(
                    Finding::blocker(reasons::COMPONENT_MISSING, "it should run and does not exist")
                        .on(key.clone())
                        .hint("run it again"),
                );
            };
            let rollout = health::rollout(workload);
            let mut what: Vec<String> = vec![rollout.message()?.to_owned()];
            what.extend(health::trouble_of(workload, after.of_kind("", "Pod")));
            Some(
                Finding::blocker(
                    reasons::ROLLOUT_INCOMPLETE,
                    format!("its rollout is not complete: {}", some_of(&what)),
                )
                .on(key.clone())
                .hint(format!("look with: {}", kubectl("describe", key))),
            )
        })
        .collect()
}

/// Pods that somebody has to delete, since nobody else does.
fn check_pods_left_behind(after: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let left = context.workloads.iter().filter_map(|key| {
        let workload = after.get(key)?;
        let pods = health::pods_left_behind(workload);
        (pods > 0)
            .then(|| pods_keep_old_template(workload, &format!("{} as it was before", count(pods, "pod"))))
    });
    left.collect()
}

fn count(pods: i64, what: &str) -> String {
    match pods {
        1 => format!("1 {what} runs"),
        n => format!("{n} {what}s run"),
    }
}

/// That pods of a workload go on as they are.
pub(crate) fn pods_keep_old_template(workload: &Object, what: &str) -> Finding {
    let labels = workload.get("/spec/selector/matchLabels");
    let labels = labels
        .and_then(serde_json::Value::as_object)
        .into_iter()
        .flatten();
    let selector: Vec<String> = labels
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)))
        .collect();
    Finding::warning(
        reasons::PODS_KEEP_OLD_TEMPLATE,
        format!("{what}: its update strategy is OnDelete, so each goes on until somebody deletes it"),
    )
    .on(workload.key())
    .hint(format!(
        "delete them one after another, each when the one before is ready and its data is whole again: kubectl -n {} get pods -l {}",
        workload.namespace().unwrap_or_default(),
        selector.join(",")
    ))
}

fn check_definitions(after: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    context
        .definitions
        .iter()
        .filter_map(|key| {
            let message = match after.get(key) {
                None => "it does not exist".to_owned(),
                Some(definition) => health::crd_established(definition).message()?.to_owned(),
            };
            Some(
                Finding::blocker(
                    reasons::DEFINITION_NOT_ESTABLISHED,
                    format!("its resource is not served: {message}"),
                )
                .on(key.clone())
                .hint(format!("look with: {}", kubectl("describe", key))),
            )
        })
        .collect()
}

fn check_webhooks(after: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let is_ours = |webhook: &Webhook<'_>| {
        let (namespace, name) = webhook.service();
        let service = ObjectKey::namespaced("", "Service", namespace, name);
        context.webhook_services.contains(&service)
    };
    webhooks(after)
        .filter(is_ours)
        .filter_map(|webhook| {
            let Backend::Gone(why) = webhook.backend(after) else {
                return None;
            };
            Some(
                Finding::blocker(
                    reasons::WEBHOOK_WITHOUT_ENDPOINT,
                    format!("webhook {} does not answer: {why}", webhook.name()),
                )
                .on(webhook.configuration.key())
                .hint(format!(
                    "look with: kubectl get endpoints,pods -n {}",
                    webhook.service().0
                )),
            )
        })
        .collect()
}
