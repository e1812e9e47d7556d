//! The load: callers that each wait for an answer before they ask again.

mod answer;
mod http1;
mod http2;
pub mod paced;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::keys::{RsaKey, jwks};

/// HTTP/1.1 connections.
const CONNECTIONS: usize = 64;
/// HTTP/2 connections, and streams in progress on each.
const HTTP2: (usize, usize) = (8, 32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub fn describe(self) -> String {
        match self {
            Self::Http1 => format!("HTTP/1.1, {CONNECTIONS} connections"),
            Self::Http2 => format!("HTTP/2 (h2c), {} connections with {} streams each", HTTP2.0, HTTP2.1),
        }
    }
}

/// What each caller sends: a GET with a token (RS256).
#[derive(Clone)]
pub struct Asked {
    pub token: String,
    /// What the token can be checked with.
    pub jwks: String,
}

impl Asked {
    pub const ISSUER: &str = "https://issuer.example";
    pub const AUDIENCE: &str = "bench";

    pub fn new() -> Result<Self> {
        let key = RsaKey::generate("k1")?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let claims = serde_json::json!({
            "iss": Self::ISSUER, "aud": Self::AUDIENCE, "sub": "caller", "iat": now, "exp": now + 7 * 24 * 3600,
        });
        Ok(Self { token: key.token(&claims)?, jwks: jwks(&[&key]).to_string() })
    }

    /// As it goes over an HTTP/1.1 connection.
    fn bytes(&self) -> Vec<u8> {
        format!("GET / HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\n\r\n", self.token).into_bytes()
    }
}

/// What a turn has come to.
#[derive(Debug, Default)]
pub struct Tally {
    pub requests: u64,
    pub failed: u64,
    /// The first failure in words.
    pub problem: Option<String>,
}

impl Tally {
    fn add(&mut self, result: &Result<()>) {
        self.requests += 1;
        if let Err(error) = result {
            self.failed += 1;
            self.problem.get_or_insert_with(|| format!("{error:#}"));
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.problem = self.problem.take().or(other.problem);
    }
}

/// Makes one request after the other.
trait Caller: Send + 'static {
    /// Fails unless the answer is the expected one.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Open connections to one proxy.
pub struct Load(Callers);

enum Callers {
    Http1(Vec<http1::Connection>),
    Http2 {
        streams: Vec<http2::Stream>,
        /// What moves the frames; ended with the streams.
        _drivers: JoinSet<()>,
    },
}

impl Load {
    pub async fn open(protocol: Protocol, proxy: SocketAddr, asked: &Asked) -> Result<Self> {
        let callers = match protocol {
            Protocol::Http1 => {
                let mut connections = Vec::new();
                for _ in 0..CONNECTIONS {
                    connections.push(http1::Connection::open(proxy, asked).await?);
                }
                Callers::Http1(connections)
            }
            Protocol::Http2 => {
                let (mut streams, mut drivers) = (Vec::new(), JoinSet::new());
                for _ in 0..HTTP2.0 {
                    let stream = http2::Stream::open(proxy, asked, &mut drivers).await?;
                    streams.extend(std::iter::repeat_n(stream, HTTP2.1));
                }
                Callers::Http2 { streams, _drivers: drivers }
            }
        };
        Ok(Self(callers))
    }

    /// Asks for this long, and until all that was asked is answered. A caller that failed asks no more.
    pub async fn run(&mut self, length: Duration) -> Result<Tally> {
        match &mut self.0 {
            Callers::Http1(connections) => run(connections, length).await,
            Callers::Http2 { streams, .. } => run(streams, length).await,
        }
    }
}

async fn run<C: Caller>(callers: &mut Vec<C>, length: Duration) -> Result<Tally> {
    let end = Instant::now() + length;
    let mut tasks = JoinSet::new();
    for mut caller in callers.drain(..) {
        tasks.spawn(async move {
            let mut tally = Tally::default();
            while Instant::now() < end && tally.failed == 0 {
                tally.add(&caller.call().await);
            }
            (caller, tally)
        });
    }
    let mut all = Tally::default();
    while let Some(ended) = tasks.join_next().await {
        let (caller, tally) = ended.context("a caller panicked")?;
        if tally.failed == 0 {
            callers.push(caller);
        }
        all.merge(tally);
    }
    Ok(all)
}

/// One request over a connection of its own, within a second.
pub async fn once(proxy: SocketAddr, asked: &Asked) -> Result<()> {
    tokio::time::timeout(Duration::from_secs(1), async { http1::Connection::open(proxy, asked).await?.call().await })
        .await
        .context("no answer within a second")?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Behaviour, Upstream};

    #[tokio::test]
    async fn an_answer_that_is_not_the_expected_one_counts_as_failed_over_either_protocol() -> Result<()> {
        let upstream = Upstream::start(Behaviour::echo()).await?;
        let asked = Asked::new()?;
        for (protocol, callers) in [(Protocol::Http1, CONNECTIONS), (Protocol::Http2, HTTP2.0 * HTTP2.1)] {
            let mut load = Load::open(protocol, upstream.address(), &asked).await?;
            let tally = load.run(Duration::from_secs(60)).await?;
            // Each stops at its first.
            assert_eq!((tally.requests, tally.failed), (callers as u64, callers as u64), "{tally:?}");
            assert!(tally.problem.is_some_and(|problem| problem.contains("a body of")));
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_token_is_as_long_as_those_of_many_issuers() -> Result<()> {
        let length = Asked::new()?.token.len();
        assert!((500..600).contains(&length), "{length} bytes");
        Ok(())
    }
}
