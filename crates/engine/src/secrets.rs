//! References to secrets in manifests, put in place only when an object is written.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cluster::Cluster;
use object::{Object, ObjectKey};
use release::secret::{self, Reference};
use serde_json::Value;

use crate::{RunError, write::get};

/// The objects that hold secrets, as read during a run. Never shown.
#[derive(Default)]
pub(crate) struct Secrets {
    read: Mutex<BTreeMap<ObjectKey, Object>>,
}

/// The object that a reference points into.
fn holder(reference: &Reference) -> ObjectKey {
    match reference {
        Reference::Secret { namespace, name, .. } => ObjectKey::namespaced("", "Secret", namespace, name),
        Reference::Setting { .. } => upgrade::cluster_configuration_key(),
    }
}

fn value(reference: &Reference, holder: &Object) -> Option<Vec<u8>> {
    match reference {
        Reference::Secret { key, .. } => STANDARD.decode(holder.get("/data")?.get(key)?.as_str()?).ok(),
        Reference::Setting { path } => Some(
            secret::setting_text(holder.get("/spec")?, path)?
                .as_bytes()
                .to_vec(),
        ),
    }
}

impl Secrets {
    /// Replaces every reference in `body`.
    pub(crate) async fn resolve(
        &self,
        cluster: &Cluster,
        key: &ObjectKey,
        body: &Value,
    ) -> Result<Value, RunError> {
        for reference in secret::references(body) {
            let holder = holder(&reference);
            if self.known().contains_key(&holder) {
                continue;
            }
            if let Some(object) = get(cluster, &holder).await? {
                self.known().insert(holder, object);
            }
        }
        let known = self.known();
        secret::resolve(body, &|reference| {
            value(reference, known.get(&holder(reference))?)
        })
        .map_err(|missing| RunError::ResolveSecret {
            object: key.clone(),
            reference: missing.to_string(),
        })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<ObjectKey, Object>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
