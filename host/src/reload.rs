//! Reload: notice that a plugin or the configuration changed, build the next snapshot beside the current one, and publish
//! it whole. If any step fails the last good one keeps serving, and the reason is told.

use crate::config::{self, Config, Problem};
use crate::node::Node;
use crate::plugin::directory::{Candidate, Directory};
use crate::snapshot::{Built, build};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A burst of changes is one change: wait until it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(10);
/// Look anyway this often: not every file system tells.
const LOOK: Duration = Duration::from_secs(2);

/// What a reload last came to, for the admin pages.
#[derive(Debug, Default)]
pub struct Status {
    pub directory: Directory,
    /// Why the latest configuration file is not in effect.
    pub config_error: Option<String>,
    pub config_loaded_at: Option<SystemTime>,
}

/// Reloads one node.
pub struct Reloader {
    node: Arc<Node>,
    file: PathBuf,
    status: Arc<Mutex<Status>>,
    /// The text that the configuration in effect, or the last refused one, was read from.
    text: Vec<u8>,
}

impl Reloader {
    /// The first load: reads all plugins and builds the first snapshot.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub fn start(node: Arc<Node>, file: &Path, config: Config) -> Result<(Self, Built), Vec<Problem>> {
        let mut directory = Directory::default();
        let config = Arc::new(config);
        match directory.scan(&node.engine, &config.plugins.directory) {
            Ok((candidates, errors)) => {
                candidates.iter().for_each(|candidate| directory.accept(candidate));
                for (name, error) in errors {
                    tracing::error!(plugin = name, "plugin cannot be used: {error}");
                }
            }
            Err(error) => tracing::error!("the plugin directory {} cannot be read: {error}", config.plugins.directory.display()),
        }
        let built = build(&node, file, config, directory.plugins())?;
        let status = Status { directory, config_error: None, config_loaded_at: Some(SystemTime::now()) };
        let text = std::fs::read(file).unwrap_or_default();
        Ok((Self { node, file: file.to_owned(), status: Arc::new(Mutex::new(status)), text }, built))
    }

    /// What the admin pages show.
    pub fn shared_status(&self) -> Arc<Mutex<Status>> {
        self.status.clone()
    }

    /// Watches until the node drains. Runs on a thread of its own, at low priority.
    pub fn run(mut self) {
        lower_priority();
        let (wake, changes) = channel();
        let mut watched = self.directory();
        let mut watcher = self.watcher(wake.clone());
        while !self.node.draining.load(Ordering::Acquire) {
            match changes.recv_timeout(LOOK) {
                Ok(()) => while changes.recv_timeout(QUIET).is_ok() {},
                // `Disconnected` cannot be: `wake` is held here.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.look();
            // The configuration may name another directory by now; and one that was not there before may have come.
            if watcher.is_none() || self.directory() != watched {
                watched = self.directory();
                watcher = self.watcher(wake.clone());
            }
        }
    }

    fn directory(&self) -> PathBuf {
        self.node.snapshot().config.plugins.directory.clone()
    }

    fn watcher(&self, wake: Sender<()>) -> Option<RecommendedWatcher> {
        let on_event = move |_| {
            // Nobody waits any more where this fails.
            let _ = wake.send(());
        };
        let mut watcher = notify::recommended_watcher(on_event)
            .inspect_err(|error| tracing::warn!("changes are looked for every {LOOK:?} only: {error}"))
            .ok()?;
        let config = self.node.snapshot().config.clone();
        let parent = self.file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for directory in [config.plugins.directory.as_path(), parent] {
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                tracing::warn!("changes of {} are looked for every {LOOK:?} only: {error}", directory.display());
            }
        }
        Some(watcher)
    }

    /// One look at everything that can be reloaded.
    pub fn look(&mut self) {
        self.keys();
        self.config();
        self.plugins();
    }

    fn keys(&self) {
        let refreshed = self.node.snapshot().keys.refresh();
        for key in refreshed.changed {
            tracing::info!(key, "key reloaded");
        }
        for problem in refreshed.problems {
            tracing::error!(key = problem.key, "the last good key stays in use: {problem}");
        }
    }

    fn config(&mut self) {
        let Ok(text) = std::fs::read(&self.file) else { return };
        if text == self.text {
            return;
        }
        self.text = text;
        let result = config::load(&self.file)
            .map_err(|problems| problems.into_iter().collect())
            .and_then(|config| self.same_sockets(config))
            .and_then(|config| self.attempt(Arc::new(config), None));
        let metrics = &self.node.telemetry.metrics;
        match result {
            Ok(generation) => {
                metrics.reload("config", "ok");
                let mut status = self.status();
                (status.config_error, status.config_loaded_at) = (None, Some(SystemTime::now()));
                tracing::info!(generation, "configuration reloaded");
            }
            Err(problems) => {
                metrics.reload("config", "failed");
                let why = list(&problems);
                tracing::error!("the configuration was not reloaded, the last good one stays in effect: {why}");
                self.status().config_error = Some(why);
            }
        }
    }

    /// Sockets are opened at start.
    fn same_sockets(&self, config: Config) -> Result<Config, Vec<Problem>> {
        let current = &self.node.snapshot().config;
        if config.listeners == current.listeners && config.admin == current.admin && config.node == current.node {
            return Ok(config);
        }
        let message = "changes of [admin], [node] and [[listener]] take effect at the next start";
        Err(vec![Problem::new(&self.file, config::Position::FILE, message).with_hint("restart weir, or take these changes back")])
    }

    fn plugins(&mut self) {
        let config = self.node.snapshot().config.clone();
        let scanned = self.status().directory.scan(&self.node.engine, &config.plugins.directory);
        let (candidates, errors) = match scanned {
            Ok(scanned) => scanned,
            Err(error) => {
                tracing::warn!("the plugin directory {} cannot be read: {error}", config.plugins.directory.display());
                return;
            }
        };
        for (plugin, error) in errors {
            self.node.telemetry.metrics.reload("plugin", "failed");
            tracing::error!(plugin, "plugin not reloaded, the last good version stays in use: {error}");
        }
        // One by one, so that a bad one does not keep the others back.
        for candidate in candidates {
            self.plugin(&config, &candidate);
        }
    }

    fn plugin(&self, config: &Arc<Config>, candidate: &Candidate) {
        let plugin = &candidate.name;
        match self.attempt(config.clone(), Some(candidate)) {
            Ok(generation) => {
                self.status().directory.accept(candidate);
                self.node.telemetry.metrics.reload("plugin", "ok");
                tracing::info!(plugin, generation, digest = candidate.plugin.digest, "plugin reloaded");
            }
            Err(problems) => {
                let why = list(&problems);
                self.node.telemetry.metrics.reload("plugin", "failed");
                tracing::error!(plugin, "plugin not reloaded, the last good version stays in use: {why}");
                self.status().directory.refuse(plugin, why);
            }
        }
    }

    /// Builds and publishes, or says why not.
    fn attempt(&self, config: Arc<Config>, candidate: Option<&Candidate>) -> Result<u64, Vec<Problem>> {
        let mut plugins = self.status().directory.plugins();
        if let Some(candidate) = candidate {
            plugins.insert(candidate.name.clone(), Ok(candidate.plugin.clone()));
        }
        let built = build(&self.node, &self.file, config, plugins)?;
        if !built.refused.is_empty() {
            return Err(built.refused);
        }
        for problem in &built.unusable {
            tracing::warn!("{problem}");
        }
        Ok(built.publish(&self.node).generation)
    }

    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Compilation must not take the processor from exchanges.
fn lower_priority() {
    // On Linux a thread's priority is its own.
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!("the reload thread keeps its priority: {error}");
    }
}
