//! NATS with JetStream, 2.9 or later.
//!
//! Messages go to a subject, and a stream keeps them for the subscriptions, which are durable consumers of it. A channel
//! without `retention` has a stream that keeps a message until all subscriptions have acknowledged it; as that keeps nothing
//! for nobody, publishes are refused until there is a first subscription. With `retention`, all messages are kept for that
//! long, whoever has had them or not: longer than any consumer may be down.
//!
//! A message with the id of one that came within two minutes is confirmed and not kept again. What NATS cannot do: there
//! are no priorities, and neither the time a message expires at nor the one it is due at means anything to it (the host
//! looks at them). It does not write an acknowledgement down at once: a server that dies may hand the message out again.

mod convert;
mod session;
mod source;
mod stream;

use super::link::Link;
use super::{Backlog, Broker, BrokerError, BrokerFailure, Consumption, Destination, Message, Source};
use async_nats::jetstream::ErrorCode;
use async_trait::async_trait;
use session::{Server, Session};
use source::Pull;
use std::fmt::Display;
use tokio::runtime::Handle;

/// A NATS server, or a cluster of them.
#[derive(Debug)]
pub struct Nats {
    link: Link<Session>,
    runtime: Handle,
}

impl Nats {
    /// Connects in the background, again and again. The URL is as in `nats://127.0.0.1:4222`, or several with commas.
    ///
    /// # Errors
    /// The URL is none of NATS.
    pub fn open(
        name: &str,
        url: &str,
        credentials: Option<(String, String)>,
        runtime: &Handle,
    ) -> Result<Self, String> {
        let server = Server::new(name, url, credentials)?;
        Ok(Self { link: Link::open(server, runtime), runtime: runtime.clone() })
    }
}

/// Whether a channel can be had like this.
///
/// # Errors
/// What about it cannot.
pub fn check(destination: &Destination) -> Result<(), BrokerError> {
    stream::check(destination)
}

#[async_trait]
impl Broker for Nats {
    async fn publish(&self, to: &Destination, message: &Message) -> Result<(), BrokerError> {
        stream::check(to)?;
        self.link.session()?.publish(to, message).await
    }

    async fn consume(&self, what: &Consumption) -> Result<Box<dyn Source>, BrokerError> {
        stream::check(&what.from)?;
        Ok(Box::new(Pull::open(&*self.link.session()?, what, &self.runtime).await?))
    }

    async fn backlog(&self, what: &Consumption) -> Result<Backlog, BrokerError> {
        self.link.session()?.backlog(what).await
    }

    fn trouble(&self) -> Option<String> {
        self.link.session().err().map(|error| error.message)
    }
}

/// What a server's refusal means.
fn refused(error: &async_nats::jetstream::Error, about: &str) -> BrokerError {
    let kind = match error.error_code() {
        ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => BrokerFailure::Full,
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => BrokerFailure::TooLarge,
        _ if error.code() == 503 => BrokerFailure::Lost,
        _ => BrokerFailure::Refused,
    };
    BrokerError::new(kind, format!("{about}: {error}"))
}

/// There was no answer.
fn lost(error: impl Display, about: &str) -> BrokerError {
    BrokerError::new(BrokerFailure::Lost, format!("{about}: {error}"))
}
