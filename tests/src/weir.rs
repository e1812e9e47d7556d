//! A node in this process, on free ports, with the reference plugins.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::client::{self, Client};
use tempfile::TempDir;
use weir::app::{self, Running};
use weir::node::Node;
use weir::telemetry::metrics::Metrics;

/// A running node and what it has written. Stops when it is dropped.
pub struct Weir {
    running: Option<Running>,
    directory: TempDir,
    records: Records,
}

/// The node's output: one record a line.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<Vec<u8>>>);

impl Records {
    /// All that are complete.
    fn read(&self) -> Vec<serde_json::Value> {
        parsed(&self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// All that are complete, which are then forgotten.
    fn take(&self) -> Vec<serde_json::Value> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let taken: Vec<u8> = bytes.drain(..complete).collect();
        drop(bytes);
        parsed(&taken)
    }
}

fn parsed(bytes: &[u8]) -> Vec<serde_json::Value> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.map(|line| serde_json::from_slice(line).expect("a record is JSON")).collect()
}

impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A configuration in the making, with a listener `in`, an admin listener and a plugin directory of its own.
#[derive(Clone, Default)]
pub struct Setup {
    text: String,
    /// Names of plugins to copy, and under which names.
    plugins: Vec<(PathBuf, String)>,
    listener: String,
    workers: usize,
    cache: Option<PathBuf>,
    /// More keys of `[plugins]`.
    of_plugins: String,
}

impl Setup {
    pub fn new() -> Self {
        Self { workers: 2, ..Self::default() }
    }

    /// The services `one`, by HTTP/1.1, and `two`, by HTTP/2, at an upstream that speaks both, with the same keys of their
    /// routes. One worker, so that records come in order.
    pub fn in_front_of(upstream: SocketAddr, route: &str) -> Self {
        let setup = Self::new().workers(1);
        setup.service_with("one", &[upstream], "http1", route).service_with("two", &[upstream], "http2", route)
    }

    /// More TOML.
    pub fn toml(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self.text.push('\n');
        self
    }

    /// Keys of the listener, as in `identity = "a"`.
    pub fn listener(mut self, keys: &str) -> Self {
        self.listener.push_str(keys);
        self.listener.push('\n');
        self
    }

    /// Where compiled plugins are kept, if not where those of all tests are.
    pub fn cache(mut self, directory: &Path) -> Self {
        self.cache = Some(directory.to_owned());
        self
    }

    /// Keys of `[plugins]`, as in `rollback = "off"`.
    pub fn of_plugins(mut self, keys: &str) -> Self {
        self.of_plugins.push_str(keys);
        self.of_plugins.push('\n');
        self
    }

    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// An HTTP/1.1 service with these endpoints, and a route to it by its name as the host.
    pub fn service(self, name: &str, endpoints: &[SocketAddr]) -> Self {
        self.service_with(name, endpoints, "http1", "")
    }

    /// The same with a protocol and more keys of the route, as in `chain = "c"`.
    pub fn service_with(mut self, name: &str, endpoints: &[SocketAddr], protocol: &str, route: &str) -> Self {
        let endpoints: Vec<String> = endpoints.iter().map(|address| format!("{{ address = \"{address}\" }}")).collect();
        let _ = write!(
            self.text,
            "[[service]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nendpoints = [{}]\n[[route]]\nmatch = {{ host = \"{name}\" }}\nservice = \"{name}\"\n{route}\n",
            endpoints.join(", ")
        );
        self
    }

    /// A policy of a reference plugin; `config` is an inline table.
    pub fn policy(mut self, name: &str, plugin: &str, config: &str) -> Self {
        let _ = write!(self.text, "[policy.{name}]\nplugin = \"{plugin}\"\nconfig = {config}\n");
        self.with_plugin(plugin)
    }

    pub fn with_plugin(self, plugin: &str) -> Self {
        let file = plugins_directory().join(plugin).with_extension("wasm");
        self.with_plugin_file(&file, plugin)
    }

    pub fn with_plugin_file(mut self, file: &Path, name: &str) -> Self {
        if !self.plugins.iter().any(|(_, known)| known == name) {
            self.plugins.push((file.to_owned(), name.to_owned()));
        }
        self
    }

    /// Writes the configuration and the plugins. `directory` holds `config.toml` and `plugins/`.
    pub fn write(&self, directory: &Path) -> io::Result<PathBuf> {
        let plugins = directory.join("plugins");
        std::fs::create_dir_all(&plugins)?;
        for (file, name) in &self.plugins {
            std::fs::copy(file, plugins.join(name).with_extension("wasm")).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("{}: {error}; `cargo xtask test` builds the plugins", file.display()),
                )
            })?;
        }
        let config = directory.join("config.toml");
        let cache = self.cache.clone().unwrap_or_else(|| self::directory("WEIR_CACHE_DIR", "test-cache"));
        let text = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n[plugins]\ndirectory = {plugins:?}\ncache = {cache:?}\n{}[node]\nworkers = {}\ndrain-timeout = \"2s\"\n[[listener]]\nname = \"in\"\nlisten = \"127.0.0.1:0\"\n{}{}",
            self.of_plugins, self.workers, self.listener, self.text
        );
        std::fs::write(&config, text)?;
        Ok(config)
    }

    /// Starts the node.
    ///
    /// # Panics
    /// It does not start: the problems are the message.
    pub fn start(&self) -> Weir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = self.write(directory.path()).expect("the configuration is written");
        let records = Records::default();
        let running =
            app::start(&config, Metrics::new(), records.clone()).unwrap_or_else(|problems| panic!("{problems}"));
        Weir { running: Some(running), directory, records }
    }
}

