//! Developer chores as a library, so that tests can start a control plane.
//!
//! `cargo xtask` (see `main.rs`) is the same on a command line; what CI runs is in [`ci`].

pub mod bench;
pub mod ci;
pub mod clients;
pub mod conformance;
pub mod control_plane;
pub mod generate;
pub mod helm;
pub mod image;
pub mod openapi;
pub mod release;
pub mod sbom;
