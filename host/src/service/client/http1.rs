//! HTTP/1.1: one exchange at a time on a connection, and a pool of idle connections for each endpoint.

use super::body::{Hold, Recycle, UpstreamBody};
use super::connect::connect;
use super::error::SendError;
use super::slots::{Slot, Slots};
use super::{MAX_FIELDS, MAX_HEAD, Outgoing, QUEUE_FULL, REST_OF_REQUEST};
use crate::clock;
use crate::service::ServiceOptions;
use crate::telemetry::metrics::handles::ServiceMetrics;
use http::{Request, Response, StatusCode};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

pub(super) struct Pool<B> {
    address: Arc<str>,
    metrics: ServiceMetrics,
    slots: Arc<Slots>,
    /// The longest idle first. The last one is used next: the warmest, while those in excess grow old.
    idle: RefCell<Vec<Idle<B>>>,
    /// As of the latest request.
    options: Cell<ServiceOptions>,
}

struct Idle<B> {
    connection: Rc<Connection<B>>,
    since: Instant,
}

/// Dropping it closes the connection, whatever the endpoint still has to read.
struct Connection<B> {
    sender: RefCell<SendRequest<B>>,
    pool: Weak<Pool<B>>,
    /// The task that drives it.
    driver: AbortHandle,
    /// Whether the endpoint has switched protocols: then what becomes of the socket is decided elsewhere.
    switched: Cell<bool>,
}

impl<B> Pool<B> {
    pub fn new(address: Arc<str>, metrics: ServiceMetrics, options: ServiceOptions) -> Self {
        Self { address, metrics, slots: Arc::default(), idle: RefCell::default(), options: Cell::new(options) }
    }

    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    pub fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Closes the connections that have been idle for too long.
    pub fn close_idle(&self, now: Instant) {
        let limit = self.options.get().idle_timeout;
        self.keep(|idle| now.saturating_duration_since(idle.since) < limit);
    }

    pub fn let_go(&self) {
        self.keep(|_| false);
    }

    fn keep(&self, keep: impl Fn(&Idle<B>) -> bool) {
        self.idle.borrow_mut().retain(|idle| {
            let stays = keep(idle);
            if !stays {
                self.metrics.idle.dec();
            }
            stays
        });
    }

    fn put(&self, connection: Rc<Connection<B>>) {
        // A reload may have lowered the limit.
        if self.slots.open() > self.options.get().max_connections {
            return;
        }
        self.idle.borrow_mut().push(Idle { connection, since: clock::recent() });
        self.metrics.idle.inc();
        self.slots.offer();
    }

    fn take(&self) -> Option<Rc<Connection<B>>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, .. }) = idle.pop() {
            self.metrics.idle.dec();
            if connection.sender.borrow().is_ready() {
                return Some(connection);
            }
        }
        None
    }
}

impl<B: Outgoing> Pool<B> {
    /// Sends a request on an idle connection or on a new one.
    pub async fn send(
        self: Rc<Self>,
        options: &ServiceOptions,
        mut request: Request<B>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        self.options.set(*options);
        loop {
            let (connection, reused) = self.acquire(options).await?;
            let answer = connection.sender.borrow_mut().try_send_request(request);
            let mut failed = match answer.await {
                Ok(response) => return Ok(connection.respond(response)),
                Err(failed) => failed,
            };
            match failed.take_message() {
                // The endpoint closed an idle connection and the request was not yet written: that was no attempt.
                Some(unsent) if reused => request = unsent,
                Some(_) => return Err(SendError::unsent(&self.address, failed.error())),
                None => return Err(SendError::http1(&self.address, failed.error())),
            }
        }
    }

    /// A connection for one exchange, and whether it has served others.
    async fn acquire(self: &Rc<Self>, options: &ServiceOptions) -> Result<(Rc<Connection<B>>, bool), SendError> {
        let mut waiting = None;
        loop {
            // Who comes now does not overtake those that wait.
            if waiting.is_some() || self.slots.waiting() == 0 {
                if let Some(connection) = self.take() {
                    return Ok((connection, true));
                }
                if let Some(slot) = self.slots.take(options.max_connections) {
                    drop(waiting);
                    return Ok((self.open(slot, options).await?, false));
                }
            }
            if waiting.is_none() {
                waiting = self.slots.queue(options.max_pending);
            }
            match &waiting {
                Some(place) => place.turn().await,
                None => return Err(SendError::overload(&self.address, QUEUE_FULL)),
            }
        }
    }

    async fn open(self: &Rc<Self>, slot: Slot, options: &ServiceOptions) -> Result<Rc<Connection<B>>, SendError> {
        let patience = options.connect_timeout;
        let socket = connect(&self.address, patience, slot, &self.metrics.open).await?;
        let mut builder = Builder::new();
        builder.max_headers(MAX_FIELDS).max_header_size(MAX_HEAD);
        let (sender, connection) =
            builder.handshake(TokioIo::new(socket)).await.map_err(|error| SendError::unsent(&self.address, &error))?;
        let connection = connection.with_upgrades();
        let pool = Rc::downgrade(self);
        let forget = pool.clone();
        // Runs until the socket is closed or taken over: when either side says so, or the sender is dropped.
        let driver = spawn_local(async move {
            // An error is told to the exchange that it broke.
            let _ = connection.await;
            if let Some(pool) = forget.upgrade() {
                pool.keep(|idle| !idle.connection.sender.borrow().is_closed());
            }
        });
        let (sender, driver) = (RefCell::new(sender), driver.abort_handle());
        Ok(Rc::new(Connection { sender, pool, driver, switched: Cell::new(false) }))
    }
}

impl<B: Outgoing> Connection<B> {
    fn respond(self: Rc<Self>, response: Response<hyper::body::Incoming>) -> Response<UpstreamBody> {
        self.switched.set(response.status() == StatusCode::SWITCHING_PROTOCOLS);
        // A small answer has been read in one go, and waits in the body's own buffer.
        if self.sender.borrow().is_ready() {
            self.recycle();
            return UpstreamBody::free(response);
        }
        UpstreamBody::wrap(response, Hold::Http1(self))
    }
}

impl<B: 'static> Recycle for Connection<B> {
    fn recycle(self: Rc<Self>) {
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        if self.sender.borrow().is_ready() {
            pool.put(self);
        } else if !self.sender.borrow().is_closed() {
            // The answer came before the request was written to its end.
            spawn_local(async move {
                let ready = poll_fn(|context| self.sender.borrow_mut().poll_ready(context));
                if let (Ok(Ok(())), Some(pool)) = (timeout(REST_OF_REQUEST, ready).await, self.pool.upgrade()) {
                    pool.put(self);
                }
            });
        }
    }
}

impl<B> Drop for Connection<B> {
    fn drop(&mut self) {
        if !self.switched.get() {
            self.driver.abort();
        }
    }
}

impl<B> Drop for Pool<B> {
    fn drop(&mut self) {
        self.let_go();
    }
}
