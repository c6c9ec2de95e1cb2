//! The ClusterConfiguration, and the installer that was there before.

use object::Object;
use serde_json::{Value, json};

use super::{
    Decider, installer_key,
    step::{self, step},
};
use crate::{Action, plan::Condition, settings};

impl Decider<'_> {
    /// A running old installer would put the old release back on the next edit of the ClusterConfiguration.
    pub(super) fn stop_old_installer(&mut self) {
        let key = installer_key();
        let Some(live) = self.snapshot.get(&key).filter(|live| !super::is_operator(live)) else {
            return;
        };
        if live.get("/spec/replicas").and_then(Value::as_i64).unwrap_or(1) > 0 {
            let mut step = step(key.clone(), Action::Scale { replicas: 0 }, Some(live));
            step.note =
                Some("it would put the old release back on the next edit of the ClusterConfiguration".into());
            self.push("old-installer", step);
            self.wait("old-installer", key, Condition::Stopped);
        }
    }

    /// Brings the ClusterConfiguration into the present shape, in place.
    pub(super) fn convert_configuration(&mut self, live: &Object, spec: &Value) {
        let old = live.get("/spec").cloned().unwrap_or_default();
        if let Some(patch) = settings::spec_patch(&old, spec) {
            self.patch(
                "configuration",
                live,
                patch,
                Some("its settings move to where this release reads them".into()),
            );
        }
    }

    /// Notes in the ClusterConfiguration that the release is in place. The version is written last of all.
    pub(super) fn complete(&mut self, live: &Object) {
        let version = self.release.version.to_string();
        let null = Value::Null;
        let mut patch = json!({});
        if let Some(status) = settings::status_patch(live.get("/status").unwrap_or(&null), &version) {
            step::merge_patch(&mut patch, &status);
        }
        if let Some(labels) = settings::label_patch(live.get("/metadata/labels").unwrap_or(&null), &version) {
            step::merge_patch(&mut patch, &labels);
        }
        if patch != json!({}) {
            self.patch("completion", live, patch, None);
        }
    }
}
