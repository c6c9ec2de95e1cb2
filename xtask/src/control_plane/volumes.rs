//! Plays the storage provisioner: a volume for every claim that asks for one.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

/// The provisioner of the storage class that an empty cluster gets.
pub(crate) const PROVISIONER: &str = "ks-installer.test/fake";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// Looks twice a second. Claims are few and rarely made: a watch would not pay.
pub(crate) async fn follow(client: &Client) {
    loop {
        if let Err(error) = provision(client).await {
            tracing::debug!(%error, "trying again");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn provision(client: &Client) -> Result<(), kube::Error> {
    let cached = ListParams::default().match_any();
    let claims = Api::<PersistentVolumeClaim>::all(client.clone())
        .list(&cached)
        .await?
        .items;
    let classes = Api::<StorageClass>::all(client.clone()).list(&cached).await?;
    let classes: BTreeMap<String, StorageClass> = classes
        .into_iter()
        .map(|class| (class.name_any(), class))
        .collect();
    for claim in claims {
        if let Some(volume) = volume_for(&claim, &classes) {
            let kind = GroupVersionKind::gvk("", "v1", "PersistentVolume");
            match super::nodes::create(client, &kind, volume).await {
                Err(kube::Error::Api(status)) if status.is_already_exists() => (),
                result => result?,
            }
        }
    }
    let volumes = Api::<PersistentVolume>::all(client.clone());
    for volume in volumes.list(&cached).await? {
        if is_to_be_deleted(&volume) {
            volumes
                .delete(&volume.name_any(), &DeleteParams::default())
                .await?;
        }
    }
    Ok(())
}

/// The volume that a claim waits for: of its size, class and access modes, and bound to it and no other.
fn volume_for(claim: &PersistentVolumeClaim, classes: &BTreeMap<String, StorageClass>) -> Option<Value> {
    let spec = claim.spec.as_ref()?;
    let waits = claim.metadata.deletion_timestamp.is_none() && spec.volume_name.is_none();
    let class = classes.get(spec.storage_class_name.as_ref()?).filter(|_| waits)?;
    // A class may want to know first which node the Pod goes to; the scheduler notes that on the claim.
    if class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
        && !claim
            .annotations()
            .contains_key("volume.kubernetes.io/selected-node")
    {
        return None;
    }
    let name = format!("pvc-{}", claim.uid()?);
    Some(json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: class.provisioner}},
        "spec": {
            "capacity": {"storage": spec.resources.as_ref()?.requests.as_ref()?.get("storage")?},
            "accessModes": spec.access_modes,
            "volumeMode": spec.volume_mode,
            "storageClassName": class.name_any(),
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid(),
            },
            "hostPath": {"path": format!("/fake/{name}")},
        },
    }))
}

/// Whether the claim of a provisioned volume is gone, and its class says that the data goes too.
fn is_to_be_deleted(volume: &PersistentVolume) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let policy = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    phase == Some("Released")
        && policy == Some("Delete")
        && volume.annotations().contains_key(PROVISIONED_BY)
        && volume.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Value), mode: &str, expect: Option<&str>) {
        let mut claim = json!({
            "metadata": {"name": "data", "namespace": "a", "uid": "1"},
            "spec": {
                "storageClassName": "local", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "20Gi"}},
            },
        });
        change(&mut claim);
        let class: StorageClass = serde_json::from_value(
            json!({"metadata": {"name": "local"}, "provisioner": "p", "volumeBindingMode": mode}),
        )
        .unwrap();
        let classes = BTreeMap::from([("local".to_owned(), class)]);
        let volume = volume_for(&serde_json::from_value(claim).unwrap(), &classes);
        let size = volume
            .as_ref()
            .map(|volume| volume["spec"]["capacity"]["storage"].as_str().unwrap());
        assert_eq!(size, expect);
        if let Some(volume) = volume {
            assert_eq!(volume["spec"]["claimRef"]["uid"], "1");
            serde_json::from_value::<PersistentVolume>(volume).unwrap();
        }
    }

    #[test]
    fn a_waiting_claim_gets_a_volume_of_its_size() {
        check(|_| (), "Immediate", Some("20Gi"));
        check(
            |claim| claim["spec"]["volumeName"] = "pv".into(),
            "Immediate",
            None,
        );
        check(
            |claim| claim["spec"]["storageClassName"] = "other".into(),
            "Immediate",
            None,
        );
        check(
            |claim| claim["spec"]["storageClassName"] = Value::Null,
            "Immediate",
            None,
        );
    }

    #[test]
    fn a_class_that_waits_for_a_consumer_is_heeded() {
        check(|_| (), "WaitForFirstConsumer", None);
        let select = |claim: &mut Value| {
            claim["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "n"});
        };
        check(select, "WaitForFirstConsumer", Some("20Gi"));
    }
}
