use std::collections::BTreeSet;

use object::{Object, ObjectKey};
use release::{Files, Releases};
use serde_json::json;

use super::*;
use crate::{
    Options, Snapshot, decide,
    decide::{OPERATOR_LABEL, is_operator},
};

fn mk_reads() -> Reads {
    let own = |kinds: &[(&str, &str)]| -> Vec<(String, String)> {
        kinds
            .iter()
            .map(|(group, kind)| ((*group).to_owned(), (*kind).to_owned()))
            .collect()
    };
    Reads {
        everywhere: own(&[("", "Namespace"), ("rbac.authorization.k8s.io", "ClusterRole")]),
        platform: own(&[("", "Endpoints"), ("", "Secret"), ("apps", "Deployment")]),
    }
}

fn mk_rights() -> Rights {
    let releases = Releases::embedded().unwrap();
    let is_platform = |group: &str| group.ends_with(".kubesphere.io");
    rights(&releases, &Files::embedded(), &mk_reads(), is_platform).unwrap()
}

fn mk(verb: &str, resource: &str, namespace: Option<&str>, name: Option<&str>) -> Permission {
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    Permission {
        verb: verb.into(),
        group: group.into(),
        resource: resource.into(),
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
    }
}

/// Where components have their objects. In all others the installer may not write what only these need.
const NAMESPACES: [&str; 14] = [
    "argocd",
    "gatekeeper-system",
    "istio-system",
    "kube-federation-system",
    "kube-system",
    "kubeedge",
    "kubesphere-controls-system",
    "kubesphere-devops-system",
    "kubesphere-devops-worker",
    "kubesphere-logging-system",
    "kubesphere-monitoring-federated",
    "kubesphere-monitoring-system",
    "kubesphere-system",
    "weave",
];

#[test]
fn what_is_needed_is_allowed_and_nothing_else() {
    let rights = mk_rights();
    let check = |verb: &str, resource: &str, namespace: Option<&str>, name: Option<&str>, expect: bool| {
        let asked = mk(verb, resource, namespace, name);
        assert_eq!(rights.allows(&asked), expect, "{asked:?}");
    };
    let system = Some("kubesphere-system");
    check("get", "endpoints", Some("kube-system"), None, true);
    check("patch", "deployments.apps", system, None, true);
    check("create", "secrets", system, None, true);
    check(
        "patch",
        "roles.rbac.authorization.k8s.io",
        Some("project"),
        None,
        true,
    );
    check("delete", "globalroles.iam.kubesphere.io", None, None, true);
    check("list", "anything.iam.kubesphere.io", None, None, true);
    check(
        "patch",
        "clusterconfigurations.installer.kubesphere.io",
        system,
        None,
        true,
    );

    let bind = "clusterroles.rbac.authorization.k8s.io";
    check("bind", bind, None, Some("cluster-admin"), true);
    check("bind", bind, None, Some("another"), false);
    check("bind", bind, None, None, false);

    check("patch", "deployments.apps", Some("project"), None, false);
    check("create", "secrets", Some("project"), None, false);
    check("create", "secrets", None, None, false);
    check("delete", "users.iam.kubesphere.io", None, None, false);
    check("delete", "namespaces", None, None, false);
    check("create", "pods", system, None, false);
    check(
        "delete",
        "customresourcedefinitions.apiextensions.k8s.io",
        None,
        None,
        false,
    );
    check(
        "create",
        "roles.rbac.authorization.k8s.io",
        Some("project"),
        None,
        false,
    );
    check("list", "anything.cert-manager.io", None, None, false);
    check("update", "nodes", None, None, false);
}

