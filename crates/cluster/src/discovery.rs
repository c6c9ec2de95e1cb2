//! What the API server serves.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, stream};
use http::Method;
use serde::Deserialize;
use upgrade::{ServedResource, Unreadable};

use crate::{
    Failure,
    request::{escape, parse, send},
    retry,
};

/// How many requests are under way at once.
pub(crate) const CONCURRENCY: usize = 16;

/// One resource in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub served: ServedResource,
    pub is_listable: bool,
}

impl Resource {
    pub(crate) fn api_version(&self) -> String {
        match self.served.group.as_str() {
            "" => self.served.version.clone(),
            group => format!("{group}/{}", self.served.version),
        }
    }

    /// `globalroles.iam.kubesphere.io`
    pub(crate) fn full_name(&self) -> String {
        match self.served.group.as_str() {
            "" => self.served.resource.clone(),
            group => format!("{}.{group}", self.served.resource),
        }
    }

    /// The path of the collection, or of one object.
    pub(crate) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = match self.served.group.as_str() {
            "" => format!("/api/{}", self.served.version),
            group => format!("/apis/{group}/{}", self.served.version),
        };
        if let Some(namespace) = namespace.filter(|_| self.served.namespaced) {
            path.push_str("/namespaces/");
            path.push_str(&escape(namespace));
        }
        path.push('/');
        path.push_str(&self.served.resource);
        if let Some(name) = name {
            path.push('/');
            path.push_str(&escape(name));
        }
        path
    }
}

/// All resources by group and kind, the version that the server prefers first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Discovery {
    kinds: BTreeMap<(String, String), Vec<Resource>>,
    pub unreadable: Vec<Unreadable>,
}

#[derive(Deserialize)]
struct CoreVersions {
    #[serde(default)]
    versions: Vec<String>,
}

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    #[serde(default)]
    versions: Vec<GroupVersion>,
    preferred_version: Option<GroupVersion>,
}

#[derive(Deserialize, PartialEq, Eq)]
struct GroupVersion {
    version: String,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<ApiResource>,
}

#[derive(Deserialize)]
struct ApiResource {
    name: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

impl Group {
    /// The preferred version first, the others as the server lists them.
    fn into_versions(mut self) -> Vec<(String, String)> {
        if let Some(preferred) = self.preferred_version {
            self.versions.retain(|v| *v != preferred);
            self.versions.insert(0, preferred);
        }
        self.versions
            .into_iter()
            .map(|v| (self.name.clone(), v.version))
            .collect()
    }
}

impl Discovery {
    /// Asks for everything. A group that does not answer is recorded; that the list of groups cannot be read is
    /// an error.
    pub(crate) async fn read(client: &kube::Client) -> Result<Self, Failure> {
        let (core, groups) = futures::try_join!(
            fetch::<CoreVersions>(client, "/api".to_owned()),
            fetch::<GroupList>(client, "/apis".to_owned()),
        )?;
        let versions = core
            .versions
            .into_iter()
            .map(|version| (String::new(), version))
            .chain(groups.groups.into_iter().flat_map(Group::into_versions));
        let mut discovery = Self::default();
        discovery.add(client, versions.collect()).await;
        Ok(discovery)
    }

    /// Asks again for one group, which may have come or changed since. The core group never does.
    pub(crate) async fn reread_group(&mut self, client: &kube::Client, group: &str) -> Result<(), Failure> {
        if group.is_empty() {
            return Ok(());
        }
        let versions = match fetch::<Group>(client, format!("/apis/{}", escape(group))).await {
            Ok(group) => group.into_versions(),
            Err(failure) if failure.status == Some(404) => Vec::new(),
            Err(failure) => return Err(failure),
        };
        self.kinds.retain(|(g, _), _| g != group);
        self.unreadable
            .retain(|u| u.resource.split('/').next() != Some(group));
        self.add(client, versions).await;
        Ok(())
    }

    async fn add(&mut self, client: &kube::Client, versions: Vec<(String, String)>) {
        // Ordered, so that preferred versions stay in front.
        let answers: Vec<_> = stream::iter(versions)
            .map(|(group, version)| async move {
                let path = match group.as_str() {
                    "" => format!("/api/{version}"),
                    group => format!("/apis/{group}/{version}"),
                };
                let list = fetch::<ResourceList>(client, path).await;
                (group, version, list)
            })
            .buffered(CONCURRENCY)
            .collect()
            .await;
        let mut half_known = BTreeSet::new();
        for (group, version, list) in answers {
            match list {
                Ok(list) => self.insert(&group, &version, list),
                // Gone between the two requests.
                Err(failure) if failure.status == Some(404) => {}
                Err(failure) => {
                    self.unreadable.push(Unreadable {
                        resource: format!("{group}/{version}"),
                        message: failure.message,
                    });
                    half_known.insert(group);
                }
            }
        }
        // In another version than the preferred one objects look otherwise, and would be taken for changed.
        self.kinds.retain(|(group, _), _| !half_known.contains(group));
    }

    fn insert(&mut self, group: &str, version: &str, list: ResourceList) {
        for resource in list.resources.into_iter().filter(|r| !r.name.contains('/')) {
            let kind = self
                .kinds
                .entry((group.to_owned(), resource.kind.clone()))
                .or_default();
            kind.push(Resource {
                is_listable: resource.verbs.iter().any(|v| v == "list"),
                served: ServedResource {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    kind: resource.kind,
                    resource: resource.name,
                    namespaced: resource.namespaced,
                },
            });
        }
    }

    /// All versions of a kind, the preferred one first. Empty when it is not served.
    pub(crate) fn versions(&self, group: &str, kind: &str) -> &[Resource] {
        self.kinds
            .get(&(group.to_owned(), kind.to_owned()))
            .map_or(&[], Vec::as_slice)
    }

    /// Whether the group is there but could not be asked.
    pub(crate) fn unreadable_group(&self, group: &str) -> Option<&Unreadable> {
        self.unreadable
            .iter()
            .find(|u| u.resource.split('/').next() == Some(group))
    }

    /// Every kind once, with all its versions.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &[Resource]> {
        self.kinds.values().map(Vec::as_slice)
    }

    /// All resources in all versions.
    pub(crate) fn served(&self) -> Vec<ServedResource> {
        self.kinds.values().flatten().map(|r| r.served.clone()).collect()
    }
}

async fn fetch<T: serde::de::DeserializeOwned>(client: &kube::Client, path: String) -> Result<T, Failure> {
    let body = retry::with_backoff(
        &retry::Policy::READ,
        || send(client, Method::GET, &path, None, false),
        |_, _| {},
    )
    .await?;
    parse(&body)
}
