//! `images --platforms`: what the registries say of the images.
//!
//! Only manifests are asked for (OCI distribution specification, "Pulling manifests"), never layers.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, stream};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    config::ConfigFile,
    errors::{OciDistributionError, OciErrorCode},
    manifest::OciManifest,
    secrets::RegistryAuth,
};
use serde::Serialize;
use upgrade::components::ImageUse;

use crate::{commands::Verdict, output};

/// How many images are asked about at once: public registries limit who asks for more.
const CONCURRENCY: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(30);

/// An image, and what its registry said.
#[derive(Debug, Serialize)]
struct Looked {
    #[serde(flatten)]
    usage: ImageUse,
    /// `linux/amd64`, `linux/arm/v7`; empty where there was no answer.
    platforms: BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Asks about all of them, and prints what came back.
pub(super) async fn print(
    images: Vec<ImageUse>,
    plain_http: Vec<String>,
    json: bool,
) -> anyhow::Result<Verdict> {
    cluster::choose_tls();
    let client = Client::try_from(ClientConfig {
        protocol: ClientProtocol::HttpsExcept(plain_http),
        connect_timeout: Some(TIMEOUT),
        read_timeout: Some(TIMEOUT),
        ..ClientConfig::default()
    })?;
    let client = &client;
    // In the order of the images.
    let looked: Vec<Looked> = stream::iter(images)
        .map(|usage| async move {
            let (platforms, error) = match platforms(client, &usage.image).await {
                Ok(platforms) => (platforms, None),
                Err(error) => (BTreeSet::new(), Some(error)),
            };
            Looked {
                usage,
                platforms,
                error,
            }
        })
        .buffered(CONCURRENCY)
        .collect()
        .await;
    let failed = looked.iter().filter(|image| image.error.is_some()).count();
    if json {
        output::json(&looked)?;
    } else {
        output::print(&table(&looked));
        if failed > 0 {
            output::note(&format!(
                "{failed} of {} images were not found, or their registry did not tell\nhint: copy what is missing there; a registry that speaks HTTP alone is named with --plain-http HOST, and one that wants a login has to be asked by other means",
                looked.len()
            ));
        }
    }
    Ok(if failed == 0 {
        Verdict::Done
    } else {
        Verdict::Refused
    })
}

fn table(looked: &[Looked]) -> String {
    let width = looked.iter().map(|image| image.usage.image.len()).max();
    let width = width.unwrap_or_default();
    let lines = looked.iter().map(|image| {
        let platforms: Vec<&str> = image.platforms.iter().map(String::as_str).collect();
        let told = image.error.clone().unwrap_or_else(|| platforms.join(", "));
        format!("{:width$}  {told}\n", image.usage.image)
    });
    lines.collect()
}

async fn platforms(client: &Client, image: &str) -> Result<BTreeSet<String>, String> {
    let reference: Reference = image
        .parse()
        .map_err(|error| format!("this is no name of an image: {error}"))?;
    let auth = RegistryAuth::Anonymous;
    let (manifest, _) = client.pull_manifest(&reference, &auth).await.map_err(words)?;
    let OciManifest::ImageIndex(index) = manifest else {
        // An image for one platform says only in its configuration for which.
        let (_, _, config) = client
            .pull_manifest_and_config(&reference, &auth)
            .await
            .map_err(words)?;
        let config: ConfigFile = serde_json::from_str(&config)
            .map_err(|error| format!("its configuration cannot be read: {error}"))?;
        return Ok([format!("{}/{}", config.os, config.architecture)].into());
    };
    let platforms = index.manifests.into_iter().filter_map(|entry| entry.platform);
    let names = platforms.map(|platform| {
        let variant = platform.variant.map(|variant| format!("/{variant}"));
        format!(
            "{}/{}{}",
            platform.os,
            platform.architecture,
            variant.unwrap_or_default()
        )
    });
    // Builders attach what they know of a build as an image for no platform.
    Ok(names.filter(|name| name != "unknown/unknown").collect())
}

/// What a registry's refusal means for who asked.
fn words(error: OciDistributionError) -> String {
    use OciErrorCode::{Denied, ManifestUnknown, NameUnknown, NotFound, Unauthorized};
    let codes: Vec<&OciErrorCode> = match &error {
        OciDistributionError::ImageManifestNotFoundError(_) => vec![&ManifestUnknown],
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            vec![&Unauthorized]
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().map(|error| &error.code).collect()
        }
        _ => Vec::new(),
    };
    let is = |known: &[OciErrorCode]| codes.iter().any(|code| known.contains(code));
    if is(&[ManifestUnknown, NameUnknown, NotFound]) {
        return "not in the registry".to_owned();
    }
    if is(&[Unauthorized, Denied]) {
        return "the registry does not tell without a login, or does not have it".to_owned();
    }
    match error {
        OciDistributionError::RequestError(error) => {
            let mut told = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(reason) = cause {
                told = reason.to_string();
                cause = reason.source();
            }
            format!("the registry cannot be reached: {told}")
        }
        other => format!("the registry refused: {other}"),
    }
}
