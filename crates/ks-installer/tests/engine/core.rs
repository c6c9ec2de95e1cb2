//! What is not the tenants' in their cluster: settings, secrets, configuration, workloads.

use std::collections::BTreeSet;

use object::ObjectKey;
use serde_json::{Value, json};

use crate::support::{
    self,
    state::{State, configuration, notification_pair, system},
};

fn states() -> (State, State) {
    (State::of(&support::tenants()), State::of(&support::upgraded()))
}

/// The document that kubesphere-config holds.
fn document(state: &State) -> Value {
    let map = state.get(&system("", "ConfigMap", "kubesphere-config"));
    let text = map["data"]["kubesphere.yaml"].as_str().unwrap();
    object::parse_documents(text).unwrap().remove(0)
}

#[test]
fn the_cluster_configuration_is_updated_in_place() {
    let (before, after) = states();
    let (before, after) = (before.get(&configuration()), after.get(&configuration()));
    for field in ["uid", "creationTimestamp"] {
        assert_eq!(before["metadata"][field], after["metadata"][field], "{field}");
    }
    for (kind, name) in [("labels", "team"), ("annotations", "example.org/owner")] {
        assert!(before["metadata"][kind][name].is_string(), "{name}");
        assert_eq!(
            before["metadata"][kind][name], after["metadata"][kind][name],
            "{name}"
        );
    }
    assert_eq!(after["metadata"]["labels"]["version"], "v3.3.1");
    assert_eq!(
        after["spec"]["common"]["redis"],
        json!({"enableHA": false, "enabled": false, "volumeSize": "7Gi"})
    );
    assert_eq!(
        after["spec"]["common"]["openldap"],
        json!({"enabled": false, "volumeSize": "9Gi"})
    );
    assert_eq!(after["spec"]["common"]["minio"]["volumeSize"], "33Gi");
    assert_eq!(after["status"]["clusterId"], before["status"]["clusterId"]);
    assert_eq!(after["status"]["core"]["version"], "v3.3.1");
    assert_eq!(after["status"]["core"]["status"], "enabled");
    let mut monitoring = before["status"]["monitoring"].clone();
    monitoring["version"] = "v3.3.1".into();
    assert_eq!(after["status"]["monitoring"], monitoring);
}

/// Every leaf of the old settings is still there: where it was, or where its shape of today has it.
#[test]
fn no_setting_is_lost() {
    let (before, after) = states();
    let spec = |state: &State| state.get(&configuration())["spec"].clone();
    let after = spec(&after);
    let mut leaves = Vec::new();
    collect("", &spec(&before), &mut leaves);
    assert!(leaves.len() > 60, "{}", leaves.len());
    for (path, value) in leaves {
        let moved = path
            .replace("/kubeedge/", "/edgeruntime/kubeedge/")
            .replace("externalElasticsearchUrl", "externalElasticsearchHost");
        let now = after.pointer(&path).or_else(|| after.pointer(&moved));
        assert_eq!(now, Some(&value), "{path}");
    }
}

fn collect(path: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
    match value.as_object().filter(|map| !map.is_empty()) {
        None => leaves.push((path.to_owned(), value.clone())),
        Some(map) => {
            for (name, value) in map {
                collect(
                    &format!("{path}/{}", name.replace('~', "~0").replace('/', "~1")),
                    value,
                    leaves,
                );
            }
        }
    }
}

