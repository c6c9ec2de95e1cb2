//! `sandbox`: a Kubernetes API of one's own, with what a cluster holds.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use cluster::dump::{self, DumpError, Piece, Problem};
use object::Object;
use sandbox::faults::Trouble;
use sandbox::{Config, Sandbox, ServeOptions, Text};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::{Verdict, dump_error, rehearse};
use crate::{
    cli::{Global, SandboxArgs},
    output::{self, text},
};

/// Serves until interrupted.
pub(super) async fn serve(global: &Global, args: SandboxArgs) -> anyhow::Result<Verdict> {
    rehearse::check_save(args.save.as_ref())?;
    let mut config = Config {
        // Tokens of accounts follow from it: nobody is to guess them.
        seed: RandomState::new().hash_one("seed"),
        pod_start: Duration::from_secs(args.pod_start),
        ..Config::default()
    };
    let sandbox = if let Some(path) = &args.from {
        let texts = read(path).map_err(dump_error)?;
        config.kubernetes_version = rehearse::version(path, args.kubernetes_version.as_ref(), || {
            dump::kubernetes_version(&nodes(&texts))
        })?;
        Sandbox::from_texts(config, texts).with_context(|| format!("cannot copy {}", path.display()))?
    } else if args.live {
        let version = args.kubernetes_version.as_ref();
        let (version, objects) = rehearse::copy(global, None, version).await?;
        config.kubernetes_version = version;
        Sandbox::from_objects(config, objects.into_iter().map(Object::into_value))
            .context("cannot copy the cluster")?
    } else {
        if let Some(version) = &args.kubernetes_version {
            config.kubernetes_version.clone_from(version);
        }
        Sandbox::new(config)
    };
    if let Some(path) = &args.troubles {
        afflict(&sandbox, path)?;
    }
    // Before anybody may interrupt: what is to be saved then is.
    let mut terminated = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let address = SocketAddr::new(args.address, args.port);
    let server = sandbox
        .serve(ServeOptions::at(address))
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    output::print(&server.kubeconfig());
    output::note(&format!(
        "{} at {}. Put the kubeconfig above into a file for kubectl; stop with Ctrl-C.",
        text::count(sandbox.count(), "object"),
        server.url()
    ));
    let mut stopped = async || {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    stopped().await;
    if let Some(path) = &args.save {
        if let Err(error) = rehearse::save(&sandbox, path) {
            // The state is in this process and nowhere else.
            output::note(&format!(
                "error: {error:#}\nhint: it is still served; make room for {}, then stop it again to save",
                path.display()
            ));
            stopped().await;
            rehearse::save(&sandbox, path)?;
        }
        output::note(&format!("saved to {} (it holds secrets)", path.display()));
    }
    server.shutdown().await;
    Ok(Verdict::Done)
}

/// The objects of a file, as text: most of a large copy nobody ever looks at.
fn read(path: &Path) -> Result<Vec<Text>, DumpError> {
    let (name, source) = dump::source(path)?;
    let mut texts = Vec::new();
    let mut wrong = None;
    dump::read_pieces(&name, source, |piece| match piece {
        Piece::Lines(first, text) => {
            for (number, line) in (first..).zip(text.split(|byte| *byte == b'\n')) {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                match Text::parse(line) {
                    Ok(text) => texts.push(text),
                    Err(error) => {
                        wrong = Some((number, error));
                        return None;
                    }
                }
            }
            Some(text)
        }
        Piece::Objects(objects) => {
            let read = objects
                .iter()
                .map(|object| Text::parse(object.as_value().to_string().as_bytes()));
            texts.extend(read.flatten());
            None
        }
    })?;
    match wrong {
        None => Ok(texts),
        Some((line, error)) => Err(DumpError {
            name,
            line: Some(line),
            problem: if error.is_eof() {
                Problem::CutOff
            } else {
                Problem::NotJson
            },
        }),
    }
}

/// The nodes among objects.
fn nodes(texts: &[Text]) -> Vec<Object> {
    texts
        .iter()
        .filter(|text| text.kind() == "Node")
        .filter_map(|text| serde_json::from_slice::<Value>(text.json()).ok())
        .filter_map(|node| Object::try_from(node).ok())
        .collect()
}

/// Lets go wrong in the cluster what a file lists.
pub(super) fn afflict(sandbox: &Sandbox, path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let troubles = Trouble::read(&text).with_context(|| format!("cannot use {}", path.display()))?;
    for trouble in troubles {
        sandbox.afflict(trouble);
    }
    Ok(())
}
