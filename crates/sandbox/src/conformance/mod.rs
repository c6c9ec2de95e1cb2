//! Does an API server answer as a real one does? Sequences of requests, and what Kubernetes 1.20.2 answered to each.
//!
//! ```text
//! cases/*.yaml ─▶ Corpus ─▶ replay on any server ─▶ raw answers ─▶ normalise ─▶ compare ◀─ recorded/*.jsonl, known.yaml
//! ```
//!
//! The corpus stands in the folder `conformance` of this crate. `cargo xtask conformance` replays it on a real control plane and
//! on the sandbox, or records the real answers anew; the tests compare the sandbox with what was recorded.
//!
//! Each case has a namespace of its own, whose name stands for `$NS` wherever a case says so: cases do not see each other.

mod case;
mod normalise;
mod replay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use serde_json::Value;

use crate::{Config, Sandbox};

pub use case::{Case, Corpus};
pub use replay::{Raw, Send, replay};

/// Why a corpus cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no YAML or JSON.
    #[error("{}: {why}", path.display())]
    Syntax {
        /// Which one.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A case that is not understood.
    #[error("case {case}: {why}")]
    Case {
        /// Which one.
        case: String,
        /// Why.
        why: String,
    },
    /// A request that was not answered, or not as the case needs it to go on.
    #[error("case {case}: {why}")]
    Replay {
        /// Which one.
        case: String,
        /// Why.
        why: String,
    },
}

/// A sandbox that is set up as the control plane is whose answers are recorded: three nodes, and a storage class that is the
/// default.
///
/// # Errors
///
/// When the storage class is refused.
pub async fn cluster() -> Result<Sandbox, Error> {
    let sandbox = Sandbox::new(Config {
        nodes: ["node1", "node2", "node3"].map(str::to_owned).to_vec(),
        ..Config::default()
    });
    let class = serde_json::json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": { "name": "local", "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": "ks-installer.test/fake",
    });
    let made = replay::send(
        &sandbox.service(),
        "POST",
        "/apis/storage.k8s.io/v1/storageclasses",
        &[],
        &class.to_string(),
    )
    .await;
    match made {
        Ok(raw) if raw.code == 201 => Ok(sandbox),
        Ok(raw) => Err(String::from_utf8_lossy(&raw.body).into_owned()),
        Err(why) => Err(why),
    }
    .map_err(|why| Error::Replay {
        case: "the storage class".to_owned(),
        why,
    })
}

/// The normalised answers to the steps of a case, in order.
pub type Answers = Vec<Value>;

/// What a real server answered, by the name of the case.
pub type Recorded = BTreeMap<String, Answers>;

/// A case whose answers differ, and why that is accepted.
#[derive(Debug, Clone, Deserialize)]
pub struct Known {
    /// The name of the case.
    pub case: String,
    /// Why it may differ.
    pub reason: String,
}

pub(crate) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

