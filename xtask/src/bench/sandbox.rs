//! The sandbox beside a real API server: the same client sends the same requests to both.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::future::{BoxFuture, try_join_all};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::components::milliseconds;
use super::{Bench, Row, high_water_mark, spread};
use crate::control_plane::{self, ControlPlane};

/// Objects of one kind that are written and read.
const OBJECTS: usize = 10_000;
/// Requests under way at once.
const IN_FLIGHT: usize = 16;
/// Objects in the file that is loaded.
const LOADED: usize = 100_000;
/// The size of each, in bytes of JSON.
const SIZE: usize = 4096;

/// How long each kind of request took, all of them together.
#[derive(Debug, Clone, Copy)]
struct Times([Duration; 4]);

const WHAT: [&str; 4] = ["creates", "gets", "server-side applies", "objects in one list"];

pub(super) fn measure(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let mut rows = vec![start(bench)?];
    rows.extend(load(bench)?);

    let mut measured: Vec<(&str, Vec<Times>)> = Vec::new();
    let mut in_process = Vec::new();
    let mut over_tls = Vec::new();
    for number in 0..=bench.options.runs {
        (bench.report)(&format!(
            "requests to the sandbox, {number} of {}",
            bench.options.runs
        ));
        in_process.push(runtime.block_on(async {
            let sandbox = ::sandbox::Sandbox::new(::sandbox::Config::default());
            requests(kube::Client::new(sandbox.service(), "default")).await
        })?);
        let served = Served::start(bench, &[])?;
        over_tls.push(runtime.block_on(async { requests(connect(&served.kubeconfig).await?).await })?);
    }
    measured.push(("the sandbox in process", in_process));
    measured.push(("the sandbox over TLS", over_tls));
    if !bench.options.skip_control_plane {
        match control_plane::ensure(bench.report) {
            Ok(_) => measured.push(("the real API server", real(bench, &runtime)?)),
            Err(error) if error.is_unavailable() => (bench.report)(&error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    for (index, what) in WHAT.iter().enumerate() {
        for (server, times) in &measured {
            let in_process = *server == "the sandbox in process";
            rows.push(Row {
                what: format!("{OBJECTS} {what}, {IN_FLIGHT} at once: {server}"),
                // The first run warms up.
                time: milliseconds(times.iter().skip(1).map(|times| times.0[index]))?,
                peak: None,
                wanted: if in_process {
                    "a fifth of the real one's"
                } else {
                    ""
                },
            });
        }
    }
    Ok(rows)
}

fn real(bench: &Bench<'_>, runtime: &tokio::runtime::Runtime) -> anyhow::Result<Vec<Times>> {
    let mut times = Vec::new();
    for number in 0..=bench.options.runs {
        (bench.report)(&format!(
            "requests to a real API server, {number} of {}",
            bench.options.runs
        ));
        let started = runtime.block_on(ControlPlane::start(control_plane::Options::default()))?;
        let kubeconfig = fs::read_to_string(started.kubeconfig()).context("reading its kubeconfig")?;
        times.push(runtime.block_on(async { requests(connect(&kubeconfig).await?).await })?);
    }
    Ok(times)
}

async fn connect(kubeconfig: &str) -> anyhow::Result<kube::Client> {
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig)?;
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Sends all kinds of requests.
async fn requests(client: kube::Client) -> anyhow::Result<Times> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let creates = many(&maps, |maps, number| {
        Box::pin(async move {
            let map = config_map(number, "first")?;
            maps.create(&PostParams::default(), &map).await?;
            Ok(())
        })
    })
    .await?;
    let gets = many(&maps, |maps, number| {
        Box::pin(async move {
            maps.get(&name(number)).await?;
            Ok(())
        })
    })
    .await?;
    let applies = many(&maps, |maps, number| {
        Box::pin(async move {
            let parameters = PatchParams::apply("bench").force();
            let map = config_map(number, "second")?;
            maps.patch(&name(number), &parameters, &Patch::Apply(&map))
                .await?;
            Ok(())
        })
    })
    .await?;
    let begin = Instant::now();
    // The text of the list: what is measured is the server, not the client's reader of JSON.
    let request = http::Request::get("/api/v1/namespaces/default/configmaps").body(Vec::new())?;
    let text = client.request_text(request).await?;
    let list = begin.elapsed();
    let listed = text.matches("\"object-").count();
    if listed < OBJECTS {
        bail!("{listed} of {OBJECTS} objects were listed");
    }
    Ok(Times([creates, gets, applies, list]))
}

fn name(number: usize) -> String {
    format!("object-{number:05}")
}

fn config_map(number: usize, text: &str) -> anyhow::Result<ConfigMap> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name(number), "labels": { "app": "bench", "group": format!("{}", number % 10) } },
        "data": { "number": number.to_string(), "text": text, "more": "a line of a configuration\n".repeat(8) },
    });
    Ok(serde_json::from_value(map)?)
}

type Send = for<'a> fn(&'a Api<ConfigMap>, usize) -> BoxFuture<'a, anyhow::Result<()>>;

/// One request for each object, so many of them at once, and how long all of them take.
async fn many(maps: &Api<ConfigMap>, send: Send) -> anyhow::Result<Duration> {
    let next = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    let workers = (0..IN_FLIGHT).map(|_| {
        let (maps, next) = (maps.clone(), Arc::clone(&next));
        let worker = tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= OBJECTS {
                    return anyhow::Ok(());
                }
                send(&maps, number).await?;
            }
        });
        async { worker.await.context("a worker ended")? }
    });
    try_join_all(workers).await?;
    Ok(begin.elapsed())
}

