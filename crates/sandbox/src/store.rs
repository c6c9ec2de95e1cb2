//! The objects, their history and what is derived from them: persistent maps, so that a copy costs nothing.

use std::io;
use std::sync::{Arc, OnceLock};

use rpds::{HashTrieMapSync, RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde_json::Value;

use crate::faults::Troubles;
use crate::json::{list_at, name, namespace, text};
use crate::kinds::{Builtins, Resource};

/// How many changes of a collection a watch can look back on. The API server keeps at least a hundred.
const HISTORY: usize = 4096;

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// `deployments.apps`
    pub store: Arc<str>,
    /// `namespace/name`, or `name` for what is in no namespace: the order of a list.
    pub path: Arc<str>,
}

impl Key {
    pub(crate) fn new(resource: &Resource, namespace: &str, name: &str) -> Key {
        Key {
            store: Arc::clone(&resource.store),
            path: path(namespace, name),
        }
    }

    pub(crate) fn of(resource: &Resource, object: &Value) -> Key {
        Key::new(resource, namespace(object), name(object))
    }

    pub(crate) fn namespace(&self) -> &str {
        self.path.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub(crate) fn name(&self) -> &str {
        self.path.split_once('/').map_or(&self.path, |(_, name)| name)
    }
}

fn path(namespace: &str, name: &str) -> Arc<str> {
    if namespace.is_empty() {
        name.into()
    } else {
        format!("{namespace}/{name}").into()
    }
}

/// One write of one object.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub revision: u64,
    pub path: Arc<str>,
    pub old: Option<Arc<Value>>,
    /// `None` when the object was removed.
    pub new: Option<Arc<Value>>,
}

/// An object in the store. What came as text stays text until somebody looks at it: most of a large copy nobody ever does,
/// and taken apart it needs several times the memory.
#[derive(Debug, Clone)]
pub(crate) enum Stored {
    Value(Arc<Value>),
    Text(Arc<Unread>),
}

/// An object as JSON, and as a value once somebody has looked at it.
#[derive(Debug)]
pub(crate) struct Unread {
    json: Box<[u8]>,
    value: OnceLock<Arc<Value>>,
}

impl Stored {
    /// An object as JSON, which the caller has found to be JSON.
    pub(crate) fn text(json: Box<[u8]>) -> Stored {
        Stored::Text(Arc::new(Unread {
            json,
            value: OnceLock::new(),
        }))
    }

    pub(crate) fn value(&self) -> &Arc<Value> {
        match self {
            Stored::Value(value) => value,
            Stored::Text(unread) => unread.value.get_or_init(|| {
                let read = serde_json::from_slice(&unread.json);
                Arc::new(read.expect("what is kept as text was found to be JSON"))
            }),
        }
    }
}

impl From<Arc<Value>> for Stored {
    fn from(value: Arc<Value>) -> Stored {
        Stored::Value(value)
    }
}

/// The UIDs of the owners of an object.
pub(crate) fn owners(object: Option<&Value>) -> Vec<Arc<str>> {
    object
        .into_iter()
        .flat_map(|object| list_at(object, "/metadata/ownerReferences"))
        .map(|owner| text(owner, "uid").into())
        .collect()
}

/// All objects of one kind, in the order of their paths, and the latest changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collection {
    objects: RedBlackTreeMapSync<Arc<str>, Stored>,
    changes: RedBlackTreeMapSync<u64, Arc<Change>>,
    /// Changes up to here are forgotten.
    forgotten: u64,
}

impl Collection {
    pub(crate) fn get(&self, path: &str) -> Option<&Arc<Value>> {
        self.objects.get(path).map(Stored::value)
    }

