//! What the server fills in and rewrites when a built-in object is written.
//!
//! Two moments are told apart, because the owner of a field is decided between them: decoding a request fills in the
//! defaults of the API version ([`apply_defaults`]), which the writer then owns; creating the object adds what belongs
//! to nobody ([`on_create`]).

use serde_json::{Map, Value, json};

use super::schema::Schema;
use super::shape::shape;
use crate::kinds::Minor;

type Fields = Map<String, Value>;

const RBAC: &str = "rbac.authorization.k8s.io";

/// Fills in the defaults of the object's kind and rewrites it to the server's form: quantities, values that are empty,
/// the order of fields. An object of a kind that is not known here is left as it is.
///
/// Applying it twice changes nothing. The defaults are those of Kubernetes 1.`minor`.
pub fn apply_defaults(object: &mut Value, minor: u32) {
    let (Some(api_version), Some(kind)) = (object["apiVersion"].as_str(), object["kind"].as_str()) else {
        return;
    };
    let Some(schema) = Schema::builtin(api_version, kind, minor) else {
        return;
    };
    let group = api_version
        .rsplit_once('/')
        .map_or("", |(group, _)| group)
        .to_owned();
    let kind = kind.to_owned();
    if let Some(fields) = object.as_object_mut() {
        fill(&group, &kind, fields, minor);
    }
    shape(object, &schema);
}

/// What a create adds that its writer does not own: a namespace's finalizer, a job's selector. The object has its uid.
pub fn on_create(object: &mut Value, minor: u32) {
    let uid = object["metadata"]["uid"].clone();
    let name = object["metadata"]["name"].clone();
    let (api_version, kind) = (object["apiVersion"].clone(), object["kind"].clone());
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    match (
        api_version.as_str().unwrap_or_default(),
        kind.as_str().unwrap_or_default(),
    ) {
        ("v1", "Namespace") => {
            // Its name may just have been drawn.
            if minor >= 21 {
                label_with_name(fields);
            }
            let Some(spec) = child(fields, "spec") else { return };
            let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
            if let Some(finalizers) = finalizers.as_array_mut()
                && !finalizers.iter().any(|finalizer| finalizer == "kubernetes")
            {
                finalizers.push("kubernetes".into());
            }
        }
        ("batch/v1", "Job") => {
            let Some(spec) = child(fields, "spec") else { return };
            if spec.get("manualSelector") == Some(&Value::Bool(true)) {
                return;
            }
            if let Some(labels) = child(spec, "template")
                .and_then(|t| child(t, "metadata"))
                .and_then(|m| child(m, "labels"))
            {
                labels.insert("controller-uid".into(), uid.clone());
                labels.insert("job-name".into(), name);
            }
            if let Some(labels) = child(spec, "selector").and_then(|selector| child(selector, "matchLabels"))
            {
                labels.insert("controller-uid".into(), uid);
            }
        }
        _ => {}
    }
    let schema = Schema::builtin(
        api_version.as_str().unwrap_or_default(),
        kind.as_str().unwrap_or_default(),
        minor,
    );
    if let Some(schema) = schema {
        shape(object, &schema);
    }
}

fn is_beta(object: &Fields) -> bool {
    object
        .get("apiVersion")
        .and_then(Value::as_str)
        .is_some_and(|version| version.contains("beta"))
}

