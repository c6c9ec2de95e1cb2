//! Embedded release data: a file added under `releases/` must rebuild the crate, which `include_dir` alone does
//! not notice on stable Rust.
fn main() {
    println!("cargo::rerun-if-changed=../../releases");
}
