//! Revisions in Helm's records.

use cluster::ErrorClass;
use object::Object;
use release::helm::{self, HelmError, Record};
use serde_json::{Value, json};
use upgrade::plan::{Body, Step};

use crate::{Outcome, RunError, write::Writer};

impl Writer<'_> {
    /// Writes a revision: a new one is created, and never in place of one that somebody else wrote meanwhile; an earlier
    /// one is changed only if it still is what was read.
    pub(crate) async fn record(
        &self,
        step: &Step,
        read: Option<&Object>,
        body: &Body,
    ) -> Result<Outcome, RunError> {
        let key = &step.object;
        let failed = |source: HelmError| RunError::RecordRelease {
            object: key.clone(),
            source,
        };
        let mut record =
            Record::from_value(body.0.get("release").cloned().unwrap_or_default()).map_err(failed)?;
        if let Some(objects) = body.0.get("objects") {
            let objects = self.secrets.resolve(self.cluster, key, objects).await?;
            let manifest = helm::manifest_of(objects.as_array().into_iter().flatten());
            record = record.completed(&manifest, &self.started.to_string());
        }
        let secret = record.encode(self.started.as_second()).map_err(failed)?;
        let written = match read {
            None => self.retry(key, || self.cluster.create(secret.as_value())).await,
            Some(read) => {
                let part = |pointer: &str| secret.get(pointer).cloned().unwrap_or(Value::Null);
                let patch = json!({
                    "metadata": {"resourceVersion": read.resource_version(), "labels": part("/metadata/labels")},
                    "data": part("/data"),
                });
                self.retry(key, || self.cluster.merge_patch(key, &patch)).await
            }
        };
        match written {
            Ok(object) => Ok(self.note(object)),
            Err(RunError::WriteObject(error))
                if matches!(
                    error.class(),
                    ErrorClass::Conflict | ErrorClass::AlreadyExists | ErrorClass::NotFound
                ) =>
            {
                Ok(Outcome::Superseded)
            }
            Err(error) => Err(error),
        }
    }
}
