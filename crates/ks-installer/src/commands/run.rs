//! What every run that writes has in common: it is the only one, and the journal tells of it.

use std::sync::Arc;

use cluster::{Cluster, archive::Contents, store::Location};
use engine::{
    BackupEntry, Claimant, Clock, Event, Journal, JournalError, Lease, LeaseError, NewRun, Recorder, Report,
    RunKind, SessionError,
};
use upgrade::Plan;

use super::with_hint;
use crate::output::{self, progress::Progress};

/// Follows a run: what is under way, and what came of it.
pub(crate) trait Follow: Send + Sync {
    /// A piece of work whose length is not known begins.
    fn begin(&self, title: &str);
    /// It has ended, with this outcome.
    fn end(&self, outcome: &str);
    /// Something worth saying in between.
    fn note(&self, text: &str);
    fn event(&self, event: Event);
}

impl Follow for Progress {
    fn begin(&self, title: &str) {
        self.begin(title);
    }

    fn end(&self, outcome: &str) {
        self.end(outcome);
    }

    fn note(&self, text: &str) {
        self.note(text);
    }

    fn event(&self, event: Event) {
        self.event(event);
    }
}

/// Why a run did not come to its end.
pub(crate) enum Stopped {
    /// Another run is under way; nothing was written.
    Held(LeaseError),
    /// It could not begin; nothing was written.
    NotBegun(anyhow::Error),
    /// It stopped in the middle.
    Failed(SessionError),
    /// It went on too long without a sign of life, and another run took over.
    Lost(LeaseError),
}

impl From<Stopped> for anyhow::Error {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Held(error) | Stopped::Lost(error) => {
                let hint = error.hint();
                with_hint(error.into(), hint)
            }
            Stopped::NotBegun(error) => error,
            Stopped::Failed(error) => super::upgrade_command::session_error(error),
        }
    }
}

impl From<LeaseError> for Stopped {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Held { .. } => Self::Held(error),
            LeaseError::Lost { .. } => Self::Lost(error),
            _ => {
                let hint = error.hint();
                Self::NotBegun(with_hint(error.into(), hint))
            }
        }
    }
}

impl From<JournalError> for Stopped {
    fn from(error: JournalError) -> Self {
        let hint = error.hint();
        Self::NotBegun(with_hint(error.into(), hint))
    }
}

/// The right to write.
pub(super) struct Claim {
    lease: Lease,
    clock: Clock,
}

/// Takes the right to write, before anything is prepared for it.
pub(super) async fn claim(cluster: &Cluster, claimant: Claimant) -> Result<Claim, Stopped> {
    let clock: Clock = Arc::new(jiff::Timestamp::now);
    let waits = |held: &LeaseError| {
        output::note(&format!("{held}; waiting for a sign that it is alive"));
    };
    let lease = Lease::acquire(cluster, &clock, claimant, waits).await?;
    Ok(Claim { lease, clock })
}

/// Who runs a command.
pub(super) fn claimant() -> Claimant {
    Claimant::run(&holder())
}

/// `host, process 4711, 3f9a0c12`: who runs, for whoever comes second.
pub(crate) fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty());
    format!(
        "{}, process {}, {}",
        host.as_deref().unwrap_or("unknown host"),
        std::process::id(),
        engine::random_id()
    )
}

/// The run of a plan, for the journal.
pub(super) fn new_run(kind: RunKind, plan: &Plan, backup: Option<BackupEntry>) -> NewRun {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    NewRun {
        id: format!("{now}-{}", engine::random_id()),
        kind,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        from: plan.from.clone(),
        to: plan.to.clone(),
        backup,
    }
}

/// Where a backup is, so that it is found from elsewhere and known again.
pub(super) fn backup_entry(location: &Location, contents: &Contents) -> BackupEntry {
    let location = match location {
        Location::File(path) => Location::File(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        other => other.clone(),
    };
    BackupEntry {
        location: location.to_string(),
        sha256: digest(contents),
    }
}

/// The digest of a backup's index, which has those of all its objects.
pub(super) fn digest(contents: &Contents) -> Option<String> {
    let index = serde_json::to_value(&contents.index).ok()?;
    Some(upgrade::plan::digest_value(&index))
}

impl Claim {
    /// Does the work of a run, with the claim renewed and the journal kept meanwhile.
    pub(super) async fn carry_out(
        &self,
        cluster: &Cluster,
        run: NewRun,
        follow: &dyn Follow,
        work: impl AsyncFnOnce(&Recorder) -> Result<Report, SessionError>,
    ) -> Result<Report, Stopped> {
        let (recorder, before) = Recorder::begin(cluster, &self.clock, run).await?;
        if let Some(before) = before {
            let stage = before.stopped_in().map_or_else(
                || "before its first stage".to_owned(),
                |stage| format!("in stage {stage}"),
            );
            follow.note(&format!(
                "continues the {} of {}, which stopped {stage}",
                before.kind,
                before.started.strftime("%Y-%m-%d %H:%M:%SZ")
            ));
        }
        let result = self.lease.hold(work(&recorder)).await?;
        let noted = match &result {
            Ok(_) => recorder.finish(Ok(())).await,
            Err(error) => recorder.finish(Err(error.to_string())).await,
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "how the run ended is not in the journal");
        }
        result.map_err(Stopped::Failed)
    }

    /// Lets the next run write.
    pub(super) async fn release(self) {
        self.lease.release().await;
    }
}

/// Notes down that an upgrade or installation which was cut after its last write is done. It is no matter if that cannot be
/// written.
pub(super) async fn close_journal(cluster: &Cluster) {
    let clock: Clock = Arc::new(jiff::Timestamp::now);
    for kind in [RunKind::Upgrade, RunKind::Install] {
        if let Err(error) = Recorder::close(cluster, &clock, kind).await {
            tracing::warn!(%error, "that the last run is done is not in the journal");
        }
    }
}

/// The backup that the journal leads back to.
pub(super) async fn journaled_backup(cluster: &Cluster) -> Result<Option<BackupEntry>, cluster::ReadError> {
    Ok(Journal::read(cluster).await?.backup().cloned())
}
