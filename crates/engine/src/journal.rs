//! What runs did, in the cluster: so that the next one knows what stopped where, and where the backup is.
//!
//! The journal tells; it decides nothing. Whether a step is done is read from the cluster. It holds no secrets.

use std::sync::Arc;

use cluster::{Cluster, ErrorClass, FIELD_MANAGER, ReadError, WriteError, retry};
use jiff::Timestamp;
use object::{Object, ObjectKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    Clock,
    write::{get, seed},
};

/// How many runs are kept.
const RUNS: usize = 20;
/// How much all of them may take.
const BYTES: usize = 48 * 1024;
/// How long a reason may be.
const REASON: usize = 600;
/// The key in the ConfigMap.
const DATA: &str = "runs.json";

/// What a run was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// From nothing: there is no backup of it, and no way back.
    Install,
    Upgrade,
    Rollback,
}

impl std::fmt::Display for RunKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Install => "installation",
            Self::Upgrade => "upgrade",
            Self::Rollback => "rollback",
        })
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// It has not ended, or nobody could note down that it did.
    Running,
    Done,
    Failed,
}

/// A stage of a run. Noted down before its first write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageEntry {
    pub name: String,
    pub started: Timestamp,
    pub done: bool,
}

/// Where a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupEntry {
    /// A path, or what `--to` takes otherwise. Never with credentials.
    pub location: String,
    /// SHA-256 of the archive, hex, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunEntry {
    pub id: String,
    pub kind: RunKind,
    /// Version of the installer.
    pub tool: String,
    pub from: String,
    pub to: String,
    /// Made before an upgrade; gone back to by a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupEntry>,
    /// The run that stopped and that this one goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<String>,
    pub started: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    pub stages: Vec<StageEntry>,
    pub outcome: RunOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl RunEntry {
    /// The stage that was begun and not finished.
    pub fn stopped_in(&self) -> Option<&str> {
        let stage = self.stages.last().filter(|stage| !stage.done)?;
        (self.outcome != RunOutcome::Done).then_some(stage.name.as_str())
    }
}

/// The runs, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Journal {
    pub runs: Vec<RunEntry>,
}

/// Eight hexadecimal digits that nobody else has.
pub fn random_id() -> String {
    format!("{:08x}", rand::random::<u32>())
}

/// The journal's ConfigMap.
pub fn journal_key() -> ObjectKey {
    ObjectKey::namespaced("", "ConfigMap", "kubesphere-system", "ks-installer-journal")
}

impl Journal {
    /// Reads the journal; one that is not there or not readable is empty.
    ///
    /// # Errors
    /// The cluster cannot be read.
    pub async fn read(cluster: &Cluster) -> Result<Self, ReadError> {
        Ok(Self::of(cluster.get(&journal_key()).await?.as_ref()))
    }

    /// The journal in its ConfigMap.
    pub fn of(object: Option<&Object>) -> Self {
        let text = object.and_then(|object| object.get("/data")?.get(DATA)?.as_str());
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    pub fn last(&self) -> Option<&RunEntry> {
        self.runs.last()
    }

    /// The last run, when it did not get to its end.
    pub fn unfinished(&self) -> Option<&RunEntry> {
        self.last().filter(|run| run.outcome != RunOutcome::Done)
    }

    /// The backup to go back to: that of the last run. Where runs went on with each other, that of the first of them,
    /// since the later ones found a half upgraded cluster.
    pub fn backup(&self) -> Option<&BackupEntry> {
        let mut run = self.last()?;
        let mut backup = run.backup.as_ref();
        while let Some(before) = run
            .continues
            .as_ref()
            .and_then(|id| self.runs.iter().find(|r| r.id == *id))
        {
            run = before;
            backup = run.backup.as_ref().or(backup);
        }
        backup
    }

    /// Whether a run of this kind and aim goes on with the last one.
    pub fn continued_by(&self, kind: RunKind, to: &str) -> Option<&RunEntry> {
        self.unfinished().filter(|run| run.kind == kind && run.to == to)
    }

    /// The text, with the oldest runs left out until it fits. The last run and those that it goes on with stay as long
    /// as there is anything else to leave out.
    fn fit(&mut self) -> String {
        loop {
            let text = serde_json::to_string(self).unwrap_or_default();
            if self.runs.len() <= 1 || self.runs.len() <= RUNS && text.len() <= BYTES {
                return text;
            }
            let mut chain = Vec::new();
            let mut next = self.last().map(|run| run.id.clone());
            while let Some(id) = next {
                next = self
                    .runs
                    .iter()
                    .find(|r| r.id == id)
                    .and_then(|r| r.continues.clone());
                if chain.contains(&id) {
                    break;
                }
                chain.push(id);
            }
            // Of a long chain its first run, which has the backup, and its last matter.
            let first = chain.last().cloned();
            let oldest = self.runs.iter().position(|run| !chain.contains(&run.id));
            let oldest = oldest.or_else(|| self.runs.iter().position(|run| Some(&run.id) != first.as_ref()));
            let gone = self.runs.remove(oldest.unwrap_or_default());
            for run in &mut self.runs {
                if run.continues.as_ref() == Some(&gone.id) {
                    run.continues.clone_from(&gone.continues);
                }
            }
        }
    }
}

/// Writes one run into the journal as it goes.
pub struct Recorder {
    cluster: Cluster,
    clock: Clock,
    entry: Mutex<RunEntry>,
}

/// What a run is about, before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// Nobody else's.
    pub id: String,
    pub kind: RunKind,
    pub tool: String,
    pub from: String,
    pub to: String,
    pub backup: Option<BackupEntry>,
}

