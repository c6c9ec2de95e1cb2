//! The entries of `metadata.managedFields`: who they are of, how they are read, written and merged.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::Set;

/// The manager into which the oldest updates are merged.
const ANCIENT_CHANGES: &str = "ancient-changes";
/// How many managers of updates an object keeps.
const MAX_UPDATE_MANAGERS: usize = 10;
const UNKNOWN_MANAGER: &str = "unknown";

/// One manager and what it owns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    manager: String,
    operation: String,
    pub(super) api_version: String,
    /// Empty for the object itself.
    subresource: String,
    pub(super) time: Option<String>,
    pub(super) set: Set,
}

impl Entry {
    pub(super) fn new(author: Author, operation: &str, api_version: &str) -> Entry {
        Entry {
            manager: author.manager.to_owned(),
            operation: operation.to_owned(),
            api_version: api_version.to_owned(),
            subresource: author.subresource.to_owned(),
            time: None,
            set: Set::default(),
        }
    }

    fn applied(&self) -> bool {
        self.operation == "Apply"
    }

    /// What tells managers apart: one who applies stays the same in whatever version it applies.
    pub(super) fn id(&self) -> String {
        let mut fields = Map::new();
        put_text(&mut fields, "manager", &self.manager);
        put_text(&mut fields, "operation", &self.operation);
        if !self.applied() {
            put_text(&mut fields, "apiVersion", &self.api_version);
        }
        put_text(&mut fields, "subresource", &self.subresource);
        Value::Object(fields).to_string()
    }

    /// As in messages: who did it, through what, and for updates in which version.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == "Update" {
            text += &format!(" using {}", self.api_version);
        }
        text
    }
}

/// Writes a field that is left out where it is empty.
fn put_text(fields: &mut Map<String, Value>, key: &str, value: &str) {
    if !value.is_empty() {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Who writes, through what and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Author<'a> {
    manager: &'a str,
    /// Empty for the object itself.
    subresource: &'a str,
    pub(super) time: &'a str,
}

impl<'a> Author<'a> {
    pub(super) fn new(manager: &'a str, subresource: &'a str, time: &'a str) -> Author<'a> {
        Author {
            manager: if manager.is_empty() {
                UNKNOWN_MANAGER
            } else {
                manager
            },
            subresource,
            time,
        }
    }
}

pub(super) type Managers = BTreeMap<String, Entry>;

pub(super) fn decode(managed_fields: &Value) -> Option<Managers> {
    let mut managers = Managers::new();
    for entry in managed_fields.as_array().map_or(&[][..], Vec::as_slice) {
        if entry["fieldsType"] != "FieldsV1" {
            return None;
        }
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        let fields = &entry["fieldsV1"];
        let set = if fields.is_null() {
            Set::default()
        } else {
            Set::parse(fields).ok()?
        };
        let entry = Entry {
            manager: text("manager").to_owned(),
            operation: text("operation").to_owned(),
            api_version: text("apiVersion").to_owned(),
            subresource: text("subresource").to_owned(),
            time: entry["time"].as_str().map(str::to_owned),
            set,
        };
        managers.insert(entry.id(), entry);
    }
    Some(managers)
}

pub(super) fn encode(managers: &Managers) -> Value {
    let mut entries: Vec<&Entry> = managers.values().collect();
    // Times are of one form and in UTC, so their text sorts as they do.
    entries.sort_by_key(|entry| {
        (
            entry.operation.clone(),
            entry.time.clone(),
            entry.manager.clone(),
            entry.api_version.clone(),
            entry.subresource.clone(),
        )
    });
    entries
        .into_iter()
        .map(|entry| {
            let mut fields = Map::new();
            put_text(&mut fields, "manager", &entry.manager);
            put_text(&mut fields, "operation", &entry.operation);
            put_text(&mut fields, "apiVersion", &entry.api_version);
            put_text(&mut fields, "time", entry.time.as_deref().unwrap_or_default());
            put_text(&mut fields, "fieldsType", "FieldsV1");
            fields.insert("fieldsV1".into(), entry.set.to_fields());
            put_text(&mut fields, "subresource", &entry.subresource);
            Value::Object(fields)
        })
        .collect()
}

/// Merges the oldest updates of a version into one entry while there are too many.
pub(super) fn cap(managers: &mut Managers) {
    let mut updaters: Vec<(Option<String>, String)> = managers
        .iter()
        .filter(|(_, entry)| !entry.applied())
        .map(|(id, entry)| (entry.time.clone(), id.clone()))
        .collect();
    if updaters.len() <= MAX_UPDATE_MANAGERS {
        return;
    }
    updaters.sort();
    let mut length = updaters.len();
    let mut first_of_version: BTreeMap<String, String> = BTreeMap::new();
    for (_, id) in updaters {
        if length <= MAX_UPDATE_MANAGERS {
            break;
        }
        let Some(version) = managers.get(&id).map(|entry| entry.api_version.clone()) else {
            continue;
        };
        let Some(first) = first_of_version.get(&version) else {
            first_of_version.insert(version, id);
            continue;
        };
        let ancient = Entry::new(Author::new(ANCIENT_CHANGES, "", ""), "Update", &version);
        let bucket = ancient.id();
        if !managers.contains_key(&bucket)
            && let Some(entry) = managers.remove(first)
        {
            managers.insert(
                bucket.clone(),
                Entry {
                    time: entry.time,
                    set: entry.set,
                    ..ancient
                },
            );
        }
        if id == bucket {
            continue;
        }
        if let Some(entry) = managers.remove(&id)
            && let Some(ancient) = managers.get_mut(&bucket)
        {
            ancient.set.extend(&entry.set);
            ancient.time = entry.time;
            length -= 1;
        }
    }
}

/// Whether anybody owns something else than before; times do not count.
pub(super) fn differs(before: &Managers, after: &Managers) -> bool {
    before.len() != after.len()
        || before.iter().any(|(id, entry)| {
            after
                .get(id)
                .is_none_or(|other| other.set != entry.set || other.api_version != entry.api_version)
        })
}
