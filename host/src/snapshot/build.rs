//! From a configuration and plugins to a snapshot, or to all the problems there are.

use super::policies::{self, PolicyInput};
use super::{Live as Counted, Route, Snapshot};
use crate::config::{self, Algorithm, Config, Problem};
use crate::keys::{self, KeySpec, Keys};
use crate::listener::sockets::Sockets;
use crate::node::Node;
use crate::plugin::Plugins;
use crate::route::{RouteSpec, Routes};
use crate::service::{Service, ServiceOptions};
use crate::telemetry::host_log;
use crate::telemetry::metrics::Live;
use crate::telemetry::record::Kind;
use http::HeaderValue;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// A snapshot that could be published, and what is wrong with it all the same.
#[derive(Debug)]
pub struct Built {
    pub snapshot: Snapshot,
    /// Policies without a plugin that works. `on-error` decides what that means for their exchanges.
    pub unusable: Vec<Problem>,
    /// Configurations that their plugins refuse.
    pub refused: Vec<Problem>,
}

/// Builds the next snapshot. Unchanged policies are taken over from the previous one, with their instances.
///
/// Touches nothing that exchanges can see: only [`publish`](Built::publish) changes services.
///
/// # Errors
/// Problems that leave nothing to publish: keys that cannot be read, what this version does not do.
pub fn build(node: &Node, file: &Path, config: Arc<Config>, plugins: Plugins) -> Result<Built, Vec<Problem>> {
    let previous = node.snapshot();
    let mut fatal = unsupported(file, &config);
    let keys = match keys(file, &config, &previous) {
        Ok(keys) => keys,
        Err(problems) => {
            fatal.extend(problems);
            return Err(fatal);
        }
    };
    if !fatal.is_empty() {
        return Err(fatal);
    }
    let (mut unusable, mut refused) = (Vec::new(), Vec::new());
    let mut by_name = BTreeMap::new();
    for config in config.policies.values() {
        let input = PolicyInput { node, file, config, plugins: &plugins, keys: &keys, previous: &previous };
        let made = policies::policy(&input);
        unusable.extend(made.unusable);
        refused.extend(made.refused);
        by_name.insert(config.name.clone(), made.policy);
    }
    let mut chains = vec![Vec::new()];
    let mut chain_numbers = HashMap::new();
    for (name, policies) in &config.chains {
        chain_numbers.insert(name.as_str(), chains.len());
        chains.push(policies.iter().filter_map(|policy| by_name.get(policy).cloned()).collect());
    }
    let (routes, entries) = routes(node, file, &config, &chain_numbers)?;
    let snapshot = Snapshot {
        generation: previous.generation + 1,
        listeners: Vec::new(),
        plugins,
        keys,
        policies: by_name,
        chains,
        routes,
        entries,
        _live: Counted::new(&node.telemetry.metrics.live_generations),
        config,
    };
    Ok(Built { snapshot, unusable, refused })
}

impl Built {
    /// Lets new exchanges have it. The last step, and the last that can fail: what follows is one instant.
    ///
    /// # Errors
    /// Each listener whose address cannot be had. Then nothing has changed.
    pub fn publish(mut self, node: &Node, file: &Path) -> Result<Arc<Snapshot>, Vec<Problem>> {
        let before = node.snapshot();
        self.snapshot.listeners = Sockets::of(node, file, &self.snapshot.config, &before.listeners)?;
        let config = &self.snapshot.config;
        for service in &config.services {
            service_of(node, service).configure(service);
        }
        node.retry_budget.set(config.retry_budget.percent, config.retry_budget.min_per_second);
        node.telemetry.log.set_mode(config.log.exchanges.into());
        host_log::set_level(config.log.level);
        node.cells.retain(|policy| config.policies.contains_key(policy));
        let snapshot = node.publish(self.snapshot);
        node.telemetry.metrics.retain(&live(node, &snapshot));
        tell_listeners(&before, &snapshot);
        Ok(snapshot)
    }
}

fn tell_listeners(before: &Snapshot, after: &Snapshot) {
    let is_in = |sockets: &&Arc<Sockets>, all: &Snapshot| all.listeners.iter().any(|other| Arc::ptr_eq(other, sockets));
    for new in after.listeners.iter().filter(|sockets| !is_in(sockets, before)) {
        tracing::info!(listener = &*new.name, address = %new.address, "listening");
    }
    for left in before.listeners.iter().filter(|sockets| !is_in(sockets, after)) {
        tracing::info!(listener = &*left.name, address = %left.address, "accepts no more; its connections drain");
    }
}

/// What the metrics are still about.
fn live(node: &Node, snapshot: &Snapshot) -> Live {
    let names = |names: &mut dyn Iterator<Item = &String>| names.map(|name| Arc::from(name.as_str())).collect();
    let services: Vec<Arc<Service>> =
        snapshot.config.services.iter().map(|service| service_of(node, service)).collect();
    let endpoints = |service: &Arc<Service>| -> Vec<(Arc<str>, Arc<str>)> {
        service.endpoints().iter().map(|endpoint| (service.name.clone(), endpoint.address.clone())).collect()
    };
    Live {
        routes: snapshot.entries.iter().map(|route| (Kind::Call, route.name.clone())).collect(),
        services: services.iter().map(|service| service.name.clone()).collect(),
        endpoints: services.iter().flat_map(endpoints).collect(),
        listeners: names(&mut snapshot.config.listeners.iter().map(|listener| &listener.name)),
        policies: names(&mut snapshot.config.policies.keys()),
        plugins: names(&mut snapshot.plugins.keys()),
    }
}

