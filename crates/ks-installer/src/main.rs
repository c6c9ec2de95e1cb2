//! The binary: wires the crates together. Everything that prints is here.
fn main() {}
