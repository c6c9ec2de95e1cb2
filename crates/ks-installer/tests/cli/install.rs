//! `install`, on clusters without KubeSphere and on others.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use object::ObjectKey;
use serde_json::{Value, json};

use crate::{
    installer::{Served, serve},
    support::{
        self,
        state::{State, configuration, iam, system},
    },
};

const INSTALL: [&str; 6] = ["install", "--yes", "--wait", "20", "--wait-controllers", "0"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&INSTALL[..], more].concat()
}

fn text_of(secret: &Value, key: &str) -> String {
    let data = secret["data"][key].as_str().unwrap();
    String::from_utf8(STANDARD.decode(data).unwrap()).unwrap()
}

/// Everything as JSON, and what it must come to.
fn install(served: &Served, more: &[&str]) -> Value {
    let ended = served.run(&with(&[more, &["-o", "json"]].concat()));
    assert_eq!(ended.code, 0, "{ended:?}");
    let report = ended.json();
    assert_eq!(
        (&report["installed"], &report["verified"]),
        (&json!(true), &json!(true))
    );
    report
}

#[test]
fn it_installs_shows_where_the_password_is_and_a_second_run_writes_nothing() {
    let served = serve(support::bare());
    let ended = served.run(&INSTALL);
    assert_eq!(ended.code, 0, "{ended:?}");
    for words in [
        "KubeSphere nothing → v3.3.1",
        "create Namespace kubesphere-system",
        "create CustomResourceDefinition clusterconfigurations.installer.kubesphere.io",
        "create ClusterConfiguration kubesphere-system/ks-installer",
        "create Prometheus: kubesphere-monitoring-system/k8s",
        "KubeSphere v3.3.1 is installed and verified",
        "Welcome to KubeSphere!",
        ":30880\n",
        "get secret kubesphere-secret -o jsonpath='{.data.initAdminPassword}' | base64 -d",
    ] {
        assert!(ended.out.contains(words), "{words:?} is not in: {}", ended.out);
    }
    assert!(!ended.out.contains("Backup"), "{}", ended.out);
    assert!(!ended.out.contains("loses"), "{}", ended.out);

    let state = State::of(&served.sandbox);
    let live = state.get(&configuration());
    for component in [
        "core",
        "monitoring",
        "notification-manager",
        "snapshot-controller",
    ] {
        assert_eq!(live["status"][component]["version"], "v3.3.1", "{component}");
    }
    let password = text_of(
        state.get(&system("", "Secret", "kubesphere-secret")),
        "initAdminPassword",
    );
    assert_eq!(password.len(), 16);
    assert_eq!(
        state.get(&iam("User", "admin"))["spec"]["password"],
        json!(password)
    );
    let binding = state.get(&iam("GlobalRoleBinding", "admin"));
    assert_eq!(binding["roleRef"]["name"], "platform-admin");
    let (out, err) = (&ended.out, &ended.err);
    assert!(!out.contains(&password) && !err.contains(&password));
    for (key, value) in &state.0 {
        // The account, and the Secret in which it is kept (in base64).
        let is_its_place = *key == iam("User", "admin");
        assert!(
            is_its_place || !value.to_string().contains(&password),
            "{key} holds the password"
        );
    }
    // As Helm would have left it.
    let record = state.get(&system("", "Secret", "sh.helm.release.v1.ks-core.v1"));
    assert_eq!(record["metadata"]["labels"]["status"], "deployed");
    assert!(
        !state
            .0
            .keys()
            .any(|key| key.name.starts_with("ks-installer-backup"))
    );

    let again = served.check_reads(&INSTALL, 0);
    assert!(
        again.out.contains("is installed already: nothing was written"),
        "{}",
        again.out
    );
    let again = served.check_reads(&with(&["-o", "json"]), 0).json();
    assert_eq!(
        (&again["written"], &again["pendingWrites"]),
        (&json!(0), &json!(0))
    );
    let status = served.check_reads(&["status", "-o", "json"], 0).json();
    assert_eq!(
        (&status["version"], &status["pendingWrites"]),
        (&json!("v3.3.1"), &json!(0))
    );
    assert_eq!(status["lastRun"]["kind"], "install");
    // An upgrade finds nothing to do either.
    assert_eq!(
        served.check_reads(&["upgrade", "--yes", "-o", "json"], 0).json()["written"],
        0
    );
}