    /// Writes the objects, one a line.
    pub(crate) fn write_to(&self, out: &mut dyn io::Write) -> io::Result<()> {
        for (_, object) in &self.objects {
            match object {
                Stored::Text(unread) if unread.value.get().is_none() => out.write_all(&unread.json)?,
                read => serde_json::to_writer(&mut *out, read.value())?,
            }
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.size()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Value>)> {
        self.objects.iter().map(|(path, object)| (path, object.value()))
    }

    /// The objects of a namespace (all of them for the empty name), from a path on.
    pub(crate) fn range<'a>(
        &'a self,
        namespace: &str,
        from: Option<&str>,
    ) -> Box<dyn Iterator<Item = (&'a Arc<str>, &'a Arc<Value>)> + 'a> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let start: Arc<str> = match from {
            Some(path) => path.into(),
            None if namespace.is_empty() => "".into(),
            None => format!("{namespace}/").into(),
        };
        if namespace.is_empty() {
            let all = self.objects.range((Included(start), Unbounded));
            return Box::new(all.map(|(path, object)| (path, object.value())));
        }
        // '0' follows '/': the first path behind the namespace.
        let end: Arc<str> = format!("{namespace}0").into();
        if start >= end {
            return Box::new(std::iter::empty());
        }
        let some = self.objects.range((Included(start), Excluded(end)));
        Box::new(some.map(|(path, object)| (path, object.value())))
    }

    /// The collection as it was at a revision; `None` when some of the changes since then are forgotten.
    pub(crate) fn at(&self, revision: u64) -> Option<Collection> {
        let mut past = self.clone();
        let since: Vec<_> = self.since(revision)?.collect();
        for change in since.into_iter().rev() {
            match &change.old {
                Some(old) => past
                    .objects
                    .insert_mut(Arc::clone(&change.path), Arc::clone(old).into()),
                None => {
                    past.objects.remove_mut(&change.path);
                }
            }
        }
        Some(past)
    }

    /// The changes after a revision; `None` when some of them are forgotten.
    pub(crate) fn since(&self, revision: u64) -> Option<impl Iterator<Item = &Arc<Change>>> {
        (revision >= self.forgotten).then(|| self.changes.range(revision + 1..).map(|(_, change)| change))
    }
}

/// A state of the cluster. Cloning it is cheap, and the clone has its own future.
#[derive(Debug, Clone)]
pub(crate) struct State {
    collections: RedBlackTreeMapSync<Arc<str>, Collection>,
    /// Custom resources by `plural.group`.
    custom: RedBlackTreeMapSync<Arc<str>, Arc<Resource>>,
    /// Which objects name an owner, by the owner's UID.
    dependents: HashTrieMapSync<Arc<str>, RedBlackTreeSetSync<Key>>,
    /// The revision of the last write; 0 when nothing was ever written.
    pub revision: u64,
    /// Watches from before this revision cannot be answered.
    beginning: u64,
    /// Counts what has been drawn at random since the last write.
    draws: u64,
    seed: u64,
    /// What does not work in this cluster.
    pub troubles: Arc<Troubles>,
}

impl State {
    pub(crate) fn new(seed: u64) -> State {
        State {
            collections: RedBlackTreeMapSync::default(),
            custom: RedBlackTreeMapSync::default(),
            dependents: HashTrieMapSync::default(),
            revision: 0,
            beginning: 0,
            draws: 0,
            seed,
            troubles: Arc::default(),
        }
    }

    pub(crate) fn collection(&self, store: &str) -> Option<&Collection> {
        self.collections.get(store)
    }

    /// The collection of a kind, empty where there is none yet.
    pub(crate) fn objects_of(&self, resource: &Resource) -> Collection {
        self.collections
            .get(&*resource.store)
            .cloned()
            .unwrap_or_else(|| Collection {
                forgotten: self.beginning,
                ..Collection::default()
            })
    }

    pub(crate) fn collections(&self) -> impl Iterator<Item = (&Arc<str>, &Collection)> {
        self.collections.iter()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.collections.get(&key.store)?.get(&key.path)
    }

    pub(crate) fn has(&self, key: &Key) -> bool {
        let collection = self.collections.get(&key.store);
        collection.is_some_and(|collection| collection.objects.contains_key(&key.path))
    }

    pub(crate) fn find(&self, store: &str, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        let collection = self.collections.get(store)?;
        if namespace.is_empty() {
            collection.get(name)
        } else {
            collection.get(&path(namespace, name))
        }
    }

    pub(crate) fn dependents(&self, uid: &str) -> Vec<Key> {
        self.dependents
            .get(uid)
            .map(|keys| keys.iter().cloned().collect())
            .unwrap_or_default()
    }

    pub(crate) fn custom(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.custom.iter().map(|(_, resource)| resource)
    }

    /// The kind served under a group and plural name.
    pub(crate) fn resource(&self, builtins: &Builtins, group: &str, plural: &str) -> Option<Arc<Resource>> {
        if let Some(resource) = builtins.find(group, plural) {
            return Some(Arc::clone(resource));
        }
        self.custom
            .get(crate::kinds::qualified(plural, group).as_str())
            .cloned()
    }

    pub(crate) fn resource_of_kind(
        &self,
        builtins: &Builtins,
        group: &str,
        kind: &str,
    ) -> Option<Arc<Resource>> {
        builtins
            .find_kind(group, kind)
            .or_else(|| self.custom().find(|resource| resource.is(group, kind)))
            .cloned()
    }

