//! From nothing: the decision, purely.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use object::{Object, ObjectKey};
use release::Releases;
use serde_json::{Value, json};
use upgrade::{
    Action, Decision, Install, Options, ServedResource, Severity, Snapshot, Unreadable,
    cluster_configuration_key as configuration_key, decide,
    install::{self, DEFAULT_CONFIGURATION, FirstPassword},
    preflight::check_permissions,
    reasons,
};

fn mk(api_version: &str, kind: &str, name: &str, fields: Value) -> Object {
    let mut value = fields;
    value["apiVersion"] = api_version.into();
    value["kind"] = kind.into();
    let (namespace, name) = name
        .split_once('/')
        .map_or((None, name), |(namespace, name)| (Some(namespace), name));
    value["metadata"]["name"] = name.into();
    if let Some(namespace) = namespace {
        value["metadata"]["namespace"] = namespace.into();
    }
    Object::try_from(value).unwrap()
}

/// A cluster without KubeSphere.
fn mk_fresh() -> Snapshot {
    let default =
        json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    let mut snapshot = Snapshot::from_objects(
        "v1.20.2",
        [
            mk(
                "v1",
                "Namespace",
                "kube-system",
                json!({"metadata": {"uid": "u"}}),
            ),
            mk("v1", "Namespace", "default", json!({})),
            mk("storage.k8s.io/v1", "StorageClass", "local", default),
            mk(
                "v1",
                "Node",
                "node1",
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            ),
        ],
    );
    snapshot.served = [
        ("", "v1", "ConfigMap", true),
        ("", "v1", "Namespace", false),
        ("", "v1", "PersistentVolumeClaim", true),
        ("", "v1", "Secret", true),
        ("", "v1", "Service", true),
        ("", "v1", "ServiceAccount", true),
        ("apps", "v1", "DaemonSet", true),
        ("apps", "v1", "Deployment", true),
        ("apps", "v1", "StatefulSet", true),
        ("policy", "v1", "PodDisruptionBudget", true),
        ("policy", "v1beta1", "PodDisruptionBudget", true),
        ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", false),
        (
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingWebhookConfiguration",
            false,
        ),
        (
            "admissionregistration.k8s.io",
            "v1",
            "MutatingWebhookConfiguration",
            false,
        ),
        ("rbac.authorization.k8s.io", "v1", "Role", true),
        ("rbac.authorization.k8s.io", "v1", "RoleBinding", true),
        ("rbac.authorization.k8s.io", "v1", "ClusterRole", false),
        ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", false),
    ]
    .map(|(group, version, kind, namespaced)| ServedResource {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        resource: format!("{}s", kind.to_lowercase()),
        namespaced,
    })
    .to_vec();
    snapshot
}

fn mk_add(snapshot: &mut Snapshot, object: Object) {
    snapshot.objects.insert(object.key(), object);
}

fn default() -> Object {
    install::read_configuration(DEFAULT_CONFIGURATION).unwrap()
}

fn with(settings: &[&str]) -> Object {
    let mut configuration = default();
    for setting in settings {
        install::set(&mut configuration, setting).unwrap();
    }
    configuration
}

/// A cluster in which somebody applied the ClusterConfiguration, and nothing else is there.
fn mk_configured() -> Snapshot {
    let mut snapshot = mk_fresh();
    for object in install::foundation(&mk_fresh(), &default()) {
        mk_add(&mut snapshot, object);
    }
    snapshot
}

/// One in which an installation was cut when ks-apiserver was there already.
fn mk_begun(tag: &str) -> Snapshot {
    let mut snapshot = mk_configured();
    let container = json!({"name": "ks-apiserver", "image": format!("kubesphere/ks-apiserver:{tag}")});
    mk_add(
        &mut snapshot,
        mk(
            "apps/v1",
            "Deployment",
            "kubesphere-system/ks-apiserver",
            json!({"spec": {"template": {"spec": {"containers": [container]}}}}),
        ),
    );
    snapshot
}

fn mk_record(snapshot: &mut Snapshot) {
    let labels = json!({"owner": "helm", "name": "ks-core", "status": "deployed", "version": "1"});
    mk_add(
        snapshot,
        mk(
            "v1",
            "Secret",
            "kubesphere-system/sh.helm.release.v1.ks-core.v1",
            json!({"metadata": {"labels": labels}}),
        ),
    );
}

