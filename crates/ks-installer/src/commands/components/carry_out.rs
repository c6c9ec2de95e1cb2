//! The edit of the ClusterConfiguration is made, and what was shown with it is begun.

use anyhow::{anyhow, bail};
use cluster::{Cluster, ErrorClass};
use engine::{Prepared, Session};
use object::{ObjectKey, diff};
use serde_json::{Value, json};
use upgrade::{Action, Plan, Step, cluster_configuration_key, components::Edit};

use crate::{
    commands::{Verdict, approve::Asked, handover, read_error, run::Stopped, with_hint},
    operator::{publish::digest, watch::APPROVED_PLAN},
    output,
};

pub(super) async fn write(cluster: &Cluster, patch: &Value) -> anyhow::Result<()> {
    let written = cluster.merge_patch(&cluster_configuration_key(), patch).await;
    match written {
        Ok(_) => Ok(()),
        Err(error) if *error.class() == ErrorClass::Conflict => bail!(
            "somebody changed the ClusterConfiguration meanwhile, so it was left as it is\nhint: run it again: it is decided on what is there now"
        ),
        Err(error) => {
            let hint = error.hint();
            Err(with_hint(error.into(), hint))
        }
    }
}

/// Makes the edit, and decides on what is there then. Nothing else is done than what was shown.
pub(super) async fn prepare(session: &Session<'_>, edit: &Edit, shown: &Plan) -> Result<Prepared, Stopped> {
    if let Some(patch) = &edit.patch {
        write(session.cluster, patch).await.map_err(Stopped::NotBegun)?;
    }
    let again = engine::prepare(session)
        .await
        .map_err(read_error)
        .map_err(Stopped::NotBegun)?;
    let blockers = again.blockers().map(|finding| finding.message.clone());
    let mut changed: Vec<String> = blockers.collect();
    if let Some(now) = &again.decision.plan {
        let differences = shown.check_permits(now).err().unwrap_or_default();
        // But for the edit itself, and for the order of what documents are made of, which is the API server's.
        let others = differences.iter().filter(|difference| {
            difference
                .object
                .as_ref()
                .is_none_or(|object| *object != cluster_configuration_key() && !is_same(shown, now, object))
        });
        changed.extend(others.map(ToString::to_string));
    }
    if changed.is_empty() {
        return Ok(again);
    }
    Err(Stopped::NotBegun(anyhow!(
        "the ClusterConfiguration says so now, but the cluster changed meanwhile, and something else would be written than was shown:\n  - {}\nhint: look at it with ks-installer plan, then carry it out with ks-installer upgrade",
        changed.join("\n  - ")
    )))
}

/// Whether two plans do the same to an object, on the same state.
fn is_same(shown: &Plan, now: &Plan, object: &ObjectKey) -> bool {
    let of = |plan: &Plan| -> Vec<Step> {
        plan.steps()
            .filter(|step| step.object == *object)
            .cloned()
            .collect()
    };
    let body = |step: &Step| match &step.action {
        Action::Apply { body, .. } | Action::Patch { body, .. } | Action::Record { body, .. } => {
            body.0.clone()
        }
        _ => Value::Null,
    };
    let (shown, now) = (of(shown), of(now));
    let same = |a: &Step, b: &Step| {
        a.before == b.before
            && a.action.name() == b.action.name()
            && (a.action == b.action
                || body(a) != Value::Null && diff::changes(&body(a), &body(b)).is_empty())
    };
    shown.len() == now.len() && shown.iter().zip(&now).all(|(a, b)| same(a, b))
}

/// Gives the operator the edit and the word for the plan in one, and follows it.
pub(super) async fn hand_over(
    cluster: &Cluster,
    plan: &Plan,
    edit: &Edit,
    asked: &Asked<'_>,
) -> anyhow::Result<Verdict> {
    if !asked.json {
        output::note("The operator in the cluster does it; interrupting this command does not interrupt it.");
    }
    let digest = digest(plan);
    let mut patch = edit.patch.clone().unwrap_or_else(|| json!({}));
    patch["metadata"]["annotations"] = json!({APPROVED_PLAN: digest});
    write(cluster, &patch).await?;
    let ended = handover::follow(cluster, Some(&digest), !asked.json).await?;
    ended.report((asked.done, "change"), asked.json)
}