/// The files of a folder with this ending, by name.
pub(crate) fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, Error> {
    let refuse = |source| Error::File {
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let path = entry.map_err(refuse)?.path();
        if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The first part of a case's name: the file it stands in.
fn file_of(case: &str) -> &str {
    case.split('/').next().unwrap_or_default()
}

/// Reads the recorded answers of a corpus.
///
/// # Errors
///
/// When a file cannot be read or holds something else.
pub fn read_recorded(folder: &Path) -> Result<Recorded, Error> {
    let mut recorded = Recorded::new();
    for path in files(&folder.join("recorded"), "jsonl")? {
        for line in read(&path)?.lines() {
            let (case, answers): (String, Answers) =
                serde_json::from_str(line).map_err(|error| Error::Syntax {
                    path: path.clone(),
                    why: error.to_string(),
                })?;
            recorded.insert(case, answers);
        }
    }
    Ok(recorded)
}

/// Writes recorded answers, a file for each file of cases and a line for each case.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_recorded(folder: &Path, recorded: &Recorded) -> Result<(), Error> {
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    for (case, answers) in recorded {
        let text = texts.entry(file_of(case)).or_default();
        text.push_str(&serde_json::json!([case, answers]).to_string());
        text.push('\n');
    }
    for (file, text) in texts {
        let path = folder.join("recorded").join(format!("{file}.jsonl"));
        fs::write(&path, text).map_err(|source| Error::File { path, source })?;
    }
    Ok(())
}

/// Reads the table of accepted differences.
///
/// # Errors
///
/// When it cannot be read or holds something else.
pub fn read_known(folder: &Path) -> Result<Vec<Known>, Error> {
    let path = folder.join("known.yaml");
    serde_saphyr::from_str(&read(&path)?).map_err(|error| Error::Syntax {
        path,
        why: error.to_string(),
    })
}

/// What is wrong, a line each: cases that differ and are not known to, known ones that do not, cases never recorded.
pub fn compare(wanted: &Recorded, found: &Recorded, known: &[Known]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (case, answers) in found {
        let is_known = known.iter().any(|known| known.case == *case);
        let Some(wanted) = wanted.get(case) else {
            wrong.push(format!("{case}: never recorded"));
            continue;
        };
        let difference = first_difference(wanted, answers);
        match (difference, is_known) {
            (Some(difference), false) => wrong.push(format!("{case}: {difference}")),
            (None, true) => wrong.push(format!("{case}: is equal, though it is known to differ")),
            _ => {}
        }
    }
    for known in known.iter().filter(|known| !found.contains_key(&known.case)) {
        wrong.push(format!(
            "{}: known to differ, but there is no such case",
            known.case
        ));
    }
    wrong
}

/// All differences of the first step that differs, as text.
fn first_difference(wanted: &[Value], found: &[Value]) -> Option<String> {
    for (step, (wanted, found)) in (1..).zip(wanted.iter().zip(found)) {
        let mut differences = Vec::new();
        differ("", wanted, found, &mut differences);
        if !differences.is_empty() {
            differences.truncate(8);
            return Some(format!("step {step}\n    {}", differences.join("\n    ")));
        }
    }
    (wanted.len() != found.len()).then(|| format!("{} steps, {} recorded", found.len(), wanted.len()))
}

fn differ(path: &str, wanted: &Value, found: &Value, differences: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(left), Value::Object(right)) => {
            for (key, value) in left {
                let path = format!("{path}/{key}");
                match right.get(key) {
                    Some(other) => differ(&path, value, other, differences),
                    None => differences.push(format!("{path}: {} is missing", shown(value))),
                }
            }
            for (key, value) in right.iter().filter(|(key, _)| !left.contains_key(*key)) {
                differences.push(format!("{path}/{key}: {} is too much", shown(value)));
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                differ(&format!("{path}/{index}"), left, right, differences);
            }
        }
        (left, right) if left == right => {}
        (left, right) => {
            differences.push(format!(
                "{path}:\n      real    {}\n      sandbox {}",
                shown(left),
                shown(right)
            ));
        }
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mk(answers: &[(&str, Value)]) -> Recorded {
        answers
            .iter()
            .map(|(case, answer)| ((*case).to_owned(), vec![answer.clone()]))
            .collect()
    }

    #[test]
    fn a_known_difference_must_differ() {
        let known = [Known {
            case: "a/x".to_owned(),
            reason: "because".to_owned(),
        }];
        let (wanted, same, other) = (
            mk(&[("a/x", json!(1))]),
            mk(&[("a/x", json!(1))]),
            mk(&[("a/x", json!(2))]),
        );
        assert_eq!(compare(&wanted, &other, &known), Vec::<String>::new());
        assert_eq!(compare(&wanted, &same, &known).len(), 1);
        assert_eq!(compare(&wanted, &same, &[]), Vec::<String>::new());
        assert_eq!(compare(&wanted, &other, &[]).len(), 1);
        assert_eq!(compare(&mk(&[]), &other, &[]).len(), 1);
    }
}
