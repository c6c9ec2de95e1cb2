//! DevOps and Argo CD.

use std::collections::{BTreeMap, BTreeSet};

use object::ObjectKey;
use release::Phase;
use serde_json::{Value, json};

use crate::situation::{
    RELEASE, Situation, check, document, environment, failed_checks, find, fresh, is_enabled, made, rendered,
    with,
};

#[test]
fn the_volume_of_jenkins_stays_as_it_is() {
    let claim = |situation: &Situation, size: &str, class: Value| {
        check(
            "devops",
            situation,
            "PersistentVolumeClaim",
            "devops-jenkins",
            json!({
                "/spec/resources/requests/storage": size,
                "/spec/storageClassName": class,
            }),
        );
    };
    claim(&fresh(json!({})), "8Gi", json!(null));
    let spec = json!({"devops": {"jenkinsVolumeSize": "20Gi"}, "persistence": {"storageClass": "fast"}});
    claim(&fresh(spec.clone()), "20Gi", json!("fast"));
    let existing =
        json!({"claim": {"resources": {"requests": {"storage": "40Gi"}}, "storageClassName": "slow"}});
    claim(&with(spec.clone(), existing), "40Gi", json!("slow"));
    let without_class = json!({"claim": {"resources": {"requests": {"storage": "40Gi"}}}});
    claim(&with(spec.clone(), without_class), "40Gi", json!(null));

    let old = with(spec, json!({"claimOfKsJenkins": true}));
    let manifests = rendered("devops", &old);
    assert!(find(&manifests, "PersistentVolumeClaim", "devops-jenkins").is_none());
    check(
        "devops",
        &old,
        "Deployment",
        "devops-jenkins",
        json!({
            "/spec/template/spec/volumes/3/persistentVolumeClaim/claimName": "ks-jenkins",
        }),
    );
}

#[test]
fn jenkins_gets_what_is_set() {
    let memory = |spec: Value, limit: &str, request: &str| {
        check(
            "devops",
            &fresh(spec),
            "Deployment",
            "devops-jenkins",
            json!({
                "/spec/template/spec/containers/0/resources/limits/memory": limit,
                "/spec/template/spec/containers/0/resources/requests/memory": request,
                "/spec/template/spec/initContainers/0/resources/limits/memory": limit,
            }),
        );
    };
    memory(json!({}), "8Gi", "4Gi");
    memory(
        json!({"devops": {"jenkinsMemoryLim": "2Gi", "jenkinsMemoryReq": "1500Mi"}}),
        "2Gi",
        "1500Mi",
    );
    let set = environment("devops", &fresh(json!({"JavaOpts": "-Dx=y"})), "devops-jenkins");
    let options = set["JAVA_TOOL_OPTIONS"].as_str().unwrap();
    assert!(
        options.ends_with("-XX:+UnlockExperimentalVMOptions -Dx=y"),
        "{options}"
    );
    let location = fresh(json!({"JenkinsLocationUrl": "http://ci.example/?a&b"}));
    assert_eq!(
        document("devops", &location, "jenkins-casc-config", "jenkins.yaml")["unclassified"]["location"]["url"],
        "http://ci.example/?a&b"
    );
    let manifests = rendered("devops", &location);
    let files = find(&manifests, "ConfigMap", "devops-jenkins")
        .unwrap()
        .get("/data")
        .unwrap();
    let location = files["jenkins.model.JenkinsLocationConfiguration.xml"]
        .as_str()
        .unwrap();
    assert!(
        location.contains("<jenkinsUrl>http://ci.example/?a&amp;b</jenkinsUrl>"),
        "{location}"
    );
}

