//! A transaction: a copy of the state that writes go to, kept when all of them succeed.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use crate::Config;
use crate::json::{child, object};
use crate::kinds::{Builtins, Resource};
use crate::status::{Result, Status};
use crate::store::{Change, Key, State};

/// Writes to a copy of the state. Dropping it undoes them: that is also how a dry run works.
pub(crate) struct Transaction<'a> {
    pub state: State,
    pub config: &'a Config,
    pub builtins: &'a Builtins,
    /// The time of all its writes, as RFC 3339 in whole seconds.
    pub now: String,
    /// What is written is never kept: it gets no resource version of its own.
    pub dry_run: bool,
    /// What has changed and was not yet seen by the controllers.
    pub unseen: VecDeque<(Key, Arc<Change>)>,
    /// Objects that their controllers have to look at, each one once, when all changes have been seen.
    pub marked: VecDeque<Key>,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(state: State, config: &'a Config, builtins: &'a Builtins) -> Transaction<'a> {
        Transaction {
            state,
            config,
            builtins,
            now: config.now(),
            dry_run: false,
            unseen: VecDeque::new(),
            marked: VecDeque::new(),
        }
    }

    /// Stores an object under the next resource version and returns it as stored.
    pub(crate) fn put(&mut self, resource: &Resource, mut new: Value) -> Arc<Value> {
        let revision = self.state.revision + 1;
        if !self.dry_run {
            child(&mut new, "metadata").insert("resourceVersion".into(), revision.to_string().into());
        }
        crate::convert::to_stored(resource, &mut new);
        let stored = self.storage_api_version(resource);
        if crate::json::text(&new, "apiVersion") != stored {
            object(&mut new).insert("apiVersion".into(), stored.into());
        }
        let key = Key::of(resource, &new);
        let new = Arc::new(new);
        let change = self.state.write(&key, Some(Arc::clone(&new)));
        self.unseen.push_back((key, change));
        new
    }

    /// Removes an object.
    pub(crate) fn remove(&mut self, key: &Key) {
        if self.state.get(key).is_some() {
            let change = self.state.write(key, None);
            self.unseen.push_back((key.clone(), change));
        }
    }

    /// Lets the controller of an object look at it later.
    pub(crate) fn mark(&mut self, key: Key) {
        if !self.marked.contains(&key) {
            self.marked.push_back(key);
        }
    }

    /// The next object to look at. Deployments come last: they sum up what their ReplicaSets report.
    pub(crate) fn next_marked(&mut self) -> Option<Key> {
        let first = self
            .marked
            .iter()
            .position(|key| &*key.store != "deployments.apps")
            .unwrap_or(0);
        self.marked.remove(first)
    }

    /// The `apiVersion` in which a kind is stored; a kind that two groups serve is stored in its home group.
    fn storage_api_version(&self, resource: &Resource) -> String {
        let (plural, group) = resource.store.split_once('.').unwrap_or((&resource.store, ""));
        let home = if group == resource.group {
            None
        } else {
            self.builtins.find(group, plural)
        };
        let resource = home.map_or(resource, Arc::as_ref);
        resource.api_version(&resource.storage_version)
    }

    /// What owners' entries say of a write through a subresource: nothing before 1.22.
    pub(crate) fn recorded<'s>(&self, subresource: &'s str) -> &'s str {
        if self.builtins.minor >= 22 {
            subresource
        } else {
            ""
        }
    }

    /// The kind that a collection holds.
    pub(crate) fn resource_of(&self, key: &Key) -> Result<Arc<Resource>> {
        let (plural, group) = key.store.split_once('.').unwrap_or((&key.store, ""));
        self.state
            .resource(self.builtins, group, plural)
            .ok_or_else(|| Status::internal(format!("no kind is stored under {}", key.store)))
    }

    /// A built-in kind, which is always there.
    pub(crate) fn builtin(&self, group: &str, plural: &str) -> Result<Arc<Resource>> {
        self.builtins
            .find(group, plural)
            .cloned()
            .ok_or_else(|| Status::internal(format!("{plural}.{group} is not served by this version")))
    }
}
