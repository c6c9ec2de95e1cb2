//! Writes docs/findings.md to standard output.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(upgrade::reasons::document().as_bytes())
}
