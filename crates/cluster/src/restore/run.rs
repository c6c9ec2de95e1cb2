//! Writing what a restore decided.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use object::{Object, ObjectKey};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    Action, Restore, RestoreError, Step,
    decide::{DEFINITIONS, comparable, owner_keys},
};
use crate::{
    Cluster, ErrorClass, WriteError,
    retry::{Policy, with_backoff},
};

/// Writes under way at once.
const CONCURRENCY: usize = 8;
/// How often an object is written that others write too.
const TRIES: u32 = 5;
/// Longest wait until a new CustomResourceDefinition is served.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a restore came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub created: usize,
    pub changed: usize,
    /// What could not be written, and why.
    pub failed: Vec<Failed>,
}

/// One object that could not be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    pub object: ObjectKey,
    pub reason: String,
}

/// Carries a restore out. What cannot be written is noted, and the rest goes on. `listen` hears of every object.
///
/// # Errors
/// A new kind is not served, so that its objects cannot come. What was written stays.
pub async fn run(
    cluster: &Cluster,
    restore: &Restore,
    listen: &(dyn Fn(&ObjectKey) + Sync),
) -> Result<Summary, RestoreError> {
    let mut summary = Summary::default();
    for steps in restore.steps.chunk_by(|a, b| a.write.stage == b.write.stage) {
        let written: Vec<_> = stream::iter(steps)
            .map(|step| async move {
                let result = write(cluster, step).await;
                listen(&step.object);
                (step, result)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for (step, result) in written {
            match (result, step.action) {
                (Ok(()), Action::Create) => summary.created += 1,
                (Ok(()), Action::Change) => summary.changed += 1,
                (Err(reason), _) => summary.failed.push(Failed {
                    object: step.object.clone(),
                    reason,
                }),
            }
        }
        if steps.first().is_some_and(|step| step.write.stage == DEFINITIONS) {
            wait_for_definitions(cluster, steps, &summary).await?;
        }
    }
    for step in restore.steps.iter().filter(|step| !step.write.owners.is_empty()) {
        if summary.failed.iter().any(|failed| failed.object == step.object) {
            continue;
        }
        if let Err(reason) = add_owners(cluster, step).await {
            summary.failed.push(Failed {
                object: step.object.clone(),
                reason,
            });
        }
    }
    summary.failed.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(summary)
}

async fn wait_for_definitions(
    cluster: &Cluster,
    steps: &[Step],
    summary: &Summary,
) -> Result<(), RestoreError> {
    let until = Instant::now() + PATIENCE;
    for step in steps {
        let is_written = !summary.failed.iter().any(|failed| failed.object == step.object);
        if step.object.kind != "CustomResourceDefinition" || !is_written {
            continue;
        }
        while !cluster
            .get(&step.object)
            .await?
            .is_some_and(|d| is_established(&d))
        {
            if Instant::now() > until {
                return Err(RestoreError::NotServed(step.object.name.clone()));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
    cluster.rediscover().await?;
    Ok(())
}

fn is_established(definition: &Object) -> bool {
    let conditions = definition.get("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let text = |name: &str| condition.get(name).and_then(Value::as_str);
        text("type") == Some("Established") && text("status") == Some("True")
    })
}

async fn retry<T, F>(write: impl FnMut() -> F) -> Result<T, WriteError>
where
    F: Future<Output = Result<T, WriteError>>,
{
    with_backoff(&Policy::WRITE, write, |_, _| {}).await
}

async fn write(cluster: &Cluster, step: &Step) -> Result<(), String> {
    match &step.write.live {
        None => create(cluster, step).await?,
        Some(live) => change(cluster, step, live.clone(), true).await?,
    }
    if let Some(status) = &step.write.status {
        let patch = json!({"status": status});
        retry(|| cluster.merge_patch_status(&step.object, version(&step.write.body), &patch))
            .await
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The version without the group.
fn version(body: &Value) -> &str {
    let version = body.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    version.rsplit('/').next().unwrap_or_default()
}

async fn create(cluster: &Cluster, step: &Step) -> Result<(), String> {
    let body = &step.write.body;
    let Err(error) = retry(|| cluster.create(body)).await else {
        return Ok(());
    };
    match error.class() {
        // The cluster makes it as soon as its namespace is there, or the answer to an earlier try was lost.
        ErrorClass::AlreadyExists => {
            let live = cluster
                .get_in(&step.object, version(body))
                .await
                .map_err(|e| e.to_string())?;
            match live {
                Some(live) => change(cluster, step, live, false).await,
                None => Err(error.to_string()),
            }
        }
        // Somebody else has its address by now.
        ErrorClass::Invalid if step.object.is("", "Service") && has_address(body) => {
            let mut body = body.clone();
            if let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut) {
                for name in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
                    spec.remove(name);
                }
            }
            match retry(|| cluster.create(&body)).await {
                Ok(_) => Ok(()),
                Err(_) => Err(error.to_string()),
            }
        }
        _ => Err(error.to_string()),
    }
}

fn has_address(service: &Value) -> bool {
    let address = service.pointer("/spec/clusterIP").and_then(Value::as_str);
    address.is_some_and(|address| !address.is_empty() && address != "None")
}

/// Replaces an object under the resource version that was looked at. When it must be as it was decided on
/// (`is_guarded`), a change by somebody else is not undone.
async fn change(cluster: &Cluster, step: &Step, live: Object, is_guarded: bool) -> Result<(), String> {
    let mut body = step.write.body.clone();
    let mut version = live.resource_version().unwrap_or_default().to_owned();
    let with_status = body.get("status").is_some();
    let known = comparable(&live, with_status);
    for _ in 0..TRIES {
        body["metadata"]["resourceVersion"] = version.as_str().into();
        let error = match retry(|| cluster.replace(&body)).await {
            Ok(_) => return Ok(()),
            Err(error) if *error.class() == ErrorClass::Conflict => error,
            Err(error) => return Err(error.to_string()),
        };
        let now = cluster
            .get_in(&step.object, live.version())
            .await
            .map_err(|e| e.to_string())?;
        let Some(now) = now else {
            return Err("it was deleted meanwhile".to_owned());
        };
        if is_guarded && comparable(&now, with_status) != known {
            return Err(
                "somebody changed it meanwhile, and that is not undone unseen: restore it again".to_owned(),
            );
        }
        match now.resource_version() {
            Some(now) => now.clone_into(&mut version),
            None => return Err(error.to_string()),
        }
    }
    Err("others keep writing it: restore it again".to_owned())
}

/// Adds references to owners that have UIDs only now.
async fn add_owners(cluster: &Cluster, step: &Step) -> Result<(), String> {
    for _ in 0..TRIES {
        let Some(live) = cluster.get(&step.object).await.map_err(|e| e.to_string())? else {
            return Err("it was deleted meanwhile".to_owned());
        };
        let mut references: Vec<Value> = step
            .write
            .body
            .pointer("/metadata/ownerReferences")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        for reference in &step.write.owners {
            let mut owner = None;
            for key in owner_keys(&live, reference) {
                if owner.is_none() {
                    owner = cluster.get(&key).await.map_err(|e| e.to_string())?;
                }
            }
            // Where the owner could not be created, that is said of the owner.
            if let Some(uid) = owner.as_ref().and_then(Object::uid) {
                let mut reference = reference.clone();
                reference["uid"] = uid.into();
                references.push(reference);
            }
        }
        let patch =
            json!({"metadata": {"resourceVersion": live.resource_version(), "ownerReferences": references}});
        match retry(|| cluster.merge_patch(&step.object, &patch)).await {
            Ok(_) => return Ok(()),
            Err(error) if *error.class() == ErrorClass::Conflict => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err("others keep writing it: restore it again".to_owned())
}
