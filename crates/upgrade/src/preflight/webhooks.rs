//! Webhooks whose service is gone. With `failurePolicy: Fail` the API server refuses every write that matches one;
//! that is the most common dead end of upgrades.

use std::collections::BTreeSet;

use object::{Object, ObjectKey};
use serde_json::Value;

use super::{
    Context, Labels, LooseVersion, Operation, Write,
    api::{CRD_GROUP, CRD_KIND, definition_of},
    count,
    selector::{labels_at, labels_of, selects, selects_plainly},
    some_of,
};
use crate::{Finding, Snapshot, health, reasons};

const ADMISSION: &str = "admissionregistration.k8s.io";
const CONFIGURATIONS: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

/// What stands behind a webhook's service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    Ready,
    /// Nothing about it was read.
    Unknown,
    /// Nothing answers; the text says why.
    Gone(String),
}

/// Whether something answers at a Service's port, by its Endpoints or EndpointSlices; where neither were read, by
/// the pods that it selects.
pub fn backend(snapshot: &Snapshot, namespace: &str, name: &str, port: i64) -> Backend {
    let key = ObjectKey::namespaced("", "Service", namespace, name);
    let is_unreadable = |resource: &str| snapshot.unreadable.iter().any(|u| u.resource == resource);
    let Some(service) = snapshot.get(&key) else {
        return if is_unreadable("services") {
            Backend::Unknown
        } else {
            Backend::Gone(format!("service {namespace}/{name} does not exist"))
        };
    };
    if service.get_str("/spec/type") == Some("ExternalName") {
        return Backend::Unknown;
    }
    let ports: Vec<i64> = service
        .get("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|p| p.get("port")?.as_i64())
        .collect();
    if !ports.contains(&port) {
        return Backend::Gone(format!("service {namespace}/{name} has no port {port}"));
    }
    let gone = || Backend::Gone(format!("service {namespace}/{name} has no ready endpoint"));
    let verdict = |ready: bool| if ready { Backend::Ready } else { gone() };
    let endpoints = ObjectKey::namespaced("", "Endpoints", namespace, name);
    if let Some(endpoints) = snapshot.get(&endpoints) {
        return verdict(has_addresses(endpoints));
    }
    let mut slices = snapshot
        .objects
        .iter()
        .filter(|(key, _)| {
            key.is("discovery.k8s.io", "EndpointSlice") && key.namespace.as_deref() == Some(namespace)
        })
        .map(|(_, slice)| slice)
        .filter(|slice| slice.label("kubernetes.io/service-name") == Some(name))
        .peekable();
    if slices.peek().is_some() {
        return verdict(slices.any(has_ready_endpoint));
    }
    if is_unreadable("endpoints") {
        return Backend::Unknown;
    }
    let were_read = |group: &str, kind: &str| snapshot.of_kind(group, kind).next().is_some();
    if were_read("", "Endpoints") || were_read("discovery.k8s.io", "EndpointSlice") {
        return gone();
    }
    let selector = labels_at(service.as_value(), "/spec/selector");
    if !were_read("", "Pod") || selector.is_empty() {
        return Backend::Unknown;
    }
    verdict(snapshot.of_kind("", "Pod").any(|pod| {
        pod.namespace() == Some(namespace)
            && selects_plainly(&selector, &labels_of(pod))
            && health::condition(pod, "Ready").is_some_and(|(ready, ..)| ready)
    }))
}

fn array<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn has_addresses(endpoints: &Object) -> bool {
    array(endpoints.as_value(), "subsets").any(|subset| array(subset, "addresses").next().is_some())
}

fn has_ready_endpoint(slice: &Object) -> bool {
    array(slice.as_value(), "endpoints").any(|endpoint| {
        // Absent means ready, by the API's definition.
        endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false))
    })
}

/// One webhook of a configuration, with the service that answers for it.
pub(crate) struct Webhook<'a> {
    pub(crate) configuration: &'a Object,
    pub(crate) value: &'a Value,
}

