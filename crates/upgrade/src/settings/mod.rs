//! What the operator chose: the ClusterConfiguration, of any age.
//!
//! ```text
//!   spec, status ─▶ convert ─▶ Conversion { spec in the shape of 3.3, notes }
//!                                  │
//!        ClusterConfiguration ◀────┤ spec_patch, status_patch, label_patch: in place
//!                                  ▼
//!                            Settings::parse ─▶ Settings ─▶ inputs ─▶ release::render
//!                                          └─▶ every setting of a wrong type
//! ```
//!
//! `known.txt` lists every setting since 3.0.

mod convert;
mod facts;
mod known;
mod patch;
mod path;
pub mod reasons;
mod secret;

use std::collections::BTreeSet;

use object::{Object, ObjectKey};
use release::{Component, Inputs, Release};
use serde_json::Value;

pub(crate) use self::path::merge_patch as merge_patch_between;
pub use self::{
    convert::{Conversion, convert},
    facts::{ClusterFacts, LiveFacts, cluster_facts},
    patch::{
        NOW, component_begun, component_status, is_disabled, is_enabled, is_marked, label_patch, spec_patch,
        status_on_its_way, status_patch,
    },
    secret::{PasswordError, Secret, check_password},
};
use crate::{Finding, Severity};

/// The ClusterConfiguration, which findings about settings are about.
pub fn cluster_configuration() -> ObjectKey {
    ObjectKey::namespaced(
        "installer.kubesphere.io",
        "ClusterConfiguration",
        "kubesphere-system",
        "ks-installer",
    )
}

/// A valid ClusterConfiguration. Its `Debug` shows no secrets.
#[derive(Clone)]
pub struct Settings {
    spec: Value,
    cluster: ClusterFacts,
    pub storage_class: StorageClass,
    /// `None`: one is made, and kept from then on.
    pub jwt_secret: Option<Secret>,
    pub admin_password: AdminPassword,
    pub high_availability: HighAvailability,
    pub redis: Redis,
    /// Whether KubeSphere keeps its users in openldap too: by choice, or because DevOps needs it.
    pub openldap: bool,
    pub multicluster: ClusterRole,
    /// Components beside ks-core that the settings ask for, as the ClusterConfiguration names them: those with a
    /// true `enabled`; `monitoring` always; `openpitrix` where the app store is enabled; `multicluster` on a host
    /// cluster; `network` where it installs something (weave-scope); `edgeruntime` where KubeEdge is enabled too.
    pub components: BTreeSet<String>,
}

/// Where volumes that the installer asks for come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageClass {
    /// `persistence.storageClass` is not there: the default class, and nobody checks that there is one.
    Unchecked,
    /// It is empty: the default class, which must exist.
    Default,
    /// This class, which must exist.
    Named(String),
}

/// The first password of User admin. It matters only where that user does not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminPassword {
    /// The setting is not there.
    Unset,
    /// It is empty: one is made.
    Generated,
    /// A password, or a bcrypt hash of one.
    Given(Secret),
}

/// Whether KubeSphere's own Deployments run more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HighAvailability {
    /// `enableHA`; where that is not set, whether there are two masters or more.
    pub enabled: bool,
    /// Of ks-apiserver, ks-console and ks-controller-manager: one per master; three where `enableHA` is true and
    /// there are fewer than two masters.
    pub replicas: usize,
}

/// Where ks-apiserver keeps its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redis {
    /// In its own memory.
    None,
    /// In one redis.
    Single,
    /// In redis-ha.
    HighlyAvailable,
}

/// What a cluster is in a federation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterRole {
    None,
    Host,
    Member,
}

impl Settings {
    /// Reads a spec in the shape of 3.3 (see [`convert`]).
    ///
    /// # Errors
    /// A blocker for every setting of a wrong type; the paths and what was expected, never the values.
    pub fn parse(spec: &Value, cluster: &ClusterFacts) -> Result<Self, Vec<Finding>> {
        let spec = known::typed(spec)?;
        let get = |path: &str| path::get(&spec, path);
        let text = |path: &str| get(path).and_then(Value::as_str);
        let is_true = |path: &str| get(path).and_then(Value::as_bool) == Some(true);

        let storage_class = match text("persistence.storageClass") {
            None => StorageClass::Unchecked,
            Some("") => StorageClass::Default,
            Some(name) => StorageClass::Named(name.to_owned()),
        };
        let admin_password = match text("authentication.adminPassword") {
            None => AdminPassword::Unset,
            Some("") => AdminPassword::Generated,
            Some(password) => AdminPassword::Given(Secret::new(password)),
        };
        let enable_ha = get("enableHA").and_then(Value::as_bool);
        let high_availability = HighAvailability {
            enabled: enable_ha.unwrap_or(cluster.masters >= 2),
            replicas: match cluster.masters {
                0 | 1 if enable_ha == Some(true) => 3,
                masters => masters.max(1),
            },
        };
        let redis = match (
            is_true("common.redis.enabled") || high_availability.enabled,
            is_true("common.redis.enableHA"),
        ) {
            (false, _) => Redis::None,
            (true, false) => Redis::Single,
            (true, true) => Redis::HighlyAvailable,
        };
        let multicluster = match text("multicluster.clusterRole") {
            Some("host") => ClusterRole::Host,
            Some("member") => ClusterRole::Member,
            _ => ClusterRole::None,
        };
        Ok(Self {
            storage_class,
            jwt_secret: text("authentication.jwtSecret")
                .filter(|text| !text.is_empty())
                .map(Secret::new),
            admin_password,
            high_availability,
            redis,
            openldap: is_true("common.openldap.enabled") || is_true("devops.enabled"),
            multicluster,
            components: components(&spec),
            spec,
            cluster: cluster.clone(),
        })
    }

