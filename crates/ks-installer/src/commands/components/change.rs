//! `enable` and `disable`: an edit of the ClusterConfiguration, and an upgrade to what it says then.
//!
//! ```text
//!   read ─▶ edit, in memory ─▶ decide ─▶ shown, asked ─▶ claim ─▶ edit, in the cluster ─▶ decide again ─▶ as an upgrade
//!                                                   └─▶ where an operator leads: the edit, with its word for the plan
//! ```

use std::{io::IsTerminal as _, path::Path, time::Duration};

use anyhow::{anyhow, bail};
use cluster::Scope;
use engine::{Prepared, Session};
use object::{Object, diff};
use serde_json::{Value, json};
use upgrade::{
    Finding, Options, Plan, Severity, cluster_configuration_key,
    components::{Choice, Edit, choose},
    install,
};

use super::{
    carry_out::{hand_over, prepare, write},
    named, release,
};
use crate::{
    cli::{
        DriftArg, Format, Global,
        components::{ChangeArgs, DisableArgs, EnableArgs},
    },
    commands::{
        Verdict, Waits,
        approve::{Approval, Asked, approve},
        backup, connect, drift, handover, read_error, releases,
        run::{self, Stopped},
        session,
        upgrade_command::{Failed, Outcome, execute_after},
    },
    output::{self, progress::Progress, text},
};

/// What is wanted.
struct Wanted {
    choice: Choice,
    names: Vec<String>,
    settings: Vec<String>,
    delete_data: bool,
    change: ChangeArgs,
}

impl Wanted {
    /// The field of the outcome: whether it was done.
    fn done(&self) -> &'static str {
        match self.choice {
            Choice::Enable => "enabled",
            Choice::Disable => "disabled",
        }
    }

    fn command(&self) -> &'static str {
        match self.choice {
            Choice::Enable => "enable",
            Choice::Disable => "disable",
        }
    }
}

pub(in crate::commands) async fn enable(global: &Global, args: EnableArgs) -> anyhow::Result<Verdict> {
    let wanted = Wanted {
        choice: Choice::Enable,
        names: args.names,
        settings: args.set,
        delete_data: false,
        change: args.change,
    };
    change(global, wanted).await
}

pub(in crate::commands) async fn disable(global: &Global, args: DisableArgs) -> anyhow::Result<Verdict> {
    let wanted = Wanted {
        choice: Choice::Disable,
        names: args.names,
        settings: Vec::new(),
        delete_data: args.delete_data,
        change: args.change,
    };
    change(global, wanted).await
}

async fn change(global: &Global, wanted: Wanted) -> anyhow::Result<Verdict> {
    let json = global.output == Format::Json;
    let args = &wanted.change;
    let command = wanted.command();
    let releases = releases()?;
    let mut options = Options {
        allow_unsupported_kubernetes: args.allow_unsupported_kubernetes,
        delete_data: wanted.delete_data,
        now: Some(jiff::Timestamp::now().as_second()),
        ..Options::default()
    };
    // Whatever is wrong with what was typed is said before anything is read.
    let named = named(release(&releases, &options)?, &wanted.names)?;
    check_settings(&wanted.settings)?;
    if !args.yes && !args.dry_run && !std::io::stdin().is_terminal() {
        bail!(
            "{command} asks before it writes, and there is nobody to ask\nhint: look at it with --dry-run, then add --yes"
        );
    }
    let target = backup::Target::new(
        args.backup.clone(),
        Path::new("."),
        backup::encryption(&args.encrypt)?,
    );
    let cluster = connect(global).await?;
    let leader = handover::leader(&cluster).await?;
    if let Some(leader) = &leader {
        handover::refuse_options(
            leader,
            &[
                ("--delete-data", wanted.delete_data),
                ("--drift", args.drift.is_some()),
                (
                    "--allow-unsupported-kubernetes",
                    args.allow_unsupported_kubernetes,
                ),
                ("--backup", args.backup.is_some()),
                ("encryption", args.encrypt.is_asked_for()),
            ],
        )?;
    }
    // Whoever switches one component wants nothing else put back: as the operator has it.
    options = handover::options(&cluster, &releases, options).await?;
    if let Some(drift) = args.drift {
        options.drift = drift.policy();
    }
    let waits = Waits {
        rollout: Duration::from_secs(args.wait),
        controllers: Duration::from_secs(args.wait_controllers),
    };
    let mut session = session(&cluster, &releases, options, waits);
    let mut asked = Asked {
        done: wanted.done(),
        json,
        yes: args.yes,
        details: args.details,
        blocked: "Nothing was written. Resolve the blockers and run it again.",
        question: match (wanted.choice, wanted.delete_data) {
            (Choice::Disable, true) => {
                "A backup of what Kubernetes has is made first; volumes are not in it, and their data is gone for good."
            }
            _ => "A backup is made first.",
        },
        edits: 0,
    };

    let mut snapshot = cluster.snapshot(&Scope::upgrade()).await.map_err(read_error)?;
    let edit = match choose(
        &snapshot,
        &releases,
        &session.options,
        wanted.choice,
        &named,
        &wanted.settings,
    ) {
        Ok(edit) => edit,
        Err(findings) => return refuse(&asked, &findings),
    };
    asked.edits = usize::from(edit.patch.is_some());
    if !json {
        output::print(&edit_in_words(&edit, snapshot.get(&cluster_configuration_key())));
    }
    snapshot
        .objects
        .insert(cluster_configuration_key(), edit.configuration.clone());
    let asks = args.drift == Some(DriftArg::Ask);
    let decide = async |session: &Session<'_>| engine::prepare_upon(session, snapshot.clone()).await;
    let prepared = drift::prepare_by(&mut session, asks, decide).await?;

    let first = |plan: &Plan| -> anyhow::Result<Option<Verdict>> {
        if args.dry_run {
            if json {
                output::json(&json!({
                    (asked.done): false, "dryRun": true, "components": edit.components, "edit": edit.patch.is_some(),
                    "plan": plan, "findings": prepared.findings(),
                }))?;
            } else {
                output::print("\nNothing was written.\n");
            }
            return Ok(Some(Verdict::Done));
        }
        Ok(None)
    };
    let plan = match approve(&prepared, &asked, first)? {
        Approval::Given(plan) => plan,
        Approval::Ended(verdict) => return Ok(verdict),
    };
    if plan.is_empty() {
        if let Some(patch) = &edit.patch {
            write(&cluster, patch).await?;
        }
        return nothing_more(&session, &prepared, &edit, &asked);
    }
    if leader.is_some() {
        return hand_over(&cluster, plan, &edit, &asked).await;
    }
    let progress = Progress::new(!json);
    let prepare = async || prepare(&session, &edit, plan).await;
    let outcome = match execute_after(&session, prepare, target, run::claimant(), &progress).await {
        Ok(outcome) => outcome,
        Err(Failed::Stopped(Stopped::Held(error), _)) => return asked.held(&error),
        Err(failed) => return Err(failed.into_error("change")),
    };
    tell(&outcome, &edit, &asked)
}

