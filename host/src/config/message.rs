//! Message systems and what is on them: `[[broker]]`, `[[channel]]`, `[[subscription]]`.

use std::path::PathBuf;
use std::time::Duration;

use humantime::format_duration;
use serde::Serialize;

use super::names::Kind;
use super::positions::Positions;
use super::problem::Position;
use super::reader::{Fields, Value};
use super::show;
use super::values::{boolean, choice, integer, name, path, reference, size, string, table, timeout, url_path};

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
    /// Who the node is to the broker; without it nobody in particular.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The file that holds the user's password, and nothing else but white space at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    #[serde(skip)]
    positions: Positions,
}

impl Broker {
    /// Whether it is the same message system, whatever it is called.
    pub fn is(&self, other: &Self) -> bool {
        Self { name: String::new(), ..self.clone() } == Self { name: String::new(), ..other.clone() }
    }

    /// Where a key is written, or the section.
    pub fn position(&self, key: &str) -> Position {
        self.positions.nearest(key)
    }
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
    let (mut directory, mut address, mut user, mut password_file) = (None, None, None, None);
    // Each kind has the keys of one side; the others are then as unknown as any.
    if kind != Some(BrokerKind::Embedded) {
        address = if kind.is_some() { fields.required("url", url) } else { fields.optional("url", url) };
        user = fields.optional("user", string);
        password_file = fields.optional("password-file", path);
    }
    match kind {
        Some(BrokerKind::Embedded) => directory = fields.required("directory", path),
        Some(_) => {}
        None => directory = fields.optional("directory", path),
    }
    let mut positions = Positions::default();
    positions.note("/password-file", fields.at_key("password-file"));
    Some(Broker { name: name?, kind: kind?, directory, url: address, user, password_file, positions })
}

fn url(value: &Value<'_>) -> Option<String> {
    let url = string(value)?;
    let authority = url.split_once("://").and_then(|(_, rest)| rest.split('/').next());
    match authority {
        None | Some("") => value.fail("not a URL", "write it as in \"amqp://127.0.0.1:5672\""),
        Some(authority) if authority.contains('@') => value
            .fail("the URL holds a user or password", "this file is no place for secrets: use user and password-file"),
        Some(_) => Some(url),
    }
}

/// `[[channel]]`: a named place to publish to or consume from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Channel {
    pub name: String,
    pub broker: String,
    /// AMQP: exchange/routing-key; NATS: subject; Kafka: topic; Redis: stream; embedded: any name.
    pub destination: String,
    /// Of publishes, and of deliveries whose subscription names no other. `None` is a chain without policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// How long a publish may take, attempts and waits between them included.
    #[serde(serialize_with = "show::duration")]
    pub timeout: Duration,
    /// The largest body of a message, in bytes.
    pub max_message: usize,
    /// Whether to make what is missing at the broker.
    pub declare: bool,
    /// How long a message is good for that does not say so itself.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "show::optional_duration")]
    pub ttl: Option<Duration>,
    /// How long messages are kept that nobody has subscribed to, or that every subscription has had.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "show::optional_duration")]
    pub retention: Option<Duration>,
    /// The most messages that wait. Above that a publish is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    /// Messages have priorities from 0 to this.
    pub max_priority: u8,
    /// AMQP: queues that are replicated.
    pub quorum: bool,
    #[serde(skip)]
    positions: Positions,
}

impl Channel {
    /// Where a key is written, or the section.
    pub fn position(&self, key: &str) -> Position {
        self.positions.nearest(key)
    }
}

