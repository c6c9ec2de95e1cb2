//! Whether roles, bindings and users are as the new release has them, and whether people keep what was not revoked.
//! All but the last check do not ask how the migration came to its result: they compare what is there with what was.
//! The last one holds what people can do against what the impact announced.

use std::collections::BTreeSet;

use access::{
    AGGREGATION, Catalog, DEVOPS_PROJECT, Grants, Level, Policy, RemovedRole, Rule, TEMPLATE, WORKSPACE,
};
use object::{Object, ObjectKey};
use serde_json::Value;

use super::Context;
use crate::{
    Finding, Snapshot,
    preflight::{count, kubectl, some_of},
    reasons,
};

const BINDINGS: [(&str, &str); 4] = [
    (access::IAM_GROUP, "GlobalRoleBinding"),
    (access::IAM_GROUP, "WorkspaceRoleBinding"),
    (access::RBAC_GROUP, "ClusterRoleBinding"),
    (access::RBAC_GROUP, "RoleBinding"),
];

fn bindings(snapshot: &Snapshot) -> impl Iterator<Item = &Object> {
    BINDINGS
        .into_iter()
        .flat_map(|(group, kind)| snapshot.of_kind(group, kind))
}

/// The role that a binding refers to. A KubeSphere binding has one kind of role, whatever it says.
fn role_of(binding: &Object) -> ObjectKey {
    let name = binding.get_str("/roleRef/name").unwrap_or_default();
    match binding.kind() {
        "GlobalRoleBinding" => ObjectKey::cluster(access::IAM_GROUP, "GlobalRole", name),
        "WorkspaceRoleBinding" => ObjectKey::cluster(access::IAM_GROUP, "WorkspaceRole", name),
        "RoleBinding" if binding.get_str("/roleRef/kind") != Some("ClusterRole") => ObjectKey::namespaced(
            access::RBAC_GROUP,
            "Role",
            binding.namespace().unwrap_or_default(),
            name,
        ),
        _ => ObjectKey::cluster(access::RBAC_GROUP, "ClusterRole", name),
    }
}

/// What takes the place of a role that the new release does not have, by its name or an alias of it.
fn removed_or_alias<'a>(policy: &'a Policy, role: &ObjectKey) -> Option<&'a RemovedRole> {
    policy.removed_roles.iter().find(|removed| {
        removed.kind == role.kind && (removed.name == role.name || removed.aliases.contains(&role.name))
    })
}

pub(super) fn check_bindings(after: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for binding in bindings(after) {
        let role = role_of(binding);
        if after.get(&role).is_some() {
            continue;
        }
        let was_so = context.before.map(|(before, _)| {
            before.get(&binding.key()).is_some_and(|b| role_of(b) == role) && before.get(&role).is_none()
        });
        let removed = removed_or_alias(context.policy, &role).is_some();
        let message = format!("it refers to {role}, which does not exist, so it grants nothing");
        let key = binding.key();
        let finding = match was_so {
            Some(true) if !removed => continue,
            None if !removed => Finding::warning(access::reason::DANGLING_BINDING, message)
                .hint(format!("bind another role, or: {}", kubectl("delete", &key))),
            _ => Finding::blocker(reasons::BINDING_WITHOUT_ROLE, message).hint("run it again"),
        };
        findings.push(finding.on(key));
    }
    findings
}

/// Roles as far as they are people's or the platform's: templates left out.
fn roles(snapshot: &Snapshot) -> impl Iterator<Item = (Level, &Object)> {
    let namespaced = snapshot.of_kind(access::RBAC_GROUP, "Role").map(|role| {
        let namespace = ObjectKey::cluster("", "Namespace", role.namespace().unwrap_or_default());
        let is_devops = snapshot
            .get(&namespace)
            .is_some_and(|n| n.label(DEVOPS_PROJECT).is_some());
        (
            if is_devops {
                Level::DevopsProject
            } else {
                Level::Project
            },
            role,
        )
    });
    let of = |group, kind, level| snapshot.of_kind(group, kind).map(move |role| (level, role));
    of(access::IAM_GROUP, "GlobalRole", Level::Platform)
        .chain(of(access::IAM_GROUP, "WorkspaceRole", Level::Workspace))
        .chain(of(access::RBAC_GROUP, "ClusterRole", Level::Cluster))
        .chain(namespaced)
        .filter(|(_, role)| role.label(TEMPLATE).is_none_or(str::is_empty))
}

