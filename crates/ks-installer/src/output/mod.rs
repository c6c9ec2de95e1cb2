//! What people and scripts see. Data goes to standard output, progress and logs to standard error.

pub(crate) mod progress;
pub(crate) mod text;

use std::io::Write as _;

use serde::Serialize;

/// Prints one JSON document on standard output.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    let mut out = std::io::stdout().lock();
    // Whoever closes our output early (head, jq) has seen enough.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    Ok(())
}

/// Prints one JSON document on a line of its own, of several that follow each other.
pub(crate) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value)?;
    print(&format!("{text}\n"));
    Ok(())
}

/// Prints text on standard output, with colours where they are wanted.
pub(crate) fn print(text: &str) {
    let mut out = anstream::stdout().lock();
    // Whoever closes our output early (head, less) has seen enough.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Prints a line on standard error.
pub(crate) fn note(text: &str) {
    let mut out = anstream::stderr().lock();
    let _ = writeln!(out, "{text}");
}
