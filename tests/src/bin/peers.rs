//! What `cargo xtask bench` runs, once it has built what this needs.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use weir_tests::peers::{self, Lengths, Report, floor, options::Options};
use weir_tests::process::unless_stopped;

/// Measures the weir that lies beside this program, and other proxies; see `cargo xtask bench --help`
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Command {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(Subcommand)]
enum Mode {
    /// Be one of the proxies: the least that one made of hyper does
    Floor {
        /// Where calls by HTTP/1.1 come in
        http1: SocketAddr,
        /// Where calls by HTTP/2 come in
        http2: SocketAddr,
        /// Where they go
        #[arg(required = true)]
        endpoints: Vec<SocketAddr>,
    },
    /// Be the load alone, and say how many requests it makes in a second
    Load {
        /// A server that answers with 200 and 1 KiB
        server: SocketAddr,
        /// By HTTP/2
        #[arg(long)]
        h2: bool,
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let command = Command::parse();
    let done = match command.mode {
        Some(Mode::Floor { http1, http2, endpoints }) => floor::run(http1, http2, &endpoints),
        Some(Mode::Load { server, h2, seconds }) => load(server, h2, Duration::from_secs(seconds)),
        None => measure(&command.options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn load(server: SocketAddr, h2: bool, length: Duration) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{:.0} requests/s", runtime.block_on(peers::load(server, h2, length))?);
    Ok(())
}

/// The load, the services and what looks at the clock share one thread, so that they can share one CPU.
fn measure(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report =
        runtime.block_on(unless_stopped(peers::run(options, Lengths::of(options), |line| eprintln!("{line}"))))?;
    println!("{report}");
    if let Some(file) = &options.output {
        write(file, &report)?;
    }
    match report.failed() {
        0 => Ok(()),
        failed => bail!("{failed} requests failed, the first: {}", report.problem()),
    }
}

fn write(file: &Path, report: &Report) -> Result<()> {
    std::fs::write(file, report.to_string()).with_context(|| format!("cannot write {}", file.display()))
}
