//! `cargo xtask messages`: messages through the release binary, over brokers of each kind.

// The program behind this has the same options.
#[path = "../../tests/src/messages/options.rs"]
mod options;

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Result;

use crate::cargo::Workspace;
use crate::packages;
pub use options::Options;

/// Builds, and becomes the program that measures: a signal finds nobody else.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    packages::servers()?;
    workspace.cargo(&["build", "--release", "--workspace", "--bin", "weir", "--bin", "messages"])?;
    let program = workspace.target.join("release/messages");
    let mut messages = Command::new(&program);
    messages
        .current_dir(&workspace.root)
        .args(options.arguments())
        .env("WEIR_CACHE_DIR", workspace.output("messages-cache"));
    let failed = messages.exec();
    Err(anyhow::Error::from(failed).context(format!("cannot start {}", program.display())))
}
