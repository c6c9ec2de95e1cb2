//! [`Files`]: release data by path.

use std::{borrow::Cow, collections::BTreeMap};

/// What `build.rs` made of `releases/`.
static EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// A text; one that is compiled in is not copied.
pub(crate) type Text = Cow<'static, str>;

/// Text files by their path below `releases/`, e.g. `v3.3.1/release.yaml`.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<Text, Text>);

impl Files {
    /// The release data that is compiled in. What is no template there is JSON here, a line a document.
    pub fn embedded() -> Self {
        let files = EMBEDDED.iter();
        Self(
            files
                .map(|(path, text)| ((*path).into(), (*text).into()))
                .collect(),
        )
    }

    pub fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(AsRef::as_ref)
    }

    /// The files below a folder, by their path inside it.
    pub(crate) fn below<'a>(&'a self, folder: &str) -> impl Iterator<Item = (&'a str, &'a Text)> {
        let prefix = format!("{}/", folder.trim_end_matches('/'));
        self.0
            .iter()
            .filter_map(move |(path, text)| Some((path.strip_prefix(&prefix)?, text)))
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(AsRef::as_ref)
    }
}

impl<P: Into<String>, T: Into<String>> FromIterator<(P, T)> for Files {
    fn from_iter<I: IntoIterator<Item = (P, T)>>(files: I) -> Self {
        let files = files.into_iter();
        Self(
            files
                .map(|(path, text)| (path.into().into(), text.into().into()))
                .collect(),
        )
    }
}
