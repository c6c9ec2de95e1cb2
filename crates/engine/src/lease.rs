//! One run at a time: a Lease that a run holds and renews.

use std::{sync::Arc, time::Duration};

use cluster::{Cluster, ErrorClass, FIELD_MANAGER, ReadError, WriteError, retry};
use jiff::{SignedDuration, Timestamp};
use object::{Object, ObjectKey};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};

use crate::process;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How long a claim counts after it was last renewed.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(5);
/// How often a claim of another run is looked at.
const WATCH: Duration = Duration::from_millis(500);
/// How often who stands by looks, for as long as it takes.
const STAND_BY: Duration = Duration::from_secs(2);
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

/// The Lease of whoever writes.
pub const RUN: &str = "ks-installer";

/// Who wants a claim, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// Name of the Lease, in KubeSphere's namespace.
    pub lease: String,
    /// Names the claimant for people, and is its alone: host, process, a random part.
    pub holder: String,
    /// Holders whose names begin so are known to be gone: one of their kind works at a time, and it is this one.
    pub replaces: Option<String>,
    /// Waits for its turn, however long that takes.
    pub stands_by: bool,
}

impl Claimant {
    /// One that wants to write.
    pub fn run(holder: &str) -> Self {
        Self {
            lease: RUN.to_owned(),
            holder: holder.to_owned(),
            replaces: None,
            stands_by: false,
        }
    }
}

/// A claim that is held: to write, or to lead.
pub struct Lease {
    key: ObjectKey,
    cluster: Cluster,
    clock: Clock,
    claimant: Claimant,
    /// The Lease's resource version when it was last written.
    version: Mutex<Option<String>>,
}

impl Lease {
    fn wanted(cluster: &Cluster, clock: &Clock, claimant: Claimant) -> Self {
        Self {
            key: ObjectKey::namespaced(
                "coordination.k8s.io",
                "Lease",
                "kubesphere-system",
                &claimant.lease,
            ),
            cluster: cluster.clone(),
            clock: Arc::clone(clock),
            claimant,
            version: Mutex::default(),
        }
    }

    /// Takes a claim.
    ///
    /// Where another one has it, this one is told, and watches for a sign of life as long as a claim counts: clocks of two
    /// machines are not compared. One that is known to be dead is not waited for.
    ///
    /// # Errors
    /// [`LeaseError::Held`] when another one is alive, unless this one stands by.
    pub async fn acquire(
        cluster: &Cluster,
        clock: &Clock,
        claimant: Claimant,
        waits: impl Fn(&LeaseError),
    ) -> Result<Self, LeaseError> {
        let lease = Self::wanted(cluster, clock, claimant);
        let mut watched: Option<(Option<String>, Instant)> = None;
        let mut told = false;
        loop {
            let found = cluster.get(&lease.key).await?;
            if let Some(held) = found.as_ref().and_then(|found| lease.held_by_other(found)) {
                let sign = found.as_ref().and_then(|found| found.resource_version());
                let sign = sign.map(str::to_owned);
                if !told {
                    waits(&held);
                    told = true;
                }
                match &watched {
                    Some((last, _)) if *last == sign => {}
                    Some(_) if !lease.claimant.stands_by => return Err(held),
                    _ => watched = Some((sign, Instant::now())),
                }
                if watched
                    .as_ref()
                    .is_some_and(|(_, since)| since.elapsed() < DURATION)
                {
                    let pause = if lease.claimant.stands_by { STAND_BY } else { WATCH };
                    tokio::time::sleep(pause).await;
                    continue;
                }
            }
            match lease.take(found.as_ref(), (lease.clock)()).await {
                // Who loses a race for it sees then who won.
                Err(error) if matches!(error.class(), ErrorClass::Conflict | ErrorClass::AlreadyExists) => {}
                Err(error) => return Err(error.into()),
                Ok(taken) => {
                    lease.remember(&taken).await;
                    return Ok(lease);
                }
            }
        }
    }

