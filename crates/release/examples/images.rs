//! Writes the images of the newest release to standard output, one a line, sorted: what a registry must hold for clusters
//! that reach no other.

use std::{collections::BTreeSet, error::Error, io::Write as _};

use release::{Cluster, Inputs, Releases, declared_images, images_of, render};
use serde_json::{Map, json};

fn main() -> Result<(), Box<dyn Error>> {
    let releases = Releases::embedded()?;
    let release = releases.latest().ok_or("there is no release")?;
    let mut images: BTreeSet<String> = declared_images(release).into_iter().collect();
    // What manifests name beside what is declared; a cluster and settings like any.
    for component in &release.components {
        let settings = release
            .read_settings(component, &json!({}))
            .map_err(|errors| format!("{}: {errors:?}", component.name))?;
        let cluster = Cluster {
            kubernetes_version: "v1.22.0".into(),
            nodes: 3,
            masters: 1,
            ..Cluster::default()
        };
        let inputs = Inputs {
            settings,
            cluster,
            existing: Map::new(),
        };
        images.extend(images_of(&render(release, component, &inputs)?));
    }
    let mut text = Vec::from_iter(images).join("\n");
    text.push('\n');
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
