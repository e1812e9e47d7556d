//! Answers that are not the service's: the only place where a failure becomes a status.
//!
//! HTTP callers get JSON, gRPC callers the trailers of an answer that has nothing else. Both get `x-weir-error` with the
//! kind of error, so that an answer of the proxy can always be told from one of the service, and `x-request-id`.

mod caller;
mod grpc;
#[cfg(test)]
mod tests;

use crate::call::request::{editable_name, editable_value};
use crate::outcome::FailureKind;
use bytes::Bytes;
pub use caller::{Caller, REQUEST_ID, new_id};
pub use grpc::{grpc_status, grpc_trailers, is_grpc, status_for as grpc_status_for};
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use std::time::Duration;
use thiserror::Error;

const WEIR_ERROR: HeaderName = HeaderName::from_static("x-weir-error");

/// The longest kind of error that a policy may give, in bytes. It goes into a header, the log and metrics.
const MAX_KIND_BYTES: usize = 64;

/// What went wrong, as `x-weir-error` and the metrics say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request makes no sense, or has two readings.
    BadRequest,
    /// CONNECT where the listener does not allow it.
    ConnectRefused,
    /// What the node itself is asked for is asked for with another method.
    MethodNotAllowed,
    /// No token, or not a good one.
    Token,
    /// A good token, but not for this.
    Forbidden,
    /// No route takes the request.
    NoRoute,
    /// A body, or what was made of it, is over its limit.
    TooLarge,
    /// More header fields than the node takes.
    HeadersTooLarge,
    /// The caller does not send the rest of its request.
    RequestTimeout,
    /// The caller has used up what it may.
    Limited,
    /// No connection to the endpoint came about.
    Connect,
    /// The endpoint broke off before it had answered.
    Reset,
    /// What the endpoint answered is not the protocol.
    Protocol,
    /// No endpoint can be picked.
    NoEndpoint,
    /// A circuit breaker is open.
    BreakerOpen,
    /// The node is out of room.
    Overload,
    /// A policy that must not be skipped has failed.
    Policy,
    /// The node is shutting down.
    Draining,
    /// The deadline passed.
    Timeout,
    /// There is no channel of that name.
    NoChannel,
    /// There is no subscription of that name from which messages can be had.
    NoSubscription,
    /// Nobody waits for this acknowledgement any more.
    NoDelivery,
    /// There is no connection to the broker, or it broke before the message was confirmed.
    BrokerDown,
    /// The broker has no room for the message.
    BrokerFull,
    /// The broker does not want the message.
    BrokerRefused,
}

impl ErrorKind {
    const ALL: [Self; 25] = [
        Self::BadRequest,
        Self::ConnectRefused,
        Self::MethodNotAllowed,
        Self::Token,
        Self::Forbidden,
        Self::NoRoute,
        Self::TooLarge,
        Self::HeadersTooLarge,
        Self::RequestTimeout,
        Self::Limited,
        Self::Connect,
        Self::Reset,
        Self::Protocol,
        Self::NoEndpoint,
        Self::BreakerOpen,
        Self::Overload,
        Self::Policy,
        Self::Draining,
        Self::Timeout,
        Self::NoChannel,
        Self::NoSubscription,
        Self::NoDelivery,
        Self::BrokerDown,
        Self::BrokerFull,
        Self::BrokerRefused,
    ];

