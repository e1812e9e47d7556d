//! A policy of a snapshot: its plugin found, its configuration checked against the schema and tried.

use super::Snapshot;
use crate::config::{self, Problem};
use crate::keys::Keys;
use crate::node::Node;
use crate::plugin::fields::Needs;
use crate::plugin::instance::{ConfigureError, Instance};
use crate::plugin::{Context, Plugin, Plugins, Policy};
use std::path::Path;
use std::sync::Arc;

/// What a policy is made of.
pub struct PolicyInput<'a> {
    pub node: &'a Node,
    pub file: &'a Path,
    pub config: &'a config::Policy,
    pub plugins: &'a Plugins,
    pub keys: &'a Arc<Keys>,
    pub previous: &'a Snapshot,
}

/// A policy, usable or not.
pub struct Made {
    pub policy: Arc<Policy>,
    /// There is no plugin that works.
    pub unusable: Option<Problem>,
    /// The plugin refuses the configuration.
    pub refused: Vec<Problem>,
}

pub fn policy(input: &PolicyInput<'_>) -> Made {
    let plugin = match input.plugins.get(&input.config.plugin) {
        Some(plugin) => plugin.clone(),
        None => Err(missing(input)),
    };
    if let (Ok(plugin), Some(before)) = (&plugin, input.previous.policies.get(&input.config.name))
        && is_unchanged(input, plugin, before)
    {
        return Made { policy: before.clone(), unusable: None, refused: Vec::new() };
    }
    let mut policy = Policy {
        name: input.config.name.as_str().into(),
        id: input.node.next_policy_id(),
        on_error: input.config.on_error,
        limits: input.config.limits.clone(),
        config: input.config.config.clone(),
        plugin,
        needs: Needs::default(),
        context: Arc::new(Context {
            policy: input.config.name.as_str().into(),
            cells: input.node.cells.of_policy(&input.config.name),
            services: input.node.services.clone(),
            routes: input.node.route_names.clone(),
            keys: input.keys.clone(),
            telemetry: input.node.telemetry.clone(),
        }),
    };
    let (mut unusable, mut refused) = (None, Vec::new());
    match &policy.plugin {
        Err(why) => unusable = Some(Problem::new(input.file, input.config.plugin_position(), format!("policy {:?}: {why}", input.config.name))),
        Ok(plugin) => match try_out(input, &policy, plugin) {
            Ok(needs) => policy.needs = needs,
            Err(problems) => refused = problems,
        },
    }
    if let Some(first) = refused.first() {
        policy.plugin = Err(first.message.clone());
    }
    Made { policy: Arc::new(policy), unusable, refused }
}

/// The same plugin with the same configuration keeps its instances, and what they remember.
fn is_unchanged(input: &PolicyInput<'_>, plugin: &Plugin, before: &Policy) -> bool {
    let same_plugin = before.plugin.as_ref().is_ok_and(|before| before.digest == plugin.digest && before.generation == plugin.generation);
    same_plugin
        && before.config == input.config.config
        && before.limits == input.config.limits
        && before.on_error == input.config.on_error
        && Arc::ptr_eq(&before.context.keys, input.keys)
}

fn missing(input: &PolicyInput<'_>) -> String {
    let names: Vec<&str> = input.plugins.keys().map(String::as_str).collect();
    let there = if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) };
    format!("there is no plugin {:?} in the plugin directory: {there}", input.config.plugin)
}

/// Checks the configuration against the plugin's schema, then lets the plugin itself judge it.
fn try_out(input: &PolicyInput<'_>, policy: &Policy, plugin: &Plugin) -> Result<Needs, Vec<Problem>> {
    let problem = |pointer: &str, message: String| {
        let at = if pointer.is_empty() { String::new() } else { format!(" {}", pointer.trim_start_matches('/').replace('/', ".")) };
        let message = format!("policy {:?}: config{at}: {message}", input.config.name);
        Problem::new(input.file, input.config.locate(pointer), message).with_hint(format!("weir inspect shows the schema of plugin {:?}", plugin.name))
    };
    let validator = jsonschema::validator_for(&plugin.description.schema).map_err(|error| vec![problem("", error.to_string())])?;
    let problems: Vec<Problem> = validator
        .iter_errors(&input.config.config)
        .map(|error| problem(error.instance_path().as_str(), error.to_string()))
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    Instance::new(policy, plugin).map(|(_, needs)| needs).map_err(|error| match error {
        ConfigureError::Problems(problems) => problems.into_iter().map(|(pointer, message)| problem(&pointer, message)).collect(),
        ConfigureError::Broken(why) => vec![problem("", format!("`configure` failed: {why}"))],
    })
}
