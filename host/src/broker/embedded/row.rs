//! How a message looks on disk.

use crate::broker::Message;
use crate::broker::message::{at, millis, now};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use rusqlite::Row;
use rusqlite::types::{FromSqlError, Type, ValueRef};
use std::time::{Duration, SystemTime};

/// Milliseconds since 1970, as the tables have them.
pub fn stamp(time: SystemTime) -> i64 {
    i64::try_from(millis(time)).unwrap_or(i64::MAX)
}

/// The time of a stamp.
pub fn time(stamp: i64) -> Option<SystemTime> {
    at(u64::try_from(stamp).ok()?)
}

/// Milliseconds.
pub fn length(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Names and values one after the other, each with its length before it: two bytes for a name, four for a value.
pub fn encode(headers: &HeaderMap) -> Vec<u8> {
    let length = headers.iter().map(|(name, value)| 6 + name.as_str().len() + value.len()).sum();
    let mut bytes = Vec::with_capacity(length);
    for (name, value) in headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        // Neither can be longer than that: http limits names, and no larger head comes in.
        bytes.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend(name);
        bytes.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(value);
    }
    bytes
}

/// `None` is for bytes that `encode` did not make.
fn decode(mut bytes: &[u8]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        let (length, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        headers.try_append(name, value).ok()?;
        bytes = rest;
    }
    Some(headers)
}

/// The message whose columns begin at `first`: id, key, headers, priority, published, expires, due, body.
pub fn message(row: &Row<'_>, first: usize) -> rusqlite::Result<Message> {
    let blob = |at: usize| match row.get_ref(first + at)? {
        ValueRef::Blob(bytes) => Ok(bytes),
        other => Err(rusqlite::Error::InvalidColumnType(first + at, "blob".into(), other.data_type())),
    };
    let damaged = || rusqlite::Error::FromSqlConversionFailure(first + 2, Type::Blob, FromSqlError::InvalidType.into());
    Ok(Message {
        id: row.get(first)?,
        key: row.get(first + 1)?,
        headers: decode(blob(2)?).ok_or_else(damaged)?,
        priority: row.get(first + 3)?,
        published: time(row.get(first + 4)?).unwrap_or_else(now),
        expires: row.get::<_, Option<i64>>(first + 5)?.and_then(time),
        due: row.get::<_, Option<i64>>(first + 6)?.and_then(time),
        body: Bytes::copy_from_slice(blob(7)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written() {
        let mut headers = HeaderMap::new();
        assert_eq!(decode(&encode(&headers)), Some(HeaderMap::new()));
        headers.append("content-type", HeaderValue::from_static("text/plain"));
        headers.append("x-two", HeaderValue::from_static(""));
        headers.append("x-two", HeaderValue::from_bytes(&[0xe4, 0xff]).unwrap());
        headers.append("x-long", HeaderValue::from_str(&"x".repeat(100_000)).unwrap());
        let bytes = encode(&headers);
        assert_eq!(decode(&bytes).as_ref(), Some(&headers));
        for cut in 1..60 {
            // At a boundary there are fewer, anywhere else it is damage.
            assert!(decode(&bytes[..cut]).is_none_or(|fewer| fewer.len() < headers.len()), "{cut}");
        }
    }
}
