//! A snapshot: everything a configuration and its plugins come to, built whole and published at once.

mod build;
pub mod messages;
mod policies;
mod routes;
mod services;

use crate::config::Config;
use crate::keys::Keys;
use crate::listener::sockets::Sockets;
use crate::plugin::{Plugins, Policy};
use crate::service::Service;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::handles::RouteMetrics;
use crate::telemetry::record::Kind;
pub use build::{Built, build};
use messages::Messages;
use prometheus_client::metrics::gauge::Gauge;
pub use routes::RouteTable;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// One generation of the node's configuration.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub generation: u64,
    pub config: Arc<Config>,
    /// Bound; none before it is published.
    pub listeners: Vec<Arc<Sockets>>,
    pub plugins: Plugins,
    pub keys: Arc<Keys>,
    pub policies: BTreeMap<String, Arc<Policy>>,
    /// By number; number 0 is the chain without policies.
    pub chains: Vec<Vec<Arc<Policy>>>,
    pub routes: Arc<RouteTable>,
    /// Brokers are opened when it is published.
    pub messages: Arc<Messages>,
    /// The services whose endpoints or options are not those of the generation before.
    pub changed_services: Vec<Arc<str>>,
    _live: Live,
}

/// Where a route leads.
#[derive(Debug)]
pub struct Route {
    /// Stays the same for a route of that name.
    pub id: u32,
    /// Made of what it matches, as in `user-service/users`.
    pub name: Arc<str>,
    pub service: Arc<Service>,
    /// Index into [`Snapshot::chains`].
    pub chain: usize,
    pub strip_prefix: Option<String>,
    pub timeout: Option<Duration>,
    pub attempt_timeout: Option<Duration>,
    pub stream_idle_timeout: Option<Duration>,
    /// From the first exchange on: of many routes few may ever be used.
    metrics: OnceLock<Arc<RouteMetrics>>,
}

impl Route {
    /// What its exchanges count in.
    pub fn metrics(&self, metrics: &Metrics) -> &Arc<RouteMetrics> {
        self.metrics.get_or_init(|| metrics.route(Kind::Call, &self.name))
    }
}

/// Counts the snapshots in memory.
#[derive(Debug, Default)]
struct Live(Option<Gauge>);

impl Live {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(Some(gauge.clone()))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(gauge) = &self.0 {
            gauge.dec();
        }
    }
}

impl Snapshot {
    /// The route that a request takes. The host without its port, the path without its query.
    pub fn route(
        &self,
        listener: &str,
        host: &str,
        path: &str,
        method: &http::Method,
        headers: &http::HeaderMap,
    ) -> Option<&Arc<Route>> {
        let table = &*self.routes;
        table.entries.get(table.routes.find(listener, host, path, method, headers)?)
    }

    /// Whether requests for this host are the routes' in any case.
    pub fn routes_host(&self, host: &str) -> bool {
        self.routes.routes.names(host)
    }
}