fn check_settings(settings: &[String]) -> anyhow::Result<()> {
    let mut nothing = Object::try_from(json!({
        "apiVersion": "installer.kubesphere.io/v1alpha1", "kind": "ClusterConfiguration", "metadata": {"name": "ks-installer"},
    }))?;
    for setting in settings {
        install::set(&mut nothing, setting).map_err(|error| {
            anyhow!("--set: {error}\nhint: write it as --set common.es.logMaxAge=3; paths are those of deploy/cluster-configuration.yaml below spec")
        })?;
    }
    Ok(())
}

fn refuse(asked: &Asked<'_>, findings: &[Finding]) -> anyhow::Result<Verdict> {
    if !asked.json {
        output::print(text::findings(findings).trim_start());
    }
    asked.refuse("Nothing was written.", "blockers", None, findings)
}

/// Which settings change; their values may be secrets.
fn edit_in_words(edit: &Edit, live: Option<&Object>) -> String {
    let names = text::bold(&edit.components.join(", "));
    if edit.patch.is_none() {
        return format!("{names}: the ClusterConfiguration says so already\n\n");
    }
    let empty = Value::Null;
    let part = |object: Option<&Object>, pointer: &str| {
        object
            .and_then(|object| object.get(pointer))
            .unwrap_or(&empty)
            .clone()
    };
    let mut paths: Vec<String> = Vec::new();
    for name in ["spec", "status"] {
        let pointer = format!("/{name}");
        let changes = diff::changes(&part(live, &pointer), &part(Some(&edit.configuration), &pointer));
        paths.extend(
            changes
                .into_iter()
                .map(|change| format!("{name}.{}", change.path)),
        );
    }
    format!(
        "{names}: the ClusterConfiguration changes first: {}\n\n",
        paths.join(", ")
    )
}

/// There is nothing to be done but, perhaps, the edit.
fn nothing_more(
    session: &Session<'_>,
    prepared: &Prepared,
    edit: &Edit,
    asked: &Asked<'_>,
) -> anyhow::Result<Verdict> {
    let findings = upgrade::verify_in_place(
        &prepared.snapshot,
        session.releases,
        &session.options,
        &prepared.decision,
    );
    let verified = findings
        .iter()
        .all(|finding| finding.severity != Severity::Blocker);
    if asked.json {
        output::json(&json!({
            (asked.done): verified, "components": edit.components, "written": asked.edits, "verified": verified,
            "findings": findings,
        }))?;
    } else {
        let words = match asked.edits {
            0 => "There is nothing to do",
            _ => "The ClusterConfiguration was changed, and there is nothing else to do",
        };
        output::print(&format!("\n{words}: {} {}.\n", are(&edit.components), asked.done));
        output::print(&text::findings(&findings));
    }
    Ok(if verified { Verdict::Done } else { Verdict::Refused })
}

fn tell(outcome: &Outcome, edit: &Edit, asked: &Asked<'_>) -> anyhow::Result<Verdict> {
    let report = &outcome.report;
    let written = report.written + asked.edits;
    if asked.json {
        output::json(&json!({
            (asked.done): report.is_verified(),
            "components": edit.components,
            "written": written,
            "seconds": report.took.as_secs_f64(),
            "writingSeconds": report.writing.as_secs_f64(),
            "verified": report.is_verified(),
            "findings": report.findings,
            "backup": outcome.backup(),
        }))?;
    } else {
        let verdict = if report.is_verified() {
            format!(
                "{} {} {} and verified",
                text::tick(),
                are(&edit.components),
                asked.done
            )
        } else {
            format!(
                "{} {}, but verification failed",
                are(&edit.components),
                asked.done
            )
        };
        output::print(&format!(
            "{}\n{verdict}: {} written in {} ({} of it writing).\n",
            text::findings(&report.findings),
            text::count(written, "object"),
            text::duration(report.took),
            text::duration(report.writing)
        ));
        if let Some(backup) = outcome.backup() {
            output::print(&format!("Backup: {backup}\n"));
        }
    }
    Ok(if report.is_verified() {
        Verdict::Done
    } else {
        Verdict::Refused
    })
}

/// `logging is`, `logging, events are`
fn are(names: &[String]) -> String {
    format!(
        "{} {}",
        names.join(", "),
        if names.len() == 1 { "is" } else { "are" }
    )
}