fn fill(group: &str, kind: &str, object: &mut Fields, minor: Minor) {
    match (group, kind) {
        ("", "Pod") => pod(object),
        ("", "PodTemplate") => template(object, "template"),
        ("", "ReplicationController") => replication_controller(object),
        ("", "Service") => service(object, minor),
        ("", "Secret") => secret(object),
        ("", "Namespace") => {
            if minor >= 21 {
                label_with_name(object);
            }
            in_child(object, "status", |status| set(status, "phase", "Active"));
        }
        ("", "PersistentVolumeClaim") => {
            in_child(object, "spec", |spec| set(spec, "volumeMode", "Filesystem"));
            in_child(object, "status", |status| set(status, "phase", "Pending"));
        }
        ("", "PersistentVolume") => {
            in_child(object, "spec", |spec| {
                set(spec, "persistentVolumeReclaimPolicy", "Retain");
                set(spec, "volumeMode", "Filesystem");
                volume_source(spec);
            });
            in_child(object, "status", |status| set(status, "phase", "Pending"));
        }
        ("", "Endpoints") => {
            for subset in items(object, "subsets") {
                for port in items(subset, "ports") {
                    set(port, "protocol", "TCP");
                }
            }
        }
        ("", "Node") => {
            in_present(object, "status", |status| {
                if let Some(capacity) = status
                    .get("capacity")
                    .filter(|capacity| !is_unset(capacity))
                    .cloned()
                {
                    set(status, "allocatable", capacity);
                }
            });
        }
        ("", "LimitRange") => in_present(object, "spec", |spec| {
            for limit in items(spec, "limits") {
                limit_range(limit);
            }
        }),
        ("discovery.k8s.io", "EndpointSlice") => {
            for port in items(object, "ports") {
                port.entry("name").or_insert_with(|| "".into());
                set(port, "protocol", "TCP");
            }
        }
        ("networking.k8s.io" | "extensions", "Ingress") if is_beta(object) => {
            in_present(object, "spec", |spec| {
                for rule in items(spec, "rules") {
                    in_present(rule, "http", |http| {
                        for path in items(http, "paths") {
                            set(path, "pathType", "ImplementationSpecific");
                        }
                    });
                }
            });
        }
        ("apps" | "extensions", "Deployment") => deployment(object),
        ("networking.k8s.io", "IngressClass") if minor >= 22 => in_present(object, "spec", |spec| {
            in_present(spec, "parameters", |parameters| {
                set(parameters, "scope", "Cluster");
            });
        }),
        ("apps" | "extensions", "DaemonSet") => daemon_set(object, minor),
        ("apps", "StatefulSet") => stateful_set(object),
        ("apps" | "extensions", "ReplicaSet") => in_child(object, "spec", |spec| {
            set(spec, "replicas", 1);
            template(spec, "template");
        }),
        ("batch", "Job") => job(object, minor),
        ("batch", "CronJob") => in_child(object, "spec", |spec| {
            set(spec, "concurrencyPolicy", "Allow");
            set(spec, "suspend", false);
            set(spec, "successfulJobsHistoryLimit", 3);
            set(spec, "failedJobsHistoryLimit", 1);
            in_present(spec, "jobTemplate", |job| {
                in_present(job, "spec", |spec| template(spec, "template"));
            });
        }),
        (RBAC, "ClusterRoleBinding" | "RoleBinding") => {
            in_child(object, "roleRef", |role| set(role, "apiGroup", RBAC));
            for subject in items(object, "subjects") {
                if matches!(
                    subject.get("kind").and_then(Value::as_str),
                    Some("User" | "Group")
                ) {
                    set(subject, "apiGroup", RBAC);
                }
            }
        }
        ("admissionregistration.k8s.io", _) => webhooks(object, kind == "MutatingWebhookConfiguration"),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => custom_resource_definition(object),
        ("apiregistration.k8s.io", "APIService") => in_child(object, "spec", |spec| {
            in_present(spec, "service", |service| set(service, "port", 443));
        }),
        ("storage.k8s.io", "StorageClass") => {
            set(object, "reclaimPolicy", "Delete");
            set(object, "volumeBindingMode", "Immediate");
        }
        ("storage.k8s.io", "CSIDriver") => in_child(object, "spec", |spec| {
            set(spec, "attachRequired", true);
            set(spec, "podInfoOnMount", false);
            set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            set(spec, "volumeLifecycleModes", json!(["Persistent"]));
            if minor >= 21 {
                set(spec, "storageCapacity", false);
                set(spec, "requiresRepublish", false);
            }
        }),
        ("networking.k8s.io", "NetworkPolicy") => in_child(object, "spec", network_policy),
        ("scheduling.k8s.io", "PriorityClass") => set(object, "preemptionPolicy", "PreemptLowerPriority"),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler(object),
        _ => {}
    }
}

