//! `backup` and its subcommands, in every store, and what they refuse.

use std::path::{Path, PathBuf};

use cluster::archive::{ArchiveError, verify};
use cluster::encryption::Keys;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    installer::{Served, serve},
    s3::Storage,
    support::{
        self,
        state::{State, iam, system},
    },
};

const RECIPIENT_FILE: &str = "key.txt";

fn tenants() -> Served {
    serve(support::tenants())
}

/// An age identity in a file, and its recipient.
fn mk_key(served: &Served, name: &str) -> String {
    use age::secrecy::ExposeSecret as _;
    let identity = age::x25519::Identity::generate();
    served.installer.write(name, identity.to_string().expose_secret());
    identity.to_public().to_string()
}

/// Runs a command that must end well and not write, with further arguments; its JSON document.
#[track_caller]
fn json_of(served: &Served, command: &[&str], more: &[&str]) -> Value {
    let all = [command, more, &["-o", "json"]].concat();
    served.check_reads(&all, 0).json()
}

/// Damages a role and a binding of the cluster; the objects are what they were again after a restore.
fn damage(served: &Served) {
    let resource = ApiResource {
        group: "iam.kubesphere.io".to_owned(),
        version: "v1alpha2".to_owned(),
        api_version: "iam.kubesphere.io/v1alpha2".to_owned(),
        kind: "GlobalRole".to_owned(),
        plural: "globalroles".to_owned(),
    };
    let patch = Patch::Merge(json!({"metadata": {"labels": {"damaged": "yes"}}}));
    support::block_on(async {
        let client = kube::Client::new(served.sandbox.service(), "default");
        let roles: Api<DynamicObject> = Api::all_with(client, &resource);
        let by = PatchParams {
            field_manager: Some("kubectl-edit".to_owned()),
            ..PatchParams::default()
        };
        roles.patch("platform-regular", &by, &patch).await.unwrap();
    });
    let gone = iam("GlobalRole", "platform-admin");
    support::block_on(async {
        let client = support::client(&served.sandbox);
        let uid = client
            .get(&gone)
            .await
            .unwrap()
            .unwrap()
            .uid()
            .unwrap()
            .to_owned();
        client.delete(&gone, &uid).await.unwrap();
    });
}

/// Everything that can be done with a backup, in one place to keep it.
fn go_round(served: &Served, place: &str, encrypt: &[&str], keys: &[&str]) {
    let before = State::of(&served.sandbox);
    let create = [&["backup", "create", "--to", place, "-o", "json"], encrypt].concat();
    let created = served.run(&create);
    assert_eq!(created.code, 0, "{created:?}");
    let created = created.json();
    let location = created["backup"].as_str().unwrap().to_owned();
    assert_eq!(created["missing"], json!([]));
    assert_eq!(created["encrypted"], !encrypt.is_empty());
    let count = created["objects"].as_u64().unwrap();
    assert!(count > 400, "{count}");

    let listed = json_of(served, &["backup", "list", "--from", place], &[]);
    let backups = listed["backups"].as_array().unwrap();
    assert_eq!(backups.len(), 1, "{listed}");
    assert_eq!(backups[0]["location"], location);
    assert_eq!(backups[0]["isIncomplete"], false);
    assert_eq!(backups[0]["meta"].is_null(), !encrypt.is_empty());
    let text = served.check_reads(&["backup", "list", "--from", place], 0).out;
    assert!(text.contains(&location) && text.contains("20"), "{text}");

    let shown = json_of(served, &["backup", "show", &location], keys);
    assert_eq!(shown["objects"], count);
    assert_eq!(shown["from"], "v3.2.1");
    assert!(shown["kinds"]["GlobalRole.iam.kubesphere.io"].as_u64().unwrap() > 10);
    let verified = json_of(served, &["backup", "verify", &location], keys);
    assert_eq!(
        (&verified["verified"], &verified["objects"]),
        (&json!(true), &json!(count))
    );

    let restore = ["backup", "restore", &location];
    let nothing = json_of(served, &[&restore[..], &["--dry-run"]].concat(), keys);
    assert_eq!(nothing["plan"]["steps"], json!([]), "{nothing}");
    damage(served);
    let shown = served
        .check_reads(&[&restore[..], keys, &["--dry-run"]].concat(), 0)
        .out;
    for line in [
        "+ create GlobalRole platform-admin",
        "~ change GlobalRole platform-regular",
        "metadata.labels: {\"damaged\":\"yes\"} → (none)",
        "conflict: kubectl-edit changed it at ",
        "Nothing was written.",
    ] {
        assert!(shown.contains(line), "{line:?} is not in {shown}");
    }
    // There is nobody to ask.
    served.check_reads(&[&restore[..], keys].concat(), 2);
    let part = [
        "--kind",
        "GlobalRole",
        "--name",
        "platform-admin",
        "--yes",
        "-o",
        "json",
    ];
    let part = served.run(&[&restore[..], keys, &part].concat());
    assert_eq!(part.code, 0, "{part:?}");
    assert_eq!(part.json()["summary"]["created"], 1);
    assert_eq!(part.json()["summary"]["changed"], 0);
    let all = served.run(&[&restore[..], keys, &["--yes", "-o", "json"]].concat());
    assert_eq!(all.code, 0, "{all:?}");
    assert_eq!(all.json()["summary"]["changed"], 1);
    let after = State::of(&served.sandbox);
    for key in [
        iam("GlobalRole", "platform-admin"),
        iam("GlobalRole", "platform-regular"),
    ] {
        let [before, after] = [&before, &after].map(|state| state.declared().get(&key).clone());
        assert_eq!(before, after, "{key}");
    }

    served.check_reads(&["backup", "delete", &location], 2);
    let deleted = served.run(&["backup", "delete", &location, "--yes"]);
    assert_eq!(deleted.code, 0, "{deleted:?}");
    let listed = json_of(served, &["backup", "list", "--from", place], &[]);
    assert_eq!(listed["backups"], json!([]));
    served.check_reads(&["backup", "verify", &location], 2);
    served.check_reads(&["backup", "delete", &location, "--yes"], 2);
}

