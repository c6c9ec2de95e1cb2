//! The boundaries between the crates, as ARCHITECTURE.md draws them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use serde_json::Value;

/// Which of our crates each may use.
const MAY_USE: [(&str, &[&str]); 7] = [
    ("object", &[]),
    ("access", &["object"]),
    ("release", &["object", "access"]),
    ("upgrade", &["object", "access", "release"]),
    ("cluster", &["object", "upgrade"]),
    ("engine", &["object", "release", "upgrade", "cluster"]),
    ("sandbox", &[]),
];

/// No async, no clock, no randomness, no files, no network.
const PURE: [&str; 4] = ["object", "access", "release", "upgrade"];

/// What pure crates must not reach, not even through others.
const IMPURE: [&str; 22] = [
    "async-std",
    "chrono",
    "futures",
    "getrandom",
    "hyper",
    "jiff",
    "k8s-openapi",
    "kube",
    "kube-client",
    "mio",
    "rand",
    "rcgen",
    "reqwest",
    "rustls",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "tower",
    "ureq",
    "uuid",
];

/// Crates that name no version and no role: what they know of those stands in `releases/`.
const ENGINE: [&str; 6] = ["object", "access", "release", "upgrade", "cluster", "engine"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}

/// What cargo knows of the workspace, for the platform that we run on: others' crates may not be at hand.
static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let about = String::from_utf8(rustc.stdout).unwrap();
    let host = about
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--filter-platform",
            host,
            "--locked",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
});

/// Names of our own packages.
fn ours() -> BTreeSet<&'static str> {
    let members = METADATA["workspace_members"].as_array().unwrap();
    let packages = METADATA["packages"].as_array().unwrap().iter();
    packages
        .filter(|package| members.contains(&package["id"]))
        .map(|package| package["name"].as_str().unwrap())
        .collect()
}

/// The names that a package declares as dependencies of a kind: `normal`, `dev`, `build`.
fn declared(name: &str, kind: &str) -> BTreeSet<&'static str> {
    let is_ours = |package: &&Value| package["name"] == name && package["source"].is_null();
    let package = METADATA["packages"]
        .as_array()
        .unwrap()
        .iter()
        .find(is_ours)
        .unwrap();
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    dependencies
        .filter(|dependency| dependency["kind"].as_str().unwrap_or("normal") == kind)
        .map(|dependency| dependency["name"].as_str().unwrap())
        .collect()
}

/// Everything that a package needs to run, by name, with the package through which it came.
fn reached(name: &str) -> BTreeMap<&'static str, &'static str> {
    let names: BTreeMap<&str, &'static str> = METADATA["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let nodes: BTreeMap<&str, &Value> = METADATA["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), node))
        .collect();
    let is_ours = |id: &&&str| names[**id] == name && id.starts_with("path+");
    let mut open = vec![*names.keys().find(is_ours).unwrap()];
    let mut found = BTreeMap::new();
    while let Some(id) = open.pop() {
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            let next = dependency["pkg"].as_str().unwrap();
            let runs = kinds.iter().any(|kind| kind["kind"].is_null());
            if runs && !found.contains_key(names[next]) {
                found.insert(names[next], names[id]);
                open.push(next);
            }
        }
    }
    found
}

#[test]
fn each_crate_uses_of_ours_only_what_it_may() {
    let ours = ours();
    let mut known: BTreeSet<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    known.extend(["ks-installer", "xtask"]);
    assert_eq!(ours, known, "a crate is not in the table of this test");
    for (name, may_use) in MAY_USE {
        let may_use: BTreeSet<&str> = may_use.iter().copied().collect();
        let uses: BTreeSet<&str> = declared(name, "normal").intersection(&ours).copied().collect();
        assert!(uses.is_subset(&may_use), "{name} uses {uses:?}");
    }
}

#[test]
fn nothing_uses_the_binary_and_only_tests_and_the_binary_use_the_sandbox() {
    for name in ours() {
        for kind in ["normal", "dev", "build"] {
            let uses = declared(name, kind);
            assert!(!uses.contains("ks-installer"), "{name} uses ks-installer");
            let may_use_sandbox = kind == "dev" || name == "ks-installer" || name == "xtask";
            assert!(
                may_use_sandbox || !uses.contains("sandbox"),
                "{name} uses the sandbox"
            );
        }
    }
    for kind in ["normal", "dev", "build"] {
        let uses: Vec<_> = declared("sandbox", kind).intersection(&ours()).copied().collect();
        assert_eq!(uses, Vec::<&str>::new(), "the sandbox knows nothing of ours");
    }
}

