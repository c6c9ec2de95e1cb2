#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are outside of tests for clippy"
)]

use std::{fs::File, path::Path};

use object::Object;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{write::append, *};
use crate::encryption::{Encryption, Keys, Passphrase};

fn mk_object(kind: &str, namespace: Option<&str>, name: &str) -> Object {
    let mut object =
        json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "data": {"p": "aHVudGVyMg=="}});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    Object::try_from(object).unwrap()
}

fn mk_meta() -> Meta {
    Meta {
        tool: "0.1.0".into(),
        created: Timestamp::from_second(1_700_000_000).unwrap(),
        cluster: "c-1".into(),
        kubernetes: "v1.20.2".into(),
        from: "v3.2.1".into(),
        to: "v3.3.1".into(),
    }
}

fn mk_objects() -> Vec<Object> {
    vec![
        mk_object("Secret", Some("kubesphere-system"), "a"),
        mk_object("ClusterRole", None, "system:node"),
        mk_object("ConfigMap", Some("n"), &"long.".repeat(40)),
    ]
}

fn mk_archive(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("backup.tar.zst");
    write(
        &path,
        mk_objects(),
        &json!({"stages": []}),
        mk_meta(),
        &Encryption::None,
    )
    .unwrap();
    path
}

#[test]
fn what_is_written_is_read_again_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = mk_archive(folder.path());
    let mut objects = Vec::new();
    let contents = read(&path, &Keys::default(), |object| objects.push(object)).unwrap();
    assert_eq!(objects, mk_objects());
    assert_eq!(contents.plan, json!({"stages": []}));
    assert_eq!((contents.index.meta, contents.index.count), (mk_meta(), 3));
    assert!(contents.index.not_included[0].contains("volumes"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no temporary files stay"
    );
}

#[test]
fn members_have_plain_names() {
    let check = |key: ObjectKey, expect: &str| assert_eq!(member(&key), expect);
    check(
        ObjectKey::namespaced("apps", "Deployment", "n", "a"),
        "objects/apps/Deployment/n/a.json",
    );
    check(
        ObjectKey::cluster("", "Node", "a.b"),
        "objects/core/Node/_cluster/a.b.json",
    );
    check(
        ObjectKey::cluster("g.io", "Role", "system:a/../b%"),
        "objects/g.io/Role/_cluster/system%3Aa%2F..%2Fb%25.json",
    );
    check(
        ObjectKey::cluster("", "A", ".."),
        "objects/core/A/_cluster/%2E..json",
    );
}

#[test]
fn other_tools_can_list_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = mk_archive(folder.path());
    let all = zstd::decode_all(File::open(path).unwrap()).unwrap();
    let mut tar = tar::Archive::new(all.as_slice());
    let paths: Vec<_> = tar
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(
        paths[..3],
        [
            "backup.json",
            "plan.json",
            "objects/core/Secret/kubesphere-system/a.json"
        ]
    );
}

