//! What older releases and killed helm runs left behind.

use std::collections::BTreeMap;

use object::{Object, ObjectKey};

use super::{Context, SYSTEM_NAMESPACE, count, kubectl};
use crate::{Finding, Snapshot, reasons};

/// Parts of releases before 3.2 that later ones do not use, by kind, namespace and name, with what they were.
const OLD_WORKLOADS: [(&str, &str, &str); 4] = [
    (
        "openpitrix-system",
        "openpitrix-hyperpitrix-deployment",
        "the App Store of KubeSphere 3.0",
    ),
    (SYSTEM_NAMESPACE, "ks-account", "the accounts of KubeSphere 2.1"),
    (
        SYSTEM_NAMESPACE,
        "ks-apigateway",
        "the API gateway of KubeSphere 2.1",
    ),
    ("kube-system", "tiller-deploy", "the server of Helm 2"),
];

/// Namespaces that whole components of old releases lived in.
const OLD_NAMESPACES: [(&str, &str); 2] = [
    ("kubesphere-alerting-system", "the alerting of KubeSphere 3.0"),
    ("openpitrix-system", "the App Store of KubeSphere 3.0"),
];

pub(super) fn check(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (namespace, name, what) in OLD_WORKLOADS {
        let key = ObjectKey::namespaced("apps", "Deployment", namespace, name);
        if snapshot.get(&key).is_some() {
            findings.push(
                Finding::warning(
                    reasons::LEGACY_LEFTOVER,
                    format!("it is left over from {what}; nothing uses it any more, and the installer leaves it alone"),
                )
                .hint(format!("when its data is not needed: {}", kubectl("delete", &key)))
                .on(key),
            );
        }
    }
    for (namespace, what) in OLD_NAMESPACES {
        let key = ObjectKey::cluster("", "Namespace", namespace);
        let is_named = OLD_WORKLOADS.iter().any(|(n, name, _)| {
            *n == namespace
                && snapshot
                    .get(&ObjectKey::namespaced("apps", "Deployment", n, name))
                    .is_some()
        });
        if snapshot.get(&key).is_some() && !is_named {
            findings.push(
                Finding::warning(
                    reasons::LEGACY_LEFTOVER,
                    format!("it is left over from {what}; nothing uses it any more, and the installer leaves it alone"),
                )
                .hint(format!("when its data is not needed: {}", kubectl("delete", &key)))
                .on(key),
            );
        }
    }
    findings.extend(check_helm2(snapshot));
    findings.extend(check_pending_releases(snapshot, context));
    findings
}

/// Helm 2 kept its records in ConfigMaps of its server.
fn check_helm2(snapshot: &Snapshot) -> Option<Finding> {
    let records = snapshot
        .of_kind("", "ConfigMap")
        .filter(|o| o.label("OWNER") == Some("TILLER"))
        .count();
    (records > 0).then(|| {
        Finding::warning(
            reasons::LEGACY_LEFTOVER,
            format!(
                "{} of Helm 2 are left over; nothing reads them any more, and the installer leaves them alone",
                count(records, "record")
            ),
        )
        .hint("kubectl get configmaps -n kube-system -l OWNER=TILLER")
    })
}

/// For how long an operation of Helm counts as one that may be under way, in seconds: for so long helm waits by default.
const UNDER_WAY: u64 = 300;

