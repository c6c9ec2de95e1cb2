//! The operator: the same engine, in the cluster, led by the ClusterConfiguration.
//!
//! ```text
//!   watch ──▶ Trigger ─┐                       ┌─▶ publish: status, Events, the plan
//!   timer ─────────────┼─▶ reconcile ──────────┼─▶ execute: claim, backup, run, verify
//!   start ─────────────┘   (leader only)       └─▶ metrics, log
//! ```
//!
//! It is level-based: what led to a reconciliation is only a reason to look. Two replicas are safe: one leads by a Lease.

mod http;
pub(crate) mod log;
mod metrics;
mod publish;
mod reconcile;
mod report;
mod watch;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use cluster::{Cluster, ConnectOptions};
use engine::{Clock, Lease, LeaseError, Stop};
use futures::{FutureExt as _, StreamExt as _, stream::SelectAll};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use self::{
    metrics::Metrics,
    publish::Publisher,
    reconcile::{Next, Reconciler, pause},
    watch::Changes,
};
use crate::{
    cli::{Global, LogFormat, OperatorArgs},
    commands::{Verdict, Waits, releases, run::holder, with_hint},
};

/// The Lease of the replica that acts.
pub(crate) const LEADER: &str = "ks-installer-operator";

/// Edits that come together are taken together.
const TOGETHER: Duration = Duration::from_millis(20);
/// Drift is no emergency: what is being edited is looked at when it is done.
const CALM: Duration = Duration::from_secs(3);

pub(crate) async fn operate(global: &Global, args: OperatorArgs) -> anyhow::Result<Verdict> {
    let options = ConnectOptions {
        kubeconfig: global.kubeconfig.clone(),
        context: global.context.clone(),
    };
    let (client, name) = cluster::connect(&options).await.map_err(|error| {
        let hint = error.hint();
        with_hint(error.into(), hint)
    })?;
    tracing::info!("ks-installer {} on {name:?}", env!("CARGO_PKG_VERSION"));
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

    let mut reconciler = Reconciler {
        publisher: Publisher::new(client.clone(), cluster.clone()),
        cluster: cluster.clone(),
        releases: releases()?,
        metrics: Arc::clone(&metrics),
        stop: stop.clone(),
        waits: Waits {
            rollout: Duration::from_secs(args.wait),
            controllers: Duration::from_secs(args.wait_controllers),
        },
        log_lines: args.log_format == LogFormat::Text,
        managed: BTreeSet::new(),
        served: Vec::new(),
        said: String::new(),
    };
    let clock: Clock = Arc::new(jiff::Timestamp::now);
    let holder = holder();
    let mut told = false;
    while !stop.is_cancelled() {
        let acquired = tokio::select! {
            acquired = Lease::acquire(&cluster, &clock, LEADER, &holder, |_| ()) => acquired,
            () = stop.cancelled() => break,
        };
        ready.store(
            !matches!(acquired, Err(LeaseError::ReadLease(_))),
            Ordering::Relaxed,
        );
        let lease = match acquired {
            Ok(lease) => lease,
            Err(LeaseError::Held { holder, .. }) => {
                if !told {
                    tracing::info!("{holder} leads; this replica stands by");
                    told = true;
                }
                rest(&stop, Duration::from_secs(1)).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take the lead");
                rest(&stop, Duration::from_secs(2)).await;
                continue;
            }
        };
        told = false;
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
    let mut watched = BTreeSet::new();
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
                tokio::select! {
                    () = tokio::time::sleep(CALM) => {}
                    Some(()) = edits.next() => {}
                }
                while changes.next().now_or_never().is_some() {}
            }
            () = timer => {}
            () = stop.cancelled() => return,
        }
        let next = Box::pin(reconciler.reconcile()).await;
        tries = if next == last { tries + 1 } else { 0 };
        last = next;
        at = pause(next, tries).map(|pause| Instant::now() + pause);
        if watched != reconciler.managed {
            watched.clone_from(&reconciler.managed);
            changes = watch::objects(client, &reconciler.served, &watched)
                .into_iter()
                .collect();
        }
    }
}
