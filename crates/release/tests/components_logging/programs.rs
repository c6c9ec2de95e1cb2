//! What single programs get and keep.

use release::Phase;
use serde_json::{Value, json};

use super::{COMPONENTS, Case, at, check, everything, everything_and, mk};

#[test]
fn logs_are_read_as_the_container_runtime_writes_them() {
    let command = "/spec/template/spec/initContainers/0/command/2";
    let operator = "Deployment/fluentbit-operator";
    for (runtime, input, parser, key, folder, objects) in [
        (
            "docker",
            "docker",
            "docker",
            "log",
            "$(docker info -f {{.DockerRootDir}})",
            6,
        ),
        ("containerd", "containerd", "cri", "message", "/var/log", 8),
        ("crio", "crio", "cri", "message", "/var/log", 8),
        ("", "containerd", "cri", "message", "/var/log", 8),
    ] {
        let case = mk(everything()).on(|cluster| cluster.container_runtime = runtime.into());
        let input = format!("Input/{input}");
        let unit = json!([format!("_SYSTEMD_UNIT={}.service", &input["Input/".len()..])]);
        check(
            &case,
            "logging",
            &[
                ("Input/tail", "/spec/tail/parser", json!(parser)),
                (&input, "/spec/systemd/systemdFilter", unit),
            ],
        );
        assert_eq!(case.objects("logging").len(), objects, "{runtime}");
        for component in ["events", "auditing"] {
            let filter = format!("Filter/filter-{component}");
            check(
                &case,
                component,
                &[(&filter, "/spec/filters/0/parser/keyName", json!(key))],
            );
        }
        let text = format!("set -ex; echo CONTAINER_ROOT_DIR={folder} > /fluentbit-operator/fluent-bit.env");
        check(&case, "fluent-operator", &[(operator, command, json!(text))]);
    }
    let case = mk(everything_and(
        json!({"common": {"containersLogMountedPath": "/data/docker"}}),
    ));
    let text = "set -ex; echo CONTAINER_ROOT_DIR=/data/docker > /fluentbit-operator/fluent-bit.env";
    let volumes = json!([{"name": "env", "emptyDir": {}}]);
    check(
        &case,
        "fluent-operator",
        &[
            (operator, command, json!(text)),
            (operator, "/spec/template/spec/volumes", volumes),
        ],
    );
}

#[test]
fn api_versions_are_the_newest_that_the_cluster_serves() {
    let curator = "CronJob/elasticsearch-logging-curator-elasticsearch-curator";
    let budget = "PodDisruptionBudget/gatekeeper-controller-manager";
    for (kubernetes, batch, policy) in [
        ("v1.19.16", "batch/v1beta1", "policy/v1beta1"),
        ("v1.20.2", "batch/v1beta1", "policy/v1beta1"),
        ("v1.21.0", "batch/v1", "policy/v1"),
        ("v1.22.17-eks-48e63af", "batch/v1", "policy/v1"),
        ("v1.23.4", "batch/v1", "policy/v1"),
    ] {
        let case = mk(everything()).on(|cluster| cluster.kubernetes_version = kubernetes.into());
        check(
            &case,
            "elasticsearch-curator",
            &[(curator, "/apiVersion", json!(batch))],
        );
        check(
            &case,
            "gatekeeper",
            &[
                (budget, "/apiVersion", json!(policy)),
                (
                    "PodSecurityPolicy/gatekeeper-admin",
                    "/apiVersion",
                    json!("policy/v1beta1"),
                ),
            ],
        );
    }
    let case = mk(everything()).on(|cluster| cluster.kubernetes_version = "v1.25.0".into());
    assert!(
        !case
            .objects("gatekeeper")
            .contains_key("PodSecurityPolicy/gatekeeper-admin")
    );
}