impl Weir {
    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs until it is dropped")
    }

    /// The address of the listener `in`.
    pub fn address(&self) -> SocketAddr {
        self.running().listener("in").expect("there is a listener `in`")
    }

    /// The address of another listener, if there is one now.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        self.running().listener(name)
    }

    /// A client of each protocol.
    pub async fn clients(&self) -> anyhow::Result<[Client; 2]> {
        Ok([Client::http1(self.address()).await?, Client::http2(self.address()).await?])
    }

    pub fn admin(&self) -> SocketAddr {
        self.running().admin
    }

    /// Where the node looks for plugins.
    pub fn plugins(&self) -> PathBuf {
        self.directory.path().join("plugins")
    }

    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    /// Changes the configuration as an editor does: written beside it, then renamed.
    pub fn edit(&self, from: &str, to: &str) {
        edit_file(&self.config_file(), from, to);
    }

    /// Changes the configuration, and waits until the change is in effect.
    pub async fn edit_live(&self, from: &str, to: &str) {
        let before = self.generation();
        self.edit(from, to);
        self.until("the edit is live", async || self.generation() > before).await;
    }

    pub fn generation(&self) -> u64 {
        self.running().node.generation()
    }

    /// Puts a plugin in place as an operator should: written beside it, then renamed.
    pub fn drop_plugin(&self, file: &Path, name: &str) {
        let (beside, place) =
            (self.plugins().join(format!(".{name}.new")), self.plugins().join(name).with_extension("wasm"));
        std::fs::copy(file, &beside).expect("the plugin is copied");
        std::fs::rename(&beside, &place).expect("the plugin is renamed");
    }

    /// An admin page as JSON.
    pub async fn page(&self, path: &str) -> serde_json::Value {
        serde_json::from_slice(&self.admin_page(path).await).expect("the page is JSON")
    }

    /// What the page says of the first plugin, which mostly is the only one.
    pub async fn plugin(&self) -> serde_json::Value {
        self.page("/plugins").await["plugins"][0].clone()
    }

    /// Instances of the first plugin that were thrown away.
    pub async fn traps(&self) -> u64 {
        self.plugin().await["traps"].as_u64().expect("a number")
    }

    /// Why the latest version of the first plugin does not serve; empty if it does.
    pub async fn plugin_error(&self) -> String {
        self.plugin().await["last-error"].as_str().unwrap_or_default().to_owned()
    }

    /// Why the latest configuration is not in effect; empty if it is.
    pub async fn config_error(&self) -> String {
        self.page("/config").await["last-error"].as_str().unwrap_or_default().to_owned()
    }

    async fn admin_page(&self, path: &str) -> bytes::Bytes {
        client::fetch(self.admin(), "admin", path).await.expect("the admin listener answers").body
    }

    /// The value of a metric by its exact name and labels, as in `weir_retries_total{kind="call",route="a/"}`.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = String::from_utf8(self.admin_page("/metrics").await.to_vec()).expect("the metrics are text");
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// The records so far that satisfy a condition, waited for until there are `count`, for at most 5 s.
    pub async fn records(&self, count: usize, wanted: impl Fn(&serde_json::Value) -> bool) -> Vec<serde_json::Value> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let found: Vec<serde_json::Value> = self.records.read().into_iter().filter(&wanted).collect();
            if found.len() >= count || Instant::now() > until {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The records since the last call, for tests that make too many to keep.
    pub fn take_records(&self) -> Vec<serde_json::Value> {
        self.records.take()
    }

    /// What the workers share, for a look at counters without a call.
    pub fn node(&self) -> &Node {
        &self.running().node
    }

    /// The records of all exchanges so far. With one worker none is still to come, as the one that this makes is last.
    pub async fn all_records(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        client::fetch(self.address(), "no-such-service", "/last").await?;
        anyhow::ensure!(self.records(1, |record| record["path"] == "/last").await.len() == 1, "one call, one record");
        Ok(self.records(0, |record| record["path"] != "/last").await)
    }

    /// Waits until a condition holds, for at most 10 s.
    pub async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !condition().await {
            assert!(Instant::now() < until, "waited for 10 s: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets exchanges end, stops, and returns all its records. Blocks meanwhile.
    pub fn stop(mut self) -> Vec<serde_json::Value> {
        if let Some(running) = self.running.take() {
            running.stop();
        }
        self.records.read()
    }
}

/// Replaces a part of a file, which must be there, at one instant.
pub fn edit_file(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).expect("the file is read");
    assert!(text.contains(from), "{from:?} is not in {text}");
    std::fs::write(file.with_extension("new"), text.replace(from, to)).expect("the new file is written");
    std::fs::rename(file.with_extension("new"), file).expect("the new file is renamed");
}

/// Where `cargo xtask test` has put the reference plugins.
pub fn plugins_directory() -> PathBuf {
    directory("WEIR_PLUGINS_DIR", "plugins")
}

/// Where `cargo xtask test` has put the guests that misbehave.
pub fn guests_directory() -> PathBuf {
    directory("WEIR_GUESTS_DIR", "guests")
}

fn directory(variable: &str, name: &str) -> PathBuf {
    std::env::var_os(variable)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(name), PathBuf::from)
}
