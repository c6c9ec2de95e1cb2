//! `components`, `images`, `enable` and `disable`.

use std::collections::BTreeSet;

use object::{Object, ObjectKey};
use serde_json::{Value, json};

use crate::{
    installer::{Installer, Served, serve},
    registry::{Kept, Registry},
    support::{
        self, block_on, client, edit,
        state::{State, configuration},
    },
};

/// A cluster at the release, with nothing but the core and what is there by default.
pub(crate) fn installed() -> Served {
    installed_with(&[])
}

fn installed_with(settings: &[&str]) -> Served {
    let served = serve(support::bare());
    // Every API server makes these itself; the sandbox does not.
    for own in [
        json!({"kind": "ClusterRole", "metadata": {"name": "system:auth-delegator"}}),
        json!({"kind": "Role", "metadata": {"name": "extension-apiserver-authentication-reader", "namespace": "kube-system"}}),
    ] {
        let mut role = own;
        role["apiVersion"] = "rbac.authorization.k8s.io/v1".into();
        block_on(async { client(&served.sandbox).create(&role).await }).unwrap();
    }
    let mut arguments = vec![
        "install",
        "--yes",
        "--wait",
        "20",
        "--wait-controllers",
        "0",
        "-o",
        "json",
    ];
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    let ended = served.run(&arguments);
    assert_eq!(ended.code, 0, "{ended:?}");
    served
}

pub(crate) fn change<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![command, "--yes", "--wait", "20", "--wait-controllers", "0"];
    arguments.extend(more);
    arguments
}

/// Enables or disables, and gives the outcome, which must be good.
#[track_caller]
pub(crate) fn done(served: &Served, command: &str, more: &[&str]) -> Value {
    let ended = served.run(&change(command, &[more, &["-o", "json"]].concat()));
    assert_eq!(ended.code, 0, "{ended:?}");
    let outcome = ended.json();
    let field = format!("{command}d");
    assert_eq!(
        (&outcome[&field], &outcome["verified"]),
        (&json!(true), &json!(true)),
        "{outcome:#}"
    );
    outcome
}

pub(crate) fn list(served: &Served, names: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["components", "-o", "json"];
    arguments.extend(names);
    let ended = served.check_reads(&arguments, 0).json();
    ended["components"].as_array().unwrap().clone()
}

fn metrics_server() -> ObjectKey {
    ObjectKey::namespaced("apps", "Deployment", "kube-system", "metrics-server")
}

#[test]
fn components_are_listed_with_what_they_would_bring_and_take() {
    let served = installed();
    let all = list(&served, &[]);
    let of = |name: &str| all.iter().find(|component| component["name"] == name).unwrap();
    let core = of("ks-core");
    assert_eq!(
        (&core["state"], &core["version"]),
        (&json!("enabled"), &json!("v3.3.1")),
        "{core:#}"
    );
    let logging = of("logging");
    assert_eq!(logging["state"], "disabled");
    assert!(
        logging["brings"]
            .as_array()
            .unwrap()
            .contains(&json!("elasticsearch")),
        "{logging:#}"
    );
    assert_eq!(logging["switch"]["paths"], json!(["logging.enabled"]));
    let elasticsearch = of("elasticsearch");
    assert!(
        elasticsearch["requests"]["memoryBytes"].as_i64().unwrap() > 1 << 30,
        "{elasticsearch:#}"
    );
    assert!(!elasticsearch["images"].as_array().unwrap().is_empty());
    assert!(
        of("elasticsearch")["drawnInBy"]
            .as_array()
            .unwrap()
            .contains(&json!("logging"))
    );

    let text = served.check_reads(&["components"], 0).out;
    for words in [
        "NAME",
        "ks-core",
        "metrics-server",
        "disabled",
        "KubeSphere v3.3.1 on Kubernetes",
    ] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let text = served.check_reads(&["components", "metrics_server"], 0).out;
    for words in [
        "spec.metrics_server.enabled: true or false",
        "Deployment kube-system/metrics-server",
        "images (1)",
    ] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    assert!(!text.contains("ks-core:"), "{text}");
}

