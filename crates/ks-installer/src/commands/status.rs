//! `status`: what is there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cluster::Cluster;
use engine::{Clock, Journal, Lease, RunEntry, RunOutcome};
use object::Object;
use serde_json::{Value, json};
use upgrade::health::{self, Health};

use super::{Verdict, Waits, connect, handover::Seen, read_error, releases, session};
use crate::{
    cli::{Format, Global, StatusArgs},
    output::{self, text},
};

/// How often a run is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is asked whether whoever runs is alive.
const ALIVE: Duration = Duration::from_secs(20);

pub(super) async fn status(global: &Global, args: &StatusArgs) -> anyhow::Result<Verdict> {
    let cluster = connect(global).await?;
    if args.watch {
        return watch(&cluster, global.output == Format::Json).await;
    }
    let releases = releases()?;
    let prepared = engine::prepare(&session(
        &cluster,
        &releases,
        args.decide.options(),
        Waits::default(),
    ))
    .await
    .map_err(read_error)?;
    let snapshot = &prepared.snapshot;
    let configuration = snapshot.get(&upgrade::cluster_configuration_key());
    let components: Vec<(String, String)> = configuration
        .and_then(|c| c.get("/status"))
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, status)| Some((name.clone(), status.get("status")?.as_str()?.to_owned())))
        .collect();
    let workloads: Vec<(String, String, bool)> = snapshot
        .of_kind("apps", "Deployment")
        .filter(|d| {
            matches!(
                d.namespace(),
                Some("kubesphere-system" | "kubesphere-controls-system")
            )
        })
        .map(|deployment| {
            let health = health::rollout(deployment);
            let words = match &health {
                Health::Complete => "running".to_owned(),
                Health::Progressing(words) | Health::Failed(words) => words.clone(),
            };
            (deployment.key().to_string(), words, health == Health::Complete)
        })
        .collect();
    let journal = Journal::of(snapshot.get(&engine::journal_key()));
    let last = journal.last();
    let writes = prepared.decision.plan.as_ref().map(upgrade::Plan::writes);
    if global.output == Format::Json {
        output::json(&json!({
            "version": prepared.decision.from,
            "kubernetes": snapshot.kubernetes,
            "target": prepared.decision.to,
            "pendingWrites": writes,
            "lastRun": last,
            "operator": operator(configuration),
            "components": components.iter().map(|(name, status)| json!({"name": name, "status": status})).collect::<Vec<_>>(),
            "workloads": workloads.iter().map(|(name, words, ok)| json!({"name": name, "state": words, "healthy": ok})).collect::<Vec<_>>(),
            "findings": prepared.findings(),
        }))?;
        return Ok(Verdict::Done);
    }
    let is_absent = prepared
        .findings()
        .iter()
        .any(|finding| finding.reason == upgrade::reasons::NOT_INSTALLED);
    let unknown = if is_absent { "not installed" } else { "not known" };
    let mut out = format!(
        "KubeSphere  {}\nKubernetes  {}\n",
        text::bold(prepared.decision.from.as_deref().unwrap_or(unknown)),
        snapshot.kubernetes
    );
    if !components.is_empty() {
        let words: Vec<_> = components
            .iter()
            .map(|(name, status)| format!("{name} {status}"))
            .collect();
        out.push_str(&format!("Components  {}\n", words.join(", ")));
    }
    for (name, words, healthy) in &workloads {
        let sign = if *healthy { text::tick() } else { "!".to_owned() };
        out.push_str(&format!("  {sign} {name}: {words}\n"));
    }
    out.push_str(&format!(
        "Upgrade     {}",
        match writes {
            _ if prepared.blockers().next().is_some() => {
                format!(
                    "to {} is blocked: {}\n",
                    prepared.decision.to,
                    text::tally(prepared.findings())
                )
            }
            Some(0) => format!("nothing to do for {}\n", prepared.decision.to),
            Some(writes) => {
                format!(
                    "to {} would write {}\n",
                    prepared.decision.to,
                    text::count(writes, "object")
                )
            }
            None => "no plan can be made; see: ks-installer preflight\n".to_owned(),
        }
    ));
    if let Some(run) = last {
        out.push_str(&format!("Last run    {}\n", last_run(run)));
    }
    if let Some(operator) = operator(configuration) {
        out.push_str(&format!("Operator    {operator}\n"));
    }
    output::print(&out);
    Ok(Verdict::Done)
}

