//! What one does with this repository, as `cargo xtask <command>`: build, test, show.

mod bench;
mod cargo;
mod ci;
mod count;
mod demo;
mod fuzz;
mod messages;
mod micro;
mod packages;
mod pgo;
mod scale;
mod soak;
mod test;
mod wasm;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use cargo::Workspace;

/// Builds, tests and demonstrates Weir
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the reference plugins (target/plugins) and the release binary (target/release/weir)
    Build {
        /// Guide the compiler by a profile: build a binary that counts, put it under load, and build target/pgo/weir with the
        /// counts. Takes three times as long
        #[arg(long)]
        pgo: bool,
    },
    /// Build the reference plugins only; a running weir takes them over
    Plugins,
    /// Run every test that CI runs; what follows `--` goes to `cargo test`
    Test {
        /// For instance a part of a test's name, or `-p weir-sdk`, or `name -- --nocapture`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run the proxy with all reference policies, three flaky services and some traffic
    Demo {
        /// End by itself after this long ("20s", "2m"); without it, Ctrl-C ends it
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        duration: Option<Duration>,
    },
    /// Make up configurations, requests, edits and plugins that may break a law, for longer than `test` does
    Fuzz {
        /// What to fuzz, as in "http1"; without it, everything in turn
        targets: Vec<String>,
        /// How long for each target ("10m", "1h")
        #[arg(long = "for", value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
        duration: Duration,
        /// Begin with the case that was shown with this seed
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Measure the release binary with 10 000 services: time to load, time to change one endpoint, memory of each thing
    Scale(scale::Options),
    /// Measure the release binary's embedded broker beside RabbitMQ, NATS and Redis: messages a second, and how long they are on
    /// their way
    Messages(messages::Options),
    /// Swap plugins and configuration of the release binary a thousand times under load; prints the figures, fails if
    /// an exchange notices
    Soak(soak::Options),
    /// Measure the release binary beside whichever other proxies are installed: CPU for a request, latency, memory, start;
    /// prints a table with ratios
    Bench(bench::Options),
    /// Measure how long hooks, chains, picks, route matches, loads and swaps take, one by one
    Micro {
        /// For instance a part of a name, as in "pick"; `--help` says more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Count the instructions of the hot path; fails where they are more than those of the baseline
    Count(count::Options),
    /// Check the formatting, run clippy, then all tests, and count instructions
    Ci,
}

fn main() -> ExitCode {
    match run(Options::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let workspace = Workspace::load()?;
    match command {
        Command::Build { pgo } => build(&workspace, pgo),
        Command::Plugins => wasm::build_plugins(&workspace),
        Command::Test { arguments } => test::run(&workspace, &arguments),
        Command::Demo { duration } => demo::run(&workspace, duration),
        Command::Fuzz { targets, duration, seed } => fuzz::run(&workspace, &targets, duration, seed),
        Command::Scale(options) => scale::run(&workspace, &options),
        Command::Messages(options) => messages::run(&workspace, &options),
        Command::Soak(options) => soak::run(&workspace, &options),
        Command::Bench(options) => bench::run(&workspace, &options),
        Command::Micro { arguments } => micro::run(&workspace, &arguments),
        Command::Count(options) => count::run(&workspace, &options),
        Command::Ci => ci::run(&workspace),
    }
}

fn build(workspace: &Workspace, pgo: bool) -> Result<()> {
    let built = if pgo {
        pgo::build(workspace)?
    } else {
        wasm::build_plugins(workspace)?;
        workspace.cargo(&["build", "--release", "--workspace", "--bin", "weir"])?;
        workspace.target.join("release/weir")
    };
    println!("built {}", workspace.shown(&built));
    Ok(())
}