impl<'a> Webhook<'a> {
    pub(crate) fn name(&self) -> &'a str {
        self.value.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    fn fails_closed(&self) -> bool {
        self.value.get("failurePolicy").and_then(Value::as_str) != Some("Ignore")
    }

    /// The state of what answers. A webhook at a URL is outside of the cluster and cannot be judged.
    pub(crate) fn backend(&self, snapshot: &Snapshot) -> Backend {
        self.value
            .pointer("/clientConfig/service")
            .filter(|service| !service.is_null())
            .map_or(Backend::Unknown, |service| service_backend(snapshot, service))
    }

    /// Namespace and name of its service; empty for a webhook at a URL.
    pub(crate) fn service(&self) -> (&'a str, &'a str) {
        let text = |pointer: &str| {
            self.value
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        (
            text("/clientConfig/service/namespace"),
            text("/clientConfig/service/name"),
        )
    }
}

/// The state behind the `service` of a webhook's clientConfig.
fn service_backend(snapshot: &Snapshot, service: &Value) -> Backend {
    let text = |name: &str| service.get(name).and_then(Value::as_str).unwrap_or_default();
    let port = service.get("port").and_then(Value::as_i64).unwrap_or(443);
    backend(snapshot, text("namespace"), text("name"), port)
}

/// All webhooks of all configurations.
pub(crate) fn webhooks(snapshot: &Snapshot) -> impl Iterator<Item = Webhook<'_>> {
    CONFIGURATIONS
        .into_iter()
        .flat_map(move |kind| snapshot.of_kind(ADMISSION, kind))
        .flat_map(|configuration| {
            array(configuration.as_value(), "webhooks").map(move |value| Webhook { configuration, value })
        })
}

/// One request as webhooks see it.
struct Request<'a> {
    group: &'a str,
    version: &'a str,
    resource: String,
    namespaced: bool,
    operation: Operation,
    /// Labels of the object before and after; one of them is enough for an object selector.
    labels: Vec<Labels>,
    /// Labels of its namespace, or of itself for a namespace. `None` for what is in no namespace: namespace
    /// selectors do not apply to it.
    namespace_labels: Option<Labels>,
}

pub(super) fn check(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for webhook in webhooks(snapshot) {
        if let Backend::Gone(why) = webhook.backend(snapshot) {
            findings.extend(check_webhook(snapshot, context, &webhook, &why));
        }
    }
    findings.extend(check_conversions(snapshot, context));
    findings
}

