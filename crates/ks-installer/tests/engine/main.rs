//! The upgrade in process: what becomes of clusters in the sandbox.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod backup;
mod core;
mod drift;
mod helm;
mod interrupted;
mod journal;
mod rollback;
mod tenants;
