//! Webhooks that fail closed and whose service is dead: what upstream's re-runs die of.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use cluster::Cluster;
use http::Request;
use kube::client::Body;
use object::ObjectKey;
use sandbox::{Sandbox, faults::Trouble};
use serde_json::{Value, json};
use tower::{Service as _, service_fn};
use upgrade::{Finding, Severity, reasons};

use crate::{
    common::{RUN, Unfinished, block_on, check_nothing_to_do, steady, try_upgrade},
    support::{
        self,
        state::{State, configuration},
    },
};

const ADMISSION: &str = "admissionregistration.k8s.io";
const NAME: &str = "guard.example.org";

fn is_at(sandbox: &Sandbox, version: &str) -> bool {
    State::of(sandbox).get(&configuration())["status"]["core"]["version"] == version
}

fn kill(sandbox: &Sandbox, service: &str) {
    sandbox.afflict(Trouble::DeadService {
        service: service.into(),
    });
}

/// Somebody's webhook that judges changes of custom roles, and answers.
async fn guard(sandbox: &Sandbox) {
    let cluster = support::client(sandbox);
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "guard", "namespace": "kubesphere-system"},
        "spec": {"selector": {"app": "ks-apiserver"}, "ports": [{"port": 443}]}});
    cluster.create(&service).await.unwrap();
    let webhook = json!({"apiVersion": format!("{ADMISSION}/v1"), "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": "guard"},
    "webhooks": [{
        "name": NAME, "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"namespace": "kubesphere-system", "name": "guard"}},
        "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": ["iam.kubesphere.io"],
            "apiVersions": ["*"], "resources": ["workspaceroles"]}],
    }]});
    cluster.create(&webhook).await.unwrap();
}

async fn upgrade(sandbox: &Sandbox, id: &str) -> Result<(), Unfinished> {
    try_upgrade(&support::client(sandbox), &steady(), id).await
}

fn names(finding: &Finding, webhook: &str, service: &str) -> bool {
    let (namespace, name) = service.split_once('/').unwrap();
    let text = format!(
        "{} {}",
        finding.message,
        finding.hint.as_deref().unwrap_or_default()
    );
    text.contains(webhook) && text.contains(namespace) && text.contains(name)
}

fn blocked(ended: Result<(), Unfinished>) -> Vec<Finding> {
    match ended {
        Err(Unfinished::Blocked(findings)) => findings,
        other => panic!("{other:?}"),
    }
}

/// The platform's own: no write of the upgrade needs them, so it gets through, says before and after that they do not answer,
/// and has nothing left to do when they do again.
#[test]
fn the_platforms_own_are_in_nobodys_way_and_are_named() {
    const SERVICE: &str = "kubesphere-system/ks-controller-manager";
    let sandbox = RUN.start.fork();
    kill(&sandbox, SERVICE);
    block_on(async {
        let users = ObjectKey::cluster("iam.kubesphere.io", "User", "admin");
        let label = json!({"metadata": {"annotations": {"a": "b"}}});
        let refused = support::client(&sandbox)
            .merge_patch(&users, &label)
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("failed calling webhook"),
            "{refused}"
        );

        let prepared = support::prepare(&sandbox).await;
        assert_eq!(prepared.blockers().count(), 0);
        let warned = |webhook: &str| {
            prepared.findings().iter().any(|finding| {
                finding.reason == reasons::WEBHOOK_UNAVAILABLE && names(finding, webhook, SERVICE)
            })
        };
        assert!(warned("users.iam.kubesphere.io"), "{:#?}", prepared.findings());

        let Err(Unfinished::Unverified(findings)) = upgrade(&sandbox, "upgrade").await else {
            panic!("a webhook that does not answer is no success");
        };
        for finding in findings.iter().filter(|f| f.severity == Severity::Blocker) {
            assert_eq!(finding.reason, reasons::WEBHOOK_WITHOUT_ENDPOINT);
            assert!(names(finding, "webhook", SERVICE), "{finding:?}");
        }
        sandbox.heal();
        check_nothing_to_do(&sandbox, "when the webhooks answer again").await;
    });
    RUN.check_outcome(&sandbox, "when the webhooks answer again");
}

/// Somebody else's that would refuse what is to be written: nothing is written.
#[test]
fn one_that_is_in_the_way_is_named_before_anything_is_written() {
    let sandbox = RUN.start.fork();
    block_on(async {
        guard(&sandbox).await;
        kill(&sandbox, "kubesphere-system/guard");
        let writes = sandbox.requests().writes();
        let findings = blocked(upgrade(&sandbox, "upgrade").await);
        assert_eq!(sandbox.requests().writes(), writes);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(findings[0].reason, reasons::WEBHOOK_REFUSES_WRITES);
        assert!(
            names(&findings[0], NAME, "kubesphere-system/guard"),
            "{findings:?}"
        );
        assert!(is_at(&sandbox, "v3.2.1"));

        sandbox.heal();
        upgrade(&sandbox, "upgrade").await.unwrap();
        check_nothing_to_do(&sandbox, "when it answers again").await;
    });
}

/// It dies while the upgrade runs: the run names it and stops, a further one refuses as long as it is dead, and goes on when it
/// lives.
#[test]
fn one_that_dies_in_the_middle_stops_the_run_and_loses_nothing() {
    let sandbox = RUN.start.fork();
    block_on(async {
        guard(&sandbox).await;
        let ended = try_upgrade(&dying(&sandbox, 40), &steady(), "first").await;
        let Err(Unfinished::Execute(error)) = ended else {
            panic!("{ended:?}");
        };
        let error = error.to_string();
        assert!(error.contains("WorkspaceRole") && error.contains(NAME), "{error}");
        RUN.kept.check(&State::of(&sandbox), "with a dead webhook");
        assert!(is_at(&sandbox, "v3.2.1"));

        let findings = blocked(upgrade(&sandbox, "second").await);
        assert!(
            names(&findings[0], NAME, "kubesphere-system/guard"),
            "{findings:?}"
        );

        sandbox.heal();
        upgrade(&sandbox, "third").await.unwrap();
        check_nothing_to_do(&sandbox, "when it answers again").await;
        let state = State::of(&sandbox);
        let object: Value = state
            .get(&ObjectKey::cluster(
                ADMISSION,
                "ValidatingWebhookConfiguration",
                "guard",
            ))
            .clone();
        assert_eq!(object["webhooks"][0]["name"], NAME, "it is somebody's");
    });
}

/// A client of a cluster in which the guard's service dies before the n-th request that is no GET.
fn dying(sandbox: &Sandbox, write: usize) -> Cluster {
    let (sandbox, seen) = (sandbox.clone(), Arc::new(AtomicUsize::new(0)));
    let service = service_fn(move |request: Request<Body>| {
        let sandbox = sandbox.clone();
        let is_write = request.method() != http::Method::GET;
        if is_write && seen.fetch_add(1, Ordering::Relaxed) + 1 == write {
            kill(&sandbox, "kubesphere-system/guard");
        }
        async move { sandbox.service().call(request).await }
    });
    Cluster::new(kube::Client::new(service, "default"))
}
