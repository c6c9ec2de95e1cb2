//! Fields that were changed by hand, as the command line tells of them and asks about them.

use serde_json::{Value, json};

use crate::{
    installer::{Served, serve},
    support::{
        self,
        state::{State, system},
    },
};

/// A cluster in which somebody scaled ks-apiserver, gave it more CPU, and tried an image of their own.
fn edited() -> Served {
    serve(support::tenants_but(|objects| {
        let live = support::find_mut(objects, "Deployment", "ks-apiserver");
        live["spec"]["replicas"] = 4.into();
        let container = &mut live["spec"]["template"]["spec"]["containers"][0];
        container["resources"]["limits"]["cpu"] = "2".into();
        container["image"] = "mine:1".into();
        container["command"] = json!(["ks-apiserver", "--debug"]);
    }))
}

const CONTAINER: &str = "spec.template.spec.containers[name=ks-apiserver]";

/// `replicas cpu image command` of ks-apiserver.
fn outcome(served: &Served) -> String {
    let state = State::of(&served.sandbox);
    let spec = &state.get(&system("apps", "Deployment", "ks-apiserver"))["spec"];
    let container = &spec["template"]["spec"]["containers"][0];
    let text = |value: &Value| value.to_string().replace('"', "");
    format!(
        "{} {} {} {}",
        spec["replicas"],
        text(&container["resources"]["limits"]["cpu"]),
        text(&container["image"]),
        text(&container["command"][1])
    )
}

#[test]
fn the_plan_tells_what_was_changed_by_hand_and_what_becomes_of_it() {
    let served = edited();
    let text = served.check_reads(&["plan"], 0).out;
    for line in [
        "changed by hand: spec.replicas: released 1, now 4, the new release 1: stays".to_owned(),
        format!(
            "changed by hand: {CONTAINER}.command: released [\"ks-apiserver\",\"--logtostderr=true\"], \
             now [\"ks-apiserver\",\"--debug\"], the new release [\"ks-apiserver\",\"--logtostderr=true\"]: is put back"
        ),
        format!(
            "changed by hand: {CONTAINER}.image: released \"kubesphere/ks-apiserver:v3.2.1\", now \"mine:1\", \
             the new release \"kubesphere/ks-apiserver:v3.3.1\": gets what the release sets"
        ),
        "spec.replicas was changed by hand from 1 to 4 and stays as it is [DriftKept]".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
    let told = served.check_reads(&["plan", "-o", "json"], 0).json();
    let told: Vec<_> = told["drift"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["object"]["name"] == "ks-apiserver")
        .map(|entry| {
            let drift = &entry["drift"];
            json!([drift["path"], drift["live"], drift["kept"], drift["open"]])
        })
        .collect();
    assert_eq!(
        told,
        [
            json!(["spec.replicas", 4, true, true]),
            json!([format!("{CONTAINER}.image"), "mine:1", false, false]),
            json!([
                format!("{CONTAINER}.command"),
                ["ks-apiserver", "--debug"],
                false,
                true
            ]),
            json!([format!("{CONTAINER}.resources.limits.cpu"), "2", true, true]),
        ]
    );
}

#[test]
fn nobody_is_asked_where_there_is_nobody() {
    let served = edited();
    let writes = served.writes();
    for command in [
        &["plan", "--drift", "ask"][..],
        &["plan", "--drift", "ask", "-o", "json"],
        &["upgrade", "--yes", "--drift", "ask"],
    ] {
        let ended = served.run(command);
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{command:?}");
        assert!(
            ended
                .err
                .contains("hint: choose --drift keep or --drift overwrite"),
            "{}",
            ended.err
        );
    }
    assert_eq!(served.writes(), writes);
}

/// The answers are a part of the saved plan: whoever runs it is asked nothing, and has to repeat nothing.
#[test]
fn answers_given_on_a_terminal_are_kept_in_the_plan() {
    let served = edited();
    let plan = ["plan", "--drift", "ask", "--save", "plan.json"];
    // Replicas, command, cpu; what is nothing is asked again.
    let Some(said) = served.run_on_terminal(&plan, "o\nmaybe\nk\n\n") else {
        eprintln!("skipped: there is no program called script, which makes a terminal");
        return;
    };
    for question in [
        "[K]eep or [o]verwrite?",
        "[k]eep or [O]verwrite?",
        "released 1, now 4, the new release 1",
    ] {
        assert!(said.contains(question), "{said}");
    }
    assert!(
        !said.contains(&format!("{CONTAINER}.image was changed by hand\r\n")),
        "{said}"
    );
    let upgrade = [
        "upgrade",
        "--yes",
        "--plan",
        "plan.json",
        "--wait-controllers",
        "0",
    ];
    let refused = served.run(&[&upgrade[..], &["--drift", "keep"]].concat());
    assert!(
        refused.code == 2 && refused.err.contains("cannot be used with"),
        "{refused:?}"
    );
    let ended = served.run(&upgrade);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(outcome(&served), "1 2 kubesphere/ks-apiserver:v3.3.1 --debug");
}
