//! The way back to a backup: the same engine, another plan.

use cluster::{Cluster, ReadError, Scope};
use object::ObjectKey;
use release::Releases;
use tokio::time::Instant;
use upgrade::{Action, Backup, Finding, Step, decide_rollback, health, reasons};

use crate::{
    Listener, Prepared, Recorder, Report, RunOptions, SessionError,
    session::{converge, review},
};

/// What a rollback works with.
pub struct Rollback<'a> {
    pub cluster: &'a Cluster,
    pub releases: &'a Releases,
    pub backup: &'a Backup,
    pub run: RunOptions,
}

/// Collects, and decides how to get back. Only reads.
///
/// # Errors
/// The cluster cannot be read at all.
pub async fn prepare_rollback(rollback: &Rollback<'_>) -> Result<Prepared, ReadError> {
    let snapshot = rollback.cluster.snapshot(&Scope::upgrade()).await?;
    let decision = decide_rollback(rollback.backup, &snapshot, rollback.releases);
    review(rollback.cluster, snapshot, decision).await
}

impl Rollback<'_> {
    /// Carries the prepared plan out and checks what came of it. Objects that change meanwhile are planned anew.
    ///
    /// # Errors
    /// See [`SessionError`]. What was written stays, and running the rollback again goes on from there.
    pub async fn execute(
        &self,
        prepared: Prepared,
        recorder: Option<&Recorder>,
        listen: Listener<'_>,
    ) -> Result<Report, SessionError> {
        let started = Instant::now();
        let waits = waited_for(&prepared);
        let again = async || prepare_rollback(self).await;
        let (written, writing) = converge(self.cluster, &self.run, prepared, again, recorder, listen).await?;
        Ok(Report {
            written,
            took: started.elapsed(),
            writing,
            findings: self.verify(&waits).await?,
        })
    }

    /// Decides once more: nothing should be left to put back, and the workloads should run.
    async fn verify(&self, workloads: &[ObjectKey]) -> Result<Vec<Finding>, ReadError> {
        let Prepared { snapshot, decision } = prepare_rollback(self).await?;
        let mut findings = decision.findings;
        let left: Vec<_> = decision
            .plan
            .iter()
            .flat_map(upgrade::Plan::steps)
            .filter(|step| !is_wait(step))
            .map(|step| step.object.to_string())
            .collect();
        if !left.is_empty() {
            findings.push(Finding::warning(
                reasons::NOT_CONVERGED,
                format!("another run would write again: {}", left.join(", ")),
            ));
        }
        for key in workloads {
            let trouble = match snapshot.get(key) {
                None => Some("it does not exist".to_owned()),
                Some(workload) => health::rollout(workload).message().map(str::to_owned),
            };
            findings.extend(trouble.map(|words| {
                let words = format!("its rollout is not complete: {words}");
                Finding::blocker(reasons::ROLLOUT_INCOMPLETE, words).on(key.clone())
            }));
        }
        findings.sort();
        Ok(findings)
    }
}

fn is_wait(step: &Step) -> bool {
    matches!(step.action, Action::Wait { .. })
}

fn waited_for(prepared: &Prepared) -> Vec<ObjectKey> {
    let steps = prepared.decision.plan.iter().flat_map(upgrade::Plan::steps);
    steps
        .filter(|step| is_wait(step))
        .map(|step| step.object.clone())
        .collect()
}
