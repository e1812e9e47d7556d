//! Starts a node, and stops it.

mod thread;

use crate::admin::{self, Admin};
use crate::clock;
use crate::config::{self, Config, Document, Problem, Problems};
use crate::message::supervise::supervise;
use crate::node::Node;
use crate::plugin::capability::Grants;
use crate::plugin::compiler;
use crate::plugin::engine::PluginEngine;
use crate::plugin::fields::Needs;
use crate::plugin::instance::Instance;
use crate::plugin::{Plugin, Policy, outbound};
use crate::reload::Reloader;
use crate::snapshot::Built;
use crate::telemetry::log::LogMode;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::SpanOptions;
use crate::telemetry::{self, Telemetry};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

/// A node that runs. Dropping it stops it at once; [`Running::stop`] lets exchanges end.
pub struct Running {
    pub node: Arc<Node>,
    pub admin: SocketAddr,
    drain: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    /// Ends when all deliveries have.
    deliveries: tokio::task::JoinHandle<()>,
    control: Control,
    exports: Option<telemetry::Running>,
}

/// Starts a node from a configuration file. Records go to `output`, one line each.
///
/// # Errors
/// Everything that is wrong with the configuration; or a socket, thread or collector that cannot be had.
pub fn start(file: &Path, metrics: Metrics, output: impl Write + Send + 'static) -> Result<Running, Problems> {
    start_from(Document::load(file)?, file, metrics, output)
}

/// The same from what the file was read to.
///
/// # Errors
/// As [`start`] has them.
pub fn start_from(
    document: Document,
    file: &Path,
    metrics: Metrics,
    output: impl Write + Send + 'static,
) -> Result<Running, Problems> {
    let config = document.config().clone();
    let whole = |message: String| Problems::from(vec![Problem::new(file, config::Position::FILE, message)]);
    let control = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("weir-control")
        .enable_all()
        .build()
        .map(Control::from)
        .map_err(|error| whole(format!("cannot start a thread: {error}")))?;
    let (telemetry, exports) = {
        let options = telemetry_options(&config);
        Telemetry::start(&options, metrics, output, &control.handle)
            .map_err(|error| whole(format!("[trace]: {error}")))?
    };
    let engine =
        PluginEngine::new().map_err(|error| whole(format!("cannot start the WebAssembly engine: {error:#}")))?;
    let node = Arc::new(Node::new(engine, Arc::new(telemetry), control.handle.clone(), &config));
    let (reloader, built) = first_load(node.clone(), file, document)?;

    let admin = admin::bind(config.admin.listen)
        .map_err(|error| format!("[admin]: cannot listen on {}: {error}", config.admin.listen));
    let ((admin_address, admin_socket), _) = match (admin, built.publish(&node, file)) {
        (Ok(admin), Ok(snapshot)) => (admin, snapshot),
        (admin, published) => {
            let of_admin = admin.err().map(|message| Problem::new(file, config::Position::FILE, message));
            return Err(published.err().into_iter().flatten().chain(of_admin).collect::<Vec<_>>().into());
        }
    };
    let (drain, drained) = watch::channel(false);
    let workers = (0..node.workers)
        .map(|number| thread::spawn(node.clone(), number, drained.clone()))
        .collect::<Result<_, _>>()
        .map_err(|error| whole(format!("cannot start a thread: {error}")))?;
    let admin = Admin::new(node.clone(), reloader.shared_status(), reloader.commands());
    control.handle.spawn(admin::serve(admin, admin_socket, drained.clone()));
    control.handle.spawn(housekeeping(node.clone()));
    control.handle.spawn(outbound::supervise(node.clone(), drained.clone()));
    let deliveries = control.handle.spawn(supervise(node.clone(), drained));
    std::thread::Builder::new()
        .name("weir-reload".into())
        .spawn(move || reloader.run())
        .map_err(|error| whole(format!("cannot start a thread: {error}")))?;
    Ok(Running { node, admin: admin_address, drain, workers, deliveries, control, exports: Some(exports) })
}

/// Loads plugins and builds the first snapshot.
fn first_load(node: Arc<Node>, file: &Path, document: Document) -> Result<(Reloader, Built), Problems> {
    let (reloader, built) = Reloader::start(node, file, document)?;
    if !built.refused.is_empty() {
        return Err(built.refused.into());
    }
    for problem in &built.unusable {
        tracing::error!("{problem}");
    }
    Ok((reloader, built))
}