    /// Who else has this claim and gave a sign of life just now, by the clocks of both.
    ///
    /// # Errors
    /// The Lease cannot be read.
    pub async fn held(
        cluster: &Cluster,
        clock: &Clock,
        claimant: Claimant,
    ) -> Result<Option<LeaseError>, ReadError> {
        let lease = Self::wanted(cluster, clock, claimant);
        let found = cluster.get(&lease.key).await?;
        let held = found.as_ref().and_then(|found| lease.held_by_other(found));
        Ok(held.filter(|held| matches!(held, LeaseError::Held { silent, .. } if *silent < 2 * DURATION)))
    }

    /// Whether somebody has this claim and is alive: where clocks leave that open, a sign of life is waited for.
    ///
    /// # Errors
    /// The Lease cannot be read.
    pub async fn living_holder(
        cluster: &Cluster,
        clock: &Clock,
        name: &str,
    ) -> Result<Option<String>, ReadError> {
        let mut claimant = Claimant::run("");
        name.clone_into(&mut claimant.lease);
        let lease = Self::wanted(cluster, clock, claimant);
        let since = Instant::now();
        let mut first: Option<Option<String>> = None;
        loop {
            let Some(found) = cluster.get(&lease.key).await? else {
                return Ok(None);
            };
            let Some(LeaseError::Held { holder, silent, .. }) = lease.held_by_other(&found) else {
                return Ok(None);
            };
            let sign = found.resource_version().map(str::to_owned);
            let is_alive = first.as_ref().is_some_and(|first| *first != sign);
            if silent < DURATION || is_alive {
                return Ok(Some(holder));
            }
            if since.elapsed() > RENEWAL + WATCH {
                return Ok(None);
            }
            first.get_or_insert(sign);
            tokio::time::sleep(WATCH).await;
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
        Ok(found.filter(|found| found.get_str("/spec/holderIdentity") == Some(&self.claimant.holder)))
    }

    async fn remember(&self, written: &Object) {
        *self.version.lock().await = written.resource_version().map(str::to_owned);
    }

    /// As long as nobody else writes to the Lease, one request.
    async fn renew(&self) -> Result<(), LeaseError> {
        let version = self.version.lock().await.clone();
        let version = match version {
            Some(version) => version,
            None => match self.cluster.get(&self.key).await? {
                Some(found) => self
                    .still_held(&found)
                    .map_err(|holder| LeaseError::Lost { holder })?,
                None => return self.take_again().await,
            },
        };
        let patch = json!({
            "metadata": {"resourceVersion": version},
            "spec": {"renewTime": micro_time((self.clock)())},
        });
        match self.cluster.merge_patch(&self.key, &patch).await {
            Ok(written) => {
                self.remember(&written).await;
                Ok(())
            }
            Err(error) => {
                // The next time it is read first.
                *self.version.lock().await = None;
                if !matches!(error.class(), ErrorClass::Conflict | ErrorClass::NotFound) {
                    return Err(error.into());
                }
                match self.cluster.get(&self.key).await? {
                    Some(found) => match self.still_held(&found) {
                        Ok(_) => Ok(()),
                        Err(holder) => Err(LeaseError::Lost { holder }),
                    },
                    None => self.take_again().await,
                }
            }
        }
    }

    async fn take_again(&self) -> Result<(), LeaseError> {
        let taken = self.take(None, (self.clock)()).await?;
        self.remember(&taken).await;
        Ok(())
    }

    /// The resource version of a Lease that is this one's; who has it otherwise.
    fn still_held(&self, found: &Object) -> Result<String, String> {
        match found.get_str("/spec/holderIdentity").unwrap_or_default() {
            holder if holder == self.claimant.holder => {
                Ok(found.resource_version().unwrap_or_default().to_owned())
            }
            "" => Err("somebody".to_owned()),
            holder => Err(holder.to_owned()),
        }
    }

    /// Who else has the claim and may be alive.
    fn held_by_other(&self, found: &Object) -> Option<LeaseError> {
        let holder = found
            .get_str("/spec/holderIdentity")
            .filter(|holder| !holder.is_empty() && *holder != self.claimant.holder)
            .filter(|holder| {
                let replaces = self.claimant.replaces.as_deref();
                !replaces.is_some_and(|start| holder.starts_with(start))
            })?;
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
            "holderIdentity": self.claimant.holder,
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
