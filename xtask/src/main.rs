//! `cargo xtask`: developer chores.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks to whoever runs it"
)]

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use xtask::control_plane::{self, ControlPlane};
use xtask::{bench, ci, clients, conformance, generate, helm, image, release};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer chores of this workspace")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

// A further chore is a variant here, its arguments a struct of its own module, and an arm in `main`.
#[derive(Subcommand)]
enum Chore {
    /// Run what CI runs: format, lints, tests, generated files, tests with a real control plane
    Ci(CiArguments),
    /// Make the generated files of the repository
    Generate {
        /// Only compare, and fail if one is stale
        #[arg(long)]
        check: bool,
    },
    /// Fetch a real helm, a real kubectl and Kubernetes' Python package for tests into the cache, and say where they are
    Helm,
    /// Compare the end state of everything with that of upstream's upgrade, and write the numbers in docs/parity.md
    Parity,
    /// Measure the release build, and write bench/RESULTS.md
    Bench(BenchArguments),
    /// Build the static binary and write its image as an OCI archive, without a container engine
    Image(ImageArguments),
    /// Collect what is given to users: binary, image, manifests, list of images, bill of materials, checksums
    Release(ReleaseArguments),
    /// Replay the sandbox's corpus on a real control plane and on the sandbox, and say where they differ
    Conformance(ConformanceArguments),
    /// A real Kubernetes 1.20.2 control plane on loopback
    #[command(subcommand)]
    ControlPlane(ControlPlaneChore),
}

#[derive(Args)]
struct CiArguments {
    /// Leave out the tests with a real control plane, and building it
    #[arg(long)]
    skip_control_plane: bool,
}

#[derive(Args)]
struct BenchArguments {
    /// Runs that count, after one that does not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
    /// The cluster that is upgraded: one object a line, or a List; .zst is decompressed
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// A cluster with every component enabled, which some measurements are of
    #[arg(long, value_name = "FILE")]
    everything: Option<PathBuf>,
    /// Leave out what needs a real control plane
    #[arg(long)]
    skip_control_plane: bool,
    /// Measure this alone, and print the results instead of writing them
    #[arg(long, value_enum)]
    only: Option<bench::Only>,
}

#[derive(Args)]
struct ImageArguments {
    /// Where the archive goes [default: target/image/ks-installer.oci.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Build once more from a copy of the sources in another folder, and fail if the digest is another
    #[arg(long)]
    verify: bool,
}

