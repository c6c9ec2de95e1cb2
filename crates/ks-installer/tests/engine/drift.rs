//! Fields that somebody changed by hand: what stays, what is put back, what is asked about. And what of an object is
//! whose: fields that the new release drops go, what users added stays.

use cluster::Cluster;
use object::{
    ObjectKey,
    drift::{DriftPolicy, Verdict},
};
use sandbox::Sandbox;
use serde_json::{Value, json};
use upgrade::{DriftAnswer, Options, reasons};

use crate::support::{
    self,
    state::{State, system},
};

const IMAGE: &str = "spec.template.spec.containers[name=ks-apiserver].image";
const CPU: &str = "spec.template.spec.containers[name=ks-apiserver].resources.limits.cpu";

fn apiserver() -> ObjectKey {
    system("apps", "Deployment", "ks-apiserver")
}

/// The upgraded cluster, in which somebody scaled ks-apiserver, gave it more CPU, and tried an image of their own.
async fn edited() -> (Sandbox, Cluster) {
    let sandbox = support::upgraded();
    let client = support::client(&sandbox);
    let patch = json!([
        {"op": "replace", "path": "/spec/replicas", "value": 4},
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "mine:1"},
        {"op": "replace", "path": "/spec/template/spec/containers/0/resources/limits/cpu", "value": "2"},
    ]);
    client.json_patch(&apiserver(), &patch).await.unwrap();
    (sandbox, client)
}

/// `replicas cpu image` afterwards.
fn outcome(sandbox: &Sandbox) -> String {
    let state = State::of(sandbox);
    let deployment = state.get(&apiserver());
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let text = |value: &Value| value.to_string().replace('"', "");
    format!(
        "{} {} {}",
        deployment["spec"]["replicas"],
        text(&container["resources"]["limits"]["cpu"]),
        text(&container["image"])
    )
}

#[tokio::test]
async fn what_was_changed_by_hand_follows_the_policy() {
    let answer = |path: &str, verdict| DriftAnswer {
        object: apiserver(),
        path: path.into(),
        verdict,
    };
    let check = async |drift: DriftPolicy, drift_answers: Vec<DriftAnswer>, expect: &str| {
        let (sandbox, client) = edited().await;
        let options = Options {
            drift,
            drift_answers,
            ..Options::default()
        };
        support::upgrade_with(&client, options.clone()).await;
        assert_eq!(outcome(&sandbox), expect, "{options:?}");
        // What stays is no reason to write again.
        let writes = sandbox.requests().writes();
        support::upgrade_with(&client, options).await;
        assert_eq!(sandbox.requests().writes(), writes);
    };
    check(DriftPolicy::ByField, vec![], "4 2 kubesphere/ks-apiserver:v3.3.1").await;
    check(DriftPolicy::Keep, vec![], "4 2 mine:1").await;
    check(
        DriftPolicy::Overwrite,
        vec![],
        "1 1 kubesphere/ks-apiserver:v3.3.1",
    )
    .await;
    let answers = vec![
        answer("spec.replicas", Verdict::Overwrite),
        answer(IMAGE, Verdict::Keep),
    ];
    check(DriftPolicy::ByField, answers, "1 2 mine:1").await;
}

#[tokio::test]
async fn the_decision_says_what_was_what_is_and_what_will_be() {
    let (_sandbox, client) = edited().await;
    let prepared = engine::prepare(&support::session(&client, Options::default()))
        .await
        .unwrap();
    let drift: Vec<_> = prepared
        .decision
        .drift
        .iter()
        .filter(|d| d.object == apiserver())
        .map(|d| {
            let drift = &d.drift;
            let side = |value: &Option<Value>| value.clone().unwrap_or_default();
            let sides = [&drift.released, &drift.live, &drift.new].map(side);
            (drift.path.as_str(), json!(sides), drift.kept, drift.open)
        })
        .collect();
    let released = json!("kubesphere/ks-apiserver:v3.3.1");
    assert_eq!(
        drift,
        [
            ("spec.replicas", json!([1, 4, 1]), true, true),
            (IMAGE, json!([released, "mine:1", released]), false, true),
            (CPU, json!(["1", "2", "1"]), true, true),
        ]
    );
    let reasons: Vec<_> = prepared
        .findings()
        .iter()
        .filter(|f| f.object == Some(apiserver()) && f.reason.starts_with("Drift"))
        .map(|f| f.reason.as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            reasons::DRIFT_OVERWRITTEN,
            reasons::DRIFT_KEPT,
            reasons::DRIFT_KEPT
        ]
    );
}

