//! One reconciliation: read, decide, publish, and carry out what may be carried out. It is the same whatever led to it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cluster::{Cluster, encryption::Encryption, store::Location};
use engine::{Event, Journal, Prepared, Report as RunReport, Session, SessionError, Stop};
use object::{Object, ObjectKey, drift::DriftPolicy};
use release::Releases;
use serde_json::{Value, json};
use tokio::sync::Notify;
use upgrade::{
    Finding, Options, Plan, ServedResource, Severity,
    health::{self, Health},
    plan::digest_value,
    reasons,
};

use super::{
    log,
    metrics::Metrics,
    publish::{self, PublishError, Publisher},
    report::{Condition, Phase, Report},
    watch::{APPROVAL, APPROVED_PLAN, DRIFT, NAMESPACE},
};
use crate::{
    commands::{
        Waits, backup, read_error,
        run::{Follow, Stopped},
        session,
        upgrade_command::{Failed, execute},
    },
    output,
};

/// What comes after a reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing is to be done until something changes.
    Settled,
    /// It is worth trying again, the sooner the better, but not at once.
    Retry,
    /// Somebody has to do something; what they do may not be seen by a watch.
    Patience,
}

pub(super) struct Reconciler {
    pub cluster: Cluster,
    pub releases: Releases,
    pub publisher: Publisher,
    pub metrics: Arc<Metrics>,
    pub stop: Stop,
    pub waits: Waits,
    pub log_lines: bool,
    /// What the release set, and what the API server served, when last looked at.
    pub managed: BTreeSet<ObjectKey>,
    pub served: Vec<ServedResource>,
    /// What was said last, so that nothing is logged again and again.
    pub said: String,
}

/// Why a reconciliation came to no end.
enum Trouble {
    Read(cluster::ReadError),
    Publish(PublishError),
}

