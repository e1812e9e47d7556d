//! Messages as AMQP has them: properties and a table of headers.

use super::super::{BrokerError, BrokerFailure, ChannelOptions, Message, message};
use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use std::time::{Duration, SystemTime};

const PERSISTENT: u8 = 2;
/// Milliseconds, 49 days: servers take no more. What lives longer does so unlimited there, and the host knows when it ends.
const LONGEST_EXPIRATION: u64 = u32::MAX as u64;
/// Of quorum queues: how often a message was handed out before and came back.
const DELIVERIES: &str = "x-delivery-count";
/// What each field and the properties take besides their names and values, and more.
const OVERHEAD: usize = 16;
const PROPERTIES: usize = 1024;

/// What is sent with a message. All of it has to fit into a frame, of which `frame_max` is the size.
pub fn properties(message: &Message, options: &ChannelOptions, frame_max: u32) -> Result<BasicProperties, BrokerError> {
    let mut table = FieldTable::default();
    let mut size = PROPERTIES;
    for (name, value) in message.fields() {
        size += name.len() + value.len() + OVERHEAD;
        let name = ShortString::try_new(name)
            .map_err(|_| BrokerError::new(BrokerFailure::Refused, "a header's name is longer than 255 bytes"))?;
        let value = AMQPValue::LongString(value.into());
        let value = match table.inner().get(name.as_str()) {
            None => value,
            Some(AMQPValue::FieldArray(values)) => {
                let mut values = values.clone();
                values.push(value);
                AMQPValue::FieldArray(values)
            }
            Some(first) => AMQPValue::FieldArray(FieldArray::from(vec![first.clone(), value])),
        };
        table.insert(name, value);
    }
    // Zero is no limit.
    if frame_max > 0 && size > frame_max as usize {
        let message = format!("the headers take {size} bytes, and a frame has {frame_max}");
        return Err(BrokerError::new(BrokerFailure::TooLarge, message));
    }
    let seconds = message::millis(message.published) / 1000;
    let mut properties =
        BasicProperties::default().with_delivery_mode(PERSISTENT).with_timestamp(seconds).with_headers(table);
    if let Ok(id) = ShortString::try_new(message.id.as_str()) {
        properties = properties.with_message_id(id);
    }
    if let Some(value) = header(message, &CONTENT_TYPE) {
        properties = properties.with_content_type(value);
    }
    if let Some(value) = header(message, &CONTENT_ENCODING) {
        properties = properties.with_content_encoding(value);
    }
    if options.max_priority > 0 {
        properties = properties.with_priority(message.priority.min(options.max_priority));
    }
    let left = match message.expires {
        Some(expires) => Some(expires.duration_since(SystemTime::now()).unwrap_or_default()),
        None => options.ttl,
    };
    let left = left.and_then(|left| u64::try_from(left.as_millis()).ok());
    if let Some(left) = left.filter(|left| *left <= LONGEST_EXPIRATION) {
        properties = properties.with_expiration(left.to_string().into());
    }
    Ok(properties)
}

fn header(message: &Message, name: &http::HeaderName) -> Option<ShortString> {
    ShortString::try_new(message.headers.get(name)?.to_str().ok()?).ok()
}

/// The message of a delivery, whoever has published it.
pub fn message(properties: &BasicProperties, body: Bytes) -> Message {
    let table = properties.headers().as_ref();
    let entries = || table.into_iter().flatten().map(|(name, value)| (name.as_str(), value));
    let mut fields: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, value) in entries().filter(|(name, _)| *name != DELIVERIES) {
        match value {
            AMQPValue::FieldArray(values) => {
                fields.extend(values.as_slice().iter().filter_map(|value| Some((name, text(value)?))));
            }
            value => fields.extend(text(value).map(|value| (name, value))),
        }
    }
    // What AMQP has a place of its own for counts where the message came without our fields, which follow it and win.
    let mut native = Message::from_fields([], Bytes::new(), || id(properties));
    native.priority = properties.priority().unwrap_or(0).min(9);
    let published = properties.timestamp().and_then(|seconds| message::at(seconds.checked_mul(1000)?));
    native.published = published.unwrap_or(native.published);
    for (name, value) in [(CONTENT_TYPE, properties.content_type()), (CONTENT_ENCODING, properties.content_encoding())]
    {
        let value = value.as_ref().and_then(|value| HeaderValue::from_str(value.as_str()).ok());
        if let Some(value) = value.filter(|_| !entries().any(|(field, _)| name.as_str().eq_ignore_ascii_case(field))) {
            native.headers.insert(name, value);
        }
    }
    let native: Vec<_> = native.fields().collect();
    let native = native.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let fields = native.chain(fields.iter().map(|(name, value)| (*name, value.as_slice())));
    let mut message = Message::from_fields(fields, body, || id(properties));
    let left = properties.expiration().as_ref().and_then(|left| left.as_str().parse().ok());
    let expires = left.and_then(|left| message.published.checked_add(Duration::from_millis(left)));
    message.expires = message.expires.or(expires);
    message
}

