//! How gRPC says that something failed: an HTTP status of 200, and the error in the trailers.

use super::{ErrorKind, WEIR_ERROR};
use crate::outcome::FailureKind;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Of a `grpc-message`, in bytes before encoding, which can treble them. Clients take no more than 8 KiB of trailers.
const MAX_MESSAGE_BYTES: usize = 1024;

/// What `grpc-message` must not have as it is: all but visible ASCII and space, and the percent sign itself.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Whether it is a gRPC message by its `content-type`: `application/grpc`, with or without `+proto` and the like.
/// gRPC-Web is another protocol, whose errors are plain HTTP.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some((media_type, rest)) =
        headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().split_at_checked(GRPC.len()))
    else {
        return false;
    };
    media_type.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

/// The `grpc-status`, of trailers or of an answer that is all trailers. `None` where it is absent or no number.
pub fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// The trailers, and the status in them, that end an answer whose beginning was passed on before it failed.
pub fn grpc_trailers(failure: FailureKind, message: &str) -> (u32, HeaderMap) {
    let kind = ErrorKind::from(failure);
    let status = status_for(kind.status());
    let mut trailers = HeaderMap::with_capacity(3);
    trailers.insert(WEIR_ERROR, HeaderValue::from_static(kind.as_str()));
    end(&mut trailers, status, message);
    (status, trailers)
}

/// Makes of header fields those of an answer that is all trailers.
///
/// `retry-after` stays `retry-after`. As `grpc-retry-pushback-ms` (gRFC A6) it would make clients that retry wait in
/// silence, often beyond their deadline, where now they fail at once and know why.
pub(super) fn trailers_only(headers: &mut HeaderMap, status: u32, message: &str) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    end(headers, status, message);
}

fn end(headers: &mut HeaderMap, status: u32, message: &str) {
    headers.insert(GRPC_STATUS, status.into());
    let message = message.get(..message.floor_char_boundary(MAX_MESSAGE_BYTES)).unwrap_or_default();
    if !message.is_empty()
        && let Ok(message) = HeaderValue::try_from(utf8_percent_encode(message, ENCODED).to_string())
    {
        headers.insert(GRPC_MESSAGE, message);
    }
}

/// The gRPC status for an HTTP status: the protocol's own mapping where it has one, except that limits are
/// RESOURCE_EXHAUSTED and a deadline is DEADLINE_EXCEEDED, which clients tell from a service that is away.
pub fn status_for(status: StatusCode) -> u32 {
    match status.as_u16() {
        200..300 => 0,
        499 => 1,
        408 | 504 => 4,
        403 => 7,
        413 | 429 | 431 => 8,
        404 | 405 | 501 => 12,
        400 => 13,
        502 | 503 => 14,
        401 => 16,
        _ => 2,
    }
}