#[test]
fn names_that_are_none_are_refused_with_what_was_meant() {
    let installer = Installer::new();
    installer.check_error(
        &["components", "loging"],
        &["no component \"loging\"", "hint: did you mean logging?"],
    );
    installer.check_error(
        &["enable", "metric_servers", "--yes"],
        &["did you mean metrics-server?"],
    );
    installer.check_error(
        &["disable", "wordpress", "--yes"],
        &["it has ", "ks-core, metrics-server"],
    );
    installer.check_error(
        &["enable", "logging", "--yes", "--set", "a..b=1"],
        &["path=value", "hint: "],
    );
    installer.check_error(&["enable", "logging"], &["nobody to ask", "--dry-run"]);
    assert_eq!(installer.run(&["enable"]).code, 2);
}

#[test]
fn a_component_comes_follows_its_settings_goes_and_comes_again() {
    let served = installed();
    let dry = served
        .check_reads(&["enable", "metrics_server", "--dry-run"], 0)
        .out;
    for words in [
        "spec.metrics_server.enabled",
        "Deployment kube-system/metrics-server",
        "Nothing was written",
    ] {
        assert!(dry.contains(words), "{words:?} is not in: {dry}");
    }
    let dry = served
        .check_reads(&["enable", "metrics_server", "--dry-run", "-o", "json"], 0)
        .json();
    assert_eq!(
        (&dry["dryRun"], &dry["edit"], &dry["components"]),
        (&json!(true), &json!(true), &json!(["metrics-server"]))
    );

    let outcome = done(&served, "enable", &["metrics-server"]);
    assert!(outcome["backup"].as_str().is_some(), "{outcome:#}");
    let state = State::of(&served.sandbox);
    assert_eq!(
        state.get(&configuration())["spec"]["metrics_server"]["enabled"],
        true
    );
    assert_eq!(
        state.get(&configuration())["status"]["metricsServer"]["version"],
        "v3.3.1"
    );
    assert!(state.find(&metrics_server()).is_some());
    assert_eq!(list(&served, &["metrics-server"])[0]["state"], "enabled");

    // Once more there is nothing to do.
    let again = served.check_reads(&change("enable", &["metrics-server"]), 0);
    assert!(
        again.out.contains("nothing to do: metrics-server is enabled"),
        "{}",
        again.out
    );

    // A setting that is edited is followed.
    done(
        &served,
        "enable",
        &[
            "metrics-server",
            "--set",
            "nodeSelector={\"kubernetes.io/os\": linux}",
        ],
    );
    let live = State::of(&served.sandbox).get(&metrics_server()).clone();
    assert_eq!(
        live["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/os"], "linux",
        "{live:#}"
    );

    done(&served, "disable", &["metrics-server"]);
    let state = State::of(&served.sandbox);
    assert!(state.find(&metrics_server()).is_none());
    assert_eq!(
        state.get(&configuration())["spec"]["metrics_server"]["enabled"],
        false
    );
    assert_eq!(
        state.get(&configuration())["status"]["metricsServer"]["status"],
        "disabled"
    );
    assert_eq!(list(&served, &["metrics-server"])[0]["state"], "disabled");

    done(&served, "enable", &["metrics_server"]);
    assert!(State::of(&served.sandbox).find(&metrics_server()).is_some());
    let status = served.check_reads(&["status", "-o", "json"], 0).json();
    assert_eq!(status["pendingWrites"], 0, "{status:#}");
}

