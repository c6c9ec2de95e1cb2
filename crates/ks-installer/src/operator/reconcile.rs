//! One reconciliation: read, decide, publish, and carry out what may be carried out. It is the same whatever led to it.

use std::{
    collections::BTreeMap,
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use cluster::{Cluster, ErrorClass};
use engine::{Claimant, Clock, Journal, Lease, LeaseError, Prepared, RUN_LEASE, Stop};
use object::{Object, ObjectKey, drift::DriftPolicy};
use release::Releases;
use serde_json::{Map, Value, json};
use upgrade::{
    Finding, Install, Options, Outline, Plan, ServedResource, Severity, Snapshot,
    health::{self, Health},
    plan::digest_value,
    reasons,
};

use super::{
    HOLDER, decides, log,
    metrics::Metrics,
    publish::{self, PublishError, Publisher},
    report::{Condition, Phase, Report},
    run::summary,
    watch::{self, APPROVAL, APPROVED_PLAN, DRIFT, NAMESPACE},
};
use crate::{
    commands::{Waits, read_error, session},
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
    pub publisher: Publisher,
    pub metrics: Arc<Metrics>,
    pub stop: Stop,
    pub waits: Waits,
    pub log_lines: bool,
    /// Who this replica is.
    pub holder: String,
    /// What the release is, and what the API server served, when last looked at.
    pub outline: Outline,
    /// The versions that these objects had when it last looked.
    pub seen: BTreeMap<ObjectKey, String>,
    pub served: Vec<ServedResource>,
    /// When drift was put back lately.
    pub put_back: Vec<Instant>,
    /// What was said last, so that nothing is logged again and again.
    pub said: String,
}

/// Why a reconciliation came to no end.
pub(super) enum Trouble {
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

impl Trouble {
    /// What passes by itself is worth trying again soon; a refusal has to be resolved by somebody. Who was overtaken, and who
    /// found a kind gone, looks at once at what is there now.
    fn next(&self) -> Next {
        let class = match self {
            Self::Read(error) | Self::Publish(PublishError::Read(error)) => error.class(),
            Self::Publish(PublishError::Write(error)) => error.class(),
        };
        match class {
            ErrorClass::Conflict | ErrorClass::NotFound | ErrorClass::NotServed | ErrorClass::Expired => {
                Next::Retry
            }
            class if class.is_transient() => Next::Retry,
            _ => Next::Patience,
        }
    }
}

impl Reconciler {
    pub(super) async fn reconcile(&mut self) -> Next {
        let started = Instant::now();
        let (result, next) = match self.attempt().await {
            Ok((result, next)) => (result, next),
            Err(trouble) => {
                let next = trouble.next();
                let message = match trouble {
                    Trouble::Read(error) => format!("{:#}", read_error(error)),
                    Trouble::Publish(error) => error.to_string(),
                };
                self.say(&format!("cannot reconcile: {message}"));
                ("error", next)
            }
        };
        self.metrics.reconciled(result, started.elapsed().as_secs_f64());
        next
    }

    pub(super) fn say(&mut self, message: &str) {
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
            if let LeaseError::Held { holder, .. } = &held {
                self.say(&format!("somebody else is at work: {holder}"));
            }
            return Ok(("held", Next::Retry));
        }
        // Not kept from one time to the next: the operator idles for months, and this takes a moment.
        let Ok(releases) = Releases::embedded() else {
            return Ok(("error", Next::Patience));
        };
        let options = Options {
            now: Some(jiff::Timestamp::now().as_second()),
            install: Install::WhereAbsent,
            ..Options::default()
        };
        let options = decides(asked.as_ref(), &releases, options);
        let overwrites = options.drift == DriftPolicy::Overwrite;
        let cluster = self.cluster.clone();
        let mut session = session(&cluster, &releases, options, self.waits);
        session.run.stop = self.stop.clone();
        let prepared = engine::prepare(&session).await?;
        self.served.clone_from(&prepared.snapshot.served);
        self.outline = Outline::clone(&prepared.decision.outline);
        self.seen = watch::versions(&prepared.snapshot, &self.outline);
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
            let findings = upgrade::verify_in_place(
                &prepared.snapshot,
                &releases,
                &session.options,
                &prepared.decision,
            );
            let ended = self
                .in_place(&configuration, &spec, &plan, &prepared, findings)
                .await;
            drop(session);
            // Tens of megabytes in small pieces: the next edit need not wait for that.
            tokio::task::spawn_blocking(move || drop((prepared, releases)));
            return ended;
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

    pub(super) fn claimant(&self) -> Claimant {
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
    pub(super) fn details(&self, snapshot: &Snapshot) -> Map<String, Value> {
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

    pub(super) fn say_in_place(&mut self, snapshot: &Snapshot, version: &str) {
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
pub(super) fn in_words(finding: &Finding) -> String {
    match &finding.object {
        Some(object) => format!("{object}: {}", finding.message),
        None => finding.message.clone(),
    }
}

/// What is said where the release is in place; a blocker among the findings says that not all of it runs.
pub(super) fn in_place(spec: &str, version: &str, findings: &[Finding]) -> Report {
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
