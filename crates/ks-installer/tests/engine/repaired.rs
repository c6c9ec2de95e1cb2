//! The state that upstream's own upgrade to v3.3.1 left: what it left undone is done, and nothing else.

use std::collections::BTreeSet;

use object::ObjectKey;
use sandbox::Sandbox;
use serde_json::{Value, json};

use crate::support::{
    self,
    state::{RBAC, State, configuration, iam, notification_pair},
};

fn by_upstream() -> Sandbox {
    support::mk_cluster(support::read(&support::fixture(
        "kubesphere-3.3.1-by-upstream.ndjson.zst",
    )))
}

fn cluster_role(name: &str) -> ObjectKey {
    ObjectKey::cluster(RBAC, "ClusterRole", name)
}

/// What upstream leaves behind: templates that nothing refers to, custom roles that it passes over, a setting under
/// its old name beside the new one.
fn left_undone() -> (Vec<ObjectKey>, Vec<ObjectKey>) {
    let changed = vec![
        configuration(),
        cluster_role("cluster-ops"),
        iam("WorkspaceRole", "ws1-billing-admin"),
        iam("WorkspaceRole", "ws1-night-viewer"),
    ];
    let removed = [
        "manage-app-workloads",
        "manage-components",
        "manage-network-policies",
        "view-app-workloads",
        "view-network-policies",
    ];
    let removed = removed.map(|name| cluster_role(&format!("role-template-{name}")));
    (changed, removed.to_vec())
}

/// What of the components differs from upstream's (docs/parity-components.md tells why).
fn of_components() -> (Vec<ObjectKey>, Vec<ObjectKey>) {
    let monitoring = |group: &str, kind: &str, name: &str| {
        ObjectKey::namespaced(group, kind, "kubesphere-monitoring-system", name)
    };
    let custom = |kind: &str, name: &str| monitoring("monitoring.coreos.com", kind, name);
    let record = |namespace: &str, name: &str| {
        ObjectKey::namespaced("", "Secret", namespace, &format!("sh.helm.release.v1.{name}"))
    };
    let mut changed = vec![
        // The key pair that everybody knows is made anew; its authority stands in these, and in Helm's record.
        notification_pair(),
        ObjectKey::cluster(
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration",
            "notification-manager-validating-webhook",
        ),
        definition("configs.notification.kubesphere.io"),
        definition("receivers.notification.kubesphere.io"),
        monitoring("apps", "Deployment", "notification-manager-operator"),
        record("kubesphere-monitoring-system", "notification-manager.v1"),
        record("kubesphere-monitoring-system", "notification-manager.v2"),
        record("kube-system", "snapshot-controller.v2"),
        record("kube-system", "snapshot-controller.v3"),
        // Wording of messages and alerts.
        monitoring("", "ConfigMap", "notification-manager-template"),
    ];
    changed.extend(
        [
            "alertmanager-main-rules",
            "kube-state-metrics-rules",
            "node-exporter-rules",
            "prometheus-k8s-prometheus-rules",
            "prometheus-k8s-rules",
            "prometheus-operator-rules",
        ]
        .map(|name| custom("PrometheusRule", name)),
    );
    // Of the release before; upstream leaves them behind.
    let removed = vec![
        monitoring("", "Secret", "additional-scrape-configs"),
        custom("ServiceMonitor", "alertmanager"),
        custom("ServiceMonitor", "prometheus"),
    ];
    (changed, removed)
}

fn definition(name: &str) -> ObjectKey {
    ObjectKey::cluster("apiextensions.k8s.io", "CustomResourceDefinition", name)
}

fn list(state: &State, key: &ObjectKey) -> Vec<String> {
    let list = &state.get(key)["metadata"]["annotations"]["iam.kubesphere.io/aggregation-roles"];
    serde_json::from_str(list.as_str().unwrap()).unwrap()
}

fn rules(state: &State, key: &ObjectKey) -> Vec<Value> {
    state.get(key)["rules"].as_array().cloned().unwrap_or_default()
}

#[tokio::test]
async fn what_upstream_left_undone_is_done_and_nothing_else() {
    let sandbox = by_upstream();
    let before = State::of(&sandbox);
    support::upgrade(&sandbox).await;
    let after = State::of(&sandbox);
    let (mut changed, mut removed) = left_undone();
    let of_components = of_components();
    changed.extend(of_components.0);
    removed.extend(of_components.1);
    let expect: BTreeSet<&ObjectKey> = changed.iter().chain(&removed).collect();
    assert_eq!(before.comparable().changed(&after.comparable()), expect);
    for key in &removed {
        assert!(after.find(key).is_none(), "{key}");
    }
    // Only what is revoked is gone from the roles.
    for (name, revoked, kept) in [
        (
            "ws1-billing-admin",
            "role-template-manage-members",
            &["view-basic", "view-members"][..],
        ),
        ("ws1-night-viewer", "role-template-manage-groups", &["view-basic"]),
    ] {
        let key = iam("WorkspaceRole", name);
        let kept: Vec<String> = kept.iter().map(|name| format!("role-template-{name}")).collect();
        assert_eq!(list(&after, &key), kept);
        let gone = rules(&before, &iam("WorkspaceRole", revoked));
        let has = rules(&after, &key);
        assert!(
            gone.iter().all(|rule| !has.contains(rule)),
            "{name} still has what is revoked"
        );
        for template in &kept {
            let given = rules(&before, &iam("WorkspaceRole", template));
            let lost: Vec<_> = given
                .iter()
                .filter(|rule| rules(&before, &key).contains(rule) && !has.contains(rule))
                .collect();
            assert!(lost.is_empty(), "{name} lost {lost:?}");
        }
    }
    let es = &after.get(&configuration())["spec"]["common"]["es"];
    assert_eq!(es["externalElasticsearchHost"], json!(""));
    assert_eq!(es.get("externalElasticsearchUrl"), None);
}

#[tokio::test]
async fn once_repaired_there_is_nothing_to_do() {
    let sandbox = by_upstream();
    support::upgrade(&sandbox).await;
    support::check_nothing_to_do(&sandbox).await;
    let writes = sandbox.requests().writes();
    assert_eq!(support::upgrade(&sandbox).await.written, 0);
    assert_eq!(sandbox.requests().writes(), writes);
}
