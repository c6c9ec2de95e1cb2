//! Where an operator runs in the cluster, it does the work: a command gives it the word, and follows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use cluster::{Cluster, ErrorClass};
use engine::{Clock, Lease};
use object::Object;
use release::Releases;
use serde_json::{Value, json};
use upgrade::{Options, Plan};

use super::{Verdict, read_error, with_hint};
use crate::{
    operator::{
        LEADER, decides,
        publish::{digest, plan_key},
        watch::{APPROVAL, APPROVED_PLAN, NAMESPACE},
    },
    output,
};

/// How often the status is read while it is followed.
const LOOK: Duration = Duration::from_millis(500);
/// How long the operator may take to begin with what it was given.
const BEGIN: Duration = Duration::from_secs(30);
/// How long it may be silent.
const SILENCE: Duration = Duration::from_mins(1);

/// Who leads the operators of this cluster, if one is alive.
pub(super) async fn leader(cluster: &Cluster) -> anyhow::Result<Option<String>> {
    let clock: Clock = Arc::new(jiff::Timestamp::now);
    match Lease::living_holder(cluster, &clock, LEADER).await {
        // Who may not even look may not write either, and is told so by what the plan takes.
        Err(error) if *error.class() == ErrorClass::Forbidden => Ok(None),
        found => found.map_err(read_error),
    }
}

/// What the operator made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub is_good: bool,
    /// Of the condition that tells it best.
    pub message: String,
    pub version: String,
}

/// Refuses what the operator would not do: it decides by what stands in the cluster, not by a command's options.
pub(super) fn refuse_options(leader: &str, options: &[(&str, bool)]) -> anyhow::Result<()> {
    let given: Vec<&str> = options
        .iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| *name)
        .collect();
    if given.is_empty() {
        return Ok(());
    }
    bail!(
        "an operator runs in this cluster and does the work ({leader}); it knows nothing of {}\nhint: leave that out, or stop the operator first: kubectl -n {NAMESPACE} scale deployment ks-installer --replicas=0",
        given.join(", ")
    )
}

/// How the operator would decide.
pub(super) async fn options(
    cluster: &Cluster,
    releases: &Releases,
    options: Options,
) -> anyhow::Result<Options> {
    let key = upgrade::cluster_configuration_key();
    let configuration = cluster.get(&key).await.map_err(read_error)?;
    Ok(decides(configuration.as_ref(), releases, options))
}

impl Ended {
    /// Says what came of it; `words` are what was done and what that is called.
    pub(super) fn report(&self, words: (&str, &str), json: bool) -> anyhow::Result<Verdict> {
        let (done, work) = words;
        if json {
            output::json(&json!({
                done: self.is_good, "to": self.version, "by": "operator", "message": self.message,
            }))?;
        } else if self.is_good {
            output::print(&format!("{} {}\n", output::text::tick(), self.message));
        } else {
            output::print(&format!(
                "The {work} did not come to its end: {}\nThe operator tries again by itself; follow it with: ks-installer status --watch\n",
                self.message
            ));
        }
        Ok(if self.is_good {
            Verdict::Done
        } else {
            Verdict::Refused
        })
    }
}

/// Gives the operator the word for this plan, and follows it to its end.
///
/// # Errors
/// The operator has another plan, or does not begin, or gives no sign of life.
pub(super) async fn hand_over(cluster: &Cluster, plan: &Plan, show: bool) -> anyhow::Result<Ended> {
    let digest = digest(plan);
    let approve = json!({"metadata": {"annotations": {APPROVED_PLAN: digest}}});
    let key = upgrade::cluster_configuration_key();
    cluster.merge_patch(&key, &approve).await.map_err(|error| {
        let hint = error.hint();
        with_hint(error.into(), hint)
    })?;
    follow(cluster, Some(&digest), show).await
}

/// Has the operator wait for somebody's word from now on: it would go forward again.
pub(super) async fn hold_back(cluster: &Cluster) -> anyhow::Result<()> {
    let patch = json!({"metadata": {"annotations": {APPROVAL: "manual", APPROVED_PLAN: Value::Null}}});
    let key = upgrade::cluster_configuration_key();
    cluster.merge_patch(&key, &patch).await.map_err(|error| {
        let hint = error.hint();
        with_hint(error.into(), hint)
    })?;
    Ok(())
}

/// What is followed of the ClusterConfiguration's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub phase: String,
    pub progress: String,
    pub digest: String,
    pub version: String,
    /// Type, status, message.
    conditions: Vec<(String, String, String)>,
    is_used: bool,
}