#[test]
fn a_backup_goes_round_in_files() {
    let served = tenants();
    std::fs::create_dir(served.installer.path("kept")).unwrap();
    go_round(&served, "kept/", &[], &[]);
}

#[test]
fn a_backup_goes_round_in_secrets() {
    let served = tenants();
    go_round(&served, "secret://kubesphere-system", &[], &[]);
}

#[test]
fn a_backup_goes_round_in_object_storage() {
    let storage = Storage::serve();
    let mut served = tenants();
    served.installer.environment = storage.environment();
    go_round(&served, "s3://bucket/backups/", &[], &[]);
    assert_eq!((storage.completed(), storage.refused()), (1, 0));
    assert_eq!(storage.names(), Vec::<String>::new());

    let location = "s3://bucket/one.tar.zst";
    json_of(&served, &["backup", "--to", location], &[]);
    // What is there is not touched.
    let again = served.check_reads(&["backup", "--to", location], 2);
    assert!(again.err.contains("exists already"), "{}", again.err);
    storage.edit("/bucket/one.tar.zst", |bytes| bytes[100] ^= 1);
    let refused = served.check_reads(&["backup", "restore", location, "--yes"], 1);
    assert!(refused.err.contains("was altered or cut off"), "{}", refused.err);

    // Somebody without the key hears why, and nothing of the key.
    for (name, value) in &mut served.installer.environment {
        if name == "AWS_ACCESS_KEY_ID" {
            "OTHERKEY".clone_into(value);
        }
    }
    let refused = served.check_reads(&["backup", "list", "--from", "s3://bucket/"], 2);
    assert!(
        refused.err.contains("cannot read s3://bucket/"),
        "{}",
        refused.err
    );
    assert!(!refused.err.contains(crate::s3::SECRET_KEY), "{}", refused.err);
    assert!(storage.refused() > 0);
}

#[test]
fn a_backup_for_the_holder_of_a_key_goes_round() {
    let served = tenants();
    let recipient = mk_key(&served, RECIPIENT_FILE);
    std::fs::create_dir(served.installer.path("kept")).unwrap();
    go_round(
        &served,
        "kept/",
        &["--recipient", &recipient],
        &["--identity", RECIPIENT_FILE],
    );
}

