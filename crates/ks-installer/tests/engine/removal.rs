//! Components that go though they never ran, and data that goes with them.

use std::time::Duration;

use engine::SessionError;
use object::ObjectKey;
use sandbox::{Sandbox, faults::Trouble};
use serde_json::{Value, json};
use upgrade::{Action, Options, components::State as Shown, plan::Condition, reasons};

use crate::{
    components::{PREPARED, is_left, release, switch},
    support::{
        self,
        state::{State, configuration},
    },
};

const RELEASE: &str = "v3.3.1";

/// With a component switched on whose image cannot be pulled, after a run that failed over it.
pub(crate) fn failed(sandbox: &Sandbox) {
    switch(sandbox, release().component("gatekeeper").unwrap(), true);
    sandbox.afflict(Trouble::UnpullableImage {
        image: "openpolicyagent/gatekeeper:v3.5.2".into(),
    });
    let error = support::block_on(stopped(sandbox, Options::default()));
    assert!(error.to_string().contains("component gatekeeper: "), "{error}");
}

/// Why a run with little patience stops.
async fn stopped(sandbox: &Sandbox, options: Options) -> SessionError {
    let cluster = support::client(sandbox);
    let mut session = support::session(&cluster, options);
    session.run.wait = Duration::from_millis(500);
    let prepared = engine::prepare(&session).await.unwrap();
    session.execute(prepared, &|_| {}).await.unwrap_err()
}

fn taking_data() -> Options {
    Options {
        delete_data: true,
        ..Options::default()
    }
}

fn status_of(sandbox: &Sandbox, component: &str) -> Value {
    State::of(sandbox).get(&configuration())["status"][component].clone()
}

fn gatekeeper() -> ObjectKey {
    ObjectKey::namespaced(
        "apps",
        "Deployment",
        "gatekeeper-system",
        "gatekeeper-controller-manager",
    )
}

#[test]
fn an_installation_that_failed_can_be_taken_back() {
    let sandbox = PREPARED.fork();
    let before = State::of(&sandbox);
    failed(&sandbox);
    assert_eq!(
        status_of(&sandbox, "gatekeeper"),
        json!({"status": "installing", "version": RELEASE})
    );
    let snapshot = support::block_on(support::prepare(&sandbox)).snapshot;
    let releases = release::Releases::embedded().unwrap();
    let shown = upgrade::components::components(&snapshot, &releases, &Options::default()).unwrap();
    let shown = shown
        .iter()
        .find(|component| component.name == "gatekeeper")
        .unwrap();
    assert_eq!(shown.state, Shown::Installing, "{shown:#?}");

    switch(&sandbox, release().component("gatekeeper").unwrap(), false);
    support::block_on(async {
        support::upgrade(&sandbox).await;
        support::check_nothing_to_do(&sandbox).await;
    });
    assert_eq!(status_of(&sandbox, "gatekeeper"), json!({"status": "disabled"}));
    let after = State::of(&sandbox).comparable();
    let keys = |of: &State, others: &State| -> Vec<String> {
        let other = of.0.iter().filter(|(key, _)| others.find(key).is_none());
        other
            .filter(|(key, object)| key.name.contains("gatekeeper") || !is_left(key, object, &after))
            .map(|(key, _)| key.to_string())
            .collect()
    };
    assert_eq!(keys(&after, &before), Vec::<String>::new(), "it leaves");
    assert_eq!(
        keys(&before.comparable(), &after),
        Vec::<String>::new(),
        "it takes along"
    );
}

fn held() -> (ObjectKey, Value) {
    let group = "templates.gatekeeper.sh";
    let template = json!({
        "apiVersion": format!("{group}/v1beta1"), "kind": "ConstraintTemplate",
        "metadata": {"name": "held", "finalizers": ["example.org/held"]},
        "spec": {"crd": {"spec": {"names": {"kind": "Held"}}}},
    });
    (ObjectKey::cluster(group, "ConstraintTemplate", "held"), template)
}

/// Gatekeeper, switched off again, with a policy of somebody whose finalizer waits for its controller.
fn with_data() -> Sandbox {
    let sandbox = PREPARED.fork();
    let component = release().component("gatekeeper").unwrap();
    switch(&sandbox, component, true);
    support::block_on(async {
        support::upgrade(&sandbox).await;
        support::client(&sandbox).create(&held().1).await.unwrap();
    });
    switch(&sandbox, component, false);
    sandbox
}

