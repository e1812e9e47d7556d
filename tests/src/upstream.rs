//! Services for the tests and the demo: real servers on loopback whose behaviour a test writes.
//!
//! [`Upstream`] speaks HTTP/1.1 and HTTP/2 with prior knowledge on one port and does with each request
//! what its [`Behaviour`] says, down to resets and truncated bodies. It is written directly over sockets
//! and `h2` because a well-behaved server library refuses to misbehave, and because the requests must
//! be recorded as they arrived, before any library tidied them.
//!
//! [`GrpcUpstream`] and [`WebSocketUpstream`] are echo services, [`Collector`] takes spans. All of them stop when dropped.

mod behaviour;
mod collector;
mod grpc;
mod http1;
mod http2;
mod pace;
mod record;
mod reply;
mod server;
mod websocket;

pub use behaviour::{Answer, Behaviour};
pub use collector::{Collector, Span};
pub use grpc::{Call, EchoReply, EchoRequest, GrpcUpstream, paths};
pub use pace::{HELD, MIB, flood, settled};
pub use record::Received;
pub use reply::{Reply, pattern};
pub use websocket::{Handshake, WebSocketUpstream};

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use record::Shared;
use server::Server;
use tokio::net::TcpStream;

/// A scripted HTTP service.
#[derive(Debug)]
pub struct Upstream {
    server: Server,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Serves on a free port of 127.0.0.1.
    pub async fn start(behaviour: impl Into<Behaviour>) -> io::Result<Self> {
        Self::listen(loopback(), behaviour).await
    }

    /// Serves on `address`: for fixed ports, and for a service that comes back where it was.
    pub async fn listen(address: SocketAddr, behaviour: impl Into<Behaviour>) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(behaviour.into()));
        let of_connections = shared.clone();
        let server =
            Server::start(address, move |stream, connection| serve(stream, connection, of_connections.clone())).await?;
        Ok(Self { server, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Changes what happens to requests that arrive from now on, on open connections too.
    pub fn set(&self, behaviour: impl Into<Behaviour>) {
        self.shared.set(behaviour.into());
    }

    /// The latest requests, oldest first; at most [`Received::KEPT`].
    pub fn requests(&self) -> Vec<Received> {
        self.shared.requests()
    }

    /// The latest request, if any came.
    pub fn last(&self) -> Option<Received> {
        self.shared.requests().pop()
    }

    /// How many requests arrived since the start or the last [`Upstream::forget`].
    pub fn request_count(&self) -> u64 {
        self.shared.counts.requests.get()
    }

    /// How many requests were left by the peer before their answer was complete.
    pub fn abandoned_count(&self) -> u64 {
        self.shared.counts.abandoned.get()
    }

    /// How many times something arrived that is not HTTP.
    pub fn malformed_count(&self) -> u64 {
        self.shared.counts.malformed.get()
    }

    /// How many connections were accepted since the start.
    pub fn connection_count(&self) -> u64 {
        self.server.accepted()
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> u64 {
        self.server.open()
    }

    /// Empties the list of requests and sets its counts to zero.
    pub fn forget(&self) {
        self.shared.forget();
    }

    /// Closes the port and every connection, and returns once they are closed.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// An address of 127.0.0.1 on which nothing listens: connecting to it is refused.
///
/// The port was free a moment ago; the kernel hands it out again only after going round its range.
pub fn closed_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind(loopback())?.local_addr()
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

async fn serve(stream: TcpStream, connection: u64, shared: Arc<Shared>) {
    // The peer broke off or sent rubbish: both are counted where they happen, and end the connection.
    let _ = match speaks_http2(&stream).await {
        Ok(true) => http2::serve(stream, connection, shared).await,
        Ok(false) => http1::serve(stream, connection, shared).await,
        Err(error) => Err(error),
    };
}

/// Tells the protocols apart by the start of the HTTP/2 preface (RFC 9113 section 3.4).
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0";
    let mut start = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut start).await?;
        let seen = start.get(..seen).unwrap_or_default();
        if seen.len() == PREFACE.len() || !PREFACE.starts_with(seen) || seen.is_empty() {
            return Ok(seen == PREFACE);
        }
        // Fewer bytes than the preface needs: `peek` would return the same ones at once.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
