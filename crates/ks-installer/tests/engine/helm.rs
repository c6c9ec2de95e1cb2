//! Helm's records of the core's release: what is written, when nothing is, and what becomes of interrupted operations.

use object::{Object, ObjectKey};
use release::helm::{self, Record};
use sandbox::Sandbox;
use serde_json::{Value, json};
use upgrade::{Action, Severity, reasons};

use crate::support::{
    self,
    state::{State, system},
};

/// A definition that only the old release has.
const DEFINITION: &str = "things.old.example.org";

fn records(sandbox: &Sandbox) -> Vec<Record> {
    let secrets: Vec<Object> = State::of(sandbox)
        .of_kind("Secret")
        .map(|(_, secret)| Object::try_from(secret.clone()).unwrap())
        .collect();
    helm::history(&secrets, "ks-core", "kubesphere-system").unwrap()
}

fn statuses(sandbox: &Sandbox) -> Vec<(u64, String)> {
    let of = |record: &Record| (record.revision(), record.status().to_owned());
    records(sandbox).iter().map(of).collect()
}

fn owned(statuses: &[(u64, &str)]) -> Vec<(u64, String)> {
    statuses.iter().map(|(n, s)| (*n, (*s).to_owned())).collect()
}

/// The Secret of a revision, as Helm writes it.
fn secret(record: &Record, written: i64) -> Value {
    let mut secret = record.encode(written).unwrap().into_value();
    secret["metadata"]["uid"] = format!("00000000-0000-4000-8000-{:012}", record.revision()).into();
    secret
}

/// The release's only revision, changed.
fn rewrite(objects: &mut [Value], change: impl FnOnce(&mut Value)) {
    let found = support::find_mut(objects, "Secret", "sh.helm.release.v1.ks-core.v1");
    let record = Record::decode(&Object::try_from(found.clone()).unwrap()).unwrap();
    let mut raw = record.as_value().clone();
    change(&mut raw);
    let written = secret(&Record::from_value(raw).unwrap(), 1_000);
    found["metadata"]["labels"] = written["metadata"]["labels"].clone();
    found["data"] = written["data"].clone();
}

/// What a killed helm leaves: a further revision that is pending; or the first, where it was killed at its first or its
/// last act.
fn interrupted(objects: &mut Vec<Value>, status: &str) {
    if ["pending-install", "uninstalling"].contains(&status) {
        return rewrite(objects, |raw| raw["info"]["status"] = status.into());
    }
    let found = support::find_mut(objects, "Secret", "sh.helm.release.v1.ks-core.v1");
    let record = Record::decode(&Object::try_from(found.clone()).unwrap()).unwrap();
    let mut raw = record.as_value().clone();
    raw["version"] = 2.into();
    raw["info"]["status"] = status.into();
    objects.push(secret(&Record::from_value(raw).unwrap(), 1_000));
}

#[test]
fn a_further_revision_says_what_the_release_is_now() {
    let (before, after) = (support::tenants(), support::upgraded());
    assert_eq!(statuses(&before), owned(&[(1, "deployed")]));
    assert_eq!(statuses(&after), owned(&[(1, "superseded"), (2, "deployed")]));
    let (old, new) = (&records(&before)[0], &records(&after)[1]);
    let keys = |record: &Record| {
        let objects = record.manifest_objects(&helm::is_namespaced).unwrap();
        objects
            .iter()
            .map(Object::key)
            .collect::<std::collections::BTreeSet<_>>()
    };
    let webhook = ObjectKey::cluster(
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        "storageclass-accessor.storage.kubesphere.io",
    );
    let mut expect = keys(old);
    expect.insert(webhook);
    assert_eq!(
        keys(new),
        expect,
        "what the release owned, all of which stays, and what it owns"
    );
    let state = State::of(&after);
    for object in new.manifest_objects(&helm::is_namespaced).unwrap() {
        let key = object.key();
        assert!(state.find(&key).is_some(), "{key} is in the cluster");
        let of_users = ["iam.kubesphere.io", "apiextensions.k8s.io"].contains(&key.group.as_str());
        assert!(
            !of_users || helm::is_kept(&object),
            "{key} would go with the release"
        );
        assert_ne!(key.name, "kubesphere-config");
    }
    let info = &new.as_value()["info"];
    assert_eq!(info["first_deployed"], old.as_value()["info"]["first_deployed"]);
    assert_eq!(
        (&info["last_deployed"], &info["description"]),
        (
            &json!("2026-01-01T00:00:00Z"),
            &json!("Upgrade to v3.3.1 complete")
        )
    );
    let image = &new.config()["image"];
    assert_eq!(
        (&image["ks_apiserver_tag"], &image["ks_console_tag"]),
        (&json!("v3.3.1"), &json!("v3.3.1"))
    );
    assert!(!new.manifest().contains("${secret:"), "secrets are put in place");
    let label = |revision: u64, name: &str| {
        let key = system("", "Secret", &format!("sh.helm.release.v1.ks-core.v{revision}"));
        state.get(&key)["metadata"]["labels"][name].clone()
    };
    assert_eq!(
        (label(1, "status"), label(2, "status")),
        (json!("superseded"), json!("deployed"))
    );
    assert_eq!(
        (label(2, "owner"), label(2, "modifiedAt")),
        (json!("helm"), json!("1767225600"))
    );
}

