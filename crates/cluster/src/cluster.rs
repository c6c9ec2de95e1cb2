//! [`Cluster`]: one object at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use object::{Object, ObjectKey};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::RwLock;
use upgrade::Permission;

use crate::{
    ErrorClass, Failure, ReadError, WriteError,
    discovery::{CONCURRENCY, Discovery, Resource},
    request::{APPLY_PATCH, Content, JSON, JSON_PATCH, MERGE_PATCH, escape, parse, parse_object, send},
    retry, snapshot,
};

/// Who we are in managedFields.
pub const FIELD_MANAGER: &str = upgrade::MANAGER;

/// A cluster. Cheap to clone; clones share what they know of the API.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) client: kube::Client,
    discovery: Arc<RwLock<Option<Arc<Discovery>>>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster")
    }
}

impl Cluster {
    pub fn new(client: kube::Client) -> Self {
        Self {
            client,
            discovery: Arc::default(),
        }
    }

    /// The API server's `gitVersion`, e.g. `v1.20.2`.
    ///
    /// # Errors
    /// The API server cannot be reached or does not accept the caller.
    pub async fn version(&self) -> Result<String, ReadError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            git_version: String,
        }
        let read = async {
            let body = self.fetch("/version", false).await?;
            Ok::<_, Failure>(parse::<Version>(&body)?.git_version)
        };
        read.await.map_err(|failure| ReadError {
            what: "the API server's version".into(),
            failure,
        })
    }

    /// Reads what the API server serves again: needed after CustomResourceDefinitions changed.
    ///
    /// # Errors
    /// The list of groups cannot be read.
    pub async fn rediscover(&self) -> Result<(), ReadError> {
        self.discover_anew().await.map(drop)
    }

    pub(crate) async fn discover_anew(&self) -> Result<Arc<Discovery>, ReadError> {
        let discovery = Discovery::read(&self.client).await.map_err(|failure| ReadError {
            what: "what the API server serves".into(),
            failure,
        })?;
        let discovery = Arc::new(discovery);
        *self.discovery.write().await = Some(discovery.clone());
        Ok(discovery)
    }

    async fn discovered(&self) -> Result<Arc<Discovery>, ReadError> {
        if let Some(discovery) = self.discovery.read().await.as_ref() {
            return Ok(discovery.clone());
        }
        self.discover_anew().await
    }

    /// The versions of a kind, the preferred one first. A kind that is not known may have come since: its group is
    /// asked for once more. Empty when it is not served.
    async fn versions(
        &self,
        group: &str,
        kind: &str,
        version: Option<&str>,
    ) -> Result<Vec<Resource>, ReadError> {
        let known = |discovery: &Discovery| -> Vec<Resource> {
            let all = discovery.versions(group, kind).iter();
            all.filter(|r| version.is_none_or(|v| v == r.served.version))
                .cloned()
                .collect()
        };
        let discovery = self.discovered().await?;
        let found = known(&discovery);
        if !found.is_empty() || group.is_empty() {
            return Ok(found);
        }
        let what = || format!("the resources of {group}");
        let mut slot = self.discovery.write().await;
        let mut fresh = slot.as_deref().unwrap_or(&discovery).clone();
        fresh
            .reread_group(&self.client, group)
            .await
            .map_err(|failure| ReadError {
                what: what(),
                failure,
            })?;
        let found = known(&fresh);
        let unreadable = fresh.unreadable_group(group).map(|u| u.message.clone());
        *slot = Some(Arc::new(fresh));
        match unreadable {
            Some(message) if found.is_empty() => Err(ReadError {
                what: what(),
                failure: Failure::new(ErrorClass::Unavailable, message),
            }),
            _ => Ok(found),
        }
    }

    /// Whether the API server serves a kind. One that is not known may have come since, and is asked for once more.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub async fn serves(&self, group: &str, kind: &str) -> Result<bool, ReadError> {
        Ok(!self.versions(group, kind, None).await?.is_empty())
    }

    /// Reads one object; `None` when it, or its kind, does not exist.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<Object>, ReadError> {
        self.get_any(key, None).await
    }

    /// Reads one object in a version of its group; `None` also when the kind is not served in that version.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn get_in(&self, key: &ObjectKey, version: &str) -> Result<Option<Object>, ReadError> {
        self.get_any(key, Some(version)).await
    }

    async fn get_any(&self, key: &ObjectKey, version: Option<&str>) -> Result<Option<Object>, ReadError> {
        let versions = self.versions(&key.group, &key.kind, version).await?;
        let Some(resource) = versions.first() else {
            return Ok(None);
        };
        let path = resource.path(key.namespace.as_deref(), Some(&key.name));
        let failure = match self
            .fetch(&path, key.is_secret())
            .await
            .and_then(|body| parse_object(&body))
        {
            Ok(object) => return Ok(Some(object)),
            Err(failure) => failure,
        };
        match failure.class {
            // The kind went away since discovery.
            ErrorClass::NotFound | ErrorClass::NotServed => Ok(None),
            ErrorClass::Unknown if !self.is_still_served(&key.group, &key.kind).await? => Ok(None),
            _ => Err(ReadError {
                what: key.to_string(),
                failure,
            }),
        }
    }

    /// Whether a kind that was served is, by what the API server says now.
    async fn is_still_served(&self, group: &str, kind: &str) -> Result<bool, ReadError> {
        let discovery = self.discover_anew().await?;
        Ok(!discovery.versions(group, kind).is_empty())
    }

    /// Reads all objects of a kind, in one namespace or in all. Empty when the kind is not served.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn list(
        &self,
        group: &str,
        kind: &str,
        namespace: Option<&str>,
        label_selector: Option<&str>,
    ) -> Result<Vec<Object>, ReadError> {
        let versions = self.versions(group, kind, None).await?;
        let Some(resource) = versions.first() else {
            return Ok(Vec::new());
        };
        snapshot::list(&self.client, resource, namespace, label_selector)
            .await
            .map_err(|failure| ReadError {
                what: resource.full_name(),
                failure,
            })
    }

    /// All objects in a namespace, of every kind that the API server lists; events left out.
    ///
    /// # Errors
    /// A kind cannot be read.
    pub async fn in_namespace(&self, namespace: &str) -> Result<Vec<Object>, ReadError> {
        let discovery = self.discover_anew().await?;
        let resources = discovery
            .kinds()
            .filter_map(<[Resource]>::first)
            .filter(|resource| {
                resource.is_listable && resource.served.namespaced && !crate::scope::passes(&resource.served)
            });
        let lists: Vec<Vec<Object>> = stream::iter(resources)
            .map(|resource| async move {
                match snapshot::list(&self.client, resource, Some(namespace), None).await {
                    Err(failure) if failure.class == ErrorClass::NotServed => Ok(Vec::new()),
                    read => read.map_err(|failure| ReadError {
                        what: resource.full_name(),
                        failure,
                    }),
                }
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
        Ok(lists.into_iter().flatten().collect())
    }

    /// Server-side apply as [`FIELD_MANAGER`]. `force` takes fields that others own.
    ///
    /// # Errors
    /// See [`ErrorClass`]; a `metadata.resourceVersion` in the body that is no longer so is a conflict.
    pub async fn apply(&self, body: &Value, force: bool) -> Result<Object, WriteError> {
        self.apply_with(body, &format!("force={force}")).await
    }

    /// Asks what an apply would make, without making it (a server-side dry-run).
    ///
    /// # Errors
    /// See [`ErrorClass`]; what the server does not accept is invalid.
    pub async fn try_apply(&self, body: &Value) -> Result<Object, WriteError> {
        self.apply_with(body, "force=true&dryRun=All").await
    }

    async fn apply_with(&self, body: &Value, query: &str) -> Result<Object, WriteError> {
        const VERB: &str = "apply";
        let (key, resource) = self.target(VERB, body).await?;
        let uri = format!(
            "{}?fieldManager={FIELD_MANAGER}&{query}",
            resource.path(key.namespace.as_deref(), Some(&key.name))
        );
        self.write(
            VERB,
            key,
            Method::PATCH,
            &uri,
            Content {
                kind: APPLY_PATCH,
                value: body,
            },
        )
        .await
    }

    /// A JSON merge patch (RFC 7396). A `metadata.resourceVersion` in it guards it.
    ///
    /// # Errors
    /// See [`ErrorClass`].
    pub async fn merge_patch(&self, key: &ObjectKey, patch: &Value) -> Result<Object, WriteError> {
        self.patch(
            key,
            Content {
                kind: MERGE_PATCH,
                value: patch,
            },
        )
        .await
    }

    /// A JSON merge patch of the status, in a version of its group, where it is a resource of its own.
    ///
    /// # Errors
    /// See [`ErrorClass`].
    pub async fn merge_patch_status(
        &self,
        key: &ObjectKey,
        version: &str,
        patch: &Value,
    ) -> Result<Object, WriteError> {
        const VERB: &str = "patch the status of";
        let resource = self.resource(VERB, key, Some(version)).await?;
        let uri = format!(
            "{}/status?fieldManager={FIELD_MANAGER}",
            resource.path(key.namespace.as_deref(), Some(&key.name))
        );
        let content = Content {
            kind: MERGE_PATCH,
            value: patch,
        };
        self.write(VERB, key.clone(), Method::PATCH, &uri, content).await
    }

    /// Replaces an object as a whole. The `metadata.resourceVersion` in it guards it.
    ///
    /// # Errors
    /// See [`ErrorClass`].
    pub async fn replace(&self, body: &Value) -> Result<Object, WriteError> {
        const VERB: &str = "replace";
        let (key, resource) = self.target(VERB, body).await?;
        let uri = format!(
            "{}?fieldManager={FIELD_MANAGER}",
            resource.path(key.namespace.as_deref(), Some(&key.name))
        );
        let content = Content {
            kind: JSON,
            value: body,
        };
        self.write(VERB, key, Method::PUT, &uri, content).await
    }

    /// A JSON patch (RFC 6902).
    ///
    /// # Errors
    /// See [`ErrorClass`].
    pub async fn json_patch(&self, key: &ObjectKey, patch: &Value) -> Result<Object, WriteError> {
        self.patch(
            key,
            Content {
                kind: JSON_PATCH,
                value: patch,
            },
        )
        .await
    }

    async fn patch(&self, key: &ObjectKey, content: Content<'_>) -> Result<Object, WriteError> {
        const VERB: &str = "patch";
        let resource = self.resource(VERB, key, None).await?;
        let uri = format!(
            "{}?fieldManager={FIELD_MANAGER}",
            resource.path(key.namespace.as_deref(), Some(&key.name))
        );
        self.write(VERB, key.clone(), Method::PATCH, &uri, content).await
    }

    /// Creates an object.
    ///
    /// # Errors
    /// [`ErrorClass::AlreadyExists`], and others.
    pub async fn create(&self, body: &Value) -> Result<Object, WriteError> {
        const VERB: &str = "create";
        let (key, resource) = self.target(VERB, body).await?;
        let uri = format!(
            "{}?fieldManager={FIELD_MANAGER}",
            resource.path(key.namespace.as_deref(), None)
        );
        self.write(
            VERB,
            key,
            Method::POST,
            &uri,
            Content {
                kind: JSON,
                value: body,
            },
        )
        .await
    }

    /// Deletes the very object with this UID, its dependents in the background. That it is gone already is fine.
    ///
    /// # Errors
    /// [`ErrorClass::Conflict`] when another object has taken the name, and others.
    pub async fn delete(&self, key: &ObjectKey, uid: &str) -> Result<(), WriteError> {
        const VERB: &str = "delete";
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        });
        let fail = |failure| WriteError {
            verb: VERB,
            object: key.clone(),
            failure,
        };
        let versions = self
            .versions(&key.group, &key.kind, None)
            .await
            .map_err(|e| fail(e.failure))?;
        let Some(resource) = versions.first() else {
            return Ok(());
        };
        check_namespace(key, resource).map_err(fail)?;
        let path = resource.path(key.namespace.as_deref(), Some(&key.name));
        let content = Content {
            kind: JSON,
            value: &options,
        };
        match send(
            &self.client,
            Method::DELETE,
            &path,
            Some(content),
            key.is_secret(),
        )
        .await
        {
            Err(failure) if failure.class != ErrorClass::NotFound => Err(fail(failure)),
            _ => Ok(()),
        }
    }

    /// Asks which of the permissions the caller has. A permission that is held in all namespaces is asked for once.
    ///
    /// # Errors
    /// The API server does not answer the question.
    pub async fn review(&self, permissions: &[Permission]) -> Result<BTreeMap<Permission, bool>, ReadError> {
        let everywhere: BTreeSet<_> = permissions
            .iter()
            .map(|p| Permission {
                namespace: None,
                ..p.clone()
            })
            .collect();
        let mut answers = self.review_each(everywhere).await?;
        let rest = permissions
            .iter()
            .filter(|p| {
                p.namespace.is_some()
                    && !answers[&Permission {
                        namespace: None,
                        ..(*p).clone()
                    }]
            })
            .cloned()
            .collect();
        answers.append(&mut self.review_each(rest).await?);
        Ok(permissions
            .iter()
            .map(|p| {
                let held = |p: &Permission| answers.get(p).copied().unwrap_or_default();
                (
                    p.clone(),
                    held(p)
                        || held(&Permission {
                            namespace: None,
                            ..p.clone()
                        }),
                )
            })
            .collect())
    }

    async fn review_each(
        &self,
        permissions: BTreeSet<Permission>,
    ) -> Result<BTreeMap<Permission, bool>, ReadError> {
        stream::iter(permissions)
            .map(|permission| async move {
                let allowed = self.ask(&permission).await.map_err(|failure| ReadError {
                    what: "the caller's permissions".into(),
                    failure,
                })?;
                Ok((permission, allowed))
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    async fn ask(&self, permission: &Permission) -> Result<bool, Failure> {
        let (resource, subresource) = match permission.resource.split_once('/') {
            Some((resource, subresource)) => (resource, subresource),
            None => (permission.resource.as_str(), ""),
        };
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": permission.verb,
                "group": permission.group,
                "resource": resource,
                "subresource": subresource,
                "namespace": permission.namespace.as_deref().unwrap_or_default(),
                "name": permission.name.as_deref().unwrap_or_default(),
            }},
        });
        let body = self
            .post_review("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review)
            .await?;
        Ok(body
            .pointer("/status/allowed")
            .and_then(Value::as_bool)
            .unwrap_or_default())
    }

    /// The caller's user name, where the API server tells it (Kubernetes 1.28 and later do).
    pub async fn who_am_i(&self) -> Option<String> {
        for version in ["v1", "v1beta1"] {
            let review = json!({"apiVersion": format!("authentication.k8s.io/{version}"), "kind": "SelfSubjectReview"});
            let path = format!("/apis/authentication.k8s.io/{version}/selfsubjectreviews");
            if let Ok(body) = self.post_review(&path, &review).await {
                return body
                    .pointer("/status/userInfo/username")?
                    .as_str()
                    .map(str::to_owned);
            }
        }
        None
    }

    /// Reviews write nothing, so they are tried again like reads.
    async fn post_review(&self, path: &str, review: &Value) -> Result<Value, Failure> {
        let content = Content {
            kind: JSON,
            value: review,
        };
        let post = || send(&self.client, Method::POST, path, Some(content), false);
        parse(&retry::with_backoff(&retry::Policy::READ, post, |_, _| {}).await?)
    }

    async fn fetch(&self, path: &str, secret: bool) -> Result<Vec<u8>, Failure> {
        let get = || send(&self.client, Method::GET, path, None, secret);
        retry::with_backoff(&retry::Policy::READ, get, |_, _| {}).await
    }

    async fn write(
        &self,
        verb: &'static str,
        key: ObjectKey,
        method: Method,
        uri: &str,
        content: Content<'_>,
    ) -> Result<Object, WriteError> {
        let written = send(&self.client, method, uri, Some(content), key.is_secret()).await;
        written
            .and_then(|body| parse_object(&body))
            .map_err(|failure| WriteError {
                verb,
                object: key,
                failure,
            })
    }

    /// Where the object of a body is written.
    async fn target(&self, verb: &'static str, body: &Value) -> Result<(ObjectKey, Resource), WriteError> {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let api_version = text("/apiVersion");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let key = ObjectKey {
            group: group.to_owned(),
            kind: text("/kind").to_owned(),
            namespace: Some(text("/metadata/namespace").to_owned()).filter(|n| !n.is_empty()),
            name: text("/metadata/name").to_owned(),
        };
        if key.name.is_empty() || key.kind.is_empty() || version.is_empty() {
            let failure = Failure::new(
                ErrorClass::Invalid,
                "apiVersion, kind or metadata.name is missing",
            );
            return Err(WriteError {
                verb,
                object: key,
                failure,
            });
        }
        let resource = self.resource(verb, &key, Some(version)).await?;
        Ok((key, resource))
    }

    async fn resource(
        &self,
        verb: &'static str,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<Resource, WriteError> {
        let fail = |failure| WriteError {
            verb,
            object: key.clone(),
            failure,
        };
        let versions = self
            .versions(&key.group, &key.kind, version)
            .await
            .map_err(|e| fail(e.failure))?;
        let Some(resource) = versions.into_iter().next() else {
            let group = if key.group.is_empty() { "core" } else { &key.group };
            let version = version.map(|v| format!("/{v}")).unwrap_or_default();
            return Err(fail(Failure::new(
                ErrorClass::NotServed,
                format!(
                    "the API server does not serve kind {} in {group}{version}",
                    key.kind
                ),
            )));
        };
        check_namespace(key, &resource).map_err(fail)?;
        Ok(resource)
    }

    /// Reads one object of a known resource version as it is, for [`crate::snapshot`].
    pub(crate) async fn read(&self, group: &str, kind: &str, namespace: &str, name: &str) -> Option<Object> {
        self.get(&ObjectKey::namespaced(group, kind, namespace, name))
            .await
            .ok()
            .flatten()
    }
}

/// Without a namespace the URL of a namespaced object would be that of something else.
fn check_namespace(key: &ObjectKey, resource: &Resource) -> Result<(), Failure> {
    if resource.served.namespaced && key.namespace.is_none() {
        return Err(Failure::new(ErrorClass::Invalid, "metadata.namespace is missing"));
    }
    Ok(())
}

/// The query of a list.
pub(crate) fn list_uri(
    resource: &Resource,
    namespace: Option<&str>,
    label_selector: Option<&str>,
    limit: Option<u32>,
    resume: Option<&str>,
) -> String {
    let mut query = Vec::new();
    if let Some(selector) = label_selector.filter(|s| !s.is_empty()) {
        query.push(format!("labelSelector={}", escape(selector)));
    }
    if let Some(limit) = limit {
        query.push(format!("limit={limit}"));
    }
    if let Some(resume) = resume {
        query.push(format!("continue={}", escape(resume)));
    }
    let path = resource.path(namespace, None);
    if query.is_empty() {
        path
    } else {
        format!("{path}?{}", query.join("&"))
    }
}
