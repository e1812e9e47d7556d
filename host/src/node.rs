//! The node: what all workers share, and the snapshot that new exchanges get.

use crate::cells::CellStore;
use crate::config::Config;
use crate::keys::Keys;
use crate::listener::spread::Seat;
use crate::message::desk::Desk;
use crate::names::Names;
use crate::plugin::Context;
use crate::plugin::capability::Grants;
use crate::plugin::engine::PluginEngine;
use crate::retry_budget::RetryBudget;
use crate::service::Services;
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;
use crate::worker::errands::Errands;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The numbers of exchanges have 8 bits for the worker.
const MAX_WORKERS: usize = 255;

/// What all workers share.
#[derive(Debug)]
pub struct Node {
    pub engine: PluginEngine,
    /// How many threads serve exchanges.
    pub workers: usize,
    /// What workers know of each other, by their numbers.
    pub seats: Box<[Arc<Seat>]>,
    /// Ways to the workers for what does not come over a listener.
    pub errands: Errands,
    /// Where consumers come for their messages.
    pub desk: Desk,
    pub services: Arc<Services>,
    /// Numbers of routes, by name.
    pub route_names: Arc<Names>,
    pub cells: CellStore,
    /// Runs what is not an exchange, the clients of brokers among it.
    pub control: Handle,
    pub telemetry: Arc<Telemetry>,
    pub retry_budget: RetryBudget,
    snapshot: ArcSwap<Snapshot>,
    /// The snapshot's number, for a look without touching its reference count.
    generation: AtomicU64,
    /// The same, for those who wait for the next.
    published: watch::Sender<u64>,
    /// Snapshots that workers have let go of. To free one may take long, which is no work for a worker.
    retired: Mutex<Vec<Arc<Snapshot>>>,
    next_policy: AtomicU64,
    /// Exchanges in progress, on all workers.
    pub active: AtomicUsize,
    /// Open connections of callers, on all listeners and workers.
    pub connections: AtomicUsize,
    pub draining: AtomicBool,
}

impl Node {
    pub fn new(engine: PluginEngine, telemetry: Arc<Telemetry>, control: Handle, config: &Config) -> Self {
        let workers = config
            .node
            .workers
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
            .clamp(1, MAX_WORKERS);
        Self {
            engine,
            workers,
            seats: (0..workers).map(|number| Seat::new(telemetry.metrics.worker(number))).collect(),
            errands: Errands::new(workers),
            desk: Desk::default(),
            services: Arc::default(),
            route_names: Arc::default(),
            cells: CellStore::default(),
            control,
            retry_budget: RetryBudget::new(config.retry_budget.percent, config.retry_budget.min_per_second),
            telemetry,
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            generation: AtomicU64::new(0),
            published: watch::Sender::new(0),
            retired: Mutex::default(),
            next_policy: AtomicU64::new(1),
            active: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// What the instances of a policy share with the node.
    pub fn context(&self, policy: &str, grants: Grants, keys: Arc<Keys>) -> Arc<Context> {
        Arc::new(Context {
            policy: policy.into(),
            grants,
            cells: self.cells.of_policy(policy),
            services: self.services.clone(),
            routes: self.route_names.clone(),
            keys,
            telemetry: self.telemetry.clone(),
        })
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Tells of every snapshot that is published from now on.
    pub fn published(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Lets exchanges that start from now have this snapshot. Those in progress end with the one they began with.
    pub fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let generation = snapshot.generation;
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(snapshot.clone());
        self.generation.store(generation, Ordering::Release);
        self.published.send_replace(generation);
        self.telemetry.metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        snapshot
    }

    /// Lets go of a snapshot without freeing it here and now.
    pub fn retire(&self, snapshot: Arc<Snapshot>) {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(snapshot);
    }

    /// Frees what workers have let go of. Called now and then by the control thread.
    pub fn free_retired(&self) {
        let retired = std::mem::take(&mut *self.retired.lock().unwrap_or_else(PoisonError::into_inner));
        drop(retired);
    }

    /// A number that no policy had before.
    pub fn next_policy_id(&self) -> u64 {
        self.next_policy.fetch_add(1, Ordering::Relaxed)
    }
}
