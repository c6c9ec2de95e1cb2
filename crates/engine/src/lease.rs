//! One run at a time: a Lease that a run holds and renews.

use std::{sync::Arc, time::Duration};

use cluster::{Cluster, ErrorClass, FIELD_MANAGER, ReadError, WriteError, retry};
use jiff::{SignedDuration, Timestamp};
use object::{Object, ObjectKey};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::process;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How long a claim counts after it was last renewed.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(5);
/// How often a claim of another run is looked at.
const WATCH: Duration = Duration::from_millis(500);
/// No two machines' clocks differ by so much that a claim this old is one of a run that lives.
const LONG_AGO: Duration = Duration::from_mins(10);
/// Annotation: the process that has the claim.
const PROCESS: &str = "installer.kubesphere.io/process";

/// Why a run may not write.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("another run is under way: {holder} began {} s ago and gave its last sign of life {} s ago", .age.as_secs(), .silent.as_secs())]
    Held {
        holder: String,
        age: Duration,
        silent: Duration,
    },
    #[error("another run has taken over: {holder}")]
    Lost { holder: String },
    #[error("cannot read who runs: {0}")]
    ReadLease(#[from] ReadError),
    #[error("cannot note down that this run is under way: {0}")]
    WriteLease(#[from] WriteError),
}

impl LeaseError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Held { .. } => {
                Some("follow it with: ks-installer status; run this again when it has ended".into())
            }
            Self::Lost { .. } => {
                Some("this run was silent for too long; run it again when the other has ended".into())
            }
            Self::ReadLease(error) => error.hint(),
            Self::WriteLease(error) => error.hint(),
        }
    }
}

/// The claim to be the one run that writes.
pub struct Lease {
    key: ObjectKey,
    cluster: Cluster,
    clock: Clock,
    holder: String,
}

/// The Lease of whoever writes.
pub const RUN: &str = "ks-installer";

impl Lease {
    /// Takes the claim of this name, in KubeSphere's namespace. `holder` names this run for people and must be its alone: host, process, a random part.
    ///
    /// Where another run has it, this one is told, and watches for a sign of life as long as a claim counts: clocks of two
    /// machines are not compared. A run that is known to be dead is not waited for.
    ///
    /// # Errors
    /// [`LeaseError::Held`] when another run is alive.
    pub async fn acquire(
        cluster: &Cluster,
        clock: &Clock,
        name: &str,
        holder: &str,
        waits: impl Fn(&LeaseError),
    ) -> Result<Self, LeaseError> {
        let lease = Self {
            key: ObjectKey::namespaced("coordination.k8s.io", "Lease", "kubesphere-system", name),
            cluster: cluster.clone(),
            clock: Arc::clone(clock),
            holder: holder.to_owned(),
        };
        let mut watched: Option<(Option<String>, Instant)> = None;
        loop {
            let found = cluster.get(&lease.key).await?;
            if let Some(held) = found.as_ref().and_then(|found| lease.held_by_other(found)) {
                let sign = found.as_ref().and_then(|found| found.resource_version());
                let sign = sign.map(str::to_owned);
                match &watched {
                    None => {
                        waits(&held);
                        watched = Some((sign, Instant::now()));
                    }
                    Some((last, _)) if *last != sign => return Err(held),
                    Some(_) => {}
                }
                if watched
                    .as_ref()
                    .is_some_and(|(_, since)| since.elapsed() < DURATION)
                {
                    tokio::time::sleep(WATCH).await;
                    continue;
                }
            }
            match lease.take(found.as_ref(), (lease.clock)()).await {
                // Who loses a race for it sees then who won.
                Err(error) if matches!(error.class(), ErrorClass::Conflict | ErrorClass::AlreadyExists) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(lease),
            }
        }
    }