#[test]
fn a_backup_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = mk_archive(folder.path());
    let before = std::fs::read(&path).unwrap();
    let error = write(
        &path,
        &mk_objects()[..1],
        &json!({}),
        mk_meta(),
        &Encryption::None,
    )
    .unwrap_err();
    assert!(matches!(error, ArchiveError::Exists { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_failed_backup_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let twice = [
        mk_object("Secret", Some("n"), "a"),
        mk_object("Secret", Some("n"), "a"),
    ];
    let error = write(
        &folder.path().join("b"),
        &twice,
        &json!({}),
        mk_meta(),
        &Encryption::None,
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "Secret n/a would be in the backup twice");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let error = write(
        Path::new("/nonexistent/folder/b"),
        &twice,
        &json!({}),
        mk_meta(),
        &Encryption::None,
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot write /nonexistent/folder/b"),
        "{error}"
    );
}

#[test]
fn no_byte_changes_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = mk_archive(folder.path());
    let whole = std::fs::read(&path).unwrap();
    let other = folder.path().join("altered");
    for at in 0..whole.len() {
        let mut altered = whole.clone();
        altered[at] ^= 1 << (at % 8);
        std::fs::write(&other, &altered).unwrap();
        let mut seen = 0;
        assert!(
            read(&other, &Keys::default(), |_| seen += 1).is_err(),
            "byte {at}"
        );
        assert_eq!(seen, 0, "no object of an altered archive is used");
    }
    for length in 0..whole.len() {
        std::fs::write(&other, &whole[..length]).unwrap();
        assert!(verify(&other, &Keys::default()).is_err(), "cut at {length}");
    }
    std::fs::write(&other, [whole.as_slice(), b"x"].concat()).unwrap();
    assert!(verify(&other, &Keys::default()).is_err(), "something added");
    std::fs::write(&other, b"hunter2").unwrap();
    assert!(matches!(
        verify(&other, &Keys::default()),
        Err(ArchiveError::NoSeal { .. })
    ));
}

/// Seals anything, as somebody who knows the form could.
fn mk_sealed(path: &Path, members: &[(&str, Vec<u8>)]) {
    let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    for (name, contents) in members {
        append(&mut tar, name, contents, mk_meta().created).unwrap();
    }
    let mut bytes = tar.into_inner().unwrap().finish().unwrap();
    let digest = Sha256::digest(&bytes);
    bytes.extend(SEAL);
    bytes.extend(digest);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn contents_must_be_what_the_index_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made-up");
    let object = serde_json::to_vec(&mk_object("Secret", Some("n"), "a")).unwrap();
    let entry = |path: &str| Entry {
        path: path.into(),
        sha256: hex(&Sha256::digest(&object)),
    };
    let head = |format: u32| {
        let head = Head {
            format,
            meta: mk_meta(),
        };
        (META, serde_json::to_vec(&head).unwrap())
    };
    let index = |objects: Vec<Entry>| {
        let index = Index {
            format: FORMAT,
            meta: mk_meta(),
            count: objects.len(),
            not_included: vec![],
            plan: hex(&Sha256::digest(b"{}")),
            objects,
        };
        (INDEX, serde_json::to_vec(&index).unwrap())
    };
    let (at, other) = ("objects/core/Secret/n/a.json", "objects/core/Secret/n/b.json");
    let plan = || (PLAN, b"{}".to_vec());
    let check = |members: &[(&str, Vec<u8>)], expect: &str| {
        mk_sealed(&path, members);
        let told = verify(&path, &Keys::default())
            .map_err(|e| e.to_string())
            .err()
            .unwrap_or_default();
        assert!(told.contains(expect), "{told}");
        if expect.is_empty() {
            assert_eq!(told, "");
        }
    };
    let thing = || (at, object.clone());
    check(&[head(2), plan(), thing(), index(vec![entry(at)])], "");
    check(&[plan()], "does not say what it is");
    check(&[index(vec![])], "has format 1");
    check(&[head(3), plan()], "has format 3");
    check(&[head(2), thing()], "its plan is missing");
    check(
        &[head(2), (PLAN, b"[]".to_vec()), index(vec![])],
        "its plan is not the one",
    );
    check(&[head(2), plan(), thing()], "its index is missing");
    check(&[head(2), plan(), index(vec![entry(at)])], "a.json is missing");
    check(
        &[head(2), plan(), thing(), index(vec![])],
        "does not stand in the index",
    );
    check(
        &[head(2), plan(), index(vec![]), thing()],
        "stands behind its index",
    );
    let altered = serde_json::to_vec(&mk_object("Secret", Some("n"), "a").declared()).unwrap();
    let mut altered = String::from_utf8(altered).unwrap();
    altered = altered.replace("aHVudGVyMg", "aHVudGVyMw");
    check(
        &[
            head(2),
            plan(),
            (at, altered.into_bytes()),
            index(vec![entry(at)]),
        ],
        "is not what the index says",
    );
    check(
        &[
            head(2),
            plan(),
            (other, object.clone()),
            index(vec![entry(other)]),
        ],
        "is not the object that it is called",
    );
}

#[test]
fn the_beginning_tells_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(mk_archive(folder.path())).unwrap();
    // The first member is written out before anything else.
    assert_eq!(peek(&bytes[..300.min(bytes.len())]), Some(mk_meta()));
    assert_eq!(peek(b"age-encryption.org/v1\n"), None);
    assert_eq!(peek(b""), None);
}

/// An archive that somebody encrypted, altered or cut off is refused with the reason, and nothing of it is used.
#[test]
fn what_is_encrypted_does_not_change_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, altered) = (folder.path().join("a"), folder.path().join("b"));
    let mine = age::x25519::Identity::generate();
    let encryption = Encryption::for_recipients([mine.to_public().to_string()]).unwrap();
    let written = write(&path, mk_objects(), &json!({}), mk_meta(), &encryption).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert!(!whole.windows(6).any(|w| w == b"Secret"), "nothing is readable");
    let keys = Keys::default().with_identity(mine);
    assert_eq!(verify(&path, &keys).unwrap(), written);
    let refused = |bytes: &[u8], keys: &Keys| {
        std::fs::write(&altered, bytes).unwrap();
        let mut seen = 0;
        let error = read(&altered, keys, |_| seen += 1).unwrap_err();
        assert_eq!(seen, 0);
        error
    };
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        refused(&bytes, &keys);
    }
    for length in 0..whole.len() {
        refused(&whole[..length], &keys);
    }
    let cut = refused(&whole[..whole.len() - 1], &keys);
    assert!(matches!(cut, ArchiveError::Altered { .. }), "{cut}");
    let other = Keys::default().with_identity(age::x25519::Identity::generate());
    let error = refused(&whole, &other);
    assert!(
        error.to_string().contains("encrypted for somebody else"),
        "{error}"
    );
    let error = refused(&whole, &Keys::default());
    assert!(
        matches!(
            error,
            ArchiveError::Locked {
                passphrase: false,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_passphrase_opens_what_it_encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let passphrase = Passphrase::new("hunter2".to_owned()).unwrap();
    let encryption = Encryption::Passphrase(passphrase.clone());
    let written = write(&path, mk_objects(), &json!({}), mk_meta(), &encryption).unwrap();
    assert_eq!(
        verify(&path, &Keys::default().with_passphrase(passphrase)).unwrap(),
        written
    );
    let other = Keys::default().with_passphrase(Passphrase::new("hunter3".to_owned()).unwrap());
    assert!(matches!(
        verify(&path, &other),
        Err(ArchiveError::OtherKey { .. })
    ));
    let none = verify(&path, &Keys::default()).unwrap_err();
    assert_eq!(
        none.hint().unwrap(),
        "give the passphrase with --passphrase-file FILE"
    );
}
