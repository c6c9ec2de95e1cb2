//! A cluster with every component enabled. Its dump is too large to keep here; where it is not at hand, this says so.

use std::path::{Path, PathBuf};

use object::ObjectKey;
use serde_json::json;
use upgrade::Options;

use crate::support::{
    self,
    state::{State, configuration},
};

/// A file of the material that the project was measured with.
pub(crate) fn material(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3)?;
    let path = root.join("shared").join(name);
    path.exists().then_some(path)
}

/// The cluster with everything enabled, as release 3.2.1 left it.
pub(crate) fn everything() -> Option<sandbox::Sandbox> {
    let Some(path) = material("clusters/kubesphere-3.2.1-all.ndjson.zst") else {
        eprintln!("skipped: there is no dump of a cluster with all components");
        return None;
    };
    Some(support::mk_cluster(support::read(&path)))
}

/// What the release no longer has, but for what controllers made of it.
const GONE: &[&str] = &[
    "APIService v1alpha1.kubeedge.kubesphere.io",
    "ClusterRole edge-watcher-manager-role",
    "ClusterRole edge-watcher-metrics-reader",
    "ClusterRole edge-watcher-proxy-role",
    "ClusterRole role-template-manage-app-workloads",
    "ClusterRole role-template-manage-components",
    "ClusterRole role-template-manage-network-policies",
    "ClusterRole role-template-view-app-workloads",
    "ClusterRole role-template-view-network-policies",
    "ClusterRoleBinding edge-watcher-manager-rolebinding",
    "ClusterRoleBinding edge-watcher-proxy-rolebinding",
    "ConfigMap kubeedge/edge-watcher",
    "CustomResourceDefinition iptables.kubeedge.kubesphere.io",
    "CustomResourceDefinition iptablesrules.kubeedge.kubesphere.io",
    "Deployment kubeedge/edge-watcher-controller-manager",
    "GlobalRole users-manager",
    "GlobalRole workspaces-manager",
    "IPTables kubeedge/iptables",
    "Job kubesphere-system/openpitrix-import-job",
    "Role kubeedge/edge-watcher-leader-election-role",
    "RoleBinding kubeedge/edge-watcher-leader-election-rolebinding",
    "Secret kubeedge/sh.helm.release.v1.kubeedge.v1",
    "Secret kubesphere-monitoring-system/additional-scrape-configs",
    "Service kubeedge/edge-watcher",
    "Service kubeedge/edge-watcher-controller-manager-metrics-service",
    "ServiceMonitor kubesphere-monitoring-system/alertmanager",
    "ServiceMonitor kubesphere-monitoring-system/prometheus",
];

#[test]
fn everything_is_upgraded_and_nothing_is_made_anew() {
    let Some(sandbox) = everything() else { return };
    let before = State::of(&sandbox).comparable();
    let uids = State::of(&sandbox);
    support::block_on(async {
        support::upgrade(&sandbox).await;
        support::check_nothing_to_do(&sandbox).await;
    });
    let after = State::of(&sandbox);
    let (mut made_anew, mut gone) = (Vec::new(), Vec::new());
    for key in before.0.keys() {
        match after.find(key) {
            None => gone.push(key.to_string()),
            Some(now) if now["metadata"]["uid"] != uids.get(key)["metadata"]["uid"] => {
                made_anew.push(key.to_string());
            }
            Some(_) => {}
        }
    }
    gone.sort();
    assert_eq!(gone, GONE);
    assert_eq!(made_anew, Vec::<String>::new());
    // What each component says of itself.
    let configuration = after.get(&configuration());
    let status = &configuration["status"];
    for name in [
        "redis",
        "minio",
        "openldap",
        "monitoring",
        "logging",
        "events",
        "auditing",
        "devops",
        "servicemesh",
    ] {
        assert_eq!(status[name]["status"], "enabled", "{name}");
        assert_eq!(status[name]["version"], "v3.3.1", "{name}");
    }
    assert_eq!(configuration["spec"]["common"]["redis"]["enabled"], true);
}

#[test]
fn people_s_alerting_rules_follow_the_ruler() {
    let Some(path) = material("clusters/kubesphere-3.2.1-all.ndjson.zst") else {
        return;
    };
    let mut objects = support::read(&path);
    objects.push(
        json!({"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule",
        "metadata": {"name": "mine", "namespace": "default", "labels":
            {"thanosruler": "thanos-ruler", "role": "thanos-alerting-rules", "rule_level": "cluster"}},
        "spec": {"groups": []}}),
    );
    let sandbox = support::mk_cluster(objects);
    support::block_on(support::upgrade(&sandbox));
    let key = ObjectKey::namespaced("monitoring.coreos.com", "PrometheusRule", "default", "mine");
    assert_eq!(
        State::of(&sandbox).get(&key)["metadata"]["labels"],
        json!({"thanos-ruler": "kubesphere", "role": "alert-rules", "rule_level": "cluster"})
    );
}

#[test]
fn an_expired_certificate_is_made_anew_before_anything_depends_on_it() {
    let Some(sandbox) = everything() else { return };
    let before = State::of(&sandbox);
    let secret = ObjectKey::namespaced(
        "",
        "Secret",
        "kubesphere-devops-system",
        "s2i-webhook-server-cert",
    );
    let bundle = |state: &State| {
        let key = ObjectKey::cluster(
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration",
            "validating-webhook-configuration",
        );
        state.get(&key)["webhooks"][0]["clientConfig"]["caBundle"].clone()
    };
    let options = Options {
        now: Some(1_790_000_000),
        ..Options::default()
    };
    let writes = support::block_on(async {
        let (cluster, writes) = support::watched(&sandbox, None);
        support::upgrade_with(&cluster, options).await;
        writes
    });
    let after = State::of(&sandbox);
    assert_ne!(bundle(&before), bundle(&after));
    assert_eq!(bundle(&after), after.get(&secret)["data"]["caBundle"]);
    let place = |part: &str| {
        let all = writes.all();
        all.iter()
            .position(|write| write.path.contains(part))
            .unwrap_or_else(|| panic!("{part}"))
    };
    let secret = place("/secrets/s2i-webhook-server-cert");
    let webhook = place("/validatingwebhookconfigurations/validating-webhook-configuration");
    let template = place("/s2ibuildertemplates/");
    assert!(
        secret < webhook && webhook < template,
        "{secret} {webhook} {template}"
    );
}
