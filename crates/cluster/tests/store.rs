//! Backups in the Secrets of a cluster that is a sandbox.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are outside of tests for clippy"
)]

use cluster::{
    Cluster,
    archive::{ArchiveError, Meta},
    encryption::{Encryption, Keys, Passphrase},
    store::{self, CHUNK, LABEL, Location, StoreError},
};
use object::{Object, ObjectKey};
use sandbox::Sandbox;
use serde_json::{Value, json};

const NAMESPACE: &str = "kubesphere-system";

async fn mk_cluster() -> Cluster {
    let sandbox = Sandbox::new(sandbox::Config::default());
    let cluster = Cluster::new(kube::Client::new(sandbox.service(), "default"));
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    cluster.create(&body).await.unwrap();
    cluster
}

fn mk_meta() -> Meta {
    Meta {
        tool: "0.1.0".into(),
        created: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
        cluster: "c-1".into(),
        kubernetes: "v1.20.2".into(),
        from: "v3.2.1".into(),
        to: "v3.3.1".into(),
    }
}

/// Objects that do not compress, so that there are several chunks.
fn mk_objects(count: u64) -> Vec<Object> {
    let text = |seed: u64| {
        let mut state = seed + 1;
        (0..60_000)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                char::from(b'!' + u8::try_from(state % 90).unwrap())
            })
            .collect::<String>()
    };
    (0..count)
        .map(|number| {
            let value = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("c{number:03}"), "namespace": "n"}, "data": {"a": text(number)}});
            Object::try_from(value).unwrap()
        })
        .collect()
}

fn at(id: &str) -> Location {
    format!("secret://{NAMESPACE}/{id}").parse().unwrap()
}

async fn save(cluster: &Cluster, id: &str, objects: &[Object]) -> Result<(), StoreError> {
    let none = Encryption::None;
    store::save(Some(cluster), &at(id), objects, &json!(null), mk_meta(), &none)
        .await
        .map(drop)
}

async fn open(cluster: &Cluster, id: &str) -> Result<store::Backup, StoreError> {
    store::open(Some(cluster), &at(id), &Keys::default()).await
}

async fn secrets(cluster: &Cluster) -> Vec<Object> {
    cluster
        .list("", "Secret", Some(NAMESPACE), Some(LABEL))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_backup_is_cut_into_secrets_and_put_together_again() {
    let cluster = mk_cluster().await;
    let objects = mk_objects(40);
    save(&cluster, "a", &objects).await.unwrap();
    let secrets = secrets(&cluster).await;
    let names: Vec<_> = secrets.iter().map(Object::name).collect();
    assert_eq!(
        names,
        [
            "ks-installer-backup-a-0",
            "ks-installer-backup-a-1",
            "ks-installer-backup-a-2",
            "ks-installer-backup-a-3"
        ]
    );
    for secret in &secrets {
        assert!(secret.get("/metadata/ownerReferences").is_none());
        let size = secret.get("/data").unwrap().to_string().len();
        assert!(size < CHUNK * 4 / 3 + 100, "{size}");
    }
    let backup = open(&cluster, "a").await.unwrap();
    let read: Vec<Object> = backup
        .objects()
        .unwrap()
        .into_values()
        .map(|o| Object::clone(&o))
        .collect();
    assert_eq!(read, objects);

    let listed = store::list(Some(&cluster), &format!("secret://{NAMESPACE}").parse().unwrap())
        .await
        .unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].location, &listed[0].meta, listed[0].is_incomplete),
        (&at("a"), &Some(mk_meta()), false)
    );

    let error = save(&cluster, "a", &objects[..1]).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Archive(ArchiveError::Exists { .. })),
        "{error}"
    );

    store::delete(Some(&cluster), &at("a")).await.unwrap();
    assert_eq!(self::secrets(&cluster).await, []);
    let error = open(&cluster, "a").await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound(_)), "{error}");
    let error = store::delete(Some(&cluster), &at("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound(_)), "{error}");
}

#[tokio::test]
async fn what_was_altered_or_is_missing_is_refused() {
    let cluster = mk_cluster().await;
    let check = async |id: &str, chunk: &str, edit: Option<Value>, expect: &str| {
        save(&cluster, id, &mk_objects(40)).await.unwrap();
        let name = format!("ks-installer-backup-{id}-{chunk}");
        let key = ObjectKey::namespaced("", "Secret", NAMESPACE, &name);
        let there = cluster.get(&key).await.unwrap().unwrap();
        cluster.delete(&key, there.uid().unwrap()).await.unwrap();
        if let Some(data) = edit {
            let mut body = there.declared();
            body["data"] = data;
            cluster.create(&body).await.unwrap();
        }
        let error = open(&cluster, id).await.unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        let place = format!("secret://{NAMESPACE}").parse().unwrap();
        let listed = store::list(Some(&cluster), &place).await.unwrap();
        let listed = listed.iter().find(|l| l.location == at(id)).unwrap();
        listed.is_incomplete
    };
    assert!(check("gone", "2", None, "backup-gone-2 is missing").await);
    let other = Some(json!({"content": "b3RoZXI="}));
    assert!(!check("other", "3", other, "backup-other-3 is not what its index says").await);
    assert!(check("unfinished", "0", None, "there is no backup").await);
    let index = Some(json!({"index.json": "e30="}));
    assert!(check("index", "0", index, "cannot be read").await);
}

#[tokio::test]
async fn backups_are_not_backed_up() {
    let cluster = mk_cluster().await;
    save(&cluster, "a", &mk_objects(1)).await.unwrap();
    let mut all = secrets(&cluster).await;
    all.extend(mk_objects(1));
    save(&cluster, "b", &all).await.unwrap();
    assert_eq!(open(&cluster, "b").await.unwrap().contents.index.count, 1);
}

#[tokio::test]
async fn what_is_encrypted_stays_so_in_the_cluster() {
    let cluster = mk_cluster().await;
    let passphrase = Passphrase::new("hunter2".to_owned()).unwrap();
    let encryption = Encryption::Passphrase(passphrase.clone());
    let objects = mk_objects(1);
    store::save(
        Some(&cluster),
        &at("a"),
        &objects,
        &json!(null),
        mk_meta(),
        &encryption,
    )
    .await
    .unwrap();
    let error = open(&cluster, "a").await.unwrap_err();
    assert!(
        matches!(error, StoreError::Archive(ArchiveError::Locked { .. })),
        "{error}"
    );
    let keys = Keys::default().with_passphrase(passphrase);
    let backup = store::open(Some(&cluster), &at("a"), &keys).await.unwrap();
    assert_eq!(backup.contents.index.count, 1);
    let listed = store::list(Some(&cluster), &format!("secret://{NAMESPACE}").parse().unwrap())
        .await
        .unwrap();
    assert!(listed[0].is_encrypted && listed[0].meta.is_none());
}
