//! The record: what the log keeps of an exchange, as one line of JSON.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method};
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

use super::json::Json;

/// Most entries of each list in a record; the rest is left out.
pub const MAX_ENTRIES: usize = 64;

/// Which kind of exchange this was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A request and its response, or an upgraded stream.
    Call,
    /// A message to a broker.
    Publish,
    /// A message from a broker to a consumer.
    Delivery,
}

impl Kind {
    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Publish => "publish",
            Self::Delivery => "delivery",
        }
    }
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

/// How the exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole answer was passed on, whatever its status.
    Ok,
    /// The proxy answered in place of the service, or a message was not accepted.
    Error,
    /// The client went away before the end.
    ClientLeft,
    /// The answer broke off after its beginning had been passed on.
    Truncated,
}

impl End {
    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::ClientLeft => "client-left",
            Self::Truncated => "truncated",
        }
    }
}

/// What is known of one exchange. Fields that stay `None` or empty are not written.
///
/// Names are shared with the configuration, so that filling in a record copies no text.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the exchange began.
    pub time: SystemTime,
    /// Call, publish or delivery.
    pub kind: Kind,
    /// The `x-request-id`: ours, or a client's, in which case it is any bytes.
    pub id: HeaderValue,
    /// How it ended.
    pub end: End,
    /// The listener that it came through.
    pub listener: Option<Arc<str>>,
    /// The client's address, formatted once for its connection.
    pub client: Option<Arc<str>>,
    /// The route that matched, or the channel.
    pub route: Option<Arc<str>>,
    /// The service that the route names, or that a policy chose.
    pub service: Option<Arc<str>>,
    /// The request method.
    pub method: Option<Method>,
    /// The target. Only its path is written, since people put tokens into queries.
    pub path: Option<PathAndQuery>,
    /// "http/1.1" or "h2".
    pub protocol: Option<&'static str>,
    /// The status sent to the client; none when the exchange ended before that.
    pub status: Option<u16>,
    /// The `grpc-status` sent to the client.
    pub grpc_status: Option<u32>,
    /// The `x-weir-error` kind of an answer that the proxy made.
    pub error: Option<&'static str>,
    /// The explanation that goes with `error`.
    pub message: Option<String>,
    /// From the first byte to the last.
    pub duration: Duration,
    /// From the beginning to the first byte of the response.
    pub first_byte: Option<Duration>,
    /// Body bytes received from the client.
    pub request_bytes: u64,
    /// Body bytes sent to the client.
    pub response_bytes: u64,
    /// The tries, in order.
    pub attempts: Vec<AttemptRecord>,
    /// What policies did.
    pub acted: Vec<Acted>,
    /// What policies noted about the exchange.
    pub attributes: Vec<(String, String)>,
}

/// One attempt at one endpoint.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    /// The endpoint's address.
    pub endpoint: Arc<str>,
    /// The status that it answered.
    pub status: Option<u16>,
    /// The failure kind, when it did not answer.
    pub failure: Option<&'static str>,
    /// From its start to its outcome.
    pub duration: Duration,
    /// The wait before it.
    pub backoff: Duration,
}

/// One thing that a policy did to the exchange.
#[derive(Clone, Debug)]
pub struct Acted {
    /// The policy's name.
    pub policy: Arc<str>,
    /// The hook in which it did so.
    pub hook: &'static str,
    /// What it did: "replied 401", "retry", "refused".
    pub did: Cow<'static, str>,
    /// The reason that it gave.
    pub why: Option<String>,
}

impl Record {
    /// A record of which nothing is known but its kind, id and beginning. Until someone says
    /// otherwise, the client left.
    pub fn new(kind: Kind, id: HeaderValue, time: SystemTime) -> Self {
        Self {
            time,
            kind,
            id,
            end: End::ClientLeft,
            listener: None,
            client: None,
            route: None,
            service: None,
            method: None,
            path: None,
            protocol: None,
            status: None,
            grpc_status: None,
            error: None,
            message: None,
            duration: Duration::ZERO,
            first_byte: None,
            request_bytes: 0,
            response_bytes: 0,
            attempts: Vec::new(),
            acted: Vec::new(),
            attributes: Vec::new(),
        }
    }

    /// Did the exchange fail, as someone who watches only failures means it? A 4xx of the service
    /// is the client's business and no failure here.
    pub fn failed(&self) -> bool {
        self.end != End::Ok
            || self.error.is_some()
            || self.status.is_some_and(|status| status >= 500)
            || self.grpc_status.is_some_and(|code| code != 0)
    }

