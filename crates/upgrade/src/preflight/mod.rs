//! What stands in the way of an upgrade: all checks run, and all that they find is reported.
//!
//! ```text
//!   version        KubeSphere and Kubernetes
//!   configuration  ClusterConfiguration, StorageClass
//!   workloads      what runs now, and whether the nodes can take what will run
//!   api            API versions, CRDs, annotations near their limit
//!   webhooks       admission and conversion webhooks that would refuse our writes
//!   deletion       objects and namespaces on their way out
//!   leftovers      what older releases and killed helm runs left behind
//!   permissions    what could not be read, what may not be written
//! ```

mod api;
mod configuration;
mod deletion;
mod leftovers;
#[cfg(test)]
pub(crate) mod mk;
mod permissions;
pub(crate) mod selector;
mod version;
pub(crate) mod webhooks;
mod workloads;

use object::{Object, ObjectKey};
use release::{KubernetesSupport, UpgradeFrom, Version};
use serde_json::Value;

use self::selector::{labels_at, labels_of};
pub(crate) use self::workloads::{keeps_apart, places};
pub use self::{
    permissions::check_permissions,
    selector::Labels,
    version::{Installed, LooseVersion, installed, is_installation},
    webhooks::{Backend, backend},
};
use crate::{Action, Finding, Install, Snapshot, Step};

/// What the checks are about: the release to come, the settings, and what will be written. What is wrong with the
/// settings themselves is said by [`crate::settings`].
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// The version of the release to come.
    pub target: &'a Version,
    pub upgrade_from: &'a UpgradeFrom,
    pub kubernetes: &'a KubernetesSupport,
    /// Makes an unsupported Kubernetes a warning.
    pub allow_unsupported_kubernetes: bool,
    pub storage_class: StorageClass<'a>,
    /// Every object of the new release, written or not.
    pub rendered: &'a [&'a Object],
    /// The workloads whose health counts.
    pub workloads: &'a [ObjectKey],
    /// What will be written.
    pub writes: &'a [Write],
    /// What becomes of a cluster without KubeSphere.
    pub install: Install,
    /// Unix seconds, where the time is known.
    pub now: Option<i64>,
}

/// Which StorageClass the settings ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageClass<'a> {
    /// None is asked for, so none is checked.
    Unchecked,
    /// The cluster's default one.
    Default,
    Named(&'a str),
}

/// What happens to an object, in the words of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

impl Operation {
    /// As webhook rules name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// One write to come, with what webhooks select by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub object: ObjectKey,
    pub operation: Operation,
    /// API version without the group.
    pub version: String,
    /// The object's labels afterwards; those before are in the snapshot.
    pub labels: Labels,
    /// The labels of the pods that a workload makes, since its pods pass webhooks too.
    pub pod_labels: Option<Labels>,
}

impl Write {
    /// The write of an object whole.
    pub fn of_object(object: &Object, operation: Operation) -> Self {
        Self {
            object: object.key(),
            operation,
            version: object.version().to_owned(),
            labels: labels_of(object),
            pod_labels: object
                .get("/spec/template")
                .map(|template| labels_at(template, "/metadata/labels")),
        }
    }

    /// The write that a step makes; a wait makes none.
    pub fn of_step(step: &Step, snapshot: &Snapshot) -> Option<Self> {
        let key = &step.object;
        let live = snapshot.get(key);
        let operation = match &step.action {
            Action::Wait { .. } => return None,
            Action::Delete { .. } => Operation::Delete,
            _ if live.is_some() => Operation::Update,
            _ => Operation::Create,
        };
        let mut write = live.map_or_else(
            || Self {
                object: key.clone(),
                operation,
                version: snapshot
                    .served
                    .iter()
                    .find(|r| r.group == key.group && r.kind == key.kind)
                    .map_or_else(|| "v1".to_owned(), |r| r.version.clone()),
                labels: Labels::new(),
                pod_labels: None,
            },
            |live| Self::of_object(live, operation),
        );
        let body = match &step.action {
            Action::Apply { body, .. } | Action::Patch { body, .. } => &body.0,
            _ => &Value::Null,
        };
        if let Some(api_version) = body.get("apiVersion").and_then(Value::as_str) {
            api_version
                .rsplit('/')
                .next()
                .unwrap_or(api_version)
                .clone_into(&mut write.version);
        }
        write.labels.extend(labels_at(body, "/metadata/labels"));
        if matches!(step.action, Action::Scale { replicas: 0 }) {
            write.pod_labels = None;
        }
        if let Some(template) = body.pointer("/spec/template") {
            write
                .pod_labels
                .get_or_insert_default()
                .extend(labels_at(template, "/metadata/labels"));
        }
        Some(write)
    }
}

/// Runs every check. Sorted: blockers first, then by object.
pub fn check(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let installed = installed(snapshot);
    let mut findings = version::check_kubesphere(snapshot, &installed, context);
    findings.extend(version::check_kubernetes(snapshot, context));
    findings.extend(permissions::check_unreadable(snapshot, context));
    findings.extend(workloads::check_nodes(snapshot, context));
    findings.extend(workloads::check_sizes(snapshot, context));
    findings.extend(api::check(snapshot, context));
    findings.extend(webhooks::check(snapshot, context));
    findings.extend(deletion::check(snapshot, context));
    // Where there is no KubeSphere, and none is to come, there is nothing to say about its parts. Where one is to come, its
    // workloads need not run yet.
    let is_installation = is_installation(snapshot, context.install, context.rendered);
    if is_installation || installed != Installed::No {
        findings.extend(configuration::check(snapshot, context));
        findings.extend(leftovers::check(snapshot, context));
    }
    if !is_installation && installed != Installed::No {
        findings.extend(workloads::check_health(snapshot, context));
    }
    sort(&mut findings);
    findings
}