/// How often a quorum queue has handed the message out before.
pub fn deliveries(properties: &BasicProperties) -> u32 {
    let count = properties.headers().as_ref().and_then(|table| number(table.inner().get(DELIVERIES)?));
    count.and_then(|count| count.try_into().ok()).unwrap_or(0)
}

/// AMQP names no message that its publisher has not named.
fn id(properties: &BasicProperties) -> String {
    let id = properties.message_id().as_ref().map(ToString::to_string);
    id.unwrap_or_else(|| format!("amqp-{:032x}", rand::random::<u128>()))
}

/// Values that have parts are left out.
fn text(value: &AMQPValue) -> Option<Vec<u8>> {
    Some(match value {
        AMQPValue::LongString(text) => text.as_bytes().to_vec(),
        AMQPValue::ShortString(text) => text.as_str().as_bytes().to_vec(),
        AMQPValue::ByteArray(bytes) => bytes.as_slice().to_vec(),
        AMQPValue::Boolean(value) => value.to_string().into_bytes(),
        AMQPValue::Float(value) => value.to_string().into_bytes(),
        AMQPValue::Double(value) => value.to_string().into_bytes(),
        AMQPValue::Timestamp(value) => value.to_string().into_bytes(),
        value => number(value)?.to_string().into_bytes(),
    })
}

fn number(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => *value,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Message {
        let mut message = Message::from_fields([], Bytes::from_static(b"body"), || "7".into());
        message.priority = 9;
        message
    }

    const FRAME: u32 = 131_072;

    #[test]
    fn a_message_of_ours_comes_as_it_went() {
        let mut sent = sent();
        sent.headers.append("content-type", HeaderValue::from_static("text/plain"));
        for value in ["1", "2", "3"] {
            sent.headers.append("x-three", HeaderValue::from_static(value));
        }
        sent.id = "long".repeat(100);
        sent.due = Some(sent.published + Duration::from_secs(5));
        sent.expires = Some(sent.published + Duration::from_secs(u64::from(u32::MAX)));
        let options = ChannelOptions { max_priority: 3, ..Default::default() };
        let properties = properties(&sent, &options, FRAME).unwrap();
        assert_eq!((*properties.priority(), *properties.delivery_mode()), (Some(3), Some(2)));
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "text/plain");
        assert_eq!(*properties.expiration(), None, "longer than a server takes");
        assert_eq!(message(&properties, sent.body.clone()), sent);
    }

    #[test]
    fn a_message_of_others_is_read_from_its_properties() {
        let mut table = FieldTable::default();
        table.insert("x-number".into(), AMQPValue::LongInt(-5));
        table.insert("x-flag".into(), AMQPValue::Boolean(true));
        table
            .insert("x-death".into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(FieldTable::default())].into()));
        table.insert("x-delivery-count".into(), AMQPValue::LongLongInt(4));
        let properties = BasicProperties::default()
            .with_message_id("order-1".into())
            .with_timestamp(1_700_000_000)
            .with_expiration("1500".into())
            .with_priority(12)
            .with_content_type("application/json".into())
            .with_headers(table);
        let came = message(&properties, Bytes::from_static(b"{}"));
        assert_eq!((came.id.as_str(), came.priority), ("order-1", 9));
        assert_eq!(message::millis(came.published), 1_700_000_000_000);
        assert_eq!(came.expires.map(message::millis), Some(1_700_000_001_500));
        let headers: Vec<_> =
            came.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(headers, [("content-type", "application/json"), ("x-flag", "true"), ("x-number", "-5")]);
        assert_eq!(deliveries(&properties), 4);
        let anonymous = |_| message(&BasicProperties::default(), Bytes::new()).id;
        assert_ne!(anonymous(0), anonymous(1));
    }

    #[test]
    fn a_messages_own_time_counts_before_the_channels() {
        let options = ChannelOptions { ttl: Some(Duration::from_millis(500)), ..Default::default() };
        let mut message = sent();
        let expiration =
            |message: &Message| properties(message, &options, FRAME).unwrap().expiration().clone().unwrap();
        assert_eq!(expiration(&message).as_str(), "500");
        message.expires = Some(SystemTime::now() + Duration::from_secs(3600));
        assert!(expiration(&message).as_str().parse::<u64>().unwrap() > 3_000_000);
        message.expires = Some(SystemTime::UNIX_EPOCH);
        assert_eq!(expiration(&message).as_str(), "0");
    }

    #[test]
    fn headers_that_fit_into_no_frame_are_refused() {
        let mut message = sent();
        message.headers.insert("x-large", HeaderValue::from_bytes(&[b'x'; 200_000]).unwrap());
        let error = properties(&message, &ChannelOptions::default(), FRAME).unwrap_err();
        assert_eq!(error.kind, BrokerFailure::TooLarge);
        assert!(properties(&message, &ChannelOptions::default(), 0).is_ok());
    }
}
