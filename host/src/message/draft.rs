//! What a publisher gives, and the message that becomes of it.

use super::cloudevents;
use crate::broker::message::{self, Message};
use crate::call::request::duration;
use crate::response::{ErrorKind, ProxyError};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// Names the message, so that a broker that has it already takes no second one. Without it a CloudEvent's source and id
/// do, and without those the node makes one.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Messages of one key keep their order.
pub const KEY: HeaderName = HeaderName::from_static("x-weir-key");
/// 0 to 9.
pub const PRIORITY: HeaderName = HeaderName::from_static("x-weir-priority");
/// How long the message is good for.
pub const TTL: HeaderName = HeaderName::from_static("x-weir-ttl");
/// How long it is not to be delivered.
pub const DELAY: HeaderName = HeaderName::from_static("x-weir-delay");

/// The longest id and the longest key of a message, in bytes. Brokers index by them.
const MAX_NAME: usize = 256;

/// What a publisher gives: fields as over HTTP, and a body.
#[derive(Debug, Clone)]
pub struct Draft {
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What the fields of a draft say about the message.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub id: String,
    pub key: Option<String>,
    pub priority: u8,
    pub ttl: Option<Duration>,
    pub delay: Duration,
}

impl Draft {
    /// # Errors
    /// Bad request: a field is malformed, or what claims to be a CloudEvent is none.
    pub fn asked(&self) -> Result<Asked, ProxyError> {
        let event = cloudevents::event(&self.headers, &self.body)
            .map_err(|why| bad(format!("the message is no valid CloudEvent: {why}")))?;
        let (event_id, event_key) = event.map(|event| (event.id, event.key)).unzip();
        let id = text(&self.headers, &IDEMPOTENCY_KEY)?.map(|id| unquoted(&id).to_owned()).or(event_id);
        let priority = match text(&self.headers, &PRIORITY)? {
            None => 0,
            Some(priority) => priority
                .parse()
                .ok()
                .filter(|priority| *priority <= 9)
                .ok_or_else(|| bad(format!("field {:?} has to be a number from 0 to 9", PRIORITY.as_str())))?,
        };
        Ok(Asked {
            id: named("id", id)?.unwrap_or_else(new_id),
            key: named("key", text(&self.headers, &KEY)?.or(event_key.flatten()))?,
            priority,
            ttl: duration(&self.headers, &TTL)?,
            delay: duration(&self.headers, &DELAY)?.unwrap_or_default(),
        })
    }
}

impl Asked {
    /// The message as it goes to the broker. `ttl` is how long it is good for if it does not say so itself.
    pub fn message(&self, headers: HeaderMap, body: Bytes, ttl: Option<Duration>) -> Message {
        let published = message::now();
        Message {
            id: self.id.clone(),
            key: self.key.clone(),
            headers,
            priority: self.priority,
            published,
            expires: self.ttl.or(ttl).and_then(|ttl| published.checked_add(ttl)),
            due: Some(self.delay).filter(|delay| !delay.is_zero()).and_then(|delay| published.checked_add(delay)),
            body,
        }
    }
}

/// The fields that go with the message: those that say something about it, and not about the request that it came in.
///
/// The publisher's own credentials are not kept where anybody may read them later. What a policy has put in their place is:
/// that is a token for the consumer.
pub fn kept(headers: &HeaderMap, publishers: Option<&HeaderValue>) -> HeaderMap {
    let is_own = |name: &HeaderName, value: &HeaderValue| *name == AUTHORIZATION && Some(value) == publishers;
    let kept = headers.iter().filter(|(name, value)| is_of_message(name.as_str()) && !is_own(name, value));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn is_of_message(name: &str) -> bool {
    const OF_REQUEST: [&str; 22] = [
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "grpc-timeout",
        "host",
        "idempotency-key",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-real-ip",
        "x-request-id",
    ];
    !OF_REQUEST.contains(&name) && !name.starts_with("x-weir-") && !name.starts_with("x-forwarded-")
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, ProxyError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes()).ok().filter(|_| values.next().is_none());
    let text = text.ok_or_else(|| bad(format!("field {:?} has to be one value, in UTF-8", name.as_str())))?;
    Ok(Some(text.to_owned()))
}

