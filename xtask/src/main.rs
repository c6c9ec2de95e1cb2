//! `cargo xtask`: developer chores.
fn main() {}
