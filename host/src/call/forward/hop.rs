//! Fields that are for one connection only (RFC 9110, section 7.6.1).
//!
//! Most messages have none of them, and then this is one look at their names and no more.

use crate::call::request::{elements, upgrade_of};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields that no `connection` can have removed: they say where a message goes and where it ends.
const ESSENTIAL: [HeaderName; 3] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING];

/// Leaves `te: trailers` for services that send trailers only then, as gRPC's do; `upgrade` where the caller really asks
/// for another protocol; `transfer-encoding`, by then just `chunked`, for a GET with a body; and `trailer`.
///
/// `proxy-authorization` goes: it is for the proxy, which has no use for it, and services should not learn it.
pub fn strip_request(parts: &mut Parts) {
    if !parts.headers.keys().any(is_hop_by_hop) {
        return;
    }
    let upgrade = upgrade_of(parts).cloned();
    let headers = &mut parts.headers;
    let trailers = takes_trailers(headers);
    strip(headers, PROXY_AUTHORIZATION);
    headers.remove(TE);
    headers.remove(UPGRADE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
    }
}

/// Leaves `upgrade` and `connection` where the answer is the one that switches protocols.
pub fn strip_response(headers: &mut HeaderMap, upgraded: bool) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let upgrade = headers.remove(UPGRADE).filter(|_| upgraded);
    strip(headers, PROXY_AUTHENTICATE);
    headers.remove(TRANSFER_ENCODING);
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn strip(headers: &mut HeaderMap, proxy: HeaderName) {
    if headers.contains_key(CONNECTION) {
        // Names that are none are no fields either.
        let listed: Vec<_> =
            elements(headers, &CONNECTION).filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
        for name in listed.iter().filter(|name| !ESSENTIAL.contains(name)) {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(proxy);
}

/// Whether the caller wants trailers (RFC 9110, section 10.1.4).
fn takes_trailers(headers: &HeaderMap) -> bool {
    elements(headers, &TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}
