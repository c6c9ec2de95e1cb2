//! Where a backup is: a path, `secret://kubesphere-system/ID`, or a URL of object storage.

use std::{fmt, path::PathBuf, str::FromStr};

use jiff::Timestamp;
use url::Url;

/// Where a backup is kept, or a place to keep backups in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// A file, or a folder.
    File(PathBuf),
    /// Secrets of a namespace; without an ID all that are there.
    Secret { namespace: String, id: Option<String> },
    /// An object in object storage, or, when its path is empty or ends with a slash, all below it.
    Object(Url),
}

/// The namespace that backups are kept in as Secrets.
pub const NAMESPACE: &str = "kubesphere-system";

const SCHEMES: [&str; 9] = ["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "memory"];

/// Why a text is no location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error("a location is missing")]
    Empty,
    #[error("{0:?} is no location: write secret://{NAMESPACE}/ID")]
    Secret(String),
    #[error(
        "{id:?} cannot name a backup: use up to 40 lower-case letters, digits and dashes, with a letter or a digit at both ends"
    )]
    Id { id: String },
    #[error("backups are not kept at {scheme}://; use a path, secret://, s3://, gs:// or az://")]
    Scheme { scheme: String },
    #[error("{text:?} is no URL: {problem}")]
    Url { text: String, problem: String },
    #[error("a URL must hold no user name and no password: credentials are taken from the environment")]
    Credentials,
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::File(text.into()));
        };
        match scheme {
            "secret" => secret(text, rest),
            "file" => {
                let path = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
                path.map(Self::File).ok_or_else(|| LocationError::Url {
                    text: text.to_owned(),
                    problem: "write file:///path".to_owned(),
                })
            }
            scheme if SCHEMES.contains(&scheme) => {
                let url = Url::parse(text).map_err(|error| LocationError::Url {
                    text: text.to_owned(),
                    problem: error.to_string(),
                })?;
                // az://container@account is the form of one service; a password never belongs there.
                let has_user = !url.username().is_empty() && !scheme.starts_with('a');
                if has_user || url.password().is_some() || url.query().is_some() {
                    return Err(LocationError::Credentials);
                }
                Ok(Self::Object(url))
            }
            scheme => Err(LocationError::Scheme {
                scheme: scheme.to_owned(),
            }),
        }
    }
}

fn secret(text: &str, rest: &str) -> Result<Location, LocationError> {
    let (namespace, id) = rest.split_once('/').unwrap_or((rest, ""));
    if !is_name(namespace, 63) {
        return Err(LocationError::Secret(text.to_owned()));
    }
    if !id.is_empty() && !is_name(id, 40) {
        return Err(LocationError::Id { id: id.to_owned() });
    }
    Ok(Location::Secret {
        namespace: namespace.to_owned(),
        id: Some(id.to_owned()).filter(|id| !id.is_empty()),
    })
}

/// Whether it can be the name of a namespace, or a part of a Secret's name and a label.
fn is_name(text: &str, longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Secret { namespace, id } => {
                write!(f, "secret://{namespace}/{}", id.as_deref().unwrap_or_default())
            }
            Self::Object(url) => write!(f, "{url}"),
        }
    }
}

impl Location {
    /// Whether this holds backups, and is none itself.
    pub fn is_place(&self) -> bool {
        match self {
            Self::File(path) => path.is_dir() || path.to_string_lossy().ends_with('/'),
            Self::Secret { id, .. } => id.is_none(),
            Self::Object(url) => url.path().is_empty() || url.path().ends_with('/'),
        }
    }

    /// The location itself, or, when it is a place, a new one in it that is named after the time:
    /// `kubesphere-backup-2026-01-31T10-00-00-000000Z.tar.zst`, with `.age` behind it when it is encrypted. The millionths of
    /// the second keep two of one second apart.
    #[must_use]
    pub fn for_new_backup(self, now: Timestamp, is_encrypted: bool) -> Self {
        if !self.is_place() {
            return self;
        }
        let time = now.strftime("%Y-%m-%dT%H-%M-%S-%6fZ").to_string();
        let extension = if is_encrypted { ".age" } else { "" };
        let name = format!("kubesphere-backup-{time}.tar.zst{extension}");
        match self {
            Self::File(folder) => Self::File(folder.join(name)),
            Self::Secret { namespace, .. } => Self::Secret {
                namespace,
                id: Some(time.to_lowercase()),
            },
            Self::Object(mut url) => {
                let path = format!("{}/{name}", url.path().trim_end_matches('/'));
                url.set_path(&path);
                Self::Object(url)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_and_shown_again() {
        let check = |text: &str, place: bool, named: &str| {
            let location: Location = text.parse().unwrap();
            assert_eq!(
                location.to_string().parse::<Location>().unwrap(),
                location,
                "{text}"
            );
            assert_eq!(location.is_place(), place, "{text}");
            let now = Timestamp::from_millisecond(1_700_000_000_007).unwrap();
            assert_eq!(location.for_new_backup(now, true).to_string(), named);
        };
        let new = "kubesphere-backup-2023-11-14T22-13-20-007000Z.tar.zst.age";
        check("a.tar.zst", false, "a.tar.zst");
        check("/nonexistent/a", false, "/nonexistent/a");
        check("/nonexistent/", true, &format!("/nonexistent/{new}"));
        check("file:///nonexistent/a%20b", false, "/nonexistent/a b");
        check(
            "secret://kubesphere-system/a-1",
            false,
            "secret://kubesphere-system/a-1",
        );
        check(
            "secret://kubesphere-system",
            true,
            "secret://kubesphere-system/2023-11-14t22-13-20-007000z",
        );
        check("s3://bucket", true, &format!("s3://bucket/{new}"));
        check("s3://bucket/a/b/", true, &format!("s3://bucket/a/b/{new}"));
        check("s3://bucket/a/b.tar.zst", false, "s3://bucket/a/b.tar.zst");
        check(
            "abfss://c@account.dfs.core.windows.net/a",
            false,
            "abfss://c@account.dfs.core.windows.net/a",
        );
    }

    #[test]
    fn what_is_no_location_is_refused() {
        let check = |text: &str, expect: &str| {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        };
        check("", "missing");
        check("ftp://host/a", "ftp://");
        check("secret:///a", "write secret://");
        check("secret://ns/A_b", "cannot name a backup");
        check("secret://ns/a/b", "cannot name a backup");
        check("s3://key:hunter2@bucket/a", "no password");
        check("s3://bucket/a?X-Amz-Signature=hunter2", "no password");
        for text in ["s3://key:hunter2@bucket/a", "s3://b/a?token=hunter2"] {
            assert!(
                !text
                    .parse::<Location>()
                    .unwrap_err()
                    .to_string()
                    .contains("hunter2")
            );
        }
    }
}
