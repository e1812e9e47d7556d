//! What `cargo xtask soak` runs, once it has built what this needs.

use std::process::ExitCode;

use clap::Parser;
use weir_tests::process::unless_stopped;
use weir_tests::soak::{self, Growth, Limits, options::Options};

/// Soaks the weir that lies beside this program; see `cargo xtask soak --help`
#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

/// A leaked generation holds a megabyte and more, a leaked file or thread comes back with each of a thousand rounds.
const LIMITS: Limits = Limits { rss_kib: 16 * 1024, files: 8, sockets: 128, threads: 1 };

#[tokio::main]
async fn main() -> ExitCode {
    let options = Command::parse().options;
    match unless_stopped(soak::run(&options, LIMITS, |line| println!("{line}"))).await {
        Ok(report) => {
            println!("\n{report}");
            let flat = report.growth.iter().all(Growth::is_flat);
            if report.broken.0 == 0 && flat { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}
