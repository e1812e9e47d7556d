//! `/plugins`: what serves, what waits, what served before, and why.

use super::{Admin, time};
use crate::plugin::directory::File;
use crate::plugin::history::Swap;
use crate::plugin::{Plugin, Policy};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

impl Admin {
    pub(super) fn plugins(&self) -> Value {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let plugins: Vec<Value> = status.directory.files().map(|(name, file)| self.plugin(name, file)).collect();
        json!({ "generation": self.node.generation(), "plugins": plugins })
    }

    /// The entry of one plugin, if there is such a plugin.
    pub(super) fn plugin_named(&self, name: &str) -> Option<Value> {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.directory.file(name).map(|file| self.plugin(name, file))
    }

    fn plugin(&self, name: &str, file: &File) -> Value {
        let mut entry = json!({
            "name": name,
            "serving": file.serving.is_some(),
            "last-error": file.last_error,
            "pinned": file.pinned,
            "waiting": file.waiting().map(|plugin| version(plugin)),
            "can-revert-to": file.history.earlier().map(|plugin| version(plugin)).collect::<Vec<_>>(),
            "history": file.history.swaps().map(swap).collect::<Vec<_>>(),
        });
        if let (Some(plugin), Some(entry)) = (&file.serving, entry.as_object_mut()) {
            entry.extend(self.serving(plugin));
        }
        entry
    }

    fn serving(&self, plugin: &Plugin) -> serde_json::Map<String, Value> {
        let metrics = &self.node.telemetry.metrics;
        let times = |policy: &Arc<str>| -> serde_json::Map<String, Value> {
            let hook = |hook: &'static str| {
                let spent = metrics.hook(policy, hook);
                (hook.to_owned(), json!({ "calls": spent.calls(), "seconds": spent.seconds() }))
            };
            plugin.hooks.names().into_iter().map(hook).collect()
        };
        let snapshot = self.node.snapshot();
        let of_plugin = |policy: &&Arc<Policy>| policy.plugin.as_ref().is_ok_and(|of| of.name == plugin.name);
        let policy = |policy: &Arc<Policy>| {
            let allow: Vec<String> = policy.context.grants.iter().map(ToString::to_string).collect();
            json!({ "name": &*policy.name, "on-error": policy.on_error, "allow": allow, "time": times(&policy.name) })
        };
        let policies: Vec<Value> = snapshot.policies.values().filter(of_plugin).map(policy).collect();
        let mut entry = version(plugin);
        entry.extend([
            ("summary".to_owned(), json!(plugin.description.summary)),
            ("hooks".to_owned(), json!(plugin.hooks.names())),
            ("imports".to_owned(), json!(plugin.imports)),
            ("asks".to_owned(), json!(plugin.asks.iter().map(|kind| kind.as_str()).collect::<Vec<_>>())),
            ("load".to_owned(), json!({ "source": plugin.load.source.as_str(), "ms": plugin.load.milliseconds() })),
            ("traps".to_owned(), json!(plugin.traps.load(Ordering::Relaxed))),
            ("last-trap".to_owned(), json!(*plugin.last_trap.lock().unwrap_or_else(PoisonError::into_inner))),
            ("policies".to_owned(), json!(policies)),
        ]);
        entry
    }
}

fn version(plugin: &Plugin) -> serde_json::Map<String, Value> {
    [
        ("digest".to_owned(), json!(plugin.digest)),
        ("generation".to_owned(), json!(plugin.generation)),
        ("version".to_owned(), json!(plugin.description.version)),
        ("loaded-at".to_owned(), json!(time(plugin.loaded_at))),
    ]
    .into_iter()
    .collect()
}

fn swap(swap: &Swap) -> Value {
    json!({
        "at": time(swap.at),
        "from": swap.from,
        "to": swap.to,
        "version": swap.version,
        "generation": swap.generation,
        "why": swap.why.to_string(),
    })
}