fn check_webhook(
    snapshot: &Snapshot,
    context: &Context<'_>,
    webhook: &Webhook<'_>,
    why: &str,
) -> Option<Finding> {
    let matched: Vec<&Write> = context
        .writes
        .iter()
        .filter(|write| matches(webhook.value, &request_of(write, snapshot, context)))
        .collect();
    let pods: Vec<&ObjectKey> = context
        .writes
        .iter()
        .filter(|write| pods_of(write, snapshot, context).is_some_and(|r| matches(webhook.value, &r)))
        .map(|write| &write.object)
        .collect();
    let name = webhook.name();
    let (namespace, service) = webhook.service();
    let key = webhook.configuration.key();
    let ours = context.rendered.iter().any(|o| o.key() == key);
    let restored = if ours {
        " (the upgrade brings it back)"
    } else {
        ", and install its application again to have it back"
    };
    let hint = format!(
        "bring the service back (kubectl get endpoints,pods -n {namespace}; the service is {service}); if it is \
         abandoned: kubectl delete {} {}{restored}",
        key.kind.to_lowercase(),
        key.name,
    );
    let timeout = webhook
        .value
        .get("timeoutSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(10);
    let finding = if matched.is_empty() && pods.is_empty() {
        if !webhook.fails_closed() {
            return None;
        }
        let resources = platform_resources(webhook.value);
        if resources.is_empty() {
            return None;
        }
        Finding::warning(
            reasons::WEBHOOK_UNAVAILABLE,
            format!(
                "webhook {name} refuses every change of {}, since {why}; no write of the upgrade depends on it",
                some_of(&resources)
            ),
        )
        .hint(hint)
    } else if !webhook.fails_closed() {
        Finding::info(
            reasons::WEBHOOK_SLOW,
            format!(
                "webhook {name} does not answer, since {why}; it is passed over, but each of {} waits up to {timeout} s for it",
                what_is_written(&matched, &pods)
            ),
        )
        .hint(hint)
    } else {
        Finding::blocker(
            reasons::WEBHOOK_REFUSES_WRITES,
            format!(
                "webhook {name} would refuse {}, since {why}",
                what_is_written(&matched, &pods)
            ),
        )
        .hint(hint)
    };
    Some(finding.on(key))
}

fn what_is_written(matched: &[&Write], pods: &[&ObjectKey]) -> String {
    let writes: Vec<&ObjectKey> = matched.iter().map(|w| &w.object).collect();
    match (writes.is_empty(), pods.is_empty()) {
        (false, true) => format!("{} ({})", count(writes.len(), "write"), some_of(&writes)),
        (true, _) => format!("the new pods of {}", some_of(pods)),
        (false, false) => {
            format!(
                "{} ({}) and the new pods of {}",
                count(writes.len(), "write"),
                some_of(&writes),
                some_of(pods)
            )
        }
    }
}

/// Resources of the platform's own groups that a webhook judges on CREATE or UPDATE, e.g. `users.iam.kubesphere.io`.
fn platform_resources(webhook: &Value) -> Vec<String> {
    let mut found = BTreeSet::new();
    for rule in array(webhook, "rules") {
        if !["CREATE", "UPDATE", "*"]
            .iter()
            .any(|operation| names(rule, "operations", operation))
        {
            continue;
        }
        for group in array(rule, "apiGroups").filter_map(Value::as_str) {
            if group.ends_with(".kubesphere.io") {
                for resource in array(rule, "resources").filter_map(Value::as_str) {
                    found.insert(format!("{resource}.{group}"));
                }
            }
        }
    }
    found.into_iter().collect()
}

fn names(rule: &Value, list: &str, name: &str) -> bool {
    array(rule, list).filter_map(Value::as_str).any(|n| n == name)
}

/// Whether the API server would call a webhook for a request.
fn matches(webhook: &Value, request: &Request<'_>) -> bool {
    // Configurations of webhooks are never subject to webhooks: one could lock itself in.
    if request.group == ADMISSION && request.resource.ends_with("webhookconfigurations") {
        return false;
    }
    let equivalent = webhook.get("matchPolicy").and_then(Value::as_str) != Some("Exact");
    let ruled = array(webhook, "rules").any(|rule| {
        let is = |list: &str, name: &str| names(rule, list, "*") || names(rule, list, name);
        let scope = match rule.get("scope").and_then(Value::as_str) {
            Some("Namespaced") => request.namespaced,
            Some("Cluster") => !request.namespaced,
            _ => true,
        };
        scope
            && is("operations", request.operation.name())
            && is("apiGroups", request.group)
            // By `Equivalent`, a rule for one version of a resource covers its other versions too.
            && (equivalent || is("apiVersions", request.version))
            && array(rule, "resources").filter_map(Value::as_str).any(|pattern| {
                let (resource, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
                (resource == "*" || resource == request.resource) && (subresource.is_empty() || subresource == "*")
            })
    });
    ruled
        && request
            .namespace_labels
            .as_ref()
            .is_none_or(|labels| selects(webhook.get("namespaceSelector"), labels))
        && request
            .labels
            .iter()
            .any(|labels| selects(webhook.get("objectSelector"), labels))
}

/// The request that a write makes.
fn request_of<'a>(write: &'a Write, snapshot: &Snapshot, context: &Context<'_>) -> Request<'a> {
    let key = &write.object;
    let served = snapshot
        .served
        .iter()
        .find(|r| r.group == key.group && r.kind == key.kind);
    let resource = match served {
        Some(served) => served.resource.clone(),
        None => definition_of(snapshot, context.rendered, &key.group, &key.kind)
            .and_then(|definition| definition.get_str("/spec/names/plural").map(str::to_owned))
            .unwrap_or_else(|| format!("{}s", key.kind.to_lowercase())),
    };
    let before = snapshot.get(key).map(labels_of);
    let namespace_labels = match &key.namespace {
        Some(namespace) => Some(namespace_labels(snapshot, context, namespace)),
        None if key.is("", "Namespace") => Some(namespace_labels(snapshot, context, &key.name)),
        None => None,
    };
    Request {
        group: &key.group,
        version: &write.version,
        resource,
        namespaced: key.namespace.is_some(),
        operation: write.operation,
        labels: before.into_iter().chain([write.labels.clone()]).collect(),
        namespace_labels,
    }
}

/// The pods that a written workload makes anew: a webhook that refuses them leaves the workload without any.
fn pods_of<'a>(write: &'a Write, snapshot: &Snapshot, context: &Context<'_>) -> Option<Request<'a>> {
    let key = &write.object;
    let makes_pods = matches!(key.group.as_str(), "apps" | "batch") && write.operation != Operation::Delete;
    let labels = write.pod_labels.clone().filter(|_| makes_pods)?;
    let namespace = key.namespace.as_deref()?;
    Some(Request {
        group: "",
        version: "v1",
        resource: "pods".into(),
        namespaced: true,
        operation: Operation::Create,
        labels: vec![labels],
        namespace_labels: Some(namespace_labels(snapshot, context, namespace)),
    })
}

/// A namespace's labels, live or, when it is yet to be made, as the release has it.
fn namespace_labels(snapshot: &Snapshot, context: &Context<'_>, namespace: &str) -> Labels {
    let key = ObjectKey::cluster("", "Namespace", namespace);
    if let Some(live) = snapshot.get(&key) {
        return labels_of(live);
    }
    let made = context.rendered.iter().find(|o| o.key() == key);
    let mut labels = made.map(|object| labels_of(object)).unwrap_or_default();
    // Since 1.21 the API server sets this one itself.
    if LooseVersion::parse(&snapshot.kubernetes).is_some_and(|v| (v.base.major(), v.base.minor()) >= (1, 21))
    {
        labels.insert("kubernetes.io/metadata.name".into(), namespace.to_owned());
    }
    labels
}

/// A CRD whose conversion webhook is gone cannot be read nor written in its other versions.
fn check_conversions(snapshot: &Snapshot, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for definition in snapshot.of_kind(CRD_GROUP, CRD_KIND) {
        if definition.get_str("/spec/conversion/strategy") != Some("Webhook") {
            continue;
        }
        let Some(service) = definition.get("/spec/conversion/webhook/clientConfig/service") else {
            continue;
        };
        let Backend::Gone(why) = service_backend(snapshot, service) else {
            continue;
        };
        let group = definition.get_str("/spec/group").unwrap_or_default();
        let kind = definition.get_str("/spec/names/kind").unwrap_or_default();
        let written: Vec<&ObjectKey> = context
            .writes
            .iter()
            .map(|w| &w.object)
            .filter(|key| key.is(group, kind))
            .collect();
        let finding = if written.is_empty() {
            Finding::warning(
                reasons::CONVERSION_UNAVAILABLE,
                format!(
                    "its objects cannot be converted between versions, since {why}; no write of the upgrade depends on it"
                ),
            )
        } else {
            Finding::blocker(
                reasons::CONVERSION_UNAVAILABLE,
                format!(
                    "its objects cannot be converted between versions, since {why}; {} ({}) would fail",
                    count(written.len(), "write"),
                    some_of(&written)
                ),
            )
        };
        findings.push(
            finding
                .on(definition.key())
                .hint("bring the service of its conversion webhook back"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::mk::*, *};
    use crate::Severity;

    /// A sound cluster with one webhook more, whose service does not exist.
    fn mk_dead(webhook: Value) -> Snapshot {
        let mut snapshot = mk_sound();
        let mut all = json!({
            "name": "dead.example.org", "failurePolicy": "Fail", "matchPolicy": "Equivalent",
            "clientConfig": {"service": {"namespace": "gone", "name": "gone", "port": 443}},
        });
        all.as_object_mut()
            .unwrap()
            .extend(webhook.as_object().unwrap().clone());
        mk_add(
            &mut snapshot,
            mk(
                "admissionregistration.k8s.io/v1",
                CONFIGURATIONS[1],
                "dead",
                json!({"webhooks": [all]}),
            ),
        );
        snapshot
    }

    fn rule(group: &str, version: &str, resource: &str, operation: &str, scope: &str) -> Value {
        json!([{"apiGroups": [group], "apiVersions": [version], "resources": [resource], "operations": [operation], "scope": scope}])
    }

    fn user(operation: Operation) -> Write {
        Write::of_object(
            &mk("iam.kubesphere.io/v1alpha2", "User", "admin", json!({})),
            operation,
        )
    }

    fn check(webhook: Value, write: Write, expect: Option<(Severity, &str)>) {
        let snapshot = mk_dead(webhook.clone());
        let found = mk_checked(&snapshot, |context| context.writes = vec![write.clone()]);
        assert_eq!(
            found.first().map(|f| (f.severity, f.reason.as_str())),
            expect,
            "{webhook}"
        );
    }

    const REFUSES: Option<(Severity, &str)> = Some((Severity::Blocker, reasons::WEBHOOK_REFUSES_WRITES));

    #[test]
    fn rules_are_matched_as_the_api_server_does() {
        let config_map = |operation| Write::of_object(&mk("v1", "ConfigMap", "n/a", json!({})), operation);
        use Operation::{Create, Delete, Update};
        check(
            json!({"rules": rule("", "v1", "configmaps", "CREATE", "*")}),
            config_map(Create),
            REFUSES,
        );
        check(
            json!({"rules": rule("", "v1", "configmaps", "CREATE", "*")}),
            config_map(Update),
            None,
        );
        check(
            json!({"rules": rule("*", "*", "*", "*", "*")}),
            config_map(Delete),
            REFUSES,
        );
        check(
            json!({"rules": rule("*", "*", "*/*", "*", "*")}),
            config_map(Delete),
            REFUSES,
        );
        check(
            json!({"rules": rule("", "v1", "configmaps/*", "*", "*")}),
            config_map(Update),
            REFUSES,
        );
        check(
            json!({"rules": rule("", "v1", "configmaps/status", "*", "*")}),
            config_map(Update),
            None,
        );
        check(
            json!({"rules": rule("", "v1", "secrets", "*", "*")}),
            config_map(Update),
            None,
        );
        check(
            json!({"rules": rule("apps", "v1", "configmaps", "*", "*")}),
            config_map(Update),
            None,
        );
        check(
            json!({"rules": rule("", "v1", "configmaps", "*", "Cluster")}),
            config_map(Update),
            None,
        );
        check(
            json!({"rules": rule("", "v1", "configmaps", "*", "Namespaced")}),
            config_map(Update),
            REFUSES,
        );
        check(
            json!({"rules": rule("", "v2", "configmaps", "*", "*")}),
            config_map(Update),
            REFUSES,
        );
        check(
            json!({"matchPolicy": "Exact", "rules": rule("", "v2", "configmaps", "*", "*")}),
            config_map(Update),
            None,
        );
        let own = Write::of_object(
            &mk(
                "admissionregistration.k8s.io/v1",
                CONFIGURATIONS[1],
                "a",
                json!({}),
            ),
            Update,
        );
        check(json!({"rules": rule("*", "*", "*", "*", "*")}), own, None);
    }

    #[test]
    fn selectors_narrow_what_a_webhook_judges() {
        let all = rule("*", "*", "*", "*", "*");
        let labelled = |labels: Value| {
            Write::of_object(
                &mk(
                    "v1",
                    "ConfigMap",
                    "kubesphere-system/a",
                    json!({"metadata": {"labels": labels}}),
                ),
                Operation::Create,
            )
        };
        let of_namespace = |name: &str| json!({"rules": all, "namespaceSelector": {"matchLabels": {"kubesphere.io/namespace": name}}});
        check(of_namespace("kubesphere-system"), labelled(json!({})), REFUSES);
        check(of_namespace("other"), labelled(json!({})), None);
        check(of_namespace("other"), user(Operation::Create), REFUSES);
        let of_object = json!({"rules": all, "objectSelector": {"matchLabels": {"a": "1"}}});
        check(of_object.clone(), labelled(json!({"a": "1"})), REFUSES);
        check(of_object, labelled(json!({"a": "2"})), None);
    }

    #[test]
    fn a_namespace_to_come_has_the_labels_that_it_will_get() {
        let namespace = mk(
            "v1",
            "Namespace",
            "new",
            json!({"metadata": {"labels": {"team": "a"}}}),
        );
        let write = Write::of_object(&mk("v1", "ConfigMap", "new/a", json!({})), Operation::Create);
        let check = |kubernetes: &str, label: &str, value: &str, expect: usize| {
            let selector = json!({"matchLabels": {label: value}});
            let mut snapshot =
                mk_dead(json!({"rules": rule("*", "*", "*", "*", "*"), "namespaceSelector": selector}));
            snapshot.kubernetes = kubernetes.into();
            let found = mk_reasons(&snapshot, |context| {
                context.rendered = vec![namespace.clone()];
                context.writes = vec![write.clone()];
            });
            assert_eq!(found, vec![reasons::WEBHOOK_REFUSES_WRITES; expect]);
        };
        check("v1.20.2", "team", "a", 1);
        check("v1.20.2", "team", "b", 0);
        check("v1.20.2", "kubernetes.io/metadata.name", "new", 0);
        check("v1.21.0", "kubernetes.io/metadata.name", "new", 1);
    }

    #[test]
    fn the_users_webhook_blocks_only_a_write_of_users() {
        let users = json!({"name": "users.iam.kubesphere.io", "rules": rule("iam.kubesphere.io", "v1alpha2", "users", "CREATE", "*")});
        check(users.clone(), user(Operation::Create), REFUSES);
        check(
            users,
            user(Operation::Update),
            Some((Severity::Warning, reasons::WEBHOOK_UNAVAILABLE)),
        );
        let foreign = json!({"rules": rule("example.org", "v1", "things", "CREATE", "*")});
        check(foreign, user(Operation::Update), None);
    }

    #[test]
    fn a_webhook_that_is_passed_over_only_costs_time() {
        let ignored = json!({"failurePolicy": "Ignore", "rules": rule("*", "*", "users", "CREATE", "*")});
        check(
            ignored.clone(),
            user(Operation::Create),
            Some((Severity::Info, reasons::WEBHOOK_SLOW)),
        );
        check(ignored, user(Operation::Update), None);
    }

    #[test]
    fn pods_of_written_workloads_pass_webhooks_too() {
        let write = |labels: Value| {
            Write::of_object(
                &mk(
                    "apps/v1",
                    "Deployment",
                    "n/a",
                    json!({"spec": {"template": {"metadata": {"labels": labels}}}}),
                ),
                Operation::Update,
            )
        };
        let pods = json!({"rules": rule("", "v1", "pods", "CREATE", "*"), "objectSelector": {"matchLabels": {"inject": "yes"}}});
        check(pods.clone(), write(json!({"inject": "yes"})), REFUSES);
        check(pods, write(json!({})), None);
    }

    #[test]
    fn the_remedy_is_exact() {
        let snapshot = mk_dead(json!({"rules": rule("*", "*", "users", "CREATE", "*")}));
        let found = mk_checked(&snapshot, |context| {
            context.writes = vec![user(Operation::Create)];
        });
        assert_eq!(
            found[0].message,
            "webhook dead.example.org would refuse 1 write (User admin), since service gone/gone does not exist"
        );
        let hint = found[0].hint.as_deref().unwrap();
        assert!(
            hint.contains("kubectl delete validatingwebhookconfiguration dead"),
            "{hint}"
        );
    }

    #[test]
    fn a_backend_is_judged_by_what_was_read() {
        let service = || {
            mk(
                "v1",
                "Service",
                "n/s",
                json!({"spec": {"ports": [{"port": 443}], "selector": {"app": "a"}}}),
            )
        };
        let endpoints = |addresses: Value| {
            mk(
                "v1",
                "Endpoints",
                "n/s",
                json!({"subsets": [{"addresses": addresses, "notReadyAddresses": [{"ip": "b"}]}]}),
            )
        };
        let slice = |ready: Value| {
            mk(
                "discovery.k8s.io/v1",
                "EndpointSlice",
                "n/s-1",
                json!({"metadata": {"labels": {"kubernetes.io/service-name": "s"}}, "endpoints": [{"conditions": {"ready": ready}}]}),
            )
        };
        let pod = |ready: &str| {
            mk(
                "v1",
                "Pod",
                "n/p",
                json!({"metadata": {"labels": {"app": "a"}}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
            )
        };
        let other = || mk("v1", "Endpoints", "n/other", json!({}));
        let check = |objects: Vec<Object>, port: i64, expect: &str| {
            let found = backend(&Snapshot::from_objects("v1.20.2", objects), "n", "s", port);
            let found = match found {
                Backend::Ready => "ready".to_owned(),
                Backend::Unknown => "unknown".to_owned(),
                Backend::Gone(why) => why,
            };
            assert_eq!(found, expect);
        };
        let none = "service n/s has no ready endpoint";
        check(vec![], 443, "service n/s does not exist");
        check(vec![service()], 8443, "service n/s has no port 8443");
        check(vec![service()], 443, "unknown");
        check(vec![service(), endpoints(json!([{"ip": "a"}]))], 443, "ready");
        check(vec![service(), endpoints(json!([]))], 443, none);
        check(vec![service(), slice(json!(true))], 443, "ready");
        check(vec![service(), slice(Value::Null)], 443, "ready");
        check(vec![service(), slice(json!(false))], 443, none);
        check(vec![service(), other()], 443, none);
        check(vec![service(), pod("True")], 443, "ready");
        check(vec![service(), pod("False")], 443, none);
    }

    #[test]
    fn a_conversion_webhook_that_is_gone_blocks_writes_of_its_objects() {
        let mut snapshot = mk_sound();
        mk_add(
            &mut snapshot,
            mk(
                "apiextensions.k8s.io/v1",
                CRD_KIND,
                "things.example.org",
                json!({"spec": {"group": "example.org", "names": {"kind": "Thing", "plural": "things"}, "versions": [],
                    "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"service": {"namespace": "n", "name": "gone"}}}}}}),
            ),
        );
        let found = mk_checked(&snapshot, |_| {});
        assert_eq!(
            (found[0].severity, found[0].reason.as_str()),
            (Severity::Warning, reasons::CONVERSION_UNAVAILABLE)
        );
        let thing = Write::of_object(&mk("example.org/v1", "Thing", "a", json!({})), Operation::Create);
        let found = mk_checked(&snapshot, |context| context.writes = vec![thing.clone()]);
        assert_eq!(found[0].severity, Severity::Blocker);
    }
}