/// The templates that a role was made of; `None` where the list cannot be read or there is none.
fn templates_of(role: &Object) -> Option<Vec<String>> {
    serde_json::from_str(role.annotation(AGGREGATION)?).ok()
}

fn rules_of(role: &Object) -> Option<Vec<Rule>> {
    match role.get("/rules") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(rules) => serde_json::from_value(rules.clone()).ok(),
    }
}

pub(super) fn check_roles(after: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let policy = context.policy;
    let mut findings = Vec::new();
    let mut behind: Vec<ObjectKey> = Vec::new();
    for (level, role) in roles(after) {
        let key = role.key();
        if policy.removed_role(role.kind(), role.name()).is_some() {
            findings.push(
                Finding::blocker(
                    reasons::REMOVED_ROLE_LEFT,
                    "the new release no longer has it, and it is still there",
                )
                .on(key)
                .hint("run it again"),
            );
            continue;
        }
        let workspace = role.label(WORKSPACE);
        if policy.is_built_in(level, role.name(), workspace) {
            if is_behind(after, level, role, context.catalog) {
                behind.push(key);
            }
            continue;
        }
        let held: Vec<String> = templates_of(role)
            .unwrap_or_default()
            .into_iter()
            .filter(|template| policy.is_revoked(level, template))
            .collect();
        if !held.is_empty() {
            findings.push(
                Finding::blocker(
                    reasons::REVOKED_TEMPLATE_HELD,
                    format!("it still holds {}, which the new release revokes", some_of(&held)),
                )
                .on(key)
                .hint("run it again"),
            );
        }
    }
    if !behind.is_empty() {
        findings.push(
            Finding::warning(
                reasons::BUILT_IN_ROLES_BEHIND,
                format!(
                    "{} of workspaces and projects ({}) do not grant yet what the new release gives them: that is the \
                     work of ks-controller-manager",
                    count(behind.len(), "built-in role"),
                    some_of(&behind)
                ),
            )
            .hint("it follows within minutes of ks-controller-manager's start; in a rehearsal it does not run"),
        );
    }
    findings
}

/// Whether a built-in role of a workspace or project is not yet as the new release has it.
fn is_behind(after: &Snapshot, level: Level, role: &Object, catalog: &Catalog) -> bool {
    let belongs = match level {
        Level::Workspace => true,
        // A Role of that name in a namespace that KubeSphere does not manage is somebody else's.
        Level::Project | Level::DevopsProject => role
            .namespace()
            .and_then(|name| after.get(&ObjectKey::cluster("", "Namespace", name)))
            .is_some_and(|namespace| namespace.label(WORKSPACE).is_some()),
        Level::Platform | Level::Cluster => false,
    };
    let Some(shipped) = catalog
        .role(level, role.name(), role.label(WORKSPACE))
        .filter(|_| belongs)
    else {
        return false;
    };
    rules_of(role).is_some_and(|rules| {
        rules != shipped.rules && !Grants::of(&rules).equals(&Grants::of(&shipped.rules))
    })
}

/// Somebody's own deletion in the meantime looks the same; a namespace that went took its objects along.
const MEANWHILE: &str = "unless somebody else did that meanwhile, take it from the backup";

fn namespace_is_gone(after: &Snapshot, key: &ObjectKey) -> bool {
    key.namespace.as_ref().is_some_and(|name| {
        after
            .get(&ObjectKey::cluster("", "Namespace", name))
            .is_none_or(|n| n.is_being_deleted() || n.get_str("/status/phase") == Some("Terminating"))
    })
}

/// What an object that had to stay is now, and what became of it where it did not stay the same one.
fn kept<'a>(before: &Object, after: &'a Snapshot) -> (Option<&'a Object>, Option<&'static str>) {
    let Some(now) = after.get(&before.key()) else {
        return (None, Some("it was there before the upgrade and is gone"));
    };
    let anew = matches!((before.uid(), now.uid()), (Some(old), Some(new)) if old != new);
    (
        Some(now),
        anew.then_some("it was deleted and made anew during the upgrade"),
    )
}

