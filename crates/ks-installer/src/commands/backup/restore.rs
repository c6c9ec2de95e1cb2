//! `backup restore`: what differs, then whether it may be brought back, then it is.

use std::fmt::Write as _;

use cluster::restore::{self, Action, Restore, RestoreError, Selection, Summary};
use object::diff::Change;
use serde_json::{Value, json};

use super::{ask_possible, confirm, open, refuse};
use crate::{
    cli::{Format, Global, backup::RestoreArgs},
    commands::{Verdict, connect, with_hint},
    output::{self, text},
};

pub(super) async fn restore(global: &Global, args: RestoreArgs) -> anyhow::Result<Verdict> {
    let json = global.output == Format::Json;
    if !args.yes && !args.dry_run {
        ask_possible("backup restore")?;
    }
    let cluster = connect(global).await?;
    let location = &args.open.location;
    let backup = match open(Some(&cluster), &args.open).await? {
        Ok(backup) => backup,
        Err(error) => return refuse(global, location, error),
    };
    let selection = Selection {
        kinds: args.kind.clone(),
        namespaces: args.namespace.clone(),
        names: args.name.clone(),
    };
    let plan = match restore::plan(&cluster, &backup, &selection, args.other_cluster).await {
        Ok(plan) => plan,
        Err(error @ RestoreError::OtherCluster { .. }) => {
            if json {
                output::json(&json!({"restored": false, "why": error.to_string(), "hint": error.hint()}))?;
            }
            output::note(&format!("error: {:#}", restore_error(error)));
            return Ok(Verdict::Refused);
        }
        Err(error) => return Err(restore_error(error)),
    };
    if !json {
        output::print(&describe(&plan));
    }
    if plan.steps.is_empty() || args.dry_run {
        if json {
            output::json(&json!({"restored": false, "dryRun": args.dry_run, "plan": plan}))?;
        } else {
            output::print(
                if plan.steps.is_empty() && plan.unchanged == 0 && plan.left.is_empty() {
                    "No object of the backup is one of these. See which it has with: ks-installer backup show\n"
                } else if plan.steps.is_empty() {
                    "There is nothing to restore.\n"
                } else {
                    "Nothing was written.\n"
                },
            );
        }
        return Ok(Verdict::Done);
    }
    let question = format!(
        "Write {} to the cluster?",
        text::count(plan.steps.len(), "object")
    );
    if !args.yes && !confirm(&question)? {
        output::print("Nothing was written.\n");
        return Ok(Verdict::Refused);
    }
    let summary = restore::run(&cluster, &plan, &|object| tracing::info!(%object, "restored"))
        .await
        .map_err(restore_error)?;
    if json {
        output::json(&json!({"restored": summary.failed.is_empty(), "plan": plan, "summary": summary}))?;
    } else {
        output::print(&told(&summary));
    }
    Ok(if summary.failed.is_empty() {
        Verdict::Done
    } else {
        Verdict::Refused
    })
}

fn restore_error(error: RestoreError) -> anyhow::Error {
    let hint = error.hint();
    with_hint(error.into(), hint)
}

fn describe(plan: &Restore) -> String {
    let mut out = String::new();
    for step in &plan.steps {
        let (sign, verb) = match step.action {
            Action::Create => ("+", "create"),
            Action::Change => ("~", "change"),
        };
        let _ = writeln!(out, "{sign} {verb} {}", step.object);
        for change in &step.changes {
            let _ = writeln!(out, "    {}", line(change));
        }
        for conflict in &step.conflicts {
            let _ = writeln!(out, "    conflict: {conflict}; this undoes it");
        }
        for note in &step.notes {
            let _ = writeln!(out, "    note: {note}");
        }
    }
    for left in &plan.left {
        let _ = writeln!(out, "- not restored: {}: {}", left.object, left.reason);
    }
    let _ = writeln!(
        out,
        "\n{} to restore, {} as they were, {} left alone.",
        text::count(plan.steps.len(), "object"),
        plan.unchanged,
        plan.left.len()
    );
    let conflicts = plan.steps.iter().filter(|step| !step.conflicts.is_empty());
    let conflicts = conflicts.count();
    if conflicts > 0 {
        let _ = writeln!(
            out,
            "Of these, {conflicts} changed by others since the backup was made: look for \"conflict\" above."
        );
    }
    out
}

fn line(change: &Change) -> String {
    const LENGTH: usize = 100;
    let side = |value: &Option<Value>| {
        let Some(value) = value else {
            return "(none)".to_owned();
        };
        let text = value.to_string();
        if text.chars().count() <= LENGTH {
            return text;
        }
        text.chars().take(LENGTH).chain(['…']).collect()
    };
    format!("{}: {} → {}", change.path, side(&change.from), side(&change.to))
}

fn told(summary: &Summary) -> String {
    let mut out = format!(
        "{} created again, {} changed back.\n",
        text::count(summary.created, "object"),
        summary.changed
    );
    for failed in &summary.failed {
        let _ = writeln!(
            out,
            "  could not be restored: {}: {}",
            failed.object, failed.reason
        );
    }
    out
}
