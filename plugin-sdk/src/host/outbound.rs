//! Calls of the policy's own to services of the node. Only `tick` can make them: a policy that uses this module ticks on
//! a thread of its own, in one instance for the node. What it learns there reaches the instances that serve exchanges
//! through [`cells`](crate::host::cells). Each service has to be granted: `allow = ["outbound:flags"]`.
//!
//! ```
//! use weir_sdk::prelude::*;
//!
//! /// Fetches a flag every ten seconds, and tells it to the service with each call.
//! #[derive(Deserialize, JsonSchema)]
//! struct Flag {
//!     /// The service that knows the flag.
//!     service: String,
//! }
//!
//! impl Flag {
//!     fn fetch(&self) -> Result<()> {
//!         let answer = outbound::Request::get("/flag").send(&self.service, Duration::from_secs(2))?;
//!         if answer.status != 200 {
//!             return Err(format!("{} answers {}", self.service, answer.status).into());
//!         }
//!         cells::put("flag", &answer.body, Duration::from_secs(60))
//!     }
//! }
//!
//! #[policy(tick = 10_000)]
//! impl Policy for Flag {
//!     fn tick(&self) {
//!         if let Err(error) = self.fetch() {
//!             log::warn(error.to_string());
//!         }
//!     }
//!
//!     fn on_request(&self, _: &Exchange) -> Result<Verdict> {
//!         Ok(match cells::get("flag") {
//!             Some(flag) => Amendment::new().set("x-flag", flag).into(),
//!             None => Verdict::Proceed,
//!         })
//!     }
//! }
//! # fn main() {}
//! ```

use super::sys::outbound as sys;
use std::fmt;
use std::time::Duration;

/// A request, sent as it is: no retries, no redirects, no other policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Begins with `/`, and may have a query.
    pub path: String,
    /// Names in lower case; not those that frame a message. At most 100, of 8 KiB each.
    pub fields: Vec<(String, Vec<u8>)>,
    /// At most 1 MiB.
    pub body: Vec<u8>,
}

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// As received, in order; names are lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    /// At most 1 MiB: a longer answer is [`ErrorKind::TooLarge`].
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub kind: ErrorKind,
    /// Names the service and the cause.
    pub message: String,
}

/// What kept an answer from coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Called in another hook than `tick`.
    OnlyInTick,
    /// The policy is not granted `outbound:<service>`.
    Denied,
    /// The request breaks one of the rules; nothing was sent.
    Invalid,
    /// No endpoint, or no connection to it.
    Unavailable,
    /// The endpoint broke off, or does not speak its protocol.
    Broken,
    /// The time was up before the answer was complete.
    Timeout,
    /// The answer is longer than 1 MiB.
    TooLarge,
    /// The node stops, or the policy is being replaced.
    Cancelled,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.into(), path: path.into(), fields: Vec::new(), body: Vec::new() }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", path).body(body)
    }

    /// Adds a field; a name may come several times.
    pub fn field(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it to an endpoint of the service, and waits for the whole answer: at most so long, and never longer than
    /// 10 s. Waiting does not count as CPU time.
    ///
    /// # Errors
    /// Whatever kept the answer from coming, see [`ErrorKind`]. After `Cancelled` a policy should return from `tick`.
    pub fn send(self, service: &str, timeout: Duration) -> Result<Response, Error> {
        let Self { method, path, fields, body } = self;
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        match sys::send(service, &sys::Request { method, path, fields, body }, timeout) {
            Ok(sys::Response { status, fields, body }) => Ok(Response { status, fields, body }),
            Err(sys::Error { kind, message }) => Err(Error { kind: kind_of(kind), message }),
        }
    }
}

impl Response {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, fields: Vec::new(), body: body.into() }
    }

    /// The first value of a field, by its lower-case name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// The body, if it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok()
    }
}

fn kind_of(kind: sys::ErrorKind) -> ErrorKind {
    match kind {
        sys::ErrorKind::OnlyInTick => ErrorKind::OnlyInTick,
        sys::ErrorKind::Denied => ErrorKind::Denied,
        sys::ErrorKind::Invalid => ErrorKind::Invalid,
        sys::ErrorKind::Unavailable => ErrorKind::Unavailable,
        sys::ErrorKind::Broken => ErrorKind::Broken,
        sys::ErrorKind::Timeout => ErrorKind::Timeout,
        sys::ErrorKind::TooLarge => ErrorKind::TooLarge,
        sys::ErrorKind::Cancelled => ErrorKind::Cancelled,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