impl Recorder {
    /// Notes down that a run begins; returns the run that it goes on with, if there is one.
    ///
    /// # Errors
    /// The journal cannot be written. Without it nothing else should be.
    pub async fn begin(
        cluster: &Cluster,
        clock: &Clock,
        run: NewRun,
    ) -> Result<(Self, Option<RunEntry>), JournalError> {
        let journal = Journal::read(cluster).await?;
        let before = journal.continued_by(run.kind, &run.to).cloned();
        let entry = RunEntry {
            id: run.id,
            kind: run.kind,
            tool: run.tool,
            from: run.from,
            to: run.to,
            backup: run.backup,
            continues: before.as_ref().map(|run| run.id.clone()),
            started: clock(),
            finished: None,
            stages: Vec::new(),
            outcome: RunOutcome::Running,
            reason: None,
        };
        let recorder = Self {
            cluster: cluster.clone(),
            clock: clock.clone(),
            entry: Mutex::new(entry),
        };
        recorder.note(|_| ()).await?;
        Ok((recorder, before))
    }

    /// Notes down that the last run is done after all: it was cut between its last write and its own last note. Writes
    /// nothing where there is no such run, or where it is of another kind.
    ///
    /// # Errors
    /// The journal cannot be read or written.
    pub async fn close(cluster: &Cluster, clock: &Clock, kind: RunKind) -> Result<(), JournalError> {
        let journal = Journal::read(cluster).await?;
        let Some(run) = journal.unfinished().filter(|run| run.kind == kind) else {
            return Ok(());
        };
        let recorder = Self {
            cluster: cluster.clone(),
            clock: Arc::clone(clock),
            entry: Mutex::new(run.clone()),
        };
        recorder.finish(Ok(())).await
    }