#[test]
fn a_backup_with_a_passphrase_goes_round_in_secrets() {
    let served = tenants();
    served
        .installer
        .write("passphrase", "correct horse battery staple\n");
    let option = ["--passphrase-file", "passphrase"];
    go_round(&served, "secret://kubesphere-system/", &option, &option);
}

#[test]
fn two_backups_of_one_second_have_two_names() {
    let served = tenants();
    let mut running: Vec<_> = (0..3).map(|_| served.spawn(&["backup"])).collect();
    for child in &mut running {
        assert!(child.wait().unwrap().success());
    }
    let listed = json_of(&served, &["backup", "list"], &[]);
    assert_eq!(listed["backups"].as_array().unwrap().len(), 3, "{listed}");
}

/// A backup in a file, to do harm to.
fn mk_backup(served: &Served) -> PathBuf {
    json_of(served, &["backup", "--to", "b.tar.zst"], &[]);
    served.installer.path("b.tar.zst")
}

/// All commands that open a backup refuse this one with a reason, and write nothing.
#[track_caller]
fn check_refused(served: &Served, arguments: &[&str], reason: &str) {
    for command in ["show", "verify"] {
        let all = [&["backup", command][..], arguments, &["-o", "json"]].concat();
        let ended = served.check_reads(&all, 1);
        assert_eq!(ended.json()["verified"], false, "{ended:?}");
        assert!(
            ended.json()["why"].as_str().unwrap().contains(reason),
            "{ended:?}"
        );
    }
    let all = [&["backup", "restore"][..], arguments, &["--yes"]].concat();
    let ended = served.check_reads(&all, 1);
    assert!(
        ended.err.contains(reason) && ended.err.contains("hint: "),
        "{ended:?}"
    );
}

#[test]
fn what_is_no_whole_backup_is_refused_before_any_write() {
    let served = tenants();
    let whole = std::fs::read(mk_backup(&served)).unwrap();
    damage(&served);
    let write = |bytes: &[u8]| served.installer.write("b.tar.zst", bytes);
    write(&whole[..whole.len() - 1]);
    check_refused(&served, &["b.tar.zst"], "is cut off");
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    write(&altered);
    check_refused(&served, &["b.tar.zst"], "was altered");
    write(b"hello");
    check_refused(&served, &["b.tar.zst"], "is no backup");
    write(&whole);
    served.check_reads(&["backup", "verify", "b.tar.zst"], 0);

    // The whole of it, at many lengths and in many places; cheaper than a process each.
    let path = served.installer.path("b.tar.zst");
    let keys = Keys::default();
    let step = whole.len() / 60;
    for at in (0..whole.len()).step_by(step) {
        std::fs::write(&path, &whole[..at]).unwrap();
        let cut = verify(&path, &keys).unwrap_err();
        assert!(matches!(cut, ArchiveError::NoSeal { .. }), "{at}: {cut}");
        let mut altered = whole.clone();
        altered[at] ^= 0x40;
        std::fs::write(&path, &altered).unwrap();
        let altered = verify(&path, &keys).unwrap_err();
        let is_expected = match altered {
            ArchiveError::Altered { .. } => true,
            // What was altered is the mark of the seal itself.
            ArchiveError::NoSeal { .. } => at >= whole.len() - 40,
            _ => false,
        };
        assert!(is_expected, "{at}: {altered}");
    }
}

#[test]
fn what_is_encrypted_for_others_is_refused_before_any_write() {
    let served = tenants();
    let mine = mk_key(&served, RECIPIENT_FILE);
    mk_key(&served, "other.txt");
    json_of(&served, &["backup", "--to", "b.age", "--recipient", &mine], &[]);
    damage(&served);
    check_refused(&served, &["b.age"], "is encrypted, and no key was given");
    check_refused(
        &served,
        &["b.age", "--identity", "other.txt"],
        "encrypted for somebody else",
    );
    let path = served.installer.path("b.age");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    check_refused(
        &served,
        &["b.age", "--identity", RECIPIENT_FILE],
        "was altered or cut off",
    );

    served.installer.write("passphrase", "one\n");
    served.installer.write("wrong", "two\n");
    json_of(
        &served,
        &["backup", "--to", "p.age", "--passphrase-file", "passphrase"],
        &[],
    );
    check_refused(
        &served,
        &["p.age"],
        "encrypted with a passphrase, and no key was given",
    );
    check_refused(
        &served,
        &["p.age", "--passphrase-file", "wrong"],
        "none of the given keys opens it",
    );
    // A key in the wrong place is not shown.
    let secret = std::fs::read_to_string(served.installer.path(RECIPIENT_FILE)).unwrap();
    let ended = served.check_reads(&["backup", "--to", "c", "--recipient", &secret], 2);
    assert!(!ended.err.contains(&secret[20..]), "the key is shown");
}