/// The version in the ClusterConfiguration says that all is done: the record is a part of it.
#[tokio::test]
async fn the_plan_names_the_revision_and_holds_no_secret() {
    let prepared = support::prepare(&support::tenants()).await;
    let plan = prepared.decision.plan.unwrap();
    let stages = plan.stages.iter().map(|stage| stage.name.as_str());
    let of_core: Vec<&str> = stages.filter(|stage| !stage.contains('/')).collect();
    assert_eq!(
        of_core[of_core.len() - 3..],
        ["helm-record", "helm-history", "completion"]
    );
    let recorded: Vec<(&str, Option<&str>)> = plan
        .steps()
        .filter(|step| matches!(step.action, Action::Record { .. }))
        .map(|step| (step.object.name.as_str(), step.note.as_deref()))
        .collect();
    assert_eq!(
        recorded,
        [
            (
                "sh.helm.release.v1.ks-core.v2",
                Some("revision 2 of Helm release ks-core")
            ),
            ("sh.helm.release.v1.ks-core.v1", Some("deployed, now superseded")),
            (
                "sh.helm.release.v1.snapshot-controller.v2",
                Some("revision 2 of Helm release snapshot-controller")
            ),
            (
                "sh.helm.release.v1.snapshot-controller.v1",
                Some("deployed, now superseded")
            ),
            (
                "sh.helm.release.v1.notification-manager.v2",
                Some("revision 2 of Helm release notification-manager")
            ),
            (
                "sh.helm.release.v1.notification-manager.v1",
                Some("deployed, now superseded")
            ),
        ]
    );
    let text = serde_json::to_string(&plan).unwrap();
    assert!(!text.contains(support::JWT_SECRET) && !text.contains("PRIVATE KEY"));
}

#[tokio::test]
async fn a_run_cut_between_two_revisions_is_repaired() {
    let sandbox = support::upgraded();
    let client = support::client(&sandbox);
    let key = system("", "Secret", "sh.helm.release.v1.ks-core.v1");
    let old = records(&support::tenants())[0].encode(0).unwrap();
    let patch = json!({"metadata": {"labels": old.get("/metadata/labels")}, "data": old.get("/data")});
    client.merge_patch(&key, &patch).await.unwrap();
    assert_eq!(statuses(&sandbox), owned(&[(1, "deployed"), (2, "deployed")]));
    let report = support::upgrade(&sandbox).await;
    assert_eq!(report.written, 1);
    assert_eq!(statuses(&sandbox), owned(&[(1, "superseded"), (2, "deployed")]));
}

