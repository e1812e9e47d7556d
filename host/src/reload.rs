//! Reload: notice that a plugin or the configuration changed, build the next snapshot beside the current one, and publish
//! it whole. If any step fails the last good one keeps serving, and the reason is told.

mod watch;

use crate::config::{self, Config, Problem};
use crate::node::Node;
use crate::plugin::directory::{Candidate, Directory};
use crate::snapshot::{Built, build};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use watch::Watch;

/// What a reload last came to, for the admin pages. A copy: whoever reads it never waits for a compilation.
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
    directory: Directory,
    /// Why the plugin directory cannot be read.
    directory_error: Option<String>,
    /// What the configuration file last held. `None`: it could not be read.
    text: Option<Vec<u8>>,
    /// A configuration that is right in itself and not in effect: not yet, or because plugins or keys do not fit it.
    waiting: Option<Arc<Config>>,
}

impl Reloader {
    /// The first load: reads all plugins and builds the first snapshot. `text` is what the configuration was read from.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub fn start(
        node: Arc<Node>,
        file: &Path,
        text: Option<Vec<u8>>,
        config: Config,
    ) -> Result<(Self, Built), Vec<Problem>> {
        let config = Arc::new(config);
        let mut this = Self {
            node: node.clone(),
            file: file.to_owned(),
            status: Arc::default(),
            directory: Directory::default(),
            directory_error: None,
            text,
            waiting: None,
        };
        this.scan(&config.plugins.directory);
        for candidate in this.directory.waiting() {
            this.directory.accept(&candidate);
        }
        let built = build(&node, file, config.clone(), this.directory.plugins())?;
        for policy in built.snapshot.policies.values() {
            if let (Err(why), Some(policy)) = (&policy.plugin, config.policies.get(&*policy.name)) {
                this.directory.refuse(&policy.plugin, why.clone());
            }
        }
        this.status().config_loaded_at = Some(SystemTime::now());
        this.show();
        Ok((this, built))
    }

    /// What the admin pages show.
    pub fn shared_status(&self) -> Arc<Mutex<Status>> {
        self.status.clone()
    }

    /// What is wrong with the plugin directory, files that no policy uses included.
    pub fn problems(&self, config: &Config) -> Vec<Problem> {
        let whole = |file: &Path, message: &str| Problem::new(file, config::Position::FILE, message);
        let used = |name: &str| config.policies.values().any(|policy| policy.plugin == name);
        let broken = self.directory.files().filter(|(name, _)| !used(name));
        let broken = broken.filter_map(|(name, file)| {
            Some(whole(&config.plugins.directory.join(format!("{name}.wasm")), file.last_error.as_ref()?))
        });
        self.directory_error.iter().map(|error| whole(&self.file, error)).chain(broken).collect()
    }

    /// Watches until the node drains. Runs on a thread of its own, at low priority.
    pub fn run(mut self) {
        lower_priority();
        let mut watch = Watch::default();
        while !self.node.draining.load(Ordering::Acquire) {
            let mut directories = watch::around_file(&self.file);
            directories.extend(watch::around_directory(&self.node.snapshot().config.plugins.directory));
            if !watch.renew(directories) {
                watch.wait();
            }
            self.look();
        }
    }

    /// One look at everything that can be reloaded.
    pub fn look(&mut self) {
        self.keys();
        let new_config = self.read_config();
        let directory = self.node.snapshot().config.plugins.directory.clone();
        if self.scan(&directory) || new_config {
            self.take_over();
        } else if self.waiting.is_some() {
            // A key file that was missing may have come.
            self.take_config(&[]);
        }
        self.show();
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

    /// Looks for changed plugins. Returns true if there are new versions to take over.
    fn scan(&mut self, directory: &Path) -> bool {
        let looked = match self.directory.scan(&self.node.engine, directory) {
            Ok(looked) => looked,
            Err(error) => {
                let error = format!("the plugin directory {} cannot be read: {error}", directory.display());
                if self.directory_error.as_ref() != Some(&error) {
                    tracing::error!("{error}");
                    self.directory_error = Some(error);
                }
                return false;
            }
        };
        self.directory_error = None;
        for (plugin, error) in looked.errors {
            self.told_failed(&plugin, &error);
        }
        looked.changed
    }

    /// Reads the configuration if its file changed. Returns true if there is a new one to take over.
    fn read_config(&mut self) -> bool {
        let text = match std::fs::read(&self.file) {
            Ok(text) => text,
            Err(error) => {
                if self.text.take().is_some() {
                    self.refuse_config(&[Problem::new(
                        &self.file,
                        config::Position::FILE,
                        format!("cannot be read: {error}"),
                    )]);
                }
                return false;
            }
        };
        if self.text.as_ref() == Some(&text) {
            return false;
        }
        self.text = Some(text);
        self.waiting = None;
        let loaded = config::load(&self.file).map_err(|problems| problems.into_iter().collect());
        match loaded.and_then(|config| self.same_at_start(config)) {
            Ok(config) => self.waiting = Some(Arc::new(config)),
            Err(problems) => self.refuse_config(&problems),
        }
        self.waiting.is_some()
    }

    /// Some things are set up once, at start.
    fn same_at_start(&self, config: Config) -> Result<Config, Vec<Problem>> {
        let current = &self.node.snapshot().config;
        let same =
            config.listeners == current.listeners && config.admin == current.admin && config.node == current.node;
        if same && config.log == current.log && config.trace == current.trace {
            return Ok(config);
        }
        let message = "changes of [admin], [node], [log], [trace] and [[listener]] take effect at the next start";
        Err(vec![
            Problem::new(&self.file, config::Position::FILE, message)
                .with_hint("restart weir, or take these changes back"),
        ])
    }

    /// Takes over what is waiting: all of it at one instant if it fits together, since what changed together may need
    /// each other; otherwise one by one, so that a bad one does not keep the others back.
    fn take_over(&mut self) {
        let candidates = self.directory.waiting();
        if !candidates.is_empty() && self.waiting.is_some() && self.take_config(&candidates) {
            return;
        }
        self.take_plugins(&candidates);
        if self.waiting.is_some() && self.take_config(&[]) {
            // What did not fit the old configuration may fit this one.
            self.take_plugins(&self.directory.waiting());
        }
    }

    fn take_plugins(&mut self, candidates: &[Candidate]) {
        let config = self.node.snapshot().config.clone();
        for candidate in candidates {
            match self.attempt(config.clone(), std::slice::from_ref(candidate)) {
                Ok(generation) => self.accept(candidate, generation),
                Err(problems) => {
                    let why = list(&problems);
                    if self.directory.refuse(&candidate.name, why.clone()) {
                        self.told_failed(&candidate.name, &why);
                    }
                }
            }
        }
    }

    /// Puts the waiting configuration into effect, together with these plugins. Returns false if that cannot be; where it
    /// stands alone, that is its last word.
    fn take_config(&mut self, candidates: &[Candidate]) -> bool {
        let Some(config) = self.waiting.clone() else {
            return false;
        };
        match self.attempt(config, candidates) {
            Ok(generation) => {
                self.waiting = None;
                candidates.iter().for_each(|candidate| self.accept(candidate, generation));
                self.node.telemetry.metrics.reload("config", "ok");
                tracing::info!(generation, "configuration reloaded");
                let mut status = self.status();
                (status.config_error, status.config_loaded_at) = (None, Some(SystemTime::now()));
                true
            }
            Err(problems) => {
                if candidates.is_empty() {
                    self.refuse_config(&problems);
                }
                false
            }
        }
    }

    /// Builds and publishes, or says why not.
    fn attempt(&self, config: Arc<Config>, candidates: &[Candidate]) -> Result<u64, Vec<Problem>> {
        let mut plugins = self.directory.plugins();
        plugins.extend(candidates.iter().map(|candidate| (candidate.name.clone(), Ok(candidate.plugin.clone()))));
        let built = build(&self.node, &self.file, config, plugins)?;
        if !built.refused.is_empty() {
            return Err(built.refused);
        }
        Ok(built.publish(&self.node).generation)
    }

    fn accept(&mut self, candidate: &Candidate, generation: u64) {
        self.directory.accept(candidate);
        self.node.telemetry.metrics.reload("plugin", "ok");
        tracing::info!(plugin = candidate.name, generation, digest = candidate.plugin.digest, "plugin reloaded");
    }

    fn told_failed(&self, plugin: &str, why: &str) {
        self.node.telemetry.metrics.reload("plugin", "failed");
        tracing::error!(plugin, "plugin not loaded, the last good version, if there is one, stays in use: {why}");
    }

    fn refuse_config(&self, problems: &[Problem]) {
        let why = list(problems);
        if self.status().config_error.as_ref() == Some(&why) {
            return;
        }
        self.node.telemetry.metrics.reload("config", "failed");
        tracing::error!("the configuration was not reloaded, the last good one stays in effect: {why}");
        self.status().config_error = Some(why);
    }

    fn show(&self) {
        self.status().directory = self.directory.clone();
    }

    fn status(&self) -> MutexGuard<'_, Status> {
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
