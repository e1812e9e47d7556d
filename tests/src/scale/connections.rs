//! What idle connections cost.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::node::Node;
use super::shape;
use crate::client::{self, Client};

/// Connections that are made at a time.
const AT_ONCE: usize = 64;

/// What an idle connection has done before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Nothing,
    Http1,
    Http2,
}

/// A connection that has done nothing for so long keeps no more than it has to: it rests after two seconds, and the
/// allocator gives back, within ten more, what that has made free.
const REST: Duration = Duration::from_secs(15);

/// Bytes of the node's memory for each of so many connections, after a while and at once.
pub async fn cost(node: &Node, way: Way, count: u32) -> Result<[f64; 2]> {
    // What many at once need is there before anything is counted.
    let warm: Vec<Held> = open(node.address, way, AT_ONCE as u32).await?;
    let before = node.resident_after(REST).await?;
    let held = open(node.address, way, count).await?;
    let at_once = node.resident_after(Duration::ZERO).await?;
    let after = node.resident_after(REST).await?;
    drop((warm, held));
    Ok([after, at_once].map(|resident| (resident - before) / f64::from(count)))
}

/// A connection that is kept open.
#[expect(dead_code, reason = "it is only kept")]
enum Held {
    Http1(TcpStream),
    Http2(Client),
}

async fn open(address: SocketAddr, way: Way, count: u32) -> Result<Vec<Held>> {
    stream::iter((0..count).map(|_| one(address, way))).buffer_unordered(AT_ONCE).try_collect().await
}

async fn one(address: SocketAddr, way: Way) -> Result<Held> {
    let host = shape::name(0);
    if way == Way::Http2 {
        let mut client = Client::http2(address).await?;
        let response = client.send(client::get(&host, "/")?).await?;
        ensure!(response.status == 200, "{response:?}");
        return Ok(Held::Http2(client));
    }
    let mut stream = TcpStream::connect(address).await.context("is `ulimit -n` high enough?")?;
    if way == Way::Http1 {
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        while !complete(&answer) {
            ensure!(stream.read_buf(&mut answer).await? > 0, "the node closed a connection");
        }
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    Ok(Held::Http1(stream))
}

/// Whether an answer with a length is all there.
fn complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}
