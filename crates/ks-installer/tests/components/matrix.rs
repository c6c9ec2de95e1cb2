//! Every component under many settings, and an API server's opinion of what comes out.

use std::collections::BTreeMap;

use cluster::Cluster;
use object::ObjectKey;
use release::{Manifest, Phase, Release, Releases, secret};
use serde_json::{Value, json};
use upgrade::settings::{ClusterFacts, Settings};

/// Settings that change what components render, by what they are about. All components are rendered under each.
pub(crate) fn settings() -> Vec<(&'static str, Value)> {
    let tolerations =
        json!([{"key": "dedicated", "operator": "Equal", "value": "infra", "effect": "NoSchedule"}]);
    let resources =
        json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": 1, "memory": "1Gi"}});
    vec![
        ("defaults", json!({})),
        (
            "high availability",
            json!({"enableHA": true, "common": {"redis": {"enabled": true, "enableHA": true}}}),
        ),
        (
            "external stores",
            json!({
                "common": {
                    "es": {"externalElasticsearchHost": "es.example", "externalElasticsearchPort": 9200,
                        "basicAuth": {"enabled": true, "username": "u", "password": "p"}},
                    "s3": {"endpoint": "https://s3.example", "accessKeyID": "a", "secretAccessKey": "b", "bucket": "c"},
                },
            }),
        ),
        (
            "private registry",
            json!({"local_registry": "registry.example:5000", "namespace_override": "mirror"}),
        ),
        ("zone", json!({"zone": "cn"})),
        (
            "placement",
            json!({"nodeSelector": {"pool": "infra"}, "tolerations": tolerations,
                "monitoring": {"tolerations": tolerations, "nodeSelector": {"pool": "monitoring"}},
                "logging": {"tolerations": tolerations}, "devops": {"tolerations": tolerations}}),
        ),
        (
            "resources",
            json!({
                "monitoring": {"prometheus": {"replicas": 2, "volumeSize": "50Gi", "resources": resources},
                    "alertmanager": {"replicas": 3, "resources": resources}, "kube_state_metrics": {"resources": resources}},
                "common": {"es": {"master": {"replicas": 3, "volumeSize": "5Gi", "resources": resources},
                    "data": {"replicas": 3, "volumeSize": "100Gi", "resources": resources}}},
                "devops": {"jenkinsVolumeSize": "20Gi", "jenkinsMemoryLim": "4Gi", "jenkinsMemoryReq": "2Gi"},
                "auditing": {"operator": {"resources": resources}, "webhook": {"resources": resources}},
                "events": {"operator": {"resources": resources}, "exporter": {"resources": resources}},
            }),
        ),
        (
            "storage",
            json!({"persistence": {"storageClass": "fast"}, "monitoring": {"storageClass": "fast"},
                "common": {"minio": {"volumeSize": "40Gi"}, "openldap": {"volumeSize": "4Gi"}, "redis": {"volumeSize": "4Gi"}}}),
        ),
        (
            "etcd with certificates",
            json!({"etcd": {"monitoring": true, "endpointIps": "10.0.0.1,10.0.0.2", "port": 2379, "tlsEnable": true}}),
        ),
        (
            "edge and federation",
            json!({"multicluster": {"clusterRole": "host"}, "edgeruntime": {"enabled": true, "kubeedge": {"enabled": true,
                "cloudCore": {"cloudHub": {"advertiseAddress": ["1.2.3.4"], "nodeLimit": "500"}}}}}),
        ),
    ]
}

/// What everything is switched on by.
fn switched_on(release: &Release) -> Value {
    let mut spec = json!({});
    for component in &release.components {
        let Some(switch) = &component.switch else { continue };
        for path in &switch.paths {
            let one = path
                .rsplit('.')
                .fold(switch.on.clone(), |value, name| json!({ (name): value }));
            merge(&mut spec, &one);
        }
    }
    spec
}

