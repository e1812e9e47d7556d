//! `cargo xtask soak`: the release binary under steady load while everything in it is swapped.

// The program behind this has the same options.
#[path = "../../tests/src/soak/options.rs"]
mod options;

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Result;

use crate::cargo::Workspace;
use crate::wasm;
pub use options::Options;

/// Builds, and becomes the program that soaks: a signal finds nobody else.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    wasm::build_all(workspace)?;
    workspace.cargo(&["build", "--release", "--workspace", "--bin", "weir", "--bin", "soak"])?;
    let program = workspace.target.join("release/soak");
    let mut soak = Command::new(&program);
    soak.current_dir(&workspace.root)
        .args(options.arguments())
        .env("WEIR_PLUGINS_DIR", workspace.output("plugins"))
        .env("WEIR_GUESTS_DIR", workspace.output("guests"));
    let failed = soak.exec();
    Err(anyhow::Error::from(failed).context(format!("cannot start {}", program.display())))
}