    /// Does the work and renews the claim meanwhile. The work is dropped when the claim is lost.
    ///
    /// # Errors
    /// [`LeaseError::Lost`]: another run has the claim, or this one could not renew it in time.
    pub async fn hold<T>(&self, work: impl Future<Output = T>) -> Result<T, LeaseError> {
        let renewals = async {
            let mut last = Instant::now();
            loop {
                tokio::time::sleep(RENEWAL).await;
                match self.renew().await {
                    Ok(()) => last = Instant::now(),
                    Err(lost @ LeaseError::Lost { .. }) => return lost,
                    // The API server may be away for a moment; the claim still counts for a while.
                    Err(error) if last.elapsed() >= DURATION => return error,
                    Err(error) => tracing::warn!(%error, "the claim was not renewed"),
                }
            }
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            lost = renewals => Err(lost),
        }
    }

    /// Gives the claim back. That it cannot be given back is no harm: it ends by itself.
    pub async fn release(self) {
        let released = async {
            let Some(found) = self.mine().await? else {
                return Ok(());
            };
            let patch = json!({
                "metadata": {"resourceVersion": found.resource_version()},
                "spec": {"holderIdentity": Value::Null, "renewTime": micro_time((self.clock)())},
            });
            self.cluster.merge_patch(&self.key, &patch).await?;
            Ok::<_, LeaseError>(())
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, "the claim was not given back; it ends by itself");
        }
    }

    /// The Lease, if it is this run's.
    async fn mine(&self) -> Result<Option<Object>, LeaseError> {
        let found = self.cluster.get(&self.key).await?;
        Ok(found.filter(|found| found.get_str("/spec/holderIdentity") == Some(&self.holder)))
    }

    async fn renew(&self) -> Result<(), LeaseError> {
        let Some(found) = self.cluster.get(&self.key).await? else {
            self.take(None, (self.clock)()).await?;
            return Ok(());
        };
        let holder = found.get_str("/spec/holderIdentity").unwrap_or_default();
        if holder != self.holder {
            let holder = if holder.is_empty() { "somebody" } else { holder };
            return Err(LeaseError::Lost {
                holder: holder.to_owned(),
            });
        }
        let patch = json!({
            "metadata": {"resourceVersion": found.resource_version()},
            "spec": {"renewTime": micro_time((self.clock)())},
        });
        self.cluster.merge_patch(&self.key, &patch).await?;
        Ok(())
    }

    /// Who else has the claim and may be alive.
    fn held_by_other(&self, found: &Object) -> Option<LeaseError> {
        let holder = found
            .get_str("/spec/holderIdentity")
            .filter(|holder| !holder.is_empty() && *holder != self.holder)?;
        let now = (self.clock)();
        let time = |name: &str| found.get_str(name)?.parse::<Timestamp>().ok();
        let renewed = time("/spec/renewTime")?;
        let silent = elapsed(renewed, now);
        let is_dead = silent >= LONG_AGO || found.annotation(PROCESS).is_some_and(process::is_gone);
        (!is_dead).then(|| LeaseError::Held {
            holder: holder.to_owned(),
            age: elapsed(time("/spec/acquireTime").unwrap_or(renewed), now),
            silent,
        })
    }

    async fn take(&self, found: Option<&Object>, now: Timestamp) -> Result<Object, WriteError> {
        let transitions = found
            .and_then(|found| found.get("/spec/leaseTransitions")?.as_u64())
            .map_or(0, |transitions| transitions + 1);
        let spec = json!({
            "holderIdentity": self.holder,
            "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": micro_time(now),
            "renewTime": micro_time(now),
            "leaseTransitions": transitions,
        });
        let process = process::identity();
        let write = || async {
            if let Some(found) = found {
                let patch = json!({
                    "metadata": {"resourceVersion": found.resource_version(), "annotations": {PROCESS: process}},
                    "spec": spec,
                });
                self.cluster.merge_patch(&self.key, &patch).await
            } else {
                let key = &self.key;
                self.cluster
                    .create(&json!({
                        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                        "metadata": {
                            "name": key.name, "namespace": key.namespace,
                            "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
                            "annotations": process.as_ref().map(|process| json!({PROCESS: process})),
                        },
                        "spec": spec,
                    }))
                    .await
            }
        };
        retry::with_backoff(&retry::Policy::WRITE, write, |_, _| {}).await
    }
}

/// A clock that was set back makes nothing older.
fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    let elapsed: SignedDuration = to.duration_since(from);
    Duration::try_from(elapsed).unwrap_or_default()
}

/// Kubernetes' MicroTime.
fn micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
