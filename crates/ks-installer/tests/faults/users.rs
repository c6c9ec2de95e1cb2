//! People who go on working while the upgrade runs.

use std::{cell::Cell, sync::Mutex, time::Duration};

use cluster::{Cluster, ErrorClass};
use engine::{Event, SessionError};
use object::ObjectKey;
use sandbox::faults::{Fault, Faults, Pick, Rule};
use serde_json::{Value, json};
use upgrade::Options;

use crate::{
    common::{RUN, Unfinished, block_on, check_nothing_to_do, faulty, steady, try_upgrade},
    support::{
        self,
        state::{State, iam, role},
    },
};

/// 50 writes a second.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the API server takes for a request of the upgrade.
const LATENCY: Duration = Duration::from_millis(20);
const API: &str = "iam.kubesphere.io/v1alpha2";

fn custom_roles() -> Vec<ObjectKey> {
    vec![
        iam("GlobalRole", "hr-desk"),
        iam("GlobalRole", "roles-only"),
        iam("GlobalRole", "ghost-template"),
        iam("WorkspaceRole", "ws2-plain"),
        role("proj2", "plain"),
    ]
}

fn rule(n: usize) -> Value {
    json!({"apiGroups": ["users.example.org"], "resources": [format!("thing-{n}")], "verbs": ["get"]})
}

fn created(n: usize) -> Value {
    let name = format!("made-meanwhile-{n}");
    let metadata = json!({"name": name, "labels": {"made-by": "users"}});
    match n % 3 {
        0 => json!({"apiVersion": API, "kind": "User", "metadata": metadata,
            "spec": {"email": format!("{name}@example.org")}}),
        1 => json!({"apiVersion": API, "kind": "GlobalRole", "metadata": metadata, "rules": [rule(n)]}),
        _ => json!({"apiVersion": API, "kind": "GlobalRoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "iam.kubesphere.io", "kind": "GlobalRole", "name": "platform-regular"},
            "subjects": [{"apiGroup": "iam.kubesphere.io", "kind": "User", "name": "alice"}]}),
    }
}

/// What people wrote, and what is expected of it in the end.
#[derive(Default)]
struct Written {
    created: Vec<Value>,
    labels: Vec<(ObjectKey, String)>,
    rules: Vec<(ObjectKey, Value)>,
}

impl Written {
    fn count(&self) -> usize {
        self.created.len() + self.labels.len() + self.rules.len()
    }

    fn check(&self, state: &State) {
        for object in &self.created {
            let key = iam(
                object["kind"].as_str().unwrap(),
                object["metadata"]["name"].as_str().unwrap(),
            );
            let found = state.get(&key);
            assert_eq!(found["metadata"]["labels"]["made-by"], "users", "{key}");
            for field in ["rules", "roleRef", "subjects"] {
                assert_eq!(found.get(field), object.get(field), "{key}");
            }
        }
        for (key, label) in &self.labels {
            assert_eq!(state.get(key)["metadata"]["labels"][label], "yes", "{key}");
        }
        for (key, rule) in &self.rules {
            let rules = state.get(key)["rules"].as_array().unwrap();
            assert!(rules.contains(rule), "{key} lacks {rule} in {rules:?}");
        }
    }
}

/// Adds a rule to a role as the console does: reads, changes, writes, and begins anew when somebody was faster.
async fn add_rule(cluster: &Cluster, key: &ObjectKey, rule: &Value) {
    loop {
        let role = cluster.get(key).await.unwrap().unwrap();
        let mut rules = role
            .get("/rules")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        rules.push(rule.clone());
        let patch = json!({"metadata": {"resourceVersion": role.resource_version()}, "rules": rules});
        match cluster.merge_patch(key, &patch).await {
            Ok(_) => return,
            Err(error) => assert_eq!(*error.class(), ErrorClass::Conflict, "{error}"),
        }
    }
}

async fn work(cluster: &Cluster, is_over: &Cell<bool>) -> Written {
    let roles = custom_roles();
    let mut written = Written::default();
    let mut ticks = tokio::time::interval(PAUSE);
    for n in 0.. {
        ticks.tick().await;
        if is_over.get() {
            break;
        }
        let key = roles[n / 2 % roles.len()].clone();
        match n % 4 {
            0 => {
                let label = format!("edited-{n}");
                let patch = json!({"metadata": {"labels": {label.as_str(): "yes"}}});
                cluster.merge_patch(&key, &patch).await.unwrap();
                written.labels.push((key, label));
            }
            2 => {
                add_rule(cluster, &key, &rule(n)).await;
                written.rules.push((key, rule(n)));
            }
            _ => {
                let object = created(n / 2);
                cluster.create(&object).await.unwrap();
                written.created.push(object);
            }
        }
    }
    written
}

#[test]
fn nothing_that_people_write_meanwhile_is_lost() {
    let sandbox = RUN.start.fork();
    let latency = Faults::scripted([Rule::every(Pick::default(), Fault::Delay(LATENCY))]);
    let (written, runs) = block_on(async {
        let (slow, people) = (faulty(&sandbox, &latency), support::client(&sandbox));
        let is_over = Cell::new(false);
        let upgrade = async {
            let mut runs = 1;
            while let Err(unfinished) = try_upgrade(&slow, &steady(), "upgrade").await {
                // Somebody may write the same role again and again, faster than it can be decided anew.
                let is_named = matches!(&unfinished, Unfinished::Execute(SessionError::KeepsChanging(_)));
                runs += 1;
                assert!(is_named && runs <= 5, "{unfinished:?}");
            }
            is_over.set(true);
            runs
        };
        let (runs, written) = tokio::join!(upgrade, work(&people, &is_over));
        (written, runs)
    });
    let state = State::of(&sandbox);
    eprintln!(
        "{} writes of people beside {runs} runs of the upgrade",
        written.count()
    );
    assert!(written.count() > 40, "{}", written.count());
    written.check(&state);
    // The roles lost what is revoked all the same.
    block_on(check_nothing_to_do(&sandbox, "with people at work"));
}

/// What was not there when the upgrade was decided, and is there when it is to be made, is somebody's: it is decided anew.
#[test]
fn what_came_meanwhile_is_not_overwritten_blindly() {
    let sandbox = RUN.start.fork();
    block_on(async {
        let prepared = support::prepare(&sandbox).await;
        let plan = prepared.decision.plan.as_ref().unwrap();
        let made = plan
            .steps()
            .find(|step| step.before.is_none() && step.object.kind == "GlobalRole")
            .expect("the release brings a role");
        let key = made.object.clone();
        let cluster = support::client(&sandbox);
        let theirs = json!({"apiVersion": API, "kind": "GlobalRole",
            "metadata": {"name": key.name, "labels": {"made-by": "users"}}, "rules": [rule(1)]});
        cluster.create(&theirs).await.unwrap();
        let replanned = Mutex::new(Vec::new());
        let session = support::session(&cluster, Options::default());
        session
            .execute(prepared, &|event| {
                if let Event::Replanning { objects } = event {
                    replanned.lock().unwrap().extend(objects);
                }
            })
            .await
            .unwrap();
        assert_eq!(replanned.into_inner().unwrap(), std::slice::from_ref(&key));
        let state = State::of(&sandbox);
        assert_eq!(state.get(&key)["metadata"]["labels"]["made-by"], "users");
        check_nothing_to_do(&sandbox, "after another's role").await;
    });
}