    /// Serves a custom resource from now on, or stops serving it.
    pub(crate) fn set_custom(&mut self, store: &str, resource: Option<Arc<Resource>>) {
        match resource {
            Some(resource) => self.custom.insert_mut(store.into(), resource),
            None => {
                self.custom.remove_mut(store);
            }
        }
    }

    /// Puts an object (or removes it) at the next revision, and remembers the change.
    pub(crate) fn write(&mut self, key: &Key, new: Option<Arc<Value>>) -> Arc<Change> {
        self.revision += 1;
        self.draws = 0;
        let revision = self.revision;
        let mut collection = self
            .collections
            .get(&key.store)
            .cloned()
            .unwrap_or_else(|| Collection {
                forgotten: self.beginning,
                ..Collection::default()
            });
        let old = collection.get(&key.path).cloned();
        self.index(key, owners(old.as_deref()), owners(new.as_deref()));
        match &new {
            Some(object) => collection
                .objects
                .insert_mut(Arc::clone(&key.path), Arc::clone(object).into()),
            None => {
                collection.objects.remove_mut(&key.path);
            }
        }
        let change = Arc::new(Change {
            revision,
            path: Arc::clone(&key.path),
            old,
            new,
        });
        collection.changes.insert_mut(revision, Arc::clone(&change));
        if collection.changes.size() > HISTORY
            && let Some((&oldest, _)) = collection.changes.first()
        {
            collection.changes.remove_mut(&oldest);
            collection.forgotten = oldest;
        }
        self.collections.insert_mut(Arc::clone(&key.store), collection);
        change
    }

    /// Takes an object in as it is, without a change that a watch would see; with the UIDs of its owners.
    pub(crate) fn seed(&mut self, key: &Key, object: Stored, owners: Vec<Arc<str>>) {
        self.index(key, Vec::new(), owners);
        let mut collection = self.collections.get(&key.store).cloned().unwrap_or_default();
        collection.objects.insert_mut(Arc::clone(&key.path), object);
        self.collections.insert_mut(Arc::clone(&key.store), collection);
    }

    /// Declares what is there the beginning: the next write comes after `revision`, watches start there at the earliest.
    pub(crate) fn begin(&mut self, revision: u64) {
        self.revision = revision;
        self.beginning = revision;
        let stores: Vec<_> = self.collections.keys().cloned().collect();
        for store in stores {
            if let Some(mut collection) = self.collections.get(&store).cloned() {
                collection.forgotten = revision;
                collection.changes = RedBlackTreeMapSync::default();
                self.collections.insert_mut(store, collection);
            }
        }
    }

    fn index(&mut self, key: &Key, old: Vec<Arc<str>>, new: Vec<Arc<str>>) {
        if old == new {
            return;
        }
        for uid in old {
            if let Some(mut keys) = self.dependents.get(&uid).cloned() {
                keys.remove_mut(key);
                if keys.is_empty() {
                    self.dependents.remove_mut(&uid);
                } else {
                    self.dependents.insert_mut(uid, keys);
                }
            }
        }
        for uid in new {
            let mut keys = self.dependents.get(&uid).cloned().unwrap_or_default();
            keys.insert_mut(key.clone());
            self.dependents.insert_mut(uid, keys);
        }
    }

    /// A number that looks random, and is the same for the same history.
    pub(crate) fn draw(&mut self) -> u64 {
        self.draws += 1;
        let mut mixed = self.seed
            ^ self.revision.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ self.draws.wrapping_mul(0xd1b5_4a32_d192_ed03);
        // The finaliser of splitmix64, twice, so that neighbouring inputs share nothing.
        for _ in 0..2 {
            mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
        }
        mixed
    }

    /// A UID in the form of a random UUID.
    pub(crate) fn draw_uid(&mut self) -> String {
        let (high, low) = (self.draw(), self.draw());
        uuid::Builder::from_random_bytes((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
            .into_uuid()
            .to_string()
    }

    /// The random end of a generated name: five characters that spell no word.
    pub(crate) fn draw_suffix(&mut self) -> String {
        suffix(self.draw(), 5)
    }
}

/// Spells a number in the alphabet of generated names.
pub(crate) fn suffix(mut number: u64, length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..length)
        .map(|_| {
            let base = ALPHABET.len() as u64;
            let digit = usize::try_from(number % base).unwrap_or_default();
            number /= base;
            char::from(ALPHABET[digit])
        })
        .collect()
}
