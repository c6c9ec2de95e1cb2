//! One reconciliation: read, decide, publish, and carry out what may be carried out. It is the same whatever led to it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use cluster::{
    Cluster,
    encryption::Encryption,
    store::{self, Location},
};
use engine::{
    Claimant, Clock, Journal, Lease, Prepared, RUN_LEASE, Report as RunReport, Session, SessionError, Stop,
};
use object::{Object, drift::DriftPolicy};
use release::Releases;
use serde_json::{Map, Value, json};
use upgrade::{
    Finding, Install, Options, Outline, Plan, ServedResource, Severity, Snapshot,
    health::{self, Health},
    plan::digest_value,
    reasons,
};

use super::{
    HOLDER, decides,
    follower::{Follower, Progress},
    log,
    metrics::Metrics,
    publish::{self, PublishError, Publisher},
    report::{Condition, Phase, Report},
    watch::{APPROVAL, APPROVED_PLAN, DRIFT, NAMESPACE},
};
use crate::{
    commands::{
        Waits, backup, read_error,
        run::Stopped,
        session,
        upgrade_command::{Failed, execute},
    },
    output,
};

/// How many backups of repairs (drift that was put back, settings that were followed) are kept. Those of upgrades are
/// never removed.
const REPAIRS: usize = 3;
/// How the IDs of their backups begin.
const REPAIR: &str = "repair-";

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
    /// Who this replica is.
    pub holder: String,
    /// What the release is, and what the API server served, when last looked at.
    pub outline: Outline,
    pub served: Vec<ServedResource>,
    /// When drift was put back lately.
    pub put_back: Vec<Instant>,
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
        let asked = self.cluster.get(&key).await?;
        // Somebody with a command line; looking at what changes meanwhile would only be in the way.
        let clock: Clock = Arc::new(jiff::Timestamp::now);
        if let Some(held) = Lease::held(&self.cluster, &clock, self.claimant()).await? {
            self.say(&format!("somebody else is at work: {held}"));
            return Ok(("held", Next::Retry));
        }
        let options = Options {
            now: Some(jiff::Timestamp::now().as_second()),
            install: Install::WhereAbsent,
            ..Options::default()
        };
        let options = decides(asked.as_ref(), options);
        let overwrites = options.drift == DriftPolicy::Overwrite;
        let (cluster, releases) = (self.cluster.clone(), self.releases.clone());
        let mut session = session(&cluster, &releases, options, self.waits);
        session.run.stop = self.stop.clone();
        let prepared = engine::prepare(&session).await?;
        self.served.clone_from(&prepared.snapshot.served);
        self.outline = upgrade::outline(&prepared.snapshot, &releases, &session.options);
        self.metrics.found(prepared.findings());
        let Some(configuration) = prepared.snapshot.objects.get(&key).cloned() else {
            self.say("there is no ClusterConfiguration ks-installer in namespace kubesphere-system yet");
            return Ok(("absent", Next::Settled));
        };
        let spec = digest_value(configuration.get("/spec").unwrap_or(&Value::Null));
        // What is wrong with the settings is told also where there is nothing else to do.
        let is_understood =
            self.outline.is_whole && prepared.blockers().all(|f| f.object.as_ref() != Some(&key));
        let Some(plan) = prepared.decision.plan.clone().filter(|_| is_understood) else {
            return self.blocked(&configuration, &spec, &prepared).await;
        };
        // At the release already, and nobody asked for anything since: then somebody changed what the release set.
        let text = |pointer: &str| configuration.get_str(pointer).unwrap_or_default();
        let nothing_is_asked = plan.from == plan.to
            && text("/status/specSHA256") == spec
            && text("/status/phase") == Phase::Running.name()
            && text("/status/installer") == env!("CARGO_PKG_VERSION")
            && Journal::read(&cluster).await?.unfinished().is_none();
        let digest = publish::digest(&plan);
        let approved = is_approved(&configuration, &digest, &self.outline.settings);
        if plan.is_empty() || nothing_is_asked && !overwrites && !approved {
            let findings = upgrade::verify_upgrade(None, &prepared.snapshot, &releases, &session.options);
            return self
                .in_place(&configuration, &spec, &plan, &prepared, findings)
                .await;
        }
        if prepared.blockers().next().is_some() {
            return self.blocked(&configuration, &spec, &prepared).await;
        }
        if configuration.annotation(APPROVAL) == Some("manual") && !approved {
            return self
                .awaiting(&configuration, &spec, &plan, &digest, &prepared)
                .await;
        }
        if nothing_is_asked {
            self.put_back.push(Instant::now());
        }
        Box::pin(self.carry_out(&session, &configuration, &spec, plan, prepared)).await
    }

    fn claimant(&self) -> Claimant {
        Claimant {
            lease: RUN_LEASE.to_owned(),
            holder: self.holder.clone(),
            // Only the leader runs: whoever of its kind has the claim led before it.
            replaces: Some(HOLDER.to_owned()),
            stands_by: false,
        }
    }

    /// How long to let somebody finish who is changing what the release set. Whoever keeps changing it, an autoscaler perhaps,
    /// is put right ever more seldom.
    pub(super) fn calm(&mut self) -> Duration {
        const LATELY: Duration = Duration::from_mins(15);
        self.put_back.retain(|time| time.elapsed() < LATELY);
        let times = u32::try_from(self.put_back.len()).unwrap_or(u32::MAX).min(7);
        Duration::from_secs(3) * 2_u32.pow(times)
    }

    /// What is published beside the conditions: the components, and which installer looked.
    fn details(&self, snapshot: &Snapshot) -> Map<String, Value> {
        let mut components = Vec::new();
        for (name, workloads) in &self.outline.workloads {
            let states: Vec<Health> = workloads
                .iter()
                .map(|key| {
                    let absent = || Health::Progressing(format!("{key} does not exist"));
                    snapshot.get(key).map_or_else(absent, health::rollout)
                })
                .collect();
            let complete = states.iter().filter(|state| **state == Health::Complete).count();
            let trouble = states.iter().find_map(|state| match state {
                Health::Failed(words) => Some(("Failed", words.clone())),
                _ => None,
            });
            let progress = states.iter().find_map(|state| match state {
                Health::Progressing(words) => Some(("Progressing", words.clone())),
                _ => None,
            });
            let (state, message) = trouble.or(progress).unwrap_or(("Running", String::new()));
            self.metrics.component(name, complete == states.len());
            components.push(json!({
                "name": name, "state": state, "message": message,
                "ready": format!("{complete}/{}", states.len()),
            }));
        }
        Map::from_iter([
            ("components".to_owned(), components.into()),
            ("installer".to_owned(), env!("CARGO_PKG_VERSION").into()),
        ])
    }

    fn say_in_place(&mut self, snapshot: &Snapshot, version: &str) {
        let configuration = snapshot.get(&upgrade::cluster_configuration_key());
        for task in configuration.map(log::tasks).unwrap_or_default() {
            tracing::info!("{task}");
        }
        let welcome = log::welcome(snapshot, version);
        if self.log_lines {
            output::print(&welcome);
        } else {
            tracing::info!("{welcome}");
        }
    }

    /// The release is in place. What of it somebody changed since is told, and stays.
    async fn in_place(
        &mut self,
        configuration: &Object,
        spec: &str,
        plan: &Plan,
        prepared: &Prepared,
        findings: Vec<Finding>,
    ) -> Result<(&'static str, Next), Trouble> {
        self.metrics.found(&findings);
        let objects: BTreeSet<String> = plan
            .steps()
            .filter(|step| !matches!(step.action, upgrade::Action::Wait { .. }))
            .map(|step| step.object.to_string())
            .chain(
                prepared
                    .decision
                    .drift
                    .iter()
                    .map(|drift| drift.object.to_string()),
            )
            .collect();
        self.metrics.drifted(objects.len());
        let was = configuration
            .get_str("/status/phase")
            .unwrap_or_default()
            .to_owned();
        let mut report = in_place(spec, &plan.to, &findings);
        report.details = self.details(&prepared.snapshot);
        let healthy = is_healthy(&findings);
        let (result, next) = if healthy {
            ("settled", Next::Settled)
        } else {
            ("unhealthy", Next::Patience)
        };
        if objects.is_empty() {
            self.publisher.status(&report).await?;
            if was != Phase::Running.name() {
                self.say_in_place(&prepared.snapshot, &plan.to);
            }
            self.say(&format!("KubeSphere is at {}", plan.to));
            return Ok((result, next));
        }
        let names: Vec<String> = objects.into_iter().collect();
        let message = format!(
            "changed since the release was installed: {}; what is changed stays. Annotation {DRIFT}=overwrite puts it back",
            output::text::shorten(&names)
        );
        report.conditions.retain(|condition| condition.kind != "Drifted");
        report.conditions.push(Condition::new(
            "Drifted",
            true,
            "ChangedByOthers",
            message.clone(),
        ));
        let is_new = self.publisher.status(&report).await?;
        if is_new {
            self.publisher
                .event(configuration, true, "Drifted", &message)
                .await;
        }
        self.say(&format!("drift: {message}"));
        Ok((if healthy { "drifted" } else { result }, next))
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
                (first.reason.clone(), format!("{}{more}", in_words(first)))
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
            details: self.details(&prepared.snapshot),
        }
        .with("plan", Value::Null)
        .with("stages", Value::Null);
        if self.publisher.status(&report).await? {
            self.publisher.event(configuration, true, &reason, &message).await;
        }
        self.say(&format!("blocked, nothing was written: {message}"));
        Ok(("blocked", Next::Patience))
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
            .plan(configuration, plan, digest, prepared.findings())
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
            details: self.details(&prepared.snapshot),
        }
        .with("plan", summary(plan, digest, &self.outline.settings))
        .with("stages", Value::Null);
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
        // A run that goes on with one that was approved has a smaller plan, and is approved by the same word.
        let approved = configuration.annotation(APPROVED_PLAN);
        let manual = configuration.annotation(APPROVAL) == Some("manual");
        let digest = match approved.filter(|_| manual) {
            Some(approved) => approved.to_owned(),
            None => publish::digest(&plan),
        };
        self.publisher
            .plan(configuration, &plan, &digest, prepared.findings())
            .await?;
        let follower = Follower::new(Arc::clone(&self.metrics), &plan);
        let details = self
            .details(&prepared.snapshot)
            .into_iter()
            .chain([("plan".to_owned(), summary(&plan, &digest, &self.outline.settings))])
            .collect::<Map<_, _>>();
        let begun = |phase: Phase, progress: &Progress| {
            Report {
                phase,
                progress: progress.now.clone(),
                spec: spec.to_owned(),
                conditions: vec![
                    Condition::new("Preflight", true, "Passed", "nothing stands in the way"),
                    Condition::new("Progressing", true, "Upgrading", progress.now.clone()),
                    Condition::new("Degraded", false, "Upgrading", ""),
                ],
                details: details.clone(),
            }
            .with("stages", follower.stages(progress))
        };
        self.publisher
            .status(&begun(Phase::Upgrading, &follower.last()))
            .await?;
        let words = if plan.from == plan.to {
            format!("{} is brought to what its settings say", plan.to)
        } else {
            format!("from {} to {}", plan.from, plan.to)
        };
        tracing::info!("upgrading: {words}");
        self.publisher
            .event(configuration, false, "Upgrading", &words)
            .await;

        let target = Self::backup_target(&plan);
        let location = target.location.to_string();
        let claimant = self.claimant();
        let work = async {
            let done = Box::pin(execute(session, prepared, target, claimant, &follower)).await;
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
        // An installation has no earlier state that could be lost.
        let backed_up = if plan.is_installation() {
            Condition::new(
                "BackedUp",
                false,
                "NothingToBackUp",
                "this was installed where nothing was",
            )
        } else {
            Condition::new(
                "BackedUp",
                true,
                "Verified",
                format!("read back and verified: {location}"),
            )
        };
        match done {
            Ok(outcome) => {
                let mut report = begun(Phase::Running, &follower.last());
                report.conditions = vec![backed_up];
                self.finished(configuration, &plan, &outcome.report, report).await
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
                let mut report = begun(Phase::Retrying, &follower.last());
                report.conditions = vec![
                    Condition::new(
                        "Progressing",
                        true,
                        "Retrying",
                        "the run stopped and is tried again",
                    ),
                    Condition::new("Degraded", true, reason, message.clone()),
                ];
                report.conditions.extend(has_backup.then_some(backed_up));
                self.publisher.status(&report).await?;
                self.publisher.event(configuration, true, reason, &message).await;
                self.say(&message);
                Ok(("failed", Next::Retry))
            }
        }
    }

    /// Backups are kept in the cluster, next to what they are of. Those of upgrades stay until somebody deletes them.
    fn backup_target(plan: &Plan) -> backup::Target {
        let place = Location::Secret {
            namespace: NAMESPACE.to_owned(),
            id: None,
        };
        let mut location = place.for_new_backup(jiff::Timestamp::now(), false);
        if let Location::Secret { id: Some(id), .. } = &mut location
            && plan.from == plan.to
        {
            id.insert_str(0, REPAIR);
        }
        backup::Target {
            location,
            encryption: Encryption::default(),
        }
    }

    /// Removes the oldest backups of repairs. One that cannot be removed now can be the next time.
    async fn tidy(&self) {
        let place = Location::Secret {
            namespace: NAMESPACE.to_owned(),
            id: None,
        };
        let is_repair = |location: &Location| matches!(location, Location::Secret { id: Some(id), .. } if id.starts_with(REPAIR));
        let tidied = async {
            let found = store::list(Some(&self.cluster), &place).await?;
            let repairs: Vec<_> = found
                .into_iter()
                .map(|listed| listed.location)
                .filter(is_repair)
                .collect();
            let too_many = repairs.len().saturating_sub(REPAIRS);
            for location in &repairs[..too_many] {
                store::delete(Some(&self.cluster), location).await?;
            }
            Ok::<_, store::StoreError>(())
        };
        if let Err(error) = tidied.await {
            tracing::warn!(%error, "old backups of repairs were not removed");
        }
    }

    /// `report` holds what is known of the run.
    async fn finished(
        &mut self,
        configuration: &Object,
        plan: &Plan,
        run: &RunReport,
        mut report: Report,
    ) -> Result<(&'static str, Next), Trouble> {
        self.metrics.found(&run.findings);
        self.metrics.drifted(0);
        let snapshot = self.cluster.snapshot(&cluster::Scope::upgrade()).await?;
        self.served.clone_from(&snapshot.served);
        // The run may have moved settings to where the release reads them.
        let now = snapshot.get(&configuration.key());
        let spec = now.and_then(|now| now.get("/spec")).map(digest_value);
        let done = in_place(&spec.unwrap_or(report.spec), &plan.to, &run.findings);
        report.details.extend(self.details(&snapshot));
        if let Some(stages) = report.details.get_mut("stages").and_then(Value::as_array_mut) {
            for stage in stages {
                stage["state"] = "Done".into();
            }
        }
        report = Report {
            conditions: report.conditions.into_iter().chain(done.conditions).collect(),
            details: report.details,
            ..done
        };
        self.publisher.status(&report).await?;
        if now.is_some_and(|now| now.annotation(APPROVED_PLAN).is_some()) {
            // It was for this plan. What comes next, also if it is the same once more, is approved anew.
            let used = json!({"metadata": {"annotations": {APPROVED_PLAN: Value::Null}}});
            self.cluster
                .merge_patch(&configuration.key(), &used)
                .await
                .map_err(PublishError::from)?;
        }
        self.tidy().await;
        let words = format!(
            "{} written in {}",
            output::text::count(run.written, "object"),
            output::text::duration(run.took)
        );
        if !run.is_verified() {
            let trouble = run.findings.first().map(in_words).unwrap_or_default();
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
        tracing::info!("{message}");
        self.say_in_place(&snapshot, &plan.to);
        Ok(("upgraded", Next::Settled))
    }
}

