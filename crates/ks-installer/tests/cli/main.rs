//! The command line, as a user or a script meets it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod installer;
#[path = "../support/mod.rs"]
mod support;

mod access;
mod backup;
mod bad_input;
mod blockers;
mod commands;
mod components;
mod components_data;
mod components_others;
mod drift;
mod install;
mod operator;
mod plans;
mod registry;
mod s3;
mod sandbox;
