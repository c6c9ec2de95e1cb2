//! A plan, carried out stage by stage.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cluster::Cluster;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object::{Object, ObjectKey};
use tokio::{sync::Semaphore, time::Instant};
use upgrade::{
    Action, Plan, Snapshot, Stage, Step,
    health::{self, Health},
    plan::Condition,
};

use crate::{
    Event, Listener, Outcome, Recorder, RunError, Stop, lanes, reason, secrets::Secrets, write::Writer,
};

/// How a plan is carried out.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How many writes are under way at once.
    pub concurrency: usize,
    /// How long one wait may take.
    pub wait: Duration,
    /// How long verification waits for KubeSphere's controllers to bring new built-in roles into workspaces and
    /// projects. After that it is a warning. Zero where no controllers run.
    pub controllers: Duration,
    /// Managers whose fields are handed over before an apply.
    pub old_managers: Vec<String>,
    /// Local time as the ClusterConfiguration's status has it, e.g. `2022-10-28T09:00:00UTC`.
    pub now: String,
    /// The same moment, for Helm's records.
    pub started: jiff::Timestamp,
    /// Ends the run after the steps in hand.
    pub stop: Stop,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSummary {
    pub written: usize,
    /// Objects that changed under the run: their steps were not carried out.
    pub superseded: Vec<ObjectKey>,
    /// Time spent in writes alone, without waits.
    pub writing: Duration,
}

/// Carries a plan out. `snapshot` is what it was decided on.
///
/// # Errors
/// The first step that cannot be done ends the run after the steps beside it are finished or given up; what was
/// written stays.
pub async fn run(
    cluster: &Cluster,
    plan: &Plan,
    snapshot: &Snapshot,
    options: &RunOptions,
    listen: Listener<'_>,
) -> Result<RunSummary, RunError> {
    run_recorded(cluster, plan, snapshot, options, None, listen).await
}

/// The same, with every stage noted down before it begins.
pub(crate) async fn run_recorded(
    cluster: &Cluster,
    plan: &Plan,
    snapshot: &Snapshot,
    options: &RunOptions,
    recorder: Option<&Recorder>,
    listen: Listener<'_>,
) -> Result<RunSummary, RunError> {
    let started = Instant::now();
    let secrets = Secrets::default();
    let run = Run {
        cluster,
        writer: Writer {
            cluster,
            secrets: &secrets,
            old_managers: &options.old_managers,
            listen,
            now: options.now.clone(),
            started: options.started,
            written: Mutex::default(),
            configuration: tokio::sync::Mutex::default(),
        },
        snapshot,
        options,
        writes: Semaphore::new(options.concurrency.max(1)),
        listen,
    };
    listen(Event::RunStarted {
        stages: plan.stages.len(),
        steps: plan.steps().count(),
    });
    let mut summary = RunSummary::default();
    let blocks: Vec<&[Stage]> = plan
        .stages
        .chunk_by(|a, b| a.component.is_some() && b.component.is_some())
        .collect();
    let mut index = 0;
    for (number, block) in blocks.iter().enumerate() {
        let is_last = number + 1 == blocks.len();
        let name = match &block[0].component {
            Some(_) if is_last => "components",
            Some(_) => "before-core",
            None => block[0].name.as_str(),
        };
        if options.stop.is_cancelled() {
            return Err(RunError::Interrupted);
        }
        if let Some(recorder) = recorder {
            recorder.stage(name).await?;
        }
        if block[0].component.is_some() {
            lanes::run(&run, index, block, is_last, &mut summary).await?;
        } else {
            summary.add(run.stage(index, &block[0]).await?);
        }
        if !summary.superseded.is_empty() {
            // Later stages were decided on what is no longer so.
            summary.superseded.sort();
            return Ok(summary);
        }
        index += block.len();
    }
    listen(Event::RunDone {
        took: started.elapsed(),
    });
    Ok(summary)
}

impl RunSummary {
    pub(crate) fn add(&mut self, other: Self) {
        self.written += other.written;
        self.superseded.extend(other.superseded);
        self.writing += other.writing;
    }
}

/// What the stages of a run share.
pub(crate) struct Run<'a> {
    cluster: &'a Cluster,
    writer: Writer<'a>,
    snapshot: &'a Snapshot,
    options: &'a RunOptions,
    /// How many writes may be under way at once.
    writes: Semaphore,
    listen: Listener<'a>,
}

