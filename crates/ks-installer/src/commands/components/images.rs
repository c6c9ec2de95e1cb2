//! `images`: what has to be in a registry.

use anyhow::anyhow;
use cluster::Scope;
use object::Object;
use release::{Release, Support};
use serde_json::json;
use upgrade::{
    Options, Snapshot,
    components::{self, ImageUse},
    install::{DEFAULT_CONFIGURATION, read_configuration},
};

use super::{platforms, release, unreadable};
use crate::{
    cli::{Format, Global, components::ImagesArgs},
    commands::{Verdict, connect, install::read_file, read_error, releases},
    output,
};

pub(in crate::commands) async fn images(global: &Global, args: &ImagesArgs) -> anyhow::Result<Verdict> {
    let json = global.output == Format::Json;
    let releases = releases()?;
    let options = Options::default();
    let release = release(&releases, &options)?;
    let snapshot = match &args.config {
        Some(path) => thought_of(release, args, read_file(path)?)?,
        None => match read(global).await {
            Ok(snapshot) => of_version(snapshot, args),
            Err(error) if args.all => {
                output::note(&format!(
                    "going by the default settings, since no cluster was read: {error:#}"
                ));
                let default = read_configuration(DEFAULT_CONFIGURATION)
                    .map_err(|error| anyhow!("the ClusterConfiguration that is built in cannot be read: {error}; please report this"))?;
                thought_of(release, args, default)?
            }
            Err(error) => return Err(error),
        },
    };
    let list = if args.all {
        components::images_of_all(&snapshot, &releases, &options)
    } else {
        components::images(&snapshot, &releases, &options)
    };
    let list: Vec<ImageUse> = match list {
        Ok(list) => list,
        Err(findings) => return unreadable(json, &findings),
    };
    if args.platforms {
        return platforms::print(list, args.plain_http.clone(), json).await;
    }
    if json {
        output::json(&json!(list))?;
    } else {
        let lines: Vec<&str> = list.iter().map(|usage| usage.image.as_str()).collect();
        output::print(&format!("{}\n", lines.join("\n")));
    }
    Ok(Verdict::Done)
}

async fn read(global: &Global) -> anyhow::Result<Snapshot> {
    let cluster = connect(global).await?;
    let snapshot = cluster.snapshot(&Scope::upgrade()).await.map_err(read_error)?;
    if snapshot.get(&upgrade::cluster_configuration_key()).is_none() {
        return Err(anyhow!(
            "the cluster has no ClusterConfiguration\nhint: name one with --config, such as a copy of deploy/cluster-configuration.yaml"
        ));
    }
    Ok(snapshot)
}

/// What is in the cluster, on another Kubernetes version where one is given.
fn of_version(mut snapshot: Snapshot, args: &ImagesArgs) -> Snapshot {
    if let Some(kubernetes) = &args.kubernetes {
        snapshot.kubernetes.clone_from(kubernetes);
    }
    snapshot
}

/// A cluster of which no more is known than its settings and its version.
fn thought_of(release: &Release, args: &ImagesArgs, configuration: Object) -> anyhow::Result<Snapshot> {
    let newest = || {
        let versions = (0..100_u32).rev().map(|minor| format!("v1.{minor}.0"));
        let mut supported = versions.filter(|version| {
            let version = version.parse();
            version.is_ok_and(|version| release.kubernetes_support(&version) == Support::Supported)
        });
        supported.next()
    };
    let kubernetes = args.kubernetes.clone().or_else(newest);
    let kubernetes = kubernetes
        .ok_or_else(|| anyhow!("no Kubernetes version is known\nhint: give one with --kubernetes"))?;
    let mut snapshot = Snapshot::from_objects(&kubernetes, []);
    snapshot.objects.insert(configuration.key(), configuration);
    Ok(snapshot)
}
