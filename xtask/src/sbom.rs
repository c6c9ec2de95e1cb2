//! The bill of materials: CycloneDX 1.5, of the crates that were compiled into the binary.
//!
//! Which ones those are is what cargo said while it built, not what the manifests allow. Nothing in it is of the day or at
//! random, so that the same sources have the same bill.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use cargo_metadata::{DependencyKind, Metadata, Package, PackageId};
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata as About;
use cyclonedx_bom::prelude::{Bom, NormalizedString, Purl, SpecVersion, Validate as _};
use serde::Deserialize;

/// What a bill is of.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// Name of the package whose binary it is.
    pub package: &'a str,
    /// The binary's SHA-256, in hexadecimal.
    pub sha256: &'a str,
    /// What was compiled into it.
    pub crates: &'a BTreeSet<PackageId>,
    /// Names of crates whose data the image has beside the binary.
    pub data: &'a [&'a str],
}

/// `lock` is the text of Cargo.lock.
///
/// # Errors
/// The three do not fit together, or what comes out is no valid bill.
pub fn bill(metadata: &Metadata, lock: &str, subject: &Subject) -> anyhow::Result<Vec<u8>> {
    let checksums = checksums(lock)?;
    let packages: BTreeMap<&PackageId, &Package> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, package))
        .collect();
    let (mut main, mut components) = (None, Vec::new());
    for id in subject.crates {
        let package = packages
            .get(id)
            .with_context(|| format!("cargo built {id}, which its metadata do not know"))?;
        if *package.name == subject.package {
            let mut program = component(package, Classification::Application, None)?;
            program.hashes = Some(hashes(subject.sha256));
            main = Some(program);
        } else {
            components.push(component(package, Classification::Library, Some(&checksums))?);
        }
    }
    for name in subject.data {
        let package = metadata
            .packages
            .iter()
            .find(|package| *package.name == *name)
            .with_context(|| format!("no package is called {name}"))?;
        components.push(component(package, Classification::Data, Some(&checksums))?);
    }
    components.sort_by(|a, b| a.bom_ref.cmp(&b.bom_ref));
    let bom = Bom {
        serial_number: None,
        spec_version: SpecVersion::V1_5,
        metadata: Some(About {
            component: Some(main.with_context(|| format!("{} was not built", subject.package))?),
            ..About::default()
        }),
        components: Some(Components(components)),
        dependencies: Some(dependencies(metadata, &packages, subject.crates)?),
        ..Bom::default()
    };
    let validation = bom.validate_version(SpecVersion::V1_5);
    ensure!(
        validation.passed(),
        "the bill of materials is not valid: {validation:?}"
    );
    let mut json = Vec::new();
    bom.output_as_json_v1_5(&mut json)
        .context("writing the bill of materials")?;
    json.push(b'\n');
    Ok(json)
}

/// Unlike the package's id, the same on every machine.
fn reference(package: &Package) -> String {
    format!("{}@{}", package.name, package.version)
}

fn component(
    package: &Package,
    kind: Classification,
    checksums: Option<&Checksums>,
) -> anyhow::Result<Component> {
    let version = package.version.to_string();
    let mut component = Component::new(kind, &package.name, &version, Some(reference(package)));
    component.description = package
        .description
        .as_deref()
        .map(|text| NormalizedString::new(text.trim()));
    // Cargo allows "MIT/Apache-2.0" still, which SPDX does not know.
    component.licenses = package.license.as_deref().map(|license| {
        Licenses(vec![LicenseChoice::expression(
            &license.replace('/', " OR ").replace("  ", " "),
        )])
    });
    // Our own crates are in no registry, where others have their names.
    if package.source.is_some() {
        // Some readers take a plus for a space.
        let purl = Purl::new("cargo", &package.name, &version)?
            .to_string()
            .replace('+', "%2B");
        component.purl = purl.parse().ok();
        let checksum = checksums
            .and_then(|checksums| checksums.get(&(package.name.to_string(), version)))
            .with_context(|| format!("Cargo.lock has no checksum of {}", reference(package)))?;
        component.hashes = Some(hashes(checksum));
    }
    Ok(component)
}

