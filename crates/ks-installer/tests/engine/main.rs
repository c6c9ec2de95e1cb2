//! The upgrade in process: what becomes of clusters in the sandbox.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod all;
mod core;
mod interrupted;
mod parity;
mod repaired;
mod tenants;