    /// The table. A gRPC caller's status follows from the HTTP status.
    fn row(self) -> (&'static str, StatusCode) {
        match self {
            Self::BadRequest => ("bad-request", StatusCode::BAD_REQUEST),
            Self::ConnectRefused => ("connect-refused", StatusCode::METHOD_NOT_ALLOWED),
            Self::MethodNotAllowed => ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED),
            Self::Token => ("token", StatusCode::UNAUTHORIZED),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN),
            Self::NoRoute => ("no-route", StatusCode::NOT_FOUND),
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::HeadersTooLarge => ("headers-too-large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Self::RequestTimeout => ("request-timeout", StatusCode::REQUEST_TIMEOUT),
            Self::Limited => ("limited", StatusCode::TOO_MANY_REQUESTS),
            Self::Connect => ("connect", StatusCode::BAD_GATEWAY),
            Self::Reset => ("reset", StatusCode::BAD_GATEWAY),
            Self::Protocol => ("protocol", StatusCode::BAD_GATEWAY),
            Self::NoEndpoint => ("no-endpoint", StatusCode::SERVICE_UNAVAILABLE),
            Self::BreakerOpen => ("breaker-open", StatusCode::SERVICE_UNAVAILABLE),
            Self::Overload => ("overload", StatusCode::SERVICE_UNAVAILABLE),
            Self::Policy => ("policy", StatusCode::SERVICE_UNAVAILABLE),
            Self::Draining => ("draining", StatusCode::SERVICE_UNAVAILABLE),
            Self::Timeout => ("timeout", StatusCode::GATEWAY_TIMEOUT),
            Self::NoChannel => ("no-channel", StatusCode::NOT_FOUND),
            Self::NoSubscription => ("no-subscription", StatusCode::NOT_FOUND),
            Self::NoDelivery => ("no-delivery", StatusCode::NOT_FOUND),
            Self::BrokerDown => ("broker-down", StatusCode::SERVICE_UNAVAILABLE),
            Self::BrokerFull => ("broker-full", StatusCode::SERVICE_UNAVAILABLE),
            Self::BrokerRefused => ("broker-refused", StatusCode::BAD_GATEWAY),
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    pub fn status(self) -> StatusCode {
        self.row().1
    }

    /// Whether an HTTP/1 connection ends with the answer: what follows on it may not be what the caller thinks it is.
    fn closes(self) -> bool {
        matches!(self, Self::BadRequest | Self::ConnectRefused | Self::TooLarge | Self::RequestTimeout)
    }
}

impl From<FailureKind> for ErrorKind {
    fn from(failure: FailureKind) -> Self {
        match failure {
            FailureKind::Connect => Self::Connect,
            FailureKind::Reset => Self::Reset,
            // The body was malformed, or its caller has left and nobody reads the answer.
            FailureKind::Cancelled => Self::BadRequest,
            FailureKind::Timeout => Self::Timeout,
            FailureKind::Protocol => Self::Protocol,
            FailureKind::Rejected => Self::NoEndpoint,
            FailureKind::Overload => Self::Overload,
        }
    }
}

/// The kind by its name, for the record and the metrics. Policies may give others, which count as `policy`: nothing bounds
/// their number. `None`: it is no error.
pub fn known_kind(name: &str) -> Option<&'static str> {
    (!name.is_empty()).then(|| ErrorKind::named(name).unwrap_or(ErrorKind::Policy).as_str())
}

/// Why there is no answer of the service.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ProxyError {
    pub kind: ErrorKind,
    /// For the caller and the record: names the thing, and says what to do.
    pub message: String,
    /// When trying again may make sense.
    pub retry_after: Option<Duration>,
}

impl ProxyError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }
}

/// A policy's own answer, as the policy gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// The kind of error; empty where it is none.
    pub error: String,
    /// For the reader, unless there is a body.
    pub message: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Option<Bytes>,
    /// For gRPC callers. Absent: derived from `status`.
    pub grpc_status: Option<u32>,
}

impl Reply {
    /// Whether it can be sent as it is.
    ///
    /// # Errors
    /// What about it cannot. [`reply`] would leave that out.
    pub fn check(&self) -> Result<(), String> {
        if status_of(self.status).is_none() {
            return Err(format!("it replied with status {}, which is not one of 200 to 599", self.status));
        }
        if !self.error.is_empty() && kind_value(&self.error).is_none() {
            let shown = self.error.escape_debug().take(MAX_KIND_BYTES).collect::<String>();
            return Err(format!(
                "it replied with error \"{shown}\", which is not 1 to {MAX_KIND_BYTES} visible ASCII characters"
            ));
        }
        self.headers.iter().try_for_each(|(name, value)| field(name, value).map(drop))
    }
}