#[test]
fn pure_crates_reach_no_clock_no_randomness_no_network() {
    for name in PURE {
        let reached = reached(name);
        for impure in IMPURE {
            let through = reached.get(impure);
            assert_eq!(through, None, "{name} reaches {impure} through {through:?}");
        }
        // Nor do their tests need a cluster. Random numbers they may have: those come from a seed.
        for kind in ["dev", "build"] {
            let uses = declared(name, kind);
            let impure: Vec<_> = IMPURE
                .iter()
                .chain(&["cluster", "engine", "sandbox"])
                .filter(|i| uses.contains(**i) && !(kind == "dev" && **i == "rand"))
                .collect();
            assert_eq!(impure, Vec::<&&str>::new(), "tests of {name}");
        }
    }
    // The measure measures.
    assert!(reached("cluster").contains_key("tokio") && reached("engine").contains_key("rand"));
}

#[test]
fn only_the_binary_and_the_chores_use_anyhow() {
    for name in ours() {
        let uses = declared(name, "normal").contains("anyhow");
        assert!(
            !uses || ["ks-installer", "xtask"].contains(&name),
            "{name} uses anyhow"
        );
    }
}

#[test]
fn clippy_keeps_the_pure_crates_pure() {
    let read = |name: &str| {
        let path = root().join("crates").join(name).join("clippy.toml");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let workspace = std::fs::read_to_string(root().join("clippy.toml")).unwrap();
    for name in PURE {
        let file = read(name);
        assert_eq!(file, read(PURE[0]), "{name}: the pure crates have the same rules");
        for banned in [
            "SystemTime::now",
            "Instant::now",
            "env::var",
            "fs::read",
            "fs::write",
            "process::Command",
        ] {
            assert!(file.contains(banned), "{name} may use {banned}");
        }
        // Clippy reads one file, not both.
        for line in workspace.lines().filter(|line| !line.starts_with('#')) {
            assert!(file.contains(line), "{name} lacks the workspace's {line:?}");
        }
    }
}

/// The sources of a crate, without tests and comments.
fn sources(name: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join("crates").join(name).join("src")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                std::fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
            let text = std::fs::read_to_string(&path).unwrap();
            let code: Vec<&str> = before_tests(&text)
                .lines()
                .map(|line| {
                    line.find("//").map_or(line, |at| {
                        if line[..at].contains('"') {
                            line
                        } else {
                            &line[..at]
                        }
                    })
                })
                .collect();
            found.push((path, code.join("\n")));
        }
    }
    found
}

/// `#[cfg(test)] mod name;` makes a whole file a test.
fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let parents = [path.with_file_name("mod.rs"), path.with_file_name("lib.rs")];
    parents
        .iter()
        .filter_map(|parent| std::fs::read_to_string(parent).ok())
        .any(|text| {
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            lines
                .windows(2)
                .any(|pair| pair[0] == "#[cfg(test)]" && (pair[1].ends_with(&format!("mod {name};"))))
        })
}

/// A file's own tests stand at its end.
fn before_tests(text: &str) -> &str {
    let at = text.match_indices("#[cfg(test)]\nmod ").find(|(at, _)| {
        let rest = &text[*at..];
        rest.find('{') < rest.find(';')
    });
    at.map_or(text, |(at, _)| &text[..at])
}

#[test]
fn the_engine_names_no_version_and_no_role() {
    let files = release::Files::embedded();
    let mut names = BTreeSet::new();
    for version in release::catalog_versions(&files) {
        let (catalog, _) = release::load_catalog(&files, &version).unwrap();
        let roles = catalog.objects().filter(|object| {
            ["Role", "RoleBase"]
                .iter()
                .any(|end| object.kind().ends_with(end))
        });
        names.extend(roles.map(|object| object.name().to_owned()));
    }
    // `admin` and `viewer` are words of every day, and cluster-admin is Kubernetes' own.
    names.retain(|name| name.contains('-') && name != "cluster-admin");
    assert!(names.contains("users-manager") && names.contains("role-template-manage-members"));
    names.insert("workspace-manager".to_owned());
    let mut seen = 0;
    for name in ENGINE {
        for (path, code) in sources(name) {
            seen += 1;
            for role in &names {
                assert!(
                    !code.contains(&format!("\"{role}\"")),
                    "{} names the role {role}",
                    path.display()
                );
            }
            let version = code
                .match_indices("\"v")
                .map(|(at, _)| &code[at + 2..])
                .find(|rest| {
                    let number = rest.split('"').next().unwrap_or_default();
                    let parts: Vec<&str> = number.split('.').collect();
                    parts.len() >= 3 && parts.iter().take(2).all(|part| part.parse::<u32>().is_ok())
                });
            let shown = version.map(|rest| rest.chars().take(12).collect::<String>());
            assert_eq!(shown, None, "{} names a version", path.display());
        }
    }
    assert!(seen > 50, "{seen}");
}
