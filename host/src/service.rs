//! Services and their endpoints, as all workers share them.

pub mod client;
pub mod endpoint;
mod least;

use crate::config;
use arc_swap::ArcSwap;
use endpoint::{BreakerState, Endpoint};
use least::LeastLoaded;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

/// By the name of a service or the address of an endpoint. They come from configurations and registries, not from callers,
/// so a hash that withstands attacks would only cost: each exchange looks four of them up.
pub type NameMap<V> = HashMap<Arc<str>, V, foldhash::fast::RandomState>;

/// How the endpoints of a service are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceOptions {
    pub protocol: config::Protocol,
    pub connect_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// Connections to one endpoint, of each worker.
    pub max_connections: usize,
    /// Requests that may wait for a connection to one endpoint, of each worker.
    pub max_pending: usize,
}

impl ServiceOptions {
    pub fn of(service: &config::Service) -> Self {
        let config::Service { protocol, connect_timeout, idle_timeout, max_connections, max_pending, .. } = service;
        Self {
            protocol: *protocol,
            connect_timeout: *connect_timeout,
            idle_timeout: *idle_timeout,
            max_connections: *max_connections,
            max_pending: *max_pending,
        }
    }
}

/// The services by number. A number is given once for a name and stays for the life of the process, so that policies
/// and metrics can hold on to it across reloads.
#[derive(Debug, Default)]
pub struct Services {
    table: RwLock<Table>,
    /// The numbers of services that have ejected endpoints, or had.
    ejecting: Arc<Mutex<BTreeSet<u32>>>,
}

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<Arc<str>, u32>,
    list: Vec<Arc<Service>>,
}

impl Services {
    /// The service of that name, made with these options if it is new. One that is there keeps its own.
    pub fn intern(&self, name: &str, options: ServiceOptions) -> Arc<Service> {
        if let Some(service) = self.named(name) {
            return service;
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = table.named(name) {
            return service.clone();
        }
        let id = table.list.len() as u32;
        let service = Arc::new(Service::new(id, name, options, self.ejecting.clone()));
        table.by_name.insert(service.name.clone(), id);
        table.list.push(service.clone());
        service
    }

    pub fn get(&self, id: u32) -> Option<Arc<Service>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).list.get(id as usize).cloned()
    }

    pub fn named(&self, name: &str) -> Option<Arc<Service>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).named(name).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Service>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).list.clone()
    }

    /// Announces that ejections have ended. Called now and then by the control thread.
    pub fn expire_ejections(&self, now: u64) {
        let ejecting = || self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut services = std::mem::take(&mut *ejecting());
        services.retain(|id| self.get(*id).is_some_and(|service| service.expire_ejections(now)));
        ejecting().append(&mut services);
    }
}

impl Table {
    fn named(&self, name: &str) -> Option<&Arc<Service>> {
        self.list.get(*self.by_name.get(name)? as usize)
    }
}

/// A named group of endpoints.
#[derive(Debug)]
pub struct Service {
    pub id: u32,
    pub name: Arc<str>,
    pub options: ArcSwap<ServiceOptions>,
    endpoints: ArcSwap<EndpointSet>,
    /// Serialises changes; readers use the `ArcSwap`.
    changes: Mutex<()>,
    next: AtomicUsize,
    least: OnceLock<LeastLoaded>,
    /// Whether the configuration has it.
    configured: AtomicBool,
    /// The numbers of services that have ejected endpoints, or had.
    ejecting: Arc<Mutex<BTreeSet<u32>>>,
    /// Breakers that are not of one endpoint, by scope, for the admin page.
    pub breakers: Mutex<HashMap<String, BreakerState>>,
}

/// The endpoints of a service at one time.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Rises with each change, ejections included.
    pub version: u64,
    /// By number; numbers of endpoints that left are gaps until they are given again.
    by_id: Vec<Option<Arc<Endpoint>>>,
}