/// What a plan asks the API server about is computed elsewhere, from its steps.
#[test]
fn every_step_of_an_upgrade_is_covered() {
    let object = |value| Object::try_from(value).unwrap();
    let rights = mk_rights();
    let namespace = |name: &str| {
        object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": name}}))
    };
    let role = |kind: &str, group: &str, name: &str| {
        object(
            json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": name, "uid": name}}),
        )
    };
    let configuration = object(json!({
        "apiVersion": "installer.kubesphere.io/v1alpha1", "kind": "ClusterConfiguration",
        "metadata": {"name": "ks-installer", "namespace": "kubesphere-system"},
        "spec": {"console": {"port": 1}}, "status": {"core": {"version": "v3.2.1"}},
    }));
    let snapshot = Snapshot::from_objects(
        "v1.20.2",
        [
            namespace("kube-system"),
            namespace("kubesphere-system"),
            namespace("project"),
            configuration,
            role("GlobalRole", "iam.kubesphere.io", "users-manager"),
        ],
    );
    let releases = Releases::embedded().unwrap();
    let plan = decide(&snapshot, &releases, &Options::default()).plan.unwrap();
    assert!(plan.writes() > 100, "{}", plan.writes());
    let asked = plan.permissions(&snapshot);
    assert!(asked.iter().any(|p| p.verb == "bind"), "{asked:#?}");
    // Of reads, only what the scope gives is known here.
    let missing: Vec<_> = asked
        .iter()
        .filter(|p| !["get", "list"].contains(&p.verb.as_str()))
        .filter(|p| !rights.allows(p))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn rules_share_nothing_with_the_whole_cluster() {
    let rights = mk_rights();
    for namespace in rights.namespaces() {
        for rule in rights.rules(Some(namespace)) {
            for verb in &rule.verbs {
                let everywhere = mk(
                    verb,
                    &format!("{}.{}", rule.resources[0], rule.groups[0]),
                    None,
                    None,
                );
                assert!(!rights.allows(&everywhere), "{rule:?}");
            }
        }
    }
    // One wildcard only, and it is for reading.
    for rule in rights.rules(None) {
        if rule.resources.contains(&"*".to_owned()) {
            assert_eq!(rule.verbs, ["get", "list"]);
        }
        assert!(!rule.groups.contains(&"*".to_owned()) && !rule.verbs.contains(&"*".to_owned()));
    }
}

#[test]
fn the_manifest_has_what_is_documented_and_nothing_else() {
    let releases = Releases::embedded().unwrap();
    let release = releases.latest().unwrap();
    let text = manifest(release, &mk_rights());
    let objects: Vec<Object> = object::parse_documents(&text)
        .unwrap()
        .into_iter()
        .map(|value| Object::try_from(value).unwrap())
        .collect();
    let keys: Vec<String> = objects.iter().map(|object| object.key().to_string()).collect();
    let key = |group: &str, kind: &str, namespace: Option<&str>, name: &str| {
        ObjectKey {
            group: group.into(),
            kind: kind.into(),
            namespace: namespace.map(str::to_owned),
            name: name.into(),
        }
        .to_string()
    };
    let (rbac, system) = ("rbac.authorization.k8s.io", Some("kubesphere-system"));
    let name = "ks-installer";
    let definition = "clusterconfigurations.installer.kubesphere.io";
    let mut expect = vec![key(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        None,
        definition,
    )];
    let own = NAMESPACES.iter().filter(|namespace| **namespace != "kube-system");
    expect.extend(own.map(|namespace| key("", "Namespace", None, namespace)));
    expect.extend([
        key("", "ServiceAccount", system, name),
        key(rbac, "ClusterRole", None, name),
        key(rbac, "ClusterRoleBinding", None, name),
    ]);
    for namespace in NAMESPACES {
        expect.push(key(rbac, "Role", Some(namespace), name));
        expect.push(key(rbac, "RoleBinding", Some(namespace), name));
    }
    expect.extend([
        key("", "Service", system, "ks-installer-metrics"),
        key("apps", "Deployment", system, name),
    ]);
    assert_eq!(keys, expect);

    let deployment = objects.last().unwrap();
    let pod = deployment.get("/spec/template/spec").unwrap();
    assert_eq!(
        deployment.get_str("/spec/selector/matchLabels/app"),
        Some("ks-installer")
    );
    assert!(is_operator(deployment));
    assert_eq!(
        deployment.get("/spec/template/metadata/labels"),
        Some(&json!({"app": "ks-installer", OPERATOR_LABEL.0: OPERATOR_LABEL.1}))
    );
    let version = release.version.to_string();
    let container = &pod["containers"][0];
    assert_eq!(container["image"], format!("kubesphere/ks-installer:{version}"));
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(volumes.iter().all(|volume| volume.get("hostPath").is_none()));
}

#[test]
fn every_reason_is_used_and_told() {
    let rights = mk_rights();
    let used: BTreeSet<Reason> = rights
        .iter()
        .flat_map(|(_, verbs)| verbs.values().flatten().map(|why| why.reason))
        .collect();
    let page = document(&rights);
    for reason in &used {
        assert!(page.contains(reason.text()), "{reason:?}");
    }
    assert!(used.contains(&Reason::Escalate) && used.contains(&Reason::Backup));
    assert!(!rights.wildcards.is_empty() && page.contains("cluster-admin"));
}