#[test]
fn mail_stays_as_somebody_set_it_in_the_deployment() {
    #[track_caller]
    fn check(spec: Value, live: Value, expect: Value) {
        let situation = with(spec, json!({ "jenkinsEnvironment": live }));
        let set = environment("devops", &situation, "devops-jenkins");
        for (name, value) in expect.as_object().unwrap() {
            assert_eq!(set.get(name).unwrap_or(&Value::Null), value, "{name}");
        }
    }
    check(
        json!({}),
        json!(null),
        json!({
            "EMAIL_SMTP_HOST": "mail.example.com", "EMAIL_SMTP_PORT": "465", "EMAIL_USE_SSL": "false",
            "EMAIL_FROM_NAME": "KubeSphere", "EMAIL_FROM_ADDR": "admin@example.com", "EMAIL_FROM_PASS": null,
        }),
    );
    let live = json!([
        {"name": "ADMIN_USER", "valueFrom": {"secretKeyRef": {"name": "devops-jenkins", "key": "jenkins-admin-user"}}},
        {"name": "EMAIL_SMTP_HOST", "value": "mail.corp"},
        {"name": "EMAIL_FROM_PASS", "value": "theirs"},
    ]);
    check(
        json!({}),
        live.clone(),
        json!({
            "EMAIL_SMTP_HOST": "mail.corp", "EMAIL_SMTP_PORT": "465", "EMAIL_FROM_PASS": "theirs",
        }),
    );
    let spec = json!({"EMAIL_SMTP_HOST": "mail.new", "EMAIL_SMTP_PORT": 587, "EMAIL_USE_SSL": true, "EMAIL_FROM_PASS": "x"});
    check(
        spec.clone(),
        live,
        json!({
            "EMAIL_SMTP_HOST": "mail.new", "EMAIL_SMTP_PORT": "587", "EMAIL_USE_SSL": "true",
            "EMAIL_FROM_PASS": "mail-password",
        }),
    );
    assert_eq!(
        made("devops", &fresh(spec))["devops-jenkins"],
        ["jenkins-admin-password", "mail-password"]
    );
    assert_eq!(
        made("devops", &fresh(json!({})))["devops-jenkins"],
        ["jenkins-admin-password"]
    );
}

#[test]
fn sonarqube_needs_an_address_and_a_token() {
    let variables = |situation: &Situation| {
        let set = environment("devops", situation, "devops-jenkins");
        ["SONAR_ENABLED", "SONAR_SERVER_URL", "SONAR_AUTH_TOKEN"]
            .map(|name| set.get(name).cloned().unwrap_or_default())
    };
    let url = json!({"devops": {"sonarqube": {"externalSonarUrl": "http://sonar"}}});
    assert_eq!(
        variables(&fresh(url.clone())),
        [json!(null), json!(null), json!(null)]
    );
    assert_eq!(
        failed_checks("devops", &fresh(url.clone())),
        ["SonarTokenMissing"]
    );
    let mut both = url;
    both["devops"]["sonarqube"]["externalSonarToken"] = json!("t");
    assert_eq!(
        variables(&fresh(both.clone())),
        [json!("true"), json!("http://sonar"), json!("sonar-token")]
    );
    assert_eq!(failed_checks("devops", &fresh(both)), [""; 0]);
    let before = with(
        json!({}),
        json!({"kubesphereConfig": {"sonarQube": {"host": "http://old", "token": "kept"}}}),
    );
    assert_eq!(
        variables(&before),
        [json!("true"), json!("http://old"), json!("kept")]
    );
}

#[test]
fn the_configuration_of_ks_devops_is_texts_and_keeps_its_token() {
    let config = |situation: &Situation| document("devops", situation, "devops-config", "kubesphere.yaml");
    let ours = config(&fresh(json!({})));
    for (name, section) in ours.as_object().unwrap() {
        for (key, value) in section.as_object().unwrap() {
            assert!(value.is_string(), "{name}.{key}");
        }
    }
    assert_eq!(
        ours["devops"]["password"],
        "${secret:kubesphere-system/kubesphere-secret/token}"
    );
    assert_eq!(
        ours["authentication"]["jwtSecret"],
        "${secret:kubesphere-system/kubesphere-secret/secret}"
    );
    assert_eq!(
        ours["s3"]["secretAccessKey"],
        "${secret:kubesphere-system/minio/secretkey}"
    );
    let live = json!({"config": {
        "devops": {"password": "head.claims.signature", "extra": "1"},
        "sonarQube": {"host": "http://sonar", "token": "t"},
    }});
    let kept = config(&with(json!({}), live));
    assert_eq!(kept["devops"]["password"], "head.claims.signature");
    assert_eq!(kept["devops"]["extra"], "1");
    assert_eq!(kept["sonarQube"]["host"], "http://sonar");
    let s3 = json!({"common": {"s3": {"endpoint": "https://s3", "accessKeyID": "a", "secretAccessKey": "b", "disableSSL": false}}});
    let external = config(&fresh(s3));
    assert_eq!(
        external["s3"],
        json!({
            "endpoint": "https://s3", "region": "us-east-1", "disableSSL": "false", "forcePathStyle": "true",
            "accessKeyID": "${setting:common.s3.accessKeyID}", "secretAccessKey": "${setting:common.s3.secretAccessKey}",
            "bucket": "s2i-binaries",
        })
    );
}