/// Whether Go holds the value as unset: null, or the zero of a type that is no pointer.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Sets a field that is not set.
fn set(fields: &mut Fields, key: &str, value: impl Into<Value>) {
    if fields.get(key).is_none_or(is_unset) {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Sets a number that is no pointer in Go, for which zero is unset.
fn set_number(fields: &mut Fields, key: &str, value: i64) {
    if fields.get(key).is_none_or(|old| is_unset(old) || old == 0) {
        fields.insert(key.to_owned(), value.into());
    }
}

/// The object in a field, made where there is none.
fn child<'a>(fields: &'a mut Fields, key: &str) -> Option<&'a mut Fields> {
    let value = fields.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut()
}

fn in_child(fields: &mut Fields, key: &str, change: impl FnOnce(&mut Fields)) {
    if let Some(child) = child(fields, key) {
        change(child);
    }
}

fn in_present(fields: &mut Fields, key: &str, change: impl FnOnce(&mut Fields)) {
    if let Some(child) = fields.get_mut(key).and_then(Value::as_object_mut) {
        change(child);
    }
}

fn items<'a>(fields: &'a mut Fields, key: &str) -> impl Iterator<Item = &'a mut Fields> + use<'a> {
    fields
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn text<'a>(fields: &'a Fields, key: &str) -> &'a str {
    fields.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn template(fields: &mut Fields, key: &str) {
    in_child(fields, key, |template| in_child(template, "spec", pod_spec));
}

fn pod(object: &mut Fields) {
    in_child(object, "spec", |spec| {
        pod_spec(spec);
        set(spec, "enableServiceLinks", true);
        for list in ["containers", "initContainers"] {
            for container in items(spec, list) {
                in_present(container, "resources", |resources| {
                    let limits = resources.get("limits").and_then(Value::as_object).cloned();
                    let Some(limits) = limits.filter(|limits| !limits.is_empty()) else {
                        return;
                    };
                    in_child(resources, "requests", |requests| {
                        for (name, quantity) in limits {
                            requests.entry(name).or_insert(quantity);
                        }
                    });
                });
            }
        }
    });
}

fn pod_spec(spec: &mut Fields) {
    for volume in items(spec, "volumes") {
        let has_source = volume
            .iter()
            .any(|(key, value)| key != "name" && !value.is_null());
        if !has_source {
            volume.insert("emptyDir".into(), json!({}));
        }
        volume_source(volume);
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for one in items(spec, list) {
            container(one, host_network && list != "ephemeralContainers");
        }
    }
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "restartPolicy", "Always");
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "schedulerName", "default-scheduler");
    // The old name of the service account follows the new one.
    let account = [text(spec, "serviceAccountName"), text(spec, "serviceAccount")]
        .into_iter()
        .find(|name| !name.is_empty())
        .map(str::to_owned);
    if let Some(account) = account {
        spec.insert("serviceAccountName".into(), account.clone().into());
        spec.insert("serviceAccount".into(), account.into());
    }
}

fn container(container: &mut Fields, host_network: bool) {
    let policy = if is_latest(text(container, "image")) {
        "Always"
    } else {
        "IfNotPresent"
    };
    set(container, "imagePullPolicy", policy);
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
    for port in items(container, "ports") {
        set(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
            set_number(port, "hostPort", number);
        }
    }
    for variable in items(container, "env") {
        in_present(variable, "valueFrom", |from| {
            in_present(from, "fieldRef", |reference| set(reference, "apiVersion", "v1"));
        });
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        in_present(container, probe, |probe| {
            set_number(probe, "timeoutSeconds", 1);
            set_number(probe, "periodSeconds", 10);
            set_number(probe, "successThreshold", 1);
            set_number(probe, "failureThreshold", 3);
            in_present(probe, "httpGet", http_get);
            in_present(probe, "grpc", |grpc| set(grpc, "service", ""));
        });
    }
    in_present(container, "lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            in_present(lifecycle, hook, |hook| in_present(hook, "httpGet", http_get));
        }
    });
}

