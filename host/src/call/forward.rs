//! What of a message's head is passed on, and what the proxy adds to it.
//!
//! [`prepare`] runs once for a request and leaves what policies see; [`to_upstream`] runs for each attempt and puts that
//! into the protocol of the service; [`strip_response`] does the same for an answer.
//!
//! **Not added: `via`.** RFC 9110 (section 7.6.3) wants it of every proxy. nginx and Envoy leave it out by default, and
//! so do we: servers turn compression off where they see it, which is not what people expect of a sidecar.
//!
//! **Not forwarded: `expect`.** The caller is told `100 Continue` when its body is first read, that is when an endpoint
//! takes it. An endpoint that was asked could not be waited for: the client side of HTTP/1 here sends a body at once.

mod hop;
#[cfg(test)]
mod tests;

use super::request::{GRPC_TIMEOUT, Target, WEIR_TIMEOUT, encode_grpc_timeout, encode_weir_timeout};
use crate::config::Protocol;
use crate::response::{Caller, REQUEST_ID, is_grpc};
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, Version, uri};
use std::net::IpAddr;
use std::time::Duration;

const SERVICE_NAME: HeaderName = HeaderName::from_static("x-service-name");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What services are told of the peer of a connection. Made once for all its requests.
#[derive(Clone, Debug)]
pub struct Origin {
    address: HeaderValue,
    /// The listener's; callers cannot choose it.
    identity: Option<HeaderValue>,
    /// Whether to believe what callers say of where a request came from.
    trusted: bool,
}

impl Origin {
    pub fn new(peer: IpAddr, identity: Option<&str>, trust_forwarded: bool) -> Self {
        // Empty where it cannot be sent, which never lets a caller's own through in its place.
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        Self {
            address: value(&peer.to_canonical().to_string()),
            identity: identity.map(value),
            trusted: trust_forwarded,
        }
    }
}

/// Where an attempt goes, and what is left of the way.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    pub protocol: Protocol,
    /// `host:port` of the endpoint: the authority of requests that name none, as HTTP/1.0 allows.
    pub address: &'a str,
    pub target: &'a Target,
    /// Taken off the path.
    pub strip_prefix: Option<&'a str>,
    /// What is left until the deadline; the service is told.
    pub left: Option<Duration>,
}

/// Makes of a received head what policies see and each attempt begins with.
///
/// Whatever form the request came in, `host` is there, `cookie` at most once, and of the hop-by-hop fields only those
/// that mean something to the next hop too (see `forward/hop.rs`). What the proxy says of the caller is set last, so that
/// nothing in the request can take it away.
pub fn prepare(parts: &mut Parts, origin: &Origin, target: &Target, caller: &Caller) {
    hop::strip_request(parts);
    let headers = &mut parts.headers;
    // For the fields below and those of the attempt, so that the map grows once.
    headers.reserve(8);
    headers.remove(EXPECT);
    headers.insert(HOST, target.host_field().clone());
    join_cookies(headers);
    headers.insert(REQUEST_ID, caller.id.clone());
    match &origin.identity {
        Some(identity) => drop(headers.insert(SERVICE_NAME, identity.clone())),
        // Services take it for who calls, so it is believed no sooner than `x-forwarded-for` is.
        None if !origin.trusted => drop(headers.remove(SERVICE_NAME)),
        None => {}
    }
    set_forwarded(headers, origin, target);
}

/// HTTP/2 may send cookies one by one, and nothing else may (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some()
        && let Some(cookies) = joined(headers.get_all(COOKIE).iter(), b"; ")
    {
        headers.insert(COOKIE, cookies);
    }
}

