//! Everything that matters, read once, side by side, in pages.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{Stream, StreamExt as _, stream};
use http::Method;
use object::{Object, ObjectKey};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use upgrade::{Snapshot, Unreadable};

use crate::{
    Cluster, ErrorClass, Failure, ReadError, Scope,
    cluster::list_uri,
    discovery::{CONCURRENCY, Discovery, Resource},
    request::{parse, send},
    retry,
    scope::{KNOWN_NAMESPACES, Reach},
};

/// Objects a page.
const PAGE: u32 = 500;
/// Objects a page where pages are passed on, and how many lists are under way at once then: so much is in memory.
const SMALL_PAGE: u32 = 250;
const STREAMS: usize = 4;
/// How often a list is begun anew because it took so long that its continue token expired. After that it is read
/// in one piece.
const RESTARTS: u32 = 2;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<T> {
    #[serde(default)]
    metadata: PageMetadata,
    // Null where there are none.
    items: Option<Vec<T>>,
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
        let page: Page<Value> = parse(&body)?;
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
        match list(client, resource, namespace, selector(resource).as_deref()).await {
            Ok(objects) => return Ok(objects),
            // Removed since discovery, and so are its objects.
            Err(failure) if failure.class == ErrorClass::NotServed => return Ok(Vec::new()),
            Err(failure) if is_of_version(&failure) && is_converted(resource) => {
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
        let (kubernetes, survey) = futures::try_join!(self.version(), self.survey(scope))?;
        let Survey {
            discovery,
            namespaces,
            platform,
            mut unreadable,
        } = survey;
        let mut objects = BTreeMap::new();
        keep(&mut objects, namespaces);
        let mut reads = stream::iter(lists(&discovery, scope, &platform))
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

        let mut outside = BTreeSet::new();
        for object in objects.values() {
            services_behind_webhooks(object, &platform, &mut outside);
        }
        keep(&mut objects, self.services(outside).await);

        Ok(Snapshot {
            kubernetes,
            objects,
            served: discovery.served(),
            unreadable: unreadable.into_iter().collect(),
        })
    }

    /// Reads what is in scope and keeps nothing: `take` gets every object as it comes. A list that is begun anew, since its
    /// continue token expired, brings objects again. Returns what could not be read.
    ///
    /// # Errors
    /// The API server cannot be reached at all, or does not accept the caller; or what `take` returned.
    pub async fn visit<E: From<ReadError>>(
        &self,
        scope: &Scope,
        mut take: impl FnMut(Object) -> Result<(), E>,
    ) -> Result<Vec<Unreadable>, E> {
        let Survey {
            discovery,
            namespaces,
            platform,
            mut unreadable,
        } = self.survey(scope).await?;
        for namespace in namespaces {
            take(namespace)?;
        }
        let walks = lists(&discovery, scope, &platform)
            .into_iter()
            .map(|(versions, namespace)| Box::pin(pages(&self.client, versions, namespace)));
        let mut pages = stream::iter(walks).flatten_unordered(STREAMS);
        let mut outside = BTreeSet::new();
        while let Some(page) = pages.next().await {
            let (resource, namespace) = (page.resource, page.namespace);
            let items = match page.items {
                Ok(items) => items,
                Err(failure) => {
                    note(&mut unreadable, &resource.full_name(), namespace, failure)?;
                    continue;
                }
            };
            for item in items {
                let object = parse::<Value>(item.get().as_bytes())
                    .and_then(|item| to_object(item, resource))
                    .map_err(|failure| ReadError {
                        what: resource.full_name(),
                        failure,
                    })?;
                services_behind_webhooks(&object, &platform, &mut outside);
                take(object)?;
            }
        }
        drop(pages);
        for object in self.services(outside).await {
            take(object)?;
        }
        Ok(unreadable.into_iter().collect())
    }

    async fn survey(&self, scope: &Scope) -> Result<Survey, ReadError> {
        let discovery = self.discover_anew().await?;
        let mut unreadable: BTreeSet<Unreadable> = discovery.unreadable.iter().cloned().collect();
        let mut platform: Vec<String> = KNOWN_NAMESPACES.iter().map(|n| (*n).to_owned()).collect();
        let mut namespaces = Vec::new();
        match list_any(&self.client, discovery.versions("", "Namespace"), None).await {
            Ok(read) => {
                let own = read.iter().filter(|namespace| scope.has_namespace(namespace));
                platform = own.map(|namespace| namespace.name().to_owned()).collect();
                namespaces = read;
            }
            Err(failure) => note(&mut unreadable, "namespaces", None, failure)?,
        }
        Ok(Survey {
            discovery,
            namespaces,
            platform,
            unreadable,
        })
    }

    /// Services with their Endpoints.
    async fn services(&self, names: BTreeSet<(String, String)>) -> Vec<Object> {
        let read: Vec<_> = stream::iter(names)
            .map(|(namespace, name)| async move {
                futures::join!(
                    self.read("", "Service", &namespace, &name),
                    self.read("", "Endpoints", &namespace, &name)
                )
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let both = read
            .into_iter()
            .map(|(service, endpoints)| service.into_iter().chain(endpoints));
        both.flatten().collect()
    }
}

/// What there is to read.
struct Survey {
    discovery: Arc<Discovery>,
    namespaces: Vec<Object>,
    /// Names of the platform's own namespaces.
    platform: Vec<String>,
    unreadable: BTreeSet<Unreadable>,
}

/// What is to be listed, but for the namespaces: a resource with its versions, in a namespace or in all.
fn lists<'a>(
    discovery: &'a Discovery,
    scope: &Scope,
    platform: &'a [String],
) -> Vec<(&'a [Resource], Option<&'a str>)> {
    let mut lists = Vec::new();
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
    lists
}

/// A page of a list, its items as they came.
struct Read<'a> {
    resource: &'a Resource,
    namespace: Option<&'a str>,
    items: Result<Vec<Box<RawValue>>, Failure>,
}

/// Where a list is that is read page by page.
struct Walk<'a> {
    /// The version that is read, and those that are left in case that the server cannot convert to it.
    versions: std::iter::Peekable<std::slice::Iter<'a, Resource>>,
    resume: Option<String>,
    restarts: u32,
}

