//! `cargo xtask scale`: the release binary with ten thousand services.

// The program behind this has the same options.
#[path = "../../tests/src/scale/options.rs"]
mod options;

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Result;

use crate::cargo::Workspace;
use crate::wasm;
pub use options::Options;

/// Builds, and becomes the program that measures: a signal finds nobody else.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    wasm::build_plugins(workspace)?;
    workspace.cargo(&["build", "--release", "--workspace", "--bin", "weir", "--bin", "scale"])?;
    let program = workspace.target.join("release/scale");
    let mut scale = Command::new(&program);
    scale
        .current_dir(&workspace.root)
        .args(options.arguments())
        .env("WEIR_PLUGINS_DIR", workspace.output("plugins"))
        .env("WEIR_CACHE_DIR", workspace.output("scale-cache"));
    let failed = scale.exec();
    Err(anyhow::Error::from(failed).context(format!("cannot start {}", program.display())))
}
