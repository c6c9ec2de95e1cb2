//! `upgrade`: the one command that writes to a cluster.

use std::{io::IsTerminal as _, path::Path, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use cluster::store::Location;
use engine::{BackupEntry, Claimant, Prepared, Report, RunKind, Session, SessionError};
use serde_json::{Value, json};
use upgrade::{Backup, Plan};

use super::{
    Verdict, Waits,
    approve::{Approval, Asked, approve},
    backup, connect, drift, handover, read_error, read_plan, releases, rollback,
    run::{self, Follow, Stopped},
    session, with_hint,
};
use crate::{
    cli::{Format, Global, UpgradeArgs},
    output::{self, progress::Progress, text},
};

pub(super) async fn upgrade(global: &Global, args: UpgradeArgs) -> anyhow::Result<Verdict> {
    let saved = args.plan.as_deref().map(read_plan).transpose()?;
    let json = global.output == Format::Json;
    let (has_target, encrypts) = (args.backup.is_some(), args.encrypt.is_asked_for());
    let target = backup::Target::new(args.backup, Path::new("."), backup::encryption(&args.encrypt)?);
    if !args.yes && !std::io::stdin().is_terminal() {
        bail!(
            "upgrade asks before it writes, and there is nobody to ask\nhint: look at ks-installer plan, then add --yes"
        );
    }
    let mut options = args.decide.options();
    if let Some(saved) = &saved {
        options = as_planned(options, saved);
    }
    let cluster = connect(global).await?;
    let releases = releases()?;
    let leader = handover::leader(&cluster).await?;
    if let Some(leader) = &leader {
        handover::refuse_options(
            leader,
            &[
                ("--to", args.decide.to.is_some()),
                ("--drift", args.decide.drift.is_some()),
                ("--no-refresh-templates", args.decide.no_refresh_templates),
                (
                    "--allow-unsupported-kubernetes",
                    args.decide.allow_unsupported_kubernetes,
                ),
                ("--backup", has_target),
                ("--rollback-on-failure", args.rollback_on_failure),
                ("encryption", encrypts),
            ],
        )?;
        options = handover::options(&cluster, &releases, options).await?;
    }
    let waits = Waits {
        rollout: Duration::from_secs(args.wait),
        controllers: Duration::from_secs(args.wait_controllers),
    };
    let mut session = session(&cluster, &releases, options, waits);
    let prepared = drift::prepare(&mut session, args.decide.asks_about_drift()).await?;

    let asked = Asked {
        done: "upgraded",
        json,
        yes: args.yes,
        details: false,
        blocked: "Nothing was written. Resolve the blockers and run the upgrade again.",
        question: "A backup is made first.",
        edits: 0,
    };
    let is_saved = |plan: &Plan| {
        let Some(Err(differences)) = saved.as_ref().map(|saved| saved.check_permits(plan)) else {
            return Ok(None);
        };
        let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
        let words = format!(
            "Nothing was written: the saved plan is not what would be done now.\n  - {}\nMake the plan again with: ks-installer plan --save FILE",
            lines.join("\n  - ")
        );
        let why = "the saved plan no longer fits";
        asked
            .refuse(&words, why, Some(lines.into()), prepared.findings())
            .map(Some)
    };
    let plan = match approve(&prepared, &asked, is_saved)? {
        Approval::Given(plan) => plan,
        Approval::Ended(verdict) => return Ok(verdict),
    };
    if plan.is_empty() {
        run::close_journal(&cluster).await;
        // Nothing is written, so what was just read is what there is.
        let findings = upgrade::verify_in_place(
            &prepared.snapshot,
            &releases,
            &session.options,
            &prepared.decision,
        );
        let verified = findings.iter().all(|f| f.severity != upgrade::Severity::Blocker);
        if json {
            output::json(
                &json!({"upgraded": verified, "written": 0, "verified": verified, "findings": findings}),
            )?;
        } else {
            output::print(&format!(
                "\nThere is nothing to do: KubeSphere is at {}.\n",
                plan.to
            ));
            output::print(&text::findings(&findings));
        }
        return Ok(if verified { Verdict::Done } else { Verdict::Refused });
    }
    if leader.is_some() {
        if !json {
            output::note(
                "The operator in the cluster does it; interrupting this command does not interrupt it.",
            );
        }
        let ended = handover::hand_over(&cluster, plan, !json).await?;
        return ended.report(("upgraded", "upgrade"), json);
    }
    let outcome = match execute(&session, prepared, target, run::claimant(), &Progress::new(!json)).await {
        Ok(outcome) => match &outcome.made {
            Some(made) if args.rollback_on_failure && !outcome.report.is_verified() => {
                if !json {
                    output::print(&outcome.to_text());
                }
                return go_back(&session, made, waits, "verification failed", json).await;
            }
            _ => outcome,
        },
        Err(Failed::Stopped(Stopped::Held(error), _)) => return asked.held(&error),
        Err(Failed::Stopped(Stopped::Failed(error), Some(made))) if args.rollback_on_failure => {
            let why = format!("{:#}", session_error(error));
            output::note(&format!("error: {why}"));
            return go_back(&session, &made, waits, &why, json).await;
        }
        Err(failed) => return Err(failed.into()),
    };
    if json {
        output::json(&outcome.to_json())?;
    } else {
        output::print(&outcome.to_text());
    }
    Ok(if outcome.report.is_verified() {
        Verdict::Done
    } else {
        Verdict::Refused
    })
}

/// The options of a saved plan, among them what was answered when it was made. What may be said anew goes before it.
fn as_planned(options: upgrade::Options, saved: &Plan) -> upgrade::Options {
    upgrade::Options {
        target: options.target.or_else(|| Some(saved.to.clone())),
        allow_unsupported_kubernetes: options.allow_unsupported_kubernetes
            || saved.options.allow_unsupported_kubernetes,
        now: options.now,
        ..saved.options.clone()
    }
}

/// What a whole upgrade came to.
pub(crate) struct Outcome {
    pub report: Report,
    pub to: String,
    /// `None` for an installation: there was nothing to back up.
    made: Option<Made>,
}

/// The backup that was made, as it is in memory.
pub(crate) struct Made {
    location: Location,
    /// The backup to go back to: this one, or that of the first of the runs that went on with each other.
    back: String,
    entry: BackupEntry,
    backup: Backup,
}

/// Why an upgrade did not come to its end, and the backup, when there is one by then.
pub(crate) enum Failed {
    Backup(anyhow::Error),
    Stopped(Stopped, Option<Box<Made>>),
}

impl From<Failed> for anyhow::Error {
    fn from(failed: Failed) -> Self {
        failed.into_error("upgrade")
    }
}

impl Failed {
    /// What it was, where `work` is what was to be done.
    pub(super) fn into_error(self, work: &str) -> anyhow::Error {
        match self {
            Self::Backup(error) => error,
            Self::Stopped(stopped, None) => stopped.into(),
            Self::Stopped(stopped, Some(made)) => {
                let is_rollout = matches!(
                    &stopped,
                    Stopped::Failed(SessionError::Run(error)) if error.is_failed_rollout()
                );
                let serving = if is_rollout {
                    " What is left of the old replicas goes on serving."
                } else {
                    ""
                };
                let error = anyhow::Error::from(stopped);
                anyhow!(
                    "{error:#}\nThe {work} is not finished.{serving} Run it again: it goes on from here. Or go back with: ks-installer rollback --to {}",
                    made.back
                )
            }
        }
    }
}

/// Backs up, carries out, verifies. No other run writes meanwhile. An installation is not backed up: there is nothing to go
/// back to, and `target` stays unused.
pub(crate) async fn execute(
    session: &Session<'_>,
    prepared: Prepared,
    target: backup::Target,
    claimant: Claimant,
    follow: &dyn Follow,
) -> Result<Outcome, Failed> {
    execute_after(session, async || Ok(prepared), target, claimant, follow).await
}

/// The same, where what is carried out is prepared under the claim, by whatever has to come first.
pub(super) async fn execute_after(
    session: &Session<'_>,
    prepare: impl AsyncFnOnce() -> Result<Prepared, Stopped>,
    target: backup::Target,
    claimant: Claimant,
    follow: &dyn Follow,
) -> Result<Outcome, Failed> {
    let claim = run::claim(session.cluster, claimant)
        .await
        .map_err(|stopped| Failed::Stopped(stopped, None))?;
    let done = match prepare().await {
        Ok(prepared) => claimed(session, prepared, target, follow, &claim).await,
        Err(stopped) => Err(Failed::Stopped(stopped, None)),
    };
    claim.release().await;
    done
}

async fn claimed(
    session: &Session<'_>,
    prepared: Prepared,
    target: backup::Target,
    follow: &dyn Follow,
    claim: &run::Claim,
) -> Result<Outcome, Failed> {
    let to = prepared.decision.to.clone();
    let Some(plan) = prepared.decision.plan.clone() else {
        let blocked = SessionError::Blocked(prepared.decision.findings);
        return Err(Failed::Stopped(Stopped::Failed(blocked), None));
    };
    if plan.is_installation() {
        let run = run::new_run(RunKind::Install, &plan, None);
        let listen = |event| follow.event(event);
        let work = claim.carry_out(session.cluster, run, follow, async |recorder| {
            session.execute_recorded(prepared, Some(recorder), &listen).await
        });
        let report = Box::pin(work)
            .await
            .map_err(|stopped| Failed::Stopped(stopped, None))?;
        return Ok(Outcome {
            report,
            to,
            made: None,
        });
    }
    follow.begin("Backup");
    let saved = backup::write(session.cluster, &prepared.snapshot, Some(&plan), &target)
        .await
        .context("there is no backup, so nothing was written to the cluster")
        .map_err(Failed::Backup)?;
    follow.end(&format!(
        "{}, verified: {}",
        text::count(saved.index.count, "object"),
        target.location
    ));
    let entry = run::backup_entry(&target.location, &saved);
    let run = run::new_run(RunKind::Upgrade, &plan, Some(entry.clone()));
    let mut made = Made {
        back: entry.location.clone(),
        location: target.location,
        entry,
        backup: Backup {
            snapshot: prepared.snapshot.clone(),
            cluster: plan.cluster.clone(),
            plan: Some(plan),
            tool: env!("CARGO_PKG_VERSION").to_owned(),
        },
    };
    let listen = |event| follow.event(event);
    let work = claim.carry_out(session.cluster, run, follow, async |recorder| {
        session.execute_recorded(prepared, Some(recorder), &listen).await
    });
    let report = Box::pin(work).await;
    let is_good = matches!(&report, Ok(report) if report.is_verified());
    // A run that went on with another one found a half upgraded cluster, and so is its own backup.
    if !is_good && let Ok(Some(first)) = run::journaled_backup(session.cluster).await {
        made.back = first.location;
    }
    match report {
        Ok(report) => Ok(Outcome {
            report,
            to,
            made: Some(made),
        }),
        Err(stopped) => Err(Failed::Stopped(stopped, Some(Box::new(made)))),
    }
}

/// Goes back to before the upgrade. The exit status says that the upgrade failed, whatever comes of it.
async fn go_back(
    session: &Session<'_>,
    made: &Made,
    waits: Waits,
    why: &str,
    json: bool,
) -> anyhow::Result<Verdict> {
    output::note("Going back to the backup.");
    let rolled_back = async {
        let first = if made.back == made.entry.location {
            None
        } else {
            Some(rollback::open_first(session.cluster, &made.back).await?)
        };
        let (backup, entry) = match &first {
            Some((backup, entry)) => (backup, entry),
            None => (&made.backup, &made.entry),
        };
        let rollback = rollback::rollback_of(session.cluster, session.releases, backup, waits);
        let prepared = engine::prepare_rollback(&rollback).await.map_err(read_error)?;
        let to = prepared.decision.to.clone();
        let report = rollback::carry_out(&rollback, prepared, entry.clone(), !json).await?;
        Ok::<_, anyhow::Error>((report, to))
    };
    let (report, to) = rolled_back.await.with_context(|| {
        format!(
            "the upgrade failed, and so did going back; go on with: ks-installer rollback --to {}",
            made.back
        )
    })?;
    if json {
        let mut value = rollback::to_json(&report, &to);
        value["upgraded"] = false.into();
        value["why"] = why.into();
        output::json(&value)?;
    } else {
        output::print(&rollback::to_text(&report, &to));
        output::print("The upgrade failed and was taken back.\n");
    }
    Ok(Verdict::Refused)
}

/// The error with what to do about it.
pub(super) fn session_error(error: SessionError) -> anyhow::Error {
    let hint = match &error {
        SessionError::Run(error) => error.hint(),
        SessionError::ReadSnapshot(error) => error.hint(),
        SessionError::Blocked(findings) => findings.first().and_then(|f| f.hint.clone()),
        SessionError::KeepsChanging(_) => Some("find out who keeps writing them, then run it again".into()),
    };
    with_hint(error.into(), hint)
}

impl Outcome {
    /// Where the backup is.
    pub(super) fn backup(&self) -> Option<String> {
        self.made.as_ref().map(|made| made.location.to_string())
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "upgraded": self.report.is_verified(),
            "to": self.to,
            "written": self.report.written,
            "seconds": self.report.took.as_secs_f64(),
            "writingSeconds": self.report.writing.as_secs_f64(),
            "verified": self.report.is_verified(),
            "findings": self.report.findings,
            "backup": self.backup(),
        })
    }

    pub(super) fn to_text(&self) -> String {
        let verified = if self.report.is_verified() {
            format!("{} KubeSphere is at {} and verified", text::tick(), self.to)
        } else {
            format!("KubeSphere was upgraded to {}, but verification failed", self.to)
        };
        format!(
            "{}\n{verified}: {} written in {} ({} of it writing).\n{}",
            text::findings(&self.report.findings),
            text::count(self.report.written, "object"),
            text::duration(self.report.took),
            text::duration(self.report.writing),
            self.backup()
                .map(|location| format!("Backup: {location}\n"))
                .unwrap_or_default()
        )
    }
}