#[derive(Args)]
struct ReleaseArguments {
    /// The folder that all of it goes to [default: target/release-VERSION]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

#[derive(Args)]
struct ConformanceArguments {
    /// Write down what the real server answers
    #[arg(long)]
    record: bool,
    /// Only the cases that have this in their name
    #[arg(long, default_value = "")]
    case: String,
    /// Use this API server instead of starting one: a kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[derive(Subcommand)]
enum ControlPlaneChore {
    /// Build Kubernetes from Debian's packages into the cache, if it is not there
    Build,
    /// Start a control plane and keep it until Ctrl-C (or, detached, until `down`)
    Up(UpArguments),
    /// End the control planes that `up` started, and clear up after any that died
    Down,
}

#[derive(Args)]
struct UpArguments {
    /// Restore this dump first: one JSON object a line, or a List; .zst is decompressed
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Number of nodes, if the dump has none
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Only etcd and the API server
    #[arg(long)]
    no_controllers: bool,
    /// Refuse connections to admission webhooks and aggregated APIs
    #[arg(long)]
    no_webhooks: bool,
    /// An image, or a part of one, that cannot be pulled (may be given more than once)
    #[arg(long, value_name = "PART")]
    unpullable_image: Vec<String>,
    /// Return once it is ready
    #[arg(long)]
    detach: bool,
}

fn main() -> ExitCode {
    // While a cluster starts, requests fail by the dozen: silent unless RUST_LOG asks.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let result = match Arguments::parse().chore {
        Chore::Ci(arguments) => Ok(run_ci(&arguments)),
        Chore::Generate { check } => run_generate(check),
        Chore::Helm => run_helm(),
        Chore::Parity => run_parity(),
        Chore::Bench(arguments) => run_bench(arguments).map(|()| ExitCode::SUCCESS),
        Chore::Image(arguments) => run_image(arguments).map(|()| ExitCode::SUCCESS),
        Chore::Release(arguments) => run_release(arguments).map(|()| ExitCode::SUCCESS),
        Chore::Conformance(arguments) => run_conformance(arguments),
        Chore::ControlPlane(chore) => run_control_plane(chore).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn report(line: &str) {
    println!("{line}");
}

fn run_ci(arguments: &CiArguments) -> ExitCode {
    let options = ci::Options {
        skip_control_plane: arguments.skip_control_plane,
    };
    if ci::run(&generate::workspace(), options, &report) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_generate(check: bool) -> anyhow::Result<ExitCode> {
    let outcome = generate::run(
        &generate::Programs::build(&generate::workspace())?,
        generate::GENERATORS,
        check,
    )?;
    for path in &outcome.stale {
        println!("{} {}", if check { "stale:" } else { "wrote" }, path.display());
    }
    println!("{} generated files are fresh", outcome.fresh.len());
    Ok(if check && !outcome.stale.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn run_helm() -> anyhow::Result<ExitCode> {
    println!("{}", helm::ensure()?.display());
    println!("{}", helm::ensure_kubectl()?.display());
    println!("{}", clients::ensure_python()?.display());
    Ok(ExitCode::SUCCESS)
}

/// The comparison is a test; this has it write down what it counts.
fn run_parity() -> anyhow::Result<ExitCode> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let arguments = [
        "test",
        "--locked",
        "-p",
        "ks-installer",
        "--test",
        "engine",
        "parity",
        "--",
        "--nocapture",
    ];
    let status = Command::new(cargo)
        .args(arguments)
        .env("KS_PARITY", "write")
        .status()
        .context("running the comparison")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_bench(arguments: BenchArguments) -> anyhow::Result<()> {
    let root = generate::workspace();
    let dump = arguments.dump.unwrap_or_else(|| root.join(bench::DUMP));
    let options = bench::Options {
        runs: arguments.runs.into(),
        dump: std::path::absolute(&dump).with_context(|| format!("cannot use {}", dump.display()))?,
        everything: arguments
            .everything
            .map(std::path::absolute)
            .transpose()
            .context("cannot use the cluster with every component")?,
        skip_control_plane: arguments.skip_control_plane,
        only: arguments.only,
    };
    let results = bench::run(&root, &options, &report)?;
    if arguments.only.is_some() {
        print!("\n{results}");
        return Ok(());
    }
    let path = root.join(bench::RESULTS);
    std::fs::write(&path, &results).with_context(|| format!("cannot write {}", path.display()))?;
    print!("\n{results}");
    println!("wrote {}", path.display());
    Ok(())
}

fn run_image(arguments: ImageArguments) -> anyhow::Result<()> {
    let options = image::Options {
        output: arguments.output,
        verify: arguments.verify,
    };
    image::run(&generate::workspace(), &options, &report)?;
    Ok(())
}

fn run_release(arguments: ReleaseArguments) -> anyhow::Result<()> {
    let folder = release::run(&generate::workspace(), arguments.output, &report)?;
    println!("wrote {}", folder.display());
    Ok(())
}

fn run_conformance(arguments: ConformanceArguments) -> anyhow::Result<ExitCode> {
    let options = conformance::Options {
        record: arguments.record,
        case: arguments.case,
        kubeconfig: arguments.kubeconfig,
    };
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let wrong = runtime.block_on(conformance::run(&generate::workspace(), &options, &report))?;
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_control_plane(chore: ControlPlaneChore) -> anyhow::Result<()> {
    match chore {
        ControlPlaneChore::Build => {
            let programs = control_plane::ensure(&report)?;
            control_plane::client_go(&report)?;
            println!(
                "{}",
                programs
                    .kube_apiserver
                    .parent()
                    .unwrap_or(&programs.kube_apiserver)
                    .display()
            );
            Ok(())
        }
        ControlPlaneChore::Up(arguments) if arguments.detach => detach(),
        ControlPlaneChore::Up(arguments) => {
            let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
            runtime.block_on(up(arguments))
        }
        ControlPlaneChore::Down => down(),
    }
}

async fn up(arguments: UpArguments) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    control_plane::ensure(&report)?;
    let objects = arguments
        .dump
        .as_deref()
        .map(control_plane::read_dump)
        .transpose()?
        .unwrap_or_default();
    let options = control_plane::Options {
        objects,
        nodes: arguments.nodes,
        controllers: !arguments.no_controllers,
        answer_webhooks: !arguments.no_webhooks,
        unpullable_images: arguments.unpullable_image,
        ..control_plane::Options::default()
    };
    let run = async {
        let begin = Instant::now();
        let mut started = ControlPlane::start(options).await?;
        println!("API server ready after {:.1} s", begin.elapsed().as_secs_f32());
        match started.wait_until_settled(Duration::from_mins(1)).await {
            Ok(()) => println!("all workloads ready after {:.1} s", begin.elapsed().as_secs_f32()),
            Err(error) => println!("{error}"),
        }
        let instance = started.publish_standing()?;
        println!("export KUBECONFIG={}", instance.kubeconfig.display());
        std::future::pending::<()>().await;
        anyhow::Ok(())
    };
    tokio::select! {
        result = run => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

/// Runs this very command again, in the background and without `--detach`, until it says it is ready.
fn detach() -> anyhow::Result<()> {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::CommandExt as _;

    let program = std::env::current_exe().context("finding this program")?;
    let mut child = Command::new(program)
        .args(
            std::env::args_os()
                .skip(1)
                .filter(|argument| argument != "--detach"),
        )
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting in the background")?;
    let output = child.stdout.take().context("reading what it says")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("reading what it says")?;
        println!("{line}");
        // Its last word.
        if line.starts_with("export KUBECONFIG=") {
            return Ok(());
        }
    }
    bail!("the control plane did not start")
}

fn down() -> anyhow::Result<()> {
    let standing: Vec<_> = control_plane::instances()
        .into_iter()
        .filter(|instance| instance.standing)
        .collect();
    for instance in &standing {
        if !instance.stop() {
            bail!("process {} does not end", instance.owner);
        }
        println!("stopped {}", instance.server);
    }
    let swept = control_plane::sweep();
    println!("{} stopped, {swept} cleared up", standing.len());
    Ok(())
}
