//! Components: enabling all of them at once, and clusters that have all of them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::backup::{Served, write_cluster};
use super::operator::{self, Operator};
use super::{
    Bench, Row, Sample, build, measure as measured, number_at, restored, row, spread, upgrade_rows, writes,
};

/// Where several are ways to have the same, or something else must be there first, these are left out.
const LEFT_OUT: [&str; 2] = ["redis-ha", "ippool"];

pub(super) fn measure(bench: &Bench<'_>, root: &Path) -> anyhow::Result<Vec<Row>> {
    let server = build(root, &["-p", "sandbox", "--example", "serve"])?.join("examples/serve");
    let mut rows = vec![enabled_at_once(bench, &server)?];
    if let Some(everything) = &bench.options.everything {
        rows.extend(nothing_to_do(bench, &server, everything)?);
    }
    Ok(rows)
}

fn enabled_at_once(bench: &Bench<'_>, server: &Path) -> anyhow::Result<Row> {
    let cluster = bench.folder.join("plain.ndjson");
    write_cluster(&cluster, &bench.options.dump, std::iter::empty())?;
    let kubeconfig = bench.folder.join("plain.kubeconfig");
    let path = kubeconfig.to_string_lossy();
    let mut samples = Vec::new();
    let (mut number, mut written) = (0, 0.0);
    for run in 0..=bench.options.runs {
        (bench.report)(&format!(
            "enabling everything, run {} of {}",
            run + 1,
            bench.options.runs + 1
        ));
        let _served = Served::start(server, &cluster, &kubeconfig)?;
        measured(bench.command(&writes("upgrade", &[], &path))).context("the upgrade before")?;
        let listed = measured(bench.command(&["components", "-o", "json", "--kubeconfig", &path]))?;
        let listed: Value = serde_json::from_str(&listed.stdout).context("reading the list of components")?;
        let names = names(&listed);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let enabled =
            measured(bench.command(&writes("enable", &names, &path))).context("enabling everything")?;
        (number, written) = (names.len(), number_at(&enabled, "written")?);
        samples.push(enabled);
    }
    samples.remove(0);
    row(
        format!(
            "`enable` of {number} components at once in a sandbox that is served over TLS: {written} writes"
        ),
        &samples,
        "",
    )
}

/// What is off and can be switched on.
fn names(listed: &Value) -> Vec<String> {
    let all = listed["components"].as_array();
    let names = all.into_iter().flatten().filter(|component| {
        let checks = component["failedChecks"].as_array();
        let is_kept_out = checks.into_iter().flatten().any(|check| check["warning"] != true);
        component["state"] == "disabled" && !component["switch"].is_null() && !is_kept_out
    });
    let names = names.filter_map(|component| component["name"].as_str());
    names
        .filter(|name| !LEFT_OUT.contains(name))
        .map(str::to_owned)
        .collect()
}

/// Runs on an upgraded cluster that has all components, by command and by the operator.
fn nothing_to_do(bench: &Bench<'_>, server: &Path, everything: &Path) -> anyhow::Result<Vec<Row>> {
    (bench.report)("a cluster with every component, where nothing is to be done");
    let cluster = bench.folder.join("everything.ndjson");
    write_cluster(&cluster, everything, std::iter::empty())?;
    let kubeconfig = bench.folder.join("everything.kubeconfig");
    let path = kubeconfig.to_string_lossy();
    let mut served = Served::start(server, &cluster, &kubeconfig)?;
    // The first operator upgrades, so that the second one finds a cluster that an operator left.
    Operator::start(bench, &kubeconfig)?.wait_until_done()?;
    let before = served.requests()?;
    let again = bench.repeat(
        "an upgrade where nothing is to be done",
        &writes("upgrade", &[], &path),
    )?;
    let requests = (served.requests()? - before) / (again.len() as u64 + 1);
    check_nothing_was_written(&again)?;
    let edits = operator::edits(bench, &kubeconfig)?;
    let reconciled = milliseconds(edits.iter().map(|edit| edit.reconciled))?;
    Ok(vec![
        row(
            format!("`upgrade` of a cluster with every component in a sandbox, where nothing is to be done: no write, {requests} requests"),
            &again,
            "< 300 ms",
        )?,
        Row {
            what: "… the same by an `operator` that has looked before: from the begin of a reconciliation to its end".to_owned(),
            time: reconciled,
            peak: None,
            wanted: "< 300 ms",
        },
    ])
}

fn check_nothing_was_written(samples: &[Sample]) -> anyhow::Result<()> {
    for sample in samples {
        if number_at(sample, "written")? != 0.0 {
            bail!("where nothing was to be done, it wrote: {}", sample.stdout);
        }
    }
    Ok(())
}

/// On a real API server, the cluster with every component: upgraded, and looked at again.
pub(super) fn real(bench: &Bench<'_>, everything: &Path) -> anyhow::Result<Vec<Row>> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let (mut upgrades, mut repeats) = (Vec::new(), Vec::new());
    for run in 0..=bench.options.runs {
        (bench.report)(&format!(
            "control plane with every component, {} of {}",
            run + 1,
            bench.options.runs + 1
        ));
        let control_plane = runtime.block_on(restored(everything))?;
        let kubeconfig = control_plane.kubeconfig();
        let kubeconfig = kubeconfig.to_string_lossy();
        let arguments = writes("upgrade", &[], &kubeconfig);
        upgrades.push(measured(bench.command(&arguments)).context("the upgrade of everything")?);
        // What was rolled out a moment ago still settles.
        std::thread::sleep(Duration::from_secs(5));
        repeats.push(measured(bench.command(&arguments)).context("the second upgrade of everything")?);
    }
    upgrades.remove(0);
    repeats.remove(0);
    check_nothing_was_written(&repeats)?;
    let [whole, writing] = upgrade_rows(
        "a cluster with every component",
        &upgrades,
        ("< 300 MB", "< 10 s"),
    )?;
    Ok(vec![
        whole,
        writing,
        row(
            "`upgrade` of it again, where nothing is to be done".to_owned(),
            &repeats,
            "< 300 ms",
        )?,
    ])
}

/// In milliseconds.
pub(super) fn milliseconds(times: impl IntoIterator<Item = Duration>) -> anyhow::Result<super::Spread> {
    spread(times.into_iter().map(|time| time.as_secs_f64() * 1000.0))
}