pub(super) fn channel(fields: &mut Fields<'_>) -> Option<Channel> {
    let name = fields.name(Kind::Channel);
    let broker = fields.required("broker", reference(Kind::Broker));
    let destination = fields.required("destination", string);
    let chain = fields.optional("chain", reference(Kind::Chain));
    let timeout = fields.or("timeout", Duration::from_secs(5), timeout);
    let max_message = fields.or("max-message", 1024 * 1024, size(1..=128 * 1024 * 1024));
    let declare = fields.or("declare", true, boolean);
    let ttl = fields.optional("ttl", super::values::timeout);
    let retention = fields.optional("retention", super::values::timeout);
    let max_length = fields.optional("max-length", integer(1..=1_000_000_000));
    let max_priority = fields.or("max-priority", 0, integer(0..=9));
    let quorum = fields.or("quorum", false, boolean);
    let mut positions = Positions::default();
    for (pointer, key) in [
        ("/destination", "destination"),
        ("/max-length", "max-length"),
        ("/max-priority", "max-priority"),
        ("/quorum", "quorum"),
    ] {
        positions.note(pointer, fields.at_key(key));
    }
    Some(Channel {
        name: name?,
        broker: broker?,
        destination: destination?,
        chain,
        timeout,
        max_message,
        declare,
        ttl,
        retention,
        max_length,
        max_priority,
        quorum,
        positions,
    })
}

/// `[[subscription]]`: a channel handed to a consumer service, or kept for consumers that ask for messages themselves.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Subscription {
    /// What the broker remembers it by. Two nodes with the same name share the messages.
    pub name: String,
    pub channel: String,
    /// Who is delivered to; `None`: consumers ask for messages themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Where deliveries are posted; begins with `/`. Only with a service, and always there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Of deliveries; `None` is the channel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// Deliveries in progress at once.
    pub concurrency: u32,
    /// Messages that are held without an acknowledgement: in progress, waiting for another attempt, or for their turn.
    pub prefetch: u32,
    /// Whether messages with the same key are delivered one after the other, in their order.
    pub ordered: bool,
    /// How long the consumer may take for one delivery, or between a pull and its acknowledgement.
    #[serde(serialize_with = "show::duration")]
    pub timeout: Duration,
    /// Attempts at one message before it is a dead letter, whatever policies say.
    pub max_attempts: u32,
    /// The waits between attempts where no policy says: the first, and the longest.
    pub backoff: Backoff,
    /// Where dead letters go: a channel, or another destination at the same broker. `None` drops them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
    /// A message whose id was acknowledged this recently is not delivered again.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "show::optional_duration")]
    pub dedup: Option<Duration>,
}

/// Waits that double from the first to the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Backoff {
    #[serde(serialize_with = "show::duration")]
    pub initial: Duration,
    #[serde(serialize_with = "show::duration")]
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

fn backoff(fields: &mut Fields<'_>) -> Option<Backoff> {
    let default = Backoff::default();
    let initial = fields.or("initial", default.initial, timeout);
    let max = fields.or("max", default.max.max(initial), timeout);
    if max < initial {
        let message = format!("the longest wait is shorter than the first, {}", format_duration(initial));
        fields.reader.report(fields.at_key("max"), message, "raise max or lower initial");
    }
    Some(Backoff { initial, max })
}

pub(super) fn subscription(fields: &mut Fields<'_>) -> Option<Subscription> {
    let channel = fields.required("channel", reference(Kind::Channel));
    let given = fields.optional("name", name);
    let service = fields.optional("service", reference(Kind::Service));
    let path = service.as_ref().and_then(|_| fields.required("path", url_path));
    let name = given.or_else(|| channel.clone());
    if let Some(name) = &name {
        fields.reader.define(Kind::Subscription, name, fields.at_key("name"));
    }
    let chain = fields.optional("chain", reference(Kind::Chain));
    let concurrency = fields.or("concurrency", 1, integer(1..=10_000));
    let prefetch = fields.or("prefetch", (4 * concurrency).max(64), integer(1..=100_000));
    let ordered = fields.or("ordered", false, boolean);
    let timeout = fields.or("timeout", Duration::from_secs(30), timeout);
    let max_attempts = fields.or("max-attempts", 5, integer(1..=1000));
    let backoff = fields.or("backoff", Backoff::default(), table(backoff));
    let dead_letter = fields.optional("dead-letter", string);
    let dedup = fields.optional("dedup", super::values::timeout);
    Some(Subscription {
        name: name?,
        channel: channel?,
        service,
        path,
        chain,
        concurrency,
        prefetch,
        ordered,
        timeout,
        max_attempts,
        backoff,
        dead_letter,
        dedup,
    })
}