impl Run<'_> {
    /// Carries a stage out: its writes side by side, then its waits. Where something changed under it, it does not wait.
    pub(crate) async fn stage(&self, index: usize, stage: &Stage) -> Result<RunSummary, RunError> {
        let (listen, options) = (self.listen, self.options);
        let started = Instant::now();
        listen(Event::StageStarted {
            index,
            name: stage.name.clone(),
            title: stage.title.clone(),
            steps: stage.steps.len(),
        });
        let (waits, writes): (Vec<_>, Vec<_>) = stage
            .steps
            .iter()
            .partition(|step| matches!(step.action, Action::Wait { .. }));
        let written = AtomicUsize::new(0);
        let superseded: Vec<Option<ObjectKey>> = stream::iter(writes)
            .map(|step| {
                let written = &written;
                async move {
                    let _permit = self.writes.acquire().await;
                    if options.stop.is_cancelled() {
                        return Err(RunError::Interrupted);
                    }
                    let outcome = self.writer.step(step, self.snapshot.get(&step.object)).await?;
                    if outcome == Outcome::Changed {
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    let superseded = (outcome == Outcome::Superseded).then(|| step.object.clone());
                    done(listen, index, step, outcome);
                    Ok::<_, RunError>(superseded)
                }
            })
            .buffer_unordered(options.concurrency.max(1))
            .try_collect()
            .await?;
        let summary = RunSummary {
            written: written.into_inner(),
            superseded: superseded.into_iter().flatten().collect(),
            writing: started.elapsed(),
        };
        if !summary.superseded.is_empty() {
            return Ok(summary);
        }
        stream::iter(waits)
            .map(|step| async move {
                let waited = wait(self.cluster, index, step, options.wait, listen);
                tokio::select! {
                    waited = waited => waited?,
                    () = options.stop.cancelled() => return Err(RunError::Interrupted),
                }
                done(listen, index, step, Outcome::Held);
                Ok::<_, RunError>(())
            })
            .buffer_unordered(options.concurrency.max(1))
            .try_collect::<Vec<()>>()
            .await?;
        listen(Event::StageDone {
            index,
            took: started.elapsed(),
        });
        Ok(summary)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.options.stop.is_cancelled()
    }
}

fn done(listen: Listener<'_>, index: usize, step: &Step, outcome: Outcome) {
    listen(Event::StepDone {
        index,
        object: step.object.clone(),
        action: step.action.name(),
        outcome,
    });
}

/// Polls until the step's condition holds, at growing intervals.
pub(crate) async fn wait(
    cluster: &Cluster,
    index: usize,
    step: &Step,
    deadline: Duration,
    listen: Listener<'_>,
) -> Result<(), RunError> {
    let Action::Wait { condition } = &step.action else {
        return Ok(());
    };
    let key = &step.object;
    let until = Instant::now() + deadline;
    let mut interval = Duration::from_millis(20);
    let mut told = String::new();
    loop {
        let progress = match check(cluster, key, *condition).await {
            Ok(Health::Complete) => return Ok(()),
            Ok(Health::Failed(progress)) => {
                return Err(RunError::ConditionFailed {
                    object: key.clone(),
                    progress: reason::explain(cluster, key, progress).await,
                });
            }
            Ok(Health::Progressing(progress)) => progress,
            // A read that fails is no reason to give the wait up before its time.
            Err(error) => error.to_string(),
        };
        if progress != told {
            listen(Event::Waiting {
                index,
                object: key.clone(),
                progress: progress.clone(),
            });
            told.clone_from(&progress);
        }
        if Instant::now() >= until {
            return Err(RunError::WaitForCondition {
                object: key.clone(),
                condition: *condition,
                seconds: deadline.as_secs(),
                progress: reason::explain(cluster, key, progress).await,
            });
        }
        tokio::time::sleep(interval).await;
        interval = (interval * 2).min(Duration::from_secs(1));
    }
}

async fn check(
    cluster: &Cluster,
    key: &ObjectKey,
    condition: Condition,
) -> Result<Health, cluster::ReadError> {
    if condition == Condition::Served {
        cluster.rediscover().await?;
        return Ok(Health::Complete);
    }
    let Some(object) = cluster.get(key).await? else {
        return Ok(match condition {
            Condition::Stopped | Condition::Gone => Health::Complete,
            _ => Health::Progressing("it does not exist yet".into()),
        });
    };
    match condition {
        Condition::Established => match health::crd_established(&object) {
            Health::Complete if !is_served(cluster, &object).await? => {
                Ok(Health::Progressing("its resource is not served yet".into()))
            }
            health => Ok(health),
        },
        Condition::RolledOut => match health::rollout(&object) {
            Health::Progressing(progress) => {
                let pods = pods(cluster, &object).await?;
                let mut words = vec![progress];
                words.extend(health::trouble_of(&object, &pods));
                Ok(Health::Progressing(words.join("; ")))
            }
            health => Ok(health),
        },
        Condition::Stopped => Ok(health::stopped(&object, &pods(cluster, &object).await?)),
        Condition::Served => Ok(Health::Complete),
        Condition::Gone => Ok(health::gone(&object)),
    }
}

/// Whether the API server serves what a CustomResourceDefinition defines: it says that it is established a moment earlier.
async fn is_served(cluster: &Cluster, definition: &Object) -> Result<bool, cluster::ReadError> {
    let text = |pointer| definition.get_str(pointer).unwrap_or_default();
    cluster
        .serves(text("/spec/group"), text("/spec/names/kind"))
        .await
}

/// The pods of a workload, by its selector.
pub(crate) async fn pods(cluster: &Cluster, workload: &Object) -> Result<Vec<Object>, cluster::ReadError> {
    let selector = workload
        .get("/spec/selector/matchLabels")
        .and_then(serde_json::Value::as_object)
        .map(|labels| {
            let pairs: Vec<_> = labels
                .iter()
                .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
                .collect();
            pairs.join(",")
        })
        .unwrap_or_default();
    cluster
        .list("", "Pod", workload.namespace(), Some(&selector))
        .await
}