/// A field that the old release set and the new one does not is gone, though helm wrote it; what users added to the same
/// object, through whatever tool, is there.
#[tokio::test]
async fn a_dropped_field_goes_and_what_users_added_stays() {
    let sandbox = support::tenants_but(|objects| {
        // The old release set an environment variable and an annotation that no release has now.
        let record = support::find_mut(objects, "Secret", "sh.helm.release.v1.ks-core.v1");
        let secret = object::Object::try_from(record.clone()).unwrap();
        let read = release::helm::Record::decode(&secret).unwrap();
        let mut raw = read.as_value().clone();
        let mut all = read.manifest_objects(&release::helm::is_namespaced).unwrap();
        for object in &mut all {
            if object.key() == apiserver() {
                let map = object.as_map_mut();
                map["metadata"]["annotations"]["old.example.org/by"] = "helm".into();
                map["spec"]["template"]["spec"]["containers"][0]["env"] =
                    json!([{"name": "OLD", "value": "1"}]);
            }
        }
        raw["manifest"] = release::helm::to_manifest(&all).into();
        let changed = release::helm::Record::from_value(raw).unwrap();
        record["data"] = changed.encode(0).unwrap().into_value()["data"].clone();
        let live = support::find_mut(objects, "Deployment", "ks-apiserver");
        live["metadata"]["annotations"]["old.example.org/by"] = "helm".into();
        live["metadata"]["annotations"]["theirs"] = "kept".into();
        live["metadata"]["labels"]["team"] = "kept".into();
        live["spec"]["template"]["spec"]["containers"][0]["env"] =
            json!([{"name": "OLD", "value": "1"}, {"name": "THEIRS", "value": "kept"}]);
        let fields = live["metadata"]["managedFields"].as_array_mut().unwrap();
        let helm = fields
            .iter_mut()
            .find(|entry| entry["manager"] == "helm")
            .unwrap();
        let helm = &mut helm["fieldsV1"];
        helm["f:metadata"]["f:annotations"]["f:old.example.org/by"] = json!({});
        let container = r#"k:{"name":"ks-apiserver"}"#;
        let old = json!({".": {}, r#"k:{"name":"OLD"}"#: {".": {}, "f:name": {}, "f:value": {}}});
        helm["f:spec"]["f:template"]["f:spec"]["f:containers"][container]["f:env"] = old;
        let theirs = json!({r#"k:{"name":"THEIRS"}"#: {".": {}, "f:name": {}, "f:value": {}}});
        fields.push(
            json!({"manager": "kubectl-edit", "operation": "Update", "apiVersion": "apps/v1",
            "fieldsType": "FieldsV1", "time": "2022-01-01T00:00:00Z", "fieldsV1": {
            "f:metadata": {"f:annotations": {"f:theirs": {}}, "f:labels": {"f:team": {}}},
            "f:spec": {"f:template": {"f:spec": {"f:containers": {container: {"f:env": theirs}}}}}}}),
        );
    });
    support::upgrade(&sandbox).await;
    let state = State::of(&sandbox);
    let live = state.get(&apiserver());
    assert_eq!(live["metadata"]["annotations"].get("old.example.org/by"), None);
    assert_eq!(live["metadata"]["annotations"]["theirs"], "kept");
    assert_eq!(live["metadata"]["labels"]["team"], "kept");
    let env = &live["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(env, &json!([{"name": "THEIRS", "value": "kept"}]));
    support::check_nothing_to_do(&sandbox).await;
}
