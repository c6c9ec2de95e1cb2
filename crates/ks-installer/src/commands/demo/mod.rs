//! `demo`: an upgrade from beginning to end, without a cluster.

mod sample;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, anyhow, bail};
use cluster::{Cluster, encryption::Encryption};
use release::{Files, Release, Releases};
use sandbox::{Config, Sandbox, ServeOptions};
use serde_json::json;

use super::{
    Verdict, Waits, backup, read_error, rehearse, releases, run, save_plan, session, upgrade_command,
};
use crate::{
    cli::{DecideArgs, DemoArgs, Format, Global},
    output::{self, progress::Progress, text},
};

const KUBERNETES: &str = "v1.20.2";
/// How often the sample platform is planned.
const ROUNDS: u32 = 5;

pub(super) async fn demo(global: &Global, args: DemoArgs) -> anyhow::Result<Verdict> {
    let started = Instant::now();
    let json = global.output == Format::Json;
    let say = |text: &str| {
        if !json {
            output::print(text);
        }
    };
    let folder = folder(args.directory)?;
    let releases = releases()?;
    let progress = Progress::new(!json);

    progress.begin("Sandbox");
    let config = Config {
        kubernetes_version: KUBERNETES.to_owned(),
        nodes: ["master1", "worker1", "worker2"].map(str::to_owned).to_vec(),
        ..Config::default()
    };
    let sandbox = Sandbox::new(config);
    let cluster = rehearse::client(&sandbox);
    progress.end(&format!("Kubernetes {KUBERNETES} in this process"));

    let old = previous(&releases)?;
    progress.begin("Sample platform");
    let tenants = install(&cluster, &releases, old).await?;
    progress.end(&format!(
        "KubeSphere {} and {tenants} objects of its tenants",
        old.version
    ));

    let options = DecideArgs::default().options();
    let session = session(&cluster, &releases, options, Waits::SANDBOX);
    let prepared = engine::prepare(&session).await.map_err(read_error)?;
    let findings = prepared.findings().to_vec();
    let plan = prepared
        .decision
        .plan
        .clone()
        .ok_or_else(|| anyhow!("the sample platform cannot be upgraded"))?;
    let plan_path = folder.join("plan.json");
    save_plan(&plan, &plan_path)?;
    say(&format!(
        "\n{} {}\n",
        text::bold("Preflight:"),
        text::tally(&findings)
    ));
    say(&text::findings(&findings));
    say(&format!("\n{}", text::plan(&plan, false)));
    say(&text::impact(&plan.impact));
    say("\n");
    if prepared.blockers().next().is_some() {
        return Ok(Verdict::Refused);
    }
    let progress = Progress::new(!json);
    let backup = backup::Target::new(None, &folder, Encryption::None);
    let outcome = Box::pin(upgrade_command::execute(
        &session,
        prepared,
        backup,
        run::claimant(),
        &progress,
    ))
    .await?;
    let verified = outcome.report.is_verified();
    if json {
        let mut report = outcome.to_json();
        report["plan"] = json!(plan_path);
        report["impact"] = json!(plan.impact);
        report["totalSeconds"] = started.elapsed().as_secs_f64().into();
        output::json(&report)?;
    } else {
        say(&outcome.to_text());
        say(&format!(
            "Plan:   {}\nTime:   {} in all, the sample platform included\n",
            plan_path.display(),
            text::duration(started.elapsed())
        ));
        if !args.serve {
            say("\nNext: look at your own cluster with: ks-installer preflight (it only reads)\n");
        }
    }
    if args.serve {
        serve(&sandbox, &folder).await?;
    }
    Ok(if verified { Verdict::Done } else { Verdict::Refused })
}

fn folder(asked: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let folder = asked.unwrap_or_else(|| std::env::temp_dir().join("ks-installer-demo"));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make folder {}", folder.display()))?;
    Ok(folder)
}

/// The newest release that the latest one upgrades from.
fn previous(releases: &Releases) -> anyhow::Result<&Release> {
    let latest = releases.latest().context("there is no release")?;
    releases
        .iter()
        .filter(|r| latest.path_from(&r.version) == release::UpgradePath::Supported)
        .last()
        .context("there is no release to upgrade from")
}

/// Installs the release and its tenants; returns how many objects the tenants have.
async fn install(cluster: &Cluster, releases: &Releases, old: &Release) -> anyhow::Result<usize> {
    for object in sample::before_installation(&old.version.to_string())? {
        create(cluster, &object).await?;
    }
    let options = upgrade::Options {
        target: Some(old.version.to_string()),
        ..DecideArgs::default().options()
    };
    let session = session(cluster, releases, options, Waits::SANDBOX);
    // What the cluster makes by itself while this runs is looked at before the rest is decided.
    for round in 1.. {
        let prepared = engine::prepare(&session).await.map_err(read_error)?;
        let plan = prepared.decision.plan.as_ref().ok_or_else(|| {
            anyhow!(
                "the sample platform cannot be installed:\n{}",
                text::findings(prepared.findings())
            )
        })?;
        let done = engine::run(cluster, plan, &prepared.snapshot, &session.run, &|_| ())
            .await
            .context("cannot install the sample platform")?;
        if done.superseded.is_empty() {
            break;
        }
        if round == ROUNDS {
            let names: Vec<_> = done.superseded.iter().map(ToString::to_string).collect();
            bail!(
                "cannot install the sample platform: {} keep changing",
                names.join(", ")
            );
        }
    }
    let (catalog, _) = release::load_catalog(&Files::embedded(), &old.version)?;
    let tenants = sample::tenants(&catalog)?;
    for object in &tenants {
        create(cluster, object).await?;
    }
    // The installer that was there before runs on, as it does in every cluster.
    cluster
        .merge_patch(&upgrade::installer_key(), &json!({"spec": {"replicas": 1}}))
        .await?;
    Ok(tenants.len())
}

async fn create(cluster: &Cluster, object: &serde_json::Value) -> anyhow::Result<()> {
    cluster
        .create(object)
        .await
        .context("cannot make the sample platform")?;
    Ok(())
}

/// Keeps the sandbox's API up until interrupted.
async fn serve(sandbox: &Sandbox, folder: &std::path::Path) -> anyhow::Result<()> {
    let server = sandbox
        .serve(ServeOptions::default())
        .await
        .context("cannot serve the sandbox's API")?;
    let path = folder.join("kubeconfig");
    cluster::write_private(&path, server.kubeconfig().as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    output::print(&format!(
        "\nThe sandbox's API is up at https://{}. Look around from another terminal:\n  kubectl --kubeconfig {} get globalroles\nStop it with Ctrl-C.\n",
        server.address,
        path.display()
    ));
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}
