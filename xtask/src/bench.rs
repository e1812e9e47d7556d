//! `cargo xtask bench`: the release binary beside whichever other proxies are installed.

// The program behind this has the same options.
#[path = "../../tests/src/peers/options.rs"]
mod options;

use anyhow::Result;

use crate::cargo::{Workspace, become_program};
use crate::wasm;
pub use options::Options;

/// Builds, and becomes the program that measures.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    wasm::build_plugins(workspace)?;
    let mut bench = workspace.measuring("peers")?;
    become_program(bench.args(options.arguments()).env("WEIR_PLUGINS_DIR", workspace.output("plugins")))
}