/// Everything that is wrong with a configuration and its plugins; nothing is started.
///
/// # Errors
/// The problems.
pub fn check(file: &Path) -> Result<Arc<Config>, Problems> {
    let document = Document::load(file)?;
    let config = document.config().clone();
    let whole = |message: String| Problems::from(vec![Problem::new(file, config::Position::FILE, message)]);
    let (_control, node) = idle_node(&config).map_err(whole)?;
    let (reloader, built) = Reloader::start(node, file, document)?;
    let problems: Vec<Problem> =
        built.refused.into_iter().chain(built.unusable).chain(reloader.problems(&config)).collect();
    if problems.is_empty() { Ok(config) } else { Err(problems.into()) }
}

/// A component as a node would load it, and what it reads if nothing is configured; or why that cannot be said.
///
/// # Errors
/// Why it is not a plugin that can be used.
pub fn inspect(name: &str, bytes: &[u8]) -> Result<(Arc<Plugin>, Result<Needs, String>), String> {
    let (_control, node) = idle_node(&Config::default())?;
    let plugin = Arc::new(node.engine.load(name, bytes, 1, compiler::LIMIT).map_err(|error| error.to_string())?);
    let context = node.context(name, Grants::default(), Arc::default());
    let mut config = config::Policy::default();
    config.config = serde_json::json!({});
    let policy = Policy::new(&config, 0, Ok(plugin.clone()), context);
    let needs = Instance::new(&policy, &plugin)
        .map(|(_, needs)| needs)
        .map_err(|_| "they depend on the configuration".to_owned());
    Ok((plugin, needs))
}

/// A node that serves nothing. Its runtime is to be kept as long as it.
fn idle_node(config: &Config) -> Result<(Runtime, Arc<Node>), String> {
    let control = Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let options = telemetry::Options { log: LogMode::None, spans: None };
    let (telemetry, _exports) = Telemetry::start(&options, Metrics::new(), std::io::sink(), control.handle())
        .map_err(|error| error.to_string())?;
    let engine = PluginEngine::new().map_err(|error| format!("cannot start the WebAssembly engine: {error:#}"))?;
    let node = Node::new(engine, Arc::new(telemetry), control.handle().clone(), config);
    Ok((control, Arc::new(node)))
}

/// The runtime of everything that is not an exchange. A bare one must not be dropped in another runtime's task.
struct Control {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl From<Runtime> for Control {
    fn from(runtime: Runtime) -> Self {
        Self { handle: runtime.handle().clone(), runtime: Some(runtime) }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Running {
    /// The address of a listener, as it is bound now.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        self.node.snapshot().listeners.iter().find(|known| &*known.name == name).map(|known| known.address)
    }

    /// Accepts nothing more, lets exchanges end for as long as `[node] drain-timeout` allows, and stops.
    pub fn stop(mut self) {
        self.node.draining.store(true, Ordering::Release);
        self.drain.send_replace(true);
        let patience = self.node.snapshot().config.node.drain_timeout;
        for worker in self.workers.drain(..) {
            drop(worker.join());
        }
        // What was delivered is still to be acknowledged.
        let deliveries = &mut self.deliveries;
        self.control.handle.block_on(async { drop(tokio::time::timeout(patience, deliveries).await) });
        self.node.snapshot().messages.brokers.values().for_each(|broker| broker.client.close());
        if let Some(exports) = self.exports.take() {
            let telemetry = Telemetry::clone(&self.node.telemetry);
            self.control.handle.block_on(telemetry.finish(exports, Duration::from_secs(2)));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.node.draining.store(true, Ordering::Release);
        self.drain.send_replace(true);
    }
}

fn telemetry_options(config: &Config) -> telemetry::Options {
    let spans = config.trace.otlp_endpoint.as_ref().map(|endpoint| {
        let mut options = SpanOptions::new(endpoint);
        (options.queue, options.batch, options.interval) =
            (config.trace.queue, config.trace.batch, config.trace.interval);
        if let Some(name) = &config.node.name {
            options.service_name.clone_from(name);
        }
        options
    });
    telemetry::Options { log: config.log.exchanges.into(), spans }
}

/// What the control thread does now and then.
async fn housekeeping(node: Arc<Node>) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = clock::now();
        node.services.expire_ejections(now);
        node.free_retired();
        node.telemetry.metrics.cells.set(i64::try_from(node.cells.count()).unwrap_or(i64::MAX));
    }
}
