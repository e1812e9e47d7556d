//! One accepted connection: tell HTTP/1.1 from HTTP/2, and serve it within its limits.

use super::idle::{EndsWhenIdle, OnStream, Streams};
use super::linger::{Left, Lent};
use super::rest::{REST, UntilRest};
use super::spread;
use super::stalled::Impatient;
use super::{Connection, Listener, until_drained};
use crate::call::{self, body::CallerBody};
use crate::config::Limits;
use crate::flood::{Guard, Peer};
use crate::leash::leashed;
use crate::response::ErrorKind;
use crate::strict::{self, Strict, Switch};
use crate::worker::Worker;
use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of one request, and of all requests on an HTTP/2 connection, that may be on their way before they are read.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of one answer that wait for an HTTP/2 caller's window or socket.
const SEND_BUFFER: usize = 64 * 1024;
/// HTTP/2 streams that a caller resets before they were looked at, and those that it makes the node reset, of one
/// connection. Any more and it is closed.
const MAX_UNSEEN_RESETS: usize = 20;
const MAX_FORCED_RESETS: usize = 1024;

/// For the first byte of a caller that has connected just before the listener ends.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// Serves a caller until either side has had enough.
pub(super) async fn serve(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    mut stream: TcpStream,
    peer: SocketAddr,
    drain: watch::Receiver<bool>,
) {
    let limits = worker.current().snapshot.config.limits.clone();
    drop(stream.set_nodelay(true));
    if !speaks(&stream, limits.idle_timeout, drain.clone()).await {
        return;
    }
    let Ok(Ok((is_http2, mut read))) = timeout(limits.header_timeout, sniff(&mut stream)).await else { return };
    let caller = Caller { worker, listener, peer, client: peer.to_string().into(), limits, drain };
    // In boxes of their own: a connection over which nothing comes is not to take their space.
    if is_http2 {
        return Box::pin(caller.http2(stream, read)).await;
    }
    while let Some(rests) = Box::pin(caller.http1(stream, read)).await {
        (stream, read) = (rests, Bytes::new());
        if !speaks(&stream, caller.limits.idle_timeout.saturating_sub(REST), caller.drain.clone()).await {
            return;
        }
    }
}

/// Who is served, and how.
struct Caller {
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    peer: SocketAddr,
    /// The peer in words.
    client: Arc<str>,
    limits: Limits,
    drain: watch::Receiver<bool>,
}

impl Caller {
    fn connection(&self, switch: Option<Switch>) -> Rc<Connection> {
        Connection::new(self.listener.clone(), self.peer, self.client.clone(), switch)
    }

    /// Returns the socket of a connection that rests.
    async fn http1(&self, stream: TcpStream, read: Bytes) -> Option<TcpStream> {
        let (ends, left, switch, rests) = self.begin_http1(stream, read);
        // The socket tells whether the caller takes anything: what it was given, hyper may still have.
        let ended = leashed(Option::<Duration>::None, ends).await;
        if rests.get() {
            return left.take();
        }
        if ended.is_some() {
            left.close().await;
        }
        if let Some(violation) = switch.violation() {
            self.refused(violation);
        }
        None
    }

    /// Not part of [`http1`](Self::http1), which would keep places for all of this as long as the connection lasts.
    fn begin_http1(
        &self,
        stream: TcpStream,
        read: Bytes,
    ) -> (impl Future<Output = ()> + use<>, Left, Switch, Rc<Cell<bool>>) {
        let limits = &self.limits;
        let heads = strict::Limits {
            max_target_bytes: limits.max_target_bytes,
            max_head_bytes: limits.max_header_bytes,
            max_headers: limits.max_headers,
        };
        let (stream, left) = Lent::new(stream);
        let strict = Strict::new(stream, read, heads).head_timeout(limits.header_timeout);
        let switch = strict.switch();
        let mut http = http1::Builder::new();
        // `Strict` times a head, and between two requests the connection rests. Only one that may not wait until then needs
        // hyper's timer, which has to be set and taken back for each request.
        if limits.idle_timeout <= 2 * REST {
            http.timer(TokioTimer::new()).header_read_timeout(limits.idle_timeout);
        }
        if limits.max_headers > 100 {
            http.max_headers(limits.max_headers);
        }
        let (calls, worker, connection) = (Streams::new(), self.worker.clone(), self.connection(Some(switch.clone())));
        let counted = calls.clone();
        let service = service_fn(move |request| {
            let counted = counted.begin();
            let call = call::call(worker.clone(), connection.clone(), request.map(CallerBody::from));
            async move { Ok::<_, Infallible>(call.await.map(|body| OnStream::new(body, counted))) }
        });
        let stream = TokioIo::new(Impatient::new(strict, limits.write_timeout, Some(switch.clone())));
        let served = http.serve_connection(stream, service).with_upgrades();
        let served = UntilRest::new(served, calls, switch.clone(), REST);
        let rests = served.rests();
        let ends =
            until_drained(served, self.drain.clone(), |served| served.get_mut().connection().graceful_shutdown());
        (ends, left, switch, rests)
    }