#[test]
fn the_directory_is_asked_with_the_password_that_it_has() {
    let password = |situation: &Situation| {
        let config = document("devops", situation, "devops-config", "kubesphere.yaml");
        let variables = environment("devops", situation, "devops-jenkins");
        (
            config["ldap"]["managerPassword"].clone(),
            variables["LDAP_MANAGER_PASSWORD"].clone(),
        )
    };
    let reference = json!("${secret:kubesphere-system/openldap-secret/adminPassword}");
    assert_eq!(
        password(&fresh(json!({}))),
        (reference, json!("ldap-manager-password"))
    );
    let old = json!({"ldapEnvironment": [{"name": "LDAP_CONFIG_PASSWORD", "value": "c"}, {"name": "LDAP_ADMIN_PASSWORD", "value": "old"}]});
    assert_eq!(password(&with(json!({}), old)), (json!("old"), json!("old")));
    let casc = document("devops", &fresh(json!({})), "jenkins-casc-config", "jenkins.yaml");
    let realm = &casc["jenkins"]["securityRealm"]["ldap"]["configurations"][0];
    assert_eq!(realm["managerPasswordSecret"], "${LDAP_MANAGER_PASSWORD}");
}

#[test]
fn pipelines_run_in_images_that_suit_the_nodes() {
    let agents = |runtime: &str| -> BTreeMap<String, String> {
        let mut situation = fresh(json!({}));
        situation.cluster.container_runtime = runtime.into();
        let casc = document("devops", &situation, "jenkins-casc-config", "jenkins.yaml");
        let templates = casc.pointer("/jenkins/clouds/0/kubernetes/templates").unwrap();
        let image = |agent: &Value| agent["containers"][0]["image"].as_str().unwrap().to_owned();
        templates
            .as_array()
            .unwrap()
            .iter()
            .map(|agent| (agent["label"].as_str().unwrap().to_owned(), image(agent)))
            .collect()
    };
    let docker = agents("docker");
    let labels = [
        "base",
        "go",
        "go16",
        "go17",
        "go18",
        "jdk11 maven java",
        "maven",
        "nodejs",
        "python",
    ];
    assert_eq!(docker.keys().collect::<Vec<_>>(), labels);
    assert_eq!(
        docker["jdk11 maven java"],
        "kubesphere/builder-maven:v3.2.1-jdk11"
    );
    assert_eq!(docker["base"], "kubesphere/builder-base:v3.2.2");
    for image in agents("containerd").values() {
        assert!(image.ends_with("-podman"), "{image}");
    }
    let casc = document("devops", &fresh(json!({})), "jenkins-casc-config", "jenkins.yaml");
    let maven = casc
        .pointer("/jenkins/clouds/0/kubernetes/templates/2/yaml")
        .unwrap();
    let pod = object::parse_documents(maven.as_str().unwrap())
        .unwrap()
        .remove(0);
    assert_eq!(
        pod["spec"]["containers"][0]["volumeMounts"][0]["subPath"],
        "settings.xml"
    );
    assert_eq!(pod["spec"]["volumes"][0]["configMap"]["name"], "ks-devops-agent");
}

#[test]
fn what_people_changed_of_devops_stays() {
    let existing = json!({"mavenSettings": "<settings>mine</settings>", "podResourceLimit": "custom"});
    let situation = with(json!({}), existing);
    check(
        "devops",
        &situation,
        "ConfigMap",
        "ks-devops-agent",
        json!({"/data/MavenSetting": "<settings>mine</settings>"}),
    );
    check(
        "devops",
        &situation,
        "ConfigMap",
        "jenkins-agent-config",
        json!({"/data/agent.pod_resource_limit": "custom"}),
    );
    check(
        "devops",
        &fresh(json!({})),
        "ConfigMap",
        "jenkins-agent-config",
        json!({"/data/agent.pod_resource_limit": "default"}),
    );
    let mut elsewhere = fresh(json!({}));
    elsewhere.cluster.namespaces.insert(
        "kubesphere-devops-worker".into(),
        [("kubesphere.io/workspace".to_owned(), "ci".to_owned())].into(),
    );
    check(
        "devops",
        &elsewhere,
        "Namespace",
        "kubesphere-devops-worker",
        json!({
            "/metadata/labels/kubesphere.io~1workspace": "ci",
            "/metadata/labels/release": "devops",
        }),
    );
}

