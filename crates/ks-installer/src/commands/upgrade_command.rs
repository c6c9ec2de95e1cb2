//! `upgrade`: the one command that writes to a cluster.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use engine::{Prepared, Report, Session, SessionError};
use serde_json::{Value, json};

use super::{
    Verdict, Waits, backup, backup_path, connect, plan, read_error, read_plan, releases, session, with_hint,
};
use crate::{
    cli::{Format, Global, UpgradeArgs},
    output::{self, progress::Progress, text},
};

pub(super) async fn upgrade(global: &Global, args: UpgradeArgs) -> anyhow::Result<Verdict> {
    let saved = args.plan.as_deref().map(read_plan).transpose()?;
    let json = global.output == Format::Json;
    if !args.yes && !std::io::stdin().is_terminal() {
        bail!(
            "upgrade asks before it writes, and there is nobody to ask\nhint: look at ks-installer plan, then add --yes"
        );
    }
    let mut options = args.decide.options();
    if let (Some(saved), None) = (&saved, &options.target) {
        options.target = Some(saved.to.clone());
    }
    let cluster = connect(global).await?;
    let releases = releases()?;
    let waits = Waits {
        rollout: Duration::from_secs(args.wait),
        controllers: Duration::from_secs(args.wait_controllers),
    };
    let session = session(&cluster, &releases, options, waits);
    let prepared = engine::prepare(&session).await.map_err(read_error)?;

    let refuse = |why: &str, details: Value| -> anyhow::Result<Verdict> {
        if json {
            output::json(
                &json!({"upgraded": false, "why": why, "details": details, "findings": prepared.findings()}),
            )?;
        }
        Ok(Verdict::Refused)
    };
    if !json {
        if let Some(plan) = &prepared.decision.plan {
            output::print(&text::plan(plan, false));
            output::print(&text::impact(&plan.impact));
        } else {
            output::print(&format!("{}\n", text::bold(&plan::heading(&prepared))));
        }
        output::print(&text::findings(prepared.findings()));
    }
    let Some(plan) = prepared
        .decision
        .plan
        .as_ref()
        .filter(|_| prepared.blockers().next().is_none())
    else {
        if !json {
            output::print("\nNothing was written. Resolve the blockers and run the upgrade again.\n");
        }
        return refuse("blockers", Value::Null);
    };
    if let Some(saved) = &saved
        && let Err(differences) = saved.check_permits(plan)
    {
        let lines: Vec<String> = differences
            .iter()
            .map(|d| match &d.object {
                Some(object) => format!("{object}: {}", d.message),
                None => d.message.clone(),
            })
            .collect();
        if !json {
            output::print(&format!(
                "\nNothing was written: the saved plan is not what would be done now.\n  - {}\nMake the plan again with: ks-installer plan --save FILE\n",
                lines.join("\n  - ")
            ));
        }
        return refuse("the saved plan no longer fits", lines.into());
    }
    if plan.is_empty() {
        // Nothing is written, so what was just read is what there is.
        let findings = upgrade::verify_upgrade(None, &prepared.snapshot, &releases, &session.options);
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
    if !args.yes && !confirm(plan.writes())? {
        output::print("Nothing was written.\n");
        return Ok(Verdict::Refused);
    }
    let path = backup_path(args.backup, Path::new("."));
    let outcome = execute(&session, prepared, path, !json).await?;
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

fn confirm(writes: usize) -> anyhow::Result<bool> {
    let mut err = std::io::stderr().lock();
    write!(
        err,
        "\nA backup is made first. Write {} to the cluster? [y/N] ",
        text::count(writes, "object")
    )?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What a whole upgrade came to.
pub(super) struct Outcome {
    pub report: Report,
    pub backup: PathBuf,
    pub to: String,
}

/// Backs up, carries out, verifies.
pub(super) async fn execute(
    session: &Session<'_>,
    prepared: Prepared,
    path: PathBuf,
    show: bool,
) -> anyhow::Result<Outcome> {
    let progress = Progress::new(show);
    let to = prepared.decision.to.clone();
    progress.begin("Backup");
    let saved = backup::write(&prepared.snapshot, prepared.decision.plan.as_ref(), &path)
        .context("there is no backup, so nothing was written to the cluster")?;
    progress.end(&format!(
        "{}, verified: {}",
        text::count(saved, "object"),
        path.display()
    ));
    let report = session.execute(prepared, &|event| progress.event(event)).await.map_err(|error| {
        let error = session_error(error);
        anyhow!("{error:#}\nThe upgrade is not finished. Run it again: it goes on from here. The backup is {}", path.display())
    })?;
    Ok(Outcome {
        report,
        backup: path,
        to,
    })
}

/// The error with what to do about it.
pub(super) fn session_error(error: SessionError) -> anyhow::Error {
    let hint = match &error {
        SessionError::Run(error) => error.hint(),
        SessionError::ReadSnapshot(error) => error.hint(),
        SessionError::Blocked(findings) => findings.first().and_then(|f| f.hint.clone()),
        SessionError::KeepsChanging(_) => {
            Some("find out who keeps writing them, then run the upgrade again".into())
        }
    };
    with_hint(error.into(), hint)
}

impl Outcome {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "upgraded": self.report.is_verified(),
            "to": self.to,
            "written": self.report.written,
            "seconds": self.report.took.as_secs_f64(),
            "writingSeconds": self.report.writing.as_secs_f64(),
            "verified": self.report.is_verified(),
            "findings": self.report.findings,
            "backup": self.backup,
        })
    }

    pub(super) fn to_text(&self) -> String {
        let verified = if self.report.is_verified() {
            format!("{} KubeSphere is at {} and verified", text::tick(), self.to)
        } else {
            format!("KubeSphere was upgraded to {}, but verification failed", self.to)
        };
        format!(
            "{}\n{verified}: {} written in {} ({} of it writing).\nBackup: {}\n",
            text::findings(&self.report.findings),
            text::count(self.report.written, "object"),
            text::duration(self.report.took),
            text::duration(self.report.writing),
            self.backup.display()
        )
    }
}
