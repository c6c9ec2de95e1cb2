//! Backups in object storage: S3 and what is compatible with it, Google Cloud Storage, Azure. Credentials, region and
//! endpoint are taken from the environment, under the names that these services' own tools use.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
};

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, WriteMultipart, parse_url_opts, path::Path,
};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::{BEGINNING, Listed, Location, StoreError, describe, io_error, is_named_so, storage};
use crate::archive::ArchiveError;

/// Bytes a part of an upload, and how many parts are under way at once.
const PART: usize = 8 << 20;
const PARTS: usize = 4;

fn connect(url: &Url, location: &Location) -> Result<(Box<dyn ObjectStore>, Path), StoreError> {
    // Its client takes the process' provider. That there is one already is fine.
    crate::choose_tls();
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        Some((
            name.into_string().ok()?.to_ascii_lowercase(),
            value.into_string().ok()?,
        ))
    });
    parse_url_opts(url, environment).map_err(|error| storage("use", location, error))
}

pub(super) async fn put(url: &Url, location: &Location, file: &mut File) -> Result<(), StoreError> {
    let (store, path) = connect(url, location)?;
    put_to(store.as_ref(), &path, location, file).await
}

async fn put_to(
    store: &dyn ObjectStore,
    path: &Path,
    location: &Location,
    file: &mut File,
) -> Result<(), StoreError> {
    let io = |source| io_error("read", location, source);
    match store.head(path).await {
        Err(Error::NotFound { .. }) => {}
        Ok(_) => {
            return Err(ArchiveError::Exists {
                name: location.to_string(),
            }
            .into());
        }
        Err(error) => return Err(storage("write", location, error)),
    }
    file.rewind().map_err(io)?;
    let upload = store
        .put_multipart(path)
        .await
        .map_err(|error| storage("write", location, error))?;
    let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = file.read(&mut buffer).map_err(io)?;
        if read == 0 {
            break;
        }
        upload
            .wait_for_capacity(PARTS)
            .await
            .map_err(|error| storage("write", location, error))?;
        upload.write(&buffer[..read]);
    }
    // Aborts the upload when it fails.
    upload
        .finish()
        .await
        .map_err(|error| storage("write", location, error))?;
    let mut digest = Sha256::new();
    get_from(store, path, location, |bytes| {
        digest.update(bytes);
        Ok(())
    })
    .await?;
    if crate::file::digest(file).map_err(io)? != <[u8; 32]>::from(digest.finalize()) {
        return Err(ArchiveError::Altered {
            name: location.to_string(),
        }
        .into());
    }
    Ok(())
}

pub(super) async fn get(url: &Url, location: &Location, file: &mut File) -> Result<(), StoreError> {
    let (store, path) = connect(url, location)?;
    get_from(store.as_ref(), &path, location, |bytes| {
        file.write_all(bytes)
            .map_err(|source| io_error("keep a copy of", location, source))
    })
    .await
}

async fn get_from(
    store: &dyn ObjectStore,
    path: &Path,
    location: &Location,
    mut take: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let answer = store.get(path).await.map_err(|error| match error {
        Error::NotFound { .. } => StoreError::NotFound(location.clone()),
        error => storage("read", location, error),
    })?;
    let mut bytes = answer.into_stream();
    while let Some(part) = bytes.next().await {
        take(&part.map_err(|error| storage("read", location, error))?)?;
    }
    Ok(())
}

pub(super) async fn list(url: &Url, place: &Location) -> Result<Vec<Listed>, StoreError> {
    let (store, path) = connect(url, place)?;
    list_in(store.as_ref(), &path, url, place).await
}

