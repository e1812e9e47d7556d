//! Streams and consumers, and what channels and subscriptions make of them.

use super::super::{BrokerError, BrokerFailure, Consumption, Destination};
use super::{lost, refused};
use async_nats::jetstream::consumer::{self, AckPolicy, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamByNameErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{self, ConsumerErrorKind, DiscardPolicy, RetentionPolicy};
use async_nats::jetstream::{Context, consumer::PullConsumer};
use std::fmt::Write;
use std::time::Duration;

/// How long a stream knows the ids of messages.
const DUPLICATES: Duration = Duration::from_secs(120);
/// After which a message comes again that nobody says he works on.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// Whether a channel may ask for all this.
pub fn check(destination: &Destination) -> Result<(), BrokerError> {
    let Destination { address, options } = destination;
    let refused = |why: &str| Err(BrokerError::new(BrokerFailure::Refused, format!("{address:?}: {why}")));
    if address.is_empty() || address.split('.').any(str::is_empty) || address.contains(char::is_whitespace) {
        return refused("no subject: write one as in orders.created");
    }
    if address.split('.').any(|token| matches!(token, "*" | ">")) {
        return refused("a subject with wildcards cannot be published to: name a single one");
    }
    if options.max_priority > 0 {
        return refused("NATS has no priorities: leave out max-priority");
    }
    if options.quorum {
        return refused("NATS has no quorum queues: leave out quorum");
    }
    Ok(())
}

/// A stream of a channel.
pub struct Found {
    pub name: String,
    /// It keeps what is published now.
    pub keeps: bool,
}

/// The stream that takes the messages of a channel. Makes it, or changes it to what the channel now wants, where it may.
pub async fn find(context: &Context, destination: &Destination) -> Result<Found, BrokerError> {
    let Destination { address, options } = destination;
    let about = format!("stream of {address:?}");
    let own = name_of(address);
    let wanted = wanted(destination, &own);
    match context.stream_by_subject(address.as_str()).await {
        Ok(name) => {
            let found = context.get_stream(&name).await;
            let info = found.map_err(|error| match error.kind() {
                GetStreamErrorKind::JetStream(answer) => refused(&answer, &about),
                _ => lost(&error, &about),
            })?;
            let info = info.cached_info();
            // Streams of others are as they are.
            if options.declare && name == own && differs(&info.config, &wanted) {
                let updated = context.update_stream(&wanted).await;
                updated.map_err(|error| create_error(&error, &format!("{about}, {name}, cannot become as this channel wants it; delete it at the broker, or set the channel up the same")))?;
            }
            let keeps = info.config.retention != RetentionPolicy::Interest || info.state.consumer_count > 0;
            Ok(Found { name, keeps })
        }
        Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound && options.declare => {
            let made = context.create_stream(&wanted).await;
            made.map_err(|error| create_error(&error, &about))?;
            Ok(Found { name: own, keeps: wanted.retention != RetentionPolicy::Interest })
        }
        Err(error) => Err(match error.kind() {
            GetStreamByNameErrorKind::NotFound => BrokerError::new(
                BrokerFailure::Refused,
                format!("no stream keeps {address:?}: set declare, or make one"),
            ),
            GetStreamByNameErrorKind::JetStream(answer) => refused(&answer, &about),
            _ => lost(&error, &about),
        }),
    }
}

/// The durable consumer of a subscription.
pub async fn subscribe(context: &Context, what: &Consumption) -> Result<PullConsumer, BrokerError> {
    let stream = find(context, &what.from).await?.name;
    let about = format!("subscription {:?} to stream {stream}", what.name);
    let config = pull::Config {
        durable_name: Some(name_of(&what.name)),
        filter_subject: what.from.address.clone(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        // The host counts attempts, and puts away what has had too many: there is no advisory to listen to.
        max_deliver: -1,
        // Sources ask for no more than their prefetch, each its own: two nodes with one subscription do not share it.
        max_ack_pending: -1,
        ..Default::default()
    };
    context.create_consumer_on_stream(config, stream).await.map_err(|error| match error.kind() {
        ConsumerErrorKind::JetStream(answer) => refused(&answer, &about),
        _ => lost(&error, &about),
    })
}

/// What is known of the consumer of a subscription.
pub async fn consumer(context: &Context, what: &Consumption) -> Result<(String, consumer::Info), BrokerError> {
    let stream = find(context, &Destination { options: Default::default(), ..what.from.clone() }).await?.name;
    let about = format!("subscription {:?} to stream {stream}", what.name);
    let consumer = context.get_consumer_from_stream::<pull::Config, _, _>(name_of(&what.name), &stream).await;
    let consumer = consumer.map_err(|error| match error.kind() {
        ConsumerErrorKind::JetStream(answer) => refused(&answer, &about),
        _ => lost(&error, &about),
    })?;
    Ok((stream, consumer.cached_info().clone()))
}

fn create_error(error: &async_nats::jetstream::context::CreateStreamError, about: &str) -> BrokerError {
    match error.kind() {
        CreateStreamErrorKind::JetStream(answer) => refused(&answer, about),
        _ => lost(error, about),
    }
}

/// What the channel wants of a stream of its own.
fn wanted(destination: &Destination, name: &str) -> stream::Config {
    let Destination { address, options } = destination;
    let age = options.retention.unwrap_or_default();
    stream::Config {
        name: name.into(),
        subjects: vec![address.clone()],
        retention: if age.is_zero() { RetentionPolicy::Interest } else { RetentionPolicy::Limits },
        max_age: age,
        max_messages: options.max_length.map_or(-1, |max| max.try_into().unwrap_or(i64::MAX)),
        max_bytes: -1,
        // By default the oldest are dropped.
        discard: DiscardPolicy::New,
        duplicate_window: if age.is_zero() { DUPLICATES } else { DUPLICATES.min(age) },
        num_replicas: 1,
        ..Default::default()
    }
}

/// In what `wanted` is about, and may be changed, or has to be told that it cannot.
fn differs(is: &stream::Config, wanted: &stream::Config) -> bool {
    (is.retention, is.max_age, is.max_messages, is.discard, is.duplicate_window)
        != (wanted.retention, wanted.max_age, wanted.max_messages, wanted.discard, wanted.duplicate_window)
}

/// A name for a stream or consumer, another one for each subject or subscription: dots become `_`, and what else may not be in
/// names becomes `=` and its code.
fn name_of(name: &str) -> String {
    let mut safe = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'.' => safe.push('_'),
            b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => safe.push(byte.into()),
            // A String takes anything.
            _ => _ = write!(safe, "={byte:02X}"),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::super::super::ChannelOptions;
    use super::*;

    #[test]
    fn names_are_safe_and_each_its_own() {
        assert_eq!(name_of("orders.created"), "orders_created");
        let names = ["a.b", "a_b", "a-b", "a b", "a=b", "a/b", "a.b.", "ä", "A.b", "a=5Fb"].map(name_of);
        let different: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
        let taken = |name: &String| name.contains([' ', '.', '*', '>', '/', '\\']);
        assert!(!names.iter().any(taken), "{names:?}");
    }

    #[test]
    fn what_nats_lacks_is_refused_by_name() {
        let refused = |address: &str, options: ChannelOptions| {
            check(&Destination { address: address.into(), options }).unwrap_err().message
        };
        for address in ["", "a..b", ".a", "a.", "a b"] {
            assert!(refused(address, ChannelOptions::default()).contains("no subject"), "{address:?}");
        }
        assert!(refused("orders.*", ChannelOptions::default()).contains("wildcards"));
        assert!(refused("orders", ChannelOptions { max_priority: 1, ..Default::default() }).contains("max-priority"));
        assert!(refused("orders", ChannelOptions { quorum: true, ..Default::default() }).contains("quorum"));
    }
}