#[test]
fn secrets_survive_byte_by_byte() {
    let (before, after) = states();
    // What Prometheus scraped besides until 3.2, as it was shipped: nothing refers to it any more.
    let leftover = ObjectKey::namespaced(
        "",
        "Secret",
        "kubesphere-monitoring-system",
        "additional-scrape-configs",
    );
    assert!(before.find(&leftover).is_some() && after.find(&leftover).is_none());
    let mut seen = 1;
    for (key, value) in before.of_kind("Secret").filter(|(key, _)| **key != leftover) {
        // The record of the old release says afterwards that another came after it.
        let is_record = value["type"] == release::helm::SECRET_TYPE;
        // The old release's pair is the same in every cluster, for all to read.
        let is_public = *key == notification_pair();
        assert_eq!(
            is_record || is_public,
            value["data"] != after.get(key)["data"],
            "data of {key}"
        );
        assert_eq!(
            value["metadata"]["uid"],
            after.get(key)["metadata"]["uid"],
            "{key}"
        );
        seen += 1;
    }
    assert_eq!(seen, 29);
    let bundle = |state: &State, name: &str| {
        let key = ObjectKey::cluster(
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration",
            name,
        );
        state.get(&key)["webhooks"][0]["clientConfig"]["caBundle"].clone()
    };
    let certificate =
        after.get(&system("", "Secret", "ks-controller-manager-webhook-cert"))["data"]["ca.crt"].clone();
    for name in [
        "users.iam.kubesphere.io",
        "network.kubesphere.io",
        "resourcesquotas.quota.kubesphere.io",
    ] {
        assert_eq!(bundle(&after, name), bundle(&before, name), "{name}");
        assert_eq!(bundle(&after, name), certificate, "{name}");
    }
    assert_eq!(
        bundle(&after, "storageclass-accessor.storage.kubesphere.io"),
        certificate
    );
}

#[test]
fn kubesphere_config_is_what_the_new_release_reads() {
    let (_, after) = states();
    let expect = json!({
        "authentication": {
            "authenticateRateLimiterMaxTries": 10,
            "authenticateRateLimiterDuration": "10m0s",
            "loginHistoryRetentionPeriod": "168h",
            "maximumClockSkew": "10s",
            "multipleLogin": true,
            "kubectlImage": "kubesphere/kubectl:v1.20.0",
            "jwtSecret": support::JWT_SECRET,
            "oauthOptions": {"clients": [{"name": "kubesphere", "secret": "kubesphere", "redirectURIs": ["*"]}]},
        },
        "network": {"ippoolType": "none"},
        "multicluster": {"clusterRole": "none"},
        "monitoring": {
            "endpoint": "http://prometheus-operated.kubesphere-monitoring-system.svc:9090",
            "enableGPUMonitoring": false,
        },
        "gpu": {"kinds": [{"resourceName": "nvidia.com/gpu", "resourceType": "GPU", "default": true}]},
        "notification": {"endpoint": "http://notification-manager-svc.kubesphere-monitoring-system.svc:19093"},
        "terminal": {"image": "alpine:3.14", "timeout": 600},
        "gateway": {
            "watchesPath": "/var/helm-charts/watches.yaml",
            "repository": "kubesphere/nginx-ingress-controller",
            "tag": "v1.1.0",
            "namespace": "kubesphere-controls-system",
        },
    });
    assert_eq!(document(&after), expect);
}

#[tokio::test]
async fn what_somebody_added_to_kubesphere_config_survives() {
    let sandbox = support::tenants_but(|objects| {
        let map = support::find_mut(objects, "ConfigMap", "kubesphere-config");
        let text = map["data"]["kubesphere.yaml"].as_str().unwrap();
        let text = text.replacen(
            "  multipleLogin: True\n",
            "  multipleLogin: True\n  loginHistoryMaximumEntries: 55\n",
            1,
        );
        map["data"]["kubesphere.yaml"] = format!("{text}metering:\n  retentionDay: 7d\n").into();
    });
    support::upgrade(&sandbox).await;
    let document = document(&State::of(&sandbox));
    assert_eq!(document["metering"], json!({"retentionDay": "7d"}));
    assert_eq!(document["authentication"]["loginHistoryMaximumEntries"], 55);
    assert_eq!(document["gateway"]["tag"], "v1.1.0");
    support::check_nothing_to_do(&sandbox).await;
}

