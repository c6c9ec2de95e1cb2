//! Who owns which field: `metadata.managedFields`, as kube-apiserver 1.20 keeps it.
//!
//! Every entry is a manager: a name, an operation (`Apply` or `Update`), the subresource through which it writes and, for
//! updates, the API version. A write is compared with what was there; what it adds or changes goes over to its manager,
//! what it removes goes from all. Servers before 1.22 write no subresource down: callers who play one pass none.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::convert::convert;
use super::entries::{Author, Entry, Managers, cap, decode, differs, encode};
use super::schema::{Schema, Source};
use super::set::{Element, Path, Set, display_path, go_json};
use super::shape::{shape, store};
use super::typed::{self, Comparison};

/// The annotation in which `kubectl apply` keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager of fields that were there before the first apply, where nobody had kept track.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Fields that nobody owns: they are the server's own.
static STRIPPED: LazyLock<Set> = LazyLock::new(|| {
    let mut set = Set::default();
    let field = |name: &str| Element::Field(name.to_owned());
    for name in ["apiVersion", "kind", "metadata"] {
        set.insert(&[field(name)]);
    }
    for name in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        set.insert(&[field("metadata"), field(name)]);
    }
    set
});

/// A field that another manager owns with a different value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The owner as the server names it: `"helm" using apps/v1`, or `"argo"` where it applied.
    pub manager: String,
    /// The path of the field, as the server writes it: `.spec.replicas`.
    pub field: String,
}

impl Conflict {
    /// The message of the cause in the server's answer; its reason is `FieldManagerConflict`.
    pub fn message(&self) -> String {
        format!("conflict with {}", self.manager)
    }
}

/// Why a configuration was not applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// Fields that others own with another value; answered as 409 with a cause each.
    #[error("{}", conflicts_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The request makes no sense as an apply; answered as 400.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration or the object does not fit the schema; answered as 500 with this text.
    #[error("{0}")]
    Invalid(String),
}

/// The server's message for a refused apply.
fn conflicts_message(conflicts: &[Conflict]) -> String {
    if let [conflict] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            conflict.manager, conflict.field
        );
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        lines.join("\n")
    )
}

/// Takes the managed fields out of an object.
fn take(object: &mut Value) -> Value {
    object
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .and_then(|metadata| metadata.shift_remove("managedFields"))
        .unwrap_or_default()
}

/// Puts the managed fields back and leaves the object as the store gives it back.
fn put(object: &mut Value, managers: &Managers, schema: &Schema) {
    store(object, schema);
    if managers.is_empty() {
        return;
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("managedFields".into(), encode(managers));
    }
}

/// `[]` and `[{}]` in a request ask for the managed fields to be forgotten.
fn is_reset(managed_fields: &Value) -> bool {
    match managed_fields.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// Records in `new` what `manager` changed by a create (`old` is `None`), update or patch of `old`.
///
/// Both objects are complete, `new` with its defaults filled in and before the server's own changes (a status that is
/// reset on create, an allocated address): that is the moment at which kube-apiserver does this. The managed fields in
/// `new` are those of the request: they are taken over, so that a client can change them; absent ones stand for those
/// of `old`, and `[]` or `[{}]` for none. `time` is RFC 3339 in UTC with seconds.
pub fn update(old: Option<&Value>, new: &mut Value, manager: &str, time: &str, schema: &Schema) {
    let requested = take(new);
    let live = old.map_or(&Value::Null, |old| &old["metadata"]["managedFields"]);
    let managers = if is_reset(&requested) {
        Managers::new()
    } else {
        decode(&requested)
            .filter(|managers| !managers.is_empty())
            .or_else(|| decode(live))
            .unwrap_or_default()
    };
    finish_update(old, new, managers, Author::new(manager, "", time), schema);
}

/// Like [`update`], for a write through a subresource: the managed fields of the request are ignored.
///
/// `new` is what the request asks for as a whole, before what the subresource may not change is put back: the writer
/// comes to own what it tried to change. `subresource` is what the entry says of it: empty before 1.22.
pub fn update_subresource(
    old: &Value,
    new: &mut Value,
    manager: &str,
    subresource: &str,
    time: &str,
    schema: &Schema,
) {
    take(new);
    let managers = decode(&old["metadata"]["managedFields"]).unwrap_or_default();
    let author = Author::new(manager, subresource, time);
    finish_update(Some(old), new, managers, author, schema);
}

/// Two writes in one, as controllers make them: of the object itself, and of its status.
pub fn update_with_status(
    old: &Value,
    new: &mut Value,
    manager: &str,
    subresource: &str,
    time: &str,
    schema: &Schema,
) {
    if subresource.is_empty() {
        update(Some(old), new, manager, time, schema);
        return;
    }
    let mut before_status = new.clone();
    if let Some(fields) = before_status.as_object_mut() {
        match old.get("status") {
            Some(status) => fields.insert("status".into(), status.clone()),
            None => fields.shift_remove("status"),
        };
    }
    update(Some(old), &mut before_status, manager, time, schema);
    update_subresource(&before_status, new, manager, subresource, time, schema);
}

fn finish_update(old: Option<&Value>, new: &mut Value, managers: Managers, author: Author, schema: &Schema) {
    shape(new, schema);
    let exists = old.is_some_and(|old| old["metadata"]["uid"].as_str().is_some_and(|uid| !uid.is_empty()));
    if managers.is_empty() && exists {
        // An object that nobody keeps track of stays so until the first apply.
        return;
    }
    let blank;
    let old = match old {
        Some(old) if old["metadata"].get("managedFields").is_none() => old,
        Some(old) => {
            let mut old = old.clone();
            take(&mut old);
            blank = old;
            &blank
        }
        None => {
            blank = blank_object(new, schema);
            &blank
        }
    };
    let readable = readable(old, schema);
    let old = &*readable;
    // What the merge cannot read (an environment variable twice) costs the object its managed fields, no more.
    if typed::validate(schema, new).is_err() || typed::validate(schema, old).is_err() {
        return;
    }
    let mut managers = record(old, new, managers, author, schema);
    cap(&mut managers);
    put(new, &managers, schema);
}

/// A stored object as this version reads it: without the fields that only later ones have.
fn readable<'a>(stored: &'a Value, schema: &Schema) -> Cow<'a, Value> {
    if typed::validate(schema, stored).is_ok() {
        return Cow::Borrowed(stored);
    }
    let mut stored = stored.clone();
    shape(&mut stored, schema);
    Cow::Owned(stored)
}

