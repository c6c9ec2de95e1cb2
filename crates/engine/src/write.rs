//! One step, carried out.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cluster::{
    Cluster, ErrorClass, FIELD_MANAGER, ReadError, WriteError,
    retry::{Policy, with_backoff},
};
use object::{Object, ObjectKey, ownership};
use serde_json::{Value, json};
use upgrade::plan::{self, Action, Body, Step};

use crate::{Event, Listener, Outcome, RunError, generate, secrets::Secrets};

/// How often a write is tried on an object that others write too.
const TRIES: u32 = 6;

pub(crate) struct Writer<'a> {
    pub cluster: &'a Cluster,
    pub secrets: &'a Secrets,
    pub old_managers: &'a [String],
    pub listen: Listener<'a>,
    /// The time that records are given.
    pub started: jiff::Timestamp,
    /// Local time as the ClusterConfiguration's status has it.
    pub now: String,
    /// Held while the ClusterConfiguration is patched: components that end at the same time note it down there.
    pub configuration: tokio::sync::Mutex<()>,
    /// What this run wrote, as the server answered: a later step on the same object goes on from there.
    pub written: Mutex<BTreeMap<ObjectKey, Object>>,
}

impl Writer<'_> {
    /// Carries out a step that writes. `read` is the object as the plan saw it.
    pub(crate) async fn step(&self, step: &Step, read: Option<&Object>) -> Result<Outcome, RunError> {
        let _held = if step.object == upgrade::cluster_configuration_key() {
            Some(self.configuration.lock().await)
        } else {
            None
        };
        let written = self.written().get(&step.object).cloned();
        let read = written.as_ref().or(read);
        match &step.action {
            Action::Apply { body, previous, .. } => self.apply(step, read, body, previous).await,
            Action::Patch { body, .. } => self.patch(step, read, &body.0).await,
            Action::Scale { replicas } => {
                self.patch(step, read, &json!({"spec": {"replicas": replicas}}))
                    .await
            }
            Action::Generate { secret } => generate::make(self, &step.object, secret).await,
            Action::Record { body, .. } => self.record(step, read, body).await,
            Action::Delete { uid } => {
                if self.has_objects(read).await? {
                    return Ok(Outcome::Superseded);
                }
                if !self.is_empty_namespace(&step.object).await? {
                    // Somebody else's things are in it.
                    return Ok(Outcome::AlreadyDone);
                }
                match self
                    .retry(&step.object, || self.cluster.delete(&step.object, uid))
                    .await
                {
                    Ok(()) => Ok(Outcome::Changed),
                    // Another object has taken the name.
                    Err(error) if is_conflict(&error) => Ok(Outcome::Superseded),
                    Err(error) => Err(error),
                }
            }
            Action::Wait { .. } => Ok(Outcome::Held),
        }
    }

    /// Whether objects of a CustomResourceDefinition that is to go have been made since the plan was: they would go with it.
    async fn has_objects(&self, read: Option<&Object>) -> Result<bool, RunError> {
        let Some(definition) = read.filter(|object| object.kind() == "CustomResourceDefinition") else {
            return Ok(false);
        };
        let (Some(group), Some(kind)) = (
            definition.get_str("/spec/group"),
            definition.get_str("/spec/names/kind"),
        ) else {
            return Ok(false);
        };
        let objects = self.cluster.list(group, kind, None, None).await?;
        Ok(!objects.is_empty())
    }

    /// Whether nothing is in a namespace but what Kubernetes itself puts there. True for what is no namespace.
    async fn is_empty_namespace(&self, key: &ObjectKey) -> Result<bool, RunError> {
        if !key.is("", "Namespace") {
            return Ok(true);
        }
        match self.cluster.in_namespace(&key.name).await {
            Ok(objects) => Ok(objects.iter().all(is_kubernetes_own)),
            // What cannot be seen may be there.
            Err(error) if error.failure.class == ErrorClass::Forbidden => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The object as it is now when it still is what the plan was decided on, `None` when it is something else.
    async fn reread(&self, step: &Step) -> Result<Option<Option<Object>>, RunError> {
        let now = get(self.cluster, &step.object).await?;
        let digest = now.as_ref().map(plan::digest);
        let ours = self.written().get(&step.object).map(plan::digest);
        let same = digest == step.before || (ours.is_some() && digest == ours);
        Ok(same.then_some(now))
    }

    fn written(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Object>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, object: Object) -> Outcome {
        self.written().insert(object.key(), object);
        Outcome::Changed
    }

    async fn apply(
        &self,
        step: &Step,
        read: Option<&Object>,
        body: &Body,
        previous: &Body,
    ) -> Result<Outcome, RunError> {
        let key = &step.object;
        let body = self.secrets.resolve(self.cluster, key, &body.0).await?;
        let mut live = read.cloned();
        // No resource version can say that an object must not be there yet.
        if live.is_none() && get(self.cluster, key).await?.is_some() {
            return Ok(Outcome::Superseded);
        }
        // A conflict that is nobody's edit (a status update) is tried again from the new state.
        for _ in 0..TRIES {
            let mut guarded = body.clone();
            if let Some(object) = &live {
                let mut version = object.resource_version().unwrap_or_default().to_owned();
                let fields = (!previous.0.is_null())
                    .then(|| {
                        ownership::hand_over(object, &previous.0, &body, self.old_managers, FIELD_MANAGER)
                    })
                    .flatten();
                if let Some(fields) = fields {
                    let patch = json!([
                        {"op": "replace", "path": "/metadata/managedFields", "value": fields},
                        {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
                    ]);
                    match self.retry(key, || self.cluster.json_patch(key, &patch)).await {
                        Ok(handed) => handed
                            .resource_version()
                            .unwrap_or_default()
                            .clone_into(&mut version),
                        Err(error) if is_changed(&error) => {
                            let Some(now) = self.reread(step).await? else {
                                return Ok(Outcome::Superseded);
                            };
                            live = now;
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
                if let Some(metadata) = guarded.pointer_mut("/metadata").and_then(Value::as_object_mut) {
                    metadata.insert("resourceVersion".into(), version.into());
                }
            }
            let written = match (&live, can_be_applied(key)) {
                (_, true) => self.retry(key, || self.cluster.apply(&guarded, true)).await,
                (Some(_), false) => self.retry(key, || self.cluster.merge_patch(key, &guarded)).await,
                (None, false) => self.retry(key, || self.cluster.create(&guarded)).await,
            };
            match written {
                Ok(object) => return Ok(self.note(object)),
                // Made by somebody else meanwhile, or by a try whose answer was lost.
                Err(error) if is_taken(&error) => return Ok(Outcome::Superseded),
                Err(error) if is_conflict(&error) || live.is_some() && is_changed(&error) => {
                    let Some(now) = self.reread(step).await? else {
                        return Ok(Outcome::Superseded);
                    };
                    live = now;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Superseded)
    }

    async fn patch(&self, step: &Step, read: Option<&Object>, patch: &Value) -> Result<Outcome, RunError> {
        let key = &step.object;
        let mut live = read.cloned();
        for _ in 0..TRIES {
            let mut guarded = with_time(patch, &self.now);
            if let Some(version) = live.as_ref().and_then(Object::resource_version) {
                guarded["metadata"]["resourceVersion"] = version.into();
            }
            let whole = live.as_ref().filter(|_| plan::is_replaced(key)).map(|object| {
                let mut whole = object.as_value().clone();
                plan::merge_patch(&mut whole, &guarded);
                whole
            });
            let written = match &whole {
                Some(whole) => self.retry(key, || self.cluster.replace(whole)).await,
                None => self.retry(key, || self.cluster.merge_patch(key, &guarded)).await,
            };
            match written {
                Ok(object) => return Ok(self.note(object)),
                Err(error) if is_changed(&error) => {
                    let Some(now) = self.reread(step).await? else {
                        return Ok(Outcome::Superseded);
                    };
                    live = now;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Superseded)
    }

    /// Tries a write again when the server could not take it, with growing pauses.
    pub(crate) async fn retry<T, F>(&self, key: &ObjectKey, write: impl FnMut() -> F) -> Result<T, RunError>
    where
        F: Future<Output = Result<T, WriteError>>,
    {
        // Spread by the object, so that the steps which failed side by side do not come back side by side, and that a run
        // can be played again.
        let policy = Policy::WRITE.with_seed(seed(&key.to_string()));
        let written = with_backoff(&policy, write, |error, after| {
            (self.listen)(Event::Retrying {
                object: key.clone(),
                message: error.to_string(),
                after,
            });
        });
        Ok(written.await?)
    }
}

/// Reads one object in the middle of a run: as patiently as is written, since an API server that is away for a moment is no
/// reason to stop.
pub(crate) async fn get(cluster: &Cluster, key: &ObjectKey) -> Result<Option<Object>, ReadError> {
    let policy = Policy::WRITE.with_seed(seed(&key.to_string()));
    with_backoff(&policy, || cluster.get(key), |_, _| {}).await
}

/// What Kubernetes makes in every namespace, and what passes by itself.
fn is_kubernetes_own(object: &Object) -> bool {
    match (object.group(), object.kind()) {
        ("", "Event") | ("events.k8s.io", _) => true,
        ("", "ServiceAccount") => object.name() == "default",
        ("", "ConfigMap") => object.name() == "kube-root-ca.crt",
        ("", "Secret") => object.get_str("/type") == Some("kubernetes.io/service-account-token"),
        // What is on its way out goes with the namespace.
        _ => object.is_being_deleted() || object.get("/metadata/ownerReferences").is_some(),
    }
}

/// A number that differs from name to name, and is the same for the same one.
pub(crate) fn seed(name: &str) -> u64 {
    // FNV-1a
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Whether the server takes an apply of the kind. The aggregator of Kubernetes 1.20 has no server-side apply, and breaks off:
/// "FieldManager must be installed to run apply".
fn can_be_applied(key: &ObjectKey) -> bool {
    key.group != "apiregistration.k8s.io"
}

fn is_taken(error: &RunError) -> bool {
    matches!(error, RunError::WriteObject(error) if matches!(error.class(), ErrorClass::AlreadyExists))
}

fn is_conflict(error: &RunError) -> bool {
    matches!(error, RunError::WriteObject(error) if matches!(error.class(), ErrorClass::Conflict))
}

/// Whether an object that was there is another now, or is gone: somebody deleted it meanwhile.
fn is_changed(error: &RunError) -> bool {
    is_conflict(error)
        || matches!(error, RunError::WriteObject(error) if matches!(error.class(), ErrorClass::NotFound))
}

/// The patch with the placeholder for the present time filled in.
fn with_time(patch: &Value, now: &str) -> Value {
    match patch {
        Value::String(text) if text == upgrade::settings::NOW => now.into(),
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(name, value)| (name.clone(), with_time(value, now)))
                .collect(),
        ),
        Value::Array(items) => items.iter().map(|item| with_time(item, now)).collect(),
        other => other.clone(),
    }
}