fn mk_version(snapshot: &mut Snapshot, version: &str) {
    let mut configuration = snapshot.get(&configuration_key()).unwrap().clone();
    configuration
        .as_map_mut()
        .insert("status".into(), json!({"core": {"version": version}}));
    mk_add(snapshot, configuration);
}

fn options(install: Install) -> Options {
    Options {
        install,
        ..Options::default()
    }
}

fn decided(snapshot: &Snapshot, install: Install) -> Decision {
    decide(snapshot, &Releases::embedded().unwrap(), &options(install))
}

fn installed(snapshot: &Snapshot, configuration: &Object) -> Decision {
    let releases = Releases::embedded().unwrap();
    install::decide_installation(snapshot, configuration, &releases, &options(Install::Only))
}

fn blockers(decision: &Decision) -> Vec<&str> {
    let blockers = decision
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Blocker);
    blockers.map(|f| f.reason.as_str()).collect()
}

fn has(decision: &Decision, reason: &str) -> bool {
    decision.findings.iter().any(|finding| finding.reason == reason)
}

#[test]
fn an_empty_cluster_gets_the_foundation_first_and_the_version_last() {
    let decision = installed(&mk_fresh(), &default());
    assert_eq!(blockers(&decision), [""; 0], "{:#?}", decision.findings);
    assert_eq!(decision.from, None);
    let plan = decision.plan.unwrap();
    assert!(plan.is_installation());
    let names: Vec<_> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
    // What the settings enable by default comes after the core; nothing that the core needs is among it.
    let (core, components) = names.split_at(names.iter().position(|name| name.contains('/')).unwrap());
    let mut lanes: Vec<_> = components
        .iter()
        .map(|name| name.split_once('/').expect("a component's stage").0)
        .collect();
    lanes.dedup();
    assert_eq!(
        lanes,
        ["snapshot-controller", "monitoring", "notification-manager"]
    );
    assert_eq!(
        core,
        [
            "foundation",
            "begun",
            "namespaces",
            "secrets",
            "definitions",
            "role-templates",
            "core",
            "workloads",
            "webhooks",
            "helm-record",
            "completion"
        ]
    );
    let first: Vec<_> = plan.stages[0]
        .steps
        .iter()
        .filter(|step| !matches!(step.action, Action::Wait { .. }))
        .map(|step| (step.object.kind.as_str(), step.before.is_none()))
        .collect();
    assert_eq!(
        first,
        [
            ("Namespace", true),
            ("CustomResourceDefinition", true),
            ("ClusterConfiguration", true)
        ]
    );
    // Nobody has lost anything, and there is nothing that does not run.
    assert!(plan.impact.subjects.is_empty());
    for reason in [
        reasons::COMPONENT_MISSING,
        reasons::NOT_INSTALLED,
        reasons::CLUSTER_CONFIGURATION_MISSING,
    ] {
        assert!(
            !plan.findings.iter().any(|finding| finding.reason == reason),
            "{reason}"
        );
    }
}

#[test]
fn a_plan_of_it_holds_no_secret() {
    let decision = installed(&mk_fresh(), &with(&["authentication.adminPassword=Initial88"]));
    assert_eq!(blockers(&decision), [""; 0]);
    let plan = decision.plan.unwrap();
    assert!(!serde_json::to_string(&plan).unwrap().contains("Initial88"));
    assert!(!format!("{plan:?} {:?}", decision.findings).contains("Initial88"));
}

#[test]
fn who_applied_the_settings_gets_the_same_but_for_the_foundation() {
    let decision = decided(&mk_configured(), Install::WhereAbsent);
    assert_eq!(blockers(&decision), [""; 0], "{:#?}", decision.findings);
    let plan = decision.plan.unwrap();
    let whole = installed(&mk_fresh(), &default()).plan.unwrap();
    assert_eq!(plan.stages.len() + 1, whole.stages.len());
    assert!(plan.is_installation());
}

