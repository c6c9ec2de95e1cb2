//! A run that is cut anywhere: what is there in between, and what running it again comes to.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use object::ObjectKey;
use sandbox::Sandbox;
use serde_json::Value;
use upgrade::Options;

use crate::support::{
    self, Write,
    state::{State, iam},
};

/// The tenants' cluster, and every write of its upgrade with the cluster right after it.
static RUN: LazyLock<(State, Vec<Write>)> = LazyLock::new(|| {
    support::block_on(async {
        let sandbox = support::tenants();
        // The old installer runs: one more stage that can be cut.
        let key = upgrade::installer_key();
        let start = serde_json::json!({"spec": {"replicas": 1}});
        support::client(&sandbox).merge_patch(&key, &start).await.unwrap();
        let before = State::of(&sandbox);
        let (cluster, writes) = support::watched(&sandbox, None);
        support::upgrade_with(&cluster, Options::default()).await;
        (before, writes.all())
    })
});

/// What two runs that came to the same have in common: UIDs count only where the object was there before.
fn outcome(before: &State, after: &State) -> State {
    let mut outcome = after.comparable();
    for (key, value) in &mut outcome.0 {
        if before.find(key).is_none() {
            Arc::make_mut(value)["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("uid");
        }
    }
    outcome
}

/// Upgrades and gives the state that this came to.
async fn finish(sandbox: &Sandbox) -> State {
    let cluster = support::client(sandbox);
    let session = support::session(&cluster, Options::default());
    let prepared = engine::prepare(&session).await.unwrap();
    assert_eq!(prepared.blockers().count(), 0);
    let plan = prepared.decision.plan.unwrap();
    let done = engine::run(&cluster, &plan, &prepared.snapshot, &session.run, &|_| {})
        .await
        .unwrap();
    assert_eq!(done.superseded, []);
    State::of(sandbox)
}

fn check_same(before: &State, expect: &State, got: &State, at: &str) {
    let differences = outcome(before, expect).differences(&outcome(before, got));
    assert!(differences.is_empty(), "cut {at}: {differences:#?}");
}

fn is_role(key: &ObjectKey) -> bool {
    ["GlobalRole", "WorkspaceRole", "Role", "ClusterRole"].contains(&key.kind.as_str())
}

/// Every step along the way: no role is missing that stays, no binding points at nothing, nobody is without a role.
#[test]
fn at_no_moment_is_a_role_or_binding_missing() {
    let (before, writes) = &*RUN;
    let last = State::of(&writes.last().unwrap().after);
    let mut stays = Vec::new();
    for key in before.0.keys() {
        let is_access = is_role(key) || key.kind.ends_with("RoleBinding") || key.kind == "User";
        if is_access && last.find(key).is_some() {
            stays.push(key);
        }
    }
    assert!(stays.len() > 200, "{}", stays.len());
    let declared = |object: &Value| object::Object::try_from(object.clone()).unwrap().declared();
    // Components have roles of their own.
    let is_platforms =
        |key: &ObjectKey| key.group == "iam.kubesphere.io" || key.name.contains("role-template");
    let mut done = false;
    for write in writes {
        let now = State::of(&write.after);
        for key in &stays {
            let uid = |state: &State| state.find(key).map(|value| value["metadata"]["uid"].clone());
            assert_eq!(uid(&now), uid(before), "{key} after {write:?}");
        }
        for (key, binding) in now.of_kind("GlobalRoleBinding") {
            let name = binding["roleRef"]["name"].as_str().unwrap();
            assert!(
                now.find(&iam("GlobalRole", name)).is_some(),
                "{key} after {write:?}"
            );
        }
        // The version is the platform's last word: its roles and bindings are as they will be. Components come after it.
        let version = &now.get(&upgrade::cluster_configuration_key())["status"]["core"]["version"];
        if version == "v3.3.1" {
            let is_last = |key: &&ObjectKey| now.find(key).map(declared) == last.find(key).map(declared);
            let behind: Vec<_> = stays
                .iter()
                .filter(|key| is_platforms(key) && !is_last(key))
                .collect();
            assert_eq!(behind, Vec::<&&ObjectKey>::new(), "after {write:?}");
            done = true;
        } else {
            assert!(!done && version == "v3.2.1", "after {write:?}");
        }
    }
    assert!(done);
}

/// A permission that somebody keeps is theirs in every moment.
#[test]
fn nobody_lacks_a_rule_that_they_keep() {
    let (before, writes) = &*RUN;
    let last = State::of(&writes.last().unwrap().after);
    let rules =
        |state: &State, key: &ObjectKey| state.get(key)["rules"].as_array().cloned().unwrap_or_default();
    let mut kept: BTreeMap<&ObjectKey, Vec<Value>> = BTreeMap::new();
    for key in before
        .0
        .keys()
        .filter(|key| is_role(key) && last.find(key).is_some())
    {
        let afterwards = rules(&last, key);
        kept.insert(
            key,
            rules(before, key)
                .into_iter()
                .filter(|rule| afterwards.contains(rule))
                .collect(),
        );
    }
    for write in writes {
        let now = State::of(&write.after);
        for (key, expect) in &kept {
            let has = rules(&now, key);
            assert!(
                expect.iter().all(|rule| has.contains(rule)),
                "{key} after {write:?}"
            );
        }
    }
}

/// Cut after the n-th write and run again, for every `STEP`-th n and round every change of stage.
#[test]
fn a_run_that_was_cut_comes_to_the_same_when_it_is_run_again() {
    const STEP: usize = 20;
    let (before, writes) = &*RUN;
    let expect = State::of(&writes.last().unwrap().after);
    let stage = |write: &Write| write.path.rsplit('/').nth(1).unwrap_or_default().to_owned();
    let cuts: Vec<usize> = (0..writes.len())
        .filter(|n| n % STEP == 0 || (*n > 0 && stage(&writes[*n]) != stage(&writes[n - 1])))
        .collect();
    assert!(cuts.len() > 20, "{}", cuts.len());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || {
            while let Some(n) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let again = writes[*n].after.fork();
                let got = support::block_on(finish(&again));
                check_same(
                    before,
                    &expect,
                    &got,
                    &format!("after {} ({:?})", n + 1, writes[*n]),
                );
            }
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// The same with a run that is really dropped, several writes under way at once.
#[tokio::test]
async fn a_run_that_is_dropped_midway_comes_to_the_same_when_it_is_run_again() {
    let before = State::of(&support::tenants());
    let expect = State::of(&support::upgraded());
    for limit in [1, 40, 97, 190] {
        let sandbox = support::tenants();
        let (cluster, writes) = support::watched(&sandbox, Some(limit));
        let session = support::session(&cluster, Options::default());
        let prepared = engine::prepare(&session).await.unwrap();
        let ended = support::cut_after(limit, &writes, session.execute(prepared, &|_| {})).await;
        assert!(ended.is_none(), "the run was cut");
        assert_eq!(writes.all().len(), limit);
        let got = finish(&sandbox).await;
        check_same(&before, &expect, &got, &format!("after {limit}"));
    }
}
