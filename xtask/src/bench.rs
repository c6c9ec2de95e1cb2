//! How long an upgrade takes and how much memory, measured on the whole program in its release build.
//!
//! ```text
//!   measure(command) ──▶ Sample { wall, peak, output }      one process, from its start to its end
//!        │ after a warm-up, RUNS times
//!        ▼
//!   Row { what, figures: median and range } ──▶ render ──▶ bench/RESULTS.md
//! ```
//!
//! The real control plane is begun anew, from the dump, for every upgrade that is measured on it.

mod access;
mod backup;
mod components;
mod operator;
mod sandbox;
mod world;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::control_plane::{self, ControlPlane};

/// What is measured, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Runs that count; one more comes first and does not.
    pub runs: usize,
    /// The state of a KubeSphere 3.2.1 cluster that is upgraded.
    pub dump: PathBuf,
    /// The same with every component enabled; without it what is measured on that is left out.
    pub everything: Option<PathBuf>,
    /// Leave out what needs a real control plane.
    pub skip_control_plane: bool,
    /// Measure this and nothing else.
    pub only: Option<Only>,
}

/// A part of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Only {
    /// Who may do what on a large cluster.
    Access,
    /// What custom roles cost an upgrade; needs a real control plane.
    Migration,
    /// The backup of a large cluster.
    Backup,
    /// The operator.
    Operator,
    /// Enabling components, and clusters with all of them.
    Components,
    /// The sandbox beside a real API server.
    Sandbox,
}

/// The dump that is measured with unless told otherwise, below the workspace's root.
pub const DUMP: &str = "crates/ks-installer/tests/fixtures/kubesphere-3.2.1-tenants.ndjson.zst";

/// Where the results go, below the workspace's root.
pub const RESULTS: &str = "bench/RESULTS.md";

/// One run of a process.
#[derive(Debug)]
struct Sample {
    wall: Duration,
    /// Most memory in use at once (resident set), in bytes.
    peak: u64,
    stdout: String,
}

/// A middle value and the range around it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// `None` if there are no values.
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, least, most })
    }

    /// `1.25 (1.20–1.31)`, with so many decimals.
    fn text(self, decimals: usize) -> String {
        let Self { median, least, most } = self;
        format!("{median:.decimals$} ({least:.decimals$}–{most:.decimals$})")
    }
}

/// A line of the results.
#[derive(Debug, PartialEq)]
struct Row {
    what: String,
    /// In milliseconds.
    time: Spread,
    /// In MB; `None` where it is that of the line above.
    peak: Option<Spread>,
    wanted: &'static str,
}