fn hashes(sha256: &str) -> Hashes {
    Hashes(vec![Hash {
        alg: HashAlgorithm::SHA_256,
        content: HashValue(sha256.to_owned()),
    }])
}

/// What each crate uses of the others, without what only its build script or its tests use.
fn dependencies(
    metadata: &Metadata,
    packages: &BTreeMap<&PackageId, &Package>,
    crates: &BTreeSet<PackageId>,
) -> anyhow::Result<Dependencies> {
    let resolve = metadata
        .resolve
        .as_ref()
        .context("cargo's metadata have no graph")?;
    let mut dependencies = Vec::new();
    for node in resolve.nodes.iter().filter(|node| crates.contains(&node.id)) {
        let used: BTreeSet<String> = node
            .deps
            .iter()
            .filter(|dependency| crates.contains(&dependency.pkg))
            .filter(|dependency| {
                dependency
                    .dep_kinds
                    .iter()
                    .any(|kind| kind.kind == DependencyKind::Normal)
            })
            .map(|dependency| reference(packages[&dependency.pkg]))
            .collect();
        dependencies.push(Dependency {
            dependency_ref: reference(packages[&node.id]),
            dependencies: used.into_iter().collect(),
        });
    }
    dependencies.sort_by(|a, b| a.dependency_ref.cmp(&b.dependency_ref));
    Ok(Dependencies(dependencies))
}

/// By name and version.
type Checksums = BTreeMap<(String, String), String>;

