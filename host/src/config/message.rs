//! Message systems and what is on them: `[[broker]]`, `[[channel]]`, `[[subscription]]`.

use std::path::PathBuf;

use serde::Serialize;

use super::names::Kind;
use super::reader::{Fields, Value};
use super::values::{choice, integer, path, reference, string, url_path};

/// `[[broker]]`: a message system.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Broker {
    pub name: String,
    pub kind: BrokerKind,
    /// Where the embedded broker keeps its messages; only it has a directory, and it always has
    /// one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Where any other broker is reached; always there for those. Holds no password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BrokerKind {
    Embedded,
    Amqp,
    Nats,
    Kafka,
    Redis,
}

pub(super) fn broker(fields: &mut Fields<'_>) -> Option<Broker> {
    let kind = choice(&[
        ("embedded", BrokerKind::Embedded),
        ("amqp", BrokerKind::Amqp),
        ("nats", BrokerKind::Nats),
        ("kafka", BrokerKind::Kafka),
        ("redis", BrokerKind::Redis),
    ]);
    let name = fields.name(Kind::Broker);
    let kind = fields.required("kind", kind);
    // Each kind has one of the two keys; the other is then as unknown as any.
    let (directory, url) = match kind {
        Some(BrokerKind::Embedded) => (fields.required("directory", path), None),
        Some(_) => (None, fields.required("url", url)),
        None => (fields.optional("directory", path), fields.optional("url", url)),
    };
    Some(Broker { name: name?, kind: kind?, directory, url })
}

fn url(value: &Value<'_>) -> Option<String> {
    let url = string(value)?;
    let authority = url.split_once("://").and_then(|(_, rest)| rest.split('/').next());
    match authority {
        None | Some("") => value.fail("not a URL", "write it as in \"amqp://127.0.0.1:5672\""),
        Some(authority) if authority.contains('@') => {
            value.fail("the URL holds a user or password", "this file is no place for secrets: leave them out")
        }
        Some(_) => Some(url),
    }
}

/// `[[channel]]`: a named place to publish to or consume from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Channel {
    pub name: String,
    pub broker: String,
    /// AMQP: exchange/routing-key; NATS: subject; Kafka: topic; Redis: stream.
    pub destination: String,
    /// `None` is a chain without policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
}

pub(super) fn channel(fields: &mut Fields<'_>) -> Option<Channel> {
    let name = fields.name(Kind::Channel);
    let broker = fields.required("broker", reference(Kind::Broker));
    let destination = fields.required("destination", string);
    let chain = fields.optional("chain", reference(Kind::Chain));
    Some(Channel { name: name?, broker: broker?, destination: destination?, chain })
}

/// `[[subscription]]`: a channel handed to a consumer service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Subscription {
    pub channel: String,
    pub service: String,
    /// Where deliveries are posted; begins with `/`.
    pub path: String,
    /// Deliveries in flight at once.
    pub concurrency: u32,
    /// Attempts at one delivery before it is a dead letter.
    pub max_attempts: u32,
    /// Where dead letters go; `None` drops them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
}

pub(super) fn subscription(fields: &mut Fields<'_>) -> Option<Subscription> {
    let channel = fields.required("channel", reference(Kind::Channel));
    let service = fields.required("service", reference(Kind::Service));
    let path = fields.required("path", url_path);
    let concurrency = fields.or("concurrency", 1, integer(1..=10_000));
    let max_attempts = fields.or("max-attempts", 5, integer(1..=1000));
    let dead_letter = fields.optional("dead-letter", string);
    Some(Subscription { channel: channel?, service: service?, path: path?, concurrency, max_attempts, dead_letter })
}
