//! `backup`: everything that an upgrade may touch, in one archive.

use std::path::Path;

use cluster::{Scope, archive};
use serde_json::json;
use upgrade::{Plan, Snapshot};

use super::{Verdict, backup_path, connect, read_error, with_hint};
use crate::{
    cli::{BackupArgs, Format, Global},
    output::{self, text},
};

pub(super) async fn backup(global: &Global, args: BackupArgs) -> anyhow::Result<Verdict> {
    let cluster = connect(global).await?;
    let snapshot = cluster.snapshot(&Scope::upgrade()).await.map_err(read_error)?;
    let path = backup_path(args.file, Path::new("."));
    let count = write(&snapshot, None, &path)?;
    // A group that does not answer (GROUP/VERSION: an aggregated API that is down) has nothing that an upgrade touches.
    let missing: Vec<_> = snapshot
        .unreadable
        .iter()
        .filter(|unreadable| !unreadable.resource.contains('/'))
        .collect();
    let verdict = if missing.is_empty() {
        Verdict::Done
    } else {
        Verdict::Refused
    };
    if global.output == Format::Json {
        output::json(&json!({"backup": path, "objects": count, "missing": missing}))?;
    } else {
        output::print(&format!(
            "{} saved and read back: {}\nIt holds the cluster's secrets: keep it where only you can read it. Volumes and databases are not in it.\n",
            text::count(count, "object"),
            path.display()
        ));
        for unreadable in &missing {
            output::note(&format!(
                "{} are not in it: {}",
                unreadable.resource, unreadable.message
            ));
        }
        if !missing.is_empty() {
            output::note(
                "hint: this backup is not whole; make it as somebody who may read these, such as a caller bound to cluster-admin",
            );
        }
    }
    Ok(verdict)
}

/// Writes the archive, which is read back before it gets its name; returns how many objects are in it.
pub(super) fn write(snapshot: &Snapshot, plan: Option<&Plan>, path: &Path) -> anyhow::Result<usize> {
    let meta = archive::Meta {
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        created: jiff::Timestamp::now(),
        cluster: snapshot.cluster_id().unwrap_or_default().to_owned(),
        kubernetes: snapshot.kubernetes.clone(),
        from: plan.map(|p| p.from.clone()).unwrap_or_default(),
        to: plan.map(|p| p.to.clone()).unwrap_or_default(),
    };
    let plan = serde_json::to_value(plan)?;
    archive::write(path, snapshot.objects.values().map(AsRef::as_ref), &plan, meta)
        .map(|contents| contents.index.count)
        .map_err(|error| {
            let hint = error.hint();
            with_hint(error.into(), hint)
        })
}
