//! A message, the same whatever broker keeps it.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::{Duration, SystemTime};

/// What brokers without a place of their own for them keep as fields beside the message's headers.
const ID: &str = "x-weir-id";
const KEY: &str = "x-weir-key";
const PRIORITY: &str = "x-weir-priority";
const PUBLISHED: &str = "x-weir-published";
const EXPIRES: &str = "x-weir-expires";
const DUE: &str = "x-weir-due";

/// A message on its way to a broker, or from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What tells it from others: the publisher's idempotency key, the source and id of a CloudEvent, or made by the node.
    pub id: String,
    /// Messages of one key are delivered in their order, where a subscription asks for that.
    pub key: Option<String>,
    /// Headers of the message itself, `content-type` and `ce-*` among them.
    pub headers: HeaderMap,
    /// From 0, which is the lowest, to 9.
    pub priority: u8,
    /// Whole milliseconds, like the next two.
    pub published: SystemTime,
    /// Nobody wants it after this.
    pub expires: Option<SystemTime>,
    /// Not to be delivered before this.
    pub due: Option<SystemTime>,
    pub body: Bytes,
}

impl Message {
    /// Headers and all else that is known, as fields: what brokers keep that have nothing but fields.
    pub fn fields(&self) -> impl Iterator<Item = (String, Vec<u8>)> {
        let own = [
            (ID, Some(self.id.clone())),
            (KEY, self.key.clone()),
            (PRIORITY, (self.priority > 0).then(|| self.priority.to_string())),
            (PUBLISHED, Some(millis(self.published).to_string())),
            (EXPIRES, self.expires.map(|at| millis(at).to_string())),
            (DUE, self.due.map(|at| millis(at).to_string())),
        ];
        let own = own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into_bytes())));
        self.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).chain(own)
    }

    /// The message with such fields. What was published by others may lack any of them, and have some that are no headers:
    /// those are left out. `id` is what the broker calls the message.
    pub fn from_fields<'a>(
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        body: Bytes,
        id: impl FnOnce() -> String,
    ) -> Self {
        let (mut given_id, mut published) = (None, None);
        let mut message = Self {
            id: String::new(),
            key: None,
            headers: HeaderMap::new(),
            priority: 0,
            published: SystemTime::UNIX_EPOCH,
            expires: None,
            due: None,
            body,
        };
        for (name, value) in fields {
            let text = || std::str::from_utf8(value).ok();
            let time = || text()?.parse().ok().and_then(at);
            match name {
                ID => given_id = text().map(str::to_owned),
                KEY => message.key = text().map(str::to_owned),
                PRIORITY => message.priority = text().and_then(|text| text.parse().ok()).unwrap_or(0).min(9),
                PUBLISHED => published = time(),
                EXPIRES => message.expires = time(),
                DUE => message.due = time(),
                _ => {
                    let name = HeaderName::from_bytes(name.as_bytes());
                    if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                        // More than 32 768 fields do not fit.
                        let _ = message.headers.try_append(name, value);
                    }
                }
            }
        }
        message.id = given_id.unwrap_or_else(id);
        message.published = published.unwrap_or_else(now);
        message
    }

    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// How long it is not to be delivered yet.
    pub fn delay(&self, now: SystemTime) -> Duration {
        self.due.and_then(|due| due.duration_since(now).ok()).unwrap_or_default()
    }
}

/// Now, in whole milliseconds.
pub fn now() -> SystemTime {
    at(millis(SystemTime::now())).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Milliseconds since 1970.
pub fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time so many milliseconds after 1970.
pub fn at(millis: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_hold_all_of_a_message() {
        let mut message = Message::from_fields([], Bytes::from_static(b"body"), || "7".into());
        assert_eq!((message.id.as_str(), message.priority, message.key.as_deref()), ("7", 0, None));
        message.headers.append("ce-type", HeaderValue::from_static("order.created"));
        message.headers.append("x-two", HeaderValue::from_static("1"));
        message.headers.append("x-two", HeaderValue::from_static("2"));
        message.key = Some("kunde ä".into());
        message.priority = 9;
        message.expires = Some(message.published + Duration::from_secs(60));
        message.due = Some(message.published + Duration::from_secs(30));
        let fields: Vec<_> = message.fields().collect();
        let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        assert_eq!(Message::from_fields(fields, message.body.clone(), || unreachable!()), message);
    }

    #[test]
    fn fields_of_others_may_be_anything() {
        let fields: [(&str, &[u8]); 6] = [
            ("x-weir-priority", b"200"),
            ("x-weir-expires", b"18446744073709551615"),
            ("x-weir-due", b"soon"),
            ("not a name", b"x"),
            ("x-value", b"a\r\nb"),
            ("Mixed-Case", b"kept"),
        ];
        let message = Message::from_fields(fields, Bytes::new(), || "1-0".into());
        assert_eq!((message.priority, message.due), (9, None));
        assert_eq!(message.headers.len(), 1);
        assert_eq!(message.headers.get("mixed-case").unwrap(), "kept");
    }
}
