//! From a configuration and plugins to a snapshot, or to all the problems there are.

use super::messages::{self, Messages};
use super::policies::{self, PolicyInput};
use super::routes::RouteTable;
use super::services::Changes;
use super::{Live as Counted, Snapshot};
use crate::config::{self, Algorithm, Config, Problem};
use crate::keys::{self, KeySpec, Keys};
use crate::listener::sockets::Sockets;
use crate::node::Node;
use crate::plugin::Plugins;
use crate::service::{Service, ServiceOptions};
use crate::telemetry::host_log;
use crate::telemetry::metrics::Live;
use crate::telemetry::record::Kind;
use std::collections::BTreeMap;
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
/// Problems that leave nothing to publish: keys that cannot be read, routes that cannot be understood, channels that their
/// brokers do not have.
pub fn build(node: &Node, file: &Path, config: Arc<Config>, plugins: Plugins) -> Result<Built, Vec<Problem>> {
    let previous = node.snapshot();
    let problems = messages::check(file, &config);
    if !problems.is_empty() {
        return Err(problems);
    }
    let keys = keys(file, &config, &previous)?;
    let (mut unusable, mut refused) = (Vec::new(), Vec::new());
    let mut by_name = BTreeMap::new();
    for config in config.policies.values() {
        let input = PolicyInput { node, file, config, plugins: &plugins, keys: &keys, previous: &previous };
        let made = policies::policy(&input);
        unusable.extend(made.unusable);
        refused.extend(made.refused);
        by_name.insert(config.name.clone(), made.policy);
    }
    let of_chain = |policies: &Vec<String>| policies.iter().filter_map(|policy| by_name.get(policy).cloned()).collect();
    let chains = std::iter::once(Vec::new()).chain(config.chains.values().map(of_chain)).collect();
    let routes = RouteTable::build(node, file, &config, &previous.routes)?;
    let snapshot = Snapshot {
        generation: previous.generation + 1,
        listeners: Vec::new(),
        plugins,
        keys,
        policies: by_name,
        chains,
        routes,
        messages: Arc::default(),
        changed_services: Vec::new(),
        _live: Counted::new(&node.telemetry.metrics.live_generations),
        config,
    };
    Ok(Built { snapshot, unusable, refused })
}

impl Built {
    /// Lets new exchanges have it. The last step, and the last that can fail: what follows is one instant.
    ///
    /// # Errors
    /// Each listener whose address, and each broker that cannot be had. Then nothing has changed.
    pub fn publish(mut self, node: &Node, file: &Path) -> Result<Arc<Snapshot>, Vec<Problem>> {
        let before = node.snapshot();
        self.snapshot.listeners = Sockets::of(node, file, &self.snapshot.config, &before.listeners)?;
        let config = self.snapshot.config.clone();
        self.snapshot.messages = Messages::open(node, file, &config, &before.messages)?.into();
        let changes = Changes::between(&before.config.services, &config.services);
        for service in &changes.changed {
            let known = node.services.intern(&service.name, ServiceOptions::of(service));
            known.configure(service);
            self.snapshot.changed_services.push(known.name.clone());
        }
        for service in changes.gone.iter().filter_map(|service| node.services.named(&service.name)) {
            service.leave();
            self.snapshot.changed_services.push(service.name.clone());
        }
        let stays =
            |stand_in: &&Arc<Service>| self.snapshot.messages.stand_ins().any(|other| Arc::ptr_eq(stand_in, other));
        before.messages.stand_ins().filter(|stand_in| !stays(stand_in)).for_each(|gone| gone.leave());
        node.retry_budget.set(config.retry_budget.percent, config.retry_budget.min_per_second);
        node.telemetry.log.set_mode(config.log.exchanges.into());
        host_log::set_level(config.log.level);
        node.cells.retain(|policy| config.policies.contains_key(policy));
        let snapshot = node.publish(self.snapshot);
        node.telemetry.metrics.retain(&InUse { node, snapshot: &snapshot });
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
struct InUse<'a> {
    node: &'a Node,
    snapshot: &'a Snapshot,
}

impl Live for InUse<'_> {
    fn route(&self, kind: Kind, name: &str) -> bool {
        match kind {
            Kind::Call => self.snapshot.routes.has(name),
            Kind::Publish => self.snapshot.messages.channels.contains_key(name),
            Kind::Delivery => self.snapshot.messages.subscriptions.contains_key(name),
        }
    }

    fn service(&self, name: &str) -> bool {
        self.node.services.named(name).is_some_and(|service| service.is_configured())
    }

    fn endpoint(&self, service: &str, address: &str) -> bool {
        let service = self.node.services.named(service).filter(|service| service.is_configured());
        service.is_some_and(|service| service.has(address))
    }

    fn listener(&self, name: &str) -> bool {
        self.snapshot.listeners.iter().any(|listener| &*listener.name == name)
    }

    fn policy(&self, name: &str) -> bool {
        self.snapshot.policies.contains_key(name)
    }

    fn plugin(&self, name: &str) -> bool {
        self.snapshot.plugins.contains_key(name)
    }
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
