//! From a socket to calls: accept, serve, and stop politely.

mod connection;
mod idle;
mod linger;
mod rest;
mod serve;
mod set;
pub mod sockets;
pub mod spread;
mod stalled;

use crate::response::ErrorKind;
use crate::worker::Worker;
pub use connection::{Connection, Terms};
use serve::serve;
pub use set::{Listener, Listeners};
pub use stalled::Impatient;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

/// Connections over the limit that one accept loop answers at a time.
const MAX_TURNING_AWAY: usize = 64;

/// Accepts until the listener drains.
async fn accept(worker: Rc<Worker>, listener: Rc<Listener>, socket: TcpListener) {
    let mut drain = listener.drain();
    let turning_away = Arc::new(Semaphore::new(MAX_TURNING_AWAY));
    let mut failing = Failing::default();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = drain.wait_for(|drain| *drain) => break,
        };
        match accepted {
            Ok((stream, peer)) => welcome(&worker, &listener, stream, peer, &turning_away),
            // Out of file descriptors, most likely: they come back, and the backlog waits so long.
            Err(error) => {
                if let Some(times) = failing.tell(Instant::now()) {
                    tracing::warn!(listener = &*listener.sockets.name, times, "cannot accept: {error}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    let Ok(socket) = socket.into_std() else { return };
    for (stream, peer) in sockets::close(socket).await {
        if let Ok(stream) = TcpStream::from_std(stream) {
            welcome(&worker, &listener, stream, peer, &turning_away);
        }
    }
}

/// Failures to accept, which come fifty times a second while they last.
#[derive(Default)]
struct Failing {
    told: Option<Instant>,
    untold: u64,
}

impl Failing {
    /// How many there were since that was told last, this one included, if it is to be told now: once a second.
    fn tell(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < Duration::from_secs(1)) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// Serves a connection, or turns it away.
fn welcome(
    worker: &Rc<Worker>,
    listener: &Rc<Listener>,
    stream: TcpStream,
    peer: SocketAddr,
    turning_away: &Arc<Semaphore>,
) {
    let Some(open) = Open::new(worker, listener) else {
        // Where even this takes too much, nobody is told.
        if let Ok(place) = turning_away.clone().try_acquire_owned() {
            tokio::task::spawn_local(turn_away(stream, place));
        }
        return;
    };
    let serve = serve(worker.clone(), listener.clone(), stream, peer, listener.drain());
    tokio::task::spawn_local(async move {
        serve.await;
        drop(open);
    });
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
                listener = &*listener.sockets.name,
                "connection turned away: all {max} of [limits] max-connections are taken"
            );
            return None;
        }
        worker.connections.set(worker.connections.get() + 1);
        listener.sockets.metrics.accepted.inc();
        listener.sockets.metrics.open.inc();
        Some(Self { worker: worker.clone(), listener: listener.clone() })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.node.connections.fetch_sub(1, Ordering::Relaxed);
        self.worker.connections.set(self.worker.connections.get().saturating_sub(1));
        self.listener.sockets.metrics.open.dec();
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

/// Drives a connection; when its listener drains, lets it end what it has begun.
async fn until_drained<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    mut drain: watch::Receiver<bool>,
    shut_down: impl Fn(Pin<&mut C>),
) {
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        // What has come already is read first: it has begun.
        biased;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_to_accept_are_told_once_a_second_and_counted() {
        let (mut failing, begun) = (Failing::default(), Instant::now());
        let told: Vec<Option<u64>> =
            (0..=100).map(|turn| failing.tell(begun + turn * Duration::from_millis(20))).collect();
        let all: Vec<(usize, u64)> =
            told.iter().enumerate().filter_map(|(turn, told)| Some((turn, (*told)?))).collect();
        assert_eq!(all, [(0, 1), (50, 50), (100, 50)]);
    }
}
