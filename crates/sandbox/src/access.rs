//! Who may do what: RBAC over the stored roles and bindings, and what a role may be given.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::json::{list, list_at, name, namespace, text, text_at};
use crate::kinds::Resource;
use crate::status::{Result, Status};
use crate::store::State;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    /// The administrator: in process, or by the server's token.
    pub(crate) fn admin(name: &str) -> User {
        User {
            name: name.to_owned(),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        }
    }

    /// A ServiceAccount, as its token names it.
    pub(crate) fn account(namespace: &str, name: &str) -> User {
        let mut groups = User::account_groups(namespace);
        groups.push("system:authenticated".to_owned());
        User {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups,
        }
    }

    pub(crate) fn account_groups(namespace: &str) -> Vec<String> {
        vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ]
    }

    pub(crate) fn is_admin(&self) -> bool {
        self.groups.iter().any(|group| group == "system:masters")
    }
}

/// What somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// A path that is no resource; all but the verb is empty then.
    pub path: String,
}

impl Attributes {
    /// The same as a review spells it.
    pub(crate) fn of_review(review: &Value) -> Attributes {
        let at = |key: &str| text_at(review, &format!("/spec/resourceAttributes/{key}")).to_owned();
        if let Some(other) = review
            .pointer("/spec/nonResourceAttributes")
            .filter(|other| !other.is_null())
        {
            return Attributes {
                verb: text(other, "verb").to_owned(),
                path: text(other, "path").to_owned(),
                ..Attributes::default()
            };
        }
        Attributes {
            verb: at("verb"),
            group: at("group"),
            resource: at("resource"),
            subresource: at("subresource"),
            namespace: at("namespace"),
            name: at("name"),
            path: String::new(),
        }
    }

    fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The refusal, in the server's words.
    pub(crate) fn refusal(&self, user: &User) -> Status {
        if !self.path.is_empty() {
            let why = format!(
                "forbidden: User {:?} cannot {} path {:?}",
                user.name, self.verb, self.path
            );
            let mut status = Status::new(403, "Forbidden", why);
            status.details = json!({});
            return status;
        }
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        let why = format!(
            "User {:?} cannot {} resource {:?} in API group {:?} {scope}",
            user.name,
            self.verb,
            self.full_resource(),
            self.group,
        );
        Status::forbidden_as(&self.resource, &self.group, &self.name, &why)
    }
}

/// A rule that a user has, and through which binding.
struct Held {
    rule: Value,
    through: String,
}

fn has(rule: &Value, key: &str, wanted: &str) -> bool {
    list(rule, key).iter().any(|one| one == "*" || one == wanted)
}

fn path_fits(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern
            .strip_suffix('*')
            .is_some_and(|start| path.starts_with(start.trim_end_matches('*')))
}

fn resource_fits(pattern: &str, resource: &str, subresource: &str) -> bool {
    let full_fits = if subresource.is_empty() {
        pattern == resource
    } else {
        pattern
            .split_once('/')
            .is_some_and(|(left, right)| right == subresource && (left == "*" || left == resource))
    };
    pattern == "*" || full_fits
}

fn texts<'a>(rule: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    list(rule, key).iter().filter_map(Value::as_str)
}

fn allows(rule: &Value, wanted: &Attributes) -> bool {
    if !has(rule, "verbs", &wanted.verb) {
        return false;
    }
    if !wanted.path.is_empty() {
        return texts(rule, "nonResourceURLs").any(|pattern| path_fits(pattern, &wanted.path));
    }
    has(rule, "apiGroups", &wanted.group)
        && texts(rule, "resources")
            .any(|pattern| resource_fits(pattern, &wanted.resource, &wanted.subresource))
        && (list(rule, "resourceNames").is_empty()
            || texts(rule, "resourceNames").any(|name| name == wanted.name))
}

/// The subject of a binding that a user is, in the server's words.
fn subject_of(binding: &Value, user: &User) -> Option<String> {
    let home = namespace(binding);
    list(binding, "subjects").iter().find_map(|subject| {
        let name = text(subject, "name");
        match text(subject, "kind") {
            "User" => (name == user.name).then(|| format!("User {name:?}")),
            "Group" => user
                .groups
                .iter()
                .any(|group| group == name)
                .then(|| format!("Group {name:?}")),
            "ServiceAccount" => {
                let space = match text(subject, "namespace") {
                    "" => home,
                    other => other,
                };
                (user.name == format!("system:serviceaccount:{space}:{name}"))
                    .then(|| format!("ServiceAccount \"{name}/{space}\""))
            }
            _ => None,
        }
    })
}

/// The rules of the role that a binding refers to.
fn rules_of(state: &State, reference: &Value, namespace: &str) -> Option<Vec<Value>> {
    let name = text(reference, "name");
    let role = match text(reference, "kind") {
        "ClusterRole" => state.find("clusterroles.rbac.authorization.k8s.io", "", name),
        _ if namespace.is_empty() => None,
        _ => state.find("roles.rbac.authorization.k8s.io", namespace, name),
    };
    role.map(|role| list(role, "rules").to_vec())
}