/// Measures everything and gives the text of the results.
///
/// # Errors
/// The program cannot be built, or a run of it fails.
pub fn run(root: &Path, options: &Options, report: &dyn Fn(&str)) -> anyhow::Result<String> {
    let program = build(root, &["-p", "ks-installer"])?.join("ks-installer");
    let folder = tempfile::tempdir().context("making a folder for what the runs write")?;
    let bench = Bench {
        program: &program,
        folder: folder.path(),
        options,
        report,
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut rows = Vec::new();
    if options.only.is_none() {
        rows.extend([bench.demo()?, bench.rehearsal()?]);
    }
    let is_measured = |part| options.only.is_none_or(|only| only == part);
    if is_measured(Only::Access) {
        rows.extend(access::measure(&bench)?);
    }
    if is_measured(Only::Backup) {
        rows.push(backup::measure(&bench, root)?);
    }
    if is_measured(Only::Components) {
        rows.extend(components::measure(&bench, root)?);
    }
    if is_measured(Only::Operator) {
        rows.extend(operator::measure(&bench, root)?);
    }
    if is_measured(Only::Sandbox) {
        rows.extend(sandbox::measure(&bench)?);
    }
    let mut skipped = None;
    let is_hermetic = matches!(
        options.only,
        Some(Only::Access | Only::Backup | Only::Operator | Only::Sandbox)
    );
    if options.skip_control_plane || is_hermetic {
        skipped = options
            .skip_control_plane
            .then(|| "left out on request".to_owned());
    } else {
        match control_plane::ensure(report) {
            Ok(_) => {
                if options.only.is_none() {
                    rows.extend(bench.real()?);
                }
                if is_measured(Only::Migration) {
                    rows.extend(access::measure_migration(&bench)?);
                }
                if let Some(everything) = options
                    .everything
                    .as_ref()
                    .filter(|_| is_measured(Only::Components))
                {
                    rows.extend(components::real(&bench, everything)?);
                }
            }
            Err(error) if error.is_unavailable() => skipped = Some(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(render(
        &Machine::read(root),
        &load,
        options,
        &rows,
        skipped.as_deref(),
    ))
}

/// Builds in release, and gives the folder that programs are in.
fn build(root: &Path, what: &[&str]) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked"])
        .args(what)
        .current_dir(root)
        .status()
        .context("building the program")?;
    if !status.success() {
        bail!("building the program: {status}");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release"))
}

struct Bench<'a> {
    program: &'a Path,
    folder: &'a Path,
    options: &'a Options,
    report: &'a dyn Fn(&str),
}

impl Bench<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command
            .args(arguments)
            .current_dir(self.folder)
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1");
        command
    }

    /// Runs a command as often as asked for, and once before.
    fn repeat(&self, what: &str, arguments: &[&str]) -> anyhow::Result<Vec<Sample>> {
        (self.report)(what);
        let mut samples = Vec::new();
        for _ in 0..=self.options.runs {
            samples.push(measure(self.command(arguments)).with_context(|| what.to_owned())?);
        }
        samples.remove(0);
        Ok(samples)
    }

    fn demo(&self) -> anyhow::Result<Row> {
        const WHAT: &str = "`demo`: a sample cluster is made in the sandbox and upgraded";
        let samples = self.repeat(WHAT, &["demo", "-o", "json", "--directory", "demo"])?;
        row(WHAT.to_owned(), &samples, "< 5 s")
    }

    fn rehearsal(&self) -> anyhow::Result<Row> {
        const WHAT: &str = "`rehearse --from`: the tenants' cluster is upgraded in the sandbox";
        let dump = self.options.dump.to_string_lossy();
        let samples = self.repeat(WHAT, &["rehearse", "-o", "json", "--from", &dump])?;
        row(WHAT.to_owned(), &samples, "< 150 MB")
    }

    /// The same cluster on a real API server: restored, upgraded, and then found to need nothing.
    fn real(&self) -> anyhow::Result<Vec<Row>> {
        let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
        let (mut upgrades, mut repeats) = (Vec::new(), Vec::new());
        let (mut rollbacks, mut overheads) = (Vec::new(), Vec::new());
        for number in 0..=self.options.runs {
            (self.report)(&format!(
                "control plane {} of {}",
                number + 1,
                self.options.runs + 1
            ));
            let control_plane = runtime.block_on(restored(&self.options.dump))?;
            let kubeconfig = control_plane.kubeconfig();
            let kubeconfig = kubeconfig.to_string_lossy();
            let arguments = writes("upgrade", &[], &kubeconfig);
            upgrades.push(measure(self.command(&arguments)).context("the upgrade")?);
            let repeat = measure(self.command(&arguments)).context("the second upgrade")?;
            if number_at(&repeat, "written")? != 0.0 {
                bail!("the second upgrade wrote: {}", repeat.stdout);
            }
            repeats.push(repeat);

            let back = ["rollback", "--yes", "-o", "json", "--kubeconfig", &kubeconfig];
            rollbacks.push(measure(self.command(&back)).context("the rollback")?);
            let whole = measure(self.command(&arguments)).context("the upgrade after the rollback")?;
            measure(self.command(&back)).context("the second rollback")?;
            let half = whole.wall / 2;
            self.kill_after(half, &arguments)?;
            let rest = measure(self.command(&arguments)).context("the rest of the upgrade")?;
            overheads.push((half + rest.wall).as_secs_f64() - whole.wall.as_secs_f64());
        }
        for samples in [&mut upgrades, &mut repeats, &mut rollbacks] {
            samples.remove(0);
        }
        overheads.remove(0);
        let [whole, writing] = upgrade_rows(
            "the tenants' cluster (core and monitoring)",
            &upgrades,
            ("< 150 MB", "< 4 s"),
        )?;
        Ok(vec![
            whole,
            writing,
            row(
                "`upgrade` again, where nothing is to be done".to_owned(),
                &repeats,
                "< 300 ms",
            )?,
            row(
                "`rollback` of it, with the waits for rollouts".to_owned(),
                &rollbacks,
                "",
            )?,
            Row {
                what: "what SIGKILL half-way through and a second run cost more than one run".to_owned(),
                time: spread(overheads.into_iter().map(|seconds| seconds * 1000.0))?,
                peak: None,
                wanted: "",
            },
        ])
    }

    /// Starts a command and kills it so much later, in the middle of its work.
    fn kill_after(&self, time: Duration, arguments: &[&str]) -> anyhow::Result<()> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the upgrade that is cut")?;
        std::thread::sleep(time);
        if let Some(status) = child.try_wait().context("waiting for the upgrade")? {
            bail!("the upgrade that was to be cut ended before: {status}");
        }
        child.kill().context("killing the upgrade")?;
        child.wait().context("waiting for the upgrade")?;
        Ok(())
    }
}