/// A release whose newest revision is pending makes helm say that another operation is in progress, for ever. When the
/// revision is young, that may be true.
fn check_pending_releases(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut newest: BTreeMap<(&str, &str), (u64, &Object)> = BTreeMap::new();
    for secret in snapshot
        .of_kind("", "Secret")
        .filter(|s| s.label("owner") == Some("helm"))
    {
        let (Some(namespace), Some(name)) = (secret.namespace(), secret.label("name")) else {
            continue;
        };
        let version = secret
            .label("version")
            .and_then(|v| v.parse().ok())
            .unwrap_or_default();
        let slot = newest.entry((namespace, name)).or_insert((version, secret));
        if version >= slot.0 {
            *slot = (version, secret);
        }
    }
    newest
        .into_iter()
        .filter(|((namespace, _), _)| {
            *namespace == SYSTEM_NAMESPACE || context.rendered.iter().any(|o| o.namespace() == Some(namespace))
        })
        .filter_map(|((namespace, name), (version, secret))| {
            let is_upgraded = context.rendered.iter().any(|object| {
                object.annotation("meta.helm.sh/release-name") == Some(name)
                    && object.annotation("meta.helm.sh/release-namespace") == Some(namespace)
            });
            let status = secret.label("status").filter(|s| s.starts_with("pending-") || *s == "uninstalling")?;
            let written = ["modifiedAt", "createdAt"]
                .iter()
                .filter_map(|label| secret.label(label)?.parse::<i64>().ok())
                .max();
            let is_young = |written: i64| context.now.is_some_and(|now| now.abs_diff(written) < UNDER_WAY);
            if written.is_some_and(is_young) {
                return Some(
                    Finding::blocker(
                        reasons::HELM_IN_PROGRESS,
                        format!(
                            "Helm release {name} is {status} since revision {version}, which was written less than \
                             {} minutes ago: helm may be at work still, and both would write the same objects",
                            UNDER_WAY / 60
                        ),
                    )
                    .on(secret.key())
                    .hint(format!(
                        "wait for it: helm history {name} -n {namespace}; if helm was killed, try again a few minutes later"
                    )),
                );
            }
            let (consequence, hint) = if is_upgraded {
                (
                    "the upgrade does not need helm, and resolves it by a further revision in Helm's records",
                    format!("make sure that no helm is at work still: helm history {name} -n {namespace}"),
                )
            } else {
                (
                    "the upgrade leaves this release alone",
                    format!("resolve it with helm rollback {name} -n {namespace}, or helm uninstall where it is not needed"),
                )
            };
            Some(
                Finding::warning(
                    reasons::HELM_RELEASE_PENDING,
                    format!(
                        "Helm release {name} is {status} since revision {version}: helm was killed in the middle, and \
                         refuses every further upgrade of it; {consequence}"
                    ),
                )
                .on(secret.key())
                .hint(hint),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::mk::*, *};

    #[test]
    fn leftovers_of_old_releases_are_named_once() {
        let check = |objects: Vec<Object>, expect: usize| {
            let mut snapshot = mk_sound();
            for object in objects {
                mk_add(&mut snapshot, object);
            }
            let found = mk_reasons(&snapshot, |_| {});
            assert_eq!(found, vec![reasons::LEGACY_LEFTOVER; expect]);
        };
        let deployment = |name: &str| mk("apps/v1", "Deployment", name, json!({}));
        check(vec![deployment("default/mine")], 0);
        check(
            vec![
                deployment("kubesphere-system/ks-account"),
                deployment("kubesphere-system/ks-apigateway"),
            ],
            2,
        );
        let namespace = |name: &str| mk("v1", "Namespace", name, json!({}));
        check(vec![namespace("kubesphere-alerting-system")], 1);
        check(
            vec![
                namespace("openpitrix-system"),
                deployment("openpitrix-system/openpitrix-hyperpitrix-deployment"),
            ],
            1,
        );
        let record = mk(
            "v1",
            "ConfigMap",
            "kube-system/ks-core.v1",
            json!({"metadata": {"labels": {"OWNER": "TILLER"}}}),
        );
        check(vec![record], 1);
    }

    #[test]
    fn a_killed_helm_is_explained() {
        let check = |namespace: &str, revisions: &[(&str, &str)], expect: &[&str]| {
            let mut snapshot = mk_sound();
            for (version, status) in revisions {
                mk_add(
                    &mut snapshot,
                    mk(
                        "v1",
                        "Secret",
                        &format!("{namespace}/sh.helm.release.v1.ks-core.v{version}"),
                        json!({"metadata": {"labels": {"owner": "helm", "name": "ks-core", "version": version, "status": status}}}),
                    ),
                );
            }
            assert_eq!(mk_reasons(&snapshot, |_| {}), expect);
        };
        check(
            SYSTEM_NAMESPACE,
            &[("9", "superseded"), ("10", "pending-upgrade")],
            &[reasons::HELM_RELEASE_PENDING],
        );
        check(
            SYSTEM_NAMESPACE,
            &[("9", "pending-upgrade"), ("10", "deployed")],
            &[],
        );
        check("elsewhere", &[("1", "pending-install")], &[]);
    }

    #[test]
    fn only_what_is_upgraded_is_resolved() {
        let check = |release: &str, expect: &str| {
            let mut snapshot = mk_sound();
            let labels =
                json!({"owner": "helm", "name": "ks-core", "version": "2", "status": "pending-upgrade"});
            let name = format!("{SYSTEM_NAMESPACE}/sh.helm.release.v1.ks-core.v2");
            let labels = json!({"metadata": {"labels": labels}});
            mk_add(&mut snapshot, mk("v1", "Secret", &name, labels));
            let marks = json!({"meta.helm.sh/release-name": release,
                "meta.helm.sh/release-namespace": SYSTEM_NAMESPACE});
            let marks = json!({"metadata": {"annotations": marks}});
            let rendered = mk("v1", "ConfigMap", &format!("{SYSTEM_NAMESPACE}/a"), marks);
            let found = mk_checked(&snapshot, |context| context.rendered = vec![rendered]);
            assert!(found[0].message.contains(expect), "{release}: {found:?}");
        };
        check("ks-core", "resolves it by a further revision");
        check("snapshot-controller", "leaves this release alone");
    }

    #[test]
    fn a_helm_that_may_be_at_work_is_waited_for() {
        let check = |age: i64, expect: &str| {
            let mut snapshot = mk_sound();
            let labels = json!({"owner": "helm", "name": "ks-core", "version": "2", "status": "pending-upgrade",
                "createdAt": (1_000_000 - age).to_string()});
            let name = format!("{SYSTEM_NAMESPACE}/sh.helm.release.v1.ks-core.v2");
            mk_add(
                &mut snapshot,
                mk("v1", "Secret", &name, json!({"metadata": {"labels": labels}})),
            );
            let found = mk_reasons(&snapshot, |context| context.now = Some(1_000_000));
            assert_eq!(found, [expect], "{age}");
        };
        check(0, reasons::HELM_IN_PROGRESS);
        check(299, reasons::HELM_IN_PROGRESS);
        check(-10, reasons::HELM_IN_PROGRESS);
        check(301, reasons::HELM_RELEASE_PENDING);
    }
}
