//! Starts a node, and stops it.

use crate::admin::{self, Admin};
use crate::clock;
use crate::config::{self, Config, Problem, Problems};
use crate::listener::{self, Listener};
use crate::node::Node;
use crate::plugin::engine::PluginEngine;
use crate::plugin::fields::Needs;
use crate::plugin::instance::Instance;
use crate::plugin::{Plugin, Policy};
use crate::reload::Reloader;
use crate::snapshot::Built;
use crate::telemetry::log::LogMode;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::SpanOptions;
use crate::telemetry::{self, Telemetry};
use crate::worker::Worker;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::LocalSet;

/// A node that runs. Dropping it stops it at once; [`Running::stop`] lets exchanges end.
pub struct Running {
    pub node: Arc<Node>,
    /// Names and addresses of the listeners, as bound.
    pub listeners: Vec<(String, SocketAddr)>,
    pub admin: SocketAddr,
    drain: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    control: Control,
    exports: Option<telemetry::Running>,
}

/// Starts a node from a configuration file. Records go to `output`, one line each.
///
/// # Errors
/// Everything that is wrong with the configuration; or a socket, thread or collector that cannot be had.
pub fn start(file: &Path, metrics: Metrics, output: impl Write + Send + 'static) -> Result<Running, Problems> {
    // Before it is parsed, so that a change that comes in between is seen at the first look.
    let text = std::fs::read(file).ok();
    let config = config::load(file)?;
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
    let node = Arc::new(Node::new(engine, Arc::new(telemetry), &config));
    let (reloader, built) = first_load(node.clone(), file, text, config.clone())?;

    let count = config
        .node
        .workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
        .clamp(1, 255);
    let sockets = Sockets::bind(&config, count).map_err(|messages| {
        Problems::from(
            messages.into_iter().map(|message| Problem::new(file, config::Position::FILE, message)).collect::<Vec<_>>(),
        )
    })?;
    let (listeners, admin_address) = (sockets.addresses.clone(), sockets.admin_address);

    built.publish(&node);
    let (drain, drained) = watch::channel(false);
    let mut workers = Vec::new();
    for (number, sockets) in (0u64..).zip(sockets.of_workers) {
        let (node, config, drained) = (node.clone(), config.clone(), drained.clone());
        let spawned = std::thread::Builder::new()
            .name(format!("weir-worker-{number}"))
            .spawn(move || work(node, &config, sockets, number, drained));
        workers.push(spawned.map_err(|error| whole(format!("cannot start a thread: {error}")))?);
    }
    let admin = Admin::new(node.clone(), reloader.shared_status());
    control.handle.spawn(admin::serve(admin, sockets.admin, drained));
    control.handle.spawn(housekeeping(node.clone()));
    std::thread::Builder::new()
        .name("weir-reload".into())
        .spawn(move || reloader.run())
        .map_err(|error| whole(format!("cannot start a thread: {error}")))?;
    Ok(Running { node, listeners, admin: admin_address, drain, workers, control, exports: Some(exports) })
}