    /// The spec with every known setting as the type that it should have. It holds the user's secrets.
    pub fn spec(&self) -> &Value {
        &self.spec
    }

    /// The value at a dotted path, e.g. `common.core.console.port`; null counts as none.
    pub fn get(&self, path: &str) -> Option<&Value> {
        path::get(&self.spec, path)
    }

    pub fn cluster(&self) -> &ClusterFacts {
        &self.cluster
    }

    /// What `component` is rendered from; `live` gives objects of the cluster ([`Component::observe`]). Secrets are in it as references.
    ///
    /// # Errors
    /// A blocker for every setting that the component cannot read.
    pub fn inputs<'a, L>(
        &self,
        release: &Release,
        component: &Component,
        live: impl Fn(&ObjectKey) -> L,
    ) -> Result<Inputs, Vec<Finding>>
    where
        L: IntoIterator<Item = &'a Object>,
    {
        let settings = release.read_settings(component, &self.spec).map_err(|errors| {
            let finding = |error: release::SettingError| {
                Finding::blocker(reasons::INVALID_SETTING, error.to_string()).on(cluster_configuration())
            };
            errors.into_iter().map(finding).collect::<Vec<_>>()
        })?;
        Ok(Inputs {
            settings,
            cluster: self.cluster.clone(),
            existing: component.observe(live),
        })
    }

    /// What a valid ClusterConfiguration may still do wrong. `has_admin`: User admin exists.
    pub fn check(&self, has_admin: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let AdminPassword::Given(password) = &self.admin_password
            && let Err(error) = check_password(password.expose())
        {
            let (severity, consequence) = if has_admin {
                (
                    Severity::Warning,
                    "; it has no effect, since User admin exists already",
                )
            } else {
                (Severity::Blocker, "")
            };
            findings.push(
                Finding::new(
                    severity,
                    reasons::ADMIN_PASSWORD,
                    format!("spec.authentication.adminPassword is no valid password: {error}{consequence}"),
                )
                .on(cluster_configuration())
                .hint("set a password of 6 to 64 characters with a lower-case letter, an upper-case letter and a digit"),
            );
        }
        if self.redis == Redis::None && self.high_availability.replicas > 1 {
            findings.push(
                Finding::warning(
                    reasons::REPLICAS_WITHOUT_REDIS,
                    format!(
                        "ks-apiserver runs {} times, and without redis each keeps its own sessions: logins fail",
                        self.high_availability.replicas
                    ),
                )
                .on(cluster_configuration())
                .hint("remove enableHA: false, or set common.redis.enabled to true"),
            );
        }
        findings
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("storage_class", &self.storage_class)
            .field("jwt_secret", &self.jwt_secret)
            .field("admin_password", &self.admin_password)
            .field("high_availability", &self.high_availability)
            .field("redis", &self.redis)
            .field("openldap", &self.openldap)
            .field("multicluster", &self.multicluster)
            .field("components", &self.components)
            .finish_non_exhaustive()
    }
}

/// Components that are there as soon as their `enabled` is true.
const SWITCHED: [&str; 9] = [
    "alerting",
    "auditing",
    "devops",
    "events",
    "gatekeeper",
    "logging",
    "metrics_server",
    "servicemesh",
    "edgeruntime",
];

fn components(spec: &Value) -> BTreeSet<String> {
    let is = |path: &str, value: Value| path::get(spec, path) == Some(&value);
    let switched = |name: &&str| {
        is(&format!("{name}.enabled"), true.into())
            && (*name != "edgeruntime" || is("edgeruntime.kubeedge.enabled", true.into()))
    };
    let others = [
        ("monitoring", true),
        ("multicluster", is("multicluster.clusterRole", "host".into())),
        ("network", is("network.topology.type", "weave-scope".into())),
        ("openpitrix", is("openpitrix.store.enabled", true.into())),
    ];
    let others = others.into_iter().filter(|(_, on)| *on).map(|(name, _)| name);
    SWITCHED
        .into_iter()
        .filter(switched)
        .chain(others)
        .map(str::to_owned)
        .collect()
}
