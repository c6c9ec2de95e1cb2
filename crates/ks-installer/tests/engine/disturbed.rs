//! Others who write meanwhile, and an API server that refuses.

use object::ObjectKey;
use serde_json::json;
use upgrade::Options;

use crate::support::{
    self, Meddle,
    state::{State, configuration, iam, system},
};

fn member_manager() -> ObjectKey {
    iam("WorkspaceRole", "ws1-member-manager")
}

fn list(state: &State, key: &ObjectKey) -> String {
    let annotations = &state.get(key)["metadata"]["annotations"];
    annotations["iam.kubesphere.io/aggregation-roles"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn when(is: bool, meddle: Meddle) -> Meddle {
    if is { meddle } else { Meddle::Pass }
}

/// Somebody edits an object in the very moment before we write it: both their change and ours are there in the end.
#[tokio::test]
async fn an_edit_in_between_is_not_lost_and_is_gone_on_from() {
    let deployment = system("apps", "Deployment", "ks-apiserver");
    let console = system("", "ConfigMap", "kubesphere-config");
    let binding = iam("GlobalRoleBinding", "adam-users-manager");
    for key in [member_manager(), deployment, console, binding, configuration()] {
        let sandbox = support::tenants();
        let (edited, end) = (key.clone(), format!("/{}", key.name));
        let cluster = support::meddled(&sandbox, move |_, path, times| {
            let is_it = path.ends_with(&end) && times == 1;
            let label = json!({"metadata": {"labels": {"in-between": "yes"}}});
            when(is_it, Meddle::Edit(edited.clone(), label))
        });
        support::upgrade_with(&cluster, Options::default()).await;
        let state = State::of(&sandbox);
        assert_eq!(
            state.get(&key)["metadata"]["labels"]["in-between"],
            "yes",
            "{key}"
        );
        let mut expect = State::of(&support::upgraded()).declared().get(&key).clone();
        expect["metadata"]["labels"]["in-between"] = "yes".into();
        let mut got = state.declared().get(&key).clone();
        for value in [&mut got, &mut expect] {
            let revision = "deployment.kubernetes.io/revision";
            if let Some(annotations) = value["metadata"]["annotations"].as_object_mut() {
                annotations.remove(revision);
            }
        }
        assert_eq!(got, expect, "{key}");
        support::check_nothing_to_do(&sandbox).await;
    }
}

/// Somebody deletes what we are about to change: what users made stays deleted, which is told, and what the
/// release has is made again.
#[tokio::test]
async fn a_deletion_in_between_does_not_stop_it() {
    let theirs = [
        member_manager(),
        iam("GlobalRole", "hr-desk"),
        iam("GlobalRoleBinding", "adam-users-manager"),
    ];
    let ours = [
        iam("WorkspaceRole", "role-template-view-basic"),
        system("apps", "Deployment", "ks-apiserver"),
        system("", "ConfigMap", "ks-router-config"),
    ];
    for (key, stays) in theirs
        .map(|key| (key, false))
        .into_iter()
        .chain(ours.map(|key| (key, true)))
    {
        let sandbox = support::tenants();
        let (deleted, end) = (key.clone(), format!("/{}", key.name));
        let cluster = support::meddled(&sandbox, move |_, path, times| {
            when(
                path.ends_with(&end) && times == 1,
                Meddle::Delete(deleted.clone()),
            )
        });
        let session = support::session(&cluster, Options::default());
        let prepared = engine::prepare(&session).await.unwrap();
        let report = session.execute(prepared, &|_| {}).await.unwrap();
        let state = State::of(&sandbox);
        assert_eq!(state.find(&key).is_some(), stays, "{key}");
        assert_eq!(
            state.get(&configuration())["status"]["core"]["version"],
            "v3.3.1",
            "{key}"
        );
        // What somebody had and has no more is told.
        assert_eq!(report.is_verified(), stays, "{key}: {:?}", report.findings);
        support::check_nothing_to_do(&sandbox).await;
    }
}

/// Custom roles are sent whole: of these there may be thousands, and a server replaces faster than it patches.
#[tokio::test]
async fn custom_roles_are_replaced_and_not_patched() {
    let sandbox = support::tenants();
    let methods = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = methods.clone();
    let cluster = support::meddled(&sandbox, move |method, path, _| {
        if path.ends_with("/ws1-member-manager") || path.ends_with("/hr-desk") {
            seen.lock().unwrap().push(method.clone());
        }
        Meddle::Pass
    });
    support::upgrade_with(&cluster, Options::default()).await;
    assert_eq!(*methods.lock().unwrap(), [http::Method::PUT, http::Method::PUT]);
}

/// Somebody gives a role one more revoked permission while the upgrade runs: that one goes, too.
#[tokio::test]
async fn what_is_granted_in_between_is_revoked_as_well() {
    let sandbox = support::tenants();
    let cluster = support::meddled(&sandbox, |_, path, times| {
        let names =
            r#"["role-template-view-basic","role-template-view-members","role-template-manage-roles"]"#;
        let edit = json!({"metadata": {"annotations": {"iam.kubesphere.io/aggregation-roles": names}}});
        when(
            path.ends_with("/ws1-member-manager") && times == 1,
            Meddle::Edit(member_manager(), edit),
        )
    });
    support::upgrade_with(&cluster, Options::default()).await;
    assert_eq!(
        list(&State::of(&sandbox), &member_manager()),
        r#"["role-template-view-basic","role-template-view-members"]"#
    );
}

/// Somebody who edits the same object before each of our writes: given up after a while, with the object's name.
#[tokio::test]
async fn who_never_stops_editing_is_named() {
    let sandbox = support::tenants();
    let cluster = support::meddled(&sandbox, |_, path, times| {
        let edit = json!({"metadata": {"labels": {"times": times.to_string()}}});
        when(
            path.ends_with("/ws1-member-manager"),
            Meddle::Edit(member_manager(), edit),
        )
    });
    let session = support::session(&cluster, Options::default());
    let prepared = engine::prepare(&session).await.unwrap();
    let error = session.execute(prepared, &|_| {}).await.unwrap_err().to_string();
    assert!(error.contains("ws1-member-manager"), "{error}");
    let state = State::of(&sandbox);
    assert_eq!(state.get(&configuration())["status"]["core"]["version"], "v3.2.1");
    support::upgrade(&sandbox).await;
}

/// A write that is refused ends the run with the object's name and the server's words; what is done stays, and when the
/// reason is gone the next run finishes.
#[tokio::test]
async fn a_refused_write_is_named_and_the_next_run_finishes() {
    for (name, code, reason) in [
        ("ks-installer", 403, "Forbidden"),
        ("ws1-member-manager", 403, "Forbidden"),
        ("users-manager", 401, "Unauthorized"),
        ("ks-controller-manager", 422, "Invalid"),
    ] {
        let sandbox = support::tenants();
        let end = format!("/{name}");
        let cluster = support::meddled(&sandbox, move |_, path, _| {
            when(path.ends_with(&end), Meddle::Answer(code, reason))
        });
        let session = support::session(&cluster, Options::default());
        let prepared = engine::prepare(&session).await.unwrap();
        let error = session.execute(prepared, &|_| {}).await.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("who meddles"), "{error}");
        let version = State::of(&sandbox).get(&configuration())["status"]["core"]["version"].clone();
        assert_eq!(
            version, "v3.2.1",
            "a run that failed does not say that it is done"
        );
        support::upgrade(&sandbox).await;
    }
}

/// A server that is busy, or whose answer is lost, is asked again.
#[tokio::test]
async fn a_moment_of_unavailability_is_waited_out() {
    let sandbox = support::tenants();
    let cluster = support::meddled(&sandbox, |_, path, times| {
        let is = |name: &str| path.ends_with(name);
        match times {
            1 if is("/ws1-member-manager") => Meddle::Answer(503, "ServiceUnavailable"),
            1 if is("/ks-apiserver") || is("/hr-desk") => Meddle::Answer(500, "InternalError"),
            1 if is("/roles-only") => Meddle::Answer(429, "TooManyRequests"),
            1 if is("/ws1-night-viewer") || is("/bob-workspaces-manager") => Meddle::LoseAnswer,
            1 if is("/users-manager") || is("/storageclass-accessor.storage.kubesphere.io") => {
                Meddle::LoseAnswer
            }
            _ => Meddle::Pass,
        }
    });
    support::upgrade_with(&cluster, Options::default()).await;
    let (before, expect) = (State::of(&support::tenants()), State::of(&support::upgraded()));
    let (expect, got) = (expect.comparable(), State::of(&sandbox).comparable());
    let differences: Vec<_> = expect
        .changed(&got)
        .into_iter()
        .filter(|key| before.find(key).is_some())
        .collect();
    assert_eq!(differences, Vec::<&ObjectKey>::new());
    support::check_nothing_to_do(&sandbox).await;
}

/// Upstream's migration fails for good on a role with a finalizer, and all roles after it keep what is revoked.
#[tokio::test]
async fn a_role_with_a_finalizer_and_an_owner_is_migrated_like_any_other() {
    let sandbox = support::tenants_but(|objects| {
        let metadata = &mut support::find_mut(objects, "WorkspaceRole", "ws1-member-manager")["metadata"];
        metadata["finalizers"] = json!(["example.com/slow"]);
        metadata["ownerReferences"] = json!([{
            "apiVersion": "tenant.kubesphere.io/v1alpha1", "kind": "Workspace", "name": "ws1",
            "uid": "00000000-0000-4000-8000-000000000001",
        }]);
    });
    let before = State::of(&sandbox);
    support::upgrade(&sandbox).await;
    let after = State::of(&sandbox);
    assert_eq!(
        list(&after, &member_manager()),
        r#"["role-template-view-basic","role-template-view-members"]"#
    );
    for field in ["uid", "finalizers", "ownerReferences"] {
        let of = |state: &State| state.get(&member_manager())["metadata"][field].clone();
        assert_eq!(of(&before), of(&after), "{field}");
    }
}
