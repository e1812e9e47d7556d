//! HTTP/2 with prior knowledge: one connection for each endpoint, shared by all exchanges, and another where the
//! streams that the endpoint allows are used up.

use super::body::{Hold, UpstreamBody};
use super::connect::{Socket, connect};
use super::error::SendError;
use super::slots::{Slot, Slots};
use super::{MAX_HEAD, Outgoing, QUEUE_FULL, REST_OF_REQUEST};
use crate::flood::{Guard, Peer};
use crate::leash::leashed;
use crate::service::ServiceOptions;
use crate::telemetry::metrics::handles::ServiceMetrics;
use bytes::Bytes;
use http::{Request, Response};
use hyper::client::conn::http2::{self, Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::spawn_local;

/// Connections to one endpoint, if `max-connections` allows as many.
const MAX_CONNECTIONS: usize = 8;
/// Bytes of one answer, and of all answers on a connection, that may be on their way before they are read.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// A connection with streams on it is asked for a sign of life so often, and given up after this long without one. gRPC
/// servers take more than one ping in 5 minutes without data for abuse (gRFC A8) and end the connection; that an endpoint
/// has vanished is found out sooner by its socket.
const PING_INTERVAL: Duration = Duration::from_secs(330);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams on a first connection until the endpoint's SETTINGS tell; RFC 9113 section 6.5.2 recommends to allow no fewer.
const STREAMS_UNTIL_TOLD: usize = 100;
/// Bytes of one request that wait for the endpoint's window or socket.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams of one connection that the endpoint makes the node reset by breaking the protocol, before it is closed.
const MAX_FORCED_RESETS: usize = 1024;
/// Connections that a request may find closed before it is sent, before that becomes its failure.
const MAX_MOVES: usize = 3;

pub(super) struct Pool<B> {
    address: Arc<str>,
    metrics: ServiceMetrics,
    slots: Arc<Slots>,
    connections: RefCell<Vec<Connection<B>>>,
    /// The one attempt to connect that is under way, for all who need it.
    connecting: RefCell<Option<watch::Receiver<Attempt>>>,
    /// As of the latest request.
    options: Cell<ServiceOptions>,
    /// The streams that the endpoint allowed on the latest connection: what the next one starts from.
    allowed: Cell<usize>,
}

/// How an attempt to connect ended; `None`: it has not.
type Attempt = Option<Result<(), SendError>>;

/// Once all clones are dropped the connection closes when its last stream has ended.
struct Connection<B> {
    sender: SendRequest<B>,
    streams: Rc<Streams>,
}

/// The streams of one connection.
struct Streams {
    open: Cell<usize>,
    /// As the endpoint allows.
    limit: Cell<usize>,
    idle_since: Cell<Instant>,
    idle: Gauge,
}

/// One stream in use, until dropped.
pub(super) struct Stream {
    streams: Rc<Streams>,
}

impl Streams {
    fn new(limit: usize, idle: Gauge) -> Self {
        idle.inc();
        Self { open: Cell::new(0), limit: Cell::new(limit), idle_since: Cell::new(Instant::now()), idle }
    }

    fn begin(self: &Rc<Self>) -> Stream {
        let open = self.open.get();
        if open == 0 {
            self.idle.dec();
        }
        self.open.set(open + 1);
        Stream { streams: self.clone() }
    }

    fn has_room(&self) -> bool {
        self.open.get() < self.limit.get()
    }

    /// As many streams as may be open may also wait for that, in hyper's queue.
    fn may_queue(&self) -> bool {
        self.open.get() < self.limit.get().saturating_mul(2)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let open = self.streams.open.get() - 1;
        self.streams.open.set(open);
        if open == 0 {
            self.streams.idle_since.set(Instant::now());
            self.streams.idle.inc();
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        // Streams hold on to this, so that there are none.
        self.idle.dec();
    }
}

impl<B> Clone for Connection<B> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), streams: self.streams.clone() }
    }
}

impl<B> Pool<B> {
    pub fn new(address: Arc<str>, metrics: ServiceMetrics, options: ServiceOptions) -> Self {
        Self {
            address,
            metrics,
            slots: Arc::default(),
            connections: RefCell::default(),
            connecting: RefCell::default(),
            options: Cell::new(options),
            allowed: Cell::new(STREAMS_UNTIL_TOLD),
        }
    }

    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    pub fn idle(&self) -> usize {
        let connections = self.connections.borrow();
        connections.iter().filter(|connection| connection.streams.open.get() == 0).count()
    }

    /// Closes the connections that have been without a stream for too long.
    pub fn close_idle(&self, now: Instant) {
        let limit = self.options.get().idle_timeout;
        self.connections.borrow_mut().retain(|Connection { streams, .. }| {
            let idle = now.saturating_duration_since(streams.idle_since.get());
            streams.open.get() > 0 || idle < limit
        });
    }

    pub fn let_go(&self) {
        self.connections.borrow_mut().clear();
    }

    fn forget_closed(&self) {
        self.connections.borrow_mut().retain(|connection| !connection.sender.is_closed());
    }

