//! Carries a plan out, and tells what happens.
//!
//! ```text
//!   Plan ─▶ run() ─▶ for each stage: write its steps side by side, then wait ─▶ Report
//!             │
//!             └─▶ Event, Event, … ─▶ whoever listens (terminal, log, status)
//! ```

mod event;

pub use event::{Event, Outcome};
