//! The brokers, channels and subscriptions of a snapshot. Brokers stay open from one snapshot to the next where their
//! configuration stays.

use crate::broker::open::{cannot, credentials, open};
use crate::broker::{Broker, ChannelOptions, Consumption, Destination};
use crate::config::{self, Config, Problem, Protocol};
use crate::node::Node;
use crate::service::{Service, ServiceOptions};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::handles::{MessageMetrics, RouteMetrics};
use crate::telemetry::record::Kind;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Everything about messages in one generation.
#[derive(Debug, Default)]
pub struct Messages {
    pub brokers: BTreeMap<String, Arc<OpenBroker>>,
    pub channels: BTreeMap<String, Arc<Channel>>,
    pub subscriptions: BTreeMap<String, Arc<Subscription>>,
}

/// A broker that is open, and the service that policies take it for: one with a single endpoint.
#[derive(Debug)]
pub struct OpenBroker {
    pub config: config::Broker,
    pub client: Arc<dyn Broker>,
    pub service: Arc<Service>,
}

/// Where publishes go.
#[derive(Debug)]
pub struct Channel {
    /// As hooks are told: the number of a route.
    pub id: u32,
    pub name: Arc<str>,
    pub broker: Arc<OpenBroker>,
    pub destination: Destination,
    /// Index into the snapshot's chains.
    pub chain: usize,
    pub timeout: Duration,
    /// Bytes of a body.
    pub max_message: usize,
    metrics: OnceLock<(Arc<RouteMetrics>, MessageMetrics)>,
}

/// Where deliveries come from, and go.
#[derive(Debug)]
pub struct Subscription {
    pub id: u32,
    pub name: Arc<str>,
    pub config: config::Subscription,
    pub channel: Arc<Channel>,
    /// Of the consumer; for consumers that come for their messages, one that stands for all of them.
    pub service: Arc<Service>,
    pub chain: usize,
    pub consumption: Consumption,
    pub dead_letter: Option<DeadLetter>,
    /// Whether messages are being taken from the broker now.
    taking: Arc<AtomicBool>,
    metrics: OnceLock<(Arc<RouteMetrics>, MessageMetrics)>,
}

/// Where dead letters go.
#[derive(Debug)]
pub struct DeadLetter {
    pub name: String,
    pub broker: Arc<OpenBroker>,
    pub destination: Destination,
}

impl Channel {
    pub fn metrics(&self, metrics: &Metrics) -> &(Arc<RouteMetrics>, MessageMetrics) {
        let of = || (metrics.route(Kind::Publish, &self.name), metrics.messages(Kind::Publish, &self.name));
        self.metrics.get_or_init(of)
    }
}

impl Subscription {
    pub fn metrics(&self, metrics: &Metrics) -> &(Arc<RouteMetrics>, MessageMetrics) {
        let of = || (metrics.route(Kind::Delivery, &self.name), metrics.messages(Kind::Delivery, &self.name));
        self.metrics.get_or_init(of)
    }

    /// Whether consumers come for their messages.
    pub fn is_pulled(&self) -> bool {
        self.config.service.is_none()
    }

    /// Where deliveries are posted; what policies see of one that is asked for.
    pub fn path(&self) -> &str {
        self.config.path.as_deref().unwrap_or("/")
    }

    pub fn is_taking(&self) -> bool {
        self.taking.load(Ordering::Relaxed)
    }

    pub fn takes(&self, takes: bool) {
        self.taking.store(takes, Ordering::Relaxed);
    }

    /// Whether what is being delivered for the one can go on as the other.
    pub fn continues(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.channel.broker, &other.channel.broker)
            && self.consumption == other.consumption
            && self.is_pulled() == other.is_pulled()
            && self.config.ordered == other.config.ordered
    }
}

