//! `cargo xtask bench`: the release binary beside whichever other proxies are installed.

// The program behind this has the same options.
#[path = "../../tests/src/peers/options.rs"]
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
    workspace.cargo(&["build", "--release", "--workspace", "--bin", "weir", "--bin", "peers"])?;
    let program = workspace.target.join("release/peers");
    let mut bench = Command::new(&program);
    bench.args(options.arguments()).current_dir(&workspace.root).env("WEIR_PLUGINS_DIR", workspace.output("plugins"));
    let failed = bench.exec();
    Err(anyhow::Error::from(failed).context(format!("cannot start {}", program.display())))
}
