//! A whole upgrade: collect, decide, back up, carry out, verify.

use std::time::Duration;

use cluster::{Cluster, ReadError, Scope};
use object::ObjectKey;
use release::Releases;
use tokio::time::Instant;
use upgrade::{Decision, Finding, Options, Permission, Severity, Snapshot, preflight, reasons};

use crate::{Event, Listener, Recorder, RunError, RunOptions, run::run_recorded};

/// How often a plan is made anew because objects changed under the run.
const ROUNDS: u32 = 5;

/// What an upgrade works with.
pub struct Session<'a> {
    pub cluster: &'a Cluster,
    pub releases: &'a Releases,
    pub options: Options,
    pub run: RunOptions,
}

/// Collected and decided, not yet written.
pub struct Prepared {
    pub snapshot: Snapshot,
    pub decision: Decision,
}

impl Prepared {
    pub fn findings(&self) -> &[Finding] {
        &self.decision.findings
    }

    pub fn blockers(&self) -> impl Iterator<Item = &Finding> {
        self.decision
            .findings
            .iter()
            .filter(|f| f.severity == Severity::Blocker)
    }
}

/// What an upgrade did.
#[derive(Debug)]
pub struct Report {
    pub written: usize,
    pub took: Duration,
    /// Time spent in writes alone, without waits.
    pub writing: Duration,
    /// What verification found; a blocker among it means that the upgrade is not verified.
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn is_verified(&self) -> bool {
        self.findings.iter().all(|f| f.severity != Severity::Blocker)
    }
}

/// Why an upgrade ended early.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("cannot read the cluster: {0}")]
    ReadSnapshot(#[from] ReadError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("{} objects keep changing under the upgrade, among them {}", .0.len(), .0[0])]
    KeepsChanging(Vec<ObjectKey>),
    #[error("after a change in the cluster the upgrade can no longer go on: {}", .0[0].message)]
    Blocked(Vec<Finding>),
}

/// Collects and decides. Only reads.
///
/// # Errors
/// The cluster cannot be read at all. What can be read but is not as it should be is a finding.
pub async fn prepare(session: &Session<'_>) -> Result<Prepared, ReadError> {
    let snapshot = session.cluster.snapshot(&Scope::upgrade()).await?;
    let decision = upgrade::decide(&snapshot, session.releases, &session.options);
    review(session.cluster, snapshot, decision).await
}

/// Asks whether the caller may do what was decided.
pub(crate) async fn review(
    cluster: &Cluster,
    snapshot: Snapshot,
    mut decision: Decision,
) -> Result<Prepared, ReadError> {
    if let Some(plan) = &decision.plan {
        let mut required = plan.permissions(&snapshot);
        if plan.writes() > 0 {
            required.extend(bookkeeping());
            required.sort();
            required.dedup();
        }
        if !required.is_empty() {
            let allowed = cluster.review(&required).await?;
            decision
                .findings
                .extend(preflight::check_permissions(&required, &allowed));
            decision.findings.sort();
        }
    }
    Ok(Prepared { snapshot, decision })
}

/// What a run writes besides its plan: its claim, and the journal.
fn bookkeeping() -> impl Iterator<Item = Permission> {
    let kinds = [("coordination.k8s.io", "leases"), ("", "configmaps")];
    kinds.into_iter().flat_map(|(group, resource)| {
        ["get", "create", "patch"].map(|verb| Permission {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: Some("kubesphere-system".to_owned()),
            name: None,
        })
    })
}

/// Carries a plan out, and plans `again` as long as objects change under the run. Returns how much was written, and how
/// long the writes took.
pub(crate) async fn converge(
    cluster: &Cluster,
    options: &RunOptions,
    mut prepared: Prepared,
    again: impl AsyncFn() -> Result<Prepared, ReadError>,
    recorder: Option<&Recorder>,
    listen: Listener<'_>,
) -> Result<(usize, Duration), SessionError> {
    let (mut written, mut writing) = (0, Duration::ZERO);
    for round in 1.. {
        let Some(plan) = &prepared.decision.plan else {
            return Err(SessionError::Blocked(prepared.decision.findings));
        };
        let summary = run_recorded(cluster, plan, &prepared.snapshot, options, recorder, listen).await?;
        written += summary.written;
        writing += summary.writing;
        if summary.superseded.is_empty() {
            break;
        }
        if round == ROUNDS {
            return Err(SessionError::KeepsChanging(summary.superseded));
        }
        listen(Event::Replanning {
            objects: summary.superseded,
        });
        prepared = again().await?;
        if prepared.blockers().next().is_some() {
            return Err(SessionError::Blocked(prepared.blockers().cloned().collect()));
        }
    }
    Ok((written, writing))
}

impl Session<'_> {
    /// Carries the prepared plan out and verifies. Objects that change meanwhile are planned anew.
    ///
    /// # Errors
    /// See [`SessionError`]. What was written stays, and running the upgrade again goes on from there.
    pub async fn execute(&self, prepared: Prepared, listen: Listener<'_>) -> Result<Report, SessionError> {
        self.execute_recorded(prepared, None, listen).await
    }

    /// The same, with every stage noted down in the journal before it begins.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn execute_recorded(
        &self,
        prepared: Prepared,
        recorder: Option<&Recorder>,
        listen: Listener<'_>,
    ) -> Result<Report, SessionError> {
        let started = Instant::now();
        let before = prepared.snapshot.clone();
        let again = async || prepare(self).await;
        let (written, writing) = converge(self.cluster, &self.run, prepared, again, recorder, listen).await?;
        let findings = self.verify_patiently(&before, listen).await?;
        Ok(Report {
            written,
            took: started.elapsed(),
            writing,
            findings,
        })
    }

    /// Verifies again and again while the only thing missing is what KubeSphere's controllers still have to do.
    async fn verify_patiently(
        &self,
        before: &Snapshot,
        listen: Listener<'_>,
    ) -> Result<Vec<Finding>, ReadError> {
        let until = Instant::now() + self.run.controllers;
        let mut told = false;
        loop {
            let findings = self.verify(Some(before)).await?;
            let behind = findings
                .iter()
                .find(|f| f.reason == reasons::BUILT_IN_ROLES_BEHIND);
            let failed = findings.iter().any(|f| f.severity == Severity::Blocker);
            let Some(behind) = behind.filter(|_| !failed && Instant::now() < until) else {
                return Ok(findings);
            };
            if !told {
                listen(Event::AwaitingControllers {
                    message: behind.message.clone(),
                });
                told = true;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    /// Reads the cluster again and checks that it is as the target release wants it.
    ///
    /// # Errors
    /// The cluster cannot be read.
    pub async fn verify(&self, before: Option<&Snapshot>) -> Result<Vec<Finding>, ReadError> {
        let after = self.cluster.snapshot(&Scope::upgrade()).await?;
        Ok(upgrade::verify_upgrade(
            before,
            &after,
            self.releases,
            &self.options,
        ))
    }
}
