//! [`Object`] and [`ObjectKey`].

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Names one object, whatever API version it is read in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// API group; empty for the core group.
    pub group: String,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
}

impl ObjectKey {
    /// A cluster-scoped object.
    pub fn cluster(group: &str, kind: &str, name: &str) -> Self {
        Self {
            group: group.into(),
            kind: kind.into(),
            namespace: None,
            name: name.into(),
        }
    }

    /// A namespaced object.
    pub fn namespaced(group: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: group.into(),
            kind: kind.into(),
            namespace: Some(namespace.into()),
            name: name.into(),
        }
    }

    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }

    /// Whether the object's contents must never be shown.
    pub fn is_secret(&self) -> bool {
        self.is("", "Secret")
    }
}

impl fmt::Display for ObjectKey {
    /// `Deployment kubesphere-system/ks-apiserver`, `GlobalRole users-manager`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Why a value is not a Kubernetes object.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ObjectError {
    #[error("not a JSON object")]
    NotAnObject,
    #[error("{0} is missing")]
    Missing(&'static str),
}

/// One Kubernetes object: a JSON object that has `apiVersion`, `kind` and `metadata.name`. A clone shares its contents until
/// one of the two is changed.
///
/// Its `Debug` shows the key only, since an object may be a Secret.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Object(Arc<Value>);

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({})", self.key())
    }
}

impl TryFrom<Value> for Object {
    type Error = ObjectError;

    fn try_from(value: Value) -> Result<Self, ObjectError> {
        if !value.is_object() {
            return Err(ObjectError::NotAnObject);
        }
        for (pointer, name) in [
            ("/apiVersion", "apiVersion"),
            ("/kind", "kind"),
            ("/metadata/name", "metadata.name"),
        ] {
            if value
                .pointer(pointer)
                .and_then(Value::as_str)
                .is_none_or(str::is_empty)
            {
                return Err(ObjectError::Missing(name));
            }
        }
        Ok(Self(Arc::new(value)))
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Value {
        Arc::unwrap_or_clone(object.0)
    }
}

impl Object {
    fn text(&self, pointer: &str) -> &str {
        self.get_str(pointer).unwrap_or_default()
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            group: self.group().to_owned(),
            kind: self.kind().to_owned(),
            namespace: self.namespace().map(str::to_owned),
            name: self.name().to_owned(),
        }
    }

    pub fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    /// API group; empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// API version without the group, e.g. `v1alpha2`.
    pub fn version(&self) -> &str {
        let api_version = self.api_version();
        api_version
            .split_once('/')
            .map_or(api_version, |(_, version)| version)
    }

    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    pub fn namespace(&self) -> Option<&str> {
        Some(self.text("/metadata/namespace")).filter(|n| !n.is_empty())
    }

    pub fn uid(&self) -> Option<&str> {
        Some(self.text("/metadata/uid")).filter(|u| !u.is_empty())
    }

    pub fn resource_version(&self) -> Option<&str> {
        Some(self.text("/metadata/resourceVersion")).filter(|v| !v.is_empty())
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.get("/metadata/labels")?.get(name)?.as_str()
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.get("/metadata/annotations")?.get(name)?.as_str()
    }

    pub fn is_being_deleted(&self) -> bool {
        self.get("/metadata/deletionTimestamp")
            .is_some_and(|t| !t.is_null())
    }

    /// The value at a JSON pointer (RFC 6901), e.g. `/spec/replicas`.
    pub fn get(&self, pointer: &str) -> Option<&Value> {
        if pointer.contains('~') {
            return self.0.pointer(pointer);
        }
        // Without what is escaped, nothing has to be copied to find it.
        let mut names = pointer.split('/');
        if names.next() != Some("") {
            return None;
        }
        names.try_fold(self.as_value(), |value, name| match value {
            Value::Object(map) => map.get(name),
            Value::Array(_) => value.pointer(&format!("/{name}")),
            _ => None,
        })
    }

    /// The text at a JSON pointer.
    pub fn get_str(&self, pointer: &str) -> Option<&str> {
        self.get(pointer).and_then(Value::as_str)
    }

    pub fn as_value(&self) -> &Value {
        &self.0
    }

    pub fn into_value(self) -> Value {
        self.into()
    }

    /// The value at a JSON pointer, for edits. The caller keeps apiVersion, kind and name.
    pub fn get_mut(&mut self, pointer: &str) -> Option<&mut Value> {
        Arc::make_mut(&mut self.0).pointer_mut(pointer)
    }

    /// The JSON object itself, for edits. The caller keeps apiVersion, kind and name.
    pub fn as_map_mut(&mut self) -> &mut Map<String, Value> {
        Arc::make_mut(&mut self.0)
            .as_object_mut()
            .expect("an Object is a JSON object by construction")
    }

    /// What the object was last applied as by client-side `kubectl apply`, if that is recorded and readable.
    pub fn last_applied(&self) -> Option<Value> {
        serde_json::from_str(self.annotation(LAST_APPLIED)?).ok()
    }

    /// The object without what the server and controllers write by themselves: `status`, `managedFields`,
    /// `resourceVersion`, `uid`, `generation`, `creationTimestamp`, `selfLink`.
    pub fn declared(&self) -> Value {
        let mut value = self.as_value().clone();
        if let Some(map) = value.as_object_mut() {
            map.remove("status");
        }
        if let Some(metadata) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            for name in [
                "managedFields",
                "resourceVersion",
                "uid",
                "generation",
                "creationTimestamp",
                "selfLink",
            ] {
                metadata.remove(name);
            }
        }
        value
    }
}

/// The annotation in which client-side `kubectl apply` keeps what it applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pointer_leads_where_serde_json_says() {
        let value = json!({"apiVersion": "v1", "kind": "A", "metadata": {"name": "a", "labels": {"a/b": "c", "": "e"}},
            "items": [{"x": 1}, [2, 3]], "00": {"01": 4}});
        let object = Object::try_from(value.clone()).unwrap();
        for pointer in [
            "",
            "/",
            "kind",
            "/kind",
            "/kind/x",
            "/metadata/labels/a~1b",
            "/metadata/labels/",
            "/items/0/x",
            "/items/1/1",
            "/items/01",
            "/items/-",
            "/items/2",
            "/items/+1",
            "/00/01",
            "/nothing/at/all",
        ] {
            assert_eq!(object.get(pointer), value.pointer(pointer), "{pointer}");
        }
    }

    #[test]
    fn key_reads_group_and_scope() {
        let check = |value: Value, expect: &str, group: &str| {
            let object = Object::try_from(value).unwrap();
            assert_eq!(
                (object.key().to_string().as_str(), object.group()),
                (expect, group)
            );
        };
        check(
            json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","namespace":"n"}}),
            "Deployment n/a",
            "apps",
        );
        check(
            json!({"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}),
            "Namespace n",
            "",
        );
    }

    #[test]
    fn what_is_no_object_says_what_is_missing() {
        let check =
            |value: Value, expect: ObjectError| assert_eq!(Object::try_from(value).unwrap_err(), expect);
        check(json!([]), ObjectError::NotAnObject);
        check(
            json!({"kind":"A","metadata":{"name":"a"}}),
            ObjectError::Missing("apiVersion"),
        );
        check(
            json!({"apiVersion":"v1","kind":"A","metadata":{}}),
            ObjectError::Missing("metadata.name"),
        );
    }

    #[test]
    fn debug_never_shows_contents() {
        let secret = Object::try_from(
            json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"data":{"p":"aHVudGVyMg=="}}),
        );
        assert_eq!(format!("{:?}", secret.unwrap()), "Object(Secret s)");
    }
}