/// A control plane with the objects of a dump.
async fn restored(dump: &Path) -> anyhow::Result<ControlPlane> {
    let options = control_plane::Options {
        objects: control_plane::read_dump(dump)?,
        ..control_plane::Options::default()
    };
    let mut started = ControlPlane::start(options).await?;
    started.wait_until_settled(Duration::from_mins(2)).await?;
    Ok(started)
}

/// Arguments of a command that writes, in a cluster in which KubeSphere's own controllers do not run.
fn writes<'a>(command: &'a str, more: &[&'a str], kubeconfig: &'a str) -> Vec<&'a str> {
    let mut arguments = vec![
        command,
        "--yes",
        "--wait-controllers",
        "0",
        "-o",
        "json",
        "--kubeconfig",
        kubeconfig,
    ];
    arguments.extend(more);
    arguments
}

/// How long upgrades of a cluster took, and their writes alone. `wanted` is the memory, and the time of the writes.
fn upgrade_rows(
    of: &str,
    upgrades: &[Sample],
    wanted: (&'static str, &'static str),
) -> anyhow::Result<[Row; 2]> {
    let last = upgrades.last().context("at least one run is needed")?;
    let writing: Vec<f64> = upgrades
        .iter()
        .map(|sample| number_at(sample, "writingSeconds"))
        .collect::<anyhow::Result<_>>()?;
    Ok([
        row(
            format!("`upgrade` of {of} on a real API server, with the waits for rollouts"),
            upgrades,
            wanted.0,
        )?,
        Row {
            what: format!(
                "… of which its {} writes to the API, without the waits",
                number_at(last, "written")?
            ),
            time: spread(writing.into_iter().map(|seconds| seconds * 1000.0))?,
            peak: None,
            wanted: wanted.1,
        },
    ])
}

fn row(what: String, samples: &[Sample], wanted: &'static str) -> anyhow::Result<Row> {
    #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
    let peaks = samples.iter().map(|sample| sample.peak as f64 / 1e6);
    Ok(Row {
        what,
        time: spread(samples.iter().map(|sample| sample.wall.as_secs_f64() * 1000.0))?,
        peak: Some(spread(peaks)?),
        wanted,
    })
}

fn spread(values: impl IntoIterator<Item = f64>) -> anyhow::Result<Spread> {
    Spread::of(values).context("at least one run is needed")
}

/// A number of the JSON document that the program printed.
fn number_at(sample: &Sample, name: &str) -> anyhow::Result<f64> {
    let document: Value = serde_json::from_str(&sample.stdout).context("reading what the program printed")?;
    document[name]
        .as_f64()
        .with_context(|| format!("there is no {name} in {document}"))
}

/// Runs a command to its end, which must be a good one.
fn measure(command: Command) -> anyhow::Result<Sample> {
    measure_with(command, Stdio::null())
}

/// The same, with something on its standard input. What it writes goes to files: who read it meanwhile would take the
/// time of its processors.
fn measure_with(mut command: Command, input: Stdio) -> anyhow::Result<Sample> {
    let file = || tempfile::tempfile().context("making a file for what the program says");
    let (stdout, stderr) = (file()?, file()?);
    let end_of = |file: &File| file.try_clone().context("sharing a file with the program");
    command
        .stdin(input)
        .stdout(end_of(&stdout)?)
        .stderr(end_of(&stderr)?);
    let begin = Instant::now();
    let mut child = command.spawn().context("starting the program")?;
    let peak = peak_until_end(&mut child)?;
    let wall = begin.elapsed();
    let status = child.wait().context("waiting for the program")?;
    let (stdout, stderr) = (text(stdout)?, text(stderr)?);
    if !status.success() {
        bail!("{command:?}: {status}\n{stdout}\n{stderr}");
    }
    Ok(Sample { wall, peak, stdout })
}