fn named(what: &str, name: Option<String>) -> Result<Option<String>, ProxyError> {
    match name {
        Some(name) if name.len() > MAX_NAME => {
            Err(bad(format!("the message's {what} has {} bytes; {MAX_NAME} are the most", name.len())))
        }
        name => Ok(name.filter(|name| !name.is_empty())),
    }
}

/// The field is a string in quotes in its draft standard, and bare with many clients.
fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// A random UUID (RFC 9562, section 5.4).
pub fn new_id() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().as_hyphenated().to_string()
}

fn bad(message: String) -> ProxyError {
    ProxyError::new(ErrorKind::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(fields: &[(&'static str, &str)]) -> Draft {
        let headers = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Draft { headers, body: Bytes::new() }
    }

    #[test]
    fn a_message_is_named_by_its_publisher_its_event_or_the_node() {
        let event = [("ce-specversion", "1.0"), ("ce-id", "7"), ("ce-source", "/o"), ("ce-type", "t")];
        assert_eq!(draft(&event).asked().unwrap().id, "/o#7");
        let named = [&event[..], &[("idempotency-key", "\"order-1\"")]].concat();
        assert_eq!(draft(&named).asked().unwrap().id, "order-1");
        let (one, other) = (draft(&[]).asked().unwrap().id, draft(&[]).asked().unwrap().id);
        assert!(one.len() == 36 && one != other);
    }

    #[test]
    fn what_is_asked_for_is_read() {
        let fields =
            [("x-weir-key", "kunde-ä"), ("x-weir-priority", "9"), ("x-weir-ttl", "1h"), ("x-weir-delay", "1500")];
        let asked = draft(&fields).asked().unwrap();
        assert_eq!((asked.key.as_deref(), asked.priority), (Some("kunde-ä"), 9));
        assert_eq!((asked.ttl, asked.delay), (Some(Duration::from_secs(3600)), Duration::from_millis(1500)));
        let message = asked.message(HeaderMap::new(), Bytes::new(), Some(Duration::from_secs(1)));
        assert_eq!(message.expires, Some(message.published + Duration::from_secs(3600)));
        assert_eq!(message.due, Some(message.published + Duration::from_millis(1500)));
    }

    #[test]
    fn a_field_that_makes_no_sense_is_named() {
        let long = "x".repeat(257);
        for (name, value) in [
            ("x-weir-priority", "10"),
            ("x-weir-priority", "-1"),
            ("x-weir-ttl", "soon"),
            ("x-weir-delay", "-5"),
            ("x-weir-key", long.as_str()),
            ("idempotency-key", long.as_str()),
        ] {
            let refused = draft(&[(name, value)]).asked().unwrap_err();
            assert_eq!(refused.kind, ErrorKind::BadRequest);
            let word = name.rsplit('-').next().unwrap();
            assert!(refused.message.contains(word) || refused.message.contains("id"), "{}", refused.message);
        }
        let twice = draft(&[("x-weir-key", "a"), ("x-weir-key", "b")]);
        assert_eq!(twice.headers.len(), 2);
        assert!(twice.asked().unwrap_err().message.contains("x-weir-key"));
    }

    #[test]
    fn a_message_keeps_its_own_fields_and_nothing_of_the_request() {
        let draft = draft(&[
            ("content-type", "application/json"),
            ("ce-id", "7"),
            ("traceparent", "00-1"),
            ("x-tenant", "a"),
            ("host", "node"),
            ("cookie", "session"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-weir-key", "k"),
            ("authorization", "Bearer publisher"),
        ]);
        let own = HeaderValue::from_static("Bearer publisher");
        let kept = |publishers| super::kept(&draft.headers, publishers);
        let names: Vec<String> = kept(Some(&own)).keys().map(ToString::to_string).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        let minted = HeaderValue::from_static("Bearer other");
        assert_eq!(kept(Some(&minted)).get("authorization"), Some(&own), "a policy's token goes with the message");
    }
}