#[test]
fn a_custom_resource_that_does_not_go_stops_the_removal_of_its_controller() {
    let sandbox = with_data();
    let error = support::block_on(stopped(&sandbox, taking_data()));
    let SessionError::Run(error) = error else {
        panic!("{error}")
    };
    let text = error.to_string();
    assert!(
        text.contains("ConstraintTemplate held") && text.contains("example.org/held"),
        "{text}"
    );
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("kubectl patch constrainttemplate.templates.gatekeeper.sh held"),
        "{hint}"
    );
    let state = State::of(&sandbox);
    assert!(state.find(&gatekeeper()).is_some(), "its controller is gone");
    assert_eq!(status_of(&sandbox, "gatekeeper")["status"], "enabled");

    // It is waited for by whoever only switches the component off, too.
    let plan = support::block_on(support::prepare(&sandbox))
        .decision
        .plan
        .unwrap();
    let waits = plan.stages.iter().any(|stage| {
        let is_wait = |action: &Action| {
            *action
                == Action::Wait {
                    condition: Condition::Gone,
                }
        };
        let mut steps = stage.steps.iter();
        stage.name == "gatekeeper/remove-custom-data"
            && steps.any(|step| step.object == held().0 && is_wait(&step.action))
    });
    assert!(waits, "{:#?}", plan.stages);
}

#[test]
fn custom_resources_go_while_their_controllers_are_there() {
    let sandbox = with_data();
    let (key, _) = held();
    let controller = async {
        loop {
            let state = State::of(&sandbox);
            if state
                .find(&key)
                .is_some_and(|held| held["metadata"]["deletionTimestamp"].is_string())
            {
                assert!(state.find(&gatekeeper()).is_some(), "the controller is gone");
                let patch = json!({"metadata": {"finalizers": null}});
                support::client(&sandbox).merge_patch(&key, &patch).await.unwrap();
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    support::block_on(async {
        let cluster = support::client(&sandbox);
        tokio::join!(support::upgrade_with(&cluster, taking_data()), controller);
        support::check_nothing_to_do(&sandbox).await;
    });
    let state = State::of(&sandbox);
    let left: Vec<_> = state
        .0
        .keys()
        .filter(|key| key.name.contains("gatekeeper"))
        .collect();
    assert_eq!(left, Vec::<&ObjectKey>::new());
    assert_eq!(status_of(&sandbox, "gatekeeper"), json!({"status": "disabled"}));
}

#[test]
fn secrets_that_were_made_are_data() {
    let sandbox = PREPARED.fork();
    let components = ["redis", "edgeruntime"].map(|name| release().component(name).unwrap());
    for component in components {
        switch(&sandbox, component, true);
    }
    support::block_on(support::upgrade(&sandbox));
    let secrets = [("kubesphere-system", "redis-secret"), ("kubeedge", "cloudcore")]
        .map(|(namespace, name)| ObjectKey::namespaced("", "Secret", namespace, name));
    for secret in &secrets {
        assert!(State::of(&sandbox).find(secret).is_some(), "{secret} is not made");
    }
    for component in components {
        switch(&sandbox, component, false);
    }
    let prepared = support::block_on(support::prepare(&sandbox));
    let stays: Vec<&str> = prepared
        .findings()
        .iter()
        .filter(|finding| finding.reason == reasons::DATA_STAYS)
        .map(|finding| finding.message.as_str())
        .collect();
    for secret in &secrets {
        let name = secret.to_string();
        assert!(
            stays.iter().any(|words| words.contains(&name)),
            "{name}: {stays:?}"
        );
    }
    let namespace = ObjectKey::cluster("", "Namespace", "kubeedge");
    let is_deleted = |prepared: &engine::Prepared| {
        let plan = prepared.decision.plan.as_ref().unwrap();
        plan.steps()
            .any(|step| step.object == namespace && matches!(step.action, Action::Delete { .. }))
    };
    assert!(!is_deleted(&prepared), "a namespace with data goes");

    support::block_on(async {
        support::upgrade_with(&support::client(&sandbox), taking_data()).await;
        support::check_nothing_to_do(&sandbox).await;
    });
    let state = State::of(&sandbox);
    for key in secrets.iter().chain([&namespace]) {
        assert!(state.find(key).is_none(), "{key} is there still");
    }
}
