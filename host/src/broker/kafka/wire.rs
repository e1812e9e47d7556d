//! Messages as records: a header for each header and for what else is known, and the key as the record's.

use crate::broker::Message;
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message as _, OwnedHeaders};
use rdkafka::producer::FutureRecord;

pub fn headers(message: &Message) -> OwnedHeaders {
    message
        .fields()
        .fold(OwnedHeaders::new(), |headers, (name, value)| headers.insert(Header { key: &name, value: Some(&value) }))
}

/// Records of one key go to one partition, and so stay in their order.
pub fn record<'a>(topic: &'a str, message: &'a Message) -> FutureRecord<'a, str, [u8]> {
    let record = FutureRecord::to(topic).payload(message.body.as_ref()).headers(headers(message));
    let time = i64::try_from(crate::broker::message::millis(message.published)).unwrap_or(i64::MAX);
    let record = record.timestamp(time);
    match &message.key {
        Some(key) => record.key(key.as_str()),
        None => record,
    }
}

pub fn message(record: &BorrowedMessage<'_>) -> Message {
    let body = Bytes::copy_from_slice(record.payload().unwrap_or_default());
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    let fields = headers.filter_map(|header| Some((header.key, header.value?)));
    let id = || format!("{}/{}/{}", record.topic(), record.partition(), record.offset());
    let mut message = Message::from_fields(fields, body, id);
    if message.key.is_none() {
        message.key = record.key().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned);
    }
    message
}
