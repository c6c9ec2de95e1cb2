//! `status`: what is there.

use engine::{RunEntry, RunOutcome};
use serde_json::{Value, json};
use upgrade::health::{self, Health};

use super::{Verdict, Waits, connect, read_error, releases, session};
use crate::{
    cli::{DecideArgs, Format, Global},
    output::{self, text},
};

pub(super) async fn status(global: &Global, args: &DecideArgs) -> anyhow::Result<Verdict> {
    let cluster = connect(global).await?;
    let releases = releases()?;
    let prepared = engine::prepare(&session(&cluster, &releases, args.options(), Waits::default()))
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
    let journal = engine::Journal::of(snapshot.get(&engine::journal_key()));
    let last = journal.last();
    let writes = prepared.decision.plan.as_ref().map(upgrade::Plan::writes);
    if global.output == Format::Json {
        output::json(&json!({
            "version": prepared.decision.from,
            "kubernetes": snapshot.kubernetes,
            "target": prepared.decision.to,
            "pendingWrites": writes,
            "lastRun": last,
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
    output::print(&out);
    Ok(Verdict::Done)
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
