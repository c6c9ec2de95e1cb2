//! Bringing the spec of a ClusterConfiguration of any age, from 3.0 on, into the shape of 3.3.

use serde_json::Value;

use super::{LiveFacts, cluster_configuration, known, path, reasons};
use crate::Finding;

/// The outcome of [`convert`].
#[derive(Clone, PartialEq)]
pub struct Conversion {
    /// The spec in the shape of 3.3. It holds the user's secrets: it is neither shown nor logged.
    pub spec: Value,
    /// What was moved, what has no effect any more, what nobody knows. Paths only, never values.
    pub notes: Vec<Finding>,
}

impl std::fmt::Debug for Conversion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversion")
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

/// What becomes of a setting of an older shape.
enum Change {
    /// It is called differently now. What is set under the new name already counts, and stays.
    Move,
    /// It stays, and decides another setting too, where that one is not set.
    Default,
}
use Change::{Default, Move};

/// The changes of shape since 3.0, in the order in which they are made: what they do, the old path, the new path,
/// and the path that must be there for it.
///
/// What a release only added (`terminal`, `servicemesh.istio`, `common.es.master`, …) is not here: it has its
/// default where it is used, and need not be written into the object.
#[rustfmt::skip]
const CHANGES: &[(Change, &str, &str, &str)] = &[
    // 3.0, 3.1
    (Move, "common.redisVolumSize", "common.redis.volumeSize", ""),
    (Move, "common.openldapVolumeSize", "common.openldap.volumeSize", ""),
    (Move, "common.minioVolumeSize", "common.minio.volumeSize", ""),
    (Move, "console", "common.core.console", ""),
    (Default, "logging.enabled", "logging.logsidecar.enabled", "logging.logsidecarReplicas"),
    (Move, "logging.logsidecarReplicas", "logging.logsidecar.replicas", ""),
    // 3.0
    (Default, "openpitrix.enabled", "openpitrix.store.enabled", ""),
    (Move, "networkpolicy", "network.networkpolicy", ""),
    // 3.0 to 3.2.0
    (Move, "common.es.elasticsearchMasterReplicas", "common.es.master.replicas", ""),
    (Move, "common.es.elasticsearchDataReplicas", "common.es.data.replicas", ""),
    (Move, "common.es.elasticsearchMasterVolumeSize", "common.es.master.volumeSize", ""),
    (Move, "common.es.elasticsearchDataVolumeSize", "common.es.data.volumeSize", ""),
    // to 3.2.1
    (Move, "common.es.externalElasticsearchUrl", "common.es.externalElasticsearchHost", ""),
    // 3.1, 3.2
    (Default, "kubeedge.enabled", "edgeruntime.enabled", ""),
    (Move, "kubeedge", "edgeruntime.kubeedge", ""),
];

/// Brings `spec` into the shape of 3.3 without losing anything: unknown settings stay where they are, and so does an
/// old setting whose new name is set to something else. Only `notification.enabled` of 3.0 is dropped, which decided
/// about what is now always there. Converting what has been converted changes nothing, and keys keep their order.
///
/// `status` is the object's status, `live` what runs in the cluster: they tell whether redis and openldap are in use
/// where the spec does not say.
pub fn convert(spec: &Value, status: &Value, live: &LiveFacts) -> Conversion {
    let mut converter = Converter {
        spec: spec.clone(),
        notes: Vec::new(),
    };
    if spec.is_object() {
        for (change, from, to, when) in CHANGES {
            if when.is_empty() || path::get(&converter.spec, when).is_some() {
                match change {
                    Move => converter.move_to(from, to),
                    Default => converter.default_from(from, to),
                }
            }
        }
        converter.drop_notification();
        converter.enable_where_used("redis", status, live.redis);
        converter.enable_where_used("openldap", status, live.openldap);
        converter.notes.extend(known::notes(&converter.spec));
    }
    Conversion {
        spec: converter.spec,
        notes: converter.notes,
    }
}

struct Converter {
    spec: Value,
    notes: Vec<Finding>,
}

impl Converter {
    fn note(&mut self, finding: Finding) {
        self.notes.push(finding.on(cluster_configuration()));
    }

    fn move_to(&mut self, from: &str, to: &str) {
        let Some(old) = path::get(&self.spec, from).cloned() else {
            return;
        };
        if !path::can_put(&self.spec, to) {
            return;
        }
        let Some(left) = path::put_below(&mut self.spec, to, old) else {
            path::take(&mut self.spec, from);
            self.note(Finding::info(
                reasons::SETTING_MOVED,
                format!("{from} is now {to}"),
            ));
            return;
        };
        if let Some(old) = path::get_mut(&mut self.spec, from) {
            *old = left;
        }
        self.note(
            Finding::warning(
                reasons::SETTING_CONFLICT,
                format!("{from} has no effect where {to}, its new name, is set to something else"),
            )
            .hint(format!(
                "remove {from} from the ClusterConfiguration once {to} is as you want it"
            )),
        );
    }

    fn default_from(&mut self, from: &str, to: &str) {
        let Some(value) = path::get(&self.spec, from).cloned() else {
            return;
        };
        if path::get(&self.spec, to).is_none() && path::can_put(&self.spec, to) {
            path::put_below(&mut self.spec, to, value);
            self.note(Finding::info(
                reasons::SETTING_MOVED,
                format!("{to} is now set as {from} is"),
            ));
        }
    }

    fn drop_notification(&mut self) {
        if path::get(&self.spec, "notification.enabled").is_none() {
            return;
        }
        path::take(&mut self.spec, "notification.enabled");
        if path::get(&self.spec, "notification")
            .and_then(Value::as_object)
            .is_some_and(serde_json::Map::is_empty)
        {
            path::take(&mut self.spec, "notification");
        }
        self.note(Finding::info(
            reasons::SETTING_DROPPED,
            "notification.enabled is left out: notification is always part of monitoring now",
        ));
    }

    fn enable_where_used(&mut self, component: &str, status: &Value, live: bool) {
        let to = format!("common.{component}.enabled");
        let recorded =
            path::get(status, &format!("{component}.status")).and_then(Value::as_str) == Some("enabled");
        if !(recorded || live) || path::get(&self.spec, &to).is_some() || !path::can_put(&self.spec, &to) {
            return;
        }
        path::put_below(&mut self.spec, &to, true.into());
        let why = if recorded {
            "the status says that it is installed"
        } else {
            "it runs in the cluster"
        };
        self.note(Finding::info(
            reasons::SETTING_DEFAULTED,
            format!("{to} is now true, since {why}"),
        ));
    }
}
