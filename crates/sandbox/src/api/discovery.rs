//! Discovery: which groups, versions and kinds are served.
//!
//! Kubernetes tells all of it in one answer from 1.26 on, to those who ask for that; here it does whatever version is played.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Shared;
use crate::api::request::Request;
use crate::api::respond::{self, Body};
use crate::json::{object, text};
use crate::kinds::{Minor, Resource, compare_versions};
use crate::status::{Result, Status};
use crate::store::State;

const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// Discovery lists the verbs of custom resources in this order.
const CUSTOM_VERBS: &[&str] = &[
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];

/// Kinds that are only ever created, and stored nowhere.
pub(crate) const REVIEWS: &[(&str, &str, &str, bool)] = &[
    ("authentication.k8s.io", "tokenreviews", "TokenReview", false),
    (
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        "LocalSubjectAccessReview",
        true,
    ),
    (
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "subjectaccessreviews",
        "SubjectAccessReview",
        false,
    ),
];

/// All groups with their versions, in the order in which discovery lists them.
fn all_groups(shared: &Shared) -> Vec<(String, Vec<String>)> {
    let mut builtin: Vec<_> = shared
        .builtins
        .groups
        .iter()
        .filter(|group| !group.name.is_empty())
        .collect();
    builtin.sort_by_key(|group| std::cmp::Reverse(group.priority));
    let mut groups: Vec<(String, Vec<String>)> = builtin
        .into_iter()
        .map(|group| {
            (
                group.name.clone(),
                group
                    .versions
                    .iter()
                    .map(|(version, _)| version.clone())
                    .collect(),
            )
        })
        .collect();
    let state = shared.state();
    let mut custom: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for resource in state.custom() {
        let versions = custom.entry(resource.group.clone()).or_default();
        versions.extend(resource.versions.iter().map(|version| version.name.clone()));
    }
    for (group, mut versions) in custom {
        versions.sort_by(|a, b| compare_versions(b, a));
        versions.dedup();
        if !versions.is_empty() && !shared.builtins.has_group(&group) {
            groups.push((group, versions));
        }
    }
    groups
}

fn describe((name, versions): &(String, Vec<String>)) -> Value {
    let versions: Vec<_> = versions
        .iter()
        .map(|version| json!({ "groupVersion": format!("{name}/{version}"), "version": version }))
        .collect();
    json!({ "name": name, "versions": versions, "preferredVersion": versions.first() })
}

pub(crate) fn legacy(shared: &Shared, request: &Request) -> Response<Body> {
    if let Some(version) = wanted_aggregate(request) {
        return aggregate(shared, version, vec![(String::new(), vec!["v1".to_owned()])]);
    }
    let host = request.header("host");
    let address = if host.is_empty() { "sandbox" } else { host };
    respond::json(
        200,
        &json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address }],
        }),
    )
}

pub(crate) fn groups(shared: &Shared, request: &Request) -> Response<Body> {
    if let Some(version) = wanted_aggregate(request) {
        return aggregate(shared, version, all_groups(shared));
    }
    let groups: Vec<_> = all_groups(shared).iter().map(describe).collect();
    respond::json(
        200,
        &json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }),
    )
}

/// The versions of the aggregated form, and what each is called as a media type.
const FORMS: &[(&str, &str)] = &[
    (
        "v2",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    ),
    (
        "v2beta1",
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    ),
];

/// The version of the aggregated form that a client asks for, if it does: the first in its list that there is.
fn wanted_aggregate(request: &Request) -> Option<&'static (&'static str, &'static str)> {
    request.header("accept").split(',').find_map(|wanted| {
        let (media_type, parameters) = wanted.split_once(';')?;
        let has = |wanted: &str| parameters.split(';').any(|parameter| parameter.trim() == wanted);
        let asked = media_type.trim() == "application/json"
            && has("g=apidiscovery.k8s.io")
            && has("as=APIGroupDiscoveryList");
        FORMS
            .iter()
            .find(|(version, _)| asked && has(&format!("v={version}")))
    })
}