#[test]
fn pods_run_where_they_are_told_to() {
    let pod = "/spec/template/spec";
    let spec = everything_and(json!({
        "nodeSelector": {"all": "of-them"}, "tolerations": [{"key": "all", "operator": "Exists"}],
        "common": {"redis": {"nodeSelector": {"only": "redis"}}},
        "events": {"tolerations": []},
    }));
    let case = mk(spec);
    let workloads = ["Deployment", "StatefulSet", "CronJob", "Job"];
    for component in COMPONENTS
        .into_iter()
        .filter(|name| *name != "snapshot-controller")
    {
        for (name, object) in case.objects(component) {
            if !workloads.contains(&name.split('/').next().unwrap()) {
                continue;
            }
            let pod = object
                .pointer(pod)
                .or_else(|| object.pointer("/spec/jobTemplate/spec/template/spec"));
            let pod = pod.unwrap();
            let selector = if component.starts_with("redis") {
                json!({"only": "redis"})
            } else {
                json!({"all": "of-them"})
            };
            assert_eq!(pod["nodeSelector"], selector, "{name}");
            let tolerations = if component == "events" {
                Value::Null
            } else {
                json!([{"key": "all", "operator": "Exists"}])
            };
            assert_eq!(pod["tolerations"], tolerations, "{name}");
        }
    }
    check(
        &case,
        "auditing",
        &[(
            "Webhook/kube-auditing-webhook",
            "/spec/nodeSelector",
            json!({"all": "of-them"}),
        )],
    );
}

#[test]
fn resources_are_filled_up_and_each_has_its_own() {
    let resources = "/spec/template/spec/containers/0/resources";
    let spec = everything_and(json!({
        "events": {"operator": {"resources": {"limits": {"memory": "1Gi"}}}},
        "auditing": {"webhook": {"resources": {"requests": {"memory": "1Gi"}}}},
        "gatekeeper": {"audit": {"resources": {"requests": {"cpu": "1"}}}},
        "servicemesh": {"jaeger_operator": {"resources": {"requests": {"memory": "1Gi"}}}},
    }));
    let filled = |limits: [&str; 2], requests: [&str; 2]| json!({"limits": {"cpu": limits[0], "memory": limits[1]}, "requests": {"cpu": requests[0], "memory": requests[1]}});
    for (component, object, pointer, expect) in [
        (
            "events",
            "Deployment/ks-events-operator",
            resources,
            filled(["200m", "1Gi"], ["20m", "20Mi"]),
        ),
        (
            "auditing",
            "Webhook/kube-auditing-webhook",
            "/spec/resources",
            filled(["200m", "500Mi"], ["20m", "1Gi"]),
        ),
        (
            "gatekeeper",
            "Deployment/gatekeeper-audit",
            resources,
            filled(["1", "512Mi"], ["1", "256Mi"]),
        ),
        (
            "gatekeeper",
            "Deployment/gatekeeper-controller-manager",
            resources,
            filled(["1", "512Mi"], ["100m", "256Mi"]),
        ),
        (
            "jaeger",
            "Deployment/jaeger-operator",
            resources,
            filled(["100m", "128Mi"], ["20m", "1Gi"]),
        ),
    ] {
        check(&mk(spec.clone()), component, &[(object, pointer, expect)]);
    }
}

#[test]
fn certificates_that_serve_webhooks_are_kept() {
    for (component, configuration, secret, keys) in [
        (
            "events",
            "ValidatingWebhookConfiguration/ks-events-admission-validate",
            "ks-events-admission",
            ["ca.crt", "tls.crt", "tls.key"],
        ),
        (
            "logsidecar-injector",
            "MutatingWebhookConfiguration/logsidecar-injector-admission-mutate",
            "logsidecar-injector-admission-certs",
            ["ca.crt", "server.crt", "server.key"],
        ),
    ] {
        let bundle = "/webhooks/0/clientConfig/caBundle";
        let reference = json!(format!(
            "${{secret:kubesphere-logging-system/{secret}/ca.crt|base64}}"
        ));
        let made = [(secret.to_owned(), keys.map(str::to_owned).to_vec())];
        let new = mk(everything());
        check(&new, component, &[(configuration, bundle, reference.clone())]);
        assert_eq!(new.secrets(component), made);
        let helm = mk(everything()).with(json!({"certificate": "QQ==", "webhookAuthority": "Qg=="}));
        check(&helm, component, &[(configuration, bundle, json!("Qg=="))]);
        assert_eq!(helm.secrets(component), []);
        assert_eq!(
            at(
                &helm.objects(component),
                &format!("Secret/{secret}"),
                "/data/ca.crt"
            ),
            &Value::Null
        );
        let ours = mk(everything())
            .with(json!({"certificate": "QQ==", "authority": "Qw==", "webhookAuthority": "Qw=="}));
        check(&ours, component, &[(configuration, bundle, reference)]);
        assert_eq!(ours.secrets(component), made);
    }
}

