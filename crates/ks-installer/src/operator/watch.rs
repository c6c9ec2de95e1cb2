//! What makes the operator look again: an edit of the ClusterConfiguration, and changes to what the release set.
//!
//! Nothing is polled and nothing is kept: an event of a watch is reduced to a few digests.

use std::collections::{BTreeMap, BTreeSet};

use access::{IAM_GROUP, RBAC_GROUP, TEMPLATE};
use futures::{
    StreamExt as _,
    stream::{LocalBoxStream, SelectAll},
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use object::ObjectKey;
use serde_json::{Map, Value, json};
use upgrade::{Outline, ServedResource, Snapshot, plan::digest_value};

pub(crate) const NAMESPACE: &str = "kubesphere-system";
/// `manual`: plan, publish the plan, and wait for its approval.
pub(crate) const APPROVAL: &str = "installer.kubesphere.io/approval";
/// The digest of the plan that may be carried out.
pub(crate) const APPROVED_PLAN: &str = "installer.kubesphere.io/approved-plan";
/// `overwrite`: put back what somebody changed after the upgrade.
pub(crate) const DRIFT: &str = "installer.kubesphere.io/drift";

/// Objects of the release that somebody changed or deleted.
pub(super) type Changes = SelectAll<LocalBoxStream<'static, ObjectKey>>;

/// What of a ClusterConfiguration is an instruction.
pub(super) fn instruction(configuration: Option<&Value>) -> String {
    let at = |pointer: &str| configuration.and_then(|c| c.pointer(pointer)).cloned();
    let annotation = |name: &str| {
        let annotations = at("/metadata/annotations")?;
        annotations.get(name).cloned()
    };
    digest_value(&json!([
        at("/metadata/uid"),
        at("/spec"),
        at("/status/core/version"),
        annotation(APPROVAL),
        annotation(APPROVED_PLAN),
        annotation(DRIFT),
    ]))
}

/// Watches the ClusterConfiguration for edits; the operator's own status writes are none. The first event comes with what is
/// there.
pub(super) fn configuration(client: kube::Client) -> LocalBoxStream<'static, ()> {
    let resource = ApiResource {
        group: "installer.kubesphere.io".into(),
        version: "v1alpha1".into(),
        api_version: "installer.kubesphere.io/v1alpha1".into(),
        kind: "ClusterConfiguration".into(),
        plural: "clusterconfigurations".into(),
    };
    let api = Api::<DynamicObject>::namespaced_with(client, NAMESPACE, &resource);
    let config = watcher::Config::default().fields("metadata.name=ks-installer");
    let mut last = None;
    watcher::watcher(api, config)
        .default_backoff()
        .filter_map(move |event| {
            let now = match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => {
                    let value = serde_json::to_value(object).ok();
                    Some(instruction(value.as_ref()))
                }
                Ok(Event::Delete(_)) => Some(instruction(None)),
                Ok(Event::Init | Event::InitDone) => None,
                Err(error) => {
                    tracing::debug!(%error, "the watch of the ClusterConfiguration was cut");
                    None
                }
            };
            let changed = now.is_some() && now != last;
            if changed {
                last = now;
            }
            std::future::ready(changed.then_some(()))
        })
        .boxed_local()
}

/// Reads and watches metadata alone.
type Metadata = Api<PartialObjectMeta<DynamicObject>>;

/// More objects of a kind than this are not watched one by one.
const ONE_BY_ONE: usize = 8;

/// The objects of the release as a snapshot has them, for [`objects`]: what changed between the snapshot and the beginning of a
/// watch is a change, too.
pub(super) fn versions(snapshot: &Snapshot, outline: &Outline) -> BTreeMap<ObjectKey, String> {
    let version = |key: &ObjectKey| {
        let metadata = snapshot.get(key)?.get("/metadata")?.as_object()?.iter();
        // Who set which field is most of it, and tells nothing here.
        let metadata = metadata.filter(|(name, _)| *name != "managedFields");
        let metadata: Map<String, Value> = metadata
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let metadata = serde_json::from_value(metadata.into()).ok()?;
        Some((key.clone(), version(&metadata)))
    };
    outline.managed.iter().filter_map(version).collect()
}