fn merge(value: &mut Value, more: &Value) {
    match (value, more) {
        (Value::Object(value), Value::Object(more)) => {
            for (name, more) in more {
                merge(value.entry(name.clone()).or_insert(Value::Null), more);
            }
        }
        (value, more) => *value = more.clone(),
    }
}

/// Every manifest of every component under these settings, with texts in place of secrets.
pub(crate) fn rendered(release: &Release, kubernetes: &str, runtime: &str, more: &Value) -> Vec<Manifest> {
    let mut spec = switched_on(release);
    merge(&mut spec, more);
    let facts = ClusterFacts {
        kubernetes_version: kubernetes.to_owned(),
        nodes: 3,
        masters: if more.get("enableHA").is_some() { 3 } else { 1 },
        container_runtime: runtime.to_owned(),
        ..ClusterFacts::default()
    };
    let settings = Settings::parse(&spec, &facts).unwrap_or_else(|findings| panic!("{findings:?}"));
    let mut all = Vec::new();
    for component in &release.components {
        let inputs = settings.inputs(release, component, |_| None).unwrap();
        // What a check leaves out is never applied.
        let failed = component.failed_checks(release, &inputs).unwrap();
        if failed
            .iter()
            .any(|check| !check.warning && check.reason != "CalicoMissing")
        {
            continue;
        }
        for mut manifest in
            release::render(release, component, &inputs).unwrap_or_else(|error| panic!("{error}"))
        {
            let made = secret::resolve(manifest.object.as_value(), &|_| Some(b"Made-2022".to_vec())).unwrap();
            manifest.object = object::Object::try_from(made).unwrap();
            all.push(manifest);
        }
    }
    all
}

/// Namespaces and definitions are made for good, everything else is applied as a dry-run. Returns what is refused, and why.
pub(crate) async fn dry_run(cluster: &Cluster, kubernetes: &str) -> Vec<String> {
    let releases = Releases::embedded().unwrap();
    let release = releases.latest().unwrap();
    let mut refused = Vec::new();
    let first = rendered(release, kubernetes, "docker", &json!({}));
    let is_ground = |manifest: &&Manifest| {
        matches!(
            manifest.phase,
            Phase::Namespaces | Phase::CustomResourceDefinitions
        )
    };
    let mut ground: Vec<&Manifest> = first.iter().filter(is_ground).collect();
    ground.sort_by_key(|manifest| manifest.phase);
    for manifest in ground {
        if let Err(error) = cluster.apply(manifest.object.as_value(), true).await {
            refused.push(format!("{}: {error}", manifest.object.key()));
        }
    }
    for _ in 0..50 {
        let mut waiting = false;
        for definition in first
            .iter()
            .filter(|m| m.phase == Phase::CustomResourceDefinitions)
        {
            let text = |pointer| definition.object.get_str(pointer).unwrap_or_default();
            waiting |= !cluster
                .serves(text("/spec/group"), text("/spec/names/kind"))
                .await
                .unwrap();
        }
        if !waiting {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    // What was accepted once need not be asked about again.
    let mut asked: BTreeMap<ObjectKey, Vec<Value>> = BTreeMap::new();
    for (about, settings) in settings() {
        for runtime in ["docker", "containerd"] {
            for manifest in rendered(release, kubernetes, runtime, &settings) {
                let (key, value) = (manifest.object.key(), manifest.object.into_value());
                let known = asked.entry(key.clone()).or_default();
                if known.contains(&value) {
                    continue;
                }
                known.push(value.clone());
                // No server-side apply there.
                if key.group == "apiregistration.k8s.io" {
                    continue;
                }
                if let Err(error) = cluster.try_apply(&value).await {
                    refused.push(format!("{key} ({about}, {runtime}): {error}"));
                }
            }
        }
    }
    assert!(asked.values().map(Vec::len).sum::<usize>() > 700);
    refused
}
