//! From a socket to calls: accept, tell HTTP/1.1 from HTTP/2, serve, and stop politely.

use crate::call::{self, forward::Origin};
use crate::response::ErrorKind;
use crate::strict::{Limits, Strict, Switch};
use crate::telemetry::metrics::handles::ListenerMetrics;
use crate::worker::Worker;
use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const BACKLOG: i32 = 4096;
/// Connections over the limit that one accept loop answers at a time.
const MAX_TURNING_AWAY: usize = 64;

/// A listener as its connections see it.
#[derive(Debug)]
pub struct Listener {
    pub name: Arc<str>,
    /// Who calls through it.
    pub identity: Option<Arc<str>>,
    /// Whether CONNECT is allowed.
    pub connect: bool,
    /// Whether the `x-forwarded-*` fields of callers are believed.
    pub trust_forwarded: bool,
    pub metrics: ListenerMetrics,
}

/// One caller's connection.
pub struct Connection {
    pub listener: Rc<Listener>,
    pub peer: IpAddr,
    /// What services are told of the peer.
    pub origin: Origin,
    /// The peer's address and port, formatted once.
    pub client: Arc<str>,
    /// Turns off the checks of HTTP/1 once bytes are no longer HTTP. `None` on HTTP/2.
    pub switch: Option<Switch>,
}

impl Connection {
    /// Whether something came that is not HTTP/1. Nothing after it is read.
    pub fn is_malformed(&self) -> bool {
        self.switch.as_ref().is_some_and(|switch| switch.violation().is_some())
    }
}

/// Opens one more socket on an address. Each worker has its own, and the kernel spreads connections over them.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until `drain` says stop.
pub async fn accept(worker: Rc<Worker>, listener: Rc<Listener>, socket: TcpListener, mut drain: watch::Receiver<bool>) {
    let turning_away = Arc::new(Semaphore::new(MAX_TURNING_AWAY));
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = drain.wait_for(|drain| *drain) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(open) = Open::new(&worker, &listener) else {
                    // Where even this takes too much, nobody is told.
                    if let Ok(place) = turning_away.clone().try_acquire_owned() {
                        tokio::task::spawn_local(turn_away(stream, place));
                    }
                    continue;
                };
                let serve = serve(worker.clone(), listener.clone(), stream, peer, drain.clone());
                tokio::task::spawn_local(async move {
                    serve.await;
                    drop(open);
                });
            }
            // Out of file descriptors, most likely: they come back, and the backlog waits so long.
            Err(error) => {
                tracing::warn!(listener = &*listener.name, "cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// An open connection, counted until it is dropped.
struct Open {
    worker: Rc<Worker>,
    listener: Rc<Listener>,
}

impl Open {
    /// `None` when there are as many as `[limits] max-connections` allows.
    fn new(worker: &Rc<Worker>, listener: &Rc<Listener>) -> Option<Self> {
        let max = worker.current().snapshot.config.limits.max_connections;
        let one_more = |open| (open < max).then_some(open + 1);
        let taken = worker.node.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        if taken.is_err() {
            worker.node.telemetry.metrics.error(ErrorKind::Overload.as_str());
            tracing::debug!(
                listener = &*listener.name,
                "connection turned away: all {max} of [limits] max-connections are taken"
            );
            return None;
        }
        worker.connections.set(worker.connections.get() + 1);
        listener.metrics.accepted.inc();
        listener.metrics.open.inc();
        Some(Self { worker: worker.clone(), listener: listener.clone() })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.node.connections.fetch_sub(1, Ordering::Relaxed);
        self.worker.connections.set(self.worker.connections.get().saturating_sub(1));
        self.listener.metrics.open.dec();
    }
}

/// Says that there is no room, whatever was asked: to read it is what there is no room for.
async fn turn_away(mut stream: TcpStream, _place: OwnedSemaphorePermit) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nx-weir-error: overload\r\nconnection: close\r\n\
        content-type: application/json\r\ncontent-length: 101\r\n\r\n\
        {\"error\":\"overload\",\"message\":\"the node has as many connections as [limits] max-connections allows\"}\n";
    let answer = async {
        stream.write_all(ANSWER).await?;
        stream.shutdown().await?;
        // A socket that is closed with something unread resets, and takes the answer with it.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    drop(timeout(Duration::from_secs(1), answer).await);
}

async fn serve(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    mut stream: TcpStream,
    peer: SocketAddr,
    drain: watch::Receiver<bool>,
) {
    let limits = worker.current().snapshot.config.limits.clone();
    drop(stream.set_nodelay(true));
    let Ok(Ok((is_http2, read))) = timeout(limits.header_timeout, sniff(&mut stream)).await else { return };
    let client: Arc<str> = peer.to_string().into();
    let service_for = |switch: Option<Switch>| {
        let origin = Origin::new(peer.ip(), listener.identity.as_deref(), listener.trust_forwarded);
        let connection =
            Rc::new(Connection { listener: listener.clone(), peer: peer.ip(), origin, client: client.clone(), switch });
        let worker = worker.clone();
        service_fn(move |request| {
            let call = call::call(worker.clone(), connection.clone(), request);
            async move { Ok::<_, Infallible>(call.await) }
        })
    };
    if is_http2 {
        let served = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .keep_alive_interval(Some(limits.idle_timeout))
            .serve_connection(TokioIo::new(Rewind { read, stream }), service_for(None));
        until_drained(served, drain, |served| served.graceful_shutdown()).await;
    } else {
        let heads = Limits {
            max_target_bytes: limits.max_target_bytes,
            max_head_bytes: limits.max_header_bytes,
            max_headers: limits.max_headers,
        };
        let strict = Strict::new(stream, read, heads).head_timeout(limits.header_timeout);
        let switch = strict.switch();
        let mut http = http1::Builder::new();
        // To hyper the time between two requests is part of reading the next one's head; `Strict` times the head itself.
        http.timer(TokioTimer::new()).header_read_timeout(limits.idle_timeout);
        if limits.max_headers > 100 {
            http.max_headers(limits.max_headers);
        }
        let served = http.serve_connection(TokioIo::new(strict), service_for(Some(switch.clone()))).with_upgrades();
        until_drained(served, drain, |served| served.graceful_shutdown()).await;
        if let Some(violation) = switch.violation() {
            worker.node.telemetry.metrics.error(ErrorKind::BadRequest.as_str());
            tracing::info!(client = &*client, listener = &*listener.name, "refused: {violation}");
        }
    }
}

/// Drives a connection; when the node drains, lets it end what it has begun.
async fn until_drained<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    mut drain: watch::Receiver<bool>,
    shut_down: impl Fn(Pin<&mut C>),
) {
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _ = drain.wait_for(|drain| *drain) => {
            shut_down(connection.as_mut());
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection ended: {error}");
    }
}

/// Reads until it is clear whether the caller speaks HTTP/2, and gives back what was read.
async fn sniff(stream: &mut TcpStream) -> io::Result<(bool, Bytes)> {
    let mut read = BytesMut::with_capacity(PREFACE.len());
    while PREFACE.starts_with(&read) && read.len() < PREFACE.len() {
        let mut rest = (&mut *stream).take((PREFACE.len() - read.len()) as u64);
        if rest.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((read == PREFACE, read.freeze()))
}

/// A stream with what was already read from it put back.
struct Rewind {
    read: Bytes,
    stream: TcpStream,
}

impl tokio::io::AsyncRead for Rewind {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let room = self.read.len().min(buffer.remaining());
        let first = self.read.split_to(room);
        buffer.put_slice(&first);
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Rewind {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> std::task::Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Runs hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