impl From<cluster::ReadError> for Trouble {
    fn from(error: cluster::ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<PublishError> for Trouble {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}

impl Reconciler {
    pub(super) async fn reconcile(&mut self) -> Next {
        let started = Instant::now();
        let (result, next) = match self.attempt().await {
            Ok((result, next)) => (result, next),
            Err(trouble) => {
                let message = match trouble {
                    Trouble::Read(error) => format!("{:#}", read_error(error)),
                    Trouble::Publish(error) => error.to_string(),
                };
                self.say(&format!("cannot reconcile: {message}"));
                ("error", Next::Retry)
            }
        };
        self.metrics.reconciled(result, started.elapsed().as_secs_f64());
        next
    }

    fn say(&mut self, message: &str) {
        if self.said != message {
            tracing::info!("{message}");
            message.clone_into(&mut self.said);
        }
    }

    async fn attempt(&mut self) -> Result<(&'static str, Next), Trouble> {
        let key = upgrade::cluster_configuration_key();
        let annotations = self.cluster.get(&key).await?;
        let overwrites = annotations.as_ref().and_then(|c| c.annotation(DRIFT)) == Some("overwrite");
        let options = Options {
            drift: if overwrites {
                DriftPolicy::Overwrite
            } else {
                DriftPolicy::default()
            },
            ..Options::default()
        };
        let (cluster, releases) = (self.cluster.clone(), self.releases.clone());
        let mut session = session(&cluster, &releases, options, self.waits);
        session.run.stop = self.stop.clone();
        let prepared = engine::prepare(&session).await?;
        self.served.clone_from(&prepared.snapshot.served);
        self.managed = upgrade::managed_objects(&prepared.snapshot, &releases, &session.options);
        self.metrics.found(prepared.findings());
        let Some(configuration) = prepared.snapshot.objects.get(&key).cloned() else {
            self.say("there is no ClusterConfiguration ks-installer in namespace kubesphere-system yet");
            return Ok(("absent", Next::Settled));
        };
        self.workloads(&prepared);

        let spec = digest_value(configuration.get("/spec").unwrap_or(&Value::Null));
        let Some(plan) = prepared
            .decision
            .plan
            .clone()
            .filter(|_| prepared.blockers().next().is_none())
        else {
            return self.blocked(&configuration, &spec, &prepared).await;
        };
        if plan.is_empty() {
            self.metrics.drifted(0);
            let findings = upgrade::verify_upgrade(None, &prepared.snapshot, &releases, &session.options);
            let report = in_place(&spec, &plan.to, &findings);
            let changed = self.publisher.status(&report).await?;
            if changed {
                self.say_in_place(&configuration, &prepared, &plan.to);
            }
            let healthy = findings
                .iter()
                .all(|finding| finding.severity != Severity::Blocker);
            return Ok(if healthy {
                ("settled", Next::Settled)
            } else {
                ("unhealthy", Next::Patience)
            });
        }
        // At the release already, and nobody asked for anything else: then somebody changed what the release set.
        let asked_for = configuration.get_str("/status/specSHA256") == Some(&spec)
            && plan.from == plan.to
            && Journal::read(&cluster).await?.unfinished().is_none();
        if asked_for && !overwrites {
            return self.drifted(&configuration, &spec, &plan, &prepared).await;
        }
        self.metrics.drifted(0);
        let digest = publish::digest(&plan);
        let is_manual = configuration.annotation(APPROVAL) == Some("manual");
        if is_manual && configuration.annotation(APPROVED_PLAN) != Some(&digest) {
            return self
                .awaiting(&configuration, &spec, &plan, &digest, &prepared)
                .await;
        }
        self.carry_out(&session, &configuration, &spec, plan, prepared)
            .await
    }

    fn workloads(&self, prepared: &Prepared) {
        for deployment in prepared.snapshot.of_kind("apps", "Deployment") {
            let key = deployment.key();
            if self.managed.contains(&key) {
                self.metrics
                    .workload(&key, health::rollout(deployment) == Health::Complete);
            }
        }
    }

    fn say_in_place(&mut self, configuration: &Object, prepared: &Prepared, version: &str) {
        for task in log::tasks(configuration) {
            tracing::info!("{task}");
        }
        if self.log_lines {
            output::print(&log::welcome(&prepared.snapshot, version));
        }
        self.say(&format!("KubeSphere is at {version}"));
    }

    async fn blocked(
        &mut self,
        configuration: &Object,
        spec: &str,
        prepared: &Prepared,
    ) -> Result<(&'static str, Next), Trouble> {
        let blockers: Vec<&Finding> = prepared.blockers().collect();
        let (reason, message) = match blockers.as_slice() {
            [] => (
                reasons::NOT_INSTALLED.to_owned(),
                "no plan can be made".to_owned(),
            ),
            [first, rest @ ..] => {
                let more = match rest.len() {
                    0 => String::new(),
                    more => format!(" (and {more} more, see: ks-installer preflight)"),
                };
                (first.reason.clone(), format!("{}{more}", words(first)))
            }
        };
        let report = Report {
            phase: Phase::Blocked,
            progress: String::new(),
            spec: spec.to_owned(),
            conditions: vec![
                Condition::new("Preflight", false, reason.clone(), message.clone()),
                Condition::new("Progressing", false, "Blocked", "nothing was written"),
                Condition::new("Degraded", true, reason.clone(), message.clone()),
            ],
            plan: None,
        };
        if self.publisher.status(&report).await? {
            self.publisher.event(configuration, true, &reason, &message).await;
        }
        self.say(&format!("blocked, nothing was written: {message}"));
        Ok(("blocked", Next::Patience))
    }

    async fn drifted(
        &mut self,
        configuration: &Object,
        spec: &str,
        plan: &Plan,
        prepared: &Prepared,
    ) -> Result<(&'static str, Next), Trouble> {
        let objects: BTreeSet<String> = plan
            .steps()
            .filter(|step| !matches!(step.action, upgrade::Action::Wait { .. }))
            .map(|step| step.object.to_string())
            .collect();
        self.metrics.drifted(objects.len());
        let names: Vec<String> = objects.iter().cloned().collect();
        let message = format!(
            "changed since the release was installed: {}; they stay as they are. Annotation {DRIFT}=overwrite puts them back",
            output::text::shorten(&names)
        );
        let findings = prepared.findings();
        let mut report = in_place(spec, &plan.to, findings);
        report.conditions.push(Condition::new(
            "Drifted",
            true,
            "ChangedByOthers",
            message.clone(),
        ));
        report.plan = Some(json!({"digest": publish::digest(plan), "writes": plan.writes()}));
        self.publisher.status(&report).await?;
        let said = format!("drift: {message}");
        if self.said != said {
            self.publisher
                .event(configuration, true, "Drifted", &message)
                .await;
        }
        self.say(&said);
        Ok(("drifted", Next::Settled))
    }

    async fn awaiting(
        &mut self,
        configuration: &Object,
        spec: &str,
        plan: &Plan,
        digest: &str,
        prepared: &Prepared,
    ) -> Result<(&'static str, Next), Trouble> {
        self.publisher
            .plan(configuration, plan, prepared.findings())
            .await?;
        let message = format!(
            "the plan for {} writes {}; look at it in ConfigMap {}, and approve it with: kubectl -n {NAMESPACE} annotate --overwrite clusterconfiguration ks-installer {APPROVED_PLAN}={digest}",
            plan.to,
            output::text::count(plan.writes(), "object"),
            publish::plan_key().name,
        );
        let report = Report {
            phase: Phase::AwaitingApproval,
            progress: format!("0/{}", plan.stages.len()),
            spec: spec.to_owned(),
            conditions: vec![
                Condition::new("Preflight", true, "Passed", "nothing stands in the way"),
                Condition::new("Progressing", false, "AwaitingApproval", message.clone()),
                Condition::new("Degraded", false, "AwaitingApproval", ""),
            ],
            plan: Some(summary(plan, digest)),
        };
        if self.publisher.status(&report).await? {
            self.publisher
                .event(configuration, false, "AwaitingApproval", &message)
                .await;
        }
        self.say(&message);
        Ok(("awaiting approval", Next::Settled))
    }

    async fn carry_out(
        &mut self,
        session: &Session<'_>,
        configuration: &Object,
        spec: &str,
        plan: Plan,
        prepared: Prepared,
    ) -> Result<(&'static str, Next), Trouble> {
        let digest = publish::digest(&plan);
        self.publisher
            .plan(configuration, &plan, prepared.findings())
            .await?;
        let begun = |phase: Phase, progress: &str| Report {
            phase,
            progress: progress.to_owned(),
            spec: spec.to_owned(),
            conditions: vec![
                Condition::new("Preflight", true, "Passed", "nothing stands in the way"),
                Condition::new("Progressing", true, "Upgrading", progress),
                Condition::new("Degraded", false, "Upgrading", ""),
            ],
            plan: Some(summary(&plan, &digest)),
        };
        self.publisher
            .status(&begun(Phase::Upgrading, "0: backup"))
            .await?;
        let words = format!("from {} to {}", plan.from, plan.to);
        self.say(&format!("upgrading {words}"));
        self.publisher
            .event(configuration, false, "Upgrading", &words)
            .await;

        let follower = Follower::new(Arc::clone(&self.metrics), plan.stages.len());
        let place = Location::Secret {
            namespace: NAMESPACE.to_owned(),
            id: None,
        };
        let target = backup::Target {
            location: place.for_new_backup(jiff::Timestamp::now(), false),
            encryption: Encryption::default(),
        };
        let location = target.location.to_string();
        let work = async {
            let done = Box::pin(execute(session, prepared, target, &follower)).await;
            follower.end();
            done
        };
        let publisher = &self.publisher;
        let tell = async {
            while let Some(progress) = follower.next().await {
                if let Err(error) = publisher.status(&begun(Phase::Upgrading, &progress)).await {
                    tracing::warn!(%error, "the progress is not in the status");
                }
            }
        };
        let (done, ()) = futures::join!(work, tell);
        let backed_up = Condition::new(
            "BackedUp",
            true,
            "Verified",
            format!("read back and verified: {location}"),
        );
        match done {
            Ok(outcome) => {
                self.finished(configuration, spec, &plan, &outcome.report, backed_up)
                    .await
            }
            Err(Failed::Stopped(Stopped::Held(error), _)) => {
                self.say(&format!("somebody else is at work: {error}"));
                Ok(("held", Next::Retry))
            }
            Err(failed) => {
                let has_backup = matches!(&failed, Failed::Stopped(_, Some(_)));
                let is_stop = matches!(
                    &failed,
                    Failed::Stopped(
                        Stopped::Failed(SessionError::Run(engine::RunError::Interrupted)),
                        _
                    )
                );
                let message = format!("{:#}", anyhow::Error::from(failed));
                let reason = if is_stop { "Stopped" } else { "RunFailed" };
                let mut conditions = vec![
                    Condition::new(
                        "Progressing",
                        true,
                        "Retrying",
                        "the run stopped and is tried again",
                    ),
                    Condition::new("Degraded", true, reason, message.clone()),
                ];
                conditions.extend(has_backup.then_some(backed_up));
                let report = Report {
                    phase: Phase::Retrying,
                    conditions,
                    ..begun(Phase::Retrying, &follower.last())
                };
                self.publisher.status(&report).await?;
                self.publisher.event(configuration, true, reason, &message).await;
                self.say(&message);
                Ok(("failed", Next::Retry))
            }
        }
    }

    async fn finished(
        &mut self,
        configuration: &Object,
        spec: &str,
        plan: &Plan,
        run: &RunReport,
        backed_up: Condition,
    ) -> Result<(&'static str, Next), Trouble> {
        self.metrics.found(&run.findings);
        // The run may have moved settings to where the release reads them.
        let now = self.cluster.get(&configuration.key()).await?;
        let spec = now
            .as_ref()
            .and_then(|now| now.get("/spec"))
            .map_or_else(|| spec.to_owned(), digest_value);
        let mut report = in_place(&spec, &plan.to, &run.findings);
        report.conditions.push(backed_up);
        report.plan = Some(summary(plan, &publish::digest(plan)));
        self.publisher.status(&report).await?;
        let words = format!(
            "{} written in {}",
            output::text::count(run.written, "object"),
            output::text::duration(run.took)
        );
        if !run.is_verified() {
            let trouble = run.findings.first().map(words_of).unwrap_or_default();
            let message = format!("{words}, but not verified: {trouble}");
            self.publisher
                .event(configuration, true, "NotVerified", &message)
                .await;
            self.say(&message);
            return Ok(("not verified", Next::Patience));
        }
        let message = format!("KubeSphere is at {} and verified: {words}", plan.to);
        self.publisher
            .event(configuration, false, "Upgraded", &message)
            .await;
        self.say(&message);
        let snapshot = self.cluster.snapshot(&cluster::Scope::upgrade()).await?;
        if let Some(configuration) = snapshot.get(&configuration.key()).cloned() {
            for task in log::tasks(&configuration) {
                tracing::info!("{task}");
            }
        }
        if self.log_lines {
            output::print(&log::welcome(&snapshot, &plan.to));
        }
        Ok(("upgraded", Next::Settled))
    }
}

/// `Deployment a/b: it does not roll out`
fn words(finding: &Finding) -> String {
    match &finding.object {
        Some(object) => format!("{object}: {}", finding.message),
        None => finding.message.clone(),
    }
}

fn words_of(finding: &Finding) -> String {
    words(finding)
}

/// What is said where the release is in place; a blocker among the findings says that not all of it runs.
fn in_place(spec: &str, version: &str, findings: &[Finding]) -> Report {
    let trouble = findings
        .iter()
        .find(|finding| finding.severity == Severity::Blocker);
    let (reason, message) = trouble.map_or_else(
        || {
            (
                "Verified".to_owned(),
                format!("KubeSphere is at {version} and runs"),
            )
        },
        |finding| (finding.reason.clone(), words(finding)),
    );
    let runs = trouble.is_none();
    Report {
        phase: Phase::Running,
        progress: "done".to_owned(),
        spec: spec.to_owned(),
        conditions: vec![
            Condition::new("Preflight", true, "Passed", "nothing stands in the way"),
            Condition::new("Progressing", false, "Done", ""),
            Condition::new("Available", runs, reason.clone(), message.clone()),
            Condition::new(
                "Degraded",
                !runs,
                reason,
                if runs { String::new() } else { message },
            ),
            Condition::new("Drifted", false, "AsInstalled", ""),
        ],
        plan: None,
    }
}

/// Digest and size of a plan, and who loses permissions by it.
fn summary(plan: &Plan, digest: &str) -> Value {
    let losing: BTreeSet<&String> = plan
        .impact
        .subjects
        .iter()
        .filter(|subject| !subject.lost.is_empty())
        .map(|subject| &subject.name)
        .collect();
    let some: Vec<&&String> = losing.iter().take(20).collect();
    json!({
        "digest": digest,
        "from": plan.from,
        "to": plan.to,
        "writes": plan.writes(),
        "losePermissions": losing.len(),
        "losePermissionsAmongThem": some,
        "details": format!("ConfigMap {NAMESPACE}/{}", publish::plan_key().name),
    })
}

/// Follows a run: metrics and log lines at once, the status as soon as it can be written.
struct Follower {
    metrics: Arc<Metrics>,
    stages: usize,
    state: Mutex<Progress>,
    changed: Notify,
}

#[derive(Default)]
struct Progress {
    now: String,
    told: bool,
    ended: bool,
}

impl Follower {
    fn new(metrics: Arc<Metrics>, stages: usize) -> Self {
        Self {
            metrics,
            stages,
            state: Mutex::new(Progress {
                told: true,
                ..Progress::default()
            }),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.state().ended = true;
        self.changed.notify_one();
    }

    fn last(&self) -> String {
        self.state().now.clone()
    }

    /// The progress, when there is another one; `None` when the run has ended.
    async fn next(&self) -> Option<String> {
        loop {
            {
                let mut state = self.state();
                if state.ended {
                    return None;
                }
                if !state.told {
                    state.told = true;
                    return Some(state.now.clone());
                }
            }
            self.changed.notified().await;
        }
    }

    fn progress(&self, now: String) {
        tracing::info!("{now}");
        let mut state = self.state();
        state.now = now;
        state.told = false;
        drop(state);
        self.changed.notify_one();
    }
}

impl Follow for Follower {
    fn begin(&self, title: &str) {
        tracing::info!("{title}");
    }

    fn end(&self, outcome: &str) {
        tracing::info!("{outcome}");
    }

    fn note(&self, text: &str) {
        tracing::info!("{text}");
    }

    fn event(&self, event: Event) {
        self.metrics.event(&event);
        match event {
            Event::StageStarted { index, title, .. } => {
                self.progress(format!("{}/{} {title}", index + 1, self.stages));
            }
            Event::Waiting { object, progress, .. } => tracing::info!("waiting for {object}: {progress}"),
            Event::Retrying {
                object,
                message,
                after,
            } => tracing::warn!(
                "{object}: {message}; trying again in {:.1} s",
                after.as_secs_f64()
            ),
            Event::Replanning { objects } => tracing::info!(
                "{} changed meanwhile; planning again from what is there",
                output::text::count(objects.len(), "object")
            ),
            Event::AwaitingControllers { message } => {
                tracing::info!("all is written; waiting for KubeSphere's controllers: {message}");
            }
            _ => {}
        }
    }
}

/// How long to wait before the next try, after so many in a row: a fifth more or less, so that replicas and clusters do not
/// move in step.
pub(super) fn pause(next: Next, tries: u32) -> Option<Duration> {
    let (first, longest) = match next {
        Next::Settled => return None,
        Next::Retry => (Duration::from_secs(2), Duration::from_mins(2)),
        Next::Patience => (Duration::from_secs(30), Duration::from_mins(10)),
    };
    let doubled = first.saturating_mul(1_u32.checked_shl(tries.min(16)).unwrap_or(u32::MAX));
    Some(doubled.min(longest).mul_f64(rand::random_range(0.8..1.2)))
}