    /// Appends the record to `line` as one JSON object and a line feed.
    ///
    /// Whatever the texts contain, it is one line of valid JSON. Every text and list is bounded, by
    /// [`MAX_TEXT`](super::json::MAX_TEXT) and [`MAX_ENTRIES`].
    pub fn write_json(&self, line: &mut Vec<u8>) {
        Json::object(line, |json| {
            json.time("time", self.time);
            json.text("kind", self.kind.as_str());
            json.text("id", &String::from_utf8_lossy(self.id.as_bytes()));
            json.text("outcome", self.end.as_str());
            json.some_text("listener", self.listener.as_deref());
            json.some_text("client", self.client.as_deref());
            json.some_text("route", self.route.as_deref());
            json.some_text("service", self.service.as_deref());
            json.some_text("method", self.method.as_ref().map(Method::as_str));
            json.some_text("path", self.path.as_ref().map(PathAndQuery::path));
            json.some_text("protocol", self.protocol);
            if let Some(status) = self.status {
                json.number("status", status.into());
            }
            if let Some(code) = self.grpc_status {
                json.number("grpc_status", code.into());
            }
            json.some_text("error", self.error);
            json.some_text("message", self.message.as_deref());
            json.millis("duration_ms", self.duration);
            if let Some(first_byte) = self.first_byte {
                json.millis("first_byte_ms", first_byte);
            }
            json.number("request_bytes", self.request_bytes);
            json.number("response_bytes", self.response_bytes);
            self.write_lists(json);
        });
        line.push(b'\n');
    }

    fn write_lists(&self, json: &mut Json) {
        if !self.attempts.is_empty() {
            let attempts = self.attempts.iter().take(MAX_ENTRIES);
            json.list("attempts", attempts, AttemptRecord::write_json);
        }
        if !self.acted.is_empty() {
            json.list("acted", self.acted.iter().take(MAX_ENTRIES), Acted::write_json);
        }
        if !self.attributes.is_empty() {
            json.member("attributes", |json| {
                // Of a name that comes twice the last value holds: readers differ about duplicates.
                let mut rest = self.attributes.get(..MAX_ENTRIES).unwrap_or(&self.attributes);
                while let Some(((name, value), later)) = rest.split_first() {
                    if later.iter().all(|(other, _)| other != name) {
                        json.pair(name, value);
                    }
                    rest = later;
                }
            });
        }
    }
}

impl AttemptRecord {
    fn write_json(&self, json: &mut Json) {
        json.text("endpoint", &self.endpoint);
        if let Some(status) = self.status {
            json.number("status", status.into());
        }
        json.some_text("failure", self.failure);
        if !self.backoff.is_zero() {
            json.millis("backoff_ms", self.backoff);
        }
        json.millis("duration_ms", self.duration);
    }
}

impl Acted {
    fn write_json(&self, json: &mut Json) {
        json.text("policy", &self.policy);
        json.text("hook", self.hook);
        json.text("did", &self.did);
        json.some_text("why", self.why.as_deref());
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use serde_json::{Value, json};

    fn record() -> Record {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_162_530_123);
        Record::new(Kind::Call, HeaderValue::from_static("a-1"), time)
    }

    fn parsed(record: &Record) -> Value {
        let mut line = Vec::new();
        record.write_json(&mut line);
        let (last, before) = line.split_last().unwrap();
        assert_eq!(*last, b'\n');
        assert!(!before.contains(&b'\n'), "one record is one line");
        serde_json::from_slice(before).unwrap()
    }

    fn attempt() -> AttemptRecord {
        AttemptRecord {
            endpoint: "127.0.0.1:3201".into(),
            status: Some(503),
            failure: None,
            duration: Duration::from_micros(1_500),
            backoff: Duration::ZERO,
        }
    }

    #[test]
    fn unknown_fields_are_left_out() {
        let expected = json!({
            "time": "2026-11-20T08:15:30.123Z", "kind": "call", "id": "a-1",
            "outcome": "client-left", "duration_ms": 0.0, "request_bytes": 0, "response_bytes": 0,
        });
        assert_eq!(parsed(&record()), expected);
    }

