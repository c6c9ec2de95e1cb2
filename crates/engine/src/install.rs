//! From nothing: what comes before everything else, so that an installation can go on like any other run.

use cluster::{ErrorClass, ReadError, Scope, retry};
use object::Object;
use upgrade::{Action, Step, install, plan::Condition};

use crate::{
    Event, Listener, Prepared, RunError, Session,
    run::wait,
    session::review,
    write::{get, seed},
};

/// Collects, and decides on an installation with this ClusterConfiguration, as if what must be there first were there. Only
/// reads.
///
/// # Errors
/// The cluster cannot be read at all.
pub async fn prepare_installation(
    session: &Session<'_>,
    configuration: &Object,
) -> Result<Prepared, ReadError> {
    let snapshot = session.cluster.snapshot(&Scope::upgrade()).await?;
    let decision = install::decide_installation(&snapshot, configuration, session.releases, &session.options);
    review(session.cluster, snapshot, decision).await
}

impl Session<'_> {
    /// Makes what must be there first and is missing: namespace, definition, ClusterConfiguration. Claim and journal are kept
    /// in that namespace, so there are none yet; each object is created or left as it is, so two that do this at once do
    /// each other no harm. Returns how many were made. After that the installation is prepared like an upgrade.
    ///
    /// # Errors
    /// What was made stays, and doing it again goes on from there.
    pub async fn lay_foundation(
        &self,
        prepared: &Prepared,
        configuration: &Object,
        listen: Listener<'_>,
    ) -> Result<usize, RunError> {
        let mut made = 0;
        for object in install::foundation(&prepared.snapshot, configuration) {
            let key = object.key();
            let create = || self.cluster.create(object.as_value());
            let policy = retry::Policy::WRITE.with_seed(seed(&key.to_string()));
            let created = retry::with_backoff(&policy, create, |error, after| {
                listen(Event::Retrying {
                    object: key.clone(),
                    message: error.to_string(),
                    after,
                });
            });
            match created.await {
                Ok(_) => made += 1,
                // Somebody else's, or a first try whose answer was lost.
                Err(error) if matches!(error.class(), ErrorClass::AlreadyExists) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let definition = upgrade::permissions::definition_key();
        if get(self.cluster, &definition).await?.is_some() {
            let established = Step {
                object: definition,
                action: Action::Wait {
                    condition: Condition::Established,
                },
                before: None,
                changes: Vec::new(),
                drift: Vec::new(),
                note: None,
            };
            wait(self.cluster, 0, &established, self.run.wait, listen).await?;
        }
        Ok(made)
    }
}
