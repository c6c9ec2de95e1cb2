//! Reading an object's access part straight from JSON text, without building the whole of it.

use std::{borrow::Cow, fmt, marker::PhantomData};

use object::Object;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::{
    AGGREGATION, DEPENDENCIES, DEVOPS_PROJECT, REGO, TEMPLATE, USER_REF, WORKSPACE,
    records::{FEDERATED_GROUP, INSTALLER_GROUP, Loader, Parts, is_relevant},
};

/// A text that is borrowed where it holds no escapes.
#[derive(Default)]
struct Str<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for TextVisitor<'a> {
            type Value = Str<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Str<'a>, E> {
                Ok(Str(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Str<'a>, E> {
                Ok(Str(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor(PhantomData))
    }
}

/// The few labels and annotations that say something about access.
#[derive(Default)]
struct Marks<'a> {
    workspace: Option<Str<'a>>,
    devops: Option<Str<'a>>,
    user: Option<Str<'a>>,
    template: Option<Str<'a>>,
    aggregation: Option<Str<'a>>,
    rego: Option<Str<'a>>,
    dependencies: Option<Str<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Marks<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MarksVisitor<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for MarksVisitor<'a> {
            type Value = Marks<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }
            fn visit_unit<E>(self) -> Result<Marks<'a>, E> {
                Ok(Marks::default())
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Marks<'a>, M::Error> {
                let mut marks = Marks::default();
                while let Some(Str(name)) = map.next_key::<Str<'a>>()? {
                    let place = match &*name {
                        WORKSPACE => &mut marks.workspace,
                        DEVOPS_PROJECT => &mut marks.devops,
                        USER_REF => &mut marks.user,
                        TEMPLATE => &mut marks.template,
                        AGGREGATION => &mut marks.aggregation,
                        REGO => &mut marks.rego,
                        DEPENDENCIES => &mut marks.dependencies,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *place = map.next_value()?;
                }
                Ok(marks)
            }
        }
        deserializer.deserialize_any(MarksVisitor(PhantomData))
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Str<'a>,
    #[serde(borrow)]
    namespace: Option<Str<'a>>,
    deletion_timestamp: Option<IgnoredAny>,
    #[serde(borrow)]
    labels: Marks<'a>,
    #[serde(borrow)]
    annotations: Marks<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reference<'a> {
    #[serde(borrow)]
    kind: Str<'a>,
    #[serde(borrow)]
    namespace: Option<Str<'a>>,
    #[serde(borrow)]
    name: Str<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Line<'a> {
    #[serde(borrow)]
    api_version: Str<'a>,
    #[serde(borrow)]
    kind: Str<'a>,
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow)]
    rules: Option<&'a RawValue>,
    #[serde(borrow)]
    role_ref: Option<Reference<'a>>,
    #[serde(borrow)]
    subjects: Option<Vec<Reference<'a>>>,
    #[serde(borrow)]
    users: Option<&'a RawValue>,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
}

fn get<'t>(text: Option<&'t Str<'_>>) -> Option<&'t str> {
    text.map(|text| &*text.0)
}

/// What a line of JSON is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// An object or a List of them. It was taken up, unless it is of a kind on which access does not depend.
    Object,
    /// No object.
    Other,
}

impl Loader {
    /// Takes up the object in a text.
    ///
    /// # Errors
    /// The text is not JSON.
    pub fn add_json(&mut self, text: &str) -> Result<LineKind, serde_json::Error> {
        let line: Line<'_> = match serde_json::from_str(text) {
            Ok(line) => line,
            Err(error) if error.is_data() => return self.add_leniently(text),
            Err(error) => return Err(error),
        };
        let kind = &*line.kind.0;
        let group = line.api_version.0.rsplit_once('/').map_or("", |(group, _)| group);
        if kind.is_empty() || kind.ends_with("List") || line.metadata.name.0.is_empty() {
            return self.add_leniently(text);
        }
        if !is_relevant(group, kind) {
            return Ok(LineKind::Object);
        }
        // Rare kinds, whose parts lie deeper.
        if group == FEDERATED_GROUP
            || group == INSTALLER_GROUP
            || line.users.is_some()
            || kind.starts_with("Workspace") && line.spec.is_some()
        {
            return self.add_leniently(text);
        }
        let meta = &line.metadata;
        let role = line.role_ref.unwrap_or_default();
        let subjects = line.subjects.unwrap_or_default();
        let (labels, annotations) = (&meta.labels, &meta.annotations);
        self.take(Parts {
            group,
            kind,
            namespace: get(meta.namespace.as_ref()).unwrap_or_default(),
            name: &meta.name.0,
            is_being_deleted: meta.deletion_timestamp.is_some(),
            workspace: get(labels.workspace.as_ref()),
            devops: get(labels.devops.as_ref()),
            user: get(labels.user.as_ref()),
            template: get(labels.template.as_ref()),
            aggregation: get(annotations.aggregation.as_ref()),
            rego: get(annotations.rego.as_ref()),
            dependencies: get(annotations.dependencies.as_ref()),
            rules: line.rules.map(RawValue::get),
            role_kind: &role.kind.0,
            role: &role.name.0,
            subjects: subjects
                .iter()
                .map(|subject| {
                    let namespace = get(subject.namespace.as_ref()).unwrap_or_default();
                    [&*subject.kind.0, namespace, &*subject.name.0]
                })
                .collect(),
            ..Parts::default()
        });
        Ok(LineKind::Object)
    }

    /// Fields of other types than they ought to be count as absent.
    fn add_leniently(&mut self, text: &str) -> Result<LineKind, serde_json::Error> {
        let value = serde_json::from_str(text)?;
        Ok(self.add_value(value))
    }

    fn add_value(&mut self, mut value: Value) -> LineKind {
        let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        if let Some(Value::Array(items)) = value.get_mut("items").filter(|_| is_list) {
            let mut items = std::mem::take(items).into_iter();
            let are_objects = items.all(|item| self.add_value(item) == LineKind::Object);
            return if are_objects {
                LineKind::Object
            } else {
                LineKind::Other
            };
        }
        match Object::try_from(value) {
            Ok(object) => {
                self.add(&object);
                LineKind::Object
            }
            Err(_) => LineKind::Other,
        }
    }
}
