//! The ClusterConfiguration, and what it asks of the cluster.

use object::{Object, ObjectKey};

use super::{Context, StorageClass, some_of};
use crate::{Finding, Snapshot, reasons, settings::cluster_configuration};

pub(super) fn check(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(check_configuration(snapshot));
    findings.extend(check_storage_class(snapshot, context.storage_class));
    findings
}

fn check_configuration(snapshot: &Snapshot) -> Option<Finding> {
    let key = cluster_configuration();
    let Some(configuration) = snapshot.get(&key) else {
        return Some(
            Finding::blocker(
                reasons::CLUSTER_CONFIGURATION_MISSING,
                "KubeSphere runs, but its ClusterConfiguration is gone, so its settings are not known",
            )
            .on(key)
            .hint("apply the ClusterConfiguration from a backup, or one that says what the cluster runs: an installer that deletes and creates it can lose it"),
        );
    };
    let spec = configuration.get("/spec");
    if spec.is_some_and(serde_json::Value::is_object) {
        return None;
    }
    let what = if spec.is_none() {
        "has no spec"
    } else {
        "has a spec that is not an object"
    };
    Some(
        Finding::blocker(
            reasons::CLUSTER_CONFIGURATION_UNREADABLE,
            format!("the ClusterConfiguration {what}, so its settings are not known"),
        )
        .hint(super::kubectl("edit", &key))
        .on(key),
    )
}

/// The annotations that mark a default StorageClass; the second is how early clusters wrote it.
const DEFAULT_CLASS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

fn is_default(class: &Object) -> bool {
    DEFAULT_CLASS
        .iter()
        .any(|name| class.annotation(name) == Some("true"))
}

fn check_storage_class(snapshot: &Snapshot, wanted: StorageClass<'_>) -> Option<Finding> {
    let classes: Vec<&Object> = snapshot.of_kind("storage.k8s.io", "StorageClass").collect();
    if snapshot
        .unreadable
        .iter()
        .any(|u| u.resource == "storageclasses.storage.k8s.io")
    {
        return None;
    }
    let names: Vec<&str> = classes.iter().map(|c| c.name()).collect();
    let there_are = if names.is_empty() {
        "there is none".to_owned()
    } else {
        format!("there are: {}", some_of(&names))
    };
    match wanted {
        StorageClass::Unchecked => None,
        StorageClass::Named(name) => (!names.contains(&name)).then(|| {
            Finding::blocker(
                reasons::STORAGE_CLASS_MISSING,
                format!("StorageClass {name}, which persistence.storageClass names, does not exist; {there_are}"),
            )
            .on(ObjectKey::cluster("storage.k8s.io", "StorageClass", name))
            .hint("create it, or set spec.persistence.storageClass of the ClusterConfiguration to one that exists")
        }),
        StorageClass::Default => {
            let defaults: Vec<&str> =
                classes.iter().filter(|c| is_default(c)).map(|c| c.name()).collect();
            match defaults.len() {
                1 => None,
                0 => Some(
                    Finding::blocker(
                        reasons::NO_DEFAULT_STORAGE_CLASS,
                        format!("no StorageClass is the default one, and persistence.storageClass names none; {there_are}"),
                    )
                    .hint(format!(
                        "kubectl annotate storageclass NAME {}=true, or set spec.persistence.storageClass",
                        DEFAULT_CLASS[0]
                    )),
                ),
                _ => Some(
                    Finding::warning(
                        reasons::SEVERAL_DEFAULT_STORAGE_CLASSES,
                        format!("several StorageClasses are the default one ({}): which one a volume gets depends on Kubernetes' version", some_of(&defaults)),
                    )
                    .hint("set spec.persistence.storageClass, or leave one default"),
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::mk::*, *};

    #[test]
    fn the_configuration_must_be_there_and_readable() {
        let mut gone = mk_sound();
        gone.objects.remove(&cluster_configuration());
        assert_eq!(
            mk_reasons(&gone, |_| {}),
            [reasons::CLUSTER_CONFIGURATION_MISSING]
        );
        let mut broken = mk_sound();
        mk_edit(&mut broken, &cluster_configuration(), "/spec", json!("a: 1"));
        assert_eq!(
            mk_reasons(&broken, |_| {}),
            [reasons::CLUSTER_CONFIGURATION_UNREADABLE]
        );
    }

    #[test]
    fn the_storage_class_asked_for_must_exist() {
        let check = |classes: &[(&str, Option<&str>)], wanted: StorageClass<'static>, expect: &[&str]| {
            let mut snapshot = mk_sound();
            snapshot.objects.retain(|key, _| key.kind != "StorageClass");
            for (name, annotation) in classes {
                let annotations = annotation.map_or_else(|| json!({}), |a| json!({a: "true"}));
                mk_add(
                    &mut snapshot,
                    mk(
                        "storage.k8s.io/v1",
                        "StorageClass",
                        name,
                        json!({"metadata": {"annotations": annotations}}),
                    ),
                );
            }
            assert_eq!(mk_reasons(&snapshot, |c| c.storage_class = wanted), expect);
        };
        let [new, old] = DEFAULT_CLASS;
        check(&[("local", Some(new))], StorageClass::Default, &[]);
        check(&[("local", Some(old))], StorageClass::Default, &[]);
        check(
            &[("local", None)],
            StorageClass::Default,
            &[reasons::NO_DEFAULT_STORAGE_CLASS],
        );
        check(
            &[("a", Some(new)), ("b", Some(old))],
            StorageClass::Default,
            &[reasons::SEVERAL_DEFAULT_STORAGE_CLASSES],
        );
        check(&[("local", None)], StorageClass::Named("local"), &[]);
        check(
            &[("local", Some(new))],
            StorageClass::Named("ceph"),
            &[reasons::STORAGE_CLASS_MISSING],
        );
        check(&[], StorageClass::Unchecked, &[]);
    }
}