pub(super) fn check_users_kept(before: &Snapshot, after: &Snapshot) -> Vec<Finding> {
    ["User", "Group", "GroupBinding"]
        .into_iter()
        .flat_map(|kind| before.of_kind(access::IAM_GROUP, kind))
        .filter(|object| !object.is_being_deleted())
        .filter_map(|object| {
            let why = kept(object, after).1?;
            Some(
                Finding::blocker(reasons::USER_LOST, why)
                    .on(object.key())
                    .hint(MEANWHILE),
            )
        })
        .collect()
}

pub(super) fn check_roles_kept(
    before: &Snapshot,
    from: &Catalog,
    after: &Snapshot,
    context: &Context<'_>,
) -> Vec<Finding> {
    let policy = context.policy;
    let mut findings = Vec::new();
    for (level, role) in roles(before) {
        let key = role.key();
        let workspace = role.label(WORKSPACE);
        let is_own = role.annotation(AGGREGATION).is_some()
            && !policy.is_built_in(level, role.name(), workspace)
            && policy.removed_role(role.kind(), role.name()).is_none();
        if !is_own || role.is_being_deleted() || namespace_is_gone(after, &key) {
            continue;
        }
        let (now, lost) = kept(role, after);
        findings.extend(lost.map(|why| {
            Finding::blocker(reasons::ROLE_LOST, why)
                .on(key.clone())
                .hint(MEANWHILE)
        }));
        let Some(now) = now else { continue };
        let missing = lost_metadata(role, now);
        if !missing.is_empty() {
            findings.push(
                Finding::blocker(reasons::ROLE_CHANGED, format!("it lost {}", some_of(&missing)))
                    .on(key.clone())
                    .hint(MEANWHILE),
            );
        }
        let lost = lost_grants(level, role, now, from, context);
        if !lost.is_empty() {
            findings.push(
                Finding::blocker(
                    reasons::PERMISSION_LOST,
                    format!("it no longer grants what was not revoked: {}", some_of(&lost)),
                )
                .on(key)
                .hint(MEANWHILE),
            );
        }
    }
    findings
}

/// Labels, annotations and finalizers that a role had and has no more, its list of templates left out.
fn lost_metadata(before: &Object, after: &Object) -> Vec<String> {
    let mut lost = Vec::new();
    for (what, pointer) in [
        ("label", "/metadata/labels"),
        ("annotation", "/metadata/annotations"),
    ] {
        for (name, value) in before
            .get(pointer)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let now = after.get(pointer).and_then(|all| all.get(name));
            if name != AGGREGATION && name != object::LAST_APPLIED && now != Some(value) {
                lost.push(format!("{what} {name}"));
            }
        }
    }
    let finalizers = |object: &Object| -> BTreeSet<String> {
        object
            .get("/metadata/finalizers")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    lost.extend(
        finalizers(before)
            .difference(&finalizers(after))
            .map(|name| format!("finalizer {name}")),
    );
    lost
}

/// What a role granted, grants no more, and was not to lose: losses come only from templates that are revoked or
/// removed, or that the new release narrowed, and never touch what a kept template gives too.
fn lost_grants(
    level: Level,
    role: &Object,
    now: &Object,
    from: &Catalog,
    context: &Context<'_>,
) -> Vec<String> {
    if role.get("/rules") == now.get("/rules") {
        return Vec::new();
    }
    let (Some(old), Some(new)) = (rules_of(role), rules_of(now)) else {
        return Vec::new();
    };
    let lost = Grants::of(&old).difference(&Grants::of(&new));
    if lost.is_empty() {
        return Vec::new();
    }
    let policy = context.policy;
    let mut gone = Vec::new();
    let mut stays = Vec::new();
    for template in templates_of(role).unwrap_or_default() {
        if let Some(template) = from.template(level, &template) {
            gone.extend(&template.rules);
        }
        if !policy.is_revoked(level, &template) {
            let name = policy.renamed(level, &template).unwrap_or(&template);
            if let Some(template) = context.catalog.template(level, name) {
                stays.extend(&template.rules);
            }
        }
    }
    let may_go = Grants::of(gone).difference(&Grants::of(stays));
    lost.difference(&may_go)
        .simplified()
        .iter()
        .map(ToString::to_string)
        .collect()
}

