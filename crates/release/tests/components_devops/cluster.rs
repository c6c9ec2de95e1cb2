//! App Store, topology, network, edge nodes and federation.

use object::Object;
use serde_json::{Value, json};

use crate::situation::{
    Situation, check, document, failed_checks, find, fresh, is_enabled, made, rendered, with,
};

#[test]
fn the_app_store_is_filled_and_its_repository_is_peoples() {
    let enabled = json!({"openpitrix": {"store": {"enabled": true}}});
    assert!(
        is_enabled("openpitrix", &fresh(enabled.clone())) && !is_enabled("openpitrix", &fresh(json!({})))
    );
    check(
        "openpitrix",
        &fresh(enabled.clone()),
        "HelmRepo",
        "builtin-stable",
        json!({
            "/spec/url": "https://charts.kubesphere.io/stable", "/spec/syncPeriod": 3600, "/metadata/namespace": null,
        }),
    );
    let manifests = rendered("openpitrix", &with(enabled, json!({"builtinRepository": true})));
    let kinds: Vec<&str> = manifests.iter().map(|manifest| manifest.object.kind()).collect();
    assert_eq!(kinds, ["Job"]);
}

#[test]
fn the_job_that_fills_the_app_store_is_another_when_it_does_something_else() {
    let name = |spec: Value| {
        let manifests = rendered("openpitrix", &fresh(spec));
        let job = manifests.iter().find(|manifest| manifest.object.kind() == "Job");
        job.unwrap().object.name().to_owned()
    };
    assert_eq!(
        name(json!({})),
        name(json!({"common": {"redis": {"enabled": true}}}))
    );
    assert_ne!(name(json!({})), name(json!({"dev_tag": "nightly"})));
    assert_ne!(name(json!({})), name(json!({"nodeSelector": {"pool": "a"}})));
}

#[test]
fn network_settings_have_no_objects_of_their_own() {
    let spec = json!({"network": {"networkpolicy": {"enabled": true}, "ippool": {"type": "calico"}}});
    for component in ["networkpolicy", "ippool"] {
        assert!(is_enabled(component, &fresh(spec.clone())) && !is_enabled(component, &fresh(json!({}))));
        assert_eq!(rendered(component, &fresh(spec.clone())), []);
    }
    let unenforced = ["NetworkPoliciesNotEnforced"];
    let plain = json!({"daemonSets": ["kube-proxy"], "definitions": ["a.b"]});
    assert_eq!(
        failed_checks("networkpolicy", &with(spec.clone(), plain.clone())),
        unenforced
    );
    for enforced in [
        json!({"daemonSets": ["kube-proxy", "calico-node"]}),
        json!({"daemonSets": ["kube-proxy"], "definitions": ["ciliumnetworkpolicies.cilium.io"]}),
        // Nothing was seen, which says nothing.
        json!({"daemonSets": []}),
    ] {
        assert_eq!(
            failed_checks("networkpolicy", &with(spec.clone(), enforced)),
            [""; 0]
        );
    }
    let mut k3s = with(spec.clone(), plain);
    k3s.cluster.kubernetes_version = "v1.22.5+k3s1".into();
    assert_eq!(failed_checks("networkpolicy", &k3s), [""; 0]);
    assert_eq!(failed_checks("ippool", &fresh(spec.clone())), ["CalicoMissing"]);
    assert_eq!(
        failed_checks("ippool", &with(spec, json!({"calicoPools": true}))),
        [""; 0]
    );
}

#[test]
fn topology_asks_docker() {
    let mut situation = fresh(json!({"network": {"topology": {"type": "weave-scope"}}}));
    assert!(is_enabled("topology", &situation));
    assert!(!is_enabled(
        "topology",
        &fresh(json!({"network": {"topology": {"type": "none"}}}))
    ));
    assert_eq!(failed_checks("topology", &situation), [""; 0]);
    situation.cluster.container_runtime = "containerd".into();
    assert_eq!(failed_checks("topology", &situation), ["TopologyNeedsDocker"]);
    check(
        "topology",
        &situation,
        "Service",
        "weave-scope-app",
        json!({"/spec/ports/0/port": 80, "/metadata/namespace": "weave"}),
    );
}

#[test]
fn only_a_host_has_federation() {
    for (role, expect) in [("host", true), ("member", false), ("none", false)] {
        let situation = fresh(json!({"multicluster": {"clusterRole": role}}));
        assert_eq!(is_enabled("multicluster", &situation), expect, "{role}");
    }
    for (nodes, expect) in [(1, 1), (2, 1), (3, 2), (9, 2)] {
        let mut situation = fresh(json!({}));
        situation.cluster.nodes = nodes;
        check(
            "multicluster",
            &situation,
            "Deployment",
            "kubefed-controller-manager",
            json!({"/spec/replicas": expect}),
        );
    }
}

#[test]
fn every_federated_type_has_its_definition() {
    let manifests = rendered("multicluster", &fresh(json!({})));
    let of_kind = |kind: &'static str| {
        manifests
            .iter()
            .map(|m| &m.object)
            .filter(move |object| object.kind() == kind)
    };
    let types: Vec<&Object> = of_kind("FederatedTypeConfig").collect();
    assert_eq!(types.len(), 25);
    for federated in types {
        let of = federated.get("/spec/federatedType").unwrap();
        let name = format!("{}.types.kubefed.io", of["pluralName"].as_str().unwrap());
        let definition = of_kind("CustomResourceDefinition").find(|object| object.name() == name);
        let spec = definition
            .unwrap_or_else(|| panic!("{name}"))
            .get("/spec")
            .unwrap();
        assert_eq!(
            (&spec["names"]["kind"], &spec["scope"]),
            (&of["kind"], &of["scope"]),
            "{name}"
        );
        assert_eq!(federated.namespace(), Some("kube-federation-system"));
    }
}

