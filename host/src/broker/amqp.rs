//! RabbitMQ, or whatever else speaks AMQP 0-9-1 with its extensions.
//!
//! Messages go to `exchange/routing-key`, and a subscription is a durable queue that is bound there: an exchange keeps
//! nothing, so what is published before the first subscription is refused. A destination without a slash is a queue at the
//! default exchange, which all its subscriptions share.
//!
//! What RabbitMQ cannot do: it does not delay messages (the host holds them), and it does not say how old the oldest one
//! is. An acknowledgement is not answered: a node that dies right after it may hand the message out again. A delivery that
//! is held for longer than the server's `consumer_timeout`, 30 minutes by default, ends its source.

mod convert;
mod place;
mod session;
mod source;

use super::link::Link;
use super::{Backlog, Broker, BrokerError, BrokerFailure, Consumption, Destination, Message, Source};
use async_trait::async_trait;
use lapin::uri::{AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Error, ErrorKind};
use place::Place;
use session::{Server, Session};
use source::{Held, Queue};
use tokio::runtime::Handle;

/// Seconds after which a silent connection is taken for dead, unless the URL says otherwise (`?heartbeat=60`).
const HEARTBEAT: u16 = 10;

/// A RabbitMQ server.
#[derive(Debug)]
pub struct Amqp {
    /// Two connections: one that publishes is held up by a server that is short of memory, acknowledgements and all.
    publishing: Link<Session>,
    consuming: Link<Session>,
    held: Held,
    runtime: Handle,
}

impl Amqp {
    /// Connects in the background, again and again. The URL is as in `amqp://127.0.0.1:5672/vhost`.
    ///
    /// # Errors
    /// The URL is none of AMQP.
    pub fn open(
        name: &str,
        url: &str,
        credentials: Option<(String, String)>,
        runtime: &Handle,
    ) -> Result<Self, String> {
        let mut uri: AMQPUri = url.parse().map_err(|error| format!("{url:?} is no AMQP URL: {error}"))?;
        if uri.scheme == AMQPScheme::AMQPS {
            return Err(format!("{url:?} asks for TLS, which AMQP brokers are not reached by: use amqp://"));
        }
        if let Some((username, password)) = credentials {
            uri.authority.userinfo = AMQPUserInfo { username, password };
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        let link = |what| Link::open(Server { uri: uri.clone(), name: format!("weir {name}, {what}") }, runtime);
        Ok(Self {
            publishing: link("publishing"),
            consuming: link("consuming"),
            held: Held::default(),
            runtime: runtime.clone(),
        })
    }
}

/// Whether a channel can be had like this.
///
/// # Errors
/// What about it cannot.
pub fn check(destination: &Destination) -> Result<(), BrokerError> {
    Place::of(destination).map(|_| ())
}

#[async_trait]
impl Broker for Amqp {
    async fn publish(&self, to: &Destination, message: &Message) -> Result<(), BrokerError> {
        let place = Place::of(to)?;
        self.publishing.session()?.publish(to, &place, message).await
    }

    async fn consume(&self, what: &Consumption) -> Result<Box<dyn Source>, BrokerError> {
        let queue = Queue::open(&*self.consuming.session()?, what, &self.held, &self.runtime).await?;
        Ok(Box::new(queue))
    }

    async fn backlog(&self, what: &Consumption) -> Result<Backlog, BrokerError> {
        let place = Place::of(&what.from)?;
        let queue = place.queue(&what.name)?;
        let waiting = self.consuming.session()?.waiting(queue.clone()).await?;
        // The server counts what it has handed out apart, and does not tell. What other nodes hold stays unknown.
        Ok(Backlog { messages: Some(waiting + self.held.of(&queue)), oldest: None })
    }

    fn trouble(&self) -> Option<String> {
        match (self.publishing.session(), self.consuming.session()) {
            (Err(error), _) | (_, Err(error)) => Some(error.message),
            (Ok(publishing), Ok(_)) => publishing.blocked(),
        }
    }
}

/// What an error of the client means; `about` is what it was about.
fn failure(error: &Error, about: &str) -> BrokerError {
    use BrokerFailure::{Lost, Refused, TooLarge};
    let ErrorKind::ProtocolError(answer) = error.kind() else {
        return BrokerError::new(Lost, format!("{about}: the connection broke: {error}"));
    };
    let text = answer.get_message().as_str();
    match answer.get_id() {
        311 => BrokerError::new(TooLarge, format!("{about}: {text}")),
        // There is no code of its own for this.
        406 if text.contains("larger than") => BrokerError::new(TooLarge, format!("{about}: {text}")),
        406 if text.contains("inequivalent arg") => BrokerError::new(
            Refused,
            format!(
                "{about} was made with other options: {text}. Delete it at the broker, or set the channel up the same"
            ),
        ),
        403..=406 => BrokerError::new(Refused, format!("{about}: {text}")),
        _ => BrokerError::new(Lost, format!("{about}: {text}")),
    }
}