/// `Running` or `Blocked: Deployment …`; `None` where none ever looked.
fn operator(configuration: Option<&Object>) -> Option<String> {
    let seen = Seen::of(configuration);
    let message = match seen.phase.as_str() {
        "" => return None,
        "Blocked" | "Retrying" => seen.message("Degraded"),
        "AwaitingApproval" | "Upgrading" => seen.message("Progressing"),
        _ => seen.message("Drifted").filter(|message| !message.is_empty()),
    };
    Some(message.map_or_else(
        || seen.phase.clone(),
        |message| format!("{}: {message}", seen.phase),
    ))
}

/// What is told while a run is followed.
#[derive(Debug, PartialEq, Eq)]
struct Moment {
    line: String,
    is_under_way: bool,
    is_good: bool,
}

impl Moment {
    fn of(seen: &Seen, run: Option<&RunEntry>) -> Self {
        let runs = run.is_some_and(|run| run.outcome == RunOutcome::Running);
        let line = match run {
            _ if seen.phase == "Upgrading" => format!("operator: {}", seen.progress),
            Some(run) => last_run(run),
            None if seen.phase.is_empty() => "no run yet".to_owned(),
            None => format!("operator: {}", seen.phase),
        };
        Self {
            line,
            is_under_way: runs || seen.phase == "Upgrading",
            is_good: run.is_none_or(|run| run.outcome == RunOutcome::Done)
                && !["Retrying", "Blocked"].contains(&seen.phase.as_str()),
        }
    }
}

/// Follows a run to its end, whoever carries it out. Where none is under way, the next one is waited for.
async fn watch(cluster: &Cluster, json: bool) -> anyhow::Result<Verdict> {
    let clock: Clock = Arc::new(jiff::Timestamp::now);
    let mut told: Option<Moment> = None;
    // A run may be over between two looks.
    let mut first: Option<Option<String>> = None;
    let mut asked: Option<Instant> = None;
    loop {
        let key = upgrade::cluster_configuration_key();
        let configuration = cluster.get(&key).await.map_err(read_error)?;
        let journal = Journal::read(cluster).await.map_err(read_error)?;
        let seen = Seen::of(configuration.as_ref());
        let now = Moment::of(&seen, journal.last());
        let run = journal.last().map(|run| run.id.clone());
        let was_under_way = told.as_ref().is_some_and(|told| told.is_under_way)
            || first.as_ref().is_some_and(|first| *first != run);
        first.get_or_insert(run);
        if told.as_ref() != Some(&now) {
            if json {
                output::json_line(&json!({
                    "underWay": now.is_under_way, "phase": seen.phase, "progress": seen.progress,
                    "version": seen.version, "run": journal.last(),
                }))?;
            } else {
                output::print(&format!("{}\n", now.line));
                if told.is_none() && !now.is_under_way {
                    output::note("Nothing is under way. Waiting for the next run; Ctrl-C ends this.");
                }
            }
        }
        if was_under_way && !now.is_under_way {
            return Ok(if now.is_good {
                Verdict::Done
            } else {
                Verdict::Refused
            });
        }
        if now.is_under_way && asked.is_none_or(|asked| asked.elapsed() > ALIVE) {
            let names = [engine::RUN_LEASE, crate::operator::LEADER];
            let mut alive = false;
            for name in names {
                alive |= Lease::living_holder(cluster, &clock, name)
                    .await
                    .map_err(read_error)?
                    .is_some();
            }
            if !alive {
                output::note(
                    "Whoever ran gives no sign of life: the run was cut.\nhint: run it again, it goes on from there: ks-installer upgrade",
                );
                return Ok(Verdict::Refused);
            }
            asked = Some(Instant::now());
        }
        told = Some(now);
        tokio::time::sleep(LOOK).await;
    }
}

/// `upgrade v3.2.1 → v3.3.1 of 2026-01-31 10:00:00Z: stopped in stage workloads; backup /b.tar.zst`
fn last_run(run: &RunEntry) -> String {
    let outcome = match (run.outcome, run.stopped_in()) {
        (RunOutcome::Done, _) => "done".to_owned(),
        (RunOutcome::Running, Some(stage)) => format!("in stage {stage}, or cut there"),
        (RunOutcome::Running, None) => "just begun, or cut there".to_owned(),
        (RunOutcome::Failed, Some(stage)) => format!("stopped in stage {stage}"),
        (RunOutcome::Failed, None) => "stopped".to_owned(),
    };
    let backup = run
        .backup
        .as_ref()
        .map(|backup| format!("; backup {}", backup.location))
        .unwrap_or_default();
    let reason = run
        .reason
        .as_ref()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    format!(
        "{} {} → {} of {}: {outcome}{reason}{backup}",
        run.kind,
        run.from,
        run.to,
        run.started.strftime("%Y-%m-%d %H:%M:%SZ")
    )
}
