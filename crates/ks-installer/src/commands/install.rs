//! `install`: KubeSphere on a cluster that has none, by the engine that upgrades.

use std::{
    io::{IsTerminal as _, Read as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use cluster::{Scope, encryption::Encryption};
use engine::{Prepared, Session};
use object::{Object, ObjectKey};
use serde_json::{Value, json};
use upgrade::{
    Install, Options, Plan, Severity, Snapshot, cluster_configuration_key,
    install::{self as from_nothing, FirstPassword},
};

use super::{
    Verdict, Waits,
    approve::{Approval, Asked, approve},
    backup, connect, handover, read_error, releases,
    run::{self, Stopped},
    session,
    upgrade_command::{Failed, Outcome, execute},
    with_hint,
};
use crate::{
    cli::{Format, Global, install::InstallArgs},
    operator::log,
    output::{self, progress::Progress, text},
};

/// What the user gives: a ClusterConfiguration, or settings for the one that is there, or for the default one.
struct Given {
    configuration: Option<Object>,
    settings: Vec<String>,
}

impl Given {
    fn read(args: &InstallArgs) -> anyhow::Result<Self> {
        let given = Self {
            configuration: args.config.as_deref().map(read_file).transpose()?,
            settings: args.set.clone(),
        };
        // Whatever is wrong with it is said before anybody is asked anything.
        given.over(None)?;
        Ok(given)
    }

    fn is_nothing(&self) -> bool {
        self.configuration.is_none() && self.settings.is_empty()
    }

    /// The ClusterConfiguration that is meant, where `live` is the one in the cluster.
    fn over(&self, live: Option<&Object>) -> anyhow::Result<Object> {
        let mut configuration = match (&self.configuration, live) {
            (Some(given), _) => given.clone(),
            (None, Some(live)) => live.clone(),
            (None, None) => from_nothing::read_configuration(from_nothing::DEFAULT_CONFIGURATION)
                .context("the ClusterConfiguration that is built in cannot be read; please report this")?,
        };
        for setting in &self.settings {
            from_nothing::set(&mut configuration, setting).map_err(|error| {
                anyhow!("--set: {error}\nhint: write it as --set common.redis.enabled=true; paths are those of deploy/cluster-configuration.yaml below spec")
            })?;
        }
        Ok(configuration)
    }
}

pub(super) fn read_file(path: &Path) -> anyhow::Result<Object> {
    let (name, text) = if path == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().lock().read_to_string(&mut text);
        ("standard input".to_owned(), read.map(|_| text))
    } else {
        (path.display().to_string(), std::fs::read_to_string(path))
    };
    let text = text.with_context(|| format!("cannot read {name}"))?;
    from_nothing::read_configuration(&text).map_err(|error| {
        anyhow!("{name} is no ClusterConfiguration to go by: {error}\nhint: begin with a copy of deploy/cluster-configuration.yaml")
    })
}

pub(super) async fn install(global: &Global, args: InstallArgs) -> anyhow::Result<Verdict> {
    let json = global.output == Format::Json;
    let given = Given::read(&args)?;
    if !args.yes && !args.dry_run && !std::io::stdin().is_terminal() {
        bail!(
            "install asks before it writes, and there is nobody to ask\nhint: look at ks-installer install --dry-run, then add --yes"
        );
    }
    let options = Options {
        target: args.to.clone(),
        allow_unsupported_kubernetes: args.allow_unsupported_kubernetes,
        install: Install::Only,
        now: Some(jiff::Timestamp::now().as_second()),
        ..Options::default()
    };
    let cluster = connect(global).await?;
    let releases = releases()?;
    let waits = Waits {
        rollout: Duration::from_secs(args.wait),
        controllers: Duration::from_secs(args.wait_controllers),
    };
    let session = session(&cluster, &releases, options, waits);
    let live = cluster
        .get(&cluster_configuration_key())
        .await
        .map_err(read_error)?;
    let configuration = given.over(live.as_ref())?;
    let prepared = engine::prepare_installation(&session, &configuration)
        .await
        .map_err(read_error)?;
    let asked = Asked {
        done: "installed",
        json,
        yes: args.yes,
        details: false,
        blocked: "Nothing was written. Resolve the blockers and run the installation again.",
        question: "There is nothing to back up, and no way back but to remove KubeSphere.",
        edits: 0,
    };
    let is_blocked = prepared.blockers().next().is_some();
    if let Some(from) = &prepared.decision.from {
        if is_blocked {
            let blockers: Vec<_> = prepared.blockers().cloned().collect();
            if !json {
                output::print(&format!("{}\n", text::bold(&format!("KubeSphere is at {from}"))));
                output::print(&text::findings(&blockers));
            }
            return asked.refuse("Nothing was written", "blockers", None, prepared.findings());
        }
        if let Some(why) = otherwise(&given, &configuration, &prepared.snapshot) {
            return asked.refuse(&why, &why, None, prepared.findings());
        }
        return already_there(&session, &prepared, json).await;
    }
    let otherwise = otherwise(&given, &configuration, &prepared.snapshot);
    let first = |plan: &Plan| {
        if let Some(why) = &otherwise {
            return asked.refuse(why, why, None, prepared.findings()).map(Some);
        }
        if !args.dry_run {
            return Ok(None);
        }
        if json {
            output::json(
                &json!({"installed": false, "dryRun": true, "plan": plan, "findings": prepared.findings()}),
            )?;
        } else {
            output::print("\nNothing was written. Next: ks-installer install, with the same options\n");
        }
        Ok(Some(Verdict::Done))
    };
    if let Approval::Ended(verdict) = approve(&prepared, &asked, first)? {
        return Ok(verdict);
    }
    carry_out(&session, prepared, &configuration, &given, &asked).await
}

/// Lays the foundation, decides again on what is there then, and goes on as an upgrade does.
async fn carry_out(
    session: &Session<'_>,
    prepared: Prepared,
    configuration: &Object,
    given: &Given,
    asked: &Asked<'_>,
) -> anyhow::Result<Verdict> {
    let json = asked.json;
    let progress = Progress::new(!json);
    let foundation = from_nothing::foundation(&prepared.snapshot, configuration);
    let listen = |event| progress.event(event);
    if !foundation.is_empty() {
        progress.begin("Foundation");
    }
    let made = session
        .lay_foundation(&prepared, configuration, &listen)
        .await
        .map_err(|error| {
            let hint = error.hint();
            not_finished(&with_hint(error.into(), hint))
        })?;
    if !foundation.is_empty() {
        progress.end(&format!("{} made", text::count(made, "object")));
    }
    if handover::leader(session.cluster).await?.is_some() {
        // It began as soon as there was a ClusterConfiguration.
        progress.note("the operator in the cluster does the rest");
        let ended = handover::follow(session.cluster, None, !json).await?;
        return ended.report(("installed", "installation"), json);
    }
    let again = engine::prepare(session).await.map_err(read_error)?;
    if let Some(why) = otherwise(given, configuration, &again.snapshot) {
        return asked.refuse(&why, &why, None, again.findings());
    }
    let changed = changed_meanwhile(&prepared, &again, &foundation);
    if !changed.is_empty() {
        let why = format!(
            "The cluster changed meanwhile, so that something else would be written than was shown; look again with: ks-installer install --dry-run\n  - {}",
            changed.join("\n  - ")
        );
        return asked.refuse(&why, &why, None, again.findings());
    }
    // Nothing is backed up, so nothing goes there.
    let unused = backup::Target::new(None, Path::new("."), Encryption::None);
    let outcome = match Box::pin(execute(session, again, unused, run::claimant(), &progress)).await {
        Ok(outcome) => outcome,
        Err(Failed::Stopped(Stopped::Held(error), _)) => {
            let hint = error.hint().unwrap_or_default();
            output::note(&format!("{error}\nhint: {hint}"));
            if json {
                output::json(&json!({"installed": false, "why": error.to_string()}))?;
            }
            return Ok(Verdict::Refused);
        }
        Err(failed) => return Err(not_finished(&failed.into())),
    };
    let now = session
        .cluster
        .snapshot(&Scope::upgrade())
        .await
        .map_err(read_error)?;
    if json {
        output::json(&to_json(&outcome, made, &now))?;
    } else {
        output::print(&to_text(&outcome, made));
        if outcome.report.is_verified() {
            output::print(&format!("\n{}", log::welcome(&now, &outcome.to)));
        }
    }
    Ok(if outcome.report.is_verified() {
        Verdict::Done
    } else {
        Verdict::Refused
    })
}

fn not_finished(error: &anyhow::Error) -> anyhow::Error {
    anyhow!("{error:#}\nThe installation is not finished. Run it again: it goes on from here.")
}

/// How what would be done now differs from what was shown, but for what was made since.
fn changed_meanwhile(shown: &Prepared, now: &Prepared, made: &[Object]) -> Vec<String> {
    let blockers = now.blockers().map(|finding| finding.message.clone());
    let mut changed: Vec<String> = blockers.collect();
    let made: Vec<ObjectKey> = made.iter().map(Object::key).collect();
    match (&shown.decision.plan, &now.decision.plan) {
        (Some(shown), Some(now)) if now.is_installation() => {
            let differences = shown.check_permits(now).err().unwrap_or_default();
            changed.extend(
                differences
                    .iter()
                    .filter(|difference| {
                        difference
                            .object
                            .as_ref()
                            .is_none_or(|object| !made.contains(object))
                    })
                    .map(ToString::to_string),
            );
        }
        _ => changed.push("somebody else installed KubeSphere".to_owned()),
    }
    changed
}

/// A ClusterConfiguration that is in the cluster counts: what is given must say the same.
fn otherwise(given: &Given, configuration: &Object, snapshot: &Snapshot) -> Option<String> {
    if given.is_nothing() {
        return None;
    }
    let paths = from_nothing::mismatches(configuration, snapshot);
    (!paths.is_empty()).then(|| {
        format!(
            "The cluster has a ClusterConfiguration already, which counts, and it says otherwise: {}\nhint: leave --config and --set out to go by it, or change it first: kubectl edit cc ks-installer -n kubesphere-system",
            text::shorten(&paths)
        )
    })
}

/// Where the release is installed already nothing is written; what is not as it should be is an upgrade's to repair.
async fn already_there(session: &Session<'_>, prepared: &Prepared, json: bool) -> anyhow::Result<Verdict> {
    run::close_journal(session.cluster).await;
    let to = &prepared.decision.to;
    let findings = upgrade::verify_in_place(
        &prepared.snapshot,
        session.releases,
        &session.options,
        &prepared.decision,
    );
    let verified = findings
        .iter()
        .all(|finding| finding.severity != Severity::Blocker);
    let left = prepared.decision.plan.as_ref().map_or(0, Plan::writes);
    if json {
        output::json(&json!({
            "installed": verified, "to": to, "written": 0, "pendingWrites": left, "verified": verified, "findings": findings,
        }))?;
    } else {
        output::print(&format!(
            "KubeSphere {to} is installed already: nothing was written.\n"
        ));
        if left > 0 {
            output::print(&format!(
                "{} not as the release has them; look with ks-installer plan, repair with ks-installer upgrade.\n",
                match left {
                    1 => "1 object is".to_owned(),
                    more => format!("{more} objects are"),
                }
            ));
        }
        output::print(&text::findings(&findings));
    }
    Ok(if verified { Verdict::Done } else { Verdict::Refused })
}

fn to_json(outcome: &Outcome, founded: usize, now: &Snapshot) -> Value {
    let report = &outcome.report;
    let password = from_nothing::first_password(now).map(|password| match password {
        FirstPassword::Made { secret, key } => {
            json!({"namespace": secret.namespace, "secret": secret.name, "key": key})
        }
        FirstPassword::Given => json!({"setting": "authentication.adminPassword"}),
    });
    json!({
        "installed": report.is_verified(),
        "to": outcome.to,
        "written": founded + report.written,
        "seconds": report.took.as_secs_f64(),
        "writingSeconds": report.writing.as_secs_f64(),
        "verified": report.is_verified(),
        "findings": report.findings,
        "console": log::console(now),
        "account": "admin",
        "password": password,
    })
}

fn to_text(outcome: &Outcome, founded: usize) -> String {
    let report = &outcome.report;
    let verified = if report.is_verified() {
        format!(
            "{} KubeSphere {} is installed and verified",
            text::tick(),
            outcome.to
        )
    } else {
        format!("KubeSphere {} was installed, but verification failed", outcome.to)
    };
    format!(
        "{}\n{verified}: {} written in {} ({} of it writing).\n",
        text::findings(&report.findings),
        text::count(founded + report.written, "object"),
        text::duration(report.took),
        text::duration(report.writing)
    )
}