#[test]
fn webhooks_of_builds_stand_on_a_pair_made_for_the_cluster() {
    let authority = "${secret:kubesphere-devops-system/s2i-webhook-server-cert/caBundle|base64}";
    let manifests = rendered("devops", &fresh(json!({})));
    for (kind, name, count) in [
        (
            "MutatingWebhookConfiguration",
            "mutating-webhook-configuration",
            1,
        ),
        (
            "ValidatingWebhookConfiguration",
            "validating-webhook-configuration",
            3,
        ),
    ] {
        let webhooks = find(&manifests, kind, name)
            .unwrap()
            .get("/webhooks")
            .unwrap()
            .as_array()
            .unwrap();
        assert_eq!(webhooks.len(), count);
        for webhook in webhooks {
            assert_eq!(webhook["clientConfig"]["caBundle"], authority);
        }
    }
    assert_eq!(
        made("devops", &fresh(json!({})))["s2i-webhook-server-cert"],
        ["certificate"]
    );
    let target = RELEASE.component("devops").unwrap().targets(&manifests);
    let service = ObjectKey::namespaced(
        "",
        "Service",
        "kubesphere-devops-system",
        "webhook-server-service",
    );
    assert_eq!(target.webhook_services, [service]);
    // The templates that the webhook judges are there before it is.
    for manifest in &manifests {
        if manifest.object.kind() == "S2iBuilderTemplate" {
            assert_eq!(
                (manifest.phase, manifest.object.namespace()),
                (Phase::CustomResources, None)
            );
            assert_eq!(manifest.in_helm_release, manifest.object.name() == "binary");
        }
    }
}

#[test]
fn prometheus_is_told_of_devops_where_there_is_one() {
    let kinds = |situation: &Situation| -> BTreeSet<String> {
        let manifests = rendered("devops", situation);
        let of = manifests
            .iter()
            .filter(|manifest| manifest.object.group() == "monitoring.coreos.com");
        of.map(|manifest| manifest.object.kind().to_owned()).collect()
    };
    let both = BTreeSet::from(["PrometheusRule".to_owned(), "ServiceMonitor".to_owned()]);
    let external = json!({"common": {"monitoring": {"type": "external"}}});
    assert_eq!(kinds(&fresh(json!({}))), both);
    assert_eq!(kinds(&fresh(external.clone())), BTreeSet::new());
    assert_eq!(kinds(&with(external, json!({"serviceMonitors": true}))), both);
    check(
        "devops",
        &fresh(json!({})),
        "PrometheusRule",
        "devops-jenkins-rules",
        json!({
            "/metadata/labels/thanos-ruler": "kubesphere", "/metadata/labels/role": "alert-rules",
        }),
    );
}

#[test]
fn argocd_may_be_somebody_elses() {
    let of = |argocd: Value| fresh(json!({"devops": {"enabled": true, "argocd": argocd}}));
    assert!(is_enabled("argocd", &of(json!({}))));
    assert!(!is_enabled("argocd", &of(json!({"installation": "custom"}))));
    assert!(!is_enabled("argocd", &fresh(json!({}))));
    let custom = of(json!({"installation": "custom", "namespace": "gitops"}));
    check(
        "devops",
        &custom,
        "Deployment",
        "devops-apiserver",
        json!({
            "/spec/template/spec/containers/0/args": ["--argocd-namespace=gitops"],
        }),
    );
    check(
        "devops",
        &custom,
        "Deployment",
        "devops-controller",
        json!({
            "/spec/template/spec/containers/0/args/2": "--argocd-namespace=gitops",
        }),
    );
    for manifest in rendered("argocd", &custom) {
        let namespace = manifest.object.namespace();
        assert!(
            namespace.is_none_or(|namespace| namespace == "argocd"),
            "{:?}",
            manifest.object
        );
    }
}

#[test]
fn keys_that_their_owners_withdrew_are_not_trusted() {
    let manifests = rendered("argocd", &fresh(json!({})));
    let hosts = find(&manifests, "ConfigMap", "argocd-ssh-known-hosts-cm").unwrap();
    let hosts = hosts.get_str("/data/ssh_known_hosts").unwrap();
    assert!(
        !hosts.contains("github.com ssh-rsa") && !hosts.contains("bitbucket.org"),
        "{hosts}"
    );
    assert!(
        hosts.contains("github.com ssh-ed25519") && hosts.contains("gitlab.com ssh-rsa"),
        "{hosts}"
    );
}
