//! Messages as NATS has them: headers of text.

use super::super::{BrokerError, BrokerFailure, ChannelOptions, Message, message};
use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue, NATS_MESSAGE_ID};
use bytes::Bytes;
use std::borrow::Cow;

/// What the server says with a message, and is no header of its own.
const SERVERS: &str = "nats-";

/// What is sent with a message. A message that does not say how long it is good for is told the channel's time here, for
/// NATS has no place for that.
pub fn headers(message: &Message, options: &ChannelOptions) -> Result<HeaderMap, BrokerError> {
    let mut message = Cow::Borrowed(message);
    if let (None, Some(ttl)) = (message.expires, options.ttl) {
        message.to_mut().expires = message.published.checked_add(ttl);
    }
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, value("the message's id", message.id.as_bytes())?);
    for (name, field) in message.fields() {
        let field = value(&name, &field)?;
        let name = HeaderName::try_from(name).map_err(|error| refused(error.to_string()))?;
        headers.append(name, field);
    }
    Ok(headers)
}

fn value(name: &str, value: &[u8]) -> Result<HeaderValue, BrokerError> {
    let text = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    text.ok_or_else(|| refused(format!("{name} is no text of one line, and NATS takes nothing else")))
}

fn refused(message: String) -> BrokerError {
    BrokerError::new(BrokerFailure::Refused, message)
}

/// The message of a delivery, whoever has published it.
pub fn message(delivery: &async_nats::jetstream::Message) -> Message {
    let none = HeaderMap::new();
    let headers = delivery.headers.as_ref().unwrap_or(&none);
    let mut fields: Vec<(&str, &[u8])> = Vec::new();
    for (name, values) in headers.iter() {
        let name: &str = name.as_ref();
        if !name.get(..SERVERS.len()).is_some_and(|start| start.eq_ignore_ascii_case(SERVERS)) {
            fields.extend(values.iter().map(|value| (name, value.as_str().as_bytes())));
        }
    }
    let info = delivery.info().ok();
    // Comes first: what we have sent says it better.
    let published =
        info.as_ref().and_then(|info| u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).ok());
    let mut native = Message::from_fields([], Bytes::new(), String::new);
    native.published = published.and_then(message::at).unwrap_or(native.published);
    let native: Vec<_> = native.fields().filter(|(_, value)| !value.is_empty()).collect();
    let native = native.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    Message::from_fields(native.chain(fields), delivery.payload.clone(), || {
        let given = headers.get_last(NATS_MESSAGE_ID).map(|id| id.as_str().to_owned());
        let sequence = || info.as_ref().map(|info| format!("{}:{}", info.stream, info.stream_sequence));
        given.or_else(sequence).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::time::Duration;

    fn sent() -> Message {
        Message::from_fields([], Bytes::from_static(b"body"), || "id".into())
    }

    #[test]
    fn the_channels_time_is_that_of_messages_without_one() {
        let options = ChannelOptions { ttl: Some(Duration::from_secs(5)), ..Default::default() };
        let expires = |message: &Message| {
            headers(message, &options).unwrap().get("x-weir-expires").unwrap().as_str().parse::<u64>().unwrap()
        };
        let mut message = sent();
        assert_eq!(expires(&message), message::millis(message.published) + 5000);
        message.expires = message::at(7);
        assert_eq!(expires(&message), 7);
    }

    #[test]
    fn what_is_no_text_is_refused_by_name() {
        let mut message = sent();
        message.headers.insert("x-bytes", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        let error = headers(&message, &ChannelOptions::default()).unwrap_err();
        assert_eq!(error.kind, BrokerFailure::Refused);
        assert!(error.message.contains("x-bytes"), "{error}");
        message = sent();
        message.id = "a\r\nb".into();
        assert!(headers(&message, &ChannelOptions::default()).unwrap_err().message.contains("id"));
    }
}
