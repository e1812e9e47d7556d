//! Plugins: component files as loaded, and policies: plugins with a configuration.

mod alarm;
pub mod bindings;
mod cache;
pub mod capability;
pub mod compiler;
mod cpu;
pub mod directory;
pub mod engine;
pub mod fields;
pub mod history;
mod imports;
pub mod instance;
pub mod outbound;
pub mod shortcut;
mod wasi;

use crate::config::{self, CapabilityKind, OnError, PolicyLimits};
use crate::keys::Keys;
use crate::service::Services;
use crate::telemetry::Telemetry;
use crate::{cells::Cells, names::Names};
use alarm::Alarm;
use bindings::HookSet;
use capability::Grants;
use engine::Loaded;
use fields::Needs;
pub use imports::{SETUP_CPU, State};
use instance::{ConfigureError, Instance};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A component file as loaded: compiled, described, linked, ready to be configured.
pub struct Plugin {
    /// The file's stem.
    pub name: Arc<str>,
    /// SHA-256 of the file, in hexadecimal.
    pub digest: String,
    /// Rises by one with each version of a plugin that was loaded.
    pub generation: u64,
    pub loaded_at: SystemTime,
    pub load: Load,
    pub description: Description,
    pub hooks: HookSet,
    /// What the component imports, as in `weir:policy/log@0.1.0`.
    pub imports: Vec<String>,
    /// What of that has to be granted, in order.
    pub asks: Vec<CapabilityKind>,
    /// Instances thrown away, and the last reason.
    pub traps: AtomicU64,
    pub last_trap: Mutex<Option<String>>,
    /// Rings for each of them while the version is new.
    pub alarm: Alarm,
    pub(crate) loaded: Loaded,
}

impl Plugin {
    /// An instance was thrown away.
    pub fn count_trap(&self, message: &str) {
        self.traps.fetch_add(1, Ordering::Relaxed);
        *self.last_trap.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.to_owned());
        self.alarm.ring();
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// How a plugin was loaded.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub source: Source,
    /// For all of it, `describe` included.
    pub took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Compiled,
    Cache,
}

impl Load {
    pub fn milliseconds(&self) -> f64 {
        (self.took.as_secs_f64() * 1e4).round() / 10.0
    }
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compiled => "compiled",
            Self::Cache => "cache",
        }
    }
}

/// The plugins by name: the last good version of each, or why there is none.
pub type Plugins = BTreeMap<String, Result<Arc<Plugin>, String>>;

/// What a plugin says of itself.
#[derive(Debug, Clone)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub summary: String,
    /// JSON Schema of the configuration.
    pub schema: serde_json::Value,
    pub tick: Option<Duration>,
    /// Bytes.
    pub max_body: usize,
}

/// A plugin with a configuration, at a place in chains.
#[derive(Debug)]
pub struct Policy {
    pub name: Arc<str>,
    /// Different for each generation of a policy: what instances are found by.
    pub id: u64,
    pub on_error: OnError,
    pub limits: PolicyLimits,
    pub config: serde_json::Value,
    /// `Err` says why the policy cannot work: `on_error` decides what that means for each exchange.
    pub plugin: Result<Arc<Plugin>, String>,
    pub needs: Needs,
    pub context: Arc<Context>,
    /// Instances for the workers to take, made where no exchange waits for them.
    ready: Mutex<Vec<Instance>>,
}

impl Policy {
    /// A policy that has not been tried: it needs nothing yet.
    pub fn new(config: &config::Policy, id: u64, plugin: Result<Arc<Plugin>, String>, context: Arc<Context>) -> Self {
        Self {
            name: config.name.as_str().into(),
            id,
            on_error: config.on_error,
            limits: config.limits.clone(),
            config: config.config.clone(),
            plugin,
            needs: Needs::default(),
            context,
            ready: Mutex::default(),
        }
    }

    /// Keeps an instance for the first worker that wants one.
    pub fn keep(&self, instance: Instance) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
    }

    /// An instance that was kept, or a new one.
    ///
    /// # Errors
    /// None was kept and none can be made.
    pub fn instance(&self, plugin: &Plugin) -> Result<Instance, ConfigureError> {
        let kept = self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.map_or_else(|| Instance::new(self, plugin).map(|(instance, _)| instance), Ok)
    }
}

/// What the instances of a policy share with the rest of the node.
#[derive(Debug)]
pub struct Context {
    pub policy: Arc<str>,
    pub grants: Grants,
    pub cells: Arc<Cells>,
    pub services: Arc<Services>,
    pub routes: Arc<Names>,
    pub keys: Arc<Keys>,
    pub telemetry: Arc<Telemetry>,
}
