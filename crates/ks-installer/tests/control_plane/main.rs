//! The upgrade on a real Kubernetes API server: run with `KS_CONTROL_PLANE=1` after `cargo xtask control-plane build`.
#![expect(clippy::unwrap_used, reason = "a test that finds nothing fails")]

mod common;
mod compare;
mod cut;
mod refusals;
mod upgrade;
