//! A cluster with every component enabled. Its dump is too large to keep here; where it is not at hand, this says so.

use std::path::Path;

use object::ObjectKey;
use serde_json::Value;

use crate::support::{
    self,
    state::{State, system},
};

/// The state of the whole cluster before and after, and the components that the plan leaves alone.
fn upgraded() -> Option<(State, State, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3)?;
    let path = root.join("shared/clusters/kubesphere-3.2.1-all.ndjson.zst");
    if !path.exists() {
        return None;
    }
    let sandbox = support::mk_cluster(support::read(&path));
    let before = State::of(&sandbox);
    let untouched = support::block_on(async {
        let plan = support::prepare(&sandbox).await.decision.plan.unwrap();
        support::upgrade(&sandbox).await;
        support::check_nothing_to_do(&sandbox).await;
        plan.untouched_components
    });
    Some((before, State::of(&sandbox), untouched))
}

fn document(state: &State) -> Value {
    let map = state.get(&system("", "ConfigMap", "kubesphere-config"));
    object::parse_documents(map["data"]["kubesphere.yaml"].as_str().unwrap())
        .unwrap()
        .remove(0)
}

#[test]
fn all_sections_of_the_configuration_are_kept_and_other_components_left_alone() {
    let Some((before, after, untouched)) = upgraded() else {
        eprintln!("skipped: there is no dump of a cluster with all components");
        return;
    };
    let changes = object::diff::changes(&document(&before), &document(&after));
    let mut changes: Vec<(&str, Option<&str>)> = changes
        .iter()
        .map(|change| (change.path.as_str(), change.to.as_ref().and_then(Value::as_str)))
        .collect();
    changes.sort_unstable();
    // The password of devops is the token of kubesphere-secret, which stands for another in the dump.
    let expect = [
        ("devops.password", Some("redacted-token")),
        ("edgeruntime", None),
        ("gateway.tag", Some("v1.1.0")),
        ("kubeedge", None),
        ("multicluster.clusterRole", Some("host")),
        ("terminal", None),
    ];
    assert_eq!(changes, expect);
    assert_eq!(
        document(&after)["edgeruntime"]["endpoint"],
        document(&before)["kubeedge"]["endpoint"]
    );

    for component in [
        "alerting",
        "auditing",
        "devops",
        "edgeruntime",
        "events",
        "logging",
        "monitoring",
        "multicluster",
        "openpitrix",
        "servicemesh",
    ] {
        assert!(
            untouched.iter().any(|name| name == component),
            "{component} is not in {untouched:?}"
        );
    }
    let may_change = |key: &ObjectKey| {
        const GROUPS: [&str; 4] = [
            "iam.kubesphere.io",
            "rbac.authorization.k8s.io",
            "apiregistration.k8s.io",
            "apiextensions.k8s.io",
        ];
        const CORE: [&str; 6] = [
            "ks-apiserver",
            "ks-console",
            "ks-controller-manager",
            "ks-installer",
            "ks-router-config",
            "kubesphere-config",
        ];
        let is_label = ["kubeedge", "weave"].contains(&key.name.as_str()) && key.kind == "Namespace";
        let is_new = key.name == "storageclass-accessor.storage.kubesphere.io";
        let is_record = key.is_secret() && key.name.starts_with("sh.helm.release.v1.ks-core.v");
        GROUPS.contains(&key.group.as_str())
            || CORE.contains(&key.name.as_str())
            || is_label
            || is_new
            || is_record
    };
    let (before, after) = (before.comparable(), after.comparable());
    let changed = before.changed(&after);
    let others: Vec<_> = changed.into_iter().filter(|key| !may_change(key)).collect();
    assert_eq!(others, Vec::<&ObjectKey>::new());
}
