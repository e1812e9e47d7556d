//! Messages through a whole node: what publishes, and a consumer that remembers.

pub mod measure;
pub mod options;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use http::Method;

use crate::client::{Client, Response, request};
use crate::upstream::{Answer, Behaviour, Received, Upstream};
use crate::weir::Setup;

/// The channel, and the service of its consumer, of [`setup`].
pub const CHANNEL: &str = "orders";
pub const CONSUMER: &str = "consumer";
/// Where its dead letters go, and the subscription by which they are looked at.
pub const DEAD: &str = "dead";

/// An embedded broker in a directory, as keys of `[[broker]]`.
pub fn embedded(directory: &Path) -> String {
    format!("kind = \"embedded\"\ndirectory = {directory:?}")
}

/// A broker with these keys, a channel, a consumer of it with more keys of its subscription, and a channel for dead letters
/// whose messages can be pulled. Attempts follow each other quickly.
pub fn setup(broker: &str, consumer: SocketAddr, channel: &str, subscription: &str) -> Setup {
    // An exchange and a routing key, where there are such.
    let dot = if broker.contains("\"amqp\"") { '/' } else { '.' };
    let backoff =
        if subscription.contains("backoff") { "" } else { "backoff = { initial = \"10ms\", max = \"50ms\" }" };
    Setup::new().service(CONSUMER, &[consumer]).toml(&format!(
        "[[broker]]\nname = \"events\"\n{broker}\n\
         [[channel]]\nname = \"{CHANNEL}\"\nbroker = \"events\"\ndestination = \"weir{dot}orders\"\n{channel}\n\
         [[channel]]\nname = \"{DEAD}\"\nbroker = \"events\"\ndestination = \"weir{dot}dead\"\n\
         [[subscription]]\nchannel = \"{CHANNEL}\"\nservice = \"{CONSUMER}\"\npath = \"/orders\"\n{backoff}\n\
         dead-letter = \"{DEAD}\"\n{subscription}\n\
         [[subscription]]\nchannel = \"{DEAD}\"\n"
    ))
}

/// A service that takes deliveries, and remembers them in their order.
pub struct Consumer {
    pub upstream: Upstream,
    seen: Arc<Mutex<Vec<Received>>>,
}

impl Consumer {
    /// One that answers what it is told to for each.
    pub async fn start(answer: impl Fn(&Received) -> u16 + Send + Sync + 'static) -> Result<Self> {
        let seen: Arc<Mutex<Vec<Received>>> = Arc::default();
        let upstream = Upstream::start(behaviour(seen.clone(), answer)).await?;
        Ok(Self { upstream, seen })
    }

    /// From now on.
    pub fn answers(&self, answer: impl Fn(&Received) -> u16 + Send + Sync + 'static) {
        self.upstream.set(behaviour(self.seen.clone(), answer));
    }

    pub fn address(&self) -> SocketAddr {
        self.upstream.address()
    }

    /// What was delivered so far, attempts that failed included.
    pub fn seen(&self) -> Vec<Received> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The bodies of what was delivered so far.
    pub fn bodies(&self) -> Vec<String> {
        self.seen().iter().map(|seen| String::from_utf8_lossy(&seen.body).into_owned()).collect()
    }

    /// Waits until so much was delivered, for at most 60 s.
    pub async fn until(&self, count: usize) -> Vec<Received> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let seen = self.seen();
            if seen.len() >= count {
                return seen;
            }
            assert!(Instant::now() < until, "{} of {count} deliveries: {:?}", seen.len(), self.bodies());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn behaviour(seen: Arc<Mutex<Vec<Received>>>, answer: impl Fn(&Received) -> u16 + Send + Sync + 'static) -> Behaviour {
    Behaviour::new(move |received| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(received.clone());
        Answer::from(crate::upstream::Reply::new(answer(received)))
    })
}

/// Publishes over HTTP, with fields as names and values.
pub async fn publish(node: SocketAddr, body: impl Into<bytes::Bytes>, fields: &[(&str, &str)]) -> Result<Response> {
    post(node, &format!("/v1/publish/{CHANNEL}"), body, fields).await
}

/// A POST to the node itself.
pub async fn post(
    node: SocketAddr,
    path: &str,
    body: impl Into<bytes::Bytes>,
    fields: &[(&str, &str)],
) -> Result<Response> {
    let mut post = request(Method::POST, &node.to_string(), path, body)?;
    for (name, value) in fields {
        post.headers_mut().append(http::HeaderName::try_from(*name)?, http::HeaderValue::try_from(*value)?);
    }
    Client::http1(node).await?.send(post).await
}

/// The next message of a subscription whose messages are pulled, waited for.
pub async fn next(node: SocketAddr, subscription: &str) -> Result<Response> {
    let path = format!("/v1/subscriptions/{subscription}/next?wait=20s");
    Client::http1(node).await?.send(request(Method::GET, &node.to_string(), &path, "")?).await
}

/// Says what became of a message that was pulled.
pub async fn settle(node: SocketAddr, delivery: &Response, how: &str, fields: &[(&str, &str)]) -> Result<Response> {
    let id = delivery.header("x-weir-delivery-id").unwrap_or_default();
    post(node, &format!("/v1/deliveries/{id}/{how}"), "", fields).await
}
