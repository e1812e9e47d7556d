//! Brokers: message systems behind one trait, one file for each kind.
//!
//! What a broker has to do is little: keep a message before it says so, hand messages out until they are acknowledged, and
//! take note that someone still works on one. When to try a delivery again, for how often and when to give up is decided
//! by policies and the host (`message/`), the same for all of them. `tests/src/broker_laws.rs` says what all have to do.

pub mod amqp;
pub mod embedded;
pub mod kafka;
mod link;
pub mod message;
pub mod nats;
pub mod open;
pub mod redis;

use async_trait::async_trait;
pub use message::Message;
use std::fmt::Debug;
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// A message system. All methods may be called from any thread, and many at a time.
#[async_trait]
pub trait Broker: Debug + Send + Sync {
    /// Hands a message over. It is the broker's once this returns: kept as durably as the broker keeps anything.
    ///
    /// Gives up at once where there is no connection. Has no time limit of its own otherwise; the future may be dropped,
    /// and what becomes of the message is then unknown.
    async fn publish(&self, to: &Destination, message: &Message) -> Result<(), BrokerError>;

    /// Begins to take messages in the name of a subscription, which the broker remembers: what it has not acknowledged is
    /// given to it again, here or on another node. A name that is new gets what its channel still holds.
    async fn consume(&self, what: &Consumption) -> Result<Box<dyn Source>, BrokerError>;

    /// What waits for a subscription.
    async fn backlog(&self, what: &Consumption) -> Result<Backlog, BrokerError>;

    /// Why it cannot be reached, if that is so.
    fn trouble(&self) -> Option<String>;

    /// Ends it, and waits until what it was given is kept. For where another process is to have its place.
    fn close(&self) {}
}

/// Messages as they come. Dropped, it gives back what was not acknowledged.
#[async_trait]
pub trait Source: Send {
    /// The next message, when there is one. Dropping the future loses none.
    ///
    /// # Errors
    /// The source has ended, and all its receipts are void: the broker will give those messages out again.
    async fn next(&mut self) -> Result<Taken, BrokerError>;
}

/// A message that this node works on.
pub struct Taken {
    pub message: Message,
    /// Deliveries that were begun before and failed, as far as the broker knows.
    pub attempts: u32,
    pub receipt: Box<dyn Receipt>,
}

/// What is owed to the broker for a message. Dropped without a word, the message comes again, sooner or later.
#[async_trait]
pub trait Receipt: Send + Sync {
    /// The message is done with, and never comes again once this has returned.
    async fn ack(self: Box<Self>) -> Result<(), BrokerError>;

    /// Somebody else may have the message, at once.
    async fn release(self: Box<Self>);

    /// Somebody still works on it. Called every few seconds for each message that is held.
    async fn keep(&self) {}

    /// A delivery has failed and the next is due then. For brokers that can note it, so that another process knows.
    async fn failed(&self, _attempts: u32, _due: SystemTime) {}
}

/// Where messages go, as the broker knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// AMQP: exchange/routing-key; NATS: subject; Kafka: topic; Redis: stream; embedded: any name.
    pub address: String,
    pub options: ChannelOptions,
}

/// What a channel asks of its broker. What a broker does not have is refused with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ChannelOptions {
    /// Make what is missing at the broker: exchanges, queues, streams, topics.
    pub declare: bool,
    /// How long a message is good for, unless it says so itself.
    pub ttl: Option<Duration>,
    /// How long messages are kept that nobody has subscribed to, or that all have had.
    pub retention: Option<Duration>,
    /// The most messages that wait; above that a publish is refused.
    pub max_length: Option<u64>,
    /// Priorities from 0 to this; 0: messages have none.
    pub max_priority: u8,
    /// AMQP: queues that are replicated and survive the loss of a node.
    pub quorum: bool,
}

/// Who takes messages, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumption {
    /// The subscription's: a durable queue or consumer, or a consumer group.
    pub name: String,
    pub from: Destination,
    /// Messages that may be held without an acknowledgement.
    pub prefetch: u32,
    /// Where the broker itself puts what it gives up, where it can do that.
    pub dead_letter: Option<Destination>,
    /// A message whose id was acknowledged this recently is not handed out again. Embedded; for others the host does it.
    pub dedup: Option<Duration>,
}

/// What waits for a subscription.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages that were not acknowledged, those that are being worked on included. `None`: the broker cannot tell.
    pub messages: Option<u64>,
    /// How long the oldest of them has been there.
    pub oldest: Option<Duration>,
}

/// Why a broker did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct BrokerError {
    pub kind: BrokerFailure,
    /// Names the broker's side of it: "no queue is bound to …".
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerFailure {
    /// There is no connection; nothing was sent.
    Unreachable,
    /// The connection broke. Whether the broker has the message is unknown.
    Lost,
    /// The broker has no room: its disk, its memory or the channel's limit.
    Full,
    /// The message is larger than the broker takes.
    TooLarge,
    /// The broker does not want it, and will not later.
    Refused,
}

impl BrokerError {
    pub fn new(kind: BrokerFailure, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}