#[test]
fn whoever_does_not_want_an_installation_is_told_how_to() {
    let check = |snapshot: &Snapshot, install: Install, expect: &[&str]| {
        let decision = decided(snapshot, install);
        assert_eq!(blockers(&decision), expect);
        let finding = decision.findings.iter().find(|f| f.severity == Severity::Blocker);
        if let Some(finding) = finding {
            assert!(
                finding.hint.as_ref().unwrap().contains("ks-installer install"),
                "{finding:?}"
            );
        }
    };
    check(&mk_fresh(), Install::No, &[reasons::NOT_INSTALLED]);
    check(&mk_configured(), Install::No, &[reasons::NOT_INSTALLED]);
    check(&mk_fresh(), Install::WhereAbsent, &[reasons::NOT_INSTALLED]);
    check(&mk_configured(), Install::WhereAbsent, &[]);
}

#[test]
fn one_that_was_begun_goes_on_until_the_version_is_written() {
    let begun = mk_begun("v3.3.1");
    for install in [Install::Only, Install::WhereAbsent] {
        let decision = decided(&begun, install);
        assert_eq!(blockers(&decision), [""; 0], "{:#?}", decision.findings);
        assert!(has(&decision, reasons::INSTALLATION_INTERRUPTED));
        assert!(!has(&decision, reasons::COMPONENT_MISSING), "it need not run yet");
        assert!(decision.plan.unwrap().is_installation());
    }
    // The tag that the settings ask for.
    let mut development = mk_begun("nightly");
    mk_add(&mut development, with(&["dev_tag=nightly"]));
    assert!(
        decided(&development, Install::Only)
            .plan
            .unwrap()
            .is_installation()
    );
    assert_eq!(decided(&begun, Install::No).from.as_deref(), Some("v3.3.1"));

    // With a record it may be that only the status was lost: a backup is made, unless an installation alone is wanted.
    let mut recorded = begun.clone();
    mk_record(&mut recorded);
    assert_eq!(
        decided(&recorded, Install::WhereAbsent).from.as_deref(),
        Some("v3.3.1")
    );
    assert_eq!(decided(&recorded, Install::Only).from, None);

    let mut done = begun;
    mk_version(&mut done, "v3.3.1");
    for install in [Install::Only, Install::WhereAbsent] {
        let decision = decided(&done, install);
        assert_eq!(decision.from.as_deref(), Some("v3.3.1"));
        assert!(has(&decision, reasons::ALREADY_AT_TARGET));
    }
}

#[test]
fn a_platform_in_use_is_no_installation_even_if_its_status_was_lost() {
    let mut snapshot = mk_begun("v3.3.1");
    mk_record(&mut snapshot);
    let binding = json!({
        "roleRef": {"apiGroup": "iam.kubesphere.io", "kind": "GlobalRole", "name": "users-manager"},
        "subjects": [{"apiGroup": "iam.kubesphere.io", "kind": "User", "name": "anna"}],
        "metadata": {"labels": {"iam.kubesphere.io/user-ref": "anna"}},
    });
    mk_add(
        &mut snapshot,
        mk("iam.kubesphere.io/v1alpha2", "User", "anna", json!({})),
    );
    mk_add(
        &mut snapshot,
        mk(
            "iam.kubesphere.io/v1alpha2",
            "GlobalRoleBinding",
            "anna-users-manager",
            binding,
        ),
    );
    let decision = decided(&snapshot, Install::Only);
    assert_eq!(
        blockers(&decision),
        [reasons::ALREADY_INSTALLED],
        "{:#?}",
        decision.findings
    );
    assert_eq!(blockers(&decided(&snapshot, Install::WhereAbsent)), [""; 0]);
}

#[test]
fn another_version_is_left_to_an_upgrade() {
    let check = |version: &str, noted: bool, expect: &[&str]| {
        let mut snapshot = mk_begun(version);
        if noted {
            mk_version(&mut snapshot, version);
        }
        let decision = decided(&snapshot, Install::Only);
        assert_eq!(blockers(&decision), expect, "{version}");
        assert_eq!(decision.from.as_deref(), Some(version));
        // The operator upgrades it.
        assert!(!has(
            &decided(&snapshot, Install::WhereAbsent),
            reasons::ALREADY_INSTALLED
        ));
    };
    check("v3.2.1", true, &[reasons::ALREADY_INSTALLED]);
    check("v3.2.1", false, &[reasons::ALREADY_INSTALLED]);
    check("v3.1.1", true, &[reasons::VERSION_TOO_OLD]);
    check("v3.4.0", true, &[reasons::VERSION_PAST_TARGET]);
}

