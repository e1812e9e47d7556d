//! `cargo xtask count`: the instructions of the hot path, where time is too noisy, beside those of the baseline.
//!
//! Callgrind collects while the function `counted` of `tests/src/bin/count.rs` runs, on its thread alone: nothing of the
//! start, of other threads or of the kernel is in the figures. They are the same in each run but for some thousandths.

mod baseline;
mod valgrind;

use anyhow::{Result, ensure};
use clap::Args;

use crate::cargo::Workspace;
use crate::{packages, wasm};
use baseline::Baseline;
use valgrind::Program;

#[derive(Args, Default)]
pub struct Options {
    /// Scenarios by the beginning of their names, as in "chain" or "pick/random"; without any, all
    names: Vec<String>,
    /// Make what is counted now the baseline
    #[arg(long)]
    save: bool,
    /// Show in which functions the instructions of these scenarios are, and compare nothing
    #[arg(long, conflicts_with = "save", requires = "names")]
    functions: bool,
}

pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        println!("xtask count: nothing is counted, as the baseline is of Linux on x86_64");
        return Ok(());
    }
    packages::install(&["valgrind"], "It counts the instructions")?;
    wasm::build_all(workspace)?;
    workspace.cargo(&["build", "--release", "--workspace", "--bin", "count"])?;
    let program = Program::new(workspace)?;
    program.compile_plugins()?;
    if options.functions {
        return program.show_functions(&options.names);
    }
    let counted = program.count(&options.names)?;
    let mut baseline = Baseline::read(workspace)?;
    if options.save {
        return baseline.save(workspace, counted, options.names.is_empty());
    }
    let judged = baseline.judge(&counted, options.names.is_empty());
    print!("{}", judged.table);
    ensure!(
        judged.failures.is_empty(),
        "{}. If that is how it should be, `cargo xtask count --save` makes it the baseline",
        judged.failures.join("; ")
    );
    println!("xtask count: {} scenarios, none dearer than the baseline", counted.len());
    Ok(())
}
