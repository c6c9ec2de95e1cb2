//! The columns of built-in kinds, and what stands in them.

use serde_json::Value;

use super::cells::{
    age, api_service, autoscaler, binding, claim, containers, containers_at, cron_job, endpoint_slice,
    endpoints, event, ingress, int, job, n, node, or_none, pod, quota, replicas, service, size,
    storage_class, volume,
};
use super::format::{Moment, labels, selector};
use crate::json::{list, list_at, text, text_at};

/// A kind with a table of its own.
pub(super) struct Kind {
    group: &'static str,
    named: &'static str,
    /// Columns: a name; `+` marks one that only `-o wide` shows, `#` an integer, `?` a boolean.
    columns: &'static [&'static str],
    cells: fn(&Value, Moment) -> Vec<Value>,
}

impl Kind {
    pub(super) fn columns(&self) -> Value {
        self.columns
            .iter()
            .map(|column| {
                let priority = i64::from(column.contains('+'));
                let kind = if column.contains('#') {
                    "integer"
                } else if column.contains('?') {
                    "boolean"
                } else {
                    "string"
                };
                let name = column.trim_end_matches(['+', '#', '?']);
                super::column(name, kind, if name == "Name" { "name" } else { "" }, priority)
            })
            .collect()
    }

    pub(super) fn cells(&self, object: &Value, now: Moment) -> Vec<Value> {
        (self.cells)(object, now)
    }
}

pub(super) fn find(group: &str, kind: &str) -> Option<&'static Kind> {
    let group = match group {
        "extensions" => "networking.k8s.io",
        "events.k8s.io" => "",
        other => other,
    };
    KINDS
        .iter()
        .find(|known| known.group == group && known.named == kind)
}

