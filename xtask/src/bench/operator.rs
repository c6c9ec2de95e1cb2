//! The operator: how much memory it keeps while it idles, how soon it looks, and what idling costs the API server.
//!
//! The cluster is a sandbox in a process of its own. What is measured begins where its cluster is upgraded already.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::backup::{Served, mk_role, write_cluster};
use super::{Bench, Row, build, components::milliseconds, spread};
use crate::image;

/// Custom roles in the large cluster.
const ROLES: u32 = 50_000;
/// For so long nothing happens before memory is looked at.
const QUIET: Duration = Duration::from_secs(20);
/// For so long requests are counted: longer than a watch lasts.
const IDLE: Duration = Duration::from_mins(5);
/// The logged line with which a reconciliation begins.
const BEGINS: &str = "reconciling";

pub(super) fn measure(bench: &Bench<'_>, root: &Path) -> anyhow::Result<Vec<Row>> {
    let server = build(root, &["-p", "sandbox", "--example", "serve"])?.join("examples/serve");
    // What runs in clusters is what the image holds.
    image::build::prepare(bench.report)?;
    let program = image::build::build(root, &image::target(root).join("image"))?.path;
    let bench = &Bench {
        program: &program,
        ..*bench
    };
    let mut rows = Vec::new();
    for (roles, wanted) in [(0, "< 25 MB"), (ROLES, "< 60 MB")] {
        let what = match roles {
            0 => "the tenants' cluster".to_owned(),
            roles => format!("the same with {roles} further roles"),
        };
        (bench.report)(&format!("an operator on {what}"));
        let cluster = bench.folder.join("operated.ndjson");
        write_cluster(&cluster, &bench.options.dump, (0..roles).map(mk_role))?;
        let kubeconfig = bench.folder.join("operated.kubeconfig");
        let mut served = Served::start(&server, &cluster, &kubeconfig)?;
        // The first one upgrades.
        Operator::start(bench, &kubeconfig)?.wait_until_done()?;
        let (mut begins, mut ends, mut memory) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..bench.options.runs {
            let mut operator = Operator::start(bench, &kubeconfig)?;
            begins.push(operator.wait_for(BEGINS)?.as_secs_f64() * 1000.0);
            ends.push(operator.wait_for("reconciled")?.as_secs_f64() * 1000.0);
            std::thread::sleep(QUIET);
            memory.push(resident(&operator.child)?);
        }
        rows.push(Row {
            what: format!("an `operator` on {what}: from its start to its first look; the memory is what it has when idle"),
            time: spread(begins)?,
            peak: Some(spread(memory)?),
            wanted: if roles == 0 { "< 200 ms, < 25 MB" } else { wanted },
        });
        rows.push(Row {
            what: "… and to the end of that".to_owned(),
            time: spread(ends)?,
            peak: None,
            wanted: "",
        });
        if roles == 0 {
            rows.push(Row {
                what: "from an edit of the ClusterConfiguration to its next look".to_owned(),
                time: milliseconds(edits(bench, &kubeconfig)?.iter().map(|edit| edit.looked))?,
                peak: None,
                wanted: "< 100 ms",
            });
            rows.push(idle(bench, &mut served, &kubeconfig)?);
        }
    }
    Ok(rows)
}

/// What an hour of nothing costs.
fn idle(bench: &Bench<'_>, served: &mut Served, kubeconfig: &Path) -> anyhow::Result<Row> {
    (bench.report)(&format!("an idle operator, for {} s", IDLE.as_secs()));
    let mut operator = Operator::start(bench, kubeconfig)?;
    operator.wait_for("reconciled")?;
    std::thread::sleep(QUIET);
    let before = served.requests()?;
    std::thread::sleep(IDLE);
    let requests = served.requests()? - before;
    let hourly = requests * 3600 / IDLE.as_secs();
    Ok(Row {
        what: format!(
            "requests of an idle `operator` in an hour: {hourly}, its Lease and its watches. Milliseconds between two"
        ),
        #[expect(clippy::cast_precision_loss, reason = "an hour has few milliseconds")]
        time: spread([3_600_000.0 / hourly.max(1) as f64])?,
        peak: None,
        wanted: "",
    })
}

