//! Writes docs/findings.md to standard output.

use std::{error::Error, io::Write as _};

use release::Releases;

fn main() -> Result<(), Box<dyn Error>> {
    let releases = Releases::embedded()?;
    let release = releases.latest().ok_or("there is no release")?;
    let text = upgrade::reasons::document(release);
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