#[test]
fn there_is_no_way_back_from_it() {
    let served = serve(support::bare());
    install(&served, &[]);
    let ended = served.check_reads(&["rollback", "--yes"], 1);
    assert!(ended.err.contains("nothing to go back to"), "{}", ended.err);
    let why = served.check_reads(&["rollback", "--yes", "-o", "json"], 1).json();
    assert_eq!(why["rolledBack"], false);
}

#[test]
fn a_dry_run_shows_everything_and_writes_nothing() {
    let served = serve(support::bare());
    let ended = served.check_reads(&["install", "--dry-run"], 0);
    for words in ["Foundation (3 writes", "Webhooks", "Nothing was written"] {
        assert!(ended.out.contains(words), "{words:?} is not in: {}", ended.out);
    }
    let json = served
        .check_reads(&["install", "--dry-run", "-o", "json"], 0)
        .json();
    assert_eq!(
        (&json["dryRun"], &json["plan"]["from"]),
        (&json!(true), &json!("nothing"))
    );
    assert_eq!(json["plan"]["stages"][0]["name"], "foundation");
    assert_eq!(json["plan"]["options"]["install"], "only");
    // Without a terminal it must be told.
    assert!(served.check_reads(&["install"], 2).err.contains("--dry-run"));
}

#[test]
fn settings_are_those_given() {
    let served = serve(support::bare());
    let file = served.installer.write(
        "mine.yaml",
        "apiVersion: installer.kubesphere.io/v1alpha1
kind: ClusterConfiguration
metadata: {name: ks-installer, uid: somewhere-else, annotations: {example.com/owner: sre}}
spec:
  persistence: {storageClass: standard}
  authentication: {adminPassword: Initial88}
status: {core: {version: v3.2.1}}
",
    );
    let settings = [
        "--config",
        &file,
        "--set",
        "common.core.console.port=30881",
        "--set",
        "terminal.timeout=60",
    ];
    let report = install(&served, &settings);
    assert_eq!(
        report["password"],
        json!({"setting": "authentication.adminPassword"})
    );
    assert!(report["console"].as_str().unwrap().ends_with(":30881"));
    let state = State::of(&served.sandbox);
    let live = state.get(&configuration());
    assert_eq!(live["metadata"]["annotations"]["example.com/owner"], "sre");
    assert_eq!(live["spec"]["terminal"]["timeout"], 60);
    let console = state.get(&system("", "Service", "ks-console"));
    assert_eq!(console["spec"]["ports"][0]["nodePort"], 30881);
    assert_eq!(state.get(&iam("User", "admin"))["spec"]["password"], "Initial88");

    // The same again is the same; anything else is refused, by name and without its value.
    served.check_reads(&with(&settings), 0);
    served.check_reads(&with(&["--set", "terminal.timeout=60"]), 0);
    let other = served.check_reads(&with(&["--set", "authentication.adminPassword=Another99"]), 1);
    assert!(
        other.out.contains("spec.authentication.adminPassword"),
        "{}",
        other.out
    );
    assert!(!other.out.contains("Another99") && !other.out.contains("Initial88"));
    let other = served
        .check_reads(&with(&["--set", "terminal.timeout=61", "-o", "json"]), 1)
        .json();
    assert!(other["why"].as_str().unwrap().contains("spec.terminal.timeout"));
}