/// The object that a new one is compared with: what the server holds before the first field is set.
fn blank_object(like: &Value, schema: &Schema) -> Value {
    let mut blank = json!({"apiVersion": like["apiVersion"], "kind": like["kind"]});
    if schema.source == Source::Builtin {
        shape(&mut blank, schema);
    }
    blank
}

/// The entry of `manager` takes what it added or changed; its time changes where its set does.
fn record(old: &Value, new: &Value, managers: Managers, author: Author, schema: &Schema) -> Managers {
    let api_version = new["apiVersion"].as_str().unwrap_or_default();
    let blank = Entry::new(author, "Update", api_version);
    let id = blank.id();
    let former = managers.get(&id).cloned();

    let mut managers = reconcile(old, managers, api_version, schema);
    let comparison = typed::compare(schema, old, new);
    let taken = comparison.modified.union(&comparison.added).difference(&STRIPPED);
    let changes = Changes::between(old, new, comparison, &mut managers, schema);
    hand_over(&mut managers, None, &changes);

    if !taken.is_empty() {
        let entry = managers.entry(id).or_insert(blank);
        api_version.clone_into(&mut entry.api_version);
        entry.set.extend(&taken);
        entry.time = match former {
            Some(former) if former.set == entry.set => former.time,
            _ => Some(author.time.to_owned()),
        };
    }
    managers
}

/// Sets written before a list or map became atomic, or ceased to be.
fn reconcile(object: &Value, mut managers: Managers, api_version: &str, schema: &Schema) -> Managers {
    for entry in managers.values_mut() {
        let reconciled = if entry.api_version == api_version {
            typed::reconcile(schema, &entry.set, object)
        } else {
            match version_of(schema, &entry.api_version, object) {
                Some(other) if schema.source == Source::Builtin => {
                    let converted = convert(object, &entry.api_version, &other);
                    typed::reconcile(&other, &entry.set, &converted)
                }
                _ => None,
            }
        };
        if let Some(set) = reconciled {
            entry.set = set;
        }
    }
    managers
}

/// The schema of another version of the same kind. Versions of a custom resource are taken to have one schema.
fn version_of(schema: &Schema, api_version: &str, object: &Value) -> Option<Schema> {
    match schema.source {
        Source::Builtin => Schema::builtin(api_version, object["kind"].as_str()?, schema.minor),
        Source::Crd | Source::Deduced => Some(schema.clone()),
    }
}

/// What changed, as each version of the kind sees it.
struct Changes {
    versions: BTreeMap<String, Comparison>,
}

