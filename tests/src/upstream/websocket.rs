//! A WebSocket echo service.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::loopback;
use super::record::lock;
use super::server::{Count, Server};

/// A request to upgrade, as it arrived.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
}

/// Sends every message back.
///
/// The text `close` makes it begin the closing handshake, and `drop` makes it end the connection without one.
#[derive(Debug)]
pub struct WebSocketUpstream {
    server: Server,
    echo: Arc<Echo>,
}

#[derive(Debug, Default)]
struct Echo {
    handshakes: Mutex<VecDeque<Handshake>>,
    messages: Count,
}

impl WebSocketUpstream {
    pub async fn start() -> io::Result<Self> {
        Self::listen(loopback()).await
    }

    pub async fn listen(address: SocketAddr) -> io::Result<Self> {
        let echo = Arc::new(Echo::default());
        let of_connections = echo.clone();
        let server = Server::start(address, move |stream, _| {
            let echo = of_connections.clone();
            async move {
                // The peer broke off, which the test that made it do so knows.
                let _ = echo.serve(stream).await;
            }
        })
        .await?;
        Ok(Self { server, echo })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The latest handshakes, oldest first; at most [`super::Received::KEPT`].
    pub fn handshakes(&self) -> Vec<Handshake> {
        lock(&self.echo.handshakes).iter().cloned().collect()
    }

    /// How many messages were echoed.
    pub fn message_count(&self) -> u64 {
        self.echo.messages.get()
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> u64 {
        self.server.open()
    }

    /// Closes the port and every connection, and returns once they are closed.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

impl Echo {
    #[expect(clippy::result_large_err, reason = "the error is the library's")]
    async fn serve(&self, stream: TcpStream) -> Result<(), Error> {
        let accept = |request: &Request, response: Response| {
            self.keep(request);
            Ok::<_, ErrorResponse>(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(stream, accept).await?;
        while let Some(message) = socket.next().await {
            match message? {
                Message::Text(text) if text.as_str() == "close" => socket.close(None).await?,
                Message::Text(text) if text.as_str() == "drop" => return Ok(()),
                message @ (Message::Text(_) | Message::Binary(_)) => {
                    self.messages.add();
                    socket.send(message).await?;
                }
                // tungstenite answers pings and closes by itself.
                _ => {}
            }
        }
        Ok(())
    }

    fn keep(&self, request: &Request) {
        let mut handshakes = lock(&self.handshakes);
        if handshakes.len() >= super::Received::KEPT {
            handshakes.pop_front();
        }
        let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        handshakes.push_back(Handshake { target, headers: request.headers().clone() });
    }
}