#[test]
fn a_kubesphere_without_its_configuration_gets_none() {
    let mut snapshot = mk_begun("v3.3.1");
    snapshot.objects.remove(&configuration_key());
    let decision = installed(&snapshot, &default());
    assert_eq!(blockers(&decision), [reasons::CLUSTER_CONFIGURATION_MISSING]);
    assert!(decision.plan.is_none());
}

#[test]
fn what_stands_in_the_way_of_it_is_found() {
    let check = |edit: &dyn Fn(&mut Snapshot), settings: &[&str], expect: &[&str]| {
        let mut snapshot = mk_fresh();
        edit(&mut snapshot);
        let decision = installed(&snapshot, &with(settings));
        assert_eq!(blockers(&decision), expect, "{:#?}", decision.findings);
    };
    let nothing: &dyn Fn(&mut Snapshot) = &|_| {};
    check(
        &|s| "v1.18.20".clone_into(&mut s.kubernetes),
        &[],
        &[reasons::KUBERNETES_UNSUPPORTED],
    );
    check(
        &|s| s.objects.retain(|key, _| key.kind != "StorageClass"),
        &[],
        &[reasons::NO_DEFAULT_STORAGE_CLASS],
    );
    check(
        nothing,
        &["persistence.storageClass=fast"],
        &[reasons::STORAGE_CLASS_MISSING],
    );
    check(nothing, &["enableHA=true"], &[]);
    check(
        nothing,
        &["authentication.adminPassword=short"],
        &["AdminPasswordRefused"],
    );
    check(nothing, &["terminal.timeout=soon"], &["InvalidSetting"]);
    check(
        &|s| {
            let dying = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Terminating"}});
            mk_add(s, mk("v1", "Namespace", "kubesphere-system", dying));
        },
        &[],
        &[reasons::NAMESPACE_TERMINATING],
    );
    // A webhook of somebody's own that answers for nothing would refuse the very first write.
    check(
        &|s| {
            let webhook = json!({"webhooks": [{
                "name": "all.example.com", "failurePolicy": "Fail",
                "clientConfig": {"service": {"namespace": "gone", "name": "gone"}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["namespaces"], "operations": ["CREATE"], "scope": "*"}],
            }]});
            mk_add(
                s,
                mk(
                    "admissionregistration.k8s.io/v1",
                    "ValidatingWebhookConfiguration",
                    "all",
                    webhook,
                ),
            );
        },
        &[],
        &[reasons::WEBHOOK_REFUSES_WRITES],
    );
    check(
        &|s| {
            s.unreadable.push(Unreadable {
                resource: "deployments.apps".into(),
                message: "forbidden".into(),
            });
        },
        &[],
        &[reasons::UNREADABLE_RESOURCE, reasons::VERSION_UNREADABLE],
    );
}

#[test]
fn what_may_not_be_written_is_asked_by_its_right_name_before_it_is_served() {
    let snapshot = mk_fresh();
    let plan = installed(&snapshot, &default()).plan.unwrap();
    let required = plan.permissions(&snapshot);
    let asked = |verb: &str, group: &str, resource: &str| {
        required
            .iter()
            .any(|p| (p.verb.as_str(), p.group.as_str(), p.resource.as_str()) == (verb, group, resource))
    };
    for (group, resource) in [
        ("", "namespaces"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("installer.kubesphere.io", "clusterconfigurations"),
        ("iam.kubesphere.io", "users"),
        ("iam.kubesphere.io", "globalroles"),
        ("iam.kubesphere.io", "rolebases"),
        ("tenant.kubesphere.io", "workspacetemplates"),
    ] {
        assert!(asked("create", group, resource), "{resource}.{group}");
    }
    let allowed: BTreeMap<_, _> = required
        .iter()
        .map(|permission| (permission.clone(), permission.resource != "clusterconfigurations"))
        .collect();
    let findings = check_permissions(&required, &allowed);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].reason, reasons::PERMISSION_MISSING);
}