impl Changes {
    /// Managers of a version that is not served any more are forgotten.
    fn between(
        old: &Value,
        new: &Value,
        comparison: Comparison,
        managers: &mut Managers,
        schema: &Schema,
    ) -> Changes {
        let current = new["apiVersion"].as_str().unwrap_or_default();
        let mut versions = BTreeMap::new();
        managers.retain(|_, entry| {
            let version = entry.api_version.as_str();
            if version == current || versions.contains_key(version) {
                return true;
            }
            let Some(other) = version_of(schema, version, new) else {
                return false;
            };
            let changes = if schema.source == Source::Builtin {
                let (old, new) = (convert(old, version, &other), convert(new, version, &other));
                typed::compare(&other, &old, &new)
            } else {
                comparison.clone()
            };
            versions.insert(version.to_owned(), changes);
            true
        });
        versions.insert(current.to_owned(), comparison);
        Changes { versions }
    }

    /// What a manager's version lost to the write: fields that changed, and fields that are gone.
    fn taken_from(&self, entry: &Entry) -> (Set, Set) {
        match self.versions.get(&entry.api_version) {
            Some(changes) => (
                entry.set.intersection(&changes.modified.union(&changes.added)),
                changes.removed.clone(),
            ),
            None => (Set::default(), Set::default()),
        }
    }
}

/// Takes what changed from everybody but `keeper`, and what is gone from everybody.
fn hand_over(managers: &mut Managers, keeper: Option<&str>, changes: &Changes) {
    for (id, entry) in managers.iter_mut() {
        if keeper == Some(id.as_str()) {
            continue;
        }
        let (changed, removed) = changes.taken_from(entry);
        if !changed.is_empty() {
            entry.set = entry.set.difference(&changed);
        }
        if !removed.is_empty() {
            entry.set = entry.set.difference(&removed);
        }
    }
    managers.retain(|_, entry| !entry.set.is_empty());
}

/// Applies a configuration server-side and returns the new object, defaults filled in.
///
/// `live` is `None` for an object that does not exist yet. `subresource` is what the entry says of it (empty for the object
/// itself, and before 1.22). `time` is RFC 3339 in UTC with seconds.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    subresource: &str,
    force: bool,
    time: &str,
    schema: &Schema,
) -> Result<Value, ApplyError> {
    let mut live = match live {
        Some(live) => live.clone(),
        None => blank_object(applied, schema),
    };
    let managed_fields = take(&mut live);
    if let Cow::Owned(readable) = readable(&live, schema) {
        live = readable;
    }
    let mut managers = decode(&managed_fields)
        .ok_or_else(|| ApplyError::Invalid("failed to decode managed fields".to_owned()))?;
    if managers.is_empty() {
        let blank = blank_object(&live, schema);
        let author = Author::new(BEFORE_FIRST_APPLY, "", time);
        managers = record(&blank, &live, managers, author, schema);
    }

    let request = Request {
        live: &live,
        applied,
        author: Author::new(manager, subresource, time),
        schema,
    };
    let outcome = match request.run(managers.clone(), force) {
        // kubectl's own move from client-side to server-side apply: what its annotation says it set is its own.
        Err(Failure::Conflicts(conflicts)) if manager == "kubectl" => {
            match allowed_by_last_applied(&live, schema) {
                None => Err(Failure::Conflicts(conflicts)),
                Some(allowed) => {
                    let rest: Vec<_> = conflicts
                        .into_iter()
                        .filter(|(_, path)| !allowed.has(path))
                        .collect();
                    if rest.is_empty() {
                        request.run(managers, true)
                    } else {
                        Err(Failure::Conflicts(rest))
                    }
                }
            }
        }
        outcome => outcome,
    };
    let (mut object, managers) = outcome.map_err(Failure::into_error)?;
    if manager == "kubectl" && object["metadata"]["annotations"].get(LAST_APPLIED).is_some() {
        let mut own = applied.clone();
        if let Some(annotations) = own["metadata"]
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.shift_remove(LAST_APPLIED);
        }
        own.sort_all_objects();
        object["metadata"]["annotations"][LAST_APPLIED] = format!("{}\n", go_json(&own)).into();
    }
    put(&mut object, &managers, schema);
    Ok(object)
}

enum Failure {
    Conflicts(Vec<(String, Path)>),
    Error(ApplyError),
}

impl Failure {
    fn into_error(self) -> ApplyError {
        match self {
            Failure::Error(error) => error,
            Failure::Conflicts(conflicts) => ApplyError::Conflicts(
                conflicts
                    .into_iter()
                    .map(|(manager, path)| Conflict {
                        manager,
                        field: display_path(&path),
                    })
                    .collect(),
            ),
        }
    }
}

struct Request<'a> {
    live: &'a Value,
    applied: &'a Value,
    author: Author<'a>,
    schema: &'a Schema,
}

