//! `sandbox`: a cluster of one's own, as its user meets it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::installer::Installer;
use crate::support;

/// The command while it serves.
struct Serving {
    child: Child,
    kubeconfig: String,
}

impl Serving {
    fn start(installer: &Installer, arguments: &[&str]) -> Serving {
        let mut child = installer.command(arguments).spawn().unwrap();
        let mut kubeconfig = String::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            kubeconfig.push_str(&line.unwrap());
            kubeconfig.push('\n');
            if kubeconfig.contains("\ncurrent-context:") {
                break;
            }
        }
        assert!(
            kubeconfig.contains("\ncurrent-context:"),
            "{:?}",
            child.wait_with_output()
        );
        Serving { child, kubeconfig }
    }

    async fn client(&self) -> kube::Client {
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&self.kubeconfig).unwrap();
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        kube::Client::try_from(config).unwrap()
    }

    /// Interrupts it, as Ctrl-C does; it ends well.
    fn interrupt(self) {
        let kill = format!("kill -INT {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let ended = self.child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
    }
}

#[test]
fn a_copy_is_served_changed_saved_and_served_again() {
    let installer = Installer::new();
    let from = support::tenants_file().display().to_string();
    let serving = Serving::start(
        &installer,
        &["sandbox", "--from", &from, "--save", "after.ndjson.zst"],
    );
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let client = serving.client().await;
        let version = client.apiserver_version().await.unwrap();
        assert_eq!(version.git_version, "v1.20.2", "that of the copy's nodes");
        let maps: Api<ConfigMap> = Api::namespaced(client, "default");
        let map =
            serde_json::from_value(json!({ "metadata": { "name": "mine" }, "data": { "a": "b" } })).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
    });
    serving.interrupt();
    let before = support::read(&support::tenants_file()).len();
    let after = support::read(&installer.path("after.ndjson.zst")).len();
    assert_eq!(after, before + 1);
    let serving = Serving::start(&installer, &["sandbox", "--from", "after.ndjson.zst"]);
    runtime.block_on(async {
        let maps: Api<ConfigMap> = Api::namespaced(serving.client().await, "default");
        assert_eq!(maps.get("mine").await.unwrap().data.unwrap()["a"], "b");
    });
    serving.interrupt();
}

#[test]
fn a_bad_day_is_rehearsed_from_a_file() {
    let installer = Installer::new();
    installer.write("bad.yaml", "images: ['broken:*']\nservices: [default/hook]\n");
    let arguments = [
        "sandbox",
        "--kubernetes-version",
        "1.22",
        "--pod-start",
        "0",
        "--troubles",
        "bad.yaml",
    ];
    let serving = Serving::start(&installer, &arguments);
    Runtime::new().unwrap().block_on(async {
        let client = serving.client().await;
        assert!(
            client
                .apiserver_version()
                .await
                .unwrap()
                .git_version
                .starts_with("v1.22")
        );
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
        for (name, image) in [("good", "web:1"), ("bad", "broken:1")] {
            let deployment = json!({
                "metadata": { "name": name },
                "spec": { "selector": { "matchLabels": { "app": name } }, "template": {
                    "metadata": { "labels": { "app": name } },
                    "spec": { "containers": [{ "name": "web", "image": image }] },
                } },
            });
            let deployment = serde_json::from_value(deployment).unwrap();
            deployments
                .create(&PostParams::default(), &deployment)
                .await
                .unwrap();
        }
        let pods: Api<Pod> = Api::namespaced(client, "default");
        for (app, reason) in [("good", None), ("bad", Some("ImagePullBackOff"))] {
            let selected = ListParams::default().labels(&format!("app={app}"));
            let pod = pods.list(&selected).await.unwrap().items.remove(0);
            let status = pod.status.unwrap().container_statuses.unwrap().remove(0);
            let waiting = status.state.unwrap().waiting.and_then(|waiting| waiting.reason);
            assert_eq!(waiting.as_deref(), reason, "{app}");
        }
    });
    serving.interrupt();
}

#[test]
fn what_cannot_be_served_is_said_with_its_line() {
    let installer = Installer::new();
    let node = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"},"status":{"nodeInfo":{"kubeletVersion":"v1.20.2"}}}"#;
    let check = |contents: &str, words: &[&str]| {
        installer.write("dump.ndjson", contents);
        installer.check_error(&["sandbox", "--from", "dump.ndjson"], words);
    };
    check(&format!("{node}\n{{\"kind\":\n"), &["dump.ndjson, line 2", "end"]);
    check(&format!("{node}\n\nnonsense\n"), &["dump.ndjson, line 3", "JSON"]);
    check(&format!("{node}\n{node}\n"), &["Node a is there twice"]);
    check(
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"b"}}"#,
        &["--kubernetes-version"],
    );
    installer.check_error(&["sandbox", "--from", "missing"], &["missing"]);
    // Before it begins, not when all is lost.
    installer.check_error(
        &["sandbox", "--save", "no/such/a.ndjson"],
        &["no/such/a.ndjson", "hint: make its folder"],
    );
    let from = support::tenants_file().display().to_string();
    installer.check_error(
        &["rehearse", "--from", &from, "--save", "no/such/a.ndjson"],
        &["hint: make its folder"],
    );
    installer.write("bad.yaml", "image: []\n");
    installer.check_error(&["sandbox", "--troubles", "bad.yaml"], &["bad.yaml"]);
}

#[test]
fn an_upgrade_is_rehearsed_on_a_bad_day() {
    let installer = Installer::new();
    let from = support::tenants_file().display().to_string();
    installer.write("bad.yaml", "images: ['*/ks-apiserver:v3.3.1']\n");
    let ended = installer.run(&["rehearse", "--from", &from, "--troubles", "bad.yaml"]);
    assert_ne!(ended.code, 0, "{ended:?}");
    let said = format!("{}{}", ended.out, ended.err);
    assert!(
        said.contains("ks-apiserver") && said.contains("cannot be pulled"),
        "{said}"
    );
}
