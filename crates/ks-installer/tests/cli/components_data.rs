//! Components with data, with others that they bring along, and with an operator that does the work.

use object::ObjectKey;
use serde_json::{Value, json};

use crate::{
    components::{change, done, installed, list},
    operator::Operated,
    support::{
        state::{State, configuration},
        upgraded,
    },
};

fn claims(state: &State) -> Vec<&ObjectKey> {
    let is_of_logging = |key: &&ObjectKey| key.namespace.as_deref() == Some("kubesphere-logging-system");
    state
        .of_kind("PersistentVolumeClaim")
        .map(|(key, _)| key)
        .filter(is_of_logging)
        .collect()
}

fn state_of(served: &crate::installer::Served, name: &str) -> Value {
    list(served, &[name])[0]["state"].clone()
}

#[test]
fn what_it_brought_along_goes_with_it_and_its_data_stays() {
    let served = installed();
    done(
        &served,
        "enable",
        &["logging", "--set", "logging.logsidecar.enabled=false"],
    );
    for name in ["logging", "elasticsearch", "fluent-operator"] {
        assert_eq!(state_of(&served, name), "enabled", "{name}");
    }
    assert_eq!(state_of(&served, "logsidecar-injector"), "disabled");
    let state = State::of(&served.sandbox);
    assert!(!claims(&state).is_empty());
    let shown = list(&served, &["elasticsearch"]);
    assert_eq!(
        shown[0]["dataThere"].as_array().unwrap().len(),
        claims(&state).len(),
        "{shown:#?}"
    );

    let dry = served.check_reads(&["disable", "logging", "--dry-run"], 0).out;
    assert!(
        dry.contains("[DataStays]") && dry.contains("PersistentVolumeClaim"),
        "{dry}"
    );
    done(&served, "disable", &["logging"]);
    let after = State::of(&served.sandbox);
    assert_eq!(claims(&after), claims(&state));
    assert_eq!(state_of(&served, "elasticsearch"), "disabled");

    done(&served, "enable", &["logging"]);
    done(&served, "disable", &["logging", "--delete-data"]);
    let after = State::of(&served.sandbox);
    assert_eq!(claims(&after), Vec::<&ObjectKey>::new());
    let status = served.check_reads(&["status", "-o", "json"], 0).json();
    assert_eq!(status["pendingWrites"], 0, "{status:#}");
}

#[test]
fn what_a_check_keeps_out_is_refused_with_its_hint() {
    let served = installed();
    let refused = served.check_reads(&change("enable", &["etcd-monitoring"]), 1);
    assert!(
        refused.out.contains("[EtcdAddressesMissing]") && refused.out.contains("hint: set etcd.endpointIps"),
        "{}",
        refused.out
    );
    let live = State::of(&served.sandbox);
    assert_ne!(live.get(&configuration())["spec"]["etcd"]["monitoring"], true);
    // What it asks for can be set in one.
    done(
        &served,
        "enable",
        &["etcd-monitoring", "--set", "etcd.endpointIps=10.0.0.1"],
    );
    assert_eq!(state_of(&served, "etcd-monitoring"), "enabled");
}

#[test]
fn an_operator_does_it_where_one_runs() {
    let mut operated = Operated::on(upgraded());
    operated.wait("at rest", |now| now["status"]["phase"] == "Running");
    let served = &operated.served;
    let refused = served.run(&change("disable", &["alerting", "--delete-data"]));
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused.err.contains("--delete-data") && refused.err.contains("--replicas=0"),
        "{refused:?}"
    );
    let handed = |command: &str| {
        let outcome = served.run(&change(command, &["topology", "-o", "json"]));
        assert_eq!(
            outcome.code,
            0,
            "{outcome:?}\n{}",
            std::fs::read_to_string(served.installer.path("operator.log")).unwrap()
        );
        let outcome = outcome.json();
        assert_eq!(
            (&outcome[format!("{command}d")], &outcome["by"]),
            (&json!(true), &json!("operator")),
            "{outcome:#}"
        );
    };
    // The operator renews its Leases meanwhile, which are writes.
    let state =
        || served.run(&["components", "topology", "-o", "json"]).json()["components"][0]["state"].clone();
    handed("enable");
    assert_eq!(state(), "enabled");
    handed("disable");
    assert_eq!(state(), "disabled");
    operated.end();
}
