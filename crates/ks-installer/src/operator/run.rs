//! Carries out what a reconciliation decided, and tells of it as it goes.

use std::{collections::BTreeSet, sync::Arc};

use cluster::{
    ErrorClass,
    encryption::Encryption,
    store::{self, Location},
};
use engine::{Journal, Prepared, Report as RunReport, RunKind, Session, SessionError};
use object::Object;
use serde_json::{Map, Value, json};
use upgrade::{Plan, plan::digest_value};

use super::{
    follower::{Follower, Progress},
    publish::{self, PublishError},
    reconcile::{Next, Reconciler, Trouble, in_place, in_words},
    report::{Condition, Phase, Report},
    watch::{APPROVAL, APPROVED_PLAN, NAMESPACE},
};
use crate::{
    commands::{
        backup,
        run::Stopped,
        upgrade_command::{Failed, execute},
    },
    output,
};

/// How many backups of repairs (drift that was put back, settings that were followed, an upgrade that is tried again) are kept.
const REPAIRS: usize = 3;
/// How the IDs of their backups begin.
const REPAIR: &str = "repair-";

impl Reconciler {
    pub(super) async fn carry_out(
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
        let (reason, words) = match plan.from == plan.to {
            _ if plan.is_installation() => ("Installing", plan.to.clone()),
            true => (
                "Upgrading",
                format!("{} is brought to what its settings say", plan.to),
            ),
            false => ("Upgrading", format!("from {} to {}", plan.from, plan.to)),
        };
        tracing::info!("{}: {words}", reason.to_lowercase());
        self.publisher.event(configuration, false, reason, &words).await;

        let journal = Journal::read(&self.cluster).await?;
        let is_first = plan.from != plan.to && journal.continued_by(RunKind::Upgrade, &plan.to).is_none();
        let target = backup_target(is_first);
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
                let next = next_of(&failed);
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
                self.tidy().await;
                Ok(("failed", next))
            }
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

/// Backups are kept in the cluster, next to what they are of. The first before an upgrade, to which a rollback leads, stays until
/// somebody deletes it.
fn backup_target(is_first: bool) -> backup::Target {
    let place = Location::Secret {
        namespace: NAMESPACE.to_owned(),
        id: None,
    };
    let mut location = place.for_new_backup(jiff::Timestamp::now(), false);
    if let Location::Secret { id: Some(id), .. } = &mut location
        && !is_first
    {
        id.insert_str(0, REPAIR);
    }
    backup::Target {
        location,
        encryption: Encryption::default(),
    }
}

/// What comes after a run that stopped: a wait in vain and a refusal have to be resolved by somebody.
fn next_of(failed: &Failed) -> Next {
    match failed {
        Failed::Stopped(Stopped::Failed(SessionError::Run(error)), _) if error.is_unmet_wait() => {
            Next::Patience
        }
        Failed::Stopped(Stopped::Failed(SessionError::Run(engine::RunError::WriteObject(error))), _)
            if !error.class().is_transient() && *error.class() != ErrorClass::Conflict =>
        {
            Next::Patience
        }
        _ => Next::Retry,
    }
}

/// Digest and size of a plan, and who loses permissions by it.
pub(super) fn summary(plan: &Plan, digest: &str, settings: &str) -> Value {
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
