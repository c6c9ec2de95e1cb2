//! Deciding upon a snapshot that is not what is in the cluster: what an edit would come to, before it is made.

use cluster::ReadError;
use upgrade::Snapshot;

use crate::{Prepared, Session, session::review};

/// Decides upon this snapshot. Only reads.
///
/// # Errors
/// The cluster does not say what the caller may do.
pub async fn prepare_upon(session: &Session<'_>, snapshot: Snapshot) -> Result<Prepared, ReadError> {
    let decision = upgrade::decide(&snapshot, session.releases, &session.options);
    review(session.cluster, snapshot, decision).await
}