/// All kinds of all versions of groups in one answer.
fn aggregate(
    shared: &Shared,
    (form, media_type): &'static (&'static str, &'static str),
    groups: Vec<(String, Vec<String>)>,
) -> Response<Body> {
    let state = shared.state();
    let items: Vec<_> = groups
        .into_iter()
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .into_iter()
                .map(|version| {
                    let listed = listed(shared, &state, &group, &version);
                    json!({
                        "version": version,
                        "resources": aggregated_resources(&listed, &group, &version),
                        "freshness": "Current",
                    })
                })
                .collect();
            json!({ "metadata": { "name": group, "creationTimestamp": null }, "versions": versions })
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{form}"),
        "metadata": {},
        "items": items,
    });
    respond::respond(200, media_type, Bytes::from(list.to_string()))
}

/// Kinds as the aggregated form describes them: each with its subresources in it.
fn aggregated_resources(listed: &[Value], group: &str, version: &str) -> Vec<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for entry in listed {
        let name = text(entry, "name");
        let given = |key: &str, or: &str| match text(entry, key) {
            "" => or.to_owned(),
            given => given.to_owned(),
        };
        let mut described = json!({
            "responseKind": {
                "group": given("group", group),
                "version": given("version", version),
                "kind": entry["kind"],
            },
            "verbs": entry["verbs"],
        });
        if let Some((owner, subresource)) = name.split_once('/') {
            described["subresource"] = subresource.into();
            if let Some(owner) = resources
                .iter_mut()
                .find(|known| text(known, "resource") == owner)
            {
                let all = object(owner).entry("subresources").or_insert_with(|| json!([]));
                all.as_array_mut()
                    .into_iter()
                    .for_each(|all| all.push(described.clone()));
            }
            continue;
        }
        described["resource"] = name.into();
        described["scope"] = if entry["namespaced"] == true {
            "Namespaced"
        } else {
            "Cluster"
        }
        .into();
        described["singularResource"] = given("singularName", &text(entry, "kind").to_lowercase()).into();
        for key in ["shortNames", "categories"] {
            if let Some(names) = entry.get(key) {
                described[key] = names.clone();
            }
        }
        resources.push(described);
    }
    resources
}

pub(crate) fn group(shared: &Shared, name: &str) -> Response<Body> {
    match all_groups(shared).iter().find(|(known, _)| known == name) {
        Some(group) => {
            let mut group = describe(group);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            respond::json(200, &group)
        }
        None => respond::text(404, "404 page not found\n"),
    }
}