/// All rules that a user has in a namespace: those of the cluster's bindings, then those of the namespace's.
fn held(state: &State, user: &User, namespace: &str) -> Vec<Held> {
    let mut found = Vec::new();
    let mut add = |binding: &Arc<Value>, home: &str| {
        let Some(subject) = subject_of(binding, user) else {
            return;
        };
        let reference = binding.get("roleRef").cloned().unwrap_or_default();
        let (kind, full) = if home.is_empty() {
            ("ClusterRoleBinding", name(binding).to_owned())
        } else {
            ("RoleBinding", format!("{}/{home}", name(binding)))
        };
        let through = format!(
            "{kind} {full:?} of {} {:?} to {subject}",
            text(&reference, "kind"),
            text(&reference, "name")
        );
        for rule in rules_of(state, &reference, home).unwrap_or_default() {
            found.push(Held {
                rule,
                through: through.clone(),
            });
        }
    };
    if let Some(bindings) = state.collection("clusterrolebindings.rbac.authorization.k8s.io") {
        bindings.iter().for_each(|(_, binding)| add(binding, ""));
    }
    if !namespace.is_empty()
        && let Some(bindings) = state.collection("rolebindings.rbac.authorization.k8s.io")
    {
        for (_, binding) in bindings.range(namespace, None) {
            add(binding, namespace);
        }
    }
    found
}

/// Why somebody may do something; empty for administrators, who need no reason. `None` when they may not.
pub(crate) fn decide(state: &State, user: &User, wanted: &Attributes) -> Option<String> {
    if user.is_admin() {
        return Some(String::new());
    }
    held(state, user, &wanted.namespace)
        .into_iter()
        .find(|held| allows(&held.rule, wanted))
        .map(|held| format!("RBAC: allowed by {}", held.through))
}

/// Refuses what somebody may not do.
pub(crate) fn check(state: &State, user: &User, wanted: &Attributes) -> Result<()> {
    match decide(state, user, wanted) {
        Some(_) => Ok(()),
        None => Err(wanted.refusal(user)),
    }
}

/// The answer to a review of one's own rules.
pub(crate) fn rules(state: &State, user: &User, namespace: &str) -> Value {
    let (mut resources, mut others) = (Vec::new(), Vec::new());
    let pick = |rule: &Value, keys: &[&str]| -> Value {
        keys.iter()
            .filter(|key| !list(rule, key).is_empty())
            .map(|key| ((*key).to_owned(), Value::from(list(rule, key))))
            .collect()
    };
    for Held { rule, .. } in held(state, user, namespace) {
        if list(&rule, "resources").is_empty() {
            others.push(pick(&rule, &["verbs", "nonResourceURLs"]));
        } else {
            resources.push(pick(&rule, &["verbs", "apiGroups", "resources", "resourceNames"]));
        }
    }
    let everything = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] });
    if user.is_admin() && !resources.contains(&everything) {
        // A dump may lack the binding; the group needs none.
        resources.insert(0, everything);
        others.insert(0, json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }));
    }
    json!({ "resourceRules": resources, "nonResourceRules": others, "incomplete": false })
}

/// Refuses to write a role, or a binding to one, that grants more than its writer has.
pub(crate) fn check_escalation(
    state: &State,
    user: &User,
    resource: &Resource,
    new: &Value,
    old: Option<&Value>,
) -> Result<()> {
    if resource.group != GROUP || user.is_admin() {
        return Ok(());
    }
    let home = namespace(new);
    let may = |verb: &str, plural: &str, name: &str, namespace: &str| {
        let wanted = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            resource: plural.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        decide(state, user, &wanted).is_some()
    };
    let wanted = if resource.kind.ends_with("Binding") {
        let reference = new.get("roleRef").cloned().unwrap_or_default();
        let plural = match text(&reference, "kind") {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            // Validation refuses it.
            _ => return Ok(()),
        };
        if may("bind", plural, text(&reference, "name"), home) {
            return Ok(());
        }
        rules_of(state, &reference, home)
            .ok_or_else(|| Status::not_found_as(plural, GROUP, text(&reference, "name")))?
    } else {
        if may("escalate", &resource.plural, name(new), home) {
            return Ok(());
        }
        let aggregates = |role: &Value| role.get("aggregationRule").is_some_and(|rule| !rule.is_null());
        if aggregates(new) || old.is_some_and(aggregates) {
            let all = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] });
            let urls = json!({ "verbs": ["*"], "nonResourceURLs": ["*"] });
            if !missing(&held(state, user, ""), &[all, urls]).is_empty() {
                let why = "must have cluster-admin privileges to use the aggregationRule";
                return Err(Status::forbidden(resource, name(new), why));
            }
        }
        list(new, "rules").to_vec()
    };
    let missing = compact(missing(&held(state, user, home), &wanted));
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<_> = missing.iter().map(show).collect();
    lines.sort();
    lines.dedup();
    let why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(user.groups.iter().map(String::as_str)),
        lines.join("\n")
    );
    Err(Status::forbidden(resource, name(new), &why))
}

