//! A WebSocket client that goes through a proxy.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::Response;

/// An open WebSocket: a `Stream` and a `Sink` of messages.
pub type WebSocket = WebSocketStream<TcpStream>;

/// Opens `ws://{service}{path}` over a connection to `proxy`; the response is the one with status 101.
///
/// A refused upgrade is an error that keeps tungstenite's (`Error::Http` has the response) as its source.
pub async fn websocket(proxy: SocketAddr, service: &str, path: &str) -> Result<(WebSocket, Response)> {
    let stream = TcpStream::connect(proxy).await.with_context(|| format!("cannot connect to {proxy}"))?;
    let target = format!("ws://{service}{path}");
    let opened = tokio_tungstenite::client_async(&target, stream).await;
    opened.with_context(|| format!("{target} did not open"))
}
