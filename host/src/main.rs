//! The `weir` command.

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use weir::app;
use weir::config::{CapabilityKind, Config, Document, PolicyLimits};
use weir::plugin::fields::Field;
use weir::telemetry::host_log::HostLog;
use weir::telemetry::metrics::Metrics;

/// An exchange allocates a few dozen times, on the thread that frees it: what this allocator is best at. Its background
/// threads give back what became free, also of workers that have nothing to do and so would never come to it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
        /// The configuration.
        #[arg(long, default_value = "config.toml")]
        config: PathBuf,
    },
    /// Say what a component is: its hooks, fields, imports, what it asks for, limits and the schema of its configuration.
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
        // Whoever reads has read enough, as in `weir inspect … | head`.
        Err(error)
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr().lock(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(file: &Path) -> Result<()> {
    let document = Document::load(file);
    let level = document.as_ref().map(|document| document.config().log.level).unwrap_or_default();
    let metrics = Metrics::new();
    let _log = HostLog::start(level, metrics.log_lines_dropped("host"))?;
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = signals.enter();
    // Before anything is served: a signal that comes early drains too.
    let stop = StopSignal::new()?;
    let running = app::start_from(document?, file, metrics, io::stdout())?;
    tracing::info!(address = %running.admin, version = env!("CARGO_PKG_VERSION"), "ready; admin pages");
    signals.block_on(stop.received());
    tracing::info!("draining");
    running.stop();
    tracing::info!("stopped");
    Ok(())
}

/// SIGTERM or SIGINT, caught from when it is made.
struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    fn new() -> Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    async fn received(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn check(file: &Path) -> Result<()> {
    let config = app::check(file)?;
    let Config { listeners, services, routes, policies, .. } = &*config;
    let (listeners, services, routes, policies) = (listeners.len(), services.len(), routes.len(), policies.len());
    writeln!(
        io::stdout().lock(),
        "{}: ok: {listeners} listeners, {services} services, {routes} routes, {policies} policies",
        file.display()
    )?;
    Ok(())
}

fn inspect(file: &Path) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("plugin");
    let (plugin, needs) = app::inspect(name, &bytes)
        .map_err(|error| anyhow!("{} is not a plugin that can be used: {error}", file.display()))?;
    let description = &plugin.description;
    let mut out = io::stdout().lock();
    writeln!(out, "{} {} ({})", description.name, description.version, description.summary)?;
    writeln!(out, "digest   {}", plugin.digest)?;
    writeln!(out, "size     {} bytes", bytes.len())?;
    writeln!(out, "hooks    {}", plugin.hooks.names().join(", "))?;
    match needs {
        Ok(needs) => {
            writeln!(out, "fields   of requests: {}; of responses: {}", list(&needs.request), list(&needs.response))?
        }
        Err(why) => writeln!(out, "fields   {why}")?,
    }
    writeln!(out, "imports  {}", plugin.imports.join(", "))?;
    writeln!(out, "asks     {}", asks(&plugin.asks))?;
    let limits = PolicyLimits::default();
    writeln!(
        out,
        "limits   {:?} of CPU a hook, {} MiB of memory; [policy.x] limits sets others",
        limits.cpu,
        limits.memory >> 20
    )?;
    match description.tick {
        Some(every) => writeln!(out, "tick     every {every:?}")?,
        None => writeln!(out, "tick     never")?,
    }
    writeln!(out, "max-body {} bytes", description.max_body)?;
    writeln!(out, "schema   {:#}", description.schema)?;
    Ok(())
}

/// What a policy of the plugin has to be granted, in the words of its `allow`.
fn asks(kinds: &[CapabilityKind]) -> String {
    let one = |kind: &CapabilityKind| format!("{} ({})", kind.form(), kind.meaning());
    if kinds.is_empty() { "for nothing".into() } else { kinds.iter().map(one).collect::<Vec<_>>().join(", ") }
}

fn list(fields: &[Field]) -> String {
    if fields.is_empty() {
        "none".into()
    } else {
        fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}
