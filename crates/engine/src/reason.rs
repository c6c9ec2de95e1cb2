//! Why a wait was in vain: what the workload's pods say, and what was last said about them.

use cluster::{Cluster, ReadError};
use object::{Object, ObjectKey};
use upgrade::health;

use crate::run::pods;

/// How many pods are looked at.
const PODS: usize = 3;

/// `progress`, with the state of the pods that are in trouble and the last event of each. Only words are lost when it cannot
/// be read.
pub(crate) async fn explain(cluster: &Cluster, key: &ObjectKey, progress: String) -> String {
    if key.group != "apps" {
        return progress;
    }
    let words = match words(cluster, key).await {
        Ok(words) => words,
        Err(error) => {
            tracing::warn!(%error, "the reason cannot be read");
            return progress;
        }
    };
    // The trouble may have been told already.
    let new = words.into_iter().filter(|word| !progress.contains(word.as_str()));
    std::iter::once(progress.clone())
        .chain(new)
        .collect::<Vec<_>>()
        .join("; ")
}

async fn words(cluster: &Cluster, key: &ObjectKey) -> Result<Vec<String>, ReadError> {
    let Some(workload) = cluster.get(key).await? else {
        return Ok(Vec::new());
    };
    let pods = pods(cluster, &workload).await?;
    let unready: Vec<&Object> = health::pods_of(&workload, &pods)
        .into_iter()
        .filter(|pod| !health::condition(pod, "Ready").is_some_and(|(is_ready, ..)| is_ready))
        .collect();
    let mut words = health::trouble_of(&workload, &pods);
    words.truncate(PODS);
    if unready.is_empty() {
        return Ok(words);
    }
    let events = cluster.list("", "Event", key.namespace.as_deref(), None).await?;
    for pod in unready.into_iter().take(PODS) {
        words.extend(last_event(&events, pod));
    }
    Ok(words)
}

/// `last event of pod a-1: Failed: …`
fn last_event(events: &[Object], pod: &Object) -> Option<String> {
    let time = |event: &Object| {
        [
            "/lastTimestamp",
            "/series/lastObservedTime",
            "/eventTime",
            "/metadata/creationTimestamp",
        ]
        .into_iter()
        .find_map(|pointer| event.get_str(pointer).filter(|time| !time.is_empty()))
        .unwrap_or_default()
        .to_owned()
    };
    let about = |event: &&Object| match event.get_str("/involvedObject/uid") {
        Some(uid) => pod.uid() == Some(uid),
        None => {
            event.get_str("/involvedObject/kind") == Some("Pod")
                && event.get_str("/involvedObject/name") == Some(pod.name())
        }
    };
    let last = events.iter().filter(about).max_by_key(|event| time(event))?;
    let text = |pointer: &str| last.get_str(pointer).unwrap_or_default().trim().to_owned();
    Some(format!(
        "last event of pod {}: {}: {}",
        pod.name(),
        text("/reason"),
        text("/message")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_event_of_the_pod_counts() {
        let object = |value: serde_json::Value| Object::try_from(value).unwrap();
        let pod = object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "1"}}));
        let event = |uid: &str, time: &str, message: &str| {
            object(
                json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": message},
                "involvedObject": {"kind": "Pod", "name": "p", "uid": uid},
                "lastTimestamp": time, "reason": "Failed", "message": message}),
            )
        };
        let events = [
            event("1", "2026-01-01T00:00:02Z", "later"),
            event("1", "2026-01-01T00:00:01Z", "sooner"),
            event("2", "2026-01-01T00:00:03Z", "of another"),
        ];
        assert_eq!(
            last_event(&events, &pod).as_deref(),
            Some("last event of pod p: Failed: later")
        );
        assert_eq!(last_event(&[], &pod), None);
    }
}