pub(super) fn check_bindings_kept(before: &Snapshot, after: &Snapshot, policy: &Policy) -> Vec<Finding> {
    let mut findings = Vec::new();
    for binding in bindings(before) {
        let key = binding.key();
        let people: BTreeSet<(String, String)> = people_of(binding);
        // What a Helm release owned may go with it: it is nobody's grant to people.
        let is_released = binding.annotation("meta.helm.sh/release-name").is_some();
        if people.is_empty() || is_released || binding.is_being_deleted() || namespace_is_gone(after, &key) {
            continue;
        }
        let role = role_of(binding);
        // A role of that name that somebody made is no alias.
        let removed = policy
            .removed_role(&role.kind, &role.name)
            .or_else(|| removed_or_alias(policy, &role).filter(|_| before.get(&role).is_none()));
        let wanted = removed.map_or_else(
            || role.clone(),
            |removed| ObjectKey {
                name: removed.replacement.clone(),
                ..role.clone()
            },
        );
        let problem = match kept(binding, after) {
            (_, Some(why)) if removed.is_none() => Some(why.to_owned()),
            (Some(now), _) if role_of(now) != wanted => {
                Some(format!("it refers to {} and should to {wanted}", role_of(now)))
            }
            (Some(now), _) => {
                let now = people_of(now);
                let lost: Vec<&str> = people.difference(&now).map(|(_, name)| name.as_str()).collect();
                (!lost.is_empty()).then(|| format!("it no longer binds {}", some_of(&lost)))
            }
            // It may go only where everybody in it has the replacement through another one.
            (None, why) => {
                let elsewhere: BTreeSet<_> = bindings(after)
                    .filter(|other| other.kind() == binding.kind() && role_of(other) == wanted)
                    .flat_map(people_of)
                    .collect();
                why.filter(|_| !people.is_subset(&elsewhere)).map(str::to_owned)
            }
        };
        if let Some(problem) = problem {
            findings.push(
                Finding::blocker(reasons::BINDING_LOST, problem)
                    .on(key)
                    .hint(MEANWHILE),
            );
        }
    }
    findings
}

/// The users and groups that a binding is about. Service accounts are programs, whose bindings releases change.
fn people_of(binding: &Object) -> BTreeSet<(String, String)> {
    let text = |subject: &Value, name: &str| {
        subject
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    binding
        .get("/subjects")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|subject| (text(subject, "kind"), text(subject, "name")))
        .filter(|(kind, _)| kind == "User" || kind == "Group")
        .collect()
}

/// What people can do now, against what the impact said they would.
pub(super) fn check_access_as_announced(
    before: &Snapshot,
    old: &Catalog,
    after: &Snapshot,
    context: &Context<'_>,
) -> Vec<Finding> {
    let records = |snapshot: &Snapshot| snapshot.objects.values().collect();
    let (before, after): (access::Records, access::Records) = (records(before), records(after));
    let deviations = access::deviations(
        &before,
        &after,
        old,
        context.catalog,
        context.policy,
        context.migration,
    );
    let words = |grants: &[access::Grant]| {
        let words: Vec<String> = grants.iter().map(ToString::to_string).collect();
        some_of(&words)
    };
    deviations
        .into_iter()
        .map(|deviation| {
            let mut what = Vec::new();
            if !deviation.less.is_empty() {
                what.push(format!("cannot do {}", words(&deviation.less)));
            }
            if !deviation.more.is_empty() {
                what.push(format!("can do {}", words(&deviation.more)));
            }
            let message = format!(
                "{} {} on {} {}, which is not what the impact announced",
                deviation.kind,
                deviation.name,
                deviation.scope,
                what.join(" and ")
            );
            Finding::warning(reasons::ACCESS_NOT_AS_ANNOUNCED, message).hint(format!(
                "if nobody else changed roles meanwhile, look with: ks-installer access show {}",
                deviation.name
            ))
        })
        .collect()
}
