//! The upstream side: sends requests to endpoints, and keeps the connections.
//!
//! Each worker thread has its own connections, so that nothing here is shared or locked. All of it runs in the worker's
//! `LocalSet`.

mod body;
mod connect;
mod error;
mod http1;
mod http2;
mod slots;
#[cfg(test)]
mod tests;

pub use body::UpstreamBody;
pub use connect::dial;
pub use error::{SendError, SendFailure, root_cause};

use super::endpoint::Endpoint;
use super::{NameMap, ServiceOptions};
use crate::config::Protocol;
use crate::telemetry::metrics::handles::ServiceMetrics;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use slots::Slots;
use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a head or of trailers that an endpoint may send.
pub const MAX_HEAD: usize = 128 * 1024;
/// Fields of one of them.
pub const MAX_FIELDS: usize = 256;
/// How long an endpoint that has answered may take to read the rest of the request.
const REST_OF_REQUEST: Duration = Duration::from_secs(1);
const QUEUE_FULL: &str = "the queue for a connection is full";

/// A body that can be sent to an endpoint.
pub trait Outgoing: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static {}

impl<B> Outgoing for B where B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static {}

/// Gives the gauges of a service, by its name.
type MetricsOf = Box<dyn Fn(&Arc<str>) -> ServiceMetrics>;

/// The connections of one worker to all endpoints.
pub struct Clients<B> {
    metrics: MetricsOf,
    services: RefCell<NameMap<Upstream<B>>>,
}

/// A service, as far as there are connections to it.
struct Upstream<B> {
    metrics: ServiceMetrics,
    /// By address.
    pools: NameMap<Pool<B>>,
}

enum Pool<B> {
    Http1(Rc<http1::Pool<B>>),
    Http2(Rc<http2::Pool<B>>),
}

/// What a worker's connections amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Endpoints with connections.
    pub endpoints: usize,
    /// Connections that are open or being made.
    pub open: usize,
    /// Open ones without an exchange.
    pub idle: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
}

impl<B: Outgoing> Clients<B> {
    /// `metrics` gives a service's gauges by its name.
    pub fn new(metrics: impl Fn(&Arc<str>) -> ServiceMetrics + 'static) -> Self {
        Self { metrics: Box::new(metrics), services: RefCell::default() }
    }

    /// Sends one request to one endpoint and waits for the head of its answer. An HTTP/1.1 request has a target in
    /// origin form and `host`, an HTTP/2 request an absolute URI.
    ///
    /// Dropping the future gives the attempt up: the place in the queue is free, an HTTP/1.1 connection is closed, an
    /// HTTP/2 stream is reset.
    pub async fn send(
        &self,
        service: &Arc<str>,
        endpoint: &Endpoint,
        options: &ServiceOptions,
        request: Request<B>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        match self.pool(service, &endpoint.address, options) {
            Pool::Http1(pool) => pool.send(options, request).await,
            Pool::Http2(pool) => pool.send(options, request).await,
        }
    }

    fn pool(&self, service: &Arc<str>, address: &Arc<str>, options: &ServiceOptions) -> Pool<B> {
        let mut services = self.services.borrow_mut();
        if let Some(pool) = services.get(service).and_then(|upstream| upstream.pools.get(address))
            && pool.protocol() == options.protocol
        {
            return pool.clone();
        }
        let upstream = services
            .entry(service.clone())
            .or_insert_with(|| Upstream { metrics: (self.metrics)(service), pools: NameMap::default() });
        let pool = Pool::new(address.clone(), upstream.metrics.clone(), *options);
        if let Some(other) = upstream.pools.insert(address.clone(), pool.clone()) {
            other.let_go();
        }
        pool
    }
}

impl<B> Clients<B> {
    /// Closes connections that have been idle for longer than their service's `idle-timeout`. For every second or so.
    pub fn close_idle(&self, now: Instant) {
        self.services.borrow_mut().retain(|_, upstream| {
            upstream.keep_pools(|_, pool| {
                match pool {
                    Pool::Http1(pool) => pool.close_idle(now),
                    Pool::Http2(pool) => pool.close_idle(now),
                }
                pool.slots().open() > 0 || pool.slots().waiting() > 0
            });
            !upstream.pools.is_empty()
        });
    }

    /// Lets go of endpoints of a service that left, by address. Their idle connections are closed at once, the others when
    /// their exchanges have ended.
    pub fn retire(&self, service: &str, keep: impl Fn(&str) -> bool) {
        let mut services = self.services.borrow_mut();
        let Some(upstream) = services.get_mut(service) else { return };
        upstream.keep_pools(|address, _| keep(address));
        if upstream.pools.is_empty() {
            services.remove(service);
        }
    }

    /// The services to which there are connections.
    pub fn services(&self) -> Vec<Arc<str>> {
        self.services.borrow().keys().cloned().collect()
    }

    pub fn counts(&self) -> Counts {
        let services = self.services.borrow();
        let pools = services.values().flat_map(|upstream| upstream.pools.values());
        pools.fold(Counts::default(), |counts, pool| Counts {
            endpoints: counts.endpoints + 1,
            open: counts.open + pool.slots().open(),
            idle: counts.idle + pool.idle(),
            waiting: counts.waiting + pool.slots().waiting(),
        })
    }
}

impl<B> Upstream<B> {
    fn keep_pools(&mut self, keep: impl Fn(&str, &Pool<B>) -> bool) {
        self.pools.retain(|address, pool| {
            let stays = keep(address, pool);
            if !stays {
                pool.let_go();
            }
            stays
        });
    }
}

impl<B> Pool<B> {
    fn new(address: Arc<str>, metrics: ServiceMetrics, options: ServiceOptions) -> Self {
        match options.protocol {
            Protocol::Http1 => Self::Http1(Rc::new(http1::Pool::new(address, metrics, options))),
            Protocol::Http2 => Self::Http2(Rc::new(http2::Pool::new(address, metrics, options))),
        }
    }

    fn protocol(&self) -> Protocol {
        match self {
            Self::Http1(_) => Protocol::Http1,
            Self::Http2(_) => Protocol::Http2,
        }
    }

    fn slots(&self) -> &Slots {
        match self {
            Self::Http1(pool) => pool.slots(),
            Self::Http2(pool) => pool.slots(),
        }
    }

    /// Closes what is idle now: requests that wait for their answers keep the pool alive for a while.
    fn let_go(&self) {
        match self {
            Self::Http1(pool) => pool.let_go(),
            Self::Http2(pool) => pool.let_go(),
        }
    }

    fn idle(&self) -> usize {
        match self {
            Self::Http1(pool) => pool.idle(),
            Self::Http2(pool) => pool.idle(),
        }
    }
}

impl<B> Clone for Pool<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Http1(pool) => Self::Http1(pool.clone()),
            Self::Http2(pool) => Self::Http2(pool.clone()),
        }
    }
}
