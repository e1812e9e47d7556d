//! What reloading last came to, told on the admin pages, in the log and in metrics.

use super::Reloader;
use crate::config::{self, Config, Problem};
use crate::plugin::directory::Directory;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// For the admin pages. A copy: whoever reads it never waits for a compilation.
#[derive(Debug, Default)]
pub struct Status {
    pub directory: Directory,
    /// Why the latest configuration file is not in effect.
    pub config_error: Option<String>,
    pub config_loaded_at: Option<SystemTime>,
}

impl Reloader {
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

    pub(super) fn told_failed(&self, plugin: &str, why: &str) {
        self.node.telemetry.metrics.reload("plugin", "failed");
        tracing::error!(plugin, "plugin not loaded, the last good version, if there is one, stays in use: {why}");
    }

    pub(super) fn refuse_config(&self, problems: &[Problem]) {
        let why = list(problems);
        if self.status().config_error.as_ref() == Some(&why) {
            return;
        }
        self.node.telemetry.metrics.reload("config", "failed");
        tracing::error!("the configuration was not reloaded, the last good one stays in effect: {why}");
        self.status().config_error = Some(why);
    }

    pub(super) fn show(&self) {
        self.status().directory = self.directory.clone();
    }

    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