fn http_get(action: &mut Fields) {
    set(action, "path", "/");
    set(action, "scheme", "HTTP");
}

/// Whether an image reference means the tag `latest`: neither another tag nor a digest.
fn is_latest(image: &str) -> bool {
    if image.is_empty() || image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn volume_source(volume: &mut Fields) {
    const FILE_MODE: i64 = 0o644;
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        in_present(volume, source, |source| set(source, "defaultMode", FILE_MODE));
    }
    in_present(volume, "downwardAPI", downward_items);
    in_present(volume, "projected", |projected| {
        for source in items(projected, "sources") {
            in_present(source, "downwardAPI", downward_items);
            in_present(source, "serviceAccountToken", |token| {
                set(token, "expirationSeconds", 3600);
            });
        }
    });
    in_present(volume, "hostPath", |path| {
        path.entry("type").or_insert_with(|| "".into());
    });
    in_present(volume, "iscsi", |iscsi| set(iscsi, "iscsiInterface", "default"));
    in_present(volume, "rbd", |rbd| {
        set(rbd, "pool", "rbd");
        set(rbd, "user", "admin");
        set(rbd, "keyring", "/etc/ceph/keyring");
    });
    in_present(volume, "azureDisk", |disk| {
        set(disk, "cachingMode", "ReadWrite");
        set(disk, "kind", "Shared");
        set(disk, "fsType", "ext4");
        set(disk, "readOnly", false);
    });
    in_present(volume, "scaleIO", |scale| {
        set(scale, "storageMode", "ThinProvisioned");
        set(scale, "fsType", "xfs");
    });
    in_present(volume, "ephemeral", |ephemeral| {
        in_present(ephemeral, "volumeClaimTemplate", |claim| {
            in_child(claim, "spec", |spec| set(spec, "volumeMode", "Filesystem"));
        });
    });
}

fn downward_items(source: &mut Fields) {
    for item in items(source, "items") {
        in_present(item, "fieldRef", |reference| set(reference, "apiVersion", "v1"));
    }
}

fn replication_controller(object: &mut Fields) {
    let labels = template_labels(object);
    in_child(object, "spec", |spec| {
        set(spec, "replicas", 1);
        if let Some(labels) = &labels
            && spec.get("selector").is_none_or(Value::is_null)
        {
            spec.insert("selector".into(), labels.clone());
        }
        if spec.get("template").is_some_and(Value::is_object) {
            template(spec, "template");
        }
    });
    inherit_labels(object, labels);
}

fn template_labels(object: &Fields) -> Option<Value> {
    let labels = object
        .get("spec")?
        .get("template")?
        .get("metadata")?
        .get("labels")?;
    labels.as_object().filter(|labels| !labels.is_empty())?;
    Some(labels.clone())
}

/// A controller without labels takes those of its pods.
fn inherit_labels(object: &mut Fields, labels: Option<Value>) {
    let Some(labels) = labels else { return };
    in_child(object, "metadata", |metadata| {
        let empty = |value: &Value| value.as_object().is_none_or(Map::is_empty);
        if metadata.get("labels").is_none_or(empty) {
            metadata.insert("labels".into(), labels);
        }
    });
}

/// Namespaces are selected by this label, which follows the name whatever is asked for.
fn label_with_name(object: &mut Fields) {
    let name = object.get("metadata").map(|metadata| metadata["name"].clone());
    let Some(name) = name.filter(|name| !is_unset(name)) else {
        return;
    };
    in_child(object, "metadata", |metadata| {
        in_child(metadata, "labels", |labels| {
            labels.insert("kubernetes.io/metadata.name".into(), name);
        });
    });
}