#[tokio::test]
async fn an_operation_that_helm_left_pending_is_explained_and_resolved() {
    let check = async |status: &str, expect: &[(u64, &str)]| {
        let sandbox = support::tenants_but(|objects| interrupted(objects, status));
        let prepared = support::prepare(&sandbox).await;
        let mut findings = prepared.findings().iter();
        let found = findings.find(|f| f.reason == reasons::HELM_RELEASE_PENDING);
        assert!(
            found.is_some_and(|f| f.message.contains(status) && f.hint.is_some()),
            "{status}: {found:?}"
        );
        support::upgrade(&sandbox).await;
        assert_eq!(statuses(&sandbox), owned(expect), "{status}");
        support::check_nothing_to_do(&sandbox).await;
    };
    let further = [(1, "superseded"), (2, "failed"), (3, "deployed")];
    check("pending-upgrade", &further).await;
    check("pending-rollback", &further).await;
    check("pending-install", &[(1, "failed"), (2, "deployed")]).await;
    check("uninstalling", &[(1, "failed"), (2, "deployed")]).await;
}

/// Helm keeps ten revisions unless told otherwise, and takes the oldest away when it writes the next one. Nothing is lost
/// here: whoever set another limit in helm has it kept by helm.
#[tokio::test]
async fn a_long_history_stays_whole() {
    let sandbox = support::tenants_but(|objects| {
        let found = support::find_mut(objects, "Secret", "sh.helm.release.v1.ks-core.v1").clone();
        let record = Record::decode(&Object::try_from(found).unwrap()).unwrap();
        for revision in 2..=12_u64 {
            let mut raw = record.as_value().clone();
            raw["version"] = revision.into();
            objects.push(secret(&Record::from_value(raw).unwrap(), 1_000));
        }
        // As after eleven upgrades.
        let old: Vec<Value> = objects
            .extract_if(.., |o| {
                o["metadata"]["labels"]["name"] == "ks-core" && o["metadata"]["labels"]["version"] != "12"
            })
            .collect();
        for object in old {
            let read = Record::decode(&Object::try_from(object).unwrap()).unwrap();
            objects.push(secret(&read.with_status("superseded", "Upgrade complete"), 1_000));
        }
    });
    support::upgrade(&sandbox).await;
    let expect: Vec<_> = (1..=12)
        .map(|n| (n, "superseded"))
        .chain([(13, "deployed")])
        .collect();
    assert_eq!(statuses(&sandbox), owned(&expect));
}

/// A generated Secret that was made anew since, as administrators do when a certificate runs out: it is the cluster's, so
/// that nothing of the release changes.
#[tokio::test]
async fn a_secret_that_was_made_anew_needs_no_revision() {
    let sandbox = support::upgraded();
    let client = support::client(&sandbox);
    let key = system("", "Secret", "ks-controller-manager-webhook-cert");
    client
        .merge_patch(&key, &json!({"data": {"tls.key": "bmV3"}}))
        .await
        .unwrap();
    support::check_nothing_to_do(&sandbox).await;
    assert_eq!(support::upgrade(&sandbox).await.written, 0);
}

#[tokio::test]
async fn nothing_is_written_while_helm_may_be_at_work() {
    let sandbox = support::tenants_but(|objects| interrupted(objects, "pending-upgrade"));
    let client = support::client(&sandbox);
    let options = upgrade::Options {
        now: Some(1_060),
        ..upgrade::Options::default()
    };
    let prepared = engine::prepare(&support::session(&client, options))
        .await
        .unwrap();
    let blockers: Vec<_> = prepared.blockers().map(|f| f.reason.as_str()).collect();
    assert_eq!(blockers, [reasons::HELM_IN_PROGRESS]);
}

#[tokio::test]
async fn a_release_without_records_gets_one() {
    let sandbox = support::tenants_but(|objects| {
        objects.retain(|o| o["type"] != "helm.sh/release.v1" || o["metadata"]["labels"]["name"] != "ks-core");
    });
    support::upgrade(&sandbox).await;
    assert_eq!(statuses(&sandbox), owned(&[(1, "deployed")]));
    support::check_nothing_to_do(&sandbox).await;
}

/// What the old release owned and the new one does not have goes, but for what holds data and what is to be kept, by the
/// word of the record or of the object itself.