/// All that is in a file.
fn text(mut file: File) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .context("reading what the program said")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The kernel's own high-water mark of a process, read every two milliseconds until the process ends, since an ended one
/// has none any more.
fn peak_until_end(child: &mut Child) -> anyhow::Result<u64> {
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().context("waiting for the program")?.is_none() {
        let mark = fs::read_to_string(&path)
            .ok()
            .and_then(|status| high_water_mark(&status));
        peak = peak.max(mark.unwrap_or_default());
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(peak)
}

/// `VmHWM` of `/proc/PID/status`, in bytes.
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// What was measured on, and what.
#[derive(Debug)]
struct Machine {
    processor: String,
    cores: usize,
    /// In GB.
    memory: f64,
    commit: String,
    date: String,
}

impl Machine {
    fn read(root: &Path) -> Self {
        let field = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
        };
        let git = |arguments: &[&str]| {
            let output = Command::new("git").args(arguments).current_dir(root).output();
            output
                .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.trim_end_matches("kB").trim().parse::<f64>().ok())
            .unwrap_or_default();
        let is_changed = !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty();
        Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory: memory * 1024.0 / 1e9,
            commit: git(&["rev-parse", "--short", "HEAD"]) + if is_changed { ", with changes" } else { "" },
            date: jiff::Zoned::now().date().to_string(),
        }
    }
}

fn render(machine: &Machine, load: &str, options: &Options, rows: &[Row], skipped: Option<&str>) -> String {
    let mut out = String::new();
    let Machine {
        processor,
        cores,
        memory,
        commit,
        date,
    } = machine;
    let runs = options.runs;
    let load = load.split_whitespace().next().unwrap_or("unknown");
    let _ = write!(
        out,
        "# Benchmarks\n\n\
         Made by `cargo xtask bench`: the whole program in its release build, from the start of its process to its end. \
         Medians of {runs} runs after one that does not count, with the least and the most in parentheses. Memory is the \
         process's highest resident set.\n\n\
         - Machine: {cores} cores ({processor}), {memory:.1} GB; load {load} at the start\n\
         - Commit: {commit}\n\
         - Date: {date}\n\
         - Cluster: KubeSphere 3.2.1 with tenants, {} objects, Kubernetes {}\n\n\
         | what | time in ms | memory in MB | wanted |\n\
         |---|---|---|---|\n",
        control_plane::read_dump(&options.dump).map_or(0, |objects| objects.len()),
        control_plane::KUBERNETES_VERSION,
    );
    for row in rows {
        let peak = row.peak.map(|peak| peak.text(0)).unwrap_or_default();
        let _ = writeln!(
            out,
            "| {} | {} | {peak} | {} |",
            row.what,
            row.time.text(0),
            row.wanted
        );
    }
    if let Some(reason) = skipped {
        let _ = writeln!(out, "\nNot measured on a real API server: {reason}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_middle_and_the_ends() {
        let check = |values: &[f64], expect: Option<(f64, f64, f64)>| {
            let expect = expect.map(|(median, least, most)| Spread { median, least, most });
            assert_eq!(Spread::of(values.iter().copied()), expect, "{values:?}");
        };
        check(&[], None);
        check(&[2.0], Some((2.0, 2.0, 2.0)));
        check(&[9.0, 1.0, 2.0], Some((2.0, 1.0, 9.0)));
        check(&[4.0, 1.0, 2.0, 9.0], Some((3.0, 1.0, 9.0)));
        assert_eq!(Spread::of([1.04, 2.0, 3.0]).unwrap().text(1), "2.0 (1.0–3.0)");
    }

    #[test]
    fn the_high_water_mark_is_in_bytes() {
        assert_eq!(
            high_water_mark("VmPeak:\t  9 kB\nVmHWM:\t   12 kB\n"),
            Some(12 * 1024)
        );
        assert_eq!(high_water_mark("State:\tZ (zombie)\n"), None);
    }

    #[test]
    fn a_process_is_measured_to_its_end() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 0.05; echo done"]);
        let sample = measure(command).unwrap();
        assert_eq!(sample.stdout, "done\n");
        assert!(sample.wall >= Duration::from_millis(50));
        assert!(sample.peak > 0);
        let mut command = Command::new("sh");
        command.args(["-c", "echo too bad >&2; exit 3"]);
        let error = measure(command).unwrap_err().to_string();
        assert!(error.contains("too bad") && error.contains('3'), "{error}");
    }
}