impl Messages {
    /// What a configuration says of messages. Brokers that are new are opened.
    ///
    /// # Errors
    /// Everything that cannot be had.
    pub fn open(node: &Node, file: &Path, config: &Config, before: &Self) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut problem = |message: String| problems.push(Problem::new(file, config::Position::FILE, message));
        let mut this = Self::default();
        for broker in &config.brokers {
            // One that has another name now is the same all the same.
            let client = match before.brokers.values().find(|known| known.config.is(broker)) {
                Some(known) if known.config == *broker => {
                    this.brokers.insert(broker.name.clone(), known.clone());
                    continue;
                }
                Some(known) => Ok(known.client.clone()),
                None => open(broker, &node.control),
            };
            match client {
                Ok(client) => {
                    let opened = OpenBroker { config: broker.clone(), client, service: service(node, broker) };
                    this.brokers.insert(broker.name.clone(), Arc::new(opened));
                }
                Err(why) => problem(format!("broker {:?}: {why}", broker.name)),
            }
        }
        let chain = |name: &Option<String>| {
            let at = name.as_ref().and_then(|name| config.chains.keys().position(|known| known == name));
            at.map_or(0, |at| at + 1)
        };
        for channel in &config.channels {
            let Some(broker) = this.brokers.get(&channel.broker) else { continue };
            let destination = destination(channel);
            let (id, _) = node.route_names.intern(&format!("publish {}", channel.name));
            let made = Channel {
                id,
                name: channel.name.as_str().into(),
                broker: broker.clone(),
                destination,
                chain: chain(&channel.chain),
                timeout: channel.timeout,
                max_message: channel.max_message,
                metrics: OnceLock::new(),
            };
            this.channels.insert(channel.name.clone(), Arc::new(made));
        }
        for subscription in &config.subscriptions {
            let Some(channel) = this.channels.get(&subscription.channel) else { continue };
            let consumer = |name: &String| config.services.iter().find(|service| service.name == *name);
            let service = match subscription.service.as_ref().map(consumer) {
                Some(Some(service)) => node.services.intern(&service.name, ServiceOptions::of(service)),
                Some(None) => continue,
                None => stand_in(node, &format!("pull {}", subscription.name), "pull"),
            };
            let (id, _) = node.route_names.intern(&format!("deliver {}", subscription.name));
            let dead_letter = subscription.dead_letter.as_ref().map(|name| this.dead_letter(name, channel));
            let own_chain = subscription.chain.is_some();
            let made = Subscription {
                id,
                name: subscription.name.as_str().into(),
                channel: channel.clone(),
                service,
                chain: if own_chain { chain(&subscription.chain) } else { channel.chain },
                consumption: Consumption {
                    name: subscription.name.clone(),
                    from: channel.destination.clone(),
                    prefetch: subscription.prefetch,
                    dead_letter: dead_letter
                        .as_ref()
                        .filter(|to| Arc::ptr_eq(&to.broker, &channel.broker))
                        .map(|to| to.destination.clone()),
                    dedup: subscription.dedup,
                },
                dead_letter,
                taking: before
                    .subscriptions
                    .get(&subscription.name)
                    .map_or_else(Arc::default, |known| known.taking.clone()),
                config: subscription.clone(),
                metrics: OnceLock::new(),
            };
            this.subscriptions.insert(subscription.name.clone(), Arc::new(made));
        }
        if problems.is_empty() { Ok(this) } else { Err(problems) }
    }

    /// A channel of that name, or else a destination beside the one that the messages come from.
    fn dead_letter(&self, name: &str, from: &Channel) -> DeadLetter {
        match self.channels.get(name) {
            Some(channel) => DeadLetter {
                name: name.to_owned(),
                broker: channel.broker.clone(),
                destination: channel.destination.clone(),
            },
            None => {
                let options = ChannelOptions { declare: from.destination.options.declare, ..ChannelOptions::default() };
                let destination = Destination { address: name.to_owned(), options };
                DeadLetter { name: name.to_owned(), broker: from.broker.clone(), destination }
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// The services that stand for brokers, and for consumers that come for their messages.
    pub fn stand_ins(&self) -> impl Iterator<Item = &Arc<Service>> {
        let pulled = self.subscriptions.values().filter(|subscription| subscription.is_pulled());
        self.brokers.values().map(|broker| &broker.service).chain(pulled.map(|pulled| &pulled.service))
    }
}

/// What can be said of the messages of a configuration without opening a broker.
pub fn check(file: &Path, config: &Config) -> Vec<Problem> {
    let brokers = config.brokers.iter().filter_map(|broker| {
        let why = credentials(broker).err()?;
        Some(Problem::new(file, broker.position("/password-file"), format!("broker {:?}: {why}", broker.name)))
    });
    let channels = config.channels.iter().filter_map(|channel| {
        let broker = config.brokers.iter().find(|broker| broker.name == channel.broker)?;
        let (key, why) = cannot(broker.kind, &destination(channel))?;
        Some(Problem::new(file, channel.position(key), format!("channel {:?}: {why}", channel.name)))
    });
    brokers.chain(channels).collect()
}

fn destination(channel: &config::Channel) -> Destination {
    let config::Channel { declare, ttl, retention, max_length, max_priority, quorum, .. } = *channel;
    let options = ChannelOptions { declare, ttl, retention, max_length, max_priority, quorum };
    Destination { address: channel.destination.clone(), options }
}

fn service(node: &Node, broker: &config::Broker) -> Arc<Service> {
    let host = broker.url.as_deref().and_then(|url| url.split_once("://")).map(|(_, rest)| rest);
    let address = host.and_then(|rest| rest.split('/').next()).unwrap_or("embedded");
    stand_in(node, &format!("broker {}", broker.name), address)
}

/// A service with one endpoint that is none of the configuration's: those have no spaces in their names.
fn stand_in(node: &Node, name: &str, address: &str) -> Arc<Service> {
    let config = config::Service {
        name: name.to_owned(),
        protocol: Protocol::Http1,
        endpoints: vec![config::Endpoint { address: address.to_owned(), weight: 1, metadata: BTreeMap::new() }],
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(60),
        max_connections: 1,
        max_pending: 1,
    };
    let service = node.services.intern(name, ServiceOptions::of(&config));
    if !service.is_configured() || !service.has(address) {
        service.configure(&config);
    }
    service
}