#[tokio::test]
async fn what_only_the_old_release_owned_goes_unless_it_is_to_stay() {
    let map = |name: &str, annotations: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "kubesphere-system", "annotations": annotations}})
    };
    let keep = json!({"helm.sh/resource-policy": "keep"});
    let owned_before = [
        map("goes", json!({})),
        map("kept-by-record", keep.clone()),
        map("kept-by-annotation", json!({})),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "kubesphere-system"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "made", "namespace": "kubesphere-system"}}),
        json!({"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRole", "metadata": {"name": "made"}, "rules": []}),
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": DEFINITION},
            "spec": {"group": "old.example.org", "scope": "Cluster", "names": {"kind": "Thing", "plural": "things"}, "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}),
    ];
    let sandbox = support::tenants_but(|objects| {
        for (index, mut object) in owned_before.iter().cloned().enumerate() {
            object["metadata"]["uid"] = format!("00000000-0000-4000-9000-{index:012}").into();
            match object["metadata"]["name"].as_str() {
                Some("kept-by-record") => object["metadata"]["annotations"] = json!({}),
                Some("kept-by-annotation") => object["metadata"]["annotations"] = keep.clone(),
                Some("data") => {
                    object["spec"] = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
                }
                _ => {}
            }
            objects.push(object);
        }
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kubesphere-config", "namespace": "kubesphere-system"}});
        rewrite(objects, |raw| {
            let more = helm::manifest_of(owned_before.iter().chain([&config]));
            raw["manifest"] = format!("{}\n{more}", raw["manifest"].as_str().unwrap()).into();
        });
    });
    support::upgrade(&sandbox).await;
    let state = State::of(&sandbox);
    let there = |kind: &str, name: &str| state.find(&system("", kind, name)).is_some();
    assert!(!there("ConfigMap", "goes"));
    assert!(there("ConfigMap", "kept-by-record") && there("ConfigMap", "kept-by-annotation"));
    assert!(there("PersistentVolumeClaim", "data") && there("Secret", "made"));
    assert!(there("ConfigMap", "kubesphere-config"));
    let role = ObjectKey::cluster("iam.kubesphere.io", "GlobalRole", "made");
    let definition = ObjectKey::cluster("apiextensions.k8s.io", "CustomResourceDefinition", DEFINITION);
    assert!(state.find(&role).is_some() && state.find(&definition).is_some());
    // What stays is still known to Helm, which else could not go back to a revision that has it, and is kept by it.
    let newest = records(&sandbox).pop().unwrap();
    let objects = newest.manifest_objects(&helm::is_namespaced).unwrap();
    let stays = [
        "kept-by-record",
        "kept-by-annotation",
        "data",
        "made",
        DEFINITION,
        "kubesphere-config",
    ];
    for name in stays {
        let of_name: Vec<_> = objects.iter().filter(|object| object.name() == name).collect();
        assert!(
            !of_name.is_empty() && of_name.iter().all(|object| helm::is_kept(object)),
            "{name}"
        );
    }
    support::check_nothing_to_do(&sandbox).await;
}

/// A manifest that no Secret can hold.
#[tokio::test]
async fn a_record_that_is_too_large_is_left_out_and_told() {
    // Without a pattern, so that it does not compress: an object that stays with the release.
    let mut seed = 1_u64;
    let mut next = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        seed >> 16
    };
    let words: Vec<String> = (0..120_000).map(|_| format!("{:012x}", next())).collect();
    let text = words.concat();
    let large = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"x": text},
        "metadata": {"name": "large", "namespace": "kubesphere-system", "uid": "00000000-0000-4000-9000-000000000099"}});
    let sandbox = support::tenants_but(|objects| {
        let mut small = large.clone();
        small.as_object_mut().unwrap().remove("stringData");
        objects.push(small);
        rewrite(objects, |raw| {
            let more = helm::manifest_of([&large]);
            raw["manifest"] = format!("{}\n{more}", raw["manifest"].as_str().unwrap()).into();
        });
    });
    let report = support::upgrade(&sandbox).await;
    assert!(report.findings.iter().all(|f| f.severity != Severity::Blocker));
    assert_eq!(statuses(&sandbox), owned(&[(1, "deployed")]));
    let prepared = support::prepare(&sandbox).await;
    assert!(
        prepared
            .findings()
            .iter()
            .any(|f| f.reason == reasons::HELM_RECORD_TOO_LARGE)
    );
    support::check_nothing_to_do(&sandbox).await;
}
