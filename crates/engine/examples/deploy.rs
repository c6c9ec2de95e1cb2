//! Writes what is deployed and documented about the installer in the cluster to standard output: a JSON object of
//! texts by path below the workspace's root.

use std::{error::Error, io::Write as _};

use cluster::{Scope, is_platform_group};
use release::{Files, Releases};
use serde_json::json;
use upgrade::permissions::{self, Reads};

fn main() -> Result<(), Box<dyn Error>> {
    let releases = Releases::embedded()?;
    let scope = Scope::upgrade();
    let own = |(group, kind): (&str, &str)| (group.to_owned(), kind.to_owned());
    let reads = Reads {
        everywhere: scope.everywhere().map(own).collect(),
        platform: scope.in_platform().map(own).collect(),
    };
    let rights = permissions::rights(&releases, &Files::embedded(), &reads, is_platform_group)?;
    let release = releases.latest().ok_or("there is no release")?;
    let files = json!({
        "deploy/kubesphere-installer.yaml": permissions::manifest(release, &rights),
        "docs/permissions.md": permissions::document(&rights),
    });
    Ok(std::io::stdout().write_all(files.to_string().as_bytes())?)
}
