//! What is done once for many exchanges.

use std::path::PathBuf;
use std::sync::Arc;

use weir::config;
use weir::plugin::Source;
use weir::plugin::compiler;
use weir::plugin::engine::PluginEngine;
use weir::plugin::instance::Instance;
use weir::snapshot::build;

use super::node::{rig, start};
use super::scenario::Run;
use crate::weir::plugins_directory;

/// Makes an instance of a policy, and configures it.
///
/// # Panics
/// There is no such policy.
pub fn instantiate(policy: &str) -> Run {
    let policy = rig().worker.node.snapshot().policies.get(policy).expect("a policy").clone();
    let plugin = policy.plugin.clone().expect("a plugin");
    Box::new(move || drop(Instance::new(&policy, &plugin).expect("an instance")))
}

/// Loads a plugin from its file: compiled each time, or once and then taken from a cache.
///
/// # Panics
/// There is no such plugin.
pub fn load(plugin: &'static str, cache: Option<PathBuf>) -> Run {
    let file = plugins_directory().join(plugin).with_extension("wasm");
    let engine = PluginEngine::new().expect("an engine");
    engine.cache.move_to(cache.as_deref());
    let load = move || {
        let bytes = std::fs::read(&file).expect("a plugin's file");
        engine.load(plugin, &bytes, 1, compiler::LIMIT).expect("a plugin").load.source
    };
    let expected = if cache.is_some() { Source::Cache } else { Source::Compiled };
    load();
    Box::new(move || assert_eq!(load(), expected))
}

/// Puts another configuration of one policy in place, up to where a worker has it.
///
/// # Panics
/// There is no such policy.
pub fn swap(policy: &'static str) -> Run {
    // Not the one of the scenarios: publishing takes their endpoints back.
    let rig = start();
    let node = rig.worker.node.clone();
    let mut changed = config::Config::clone(&node.snapshot().config);
    changed.policies.get_mut(policy).expect("a policy").limits.memory += 65536;
    let mut configs = [Arc::new(changed), node.snapshot().config.clone()];
    Box::new(move || {
        configs.reverse();
        let before = node.snapshot();
        let built = build(&node, &rig.file, configs[1].clone(), before.plugins.clone()).expect("a snapshot");
        built.publish(&node, &rig.file).expect("published");
        rig.worker.current();
    })
}
