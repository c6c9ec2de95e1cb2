//! The decisions. Pure: no client, no clock, no randomness, no files.
//!
//! ```text
//!   Snapshot ─┐
//!   Releases ─┼─▶ decide() ─▶ Decision { settings, findings, plan }
//!   Options ──┘                   │
//!                                 ├─ plan.permissions()  ─▶ reviewed by the cluster ─▶ preflight::check_permissions
//!                                 └─ plan.stages         ─▶ carried out by the engine
//!   Snapshot afterwards ─▶ verify() ─▶ findings
//! ```

mod finding;
pub mod plan;
mod snapshot;

pub use finding::{Finding, Severity};
pub use plan::{Action, Plan, Stage, Step};
pub use snapshot::{Permission, ServedResource, Snapshot, Unreadable};