/// From the start of the process to the first answer.
fn start(bench: &Bench<'_>) -> anyhow::Result<Row> {
    (bench.report)("starts of the sandbox");
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let mut times = Vec::new();
    for _ in 0..=bench.options.runs.max(10) {
        let begin = Instant::now();
        let served = Served::start(bench, &[])?;
        runtime.block_on(async {
            let client = connect(&served.kubeconfig).await?;
            client.apiserver_version().await.context("asking for the version")
        })?;
        times.push(begin.elapsed());
    }
    Ok(Row {
        what: "`sandbox`: from the start of the process to its first answer over TLS".to_owned(),
        time: milliseconds(times.into_iter().skip(1))?,
        peak: None,
        wanted: "< 50 ms",
    })
}

/// Makes the object of a number.
type Make = fn(usize) -> Value;

/// A large file is loaded.
fn load(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let mut rows = Vec::new();
    let kinds: [(&str, Make); 2] = [("ConfigMaps", large_map), ("Deployments", large_deployment)];
    for (kind, make) in kinds {
        (bench.report)(&format!("loading {LOADED} {kind}"));
        let path = bench.folder.join("large.ndjson");
        write(&path, make)?;
        let path = path.to_string_lossy();
        let (mut times, mut peaks) = (Vec::new(), Vec::new());
        for _ in 0..=bench.options.runs {
            let begin = Instant::now();
            let served = Served::start(bench, &["--from", &path, "--kubernetes-version", "v1.20.2"])?;
            let got = runtime.block_on(async {
                let maps: Api<ConfigMap> = Api::namespaced(connect(&served.kubeconfig).await?, "default");
                anyhow::Ok(maps.get_opt(&name(LOADED / 2)).await?)
            })?;
            times.push(begin.elapsed());
            if got.is_some() != (kind == "ConfigMaps") {
                bail!("the file was not loaded");
            }
            peaks.push(served.peak()?);
        }
        rows.push(Row {
            what: format!(
                "`sandbox --from` a file of {LOADED} {kind} of {SIZE} bytes, until its first answer"
            ),
            time: milliseconds(times.into_iter().skip(1))?,
            peak: Some(spread(peaks.into_iter().skip(1))?),
            wanted: "< 5 s, < 1 GiB",
        });
    }
    Ok(rows)
}

fn write(path: &Path, make: Make) -> anyhow::Result<()> {
    let writing = || format!("writing {}", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(writing)?);
    for number in 0..LOADED {
        let mut object = make(number);
        let missing = SIZE.saturating_sub(object.to_string().len() + r#","note":"""#.len());
        object["metadata"]["annotations"]["note"] = "x".repeat(missing).into();
        writeln!(out, "{object}").with_context(writing)?;
    }
    out.flush().with_context(writing)
}

fn metadata(number: usize) -> Value {
    json!({
        "name": name(number), "namespace": "default", "uid": format!("00000000-0000-4000-8000-{number:012}"),
        "resourceVersion": (number + 10).to_string(), "creationTimestamp": "2022-01-01T00:00:00Z",
        "labels": { "app.kubernetes.io/name": name(number), "app.kubernetes.io/part-of": "bench" },
        "annotations": {},
    })
}

/// Mostly one text.
fn large_map(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(number),
        "data": { "config.yaml": "key: value of a configuration\n".repeat(100) },
    })
}

/// Mostly structure.
fn large_deployment(number: usize) -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": "registry.example.com/team/service:v1.2.3", "imagePullPolicy": "IfNotPresent",
            "args": ["--verbose", "--config=/etc/config.yaml", "--listen=:8080"],
            "env": [{ "name": "LEVEL", "value": "info" }, { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
            "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }],
            "resources": { "limits": { "cpu": "1", "memory": "512Mi" }, "requests": { "cpu": "10m", "memory": "64Mi" } },
            "livenessProbe": { "httpGet": { "path": "/healthz", "port": 8080, "scheme": "HTTP" }, "periodSeconds": 10 },
            "volumeMounts": [{ "name": "config", "mountPath": "/etc/config.yaml", "subPath": "config.yaml" }],
        })
    };
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(number),
        "spec": {
            "replicas": 1, "revisionHistoryLimit": 10,
            "selector": { "matchLabels": { "app": name(number) } },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": { "labels": { "app": name(number) } },
                "spec": {
                    "containers": [container("service"), container("sidecar")],
                    "volumes": [{ "name": "config", "configMap": { "name": "config", "defaultMode": 420 } }],
                    "serviceAccountName": "service", "terminationGracePeriodSeconds": 30,
                },
            },
        },
        "status": {
            "availableReplicas": 1, "observedGeneration": 1, "readyReplicas": 1, "replicas": 1, "updatedReplicas": 1,
            "conditions": [
                { "type": "Available", "status": "True", "reason": "MinimumReplicasAvailable" },
                { "type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable" },
            ],
        },
    })
}

/// The command in a process of its own.
struct Served {
    child: std::process::Child,
    kubeconfig: String,
}

impl Served {
    fn start(bench: &Bench<'_>, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = bench.command(&["sandbox"]);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().context("starting the sandbox")?;
        let out = child.stdout.take().context("the sandbox has no output")?;
        let mut served = Self {
            child,
            kubeconfig: String::new(),
        };
        for line in BufReader::new(out).lines() {
            let line = line.context("reading the sandbox's kubeconfig")?;
            served.kubeconfig.push_str(&line);
            served.kubeconfig.push('\n');
            if line.starts_with("current-context:") {
                return Ok(served);
            }
        }
        bail!("the sandbox ended before it served")
    }

    /// The most memory that it had, in MB.
    fn peak(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let bytes = high_water_mark(&status).context("the process has no high-water mark")?;
        #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
        Ok(bytes as f64 / 1e6)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
