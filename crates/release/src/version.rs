//! [`Version`] and [`VersionRange`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is no version or version range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a version")]
pub struct InvalidVersion(String);

/// A semantic version, written with a leading `v`: `v3.3.1`, `v1.20.2`, `v1.21.5-eks-bc4871b`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(semver::Version);

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let bare = text.trim().trim_start_matches('v');
        semver::Version::parse(bare)
            .map(Self)
            .map_err(|_| InvalidVersion(text.to_owned()))
    }
}

impl TryFrom<String> for Version {
    type Error = InvalidVersion;

    fn try_from(text: String) -> Result<Self, InvalidVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl Version {
    /// The version without pre-release and build parts: distributions write `v1.21.5-eks-bc4871b` for what is
    /// Kubernetes 1.21.5, which semver would order before it.
    pub fn core(&self) -> Self {
        Self(semver::Version::new(self.0.major, self.0.minor, self.0.patch))
    }

    pub fn major(&self) -> u64 {
        self.0.major
    }

    pub fn minor(&self) -> u64 {
        self.0.minor
    }
}

/// A semver range, e.g. `>=1.19, <1.23`. Suffixes of the version asked about are left out of the comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VersionRange(semver::VersionReq);

impl FromStr for VersionRange {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        semver::VersionReq::parse(text)
            .map(Self)
            .map_err(|_| InvalidVersion(text.to_owned()))
    }
}

impl TryFrom<String> for VersionRange {
    type Error = InvalidVersion;

    fn try_from(text: String) -> Result<Self, InvalidVersion> {
        text.parse()
    }
}

impl From<VersionRange> for String {
    fn from(range: VersionRange) -> String {
        range.to_string()
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl VersionRange {
    pub fn contains(&self, version: &Version) -> bool {
        self.0.matches(&version.core().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendor_suffix_does_not_lower_a_version() {
        let check = |range: &str, version: &str, expect: bool| {
            let range: VersionRange = range.parse().unwrap();
            assert_eq!(
                range.contains(&version.parse().unwrap()),
                expect,
                "{version} in {range}"
            );
        };
        check(">=1.19, <1.23", "v1.19.0", true);
        check(">=1.19, <1.23", "v1.22.17-eks-48e63af", true);
        check(">=1.19, <1.23", "v1.20.2+k3s1", true);
        check(">=1.19, <1.23", "v1.23.0", false);
        check("1.23", "v1.23.9", true);
        check("~1.23", "v1.24.0", false);
    }

    #[test]
    fn a_version_is_written_with_its_v() {
        for text in ["v3.3.1", "3.3.1"] {
            assert_eq!(text.parse::<Version>().unwrap().to_string(), "v3.3.1");
        }
        assert_eq!(
            "nightly".parse::<Version>(),
            Err(InvalidVersion("nightly".into()))
        );
    }
}
