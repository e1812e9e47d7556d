//! Reload: notice that a plugin or the configuration changed, build the next snapshot beside the current one, and publish
//! it whole. If any step fails the last good one keeps serving, and the reason is told.

pub mod command;
mod inbox;
mod rollback;
mod status;
mod watch;

use crate::config::{self, Config, Document, Problem};
use crate::node::Node;
use crate::plugin::directory::{Candidate, Directory, Pace};
use crate::plugin::history::Why;
use crate::snapshot::{Built, build};
use command::Commands;
use inbox::{Event, Inbox};
use rollback::Trials;
pub use status::Status;
use status::list;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};
use watch::Watch;

/// Reloads one node.
pub struct Reloader {
    node: Arc<Node>,
    file: PathBuf,
    status: Arc<Mutex<Status>>,
    directory: Directory,
    /// Why the plugin directory cannot be read.
    directory_error: Option<String>,
    /// The last text of the configuration file that was a configuration.
    document: Document,
    last_seen: LastSeen,
    /// What the file is read into: to have megabytes anew for each look would take longer than to fill them.
    buffer: Vec<u8>,
    /// When the files were looked at last.
    looked_at: Instant,
    /// A configuration that is right in itself and not in effect: not yet, or because plugins or keys do not fit it.
    waiting: Option<Arc<Config>>,
    inbox: Inbox,
    /// The versions of plugins that are new.
    trials: Trials,
}

/// What the configuration file last held.
#[derive(Debug)]
enum LastSeen {
    /// The text of the document.
    Document,
    /// Something that is no configuration.
    Refused(Vec<u8>),
    /// It could not be read.
    Nothing,
}