#[test]
fn what_speaks_against_it_is_said_and_nothing_is_written() {
    let served = installed_with(&["alerting.enabled=true"]);
    let check = |arguments: &[&str], reason: &str, words: &str| {
        let ended = served.check_reads(arguments, 1);
        assert!(
            ended.out.contains(reason) && ended.out.contains(words),
            "{arguments:?}: {}",
            ended.out
        );
        let outcome = served
            .check_reads(&[arguments, &["-o", "json"]].concat(), 1)
            .json();
        let findings = outcome["findings"].as_array().unwrap();
        assert!(
            findings.iter().any(|finding| finding["reason"] == reason),
            "{outcome:#}"
        );
    };
    check(
        &change("disable", &["monitoring"]),
        "ComponentInUse",
        "disable alerting monitoring",
    );
    check(
        &change("enable", &["elasticsearch"]),
        "ComponentHasNoSwitch",
        "logging",
    );
    check(
        &change("disable", &["ks-core"]),
        "ComponentHasNoSwitch",
        "part of every",
    );
    check(
        &change("enable", &["logsidecar-injector"]),
        "ComponentNeedsAnother",
        "enable logging logsidecar-injector",
    );
}

#[test]
fn a_cluster_that_is_not_at_the_release_is_upgraded_first() {
    let old = serve(support::tenants());
    let ended = old.check_reads(&change("enable", &["metrics-server"]), 1);
    assert!(
        ended.out.contains("upgrade first: ks-installer upgrade"),
        "{}",
        ended.out
    );
    let none = serve(support::bare());
    let ended = none.check_reads(&change("enable", &["metrics-server"]), 1);
    assert!(ended.out.contains("ks-installer install"), "{}", ended.out);
}

#[test]
fn what_an_earlier_installer_left_running_can_be_removed() {
    let served = installed_with(&["metrics_server.enabled=true"]);
    // As upstream leaves it: switched off, and noted without a version.
    edit(
        &served.sandbox,
        &configuration(),
        &json!({"spec": {"metrics_server": {"enabled": false}}, "status": {"metricsServer": {"version": null}}}),
    );
    assert_eq!(list(&served, &["metrics-server"])[0]["state"], "runsThoughOff");
    let text = served.check_reads(&["components"], 0).out;
    assert!(text.contains("runs, though switched off"), "{text}");
    let dry = served
        .check_reads(&["disable", "metrics-server", "--dry-run"], 0)
        .out;
    assert!(dry.contains("status.metricsServer.version"), "{dry}");
    done(&served, "disable", &["metrics-server"]);
    assert!(State::of(&served.sandbox).find(&metrics_server()).is_none());
}

#[test]
fn images_are_those_of_what_is_in_the_cluster() {
    let served = installed_with(&["metrics_server.enabled=true", "local_registry=registry.example"]);
    let printed = served.check_reads(&["images"], 0).out;
    let printed: Vec<&str> = printed.lines().collect();
    assert!(
        printed.is_sorted() && printed.iter().all(|image| image.starts_with("registry.example/")),
        "{printed:?}"
    );

    // All that this installer set, and nothing else that is there: pods and the like follow from it.
    let objects = served.sandbox.objects();
    let manifests = objects.iter().filter_map(|object| {
        let managers = object["metadata"]["managedFields"].as_array()?;
        let is_ours = managers.iter().any(|entry| entry["manager"] == "ks-installer");
        (is_ours && object["kind"] != "ClusterConfiguration" && object["kind"] != "Secret").then(|| {
            release::Manifest {
                object: Object::try_from((**object).clone()).unwrap(),
                source: String::new(),
                phase: release::Phase::Workloads,
                in_helm_release: false,
            }
        })
    });
    let found = release::images_of(&manifests.collect::<Vec<_>>());
    assert_eq!(printed, found);

    let json = served.check_reads(&["images", "-o", "json"], 0).json();
    let server = json
        .as_array()
        .unwrap()
        .iter()
        .find(|usage| usage["components"] == json!(["metrics-server"]));
    assert!(server.is_some(), "{json:#}");
    let all: BTreeSet<String> = served
        .check_reads(&["images", "--all"], 0)
        .out
        .lines()
        .map(str::to_owned)
        .collect();
    assert!(printed.iter().all(|image| all.contains(*image)) && all.len() > printed.len());
}

