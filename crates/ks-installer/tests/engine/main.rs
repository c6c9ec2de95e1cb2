//! The upgrade in process: what becomes of clusters in the sandbox.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

#[path = "../components/matrix.rs"]
mod matrix;
#[path = "../support/mod.rs"]
mod support;

/// The program's own: these tests play it for minutes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod all;
mod backup;
mod components;
mod core;
mod definitions;
mod disturbed;
mod drift;
mod helm;
mod interrupted;
mod journal;
mod parity;
mod parity_all;
mod removal;
mod rendered;
mod repaired;
mod rollback;
mod tenants;