pub(crate) fn resources(shared: &Shared, group: &str, version: &str) -> Result<Response<Body>> {
    let listed = listed(shared, &shared.state(), group, version);
    if listed.is_empty() && !is_builtin(shared, group, version) {
        if shared.builtins.has_group(group) {
            return Err(Status::no_such_resource());
        }
        return Ok(respond::text(404, "404 page not found\n"));
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let mut list = json!({ "kind": "APIResourceList" });
    // The two oldest groups leave this out.
    if !matches!(group, "" | "extensions") {
        list["apiVersion"] = "v1".into();
    }
    list["groupVersion"] = group_version.into();
    list["resources"] = listed.into();
    Ok(respond::json(200, &list))
}

fn is_builtin(shared: &Shared, group: &str, version: &str) -> bool {
    let mut groups = shared.builtins.groups.iter();
    groups.any(|known| known.name == group && known.versions.iter().any(|(name, _)| name == version))
}

/// The kinds of a version of a group, and their subresources.
fn listed(shared: &Shared, state: &State, group: &str, version: &str) -> Vec<Value> {
    let mut resources: Vec<_> = shared
        .builtins
        .resources
        .iter()
        .chain(state.custom())
        .filter(|resource| resource.group == group && resource.version(version).is_some())
        .collect();
    if resources.is_empty() && !is_builtin(shared, group, version) {
        return Vec::new();
    }
    resources.sort_by(|a, b| a.plural.cmp(&b.plural));
    let mut listed: Vec<Value> = Vec::new();
    if group.is_empty() {
        listed.push(json!({
            "name": "bindings", "singularName": "", "namespaced": true, "kind": "Binding", "verbs": ["create"],
        }));
        listed.push(json!({
            "name": "componentstatuses", "singularName": "", "namespaced": false, "kind": "ComponentStatus",
            "verbs": ["get", "list"], "shortNames": ["cs"],
        }));
    }
    listed.extend(
        resources
            .iter()
            .flat_map(|resource| describe_resource(resource, version, shared.builtins.minor)),
    );
    for (_, plural, kind, namespaced) in REVIEWS.iter().filter(|(known, ..)| *known == group) {
        listed.push(json!({
            "name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["create"],
        }));
    }
    listed
}

fn describe_resource(resource: &Resource, version: &str, minor: Minor) -> Vec<Value> {
    let verbs: Vec<_> = if resource.is_custom() {
        CUSTOM_VERBS.to_vec()
    } else {
        ALL_VERBS
            .iter()
            .filter(|verb| {
                **verb != "deletecollection" || !(resource.is("", "Namespace") || resource.is("", "Service"))
            })
            .copied()
            .collect()
    };
    let mut main = json!({
        "name": resource.plural,
        "singularName": if resource.is_custom() { resource.singular.as_str() } else { "" },
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs,
    });
    if !resource.short_names.is_empty() {
        main["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        main["categories"] = json!(resource.categories);
    }
    main["storageVersionHash"] = storage_hash(resource, minor).into();
    let mut all = vec![main];
    for subresource in resource.subresources(version) {
        let mut entry = json!({
            "name": format!("{}/{subresource}", resource.plural),
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": resource.kind,
        });
        let (kind, verbs): (Option<(&str, &str, &str)>, &[&str]) = match subresource {
            "scale" => (Some(("autoscaling", "v1", "Scale")), &["get", "patch", "update"]),
            "eviction" => (Some(("policy", "v1beta1", "Eviction")), &["create"]),
            "token" => (Some(("authentication.k8s.io", "v1", "TokenRequest")), &["create"]),
            "binding" => (Some(("", "", "Binding")), &["create"]),
            "finalize" => (None, &["update"]),
            "log" => (None, &["get"]),
            "attach" => (Some(("", "", "PodAttachOptions")), &["create", "get"]),
            "exec" => (Some(("", "", "PodExecOptions")), &["create", "get"]),
            "portforward" => (Some(("", "", "PodPortForwardOptions")), &["create", "get"]),
            "proxy" => (
                Some(("", "", proxy_options(&resource.kind))),
                &["create", "delete", "get", "patch", "update"],
            ),
            _ => (None, &["get", "patch", "update"]),
        };
        if let Some((group, version, kind)) = kind {
            if !group.is_empty() {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            entry["kind"] = kind.into();
        }
        entry["verbs"] = json!(verbs);
        all.push(entry);
    }
    all
}

/// Tells clients when a kind is stored in another version.
fn storage_hash(resource: &Resource, minor: Minor) -> String {
    // Kinds that servers up to 1.21 went on storing in their first version.
    const BETA: &[&str] = &[
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        "customresourcedefinitions.apiextensions.k8s.io",
        "apiservices.apiregistration.k8s.io",
        "certificatesigningrequests.certificates.k8s.io",
        "leases.coordination.k8s.io",
        "ingressclasses.networking.k8s.io",
        "ingresses.networking.k8s.io",
        "runtimeclasses.node.k8s.io",
        "csidrivers.storage.k8s.io",
    ];
    let (_, group) = resource.store.split_once('.').unwrap_or((&resource.store, ""));
    let version = if minor < 22 && BETA.contains(&&*resource.store) {
        "v1beta1"
    } else if group == resource.group {
        &resource.storage_version
    } else {
        "v1"
    };
    let digest = Sha256::digest(format!("{group}/{version}/{}", resource.kind));
    STANDARD.encode(&digest[..8])
}

fn proxy_options(kind: &str) -> &'static str {
    match kind {
        "Node" => "NodeProxyOptions",
        "Pod" => "PodProxyOptions",
        _ => "ServiceProxyOptions",
    }
}

/// The paths that the root lists.
pub(crate) fn paths(shared: &Shared) -> Value {
    let mut paths = vec![
        "/api".to_owned(),
        "/api/v1".to_owned(),
        "/apis".to_owned(),
        "/apis/".to_owned(),
    ];
    for (group, versions) in all_groups(shared) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.extend(["/healthz", "/livez", "/openapi/v2", "/readyz", "/version"].map(str::to_owned));
    json!({ "paths": paths })
}
