//! `rehearse`: the upgrade on a copy in the sandbox.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, anyhow};
use cluster::{Cluster, Scope, dump};
use object::Object;
use release::Release;
use sandbox::{Config, Sandbox};
use serde_json::json;
use upgrade::{Action, Plan, Stage};

use super::{
    Verdict, Waits, components, connect, dump_error, plan, read_error, releases, session, upgrade_command,
};
use crate::{
    cli::{Format, Global, RehearseArgs},
    output::{self, progress::Progress, text},
};

/// A sandbox that holds the given objects.
pub(super) fn sandbox(kubernetes: &str, objects: Vec<Object>) -> anyhow::Result<Sandbox> {
    let config = Config {
        kubernetes_version: kubernetes.to_owned(),
        ..Config::default()
    };
    Ok(Sandbox::from_objects(
        config,
        objects.into_iter().map(Object::into_value),
    )?)
}

pub(super) fn client(sandbox: &Sandbox) -> Cluster {
    Cluster::new(kube::Client::new(sandbox.service(), "default"))
}

/// Reads the cluster, or the file that holds a copy of it; also says which Kubernetes it is.
pub(super) async fn copy(
    global: &Global,
    from: Option<&Path>,
    kubernetes_version: Option<&String>,
) -> anyhow::Result<(String, Vec<Object>)> {
    let Some(path) = from else {
        let cluster = connect(global).await?;
        let snapshot = cluster.snapshot(&Scope::copy()).await.map_err(read_error)?;
        for unreadable in &snapshot.unreadable {
            output::note(&format!(
                "warning: {} is not in the copy: {}",
                unreadable.resource, unreadable.message
            ));
        }
        let version = kubernetes_version.cloned().unwrap_or(snapshot.kubernetes.clone());
        let objects = snapshot.objects.into_values().collect();
        return Ok((version, objects));
    };
    let objects = dump::read(path).map_err(dump_error)?;
    let version = version(path, kubernetes_version, || dump::kubernetes_version(&objects))?;
    Ok((version, objects))
}

/// The Kubernetes version that is asked for, or that of a file's nodes.
pub(super) fn version(
    path: &Path,
    wanted: Option<&String>,
    found: impl FnOnce() -> Option<String>,
) -> anyhow::Result<String> {
    wanted.cloned().or_else(found).ok_or_else(|| {
        anyhow!(
            "{} has no nodes to tell the Kubernetes version from\nhint: name it with --kubernetes-version v1.22.0",
            path.display()
        )
    })
}

pub(super) async fn rehearse(global: &Global, args: RehearseArgs) -> anyhow::Result<Verdict> {
    check_save(args.save.as_ref())?;
    let json = global.output == Format::Json;
    let started = Instant::now();
    let progress = Progress::new(!json);
    progress.begin("Copy");
    let (version, objects) = copy(global, args.from.as_deref(), args.kubernetes_version.as_ref()).await?;
    let count = objects.len();
    let source = args
        .from
        .as_ref()
        .map_or_else(|| "the cluster".to_owned(), |path| path.display().to_string());
    let sandbox = sandbox(&version, objects).with_context(|| format!("cannot copy {source}"))?;
    if let Some(path) = &args.troubles {
        super::sandbox::afflict(&sandbox, path)?;
    }
    progress.end(&format!(
        "{} on Kubernetes {version}",
        text::count(count, "object")
    ));

    let cluster = client(&sandbox);
    let releases = releases()?;
    let session = session(&cluster, &releases, args.decide.options(), Waits::SANDBOX);
    let prepared = engine::prepare(&session).await.map_err(read_error)?;
    let findings = prepared.findings().to_vec();
    let announced = prepared.decision.plan.clone();
    if !json {
        if let Some(plan) = &announced {
            output::print(&text::plan(plan, args.details));
            output::print(&text::impact(&plan.impact));
        } else {
            output::print(&format!(
                "{}: no plan can be made\n",
                text::bold(&plan::heading(&prepared))
            ));
        }
        output::print(&text::findings(&findings));
    }
    if announced.is_none() || prepared.blockers().next().is_some() {
        if json {
            output::json(&json!({"rehearsed": false, "plan": announced, "findings": findings}))?;
        } else {
            output::print("\nThe rehearsal ends here: the same blockers would stop the upgrade.\n");
        }
        return Ok(Verdict::Refused);
    }
    let report = session
        .execute(prepared, &|event| progress.event(event))
        .await
        .map_err(upgrade_command::session_error)?;
    if let Some(path) = &args.save {
        save(&sandbox, path)?;
    }
    let verdict = if report.is_verified() {
        Verdict::Done
    } else {
        Verdict::Refused
    };
    let release = components::release(&releases, &session.options)?;
    let not_played = announced
        .as_ref()
        .map(|plan| not_played(plan, release))
        .unwrap_or_default();
    if json {
        output::json(&json!({
            "rehearsed": true, "verified": report.is_verified(), "written": report.written,
            "seconds": report.took.as_secs_f64(), "plan": announced, "findings": findings,
            "verification": report.findings, "saved": args.save, "notPlayed": not_played,
        }))?;
        return Ok(verdict);
    }
    let mut out = text::findings(&report.findings);
    out.push_str(&match verdict {
        Verdict::Done => format!(
            "\n{} The upgrade of the copy worked and was verified: {} written, {} in all.\n",
            text::tick(),
            text::count(report.written, "object"),
            text::duration(started.elapsed())
        ),
        Verdict::Refused => {
            "\nThe upgrade of the copy was carried out, but verification failed.\n".to_owned()
        }
    });
    out.push_str(
        "Not played in a rehearsal: what KubeSphere's own controllers do after they start, such as bringing the new\nbuilt-in roles into every workspace and project.\n",
    );
    for (component, text) in &not_played {
        out.push_str(&format!("Not played of component {component}: {text}.\n"));
    }
    if let Some(path) = &args.save {
        out.push_str(&format!(
            "State after the upgrade: {} (it holds secrets)\n",
            path.display()
        ));
    }
    output::print(&out);
    Ok(verdict)
}

/// What Jobs would do that the plan makes, by component: a copy runs no programs.
fn not_played<'a>(plan: &Plan, release: &'a Release) -> BTreeMap<&'a str, &'a str> {
    let makes_job = |stage: &&Stage| {
        let mut steps = stage.steps.iter();
        steps.any(|step| {
            step.object.is("batch", "Job")
                && matches!(step.action, Action::Apply { .. } | Action::Patch { .. })
        })
    };
    plan.stages
        .iter()
        .filter(makes_job)
        .filter_map(|stage| release.component(stage.component.as_ref()?))
        .filter_map(|component| Some((component.name.as_str(), component.rehearsal.as_deref()?)))
        .collect()
}

/// Writes all that a sandbox holds to a file.
pub(super) fn save(sandbox: &Sandbox, path: &Path) -> anyhow::Result<()> {
    Ok(dump::write(path, |out| sandbox.write_to(out))?)
}

/// Refuses to begin what could not be saved in the end.
pub(super) fn check_save(path: Option<&PathBuf>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    dump::check_writable(path).map_err(|error| {
        anyhow!(
            "{} cannot be written: {}\nhint: make its folder, or name a file in one that is there and yours",
            path.display(),
            error.kind()
        )
    })
}
