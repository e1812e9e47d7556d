//! What `cargo xtask scale` runs, once it has built what this needs.

use std::process::ExitCode;

use clap::Parser;
use weir_tests::process::unless_stopped;
use weir_tests::scale::{self, options::Options};

/// Measures the weir that lies beside this program; see `cargo xtask scale --help`
#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Command::parse().options;
    match unless_stopped(scale::run(&options, |line| println!("{line}"))).await {
        Ok(table) => {
            println!("\n{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("scale: {error:#}");
            ExitCode::FAILURE
        }
    }
}
