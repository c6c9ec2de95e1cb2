//! What keeps an upgrade from starting: it is named, and nothing is written.

use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

use crate::{installer::serve, support};

/// `preflight`, `plan` and `upgrade` say no for this reason, and nothing is written.
#[track_caller]
fn check(sandbox: Sandbox, reason: &str) {
    let served = serve(sandbox);
    for command in [
        &["preflight"][..],
        &["plan"],
        &["upgrade", "--yes"],
        &["rehearse"],
    ] {
        let mut json = command.to_vec();
        json.extend(["-o", "json"]);
        let report = served.check_reads(&json, 1).json();
        let findings = report["findings"]
            .as_array()
            .unwrap_or_else(|| panic!("{command:?}: {report}"));
        let found = findings
            .iter()
            .find(|finding| finding["reason"] == reason && finding["severity"] == "blocker");
        assert!(
            found.is_some(),
            "{command:?} does not say {reason}: {findings:#?}"
        );
        let text = served.check_reads(command, 1);
        assert!(
            text.out.contains(&format!("[{reason}]")),
            "{command:?}: {}",
            text.out
        );
    }
    served.check_reads(&["status"], 0);
}

fn configuration(objects: &mut [Value]) -> &mut Value {
    support::find_mut(objects, "ClusterConfiguration", "ks-installer")
}

fn at_version(version: &str) -> Sandbox {
    support::tenants_but(|objects| configuration(objects)["status"]["core"]["version"] = version.into())
}

#[test]
fn an_older_version() {
    check(at_version("v3.1.1"), "VersionTooOld");
}

#[test]
fn a_newer_version() {
    check(at_version("v3.4.1"), "VersionPastTarget");
}

#[test]
fn a_version_that_is_none() {
    // Where the status says nothing, the image does.
    let sandbox = support::tenants_but(|objects| {
        configuration(objects)["status"]["core"]["version"] = "latest".into();
        let deployment = support::find_mut(objects, "Deployment", "ks-apiserver");
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] =
            "kubesphere/ks-apiserver:latest".into();
    });
    check(sandbox, "VersionUnreadable");
    let served = serve(at_version("latest"));
    assert_eq!(
        served.check_reads(&["preflight", "-o", "json"], 0).json()["from"],
        "v3.2.1"
    );
}

#[test]
fn an_unsupported_kubernetes() {
    let objects = support::read(&support::tenants_file());
    // What Kubernetes 1.25 no longer serves cannot be there.
    let is_served = |object: &&Value| !object["apiVersion"].as_str().unwrap().contains("beta");
    let objects: Vec<Value> = objects.iter().filter(is_served).cloned().collect();
    check(
        support::mk_cluster_of("v1.25.3", objects),
        "KubernetesUnsupported",
    );
}

#[test]
fn a_storage_class_that_does_not_exist() {
    let sandbox = support::tenants_but(|objects| {
        configuration(objects)["spec"]["persistence"]["storageClass"] = "gone".into();
    });
    check(sandbox, "StorageClassMissing");
    let sandbox = support::tenants_but(|objects| objects.retain(|object| object["kind"] != "StorageClass"));
    check(sandbox, "NoDefaultStorageClass");
}

#[test]
fn no_cluster_configuration() {
    let sandbox =
        support::tenants_but(|objects| objects.retain(|object| object["kind"] != "ClusterConfiguration"));
    check(sandbox, "ClusterConfigurationMissing");
}

#[test]
fn no_kubesphere() {
    check(Sandbox::new(Config::default()), "NotInstalled");
}

#[test]
fn a_setting_of_the_wrong_type() {
    let sandbox = support::tenants_but(|objects| {
        configuration(objects)["spec"]["common"]["core"]["console"]["port"] = "high".into();
    });
    check(sandbox, "InvalidSetting");
}

fn webhook(name: &str, group: &str, resource: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [{
            "name": name, "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "matchPolicy": "Equivalent", "timeoutSeconds": 10, "namespaceSelector": {}, "objectSelector": {},
            "clientConfig": {"service": {"namespace": "gone", "name": "gone", "path": "/", "port": 443}},
            "rules": [{"apiGroups": [group], "apiVersions": ["*"], "resources": [resource], "operations": ["*"], "scope": "*"}],
        }],
    })
}

#[test]
fn a_webhook_that_nobody_answers_for() {
    let with = |group: &'static str, resource: &'static str| {
        support::tenants_but(|objects| objects.push(webhook("dead.example.com", group, resource)))
    };
    check(
        with("iam.kubesphere.io", "workspaceroles"),
        "WebhookRefusesWrites",
    );
    // One that has nothing to say about what is written keeps nobody back.
    let served = serve(with("example.com", "things"));
    served.check_reads(&["preflight"], 0);
}

fn being_deleted(kind: &'static str, name: &'static str) -> Sandbox {
    support::tenants_but(|objects| {
        let metadata = &mut support::find_mut(objects, kind, name)["metadata"];
        metadata["deletionTimestamp"] = "2026-11-22T22:00:00Z".into();
        metadata["deletionGracePeriodSeconds"] = 0.into();
        metadata["finalizers"] = json!(["example.com/slow"]);
    })
}

#[test]
fn an_object_of_the_release_that_is_being_deleted() {
    check(being_deleted("Deployment", "ks-console"), "BeingDeleted");
}

/// Whose it is, he may delete it; until it is gone it loses what is revoked as well.
#[test]
fn a_role_that_is_being_deleted_is_no_blocker() {
    let served = serve(being_deleted("WorkspaceRole", "ws1-member-manager"));
    let findings = served.check_reads(&["preflight", "-o", "json"], 0).json()["findings"].clone();
    let found = findings
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["reason"] == "BeingDeleted");
    assert_eq!(found.unwrap()["severity"], "warning");
    let ended = served.run(&["upgrade", "--yes", "--wait-controllers", "0"]);
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn a_release_that_is_not_known() {
    let served = serve(support::tenants());
    let ended = served.check_reads(&["plan", "--to", "v9.9.9"], 1);
    assert!(
        ended.out.contains("v9.9.9") && ended.out.contains("v3.3.1"),
        "{}",
        ended.out
    );
    served.check_reads(&["upgrade", "--yes", "--to", "v9.9.9"], 1);
}
