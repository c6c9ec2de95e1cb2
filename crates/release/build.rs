//! Embeds the release data: YAML without any Jinja as JSON, which is read ten times as fast, everything else as it is.
//!
//! It makes a list of paths below `releases/` with their texts, for `files.rs`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "what is embedded has to be read"
)]

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../../releases");
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../releases");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    let mut list = String::from("&[\n");
    for (index, file) in files.iter().enumerate() {
        let text = fs::read_to_string(file)?;
        let name = file.strip_prefix(&root)?.to_string_lossy().replace('\\', "/");
        let is_yaml = file.extension().is_some_and(|extension| extension == "yaml");
        let embedded = out.join(format!("{index}"));
        fs::write(&embedded, as_json(&text).filter(|_| is_yaml).unwrap_or(text))?;
        let embedded = embedded.to_string_lossy();
        writeln!(list, "    ({name:?}, include_str!({embedded:?})),")?;
    }
    list.push(']');
    fs::write(out.join("files.rs"), list)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The documents of a text, a line each; `None` where they depend on something, or are no YAML: who reads it says what is wrong.
fn as_json(text: &str) -> Option<String> {
    if object::has_jinja(text) {
        return None;
    }
    let documents = object::parse_documents(text).ok()?;
    let lines = documents.iter().map(|document| format!("{document}\n"));
    Some(lines.collect())
}
