//! What each command does.

mod access;
mod approve;
pub(crate) mod backup;
mod components;
mod demo;
mod drift;
mod handover;
mod install;
mod plan;
mod rehearse;
mod rollback;
pub(crate) mod run;
mod sandbox;
mod status;
pub(crate) mod upgrade_command;

use std::{
    io::{BufRead as _, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use cluster::{Cluster, ConnectOptions};
use engine::{RunOptions, Session, Stop};
use release::Releases;
use upgrade::{Options, Plan};

use crate::cli::{Cli, Command, Format, Global};

/// How a command ended, for the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// 0
    Done,
    /// 1: the cluster or the upgrade says no.
    Refused,
}

/// Runs the command. An error means that it could not run (exit status 2).
pub(crate) async fn run(cli: Cli) -> anyhow::Result<Verdict> {
    let global = cli.global;
    if matches!(global.output, Format::Csv | Format::Html) && !cli.command.is_impact() {
        return Err(anyhow!(
            "only access impact prints that: -o csv and -o html\nhint: take -o json"
        ));
    }
    match cli.command {
        Command::Access(args) => access::access(&global, args).await,
        Command::Demo(args) => demo::demo(&global, args).await,
        Command::Preflight(args) => plan::preflight(&global, &args).await,
        Command::Plan(args) => plan::plan(&global, &args).await,
        Command::Rehearse(args) => rehearse::rehearse(&global, args).await,
        Command::Sandbox(args) => sandbox::serve(&global, args).await,
        Command::Install(args) => install::install(&global, args).await,
        Command::Upgrade(args) => upgrade_command::upgrade(&global, args).await,
        Command::Rollback(args) => rollback::rollback(&global, args).await,
        Command::Operator(args) => crate::operator::operate(&global, args).await,
        Command::Status(args) => status::status(&global, &args).await,
        Command::Components(args) => components::list(&global, &args).await,
        Command::Enable(args) => components::enable(&global, args).await,
        Command::Disable(args) => components::disable(&global, args).await,
        Command::Images(args) => components::images(&global, &args).await,
        Command::Backup(args) => backup::backup(&global, args).await,
        Command::Completions { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "ks-installer", &mut std::io::stdout());
            Ok(Verdict::Done)
        }
    }
}

/// Connects to the cluster that the options choose; says which.
async fn connect(global: &Global) -> anyhow::Result<Cluster> {
    client(global).await.map(Cluster::new)
}

/// The same, as whoever watches needs it.
pub(crate) async fn client(global: &Global) -> anyhow::Result<kube::Client> {
    let options = ConnectOptions {
        kubeconfig: global.kubeconfig.clone(),
        context: global.context.clone(),
    };
    let (client, name) = cluster::connect(&options).await.map_err(|error| {
        let hint = error.hint();
        with_hint(error.into(), hint)
    })?;
    tracing::info!(%name, "connected");
    Ok(client)
}

/// Asks; only a yes is one.
fn confirm(question: &str) -> anyhow::Result<bool> {
    let mut err = std::io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What was wrong with a dump, and what to do about it.
pub(crate) fn dump_error(error: cluster::dump::DumpError) -> anyhow::Error {
    let hint = error.hint();
    with_hint(error.into(), hint)
}

pub(crate) fn with_hint(error: anyhow::Error, hint: Option<String>) -> anyhow::Error {
    match hint {
        Some(hint) => anyhow!("{error:#}\nhint: {hint}"),
        None => error,
    }
}

pub(crate) fn read_error(error: cluster::ReadError) -> anyhow::Error {
    let hint = error.hint();
    with_hint(error.into(), hint)
}

pub(crate) fn releases() -> anyhow::Result<Releases> {
    Releases::embedded().context("the releases that are built in cannot be read; please report this")
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Waits {
    pub rollout: Duration,
    pub controllers: Duration,
}

impl Waits {
    /// In the sandbox rollouts take no time, and KubeSphere's controllers do not run.
    const SANDBOX: Self = Self {
        rollout: Duration::from_mins(1),
        controllers: Duration::ZERO,
    };
}

pub(crate) fn session<'a>(
    cluster: &'a Cluster,
    releases: &'a Releases,
    options: Options,
    waits: Waits,
) -> Session<'a> {
    let old_managers = upgrade::target(releases, &options)
        .map(|r| r.field_managers.clone())
        .unwrap_or_default();
    let now = jiff::Zoned::now();
    Session {
        cluster,
        releases,
        options,
        run: RunOptions {
            concurrency: 16,
            wait: waits.rollout,
            controllers: waits.controllers,
            old_managers,
            now: now.strftime("%Y-%m-%dT%H:%M:%S%Z").to_string(),
            started: now.timestamp(),
            stop: Stop::default(),
        },
    }
}

/// Saves a plan as JSON.
fn save_plan(plan: &Plan, path: &Path) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(plan)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write the plan to {}", path.display()))
}

/// Reads a saved plan.
fn read_plan(path: &Path) -> anyhow::Result<Plan> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the plan {}", path.display()))?;
    let format = serde_json::from_str::<serde_json::Value>(&text).with_context(|| {
        format!(
            "{} is not a saved plan: it is not JSON\nhint: save one with: ks-installer plan --save FILE",
            path.display()
        )
    })?;
    if let Some(format) = format.get("format").and_then(serde_json::Value::as_u64)
        && format != u64::from(upgrade::plan::FORMAT)
    {
        return Err(anyhow!(
            "{} was saved by another version of ks-installer (format {format}, not {})\nhint: make the plan again",
            path.display(),
            upgrade::plan::FORMAT
        ));
    }
    serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is not a saved plan\nhint: save one with: ks-installer plan --save FILE",
            path.display()
        )
    })
}
