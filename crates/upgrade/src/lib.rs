//! The decisions. Pure: no client, no clock, no randomness, no files.
//!
//! ```text
//!   Snapshot ─┐
//!   Releases ─┼─▶ decide() ─▶ Decision { findings, plan }
//!   Options ──┘                   │
//!                                 ├─ plan.permissions()  ─▶ reviewed by the cluster ─▶ preflight::check_permissions
//!                                 └─ plan.stages         ─▶ carried out by the engine
//!   Snapshot afterwards ─▶ verify_upgrade() ─▶ findings
//! ```

pub mod components;
mod decide;
mod finding;
pub mod health;
pub mod install;
pub mod permissions;
pub mod plan;
pub mod preflight;
pub mod reasons;
mod rollback;
pub mod settings;
mod snapshot;
pub mod verify;

pub use decide::{
    Decision, DriftAnswer, DriftOf, Install, MANAGER, OPERATOR_LABEL, Options, Outline, decide,
    installer_key, is_operator, target, verify_in_place, verify_upgrade,
};
pub use finding::{Finding, Severity};
pub use plan::{Action, Plan, Stage, Step};
pub use release::{is_custom, is_own_group, not_after};
pub use rollback::{Backup, decide_rollback};
pub use settings::cluster_configuration as cluster_configuration_key;
pub use snapshot::{Permission, ServedResource, Snapshot, Unreadable};

/// Where any embedded release's components have their objects.
pub fn written() -> &'static release::Written {
    static WRITTEN: std::sync::LazyLock<release::Written> = std::sync::LazyLock::new(|| {
        release::Releases::embedded()
            .map(|releases| releases.written())
            .unwrap_or_default()
    });
    &WRITTEN
}
