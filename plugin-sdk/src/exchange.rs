use std::cell::Cell;
use std::time::Duration;

/// A service, by a number that stays the same for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceId(pub u32);

/// A route, by a number that stays the same for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RouteId(pub u32);

/// An endpoint of one service: small and dense, so that it can index a `Vec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EndpointId(pub u32);

impl ServiceId {
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// Empty for a service that no longer exists.
    pub fn name(self) -> String {
        crate::host::names::service(self)
    }
}

impl RouteId {
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// Empty for a route that no longer exists. Of a publish "publish " and the channel's name, of a delivery "deliver " and
    /// the subscription's.
    pub fn name(self) -> String {
        crate::host::names::route(self)
    }
}

impl EndpointId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What kind of exchange a hook looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExchangeKind {
    /// A request and its response, or an upgraded stream.
    #[default]
    Call,
    /// A message on its way to a broker.
    Publish,
    /// A message on its way from a broker to a consumer.
    Delivery,
}

/// The values of declared fields, in the order of their declaration.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    pub(crate) names: &'static [String],
    /// As they crossed: for each a length in four bytes, the lowest first, and so many bytes.
    pub(crate) packed: Vec<u8>,
}

/// The length of a field that is absent.
const ABSENT: u32 = u32::MAX;

impl Fields {
    /// Packs values as the host does.
    #[cfg(any(test, not(target_family = "wasm")))]
    pub(crate) fn pack<'a>(names: &'static [String], values: impl Iterator<Item = Option<&'a [u8]>>) -> Self {
        let mut packed = Vec::new();
        for value in values {
            packed.extend_from_slice(&value.map_or(ABSENT, |value| value.len() as u32).to_le_bytes());
            packed.extend_from_slice(value.unwrap_or_default());
        }
        Self { names, packed }
    }

    /// The value of a field. `None` if it is absent, or if the policy did not declare that it reads it.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let at = self.names.iter().position(|declared| same(declared.as_bytes(), name.as_bytes()))?;
        self.at(at)
    }

    /// The value of the field that was declared at this position, from 0.
    pub fn at(&self, position: usize) -> Option<&[u8]> {
        let mut rest = self.packed.as_slice();
        for _ in 0..position {
            rest = split(rest)?.1;
        }
        split(rest)?.0
    }

    /// The value as text. `None` also where it is not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }
}

/// `==` is a call of libc's `memcmp`, which in WebAssembly goes byte by byte.
fn same(a: &[u8], b: &[u8]) -> bool {
    let ((words_of_a, a_rest), (words_of_b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let words = || words_of_a.iter().zip(words_of_b).all(|(a, b)| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b));
    a.len() == b.len() && words() && a_rest.iter().zip(b_rest).all(|(a, b)| a == b)
}

/// The first value, and those after it.
fn split(packed: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = packed.split_first_chunk()?;
    match u32::from_le_bytes(*length) {
        ABSENT => Some((None, rest)),
        length => rest.split_at_checked(length as usize).map(|(value, rest)| (Some(value), rest)),
    }
}

/// The exchange a hook looks at.
#[derive(Debug, Clone, Default)]
pub struct Exchange {
    /// Unique in the process, and the same in every hook of one exchange.
    pub id: u64,
    pub kind: ExchangeKind,
    pub route: RouteId,
    pub service: ServiceId,
    /// The number of the current attempt, from 1; 0 before the first one. Each attempt to deliver a message is an exchange
    /// of its own, in which this counts on: before its attempt it is the number of those that were made.
    pub attempt: u32,
    /// When the exchange ends, in nanoseconds of [`clock::now`](crate::host::clock::now); of a delivery when the message
    /// expires. `u64::MAX`: there is no deadline.
    pub deadline: u64,
    pub(crate) memo: Cell<u64>,
    pub(crate) fields: Fields,
}

impl Exchange {
    /// The value of a request field. `None` if it is absent, or if the policy did not declare that it reads it.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }

    /// The value of a request field as text. `None` also where it is not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.text(name)
    }

    /// All the request fields that were declared.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The token of an `authorization: Bearer …` field (RFC 6750, section 2.1; the scheme in any case, RFC 9110, section
    /// 11.1). The policy must read `authorization`.
    pub fn bearer_token(&self) -> Option<&str> {
        let (scheme, token) = self.text("authorization")?.split_once(' ')?;
        let token = token.trim_matches(' ');
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }

    /// The number that this policy last remembered in this exchange; 0 at first.
    pub fn memo(&self) -> u64 {
        self.memo.get()
    }

    /// Keeps a number for this policy's later hooks of the exchange.
    pub fn remember(&self, memo: u64) {
        self.memo.set(memo);
    }

    /// The time left before the deadline.
    pub fn remaining(&self) -> Duration {
        Duration::from_nanos(self.deadline.saturating_sub(crate::host::clock::now()))
    }
}