/// Watches the metadata of the release's objects: a kind in a namespace at a time. Where there may be very many others of the
/// kind, since tenants have them, only those are watched that are meant: by the label of templates, or one by one.
pub(super) fn objects(
    client: &kube::Client,
    served: &[ServedResource],
    outline: &Outline,
    seen: &BTreeMap<ObjectKey, String>,
) -> Vec<LocalBoxStream<'static, ObjectKey>> {
    let mut places: BTreeMap<(&str, &str, Option<&str>), BTreeSet<&ObjectKey>> = BTreeMap::new();
    for key in &outline.managed {
        let place = (key.group.as_str(), key.kind.as_str(), key.namespace.as_deref());
        places.entry(place).or_default().insert(key);
    }
    let mut streams = Vec::new();
    for ((group, kind, namespace), keys) in places {
        let Some(served) = served.iter().find(|r| r.group == group && r.kind == kind) else {
            continue;
        };
        let api_version = match group {
            "" => served.version.clone(),
            group => format!("{group}/{}", served.version),
        };
        let resource = ApiResource {
            group: group.to_owned(),
            version: served.version.clone(),
            api_version,
            kind: kind.to_owned(),
            plural: served.resource.clone(),
        };
        let api = match namespace {
            Some(namespace) => Metadata::namespaced_with(client.clone(), namespace, &resource),
            None => Metadata::all_with(client.clone(), &resource),
        };
        let mut watch = |config: watcher::Config, keys: &[&ObjectKey]| {
            if !keys.is_empty() {
                let names = keys.iter().map(|key| (key.name.clone(), (*key).clone()));
                let seen = keys
                    .iter()
                    .filter_map(|key| Some((key.name.clone(), seen.get(*key)?.clone())));
                streams.push(watch_metadata(
                    api.clone(),
                    config,
                    names.collect(),
                    seen.collect(),
                ));
            }
        };
        let all = watcher::Config::default();
        if !is_tenants(group) {
            watch(all, &keys.into_iter().collect::<Vec<_>>());
            continue;
        }
        let (templates, others): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| outline.templates.contains(*key));
        watch(all.clone().labels(TEMPLATE), &templates);
        if others.len() > ONE_BY_ONE {
            watch(all, &others);
            continue;
        }
        for key in others {
            watch(all.clone().fields(&format!("metadata.name={}", key.name)), &[key]);
        }
    }
    streams
}

fn watch_metadata(
    api: Metadata,
    config: watcher::Config,
    names: BTreeMap<String, ObjectKey>,
    mut seen: BTreeMap<String, String>,
) -> LocalBoxStream<'static, ObjectKey> {
    // `seen` is what was seen last: a status write is no change, where the API server counts generations.
    watcher::watcher(api, config)
        .default_backoff()
        .filter_map(move |event| {
            let trigger = match event {
                Ok(Event::InitApply(object)) => {
                    // The beginning of a watch, or what was missed while it was cut.
                    let name = object.metadata.name.clone().unwrap_or_default();
                    let now = version(&object.metadata);
                    names.get(&name).and_then(|key| {
                        let before = seen.insert(name, now.clone());
                        before.filter(|before| *before != now).map(|_| key.clone())
                    })
                }
                Ok(Event::Apply(object)) => {
                    let name = object.metadata.name.clone().unwrap_or_default();
                    let now = version(&object.metadata);
                    names
                        .get(&name)
                        .and_then(|key| (seen.insert(name, now.clone()) != Some(now)).then(|| key.clone()))
                }
                Ok(Event::Delete(object)) => {
                    let name = object.metadata.name.unwrap_or_default();
                    seen.remove(&name);
                    names.get(&name).cloned()
                }
                Ok(Event::Init | Event::InitDone) => None,
                Err(error) => {
                    tracing::debug!(%error, "a watch was cut");
                    None
                }
            };
            std::future::ready(trigger)
        })
        .boxed_local()
}

/// Whether tenants have objects of the group's kinds.
fn is_tenants(group: &str) -> bool {
    [IAM_GROUP, RBAC_GROUP, "tenant.kubesphere.io"].contains(&group)
}

fn version(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    let uid = metadata.uid.as_deref().unwrap_or_default();
    match metadata.generation {
        // Labels and annotations are the release's as well, and count no generation.
        Some(generation) if generation > 0 => digest_value(&json!([
            uid,
            generation,
            metadata.labels,
            metadata.annotations.as_ref().map(|annotations| {
                let mut annotations = annotations.clone();
                annotations.remove("deployment.kubernetes.io/revision");
                annotations
            }),
        ])),
        _ => format!(
            "{uid} {}",
            metadata.resource_version.as_deref().unwrap_or_default()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_writes_are_no_instructions() {
        let mk = |spec: &str, approval: Option<&str>, phase: &str| {
            json!({"metadata": {"uid": "u", "generation": 7, "annotations": {APPROVAL: approval, "other": phase}},
                "spec": {"a": spec}, "status": {"phase": phase, "core": {"version": "v3.3.1"}}})
        };
        let of = |value: &Value| instruction(Some(value));
        let first = of(&mk("1", None, "Running"));
        assert_eq!(first, of(&mk("1", None, "Upgrading")));
        assert_ne!(first, of(&mk("2", None, "Running")));
        assert_ne!(first, of(&mk("1", Some("manual"), "Running")));
        assert_ne!(first, instruction(None));
    }
}