impl Request<'_> {
    fn run(&self, managers: Managers, force: bool) -> Result<(Value, Managers), Failure> {
        let Request {
            live,
            applied,
            author,
            schema,
        } = *self;
        let bad_request = |message: String| Failure::Error(ApplyError::BadRequest(message));
        let invalid = |message: String| Failure::Error(ApplyError::Invalid(message));
        let api_version = applied["apiVersion"].as_str().unwrap_or_default();
        let expected = live["apiVersion"].as_str().unwrap_or_default();
        if api_version != expected {
            return Err(bad_request(format!(
                "Incorrect version specified in apply patch. Specified patch version: {api_version}, expected: {expected}"
            )));
        }
        if !applied["metadata"]["managedFields"].is_null() {
            return Err(bad_request("metadata.managedFields must be nil".to_owned()));
        }
        typed::validate(schema, applied)
            .map_err(|error| invalid(format!("failed to create typed patch object: {error}")))?;
        typed::validate(schema, live)
            .map_err(|error| invalid(format!("failed to create typed live object: {error}")))?;

        let mut entry = Entry::new(author, "Apply", api_version);
        let id = entry.id();
        let former = managers.clone();
        let mut managers = reconcile(live, managers, api_version, schema);
        let merged = typed::merge(schema, live, applied);
        entry.set = typed::field_set(schema, applied);
        let last = managers.get(&id).cloned();
        entry.time = last.as_ref().and_then(|last| last.time.clone());
        managers.insert(id.clone(), entry);

        let merged = prune(merged, &managers, last.as_ref().map(|last| &last.set), schema);
        let comparison = typed::compare(schema, live, &merged);
        let same = comparison.is_same();
        let changes = Changes::between(live, &merged, comparison, &mut managers, schema);
        if !force {
            let conflicts = conflicts(&managers, &id, &changes);
            if !conflicts.is_empty() {
                return Err(Failure::Conflicts(conflicts));
            }
        }
        hand_over(&mut managers, Some(&id), &changes);
        if let Some(entry) = managers.get_mut(&id) {
            entry.set = entry.set.difference(&STRIPPED);
            if entry.set.is_empty() {
                managers.remove(&id);
            }
        }
        if (!same || differs(&former, &managers))
            && let Some(entry) = managers.get_mut(&id)
        {
            entry.time = Some(author.time.to_owned());
        }
        let mut object = if same { live.clone() } else { merged };
        if !same {
            super::defaults::apply_defaults(&mut object, schema.minor);
        }
        Ok((object, managers))
    }
}

fn conflicts(managers: &Managers, keeper: &str, changes: &Changes) -> Vec<(String, Path)> {
    managers
        .iter()
        .filter(|(id, _)| id.as_str() != keeper)
        .flat_map(|(_, entry)| {
            let manager = entry.describe();
            let (changed, _) = changes.taken_from(entry);
            changed
                .paths()
                .into_iter()
                .map(move |path| (manager.clone(), path))
        })
        .collect()
}

/// Removes what this manager applied last and does not apply now, unless somebody else owns it too.
fn prune(merged: Value, managers: &Managers, last: Option<&Set>, schema: &Schema) -> Value {
    let Some(last) = last.filter(|last| !last.is_empty()) else {
        return merged;
    };
    let pruned = typed::remove(schema, &merged, last);
    let merged_set = typed::field_set(schema, &merged);
    let mut kept = typed::field_set(schema, &pruned);
    // Owners in different versions are served one after the other, as the server does.
    let versions: BTreeSet<&str> = managers
        .values()
        .map(|entry| entry.api_version.as_str())
        .collect();
    let mut pruned = pruned;
    for version in versions {
        for entry in managers.values().filter(|entry| entry.api_version == version) {
            kept.extend(&entry.set);
        }
        pruned = typed::remove(schema, &merged, &merged_set.difference(&kept));
        kept = typed::field_set(schema, &pruned);
    }
    let pruned_set = typed::field_set(schema, &pruned);
    typed::remove(
        schema,
        &merged,
        &merged_set.difference(&pruned_set).intersection(last),
    )
}

/// What the annotation of client-side apply sets and the object still has: an apply by kubectl may take that over.
fn allowed_by_last_applied(live: &Value, schema: &Schema) -> Option<Set> {
    let annotation = live["metadata"]["annotations"].get(LAST_APPLIED)?.as_str()?;
    let last: Value = serde_json::from_str(annotation).ok()?;
    if last["apiVersion"] != live["apiVersion"] || typed::validate(schema, &last).is_err() {
        return None;
    }
    let comparison = typed::compare(schema, &last, live);
    Some(
        typed::field_set(schema, &last)
            .difference(&comparison.modified)
            .difference(&comparison.added)
            .difference(&comparison.removed),
    )
}