#[test]
fn the_authority_of_federation_stays() {
    let bundle = |existing: Value| {
        let manifests = rendered("multicluster", &with(json!({}), existing));
        let hooks = find(
            &manifests,
            "ValidatingWebhookConfiguration",
            "validations.core.kubefed.io",
        )
        .unwrap();
        hooks
            .get_str("/webhooks/2/clientConfig/caBundle")
            .unwrap()
            .to_owned()
    };
    let reference = "${secret:kube-federation-system/kubefed-admission-webhook-serving-cert/ca.crt|base64}";
    let is_made = |existing: Value| !made("multicluster", &with(json!({}), existing)).is_empty();
    assert_eq!(bundle(json!({})), reference);
    assert!(is_made(json!({})));
    // Helm's: the pair in the Secret, the authority in the webhooks.
    let helm = json!({"servingCertificate": "cert", "webhookAuthority": "authority"});
    assert_eq!(bundle(helm.clone()), "authority");
    assert!(!is_made(helm));
    // Ours, and a pair whose authority nobody knows.
    let ours =
        json!({"servingCertificate": "cert", "webhookAuthority": "authority", "authority": "authority"});
    assert_eq!(bundle(ours.clone()), reference);
    assert!(is_made(ours));
    assert!(is_made(json!({"servingCertificate": "cert"})));
}

#[test]
fn edge_nodes_need_both_switches_or_the_old_one() {
    let of = |spec: Value| is_enabled("edgeruntime", &fresh(spec));
    assert!(of(
        json!({"edgeruntime": {"enabled": true, "kubeedge": {"enabled": true}}})
    ));
    assert!(!of(json!({"edgeruntime": {"enabled": true}})));
    assert!(!of(
        json!({"edgeruntime": {"enabled": false, "kubeedge": {"enabled": true}}})
    ));
    assert!(of(json!({"kubeedge": {"enabled": true}})));
    let address = json!({"kubeedge": {"cloudCore": {"cloudHub": {"advertiseAddress": ["192.0.2.1"]}}}});
    assert_eq!(
        failed_checks("edgeruntime", &fresh(json!({}))),
        ["EdgeAddressMissing"]
    );
    assert_eq!(failed_checks("edgeruntime", &fresh(address)), [""; 0]);
}

#[test]
fn cloudcore_gets_what_is_set_and_keeps_its_limit() {
    let modules = |situation: &Situation| {
        document("edgeruntime", situation, "cloudcore", "cloudcore.yaml")["modules"].clone()
    };
    let spec = |cloud_core: Value| json!({"edgeruntime": {"kubeedge": {"cloudCore": cloud_core}}});
    let limit =
        |spec: Value, existing: Value| modules(&with(spec, existing))["cloudHub"]["nodeLimit"].clone();
    let set = spec(json!({"cloudHub": {"nodeLimit": "100"}}));
    let live = json!({"cloudcore": {"modules": {"cloudHub": {"nodeLimit": 250}}}});
    assert_eq!(limit(json!({}), json!({})), 1000);
    assert_eq!(limit(set.clone(), json!({})), 100);
    assert_eq!(limit(set, live), 250);

    let service = |cloud_core: Value, expect: Value| {
        check(
            "edgeruntime",
            &fresh(spec(cloud_core)),
            "Service",
            "cloudcore",
            expect,
        );
    };
    service(
        json!({}),
        json!({"/spec/type": "NodePort", "/spec/ports/3/nodePort": 30003, "/spec/ports/4/nodePort": 30004}),
    );
    service(
        json!({"service": {"tunnelNodePort": "31004"}}),
        json!({"/spec/ports/4/nodePort": 31004}),
    );
    service(
        json!({"hostNetWork": true}),
        json!({"/spec/type": "ClusterIP", "/spec/ports/0/nodePort": null}),
    );
    let resources = fresh(spec(
        json!({"resources": {"limits": {"cpu": "1"}}, "hostNetWork": "true"}),
    ));
    check(
        "edgeruntime",
        &resources,
        "Deployment",
        "cloudcore",
        json!({
            "/spec/template/spec/hostNetwork": true,
            "/spec/template/spec/containers/0/resources":
                {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "512Mi"}},
        }),
    );
    assert_eq!(
        made("edgeruntime", &fresh(json!({})))["cloudcore"],
        ["certificate"]
    );
}

#[test]
fn the_iptables_manager_can_be_left_out() {
    let there = |manager: Value| {
        let situation = fresh(json!({"edgeruntime": {"kubeedge": {"iptables-manager": manager}}}));
        let manifests = rendered("edgeruntime", &situation);
        let config = document("edgeruntime", &situation, "cloudcore", "cloudcore.yaml");
        let set = config["modules"]["iptablesManager"].clone();
        (
            find(&manifests, "DaemonSet", "cloud-iptables-manager").is_some(),
            set,
        )
    };
    assert_eq!(
        there(json!({})),
        (true, json!({"enable": true, "mode": "external"}))
    );
    assert_eq!(
        there(json!({"enabled": "false"})),
        (false, json!({"enable": false, "mode": "external"}))
    );
    assert_eq!(
        there(json!({"mode": "internal"})),
        (false, json!({"enable": true, "mode": "internal"}))
    );
}
