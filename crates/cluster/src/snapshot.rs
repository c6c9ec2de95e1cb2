//! Everything that matters, read once, side by side, in pages.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt as _, stream};
use http::Method;
use object::{Object, ObjectKey};
use serde::Deserialize;
use serde_json::Value;
use upgrade::{Snapshot, Unreadable};

use crate::{
    Cluster, ErrorClass, Failure, ReadError, Scope,
    cluster::list_uri,
    discovery::{CONCURRENCY, Resource},
    request::{parse, send},
    retry,
    scope::{KNOWN_NAMESPACES, Reach},
};

/// Objects a page.
const PAGE: u32 = 500;
/// How often a list is begun anew because it took so long that its continue token expired. After that it is read
/// in one piece.
const RESTARTS: u32 = 2;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    // Null where there are none.
    items: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    resume: String,
}

/// Reads all objects of a resource, page by page.
pub(crate) async fn list(
    client: &kube::Client,
    resource: &Resource,
    namespace: Option<&str>,
    label_selector: Option<&str>,
) -> Result<Vec<Object>, Failure> {
    let secret = resource.served.group.is_empty() && resource.served.kind == "Secret";
    let mut objects = Vec::new();
    let mut resume: Option<String> = None;
    let mut restarts = 0;
    loop {
        let limit = (restarts <= RESTARTS).then_some(PAGE);
        let uri = list_uri(resource, namespace, label_selector, limit, resume.as_deref());
        let get = || send(client, Method::GET, &uri, None, secret);
        let body = match retry::with_backoff(&retry::Policy::READ, get, |_, _| {}).await {
            Ok(body) => body,
            // What was read so far is of a state that is no longer to be had.
            Err(failure) if failure.class == ErrorClass::Expired && resume.is_some() => {
                objects.clear();
                resume = None;
                restarts += 1;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let page: Page = parse(&body)?;
        drop(body);
        for item in page.items.unwrap_or_default() {
            objects.push(to_object(item, resource)?);
        }
        if page.metadata.resume.is_empty() {
            return Ok(objects);
        }
        resume = Some(page.metadata.resume);
    }
}

/// Items of a list do not say what they are.
fn to_object(mut item: Value, resource: &Resource) -> Result<Object, Failure> {
    if let Some(map) = item.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
        map.shift_insert(0, "apiVersion".into(), resource.api_version().into());
        map.shift_insert(1, "kind".into(), resource.served.kind.clone().into());
    }
    Object::try_from(item).map_err(|error| {
        Failure::new(
            ErrorClass::Other,
            format!("the list holds what is no object: {error}"),
        )
    })
}

/// Reads in the preferred version; where the server cannot convert to it, in another one.
async fn list_any(
    client: &kube::Client,
    versions: &[Resource],
    namespace: Option<&str>,
) -> Result<Vec<Object>, Failure> {
    let mut first = None;
    for resource in versions.iter().filter(|r| r.is_listable) {
        // Backups that are kept as Secrets are large, and no part of what is there.
        let is_secret = resource.served.group.is_empty() && resource.served.kind == "Secret";
        let selector = is_secret.then(|| format!("!{}", crate::store::LABEL));
        match list(client, resource, namespace, selector.as_deref()).await {
            Ok(objects) => return Ok(objects),
            // Removed since discovery, and so are its objects.
            Err(failure) if failure.class == ErrorClass::NotServed => return Ok(Vec::new()),
            Err(failure)
                if matches!(failure.class, ErrorClass::WebhookRefused { .. })
                    || failure.status == Some(500) =>
            {
                first.get_or_insert(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    first.map_or(Ok(Vec::new()), Err)
}

impl Cluster {
    /// Reads what is in scope. What cannot be read stands in [`Snapshot::unreadable`].
    ///
    /// # Errors
    /// The API server cannot be reached at all, or does not accept the caller.
    pub async fn snapshot(&self, scope: &Scope) -> Result<Snapshot, ReadError> {
        let (kubernetes, discovery) = futures::try_join!(self.version(), self.discover_anew())?;
        let mut unreadable: BTreeSet<Unreadable> = discovery.unreadable.iter().cloned().collect();
        let mut objects = BTreeMap::new();

        let mut platform: Vec<String> = KNOWN_NAMESPACES.iter().map(|n| (*n).to_owned()).collect();
        match list_any(&self.client, discovery.versions("", "Namespace"), None).await {
            Ok(namespaces) => {
                let own = namespaces
                    .iter()
                    .filter(|namespace| scope.has_namespace(namespace));
                platform = own.map(|namespace| namespace.name().to_owned()).collect();
                keep(&mut objects, namespaces);
            }
            Err(failure) => note(&mut unreadable, "namespaces", None, failure)?,
        }

        let mut lists: Vec<(&[Resource], Option<&str>)> = Vec::new();
        for versions in discovery.kinds() {
            let Some(resource) = versions.first() else {
                continue;
            };
            if resource.served.group.is_empty() && resource.served.kind == "Namespace" {
                continue;
            }
            match scope.reach(resource) {
                Reach::Everywhere => lists.push((versions, None)),
                Reach::PlatformNamespaces => {
                    lists.extend(
                        platform
                            .iter()
                            .map(|namespace| (versions, Some(namespace.as_str()))),
                    );
                }
                Reach::Nowhere => {}
            }
        }
        let mut reads = stream::iter(lists)
            .map(|(versions, namespace)| async move {
                (
                    versions,
                    namespace,
                    list_any(&self.client, versions, namespace).await,
                )
            })
            .buffer_unordered(CONCURRENCY);
        while let Some((versions, namespace, read)) = reads.next().await {
            match read {
                Ok(read) => keep(&mut objects, read),
                Err(failure) => note(&mut unreadable, &versions[0].full_name(), namespace, failure)?,
            }
        }
        drop(reads);

        let outside = services_behind_webhooks(objects.values().map(AsRef::as_ref), &platform);
        let services: Vec<_> = stream::iter(outside)
            .map(|(namespace, name)| async move {
                futures::join!(
                    self.read("", "Service", &namespace, &name),
                    self.read("", "Endpoints", &namespace, &name)
                )
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for (service, endpoints) in services {
            keep(&mut objects, service.into_iter().chain(endpoints));
        }

        Ok(Snapshot {
            kubernetes,
            objects,
            served: discovery.served(),
            unreadable: unreadable.into_iter().collect(),
        })
    }
}

fn keep(objects: &mut BTreeMap<ObjectKey, Arc<Object>>, read: impl IntoIterator<Item = Object>) {
    objects.extend(read.into_iter().map(|object| (object.key(), Arc::new(object))));
}

/// Notes what could not be read; an error when nothing else can be read either.
fn note(
    unreadable: &mut BTreeSet<Unreadable>,
    resource: &str,
    namespace: Option<&str>,
    failure: Failure,
) -> Result<(), ReadError> {
    if failure.is_unreachable() || failure.class == ErrorClass::Unauthorized {
        return Err(ReadError {
            what: resource.to_owned(),
            failure,
        });
    }
    let message = match namespace {
        Some(namespace) => format!("in namespace {namespace}: {}", failure.message),
        None => failure.message,
    };
    unreadable.insert(Unreadable {
        resource: resource.to_owned(),
        message,
    });
    Ok(())
}

/// Namespace and name of the services that webhooks in front of our writes need and that are not read anyway.
/// Whether they are there decides whether a write can succeed.
fn services_behind_webhooks<'a>(
    objects: impl Iterator<Item = &'a Object>,
    platform: &[String],
) -> BTreeSet<(String, String)> {
    objects
        .flat_map(|object| {
            let configs: Vec<&Value> = match (object.group(), object.kind()) {
                ("admissionregistration.k8s.io", _) => object
                    .get("/webhooks")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(|webhook| webhook.pointer("/clientConfig/service"))
                    .collect(),
                ("apiextensions.k8s.io", _) => object
                    .get("/spec/conversion/webhook/clientConfig/service")
                    .into_iter()
                    .collect(),
                _ => Vec::new(),
            };
            configs.into_iter().filter_map(|service| {
                let text = |name: &str| service.get(name).and_then(Value::as_str).map(str::to_owned);
                Some((text("namespace")?, text("name")?))
            })
        })
        .filter(|(namespace, _)| !platform.contains(namespace))
        .collect()
}