#[test]
fn wrong_input_is_refused_before_any_write() {
    let served = serve(support::bare());
    let other = served.installer.write(
        "other.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
    );
    let two = served.installer.write("two.yaml", "a: 1\n---\nb: 2\n");
    let none = served.installer.write("none.yaml", "a: [\n");
    for (arguments, words) in [
        (&["--config", "absent.yaml"][..], &["cannot read absent.yaml"][..]),
        (&["--config", &other], &["it holds ConfigMap a", "hint: "]),
        (&["--config", &two], &["it holds 2 objects"]),
        (&["--config", &none], &["neither YAML nor JSON"]),
        (&["--set", "terminal"], &["path=value", "hint: "]),
        (&["--set", "a..b=1"], &["path=value"]),
        (
            &["--set", "etcd.port.number=1"],
            &["etcd.port.number cannot be set, since spec.etcd.port is no map"],
        ),
    ] {
        let ended = served.check_reads(&with(arguments), 2);
        for word in words {
            assert!(ended.err.contains(word), "{arguments:?}: {}", ended.err);
        }
    }
    // A wrong type is a finding like any other.
    for setting in [
        "terminal.timeout=soon",
        "common.redis.enabled=[1]",
        "authentication.adminPassword=short",
    ] {
        let ended = served
            .check_reads(&with(&["--set", setting, "-o", "json"]), 1)
            .json();
        assert_eq!(ended["why"], "blockers", "{setting}: {ended:#}");
    }
    assert!(
        State::of(&served.sandbox)
            .find(&ObjectKey::cluster("", "Namespace", "kubesphere-system"))
            .is_none()
    );
}

#[test]
fn what_stands_in_the_way_is_named_before_any_write() {
    let check = |served: &Served, more: &[&str], reasons: &[&str]| {
        let ended = served
            .check_reads(&with(&[more, &["-o", "json"]].concat()), 1)
            .json();
        let found: Vec<_> = ended["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["severity"] == "blocker")
            .map(|finding| finding["reason"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, reasons);
    };
    let old = serve(support::bare_of("v1.18.20", true));
    check(&old, &[], &["KubernetesUnsupported"]);
    let classless = serve(support::bare_of(support::KUBERNETES, false));
    check(&classless, &[], &["NoDefaultStorageClass"]);
    check(
        &classless,
        &["--set", "persistence.storageClass=fast"],
        &["StorageClassMissing"],
    );
    install(&classless, &["--set", "persistence.storageClass=standard"]);
}

/// More than one replica of the core takes a redis: it comes along, before the core, and there is nothing left to do.
#[test]
fn a_redis_comes_along_where_the_core_takes_one() {
    let served = serve(support::bare());
    install(&served, &["--set", "enableHA=true"]);
    let state = State::of(&served.sandbox);
    let status = &state.get(&configuration())["status"];
    assert_eq!(status["redis"]["version"], "v3.3.1", "{status}");
}

#[test]
fn a_cluster_with_another_kubesphere_is_left_to_an_upgrade() {
    let served = serve(support::tenants());
    let ended = served.check_reads(&INSTALL, 1);
    assert!(
        ended.out.contains("KubeSphere v3.2.1 is installed already"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("ks-installer upgrade"), "{}", ended.out);
    assert!(!ended.out.contains("to write"), "no plan: {}", ended.out);
    let json = served.check_reads(&with(&["-o", "json"]), 1).json();
    assert_eq!(
        (&json["installed"], &json["why"]),
        (&json!(false), &json!("blockers"))
    );
    served.check_reads(&["install", "--dry-run"], 1);

    let upgraded = serve(support::upgraded());
    let ended = upgraded.check_reads(&INSTALL, 0);
    assert!(ended.out.contains("v3.3.1 is installed already"), "{}", ended.out);
}

#[test]
fn other_commands_name_it_where_there_is_no_kubesphere() {
    let served = serve(support::bare());
    for command in ["preflight", "plan"] {
        let ended = served.check_reads(&[command], 1);
        assert!(ended.out.contains("ks-installer install"), "{}", ended.out);
    }
    assert!(
        served
            .check_reads(&["upgrade", "--yes"], 1)
            .out
            .contains("ks-installer install")
    );
    assert!(served.check_reads(&["status"], 0).out.contains("not installed"));
}
