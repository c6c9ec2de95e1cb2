//! Reading and writing a cluster that is a sandbox, also when it answers badly.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are outside of tests for clippy"
)]

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use cluster::{
    Cluster, ErrorClass, FIELD_MANAGER, Scope,
    archive::Meta,
    encryption::{Encryption, Keys},
    store::{self, Location},
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use object::ObjectKey;
use sandbox::Sandbox;
use serde_json::{Value, json};
use tower::{Service as _, service_fn};
use upgrade::{Permission, Snapshot};

/// What is answered instead: status, headers, body.
type Answer = (u16, Vec<(&'static str, &'static str)>, Value);

/// The sandbox behind a service that may answer by itself. `answer` gets method, path with query, and how often that
/// was asked for before. Returns what was asked for, too.
fn mk_cluster(
    sandbox: &Sandbox,
    answer: impl Fn(&str, &str, usize) -> Option<Answer> + Send + Sync + 'static,
) -> (Cluster, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let service = sandbox.service();
    let (log, answer) = (asked.clone(), Arc::new(answer));
    let service = service_fn(move |request: Request<Body>| {
        let (mut service, log, answer) = (service.clone(), log.clone(), answer.clone());
        async move {
            let uri = request.uri().path_and_query().unwrap().to_string();
            let line = format!("{} {uri}", request.method());
            let before = {
                let mut log = log.lock().unwrap();
                let before = log.iter().filter(|l| **l == line).count();
                log.push(line);
                before
            };
            let Some((status, headers, body)) = answer(request.method().as_str(), &uri, before) else {
                let response = service.call(request).await.unwrap();
                return Ok::<_, Infallible>(
                    response.map(|body| body.map_err(|e| e.to_string()).boxed_unsync()),
                );
            };
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            let body = Full::from(body.to_string())
                .map_err(|e| e.to_string())
                .boxed_unsync();
            Ok(response.body(body).unwrap())
        }
    });
    (Cluster::new(kube::Client::new(service, "default")), asked)
}

fn mk_plain(sandbox: &Sandbox) -> Cluster {
    mk_cluster(sandbox, |_, _, _| None).0
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn mk_config_map(namespace: &str, name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": {"key": value}})
}

fn mk_crd(group: &str, kind: &str, versions: &[&str], scope: &str) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    let versions: Vec<_> = versions
        .iter()
        .enumerate()
        .map(|(index, version)| {
            json!({"name": version, "served": true, "storage": index == 0, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": scope, "versions": versions,
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()}},
    })
}

/// A cluster with a platform, a tenant, and somebody else's webhook.
async fn mk_sandbox() -> Sandbox {
    let sandbox = Sandbox::new(sandbox::Config::default());
    let cluster = mk_plain(&sandbox);
    for namespace in ["kubesphere-system", "tenant", "policy"] {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        cluster.create(&body).await.unwrap();
    }
    cluster
        .create(&mk_crd(
            "iam.kubesphere.io",
            "GlobalRole",
            &["v1alpha2", "v1alpha1"],
            "Cluster",
        ))
        .await
        .unwrap();
    cluster
        .create(&mk_crd(
            "devops.kubesphere.io",
            "Pipeline",
            &["v1alpha3"],
            "Namespaced",
        ))
        .await
        .unwrap();
    cluster.rediscover().await.unwrap();
    for body in [
        mk_config_map("kubesphere-system", "ours", "1"),
        mk_config_map("tenant", "theirs", "1"),
        json!({"apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "GlobalRole", "metadata": {"name": "users-manager", "labels": {"a": "b"}}}),
        json!({"apiVersion": "devops.kubesphere.io/v1alpha3", "kind": "Pipeline", "metadata": {"name": "p", "namespace": "tenant"}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r", "namespace": "tenant"}, "rules": []}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "policy", "namespace": "policy"}, "spec": {"ports": [{"port": 443}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "other", "namespace": "policy"}, "spec": {"ports": [{"port": 443}]}}),
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "policy"},
            "webhooks": [{"name": "policy.example.org", "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"service": {"name": "policy", "namespace": "policy"}},
                "rules": [{"apiGroups": ["apps"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["deployments"]}]}]}),
    ] {
        cluster.create(&body).await.unwrap();
    }
    sandbox
}

/// Kind and name, with the namespace, of what was read of the given kinds.
fn read(snapshot: &Snapshot, kinds: &[&str]) -> BTreeSet<String> {
    snapshot
        .objects
        .keys()
        .filter(|k| kinds.contains(&k.kind.as_str()))
        .map(ToString::to_string)
        .collect()
}

#[tokio::test]
async fn a_snapshot_holds_what_matters_and_nothing_else() {
    let sandbox = mk_sandbox().await;
    let (cluster, asked) = mk_cluster(&sandbox, |_, _, _| None);
    let snapshot = cluster.snapshot(&Scope::upgrade()).await.unwrap();
    assert_eq!(snapshot.kubernetes, "v1.20.2");
    assert_eq!(snapshot.unreadable, []);
    assert!(snapshot.cluster_id().is_some());
    let kinds = ["ConfigMap", "Pipeline", "GlobalRole", "Role", "Service"];
    let expect = [
        "ConfigMap kubesphere-system/ours",
        "GlobalRole users-manager",
        "Pipeline tenant/p",
        "Role tenant/r",
        // Behind a webhook; the other one is not.
        "Service policy/policy",
    ];
    let found = read(&snapshot, &kinds);
    for object in expect {
        assert!(found.contains(object), "{object} in {found:?}");
    }
    assert!(
        !found.contains("ConfigMap tenant/theirs") && !found.contains("Service policy/other"),
        "{found:?}"
    );
    for (key, object) in &snapshot.objects {
        assert_eq!(*key, object.key());
        assert!(
            object.resource_version().is_some() && object.uid().is_some(),
            "{key}"
        );
    }
    let role = snapshot
        .get(&ObjectKey::cluster(
            "iam.kubesphere.io",
            "GlobalRole",
            "users-manager",
        ))
        .unwrap();
    assert!(role.get("/metadata/managedFields/0").is_some());
    assert!(snapshot.serves("devops.kubesphere.io", "Pipeline"));
    let asked = asked.lock().unwrap();
    let lists = asked.iter().filter(|line| line.contains("/globalroles")).count();
    assert_eq!(lists, 1, "one version of each kind is read, once: {asked:#?}");
    assert!(
        asked.iter().all(|line| line.starts_with("GET ")),
        "a snapshot only reads"
    );
}

#[tokio::test]
async fn a_copy_holds_more() {
    let sandbox = mk_sandbox().await;
    let cluster = mk_plain(&sandbox);
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1});
    cluster.create(&class).await.unwrap();
    let name = "PriorityClass high";
    assert!(
        !read(
            &cluster.snapshot(&Scope::upgrade()).await.unwrap(),
            &["PriorityClass"]
        )
        .contains(name)
    );
    let copy = cluster.snapshot(&Scope::copy()).await.unwrap();
    assert!(read(&copy, &["PriorityClass"]).contains(name));
    assert!(
        copy.objects
            .keys()
            .all(|key| key.kind != "Event" && key.kind != "Lease")
    );
}

#[tokio::test]
async fn long_lists_are_read_in_pages() {
    let sandbox = mk_sandbox().await;
    let plain = mk_plain(&sandbox);
    for index in 0..1203 {
        plain
            .create(&mk_config_map("kubesphere-system", &format!("c{index:04}"), "1"))
            .await
            .unwrap();
    }
    let check = async |expired: usize, pages: usize| {
        let path = "/api/v1/namespaces/kubesphere-system/configmaps";
        // The first continued requests find their token expired.
        let left = Mutex::new(expired);
        let (cluster, asked) = mk_cluster(&sandbox, move |_, uri, _| {
            let mut left = left.lock().unwrap();
            if *left > 0 && uri.starts_with(path) && uri.contains("continue=") {
                *left -= 1;
                return Some((
                    410,
                    vec![],
                    status(410, "Expired", "The provided continue parameter is too old"),
                ));
            }
            None
        });
        let found = cluster
            .list("", "ConfigMap", Some("kubesphere-system"), None)
            .await
            .unwrap();
        let names: BTreeSet<_> = found.iter().map(|o| o.name().to_owned()).collect();
        assert!(
            names.len() == found.len() && found.len() >= 1204,
            "{} of {}",
            names.len(),
            found.len()
        );
        assert!(
            found
                .iter()
                .all(|o| o.api_version() == "v1" && o.kind() == "ConfigMap")
        );
        assert_eq!(
            asked
                .lock()
                .unwrap()
                .iter()
                .filter(|line| line.contains(path))
                .count(),
            pages
        );
    };
    check(0, 3).await;
    check(1, 2 + 3).await;
    // In the end without pages.
    check(3, 2 * 3 + 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_noted() {
    let sandbox = mk_sandbox().await;
    let check = async |code: u16, reason: &'static str, path: &'static str, expect: &[(&str, &str)]| {
        let (cluster, _) = mk_cluster(&sandbox, move |_, uri, _| {
            let uri = uri.split('?').next()?;
            (uri == path).then(|| (code, vec![], status(code, reason, "no such luck")))
        });
        let snapshot = cluster.snapshot(&Scope::upgrade()).await.unwrap();
        let found: Vec<_> = snapshot
            .unreadable
            .iter()
            .map(|u| (u.resource.as_str(), u.message.as_str()))
            .collect();
        assert_eq!(found, expect);
        assert!(!read(&snapshot, &["Namespace"]).is_empty(), "the rest is there");
    };
    check(
        403,
        "Forbidden",
        "/apis/iam.kubesphere.io/v1alpha2/globalroles",
        &[("globalroles.iam.kubesphere.io", "no such luck")],
    )
    .await;
    check(
        403,
        "Forbidden",
        "/api/v1/namespaces/kubesphere-system/secrets",
        &[("secrets", "in namespace kubesphere-system: no such luck")],
    )
    .await;
    // As a dead aggregated API answers.
    check(
        503,
        "ServiceUnavailable",
        "/apis/devops.kubesphere.io/v1alpha3",
        &[("devops.kubesphere.io/v1alpha3", "no such luck")],
    )
    .await;
}

#[tokio::test]
async fn a_caller_whom_the_server_does_not_know_gets_an_error() {
    let sandbox = mk_sandbox().await;
    let (cluster, asked) = mk_cluster(&sandbox, |_, _, _| {
        Some((401, vec![], status(401, "Unauthorized", "Unauthorized")))
    });
    let error = cluster.snapshot(&Scope::upgrade()).await.unwrap_err();
    assert_eq!(*error.class(), ErrorClass::Unauthorized);
    assert!(error.hint().unwrap().contains("expired"));
    assert!(asked.lock().unwrap().len() <= 3, "and asks no more");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_cannot_be_converted_to_is_left_for_another() {
    let sandbox = mk_sandbox().await;
    let failure =
        "conversion webhook for iam.kubesphere.io/v1alpha2, Kind=GlobalRole failed: Post: dial tcp: refused";
    let (cluster, asked) = mk_cluster(&sandbox, move |_, uri, _| {
        uri.starts_with("/apis/iam.kubesphere.io/v1alpha2/globalroles")
            .then(|| (500, vec![], status(500, "InternalError", failure)))
    });
    let snapshot = cluster.snapshot(&Scope::upgrade()).await.unwrap();
    let key = ObjectKey::cluster("iam.kubesphere.io", "GlobalRole", "users-manager");
    assert_eq!(
        snapshot.get(&key).unwrap().api_version(),
        "iam.kubesphere.io/v1alpha1",
        "{:?}",
        asked.lock().unwrap()
    );
    assert_eq!(snapshot.unreadable, []);
}

#[tokio::test(start_paused = true)]
async fn reads_outlast_short_troubles() {
    let sandbox = mk_sandbox().await;
    let (cluster, asked) = mk_cluster(&sandbox, |_, uri, before| match before {
        0 if uri.starts_with("/version") => Some((
            429,
            vec![("retry-after", "2")],
            status(429, "TooManyRequests", "slow down"),
        )),
        0 | 1 => Some((503, vec![], json!("<html>"))),
        _ => None,
    });
    let started = tokio::time::Instant::now();
    assert_eq!(cluster.version().await.unwrap(), "v1.20.2");
    assert!(
        started.elapsed() >= Duration::from_secs(2),
        "the pause that was asked for"
    );
    assert_eq!(asked.lock().unwrap().len(), 3);
    assert_eq!(cluster.snapshot(&Scope::upgrade()).await.unwrap().unreadable, []);
}

#[tokio::test(start_paused = true)]
async fn writes_are_sent_once() {
    // Whether a write may be sent again is for the engine to say.
    let sandbox = mk_sandbox().await;
    let (cluster, asked) = mk_cluster(&sandbox, |method, _, _| {
        (method != "GET").then(|| (503, vec![], status(503, "ServiceUnavailable", "etcd is away")))
    });
    let error = cluster
        .apply(&mk_config_map("kubesphere-system", "a", "1"), true)
        .await
        .unwrap_err();
    assert_eq!(*error.class(), ErrorClass::Unavailable);
    assert_eq!(
        error.to_string(),
        "cannot apply ConfigMap kubesphere-system/a: etcd is away"
    );
    assert_eq!(
        asked
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.starts_with("PATCH"))
            .count(),
        1
    );
}

#[tokio::test]
async fn objects_are_written() {
    let cluster = mk_plain(&mk_sandbox().await);
    let body = mk_config_map("kubesphere-system", "a", "1");
    let key = ObjectKey::namespaced("", "ConfigMap", "kubesphere-system", "a");

    let applied = cluster.apply(&body, false).await.unwrap();
    assert_eq!(
        applied.get_str("/metadata/managedFields/0/manager"),
        Some(FIELD_MANAGER)
    );
    assert_eq!(
        applied.get_str("/metadata/managedFields/0/operation"),
        Some("Apply")
    );
    let patched = cluster
        .merge_patch(&key, &json!({"data": {"more": "2"}}))
        .await
        .unwrap();
    assert_eq!(patched.get_str("/data/more"), Some("2"));
    let patch = json!([{"op": "replace", "path": "/data/more", "value": "3"}]);
    let patched = cluster.json_patch(&key, &patch).await.unwrap();
    assert_eq!(cluster.get(&key).await.unwrap().unwrap(), patched);

    let mut stale = body.clone();
    stale["data"]["key"] = "2".into();
    stale["metadata"]["resourceVersion"] = applied.resource_version().into();
    assert_eq!(
        *cluster.apply(&stale, true).await.unwrap_err().class(),
        ErrorClass::Conflict
    );
    let stale = json!({"metadata": {"resourceVersion": applied.resource_version()}, "data": {"key": "2"}});
    assert_eq!(
        *cluster.merge_patch(&key, &stale).await.unwrap_err().class(),
        ErrorClass::Conflict
    );
    assert_eq!(
        *cluster.create(&body).await.unwrap_err().class(),
        ErrorClass::AlreadyExists
    );

    let error = cluster
        .delete(&key, "11111111-2222-3333-4444-555555555555")
        .await
        .unwrap_err();
    assert_eq!(*error.class(), ErrorClass::Conflict, "{error}");
    cluster.delete(&key, applied.uid().unwrap()).await.unwrap();
    assert_eq!(cluster.get(&key).await.unwrap(), None);
    cluster.delete(&key, applied.uid().unwrap()).await.unwrap();
    let error = cluster.merge_patch(&key, &json!({})).await.unwrap_err();
    assert_eq!(*error.class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn fields_of_others_are_taken_by_force_only() {
    let sandbox = mk_sandbox().await;
    let cluster = mk_plain(&sandbox);
    let key = ObjectKey::namespaced("", "ConfigMap", "kubesphere-system", "ours");
    let other = cluster.get(&key).await.unwrap().unwrap();
    let fields = json!([{"op": "replace", "path": "/metadata/managedFields/0/manager", "value": "helm"}]);
    cluster.json_patch(&key, &fields).await.unwrap();
    let body = mk_config_map("kubesphere-system", "ours", "changed");
    let error = cluster.apply(&body, false).await.unwrap_err();
    assert_eq!(*error.class(), ErrorClass::FieldConflict, "{error}");
    assert!(error.to_string().contains("helm"), "{error}");
    let applied = cluster.apply(&body, true).await.unwrap();
    assert_eq!(
        (applied.get_str("/data/key"), applied.uid()),
        (Some("changed"), other.uid())
    );
}

#[tokio::test]
async fn kinds_come_and_are_found() {
    let cluster = mk_plain(&mk_sandbox().await);
    let body = json!({"apiVersion": "late.kubesphere.io/v1", "kind": "Late", "metadata": {"name": "a"}});
    let key = ObjectKey::cluster("late.kubesphere.io", "Late", "a");
    assert_eq!(cluster.get(&key).await.unwrap(), None);
    assert_eq!(
        cluster
            .list("late.kubesphere.io", "Late", None, None)
            .await
            .unwrap(),
        []
    );
    let error = cluster.apply(&body, true).await.unwrap_err();
    assert_eq!(*error.class(), ErrorClass::NotServed);
    assert_eq!(
        error.to_string(),
        "cannot apply Late a: the API server does not serve kind Late in late.kubesphere.io/v1"
    );
    cluster.delete(&key, "u").await.unwrap();

    cluster
        .create(&mk_crd("late.kubesphere.io", "Late", &["v1"], "Cluster"))
        .await
        .unwrap();
    cluster.apply(&body, true).await.unwrap();
    assert!(cluster.get(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn bodies_without_names_or_namespaces_are_refused_before_anything_is_sent() {
    let (cluster, asked) = mk_cluster(&mk_sandbox().await, |_, _, _| None);
    let check = async |body: Value, expect: &str| {
        let error = cluster.apply(&body, true).await.unwrap_err();
        assert!(error.to_string().ends_with(expect), "{error}");
    };
    check(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}),
        "metadata.namespace is missing",
    )
    .await;
    check(
        json!({"kind": "ConfigMap", "metadata": {"name": "a"}}),
        "metadata.name is missing",
    )
    .await;
    assert!(asked.lock().unwrap().iter().all(|line| line.starts_with("GET ")));
}

#[tokio::test]
async fn labels_select() {
    let cluster = mk_plain(&mk_sandbox().await);
    for (name, app) in [("a", "x"), ("b", "y")] {
        let mut body = mk_config_map("kubesphere-system", name, "1");
        body["metadata"]["labels"] = json!({"app": app});
        cluster.create(&body).await.unwrap();
    }
    let found = cluster
        .list("", "ConfigMap", Some("kubesphere-system"), Some("app in (y,z)"))
        .await
        .unwrap();
    assert_eq!(found.iter().map(object::Object::name).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn what_is_held_everywhere_is_asked_once() {
    let sandbox = mk_sandbox().await;
    let permissions: Vec<_> = (0..20)
        .map(|index| Permission {
            verb: "patch".into(),
            group: "rbac.authorization.k8s.io".into(),
            resource: "roles".into(),
            namespace: Some(format!("n{index}")),
            name: None,
        })
        .collect();
    let (cluster, asked) = mk_cluster(&sandbox, |_, _, _| None);
    let answers = cluster.review(&permissions).await.unwrap();
    assert!(answers.len() == 20 && answers.values().all(|held| *held));
    assert_eq!(asked.lock().unwrap().len(), 1);

    let (cluster, asked) = mk_cluster(&sandbox, |_, _, _| {
        Some((201, vec![], json!({"status": {"allowed": false, "reason": "no"}})))
    });
    let answers = cluster.review(&permissions).await.unwrap();
    assert!(answers.len() == 20 && answers.values().all(|held| !*held));
    assert_eq!(asked.lock().unwrap().len(), 21);
}

#[tokio::test]
async fn an_api_server_that_cannot_say_who_asks_is_no_trouble() {
    let sandbox = mk_sandbox().await;
    let (cluster, _) = mk_cluster(&sandbox, |_, uri, _| {
        uri.contains("selfsubjectreviews")
            .then(|| (404, vec![], json!("404 page not found")))
    });
    assert_eq!(cluster.who_am_i().await, None);
    let (cluster, _) = mk_cluster(&sandbox, |_, uri, _| {
        uri.contains("selfsubjectreviews")
            .then(|| (201, vec![], json!({"status": {"userInfo": {"username": "ann"}}})))
    });
    assert_eq!(cluster.who_am_i().await.as_deref(), Some("ann"));
}

#[tokio::test]
async fn no_error_repeats_a_secret() {
    let sandbox = mk_sandbox().await;
    let check = async |answer: Option<(u16, &'static str, &'static str)>, data: Value| {
        let (cluster, _) = mk_cluster(&sandbox, move |method, _, _| {
            let (code, reason, message) = answer.filter(|_| method != "GET")?;
            Some((code, vec![], status(code, reason, message)))
        });
        let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "kubesphere-system"}, "data": data});
        let error = cluster.apply(&body, true).await.unwrap_err();
        let told = format!("{error} {error:?} {:?}", error.hint());
        assert!(!told.contains("hunter2"), "{told}");
        assert!(told.contains("Secret kubesphere-system/s"), "{told}");
    };
    check(None, json!("hunter2")).await;
    let words = "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 7, error found in #10 byte of ...|d\":\"hunter2\"|...";
    check(Some((400, "BadRequest", words)), json!({"password": "hunter2"})).await;
    let words = "Secret \"s\" is invalid: data[hunter2]: Invalid value: \"hunter2\"";
    check(Some((422, "Invalid", words)), json!({"hunter2": "aGVsbG8="})).await;
}

/// A list whose continue token expires in the middle is begun anew; nothing is in the backup twice, and nothing is lost.
#[tokio::test]
async fn a_streamed_backup_survives_that_a_list_expires() {
    let sandbox = mk_sandbox().await;
    let cluster = mk_plain(&sandbox);
    for number in 0..600 {
        let body = mk_config_map("kubesphere-system", &format!("c{number}"), "x");
        cluster.create(&body).await.unwrap();
    }
    let (cluster, asked) = mk_cluster(&sandbox, |_, uri, before| {
        let is_second_page = uri.contains("/kubesphere-system/configmaps") && uri.contains("continue=");
        (is_second_page && before == 0).then(|| (410, vec![], status(410, "Expired", "the token is too old")))
    });
    let folder = tempfile::tempdir().unwrap();
    let location = Location::File(folder.path().join("b"));
    let meta = Meta {
        tool: "test".into(),
        created: jiff::Timestamp::UNIX_EPOCH,
        cluster: "c".into(),
        kubernetes: "v1.20.2".into(),
        from: String::new(),
        to: String::new(),
    };
    let (contents, unreadable) =
        store::save_scope(&cluster, &location, &Scope::upgrade(), meta, &Encryption::None)
            .await
            .unwrap();
    assert_eq!(unreadable, []);
    let maps = contents
        .index
        .objects
        .iter()
        .filter(|entry| entry.kind() == "ConfigMap");
    assert_eq!(
        maps.filter(|entry| entry.path.contains("/kubesphere-system/c"))
            .count(),
        600
    );
    let is_page = |line: &&String| line.contains("/kubesphere-system/configmaps");
    let pages = asked.lock().unwrap().iter().filter(is_page).count();
    assert!(pages >= 4, "it was begun anew");
    let snapshot = mk_plain(&sandbox).snapshot(&Scope::upgrade()).await.unwrap();
    let backup = store::open(None, &location, &Keys::default()).await.unwrap();
    assert_eq!(backup.objects().unwrap(), snapshot.objects);
}