impl Reloader {
    /// The first load: reads all plugins and builds the first snapshot.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub fn start(node: Arc<Node>, file: &Path, document: Document) -> Result<(Self, Built), Vec<Problem>> {
        let config = document.config().clone();
        let mut this = Self {
            node: node.clone(),
            file: file.to_owned(),
            status: Arc::default(),
            directory: Directory::default(),
            directory_error: None,
            document,
            last_seen: LastSeen::Document,
            buffer: Vec::new(),
            looked_at: Instant::now(),
            waiting: None,
            inbox: Inbox::default(),
            trials: Trials::default(),
        };
        this.scan(&config.plugins, Pace::Start);
        for candidate in this.directory.waiting() {
            this.directory.accept(&candidate, Why::Start, node.generation() + 1);
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

    /// Gives commands to the thread that reloads.
    pub fn commands(&self) -> Commands {
        Commands::new(self.inbox.bell())
    }

    /// Watches until the node drains. Runs on a thread of its own, at low priority.
    pub fn run(mut self) {
        lower_priority();
        let mut watch = Watch::new(self.inbox.bell());
        while !self.node.draining.load(Ordering::Acquire) {
            let mut directories = watch::around_file(&self.file);
            directories.extend(watch::around_directory(&self.node.snapshot().config.plugins.directory));
            // Where others are watched from now on something may have changed unseen.
            let event = if watch.renew(directories) { Event::Files } else { self.inbox.next() };
            match event {
                Event::Files => self.look(),
                Event::Command(command) => self.obey(command),
                Event::Failure => {}
            }
            self.judge();
        }
    }

    /// One look at everything that can be reloaded.
    pub fn look(&mut self) {
        self.looked_at = Instant::now();
        self.keys();
        let new_config = self.read_config();
        let plugins = self.node.snapshot().config.plugins.clone();
        if self.scan(&plugins, Pace::Live) || new_config {
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
    fn scan(&mut self, plugins: &config::Plugins, pace: Pace) -> bool {
        self.node.engine.cache.move_to(plugins.cache.as_deref());
        let looked = match self.directory.scan(&self.node.engine, &plugins.directory, pace) {
            Ok(looked) => looked,
            Err(error) => {
                let error = format!("the plugin directory {} cannot be read: {error}", plugins.directory.display());
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
        for plugin in &looked.loaded {
            self.node.telemetry.metrics.plugin_load(plugin.load.source.as_str());
        }
        !looked.loaded.is_empty()
    }

    /// Reads the configuration if its file changed. Returns true if there is a new one to take over.
    fn read_config(&mut self) -> bool {
        let mut text = std::mem::take(&mut self.buffer);
        let is_new = match config::read_into(&mut text, &self.file) {
            Ok(()) => self.take_up(&text),
            Err(error) => {
                if !matches!(std::mem::replace(&mut self.last_seen, LastSeen::Nothing), LastSeen::Nothing) {
                    let message = format!("cannot be read: {error}");
                    self.refuse_config(&[Problem::new(&self.file, config::Position::FILE, message)]);
                }
                false
            }
        };
        self.buffer = text;
        is_new
    }

    fn take_up(&mut self, text: &[u8]) -> bool {
        let is_known = match &self.last_seen {
            LastSeen::Document => self.document.text().as_bytes() == text,
            LastSeen::Refused(refused) => refused == text,
            LastSeen::Nothing => false,
        };
        if is_known {
            return false;
        }
        self.waiting = None;
        match self.understand(text) {
            Ok(config) => {
                self.last_seen = LastSeen::Document;
                self.waiting = Some(config);
            }
            Err(problems) => {
                self.last_seen = LastSeen::Refused(text.to_owned());
                self.refuse_config(&problems);
            }
        }
        self.waiting.is_some()
    }

    fn understand(&mut self, text: &[u8]) -> Result<Arc<Config>, Vec<Problem>> {
        // What is written in place is empty first. It would take every listener away.
        if text.trim_ascii().is_empty() {
            let problem = Problem::new(&self.file, config::Position::FILE, "is empty");
            return Err(vec![problem.with_hint("to end weir, send it SIGTERM")]);
        }
        let read = config::text(text, &self.file).and_then(|text| self.document.update(text, &self.file));
        read.map_err(|problems| problems.into_iter().collect::<Vec<_>>())?;
        self.same_at_start(self.document.config().clone())
    }

    /// Some things are set up once, at start.
    fn same_at_start(&self, config: Arc<Config>) -> Result<Arc<Config>, Vec<Problem>> {
        let current = &self.node.snapshot().config;
        let changed: Vec<&str> = [
            ("[admin] listen", config.admin != current.admin),
            ("[node] workers", config.node.workers != current.node.workers),
            ("[node] name", config.node.name != current.node.name),
            ("[trace]", config.trace != current.trace),
        ]
        .into_iter()
        .filter_map(|(what, changed)| changed.then_some(what))
        .collect();
        if changed.is_empty() {
            return Ok(config);
        }
        let message = format!("{} changed, which takes effect at the next start", changed.join(" and "));
        Err(vec![
            Problem::new(&self.file, config::Position::FILE, message)
                .with_hint("restart weir, or take this change back: until then nothing else in the file is live"),
        ])
    }

    /// Takes over what is waiting: all of it at one instant if it fits together, since what changed together may need
    /// each other; otherwise one by one, so that a bad one does not keep the others back.
    fn take_over(&mut self) {
        self.try_held();
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
            if let Err(problems) = self.take(config.clone(), std::slice::from_ref(candidate)) {
                self.refuse(candidate, &problems);
            }
        }
    }

    fn refuse(&mut self, candidate: &Candidate, problems: &[Problem]) {
        let why = list(problems);
        if self.directory.refuse(&candidate.name, why.clone()) {
            self.told_failed(&candidate.name, &why);
        }
    }

    /// Puts the waiting configuration into effect, together with these plugins. Returns false if that cannot be; where it
    /// stands alone, that is its last word.
    fn take_config(&mut self, candidates: &[Candidate]) -> bool {
        let Some(config) = self.waiting.clone() else {
            return false;
        };
        match self.take(config, candidates) {
            Ok(generation) => {
                self.waiting = None;
                self.node.telemetry.metrics.reload("config", "ok");
                let ms = self.looked_at.elapsed().as_secs_f64() * 1000.0;
                tracing::info!(generation, ms, "configuration reloaded");
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

    /// Puts new versions into effect, each on trial where it replaces another.
    fn take(&mut self, config: Arc<Config>, candidates: &[Candidate]) -> Result<u64, Vec<Problem>> {
        let trials = self.trials_of(candidates);
        let generation = self.attempt(config, candidates)?;
        for candidate in candidates {
            let doubtful = self.trials.doubtful(&candidate.name);
            self.accept(candidate, generation);
            if let Some(digest) = doubtful {
                self.directory.forget(&candidate.name, &digest);
            }
        }
        trials.into_iter().for_each(|trial| self.trials.begin(trial, self.inbox.bell()));
        Ok(generation)
    }

    /// Builds and publishes, or says why not.
    fn attempt(&self, config: Arc<Config>, candidates: &[Candidate]) -> Result<u64, Vec<Problem>> {
        Ok(self.build(config, candidates)?.publish(&self.node, &self.file)?.generation)
    }

    fn build(&self, config: Arc<Config>, candidates: &[Candidate]) -> Result<Built, Vec<Problem>> {
        let mut plugins = self.directory.plugins();
        plugins.extend(candidates.iter().map(|candidate| (candidate.name.clone(), Ok(candidate.plugin.clone()))));
        let built = build(&self.node, &self.file, config, plugins)?;
        if built.refused.is_empty() { Ok(built) } else { Err(built.refused) }
    }

    fn accept(&mut self, candidate: &Candidate, generation: u64) {
        self.directory.accept(candidate, Why::File, generation);
        self.node.telemetry.metrics.reload("plugin", "ok");
        let (digest, load) = (&candidate.plugin.digest, candidate.plugin.load);
        let (source, ms) = (load.source.as_str(), load.milliseconds());
        tracing::info!(plugin = candidate.name, generation, digest, source, ms, "plugin reloaded");
    }
}

/// Compilation must not take the processor from exchanges.
fn lower_priority() {
    // On Linux a thread's priority is its own.
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!("the reload thread keeps its priority: {error}");
    }
}
