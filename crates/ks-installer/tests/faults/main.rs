//! The upgrade while things go wrong: cut anywhere, refused, unanswered, among other people's writes, with pods that do not
//! come up.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stderr, reason = "long tests say how far they got")]

#[path = "../support/mod.rs"]
mod support;

/// The program's own: these tests play it for minutes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod common;
mod cuts;
mod install;
mod kept;
mod random;
mod rollout;
mod two;
mod users;
mod webhooks;