    /// Notes down that a stage begins, and that those before it are done.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn stage(&self, name: &str) -> Result<(), JournalError> {
        let started = (self.clock)();
        self.note(|entry| {
            entry.stages.iter_mut().for_each(|stage| stage.done = true);
            // A plan that was made again begins again.
            entry.stages.retain(|stage| stage.name != name);
            entry.stages.push(StageEntry {
                name: name.to_owned(),
                started,
                done: false,
            });
        })
        .await
    }

    /// Notes down how the run ended.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn finish(&self, result: Result<(), String>) -> Result<(), JournalError> {
        let finished = (self.clock)();
        self.note(|entry| {
            entry.finished = Some(finished);
            match result {
                Ok(()) => {
                    entry.outcome = RunOutcome::Done;
                    entry.reason = None;
                    entry.stages.iter_mut().for_each(|stage| stage.done = true);
                }
                Err(reason) => {
                    entry.outcome = RunOutcome::Failed;
                    entry.reason = Some(reason.chars().take(REASON).collect());
                }
            }
        })
        .await
    }

    async fn note(&self, edit: impl FnOnce(&mut RunEntry)) -> Result<(), JournalError> {
        let mut entry = self.entry.lock().await;
        edit(&mut entry);
        for _ in 0..5 {
            match self.write(&entry).await {
                Err(JournalError::WriteJournal(error))
                    if matches!(error.class(), ErrorClass::Conflict | ErrorClass::AlreadyExists) => {}
                done => return done,
            }
        }
        self.write(&entry).await
    }

    async fn write(&self, entry: &RunEntry) -> Result<(), JournalError> {
        let found = get(&self.cluster, &journal_key()).await?;
        let mut journal = Journal::of(found.as_ref());
        match journal.runs.iter_mut().find(|run| run.id == entry.id) {
            Some(run) => run.clone_from(entry),
            None => journal.runs.push(entry.clone()),
        }
        let text = journal.fit();
        let owner = match &found {
            Some(_) => Value::Null,
            None => self.owner().await?,
        };
        let write = || async {
            if let Some(found) = &found {
                let patch = json!({
                    "metadata": {"resourceVersion": found.resource_version()},
                    "data": {DATA: text},
                });
                self.cluster.merge_patch(&journal_key(), &patch).await
            } else {
                let key = journal_key();
                self.cluster
                    .create(&json!({
                        "apiVersion": "v1", "kind": "ConfigMap",
                        "metadata": {
                            "name": key.name, "namespace": key.namespace, "ownerReferences": owner,
                            "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
                        },
                        "data": {DATA: text},
                    }))
                    .await
            }
        };
        let policy = retry::Policy::WRITE.with_seed(seed(&entry.id));
        retry::with_backoff(&policy, write, |_, _| {}).await?;
        Ok(())
    }

    /// The journal goes with the ClusterConfiguration.
    async fn owner(&self) -> Result<Value, JournalError> {
        let owner = get(&self.cluster, &upgrade::cluster_configuration_key()).await?;
        Ok(owner.map_or(json!([]), |owner| {
            json!([{
                "apiVersion": owner.api_version(), "kind": owner.kind(),
                "name": owner.name(), "uid": owner.uid(),
            }])
        }))
    }
}

/// Why the journal cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot read the journal: {0}")]
    ReadJournal(#[from] ReadError),
    #[error("cannot write the journal: {0}")]
    WriteJournal(#[from] WriteError),
}

impl JournalError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ReadJournal(error) => error.hint(),
            Self::WriteJournal(error) => error.hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_run(id: &str, continues: Option<&str>, outcome: RunOutcome) -> RunEntry {
        RunEntry {
            id: id.into(),
            kind: RunKind::Upgrade,
            tool: "0".into(),
            from: "v1".into(),
            to: "v2".into(),
            backup: Some(BackupEntry {
                location: format!("/{id}"),
                sha256: None,
            }),
            continues: continues.map(str::to_owned),
            started: Timestamp::UNIX_EPOCH,
            finished: None,
            stages: Vec::new(),
            outcome,
            reason: Some("x".repeat(REASON)),
        }
    }

    #[test]
    fn the_way_back_leads_to_before_the_first_of_the_runs_that_went_on_with_each_other() {
        let check = |runs: &[(&str, Option<&str>)], expect: &str| {
            let runs = runs
                .iter()
                .map(|(id, before)| mk_run(id, *before, RunOutcome::Failed));
            let journal = Journal { runs: runs.collect() };
            assert_eq!(journal.backup().unwrap().location, expect);
        };
        check(&[("a", None), ("b", None)], "/b");
        check(&[("a", None), ("b", Some("a")), ("c", Some("b"))], "/a");
        check(&[("b", Some("gone"))], "/b");
    }

    #[test]
    fn it_stays_small_and_keeps_the_first_and_last_of_a_chain() {
        let mut journal = Journal::default();
        let mut before = None;
        for number in 0..200 {
            let id = format!("run-{number}");
            journal
                .runs
                .push(mk_run(&id, before.as_deref(), RunOutcome::Failed));
            let text = journal.fit();
            assert!(text.len() <= BYTES && journal.runs.len() <= RUNS);
            // The first ten are runs of their own.
            before = (number >= 10).then_some(id);
        }
        assert_eq!(journal.last().unwrap().id, "run-199");
        assert_eq!(journal.backup().unwrap().location, "/run-10");
    }
}