/// Sorts findings, blockers first, then by object; equal ones are kept once.
pub fn sort(findings: &mut Vec<Finding>) {
    findings.sort_by(|a, b| {
        (a.severity, &a.object, &a.reason, &a.message).cmp(&(b.severity, &b.object, &b.reason, &b.message))
    });
    findings.dedup();
}

/// Namespace of KubeSphere's own parts, the same in every release.
pub(crate) const SYSTEM_NAMESPACE: &str = "kubesphere-system";

/// `kubectl get deployment ks-apiserver -n kubesphere-system`, for hints.
pub(crate) fn kubectl(verb: &str, key: &ObjectKey) -> String {
    let resource = if key.group.is_empty() || matches!(key.group.as_str(), "apps" | "batch") {
        key.kind.to_lowercase()
    } else {
        format!("{}.{}", key.kind.to_lowercase(), key.group)
    };
    match &key.namespace {
        Some(namespace) => format!("kubectl {verb} {resource} {} -n {namespace}", key.name),
        None => format!("kubectl {verb} {resource} {}", key.name),
    }
}

/// The first few of a list, for a sentence.
pub(crate) fn some_of<T: std::fmt::Display>(items: &[T]) -> String {
    const SHOWN: usize = 3;
    let mut text = items
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if items.len() > SHOWN {
        text = format!("{text} and {} more", items.len() - SHOWN);
    }
    text
}

/// `1 write`, `3 writes`
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{mk::*, *};
    use crate::{Severity, plan::Body};

    #[test]
    fn a_sound_cluster_has_no_blockers_and_no_warnings() {
        let snapshot = mk_sound();
        let findings = mk_checked(&snapshot, |_| {});
        assert_eq!(findings, [], "nothing to say about a sound cluster");
    }

    #[test]
    fn findings_are_sorted_and_kept_once() {
        let key = |name: &str| ObjectKey::cluster("", "Namespace", name);
        let mut findings = vec![
            Finding::info("A", "i"),
            Finding::blocker("B", "b").on(key("b")),
            Finding::warning("A", "w"),
            Finding::blocker("C", "b").on(key("a")),
            Finding::blocker("C", "b").on(key("a")),
        ];
        sort(&mut findings);
        let order: Vec<_> = findings.iter().map(|f| (f.severity, f.reason.as_str())).collect();
        assert_eq!(
            order,
            [
                (Severity::Blocker, "C"),
                (Severity::Blocker, "B"),
                (Severity::Warning, "A"),
                (Severity::Info, "A")
            ]
        );
    }

    #[test]
    fn steps_become_writes() {
        let live = mk(
            "apps/v1",
            "Deployment",
            "n/a",
            json!({"metadata": {"labels": {"old": "1"}}}),
        );
        let snapshot = Snapshot::from_objects("v1.20.2", [live.clone()]);
        let body = Body(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"new": "1"}},
            "spec": {"template": {"metadata": {"labels": {"app": "a"}}}},
        }));
        let step = |object: ObjectKey, action: Action| Step {
            object,
            action,
            before: None,
            changes: Vec::new(),
            drift: Vec::new(),
            note: None,
        };
        let apply = Action::Apply {
            digest: String::new(),
            body,
            previous: Body::default(),
        };
        let write = Write::of_step(&step(live.key(), apply.clone()), &snapshot).unwrap();
        assert_eq!(
            (write.operation, write.version.as_str()),
            (Operation::Update, "v1")
        );
        assert_eq!(write.labels.keys().collect::<Vec<_>>(), ["new", "old"]);
        assert_eq!(write.pod_labels, Some(Labels::from([("app".into(), "a".into())])));
        let other = ObjectKey::namespaced("apps", "Deployment", "n", "b");
        assert_eq!(
            Write::of_step(&step(other, apply), &snapshot).unwrap().operation,
            Operation::Create
        );
        let pods = |replicas: i64| {
            let live = mk("apps/v1", "Deployment", "n/c", json!({"spec": {"template": {}}}));
            let snapshot = Snapshot::from_objects("v1.20.2", [live.clone()]);
            Write::of_step(&step(live.key(), Action::Scale { replicas }), &snapshot)
                .unwrap()
                .pod_labels
        };
        assert_eq!(
            (pods(0), pods(1)),
            (None, Some(Labels::new())),
            "what is scaled to 0 makes no pods"
        );
        let delete = Action::Delete { uid: "u".into() };
        assert_eq!(
            Write::of_step(&step(live.key(), delete), &snapshot)
                .unwrap()
                .operation,
            Operation::Delete
        );
        let wait = Action::Wait {
            condition: crate::plan::Condition::RolledOut,
        };
        assert_eq!(Write::of_step(&step(live.key(), wait), &snapshot), None);
    }
}
