//! Messages as entries of a stream: a field for each header and for what else is known, and the body last.

use crate::broker::Message;
use bytes::Bytes;
use redis::{FromRedisValue, RedisError, RedisResult, Value};

/// The last field of this name: a header may have it too.
const BODY: &str = "body";

/// More names and values than this do not fit into one call from Lua.
pub const MOST_FIELDS: usize = 3_000;

/// An entry as a group hands it out.
pub struct Entry {
    pub id: String,
    /// 1 the first time.
    pub deliveries: i64,
    pub message: Message,
}

type Fields = Vec<Vec<u8>>;

/// Names and values in turn.
pub fn fields(message: &Message) -> Vec<(Vec<u8>, Vec<u8>)> {
    let body = (BODY.as_bytes().to_vec(), message.body.to_vec());
    message.fields().map(|(name, value)| (name.into_bytes(), value)).chain([body]).collect()
}

fn entry(id: String, deliveries: i64, fields: Fields) -> Entry {
    let mut pairs = Vec::with_capacity(fields.len() / 2);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        // Names of others may be no text; they are no headers then.
        if let Ok(name) = String::from_utf8(name) {
            pairs.push((name, value));
        }
    }
    let body = pairs.iter().rposition(|(name, _)| name == BODY).map(|at| pairs.remove(at).1).unwrap_or_default();
    let fields = pairs.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let message = Message::from_fields(fields, Bytes::from(body), || id.clone());
    Entry { id, deliveries, message }
}

/// What XREADGROUP answers for one stream.
pub fn fresh(reply: Value) -> RedisResult<Vec<Entry>> {
    let streams =
        Option::<Vec<(Value, Vec<(String, Option<Fields>)>)>>::from_redis_value(reply).map_err(RedisError::from)?;
    let entries = streams.into_iter().flatten().flat_map(|(_, entries)| entries);
    Ok(entries.filter_map(|(id, fields)| Some(entry(id, 1, fields?))).collect())
}

/// What `take.lua` answers: where to go on, and entries.
pub fn older(reply: Value) -> RedisResult<(String, Vec<Entry>)> {
    let (cursor, entries) =
        <(String, Vec<(String, i64, Fields)>)>::from_redis_value(reply).map_err(RedisError::from)?;
    Ok((cursor, entries.into_iter().map(|(id, deliveries, fields)| entry(id, deliveries, fields)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(fields: &[(Vec<u8>, Vec<u8>)]) -> Entry {
        entry("7-0".to_owned(), 1, fields.iter().flat_map(|(name, value)| [name.clone(), value.clone()]).collect())
    }

    #[test]
    fn an_entry_holds_all_of_a_message() {
        let mut message = Message::from_fields([], Bytes::from_static(b"\0\xff"), || "a".to_owned());
        message.headers.append("body", HeaderValue::from_static("a header of that name"));
        message.headers.append("ce-type", HeaderValue::from_static("order.created"));
        message.key = Some("k".to_owned());
        assert_eq!(read(&fields(&message)).message, message);
    }

    #[test]
    fn entries_of_others_may_be_anything() {
        let read = read(&[
            (b"\xff".to_vec(), b"x".to_vec()),
            (b"body".to_vec(), b"b".to_vec()),
            (b"a".to_vec(), b"1".to_vec()),
        ]);
        assert_eq!((read.message.id.as_str(), &read.message.body[..]), ("7-0", &b"b"[..]));
        assert_eq!(read.message.headers.get("a").unwrap(), "1");
        assert_eq!(entry("1-0".to_owned(), 1, vec![b"odd".to_vec()]).message.headers.len(), 0);
    }
}
