//! Components in whose place somebody else has something, and clusters that are too small for them.

use object::ObjectKey;
use sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    components::{change, done, list},
    installer::{Installer, Served, serve},
    support::{
        self, block_on, client, edit,
        state::{State, configuration},
    },
};

/// A cluster at the release, in which somebody else has had these objects since before the upgrade.
fn upgraded_with(others: &[Value]) -> Sandbox {
    let sandbox = support::tenants_but(|objects| objects.extend(others.iter().cloned()));
    block_on(support::upgrade(&sandbox));
    sandbox
}

fn workload(kind: &str, namespace: &str, name: &str, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"namespace": namespace, "name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn named(api_version: &str, kind: &str, namespace: Option<&str>, name: &str, more: &Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    let map = object.as_object_mut().unwrap();
    map.extend(more.as_object().unwrap().clone());
    object
}

fn keys(objects: &[Value]) -> Vec<ObjectKey> {
    objects
        .iter()
        .map(|object| object::Object::try_from(object.clone()).unwrap().key())
        .collect()
}

/// What people set of these objects, which must still be there.
#[track_caller]
fn specs(sandbox: &Sandbox, keys: &[ObjectKey]) -> Vec<Value> {
    let state = State::of(sandbox);
    keys.iter()
        .map(|key| {
            let object = state.find(key).unwrap_or_else(|| panic!("{key} is gone"));
            json!([object["spec"], object["rules"], object["data"]])
        })
        .collect()
}

#[test]
fn a_metrics_server_of_somebody_else_is_left_alone() {
    let system = Some("kube-system");
    let others = [
        workload(
            "Deployment",
            "kube-system",
            "metrics-server",
            "registry.k8s.io/metrics-server/metrics-server:v0.6.1",
        ),
        named(
            "v1",
            "Service",
            system,
            "metrics-server",
            &json!({"spec": {"selector": {"app": "metrics-server"}, "ports": [{"port": 443}]}}),
        ),
        named(
            "apiregistration.k8s.io/v1",
            "APIService",
            None,
            "v1beta1.metrics.k8s.io",
            &json!({"spec": {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
                "versionPriority": 100, "insecureSkipTLSVerify": true,
                "service": {"name": "metrics-server", "namespace": "kube-system"}}}),
        ),
    ];
    let keys = keys(&others);
    let served = serve(upgraded_with(&others));
    let before = specs(&served.sandbox, &keys);
    let refused = served.check_reads(&change("enable", &["metrics-server"]), 1);
    assert!(
        refused.out.contains("[MetricsServedByOthers]") && refused.out.contains("left alone"),
        "{}",
        refused.out
    );
    // Switched on with kubectl, it is left out; switched off again, theirs stays, and that is said.
    let on = json!({"spec": {"metrics_server": {"enabled": true}}});
    edit(&served.sandbox, &configuration(), &on);
    assert_eq!(list(&served, &["metrics-server"])[0]["state"], "leftOut");
    let upgraded = served.run(&["upgrade", "--yes", "--wait-controllers", "0"]);
    assert!(
        upgraded.out.contains("component metrics-server is left out"),
        "{upgraded:?}"
    );
    let disabled = served.run(&change("disable", &["metrics-server"]));
    assert_eq!(disabled.code, 0, "{disabled:?}");
    assert!(
        disabled
            .out
            .contains("component metrics-server is not installed: ")
            && disabled.out.contains("[MetricsServedByOthers]"),
        "{}",
        disabled.out
    );
    assert_eq!(specs(&served.sandbox, &keys), before);
}

#[test]
fn a_snapshot_controller_of_somebody_else_is_left_alone() {
    let controller = workload("StatefulSet", "kube-system", "snapshot-controller", "mine:v3.0.3");
    let keys = keys(std::slice::from_ref(&controller));
    let sandbox = support::tenants_but(|objects| {
        objects.retain(|object| object["metadata"]["name"] != "snapshot-controller");
        objects.push(controller);
    });
    let before = specs(&sandbox, &keys);
    let prepared = block_on(support::prepare(&sandbox));
    let told = prepared
        .findings()
        .iter()
        .find(|finding| finding.reason == "SnapshotControllerOfSomebodyElse")
        .unwrap();
    assert_eq!(told.severity, upgrade::Severity::Info);
    block_on(support::upgrade(&sandbox));
    assert_eq!(specs(&sandbox, &keys), before);
    let served = serve(sandbox);
    let shown = list(&served, &["snapshot-controller"]).remove(0);
    assert_eq!(shown["state"], "leftOut", "{shown:#}");
    assert!(
        shown["reason"].as_str().unwrap().contains("left alone"),
        "{shown:#}"
    );
}

