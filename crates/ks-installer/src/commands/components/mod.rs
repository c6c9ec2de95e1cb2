//! `components`, `images`, `enable` and `disable`.

mod carry_out;
mod change;
mod images;
mod platforms;
mod words;

use std::collections::BTreeSet;

use anyhow::anyhow;
use cluster::Scope;
use release::Release;
use serde_json::json;
use upgrade::{
    Finding, Options,
    components::{self, ComponentInfo},
    preflight,
};

pub(super) use self::{
    change::{disable, enable},
    images::images,
};
use super::{Verdict, connect, read_error, releases};
use crate::{
    cli::{Format, Global, components::ComponentsArgs},
    output::{self, text},
};

pub(super) async fn list(global: &Global, args: &ComponentsArgs) -> anyhow::Result<Verdict> {
    let json = global.output == Format::Json;
    let releases = releases()?;
    let options = Options::default();
    let named = named(release(&releases, &options)?, &args.names)?;
    let cluster = connect(global).await?;
    let mut snapshot = cluster.snapshot(&Scope::upgrade()).await.map_err(read_error)?;
    // What is left on the nodes depends on everybody's pods.
    match cluster.list("", "Pod", None, None).await {
        Ok(pods) => snapshot
            .objects
            .extend(pods.into_iter().map(|pod| (pod.key(), pod))),
        Err(error) => output::note(&format!("what the nodes have left is not known exactly: {error}")),
    }
    let mut all = match components::components(&snapshot, &releases, &options) {
        Ok(all) => all,
        Err(findings) => return unreadable(json, &findings),
    };
    if !named.is_empty() {
        all.retain(|component: &ComponentInfo| named.contains(&component.name));
    }
    let room = components::room(&snapshot);
    let installed = preflight::installed(&snapshot);
    if json {
        output::json(&json!({
            "version": installed.version(),
            "kubernetes": snapshot.kubernetes,
            "room": room,
            "components": all,
        }))?;
        return Ok(Verdict::Done);
    }
    let heading = format!(
        "KubeSphere {} on Kubernetes {}",
        installed.version().unwrap_or("(none)"),
        snapshot.kubernetes
    );
    let mut out = format!("{}: {}\n", text::bold(&heading), words::room(&room));
    if named.is_empty() {
        out.push_str(&words::table(&all));
        out.push_str(
            "\nNext: ks-installer components NAME, ks-installer enable NAME, ks-installer disable NAME\n",
        );
    } else {
        for component in &all {
            out.push_str(&words::details(component, &room));
        }
    }
    output::print(&out);
    Ok(Verdict::Done)
}

/// The settings cannot be read, so nothing can be said about components.
fn unreadable(json: bool, findings: &[Finding]) -> anyhow::Result<Verdict> {
    if json {
        output::json(&json!({"why": "the settings cannot be read", "findings": findings}))?;
    } else {
        // Standard output is for what was asked for.
        output::note(&text::findings(findings));
    }
    Ok(Verdict::Refused)
}

pub(super) fn release<'a>(releases: &'a release::Releases, options: &Options) -> anyhow::Result<&'a Release> {
    upgrade::target(releases, options).map_err(|finding| anyhow!("{}", finding.message))
}

/// The components of these names.
fn named(release: &Release, names: &[String]) -> anyhow::Result<BTreeSet<String>> {
    names
        .iter()
        .map(|name| match components::find(release, name) {
            Ok(component) => Ok(component.name.clone()),
            Err(error) => Err(anyhow!("{error}\nhint: {}", error.hint())),
        })
        .collect()
}