static KINDS: &[Kind] = &[
    Kind {
        group: "",
        named: "ComponentStatus",
        columns: &["Name", "Status", "Message", "Error"],
        cells: |o, _| {
            let conditions = list(o, "conditions");
            let healthy = conditions
                .iter()
                .find(|condition| text(condition, "type") == "Healthy");
            let status = match healthy.map(|condition| text(condition, "status")) {
                Some("True") => "Healthy",
                Some(_) => "Unhealthy",
                None => "Unknown",
            };
            let told = |key: &str| healthy.map_or("", |condition| text(condition, key)).into();
            vec![n(o), status.into(), told("message"), told("error")]
        },
    },
    Kind {
        group: "",
        named: "Pod",
        columns: &[
            "Name",
            "Ready",
            "Status",
            "Restarts#",
            "Age",
            "IP+",
            "Node+",
            "Nominated Node+",
            "Readiness Gates+",
        ],
        cells: pod,
    },
    Kind {
        group: "",
        named: "PodTemplate",
        columns: &["Name", "Containers", "Images", "Pod Labels"],
        cells: |o, _| {
            let [names, images] = containers_at(o, "/template/spec/containers");
            let pod_labels = labels(o.pointer("/template/metadata/labels"));
            vec![n(o), names, images, pod_labels.into()]
        },
    },
    Kind {
        group: "",
        named: "Service",
        columns: &[
            "Name",
            "Type",
            "Cluster-IP",
            "External-IP",
            "Port(s)",
            "Age",
            "Selector+",
        ],
        cells: service,
    },
    Kind {
        group: "",
        named: "Namespace",
        columns: &["Name", "Status", "Age"],
        cells: |o, now| vec![n(o), text_at(o, "/status/phase").into(), age(o, now)],
    },
    Kind {
        group: "",
        named: "Node",
        columns: &[
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "Internal-IP+",
            "External-IP+",
            "OS-Image+",
            "Kernel-Version+",
            "Container-Runtime+",
        ],
        cells: node,
    },
    Kind {
        group: "",
        named: "Secret",
        columns: &["Name", "Type", "Data", "Age"],
        cells: |o, now| {
            vec![
                n(o),
                text(o, "type").into(),
                size(o.get("data")).into(),
                age(o, now),
            ]
        },
    },
    Kind {
        group: "",
        named: "ConfigMap",
        columns: &["Name", "Data", "Age"],
        cells: |o, now| {
            vec![
                n(o),
                (size(o.get("data")) + size(o.get("binaryData"))).into(),
                age(o, now),
            ]
        },
    },
    Kind {
        group: "",
        named: "ServiceAccount",
        columns: &["Name", "Secrets", "Age"],
        cells: |o, now| vec![n(o), list(o, "secrets").len().into(), age(o, now)],
    },
    Kind {
        group: "",
        named: "Endpoints",
        columns: &["Name", "Endpoints", "Age"],
        cells: endpoints,
    },
    Kind {
        group: "",
        named: "Event",
        columns: &[
            "Last Seen",
            "Type",
            "Reason",
            "Object",
            "Subobject+",
            "Source+",
            "Message",
            "First Seen+",
            "Count+",
            "Name+",
        ],
        cells: event,
    },
    Kind {
        group: "",
        named: "PersistentVolumeClaim",
        columns: &[
            "Name",
            "Status",
            "Volume",
            "Capacity",
            "Access Modes",
            "StorageClass",
            "Age",
            "VolumeMode+",
        ],
        cells: claim,
    },
    Kind {
        group: "",
        named: "PersistentVolume",
        columns: &[
            "Name",
            "Capacity",
            "Access Modes",
            "Reclaim Policy",
            "Status",
            "Claim",
            "StorageClass",
            "Reason",
            "Age",
            "VolumeMode+",
        ],
        cells: volume,
    },
    Kind {
        group: "",
        named: "ReplicationController",
        columns: &[
            "Name",
            "Desired#",
            "Current#",
            "Ready#",
            "Age",
            "Containers+",
            "Images+",
            "Selector+",
        ],
        cells: replicas,
    },
    Kind {
        group: "",
        named: "ResourceQuota",
        columns: &["Name", "Age", "Request", "Limit"],
        cells: quota,
    },
    Kind {
        group: "apps",
        named: "Deployment",
        columns: &[
            "Name",
            "Ready",
            "Up-to-date",
            "Available",
            "Age",
            "Containers+",
            "Images+",
            "Selector+",
        ],
        cells: |o, now| {
            let mut cells = vec![
                n(o),
                format!("{}/{}", int(o, "/status/readyReplicas"), int(o, "/spec/replicas")).into(),
                int(o, "/status/updatedReplicas").into(),
                int(o, "/status/availableReplicas").into(),
                age(o, now),
            ];
            cells.extend(containers(o));
            cells.push(selector(o.pointer("/spec/selector")).into());
            cells
        },
    },
    Kind {
        group: "apps",
        named: "ReplicaSet",
        columns: &[
            "Name",
            "Desired#",
            "Current#",
            "Ready#",
            "Age",
            "Containers+",
            "Images+",
            "Selector+",
        ],
        cells: replicas,
    },
    Kind {
        group: "apps",
        named: "StatefulSet",
        columns: &["Name", "Ready", "Age", "Containers+", "Images+"],
        cells: |o, now| {
            let mut cells = vec![
                n(o),
                format!("{}/{}", int(o, "/status/readyReplicas"), int(o, "/spec/replicas")).into(),
                age(o, now),
            ];
            cells.extend(containers(o));
            cells
        },
    },
    Kind {
        group: "apps",
        named: "DaemonSet",
        columns: &[
            "Name",
            "Desired#",
            "Current#",
            "Ready#",
            "Up-to-date#",
            "Available#",
            "Node Selector",
            "Age",
            "Containers+",
            "Images+",
            "Selector+",
        ],
        cells: |o, now| {
            let mut cells = vec![n(o)];
            cells.extend(
                [
                    "desiredNumberScheduled",
                    "currentNumberScheduled",
                    "numberReady",
                    "updatedNumberScheduled",
                    "numberAvailable",
                ]
                .iter()
                .map(|field| int(o, &format!("/status/{field}")).into()),
            );
            cells.push(labels(o.pointer("/spec/template/spec/nodeSelector")).into());
            cells.push(age(o, now));
            cells.extend(containers(o));
            cells.push(selector(o.pointer("/spec/selector")).into());
            cells
        },
    },
    Kind {
        group: "apps",
        named: "ControllerRevision",
        columns: &["Name", "Controller", "Revision", "Age"],
        cells: |o, now| {
            let owner =
                list_at(o, "/metadata/ownerReferences")
                    .first()
                    .map_or("<none>".to_owned(), |owner| {
                        let group = crate::json::group_of(text(owner, "apiVersion"));
                        let kind = text(owner, "kind").to_lowercase();
                        let dot = if group.is_empty() { "" } else { "." };
                        format!("{kind}{dot}{group}/{}", text(owner, "name"))
                    });
            vec![n(o), owner.into(), int(o, "/revision").into(), age(o, now)]
        },
    },
    Kind {
        group: "batch",
        named: "Job",
        columns: &[
            "Name",
            "Completions",
            "Duration",
            "Age",
            "Containers+",
            "Images+",
            "Selector+",
        ],
        cells: job,
    },
    Kind {
        group: "batch",
        named: "CronJob",
        columns: &[
            "Name",
            "Schedule",
            "Suspend?",
            "Active#",
            "Last Schedule",
            "Age",
            "Containers+",
            "Images+",
            "Selector+",
        ],
        cells: cron_job,
    },
    Kind {
        group: "networking.k8s.io",
        named: "Ingress",
        columns: &["Name", "Class", "Hosts", "Address", "Ports", "Age"],
        cells: ingress,
    },
    Kind {
        group: "networking.k8s.io",
        named: "NetworkPolicy",
        columns: &["Name", "Pod-Selector", "Age"],
        cells: |o, now| vec![n(o), selector(o.pointer("/spec/podSelector")).into(), age(o, now)],
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        named: "RoleBinding",
        columns: &["Name", "Role", "Age", "Users+", "Groups+", "ServiceAccounts+"],
        cells: binding,
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        named: "ClusterRoleBinding",
        columns: &["Name", "Role", "Age", "Users+", "Groups+", "ServiceAccounts+"],
        cells: binding,
    },
    Kind {
        group: "storage.k8s.io",
        named: "StorageClass",
        columns: &[
            "Name",
            "Provisioner",
            "ReclaimPolicy",
            "VolumeBindingMode",
            "AllowVolumeExpansion",
            "Age",
        ],
        cells: storage_class,
    },
    Kind {
        group: "scheduling.k8s.io",
        named: "PriorityClass",
        columns: &["Name", "Value#", "Global-Default?", "Age"],
        cells: |o, now| {
            let default = o.get("globalDefault") == Some(&Value::Bool(true));
            vec![n(o), int(o, "/value").into(), default.into(), age(o, now)]
        },
    },
    Kind {
        group: "coordination.k8s.io",
        named: "Lease",
        columns: &["Name", "Holder", "Age"],
        cells: |o, now| vec![n(o), text_at(o, "/spec/holderIdentity").into(), age(o, now)],
    },
    Kind {
        group: "policy",
        named: "PodDisruptionBudget",
        columns: &[
            "Name",
            "Min Available",
            "Max Unavailable",
            "Allowed Disruptions#",
            "Age",
        ],
        cells: |o, now| {
            let amount = |field: &str| match o.pointer(&format!("/spec/{field}")) {
                Some(Value::String(text)) => text.clone(),
                Some(number) => number.to_string(),
                None => "N/A".to_owned(),
            };
            vec![
                n(o),
                amount("minAvailable").into(),
                amount("maxUnavailable").into(),
                int(o, "/status/disruptionsAllowed").into(),
                age(o, now),
            ]
        },
    },
    Kind {
        group: "admissionregistration.k8s.io",
        named: "ValidatingWebhookConfiguration",
        columns: &["Name", "Webhooks#", "Age"],
        cells: |o, now| vec![n(o), list(o, "webhooks").len().into(), age(o, now)],
    },
    Kind {
        group: "admissionregistration.k8s.io",
        named: "MutatingWebhookConfiguration",
        columns: &["Name", "Webhooks#", "Age"],
        cells: |o, now| vec![n(o), list(o, "webhooks").len().into(), age(o, now)],
    },
    Kind {
        group: "apiregistration.k8s.io",
        named: "APIService",
        columns: &["Name", "Service", "Available", "Age"],
        cells: api_service,
    },
    Kind {
        group: "discovery.k8s.io",
        named: "EndpointSlice",
        columns: &["Name", "AddressType", "Ports", "Endpoints", "Age"],
        cells: endpoint_slice,
    },
    Kind {
        group: "autoscaling",
        named: "HorizontalPodAutoscaler",
        columns: &[
            "Name",
            "Reference",
            "Targets",
            "MinPods",
            "MaxPods",
            "Replicas",
            "Age",
        ],
        cells: autoscaler,
    },
    Kind {
        group: "flowcontrol.apiserver.k8s.io",
        named: "FlowSchema",
        columns: &[
            "Name",
            "PriorityLevel",
            "MatchingPrecedence",
            "DistinguisherMethod",
            "Age",
            "MissingPL",
        ],
        cells: |o, now| {
            let dangling = list_at(o, "/status/conditions")
                .iter()
                .find(|condition| text(condition, "type") == "Dangling")
                .map_or("?", |condition| text(condition, "status"));
            vec![
                n(o),
                text_at(o, "/spec/priorityLevelConfiguration/name").into(),
                int(o, "/spec/matchingPrecedence").into(),
                or_none(text_at(o, "/spec/distinguisherMethod/type")),
                age(o, now),
                dangling.into(),
            ]
        },
    },
];