/// A rule taken apart: one verb on one resource, name or path each.
fn take_apart(rule: &Value) -> Vec<Value> {
    let mut parts = Vec::new();
    for verb in list(rule, "verbs") {
        for url in list(rule, "nonResourceURLs") {
            parts.push(json!({ "nonResourceURLs": [url], "verbs": [verb] }));
        }
    }
    for group in list(rule, "apiGroups") {
        for resource in list(rule, "resources") {
            for verb in list(rule, "verbs") {
                let part = json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] });
                if list(rule, "resourceNames").is_empty() {
                    parts.push(part.clone());
                }
                for name in list(rule, "resourceNames") {
                    let mut part = part.clone();
                    part["resourceNames"] = json!([name]);
                    parts.push(part);
                }
            }
        }
    }
    parts
}

/// The parts of rules that none of those held covers.
fn missing(held: &[Held], wanted: &[Value]) -> Vec<Value> {
    wanted
        .iter()
        .flat_map(take_apart)
        .filter(|part| !held.iter().any(|held| covers(&held.rule, part)))
        .collect()
}

fn covers(owned: &Value, part: &Value) -> bool {
    let first = |key: &str| texts(part, key).next().unwrap_or_default();
    if !has(owned, "verbs", first("verbs")) {
        return false;
    }
    if !list(part, "nonResourceURLs").is_empty() {
        return texts(owned, "nonResourceURLs").any(|pattern| path_fits(pattern, first("nonResourceURLs")));
    }
    let (resource, subresource) = first("resources")
        .split_once('/')
        .unwrap_or((first("resources"), ""));
    has(owned, "apiGroups", first("apiGroups"))
        && texts(owned, "resources").any(|pattern| resource_fits(pattern, resource, subresource))
        && (list(owned, "resourceNames").is_empty()
            || texts(part, "resourceNames").any(|name| has(owned, "resourceNames", name)))
}

/// Puts the verbs on one resource together again.
fn compact(parts: Vec<Value>) -> Vec<Value> {
    let mut whole: Vec<Value> = Vec::new();
    for part in parts {
        let same = whole.iter_mut().find(|other| {
            !list(other, "resources").is_empty()
                && ["apiGroups", "resources", "resourceNames"]
                    .iter()
                    .all(|key| list(other, key) == list(&part, key))
        });
        match same
            .and_then(|same| same.get_mut("verbs"))
            .and_then(Value::as_array_mut)
        {
            Some(verbs) => verbs.extend(list_at(&part, "/verbs").iter().cloned()),
            None => whole.push(part),
        }
    }
    whole
}

fn quoted<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let items: Vec<_> = items.map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

fn show(rule: &Value) -> String {
    let parts: Vec<_> = [
        ("APIGroups", "apiGroups"),
        ("Resources", "resources"),
        ("NonResourceURLs", "nonResourceURLs"),
        ("ResourceNames", "resourceNames"),
        ("Verbs", "verbs"),
    ]
    .into_iter()
    .filter(|(_, key)| !list(rule, key).is_empty())
    .map(|(shown, key)| format!("{shown}:{}", quoted(texts(rule, key))))
    .collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: &Value, wanted: [&str; 5], expect: bool) {
        let [verb, group, resource, subresource, name] = wanted.map(str::to_owned);
        let wanted = Attributes {
            verb,
            group,
            resource,
            subresource,
            name,
            ..Attributes::default()
        };
        assert_eq!(allows(rule, &wanted), expect, "{rule} {wanted:?}");
    }

    #[test]
    fn rules_allow_what_they_name() {
        let rule =
            json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log", "*/scale"] });
        check(&rule, ["get", "", "pods", "", ""], true);
        check(&rule, ["list", "", "pods", "", ""], false);
        check(&rule, ["get", "apps", "pods", "", ""], false);
        check(&rule, ["get", "", "pods", "log", "a"], true);
        check(&rule, ["get", "", "pods", "status", "a"], false);
        check(&rule, ["get", "", "things", "scale", "a"], true);
        let all = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] });
        check(&all, ["get", "apps", "pods", "status", "a"], true);
        let named =
            json!({ "verbs": ["*"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"] });
        check(&named, ["get", "", "pods", "", "a"], true);
        check(&named, ["list", "", "pods", "", ""], false);
    }

    #[test]
    fn paths_end_in_stars() {
        assert!(path_fits("/api/*", "/api/v1") && path_fits("*", "/x") && path_fits("/x", "/x"));
        assert!(!path_fits("/api/*", "/api") && !path_fits("/x", "/x/y"));
    }

    #[test]
    fn what_is_missing_is_told_together() {
        let owned = [Held {
            rule: json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }),
            through: String::new(),
        }];
        let wanted = [json!({ "verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods"] })];
        let shown: Vec<_> = compact(missing(&owned, &wanted)).iter().map(show).collect();
        assert_eq!(
            shown,
            [r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#]
        );
    }
}
