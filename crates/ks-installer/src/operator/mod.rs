//! The operator: the same engine, in the cluster, led by the ClusterConfiguration.
//!
//! ```text
//!   watch ──▶ Trigger ─┐                       ┌─▶ publish: status, Events, the plan
//!   timer ─────────────┼─▶ reconcile ──────────┼─▶ execute: claim, backup, run, verify
//!   start ─────────────┘   (leader only)       └─▶ metrics, log
//! ```
//!
//! It is level-based: what led to a reconciliation is only a reason to look. Two replicas are safe: one leads by a Lease.

mod follower;
mod http;
pub(crate) mod log;
mod metrics;
pub(crate) mod publish;
mod reconcile;
mod report;
mod run;
pub(crate) mod watch;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use cluster::Cluster;
use engine::{Claimant, Clock, Lease, LeaseError, Stop};
use futures::{FutureExt as _, StreamExt as _, stream::SelectAll};
use object::{Object, drift::DriftPolicy};
use release::Releases;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use upgrade::{Options, Outline};

use self::{
    metrics::Metrics,
    publish::Publisher,
    reconcile::{Next, Reconciler, pause},
    watch::Changes,
};
use crate::{
    cli::{Global, LogFormat, OperatorArgs},
    commands::{Verdict, Waits, client, releases, run::holder},
};

/// The Lease of the replica that acts.
pub(crate) const LEADER: &str = "ks-installer-operator";
/// How the names of operators begin, as holders of Leases.
pub(crate) const HOLDER: &str = "operator ";

/// Edits that come together are taken together.
const TOGETHER: Duration = Duration::from_millis(20);
/// What the ClusterConfiguration says of how to decide. Once the release is in place, what people changed of it by hand stays,
/// also where its settings are edited; on the way there, what decides about programs is the release's.
pub(crate) fn decides(configuration: Option<&Object>, releases: &Releases, options: Options) -> Options {
    let overwrites = configuration.and_then(|c| c.annotation(watch::DRIFT)) == Some("overwrite");
    let version = configuration.and_then(|c| c.get_str("/status/core/version"));
    let latest = releases.latest().map(|release| release.version.to_string());
    Options {
        drift: match version {
            _ if overwrites => DriftPolicy::Overwrite,
            Some(version) if latest.as_deref() == Some(version) => DriftPolicy::Keep,
            _ => DriftPolicy::default(),
        },
        ..options
    }
}

pub(crate) async fn operate(global: &Global, args: OperatorArgs) -> anyhow::Result<Verdict> {
    tracing::info!("ks-installer {}", env!("CARGO_PKG_VERSION"));
    let client = client(global).await?;
    let cluster = Cluster::new(client.clone());
    let metrics = Metrics::new();
    let ready = Arc::new(AtomicBool::new(false));
    let served = http::Served {
        metrics: Arc::clone(&metrics),
        ready: Arc::clone(&ready),
    };
    let address = http::serve(args.metrics_address, served).await?;
    tracing::info!("metrics and health on http://{address}");
    let stop = Stop::default();
    let mut terminated = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let asked = stop.clone();
    let stopped = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("stopping: the step in hand is finished first");
        asked.cancel();
    };
    tokio::spawn(stopped);

    // They are read when they are needed. That they can be is said now.
    releases()?;
    let mut reconciler = Reconciler {
        publisher: Publisher::new(client.clone(), cluster.clone()),
        cluster: cluster.clone(),
        metrics: Arc::clone(&metrics),
        stop: stop.clone(),
        waits: Waits {
            rollout: Duration::from_secs(args.wait),
            controllers: Duration::from_secs(args.wait_controllers),
        },
        log_lines: args.log_format == LogFormat::Text,
        holder: format!("{HOLDER}{}", holder()),
        outline: Outline::default(),
        seen: std::collections::BTreeMap::new(),
        served: Vec::new(),
        put_back: Vec::new(),
        said: String::new(),
    };
    let clock: Clock = Arc::new(jiff::Timestamp::now);
    let claimant = Claimant {
        lease: LEADER.to_owned(),
        holder: reconciler.holder.clone(),
        replaces: None,
        stands_by: true,
    };
    while !stop.is_cancelled() {
        let stands_by = |held: &LeaseError| {
            if let LeaseError::Held { holder, .. } = held {
                tracing::info!("{holder} leads; this replica stands by");
            }
            // It can take over.
            ready.store(true, Ordering::Relaxed);
        };
        let acquired = tokio::select! {
            acquired = Lease::acquire(&cluster, &clock, claimant.clone(), stands_by) => acquired,
            () = stop.cancelled() => break,
        };
        ready.store(acquired.is_ok(), Ordering::Relaxed);
        let lease = match acquired {
            Ok(lease) => lease,
            Err(error) => {
                tracing::warn!(%error, "cannot take the lead");
                rest(&stop, Duration::from_secs(2)).await;
                continue;
            }
        };
        metrics.leads(true);
        tracing::info!("this replica leads");
        let lost = Box::pin(lease.hold(lead(&client, &mut reconciler))).await;
        metrics.leads(false);
        match lost {
            Ok(()) => lease.release().await,
            Err(error) => tracing::warn!(%error, "this replica leads no more"),
        }
    }
    Ok(Verdict::Done)
}

async fn rest(stop: &Stop, time: Duration) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = stop.cancelled() => {}
    }
}

/// Reconciles whenever there is a reason to, until the operator is stopped.
async fn lead(client: &kube::Client, reconciler: &mut Reconciler) {
    let stop = reconciler.stop.clone();
    let mut edits = watch::configuration(client.clone());
    let mut changes: Changes = SelectAll::new();
    let mut watched = (BTreeSet::new(), Vec::new());
    let (mut tries, mut last) = (0, Next::Settled);
    // The first event of the watch leads to the first reconciliation, but none comes where its kind is not served yet.
    let mut at = Some(Instant::now() + Duration::from_secs(1));
    while !stop.is_cancelled() {
        let timer = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(()) = edits.next() => {
                tries = 0;
                // Edits that come together are taken together.
                tokio::time::sleep(TOGETHER).await;
            }
            Some(key) = changes.next() => {
                tracing::debug!(%key, "changed by somebody");
                tries = 0;
                // Drift is no emergency: what is being edited is looked at when it is done.
                tokio::select! {
                    () = tokio::time::sleep(reconciler.calm()) => {}
                    Some(()) = edits.next() => {}
                    () = stop.cancelled() => return,
                }
                while changes.next().now_or_never().is_some() {}
            }
            () = timer => {}
            () = stop.cancelled() => return,
        }
        tracing::debug!("reconciling");
        let next = Box::pin(reconciler.reconcile()).await;
        tracing::debug!(?next, "reconciled");
        tries = if next == last { tries + 1 } else { 0 };
        last = next;
        at = pause(next, tries).map(|pause| Instant::now() + pause);
        // Kinds that are defined by the release itself are served only then.
        let wanted = (&reconciler.outline.managed, &reconciler.served);
        if (&watched.0, &watched.1) != wanted {
            watched = (wanted.0.clone(), wanted.1.clone());
            changes = watch::objects(client, &reconciler.served, &reconciler.outline, &reconciler.seen)
                .into_iter()
                .collect();
        }
    }
}