#[test]
fn a_backup_of_another_cluster_is_refused_before_any_write() {
    let here = tenants();
    let other = serve(support::tenants_but(|objects| {
        support::find_mut(objects, "Namespace", "kube-system")["metadata"]["uid"] = "other".into();
    }));
    let path = mk_backup(&here);
    damage(&other);
    let path = path.to_str().unwrap();
    let refused = other.check_reads(&["backup", "restore", path, "--yes"], 1);
    assert!(refused.err.contains("is of another cluster"), "{}", refused.err);
    assert!(refused.err.contains("--other-cluster"), "{}", refused.err);
    let shown = other.check_reads(&["backup", "restore", path, "--other-cluster", "--dry-run"], 0);
    assert!(shown.out.contains("platform-admin"), "{}", shown.out);
}

/// Another version's archive: sealed as it should be, and saying that it is of another format.
#[test]
fn a_backup_of_another_format_is_refused() {
    let served = tenants();
    let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    let text = br#"{"format": 9}"#;
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    tar.append_data(&mut header, "backup.json", &text[..]).unwrap();
    let mut bytes = tar.into_inner().unwrap().finish().unwrap();
    let digest = {
        use sha2::Digest as _;
        sha2::Sha256::digest(&bytes)
    };
    bytes.extend([0x5e, 0x2a, 0x4d, 0x18, 32, 0, 0, 0]);
    bytes.extend(digest);
    served.installer.write("b.tar.zst", bytes);
    check_refused(&served, &["b.tar.zst"], "has format 9");
}

#[test]
fn a_backup_that_lost_a_secret_is_refused_and_can_be_deleted() {
    let served = tenants();
    let location = "secret://kubesphere-system/b-1";
    served.run(&["backup", "--to", location]);
    let chunk = system("", "Secret", "ks-installer-backup-b-1-1");
    support::block_on(async {
        let client = support::client(&served.sandbox);
        let uid = client
            .get(&chunk)
            .await
            .unwrap()
            .unwrap()
            .uid()
            .unwrap()
            .to_owned();
        client.delete(&chunk, &uid).await.unwrap();
    });
    check_refused(&served, &[location], "ks-installer-backup-b-1-1 is missing");
    let listed = json_of(
        &served,
        &["backup", "list", "--from", "secret://kubesphere-system"],
        &[],
    );
    assert_eq!(listed["backups"][0]["isIncomplete"], true, "{listed}");
    let text = served
        .check_reads(&["backup", "list", "--from", "secret://kubesphere-system"], 0)
        .out;
    assert!(text.contains("incomplete"), "{text}");
    // Nor is it written over.
    served.check_reads(&["backup", "--to", location], 2);
    assert_eq!(served.run(&["backup", "delete", location, "--yes"]).code, 0);
    assert_eq!(served.run(&["backup", "--to", location]).code, 0);
    served.check_reads(&["backup", "verify", location], 0);
}

#[test]
fn a_file_is_private_and_never_written_over() {
    let served = tenants();
    let path = mk_backup(&served);
    assert_eq!(mode(&path), 0o600);
    let before = std::fs::read(&path).unwrap();
    let again = served.check_reads(&["backup", "--to", "b.tar.zst"], 2);
    assert!(again.err.contains("exists already"), "{}", again.err);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    served.installer.write("passphrase", "one\n");
    json_of(
        &served,
        &["backup", "--to", "c", "--passphrase-file", "passphrase"],
        &[],
    );
    assert_eq!(mode(&served.installer.path("c")), 0o600);
    let kept = std::fs::read_dir(served.installer.folder.path()).unwrap();
    let names = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| !name.starts_with(".ks-installer")));
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
