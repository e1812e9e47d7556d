//! `cargo xtask micro`: how long the parts of an exchange take, one by one.

use anyhow::{Context, Result, ensure};

use crate::cargo::Workspace;
use crate::wasm;

/// Builds plugins, and runs the benchmarks of `tests/benches` with these arguments.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    wasm::build_all(workspace)?;
    let mut command = workspace.cargo_command();
    command
        .args(["bench", "--workspace", "--bench", "micro", "--"])
        .args(arguments)
        .env("WEIR_PLUGINS_DIR", workspace.output("plugins"))
        .env("WEIR_GUESTS_DIR", workspace.output("guests"))
        .env("WEIR_CACHE_DIR", workspace.output("test-cache"));
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "the benchmarks failed ({status})");
    Ok(())
}
