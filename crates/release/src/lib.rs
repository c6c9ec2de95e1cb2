//! What a KubeSphere release is, as data: which versions it upgrades, its components, their manifests and how
//! settings fill them, its images. Pure: nothing here reads a cluster, a file, a clock or a random source.
//!
//! ```text
//!   releases/ (embedded) ──▶ Releases ──▶ Release ──▶ Component
//!                                            │             │ read_settings(spec), observe(objects)
//!                                            ▼             ▼
//!                                        render(release, component, Inputs) ──▶ Vec<Manifest>   in apply order
//!                                                                                  │
//!                              secret::References stand in them for every secret ──┘
//!
//!   helm::Record ◀──▶ Secret sh.helm.release.v1.NAME.vN      what the old release owned, what the new one records
//! ```
//!
//! Knowledge of one KubeSphere version lives in `releases/`, never here.

mod catalogs;
mod certificate;
mod component;
mod files;
pub mod helm;
mod image;
mod kinds;
mod lint;
mod release;
mod render;
pub mod secret;
mod setting;
mod template;
mod version;
mod yaml;

pub use catalogs::{catalog_versions, load_catalog, nearest_catalog_version};
pub use certificate::not_after;
pub use component::{
    Certificate, Chart, Check, Component, Data, GeneratedKey, GeneratedSecret, Gone, Health, HelmRelease,
    Observation, Recipe, Relabel, Switch, Target, is_named,
};
pub use files::Files;
pub use image::{Image, ImageOverride, Registry, declared_images, images, images_of};
pub use kinds::{Written, is_custom, is_own_group};
pub use lint::lint;
pub use release::{KubernetesSupport, LoadError, Release, Releases, Support, UpgradeFrom, UpgradePath};
pub use render::{Cluster, Inputs, Manifest, Phase, RenderError, render};
pub use setting::{Setting, SettingError, SettingType};
pub use version::{InvalidVersion, Version, VersionRange};
pub use yaml::to_yaml;
