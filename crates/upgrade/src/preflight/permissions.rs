//! What could not be read, and what may not be written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::Context;
use crate::{Finding, Permission, Severity, Snapshot, reasons};

/// Groups of which every kind that is read decides something: without one of them a plan would be made half-blind.
const DECISIVE_GROUPS: [&str; 4] = [
    "iam.kubesphere.io",
    "rbac.authorization.k8s.io",
    "installer.kubesphere.io",
    "apiextensions.k8s.io",
];

pub(super) fn check_unreadable(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    if snapshot.unreadable.is_empty() {
        return Vec::new();
    }
    let rendered: BTreeSet<String> = snapshot
        .served
        .iter()
        .filter(|served| {
            context
                .rendered
                .iter()
                .any(|o| o.group() == served.group && o.kind() == served.kind)
                || context
                    .writes
                    .iter()
                    .any(|w| w.object.is(&served.group, &served.kind))
        })
        .map(|served| full_name(&served.resource, &served.group))
        .collect();
    snapshot
        .unreadable
        .iter()
        .map(|unreadable| {
            let resource = &unreadable.resource;
            // Where not even the kinds of a group are known, everything in it looks as if it were not there.
            let whole_group = resource.split_once('/').map(|(group, _)| group);
            let group =
                whole_group.unwrap_or_else(|| resource.split_once('.').map_or("", |(_, group)| group));
            let is_of_release = match whole_group {
                Some(group) => {
                    context.rendered.iter().any(|o| o.group() == group)
                        || context.writes.iter().any(|w| w.object.group == group)
                }
                None => rendered.contains(resource),
            };
            let message = format!("{resource} cannot be read: {}", unreadable.message);
            let finding = if DECISIVE_GROUPS.contains(&group) || is_of_release {
                Finding::blocker(
                    reasons::UNREADABLE_RESOURCE,
                    format!("{message}; the upgrade depends on them"),
                )
            } else {
                Finding::warning(
                    reasons::UNREADABLE_RESOURCE,
                    format!("{message}; what concerns them is not checked"),
                )
            };
            finding.hint(match whole_group {
                Some("") => format!("look with: kubectl get --raw /api{resource}"),
                Some(_) => format!("look with: kubectl get --raw /apis/{resource}"),
                None => {
                    format!(
                        "check the caller's permission: kubectl auth can-i list {resource} --all-namespaces"
                    )
                }
            })
        })
        .collect()
}

fn full_name(resource: &str, group: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

/// What the caller lacks of what the plan needs: one finding for each resource and namespace. What was not asked
/// about counts as not allowed.
pub fn check_permissions(required: &[Permission], allowed: &BTreeMap<Permission, bool>) -> Vec<Finding> {
    let mut missing: BTreeMap<(&str, &str, Option<&str>), BTreeSet<&str>> = BTreeMap::new();
    for permission in required.iter().filter(|p| allowed.get(p) != Some(&true)) {
        missing
            .entry((
                &permission.group,
                &permission.resource,
                permission.namespace.as_deref(),
            ))
            .or_default()
            .insert(&permission.verb);
    }
    missing
        .into_iter()
        .map(|((group, resource, namespace), verbs)| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let name = full_name(resource, group);
            let verbs: Vec<&str> = verbs.into_iter().collect();
            let what = if subresource.is_empty() {
                name.clone()
            } else {
                format!("{subresource} of {name}")
            };
            let place = namespace.map_or_else(String::new, |n| format!(" in namespace {n}"));
            let mut command = format!("kubectl auth can-i {} {name}", verbs[0]);
            if !subresource.is_empty() {
                let _ = write!(command, " --subresource={subresource}");
            }
            if let Some(namespace) = namespace {
                let _ = write!(command, " -n {namespace}");
            }
            // Who holds all that a role grants may write it without these verbs; nobody else may.
            let can_do_without = verbs.iter().all(|verb| matches!(*verb, "escalate" | "bind"));
            let severity = if can_do_without {
                Severity::Warning
            } else {
                Severity::Blocker
            };
            Finding::new(
                severity,
                reasons::PERMISSION_MISSING,
                format!(
                    "the caller may not {} {what}{place}, which the plan needs",
                    verbs.join(", ")
                ),
            )
            .hint(format!(
                "check with: {command}; a caller bound to cluster-admin has all that is needed"
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::mk::*, *};
    use crate::Unreadable;

    #[test]
    fn missing_verbs_are_grouped() {
        let permission = |verb: &str, group: &str, resource: &str, namespace: Option<&str>| Permission {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.map(str::to_owned),
            name: None,
        };
        let system = Some("kubesphere-system");
        let required = [
            permission("get", "apps", "deployments", system),
            permission("patch", "apps", "deployments", system),
            permission("create", "apps", "deployments", system),
            permission("patch", "apps", "deployments/scale", system),
            permission("delete", "", "secrets", None),
        ];
        let allowed = BTreeMap::from([
            (required[0].clone(), true),
            (required[1].clone(), false),
            (required[3].clone(), false),
        ]);
        let found = check_permissions(&required, &allowed);
        let messages: Vec<&str> = found.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "the caller may not delete secrets, which the plan needs",
                "the caller may not create, patch deployments.apps in namespace kubesphere-system, which the plan needs",
                "the caller may not patch scale of deployments.apps in namespace kubesphere-system, which the plan needs",
            ]
        );
        assert!(found[2].hint.as_deref().unwrap().starts_with(
            "check with: kubectl auth can-i patch deployments.apps --subresource=scale -n kubesphere-system;"
        ));
        let all: BTreeMap<_, _> = required.iter().map(|p| (p.clone(), true)).collect();
        assert_eq!(check_permissions(&required, &all), []);
    }

    #[test]
    fn what_cannot_be_read_blocks_where_the_plan_depends_on_it() {
        let check = |resource: &str, expect: Severity| {
            let mut snapshot = mk_sound();
            snapshot.unreadable.push(Unreadable {
                resource: resource.into(),
                message: "forbidden".into(),
            });
            let found = mk_checked(&snapshot, |context| {
                context.rendered = vec![mk("v1", "ConfigMap", "n/a", json!({}))];
            });
            let found: Vec<_> = found.iter().map(|f| (f.severity, f.reason.as_str())).collect();
            assert_eq!(found, [(expect, reasons::UNREADABLE_RESOURCE)], "{resource}");
        };
        check("globalroles.iam.kubesphere.io", Severity::Blocker);
        check("configmaps", Severity::Blocker);
        check("nodes", Severity::Warning);
        check("prometheuses.monitoring.coreos.com", Severity::Warning);
        // Not even the kinds of a group are known.
        check("iam.kubesphere.io/v1alpha2", Severity::Blocker);
        check("/v1", Severity::Blocker);
        check("metrics.k8s.io/v1beta1", Severity::Warning);
    }
}