#[test]
fn images_are_known_without_a_cluster() {
    let installer = Installer::new();
    let all = installer.run(&["images", "--all"]);
    assert_eq!(all.code, 0, "{all:?}");
    assert!(all.err.contains("default settings"), "{}", all.err);
    assert!(
        all.out.lines().any(|image| image.contains("ks-apiserver:v3.3.1")),
        "{}",
        all.out
    );
    let config = installer.write(
        "mine.yaml",
        "apiVersion: installer.kubesphere.io/v1alpha1
kind: ClusterConfiguration
metadata: {name: ks-installer}
spec: {local_registry: registry.example, logging: {enabled: true}}
",
    );
    let check = |kubernetes: &str, kubectl: &str| {
        let some = installer.run(&["images", "--config", &config, "--kubernetes", kubernetes]);
        assert_eq!(some.code, 0, "{some:?}");
        let kubectl = format!("registry.example/kubesphere/kubectl:{kubectl}");
        assert!(some.out.lines().any(|image| image == kubectl), "{}", some.out);
        assert!(
            some.out.contains("elasticsearch") && !some.out.contains("istio"),
            "{}",
            some.out
        );
    };
    check("v1.20.2", "v1.20.0");
    check("v1.22.0", "v1.22.0");
    installer.check_error(&["images"], &["kubeconfig"]);
    installer.check_error(
        &["images", "--config", "absent.yaml"],
        &["cannot read absent.yaml"],
    );
    assert_eq!(installer.run(&["images", "--all", "--enabled"]).code, 2);
}

#[test]
fn registries_tell_which_platforms_images_are_for() {
    let installer = Installer::new();
    let check = |kept: fn(&str) -> Kept, code: i32, expect: &[(&str, &str)]| {
        let registry = Registry::serve(kept);
        let host = registry.address.to_string();
        let config = installer.write(
            "mine.yaml",
            format!(
                "apiVersion: installer.kubesphere.io/v1alpha1
kind: ClusterConfiguration
metadata: {{name: ks-installer}}
spec: {{local_registry: \"{host}\"}}
"
            ),
        );
        let arguments = [
            "images",
            "--config",
            &config,
            "--platforms",
            "--plain-http",
            &host,
        ];
        let printed = installer.run(&arguments);
        assert_eq!(printed.code, code, "{printed:?}");
        for (image, told) in expect {
            let line = printed.out.lines().find(|line| line.contains(image));
            assert!(
                line.is_some_and(|line| line.ends_with(told)),
                "{image}: {printed:?}"
            );
        }
        let json = installer.run(&[&arguments[..], &["-o", "json"]].concat());
        assert_eq!(json.code, code, "{json:?}");
        json.json()
    };
    let json = check(
        |_| Kept::ForMany,
        0,
        &[("ks-apiserver", "  linux/amd64, linux/arm64/v8")],
    );
    assert_eq!(json[0]["platforms"], json!(["linux/amd64", "linux/arm64/v8"]));
    let json = check(
        |name| match name {
            "kubesphere/ks-apiserver" => Kept::ForOne,
            "kubesphere/ks-console" => Kept::Nothing,
            "kubesphere/ks-controller-manager" => Kept::Locked,
            _ => Kept::ForMany,
        },
        1,
        &[
            ("ks-apiserver", "  linux/arm64"),
            ("ks-console", "  not in the registry"),
            ("ks-controller-manager", "without a login, or does not have it"),
        ],
    );
    let console = json.as_array().unwrap().iter().find(|entry| {
        let image = entry["image"].as_str();
        image.is_some_and(|image| image.contains("ks-console"))
    });
    assert_eq!(console.unwrap()["error"], "not in the registry");
    // Nobody listens there.
    let config = installer.write(
        "mine.yaml",
        "apiVersion: installer.kubesphere.io/v1alpha1
kind: ClusterConfiguration
metadata: {name: ks-installer}
spec: {local_registry: \"127.0.0.1:1\"}
",
    );
    let refused = installer.run(&["images", "--config", &config, "--platforms"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.out.contains("cannot be reached"), "{refused:?}");
}