    fn begin_where(&self, fits: impl Fn(&Streams) -> bool) -> Option<(SendRequest<B>, Stream)> {
        let connections = self.connections.borrow();
        let usable = |connection: &&Connection<B>| !connection.sender.is_closed() && fits(&connection.streams);
        let connection = connections.iter().find(usable)?;
        Some((connection.sender.clone(), connection.streams.begin()))
    }
}

impl<B: Outgoing> Pool<B> {
    /// Sends a request on a stream of its own.
    pub async fn send(
        self: Rc<Self>,
        options: &ServiceOptions,
        mut request: Request<B>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        self.options.set(*options);
        let mut moves = 0;
        loop {
            let (mut sender, stream) = self.begin().await?;
            let mut failed = match sender.try_send_request(request).await {
                Ok(response) => return Ok(UpstreamBody::wrap(response, Hold::Http2(stream))),
                Err(failed) => failed,
            };
            match failed.take_message() {
                // The connection was going away and took no more streams: that was no attempt.
                Some(unsent) if moves < MAX_MOVES => {
                    moves += 1;
                    request = unsent;
                }
                Some(_) => return Err(SendError::unsent(&self.address, failed.error())),
                None => return Err(SendError::http2(&self.address, failed.error())),
            }
        }
    }

    async fn begin(self: &Rc<Self>) -> Result<(SendRequest<B>, Stream), SendError> {
        let mut error = SendError::closed(&self.address);
        // More than once, as others may be faster to use up the streams of a new connection.
        for _ in 0..MAX_CONNECTIONS {
            if let Some(begun) = self.begin_where(Streams::has_room) {
                return Ok(begun);
            }
            let attempt = match self.connecting() {
                Some(attempt) => self.outcome(attempt).await,
                None => Err(SendError::overload(&self.address, "all streams are in use")),
            };
            if let Err(failed) = attempt {
                error = failed;
                break;
            }
        }
        // There is no other connection to be had: wait for a stream on one that there is.
        self.begin_where(Streams::may_queue).ok_or(error)
    }

    /// The attempt to connect that is under way, or a new one if the limits allow one more connection.
    fn connecting(self: &Rc<Self>) -> Option<watch::Receiver<Attempt>> {
        let mut connecting = self.connecting.borrow_mut();
        if connecting.is_none() {
            let limit = self.options.get().max_connections;
            if self.connections.borrow().len() >= MAX_CONNECTIONS {
                return None;
            }
            let slot = self.slots.take(limit)?;
            let (ended, attempt) = watch::channel(None);
            *connecting = Some(attempt);
            let pool = self.clone();
            // A task, so that the attempt does not depend on the patience of who needed it first. Ends by the connect
            // timeout.
            spawn_local(async move {
                let outcome = pool.open(slot).await;
                pool.connecting.take();
                ended.send_replace(Some(outcome));
            });
        }
        connecting.clone()
    }

    async fn outcome(&self, mut attempt: watch::Receiver<Attempt>) -> Result<(), SendError> {
        let place = self.slots.queue(self.options.get().max_pending);
        if place.is_none() {
            return Err(SendError::overload(&self.address, QUEUE_FULL));
        }
        match attempt.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Err(error))) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    async fn open(self: &Rc<Self>, slot: Slot) -> Result<(), SendError> {
        let patience = self.options.get().connect_timeout;
        let socket = connect(&self.address, patience, slot, &self.metrics.open).await?;
        let mut builder = Builder::new(Local);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(self.allowed.get())
            .max_header_list_size(MAX_HEAD as u32)
            .max_send_buf_size(SEND_BUFFER)
            .max_local_error_reset_streams(MAX_FORCED_RESETS)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let socket = TokioIo::new(Guard::new(socket, Bytes::new(), Peer::Server));
        let (sender, connection) =
            builder.handshake(socket).await.map_err(|error| SendError::http2(&self.address, &error).unreached())?;
        let streams = Rc::new(Streams::new(self.allowed.get(), self.metrics.idle.clone()));
        spawn_local(drive(connection, streams.clone(), Rc::downgrade(self)));
        let connection = Connection { sender, streams };
        self.connections.borrow_mut().push(connection);
        Ok(())
    }
}

/// Runs until the connection takes no more streams: it is going away, or all senders have been dropped. Streams that
/// are open then end in tasks of hyper's.
async fn drive<B: Outgoing>(
    mut connection: http2::Connection<TokioIo<Guard<Socket>>, B, Local>,
    streams: Rc<Streams>,
    pool: Weak<Pool<B>>,
) {
    // An error is told to the exchanges that it broke.
    let _ = poll_fn(|context| {
        let ended = Pin::new(&mut connection).poll(context);
        // At least one: only a request makes hyper look again, should the endpoint allow none for now.
        let allowed = connection.current_max_send_streams().max(1);
        streams.limit.set(allowed);
        if let Some(pool) = pool.upgrade() {
            pool.allowed.set(allowed);
        }
        ended
    })
    .await;
    drop(connection);
    if let Some(pool) = pool.upgrade() {
        pool.forget_closed();
    }
}

/// Spawns hyper's tasks on this worker. That of a request's body ends when its exchange has ended and the endpoint does
/// not take the rest.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(leashed(REST_OF_REQUEST, task));
    }
}