#[test]
fn passwords_that_are_in_use_are_kept() {
    let environment = "/spec/template/spec/containers/0/env";
    let find = |case: &Case, name: &str| {
        let objects = case.objects("openldap");
        let variables = at(&objects, "StatefulSet/openldap", environment)
            .as_array()
            .unwrap();
        variables
            .iter()
            .find(|variable| variable["name"] == name)
            .cloned()
    };
    let new = mk(everything());
    let reference = json!({"name": "LDAP_ADMIN_PASSWORD",
        "valueFrom": {"secretKeyRef": {"name": "openldap-secret", "key": "adminPassword"}}});
    assert_eq!(find(&new, "LDAP_ADMIN_PASSWORD"), Some(reference.clone()));
    let keys = vec!["configPassword".into(), "adminPassword".into()];
    assert_eq!(new.secrets("openldap"), [("openldap-secret".into(), keys)]);
    let written = json!({"name": "LDAP_ADMIN_PASSWORD", "value": "old"});
    let pod = json!({"name": "MY_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
    let old = mk(everything()).with(json!({"environment": [pod, written]}));
    assert_eq!(find(&old, "LDAP_ADMIN_PASSWORD"), Some(written));
    assert_eq!(old.secrets("openldap"), []);
    let ours = mk(everything()).with(json!({"environment": [pod, reference]}));
    assert_eq!(find(&ours, "LDAP_ADMIN_PASSWORD"), Some(reference));

    assert_eq!(find(&new, "LDAP_REPLICATION").unwrap()["value"], "false");
    assert_eq!(find(&new, "LDAP_REPLICATION_HOSTS"), None);
    let masters = mk(everything()).on(|cluster| cluster.masters = 3);
    assert_eq!(find(&masters, "LDAP_REPLICATION").unwrap()["value"], "true");
    check(
        &masters,
        "openldap",
        &[("StatefulSet/openldap", "/spec/replicas", json!(2))],
    );
}

#[test]
fn events_operator_is_changed_in_place() {
    let selector = json!({"app": "ks-events-operator", "helm.sh/chart": "kube-events-0.3.0"});
    let operator = "Deployment/ks-events-operator";
    let case = mk(everything()).with(json!({ "selector": selector }));
    check(
        &case,
        "events",
        &[
            (operator, "/spec/selector/matchLabels", selector.clone()),
            (operator, "/spec/template/metadata/labels", selector.clone()),
            (
                operator,
                "/metadata/labels/helm.sh~1chart",
                json!("kube-events-0.4.0"),
            ),
            ("Service/ks-events-admission", "/spec/selector", selector),
        ],
    );
}

#[test]
fn rules_about_events_are_made_once() {
    let name = "Rule/ks-events-cluster-rules-default";
    assert!(
        !mk(everything())
            .with(json!({"rules": true}))
            .objects("events")
            .contains_key(name)
    );
    let objects = mk(everything()).objects("events");
    let rules = at(&objects, name, "/spec/rules").as_array().unwrap();
    assert_eq!(rules.len(), 96);
    let find = |name: &str| rules.iter().find(|rule| rule["name"] == name).unwrap();
    assert_eq!(
        find("ContainerBackoff")["condition"],
        r#"type="Warning" and involvedObject.kind="Pod" and reason="BackOff" and involvedObject.fieldPath != "" and count>3"#
    );
    assert_eq!(
        find("PodCreated"),
        &json!({"name": "PodCreated", "type": "notification", "enable": true,
            "condition": r#"type="Normal" and involvedObject.kind in ("Pod","ReplicaSet","DaemonSet","StatefulSet","Job") and reason="SuccessfulCreate""#})
    );
    let failed = find("HPASelectorError");
    assert!(
        failed["condition"]
            .as_str()
            .unwrap()
            .ends_with(r#"and reason in ("SelectorRequired","InvalidSelector")"#)
    );
    assert_eq!(
        (&failed["type"], &failed["labels"]["severity"]),
        (&json!("alert"), &json!("warning"))
    );
    let names: std::collections::BTreeSet<&str> =
        rules.iter().map(|rule| rule["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), rules.len());
    // Without the ruler nobody is there to be told.
    let case = mk(everything_and(json!({"events": {"ruler": {"enabled": false}}})));
    assert!(!case.objects("events").contains_key("Ruler/ks-events-ruler"));
    check(
        &case,
        "events",
        &[(
            "Exporter/ks-events-exporter",
            "/spec/sinks",
            json!({"stdout": {}}),
        )],
    );
}

#[test]
fn istio_is_installed_adopted_and_followed() {
    let job = |case: &Case| {
        let objects = case.objects("servicemesh");
        objects.keys().find(|name| name.starts_with("Job/")).cloned()
    };
    let data = |case: &Case| {
        at(
            &case.objects("servicemesh"),
            "ConfigMap/istio-configuration",
            "/data",
        )
        .clone()
    };
    let changed = || {
        mk(everything_and(
            json!({"servicemesh": {"istio": {"components": {"cni": {"enabled": true}}}}}),
        ))
    };

    let new = mk(everything());
    let first = job(&new).unwrap();
    // Once installed, the same Job is asked for, which is there.
    let installed = |case: Case| case.with(json!({"istiod": true, "configuration": data(&new)}));
    assert_eq!(job(&installed(mk(everything()))), Some(first.clone()));
    let second = job(&installed(changed())).unwrap();
    assert_ne!(first, second, "a changed configuration asks for another Job");

    let adopted = mk(everything()).with(json!({"istiod": true}));
    assert_eq!(job(&adopted), None);
    let later = |case: Case| case.with(json!({"istiod": true, "configuration": data(&adopted)}));
    assert_eq!(job(&later(mk(everything()))), None);
    assert_eq!(data(&later(mk(everything()))), data(&adopted), "nothing to write");
    assert_eq!(job(&later(changed())), Some(second));
    // Beside somebody else's nothing is installed, whatever the configuration becomes.
    for name in ["istiod", "istiod-1-14-3"] {
        let foreign = |case: Case| case.with(json!({"istiods": [name]}));
        assert_eq!(job(&foreign(mk(everything()))), None);
        let later = |case: Case| {
            case.with(json!({"istiods": [name], "configuration": data(&foreign(mk(everything())))}))
        };
        assert_eq!(job(&later(changed())), None);
        let both = json!({"istiod": true, "istiods": [name, "istiod-1-11-2"], "configuration": data(&new)});
        assert_eq!(job(&changed().with(both)), None);
    }
    // KubeSphere's own of an earlier release is nobody else's.
    let earlier =
        json!({"istiod": true, "istiods": ["istiod-1-11-2", "istiod-1-6-10"], "configuration": data(&new)});
    assert_eq!(job(&changed().with(earlier)), job(&installed(changed())));

    let text = data(&changed())["istio.yaml"].clone();
    let istio = object::parse_documents(text.as_str().unwrap()).unwrap().remove(0);
    assert_eq!(istio["spec"]["components"]["cni"]["enabled"], true);
    assert_eq!(
        istio["spec"]["components"]["pilot"]["enabled"], true,
        "maps are merged"
    );
    let user = json!({"hub": "mine", "components": {"ingressGateways": [{"name": "g"}]}});
    let own = data(&mk(everything_and(json!({"servicemesh": {"istio": user}}))));
    assert_eq!(
        own["images.yaml"].as_str().unwrap().matches("image").count(),
        0,
        "{own}"
    );
    let istio = object::parse_documents(own["istio.yaml"].as_str().unwrap())
        .unwrap()
        .remove(0);
    assert_eq!(
        istio["spec"]["components"]["ingressGateways"],
        json!([{"name": "g"}]),
        "lists are replaced"
    );
}

#[test]
fn gatekeeper_does_not_judge_itself() {
    let case = mk(everything());
    let label = "/metadata/labels/admission.gatekeeper.sh~1ignore";
    check(
        &case,
        "gatekeeper",
        &[("Namespace/gatekeeper-system", label, json!("no-self-managing"))],
    );
    // Its own programs write the authority; who declared it would take it away.
    for manifest in case.manifests("gatekeeper") {
        if manifest.phase == Phase::Webhooks {
            for webhook in manifest.object.get("/webhooks").unwrap().as_array().unwrap() {
                assert_eq!(webhook.pointer("/clientConfig/caBundle"), None);
            }
        }
    }
}
