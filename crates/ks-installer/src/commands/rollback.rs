//! `rollback`: back to a backup, by a plan like any other.

use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use cluster::{
    Cluster,
    store::{Backup as Archive, Location},
};
use engine::{BackupEntry, Journal, Prepared, Report, Rollback, RunKind};
use release::Releases;
use serde_json::{Value, json};
use upgrade::{Backup, Plan, Snapshot};

use super::{
    Verdict, Waits,
    approve::{Approval, Asked, approve},
    backup, connect, handover, read_error, read_plan, releases,
    run::{self, Stopped},
    save_plan, session,
};
use crate::{
    cli::{
        Format, Global,
        backup::{KeyArgs, OpenArgs},
        rollback::RollbackArgs,
    },
    output::{self, progress::Progress, text},
};

pub(super) async fn rollback(global: &Global, args: RollbackArgs) -> anyhow::Result<Verdict> {
    let json = global.output == Format::Json;
    let saved = args.plan.as_deref().map(read_plan).transpose()?;
    if !args.yes && args.save.is_none() && !std::io::stdin().is_terminal() {
        bail!(
            "rollback asks before it writes, and there is nobody to ask\nhint: look at it with --save FILE, then add --yes"
        );
    }
    let cluster = connect(global).await?;
    let journal = Journal::read(&cluster).await.map_err(read_error)?;
    let is_installation = journal.last().is_some_and(|run| run.kind == RunKind::Install);
    if args.to.is_none() && is_installation {
        let why = "Nothing was written: the last run installed KubeSphere where there was none, so there is nothing to go back to.";
        if json {
            output::json(&json!({"rolledBack": false, "why": why, "findings": []}))?;
        }
        output::note(why);
        return Ok(Verdict::Refused);
    }
    let (location, expected) = match args.to {
        Some(location) => (location, None),
        None => journaled(&journal)?,
    };
    let open = OpenArgs {
        location: location.clone(),
        keys: args.keys,
    };
    let refused = |why: String| -> anyhow::Result<Verdict> {
        if json {
            output::json(&json!({"rolledBack": false, "why": why, "findings": []}))?;
        }
        output::note(&why);
        Ok(Verdict::Refused)
    };
    let archive = match backup::open(Some(&cluster), &open).await? {
        Ok(archive) => archive,
        Err(error) => {
            let why = format!("Nothing was written: {:#}", backup::store_error(error));
            return refused(why);
        }
    };
    if expected.is_some() && expected != run::digest(&archive.contents) {
        let why = format!(
            "Nothing was written: {location} is not the backup that the journal tells of; another one took its place.\nhint: if that is the one you want, name it with --to"
        );
        return refused(why);
    }
    let entry = run::backup_entry(&location, &archive.contents);
    let backup = read(&archive)?;
    let releases = releases()?;
    let waits = Waits {
        rollout: Duration::from_secs(args.wait),
        controllers: Duration::ZERO,
    };
    let rollback = rollback_of(&cluster, &releases, &backup, waits);
    let prepared = engine::prepare_rollback(&rollback).await.map_err(read_error)?;
    let question = format!("This goes back to {}.", prepared.decision.to);
    let asked = Asked {
        done: "rolledBack",
        json,
        yes: args.yes,
        details: args.details,
        blocked: "Nothing was written. Resolve the blockers first.",
        question: &question,
        edits: 0,
    };
    let first = |plan: &Plan| {
        if let Some(Err(differences)) = saved.as_ref().map(|saved| saved.check_permits(plan)) {
            let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
            let why = format!(
                "Nothing was written: the saved plan is not what would be done now.\n  - {}",
                lines.join("\n  - ")
            );
            return asked.refuse(&why, &why, None, prepared.findings()).map(Some);
        }
        let Some(path) = &args.save else {
            return Ok(None);
        };
        save_plan(plan, path)?;
        if json {
            output::json(plan)?;
        } else {
            output::print(&format!(
                "\nNothing was written to the cluster. The plan is in {}.\n",
                path.display()
            ));
        }
        Ok(Some(Verdict::Done))
    };
    let plan = match approve(&prepared, &asked, first)? {
        Approval::Given(plan) => plan,
        Approval::Ended(verdict) => return Ok(verdict),
    };
    if plan.is_empty() {
        if json {
            output::json(
                &json!({"rolledBack": true, "written": 0, "to": plan.to, "findings": prepared.findings()}),
            )?;
        } else {
            output::print("\nThere is nothing to roll back: what the upgrade set is as it was before.\n");
        }
        return Ok(Verdict::Done);
    }
    let to = plan.to.clone();
    match carry_out(&rollback, prepared, entry, !json).await {
        Ok(report) => {
            if json {
                output::json(&to_json(&report, &to))?;
            } else {
                output::print(&to_text(&report, &to));
            }
            Ok(if report.is_verified() {
                Verdict::Done
            } else {
                Verdict::Refused
            })
        }
        Err(Stopped::Held(error)) => asked.held(&error),
        Err(stopped) => {
            let error = anyhow::Error::from(stopped);
            Err(anyhow!(
                "{error:#}\nThe rollback is not finished. Run it again: it goes on from here."
            ))
        }
    }
}

