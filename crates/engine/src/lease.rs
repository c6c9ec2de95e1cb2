//! One run at a time: a Lease that a run holds and renews.

use std::{sync::Arc, time::Duration};

use cluster::{Cluster, ErrorClass, FIELD_MANAGER, ReadError, WriteError, retry};
use jiff::{SignedDuration, Timestamp};
use object::{Object, ObjectKey};
use serde_json::{Value, json};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How long a claim counts after it was last renewed.
const DURATION: Duration = Duration::from_secs(30);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(10);

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
            Self::Held { silent, .. } => {
                let left = DURATION.saturating_sub(*silent).as_secs() + 1;
                Some(format!(
                    "wait for it to end; if it is dead, its claim ends in {left} s: then run this again"
                ))
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
    cluster: Cluster,
    clock: Clock,
    holder: String,
}

fn key() -> ObjectKey {
    ObjectKey::namespaced(
        "coordination.k8s.io",
        "Lease",
        "kubesphere-system",
        "ks-installer",
    )
}

impl Lease {
    /// Takes the claim. `holder` names this run for people and must be its alone: host, process, a random part.
    ///
    /// # Errors
    /// [`LeaseError::Held`] while another run is alive.
    pub async fn acquire(cluster: &Cluster, clock: &Clock, holder: &str) -> Result<Self, LeaseError> {
        let lease = Self {
            cluster: cluster.clone(),
            clock: Arc::clone(clock),
            holder: holder.to_owned(),
        };
        // Who loses a race for it sees then who won.
        for _ in 0..3 {
            let found = cluster.get(&key()).await?;
            let now = clock();
            if let Some(found) = &found
                && let Some(other) = lease.held_by_other(found, now)
            {
                return Err(other);
            }
            let written = lease.take(found.as_ref(), now).await;
            match written {
                Err(error) if matches!(error.class(), ErrorClass::Conflict | ErrorClass::AlreadyExists) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(lease),
            }
        }
        let found = cluster.get(&key()).await?;
        let other = found
            .as_ref()
            .and_then(|found| lease.held_by_other(found, clock()));
        Err(other.unwrap_or_else(|| LeaseError::Lost {
            holder: "somebody who keeps taking it".into(),
        }))
    }

    /// Does the work and renews the claim meanwhile. The work is dropped when the claim is lost.
    ///
    /// # Errors
    /// [`LeaseError::Lost`]: another run has the claim, or this one could not renew it in time.
    pub async fn hold<T>(&self, work: impl Future<Output = T>) -> Result<T, LeaseError> {
        let renewals = async {
            let mut last = (self.clock)();
            loop {
                tokio::time::sleep(RENEWAL).await;
                match self.renew().await {
                    Ok(()) => last = (self.clock)(),
                    Err(lost @ LeaseError::Lost { .. }) => return lost,
                    // The API server may be away for a moment; the claim still counts for a while.
                    Err(error) if elapsed(last, (self.clock)()) >= DURATION => return error,
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
            self.cluster.merge_patch(&key(), &patch).await?;
            Ok::<_, LeaseError>(())
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, "the claim was not given back; it ends by itself");
        }
    }

    /// The Lease, if it is this run's.
    async fn mine(&self) -> Result<Option<Object>, LeaseError> {
        let found = self.cluster.get(&key()).await?;
        Ok(found.filter(|found| found.get_str("/spec/holderIdentity") == Some(&self.holder)))
    }

    async fn renew(&self) -> Result<(), LeaseError> {
        let Some(found) = self.cluster.get(&key()).await? else {
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
        self.cluster.merge_patch(&key(), &patch).await?;
        Ok(())
    }

    fn held_by_other(&self, found: &Object, now: Timestamp) -> Option<LeaseError> {
        let holder = found
            .get_str("/spec/holderIdentity")
            .filter(|holder| !holder.is_empty() && *holder != self.holder)?;
        let time = |name: &str| found.get_str(name)?.parse::<Timestamp>().ok();
        let renewed = time("/spec/renewTime")?;
        let counts = found
            .get("/spec/leaseDurationSeconds")
            .and_then(Value::as_u64)
            .map_or(DURATION, Duration::from_secs);
        let silent = elapsed(renewed, now);
        (silent < counts).then(|| LeaseError::Held {
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
        let write = || async {
            if let Some(found) = found {
                let patch = json!({
                    "metadata": {"resourceVersion": found.resource_version()},
                    "spec": spec,
                });
                self.cluster.merge_patch(&key(), &patch).await
            } else {
                let key = key();
                self.cluster
                    .create(&json!({
                        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                        "metadata": {
                            "name": key.name, "namespace": key.namespace,
                            "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
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
