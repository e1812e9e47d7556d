//! A policy of a snapshot: its plugin found, its configuration checked against the schema and tried.

use super::Snapshot;
use crate::config::{self, Problem};
use crate::keys::Keys;
use crate::node::Node;
use crate::plugin::capability::Grants;
use crate::plugin::fields::Needs;
use crate::plugin::instance::{ConfigureError, Instance};
use crate::plugin::{Plugin, Plugins, Policy};
use std::path::Path;
use std::sync::Arc;

/// The most problems of one policy that are told.
const MAX_PROBLEMS: usize = 20;
/// The longest message of a plugin that is told, in characters.
const MAX_MESSAGE: usize = 500;

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
    /// There is no plugin that works, and `on-error` decides what that means.
    pub unusable: Vec<Problem>,
    /// The plugin refuses the configuration; or there was one that works, and it is not to be lost.
    pub refused: Vec<Problem>,
}

pub fn policy(input: &PolicyInput<'_>) -> Made {
    let plugin = match input.plugins.get(&input.config.plugin) {
        Some(plugin) => plugin.clone(),
        None => Err(missing(input)),
    };
    let grants = Grants::of(input.config, |name| input.keys.get(name).is_some());
    if let (Ok(plugin), Some(before)) = (&plugin, input.previous.policies.get(&input.config.name))
        && is_unchanged(input, plugin, &grants, before)
    {
        return Made { policy: before.clone(), unusable: Vec::new(), refused: Vec::new() };
    }
    let context = input.node.context(&input.config.name, grants, input.keys.clone());
    let mut policy = Policy::new(input.config, input.node.next_policy_id(), plugin, context);
    let (mut unusable, mut refused) = (Vec::new(), Vec::new());
    let tried = match &policy.plugin {
        Err(why) => Err(Failed::Plugin(without_plugin(input, why))),
        Ok(plugin) => try_out(input, &policy, plugin),
    };
    match tried {
        Ok(needs) => policy.needs = needs,
        Err(Failed::Plugin(problem)) if is_start(input) || was_unusable(input) => unusable.push(problem),
        Err(Failed::Plugin(problem)) => refused.push(problem),
        Err(Failed::Config(problems)) => refused = problems,
    }
    if let (Ok(_), Some(first)) = (&policy.plugin, unusable.iter().chain(&refused).next()) {
        policy.plugin = Err(first.message.clone());
    }
    Made { policy: Arc::new(policy), unusable, refused }
}

/// Why a policy cannot work.
enum Failed {
    /// There is no plugin, or it breaks while it is configured, or it asks for what is not granted.
    Plugin(Problem),
    /// The plugin works and refuses the configuration.
    Config(Vec<Problem>),
}

fn is_start(input: &PolicyInput<'_>) -> bool {
    input.previous.generation == 0
}

/// Whether the policy cannot work in the snapshot before either, with the same version of the plugin: to refuse the change
/// at hand, which then is about something else, would mend nothing.
fn was_unusable(input: &PolicyInput<'_>) -> bool {
    let previous = input.previous;
    let unusable = previous.policies.get(&input.config.name).is_some_and(|policy| policy.plugin.is_err());
    let version = |plugins: &Plugins| {
        plugins
            .get(&input.config.plugin)
            .and_then(|plugin| plugin.as_ref().ok())
            .map(|plugin| (plugin.digest.clone(), plugin.generation))
    };
    let same_plugin =
        previous.config.policies.get(&input.config.name).is_some_and(|policy| policy.plugin == input.config.plugin);
    unusable && same_plugin && version(&previous.plugins) == version(input.plugins)
}

/// The same plugin with the same configuration keeps its instances, and what they remember.
fn is_unchanged(input: &PolicyInput<'_>, plugin: &Plugin, grants: &Grants, before: &Policy) -> bool {
    let same_plugin = before
        .plugin
        .as_ref()
        .is_ok_and(|before| before.digest == plugin.digest && before.generation == plugin.generation);
    same_plugin
        && before.config == input.config.config
        && before.limits == input.config.limits
        && before.on_error == input.config.on_error
        && before.context.grants == *grants
        && Arc::ptr_eq(&before.context.keys, input.keys)
}

