//! What the operator says in the cluster: the ClusterConfiguration's status, Events, and the plan.

use std::fmt::Write as _;

use cluster::{Cluster, FIELD_MANAGER, ReadError, WriteError};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use object::{Object, ObjectKey};
use serde_json::{Value, json};
use upgrade::{Finding, Plan, plan::digest_value};

use super::{
    report::{self, Report},
    watch::NAMESPACE,
};
use crate::output::text;

/// How much of a text goes into a ConfigMap, which holds 1 MiB in all.
const LONGEST: usize = 400 * 1024;

pub(super) struct Publisher {
    cluster: Cluster,
    recorder: Recorder,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The ConfigMap with the plan, and who loses which permission.
pub(crate) fn plan_key() -> ObjectKey {
    ObjectKey::namespaced("", "ConfigMap", NAMESPACE, "ks-installer-plan")
}

impl Publisher {
    pub(super) fn new(client: kube::Client, cluster: Cluster) -> Self {
        let reporter = Reporter {
            controller: FIELD_MANAGER.to_owned(),
            instance: std::env::var("POD_NAME").ok(),
        };
        Self {
            cluster,
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Brings the status there; writes nothing where it says so already. Gives whether a condition changed.
    pub(super) async fn status(&self, report: &Report) -> Result<bool, PublishError> {
        let key = upgrade::cluster_configuration_key();
        let Some(live) = self.cluster.get(&key).await? else {
            return Ok(false);
        };
        let status = live.get("/status").cloned().unwrap_or_else(|| json!({}));
        let Some(patch) = report::patch(&status, report, jiff::Timestamp::now()) else {
            return Ok(false);
        };
        self.cluster.merge_patch(&key, &patch).await?;
        Ok(patch.pointer("/status/conditions").is_some())
    }

    /// Tells those who look at the ClusterConfiguration with `kubectl describe`. Events are a courtesy: that one cannot be
    /// written is logged and no more.
    pub(super) async fn event(&self, configuration: &Object, is_warning: bool, reason: &str, note: &str) {
        let reference = ObjectReference {
            api_version: Some(configuration.api_version().to_owned()),
            kind: Some(configuration.kind().to_owned()),
            namespace: configuration.namespace().map(str::to_owned),
            name: Some(configuration.name().to_owned()),
            uid: configuration.uid().map(str::to_owned),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: if is_warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: reason.to_owned(),
            // The API server takes no longer notes.
            note: Some(note.chars().take(1000).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            tracing::warn!(%error, reason, "an Event was not written");
        }
    }

    /// Publishes a plan with its findings for whoever is to approve it.
    pub(super) async fn plan(
        &self,
        configuration: &Object,
        plan: &Plan,
        digest: &str,
        findings: &[Finding],
    ) -> Result<(), PublishError> {
        let json = serde_json::to_string_pretty(plan).unwrap_or_default();
        let mut data = json!({
            "digest": digest,
            "plan.txt": clipped(plain(&text::plan(plan, true))),
            "access-impact.txt": clipped(plain(&text::impact(&plan.impact))),
            "findings.txt": clipped(plain(&text::findings(findings))),
        });
        if json.len() <= LONGEST / 2 {
            data["plan.json"] = json.into();
        }
        let key = plan_key();
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": key.name, "namespace": key.namespace,
                "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
                "ownerReferences": [{
                    "apiVersion": configuration.api_version(), "kind": configuration.kind(),
                    "name": configuration.name(), "uid": configuration.uid(),
                }],
            },
            "data": data,
        });
        let live = self.cluster.get(&key).await?;
        if live.as_ref().and_then(|live| live.get("/data")) != Some(&data) {
            self.cluster.apply(&body, true).await?;
        }
        Ok(())
    }
}

/// By which a plan is approved: what it writes, and where. What the objects were before is left out, for the approval itself
/// is written to one of them; a run compares that anyway.
pub(crate) fn digest(plan: &Plan) -> String {
    let steps: Vec<Value> = plan
        .stages
        .iter()
        .flat_map(|stage| {
            let name = stage.name.clone();
            stage
                .steps
                .iter()
                .map(move |step| json!([name, step.object, step.action]))
        })
        .collect();
    digest_value(&json!([plan.cluster, plan.from, plan.to, plan.kubernetes, steps]))
}

/// Without colours.
fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

fn clipped(mut text: String) -> String {
    if text.len() > LONGEST / 4 {
        let end = text.floor_char_boundary(LONGEST / 4);
        text.truncate(end);
        let _ = write!(
            text,
            "\n… the rest does not fit here. See: ks-installer plan --details, or, once it is carried out, ks-installer backup show LOCATION -o json"
        );
    }
    text
}
