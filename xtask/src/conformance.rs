//! Replays the sandbox's corpus on a real control plane and on the sandbox, and compares, or records the real answers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use http::Request;
use http_body_util::BodyExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use sandbox::conformance::{self, Case, Corpus, Raw, Recorded, Send};

use crate::control_plane::{self, ControlPlane};

/// How many cases are replayed on the real server at a time: most of them wait for it.
const AT_ONCE: usize = 8;

/// What is to be done.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Write down what the real server answers.
    pub record: bool,
    /// Only the cases that have this in their name.
    pub case: String,
    /// The API server, if none is to be started.
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the corpus cannot be used")]
    Corpus(#[from] conformance::Error),
    #[error("no control plane")]
    ControlPlane(#[from] control_plane::Error),
    #[error("the kubeconfig is not usable")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("no client")]
    Client(#[from] kube::Error),
}

/// A real API server.
struct Real(kube::Client);

impl Send for Real {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Raw, String>> {
        Box::pin(async move {
            let response = self.0.send(request.map(kube::client::Body::from)).await;
            let (parts, body) = response.map_err(|error| error.to_string())?.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            Ok(Raw {
                code: parts.status.as_u16(),
                headers: parts.headers,
                body: body.to_bytes(),
            })
        })
    }
}

/// Returns how many cases are wrong.
///
/// # Errors
/// The corpus cannot be read, or there is no control plane.
pub async fn run(root: &Path, options: &Options, report: &dyn Fn(&str)) -> Result<usize, Error> {
    let folder = root.join("crates/sandbox/conformance");
    let mut corpus = Corpus::read(&folder)?;
    let mut known = conformance::read_known(&folder)?;
    let all: BTreeSet<String> = corpus.cases.iter().map(|case| case.name.clone()).collect();
    corpus.cases.retain(|case| case.name.contains(&options.case));
    known.retain(|known| known.case.contains(&options.case));

    let mut started = None;
    let client = if let Some(path) = &options.kubeconfig {
        let kubeconfig = Kubeconfig::read_from(path)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        kube::Client::try_from(config)?
    } else {
        control_plane::ensure(report)?;
        let plane = ControlPlane::start(control_plane::Options::default()).await?;
        let client = plane.client().await?;
        started = Some(plane);
        client
    };
    let real = on_real(&Real(client), &corpus.cases, report).await;
    drop(started);

    let mut wrong = corpus.cases.len() - real.len();
    if options.record {
        let mut recorded = conformance::read_recorded(&folder)?;
        recorded.retain(|case, _| all.contains(case));
        report(&format!("recorded {} cases, {wrong} cannot be", real.len()));
        recorded.extend(real);
        conformance::write_recorded(&folder, &recorded)?;
        return Ok(wrong);
    }
    let found = on_sandbox(&corpus.cases, &real).await?;
    let differences = conformance::compare(&real, &found, &known);
    for difference in &differences {
        report(difference);
    }
    wrong += differences.len();
    report(&format!(
        "{} cases, {} known to differ, {wrong} wrong",
        corpus.cases.len(),
        known.len()
    ));
    Ok(wrong)
}

/// Each in a sandbox of its own; most of the time goes into waiting, so all at once.
async fn on_sandbox(cases: &[Case], real: &Recorded) -> Result<Recorded, conformance::Error> {
    let replays = cases
        .iter()
        .filter(|case| real.contains_key(&case.name))
        .map(async |case| {
            let sandbox = conformance::cluster().await?;
            let answers = conformance::replay(&sandbox.service(), case).await?;
            Ok((case.name.clone(), answers))
        });
    futures::future::try_join_all(replays)
        .await
        .map(Recorded::from_iter)
}

/// Those that look at the whole cluster go first, one after another; a case that cannot be replayed is told and left out.
async fn on_real(server: &Real, cases: &[Case], report: &dyn Fn(&str)) -> Recorded {
    let mut recorded = Recorded::new();
    let (alone, together): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.alone);
    for (cases, at_once) in [(alone, 1), (together, AT_ONCE)] {
        let mut replays = futures::stream::iter(cases)
            .map(|case| async move { (case, conformance::replay(server, case).await) })
            .buffer_unordered(at_once);
        while let Some((case, answers)) = replays.next().await {
            match answers {
                Ok(answers) => {
                    recorded.insert(case.name.clone(), answers);
                }
                Err(error) => report(&format!("{error}{}", control_plane::sources(&error))),
            }
        }
    }
    recorded
}
