//! Releases, states of clusters, and a cluster that carries a migration out.

use std::sync::LazyLock;

use access::{AGGREGATION, AccessFile, BindingAction, Catalog, MigrateOptions, Migration, Policy, migrate};
use object::{Object, ObjectKey};
use serde_json::Value;

pub(crate) struct Releases {
    pub(crate) v3_2_0: Catalog,
    pub(crate) v3_2_1: Catalog,
    pub(crate) v3_3_0: Catalog,
    pub(crate) v3_3_1: Catalog,
    /// Of v3.3.1.
    pub(crate) policy: Policy,
}

fn load(text: &str, base: Option<&Catalog>) -> (Catalog, Policy) {
    let file: AccessFile = serde_saphyr::from_str(text).expect("access.yaml is readable");
    file.into_catalog(base).expect("access.yaml is a catalog")
}

pub(crate) static RELEASES: LazyLock<Releases> = LazyLock::new(|| {
    let (v3_2_1, _) = load(include_str!("../../../../releases/v3.2.1/access.yaml"), None);
    let (v3_3_1, policy) = load(include_str!("../../../../releases/v3.3.1/access.yaml"), None);
    let (v3_2_0, _) = load(
        include_str!("../../../../releases/v3.2.0/access.yaml"),
        Some(&v3_2_1),
    );
    let (v3_3_0, _) = load(
        include_str!("../../../../releases/v3.3.0/access.yaml"),
        Some(&v3_3_1),
    );
    Releases {
        v3_2_0,
        v3_2_1,
        v3_3_0,
        v3_3_1,
        policy,
    }
});

fn read(compressed: &[u8]) -> Vec<Object> {
    let text = zstd::decode_all(compressed).expect("the fixture is zstd");
    let text = String::from_utf8(text).expect("the fixture is text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("each line is an object"))
        .collect()
}

/// Roles, bindings, users and namespaces of a cluster with v3.2.1 and a few tenants.
pub(crate) fn tenants() -> Vec<Object> {
    read(include_bytes!("../fixtures/tenants-3.2.1.ndjson.zst"))
}

/// The same cluster after the original installer has upgraded it to v3.3.1.
pub(crate) fn tenants_by_upstream() -> Vec<Object> {
    read(include_bytes!("../fixtures/tenants-by-upstream.ndjson.zst"))
}

pub(crate) fn upgrade(state: &[Object]) -> Migration {
    upgrade_from(&RELEASES.v3_2_1, state)
}

pub(crate) fn upgrade_from(from: &Catalog, state: &[Object]) -> Migration {
    migrate(
        state,
        from,
        &RELEASES.v3_3_1,
        &RELEASES.policy,
        MigrateOptions::default(),
    )
}

pub(crate) fn find<'a>(state: &'a [Object], key: &ObjectKey) -> Option<&'a Object> {
    state.iter().find(|object| object.key() == *key)
}

/// Carries out those changes of a migration that `is_done` chooses by their place in it.
pub(crate) fn carry_out(
    state: &[Object],
    migration: &Migration,
    mut is_done: impl FnMut(usize) -> bool,
) -> Vec<Object> {
    let mut state = state.to_vec();
    let mut step = 0;
    let mut next = || {
        step += 1;
        is_done(step - 1)
    };
    for change in &migration.role_changes {
        if !next() {
            continue;
        }
        let role = state
            .iter_mut()
            .find(|o| o.key() == change.key)
            .expect("a role to change");
        if let Some(text) = &change.annotation {
            role.as_map_mut()["metadata"]["annotations"][AGGREGATION] = (**text).into();
        }
        if let Some(rules) = &change.rules {
            role.as_map_mut()["rules"] = serde_json::to_value(rules).expect("rules are JSON");
        }
    }
    for change in &migration.binding_changes {
        if !next() {
            continue;
        }
        match &change.action {
            BindingAction::Rebind { to } => {
                let binding = state.iter_mut().find(|o| o.key() == change.key);
                let binding = binding.expect("a binding to change");
                binding.as_map_mut()["roleRef"]["name"] = to.as_str().into();
            }
            BindingAction::DeleteRedundant { .. } => state.retain(|o| o.key() != change.key),
        }
    }
    for key in &migration.removed {
        if next() {
            state.retain(|object| object.key() != *key);
        }
    }
    state
}

/// Puts a release's own objects into a state, as the installer does before it migrates.
pub(crate) fn apply_catalog(state: &mut Vec<Object>, catalog: &Catalog) {
    for released in catalog.objects() {
        match state.iter_mut().find(|object| object.key() == released.key()) {
            None => state.push(released.clone()),
            Some(object) => {
                for field in ["rules", "role"] {
                    if let Some(value) = released.get(&format!("/{field}")) {
                        object.as_map_mut().insert(field.to_owned(), value.clone());
                    }
                }
                for field in ["labels", "annotations"] {
                    let Some(Value::Object(values)) = released.get(&format!("/metadata/{field}")) else {
                        continue;
                    };
                    for (name, value) in values {
                        object.as_map_mut()["metadata"][field][name] = value.clone();
                    }
                }
            }
        }
    }
}

pub(crate) fn mk(value: Value) -> Object {
    Object::try_from(value).expect("a test writes valid objects")
}