async fn list_in(
    store: &dyn ObjectStore,
    prefix: &Path,
    url: &Url,
    place: &Location,
) -> Result<Vec<Listed>, StoreError> {
    let failed = |error: Error| storage("read", place, error);
    let all: Vec<_> = store.list(Some(prefix)).try_collect().await.map_err(failed)?;
    let mut found = Vec::new();
    for object in all {
        if !object.location.filename().is_some_and(is_named_so) {
            continue;
        }
        let range = GetOptions {
            range: Some(GetRange::Bounded(0..object.size.min(BEGINNING as u64))),
            ..GetOptions::default()
        };
        let beginning = store.get_opts(&object.location, range).await.map_err(failed)?;
        let beginning = beginning.bytes().await.map_err(failed)?;
        let mut url = url.clone();
        url.set_path(object.location.as_ref());
        let modified = jiff::Timestamp::from_second(object.last_modified.timestamp()).ok();
        found.push(describe(
            Location::Object(url),
            object.size,
            modified,
            &beginning,
            false,
        ));
    }
    Ok(found)
}

pub(super) async fn delete(url: &Url, location: &Location) -> Result<(), StoreError> {
    let (store, path) = connect(url, location)?;
    // Not every service says that there was nothing.
    store.head(&path).await.map_err(|error| match error {
        Error::NotFound { .. } => StoreError::NotFound(location.clone()),
        error => storage("delete", location, error),
    })?;
    store
        .delete(&path)
        .await
        .map_err(|error| storage("delete", location, error))
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    const PLACE: &str = "s3://bucket/backups/";

    fn mk_file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn at(name: &str) -> (Path, Location) {
        let location: Location = format!("{PLACE}{name}").parse().unwrap();
        (Path::from(format!("backups/{name}")), location)
    }

    #[tokio::test]
    async fn what_is_put_is_got_again() {
        let store = InMemory::new();
        // More than one part.
        let bytes: Vec<u8> = (0..PART + 12_345)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        let (path, location) = at("a.tar.zst");
        put_to(&store, &path, &location, &mut mk_file(&bytes))
            .await
            .unwrap();
        let mut got = Vec::new();
        get_from(&store, &path, &location, |part| {
            got.extend_from_slice(part);
            Ok(())
        })
        .await
        .unwrap();
        assert!(got == bytes);

        let error = put_to(&store, &path, &location, &mut mk_file(b"other"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, StoreError::Archive(ArchiveError::Exists { .. })),
            "{error}"
        );
        let (path, location) = at("b.tar.zst");
        let error = get_from(&store, &path, &location, |_| Ok(())).await.unwrap_err();
        assert!(matches!(error, StoreError::NotFound(_)), "{error}");
    }

    #[tokio::test]
    async fn only_backups_are_listed() {
        let store = InMemory::new();
        for (name, text) in [
            ("a.tar.zst", "x"),
            ("b.tar.zst.age", "age-encryption.org/v1\n"),
            ("notes.txt", "x"),
        ] {
            let (path, location) = at(name);
            put_to(&store, &path, &location, &mut mk_file(text.as_bytes()))
                .await
                .unwrap();
        }
        let place: Location = PLACE.parse().unwrap();
        let url = PLACE.parse().unwrap();
        let found = list_in(&store, &Path::from("backups"), &url, &place)
            .await
            .unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|l| (l.location.to_string(), l.is_encrypted))
            .collect();
        assert_eq!(
            found,
            [
                (format!("{PLACE}a.tar.zst"), false),
                (format!("{PLACE}b.tar.zst.age"), true)
            ]
        );
    }

    /// No credentials are needed to see that the address is understood, TLS included.
    #[test]
    fn services_are_known_by_their_urls() {
        for text in ["s3://bucket/a", "gs://bucket/a", "az://container/a"] {
            let location: Location = text.parse().unwrap();
            let Location::Object(url) = &location else {
                panic!("{location} is in object storage");
            };
            let known = connect(url, &location).map(|(_, path)| path.to_string());
            match known {
                Ok(path) => assert_eq!(path, "a"),
                // Azure's address has no account in it, which the environment gives.
                Err(error) => assert!(error.to_string().contains("ccount"), "{error}"),
            }
        }
    }
}