fn checksums(lock: &str) -> anyhow::Result<Checksums> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).context("reading Cargo.lock")?;
    Ok(lock
        .package
        .into_iter()
        .filter_map(|package| Some(((package.name, package.version), package.checksum?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SUM: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const BINARY: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn mk_id(name: &str) -> PackageId {
        serde_json::from_value(json!(format!("/some/where#{name}"))).unwrap()
    }

    fn mk_package(name: &str, version: &str, license: &str, registry: bool) -> Value {
        json!({
            "name": name, "version": version, "id": mk_id(name), "license": license,
            "source": registry.then_some("registry+https://registry.example/index"),
            "dependencies": [], "targets": [], "features": {}, "manifest_path": "/some/where/Cargo.toml",
            "description": format!("What {name} does\n"),
        })
    }

    fn mk_node(name: &str, uses: &[(&str, Value)]) -> Value {
        let deps: Vec<Value> = uses
            .iter()
            .map(|(name, kind)| json!({"name": name, "pkg": mk_id(name), "dep_kinds": [{"kind": kind, "target": null}]}))
            .collect();
        json!({"id": mk_id(name), "dependencies": [], "deps": deps, "features": []})
    }

    /// The program uses our crate `object`, which uses `zstd`; a build script uses `cc`; `derive` is a macro.
    fn mk_metadata() -> Metadata {
        let normal = Value::Null;
        serde_json::from_value(json!({
            "packages": [
                mk_package("zstd", "1.0.0+upstream", "MIT/Apache-2.0", true),
                mk_package("program", "0.1.0", "Apache-2.0", false),
                mk_package("object", "0.1.0", "Apache-2.0", false),
                mk_package("derive", "1.0.0", "MIT", true),
                mk_package("cc", "1.0.0", "MIT", true),
                mk_package("roots", "2.0.0", "CDLA-Permissive-2.0", true),
            ],
            "resolve": {"root": null, "nodes": [
                mk_node("program", &[("object", normal.clone()), ("derive", normal.clone()), ("zstd", json!("dev"))]),
                mk_node("zstd", &[("cc", json!("build"))]),
                mk_node("object", &[("zstd", normal)]),
                mk_node("derive", &[]), mk_node("cc", &[]), mk_node("roots", &[]),
            ]},
            "workspace_members": [mk_id("program"), mk_id("object")],
            "workspace_root": "/some/where", "target_directory": "/some/where/target", "version": 1,
        }))
        .unwrap()
    }

    fn mk_lock() -> String {
        let package = |name: &str, version: &str| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nchecksum = \"{SUM}\"\n")
        };
        [
            "version = 4\n[[package]]\nname = \"program\"\nversion = \"0.1.0\"\n".to_owned(),
            package("zstd", "1.0.0+upstream"),
            package("roots", "2.0.0"),
        ]
        .concat()
    }

    fn mk_bill(crates: &[&str], lock: &str) -> anyhow::Result<Value> {
        let crates = crates.iter().map(|name| mk_id(name)).collect();
        let subject = Subject {
            package: "program",
            sha256: BINARY,
            crates: &crates,
            data: &["roots"],
        };
        Ok(serde_json::from_slice(&bill(&mk_metadata(), lock, &subject)?).unwrap())
    }

    const CRATES: &[&str] = &["program", "object", "zstd"];

    #[test]
    fn what_was_compiled_is_listed_and_nothing_else() {
        let bill = mk_bill(CRATES, &mk_lock()).unwrap();
        assert_eq!(
            (&bill["bomFormat"], &bill["specVersion"]),
            (&json!("CycloneDX"), &json!("1.5"))
        );
        let names: Vec<_> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| (&component["name"], &component["type"]))
            .collect();
        assert_eq!(
            names,
            [
                (&json!("object"), &json!("library")),
                (&json!("roots"), &json!("data")),
                (&json!("zstd"), &json!("library")),
            ]
        );
        assert_eq!(
            bill["dependencies"],
            json!([
                {"ref": "object@0.1.0", "dependsOn": ["zstd@1.0.0+upstream"]},
                {"ref": "program@0.1.0", "dependsOn": ["object@0.1.0"]},
                {"ref": "zstd@1.0.0+upstream"},
            ])
        );
    }

    #[test]
    fn a_crate_of_a_registry_has_purl_licence_and_checksum() {
        let bill = mk_bill(CRATES, &mk_lock()).unwrap();
        let zstd = &bill["components"][2];
        assert_eq!(zstd["purl"], "pkg:cargo/zstd@1.0.0%2Bupstream");
        assert_eq!(zstd["licenses"], json!([{"expression": "MIT OR Apache-2.0"}]));
        assert_eq!(zstd["hashes"], json!([{"alg": "SHA-256", "content": SUM}]));
        // Another crate is called so in the registry.
        let object = &bill["components"][0];
        assert_eq!(object.get("purl"), None);
        assert_eq!(object.get("hashes"), None);
        let program = &bill["metadata"]["component"];
        assert_eq!(program["hashes"], json!([{"alg": "SHA-256", "content": BINARY}]));
    }

    #[test]
    fn nothing_is_of_the_day_of_the_machine_or_at_random() {
        let bill = mk_bill(CRATES, &mk_lock()).unwrap();
        assert_eq!(bill, mk_bill(CRATES, &mk_lock()).unwrap());
        assert_eq!(bill.get("serialNumber"), None);
        assert_eq!(bill["metadata"].get("timestamp"), None);
        assert!(!bill.to_string().contains("/some/where"), "{bill}");
    }

    #[test]
    fn what_does_not_fit_together_is_an_error() {
        let check = |crates: &[&str], lock: &str, expect: &str| {
            let error = mk_bill(crates, lock).unwrap_err();
            assert!(error.to_string().contains(expect), "{error:#}");
        };
        check(&["object"], &mk_lock(), "program was not built");
        check(&["program", "unknown"], &mk_lock(), "unknown");
        check(
            CRATES,
            &mk_lock().replace("1.0.0+upstream", "1.0.1"),
            "no checksum of zstd",
        );
    }
}