/// The answer to a caller whose exchange failed.
pub fn respond(error: &ProxyError, caller: &Caller) -> Response<Bytes> {
    let status = error.kind.status();
    let mut headers = HeaderMap::new();
    headers.insert(WEIR_ERROR, HeaderValue::from_static(error.kind.as_str()));
    if let Some(after) = error.retry_after {
        headers.insert(RETRY_AFTER, whole_seconds(after).into());
    }
    if error.kind.closes() && !caller.http2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let explanation = Explanation {
        error: error.kind.as_str(),
        message: &error.message,
        exchange: caller.id.to_str().unwrap_or_default(),
    };
    answer(caller, status, headers, Content::Explanation(explanation), None)
}

/// The answer that a policy gives. What of it cannot be sent is left out: see [`Reply::check`].
pub fn reply(reply: &Reply, caller: &Caller) -> Response<Bytes> {
    let status = status_of(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut headers = HeaderMap::new();
    for (name, value) in reply.headers.iter().filter_map(|(name, value)| field(name, value).ok()) {
        // More than 32 768 fields do not fit.
        let _ = headers.try_append(name, value);
    }
    if let Some(kind) = kind_value(&reply.error) {
        headers.insert(WEIR_ERROR, kind);
    }
    let content = match &reply.body {
        Some(body) => Content::Body(body.clone()),
        None if reply.error.is_empty() && reply.message.is_empty() => Content::Body(Bytes::new()),
        None => {
            let exchange = caller.id.to_str().unwrap_or_default();
            Content::Explanation(Explanation { error: &reply.error, message: &reply.message, exchange })
        }
    };
    let grpc_status = reply.grpc_status.map(|status| (status, reply.message.as_str()));
    answer(caller, status, headers, content, grpc_status)
}

enum Content<'a> {
    Body(Bytes),
    Explanation(Explanation<'a>),
}

/// The body of an answer that comes without one.
#[derive(Serialize)]
struct Explanation<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    message: &'a str,
    exchange: &'a str,
}

fn answer(
    caller: &Caller,
    status: StatusCode,
    mut headers: HeaderMap,
    content: Content<'_>,
    grpc_status: Option<(u32, &str)>,
) -> Response<Bytes> {
    headers.insert(REQUEST_ID, caller.id.clone());
    // RFC 9110, sections 15.5.2 and 15.5.6: these statuses have to come with these fields.
    if status == StatusCode::UNAUTHORIZED && !headers.contains_key(WWW_AUTHENTICATE) {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED && !headers.contains_key(ALLOW) {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    let mut response = Response::new(Bytes::new());
    if caller.grpc {
        let message = if let Content::Explanation(explanation) = &content { explanation.message } else { "" };
        let (code, message) = grpc_status.unwrap_or((grpc::status_for(status), message));
        grpc::trailers_only(&mut headers, code, message);
    } else {
        *response.status_mut() = status;
        let has_content =
            !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
        match content {
            Content::Body(body) if has_content => *response.body_mut() = body,
            Content::Explanation(explanation) if has_content => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                // Strings always make JSON.
                *response.body_mut() = serde_json::to_vec(&explanation).unwrap_or_default().into();
            }
            _ => {}
        }
    }
    // On HTTP/1 hyper does this; on HTTP/2 it would send the body.
    if caller.head && caller.http2 && !response.body().is_empty() {
        headers.insert(CONTENT_LENGTH, response.body().len().into());
        *response.body_mut() = Bytes::new();
    }
    *response.headers_mut() = headers;
    response
}

fn field(name: &str, value: &[u8]) -> Result<(HeaderName, HeaderValue), String> {
    let name = editable_name(name)?;
    let value = editable_value(&name, value)?;
    Ok((name, value))
}

fn status_of(status: u16) -> Option<StatusCode> {
    StatusCode::from_u16(status).ok().filter(|status| (200..600).contains(&status.as_u16()))
}

fn kind_value(kind: &str) -> Option<HeaderValue> {
    let valid = (1..=MAX_KIND_BYTES).contains(&kind.len()) && kind.bytes().all(|byte| byte.is_ascii_graphic());
    HeaderValue::from_str(kind).ok().filter(|_| valid)
}

/// Rounded up, so that nobody comes back too early, and at least one, for zero says "at once".
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0)).max(1)
}
