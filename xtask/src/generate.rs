//! Files in the repository that are made by code, and the check that they are fresh.
//!
//! A generator gives the files it makes, by path below the workspace's root; [`run`] writes them, or compares. What one
//! makes that depends on a crate of ours which this one must not depend on, is had by running that crate's binary or example.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Paths below the workspace's root, and what the files are to hold.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

pub struct Generator {
    /// What it makes, for the report.
    pub name: &'static str,
    pub files: fn(&Programs) -> anyhow::Result<Files>,
}

/// All generators of the workspace. Add yours here.
pub const GENERATORS: &[Generator] = &[
    Generator {
        name: "the table of findings",
        files: findings,
    },
    Generator {
        name: "the reference of the command line",
        files: commands,
    },
    Generator {
        name: "the installer's manifest and its permissions",
        files: deploy,
    },
];

/// The workspace's programs and examples.
pub struct Programs {
    root: PathBuf,
    folder: PathBuf,
}

impl Programs {
    /// Builds them as `cargo test --workspace` does, whose features are others than those of a single package: so nothing is
    /// compiled twice where both are run.
    ///
    /// # Errors
    /// The workspace cannot be built.
    pub fn build(root: &Path) -> anyhow::Result<Self> {
        use anyhow::Context as _;

        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let status = std::process::Command::new(cargo)
            .args(["test", "--workspace", "--no-run", "--quiet"])
            .current_dir(root)
            .status()
            .context("running cargo")?;
        anyhow::ensure!(status.success(), "the workspace cannot be built");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        Ok(Self {
            root: root.to_owned(),
            folder: target.join("debug"),
        })
    }

    /// What one prints.
    fn output(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        use anyhow::Context as _;

        let program = self.folder.join(program);
        let output = std::process::Command::new(&program)
            .args(arguments)
            .current_dir(&self.root)
            .stderr(std::process::Stdio::inherit())
            .output()
            .with_context(|| format!("running {}", program.display()))?;
        anyhow::ensure!(output.status.success(), "{} failed", program.display());
        String::from_utf8(output.stdout).context("reading what the program printed")
    }
}

fn findings(programs: &Programs) -> anyhow::Result<Files> {
    let text = programs.output("examples/findings", &[])?;
    Ok(Files::from([("docs/findings.md".into(), text.into_bytes())]))
}

fn deploy(programs: &Programs) -> anyhow::Result<Files> {
    use anyhow::Context as _;

    let text = programs.output("examples/deploy", &[])?;
    let files: BTreeMap<PathBuf, String> =
        serde_json::from_str(&text).context("reading what the example prints")?;
    Ok(files
        .into_iter()
        .map(|(path, text)| (path, text.into_bytes()))
        .collect())
}

fn commands(programs: &Programs) -> anyhow::Result<Files> {
    use std::fmt::Write as _;

    let help = |command: &[&str]| programs.output("ks-installer", &[command, &["--help"]].concat());
    let subcommands = |help: &str| -> Vec<String> {
        help.lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter_map(|line| {
                line.strip_prefix("  ")?
                    .split(' ')
                    .next()
                    .filter(|name| !name.is_empty())
            })
            .filter(|name| *name != "help")
            .map(str::to_owned)
            .collect()
    };
    let overview = help(&[])?;
    let names = subcommands(&overview);
    anyhow::ensure!(!names.is_empty(), "the help names no commands");
    let mut text = "# Commands\n\nMade by `cargo xtask generate` from what `--help` prints.\n".to_owned();
    let mut section = |title: &str, help: &str| {
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        let _ = write!(
            text,
            "\n## {title}\n\n```text\n{}\n```\n",
            lines.join("\n").trim_end()
        );
    };
    section("ks-installer", &overview);
    for name in names {
        let own = help(&[&name])?;
        section(&format!("ks-installer {name}"), &own);
        for below in subcommands(&own) {
            section(&format!("ks-installer {name} {below}"), &help(&[&name, &below])?);
        }
    }
    Ok(Files::from([("docs/commands.md".into(), text.into_bytes())]))
}

/// The workspace's root folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the workspace")
        .to_owned()
}

/// What [`run`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub fresh: Vec<PathBuf>,
    /// Written, or, if only checked, in need of it.
    pub stale: Vec<PathBuf>,
}

/// Runs the generators. With `check`, compares only and writes nothing.
///
/// # Errors
/// A generator's own, and files that cannot be written.
pub fn run(programs: &Programs, generators: &[Generator], check: bool) -> anyhow::Result<Outcome> {
    use anyhow::Context as _;

    let root = &programs.root;
    let mut outcome = Outcome::default();
    for generator in generators {
        let files = (generator.files)(programs).with_context(|| format!("generating {}", generator.name))?;
        for (path, content) in files {
            let target = root.join(&path);
            if fs::read(&target).is_ok_and(|current| current == content) {
                outcome.fresh.push(path);
                continue;
            }
            if !check {
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
                }
                fs::write(&target, content).with_context(|| format!("writing {}", target.display()))?;
            }
            outcome.stale.push(path);
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Generator = Generator {
        name: "hello",
        files: |_| Ok(Files::from([("docs/hello.md".into(), b"hello\n".to_vec())])),
    };

    fn in_folder(root: &Path) -> Programs {
        Programs {
            root: root.to_owned(),
            folder: PathBuf::new(),
        }
    }

    #[test]
    fn checking_finds_stale_files_and_writes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let stale = Outcome {
            fresh: vec![],
            stale: vec!["docs/hello.md".into()],
        };
        assert_eq!(run(&in_folder(root.path()), &[HELLO], true).unwrap(), stale);
        assert!(!root.path().join("docs").exists());
    }

    #[test]
    fn what_was_written_is_fresh_until_changed() {
        let root = tempfile::tempdir().unwrap();
        run(&in_folder(root.path()), &[HELLO], false).unwrap();
        let fresh = Outcome {
            fresh: vec!["docs/hello.md".into()],
            stale: vec![],
        };
        assert_eq!(run(&in_folder(root.path()), &[HELLO], true).unwrap(), fresh);
        fs::write(root.path().join("docs/hello.md"), "edited").unwrap();
        assert_eq!(
            run(&in_folder(root.path()), &[HELLO], true).unwrap().stale.len(),
            1
        );
    }
}