    async fn http2(self, stream: TcpStream, read: Bytes) {
        let limits = &self.limits;
        let stream = Impatient::new(stream, limits.write_timeout, None);
        let stream = Guard::new(stream, read, Peer::Client).head_timeout(limits.header_timeout);
        let flooded = stream.flooded();
        let streams = Streams::new();
        let (worker, connection, counted) = (self.worker.clone(), self.connection(None), streams.clone());
        let service = service_fn(move |request| {
            let stream = counted.begin();
            let (worker, connection, streams) = (worker.clone(), connection.clone(), counted.clone());
            async move {
                // Before hyper polls what it is given it moves it from task to task: let that be a pointer.
                let answer = Box::pin(spread::answer(worker, connection, streams, request)).await?;
                Ok::<_, spread::Lost>(answer.map(|body| OnStream::new(body, stream)))
            }
        });
        let served = http2::Builder::new(LocalExecutor { patience: limits.write_timeout })
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS)
            .max_local_error_reset_streams(MAX_FORCED_RESETS)
            .keep_alive_interval(limits.idle_timeout)
            .serve_connection(TokioIo::new(stream), service);
        let shut_down = |served: std::pin::Pin<&mut http2::Connection<_, _, _>>| served.graceful_shutdown();
        let served = EndsWhenIdle::new(served, shut_down, streams, limits.idle_timeout, limits.header_timeout);
        until_drained(served, self.drain.clone(), |served| served.get_mut().shut_down()).await;
        if flooded.get() {
            self.refused("more HTTP/2 frames than it has use for");
        }
    }

    fn refused(&self, why: impl std::fmt::Display) {
        self.worker.node.telemetry.metrics.error(ErrorKind::BadRequest.as_str());
        tracing::info!(client = &*self.client, listener = &*self.listener.sockets.name, "refused: {why}");
    }
}

/// Waits for the first byte. Until then a connection is as idle as between two requests: pools open some in advance.
async fn speaks(stream: &TcpStream, idle_timeout: Duration, mut drain: watch::Receiver<bool>) -> bool {
    let within = async |patience| matches!(timeout(patience, stream.peek(&mut [0])).await, Ok(Ok(1)));
    tokio::select! {
        spoke = within(idle_timeout) => spoke,
        _ = drain.wait_for(|drain| *drain) => within(ON_ITS_WAY).await,
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

/// Runs hyper's tasks, one for each stream, on the worker's own thread, and ends those whose caller takes nothing.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor {
    patience: Duration,
}

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(leashed(self.patience, task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of what a function that waits has to keep meanwhile.
    macro_rules! kept_by {
        ($function:expr, $($argument:ident)+) => {{
            fn kept<$($argument,)+ F: Future>(_: impl FnOnce($($argument),+) -> F) -> usize {
                size_of::<F>()
            }
            kept($function)
        }};
    }

    #[test]
    fn a_connection_keeps_no_place_for_what_it_may_never_do() {
        let call = kept_by!(call::call, A B C);
        for (what, bytes) in
            [("before the first byte", kept_by!(serve, A B C D E)), ("HTTP/2", kept_by!(Caller::http2, A B C))]
        {
            assert!(bytes < 2048 && bytes < call / 2, "{what}: {bytes} bytes, and a call has {call}");
        }
    }
}
