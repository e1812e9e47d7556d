//! `cargo xtask messages`: messages through the release binary, over brokers of each kind.

// The program behind this has the same options.
#[path = "../../tests/src/messages/options.rs"]
mod options;

use anyhow::Result;

use crate::cargo::{Workspace, become_program};
use crate::packages;
pub use options::Options;

/// Builds, and becomes the program that measures.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    packages::servers()?;
    let mut messages = workspace.measuring("messages")?;
    become_program(messages.args(options.arguments()).env("WEIR_CACHE_DIR", workspace.output("messages-cache")))
}