fn missing(input: &PolicyInput<'_>) -> String {
    let names: Vec<&str> = input.plugins.keys().map(String::as_str).collect();
    let there = if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) };
    format!("there is no plugin {:?} in the plugin directory: {there}", input.config.plugin)
}

fn without_plugin(input: &PolicyInput<'_>, why: &str) -> Problem {
    let plugin = &input.config.plugin;
    let problem =
        Problem::new(input.file, input.config.plugin_position(), format!("policy {:?}: {why}", input.config.name));
    match input.plugins.contains_key(plugin) {
        true => problem.with_hint(format!("put a version of {plugin}.wasm there that works")),
        false => problem.with_hint(format!("put {plugin}.wasm there, or name another plugin")),
    }
}

/// Checks the configuration against the plugin's schema, then lets the plugin itself judge it.
fn try_out(input: &PolicyInput<'_>, policy: &Policy, plugin: &Plugin) -> Result<Needs, Failed> {
    let problem = |pointer: &str, message: String| {
        let at = if pointer.is_empty() {
            String::new()
        } else {
            format!(" {}", pointer.trim_start_matches('/').replace('/', "."))
        };
        let message = format!("policy {:?}: config{at}: {message}", input.config.name);
        Problem::new(input.file, input.config.locate(pointer), message)
            .with_hint(format!("weir inspect shows the schema of plugin {:?}", plugin.name))
    };
    if let Some(kind) = policy.context.grants.lacks(&plugin.asks) {
        return Err(Failed::Plugin(asks_too_much(input, policy, plugin, kind.as_str(), kind.form())));
    }
    let validator = jsonschema::validator_for(&plugin.description.schema)
        .map_err(|error| Failed::Config(vec![problem("", error.to_string())]))?;
    let problems: Vec<Problem> = validator
        .iter_errors(&input.config.config)
        .map(|error| problem(error.instance_path().as_str(), error.to_string()))
        .collect();
    if !problems.is_empty() {
        return Err(Failed::Config(problems));
    }
    let (instance, needs) = Instance::new(policy, plugin).map_err(|error| match error {
        ConfigureError::Problems(problems) if problems.is_empty() => {
            Failed::Config(vec![problem("", "the plugin refuses it and does not say why".into())])
        }
        ConfigureError::Problems(problems) => Failed::Config(
            problems
                .into_iter()
                .take(MAX_PROBLEMS)
                .map(|(pointer, message)| problem(&pointer, line(&message)))
                .collect(),
        ),
        ConfigureError::Broken(why) => Failed::Plugin(problem("", format!("`configure` failed: {why}"))),
        ConfigureError::Denied(capability) => {
            let capability = capability.to_string();
            Failed::Plugin(asks_too_much(input, policy, plugin, &capability, &capability))
        }
    })?;
    // One for each worker: the first exchange of a new generation waits for none.
    policy.keep(instance);
    for _ in 1..input.node.workers {
        match Instance::new(policy, plugin) {
            Ok((instance, _)) => policy.keep(instance),
            // The worker that lacks one tries again, and tells.
            Err(_) => break,
        }
    }
    Ok(needs)
}

/// `grant` is what to write to allow what it asks for.
fn asks_too_much(input: &PolicyInput<'_>, policy: &Policy, plugin: &Plugin, asked: &str, grant: &str) -> Problem {
    let (name, version, hint) = (&plugin.name, &plugin.description.version, policy.context.grants.hint(grant));
    let message = format!(
        "policy {:?}: plugin {name:?} {version} asks for {asked}, which [policy.{}] does not allow: {hint}",
        input.config.name, input.config.name
    );
    Problem::new(input.file, input.config.allow_position(), message)
}

/// What a plugin says, as one line of a bounded length: it may say anything.
fn line(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect()
}
