//! What an answer has to know of the request that it answers.

use super::is_grpc;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer `x-request-id` is replaced, in bytes. UUIDs have 36; some chains of ids have more.
const MAX_ID_BYTES: usize = 128;

/// Who waits for the answer.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The `x-request-id`: the caller's own if it is up to 128 visible ASCII characters, otherwise a new one. So it can
    /// stand in headers, JSON and logs as it is.
    pub id: HeaderValue,
    pub http2: bool,
    pub grpc: bool,
    /// Whether the answer must not have a body (RFC 9110, section 9.3.2).
    pub head: bool,
}

impl Caller {
    /// The same, answered as over HTTP: where the answer is put into gRPC's own words later.
    pub fn over_http(&self) -> Self {
        Self { grpc: false, ..self.clone() }
    }

    pub fn of(parts: &Parts) -> Self {
        Self {
            id: given_id(&parts.headers).cloned().unwrap_or_else(new_id),
            http2: parts.version == Version::HTTP_2,
            grpc: is_grpc(&parts.headers),
            head: parts.method == Method::HEAD,
        }
    }
}

fn given_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut ids = headers.get_all(REQUEST_ID).iter();
    let id = ids
        .next()
        .filter(|id| (1..=MAX_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic))?;
    // Of several, each service would take another one.
    ids.next().is_none().then_some(id)
}

/// A random UUID (RFC 9562, section 5.4), which is what tools that look for request ids expect.
pub fn new_id() -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    HeaderValue::from_str(id.as_hyphenated().encode_lower(&mut text)).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use std::collections::HashSet;

    fn id_for(given: &[&[u8]]) -> HeaderValue {
        let mut parts = Request::new(()).into_parts().0;
        for id in given {
            parts.headers.append(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
        }
        Caller::of(&parts).id
    }

    #[test]
    fn a_good_request_id_is_kept() {
        for id in ["1", "0af7651916cd43dd8448eb211c80319c", "a:b/c;d=\"e\"", &"x".repeat(128)] {
            assert_eq!(id_for(&[id.as_bytes()]), id);
        }
    }

    #[test]
    fn a_bad_request_id_is_replaced() {
        let long = "x".repeat(129);
        let bad: [&[&[u8]]; 7] = [&[], &[b""], &[b"a b"], &[b"a\tb"], &[b"\xff"], &[long.as_bytes()], &[b"a", b"a"]];
        for given in bad {
            let id = id_for(given);
            assert_eq!(id.len(), 36);
            assert!(given.iter().all(|given| id != given));
        }
    }

    #[test]
    fn new_ids_are_random_uuids() {
        let ids: HashSet<_> = (0..1000).map(|_| id_for(&[])).collect();
        assert_eq!(ids.len(), 1000);
        for id in &ids {
            let id = id.to_str().unwrap();
            let groups: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
            assert!(id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-')));
            assert_eq!(id.as_bytes()[14], b'4');
            assert!(b"89ab".contains(&id.as_bytes()[19]));
        }
        let digits: HashSet<_> = ids.iter().map(|id| id.as_bytes()[0]).collect();
        assert_eq!(digits.len(), 16, "every digit comes up");
    }
}
