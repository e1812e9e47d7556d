//! `cargo xtask fuzz`: the property tests of `tests/tests/fuzz_*.rs`, for longer than `cargo xtask test` runs them.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::Workspace;
use crate::wasm;

/// Runs each target for this long; all of them if none is named. A seed repeats the case that it was shown with.
pub fn run(workspace: &Workspace, targets: &[String], duration: Duration, seed: Option<u64>) -> Result<()> {
    let known = known_targets(workspace)?;
    if let Some(unknown) = targets.iter().find(|target| !known.contains(target)) {
        bail!("no fuzz target {unknown:?}; there are: {}", known.join(", "));
    }
    ensure!(seed.is_none() || targets.len() == 1, "a seed is of one target: name it");
    wasm::build_all(workspace)?;
    let mut command = workspace.cargo_command();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    for target in if targets.is_empty() { &known } else { targets } {
        command.args(["--test", &format!("fuzz_{target}")]);
    }
    command
        .args(["--", "--nocapture"])
        .env("WEIR_PLUGINS_DIR", workspace.output("plugins"))
        .env("WEIR_GUESTS_DIR", workspace.output("guests"))
        .env("WEIR_FUZZ_SECONDS", duration.as_secs_f64().to_string());
    if let Some(seed) = seed {
        command.env("WEIR_FUZZ_SEED", seed.to_string());
    }
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "a case breaks its law: see above ({status})");
    Ok(())
}

/// What is between `fuzz_` and `.rs` of the files, sorted.
fn known_targets(workspace: &Workspace) -> Result<Vec<String>> {
    let directory = workspace.root.join("tests/tests");
    let files = std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut targets = Vec::new();
    for file in files {
        let name = file?.file_name().to_string_lossy().into_owned();
        targets.extend(name.strip_prefix("fuzz_").and_then(|name| name.strip_suffix(".rs")).map(str::to_owned));
    }
    targets.sort();
    Ok(targets)
}