/// Edits that ask for nothing, and when the operator looked.
pub(super) fn edits(bench: &Bench<'_>, kubeconfig: &Path) -> anyhow::Result<Vec<Edit>> {
    (bench.report)("edits of the ClusterConfiguration");
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let mut operator = Operator::start(bench, kubeconfig)?;
    operator.wait_for("reconciled")?;
    let client = runtime.block_on(async {
        let text = kube::config::Kubeconfig::read_from(kubeconfig)?;
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(text, &options).await?;
        anyhow::Ok(kube::Client::try_from(config)?)
    })?;
    let resource = ApiResource {
        group: "installer.kubesphere.io".into(),
        version: "v1alpha1".into(),
        api_version: "installer.kubesphere.io/v1alpha1".into(),
        kind: "ClusterConfiguration".into(),
        plural: "clusterconfigurations".into(),
    };
    let api = kube::Api::<DynamicObject>::namespaced_with(client, "kubesphere-system", &resource);
    let mut times = Vec::new();
    for number in 0..=bench.options.runs {
        std::thread::sleep(Duration::from_secs(2));
        let approval = if number % 2 == 0 { "manual" } else { "automatic" };
        let patch = json!({"metadata": {"annotations": {"installer.kubesphere.io/approval": approval}}});
        let edited = Timestamp::now();
        runtime
            .block_on(async {
                let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
                api.patch("ks-installer", &parameters, &patch).await
            })
            .context("editing the ClusterConfiguration")?;
        let begun = operator.next_after(BEGINS, edited)?;
        let ended = operator.next_after("reconciled", begun)?;
        times.push(Edit {
            looked: begun.duration_since(edited).unsigned_abs(),
            reconciled: ended.duration_since(begun).unsigned_abs(),
        });
    }
    times.remove(0);
    Ok(times)
}

/// What an edit led to.
pub(super) struct Edit {
    /// From the edit to the begin of the reconciliation.
    looked: Duration,
    /// From there to its end.
    pub(super) reconciled: Duration,
}

/// A running operator, which ends with this.
pub(super) struct Operator {
    child: Child,
    begun: Timestamp,
    lines: Receiver<String>,
}

impl Operator {
    pub(super) fn start(bench: &Bench<'_>, kubeconfig: &Path) -> anyhow::Result<Self> {
        let mut command = bench.command(&[
            "operator",
            "--metrics-address",
            "127.0.0.1:0",
            "--wait-controllers",
            "0",
            "--log-format",
            "json",
            "--kubeconfig",
        ]);
        command
            .arg(kubeconfig)
            .env("KS_INSTALLER_LOG", "ks_installer=debug");
        let begun = Timestamp::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the operator")?;
        let out = child.stdout.take().context("the operator has no output")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, begun, lines })
    }

    /// When it logged the next line that says so.
    fn next(&self, words: &str) -> anyhow::Result<Timestamp> {
        let until = Instant::now() + Duration::from_mins(3);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .with_context(|| format!("the operator never said {words:?}"))?;
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if line["message"]
                .as_str()
                .is_some_and(|message| message.starts_with(words))
            {
                let time = line["timestamp"].as_str().context("a line without a time")?;
                return time.parse().context("a line with a strange time");
            }
        }
    }

    /// How long after its start it said so.
    fn wait_for(&mut self, words: &str) -> anyhow::Result<Duration> {
        let said = self.next(words)?;
        Ok(said.duration_since(self.begun).unsigned_abs())
    }

    /// When it said so first after a moment.
    fn next_after(&self, words: &str, moment: Timestamp) -> anyhow::Result<Timestamp> {
        loop {
            let said = self.next(words)?;
            if said > moment {
                return Ok(said);
            }
        }
    }

    pub(super) fn wait_until_done(mut self) -> anyhow::Result<()> {
        self.wait_for("KubeSphere is at ")?;
        Ok(())
    }
}

impl Drop for Operator {
    /// It gives the lead back, so that the next one has it at once.
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// `VmRSS` of `/proc/PID/status`, in MB.
fn resident(child: &Child) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).context("the operator ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: Option<f64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    match kilobytes {
        Some(kilobytes) => Ok(kilobytes * 1024.0 / 1e6),
        None => bail!("the operator has no memory"),
    }
}
