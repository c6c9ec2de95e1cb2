//! How long a backup of 100,000 objects takes, how large it gets, and how much memory it needs.
//!
//! `cargo run --release -p cluster --example backup_100k [OBJECTS] [FOLDER]` prints one JSON document.

#![allow(clippy::print_stdout, reason = "an example tells on standard output")]

use std::{error::Error, path::PathBuf, time::Instant};

use cluster::{
    archive::{self, Meta},
    encryption::{Encryption, Keys},
};
use object::Object;
use serde_json::{Value, json};

/// An object like those of a busy cluster: of some kilobytes, with managedFields, no two alike.
fn mk_object(number: u32) -> Object {
    // Digits that do not compress away.
    let noise = |salt: u32| {
        let mut state = u64::from(number) << 32 | u64::from(salt);
        (0..16)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                format!("{:08x}", state >> 32)
            })
            .collect::<String>()
    };
    let rules: Vec<Value> = (0..6)
        .map(|rule| json!({"apiGroups": ["apps", format!("g{rule}.example.org")], "resources": ["*"], "verbs": ["get", "list"]}))
        .collect();
    let kinds = [
        ("rbac.authorization.k8s.io/v1", "Role"),
        ("v1", "Secret"),
        ("v1", "ConfigMap"),
        ("iam.kubesphere.io/v1alpha2", "WorkspaceRole"),
    ];
    let (api_version, kind) = kinds[number as usize % kinds.len()];
    let value = json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": format!("object-{number}"),
            "namespace": format!("project-{}", number / 50),
            "uid": noise(1),
            "resourceVersion": number.to_string(),
            "labels": {"app": format!("app-{}", number % 100), "kubesphere.io/workspace": format!("w-{}", number % 40)},
            "managedFields": [{"manager": "controller-manager", "operation": "Update", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}, "f:kubesphere.io/workspace": {}}}, "f:rules": {}}}],
        },
        "rules": rules,
        "data": {"a": noise(2), "b": noise(3), "c": noise(4)},
    });
    Object::try_from(value).expect("it has a kind and a name")
}

/// The most memory that this process has had, in MiB (Linux).
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? >> 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: u32 = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let path = folder.join(format!("backup-of-{count}-{}.tar.zst", std::process::id()));
    let meta = Meta {
        tool: "benchmark".to_owned(),
        created: jiff::Timestamp::now(),
        cluster: "benchmark".to_owned(),
        kubernetes: "v1.20.2".to_owned(),
        from: "v3.2.1".to_owned(),
        to: "v3.3.1".to_owned(),
    };
    let started = Instant::now();
    let written = archive::write(
        &path,
        (0..count).map(mk_object),
        &json!(null),
        meta,
        &Encryption::None,
    )?;
    let wrote = started.elapsed();
    drop(written);
    let started = Instant::now();
    let mut bytes = 0;
    let contents = archive::read(&path, &Keys::default(), |object| {
        bytes += object.as_value().to_string().len();
    })?;
    let read = started.elapsed();
    let size = std::fs::metadata(&path)?.len();
    std::fs::remove_file(&path)?;
    let report = json!({
        "objects": contents.index.count,
        "json_mib": bytes >> 20,
        "archive_mib": size >> 20,
        "write_and_verify_seconds": wrote.as_secs_f64(),
        "read_seconds": read.as_secs_f64(),
        "peak_mib": peak(),
    });
    println!("{report:#}");
    Ok(())
}