/// How an attempt failed without an answer that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failure {
    /// It did not fail: the status holds the answer's.
    #[default]
    None,
    /// No connection came about: the request did not reach the endpoint.
    Connect,
    /// The connection broke, or the endpoint reset the stream.
    Reset,
    /// The attempt's time or the deadline passed.
    Timeout,
    /// The endpoint's answer broke the protocol.
    Protocol,
    /// A policy refused the endpoint. Nothing was sent.
    Rejected,
    /// The caller left first.
    Cancelled,
    /// The host had no room.
    Overload,
}

impl Failure {
    /// Whether it says something about the endpoint: not so where a policy refused it, the caller left, or the host had
    /// no room.
    pub fn is_endpoints(self) -> bool {
        matches!(self, Self::Connect | Self::Reset | Self::Timeout | Self::Protocol)
    }
}

/// How one attempt ended.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub endpoint: EndpointId,
    /// The HTTP status, 0 when there was no answer.
    pub status: u16,
    /// The gRPC status, where the answer carried one.
    pub grpc_status: Option<u32>,
    pub failure: Failure,
    /// From sending to the answer's head, or to the failure.
    pub latency: Duration,
    /// Whether the host could repeat the exchange. Of a message: whether attempts are left.
    pub repeatable: bool,
    pub(crate) fields: Fields,
}

impl Outcome {
    /// The value of a response field. `None` if it is absent, or if the policy did not declare that it reads it.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }

    /// The value of a response field as text. `None` also where it is not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.text(name)
    }
}

/// The head of the answer that the caller will get.
#[derive(Debug, Clone, Default)]
pub struct Response {
    pub(crate) fields: Fields,
}

impl Response {
    /// The value of a response field. `None` if it is absent, or if the policy did not declare that it reads it.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }

    /// The value of a response field as text. `None` also where it is not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.text(name)
    }

    /// The status, where the policy reads `:status`.
    pub fn status(&self) -> Option<u16> {
        self.text(":status")?.parse().ok()
    }
}

/// How the whole exchange ended.
#[derive(Debug, Clone, Default)]
pub struct Completion {
    /// What the caller was given; 0 when it left before.
    pub status: u16,
    pub grpc_status: Option<u32>,
    /// The failure that the caller saw from the proxy.
    pub failure: Failure,
    pub attempts: u32,
    pub duration: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_authorization(value: &str) -> Exchange {
        let names = Box::leak(Box::new(["authorization".to_owned()]));
        Exchange { fields: Fields::pack(names, [Some(value.as_bytes())].into_iter()), ..Exchange::default() }
    }

    #[test]
    fn each_field_is_found_at_its_place() {
        let names = Box::leak(Box::new(["a", "b", "c", "d"].map(str::to_owned)));
        let values = [Some(b"1".as_slice()), None, Some(b""), Some(b"\xff\xff\xff\xff")];
        let fields = Fields::pack(names, values.into_iter());
        assert_eq!([0, 1, 2, 3].map(|at| fields.at(at)), values);
        assert_eq!(["a", "b", "c", "d"].map(|name| fields.get(name)), values);
        assert_eq!((fields.at(4), fields.get("e")), (None, None));
        for shorter in 0..fields.packed.len() {
            let cut = Fields { names: fields.names, packed: fields.packed[..shorter].to_vec() };
            assert!(cut.at(3).is_none_or(|value| value.len() < 4));
        }
    }

    #[test]
    fn bearer_is_accepted_in_any_case_and_nothing_else_is() {
        assert_eq!(with_authorization("Bearer a.b.c").bearer_token(), Some("a.b.c"));
        assert_eq!(with_authorization("bEARER  a.b.c").bearer_token(), Some("a.b.c"));
        for wrong in ["Basic YTpi", "Bearer", "Bearer ", "a.b.c", "Bearera.b.c"] {
            assert_eq!(with_authorization(wrong).bearer_token(), None, "{wrong}");
        }
    }
}