/// Says who the caller is and what it asked for. What it says itself counts only where it is trusted.
fn set_forwarded(headers: &mut HeaderMap, origin: &Origin, target: &Target) {
    let address = &origin.address;
    if origin.trusted {
        let hops = joined(headers.get_all(FORWARDED_FOR).iter().chain([address]), b", ");
        headers.insert(FORWARDED_FOR, hops.unwrap_or_else(|| address.clone()));
        headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
        headers.entry(FORWARDED_HOST).or_insert_with(|| target.host_field().clone());
        return;
    }
    let claims: Vec<_> = headers.keys().filter(|name| is_claim(name)).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
    headers.insert(FORWARDED_FOR, address.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.insert(FORWARDED_HOST, target.host_field().clone());
}

/// What callers say about where a request came from: the de facto fields, the standard one (RFC 7239) and nginx's.
fn is_claim(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip")
}

/// Several values as one, without those that are empty.
fn joined<'a>(values: impl Iterator<Item = &'a HeaderValue>, separator: &[u8]) -> Option<HeaderValue> {
    let values: Vec<_> = values.map(HeaderValue::as_bytes).filter(|value| !value.is_empty()).collect();
    HeaderValue::from_bytes(&values.join(separator)).ok()
}

/// The head of an attempt, from a prepared one.
pub fn to_upstream(mut parts: Parts, hop: &Hop<'_>) -> Parts {
    let path = hop.target.without_prefix(hop.strip_prefix.unwrap_or_default());
    // They belong to the caller's connection.
    parts.extensions.clear();
    if let Some(left) = hop.left {
        parts.headers.insert(WEIR_TIMEOUT, encode_weir_timeout(left));
        if is_grpc(&parts.headers) {
            parts.headers.insert(GRPC_TIMEOUT, encode_grpc_timeout(left));
        }
    }
    match hop.protocol {
        Protocol::Http1 => to_http1(parts, hop, path),
        Protocol::Http2 => to_http2(parts, hop, path),
    }
}

fn to_http1(mut parts: Parts, hop: &Hop<'_>, path: PathAndQuery) -> Parts {
    let headers = &mut parts.headers;
    if hop.target.authority().is_empty()
        && let Ok(address) = HeaderValue::from_str(hop.address)
    {
        headers.insert(HOST, address);
    }
    // HTTP/2 needs no length, and hyper takes a GET without one for a GET without a body. It removes the field again
    // where there is no body.
    if parts.version == Version::HTTP_2 && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let options = match (headers.contains_key(TE), headers.contains_key(UPGRADE)) {
        (false, false) => None,
        (true, false) => Some("te"),
        (false, true) => Some("upgrade"),
        (true, true) => Some("te, upgrade"),
    };
    if let Some(options) = options {
        headers.insert(CONNECTION, HeaderValue::from_static(options));
    }
    parts.uri = path.into();
    parts.version = Version::HTTP_11;
    parts
}

fn to_http2(mut parts: Parts, hop: &Hop<'_>, path: PathAndQuery) -> Parts {
    for name in [HOST, TRANSFER_ENCODING, UPGRADE] {
        parts.headers.remove(name);
    }
    let authority = match hop.target.authority() {
        "" => hop.address,
        authority => authority,
    };
    let mut whole = uri::Parts::default();
    whole.scheme = Some(Scheme::HTTP);
    whole.authority = Authority::try_from(authority).ok();
    whole.path_and_query = Some(path);
    // A target and an address are checked long before. Without an authority hyper refuses to send.
    parts.uri = Uri::from_parts(whole).unwrap_or_default();
    parts.version = Version::HTTP_2;
    parts
}

/// Makes of an endpoint's answer what policies see and the caller gets.
///
/// `x-request-id` is added: it is what a caller has to name when it asks what became of its request.
pub fn strip_response<B>(response: &mut Response<B>, caller: &Caller) {
    // hyper puts it into the version of the caller's connection. Of an endpoint's HTTP/1.0 it would keep the limits.
    *response.version_mut() = Version::HTTP_11;
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    hop::strip_response(headers, upgraded);
    headers.insert(REQUEST_ID, caller.id.clone());
}
