//! Carries a plan out, and tells what happens.
//!
//! ```text
//!   collect ─▶ decide ─▶ Prepared ──(approved)──▶ backup ─▶ execute() ─▶ verify ─▶ Report
//!                            ▲                                 │
//!                            └──── objects changed meanwhile ──┘
//!
//!   execute() ─▶ for each stage: its writes side by side, then its waits
//!       └─▶ Event, Event, … ─▶ whoever listens (terminal, log, status)
//! ```
//!
//! Every step reads what is there before it writes. A run that was cut anywhere is simply run again: what is done
//! is no longer in the plan that is made then.

mod error;
mod event;
mod generate;
mod install;
mod journal;
mod lanes;
mod lease;
mod process;
mod reason;
mod record;
mod rollback;
mod run;
mod secrets;
mod session;
mod upon;
mod write;

pub use error::RunError;
pub use event::{Event, Outcome};
pub use install::prepare_installation;
pub use journal::{
    BackupEntry, Journal, JournalError, NewRun, Recorder, RunEntry, RunKind, RunOutcome, StageEntry,
    journal_key, random_id,
};
pub use lanes::Failure;
pub use lease::{Claimant, Clock, Lease, LeaseError, RUN as RUN_LEASE};
pub use rollback::{Rollback, prepare_rollback};
pub use run::{RunOptions, RunSummary, run};
pub use session::{Prepared, Report, Session, SessionError, prepare};
/// Asks a run to end.
pub use tokio_util::sync::CancellationToken as Stop;
pub use upon::prepare_upon;

/// Listens to a run. Called from the run's task: it must not block.
pub type Listener<'a> = &'a (dyn Fn(Event) + Send + Sync);
