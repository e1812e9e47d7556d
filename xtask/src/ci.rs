//! `cargo xtask ci`: what `.ci/run` checks, for a run before a push.

use anyhow::Result;

use crate::cargo::Workspace;
use crate::{count, test};

pub fn run(workspace: &Workspace) -> Result<()> {
    workspace.cargo(&["fmt", "--all", "--check"])?;
    workspace.cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    test::run(workspace, &[])?;
    count::run(workspace, &count::Options::default())
}
