//! The corpus of `conformance/` on the sandbox, against what a real Kubernetes 1.20.2 answered.
//!
//! `CASE=part cargo test -p sandbox --test conformance` looks at the cases that have the part in their name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sandbox::conformance::{self, Corpus, Recorded};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

/// Every case in a sandbox of its own. Time passes only where all wait for it.
#[tokio::test(start_paused = true)]
async fn the_sandbox_answers_as_kubernetes_does() {
    let corpus = Corpus::read(&folder()).expect("a corpus");
    let wanted = conformance::read_recorded(&folder()).expect("recorded answers");
    let mut known = conformance::read_known(&folder()).expect("known differences");
    let part = std::env::var("CASE").unwrap_or_default();
    known.retain(|known| known.case.contains(&part));
    let mut found = Recorded::new();
    for case in corpus.cases.iter().filter(|case| case.name.contains(&part)) {
        let sandbox = conformance::cluster().await.expect("a cluster");
        let answers = conformance::replay(&sandbox.service(), case).await;
        // A case that does not come to its end differs as well.
        let answers = answers.unwrap_or_else(|error| vec![error.to_string().into()]);
        found.insert(case.name.clone(), answers);
    }
    let mut names = BTreeSet::new();
    for case in &corpus.cases {
        assert!(names.insert(&case.name), "{} is there twice", case.name);
    }
    let wrong = conformance::compare(&wanted, &found, &known);
    assert!(
        wrong.is_empty(),
        "{} of {} cases differ\n{}",
        wrong.len(),
        found.len(),
        wrong.join("\n")
    );
}
