//! What `cargo xtask messages` runs, once it has built what this needs.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use weir_tests::messages::{measure, options::Options};

/// Measures the weir that lies beside this program; see `cargo xtask messages --help`
#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Command::parse().options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("messages: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Until it ends, or somebody ends it: what it started ends with it either way.
async fn run(options: &Options) -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        measured = measure::run(options) => measured,
        _ = terminate.recv() => bail!("stopped by SIGTERM"),
        _ = interrupt.recv() => bail!("interrupted"),
    }
}