    #[test]
    fn known_fields_are_written() {
        let mut record = record();
        record.end = End::Error;
        record.listener = Some("outbound".into());
        record.client = Some("10.0.0.7:4411".into());
        record.route = Some("users".into());
        record.service = Some("user-service".into());
        record.method = Some(Method::GET);
        record.path = Some(PathAndQuery::from_static("/users/1"));
        record.protocol = Some("h2");
        record.status = Some(504);
        record.grpc_status = Some(4);
        record.error = Some("timeout");
        record.message = Some("no answer".to_owned());
        record.duration = Duration::from_micros(5_000_125);
        record.first_byte = Some(Duration::from_micros(4_999_000));
        record.request_bytes = 1;
        record.response_bytes = u64::MAX;
        let retry =
            AttemptRecord { status: None, failure: Some("timeout"), backoff: Duration::from_millis(20), ..attempt() };
        record.attempts = vec![attempt(), retry];
        record.acted = vec![Acted {
            policy: "retry".into(),
            hook: "on-outcome",
            did: "retry".into(),
            why: Some("503".to_owned()),
        }];
        record.attributes = vec![("tenant".to_owned(), "a".to_owned())];
        let expected = json!({
            "time": "2026-11-20T08:15:30.123Z", "kind": "call", "id": "a-1", "outcome": "error",
            "listener": "outbound", "client": "10.0.0.7:4411", "route": "users",
            "service": "user-service", "method": "GET", "path": "/users/1", "protocol": "h2",
            "status": 504, "grpc_status": 4, "error": "timeout", "message": "no answer",
            "duration_ms": 5000.125, "first_byte_ms": 4999.0,
            "request_bytes": 1, "response_bytes": u64::MAX,
            "attempts": [
                { "endpoint": "127.0.0.1:3201", "status": 503, "duration_ms": 1.5 },
                { "endpoint": "127.0.0.1:3201", "failure": "timeout",
                  "backoff_ms": 20.0, "duration_ms": 1.5 },
            ],
            "acted": [{ "policy": "retry", "hook": "on-outcome", "did": "retry", "why": "503" }],
            "attributes": { "tenant": "a" },
        });
        assert_eq!(parsed(&record), expected);
    }

    #[test]
    fn a_query_is_never_logged() {
        let mut record = record();
        record.path = Some(PathAndQuery::from_static("/users?access_token=secret"));
        let mut line = Vec::new();
        record.write_json(&mut line);
        assert!(!String::from_utf8(line).unwrap().contains("secret"));
        assert_eq!(parsed(&record)["path"], "/users");
    }

    #[test]
    fn hostile_bytes_stay_inside_their_string() {
        for byte in 0..=255_u8 {
            let mut record = record();
            if let Ok(id) = HeaderValue::from_bytes(&[b'a', byte, b'"', b'}']) {
                record.id = id;
                let id = parsed(&record)["id"].as_str().unwrap().to_owned();
                assert!(id.starts_with('a') && id.ends_with("\"}"), "{id}");
            }
            let hostile = format!("\",\"status\":200,{}\n", char::from(byte));
            record.message = Some(hostile.clone());
            record.attributes = vec![(hostile.clone(), hostile.clone())];
            let json = parsed(&record);
            assert_eq!(json["message"], hostile);
            assert_eq!(json["attributes"][&hostile], hostile);
            assert_eq!(json.get("status"), None);
            if let Ok(path) = PathAndQuery::try_from(format!("/a{}\"b", char::from(byte))) {
                record.path = Some(path.clone());
                assert_eq!(parsed(&record)["path"], path.path());
            }
        }
    }

    #[test]
    fn the_last_value_of_an_attribute_holds() {
        let mut record = record();
        record.attributes =
            [("a", "1"), ("b", "2"), ("a", "3")].map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let mut line = Vec::new();
        record.write_json(&mut line);
        assert_eq!(String::from_utf8(line).unwrap().matches("\"a\":").count(), 1);
        assert_eq!(parsed(&record)["attributes"], json!({ "a": "3", "b": "2" }));
    }

    #[test]
    fn a_line_has_a_bound_whatever_comes() {
        let mut record = record();
        let long = "\u{1}".repeat(10_000);
        record.message = Some(long.clone());
        record.attempts = vec![attempt(); 1_000];
        record.attributes = (0..100).map(|n| (format!("{n}{long}"), String::new())).collect();
        let json = parsed(&record);
        assert_eq!(json["attempts"].as_array().unwrap().len(), MAX_ENTRIES);
        assert_eq!(json["attributes"].as_object().unwrap().len(), MAX_ENTRIES);
        assert!(json.to_string().len() < 1024 * 1024);
    }

    #[test]
    fn only_the_service_s_5xx_and_our_own_troubles_are_failures() {
        let ended = |change: fn(&mut Record)| {
            let mut record = record();
            record.end = End::Ok;
            record.status = Some(200);
            change(&mut record);
            record.failed()
        };
        assert!(!ended(|_| {}));
        assert!(!ended(|record| record.status = Some(404)));
        assert!(!ended(|record| record.grpc_status = Some(0)));
        assert!(ended(|record| record.status = Some(500)));
        assert!(ended(|record| record.grpc_status = Some(14)));
        assert!(ended(|record| record.error = Some("no-route")));
        assert!(ended(|record| record.end = End::ClientLeft));
        assert!(ended(|record| record.end = End::Truncated));
    }
}
