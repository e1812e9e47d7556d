//! `cargo xtask soak`: the release binary under steady load while everything in it is swapped.

// The program behind this has the same options.
#[path = "../../tests/src/soak/options.rs"]
mod options;

use anyhow::Result;

use crate::cargo::{Workspace, become_program};
use crate::wasm;
pub use options::Options;

/// Builds, and becomes the program that soaks.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    wasm::build_all(workspace)?;
    let mut soak = workspace.measuring("soak")?;
    become_program(
        soak.args(options.arguments())
            .env("WEIR_PLUGINS_DIR", workspace.output("plugins"))
            .env("WEIR_GUESTS_DIR", workspace.output("guests")),
    )
}