/// Loads plugins and builds the first snapshot.
fn first_load(
    node: Arc<Node>,
    file: &Path,
    text: Option<Vec<u8>>,
    config: Config,
) -> Result<(Reloader, Built), Problems> {
    let (reloader, built) = Reloader::start(node, file, text, config)?;
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
pub fn check(file: &Path) -> Result<Config, Problems> {
    let config = config::load(file)?;
    let whole = |message: String| Problems::from(vec![Problem::new(file, config::Position::FILE, message)]);
    let (_control, node) = idle_node(&config).map_err(whole)?;
    let (reloader, built) = Reloader::start(node, file, None, config.clone())?;
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
    let plugin = Arc::new(node.engine.load(name, bytes, 1).map_err(|error| error.to_string())?);
    let context = node.context(name, Arc::default());
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
    Ok((control, Arc::new(Node::new(engine, Arc::new(telemetry), config))))
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
    /// The address of a listener.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        self.listeners.iter().find(|(known, _)| known == name).map(|(_, address)| *address)
    }

    /// Accepts nothing more, lets exchanges end for as long as `[node] drain-timeout` allows, and stops.
    pub fn stop(mut self) {
        self.node.draining.store(true, Ordering::Release);
        self.drain.send_replace(true);
        for worker in self.workers.drain(..) {
            drop(worker.join());
        }
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
    let log = match config.log.exchanges {
        config::Exchanges::All => LogMode::All,
        config::Exchanges::Errors => LogMode::Errors,
        config::Exchanges::None => LogMode::None,
    };
    telemetry::Options { log, spans }
}

/// The sockets of a node: for each worker one of each listener.
struct Sockets {
    addresses: Vec<(String, SocketAddr)>,
    of_workers: Vec<Vec<TcpListener>>,
    admin: TcpListener,
    admin_address: SocketAddr,
}

impl Sockets {
    /// Fails with every address that cannot be had.
    fn bind(config: &Config, workers: usize) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut addresses = Vec::new();
        let mut of_workers: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
        for listener in &config.listeners {
            // Port 0 is any free one, but the same for all workers.
            let mut address = listener.listen;
            for sockets in &mut of_workers {
                match listener::bind(address).and_then(|socket| Ok((socket.local_addr()?, socket))) {
                    Ok((bound, socket)) => {
                        address = bound;
                        sockets.push(socket);
                    }
                    Err(error) => {
                        problems.push(format!("listener {:?}: cannot listen on {address}: {error}", listener.name));
                        break;
                    }
                }
            }
            addresses.push((listener.name.clone(), address));
        }
        let admin = TcpListener::bind(config.admin.listen).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok((socket.local_addr()?, socket))
        });
        match admin {
            Ok((admin_address, admin)) if problems.is_empty() => {
                Ok(Self { addresses, of_workers, admin, admin_address })
            }
            Ok(_) => Err(problems),
            Err(error) => {
                problems.push(format!("[admin]: cannot listen on {}: {error}", config.admin.listen));
                Err(problems)
            }
        }
    }
}

/// A worker's thread.
fn work(node: Arc<Node>, config: &Config, sockets: Vec<TcpListener>, number: u64, mut drain: watch::Receiver<bool>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!("worker {number} cannot start: {error}"),
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let worker = Rc::new(Worker::new(node.clone(), number));
        for (listener, socket) in config.listeners.iter().zip(sockets) {
            let socket = match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::error!(listener = listener.name, "worker {number} cannot accept: {error}");
                    continue;
                }
            };
            let name: Arc<str> = listener.name.as_str().into();
            let listener = Rc::new(Listener {
                metrics: node.telemetry.metrics.listener(&name),
                name,
                identity: listener.identity.as_deref().map(Into::into),
                connect: listener.connect,
                trust_forwarded: listener.trust_forwarded,
            });
            tokio::task::spawn_local(listener::accept(worker.clone(), listener, socket, drain.clone()));
        }
        tokio::select! {
            () = housekeeping_of(&worker) => {}
            () = ticks_of(&worker) => {}
            _ = drain.wait_for(|drain| *drain) => {}
        }
        let until = Instant::now() + config.node.drain_timeout;
        while worker.is_busy() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
            worker.tick(Instant::now());
        }
        worker.telemetry.log.flush();
    });
    // What is left is dropped with the set: its exchanges leave their records.
    drop(local);
}

async fn housekeeping_of(worker: &Worker) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        worker.tick(Instant::now());
    }
}

async fn ticks_of(worker: &Worker) {
    loop {
        // Nobody waits for a tick where no policy has one.
        let pause = if worker.has_ticking_policies() { 10 } else { 1000 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        worker.tick_policies(Instant::now());
    }
}

/// What the control thread does now and then.
async fn housekeeping(node: Arc<Node>) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = clock::now();
        node.services.all().iter().for_each(|service| service.expire_ejections(now));
        node.telemetry.metrics.cells.set(i64::try_from(node.cells.count()).unwrap_or(i64::MAX));
    }
}