fn service(object: &mut Fields, minor: Minor) {
    in_child(object, "spec", |spec| {
        set(spec, "sessionAffinity", "None");
        match text(spec, "sessionAffinity") {
            "None" => {
                spec.shift_remove("sessionAffinityConfig");
            }
            "ClientIP" => in_child(spec, "sessionAffinityConfig", |config| {
                in_child(config, "clientIP", |client| set(client, "timeoutSeconds", 10800));
            }),
            _ => {}
        }
        set(spec, "type", "ClusterIP");
        for port in items(spec, "ports") {
            set(port, "protocol", "TCP");
            let number = port.get("port").cloned().unwrap_or_default();
            let target = port.get("targetPort");
            if target.is_none_or(|target| is_unset(target) || target == 0) {
                port.insert("targetPort".into(), number);
            }
        }
        if matches!(text(spec, "type"), "NodePort" | "LoadBalancer") {
            set(spec, "externalTrafficPolicy", "Cluster");
        }
        if minor >= 22 {
            if text(spec, "type") == "LoadBalancer" {
                set(spec, "allocateLoadBalancerNodePorts", true);
            }
            if text(spec, "type") != "ExternalName" {
                set(spec, "internalTrafficPolicy", "Cluster");
            }
        }
    });
}

fn secret(object: &mut Fields) {
    use base64::Engine as _;
    set(object, "type", "Opaque");
    let Some(Value::Object(plain)) = object.shift_remove("stringData") else {
        return;
    };
    if plain.is_empty() {
        return;
    }
    in_child(object, "data", |data| {
        for (key, value) in plain {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
    });
}

fn limit_range(limit: &mut Fields) {
    if text(limit, "type") != "Container" {
        return;
    }
    for (from, to) in [
        ("max", "default"),
        ("default", "defaultRequest"),
        ("min", "defaultRequest"),
    ] {
        let Some(source) = limit.get(from).and_then(Value::as_object).cloned() else {
            continue;
        };
        in_child(limit, to, |target| {
            for (name, quantity) in source {
                target.entry(name).or_insert(quantity);
            }
        });
    }
}

fn deployment(object: &mut Fields) {
    in_child(object, "spec", |spec| {
        set(spec, "replicas", 1);
        in_child(spec, "strategy", |strategy| {
            set(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                in_child(strategy, "rollingUpdate", |update| {
                    set(update, "maxUnavailable", "25%");
                    set(update, "maxSurge", "25%");
                });
            }
        });
        set(spec, "revisionHistoryLimit", 10);
        set(spec, "progressDeadlineSeconds", 600);
        template(spec, "template");
    });
}

fn daemon_set(object: &mut Fields, minor: Minor) {
    // A field of the internal type that `apps/v1` shows as an annotation.
    in_child(object, "metadata", |metadata| {
        in_child(metadata, "annotations", |annotations| {
            set(annotations, "deprecated.daemonset.template.generation", "0");
        });
    });
    in_child(object, "spec", |spec| {
        in_child(spec, "updateStrategy", |strategy| {
            set(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                in_child(strategy, "rollingUpdate", |update| {
                    set(update, "maxUnavailable", 1);
                    if minor >= 22 {
                        set(update, "maxSurge", 0);
                    }
                });
            }
        });
        set(spec, "revisionHistoryLimit", 10);
        template(spec, "template");
    });
}

fn stateful_set(object: &mut Fields) {
    in_child(object, "spec", |spec| {
        set(spec, "podManagementPolicy", "OrderedReady");
        in_child(spec, "updateStrategy", |strategy| {
            if text(strategy, "type").is_empty() {
                set(strategy, "type", "RollingUpdate");
                child(strategy, "rollingUpdate");
            }
            if text(strategy, "type") == "RollingUpdate" {
                in_present(strategy, "rollingUpdate", |update| set(update, "partition", 0));
            }
        });
        set(spec, "replicas", 1);
        set(spec, "revisionHistoryLimit", 10);
        template(spec, "template");
        for claim in items(spec, "volumeClaimTemplates") {
            // They are claims of their own: the server writes their type as well.
            set(claim, "apiVersion", "v1");
            set(claim, "kind", "PersistentVolumeClaim");
            in_child(claim, "spec", |spec| set(spec, "volumeMode", "Filesystem"));
            in_child(claim, "status", |status| set(status, "phase", "Pending"));
        }
    });
}

fn job(object: &mut Fields, minor: Minor) {
    let labels = template_labels(object);
    in_child(object, "spec", |spec| {
        let unset = |spec: &Fields, key: &str| spec.get(key).is_none_or(Value::is_null);
        if unset(spec, "completions") && unset(spec, "parallelism") {
            set(spec, "completions", 1);
        }
        set(spec, "parallelism", 1);
        set(spec, "backoffLimit", 6);
        if minor >= 22 {
            set(spec, "completionMode", "NonIndexed");
            set(spec, "suspend", false);
        }
        template(spec, "template");
    });
    inherit_labels(object, labels);
}

fn autoscaler(object: &mut Fields) {
    let has_metrics = object
        .get("metadata")
        .and_then(|metadata| metadata["annotations"].get("autoscaling.alpha.kubernetes.io/metrics"))
        .is_some();
    let is_v1 = text(object, "apiVersion") == "autoscaling/v1";
    in_child(object, "spec", |spec| {
        set(spec, "minReplicas", 1);
        if is_v1 && !has_metrics {
            set(spec, "targetCPUUtilizationPercentage", 80);
        }
    });
}

fn network_policy(spec: &mut Fields) {
    let egress = spec.get("egress").is_some_and(|rules| !is_unset(rules));
    set(
        spec,
        "policyTypes",
        if egress {
            json!(["Ingress", "Egress"])
        } else {
            json!(["Ingress"])
        },
    );
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                set(port, "protocol", "TCP");
            }
        }
    }
}