impl Seen {
    pub(super) fn of(configuration: Option<&Object>) -> Self {
        let Some(configuration) = configuration else {
            return Self::default();
        };
        let text = |pointer: &str| configuration.get_str(pointer).unwrap_or_default().to_owned();
        let conditions = configuration.get("/status/conditions").and_then(Value::as_array);
        let of = |condition: &Value, name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        Self {
            phase: text("/status/phase"),
            progress: text("/status/progress"),
            digest: text("/status/plan/digest"),
            version: text("/status/core/version"),
            conditions: conditions
                .into_iter()
                .flatten()
                .map(|c| (of(c, "type"), of(c, "status"), of(c, "message")))
                .collect(),
            is_used: configuration.annotation(APPROVED_PLAN).is_none(),
        }
    }

    /// `Degraded: ks-apiserver does not roll out`
    pub(super) fn message(&self, kind: &str) -> Option<&str> {
        let (_, _, message) = self.conditions.iter().find(|(k, _, _)| k == kind)?;
        Some(message)
    }

    fn holds(&self, kind: &str) -> bool {
        self.conditions
            .iter()
            .any(|(k, status, _)| k == kind && status == "True")
    }

    fn ended(&self, is_good: bool, kind: &str) -> Ended {
        Ended {
            is_good,
            message: self.message(kind).unwrap_or_default().to_owned(),
            version: self.version.clone(),
        }
    }
}

/// Follows the operator until the work with this plan has ended; where none is given, until the platform is in place.
pub(super) async fn follow(cluster: &Cluster, digest: Option<&str>, show: bool) -> anyhow::Result<Ended> {
    let key = upgrade::cluster_configuration_key();
    let since = Instant::now();
    let mut told = Seen::default();
    let mut changed = Instant::now();
    let mut begun = false;
    loop {
        let found = cluster.get(&key).await.map_err(read_error)?;
        let seen = Seen::of(found.as_ref());
        if seen != told {
            changed = Instant::now();
            if show && seen.progress != told.progress && seen.phase == "Upgrading" {
                output::note(&format!("  operator: {}", seen.progress));
            }
            told = seen.clone();
        }
        let is_ours = digest.is_none_or(|digest| seen.digest == digest);
        begun |= seen.phase == "Upgrading";
        match seen.phase.as_str() {
            "Blocked" => return Ok(seen.ended(false, "Degraded")),
            "Retrying" if begun => return Ok(seen.ended(false, "Degraded")),
            // An approval that is used up stands for a run that was too fast to be seen.
            "Running" if begun || digest.is_none() || seen.is_used => {
                return Ok(seen.ended(seen.holds("Available"), "Available"));
            }
            "AwaitingApproval" if !begun && !is_ours && since.elapsed() > BEGIN => bail!(
                "the operator has another plan than this one\nhint: look at it in ConfigMap {NAMESPACE}/{}, and approve it with: kubectl -n {NAMESPACE} annotate --overwrite clusterconfiguration ks-installer {APPROVED_PLAN}={}",
                plan_key().name,
                seen.digest
            ),
            _ => {}
        }
        if !begun && since.elapsed() > 2 * BEGIN {
            bail!(
                "the operator does not begin (its phase is {:?})\nhint: look at what it says: kubectl -n {NAMESPACE} logs -l app=ks-installer",
                seen.phase
            );
        }
        if changed.elapsed() > SILENCE {
            if leader(cluster).await?.is_none() {
                return Err(anyhow!(
                    "the operator gives no sign of life any more, in the middle of {:?}\nhint: look at its pod: kubectl -n {NAMESPACE} get pods -l app=ks-installer; what it did so far stays, and the next one goes on from there",
                    seen.progress
                ));
            }
            changed = Instant::now();
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_as_it_is_written() {
        let configuration = Object::try_from(json!({
            "apiVersion": "installer.kubesphere.io/v1alpha1", "kind": "ClusterConfiguration",
            "metadata": {"name": "ks-installer", "annotations": {APPROVED_PLAN: "d"}},
            "status": {"phase": "Running", "progress": "done", "core": {"version": "v3.3.1"},
                "plan": {"digest": "d"},
                "conditions": [{"type": "Available", "status": "True", "message": "runs"},
                    {"type": "Degraded", "status": "False", "message": ""}]},
        }))
        .unwrap();
        let seen = Seen::of(Some(&configuration));
        assert_eq!(
            (seen.phase.as_str(), seen.version.as_str()),
            ("Running", "v3.3.1")
        );
        assert!(seen.holds("Available") && !seen.holds("Degraded") && !seen.is_used);
        assert_eq!(seen.ended(true, "Available").message, "runs");
        assert_eq!(Seen::of(None), Seen::default());
    }
}