/// The pages of a list, in the preferred version; where the server cannot convert to it, in another one.
fn pages<'a>(
    client: &'a kube::Client,
    versions: &'a [Resource],
    namespace: Option<&'a str>,
) -> impl Stream<Item = Read<'a>> {
    let walk = Walk {
        versions: versions.iter().peekable(),
        resume: None,
        restarts: 0,
    };
    stream::unfold(Some(walk), move |walk| async move {
        let mut walk = walk?;
        while walk.versions.next_if(|resource| !resource.is_listable).is_some() {}
        let mut first = None;
        while let Some(&resource) = walk.versions.peek() {
            let limit = (walk.restarts <= RESTARTS).then_some(SMALL_PAGE);
            let selector = selector(resource);
            let resume = walk.resume.take();
            let uri = list_uri(resource, namespace, selector.as_deref(), limit, resume.as_deref());
            let is_secret = resource.served.group.is_empty() && resource.served.kind == "Secret";
            let get = || send(client, Method::GET, &uri, None, is_secret);
            let read = retry::with_backoff(&retry::Policy::READ, get, |_, _| {}).await;
            let page = match read.and_then(|body| parse::<Page<Box<RawValue>>>(&body)) {
                Ok(page) => page,
                // What was read so far is of a state that is no longer to be had.
                Err(failure) if failure.class == ErrorClass::Expired && resume.is_some() => {
                    walk.restarts += 1;
                    continue;
                }
                // Removed since discovery, and so are its objects.
                Err(failure) if failure.class == ErrorClass::NotServed => return None,
                Err(failure) if is_of_version(&failure) => {
                    first.get_or_insert((resource, failure));
                    walk.versions.next();
                    while walk.versions.next_if(|resource| !resource.is_listable).is_some() {}
                    continue;
                }
                Err(failure) => {
                    let items = Err(failure);
                    return Some((
                        Read {
                            resource,
                            namespace,
                            items,
                        },
                        None,
                    ));
                }
            };
            let items = Ok(page.items.unwrap_or_default());
            let is_last = page.metadata.resume.is_empty();
            walk.resume = Some(page.metadata.resume);
            return Some((
                Read {
                    resource,
                    namespace,
                    items,
                },
                (!is_last).then_some(walk),
            ));
        }
        let (resource, failure) = first?;
        let items = Err(failure);
        Some((
            Read {
                resource,
                namespace,
                items,
            },
            None,
        ))
    })
}

/// Whether objects may have to be converted by somebody who fails. Kubernetes' own kinds never have: in another version they look
/// otherwise, and would be taken for changed.
fn is_converted(resource: &Resource) -> bool {
    let group = &resource.served.group;
    upgrade::is_custom(group) || crate::scope::is_platform_group(group)
}

/// Whether another version may be readable.
fn is_of_version(failure: &Failure) -> bool {
    matches!(failure.class, ErrorClass::WebhookRefused { .. }) || failure.status == Some(500)
}

/// Backups that are kept as Secrets are large, and no part of what is there.
fn selector(resource: &Resource) -> Option<String> {
    let is_secret = resource.served.group.is_empty() && resource.served.kind == "Secret";
    is_secret.then(|| format!("!{}", crate::store::LABEL))
}

fn keep(objects: &mut BTreeMap<ObjectKey, Object>, read: impl IntoIterator<Item = Object>) {
    objects.extend(read.into_iter().map(|object| (object.key(), object)));
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

/// Notes namespace and name of the services that webhooks in front of our writes need and that are not read anyway.
/// Whether they are there decides whether a write can succeed.
fn services_behind_webhooks(object: &Object, platform: &[String], found: &mut BTreeSet<(String, String)>) {
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
        _ => return,
    };
    let named = configs.into_iter().filter_map(|service| {
        let text = |name: &str| service.get(name).and_then(Value::as_str).map(str::to_owned);
        Some((text("namespace")?, text("name")?))
    });
    found.extend(named.filter(|(namespace, _)| !platform.contains(namespace)));
}