fn istio(name: &str) -> Vec<Value> {
    let system = Some("istio-system");
    let rbac = "rbac.authorization.k8s.io/v1";
    let rules = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    vec![
        named("v1", "Namespace", None, "istio-system", &json!({})),
        workload("Deployment", "istio-system", name, "istio/pilot:1.14.3"),
        named("v1", "ServiceAccount", system, name, &json!({})),
        named(
            "v1",
            "ServiceAccount",
            system,
            "istio-reader-service-account",
            &json!({}),
        ),
        named(
            "v1",
            "Secret",
            system,
            "istio-ca-secret",
            &json!({"data": {"ca-key.pem": "YQ=="}}),
        ),
        named(rbac, "Role", system, name, &rules),
        named(
            rbac,
            "ClusterRole",
            None,
            "istiod-clusterrole-istio-system",
            &rules,
        ),
        named(
            rbac,
            "ClusterRole",
            None,
            "istio-reader-clusterrole-istio-system",
            &rules,
        ),
    ]
}

fn jobs(served: &Served) -> usize {
    let state = State::of(&served.sandbox);
    let jobs = state.of_kind("Job");
    jobs.filter(|(key, _)| key.name.starts_with("istio-installer"))
        .count()
}

#[test]
fn an_istio_of_somebody_else_stays_whole() {
    for name in ["istiod", "istiod-1-14-3"] {
        let others = istio(name);
        let keys = keys(&others[1..]);
        let served = serve(upgraded_with(&others));
        let before = specs(&served.sandbox, &keys);
        let dry = served.check_reads(&["enable", "servicemesh", "--dry-run"], 0).out;
        assert!(dry.contains("[IstioOfSomebodyElse]"), "{dry}");
        done(&served, "enable", &["servicemesh"]);
        assert_eq!(jobs(&served), 0, "{name}");
        // Whatever changes later, nothing is installed beside it.
        done(
            &served,
            "enable",
            &["servicemesh", "--set", "local_registry=r.example"],
        );
        assert_eq!(jobs(&served), 0, "{name}");
        done(&served, "disable", &["servicemesh", "--delete-data"]);
        assert_eq!(specs(&served.sandbox, &keys), before, "{name}");
    }
}

#[test]
fn all_of_our_istio_goes() {
    let served = serve(support::upgraded());
    done(&served, "enable", &["servicemesh"]);
    assert_eq!(jobs(&served), 1);
    // What istioctl makes.
    let system = Some("istio-system");
    let made = [
        workload(
            "Deployment",
            "istio-system",
            "istiod-1-11-2",
            "istio/pilot:1.11.1",
        ),
        named("v1", "ServiceAccount", system, "istiod-1-11-2", &json!({})),
        named(
            "autoscaling/v1",
            "HorizontalPodAutoscaler",
            system,
            "istiod-1-11-2",
            &json!({"spec": {"maxReplicas": 5,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "istiod-1-11-2"}}}),
        ),
        named(
            "policy/v1beta1",
            "PodDisruptionBudget",
            system,
            "istiod-1-11-2",
            &json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "istiod"}}}}),
        ),
        named(
            "v1",
            "Secret",
            system,
            "istio-ca-secret",
            &json!({"data": {"ca-key.pem": "YQ=="}}),
        ),
    ];
    block_on(async {
        for object in &made {
            client(&served.sandbox).create(object).await.unwrap();
        }
    });
    let keys = keys(&made);
    let left = || {
        let state = State::of(&served.sandbox);
        let left = keys.iter().filter(|key| state.find(key).is_some());
        left.map(|key| key.name.clone()).collect::<Vec<_>>()
    };
    let dry = served
        .check_reads(&["disable", "servicemesh", "--dry-run"], 0)
        .out;
    assert!(
        dry.contains("[DataStays]") && dry.contains("Secret istio-system/istio-ca-secret"),
        "{dry}"
    );
    done(&served, "disable", &["servicemesh", "--delete-data"]);
    assert_eq!(left(), Vec::<String>::new());
}

#[test]
fn nodes_that_are_too_small_are_told() {
    let served = serve(support::tenants_but(|objects| {
        for node in objects.iter_mut().filter(|object| object["kind"] == "Node") {
            for field in ["allocatable", "capacity"] {
                node["status"][field] = json!({"cpu": "1", "memory": "1Gi", "pods": "110"});
            }
        }
    }));
    block_on(support::upgrade(&served.sandbox));
    let dry = served.check_reads(&["enable", "devops", "--dry-run"], 0).out;
    assert!(
        dry.contains("[NodesTooSmall]") && dry.contains("Deployment kubesphere-devops-system/devops-jenkins"),
        "{dry}"
    );
}

#[test]
fn what_jobs_would_do_is_not_played_and_that_is_said() {
    let installer = Installer::new();
    let mut items = support::read(&support::tenants_file());
    let settings = support::find_mut(&mut items, "ClusterConfiguration", "ks-installer");
    settings["spec"]["servicemesh"]["enabled"] = true.into();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let path = installer.write("list.json", list.to_string());
    let rehearsed = installer.run(&["rehearse", "--from", &path]);
    assert_eq!(rehearsed.code, 0, "{rehearsed:?}");
    let said = "Not played of component servicemesh: the Job istio-installer runs istioctl";
    assert!(rehearsed.out.contains(said), "{}", rehearsed.out);
}
