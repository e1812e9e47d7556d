//! What `cargo xtask messages` runs, once it has built what this needs.

use std::process::ExitCode;

use clap::Parser;
use weir_tests::messages::{measure, options::Options};
use weir_tests::process::unless_stopped;

/// Measures the weir that lies beside this program; see `cargo xtask messages --help`
#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

#[tokio::main]
async fn main() -> ExitCode {
    match unless_stopped(measure::run(&Command::parse().options)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("messages: {error:#}");
            ExitCode::FAILURE
        }
    }
}
