//! The template language of manifests: Jinja whose `{{ … }}` comes out as a JSON value.
//!
//! | in templates | gives |
//! |---|---|
//! | `image("NAME")`, `image_repository("NAME")`, `image_tag("NAME")` | an image of the release, as the registry settings name it |
//! | `secret("NAMESPACE", "NAME", "KEY")`, with `"base64"` as a fourth | a reference to a secret, see [`crate::secret`] |
//! | `document("FILE")`, `documents("FILE")` | `documents/FILE` rendered and read: its one document, or the list of them |
//! | `value \| to_yaml`, `list \| to_yaml_documents`, `value \| to_json` | a text that holds the value |
//! | `text \| to_base64` | the text as Secrets hold it |
//! | `value \| digest` | ten characters that change with the value: for names of Jobs, and annotations that restart pods |
//! | `value \| at("a.b.c")` | what is at the path, or none |
//! | `value \| key("a/b.c", DEFAULT)` | what the map has under the key, or the default, or none |
//! | `version_at_least(VERSION, "1.24")` | whether a version, its vendor suffix aside, is that or later |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use sha2::{Digest as _, Sha256};

use crate::secret::Reference;
use crate::{Component, Inputs, Release, Version, yaml};

fn failure(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn to_json_value(value: &Value) -> Result<serde_json::Value, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    serde_json::to_value(value).map_err(|error| failure(error.to_string()))
}

/// An environment with the component's templates, by their path inside its folder, and the functions and filters.
/// Templates that are no Jinja are an error, with file and line.
pub(crate) fn environment(component: &Component) -> Result<Environment<'_>, Error> {
    let mut env = expressions()?;
    for (path, template) in &component.templates {
        if template.is_fixed && !path.starts_with("documents/") {
            continue;
        }
        env.add_template(path, &template.text)?;
    }
    Ok(env)
}

/// An environment with the functions and filters alone: for expressions.
pub(crate) fn expressions<'a>() -> Result<Environment<'a>, Error> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::Json);
    env.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    env.add_filter("to_json", |value: Value| {
        Ok::<_, Error>(to_json_value(&value)?.to_string())
    });
    env.add_filter("to_yaml", |value: Value| {
        Ok::<_, Error>(yaml::to_yaml(&to_json_value(&value)?))
    });
    env.add_filter("to_yaml_documents", |value: Value| match to_json_value(&value)? {
        serde_json::Value::Array(documents) => Ok(documents
            .iter()
            .map(yaml::to_yaml)
            .collect::<Vec<_>>()
            .join("---\n")),
        _ => Err(failure("to_yaml_documents wants a list of documents")),
    });
    env.add_filter("to_base64", |text: String| STANDARD.encode(text));
    env.add_filter("digest", |value: Value| {
        let text = to_json_value(&value)?.to_string();
        let digest = Sha256::digest(text.as_bytes());
        let number = digest
            .iter()
            .take(5)
            .fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        Ok::<_, Error>(format!("{number:010x}"))
    });
    env.add_filter("at", |value: Value, path: String| {
        let mut value = value;
        for name in path.split('.') {
            value = value.get_attr(name).unwrap_or_default();
        }
        if value.is_undefined() {
            Value::from(())
        } else {
            value
        }
    });
    env.add_filter("key", |value: Value, name: String, default: Option<Value>| {
        let found = value.get_item(&Value::from(name)).unwrap_or_default();
        if found.is_undefined() || found.is_none() {
            default.unwrap_or_else(|| Value::from(()))
        } else {
            found
        }
    });
    env.add_test("address", |text: String| text.parse::<std::net::IpAddr>().is_ok());
    env.add_function("version_at_least", |version: String, least: String| {
        let parse = |text: &str| {
            text.parse::<Version>()
                .map_err(|error| failure(error.to_string()))
        };
        let least = if least.matches('.').count() == 1 {
            format!("{least}.0")
        } else {
            least
        };
        Ok::<_, Error>(parse(&version)?.core() >= parse(&least)?)
    });
    env.add_function(
        "secret",
        |namespace: String, name: String, key: String, flavour: Option<String>| {
            let base64 = match flavour.as_deref() {
                None => false,
                Some("base64") => true,
                Some(other) => return Err(failure(format!("unknown flavour {other:?} of a secret"))),
            };
            let reference = Reference::Secret {
                namespace,
                name,
                key,
                base64,
            };
            Ok(reference.to_string())
        },
    );
    Ok(env)
}

/// Adds the functions that depend on what is rendered for what.
pub(crate) fn bind(env: &mut Environment<'_>, release: &Release, inputs: &Inputs) {
    let images: std::collections::BTreeMap<String, (String, String)> = release
        .images
        .keys()
        .filter_map(|name| Some((name.clone(), release.resolve_image(name, inputs)?)))
        .collect();
    let images = std::sync::Arc::new(images);
    let find = move |name: &str| {
        images
            .get(name)
            .cloned()
            .ok_or_else(|| failure(format!("the release has no image {name:?}")))
    };
    let lookup = find.clone();
    env.add_function("image_repository", move |name: String| {
        lookup(&name).map(|(repository, _)| repository)
    });
    let lookup = find.clone();
    env.add_function("image_tag", move |name: String| lookup(&name).map(|(_, tag)| tag));
    env.add_function("image", move |name: String| {
        find(&name).map(|(repository, tag)| format!("{repository}:{tag}"))
    });
}

/// Adds the functions that read other templates, which see the same variables.
pub(crate) fn bind_documents(env: &mut Environment<'_>, context: &Value) {
    let ctx = context.clone();
    env.add_function("documents", move |state: &State, name: String| {
        read_documents(state, &ctx, &name).map(|documents| Value::from(Serde(documents)))
    });
    let ctx = context.clone();
    env.add_function("document", move |state: &State, name: String| {
        let mut documents = read_documents(state, &ctx, &name)?;
        match (documents.pop(), documents.is_empty()) {
            (Some(document), true) => Ok(Value::from(Serde(document))),
            _ => Err(failure(format!("documents/{name} does not hold one document"))),
        }
    });
}

fn read_documents(state: &State, context: &Value, name: &str) -> Result<Vec<serde_json::Value>, Error> {
    let path = format!("documents/{name}");
    let text = state.env().get_template(&path)?.render(context.clone())?;
    object::parse_documents(&text).map_err(|error| failure(format!("{path}: {error}")))
}
