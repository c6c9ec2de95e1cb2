//! `preflight` and `plan`: what only reads.

use engine::Prepared;
use serde_json::json;

use super::{Verdict, Waits, connect, drift, releases, save_plan, session};
use crate::{
    cli::{DecideArgs, Format, Global, PlanArgs},
    output::{self, text},
};

async fn prepare(global: &Global, decide: &DecideArgs) -> anyhow::Result<Prepared> {
    let cluster = connect(global).await?;
    let releases = releases()?;
    let mut session = session(&cluster, &releases, decide.options(), Waits::default());
    drift::prepare(&mut session, decide.asks_about_drift()).await
}

pub(super) fn verdict(prepared: &Prepared) -> Verdict {
    if prepared.blockers().next().is_some() {
        Verdict::Refused
    } else {
        Verdict::Done
    }
}

/// The version that a decision leads from and to, for a heading.
pub(super) fn heading(prepared: &Prepared) -> String {
    let decision = &prepared.decision;
    format!(
        "KubeSphere {} → {} on Kubernetes {}",
        decision.from.as_deref().unwrap_or("(none)"),
        decision.to,
        prepared.snapshot.kubernetes
    )
}

pub(super) async fn preflight(global: &Global, args: &DecideArgs) -> anyhow::Result<Verdict> {
    let prepared = prepare(global, args).await?;
    let verdict = verdict(&prepared);
    if global.output == Format::Json {
        output::json(&json!({
            "from": prepared.decision.from,
            "to": prepared.decision.to,
            "kubernetes": prepared.snapshot.kubernetes,
            "ready": verdict == Verdict::Done,
            "findings": prepared.findings(),
        }))?;
        return Ok(verdict);
    }
    let mut out = format!(
        "{}: {}\n",
        text::bold(&heading(&prepared)),
        text::tally(prepared.findings())
    );
    out.push_str(&text::findings(prepared.findings()));
    out.push_str(match verdict {
        Verdict::Done => "\nThe cluster can be upgraded. Next: ks-installer plan, or ks-installer rehearse\n",
        Verdict::Refused => {
            "\nThe cluster cannot be upgraded as it is. Resolve the blockers and run preflight again.\n"
        }
    });
    output::print(&out);
    Ok(verdict)
}

pub(super) async fn plan(global: &Global, args: &PlanArgs) -> anyhow::Result<Verdict> {
    let prepared = prepare(global, &args.decide).await?;
    let verdict = verdict(&prepared);
    let Some(plan) = &prepared.decision.plan else {
        if global.output == Format::Json {
            output::json(&json!({"plan": null, "findings": prepared.findings()}))?;
        } else {
            let heading = text::bold(&heading(&prepared));
            output::print(&format!(
                "{heading}: no plan can be made\n{}",
                text::findings(prepared.findings())
            ));
        }
        return Ok(Verdict::Refused);
    };
    if let Some(path) = &args.save {
        save_plan(plan, path)?;
        output::note(&format!(
            "plan saved to {}; run it with: ks-installer upgrade --plan {0}",
            path.display()
        ));
    }
    if global.output == Format::Json {
        output::json(
            &json!({"plan": plan, "drift": prepared.decision.drift, "findings": prepared.findings()}),
        )?;
        return Ok(verdict);
    }
    let mut out = text::plan(plan, args.details);
    out.push_str(&text::impact(&plan.impact));
    out.push_str(&text::findings(prepared.findings()));
    out.push_str(match (verdict, plan.is_empty()) {
        (Verdict::Refused, _) => "\nThis plan cannot be run until the blockers are resolved.\n",
        (Verdict::Done, true) => "\nThere is nothing to do.\n",
        (Verdict::Done, false) => {
            "\nNothing was written. Next: ks-installer rehearse, then ks-installer upgrade\n"
        }
    });
    output::print(&out);
    Ok(verdict)
}