#[test]
fn a_configuration_is_read_from_whatever_cluster_it_comes_from() {
    let text = "{apiVersion: installer.kubesphere.io/v1alpha1, kind: ClusterConfiguration,
        metadata: {name: ks-installer, uid: u, resourceVersion: '1', labels: {a: b}, annotations: {c: d,
            kubectl.kubernetes.io/last-applied-configuration: '{}'}},
        spec: {}, status: {core: {version: v3.2.1}}}";
    let read = install::read_configuration(text).unwrap();
    assert_eq!(
        read.as_value(),
        &json!({"apiVersion": "installer.kubesphere.io/v1alpha1", "kind": "ClusterConfiguration",
            "metadata": {"name": "ks-installer", "namespace": "kubesphere-system", "labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {}})
    );
    let check = |text: &str, words: &str| {
        let error = install::read_configuration(text).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    check("", "0 objects");
    check("a: [", "neither YAML nor JSON");
    check("a: 1", "no object of Kubernetes");
    check(
        &text.replace("name: ks-installer", "name: mine"),
        "kubesphere-system/mine",
    );
}

#[test]
fn settings_are_set_by_path() {
    let check = |settings: &[&str], pointer: &str, expect: Option<Value>| {
        assert_eq!(with(settings).get(pointer).cloned(), expect, "{settings:?}");
    };
    check(
        &["common.redis.enabled=true"],
        "/spec/common/redis/enabled",
        Some(json!(true)),
    );
    check(
        &["local_registry=registry.example.com:5000"],
        "/spec/local_registry",
        Some(json!("registry.example.com:5000")),
    );
    check(
        &["persistence.storageClass="],
        "/spec/persistence/storageClass",
        Some(json!("")),
    );
    check(
        &["tolerations=[{key: a}]"],
        "/spec/tolerations",
        Some(json!([{"key": "a"}])),
    );
    check(
        &["authentication.adminPassword=a=b"],
        "/spec/authentication/adminPassword",
        Some(json!("a=b")),
    );
    check(
        &[r"nodeSelector.example\.com/zone=a"],
        "/spec/nodeSelector/example.com~1zone",
        Some(json!("a")),
    );
    check(&["terminal=null"], "/spec/terminal", None);
    let check = |setting: &str, words: &str| {
        let error = install::set(&mut default(), setting).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains("secret"), "no values: {error}");
    };
    check("terminal", "path=value");
    check("=secret", "path=value");
    check("a..b=secret", "path=value");
    check("etcd.port.a=secret", "spec.etcd.port is no map");
}

#[test]
fn what_is_given_is_compared_with_what_is_there() {
    let mut snapshot = mk_configured();
    mk_version(&mut snapshot, "v3.3.1");
    assert_eq!(install::mismatches(&default(), &snapshot), [""; 0]);
    assert_eq!(install::mismatches(&default(), &mk_fresh()), [""; 0]);
    assert_eq!(
        install::mismatches(
            &with(&["authentication.adminPassword=Initial88", "etcd.port=1"]),
            &snapshot
        ),
        ["spec.authentication.adminPassword", "spec.etcd.port"]
    );
    let mut annotated = default();
    annotated.as_map_mut()["metadata"]["annotations"] = json!({"a": "b"});
    assert_eq!(
        install::mismatches(&annotated, &snapshot),
        ["metadata.annotations[a]"]
    );
}

#[test]
fn the_first_password_is_named_as_long_as_it_counts() {
    let check = |initialized: bool, has_key: bool, given: &str, expect: Option<FirstPassword>| {
        let mut snapshot = mk_configured();
        let annotations = if initialized {
            json!({})
        } else {
            json!({"iam.kubesphere.io/uninitialized": "true"})
        };
        mk_add(
            &mut snapshot,
            mk(
                "iam.kubesphere.io/v1alpha2",
                "User",
                "admin",
                json!({"metadata": {"annotations": annotations}}),
            ),
        );
        let data = if has_key {
            json!({"initAdminPassword": "eA=="})
        } else {
            json!({})
        };
        mk_add(
            &mut snapshot,
            mk(
                "v1",
                "Secret",
                "kubesphere-system/kubesphere-secret",
                json!({"data": data}),
            ),
        );
        mk_add(
            &mut snapshot,
            with(&[&format!("authentication.adminPassword={given}")]),
        );
        assert_eq!(install::first_password(&snapshot), expect);
    };
    let made = FirstPassword::Made {
        secret: ObjectKey::namespaced("", "Secret", "kubesphere-system", "kubesphere-secret"),
        key: "initAdminPassword",
    };
    check(false, true, "", Some(made));
    check(false, true, "Initial88", Some(FirstPassword::Given));
    check(true, true, "", None);
    check(false, false, "", None);
}