/// The backup before the last upgrade, by the journal, and its digest.
fn journaled(journal: &Journal) -> anyhow::Result<(Location, Option<String>)> {
    let entry = journal.backup().ok_or_else(|| {
        anyhow!("the cluster has no journal of an upgrade, so it is not known which backup to go back to\nhint: name it with --to")
    })?;
    let location = entry
        .location
        .parse()
        .with_context(|| format!("the journal names the backup {}", entry.location))?;
    Ok((location, entry.sha256.clone()))
}

/// Opens the backup that an earlier run made before it changed anything. One that is encrypted needs a key, which an upgrade
/// is not given.
pub(super) async fn open_first(cluster: &Cluster, location: &str) -> anyhow::Result<(Backup, BackupEntry)> {
    let open = OpenArgs {
        location: location.parse()?,
        keys: KeyArgs::default(),
    };
    let archive = backup::open(Some(cluster), &open).await?;
    let archive = archive.map_err(backup::store_error)?;
    let entry = run::backup_entry(&open.location, &archive.contents);
    Ok((read(&archive)?, entry))
}

/// What is in an archive. Its every byte was verified when it was opened.
fn read(archive: &Archive) -> anyhow::Result<Backup> {
    let meta = &archive.contents.index.meta;
    let mut objects = BTreeMap::new();
    archive.visit(|object| {
        objects.insert(object.key(), object);
    })?;
    let plan: Option<Plan> = serde_json::from_value(archive.contents.plan.clone()).context(
        "the plan in the backup cannot be read\nhint: use the version of ks-installer that made it",
    )?;
    Ok(Backup {
        snapshot: Snapshot {
            kubernetes: meta.kubernetes.clone(),
            objects,
            ..Snapshot::default()
        },
        plan,
        cluster: meta.cluster.clone(),
        tool: meta.tool.clone(),
    })
}

/// Goes back to what is in a backup that this very run made or opened.
pub(super) fn rollback_of<'a>(
    cluster: &'a Cluster,
    releases: &'a Releases,
    backup: &'a Backup,
    waits: Waits,
) -> Rollback<'a> {
    let options = backup
        .plan
        .as_ref()
        .map(|plan| plan.options.clone())
        .unwrap_or_default();
    Rollback {
        cluster,
        releases,
        backup,
        run: session(cluster, releases, options, waits).run,
    }
}

pub(super) async fn carry_out(
    rollback: &Rollback<'_>,
    prepared: Prepared,
    backup: BackupEntry,
    show: bool,
) -> Result<Report, Stopped> {
    let progress = Progress::new(show);
    let Some(plan) = &prepared.decision.plan else {
        return Err(Stopped::NotBegun(anyhow!("there is no plan to go back")));
    };
    let run = run::new_run(RunKind::Rollback, plan, Some(backup));
    let claim = run::claim(rollback.cluster, run::claimant()).await?;
    match hold_back(rollback.cluster).await {
        Ok(false) => {}
        Ok(true) => progress
            .note("the operator in the cluster waits for approval from now on: it would go forward again"),
        Err(error) => {
            claim.release().await;
            return Err(Stopped::NotBegun(error));
        }
    }
    let listen = |event| progress.event(event);
    let work = claim.carry_out(rollback.cluster, run, &progress, async |recorder| {
        rollback.execute(prepared, Some(recorder), &listen).await
    });
    let done = Box::pin(work).await;
    claim.release().await;
    done
}

/// Has the operator wait, if there is one.
async fn hold_back(cluster: &Cluster) -> anyhow::Result<bool> {
    let runs = handover::leader(cluster).await?.is_some();
    if runs {
        handover::hold_back(cluster).await?;
    }
    Ok(runs)
}

pub(super) fn to_json(report: &Report, to: &str) -> Value {
    json!({
        "rolledBack": report.is_verified(),
        "to": to,
        "written": report.written,
        "seconds": report.took.as_secs_f64(),
        "findings": report.findings,
    })
}

pub(super) fn to_text(report: &Report, to: &str) -> String {
    let verified = if report.is_verified() {
        format!("{} KubeSphere is back at {to}", text::tick())
    } else {
        format!("KubeSphere was brought back to {to}, but not all of it runs")
    };
    format!(
        "{}\n{verified}: {} written in {}.\n",
        text::findings(&report.findings),
        text::count(report.written, "object"),
        text::duration(report.took)
    )
}
