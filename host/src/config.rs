//! Reads `config.toml` into concrete types.
//!
//! Every problem of the file is found in one pass and told with its line, its column and a hint:
//! syntax errors, unknown keys, wrong types, values out of range, names given twice and names that
//! nothing defines. What only the outside can answer (does the plugin exist, is the key file
//! readable) is asked later, by whoever uses it.
//!
//! ```text
//! config.toml:12:5: unknown key "atempt-timeout" in [[route]]
//!   hint: did you mean "attempt-timeout"?
//! ```
//!
//! The text becomes a tree that knows its places (`tree`), the `reader` walks it, and one
//! module for each part of the file says which keys it has. Relative paths start at the working
//! directory of the process.

mod capability;
mod cut;
mod document;
mod key;
mod message;
mod names;
mod policy;
mod positions;
mod problem;
mod reader;
mod rollback;
mod route;
mod service;
mod settings;
mod show;
#[cfg(test)]
mod tests;
mod tree;
mod values;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use self::names::Kind;
use self::reader::{Fields, Reader};

pub use self::capability::{Capability, CapabilityKind};
pub use self::document::Document;
pub use self::key::{Algorithm, Key, KeyFile, KeySource};
pub use self::message::{Broker, BrokerKind, Channel, Subscription};
pub use self::policy::{OnError, Policy, PolicyLimits};
pub use self::problem::{Position, Problem, Problems};
pub use self::rollback::Rollback;
pub use self::route::{Match, Rewrite, Route};
pub use self::service::{Endpoint, Listener, Protocol, Service};
pub use self::settings::{Admin, Exchanges, Level, Limits, Log, Node, Plugins, RetryBudget, Trace};

/// No configuration file is larger, in bytes.
const LARGEST_FILE: u64 = 64 * 1024 * 1024;

/// All that `config.toml` says, with the defaults of what it leaves out. Every name that a part
/// refers to exists.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    pub admin: Admin,
    pub plugins: Plugins,
    pub node: Node,
    pub retry_budget: RetryBudget,
    pub log: Log,
    pub trace: Trace,
    pub limits: Limits,
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    /// Shared, as routes are, with the configurations before and after that have the same.
    #[serde(rename = "service", serialize_with = "show::items")]
    pub services: Arc<[Arc<Service>]>,
    /// In the order of the file.
    #[serde(rename = "route", serialize_with = "show::items")]
    pub routes: Arc<[Arc<Route>]>,
    /// The names of policies in their order, by name of the chain.
    #[serde(rename = "chain")]
    pub chains: BTreeMap<String, Vec<String>>,
    #[serde(rename = "policy")]
    pub policies: BTreeMap<String, Policy>,
    #[serde(rename = "key")]
    pub keys: BTreeMap<String, Key>,
    #[serde(rename = "broker")]
    pub brokers: Vec<Broker>,
    #[serde(rename = "channel")]
    pub channels: Vec<Channel>,
    #[serde(rename = "subscription")]
    pub subscriptions: Vec<Subscription>,
}

impl Config {
    /// The configuration in effect, defaults included, with the keys of the file: what `/config`
    /// shows.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Reads the file at `path`.
///
/// # Errors
/// Every problem of the file; or the one that it cannot be read, is not UTF-8 or is larger than
/// 64 MiB.
pub fn load(path: &Path) -> Result<Config, Problems> {
    parse(text(&read(path)?, path)?, path)
}

fn read(path: &Path) -> Result<Vec<u8>, Problems> {
    let mut bytes = Vec::new();
    read_into(&mut bytes, path).map_err(|error| {
        let problem = Problem::new(path, Position::FILE, format!("cannot be read: {error}"));
        Problems::from(vec![problem.with_hint("name another file with --config")])
    })?;
    Ok(bytes)
}

/// What the file at `path` holds, in place of what is there.
///
/// # Errors
/// It cannot be read, or is larger than 64 MiB.
pub fn read_into(bytes: &mut Vec<u8>, path: &Path) -> io::Result<()> {
    bytes.clear();
    let file = File::open(path)?;
    // Room for all of it: a large file is not to be copied as the room grows. A device has no length.
    let length = file.metadata()?.len().min(LARGEST_FILE);
    bytes.reserve(usize::try_from(length).unwrap_or(0) + 1);
    file.take(LARGEST_FILE + 1).read_to_end(bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other("it is larger than 64 MiB"));
    }
    Ok(())
}

/// The bytes of a configuration as text.
///
/// # Errors
/// They are not UTF-8, and where.
pub fn text<'a>(bytes: &'a [u8], file: &Path) -> Result<&'a str, Problems> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let valid = String::from_utf8_lossy(valid);
        let at = Reader::new(file, &valid).position(valid.len());
        vec![Problem::new(file, at, "not UTF-8").with_hint("save the file as UTF-8")].into()
    })
}

/// Reads the text of a configuration; `file` is the name that problems give it.
///
/// # Errors
/// Every problem of the text. Where it is not TOML, those places alone: what is meant around them
/// is unknown.
pub fn parse(text: &str, file: &Path) -> Result<Config, Problems> {
    let parsed = tree::parse(text);
    let reader = Reader::new(file, text);
    for error in parsed.errors {
        reader.report(reader.position(error.span.start), error.message, "");
    }
    let config = parsed.table.as_ref().map(|table| Fields::of_file(&reader, table, config));
    let problems = reader.finish();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems.into()),
    }
}

fn config(fields: &mut Fields<'_>) -> Config {
    let admin = fields.section("admin", settings::admin);
    let mut taken = BTreeMap::from([(admin.listen, "[admin]".to_owned())]);
    Config {
        admin,
        plugins: fields.section("plugins", settings::plugins),
        node: fields.section("node", settings::node),
        retry_budget: fields.section("retry-budget", settings::retry_budget),
        log: fields.section("log", settings::log),
        trace: fields.section("trace", settings::trace),
        limits: fields.section("limits", settings::limits),
        listeners: fields.each("listener", |fields| service::listener(fields, &mut taken)),
        services: fields.each("service", |fields| service::service(fields).map(Arc::new)).into(),
        routes: fields.each("route", |fields| route::route(fields).map(Arc::new)).into(),
        chains: fields.named("chain", Kind::Chain, policy::chain),
        policies: fields.named("policy", Kind::Policy, policy::policy),
        keys: fields.named("key", Kind::Key, key::key),
        brokers: fields.each("broker", message::broker),
        channels: fields.each("channel", message::channel),
        subscriptions: fields.each("subscription", message::subscription),
    }
}
