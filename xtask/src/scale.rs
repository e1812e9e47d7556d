//! `cargo xtask scale`: the release binary with ten thousand services.

// The program behind this has the same options.
#[path = "../../tests/src/scale/options.rs"]
mod options;

use anyhow::Result;

use crate::cargo::{Workspace, become_program};
use crate::wasm;
pub use options::Options;

/// Builds, and becomes the program that measures.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    wasm::build_plugins(workspace)?;
    let mut scale = workspace.measuring("scale")?;
    become_program(
        scale
            .args(options.arguments())
            .env("WEIR_PLUGINS_DIR", workspace.output("plugins"))
            .env("WEIR_CACHE_DIR", workspace.output("scale-cache")),
    )
}
