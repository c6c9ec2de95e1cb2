//! Regenerates the type file of the sandbox: `cargo run -p xtask --example types -- TREE OUT`.
use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [tree, out] = arguments.as_slice() else {
        anyhow::bail!("usage: types KUBERNETES-TREE OUT");
    };
    let swagger = serde_json::from_slice(&std::fs::read(tree.join("api/openapi-spec/swagger.json"))?)?;
    let compact = xtask::openapi::compact_schema(&swagger, &xtask::openapi::go_sources(tree)?);
    std::fs::write(out, xtask::openapi::render(&compact))?;
    Ok(())
}
