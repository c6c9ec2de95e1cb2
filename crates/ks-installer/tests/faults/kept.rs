//! What everybody keeps over an upgrade, to be checked in every state in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use access::{Grants, Rule};
use object::ObjectKey;
use serde_json::Value;

use crate::support::state::{RBAC, State, iam};

/// Who is bound: the place of the binding (its kind, and its namespace or workspace), and the subject.
type Holder = (String, String);

/// The rules of all roles that somebody is bound to in one place.
type Held = BTreeMap<Holder, BTreeSet<String>>;

/// What is in both states and has to be in every state between them.
pub(crate) struct Kept {
    /// UIDs of all objects that are people's: none of them may be missing.
    objects: BTreeMap<ObjectKey, Value>,
    before: Held,
    after: Held,
    grants: BTreeMap<Holder, Grants>,
    /// Bindings that led nowhere from the beginning.
    dangling: BTreeSet<ObjectKey>,
}

const ROLES: [&str; 4] = ["GlobalRole", "WorkspaceRole", "Role", "ClusterRole"];

fn is_kept_object(key: &ObjectKey) -> bool {
    const MADE_BY_CONTROLLERS: [&str; 8] = [
        "ControllerRevision",
        "Endpoints",
        "EndpointSlice",
        "Event",
        "Lease",
        "Pod",
        "ReplicaSet",
        "Node",
    ];
    !MADE_BY_CONTROLLERS.contains(&key.kind.as_str())
}

/// The role that a binding refers to.
fn role_of(key: &ObjectKey, binding: &Value) -> ObjectKey {
    let name = binding["roleRef"]["name"].as_str().unwrap_or_default();
    match (key.kind.as_str(), binding["roleRef"]["kind"].as_str()) {
        ("GlobalRoleBinding", _) => iam("GlobalRole", name),
        ("WorkspaceRoleBinding", _) => iam("WorkspaceRole", name),
        ("RoleBinding", Some("Role")) => {
            ObjectKey::namespaced(RBAC, "Role", key.namespace.as_deref().unwrap_or_default(), name)
        }
        _ => ObjectKey::cluster(RBAC, "ClusterRole", name),
    }
}

fn bindings(state: &State) -> impl Iterator<Item = (&ObjectKey, &Value)> {
    let bindings = state.0.iter().filter(|(key, _)| {
        key.kind
            .strip_suffix("Binding")
            .is_some_and(|role| ROLES.contains(&role))
    });
    bindings.map(|(key, value)| (key, Arc::as_ref(value)))
}

fn held(state: &State) -> Held {
    let mut held = Held::new();
    for (key, binding) in bindings(state) {
        let Some(role) = state.find(&role_of(key, binding)) else {
            continue;
        };
        let place = match key.kind.as_str() {
            "WorkspaceRoleBinding" => binding["metadata"]["labels"]["kubesphere.io/workspace"].to_string(),
            _ => key.namespace.clone().unwrap_or_default(),
        };
        let rules = role["rules"].to_string();
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            let holder = (
                format!("{} {place}", key.kind),
                format!("{} {}/{}", subject["kind"], subject["namespace"], subject["name"]),
            );
            held.entry(holder).or_default().insert(rules.clone());
        }
    }
    held
}

fn grants(rules: &BTreeSet<String>) -> Grants {
    let rules: Vec<Rule> = rules
        .iter()
        .filter_map(|rules| serde_json::from_str::<Option<Vec<Rule>>>(rules).ok().flatten())
        .flatten()
        .collect();
    Grants::of(&rules)
}

fn dangling(state: &State) -> BTreeSet<ObjectKey> {
    bindings(state)
        .filter(|(key, binding)| state.find(&role_of(key, binding)).is_none())
        .map(|(key, _)| key.clone())
        .collect()
}

impl Kept {
    pub(crate) fn between(before: &State, after: &State) -> Self {
        let uid = |value: &Value| value["metadata"]["uid"].clone();
        let objects = before
            .0
            .iter()
            .filter(|(key, _)| is_kept_object(key) && after.find(key).is_some())
            .map(|(key, value)| (key.clone(), uid(value)))
            .collect();
        let dangling = dangling(before);
        let (before, after) = (held(before), held(after));
        let grants = before
            .iter()
            .filter_map(|(holder, had)| {
                let has = after.get(holder)?;
                let kept = if had == has {
                    grants(had)
                } else {
                    grants(had).intersection(&grants(has))
                };
                Some((holder.clone(), kept))
            })
            .collect();
        Self {
            objects,
            before,
            after,
            grants,
            dangling,
        }
    }

    /// How many people and groups are looked at, place by place.
    pub(crate) fn holders(&self) -> usize {
        self.grants.len()
    }

    /// Nothing that stays is missing, no binding leads nowhere, everybody has at least what they keep.
    pub(crate) fn check(&self, now: &State, at: &str) {
        for (key, uid) in &self.objects {
            let found = now.find(key).map(|value| &value["metadata"]["uid"]);
            assert_eq!(found, Some(uid), "{at}: {key}");
        }
        let nowhere = dangling(now);
        let nowhere: Vec<_> = nowhere.difference(&self.dangling).collect();
        assert!(nowhere.is_empty(), "{at}: these refer to nothing: {nowhere:?}");
        let held = held(now);
        let nothing = BTreeSet::new();
        for (holder, kept) in &self.grants {
            let has = held.get(holder).unwrap_or(&nothing);
            if self.before.get(holder) == Some(has) || self.after.get(holder) == Some(has) {
                continue;
            }
            let lacks = kept.difference(&grants(has));
            assert!(lacks.is_empty(), "{at}: {holder:?} lacks {lacks:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_state(verbs: &[&str], role: &str) -> State {
        State::of_objects([
            json!({"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRole", "metadata": {"name": "a", "uid": "1"},
                "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]}),
            json!({"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRoleBinding", "metadata": {"name": "b", "uid": "2"},
                "roleRef": {"kind": "GlobalRole", "name": role}, "subjects": [{"kind": "User", "name": "u"}]}),
        ])
    }

    #[test]
    fn a_permission_that_is_missing_in_between_is_found() {
        let kept = Kept::between(
            &mk_state(&["get", "list"], "a"),
            &mk_state(&["get", "watch"], "a"),
        );
        let is_fine = |state: State| std::panic::catch_unwind(|| kept.check(&state, "")).is_ok();
        assert!(is_fine(mk_state(&["get"], "a")));
        assert!(is_fine(mk_state(&["*"], "a")));
        assert!(!is_fine(mk_state(&["list", "watch"], "a")));
        assert!(!is_fine(mk_state(&["get"], "gone")));
        let mut without = mk_state(&["get"], "a");
        without.0.retain(|key, _| key.kind != "GlobalRole");
        assert!(!is_fine(without));
    }
}