fn service_of(node: &Node, service: &config::Service) -> Arc<Service> {
    node.services.intern(&service.name, ServiceOptions::of(service))
}

/// Parts of the configuration that this version reads but does not do yet.
fn unsupported(file: &Path, config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !config.brokers.is_empty() || !config.channels.is_empty() || !config.subscriptions.is_empty() {
        let message = "this version of Weir carries calls only: [[broker]], [[channel]] and [[subscription]] are not supported yet";
        problems.push(Problem::new(file, config::Position::FILE, message).with_hint("remove these sections"));
    }
    problems
}

fn keys(file: &Path, config: &Config, previous: &Snapshot) -> Result<Arc<Keys>, Vec<Problem>> {
    // The same keys, with material that was perhaps refreshed: policies that use them need not change.
    if previous.generation > 0 && previous.config.keys == config.keys {
        return Ok(previous.keys.clone());
    }
    let spec = |(name, key): (&String, &config::Key)| KeySpec {
        name: name.clone(),
        algorithm: key.algorithm.map(|algorithm| match algorithm {
            Algorithm::RS256 => keys::Algorithm::Rs256,
            Algorithm::ES256 => keys::Algorithm::Es256,
            Algorithm::EdDSA => keys::Algorithm::EdDsa,
            Algorithm::HS256 => keys::Algorithm::Hs256,
        }),
        kid: key.kid.clone(),
        source: match &key.source {
            config::KeySource::Private(key) => keys::KeySource::Private(key.file.clone()),
            config::KeySource::Public(key) => keys::KeySource::Public(key.file.clone()),
            config::KeySource::Secret(key) => keys::KeySource::Secret(key.file.clone()),
            config::KeySource::Jwks(key) => keys::KeySource::Jwks(key.file.clone()),
        },
    };
    Keys::load(config.keys.iter().map(spec).collect()).map(Arc::new).map_err(|problems| {
        let position = |name: &str| config.keys.get(name).map_or(config::Position::FILE, config::Key::file_position);
        problems.into_iter().map(|problem| Problem::new(file, position(&problem.key), problem.to_string())).collect()
    })
}

type Table = (Routes, Vec<Arc<Route>>);

fn routes(node: &Node, file: &Path, config: &Config, chains: &HashMap<&str, usize>) -> Result<Table, Vec<Problem>> {
    let services: HashMap<&str, Arc<Service>> =
        config.services.iter().map(|service| (service.name.as_str(), service_of(node, service))).collect();
    let mut specs = Vec::new();
    let mut entries = Vec::new();
    let mut taken: HashMap<String, u32> = HashMap::new();
    for route in &config.routes {
        let Some(service) = services.get(route.service.as_str()) else { continue };
        let header =
            |(name, value): &(http::HeaderName, String)| Some((name.clone(), HeaderValue::from_str(value).ok()?));
        specs.push(RouteSpec {
            listener: route.listener.clone(),
            host: route.matcher.host.clone(),
            path_prefix: route.matcher.path_prefix.clone(),
            methods: route.matcher.methods.clone(),
            headers: route.matcher.headers.iter().filter_map(header).collect(),
        });
        let mut name = name_of(route);
        let times = taken.entry(name.clone()).or_insert(0);
        *times += 1;
        if *times > 1 {
            name = format!("{name}#{times}");
        }
        let (id, name) = node.route_names.intern(&name);
        entries.push(Arc::new(Route {
            id,
            service: service.clone(),
            chain: route.chain.as_deref().and_then(|chain| chains.get(chain)).copied().unwrap_or(0),
            strip_prefix: route.rewrite.as_ref().map(|rewrite| rewrite.strip_prefix.clone()),
            timeout: route.timeout,
            attempt_timeout: route.attempt_timeout,
            stream_idle_timeout: route.stream_idle_timeout.unwrap_or(config.limits.stream_idle_timeout),
            metrics: node.telemetry.metrics.route(Kind::Call, &name),
            name,
        }));
    }
    let problem = |problem: crate::route::RouteProblem| Problem::new(file, config::Position::FILE, problem.to_string());
    let routes = Routes::build(specs).map_err(|problems| problems.into_iter().map(problem).collect::<Vec<_>>())?;
    Ok((routes, entries))
}

/// What people call a route: where it leads from, as short as it is clear.
fn name_of(route: &config::Route) -> String {
    let methods: Vec<&str> = route.matcher.methods.iter().map(http::Method::as_str).collect();
    let methods = if methods.is_empty() { String::new() } else { format!("{} ", methods.join(",")) };
    let headers: String = route.matcher.headers.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    let host = route.matcher.host.as_deref().unwrap_or("*");
    let listener = route.listener.as_deref().map(|listener| format!("{listener}:")).unwrap_or_default();
    format!("{methods}{listener}{host}{}{headers}", route.matcher.path_prefix.as_deref().unwrap_or("/"))
}
