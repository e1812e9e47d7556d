//! The `weir` command.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::filter::LevelFilter;
use weir::telemetry::host_log::HostLog;
use weir::telemetry::metrics::Metrics;
use weir::{app, config, plugin};

/// A node-local proxy whose every decision is a hot-reloadable WebAssembly policy.
#[derive(Parser)]
#[command(name = "weir", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy until SIGTERM or SIGINT, which let exchanges in progress end first.
    Run {
        /// The configuration. Reloaded when it changes.
        #[arg(long, default_value = "config.toml")]
        config: PathBuf,
    },
    /// Load a configuration and its plugins, print every problem, and exit with 1 if there is one.
    Check {
        #[arg(long, default_value = "config.toml")]
        config: PathBuf,
    },
    /// Say what a component is: its hooks, fields, imports, limits and the schema of its configuration.
    Inspect {
        /// A component built for wasm32-wasip2.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config } => run(&config),
        Command::Check { config } => check(&config),
        Command::Inspect { file } => inspect(&file),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(file: &Path) -> Result<()> {
    let level = config::load(file).map_or(LevelFilter::INFO, |config| config.log.level.as_str().parse().unwrap_or(LevelFilter::INFO));
    let metrics = Metrics::new();
    let _log = HostLog::start(level, metrics.log_lines_dropped("host"))?;
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = signals.enter();
    let running = app::start(file, metrics, std::io::stdout())?;
    for (name, address) in &running.listeners {
        tracing::info!(listener = name, %address, "listening");
    }
    tracing::info!(address = %running.admin, version = env!("CARGO_PKG_VERSION"), "ready; admin pages");
    signals.block_on(stop_signal())?;
    tracing::info!("draining");
    running.stop();
    tracing::info!("stopped");
    Ok(())
}

async fn stop_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot listen for SIGINT")?,
    }
    Ok(())
}

fn check(file: &Path) -> Result<()> {
    let config = app::check(file)?;
    println!(
        "{}: ok: {} listeners, {} services, {} routes, {} policies",
        file.display(),
        config.listeners.len(),
        config.services.len(),
        config.routes.len(),
        config.policies.len()
    );
    Ok(())
}

fn inspect(file: &Path) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("plugin");
    let engine = plugin::engine::PluginEngine::new().map_err(|error| anyhow::anyhow!("cannot start the WebAssembly engine: {error:#}"))?;
    let plugin = engine.load(name, &bytes, 1).with_context(|| format!("{} is not a plugin that can be used", file.display()))?;
    let description = &plugin.description;
    println!("{} {} ({})", description.name, description.version, description.summary);
    println!("digest   {}", plugin.digest);
    println!("size     {} bytes", bytes.len());
    println!("hooks    {}", plugin.hooks.names().join(", "));
    println!("imports  {}", plugin.imports.join(", "));
    match description.tick {
        Some(every) => println!("tick     every {every:?}"),
        None => println!("tick     never"),
    }
    println!("max-body {} bytes", description.max_body);
    println!("schema   {:#}", description.schema);
    Ok(())
}
