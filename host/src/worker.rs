//! A worker: one thread with a runtime of its own, its connections, its upstream pools and its instances of policies.
//!
//! Nothing on the data path is shared between workers but atomics and the snapshot, so that nothing there waits for
//! another thread. What one hands to another are whole requests (`listener/spread.rs`).

pub mod errands;

use crate::call::body::RequestBody;
use crate::chain::{BoundPolicy, Chain};
use crate::listener::Listeners;
use crate::listener::spread::Spread;
use crate::node::Node;
use crate::plugin::bindings::Hook;
use crate::service::NameMap;
use crate::service::client::Clients;
use crate::snapshot::Snapshot;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::metrics::handles::EndpointMetrics;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

pub struct Worker {
    pub node: Arc<Node>,
    /// From 0, different for each worker, and below 256.
    pub number: usize,
    pub telemetry: Arc<WorkerTelemetry>,
    pub clients: Clients<RequestBody>,
    pub listeners: Listeners,
    /// Where streams may go if this worker is too busy.
    pub spread: Spread,
    current: RefCell<Rc<Current>>,
    next_exchange: Cell<u64>,
    /// Open connections of callers.
    pub connections: Cell<usize>,
    endpoint_metrics: RefCell<EndpointTable>,
}

/// By service, then by address.
type EndpointTable = NameMap<NameMap<Arc<EndpointMetrics>>>;

/// The place of an exchange among all that are in progress on the node.
pub struct Place {
    node: Arc<Node>,
    worker: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.node.active.fetch_sub(1, Ordering::Relaxed);
        if let Some(seat) = self.node.seats.get(self.worker) {
            seat.metrics.end();
        }
    }
}

/// A snapshot as this worker runs it.
#[derive(Default)]
pub struct Current {
    pub snapshot: Arc<Snapshot>,
    /// By the numbers of the snapshot's chains.
    chains: Vec<Rc<Chain>>,
    policies: HashMap<u64, Rc<BoundPolicy>>,
    /// None before the first snapshot.
    node: Option<Arc<Node>>,
}

/// The last worker to let go of a snapshot does not free it.
impl Drop for Current {
    fn drop(&mut self) {
        if let Some(node) = &self.node {
            node.retire(std::mem::take(&mut self.snapshot));
        }
    }
}

impl Current {
    pub fn chain(&self, number: usize) -> Rc<Chain> {
        self.chains.get(number).cloned().unwrap_or_default()
    }
}

impl Worker {
    /// Serves nothing until the first [`current`](Self::current).
    pub fn new(node: Arc<Node>, number: usize) -> Rc<Self> {
        let telemetry = node.telemetry.worker();
        let clients = {
            let metrics = node.telemetry.metrics.clone();
            Clients::new(move |service| metrics.service(service))
        };
        let spread = Spread::new(&node, number);
        Rc::new(Self {
            node,
            number,
            telemetry,
            clients,
            listeners: Listeners::default(),
            spread,
            current: RefCell::default(),
            next_exchange: Cell::new((number as u64) << 56),
            connections: Cell::new(0),
            endpoint_metrics: RefCell::default(),
        })
    }

    /// The current snapshot. The first to ask after a change binds it, which takes as long as making the new instances.
    pub fn current(self: &Rc<Self>) -> Rc<Current> {
        let current = self.current.borrow().clone();
        if current.snapshot.generation == self.node.generation() {
            return current;
        }
        let next = Rc::new(self.bind(&current));
        self.listeners.follow(self, &current, &next.snapshot);
        self.current.replace(next.clone());
        next
    }

    fn bind(&self, before: &Current) -> Current {
        let snapshot = self.node.snapshot();
        let mut policies = HashMap::new();
        for policy in snapshot.policies.values() {
            let bound = before.policies.get(&policy.id).cloned().unwrap_or_else(|| {
                let bound = BoundPolicy::new(policy.clone());
                if policy.plugin.is_ok() {
                    bound.warm();
                }
                Rc::new(bound)
            });
            policies.insert(policy.id, bound);
        }
        // What is to be done for each service is done for those that changed. Where generations were left out that is not
        // known.
        let is_next = before.snapshot.generation + 1 == snapshot.generation;
        self.follow_services(is_next.then_some(&snapshot.changed_services));
        let chain = |chain: &Vec<Arc<crate::plugin::Policy>>| {
            Rc::new(Chain::new(chain.iter().filter_map(|policy| policies.get(&policy.id).cloned()).collect()))
        };
        Current {
            chains: snapshot.chains.iter().map(chain).collect(),
            policies,
            snapshot,
            node: Some(self.node.clone()),
        }
    }

    /// Lets go of endpoints that left services which may have changed: `None` is any. Their connections are closed once
    /// they are idle.
    fn follow_services(&self, changed: Option<&Vec<Arc<str>>>) {
        let services = &self.node.services;
        let mut metrics = self.endpoint_metrics.borrow_mut();
        let mut follow = |name: &str| {
            metrics.remove(name);
            let service = services.named(name);
            self.clients.retire(name, |address| service.as_ref().is_some_and(|service| service.has(address)));
        };
        match changed {
            Some(changed) => changed.iter().for_each(|name| follow(name)),
            None => {
                self.clients.services().iter().for_each(|name| follow(name));
                metrics.clear();
            }
        }
    }

    pub fn next_exchange_id(&self) -> u64 {
        let id = self.next_exchange.get() + 1;
        self.next_exchange.set(id);
        id
    }

    /// A place for one more exchange, if there is one.
    pub fn enter(&self) -> Option<Place> {
        let max = self.current.borrow().snapshot.config.limits.max_pending;
        let place = Place { node: self.node.clone(), worker: self.number };
        if let Some(seat) = self.node.seats.get(self.number) {
            seat.metrics.begin();
        }
        (self.node.active.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }

    /// Whether callers are still connected. While the node drains, a connection stays only for what it has begun. A tunnel
    /// has left its connection behind, and counts as an exchange in progress, on whichever worker.
    pub fn is_busy(&self) -> bool {
        self.listeners.are_open() || self.connections.get() > 0 || self.node.active.load(Ordering::Relaxed) > 0
    }

    pub fn endpoint_metrics(&self, service: &Arc<str>, address: &Arc<str>) -> Arc<EndpointMetrics> {
        let mut known = self.endpoint_metrics.borrow_mut();
        if let Some(metrics) = known.get(service).and_then(|of_service| of_service.get(address)) {
            return metrics.clone();
        }
        let metrics = self.node.telemetry.metrics.endpoint(service, address);
        known.entry(service.clone()).or_default().insert(address.clone(), metrics.clone());
        metrics
    }

    /// Housekeeping, every 10 ms for policies that tick.
    pub fn tick_policies(self: &Rc<Self>, now: Instant) {
        self.current().policies.values().for_each(|policy| policy.tick(now));
    }

    /// Whether some policy wants to be called on a schedule.
    pub fn has_ticking_policies(self: &Rc<Self>) -> bool {
        self.current().policies.values().any(|policy| policy.calls(Hook::Tick))
    }

    /// Housekeeping, every 100 ms.
    pub fn tick(&self, now: Instant) {
        self.telemetry.log.flush_if_old(now);
        self.clients.close_idle(now);
    }
}