/// Whether somebody approved this plan, or the one that it goes on with: a run that was cut leaves a plan with fewer steps and
/// so with another digest. That holds as long as the settings say what they said then.
fn is_approved(configuration: &Object, digest: &str, settings: &str) -> bool {
    let Some(approved) = configuration.annotation(APPROVED_PLAN) else {
        return false;
    };
    let text = |pointer: &str| configuration.get_str(pointer).unwrap_or_default();
    let goes_on = ["Upgrading", "Retrying"].contains(&text("/status/phase"))
        && text("/status/plan/digest") == approved
        && text("/status/plan/settings") == settings;
    approved == digest || goes_on
}

fn is_healthy(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.severity != Severity::Blocker)
}

/// `Deployment a/b: it does not roll out`
fn in_words(finding: &Finding) -> String {
    match &finding.object {
        Some(object) => format!("{object}: {}", finding.message),
        None => finding.message.clone(),
    }
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
        |finding| (finding.reason.clone(), in_words(finding)),
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
        details: Map::new(),
    }
}

/// Digest and size of a plan, and who loses permissions by it.
fn summary(plan: &Plan, digest: &str, settings: &str) -> Value {
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
        "settings": settings,
        "from": plan.from,
        "to": plan.to,
        "writes": plan.writes(),
        "losePermissions": losing.len(),
        "losePermissionsAmongThem": some,
        "details": format!("ConfigMap {NAMESPACE}/{}", publish::plan_key().name),
    })
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