impl EndpointSet {
    pub fn get(&self, id: u32) -> Option<&Arc<Endpoint>> {
        self.by_id.get(id as usize)?.as_ref()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.by_id.iter().flatten()
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl Service {
    fn new(id: u32, name: &str, options: ServiceOptions, ejecting: Arc<Mutex<BTreeSet<u32>>>) -> Self {
        Self {
            id,
            name: name.into(),
            options: ArcSwap::from_pointee(options),
            endpoints: ArcSwap::default(),
            changes: Mutex::default(),
            next: AtomicUsize::new(0),
            least: OnceLock::new(),
            configured: AtomicBool::new(false),
            ejecting,
            breakers: Mutex::default(),
        }
    }

    pub fn endpoints(&self) -> Arc<EndpointSet> {
        self.endpoints.load_full()
    }

    /// The version of the current set, for a look without a reference count.
    pub fn version(&self) -> u64 {
        self.endpoints.load().version
    }

    /// Takes up what a configuration says of the service.
    pub fn configure(&self, config: &config::Service) {
        self.options.store(Arc::new(ServiceOptions::of(config)));
        self.set_endpoints(&config.endpoints);
        self.configured.store(true, Ordering::Release);
    }

    /// The configuration has it no more. Exchanges in progress still use it.
    pub fn leave(&self) {
        self.configured.store(false, Ordering::Release);
    }

    pub fn is_configured(&self) -> bool {
        self.configured.load(Ordering::Acquire)
    }

    /// Whether it has an endpoint at this address.
    pub fn has(&self, address: &str) -> bool {
        self.endpoints.load().iter().any(|endpoint| &*endpoint.address == address)
    }

    /// Replaces the endpoints. One that stays, by its address, keeps its number and its load.
    pub fn set_endpoints(&self, specs: &[config::Endpoint]) {
        self.change(|before| {
            let known: HashMap<&str, &Arc<Endpoint>> =
                before.iter().map(|endpoint| (&*endpoint.address, endpoint)).collect();
            let kept = |spec: &config::Endpoint| known.get(spec.address.as_str()).map(|endpoint| endpoint.id as usize);
            let mut by_id: Vec<Option<Arc<Endpoint>>> = Vec::new();
            by_id.resize(specs.iter().filter_map(kept).max().map_or(0, |id| id + 1), None);
            for (spec, id) in specs.iter().filter_map(|spec| Some((spec, kept(spec)?))) {
                if let (Some(slot), Some(endpoint)) = (by_id.get_mut(id), known.get(spec.address.as_str())) {
                    *slot = Some(Arc::new(endpoint.respecified(spec)));
                }
            }
            let mut free = 0;
            for spec in specs.iter().filter(|spec| kept(spec).is_none()) {
                while by_id.get(free).is_some_and(Option::is_some) {
                    free += 1;
                }
                let endpoint = Some(Arc::new(Endpoint::new(free as u32, spec)));
                match by_id.get_mut(free) {
                    Some(slot) => *slot = endpoint,
                    None => by_id.push(endpoint),
                }
            }
            Some(by_id)
        });
    }

    /// Takes an endpoint out of picking until `until`, unless it is the last one left.
    pub fn eject(&self, id: u32, until: u64, now: u64) -> bool {
        let ejected = self.change(|before| {
            let others = before.iter().any(|endpoint| endpoint.id != id && !endpoint.is_ejected(now));
            let endpoint = before.get(id).filter(|_| others)?;
            endpoint.ejected_until.store(until, Ordering::Release);
            Some(before.by_id.clone())
        });
        if ejected {
            self.ejecting.lock().unwrap_or_else(PoisonError::into_inner).insert(self.id);
        }
        ejected
    }

    /// Announces that ejections have ended. Returns whether others last.
    fn expire_ejections(&self, now: u64) -> bool {
        let expired = |endpoint: &Arc<Endpoint>| {
            let until = endpoint.ejected_until.load(Ordering::Acquire);
            until != 0 && until <= now
        };
        if self.endpoints.load().iter().any(expired) {
            self.change(|before| {
                before
                    .iter()
                    .filter(|endpoint| expired(endpoint))
                    .for_each(|endpoint| endpoint.ejected_until.store(0, Ordering::Release));
                Some(before.by_id.clone())
            });
        }
        self.endpoints.load().iter().any(|endpoint| endpoint.is_ejected(now))
    }

    fn change(&self, next: impl FnOnce(&EndpointSet) -> Option<Vec<Option<Arc<Endpoint>>>>) -> bool {
        let _one_at_a_time = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.endpoints.load_full();
        let Some(by_id) = next(&before) else { return false };
        self.endpoints.store(Arc::new(EndpointSet { version: before.version + 1, by_id }));
        if let Some(least) = self.least.get() {
            least.rebuild(&self.endpoints.load());
        }
        true
    }

    /// What the host does where no policy picks: round robin over those that are not ejected or to be avoided.
    pub fn round_robin(&self, avoid: &[u32], now: u64) -> Option<Arc<Endpoint>> {
        let set = self.endpoints.load();
        let size = set.by_id.len();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let at = |step: usize| set.by_id.get((start.wrapping_add(step)) % size.max(1)).and_then(Option::as_ref);
        (0..size).filter_map(at).find(|endpoint| !endpoint.is_ejected(now) && !avoid.contains(&endpoint.id)).cloned()
    }

    /// The endpoint with the fewest exchanges in flight for its weight, in O(log n).
    pub fn least_loaded(&self, avoid: &[u32], now: u64) -> Option<u32> {
        let least = self.least.get_or_init(|| {
            let _no_change = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            let least = LeastLoaded::default();
            least.rebuild(&self.endpoints.load());
            least
        });
        least.find(avoid, |id| self.endpoints.load().get(id).is_some_and(|endpoint| !endpoint.is_ejected(now)))
    }

    /// Keeps what a breaker of a wider scope told, for the admin page; of at most 1024 scopes.
    pub fn report_breaker(&self, scope: String, told: BreakerState) {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        if breakers.len() < 1024 || breakers.contains_key(&scope) {
            breakers.insert(scope, told);
        }
    }

    /// Counts an exchange in flight at an endpoint until the guard is dropped.
    pub fn begin(self: &Arc<Self>, endpoint: &Arc<Endpoint>) -> InFlight {
        endpoint.load.in_flight.fetch_add(1, Ordering::Relaxed);
        if let Some(least) = self.least.get() {
            least.update(endpoint);
        }
        InFlight { service: self.clone(), endpoint: endpoint.clone() }
    }
}

/// One exchange in flight at an endpoint.
#[derive(Debug)]
pub struct InFlight {
    service: Arc<Service>,
    endpoint: Arc<Endpoint>,
}

impl InFlight {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub fn address(&self) -> &str {
        &self.endpoint.address
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(least) = self.service.least.get() {
            least.update(&self.endpoint);
        }
    }
}