fn webhooks(object: &mut Fields, mutating: bool) {
    let beta = text(object, "apiVersion").ends_with("/v1beta1");
    for webhook in items(object, "webhooks") {
        set(webhook, "failurePolicy", if beta { "Ignore" } else { "Fail" });
        set(webhook, "matchPolicy", if beta { "Exact" } else { "Equivalent" });
        set(webhook, "namespaceSelector", json!({}));
        set(webhook, "objectSelector", json!({}));
        set(webhook, "timeoutSeconds", if beta { 30 } else { 10 });
        if beta {
            set(webhook, "sideEffects", "Unknown");
            set(webhook, "admissionReviewVersions", json!(["v1beta1"]));
        }
        if mutating {
            set(webhook, "reinvocationPolicy", "Never");
        }
        for rule in items(webhook, "rules") {
            set(rule, "scope", "*");
        }
        in_present(webhook, "clientConfig", |config| {
            in_present(config, "service", |service| set(service, "port", 443));
        });
    }
}

fn custom_resource_definition(object: &mut Fields) {
    let beta = text(object, "apiVersion").ends_with("/v1beta1");
    let mut stored = None;
    in_child(object, "spec", |spec| {
        in_child(spec, "names", |names| {
            let kind = text(names, "kind").to_owned();
            if !kind.is_empty() {
                set(names, "singular", kind.to_lowercase());
                set(names, "listKind", format!("{kind}List"));
            }
        });
        in_child(spec, "conversion", |conversion| {
            set(conversion, "strategy", "None");
            in_present(conversion, "webhook", |webhook| {
                in_present(webhook, "clientConfig", |config| {
                    in_present(config, "service", |service| set(service, "port", 443));
                });
            });
        });
        if beta {
            set(spec, "scope", "Namespaced");
            set(spec, "preserveUnknownFields", true);
            let version = text(spec, "version").to_owned();
            if !version.is_empty() {
                set(
                    spec,
                    "versions",
                    json!([{"name": version, "served": true, "storage": true}]),
                );
            }
            let first = spec
                .get("versions")
                .and_then(|versions| versions[0]["name"].as_str().map(str::to_owned));
            if let Some(first) = first {
                set(spec, "version", first);
            }
        }
        stored = spec
            .get("versions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find(|version| version["storage"] == true)
            .and_then(|version| version["name"].as_str())
            .map(str::to_owned);
    });
    in_child(object, "status", |status| {
        if let Some(stored) = stored {
            set(status, "storedVersions", json!([stored]));
        }
    });
}
