//! `sandbox`: a Kubernetes API of one's own, with what a cluster holds.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use object::Object;
use sandbox::faults::Trouble;
use sandbox::{Config, Sandbox, ServeOptions};
use tokio::signal::unix::{SignalKind, signal};

use super::{Verdict, rehearse};
use crate::{
    cli::{Global, SandboxArgs},
    output::{self, text},
};

/// Serves until interrupted.
pub(super) async fn serve(global: &Global, args: SandboxArgs) -> anyhow::Result<Verdict> {
    let mut config = Config {
        // Tokens of accounts follow from it: nobody is to guess them.
        seed: RandomState::new().hash_one("seed"),
        ..Config::default()
    };
    let sandbox = if args.live || args.from.is_some() {
        let version = args.kubernetes_version.as_ref();
        let (version, objects) = rehearse::copy(global, args.from.as_deref(), version).await?;
        config.kubernetes_version = version;
        Sandbox::from_objects(config, objects.into_iter().map(Object::into_value))
            .context("cannot make the copy")?
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
        text::count(sandbox.objects().len(), "object"),
        server.url()
    ));
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    server.shutdown().await;
    if let Some(path) = &args.save {
        rehearse::save(&sandbox, path)?;
        output::note(&format!("saved to {} (it holds secrets)", path.display()));
    }
    Ok(Verdict::Done)
}

fn afflict(sandbox: &Sandbox, path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let troubles = Trouble::read(&text).with_context(|| format!("cannot use {}", path.display()))?;
    for trouble in troubles {
        sandbox.afflict(trouble);
    }
    Ok(())
}
