//! The upgrade in process: what becomes of clusters in the sandbox.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

#[path = "../support/mod.rs"]
mod support;

mod all;
mod core;
mod disturbed;
mod interrupted;
mod parity;
mod repaired;
mod tenants;
