//! The access catalogs of all releases known, also of those of which nothing else is known.

use access::{AccessFile, Catalog, Policy};

use crate::{Files, LoadError, Version};

fn path(version: &Version) -> String {
    format!("{version}/access.yaml")
}

/// The releases that have an access catalog, oldest first.
pub fn catalog_versions(files: &Files) -> Vec<Version> {
    let mut versions: Vec<Version> = files
        .paths()
        .filter_map(|path| path.strip_suffix("/access.yaml")?.parse().ok())
        .collect();
    versions.sort();
    versions
}

/// Of the releases that have a catalog, the one whose roles a cluster of that version has: itself, else the last one before it,
/// else the first.
pub fn nearest_catalog_version(files: &Files, installed: &Version) -> Option<Version> {
    let known = catalog_versions(files);
    let core = installed.core();
    let nearest = known.iter().rev().find(|version| **version <= core);
    nearest.or(known.first()).cloned()
}

/// The access catalog of a release and its policy, put together with the releases that it is based on.
///
/// # Errors
/// There is no such catalog, or it cannot be read.
pub fn load_catalog(files: &Files, version: &Version) -> Result<(Catalog, Policy), LoadError> {
    let file = path(version);
    let error = |message: String| LoadError {
        file: file.clone(),
        message,
    };
    let text = files
        .get(&file)
        .ok_or_else(|| error("there is no such file".into()))?;
    let parsed: AccessFile = object::parse_document(text).map_err(error)?;
    let base = match &parsed.base {
        None => None,
        Some(base) => {
            let base: Version = base
                .parse()
                .map_err(|_| error(format!("base {base} is no version")))?;
            Some(load_catalog(files, &base)?.0)
        }
    };
    parsed
        .into_catalog(base.as_ref())
        .map_err(|e| error(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_catalog_is_not_of_a_later_release() {
        let files: Files = ["v3.2.0", "v3.2.1", "v3.3.1"]
            .map(|version| (format!("{version}/access.yaml"), ""))
            .into_iter()
            .collect();
        let check = |installed: &str, expect: &str| {
            let found = nearest_catalog_version(&files, &installed.parse().unwrap());
            assert_eq!(found, Some(expect.parse().unwrap()), "{installed}");
        };
        check("v3.2.1", "v3.2.1");
        check("v3.3.1-rc.2", "v3.3.1");
        check("v3.2.7", "v3.2.1");
        check("v3.1.0", "v3.2.0");
        check("v9.0.0", "v3.3.1");
    }

    #[test]
    fn every_catalog_can_be_read() {
        let files = Files::embedded();
        let versions = catalog_versions(&files);
        assert!(versions.len() >= 2, "{versions:?}");
        for version in versions {
            let (catalog, _) = load_catalog(&files, &version).unwrap();
            assert!(catalog.objects().count() > 100, "{version}");
        }
    }
}