#[test]
fn the_core_runs_the_new_images_and_is_not_restarted_over_and_over() {
    let (before, after) = states();
    for (name, container) in [
        ("ks-apiserver", "ks-apiserver"),
        ("ks-controller-manager", "ks-controller-manager"),
        ("ks-console", "ks-console"),
    ] {
        let key = system("apps", "Deployment", name);
        let (old, new) = (before.get(&key), after.get(&key));
        assert_eq!(new["metadata"]["uid"], old["metadata"]["uid"]);
        assert_eq!(new["spec"]["selector"], old["spec"]["selector"]);
        assert_eq!(new["spec"]["replicas"], old["spec"]["replicas"]);
        let pod = &new["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0]["name"], container);
        assert_eq!(pod["containers"][0]["image"], format!("kubesphere/{name}:v3.3.1"));
        assert_eq!(pod["serviceAccountName"], "kubesphere");
        assert_eq!(new["status"]["readyReplicas"], new["spec"]["replicas"]);
        // One change of the template is one rollout.
        let revision = |deployment: &Value| -> u32 {
            let text = &deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
            text.as_str().unwrap().parse().unwrap()
        };
        assert_eq!(revision(new), revision(old) + 1, "{name}");
    }
}

/// Outside of the core, only what the release's monitoring and snapshot-controller have is touched: nothing else in their
/// namespaces, and nothing elsewhere.
#[test]
fn what_is_of_no_component_is_left_alone() {
    let (before, after) = states();
    let is_core = |key: &ObjectKey| {
        let groups = [
            "iam.kubesphere.io",
            "rbac.authorization.k8s.io",
            "apiregistration.k8s.io",
        ];
        groups.contains(&key.group.as_str())
            || key.namespace.as_deref() == Some("kubesphere-system")
            || ["CustomResourceDefinition", "ValidatingWebhookConfiguration"].contains(&key.kind.as_str())
    };
    let plan = support::block_on(support::prepare(&support::tenants()))
        .decision
        .plan
        .unwrap();
    let of_components: BTreeSet<&ObjectKey> = plan
        .stages
        .iter()
        .filter(|stage| stage.name.contains('/') || stage.name == "secrets")
        .flat_map(|stage| stage.steps.iter().map(|step| &step.object))
        .collect();
    let is_component = |key: &ObjectKey| {
        let is_place = match key.namespace.as_deref() {
            Some("kubesphere-monitoring-system") => true,
            // The only ones that the release has there, and Helm's records of the component.
            Some("kube-system") => {
                ["kube-controller-manager-svc", "kube-scheduler-svc"].contains(&key.name.as_str())
                    || key.name.starts_with("sh.helm.release.v1.snapshot-controller.")
            }
            _ => false,
        };
        is_place && of_components.contains(key)
    };
    let (before, after) = (before.comparable(), after.comparable());
    let (of_component, others): (Vec<_>, Vec<_>) = before
        .changed(&after)
        .into_iter()
        .filter(|key| !is_core(key))
        .partition(|key| is_component(key));
    assert_eq!(others, Vec::<&ObjectKey>::new());
    assert!(of_component.len() > 40, "{}", of_component.len());
}

#[tokio::test]
async fn a_second_upgrade_writes_nothing() {
    let sandbox = support::upgraded();
    support::check_nothing_to_do(&sandbox).await;
    let writes = sandbox.requests().writes();
    let report = support::upgrade(&sandbox).await;
    assert_eq!(report.written, 0);
    assert_eq!(sandbox.requests().writes(), writes);
}

#[tokio::test]
async fn a_running_old_installer_is_stopped_before_anything_else_is_written() {
    let sandbox = support::tenants();
    let installer = system("apps", "Deployment", "ks-installer");
    let start = json!({"spec": {"replicas": 1}});
    support::client(&sandbox)
        .merge_patch(&installer, &start)
        .await
        .unwrap();
    let pods = |state: &State| {
        let of_installer = |(key, _): &(&ObjectKey, &Value)| key.name.starts_with("ks-installer-");
        state.of_kind("Pod").filter(of_installer).count()
    };
    assert_eq!(pods(&State::of(&sandbox)), 1, "the old installer runs");

    let (cluster, writes) = support::watched(&sandbox, None);
    support::upgrade_with(&cluster, upgrade::Options::default()).await;
    let writes = writes.all();
    assert!(
        writes[0].path.ends_with("/deployments/ks-installer"),
        "{:?}",
        writes[0]
    );
    let first = State::of(&writes[0].after);
    assert_eq!(first.get(&installer)["spec"]["replicas"], 0);
    assert!(
        writes[1..]
            .iter()
            .all(|write| !write.path.ends_with("/deployments/ks-installer"))
    );
    // Everything else was written when it was gone: at a later resource version than its last.
    let last = State::of(&sandbox);
    assert_eq!(pods(&State::of(&writes[1].after)), 0);
    let version = |value: &Value| -> u64 {
        value["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    };
    let stopped = version(last.get(&installer));
    let before = State::of(&support::tenants());
    for (key, value) in &last.0 {
        let written = before.find(key).map(version) != Some(version(value));
        let of_installer = key.name.starts_with("ks-installer") && key.kind != "ClusterConfiguration";
        if written && !of_installer {
            assert!(
                version(value) > stopped,
                "{key} was written before the old installer was gone"
            );
        }
    }
}

#[tokio::test]
async fn a_namespace_gets_its_label_and_loses_nothing() {
    let mine = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": "mine", "uid": "11111111-0000-4000-8000-000000000000", "resourceVersion": "1",
            "creationTimestamp": "2026-11-22T21:00:00Z",
            "labels": {"kubesphere.io/workspace": "system-workspace", "kubernetes.io/metadata.name": "mine", "team": "a"},
            "annotations": {"example.org/note": "kept"},
        },
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    });
    let mut applied = mine.clone();
    for name in ["uid", "resourceVersion", "creationTimestamp"] {
        applied["metadata"].as_object_mut().unwrap().remove(name);
    }
    let sandbox = support::tenants_but(|objects| {
        let mut mine = mine.clone();
        mine["metadata"]["annotations"][object::LAST_APPLIED] = applied.to_string().into();
        mine["metadata"]["managedFields"] = json!([{
            "manager": "kubectl-client-side-apply", "operation": "Update", "apiVersion": "v1",
            "time": "2026-11-22T21:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {
                "f:annotations": {"f:example.org/note": {}, "f:kubectl.kubernetes.io/last-applied-configuration": {}},
                "f:labels": {"f:kubesphere.io/workspace": {}, "f:team": {}},
            }},
        }]);
        objects.push(mine);
        // Somebody took the label of a namespace of KubeSphere's away, and put another into a workspace of theirs.
        let system = support::find_mut(objects, "Namespace", "kubesphere-system");
        system["metadata"]["labels"]
            .as_object_mut()
            .unwrap()
            .remove("kubesphere.io/namespace");
        let controls = support::find_mut(objects, "Namespace", "kubesphere-controls-system");
        controls["metadata"]["labels"]
            .as_object_mut()
            .unwrap()
            .remove("kubesphere.io/namespace");
        controls["metadata"]["labels"]["kubesphere.io/workspace"] = "ws1".into();
    });
    let before = State::of(&sandbox);
    support::upgrade(&sandbox).await;
    let after = State::of(&sandbox);
    for name in ["mine", "kubesphere-system", "kubesphere-controls-system"] {
        let key = ObjectKey::cluster("", "Namespace", name);
        let mut expect = before.get(&key)["metadata"].clone();
        expect["labels"]["kubesphere.io/namespace"] = name.into();
        let metadata = &after.get(&key)["metadata"];
        for field in ["labels", "annotations", "uid"] {
            assert_eq!(metadata[field], expect[field], "{field} of {name}");
        }
    }
    support::check_nothing_to_do(&sandbox).await;
}

#[tokio::test]
async fn a_label_that_somebody_applied_to_a_template_stays() {
    let name = "role-template-manage-users";
    let sandbox = support::tenants_but(|objects| {
        let template = support::find_mut(objects, "GlobalRole", name);
        template["metadata"]["labels"]["team"] = "mine".into();
        let applied = template["metadata"]["annotations"][object::LAST_APPLIED]
            .as_str()
            .unwrap();
        let mut applied: Value = serde_json::from_str(applied).unwrap();
        applied["metadata"]["labels"]["team"] = "mine".into();
        template["metadata"]["annotations"][object::LAST_APPLIED] = applied.to_string().into();
        template["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"]["f:team"] = json!({});
    });
    support::upgrade(&sandbox).await;
    let after = State::of(&sandbox);
    let metadata = &after.get(&ObjectKey::cluster("iam.kubesphere.io", "GlobalRole", name))["metadata"];
    assert_eq!(
        metadata["labels"],
        json!({"iam.kubesphere.io/role-template": "false", "team": "mine"})
    );
    assert_eq!(
        metadata["annotations"].get("iam.kubesphere.io/dependencies"),
        None,
        "dropped by the release"
    );
    support::check_nothing_to_do(&sandbox).await;
}
